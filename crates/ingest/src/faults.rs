//! Fault injection: rules of the storage node that tests leave out, one at a time, to show that they would
//! notice. Without the cargo feature `fault-injection`, which no shipped build enables, none is left out.

/// A fault: one rule is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A receipt is given before the block and its hold are durable.
    AnswerBeforeFsync,
    /// A block that the node has from anybody counts as the caller's own.
    PresenceIsReceipt,
    /// A hold that has ended is released without a question.
    ReleaseWithoutAsking,
}

/// The fault that is injected, if any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultInjection(#[cfg(feature = "fault-injection")] pub Option<Fault>);

impl FaultInjection {
    #[cfg(feature = "fault-injection")]
    pub(crate) fn has(self, fault: Fault) -> bool {
        self.0 == Some(fault)
    }

    #[cfg(not(feature = "fault-injection"))]
    #[expect(clippy::unused_self, reason = "the same call with and without the feature")]
    pub(crate) fn has(self, _: Fault) -> bool {
        false
    }
}
