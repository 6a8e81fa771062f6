//! What a request asks for: a block or a CAR file, in which form, and which part of the content.

use std::cmp::Ordering;

use fula_core::AnyCid;
use http::{HeaderMap, StatusCode, Uri, header};

use super::{entity::EntityBytes, refused::Refused};
use crate::request::query_value;

/// Prefix of the routes.
const ROUTE: &str = "/ipfs/";

/// Media type of a block.
pub(super) const RAW: &str = "application/vnd.ipld.raw";

/// Media type of a CAR file.
pub(super) const CAR: &str = "application/vnd.ipld.car";

/// Largest number of media types that are read in `Accept`.
const ACCEPTED_MAX: usize = 32;

/// The part of the content that a CAR file has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Scope {
    /// The root block.
    Block,
    /// The file. Content here has nothing below a file, so this is everything.
    Entity,
    /// Everything.
    #[default]
    All,
}

/// The form of a CAR file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CarForm {
    /// The scope that the request names.
    pub(super) scope: Option<Scope>,
    /// The bytes of the file whose blocks are wanted.
    pub(super) bytes: Option<EntityBytes>,
    /// Whether the client asked for any order, which is named like that in the answer.
    pub(super) is_any_order: bool,
    /// Whether a block that occurs several times is sent each time.
    pub(super) dups: Option<bool>,
}

/// The form of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// One block.
    Raw,
    /// A CAR file.
    Car(CarForm),
}

/// What a request asks for.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) cid: AnyCid,
    /// The CID in its standard text form.
    pub(super) text: String,
    /// Path as it was sent.
    pub(super) path: String,
    /// Whether the path goes on behind the CID.
    pub(super) has_more: bool,
    pub(super) form: Form,
    /// Name that the client wants for the file.
    pub(super) filename: Option<String>,
    /// Where the same answer is without `Accept`, if that decided on the form.
    pub(super) location: Option<String>,
}

fn bad(text: &str) -> Refused {
    Refused::new(StatusCode::BAD_REQUEST, text)
}

impl Asked {
    /// Reads a request.
    ///
    /// # Errors
    /// The refusal: 404 for another route, 400 for a malformed request, and 406 for a form that is not served.
    pub(super) fn of(uri: &Uri, headers: &HeaderMap) -> Result<Self, Refused> {
        let path = uri.path();
        let Some(rest) = path.strip_prefix(ROUTE) else {
            let text = "there is no such route; blocks are at /ipfs/CID";
            return Err(Refused::new(StatusCode::NOT_FOUND, text));
        };
        let (cid, more) = rest.split_once('/').unwrap_or((rest, ""));
        let parsed: AnyCid = cid.parse().map_err(|_| bad("the path has no valid CID"))?;
        let text = match &parsed {
            AnyCid::Known(known) => known.to_string(),
            AnyCid::Identity { text, .. } => text.clone(),
            AnyCid::Other => cid.to_owned(),
        };
        let accepted = accepted(headers);
        let by_format = match query_value(uri, "format").as_deref() {
            None => None,
            Some("raw") => Some(RAW),
            Some("car") => Some(CAR),
            Some(_) => {
                let text = "the formats here are raw and car";
                return Err(Refused::new(StatusCode::NOT_ACCEPTABLE, text));
            }
        };
        let kind = match (by_format, accepted.first()) {
            (Some(kind), _) => kind,
            (None, Some(accepted)) => accepted.kind,
            (None, None) => return Err(no_form(headers)),
        };
        let form = if kind == RAW {
            Form::Raw
        } else {
            let accepted = accepted.iter().find(|accepted| accepted.kind == CAR);
            Form::Car(car_form(uri, accepted)?)
        };
        let has_more = !more.is_empty();
        if form == Form::Raw && has_more {
            return Err(bad("a block has no path behind its CID; ask for a CAR file"));
        }
        let format = if form == Form::Raw { "raw" } else { "car" };
        let location = by_format.is_none().then(|| with_format(uri, format));
        let filename = query_value(uri, "filename").filter(|name| !name.is_empty());
        Ok(Self { cid: parsed, text, path: path.to_owned(), has_more, form, filename, location })
    }
}

/// Returns path and query with the format added.
fn with_format(uri: &Uri, format: &str) -> String {
    match uri.query().filter(|query| !query.is_empty()) {
        Some(query) => format!("{}?{query}&format={format}", uri.path()),
        None => format!("{}?format={format}", uri.path()),
    }
}

/// Returns the refusal of a request that asks for no form that is served.
fn no_form(headers: &HeaderMap) -> Refused {
    let has_other = headers.get_all(header::ACCEPT).iter().any(|value| {
        let text = value.to_str().unwrap_or_default();
        text.split(',').any(|kind| !kind.trim().starts_with("*/*") && !kind.trim().is_empty())
    });
    if has_other {
        let text = format!("only {RAW} and {CAR} are served, which a client can verify");
        return Refused::new(StatusCode::NOT_ACCEPTABLE, &text);
    }
    bad(&format!("say what you want: ?format=raw or ?format=car, or {RAW} or {CAR} in Accept"))
}

/// A media type that a client accepts and that is served.
struct Accepted {
    kind: &'static str,
    parameters: Vec<(String, String)>,
    /// Preference, from 0 to 1.
    q: f32,
}

/// Returns the media types of `Accept` that are served, the preferred one first. A CAR file in a form that is
/// not served comes last, so that it is refused if there is nothing else.
fn accepted(headers: &HeaderMap) -> Vec<Accepted> {
    let values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let kinds = values.flat_map(|value| value.split(',')).take(ACCEPTED_MAX);
    let mut found: Vec<Accepted> = kinds.filter_map(parse_kind).collect();
    // The sort is stable: of equal ones the first counts.
    found.sort_by(|a, b| {
        let served = |accepted: &Accepted| form_of(accepted).is_ok();
        served(b).cmp(&served(a)).then(b.q.partial_cmp(&a.q).unwrap_or(Ordering::Equal))
    });
    found
}

fn parse_kind(text: &str) -> Option<Accepted> {
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next()?.to_ascii_lowercase();
    let kind = [RAW, CAR].into_iter().find(|kind| *kind == name)?;
    let parameters: Vec<(String, String)> = parts
        .filter_map(|part| part.split_once('='))
        .map(|(name, value)| {
            (name.trim().to_ascii_lowercase(), value.trim().trim_matches('"').to_ascii_lowercase())
        })
        .collect();
    let q = parameters.iter().find(|(name, _)| name == "q");
    let q = q.map_or(1.0, |(_, q)| q.parse().unwrap_or(0.0));
    (q > 0.0).then_some(Accepted { kind, parameters, q })
}

/// Returns the form of a CAR file that the parameters of a media type name.
fn form_of(accepted: &Accepted) -> Result<CarForm, Refused> {
    let mut form = CarForm::default();
    for (name, value) in &accepted.parameters {
        apply(&mut form, name, value)?;
    }
    Ok(form)
}

/// Applies `version`, `order` or `dups`.
fn apply(form: &mut CarForm, name: &str, value: &str) -> Result<(), Refused> {
    match (name, value) {
        ("version", "1") | ("order", "dfs") => Ok(()),
        ("order", "unk") => {
            form.is_any_order = true;
            Ok(())
        }
        ("dups", "y" | "n") => {
            form.dups = Some(value == "y");
            Ok(())
        }
        ("version", _) => Err(bad("CAR files have version 1 here")),
        ("order", _) => Err(bad("the orders of CAR files are dfs and unk")),
        ("dups", _) => Err(bad("dups is y or n")),
        _ => Ok(()),
    }
}

fn car_form(uri: &Uri, accepted: Option<&Accepted>) -> Result<CarForm, Refused> {
    let mut form = accepted.map(form_of).transpose()?.unwrap_or_default();
    for name in ["version", "order", "dups"] {
        if let Some(value) = query_value(uri, &format!("car-{name}")) {
            if name == "order" {
                form.is_any_order = false;
            }
            apply(&mut form, name, &value)?;
        }
    }
    form.scope = match query_value(uri, "dag-scope").as_deref() {
        None => None,
        Some("block") => Some(Scope::Block),
        Some("entity") => Some(Scope::Entity),
        Some("all") => Some(Scope::All),
        Some(_) => return Err(bad("dag-scope is block, entity or all")),
    };
    if let Some(text) = query_value(uri, "entity-bytes") {
        let bytes = EntityBytes::parse(&text);
        let text = "entity-bytes is FROM:TO, with numbers and TO as * for the end";
        form.bytes = Some(bytes.ok_or_else(|| bad(text))?);
    }
    Ok(form)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const CID: &str = "bafkr4ihkr4ld3m4gqkjf4reryxsy2s5tkbxprqkow6fin2iiyvreuzzab4";

    fn asked(target: &str, accept: Option<&str>) -> Result<Form, StatusCode> {
        let uri = format!("/ipfs/{CID}{target}").parse().unwrap();
        let accept = accept.map(|accept| (header::ACCEPT, HeaderValue::from_str(accept).unwrap()));
        let asked = Asked::of(&uri, &accept.into_iter().collect());
        asked.map(|asked| asked.form).map_err(|refused| refused.status)
    }

    #[test]
    fn the_form_comes_from_the_query_or_the_preferred_media_type() {
        let car = |dups| Ok(Form::Car(CarForm { dups, ..CarForm::default() }));
        for (target, accept, expected) in [
            ("?format=raw", None, Ok(Form::Raw)),
            ("?format=raw", Some("application/vnd.ipld.car"), Ok(Form::Raw)),
            ("?format=car", Some("application/vnd.ipld.raw"), car(None)),
            ("?format=car", Some("application/vnd.ipld.car;dups=y"), car(Some(true))),
            ("?format=car&car-dups=n", Some("application/vnd.ipld.car;dups=y"), car(Some(false))),
            ("", Some("text/html, application/vnd.ipld.raw;q=0.5"), Ok(Form::Raw)),
            ("", Some("application/vnd.ipld.raw;q=0.5,application/vnd.ipld.car"), car(None)),
            (
                "",
                Some(
                    "application/vnd.ipld.car;order=foo, application/vnd.ipld.car;order=dfs;dups=y;q=0.5",
                ),
                car(Some(true)),
            ),
            ("", Some("application/vnd.ipld.car;version=2"), Err(StatusCode::BAD_REQUEST)),
            ("?format=car&car-version=2", None, Err(StatusCode::BAD_REQUEST)),
            ("?format=car&car-order=bogus", None, Err(StatusCode::BAD_REQUEST)),
            ("?format=car&dag-scope=bogus", None, Err(StatusCode::BAD_REQUEST)),
            ("?format=car&entity-bytes=5:1", None, Err(StatusCode::BAD_REQUEST)),
            ("?format=tar", None, Err(StatusCode::NOT_ACCEPTABLE)),
            ("", Some("text/html"), Err(StatusCode::NOT_ACCEPTABLE)),
            ("", Some("*/*"), Err(StatusCode::BAD_REQUEST)),
            ("", None, Err(StatusCode::BAD_REQUEST)),
            ("/more?format=raw", None, Err(StatusCode::BAD_REQUEST)),
            ("/more?format=car", None, car(None)),
        ] {
            assert_eq!(asked(target, accept), expected, "{target} {accept:?}");
        }
    }
}
