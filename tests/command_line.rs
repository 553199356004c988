//! What the command line promises: figures a script can read, and clear refusals that change nothing.

mod common;

use std::fs;

use common::{SMALL, contents, json, pairwise, refused, stderr, train};
use serde_json::Value;

/// Arguments that cannot be right, with a word that the message must have.
const REFUSED: &[(&[&str], &str)] = &[
    (&["train", "pendlum"], "did you mean 'pendulum'"),
    (&["train"], "which environment"),
    (&["train", "pendulum", "--labels", "-5"], "invalid value '-5' for '--labels"),
    (&["train", "pendulum", "--labels", "many"], "many"),
    (&["train", "pendulum", "--labels", "0"], "preferences.labels"),
    (&["train", "pendulum", "--labels", "99999999999"], "preferences.labels"),
    (&["train", "pendulum", "--steps", "10"], "steps = 10"),
    (&["train", "pendulum", "--steps", "99999999999999999999999"], "99999999999999999999999"),
    (&["train", "pendulum", "--seed", "-1"], "-1"),
    (&["train", "pendulum", "--threads", "0"], "0"),
    (&["train", "pendulum", "--teacher", "oracel"], "oracle"),
    (&["train", "pendulum", "--sampler", "disagrement"], "disagreement"),
    (&["train", "pendulum", "--reward", "true", "--labels", "10"], "--labels contradicts --reward true"),
    (&["train", "pendulum", "--reward", "true", "--teacher", "oracle"], "--teacher contradicts --reward true"),
    (&["train", "pendulum", "--device", "tpu"], "tpu"),
    (&["train", "pendulum", "--set", "ppo.gama=0.9"], "gama"),
    (&["train", "pendulum", "--set", "ppo.gamma=1.5"], "ppo.gamma = 1.5"),
    (&["train", "pendulum", "--set", "ppo.gamma=nan"], "ppo.gamma"),
    (&["train", "pendulum", "--set", "ppo.hidden=[0]"], "ppo.hidden"),
    (&["train", "pendulum", "--set", "ppo.gamma"], "key=value"),
    (&["train", "pendulum", "--set", "preferences.segment_steps=100000"], "preferences.segment_steps"),
    (&["train", "pendulum", "--config", "absent.toml"], "absent.toml"),
    (&["train", "pendulum", "--config", "torn.toml"], "torn.toml"),
    (&["train", "pendulum", "--config", "type.toml"], "steps"),
    (&["train", "pendulum", "--config", "cartpole.toml"], "contradicts"),
    (&["train", "pendulum", "--out", "file/inside"], "file/inside"),
    (&["train", "pendulum", "--out", "full"], "not an empty folder"),
    (&["resume", "absent"], "config.toml is missing"),
    (&["replay", "full"], "config.toml is missing"),
    (&["evaluate", "absent"], "config.toml is missing"),
    (&["clips", "absent", "--out", "a.gif"], "config.toml is missing"),
    (&["clips", "absent", "--out", "a.mp4"], ".gif"),
    (&["envs", "rollout", "CartPole-v1", "--state", "[1,2]", "--actions", "actions.json"], "4 values"),
    (&["envs", "rollout", "CartPole-v1", "--state", "zero", "--actions", "actions.json"], "--state"),
    (&["envs", "rollout", "CartPole-v1", "--state", "[0,0,0,0]", "--actions", "actions.json"], "action 1"),
    (&["bench", "ablations", "--env", "pendlum"], "did you mean 'pendulum'"),
    (&["bench", "ablations", "--seeds", "0"], "0"),
];

#[test]
fn impossible_requests_are_refused_and_nothing_is_written() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    fs::write(at("torn.toml"), "steps = 100\n[ppo\ngam").expect("writable");
    fs::write(at("type.toml"), "steps = \"many\"\n").expect("writable");
    fs::write(at("cartpole.toml"), "env = \"cartpole\"\n").expect("writable");
    fs::write(at("actions.json"), "[1, 7]").expect("writable");
    fs::write(at("file"), "not a folder").expect("writable");
    fs::create_dir(at("full")).expect("writable");
    fs::write(at("full/mine.txt"), "mine").expect("writable");
    let before = contents(folder.path());
    for (arguments, expected) in REFUSED {
        let message = refused(folder.path(), arguments);
        assert!(message.contains(expected), "{arguments:?} should mention '{expected}': {message}");
        assert_eq!(contents(folder.path()), before, "{arguments:?} changed something");
    }
    assert!(!at("runs").exists());
}

/// A folder that cannot be written: as root, permission bits do not count, but no one can make folders in `/proc`.
#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_cannot_be_made_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let message = refused(folder.path(), &[&["train", "pendulum", "--out", "/proc/pairwise"], SMALL].concat());
    assert!(message.contains("/proc/pairwise"), "{message}");
}

#[test]
fn a_run_reports_its_figures_and_keeps_its_folder() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let summary = train(folder.path(), "run", &[]);
    for key in [
        "true_return_mean",
        "true_return_std",
        "episodes",
        "labels_asked",
        "labels_answered",
        "env_steps",
        "reward_pearson",
        "reward_spearman",
        "epic",
        "wall_seconds",
        "cpu_seconds",
    ] {
        assert!(summary[key].is_number(), "{key}: {}", summary[key]);
    }
    assert_eq!(summary["weights_sha256"].as_str().map(str::len), Some(64));
    assert_eq!((&summary["labels_asked"], &summary["episodes"]), (&Value::from(24), &Value::from(20)));
    assert_eq!(summary["env_steps"], 3000);
    let run = folder.path().join("run");
    let on_disk: Value =
        serde_json::from_str(&fs::read_to_string(run.join("summary.json")).expect("written")).expect("JSON");
    assert_eq!(on_disk, summary, "summary.json is what --json printed");
    let lines = |name: &str| fs::read_to_string(run.join(name)).expect("written").lines().count();
    assert_eq!((lines("labels.jsonl"), lines("metrics.jsonl")), (24, 5));
    assert!(run.join("figures/learning.svg").exists() && run.join("tb").read_dir().expect("written").count() == 1);

    // The folder is taken now.
    let before = contents(folder.path());
    let message = refused(folder.path(), &[&["train", "pendulum", "--out", "run"], SMALL].concat());
    assert!(message.contains("holds another run") && message.contains("pairwise resume"), "{message}");
    assert_eq!(contents(folder.path()), before);

    // Its policy can be measured and drawn.
    let evaluated = json(folder.path(), &["evaluate", "run", "--episodes", "20"]);
    assert_eq!(evaluated["true_return_mean"], summary["true_return_mean"], "same seed, same episodes, same weights");
    for (name, more) in [("episode.gif", &[][..]), ("pair.gif", &["--pair", "3"][..])] {
        let drawn = json(folder.path(), &[&["clips", "run", "--size", "64", "--out", name], more].concat());
        let bytes = fs::read(folder.path().join(name)).expect("written");
        assert!(bytes.starts_with(b"GIF89a") && drawn["bytes"] == bytes.len(), "{drawn}");
    }
    assert!(refused(folder.path(), &["clips", "run", "--out", "x.gif", "--pair", "999"]).contains("no such"));

    // Its configuration can be fed back.
    let again = json(folder.path(), &["train", "--config", "run/config.toml", "--out", "again"]);
    assert_eq!(again["weights_sha256"], summary["weights_sha256"]);
}

/// A line that is no JSON, a torn configuration, a checkpoint of another network: named, and the folder stays as it is.
#[test]
fn damaged_runs_are_refused_by_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    train(folder.path(), "run", &[]);
    let at = |name: &str| folder.path().join("run").join(name);
    let intact = [at("labels.jsonl"), at("config.toml")].map(|path| fs::read_to_string(path).expect("written"));
    let restore = || {
        fs::write(at("labels.jsonl"), &intact[0]).expect("writable");
        fs::write(at("config.toml"), &intact[1]).expect("writable");
    };
    fs::remove_file(at("summary.json")).expect("it was finished");

    let mut lines: Vec<&str> = intact[0].lines().collect();
    lines[2] = "this is no JSON";
    fs::write(at("labels.jsonl"), lines.join("\n") + "\n").expect("writable");
    let before = contents(folder.path());
    let message = refused(folder.path(), &["resume", "run"]);
    assert!(message.contains("labels.jsonl") && message.contains("line 3"), "{message}");
    assert_eq!(contents(folder.path()), before);

    restore();
    fs::write(at("config.toml"), &intact[1][..intact[1].len() / 2]).expect("writable");
    let before = contents(folder.path());
    for command in [&["resume", "run"][..], &["evaluate", "run"], &["replay", "run"]] {
        assert!(refused(folder.path(), command).contains("config.toml"));
    }
    assert_eq!(contents(folder.path()), before);

    for (from, to, named) in [
        ("hidden = [64, 64]\nactivation = \"tanh\"", "hidden = [32]\nactivation = \"tanh\"", "policy"),
        ("members = 3", "members = 4", "reward.3"),
    ] {
        let changed = intact[1].replace(from, to);
        assert_ne!(changed, intact[1], "the test must change something");
        fs::write(at("config.toml"), changed).expect("writable");
        let before = contents(folder.path());
        for command in [&["resume", "run"][..], &["evaluate", "run"]] {
            let message = refused(folder.path(), command);
            assert!(message.contains("safetensors") && message.contains(named), "{message}");
        }
        assert_eq!(contents(folder.path()), before);
    }
}

#[test]
fn environments_are_listed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let listed = json(folder.path(), &["envs"]);
    let ids: Vec<&str> = listed["environments"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|env| env["id"].as_str().expect("a name"))
        .collect();
    assert_eq!(ids.len(), 11);
    let text = pairwise(folder.path(), &["envs"]);
    assert!(ids.iter().all(|id| String::from_utf8_lossy(&text.stdout).contains(id)), "{}", stderr(&text));
}
