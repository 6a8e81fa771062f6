//! The tests that `object_store` has for implementations of its interface, on a gateway in this process.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "examples use the rest")]
#[path = "../client/gateway.rs"]
mod gateway;
#[expect(dead_code, reason = "the other tests use all of it")]
#[path = "../client/site.rs"]
mod site;

use fula_client::Bucket;
use object_store::{
    Attribute, Attributes, Error, GetOptions, ObjectStore, ObjectStoreExt, PutMode, TagSet,
    UpdateVersion, integration, path::Path,
};

use site::Site;

/// Runs one of the tests on a new gateway.
async fn on_a_gateway(test: impl AsyncFnOnce(&Bucket)) {
    let site = Site::start().await;
    test(&site.bucket()).await;
}

#[tokio::test]
async fn put_get_delete_list() {
    on_a_gateway(async |bucket| integration::put_get_delete_list(bucket).await).await;
}

#[tokio::test]
async fn put_get_attributes() {
    on_a_gateway(async |bucket| integration::put_get_attributes(bucket).await).await;
}

#[tokio::test]
async fn get_opts() {
    on_a_gateway(async |bucket| integration::get_opts(bucket).await).await;
}

#[tokio::test]
async fn put_opts() {
    on_a_gateway(async |bucket| integration::put_opts(bucket, true).await).await;
}

#[tokio::test]
async fn stream_get() {
    on_a_gateway(async |bucket| integration::stream_get(bucket).await).await;
}

#[tokio::test]
async fn list_uses_directories_correctly() {
    on_a_gateway(async |bucket| integration::list_uses_directories_correctly(bucket).await).await;
}

#[tokio::test]
async fn list_with_delimiter() {
    on_a_gateway(async |bucket| integration::list_with_delimiter(bucket).await).await;
}

#[tokio::test]
async fn list_with_offset_exclusivity() {
    on_a_gateway(async |bucket| integration::list_with_offset_exclusivity(bucket).await).await;
}

#[tokio::test]
async fn get_nonexistent_object() {
    on_a_gateway(async |bucket| {
        let error = integration::get_nonexistent_object(bucket, None).await.unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{error}");
    })
    .await;
}

#[tokio::test]
async fn rename_and_copy() {
    on_a_gateway(async |bucket| {
        integration::rename_and_copy(bucket).await;
        integration::copy_if_not_exists(bucket).await;
        integration::copy_rename_nonexistent_object(bucket).await;
    })
    .await;
}

#[tokio::test]
async fn multipart() {
    on_a_gateway(async |bucket| {
        integration::multipart(bucket, bucket).await;
        integration::multipart_with_opts(bucket, bucket).await;
        integration::multipart_put_part_out_of_order(bucket, bucket).await;
        integration::multipart_out_of_order(bucket).await;
        integration::multipart_race_condition(bucket, true).await;
    })
    .await;
}

/// What the interface has and a bucket does not is refused, and tags are kept.
#[tokio::test]
async fn nothing_is_left_out_in_silence() {
    on_a_gateway(async |bucket| {
        let (store, path) = (bucket as &dyn ObjectStore, Path::from("k"));
        let put = store.put(&path, "x".into()).await.unwrap();
        let options = GetOptions::new().with_version(Some("v".to_owned()));
        let error = store.get_opts(&path, options).await.unwrap_err();
        assert!(matches!(error, Error::NotImplemented { .. }), "{error}");
        let mode = PutMode::Update(UpdateVersion { e_tag: None, version: None });
        let error = store.put_opts(&path, "y".into(), mode.into()).await.unwrap_err();
        assert!(matches!(error, Error::NotImplemented { .. }), "{error}");
        let class = Attributes::from_iter([(Attribute::StorageClass, "GLACIER")]);
        let error = store.put_opts(&path, "y".into(), class.into()).await.unwrap_err();
        assert!(matches!(error, Error::NotImplemented { .. }), "{error}");
        // A list of entity tags is a condition, too.
        for (tags, is_good) in
            [(format!("\"a\", {}", put.e_tag.unwrap()), true), ("\"a\"".to_owned(), false)]
        {
            let options = GetOptions::new().with_if_match(Some(tags));
            assert_eq!(store.get_opts(&path, options).await.is_ok(), is_good);
        }
        let mut tags = TagSet::default();
        tags.push("color", "blue");
        store.put_opts(&path, "y".into(), tags.into()).await.unwrap();
        let missing = bucket.client().bucket("no-such-bucket").unwrap();
        let error = ObjectStoreExt::get(&missing, &path).await.unwrap_err();
        assert!(matches!(error, Error::Generic { .. }), "{error}");
    })
    .await;
}
