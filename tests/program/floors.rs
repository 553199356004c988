//! The floors of the house: what stands on what.
//!
//! - A part of `core/src` or `src` uses only parts of lower floors.
//! - Inside a folder, no two children use each other, directly or through others. A child is a file, or a folder with all
//!   that is in it; `mod` is the folder's own `mod.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// From the ground up.
const FLOORS: &[&[&str]] = &[
    &["random", "finite", "range", "advantage", "table", "fixtures"],
    &["disk", "device", "pareto", "soup"],
    &["preference", "nn"],
    &["control", "lm"],
    &["evals", "studies"],
    &["engine"],
    &["app"],
    &["cli"],
];

/// The module paths of all files, each with what it uses: `["nn", "fused"]` is `nn/fused/mod.rs`.
type Uses = BTreeMap<Vec<String>, BTreeSet<Vec<String>>>;

/// Every use outside of tests and comments leads down.
#[test]
fn every_part_stands_on_lower_floors() {
    let floor = |part: &str| {
        let found = FLOORS.iter().position(|parts| parts.contains(&part));
        found.unwrap_or_else(|| panic!("{part} has no floor: give it one"))
    };
    let (mut wrong, mut arrows) = (BTreeSet::new(), 0);
    for (file, uses) in uses() {
        for used in uses {
            arrows += 1;
            let (part, other) = (&file[0], &used[0]);
            if part != other && floor(other) >= floor(part) {
                wrong.insert(format!("{}: {part} uses {other}, which stands no lower", file.join("/")));
            }
        }
    }
    assert!(arrows > 500, "{arrows} uses were found: are they written in another way now?");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_circle_is_inside_a_folder() {
    let uses = uses();
    let folders: BTreeSet<&[String]> = uses.keys().flat_map(|file| (1..file.len()).map(|end| &file[..end])).collect();
    let mut wrong = Vec::new();
    for folder in folders {
        let ways = arrows_inside(folder, &uses);
        for circle in circles(&ways) {
            let ways: Vec<_> = ways.iter().filter(|(from, to)| circle.contains(from) && circle.contains(to)).collect();
            wrong.push(format!("{}: {circle:?} use each other: {ways:?}", folder.join("/")));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn uses_are_found_and_those_of_tests_and_comments_are_not() {
    let text = "pub mod own;\nuse crate::disk::Clock;\nuse crate::{lm, nn::{self, mlp::Mlp}};\nuse super::fused as f;\npub(in crate::lm) struct S;\n\
                // crate::app\nfn f() { crate::random::stream(own::x(), self::own::y(), super::super::z()) }\n\
                /// [`crate::cli`]\nmod inside {\n    use super::me::It;\n}\n#[cfg(test)]\nmod tests {\n    use crate::engine;\n}\n";
    let expected = [
        "disk/Clock", "lm", "nn", "nn/mlp/Mlp", "a/fused", "random/stream", "a/b/own/x", "a/b/own/y", "z", "a/b/me/It",
    ]
    .map(path);
    assert_eq!(paths(text, &path("a/b")), BTreeSet::from(expected));
}

#[test]
fn circles_are_found_directly_and_through_others() {
    let arrows = [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("d", "e"), ("f", "g"), ("g", "f")];
    let arrows = arrows.map(|(from, to)| (from.to_owned(), to.to_owned())).into();
    let expected = [vec!["a", "b", "c"], vec!["f", "g"]];
    assert_eq!(circles(&arrows), expected.map(|circle| circle.into_iter().map(str::to_owned).collect()).into());
}

/// What every file uses, as the module that it is in.
fn uses() -> Uses {
    let module = |source: &Path, file: &Path| -> Vec<String> {
        let inside = file.strip_prefix(source).expect("files are found in it").with_extension("");
        let names = inside.iter().map(|name| name.to_str().expect("names are UTF-8").to_owned());
        names.filter(|name| name != "mod").collect()
    };
    // Both crates are one house: what stands in `core` has the same names in the other.
    let of = |source: &'static str| -> Vec<_> {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
        files(&source).into_iter().map(|file| (module(&source, &file), file)).collect()
    };
    let mut files: BTreeMap<Vec<String>, PathBuf> = ["core/src", "src"].into_iter().flat_map(of).collect();
    files.retain(|module, _| !["lib", "main"].contains(&&*module[0]));
    let text = |file: &PathBuf| fs::read_to_string(file).expect("a source can be read");
    let resolved =
        |used: Vec<String>| (1..=used.len()).rev().map(|end| used[..end].to_vec()).find(|m| files.contains_key(m));
    let of = |(module, file): (&Vec<String>, &PathBuf)| {
        let used = paths(&text(file), module).into_iter().filter_map(resolved).filter(|used| used != module);
        (module.clone(), used.collect())
    };
    files.iter().map(of).collect()
}

/// Which children of a folder use which.
fn arrows_inside(folder: &[String], uses: &Uses) -> BTreeSet<(String, String)> {
    let child = |file: &[String]| {
        let rest = file.strip_prefix(folder)?;
        Some(rest.first().map_or("mod", |name| name).to_owned())
    };
    let all = uses.iter().flat_map(|(file, uses)| uses.iter().map(move |used| (file, used)));
    all.filter_map(|(file, used)| Some((child(file)?, child(used)?))).filter(|(from, to)| from != to).collect()
}

/// Sets of nodes that can all be reached from each other.
fn circles(arrows: &BTreeSet<(String, String)>) -> BTreeSet<BTreeSet<String>> {
    let reached = |from: &String| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(node) = next.pop() {
            next.extend(arrows.iter().filter(|(from, to)| from == node && seen.insert(to)).map(|(_, to)| to));
        }
        seen
    };
    let reached: BTreeMap<&String, BTreeSet<&String>> = arrows.iter().map(|(from, _)| (from, reached(from))).collect();
    let circle = |(node, seen): (&&String, &BTreeSet<&String>)| -> BTreeSet<String> {
        seen.iter()
            .filter(|other| reached.get(*other).is_some_and(|back| back.contains(node)))
            .map(ToString::to_string)
            .collect()
    };
    reached.iter().map(circle).filter(|circle| !circle.is_empty()).collect()
}

/// The paths that a module names, from the crate's root, without those of its tests and comments.
fn paths(text: &str, module: &[String]) -> BTreeSet<Vec<String>> {
    let before_tests = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let name = |line: &str, end| {
        let line = line.trim_start_matches("pub").trim_start_matches("(crate)").trim_start();
        Some(line.strip_prefix("mod ")?.strip_suffix(end)?.trim_end().to_owned())
    };
    let children: BTreeSet<String> = before_tests.lines().filter_map(|line| name(line, ';')).collect();
    let mut found = BTreeSet::new();
    // Where the text is: in the module, or in one that begins and ends in its file.
    let (mut place, mut code) = (module.to_vec(), String::new());
    for line in before_tests.lines().chain(["}"]) {
        let inner = name(line, '{');
        if inner.is_some() || line == "}" {
            paths_in(&std::mem::take(&mut code), &place, &children, &mut found);
            place.truncate(module.len());
            place.extend(inner);
        }
        code += line.split("//").next().unwrap_or_default();
        code += "\n";
    }
    found
}

/// The same of a text without comments, in a module that has these children.
fn paths_in(code: &str, module: &[String], children: &BTreeSet<String>, found: &mut BTreeSet<Vec<String>>) {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    for (at, _) in code.match_indices("::") {
        let name = code[..at].rsplit(|c| !is_name(c)).next().unwrap_or_default();
        let mut start = match name {
            _ if ["::", "pub(in "].iter().any(|before| code[..at - name.len()].ends_with(before)) => continue,
            "crate" => Vec::new(),
            "super" => module[..module.len() - 1].to_vec(),
            "self" => module.to_vec(),
            child if children.contains(child) => [module, &[child.to_owned()]].concat(),
            _ => continue,
        };
        let mut rest = &code[at + 2..];
        while let Some(further) = rest.strip_prefix("super::") {
            start.pop();
            rest = further;
        }
        leaves(rest, start, found);
    }
}

/// All that a path leads to: `a::{b, c::d}` after a beginning. Returns what follows it.
fn leaves<'a>(text: &'a str, mut path: Vec<String>, found: &mut BTreeSet<Vec<String>>) -> &'a str {
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = leaves(rest.trim_start(), path.clone(), found).trim_start();
            // A new name: `a as b`.
            rest = rest.trim_start_matches(|c| c != ',' && c != '}');
            match rest.strip_prefix(',').map(str::trim_start) {
                Some(more) if !more.starts_with('}') => rest = more,
                _ => return rest.split_once('}').map_or("", |(_, after)| after),
            }
        }
    }
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    if &text[..end] != "self" {
        path.push(text[..end].to_owned());
    }
    match text[end..].strip_prefix("::") {
        Some(rest) => leaves(rest, path, found),
        None => {
            found.insert(path);
            &text[end..]
        }
    }
}

/// A path as names.
fn path(text: &str) -> Vec<String> {
    text.split('/').map(str::to_owned).collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(folder)
        .expect("a folder can be read")
        .map(|entry| entry.expect("it can be read").path())
        .collect();
    all.sort();
    let inside: Vec<PathBuf> = all.iter().filter(|path| path.is_dir()).flat_map(|path| files(path)).collect();
    // Files that hold nothing but tests stand beside what they test.
    all.retain(|path| path.extension().is_some_and(|end| end == "rs") && path.file_stem().is_none_or(|s| s != "tests"));
    all.extend(inside);
    all
}
