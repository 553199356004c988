//! What is done to arguments around clap: lists are spread before it, and paths are looked at after it.
//!
//! **Lists.** A list is one value with commas, and its option may be repeated: `--weights 0.3,0.7 A B`. So an option never
//! takes the arguments behind it. The older form with spaces, `--weights 0.3 0.7`, is read where it can mean nothing else:
//! numbers that no file is called by, and anything at all where the command takes no arguments but options. A file whose
//! own name has commas is that file.
//!
//! **Paths.** What can be known to go wrong is refused before any work is done: it would be lost.

use std::any::TypeId;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser, ValueHint};
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::failure::Failure;
use crate::table::{Line, Table, find};

/// The arguments with every list as one value an option, which is behind an equals sign: so it may begin with a minus.
pub(super) fn spread(command: &Command, arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut rest = arguments.into_iter().peekable();
    let mut all: Vec<OsString> = rest.next().into_iter().collect();
    let mut command = command;
    while let Some(token) = rest.next() {
        if token == "--" {
            all.push(token);
            break;
        }
        let Some(long) = token.to_str().and_then(|text| text.strip_prefix("--")) else {
            command = command.find_subcommand(&token).unwrap_or(command);
            all.push(token);
            continue;
        };
        let (name, own) = match long.split_once('=') {
            Some((name, value)) => (name, Some(OsString::from(value))),
            None => (long, None),
        };
        let Some(arg) = command.get_arguments().find(|arg| arg.get_long() == Some(name)) else {
            all.push(token);
            continue;
        };
        if !is_list(arg) {
            // The value of another option is nobody else's.
            let value = if own.is_none() && arg.get_action().takes_values() { rest.next() } else { None };
            all.push(token);
            all.extend(value);
            continue;
        }
        let Some(first) = own.or_else(|| rest.next_if(|next| can_begin(arg, next))) else {
            all.push(token);
            continue;
        };
        let mut values = vec![first];
        // Behind an equals sign a list ends where its value does.
        while !long.contains('=')
            && let Some(next) = rest.next_if(|next| goes_on(command, arg, &values, next))
        {
            values.push(next);
        }
        let values = match is_pair(arg) {
            true => vec![values.join(OsStr::new(","))],
            false => values.into_iter().flat_map(|value| items(arg, value)).collect(),
        };
        all.extend(values.into_iter().map(|value| {
            let mut option = OsString::from(format!("--{name}="));
            option.push(value);
            option
        }));
    }
    all.extend(rest);
    all
}

/// Whether an option takes several values: at commas that clap divides, or as paths or models, which may have commas.
fn is_list(arg: &Arg) -> bool {
    let several = matches!(arg.get_action(), ArgAction::Append) && arg.get_long().is_some();
    is_pair(arg) || several && (arg.get_value_delimiter() == Some(',') || is_path(arg))
}

/// Whether an option takes two values.
fn is_pair(arg: &Arg) -> bool {
    let kind = arg.get_value_parser().type_id();
    kind == TypeId::of::<[f64; 2]>() || kind == TypeId::of::<[String; 2]>()
}

fn is_path(arg: &Arg) -> bool {
    arg.get_value_hint() == ValueHint::AnyPath
}

fn is_of_numbers(arg: &Arg) -> bool {
    let kind = arg.get_value_parser().type_id();
    [TypeId::of::<f64>(), TypeId::of::<u64>(), TypeId::of::<[f64; 2]>()].iter().any(|number| kind == *number)
}

/// Whether a list can begin with what comes behind its option.
fn can_begin(arg: &Arg, next: &OsStr) -> bool {
    !is_option(next) || is_of_numbers(arg) && is_numbers(next)
}

/// Whether what comes behind values of a list can only be more of them.
fn goes_on(command: &Command, arg: &Arg, values: &[OsString], next: &OsStr) -> bool {
    let alone = command.get_positionals().next().is_none();
    if is_pair(arg) {
        let whole = values.len() > 1 || values[0].as_encoded_bytes().contains(&b',');
        !whole && can_begin(arg, next)
    } else if is_of_numbers(arg) {
        is_numbers(next) && (alone || !Path::new(next).exists())
    } else {
        alone && !is_option(next)
    }
}

fn is_option(token: &OsStr) -> bool {
    token.as_encoded_bytes().starts_with(b"-") && token != "-"
}

fn is_numbers(token: &OsStr) -> bool {
    token.to_str().is_some_and(|text| text.split(',').all(|part| part.trim().parse::<f64>().is_ok()))
}

/// The values that one value of a list holds.
fn items(arg: &Arg, value: OsString) -> Vec<OsString> {
    match value.to_str() {
        Some(text) if is_path(arg) && text.contains(',') && !Path::new(&value).exists() => {
            text.split(',').map(OsString::from).collect()
        }
        _ => vec![value],
    }
}

/// A line of a table, by its name; help shows all of them with what they are.
pub(super) fn named<T: Table>() -> impl TypedValueParser<Value = &'static Line<T>> {
    let values = T::LINES.iter().map(|line| PossibleValue::new(line.name).help(line.summary));
    PossibleValuesParser::new(values).try_map(|name| find::<T>(&name))
}

/// Two values with a comma between.
pub(super) fn pair<T: FromStr>(text: &str) -> Result<[T; 2], String> {
    let parts =
        text.split_once(',').and_then(|(one, other)| Some([one.trim().parse().ok()?, other.trim().parse().ok()?]));
    parts.ok_or_else(|| "must be two values with a comma between them".to_owned())
}

/// Options that name what is written.
const WRITTEN: [&str; 2] = ["out", "screenshot"];

/// Looks at all paths that were given.
///
/// # Errors
/// Where one cannot be meant, or cannot be written to.
pub(super) fn check_paths(command: &Command, matches: &ArgMatches) -> Result<(), Failure> {
    if let Some((name, matches)) = matches.subcommand() {
        let own = command.find_subcommand(name).map(|command| check_paths(command, matches));
        own.transpose()?;
    }
    for arg in command.get_arguments().filter(|arg| arg.get_action().takes_values()) {
        if arg.get_value_parser().type_id() != TypeId::of::<PathBuf>() {
            continue;
        }
        for path in matches.get_many::<PathBuf>(arg.get_id().as_str()).into_iter().flatten() {
            let written = WRITTEN.contains(&arg.get_id().as_str());
            let is_file = arg.get_value_names().is_some_and(|names| names.iter().any(|name| name.starts_with("FILE")));
            let problem = meant(path).or_else(|| if written { cannot_write(path, is_file) } else { None });
            if let Some(problem) = problem {
                let option = arg.get_long().map_or_else(String::new, |name| format!("--{name} "));
                return Err(Failure::usage(format!("{option}{}: {problem}", path.display())));
            }
        }
    }
    Ok(())
}

/// What is wrong with a path, whatever it is for.
fn meant(path: &Path) -> Option<String> {
    if path == Path::new("-") {
        return Some("standard input and output cannot be used here; a file of this name is ./-".to_owned());
    }
    let home = path.components().next() == Some(Component::Normal(OsStr::new("~")));
    if home && !Path::new("~").exists() {
        return Some(
            "the shell did not replace ~ by your home folder: write it without quotes, and after a space".to_owned(),
        );
    }
    crate::disk::files::broken_link(path)
}

/// Why nothing can be written there.
fn cannot_write(path: &Path, is_file: bool) -> Option<String> {
    if let Err(error) = fs::symlink_metadata(path)
        && !matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
    {
        return Some(error.to_string());
    }
    if is_file {
        if path.is_dir() || path.as_os_str().as_encoded_bytes().ends_with(b"/") {
            return Some("is a folder, but a file is to be written".to_owned());
        }
        // What is no plain file, such as /dev/null, is written to as it is.
        if path.exists() && !path.is_file() {
            return None;
        }
    }
    // A file needs its folder; a folder is made with those that it lies in.
    let above = path.ancestors().skip(usize::from(is_file)).map(|one| match one.as_os_str().is_empty() {
        true => Path::new("."),
        false => one,
    });
    let place = match is_file {
        true => above.take(1).last(),
        false => above.take_while(|one| !one.exists()).last().map_or(Some(path), |missing| missing.parent()),
    }?;
    let place = if place.as_os_str().is_empty() { Path::new(".") } else { place };
    if !place.exists() {
        return Some(format!("there is no folder {}", place.display()));
    }
    if !place.is_dir() {
        let what = if place == path { "it".to_owned() } else { place.display().to_string() };
        return Some(format!("{what} is a file, not a folder"));
    }
    tempfile::tempfile_in(place).err().map(|error| format!("cannot write in {}: {error}", place.display()))
}

/// Every command that has none below it, with the words that lead to it.
#[cfg(test)]
pub(super) fn leaves(command: &Command, words: &[String], found: &mut Vec<(Vec<String>, Command)>) {
    for own in command.get_subcommands() {
        let words = [words, &[own.get_name().to_owned()]].concat();
        if own.has_subcommands() {
            leaves(own, &words, found);
        } else {
            found.push((words, own.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::path::Path;

    use clap::{Arg, Command, CommandFactory as _};

    use super::super::Cli;
    use super::{cannot_write, is_list, is_of_numbers, is_option, is_pair, leaves, meant, spread};

    /// What a command makes of arguments where nothing but its lists counts: the values of an option, and of all
    /// arguments that are none.
    fn parsed(command: &Command, arg: &Arg, words: &[&str]) -> (Vec<OsString>, Vec<OsString>) {
        let anything = || clap::builder::OsStringValueParser::new();
        let loose = command.clone().ignore_errors(true).mut_args(|arg| match arg.get_action().takes_values() {
            true => arg.value_parser(anything()),
            false => arg,
        });
        let matches = loose.try_get_matches_from(spread(command, words.iter().map(OsString::from)));
        let matches = matches.unwrap_or_else(|error| panic!("{words:?}: {error}"));
        let raw = |id: &str| matches.get_raw(id).into_iter().flatten().map(OsString::from).collect::<Vec<_>>();
        let others = command.get_positionals().flat_map(|arg| raw(arg.get_id().as_str())).collect();
        (raw(arg.get_id().as_str()), others)
    }

    #[test]
    fn no_option_of_any_command_swallows_what_stands_behind_it() {
        let (mut all, mut lists) = (Vec::new(), 0);
        leaves(&Cli::command(), &[], &mut all);
        for (words, mut command) in all {
            command.build();
            for arg in command.get_arguments().filter(|arg| !arg.is_positional()) {
                let most = arg.get_num_args().map_or(1, |count| count.max_values());
                assert!(most <= 1, "{words:?}: {arg} takes up to {most} arguments: make it a list with commas");
                let Some(name) = arg.get_long().filter(|_| is_list(arg)) else { continue };
                lists += 1;
                let (option, numbers) = (format!("--{name}"), is_of_numbers(arg));
                let [one, other] = if numbers { ["3", "7"] } else { ["a", "b"] };
                let both = format!("{one},{other}");
                let two = if is_pair(arg) { vec![both.clone()] } else { vec![one.to_owned(), other.to_owned()] };
                let is = |words: &[&str], others: &[&str]| {
                    let (found, rest) = parsed(&command, arg, words);
                    assert_eq!(
                        (found, rest),
                        (two.iter().map(OsString::from).collect(), others.iter().map(OsString::from).collect()),
                        "{words:?}"
                    );
                };
                let places =
                    command.get_positionals().map(|arg| arg.get_num_args().map_or(1, |n| n.max_values())).max();
                let one_more: &[&str] = if places.is_some() { &["x"] } else { &[] };
                let behind = |values: &[&str]| {
                    is(&[&["", &option], values, one_more].concat(), one_more);
                    is(&[&[""], one_more, &[option.as_str()], values].concat(), one_more);
                };
                behind(&[&both]);
                if !is_pair(arg) {
                    behind(&[one, &option, other]);
                }
                is(&[&["", &format!("{option}={both}")], one_more].concat(), one_more);
                // With spaces, where it can mean nothing else.
                if numbers || is_pair(arg) || places.is_none() {
                    behind(&[one, other]);
                }
                if numbers {
                    let (found, _) = parsed(&command, arg, &["", &option, "-0.5,1.5"]);
                    assert_eq!(
                        found.first().and_then(|value| value.to_str()),
                        Some(if is_pair(arg) { "-0.5,1.5" } else { "-0.5" })
                    );
                }
            }
        }
        assert!(lists > 25, "the lists are found: {lists}");
    }

    #[test]
    fn files_with_commas_and_folders_called_by_numbers_are_what_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        std::fs::write(at("a,b.jsonl"), "").unwrap();
        std::fs::create_dir(at("2024")).unwrap();
        let spread = |words: &[&str]| {
            spread(&Cli::command(), words.iter().map(OsString::from))
                .join(OsString::from(" ").as_os_str())
                .into_string()
                .unwrap()
        };
        let (file, number) = (at("a,b.jsonl"), at("2024"));
        assert_eq!(
            spread(&["", "lm", "sft", "--data", &file, "c,d"]),
            format!(" lm sft --data={file} --data=c --data=d")
        );
        assert_eq!(
            spread(&["", "lm", "merge", "--weights", "0.3", "0.7", &number]),
            format!(" lm merge --weights=0.3 --weights=0.7 {number}")
        );
        // Nobody else's value, and nothing after a bare double dash.
        assert_eq!(
            spread(&["", "soup", "--out", "--weights", "--", "--weights", "1", "2"]),
            " soup --out --weights -- --weights 1 2"
        );
        assert_eq!(spread(&["", "soup", "--weights", "--json"]), " soup --weights --json");
        assert!(is_option("-x".as_ref()) && !is_option("-".as_ref()));
    }

    #[test]
    fn paths_that_cannot_be_meant_or_written_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "").unwrap();
        assert_eq!(meant(&at("new")), None);
        assert!(meant(Path::new("-")).unwrap().contains("./-"));
        assert!(meant(Path::new("~/runs")).unwrap().contains("home folder"));
        assert_eq!(cannot_write(&at("a/b/c"), false), None);
        assert_eq!(cannot_write(&at("file"), true), None);
        assert_eq!(cannot_write(Path::new("/dev/null"), true), None);
        for (path, is_file, problem) in [
            (at("a/b"), true, "there is no folder"),
            (at("file/a"), false, "is a file, not a folder"),
            (at("file"), false, "it is a file, not a folder"),
            (at("."), true, "is a folder"),
            (at("new/"), true, "is a folder"),
            (at(&"n".repeat(300)), false, "too long"),
        ] {
            let found = cannot_write(&path, is_file).unwrap_or_default();
            assert!(found.contains(problem), "{}: {found}", path.display());
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "looking leaves nothing");
    }
}
