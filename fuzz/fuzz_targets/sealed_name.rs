//! Opens any text as the two metadata values of a sealed object. Only what was sealed is accepted.
#![no_main]

use std::sync::LazyLock;

use fula_fuzz::Repeating;
use fula_seal::{
    VaultId, VaultKeys, VaultPath,
    body::{FileSealer, Layout, Metadata},
    key::Secret,
    name::{Kept, Name, Opened, Sealed},
    signature::SigningKey,
};
use libfuzzer_sys::fuzz_target;

struct Sample {
    keys: VaultKeys,
    device: SigningKey,
    sealed: Sealed,
}

static SAMPLE: LazyLock<Sample> = LazyLock::new(|| {
    let mut entropy = Repeating(0);
    let keys = VaultKeys::generate(VaultId([7; 16]), &mut entropy).expect("entropy");
    let sealer = FileSealer::new(&keys, &mut entropy).expect("entropy");
    let (segment, _) = sealer.seal_segment(0, b"content", &mut entropy).expect("entropy");
    let layout = Layout::new(7, vec![segment]).expect("a layout");
    let path = VaultPath::new(b"path").expect("a path");
    let metadata = Metadata::of(path.clone());
    let anchor = sealer.finish(&layout, &metadata, &mut entropy).expect("entropy").anchor;
    let device = SigningKey::from_seed(&Secret::new([1; 32]));
    let name = Name { path, size: 7, modified: Some(1), etag: Some("e".to_owned()), clock: 1 };
    let sealed = name.seal(&keys, &anchor, &device, &mut entropy).expect("entropy");
    Sample { keys, device, sealed }
});

fuzz_target!(|data: &[u8]| {
    let Sample { keys, device, sealed } = &*SAMPLE;
    let samples = [&sealed.listed, &sealed.kept].map(|text| text.clone().into_bytes());
    let text = fula_fuzz::input(data, &samples);
    let Ok(text) = std::str::from_utf8(&text) else { return };
    let opened = Opened::open(keys, sealed.key, text);
    assert_eq!(opened.is_ok(), text == sealed.listed, "another name opens");
    let name = Opened::open(keys, sealed.key, &sealed.listed).expect("what was sealed");
    let Ok(kept) = Kept::parse(text) else { return };
    let verified = name.verify(keys, &kept, |id, _| (id == device.id()).then(|| device.public()));
    assert_eq!(verified.is_ok(), text == sealed.kept, "another record is accepted");
});
