//! Headers of the answers.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::asked::{Asked, CarForm, Form, RAW, Scope};

/// How long an answer may be cached: a CID always means the same bytes.
const CACHE: &str = "public, max-age=29030400, immutable";

/// Lets scripts of every site read the answers, as gateways of IPFS do.
pub(super) fn allow_all_origins(headers: &mut HeaderMap) {
    for (name, value) in [
        ("access-control-allow-origin", "*"),
        ("access-control-allow-methods", "GET, HEAD, OPTIONS"),
        ("access-control-allow-headers", "Content-Type, Range, User-Agent, X-Requested-With"),
        (
            "access-control-expose-headers",
            "Content-Length, Content-Location, Content-Range, Etag, X-Ipfs-Path, X-Ipfs-Roots",
        ),
    ] {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
}

/// Returns the entity tag of the answer.
pub(super) fn etag(asked: &Asked) -> String {
    let cid = &asked.text;
    let form = match asked.form {
        Form::Raw => return format!("\"{cid}.raw\""),
        Form::Car(form) => form,
    };
    let CarForm { scope, bytes, is_any_order, dups } = form;
    let asked = format!("{bytes:?} {is_any_order} {dups:?}");
    let hash = &digest_of(&asked)[..16];
    let scope = match scope {
        None => "",
        Some(Scope::Block) => "block.",
        Some(Scope::Entity) => "entity.",
        Some(Scope::All) => "all.",
    };
    format!("W/\"{scope}{cid}.car.{hash}\"")
}

fn digest_of(text: &str) -> String {
    use sha2::{Digest, Sha256};
    hex::encode(Sha256::digest(text))
}

/// Returns whether one of the entity tags in `If-None-Match` is this one. The comparison is weak.
pub(super) fn is_cached(headers: &HeaderMap, etag: &str) -> bool {
    let bare = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let values = headers.get_all(header::IF_NONE_MATCH).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(|tag| tag.trim() == "*" || bare(tag) == bare(etag)))
}

/// Returns the headers that every answer about existing content has.
pub(super) fn headers(asked: &Asked, etag: &str, content_type: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut set = |name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    set("content-type", content_type);
    set("etag", etag);
    set("cache-control", CACHE);
    set("content-disposition", &disposition(asked));
    set("x-content-type-options", "nosniff");
    set("x-ipfs-path", &asked.path);
    set("x-ipfs-roots", &asked.text);
    set("vary", "Accept");
    if let Some(location) = &asked.location {
        set("content-location", location);
    }
    headers
}

/// Returns the media type of a block.
pub(super) fn raw_type() -> &'static str {
    RAW
}

/// Names the file that a browser saves. Nothing is shown in a browser.
fn disposition(asked: &Asked) -> String {
    let extension = if asked.form == Form::Raw { "bin" } else { "car" };
    let name = asked.filename.clone().unwrap_or_else(|| format!("{}.{extension}", asked.text));
    let plain: String = name
        .chars()
        .map(|c| if c.is_ascii() && !c.is_ascii_control() && !"\"\\".contains(c) { c } else { '_' })
        .collect();
    let mut encoded = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}")
}
