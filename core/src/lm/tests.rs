//! Training against traces of other programs: `../shared/data/prefs`, made with PyTorch and confirmed with TRL 1.16
//! (EXPECTED.md there), and what can be checked without any.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::{Device, Tensor};
use serde_json::Value;

use super::data::{CandidateRow, Encoded, EncodedPair, ReadConfig, encode_pairs, read_all};
use super::dpo::{Dpo, Reference, log_probs};
use super::folder::{read, with_scores};
use super::kto::Kto;
use super::lora::{Adapters, LoraConfig};
use super::loss::{KtoConfig, LossConfig};
use super::model::{Decoder, Precision};
use super::optim::{Optimizer, OptimizerConfig, OptimizerKind, Schedule};
use super::ppo::PpoConfig;
use super::reward::{RewardLoss, RewardModel, mean_scores, pair_scores, positions, probabilities, scores};
use super::run::{
    DpoConfig, LmConfig, LmOutcome, LmProgress, LmSummary, ModpoRunConfig, ObjectiveConfig, PpoRunConfig,
    PretrainConfig, ReferenceKind, RewardRunConfig, StageKind, member_folder, resume, reward_models, train,
};
use super::sample::SampleConfig;
use super::sft::{Normalization, Sft};
use super::train::{Metrics, Stage, TrainConfig, Trainee, Whole, cut, evaluate, gradients, step, whole};
use crate::fixtures::{json, shared};
use crate::nn::{constant, to_host};
use crate::preference::Likelihood;
use crate::preference::query::{DISAGREEMENT, disagreement};
use crate::random::stream;
use crate::table::find;

pub(super) fn pairs(data: &Path) -> Vec<EncodedPair> {
    let ids = |value: &Value| -> Vec<u32> {
        value.as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
    };
    let text = std::fs::read_to_string(data.join("prefs/pairs.jsonl")).unwrap();
    let pair = |(row, line): (usize, &str)| {
        let value: Value = serde_json::from_str(line).unwrap();
        let prompt = ids(&value["prompt_ids"]);
        let side = |name: &str| Encoded::new(&prompt, &ids(&value[name]));
        EncodedPair { row, chosen: side("chosen_ids"), rejected: side("rejected_ids"), margin: None, target: None }
    };
    text.lines().enumerate().map(pair).collect()
}

pub(super) fn model(data: &Path, name: &str) -> Decoder {
    read(&data.join("hf").join(name), &Device::flex()).unwrap().decoder
}

/// As the traces were made: AdamW without decay, 1e-3, constant, no clipping.
pub(super) fn as_traced() -> TrainConfig {
    let optimizer = OptimizerConfig {
        learning_rate: 1e-3,
        schedule: Schedule::Constant,
        max_gradient_norm: 0.0,
        ..OptimizerConfig::default()
    };
    TrainConfig { optimizer, part_tokens: 300, ..TrainConfig::default() }
}

/// Trains on pairs 0 to 7, 8 to 15, … and compares every named number of every step.
pub(super) fn follow<S: Stage>(
    stage: &S,
    model: Decoder,
    trace: &Value,
    steps: usize,
    names: &[&str],
    tolerance: f64,
) -> Decoder {
    let mut trainee = Trainee { model, optimizer: Optimizer::default(), step: 0 };
    let config = as_traced();
    for (k, expected) in trace["steps"].as_array().unwrap().iter().take(steps).enumerate() {
        let examples: Vec<usize> = (8 * k..8 * k + 8).collect();
        let found = step(&mut trainee, stage, &config, &examples, steps, 0).unwrap();
        for &name in names {
            let (found, expected) = (found.get(name).unwrap(), expected[name].as_f64().unwrap());
            let difference = (found - expected).abs() / expected.abs().max(1.0);
            assert!(difference < tolerance, "step {k}, {name}: {found}, expected {expected}");
        }
    }
    trainee.model
}

/// Losses that were traced in PyTorch: their names there and here, label smoothing, and steps that are followed.
const TRACED: [(&str, &str, f64, usize); 6] = [
    ("sigmoid", "sigmoid", 0.0, 8),
    ("cdpo_eps0.1", "sigmoid", 0.1, 8),
    ("robust_eps0.1", "robust", 0.1, 8),
    ("hinge", "hinge", 0.0, 8),
    ("ipo_avg", "ipo", 0.0, 8),
    // It diverges at this learning rate, and rounding with it.
    ("ipo_sum", "ipo-sum", 0.0, 3),
];

#[test]
#[ignore = "needs ../shared/data/hf and prefs"]
fn eight_steps_of_every_traced_loss_are_those_of_pytorch() {
    let data = shared("");
    let traces = json(data.join("prefs/dpo.json"));
    let llama = model(&data, "llama");
    let pairs = pairs(&data);
    let reference = log_probs(&llama, &pairs, 2000, &|_| ());
    let names = ["loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected"];
    for (name, kind, label_smoothing, steps) in TRACED {
        let loss = LossConfig { kind: find(kind).unwrap(), label_smoothing, ..LossConfig::default() };
        let stage = Dpo { pairs: pairs.clone(), loss, reference: Reference::LogProbs(reference.clone()) };
        let trace = &traces["losses"][name];
        let trained = follow(&stage, llama.clone(), &trace["float64"], steps, &names, 1e-4);
        if steps < 8 {
            continue;
        }
        let after = &trace["float64"]["after"];
        let found = evaluate(&trained, &stage, &(0..64).collect::<Vec<_>>(), 2000);
        let expected = after["loss_mean_all_64"].as_f64().unwrap();
        assert!((found.get("loss").unwrap() - expected).abs() < 1e-4 * expected.abs(), "{name} after: {found:?}");
    }
}

#[test]
#[ignore = "needs ../shared/data/hf and prefs"]
fn losses_of_a_policy_away_from_its_reference_are_those_of_pytorch() {
    let data = shared("");
    let expected = json(data.join("prefs/offset_policy_losses.json"));
    let (policy, reference) = (model(&data, "llama_pertA"), model(&data, "llama"));
    let pairs = pairs(&data);
    let all: Vec<usize> = (0..64).collect();
    for (name, kind, label_smoothing, _) in TRACED {
        let loss = LossConfig { kind: find(kind).unwrap(), label_smoothing, ..LossConfig::default() };
        let stage = Dpo { pairs: pairs.clone(), loss, reference: Reference::Model(Box::new(reference.clone())) };
        let of = &expected["losses"][name];
        for (examples, key) in [(&all[..8], "first_batch_mean"), (&all[..], "all_64_mean")] {
            let found = evaluate(&policy, &stage, examples, 1000).get("loss").unwrap();
            let expected = of[key].as_f64().unwrap();
            assert!((found - expected).abs() < 1e-5 * expected.abs(), "{name} {key}: {found}, expected {expected}");
        }
    }
}

#[test]
#[ignore = "needs ../shared/data/hf and prefs"]
fn eight_steps_of_fine_tuning_are_those_of_pytorch() {
    let data = shared("");
    let trace = json(data.join("prefs/sft.json"));
    let examples = pairs(&data).into_iter().map(|pair| pair.chosen).collect();
    let stage = Sft { examples, normalization: Normalization::TokenMean };
    let llama = model(&data, "llama");
    let _ = follow(&stage, llama.clone(), &trace["float64"], 8, &["loss"], 1e-4);
    let stage = Sft { normalization: Normalization::SequenceSum, ..stage };
    let found = evaluate(&llama, &stage, &(0..8).collect::<Vec<_>>(), 1000).get("loss").unwrap();
    let expected = trace["float64"]["steps"][0]["sequence_sum_loss"].as_f64().unwrap();
    assert!((found - expected).abs() < 1e-5 * expected, "{found}, expected {expected}");
}

#[test]
#[ignore = "needs ../shared/data/hf and prefs"]
fn a_reward_model_gives_the_scores_of_transformers() {
    let data = shared("");
    let expected = json(data.join("prefs/reward_model.json"));
    let numbers = |name: &str| -> Vec<f32> {
        expected[name].as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
    };
    let mut model = with_scores(&model(&data, "llama"), 1, 0);
    let head = model.layout.head;
    model.parameters[head] = constant(&numbers("head"), [1, model.config.hidden], &Device::flex());
    let pairs = pairs(&data);
    let close = |found: &[f32], expected: &[f32]| {
        assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 5e-5), "{found:?}, expected {expected:?}");
    };
    let chosen: Vec<&[u32]> = pairs.iter().map(|pair| pair.chosen.ids.as_slice()).collect();
    close(&scores(&model, &chosen), &numbers("chosen_scores"));
    let stage = RewardModel { pairs, loss: RewardLoss::default() };
    for (count, name) in [(8, "first_batch_loss"), (64, "all_64_loss")] {
        let found = evaluate(&model, &stage, &(0..count).collect::<Vec<_>>(), 700).get("loss").unwrap();
        let expected = expected[name].as_f64().unwrap();
        assert!((found - expected).abs() < 1e-5 * expected, "{name}: {found}, expected {expected}");
    }
}

/// A small model and made-up pairs, for what needs no other program.
pub(super) fn made_up() -> (Decoder, Vec<EncodedPair>) {
    made_up_with(1)
}

/// The same pairs with the model of another seed.
fn made_up_with(seed: u64) -> (Decoder, Vec<EncodedPair>) {
    use super::config::{ModelConfig, SmallLlama};
    use rand::RngExt as _;
    let size = SmallLlama { vocabulary: 40, hidden: 16, layers: 3, heads: 2, context: 64 };
    let model = Decoder::new(ModelConfig::small_llama(size), seed, &Device::flex());
    let mut rng = stream(0, "made-up", 0);
    let mut ids = |len: usize| (0..len).map(|_| rng.random_range(0..40)).collect::<Vec<u32>>();
    let pair = |row: usize| {
        let prompt = ids(4 + row % 3);
        let mut side = |len: usize| Encoded::new(&prompt, &ids(len));
        let (chosen, rejected) = (side(3 + row % 5), side(2 + row % 7));
        EncodedPair { row, chosen, rejected, margin: None, target: None }
    };
    (model, (0..24).map(pair).collect())
}

pub(super) fn trained<S: Stage>(model: &Decoder, stage: &S, config: &TrainConfig) -> Vec<Vec<f32>> {
    let mut trainee = Trainee { model: model.clone(), optimizer: Optimizer::default(), step: 0 };
    for k in 0..3 {
        let examples = config.examples(7, k, stage.len());
        step(&mut trainee, stage, config, &examples, 3, 7).unwrap();
    }
    trainee.model.parameters.into_iter().map(to_host).collect()
}

#[test]
fn neither_threads_nor_parts_nor_checkpointing_change_what_is_learned() {
    let (model, pairs) = made_up();
    let stage = Dpo { pairs, loss: LossConfig::default(), reference: Reference::None };
    let config = TrainConfig { batch_size: 12, part_tokens: 60, ..as_traced() };
    let pool = |threads: usize| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let expected = pool(1).install(|| trained(&model, &stage, &config));
    for threads in [2, 3] {
        assert_eq!(pool(threads).install(|| trained(&model, &stage, &config)), expected, "{threads} threads");
    }
    let checkpointing = TrainConfig { gradient_checkpointing: true, ..config.clone() };
    let whole = TrainConfig { part_tokens: 100_000, ..config };
    for other in [checkpointing, whole] {
        let found = trained(&model, &stage, &other);
        for (found, expected) in found.iter().flatten().zip(expected.iter().flatten()) {
            // Adam's first steps are of one size whatever the gradient, so rounding can show where it is almost zero.
            assert!((found - expected).abs() < 2e-4, "{other:?}: {found}, expected {expected}");
        }
    }
}

/// A stage's configuration on a small model, a few steps long.
fn small_run(stage: StageKind, folder: &Path) -> LmConfig {
    let mut config = LmConfig::new(stage);
    config.train = TrainConfig {
        steps: 6,
        batch_size: 4,
        part_tokens: 90,
        save_every: 2,
        eval_every: 3,
        // Not where checkpoints are: a line may average steps from both sides of one.
        log_every: 4,
        ..config.train
    };
    config.train.optimizer.learning_rate = 1e-3;
    if stage == StageKind::Pretrain {
        config.data = vec!["reviews".into()];
        let sizes =
            PretrainConfig { hidden: 16, layers: 2, heads: 2, vocabulary: 300, texts: 60, ..Default::default() };
        config.pretrain = Some(sizes);
        return config;
    }
    config.model = folder.join("pretrain/model");
    config.data = vec![folder.join("rows.jsonl")];
    config.eval_share = 0.2;
    config.eval_samples = 3;
    config.eval_tokens = 5;
    config.gold = "reviews:sentiment".to_owned();
    config
}

/// Thirty rows that every stage can read.
fn write_rows(folder: &Path) {
    let rows: Vec<String> = (0..30)
        .map(|i| {
            let [one, other] = [i, i + 100].map(|i| super::reviews::review(&mut stream(3, "review", i)).text);
            let (prompt, completion) = super::reviews::prefix(&one, 4);
            let (_, rejected) = super::reviews::prefix(&other, 4);
            serde_json::json!({
                "prompt": prompt, "completion": completion, "chosen": completion, "rejected": rejected, "label": i % 2 == 0,
            })
            .to_string()
        })
        .collect();
    std::fs::write(folder.join("rows.jsonl"), rows.join("\n")).unwrap();
}

/// MODPO on the rows of the folder, with another objective as margin.
fn modpo(folder: &Path, weights: [f64; 2], reward: &str) -> LmConfig {
    let objective = |name: &str, weight, reward: &str| ObjectiveConfig {
        name: name.to_owned(),
        weight,
        data: Vec::new(),
        reward: reward.to_owned(),
        beta: 0.1,
        reference: PathBuf::new(),
    };
    let objectives = vec![objective("rows", weights[0], ""), objective("other", weights[1], reward)];
    let own = ModpoRunConfig { carrier: "rows".to_owned(), samples: 12, objectives, ..ModpoRunConfig::default() };
    LmConfig { modpo: Some(own), ..small_run(StageKind::Modpo, folder) }
}

fn finished(outcome: LmOutcome) -> LmSummary {
    match outcome {
        LmOutcome::Finished(summary) => *summary,
        LmOutcome::Interrupted { step } => panic!("interrupted after step {step}"),
    }
}

#[test]
fn an_interrupted_run_ends_as_an_unbroken_one_to_the_bit_in_every_stage() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let device = Device::flex();
    write_rows(folder);
    let mut cases: Vec<(&str, LmConfig)> = [
        ("pretrain", StageKind::Pretrain),
        ("sft", StageKind::Sft),
        ("reward", StageKind::Reward),
        ("dpo", StageKind::Dpo),
        ("kto", StageKind::Kto),
    ]
    .map(|(name, stage)| (name, small_run(stage, folder)))
    .to_vec();
    let mut adapted = small_run(StageKind::Dpo, folder);
    adapted.lora = Some(LoraConfig { rank: 2, dropout: 0.2, ..LoraConfig::default() });
    adapted.train.optimizer.kind = OptimizerKind::Adafactor;
    adapted.dpo = Some(DpoConfig { reference: ReferenceKind::Model, ..DpoConfig::default() });
    cases.push(("adapted", adapted));
    cases.push(("modpo", modpo(folder, [0.6, 0.4], "length")));
    let mut ppo = small_run(StageKind::Ppo, folder);
    let sampling = SampleConfig { max_new_tokens: 6, ..SampleConfig::default() };
    let algorithm =
        PpoConfig { iterations: 6, batch_size: 4, minibatch_size: 2, epochs: 2, sampling, ..PpoConfig::default() };
    ppo.ppo = Some(PpoRunConfig { algorithm, ..PpoRunConfig::default() });
    cases.push(("ppo", ppo));
    for (name, config) in cases {
        let never = AtomicBool::new(false);
        let unbroken = finished(train(&config, &folder.join(name), &device, &never, &|_| ()).unwrap());
        assert!(unbroken.steps == 6 && unbroken.model.join("tokenizer.json").exists());
        // Asked to stop after step 3: a checkpoint, and the rest later.
        let path = folder.join(format!("{name}-broken"));
        let stop = AtomicBool::new(false);
        let outcome = train(&config, &path, &device, &stop, &|shown| {
            if matches!(shown, LmProgress::Step(3, ..)) {
                stop.store(true, Ordering::Relaxed);
            }
        });
        assert_eq!(outcome.unwrap(), LmOutcome::Interrupted { step: 3 }, "{name}");
        // What comes after a checkpoint is lost in a kill and computed again.
        let newest = path.join("checkpoints/step-00000003.safetensors");
        std::fs::write(&newest, &std::fs::read(&newest).unwrap()[..50]).unwrap();
        let resumed = finished(resume(&path, &[], &device, &never, &|_| ()).unwrap());
        assert_eq!(resumed.weights_sha256, unbroken.weights_sha256, "{name}");
        assert_eq!((resumed.eval, resumed.sampled), (unbroken.eval, unbroken.sampled), "{name}");
        let metrics = |path: &Path| std::fs::read_to_string(path.join("metrics.jsonl")).unwrap();
        assert_eq!(metrics(&path), metrics(&folder.join(name)), "{name}");
    }
}

/// Members are trained one after another, so the third step of the second is the ninth of all.
type Change<'a> = &'a dyn Fn(&mut ModpoRunConfig);

#[test]
fn modpo_ends_in_dpo_and_in_the_margins_policy_and_computes_what_weights_share_once() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let device = Device::flex();
    write_rows(folder);
    let notes = std::sync::Mutex::new(Vec::new());
    let run = |name: &str, config: &LmConfig| {
        let show = |shown: LmProgress<'_>| {
            if let LmProgress::Note(note) = shown {
                notes.lock().unwrap().push(note.to_owned());
            }
        };
        finished(train(config, &folder.join(name), &device, &AtomicBool::new(false), &show).unwrap())
    };
    let _ = run("pretrain", &small_run(StageKind::Pretrain, folder));
    let dpo = run("dpo", &small_run(StageKind::Dpo, folder));
    let other = format!("implicit:{}", dpo.model.display());
    // All the weight on the preferences: DPO, and the other reward is not asked for.
    let all = run("all", &modpo(folder, [1.0, 0.0], "implicit:nowhere"));
    assert_eq!(all.weights_sha256, dpo.weights_sha256);
    // None: the other objective's own policy.
    let none = run("none", &modpo(folder, [0.0, 1.0], &other));
    assert_eq!((none.weights_sha256, none.steps), (dpo.weights_sha256.clone(), 0));
    // Between: rewards and reference are asked for once.
    let half = run("half", &modpo(folder, [0.5, 0.5], &other));
    assert!(half.weights_sha256 != dpo.weights_sha256 && half.eval.contains_key("eval_loss"));
    let kept = |folder: &Path| std::fs::read_dir(folder.join("cache")).unwrap().count();
    assert_eq!(kept(folder), 2, "the reference's log-probabilities, and one reward");
    notes.lock().unwrap().clear();
    let _ = run("less", &modpo(folder, [0.3, 0.7], &other));
    assert!(notes.lock().unwrap().iter().any(|note| note.contains("rewards as kept in")), "{notes:?}");
    assert_eq!(kept(folder), 2);
    // What is kept is of no use to another reward.
    let long = run("long", &modpo(folder, [0.3, 0.7], "length"));
    assert_eq!(kept(folder), 3);
    // The carrier's own reward is the unit of the others: with the same one for both, margins are as they were.
    let mut same = modpo(folder, [0.3, 0.7], "length");
    same.modpo.as_mut().unwrap().objectives[0].reward = "length".to_owned();
    let mut raw = modpo(folder, [0.3, 0.7], "length");
    raw.modpo.as_mut().unwrap().standardize = false;
    let loss = |summary: &LmSummary| summary.eval["eval_loss"].as_f64().unwrap();
    let [same, raw, long] = [loss(&run("same", &same)), loss(&run("raw", &raw)), loss(&long)];
    assert!((same - raw).abs() < 1e-6 * raw.abs() && (same - long).abs() > 1e-3 * long.abs(), "{same}, {raw}, {long}");

    let error = |config: &LmConfig| {
        let path = folder.join("refused");
        let error = train(config, &path, &device, &AtomicBool::new(false), &|_| ()).unwrap_err().to_string();
        assert!(!path.exists(), "{error}");
        error
    };
    let with = |change: Change<'_>| {
        let mut config = modpo(folder, [0.5, 0.5], "reviews:politeness");
        change(config.modpo.as_mut().unwrap());
        error(&config)
    };
    let cases: [(Change<'_>, &str); 10] = [
        (
            &|own| own.objectives[1].weight = 0.6,
            "modpo.objectives: the weights sum to 1.1: must sum to 1 (divide all of them, and beta, by it)",
        ),
        (&|own| own.objectives[1].weight = -0.5, "modpo.objectives.other: weight = -0.5: must be at least 0"),
        (
            &|own| own.objectives[1].reward.clear(),
            "modpo.objectives.other: has a weight, but no reward to make a margin of",
        ),
        (&|own| own.carrier = "third".to_owned(), "modpo.carrier = \"third\": there are the objectives rows, other"),
        (&|own| own.objectives.truncate(1), "modpo.objectives: must be two or more"),
        (&|own| own.beta = 0.0, "modpo.beta = 0: must be between 1e-9 and 1e6"),
        (
            &|own| own.objectives[1].name = "rows".to_owned(),
            "modpo.objectives: the name 'rows' is empty or there twice",
        ),
        (
            &|own| own.objectives[1].reward = "regex:zzzz".to_owned(),
            "have the same reward, so it cannot be standardized",
        ),
        (&|own| own.objectives[1].reward = "kindness".to_owned(), "gold reward 'kindness'"),
        (&|own| own.objectives[1].reward = "implicit:nowhere".to_owned(), "nowhere: there is no such folder"),
    ];
    for (change, expected) in cases {
        let found = with(change);
        assert!(found.contains(expected), "{found}, expected {expected}");
    }
    // As many tokens, but two of them are each other's.
    let foreign = folder.join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    for entry in std::fs::read_dir(&dpo.model).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), foreign.join(entry.file_name())).unwrap();
    }
    let mut own = json(foreign.join("tokenizer.json"));
    let vocabulary = own["model"]["vocab"].as_object_mut().unwrap();
    let [a, b] = ["a", "b"].map(|token| vocabulary[token].clone());
    vocabulary.insert("a".to_owned(), b);
    vocabulary.insert("b".to_owned(), a);
    std::fs::write(foreign.join("tokenizer.json"), own.to_string()).unwrap();
    for weights in [[0.5, 0.5], [0.0, 1.0]] {
        let found = error(&modpo(folder, weights, &format!("implicit:{}", foreign.display())));
        assert!(found.contains("foreign: has another tokenizer than the model to begin with"), "{found}");
    }
    let found = error(&modpo(folder, [0.0, 1.0], "reviews:politeness"));
    assert!(found.contains("has weight 0, so the result would be the policy"), "{found}");
}

#[test]
fn an_ensemble_goes_on_where_it_was_stopped_and_its_members_can_be_trained_alone() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (device, never) = (Device::flex(), AtomicBool::new(false));
    write_rows(folder);
    let base = small_run(StageKind::Pretrain, folder);
    let _ = finished(train(&base, &folder.join("pretrain"), &device, &never, &|_| ()).unwrap());
    let mut config = small_run(StageKind::Reward, folder);
    config.reward = Some(RewardRunConfig { members: 2, ..RewardRunConfig::default() });
    let unbroken = finished(train(&config, &folder.join("unbroken"), &device, &never, &|_| ()).unwrap());
    let path = folder.join("broken");
    let stop = AtomicBool::new(false);
    let outcome = train(&config, &path, &device, &stop, &|shown| {
        if matches!(shown, LmProgress::Step(9, 12, ..)) {
            stop.store(true, Ordering::Relaxed);
        }
    });
    assert_eq!(outcome.unwrap(), LmOutcome::Interrupted { step: 9 });
    let error = reward_models::read(&path, &device).unwrap_err().to_string();
    assert!(error.contains("is not finished; go on with: pairwise lm resume"), "{error}");
    let newest = path.join("member-1/checkpoints/step-00000003.safetensors");
    std::fs::write(&newest, &std::fs::read(&newest).unwrap()[..50]).unwrap();
    let resumed = finished(resume(&path, &[], &device, &never, &|_| ()).unwrap());
    assert_eq!((&resumed.weights_sha256, &resumed.eval), (&unbroken.weights_sha256, &unbroken.eval));
    assert_eq!((resumed.steps, resumed.tokens), (12, unbroken.tokens));

    let member = |run: &str, member: usize| member_folder(&folder.join(run), member);
    let metrics = |path: &Path| std::fs::read_to_string(path.join("metrics.jsonl")).unwrap();
    let weights = |path: &Path| LmSummary::load(path).unwrap().unwrap().weights_sha256;
    for i in 0..2 {
        assert_eq!(metrics(&member("broken", i)), metrics(&member("unbroken", i)), "member {i}");
    }
    assert_ne!(weights(&member("broken", 0)), weights(&member("broken", 1)));
    config.reward = Some(RewardRunConfig { member: Some(1), ..config.reward.unwrap() });
    let alone = finished(train(&config, &folder.join("alone"), &device, &never, &|_| ()).unwrap());
    assert_eq!(alone.weights_sha256, weights(&member("broken", 1)));

    // The ensemble's figures belong to the mean of its members, on rows that no member saw.
    let models = reward_models::read(&path, &device).unwrap();
    let row = r#"{"prompt": "I bought", "completions": [" a good one.", " a bad one.", " one."]}"#;
    std::fs::write(folder.join("candidates.jsonl"), row).unwrap();
    let (rows, _) = read_all::<CandidateRow>(&[folder.join("candidates.jsonl")], &ReadConfig::default()).unwrap();
    let conventions = config.conventions.within(256);
    let (pairs, _) = encode_pairs(&rows[0].candidates, &models.tokenizer, None, &conventions).unwrap();
    let all = probabilities(&models.members, &pairs, &models.likelihood, 1000);
    let expected = disagreement(&all, 2);
    let chosen = reward_models::choose(&models, &pairs, &[], &DISAGREEMENT, 2, 1000, &mut stream(0, "query", 0));
    let most = expected.iter().copied().fold(0.0, f64::max);
    assert!(chosen.len() == 2 && chosen[0].disagreement == most && most > 0.0, "{chosen:?}");
    assert_eq!(chosen[1].disagreement, expected[chosen[1].candidate]);
    assert_eq!(chosen[0].probabilities, [all[chosen[0].candidate], all[3 + chosen[0].candidate]]);
    for name in ["eval_accuracy", "eval_accuracy_low", "eval_disagreement", "eval_accuracy/member-1"] {
        assert!(resumed.eval[name].as_f64().is_some_and(|value| (0.0..=1.0).contains(&value)), "{name}");
    }
}

#[test]
fn members_disagree_as_their_heads_do_and_where_the_data_say_nothing() {
    let (model, pairs) = made_up();
    let likelihood = RewardLoss::default().likelihood;
    let scorer = with_scores(&model, 1, 4);
    let mut opposite = scorer.clone();
    let head = scorer.layout.head;
    opposite.parameters[head] = -opposite.parameters[head].clone();
    // A member with the opposite head gives the opposite answer: the variance is (p - ½)².
    let members = [scorer.clone(), opposite];
    let all = probabilities(&members, &pairs, &likelihood, 60);
    let (first, second) = all.split_at(pairs.len());
    let found = disagreement(&all, 2);
    for (i, p) in first.iter().enumerate() {
        assert!((second[i] - (1.0 - p)).abs() < 1e-6 && (found[i] - (p - 0.5).powi(2)).abs() < 1e-6, "{i}: {p}");
    }
    assert!(found.iter().any(|&variance| variance > 1e-6));
    let mut one = pairs[0].chosen.ids.clone();
    one.truncate(9);
    let [own, mean] = [&members[..1], &members].map(|members| mean_scores(members, &[&one])[0]);
    assert!(own != 0.0 && mean.abs() < 1e-6, "{own} {mean}");

    // A place has the score's difference along the head, and stays when the sides are swapped.
    let swap = |pair: &EncodedPair| EncodedPair {
        chosen: pair.rejected.clone(),
        rejected: pair.chosen.clone(),
        ..pair.clone()
    };
    let swapped: Vec<EncodedPair> = pairs.iter().map(swap).collect();
    let [places, of_swapped] = [&pairs, &swapped].map(|pairs| positions(&members[..1], pairs, 60));
    let weights = to_host(scorer.parameters[head].clone());
    for ((place, other), [chosen, rejected]) in places.iter().zip(&of_swapped).zip(pair_scores(&scorer, &pairs, 1000)) {
        let along: f64 = place.iter().zip(&weights).map(|(x, w)| f64::from(x * w)).sum();
        assert!((along - (chosen - rejected).abs()).abs() < 1e-5, "{along} {chosen} {rejected}");
        assert!(place.iter().zip(other).all(|(a, b)| (a - b).abs() < 1e-5));
    }

    // Three members that saw the first half of the pairs disagree about the other half.
    let (seen, unseen) = pairs.split_at(12);
    let fit = |member: u64| {
        let stage = RewardModel { pairs: seen.to_vec(), loss: RewardLoss::default() };
        let mut config = TrainConfig { batch_size: 4, ..as_traced() };
        config.optimizer.learning_rate = 5e-3;
        let model = with_scores(&model, 1, member);
        let mut trainee = Trainee { model, optimizer: Optimizer::default(), step: 0 };
        for k in 0..60 {
            let examples = config.examples(member, k, seen.len());
            step(&mut trainee, &stage, &config, &examples, 60, member).unwrap();
        }
        trainee.model
    };
    let members: Vec<Decoder> = (0..3).map(fit).collect();
    let mean = |pairs: &[EncodedPair]| {
        let all = disagreement(&probabilities(&members, pairs, &likelihood, 1000), 3);
        all.iter().sum::<f64>() / all.len() as f64
    };
    let (known, unknown) = (mean(seen), mean(unseen));
    assert!(unknown > 5.0 * known && unknown > 0.02, "seen {known}, unseen {unknown}");
}

#[test]
fn packed_examples_are_full() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = small_run(StageKind::Pretrain, folder.path());
    let packing = PretrainConfig { packing: true, context: 32, ..config.pretrain.unwrap() };
    config.pretrain = Some(packing);
    let never = AtomicBool::new(false);
    let run = finished(train(&config, &folder.path().join("run"), &Device::flex(), &never, &|_| ()).unwrap());
    assert_eq!(run.tokens, 6 * 4 * 32, "six steps of four blocks of the model's context");
}

#[test]
fn what_cannot_be_trained_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let device = Device::flex();
    let never = AtomicBool::new(false);
    let base = finished(
        train(&small_run(StageKind::Pretrain, folder), &folder.join("pretrain"), &device, &never, &|_| ()).unwrap(),
    );
    let rows = folder.join("rows.jsonl");
    let good = r#"{"prompt": "I bought", "chosen": " a good one.", "rejected": " a bad one."}"#;
    let error = |change: &dyn Fn(&mut LmConfig), text: &str| {
        std::fs::write(&rows, text).unwrap();
        let mut config = small_run(StageKind::Dpo, folder);
        change(&mut config);
        let path = folder.join("run");
        let error = train(&config, &path, &device, &never, &|_| ()).unwrap_err().to_string();
        assert!(!path.exists(), "a run that could not begin leaves no folder");
        error
    };
    let plain: &dyn Fn(&mut LmConfig) = &|_| ();
    assert!(error(plain, "").contains("rows.jsonl: has no good row"), "{}", error(plain, ""));
    let found = error(plain, &format!("{good}\n{{\"prompt\": \"x\", \"chosen\": \" y\"}}\n"));
    assert!(found.contains("rows.jsonl: line 2") && found.contains("rejected"), "{found}");
    let equal = good.replace(" a bad one.", " a good one.");
    assert!(error(plain, &equal).contains("line 1"), "{}", error(plain, &equal));
    let beta: &dyn Fn(&mut LmConfig) = &|config| {
        config.dpo =
            Some(DpoConfig { loss: LossConfig { beta: 0.0, ..LossConfig::default() }, ..DpoConfig::default() });
    };
    assert!(error(beta, good).contains("dpo.loss.beta = 0: must be between 1e-9 and 1e6"), "{}", error(beta, good));
    let none: &dyn Fn(&mut LmConfig) =
        &|config| config.dpo = Some(DpoConfig { reference: ReferenceKind::None, ..DpoConfig::default() });
    assert!(error(none, good).contains("dpo.reference = none"), "{}", error(none, good));
    let missing: &dyn Fn(&mut LmConfig) = &|config| config.model = folder.join("nowhere");
    assert!(error(missing, good).contains("nowhere: there is no such folder"), "{}", error(missing, good));
    let long: &dyn Fn(&mut LmConfig) = &|config| config.conventions.max_length = 3;
    assert!(error(long, good).contains("all are too long"), "{}", error(long, good));
    // A tokenizer of another model.
    let other = super::tokenizer::TokenizerConfig { vocab_size: 400, ..Default::default() };
    let texts = (0..50).map(|i| super::reviews::review(&mut stream(1, "review", i)).text);
    super::tokenizer::Tokenizer::train(texts, &other).unwrap().save(&base.model).unwrap();
    let found = error(plain, good);
    assert!(found.contains("belongs to another model"), "{found}");
}

/// The gradient along itself is the slope of the loss that is reported.
fn assert_gradient<S: Stage>(name: &str, model: &Decoder, stage: &S) {
    let examples: Vec<usize> = (0..stage.len()).collect();
    let batch = whole(model, stage, &examples, 1000);
    let (found, _) = gradients(model, stage, &examples, batch, false, &mut stream(0, "none", 0));
    let directions: Vec<Vec<f32>> = found.iter().map(|g| g.clone().map_or_else(Vec::new, to_host)).collect();
    let norm = directions.iter().flatten().map(|g| f64::from(g * g)).sum::<f64>().sqrt();
    let loss = |h: f64| {
        let mut moved = model.clone();
        for (tensor, gradient) in moved.trained_mut().into_iter().zip(&found) {
            if let Some(gradient) = gradient {
                *tensor = tensor.clone() + gradient.clone() * (h / norm);
            }
        }
        let (rows, packed) = stage.pack(&examples);
        // z0 of KTO takes no gradient: it stays what it was.
        stage.loss(&moved, moved.hidden(&rows, None), &packed, batch).metrics.get("loss").unwrap()
    };
    let h = 2e-3;
    let expected = (loss(h) - loss(-h)) / (2.0 * h);
    assert!((norm - expected).abs() < 0.01 * expected, "{name}: {norm}, expected {expected}");
}

#[test]
fn every_stage_goes_down_the_slope_of_its_loss() {
    let (model, pairs) = made_up();
    let chosen: Vec<Encoded> = pairs.iter().map(|pair| pair.chosen.clone()).collect();
    for normalization in [Normalization::TokenMean, Normalization::SequenceSum] {
        assert_gradient("sft", &model, &Sft { examples: chosen.clone(), normalization });
    }
    let scorer = with_scores(&model, 1, 4);
    let likelihood = Likelihood { temperature: 0.7, error_rate: 0.1, margin: 0.2, tie: 0.0 };
    let mut soft = pairs.clone();
    soft[0].target = Some(0.5);
    soft[1].margin = Some(1.0);
    let stage = RewardModel { pairs: soft.clone(), loss: RewardLoss { likelihood, centering: 0.5 } };
    assert_gradient("reward", &scorer, &stage);
    let loss = LossConfig { kind: find("nca").unwrap(), ..LossConfig::default() };
    assert_gradient("dpo", &model, &Dpo { pairs: soft, loss, reference: Reference::None });
    let (other, _) = made_up_with(2);
    let labelled: Vec<(Encoded, bool)> = chosen.iter().cloned().zip([true, false].into_iter().cycle()).collect();
    let stage = Kto::new(labelled, KtoConfig::default(), &other, 1000, &|_| ());
    assert_gradient("kto", &model, &stage);

    // z0: every prompt with the completion after it.
    let mismatched: Vec<Encoded> = (0..chosen.len())
        .map(|i| {
            let (own, next) = (&chosen[i], &chosen[(i + 1) % chosen.len()]);
            let mut ids = [own.prompt(), next.completion()].concat();
            ids.truncate(own.ids.len().max(next.ids.len()));
            Encoded { ids, prompt_len: own.prompt_len }
        })
        .collect();
    let [policy, reference] = [&model, &other].map(|model| super::score::log_probs(model, &mismatched, 1000, &|_| ()));
    let ratios: Vec<f64> = policy.iter().zip(&reference).map(|(policy, reference)| policy - reference).collect();
    let expected = KtoConfig::baseline(&ratios);
    let found = stage.baseline(&model, &(0..chosen.len()).collect::<Vec<_>>(), 1000);
    assert!((found - expected).abs() < 1e-5, "{found}, expected {expected}");
    // The estimate is cut off at zero; seen from the other side it is not.
    let swapped = Kto::new(stage.examples.clone(), KtoConfig::default(), &model, 1000, &|_| ());
    let found = swapped.baseline(&other, &(0..chosen.len()).collect::<Vec<_>>(), 1000);
    let opposite: Vec<f64> = ratios.iter().map(|ratio| -ratio).collect();
    assert!((found - KtoConfig::baseline(&opposite)).abs() < 1e-5 && found + expected > 0.0);
}

type Found = (Vec<Option<Tensor<2>>>, Metrics);

/// All comparisons of four completions: computed once they teach what they teach one by one.
#[test]
fn a_completion_in_several_comparisons_is_computed_once() {
    let (model, made_up) = made_up();
    let prompt = made_up[0].chosen.prompt();
    let side = |i: usize| Encoded::new(prompt, made_up[i].chosen.completion());
    let mut pairs = Vec::new();
    for (i, j) in [(0, 1), (2, 0), (0, 3), (1, 2), (3, 1), (2, 3)] {
        pairs.push(EncodedPair { row: 0, chosen: side(i), rejected: side(j), margin: None, target: Some(0.9) });
        // Another prompt between them takes nothing from them.
        pairs.push(made_up[10 + i].clone());
    }
    let lengths = [0, 1, 2, 3].map(|i| made_up[i].chosen.completion().len()).iter().sum::<usize>();
    let alone: usize =
        made_up[10..14].iter().map(|pair| pair.chosen.ids.len() + pair.rejected.completion().len()).sum();
    let packed = super::pairs::pack(pairs.iter());
    assert_eq!(packed.targets.examples.len(), 4 + 2 * 4);
    assert!(packed.batch.ids.len() <= prompt.len() + lengths + alone, "{}", packed.batch.ids.len());

    let (other, _) = made_up_with(2);
    let reference = log_probs(&other, &pairs, 1, &|_| ());
    let together = log_probs(&other, &pairs, 10_000, &|_| ());
    for (one, all) in reference.as_flattened().iter().zip(together.as_flattened()) {
        assert!((one - all).abs() < 1e-4, "{all}, expected {one}");
    }
    let all: Vec<usize> = (0..pairs.len()).collect();
    let same = |name: &str, model: &Decoder, stage: &dyn Fn(&[usize], Whole) -> Found| {
        let whole = Whole { weight: all.len() as f64, baseline: 0.0 };
        let (found, metrics) = stage(&all, whole);
        let mut expected = vec![0.0; model.parameters.iter().map(|tensor| tensor.shape().num_elements()).sum()];
        let mut of_parts = Metrics::default();
        for pair in &all {
            let (gradients, metrics) = stage(&[*pair], whole);
            of_parts += &metrics;
            let gradients = gradients.into_iter().flat_map(|gradient| to_host(gradient.unwrap()));
            expected.iter_mut().zip(gradients).for_each(|(sum, gradient)| *sum += gradient);
        }
        let found: Vec<f32> = found.into_iter().flat_map(|gradient| to_host(gradient.unwrap())).collect();
        assert_eq!(found.len(), expected.len());
        let largest = expected.iter().fold(0.0, |largest: f32, gradient| largest.max(gradient.abs()));
        for (found, expected) in found.iter().zip(&expected) {
            assert!((found - expected).abs() < 1e-4 * largest, "{name}: {found}, expected {expected}");
        }
        let [found, expected] = [&metrics, &of_parts].map(|metrics| metrics.get("loss").unwrap());
        assert!((found - expected).abs() < 1e-5 * expected, "{name}: {found}, expected {expected}");
    };
    for reference in [Reference::LogProbs(reference), Reference::Model(Box::new(other))] {
        let dpo = Dpo { pairs: pairs.clone(), loss: LossConfig::default(), reference };
        same("dpo", &model, &|pairs, whole| gradients(&model, &dpo, pairs, whole, false, &mut stream(0, "none", 0)));
    }
    let (scorer, reward) = (with_scores(&model, 1, 4), RewardModel { pairs, loss: RewardLoss::default() });
    same("reward", &scorer, &|pairs, whole| {
        gradients(&scorer, &reward, pairs, whole, false, &mut stream(0, "none", 0))
    });
}

#[test]
fn parts_of_a_batch_are_of_about_the_same_size() {
    let lengths = |i: usize| 20 + (i * 37) % 60;
    let all: Vec<usize> = (0..64).collect();
    let total: usize = all.iter().map(|&i| lengths(i)).sum();
    for tokens in [100, 300, 1000, 2000, 10_000] {
        let parts = cut(lengths, &all, tokens);
        assert_eq!(parts.concat(), all);
        assert!(parts.len() <= 2 || parts.len().is_multiple_of(4), "{tokens}: {} parts", parts.len());
        assert!(parts.len() >= total.div_ceil(tokens));
        for part in &parts {
            let size: usize = part.iter().map(|&i| lengths(i)).sum();
            // Half an example at either end.
            assert!(size.abs_diff(total / parts.len()) <= 80, "{tokens}: {size} of {total} in {}", parts.len());
        }
    }
    // Examples that are longer than a part, and none at all.
    assert_eq!(cut(|_| 50, &[3, 1, 2], 10), [vec![3], vec![1], vec![2]]);
    assert!(cut(|_| 50, &[], 10).is_empty());
}

#[test]
fn every_epoch_has_each_example_once_in_an_order_of_its_own() {
    let config = TrainConfig { batch_size: 5, ..TrainConfig::default() };
    let all: Vec<usize> = (0..8).flat_map(|step| config.examples(3, step, 20)).collect();
    let sorted = |epoch: &[usize]| {
        let mut sorted = epoch.to_vec();
        sorted.sort_unstable();
        sorted
    };
    let every: Vec<usize> = (0..20).collect();
    assert_eq!((sorted(&all[..20]), sorted(&all[20..])), (every.clone(), every.clone()));
    assert!(all[..20] != every && all[20..] != every && all[..20] != all[20..]);
}

/// bf16 has 8 bits: what it gives is close to f32, and is not f32.
#[test]
fn bf16_is_f32_with_fewer_bits() {
    let (model, pairs) = made_up();
    let adapters = Adapters::new(LoraConfig::default(), &model.layout, 0, &Device::flex()).unwrap();
    let mut with_adapters = Decoder { adapters: Some(adapters), ..model.clone() };
    // B begins at zero, which would hide A.
    for tensor in with_adapters.trained_mut() {
        *tensor = tensor.clone() + 0.02;
    }
    let chosen: Vec<Encoded> = pairs.iter().map(|pair| pair.chosen.clone()).collect();
    let stage = Sft { examples: chosen.clone(), normalization: Normalization::TokenMean };
    let examples: Vec<usize> = (0..chosen.len()).collect();
    for model in [model, with_adapters] {
        let short = Decoder { precision: Precision::Bf16, ..model.clone() };
        let [long_log_probs, short_log_probs] =
            [&model, &short].map(|model| super::score::token_log_probs(model, &chosen, 1000, &|_| ()).concat());
        let off = long_log_probs.iter().zip(&short_log_probs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(off > 1e-5 && off < 0.05, "{off}");
        let [long, short] = [&model, &short].map(|model| {
            let batch = whole(model, &stage, &examples, 1000);
            let (found, _) = gradients(model, &stage, &examples, batch, false, &mut stream(0, "none", 0));
            let values = found.into_iter().map(|gradient| gradient.map_or_else(Vec::new, to_host));
            values.flatten().map(f64::from).collect::<Vec<f64>>()
        });
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let cosine = dot(&long, &short) / (dot(&long, &long) * dot(&short, &short)).sqrt();
        assert!(cosine > 0.995, "{cosine}");
    }
}

/// Issue 28, B1: in every trainer a number that is not finite is named with its step, and nothing of it is kept.
#[test]
fn a_step_that_comes_to_no_number_is_an_error_that_names_it() {
    let (model, pairs) = made_up();
    let texts: Vec<Encoded> = pairs.iter().map(|pair| pair.chosen.clone()).collect();
    let labelled: Vec<(Encoded, bool)> =
        pairs.iter().enumerate().map(|(i, pair)| (pair.chosen.clone(), i % 2 == 0)).collect();
    let reference = || Reference::LogProbs(log_probs(&model, &pairs, 500, &|_| ()));
    let sft = Sft { examples: texts, normalization: Normalization::TokenMean };
    let reward = RewardModel { pairs: pairs.clone(), loss: RewardLoss::default() };
    let dpo = Dpo { pairs: pairs.clone(), loss: LossConfig::default(), reference: reference() };
    let kto = Kto::new(labelled, KtoConfig::default(), &model, 500, &|_| ());
    let modpo = super::modpo::Modpo {
        margins: vec![0.1; pairs.len()],
        pairs: pairs.clone(),
        reference: reference(),
        loss: super::modpo::ModpoLoss { weight: 0.5, ..Default::default() },
    };
    fn failed<S: Stage>(model: &Decoder, stage: &S, wrong: f32) -> crate::finite::NotFinite {
        let mut trainee = Trainee { model: model.clone(), optimizer: Optimizer::default(), step: 0 };
        let all: Vec<usize> = (0..stage.len()).collect();
        let fine = step(&mut trainee, stage, &as_traced(), &all, 4, 0).unwrap();
        assert!(fine.means().all(|(_, mean)| mean.is_finite()));
        let norm = trainee.model.layout.final_norm.weight;
        let tensor = &mut trainee.model.parameters[norm];
        let mut values = to_host(tensor.clone());
        values[3] = wrong;
        *tensor = constant(&values, tensor.dims(), &Device::flex());
        step(&mut trainee, stage, &as_traced(), &all, 4, 0).unwrap_err()
    }
    let scorer = with_scores(&model, 1, 3);
    for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for (name, error) in [
            ("sft", failed(&model, &sft, wrong)),
            ("reward", failed(&scorer, &reward, wrong)),
            ("dpo", failed(&model, &dpo, wrong)),
            ("kto", failed(&model, &kto, wrong)),
            ("modpo", failed(&model, &modpo, wrong)),
        ] {
            assert_eq!(error.at, "step 2", "{name}");
            assert!(error.what.starts_with("the loss") || error.what.starts_with("the norm"), "{name}: {error}");
        }
    }
}

/// Issue 28, B3: a tie counted as an answer that was not right.
#[test]
fn what_is_measured_of_ties_alone_is_absent() {
    let (model, pairs) = made_up();
    let tie = |pair: &EncodedPair| EncodedPair { target: Some(0.5), ..pair.clone() };
    let ties: Vec<EncodedPair> = pairs.iter().map(tie).collect();
    let scorer = with_scores(&model, 1, 3);
    let all: Vec<usize> = (0..pairs.len()).collect();
    let of = |pairs: &[EncodedPair]| {
        let stage = RewardModel { pairs: pairs.to_vec(), loss: RewardLoss::default() };
        evaluate(&scorer, &stage, &all, 500)
    };
    let (decided, tied) = (of(&pairs), of(&ties));
    assert!(decided.get("accuracy").is_some());
    assert_eq!((tied.get("accuracy"), tied.get("loss").is_some()), (None, true));
    let (count, interval, _) = tied.calibration().unwrap();
    assert_eq!((count, interval), (0, None));
    // Half of them tie: the others alone count.
    let mixed: Vec<EncodedPair> = pairs.iter().zip(&ties).flat_map(|(pair, tie)| [pair.clone(), tie.clone()]).collect();
    let stage = RewardModel { pairs: mixed, loss: RewardLoss::default() };
    let both = evaluate(&scorer, &stage, &(0..2 * pairs.len()).collect::<Vec<_>>(), 500);
    assert_eq!(both.get("accuracy"), decided.get("accuracy"));
    // Where the second is likelier preferred, it is right to score it higher.
    let likelier = |target: f64| {
        of(&pairs.iter().map(|pair| EncodedPair { target: Some(target), ..pair.clone() }).collect::<Vec<_>>())
    };
    let (first, second) = (likelier(0.8).get("accuracy").unwrap(), likelier(0.2).get("accuracy").unwrap());
    assert!((first + second - 1.0).abs() < 1e-12 && (first - decided.get("accuracy").unwrap()).abs() < 1e-12);
    let dpo = Dpo { pairs: ties, loss: LossConfig::default(), reference: Reference::None };
    assert_eq!(evaluate(&model, &dpo, &all, 500).get("rewards/accuracies"), None);
    // A mean in which nothing counts is no mean.
    let mut metrics = Metrics::default();
    metrics.add("entropy", 0.0, 0.0);
    assert_eq!((metrics.get("entropy"), metrics.means().count()), (None, 0));
}

/// Issue 28, B1: whatever is no number is refused by the name of its field.
#[test]
fn every_real_number_of_every_stage_refuses_nan_and_infinities_by_name() {
    use crate::disk::layers::{reals, set_layer};
    let stages = [
        StageKind::Pretrain,
        StageKind::Sft,
        StageKind::Reward,
        StageKind::Dpo,
        StageKind::Modpo,
        StageKind::Kto,
        StageKind::Ppo,
    ];
    for stage in stages {
        let base = r#"
            data = ["rows.jsonl"]
            gold = "reviews:sentiment"
        "#;
        let mut base: toml::Table = base.parse().unwrap();
        if stage != StageKind::Pretrain {
            base.insert("lora".to_owned(), toml::Value::try_from(LoraConfig::default()).unwrap());
            base.insert("model".to_owned(), "m".into());
        }
        if stage == StageKind::Modpo {
            let more = r#"
                [[modpo.objectives]]
                name = "a"
                weight = 0.5
                [[modpo.objectives]]
                name = "b"
                weight = 0.5
                reward = "reviews:sentiment"
            "#;
            crate::disk::layers::merge(&mut base, more.parse().unwrap());
        }
        if stage == StageKind::Ppo {
            crate::disk::layers::merge(
                &mut base,
                "ppo.algorithm.target_kl = 6.0\nppo.algorithm.missing_eos_penalty = 1.0".parse().unwrap(),
            );
        }
        let plain = LmConfig::resolve(stage, &[base.clone()]).unwrap_or_else(|error| panic!("{stage:?}: {error}"));
        let paths = reals(&toml::Table::try_from(&plain).unwrap(), "");
        assert!(paths.len() >= 8, "{stage:?}: {paths:?}");
        for path in &paths {
            let name = path.rsplit('.').next().unwrap();
            for wrong in ["nan", "-nan", "inf", "-inf"] {
                let layers = [base.clone(), set_layer(&format!("{path}={wrong}")).unwrap()];
                let error = LmConfig::resolve(stage, &layers).expect_err(&format!("{stage:?}: {path} = {wrong}"));
                assert!(error.to_string().contains(name), "{stage:?}: {path} = {wrong}: {error}");
            }
        }
        for (path, wrong) in [("train.optimizer.learning_rate", "1e40"), ("train.optimizer.learning_rate", "101")] {
            let layers = [base.clone(), set_layer(&format!("{path}={wrong}")).unwrap()];
            assert!(LmConfig::resolve(stage, &layers).unwrap_err().to_string().contains("learning_rate"));
        }
    }
}

/// Issue 28, F: TOML's text has room for numbers that its tables have not.
#[test]
fn a_number_that_no_configuration_can_hold_is_refused_by_name() {
    let mut config = LmConfig::resolve(StageKind::Pretrain, &[]).unwrap();
    config.validate().unwrap();
    config.seed = i64::MAX as u64;
    config.validate().unwrap();
    config.seed += 1;
    let expected = "seed = 9223372036854775808: must be below 2^63, like every number of a configuration";
    assert_eq!(config.validate().unwrap_err().to_string(), expected);
    (config.seed, config.train.steps) = (0, usize::MAX);
    let error = config.validate().unwrap_err().to_string();
    assert!(error.starts_with("train.steps = 18446744073709551615: must be below 2^63"), "{error}");
}
