//! Gauges and counters that are read at intervals or at a scrape, not set where they change: those of the
//! process, its memory, the disk and the log.

use std::{sync::Arc, time::Duration};

use fula_service::error::chain;
use fula_stores::local::system_clock;

use crate::{node::Node, space::Sizes};

/// Interval between two readings of the disk.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// Sets the metrics that do not change while the process runs.
pub(crate) fn begin() {
    let version = env!("CARGO_PKG_VERSION");
    metrics::gauge!("fula_build_info", "version" => version).set(1.0);
    metrics::gauge!("process_start_time_seconds").set(f64_of(system_clock()()) / 1000.0);
}

/// Updates the metrics of the disk for as long as the gateway runs. It is a separate task, because a scrape
/// must not wait for a disk that hangs.
pub(crate) async fn watch_disk(node: Arc<Node>) {
    let mut was_well = true;
    loop {
        let node = Arc::clone(&node);
        let looked = tokio::task::spawn_blocking(move || look_at_disk(&node)).await;
        let looked = looked.unwrap_or_else(|panic| Err(std::io::Error::other(panic)));
        if let Err(error) = &looked
            && was_well
        {
            tracing::warn!(error = chain(error), "cannot read the free space of the disk");
        }
        was_well = looked.is_ok();
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn look_at_disk(node: &Node) -> std::io::Result<()> {
    let room = node.store.room()?;
    metrics::gauge!("fula_disk_free_bytes").set(f64_of(room.free));
    metrics::gauge!("fula_disk_size_bytes").set(f64_of(room.size));
    metrics::gauge!("fula_disk_reserved_bytes").set(f64_of(room.kept()));
    let found = node.collections.ledger().last;
    let sizes = Sizes::of(node, found.as_ref())?;
    metrics::gauge!("fula_log_bytes").set(f64_of(sizes.log));
    metrics::gauge!("fula_log_live_bytes").set(f64_of(sizes.live));
    metrics::gauge!("fula_log_retained_bytes").set(f64_of(sizes.retained));
    metrics::gauge!("fula_log_dead_bytes").set(f64_of(sizes.dead));
    Ok(())
}

/// Updates the metrics that are cheap to read. It is called for each scrape.
pub(crate) fn refresh(node: &Node) {
    let work = node.store.work();
    metrics::counter!("fula_log_fsyncs_total").absolute(work.fsyncs);
    metrics::counter!("fula_log_appended_bytes_total").absolute(work.appended_bytes);
    metrics::gauge!("fula_log_failed").set(u8::from(node.store.has_failed()));
    metrics::gauge!("fula_damage_known").set(u8::from(node.store.is_damage_known()));
    metrics::gauge!("fula_retention_seconds").set(node.retention.current().as_secs_f64());
    let nodes = node.service.arbiter().nodes();
    metrics::counter!("fula_node_reads_total").absolute(nodes.reads());
    metrics::gauge!("fula_node_cache_bytes").set(f64_of(nodes.cache_bytes()));
    let budget = node.service.body_budget();
    metrics::gauge!("fula_body_memory_bytes").set(f64_of(budget.used_bytes() as u64));
    metrics::gauge!("fula_body_memory_max_bytes").set(f64_of(budget.bytes() as u64));
    if node.recovery.is_none() {
        // The arbiter is embedded.
        let (live, deleted) = node.store.roots.counts();
        metrics::gauge!("fula_buckets").set(f64_of(live as u64));
        metrics::gauge!("fula_buckets_deleted").set(f64_of(deleted as u64));
    }
    if node.recovery.is_some()
        && let Some(time) = node.service.arbiter().time()
    {
        let own = system_clock()();
        let ahead = f64_of(time.saturating_sub(own)) - f64_of(own.saturating_sub(time));
        metrics::gauge!("fula_clock_skew_seconds").set(ahead / 1000.0);
    }
    if node.recovery.is_none() {
        // With a shared arbiter, the recovery counts the masters.
        for name in ["fula_masters", "fula_masters_seen"] {
            metrics::gauge!(name).set(1.0);
        }
    }
    if let Some(bytes) = resident_bytes() {
        metrics::gauge!("process_resident_memory_bytes").set(f64_of(bytes));
    }
    let (open, max) = descriptors();
    metrics::gauge!("process_open_fds").set(f64_of(open));
    metrics::gauge!("process_max_fds").set(f64_of(max));
}

/// Returns the bytes of this process that are in RAM, where the system reports them.
pub(crate) fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// Returns the number of open file descriptors, and their limit.
fn descriptors() -> (u64, u64) {
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    (open, limit.current.unwrap_or(u64::MAX))
}

/// Converts a count or a number of bytes to the type of metrics.
#[expect(clippy::cast_precision_loss, reason = "metrics are f64")]
pub(crate) fn f64_of(count: u64) -> f64 {
    count as f64
}
