//! Teaching a language model: the loop with a simulated rater, the engine as a window uses it, and the window by the names
//! that a screen reader would say.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use burn::tensor::Device;
use egui::Key;
use egui::accesskit::Role;
use egui_kittest::Harness;
use egui_kittest::kittest::Queryable as _;
use pairwise::app::{App, Options};
use pairwise::engine::book::Saying;
use pairwise::engine::language::{Begin, LanguageCommand, LanguageEngine, LanguagePhase, LanguageView};
use pairwise::engine::shelf::{Shelf, look};
use pairwise::lm::diagnose::Estimate;
use pairwise::lm::run::{LmConfig, PretrainConfig, StageKind, weights_sha256};
use pairwise::lm::teach::folder::{TeachSession as Session, TeachSummary, create, questions, reports};
use pairwise::lm::teach::{Material, TeachConfig, TeachQuestion as Question, TeachReport as Report, gold_label};
use pairwise::preference::ledger::{Answer, Ledger, answers, read_events_unchecked};
use pairwise::preference::query::{DISAGREEMENT, ENTROPY};
use pairwise::preference::{Event, Label};
use pairwise::studies::frontier::{Frontier, FrontierConfig, Method, Point};

use crate::common::{options, until};

/// A model that has read a few reviews and writes nearly at random.
fn model(folder: &Path, texts: usize) -> PathBuf {
    let mut config = LmConfig::new(StageKind::Pretrain);
    config.data = vec!["reviews".into()];
    config.pretrain = Some(PretrainConfig {
        hidden: 16,
        layers: 2,
        heads: 2,
        context: 96,
        vocabulary: 300,
        texts,
        ..PretrainConfig::default()
    });
    let path = folder.join("tiny");
    let device = pairwise::device::pick(config.device).unwrap();
    pairwise::lm::run::train(&config, &path, &device, &false.into(), &|_| ()).unwrap();
    path.join("model")
}

fn lesson(model: &Path) -> TeachConfig {
    let mut config = TeachConfig::new(model, Path::new("reviews"));
    (config.max_new_tokens, config.answers_per_update, config.held_out) = (12, 3, 4);
    (config.steps_per_update, config.learning_rate, config.checkpoint_every) = (2, 1e-3, 2);
    config
}

// -------------------------------------------------------------------------------------------------------------- the loop

static GO: AtomicBool = AtomicBool::new(false);

fn event(session: &Session, question: &Question, label: Label) -> Event {
    let [first, second] = question.sides();
    Event::Answer(Answer {
        query: question.query,
        step: question.step as u64,
        session: session.lesson.updates as u64,
        first,
        second,
        label,
        rater: "simulated".to_owned(),
        why: question.why,
        repeat: None,
        seconds: None,
    })
}

/// Answers as many questions as an update takes, and updates.
fn teach(session: &mut Session, ledger: &mut Ledger, label: &dyn Fn(&Session, &Question) -> Label) {
    session.ask(&GO).unwrap().unwrap();
    let count = session.material.config.answers_per_update;
    let events: Vec<Event> =
        session.lesson.pending().take(count).map(|q| event(session, q, label(session, q))).collect();
    events.iter().for_each(|event| ledger.append(event).unwrap());
    assert!(session.update(&events, &GO, &|_, _| ()).unwrap());
}

fn open(path: &Path) -> (Session, Ledger, Vec<Event>) {
    let folder = pairwise::disk::Folder::open_to_write(path).unwrap();
    Session::open(&folder, &Device::flex(), &|_| ()).unwrap()
}

#[test]
fn a_ledger_replays_to_the_same_bits_from_the_start_and_from_a_checkpoint_with_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("session");
    let mut config = lesson(&model(folder.path(), 60));
    (config.sampler, config.candidates) = (&ENTROPY, 12);
    (config.answers_per_update, config.steps_per_update, config.checkpoint_every) = (4, 3, 0);
    create(&path, &config).unwrap();
    let (mut session, mut ledger, _) = open(&path);
    let kinds = [Label::First, Label::Second, Label::Equal, Label::Skip];
    for _ in 0..2 {
        teach(&mut session, &mut ledger, &|_, question| kinds[question.query as usize % 4]);
    }
    // Nothing but skips: nothing is learned, and the update counts.
    let before = weights_sha256(&session.lesson.trainee.model);
    teach(&mut session, &mut ledger, &|_, _| Label::Skip);
    assert_eq!(weights_sha256(&session.lesson.trainee.model), before);
    session.save().unwrap();
    let changes = [Event::Undo { query: 0, session: 3 }, Event::Relabel { query: 3, label: Label::First, session: 3 }];
    changes.iter().for_each(|event| ledger.append(event).unwrap());
    session.ask(&GO).unwrap().unwrap();
    let mut events = changes.to_vec();
    for question in session.lesson.pending().take(4) {
        events.push(event(&session, question, Label::First));
        ledger.append(&events[events.len() - 1]).unwrap();
    }
    assert!(session.update(&events, &GO, &|_, _| ()).unwrap());
    session.ask(&GO).unwrap().unwrap();
    let (hash, reports, asked) =
        (weights_sha256(&session.lesson.trainee.model), session.reports.clone(), questions(&path));
    assert_ne!(hash, before);
    assert_eq!((reports.len(), session.lesson.trainee.step), (5, 9));
    assert!(asked.iter().any(|question| question.why.is_some()), "chosen by entropy after the first update");
    // A session has one writer.
    drop((session, ledger));

    let checkpoints = path.join("checkpoints");
    let again = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let (mut session, _, events) = open(&path);
            let from = session.lesson.updates;
            assert_eq!(session.catch_up(&events, &GO, &|_, _| ()).unwrap(), Some(Vec::new()));
            assert_eq!(weights_sha256(&session.lesson.trainee.model), hash);
            assert_eq!((&session.reports, questions(&path)), (&reports, asked.clone()));
            from
        })
    };
    assert_eq!(again(1), 3, "from the checkpoint");
    std::fs::remove_dir_all(&checkpoints).unwrap();
    // Torn files that only follow from the ledger are made again.
    for name in ["completions.jsonl", "metrics.jsonl"] {
        let file = path.join(name);
        let bytes = std::fs::read(&file).unwrap();
        std::fs::write(&file, &bytes[..bytes.len() * 2 / 3]).unwrap();
    }
    assert_eq!(again(3), 0, "from the start");
}

#[test]
fn a_session_with_an_edited_configuration_or_another_ledger_is_refused_and_a_bad_line_is_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("session");
    let config = TeachConfig { checkpoint_every: 1, ..lesson(&model(folder.path(), 60)) };
    create(&path, &config).unwrap();
    let (mut session, mut ledger, _) = open(&path);
    for _ in 0..2 {
        teach(&mut session, &mut ledger, &|_, question| [Label::First, Label::Second][question.query as usize % 2]);
    }
    session.save().unwrap();
    let hash = weights_sha256(&session.lesson.trainee.model);
    drop((session, ledger));
    let opened = || {
        let told = Mutex::new(Vec::new());
        let folder = pairwise::disk::Folder::open_to_write(&path).unwrap();
        let found = Session::open(&folder, &Device::flex(), &|told_now| told.lock().unwrap().push(told_now));
        found.map(|(session, _, events)| (session, events, told.into_inner().unwrap())).map_err(|e| e.to_string())
    };
    let refused = || opened().err().unwrap();
    let file = |name: &str| path.join(name);
    let read = |name: &str| std::fs::read_to_string(file(name)).unwrap();

    let intact = read("config.toml");
    std::fs::write(file("config.toml"), intact.replace("learning_rate = 0.001", "learning_rate = 0.01")).unwrap();
    let error = refused();
    let expected = "update-00000002.safetensors: does not belong to config.toml beside it: learning_rate: the checkpoint was \
                    made with 0.001, config.toml says 0.01. Undo the edit";
    assert!(error.ends_with(expected), "{error}");
    std::fs::write(file("config.toml"), &intact).unwrap();

    let intact = read("labels.jsonl");
    let lines: Vec<&str> = intact.split_inclusive('\n').collect();
    assert_eq!(lines.len(), 6);
    std::fs::write(file("labels.jsonl"), lines[..4].concat()).unwrap();
    let error = refused();
    assert!(error.contains("has 4 lines, but the checkpoint of update 2 has seen 6 lines"), "{error}");
    std::fs::remove_file(file("labels.jsonl")).unwrap();
    assert!(refused().contains("labels.jsonl: is missing, but the checkpoint of update 2 has seen 6 lines"));
    assert!(!file("labels.jsonl").exists(), "nothing was made in its place");
    std::fs::write(file("labels.jsonl"), &intact).unwrap();

    for name in ["metrics.jsonl", "completions.jsonl"] {
        let intact = read(name);
        let broken: Vec<&str> = intact.lines().enumerate().map(|(i, l)| if i == 1 { "{\"upd" } else { l }).collect();
        std::fs::write(file(name), broken.join("\n") + "\n").unwrap();
        if name == "metrics.jsonl" {
            assert_eq!(
                reports(&path).iter().map(|report| report.updates).collect::<Vec<_>>(),
                [0, 2],
                "no other is lost"
            );
        }
        let (mut session, events, told) = opened().unwrap();
        assert!(told.iter().any(|told| told.contains(&format!("{name}: line 2: is not a JSON object"))), "{told:?}");
        session.catch_up(&events, &GO, &|_, _| ()).unwrap();
        assert_eq!((weights_sha256(&session.lesson.trainee.model), read(name)), (hash.clone(), intact));
    }
}

/// What is good here is a vowel that stands alone: a model this small learns no more of a language than its letters.
#[test]
fn a_simulated_rater_moves_the_gold_reward_of_held_out_prompts_its_way() {
    let folder = tempfile::tempdir().unwrap();
    let base = model(folder.path(), 400);
    let gain = |seed: u64, rater: &dyn Fn(Label) -> Label| {
        let mut config = TeachConfig { seed, gold: "regex:[aeiou]".to_owned(), ..lesson(&base) };
        (config.max_new_tokens, config.answers_per_update, config.held_out) = (16, 8, 64);
        (config.steps_per_update, config.checkpoint_every) = (8, 0);
        let path = folder.path().join(format!("{seed}-{}", rater(Label::First)));
        create(&path, &config).unwrap();
        let (mut session, mut ledger, _) = open(&path);
        for _ in 0..10 {
            teach(&mut session, &mut ledger, &|session, question| {
                rater(gold_label(&session.material, question).unwrap())
            });
        }
        let gold = |report: &Report| report.sampled.gold.unwrap().mean;
        gold(&session.reports[10]) - gold(&session.reports[0])
    };
    let mean = |rater: &dyn Fn(Label) -> Label| (0..3).map(|seed| gain(seed, rater)).sum::<f64>() / 3.0;
    let (same, opposite) = (mean(&|label| label), mean(&Label::swapped));
    eprintln!("gain {same:.2} by a rater of the gold reward, {opposite:.2} by one who says the opposite");
    // Standard error of each: about 0.2.
    assert!(same > 0.4 && opposite < -0.2, "{same} {opposite}");
}

#[test]
fn what_does_not_fit_is_named() {
    type Change<'a> = &'a dyn Fn(&mut TeachConfig);
    let folder = tempfile::tempdir().unwrap();
    let base = model(folder.path(), 60);
    let refused = |change: Change<'_>| {
        let mut config = lesson(&base);
        change(&mut config);
        Material::read(&config, &Device::flex()).err().unwrap().to_string()
    };
    let file = folder.path().join("prompts.txt");
    std::fs::write(&file, "\n\n").unwrap();
    let cases: [(Change<'_>, &str); 6] = [
        (&|config| config.sampler = &DISAGREEMENT, "sampler = disagreement: needs an ensemble"),
        (&|config| config.max_new_tokens = 96, "below the model's context, 96 tokens"),
        (&|config| config.steps_per_update = 0, "steps_per_update = 0"),
        (&|config| config.loss.beta = 0.0, "loss.beta = 0"),
        (&|config| config.gold = "joy".to_owned(), "gold reward 'joy'"),
        (&|config| config.prompts = file.clone(), "prompts.txt"),
    ];
    for (change, expected) in cases {
        let found = refused(change);
        assert!(found.contains(expected), "{found}");
    }
}

#[test]
fn a_file_of_prompts_is_asked_about_and_a_fifth_is_held_out() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prompts.txt");
    let lines: Vec<String> = (0..10).map(|i| format!("Prompt number {i}")).collect();
    std::fs::write(&file, lines.join("\n")).unwrap();
    let mut config = lesson(&model(folder.path(), 60));
    (config.prompts, config.gold, config.answers_per_update) = (file, String::new(), 4);
    config.held_out = 8;
    let path = folder.path().join("session");
    create(&path, &config).unwrap();
    let (mut session, mut ledger, _) = open(&path);
    for _ in 0..3 {
        teach(&mut session, &mut ledger, &|_, _| Label::First);
    }
    let mut asked: Vec<String> = questions(&path).into_iter().map(|question| question.prompt).collect();
    assert_eq!(asked.len(), 16, "eight at first, and four for those that were answered, twice");
    let first: BTreeSet<String> = asked[..8].iter().cloned().collect();
    assert_eq!(first.len(), 8, "each prompt once before one comes again");
    asked.sort();
    asked.dedup();
    assert!(asked.len() == 8 && asked.iter().all(|prompt| lines.contains(prompt)), "{asked:?}");
    assert_eq!(session.reports[0].sampled.gold, None);
}

#[test]
fn another_model_than_the_answers_were_about_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let base = model(folder.path(), 60);
    let path = folder.path().join("session");
    create(&path, &lesson(&base)).unwrap();
    let (mut session, mut ledger, _) = open(&path);
    teach(&mut session, &mut ledger, &|_, _| Label::First);
    let other = folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let changed = model(&other, 61);
    std::fs::copy(changed.join("model.safetensors"), base.join("model.safetensors")).unwrap();
    drop((session, ledger));
    let (mut session, _, events) = open(&path);
    let error = session.catch_up(&events, &GO, &|_, _| ()).unwrap_err().to_string();
    assert!(error.contains("query 0: was answered for other completions"), "{error}");
}

// ------------------------------------------------------------------------------------------------------------ the engine

/// Looks at the view until it is as wanted.
fn wait(engine: &LanguageEngine, wanted: impl Fn(&LanguageView) -> bool) -> LanguageView {
    let began = Instant::now();
    loop {
        let view = engine.view();
        if wanted(&view) {
            return view;
        }
        assert!(began.elapsed() < Duration::from_secs(120), "still {:?}: {:?}", view.phase, view.messages);
        assert!(!matches!(view.phase, LanguagePhase::Failed(_)), "{:?}", view.phase);
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Answers the next question and waits until the answer is safe.
fn answer(engine: &LanguageEngine) -> Arc<Question> {
    let question = Arc::clone(wait(engine, |view| view.next().is_some()).next().unwrap());
    let label = if question.ids[0].len() > question.ids[1].len() { Label::First } else { Label::Second };
    engine.send(LanguageCommand::Say(Saying::Answer { query: question.query, label, seconds: 0.5 })).unwrap();
    wait(engine, |view| view.answers.labels.contains_key(&question.query));
    question
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else if !path.file_name().unwrap().to_string_lossy().starts_with(".tmp") {
            std::fs::copy(&path, &target).unwrap();
        }
    }
}

fn summary(path: &Path) -> TeachSummary {
    serde_json::from_str(&std::fs::read_to_string(path.join("summary.json")).unwrap()).unwrap()
}

#[test]
fn a_killed_session_loses_no_answer_and_its_ledger_replays_to_the_same_weights() {
    let folder = tempfile::tempdir().unwrap();
    let config = lesson(&model(folder.path(), 60));
    let path = folder.path().join("session");
    let engine = LanguageEngine::start(Begin::New(Box::new(config)), &path, || {});
    let mut given: Vec<u64> = (0..4).map(|_| answer(&engine).query).collect();
    engine.send(LanguageCommand::Say(Saying::Undo { query: given[1] })).unwrap();
    engine.send(LanguageCommand::Say(Saying::Relabel { query: given[2], label: Label::Equal })).unwrap();
    wait(&engine, |view| view.answers.labels[&given[2]].label == Label::Equal);
    // While it learns, or not: what is on the disk now is what a kill would leave.
    let killed = folder.path().join("killed");
    copy(&path, &killed);
    given.extend((0..3).map(|_| answer(&engine).query));
    wait(&engine, |view| view.phase == LanguagePhase::Waiting && view.reports.len() == 3);
    engine.send(LanguageCommand::Compare { text: "The tea".to_owned(), draw: 0 }).unwrap();
    let shown = wait(&engine, |view| view.comparison.is_some()).comparison.unwrap();
    assert_eq!((shown.text.as_str(), shown.updates), ("The tea", 2));
    engine.close();
    let closed = summary(&path);
    // An update is due after three answers, and takes what there is: a fourth, where its thread wakes up late. Then the
    // seventh does not wait for two more.
    assert_eq!(closed.updates, 2);
    assert!((6..=7).contains(&closed.answered), "{}", closed.answered);
    assert!(path.join("model/model.safetensors").is_file() && path.join("model/tokenizer.json").is_file());

    let engine = LanguageEngine::start(Begin::Open, &killed, || {});
    let view = wait(&engine, |view| view.phase == LanguagePhase::Waiting);
    assert_eq!(view.answers.answered[..], given[..4]);
    assert_eq!(
        (view.answers.labels[&given[1]].label, view.answers.labels[&given[2]].label),
        (Label::Skip, Label::Equal)
    );
    // What was undone is asked again, also after the restart, until it is answered.
    assert_eq!(view.answers.undone, [given[1]]);
    engine.send(LanguageCommand::Say(Saying::Relabel { query: given[1], label: Label::First })).unwrap();
    wait(&engine, |view| view.answers.undone.is_empty());
    engine.close();

    // Without its checkpoints everything is repeated from the ledger.
    let again = folder.path().join("again");
    copy(&path, &again);
    std::fs::remove_dir_all(again.join("checkpoints")).unwrap();
    let engine = LanguageEngine::start(Begin::Open, &again, || {});
    let view = wait(&engine, |view| view.phase == LanguagePhase::Waiting);
    assert_eq!((view.reports.len(), view.given()), (3, 7 - closed.answered));
    engine.close();
    assert_eq!(summary(&again).weights_sha256, closed.weights_sha256);
    let (_, events, torn) = Ledger::open(&again.join("labels.jsonl")).unwrap();
    assert_eq!((events.len(), torn.len()), (9, 0));
}

#[test]
fn what_cannot_be_taught_is_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("session");
    let failed = |config: TeachConfig| {
        let engine = LanguageEngine::start(Begin::New(Box::new(config)), &path, || {});
        let began = Instant::now();
        loop {
            if let LanguagePhase::Failed(reason) = engine.view().phase {
                return reason;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{:?}", engine.view().phase);
        }
    };
    assert!(failed(TeachConfig::default()).contains("model: none is given"));
    let mut config = TeachConfig::new(&folder.path().join("nowhere"), Path::new("reviews"));
    config.temperature = 0.0;
    assert!(failed(config.clone()).contains("temperature = 0: must be positive"));
    config.temperature = 1.0;
    assert!(failed(config).contains("there is no such folder"));
}

// ------------------------------------------------------------------------------------------------------------ the window

fn window(options: Options) -> Harness<'static, App> {
    // A model that knows little writes bytes that are no character.
    let builder = Harness::builder().with_size([1280.0, 800.0]).with_max_steps(4).allow_missing_glyphs();
    builder.build_eframe(|context| App::new(context, options))
}

#[test]
fn completions_are_compared_by_keyboard_and_mouse_and_the_model_is_seen_to_change() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("session");
    create(&path, &lesson(&model(folder.path(), 60))).unwrap();
    let options = Options {
        run: Some(path.clone()),
        runs: folder.path().to_owned(),
        least_seconds: Some(0.0),
        ..Options::default()
    };
    let mut harness = window(options);
    until(&mut harness, "Which completion is better?");
    let mut expected = Vec::new();
    let mut count = 0;
    let mut taken = |harness: &mut Harness<'_, App>, label: Label| {
        expected.push(label);
        count += 1;
        until(harness, &format!("{count} answered"));
        until(harness, "Left completion");
    };
    let keys = [
        (Key::ArrowLeft, Label::First),
        (Key::ArrowRight, Label::Second),
        (Key::ArrowUp, Label::Equal),
        (Key::ArrowDown, Label::Skip),
    ];
    for (key, label) in keys {
        harness.key_press(key);
        taken(&mut harness, label);
    }
    let buttons = [
        ("← Left", Label::First),
        ("Right →", Label::Second),
        ("↑ Equal", Label::Equal),
        ("↓ Can't tell", Label::Skip),
        ("Left completion", Label::First),
        ("Right completion", Label::Second),
    ];
    for (name, label) in buttons {
        harness.get_by_label(name).click();
        taken(&mut harness, label);
    }
    // Swapped, the left key means the second completion. Undo shows the pair again.
    harness.key_press(Key::S);
    harness.step();
    harness.key_press(Key::ArrowLeft);
    taken(&mut harness, Label::Second);
    until(&mut harness, "You said the second (orange)");
    harness.key_press(Key::Z);
    harness.step();
    harness.key_press(Key::ArrowRight);
    until(&mut harness, "You said the first (blue)");
    let events = read_events_unchecked(&path.join("labels.jsonl")).unwrap();
    let given: Vec<Label> = answers(&events).iter().map(|answer| answer.label).collect();
    assert_eq!(given[..10], expected[..10]);
    let [.., Event::Answer(answer), Event::Undo { query, .. }, Event::Relabel { query: again, label, .. }] =
        &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!((answer.label, *query, *again, *label), (Label::Second, answer.query, answer.query, Label::First));

    // Three updates of three answers each; the first prompt is completed after each of them.
    until(&mut harness, "Now, after 3 updates");
    until(&mut harness, "At the start");
    for name in ["divergence", "gold reward", "agreement", "Agreement, one step ahead, %"] {
        until(&mut harness, name);
    }
    harness.get_by_label("Again").click();
    until(&mut harness, "Now, after 3 updates");
    harness.get_by_label("Pause").click();
    until(&mut harness, "paused");
    harness.get_by_label("Go on").click();
    until(&mut harness, "waiting for your answers");
    harness.get_by_label("Save model").click();
    until(&mut harness, "saved after 3 updates");
    assert!(path.join("model/model.safetensors").is_file());

    // Typing does not answer.
    let before = read_events_unchecked(&path.join("labels.jsonl")).unwrap().len();
    harness.get_by_role(Role::TextInput).click();
    harness.step();
    for key in [Key::ArrowLeft, Key::Z] {
        harness.key_press(key);
        harness.step();
    }
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(read_events_unchecked(&path.join("labels.jsonl")).unwrap().len(), before);

    harness.get_by_label("Close session").click();
    until(&mut harness, "Resume session");
    harness.get_by_label("Resume session").click();
    until(&mut harness, "11 answered");
}

/// Issue 28, D.
#[test]
fn keys_before_a_pair_can_have_been_seen_do_not_answer_and_a_pair_undone_comes_again_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("session");
    create(&path, &lesson(&model(folder.path(), 60))).unwrap();
    let options = || Options { run: Some(path.clone()), runs: folder.path().to_owned(), ..Options::default() };
    let events = || read_events_unchecked(&path.join("labels.jsonl")).unwrap();
    let mut harness = window(options());
    until(&mut harness, "Which completion is better?");
    for count in 1..=2 {
        std::thread::sleep(Duration::from_millis(250));
        harness.key_press(Key::ArrowLeft);
        until(&mut harness, &format!("{count} answered"));
        until(&mut harness, "Left completion");
        harness.key_press(Key::ArrowRight);
        harness.step();
        until(&mut harness, "came before you can have seen this one");
    }
    assert_eq!(answers(&events()).iter().map(|answer| answer.label).collect::<Vec<_>>(), [Label::First; 2]);
    harness.key_press(Key::Z);
    let began = Instant::now();
    while !matches!(events().last(), Some(Event::Undo { .. })) {
        assert!(began.elapsed() < Duration::from_secs(60), "nothing was undone");
        harness.step();
    }
    drop(harness);

    let mut harness = window(options());
    until(&mut harness, "Which completion is better?");
    std::thread::sleep(Duration::from_millis(250));
    harness.key_press(Key::ArrowUp);
    let began = Instant::now();
    while !matches!(events().last(), Some(Event::Relabel { .. })) {
        assert!(began.elapsed() < Duration::from_secs(60), "it was not asked again: {:?}", events().last());
        harness.step();
    }
    let [.., Event::Undo { query, .. }, Event::Relabel { query: again, label: Label::Equal, .. }] = &events()[..]
    else {
        panic!("{:?}", events())
    };
    assert_eq!(query, again);
}

#[test]
fn without_a_model_a_small_one_is_trained_and_taught() {
    let folder = tempfile::tempdir().unwrap();
    let mut harness = window(options(folder.path(), "language"));
    until(&mut harness, "There are none yet");
    harness.get_by_label("Frontier").click();
    until(&mut harness, "pairwise lm frontier");
    harness.get_by_label("Compare completions").click();
    until(&mut harness, "Train a small one now");
    harness.get_by_role_and_label(Role::ComboBox, "size").click();
    until(&mut harness, "30k");
    harness.get_by_label("30k").click();
    harness.run_steps(2);
    harness.get_by_role_and_label(Role::SpinButton, "texts").click();
    harness.run_steps(2);
    harness.input_mut().events.push(egui::Event::Text("100".to_owned()));
    harness.run_steps(2);
    harness.key_press(Key::Enter);
    harness.run_steps(2);
    harness.get_by_label("Start teaching").click();
    until(&mut harness, "Which completion is better?");
    assert!(folder.path().join("reviews-30k/model/model.safetensors").is_file());
    let config = std::fs::read_to_string(folder.path().join("reviews-30k/config.toml")).unwrap();
    assert!(config.contains("texts = 100\n"), "{config}");
    assert!(folder.path().join("taught-reviews-30k/labels.jsonl").is_file());
}

#[test]
fn a_frontier_is_found_and_shown_beside_a_session() {
    let folder = tempfile::tempdir().unwrap();
    let estimate = |mean: f64| Estimate { mean, error: Some(0.01) };
    let point = |seed: u64, kl: f64, gold: f64| Point {
        method: Method::Dpo,
        setting: 0.1,
        seed,
        step: 1,
        kl: estimate(kl),
        gold: estimate(gold),
        halves: [[kl, gold]; 2],
        length: 20.0,
    };
    let mut config = FrontierConfig::default();
    config.common.seeds = vec![0, 1];
    config.own.methods = vec![Method::Dpo];
    let points = vec![point(0, 1.0, 0.2), point(0, 3.0, 0.5), point(0, 4.0, 0.3), point(1, 2.0, 0.4)];
    let frontier =
        Frontier { config, start: vec![0.0, 0.1], reward_accuracy: vec![None, None], points, table: Vec::new() };
    std::fs::create_dir(folder.path().join("measured")).unwrap();
    let file = folder.path().join("measured/frontier.json");
    std::fs::write(file, serde_json::to_string(&frontier).unwrap()).unwrap();

    let shelf = look(folder.path(), &Shelf::default());
    let series = &shelf.frontiers[0].series[0];
    assert_eq!(series.dots, [(1.0, 0.2), (3.0, 0.5), (4.0, 0.3), (2.0, 0.4)]);
    // From 2 nats on both seeds have a policy; the best so far counts, not the last.
    let curve: Vec<(f64, f64)> = series.points.iter().map(|point| (point.x, point.y)).collect();
    assert_eq!((curve[0].0, curve.last().unwrap().0), (2.0, 4.25));
    assert!(curve.iter().all(|&(x, y)| (y - if x < 3.0 { 0.3 } else { 0.45 }).abs() < 1e-12), "{curve:?}");
    assert!(Arc::ptr_eq(&look(folder.path(), &shelf).frontiers[0], &shelf.frontiers[0]), "read once");

    let mut harness = window(options(folder.path(), "language"));
    until(&mut harness, "Frontier");
    harness.get_by_label("Frontier").click();
    until(&mut harness, "mean over 2 seeds");
    until(&mut harness, "measured");
}

/// As for agents' runs: what is there and cannot be read is named, and what is another kind of folder is not.
#[test]
fn what_the_shelf_cannot_read_is_shown_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let write = |file: &str, text: &[u8]| {
        std::fs::create_dir_all(at(file).parent().unwrap()).unwrap();
        std::fs::write(at(file), text).unwrap();
    };
    let taught = TeachConfig::new(Path::new("model"), Path::new("reviews")).to_toml();
    write("newer/config.toml", format!("horizon = 7\n{taught}").as_bytes());
    write("newer/labels.jsonl", b"");
    write("tampered/config.toml", taught.as_bytes());
    write("tampered/labels.jsonl", b"{\"seq\":1}\n");
    write("torn/config.toml", &taught.as_bytes()[..taught.len() / 2 + 3]);
    write("stage/config.toml", b"stage = \"pretrain\"\nhorizon = 7\n");
    write("damaged/model/config.json", b"{\"model_type\": ");
    write("measured/frontier.json", b"{}");
    // Whole, but of other kinds.
    write("run/config.toml", b"env = \"pendulum\"\n");
    write("run/labels.jsonl", b"");
    write("whole/config.toml", taught.as_bytes());
    write("whole/labels.jsonl", b"");
    let shelf = look(folder.path(), &Shelf::default());
    let problems: Vec<(String, &str)> = shelf
        .damaged
        .iter()
        .map(|one| (one.path.strip_prefix(folder.path()).unwrap().display().to_string(), one.problem.as_str()))
        .collect();
    for (name, expected) in [
        ("newer", "newer/config.toml: horizon: there is no such value"),
        ("tampered", "tampered/labels.jsonl: line 1: "),
        ("torn", "torn/config.toml: TOML parse error at line"),
        ("stage", "stage/config.toml: horizon: there is no such value"),
        ("damaged", "config.json"),
        ("measured", "measured/frontier.json: missing field"),
    ] {
        assert!(problems.iter().any(|(of, problem)| of == name && problem.contains(expected)), "{name}: {problems:?}");
    }
    assert_eq!(problems.len(), 6, "{problems:?}");
    assert_eq!(shelf.sessions.len(), 2, "one with a bad ledger is still in the list");

    let mut harness = window(options(folder.path(), "language"));
    until(&mut harness, "Cannot be read");
    until(&mut harness, "tampered/labels.jsonl: line 1: ");
    until(&mut harness, "missing field");
}
