//! Invitations in the arbiter, and the end of a master (docs/adr/0055).

use bytes::Bytes;
use fula_core::metadata::{Table, WriteOutcome};
use serde_json::{Value, json};

use super::Refused;
use crate::{
    cli::{self, Command},
    join::{Given, Role},
    node::Node,
};

/// Value of the record of an invitation that was used.
const USED: &[u8] = b"used";

fn record(id: &str) -> String {
    format!("invitation-{id}")
}

/// Returns what a new machine gets from this gateway. Only its user and root reach the socket, and both can read its
/// secrets anyway.
pub(super) fn given(role: Role, url: Option<&str>) -> Result<Value, Refused> {
    let start = cli::start_of(std::env::args_os()).map_err(|error| Refused(error.to_string()))?;
    match start.command {
        Command::Gateway(_) => Ok(json!(Given::of(role, &start.settings, url).map_err(Refused)?)),
        _ => Err(Refused("a storage node invites nobody: run fula invite on a master".to_owned())),
    }
}

/// Records an invitation, so that it can be used once.
pub(super) async fn invite(node: &Node, id: &str, life_ms: u64) -> Result<Value, Refused> {
    if let Some(recovery) = &node.recovery
        && let Some(alarm) = recovery.status().await?.alarm
    {
        return Err(Refused(format!("the arbiter is in doubt ({alarm}): see fula roots show")));
    }
    let expires = node.roots().get_roots(&[]).await?.time.saturating_add(life_ms);
    let value = Some(Bytes::from(expires.to_string()));
    match node.metadata.write(Table::Modes, &record(id), 0, value).await? {
        WriteOutcome::Done(_) => Ok(json!({"expires_ms": expires})),
        WriteOutcome::Conflict(_) => Err(Refused("there is such an invitation already".to_owned())),
    }
}

/// Checks that an invitation can be used; with `takes`, uses it.
pub(super) async fn use_invitation(node: &Node, id: &str, takes: bool) -> Result<Value, Refused> {
    let name = record(id);
    let entry = node.metadata.read(Table::Modes, &name).await?;
    let Some((version, value)) = entry.and_then(|entry| Some((entry.version, entry.value?))) else {
        return Err(Refused(
            "the arbiter does not know this invitation: ask for another one".to_owned(),
        ));
    };
    let used = || Refused("the invitation was used before: ask for another one".to_owned());
    if value == USED {
        return Err(used());
    }
    let expires: Option<u64> = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
    let now = node.roots().get_roots(&[]).await?.time;
    if expires.is_none_or(|expires| expires < now) {
        return Err(Refused("the invitation has expired: ask for another one".to_owned()));
    }
    if takes {
        let value = Some(Bytes::from_static(USED));
        match node.metadata.write(Table::Modes, &name, version, value).await? {
            WriteOutcome::Done(_) => {}
            WriteOutcome::Conflict(_) => return Err(used()),
        }
    }
    Ok(json!({"used": takes}))
}

/// Says whether this master may leave; with `stops`, begins to stop it as SIGTERM does.
pub(super) async fn leave(node: &Node, stops: bool) -> Result<Value, Refused> {
    let start = cli::start_of(std::env::args_os());
    if start.is_ok_and(|start| matches!(start.command, Command::StorageNode(_))) {
        return Err(Refused(
            "a storage node cannot leave: masters need its blocks, and Fula does not move them to another node"
                .to_owned(),
        ));
    }
    let recovery = node.recovery.as_ref().ok_or_else(|| {
        Refused(
            "this master shares its arbiter with no other one, so it cannot leave: its data directory has all \
             buckets; make a backup with `fula backup create`"
                .to_owned(),
        )
    })?;
    let status = recovery.status().await?;
    if let Some(alarm) = status.alarm {
        return Err(Refused(format!(
            "the arbiter went back in time, and needs what this master remembers ({alarm}): see fula roots show, and \
             leave once it has recovered"
        )));
    }
    if !status.forks.is_empty() {
        return Err(Refused(
            "masters hold different changes of a bucket, and this one may be the only one that has some of them: see \
             fula roots show, and merge them with fula roots merge"
                .to_owned(),
        ));
    }
    if node.has_holds().await? {
        return Err(Refused(
            "a storage node in this data directory holds blocks for masters: they would be lost"
                .to_owned(),
        ));
    }
    let masters = recovery.list_masters().await?;
    let others = masters.iter().filter(|master| master.is_alive && !master.is_self).count();
    if stops {
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM)?;
    }
    Ok(json!({"master": recovery.name(), "others": others, "stopping": stops}))
}
