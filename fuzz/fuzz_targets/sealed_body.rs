//! Opens any bytes as the body of a sealed object. Plaintext comes out only of the body that was sealed, and
//! the same in pieces of any size. With its name, no other body opens.
#![no_main]

use std::sync::LazyLock;

use fula_fuzz::Repeating;
use fula_seal::{
    VaultId, VaultKeys, VaultPath,
    body::{
        FOOTER_BYTES, FileSealer, Footer, Layout, Metadata, RangeReader, Trailer, open_named,
        open_whole,
    },
    key::Secret,
    name::Anchor,
    signature::SigningKey,
};
use libfuzzer_sys::fuzz_target;

const CONTENT: &[u8] = b"attack at dawn";

struct Sealed {
    keys: VaultKeys,
    device: SigningKey,
    anchor: Anchor,
    /// A body of two segments.
    samples: [Vec<u8>; 1],
}

static SEALED: LazyLock<Sealed> = LazyLock::new(|| {
    let mut entropy = Repeating(0);
    let keys = VaultKeys::generate(VaultId([7; 16]), &mut entropy).expect("entropy");
    let sealer = FileSealer::new(&keys, &mut entropy).expect("entropy");
    let (mut body, mut segments) = (Vec::new(), Vec::new());
    for (at, plain) in [&CONTENT[..5], &CONTENT[5..]].into_iter().enumerate() {
        let (segment, sealed) =
            sealer.seal_segment(at as u64, plain, &mut entropy).expect("entropy");
        segments.push(segment);
        body.extend(sealed);
    }
    let layout = Layout::new(CONTENT.len() as u64, segments).expect("a layout");
    let metadata = Metadata::of(VaultPath::new(b"path").expect("a path"));
    let mut ending = sealer.plan_end(&layout, &metadata, &mut entropy).expect("entropy");
    ending.update(&body);
    let (anchor, device) = (ending.anchor, SigningKey::from_seed(&Secret::new([1; 32])));
    body.extend(ending.sign(&device).expect("all of the content"));
    Sealed { keys, device, anchor, samples: [body] }
});

fuzz_target!(|data: &[u8]| {
    let Sealed { keys, device, anchor, samples } = &*SEALED;
    let body = fula_fuzz::input(data, samples);
    let opened = open_whole(keys, &body);
    let named =
        open_named(keys, &body, anchor, |id, _| (id == device.id()).then(|| device.public()));
    assert_eq!(named.is_ok(), body[..] == samples[0][..], "another body opens");
    assert!(opened.is_ok() || named.is_err());
    let Some(footer) = body.last_chunk::<FOOTER_BYTES>() else { return };
    let Ok(footer) = Footer::parse(footer) else { return };
    assert_eq!(&footer.to_bytes()[..], &body[body.len() - FOOTER_BYTES..]);
    let Ok(range) = footer.trailer_range(body.len() as u64) else { return };
    let (start, end) = (range.start as usize, range.end as usize);
    let trailer = Trailer::open(keys, &footer, &body[start..end], body.len() as u64, None);
    let Ok(Trailer { layout, .. }) = trailer else { return };
    let Ok(mut reader) = RangeReader::new(keys, &footer, &layout, 0..layout.size()) else { return };
    let mut plain = Vec::new();
    for piece in body[..start].chunks(7) {
        if reader.push(piece, &mut plain).is_err() {
            break;
        }
    }
    assert!(CONTENT.starts_with(&plain), "plaintext that was not sealed");
    assert_eq!(reader.finish().is_ok(), opened.is_ok());
});
