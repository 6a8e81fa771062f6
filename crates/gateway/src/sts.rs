//! `AssumeRoleWithWebIdentity` of AWS STS (query protocol, version 2011-06-15). With it SDKs exchange a
//! token for temporary keys, and renew these by themselves.

use fula_service::auth::{AuthError, SESSION_LIFE};
use http::{
    Extensions, HeaderMap, HeaderValue, Method, Response, StatusCode, header, request::Parts,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    auth::{AuthLayer, Origin, auth_error},
    xml::escape,
};

/// Largest request in bytes: a token, and names.
pub(crate) const BODY_BYTES_MAX: usize = 32 << 10;

const XMLNS: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

/// Largest number of characters of a parameter's name that an error repeats.
const NAME_SHOWN_MAX: usize = 64;

/// Default life of a session in seconds, as on AWS.
const LIFE: u64 = 3600;

/// Returns whether a request is for STS: a form that is posted to the root.
pub(crate) fn is_sts(parts: &Parts) -> bool {
    let is_form = |headers: &HeaderMap| {
        let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        value.is_some_and(|value| value.starts_with("application/x-www-form-urlencoded"))
    };
    parts.method == Method::POST && parts.uri.path() == "/" && is_form(&parts.headers)
}

/// The parameters of a request.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    pub(crate) action: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) role: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) session_name: Option<String>,
    pub(crate) life: Option<String>,
}

/// The reason why a request is refused: an error code of STS, its status, and a message.
pub(crate) struct Refusal(&'static str, StatusCode, String);

impl Asked {
    /// Parses the parameters of a request. An unsupported parameter is refused, because it might restrict
    /// the session.
    pub(crate) fn parse(query: Option<&str>, body: &[u8]) -> Result<Self, Refusal> {
        let mut asked = Self::default();
        if query.is_some_and(|query| !query.is_empty()) {
            return Err(invalid("Parameters are accepted in the body alone, not in the URL."));
        }
        for (name, value) in form_urlencoded::parse(body) {
            let slot = match name.as_ref() {
                "Action" => &mut asked.action,
                // These two parameters have no effect.
                "Version" => &mut asked.version,
                "RoleArn" => &mut asked.role,
                "WebIdentityToken" => &mut asked.token,
                "RoleSessionName" => &mut asked.session_name,
                "DurationSeconds" => &mut asked.life,
                name => {
                    let name: String = name.chars().take(NAME_SHOWN_MAX).collect();
                    return Err(invalid(&format!(
                        "The parameter {name} is not offered. To restrict a session, get it for a \
                         token with scopes."
                    )));
                }
            };
            if slot.replace(value.into_owned()).is_some() {
                return Err(invalid(&format!("The parameter {name} is there twice.")));
            }
        }
        Ok(asked)
    }

    fn life(&self) -> Result<u64, Refusal> {
        let Some(text) = &self.life else { return Ok(LIFE) };
        let life: Option<u64> = text.parse().ok();
        life.filter(|life| SESSION_LIFE.contains(life)).ok_or_else(|| {
            let (least, most) = (SESSION_LIFE.start(), SESSION_LIFE.end());
            invalid(&format!("DurationSeconds is a number from {least} to {most}."))
        })
    }
}

fn invalid(text: &str) -> Refusal {
    Refusal("ValidationError", StatusCode::BAD_REQUEST, text.to_owned())
}

/// Answers a request for STS.
pub(crate) async fn answer(
    auth_layer: &AuthLayer,
    parts: &Parts,
    body: &[u8],
    request_id: &str,
) -> Response<s3s::Body> {
    let asked = Asked::parse(parts.uri.query(), body);
    let answered = match asked {
        Ok(asked) => exchange(auth_layer, &parts.extensions, asked, request_id).await,
        Err(refusal) => Err(refusal),
    };
    let (status, xml) = match answered {
        Ok(xml) => (StatusCode::OK, xml),
        Err(Refusal(code, status, text)) => {
            let side = if status.is_client_error() { "Sender" } else { "Receiver" };
            let xml = format!(
                "<ErrorResponse xmlns=\"{XMLNS}\"><Error><Type>{side}</Type><Code>{code}</Code>\
                 <Message>{}</Message></Error><RequestId>{request_id}</RequestId></ErrorResponse>",
                escape(&text)
            );
            (status, xml)
        }
    };
    let mut response = Response::new(s3s::Body::from(xml));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/xml"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn exchange(
    auth_layer: &AuthLayer,
    extensions: &Extensions,
    asked: Asked,
    request_id: &str,
) -> Result<String, Refusal> {
    if asked.action.as_deref() != Some("AssumeRoleWithWebIdentity") {
        let text = "The only action offered is AssumeRoleWithWebIdentity.";
        return Err(Refusal("InvalidAction", StatusCode::BAD_REQUEST, text.to_owned()));
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || "_=,.@-".contains(c);
    let name = asked.session_name.as_deref().unwrap_or_default();
    if !(2..=64).contains(&name.len()) || !name.chars().all(is_name) {
        return Err(invalid("RoleSessionName is 2 to 64 letters, digits and _=,.@- characters."));
    }
    let life = asked.life()?;
    // A token from a file often ends with a line break.
    let token = asked.token.as_deref().unwrap_or_default().trim_ascii();
    let inspected = auth_layer.check_private(extensions);
    let verified = match inspected.and_then(|()| auth_layer.authenticator().inspect(token)) {
        Ok(verified) => verified,
        Err(error) => {
            drop(auth_layer.decide(extensions, "web identity", Err(error.clone())));
            return Err(refusal(error));
        }
    };
    let proof = auth_layer.authenticator().proof_of(&verified);
    // This is checked before anything is written for the request.
    auth_layer.decide(extensions, "web identity", Ok(proof)).map_err(|_| {
        let text = "You ask too often.".to_owned();
        Refusal("Throttling", StatusCode::SERVICE_UNAVAILABLE, text)
    })?;
    let begun = auth_layer.authenticator().begin_session(&verified, life).await;
    let session = begun.map_err(refusal)?;
    let (user, key) = (verified.identity.display(), &session.id);
    Origin::of(extensions).begun(&user, key);
    let expires = OffsetDateTime::from_unix_timestamp(i64::try_from(session.expires).unwrap_or(0));
    let expires = expires.ok().and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_default();
    let subject = escape(&verified.identity.display());
    let audience = escape(verified.audience.as_deref().unwrap_or("*"));
    let owner = verified.identity.owner;
    Ok(format!(
        "<AssumeRoleWithWebIdentityResponse xmlns=\"{XMLNS}\"><AssumeRoleWithWebIdentityResult>\
         <SubjectFromWebIdentityToken>{subject}</SubjectFromWebIdentityToken>\
         <Audience>{audience}</Audience>\
         <AssumedRoleUser><AssumedRoleId>{owner}:{name}</AssumedRoleId>\
         <Arn>arn:aws:sts::{owner}:assumed-role/fula/{name}</Arn></AssumedRoleUser>\
         <Credentials><AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey>\
         <SessionToken>{}</SessionToken><Expiration>{expires}</Expiration></Credentials>\
         </AssumeRoleWithWebIdentityResult>\
         <ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata>\
         </AssumeRoleWithWebIdentityResponse>",
        session.id,
        session.secret.expose(),
        session.token.expose(),
    ))
}

/// Maps a refusal to that of STS.
fn refusal(error: AuthError) -> Refusal {
    let text = error.to_string();
    if let AuthError::TooManySessions { .. } = error {
        // No code is used for which SDKs retry, because that would not help before a session ends.
        return Refusal("LimitExceeded", StatusCode::BAD_REQUEST, text);
    }
    let error = auth_error(error);
    let status = error.status_code().unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match error.code().as_str() {
        "ExpiredToken" => Refusal("ExpiredTokenException", StatusCode::BAD_REQUEST, text),
        "InvalidToken" => Refusal("InvalidIdentityToken", StatusCode::BAD_REQUEST, text),
        "AccessDenied" => Refusal("AccessDenied", StatusCode::FORBIDDEN, text),
        // SDKs retry these.
        _ => {
            let text = "The service cannot decide now; try again.".to_owned();
            Refusal("ServiceUnavailable", status, text)
        }
    }
}
