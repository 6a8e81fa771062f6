//! How many blocks are in flight: one more after each window that went well, half as many after a refusal.

/// The number of blocks in flight.
#[derive(Debug)]
pub(super) struct Window {
    size: usize,
    /// Blocks that went well since the size changed.
    good: usize,
}

/// Largest number of blocks in flight.
pub(super) const WINDOW_MAX: usize = 16;

impl Default for Window {
    fn default() -> Self {
        Self { size: WINDOW_MAX, good: 0 }
    }
}

impl Window {
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Notes a block that went well.
    pub(super) fn good(&mut self) {
        self.good += 1;
        if self.good >= self.size {
            (self.size, self.good) = ((self.size + 1).min(WINDOW_MAX), 0);
        }
    }

    /// Notes that a node asked for less.
    pub(super) fn busy(&mut self) {
        (self.size, self.good) = ((self.size / 2).max(1), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_halves_and_grows_by_one() {
        let mut window = Window::default();
        for expected in [8, 4, 2, 1, 1] {
            window.busy();
            assert_eq!(window.size(), expected);
        }
        for _ in 0..3 {
            window.good();
        }
        assert_eq!(window.size(), 3);
        for _ in 0..1000 {
            window.good();
        }
        assert_eq!(window.size(), WINDOW_MAX);
    }
}
