//! The steps of a run: training, metrics, evaluations, checkpoints, and the summary.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map, Value, json};

use super::checkpoint::{Log, put, take, write_checkpoint};
use super::config::LmConfig;
use super::course::Course;
use super::outcome::{LmOutcome, LmProgress, LmSummary, MODEL, Show};
use super::prepare::{Prepared, Work, Written};
use crate::disk::archive::Archive;
use crate::disk::{Clock, Folder};
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

/// All steps of a run, or iterations with PPO.
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

/// Takes all steps that are left. `from` is the newest checkpoint, if there is one.
pub(super) fn execute(
    course: Course<'_>,
    folder: &Folder,
    prepared: &Prepared,
    from: Option<&Archive>,
    stop: &AtomicBool,
    show: &Show<'_>,
) -> Result<LmOutcome, LmError> {
    if let Work::Done = &prepared.work {
        let mut trainee = Trainee::new(prepared.start.clone());
        return conclude(&course.config, folder, prepared, &mut trainee, (Map::new(), None), 0, &Clock::new());
    }
    let spec = &course.config.gold;
    let gold = (!spec.is_empty()).then(|| gold::open(spec)).transpose()?;
    let going = Going::begin(course, folder, prepared, gold.as_deref(), from, stop, show)?;
    match &prepared.work {
        Work::Texts(stage, eval) => run_stage(going, stage, eval.as_ref(), from),
        Work::Comparisons(stage, eval) => run_stage(going, stage, eval.as_ref(), from),
        Work::Policy(stage, eval) => run_stage(going, stage, eval.as_ref(), from),
        Work::Single(stage, eval) => run_stage(going, stage, eval.as_ref(), from),
        Work::Several(stage, eval) => run_stage(going, stage, eval.as_ref(), from),
        Work::Done => unreachable!("a run with nothing to train is concluded above"),
        Work::Written(work) => run_ppo(going, work, from),
    }
}

/// Stands in checkpoints before the names of the metrics since the last line of the log.
const SINCE: &str = "since.";

/// Everything of a run in progress, except the state that is trained.
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
    /// Measures of the completions that the last evaluation sampled.
    sampled: Option<Sampled>,
    stop: &'a AtomicBool,
    /// Whether the run was asked to stop before its last step.
    interrupted: bool,
    show: &'a Show<'a>,
}

/// Measures a model on held-out examples after so many steps, in parts of so many tokens.
type HeldOut<'a> = &'a dyn Fn(&Decoder, usize, usize) -> Result<Map<String, Value>, LmError>;

impl<'a> Going<'a> {
    fn begin(
        course: Course<'a>,
        folder: &'a Folder,
        prepared: &'a Prepared,
        gold: Option<&'a dyn Gold>,
        checkpoint: Option<&Archive>,
        stop: &'a AtomicBool,
        show: &'a Show<'a>,
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

    /// After step `at` of `total`, evaluates and saves if that is due. Training breaks off if the run is asked to stop,
    /// or the configuration changes.
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
            (self.show)(LmProgress::Evaluation(&self.eval));
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

    /// Measures the model on the held-out examples, and lets it complete held-out prompts.
    fn evaluate(&mut self, model: &Decoder, step: usize, held_out: HeldOut<'_>) -> Result<(), LmError> {
        let config = &self.course.config;
        self.eval = held_out(model, step, config.train.part_tokens)?;
        self.sampled = sample_held_out(config, self.prepared, model, self.gold, &mut self.eval)?;
        Ok(())
    }

    /// Saves the model and the summary.
    fn end(mut self, trainee: &mut Trainee, held_out: HeldOut<'_>) -> Result<LmOutcome, LmError> {
        // A run that went on from the checkpoint of its last step has no evaluation yet.
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
            (going.show)(LmProgress::Step(at, total, metrics, going.tokens));
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
        let written = rows.iter().map(|(prompt, completion)| (prompts[*prompt].as_slice(), completion.ids.as_slice()));
        match (reward_models.as_slice(), gold) {
            ([_, ..], _) => {
                let sequences: Vec<Vec<u32>> = written.map(|(prompt, ids)| [prompt, ids].concat()).collect();
                let slices: Vec<&[u32]> = sequences.iter().map(Vec::as_slice).collect();
                Ok(reward::mean_scores(reward_models, &slices))
            }
            ([], Some(gold)) => diagnose::scores_of(gold, tokenizer, written),
            ([], None) => Err(LmError::Config("ppo: no reward is given".to_owned())),
        }
    };
    let held_out = |_: &Decoder, _, _| Ok(Map::new());
    loop {
        going.course.take_effect(state.iteration)?;
        let config = algorithm(&going.course.config);
        let total = config.iterations;
        if state.iteration >= total {
            // A run counts iterations, not the minibatches of their epochs.
            state.policy.step = state.iteration;
            return going.end(&mut state.policy, &held_out);
        }
        _ = ppo::run(&mut state, start, prompts, &eos, &config, seed, &reward, &mut |state, metrics| {
            let at = state.iteration;
            let written = metrics.get("completions/mean_length").unwrap_or(0.0) * config.batch_size as f64;
            going.tokens += written.round() as u64;
            (going.show)(LmProgress::Step(at, total, metrics, going.tokens));
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

/// PPO's hyper-parameters.
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

/// Measures completions of held-out prompts, if the configuration asks for some. The means are added to `all`.
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
    // If there are fewer prompts than samples, each prompt is completed several times.
    let prompts: Vec<Vec<u32>> = prepared.prompts.iter().cycle().take(config.eval_samples).cloned().collect();
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

/// Saves the model and the summary of a run.
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
