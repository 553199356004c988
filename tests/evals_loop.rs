//! `evals generate` and `evals filter` as a user runs them: same bits, kill and resume, a server that goes away, bad
//! input.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::{command, json, pairwise, refused, stderr};

const BEHAVIOURS: &str = "[[behaviour]]\nname = \"pleased\"\ndescription = \"is pleased\"\n";

/// A model after four steps, whose context holds the paper's prompts in tokens of a byte or two.
fn tiny(folder: &Path) {
    let sets = ["pretrain.context=640", "pretrain.vocabulary=300", "pretrain.texts=200", "train.batch_size=8"];
    let mut arguments = vec!["lm", "pretrain", "--size", "30k", "--steps", "4", "--out", "tiny"];
    sets.iter().for_each(|set| arguments.extend(["--set", set]));
    json(folder, &arguments);
    fs::write(folder.join("b.toml"), BEHAVIOURS).unwrap();
}

/// What a generation leaves; the model's address is left out.
fn files(folder: &Path) -> Vec<String> {
    let read = |name: &str| fs::read_to_string(folder.join("pleased").join(name)).unwrap();
    vec![read("written.jsonl"), read("candidates.jsonl")]
}

fn generate<'a>(model: &'a str, out: &'a str, count: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let own = ["evals", "generate", "--behaviours", "b.toml", "--model", model, "--out", out, "--count", count];
    [&own, more].concat()
}

/// Waits until so many lines are written, then kills.
fn kill_after(mut child: Child, file: &Path, lines: usize) {
    let since = Instant::now();
    while fs::read_to_string(file).unwrap_or_default().lines().count() < lines {
        assert!(since.elapsed() < Duration::from_secs(120), "nothing is written");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn statements_are_the_same_with_any_threads_and_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    tiny(folder);
    let result = json(folder, &generate("tiny/model", "one", "100", &["--threads", "1"]));
    assert_eq!(result["behaviours"][0]["counts"][1]["written"], 100);
    json(folder, &generate("tiny/model", "two", "100", &["--threads", "2"]));
    assert_eq!(files(&folder.join("one")), files(&folder.join("two")));
    let mut begun = command(folder, &generate("tiny/model", "three", "100", &[]));
    let child = begun.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    kill_after(child, &folder.join("three/pleased/written.jsonl"), 64);
    let again = generate("tiny/model", "three", "100", &[]);
    json(folder, &again);
    assert_eq!(files(&folder.join("one")), files(&folder.join("three")));
    // Finished: the model is not even opened.
    fs::rename(folder.join("tiny/model"), folder.join("tiny/gone")).unwrap();
    json(folder, &again);
    let refusal = refused(folder, &generate("tiny/model", "three", "90", &[]));
    assert!(refusal.contains("holds statements of another configuration"), "{refusal}");
}

fn serve(folder: &Path, port: &str) -> (Child, String) {
    let mut child = command(folder, &["lm", "serve", "--model", "tiny/model", "--name", "tiny", "--port", port])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("serving tiny at ").unwrap_or_else(|| panic!("{line:?}")).to_owned();
    (child, address)
}

#[test]
fn a_server_that_is_killed_and_started_again_is_not_asked_twice() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    tiny(folder);
    let (mut server, address) = serve(folder, "0");
    let model = format!("{address}#tiny");
    let port = address.trim_end_matches("/v1").rsplit(':').next().unwrap().to_owned();
    let arguments = |out: &str| -> Vec<String> {
        let own = generate(&model, out, "150", &["--cache", "cache", "--retries", "0"]);
        own.into_iter().map(str::to_owned).collect()
    };
    let run = |arguments: &[String]| pairwise(folder, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    // The server goes away after the first block, and nobody waits for it.
    let own = arguments("broken");
    let child = command(folder, &own.iter().map(String::as_str).collect::<Vec<_>>())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let written = folder.join("broken/pleased/written.jsonl");
    let since = Instant::now();
    while !written.exists() {
        assert!(since.elapsed() < Duration::from_secs(120), "nothing is written");
        std::thread::sleep(Duration::from_millis(5));
    }
    server.kill().unwrap();
    server.wait().unwrap();
    let stopped = child.wait_with_output().unwrap();
    assert_eq!(stopped.status.code(), Some(2), "{}", stderr(&stopped));
    let (mut server, _) = serve(folder, &port);
    let resumed = run(&arguments("broken"));
    assert!(resumed.status.success(), "{}", stderr(&resumed));
    // Everything is in the cache now: the same texts come out without a server.
    server.kill().unwrap();
    server.wait().unwrap();
    let again = run(&arguments("whole"));
    assert!(again.status.success(), "{}", stderr(&again));
    assert_eq!(files(&folder.join("broken")), files(&folder.join("whole")));
}

#[test]
fn bad_input_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    fs::write(folder.join("b.toml"), "[[behaviour]]\nname = \"pleased\"\n").unwrap();
    let refusal = refused(folder, &generate("tiny", "out", "4", &[]));
    assert!(refusal.contains("b.toml: behaviour 1 ('pleased'): missing field `description`"), "{refusal}");
    fs::write(folder.join("b.toml"), BEHAVIOURS).unwrap();
    let refusal = refused(folder, &generate("tiny", "out", "4", &["--only", "dogs"]));
    assert!(refusal.contains("--only dogs: b.toml has pleased"), "{refusal}");
    let refusal = refused(folder, &generate("tiny", "out", "4", &["--few-shot"]));
    assert!(refusal.contains("examples: there are none with the label 'agree'"), "{refusal}");
    let refusal = refused(folder, &generate("tiny", "out", "4", &["--near-duplicates", "0"]));
    assert!(refusal.contains("near_duplicates = 0: must be above 0"), "{refusal}");
    let refusal = refused(folder, &generate("tiny", "out", "4", &[]));
    assert!(refusal.contains("tiny"), "{refusal}");
    assert!(!folder.join("out").exists());
    let refusal = refused(folder, &["evals", "filter", "nowhere", "--judge", "tiny"]);
    assert!(refusal.contains("nowhere: cannot read the folder"), "{refusal}");
    fs::create_dir(folder.join("empty")).unwrap();
    let refusal = refused(folder, &["evals", "filter", "empty", "--judge", "tiny"]);
    assert!(refusal.contains("empty: holds no statements"), "{refusal}");
    let refusal = refused(folder, &["evals", "filter", "empty", "--judge", "tiny", "--per-label", "0"]);
    assert!(refusal.contains("--per-label 0: must be 1 or more"), "{refusal}");
    let refusal = refused(folder, &["lm", "reviews", "--rows", "statements"]);
    assert!(refusal.contains("--behaviours"), "{refusal}");
    let example = pairwise(folder, &["evals", "generate", "--example"]);
    fs::write(folder.join("b.toml"), &example.stdout).unwrap();
    let refusal = refused(folder, &generate("tiny", "out", "4", &["--only", "likes-dogs"]));
    assert!(!refusal.contains("b.toml"), "{refusal}");
}
