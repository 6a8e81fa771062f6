//! What is looked at before a machine joins.

use std::{collections::BTreeMap, fs, net::TcpListener, path::Path, sync::Arc, time::Duration};

use fula_core::error::io_text;
use fula_service::{Limits, error::chain};
use serde_json::{Value, json};

use super::{super::text::text, write::Plan};
use crate::{
    admin::{self, Answer, Request, Step},
    cli::{CasMode, DataDirArgs, SharedArgs, VERSION},
    config::{Backends, PeerAddress},
    files::{self, DataDir, ScratchDir},
    join::{Invitation, Role},
    node::{Node, Purpose},
    output::say,
};

/// Free space in bytes below which a gateway refuses to start, and from which on nothing is said.
const SPACE_MIN: u64 = 32 << 20;
const SPACE_GOOD: u64 = 1 << 30;

/// Longest wait for an answer of another machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<Value>);

impl Findings {
    fn note(&mut self, name: &str, state: &str, text: String) {
        self.0.push(json!({"name": name, "state": state, "text": text}));
    }

    pub(super) fn is_well(&self) -> bool {
        self.0.iter().all(|check| check["state"] != "problem")
    }

    pub(super) fn json(&self) -> Value {
        json!(self.0)
    }

    pub(super) fn show(&self) {
        for check in &self.0 {
            let (state, name) = (text(&check["state"]), text(&check["name"]));
            say!("{state:<8} {name:<9} {}", text(&check["text"]));
        }
    }
}

/// Looks at this machine: nothing that is there may be in the way.
pub(super) fn machine(invitation: &Invitation, plan: &Plan) -> Findings {
    let mut found = Findings::default();
    if invitation.version == VERSION {
        found.note("version", "ok", format!("{VERSION}, as the master that invites"));
    } else {
        let theirs = &invitation.version;
        let text = format!(
            "this is {VERSION}, and the master that invites runs {theirs}: use the same, or finish the upgrade soon"
        );
        found.note("version", "warning", text);
    }
    for file in plan.in_the_way() {
        let text = format!(
            "{} is there already and says something else: move it away, or choose another --config-dir",
            file.display()
        );
        found.note("settings", "problem", text);
    }
    data_dir(&mut found, plan.data_dir());
    listeners(&mut found, plan);
    for dir in ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"] {
        let unit = Path::new(dir).join(plan.unit_name());
        if unit.exists() && fs::canonicalize(&unit).ok() != fs::canonicalize(plan.unit()).ok() {
            let text = format!(
                "{} is installed: it stays as it is, and the new one takes its place only once you link it",
                unit.display()
            );
            found.note("service", "warning", text);
            break;
        }
    }
    found
}

/// Looks at the addresses that the new process listens on.
fn listeners(found: &mut Findings, plan: &Plan) {
    let [listen, admin] = plan.listeners();
    for address in [listen, admin] {
        if let Err(error) = TcpListener::bind(address) {
            let why = io_text(&error);
            let text =
                format!("cannot listen on {address} now: {why}; --set chooses another address");
            found.note("listen", "warning", text);
        }
    }
    if listen.ip().is_loopback() {
        let port = listen.port();
        let variable = plan.listen_variable();
        let text = format!(
            "{listen} serves this machine alone; --set {variable}=:{port} serves others, too"
        );
        found.note("listen", "warning", text);
    } else {
        found.note("listen", "ok", format!("{listen} for clients, {admin} for health and metrics"));
    }
}

fn data_dir(found: &mut Findings, dir: &Path) {
    let shown = dir.display();
    match files::look_at(dir) {
        Ok(DataDir::Missing | DataDir::Empty) => {
            found.note("data", "ok", format!("{shown} is new or empty"));
        }
        Ok(DataDir::Used | DataDir::Begun) => {
            let text = format!(
                "{shown} is the data directory of a gateway or a storage node, which stays as it is: choose another \
                 --data-dir"
            );
            found.note("data", "problem", text);
        }
        Ok(DataDir::Foreign(name)) => {
            let text =
                format!("{shown} holds {name}, which is not of Fula: choose another --data-dir");
            found.note("data", "problem", text);
        }
        Err(error) => found.note("data", "problem", error.to_string()),
    }
    let Some(existing) = dir.ancestors().find(|dir| dir.exists()) else { return };
    match rustix::fs::statvfs(existing) {
        Ok(room) => {
            let free = room.f_bavail.saturating_mul(room.f_frsize);
            let text = format!("{} MiB are free at {}", free >> 20, existing.display());
            let state = match free {
                ..SPACE_MIN => "problem",
                SPACE_MIN..SPACE_GOOD => "warning",
                _ => "ok",
            };
            found.note("disk", state, text);
        }
        Err(error) => {
            found.note(
                "disk",
                "problem",
                format!("{}: {}", existing.display(), io_text(&error.into())),
            );
        }
    }
}

/// The stores that the invitation names, opened for a look.
pub(super) struct Stores {
    node: Arc<Node>,
    _scratch: ScratchDir,
}

impl Stores {
    /// Asks for something, as the socket of a gateway does.
    pub(super) async fn ask(&self, request: Request) -> Result<Value, String> {
        let mut work = admin::begin(&self.node, request);
        loop {
            match work.next().await {
                Step::Report(_) => {}
                Step::Done(Answer::Ok(value)) => return Ok(value),
                Step::Done(Answer::Error(text)) => return Err(text),
                Step::Done(_) => return Err("the answer is incomplete".to_owned()),
            }
        }
    }

    /// Opens the stores that settings and secret files name, without a data directory.
    ///
    /// # Errors
    /// The reason, in words for the operator.
    pub(super) async fn open(
        settings: &BTreeMap<String, String>,
        files: &BTreeMap<String, String>,
    ) -> Result<Self, String> {
        let scratch = ScratchDir::make(&fula_service::system_random());
        let scratch = scratch.map_err(|error| chain(&error))?;
        let file = |name: &str| -> Result<Option<std::path::PathBuf>, String> {
            let Some(content) = files.get(name) else { return Ok(None) };
            let path = scratch.path().with_extension(name);
            files::write_new(&path, content).map_err(|error| chain(&error))?;
            Ok(Some(path))
        };
        let (key, credentials) = (file("secrets.key")?, file("blocks-credentials")?);
        let shared = SharedArgs {
            database_url: files.get("database-url").map(|url| url.trim().to_owned()),
            blocks: settings.get("FULA_BLOCKS").cloned(),
            blocks_credentials_file: credentials.clone(),
            ..SharedArgs::default()
        };
        let data = DataDirArgs { data_dir: Some(scratch.path().to_owned()) };
        let backends = Backends::check(&data, shared, key.clone(), CasMode::Auto);
        let opened = match backends.map_err(|error| chain(&error)) {
            Ok(mut backends) => {
                backends.is_scratch = true;
                let node = Node::open(&backends, Limits::default(), Purpose::Administer, false);
                node.await.map_err(|error| chain(&error))
            }
            Err(why) => Err(why),
        };
        for file in [key, credentials].into_iter().flatten() {
            drop(fs::remove_file(file));
        }
        opened.map(|node| Self { node: Arc::new(node), _scratch: scratch })
    }

    /// Uses the invitation.
    pub(super) async fn take(&self, invitation: &Invitation) -> Result<(), String> {
        let id = invitation.id.clone();
        self.ask(Request::UseInvitation { id, takes: true }).await.map(drop)
    }
}

/// Opens the stores that the invitation names: rights in the database, the sealing key, the common settings and the
/// name of the block store are checked by that. Then looks at clocks and masters as `fula doctor` does.
pub(super) async fn stores(found: &mut Findings, invitation: &Invitation) -> Option<Stores> {
    let stores = match Stores::open(&invitation.settings, &invitation.files).await {
        Ok(stores) => stores,
        Err(why) => {
            found.note("arbiter", "problem", why);
            return None;
        }
    };
    match stores.ask(Request::Doctor).await {
        Ok(page) => found.0.extend(page["checks"].as_array().cloned().unwrap_or_default()),
        Err(why) => found.note("arbiter", "problem", why),
    }
    let id = invitation.id.clone();
    match stores.ask(Request::UseInvitation { id, takes: false }).await {
        Ok(_) => found.note("invite", "ok", "it was not used before".to_owned()),
        Err(why) => found.note("invite", "problem", why),
    }
    Some(stores)
}

/// Asks the machines that the settings name whether they answer.
pub(super) async fn peers(found: &mut Findings, role: Role, invitation: &Invitation) {
    let (variable, path, name) = match role {
        Role::Master => ("FULA_STORAGE_NODES", "health", "nodes"),
        Role::Storage => ("FULA_MASTERS", "fula/capabilities", "masters"),
    };
    let Some(list) = invitation.settings.get(variable) else { return };
    let peers = match PeerAddress::parse_list(variable, list) {
        Ok(peers) => peers,
        Err(error) => return found.note(name, "problem", chain(&error)),
    };
    let client = reqwest::Client::builder().timeout(PATIENCE).build();
    let Ok(client) = client else { return };
    for peer in peers {
        let mut url = peer.url.clone();
        url.set_path(path);
        match client.get(url).send().await {
            Ok(answer) if answer.status().is_success() => {
                found.note(name, "ok", format!("{} answers at {}", peer.name, peer.url));
            }
            Ok(answer) => {
                let text = format!("{} at {} answers {}", peer.name, peer.url, answer.status());
                found.note(name, "warning", text);
            }
            Err(error) => {
                let why = chain(&error.without_url());
                // A master serves without its storage nodes; a storage node is nothing without its masters.
                let state = if role == Role::Master { "warning" } else { "problem" };
                found.note(
                    name,
                    state,
                    format!("{} does not answer at {}: {why}", peer.name, peer.url),
                );
            }
        }
    }
}
