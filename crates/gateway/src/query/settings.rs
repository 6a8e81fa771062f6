//! Subresources of buckets and objects: settings, tags, ACLs, attributes.

use http::Method;

use super::{DOCUMENT, Level, Route};

const PAGE: &[&str] = &["continuation-token"];
const VERSION: &[&str] = &["versionId"];
const LIST_VERSIONS: &[&str] =
    &["delimiter", "encoding-type", "key-marker", "max-keys", "prefix", "version-id-marker"];

const fn get(required: &'static [&'static str]) -> Route {
    Route::new(Method::GET, Level::Bucket, required).for_anyone()
}

const fn put(required: &'static [&'static str]) -> Route {
    Route::new(Method::PUT, Level::Bucket, required).payload(DOCUMENT)
}

const fn delete(required: &'static [&'static str]) -> Route {
    Route::new(Method::DELETE, Level::Bucket, required)
}

const fn get_object(required: &'static [&'static str]) -> Route {
    Route::new(Method::GET, Level::Object, required).with(VERSION).for_anyone()
}

pub(super) const ROUTES: &[Route] = &[
    get(&["abac"]),
    get(&["accelerate"]),
    get(&["acl"]),
    get(&["analytics"]).with(PAGE),
    get(&["analytics", "id"]),
    get(&["cors"]),
    get(&["encryption"]),
    get(&["intelligent-tiering"]).with(PAGE),
    get(&["intelligent-tiering", "id"]),
    get(&["inventory"]).with(PAGE),
    get(&["inventory", "id"]),
    get(&["lifecycle"]),
    get(&["logging"]),
    get(&["metadataConfiguration"]),
    get(&["metrics"]).with(PAGE),
    get(&["metrics", "id"]),
    get(&["notification"]),
    get(&["object-lock"]),
    get(&["ownershipControls"]),
    get(&["publicAccessBlock"]),
    get(&["replication"]),
    get(&["requestPayment"]),
    get(&["tagging"]),
    get(&["versioning"]),
    get(&["versions"]).with(LIST_VERSIONS).page(),
    get(&["website"]),
    put(&["acl"]),
    put(&["cors"]),
    put(&["encryption"]),
    put(&["lifecycle"]),
    put(&["ownershipControls"]),
    put(&["publicAccessBlock"]),
    put(&["tagging"]),
    put(&["versioning"]),
    delete(&["cors"]),
    delete(&["encryption"]),
    delete(&["lifecycle"]),
    delete(&["ownershipControls"]),
    delete(&["publicAccessBlock"]),
    delete(&["replication"]),
    delete(&["tagging"]),
    delete(&["website"]),
    get_object(&["acl"]),
    get_object(&["attributes"]),
    get_object(&["legal-hold"]),
    get_object(&["retention"]),
    get_object(&["tagging"]),
    Route::new(Method::PUT, Level::Object, &["acl"]).with(VERSION).payload(DOCUMENT),
    Route::new(Method::PUT, Level::Object, &["tagging"]).with(VERSION).payload(DOCUMENT),
    Route::new(Method::DELETE, Level::Object, &["tagging"]).with(VERSION),
    Route::new(Method::PUT, Level::Object, &["renameObject"]),
];
