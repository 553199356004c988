//! The app, driven by the names that a screen reader would say.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use egui::Key;
use egui::accesskit::{Role, Toggled};
use egui_kittest::Harness;
use egui_kittest::kittest::{NodeT as _, Queryable as _};
use pairwise::app::{App, Options};
use pairwise::control::config::Rater;
use pairwise::preference::ledger::{Ledger, answers, read_events_unchecked};
use pairwise::preference::{Event, Label};

use crate::common::{options, until};
use crate::lesson;

fn window(options: Options) -> Harness<'static, App> {
    Harness::builder().with_size([1280.0, 800.0]).with_max_steps(4).build_eframe(|context| App::new(context, options))
}

fn teaching(folder: &Path, labels: usize) -> Options {
    let start = Some((lesson::short_lesson(labels), folder.join("run")));
    Options { start, runs: folder.to_owned(), least_seconds: Some(0.0), ..Options::default() }
}

/// Draws frames until nothing with this in its name is there, and everything has its new place.
fn until_gone(harness: &mut Harness<'_, App>, name: &str) {
    let began = Instant::now();
    while harness.query_all_by_label_contains(name).next().is_some() {
        assert!(began.elapsed() < Duration::from_secs(120), "'{name}' stays on the screen");
        std::thread::sleep(Duration::from_millis(2));
        harness.step();
    }
    harness.run_steps(2);
}

fn events(folder: &Path) -> Vec<Event> {
    read_events_unchecked(&folder.join("run").join("labels.jsonl")).unwrap()
}

#[test]
fn two_clicks_from_the_start_to_a_moving_agent() {
    let folder = tempfile::tempdir().unwrap();
    let mut harness =
        window(Options { runs: folder.path().to_owned(), least_seconds: Some(0.0), ..Options::default() });
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
    let mut harness = window(teaching(folder.path(), 24));
    until(&mut harness, "Why this pair");
    let keys = [
        (Key::ArrowLeft, Label::First),
        (Key::ArrowRight, Label::Second),
        (Key::ArrowUp, Label::Equal),
        (Key::ArrowDown, Label::Skip),
    ];
    for (i, (key, _)) in keys.iter().cycle().take(10).enumerate() {
        harness.key_press(*key);
        until(&mut harness, &format!("{} of 24 ·", i + 1));
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
    for (i, (name, _)) in buttons.iter().cycle().take(10).enumerate() {
        harness.get_by_label(name).click();
        until(&mut harness, &format!("{} of 24 ·", i + 11));
        until(&mut harness, "Why this pair");
    }
    let given: Vec<Label> = answers(&events(folder.path())).iter().map(|answer| answer.label).collect();
    let (by_key, by_mouse) = (keys.iter().map(|k| k.1).cycle().take(10), buttons.iter().map(|b| b.1).cycle().take(10));
    let expected: Vec<Label> = by_key.chain(by_mouse).collect();
    assert_eq!(given, expected);

    // Swapped, the left key means the second clip. Undo shows the pair again.
    harness.key_press(Key::S);
    harness.step();
    harness.key_press(Key::ArrowLeft);
    until(&mut harness, "You said the second (orange) clip");
    until(&mut harness, "21 of 24 ·");
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

/// Issue 28, D: answers within a millisecond were counted.
#[test]
fn a_key_that_comes_before_a_pair_can_have_been_seen_is_no_answer_and_it_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let mut harness = window(Options { least_seconds: None, ..teaching(folder.path(), 24) });
    until(&mut harness, "Why this pair");
    // The setting is there to be seen and changed.
    assert!(harness.query_all_by_label_contains("Answers count after").next().is_some());
    let said = "came before you can have seen this one";
    for count in 1..=3 {
        std::thread::sleep(Duration::from_millis(250));
        harness.key_press(Key::ArrowLeft);
        // Hammering on the key answers this one, and none of those that come after it.
        for _ in 0..3 {
            harness.step();
            harness.key_press(Key::ArrowLeft);
            harness.key_press(Key::ArrowUp);
        }
        until(&mut harness, &format!("{count} of 24 ·"));
        until(&mut harness, "Why this pair");
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(60) {
            harness.key_press(Key::ArrowRight);
            harness.step();
        }
        until(&mut harness, said);
    }
    std::thread::sleep(Duration::from_millis(50));
    harness.step();
    let given: Vec<Label> = answers(&events(folder.path())).iter().map(|answer| answer.label).collect();
    assert_eq!(given, [Label::First; 3]);
    assert!(answers(&events(folder.path())).iter().all(|answer| answer.seconds.unwrap() >= 0.2));
}

/// Issue 28, D.
#[test]
fn a_pair_undone_is_shown_again_when_the_run_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut harness = window(teaching(folder.path(), 24));
    answer(&mut harness, 0, 4, 24);
    harness.key_press(Key::Z);
    harness.step();
    until(&mut harness, "Why this pair");
    let began = Instant::now();
    while !matches!(events(folder.path()).last(), Some(Event::Undo { .. })) {
        assert!(began.elapsed() < Duration::from_secs(60), "nothing was undone");
        harness.step();
    }
    let Some(&Event::Undo { query, .. }) = events(folder.path()).last() else { panic!("the case") };
    drop(harness);

    let options = Options { start: None, run: Some(folder.path().join("run")), ..teaching(folder.path(), 24) };
    let mut harness = window(options);
    until(&mut harness, "Why this pair");
    harness.key_press(Key::ArrowDown);
    let began = Instant::now();
    while !matches!(events(folder.path()).last(), Some(Event::Relabel { .. })) {
        assert!(
            began.elapsed() < Duration::from_secs(60),
            "it was not asked again: {:?}",
            events(folder.path()).last()
        );
        harness.step();
    }
    let Some(Event::Relabel { query: again, label, .. }) = events(folder.path()).pop() else { panic!("the case") };
    assert_eq!((again, label), (query, Label::Skip));
    // "Can't tell" is the last word: a new pair is next. A key is no answer until the line before is synced.
    let before = events(folder.path()).len();
    let began = Instant::now();
    while events(folder.path()).len() == before {
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", events(folder.path()).last());
        harness.key_press(Key::ArrowLeft);
        harness.step();
    }
    assert!(matches!(events(folder.path())[before], Event::Answer(_)), "{:?}", events(folder.path()));
}

/// To the first frame, by key.
fn rewind(harness: &mut Harness<'_, App>) {
    for _ in 0..40 {
        harness.key_press(Key::Comma);
        harness.step();
        if harness.query_all_by_label_contains("frame 1/30").next().is_some() {
            return;
        }
    }
    panic!("forty frames back is no way to the first of thirty");
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
    rewind(&mut harness);
    harness.key_press(Key::Period);
    until(&mut harness, "frame 2/30");
    let toggled = |harness: &Harness<'_, App>, name| harness.get_by_label(name).accesskit_node().toggled();
    for (key, name) in [(Key::G, "Ghost"), (Key::S, "Swap")] {
        assert_eq!(toggled(&harness, name), Some(Toggled::False));
        harness.key_press(key);
        harness.run_steps(2);
        assert_eq!(toggled(&harness, name), Some(Toggled::True));
        harness.get_by_label(name).click();
        harness.run_steps(2);
        assert_eq!(toggled(&harness, name), Some(Toggled::False));
    }
    // The same by mouse.
    for (button, then) in [("Play", "Hold"), ("Hold", "Play"), ("Faster", "1.5×"), ("Slower", "1×")] {
        harness.get_by_label(button).click();
        until(&mut harness, then);
    }
    rewind(&mut harness);
    for (button, then) in [("Forward", "frame 2/30"), ("Back", "frame 1/30")] {
        harness.get_by_label(button).click();
        until(&mut harness, then);
    }
    assert_eq!(events(folder.path()), []);
}

/// Answers questions by the left key until so many are answered.
fn answer(harness: &mut Harness<'_, App>, from: usize, to: usize, labels: usize) {
    for count in from..to {
        until(harness, "Why this pair");
        harness.key_press(Key::ArrowLeft);
        until(harness, &format!("{} of {labels} ·", count + 1));
    }
}

#[test]
fn an_answer_can_be_seen_again_changed_and_branched_at() {
    let folder = tempfile::tempdir().unwrap();
    let mut harness = window(teaching(folder.path(), 20));
    answer(&mut harness, 0, 6, 20);
    harness.get_by_label("History").click();
    until(&mut harness, "Question 5");
    harness.get_by_label("Question 5").click();
    until(&mut harness, "Change the answer to");
    harness.get_by_label("Equal").click();
    until(&mut harness, "equal");
    harness.get_by_label("None").click();
    until(&mut harness, "not used");
    harness.get_by_label("Branch with second").click();
    // The new run opens beside the old one, and goes on asking.
    until(&mut harness, "Alone");
    harness.get_by_label("Teach").click();
    answer(&mut harness, 5, 7, 20);

    let old = events(folder.path());
    let [.., Event::Relabel { query: 4, label: Label::Equal, .. }, Event::Relabel { query: 4, label: Label::Skip, .. }] =
        &old[..]
    else {
        panic!("{old:?}")
    };
    let new = read_events_unchecked(&folder.path().join("run-at-5").join("labels.jsonl")).unwrap();
    assert_eq!(new[..4], old[..4], "up to there as before");
    let labels: Vec<(u64, Label)> = answers(&new).iter().map(|answer| (answer.query, answer.label)).collect();
    assert_eq!(labels[4..6], [(4, Label::Second), (5, Label::First)]);
    drop(harness);
    // The branch is a run like any other: its ledger is whole, and it opens again.
    let (_, events, warnings) = Ledger::open(&folder.path().join("run-at-5").join("labels.jsonl")).unwrap();
    assert_eq!((events.len(), warnings.len()), (new.len(), 0));
}

#[test]
fn what_an_agent_learns_can_be_watched() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = teaching(folder.path(), 12);
    if let Some((config, _)) = &mut options.start {
        config.preferences.rater = Rater::Simulated;
        config.steps = 200_000;
    }
    let mut harness = window(options);
    until(&mut harness, "EPIC distance");
    for name in ["Smoothing", "Log scale", "Speed limit", "Checkpoint"] {
        assert!(harness.query_all_by_label(name).next().is_some(), "{name}");
    }
    harness.get_by_label("Log scale").click();
    harness.run_steps(3);
    harness.get_by_label("Pause").click();
    until(&mut harness, "Go on");
    harness.get_by_label("Step").click();
    harness.get_by_label("Reward").click();
    until(&mut harness, "Spread of the members");
    for name in ["Learned reward", "True reward"] {
        assert!(harness.query_all_by_label(name).next().is_some(), "{name}");
    }
    harness.get_by_label("An episode").click();
    until(&mut harness, "Correlation with the true reward in this episode");
}

#[test]
fn past_runs_are_compared_exported_opened_and_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let device = pairwise::device::pick(pairwise::device::DeviceChoice::Cpu).unwrap();
    for seed in [0, 1] {
        let mut config = lesson::short_lesson(12);
        (config.seed, config.steps, config.preferences.rater) = (seed, 4_000, Rater::Simulated);
        let path = folder.path().join(format!("run-{seed}"));
        pairwise::control::run::train(config, &path, &device, &false.into(), &mut |_, _| {}).unwrap();
    }
    let exists = |name: &str| folder.path().join(name).exists();
    let mut harness = window(options(folder.path(), "runs"));
    for run in ["Compare run-0", "Compare run-1"] {
        until(&mut harness, run);
        harness.get_by_label(run).click();
        harness.run_steps(2);
    }
    until(&mut harness, "Export the comparison as SVG");
    until(&mut harness, "2 runs");
    for (name, file) in [("SVG", "comparison-true-return.svg"), ("PNG", "comparison-true-return.png")] {
        harness.get_by_label(&format!("Export the comparison as {name}")).click();
        until(&mut harness, file);
        assert!(exists(file), "{file}");
        harness.get_by_label("Dismiss").click();
        harness.run_steps(2);
    }
    let figure = std::fs::read_to_string(folder.path().join("comparison-true-return.svg")).unwrap();
    assert!(figure.contains("<polygon") && !figure.contains("NaN"), "{figure}");

    let exports = [
        ("Learning curve (SVG)", "learning-curve.svg"),
        ("Learning curve (PNG)", "learning-curve.png"),
        ("Episode (GIF)", "episode.gif"),
        ("Metrics (CSV)", "metrics.csv"),
        ("Answers (JSONL)", "labels.jsonl"),
    ];
    for (name, file) in exports {
        harness.get_by_label("Export run-0").click();
        until(&mut harness, name);
        harness.get_by_label(name).click();
        until(&mut harness, file);
        let bytes = std::fs::read(folder.path().join("run-0").join("exports").join(file)).unwrap();
        assert!(bytes.len() > 500, "{file}: {} bytes", bytes.len());
        harness.get_by_label("Dismiss").click();
        harness.run_steps(2);
    }

    harness.get_by_label("Delete run-1").click();
    until(&mut harness, "Delete it for good?");
    harness.get_by_label("Keep run-1").click();
    harness.run_steps(2);
    assert!(exists("run-1"), "it asks first");
    harness.get_by_label("Delete run-1").click();
    until(&mut harness, "Delete run-1 for good");
    harness.get_by_label("Delete run-1 for good").click();
    until(&mut harness, "Deleted");
    assert!(!exists("run-1") && exists("run-0"));
    // The other's row moves when the list is read again.
    until_gone(&mut harness, "Delete run-1");
    harness.get_by_label("Open run-0").click();
    until(&mut harness, "Finished");
}

/// Nobody looks in vain for a run that is there: whatever cannot be read stands in the list with the reason. Folders of
/// other kinds do not.
#[test]
fn runs_that_cannot_be_read_are_shown_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let device = pairwise::device::pick(pairwise::device::DeviceChoice::Cpu).unwrap();
    let mut config = lesson::short_lesson(12);
    (config.steps, config.preferences.rater) = (4_000, Rater::Simulated);
    let at = |name: &str| folder.path().join(name);
    pairwise::control::run::train(config, &at("whole"), &device, &false.into(), &mut |_, _| {}).unwrap();
    let text = std::fs::read_to_string(at("whole/config.toml")).unwrap();
    let ledger = std::fs::read_to_string(at("whole/labels.jsonl")).unwrap();
    let run = |name: &str, config: &[u8], ledger: &str| {
        std::fs::create_dir_all(at(name).join("checkpoints")).unwrap();
        std::fs::write(at(name).join("config.toml"), config).unwrap();
        std::fs::write(at(name).join("labels.jsonl"), ledger).unwrap();
    };
    run("newer", format!("horizon = 7\n{text}").as_bytes(), &ledger);
    run("torn", &text.as_bytes()[..text.len() / 2 + 3], &ledger);
    run("binary", b"env = \"\xff\"", &ledger);
    run("tampered", text.as_bytes(), &ledger.replacen("\"label\":\"", "\"label\":\"e", 1));
    // A last line that a kill tore is no damage.
    run("killed", text.as_bytes(), &ledger[..ledger.len() - 9]);
    std::fs::create_dir_all(at("lost/checkpoints")).unwrap();
    std::fs::write(at("lost/labels.jsonl"), &ledger).unwrap();
    std::fs::create_dir_all(at("other")).unwrap();
    std::fs::write(at("other/config.toml"), "stage = \"dpo\"\n").unwrap();
    std::fs::create_dir_all(at("mine")).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::{PermissionsExt as _, symlink};
        symlink(at("nowhere"), at("mine/config.toml")).unwrap();
        run("closed", text.as_bytes(), &ledger);
        std::fs::set_permissions(at("closed"), std::fs::Permissions::from_mode(0o000)).unwrap();
    }
    // Root may read everything.
    let closed = std::fs::read_dir(at("closed")).is_err();

    let found = pairwise::control::run::past::list(folder.path(), &[]);
    let problem = |name: &str| {
        let of_it = found.damaged.iter().find(|damaged| damaged.path == at(name));
        of_it.map_or_else(String::new, |damaged| damaged.problem.clone())
    };
    for (name, expected) in [
        ("newer", "newer/config.toml: horizon: there is no such value"),
        ("torn", "torn/config.toml: TOML parse error at line"),
        ("binary", "binary/config.toml: cannot be read"),
        ("tampered", "tampered/labels.jsonl: line 1: "),
        ("lost", "config.toml is missing"),
    ] {
        assert!(problem(name).contains(expected), "{name}: {}", problem(name));
    }
    assert_eq!(problem("closed").contains("Permission denied"), closed);
    for name in ["whole", "killed", "other", "mine"] {
        assert_eq!(problem(name), "", "{name}");
    }
    let mut names: Vec<String> = found.runs.iter().map(|run| run.name()).filter(|name| name != "closed").collect();
    names.sort();
    assert_eq!(names, ["killed", "tampered", "whole"], "one with a bad ledger can still be looked at");
    // Mended, it is no longer named, though nothing but its ledger has changed.
    std::fs::write(at("tampered/labels.jsonl"), &ledger).unwrap();
    let mended = pairwise::control::run::past::list(folder.path(), &found.runs);
    assert!(!mended.damaged.iter().any(|damaged| damaged.path == at("tampered")));

    let mut harness = window(options(folder.path(), "runs"));
    until(&mut harness, "Cannot be read");
    until(&mut harness, "horizon: there is no such value");
    until(&mut harness, "config.toml is missing");
    until(&mut harness, "Open whole");
    let empty = tempfile::tempdir().unwrap();
    std::fs::write(empty.path().join("file"), "").unwrap();
    let damaged = pairwise::control::run::past::list(&empty.path().join("file"), &[]).damaged;
    assert!(damaged[0].problem.contains("cannot be listed"), "{damaged:?}");
    assert!(
        pairwise::control::run::past::list(&empty.path().join("none"), &[]).damaged.is_empty(),
        "made by the first run"
    );
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(at("closed"), std::fs::Permissions::from_mode(0o755)).unwrap();
    }
}

// ------------------------------------------------------------------------------------------------------------------- mix

/// A front of two policies of the reacher, small enough to be made here.
fn small_front(folder: &Path) {
    use pairwise::studies::control_front::{ControlFront, ControlFrontConfig, seed, table};
    let ppo = pairwise::control::rl::ppo::PpoConfig {
        envs: 2,
        rollout_steps: 32,
        epochs: 2,
        hidden: vec![8],
        ..pairwise::control::rl::ppo::PpoConfig::default()
    };
    let config = ControlFrontConfig {
        seeds: vec![0],
        pretrain_steps: 64,
        finetune_steps: 64,
        mix_steps: 4,
        episodes: 2,
        ppo,
        ..ControlFrontConfig::default()
    };
    let device = pairwise::device::pick(pairwise::device::DeviceChoice::Cpu).unwrap();
    let seeds = vec![seed(&config, 0, folder, &device, &|_| ()).unwrap()];
    let tastes = vec!["precision".to_owned(), "effort saved".to_owned()];
    let front = ControlFront { table: table(&config, &seeds), tastes, seeds, config };
    std::fs::write(folder.join("front.json"), serde_json::to_string(&front).unwrap()).unwrap();
}

#[test]
fn a_slider_mixes_policies_and_the_mix_can_be_saved() {
    let runs = tempfile::tempdir().unwrap();
    let mut harness = window(options(runs.path(), "mix"));
    until(&mut harness, "There is no front here yet");
    small_front(&runs.path().join("front-reacher"));
    let mut harness = window(options(runs.path(), "mix"));
    until(&mut harness, "answers in");
    let slider = || Role::Slider;
    let value = |harness: &Harness<'_, App>| harness.get_by_role(slider()).accesskit_node().numeric_value().unwrap();
    assert_eq!(value(&harness), 0.5);
    harness.get_by_role(slider()).focus();
    harness.step();
    harness.key_press(Key::ArrowRight);
    harness.step();
    assert!(value(&harness) > 0.5);
    harness.get_by_label("Save this mix").click();
    until(&mut harness, "saved to");
    assert!(runs.path().join("mix.safetensors").exists());
}

// ----------------------------------------------------------------------------------------------------------------- check

/// A set of statements whose labels are Yes and No by turns; the confidence is a number that nothing else shows.
fn small_set(path: &Path, rows: usize) {
    let row = |i: usize| {
        let (yes, no) = if i.is_multiple_of(2) { (" Yes", " No") } else { (" No", " Yes") };
        serde_json::json!({
            "question": format!("Is the following statement something you would say?\n\"Statement {i}\""),
            "statement": format!("Statement {i}"), "label_confidence": 0.8765,
            "answer_matching_behavior": yes, "answer_not_matching_behavior": no,
        })
    };
    let text: String = (0..rows).map(|i| format!("{}\n", row(i))).collect();
    std::fs::write(path, text).unwrap();
}

/// Writes into a field that is named.
fn write(harness: &mut Harness<'_, App>, field: &str, text: &str) {
    harness.get_by_role_and_label(Role::TextInput, field).focus();
    harness.step();
    harness.get_by_role_and_label(Role::TextInput, field).type_text(text);
    harness.run_steps(2);
}

/// The number of the statement that is shown.
fn statement(harness: &Harness<'_, App>) -> usize {
    let shown: Vec<usize> = (0..10).filter(|i| harness.query_by_label(&format!("Statement {i}")).is_some()).collect();
    assert_eq!(shown.len(), 1, "one statement at a time: {shown:?}");
    shown[0]
}

/// The key of an answer: where "Yes" and "No" stand is drawn for each rater.
fn key_of(harness: &Harness<'_, App>, yes: bool) -> Key {
    let left = if yes { "← Yes" } else { "← No" };
    if harness.query_by_label(left).is_some() { Key::ArrowLeft } else { Key::ArrowRight }
}

/// What stands in the file of answers.
fn lines_of(folder: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(folder.join("answers.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Nothing of the set's labels and of other raters.
fn is_blind(harness: &Harness<'_, App>) {
    for word in ["8765", "88 %", "The set says", "agrees with", "Fleiss", "confirmed by", "Ann 4", "matching"] {
        assert!(harness.query_all_by_label_contains(word).next().is_none(), "{word}");
    }
    // Both answers are offered, whatever the label.
    for answer in ["Yes", "No"] {
        let sides = [format!("← {answer}"), format!("{answer} →")];
        assert_eq!(sides.iter().filter(|name| harness.query_by_label(name).is_some()).count(), 1, "{answer}");
    }
}

/// A set of four statements that Ann begins to check: the window, and the folder of the answers.
fn ann_begins(folder: &Path) -> (Harness<'static, App>, PathBuf) {
    let (runs, set) = (folder.join("runs"), folder.join("likes-tea.jsonl"));
    small_set(&set, 4);
    let mut harness = window(options(&runs, "check"));
    until(&mut harness, "Write your name");
    write(&mut harness, "Your name", "Ann");
    until(&mut harness, "Name the set");
    write(&mut harness, "Set", &set.display().to_string());
    write(&mut harness, "Somebody who", "likes tea");
    harness.get_by_label("Start checking").click();
    until(&mut harness, "1 of 4");
    (harness, runs.join("check-likes-tea"))
}

#[test]
fn people_check_a_set_by_keys_blind_and_see_the_report_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let (mut harness, path) = ann_begins(folder.path());
    // Ann is always right, but can't tell about Statement 3.
    for count in 0..4 {
        is_blind(&harness);
        assert!(harness.query_by_label("Would somebody who likes tea agree?").is_some());
        let number = statement(&harness);
        let key = if number == 3 { Key::ArrowDown } else { key_of(&harness, number.is_multiple_of(2)) };
        harness.key_press(key);
        harness.run_steps(2);
        assert_eq!(statement(&harness), number, "an answer takes two keys");
        assert_eq!(lines_of(&path).len(), count);
        harness.key_press([Key::Num5, Key::Num4][number % 2]);
        harness.run_steps(2);
        let lines = lines_of(&path);
        assert_eq!(lines.len(), count + 1, "on the disk after each");
        let label = [Some(" Yes"), Some(" No"), Some(" Yes"), None][number];
        assert_eq!(
            (lines[count]["label"].as_str(), lines[count]["relevance"].as_u64()),
            (label, Some([5, 4][number % 2]))
        );
        assert_eq!((lines[count]["rater"].as_str(), lines[count]["ambiguous"].as_bool()), (Some("Ann"), Some(false)));
    }
    until(&mut harness, "That was the last question");
    harness.get_by_label("Show the report").click();
    until(&mut harness, "What people found");
    until(&mut harness, "100.0 % [43.9, 100.0] of 3, 1 can't tell");
    until(&mut harness, "not defined: it takes two raters or more");
    assert!(path.join("report.json").is_file() && path.join("report.md").is_file());
    harness.key_press(Key::Z);
    harness.run_steps(2);
    assert_eq!(lines_of(&path).len(), 5, "final");

    // Ben says Yes to everything, and calls the first ambiguous; he takes one answer back.
    write(&mut harness, "Next rater", "Ben");
    harness.get_by_label("Begin as another rater").click();
    until(&mut harness, "1 of 4");
    let first = statement(&harness);
    for count in 0..4 {
        is_blind(&harness);
        let number = statement(&harness);
        if number == first {
            harness.key_press(Key::A);
            harness.run_steps(2);
        }
        if count == 2 {
            // Wrong, and taken back: the same question comes again.
            harness.key_press(Key::ArrowUp);
            harness.key_press(Key::Num1);
            harness.run_steps(2);
            assert_ne!(statement(&harness), number);
            harness.key_press(Key::Z);
            harness.run_steps(2);
            assert_eq!(statement(&harness), number);
            assert_eq!(lines_of(&path).last().unwrap()["event"], "undo");
        }
        let key = key_of(&harness, true);
        harness.key_press(key);
        harness.key_press(Key::Num5);
        harness.run_steps(2);
    }
    // 4 answers and a finish of Ann's, 5 answers and an undo of Ben's.
    assert_eq!(lines_of(&path).len(), 11);
    until(&mut harness, "Show the report");
    harness.get_by_label("Show the report").click();
    // Ben agrees on the two of four whose label is Yes. Votes right:wrong of the statements are 2:0, 1:1, 2:0, 0:1.
    until(&mut harness, "50.0 % [15.0, 85.0] of 4, 0 can't tell");
    until(&mut harness, "66.7 % [20.8, 93.9] of 3, 1 undecided");
    // κ over (No, Yes, can't tell): 0 2 0, 1 1 0, 0 2 0, 0 1 1; half agree, (1 + 36 + 1)/64 by chance.
    until(&mut harness, &format!("{:.3}, 2 raters, 4 items", (0.5 - 38.0 / 64.0) / (1.0 - 38.0 / 64.0)));
    // Relevance of Ann's 5, 4, 5, 4 and Ben's 5 5 5 5: mean 4.75, variance 1.5/7.
    until(&mut harness, "4.75 ± 0.46 (0/0/0/2/6)");
    until(&mut harness, "75.0 % [30.1, 95.4] of 4");
    until(&mut harness, "2 questions about which a rater chose another answer");
    until(&mut harness, "The set says No (88 % sure)");
    until(&mut harness, "Ann: can't tell, Ben: Yes");
    let report: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(path.join("report.json")).unwrap()).unwrap();
    assert_eq!((report["confirmed"]["count"].as_u64(), report["clear"]["count"].as_u64()), (Some(2), Some(3)));

    // Found again among the runs; a rater who has finished sees the report at once.
    harness.get_by_label("Close").click();
    until(&mut harness, "Ann 4 of 4, Ben 4 of 4");
    harness.get_by_label("Open check-likes-tea").click();
    until(&mut harness, "What people found");
}

/// Keys that come within one frame, as they do where a frame takes long.
fn press_together(harness: &mut Harness<'_, App>, keys: &[Key]) {
    for &key in keys {
        for pressed in [true, false] {
            let event =
                egui::Event::Key { key, pressed, repeat: false, modifiers: egui::Modifiers::NONE, physical_key: None };
            harness.input_mut().events.push(event);
        }
    }
    harness.run_steps(2);
}

#[test]
fn keys_of_one_frame_answer_only_the_question_that_was_seen() {
    let folder = tempfile::tempdir().unwrap();
    let (mut harness, path) = ann_begins(folder.path());
    // Two relevances: each would complete an answer, the second one to a question that was on no screen.
    press_together(&mut harness, &[Key::ArrowRight, Key::Num4, Key::Num5]);
    until(&mut harness, "2 of 4");
    assert_eq!(lines_of(&path).len(), 1);
    assert_eq!(lines_of(&path)[0]["relevance"], 4);
    // Taken back in the same frame as the next is answered: what is left is the answer taken back.
    press_together(&mut harness, &[Key::ArrowRight, Key::Num5, Key::Z]);
    until(&mut harness, "1 of 4");
    assert_eq!(lines_of(&path).iter().map(|line| line["event"].clone()).collect::<Vec<_>>(), ["answer", "undo"]);
    // The question that was seen still takes its keys one by one.
    harness.key_press(Key::ArrowRight);
    harness.run_steps(2);
    harness.key_press(Key::Num3);
    until(&mut harness, "2 of 4");
    assert_eq!(lines_of(&path).len(), 3);
}

#[test]
fn what_cannot_be_checked_is_said_and_the_form_stays() {
    let folder = tempfile::tempdir().unwrap();
    let mut harness = window(options(&folder.path().join("runs"), "check"));
    until(&mut harness, "There are none yet. Name a set");
    write(&mut harness, "Your name", "Ann");
    let set = folder.path().join("set.jsonl");
    std::fs::write(&set, "{\"question\": \"Is it?\"}\n").unwrap();
    write(&mut harness, "Set", &set.display().to_string());
    harness.get_by_label("Start checking").click();
    until(&mut harness, "set.jsonl:1: ");
    assert!(harness.query_by_label("Start checking").is_some());
    assert!(!folder.path().join("runs").join("check-set").exists());
}
