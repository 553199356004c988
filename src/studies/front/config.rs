//! What the study runs, and what a policy is measured at.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::lm::diagnose::Estimate;
use crate::lm::error::LmError;
use crate::lm::modpo::{ModpoForm, Scale};
use crate::lm::ppo::PpoConfig;
use crate::studies::beginning::{Study, StudyConfig};

/// What is run.
pub type FrontConfig = Study<FrontOwn>;

/// What is a front's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FrontOwn {
    /// Gold rewards, each of which an objective is to raise; `sentiment` is that of reviews and of IMDB.
    pub objectives: Vec<String>,
    /// Which methods.
    pub methods: Vec<Method>,
    /// Weights of methods that train a policy for each go in so many steps from one objective to the other.
    pub weight_steps: usize,
    /// Those of methods that mix what is trained.
    pub mix_steps: usize,
    /// β of everything that is trained on comparisons.
    pub beta: f64,
    /// MODPO's form.
    pub form: ModpoForm,
    /// Number of completions that best-of-n chooses from.
    pub best_of: usize,
}

/// Ways to weigh objectives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// DPO with the other objectives as margins; the ends are DPO.
    Modpo,
    /// Weights of the single objectives' DPO policies mixed: Rewarded Soups (Ramé et al. 2023, arXiv 2306.04488) of DPO.
    DpoSoup,
    /// Σ w_i times the DPO losses of the objectives' comparisons.
    DpoWeighting,
    /// The single objectives' DPO policies mixed as they write (Shi et al. 2024, arXiv 2406.18853).
    Mod,
    /// PPO on the weighted reward models.
    Morlhf,
    /// Rewarded Soups of the single objectives' PPO policies.
    PpoSoup,
    /// The best of n completions by the weighted reward models.
    BestOfN,
}

/// A policy, measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// How it was made.
    pub method: Method,
    /// Weights of the objectives.
    pub weights: Vec<f64>,
    /// Seed.
    pub seed: u64,
    /// Mean of every objective's gold reward.
    pub gold: Vec<Estimate>,
    /// The same in standard deviations above the start.
    pub rewards: Vec<f64>,
    /// Divergence from the start over whole completions, nats; none for best-of-n.
    pub kl: Option<Estimate>,
    /// Tokens of a completion.
    pub length: f64,
    /// Folders of the models that it is, or is mixed of, in the order of the weights.
    pub models: Vec<PathBuf>,
}

/// What all methods begin with in a seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Start {
    /// Seed.
    pub seed: u64,
    /// Mean and standard deviation of each objective over the start's completions of the prompts that are learned from.
    pub scales: Vec<Scale>,
    /// Mean of each objective over its completions of the held-out prompts.
    pub gold: Vec<f64>,
    /// Correlation of every two objectives over its completions; `None` where it is not defined.
    pub correlations: Vec<Vec<Option<f64>>>,
}

impl Default for FrontOwn {
    /// Two objectives that compete for a completion's few words.
    fn default() -> Self {
        Self {
            objectives: vec!["sentiment".to_owned(), "reviews:specificity".to_owned()],
            methods: Method::value_variants().to_vec(),
            weight_steps: 4,
            mix_steps: 10,
            beta: 0.3,
            form: ModpoForm::Bounded,
            best_of: 16,
        }
    }
}

impl Default for FrontConfig {
    fn default() -> Self {
        let common = StudyConfig {
            eval_prompts: 512,
            batch_size: 12,
            steps: 220,
            learning_rate: 2.5e-4,
            // Its front still grows fast at 24.
            ppo_iterations: 60,
            ..StudyConfig::reviews(PpoConfig { kl_coefficient: 0.05, ..PpoConfig::default() })
        };
        Self { own: FrontOwn::default(), common }
    }
}

impl FrontConfig {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`LmError::Config`], naming the first one out of range.
    pub fn validate(&self) -> Result<(), LmError> {
        let wrong = |problem: String| Err(LmError::Config(problem));
        let FrontOwn { objectives, methods, weight_steps, mix_steps, beta, best_of, .. } = &self.own;
        if !(2..=MOST_OBJECTIVES).contains(&objectives.len()) {
            let found = objectives.len();
            return wrong(format!("objectives: there are {found}: must be 2 to {MOST_OBJECTIVES} (--objectives A,B)"));
        }
        if let Some((i, twice)) =
            objectives.iter().enumerate().find(|(i, objective)| objectives[..*i].contains(objective))
        {
            return wrong(format!("objectives: number {} is '{twice}' again", i + 1));
        }
        let counts = [
            ("methods", methods.len()),
            ("weight_steps", *weight_steps),
            ("mix_steps", *mix_steps),
            ("best_of", *best_of),
        ];
        self.common.validate(&counts, &[("beta", *beta)])
    }
}

/// More would have more weights than anyone trains policies for.
const MOST_OBJECTIVES: usize = 6;
