//! Prometheus metrics, and how they are rendered.
//!
//! [`ALL`] declares every metric once. All of them exist from the start, so that a query about something
//! that has not happened yet finds 0.

mod catalog;

use metrics::Label;
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

pub use self::catalog::{ALL, Kind, Metric, Series};

/// Upper bounds of the buckets of latencies, in seconds.
const SECONDS: [f64; 14] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Upper bounds of the buckets of collections, in seconds.
const GC_SECONDS: [f64; 8] = [0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0];

/// Upper bounds of the buckets of batch sizes, in changes.
const CHANGES: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Installs the recorder of this process, and returns its renderer. It contains every metric of [`ALL`].
///
/// # Errors
/// [`BuildError`] when there is one already.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let handle = builder()?.install_recorder()?;
    begin();
    Ok(handle)
}

fn builder() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Full("fula_gc_seconds".to_owned()), &GC_SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_changes".to_owned()), &CHANGES)
}

/// Describes every metric to the recorder, and starts each of its series at 0.
fn begin() {
    for metric in ALL {
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, metric.help),
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.help),
            Kind::Histogram => metrics::describe_histogram!(metric.name, metric.help),
        }
        for series in metric.series {
            let labels = series.iter().map(|(label, value)| Label::from_static_parts(label, value));
            let labels: Vec<Label> = labels.collect();
            match metric.kind {
                Kind::Counter => metrics::counter!(metric.name, labels).absolute(0),
                Kind::Gauge => metrics::gauge!(metric.name, labels).increment(0.0),
                Kind::Histogram => drop(metrics::histogram!(metric.name, labels)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    const CRATES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

    const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations/monitor.md");

    #[test]
    fn every_metric_is_rendered_from_the_start() {
        let recorder = builder().unwrap().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, begin);
        let text = handle.render();
        for metric in ALL {
            let Metric { name, help, .. } = metric;
            assert!(text.contains(&format!("# HELP {name} {help}\n")), "{name}");
            assert!(text.contains(&format!("# TYPE {name} {}\n", metric.kind.name())), "{name}");
            let is_sample = |line: &&str| !line.starts_with('#') && line.starts_with(name);
            assert!(text.lines().any(|line| is_sample(&line)), "{name}");
        }
    }

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        for metric in ALL {
            let Metric { name, kind, unit, .. } = metric;
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            for base in ["bytes", "seconds"] {
                let is_named = name.contains(base);
                assert_eq!(is_named, unit.split(' ').next() == Some(base), "{name} is in {unit}");
            }
        }
    }

    /// Returns the names that follow `counter!(` and the like in the sources of all crates.
    fn names_in(dir: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                names_in(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let macros = ["counter", "gauge", "histogram"].map(|name| format!("{name}!("));
                let calls = macros.iter().flat_map(|name| text.split(name.as_str()).skip(1));
                let named = calls.filter_map(|call| call.trim_start().strip_prefix('"'));
                found.extend(named.filter_map(|call| Some(call.split_once('"')?.0.to_owned())));
            }
        }
    }

    #[test]
    fn what_the_code_counts_and_what_is_declared_are_the_same() {
        let mut counted = BTreeSet::new();
        for entry in fs::read_dir(CRATES).unwrap() {
            names_in(&entry.unwrap().path().join("src"), &mut counted);
        }
        let declared: BTreeSet<String> = ALL.iter().map(|metric| metric.name.to_owned()).collect();
        assert_eq!(declared.len(), ALL.len(), "a metric is declared twice");
        assert_eq!(counted, declared);
    }

    #[test]
    fn the_table_of_metrics_in_the_documentation_is_true() {
        let page = fs::read_to_string(PAGE).unwrap();
        let head =
            "| metric | meaning | unit | normal value | what to do |\n|---|---|---|---|---|\n";
        let (_, rest) = page.split_once(head).expect("the page has the table");
        let rows: Vec<&str> = rest.lines().take_while(|line| line.starts_with('|')).collect();
        for (row, metric) in rows.iter().zip(ALL) {
            let begin = format!("| {} | {} | {} | ", metric.title(), metric.help, metric.unit);
            assert!(row.starts_with(&begin), "{row}\nmust begin with\n{begin}");
            let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
            assert_eq!(cells.len(), 5, "{row}");
            assert!(cells.iter().all(|cell| !cell.is_empty()), "{row}");
        }
        assert_eq!(rows.len(), ALL.len());
    }
}
