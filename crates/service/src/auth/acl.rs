//! Access control lists, in buckets whose object ownership lets them count (docs/adr/0061).
//!
//! Pure functions: what a list is, what a request asks for, and what a list allows whom.

mod request;
#[cfg(test)]
mod tests;

use fula_core::OwnerId;

pub use self::request::{AclRequest, Canned};
use super::{
    access::{Action, Property, Setting},
    public_access::PublicAccessBlock,
};
use crate::error::ServiceError;

/// Largest number of grants in a list, as on AWS.
pub const GRANTS_MAX: usize = 100;

/// What a grant allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// Lists a bucket, or reads an object.
    Read,
    /// Writes objects of a bucket. On an object it allows nothing, as on AWS.
    Write,
    /// Reads the list.
    ReadAcp,
    /// Replaces the list.
    WriteAcp,
    /// All of these.
    FullControl,
}

/// Whom a grant is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grantee {
    /// One user, by canonical id.
    Owner(OwnerId),
    /// Everyone, also without a credential.
    Everyone,
    /// Everyone with a credential.
    Authenticated,
    /// The service that delivers logs, which does not exist here.
    LogDelivery,
}

/// One line of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AclGrant {
    /// Whom it is for.
    pub grantee: Grantee,
    /// What it allows.
    pub permission: Permission,
}

/// The list of a bucket or an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acl {
    /// Owner of the bucket or object.
    pub owner: OwnerId,
    /// The grants, in the order in which they were sent.
    pub grants: Vec<AclGrant>,
}

/// The letters of permissions in the stored form.
const PERMISSIONS: [(char, Permission); 5] = [
    ('r', Permission::Read),
    ('w', Permission::Write),
    ('R', Permission::ReadAcp),
    ('W', Permission::WriteAcp),
    ('f', Permission::FullControl),
];

/// The names of groups in the stored form.
const GROUPS: [(&str, Grantee); 3] =
    [("*", Grantee::Everyone), ("+", Grantee::Authenticated), ("log", Grantee::LogDelivery)];

impl AclGrant {
    fn full(owner: OwnerId) -> Self {
        Self { grantee: Grantee::Owner(owner), permission: Permission::FullControl }
    }

    fn to_text(self) -> String {
        let letter = PERMISSIONS.iter().find(|(_, own)| *own == self.permission);
        let group = GROUPS.iter().find(|(_, own)| *own == self.grantee);
        let grantee = match (self.grantee, group) {
            (Grantee::Owner(owner), _) => owner.to_string(),
            (_, group) => group.map_or("", |(name, _)| name).to_owned(),
        };
        format!("{}:{grantee}", letter.map_or('f', |(letter, _)| *letter))
    }

    fn parse(text: &str) -> Option<Self> {
        let (letter, grantee) = text.split_once(':')?;
        let permission = PERMISSIONS.iter().find(|(own, _)| letter == own.to_string())?.1;
        let group = GROUPS.iter().find(|(name, _)| *name == grantee);
        let grantee = match group {
            Some((_, group)) => *group,
            None => Grantee::Owner(grantee.parse().ok()?),
        };
        Some(Self { grantee, permission })
    }
}

impl Acl {
    /// Returns the list that lets only the owner in.
    pub fn private(owner: OwnerId) -> Self {
        Self { owner, grants: vec![AclGrant::full(owner)] }
    }

    /// Returns the stored form: the owner, and each grant as `letter:grantee`.
    pub(crate) fn to_text(&self) -> String {
        let grants = self.grants.iter().map(|grant| grant.to_text());
        std::iter::once(self.owner.to_string()).chain(grants).collect::<Vec<_>>().join(" ")
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let owner = words.next()?.parse().ok()?;
        let grants = words.map(AclGrant::parse).collect::<Option<_>>()?;
        Some(Self { owner, grants })
    }

    /// Returns the list of an object or a bucket of `holder`. Without a text, and with the name of a canned list
    /// that builds without object ownership stored, it lets only the holder in. A list that cannot be read, which
    /// a newer build may have stored, lets nobody in.
    pub(crate) fn of_text(text: Option<&str>, holder: OwnerId) -> Self {
        match text {
            None => Self::private(holder),
            Some(text) if Canned::parse(text).is_some() => Self::private(holder),
            Some(text) => {
                Self::parse(text).unwrap_or_else(|| Self { owner: holder, grants: Vec::new() })
            }
        }
    }

    /// Returns the owner of an object of `holder` with this stored list.
    pub fn owner_of(text: Option<&str>, holder: OwnerId) -> OwnerId {
        let first = text.and_then(|text| text.split(' ').next());
        first.and_then(|owner| owner.parse().ok()).unwrap_or(holder)
    }

    /// Returns whether a grant is for everyone.
    pub fn is_public(&self) -> bool {
        let is_group =
            |grant: &AclGrant| matches!(grant.grantee, Grantee::Everyone | Grantee::Authenticated);
        self.grants.iter().any(is_group)
    }

    /// Returns whether the list allows `who` (`None` is anonymous) something. `as_named` is whether the scopes of
    /// the credential cover the request: if not, only grants for everyone count. `ignores_public` leaves out
    /// the grants for groups.
    fn allows(
        &self,
        who: Option<OwnerId>,
        as_named: bool,
        permission: Permission,
        ignores_public: bool,
    ) -> bool {
        self.grants.iter().any(|grant| {
            let is_in = match grant.grantee {
                Grantee::Owner(owner) => as_named && who == Some(owner),
                Grantee::Everyone => !ignores_public,
                Grantee::Authenticated => as_named && who.is_some() && !ignores_public,
                Grantee::LogDelivery => false,
            };
            is_in && [permission, Permission::FullControl].contains(&grant.permission)
        })
    }
}

/// Who owns objects that others than the owner of the bucket put, and whether lists count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ownership {
    /// The owner of the bucket owns all objects, and lists do not count.
    #[default]
    Enforced,
    /// The owner of the bucket owns objects that are put with `bucket-owner-full-control`.
    Preferred,
    /// The user who puts an object owns it.
    Writer,
    /// The setting was removed, which means the same as [`Self::Writer`].
    Removed,
}

/// Name of the setting that holds the object ownership, as text. Without it, it is [`Ownership::Enforced`].
pub(crate) const OWNERSHIP: &str = "objectOwnership";

/// Name of the setting that holds the list of the bucket, as text.
pub(crate) const BUCKET_ACL: &str = "acl";

impl Ownership {
    /// Returns the name on the wire; `None` for a setting that was removed.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Self::Enforced => Some("BucketOwnerEnforced"),
            Self::Preferred => Some("BucketOwnerPreferred"),
            Self::Writer => Some("ObjectWriter"),
            Self::Removed => None,
        }
    }

    /// Returns the ownership of this name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Enforced, Self::Preferred, Self::Writer]
            .into_iter()
            .find(|own| own.name() == Some(name))
    }

    /// Returns the stored form; `None` if nothing is stored.
    pub(crate) fn to_text(self) -> Option<&'static str> {
        (self != Self::Enforced).then(|| self.name().unwrap_or("removed"))
    }

    pub(crate) fn of_text(text: Option<&str>) -> Self {
        match text {
            None => Self::Enforced,
            Some(text) => Self::parse(text).unwrap_or(Self::Removed),
        }
    }
}

/// What lists say in a bucket where they count.
#[derive(Debug)]
pub(crate) struct BucketAcls {
    pub(crate) ownership: Ownership,
    /// The list of the bucket as it is stored.
    pub(crate) stored: Option<String>,
    pub(crate) block: PublicAccessBlock,
}

impl BucketAcls {
    /// Returns the list of the bucket.
    pub(crate) fn bucket(&self, holder: OwnerId) -> Acl {
        Acl::of_text(self.stored.as_deref(), holder)
    }

    /// Returns the owner of an object that `writer` puts. An anonymous writer owns nothing.
    fn owner_of(
        &self,
        holder: OwnerId,
        writer: Option<OwnerId>,
        asked: Option<&AclRequest>,
    ) -> OwnerId {
        let gives = matches!(asked, Some(AclRequest::Canned(Canned::BucketOwnerFullControl)));
        let is_given = self.ownership == Ownership::Preferred && gives;
        writer.filter(|_| !is_given).unwrap_or(holder)
    }

    /// Returns the list that a request makes for a thing of `owner`.
    ///
    /// # Errors
    /// [`ServiceError::AccessDenied`] for one that the public access block forbids, or of another owner.
    pub(crate) fn resolve(
        &self,
        asked: &AclRequest,
        owner: OwnerId,
        holder: OwnerId,
    ) -> Result<Acl, ServiceError> {
        let acl = asked.resolve(owner, holder)?;
        if self.block.block_acls && acl.is_public() {
            return Err(ServiceError::AccessDenied);
        }
        Ok(acl)
    }

    /// Returns what a list says about an action that no policy decides about, in a bucket of `holder`. `object` is
    /// the list of the object that the action is about, if there is one.
    pub(super) fn allows(&self, asked: &AclAsked<'_>) -> bool {
        let AclAsked { who, granted, action, holder, object } = *asked;
        let ignores_public = self.block.ignore_acls;
        let bucket = |permission| {
            let is_own = granted && who == Some(holder);
            is_own || self.bucket(holder).allows(who, granted, permission, ignores_public)
        };
        let is_own = |acl: &Acl| granted && who == Some(acl.owner);
        match (subject_of(action), object) {
            (Subject::Bucket(permission), _) => bucket(permission),
            // A caller that may list the bucket may know that an object is absent.
            (Subject::Object(Permission::Read), None) => bucket(Permission::Read),
            (Subject::Object(permission), Some(acl)) => {
                let is_about_list =
                    [Permission::ReadAcp, Permission::WriteAcp].contains(&permission);
                acl.allows(who, granted, permission, ignores_public) || is_about_list && is_own(acl)
            }
            // An object that others may write is deleted by its owner and by that of the bucket.
            (Subject::Deleted, Some(acl)) => {
                granted && who == Some(holder) || is_own(acl) && bucket(Permission::Write)
            }
            (Subject::Owned, Some(acl)) => is_own(acl),
            (Subject::Object(_) | Subject::Deleted | Subject::Owned, None) | (Subject::Rest, _) => {
                granted && who == Some(holder)
            }
        }
    }
}

/// A request that lists decide about.
#[derive(Clone, Copy, Debug)]
pub(super) struct AclAsked<'a> {
    /// Owner id of the caller; `None` is anonymous.
    pub(super) who: Option<OwnerId>,
    /// Whether the scopes of the caller's credential cover the request.
    pub(super) granted: bool,
    pub(super) action: Action,
    /// Owner of the bucket.
    pub(super) holder: OwnerId,
    pub(super) object: Option<&'a Acl>,
}

/// What an action needs of which list.
enum Subject {
    Bucket(Permission),
    Object(Permission),
    /// The removal of an object.
    Deleted,
    /// What only the owner of an object may do.
    Owned,
    /// What only the owner of the bucket may do.
    Rest,
}

/// Returns what an action needs, by the table of AWS.
fn subject_of(action: Action) -> Subject {
    match action {
        Action::HeadBucket
        | Action::GetLocation
        | Action::ListObjects
        | Action::ListVersions
        | Action::ListUploads => Subject::Bucket(Permission::Read),
        // A caller that may overwrite objects may end uploads, too.
        Action::PutObject | Action::AbortUpload | Action::ListParts => {
            Subject::Bucket(Permission::Write)
        }
        Action::GetSetting(Setting::Acl) => Subject::Bucket(Permission::ReadAcp),
        Action::PutSetting(Setting::Acl) => Subject::Bucket(Permission::WriteAcp),
        Action::GetObject | Action::GetVersion | Action::GetProperty(Property::Attributes, _) => {
            Subject::Object(Permission::Read)
        }
        Action::GetProperty(Property::Acl, _) => Subject::Object(Permission::ReadAcp),
        Action::PutProperty(Property::Acl, _) => Subject::Object(Permission::WriteAcp),
        Action::DeleteObject | Action::DeleteVersion => Subject::Deleted,
        Action::GetProperty(Property::Tags, _)
        | Action::PutProperty(Property::Tags | Property::Attributes, _)
        | Action::DeleteTags(_) => Subject::Owned,
        Action::CreateBucket
        | Action::DeleteBucket
        | Action::GetPolicy
        | Action::GetPolicyStatus
        | Action::PutPolicy
        | Action::DeletePolicy
        | Action::GetSetting(_)
        | Action::PutSetting(_)
        | Action::ExportBucket
        | Action::ReadProof => Subject::Rest,
    }
}

/// Returns the stored list of a new bucket of `owner`; `None` if only the owner is let in.
///
/// # Errors
/// [`ServiceError::BucketAclInUse`] for a list that lets others in, where lists do not count.
pub(crate) fn bucket_acl_text(
    ownership: Ownership,
    owner: OwnerId,
    asked: Option<&AclRequest>,
) -> Result<Option<String>, ServiceError> {
    let Some(asked) = asked else { return Ok(None) };
    if ownership == Ownership::Enforced {
        let checked = asked.check_enforced(owner);
        return checked.map(|()| None).map_err(|error| match error {
            ServiceError::AclsNotSupported => ServiceError::BucketAclInUse,
            error => error,
        });
    }
    let acl = asked.resolve(owner, owner)?;
    Ok((acl != Acl::private(owner)).then(|| acl.to_text()))
}

/// Returns whether the owner of an object, who need not be that of the bucket, decides about an action.
pub(super) fn is_up_to_owner(action: Action) -> bool {
    matches!(subject_of(action), Subject::Object(_) | Subject::Owned)
}

/// Returns whether lists can decide about an action only with that of the object.
pub(crate) fn needs_object(action: Action) -> bool {
    matches!(subject_of(action), Subject::Object(_) | Subject::Owned | Subject::Deleted)
}

/// Returns the stored list of an object that `writer` puts into a bucket of `holder`; `None` if only the holder is
/// let in.
///
/// # Errors
/// [`ServiceError::AclsNotSupported`] where lists do not count, unless it lets only owners in;
/// [`ServiceError::AccessDenied`] for one that the public access block forbids.
pub(crate) fn object_acl(
    acls: Option<&BucketAcls>,
    holder: OwnerId,
    writer: Option<OwnerId>,
    asked: Option<&AclRequest>,
) -> Result<Option<String>, ServiceError> {
    let Some(acls) = acls else {
        let is_fine = asked.is_none_or(|asked| asked.is_for_owners(holder, writer));
        return if is_fine { Ok(None) } else { Err(ServiceError::AclsNotSupported) };
    };
    let owner = acls.owner_of(holder, writer, asked);
    let asked = asked.unwrap_or(&AclRequest::Canned(Canned::Private));
    let acl = acls.resolve(asked, owner, holder)?;
    Ok((acl != Acl::private(holder)).then(|| acl.to_text()))
}
