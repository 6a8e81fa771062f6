//! The credential of a signature of version 4: access key id, day, region and service.

use s3s::S3Result;

use super::{
    Rules, SCHEME,
    fault::{Place, header_malformed, shown, unsupported},
};
use crate::date::parse_basic;

/// A parsed credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    pub(super) access_key: String,
    /// Day in the form `yyyymmdd`.
    pub(super) date: String,
    pub(super) region: String,
    pub(super) service: String,
}

impl Scope {
    /// Parses `<access key id>/yyyymmdd/<region>/s3/aws4_request`.
    ///
    /// # Errors
    /// The error of AWS for a credential that is wrong.
    pub(super) fn parse(text: &str, place: Place, rules: &Rules) -> S3Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let [access_key, date, region, service, terminal] = parts.as_slice() else {
            return Err(place.fault(
                "the Credential is mal-formed; expecting \
                 \"<YOUR-AKID>/YYYYMMDD/REGION/SERVICE/aws4_request\".",
            ));
        };
        if parse_basic(&format!("{date}T000000Z")).is_none() {
            return Err(place.fault(&format!(
                "incorrect date format \"{}\". This date in the credential must be in the format \
                 \"yyyyMMdd\".",
                shown(date)
            )));
        }
        if let Some(expected) = rules.region.as_ref().filter(|expected| *expected != region) {
            return Err(place.region(region, expected));
        }
        if *service != "s3" {
            let service = shown(service);
            return Err(place.fault(&format!(
                "incorrect service \"{service}\". This endpoint belongs to \"s3\"."
            )));
        }
        if *terminal != "aws4_request" {
            let terminal = shown(terminal);
            return Err(place.fault(&format!(
                "incorrect terminal \"{terminal}\". This endpoint uses \"aws4_request\"."
            )));
        }
        let owned = |text: &&str| (*text).to_owned();
        Ok(Self {
            access_key: owned(access_key),
            date: owned(date),
            region: owned(region),
            service: owned(service),
        })
    }

    /// Refuses a credential for another day than that of the request.
    pub(super) fn check_day(&self, date: &str, place: Place) -> S3Result<()> {
        if date.get(..8) == Some(self.date.as_str()) {
            return Ok(());
        }
        Err(place.fault(&format!(
            "Invalid credential date \"{}\". This date is not the same as X-Amz-Date: \"{}\".",
            self.date,
            shown(date)
        )))
    }
}

/// The three components of an `Authorization` header.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Components<'a> {
    pub(super) credential: &'a str,
    pub(super) signed_headers: &'a str,
    pub(super) signature: &'a str,
}

impl<'a> Components<'a> {
    /// Parses the value of an `Authorization` header.
    ///
    /// # Errors
    /// 400 `InvalidRequest` for another scheme, `AuthorizationHeaderMalformed` for other errors.
    pub(super) fn parse(text: &'a str) -> S3Result<Self> {
        let text = text.trim();
        let (scheme, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        if scheme != SCHEME {
            return Err(unsupported());
        }
        let (mut credential, mut signed_headers, mut signature) = (None, None, None);
        for component in rest.split(',').map(str::trim).filter(|component| !component.is_empty()) {
            let malformed = || {
                let text = shown(component);
                header_malformed(&format!("the authorization component \"{text}\" is malformed."))
            };
            let (name, value) = component.split_once('=').ok_or_else(malformed)?;
            let slot = match name {
                "Credential" => &mut credential,
                "SignedHeaders" => &mut signed_headers,
                "Signature" => &mut signature,
                _ => return Err(malformed()),
            };
            if value.is_empty() || slot.replace(value).is_some() {
                return Err(malformed());
            }
        }
        match (credential, signed_headers, signature) {
            (Some(credential), Some(signed_headers), Some(signature)) => {
                Ok(Self { credential, signed_headers, signature })
            }
            _ => Err(header_malformed(
                "the authorization header requires three components: Credential, SignedHeaders, and \
                 Signature.",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANY: Rules = Rules { region: None, presigned_v2: true };

    fn code(error: &s3s::S3Error) -> &str {
        error.code().as_str()
    }

    #[test]
    fn any_region_is_read() {
        for region in ["us-east-1", "US", "RegionOne", "us_east_1", "", "eu west"] {
            let text = format!("a.b-c/20260131/{region}/s3/aws4_request");
            let scope = Scope::parse(&text, Place::Header, &ANY).unwrap();
            assert_eq!((scope.access_key.as_str(), scope.region.as_str()), ("a.b-c", region));
        }
        let strict = Rules { region: Some("eu-1".to_owned()), ..ANY };
        assert!(Scope::parse("a/20260131/eu-1/s3/aws4_request", Place::Header, &strict).is_ok());
        for place in [Place::Header, Place::Query] {
            let error = Scope::parse("a/20260131/US/s3/aws4_request", place, &strict).unwrap_err();
            let text = error.message().unwrap();
            assert!(text.contains("the region 'US' is wrong; expecting 'eu-1'"), "{text}");
            let detail = error.headers().unwrap().get(crate::error::DETAIL_HEADER).unwrap();
            assert_eq!(detail, "<Region>eu-1</Region>");
        }
    }

    #[test]
    fn faults_of_a_credential_are_told_apart() {
        for (text, expected) in [
            ("", "mal-formed; expecting"),
            ("a/20260131/us-east-1/s3", "mal-formed; expecting"),
            ("a/b/20260131/us-east-1/s3/aws4_request", "mal-formed; expecting"),
            ("a/2026-01-31/r/s3/aws4_request", "incorrect date format \"2026-01-31\""),
            ("a/20260231/r/s3/aws4_request", "incorrect date format \"20260231\""),
            (
                "a/20260131/r/sts/aws4_request",
                "incorrect service \"sts\". This endpoint belongs to \"s3\"",
            ),
            (
                "a/20260131/r/s3/aws5",
                "incorrect terminal \"aws5\". This endpoint uses \"aws4_request\"",
            ),
            ("a/20260131/r/\u{1}/aws4_request", r#"incorrect service "\u{1}""#),
        ] {
            let error = Scope::parse(text, Place::Header, &ANY).unwrap_err();
            let message = error.message().unwrap();
            assert!(message.contains(expected), "{text}: {message}");
            assert!(message.starts_with("The authorization header is malformed; "), "{message}");
            assert_eq!(code(&error), "AuthorizationHeaderMalformed");
            let error = Scope::parse(text, Place::Query, &ANY).unwrap_err();
            assert_eq!(code(&error), "AuthorizationQueryParametersError");
        }
        let scope = Scope::parse("a/20260131/r/s3/aws4_request", Place::Header, &ANY).unwrap();
        assert!(scope.check_day("20260131T000000Z", Place::Header).is_ok());
        let error = scope.check_day("20260201T000000Z", Place::Header).unwrap_err();
        assert!(error.message().unwrap().contains("Invalid credential date \"20260131\""));
    }

    #[test]
    fn a_header_has_three_components() {
        for good in [
            "AWS4-HMAC-SHA256 Credential=c, SignedHeaders=h, Signature=s",
            "AWS4-HMAC-SHA256 Credential=c,SignedHeaders=h,Signature=s",
            "  AWS4-HMAC-SHA256   Signature=s ,\tCredential=c,SignedHeaders=h, ",
        ] {
            let found = Components::parse(good).unwrap();
            assert_eq!(found, Components { credential: "c", signed_headers: "h", signature: "s" });
        }
        for (text, expected, message) in [
            ("AWS a:b", "InvalidRequest", SCHEME),
            ("Basic YTpi", "InvalidRequest", SCHEME),
            ("None", "InvalidRequest", SCHEME),
            (
                "AWS4-HMAC-SHA512 Credential=c, SignedHeaders=h, Signature=s",
                "InvalidRequest",
                SCHEME,
            ),
            ("AWS4-HMAC-SHA256", "AuthorizationHeaderMalformed", "three components"),
            (
                "AWS4-HMAC-SHA256 Credential=c, Signature=s",
                "AuthorizationHeaderMalformed",
                "three components",
            ),
            (
                "AWS4-HMAC-SHA256 Credential=c, SignedHeaders=h, Signature=",
                "AuthorizationHeaderMalformed",
                "the authorization component \"Signature=\" is malformed",
            ),
            (
                "AWS4-HMAC-SHA256 Credential=c, Signedheaders=h, Signature=s",
                "AuthorizationHeaderMalformed",
                "\"Signedheaders=h\" is malformed",
            ),
            (
                "AWS4-HMAC-SHA256 Credential=c, Credential=c, Signature=s",
                "AuthorizationHeaderMalformed",
                "\"Credential=c\" is malformed",
            ),
        ] {
            let error = Components::parse(text).unwrap_err();
            assert_eq!(code(&error), expected, "{text}");
            assert!(error.message().unwrap().contains(message), "{text}: {error:?}");
        }
    }
}
