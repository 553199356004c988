//! The app, driven by the names that a screen reader would say.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;
use std::time::{Duration, Instant};

use egui::Key;
use egui_kittest::Harness;
use egui_kittest::kittest::Queryable as _;
use pairwise::app::{App, Options};
use pairwise::preference::ledger::{answers, read_events_unchecked};
use pairwise::preference::{Event, Label};
use pairwise::run::config::{Config, Rater};

fn window(options: Options) -> Harness<'static, App> {
    Harness::builder().with_size([1280.0, 800.0]).with_max_steps(4).build_eframe(|context| App::new(context, options))
}

/// A short run of a person on `pendulum`.
fn teaching(folder: &Path, labels: usize) -> Options {
    let mut config = Config::preset("pendulum").unwrap();
    config.steps = 9_000;
    config.evaluation_episodes = 20;
    config.preferences.rater = Rater::Person;
    config.preferences.labels = labels;
    config.preferences.random_steps = 1_000;
    config.preferences.repeat_every = 0;
    config.reward_model.steps = 20;
    config.ppo.rollout_steps = 256;
    Options { start: Some((config, folder.join("run"))), runs: folder.to_owned(), ..Options::default() }
}

/// Draws frames until something with this in its name is there.
fn until(harness: &mut Harness<'_, App>, name: &str) {
    let began = Instant::now();
    while harness.query_all_by_label_contains(name).next().is_none() {
        assert!(began.elapsed() < Duration::from_secs(120), "no '{name}' on the screen");
        std::thread::sleep(Duration::from_millis(2));
        harness.step();
    }
}

fn events(folder: &Path) -> Vec<Event> {
    read_events_unchecked(&folder.join("run").join("labels.jsonl")).unwrap()
}

#[test]
fn two_clicks_from_the_start_to_a_moving_agent() {
    let folder = tempfile::tempdir().unwrap();
    let mut harness = window(Options { runs: folder.path().to_owned(), ..Options::default() });
    harness.step();
    harness.get_by_label("Watch cartpole").click();
    harness.step();
    until(&mut harness, "Pause");
    until(&mut harness, "of 350");
    assert!(folder.path().join("cartpole-s0").join("config.toml").is_file());
    harness.get_by_label("Pause").click();
    until(&mut harness, "Go on");
    harness.get_by_label("Close run").click();
    until(&mut harness, "Teach an agent by comparing");
}

#[test]
fn answers_by_keyboard_and_mouse_reach_the_ledger_and_can_be_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut harness = window(teaching(folder.path(), 20));
    until(&mut harness, "Why this pair");
    let keys = [
        (Key::ArrowLeft, Label::First),
        (Key::ArrowRight, Label::Second),
        (Key::ArrowUp, Label::Equal),
        (Key::ArrowDown, Label::Skip),
    ];
    for (i, (key, _)) in keys.iter().enumerate() {
        harness.key_press(*key);
        until(&mut harness, &format!("{} of 20 ·", i + 1));
        until(&mut harness, "Why this pair");
    }
    let buttons = [
        ("Left is better", Label::First),
        ("Right is better", Label::Second),
        ("Equal", Label::Equal),
        ("Can't tell", Label::Skip),
        ("Left clip", Label::First),
        ("Right clip", Label::Second),
    ];
    for (i, (name, _)) in buttons.iter().enumerate() {
        harness.get_by_label(name).click();
        until(&mut harness, &format!("{} of 20 ·", i + 5));
        until(&mut harness, "Why this pair");
    }
    let given: Vec<Label> = answers(&events(folder.path())).iter().map(|answer| answer.label).collect();
    let expected: Vec<Label> = keys.iter().map(|k| k.1).chain(buttons.iter().map(|b| b.1)).collect();
    assert_eq!(given, expected);

    // Swapped, the left key means the second clip. Undo shows the pair again.
    harness.key_press(Key::S);
    harness.step();
    harness.key_press(Key::ArrowLeft);
    until(&mut harness, "You said the second (orange) clip");
    until(&mut harness, "11 of 20 ·");
    harness.key_press(Key::Z);
    harness.step();
    until(&mut harness, "Why this pair");
    harness.key_press(Key::ArrowRight);
    until(&mut harness, "You said the first (blue) clip");
    let events = events(folder.path());
    let [.., Event::Answer(answer), Event::Undo { query, .. }, Event::Relabel { query: again, label, .. }] =
        &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!((answer.label, *query, *again, *label), (Label::Second, answer.query, answer.query, Label::First));
}

#[test]
fn playing_has_keys_and_they_do_not_answer() {
    let folder = tempfile::tempdir().unwrap();
    let mut harness = window(teaching(folder.path(), 20));
    until(&mut harness, "Why this pair");
    until(&mut harness, "Hold");
    harness.key_press(Key::Space);
    until(&mut harness, "Play");
    harness.key_press(Key::OpenBracket);
    until(&mut harness, "0.5×");
    harness.key_press(Key::CloseBracket);
    until(&mut harness, "1×");
    for _ in 0..40 {
        harness.key_press(Key::Comma);
        harness.step();
        if harness.query_all_by_label_contains("frame 1/30").next().is_some() {
            break;
        }
    }
    harness.key_press(Key::Period);
    until(&mut harness, "frame 2/30");
    harness.key_press(Key::G);
    harness.step();
    assert_eq!(events(folder.path()), []);
}
