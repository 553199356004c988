//! `lm pretrain`, `sft`, `reward`, `dpo`, `modpo`, `kto`, `ppo`, `resume`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use toml::Value;

use super::progress::StageProgress;
use crate::cli::arguments::named;
use crate::cli::failure::Failure;
use crate::cli::flags::{
    self, JsonArgs, LayerArgs, ResumeArgs, RunFlags, SharedArgs, assigned, is_off, is_on, place, places,
};
use crate::cli::screen::{number, print_line};
use crate::cli::train::on_interrupt;
use crate::device;
use crate::engine::free_folder;
use crate::lm::lora::LoraConfig;
use crate::lm::loss::Loss;
use crate::lm::model::Precision;
use crate::lm::run::{self, LmConfig, LmOutcome, LmSummary, ReferenceKind, SIZES, StageKind};
use crate::table::Line;

/// Arguments of a training command.
#[derive(Debug, Args)]
pub(in crate::cli) struct StageArgs<F: StageFlags> {
    #[command(flatten)]
    flags: F,
    /// Run folder; made new [default: runs/STAGE-sSEED]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    layers: LayerArgs,
    #[command(flatten)]
    shared: SharedArgs,
}

/// Flags of a stage that are values of [`LmConfig`].
pub(in crate::cli) trait StageFlags: Args + Serialize {
    /// Fills in the values that flags imply, but are none of.
    fn imply(&mut self) {}
}

/// Flags of `lm sft` and `lm kto`, and those that other stages share with them.
#[derive(Debug, Args, Serialize)]
pub(in crate::cli) struct TrainFlags {
    #[command(flatten)]
    #[serde(flatten)]
    source: SourceFlags,
    #[command(flatten)]
    train: LoopFlags,
    /// Train low-rank adapters of this rank on all linear layers; more with --set lora.…
    #[arg(long, value_name = "RANK", value_parser = lora)]
    lora: Option<LoraConfig>,
    /// Judge sampled completions by this gold reward at evaluations
    #[arg(long, value_name = "SPEC", value_parser = gold)]
    #[serde(flatten)]
    gold: Option<GoldFlag>,
    #[command(flatten)]
    read: ReadFlags,
    #[command(flatten)]
    #[serde(flatten)]
    compute: ComputeFlags,
}

/// A model and what it learns from.
#[derive(Debug, Args, Serialize)]
struct SourceFlags {
    /// Folder of the model to begin with (Hugging Face's layout), or of an adapter; a policy is also compared with it, as
    /// its reference
    #[arg(long, value_name = "DIR")]
    #[serde(serialize_with = "place")]
    model: Option<PathBuf>,
    /// Rows to learn from, or prompts to complete: JSONL, JSONL.gz, or folders of these
    #[arg(long, value_name = "FILE,FILE,…")]
    #[serde(serialize_with = "places")]
    data: Option<Vec<PathBuf>>,
    /// Rows to evaluate on [default: 5 % of the data]
    #[arg(long, value_name = "FILE,FILE,…")]
    #[serde(serialize_with = "places")]
    eval_data: Option<Vec<PathBuf>>,
}

#[derive(Debug, Args, Serialize)]
struct LoopFlags {
    #[command(flatten)]
    optimizer: OptimizerFlags,
    /// Passes over the rows
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    epochs: Option<f64>,
    /// Steps, instead of epochs
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
    /// Rows in a step
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
}

#[derive(Debug, Args, Serialize)]
struct OptimizerFlags {
    /// Learning rate
    #[arg(long = "lr", value_name = "RATE", allow_negative_numbers = true)]
    learning_rate: Option<f64>,
}

/// `--gold`: where completions are judged, some have to be sampled.
#[derive(Debug, Clone, Serialize)]
struct GoldFlag {
    gold: String,
    eval_samples: usize,
}

#[derive(Debug, Args, Serialize)]
struct ReadFlags {
    /// Leave bad rows out instead of stopping at the first
    #[arg(long)]
    #[serde(skip_serializing_if = "is_off")]
    skip_bad_rows: bool,
}

/// What is drawn and computed, and where.
#[derive(Debug, Args, Serialize)]
struct ComputeFlags {
    #[command(flatten)]
    #[serde(flatten)]
    run: RunFlags,
    /// What products are computed in: f32, or bf16 for GPUs
    #[arg(long)]
    precision: Option<Precision>,
}

/// Flags of `lm pretrain`.
#[derive(Debug, Args, Serialize)]
pub(in crate::cli) struct PretrainFlags {
    /// `reviews` for the embedded world, or files with rows {"text"} or plain text [default: reviews]
    #[arg(long = "corpus", value_name = "FILE,FILE,…")]
    #[serde(serialize_with = "places")]
    data: Option<Vec<PathBuf>>,
    #[command(flatten)]
    pretrain: FreshFlags,
    #[command(flatten)]
    train: StepFlags,
    #[command(flatten)]
    #[serde(flatten)]
    compute: ComputeFlags,
}

/// A fresh model and its texts.
#[derive(Debug, Args, Serialize)]
struct FreshFlags {
    /// Size of the model: 30k, 100k, 300k, 1m, 3m or 10m parameters (with a vocabulary of 1,024) [default: 1m]
    #[arg(long, value_parser = size)]
    #[serde(flatten)]
    size: Option<SizeFlag>,
    /// Texts of the embedded world
    #[arg(long, value_name = "N")]
    texts: Option<usize>,
    /// Tokens of the tokenizer that is trained on the texts
    #[arg(long = "vocab-size", value_name = "N")]
    vocabulary: Option<usize>,
    /// Fill every example with texts one after another, EOS after each, as in GPT-2's pre-training
    #[arg(long)]
    #[serde(skip_serializing_if = "is_off")]
    packing: bool,
}

/// `--size`: a name for three numbers.
#[derive(Debug, Clone, Serialize)]
struct SizeFlag {
    hidden: usize,
    layers: usize,
    heads: usize,
}

#[derive(Debug, Args, Serialize)]
struct StepFlags {
    /// Steps, instead of one pass over the texts
    #[arg(long, value_name = "N")]
    steps: Option<usize>,
}

/// Flags of `lm reward`.
#[derive(Debug, Args, Serialize)]
pub(in crate::cli) struct RewardFlags {
    #[command(flatten)]
    reward: EnsembleFlags,
    #[command(flatten)]
    #[serde(flatten)]
    train: TrainFlags,
}

#[derive(Debug, Args, Serialize)]
struct EnsembleFlags {
    /// Reward models in an ensemble, each on its own bootstrap of the rows [default: 1, which sees all rows]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    members: Option<usize>,
}

/// Flags of `lm dpo`.
#[derive(Debug, Args, Serialize)]
pub(in crate::cli) struct DpoFlags {
    #[command(flatten)]
    dpo: PreferenceFlags,
    #[command(flatten)]
    #[serde(flatten)]
    train: TrainFlags,
}

#[derive(Debug, Args, Serialize)]
struct PreferenceFlags {
    #[command(flatten)]
    loss: LossFlags,
    #[arg(skip)]
    reference: Option<ReferenceKind>,
}

#[derive(Debug, Args, Serialize)]
struct LossFlags {
    /// The loss [default: sigmoid]
    #[arg(long = "loss", value_name = "NAME", value_parser = named::<Loss>())]
    kind: Option<&'static Line<Loss>>,
    #[command(flatten)]
    #[serde(flatten)]
    beta: BetaFlag,
    /// Share of the labels taken to be flipped: with sigmoid this is cDPO
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    label_smoothing: Option<f64>,
}

#[derive(Debug, Args, Serialize)]
struct BetaFlag {
    /// Strength of the pull to the reference policy
    #[arg(long, allow_negative_numbers = true)]
    beta: Option<f64>,
}

/// Flags of `lm modpo`.
#[derive(Debug, Args, Serialize)]
pub(in crate::cli) struct ModpoFlags {
    #[command(flatten)]
    modpo: ObjectiveFlags,
    #[command(flatten)]
    #[serde(flatten)]
    train: TrainFlags,
}

#[derive(Debug, Args, Serialize)]
struct ObjectiveFlags {
    /// An objective, once for each: name=N,weight=W,data=FILE,reward=SPEC. The policy learns from the preferences in the data
    /// of one objective, and from the rewards of the others: model:DIR, implicit:DIR or a gold reward. The reward of the one,
    /// if it is given, sets the unit of the others. Weights sum to 1
    #[arg(long = "objective", value_name = "FIELDS", value_parser = objective)]
    objectives: Option<Vec<ObjectiveFlag>>,
    /// The objective whose preferences are learned from [default: the one of the largest weight]
    #[arg(long, value_name = "NAME")]
    carrier: Option<String>,
    #[command(flatten)]
    #[serde(flatten)]
    beta: BetaFlag,
    /// Scale of the loss: bounded, or paper, whose gradients grow with 1/weight
    #[arg(long, value_name = "NAME")]
    form: Option<String>,
    /// Leave margin rewards on their own scales
    #[arg(long = "no-standardize", action = clap::ArgAction::SetFalse)]
    #[serde(skip_serializing_if = "is_on")]
    standardize: bool,
}

/// `--objective`.
#[derive(Debug, Clone, Default, Serialize)]
struct ObjectiveFlag {
    name: String,
    weight: Option<f64>,
    #[serde(serialize_with = "places")]
    data: Option<Vec<PathBuf>>,
    reward: Option<String>,
    beta: Option<f64>,
    #[serde(serialize_with = "place")]
    reference: Option<PathBuf>,
}

/// Flags of `lm ppo`.
#[derive(Debug, Args, Serialize)]
pub(in crate::cli) struct PpoFlags {
    #[command(flatten)]
    #[serde(flatten)]
    source: SourceFlags,
    /// Gold reward; without a reward model, completions are trained on it
    #[arg(long, value_name = "SPEC", value_parser = flags::reward)]
    gold: Option<String>,
    #[command(flatten)]
    ppo: JudgedFlags,
    /// There is always a reward that can judge.
    #[arg(skip = EVAL_SAMPLES)]
    eval_samples: usize,
    #[arg(skip)]
    eval_tokens: Option<usize>,
    #[command(flatten)]
    #[serde(flatten)]
    compute: ComputeFlags,
}

#[derive(Debug, Args, Serialize)]
struct JudgedFlags {
    /// Folder of a reward model, or of an ensemble's run, that judges completions (`lm reward` makes them)
    #[arg(long, value_name = "DIR")]
    #[serde(serialize_with = "place")]
    reward_model: Option<PathBuf>,
    #[command(flatten)]
    algorithm: AlgorithmFlags,
}

#[derive(Debug, Args, Serialize)]
struct AlgorithmFlags {
    /// Iterations of PPO
    #[arg(long, value_name = "N")]
    iterations: Option<usize>,
    /// Completions of an iteration
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    #[command(flatten)]
    optimizer: OptimizerFlags,
    /// What a nat of divergence from the reference costs
    #[arg(long, value_name = "BETA", allow_negative_numbers = true)]
    kl_coefficient: Option<f64>,
    /// Divergence of a completion, in nats, that the coefficient is adapted to
    #[arg(long, value_name = "NATS", allow_negative_numbers = true)]
    target_kl: Option<f64>,
    #[command(flatten)]
    sampling: LengthFlags,
}

#[derive(Debug, Args, Serialize)]
struct LengthFlags {
    /// Most tokens of a completion
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<usize>,
}

/// Completions that are sampled and judged at an evaluation: the standard error of their mean reward is a sixteenth of the
/// reward's deviation.
const EVAL_SAMPLES: usize = 256;

impl StageFlags for TrainFlags {}
impl StageFlags for PretrainFlags {}
impl StageFlags for RewardFlags {}
impl StageFlags for ModpoFlags {}

impl StageFlags for DpoFlags {
    fn imply(&mut self) {
        // A loss that compares with no reference has none computed.
        let without = self.dpo.loss.kind.is_some_and(|kind| !kind.reference);
        self.dpo.reference = without.then_some(ReferenceKind::None);
    }
}

impl StageFlags for PpoFlags {
    fn imply(&mut self) {
        // Evaluations sample what training samples.
        self.eval_tokens = self.ppo.algorithm.sampling.max_new_tokens;
    }
}

fn gold(spec: &str) -> Result<GoldFlag, String> {
    Ok(GoldFlag { gold: flags::reward(spec)?, eval_samples: EVAL_SAMPLES })
}

/// Adapters of a rank. Updates are multiplied with alpha / rank: that is 2 for every rank.
fn lora(rank: &str) -> Result<LoraConfig, String> {
    let rank: usize = rank.parse().map_err(|error: std::num::ParseIntError| error.to_string())?;
    Ok(LoraConfig { rank, alpha: 2.0 * rank as f64, ..LoraConfig::default() })
}

fn size(name: &str) -> Result<SizeFlag, String> {
    let found = SIZES.iter().find(|(size, ..)| *size == name);
    let &(_, hidden, layers, heads) = found.ok_or_else(|| {
        let names = SIZES.map(|(size, ..)| size).join(", ");
        format!("must be one of {names}; other sizes with --set pretrain.hidden=…")
    })?;
    Ok(SizeFlag { hidden, layers, heads })
}

/// `name=N,weight=W,data=FILE,reward=SPEC`. A reward is the rest: it may hold commas.
fn objective(text: &str) -> Result<ObjectiveFlag, String> {
    let mut flag = ObjectiveFlag::default();
    let mut rest = text;
    while !rest.is_empty() {
        let (field, value) = rest.split_once('=').ok_or_else(|| format!("'{rest}' is not NAME=VALUE"))?;
        let (value, after) = match field {
            "reward" => (value, ""),
            _ => value.split_once(',').unwrap_or((value, "")),
        };
        rest = after;
        let number = || value.parse().map_err(|_| format!("{field} = {value}: must be a number"));
        match field {
            "name" => value.clone_into(&mut flag.name),
            "weight" => flag.weight = Some(number()?),
            "beta" => flag.beta = Some(number()?),
            "data" => flag.data.get_or_insert_default().push(value.into()),
            "reference" => flag.reference = Some(value.into()),
            "reward" => flag.reward = Some(flags::reward(value)?),
            other => {
                return Err(format!(
                    "unknown field '{other}': there are name, weight, data, reference, beta and reward"
                ));
            }
        }
    }
    match flag.name.is_empty() || flag.weight.is_none() {
        true => Err("must have a name and a weight".to_owned()),
        false => Ok(flag),
    }
}

pub(super) fn resolve<F: StageFlags>(stage: StageKind, args: &mut StageArgs<F>) -> Result<LmConfig, Failure> {
    args.flags.imply();
    Ok(LmConfig::resolve(stage, &args.layers.under(&args.flags)?)?)
}

pub(super) fn train<F: StageFlags>(stage: StageKind, mut args: StageArgs<F>) -> Result<(), Failure> {
    let config = resolve(stage, &mut args)?;
    args.shared.threads.apply()?;
    let device = device::pick(config.device)?;
    let name = Value::try_from(stage)?;
    let name = format!("{}-s{}", name.as_str().unwrap_or_default(), config.seed);
    let path = args.out.unwrap_or_else(|| free_folder(Path::new("runs"), &name));
    let stop = on_interrupt()?;
    let progress = StageProgress::new();
    let outcome = run::train(&config, &path, &device, &stop, &|shown| progress.show(&shown))?;
    progress.finish();
    conclude(outcome, &path, &args.shared.json)
}

pub(super) fn resume(args: &ResumeArgs) -> Result<(), Failure> {
    let config = run::read_config(&args.run)?;
    let set = assigned(&args.set)?;
    if let Some(summary) = LmSummary::load(&args.run)?
        && run::planned(&config, &set)?.is_none()
    {
        // An edited configuration would say that it finished something else.
        run::check(&args.run, &|shown| StageProgress::new().show(&shown))?;
        print_line(&format!("{} is finished already", args.run.display()));
        return conclude(LmOutcome::Finished(Box::new(summary)), &args.run, &args.shared.json);
    }
    args.shared.threads.apply()?;
    let device = device::pick(config.device)?;
    let stop = on_interrupt()?;
    let progress = StageProgress::new();
    let outcome = run::resume(&args.run, &set, &device, &stop, &|shown| progress.show(&shown))?;
    progress.finish();
    conclude(outcome, &args.run, &args.shared.json)
}

fn conclude(outcome: LmOutcome, path: &Path, json: &JsonArgs) -> Result<(), Failure> {
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
                "time                         {:.1} s, {} CPU s, {rate:.0} tokens/s",
                summary.wall_seconds,
                number(summary.cpu_seconds, 1)
            ));
            print_line(&format!("weights                      {}", summary.weights_sha256));
            print_line(&format!("model                        {}", summary.model.display()));
            json.print(&summary);
            Ok(())
        }
    }
}
