//! Runs that go on: with an edited configuration, with changes that are recorded, with a ledger or a checkpoint that is not
//! what it was, and with lines that cannot be read.

use std::fs;
use std::path::{Path, PathBuf};

use pairwise::control::run::past;
use pairwise::disk::Folder;
use pairwise::disk::archive::Archive;
use pairwise::preference::Label;
use serde_json::Value;

use crate::common::{self, command, contents, json, pairwise, refused, stderr, train};

/// The small run with smaller networks and fewer updates: what is tested here is not how well it learns.
fn quick(folder: &Path, name: &str, more: &[&str]) -> Value {
    let smaller = [
        "ppo.hidden=[8]", "ppo.epochs=1", "reward_model.hidden=[8]", "reward_model.members=2",
        "reward_model.first_steps=10", "reward_model.steps=5", "evaluation_episodes=2",
    ];
    let set: Vec<&str> = smaller.iter().flat_map(|one| ["--set", one]).collect();
    train(folder, name, &[&set[..], more].concat())
}

/// Checkpoints of a run, oldest first.
fn checkpoints(run: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(run.join("checkpoints")).expect("a run");
    let mut all: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    all.sort();
    all
}

/// Takes a finished run back to its last checkpoint but one, as a kill would have left it: the ledger and the metrics are
/// ahead of it.
fn kill(run: &Path) {
    fs::remove_file(run.join("summary.json")).expect("it was finished");
    fs::remove_file(checkpoints(run).pop().expect("two are kept")).expect("writable");
}

fn copy(from: &Path, to: &Path) {
    fs::remove_dir_all(to).ok();
    for (path, bytes) in contents(from) {
        let path = to.join(path.strip_prefix(from).expect("below it"));
        fs::create_dir_all(path.parent().expect("a folder")).expect("writable");
        fs::write(path, bytes).expect("writable");
    }
}

fn edit(file: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(file).expect("written");
    assert!(text.contains(from), "{from} in {text}");
    fs::write(file, text.replace(from, to)).expect("writable");
}

/// Files and contents, without TensorBoard's, which hold the time at which they were written.
fn kept(run: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    contents(run).into_iter().filter(|(path, _)| !path.display().to_string().contains("tfevents")).collect()
}

/// The checkpoints as they were before they held a configuration and a mark of the ledger.
fn make_old(run: &Path) {
    for path in checkpoints(run) {
        let mut archive = Archive::load(&path).expect("whole");
        for name in ["configuration", "ledger"] {
            archive.meta.remove(name).expect("it is there");
        }
        archive.save(&path).expect("writable");
    }
}

#[test]
fn an_edited_configuration_is_refused_field_by_field() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let summary = train(folder.path(), "run", &[]);
    let run = folder.path().join("run");
    let config = run.join("config.toml");
    let intact = fs::read_to_string(&config).expect("written");
    edit(&config, "gamma = 0.95", "gamma = 0.9");
    edit(&config, "labels = 24", "labels = 25");
    let before = contents(folder.path());
    let words = [
        "iteration-000004.safetensors: does not belong to config.toml beside it",
        "ppo.gamma: the checkpoint was made with 0.95, config.toml says 0.9",
        "preferences.labels: the checkpoint was made with 24, config.toml says 25",
        "`pairwise resume run --set FIELD=VALUE` changes what can be changed",
    ];
    for arguments in [
        &["resume", "run"][..],
        &["resume", "run", "--set", "steps=4000"],
        &["replay", "run"],
        &["evaluate", "run"],
        &["clips", "run", "--out", "a.gif"],
    ] {
        let message = refused(folder.path(), arguments);
        for word in words {
            assert!(message.contains(word), "{arguments:?} should mention '{word}': {message}");
        }
        assert_eq!(contents(folder.path()), before, "{arguments:?} changed something");
    }
    fs::write(&config, &intact).expect("writable");
    assert_eq!(json(folder.path(), &["replay", "run"])["agrees"], true);
    kill(&run);
    edit(&config, "mistake = 0.0", "mistake = 0.2");
    assert!(refused(folder.path(), &["resume", "run"]).contains("preferences.teacher"), "another teacher");
    fs::write(&config, &intact).expect("writable");
    assert_eq!(json(folder.path(), &["resume", "run"])["weights_sha256"], summary["weights_sha256"]);

    // Of before checkpoints held their configuration: nobody can tell.
    kill(&run);
    make_old(&run);
    edit(&config, "evaluation_episodes = 20", "evaluation_episodes = 21");
    let old = json(folder.path(), &["resume", "run"]);
    assert_eq!((&old["weights_sha256"], &old["episodes"]), (&summary["weights_sha256"], &Value::from(21)));
}

#[test]
fn what_may_not_change_is_refused_by_its_name() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    train(folder.path(), "run", &[]);
    let before = kept(folder.path());
    for (set, expected) in [
        ("seed=3", "--set seed: cannot change in a run: every draw comes from it"),
        ("env=cartpole", "--set env: cannot change in a run"),
        ("device=cuda", "--set device: cannot change in a run: another device changes the last bits"),
        ("ppo.hidden=[8]", "--set ppo.hidden: cannot change in a run: the networks have this shape"),
        ("reward_model.members=5", "--set reward_model.members: cannot change in a run"),
        ("ppo.gama=0.5", "gama"),
        ("ppo.learning_rate=7", "ppo.learning_rate = 7"),
        ("steps=2000", "--set steps=2000: the run has taken 3000 steps already"),
        ("preferences.labels=48", "--set preferences.labels: the run has taken all its steps"),
        ("steps", "key=value"),
    ] {
        let message = refused(folder.path(), &["resume", "run", "--set", set]);
        assert!(message.contains(expected), "{set} should mention '{expected}': {message}");
        assert_eq!(kept(folder.path()), before, "{set} changed something");
    }
    // What is as it was is no change.
    json(folder.path(), &["resume", "run", "--set", "steps=3000"]);
    assert_eq!(kept(folder.path()), before);
}

#[test]
fn an_extended_run_replays_to_the_bit_from_wherever_it_goes_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join("run").join(name);
    let run = folder.path().join("run");
    let first = quick(folder.path(), "run", &["--teacher", "mistake"]);
    let (config, summary) =
        (fs::read(at("config.toml")).expect("written"), fs::read(at("summary.json")).expect("written"));
    let set = ["--set", "steps=5000", "--set", "preferences.labels=40", "--set", "ppo.learning_rate=1e-4"];
    let second = json(folder.path(), &[&["resume", "run", "--threads", "1"], &set[..]].concat());
    assert_eq!((&second["env_steps"], &second["labels_asked"]), (&Value::from(5000), &Value::from(40)));
    assert_ne!(second["weights_sha256"], first["weights_sha256"]);
    assert_eq!(fs::read(at("config.toml")).expect("written"), config, "stays as the run began");
    assert_eq!(fs::read(at("summary-000003000.json")).expect("kept"), summary);
    let recorded = fs::read_to_string(at("changes.jsonl")).expect("written");
    let change: Value = serde_json::from_str(&recorded).expect("one line of JSON");
    assert_eq!((&change["at"]["env_steps"], &change["at"]["iteration"]), (&Value::from(3000), &Value::from(4)));
    assert_eq!(change["fields"]["steps"], serde_json::json!({ "old": 3000, "new": 5000 }));
    assert_eq!(change["fields"].as_object().map(serde_json::Map::len), Some(3));
    let replay = |name: &str| json(folder.path(), &["replay", name, "--threads", "2"]);
    assert_eq!(replay("run")["replayed_sha256"], second["weights_sha256"]);

    // Killed after the change, and with no checkpoint that knows of it, or none at all.
    kill(&run);
    assert_eq!(json(folder.path(), &["resume", "run"])["weights_sha256"], second["weights_sha256"]);
    fs::remove_file(at("summary.json")).expect("finished");
    checkpoints(&run).iter().for_each(|path| fs::remove_file(path).expect("writable"));
    assert_eq!(json(folder.path(), &["resume", "run"])["weights_sha256"], second["weights_sha256"]);

    // A second change, in the middle, with a ledger that is ahead of the checkpoint: it waits for what was said already.
    kill(&run);
    let third = json(folder.path(), &["resume", "run", "--set", "preferences.labels=44", "--set", "steps=5500"]);
    assert_eq!(third["labels_asked"], 44);
    assert_eq!(replay("run")["replayed_sha256"], third["weights_sha256"]);
    let lines = fs::read_to_string(at("changes.jsonl")).expect("written");
    assert_eq!(lines.lines().count(), 2);
    // Both belong to the configuration, for whoever asks.
    let current = Folder::open(&run).expect("a run").config().expect("readable");
    assert_eq!((current.steps, current.preferences.labels, current.ppo.learning_rate), (5500, 44, 1e-4));

    // A branch has the changes that came before it.
    let branch = |query: u64, name: &str| {
        let to = folder.path().join(name);
        past::branch(&run, &to, query, Some(Label::Equal)).expect("there is such an answer");
        to
    };
    assert!(!branch(3, "early").join("changes.jsonl").exists());
    let late = branch(41, "late");
    assert_eq!(fs::read_to_string(late.join("changes.jsonl")).expect("copied"), lines);
    json(folder.path(), &["resume", "late"]);
    assert_eq!(replay("late")["agrees"], true);

    // A record that was edited is not the ledger's fault.
    fs::write(at("changes.jsonl"), lines.replacen("\"new\":5000", "\"new\":4500", 1)).expect("writable");
    let message = refused(folder.path(), &["replay", "run"]);
    assert!(message.contains("changes.jsonl: line 2: changes steps from 5000, but it is 4500"), "{message}");
    fs::write(at("changes.jsonl"), lines.replacen("\"new\":0.0001", "\"new\":0.0002", 1)).expect("writable");
    let message = refused(folder.path(), &["replay", "run"]);
    assert!(
        message.contains("ppo.learning_rate: the checkpoint was made with 0.0001, config.toml says 0.0002"),
        "{message}"
    );
    // Also one that leads to the same configuration, and one that is gone.
    let (first_line, second_line) = lines.split_once('\n').expect("two lines");
    for (edited, expected) in [
        (lines.replace("5000", "4500"), "line 1: was edited: the checkpoint iteration-"),
        (
            lines.replacen("\"env_steps\":3000", "\"env_steps\":2250", 1),
            "line 1: was edited: the checkpoint iteration-",
        ),
        (format!("{first_line}\n{first_line}\n{second_line}"), "line 2: was edited: the checkpoint iteration-"),
        (format!("{lines}{second_line}"), "line 3: was not there when the checkpoint iteration-"),
    ] {
        fs::write(at("changes.jsonl"), edited).expect("writable");
        let message = refused(folder.path(), &["replay", "run"]);
        assert!(message.contains(expected), "{expected}: {message}");
    }
    fs::write(at("changes.jsonl"), lines.replacen('{', "[", 1)).expect("writable");
    assert!(refused(folder.path(), &["resume", "run"]).contains("changes.jsonl: line 1: "), "not an object");
}

#[test]
fn a_finished_run_can_be_measured_on_more_episodes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let first = train(folder.path(), "run", &[]);
    let again = json(folder.path(), &["resume", "run", "--set", "evaluation_episodes=30"]);
    assert_eq!((&again["episodes"], &again["weights_sha256"]), (&Value::from(30), &first["weights_sha256"]));
    assert_eq!(json(folder.path(), &["replay", "run"])["agrees"], true);
    let true_reward = train_true(folder.path());
    let more = json(folder.path(), &["resume", "true", "--set", "steps=4000"]);
    assert_ne!(more["weights_sha256"], true_reward["weights_sha256"]);
    assert_eq!(json(folder.path(), &["replay", "true"])["agrees"], true);
}

fn train_true(folder: &Path) -> Value {
    let small = &common::SMALL[2..];
    json(folder, &[&["train", "pendulum", "--reward", "true", "--out", "true"], small].concat())
}

#[test]
fn a_ledger_that_is_not_what_the_checkpoint_has_seen_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let summary = quick(folder.path(), "run", &[]);
    quick(folder.path(), "other", &["--seed", "5"]);
    let run = folder.path().join("run");
    let ledger = run.join("labels.jsonl");
    let finished = folder.path().join("finished");
    copy(&run, &finished);
    kill(&run);
    let intact = fs::read_to_string(&ledger).expect("written");
    let lines: Vec<&str> = intact.split_inclusive('\n').collect();
    let seen = Archive::load(&checkpoints(&run)[0]).expect("whole").meta["ledger"]["lines"].as_u64().expect("a number");
    assert!(seen > 15 && seen < 24, "{seen}: what came after it is replayed");
    let other = fs::read_to_string(folder.path().join("other/labels.jsonl")).expect("written");
    let has = |lines: usize| {
        format!("labels.jsonl: has {lines} lines, but the checkpoint of iteration 3 has seen {seen} lines")
    };
    let cases: [(Option<String>, String); 7] = [
        (Some(lines[..4].concat()), has(4)),
        (Some(lines[..seen as usize - 1].concat()), has(seen as usize - 1)),
        (Some(String::new()), has(0)),
        (None, format!("labels.jsonl: is missing, but the checkpoint of iteration 3 has seen {seen} lines")),
        (Some(other), "but the checkpoint of iteration 3 has seen".to_owned()),
        (Some(intact.replace('\n', "\r\n")), "line 1: ends with CR LF".to_owned()),
        (Some(format!("\u{feff}{intact}")), "line 1: ".to_owned()),
    ];
    for old in [false, true] {
        if old {
            make_old(&run);
        }
        for (text, expected) in &cases {
            match text {
                Some(text) => fs::write(&ledger, text).expect("writable"),
                None => fs::remove_file(&ledger).expect("writable"),
            }
            let before = contents(&run);
            let message = refused(folder.path(), &["resume", "run"]);
            // Checkpoints of before there were marks cannot tell another ledger by its chain; the clips tell it.
            let clips = old && message.contains("the ledger answers query");
            assert!(clips || message.contains(expected.as_str()), "should mention '{expected}': {message}");
            if !clips {
                assert_eq!(contents(&run), before, "{expected}");
            }
        }
        fs::write(&ledger, &intact).expect("writable");
    }
    assert_eq!(json(folder.path(), &["resume", "run"])["weights_sha256"], summary["weights_sha256"]);

    // A finished one is not said to be finished with another ledger.
    fs::write(finished.join("labels.jsonl"), lines[..4].concat()).expect("writable");
    let message = refused(folder.path(), &["resume", "finished"]);
    assert!(message.contains("has 4 lines, but the checkpoint of iteration 4 has seen 24 lines"), "{message}");
}

#[test]
fn a_turned_bit_is_named_and_the_checkpoint_before_is_taken() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let summary = quick(folder.path(), "run", &[]);
    let run = folder.path().join("run");
    fs::remove_file(run.join("summary.json")).expect("it was finished");
    let newest = checkpoints(&run).pop().expect("two are kept");
    let intact = fs::read(&newest).expect("written");
    let header = 8 + u64::from_le_bytes(intact[..8].try_into().expect("eight bytes")) as usize;
    let turned = |i: usize| {
        let mut bytes = intact.clone();
        // All over the arrays, each time another bit.
        let at = header + (bytes.len() - header) * i / 60;
        bytes[at] ^= 1 << (i % 8);
        bytes
    };
    for i in 0..60 {
        fs::write(&newest, turned(i)).expect("writable");
        let error = Archive::load(&newest).expect_err("a bit was turned over").to_string();
        assert!(error.contains("iteration-000004.safetensors: damaged"), "{error}");
    }
    let output = pairwise(folder.path(), &["resume", "run"]);
    let message = stderr(&output);
    assert!(output.status.success() && message.contains("iteration-000004.safetensors: damaged"), "{message}");
    assert!(message.contains("trying the one before it"), "{message}");
    let again = json(folder.path(), &["resume", "run"]);
    assert_eq!(again["weights_sha256"], summary["weights_sha256"]);
    // A policy's file has no other to fall back on.
    let policy = folder.path().join("mix.safetensors");
    quick(folder.path(), "one", &["--init", "run"]);
    quick(folder.path(), "two", &["--init", "run", "--seed", "9"]);
    let mix = ["soup", "one", "two", "--weights", "0.5,0.5", "--episodes", "20", "--out", "mix.safetensors"];
    json(folder.path(), &mix);
    json(folder.path(), &["evaluate", "mix.safetensors", "--episodes", "20"]);
    let mut bytes = fs::read(&policy).expect("written");
    let last = bytes.len() - 5;
    bytes[last] ^= 4;
    fs::write(&policy, bytes).expect("writable");
    let message = refused(folder.path(), &["evaluate", "mix.safetensors"]);
    assert!(message.contains("mix.safetensors: damaged"), "{message}");
}

#[test]
fn a_bad_line_of_metrics_costs_nothing_but_itself() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let summary = quick(folder.path(), "run", &[]);
    let run = folder.path().join("run");
    let metrics = run.join("metrics.jsonl");
    let intact = fs::read_to_string(&metrics).expect("written");
    assert!(!intact.contains("null"), "{intact}");
    let lines: Vec<&str> = intact.lines().collect();
    assert_eq!(lines.len(), 5);
    // Line 2 is no JSON; line 3 is as those of a NaN were written once.
    let mut third: Value = serde_json::from_str(lines[2]).expect("JSON");
    third["ppo"]["policy_loss"] = Value::Null;
    let third = third.to_string();
    let broken = [lines[0], "{\"iteration\": 1, \"env_st", &third, lines[3], lines[4]].join("\n") + "\n";
    fs::write(&metrics, &broken).expect("writable");
    let output = pairwise(folder.path(), &["replay", "run"]);
    let message = stderr(&output);
    assert!(output.status.success(), "the weights agree: {message}");
    assert!(message.contains("metrics.jsonl: line 2: is not a JSON object"), "{message}");
    assert!(message.contains("has no readable line for 1 iterations"), "{message}");

    kill(&run);
    let output = pairwise(folder.path(), &["resume", "run"]);
    let message = stderr(&output);
    assert!(output.status.success() && message.contains("metrics.jsonl: line 2: "), "{message}");
    assert!(message.contains("left as it is"), "{message}");
    assert_eq!(fs::read_to_string(&metrics).expect("written"), broken);
    let found: Value =
        serde_json::from_str(&fs::read_to_string(run.join("summary.json")).expect("written")).expect("JSON");
    assert_eq!(found["weights_sha256"], summary["weights_sha256"]);
    // Torn, it is dropped and written again.
    kill(&run);
    fs::write(&metrics, format!("{}\n{}", lines[..4].join("\n"), &lines[4][..20])).expect("writable");
    let message = stderr(&pairwise(folder.path(), &["resume", "run"]));
    assert!(message.contains("metrics.jsonl: line 5: torn") && message.contains("dropped"), "{message}");
    assert_eq!(fs::read_to_string(&metrics).expect("written"), intact);
}

// -------------------------------------------------------------------------------------------------- language models

const PRETRAIN: &[&str] = &[
    "lm", "pretrain", "--out", "run", "--steps", "6", "--set", "train.batch_size=4", "--set", "pretrain.texts=60",
    "--set", "pretrain.hidden=16", "--set", "pretrain.layers=2", "--set", "pretrain.heads=2", "--set",
    "pretrain.context=96", "--set", "pretrain.vocabulary=300", "--set", "train.log_every=1", "--set",
    "train.save_every=2",
];

#[test]
fn a_language_run_is_extended_and_its_configuration_is_its_own() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let run = folder.path().join("run");
    let at = |name: &str| run.join(name);
    let first = json(folder.path(), PRETRAIN);
    let intact = fs::read_to_string(at("config.toml")).expect("written");
    edit(&at("config.toml"), "learning_rate = 0.003", "learning_rate = 0.03");
    for arguments in [&["lm", "resume", "run"][..], &["lm", "resume", "run", "--set", "train.steps=9"]] {
        let before = contents(folder.path());
        let message = refused(folder.path(), arguments);
        let expected = "step-00000006.safetensors: does not belong to config.toml beside it: train.optimizer.learning_rate: the \
                        checkpoint was made with 0.003, config.toml says 0.03. Undo the edit; `pairwise lm resume run --set";
        assert!(message.contains(expected), "{message}");
        assert_eq!(contents(folder.path()), before);
    }
    fs::write(at("config.toml"), &intact).expect("writable");
    let before = kept(folder.path());
    for (set, expected) in [
        ("seed=3", "--set seed: cannot change in a run"),
        ("train.batch_size=8", "--set train.batch_size: cannot change in a run: the place in the data"),
        ("train.optimizer.kind=rmsprop", "--set train.optimizer.kind: cannot change in a run"),
        ("pretrain.hidden=32", "--set pretrain.hidden: cannot change in a run: the model was made so"),
        ("train.steps=3", "--set train.steps: gives 3 steps, but the run has taken 6 already"),
        ("train.optimizer.learning_rate=0.01", "the run has taken all its 6 steps"),
        ("steps=9", "steps"),
    ] {
        let message = refused(folder.path(), &["lm", "resume", "run", "--set", set]);
        assert!(message.contains(expected), "{set} should mention '{expected}': {message}");
        assert_eq!(kept(folder.path()), before, "{set} changed something");
    }

    let set = ["--set", "train.steps=10", "--set", "train.optimizer.learning_rate=0.001"];
    let second = json(folder.path(), &[&["lm", "resume", "run"], &set[..]].concat());
    assert_eq!(second["steps"], 10);
    assert_ne!(second["weights_sha256"], first["weights_sha256"]);
    let steps = |of: &str| -> Vec<u64> {
        let text = fs::read_to_string(at(of)).expect("written");
        let step = |line: &str| serde_json::from_str::<Value>(line).ok()?.get("step")?.as_u64();
        text.lines().filter_map(step).collect()
    };
    let logged = steps("metrics.jsonl");
    assert!((1..=10).all(|step| logged.contains(&step)), "{logged:?}");
    assert!(at("summary-00000006.json").exists() && at("changes.jsonl").exists());
    assert_eq!(fs::read_to_string(at("config.toml")).expect("written"), intact);
    // The same bits from a checkpoint after the change, and from none at all.
    kill(&run);
    assert_eq!(json(folder.path(), &["lm", "resume", "run"])["weights_sha256"], second["weights_sha256"]);
    fs::remove_file(at("summary.json")).expect("finished");
    checkpoints(&run).iter().for_each(|path| fs::remove_file(path).expect("writable"));
    assert_eq!(json(folder.path(), &["lm", "resume", "run"])["weights_sha256"], second["weights_sha256"]);

    // A bad line costs nothing but itself, and a turned bit is named.
    let metrics = fs::read_to_string(at("metrics.jsonl")).expect("written");
    let lines: Vec<&str> = metrics.lines().collect();
    let broken: Vec<&str> =
        lines.iter().enumerate().map(|(i, line)| if i == 2 { "{\"step\": 3, NaN" } else { line }).collect();
    fs::write(at("metrics.jsonl"), broken.join("\n") + "\n").expect("writable");
    kill(&run);
    let newest = checkpoints(&run).pop().expect("one is left");
    fs::copy(&newest, at("checkpoints/step-00000009.safetensors")).expect("writable");
    let mut bytes = fs::read(&newest).expect("written");
    let last = bytes.len() - 9;
    bytes[last] ^= 16;
    fs::write(at("checkpoints/step-00000009.safetensors"), bytes).expect("writable");
    let output = command(folder.path(), &["lm", "resume", "run"]).output().expect("it runs");
    let message = stderr(&output);
    assert!(output.status.success(), "{message}");
    assert!(
        message.contains("metrics.jsonl: line 3: is not a JSON object") && message.contains("left as it is"),
        "{message}"
    );
    assert!(message.contains("step-00000009.safetensors: damaged"), "{message}");
    assert_eq!(fs::read_to_string(at("metrics.jsonl")).expect("written"), broken.join("\n") + "\n");
}
