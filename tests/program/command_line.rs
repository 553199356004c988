//! What the command line promises: figures a script can read, and clear refusals that change nothing.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json as object};

use crate::common::{SMALL, command, contents, json, pairwise, refused, stderr, train};

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
    (&["train", "pendulum", "--set", "ppo.gama=0.9"], "ppo.gama: there is no such value; did you mean ppo.gamma?"),
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
    (
        &["envs", "rollout", "Acrobot-v1", "--state", "[1e18,0,0,0]", "--actions", "actions.json"],
        "theta1 [rad], 0 hangs = 1e18",
    ),
    (
        &["envs", "rollout", "acrobot", "--state", "[0,-1e18,0,0]", "--actions", "actions.json"],
        "theta2 [rad], relative = -1e18",
    ),
    (&["envs", "rollout", "pendulum", "--state", "[1e18,0]", "--actions", "actions.json"], "between -1e6 and 1e6"),
    (
        &["envs", "rollout", "inverted-pendulum", "--state", "[0,0,0,1e18]", "--actions", "actions.json"],
        "theta' [rad/s] = 1e18",
    ),
    (&["envs", "rollout", "pendulum", "--state", "[1e999,0]", "--actions", "actions.json"], "--state"),
    (&["train", "pendulum", "--set", "reward_model.likelihood.temperature=1e-40"], "temperature = 0.0000"),
    (&["train", "pendulum", "--set", "reward_model.likelihood.temperature=inf"], "temperature = inf"),
    (&["train", "pendulum", "--set", "preferences.teacher.beta=1e300"], "beta"),
    (&["train", "pendulum", "--set", "reward_model.l2=-inf"], "reward_model.l2 = -inf"),
    (&["front", "pendulum", "--set", "ppo.gamma=nan"], "ppo.gamma = NaN"),
    (&["front", "pendulum", "--set", "finetune_learning_rate=inf"], "finetune_learning_rate = inf"),
    (&["app", "--least-seconds", "nan"], "--least-seconds NaN"),
    (&["app", "--least-seconds", "-1"], "--least-seconds -1"),
    (&["train", "pendulum", "--init", "absent"], "init = absent: "),
    (&["soup", "absent"], "2 values required"),
    (&["soup", "absent", "other", "--weights", "0.5"], "--weights: there are 1 for 2 runs"),
    (&["soup", "absent", "other", "--weights", "0.5", "0.6"], "sum to 1.1: must sum to 1"),
    (&["soup", "absent", "other", "--weights", "0.5,0.6"], "sum to 1.1: must sum to 1"),
    (&["lm", "merge", "a", "b", "--weights", "0.5,x", "--out", "c"], "invalid value 'x' for '--weights"),
    (&["lm", "frontier", "--seeds", "0,1", "--methods", "dpo,best"], "methods[1]: unknown variant `best`"),
    (&["lm", "front", "--seeds", "0,1", "--objectives", "length"], "objectives: there are 1"),
    (&["soup", "absent", "other", "--weights", "0.5", "0.5", "--out", "a.gif"], "must end in .safetensors"),
    (&["soup", "absent", "other"], "absent: there is no such run or policy"),
    (&["soup", "full", "other"], "config.toml is missing"),
    (&["front", "acrobot"], "has no tastes to weigh"),
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
        "true_return_mean", "true_return_std", "episodes", "labels_asked", "labels_answered", "env_steps",
        "reward_pearson", "reward_spearman", "epic", "wall_seconds", "cpu_seconds",
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
/// Two teachers of different tastes, one beginning: their policies can be mixed, the mix filmed, measured and begun with.
#[test]
fn runs_that_begin_with_one_policy_can_be_mixed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let folder = folder.path();
    let train = |env: &str, out: &str, more: &[&str]| {
        let arguments = [&["train", env, "--out", out], SMALL, more].concat();
        json(folder, &arguments)
    };
    let _ = train("pendulum", "base", &[]);
    let upright = train("pendulum-upright", "upright", &["--init", "base"]);
    let gentle = train("pendulum-gentle", "gentle", &["--init", "base"]);
    assert_ne!(upright["weights_sha256"], gentle["weights_sha256"]);
    // The run keeps what it began with, so it can be repeated when that is gone.
    fs::rename(folder.join("base"), folder.join("moved")).expect("writable");
    assert_eq!(json(folder, &["replay", "upright"])["agrees"], true);

    let found = json(folder, &["soup", "upright", "gentle", "--steps", "2", "--episodes", "20"]);
    let mixes = found["mixes"].as_array().expect("a list");
    assert_eq!((mixes.len(), &found["envs"]), (3, &object!(["pendulum-upright", "pendulum-gentle"])));
    // An end is the run itself.
    let own = json(folder, &["evaluate", "upright", "--episodes", "20", "--seed", "0"]);
    assert_eq!(mixes[2]["returns"][0], own["true_return_mean"]);
    assert_eq!(mixes[2]["above_chord"], object!([0.0, 0.0]));

    let weights = ["soup", "upright", "gentle", "--weights", "0.25", "0.75", "--episodes", "20"];
    let mix = json(folder, &[&weights[..], &["--out", "mix.safetensors"]].concat());
    let judged = json(folder, &["evaluate", "mix.safetensors", "--episodes", "20"]);
    assert_eq!(mix["mixes"][0]["returns"][0], judged["true_return_mean"]);
    assert_eq!(json(folder, &["clips", "mix.safetensors", "--out", "mix.gif"])["frames"], 200);
    let _ = train("pendulum-gentle", "further", &["--init", "mix.safetensors"]);

    for (arguments, expected) in [
        (&["soup", "upright", "moved"][..], "moved from random weights"),
        (&["soup", "upright", "further"], "further from"),
        (
            &["train", "reacher", "--init", "moved", "--out", "none"],
            "is a policy of pendulum, but the run is of reacher",
        ),
        (&["train", "pendulum", "--init", "moved", "--out", "none", "--set", "ppo.hidden=[7]"], "but ppo.hidden = [7]"),
    ] {
        let message = refused(folder, arguments);
        assert!(message.contains(expected), "{arguments:?} should mention '{expected}': {message}");
        assert!(!folder.join("none").exists());
    }
}

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
        (
            "hidden = [64, 64]\nactivation = \"tanh\"",
            "hidden = [32]\nactivation = \"tanh\"",
            "ppo.hidden: the checkpoint was made with [64, 64], config.toml says [32]",
        ),
        ("members = 3", "members = 4", "reward_model.members: the checkpoint was made with 3, config.toml says 4"),
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

/// Issue 28, B1: the run stops, says which quantity of what at which step, and keeps what was good.
#[test]
fn a_run_that_diverges_fails_with_the_quantity_and_the_last_good_checkpoint() {
    use pairwise::disk::archive::Archive;
    let folder = tempfile::tempdir().expect("a temporary folder");
    train(folder.path(), "run", &[]);
    let run = folder.path().join("run");
    fs::remove_file(run.join("summary.json")).expect("it was finished");
    fs::remove_file(run.join("checkpoints/iteration-000004.safetensors")).expect("written");
    // The largest number there is: the next values are not finite.
    let newest = run.join("checkpoints/iteration-000003.safetensors");
    let mut archive = Archive::load(&newest).expect("a checkpoint");
    archive.put_f32("value.layers.2.bias", &[1, 1, 1], &[f32::MAX]);
    archive.put_f32("value.layers.2.weight", &[1, 64, 1], &[f32::MAX; 64]);
    archive.save(&newest).expect("writable");
    let output = pairwise(folder.path(), &["resume", "run"]);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    let last = message.lines().last().expect("an error");
    assert!(last.starts_with("error: the ") && last.contains(" at iteration 4 (environment step 3000)"), "{last}");
    assert!(last.contains("is NaN") || last.contains("is inf") || last.contains("is -inf"), "{last}");
    let (_, kept) = last.rsplit_once("The last good checkpoint is ").expect("it says what is kept");
    assert_eq!(folder.path().join(kept), newest);
    assert!(!run.join("summary.json").exists() && !run.join("checkpoints/iteration-000004.safetensors").exists());
    // Whatever was written can be read, and is finite.
    for line in fs::read_to_string(run.join("metrics.jsonl")).expect("written").lines() {
        let line: Value = serde_json::from_str(line).expect("JSON");
        assert!(!line.to_string().contains("null"), "{line}");
    }
    let again = pairwise(folder.path(), &["resume", "run"]);
    assert_eq!(
        (again.status.code(), stderr(&again).lines().last()),
        (Some(1), Some(last)),
        "the same bits, the same end"
    );
}

/// Issue 28, B4.
#[test]
fn a_run_in_which_nothing_is_answered_fails_before_it_trains() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // Episodes end within the random steps, so that the teacher knows what is usual, and wants ten times that.
    let never = ["--set", "preferences.teacher.skip=10"];
    let arguments = [&["train", "pendulum", "--out", "run"], SMALL, &never].concat();
    let output = pairwise(folder.path(), &arguments);
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("none of the 12 questions asked by iteration 1"), "{message}");
    assert!(message.contains("no reward to train the agent on"), "{message}");
}

/// Issue 28, found/robust: a checkpoint with one NaN in its arrays was resumed and never ended.
#[test]
fn a_checkpoint_with_a_number_that_is_none_is_named_and_the_one_before_is_taken() {
    use pairwise::disk::archive::Archive;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let summary = train(folder.path(), "run", &[]);
    let run = folder.path().join("run");
    fs::remove_file(run.join("summary.json")).expect("it was finished");
    let newest = run.join("checkpoints/iteration-000004.safetensors");
    let good = fs::read(&newest).expect("written");
    let arrays = [
        "policy.0.weight", "reward.1.0.bias", "observations.mean", "scaler.squares", "recent.0.true_rewards", "l2",
        "segments.observations", "agent.adam.0.second", "scales", "envs.states",
    ];
    let mut tried = 0;
    for name in arrays {
        fs::write(&newest, &good).expect("writable");
        let mut archive = Archive::load(&newest).expect("a checkpoint");
        if let Ok(mut values) = archive.f32_any(name) {
            values[0] = f32::NAN;
            archive.put_f32(name, &[values.len()], &values);
        } else if let Ok(mut values) = archive.f64_any(name) {
            values[0] = f64::INFINITY;
            archive.put_f64(name, &[values.len()], &values);
        } else {
            continue;
        }
        tried += 1;
        archive.save(&newest).expect("writable");
        let output = pairwise(folder.path(), &["resume", "run", "--json"]);
        let message = stderr(&output);
        assert!(output.status.success(), "{name}: {message}");
        assert!(message.contains(&format!("array '{name}' holds ")), "{name}: {message}");
        assert!(message.contains("iteration-000004.safetensors") && message.contains("the one before it"), "{message}");
        let stdout = String::from_utf8_lossy(&output.stdout);
        let again: Value = serde_json::from_str(stdout.lines().last().expect("a summary")).expect("JSON");
        assert_eq!(again["weights_sha256"], summary["weights_sha256"], "{name}");
        fs::remove_file(run.join("summary.json")).expect("it was finished");
    }
    assert!(tried >= 8, "{tried} of the arrays are there");
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
    assert_eq!(ids, pairwise_envs::specs().map(|spec| spec.id).collect::<Vec<_>>());
    let text = pairwise(folder.path(), &["envs"]);
    assert!(ids.iter().all(|id| String::from_utf8_lossy(&text.stdout).contains(id)), "{}", stderr(&text));
}

/// A language model of 30,000 parameters after four steps: what every stage needs in about a second.
const TINY: &[&str] = &[
    "lm", "pretrain", "--size", "30k", "--texts", "200", "--vocab-size", "300", "--steps", "4", "--set",
    "train.batch_size=8", "--set", "pretrain.context=512",
];

/// Writes rows that every stage can read, made of the embedded world's reviews.
fn write_rows(folder: &Path) {
    json_lines(folder, &["lm", "reviews", "--count", "40", "--prompt-words", "4", "--out", "reviews.jsonl"]);
    let text = fs::read_to_string(folder.join("reviews.jsonl")).expect("written");
    let reviews: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let row = |(i, pair): (usize, &[Value])| {
        let [one, other] = [&pair[0]["completion"], &pair[1]["completion"]];
        let whole = format!("{}{}", pair[0]["prompt"].as_str().expect("a text"), one.as_str().expect("a text"));
        object!({
            "prompt": pair[0]["prompt"], "completion": one, "label": i % 2 == 0, "chosen": one, "rejected": other,
            "text": whole,
        })
    };
    let rows: Vec<Value> = reviews.chunks_exact(2).enumerate().map(row).collect();
    let lines = |of: &dyn Fn(&Value) -> Value| rows.iter().map(|row| format!("{}\n", of(row))).collect::<String>();
    fs::write(folder.join("rows.jsonl"), lines(&Value::clone)).expect("writable");
    // Classifiers have labels of their own.
    let labelled = |row: &Value| object!({"text": row["text"], "label": u8::from(row["label"] == true)});
    fs::write(folder.join("texts.jsonl"), lines(&labelled)).expect("writable");
}

/// Runs a command that must succeed, and returns what it printed.
fn json_lines(folder: &Path, arguments: &[&str]) -> String {
    let output = pairwise(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The objects of a file of JSON lines.
fn objects(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("written");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn language_models_are_trained_asked_and_scored() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    write_rows(folder.path());
    let base = json(folder.path(), &[TINY, &["--out", "base"]].concat());
    assert_eq!((&base["stage"], &base["steps"]), (&Value::from("pretrain"), &Value::from(4)));
    let packed = json(folder.path(), &[TINY, &["--packing", "--out", "packed"]].concat());
    assert_eq!(packed["tokens"], 4 * 8 * 512, "every example is a full block");

    // What the options do not say comes from the file, and over it from --set.
    fs::write(at("size.toml"), "[pretrain]\nhidden = 24\nlayers = 2\nheads = 2\nvocabulary = 300\ntexts = 40\n")
        .expect("written");
    let wide =
        ["lm", "pretrain", "--config", "size.toml", "--set", "pretrain.layers=1", "--steps", "1", "--out", "wide"];
    json(folder.path(), &wide);
    let written = fs::read_to_string(at("wide/config.toml")).expect("written");
    for line in ["hidden = 24", "layers = 1", "heads = 2", "texts = 40"] {
        assert!(written.lines().any(|found| found == line), "{line}");
    }

    let loop_ = ["--model", "base/model", "--data", "rows.jsonl", "--steps", "4", "--batch-size", "4", "--lr", "1e-3"];
    let more = ["--set", "train.save_every=2", "--set", "train.log_every=3"];
    for (stage, own) in [
        ("sft", &[][..]),
        ("reward", &["--members", "2", "--set", "eval_share=0.2"]),
        ("dpo", &["--loss", "ipo", "--beta", "0.2", "--gold", "reviews:sentiment", "--set", "eval_samples=2"]),
        ("kto", &["--lora", "2"]),
    ] {
        let summary = json(folder.path(), &[&["lm", stage, "--out", stage], &loop_[..], &more, own].concat());
        let steps = if stage == "reward" { 8 } else { 4 };
        assert_eq!((&summary["stage"], &summary["steps"]), (&Value::from(stage), &Value::from(steps)));
        assert_eq!(summary["weights_sha256"].as_str().map(str::len), Some(64), "{stage}");
        let on_disk: Value =
            serde_json::from_str(&fs::read_to_string(at(stage).join("summary.json")).expect("written")).expect("JSON");
        assert_eq!(on_disk, summary, "{stage}: summary.json is what --json printed");
    }
    let ppo = ["--iterations", "2", "--batch-size", "4", "--max-new-tokens", "6", "--set", "eval_samples=2"];
    for (name, reward) in [("gold", ["--gold", "reviews:sentiment"]), ("learned", ["--reward-model", "reward"])] {
        let arguments = ["lm", "ppo", "--out", name, "--model", "base/model", "--data", "rows.jsonl"];
        let summary = json(folder.path(), &[&arguments[..], &ppo, &reward].concat());
        assert_eq!(summary["steps"], 2, "{name}");
    }

    // A kill after the first checkpoint: the summary and what came later are not there yet.
    let whole = json(folder.path(), &["lm", "resume", "dpo"]);
    for lost in ["summary.json", "checkpoints/step-00000004.safetensors"] {
        fs::remove_file(at("dpo").join(lost)).expect("it was finished");
    }
    let metrics = fs::read(at("dpo/metrics.jsonl")).expect("written");
    let resumed = json(folder.path(), &["lm", "resume", "dpo"]);
    assert_eq!((&resumed["weights_sha256"], &resumed["eval"]), (&whole["weights_sha256"], &whole["eval"]));
    assert_eq!(fs::read(at("dpo/metrics.jsonl")).expect("written"), metrics);

    let draw = ["--prompt", "I bought", "--max-new-tokens", "5", "--count", "2"];
    let sampled =
        json(folder.path(), &[&["lm", "sample", "--model", "kto/model", "--out", "s.jsonl"], &draw[..]].concat());
    assert_eq!((&sampled["completions"], objects(&at("s.jsonl")).len()), (&Value::from(2), 2));
    let score = |model: &str| {
        let arguments = ["lm", "score", "--data", "rows.jsonl", "--out", "scores.jsonl", "--model", model];
        assert_eq!(json(folder.path(), &arguments)["rows"], 20);
        objects(&at("scores.jsonl"))
    };
    assert!(score("base/model").iter().all(|row| row["logprob"].as_f64().is_some_and(|value| value < 0.0)));
    let of_one = score("reward/member-1/model");
    for (row, one) in score("reward").iter().zip(of_one) {
        let scores: Vec<f64> = row["scores"].as_array().expect("two").iter().filter_map(Value::as_f64).collect();
        let mean = row["score"].as_f64().expect("a number");
        assert!(scores.len() == 2 && (scores[0] + scores[1] - 2.0 * mean).abs() < 1e-9 && one["score"] == scores[1]);
    }

    let query = ["lm", "query", "--model", "reward", "--data", "rows.jsonl", "--count", "5", "--out"];
    let chosen = json(folder.path(), &[&query[..], &["first.jsonl"]].concat());
    assert_eq!([&chosen["chosen"], &chosen["candidates"], &chosen["members"]], [5, 20, 2]);
    json(folder.path(), &[&query[..], &["second.jsonl", "--sampler", "k-center", "--asked", "first.jsonl"]].concat());
    let disagreements: Vec<f64> =
        objects(&at("first.jsonl")).iter().filter_map(|row| row["disagreement"].as_f64()).collect();
    assert!(disagreements.len() == 5 && disagreements.is_sorted_by(|a, b| a >= b), "{disagreements:?}");
    // Nothing is as far from what was asked as what was not.
    let texts = |name: &str| objects(&at(name)).iter().map(|row| row["text"].clone()).collect::<Vec<_>>();
    assert!(texts("second.jsonl").iter().all(|text| !texts("first.jsonl").contains(text)));

    let mut chat = command(folder.path(), &["lm", "chat", "--model", "sft/model", "--max-new-tokens", "4"]);
    let mut chat = chat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the binary is there");
    chat.stdin.take().expect("piped").write_all(b"Hello\nAnd then?\n").expect("it reads");
    let output = chat.wait_with_output().expect("it ends with its input");
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.starts_with("model: ")).count(), 2);

    let gold = ["lm", "gold", "train", "--data", "texts.jsonl", "--test", "texts.jsonl", "--out", "gold.json"];
    let trained = json(folder.path(), &gold);
    assert!(trained["test_accuracy"].as_f64().is_some_and(|share| share > 0.5), "{trained}");
    let scored = json(folder.path(), &["lm", "gold", "score", "--gold", "logistic:gold.json", "--data", "rows.jsonl"]);
    assert_eq!(scored["rows"], 20);
}

/// Arguments of `lm` that cannot be right, with words that the message must have.
const REFUSED_LM: &[(&[&str], &str)] = &[
    (&["sft", "--data", "rows.jsonl"], "model: none is given (--model FOLDER)"),
    (&["sft", "--data", "rows.jsonl", "--model", "absent"], "absent: there is no such folder"),
    (&["sft", "--data", "torn.jsonl", "--model", "base/model"], "torn.jsonl: line 2: field 'completion' is missing"),
    (
        &["dpo", "--data", "rows.jsonl", "--model", "base/model", "--beta", "0"],
        "dpo.loss.beta = 0: must be between 1e-9 and 1e6",
    ),
    (&["reward", "--data", "rows.jsonl", "--model", "base/model", "--members", "0"], "reward.members = 0: must be"),
    (&["reward", "--data", "rows.jsonl", "--model", "base/model", "--set", "reward.member=1"], "reward.member = 1"),
    (&["pretrain", "--size", "2k"], "invalid value '2k' for '--size <SIZE>': must be one of 30k, 100k"),
    (&["pretrain", "--set", "pretrain.hiden=3"], "did you mean pretrain.hidden?"),
    (&["ppo", "--data", "rows.jsonl", "--model", "base/model"], "ppo: no reward is given"),
    (
        &["ppo", "--data", "rows.jsonl", "--model", "base/model", "--reward-model", "base/model"],
        "base/model: is a model that writes, not a reward model",
    ),
    (&["query", "--model", "base", "--data", "rows.jsonl"], "base: is a run of another stage"),
    (
        &["query", "--model", "base/model", "--data", "rows.jsonl", "--sampler", "disagrement"],
        "a similar value exists: 'disagreement'",
    ),
    (&["score", "--model", "base/model", "--data", "absent.jsonl"], "absent.jsonl: cannot read"),
    (&["gold", "score", "--gold", "nonsense", "--data", "rows.jsonl"], "nonsense"),
    (&["resume", "absent"], "config.toml"),
];

#[test]
fn impossible_requests_to_language_models_are_refused_and_nothing_is_written() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    write_rows(folder.path());
    json(folder.path(), &[TINY, &["--out", "base"]].concat());
    fs::write(folder.path().join("torn.jsonl"), "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \"c\"}\n")
        .expect("writable");
    let before = contents(folder.path());
    for (arguments, expected) in REFUSED_LM {
        let message = refused(folder.path(), &[&["lm"], *arguments].concat());
        assert!(message.contains(expected), "{arguments:?} should mention '{expected}': {message}");
        assert_eq!(contents(folder.path()), before, "{arguments:?} changed something");
    }
}
