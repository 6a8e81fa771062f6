//! Which settings all masters of an arbiter share. Each setting says so where it is declared, by the heading that it
//! has in `--help`. The table in docs/operations.md and `fula invite` follow it.

use std::collections::{BTreeMap, BTreeSet};

use clap::Arg;

use super::command;

/// Heading of the settings that are the same on all masters of an arbiter: `fula invite` gives them to a new one.
pub(crate) const SHARED: &str = "Settings that all masters share";

/// Heading of the settings that each machine has for itself.
pub(crate) const OWN: &str = "Settings of this machine";

/// Settings that name secrets. An invitation has the secrets themselves in their place.
const SECRETS: [&str; 5] = [
    "FULA_DATABASE_URL",
    "FULA_DATABASE_URL_FILE",
    "FULA_SECRETS_KEY_FILE",
    "FULA_BLOCKS_CREDENTIALS_FILE",
    "FULA_JWT_SECRET_FILE",
];

/// Returns whether a setting is declared as one that all masters share.
pub(super) fn is_shared(arg: &Arg) -> bool {
    arg.get_help_heading() == Some(SHARED)
}

/// Returns the shared settings of the role `gateway` or `storage-node` that an invitation names.
fn shared_of(role: &str) -> BTreeSet<String> {
    let mut all = command();
    let declared = all.find_subcommand_mut(role).into_iter();
    let declared =
        declared.flat_map(|command| command.get_arguments()).filter(|arg| is_shared(arg));
    let names = declared.filter_map(|arg| Some(arg.get_env()?.to_string_lossy().into_owned()));
    names.filter(|name| !SECRETS.contains(&name.as_str())).collect()
}

/// Returns the settings that an invitation gives to a new master.
pub(crate) fn given_to_masters() -> BTreeSet<String> {
    shared_of("gateway")
}

/// Returns the settings that an invitation gives to a new storage node: those that it shares with masters.
pub(crate) fn given_to_nodes() -> BTreeSet<String> {
    shared_of("gateway").intersection(&shared_of("storage-node")).cloned().collect()
}

/// Returns the settings that each machine of a role has for itself.
pub(crate) fn own_of(role: &str) -> BTreeSet<String> {
    let mut all = command();
    let declared = all.find_subcommand_mut(role).into_iter();
    let declared = declared.flat_map(|command| command.get_arguments());
    let own = declared.filter(|arg| !is_shared(arg));
    own.filter_map(|arg| Some(arg.get_env()?.to_string_lossy().into_owned())).collect()
}

/// Returns the flag of each setting of a role, by the name of its variable.
pub(crate) fn flags_of(role: &str) -> BTreeMap<String, String> {
    let mut all = command();
    let declared = all.find_subcommand_mut(role).into_iter();
    let declared = declared.flat_map(|command| command.get_arguments());
    let flag = |arg: &Arg| {
        let name = arg.get_env()?.to_string_lossy().into_owned();
        Some((name, format!("--{}", arg.get_long()?)))
    };
    declared.filter_map(flag).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_says_whether_masters_share_it() {
        let mut count = 0;
        for role in ["gateway", "storage-node"] {
            let mut all = command();
            for arg in all.find_subcommand_mut(role).unwrap().get_arguments() {
                let Some(name) = arg.get_env() else { continue };
                let heading = arg.get_help_heading();
                let is_said = [SHARED, OWN].map(Some).contains(&heading);
                assert!(is_said, "{name:?} of {role} needs help_heading = SHARED or OWN");
                count += 1;
            }
        }
        assert!(count > 90, "{count}");
    }

    #[test]
    fn an_invitation_names_no_file_of_the_machine_that_invites() {
        let mut all = command();
        let gateway = all.find_subcommand_mut("gateway").unwrap();
        for arg in gateway.get_arguments().filter(|arg| is_shared(arg)) {
            let names_file = arg.get_value_names().is_some_and(|names| names[0] == "FILE");
            let name = arg.get_env().unwrap().to_str().unwrap();
            assert!(
                !names_file || SECRETS.contains(&name),
                "the invitation would name the file of {name}"
            );
        }
        let of_masters = given_to_masters();
        for name in ["FULA_BLOCKS", "FULA_RETENTION", "FULA_JWKS_KEEP", "FULA_RATE_PER_USER"] {
            assert!(of_masters.contains(name), "{name}");
        }
        assert!(SECRETS.iter().all(|name| !of_masters.contains(*name)));
        assert!(!of_masters.contains("FULA_LISTEN") && own_of("gateway").contains("FULA_LISTEN"));
        let of_nodes = given_to_nodes();
        assert!(of_nodes.contains("FULA_WALLETS") && !of_nodes.contains("FULA_REGION"));
        assert!(
            !of_nodes.contains("FULA_MASTERS") && own_of("storage-node").contains("FULA_MASTERS")
        );
    }
}
