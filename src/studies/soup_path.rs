//! A soup of models, measured from end to end: what every interpolation is worth by every objective, whether the path
//! between the models stays above the chord between its ends (linear mode connectivity; Ramé et al. 2023, arXiv
//! 2306.04488, §2), and which weights to take.
//!
//! Weights are chosen by one half of the prompts and reported by the other.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::lm::data::{self, Conventions, Encoded, PromptRow, ReadConfig};
use crate::lm::diagnose::Estimate;
use crate::lm::error::LmError;
use crate::lm::merge::mixed;
use crate::lm::model::Decoder;
use crate::lm::modpo::{MarginReward, Scale};
use crate::lm::open::{eos_of, tokenizer_of};
use crate::lm::run::{LmProgress, Show, reward_models};
use crate::lm::sample::{SampleConfig, generate};
use crate::lm::{folder, gold};
use crate::preference::statistics::{bootstrap_interval, mean};
use crate::random::stream;
use crate::soup::{SUM_TOLERANCE, grid};
use crate::studies::beginning::PART_TOKENS;

/// What is mixed, and how it is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SoupConfig {
    /// Folders of models that were fine-tuned from the same model.
    pub models: Vec<PathBuf>,
    /// Gold rewards, or `model:DIR` of a reward model.
    pub objectives: Vec<String>,
    /// Files with prompts.
    pub data: Vec<PathBuf>,
    /// Prompts to use, the first ones.
    pub prompts: usize,
    /// Steps of the interpolation from one model to another.
    pub steps: usize,
    /// How the weights of the soup are found.
    pub choice: Choice,
    /// Weights of the models, if they are given.
    pub weights: Vec<f64>,
    /// Weights of the objectives, if weights of the models are searched for; empty for equal ones.
    pub preference: Vec<f64>,
    /// Most tokens of a completion.
    pub max_new_tokens: usize,
    /// Seed of every draw.
    pub seed: u64,
}

/// How weights are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// The same for all models.
    Uniform,
    /// The mix of the path that is best by the preference between the objectives, on one half of the prompts.
    Search,
    /// As given.
    Given,
}

/// A mix, and what was measured of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mix {
    /// Weights of the models.
    pub weights: Vec<f64>,
    /// Mean of each objective over the half of the prompts that chooses.
    pub choosing: Vec<f64>,
    /// Mean of each objective over the other half.
    pub rewards: Vec<Estimate>,
    /// How far it lies above the chord between the ends, on all prompts; none for an end.
    pub above: Vec<f64>,
    /// 95 % bootstrap intervals of that over prompts; of a single prompt there are none.
    pub intervals: Vec<Option<[f64; 2]>>,
    /// Tokens of a completion.
    pub length: f64,
}

/// A soup, and what was measured of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Soup {
    /// What was asked for.
    pub config: SoupConfig,
    /// All interpolations.
    pub mixes: Vec<Mix>,
    /// The weights that were chosen.
    pub chosen: Vec<f64>,
    /// Of each objective: how far the deepest mix lies below the chord; 0 where none does.
    pub barrier: Vec<f64>,
}

impl Default for SoupConfig {
    fn default() -> Self {
        Self {
            models: Vec::new(),
            objectives: Vec::new(),
            data: Vec::new(),
            prompts: 256,
            steps: 10,
            choice: Choice::Search,
            weights: Vec::new(),
            preference: Vec::new(),
            max_new_tokens: 64,
            seed: 0,
        }
    }
}

impl SoupConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`LmError::Config`], naming the first one out of range.
    pub fn validate(&self) -> Result<(), LmError> {
        let wrong = |problem: String| Err(LmError::Config(problem));
        if self.models.len() < 2 {
            return wrong(format!("models: there are {}: must be 2 or more to be mixed", self.models.len()));
        }
        if self.objectives.is_empty() {
            return wrong("objectives: there is none: give a gold reward or model:DIR (--objective SPEC)".to_owned());
        }
        if self.data.is_empty() {
            return wrong("data: no file with prompts is given (--data FILE …)".to_owned());
        }
        for (name, value) in
            [("prompts", self.prompts / 2), ("steps", self.steps), ("max_new_tokens", self.max_new_tokens)]
        {
            if value == 0 {
                return wrong(format!("{name}: must be {} or more", if name == "prompts" { 2 } else { 1 }));
            }
        }
        let simplex = |name: &str, weights: &[f64], count: usize, of: &str| {
            if weights.len() != count {
                return wrong(format!("{name}: there are {} for {count} {of}", weights.len()));
            }
            let sum: f64 = weights.iter().sum();
            match weights.iter().all(|weight| *weight >= 0.0) && (sum - 1.0).abs() <= SUM_TOLERANCE {
                true => Ok(()),
                false => wrong(format!("{name}: must be at least 0 and sum to 1, and sum to {sum}")),
            }
        };
        if self.choice == Choice::Given {
            simplex("weights", &self.weights, self.models.len(), "models")?;
        }
        match self.preference.is_empty() {
            true => Ok(()),
            false => simplex("preference", &self.preference, self.objectives.len(), "objectives"),
        }
    }
}

/// Measures all interpolations, and chooses the weights; `None` if it was stopped.
///
/// # Errors
/// [`LmError`].
pub fn soup(config: &SoupConfig, device: &Device, stop: &AtomicBool, show: &Show<'_>) -> Result<Option<Soup>, LmError> {
    config.validate()?;
    let mut models: Vec<Decoder> = Vec::with_capacity(config.models.len());
    let mut tokenizer = None;
    for path in &config.models {
        let loaded = folder::read(path, device)?;
        let own = tokenizer_of(path, &loaded)?;
        let model = folder::merged(&loaded.decoder);
        if let Some(first) = models.first()
            && first.layout.tensors.iter().map(|spec| spec.shape).ne(model.layout.tensors.iter().map(|spec| spec.shape))
        {
            let (other, own) = (config.models[0].display(), path.display());
            return Err(LmError::Config(format!(
                "{own}: has other shapes than {other}: only models of one architecture and size can be mixed"
            )));
        }
        if own.fingerprint() != tokenizer.get_or_insert_with(|| own.clone()).fingerprint() {
            let (other, own) = (config.models[0].display(), path.display());
            return Err(LmError::Config(format!("{own}: has another tokenizer than {other}")));
        }
        models.push(model);
    }
    let tokenizer = tokenizer.expect("the configuration was validated: there are two models or more");
    let eos = eos_of(&models[0], &tokenizer);
    let judges = config.objectives.iter().map(|spec| judge(spec, &tokenizer, device)).collect::<Result<Vec<_>, _>>()?;

    let (rows, _) = data::read_all::<PromptRow>(&config.data, &ReadConfig::default())?;
    let room = models[0].config.context.saturating_sub(config.max_new_tokens).max(1);
    let conventions = Conventions { max_length: room, max_prompt_length: room, ..Conventions::default() };
    let (rows, _) = data::encode_prompts(&rows, &tokenizer, None, &conventions)?;
    let prompts: Vec<Vec<u32>> = rows.into_iter().map(|row| row.ids).take(config.prompts).collect();
    if prompts.len() < 2 {
        return Err(LmError::Config(format!("data: {} prompts: must be 2 or more", prompts.len())));
    }

    // Every objective's reward of every mix's completion of every prompt.
    let all = grid(models.len(), config.steps);
    let sampling = SampleConfig { max_new_tokens: config.max_new_tokens, seed: config.seed, ..SampleConfig::default() };
    let ends: Vec<&Decoder> = models.iter().collect();
    let (mut rewards, mut lengths): (Vec<Vec<Vec<f64>>>, Vec<f64>) = (Vec::new(), Vec::new());
    for (i, weights) in all.iter().enumerate() {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let completions = generate(&mixed(&ends, weights), &prompts, &sampling, &eos, 3 << 32, &|_, _| true);
        let whole: Vec<Encoded> = prompts
            .iter()
            .zip(&completions)
            .map(|(prompt, completion)| Encoded::new(prompt, &completion.ids))
            .collect();
        rewards.push(judges.iter().map(|judge| judge.of(&whole, &tokenizer, PART_TOKENS)).collect::<Result<_, _>>()?);
        lengths
            .push(completions.iter().map(|completion| completion.ids.len() as f64).sum::<f64>() / prompts.len() as f64);
        show(LmProgress::Preparing("mixes", i + 1, all.len()));
    }
    let mixes: Vec<Mix> = (0..all.len()).map(|i| measured(&all, &rewards, lengths[i], i)).collect();
    let chosen = match config.choice {
        Choice::Uniform => vec![1.0 / models.len() as f64; models.len()],
        Choice::Given => config.weights.clone(),
        Choice::Search => best(config, &mixes),
    };
    let barrier = (0..judges.len()).map(|objective| {
        mixes.iter().filter_map(|mix| mix.above.get(objective)).fold(0.0, |most: f64, above| most.max(-above))
    });
    Ok(Some(Soup { config: config.clone(), barrier: barrier.collect(), mixes, chosen }))
}

fn judge(spec: &str, tokenizer: &crate::lm::tokenizer::Tokenizer, device: &Device) -> Result<MarginReward, LmError> {
    let Some(path) = spec.strip_prefix("model:") else { return Ok(MarginReward::Gold(gold::open(spec)?)) };
    let found = reward_models::read(Path::new(path), device)?;
    match found.tokenizer.fingerprint() == tokenizer.fingerprint() {
        true => Ok(MarginReward::Model(found.members)),
        false => Err(LmError::Config(format!("{path}: has another tokenizer than the models"))),
    }
}

/// Mix number `i` of all.
///
/// # Shapes
/// - `rewards`: `[mixes][objectives][prompts]`
fn measured(all: &[Vec<f64>], rewards: &[Vec<Vec<f64>>], length: f64, i: usize) -> Mix {
    let (weights, own) = (&all[i], &rewards[i]);
    let half = own[0].len() / 2;
    let is_end = weights.contains(&1.0);
    let ends: Vec<usize> =
        (0..weights.len()).filter_map(|model| all.iter().position(|weights| weights[model] == 1.0)).collect();
    let of_objective = |objective: usize| -> Vec<f64> {
        // Prompt by prompt, so that what is hard about a prompt is the same on both sides.
        let chord = |prompt: usize| -> f64 {
            ends.iter().zip(weights).map(|(end, weight)| weight * rewards[*end][objective][prompt]).sum()
        };
        own[objective].iter().enumerate().map(|(prompt, reward)| reward - chord(prompt)).collect()
    };
    let above: Vec<Vec<f64>> = match is_end {
        true => Vec::new(),
        false => (0..own.len()).map(of_objective).collect(),
    };
    let interval = |values: &Vec<f64>| bootstrap_interval(values, mean, 0.95, &mut stream(0, "soup-chord", i as u64));
    Mix {
        weights: weights.clone(),
        choosing: own.iter().map(|values| mean(&values[..half])).collect(),
        rewards: own.iter().map(|values| Estimate::of(&values[half..])).collect(),
        intervals: above.iter().map(interval).collect(),
        above: above.iter().map(|values| mean(values)).collect(),
        length,
    }
}

/// The weights that are best on the half that chooses, each objective in standard deviations over the mixes.
fn best(config: &SoupConfig, mixes: &[Mix]) -> Vec<f64> {
    let objectives = config.objectives.len();
    let equal = vec![1.0 / objectives as f64; objectives];
    let preference = if config.preference.is_empty() { &equal } else { &config.preference };
    let scales: Vec<Scale> = (0..objectives)
        .map(|objective| {
            let values: Vec<f64> = mixes.iter().map(|mix| mix.choosing[objective]).collect();
            Scale::of(&values).unwrap_or(Scale::NONE)
        })
        .collect();
    let worth = |mix: &Mix| -> f64 {
        mix.choosing
            .iter()
            .zip(&scales)
            .zip(preference)
            .map(|((value, scale), weight)| weight * scale.apply(*value))
            .sum()
    };
    let found = mixes.iter().max_by(|a, b| worth(a).total_cmp(&worth(b)));
    found.map(|mix| mix.weights.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::AtomicBool;

    use burn::tensor::Device;

    use super::{Choice, SoupConfig, measured, soup};
    use crate::lm::run::{LmConfig, LmOutcome, PretrainConfig, StageKind, train};

    #[test]
    fn a_mix_is_compared_with_the_chord_prompt_by_prompt() {
        let all = [vec![0.0, 1.0], vec![0.25, 0.75], vec![1.0, 0.0]];
        // Second model: 0 and 4; first: 8 and 0; their chord at ¼: 2 and 3.
        let rewards = vec![vec![vec![0.0, 4.0]], vec![vec![5.0, 2.0]], vec![vec![8.0, 0.0]]];
        let mix = measured(&all, &rewards, 7.0, 1);
        assert_eq!((mix.above, mix.choosing), (vec![1.0], vec![5.0]));
        assert_eq!(mix.intervals, [Some([-1.0, 3.0])]);
        assert_eq!((mix.rewards[0].mean, mix.length), (2.0, 7.0));
        assert!(measured(&all, &rewards, 7.0, 2).above.is_empty());
    }

    fn pretrained(folder: &Path, name: &str, seed: u64) {
        let sizes =
            PretrainConfig { hidden: 16, layers: 2, heads: 2, vocabulary: 300, texts: 60, ..Default::default() };
        let mut config = LmConfig::new(StageKind::Pretrain);
        config.pretrain = Some(sizes);
        config.seed = seed;
        config.train.steps = 2;
        let stop = AtomicBool::new(false);
        let outcome = train(&config, &folder.join(name), &Device::flex(), &stop, &|_| ()).unwrap();
        assert!(matches!(outcome, LmOutcome::Finished(_)));
    }

    type Change<'a> = &'a dyn Fn(&mut SoupConfig);

    #[test]
    fn the_path_between_models_is_measured_and_weights_are_chosen() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        pretrained(folder, "start", 0);
        // The start, and the start with another embedding scale: two ends of one path.
        for (name, factor) in [("a", 1.0), ("b", 1.5)] {
            let loaded = crate::lm::folder::read(&folder.join("start/model"), &Device::flex()).unwrap();
            let mut model = loaded.decoder;
            model.parameters[0] = model.parameters[0].clone() * factor;
            crate::lm::folder::write(&model, None, &folder.join(name)).unwrap();
            crate::lm::tokenizer::Tokenizer::load(&folder.join("start/model"))
                .unwrap()
                .save(&folder.join(name))
                .unwrap();
        }
        let rows: String = (0..8).map(|i| format!("{{\"prompt\": \"The soup number {i}\"}}\n")).collect();
        std::fs::write(folder.join("prompts.jsonl"), rows).unwrap();
        let config = SoupConfig {
            models: vec![folder.join("a"), folder.join("b")],
            objectives: vec!["length".to_owned(), "regex:e".to_owned()],
            data: vec![folder.join("prompts.jsonl")],
            steps: 4,
            max_new_tokens: 8,
            ..SoupConfig::default()
        };
        let run = |config: &SoupConfig| soup(config, &Device::flex(), &AtomicBool::new(false), &|_| ());
        let found = run(&config).unwrap().unwrap();
        assert_eq!(found.mixes.len(), 5);
        assert_eq!((found.mixes[1].above.len(), found.barrier.len()), (2, 2));
        assert!(found.mixes.iter().any(|mix| mix.weights == found.chosen));
        // Whoever wants only one objective gets the mix that is best by it.
        let only = SoupConfig { preference: vec![1.0, 0.0], ..config.clone() };
        let only = run(&only).unwrap().unwrap();
        let most = only.mixes.iter().map(|mix| mix.choosing[0]).fold(f64::NEG_INFINITY, f64::max);
        assert_eq!(only.mixes.iter().find(|mix| mix.weights == only.chosen).unwrap().choosing[0], most);
        let uniform = SoupConfig { choice: Choice::Uniform, steps: 1, ..config.clone() };
        assert_eq!(run(&uniform).unwrap().unwrap().chosen, [0.5, 0.5]);

        let error = |change: Change<'_>| {
            let mut config = config.clone();
            change(&mut config);
            run(&config).unwrap_err().to_string()
        };
        pretrained(folder, "other", 1);
        let cases: [(Change<'_>, &str); 6] = [
            (&|config| config.models.truncate(1), "models: there are 1: must be 2 or more to be mixed"),
            (&|config| config.objectives.clear(), "objectives: there is none"),
            (&|config| config.data.clear(), "data: no file with prompts is given"),
            (
                &|config| config.preference = vec![0.4, 0.4],
                "preference: must be at least 0 and sum to 1, and sum to 0.8",
            ),
            (&|config| config.choice = Choice::Given, "weights: there are 0 for 2 models"),
            (&|config| config.models[1] = folder.join("other/model"), "has another tokenizer than"),
        ];
        for (change, expected) in cases {
            let found = error(change);
            assert!(found.contains(expected), "{found}, expected {expected}");
        }
    }
}
