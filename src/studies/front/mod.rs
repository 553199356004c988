//! Fronts of several objectives: what each way of weighing them gets, and what it costs.
//!
//! For each seed a model is trained on the corpus and completes prompts; every objective, a gold reward, says which of
//! two completions of a prompt is better. From these comparisons the methods make policies for the same weights of the
//! objectives. Every policy completes held-out prompts, and a point of a front is the mean of each objective over these,
//! in standard deviations above the model that all begin with. All methods share what can be shared: the model, the
//! comparisons, the policies of single objectives, the reward models; each is charged for all that it needs.

mod config;
mod table;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;

use crate::disk::lock::Claim;
use crate::disk::{Clock, DiskError};
use crate::lm::data::{Encoded, EncodedPair};
use crate::lm::diagnose::{self, Estimate};
use crate::lm::dpo::{Dpo, Reference};
use crate::lm::error::LmError;
use crate::lm::folder::{self, with_scores};
use crate::lm::gold::Gold;
use crate::lm::loss::LossConfig;
use crate::lm::merge::mixed;
use crate::lm::model::Decoder;
use crate::lm::modpo::{Modpo, ModpoLoss, Scale};
use crate::lm::optim::Schedule;
use crate::lm::ppo::{self, Ppo};
use crate::lm::run::{LmProgress, Show};
use crate::lm::sample::{Completion, generate_mixed};
use crate::lm::score;
use crate::lm::train::{self, Stage, TrainConfig, Trainee};
use crate::preference::pearson;
use crate::soup::grid;
use crate::studies::beginning::{
    Beginning, PAIR_PART_TOKENS, PART_TOKENS, StudyConfig, begin, by_prompt, check_gold, comparisons, io, judged,
    optimizer, read_json, reward_model, same_config, unless, write_json,
};
pub use config::{FrontConfig, FrontOwn, Method, Point, Start};
use table::{COST, Cost, costs_of, draw, row};
pub use table::{ChordRow, Fronts, Row};

/// A method: what it is called, what it needs of every single objective, and how it makes policies of it.
struct Recipe {
    name: &'static str,
    /// The last of these are the method's policies at the ends.
    singles: &'static [Single],
    way: Way,
}

/// What is trained for a single objective.
#[derive(Clone, Copy)]
enum Single {
    Reward,
    Dpo,
    Ppo,
}

/// How a method makes policies for weights.
enum Way {
    /// It trains one for each.
    Trains(Training),
    /// It mixes the weights of the single objectives' policies.
    Soup,
    /// It mixes what these say of the next token.
    MixesLogits,
    /// It chooses among completions by the reward models.
    Chooses,
}

/// Trains a policy for weights between the ends and keeps it under this name; nothing where it was stopped.
type Training = fn(&Shared<'_>, &str, &[f64], &Watch<'_>) -> Result<Option<Trained>, LmError>;

/// Whether to stop, and whom to tell what goes on.
struct Watch<'a> {
    stop: &'a AtomicBool,
    show: &'a Show<'a>,
}

impl Method {
    /// A new method is a variant of [`Method`], and an arm here.
    fn recipe(self) -> Recipe {
        let of = |name, singles, way| Recipe { name, singles, way };
        match self {
            Self::Modpo => {
                of("MODPO", &[Single::Dpo], Way::Trains(|own, name, weights, watch| own.modpo(name, weights, watch)))
            }
            Self::DpoSoup => of("DPO soup", &[Single::Dpo], Way::Soup),
            Self::DpoWeighting => of(
                "DPO loss weighting",
                &[Single::Dpo],
                Way::Trains(|own, name, weights, watch| own.dpo_weighting(name, weights, watch)),
            ),
            Self::Mod => of("MOD", &[Single::Dpo], Way::MixesLogits),
            Self::Morlhf => of(
                "MORLHF",
                &[Single::Reward, Single::Ppo],
                Way::Trains(|own, name, weights, watch| own.ppo(name, weights, watch)),
            ),
            Self::PpoSoup => of("PPO soup", &[Single::Reward, Single::Ppo], Way::Soup),
            Self::BestOfN => of("best of n", &[Single::Reward], Way::Chooses),
        }
    }

    /// As it is called in figures.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.recipe().name
    }

    /// Whether it trains nothing for a mix of objectives, beyond what single objectives need.
    fn mixes(self) -> bool {
        !matches!(self.recipe().way, Way::Trains(_))
    }
}

impl Single {
    /// Name of what is trained for an objective, by its number from 0.
    fn name(self, objective: usize) -> String {
        let kind = match self {
            Self::Reward => "reward",
            Self::Dpo => "dpo",
            Self::Ppo => "ppo",
        };
        format!("{kind}-{}", objective + 1)
    }
}

/// Rewards with what they were standardised with.
type Standardised = (Scale, Vec<f64>);

/// What all methods of a seed share.
struct Shared<'a> {
    config: &'a FrontConfig,
    folder: &'a Path,
    begun: Beginning,
    golds: Vec<Box<dyn Gold>>,
    /// Every completion with its prompt.
    encoded: Vec<Encoded>,
    /// log π_ref of each, nats.
    reference: Vec<f64>,
    /// Every objective's gold reward of each.
    scores: Vec<Vec<f64>>,
    /// Standardised implicit rewards of each by objective, with what they were standardised with, as far as they were
    /// asked for.
    implicit: RefCell<BTreeMap<usize, Rc<Standardised>>>,
    start: Start,
}

/// Runs everything that the folder does not hold yet, and writes table, JSON and figures. `show` is told of what goes on.
///
/// # Errors
/// [`LmError`]; what was trained and measured before is kept, and a later call goes on from there.
pub fn fronts(
    config: &FrontConfig,
    folder: &Path,
    device: &Device,
    stop: &AtomicBool,
    show: &Show<'_>,
) -> Result<Option<Fronts>, LmError> {
    config.validate()?;
    config.own.objectives.iter().try_for_each(|objective| check_gold(&config.common.corpus, objective))?;
    let points_folder = folder.join("points");
    let _claim = Claim::make(folder).map_err(DiskError::from)?;
    fs::create_dir_all(&points_folder).map_err(|source| io(&points_folder, "make the folder", source))?;
    same_config(config, "front", folder)?;
    let (mut starts, mut points, mut costs) = (Vec::new(), Vec::new(), BTreeMap::new());
    for &seed in &config.common.seeds {
        let file = points_folder.join(format!("{seed}.json"));
        if !file.exists() {
            let Some(shared) = Shared::new(config, seed, folder, device, stop, show)? else { return Ok(None) };
            let mut found = Vec::new();
            for &method in &config.own.methods {
                let Some(of_method) = shared.method(method, &Watch { stop, show })? else { return Ok(None) };
                found.extend(of_method);
            }
            write_json(&file, &(&shared.start, &found))?;
        }
        let (start, found): (Start, Vec<Point>) = read_json(&file)?;
        starts.push(start);
        points.extend(found);
        for (name, cpu) in costs_of(folder, seed)? {
            costs.insert(format!("{seed}/{name}"), cpu);
        }
    }
    let row_of = |&method: &Method| {
        let recipe = method.recipe();
        let trainings = trainings(config, method, &recipe);
        row(config, &points, &costs, method, &trainings, matches!(recipe.way, Way::Soup))
    };
    let table = config.own.methods.iter().map(row_of).collect();
    let names: Vec<&str> = config.own.methods.iter().map(|method| method.name()).collect();
    let fronts = Fronts { config: config.clone(), starts, points, table, costs };
    write_json(&folder.join("front.json"), &fronts)?;
    draw(&fronts, &names, folder)?;
    Ok(Some(fronts))
}

impl<'a> Shared<'a> {
    fn new(
        config: &'a FrontConfig,
        seed: u64,
        folder: &'a Path,
        device: &Device,
        stop: &AtomicBool,
        show: &Show<'_>,
    ) -> Result<Option<Self>, LmError> {
        let Some(begun) = begin(&config.common, seed, folder, device, stop, show)? else { return Ok(None) };
        let golds =
            config.own.objectives.iter().map(|objective| begun.open_gold(objective)).collect::<Result<Vec<_>, _>>()?;
        let encoded: Vec<Encoded> = (0..begun.completions.len()).map(|i| begun.encoded(i)).collect();
        let reference = score::log_probs(&begun.start, &encoded, PART_TOKENS, &|_| ());
        let (mut scores, mut scales) = (Vec::new(), Vec::new());
        for (gold, objective) in golds.iter().zip(&config.own.objectives) {
            let own = diagnose::gold_scores(&**gold, &begun.tokenizer, &begun.repeated, &begun.completions)?;
            scales.push(Scale::of(&own).ok_or_else(|| {
                LmError::Config(format!(
                    "objectives: '{objective}' is the same for all completions of the model, so there is nothing to compare"
                ))
            })?);
            scores.push(own);
        }
        let correlations = scores.iter().map(|a| scores.iter().map(|b| pearson(a, b)).collect()).collect();
        let mut shared = Self {
            config,
            folder,
            start: Start { seed, scales, gold: Vec::new(), correlations },
            begun,
            golds,
            encoded,
            reference,
            scores,
            implicit: RefCell::default(),
        };
        let completions = shared.begun.write(&shared.begun.start);
        shared.start.gold = shared.gold(&completions)?.iter().map(|gold| gold.mean).collect();
        Ok(Some(shared))
    }

    /// The points of a method; nothing where it was stopped.
    fn method(&self, method: Method, watch: &Watch<'_>) -> Result<Option<Vec<Point>>, LmError> {
        let Self { config, begun, .. } = self;
        let Recipe { name, singles, way } = method.recipe();
        let objectives = config.own.objectives.len();
        let weights = grid(objectives, if method.mixes() { config.own.mix_steps } else { config.own.weight_steps });
        let last = singles[singles.len() - 1];
        let mut points = Vec::with_capacity(weights.len());
        if let Way::Trains(train) = way {
            for weights in weights {
                // At the ends methods are what they are of single objectives.
                let policy = match weights.iter().position(|weight| *weight == 1.0) {
                    Some(objective) => self.single(last, objective, watch)?,
                    None => train(self, &policy_name(method, &weights), &weights, watch)?,
                };
                let Some(Trained { model, folder }) = policy else { return Ok(None) };
                points.push(self.policy_point(method, weights, &model, vec![folder])?);
            }
        } else {
            let mut ends = Vec::with_capacity(objectives);
            for objective in 0..objectives {
                let Some(end) = self.single(last, objective, watch)? else { return Ok(None) };
                ends.push(end);
            }
            let models: Vec<&Decoder> = ends.iter().map(|end| &end.model).collect();
            let folders: Vec<PathBuf> = ends.iter().map(|end| end.folder.clone()).collect();
            match way {
                Way::Chooses => points = self.best_of_n(&models, &folders, weights)?,
                Way::Soup => {
                    for weights in weights {
                        let soup = mixed(&models, &weights);
                        points.push(self.policy_point(method, weights, &soup, folders.clone())?);
                    }
                }
                Way::MixesLogits | Way::Trains(_) => {
                    for weights in weights {
                        // A model without weight need not be asked.
                        let asked = models.iter().copied().zip(weights.iter().copied());
                        let asked: Vec<(&Decoder, f64)> = asked.filter(|(_, weight)| *weight > 0.0).collect();
                        let (completions, kl) = self.write_mixed(&asked);
                        points.push(self.point(method, weights, &completions, Some(&kl), folders.clone())?);
                    }
                }
            }
        }
        (watch.show)(LmProgress::Note(&format!("seed {}: {name} measured at {} weights", begun.seed, points.len())));
        Ok(Some(points))
    }

    /// MODPO for these weights.
    fn modpo(&self, name: &str, weights: &[f64], watch: &Watch<'_>) -> Result<Option<Trained>, LmError> {
        // The objective of the largest weight carries the preferences; of equal ones the first.
        let carrier = (0..weights.len()).rev().max_by(|&a, &b| weights[a].total_cmp(&weights[b])).unwrap_or(0);
        let mut others = Vec::new();
        for (objective, weight) in weights.iter().enumerate() {
            if objective != carrier && *weight > 0.0 {
                let Some(other) = self.single(Single::Dpo, objective, watch)? else { return Ok(None) };
                others.push((objective, other.model, *weight));
            }
        }
        let Some(own) = self.single(Single::Dpo, carrier, watch)? else { return Ok(None) };
        let (pairs, sides) = self.begun.compared(&self.scores[carrier]);
        let groups = by_prompt(&pairs);
        self.trained(name, watch, || {
            // The carrier's comparisons teach its reward in their own unit, which its DPO policy has found; the other
            // objectives come in at the same one, so that weights weigh like with like.
            let unit = self.implicit_rewards(carrier, &own.model).0.deviation;
            let mut margin = vec![0.0; self.encoded.len()];
            for (objective, model, weight) in &others {
                let rewards = self.implicit_rewards(*objective, model);
                margin.iter_mut().zip(&rewards.1).for_each(|(sum, reward)| *sum += unit * weight * reward);
            }
            let FrontOwn { beta, form, .. } = self.config.own;
            let stage = Modpo {
                margins: sides.iter().map(|[chosen, rejected]| margin[*chosen] - margin[*rejected]).collect(),
                reference: self.references(&sides),
                loss: ModpoLoss { beta, weight: weights[carrier], form },
                pairs,
            };
            self.learn(&stage, &groups, watch)
        })
    }

    /// DPO on all comparisons, each objective's loss at its weight.
    fn dpo_weighting(&self, name: &str, weights: &[f64], watch: &Watch<'_>) -> Result<Option<Trained>, LmError> {
        self.dpo(name, self.weighed(weights), watch)
    }

    /// DPO on comparisons, given with the numbers of their sides.
    fn dpo(
        &self,
        name: &str,
        (pairs, sides): (Vec<EncodedPair>, Vec<[usize; 2]>),
        watch: &Watch<'_>,
    ) -> Result<Option<Trained>, LmError> {
        let loss = LossConfig { beta: self.config.own.beta, ..LossConfig::default() };
        let groups = by_prompt(&pairs);
        let stage = Dpo { pairs, loss, reference: self.references(&sides) };
        self.trained(name, watch, || self.learn(&stage, &groups, watch))
    }

    /// Implicit rewards (arXiv 2305.18290, eq. 5) of all completions by an objective's DPO policy, brought to one scale on
    /// them, which are the start's own. They are computed once for all weights, in the first training that asks.
    fn implicit_rewards(&self, objective: usize, policy: &Decoder) -> Rc<Standardised> {
        let mut known = self.implicit.borrow_mut();
        let compute = || {
            let log_probs = score::log_probs(policy, &self.encoded, PART_TOKENS, &|_| ());
            let ratios = log_probs.iter().zip(&self.reference).map(|(policy, reference)| policy - reference);
            let rewards: Vec<f64> = ratios.map(|ratio| self.config.own.beta * ratio).collect();
            let scale = Scale::of(&rewards).unwrap_or(Scale::NONE);
            Rc::new((scale, rewards.into_iter().map(|reward| scale.apply(reward)).collect()))
        };
        Rc::clone(known.entry(objective).or_insert_with(compute))
    }

    /// What is trained for a single objective.
    fn single(&self, kind: Single, objective: usize, watch: &Watch<'_>) -> Result<Option<Trained>, LmError> {
        let name = kind.name(objective);
        let compared = || self.begun.compared(&self.scores[objective]);
        match kind {
            Single::Dpo => self.dpo(&name, compared(), watch),
            Single::Ppo => {
                let of = |i: usize| if i == objective { 1.0 } else { 0.0 };
                let weights: Vec<f64> = (0..self.config.own.objectives.len()).map(of).collect();
                self.ppo(&name, &weights, watch)
            }
            Single::Reward => {
                let (pairs, _) = compared();
                let groups = by_prompt(&pairs);
                let Beginning { start, seed, .. } = &self.begun;
                self.trained(&name, watch, || {
                    Ok(Some(reward_model(&self.config.common, start, &pairs, &groups, *seed)?))
                })
            }
        }
    }

    /// PPO on the weighted reward models, each standardised on the start's completions.
    fn ppo(&self, name: &str, weights: &[f64], watch: &Watch<'_>) -> Result<Option<Trained>, LmError> {
        let mut models = Vec::new();
        for (objective, weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
            let Some(Trained { model, .. }) = self.single(Single::Reward, objective, watch)? else { return Ok(None) };
            models.push((model, *weight));
        }
        let begun = &self.begun;
        let config = self.config.common.ppo();
        self.trained(name, watch, || {
            let standardised = |(model, weight): (Decoder, f64)| {
                let scale = Scale::of(&judged(&model, &self.encoded)).unwrap_or(Scale::NONE);
                (model, scale, weight)
            };
            let judges: Vec<(Decoder, Scale, f64)> = models.into_iter().map(standardised).collect();
            let reward = |rows: &[(usize, &Completion)]| -> Result<Vec<f64>, LmError> {
                let written = begun.rolled_out(rows);
                let mut sums = vec![0.0; written.len()];
                for (model, scale, weight) in &judges {
                    let scores = judged(model, &written);
                    sums.iter_mut().zip(scores).for_each(|(sum, score)| *sum += weight * scale.apply(score));
                }
                Ok(sums)
            };
            // The value function begins as the reward model of the largest weight.
            let value = judges.iter().max_by(|a, b| a.2.total_cmp(&b.2)).map(|(model, ..)| model.clone());
            let value = value.unwrap_or_else(|| with_scores(&begun.start, 1, begun.seed));
            let mut state = Ppo::new(begun.start.clone(), value, &config);
            let Beginning { start, prompts, eos, seed, .. } = begun;
            let each = &mut |_: &mut Ppo, _: &_| Ok(unless(watch.stop.load(Ordering::Relaxed)));
            let ended = ppo::run(&mut state, start, prompts, eos, &config, *seed, &reward, each)?;
            Ok(ended.is_continue().then_some(state.policy.model))
        })
    }

    /// For every prompt and all weights at once: n completions of the start, of which the best is taken.
    fn best_of_n(
        &self,
        rewards: &[&Decoder],
        folders: &[PathBuf],
        weights: Vec<Vec<f64>>,
    ) -> Result<Vec<Point>, LmError> {
        let Self { config, begun, .. } = self;
        let n = config.own.best_of;
        let (repeated, completions) = begun.several(&begun.eval_prompts, n);
        let written: Vec<Encoded> =
            repeated.iter().zip(&completions).map(|(prompt, own)| Encoded::new(prompt, &own.ids)).collect();
        let standardised: Vec<Vec<f64>> = rewards
            .iter()
            .map(|reward| {
                let scale = Scale::of(&judged(reward, &self.encoded)).unwrap_or(Scale::NONE);
                judged(reward, &written).into_iter().map(|score| scale.apply(score)).collect()
            })
            .collect();
        let of_weights = |weights: Vec<f64>| {
            let score =
                |i: usize| -> f64 { standardised.iter().zip(&weights).map(|(own, weight)| weight * own[i]).sum() };
            let best = |prompt: usize| {
                let range = prompt * n..(prompt + 1) * n;
                range.rev().max_by(|&a, &b| score(a).total_cmp(&score(b))).unwrap_or(prompt * n)
            };
            let chosen: Vec<Completion> =
                (0..begun.eval_prompts.len()).map(|prompt| completions[best(prompt)].clone()).collect();
            self.point(Method::BestOfN, weights, &chosen, None, folders.to_vec())
        };
        weights.into_iter().map(of_weights).collect()
    }

    // ------------------------------------------------------------------------------------------------- what is learned

    /// All comparisons with the share of the weight that says the first is better: the mean of the objectives' losses is
    /// the loss of that soft label.
    fn weighed(&self, weights: &[f64]) -> (Vec<EncodedPair>, Vec<[usize; 2]>) {
        let pair = |(row, sides @ [i, j]): (usize, [usize; 2])| {
            let says = |own: &Vec<f64>| match own[i].total_cmp(&own[j]) {
                std::cmp::Ordering::Greater => 1.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Less => 0.0,
            };
            let target = self.scores.iter().zip(weights).map(|(own, weight)| weight * says(own)).sum();
            (self.begun.pair(row, sides, Some(target)), sides)
        };
        self.begun.twos().map(pair).unzip()
    }

    fn references(&self, sides: &[[usize; 2]]) -> Reference {
        Reference::LogProbs(sides.iter().map(|both| both.map(|i| self.reference[i])).collect())
    }

    /// Training on comparisons; nothing where it was stopped.
    fn learn<S: Stage>(
        &self,
        stage: &S,
        groups: &[std::ops::Range<usize>],
        watch: &Watch<'_>,
    ) -> Result<Option<Decoder>, LmError> {
        let (StudyConfig { steps, batch_size, learning_rate, .. }, begun) = (&self.config.common, &self.begun);
        let train = TrainConfig {
            steps: *steps,
            batch_size: *batch_size,
            part_tokens: PAIR_PART_TOKENS / 2,
            optimizer: optimizer(*learning_rate, Schedule::Constant),
            ..TrainConfig::default()
        };
        let mut trainee = Trainee::new(begun.start.clone());
        let batch = |step| comparisons(&train, groups, begun.seed, step);
        let each =
            &mut |_: &mut Trainee, _: &[usize], _: &_| Ok::<_, LmError>(unless(watch.stop.load(Ordering::Relaxed)));
        let ended = train::run(&mut trainee, stage, &train, *steps, &batch, begun.seed, each)?;
        Ok(ended.is_continue().then_some(trainee.model))
    }

    /// A model that the folder holds, or that is trained now and kept there with what it cost. One training at a time has
    /// all threads, so that CPU seconds are its own.
    fn trained(
        &self,
        name: &str,
        Watch { stop, show }: &Watch<'_>,
        train: impl FnOnce() -> Result<Option<Decoder>, LmError>,
    ) -> Result<Option<Trained>, LmError> {
        let relative = PathBuf::from(format!("models/{}/{name}", self.begun.seed));
        let path = self.folder.join(&relative);
        if path.join(COST).is_file() {
            let model = folder::read(&path, &self.begun.start.device())?.decoder;
            return Ok(Some(Trained { model, folder: relative }));
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let clock = Clock::new();
        let Some(model) = train()? else { return Ok(None) };
        let cpu = clock.cpu();
        let spent = cpu.map_or(String::new(), |cpu| format!(", {cpu:.0} CPU s"));
        show(LmProgress::Note(&format!("seed {}: trained {name} in {:.0} s{spent}", self.begun.seed, clock.wall())));
        folder::write(&model, None, &path)?;
        self.begun.tokenizer.save(&path)?;
        write_json(&path.join(COST), &Cost { cpu_seconds: cpu, wall_seconds: clock.wall() })?;
        Ok(Some(Trained { model, folder: relative }))
    }

    // ---------------------------------------------------------------------------------------------------- what is measured

    /// Completions of the held-out prompts by several models together, with the divergence of each.
    fn write_mixed(&self, models: &[(&Decoder, f64)]) -> (Vec<Completion>, Vec<f64>) {
        let begun = &self.begun;
        if let [(model, _)] = models {
            let completions = begun.write(model);
            let kl = begun.divergences(model, &completions);
            return (completions, kl);
        }
        let Beginning { start, eval_prompts, eos, sampling, .. } = begun;
        let (completions, own): (Vec<Completion>, Vec<f64>) =
            generate_mixed(models, eval_prompts, sampling, eos, 3 << 32).into_iter().unzip();
        let written: Vec<Encoded> = eval_prompts
            .iter()
            .zip(&completions)
            .map(|(prompt, completion)| Encoded::new(prompt, &completion.ids))
            .collect();
        let reference = score::log_probs(start, &written, PART_TOKENS, &|_| ());
        (completions, own.iter().zip(reference).map(|(own, reference)| own - reference).collect())
    }

    /// Every objective's gold reward of completions of the held-out prompts.
    fn gold(&self, completions: &[Completion]) -> Result<Vec<Estimate>, LmError> {
        let of = |gold: &dyn Gold| Ok(Estimate::of(&self.begun.gold_of(gold, completions)?));
        self.golds.iter().map(|gold| of(&**gold)).collect()
    }

    /// The point of a policy.
    fn policy_point(
        &self,
        method: Method,
        weights: Vec<f64>,
        policy: &Decoder,
        models: Vec<PathBuf>,
    ) -> Result<Point, LmError> {
        let completions = self.begun.write(policy);
        let kl = self.begun.divergences(policy, &completions);
        self.point(method, weights, &completions, Some(&kl), models)
    }

    fn point(
        &self,
        method: Method,
        weights: Vec<f64>,
        completions: &[Completion],
        kl: Option<&[f64]>,
        models: Vec<PathBuf>,
    ) -> Result<Point, LmError> {
        let gold = self.gold(completions)?;
        let Start { scales, gold: of_start, .. } = &self.start;
        let rewards = gold.iter().zip(of_start).zip(scales);
        let rewards = rewards.map(|((gold, start), scale)| (gold.mean - start) / scale.deviation).collect();
        let lengths: Vec<f64> = completions.iter().map(|completion| completion.ids.len() as f64).collect();
        Ok(Point {
            method,
            weights,
            seed: self.begun.seed,
            gold,
            rewards,
            kl: kl.map(Estimate::of),
            length: Estimate::of(&lengths).mean,
            models,
        })
    }
}

/// A model that was trained, and where it is kept, from the front's folder.
struct Trained {
    model: Decoder,
    folder: PathBuf,
}

/// Names of all trainings that a method's front takes.
fn trainings(config: &FrontConfig, method: Method, Recipe { singles, way, .. }: &Recipe) -> Vec<String> {
    let objectives = config.own.objectives.len();
    let each = |single: &Single| (0..objectives).map(|objective| single.name(objective)).collect::<Vec<_>>();
    let mut all: Vec<String> = singles.iter().flat_map(each).collect();
    if let Way::Trains(_) = way {
        let weights = grid(objectives, config.own.weight_steps);
        let inner = weights.into_iter().filter(|weights| !weights.contains(&1.0));
        all.extend(inner.map(|weights| policy_name(method, &weights)));
    }
    all
}

fn policy_name(method: Method, weights: &[f64]) -> String {
    let method = serde_json::json!(method);
    let weights: Vec<String> = weights.iter().map(|weight| format!("{:.4}", weight)).collect();
    format!("{}-{}", method.as_str().unwrap_or_default(), weights.join("-"))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use burn::tensor::Device;

    use clap::ValueEnum as _;

    use super::{FrontConfig, FrontOwn, Method, StudyConfig, fronts};
    use crate::lm::run::LmProgress;

    fn small() -> FrontConfig {
        let FrontConfig { own, common } = FrontConfig::default();
        FrontConfig {
            // What an untrained model differs in: its words, and how many "e" they have.
            own: FrontOwn {
                objectives: vec!["length".to_owned(), "regex:e".to_owned()],
                weight_steps: 2,
                mix_steps: 4,
                best_of: 2,
                ..own
            },
            common: StudyConfig {
                size: "30k".to_owned(),
                vocabulary: 300,
                context: 48,
                texts: 600,
                seeds: vec![0, 1],
                prompts: 24,
                completions: 3,
                eval_prompts: 8,
                max_new_tokens: 12,
                batch_size: 4,
                steps: 3,
                ppo_iterations: 1,
                ..common
            },
        }
    }

    /// Everything once, small: ends are shared, what is trained is kept, and an interrupted front ends as an unbroken one.
    #[test]
    fn fronts_go_on_where_they_stopped_and_share_what_can_be_shared() {
        let folder = tempfile::tempdir().unwrap();
        let device = Device::flex();
        let config = small();
        let never = AtomicBool::new(false);
        let whole = fronts(&config, &folder.path().join("whole"), &device, &never, &|_| ()).unwrap().unwrap();
        assert_eq!(whole.table.len(), Method::value_variants().len());
        for row in &whole.table {
            let own: Vec<_> = whole.points.iter().filter(|point| point.method == row.method).collect();
            let each = if row.method.mixes() { 5 } else { 3 };
            assert_eq!((own.len(), row.non_dominated[1]), (2 * each, 2 * each), "{:?}", row.method);
            assert!(own.iter().all(|point| point.rewards.iter().all(|reward| reward.is_finite())));
            assert!(row.hypervolume >= 0.0 && row.cpu_seconds > Some(0.0), "{row:?}");
        }
        let of = |method: Method, weights: [f64; 2]| {
            let found = whole.points.iter().find(|point| point.method == method && point.weights == weights);
            let found = found.unwrap();
            (found.rewards.clone(), found.kl)
        };
        for end in [[0.0, 1.0], [1.0, 0.0]] {
            let dpo = of(Method::Modpo, end);
            for method in [Method::DpoSoup, Method::DpoWeighting, Method::Mod] {
                assert_eq!(of(method, end), dpo, "{method:?}");
            }
            assert_eq!(of(Method::Morlhf, end), of(Method::PpoSoup, end));
        }
        let trainings = |method| whole.table.iter().find(|row| row.method == method).unwrap().trainings;
        let all: Vec<usize> = Method::value_variants().iter().map(|&method| trainings(method)).collect();
        assert_eq!(all, [3, 2, 3, 2, 5, 4, 2]);
        let chord = &whole.table[1].chord;
        assert_eq!(chord.iter().map(|row| row.weights[0]).collect::<Vec<_>>(), [0.25, 0.5, 0.75]);
        for file in ["front.svg", "front.json", "models/1/modpo-0.5000-0.5000/tokenizer.json"] {
            assert!(folder.path().join("whole").join(file).exists(), "{file}");
        }

        // Stopped after the third training, and gone on with.
        let path = folder.path().join("broken");
        let (stop, trained) = (AtomicBool::new(false), std::sync::atomic::AtomicUsize::new(0));
        let show = |shown: LmProgress<'_>| {
            if matches!(shown, LmProgress::Note(note) if note.contains("trained"))
                && trained.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 2
            {
                stop.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        };
        assert_eq!(fronts(&config, &path, &device, &stop, &show).unwrap(), None);
        let resumed = fronts(&config, &path, &device, &never, &|_| ()).unwrap().unwrap();
        assert_eq!((resumed.points, resumed.starts), (whole.points, whole.starts));
    }

    #[test]
    fn three_objectives_have_a_figure_for_every_two() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = small();
        config.own.objectives.push("regex:a".to_owned());
        config.own.methods = vec![Method::Modpo, Method::DpoSoup];
        config.common.seeds = vec![0];
        let found = fronts(&config, folder.path(), &Device::flex(), &AtomicBool::new(false), &|_| ()).unwrap().unwrap();
        assert_eq!(found.points.len(), 6 + 15);
        assert_eq!(found.starts[0].correlations.len(), 3);
        for two in ["1-2", "1-3", "2-3"] {
            assert!(folder.path().join(format!("front-{two}.svg")).exists());
        }
    }

    #[test]
    fn own_texts_are_a_corpus_with_gold_rewards_of_ones_own() {
        let folder = tempfile::tempdir().unwrap();
        let texts = folder.path().join("texts.jsonl");
        let text = |i: u64| crate::lm::reviews::review(&mut crate::random::stream(0, "own", i)).text;
        let rows: Vec<String> = (0..300).map(|i| serde_json::json!({ "text": text(i) }).to_string()).collect();
        std::fs::write(&texts, rows.join("\n")).unwrap();
        let mut config = small();
        config.common.corpus = texts.display().to_string();
        config.common.seeds = vec![0];
        config.own.methods = vec![Method::DpoSoup];
        let run = |config: &FrontConfig, out: &str| {
            fronts(config, &folder.path().join(out), &Device::flex(), &AtomicBool::new(false), &|_| ())
        };
        let found = run(&config, "own").unwrap().unwrap();
        assert_eq!(found.points.len(), 5);
        assert!(found.table[0].largest_kl.is_some_and(f64::is_finite));
        let mut unknown = config.clone();
        unknown.own.objectives = vec!["sentiment".to_owned(), "length".to_owned()];
        let error = run(&unknown, "unknown").unwrap_err().to_string();
        assert!(error.contains("sentiment: is the gold reward of reviews and of IMDB"), "{error}");
        config.common.corpus = "nowhere".to_owned();
        let error = run(&config, "none").unwrap_err().to_string();
        assert!(error.contains("there is no such file or folder; it must be reviews, imdb:DIR"), "{error}");
    }

    #[test]
    fn what_cannot_be_run_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let error = |change: &dyn Fn(&mut FrontConfig)| {
            let mut config = small();
            change(&mut config);
            let found = fronts(&config, folder.path(), &Device::flex(), &AtomicBool::new(false), &|_| ());
            found.unwrap_err().to_string()
        };
        for (change, expected) in [
            (
                (&|config: &mut FrontConfig| config.own.objectives.truncate(1)) as &dyn Fn(&mut FrontConfig),
                "objectives: there are 1: must be 2 to 6",
            ),
            (
                &|config: &mut FrontConfig| config.own.objectives[1] = "length".to_owned(),
                "objectives: number 2 is 'length' again",
            ),
            (&|config: &mut FrontConfig| config.own.beta = 0.0, "beta = 0: must be positive"),
            (&|config: &mut FrontConfig| config.common.completions = 1, "completions = 1: must be 2 or more"),
        ] {
            let found = error(change);
            assert!(found.contains(expected), "{found}, expected {expected}");
        }
    }
}
