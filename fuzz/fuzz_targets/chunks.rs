//! Decodes any bytes as a body in chunks. The result must not depend on the pieces in which the body
//! arrives.
#![no_main]

use fula_gateway::fuzzing::content_of_chunks;
use libfuzzer_sys::fuzz_target;

const SAMPLE: &[u8] = b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n";

fuzz_target!(|data: &[u8]| {
    let data = &*fula_fuzz::input(data, &[SAMPLE.into()]);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let decode = |piece| runtime.block_on(content_of_chunks(data, piece, 7));
    let whole = decode(data.len().max(1));
    for piece in [1, 2, 7] {
        assert_eq!(decode(piece), whole);
    }
    if let Some(content) = whole {
        assert!(content.len() == 7 && content.len() <= data.len());
    }
});
