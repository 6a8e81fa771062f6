//! The signature of a form: of version 4, over its policy.

use fula_identity::Seconds;
use s3s::{S3Result, s3_error};
use s3s_sigv4::{AmzDate, calculate_signature_with_key, derive_signing_key};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{Refusal, Rules, SCHEME, SKEW_MAX, fault::Place, scope::Scope};
use crate::date::parse_basic;

/// The fields of a form that sign it.
pub(crate) struct FormSignature<'a> {
    /// The policy as it was sent, which is the text that is signed.
    pub(crate) policy: &'a str,
    pub(crate) algorithm: &'a str,
    pub(crate) credential: &'a str,
    pub(crate) date: &'a str,
    pub(crate) signature: &'a str,
    pub(crate) session_token: Option<&'a str>,
}

/// A signature whose form and scope were checked.
pub(crate) struct SignedForm {
    scope: Scope,
    date: AmzDate,
    signature: Option<[u8; 32]>,
}

impl FormSignature<'_> {
    /// Returns the access key that the form names, even if the rest is malformed.
    pub(crate) fn claimed_key(&self) -> &str {
        self.credential.split('/').next().unwrap_or_default()
    }

    /// Checks everything that needs no secret.
    ///
    /// # Errors
    /// The errors of AWS for a wrong form, scope or time.
    pub(crate) fn check(&self, rules: &Rules, now: Seconds) -> Result<SignedForm, Refusal> {
        Ok(self.parse(rules, now)?)
    }

    fn parse(&self, rules: &Rules, now: Seconds) -> S3Result<SignedForm> {
        if self.algorithm != SCHEME {
            let text = "X-Amz-Algorithm only supports \"AWS4-HMAC-SHA256\"";
            return Err(s3_error!(InvalidArgument, "{text}"));
        }
        let scope = Scope::parse(self.credential, Place::Form, rules)?;
        let (Some(signed_at), Ok(date)) = (parse_basic(self.date), AmzDate::parse(self.date))
        else {
            let text = "X-Amz-Date must be formated via ISO8601 Long format";
            return Err(s3_error!(InvalidArgument, "{text}"));
        };
        scope.check_day(&date.fmt_iso8601(), Place::Form)?;
        if signed_at > now.saturating_add(SKEW_MAX) {
            return Err(s3_error!(AccessDenied, "Request is not valid yet"));
        }
        let mut bytes = [0; 32];
        let signature = hex::decode_to_slice(self.signature, &mut bytes).ok().map(|()| bytes);
        Ok(SignedForm { scope, date, signature })
    }
}

impl SignedForm {
    pub(crate) fn access_key(&self) -> &str {
        &self.scope.access_key
    }

    /// Returns whether the policy was signed with this secret.
    pub(crate) fn verify(&self, policy: &str, secret: &str) -> bool {
        let Scope { region, service, .. } = &self.scope;
        let key = Zeroizing::new(derive_signing_key(secret, &self.date, region, service));
        let found = calculate_signature_with_key(policy, &key);
        self.signature.is_some_and(|expected| bool::from(found.ct_eq(&expected)))
    }
}
