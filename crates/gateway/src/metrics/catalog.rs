//! Every metric, declared once. docs/operations/monitor.md has one row for each, in this order; a test
//! compares the two.

/// What a metric does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises, from 0 at the start of the process.
    Counter,
    /// Is set.
    Gauge,
    /// Counts values in buckets.
    Histogram,
}

impl Kind {
    /// Returns its name in the text format of Prometheus.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// The labels of one series, with their values.
pub type Series = &'static [(&'static str, &'static str)];

/// One metric of a gateway.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name, with its unit where that is one.
    pub name: &'static str,
    /// What it does.
    pub kind: Kind,
    /// What its values are in.
    pub unit: &'static str,
    /// What it says, for the `HELP` line and the documentation.
    pub help: &'static str,
    /// The series that are there from the start. Others of the same labels may follow.
    pub series: &'static [Series],
}

impl Metric {
    /// Returns the name with the names of its labels, as in the documentation.
    pub fn title(&self) -> String {
        let labels: Vec<&str> = self.series[0].iter().map(|(label, _)| *label).collect();
        if labels.is_empty() {
            return self.name.to_owned();
        }
        format!("{}{{{}}}", self.name, labels.join(","))
    }

    const fn new(
        kind: Kind,
        name: &'static str,
        unit: &'static str,
        help: &'static str,
        series: &'static [Series],
    ) -> Self {
        Self { name, kind, unit, help, series }
    }
}

const fn counter(name: &'static str, unit: &'static str, help: &'static str) -> Metric {
    Metric::new(Kind::Counter, name, unit, help, ONE)
}

const fn gauge(name: &'static str, unit: &'static str, help: &'static str) -> Metric {
    Metric::new(Kind::Gauge, name, unit, help, ONE)
}

const fn histogram(name: &'static str, unit: &'static str, help: &'static str) -> Metric {
    Metric::new(Kind::Histogram, name, unit, help, ONE)
}

const fn by(series: &'static [Series], metric: Metric) -> Metric {
    Metric { series, ..metric }
}

/// No labels.
const ONE: &[Series] = &[&[]];

const BUILD: &[Series] = &[&[("version", env!("CARGO_PKG_VERSION"))]];

const LISTENERS: &[Series] = &[&[("listener", "s3")], &[("listener", "admin")]];

const OUTCOMES: &[Series] = &[&[("outcome", "let in")], &[("outcome", "refused")]];

/// What every client asks for; the others follow with their first request.
const OPERATIONS: &[Series] = &[
    &[("operation", "GetObject")],
    &[("operation", "HeadObject")],
    &[("operation", "PutObject")],
    &[("operation", "DeleteObject")],
    &[("operation", "ListObjectsV2")],
];

const ANSWERS: &[Series] = &[
    &[("operation", "GetObject"), ("status", "200")],
    &[("operation", "HeadObject"), ("status", "200")],
    &[("operation", "PutObject"), ("status", "200")],
    &[("operation", "DeleteObject"), ("status", "204")],
    &[("operation", "ListObjectsV2"), ("status", "200")],
];

/// The kinds of targets of `FULA_PINS`. Further targets of a kind follow as `kubo-2` and so on.
const TARGETS: &[Series] = &[&[("target", "kubo")], &[("target", "cluster")], &[("target", "psa")]];

/// Every metric of a gateway.
pub const ALL: &[Metric] = &[
    // The process.
    by(
        BUILD,
        gauge("fula_build_info", "1", "Version of this gateway, as a label; the value is 1."),
    ),
    gauge("process_start_time_seconds", "seconds since 1970", "When the process started."),
    gauge("process_resident_memory_bytes", "bytes", "Memory of the process that is in RAM."),
    gauge("process_open_fds", "descriptors", "Open file descriptors."),
    gauge("process_max_fds", "descriptors", "Most file descriptors that the process may open."),
    // Requests.
    by(
        ANSWERS,
        counter("fula_requests_total", "requests", "Requests by operation and HTTP status."),
    ),
    by(OPERATIONS, histogram("fula_request_seconds", "seconds", "Time from headers to answer.")),
    counter("fula_received_bytes_total", "bytes", "Bytes of request bodies that were read."),
    counter("fula_sent_bytes_total", "bytes", "Bytes of answers, without their headers."),
    counter("fula_unavailable_total", "requests", "Requests that found a store failing."),
    by(
        OUTCOMES,
        counter("fula_auth_total", "credentials", "Credentials that were accepted or refused."),
    ),
    gauge("fula_jwks_keys", "keys", "Keys of the key set of FULA_JWKS that are in use."),
    // Connections and memory.
    by(LISTENERS, gauge("fula_connections", "connections", "Open connections.")),
    by(
        LISTENERS,
        gauge("fula_connections_max", "connections", "Most connections that may be open."),
    ),
    counter(
        "fula_connections_closed_total",
        "connections",
        "Idle connections that were closed to make room for others.",
    ),
    by(
        LISTENERS,
        counter(
            "fula_connections_refused_total",
            "connections",
            "Connections that were refused because none was idle.",
        ),
    ),
    gauge("fula_body_memory_bytes", "bytes", "Memory that request and response bodies hold."),
    gauge(
        "fula_body_memory_max_bytes",
        "bytes",
        "Most memory that bodies may hold: FULA_BODY_BYTES.",
    ),
    counter("fula_memory_waits_total", "bodies", "Bodies that waited for memory."),
    counter(
        "fula_memory_hangups_total",
        "connections",
        "Connections that were closed because they were slow.",
    ),
    gauge("fula_node_cache_bytes", "bytes", "Memory that decoded tree nodes take."),
    counter("fula_node_reads_total", "nodes", "Tree nodes that were not in memory."),
    // Commits.
    counter("fula_commit_rounds_total", "rounds", "Commit rounds begun."),
    histogram("fula_commit_batch_changes", "changes", "Changes in one commit round."),
    counter("fula_commit_rebases_total", "rounds", "Rounds that started again on a newer root."),
    counter("fula_commit_blocks_total", "blocks", "Blocks written by commit rounds."),
    counter("fula_commit_bytes_total", "bytes", "Bytes written by commit rounds."),
    counter("fula_commit_turns_total", "waits", "Waits for other masters that go first."),
    counter(
        "fula_commit_remembered_total",
        "retries",
        "Retries that got the answer of the first attempt.",
    ),
    // The arbiter.
    counter("fula_pointer_reads_total", "reads", "Reads of root pointers."),
    gauge(
        "fula_arbiter_in_doubt",
        "0 or 1",
        "1 while the arbiter seems to have gone back in time.",
    ),
    counter("fula_regressions_total", "pointers", "Root pointers that went back in time."),
    gauge(
        "fula_local_state_failed",
        "0 or 1",
        "1 while this master cannot write to its own data directory; it refuses writes then.",
    ),
    gauge("fula_masters", "masters", "Masters that a recovery waits for, this one included."),
    gauge("fula_masters_seen", "masters", "Those of them that were seen in the last minute."),
    gauge(
        "fula_clock_skew_seconds",
        "seconds",
        "How far the shared arbiter's clock is ahead of this master's; 0 without one.",
    ),
    gauge("fula_buckets", "buckets", "Buckets that are not deleted; 0 with a shared arbiter."),
    gauge(
        "fula_buckets_deleted",
        "buckets",
        "Deleted buckets whose rows are still kept; 0 with a shared arbiter.",
    ),
    // The disk.
    gauge("fula_disk_free_bytes", "bytes", "Free space of the disk of the data directory."),
    gauge("fula_disk_size_bytes", "bytes", "Size of the disk of the data directory."),
    gauge("fula_disk_reserved_bytes", "bytes", "Free space below which writes are refused."),
    counter("fula_log_fsyncs_total", "fsyncs", "fsyncs of log segments."),
    counter("fula_log_appended_bytes_total", "bytes", "Bytes appended to the log."),
    gauge("fula_log_failed", "0 or 1", "1 once the log takes no writes until a restart."),
    gauge("fula_log_bytes", "bytes", "Size of the log: live, retained and dead bytes."),
    gauge(
        "fula_log_live_bytes",
        "bytes",
        "Bytes of the log in use, including what the next collection will find unused.",
    ),
    gauge(
        "fula_log_retained_bytes",
        "bytes",
        "Bytes of replaced and deleted content that the last collection kept for the retention.",
    ),
    gauge(
        "fula_retention_seconds",
        "seconds",
        "Time for which the next collection keeps replaced and deleted content.",
    ),
    gauge(
        "fula_log_dead_bytes",
        "bytes",
        "Bytes of the log that are not in use; rewriting segments gives most of them back.",
    ),
    // Collections.
    counter("fula_gc_runs_total", "collections", "Collections that finished."),
    counter(
        "fula_gc_failures_total",
        "collections",
        "Collections that failed; nothing was deleted.",
    ),
    gauge(
        "fula_gc_unreadable_blocks",
        "blocks",
        "Blocks that stopped the last collection because they cannot be read.",
    ),
    histogram("fula_gc_seconds", "seconds", "Time of a collection, with its pauses."),
    gauge("fula_gc_marked_blocks", "blocks", "Blocks in use at the last collection."),
    counter("fula_scrub_blocks_total", "blocks", "Blocks that the scrub has read."),
    gauge(
        "fula_damage_known",
        "0 or 1",
        "1 while damage was found since the last fula fsck without a problem.",
    ),
    gauge("fula_scrub_damaged_blocks", "blocks", "Damaged blocks that the scrub has found."),
    gauge(
        "fula_scrub_ended_timestamp_seconds",
        "seconds since 1970",
        "End of the last scrub; 0 before the first.",
    ),
    counter("fula_gc_deleted_blocks_total", "blocks", "Blocks deleted by collections."),
    counter("fula_gc_deleted_bytes_total", "bytes", "Bytes of blocks deleted by collections."),
    counter(
        "fula_gc_dropped_buckets_total",
        "buckets",
        "Rows of deleted buckets that were dropped.",
    ),
    counter("fula_gc_rewritten_bytes_total", "bytes", "Bytes of segments that were rewritten."),
    counter(
        "fula_lifecycle_ended_total",
        "objects",
        "Objects, versions, markers and uploads that this master expired by lifecycle rules.",
    ),
    // Public objects by CID.
    gauge("fula_public_objects", "objects", "Public objects that can be read by CID."),
    counter(
        "fula_public_left_out_total",
        "objects",
        "Public objects that did not fit into the index of FULA_CID_INDEX.",
    ),
    // Storage nodes.
    gauge("fula_storage_nodes_away", "nodes", "Nodes of FULA_STORAGE_NODES that do not answer."),
    counter(
        "fula_mapped_lost_total",
        "blocks",
        "Blocks of mapped objects that a storage node did not have any more.",
    ),
    counter(
        "fula_holds_pinned_total",
        "blocks",
        "Blocks whose lease or pin ended and was renewed.",
    ),
    counter(
        "fula_holds_released_total",
        "blocks",
        "Blocks whose lease or pin ended, and that nobody needs.",
    ),
    // Pins.
    gauge(
        "fula_pins_buckets",
        "buckets",
        "Buckets that are to be pinned on the targets of FULA_PINS.",
    ),
    by(
        TARGETS,
        gauge(
            "fula_pins_behind",
            "buckets",
            "Buckets whose newest root the target does not have yet.",
        ),
    ),
    by(
        TARGETS,
        gauge("fula_pins_lag_seconds", "seconds", "Time for which the target has been behind."),
    ),
    by(
        TARGETS,
        gauge(
            "fula_pins_lag_versions",
            "versions",
            "Versions of one bucket by which the target is behind, at most.",
        ),
    ),
    by(TARGETS, counter("fula_pins_done_total", "pins", "Changes of pins that were carried out.")),
    by(
        TARGETS,
        counter(
            "fula_pins_failures_total",
            "pins",
            "Changes of pins that failed and are tried again.",
        ),
    ),
    by(
        TARGETS,
        counter("fula_pins_sent_blocks_total", "blocks", "Blocks that were sent to the target."),
    ),
    by(
        TARGETS,
        counter("fula_pins_sent_bytes_total", "bytes", "Bytes that were sent to the target."),
    ),
    gauge(
        "fula_psa_waiting",
        "pins",
        "Pins of users that wait to be fetched, or are being fetched, on all masters.",
    ),
    by(
        &[&[("outcome", "pinned")], &[("outcome", "retried")], &[("outcome", "failed")]],
        counter(
            "fula_psa_fetches_total",
            "pins",
            "Attempts of this process to fetch a pin of a user.",
        ),
    ),
    counter("fula_psa_fetched_bytes_total", "bytes", "Bytes that were fetched for pins of users."),
];
