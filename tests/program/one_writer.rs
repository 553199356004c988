//! A folder has one writer: two real processes on every kind of folder.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pairwise::control::run::{RunError, past};
use pairwise::disk::DiskError;
use pairwise::disk::lock::{Claim, Holder, LOCK, LockError};
use pairwise::engine::book::Saying;
use pairwise::engine::language::{Begin, LanguageEngine, LanguagePhase};
use pairwise::engine::run::{RunCommand, RunEngine};
use pairwise::lm::teach::TeachConfig;
use pairwise::preference::Label;
use pairwise::preference::ledger::{first_difference, read_events};

use crate::common::{SMALL, command, contents, json, pairwise, refused, stderr};
use crate::lesson;

/// A process that writes to a folder; killed when this is dropped.
struct Writer {
    child: Child,
    folder: PathBuf,
}

impl Writer {
    /// Starts it, and waits until it holds the folder.
    fn start(mut command: Command, folder: &Path) -> Self {
        // Questions on stdin are waited for.
        command.stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut writer = Self { child: command.spawn().unwrap(), folder: folder.to_owned() };
        let since = Instant::now();
        while Holder::of(folder).is_none_or(|holder| holder.process != writer.child.id()) {
            if let Some(status) = writer.child.try_wait().unwrap() {
                let mut said = String::new();
                std::io::Read::read_to_string(writer.child.stderr.as_mut().unwrap(), &mut said).unwrap();
                panic!("{command:?} ended with {status}: {said}");
            }
            assert!(since.elapsed() < Duration::from_secs(120), "{command:?} does not begin");
            std::thread::sleep(Duration::from_millis(5));
        }
        writer
    }

    fn send(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success());
    }

    /// What a second one must be told.
    fn is_named_in(&self, message: &str) {
        let Holder { process, host, since, command } = Holder::of(&self.folder).unwrap();
        assert_eq!(process, self.child.id());
        let expected = format!("is written to by process {process} on host {host} since {since} (`{command}`)");
        assert!(message.contains(&expected) && since.ends_with(" UTC"), "expected {expected}: {message}");
        let machine = Command::new("uname").arg("-n").output().unwrap();
        assert_eq!(host, String::from_utf8_lossy(&machine.stdout).trim());
    }

    /// Kills it with SIGKILL; at once, its folder is free.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        drop(Claim::take(&self.folder).unwrap());
        assert_eq!(Holder::of(&self.folder), None);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A model after two steps, and what is asked of it.
fn tiny(folder: &Path) {
    let sets = ["pretrain.context=640", "pretrain.vocabulary=300", "pretrain.texts=200", "train.batch_size=8"];
    let mut arguments = vec!["lm", "pretrain", "--size", "30k", "--steps", "2", "--out", "tiny"];
    sets.iter().for_each(|set| arguments.extend(["--set", set]));
    json(folder, &arguments);
    fs::write(folder.join("b.toml"), "[[behaviour]]\nname = \"pleased\"\ndescription = \"is pleased\"\n").unwrap();
    let question = |i: usize| {
        serde_json::json!({
            "question": format!("Would you take {i}?\n\nChoices:\n (A) No\n (B) Yes"),
            "answer_matching_behavior": " (A)", "answer_not_matching_behavior": " (B)",
        })
    };
    fs::write(folder.join("set.jsonl"), (0..20_000).map(|i| format!("{}\n", question(i))).collect::<String>()).unwrap();
    fs::write(
        folder.join("prompts.jsonl"),
        (0..200).map(|i| format!("{{\"prompt\": \"We bought {i}\"}}\n")).collect::<String>(),
    )
    .unwrap();
    json(
        folder,
        &["evals", "generate", "--behaviours", "b.toml", "--model", "tiny/model", "--out", "few", "--count", "4"],
    );
    let candidate = |i: usize| {
        let label = if i.is_multiple_of(2) { "agree" } else { "disagree" };
        let row =
            serde_json::json!({"statement": format!("I like {i}"), "label": label, "behaviour": "pleased", "index": i});
        format!("{row}\n")
    };
    fs::write(folder.join("few/pleased/candidates.jsonl"), (0..20_000).map(candidate).collect::<String>()).unwrap();
}

/// A command that takes long, the folder that it writes to, and one that would write there too (the same, where there is
/// none).
const LONG: &[(&[&str], &str, &[&str])] = &[
    (&["lm", "pretrain", "--size", "30k", "--steps", "1000000", "--out", "lm"], "lm", &["lm", "resume", "lm"]),
    (&["front", "pendulum", "--out", "front"], "front", &[]),
    (&["lm", "frontier", "--size", "30k", "--seeds", "0", "--out", "frontier"], "frontier", &[]),
    (&["lm", "front", "--size", "30k", "--seeds", "0", "--out", "lm-front"], "lm-front", &[]),
    (
        &[
            "lm", "soup", "tiny/model", "tiny/model", "--objective", "length", "--data", "prompts.jsonl", "--out",
            "soup",
        ],
        "soup",
        &[],
    ),
    (&["evals", "sycophancy", "--seeds", "0", "--sizes", "30k", "--out", "sycophancy"], "sycophancy", &[]),
    (&["bench", "tasks", "--env", "pendulum", "--seeds", "1", "--out", "bench"], "bench", &[]),
    (
        &[
            "evals", "generate", "--behaviours", "b.toml", "--model", "tiny/model", "--out", "statements", "--count",
            "9999",
        ],
        "statements/pleased",
        &[],
    ),
    (&["evals", "filter", "few", "--judge", "tiny/model", "--out", "filtered"], "filtered/pleased", &[]),
    (&["evals", "run", "--model", "tiny/model", "--data", "set.jsonl", "--out", "answers"], "answers", &[]),
    (&["evals", "validate", "set.jsonl", "--out", "check"], "check", &[]),
];

#[test]
fn every_kind_of_folder_has_one_writer() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    tiny(folder);
    for (arguments, held, second) in LONG {
        let writer = Writer::start(command(folder, arguments), &folder.join(held));
        let second = if second.is_empty() { arguments } else { second };
        let since = Instant::now();
        // It is claimed before there is anything in it to go on with.
        while second[1] == "resume" && !folder.join(held).join("config.toml").exists() {
            assert!(since.elapsed() < Duration::from_secs(60), "{held} has no configuration");
            std::thread::sleep(Duration::from_millis(5));
        }
        writer.is_named_in(&refused(folder, second));
        writer.kill();
    }
}

#[test]
fn a_run_has_one_writer_and_any_number_of_readers() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    // Without its first four words: other numbers of labels and steps.
    let long = [&["train", "pendulum", "--out", "run", "--labels", "2000", "--steps", "300000"], &SMALL[4..]].concat();
    let writer = Writer::start(command(folder, &long), &folder.join("run"));
    let since = Instant::now();
    while fs::read_dir(folder.join("run/checkpoints")).unwrap().count() < 2 {
        assert!(since.elapsed() < Duration::from_secs(60), "there is no checkpoint");
        std::thread::sleep(Duration::from_millis(5));
    }
    writer.is_named_in(&refused(folder, &["resume", "run"]));
    // In the window: opening, and deleting.
    let opened = RunEngine::open(&folder.join("run"), || {});
    assert!(matches!(opened, Err(RunError::Disk(DiskError::Lock(LockError::Held { .. })))));
    let deleted = past::delete(&folder.join("run")).unwrap_err();
    writer.is_named_in(&deleted.to_string());
    // Reading goes on: the list, measuring, an export, a branch.
    let listed = past::list(folder, &[]);
    assert_eq!((listed.runs.len(), listed.damaged.len()), (1, 0));
    json(folder, &["evaluate", "run", "--episodes", "20"]);
    pairwise::control::run::export::export(&listed.runs[0], pairwise::control::run::export::Export::Labels).unwrap();
    drop(past::branch(&folder.join("run"), &folder.join("branch"), 3, Some(Label::Equal)).unwrap());
    assert!(read_events(&folder.join("branch/labels.jsonl")).unwrap().len() == 4);
    writer.kill();
    // What a kill may leave in the middle of writing a file is gone with the next opening.
    fs::write(folder.join("run/checkpoints/.pairwise-a1B2c3.part"), "half").unwrap();
    let again = Writer::start(command(folder, &["resume", "run"]), &folder.join("run"));
    assert!(!folder.join("run/checkpoints/.pairwise-a1B2c3.part").exists());
    again.kill();
    past::delete(&folder.join("run")).unwrap();
    assert!(!folder.join("run").exists());
}

#[test]
fn of_several_that_make_the_same_run_one_does() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let arguments = [&["train", "pendulum", "--out", "new/run"], SMALL].concat();
    let start = || command(folder, &arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let started: Vec<Child> = (0..4).map(|_| start()).collect();
    let ended: Vec<_> = started.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
    let codes: Vec<Option<i32>> = ended.iter().map(|output| output.status.code()).collect();
    let said: Vec<String> = ended.iter().map(stderr).collect();
    assert_eq!(codes.iter().filter(|code| **code == Some(0)).count(), 1, "{codes:?} {said:?}");
    assert_eq!(codes.iter().filter(|code| **code == Some(2)).count(), 3, "{codes:?} {said:?}");
    let reasons = |said: &&String| said.contains("is written to by process") || said.contains("holds another run");
    assert_eq!(said.iter().filter(reasons).count(), 3, "{said:?}");
    assert!(json(folder, &["replay", "new/run"])["agrees"] == true);
    // What is left of a creation that was killed before there was a run is no obstacle, but another's file is.
    for (name, code) in [("begun", 0), ("taken", 2)] {
        fs::create_dir_all(folder.join(name).join("checkpoints")).unwrap();
        fs::write(folder.join(name).join(LOCK), "").unwrap();
        if code == 2 {
            fs::write(folder.join(name).join("mine"), "").unwrap();
        }
        let before = contents(&folder.join(name));
        let output = pairwise(folder, &[&["train", "pendulum", "--out", name], SMALL].concat());
        assert_eq!(output.status.code(), Some(code), "{}", stderr(&output));
        assert_eq!(contents(&folder.join(name)) == before, code == 2);
    }
}

// -------------------------------------------------------------------------------------------------- a writer of a window

/// Set for the process that the tests below start: what it opens.
const OPENS: &str = "PAIRWISE_TEST_OPENS";

/// This program again, running the test below alone.
fn this_program(opens: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "one_writer::what_the_other_process_does", "--ignored", "--nocapture"])
        .env(OPENS, opens)
        .stdout(Stdio::piped());
    command
}

/// In a process of its own: a window without a window. It answers whatever is asked, and says which answers were
/// acknowledged.
#[test]
#[ignore = "a process that other tests start"]
fn what_the_other_process_does() {
    let path = PathBuf::from(std::env::var_os(OPENS).expect("it is told what to open"));
    if path.ends_with("session") {
        let config = TeachConfig::new(&path.with_file_name("tiny").join("model"), Path::new("reviews"));
        let _engine = LanguageEngine::start(Begin::New(Box::new(config)), &path, || {});
        std::thread::sleep(Duration::from_secs(600));
        return;
    }
    let mut config = lesson::short_lesson(3000);
    (config.steps, config.checkpoint_every) = (300_000, 3);
    (config.preferences.ahead, config.preferences.first_share) = (50, 0.01);
    (config.ppo.rollout_steps, config.ppo.epochs, config.ppo.hidden) = (64, 1, vec![8]);
    (config.reward_model.hidden, config.reward_model.members) = (vec![8], 2);
    (config.reward_model.first_steps, config.reward_model.steps) = (2, 1);
    let engine = RunEngine::start(config, &path, || {}).unwrap();
    let mut out = std::io::stdout();
    loop {
        let view = engine.view();
        let Some(pair) = view.next() else {
            assert!(!view.ended(), "{:?}", view.phase);
            std::thread::sleep(Duration::from_millis(1));
            continue;
        };
        engine.send(RunCommand::Say(Saying::Answer { query: pair.query, label: Label::First, seconds: 0.5 })).unwrap();
        while !engine.view().answers.labels.contains_key(&pair.query) {
            assert!(!engine.view().ended(), "{:?} {:?}", engine.view().phase, engine.view().messages);
            std::thread::sleep(Duration::from_millis(1));
        }
        writeln!(out, "acknowledged {}", pair.query).unwrap();
        out.flush().unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_teaching_session_has_one_writer() {
    let folder = tempfile::tempdir().unwrap();
    tiny(folder.path());
    let path = folder.path().join("session");
    let writer = Writer::start(this_program(&path), &path);
    let since = Instant::now();
    while !path.join("labels.jsonl").exists() {
        assert!(since.elapsed() < Duration::from_secs(60), "there is no ledger");
        std::thread::sleep(Duration::from_millis(5));
    }
    let phase = || {
        let engine = LanguageEngine::start(Begin::Open, &path, || {});
        let since = Instant::now();
        while !engine.view().ended() && !matches!(engine.view().phase, LanguagePhase::Writing | LanguagePhase::Waiting)
        {
            assert!(since.elapsed() < Duration::from_secs(120), "{:?}", engine.view().phase);
            std::thread::sleep(Duration::from_millis(5));
        }
        engine.view().phase
    };
    let LanguagePhase::Failed(reason) = phase() else { panic!("two have opened it") };
    writer.is_named_in(&reason);
    writer.kill();
    assert!(!matches!(phase(), LanguagePhase::Failed(_)));
}

/// The fault that this is about: two took turns, and each cut off what the other had written. A hundred times the writer
/// is stopped, a second one is refused, and the writer goes on.
#[test]
fn a_hundred_stops_of_the_writer_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let run = folder.join("run");
    let mut writer = Writer::start(this_program(&run), &run);
    let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
    let reader = {
        let (lines, acknowledged) =
            (BufReader::new(writer.child.stdout.take().unwrap()).lines(), Arc::clone(&acknowledged));
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some(query) = line.strip_prefix("acknowledged ") {
                    acknowledged.lock().unwrap().insert(query.parse::<u64>().unwrap());
                }
            }
        })
    };
    let count = || acknowledged.lock().unwrap().len();
    let wait_for = |answers: usize| {
        let since = Instant::now();
        while count() < answers {
            // The reader ends with the writer.
            assert!(!reader.is_finished() && since.elapsed() < Duration::from_secs(60), "{} answers", count());
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    wait_for(3);
    for round in 0..100 {
        writer.send("-STOP");
        let output = pairwise(folder, &["resume", "run"]);
        assert_eq!(output.status.code(), Some(2), "round {round}: {}", stderr(&output));
        writer.is_named_in(&stderr(&output));
        writer.send("-CONT");
        // In most rounds it writes an answer before the next one.
        std::thread::sleep(Duration::from_millis(10 + round % 10));
    }
    wait_for(50);
    writer.child.kill().unwrap();
    writer.child.wait().unwrap();
    reader.join().unwrap();

    let difference = first_difference(&run.join("labels.jsonl")).unwrap();
    assert!(difference.as_ref().is_none_or(|(_, reason)| reason == "torn"), "{difference:?}");
    let events = read_events(&run.join("labels.jsonl")).unwrap();
    let written: BTreeSet<u64> = pairwise::preference::ledger::answers(&events).iter().map(|a| a.query).collect();
    let acknowledged = acknowledged.lock().unwrap();
    assert!(acknowledged.is_subset(&written), "{:?}", acknowledged.difference(&written));
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let whole = metrics.rsplit_once('\n').map_or("", |(whole, _)| whole);
    assert!(whole.lines().count() > 2, "it trained");
    for (i, line) in whole.lines().enumerate() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["iteration"], i, "one line for every iteration");
    }
    // It opens, and every answer is in force.
    let engine = RunEngine::open(&run, || {}).unwrap();
    let since = Instant::now();
    while !acknowledged.iter().all(|query| engine.view().answers.labels.contains_key(query)) {
        assert!(since.elapsed() < Duration::from_secs(60) && !engine.view().ended(), "{:?}", engine.view().phase);
        std::thread::sleep(Duration::from_millis(5));
    }
}
