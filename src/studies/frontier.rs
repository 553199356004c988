//! The reward-KL frontier of Rafailov et al. 2023 (arXiv 2305.18290, figure 2 left): how much gold reward a method gets
//! for how far it moves from the model it began with.
//!
//! For each seed a model is trained on the corpus; it completes prompts, the gold reward says which of two completions
//! is better, and every method learns from these comparisons with several strengths of its pull to the reference (β, or
//! a target of the divergence). Along the way each policy completes held-out prompts: one point of the frontier is the
//! mean divergence over whole sampled completions, and their mean gold reward. The table says what a method gets within
//! a divergence: its policy is chosen by one half of the held-out prompts and reported by the other, so that a method
//! with more points gains nothing from the best of more noise.

use std::fs;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use burn::tensor::Device;
use clap::ValueEnum;
use rayon::iter::{IntoParallelRefIterator as _, ParallelIterator as _};
use serde::{Deserialize, Serialize};

use crate::disk::DiskError;
use crate::disk::figure::{self, Series, SeriesPoint};
use crate::disk::lock::Claim;
use crate::lm::data::{Encoded, EncodedPair};
use crate::lm::diagnose::{self, Estimate};
use crate::lm::dpo::{self, Dpo, Reference};
use crate::lm::error::LmError;
use crate::lm::folder::with_scores;
use crate::lm::gold::Gold;
use crate::lm::loss::{IPO_SUM, Loss, LossConfig, SIGMOID};
use crate::lm::model::Decoder;
use crate::lm::optim::Schedule;
use crate::lm::ppo::{self, Ppo, PpoConfig};
use crate::lm::run::{LmProgress, Show};
use crate::lm::sample::Completion;
use crate::lm::sft::{Normalization, Sft};
use crate::lm::train::{self, Stage, TrainConfig, Trainee};
use crate::preference::statistics::{bootstrap_interval, mean};
use crate::random::stream;
use crate::studies::beginning::{
    Beginning, PAIR_PART_TOKENS, Study, StudyConfig, begin, by_prompt, check_gold, comparisons, corpus_name, io,
    judged, optimizer, read_json, reward_model, same_config, unless, write_json,
};
use crate::table::Line;

/// The configuration of a frontier.
pub type FrontierConfig = Study<FrontierOwn>;

/// The fields that only a frontier has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FrontierOwn {
    /// Gold reward; empty for the sentiment of reviews and of IMDB.
    pub gold: String,
    /// The methods to run.
    pub methods: Vec<Method>,
    /// How often each run is measured.
    pub measurements: usize,
    /// β of DPO and cDPO, τ of IPO.
    pub betas: Vec<f64>,
    /// Target divergences of PPO, nats.
    pub target_kls: Vec<f64>,
    /// Numbers of completions that best-of-n chooses from.
    pub best_of: Vec<usize>,
}

/// Values of [`FrontierConfig`] for IMDB.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct ImdbLayer {
    size: &'static str,
    vocabulary: usize,
    context: usize,
    pretrain_epochs: f64,
    seeds: [u64; 1],
    prompts: usize,
    eval_prompts: usize,
    max_new_tokens: usize,
    steps: usize,
    measurements: usize,
    betas: [f64; 2],
    target_kls: [f64; 2],
    ppo_iterations: usize,
}

/// Ways to learn from comparisons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// DPO.
    Dpo,
    /// DPO with a share of 0.1 of the labels taken to be flipped.
    Cdpo,
    /// IPO with summed log-ratios.
    Ipo,
    /// PPO on a reward model fitted to the comparisons.
    Ppo,
    /// PPO on the gold reward.
    PpoGold,
    /// Fine-tuning on the chosen completions.
    PreferredFt,
    /// The best of n completions by the reward model. Its divergence is not sampled but the bound ln n − (n − 1)/n
    /// (Beirami et al. 2024, arXiv 2401.01879).
    BestOfN,
}

/// One measurement of one policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// How it was trained.
    pub method: Method,
    /// Its strength: β, target divergence, n.
    pub setting: f64,
    /// Seed.
    pub seed: u64,
    /// Steps or iterations taken.
    pub step: usize,
    /// Divergence from the reference over whole completions, nats.
    pub kl: Estimate,
    /// Gold reward.
    pub gold: Estimate,
    /// Divergence and gold reward over the first and over the second half of the prompts.
    pub halves: [[f64; 2]; 2],
    /// Tokens of a completion.
    pub length: f64,
}

/// The frontier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Frontier {
    /// What was run.
    pub config: FrontierConfig,
    /// Gold reward of the model that all begin with, for each seed.
    pub start: Vec<f64>,
    /// How often the reward model agrees with the gold reward on comparisons it was not fitted to, for each seed.
    pub reward_accuracy: Vec<Option<f64>>,
    /// All measurements.
    pub points: Vec<Point>,
    /// Gold reward within a divergence, by method.
    pub table: Vec<Row>,
}

/// A method's gold reward within some divergences.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Which method.
    pub method: Method,
    /// For each of [`BUDGETS`] the reward of the best measured policy that diverges no further, chosen by one half of the
    /// held-out prompts and reported by the other, both ways: mean over seeds.
    pub reward: Vec<Option<f64>>,
    /// 95 % bootstrap interval of that mean; of a single seed there is none.
    pub interval: Vec<Option<[f64; 2]>>,
}

/// Divergences that methods are compared at, nats.
pub const BUDGETS: [f64; 3] = [2.0, 5.0, 10.0];

/// A method: what it is called, the settings it is run with, and how it learns.
struct Recipe<'a> {
    name: &'static str,
    settings: &'a [f64],
    way: Way,
}

/// How a method learns.
enum Way {
    /// From comparisons, by a loss with this label smoothing; the setting is β.
    Compares(&'static Line<Loss>, f64),
    /// From the chosen completions.
    Imitates,
    /// PPO on the reward model, with a target for the divergence.
    ReinforcesLearned,
    /// The same on the gold reward.
    ReinforcesGold,
    /// Not at all: it chooses by the reward model.
    Chooses,
}

impl Method {
    /// A new method is a variant, and an arm here.
    fn recipe(self, config: &FrontierOwn) -> Recipe<'_> {
        let of = |name, settings, way| Recipe { name, settings, way };
        match self {
            Self::Dpo => of("DPO", &config.betas, Way::Compares(&SIGMOID, 0.0)),
            Self::Cdpo => of("cDPO", &config.betas, Way::Compares(&SIGMOID, 0.1)),
            Self::Ipo => of("IPO", &config.betas, Way::Compares(&IPO_SUM, 0.0)),
            Self::Ppo => of("PPO", &config.target_kls, Way::ReinforcesLearned),
            Self::PpoGold => of("PPO, true reward", &config.target_kls, Way::ReinforcesGold),
            // Its one setting is the learning rate.
            Self::PreferredFt => of("preferred-FT", &[1.0], Way::Imitates),
            Self::BestOfN => of("best of n (bound)", &[0.0], Way::Chooses),
        }
    }

    /// As it is called in figures.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.recipe(&FrontierOwn::default()).name
    }
}

impl Default for FrontierOwn {
    fn default() -> Self {
        Self {
            gold: String::new(),
            methods: Method::value_variants().to_vec(),
            measurements: 5,
            // Over the paper's range (§C.2), and its targets.
            betas: vec![0.05, 0.3, 1.0, 5.0],
            target_kls: vec![3.0, 6.0, 9.0, 12.0],
            best_of: vec![2, 4, 8, 16, 32],
        }
    }
}

impl Default for FrontierConfig {
    /// A million parameters on the embedded world, three seeds: less than an hour on two cores.
    fn default() -> Self {
        // Scores of a reward model differ by several units, and β has to settle within a few iterations.
        let ppo = PpoConfig { kl_coefficient: 0.2, kl_horizon: 32.0, ..PpoConfig::default() };
        Self { own: FrontierOwn::default(), common: StudyConfig::reviews(ppo) }
    }
}

impl FrontierConfig {
    /// What is different for IMDB: longer texts of more words, a larger model, one seed. A step costs eight times as much
    /// as in the embedded world, so there are fewer of them, and fewer runs.
    #[must_use]
    pub fn imdb_layer() -> ImdbLayer {
        ImdbLayer {
            size: "3m",
            vocabulary: 4096,
            context: 128,
            pretrain_epochs: 0.5,
            seeds: [0],
            prompts: 768,
            eval_prompts: 192,
            max_new_tokens: 48,
            steps: 60,
            measurements: 3,
            betas: [0.05, 0.3],
            target_kls: [3.0, 9.0],
            ppo_iterations: 8,
        }
    }

    /// Runs of a seed: method and setting.
    fn runs(&self) -> Vec<(Method, f64)> {
        let of = |&method: &Method| {
            method.recipe(&self.own).settings.iter().map(move |&setting| (method, setting)).collect::<Vec<_>>()
        };
        self.own.methods.iter().flat_map(of).collect()
    }

    /// Checks the numbers.
    ///
    /// # Errors
    /// [`LmError::Config`], naming the first one out of range.
    pub fn validate(&self) -> Result<(), LmError> {
        let Self { own, common } = self;
        let wrong = |problem: String| Err(LmError::Config(problem));
        common.validate(&[("measurements", own.measurements), ("methods", own.methods.len())], &[])?;
        if common.eval_prompts < 2 {
            let found = common.eval_prompts;
            return wrong(format!(
                "eval_prompts = {found}: must be 2 or more: one half chooses, the other is reported"
            ));
        }
        if common.prompts < HELD_OUT {
            return wrong(format!("prompts = {}: must be {HELD_OUT} or more", common.prompts));
        }
        if let Some(beta) = own.betas.iter().find(|beta| !(1e-9..=1e6).contains(*beta)) {
            return wrong(format!("betas: {beta}: must be between 1e-9 and 1e6"));
        }
        if let Some(target) = own.target_kls.iter().find(|target| !(**target > 0.0 && target.is_finite())) {
            return wrong(format!("target_kls: {target} is not positive"));
        }
        match own.best_of.iter().any(|&n| n < 2) {
            true => wrong("best_of: each must be 2 or more".to_owned()),
            false => Ok(()),
        }
    }
}

/// What all runs of a seed share.
struct Shared {
    begun: Beginning,
    gold: Box<dyn Gold>,
    pairs: Vec<EncodedPair>,
    /// The pairs of each prompt.
    groups: Vec<Range<usize>>,
    reference: Vec<[f64; 2]>,
    reward_model: Option<Decoder>,
    reward_accuracy: Option<f64>,
}

/// Measured once for a seed.
#[derive(Debug, Serialize, Deserialize)]
struct Start {
    gold: f64,
    reward_accuracy: Option<f64>,
}

/// Runs everything that the folder does not hold yet, and writes table, JSON and figure. `show` is told of what goes on.
///
/// # Errors
/// [`LmError`]; what was measured before is kept, and a later call goes on from there.
pub fn frontier(
    config: &FrontierConfig,
    folder: &Path,
    device: &Device,
    stop: &AtomicBool,
    show: &Show<'_>,
) -> Result<Option<Frontier>, LmError> {
    config.validate()?;
    check_gold(&config.common.corpus, &config.own.gold)?;
    let points = folder.join("points");
    let _claim = Claim::make(folder).map_err(DiskError::from)?;
    fs::create_dir_all(&points).map_err(|source| io(&points, "make the folder", source))?;
    same_config(config, "frontier", folder)?;
    let runs = config.runs();
    let total = runs.len() * config.common.seeds.len();
    let finished = AtomicUsize::new(0);
    let file = |seed: u64, &(method, setting): &(Method, f64)| {
        points.join(format!("{seed}-{}-{setting}.json", serde_json::json!(method).as_str().unwrap_or_default()))
    };
    let (mut start, mut reward_accuracy) = (Vec::new(), Vec::new());
    for &seed in &config.common.seeds {
        let start_file = points.join(format!("{seed}-start.json"));
        let missing: Vec<(Method, f64)> = runs.iter().filter(|run| !file(seed, run).exists()).copied().collect();
        finished.fetch_add(runs.len() - missing.len(), Ordering::Relaxed);
        if !missing.is_empty() || !start_file.exists() {
            let Some(shared) = shared(config, seed, folder, device, stop, show)? else { return Ok(None) };
            let gold = measure(&shared, &shared.begun.start, Method::PreferredFt, 0.0, 0)?.gold.mean;
            write_json(&start_file, &Start { gold, reward_accuracy: shared.reward_accuracy })?;
            let run = |one: &(Method, f64)| -> Result<(), LmError> {
                let Some(found) = measured(config, &shared, *one, stop)? else { return Ok(()) };
                write_json(&file(seed, one), &found)?;
                let done = finished.fetch_add(1, Ordering::Relaxed) + 1;
                let best = found.last().map_or(f64::NAN, |point| point.gold.mean);
                show(LmProgress::Note(&format!(
                    "seed {seed}: {} {} ends with gold reward {best:.3}",
                    one.0.name(),
                    one.1
                )));
                show(LmProgress::Preparing("runs", done, total));
                Ok(())
            };
            missing.par_iter().map(run).collect::<Result<(), LmError>>()?;
            if stop.load(Ordering::Relaxed) {
                return Ok(None);
            }
        }
        let of_start: Start = read_json(&start_file)?;
        start.push(of_start.gold);
        reward_accuracy.push(of_start.reward_accuracy);
    }
    let mut all = Vec::new();
    for &seed in &config.common.seeds {
        for run in &runs {
            all.extend(read_json::<Vec<Point>>(&file(seed, run))?);
        }
    }
    let table = config.own.methods.iter().map(|&method| row(config, &all, method)).collect();
    let frontier = Frontier { config: config.clone(), start, reward_accuracy, points: all, table };
    write_json(&folder.join("frontier.json"), &frontier)?;
    draw(&frontier, &folder.join("frontier.svg"))?;
    Ok(Some(frontier))
}

// --------------------------------------------------------------------------------------------------------- the shared

fn shared(
    config: &FrontierConfig,
    seed: u64,
    folder: &Path,
    device: &Device,
    stop: &AtomicBool,
    show: &Show<'_>,
) -> Result<Option<Shared>, LmError> {
    let Some(begun) = begin(&config.common, seed, folder, device, stop, show)? else { return Ok(None) };
    // Comparisons: the model's own completions, judged by the gold reward.
    let gold = begun.open_gold(&config.own.gold)?;
    let scores = diagnose::gold_scores(&*gold, &begun.tokenizer, &begun.repeated, &begun.completions)?;
    let (mut pairs, _) = begun.compared(&scores);
    if pairs.is_empty() {
        return Err(LmError::Config(format!(
            "seed {seed}: no two completions of a prompt differ in gold reward, so there is nothing to compare: \
             the model has learned too little from its corpus (raise texts, pretrain_epochs, or max_new_tokens), or \
             there are too few prompts"
        )));
    }
    // No method learns from the last prompts: they show how good the reward model is.
    let first_held_out = begun.prompts.len() - begun.prompts.len() / HELD_OUT;
    // At least one pair is left to learn from.
    let learned = pairs.partition_point(|pair| pair.row < first_held_out).max(1);
    let held_out = pairs.split_off(learned);
    let reference = dpo::log_probs(&begun.start, &pairs, PAIR_PART_TOKENS, &|_| ());
    let groups = by_prompt(&pairs);

    let mut reward_accuracy = None;
    let judges = |method: &Method| matches!(method.recipe(&config.own).way, Way::ReinforcesLearned | Way::Chooses);
    let learned = config.own.methods.iter().any(judges);
    let reward_model = match learned {
        false => None,
        true => {
            show(LmProgress::Note(&format!("seed {seed}: fitting the reward model to {} comparisons", pairs.len())));
            let model = reward_model(&config.common, &begun.start, &pairs, &groups, seed)?;
            if !held_out.is_empty() {
                let sides: Vec<Encoded> =
                    held_out.iter().flat_map(|pair| [pair.chosen.clone(), pair.rejected.clone()]).collect();
                let agree = judged(&model, &sides).chunks_exact(2).filter(|both| both[0] > both[1]).count();
                let accuracy = agree as f64 / held_out.len() as f64;
                show(LmProgress::Note(&format!(
                    "seed {seed}: the reward model is right about {:.1} % of {} held-out comparisons",
                    100.0 * accuracy,
                    held_out.len()
                )));
                reward_accuracy = Some(accuracy);
            }
            Some(model)
        }
    };
    Ok(Some(Shared { begun, gold, pairs, groups, reference, reward_model, reward_accuracy }))
}

/// No method learns from one prompt in so many.
const HELD_OUT: usize = 16;

// ------------------------------------------------------------------------------------------------------------ the runs

/// The points of one run; `None` if it was stopped.
fn measured(
    config: &FrontierConfig,
    shared: &Shared,
    (method, setting): (Method, f64),
    stop: &AtomicBool,
) -> Result<Option<Vec<Point>>, LmError> {
    if stop.load(Ordering::Relaxed) {
        return Ok(None);
    }
    let run = Run { config, shared, method, setting, stop };
    match method.recipe(&config.own).way {
        Way::Compares(kind, label_smoothing) => run.learn(&Dpo {
            pairs: shared.pairs.clone(),
            loss: LossConfig { kind, beta: setting, label_smoothing, ..LossConfig::default() },
            reference: Reference::LogProbs(shared.reference.clone()),
        }),
        Way::Imitates => {
            let examples = shared.pairs.iter().map(|pair| pair.chosen.clone()).collect();
            run.learn(&Sft { examples, normalization: Normalization::TokenMean })
        }
        Way::ReinforcesLearned => run.reinforce(shared.reward_model.as_ref()),
        Way::ReinforcesGold => run.reinforce(None),
        Way::Chooses => best_of_n(config, shared).map(Some),
    }
}

/// A run: a method at a setting.
struct Run<'a> {
    config: &'a FrontierConfig,
    shared: &'a Shared,
    method: Method,
    setting: f64,
    stop: &'a AtomicBool,
}

impl Run<'_> {
    /// Training on the comparisons, measured along the way.
    fn learn<S: Stage>(&self, stage: &S) -> Result<Option<Vec<Point>>, LmError> {
        let (Shared { begun, groups, .. }, StudyConfig { steps, .. }) = (self.shared, &self.config.common);
        let train = TrainConfig {
            steps: *steps,
            batch_size: self.config.common.batch_size,
            part_tokens: PAIR_PART_TOKENS,
            optimizer: optimizer(self.config.common.learning_rate, Schedule::Linear),
            ..TrainConfig::default()
        };
        let mut points = Vec::new();
        let at = moments(*steps, self.config.own.measurements);
        let batch = |step| comparisons(&train, groups, begun.seed, step);
        let mut trainee = Trainee::new(begun.start.clone());
        let ended = train::run(&mut trainee, stage, &train, *steps, &batch, begun.seed, &mut |trainee, _, _| {
            self.measured(&at, trainee.step, &trainee.model, &mut points)
        })?;
        Ok(ended.is_continue().then_some(points))
    }

    /// PPO with a target for the divergence on a reward model, or on the gold reward; measured along the way.
    fn reinforce(&self, judge: Option<&Decoder>) -> Result<Option<Vec<Point>>, LmError> {
        let Shared { begun, gold, reward_model, .. } = self.shared;
        let config = PpoConfig { target_kl: Some(self.setting), ..self.config.common.ppo() };
        let value = reward_model.clone().unwrap_or_else(|| with_scores(&begun.start, 1, begun.seed));
        let reward = |rows: &[(usize, &Completion)]| match judge {
            Some(model) => Ok(judged(model, &begun.rolled_out(rows))),
            None => {
                let (prompts, completions): (Vec<Vec<u32>>, Vec<Completion>) =
                    rows.iter().map(|&(prompt, written)| (begun.prompts[prompt].clone(), written.clone())).unzip();
                diagnose::gold_scores(&**gold, &begun.tokenizer, &prompts, &completions)
            }
        };
        let mut points = Vec::new();
        let at = moments(config.iterations, self.config.own.measurements);
        let mut state = Ppo::new(begun.start.clone(), value, &config);
        let Beginning { start, prompts, eos, seed, .. } = begun;
        let ended = ppo::run(&mut state, start, prompts, eos, &config, *seed, &reward, &mut |state, _| {
            self.measured(&at, state.iteration, &state.policy.model, &mut points)
        })?;
        Ok(ended.is_continue().then_some(points))
    }

    /// Measures the policy if `at` has its step; training goes on unless it was stopped.
    fn measured(
        &self,
        at: &[usize],
        step: usize,
        model: &Decoder,
        points: &mut Vec<Point>,
    ) -> Result<ControlFlow<()>, LmError> {
        if at.contains(&step) {
            points.push(measure(self.shared, model, self.method, self.setting, step)?);
        }
        Ok(unless(self.stop.load(Ordering::Relaxed)))
    }
}

/// The reward model's choice among n completions of the start: the mean over all choices of n from those that were
/// written (Nakano et al. 2021, arXiv 2112.09332, appendix I).
fn best_of_n(config: &FrontierConfig, shared: &Shared) -> Result<Vec<Point>, LmError> {
    let Shared { begun, gold, reward_model, .. } = shared;
    let Some(model) = reward_model else { return Ok(Vec::new()) };
    let most = config.own.best_of.iter().copied().max().unwrap_or(0);
    // As many completions in all as four measurements of another method.
    let all = config.common.eval_prompts;
    let count = (4 * all / most.max(1)).clamp(2, all);
    let (repeated, completions) = begun.several(&begun.eval_prompts[..count], most);
    let sequences: Vec<Encoded> =
        repeated.iter().zip(&completions).map(|(prompt, own)| Encoded::new(prompt, &own.ids)).collect();
    let scores = judged(model, &sequences);
    let gold = diagnose::gold_scores(&**gold, &begun.tokenizer, &repeated, &completions)?;
    let point = |&n: &usize| {
        // Of each prompt: the gold reward and the length expected of the best.
        let mut expected = [Vec::with_capacity(count), Vec::with_capacity(count)];
        for group in 0..count {
            let mut order: Vec<usize> = (group * most..(group + 1) * most).collect();
            order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]).then(b.cmp(&a)));
            let shares = shares_of_best(most, n);
            let mean =
                |value: &dyn Fn(usize) -> f64| order.iter().zip(&shares).map(|(&i, share)| share * value(i)).sum();
            expected[0].push(mean(&|i| gold[i]));
            expected[1].push(mean(&|i| completions[i].ids.len() as f64));
        }
        let [gold, lengths] = expected;
        let n = n as f64;
        let kl = n.ln() - (n - 1.0) / n;
        Point {
            method: Method::BestOfN,
            setting: n,
            seed: begun.seed,
            step: 0,
            kl: Estimate { mean: kl, error: Some(0.0) },
            halves: halves(&vec![kl; gold.len()], &gold),
            gold: Estimate::of(&gold),
            length: Estimate::of(&lengths).mean,
        }
    };
    Ok(config.own.best_of.iter().map(point).collect())
}

/// How often each of `count` things, the worst first, is the best of `n` of them: C(i, n − 1) / C(count, n).
fn shares_of_best(count: usize, n: usize) -> Vec<f64> {
    let mut shares = vec![0.0; count];
    // From the best down: n/count, and each a factor (i + 1 − n + 1)/(i + 1) of the one above.
    let mut share = n as f64 / count as f64;
    for i in (n.max(1) - 1..count).rev() {
        shares[i] = share;
        share *= (i + 1 - n) as f64 / i.max(1) as f64;
    }
    shares
}

fn measure(shared: &Shared, model: &Decoder, method: Method, setting: f64, step: usize) -> Result<Point, LmError> {
    let Shared { begun, gold, .. } = shared;
    let completions = begun.write(model);
    let kl = begun.divergences(model, &completions);
    let gold = begun.gold_of(&**gold, &completions)?;
    let lengths: Vec<f64> = completions.iter().map(|completion| completion.ids.len() as f64).collect();
    Ok(Point {
        method,
        setting,
        seed: begun.seed,
        step,
        kl: Estimate::of(&kl),
        gold: Estimate::of(&gold),
        halves: halves(&kl, &gold),
        length: Estimate::of(&lengths).mean,
    })
}

/// Means over the first and over the second half of the completions.
fn halves(kl: &[f64], gold: &[f64]) -> [[f64; 2]; 2] {
    let middle = gold.len() / 2;
    let mean = |values: &[f64]| Estimate::of(values).mean;
    [[mean(&kl[..middle]), mean(&gold[..middle])], [mean(&kl[middle..]), mean(&gold[middle..])]]
}

/// Steps at which a run is measured: close together at first, where policies move fastest.
fn moments(steps: usize, count: usize) -> Vec<usize> {
    let mut all: Vec<usize> =
        (1..=count).map(|i| ((steps as f64) * (i as f64 / count as f64).powf(1.5)).round().max(1.0) as usize).collect();
    all.dedup();
    all
}

// ---------------------------------------------------------------------------------------------------------- the result

/// The reward of the best measured policy of this method and seed that diverges no further than `budget`: chosen by one
/// half of the prompts, reported by the other, both ways.
fn within(points: &[Point], method: Method, seed: u64, budget: f64) -> Option<f64> {
    let by = |half: usize| -> Option<f64> {
        let own = points.iter().filter(|point| point.method == method && point.seed == seed);
        let best = own.filter(|point| point.halves[half][0] <= budget);
        let best = best.max_by(|a, b| a.halves[half][1].total_cmp(&b.halves[half][1]))?;
        Some(best.halves[1 - half][1])
    };
    Some(0.5 * (by(0)? + by(1)?))
}

/// The mean over seeds, with its interval if there are several; nothing where a seed has no policy within the budget.
fn over_seeds(
    config: &FrontierConfig,
    points: &[Point],
    method: Method,
    budget: f64,
) -> Option<(f64, Option<[f64; 2]>)> {
    let values: Option<Vec<f64>> =
        config.common.seeds.iter().map(|&seed| within(points, method, seed, budget)).collect();
    let values = values?;
    let interval = bootstrap_interval(&values, mean, 0.95, &mut stream(0, "frontier-interval", 0));
    Some((mean(&values), interval))
}

fn row(config: &FrontierConfig, points: &[Point], method: Method) -> Row {
    let found = BUDGETS.map(|budget| over_seeds(config, points, method, budget));
    Row {
        method,
        reward: found.iter().map(|found| found.map(|(reward, _)| reward)).collect(),
        interval: found.iter().map(|found| found.and_then(|(_, interval)| interval)).collect(),
    }
}

/// The figure: a dot for every policy measured, and for each method the best reward within each divergence.
fn draw(frontier: &Frontier, path: &Path) -> Result<(), LmError> {
    let Frontier { config, points, .. } = frontier;
    let of_method = |&method: &Method| {
        let own = points.iter().filter(|point| point.method == method);
        series(config, points, method, own.map(|point| point.kl.mean).fold(0.0, f64::max).min(LARGEST_KL))
    };
    let all: Vec<Series> = config.own.methods.iter().map(of_method).collect();
    let seeds = config.common.seeds.len();
    let title = format!(
        "{}, {} parameters, {seeds} seed{}",
        corpus_name(&config.common.corpus),
        config.common.size,
        if seeds == 1 { "" } else { "s" }
    );
    Ok(figure::curves(path, &title, ["sampled sequence KL to the reference, nats", "gold reward"], &all)?)
}

/// A dot for every policy of a method, and the method's best reward within each divergence up to `last`.
pub(crate) fn series(config: &FrontierConfig, points: &[Point], method: Method, last: f64) -> Series {
    let own = points.iter().filter(|point| point.method == method && point.kl.mean <= LARGEST_KL);
    let dots = own.map(|point| (point.kl.mean.max(0.0), point.gold.mean)).collect();
    let grid = (1..=60).map(|i| f64::from(i) * 0.25).filter(|x| *x <= last + 0.25);
    let point = |x: f64| {
        let (y, interval) = over_seeds(config, points, method, x)?;
        Some(SeriesPoint { x, y, interval })
    };
    Series { name: method.name().to_owned(), points: grid.filter_map(point).collect(), dots }
}

/// The figure's right end, nats.
pub const LARGEST_KL: f64 = 15.0;

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::path::Path;
    use std::sync::atomic::AtomicBool;

    use burn::tensor::Device;
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use clap::ValueEnum as _;

    use super::{
        BUDGETS, Estimate, FrontierConfig, FrontierOwn, Method, Point, StudyConfig, frontier, shares_of_best, within,
    };
    use crate::lm::reviews;
    use crate::random::stream;

    #[test]
    fn the_best_of_n_is_the_mean_over_all_choices() {
        // Of 0, 1, 2, 3 any two: the best is 1 once, 2 twice, 3 three times.
        let shares = shares_of_best(4, 2);
        assert!(shares.iter().zip([0.0, 1.0, 2.0, 3.0]).all(|(share, times)| (share - times / 6.0).abs() < 1e-15));
        assert_eq!(shares_of_best(3, 3), [0.0, 0.0, 1.0]);
        assert!((shares_of_best(64, 7).iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn policies_are_chosen_by_one_half_and_reported_by_the_other() {
        let none = Estimate { mean: 0.0, error: None };
        let point = |halves| Point {
            method: Method::Dpo,
            setting: 0.1,
            seed: 3,
            step: 1,
            kl: none,
            gold: none,
            halves,
            length: 1.0,
        };
        let points = [
            // Best by the first half, good by the second.
            point([[1.0, 0.9], [1.5, 0.2]]),
            // Best by the second.
            point([[1.2, 0.3], [1.1, 0.8]]),
            // Better than both, too far for the first half only.
            point([[2.5, 1.0], [1.9, 0.9]]),
        ];
        assert_eq!(within(&points, Method::Dpo, 3, 2.0), Some(0.5 * (0.2 + 1.0)));
        assert_eq!(within(&points, Method::Dpo, 3, 1.3), Some(0.5 * (0.2 + 0.3)));
        assert_eq!(within(&points, Method::Dpo, 3, 1.0), None);
        assert_eq!(within(&points, Method::Ppo, 3, 2.0), None);
        assert_eq!(within(&points, Method::Dpo, 4, 2.0), None);
    }

    /// Reviews in the files of the IMDB corpus: its gold reward, a regression, judges whatever an untrained model writes.
    fn reviews_as_imdb(folder: &Path) -> String {
        for (part, first) in [("train", 0), ("test", 1000)] {
            let mut texts = [String::new(), String::new()];
            for i in first..first + 150 {
                let review = reviews::review(&mut stream(0, "review", i));
                let row = serde_json::json!({ "text": review.text }).to_string() + "\n";
                texts[usize::from(review.attributes.sentiment > 0.0)].push_str(&row);
            }
            for (side, text) in ["neg", "pos"].iter().zip(&texts) {
                let mut file = GzEncoder::new(Vec::new(), Compression::fast());
                file.write_all(text.as_bytes()).unwrap();
                std::fs::write(folder.join(format!("{part}.{side}.jsonl.gz")), file.finish().unwrap()).unwrap();
            }
        }
        format!("imdb:{}", folder.display())
    }

    /// Everything once, small: what it measures stays measured, and its parts are the same whenever they are made.
    #[test]
    fn a_frontier_goes_on_where_it_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = FrontierConfig::default();
        config.common = StudyConfig {
            corpus: reviews_as_imdb(folder.path()),
            size: "30k".to_owned(),
            vocabulary: 300,
            context: 48,
            seeds: vec![0, 1],
            prompts: 16,
            completions: 2,
            eval_prompts: 6,
            max_new_tokens: 12,
            batch_size: 4,
            steps: 2,
            ppo_iterations: 1,
            ..config.common
        };
        config.own =
            FrontierOwn { measurements: 2, betas: vec![0.1], target_kls: vec![3.0], best_of: vec![2, 4], ..config.own };
        let device = Device::flex();
        let run = |name: &str| {
            frontier(&config, &folder.path().join(name), &device, &AtomicBool::new(false), &|_| ()).unwrap().unwrap()
        };
        let whole = run("whole");
        assert_eq!(whole.table.len(), Method::value_variants().len());
        for &method in Method::value_variants() {
            let points: Vec<&Point> = whole.points.iter().filter(|point| point.method == method).collect();
            // Two measurements of two seeds, of PPO one, as it has one iteration.
            let one = matches!(method, Method::Ppo | Method::PpoGold);
            assert_eq!(points.len(), if one { 2 } else { 4 }, "{method:?}");
            assert!(points.iter().all(|point| point.gold.mean.is_finite() && point.kl.mean.is_finite()));
        }
        assert!(whole.table.iter().all(|row| row.reward.len() == BUDGETS.len()));
        assert!(folder.path().join("whole/frontier.svg").exists());
        // Lost measurements are made again, and are the same.
        let points = folder.path().join("whole/points");
        std::fs::remove_file(points.join("1-dpo-0.1.json")).unwrap();
        std::fs::remove_file(points.join("0-ppo-3.json")).unwrap();
        assert_eq!(run("whole"), whole);
        // A folder belongs to its configuration.
        let mut other = config.clone();
        other.common.steps = 3;
        let error = frontier(&other, &folder.path().join("whole"), &device, &AtomicBool::new(false), &|_| ());
        assert!(error.unwrap_err().to_string().contains("holds another frontier"));
    }

    #[test]
    fn a_model_that_never_judges_is_refused_with_a_reason() {
        let mut config = FrontierConfig::default();
        config.common = StudyConfig {
            size: "30k".to_owned(),
            vocabulary: 300,
            texts: 50,
            seeds: vec![7],
            prompts: 16,
            eval_prompts: 4,
            max_new_tokens: 2,
            ..config.common
        };
        let folder = tempfile::tempdir().unwrap();
        let error = frontier(&config, folder.path(), &Device::flex(), &AtomicBool::new(false), &|_| ()).unwrap_err();
        assert!(error.to_string().starts_with("seed 7: no two completions of a prompt differ"), "{error}");
    }
}
