//! What can be asked of a gateway over its socket.

use fula_core::root::TimeMs;
use fula_service::auth::Revoked;
use serde::{Deserialize, Serialize};

use crate::{join::Role, state::PinsAction};

/// An administrative request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub(crate) enum Request {
    /// Make an access key.
    KeysCreate {
        /// User name.
        user: String,
        /// Most keys of one user where no gateway runs. It is not sent: a gateway has its own setting.
        #[serde(skip)]
        keys_per_user: Option<usize>,
    },
    /// List access keys.
    KeysList {
        /// The user whose keys are listed; all users if there is none.
        user: Option<String>,
    },
    /// Revoke an access key.
    KeysRevoke {
        /// Access key id.
        id: String,
        /// The user that the key must belong to; any user if there is none.
        user: Option<String>,
    },
    /// Revoke something on every master.
    Revoke {
        /// The credential or user to revoke.
        revoked: Revoked,
        /// How sure the operator is.
        sureness: Sureness,
        /// Whether everything issued before now is revoked, by the clock that credentials are checked with.
        before_now: bool,
    },
    /// List all revocations.
    RevokeList,
    /// List the masters that recoveries wait for.
    MastersList,
    /// Remove a master from that list.
    MastersForget {
        /// The name of the master.
        name: String,
        /// Whether a master that was just seen is removed as well.
        #[serde(default)]
        force: bool,
    },
    /// Show a bucket's history.
    RootsLog {
        /// The name of the bucket.
        bucket: String,
        /// The owner of the bucket; needed if several users have a bucket of that name.
        user: Option<String>,
        /// Most commits to show.
        limit: usize,
    },
    /// Look at everything that the gateway depends on.
    Doctor,
    /// Show what buckets and owners store.
    Usage {
        /// The user whose buckets are shown; all users if there is none.
        user: Option<String>,
    },
    /// Make a bucket with the objects of another one.
    Clone {
        /// The name of the source.
        bucket: String,
        /// The version of the source; the current one if there is none.
        version: Option<u64>,
        /// The name of the new bucket.
        name: String,
        /// The owner of both; needed if several users have a bucket of that name.
        user: Option<String>,
    },
    /// Show pointers and the recovery.
    RootsShow {
        /// The bucket to show; all buckets if there is none.
        bucket: Option<String>,
    },
    /// Show the recovery, or force it.
    RootsHeal {
        /// Whether the recovery continues without masters that do not answer.
        force: bool,
    },
    /// Merge a fork.
    RootsMerge {
        /// The name of the bucket.
        bucket: String,
        /// The owner of the bucket; needed if several users have a bucket of that name.
        user: Option<String>,
        /// Whether the merge is carried out; otherwise it is only described.
        apply: bool,
    },
    /// Show the state of the gateway and its stores.
    Status,
    /// Check the log and all buckets.
    Fsck {
        /// Whether the client wants reports of the progress.
        #[serde(default)]
        progress: bool,
    },
    /// Find the newest readable root of each bucket whose root cannot be read.
    RestoreRoots {
        /// Whether the buckets go back to those roots; otherwise the roots are only listed.
        apply: bool,
    },
    /// Show pins, try again, or check them.
    Pins {
        /// What is to be done.
        action: PinsAction,
        /// The buckets of this name; all if there is none.
        bucket: Option<String>,
    },
    /// Answer with a bucket as a CAR file.
    Export(Export),
    /// Make a bucket of the CAR file that follows.
    Import(Import),
    /// Write a bucket as a CAR file to a file that the command hands over.
    ExportFile(Export),
    /// Make a bucket of a CAR file that the command hands over.
    ImportFile(Import),
    /// List rows of buckets for a backup.
    BackupRows {
        /// Owner id and name of the last bucket that is known.
        after: Option<(String, String)>,
    },
    /// List revocations, and tell which key encrypts the access keys.
    BackupFacts,
    /// List records of access keys.
    BackupKeys {
        /// The last id that is known.
        after: Option<String>,
    },
    /// Put back revocations and access keys that the arbiter lacks.
    PutBack(State),
    /// Tell the settings and secrets that a new machine needs.
    Given {
        /// What the new machine becomes.
        role: Role,
        /// URL at which a storage node reaches this gateway.
        url: Option<String>,
    },
    /// Record an invitation.
    Invite {
        /// Its random id.
        id: String,
        /// Time for which it can be used, in milliseconds.
        life_ms: u64,
    },
    /// Check an invitation.
    UseInvitation {
        /// Its id.
        id: String,
        /// Whether it is used up.
        takes: bool,
    },
    /// Encrypt the secrets of access keys with the last line of the key file.
    Reseal,
    /// Say whether this master may leave.
    Leave {
        /// Whether it stops, if it may.
        stops: bool,
    },
    /// Run a garbage collection, or show how much space is in use.
    Gc {
        /// Whether a collection runs.
        now: bool,
        /// Retention in milliseconds: content replaced within it stays. By default the gateway's setting.
        retention_ms: Option<u64>,
    },
}

/// How sure an operator is of a revocation, which cannot be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Sureness {
    /// The operator confirmed nothing: the revoked credential or user must be known here, and must not be a
    /// user with live keys or buckets.
    Unsure,
    /// The name needs no check: it may be unknown here, but must not be a user with live keys or buckets.
    Known,
    /// The operator confirmed the revocation: nothing is checked.
    Certain,
}

/// A request for a bucket as a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Export {
    /// Name of the bucket.
    pub(crate) bucket: String,
    /// The owner of the bucket; needed if several users have a bucket of that name.
    pub(crate) user: Option<String>,
    /// Version to export; the newest if there is none.
    pub(crate) version: Option<u64>,
    /// Version whose blocks are left out.
    pub(crate) since: Option<u64>,
    /// For a backup: `user` is the id of the owner, and the newest version is exported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) backup: Option<ForBackup>,
}

/// What a backup wants of a bucket.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct ForBackup {
    /// Root whose blocks are left out.
    pub(crate) older: Option<String>,
}

/// A request to make a bucket of a file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Import {
    /// Name of the bucket; that of the file if there is none.
    pub(crate) bucket: Option<String>,
    /// Owner of the bucket; that of the file if there is none.
    pub(crate) user: Option<String>,
    /// Root that the file must have.
    pub(crate) root: Option<String>,
    /// Whether leaves of mapped objects may be missing, because storage nodes hold them.
    #[serde(default)]
    pub(crate) without_mapped: bool,
}

/// The state of an arbiter apart from buckets, or a part of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct State {
    /// Revocations, with the times at which they were made.
    pub(crate) revocations: Vec<(Revoked, TimeMs)>,
    /// Records of access keys by id, sealed as they are stored.
    pub(crate) keys: Vec<(String, String)>,
}
