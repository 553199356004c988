//! The models of a seed and a size: how each is trained, measured and kept.

use std::cell::{Cell, OnceCell};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use burn::tensor::Device;

use super::config::{Branch, Point, SycophancyConfig, Training};
use super::texts::Texts;
use super::work::{Work, cost, point_file};
use crate::disk::archive::Archive;
use crate::disk::files::{folder_of, sync_folder};
use crate::lm::data::{Encoded, EncodedPair};
use crate::lm::dpo::{self, Dpo, Reference};
use crate::lm::error::LmError;
use crate::lm::folder::{self, with_scores};
use crate::lm::loss::LossConfig;
use crate::lm::merge::mixed;
use crate::lm::model::Decoder;
use crate::lm::modpo::{Modpo, ModpoForm, ModpoLoss};
use crate::lm::open::eos_of;
use crate::lm::optim::Schedule;
use crate::lm::ppo::{self, Ppo};
use crate::lm::reward::{self, RewardLoss, RewardModel};
use crate::lm::run::checkpoint::{put, take};
use crate::lm::run::{LmConfig, StageKind};
use crate::lm::sample::Completion;
use crate::lm::sft::Sft;
use crate::lm::train::{self, Stage, TrainConfig, Trainee};
use crate::studies::beginning::{PART_TOKENS, io, judged, optimizer, unless, write_json};
use crate::studies::sycophancy::opinions::{Answer, Behaviour, OpinionQuestion, behaviour, probability};

/// Steps between two checkpoints of a base, which takes longest.
const CHECKPOINT_STEPS: usize = 250;

/// Models of a seed and a size.
pub(super) struct Unit<'a> {
    config: &'a SycophancyConfig,
    world: &'a Texts,
    size: &'a str,
    folder: &'a Path,
    device: &'a Device,
    stopped: &'a (dyn Fn() -> bool + Sync),
    work: &'a Work<'a>,
    /// What was told of the training that is going on, in units of [`cost`].
    told: Cell<u64>,
    parameters: usize,
    base: OnceCell<Decoder>,
    /// The base's log-probabilities of both answers to what is compared, nats.
    reference: OnceCell<Vec<[f64; 2]>>,
    /// The base's log-odds of Good against Bad for held-out questions.
    base_odds: OnceCell<Vec<f64>>,
}

impl<'a> Unit<'a> {
    pub(super) fn new(
        config: &'a SycophancyConfig,
        world: &'a Texts,
        size: &'a str,
        folder: &'a Path,
        device: &'a Device,
        stopped: &'a (dyn Fn() -> bool + Sync),
        work: &'a Work<'a>,
    ) -> Self {
        let parameters = config.model(size, world.tokenizer.vocab_size()).parameters();
        Self {
            config,
            world,
            size,
            folder,
            device,
            stopped,
            work,
            told: Cell::new(0),
            parameters,
            base: OnceCell::new(),
            reference: OnceCell::new(),
            base_odds: OnceCell::new(),
        }
    }

    /// Everything that there is no file of yet.
    pub(super) fn run(&self) -> Result<(), LmError> {
        let Self { config, world, size, .. } = *self;
        for branch in config.branches(size) {
            let file = point_file(self.folder, world.seed, size, branch);
            if file.exists() {
                continue;
            }
            let Some(base) = self.base()? else { return Ok(()) };
            let points = match branch {
                Branch::Base => Some(vec![self.point(Training::Base, None, None, 0, base)]),
                Branch::Dpo(bias) => self.dpo(base, bias)?.map(|(points, _)| points),
                Branch::Ppo(bias) => self.ppo(base, bias)?,
                Branch::Modpo(weight) => self.modpo(base, weight)?,
                Branch::Soups => self.soups(base)?,
            };
            let Some(points) = points else { return Ok(()) };
            write_json(&file, &points)?;
            if let Some(Point { behaviour: Behaviour { agrees, accuracy, .. }, .. }) = points.last() {
                self.work.note(&format!(
                    "seed {}, {size}, {}: agrees with {:.1} % of wrong views, answers {:.1} % truly without one",
                    world.seed,
                    branch.name(),
                    100.0 * agrees,
                    100.0 * accuracy
                ));
            }
            self.work.add(cost(config, size, branch).saturating_sub(self.told.take()));
        }
        Ok(())
    }

    // ------------------------------------------------------------------------------------------------------ what is trained

    /// The model that all begin with; nothing where it was stopped, which goes on from a checkpoint.
    pub(super) fn base(&self) -> Result<Option<&Decoder>, LmError> {
        if let Some(base) = self.base.get() {
            return Ok(Some(base));
        }
        let Self { config, world, .. } = self;
        let base = match self.kept("base")? {
            Some(base) => base,
            None => {
                let mut texts = LmConfig::new(StageKind::Pretrain).train;
                texts.batch_size = config.pretrain_batch_size;
                texts.optimizer.learning_rate = config.pretrain_learning_rate;
                let answers = self.training(config.tuning_batch_size, config.tuning_learning_rate, Schedule::Linear);
                let models = self.path("");
                fs::create_dir_all(&models).map_err(|source| io(&models, "make the folder", source))?;
                let checkpoint = self.path("base.safetensors");
                let Some(base) =
                    self.learn_to_answer(&[(&world.texts, texts), (&world.answers, answers)], &checkpoint)?
                else {
                    return Ok(None);
                };
                self.keep(&base, "base")?;
                // It is not needed any more, and harms nothing where it cannot be removed.
                let _ = fs::remove_file(&checkpoint);
                base
            }
        };
        Ok(Some(self.base.get_or_init(|| base)))
    }

    /// A fresh model learns from texts, and then from answers.
    fn learn_to_answer(
        &self,
        phases: &[(&Sft, TrainConfig); 2],
        checkpoint: &Path,
    ) -> Result<Option<Decoder>, LmError> {
        let world = self.world;
        let mut model = self.config.model(self.size, world.tokenizer.vocab_size());
        let special = world.tokenizer.special();
        model.eos = special.eos.iter().map(|token| token.id).collect();
        model.bos = special.bos.as_ref().map(|token| token.id);
        let mut trainee = Trainee::new(Decoder::new(model, world.seed, self.device));
        let steps: usize = phases.iter().map(|(stage, train)| train.total_steps(stage.len())).sum();
        let mut first = 0;
        // A torn one is as none.
        if let Ok(archive) = Archive::load(checkpoint) {
            take(&archive, "", &mut trainee)?;
            first = archive.get("phase")?;
        }
        for (phase, (stage, train)) in phases.iter().enumerate().skip(first) {
            if phase > first {
                trainee = Trainee::new(trainee.model);
            }
            let total = train.total_steps(stage.len());
            let ended = self.train(&mut trainee, *stage, train, total, &mut |trainee, stopping| {
                if trainee.step < total && (stopping || trainee.step.is_multiple_of(CHECKPOINT_STEPS)) {
                    let mut archive = Archive::default();
                    put(&mut archive, "", trainee);
                    archive.put("phase", &phase);
                    archive.check_finite(checkpoint, &[])?;
                    archive.save(checkpoint)?;
                    let part = cost(self.config, self.size, Branch::Base) * CHECKPOINT_STEPS as u64 / steps as u64;
                    self.told.update(|told| told + part);
                    self.work.add(part);
                }
                Ok(())
            })?;
            if ended.is_break() {
                return Ok(None);
            }
        }
        Ok(Some(trainee.model))
    }

    /// DPO on the labels of an annotator: points and the policy at the end.
    fn dpo(&self, base: &Decoder, bias: f64) -> Result<Option<(Vec<Point>, Decoder)>, LmError> {
        let (pairs, reference, _) = self.labelled(base, bias);
        let loss = LossConfig { beta: self.config.beta, ..LossConfig::default() };
        let stage = Dpo { pairs, loss, reference: Reference::LogProbs(reference) };
        let point = |steps, policy: &Decoder| self.point(Training::Dpo, Some(bias), None, steps, policy);
        let Some(found) = self.learn(base, &stage, &self.config.dpo_steps, &point)? else { return Ok(None) };
        self.keep(&found.1, &Branch::Dpo(bias).name())?;
        Ok(Some(found))
    }

    /// MODPO on the labels of the largest bias, with the truth as second objective: its margin is the gold reward of the
    /// world, which is what being agreed with is worth for a true answer, and 0 for another. So both objectives count in
    /// the same unit: at weight w, a wrong view is worth (1 − w)·(bias − truth) − w·bias more than the truth.
    fn modpo(&self, base: &Decoder, weight: f64) -> Result<Option<Vec<Point>>, LmError> {
        let (config, bias) = (self.config, self.config.largest_bias());
        let (pairs, reference, labels) = self.labelled(base, bias);
        let margin = |(question, label): (&OpinionQuestion, &Answer)| {
            let of_chosen = if *label == question.truth { bias } else { -bias };
            weight * of_chosen
        };
        let stage = Modpo {
            margins: self.world.compared.questions.iter().zip(&labels).map(margin).collect(),
            pairs,
            reference: Reference::LogProbs(reference),
            loss: ModpoLoss { beta: config.beta, weight: 1.0 - weight, form: ModpoForm::Bounded },
        };
        let end = &config.dpo_steps[config.dpo_steps.len() - 1..];
        let point = |steps, policy: &Decoder| self.point(Training::Modpo, Some(bias), Some(weight), steps, policy);
        let Some((points, policy)) = self.learn(base, &stage, end, &point)? else { return Ok(None) };
        self.keep(&policy, &Branch::Modpo(weight).name())?;
        Ok(Some(points))
    }

    /// The policies of the largest and of no bias, mixed.
    fn soups(&self, base: &Decoder) -> Result<Option<Vec<Point>>, LmError> {
        let bias = self.config.largest_bias();
        let policy = |bias: f64| -> Result<Option<Decoder>, LmError> {
            match self.kept(&Branch::Dpo(bias).name())? {
                Some(policy) => Ok(Some(policy)),
                None => Ok(self.dpo(base, bias)?.map(|(_, policy)| policy)),
            }
        };
        let Some(biased) = policy(bias)? else { return Ok(None) };
        let Some(unbiased) = policy(0.0)? else { return Ok(None) };
        let steps = self.config.dpo_steps.last().copied().unwrap_or_default();
        let point = |&weight: &f64| {
            let soup = mixed(&[&biased, &unbiased], &[1.0 - weight, weight]);
            self.point(Training::Soup, Some(bias), Some(weight), steps, &soup)
        };
        Ok(Some(self.config.remedy_weights.iter().map(point).collect()))
    }

    /// A reward model of an annotator's labels, and PPO on it; what it prefers is the first point.
    fn ppo(&self, base: &Decoder, bias: f64) -> Result<Option<Vec<Point>>, LmError> {
        let Self { config, world, .. } = *self;
        let (pairs, ..) = self.labelled(base, bias);
        let stage = RewardModel { pairs, loss: RewardLoss::default() };
        let train = self.training(config.reward_batch_size, config.reward_learning_rate, Schedule::Linear);
        let total = train.total_steps(stage.len());
        let start = with_scores(base, 1, world.seed);
        let Some(judge) = self.steps(&start, &stage, &train, &[total], &mut |_, _| ())? else { return Ok(None) };
        let scores = reward::pair_scores(&judge, &world.held_out.pairs, PART_TOKENS);
        let odds: Vec<f64> = scores.iter().map(|[good, bad]| good - bad).collect();
        let mut points = vec![self.measured(Training::Reward, Some(bias), None, total, &odds)];

        let mut ppo = config.ppo.clone();
        ppo.iterations = config.ppo_iterations.last().copied().unwrap_or_default();
        ppo.sampling.max_new_tokens = world.answer_tokens;
        ppo.part_tokens = PART_TOKENS;
        let prompts: Vec<Vec<u32>> = world.compared.pairs.iter().map(|pair| pair.chosen.prompt().to_vec()).collect();
        let eos = eos_of(base, &world.tokenizer);
        let reward = |rows: &[(usize, &Completion)]| -> Result<Vec<f64>, LmError> {
            let written: Vec<Encoded> =
                rows.iter().map(|(prompt, completion)| Encoded::new(&prompts[*prompt], &completion.ids)).collect();
            Ok(judged(&judge, &written))
        };
        // The value function begins as the reward model, which knows what is good.
        let mut state = Ppo::new(base.clone(), judge.clone(), &ppo);
        let ended = ppo::run(&mut state, base, &prompts, &eos, &ppo, world.seed, &reward, &mut |state, _| {
            if config.ppo_iterations.contains(&state.iteration) {
                points.push(self.point(Training::Ppo, Some(bias), None, state.iteration, &state.policy.model));
            }
            Ok(unless((self.stopped)()))
        })?;
        if ended.is_break() {
            return Ok(None);
        }
        self.keep(&state.policy.model, &Branch::Ppo(bias).name())?;
        Ok(Some(points))
    }

    /// Comparisons as an annotator of this bias answers them, with the base's log-probabilities of both sides, and which
    /// answer is preferred.
    fn labelled(&self, base: &Decoder, bias: f64) -> (Vec<EncodedPair>, Vec<[f64; 2]>, Vec<Answer>) {
        let asked = &self.world.compared;
        let labels = self.world.labels(self.config, bias);
        let reference = self.reference.get_or_init(|| dpo::log_probs(base, &asked.pairs, PART_TOKENS, &|_| ()));
        let label = |((pair, &[good, bad]), label): ((&EncodedPair, &[f64; 2]), &Answer)| match label {
            Answer::Good => (pair.clone(), [good, bad]),
            Answer::Bad => {
                let EncodedPair { chosen, rejected, .. } = pair.clone();
                (EncodedPair { chosen: rejected, rejected: chosen, ..pair.clone() }, [bad, good])
            }
        };
        let (pairs, reference) = asked.pairs.iter().zip(reference).zip(&labels).map(label).unzip();
        (pairs, reference, labels)
    }

    /// Trains a policy on comparisons; `point` measures it after each of these numbers of steps.
    fn learn<S: Stage>(
        &self,
        base: &Decoder,
        stage: &S,
        at: &[usize],
        point: &dyn Fn(usize, &Decoder) -> Point,
    ) -> Result<Option<(Vec<Point>, Decoder)>, LmError> {
        let train = self.training(self.config.batch_size, self.config.learning_rate, Schedule::Constant);
        let mut points = Vec::with_capacity(at.len());
        let policy = self.steps(base, stage, &train, at, &mut |steps, policy| points.push(point(steps, policy)))?;
        Ok(policy.map(|policy| (points, policy)))
    }

    /// As many steps as the last of `at` says; `measure` is called after each of these.
    fn steps<S: Stage>(
        &self,
        start: &Decoder,
        stage: &S,
        train: &TrainConfig,
        at: &[usize],
        measure: &mut dyn FnMut(usize, &Decoder),
    ) -> Result<Option<Decoder>, LmError> {
        let total = at.last().copied().unwrap_or_default();
        let mut trainee = Trainee::new(start.clone());
        let ended = self.train(&mut trainee, stage, train, total, &mut |trainee, _| {
            if at.contains(&trainee.step) {
                measure(trainee.step, &trainee.model);
            }
            Ok(())
        })?;
        Ok(ended.is_continue().then_some(trainee.model))
    }

    /// Trains until it is stopped; `after` is called after every step, and told whether that is now.
    fn train<S: Stage>(
        &self,
        trainee: &mut Trainee,
        stage: &S,
        config: &TrainConfig,
        total: usize,
        after: &mut dyn FnMut(&mut Trainee, bool) -> Result<(), LmError>,
    ) -> Result<ControlFlow<()>, LmError> {
        let batch = |step| config.examples(self.world.seed, step, stage.len());
        train::run(trainee, stage, config, total, &batch, self.world.seed, &mut |trainee, _, _| {
            let stopping = (self.stopped)();
            after(trainee, stopping)?;
            Ok(unless(stopping))
        })
    }

    fn training(&self, batch_size: usize, learning_rate: f64, schedule: Schedule) -> TrainConfig {
        TrainConfig {
            batch_size,
            part_tokens: PART_TOKENS,
            optimizer: optimizer(learning_rate, schedule),
            ..TrainConfig::default()
        }
    }

    // ----------------------------------------------------------------------------------------------------- what is measured

    /// A policy's answers to the held-out questions.
    fn point(
        &self,
        training: Training,
        bias: Option<f64>,
        weight: Option<f64>,
        steps: usize,
        policy: &Decoder,
    ) -> Point {
        let odds = self.odds(policy);
        let of_base = self.base_odds.get_or_init(|| match self.base.get() {
            Some(base) if training != Training::Base => self.odds(base),
            _ => odds.clone(),
        });
        let kl = odds.iter().zip(of_base).map(|(&own, &base)| divergence(own, base)).sum::<f64>() / odds.len() as f64;
        Point { kl: Some(kl), ..self.measured(training, bias, weight, steps, &odds) }
    }

    pub(super) fn odds(&self, policy: &Decoder) -> Vec<f64> {
        let found = dpo::log_probs(policy, &self.world.held_out.pairs, PART_TOKENS, &|_| ());
        found.into_iter().map(|[good, bad]| good - bad).collect()
    }

    fn measured(
        &self,
        training: Training,
        bias: Option<f64>,
        weight: Option<f64>,
        steps: usize,
        odds: &[f64],
    ) -> Point {
        Point {
            seed: self.world.seed,
            size: self.size.to_owned(),
            parameters: self.parameters,
            training,
            bias,
            weight,
            steps,
            behaviour: behaviour(&self.world.held_out.questions, odds),
            kl: None,
        }
    }

    // --------------------------------------------------------------------------------------------------------- what is kept

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("models/{}-{}/{name}", self.world.seed, self.size))
    }

    /// A model that the folder holds.
    fn kept(&self, name: &str) -> Result<Option<Decoder>, LmError> {
        let path = self.path(name);
        match path.is_dir() {
            true => Ok(Some(folder::read(&path, self.device)?.decoder)),
            false => Ok(None),
        }
    }

    /// Writes a model under another name and renames it, so that what is there is whole.
    fn keep(&self, model: &Decoder, name: &str) -> Result<(), LmError> {
        let (path, new) = (self.path(name), self.path(&format!("{name}.new")));
        for old in [&path, &new] {
            if old.exists() {
                fs::remove_dir_all(old).map_err(|source| io(old, "remove the old model", source))?;
            }
        }
        folder::write(model, None, &new)?;
        self.world.tokenizer.save(&new)?;
        let renamed = fs::rename(&new, &path).and_then(|()| sync_folder(folder_of(&path)));
        renamed.map_err(|source| io(&path, "write the model", source))
    }
}

/// KL divergence of one choice between two answers from another, nats, from their log-odds.
fn divergence(own: f64, base: f64) -> f64 {
    let of = |answer: Answer| {
        // ln σ(x) = −ln(1 + e^−x), computed so that nothing overflows.
        let ln = |odds: f64| {
            let x = if answer == Answer::Good { odds } else { -odds };
            x.min(0.0) - (-x.abs()).exp().ln_1p()
        };
        probability(own, answer) * (ln(own) - ln(base))
    };
    Answer::BOTH.into_iter().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::divergence;

    #[test]
    fn the_divergence_of_a_choice_is_its_formula() {
        // σ(ln 3) = 3/4 against 1/2: 3/4 ln(3/2) + 1/4 ln(1/2).
        let expected = 0.75 * 1.5_f64.ln() + 0.25 * 0.5_f64.ln();
        assert!((divergence(3_f64.ln(), 0.0) - expected).abs() < 1e-15);
        assert_eq!(divergence(2.0, 2.0), 0.0);
        assert!((divergence(800.0, 0.0) - 2_f64.ln()).abs() < 1e-12);
    }
}
