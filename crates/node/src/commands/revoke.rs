//! `fula revoke`: revokes wallets, users, tokens and keys, and lists the revocations.

use std::{io::Read, process::ExitCode};

use fula_core::error::io_text;
use fula_identity::{Address, TOKEN_BYTES_MAX, TokenDigest, token_digest};
use fula_service::auth::Revoked;
use serde_json::{Value, json};

use super::{
    admin::{finish, perform},
    text::{text, when},
};
use crate::{
    admin::{self, Request, Sureness},
    cli::{RevokeArgs, RevokeCommand},
};

/// Runs `fula revoke`.
pub(crate) async fn run(args: RevokeArgs) -> ExitCode {
    let mut before_now = false;
    let (revoked, sureness, common) = match args.command {
        RevokeCommand::Wallet { address, issued_before, yes, common } => {
            let wallet = Address::parse(&address).map(|wallet| wallet.to_string());
            let wallet = wallet.ok_or_else(|| "a wallet is 0x and 40 hex digits".to_owned());
            before_now = is_now(issued_before.as_deref());
            let revoked = wallet.and_then(|wallet| of_user(wallet, issued_before.as_deref()));
            // A mistyped wallet is unlikely, because its address has a checksum or is copied.
            (revoked, if yes { Sureness::Certain } else { Sureness::Known }, common)
        }
        RevokeCommand::User { user, jwt, issuer, issued_before, yes, common } => {
            let user = match issuer {
                // This is the form of users of JWTs from a key set (docs/format.md).
                Some(issuer) => format!("{issuer}\0{user}"),
                None if jwt => user,
                None => admin::user_id(&user),
            };
            before_now = is_now(issued_before.as_deref());
            (of_user(user, issued_before.as_deref()), sure_if(yes), common)
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
        Err(text) => Err(text),
    };
    finish(common.json, revoked, |done| {
        let (kind, what) = described(&done["revoked"]);
        println!("revoked {kind} {what}");
    })
}

fn sure_if(yes: bool) -> Sureness {
    if yes { Sureness::Certain } else { Sureness::Unsure }
}

fn show_list(listed: &Value) {
    println!("{:<22} {:<6} WHAT", "REVOKED AT", "KIND");
    for found in listed.as_array().into_iter().flatten() {
        let (kind, what) = described(&found["revoked"]);
        println!("{:<22} {kind:<6} {what}", when(&found["at"]));
    }
}

/// Returns the kind of a revocation and its subject, as text for people.
fn described(revoked: &Value) -> (&str, String) {
    let name = |value: &Value| text(value).replace('\0', " ");
    match revoked.as_object().and_then(|fields| fields.iter().next()) {
        Some((kind, value)) if kind == "issued-before" => {
            let millis = value[1].as_u64().unwrap_or(0).saturating_mul(1000);
            let (user, time) = (name(&value[0]), when(&json!(millis)));
            ("user", format!("{user}: everything issued before {time}"))
        }
        Some((kind, value)) => (kind, name(value)),
        None => ("-", "-".to_owned()),
    }
}

/// Returns whether everything issued before now is revoked. The gateway that answers supplies the time.
fn is_now(issued_before: Option<&str>) -> bool {
    issued_before == Some("now")
}

fn of_user(user: String, issued_before: Option<&str>) -> Result<Revoked, String> {
    let before = match issued_before {
        None => return Ok(Revoked::User(user)),
        Some("now") => 0,
        Some(text) => {
            text.parse().map_err(|_| "--issued-before is seconds since 1970, or now".to_owned())?
        }
    };
    Ok(Revoked::IssuedBefore(user, before))
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
