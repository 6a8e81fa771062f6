//! Where each setting of a start comes from, and variables that are no settings.

use std::ffi::{OsStr, OsString};

use clap::{Arg, ArgMatches, parser::ValueSource};

use super::{Cli, CliError, Command, Layered, command, layered};

/// Shown in place of a value that may be secret.
const HIDDEN: &str = "(set, not shown)";

/// The place that a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The command line.
    Flag,
    /// The environment.
    Environment,
    /// The settings file.
    File,
    /// The value that holds where nothing is set.
    Default,
    /// There is no value.
    Unset,
}

impl Origin {
    /// Returns its name.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Flag => "flag",
            Self::Environment => "environment",
            Self::File => "file",
            Self::Default => "default",
            Self::Unset => "unset",
        }
    }
}

/// One setting of a start.
#[derive(Clone)]
pub(crate) struct Setting {
    /// Environment variable.
    pub(crate) name: String,
    /// Flag, with its dashes.
    pub(crate) flag: String,
    /// Value as it may be shown to anybody; `None` if there is none.
    pub(crate) shown: Option<String>,
    pub(crate) origin: Origin,
    /// The value itself, for comparisons.
    raw: Option<OsString>,
}

impl Setting {
    /// Returns the value itself, which may be a secret.
    pub(crate) fn value(&self) -> Option<&OsStr> {
        self.raw.as_deref()
    }

    /// Returns whether `other` is the same setting with another value.
    pub(crate) fn differs_from(&self, other: &Self) -> bool {
        self.name == other.name && self.raw != other.raw
    }
}

/// A start of a gateway or a storage node, and its settings.
pub(crate) struct Start {
    /// The command, parsed.
    pub(crate) command: Command,
    /// Its settings, in the order of `--help`.
    pub(crate) settings: Vec<Setting>,
}

/// Returns the start that a command line stands for. It begins with the name of the role, or with options of a
/// gateway.
///
/// # Errors
/// [`CliError`], as the start itself would fail.
pub(crate) fn start(line: impl IntoIterator<Item = OsString>) -> Result<Start, CliError> {
    let mut line: Vec<OsString> = line.into_iter().collect();
    let is_role = |word: &OsString| ["gateway", "storage-node"].iter().any(|role| word == role);
    if !line.first().is_some_and(is_role) {
        line.insert(0, "gateway".into());
    }
    line.insert(0, "fula".into());
    of_line(line)
}

/// Returns the start of this process, which must be that of a gateway or a storage node.
///
/// # Errors
/// [`CliError`], as the start itself would fail.
pub(crate) fn start_of(line: impl IntoIterator<Item = OsString>) -> Result<Start, CliError> {
    of_line(line.into_iter().collect())
}

fn of_line(line: Vec<OsString>) -> Result<Start, CliError> {
    let Layered { cli: Cli { command: parsed }, matches, of_file } = layered(command(), line)?;
    let mut settings = Vec::new();
    if let Some((role, matches)) = matches.subcommand() {
        let mut all = command();
        let declared = all.find_subcommand_mut(role).into_iter();
        let declared = declared.flat_map(|command| command.get_arguments());
        settings = declared.filter_map(|arg| setting(arg, matches, &of_file)).collect();
    }
    Ok(Start { command: parsed, settings })
}

fn setting(arg: &Arg, matches: &ArgMatches, of_file: &[String]) -> Option<Setting> {
    let id = arg.get_id().as_str();
    let name = arg.get_env()?.to_string_lossy().into_owned();
    let raw = matches.get_raw(id).and_then(|mut values| values.next()).map(OsStr::to_owned);
    let origin = match matches.value_source(id) {
        Some(ValueSource::CommandLine) => Origin::Flag,
        Some(ValueSource::EnvVariable) => Origin::Environment,
        Some(_) if of_file.iter().any(|name| name == id) => Origin::File,
        Some(_) => Origin::Default,
        None => Origin::Unset,
    };
    let shown = raw.as_ref().map(|raw| shown(arg, &raw.to_string_lossy()));
    let flag = format!("--{}", arg.get_long().unwrap_or(id));
    Some(Setting { name, flag, shown, origin, raw })
}

/// Returns a value without what is secret in it.
fn shown(arg: &Arg, value: &str) -> String {
    let hidden = || HIDDEN.to_owned();
    match arg.get_id().as_str() {
        "database_url" => match fula_stores::place_of(value) {
            Some(place) => format!("postgres://…@{place}"),
            None => hidden(),
        },
        // What stands in front of @ may be a password, and what follows ? a signature.
        "blocks" | "jwks" if !value.contains('@') => match value.split_once('?') {
            Some((place, _)) => format!("{place}?…"),
            None => value.to_owned(),
        },
        _ if arg.is_hide_env_values_set() => hidden(),
        _ => value.to_owned(),
    }
}

/// A variable that begins with `FULA_` and has no effect.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Ineffective {
    pub(crate) name: String,
    pub(crate) why: Why,
}

impl Ineffective {
    /// Returns what is said of it to a person who starts `role`.
    pub(crate) fn text(&self, role: &str) -> String {
        let name = &self.name;
        match &self.why {
            Why::Unknown(meant) => {
                let meant = meant.as_ref().map(|meant| format!("; is {meant} meant?"));
                let meant = meant.unwrap_or_default();
                format!("the environment variable {name} is no setting, and has no effect{meant}")
            }
            Why::OfOthers(commands) => format!(
                "the environment variable {name} is a setting of {commands}, and has no effect on fula {role}"
            ),
        }
    }
}

/// Why a variable has no effect.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// No command knows it. The setting with the most similar name is given, if there is one.
    Unknown(Option<String>),
    /// Only these other commands know it.
    OfOthers(String),
}

/// Returns the variables among `names` that have no effect on the role `role`.
pub(crate) fn ineffective(
    names: impl IntoIterator<Item = OsString>,
    role: &str,
) -> Vec<Ineffective> {
    let all = command();
    let known: Vec<(String, String)> =
        all.get_subcommands().flat_map(|command| variables(command, command.get_name())).collect();
    let mut found: Vec<Ineffective> = names
        .into_iter()
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| name.starts_with("FULA_"))
        .filter_map(|name| {
            let commands = known.iter().filter(|(known, _)| *known == name);
            let mut commands: Vec<&str> = commands.map(|(_, command)| command.as_str()).collect();
            if commands.contains(&role) {
                return None;
            }
            commands.dedup();
            let why = if commands.is_empty() {
                Why::Unknown(similar(&name, known.iter().map(|(known, _)| known.as_str())))
            } else {
                let commands: Vec<_> = commands.iter().map(|name| format!("fula {name}")).collect();
                Why::OfOthers(commands.join(", "))
            };
            Some(Ineffective { name, why })
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Returns the variables of a command and of those below it, each with `name`.
fn variables(command: &clap::Command, name: &str) -> Vec<(String, String)> {
    let own = command.get_arguments().filter_map(Arg::get_env);
    let own = own.map(|variable| (variable.to_string_lossy().into_owned(), name.to_owned()));
    own.chain(command.get_subcommands().flat_map(|command| variables(command, name))).collect()
}

/// Most changes of one letter between a mistyped name and the one that was meant.
const CHANGES_MAX: usize = 3;

fn similar<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let nearest = known.map(|known| (distance(name, known), known)).min()?;
    (nearest.0 <= CHANGES_MAX).then(|| nearest.1.to_owned())
}

/// Returns the number of letters to insert, remove or replace between two texts (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, other) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(settings: &[Setting], name: &str) -> (Option<String>, &'static str) {
        let setting = settings.iter().find(|setting| setting.name == name).unwrap();
        (setting.shown.clone(), setting.origin.name())
    }

    #[test]
    fn each_setting_has_its_value_and_its_origin() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "region = \"eu-x\"\nretention = \"1h\"\n").unwrap();
        let line = ["--region", "us-y", "--config", file.path().to_str().unwrap()];
        let start = start(line.map(OsString::from)).unwrap();
        let Start { settings, command: Command::Gateway(parsed) } = start else { panic!() };
        assert_eq!(parsed.region, "us-y");
        assert_eq!(found(&settings, "FULA_REGION"), (Some("us-y".into()), "flag"));
        assert_eq!(found(&settings, "FULA_RETENTION"), (Some("1h".into()), "file"));
        assert_eq!(found(&settings, "FULA_XML_BYTES"), (Some("4M".into()), "default"));
        assert_eq!(found(&settings, "FULA_DOMAIN"), (None, "unset"));
    }

    #[test]
    fn a_storage_node_has_settings_of_its_own() {
        let line = ["storage-node", "--masters", "a=https://h#k", "--listen", ":1"];
        let settings = start(line.map(OsString::from)).unwrap().settings;
        assert_eq!(found(&settings, "FULA_NODE_LISTEN"), (Some(":1".into()), "flag"));
        assert!(settings.iter().all(|setting| setting.name != "FULA_REGION"));
    }

    #[test]
    fn no_secret_is_shown() {
        let secrets = [
            ("--database-url", "postgres://u:hush@h/d"),
            ("--database-url", "u:hush@h/d"),
            ("--blocks", "s3://hush@bucket"),
            ("--blocks", "s3://bucket?signature=hush"),
            ("--jwks", "https://h/jwks?key=hush"),
            ("--jwks", "https://u:hush@h/jwks"),
            ("--secret-access-key", "hush"),
            ("--pins", "kubo:http://hush:5001"),
            ("--psa", "kubo:http://hush:5001"),
        ];
        for (flag, value) in secrets {
            let settings = start([flag, value].map(OsString::from)).unwrap().settings;
            let setting = settings.iter().find(|setting| setting.flag == flag).unwrap();
            let shown = setting.shown.as_ref().unwrap();
            assert!(!shown.contains("hush"), "{flag}: {shown}");
        }
        // A setting that hides its value in `--help` hides it here.
        let hides: Vec<String> = command()
            .find_subcommand_mut("gateway")
            .unwrap()
            .get_arguments()
            .filter(|arg| arg.is_hide_env_values_set())
            .map(|arg| format!("--{}", arg.get_long().unwrap()))
            .collect();
        assert!(hides.len() >= 4, "{hides:?}");
        assert!(hides.iter().all(|flag| secrets.iter().any(|(listed, _)| listed == flag)));
    }

    #[test]
    fn variables_without_effect_are_named_with_what_was_meant() {
        let names =
            ["FULA_REGOIN", "FULA_NODE_LISTEN", "FULA_REGION", "FULA_NONE_SUCH_AT_ALL", "X"];
        let found = ineffective(names.map(OsString::from), "gateway");
        let expected = [
            ("FULA_NODE_LISTEN", Why::OfOthers("fula storage-node".into())),
            ("FULA_NONE_SUCH_AT_ALL", Why::Unknown(None)),
            ("FULA_REGOIN", Why::Unknown(Some("FULA_REGION".into()))),
        ];
        let expected = expected.map(|(name, why)| Ineffective { name: name.into(), why });
        assert_eq!(found, expected);
    }
}
