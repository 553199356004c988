//! The loop with a simulated rater.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use burn::tensor::Device;

use super::folder::{Session, create, questions};
use super::{Material, Question, TeachConfig, gold_label};
use crate::lm::run::{LmConfig, LmOutcome, PretrainConfig, StageKind, train, weights_sha256};
use crate::preference::ledger::{Answer, Ledger};
use crate::preference::query::Sampler;
use crate::preference::{Event, Label};

static GO: AtomicBool = AtomicBool::new(false);

/// A model of about 30,000 parameters that has read some reviews.
fn small_model(folder: &Path, texts: usize) -> PathBuf {
    let mut config = LmConfig::new(StageKind::Pretrain);
    config.data = vec!["reviews".into()];
    let var = |name: &str, other: f64| std::env::var(name).ok().map_or(other, |v| v.parse().unwrap());
    let sizes = PretrainConfig {
        hidden: var("HIDDEN", 32.0) as usize,
        layers: 2,
        heads: 2,
        context: 96,
        vocabulary: 320,
        texts,
        ..PretrainConfig::default()
    };
    config.pretrain = Some(sizes);
    config.train.batch_size = var("PB", 32.0) as usize;
    config.train.optimizer.learning_rate = var("PLR", 3e-3);
    let path = folder.join("base");
    let outcome = train(&config, &path, &Device::flex(), &GO, &|_| ()).unwrap();
    assert!(matches!(outcome, LmOutcome::Finished(_)));
    path.join("model")
}

fn small_lesson(model: &Path) -> TeachConfig {
    let mut config = TeachConfig::new(model, Path::new("reviews"));
    (config.max_new_tokens, config.answers_per_update, config.held_out) = (24, 4, 8);
    (config.steps_per_update, config.learning_rate, config.checkpoint_every) = (3, 1e-3, 0);
    config
}

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

fn by_gold(session: &Session, question: &Question) -> Label {
    gold_label(&session.material, question).unwrap()
}

fn open(path: &Path) -> (Session, Ledger, Vec<Event>) {
    let folder = crate::run::Folder::open(path).unwrap();
    Session::open(&folder, &Device::flex(), &|_| ()).unwrap()
}

#[test]
#[ignore]
fn tune() {
    let var = |name: &str, other: f64| std::env::var(name).ok().map_or(other, |v| v.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let began = std::time::Instant::now();
    let model = match std::env::var("MODEL") {
        Ok(path) => PathBuf::from(path),
        Err(_) => small_model(folder.path(), var("TEXTS", 4000.0) as usize),
    };
    eprintln!("made in {:?}", began.elapsed());
    for seed in 0..var("SEEDS", 3.0) as u64 {
        let mut config = TeachConfig::new(&model, Path::new("reviews"));
        config.seed = seed;
        if let Ok(gold) = std::env::var("GOLD") {
            config.gold = gold;
        }
        config.answers_per_update = var("K", 8.0) as usize;
        config.learning_rate = var("LR", 1e-4);
        config.loss.beta = var("BETA", 0.1);
        config.steps_per_update = var("STEPS", 8.0) as usize;
        config.held_out = var("HELD", 64.0) as usize;
        config.max_new_tokens = var("TOKENS", 48.0) as usize;
        config.batch_size = var("BATCH", 16.0) as usize;
        let path = folder.path().join(format!("s{seed}"));
        create(&path, &config).unwrap();
        let (mut session, mut ledger, _) = open(&path);
        let began = std::time::Instant::now();
        for u in 0..var("UPDATES", 12.0) as usize {
            teach(&mut session, &mut ledger, &by_gold);
            let r = session.reports.last().unwrap();
            if u % (var("EVERY", 3.0) as usize) == 0 {
                eprintln!(
                    "{seed} u{} gold {:.3}±{:.3} kl {:.2} len {:.1} ahead {:?} loss {:?} acc {:?}",
                    r.updates,
                    r.sampled.gold.unwrap().mean,
                    r.sampled.gold.unwrap().error,
                    r.sampled.kl.mean,
                    r.sampled.length.mean,
                    r.ahead,
                    r.loss,
                    r.accuracy
                );
            }
        }
        let s = session.reports[0].sampled;
        eprintln!("{seed} start {:.3} len {:.1}; {:?}", s.gold.unwrap().mean, s.length.mean, began.elapsed());
    }
}

#[test]
fn a_ledger_replays_to_the_same_bits_from_the_start_and_from_a_checkpoint_with_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let model = small_model(folder.path(), 60);
    let path = folder.path().join("session");
    let mut config = small_lesson(&model);
    (config.sampler, config.candidates) = (Sampler::Entropy, 12);
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
fn what_does_not_fit_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let model = small_model(folder.path(), 60);
    let refused = |change: &dyn Fn(&mut TeachConfig)| {
        let mut config = small_lesson(&model);
        change(&mut config);
        Material::read(&config, &Device::flex()).err().unwrap().to_string()
    };
    let file = folder.path().join("prompts.txt");
    std::fs::write(&file, "\n\n").unwrap();
    let cases: [(&dyn Fn(&mut TeachConfig), &str); 6] = [
        (&|config| config.sampler = Sampler::Disagreement, "sampler = disagreement: needs an ensemble"),
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
    let mut config = small_lesson(&small_model(folder.path(), 60));
    (config.prompts, config.gold) = (file, String::new());
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
    let model = small_model(folder.path(), 60);
    let path = folder.path().join("session");
    create(&path, &small_lesson(&model)).unwrap();
    let (mut session, mut ledger, _) = open(&path);
    teach(&mut session, &mut ledger, &|_, _| Label::First);
    let other = folder.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let changed = small_model(&other, 61);
    std::fs::copy(changed.join("model.safetensors"), model.join("model.safetensors")).unwrap();
    let (mut session, _, events) = open(&path);
    let error = session.catch_up(&events, &GO, &|_, _| ()).unwrap_err().to_string();
    assert!(error.contains("query 0: was answered for other completions"), "{error}");
}
