//! What identifies a change of a commit, so that a retry of the commit is recognised.

use crate::objects::{
    batch::{BatchAction, BatchChange, BatchSource},
    object::ObjectFacts,
};

/// Returns what the client has sent of a change. It does not depend on the state of the bucket, or on whether the
/// change can be carried out.
pub(super) fn identity_of(change: &BatchChange) -> Vec<Vec<u8>> {
    let mut made_of = vec![change.key.as_bytes().to_vec(), change.conditions.to_bytes()];
    match &change.action {
        BatchAction::Delete => made_of.push(b"delete".to_vec()),
        BatchAction::Check => made_of.push(b"check".to_vec()),
        BatchAction::Put { body, facts } => {
            made_of.push(b"put".to_vec());
            made_of.push(blake3::hash(body).as_bytes().to_vec());
            made_of.extend(facts_of(Some(facts)));
        }
        BatchAction::Map(request) => {
            made_of.push(b"map".to_vec());
            made_of.push(request.cid.to_bytes().to_vec());
            made_of.push(request.size.to_be_bytes().to_vec());
            made_of.extend(facts_of(Some(&request.facts)));
        }
        BatchAction::Copy { source, replace } => {
            made_of.push(b"copy".to_vec());
            made_of.extend(source_of(source));
            made_of.extend(facts_of(replace.as_ref()));
        }
        BatchAction::Complete { id, parts, replace } => {
            made_of.push(b"upload".to_vec());
            made_of.push(id.as_bytes().to_vec());
            for part in parts {
                made_of.push(part.number.to_be_bytes().to_vec());
                made_of.push(part.etag.as_bytes().to_vec());
            }
            made_of.extend(facts_of(replace.as_ref()));
        }
    }
    made_of
}

fn source_of(source: &BatchSource) -> [Vec<u8>; 4] {
    let bucket = source.bucket.as_ref().map_or_else(Vec::new, |name| name.as_str().into());
    let version = source.version.map_or_else(String::new, |version| version.to_string());
    let conditions = format!("{:?}", source.conditions);
    [bucket, source.key.as_bytes().to_vec(), version.into_bytes(), conditions.into_bytes()]
}

/// Returns headers and metadata, which are in order of name. The number of each comes first.
fn facts_of(facts: Option<&ObjectFacts>) -> Vec<Vec<u8>> {
    let Some(facts) = facts else { return vec![b"kept".to_vec()] };
    let mut made_of = Vec::new();
    for map in [&facts.headers, &facts.metadata] {
        made_of.push(map.len().to_be_bytes().to_vec());
        for (name, value) in map {
            made_of.extend([name.as_bytes().to_vec(), value.as_bytes().to_vec()]);
        }
    }
    made_of
}
