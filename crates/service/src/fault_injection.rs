//! Fault injection: rules of the pipeline that simulation and tests leave out, one at a time, to show
//! that they would notice.
//!
//! Without the cargo feature `fault-injection`, which nothing shipped turns on, no rule is left out.

/// One rule of the pipeline left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Conditions are judged before the body is read, and not again at the commit.
    ConditionJudgedOnlyEarly,
    /// After a lost swap the changes are applied to the newer root without being judged again.
    RebaseWithoutJudging,
    /// Answers that no swap carries are given from whatever root is remembered.
    AnswerFromStaleBase,
    /// Reads are answered from the remembered root.
    ReadFromCachedRoot,
    /// A swap without an answer is taken for lost.
    UnansweredTakenForLost,
    /// Retries are not recognised.
    RecordOff,
    /// The root is swapped in before its blocks are durable.
    PublishedBeforeDurable,
    /// A pointer that went back in time is adopted.
    RegressedAdopted,
    /// The collector deletes what writes in flight put.
    CollectDespiteWrites,
    /// The collector deletes what requests read from.
    CollectDespiteReaders,
    /// The collector deletes what a pointer that is just being read leads to.
    CollectDespiteReads,
    /// The collector deletes what was replaced after it looked who reads.
    CollectJustReplaced,
}

/// Which rule is left out, if any.
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
