//! Fault injection: rules of the pipeline that tests leave out, one at a time, to show that they would
//! notice.
//!
//! Without the cargo feature `fault-injection`, which no shipped build enables, no rule is left out.

/// A fault: one rule of the pipeline is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Conditions are checked before the body is read, and not again at the commit.
    ConditionJudgedOnlyEarly,
    /// After a lost swap the changes are applied to the newer root without being examined again.
    RebaseWithoutJudging,
    /// Answers without a swap are given from any remembered root.
    AnswerFromStaleBase,
    /// Reads are answered from the remembered root.
    ReadFromCachedRoot,
    /// A swap without an answer is treated as lost.
    UnansweredTakenForLost,
    /// Retries are not recognised.
    RecordOff,
    /// The root is published before its blocks are durable.
    PublishedBeforeDurable,
    /// A pointer that went back in time is adopted.
    RegressedAdopted,
    /// The collector deletes blocks of writes in flight.
    CollectDespiteWrites,
    /// The collector deletes blocks that requests read from.
    CollectDespiteReaders,
    /// The collector deletes blocks of a root whose pointer is being read.
    CollectDespiteReads,
    /// The collector deletes blocks that were replaced after it determined which roots are in use.
    CollectJustReplaced,
    /// The collector takes a root whose block is marked for one whose tree is marked.
    CollectMarkedRoots,
    /// The collector leaves the walk of a root that lacks a block with blocks that are marked and not walked.
    CollectHalfMarked,
    /// Content that a request has streamed, or copies from another bucket, is linked whatever collections
    /// have begun since.
    ContentNeedsNoOrigin,
    /// After a lost swap, blocks that were put for it are not put again.
    BlocksNotPutAgain,
    /// A swap does not compare the lease that it relies on.
    LeaseNotCompared,
    /// A collection does not wait for other masters, and ignores their leases.
    LeasesIgnored,
    /// A master says that it has seen a generation, or collects, before it has compared what it knows with the
    /// rows.
    KnownNotCompared,
    /// A collection does not wait for masters that a restored arbiter has forgotten.
    ForgottenNotAwaited,
    /// A collection reads which buckets are forked after it has read the rows.
    ForksReadLate,
    /// A collection keeps the sides of a fork, but not the state from which they came.
    ForkWithoutBase,
    /// A recovery leaves the leases that a restored arbiter has.
    LeasesOutliveRecovery,
    /// A recovery raises the generation above that of the master that ends it, whatever others know.
    GenerationsForgotten,
    /// Rows of deleted buckets are dropped before every master has learnt the deletions.
    DroppedUnawares,
    /// A recovery that forks a bucket again forgets the sides of the fork before.
    SidesForgotten,
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
