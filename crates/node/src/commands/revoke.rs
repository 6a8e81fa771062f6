//! `fula revoke`: revokes wallets, users, tokens and keys, and lists the revocations.

use std::{io::Read, process::ExitCode};

use fula_core::error::io_text;
use fula_identity::{TOKEN_BYTES_MAX, TokenDigest, token_digest};
use fula_service::auth::Revoked;
use serde_json::Value;

use super::{
    Failure,
    admin::{finish, perform},
    text::{text, when},
};
use crate::{
    admin::{Request, Sureness},
    cli::{IssuedBefore, RevokeArgs, RevokeCommand},
    output::say,
    user::user_id,
};

/// Runs `fula revoke`.
pub(crate) async fn run(args: RevokeArgs) -> ExitCode {
    let mut before_now = false;
    let (revoked, sureness, common) = match args.command {
        RevokeCommand::Wallet { address, issued_before, yes, common } => {
            before_now = issued_before == Some(IssuedBefore::Now);
            let revoked = Ok(of_user(address.to_string(), issued_before));
            // A mistyped wallet is unlikely, because its address has a checksum or is copied.
            (revoked, if yes { Sureness::Certain } else { Sureness::Known }, common)
        }
        RevokeCommand::User { user, jwt, issuer, issued_before, yes, common } => {
            let user = match issuer {
                // This is the form of users of JWTs from a key set (docs/format.md).
                Some(issuer) => format!("{issuer}\0{user}"),
                None if jwt => user,
                None => user_id(&user),
            };
            before_now = issued_before == Some(IssuedBefore::Now);
            (Ok(of_user(user, issued_before)), sure_if(yes), common)
        }
        RevokeCommand::Token { token, common } => (read_token(&token), Sureness::Certain, common),
        RevokeCommand::Key { id, yes, common } => (Ok(Revoked::Key(id)), sure_if(yes), common),
        RevokeCommand::List { common } => {
            let listed = perform(&common, Request::RevokeList).await;
            return finish(common.json, listed, show_list);
        }
    };
    let revoked = match revoked {
        Ok(revoked) => perform(&common, Request::Revoke { revoked, sureness, before_now }).await,
        Err(text) => Err(Failure::from(text)),
    };
    finish(common.json, revoked, |done| {
        let (kind, what) = described(&done["revoked"]);
        let already = if done["already"] == true { "already " } else { "" };
        say!("{already}revoked {kind} {what}");
    })
}

fn sure_if(yes: bool) -> Sureness {
    if yes { Sureness::Certain } else { Sureness::Unsure }
}

fn show_list(listed: &Value) {
    say!("{:<22} {:<6} WHAT", "REVOKED AT", "KIND");
    for found in listed.as_array().into_iter().flatten() {
        let (kind, what) = described(&found["revoked"]);
        say!("{:<22} {kind:<6} {what}", when(&found["at_ms"]));
    }
}

/// Returns the kind of a revocation and its subject, as text for people.
fn described(revoked: &Value) -> (&str, String) {
    let name = |value: &Value| text(value).replace('\0', " ");
    match revoked.as_object().and_then(|fields| fields.iter().next()) {
        Some((kind, value)) if kind == "issued-before" => {
            let millis = value["before_s"].as_u64().unwrap_or(0).saturating_mul(1000);
            let (user, time) = (name(&value["user"]), when(&millis.into()));
            ("user", format!("{user}: everything issued before {time}"))
        }
        Some((kind, value)) => (kind, name(value)),
        None => ("-", "-".to_owned()),
    }
}

fn of_user(user: String, issued_before: Option<IssuedBefore>) -> Revoked {
    match issued_before {
        None => Revoked::User(user),
        // The gateway that answers supplies the time.
        Some(IssuedBefore::Now) => Revoked::IssuedBefore(user, 0),
        Some(IssuedBefore::Seconds(before)) => Revoked::IssuedBefore(user, before),
    }
}

fn read_token(text: &str) -> Result<Revoked, String> {
    let mut token = text.to_owned();
    if text == "-" {
        token.clear();
        let read = std::io::stdin().take(TOKEN_BYTES_MAX as u64 + 2).read_to_string(&mut token);
        read.map_err(|error| {
            format!("cannot read the token from standard input: {}", io_text(&error))
        })?;
    }
    let token = token.trim();
    let digest = match TokenDigest::parse(token) {
        Some(digest) => digest,
        None => token_digest(token).map_err(|error| error.to_string())?,
    };
    Ok(Revoked::Token(digest.to_string()))
}
