//! Holds the table of settings in docs/operations.md to their declarations.

use clap::{Arg, CommandFactory};

use super::{Cli, sharing::is_shared};

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations.md");

const HEAD: &str = "| name | default | on masters | meaning |\n|---|---|---|---|\n";

/// Returns the rows, one a setting.
fn table() -> String {
    let mut command = Cli::command();
    let gateway = command.find_subcommand_mut("gateway").unwrap();
    gateway.get_arguments().filter_map(row).collect()
}

/// Returns the meaning of an option with its values, and its default if it has one.
pub(super) fn described(arg: &Arg) -> (String, Option<String>) {
    let help = arg.get_long_help().or(arg.get_help()).unwrap().to_string();
    let paragraphs =
        help.split("\n\n").map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "));
    let paragraphs: Vec<_> = paragraphs.map(|text| text.trim_end_matches('.').to_owned()).collect();
    let help = paragraphs.join(". ");
    let (meaning, said) = match help.split_once(" [default: ") {
        Some((meaning, said)) => (meaning, said.strip_suffix(']')),
        None => (help.as_str(), None),
    };
    let is_switch = !arg.get_action().takes_values();
    let declared = arg.get_default_values().first().filter(|_| !is_switch);
    let declared = declared.map(|value| value.to_str().unwrap());
    let default = match (declared, said) {
        (Some(declared), None) => Some(format!("`{declared}`")),
        (None, said) => said.map(str::to_owned),
        both => panic!("{} must have one default: {both:?}", arg.get_id()),
    };
    let value = |value: &clap::builder::PossibleValue| {
        let help = value.get_help().map(ToString::to_string).unwrap_or_default();
        // An abbreviation stays in capitals.
        let is_word = help[1..].starts_with(|second: char| !second.is_uppercase());
        let first = if is_word { help[..1].to_lowercase() } else { help[..1].to_owned() };
        format!("`{}`: {first}{}", value.get_name(), &help[1..])
    };
    let values = if is_switch { Vec::new() } else { arg.get_possible_values() };
    let values = values.iter().map(value).collect::<Vec<_>>().join("; ");
    let values = if values.is_empty() { values } else { format!(". {values}") };
    (format!("{meaning}{values}").replace('|', "\\|"), default)
}

fn row(arg: &Arg) -> Option<String> {
    let name = arg.get_env()?.to_str().unwrap();
    let (meaning, default) = described(arg);
    let default = default.unwrap_or_else(|| panic!("{name} must have a default"));
    let sharing = if is_shared(arg) { "the same" } else { "its own" };
    Some(format!("| {name} | {default} | {sharing} | {meaning} |\n"))
}

/// `FULA_WRITE_DOCS=1 cargo test` writes the table instead.
#[test]
fn the_table_of_settings_in_the_documentation_is_true() {
    let page = std::fs::read_to_string(PAGE).unwrap();
    let (before, rest) = page.split_once(HEAD).expect("the page has the table");
    let (found, after) = rest.split_once("\n\n").unwrap();
    let (found, true_table) = (format!("{found}\n"), table());
    if std::env::var_os("FULA_WRITE_DOCS").is_some() {
        std::fs::write(PAGE, format!("{before}{HEAD}{true_table}\n{after}")).unwrap();
        return;
    }
    for (found, row) in found.lines().zip(true_table.lines()) {
        assert_eq!(found, row, "FULA_WRITE_DOCS=1 writes the table");
    }
    assert_eq!(found.lines().count(), true_table.lines().count());
}
