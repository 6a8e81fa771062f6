//! Helpers that fuzz targets share.

use std::borrow::Cow;

/// Returns the input or, when it begins with `0xff`, one of `samples` with changes that the rest of the
/// input describes. A fuzzer that starts from nothing hardly ever finds a whole document.
pub fn input<'a>(data: &'a [u8], samples: &[Vec<u8>]) -> Cow<'a, [u8]> {
    let [0xff, choice, changes @ ..] = data else { return Cow::Borrowed(data) };
    let mut out = samples[usize::from(*choice) % samples.len()].clone();
    for change in changes.chunks_exact(4) {
        let at = usize::from(u16::from_be_bytes([change[1], change[2]])) % (out.len() + 1);
        match change[0] % 4 {
            0 => out.insert(at, change[3]),
            1 if at < out.len() => out[at] = change[3],
            2 if at < out.len() => drop(out.remove(at)),
            3 => {
                // Repeats a part of the document.
                let end = (at + usize::from(change[3])).min(out.len());
                let again = out[at..end].to_vec();
                out.splice(at..at, again);
            }
            _ => {}
        }
    }
    Cow::Owned(out)
}

/// Entropy that repeats, for samples of sealed objects.
pub struct Repeating(pub u64);

impl fula_seal::Entropy for Repeating {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), fula_seal::SealError> {
        self.0 += 1;
        blake3::Hasher::new().update(&self.0.to_be_bytes()).finalize_xof().fill(out);
        Ok(())
    }
}
