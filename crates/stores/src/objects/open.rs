//! Opening the object store that a URL names.

use std::{
    io,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use object_store::{
    ClientOptions, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, AmazonS3ConfigKey},
    azure::{AzureConfigKey, MicrosoftAzureBuilder},
    gcp::{GoogleCloudStorageBuilder, GoogleConfigKey},
    local::LocalFileSystem,
    prefix::PrefixStore,
};
use reqwest::Url;

use super::Objects;

/// How long a request to a server is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// An object store that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ObjectStoreError {
    /// Mend the setting.
    #[error(
        "FULA_BLOCKS names no place for blocks; it is `local`, or a URL: file:///directory, \
         s3://bucket/prefix, gs://bucket/prefix or az://container/prefix (credentials are given in the usual \
         variables, which begin with AWS_, GOOGLE_ or AZURE_)"
    )]
    Url,
    /// The directory is not there. Mount its file system, mend the setting, or start a gateway, which makes
    /// the directory.
    #[error(
        "the directory {0} of FULA_BLOCKS does not exist; check the setting and that its file system is \
         mounted (a gateway makes the directory when it first starts)"
    )]
    NoDirectory(PathBuf),
    /// The directory cannot be used.
    #[error("the directory of FULA_BLOCKS cannot be used")]
    Directory(#[source] io::Error),
    /// Mend the endpoint; it is not repeated here, it may hold a password.
    #[error(
        "{0} is not an endpoint that can be used; it is an http or https URL without user, password, \
         query and fragment (credentials are given in variables of their own)"
    )]
    Endpoint(&'static str),
    /// The store's own settings are wrong or missing.
    #[error("the object store of FULA_BLOCKS cannot be used")]
    Store(#[source] object_store::Error),
}

impl Objects {
    /// Opens the store that `url` names. Stores on servers are set up by the usual variables of their kind.
    ///
    /// # Errors
    /// [`ObjectStoreError`].
    pub fn open(url: &str) -> Result<Self, ObjectStoreError> {
        Self::open_with(url, &[])
    }

    /// Opens the store that `url` names. The variables `credentials`, names and values, win over those of the
    /// environment.
    ///
    /// # Errors
    /// [`ObjectStoreError`].
    pub fn open_with(
        url: &str,
        credentials: &[(String, String)],
    ) -> Result<Self, ObjectStoreError> {
        Self::open_or_make(url, credentials, true)
    }

    /// Opens the store that `url` names without making its directory, for a command that only looks.
    ///
    /// # Errors
    /// [`ObjectStoreError`].
    pub fn open_existing(
        url: &str,
        credentials: &[(String, String)],
    ) -> Result<Self, ObjectStoreError> {
        Self::open_or_make(url, credentials, false)
    }

    fn open_or_make(
        url: &str,
        credentials: &[(String, String)],
        makes_directory: bool,
    ) -> Result<Self, ObjectStoreError> {
        // The URL is not repeated: one that was mistyped may hold a password.
        let (scheme, rest) = url.split_once(':').ok_or(ObjectStoreError::Url)?;
        if scheme == "file" {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            let store = directory(path, makes_directory)?;
            return Ok(Self { directory: Some(path.into()), ..Self::on(store) });
        }
        let rest = rest.strip_prefix("//").ok_or(ObjectStoreError::Url)?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if !is_bucket_name(bucket) {
            return Err(ObjectStoreError::Url);
        }
        let store: Arc<dyn ObjectStore> = match scheme {
            "s3" => Arc::new(PrefixStore::new(s3(bucket, credentials)?, prefix)),
            "gs" => Arc::new(PrefixStore::new(google(bucket, credentials)?, prefix)),
            "az" => Arc::new(PrefixStore::new(azure(bucket, credentials)?, prefix)),
            _ => return Err(ObjectStoreError::Url),
        };
        Ok(Self::on(store))
    }
}

fn directory(dir: &str, is_made: bool) -> Result<Arc<dyn ObjectStore>, ObjectStoreError> {
    if !dir.starts_with('/') {
        return Err(ObjectStoreError::Url);
    }
    if is_made {
        std::fs::create_dir_all(dir).map_err(ObjectStoreError::Directory)?;
    } else if !Path::new(dir).exists() {
        return Err(ObjectStoreError::NoDirectory(dir.into()));
    }
    crate::permissions::warn_if_open(Path::new(dir));
    let files = LocalFileSystem::new_with_prefix(dir).map_err(ObjectStoreError::Store)?;
    Ok(Arc::new(files.with_fsync(true)))
}

fn retry() -> RetryConfig {
    RetryConfig { retry_timeout: RETRY, ..RetryConfig::default() }
}

/// Returns the variables among `credentials` that a kind of store knows.
fn known<K: FromStr>(credentials: &[(String, String)]) -> impl Iterator<Item = (K, &str)> {
    credentials.iter().filter_map(|(name, value)| {
        let key = name.to_ascii_lowercase().parse().ok()?;
        Some((key, value.as_str()))
    })
}

fn s3(
    bucket: &str,
    credentials: &[(String, String)],
) -> Result<impl ObjectStore + use<>, ObjectStoreError> {
    let builder = known(credentials)
        .fold(AmazonS3Builder::from_env(), |builder, (key, value)| builder.with_config(key, value))
        .with_bucket_name(bucket)
        .with_allow_http(true)
        .with_retry(retry());
    check_endpoints(&S3_ENDPOINTS, |key| builder.get_config_value(key))?;
    builder.build().map_err(ObjectStoreError::Store)
}

fn google(
    bucket: &str,
    credentials: &[(String, String)],
) -> Result<impl ObjectStore + use<>, ObjectStoreError> {
    let builder = GoogleCloudStorageBuilder::from_env();
    let builder = known(credentials)
        .fold(builder, |builder, (key, value)| builder.with_config(key, value))
        .with_bucket_name(bucket)
        .with_client_options(ClientOptions::new().with_allow_http(true))
        .with_retry(retry());
    check_endpoints(&GOOGLE_ENDPOINTS, |key| builder.get_config_value(key))?;
    builder.build().map_err(ObjectStoreError::Store)
}

fn azure(
    container: &str,
    credentials: &[(String, String)],
) -> Result<impl ObjectStore + use<>, ObjectStoreError> {
    let builder = known(credentials)
        .fold(MicrosoftAzureBuilder::from_env(), |builder, (key, value)| {
            builder.with_config(key, value)
        })
        .with_container_name(container)
        .with_allow_http(true)
        .with_retry(retry());
    check_endpoints(&AZURE_ENDPOINTS, |key| builder.get_config_value(key))?;
    builder.build().map_err(ObjectStoreError::Store)
}

/// Returns whether a text can name a bucket; credentials in front of one cannot.
fn is_bucket_name(text: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    !text.is_empty() && text.chars().all(is_allowed)
}

/// Settings that are URLs of servers, and how a person sets them.
const S3_ENDPOINTS: [(AmazonS3ConfigKey, &str); 4] = [
    (AmazonS3ConfigKey::Endpoint, "AWS_ENDPOINT"),
    (AmazonS3ConfigKey::S3Endpoint, "AWS_ENDPOINT_URL_S3"),
    (AmazonS3ConfigKey::StsEndpoint, "AWS_ENDPOINT_URL_STS"),
    (AmazonS3ConfigKey::MetadataEndpoint, "AWS_METADATA_ENDPOINT"),
];

const GOOGLE_ENDPOINTS: [(GoogleConfigKey, &str); 1] =
    [(GoogleConfigKey::BaseUrl, "GOOGLE_BASE_URL")];

const AZURE_ENDPOINTS: [(AzureConfigKey, &str); 3] = [
    (AzureConfigKey::Endpoint, "AZURE_STORAGE_ENDPOINT"),
    (AzureConfigKey::MsiEndpoint, "AZURE_MSI_ENDPOINT"),
    (AzureConfigKey::AuthorityHost, "AZURE_AUTHORITY_HOST"),
];

/// Checks the URLs of servers: errors of the store repeat them with all that is in them, and one that is
/// malformed makes a request panic.
fn check_endpoints<K>(
    endpoints: &[(K, &'static str)],
    value: impl Fn(&K) -> Option<String>,
) -> Result<(), ObjectStoreError> {
    for (key, name) in endpoints {
        if value(key).is_some_and(|text| !is_endpoint(&text)) {
            return Err(ObjectStoreError::Endpoint(name));
        }
    }
    Ok(())
}

/// Returns whether a text is the URL of a server, and no part of it can be a password.
fn is_endpoint(text: &str) -> bool {
    let is_url = Url::parse(text).is_ok_and(|url| ["http", "https"].contains(&url.scheme()));
    is_url && text.contains("://") && !text.contains(['@', '?', '#'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_are_none_say_what_is_expected() {
        for url in
            ["peers", "file:relative", "s3://", "s3:bucket", "gs://", "az://user:hush@c", "ftp://x"]
        {
            let refused = Objects::open(url).unwrap_err().to_string();
            assert!(refused.contains("s3://bucket/prefix"), "{refused}");
        }
    }

    #[test]
    fn endpoints_that_may_show_a_password_are_refused() {
        use AmazonS3ConfigKey::{Endpoint, MetadataEndpoint, S3Endpoint, StsEndpoint};
        let check = |key, text: &str| {
            let builder = AmazonS3Builder::new().with_config(key, text);
            check_endpoints(&S3_ENDPOINTS, |key| builder.get_config_value(key))
                .map_err(|error| error.to_string())
        };
        for (key, name) in [
            (Endpoint, "AWS_ENDPOINT "),
            (S3Endpoint, "AWS_ENDPOINT_URL_S3 "),
            (StsEndpoint, "AWS_ENDPOINT_URL_STS "),
            (MetadataEndpoint, "AWS_METADATA_ENDPOINT "),
        ] {
            for wrong in [
                "http://user:hush@127.0.0.1:9000",
                "http://hush@127.0.0.1",
                "http://user:12/hush@127.0.0.1",
                "http://127.0.0.1:hush",
                "https://s3.example?hush",
                "https://s3.example#hush",
                "http:/hush/x",
                "hush:9000",
                "ftp://hush",
            ] {
                let refused = check(key, wrong).unwrap_err();
                assert!(refused.starts_with(name) && !refused.contains("hush"), "{refused}");
            }
            for good in ["http://127.0.0.1:9000", "https://s3.example/path/", "http://[::1]:80"] {
                assert_eq!(check(key, good), Ok(()), "{good}");
            }
        }
        let azure = MicrosoftAzureBuilder::new().with_endpoint("http://hush@127.0.0.1".to_owned());
        let refused = check_endpoints(&AZURE_ENDPOINTS, |key| azure.get_config_value(key));
        assert!(matches!(refused, Err(ObjectStoreError::Endpoint("AZURE_STORAGE_ENDPOINT"))));
        let google = GoogleCloudStorageBuilder::new().with_base_url("http://hush@127.0.0.1");
        let refused = check_endpoints(&GOOGLE_ENDPOINTS, |key| google.get_config_value(key));
        assert!(matches!(refused, Err(ObjectStoreError::Endpoint("GOOGLE_BASE_URL"))));
        let none = AmazonS3Builder::new();
        assert!(check_endpoints(&S3_ENDPOINTS, |key| none.get_config_value(key)).is_ok());
    }
}
