//! `evals generate` and `evals filter` as a user runs them: same bits, kill and resume, a server that goes away, bad
//! input.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::common::{command, json, pairwise, refused, stderr};

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
    // The model is trained on, or another one is put in its place: its texts are no longer those that are there.
    let weights = folder.join("tiny/model/model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    let other: Vec<u8> = bytes.iter().rev().copied().collect();
    fs::write(&weights, other).unwrap();
    let refusal = refused(folder, &again);
    assert!(refusal.contains("its weights have changed since; choose another --out"), "{refusal}");
    fs::write(&weights, bytes).unwrap();
    // Nobody knows whose texts these would be.
    fs::create_dir_all(folder.join("four/pleased")).unwrap();
    fs::copy(folder.join("three/pleased/written.jsonl"), folder.join("four/pleased/written.jsonl")).unwrap();
    let refusal = refused(folder, &generate("tiny/model", "four", "100", &[]));
    assert!(refusal.contains("written.jsonl: is there without provenance.json"), "{refusal}");
    // A prompt that leaves no room is told of before anything is written.
    let refusal = refused(folder, &generate("tiny/model", "five", "4", &["--max-new-tokens", "600"]));
    assert!(refusal.contains("and 600 are to be written after it, but the context has 640"), "{refusal}");
    assert!(!folder.join("five").exists());
    let refusal = refused(folder, &generate("tiny/model", "five", "9223372036854775808", &[]));
    assert!(refusal.contains("count = 9223372036854775808: must be at most"), "{refusal}");
    // Finished: the model is not even opened.
    fs::rename(folder.join("tiny/model"), folder.join("tiny/gone")).unwrap();
    json(folder, &again);
    let refusal = refused(folder, &generate("tiny/model", "three", "90", &[]));
    assert!(refusal.contains("holds statements of another configuration"), "{refusal}");
}

/// A line of candidates.jsonl.
fn candidate(index: usize, label: &str, behaviour: &str) -> String {
    let statement = format!("I like number {index}");
    let row = serde_json::json!({"statement": statement, "label": label, "behaviour": behaviour, "index": index});
    format!("{row}\n")
}

#[test]
fn one_behaviour_without_a_set_does_not_stop_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    tiny(folder);
    let two = "[[behaviour]]\nname = \"a\"\ndescription = \"is pleased\"\n\n[[behaviour]]\nname = \"b\"\n\
               description = \"is not\"\n";
    fs::write(folder.join("b.toml"), two).unwrap();
    json(folder, &generate("tiny/model", "out", "4", &[]));
    // Both have statements of one label alone, whatever the judge says of them.
    for (name, label) in [("a", "agree"), ("b", "disagree")] {
        let lines: String = (0..3).map(|i| candidate(i, label, name)).collect();
        fs::write(folder.join("out").join(name).join("candidates.jsonl"), lines).unwrap();
    }
    let filter = ["evals", "filter", "out", "--judge", "tiny/model"];
    let refusal = refused(folder, &filter);
    for (name, other) in [("a", "'disagree' 0 of 0"), ("b", "'agree' 0 of 0")] {
        let begins = format!("behaviour '{name}': labels are out of balance");
        assert!(refusal.contains(&begins) && refusal.contains(other), "{refusal}");
        assert!(folder.join("out-filtered").join(name).join("scores.jsonl").is_file());
    }
}

/// Linux has names of files that are no text.
#[cfg(target_os = "linux")]
#[test]
fn folders_may_have_any_names() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    tiny(folder);
    let out = OsStr::from_bytes(b"o\xffut");
    let run = |arguments: &[&str]| command(folder, arguments).arg(out).output().unwrap();
    let written = run(&[
        "evals", "generate", "--behaviours", "b.toml", "--model", "tiny/model", "--count", "4", "--json", "--out",
    ]);
    assert!(written.status.success(), "{}", stderr(&written));
    assert!(String::from_utf8_lossy(&written.stdout).contains("candidates.jsonl"));
    // Whether there is a set depends on the judge; a panic would be another code.
    let judged = run(&["evals", "filter", "--judge", "tiny/model", "--json"]);
    assert!(matches!(judged.status.code(), Some(0 | 2)), "{}", stderr(&judged));
    let last = String::from_utf8_lossy(&judged.stdout).lines().last().unwrap().to_owned();
    assert!(serde_json::from_str::<serde_json::Value>(&last).unwrap()["out"].as_str().unwrap().ends_with("-filtered"));
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
    // What may be a password is neither shown nor stored.
    let row = r#"{"question": "?", "answer_matching_behavior": " Yes", "answer_not_matching_behavior": " No"}"#;
    fs::write(folder.join("set.jsonl"), row).unwrap();
    for model in ["https://me:hunter2@host/v1#m", "https://host/v1?key=hunter2#m", "http://me:a#hunter2@host"] {
        let run = ["evals", "run", "--data", "set.jsonl", "--out", "out", "--model", model];
        let judged = ["evals", "filter", "empty", "--judge", model];
        for arguments in [&run[..], &judged, &generate(model, "out", "4", &[])] {
            let refusal = refused(folder, arguments);
            assert!(!refusal.contains("hunter2") && !folder.join("out").exists(), "{refusal}");
        }
    }
    let refusal = refused(folder, &["lm", "reviews", "--rows", "statements"]);
    assert!(refusal.contains("--behaviours"), "{refusal}");
    let example = pairwise(folder, &["evals", "generate", "--example"]);
    fs::write(folder.join("b.toml"), &example.stdout).unwrap();
    let refusal = refused(folder, &generate("tiny", "out", "4", &["--only", "likes-dogs"]));
    assert!(!refusal.contains("b.toml"), "{refusal}");
}
