//! Prometheus metrics: what is counted, and how it is rendered.

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// Upper bounds of latency buckets, in seconds.
const SECONDS: [f64; 14] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Upper bounds of buckets for collections, in seconds.
const GC_SECONDS: [f64; 8] = [0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0];

/// Upper bounds of batch size buckets, in changes.
const CHANGES: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Installs the recorder of this process and returns what renders it.
///
/// # Errors
/// [`BuildError`] when there already is one.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Full("fula_gc_seconds".to_owned()), &GC_SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_changes".to_owned()), &CHANGES)?
        .install_recorder()?;
    describe();
    Ok(handle)
}

fn describe() {
    metrics::describe_counter!("fula_requests_total", "Requests by operation and HTTP status.");
    metrics::describe_histogram!("fula_request_seconds", "Time from headers to answer.");
    metrics::describe_counter!("fula_commit_rounds_total", "Commit rounds begun.");
    metrics::describe_counter!("fula_commit_rebases_total", "Rounds judged again on a newer root.");
    metrics::describe_histogram!("fula_commit_batch_changes", "Changes per commit round.");
    metrics::describe_counter!("fula_commit_blocks_total", "Blocks written by commit rounds.");
    metrics::describe_counter!("fula_commit_bytes_total", "Bytes written by commit rounds.");
    metrics::describe_counter!("fula_node_reads_total", "Tree nodes that were not in memory.");
    metrics::describe_counter!("fula_pointer_reads_total", "Reads of root pointers.");
    metrics::describe_counter!("fula_unavailable_total", "Requests that found a store failing.");
    metrics::describe_counter!("fula_log_fsyncs_total", "fsyncs of log segments.");
    metrics::describe_counter!("fula_log_appended_bytes_total", "Bytes appended to the log.");
    metrics::describe_gauge!("fula_log_failed", "1 once the log takes no writes until a restart.");
    metrics::describe_gauge!("fula_log_bytes", "Bytes of the log.");
    metrics::describe_gauge!("fula_log_live_bytes", "Bytes of the log that are in use.");
    metrics::describe_counter!("fula_gc_runs_total", "Collections that came to their end.");
    metrics::describe_counter!("fula_gc_failures_total", "Collections that deleted nothing.");
    metrics::describe_histogram!("fula_gc_seconds", "Time of a collection, with its rests.");
    metrics::describe_gauge!("fula_gc_marked_blocks", "Blocks in use at the last collection.");
    metrics::describe_counter!("fula_gc_deleted_blocks_total", "Blocks deleted.");
    metrics::describe_counter!("fula_gc_deleted_bytes_total", "Bytes of blocks deleted.");
    metrics::describe_counter!("fula_gc_rewritten_bytes_total", "Bytes of segments rewritten.");
    metrics::describe_counter!("fula_memory_waits_total", "Bodies that waited for memory.");
    metrics::describe_counter!("fula_memory_hangups_total", "Connections ended for being slow.");
}
