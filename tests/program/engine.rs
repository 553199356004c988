//! The engine as a window uses it: a scripted person answers through its commands.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pairwise::control::config::{Config, Rater};
use pairwise::engine::book::Saying;
use pairwise::engine::run::{RunCommand, RunEngine};
use pairwise::engine::snapshot::{ClipPair, RunPhase, RunView, SliceRequest};
use pairwise::preference::ledger::{Ledger, answers, read_events_unchecked};
use pairwise::preference::{Event, Label};
use rand::RngExt as _;

use crate::lesson;

fn config(labels: usize) -> Config {
    let mut config = lesson::short_lesson(labels);
    config.checkpoint_every = 2;
    config.preferences.repeat_every = 5;
    config
}

fn better(pair: &ClipPair) -> Label {
    let [first, second] = [0, 1].map(|i| pair.clips[i].true_rewards.iter().sum::<f64>());
    if first > second { Label::First } else { Label::Second }
}

/// Looks at the view until it is as wanted.
fn until(engine: &RunEngine, wanted: impl Fn(&RunView) -> bool) -> RunView {
    let began = Instant::now();
    loop {
        let view = engine.view();
        if wanted(&view) {
            return view;
        }
        assert!(began.elapsed() < Duration::from_secs(120), "still {:?}: {:?}", view.phase, view.messages);
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Answers the next question and waits until the answer is safe; `None` when the run is over.
fn answer_one(engine: &RunEngine) -> Option<Arc<ClipPair>> {
    let over = |view: &RunView| matches!(view.phase, RunPhase::Finished(_) | RunPhase::Failed(_) | RunPhase::Stopped);
    let view = until(engine, |view| over(view) || view.next().is_some());
    let pair = Arc::clone(view.next().filter(|_| !over(&view))?);
    engine.send(RunCommand::Say(Saying::Answer { query: pair.query, label: better(&pair), seconds: 0.5 })).unwrap();
    let taken = |view: &RunView| view.answers.labels.contains_key(&pair.query) || over(view);
    until(engine, taken).answers.labels.contains_key(&pair.query).then_some(pair)
}

fn finish(engine: &RunEngine) -> String {
    while answer_one(engine).is_some() {}
    match engine.view().phase {
        RunPhase::Finished(summary) => summary.weights_sha256,
        other => panic!("{other:?}"),
    }
}

fn replayed(path: &Path) -> pairwise::control::run::Replay {
    let device = pairwise::device::pick(pairwise::device::DeviceChoice::Cpu).unwrap();
    pairwise::control::run::replay(path, &device, &mut |_| {}, &mut |_, _| {}).unwrap()
}

#[test]
fn a_persons_run_replays_to_the_same_weights() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let engine = RunEngine::start(config(24), &path, || {}).unwrap();
    let hash = finish(&engine);
    drop(engine);
    let replay = replayed(&path);
    assert!(replay.agrees, "{replay:?}");
    assert_eq!(replay.replayed_sha256, hash);
    let answers = answers(&read_events_unchecked(&path.join("labels.jsonl")).unwrap());
    assert_eq!(answers.iter().filter(|a| a.repeat.is_none()).count(), 24);
    assert!(answers.iter().any(|a| a.repeat.is_some()), "every fifth question is a hidden repeat");
    assert!(answers.iter().all(|a| a.rater == "person" && a.seconds == Some(0.5)));
}

#[test]
fn a_run_that_is_closed_and_opened_again_keeps_every_label_and_still_replays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let mut given = Vec::new();
    let mut engine = RunEngine::start(config(24), &path, || {}).unwrap();
    for round in 0..4 {
        given.extend((0..4).map(|_| answer_one(&engine).unwrap().query));
        if round == 1 {
            engine.send(RunCommand::Say(Saying::Undo { query: given[2] })).unwrap();
            engine.send(RunCommand::Say(Saying::Relabel { query: given[3], label: Label::Equal })).unwrap();
            until(&engine, |view| view.answers.labels[&given[3]].label == Label::Equal);
        }
        drop(engine);
        engine = RunEngine::open(&path, || {}).unwrap();
        let view = until(&engine, |view| view.phase == RunPhase::Waiting || view.next().is_some());
        assert!(
            given.iter().all(|query| view.answers.labels.contains_key(query)),
            "{given:?} {:?}",
            view.answers.labels
        );
    }
    assert_eq!(engine.view().answers.labels[&given[2]].label, Label::Skip, "taken back");
    let hash = finish(&engine);
    drop(engine);
    let replay = replayed(&path);
    assert!(replay.agrees && replay.replayed_sha256 == hash, "{replay:?}");
}

/// A person thinks for seconds while an iteration takes milliseconds, so that training is at its gate whenever an answer
/// comes: the script answers only then. One answer in twenty is wrong.
#[test]
fn two_hundred_answers_with_mistakes_teach_the_pendulum_to_swing_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let engine = RunEngine::start(Config::taught("pendulum", 200, None).unwrap(), &path, || {}).unwrap();
    let mut slips = pairwise::random::stream(0, "slips", 0);
    let mut thoughts = pairwise::random::stream(0, "thoughts", 0);
    let summary = loop {
        let view = until(&engine, |view| {
            matches!(view.phase, RunPhase::Finished(_) | RunPhase::Failed(_))
                || (view.phase == RunPhase::Waiting && view.next().is_some())
        });
        match &view.phase {
            RunPhase::Finished(summary) => break summary.clone(),
            RunPhase::Failed(reason) => panic!("{reason}"),
            _ => {}
        }
        let pair = view.next().unwrap();
        let label = if slips.random_bool(0.05) { better(pair).swapped() } else { better(pair) };
        let seconds = thoughts.random_range(2.0..5.0);
        engine.send(RunCommand::Say(Saying::Answer { query: pair.query, label, seconds })).unwrap();
        until(&engine, |view| view.answers.labels.contains_key(&pair.query));
    };
    assert!(summary.labels_asked == 200 && summary.true_return_mean >= -250.0, "{summary:?}");
}

/// Issue 28, D: a pair undone was asked again only until the window was closed.
#[test]
fn a_pair_undone_is_open_again_after_a_restart_until_it_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let mut engine = RunEngine::start(config(24), &path, || {}).unwrap();
    let given: Vec<u64> = (0..5).map(|_| answer_one(&engine).unwrap().query).collect();
    assert_eq!(engine.view().answers.undone, Vec::<u64>::new());
    for query in [given[1], given[3]] {
        engine.send(RunCommand::Say(Saying::Undo { query })).unwrap();
        until(&engine, |view| view.answers.undone.last() == Some(&query));
    }
    // Closed as a window is; opened again it has caught up with the ledger when it asks.
    for _ in 0..2 {
        drop(engine);
        engine = RunEngine::open(&path, || {}).unwrap();
        let view = until(&engine, |view| view.next().is_some());
        assert_eq!(view.answers.undone, [given[1], given[3]]);
        // Its clips are there to be shown.
        assert!(view.answers.undone.iter().all(|query| view.pairs.contains_key(query)));
        assert!(view.answers.undone.iter().all(|query| view.answers.labels[query].label == Label::Skip));
    }
    engine.send(RunCommand::Say(Saying::Relabel { query: given[3], label: Label::Second })).unwrap();
    until(&engine, |view| view.answers.undone == [given[1]]);
    // "Can't tell" is an answer: it is not asked again.
    engine.send(RunCommand::Say(Saying::Relabel { query: given[1], label: Label::Skip })).unwrap();
    until(&engine, |view| view.answers.undone.is_empty());
    drop(engine);
    engine = RunEngine::open(&path, || {}).unwrap();
    let view = until(&engine, |view| view.next().is_some());
    assert_eq!((view.answers.undone.clone(), view.answers.labels[&given[3]].label), (Vec::new(), Label::Second));
    let hash = finish(&engine);
    drop(engine);
    let replay = replayed(&path);
    assert!(replay.agrees && replay.replayed_sha256 == hash, "{replay:?}");
}

#[test]
fn pausing_stops_training_and_a_step_takes_one_iteration() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(12);
    config.preferences.rater = Rater::Simulated;
    config.steps = 100_000;
    let engine = RunEngine::start(config, &folder.path().join("run"), || {}).unwrap();
    engine.send(RunCommand::Pause).unwrap();
    until(&engine, |view| view.phase == RunPhase::Paused);
    let before = engine.view().past.iterations;
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(engine.view().past.iterations, before);
    engine.send(RunCommand::Step).unwrap();
    until(&engine, |_| engine.view().past.iterations == before + 1);
    engine.send(RunCommand::Episode).unwrap();
    let episode = until(&engine, |view| view.episode.is_some()).episode.unwrap();
    assert_eq!((episode.clip.true_rewards.len(), episode.reward.len()), (200, 200));
    engine.send(RunCommand::Slice(SliceRequest { x: 0, y: 1, points: 12 })).unwrap();
    let slice = until(&engine, |view| view.slice.is_some()).slice.unwrap();
    assert_eq!((slice.reward.len(), slice.spread.len(), slice.truth.len()), (144, 144, 144));
    engine.close();
}

#[test]
fn what_cannot_be_answered_is_refused_with_a_reason_and_leaves_the_ledger_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let engine = RunEngine::start(config(12), &path, || {}).unwrap();
    let query = until(&engine, |view| view.next().is_some()).next().unwrap().query;
    engine.send(RunCommand::Say(Saying::Answer { query: query + 1000, label: Label::First, seconds: 1.0 })).unwrap();
    engine.send(RunCommand::Say(Saying::Undo { query })).unwrap();
    let view = until(&engine, |view| view.messages.count == 2);
    assert!(
        view.messages.kept[0].contains("not open") && view.messages.kept[1].contains("no answer"),
        "{:?}",
        view.messages
    );
    drop(engine);
    let (_, events, _) = Ledger::open(&path.join("labels.jsonl")).unwrap();
    assert_eq!(events, Vec::<Event>::new());
}
