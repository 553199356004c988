//! README, ARCHITECTURE, CONTRIBUTING and the manual (`docs`) are true where a machine can tell: links, anchors, pictures and
//! file names lead somewhere, every page is in the table of contents, every command is accepted by the program's own
//! parser, and every command and metric of the program has its place.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Output;

use regex::Regex;
use serde_json::Value;

use super::common::{command, json, stderr, train};

/// Folder of the manual's pages, from the root of the repository.
const BOOK: &str = "docs/src";

/// A file in Markdown, taken apart.
struct Page {
    /// From the root of the repository.
    path: PathBuf,
    /// What stands outside of blocks, with its inline code taken out.
    prose: String,
    /// What stands in backticks in the prose.
    code: Vec<String>,
    /// Language and content of each block.
    blocks: Vec<(String, String)>,
}

impl Page {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let (mut prose, mut blocks, mut block) = (String::new(), Vec::new(), None::<(String, String)>);
        for line in text.lines() {
            match (line.trim_start().strip_prefix("```"), &mut block) {
                (Some(_), Some(_)) => blocks.extend(block.take()),
                (Some(language), None) => block = Some((language.trim().to_owned(), String::new())),
                (None, Some((_, content))) => *content += &format!("{line}\n"),
                (None, None) => prose += &format!("{line}\n"),
            }
        }
        // Inline code may go over the end of a line.
        let parts: Vec<String> = prose.split('`').map(str::to_owned).collect();
        assert!(block.is_none() && parts.len() % 2 == 1, "{}: a block, or inline code, has no end", path.display());
        let code = parts.iter().skip(1).step_by(2).map(|code| code.replace('\n', " ")).collect();
        Self { path: path.to_owned(), prose: parts.into_iter().step_by(2).collect(), code, blocks }
    }

    fn is_in_book(&self) -> bool {
        self.path.starts_with(BOOK)
    }

    /// Targets of links and pictures within the repository.
    fn links(&self) -> Vec<String> {
        let pattern = Regex::new(r#"\]\(([^)\s]+)\)|src="([^"]+)""#).expect("it is a pattern");
        let targets = pattern
            .captures_iter(&self.prose)
            .map(|found| found.get(1).or(found.get(2)).expect("one of both matched").as_str().to_owned());
        targets.filter(|target| !target.contains("://") && !target.starts_with("mailto:")).collect()
    }

    /// Names of the headings in links, as GitHub and mdBook make them.
    fn anchors(&self) -> BTreeSet<String> {
        // With their inline code, which is a part of the name.
        let text = fs::read_to_string(root().join(&self.path)).expect("the page was read before");
        let headings = text
            .lines()
            .filter_map(|line| line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#')));
        let slug = |heading: &str| {
            let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
            kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
        };
        headings.map(slug).collect()
    }

    /// Arguments of every call of the program in the page.
    fn commands(&self) -> BTreeSet<Vec<String>> {
        let shell = self.blocks.iter().filter(|(language, _)| language == "sh").flat_map(|(_, content)| {
            let joined = content.replace("\\\n", " ");
            joined.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>()
        });
        let inline = self.code.iter().filter(|code| !code.contains('…')).cloned();
        shell.chain(inline).filter_map(|line| arguments(&line)).collect()
    }
}

/// The arguments that a line gives the program, if it calls it.
fn arguments(line: &str) -> Option<Vec<String>> {
    let words = words(line);
    let (program, rest) = words.split_first()?;
    match program.as_str() {
        "pairwise" => Some(rest.to_vec()),
        "cargo" if rest.first().is_some_and(|word| word == "run") => {
            let end = rest.iter().position(|word| word == "--").map_or(rest.len(), |at| at + 1);
            Some(rest[end..].to_vec())
        }
        _ => None,
    }
}

/// Words of a line as a shell divides it, up to a comment; variables are 0.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (c, quote) {
            ('"' | '\'', None) => (word, quote) = (Some(word.unwrap_or_default()), Some(c)),
            (c, Some(open)) if c == open => quote = None,
            ('#', None) if word.is_none() => break,
            (' ', None) => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    let variable = Regex::new(r"\$\w+").expect("it is a pattern");
    words.into_iter().map(|word| variable.replace_all(&word, "0").into_owned()).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files below a folder, from the root of the repository.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(folder)).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut all = Vec::new();
    for entry in entries.map(Result::unwrap) {
        let path = folder.join(entry.file_name());
        if entry.path().is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all.sort();
    all
}

fn pages() -> Vec<Page> {
    let outside = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(PathBuf::from);
    let book = files(Path::new(BOOK)).into_iter().filter(|path| path.extension().is_some_and(|end| end == "md"));
    outside.into_iter().chain(book).map(|path| Page::read(&path)).collect()
}

/// A path without `..`.
fn plain(path: &Path) -> PathBuf {
    let mut parts = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => _ = parts.pop(),
            part => parts.push(part),
        }
    }
    parts
}

/// Help of a command; its errors are those of the program's own parser.
fn help(arguments: &[String]) -> Output {
    let words: Vec<&str> = arguments.iter().map(String::as_str).chain(["--help"]).collect();
    command(&std::env::temp_dir(), &words).output().expect("the binary was built for this test")
}

/// Names of the commands below a command.
fn below(arguments: &[String]) -> Vec<String> {
    let text = String::from_utf8_lossy(&help(arguments).stdout).into_owned();
    let list = text.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.trim().is_empty());
    let names = list.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next().map(str::to_owned)).filter(|name| name != "help").collect()
}

#[test]
fn links_anchors_and_pictures_lead_somewhere() {
    let pages = pages();
    let by_path: BTreeMap<&Path, &Page> = pages.iter().map(|page| (page.path.as_path(), page)).collect();
    let (mut wrong, mut linked) = (Vec::new(), BTreeSet::new());
    for page in &pages {
        for link in page.links() {
            let (file, anchor) =
                link.split_once('#').map_or((link.as_str(), None), |(file, anchor)| (file, Some(anchor)));
            let target = match file.is_empty() {
                true => page.path.clone(),
                false => plain(&page.path.parent().unwrap_or(Path::new("")).join(file)),
            };
            let says = |problem: &str| format!("{}: {link}: {problem}", page.path.display());
            if !root().join(&target).exists() {
                wrong.push(says("is not there"));
            } else if page.is_in_book() && !target.starts_with(BOOK) {
                wrong.push(says("leaves the book, which has no such page"));
            }
            if let Some(anchor) = anchor {
                let known = by_path.get(target.as_path()).is_some_and(|page| page.anchors().contains(anchor));
                wrong.extend((!known).then(|| says("there is no such heading")));
            }
            linked.insert(target);
        }
    }
    let pictures = files(&Path::new(BOOK).join("img")).into_iter().filter(|picture| !linked.contains(picture));
    wrong.extend(pictures.map(|picture| format!("{}: is on no page", picture.display())));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_page_is_in_the_table_of_contents_once() {
    let summary = Path::new(BOOK).join("SUMMARY.md");
    let mut listed: Vec<PathBuf> = Page::read(&summary).links().iter().map(|link| Path::new(BOOK).join(link)).collect();
    listed.sort();
    let there: Vec<PathBuf> =
        pages().into_iter().filter(|page| page.is_in_book() && page.path != summary).map(|page| page.path).collect();
    assert_eq!(listed, there);
}

#[test]
fn files_that_are_named_exist() {
    let name = Regex::new(r"^(src|envs|docs|tests|benches|assets|\.ci)/[\w./-]+$").unwrap();
    // History names what was.
    let pages = pages().into_iter().filter(|page| page.path != Path::new("CHANGELOG.md"));
    let missing = pages.flat_map(|page| {
        let named = page.code.iter().filter(|code| name.is_match(code) && !root().join(code).exists());
        named.map(|code| format!("{}: {code}", page.path.display())).collect::<Vec<_>>()
    });
    let missing: Vec<String> = missing.collect();
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// What is still to be read when `--help` comes is not looked at: arguments that are missing, or exclude each other.
#[test]
fn commands_are_accepted_by_the_parser() {
    let split = |line: &str| arguments(line).unwrap();
    for wrong in
        ["pairwise trian", "pairwise train --lables 3", "pairwise train --labels many", "pairwise lm dpo --model"]
    {
        assert_eq!(help(&split(wrong)).status.code(), Some(2), "{wrong}: the check would let it pass");
    }
    assert_eq!(
        split("cargo run --release -- lm sample --prompt \"a # b\" --seed $s # c"),
        ["lm", "sample", "--prompt", "a # b", "--seed", "0"]
    );

    let mut pages_of: BTreeMap<Vec<String>, PathBuf> = BTreeMap::new();
    for page in pages().into_iter().filter(|page| page.path != Path::new("CHANGELOG.md")) {
        pages_of.extend(page.commands().into_iter().map(|arguments| (arguments, page.path.clone())));
    }
    assert!(pages_of.len() > 100, "commands are found: {}", pages_of.len());
    let refused = pages_of.iter().filter_map(|(arguments, page)| {
        let found = help(arguments);
        (!found.status.success())
            .then(|| format!("{}: pairwise {}\n{}", page.display(), arguments.join(" "), stderr(&found)))
    });
    let refused: Vec<String> = refused.collect();
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}

#[test]
fn every_command_has_its_line_in_the_list_of_commands() {
    let listed = Page::read(&Path::new(BOOK).join("reference/commands.md")).commands();
    let (mut open, mut count, mut missing) = (vec![Vec::new()], 0, Vec::new());
    while let Some(words) = open.pop() {
        count += 1;
        let names = below(&words);
        // Commands that only hold others have no line of their own.
        if names.is_empty() && !listed.contains(&words) {
            missing.push(words.join(" "));
        }
        open.extend(names.into_iter().map(|name| [words.as_slice(), &[name]].concat()));
    }
    assert!(count > 40 && missing.is_empty(), "of {count} commands {missing:?} are missing");
}

#[test]
fn every_environment_is_on_its_page() {
    let listed = Page::read(&Path::new(BOOK).join("reference/environments.md")).code;
    let all = json(&std::env::temp_dir(), &["envs"]);
    let ids: Vec<&str> = all["environments"].as_array().unwrap().iter().filter_map(|env| env["id"].as_str()).collect();
    let missing: Vec<&&str> = ids.iter().filter(|id| !listed.iter().any(|name| name == **id)).collect();
    assert!(ids.len() > 10 && missing.is_empty(), "{missing:?}");
}

#[test]
fn every_number_that_a_run_writes_is_explained() {
    /// Names of an object's values, with `/` between levels.
    fn names(value: &Value, before: &str, found: &mut BTreeSet<String>) {
        for (name, value) in value.as_object().into_iter().flatten() {
            let name = if before.is_empty() { name.clone() } else { format!("{before}/{name}") };
            match value {
                Value::Object(_) => names(value, &name, found),
                _ => _ = found.insert(name),
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let summary = train(folder.path(), "run", &[]);
    let metrics = fs::read_to_string(folder.path().join("run/metrics.jsonl")).unwrap();
    let mut written = [BTreeSet::new(), BTreeSet::new()];
    metrics.lines().for_each(|line| names(&serde_json::from_str(line).unwrap(), "", &mut written[0]));
    names(&summary, "", &mut written[1]);
    for (page, written) in ["formats/metrics.md", "formats/run-folder.md"].iter().zip(written) {
        let explained = Page::read(&Path::new(BOOK).join(page)).code;
        let missing: Vec<&String> = written.iter().filter(|name| !explained.contains(name)).collect();
        assert!(written.len() > 10 && missing.is_empty(), "{page} lacks {missing:?}");
    }
}

#[test]
fn blocks_of_data_are_what_they_say() {
    for page in pages() {
        for (language, content) in &page.blocks {
            let fine = match language.as_str() {
                "json" => content
                    .lines()
                    .try_for_each(|line| serde_json::from_str::<Value>(line).map(|_| ()))
                    .map_err(|e| e.to_string()),
                "toml" => content.parse::<toml::Table>().map(|_| ()).map_err(|e| e.to_string()),
                _ => Ok(()),
            };
            assert_eq!(fine, Ok(()), "{}: {content}", page.path.display());
        }
    }
}

#[test]
fn the_readme_fits_two_screens() {
    let lines = fs::read_to_string(root().join("README.md")).unwrap().lines().count();
    assert!(lines <= 90, "{lines} lines: what is longer goes into the manual");
}
