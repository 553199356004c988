//! The engine as a window uses it: a scripted person answers through its commands.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pairwise::control::config::{Config, Rater};
use pairwise::engine::{Command, Engine, Pair, Phase, View};
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

fn better(pair: &Pair) -> Label {
    let [first, second] = [0, 1].map(|i| pair.clips[i].true_rewards.iter().sum::<f64>());
    if first > second { Label::First } else { Label::Second }
}

/// Looks at the view until it is as wanted.
fn until(engine: &Engine, wanted: impl Fn(&View) -> bool) -> View {
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
fn answer_one(engine: &Engine) -> Option<Arc<Pair>> {
    let over = |view: &View| matches!(view.phase, Phase::Finished(_) | Phase::Failed(_) | Phase::Stopped);
    let view = until(engine, |view| over(view) || !view.questions.is_empty());
    let pair = Arc::clone(view.questions.first().filter(|_| !over(&view))?);
    engine.send(Command::Answer { query: pair.query, label: better(&pair), seconds: 0.5 }).unwrap();
    let taken = |view: &View| view.labels.contains_key(&pair.query) || over(view);
    until(engine, taken).labels.contains_key(&pair.query).then_some(pair)
}

fn finish(engine: &Engine) -> String {
    while answer_one(engine).is_some() {}
    match engine.view().phase {
        Phase::Finished(summary) => summary.weights_sha256,
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
    let engine = Engine::start(config(24), &path, || {}).unwrap();
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
    let mut engine = Engine::start(config(24), &path, || {}).unwrap();
    for round in 0..4 {
        given.extend((0..4).map(|_| answer_one(&engine).unwrap().query));
        if round == 1 {
            engine.send(Command::Undo { query: given[2] }).unwrap();
            engine.send(Command::Relabel { query: given[3], label: Label::Equal }).unwrap();
            until(&engine, |view| view.labels[&given[3]].label == Label::Equal);
        }
        drop(engine);
        engine = Engine::open(&path, || {}).unwrap();
        let view = until(&engine, |view| view.phase == Phase::Waiting || !view.questions.is_empty());
        assert!(given.iter().all(|query| view.labels.contains_key(query)), "{given:?} {:?}", view.labels);
    }
    assert_eq!(engine.view().labels[&given[2]].label, Label::Skip, "taken back");
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
    let engine = Engine::start(Config::taught("pendulum", 200, None).unwrap(), &path, || {}).unwrap();
    let mut slips = pairwise::random::stream(0, "slips", 0);
    let mut thoughts = pairwise::random::stream(0, "thoughts", 0);
    let summary = loop {
        let view = until(&engine, |view| {
            matches!(view.phase, Phase::Finished(_) | Phase::Failed(_))
                || (view.phase == Phase::Waiting && !view.questions.is_empty())
        });
        match &view.phase {
            Phase::Finished(summary) => break summary.clone(),
            Phase::Failed(reason) => panic!("{reason}"),
            _ => {}
        }
        let pair = &view.questions[0];
        let label = if slips.random_bool(0.05) { better(pair).swapped() } else { better(pair) };
        let seconds = thoughts.random_range(2.0..5.0);
        engine.send(Command::Answer { query: pair.query, label, seconds }).unwrap();
        until(&engine, |view| view.labels.contains_key(&pair.query));
    };
    assert!(summary.labels_asked == 200 && summary.true_return_mean >= -250.0, "{summary:?}");
}

/// Issue 28, D: a pair undone was asked again only until the window was closed.
#[test]
fn a_pair_undone_is_open_again_after_a_restart_until_it_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let mut engine = Engine::start(config(24), &path, || {}).unwrap();
    let given: Vec<u64> = (0..5).map(|_| answer_one(&engine).unwrap().query).collect();
    assert_eq!(engine.view().undone, Vec::<u64>::new());
    for query in [given[1], given[3]] {
        engine.send(Command::Undo { query }).unwrap();
        until(&engine, |view| view.undone.last() == Some(&query));
    }
    // Closed as a window is; opened again it has caught up with the ledger when it asks.
    for _ in 0..2 {
        drop(engine);
        engine = Engine::open(&path, || {}).unwrap();
        let view = until(&engine, |view| !view.questions.is_empty());
        assert_eq!(view.undone, [given[1], given[3]]);
        // Its clips are there to be shown.
        assert!(view.undone.iter().all(|query| view.answered.iter().any(|pair| pair.query == *query)));
        assert!(view.undone.iter().all(|query| view.labels[query].label == Label::Skip));
    }
    engine.send(Command::Relabel { query: given[3], label: Label::Second }).unwrap();
    until(&engine, |view| view.undone == [given[1]]);
    // "Can't tell" is an answer: it is not asked again.
    engine.send(Command::Relabel { query: given[1], label: Label::Skip }).unwrap();
    until(&engine, |view| view.undone.is_empty());
    drop(engine);
    engine = Engine::open(&path, || {}).unwrap();
    let view = until(&engine, |view| !view.questions.is_empty());
    assert_eq!((view.undone.clone(), view.labels[&given[3]].label), (Vec::new(), Label::Second));
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
    let engine = Engine::start(config, &folder.path().join("run"), || {}).unwrap();
    engine.send(Command::Pause).unwrap();
    until(&engine, |view| view.phase == Phase::Paused);
    let before = engine.past(0).map_or(0, |past| past.iterations);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(engine.past(0).map_or(0, |past| past.iterations), before);
    engine.send(Command::Step).unwrap();
    until(&engine, |_| engine.past(0).map_or(0, |past| past.iterations) == before + 1);
    engine.send(Command::Episode).unwrap();
    let episode = until(&engine, |view| view.episode.is_some()).episode.unwrap();
    assert_eq!((episode.clip.true_rewards.len(), episode.reward.len()), (200, 200));
    engine.send(Command::Slice(pairwise::engine::SliceRequest { x: 0, y: 1, points: 12 })).unwrap();
    let slice = until(&engine, |view| view.slice.is_some()).slice.unwrap();
    assert_eq!((slice.reward.len(), slice.spread.len(), slice.truth.len()), (144, 144, 144));
    engine.close();
}

#[test]
fn what_cannot_be_answered_is_refused_with_a_reason_and_leaves_the_ledger_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let engine = Engine::start(config(12), &path, || {}).unwrap();
    let query = until(&engine, |view| !view.questions.is_empty()).questions[0].query;
    engine.send(Command::Answer { query: query + 1000, label: Label::First, seconds: 1.0 }).unwrap();
    engine.send(Command::Undo { query }).unwrap();
    let view = until(&engine, |view| view.messages.len() == 2);
    assert!(view.messages[0].contains("not open") && view.messages[1].contains("no answer"), "{:?}", view.messages);
    drop(engine);
    let (_, events, _) = Ledger::open(&path.join("labels.jsonl")).unwrap();
    assert_eq!(events, Vec::<Event>::new());
}
