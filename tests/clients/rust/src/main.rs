//! What users of the AWS SDK for Rust do. The environment names the gateway and its key.

use std::{collections::HashMap, env, error::Error, time::Duration};

use aws_sdk_s3::{
    Client,
    config::{BehaviorVersion, Credentials, Region},
    error::ProvideErrorMetadata,
    presigning::PresigningConfig,
    primitives::ByteStream,
    types::{
        ChecksumAlgorithm, ChecksumMode, CompletedMultipartUpload, CompletedPart, Delete,
        ObjectIdentifier, ServerSideEncryption,
    },
};

const BUCKET: &str = "rust-bucket";
const MIB: usize = 1 << 20;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

fn pattern(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    (0..length).map(next).collect()
}

async fn get(s3: &Client, key: &str, range: Option<&str>) -> Outcome<Vec<u8>> {
    let asked = s3.get_object().bucket(BUCKET).key(key).checksum_mode(ChecksumMode::Enabled);
    let found = asked.set_range(range.map(str::to_owned)).send().await?;
    Ok(found.body.collect().await?.to_vec())
}

async fn objects(s3: &Client) -> Outcome {
    let (body, key) = (pattern(3 * MIB + 5, 1), "a b/ü+");
    for algorithm in [
        ChecksumAlgorithm::Crc32,
        ChecksumAlgorithm::Crc32C,
        ChecksumAlgorithm::Crc64Nvme,
        ChecksumAlgorithm::Sha256,
    ] {
        let put = s3.put_object().bucket(BUCKET).key(key).metadata("m", "1");
        let put = put.checksum_algorithm(algorithm);
        let put = put.server_side_encryption(ServerSideEncryption::Aes256);
        put.body(ByteStream::from(body.clone())).send().await?;
        assert!(get(s3, key, None).await? == body, "the whole object");
        let head = s3.head_object().bucket(BUCKET).key(key).send().await?;
        assert_eq!(head.metadata, Some(HashMap::from([("m".into(), "1".into())])));
        assert_eq!(head.server_side_encryption, Some(ServerSideEncryption::Aes256));
    }
    assert_eq!(get(s3, key, Some("bytes=65519-65521")).await?, body[65519..65522]);
    let again = s3.put_object().bucket(BUCKET).key(key).if_none_match("*");
    let refused = again.body(ByteStream::from_static(b"x")).send().await.unwrap_err();
    assert_eq!(refused.into_service_error().code(), Some("PreconditionFailed"));
    let copy = s3.copy_object().bucket(BUCKET).key("copy");
    copy.copy_source(format!("{BUCKET}/a%20b/%C3%BC%2B")).send().await?;
    assert!(get(s3, "copy", None).await? == body, "a copy");
    let absent = s3.get_object().bucket(BUCKET).key("absent").send().await.unwrap_err();
    assert!(absent.into_service_error().is_no_such_key());
    Ok(())
}

/// The SDK sends a stream in chunks with a checksum at the end.
async fn streams(s3: &Client) -> Outcome {
    let (body, path) = (pattern(6 * MIB + 1, 3), env::temp_dir().join("rust-workload"));
    std::fs::write(&path, &body)?;
    let stream = ByteStream::from_path(&path).await?;
    s3.put_object().bucket(BUCKET).key("file").body(stream).send().await?;
    std::fs::remove_file(&path)?;
    assert!(get(s3, "file", None).await? == body, "a file");
    Ok(())
}

async fn parts(s3: &Client) -> Outcome {
    let upload = s3.create_multipart_upload().bucket(BUCKET).key("parts").send().await?;
    let id = upload.upload_id.ok_or("no upload id")?;
    let (mut done, mut whole) = (CompletedMultipartUpload::builder(), Vec::new());
    for (n, length) in [(1, 5 * MIB), (2, 5 * MIB), (3, MIB)] {
        let part = pattern(length, n);
        whole.extend(&part);
        let n = i32::try_from(n)?;
        let put = s3.upload_part().bucket(BUCKET).key("parts").upload_id(&id).part_number(n);
        let put = put.body(ByteStream::from(part)).send().await?;
        let part = CompletedPart::builder().part_number(n).set_e_tag(put.e_tag);
        done = done.parts(part.set_checksum_crc32(put.checksum_crc32).build());
    }
    let end = s3.complete_multipart_upload().bucket(BUCKET).key("parts").upload_id(&id);
    end.multipart_upload(done.build()).send().await?;
    assert!(get(s3, "parts", None).await? == whole, "parts");
    let second = s3.get_object().bucket(BUCKET).key("parts").part_number(2).send().await?;
    assert!(second.body.collect().await?.to_vec() == pattern(5 * MIB, 2), "one part");
    Ok(())
}

async fn listings(s3: &Client) -> Outcome {
    for n in 0..25 {
        s3.put_object().bucket(BUCKET).key(format!("many/{n:02}")).send().await?;
    }
    let asked = s3.list_objects_v2().bucket(BUCKET).prefix("many/").max_keys(10);
    let mut pages = asked.into_paginator().send();
    let mut keys = Vec::new();
    while let Some(page) = pages.next().await {
        keys.extend(page?.contents.unwrap_or_default().into_iter().filter_map(|line| line.key));
    }
    assert_eq!((keys.len(), keys[24].as_str()), (25, "many/24"));
    let gone = keys.into_iter().map(|key| ObjectIdentifier::builder().key(key).build());
    let gone = Delete::builder().set_objects(Some(gone.collect::<Result<_, _>>()?)).build()?;
    let deleted = s3.delete_objects().bucket(BUCKET).delete(gone).send().await?;
    assert_eq!(deleted.deleted().len(), 25);
    Ok(())
}

async fn presigned(s3: &Client) -> Outcome {
    let (http, body) = (reqwest::Client::new(), pattern(70_000, 9));
    let soon = || PresigningConfig::expires_in(Duration::from_secs(300));
    let put = s3.put_object().bucket(BUCKET).key("presigned").presigned(soon()?).await?;
    let mut sent = http.put(put.uri()).body(body.clone());
    for (name, value) in put.headers() {
        sent = sent.header(name, value);
    }
    sent.send().await?.error_for_status()?;
    let get = s3.get_object().bucket(BUCKET).key("presigned").presigned(soon()?).await?;
    let found = http.get(get.uri()).send().await?.error_for_status()?.bytes().await?;
    assert!(found == body, "a presigned GET");
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let named = |name: &str| env::var(name).map_err(|error| format!("{name}: {error}"));
    let key = Credentials::new(
        named("AWS_ACCESS_KEY_ID")?,
        named("AWS_SECRET_ACCESS_KEY")?,
        None,
        None,
        "environment",
    );
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .credentials_provider(key)
        .region(Region::new("us-east-1"))
        .endpoint_url(named("AWS_ENDPOINT_URL")?)
        .force_path_style(true)
        .http_client(aws_smithy_http_client::Builder::new().build_http());
    let s3 = Client::from_conf(config.build());
    s3.create_bucket().bucket(BUCKET).send().await?;
    objects(&s3).await?;
    streams(&s3).await?;
    parts(&s3).await?;
    listings(&s3).await?;
    presigned(&s3).await?;
    println!("read what was written");
    Ok(())
}
