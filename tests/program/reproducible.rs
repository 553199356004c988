//! One seed, one configuration, one result: with any number of threads, through kills and resumes, and again from the
//! ledger.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{SMALL, command, json, pairwise, stderr, train};

#[test]
fn the_same_seed_gives_the_same_bits_with_any_number_of_threads() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let one = train(folder.path(), "one", &["--threads", "1"]);
    let two = train(folder.path(), "two", &["--threads", "2"]);
    let other = train(folder.path(), "other", &["--seed", "1"]);
    assert_eq!(one["weights_sha256"], two["weights_sha256"]);
    assert_ne!(one["weights_sha256"], other["weights_sha256"]);
    let read = |run: &str, name: &str| fs::read(folder.path().join(run).join(name)).expect("written");
    for name in ["labels.jsonl", "metrics.jsonl"] {
        assert_eq!(read("one", name), read("two", name), "{name}");
    }
}

/// Killed with SIGKILL at three moments of its life, and resumed each time.
#[test]
fn a_killed_and_resumed_run_ends_like_an_unbroken_one() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // Long enough to be killed in the middle.
    let longer = ["--set", "ppo.epochs=10", "--set", "ppo.minibatch_size=32"];
    let started = Instant::now();
    let whole = train(folder.path(), "whole", &longer);
    let whole_time = started.elapsed();

    let arguments = [&["train", "pendulum", "--out", "killed"], SMALL, &longer[..]].concat();
    kill_after(folder.path(), &arguments, whole_time.mul_f64(0.35));
    assert!(folder.path().join("killed/config.toml").exists(), "it had begun");
    kill_after(folder.path(), &["resume", "killed"], whole_time.mul_f64(0.25));
    kill_after(folder.path(), &["resume", "killed"], whole_time.mul_f64(0.15));
    let resumed = json(folder.path(), &["resume", "killed"]);
    assert_eq!(resumed["weights_sha256"], whole["weights_sha256"]);
    for key in ["labels_asked", "true_return_mean", "reward_pearson", "epic", "env_steps"] {
        assert_eq!(resumed[key], whole[key], "{key}");
    }
    let read = |run: &str, name: &str| fs::read(folder.path().join(run).join(name)).expect("written");
    for name in ["labels.jsonl", "metrics.jsonl"] {
        assert!(read("whole", name) == read("killed", name), "{name} differs");
    }
    // Resuming a finished run says so and changes nothing.
    assert_eq!(json(folder.path(), &["resume", "killed"])["weights_sha256"], whole["weights_sha256"]);
}

fn kill_after(folder: &Path, arguments: &[&str], time: Duration) {
    let mut child = command(folder, arguments)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("the binary was built for this test");
    std::thread::sleep(time);
    child.kill().expect("it can be killed");
    child.wait().expect("it was started");
}

#[test]
fn a_replay_confirms_a_run_and_names_the_first_difference() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let summary = train(folder.path(), "run", &["--teacher", "mistake"]);
    let replay = json(folder.path(), &["replay", "run"]);
    assert_eq!((&replay["agrees"], &replay["replayed_sha256"]), (&Value::from(true), &summary["weights_sha256"]));

    let path = folder.path().join("run/labels.jsonl");
    let intact = fs::read_to_string(&path).expect("written");
    let lines: Vec<String> = intact.lines().map(str::to_owned).collect();
    let flipped = |line: &str| match line.contains("\"first\",\"rater\"") || line.contains("\"label\":\"first\"") {
        true => line.replace("\"label\":\"first\"", "\"label\":\"second\""),
        false => line.replace("\"label\":\"second\"", "\"label\":\"first\""),
    };
    let mut changed = lines.clone();
    changed[4] = flipped(&lines[4]);
    let mut deleted = lines.clone();
    deleted.remove(7);
    let mut shortened = lines.clone();
    shortened.pop();
    for (tampered, line) in [(changed, "line 5"), (deleted, "line 8"), (shortened, "line 24")] {
        fs::write(&path, tampered.join("\n") + "\n").expect("writable");
        let output = pairwise(folder.path(), &["replay", "run"]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("replay differs") && said.contains(line), "expected {line}: {said}");
    }
    fs::write(&path, &intact).expect("writable");
    let again = json(folder.path(), &["replay", "run"]);
    assert_eq!(again["agrees"], true, "an intact ledger agrees again");
}
