//! Parts for tests in other languages. Each runs until standard input ends.

use std::{
    io::{self, BufRead, Write},
    net::SocketAddr,
    path::Path,
    time::Duration,
};

use fula_testkit::{link::Link, postgres::Postgres};

fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Runs a Postgres that follows commands on standard input: crash, start, hang, back up, restore.
pub(crate) fn postgres() -> io::Result<()> {
    let mut server = Postgres::start(&[])?;
    say(&server.url())?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let (command, rest) = line.split_once(' ').unwrap_or((line.as_str(), ""));
        let answer = match command {
            "crash" => server.crash(true),
            "launch" => server.launch(),
            "freeze" => server.freeze(),
            "thaw" => server.thaw(),
            "backup" => server.backup(Path::new(rest)),
            "restore" => server.restore(Path::new(rest)),
            "execute" => server.execute(rest).map(drop),
            _ => Err(io::Error::other("crash, launch, freeze, thaw, backup, restore or execute")),
        };
        say(&answer.map_or_else(|error| format!("error: {error}"), |()| "ok".to_owned()))?;
    }
    Ok(())
}

/// Runs a link that drops answers. Prints their number when standard input ends.
pub(crate) async fn link(target: SocketAddr, drop: u64, latency: Duration) -> io::Result<()> {
    let link = Link::open(target).await?;
    link.drop_answers(drop);
    link.set_latency(latency);
    say(&link.address().to_string())?;
    let ended = tokio::task::spawn_blocking(|| io::stdin().lock().lines().count());
    ended.await.map_err(io::Error::other)?;
    say(&link.dropped().to_string())
}
