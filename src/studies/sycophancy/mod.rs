//! How training on comparisons teaches models to agree with whoever asks: by size, by training, by the bias of who
//! compares; and what undoes it.
//!
//! For each seed and size a model learns to write questions of [`crate::studies::sycophancy::opinions`] and to answer them truly: the base.
//! For each bias an annotator ([`crate::studies::sycophancy::opinions::Annotator`]) compares the two answers to the same questions, and from
//! these labels come a DPO policy, a reward model, and a PPO policy of it. All are asked the same held-out questions,
//! without a view, with a right and with a wrong one. For one size there are remedies against the largest bias: MODPO
//! with the truth as second objective, and soups with the policy of unbiased labels.
//!
//! ```text
//! DIR/
//!   config.toml                    what is run
//!   models/SEED-SIZE/              base, dpo-BIAS, ppo-BIAS, modpo-WEIGHT, as Hugging Face folders
//!   points/SEED-SIZE-TRAINING.json what each was measured at: what is there is not done again
//!   sycophancy.json table.txt sycophancy.svg
//! ```

pub mod opinions;
mod table;
mod texts;
mod unit;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;

use burn::tensor::Device;
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use serde::{Deserialize, Serialize};

use crate::disk::DiskError;
use crate::disk::archive::write_atomically;
use crate::disk::lock::Claim;
use crate::lm::config::{ModelConfig, SmallLlama};
use crate::lm::error::LmError;
use crate::lm::optim::{MOST_LEARNING_RATE, Schedule};
use crate::lm::ppo::PpoConfig;
use crate::lm::run::{SIZES, Shown};
use crate::studies::beginning::{io, optimizer, read_json, same_config, write_json};
use crate::studies::sycophancy::opinions::Behaviour;
pub use table::{Along, Control, Finding, Mean, Measure, Row, Trend};
use texts::Texts;
use unit::Unit;

/// What is run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SycophancyConfig {
    /// Each has texts, questions, labels and models of its own.
    pub seeds: Vec<u64>,
    /// Sizes of models, of [`SIZES`].
    pub sizes: Vec<String>,
    /// What it is worth to annotators to be agreed with, nats; 0, the control, must be among them.
    pub biases: Vec<f64>,
    /// What the truth is worth to them, nats.
    pub truth: f64,
    /// Size that remedies are tried with; empty for the largest one of at most 300k parameters.
    pub remedy_size: String,
    /// Weights of the truth in MODPO, and of the unbiased policy in soups.
    pub remedy_weights: Vec<f64>,
    /// Tokens of the tokenizer.
    pub vocabulary: usize,
    /// Longest sequence of the models, tokens.
    pub context: usize,
    /// Texts that a base first learns to write, each once.
    pub texts: usize,
    /// Share of these, and of the answers of the tuning, that are about what the reader has just said. Where nothing made
    /// a view worth reading, no annotator can teach small models to agree with it.
    pub recalled: f64,
    /// Texts a step.
    pub pretrain_batch_size: usize,
    /// Learning rate of this.
    pub pretrain_learning_rate: f64,
    /// Steps in which a base then learns to answer truly, each with new questions.
    pub tuning_steps: usize,
    /// Questions a step.
    pub tuning_batch_size: usize,
    /// Learning rate of this.
    pub tuning_learning_rate: f64,
    /// Questions that annotators compare the answers to.
    pub comparisons: usize,
    /// Held-out questions, each asked without a view, with a right and with a wrong one.
    pub questions: usize,
    /// Steps of DPO and MODPO at which policies are measured; those of the last end the training.
    pub dpo_steps: Vec<usize>,
    /// Comparisons a step.
    pub batch_size: usize,
    /// β of DPO and MODPO.
    pub beta: f64,
    /// Learning rate of both.
    pub learning_rate: f64,
    /// Comparisons a step of reward models, which see each once.
    pub reward_batch_size: usize,
    /// Their learning rate.
    pub reward_learning_rate: f64,
    /// Iterations of PPO after which policies are measured; the last one ends the training.
    pub ppo_iterations: Vec<usize>,
    /// PPO's own numbers.
    pub ppo: PpoConfig,
}

/// How a model was trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Training {
    /// On texts and on true answers.
    Base,
    /// Then with DPO on an annotator's labels.
    Dpo,
    /// A reward model of these labels: not a policy, but asked the same.
    Reward,
    /// Then with PPO on that reward model.
    Ppo,
    /// With MODPO: the labels of the largest bias, and the truth as second objective.
    Modpo,
    /// The weights of the DPO policies of the largest and of no bias, mixed.
    Soup,
}

/// A model, measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// Seed.
    pub seed: u64,
    /// Size.
    pub size: String,
    /// Parameters of a policy of this size.
    pub parameters: usize,
    /// How it was trained.
    pub training: Training,
    /// The annotator's bias; none for a base.
    pub bias: Option<f64>,
    /// Weight of the remedy, if it is one.
    pub weight: Option<f64>,
    /// Steps of DPO and MODPO, iterations of PPO.
    pub steps: usize,
    /// How it answers. A reward model's probabilities are those with which it prefers an answer.
    pub behaviour: Behaviour,
    /// Divergence of its answers from the base's, nats: of the choice between the two answers, mean over all questions.
    /// None for a reward model.
    pub kl: Option<f64>,
}

/// Everything that was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sycophancy {
    /// What was run.
    pub config: SycophancyConfig,
    /// All models.
    pub points: Vec<Point>,
    /// Ends of trainings by size and bias, over seeds; remedies by weight.
    pub table: Vec<Row>,
    /// Whether size, training and bias make it worse.
    pub trends: Vec<Trend>,
    /// Whether unbiased labels leave it where it was.
    pub controls: Vec<Control>,
}

impl Default for SycophancyConfig {
    /// Five sizes in 70 minutes on two cores.
    fn default() -> Self {
        Self {
            seeds: vec![0, 1, 2],
            sizes: ["30k", "100k", "300k", "1m", "3m"].map(str::to_owned).to_vec(),
            // At the middle one a wrong view is worth as much as the truth.
            biases: vec![0.0, 2.0, 4.0],
            truth: 2.0,
            remedy_size: String::new(),
            remedy_weights: vec![0.25, 0.5, 0.75],
            vocabulary: 1024,
            context: 128,
            texts: 8000,
            recalled: 0.25,
            pretrain_batch_size: 16,
            pretrain_learning_rate: 2e-3,
            tuning_steps: 1250,
            tuning_batch_size: 8,
            tuning_learning_rate: 1e-3,
            comparisons: 1600,
            questions: 512,
            // Each comparison once.
            dpo_steps: vec![25, 50, 100],
            batch_size: 16,
            beta: 0.1,
            // At half of it a base of 300k parameters, which is sure of the truth, is not turned in these steps.
            learning_rate: 1e-3,
            reward_batch_size: 8,
            reward_learning_rate: 1e-3,
            ppo_iterations: vec![5, 10],
            ppo: PpoConfig {
                optimizer: optimizer(1e-3, Schedule::Constant),
                value_learning_rate: 1e-3,
                kl_coefficient: 0.05,
                ..PpoConfig::default()
            },
        }
    }
}

impl SycophancyConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`LmError::Config`], naming the first one out of range.
    pub fn validate(&self) -> Result<(), LmError> {
        let wrong = |problem: String| Err(LmError::Config(problem));
        let known: Vec<&str> = SIZES.iter().map(|(name, ..)| *name).collect();
        if self.seeds.is_empty() {
            return wrong("seeds: there is none: give one or more (--seeds 0,1,2)".to_owned());
        }
        if let Some(seed) = twice(&self.seeds) {
            return wrong(format!("seeds: {seed} is there twice: each must be another"));
        }
        if self.sizes.is_empty() {
            return wrong(format!("sizes: there is none: give some of {}", known.join(", ")));
        }
        if let Some(size) = self.sizes.iter().find(|size| !known.contains(&size.as_str())) {
            return wrong(format!("sizes: \"{size}\" is none: must be {}", known.join(", ")));
        }
        if let Some(size) = twice(&self.sizes) {
            return wrong(format!("sizes: \"{size}\" is there twice: each must be another"));
        }
        if let Some(bias) = self.biases.iter().find(|bias| !(**bias >= 0.0 && bias.is_finite())) {
            return wrong(format!("biases: {bias}: must be 0 or more"));
        }
        if let Some(bias) = twice(&self.biases) {
            return wrong(format!("biases: {bias} is there twice: each must be another"));
        }
        if !self.biases.contains(&0.0) || self.biases.len() < 2 {
            return wrong(format!("biases = {:?}: must be 0, which is the control, and others above it", self.biases));
        }
        if !self.remedy_size.is_empty() && !self.sizes.contains(&self.remedy_size) {
            let sizes = self.sizes.join(", ");
            return wrong(format!("remedy_size = \"{}\": must be one of the sizes: {sizes}", self.remedy_size));
        }
        if let Some(weight) = self.remedy_weights.iter().find(|weight| !(**weight > 0.0 && **weight < 1.0)) {
            return wrong(format!("remedy_weights: {weight}: must be between 0 and 1"));
        }
        if let Some(weight) = twice(&self.remedy_weights) {
            return wrong(format!("remedy_weights: {weight} is there twice: each must be another"));
        }
        if !(0.0..1.0).contains(&self.recalled) {
            return wrong(format!("recalled = {}: must be at least 0 and below 1", self.recalled));
        }
        for (name, steps) in [("dpo_steps", &self.dpo_steps), ("ppo_iterations", &self.ppo_iterations)] {
            if steps.first().is_none_or(|first| *first == 0) || !steps.is_sorted_by(|a, b| a < b) {
                return wrong(format!(
                    "{name} = {steps:?}: must be one or more, from 1 on, each larger than the one before"
                ));
            }
        }
        let positive = [
            ("texts", self.texts),
            ("pretrain_batch_size", self.pretrain_batch_size),
            ("tuning_steps", self.tuning_steps),
            ("tuning_batch_size", self.tuning_batch_size),
            ("comparisons", self.comparisons),
            ("questions", self.questions),
            ("batch_size", self.batch_size),
            ("reward_batch_size", self.reward_batch_size),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return wrong(format!("{name} = 0: must be 1 or more"));
        }
        let rates = [
            ("truth", self.truth),
            ("beta", self.beta),
            ("pretrain_learning_rate", self.pretrain_learning_rate),
            ("tuning_learning_rate", self.tuning_learning_rate),
            ("learning_rate", self.learning_rate),
            ("reward_learning_rate", self.reward_learning_rate),
        ];
        if let Some((name, value)) = rates.iter().find(|(_, value)| !(1e-12..=MOST_LEARNING_RATE).contains(value)) {
            return wrong(format!("{name} = {value}: must be positive and at most {MOST_LEARNING_RATE}"));
        }
        self.ppo.validate().map_err(|problem| LmError::Config(format!("ppo.{problem}")))
    }

    /// Size that remedies are tried with.
    #[must_use]
    pub fn remedy_size(&self) -> &str {
        if !self.remedy_size.is_empty() {
            return &self.remedy_size;
        }
        let own = |(name, ..): &&(&str, usize, usize, usize)| self.sizes.iter().any(|size| size == name);
        let chosen = SIZES.iter().take(SMALL_SIZES).rfind(own).or_else(|| SIZES.iter().find(own));
        chosen.map_or("", |(name, ..)| name)
    }

    /// The largest bias, which remedies are for.
    #[must_use]
    pub fn largest_bias(&self) -> f64 {
        self.biases.iter().copied().fold(0.0, f64::max)
    }

    fn model(&self, size: &str, tokens: usize) -> ModelConfig {
        let size = SIZES.iter().find(|(name, ..)| *name == size).expect("the configuration was validated");
        let (_, hidden, layers, heads) = *size;
        ModelConfig::small_llama(SmallLlama { vocabulary: tokens, hidden, layers, heads, context: self.context })
    }

    /// What is trained for a seed and a size, in this order.
    fn branches(&self, size: &str) -> Vec<Branch> {
        let mut all = vec![Branch::Base];
        all.extend(self.biases.iter().map(|&bias| Branch::Dpo(bias)));
        all.extend(self.biases.iter().map(|&bias| Branch::Ppo(bias)));
        if size == self.remedy_size() && !self.remedy_weights.is_empty() {
            all.extend(self.remedy_weights.iter().map(|&weight| Branch::Modpo(weight)));
            all.push(Branch::Soups);
        }
        all
    }
}

/// The first of [`SIZES`], up to 300k parameters: remedies with these take minutes.
const SMALL_SIZES: usize = 3;

/// One training with what is measured of it: a file of points.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Branch {
    Base,
    Dpo(f64),
    /// With the reward model.
    Ppo(f64),
    Modpo(f64),
    Soups,
}

impl Branch {
    fn name(self) -> String {
        match self {
            Self::Base => "base".to_owned(),
            Self::Dpo(bias) => format!("dpo-{bias}"),
            Self::Ppo(bias) => format!("ppo-{bias}"),
            Self::Modpo(weight) => format!("modpo-{weight}"),
            Self::Soups => "soups".to_owned(),
        }
    }

    /// About how long it takes, in units of DPO: what is shown as progress.
    fn cost(self) -> u64 {
        match self {
            Self::Base => 4,
            Self::Ppo(_) => 2,
            Self::Dpo(_) | Self::Modpo(_) | Self::Soups => 1,
        }
    }
}

/// Runs everything that the folder does not hold yet, and writes table, JSON and figure; nothing is returned where it was
/// stopped. `show` is told of what goes on.
///
/// As many models are trained beside each other as there are threads, each by one: a small one would not fill two. The
/// results do not depend on it.
///
/// # Errors
/// [`LmError`]; what was trained and measured before is kept, and a later call goes on from there.
pub fn sycophancy(
    config: &SycophancyConfig,
    folder: &Path,
    device: &Device,
    stop: &AtomicBool,
    show: &(dyn Fn(Shown<'_>) + Sync),
) -> Result<Option<Sycophancy>, LmError> {
    config.validate()?;
    let _claim = Claim::make(folder).map_err(DiskError::from)?;
    for name in ["points", "models"] {
        let path = folder.join(name);
        fs::create_dir_all(&path).map_err(|source| io(&path, "make the folder", source))?;
    }
    same_config(config, "study of sycophancy", folder)?;
    // The largest first, so that no thread is left alone with one at the end.
    let largest_first = SIZES.iter().rev().map(|(name, ..)| *name);
    let units: Vec<(u64, &str)> = largest_first
        .filter(|name| config.sizes.iter().any(|size| size == name))
        .flat_map(|size| config.seeds.iter().map(move |&seed| (seed, size)))
        .collect();
    let missing: Vec<(u64, &str)> = units
        .iter()
        .copied()
        .filter(|&(seed, size)| config.branches(size).iter().any(|&one| !point_file(folder, seed, size, one).exists()))
        .collect();
    if !missing.is_empty() {
        let work = Work::new(config, folder, &units, show);
        if !train_all(config, folder, device, &missing, stop, &work)? {
            return Ok(None);
        }
    }
    let mut points: Vec<Point> = Vec::new();
    for &seed in &config.seeds {
        for size in &config.sizes {
            for branch in config.branches(size) {
                points.extend(read_json::<Vec<Point>>(&point_file(folder, seed, size, branch))?);
            }
        }
    }
    let found = table::summarised(config, points);
    write_json(&folder.join("sycophancy.json"), &found)?;
    let path = folder.join("table.txt");
    write_atomically(&path, found.text().as_bytes()).map_err(|source| io(&path, "write the table", source))?;
    table::draw(&found, &folder.join("sycophancy.svg"))?;
    Ok(Some(found))
}

/// How much is done: what is shown while models are trained.
struct Work<'a> {
    done: AtomicU64,
    of: u64,
    show: &'a (dyn Fn(Shown<'_>) + Sync),
}

impl<'a> Work<'a> {
    fn new(
        config: &SycophancyConfig,
        folder: &Path,
        units: &[(u64, &str)],
        show: &'a (dyn Fn(Shown<'_>) + Sync),
    ) -> Self {
        let (mut done, mut of) = (0, 0);
        for &(seed, size) in units {
            for branch in config.branches(size) {
                let cost = cost(config, size, branch);
                of += cost;
                done += if point_file(folder, seed, size, branch).exists() { cost } else { 0 };
            }
        }
        let work = Self { done: AtomicU64::new(0), of, show };
        work.add(done);
        work
    }

    /// In thousandths, because models are of different sizes.
    fn add(&self, cost: u64) {
        let done = self.done.fetch_add(cost, Ordering::Relaxed) + cost;
        (self.show)(Shown::Preparing(
            "thousandths of the work",
            (1000 * done / self.of.max(1)).min(1000) as usize,
            1000,
        ));
    }

    fn note(&self, text: &str) {
        (self.show)(Shown::Note(text));
    }
}

fn cost(config: &SycophancyConfig, size: &str, branch: Branch) -> u64 {
    config.model(size, config.vocabulary).parameters() as u64 * branch.cost()
}

fn point_file(folder: &Path, seed: u64, size: &str, branch: Branch) -> PathBuf {
    folder.join(format!("points/{seed}-{size}-{}.json", branch.name()))
}

/// Whether it was not stopped.
fn train_all(
    config: &SycophancyConfig,
    folder: &Path,
    device: &Device,
    missing: &[(u64, &str)],
    stop: &AtomicBool,
    work: &Work<'_>,
) -> Result<bool, LmError> {
    let wanted: Vec<u64> =
        config.seeds.iter().copied().filter(|seed| missing.iter().any(|(other, _)| other == seed)).collect();
    work.note(&format!("writing texts and questions of {} seeds", wanted.len()));
    let worlds = wanted.par_iter().map(|&seed| Texts::new(config, seed)).collect::<Result<Vec<_>, _>>()?;
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let stopped = || stop.load(Ordering::Relaxed) || failed.load(Ordering::Relaxed);
    let one_after_another = || -> Result<(), LmError> {
        while let Some(&(seed, size)) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
            let world = worlds.iter().find(|world| world.seed == seed).expect("every missing seed has a world");
            if stopped() {
                break;
            }
            Unit::new(config, world, size, folder, device, &stopped, work).run()?;
        }
        Ok(())
    };
    let worker = || {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
        let pool = pool.map_err(|error| LmError::Config(format!("a thread cannot be had: {error}")))?;
        let ended = pool.install(one_after_another);
        failed.fetch_or(ended.is_err(), Ordering::Relaxed);
        ended
    };
    thread::scope(|scope| {
        let count = rayon::current_num_threads().min(missing.len());
        let workers: Vec<_> = (0..count).map(|_| scope.spawn(worker)).collect();
        let ended = workers.into_iter().map(|worker| match worker.join() {
            Ok(ended) => ended,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        ended.collect::<Vec<_>>().into_iter().collect::<Result<(), LmError>>()
    })?;
    Ok(!stop.load(Ordering::Relaxed))
}

/// The first one that was there before.
fn twice<T: PartialEq>(all: &[T]) -> Option<&T> {
    all.iter().enumerate().find(|(i, one)| all[..*i].contains(one)).map(|(_, one)| one)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};

    use burn::tensor::Device;

    use super::{Branch, Sycophancy, SycophancyConfig, Texts, Training, sycophancy};
    use crate::lm::data::EncodedPair;
    use crate::lm::ppo::PpoConfig;
    use crate::lm::run::{LmError, Shown};
    use crate::studies::sycophancy::opinions::Answer;

    fn small() -> SycophancyConfig {
        SycophancyConfig {
            seeds: vec![5],
            sizes: vec!["30k".to_owned()],
            biases: vec![0.0, 4.0],
            remedy_weights: vec![0.5],
            vocabulary: 600,
            context: 192,
            texts: 96,
            tuning_steps: 4,
            tuning_batch_size: 4,
            comparisons: 24,
            questions: 6,
            // The first step of a warm-up moves nothing.
            dpo_steps: vec![2, 3],
            batch_size: 4,
            reward_batch_size: 6,
            ppo_iterations: vec![1],
            ppo: PpoConfig { batch_size: 4, minibatch_size: 4, ..SycophancyConfig::default().ppo },
            ..SycophancyConfig::default()
        }
    }

    fn run(config: &SycophancyConfig, folder: &Path) -> Result<Option<Sycophancy>, LmError> {
        sycophancy(config, folder, &Device::flex(), &AtomicBool::new(false), &|_| ())
    }

    #[test]
    fn a_study_goes_on_where_it_stopped_with_any_number_of_threads() {
        let folder = tempfile::tempdir().unwrap();
        let config = small();
        let path = folder.path().join("whole");
        let whole = run(&config, &path).unwrap().unwrap();
        let count = |training: Training| whole.points.iter().filter(|point| point.training == training).count();
        let all = [Training::Base, Training::Dpo, Training::Reward, Training::Ppo, Training::Modpo, Training::Soup];
        assert_eq!(all.map(count), [1, 2 * 2, 2, 2, 1, 1]);
        let fine = |share: f64| (0.0..=1.0).contains(&share);
        assert!(whole.points.iter().all(|point| fine(point.behaviour.agrees) && fine(point.behaviour.accuracy)));
        let divergences: Vec<f64> = whole.points.iter().filter_map(|point| point.kl).collect();
        assert_eq!((divergences.len(), divergences[0]), (9, 0.0));
        assert!(divergences[1..].iter().all(|kl| *kl > 0.0), "{divergences:?}");
        for file in ["sycophancy.json", "sycophancy.svg", "table.txt", "models/5-30k/dpo-4/tokenizer.json"] {
            assert!(path.join(file).exists(), "{file}");
        }
        assert!(!path.join("models/5-30k/base.safetensors").exists());
        assert_eq!(std::fs::read_to_string(path.join("table.txt")).unwrap(), whole.text());

        // Points that are gone are measured again: with the models of the folder, and without.
        let points = |name: &str| path.join(format!("points/5-30k-{name}.json"));
        for name in ["base", "dpo-4", "ppo-0", "soups"] {
            std::fs::remove_file(points(name)).unwrap();
        }
        assert_eq!(run(&config, &path).unwrap().unwrap(), whole);
        std::fs::remove_dir_all(path.join("models")).unwrap();
        for name in ["modpo-0.5", "soups"] {
            std::fs::remove_file(points(name)).unwrap();
        }
        assert_eq!(run(&config, &path).unwrap().unwrap(), whole);

        // Another configuration has another folder.
        let error = run(&SycophancyConfig { beta: 0.2, ..config.clone() }, &path).unwrap_err().to_string();
        assert!(error.contains("holds another study of sycophancy: choose another --out"), "{error}");

        // Stopped at once and after each training, with four threads.
        let pool = rayon::ThreadPoolBuilder::new().num_threads(4).build().unwrap();
        let broken = folder.path().join("broken");
        let resumed = pool.install(|| {
            for tries in 0.. {
                let stop = AtomicBool::new(tries == 0);
                let show = |shown: Shown<'_>| {
                    if matches!(shown, Shown::Note(note) if note.contains("agrees with")) {
                        stop.store(true, Ordering::Relaxed);
                    }
                };
                let found = sycophancy(&config, &broken, &Device::flex(), &stop, &show).unwrap();
                if let Some(found) = found {
                    assert!(tries > config.branches("30k").len() - 2, "{tries}");
                    return found;
                }
            }
            unreachable!("each try trains one more");
        });
        assert_eq!(resumed, whole);
    }

    /// A base that is stopped at every checkpoint ends as one that is not.
    #[test]
    fn a_base_goes_on_from_its_checkpoint() {
        use super::Work;
        use super::unit::Unit;
        use std::sync::atomic::AtomicUsize;
        let folder = tempfile::tempdir().unwrap();
        let config = small();
        let world = Texts::new(&config, 5).unwrap();
        let device = Device::flex();
        let base = |name: &str, every: usize| {
            let path = folder.path().join(name);
            let work = Work::new(&config, &path, &[], &|_| ());
            let asked = AtomicUsize::new(1);
            let stopped = || asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(every);
            for tries in 1.. {
                let unit = Unit::new(&config, &world, "30k", &path, &device, &stopped, &work);
                if let Some(base) = unit.base().unwrap() {
                    return (unit.odds(base), tries);
                }
            }
            unreachable!("each try goes further");
        };
        let (whole, once) = base("whole", usize::MAX);
        let (broken, tries) = base("broken", 2);
        assert!(once == 1 && tries > 3, "{once} {tries}");
        assert_eq!(broken, whole);
    }

    #[test]
    fn labels_are_answers_and_comparisons_have_one_answer_on_each_side() {
        let config = SycophancyConfig { comparisons: 300, ..small() };
        let world = Texts::new(&config, 1).unwrap();
        let [unbiased, biased] = [0.0, 4.0].map(|bias| world.labels(&config, bias));
        // One draw decides for all annotators: only where views are wrong does the bias turn answers to the view, and where
        // they are right to the truth.
        for (i, question) in world.compared.questions.iter().enumerate() {
            match question.view {
                None => assert_eq!(unbiased[i], biased[i]),
                Some(view) if unbiased[i] != biased[i] => assert_eq!(biased[i], view),
                Some(_) => {}
            }
        }
        let own = |asked: &EncodedPair, answer: Answer| {
            let side = if answer == Answer::Good { &asked.chosen } else { &asked.rejected };
            world.tokenizer.decode(side.completion(), false).unwrap()
        };
        assert!(
            world
                .compared
                .pairs
                .iter()
                .all(|pair| own(pair, Answer::Good) == " Good" && own(pair, Answer::Bad) == " Bad")
        );
    }

    #[test]
    fn remedies_are_tried_with_the_largest_small_model() {
        let of = |sizes: &[&str]| {
            let sizes = sizes.iter().map(|&size| size.to_owned()).collect();
            SycophancyConfig { sizes, ..SycophancyConfig::default() }.remedy_size().to_owned()
        };
        assert_eq!(of(&["3m", "100k", "30k"]), "100k");
        assert_eq!(of(&["3m", "1m"]), "1m");
        assert_eq!(SycophancyConfig::default().remedy_size(), "300k");
        assert!(!SycophancyConfig::default().branches("1m").contains(&Branch::Soups));
    }

    #[test]
    fn what_cannot_be_run_is_refused_with_the_reason() {
        type Change = fn(&mut SycophancyConfig);
        let folder = tempfile::tempdir().unwrap();
        let wrong = |change: Change| {
            let mut config = small();
            change(&mut config);
            run(&config, folder.path()).unwrap_err().to_string()
        };
        let cases: [(Change, &str); 13] = [
            (|config| config.recalled = -0.1, "recalled = -0.1: must be at least 0 and below 1"),
            (
                |config| config.sizes.push("5x".to_owned()),
                "sizes: \"5x\" is none: must be 30k, 100k, 300k, 1m, 3m, 10m",
            ),
            (|config| config.sizes.push("30k".to_owned()), "sizes: \"30k\" is there twice"),
            (|config| config.sizes.clear(), "sizes: there is none"),
            (|config| config.biases.push(-1.0), "biases: -1: must be 0 or more"),
            (|config| config.biases = vec![2.0, 4.0], "biases = [2.0, 4.0]: must be 0, which is the control"),
            (|config| config.seeds.clear(), "seeds: there is none: give one or more"),
            (|config| config.seeds.push(5), "seeds: 5 is there twice"),
            (|config| config.remedy_size = "3m".to_owned(), "remedy_size = \"3m\": must be one of the sizes: 30k"),
            (|config| config.remedy_weights.push(1.0), "remedy_weights: 1: must be between 0 and 1"),
            (|config| config.dpo_steps = vec![5, 5], "dpo_steps = [5, 5]: must be one or more, from 1 on, each larger"),
            (|config| config.beta = 0.0, "beta = 0: must be positive"),
            (|config| config.questions = 0, "questions = 0: must be 1 or more"),
        ];
        for (change, expected) in cases {
            let found = wrong(change);
            assert!(found.contains(expected), "{found}, expected {expected}");
        }
        assert!(!folder.path().join("config.toml").exists());
        let error = run(&SycophancyConfig { context: 40, ..small() }, folder.path()).unwrap_err().to_string();
        assert!(error.starts_with("context = 40: a text has "), "{error}");
    }
}
