//! Measures what encryption at rest costs: the same work on a bucket that encrypts and on one that does not, in
//! turns.

use std::{io, time::Duration};

use fula_testkit::s3::{Call, Payload};
use http::Method;

use crate::{
    compare::{fill, sample},
    load::{Limit, Load, Operation},
    report::{Measure, Row, median, median_of},
    server::{Kind, Server},
};

const PLAIN: &str = "plain";
const ENCRYPTED: &str = "encrypted";

const RULE: &str = "<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault>\
                    <SSEAlgorithm>AES256</SSEAlgorithm></ApplyServerSideEncryptionByDefault></Rule>\
                    </ServerSideEncryptionConfiguration>";

const TAGS: &str = "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>";

/// Number of objects that are read, by their length in bytes, and of connections.
const WORKS: [(&str, usize, u64, usize); 3] =
    [("4 KiB", 4 << 10, 1024, 16), ("1 MiB", 1 << 20, 64, 8), ("64 MiB", 64 << 20, 4, 2)];

async fn make(server: &Server, name: &str) -> io::Result<()> {
    server.make_bucket(name).await?;
    // Both buckets have a setting, which costs something by itself.
    let (query, body) = if name == PLAIN { ("tagging", TAGS) } else { ("encryption", RULE) };
    let call = Call::new(Method::PUT, format!("/{name}")).query(query).body(body);
    let reply = server.client().send(&call, Duration::from_secs(30)).await?;
    if reply.status.is_success() {
        return Ok(());
    }
    Err(io::Error::other(format!("{}: the setting {query} was refused", reply.status)))
}

/// Runs the work in turns, and prints a table.
pub(crate) async fn run(rounds: usize, length: Duration) -> io::Result<()> {
    println!(
        "| work | plain | encrypted | ratio, median of rounds | CPU, ratio |\n|---|---|---|---|---|"
    );
    for (name, bytes, keys, connections) in WORKS {
        let server = Server::start(&Kind::Fula, &[]).await?;
        for bucket in [PLAIN, ENCRYPTED] {
            make(&server, bucket).await?;
            fill(&server, bucket, bytes, 0..keys).await?;
        }
        for (work, operation) in
            [("PUT", Operation::Overwrite(keys)), ("GET", Operation::Get(keys))]
        {
            let mut rows: [Vec<Row>; 2] = Default::default();
            for round in 0..rounds {
                for turn in 0..2 {
                    let which = (turn + round) % 2;
                    let load = Load {
                        operation,
                        bucket: [PLAIN, ENCRYPTED][which].to_owned(),
                        bytes,
                        connections,
                        limit: Limit::Time(length),
                        payload: Payload::Unsigned,
                        first: 0,
                    };
                    rows[which].push(sample(&server, &load, Measure::Throughput).await?);
                }
            }
            print(&format!("{work} {name}, {connections} connections"), &rows);
        }
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "figures to look at")]
fn print(work: &str, rows: &[Vec<Row>; 2]) {
    let [plain, encrypted] = rows;
    let rate = |rows: &[Row]| median_of(rows, |row| row.value);
    let cpu = |rows: &[Row]| median_of(rows, |row| row.usage.cpu / row.tally.bytes.max(1) as f64);
    let ratios = plain.iter().zip(encrypted).map(|(plain, this)| this.value / plain.value);
    println!(
        "| {work} | {:.0} MiB/s | {:.0} MiB/s | {:.2} | {:.2} |",
        rate(plain),
        rate(encrypted),
        median(ratios.collect()),
        cpu(encrypted) / cpu(plain)
    );
}
