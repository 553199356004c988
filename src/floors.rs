//! The floors of the house: what stands on what. A part uses only those of lower floors.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// From the ground up.
const FLOORS: &[&[&str]] = &[
    &["random", "finite", "advantage", "table"],
    &["disk", "device", "pareto", "soup"],
    &["preference", "nn"],
    &["control", "lm"],
    &["evals", "studies"],
    &["engine"],
    &["app"],
    &["cli"],
];

/// Every `crate::part` outside of tests and comments leads down.
#[test]
fn every_part_stands_on_lower_floors() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let floor = |part: &str| FLOORS.iter().position(|parts| parts.contains(&part));
    let (mut wrong, mut arrows) = (BTreeSet::new(), 0);
    for file in files(&source) {
        let inside = file.strip_prefix(&source).unwrap();
        let part = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
        let Some(from) = floor(part) else {
            assert!(["lib", "main", "floors"].contains(&part), "{part} has no floor: give it one");
            continue;
        };
        for other in used(&fs::read_to_string(&file).unwrap()) {
            let to = floor(&other).unwrap_or_else(|| panic!("{}: {other} has no floor: give it one", inside.display()));
            arrows += 1;
            if other != part && to >= from {
                wrong.insert(format!("{}: {part} uses {other}, which stands no lower", inside.display()));
            }
        }
    }
    assert!(arrows > 500, "{arrows} imports were found: are they written in another way now?");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn imports_are_found_and_those_of_tests_and_comments_are_not() {
    let text = "use crate::disk::Clock;\nuse crate::{lm, nn::Mlp};\n// crate::app\nfn f() { crate::random::stream() }\n\
                /// [`crate::cli`]\n#[cfg(test)]\nmod tests {\n    use crate::engine;\n}\n";
    assert_eq!(used(text), ["disk", "lm", "nn", "random"]);
}

/// Parts that a file names, each as often as it does, and in its order.
fn used(text: &str) -> Vec<String> {
    let before_tests = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let code: Vec<&str> = before_tests.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let name = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = Vec::new();
    for rest in code.join("\n").split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            None => found.push(name(rest)),
            Some(group) => {
                let mut depth = 0_usize;
                let mut at_begin = true;
                for (i, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => at_begin = true,
                        c if at_begin && !c.is_whitespace() => {
                            found.push(name(&group[i..]));
                            at_begin = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    found
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    let inside: Vec<PathBuf> = all.iter().filter(|path| path.is_dir()).flat_map(|path| files(path)).collect();
    // Files that hold nothing but tests stand beside what they test.
    all.retain(|path| path.extension().is_some_and(|end| end == "rs") && path.file_stem().is_none_or(|s| s != "tests"));
    all.extend(inside);
    all
}
