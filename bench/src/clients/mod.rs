//! Measures clients that seal files: vaults beside `rclone crypt` in turns, several devices whose answers get
//! lost, and a file through a storage node.
//!
//! Each tool works on a new gateway in each round. Times are those of whole processes, from their start to their
//! end, and memory is the peak that the kernel counts for a process (`VmHWM`).

mod devices;
mod files;
mod node;
mod program;
mod tool;

use std::{
    io,
    path::{Path, PathBuf},
};

use self::{
    program::Ran,
    tool::{Job, Tool, Turn},
};
use crate::report::median;

/// A line of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Row {
    /// A large file, up, down, and to standard output
    Large,
    /// Files of 4 KiB up
    Small,
    /// A folder of files of mixed sizes up, 26 750 bytes each on average
    Folder,
    /// A folder that did not change, and the list of its names on a machine that has not seen it
    Names,
    /// Conditional updates of shared files by four devices whose answers get lost
    Devices,
    /// A file through a storage node, and straight to the gateway
    Node,
}

/// The sizes of the work.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Plan {
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: usize,
    /// Measure these rows alone
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Row>,
    /// Length of the large file in MiB
    #[arg(long, default_value_t = 1024)]
    mib: u64,
    /// Number of files of 4 KiB
    #[arg(long, default_value_t = 10_000)]
    small: u64,
    /// Number of files of mixed sizes
    #[arg(long, default_value_t = 2_000)]
    folder: u64,
    /// Number of files that do not change
    #[arg(long, default_value_t = 100_000)]
    names: u64,
    /// Number of updates of each device
    #[arg(long, default_value_t = 1_000)]
    updates: u64,
    /// Program of rclone
    #[arg(long, default_value = "rclone")]
    rclone: PathBuf,
    /// Measure Fula alone, such as its memory for a very large file
    #[arg(long)]
    alone: bool,
}

/// What both tools took for one kind of work, by tool and round.
struct Line {
    name: String,
    runs: [Vec<Ran>; 2],
}

impl Line {
    fn new(name: String) -> Self {
        Self { name, runs: Default::default() }
    }
}

impl Plan {
    fn has(&self, row: Row) -> bool {
        self.only.is_empty() || self.only.contains(&row)
    }

    fn tools(&self) -> &'static [Tool] {
        if self.alone { &[Tool::Fula] } else { &[Tool::Fula, Tool::Rclone] }
    }

    /// Lets each tool work once on a gateway of its own. They take turns at being the first.
    async fn round(
        &self,
        round: usize,
        mut work: impl AsyncFnMut(&Turn) -> io::Result<()>,
    ) -> io::Result<()> {
        let tools = self.tools();
        for turn in 0..tools.len() {
            let tool = tools[(turn + round) % tools.len()];
            work(&Turn::start(tool, &self.rclone).await?).await?;
        }
        Ok(())
    }
}

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}

fn print(lines: &[Line]) {
    println!(
        "| work | fula | rclone crypt | ratio, median of rounds | peak memory of fula | of rclone |"
    );
    println!("|{}", "---|".repeat(6));
    for Line { name, runs: [ours, theirs] } in lines {
        let seconds = |runs: &[Ran]| median(runs.iter().map(|ran| ran.seconds).collect());
        let peak = |runs: &[Ran]| mib(runs.iter().map(|ran| ran.peak).max().unwrap_or(0));
        if theirs.is_empty() {
            println!("| {name} | {:.2} s | - | - | {} MiB | - |", seconds(ours), peak(ours));
            continue;
        }
        let ratios = ours.iter().zip(theirs).map(|(ours, theirs)| theirs.seconds / ours.seconds);
        println!(
            "| {name} | {:.2} s | {:.2} s | {:.2} | {} MiB | {} MiB |",
            seconds(ours),
            seconds(theirs),
            median(ratios.collect()),
            peak(ours),
            peak(theirs)
        );
    }
}

/// Measures a large file, up and down.
async fn large(plan: &Plan, dir: &Path) -> io::Result<Vec<Line>> {
    let (file, back) = (dir.join("large"), dir.join("back"));
    files::large(&file, plan.mib, 0)?;
    let mut up = Line::new(format!("{} MiB up", plan.mib));
    let mut down = Line::new(format!("{} MiB down", plan.mib));
    let mut read = Line::new(format!("{} MiB down, to /dev/null", plan.mib));
    for round in 0..plan.rounds {
        plan.round(round, async |turn| {
            up.runs[turn.tool as usize].push(turn.run(Job::Up(&file)).await?.0);
            down.runs[turn.tool as usize].push(turn.run(Job::Down(&back)).await?.0);
            files::compare(&file, &back)?;
            std::fs::remove_file(&back)?;
            read.runs[turn.tool as usize].push(turn.run(Job::Read).await?.0);
            Ok(())
        })
        .await?;
    }
    std::fs::remove_file(&file)?;
    Ok(vec![up, down, read])
}

/// Measures a folder on its way up.
async fn folder(plan: &Plan, dir: &Path, name: &str, sizes: &[u64]) -> io::Result<Line> {
    let folder = dir.join("folder");
    let bytes = files::folder(&folder, sizes, None)?;
    let mut line = Line::new(format!("{name}, {:.1} MB, up", files::megabytes(bytes)));
    for round in 0..plan.rounds {
        plan.round(round, async |turn| {
            line.runs[turn.tool as usize].push(turn.run(Job::Copy(&folder)).await?.0);
            turn.check_count(sizes.len()).await
        })
        .await?;
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(line)
}

/// Measures a folder that did not change, and the list of its names.
async fn names(plan: &Plan, dir: &Path) -> io::Result<Vec<Line>> {
    let folder = dir.join("names");
    let sizes = vec![files::TINY; usize::try_from(plan.names).unwrap_or(usize::MAX)];
    files::folder(&folder, &sizes, Some(files::IN_A_FOLDER))?;
    let mut sync = Line::new(format!("sync of {} unchanged files", plan.names));
    let mut list = Line::new(format!("list of {} names, cold", plan.names));
    let mut turns = Vec::new();
    for tool in plan.tools() {
        let turn = Turn::start(*tool, &plan.rclone).await?;
        turn.run(Job::Copy(&folder)).await?;
        turn.check_count(sizes.len()).await?;
        turns.push(turn);
    }
    for round in 0..plan.rounds {
        for n in 0..turns.len() {
            let turn = &turns[(n + round) % turns.len()];
            let (ran, _) = turn.run(Job::Sync(&folder)).await?;
            sync.runs[turn.tool as usize].push(ran);
            let (ran, text) = turn.run(Job::Names).await?;
            list.runs[turn.tool as usize].push(ran);
            turn.check_names(&text, sizes.len())?;
        }
    }
    for turn in &turns {
        let peak = mib(turn.server.usage()?.peak);
        println!("peak memory of the gateway of {}: {peak} MiB", turn.tool.name());
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(vec![sync, list])
}

/// Measures everything that the plan names.
pub(crate) async fn run(plan: &Plan) -> io::Result<()> {
    for tool in plan.tools() {
        println!("{}", tool.version(&plan.rclone).await?);
    }
    let dir = tempfile::Builder::new().prefix("fula-bench-").tempdir()?;
    let mut lines = Vec::new();
    if plan.has(Row::Large) {
        lines.extend(large(plan, dir.path()).await?);
    }
    if plan.has(Row::Small) {
        let sizes = vec![4096; usize::try_from(plan.small).unwrap_or(usize::MAX)];
        let name = format!("{} files of 4 KiB", plan.small);
        lines.push(folder(plan, dir.path(), &name, &sizes).await?);
    }
    if plan.has(Row::Folder) {
        let sizes: Vec<u64> = (0..plan.folder).map(files::mixed).collect();
        lines.push(folder(plan, dir.path(), &format!("{} files", plan.folder), &sizes).await?);
    }
    if plan.has(Row::Names) {
        lines.extend(names(plan, dir.path()).await?);
    }
    if !lines.is_empty() {
        print(&lines);
    }
    if plan.has(Row::Devices) {
        Box::pin(devices::run(plan.updates)).await?;
    }
    if plan.has(Row::Node) {
        Box::pin(node::run(plan.rounds, plan.mib, dir.path())).await?;
    }
    Ok(())
}
