//! `lm pretrain`, `sft`, `reward`, `dpo`, `kto`, `ppo`, `resume`.

use std::path::{Path, PathBuf};

use clap::Args;
use toml::{Table, Value};

use super::progress::StageProgress;
use super::{Failure, LayerArgs, SharedArgs, path, paths, print_json, print_line, reward as reward_spec, whole};
use crate::cli::arguments::named;
use crate::cli::cpu_seconds;
use crate::cli::train::on_interrupt;
use crate::device::{self, DeviceChoice};
use crate::disk::layers::set_layer;
use crate::engine::free_folder;
use crate::lm::lora::LoraConfig;
use crate::lm::loss::Loss;
use crate::lm::model::Precision;
use crate::lm::run::{self, LmConfig, LmOutcome, LmSummary, SIZES, StageKind};
use crate::table::Line;

/// What every training command takes.
#[derive(Debug, Args)]
pub(super) struct TrainArgs {
    #[command(flatten)]
    source: SourceArgs,
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

/// A model and what it learns from.
#[derive(Debug, Args)]
struct SourceArgs {
    /// Folder of the model to begin with (Hugging Face's layout), or of an adapter; of a policy it is the reference, too
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Rows to learn from, or prompts to complete: JSONL, JSONL.gz, or folders of these
    #[arg(long, value_name = "FILE,FILE,…")]
    data: Vec<PathBuf>,
    /// The same for evaluation [default: 5 % of the data]
    #[arg(long, value_name = "FILE,FILE,…")]
    eval_data: Vec<PathBuf>,
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
    /// What products are computed in: f32, or bf16 for GPUs
    #[arg(long)]
    precision: Option<Precision>,
    /// Run folder; made new [default: runs/STAGE-sSEED]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    layers: LayerArgs,
    #[command(flatten)]
    shared: SharedArgs,
}

#[derive(Debug, Args)]
pub(super) struct RewardArgs {
    /// Reward models in an ensemble, each on its own bootstrap of the rows [default: 1, which sees all rows]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    members: Option<usize>,
    #[command(flatten)]
    train: TrainArgs,
}

#[derive(Debug, Args)]
pub(super) struct DpoArgs {
    /// The loss [default: sigmoid]
    #[arg(long, value_name = "NAME", value_parser = named::<Loss>())]
    loss: Option<&'static Line<Loss>>,
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
pub(super) struct ModpoArgs {
    /// An objective, once for each: name=N,weight=W with data=FILE (its preferences, to learn from) and reward=SPEC (what
    /// it counts where another one is learned from: model:DIR, implicit:DIR or a gold reward; of the one that is learned
    /// from it gives the unit of the others). Weights sum to 1
    #[arg(long, value_name = "FIELDS")]
    objective: Vec<String>,
    /// The objective whose preferences are learned from [default: the one of the largest weight]
    #[arg(long, value_name = "NAME")]
    carrier: Option<String>,
    /// Strength of the pull to the reference policy
    #[arg(long, allow_negative_numbers = true)]
    beta: Option<f64>,
    /// bounded, or paper (whose gradients grow with 1/weight)
    #[arg(long, value_name = "NAME")]
    form: Option<String>,
    /// Leave margin rewards on their own scales
    #[arg(long)]
    no_standardize: bool,
    #[command(flatten)]
    train: TrainArgs,
}

#[derive(Debug, Args)]
pub(super) struct PpoArgs {
    #[command(flatten)]
    source: SourceArgs,
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
pub(super) struct PretrainArgs {
    /// `reviews` for the embedded world, or files with rows {"text"} or plain text [default: reviews]
    #[arg(long, value_name = "FILE,FILE,…")]
    corpus: Vec<PathBuf>,
    /// Size of the model: 30k, 100k, 300k, 1m, 3m or 10m parameters (with a vocabulary of 1,024) [default: 1m]
    #[arg(long)]
    size: Option<String>,
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
pub(super) struct ResumeArgs {
    /// Run folder
    run: PathBuf,
    /// Change a value of the configuration from here on, as KEY.PART=VALUE: train.steps, train.optimizer.learning_rate and
    /// so on. The change is recorded in changes.jsonl; a finished run goes on with more steps
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    shared: SharedArgs,
}

pub(super) fn pretrain(args: &PretrainArgs) -> Result<(), Failure> {
    // What is not said here may be said by --config or --set.
    let mut own = Table::new();
    if let Some(size) = &args.size {
        let names: Vec<&str> = SIZES.iter().map(|(name, ..)| *name).collect();
        let &(_, hidden, layers, heads) = SIZES.iter().find(|(name, ..)| name == size).ok_or_else(|| {
            let names = names.join(", ");
            Failure::usage(format!("--size {size}: must be {names}; other sizes with --set pretrain.hidden=…"))
        })?;
        for (name, value) in [("hidden", hidden), ("layers", layers), ("heads", heads)] {
            own.insert(name.to_owned(), whole(name, value)?);
        }
    }
    for (name, value) in [("texts", args.texts), ("vocabulary", args.vocab_size)] {
        if let Some(value) = value {
            own.insert(name.to_owned(), whole(name, value)?);
        }
    }
    if args.packing {
        own.insert("packing".to_owned(), true.into());
    }
    let mut flags = Table::from_iter([("pretrain".to_owned(), own.into())]);
    if !args.corpus.is_empty() {
        flags.insert("data".to_owned(), paths(&args.corpus)?);
    }
    if let Some(steps) = args.steps {
        flags.insert("train".to_owned(), Table::from_iter([("steps".to_owned(), whole("--steps", steps)?)]).into());
    }
    start(StageKind::Pretrain, &args.common, flags)
}

pub(super) fn reward(args: &RewardArgs) -> Result<(), Failure> {
    let mut own = Table::new();
    if let Some(members) = args.members {
        own.insert("members".to_owned(), whole("--members", members)?);
    }
    train(StageKind::Reward, &args.train, Table::from_iter([("reward".to_owned(), own.into())]))
}

pub(super) fn dpo(args: &DpoArgs) -> Result<(), Failure> {
    let mut loss = Table::new();
    if let Some(kind) = args.loss {
        loss.insert("kind".to_owned(), kind.name.into());
        if !kind.reference {
            // Nothing to compute that nobody asks for.
            let own = Table::from_iter([("reference".to_owned(), "none".into()), ("loss".to_owned(), loss.into())]);
            return train(StageKind::Dpo, &args.train, with_numbers(own, args));
        }
    }
    let own = Table::from_iter([("loss".to_owned(), loss.into())]);
    train(StageKind::Dpo, &args.train, with_numbers(own, args))
}

fn with_numbers(mut own: Table, args: &DpoArgs) -> Table {
    if let Some(Value::Table(loss)) = own.get_mut("loss") {
        for (name, value) in [("beta", args.beta), ("label_smoothing", args.label_smoothing)] {
            if let Some(value) = value {
                loss.insert(name.to_owned(), value.into());
            }
        }
    }
    Table::from_iter([("dpo".to_owned(), own.into())])
}

pub(super) fn modpo(args: &ModpoArgs) -> Result<(), Failure> {
    let mut own = Table::new();
    let objectives = args.objective.iter().map(|text| objective(text)).collect::<Result<Vec<_>, _>>()?;
    if !objectives.is_empty() {
        own.insert("objectives".to_owned(), Value::Array(objectives));
    }
    for (name, value) in [("carrier", &args.carrier), ("form", &args.form)] {
        if let Some(value) = value {
            own.insert(name.to_owned(), value.as_str().into());
        }
    }
    if let Some(beta) = args.beta {
        own.insert("beta".to_owned(), beta.into());
    }
    if args.no_standardize {
        own.insert("standardize".to_owned(), false.into());
    }
    train(StageKind::Modpo, &args.train, Table::from_iter([("modpo".to_owned(), own.into())]))
}

/// `name=N,weight=W,data=FILE,reward=SPEC`. A reward is the rest: it may hold commas.
fn objective(text: &str) -> Result<Value, Failure> {
    let wrong = |problem: String| Failure::usage(format!("--objective {text}: {problem}"));
    let mut table = Table::new();
    let mut data = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (name, value) = rest.split_once('=').ok_or_else(|| wrong(format!("'{rest}' is not NAME=VALUE")))?;
        let (value, after) = match name {
            "reward" => (value, ""),
            _ => value.split_once(',').unwrap_or((value, "")),
        };
        rest = after;
        match name {
            "name" => _ = table.insert(name.to_owned(), value.into()),
            "weight" | "beta" => {
                let number: f64 = value.parse().map_err(|_| wrong(format!("{name} = {value}: must be a number")))?;
                table.insert(name.to_owned(), number.into());
            }
            "data" => data.push(path(Path::new(value))?),
            "reference" => _ = table.insert(name.to_owned(), path(Path::new(value))?),
            "reward" => {
                table.insert(name.to_owned(), reward_spec(value)?);
            }
            other => {
                return Err(wrong(format!(
                    "unknown field '{other}': there are name, weight, data, reference, beta and reward"
                )));
            }
        }
    }
    if !data.is_empty() {
        table.insert("data".to_owned(), Value::Array(data));
    }
    if !table.contains_key("name") || !table.contains_key("weight") {
        return Err(wrong("must have a name and a weight".to_owned()));
    }
    Ok(table.into())
}

pub(super) fn ppo(args: &PpoArgs) -> Result<(), Failure> {
    let mut flags = Table::new();
    args.source.set(&mut flags)?;
    flags.insert("eval_samples".to_owned(), 256.into());
    if let Some(gold) = &args.gold {
        flags.insert("gold".to_owned(), reward_spec(gold)?);
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

pub(super) fn train(stage: StageKind, args: &TrainArgs, mut flags: Table) -> Result<(), Failure> {
    args.source.set(&mut flags)?;
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
        flags.insert("gold".to_owned(), reward_spec(gold)?);
        flags.insert("eval_samples".to_owned(), 256.into());
    }
    if args.skip_bad_rows {
        flags.insert("read".to_owned(), Table::from_iter([("skip_bad_rows".to_owned(), true.into())]).into());
    }
    start(stage, &args.common, flags)
}

impl SourceArgs {
    fn set(&self, flags: &mut Table) -> Result<(), Failure> {
        if let Some(model) = &self.model {
            flags.insert("model".to_owned(), path(model)?);
        }
        for (name, files) in [("data", &self.data), ("eval_data", &self.eval_data)] {
            if !files.is_empty() {
                flags.insert(name.to_owned(), paths(files)?);
            }
        }
        Ok(())
    }
}

/// Lays file, assignments and flags over the stage's defaults, and trains.
fn start(stage: StageKind, args: &CommonArgs, mut flags: Table) -> Result<(), Failure> {
    if let Some(seed) = args.seed {
        flags.insert("seed".to_owned(), whole("--seed", usize::try_from(seed).unwrap_or(usize::MAX))?);
    }
    if let Some(device) = args.device {
        flags.insert("device".to_owned(), device.to_string().into());
    }
    if let Some(precision) = args.precision {
        flags.insert("precision".to_owned(), Value::try_from(precision).expect("a word is a value"));
    }
    let mut layers = args.layers.read()?;
    layers.push(flags);
    let config = LmConfig::resolve(stage, &layers)?;
    args.shared.threads.apply()?;
    let device = device::pick(config.device)?;
    let name = Value::try_from(stage).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
    let path = args.out.clone().unwrap_or_else(|| free_folder(Path::new("runs"), &format!("{name}-s{}", config.seed)));
    let stop = on_interrupt()?;
    let progress = StageProgress::new();
    let outcome = run::train(&config, &path, &device, &stop, &|shown| progress.show(&shown))?;
    progress.finish();
    conclude(outcome, &path, args.shared.json)
}

pub(super) fn resume(args: &ResumeArgs) -> Result<(), Failure> {
    let config = run::read_config(&args.run)?;
    let set: Vec<Table> = args.set.iter().map(|assignment| set_layer(assignment)).collect::<Result<_, _>>()?;
    if let Some(summary) = LmSummary::load(&args.run)?
        && run::planned(&config, &set)?.is_none()
    {
        // An edited configuration would say that it finished something else.
        run::check(&args.run, &|shown| StageProgress::new().show(&shown))?;
        print_line(&format!("{} is finished already", args.run.display()));
        return conclude(LmOutcome::Finished(Box::new(summary)), &args.run, args.shared.json);
    }
    args.shared.threads.apply()?;
    let device = device::pick(config.device)?;
    let stop = on_interrupt()?;
    let progress = StageProgress::new();
    let outcome = run::resume(&args.run, &set, &device, &stop, &|shown| progress.show(&shown))?;
    progress.finish();
    conclude(outcome, &args.run, args.shared.json)
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
                summary.wall_seconds,
                cpu_seconds(summary.cpu_seconds, 1)
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
