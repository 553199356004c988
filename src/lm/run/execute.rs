//! The steps of a run: training, metrics, evaluations, checkpoints, and the end.

use std::fs;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map, Value, json};

use super::checkpoint::{Log, put, take, write_checkpoint};
use super::config::LmConfig;
use super::course::Course;
use super::outcome::{LmOutcome, LmSummary, MODEL, Shown};
use super::prepare::{Prepared, Work, Written};
use crate::disk::archive::Archive;
use crate::disk::{Clock, DiskError, Folder};
use crate::lm::config::Output;
use crate::lm::diagnose::{self, Sampled};
use crate::lm::error::LmError;
use crate::lm::folder;
use crate::lm::gold::{self, Gold};
use crate::lm::model::Decoder;
use crate::lm::open::{eos_of, weights_sha256};
use crate::lm::ppo::{self, Ppo, PpoConfig};
use crate::lm::reward;
use crate::lm::sample::Completion;
use crate::lm::train::{self, Metrics, Stage, Trainee, evaluate};

/// Steps of a run in all; iterations, with PPO.
pub(super) fn total_steps(config: &LmConfig, prepared: &Prepared) -> usize {
    let examples = match &prepared.work {
        Work::Texts(stage, _) => stage.len(),
        Work::Comparisons(stage, _) => stage.len(),
        Work::Policy(stage, _) => stage.len(),
        Work::Single(stage, _) => stage.len(),
        Work::Several(stage, _) => stage.len(),
        Work::Done => return 0,
        Work::Written(_) => return algorithm(config).iterations,
    };
    config.train.total_steps(examples)
}

/// Takes all steps that are left, from the newest checkpoint if there is one.
pub(super) fn execute(
    course: Course<'_>,
    folder: &Folder,
    prepared: &Prepared,
    from: Option<&Archive>,
    stop: &AtomicBool,
    show: &(dyn Fn(Shown<'_>) + Sync),
) -> Result<LmOutcome, LmError> {
    if let Work::Done = &prepared.work {
        let mut trainee = Trainee::new(prepared.start.clone());
        return conclude(&course.config, folder, prepared, &mut trainee, (Map::new(), None), 0, &Clock::new());
    }
    let gold = match course.config.gold.as_str() {
        "" => None,
        spec => Some(gold::open(spec)?),
    };
    let going = Going::begin(course, folder, prepared, gold.as_deref(), from, stop, show)?;
    match &prepared.work {
        Work::Texts(stage, eval) => run_stage(going, stage, eval.as_ref(), from),
        Work::Comparisons(stage, eval) => run_stage(going, stage, eval.as_ref(), from),
        Work::Policy(stage, eval) => run_stage(going, stage, eval.as_ref(), from),
        Work::Single(stage, eval) => run_stage(going, stage, eval.as_ref(), from),
        Work::Several(stage, eval) => run_stage(going, stage, eval.as_ref(), from),
        Work::Done => unreachable!("there is nothing to train, which was seen above"),
        Work::Written(work) => run_ppo(going, work, from),
    }
}

/// Before the names of metrics since the last line of the log.
const SINCE: &str = "since.";

/// Everything of a run in progress but the state that is trained.
struct Going<'a> {
    course: Course<'a>,
    folder: &'a Folder,
    prepared: &'a Prepared,
    log: Log,
    gold: Option<&'a dyn Gold>,
    clock: Clock,
    /// Tokens that training went over.
    tokens: u64,
    /// The last evaluation.
    eval: Map<String, Value>,
    /// The completions that it sampled.
    sampled: Option<Sampled>,
    stop: &'a AtomicBool,
    /// Whether it was asked to stop before its last step.
    interrupted: bool,
    show: &'a (dyn Fn(Shown<'_>) + Sync),
}

/// Measures of a model on held-out examples after so many steps, computed in parts of so many tokens.
type HeldOut<'a> = &'a dyn Fn(&Decoder, usize, usize) -> Result<Map<String, Value>, LmError>;

impl<'a> Going<'a> {
    fn begin(
        course: Course<'a>,
        folder: &'a Folder,
        prepared: &'a Prepared,
        gold: Option<&'a dyn Gold>,
        checkpoint: Option<&Archive>,
        stop: &'a AtomicBool,
        show: &'a (dyn Fn(Shown<'_>) + Sync),
    ) -> Result<Self, LmError> {
        let (mut step, mut tokens, mut clock) = (0, 0, Clock::new());
        if let Some(archive) = checkpoint {
            step = archive.get("step")?;
            tokens = archive.get("tokens")?;
            clock = Clock::start(archive.get("wall_seconds")?, archive.get("cpu_seconds")?);
        }
        let log = Log::open(&folder.path, step, show)?;
        let (eval, sampled, interrupted) = (Map::new(), None, false);
        Ok(Self { course, folder, prepared, log, gold, clock, tokens, eval, sampled, stop, interrupted, show })
    }

    /// After step `at` of `total`: evaluates and saves where that is due. Training breaks off where it is asked to stop, and
    /// where the configuration changes.
    fn after<T>(
        &mut self,
        at: usize,
        total: usize,
        state: &mut T,
        model: fn(&T) -> &Decoder,
        held_out: HeldOut<'_>,
        save: &dyn Fn(&mut T, &mut Archive),
    ) -> Result<ControlFlow<()>, LmError> {
        let due = |every: usize| at == total || (every > 0 && at.is_multiple_of(every));
        if due(self.course.config.train.eval_every) {
            self.evaluate(model(state), at, held_out)?;
            (self.show)(Shown::Evaluation(&self.eval));
            if !self.eval.is_empty() {
                self.log.write(at, self.eval.clone())?;
            }
        }
        let stopping = self.stop.load(Ordering::Relaxed);
        if due(self.course.config.train.save_every) || stopping {
            let mut archive = Archive::default();
            save(state, &mut archive);
            write_checkpoint(&self.course, archive, at, &self.clock, self.tokens)?;
        }
        self.interrupted = stopping && at < total;
        Ok(match self.interrupted || self.course.changes_after(at) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })
    }

    /// Measures the model on what is held out, and has it complete held-out prompts.
    fn evaluate(&mut self, model: &Decoder, step: usize, held_out: HeldOut<'_>) -> Result<(), LmError> {
        let config = &self.course.config;
        self.eval = held_out(model, step, config.train.part_tokens)?;
        self.sampled = sample_held_out(config, self.prepared, model, self.gold, &mut self.eval)?;
        Ok(())
    }

    /// The end: the model is saved and the run summed up.
    fn end(mut self, trainee: &mut Trainee, held_out: HeldOut<'_>) -> Result<LmOutcome, LmError> {
        // A run that went on from its last checkpoint has not measured yet.
        if self.eval.is_empty() {
            self.evaluate(&trainee.model, trainee.step, held_out)?;
        }
        let Self { course, folder, prepared, eval, sampled, tokens, clock, .. } = self;
        conclude(&course.config, folder, prepared, trainee, (eval, sampled), tokens, &clock)
    }
}

/// Any stage but PPO.
fn run_stage<S: Stage>(
    mut going: Going<'_>,
    stage: &S,
    eval: Option<&S>,
    checkpoint: Option<&Archive>,
) -> Result<LmOutcome, LmError> {
    let seed = going.prepared.seed;
    let mut trainee = Trainee::new(going.prepared.start.clone());
    let mut since = Metrics::default();
    if let Some(archive) = checkpoint {
        take(archive, "", &mut trainee)?;
        since = Metrics::load(archive, SINCE)?;
    }
    let held_out = |model: &Decoder, step: usize, part_tokens: usize| -> Result<Map<String, Value>, LmError> {
        let Some(eval) = eval else { return Ok(Map::new()) };
        let examples: Vec<usize> = (0..eval.len()).collect();
        let metrics = evaluate(model, eval, &examples, part_tokens);
        metrics.check_finite("evaluation's ", || format!("step {step}"))?;
        Ok(evaluated(&metrics))
    };
    loop {
        going.course.take_effect(trainee.step)?;
        let config = going.course.config.train.clone();
        let total = config.total_steps(stage.len());
        if trainee.step >= total {
            return going.end(&mut trainee, &held_out);
        }
        let batch = |step: usize| config.examples(seed, step, stage.len());
        _ = train::run(&mut trainee, stage, &config, total, &batch, seed, &mut |trainee, examples, metrics| {
            let at = trainee.step;
            going.tokens += examples.iter().map(|&example| stage.tokens(example) as u64).sum::<u64>();
            since += metrics;
            (going.show)(Shown::Step(at, total, metrics, going.tokens));
            if at.is_multiple_of(config.log_every) || at == total {
                let mut line = means(&since);
                line.insert("num_tokens".to_owned(), json!(going.tokens));
                line.insert("epoch".to_owned(), json!((at * config.batch_size) as f64 / stage.len() as f64));
                going.log.write(at, line)?;
                since = Metrics::default();
            }
            going.after(at, total, trainee, |trainee| &trainee.model, &held_out, &|trainee, archive| {
                put(archive, "", trainee);
                since.save(archive, SINCE);
            })
        })?;
        if going.interrupted {
            return Ok(LmOutcome::Interrupted { step: trainee.step });
        }
    }
}

/// PPO: iterations take the place of steps.
fn run_ppo(mut going: Going<'_>, work: &Written, checkpoint: Option<&Archive>) -> Result<LmOutcome, LmError> {
    let Written { prompts, reward_models, value } = work;
    let Prepared { start, tokenizer, .. } = going.prepared;
    let mut state = Ppo::new(start.clone(), value.clone(), &algorithm(&going.course.config));
    if let Some(archive) = checkpoint {
        take(archive, "", &mut state.policy)?;
        take(archive, "value.", &mut state.value)?;
        state.kl_coefficient = archive.get("kl_coefficient")?;
        state.iteration = archive.get("step")?;
    }
    let seed = going.course.config.seed;
    let eos = eos_of(start, tokenizer);
    let gold = going.gold;
    let reward = |rows: &[(usize, &Completion)]| -> Result<Vec<f64>, LmError> {
        let asked: Vec<Vec<u32>> = rows.iter().map(|(prompt, _)| prompts[*prompt].clone()).collect();
        match (reward_models.as_slice(), gold) {
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
                diagnose::gold_scores(gold, tokenizer, &asked, &completions)
            }
            ([], None) => Err(LmError::Config("ppo: no reward is given".to_owned())),
        }
    };
    let held_out = |_: &Decoder, _, _| Ok(Map::new());
    loop {
        going.course.take_effect(state.iteration)?;
        let config = algorithm(&going.course.config);
        let total = config.iterations;
        if state.iteration >= total {
            // What a run counts are its iterations, not the minibatches of their epochs.
            state.policy.step = state.iteration;
            return going.end(&mut state.policy, &held_out);
        }
        _ = ppo::run(&mut state, start, prompts, &eos, &config, seed, &reward, &mut |state, metrics| {
            let at = state.iteration;
            let written = metrics.get("completions/mean_length").unwrap_or(0.0) * config.batch_size as f64;
            going.tokens += written.round() as u64;
            (going.show)(Shown::Step(at, total, metrics, going.tokens));
            let mut line = means(metrics);
            line.insert("num_tokens".to_owned(), json!(going.tokens));
            going.log.write(at, line)?;
            going.after(at, total, state, |state| &state.policy.model, &held_out, &|state, archive| {
                put(archive, "", &mut state.policy);
                put(archive, "value.", &mut state.value);
                archive.put("kl_coefficient", &state.kl_coefficient);
            })
        })?;
        if going.interrupted {
            return Ok(LmOutcome::Interrupted { step: state.iteration });
        }
    }
}

/// PPO's own numbers.
fn algorithm(config: &LmConfig) -> PpoConfig {
    config.ppo.clone().unwrap_or_default().algorithm
}

/// Means by name.
fn means(metrics: &Metrics) -> Map<String, Value> {
    metrics.means().map(|(name, mean)| (name.to_string(), json!(mean))).collect()
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
