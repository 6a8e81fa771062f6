//! Members of a vault: who may write, and who admitted them.

use fula_core::cbor::{Invalid, Reader, Writer};

use crate::{
    SealError, VaultId,
    body::metadata::{read_optional_uint, write_optional_uint},
    signature::{DeviceId, PublicKey, SIGNATURE_BYTES, SigningKey},
};

const PURPOSE: &str = "fula 2026 certificate";
/// Most members of a vault, with those that left.
pub(super) const MEMBERS_MAX: usize = 1024;

/// What a member may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It writes files.
    Writer,
    /// It writes files, and changes the keyring.
    Admin,
}

impl Role {
    fn number(self) -> u8 {
        match self {
            Self::Writer => 0,
            Self::Admin => 1,
        }
    }
}

/// A key that may write, or that may have written before it left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Key that signs.
    pub key: PublicKey,
    /// What it may do, until it leaves.
    pub role: Role,
    /// Generation of the keyring that admitted it.
    pub since: u64,
    /// First epoch in which its records do not count, if it has left.
    pub until: Option<u32>,
    /// Position of the member that admitted it, or `None` for the root key.
    issuer: Option<usize>,
    certificate: [u8; SIGNATURE_BYTES],
}

impl Member {
    /// Admits a key. `issuer` is the signing key, and its position if it is a member.
    pub(super) fn admit(
        (vault, root): (VaultId, PublicKey),
        (key, role): (PublicKey, Role),
        since: u64,
        issuer: (&SigningKey, Option<usize>),
    ) -> Self {
        let certificate =
            issuer.0.sign(PURPOSE, &Self::signed(&vault, &root, &key, role, since).parts());
        Self { key, role, since, until: None, issuer: issuer.1, certificate }
    }

    /// Returns the short name of its key.
    pub fn id(&self) -> DeviceId {
        self.key.id()
    }

    /// Returns whether it may change the keyring.
    pub fn is_active_admin(&self) -> bool {
        self.role == Role::Admin && self.until.is_none()
    }

    /// Returns whether its records of an epoch count.
    pub fn writes_in(&self, epoch: u32) -> bool {
        self.until.is_none_or(|until| epoch < until)
    }

    fn signed<'a>(
        vault: &'a VaultId,
        root: &'a PublicKey,
        key: &'a PublicKey,
        role: Role,
        since: u64,
    ) -> Signed<'a> {
        Signed { vault, root, key, role: [role.number()], since: since.to_be_bytes() }
    }

    fn is_certified_by(&self, issuer: PublicKey, vault: VaultId, root: PublicKey) -> bool {
        let signed = Self::signed(&vault, &root, &self.key, self.role, self.since);
        issuer.verifies(PURPOSE, &signed.parts(), &self.certificate)
    }

    fn encode(&self, out: &mut Writer) {
        out.array(6).bytes(&self.key.0).uint(self.role.number().into()).uint(self.since);
        write_optional_uint(out, self.until.map(u64::from));
        write_optional_uint(out, self.issuer.map(|at| at as u64));
        out.bytes(&self.certificate);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Invalid> {
        reader.tuple(6)?;
        let key = PublicKey(reader.array_of()?);
        let role = match reader.uint()? {
            0 => Role::Writer,
            1 => Role::Admin,
            _ => return Err(Invalid("a member has an unknown role")),
        };
        let since = reader.uint()?;
        let until = read_optional_uint(reader)?.map(u32::try_from).transpose();
        let until = until.map_err(|_| Invalid("an epoch is too large"))?;
        let issuer = read_optional_uint(reader)?.map(usize::try_from).transpose();
        let issuer = issuer.map_err(|_| Invalid("a member is admitted by nobody before it"))?;
        Ok(Self { key, role, since, until, issuer, certificate: reader.array_of()? })
    }
}

/// What a certificate signs.
struct Signed<'a> {
    vault: &'a VaultId,
    root: &'a PublicKey,
    key: &'a PublicKey,
    role: [u8; 1],
    since: [u8; 8],
}

impl Signed<'_> {
    fn parts(&self) -> [&[u8]; 5] {
        [&self.vault.0, &self.root.0, &self.key.0, &self.role, &self.since]
    }
}

/// Writes a list of members.
pub(super) fn encode(members: &[Member], out: &mut Writer) {
    out.array(members.len());
    for member in members {
        member.encode(out);
    }
}

/// Reads a list of members. Each is admitted by an earlier one that is an admin, or by the root key in the first
/// generation. Generations do not descend, and no key is in the list twice.
pub(super) fn decode(reader: &mut Reader<'_>, generation: u64) -> Result<Vec<Member>, Invalid> {
    let count = reader.array()?;
    if count > MEMBERS_MAX {
        return Err(Invalid("there are too many members"));
    }
    let (mut members, mut ids) =
        (Vec::<Member>::with_capacity(count), std::collections::HashSet::new());
    for at in 0..count {
        let member = Member::decode(reader)?;
        let admitted = match member.issuer {
            None => member.since == 1,
            Some(issuer) => issuer < at && members[issuer].role == Role::Admin,
        };
        if !admitted {
            return Err(Invalid("a member is admitted by nobody before it"));
        }
        let earliest = members.last().map_or(1, |last| last.since);
        if !(earliest..=generation).contains(&member.since) {
            return Err(Invalid("generations of members descend, or are not there yet"));
        }
        if !ids.insert(member.id()) {
            return Err(Invalid("a member is there twice"));
        }
        members.push(member);
    }
    Ok(members)
}

/// Verifies the certificates of all members.
pub(super) fn verify(members: &[Member], vault: VaultId, root: PublicKey) -> Result<(), SealError> {
    let is_certified = |member: &Member| {
        let issuer = member.issuer.map_or(root, |at| members[at].key);
        member.is_certified_by(issuer, vault, root)
    };
    if members.iter().all(is_certified) {
        return Ok(());
    }
    Err(SealError::NotSigned { what: "a member of the keyring" })
}

/// Returns whether `members` may follow `seen`, which a client accepted in generation `generation`: the list
/// only grew, nobody came back, and the chain of admissions of `signer` leads to an admin of then.
pub(super) fn follow(seen: &[Member], generation: u64, members: &[Member], signer: usize) -> bool {
    let Some((known, added)) = members.split_at_checked(seen.len()) else { return false };
    let is_same = |(then, now): (&Member, &Member)| {
        let ends = match (then.until, now.until) {
            (None, _) => true,
            (Some(then), Some(now)) => now <= then,
            (Some(_), None) => false,
        };
        ends && Member { until: then.until, ..now.clone() } == *then
    };
    if !seen.iter().zip(known).all(is_same) {
        return false;
    }
    if !added.iter().all(|member| member.since > generation) {
        return false;
    }
    let mut at = signer;
    while at >= seen.len() {
        let Some(issuer) = members[at].issuer else { return false };
        at = issuer;
    }
    seen[at].is_active_admin()
}
