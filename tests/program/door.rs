//! The door of the command line: lists, paths that are odd, and pipes that close.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::common::{command, json, pairwise, refused, stderr};

/// A run of two iterations, as quick as one goes.
const SMALL: &[&str] = &[
    "--labels", "4", "--steps", "800", "--set", "preferences.random_steps=400", "--set", "ppo.rollout_steps=25",
    "--set", "ppo.epochs=1", "--set", "ppo.hidden=[4]", "--set", "preferences.segment_steps=10", "--set",
    "reward_model.hidden=[4]", "--set", "reward_model.members=2", "--set", "reward_model.first_steps=2", "--set",
    "reward_model.steps=2", "--set", "evaluation_episodes=20", "--set", "checkpoint_every=1",
];

fn train(folder: &Path, name: &str) -> Value {
    json(folder, &[&["train", "pendulum", "--out", name], SMALL].concat())
}

/// Runs a line of the shell in which `$pairwise` is the program.
fn shell(folder: &Path, line: &str) -> Output {
    let mut shell = Command::new("sh");
    shell.current_dir(folder).env("pairwise", env!("CARGO_BIN_EXE_pairwise")).args(["-c", line]);
    shell.output().expect("there is a shell")
}

fn words(words: &[&'static str]) -> Vec<&'static OsStr> {
    words.iter().copied().map(OsStr::new).collect()
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).expect("written")).expect("JSON")
}

#[test]
fn training_goes_on_whoever_stops_listening() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    let weights = train(folder.path(), "heard")["weights_sha256"].clone();
    let small = SMALL.join(" ");
    for (i, (redirected, code)) in [
        // The reader leaves before the first line, and after it. The status of the program is the shell's.
        ("2>&1 >/dev/null | true; exit ${PIPESTATUS:-0}", 0),
        ("2>/dev/full", 0),
        ("2>&-", 0),
        (">&-", 0),
        (">&- 2>&- <&-", 0),
        ("--json >/dev/full 2>told", 1),
        (">/dev/full 2>/dev/full", 1),
    ]
    .into_iter()
    .enumerate()
    {
        let output = shell(folder.path(), &format!("\"$pairwise\" train pendulum {small} --out run-{i} {redirected}"));
        assert_eq!(output.status.code(), Some(code), "{redirected}: {}", stderr(&output));
        assert_eq!(read(&at(&format!("run-{i}/summary.json")))["weights_sha256"], weights, "{redirected}");
    }
    let told = fs::read_to_string(at("told")).expect("written");
    assert!(told.contains("error: standard output: No space left on device") && !told.contains("panicked"), "{told}");
}

/// Status of the program itself, not of the pipe it is in.
#[test]
fn a_pipe_that_closes_changes_no_exit_code() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let small = SMALL.join(" ");
    let line = |inner: &str| format!("{{ {inner}; echo $? >code; }} | head -1");
    for (arguments, code) in [
        (format!("train pendulum {small} --out a 2>&1 >/dev/null"), 0),
        (format!("train pendulum {small} --out b --json 2>/dev/null"), 0),
        // Whoever reads results by the line and leaves.
        ("lm reviews --count 20000".to_owned(), 0),
        ("envs".to_owned(), 0),
        ("--help".to_owned(), 0),
        ("evaluate absent 2>&1".to_owned(), 2),
    ] {
        let output = shell(folder.path(), &line(&format!("\"$pairwise\" {arguments}")));
        let found = fs::read_to_string(folder.path().join("code")).expect("written");
        assert_eq!(found.trim(), code.to_string(), "{arguments}");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.lines().count() == 1 && !text.contains("panicked"), "{arguments}: {text}");
        assert_eq!(stderr(&output), "", "{arguments}");
    }
    assert!(folder.path().join("a/summary.json").exists() && folder.path().join("b/summary.json").exists());
}

#[test]
fn a_run_in_a_folder_of_any_name_is_trained_resumed_moved_and_measured() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let weights = train(folder.path(), "plain")["weights_sha256"].clone();
    let names: [OsString; 4] =
        [OsString::from_vec(b"run-\xff".to_vec()), "two words".into(), "two\nlines".into(), "-x".into()];
    for name in names {
        let run = |arguments: &[&OsStr]| {
            let output = command(folder.path(), &[]).args(arguments).output().expect("the binary is there");
            assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let last = text.lines().last().unwrap_or_default();
            (text.clone(), serde_json::from_str::<Value>(last).expect("JSON"))
        };
        let mut out = OsString::from("--out=");
        out.push(&name);
        let (_, found) = run(&[&words(&["train", "pendulum", "--json"])[..], &words(SMALL), &[&out]].concat());
        assert_eq!((&found["weights_sha256"], &found["run_dir"]), (&weights, &Value::from(name.to_string_lossy())));
        assert_eq!(read(&folder.path().join(&name).join("summary.json")), found);
        // It is moved: what is said is where it is now.
        let moved = OsString::from_vec([b"moved-".as_slice(), name.as_bytes()].concat());
        fs::rename(folder.path().join(&name), folder.path().join(&moved)).expect("on one disk");
        let (text, found) = run(&[&words(&["resume", "--json"])[..], &[&moved]].concat());
        assert_eq!(found["run_dir"], *moved.to_string_lossy());
        assert!(!text.contains(&format!(" {}\n", name.to_string_lossy())), "{text}");
        let (_, found) = run(&[&words(&["evaluate", "--episodes", "2", "--json"])[..], &[&moved]].concat());
        assert_eq!((&found["episodes"], &found["run_dir"]), (&Value::from(2), &Value::from(moved.to_string_lossy())));
        let (_, found) = run(&[
            &words(&["clips", "--size", "16", "--json", "--out"])[..],
            &[OsString::from_vec([moved.as_bytes(), b".gif"].concat()).as_os_str(), &moved],
        ]
        .concat());
        assert!(found["path"].as_str().is_some_and(|path| path.ends_with(".gif")), "{found}");
    }
}

#[test]
fn paths_of_language_models_are_refused_or_written_whatever_they_are_called() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let tiny = ["lm", "pretrain", "--size", "30k", "--texts", "50", "--vocab-size", "280", "--steps", "1"];
    let name = OsString::from_vec(b"lm-\xff".to_vec());
    let run = |arguments: &[&str], path: &OsStr| {
        let output = command(folder.path(), arguments).arg(path).output().expect("the binary is there");
        (output.status.code(), stderr(&output), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, message, text) = run(&[&tiny[..], &["--json", "--out"]].concat(), &name);
    assert_eq!(code, Some(0), "{message}");
    let last: Value = serde_json::from_str(text.lines().last().expect("a line")).expect("JSON");
    assert_eq!(last["run_dir"], "lm-\u{fffd}");
    // A configuration cannot hold it; a link can.
    fs::write(folder.path().join("rows.jsonl"), "{\"prompt\": \"a\", \"completion\": \"b\"}\n").expect("writable");
    let sft = ["lm", "sft", "--data", "rows.jsonl", "--steps", "1", "--out", "sft", "--model"];
    let (code, message, _) = run(&sft, Path::new(&name).join("model").as_os_str());
    assert!(code == Some(2) && message.contains("is not UTF-8"), "{message}");
    assert!(!folder.path().join("sft").exists());
    symlink(folder.path().join(&name), folder.path().join("link")).expect("writable");
    assert_eq!(json(folder.path(), &[&sft[..], &["link/model"]].concat())["steps"], 1);
    // Merged and sampled into such a place.
    let (code, message, text) = run(&["lm", "merge", "link/model", "sft/model", "--json", "--out"], &name_of("merged"));
    assert!(code == Some(0) && text.contains("merged-\u{fffd}"), "{message}");
    let sample = ["lm", "sample", "--model", "sft/model", "--prompt", "a", "--max-new-tokens", "2", "--json", "--out"];
    let (code, message, _) = run(&sample, &name_of("text"));
    assert_eq!(code, Some(0), "{message}");
    // Moved: where it is now.
    fs::rename(folder.path().join("sft"), folder.path().join("elsewhere")).expect("on one disk");
    let found = json(folder.path(), &["lm", "resume", "elsewhere"]);
    assert_eq!((&found["run_dir"], &found["model"]), (&Value::from("elsewhere"), &Value::from("elsewhere/model")));
}

/// A name that is not UTF-8.
fn name_of(begin: &str) -> OsString {
    OsString::from_vec([begin.as_bytes(), b"-\xff"].concat())
}

#[test]
fn what_cannot_be_written_to_is_refused_before_the_work() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    symlink("nowhere", at("dangling")).expect("writable");
    symlink("turn", at("turn")).expect("writable");
    fs::write(at("file"), "mine").expect("writable");
    fs::create_dir(at("full")).expect("writable");
    fs::write(at("full/mine"), "mine").expect("writable");
    let long = "n".repeat(300);
    let names = || {
        let entries = fs::read_dir(folder.path()).expect("readable");
        let mut all: Vec<OsString> = entries.map(|entry| entry.expect("readable").file_name()).collect();
        all.sort();
        (all, fs::read_to_string(at("file")).expect("kept"), fs::read_dir(at("full")).expect("kept").count())
    };
    let before = names();
    for (out, expected) in [
        ("dangling", "dangling is a link to nowhere, which is not there"),
        ("dangling/", "dangling is a link to nowhere, which is not there"),
        ("dangling/run", "dangling is a link to nowhere, which is not there"),
        ("turn", "turn is a link to turn, which is not there"),
        ("file", "is a file, not a folder"),
        ("file/run", "is a file, not a folder"),
        ("full", "exists and is not an empty folder"),
        ("-", "./-"),
        ("", "a value is required for '--out"),
        ("~/run", "home folder"),
        (&long, "too long"),
    ] {
        let message = refused(folder.path(), &["train", "pendulum", "--out", out]);
        assert!(message.contains(expected), "{out:?}: {message}");
        for more in [&["lm", "pretrain"][..], &["bench", "tasks"], &["front", "pendulum"], &["lm", "frontier"]] {
            let message = refused(folder.path(), &[more, &["--out", out]].concat());
            assert!(message.contains(expected) || out == "full", "{more:?} {out:?}: {message}");
            if out == "full" {
                break;
            }
        }
    }
    for (out, expected) in
        [("absent/a.jsonl", "there is no folder absent"), ("full", "is a folder"), ("new/", "is a folder")]
    {
        let message = refused(folder.path(), &["lm", "score", "--model", "m", "--data", "d", "--out", out]);
        assert!(message.contains(expected), "{out:?}: {message}");
    }
    assert_eq!(names(), before);
    // Where the default folder lies behind such a link.
    symlink("nowhere", at("runs")).expect("writable");
    let message = refused(folder.path(), &[&["train", "pendulum"], SMALL].concat());
    assert!(message.contains("runs is a link to nowhere"), "{message}");
}

#[test]
fn links_stay_links_and_devices_devices() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    fs::write(at("real.jsonl"), "old").expect("writable");
    symlink("real.jsonl", at("link.jsonl")).expect("writable");
    let reviews = |out: &str| pairwise(folder.path(), &["lm", "reviews", "--count", "2", "--out", out]);
    assert!(reviews("link.jsonl").status.success());
    assert!(at("link.jsonl").is_symlink());
    assert_eq!(fs::read_to_string(at("real.jsonl")).expect("written").lines().count(), 2);
    let output = reviews("/dev/stdout");
    assert!(output.status.success() && output.stdout.iter().filter(|byte| **byte == b'\n').count() == 2);
}

#[test]
fn few_episodes_are_remarked_on_everywhere() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let small: Vec<&str> = SMALL
        .iter()
        .map(|word| word.replace("evaluation_episodes=20", "evaluation_episodes=5").leak() as &str)
        .collect();
    let output = pairwise(folder.path(), &[&["train", "pendulum", "--out", "run"], &small[..]].concat());
    let remark = "a mean return over 5 episodes tells little";
    assert!(output.status.success() && stderr(&output).contains(remark), "{}", stderr(&output));
    let output = pairwise(folder.path(), &["evaluate", "run", "--episodes", "5"]);
    assert!(output.status.success() && stderr(&output).contains(remark), "{}", stderr(&output));
    let output = pairwise(folder.path(), &["evaluate", "run", "--episodes", "20"]);
    assert!(output.status.success() && !stderr(&output).contains("tells little"), "{}", stderr(&output));
    assert!(refused(folder.path(), &["evaluate", "run", "--episodes", "0"]).contains("1..=10000"));
}

#[test]
fn lists_do_not_swallow_what_stands_behind_them() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (arguments, expected) in [
        // As far as the folders, which are not there.
        (&["lm", "merge", "--weights", "0.3,0.7", "A", "B", "--out", "c"][..], "A"),
        (&["lm", "merge", "A", "B", "--weights", "-0.5,1.5", "--out", "c"], "A"),
        (&["lm", "merge", "--weights", "-0.5", "1.5", "A", "B", "--out", "c"], "A"),
        (&["soup", "--weights", "0.3,0.7", "A", "B"], "A: there is no such run"),
        (&["soup", "--weights", "0.3", "0.7", "A", "B"], "A: there is no such run"),
        (&["soup", "--weights", "0.3", "--weights", "0.7", "A", "B"], "A: there is no such run"),
        (&["evals", "report", "--diff", "one,two", "A"], "A"),
        (&["evals", "report", "--diff", "one", "two", "A"], "A"),
        (&["evals", "report", "A", "--diff", "one"], "must be two values with a comma between"),
        (&["evals", "filter", "--judge", "J", "--prices", "0.1,0.4", "A"], "A"),
        (&["evals", "filter", "A", "--judge", "J", "--prices", "1"], "must be two values with a comma between"),
    ] {
        let message = refused(folder.path(), arguments);
        assert!(message.contains(expected) && !message.contains("invalid float"), "{arguments:?}: {message}");
    }
    fs::write(folder.path().join("y.jsonl"), "").expect("writable");
    let message = refused(folder.path(), &["lm", "soup", "A", "B", "--data", "x.jsonl", "y.jsonl", "--out", "c"]);
    assert!(message.contains("y.jsonl: is a file") && message.contains("--data FILE,FILE"), "{message}");
}
