//! What experiments with small models begin with: a corpus, a model that was trained on it, prompts, and the model's
//! completions of them.

use std::fs;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::slice;
use std::sync::atomic::AtomicBool;

use burn::tensor::Device;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

use crate::disk::archive::write_atomically;
use crate::disk::{DiskError, layers, lines};
use crate::finite::NotFinite;
use crate::lm::data::{self, Document, Encoded, EncodedPair, ReadConfig};
use crate::lm::diagnose;
use crate::lm::error::LmError;
use crate::lm::folder::{self, with_scores};
use crate::lm::gold::{self, Gold, logistic};
use crate::lm::model::Decoder;
use crate::lm::open::{eos_of, tokenizer_of};
use crate::lm::optim::{MOST_LEARNING_RATE, OptimizerConfig, Schedule};
use crate::lm::ppo::PpoConfig;
use crate::lm::reviews;
use crate::lm::reward::{self, RewardLoss, RewardModel};
use crate::lm::run::{self, LmConfig, LmOutcome, LmProgress, PretrainConfig, SIZES, Show, StageKind};
use crate::lm::sample::{Completion, SampleConfig, generate};
use crate::lm::tokenizer::Tokenizer;
use crate::lm::train::{self, Metrics, TrainConfig, Trainee};
use crate::random::stream;

/// The configuration of a study of one corpus with one model: the fields that all such studies share, and the study's
/// own, in one flat table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Study<Own> {
    /// The study's own fields.
    #[serde(flatten)]
    pub own: Own,
    /// The fields that all studies share.
    #[serde(flatten)]
    pub common: StudyConfig,
}

/// The fields that all studies of one corpus with one model share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StudyConfig {
    /// `reviews`, `imdb:DIR` with the files `train.pos.jsonl.gz` and so on, or a file or folder of texts.
    pub corpus: String,
    /// Every seed has its own model, comparisons and runs.
    pub seeds: Vec<u64>,
    /// Size of the model, one of [`SIZES`].
    pub size: String,
    /// Tokens of the tokenizer.
    pub vocabulary: usize,
    /// Longest sequence in pre-training, tokens.
    pub context: usize,
    /// Texts of the embedded world.
    pub texts: usize,
    /// Passes over the texts in pre-training.
    pub pretrain_epochs: f64,
    /// Prompts that the comparisons are about.
    pub prompts: usize,
    /// Completions of each of these prompts; every two of them are compared.
    pub completions: usize,
    /// Prompts that policies are measured on.
    pub eval_prompts: usize,
    /// Most tokens of a completion.
    pub max_new_tokens: usize,
    /// Prompts in a step of a policy that learns from comparisons: the step takes all comparisons of these prompts.
    pub batch_size: usize,
    /// Steps of a policy that learns from comparisons.
    pub steps: usize,
    /// Learning rate of a policy that learns from comparisons.
    pub learning_rate: f64,
    /// Learning rate of reward models.
    pub reward_learning_rate: f64,
    /// Prompts in a step of a reward model.
    pub reward_batch_size: usize,
    /// Passes of a reward model over the comparisons.
    pub reward_epochs: f64,
    /// Iterations of PPO.
    pub ppo_iterations: usize,
    /// The other settings of PPO.
    pub ppo: PpoConfig,
}

impl<'de, Own: DeserializeOwned> Deserialize<'de> for Study<Own> {
    /// serde's own `flatten` would let unknown fields pass.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        fn part<T: DeserializeOwned, E: serde::de::Error>(fields: Map<String, Value>) -> Result<T, E> {
            lines::typed(&Value::Object(fields)).map_err(|error| match error.path().to_string() {
                path if path == "." => E::custom(error.inner()),
                path => E::custom(format!("{path}: {}", error.inner())),
            })
        }
        let shared = json!(StudyConfig::reviews(PpoConfig::default()));
        let (common, own) = Map::<String, Value>::deserialize(deserializer)?
            .into_iter()
            .partition(|(name, _)| shared.get(name).is_some());
        Ok(Self { own: part(own)?, common: part(common)? })
    }
}

impl StudyConfig {
    /// A million parameters on the embedded world, three seeds.
    pub(super) fn reviews(ppo: PpoConfig) -> Self {
        Self {
            corpus: "reviews".to_owned(),
            seeds: vec![0, 1, 2],
            size: "1m".to_owned(),
            vocabulary: 1024,
            context: 128,
            texts: 30_000,
            pretrain_epochs: 1.0,
            prompts: 2048,
            completions: 4,
            eval_prompts: 384,
            max_new_tokens: 32,
            batch_size: 16,
            steps: 200,
            learning_rate: 3e-4,
            // The loss begins on a plateau. Leaving it takes many steps, not many comparisons, so batches are small.
            reward_learning_rate: 1e-3,
            reward_batch_size: 4,
            reward_epochs: 2.0,
            ppo_iterations: 20,
            ppo: PpoConfig {
                optimizer: optimizer(1e-4, Schedule::Constant),
                value_learning_rate: 1e-3,
                epochs: 2,
                ..ppo
            },
        }
    }

    /// Checks the shared numbers and the study's own: `counts` must be 1 or more, and `rates` are learning rates.
    ///
    /// # Errors
    /// [`LmError::Config`], naming the first one out of range.
    pub(super) fn validate(&self, counts: &[(&str, usize)], rates: &[(&str, f64)]) -> Result<(), LmError> {
        let wrong = |problem: String| Err(LmError::Config(problem));
        if !SIZES.iter().any(|(name, ..)| *name == self.size) {
            let names: Vec<&str> = SIZES.iter().map(|(name, ..)| *name).collect();
            return wrong(format!("size = \"{}\": must be {}", self.size, names.join(", ")));
        }
        let own = [
            ("seeds", self.seeds.len()),
            ("prompts", self.prompts),
            ("eval_prompts", self.eval_prompts),
            ("max_new_tokens", self.max_new_tokens),
            ("batch_size", self.batch_size),
            ("steps", self.steps),
            ("reward_batch_size", self.reward_batch_size),
        ];
        if let Some((name, _)) = counts.iter().chain(&own).find(|(_, value)| *value == 0) {
            return wrong(format!("{name}: must be 1 or more"));
        }
        if self.completions < 2 {
            return wrong(format!("completions = {}: must be 2 or more, to be compared", self.completions));
        }
        let own = [
            ("learning_rate", self.learning_rate),
            ("reward_learning_rate", self.reward_learning_rate),
            ("reward_epochs", self.reward_epochs),
        ];
        let all = rates.iter().chain(&own);
        if let Some((name, value)) = all.clone().find(|(_, value)| !(1e-12..=MOST_LEARNING_RATE).contains(value)) {
            return wrong(format!("{name} = {value}: must be positive and at most {MOST_LEARNING_RATE}"));
        }
        self.ppo.validate().map_err(|problem| LmError::Config(format!("ppo.{problem}")))
    }

    /// The settings of PPO, with those that the study sets itself.
    pub(super) fn ppo(&self) -> PpoConfig {
        let mut ppo = self.ppo.clone();
        ppo.iterations = self.ppo_iterations;
        ppo.sampling.max_new_tokens = self.max_new_tokens;
        ppo.part_tokens = PART_TOKENS;
        ppo
    }
}

/// What all runs of a seed begin with.
pub(super) struct Beginning {
    pub(super) seed: u64,
    /// The model.
    pub(super) start: Decoder,
    pub(super) tokenizer: Tokenizer,
    pub(super) eos: Vec<u32>,
    /// Spec of the corpus's own gold reward; empty if it has none.
    pub(super) gold: String,
    /// Prompts to learn from.
    pub(super) prompts: Vec<Vec<u32>>,
    /// Held-out prompts.
    pub(super) eval_prompts: Vec<Vec<u32>>,
    /// Every prompt, once for each of its completions.
    pub(super) repeated: Vec<Vec<u32>>,
    /// The model's completions of `repeated`.
    pub(super) completions: Vec<Completion>,
    /// How completions are written.
    pub(super) sampling: SampleConfig,
}

/// Trains the model if its folder does not hold it yet, and lets it complete the prompts; `None` if it was stopped.
pub(super) fn begin(
    config: &StudyConfig,
    seed: u64,
    folder: &Path,
    device: &Device,
    stop: &AtomicBool,
    show: &Show<'_>,
) -> Result<Option<Beginning>, LmError> {
    let base = folder.join(format!("base-{seed}"));
    let corpus = Corpus::open(config, folder, show)?;
    if !base.join("summary.json").exists() {
        let pretraining = corpus.pretraining(config, seed);
        let outcome = match base.join("config.toml").exists() {
            true => run::resume(&base, &[], device, stop, show)?,
            false => run::train(&pretraining, &base, device, stop, show)?,
        };
        if matches!(outcome, LmOutcome::Interrupted { .. }) {
            return Ok(None);
        }
    }
    let model = base.join("model");
    let loaded = folder::read(&model, device)?;
    let tokenizer = tokenizer_of(&model, &loaded)?;
    let start = loaded.decoder;
    let eos = eos_of(&start, &tokenizer);
    show(LmProgress::Note(&format!(
        "seed {seed}: {} prompts with {} completions each",
        config.prompts, config.completions
    )));
    let prompts = corpus.prompts(config, &tokenizer, seed, "prompt", config.prompts)?;
    let eval_prompts = corpus.prompts(config, &tokenizer, seed, "eval-prompt", config.eval_prompts)?;
    let repeated: Vec<Vec<u32>> =
        prompts.iter().flat_map(|prompt| std::iter::repeat_n(prompt.clone(), config.completions)).collect();
    let sampling = SampleConfig { max_new_tokens: config.max_new_tokens, seed, ..SampleConfig::default() };
    let completions = generate(&start, &repeated, &sampling, &eos, 1 << 32, &|_, _| true);
    let gold = corpus.gold;
    Ok(Some(Beginning { seed, start, tokenizer, eos, gold, prompts, eval_prompts, repeated, completions, sampling }))
}

impl Beginning {
    /// Opens a gold reward; `sentiment` and the empty spec mean the corpus's own.
    pub(super) fn open_gold(&self, spec: &str) -> Result<Box<dyn Gold>, LmError> {
        match spec {
            "" | "sentiment" if self.gold.is_empty() => Err(no_gold()),
            "" | "sentiment" => Ok(gold::open(&self.gold)?),
            other => Ok(gold::open(other)?),
        }
    }

    /// Completion number `i` with its prompt.
    pub(super) fn encoded(&self, i: usize) -> Encoded {
        Encoded::new(&self.repeated[i], &self.completions[i].ids)
    }

    /// Comparisons of every two different completions of a prompt by these scores, the better one first. Ties are left
    /// out: they say nothing about which is better.
    pub(super) fn compared(&self, scores: &[f64]) -> (Vec<EncodedPair>, Vec<[usize; 2]>) {
        let decided = self.twos().filter(|(_, [i, j])| scores[*i] != scores[*j]);
        let pair = |(row, [i, j]): (usize, [usize; 2])| {
            let sides = if scores[i] > scores[j] { [i, j] } else { [j, i] };
            (self.pair(row, sides, None), sides)
        };
        decided.map(pair).unzip()
    }

    /// A comparison of two completions.
    pub(super) fn pair(&self, row: usize, [chosen, rejected]: [usize; 2], target: Option<f64>) -> EncodedPair {
        EncodedPair { row, chosen: self.encoded(chosen), rejected: self.encoded(rejected), margin: None, target }
    }

    /// `of_each` completions of every prompt by the model that all begin with, and the prompts repeated to match.
    pub(super) fn several(&self, prompts: &[Vec<u32>], of_each: usize) -> (Vec<Vec<u32>>, Vec<Completion>) {
        let repeated: Vec<Vec<u32>> =
            prompts.iter().flat_map(|prompt| std::iter::repeat_n(prompt.clone(), of_each)).collect();
        let completions = generate(&self.start, &repeated, &self.sampling, &self.eos, 2 << 32, &|_, _| true);
        (repeated, completions)
    }

    /// A model's completions of the held-out prompts.
    pub(super) fn write(&self, model: &Decoder) -> Vec<Completion> {
        generate(model, &self.eval_prompts, &self.sampling, &self.eos, 3 << 32, &|_, _| true)
    }

    /// Divergence of a model from the one that all begin with, on each of these completions, nats.
    pub(super) fn divergences(&self, model: &Decoder, completions: &[Completion]) -> Vec<f64> {
        diagnose::divergences(model, &self.start, &self.eval_prompts, completions, PART_TOKENS).0
    }

    /// Gold reward of each of these completions of the held-out prompts.
    pub(super) fn gold_of(&self, gold: &dyn Gold, completions: &[Completion]) -> Result<Vec<f64>, LmError> {
        diagnose::gold_scores(gold, &self.tokenizer, &self.eval_prompts, completions)
    }

    /// PPO's completions with their prompts.
    pub(super) fn rolled_out(&self, rows: &[(usize, &Completion)]) -> Vec<Encoded> {
        rows.iter().map(|(prompt, completion)| Encoded::new(&self.prompts[*prompt], &completion.ids)).collect()
    }

    /// The indices of every two different completions of a prompt, prompt by prompt.
    pub(super) fn twos(&self) -> impl Iterator<Item = (usize, [usize; 2])> + '_ {
        let each = self.completions.len() / self.prompts.len();
        (0..self.prompts.len()).flat_map(move |row| {
            let range = row * each..(row + 1) * each;
            let all = range.clone().flat_map(move |i| (i + 1..range.end).map(move |j| (row, [i, j])));
            all.filter(|(_, [i, j])| self.completions[*i].ids != self.completions[*j].ids)
        })
    }
}

/// Whether a gold reward can be had for a corpus, seen before anything is trained.
pub(super) fn check_gold(corpus: &str, spec: &str) -> Result<(), LmError> {
    match spec {
        "" | "sentiment" if corpus == "reviews" || corpus.starts_with("imdb:") => Ok(()),
        "" | "sentiment" => Err(no_gold()),
        other => Ok(gold::open(other).map(drop)?),
    }
}

fn no_gold() -> LmError {
    LmError::Config(
        "sentiment: is the gold reward of reviews and of IMDB; name another one for these texts (length, regex:…, \
         lexicon:…, logistic:…, command:…)"
            .to_owned(),
    )
}

/// Tokens that are computed together: few enough for two runs side by side, enough for fast matrix products.
pub(super) const PART_TOKENS: usize = 1024;

/// The same for comparisons: a completion counts once for every comparison that it is in, but is computed only once.
pub(super) const PAIR_PART_TOKENS: usize = 3 * PART_TOKENS;

/// The pairs of each prompt, as ranges.
pub(super) fn by_prompt(pairs: &[EncodedPair]) -> Vec<Range<usize>> {
    let groups = pairs.chunk_by(|a, b| a.row == b.row);
    let range = |end: &mut usize, group: &[EncodedPair]| {
        let start = *end;
        *end += group.len();
        Some(start..*end)
    };
    groups.scan(0, range).collect()
}

/// The comparisons of a step: all comparisons of some prompts, so that the completions they share are computed once
/// (Ouyang et al. 2022, arXiv 2203.02155, §3.5).
pub(super) fn comparisons(train: &TrainConfig, groups: &[Range<usize>], seed: u64, step: usize) -> Vec<usize> {
    train.examples(seed, step, groups.len()).into_iter().flat_map(|group| groups[group].clone()).collect()
}

/// A reward model fitted to the comparisons.
pub(super) fn reward_model(
    config: &StudyConfig,
    start: &Decoder,
    pairs: &[EncodedPair],
    groups: &[Range<usize>],
    seed: u64,
) -> Result<Decoder, NotFinite> {
    let stage = RewardModel { pairs: pairs.to_vec(), loss: RewardLoss::default() };
    let train = TrainConfig {
        steps: 0,
        epochs: config.reward_epochs,
        batch_size: config.reward_batch_size,
        // Small parts, so that every thread has a part of a small batch.
        part_tokens: PART_TOKENS,
        optimizer: optimizer(config.reward_learning_rate, Schedule::Linear),
        ..TrainConfig::default()
    };
    let mut trainee = Trainee::new(with_scores(start, 1, seed));
    let total = train.total_steps(groups.len());
    let batch = |step| comparisons(&train, groups, seed, step);
    let each = &mut |_: &mut Trainee, _: &[usize], _: &Metrics| Ok::<_, NotFinite>(ControlFlow::Continue(()));
    _ = train::run(&mut trainee, &stage, &train, total, &batch, seed, each)?;
    Ok(trainee.model)
}

/// A reward model's scores.
pub(super) fn judged(model: &Decoder, completions: &[Encoded]) -> Vec<f64> {
    reward::completion_scores(slice::from_ref(model), completions)
}

/// Training goes on unless it is to stop.
pub(super) fn unless(stopping: bool) -> ControlFlow<()> {
    match stopping {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    }
}

pub(super) fn optimizer(learning_rate: f64, schedule: Schedule) -> OptimizerConfig {
    OptimizerConfig { learning_rate, schedule, warmup: 0.1, ..OptimizerConfig::default() }
}

/// Writes the configuration into a new folder, and refuses a folder with another one. `what` is in the folder.
pub(super) fn same_config<C: Serialize + DeserializeOwned + PartialEq>(
    config: &C,
    what: &str,
    folder: &Path,
) -> Result<(), LmError> {
    let path = folder.join("config.toml");
    let text = toml::to_string(config).expect("a configuration always serialises");
    match fs::read_to_string(&path) {
        // The fields may stand in another order.
        Ok(found) if found == text || layers::from_text::<C>(&found, &path).is_ok_and(|found| found == *config) => {
            Ok(())
        }
        Ok(_) => Err(LmError::Config(format!(
            "{}: holds another {what}: choose another --out, or give the same configuration to go on",
            path.display()
        ))),
        Err(_) => {
            write_atomically(&path, text.as_bytes()).map_err(|source| io(&path, "write the configuration", source))
        }
    }
}

pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), LmError> {
    write_atomically(path, lines::pretty(value).as_bytes()).map_err(|source| io(path, "write", source))
}

pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, LmError> {
    let text = fs::read_to_string(path).map_err(|source| io(path, "read", source))?;
    lines::from_text(&text)
        .map_err(|error| LmError::Config(format!("{}: {error}: remove it, and it is measured again", path.display())))
}

pub(super) fn io(path: &Path, action: &'static str, source: std::io::Error) -> LmError {
    DiskError::Io { path: path.to_owned(), action, source }.into()
}

// -------------------------------------------------------------------------------------------------------- the corpus

/// The name of a corpus in figures.
pub(super) fn corpus_name(corpus: &str) -> String {
    match corpus.split_once(':') {
        Some((name, _)) => name.to_owned(),
        None => Path::new(corpus).file_stem().map_or_else(|| corpus.to_owned(), |stem| stem.display().to_string()),
    }
}

/// Texts, prompts, and a gold reward.
struct Corpus {
    /// Spec of its gold reward.
    gold: String,
    /// Files for pre-training, and texts for prompts; none for the embedded world.
    files: Option<(Vec<PathBuf>, Vec<String>)>,
}

impl Corpus {
    fn open(config: &StudyConfig, folder: &Path, show: &Show<'_>) -> Result<Self, LmError> {
        if config.corpus == "reviews" {
            return Ok(Self { gold: "reviews:sentiment".to_owned(), files: None });
        }
        let Some(imdb) = config.corpus.strip_prefix("imdb:").map(PathBuf::from) else {
            return Self::of_texts(Path::new(&config.corpus));
        };
        let file = |part: &str, side: &str| imdb.join(format!("{part}.{side}.jsonl.gz"));
        let train = vec![file("train", "pos"), file("train", "neg")];
        let classifier = folder.join("sentiment.json");
        if !classifier.exists() {
            show(LmProgress::Note("training the gold classifier on the labelled training reviews"));
            let mut rows = Vec::new();
            for file in &train {
                // The first row of each file of positive reviews is no review.
                let skipped: &[usize] = if file.ends_with("train.pos.jsonl.gz") { &[1] } else { &[] };
                for row in logistic::read_labelled(file, skipped)? {
                    rows.push(row?);
                }
            }
            let rows = rows.into_iter().map(Ok::<_, gold::GoldError>);
            logistic::train(rows, &logistic::LogisticConfig::default())?.save(&classifier)?;
        }
        let mut texts = Vec::new();
        for side in ["pos", "neg"] {
            for row in logistic::read_labelled(&file("test", side), if side == "pos" { &[1] } else { &[] })? {
                texts.push(row?.0);
            }
        }
        let gold = format!("logistic:{}", classifier.display());
        Ok(Self { gold, files: Some((train, texts)) })
    }

    /// The user's own texts: the model learns to write them, and their beginnings are prompts.
    fn of_texts(path: &Path) -> Result<Self, LmError> {
        if !path.exists() {
            return Err(LmError::Config(format!(
                "corpus = \"{}\": there is no such file or folder; it must be reviews, imdb:DIR, or texts of your own: JSON lines \
                 with \"text\", or text files",
                path.display()
            )));
        }
        let files = vec![path.to_owned()];
        let (documents, _) = data::read_all::<Document>(&files, &ReadConfig::default())?;
        let texts: Vec<String> = documents.into_iter().map(|document| document.text).collect();
        Ok(Self { gold: String::new(), files: Some((files, texts)) })
    }

    fn pretraining(&self, config: &StudyConfig, seed: u64) -> LmConfig {
        let mut run = LmConfig::new(StageKind::Pretrain);
        let size = SIZES.iter().find(|(name, ..)| *name == config.size).expect("the configuration was validated");
        let (_, hidden, layers, heads) = *size;
        run.seed = seed;
        run.pretrain = Some(PretrainConfig {
            hidden,
            layers,
            heads,
            context: config.context,
            vocabulary: config.vocabulary,
            texts: config.texts,
            ..PretrainConfig::default()
        });
        run.data = match &self.files {
            None => vec!["reviews".into()],
            Some((files, _)) => files.clone(),
        };
        run.eval_share = 0.01;
        run.train.epochs = config.pretrain_epochs;
        run.train.save_every = 200;
        run
    }

    /// Beginnings of texts, two to eight words long, as token ids.
    fn prompts(
        &self,
        config: &StudyConfig,
        tokenizer: &Tokenizer,
        seed: u64,
        name: &str,
        count: usize,
    ) -> Result<Vec<Vec<u32>>, LmError> {
        use rand::RngExt as _;
        let room = config.context.saturating_sub(config.max_new_tokens).max(1);
        let one = |i: u64| -> Result<Vec<u32>, LmError> {
            let mut rng = stream(seed, name, i);
            let words = rng.random_range(2..=8);
            let text = match &self.files {
                None => reviews::review(&mut rng).text,
                Some((_, texts)) => texts[rng.random_range(0..texts.len())].clone(),
            };
            let (prompt, _) = reviews::prefix(&text, words);
            let mut ids = tokenizer.encode(prompt, true)?;
            ids.truncate(room);
            Ok(ids)
        };
        (0..count as u64).map(one).collect()
    }
}
