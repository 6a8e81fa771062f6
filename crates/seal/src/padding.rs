//! How much a sealed object hides its size.

/// How sizes are rounded up before they are sealed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Padding {
    /// Sizes stay as they are.
    None,
    /// Padmé: at most 12 % more, and a size of `L` bits shows O(log L) bits of itself. (Nikitin et al.,
    /// "Reducing Metadata Leakage from Encrypted Files and Communication with PURBs", 2019.)
    #[default]
    Padme,
}

impl Padding {
    /// Returns the number of bytes to seal for content of `size` bytes.
    pub fn padded(self, size: u64) -> u64 {
        if self == Self::None || size < 2 {
            return size;
        }
        let exponent = size.ilog2();
        let kept_bits = exponent.ilog2() + 1;
        let mask = (1 << exponent.saturating_sub(kept_bits)) - 1;
        size.saturating_add(mask) & !mask
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padme_matches_the_figures_of_its_paper() {
        for (size, padded) in
            [(0, 0), (1, 1), (9, 10), (1000, 1024), (1023, 1024), (1_000_001, 1_015_808)]
        {
            assert_eq!(Padding::Padme.padded(size), padded, "{size}");
            assert_eq!(Padding::None.padded(size), size);
        }
    }

    #[test]
    fn padme_adds_at_most_twelve_percent_and_is_stable() {
        for size in (0..200_000).chain((1 << 34..1 << 36).step_by(97_654_321)) {
            let padded = Padding::Padme.padded(size);
            assert!(padded >= size && padded - size <= size * 12 / 100, "{size} {padded}");
            assert_eq!(Padding::Padme.padded(padded), padded, "{size}");
        }
        assert!(Padding::Padme.padded(u64::MAX) > u64::MAX / 2);
    }
}
