//! Access control lists that requests ask for: canned ones, and grants.

use fula_core::OwnerId;

use super::{Acl, AclGrant, Grantee, Permission};
use crate::error::ServiceError;

/// A canned list of AWS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is named as on AWS")]
pub enum Canned {
    Private,
    BucketOwnerFullControl,
    BucketOwnerRead,
    PublicRead,
    PublicReadWrite,
    AuthenticatedRead,
    AwsExecRead,
    LogDeliveryWrite,
}

const CANNED: [(&str, Canned); 8] = [
    ("private", Canned::Private),
    ("bucket-owner-full-control", Canned::BucketOwnerFullControl),
    ("bucket-owner-read", Canned::BucketOwnerRead),
    ("public-read", Canned::PublicRead),
    ("public-read-write", Canned::PublicReadWrite),
    ("authenticated-read", Canned::AuthenticatedRead),
    ("aws-exec-read", Canned::AwsExecRead),
    ("log-delivery-write", Canned::LogDeliveryWrite),
];

impl Canned {
    /// Returns the canned list of a name.
    pub fn parse(name: &str) -> Option<Self> {
        CANNED.iter().find(|(own, _)| *own == name).map(|(_, canned)| *canned)
    }

    fn grants(self, holder: OwnerId) -> Vec<AclGrant> {
        let grant = |grantee, permission| AclGrant { grantee, permission };
        match self {
            // There is no service that reads machine images.
            Self::Private | Self::AwsExecRead => Vec::new(),
            Self::BucketOwnerFullControl => vec![AclGrant::full(holder)],
            Self::BucketOwnerRead => vec![grant(Grantee::Owner(holder), Permission::Read)],
            Self::PublicRead => vec![grant(Grantee::Everyone, Permission::Read)],
            Self::PublicReadWrite => vec![
                grant(Grantee::Everyone, Permission::Read),
                grant(Grantee::Everyone, Permission::Write),
            ],
            Self::AuthenticatedRead => vec![grant(Grantee::Authenticated, Permission::Read)],
            Self::LogDeliveryWrite => vec![
                grant(Grantee::LogDelivery, Permission::Write),
                grant(Grantee::LogDelivery, Permission::ReadAcp),
            ],
        }
    }
}

/// A list that a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AclRequest {
    /// By the name of a canned one.
    Canned(Canned),
    /// Grant by grant. `owner` is who the request says the owner is.
    Grants {
        /// The owner, if the request names it.
        owner: Option<OwnerId>,
        /// The grants.
        grants: Vec<AclGrant>,
    },
}

impl AclRequest {
    /// Returns the list that it makes for a thing of `owner` in a bucket of `holder`.
    ///
    /// # Errors
    /// [`ServiceError::AccessDenied`] if the request names another owner, which nobody can change.
    pub(super) fn resolve(&self, owner: OwnerId, holder: OwnerId) -> Result<Acl, ServiceError> {
        let grants = match self {
            Self::Canned(canned) => {
                let more = canned.grants(holder).into_iter();
                let own = AclGrant::full(owner);
                let is_new = |grant: &AclGrant| grant.grantee != own.grantee;
                std::iter::once(own).chain(more.filter(is_new)).collect()
            }
            Self::Grants { owner: Some(named), .. } if *named != owner => {
                return Err(ServiceError::AccessDenied);
            }
            Self::Grants { grants, .. } => grants.clone(),
        };
        Ok(Acl { owner, grants })
    }

    /// Checks a list for a thing of `owner` where lists do not count: it must let in the owner, and nobody else.
    ///
    /// # Errors
    /// [`ServiceError::AclsNotSupported`]; [`ServiceError::AccessDenied`] if it names another owner.
    pub(crate) fn check_enforced(&self, owner: OwnerId) -> Result<(), ServiceError> {
        let acl = self.resolve(owner, owner)?;
        let is_full = acl.grants.contains(&AclGrant::full(owner));
        let is_fine = is_full && self.is_for_owners(owner, None);
        if is_fine { Ok(()) } else { Err(ServiceError::AclsNotSupported) }
    }

    /// Returns whether it lets in nobody but the owner of the bucket and the caller who puts the object.
    pub(super) fn is_for_owners(&self, holder: OwnerId, caller: Option<OwnerId>) -> bool {
        match self {
            Self::Canned(canned) => matches!(
                canned,
                Canned::Private | Canned::BucketOwnerFullControl | Canned::BucketOwnerRead
            ),
            Self::Grants { grants, .. } => grants.iter().all(|grant| match grant.grantee {
                Grantee::Owner(owner) => owner == holder || Some(owner) == caller,
                _ => false,
            }),
        }
    }
}
