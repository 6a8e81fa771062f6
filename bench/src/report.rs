//! Tables of medians, with their spread.

use crate::{load::Tally, process::Usage};

/// The figure of a load that a table shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    /// Requests per second.
    Rate,
    /// MiB per second.
    Throughput,
    /// Median time of a request, in milliseconds.
    Time,
}

/// One measurement.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) value: f64,
    pub(crate) tally: Tally,
    pub(crate) usage: Usage,
}

/// Returns the median of a figure of several rows.
pub(crate) fn median_of(rows: &[Row], figure: impl Fn(&Row) -> f64) -> f64 {
    median(rows.iter().map(figure).collect())
}

/// Returns the median. For no values it is not a number.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// Returns the rows of one server. The servers were measured in turns.
fn rows_of(rows: &[Row], server: usize, servers: usize) -> Vec<Row> {
    rows.iter().skip(server).step_by(servers).cloned().collect()
}

/// Prints a table of the results of each server. The ratio is that of Fula to the peer in the same round.
pub(crate) fn print_rates(
    work: &str,
    servers: &[&str],
    cells: &[(&str, Measure, &str)],
    rows: &[Vec<Row>],
) {
    print!("| {work} work | ");
    for server in servers {
        print!("{server}, median (least - most) | ");
    }
    let peers = servers.get(1..).unwrap_or_default();
    for peer in peers {
        print!("ratio to {peer}, median of rounds | ");
    }
    let is_aimed = peers.contains(&"seaweedfs");
    println!("{}", if is_aimed { "aim, to SeaweedFS |" } else { "" });
    println!("|{}", "---|".repeat(1 + servers.len() + peers.len() + usize::from(is_aimed)));
    for ((name, measure, aim), rows) in cells.iter().zip(rows) {
        let unit = match measure {
            Measure::Rate => "/s",
            Measure::Throughput => " MiB/s",
            Measure::Time => " ms",
        };
        print!("| {name} | ");
        for server in 0..servers.len() {
            let mine = rows_of(rows, server, servers.len());
            let values: Vec<f64> = mine.iter().map(|row| row.value).collect();
            let least = values.iter().copied().fold(f64::INFINITY, f64::min);
            let most = values.iter().copied().fold(0.0, f64::max);
            let digits = usize::from(*measure == Measure::Time) * 2;
            let middle = median(values);
            print!("{middle:.digits$}{unit} ({least:.digits$} - {most:.digits$}) | ");
        }
        for peer in 1..servers.len() {
            let (ours, theirs) =
                (rows_of(rows, 0, servers.len()), rows_of(rows, peer, servers.len()));
            let ratios = ours.iter().zip(&theirs).map(|(ours, theirs)| ours.value / theirs.value);
            print!("{:.2} | ", median(ratios.collect()));
        }
        println!("{}", if is_aimed { format!("{aim} |") } else { String::new() });
    }
    println!();
}

/// Returns the median of a figure, with the smallest and the largest value.
fn spread(rows: &[Row], digits: usize, figure: impl Fn(&Row) -> f64) -> String {
    let values: Vec<f64> = rows.iter().map(figure).collect();
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    let middle = median(values);
    format!("{middle:.digits$} ({least:.digits$} - {most:.digits$})")
}

/// Prints the resources that each server has used.
#[expect(clippy::cast_precision_loss, reason = "figures to look at")]
pub(crate) fn print_usage(servers: &[&str], cells: &[(&str, Measure, &str)], rows: &[Vec<Row>]) {
    println!("| medians | server | CPU a request | written a byte put | p50 | p99 | SlowDown |");
    println!("|{}", "---|".repeat(7));
    for ((name, _, _), rows) in cells.iter().zip(rows) {
        for (n, server) in servers.iter().enumerate() {
            let mine = rows_of(rows, n, servers.len());
            let cpu = spread(&mine, 0, |row| row.usage.cpu * 1e6 / row.tally.requests as f64);
            let is_put = name.starts_with("PUT");
            let written = spread(&mine, 2, |row| row.usage.written as f64 / row.tally.bytes as f64);
            let written = if is_put { written } else { "-".to_owned() };
            let at = |share| {
                median_of(&mine, |row| row.tally.micros.value_at_quantile(share) as f64 / 1000.0)
            };
            let slow: u64 = mine.iter().map(|row| row.tally.slow_downs).sum();
            println!(
                "| {name} | {server} | {cpu} us | {written} | {:.2} ms | {:.2} ms | {slow} |",
                at(0.5),
                at(0.99)
            );
        }
    }
    println!();
}
