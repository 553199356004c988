//! `lm …`: language models.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use cpu_time::ProcessTime;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use toml::Table;

use super::train::{Threads, on_interrupt};
use super::{Failure, print_json, print_line};
use crate::device::{self, DeviceChoice};
use crate::engine::free_folder;
use crate::lm::chat::{ChatTemplate, Message};
use crate::lm::config::Output;
use crate::lm::data::{
    self, CandidateRow, CompletionRow, Content, Conventions, Document, EncodedPair, Eos, PreferenceRow, PromptRow,
    ReadConfig, Truncation,
};
use crate::lm::ensemble::{self, Query, RewardModels};
use crate::lm::folder;
use crate::lm::frontier::{self, FrontierConfig};
use crate::lm::gold::logistic;
use crate::lm::gold::{self, Scored};
use crate::lm::lora::LoraConfig;
use crate::lm::run::{self, LmConfig, LmOutcome, LmSummary, SIZES, Shown, StageKind, eos_of, tokenizer_of};
use crate::lm::sample::{Finish, SampleConfig, generate};
use crate::lm::tokenizer::{Tokenizer, TokenizerConfig};
use crate::lm::{reviews, reward, score};
use crate::preference::Sampler;
use crate::random::stream;
use crate::run::config::{merge, read_layer, set_layer};

/// Arguments of `lm`.
#[derive(Debug, Args)]
pub(crate) struct LmArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Train a fresh model on texts
    Pretrain(PretrainArgs),
    /// Fine-tune a model on completions: rows {"prompt", "completion"}
    Sft(TrainArgs),
    /// Fit a reward model to comparisons: rows {"prompt", "chosen", "rejected"}
    Reward(RewardArgs),
    /// Train a policy directly on comparisons (DPO and its family)
    Dpo(DpoArgs),
    /// Train a policy on good and bad completions: rows {"prompt", "completion", "label"}
    Kto(TrainArgs),
    /// Train a policy with PPO on a reward model or a gold reward: rows {"prompt"}
    Ppo(PpoArgs),
    /// Go on with an interrupted run from its newest checkpoint
    Resume(ResumeArgs),
    /// Let a model complete prompts
    Sample(SampleArgs),
    /// Log-probabilities of completions under a model
    Score(ScoreArgs),
    /// Choose which comparisons to ask for next, by where the members of a reward ensemble disagree
    Query(QueryArgs),
    /// Talk to a model
    Chat(ChatArgs),
    /// Train a tokenizer
    #[command(subcommand)]
    Tokenizer(TokenizerCommand),
    /// Gold rewards: train a classifier, or score texts
    #[command(subcommand)]
    Gold(GoldCommand),
    /// Measure the frontier of gold reward against divergence for DPO, PPO and others: a table, JSON and a figure
    Frontier(FrontierArgs),
    /// Write texts of the embedded world
    Reviews(ReviewsArgs),
}

/// What every training command takes.
#[derive(Debug, Args)]
struct TrainArgs {
    /// Folder of the model to begin with (Hugging Face's layout), or of an adapter
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Rows to learn from: JSONL, JSONL.gz, or folders of these
    #[arg(long, value_name = "FILE", num_args = 1..)]
    data: Vec<PathBuf>,
    /// Rows for evaluation [default: 5 % of the data]
    #[arg(long, value_name = "FILE", num_args = 1..)]
    eval_data: Vec<PathBuf>,
    /// Learning rate
    #[arg(long, value_name = "RATE", allow_negative_numbers = true)]
    lr: Option<f64>,
    /// Passes over the rows
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    epochs: Option<f64>,
    /// Steps, instead of passes
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Rows a step
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// Train low-rank adapters of this rank on all linear layers; more with --set lora.…
    #[arg(long, value_name = "RANK")]
    lora: Option<usize>,
    /// Judge sampled completions with this gold reward at evaluations
    #[arg(long, value_name = "SPEC")]
    gold: Option<String>,
    /// Leave bad rows out instead of stopping at the first
    #[arg(long)]
    skip_bad_rows: bool,
    #[command(flatten)]
    common: CommonArgs,
}

/// What pre-training and training take.
#[derive(Debug, Args)]
struct CommonArgs {
    /// Seed of every random draw
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Where tensors live: auto, cpu, cuda or cuda:N
    #[arg(long)]
    device: Option<DeviceChoice>,
    #[command(flatten)]
    threads: Threads,
    /// Run folder; made new [default: runs/STAGE-sSEED]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// TOML file laid over the defaults, e.g. the config.toml of another run
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set any value of the configuration, e.g. --set train.optimizer.schedule=cosine
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Print one JSON object as the last line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct RewardArgs {
    /// Reward models in an ensemble, each on its own bootstrap of the rows [default: 1, which sees all rows]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    members: Option<usize>,
    #[command(flatten)]
    train: TrainArgs,
}

#[derive(Debug, Args)]
struct DpoArgs {
    /// sigmoid, robust, ipo, ipo-sum, hinge, exo, nca, bco, sppo, apo-zero, apo-down, discopop, sigmoid-norm, simpo or orpo
    #[arg(long)]
    loss: Option<String>,
    /// Strength of the pull to the reference policy
    #[arg(long, allow_negative_numbers = true)]
    beta: Option<f64>,
    /// Share of the labels taken to be flipped: with sigmoid this is cDPO
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    label_smoothing: Option<f64>,
    #[command(flatten)]
    train: TrainArgs,
}

#[derive(Debug, Args)]
struct PpoArgs {
    /// Folder of the policy to begin with, which is also the reference
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Prompts to complete: rows {"prompt"}
    #[arg(long, value_name = "FILE", num_args = 1..)]
    data: Vec<PathBuf>,
    /// Prompts for evaluation [default: 5 % of the data]
    #[arg(long, value_name = "FILE", num_args = 1..)]
    eval_data: Vec<PathBuf>,
    /// Folder of a reward model or of an ensemble's run (`lm reward` makes them) that judges completions
    #[arg(long, value_name = "DIR")]
    reward_model: Option<PathBuf>,
    /// Gold reward; without a reward model this is what is trained on
    #[arg(long, value_name = "SPEC")]
    gold: Option<String>,
    /// Iterations
    #[arg(long, value_name = "N")]
    iterations: Option<usize>,
    /// Completions of an iteration
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// Learning rate of the policy
    #[arg(long, value_name = "RATE", allow_negative_numbers = true)]
    lr: Option<f64>,
    /// What a nat of divergence from the reference costs
    #[arg(long, value_name = "BETA", allow_negative_numbers = true)]
    kl_coefficient: Option<f64>,
    /// Divergence of a completion, nats, that the coefficient is adapted to
    #[arg(long, value_name = "NATS", allow_negative_numbers = true)]
    target_kl: Option<f64>,
    /// Most tokens of a completion
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<usize>,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
struct PretrainArgs {
    /// `reviews` for the embedded world, or files with rows {"text"} or plain text
    #[arg(long, value_name = "FILE", num_args = 1.., default_value = "reviews")]
    corpus: Vec<PathBuf>,
    /// Size of the model: 30k, 100k, 300k, 1m, 3m or 10m parameters (with a vocabulary of 1,024)
    #[arg(long, default_value = "1m")]
    size: String,
    /// Texts of the embedded world
    #[arg(long, value_name = "N")]
    texts: Option<usize>,
    /// Tokens of the tokenizer that is trained on the texts
    #[arg(long, value_name = "N")]
    vocab_size: Option<usize>,
    /// Steps, instead of one pass over the texts
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Fill every example with texts one after another, EOS after each, as GPT-2's pre-training
    #[arg(long)]
    packing: bool,
    #[command(flatten)]
    common: CommonArgs,
}

#[derive(Debug, Args)]
struct ResumeArgs {
    /// Run folder
    run: PathBuf,
    #[command(flatten)]
    threads: Threads,
    /// Print one JSON object as the last line
    #[arg(long)]
    json: bool,
}

/// How tokens are drawn.
#[derive(Debug, Args)]
struct DrawArgs {
    /// Most tokens of a completion
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_new_tokens: usize,
    /// Divides the logits; 0 takes the likeliest token
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    temperature: f64,
    /// Draw among this many likeliest tokens; 0 for all
    #[arg(long, value_name = "N", default_value_t = 0)]
    top_k: usize,
    /// Draw among the likeliest tokens that have this probability together
    #[arg(long, default_value_t = 1.0, allow_negative_numbers = true)]
    top_p: f64,
    /// Draw among tokens at least this likely, as a share of the likeliest one's probability
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    min_p: f64,
    /// End a completion before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    /// Seed of every draw
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
}

#[derive(Debug, Args)]
struct SampleArgs {
    /// Folder of the model
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Text to complete; may be given several times
    #[arg(long, value_name = "TEXT")]
    prompt: Vec<String>,
    /// Rows {"prompt"} to complete
    #[arg(long, value_name = "FILE", num_args = 1..)]
    data: Vec<PathBuf>,
    /// Completions of each prompt
    #[arg(long, value_name = "N", default_value_t = 1)]
    count: usize,
    #[command(flatten)]
    draw: DrawArgs,
    /// A chat template by name or file, for rows that are chats
    #[arg(long, value_name = "NAME")]
    chat_template: Option<String>,
    /// Write rows {"prompt", "completion", "finish"} there instead of text on the screen
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Show tokens as they come (one prompt)
    #[arg(long)]
    stream: bool,
    /// Go on after a token that ends a text
    #[arg(long)]
    ignore_eos: bool,
    #[command(flatten)]
    threads: Threads,
    /// Print one JSON object as the last line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ScoreArgs {
    /// Folder of the model, or of the run of a reward model or an ensemble, which gives the mean over its members
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Rows {"prompt", "completion"}
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    data: Vec<PathBuf>,
    /// Append the token that ends a text to every completion, as training does
    #[arg(long)]
    eos: bool,
    /// Write every token's log-probability, too
    #[arg(long)]
    per_token: bool,
    /// A chat template by name or file, for rows that are chats
    #[arg(long, value_name = "NAME")]
    chat_template: Option<String>,
    /// Write rows {"logprob", "tokens", …} there instead of on the screen
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    threads: Threads,
    /// Print one JSON object as the last line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct QueryArgs {
    /// Folder of an ensemble's run (`lm reward --members 3` makes one), or of a reward model
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Candidates: rows {"prompt", "completions"}, of which every two are one, or {"prompt", "chosen", "rejected"},
    /// whose order means nothing
    #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
    data: Vec<PathBuf>,
    /// Rows that were asked about before, which k-center keeps away from
    #[arg(long, value_name = "FILE", num_args = 1..)]
    asked: Vec<PathBuf>,
    /// Comparisons to choose
    #[arg(long, value_name = "N", default_value_t = 100, allow_negative_numbers = true)]
    count: usize,
    /// How they are chosen: uniform, disagreement, entropy, k-center, k-center-disagreement, k-center-entropy, mixture
    #[arg(long, value_name = "NAME", default_value_t = Sampler::Disagreement)]
    sampler: Sampler,
    /// Seed of every draw
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// A chat template by name or file, for rows that are chats [default: as the reward model was trained]
    #[arg(long, value_name = "NAME")]
    chat_template: Option<String>,
    /// Leave bad rows out instead of stopping at the first
    #[arg(long)]
    skip_bad_rows: bool,
    /// Write the chosen rows there instead of on the screen, each with "disagreement", "entropy" and "probabilities"
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    threads: Threads,
    /// Print one JSON object as the last line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ChatArgs {
    /// Folder of the model
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// What the model is told before the first turn
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// A chat template by name or file [default: the tokenizer's, or hh]
    #[arg(long, value_name = "NAME")]
    chat_template: Option<String>,
    #[command(flatten)]
    draw: DrawArgs,
}

#[derive(Debug, Subcommand)]
enum TokenizerCommand {
    /// Train byte-level BPE on texts
    Train {
        /// Texts: rows {"text"}, plain text, or `reviews`
        #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
        data: Vec<PathBuf>,
        /// Tokens
        #[arg(long, value_name = "N", default_value_t = 4096)]
        vocab_size: usize,
        /// Folder for its files
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Texts of the embedded world
        #[arg(long, value_name = "N", default_value_t = 20_000)]
        texts: usize,
    },
}

#[derive(Debug, Subcommand)]
enum GoldCommand {
    /// Train a logistic regression on word n-grams from labelled texts
    Train {
        /// Rows {"text", "label"}, or IMDB's files *.pos.jsonl.gz and *.neg.jsonl.gz
        #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
        data: Vec<PathBuf>,
        /// Labelled texts to measure the accuracy on
        #[arg(long, value_name = "FILE", num_args = 1..)]
        test: Vec<PathBuf>,
        /// File for the classifier
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Leave out the first row of files *.pos.jsonl[.gz], as in a common copy of IMDB, where it is no review
        #[arg(long)]
        skip_first: bool,
        /// Print one JSON object as the last line
        #[arg(long)]
        json: bool,
    },
    /// Score rows {"prompt", "completion"}
    Score {
        /// The gold reward
        #[arg(long, value_name = "SPEC")]
        gold: String,
        /// Rows
        #[arg(long, value_name = "FILE", num_args = 1.., required = true)]
        data: Vec<PathBuf>,
        /// Print one JSON object as the last line
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct FrontierArgs {
    /// `reviews`, or imdb:DIR with the files train.pos.jsonl.gz, train.neg.jsonl.gz and so on
    #[arg(long)]
    corpus: Option<String>,
    /// Size of the model: 30k, 100k, 300k, 1m, 3m or 10m parameters
    #[arg(long)]
    size: Option<String>,
    /// Seeds, each with a model and runs of its own
    #[arg(long, value_name = "S", num_args = 1..)]
    seeds: Vec<u64>,
    /// dpo, cdpo, ipo, ppo, ppo-gold, preferred-ft, best-of-n
    #[arg(long, value_name = "NAME", num_args = 1..)]
    methods: Vec<String>,
    /// Folder; what it holds already is not measured again
    #[arg(long, value_name = "DIR", default_value = "runs/frontier")]
    out: PathBuf,
    /// TOML file laid over the defaults
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set any value of the configuration, e.g. --set steps=200
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    threads: Threads,
    /// Print one JSON object as the last line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ReviewsArgs {
    /// Texts
    #[arg(long, value_name = "N", default_value_t = 10)]
    count: usize,
    /// Cut each after this many words into prompt and completion
    #[arg(long, value_name = "N")]
    prompt_words: Option<usize>,
    /// Seed
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// File for the rows [default: the screen]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

pub(crate) fn lm(args: &LmArgs) -> Result<(), Failure> {
    match &args.command {
        Command::Pretrain(args) => pretrain(args),
        Command::Sft(args) => train(StageKind::Sft, args, Table::new()),
        Command::Reward(args) => fit_reward(args),
        Command::Dpo(args) => dpo(args),
        Command::Kto(args) => train(StageKind::Kto, args, Table::new()),
        Command::Ppo(args) => ppo(args),
        Command::Resume(args) => resume(args),
        Command::Sample(args) => sample(args),
        Command::Score(args) => score_rows(args),
        Command::Query(args) => query(args),
        Command::Chat(args) => chat(args),
        Command::Tokenizer(command) => tokenizer(command),
        Command::Gold(command) => gold_rewards(command),
        Command::Frontier(args) => measure_frontier(args),
        Command::Reviews(args) => write_reviews(args),
    }
}

// ---------------------------------------------------------------------------------------------------------- training

fn pretrain(args: &PretrainArgs) -> Result<(), Failure> {
    let names: Vec<&str> = SIZES.iter().map(|(name, ..)| *name).collect();
    let &(_, hidden, layers, heads) = SIZES.iter().find(|(name, ..)| *name == args.size).ok_or_else(|| {
        Failure::usage(format!(
            "--size {}: must be {}; other sizes with --set pretrain.hidden=…",
            args.size,
            names.join(", ")
        ))
    })?;
    let mut own = Table::new();
    for (name, value) in [("hidden", hidden), ("layers", layers), ("heads", heads)] {
        own.insert(name.to_owned(), whole(name, value)?);
    }
    for (name, value) in [("texts", args.texts), ("vocabulary", args.vocab_size)] {
        if let Some(value) = value {
            own.insert(name.to_owned(), whole(name, value)?);
        }
    }
    if args.packing {
        own.insert("packing".to_owned(), true.into());
    }
    let mut flags = Table::from_iter([("pretrain".to_owned(), own.into()), ("data".to_owned(), paths(&args.corpus)?)]);
    if let Some(steps) = args.steps {
        flags.insert("train".to_owned(), Table::from_iter([("steps".to_owned(), whole("--steps", steps)?)]).into());
    }
    start(StageKind::Pretrain, &args.common, flags)
}

fn fit_reward(args: &RewardArgs) -> Result<(), Failure> {
    let mut own = Table::new();
    if let Some(members) = args.members {
        own.insert("members".to_owned(), whole("--members", members)?);
    }
    train(StageKind::Reward, &args.train, Table::from_iter([("reward".to_owned(), own.into())]))
}

fn dpo(args: &DpoArgs) -> Result<(), Failure> {
    let mut loss = Table::new();
    if let Some(name) = &args.loss {
        let kind: crate::lm::loss::LossKind = name.parse()?;
        loss.insert("kind".to_owned(), kind.to_string().into());
        if !kind.has_reference() {
            // Nothing to compute that nobody asks for.
            let own = Table::from_iter([("reference".to_owned(), "none".into()), ("loss".to_owned(), loss.into())]);
            return train(StageKind::Dpo, &args.train, with_numbers(own, args));
        }
    }
    let own = Table::from_iter([("loss".to_owned(), loss.into())]);
    train(StageKind::Dpo, &args.train, with_numbers(own, args))
}

fn with_numbers(mut own: Table, args: &DpoArgs) -> Table {
    if let Some(toml::Value::Table(loss)) = own.get_mut("loss") {
        for (name, value) in [("beta", args.beta), ("label_smoothing", args.label_smoothing)] {
            if let Some(value) = value {
                loss.insert(name.to_owned(), value.into());
            }
        }
    }
    Table::from_iter([("dpo".to_owned(), own.into())])
}

fn ppo(args: &PpoArgs) -> Result<(), Failure> {
    let mut flags = Table::new();
    if let Some(model) = &args.model {
        flags.insert("model".to_owned(), path(model)?);
    }
    for (name, files) in [("data", &args.data), ("eval_data", &args.eval_data)] {
        if !files.is_empty() {
            flags.insert(name.to_owned(), paths(files)?);
        }
    }
    flags.insert("eval_samples".to_owned(), 256.into());
    if let Some(gold) = &args.gold {
        flags.insert("gold".to_owned(), gold.as_str().into());
    }
    let mut algorithm = Table::new();
    for (name, value) in [("iterations", args.iterations), ("batch_size", args.batch_size)] {
        if let Some(value) = value {
            algorithm.insert(name.to_owned(), whole(name, value)?);
        }
    }
    for (name, value) in [("kl_coefficient", args.kl_coefficient), ("target_kl", args.target_kl)] {
        if let Some(value) = value {
            algorithm.insert(name.to_owned(), value.into());
        }
    }
    if let Some(rate) = args.lr {
        algorithm.insert("optimizer".to_owned(), Table::from_iter([("learning_rate".to_owned(), rate.into())]).into());
    }
    if let Some(tokens) = args.max_new_tokens {
        let tokens = whole("--max-new-tokens", tokens)?;
        flags.insert("eval_tokens".to_owned(), tokens.clone());
        algorithm.insert("sampling".to_owned(), Table::from_iter([("max_new_tokens".to_owned(), tokens)]).into());
    }
    let mut own = Table::from_iter([("algorithm".to_owned(), algorithm.into())]);
    if let Some(model) = &args.reward_model {
        own.insert("reward_model".to_owned(), path(model)?);
    }
    flags.insert("ppo".to_owned(), own.into());
    start(StageKind::Ppo, &args.common, flags)
}

fn train(stage: StageKind, args: &TrainArgs, mut flags: Table) -> Result<(), Failure> {
    if let Some(model) = &args.model {
        flags.insert("model".to_owned(), path(model)?);
    }
    for (name, files) in [("data", &args.data), ("eval_data", &args.eval_data)] {
        if !files.is_empty() {
            flags.insert(name.to_owned(), paths(files)?);
        }
    }
    let mut loop_ = Table::new();
    if let Some(epochs) = args.epochs {
        loop_.insert("epochs".to_owned(), epochs.into());
    }
    for (name, value) in [("steps", args.steps), ("batch_size", args.batch_size)] {
        if let Some(value) = value {
            loop_.insert(name.to_owned(), whole(name, value)?);
        }
    }
    if let Some(rate) = args.lr {
        loop_.insert("optimizer".to_owned(), Table::from_iter([("learning_rate".to_owned(), rate.into())]).into());
    }
    flags.insert("train".to_owned(), loop_.into());
    if let Some(rank) = args.lora {
        let mut lora = Table::try_from(LoraConfig::default())?;
        lora.insert("rank".to_owned(), whole("--lora", rank)?);
        lora.insert("alpha".to_owned(), (2.0 * rank as f64).into());
        flags.insert("lora".to_owned(), lora.into());
    }
    if let Some(gold) = &args.gold {
        flags.insert("gold".to_owned(), gold.as_str().into());
        flags.insert("eval_samples".to_owned(), 256.into());
    }
    if args.skip_bad_rows {
        flags.insert("read".to_owned(), Table::from_iter([("skip_bad_rows".to_owned(), true.into())]).into());
    }
    start(stage, &args.common, flags)
}

/// Lays file, assignments and flags over the stage's defaults, and trains.
fn start(stage: StageKind, args: &CommonArgs, mut flags: Table) -> Result<(), Failure> {
    if let Some(seed) = args.seed {
        flags.insert("seed".to_owned(), whole("--seed", usize::try_from(seed).unwrap_or(usize::MAX))?);
    }
    if let Some(device) = args.device {
        flags.insert("device".to_owned(), device.to_string().into());
    }
    let mut layers = Vec::new();
    if let Some(path) = &args.config {
        layers.push(read_layer(path)?);
    }
    for assignment in &args.set {
        layers.push(set_layer(assignment)?);
    }
    layers.push(flags);
    let config = LmConfig::resolve(stage, &layers)?;
    args.threads.apply()?;
    let device = device::pick(config.device)?;
    let name = toml::Value::try_from(stage).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
    let path = args.out.clone().unwrap_or_else(|| free_folder(Path::new("runs"), &format!("{name}-s{}", config.seed)));
    let stop = on_interrupt()?;
    let progress = Progress::new();
    let outcome = run::train(&config, &path, &device, &stop, &|shown| progress.show(&shown))?;
    progress.finish();
    conclude(outcome, &path, args.json)
}

fn resume(args: &ResumeArgs) -> Result<(), Failure> {
    let config = run::read_config(&args.run)?;
    if let Some(summary) = LmSummary::load(&args.run)? {
        print_line(&format!("{} is finished already", args.run.display()));
        return conclude(LmOutcome::Finished(Box::new(summary)), &args.run, args.json);
    }
    args.threads.apply()?;
    let device = device::pick(config.device)?;
    let stop = on_interrupt()?;
    let progress = Progress::new();
    let outcome = run::resume(&args.run, &device, &stop, &|shown| progress.show(&shown))?;
    progress.finish();
    conclude(outcome, &args.run, args.json)
}

fn conclude(outcome: LmOutcome, path: &Path, json: bool) -> Result<(), Failure> {
    match outcome {
        LmOutcome::Interrupted { step } => {
            Err(Failure::interrupted(format!("after step {step}; go on with: pairwise lm resume {}", path.display())))
        }
        LmOutcome::Finished(summary) => {
            for (name, value) in &summary.eval {
                print_line(&format!("{name:<28} {:.4}", value.as_f64().unwrap_or(f64::NAN)));
            }
            let rate = summary.tokens as f64 / summary.wall_seconds.max(1e-9);
            print_line(&format!("parameters trained           {}", summary.trained_parameters));
            print_line(&format!(
                "time                         {:.1} s, {:.1} CPU s, {rate:.0} tokens/s",
                summary.wall_seconds, summary.cpu_seconds
            ));
            print_line(&format!("weights                      {}", summary.weights_sha256));
            print_line(&format!("model                        {}", summary.model.display()));
            if json {
                print_json(&summary);
            }
            Ok(())
        }
    }
}

/// Progress on stderr: a bar on a terminal, plain lines otherwise.
struct Progress {
    state: Mutex<ProgressState>,
}

struct ProgressState {
    bar: Option<ProgressBar>,
    first: Option<(Instant, usize, u64)>,
    last_line: Option<Instant>,
}

/// Time between two plain lines.
const BETWEEN_LINES: Duration = Duration::from_secs(5);

impl Progress {
    fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{wide_bar} {pos}/{len}, ETA {eta}\n{msg}");
            ProgressBar::new(0).with_style(style.expect("the template is a constant and valid"))
        });
        Self { state: Mutex::new(ProgressState { bar, first: None, last_line: None }) }
    }

    fn show(&self, shown: &Shown<'_>) {
        let Ok(mut state) = self.state.lock() else { return };
        let state = &mut *state;
        let waited = state.last_line.is_none_or(|last| last.elapsed() >= BETWEEN_LINES);
        match shown {
            Shown::Note(note) => match &state.bar {
                Some(bar) => bar.suspend(|| eprintln!("{note}")),
                None => eprintln!("{note}"),
            },
            Shown::Preparing(what, done, of) => match &state.bar {
                Some(bar) => {
                    bar.set_length(*of as u64);
                    bar.set_position(*done as u64);
                    bar.set_message((*what).to_owned());
                }
                None if waited || done == of => {
                    state.last_line = Some(Instant::now());
                    eprintln!("{what}: {done}/{of}");
                }
                None => {}
            },
            Shown::Step(step, total, metrics, tokens) => {
                let (since, first, tokens_then) = *state.first.get_or_insert((Instant::now(), *step, *tokens));
                let seconds = since.elapsed().as_secs_f64();
                let number = |name: &str| metrics.get(name).unwrap_or(f64::NAN);
                let mut line = match metrics.get("objective/scores") {
                    Some(score) => format!("score {score:.3}, KL {:.2}", number("objective/kl")),
                    None => format!("loss {:.4}, gradient {:.3}", number("loss"), number("grad_norm")),
                };
                if let Some(accuracy) = metrics.get("rewards/accuracies").or(metrics.get("accuracy")) {
                    line += &format!(", accuracy {accuracy:.2}");
                }
                if *step > first {
                    line += &format!(", {:.0} tokens/s", (tokens - tokens_then) as f64 / seconds);
                }
                match &state.bar {
                    Some(bar) => {
                        bar.set_length(*total as u64);
                        bar.set_position(*step as u64);
                        bar.set_message(line);
                    }
                    None if waited || step == total => {
                        state.last_line = Some(Instant::now());
                        let left = seconds / (step - first).max(1) as f64 * (total - step) as f64;
                        eprintln!("step {step}/{total}, {line}, ETA {left:.0} s");
                    }
                    None => {}
                }
            }
            Shown::Evaluation(values) => {
                let all =
                    values.iter().map(|(name, value)| format!("{name} {:.4}", value.as_f64().unwrap_or(f64::NAN)));
                let line = all.collect::<Vec<_>>().join(", ");
                match &state.bar {
                    Some(bar) => bar.suspend(|| eprintln!("{line}")),
                    None => eprintln!("{line}"),
                }
            }
        }
    }

    fn finish(&self) {
        if let Ok(state) = self.state.lock()
            && let Some(bar) = &state.bar
        {
            bar.abandon();
        }
    }
}

fn whole(name: &str, value: usize) -> Result<toml::Value, Failure> {
    i64::try_from(value).map(toml::Value::Integer).map_err(|_| Failure::usage(format!("{name} {value}: far too large")))
}

/// A path in a configuration: whole, so that the run can be resumed from anywhere.
fn path(path: &Path) -> Result<toml::Value, Failure> {
    let whole = if path.exists() { std::path::absolute(path)? } else { path.to_owned() };
    let text = whole.to_str().ok_or_else(|| Failure::usage(format!("{}: is not UTF-8", path.display())))?;
    Ok(text.into())
}

fn paths(all: &[PathBuf]) -> Result<toml::Value, Failure> {
    Ok(toml::Value::Array(all.iter().map(|one| path(one)).collect::<Result<_, _>>()?))
}

// --------------------------------------------------------------------------------------------------------- generation

impl DrawArgs {
    fn config(&self) -> Result<SampleConfig, Failure> {
        let Self { max_new_tokens, temperature, top_k, top_p, min_p, seed, .. } = *self;
        let config = SampleConfig { max_new_tokens, temperature, top_k, top_p, min_p, seed };
        config.validate().map_err(Failure::usage)?;
        Ok(config)
    }
}

/// A text up to the first of the stop strings.
fn until<'a>(text: &'a str, stops: &[String]) -> &'a str {
    stops
        .iter()
        .filter(|stop| !stop.is_empty())
        .filter_map(|stop| text.find(stop.as_str()))
        .min()
        .map_or(text, |end| &text[..end])
}

fn sample(args: &SampleArgs) -> Result<(), Failure> {
    args.threads.apply()?;
    let started = Instant::now();
    let device = device::pick(DeviceChoice::Cpu)?;
    let loaded = folder::read(&args.model, &device)?;
    loaded.remarks.iter().for_each(|remark| eprintln!("note: {remark}"));
    let tokenizer = tokenizer_of(&loaded)?;
    let model = loaded.decoder;
    if model.config.output != Output::Tokens {
        return Err(Failure::usage(format!("{}: is a model that scores, not one that writes", args.model.display())));
    }
    let config = args.draw.config()?;
    let (mut shown, mut prompts) = (Vec::new(), Vec::new());
    for text in &args.prompt {
        shown.push(json!(text));
        prompts.push(tokenizer.encode(text, true)?);
    }
    if !args.data.is_empty() {
        let (rows, _) = data::read_all::<PromptRow>(&args.data, &ReadConfig::default())?;
        let template = ChatTemplate::wanted(&tokenizer, args.chat_template.as_deref())?;
        let room = model.config.context.saturating_sub(1).max(1);
        let conventions = Conventions {
            truncation: Truncation::Error,
            max_length: model.config.context,
            max_prompt_length: room,
            ..Conventions::default()
        };
        let (encoded, _) = data::encode_prompts(&rows, &tokenizer, template.as_ref(), &conventions)?;
        for prompt in encoded {
            shown.push(serde_json::to_value(&rows[prompt.row].prompt)?);
            prompts.push(prompt.ids);
        }
    }
    if prompts.is_empty() {
        return Err(Failure::usage("nothing to complete: give --prompt TEXT, or --data FILE with rows {\"prompt\"}"));
    }
    for (prompt, ids) in shown.iter().zip(&mut prompts) {
        if ids.is_empty() {
            // A model that was trained on texts between EOS tokens begins one after it.
            let begin = tokenizer.special().bos.as_ref().or(tokenizer.special().eos.as_ref());
            ids.push(
                begin
                    .ok_or_else(|| {
                        Failure::usage("an empty prompt, and the tokenizer has no token that begins a text")
                    })?
                    .id,
            );
        }
        if ids.len() >= model.config.context {
            return Err(Failure::usage(format!(
                "prompt {prompt} has {} tokens; with a completion at most {} fit the model",
                ids.len(),
                model.config.context
            )));
        }
    }
    let eos = if args.ignore_eos { Vec::new() } else { eos_of(&model, &tokenizer) };
    let count = args.count.max(1);
    let repeated: Vec<Vec<u32>> = prompts.iter().flat_map(|ids| std::iter::repeat_n(ids.clone(), count)).collect();
    let text_of = |ids: &[u32]| tokenizer.decode(ids, true).unwrap_or_default();
    let printed = Mutex::new(0);
    let streaming = args.stream && repeated.len() == 1 && args.out.is_none();
    if streaming {
        print!("{}", text_of(&repeated[0]));
    }
    let goes_on = |_: usize, ids: &[u32]| {
        if streaming && let Ok(mut printed) = printed.lock() {
            let text = text_of(ids);
            let text = until(&text, &args.draw.stop);
            // Half a character is shown as such until its other half has come.
            if !text.ends_with('\u{fffd}') && text.len() > *printed {
                print!("{}", &text[*printed..]);
                std::io::stdout().flush().ok();
                *printed = text.len();
            }
        }
        args.draw.stop.is_empty() || {
            let text = text_of(ids);
            until(&text, &args.draw.stop).len() == text.len()
        }
    };
    let completions = generate(&model, &repeated, &config, &eos, 0, &goes_on);
    if streaming {
        print_line("");
    }
    let seconds = started.elapsed().as_secs_f64();
    let tokens: usize = completions.iter().map(|completion| completion.ids.len()).sum();
    let mut out = args.out.as_ref().map(|path| (path, String::new()));
    for (i, completion) in completions.iter().enumerate() {
        let text = tokenizer.decode(&completion.ids, true)?;
        let text = until(&text, &args.draw.stop);
        match &mut out {
            Some((_, lines)) => {
                let row = json!({"prompt": shown[i / count], "completion": text, "finish": completion.finish});
                *lines += &format!("{row}\n");
            }
            None if streaming => {}
            None => print_line(&format!("{}{text}", tokenizer.decode(&repeated[i], true)?)),
        }
    }
    if let Some((path, lines)) = out {
        write(path, &lines)?;
    }
    let ended = completions.iter().filter(|completion| completion.finish == Finish::Eos).count();
    eprintln!("{} completions, {tokens} tokens, {seconds:.1} s", completions.len());
    if args.json {
        print_json(&json!({
            "completions": completions.len(), "tokens": tokens, "ended": ended, "seconds": seconds,
            "cpu_seconds": ProcessTime::now().as_duration().as_secs_f64(), "seed": config.seed, "out": args.out,
        }));
    }
    Ok(())
}

fn score_rows(args: &ScoreArgs) -> Result<(), Failure> {
    args.threads.apply()?;
    let device = device::pick(DeviceChoice::Cpu)?;
    let is_run = args.model.join("config.toml").is_file();
    let loaded = if is_run { None } else { Some(folder::read(&args.model, &device)?) };
    let (policy, members, tokenizer, remarks) = match loaded {
        Some(loaded) if loaded.decoder.config.output == Output::Tokens => {
            let tokenizer = tokenizer_of(&loaded)?;
            (Some(loaded.decoder), Vec::new(), tokenizer, loaded.remarks)
        }
        _ => {
            let RewardModels { members, tokenizer, remarks, .. } = ensemble::read(&args.model, &device)?;
            (None, members, tokenizer, remarks)
        }
    };
    remarks.iter().for_each(|remark| eprintln!("note: {remark}"));
    let context = policy.iter().chain(&members).map(|model| model.config.context).min().unwrap_or(0);
    let (rows, _) = data::read_all::<CompletionRow>(&args.data, &ReadConfig::default())?;
    let template = ChatTemplate::wanted(&tokenizer, args.chat_template.as_deref())?;
    let conventions = Conventions {
        eos: if args.eos { Eos::AppendText } else { Eos::None },
        truncation: Truncation::Error,
        max_length: context,
        max_prompt_length: context.saturating_sub(1),
        ..Conventions::default()
    };
    let (encoded, _) = data::encode_completions(&rows, &tokenizer, template.as_ref(), &conventions)?;
    let examples: Vec<_> = encoded.into_iter().map(|row| row.encoded).collect();
    let mut lines = String::new();
    let (mut total, mut count) = (0.0, 0);
    if let Some(model) = policy {
        for (example, values) in examples.iter().zip(score::token_log_probs(&model, &examples, PART_TOKENS, &|_| ())) {
            let sum: f64 = values.iter().map(|&value| f64::from(value)).sum();
            (total, count) = (total + sum, count + values.len());
            let mut row = json!({"logprob": sum, "tokens": values.len()});
            if args.per_token {
                row["ids"] = json!(example.completion());
                row["token_logprobs"] = json!(values);
            }
            lines += &format!("{row}\n");
        }
    } else {
        for example in &examples {
            let of_member = |member| f64::from(reward::scores(member, &[&example.ids])[0]);
            let scores: Vec<f64> = members.iter().map(of_member).collect();
            let mean = scores.iter().sum::<f64>() / scores.len() as f64;
            (total, count) = (total + mean, count + 1);
            let mut row = json!({"score": mean, "tokens": example.ids.len()});
            if scores.len() > 1 {
                row["scores"] = json!(scores);
            }
            lines += &format!("{row}\n");
        }
    }
    match &args.out {
        Some(path) => write(path, &lines)?,
        None => lines.lines().for_each(print_line),
    }
    if args.json {
        let mean = total / count.max(1) as f64;
        print_json(&json!({"rows": examples.len(), "tokens": count, "mean": mean, "out": args.out}));
    }
    Ok(())
}

/// Tokens that scoring computes together.
const PART_TOKENS: usize = 2048;

fn query(args: &QueryArgs) -> Result<(), Failure> {
    args.threads.apply()?;
    if args.count == 0 {
        return Err(Failure::usage("--count 0: must be 1 or more"));
    }
    let device = device::pick(DeviceChoice::Cpu)?;
    let models = ensemble::read(&args.model, &device)?;
    models.remarks.iter().for_each(|remark| eprintln!("note: {remark}"));
    let of_several = matches!(args.sampler, Sampler::Disagreement | Sampler::KCenterDisagreement | Sampler::Mixture);
    if of_several && models.members.len() == 1 {
        return Err(Failure::usage(format!(
            "--sampler {}: a single reward model never disagrees; train several with `lm reward --members 3`, or use \
             --sampler entropy",
            args.sampler
        )));
    }
    let config = models.config.as_ref();
    let template =
        ChatTemplate::wanted(&models.tokenizer, args.chat_template.as_deref().or(config.and_then(LmConfig::template)))?;
    let conventions = config.map(|config| config.conventions.clone()).unwrap_or_default();
    let context = models.members.iter().map(|member| member.config.context).min().unwrap_or(0);
    let conventions = conventions.within(context);
    let read = ReadConfig { skip_bad_rows: args.skip_bad_rows, ..ReadConfig::default() };
    let encoded = |files: &[PathBuf]| -> Result<(Vec<CandidateRow>, Vec<EncodedPair>), Failure> {
        let (rows, skipped) = data::read_all::<CandidateRow>(files, &read)?;
        let candidates: Vec<PreferenceRow> = rows.iter().flat_map(|row| row.candidates.iter().cloned()).collect();
        let (pairs, report) = data::encode_pairs(&candidates, &models.tokenizer, template.as_ref(), &conventions)?;
        for (count, what) in [(skipped.count, "bad rows are left out"), (report.dropped.count, "pairs are too long")] {
            if count > 0 {
                eprintln!("note: {count} {what}");
            }
        }
        Ok((rows, pairs))
    };
    let (rows, candidates) = encoded(&args.data)?;
    let asked = if args.asked.is_empty() { Vec::new() } else { encoded(&args.asked)?.1 };
    let mut rng = stream(args.seed, "query", 0);
    let chosen = ensemble::choose(&models, &candidates, &asked, args.sampler, args.count, PART_TOKENS, &mut rng);
    // Which row each candidate is of, and its number there.
    let places: Vec<(usize, usize)> =
        rows.iter().enumerate().flat_map(|(i, row)| (0..row.candidates.len()).map(move |own| (i, own))).collect();
    let mut lines = String::new();
    for Query { candidate, disagreement, entropy, probabilities } in &chosen {
        let (row, own) = places[candidates[*candidate].row];
        let mut object = rows[row].only(own);
        let numbers = [json!(disagreement), json!(entropy), json!(probabilities)];
        object.extend(["disagreement", "entropy", "probabilities"].map(str::to_owned).into_iter().zip(numbers));
        lines += &format!("{}\n", serde_json::Value::Object(object));
    }
    match &args.out {
        Some(path) => write(path, &lines)?,
        None => lines.lines().for_each(print_line),
    }
    let mean = chosen.iter().map(|query| query.disagreement).sum::<f64>() / chosen.len().max(1) as f64;
    eprintln!("{} of {} candidates, mean disagreement {mean:.4}", chosen.len(), candidates.len());
    if args.json {
        print_json(&json!({
            "candidates": candidates.len(), "chosen": chosen.len(), "members": models.members.len(),
            "sampler": args.sampler, "mean_disagreement": mean, "seed": args.seed, "out": args.out,
        }));
    }
    Ok(())
}

fn chat(args: &ChatArgs) -> Result<(), Failure> {
    let device = device::pick(DeviceChoice::Cpu)?;
    let loaded = folder::read(&args.model, &device)?;
    let tokenizer = tokenizer_of(&loaded)?;
    let model = loaded.decoder;
    let choice = args.chat_template.as_deref().or(tokenizer.chat_template(None).is_none().then_some("hh"));
    let template = ChatTemplate::choose(&tokenizer, choice, None)?;
    let config = args.draw.config()?;
    let eos = eos_of(&model, &tokenizer);
    let mut messages: Vec<Message> = args.system.iter().map(|text| Message::new("system", text.as_str())).collect();
    let terminal = std::io::stdin().is_terminal();
    if terminal {
        eprintln!("write, and press Enter; an empty line or Ctrl-D ends the conversation");
    }
    for turn in 0.. {
        if terminal {
            print!("you: ");
            std::io::stdout().flush().ok();
        }
        let mut line = String::new();
        if std::io::stdin().lock().read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        messages.push(Message::new("user", line.trim()));
        let text = template.render(&messages, true)?;
        let mut ids = tokenizer.encode(&text, false)?;
        let room = model.config.context.saturating_sub(config.max_new_tokens).max(model.config.context / 2);
        if ids.len() > room {
            eprintln!(
                "note: the beginning of the conversation no longer fits the model's {} tokens",
                model.config.context
            );
            ids.drain(..ids.len() - room);
        }
        let reply = generate(&model, &[ids], &config, &eos, turn, &|_, ids| {
            let text = tokenizer.decode(ids, true).unwrap_or_default();
            until(&text, &args.draw.stop).len() == text.len()
        });
        let reply = tokenizer.decode(&reply[0].ids, true)?;
        let reply = until(&reply, &args.draw.stop).trim();
        print_line(&format!("model: {reply}"));
        messages.push(Message::new("assistant", reply));
    }
    Ok(())
}

// -------------------------------------------------------------------------------------------------------- everything else

fn measure_frontier(args: &FrontierArgs) -> Result<(), Failure> {
    let mut table = Table::try_from(FrontierConfig::default())?;
    if let Some(path) = &args.config {
        merge(&mut table, read_layer(path)?);
    }
    for assignment in &args.set {
        merge(&mut table, set_layer(assignment)?);
    }
    if let Some(corpus) = &args.corpus {
        let whole = match corpus.strip_prefix("imdb:") {
            Some(folder) => format!("imdb:{}", std::path::absolute(folder)?.display()),
            None => corpus.clone(),
        };
        table.insert("corpus".to_owned(), whole.into());
        if corpus.starts_with("imdb:") && args.config.is_none() {
            merge(&mut table, Table::try_from(FrontierConfig::imdb_layer())?);
        }
    }
    if let Some(size) = &args.size {
        table.insert("size".to_owned(), size.as_str().into());
    }
    if !args.seeds.is_empty() {
        let seeds = args.seeds.iter().map(|&seed| whole("--seeds", usize::try_from(seed).unwrap_or(usize::MAX)));
        table.insert("seeds".to_owned(), toml::Value::Array(seeds.collect::<Result<_, _>>()?));
    }
    if !args.methods.is_empty() {
        let names = args.methods.iter().map(|name| name.as_str().into()).collect();
        table.insert("methods".to_owned(), toml::Value::Array(names));
    }
    let config: FrontierConfig = serde_path_to_error::deserialize(table)
        .map_err(|error| Failure::usage(format!("{}: {}", error.path(), error.inner().message())))?;
    args.threads.apply()?;
    let device = device::pick(DeviceChoice::Cpu)?;
    let stop = on_interrupt()?;
    let progress = Progress::new();
    let started = Instant::now();
    let found = frontier::frontier(&config, &args.out, &device, &stop, &|shown| progress.show(&shown))?;
    progress.finish();
    let Some(found) = found else {
        return Err(Failure::interrupted(format!(
            "what is measured is kept; go on with the same command and --out {}",
            args.out.display()
        )));
    };
    let start = found.start.iter().sum::<f64>() / found.start.len().max(1) as f64;
    print_line(&format!("gold reward of the model all begin with: {start:.3}"));
    print_line(&format!("{:<20} best gold reward within a sampled sequence KL of", "method"));
    let budgets = frontier::BUDGETS.map(|budget| format!("{:<22}", format!("{budget} nats")));
    print_line(&format!("{:<20} {}", "", budgets.concat().trim_end()));
    for row in &found.table {
        let cells = row.reward.iter().zip(&row.interval).map(|(reward, interval)| {
            let cell = match (reward, interval) {
                (Some(reward), Some([low, high])) => format!("{reward:.3} [{low:.3}, {high:.3}]"),
                _ => "-".to_owned(),
            };
            format!("{cell:<22}")
        });
        print_line(&format!("{:<20} {}", row.method.name(), cells.collect::<String>().trim_end()));
    }
    print_line(&format!(
        "{:.0} s; table and points in {}",
        started.elapsed().as_secs_f64(),
        args.out.join("frontier.json").display()
    ));
    print_line(&format!("figure in {}", args.out.join("frontier.svg").display()));
    if args.json {
        print_json(&json!({
            "start": found.start, "table": found.table, "points": found.points.len(), "seeds": config.seeds,
            "wall_seconds": started.elapsed().as_secs_f64(), "out": args.out,
        }));
    }
    Ok(())
}

fn tokenizer(command: &TokenizerCommand) -> Result<(), Failure> {
    let TokenizerCommand::Train { data: files, vocab_size, out, texts } = command;
    let config = TokenizerConfig { vocab_size: *vocab_size, begin: true, ..TokenizerConfig::default() };
    let texts: Vec<String> = if files == &[PathBuf::from("reviews")] {
        (0..*texts as u64).map(|i| reviews::review(&mut stream(0, "review", i)).text).collect()
    } else {
        let (documents, _) = data::read_all::<Document>(files, &ReadConfig::default())?;
        documents.into_iter().map(|document| document.text).collect()
    };
    let characters: usize = texts.iter().map(String::len).sum();
    let tokenizer = Tokenizer::train(texts.iter().cloned(), &config)?;
    std::fs::create_dir_all(out)?;
    tokenizer.save(out)?;
    let mut tokens = 0;
    for text in texts.iter().take(1000) {
        tokens += tokenizer.encode(text, false)?.len();
    }
    let some: usize = texts.iter().take(1000).map(String::len).sum();
    print_line(&format!(
        "{} tokens from {} texts ({characters} bytes), {:.2} bytes a token, in {}",
        tokenizer.vocab_size(),
        texts.len(),
        some as f64 / tokens.max(1) as f64,
        out.display()
    ));
    Ok(())
}

fn gold_rewards(command: &GoldCommand) -> Result<(), Failure> {
    match command {
        GoldCommand::Train { data, test, out, skip_first, json } => {
            let all = |files: &[PathBuf]| -> Result<Vec<(String, bool)>, Failure> {
                let mut rows = Vec::new();
                for file in files {
                    // IMDB as it is passed on: the first row of each file of good reviews is none.
                    let of_imdb = file.to_string_lossy().contains(".pos.jsonl");
                    let skipped: &[usize] = if *skip_first && of_imdb { &[1] } else { &[] };
                    for row in logistic::read_labelled(file, skipped)? {
                        rows.push(row?);
                    }
                }
                Ok(rows)
            };
            let rows = all(data)?;
            let count = rows.len();
            let model =
                logistic::train(rows.into_iter().map(Ok::<_, gold::GoldError>), &logistic::TrainConfig::default())?;
            model.save(out)?;
            let mut result = json!({"rows": count, "train_accuracy": model.model().training_accuracy, "out": out});
            print_line(&format!(
                "trained on {count} texts, accuracy there {:.2} %",
                100.0 * model.model().training_accuracy
            ));
            if !test.is_empty() {
                let rows = all(test)?;
                let right = rows.iter().filter(|(text, label)| (model.probability(text) > 0.5) == *label).count();
                let accuracy = right as f64 / rows.len().max(1) as f64;
                print_line(&format!("accuracy on {} test texts {:.2} %", rows.len(), 100.0 * accuracy));
                result["test_accuracy"] = json!(accuracy);
                result["test_rows"] = json!(rows.len());
            }
            if *json {
                print_json(&result);
            }
            Ok(())
        }
        GoldCommand::Score { gold: spec, data: files, json } => {
            let gold = gold::open(spec)?;
            let (rows, _) = data::read_all::<CompletionRow>(files, &ReadConfig::default())?;
            let text = |content: &Content| match content {
                Content::Text(text) => text.clone(),
                Content::Chat(messages) => {
                    messages.iter().map(|message| message.content.as_str()).collect::<Vec<_>>().join("\n")
                }
            };
            let texts: Vec<(String, String)> =
                rows.iter().map(|row| (text(&row.prompt), text(&row.completion))).collect();
            let scored: Vec<Scored<'_>> =
                texts.iter().map(|(prompt, completion)| Scored { prompt, completion }).collect();
            let scores = gold.scores(&scored)?;
            scores.iter().for_each(|score| print_line(&json!({"score": score}).to_string()));
            if *json {
                let mean = scores.iter().sum::<f64>() / scores.len().max(1) as f64;
                print_json(&json!({"rows": scores.len(), "mean": mean, "gold": spec}));
            }
            Ok(())
        }
    }
}

fn write_reviews(args: &ReviewsArgs) -> Result<(), Failure> {
    let mut lines = String::new();
    for i in 0..args.count as u64 {
        let review = reviews::review(&mut stream(args.seed, "review", i));
        let mut row = match args.prompt_words {
            None => json!({"text": review.text}),
            Some(words) => {
                let (prompt, completion) = reviews::prefix(&review.text, words);
                json!({"prompt": prompt, "completion": completion})
            }
        };
        row["attributes"] = serde_json::to_value(review.attributes)?;
        lines += &format!("{row}\n");
    }
    match &args.out {
        Some(path) => write(path, &lines),
        None => {
            lines.lines().for_each(print_line);
            Ok(())
        }
    }
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    crate::run::archive::write_atomically(path, text.as_bytes())
        .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}
