//! `fula gc`, `fula keys`, `fula masters` and `fula roots`, and the way of every command to the gateway.

use std::{process::ExitCode, sync::Arc, time::Duration};

use fula_service::Limits;
use serde_json::{Value, json};

use super::{
    Failure,
    text::{ago, bytes, text, when},
};
use crate::{
    admin::{self, Answer, Request, Step},
    cli::{
        AdminArgs, CasMode, GcArgs, ImportArgs, KeysArgs, KeysCommand, MastersArgs, MastersCommand,
        RootsArgs, RootsCommand, Time,
    },
    config::Backends,
    files::{self, DataDir},
    node::{Node, Purpose},
    output::{note, say},
};

/// Time after which a command prints what it waits for.
const SLOW: Duration = Duration::from_secs(3);

/// Carries out a request. A running gateway does it if there is one; otherwise this process opens the data
/// directory itself.
///
/// # Errors
/// The reason why the request failed, in words for the operator.
pub(super) async fn perform(args: &AdminArgs, request: Request) -> Result<Value, Failure> {
    perform_within(args, request, Limits::default()).await
}

/// Carries out a request as `perform` does. `limits` are those that hold if no gateway runs.
async fn perform_within(
    args: &AdminArgs,
    request: Request,
    limits: Limits,
) -> Result<Value, Failure> {
    let key_file = args.secrets_key_file.clone();
    let backends = Backends::check(&args.data, args.shared.clone(), key_file, CasMode::Auto);
    let mut backends = backends?;
    let dir = backends.data_dir.clone();
    let scratch = scratch_for(&mut backends, &request)?;
    let report = |text: &str| note!("fula: {text}");
    let answer = if let Some(answer) = admin::ask(&dir, &request, report).await {
        answer?
    } else {
        // These requests report damage, so damage must not stop them.
        let despite_damage = matches!(
            request,
            Request::Fsck { .. } | Request::RestoreRoots { .. } | Request::Status | Request::Doctor
        );
        let opening = Node::open(&backends, limits, Purpose::Administer, despite_damage);
        let node = say_if_slow(opening, &backends).await;
        let node = node.map_err(|error| fula_service::error::chain(&error))?;
        let mut work = admin::begin(&Arc::new(node), request);
        loop {
            match work.next().await {
                Step::Report(text) => report(&text),
                Step::Done(answer) => break answer,
            }
        }
    };
    drop(scratch);
    match answer {
        Answer::Ok(value) => Ok(value),
        Answer::Error(text) => Err(text.into()),
        _ => Err("the gateway's answer is incomplete".to_owned().into()),
    }
}

/// Waits for the end of `opening`, and prints what the command waits for if that takes long.
pub(super) async fn say_if_slow<T>(opening: impl Future<Output = T>, backends: &Backends) -> T {
    let mut opening = std::pin::pin!(opening);
    tokio::select! {
        opened = &mut opening => return opened,
        () = tokio::time::sleep(SLOW) => {}
    }
    if backends.shared.is_some() {
        let arbiter = backends.arbiter_name();
        note!("fula: waiting for the arbiter, {arbiter}, for up to 30 s");
    }
    opening.await
}

/// Makes a temporary data directory for a command on a shared arbiter if the data directory of a gateway is
/// missing: everything that the command needs is in the database. Fails if the command needs one.
pub(super) fn scratch_for(
    backends: &mut Backends,
    request: &Request,
) -> Result<Option<files::ScratchDir>, String> {
    let dir = &backends.data_dir;
    let may_begin = matches!(request, Request::KeysCreate { .. } | Request::Import(_));
    let what = match files::look_at(dir).map_err(|error| error.to_string())? {
        DataDir::Used => return Ok(None),
        DataDir::Missing => format!("there is no data directory {}", dir.display()),
        // An operator may make keys before the first start, and bring buckets back.
        DataDir::Empty | DataDir::Begun if backends.shared.is_none() && may_begin => {
            return Ok(None);
        }
        DataDir::Empty | DataDir::Begun | DataDir::Foreign(_) => {
            format!("no gateway was ever started on the data directory {}", dir.display())
        }
    };
    if backends.shared.is_none() {
        return Err(format!(
            "{what}; name that of a gateway with --data-dir or FULA_DATA_DIR, or name the database that \
             masters share with FULA_DATABASE_URL"
        ));
    }
    if matches!(request, Request::Gc { .. }) {
        return Err(format!(
            "{what}, and fula gc works on the log in it; name it with --data-dir or FULA_DATA_DIR"
        ));
    }
    let made = files::ScratchDir::make(&fula_service::system_random());
    let made = made.map_err(|error| error.to_string())?;
    made.path().clone_into(&mut backends.data_dir);
    backends.is_scratch = true;
    Ok(Some(made))
}

/// Runs `fula gc`.
pub(crate) async fn gc(args: GcArgs) -> ExitCode {
    let millis = |time: Time| u64::try_from(time.0.as_millis()).unwrap_or(u64::MAX);
    let retention_ms = args.retention.map(millis);
    let mut limits = Limits::default();
    limits.retention = args.usual_retention.map_or(limits.retention, |time| time.0);
    limits.retained_max = args.usual_retention_bytes.unwrap_or(limits.retained_max);
    let request = Request::Gc { now: args.now, retention_ms };
    let result = perform_within(&args.common, request, limits).await;
    let show = if args.now { show_collected } else { show_outlook };
    finish(args.common.json, result, show)
}

const NOT_COLLECTED: &str = "with FULA_BUCKET_ROOT_CAS=off, masters overwrite each other's updates, and what they need is not known";

/// Prints what a collection did.
fn show_collected(done: &Value) {
    let found = &done["collection"];
    if found.is_null() {
        say!("Nothing was collected: {NOT_COLLECTED}.");
    } else {
        if found["missing"].as_u64().is_some_and(|missing| missing > 0) {
            say!(
                "{} blocks in use are not in the block store: storage nodes hold them, or `fula fsck` names them",
                found["missing"]
            );
        }
        say!(
            "{} blocks of {} deleted, {} in use{}",
            found["deleted_blocks"],
            bytes(&found["deleted_bytes"]),
            found["marked_blocks"],
            if found["held_back"] == true {
                "; writes in flight held some back, try again later"
            } else {
                ""
            }
        );
    }
    if let Some(dropped) = done["dropped_buckets"].as_u64().filter(|dropped| *dropped > 0) {
        say!("{dropped} deleted buckets dropped");
    }
    let number = |field: &str| done[field].as_u64().unwrap_or(0);
    let in_use = number("live_bytes") + number("retained_bytes");
    say!("{} of log, {} in use", bytes(&done["log_bytes"]), bytes(&json!(in_use)));
    show_retained(done, found["released_ms"].as_array().map(Vec::as_slice));
}

/// Prints the sizes of the parts of the log.
fn show_outlook(found: &Value) {
    let row = |name: &str, field: &str, what: &str| {
        say!("{name:<12}{:>11}  {what}", bytes(&found[field]));
    };
    row("log", "log_bytes", "in all");
    row("live", "live_bytes", "buckets as they are now");
    let kept_for = found["retention_ms"].as_u64().map(Duration::from_millis);
    let within = kept_for.map_or_else(
        || "replaced or deleted within the retention".to_owned(),
        |time| format!("replaced or deleted within the last {}", humantime::format_duration(time)),
    );
    row("retained", "retained_bytes", &within);
    if let Some(why) = found["unknown"].as_str() {
        say!("How much is retained or can be collected is not known: {why}.");
    } else {
        row(
            "collectable",
            "collectable_bytes",
            "not needed by any bucket: the next collection deletes it",
        );
    }
    row("dead", "dead_bytes", "not in use: most is freed when segments of the log are rewritten");
    if let Some(failure) = found["failure"].as_str() {
        say!("The last collection deleted nothing: {failure}.");
    }
    show_retained(found, found["released_ms"].as_array().map(Vec::as_slice));
}

/// Prints the times at which retained bytes can be collected, if there are any.
fn show_retained(found: &Value, released: Option<&[Value]>) {
    if let Some([first, last]) = released {
        say!(
            "{} wait for the retention: the first until {}, the last until {}",
            bytes(&found["retained_bytes"]),
            when(first),
            when(last)
        );
    }
}

/// Prints a result as JSON or with `show`, or prints the error. Returns the exit status.
pub(super) fn finish(
    json: bool,
    result: Result<Value, Failure>,
    show: impl FnOnce(&Value),
) -> ExitCode {
    match result {
        Ok(value) if json => say!("{value:#}"),
        Ok(value) => show(&value),
        Err(failure) => return failure.report(),
    }
    ExitCode::SUCCESS
}

/// Runs `fula keys`.
pub(crate) async fn keys(args: KeysArgs) -> ExitCode {
    match args.command {
        KeysCommand::Create { user, keys_per_user, common } => {
            let keys_per_user = keys_per_user.map(|max| usize::try_from(max).unwrap_or(usize::MAX));
            let made = perform(&common, Request::KeysCreate { user, keys_per_user }).await;
            finish(common.json, made, |key| {
                say!("aws_access_key_id = {}", text(&key["id"]));
                say!("aws_secret_access_key = {}", text(&key["secret"]));
                note!("Made for {}. The secret is not shown again.", text(&key["user"]));
            })
        }
        KeysCommand::List { user, common } => {
            let keys = perform(&common, Request::KeysList { user }).await;
            finish(common.json, keys, show_keys)
        }
        KeysCommand::Revoke { id, user, common } => {
            let revoked = perform(&common, Request::KeysRevoke { id, user }).await;
            finish(common.json, revoked, |key| {
                let already = if key["already"] == true { "already " } else { "" };
                say!("{already}revoked {}", text(&key["revoked"]));
            })
        }
    }
}

fn show_keys(keys: &Value) {
    let row = |id: &str, user: &str, created: &str, state: &str, made_on: &str| {
        say!("{id:<24} {user:<24} {created:<21} {state:<8} {made_on}");
    };
    row("ACCESS KEY ID", "USER", "CREATED", "STATE", "MADE ON");
    for key in keys.as_array().into_iter().flatten() {
        let state = if key["revoked"] == true { "revoked" } else { "live" };
        let time = &key["created_ms"];
        let created = if time.is_null() { "-".to_owned() } else { when(time) };
        row(text(&key["id"]), text(&key["user"]), &created, state, text(&key["made_on"]));
    }
}

/// Runs `fula masters`.
pub(crate) async fn masters(args: MastersArgs) -> ExitCode {
    match args.command {
        MastersCommand::List { common } => {
            let masters = perform(&common, Request::MastersList).await;
            finish(common.json, masters, show_masters)
        }
        MastersCommand::Forget { name, force, common } => {
            let forgotten = perform(&common, Request::MastersForget { name, force }).await;
            finish(common.json, forgotten, |it| say!("forgot {}", text(&it["forgotten"])))
        }
    }
}

fn show_masters(masters: &Value) {
    let row = |name: &str, host: &str, address: &str, version: &str, seen: &str| {
        say!("{name:<18}{host:<24} {address:<22} {version:<10} {seen}");
    };
    row("NAME", "HOST", "ADDRESS", "VERSION", "LAST SEEN");
    for master in masters.as_array().into_iter().flatten() {
        let field = |name: &str| text(&master[name]);
        let this = if master["is_self"] == true { "  (this one)" } else { "" };
        let seen = if master["seen_ms"].is_null() {
            "never".to_owned()
        } else {
            format!("{}  {}{this}", when(&master["seen_ms"]), ago(&master["age_ms"]))
        };
        row(field("name"), field("host"), field("address"), field("version"), &seen);
    }
}

/// Runs `fula roots`.
pub(crate) async fn roots(args: RootsArgs) -> ExitCode {
    match args.command {
        RootsCommand::Show { bucket, common } => {
            let shown = perform(&common, Request::RootsShow { bucket }).await;
            finish(common.json, shown, |shown| {
                show_rows(&shown["buckets"]);
                show_recovery(&shown["recovery"]);
            })
        }
        RootsCommand::Heal { force, common } => {
            let healed = perform(&common, Request::RootsHeal { force }).await;
            let is_in_doubt = healed.as_ref().is_ok_and(|status| status["alarm"].is_string());
            let shown = finish(common.json, healed, show_recovery);
            if is_in_doubt { ExitCode::FAILURE } else { shown }
        }
        RootsCommand::Merge { bucket, user, apply, common } => {
            let merged = perform(&common, Request::RootsMerge { bucket, user, apply }).await;
            finish(common.json, merged, |merged| {
                let sides: Vec<String> = merged["sides"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(Value::to_string)
                    .collect();
                let base =
                    merged["base"].as_u64().map_or("none".to_owned(), |base| base.to_string());
                say!("sides at versions {}; newest common version {base}", sides.join(" and "));
                for key in merged["taken"].as_array().into_iter().flatten() {
                    say!("taken  {}", key.as_str().unwrap_or("-"));
                }
                for both in merged["both"].as_array().into_iter().flatten() {
                    let kept = both[1].as_str().unwrap_or("a deletion, not kept");
                    say!("both   {}  older: {kept}", both[0].as_str().unwrap_or("-"));
                }
                if !apply {
                    say!("nothing was changed; run again with --apply");
                }
            })
        }
        RootsCommand::Import(args) => import(args).await,
        RootsCommand::Log { bucket, user, limit, common } => {
            let log = perform(&common, Request::RootsLog { bucket, user, limit }).await;
            finish(common.json, log, show_commits)
        }
    }
}

/// Prints root pointers, one line a bucket.
fn show_rows(rows: &Value) {
    let line = |fields: [&str; 7]| {
        let [version, root, owner, user, public, name, bucket] = fields;
        // The columns of root and owner are as wide as a CID and an owner id.
        say!("{version:>8}  {root:<59}  {owner:<32}  {user:<16}  {public:<6}  {name:<6}  {bucket}");
    };
    line(["VERSION", "ROOT", "OWNER", "USER", "PUBLIC", "NAME", "BUCKET"]);
    for row in rows.as_array().into_iter().flatten() {
        let field = |name: &str| text(&row[name]);
        let gone = if row["deleted_ms"].is_null() { "" } else { "  (deleted)" };
        let public = match row["public"].as_bool() {
            _ if !row["deleted_ms"].is_null() => "-",
            Some(true) => "yes",
            Some(false) => "no",
            None => "?",
        };
        // Who names the bucket without its owner reaches it only if it holds the name.
        let name = match (row["global_name"] == true, public) {
            (true, _) => "held",
            (false, "yes") => "taken",
            (false, _) => "-",
        };
        let (version, bucket) = (row["version"].to_string(), format!("{}{gone}", field("bucket")));
        line([&version, field("root"), field("owner"), field("user"), public, name, &bucket]);
    }
}

/// Prints the commits of a bucket.
fn show_commits(commits: &Value) {
    say!("{:>8}  {:<20}  {:>10}  {:>16}  ROOT", "VERSION", "TIME", "OBJECTS", "BYTES");
    for commit in commits.as_array().into_iter().flatten() {
        let number = |field: &str| commit[field].as_u64().unwrap_or(0);
        let gone = if commit["deleted"] == true { "  (deleted)" } else { "" };
        say!(
            "{:>8}  {:<20}  {:>10}  {:>16}  {}{gone}",
            number("version"),
            when(&commit["time_ms"]),
            number("objects"),
            number("bytes"),
            text(&commit["root"]),
        );
    }
}

/// Runs `fula roots import`. The exit status is 1 if a bucket was not imported.
async fn import(args: ImportArgs) -> ExitCode {
    let imported = super::import::run(&args).await;
    let is_left_out = |report: &Value| report["taken"] != json!([]);
    let is_whole = !imported.as_ref().is_ok_and(is_left_out);
    let shown = finish(args.json, imported, |report| {
        for (what, names) in report.as_object().into_iter().flatten() {
            let what = what.replace('_', " ");
            for name in names.as_array().into_iter().flatten() {
                say!("{what:<11} {}", name.as_str().unwrap_or("-"));
            }
        }
    });
    if is_whole { shown } else { ExitCode::FAILURE }
}

/// Prints the state of a recovery. Prints nothing for an embedded arbiter.
fn show_recovery(status: &Value) {
    if status.is_null() {
        return;
    }
    match status["alarm"].as_str() {
        Some(reason) => say!("nothing is written: {reason}"),
        None => say!("the arbiter is trusted"),
    }
    for (master, posted) in status["masters"].as_object().into_iter().flatten() {
        let said = if *posted == true { "has said what it remembers" } else { "is waited for" };
        if status["alarm"].is_string() {
            say!("  master {master} {said}");
        }
    }
    for bucket in status["healed"].as_array().into_iter().flatten() {
        say!("  healed {}", bucket.as_str().unwrap_or("-"));
    }
    for (bucket, claims) in status["forks"].as_object().into_iter().flatten() {
        let versions: Vec<String> = claims
            .as_array()
            .into_iter()
            .flatten()
            .map(|claim| format!("version {} with root {}", claim["version"], text(&claim["root"])))
            .collect();
        let name = bucket.rsplit('/').next().unwrap_or(bucket);
        say!(
            "  bucket {bucket} is quarantined, because masters hold different changes of it: {}",
            versions.join("; ")
        );
        say!("  look at what fula roots merge {name} would do, then run it with --apply");
    }
}
