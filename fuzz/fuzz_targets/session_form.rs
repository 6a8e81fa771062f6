//! Parses any bytes as the form of STS. Every parameter of an accepted form must be known, and there only
//! once.
#![no_main]

use fula_gateway::fuzzing::{form, session_form};
use libfuzzer_sys::fuzz_target;

const SAMPLE: &str = "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=a&\
                      WebIdentityToken=t&RoleSessionName=n&DurationSeconds=900";

fuzz_target!(|data: &[u8]| {
    let data = &*fula_fuzz::input(data, &[SAMPLE.into()]);
    let Some(mut found) = session_form(data) else { return };
    let mut sent = form(data);
    found.sort();
    sent.sort();
    let found: Vec<_> = found.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let sent: Vec<_> = sent.iter().map(|(name, value)| (name.as_ref(), value.as_ref())).collect();
    assert_eq!(found, sent);
});
