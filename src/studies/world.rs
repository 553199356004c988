//! What experiments with small models begin with: a corpus, a model that was trained on it, prompts, and the model's
//! completions of them.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use burn::tensor::Device;
use serde::Serialize;

use crate::disk::archive::write_atomically;
use crate::disk::{DiskError, lines};
use crate::finite::NotFinite;
use crate::lm::data::{self, Document, Encoded, EncodedPair, ReadConfig};
use crate::lm::folder::{self, with_scores};
use crate::lm::gold::{self, Gold, logistic};
use crate::lm::model::Decoder;
use crate::lm::optim::{Optimizer, OptimizerConfig, Schedule};
use crate::lm::reviews;
use crate::lm::reward::{RewardLoss, RewardModel};
use crate::lm::run::{self, LmConfig, LmError, LmOutcome, PretrainConfig, SIZES, Shown, StageKind, eos_of};
use crate::lm::sample::{Completion, SampleConfig, generate};
use crate::lm::tokenizer::Tokenizer;
use crate::lm::train::{TrainConfig, Trainee, step};
use crate::random::stream;

/// Which beginning.
#[derive(Debug, Clone)]
pub(super) struct BeginConfig<'a> {
    /// `reviews`, `imdb:DIR`, or a file or folder of texts.
    pub(super) corpus: &'a str,
    /// Size of the model, one of [`SIZES`].
    pub(super) size: &'a str,
    /// Tokens of the tokenizer.
    pub(super) vocabulary: usize,
    /// Longest sequence in pre-training, tokens.
    pub(super) context: usize,
    /// Texts of the embedded world.
    pub(super) texts: usize,
    /// Passes over the texts in pre-training.
    pub(super) pretrain_epochs: f64,
    /// Prompts to learn from.
    pub(super) prompts: usize,
    /// Completions of each.
    pub(super) completions: usize,
    /// Prompts that policies are measured on.
    pub(super) eval_prompts: usize,
    /// Most tokens of a completion.
    pub(super) max_new_tokens: usize,
}

/// What all runs of a seed begin with.
pub(super) struct Beginning {
    pub(super) seed: u64,
    /// The model.
    pub(super) start: Decoder,
    pub(super) tokenizer: Tokenizer,
    pub(super) eos: Vec<u32>,
    /// Spec of the gold reward that is the corpus's own; empty where it has none.
    pub(super) gold: String,
    /// Prompts to learn from.
    pub(super) prompts: Vec<Vec<u32>>,
    /// Held-out prompts.
    pub(super) eval_prompts: Vec<Vec<u32>>,
    /// Every prompt as often as it has completions.
    pub(super) repeated: Vec<Vec<u32>>,
    /// The model's completions of these.
    pub(super) completions: Vec<Completion>,
}

/// How a reward model is fitted.
#[derive(Debug, Clone, Copy)]
pub(super) struct RewardFit {
    pub(super) learning_rate: f64,
    /// Prompts a step.
    pub(super) batch_size: usize,
    /// Passes over the comparisons.
    pub(super) epochs: f64,
}

/// Trains the model if its folder does not hold it yet, and lets it complete the prompts; nothing where it was stopped.
pub(super) fn begin(
    config: &BeginConfig<'_>,
    seed: u64,
    folder: &Path,
    device: &Device,
    stop: &AtomicBool,
    show: &(dyn Fn(Shown<'_>) + Sync),
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
    let tokenizer = run::tokenizer_of(&model, &loaded)?;
    let start = loaded.decoder;
    let eos = eos_of(&start, &tokenizer);
    show(Shown::Note(&format!("seed {seed}: {} prompts with {} completions each", config.prompts, config.completions)));
    let prompts = corpus.prompts(config, &tokenizer, seed, "prompt", config.prompts)?;
    let eval_prompts = corpus.prompts(config, &tokenizer, seed, "eval-prompt", config.eval_prompts)?;
    let repeated: Vec<Vec<u32>> =
        prompts.iter().flat_map(|prompt| std::iter::repeat_n(prompt.clone(), config.completions)).collect();
    let sampling = SampleConfig { max_new_tokens: config.max_new_tokens, seed, ..SampleConfig::default() };
    let completions = generate(&start, &repeated, &sampling, &eos, 1 << 32, &|_, _| true);
    Ok(Some(Beginning { seed, start, tokenizer, eos, gold: corpus.gold, prompts, eval_prompts, repeated, completions }))
}

impl Beginning {
    /// A gold reward; `sentiment`, or nothing, is the corpus's own.
    pub(super) fn open_gold(&self, spec: &str) -> Result<Box<dyn Gold>, LmError> {
        match spec {
            "" | "sentiment" if self.gold.is_empty() => Err(no_gold()),
            "" | "sentiment" => Ok(gold::open(&self.gold)?),
            other => Ok(gold::open(other)?),
        }
    }

    /// A completion with its prompt.
    pub(super) fn encoded(&self, i: usize) -> Encoded {
        Encoded::new(&self.repeated[i], &self.completions[i].ids)
    }

    /// Numbers of every two different completions of a prompt, prompt by prompt.
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
        "sentiment: is a gold reward of reviews and of IMDB; name one for these texts (length, regex:…, lexicon:…, \
         logistic:…, command:…)"
            .to_owned(),
    )
}

/// Tokens that are computed together: small enough for two runs beside each other, large enough for the products.
pub(super) const PART_TOKENS: usize = 1024;

/// The same where comparisons are cut into parts: a completion counts for every comparison that it is in, and is computed
/// once.
pub(super) const PAIR_PART_TOKENS: usize = 3 * PART_TOKENS;

/// Which pairs are of the same prompt.
pub(super) fn by_prompt(pairs: &[EncodedPair]) -> Vec<Range<usize>> {
    let groups = pairs.chunk_by(|a, b| a.row == b.row);
    let range = |end: &mut usize, group: &[EncodedPair]| {
        let start = *end;
        *end += group.len();
        Some(start..*end)
    };
    groups.scan(0, range).collect()
}

/// The comparisons of a step: all those of some prompts, so that what they share is computed once (Ouyang et al. 2022,
/// arXiv 2203.02155, §3.5).
pub(super) fn comparisons(train: &TrainConfig, groups: &[Range<usize>], seed: u64, step: usize) -> Vec<usize> {
    train.examples(seed, step, groups.len()).into_iter().flat_map(|group| groups[group].clone()).collect()
}

/// A reward model fitted to the comparisons.
pub(super) fn reward_model(
    fit: RewardFit,
    start: &Decoder,
    pairs: &[EncodedPair],
    groups: &[Range<usize>],
    seed: u64,
) -> Result<Decoder, NotFinite> {
    let stage = RewardModel { pairs: pairs.to_vec(), loss: RewardLoss::default() };
    let train = TrainConfig {
        steps: 0,
        epochs: fit.epochs,
        batch_size: fit.batch_size,
        // Its batches are small, and every thread has a part of one.
        part_tokens: PART_TOKENS,
        optimizer: optimizer(fit.learning_rate, Schedule::Linear),
        ..TrainConfig::default()
    };
    let total = train.total_steps(groups.len());
    let mut trainee = Trainee { model: with_scores(start, 1, seed), optimizer: Optimizer::default(), step: 0 };
    for _ in 0..total {
        let examples = comparisons(&train, groups, seed, trainee.step);
        step(&mut trainee, &stage, &train, &examples, total, seed)?;
    }
    Ok(trainee.model)
}

pub(super) fn optimizer(learning_rate: f64, schedule: Schedule) -> OptimizerConfig {
    OptimizerConfig { learning_rate, schedule, warmup: 0.1, ..OptimizerConfig::default() }
}

/// A folder belongs to one configuration; `what` it holds.
pub(super) fn same_config(config: &impl Serialize, what: &str, folder: &Path) -> Result<(), LmError> {
    let path = folder.join("config.toml");
    let text = toml::to_string(config).expect("a configuration always serialises");
    match fs::read_to_string(&path) {
        Ok(found) if found == text => Ok(()),
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

pub(super) fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, LmError> {
    let text = fs::read_to_string(path).map_err(|source| io(path, "read", source))?;
    serde_json::from_str(&text)
        .map_err(|error| LmError::Config(format!("{}: {error}: remove it, and it is measured again", path.display())))
}

pub(super) fn io(path: &Path, action: &'static str, source: std::io::Error) -> LmError {
    DiskError::Io { path: path.to_owned(), action, source }.into()
}

// -------------------------------------------------------------------------------------------------------- the corpus

/// A corpus as figures call it.
pub(super) fn corpus_name(corpus: &str) -> String {
    match corpus.split_once(':') {
        Some((name, _)) => name.to_owned(),
        None => Path::new(corpus).file_stem().map_or_else(|| corpus.to_owned(), |stem| stem.display().to_string()),
    }
}

/// Texts, prompts, and what is good.
struct Corpus {
    /// Spec of its gold reward.
    gold: String,
    /// Files for pre-training, and texts for prompts; none for the embedded world.
    files: Option<(Vec<PathBuf>, Vec<String>)>,
}

impl Corpus {
    fn open(config: &BeginConfig<'_>, folder: &Path, show: &(dyn Fn(Shown<'_>) + Sync)) -> Result<Self, LmError> {
        if config.corpus == "reviews" {
            return Ok(Self { gold: "reviews:sentiment".to_owned(), files: None });
        }
        let Some(imdb) = config.corpus.strip_prefix("imdb:").map(PathBuf::from) else {
            return Self::of_texts(Path::new(config.corpus));
        };
        let file = |part: &str, side: &str| imdb.join(format!("{part}.{side}.jsonl.gz"));
        let train = vec![file("train", "pos"), file("train", "neg")];
        let classifier = folder.join("sentiment.json");
        if !classifier.exists() {
            show(Shown::Note("training the gold classifier on the labelled training reviews"));
            let mut rows = Vec::new();
            for file in &train {
                // The first row of each file of good reviews is none.
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

    /// Somebody's own texts: they are what the model learns to write, and their beginnings are prompts.
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

    fn pretraining(&self, config: &BeginConfig<'_>, seed: u64) -> LmConfig {
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
        config: &BeginConfig<'_>,
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
