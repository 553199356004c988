//! Runs the `pairwise` binary in a folder of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// A pendulum run of 4 iterations and 24 labels: every part of the loop in about a second.
pub(crate) const SMALL: &[&str] = &[
    "--labels", "24", "--steps", "3000", "--set", "preferences.random_steps=1000", "--set", "ppo.rollout_steps=125",
    "--set", "ppo.epochs=2", "--set", "reward_model.first_steps=40", "--set", "reward_model.steps=20", "--set",
    "evaluation_episodes=20", "--set", "checkpoint_every=1",
];

pub(crate) fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pairwise"));
    command.current_dir(folder).args(arguments);
    command
}

pub(crate) fn pairwise(folder: &Path, arguments: &[&str]) -> Output {
    command(folder, arguments).output().expect("the binary was built for this test")
}

/// Runs a command that must succeed, and parses the last line of its stdout.
pub(crate) fn json(folder: &Path, arguments: &[&str]) -> Value {
    let output = pairwise(folder, &[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    let stdout = String::from_utf8_lossy(&output.stdout);
    let last = stdout.lines().last().expect("--json prints a line");
    serde_json::from_str(last).unwrap_or_else(|e| panic!("{arguments:?}: {e}: {last}"))
}

/// Trains the small run into `name` and returns its summary.
pub(crate) fn train(folder: &Path, name: &str, more: &[&str]) -> Value {
    json(folder, &[&["train", "pendulum", "--out", name], SMALL, more].concat())
}

/// Runs a command that must be refused: exit code 2 and a message without a panic, which is returned.
pub(crate) fn refused(folder: &Path, arguments: &[&str]) -> String {
    let output = pairwise(folder, arguments);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
    assert!(!message.contains("panicked") && !message.trim().is_empty(), "{arguments:?}: {message}");
    message
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Every file below a folder with its content, in order.
pub(crate) fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the folder exists") {
        let path = entry.expect("readable").path();
        match path.is_dir() {
            true => found.extend(contents(&path)),
            false => found.push((path.clone(), std::fs::read(&path).expect("readable"))),
        }
    }
    found.sort();
    found
}
