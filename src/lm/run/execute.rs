//! A prepared run, step by step: training, metrics, evaluations, checkpoints, and the trained model at the end.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map, Value, json};

use super::checkpoint::{Log, put, take, write_checkpoint};
use super::config::LmConfig;
use super::course::Course;
use super::prepare::{Prepared, Work, Written};
use super::{LmError, LmOutcome, LmSummary, MODEL, Shown, eos_of, weights_sha256};
use crate::disk::archive::Archive;
use crate::disk::{Clock, DiskError, Folder};
use crate::lm::config::Output;
use crate::lm::diagnose::{self, Sampled};
use crate::lm::folder;
use crate::lm::gold::{self, Gold};
use crate::lm::model::Decoder;
use crate::lm::optim::Optimizer;
use crate::lm::ppo::{Ppo, iterate};
use crate::lm::reward;
use crate::lm::sample::Completion;
use crate::lm::train::{Metrics, Stage, Trainee, evaluate, step};

/// Steps of a run in all; iterations, with PPO.
pub(super) fn total_steps(config: &LmConfig, prepared: &Prepared) -> usize {
    let examples = match &prepared.work {
        Work::Texts(stage, _) | Work::Completions(stage, _) => stage.len(),
        Work::Comparisons(stage, _) => stage.len(),
        Work::Policy(stage, _) => stage.len(),
        Work::Single(stage, _) => stage.len(),
        Work::Several(stage, _) => stage.len(),
        Work::Done => return 0,
        Work::Written(_) => return config.ppo.clone().unwrap_or_default().algorithm.iterations,
    };
    config.train.total_steps(examples)
}

/// Takes all steps that are left, from the newest checkpoint if there is one.
pub(super) fn execute(
    course: Course<'_>,
    folder: &Folder,
    prepared: &Prepared,
    checkpoint: Option<Archive>,
    stop: &AtomicBool,
    show: &(dyn Fn(Shown<'_>) + Sync),
) -> Result<LmOutcome, LmError> {
    match &prepared.work {
        Work::Texts(stage, eval) | Work::Completions(stage, eval) => {
            run_stage(course, folder, prepared, stage, eval.as_ref(), checkpoint, stop, show)
        }
        Work::Comparisons(stage, eval) => {
            run_stage(course, folder, prepared, stage, eval.as_ref(), checkpoint, stop, show)
        }
        Work::Policy(stage, eval) => run_stage(course, folder, prepared, stage, eval.as_ref(), checkpoint, stop, show),
        Work::Single(stage, eval) => run_stage(course, folder, prepared, stage, eval.as_ref(), checkpoint, stop, show),
        Work::Several(stage, eval) => run_stage(course, folder, prepared, stage, eval.as_ref(), checkpoint, stop, show),
        Work::Done => {
            let mut trainee = Trainee { model: prepared.start.clone(), optimizer: Optimizer::default(), step: 0 };
            conclude(&course.config, folder, prepared, &mut trainee, (Map::new(), None), 0, &Clock::new())
        }
        Work::Written(work) => run_ppo(course, folder, prepared, work, checkpoint, stop, show),
    }
}

/// Before the names of metrics since the last line of the log.
const SINCE: &str = "since.";

fn run_stage<S: Stage>(
    mut course: Course<'_>,
    folder: &Folder,
    prepared: &Prepared,
    stage: &S,
    eval: Option<&S>,
    checkpoint: Option<Archive>,
    stop: &AtomicBool,
    show: &(dyn Fn(Shown<'_>) + Sync),
) -> Result<LmOutcome, LmError> {
    let mut trainee = Trainee { model: prepared.start.clone(), optimizer: Optimizer::default(), step: 0 };
    let mut clock = Clock::new();
    let mut tokens = 0_u64;
    let mut since = Metrics::default();
    if let Some(archive) = checkpoint {
        take(&archive, "", &mut trainee)?;
        since = Metrics::load(&archive, SINCE)?;
        clock = Clock::start(archive.get("wall_seconds")?, archive.get("cpu_seconds")?);
        tokens = archive.get("tokens")?;
    }
    let mut log = Log::open(&folder.path, trainee.step, show)?;
    let gold = match course.config.gold.as_str() {
        "" => None,
        spec => Some(gold::open(spec)?),
    };
    let evaluation = |config: &LmConfig, trainee: &Trainee| -> Result<(Map<String, Value>, Option<Sampled>), LmError> {
        let mut all = Map::new();
        if let Some(eval) = eval {
            let examples: Vec<usize> = (0..eval.len()).collect();
            let metrics = evaluate(&trainee.model, eval, &examples, config.train.part_tokens);
            metrics.check_finite("evaluation's ", || format!("step {}", trainee.step))?;
            all = evaluated(&metrics);
        }
        let sampled = sample_held_out(config, prepared, &trainee.model, gold.as_deref(), &mut all)?;
        Ok((all, sampled))
    };
    let mut last = (Map::new(), None);
    let due = |every: usize, step: usize| every > 0 && step.is_multiple_of(every);
    loop {
        course.take_effect(trainee.step)?;
        let config = &course.config;
        let total = config.train.total_steps(stage.len());
        if trainee.step >= total {
            break;
        }
        let examples = config.train.examples(prepared.seed, trainee.step, stage.len());
        let metrics = step(&mut trainee, stage, &config.train, &examples, total, prepared.seed)?;
        tokens += examples.iter().map(|&example| stage.tokens(example) as u64).sum::<u64>();
        let at = trainee.step;
        since += &metrics;
        show(Shown::Step(at, total, &metrics, tokens));
        if due(config.train.log_every, at) || at == total {
            let mut line = Map::new();
            since.means().for_each(|(name, mean)| {
                line.insert(name.to_string(), json!(mean));
            });
            line.insert("num_tokens".to_owned(), json!(tokens));
            line.insert("epoch".to_owned(), json!((at * config.train.batch_size) as f64 / stage.len() as f64));
            log.write(at, line)?;
            since = Metrics::default();
        }
        if due(config.train.eval_every, at) || at == total {
            last = evaluation(config, &trainee)?;
            show(Shown::Evaluation(&last.0));
            if !last.0.is_empty() {
                log.write(at, last.0.clone())?;
            }
        }
        let stopping = stop.load(Ordering::Relaxed);
        if due(config.train.save_every, at) || at == total || stopping {
            let mut archive = Archive::default();
            put(&mut archive, "", &mut trainee);
            since.save(&mut archive, SINCE);
            write_checkpoint(&course, archive, at, &clock, tokens)?;
        }
        if stopping && at < total {
            return Ok(LmOutcome::Interrupted { step: at });
        }
    }
    if last.0.is_empty() {
        last = evaluation(&course.config, &trainee)?;
    }
    conclude(&course.config, folder, prepared, &mut trainee, last, tokens, &clock)
}

/// Measures on held-out examples by the names they are logged under.
pub(super) fn evaluated(metrics: &Metrics) -> Map<String, Value> {
    let mut all: Map<String, Value> =
        metrics.means().map(|(name, mean)| (format!("eval_{name}"), json!(mean))).collect();
    if let Some((count, interval, error)) = metrics.calibration() {
        all.insert("eval_comparisons".to_owned(), json!(count));
        if let Some([low, high]) = interval {
            all.insert("eval_accuracy_low".to_owned(), json!(low));
            all.insert("eval_accuracy_high".to_owned(), json!(high));
        }
        all.insert("eval_calibration_error".to_owned(), json!(error));
    }
    all
}

/// PPO: iterations take the place of steps.
fn run_ppo(
    mut course: Course<'_>,
    folder: &Folder,
    prepared: &Prepared,
    work: &Written,
    checkpoint: Option<Archive>,
    stop: &AtomicBool,
    show: &(dyn Fn(Shown<'_>) + Sync),
) -> Result<LmOutcome, LmError> {
    let Written { prompts, reward_models, value } = work;
    let algorithm = |config: &LmConfig| config.ppo.clone().unwrap_or_default().algorithm;
    let mut state = Ppo::new(prepared.start.clone(), value.clone(), &algorithm(&course.config));
    let (mut clock, mut tokens) = (Clock::new(), 0_u64);
    if let Some(archive) = checkpoint {
        take(&archive, "", &mut state.policy)?;
        take(&archive, "value.", &mut state.value)?;
        state.kl_coefficient = archive.get("kl_coefficient")?;
        state.iteration = archive.get("step")?;
        clock = Clock::start(archive.get("wall_seconds")?, archive.get("cpu_seconds")?);
        tokens = archive.get("tokens")?;
    }
    let mut log = Log::open(&folder.path, state.iteration, show)?;
    let seed = course.config.seed;
    let gold = match course.config.gold.as_str() {
        "" => None,
        spec => Some(gold::open(spec)?),
    };
    let eos = eos_of(&prepared.start, &prepared.tokenizer);
    let reward = |rows: &[(usize, &Completion)]| -> Result<Vec<f64>, LmError> {
        let asked: Vec<Vec<u32>> = rows.iter().map(|(prompt, _)| prompts[*prompt].clone()).collect();
        match (reward_models.as_slice(), &gold) {
            ([_, ..], _) => {
                let whole = |(prompt, (_, completion)): (&Vec<u32>, &(usize, &Completion))| {
                    [prompt.as_slice(), &completion.ids].concat()
                };
                let sequences: Vec<Vec<u32>> = asked.iter().zip(rows).map(whole).collect();
                let slices: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
                Ok(reward::mean_scores(reward_models, &slices))
            }
            ([], Some(gold)) => {
                let completions: Vec<Completion> = rows.iter().map(|(_, completion)| (*completion).clone()).collect();
                diagnose::gold_scores(&**gold, &prepared.tokenizer, &asked, &completions)
            }
            ([], None) => Err(LmError::Config("ppo: no reward is given".to_owned())),
        }
    };
    let due = |every: usize, step: usize| every > 0 && step.is_multiple_of(every);
    let mut last = (Map::new(), None);
    loop {
        course.take_effect(state.iteration)?;
        let config = &course.config;
        let ppo = algorithm(config);
        if state.iteration >= ppo.iterations {
            break;
        }
        let metrics = iterate(&mut state, &prepared.start, prompts, &eos, &ppo, seed, &reward)?;
        let at = state.iteration;
        tokens += (metrics.get("completions/mean_length").unwrap_or(0.0) * ppo.batch_size as f64).round() as u64;
        show(Shown::Step(at, ppo.iterations, &metrics, tokens));
        let mut line: Map<String, Value> =
            metrics.means().map(|(name, mean)| (name.to_string(), json!(mean))).collect();
        line.insert("num_tokens".to_owned(), json!(tokens));
        log.write(at, line)?;
        if due(config.train.eval_every, at) || at == ppo.iterations {
            let mut all = Map::new();
            let sampled = sample_held_out(config, prepared, &state.policy.model, gold.as_deref(), &mut all)?;
            show(Shown::Evaluation(&all));
            if !all.is_empty() {
                log.write(at, all.clone())?;
            }
            last = (all, sampled);
        }
        let stopping = stop.load(Ordering::Relaxed);
        if due(config.train.save_every, at) || at == ppo.iterations || stopping {
            let mut archive = Archive::default();
            put(&mut archive, "", &mut state.policy);
            put(&mut archive, "value.", &mut state.value);
            archive.put("kl_coefficient", &state.kl_coefficient);
            write_checkpoint(&course, archive, at, &clock, tokens)?;
        }
        if stopping && at < ppo.iterations {
            return Ok(LmOutcome::Interrupted { step: at });
        }
    }
    // What a run counts are its iterations, not the minibatches of its epochs.
    state.policy.step = state.iteration;
    conclude(&course.config, folder, prepared, &mut state.policy, last, tokens, &clock)
}

/// Completions of held-out prompts, if any are wanted; their measures are added to `all`.
fn sample_held_out(
    config: &LmConfig,
    prepared: &Prepared,
    model: &Decoder,
    gold: Option<&dyn Gold>,
    all: &mut Map<String, Value>,
) -> Result<Option<Sampled>, LmError> {
    if config.eval_samples == 0 || prepared.prompts.is_empty() || model.config.output != Output::Tokens {
        return Ok(None);
    }
    let prompts = prompts_for(&prepared.prompts, config.eval_samples);
    let Prepared { tokenizer, start, .. } = prepared;
    let eos = eos_of(start, tokenizer);
    let judge = gold.map(|gold| (gold, tokenizer));
    let (tokens, seed, part) = (config.eval_tokens, config.seed, config.train.part_tokens);
    let sampled = diagnose::sampled(model, start, &prompts, tokens, &eos, seed, part, judge)?;
    for (name, value) in sampled.named() {
        all.insert(format!("eval_{name}"), json!(value));
    }
    Ok(Some(sampled))
}

/// Saves the model, and says what came of the run.
fn conclude(
    config: &LmConfig,
    folder: &Folder,
    prepared: &Prepared,
    trainee: &mut Trainee,
    (eval, sampled): (Map<String, Value>, Option<Sampled>),
    tokens: u64,
    clock: &Clock,
) -> Result<LmOutcome, LmError> {
    let model = folder.path.join(MODEL);
    fs::create_dir_all(&model).map_err(|source| DiskError::Io {
        path: model.clone(),
        action: "make the folder",
        source,
    })?;
    folder::write(&trainee.model, prepared.base.as_deref(), &model)?;
    prepared.tokenizer.save(&model)?;
    let parameters = trainee.model.trained_mut().iter().map(|tensor| tensor.shape().num_elements()).sum();
    let summary = LmSummary {
        stage: config.stage,
        seed: config.seed,
        steps: trainee.step,
        trained_parameters: parameters,
        eval,
        sampled,
        tokens,
        wall_seconds: clock.wall(),
        cpu_seconds: clock.cpu(),
        weights_sha256: weights_sha256(&trainee.model),
        model,
        run_dir: folder.path.clone(),
    };
    summary.save()?;
    Ok(LmOutcome::Finished(Box::new(summary)))
}

/// As many prompts as wanted: each once, or several times where there are fewer.
fn prompts_for(all: &[Vec<u32>], count: usize) -> Vec<Vec<u32>> {
    all.iter().cycle().take(count).cloned().collect()
}
