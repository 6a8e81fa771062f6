//! The default encryption of a bucket (SSE-S3).

use fula_core::bucket::TextMap;
use s3s::{S3Request, S3Response, S3Result, dto::*, s3_error};

use super::{Api, caller, convert::bucket_name, settings::not_set, sse::AES256};
use crate::error::{not_implemented, s3_error as to_s3};

/// Names of what is stored of a configuration.
const ALGORITHM: &str = "algorithm";
const BUCKET_KEY_ENABLED: &str = "bucketKey";
const BLOCKED: &str = "blocked";

/// Checks a configuration, and returns what is stored of it.
fn checked(config: &ServerSideEncryptionConfiguration) -> S3Result<TextMap> {
    let [rule] = config.rules.as_slice() else { return Err(s3_error!(MalformedXML)) };
    let Some(default) = &rule.apply_server_side_encryption_by_default else {
        return Err(s3_error!(MalformedXML));
    };
    match default.sse_algorithm.as_str() {
        AES256 => {}
        ServerSideEncryption::AWS_KMS | ServerSideEncryption::AWS_KMS_DSSE => {
            return Err(not_implemented("Default encryption with keys of KMS"));
        }
        _ => return Err(s3_error!(MalformedXML)),
    }
    if default.kms_master_key_id.is_some() {
        let text = "a KMSMasterKeyID is not applicable if the default sse algorithm is not aws:kms or \
                    aws:kms:dsse";
        return Err(s3_error!(InvalidArgument, "{text}"));
    }
    let mut stored = TextMap::from([(ALGORITHM.to_owned(), AES256.to_owned())]);
    if let Some(enabled) = rule.bucket_key_enabled {
        stored.insert(BUCKET_KEY_ENABLED.to_owned(), enabled.to_string());
    }
    let blocked = rule.blocked_encryption_types.as_ref();
    for kind in blocked.and_then(|blocked| blocked.encryption_type.as_ref()).into_iter().flatten() {
        // SSE-C is not offered, so blocking it changes nothing.
        if !["NONE", "SSE-C"].contains(&kind.as_str()) {
            return Err(s3_error!(MalformedXML));
        }
        stored.insert(BLOCKED.to_owned(), kind.as_str().to_owned());
    }
    Ok(stored)
}

/// Returns the configuration of which something is stored.
fn configuration(stored: &TextMap) -> ServerSideEncryptionConfiguration {
    let default = ServerSideEncryptionByDefault {
        kms_master_key_id: None,
        sse_algorithm: ServerSideEncryption::from_static(AES256),
    };
    let blocked = stored.get(BLOCKED).map(|kind| BlockedEncryptionTypes {
        encryption_type: Some(vec![EncryptionType::from(kind.clone())]),
    });
    let is_enabled = stored.get(BUCKET_KEY_ENABLED).is_some_and(|enabled| enabled == "true");
    let rule = ServerSideEncryptionRule {
        apply_server_side_encryption_by_default: Some(default),
        blocked_encryption_types: blocked,
        bucket_key_enabled: Some(is_enabled),
    };
    ServerSideEncryptionConfiguration { rules: vec![rule] }
}

impl Api {
    pub(super) async fn get_bucket_encryption(
        &self,
        request: S3Request<GetBucketEncryptionInput>,
    ) -> S3Result<S3Response<GetBucketEncryptionOutput>> {
        let (caller, name) = (caller(&request)?, &request.input.bucket);
        let found = self.service.bucket_encryption(&caller, &bucket_name(name)?).await;
        let Some(stored) = found.map_err(to_s3)? else {
            let text = "The server side encryption configuration was not found";
            return Err(not_set("ServerSideEncryptionConfigurationNotFoundError", text, name));
        };
        let server_side_encryption_configuration = Some(configuration(&stored));
        Ok(S3Response::new(GetBucketEncryptionOutput { server_side_encryption_configuration }))
    }

    pub(super) async fn put_bucket_encryption(
        &self,
        request: S3Request<PutBucketEncryptionInput>,
    ) -> S3Result<S3Response<PutBucketEncryptionOutput>> {
        let (caller, name) = (caller(&request)?, bucket_name(&request.input.bucket)?);
        let stored = checked(&request.input.server_side_encryption_configuration)?;
        let set = self.service.set_bucket_encryption(&caller, &name, Some(&stored)).await;
        set.map_err(to_s3)?;
        Ok(S3Response::new(PutBucketEncryptionOutput::default()))
    }

    pub(super) async fn delete_bucket_encryption(
        &self,
        request: S3Request<DeleteBucketEncryptionInput>,
    ) -> S3Result<S3Response<DeleteBucketEncryptionOutput>> {
        let (caller, name) = (caller(&request)?, bucket_name(&request.input.bucket)?);
        let set = self.service.set_bucket_encryption(&caller, &name, None).await;
        set.map_err(to_s3)?;
        Ok(S3Response::new(DeleteBucketEncryptionOutput::default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_comes_back_as_it_was_set() {
        let config = |algorithm: &'static str, key: Option<&str>| {
            let default = ServerSideEncryptionByDefault {
                kms_master_key_id: key.map(ToOwned::to_owned),
                sse_algorithm: ServerSideEncryption::from_static(algorithm),
            };
            let rule = ServerSideEncryptionRule {
                apply_server_side_encryption_by_default: Some(default),
                blocked_encryption_types: None,
                bucket_key_enabled: Some(true),
            };
            ServerSideEncryptionConfiguration { rules: vec![rule] }
        };
        let sent = config(AES256, None);
        assert_eq!(configuration(&checked(&sent).unwrap()), sent);
        let code = |config| checked(&config).unwrap_err().code().as_str().to_owned();
        assert_eq!(code(config("aws:kms", None)), "NotImplemented");
        assert_eq!(code(config("aes", None)), "MalformedXML");
        assert_eq!(code(config(AES256, Some("k"))), "InvalidArgument");
        let none = ServerSideEncryptionConfiguration { rules: Vec::new() };
        assert_eq!(code(none), "MalformedXML");
    }
}
