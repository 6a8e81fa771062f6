//! Holds docs/cli.md, the page of all commands and their options, to the declarations.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use clap::{Arg, Command};

use super::{command, table::described};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cli.md");

const HEAD: &str = "# Command line reference

Every command and every option on one page. `--help` of a command prints the same in a terminal, and
`fula man` writes manual pages. [Commands by task](commands.md) begins with what you want to do.

- An option has two dashes, an argument has none. What is *needed* has no default.
- An option with a variable is a setting: the variable sets it, too, and the option wins. Those of the
  gateway can also stand in a [settings file](operations.md#settings).
- Exit status 0 means success. Commands whose other numbers have a meaning say which.
";

const COMMON: &str = "
## Common options

These options mean the same in every command that takes them.
";

/// Number of commands from which on an option is described once for all of them.
const COMMON_FROM: usize = 5;

/// Widest line of prose.
const WIDTH: usize = 110;

/// A row of a table of options: the cells in the order of [`COLUMNS`].
type Row = [String; 4];

const COLUMNS: [&str; 4] = ["option", "variable", "default", "meaning"];

/// Returns how an option or an argument is typed.
fn typed(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default();
    let names = names.iter().map(|name| format!("<{name}>")).collect::<Vec<_>>().join(" ");
    if arg.is_positional() {
        return format!("`{names}`");
    }
    let value = if arg.get_action().takes_values() { format!(" {names}") } else { String::new() };
    let short = arg.get_short().map(|short| format!("`-{short}`, ")).unwrap_or_default();
    format!("{short}`--{}{value}`", arg.get_long().unwrap())
}

fn row(arg: &Arg) -> Row {
    let (meaning, default) = described(arg);
    let variable = arg.get_env().map(|name| format!("`{}`", name.to_string_lossy()));
    let default = if arg.is_required_set() { Some("needed".to_owned()) } else { default };
    let cells = [typed(arg), variable.unwrap_or_default(), default.unwrap_or_default(), meaning];
    cells.map(|cell| cell.replace("\\|", "|").replace('|', "\\|"))
}

/// Returns a table without the columns that no row fills.
fn table(rows: &[Row]) -> String {
    let kept: Vec<usize> =
        (0..4).filter(|at| rows.iter().any(|row| !row[*at].is_empty())).collect();
    let line = |cells: &dyn Fn(usize) -> String| {
        let cells: Vec<_> = kept.iter().map(|at| cells(*at)).collect();
        format!("| {} |\n", cells.join(" | ").replace("|  |", "| |").replace("|  |", "| |"))
    };
    let mut text = line(&|at| COLUMNS[at].to_owned());
    writeln!(text, "|{}", "---|".repeat(kept.len())).unwrap();
    for row in rows {
        text += &line(&|at| row[at].clone());
    }
    text
}

/// Returns paragraphs with lines of at most [`WIDTH`] characters.
fn wrapped(text: &str) -> String {
    let mut lines = String::new();
    for paragraph in text.split("\n\n") {
        let mut width = 0;
        for word in paragraph.split_whitespace() {
            if width > 0 && width + 1 + word.chars().count() > WIDTH {
                lines.push('\n');
                width = 0;
            } else if width > 0 {
                lines.push(' ');
                width += 1;
            }
            lines += word;
            width += word.chars().count();
        }
        lines += "\n\n";
    }
    lines.trim_end().to_owned() + "\n"
}

/// Returns what a command is for, as sentences.
fn about(command: &Command) -> String {
    let text = command.get_long_about().or(command.get_about()).unwrap().to_string();
    let (first, rest) = text.split_once("\n\n").unwrap_or((&text, ""));
    format!("{}.\n\n{rest}", first.trim_end_matches('.')).trim_end().to_owned()
}

fn options(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| !arg.is_hide_set())
}

/// Counts the commands that have each option.
fn count(command: &Command, found: &mut BTreeMap<Row, usize>) {
    for arg in options(command).filter(|arg| !arg.is_positional()) {
        *found.entry(row(arg)).or_default() += 1;
    }
    command.get_subcommands().for_each(|command| count(command, found));
}

/// Returns the options that are described once. Where texts differ, it is the one that most commands have.
fn common(all: &Command) -> BTreeSet<Row> {
    let mut found = BTreeMap::new();
    count(all, &mut found);
    let mut found: Vec<_> = found.into_iter().filter(|(_, times)| *times >= COMMON_FROM).collect();
    found.sort_by_key(|(row, times)| (std::cmp::Reverse(*times), row.clone()));
    let mut names = BTreeSet::new();
    found.into_iter().map(|(row, _)| row).filter(|row| names.insert(row[0].clone())).collect()
}

/// Adds the section of a command, and those of its subcommands.
fn section(command: &Command, name: &str, common: &BTreeSet<Row>, page: &mut String) {
    let level = "#".repeat(name.split(' ').count());
    write!(page, "\n{level} {name}\n\n{}", wrapped(&about(command))).unwrap();
    let (shared, own): (Vec<_>, Vec<_>) =
        options(command).map(row).partition(|row| common.contains(row));
    if !own.is_empty() {
        write!(page, "\n{}", table(&own)).unwrap();
    }
    if !shared.is_empty() {
        let names: Vec<_> = shared.iter().map(|row| row[0].split(" <").next().unwrap()).collect();
        let names: Vec<_> =
            names.iter().map(|name| format!("{}`", name.trim_end_matches('`'))).collect();
        let text = format!("[Common options](#common-options): {}.", names.join(", "));
        write!(page, "\n{}", wrapped(&text)).unwrap();
    }
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        section(sub, &format!("{name} {}", sub.get_name()), common, page);
    }
}

/// Returns the page.
fn page() -> String {
    let all = command();
    let common = common(&all);
    let mut page = HEAD.to_owned();
    page += "\n| command | what it does |\n|---|---|\n";
    for command in all.get_subcommands() {
        let name = command.get_name();
        let about = command.get_about().unwrap().to_string();
        writeln!(page, "| [{name}](#fula-{name}) | {about} |").unwrap();
    }
    write!(page, "{COMMON}\n{}", table(&common.iter().cloned().collect::<Vec<_>>())).unwrap();
    for command in all.get_subcommands() {
        section(command, &format!("fula {}", command.get_name()), &common, &mut page);
    }
    page
}

/// `FULA_WRITE_DOCS=1 cargo test` writes the page instead.
#[test]
fn the_page_of_all_commands_is_true() {
    let page = page();
    if std::env::var_os("FULA_WRITE_DOCS").is_some() {
        std::fs::write(PAGE, page).unwrap();
        return;
    }
    let found = std::fs::read_to_string(PAGE).unwrap();
    for (found, line) in found.lines().zip(page.lines()) {
        assert_eq!(found, line, "FULA_WRITE_DOCS=1 writes the page");
    }
    assert_eq!(found, page);
}

#[test]
fn no_command_and_no_option_is_missing_on_the_page() {
    fn check(command: &Command, name: &str, page: &str) {
        let (_, section) = page.split_once(&format!("# {name}\n")).expect(name);
        let section = section.split("\n#").next().unwrap();
        for arg in options(command) {
            let typed = arg.get_long().map_or_else(
                || format!("`<{}>`", arg.get_value_names().unwrap()[0]).replace('|', "\\|"),
                |long| format!("`--{long}"),
            );
            assert!(section.contains(&typed), "{name}: {typed}");
        }
        for sub in command.get_subcommands() {
            check(sub, &format!("{name} {}", sub.get_name()), page);
        }
    }
    let (all, page) = (command(), page());
    assert!(all.get_subcommands().count() > 30);
    for command in all.get_subcommands() {
        check(command, &format!("fula {}", command.get_name()), &page);
    }
}
