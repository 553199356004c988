//! `lm score`, `query`.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::shared::RowsArgs;
use crate::cli::arguments::named;
use crate::cli::failure::Failure;
use crate::cli::flags::{SeedArgs, SharedArgs};
use crate::cli::screen::{note, number, remark, shown, write_or_print};
use crate::device::{self, DeviceChoice};
use crate::lm::chat::ChatTemplate;
use crate::lm::config::Output;
use crate::lm::data::{
    self, CandidateRow, CompletionRow, Conventions, EncodedPair, Eos, PreferenceRow, ReadConfig, Truncation,
};
use crate::lm::folder;
use crate::lm::reward;
use crate::lm::run::reward_models::{self, Query, RewardModels};
use crate::lm::run::{LmConfig, tokenizer_of};
use crate::lm::score::token_log_probs;
use crate::preference::query::{DISAGREEMENT, Reads, Sampler};
use crate::random::stream;
use crate::table::Line;

/// Arguments of `lm score`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ScoreArgs {
    /// Folder of the model, or of the run of a reward model or an ensemble, which gives the mean over its members
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Rows {"prompt", "completion"}
    #[arg(long, value_name = "FILE,FILE,…", required = true)]
    data: Vec<PathBuf>,
    /// Append the token that ends a text to every completion, as training does
    #[arg(long)]
    eos: bool,
    /// Also write the log-probability of every token
    #[arg(long)]
    per_token: bool,
    #[command(flatten)]
    rows: RowsArgs,
    /// Write rows {"logprob", "tokens", …} to this file instead of the screen
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    shared: SharedArgs,
}

/// Arguments of `lm query`.
#[derive(Debug, Args)]
pub(in crate::cli) struct QueryArgs {
    /// Folder of an ensemble's run (`lm reward --members 3` makes one), or of a reward model
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Candidates: rows {"prompt", "completions"}, every two of which are a candidate, or {"prompt", "chosen", "rejected"},
    /// where which is which does not matter
    #[arg(long, value_name = "FILE,FILE,…", required = true)]
    data: Vec<PathBuf>,
    /// Rows that were asked about before; k-center chooses far from them
    #[arg(long, value_name = "FILE,FILE,…")]
    asked: Vec<PathBuf>,
    /// Comparisons to choose
    #[arg(long, value_name = "N", default_value_t = 100, allow_negative_numbers = true)]
    count: usize,
    /// How they are chosen
    #[arg(long, value_name = "NAME", default_value = DISAGREEMENT.name, value_parser = named::<Sampler>())]
    sampler: &'static Line<Sampler>,
    #[command(flatten)]
    seed: SeedArgs,
    #[command(flatten)]
    rows: RowsArgs,
    /// Leave bad rows out instead of stopping at the first
    #[arg(long)]
    skip_bad_rows: bool,
    /// Write the chosen rows, each with "disagreement", "entropy" and "probabilities", to this file instead of the screen
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    shared: SharedArgs,
}

/// Tokens that scoring computes together.
const PART_TOKENS: usize = 2048;

pub(super) fn score(args: &ScoreArgs) -> Result<(), Failure> {
    args.shared.threads.apply()?;
    let device = device::pick(DeviceChoice::Cpu)?;
    let is_run = args.model.join("config.toml").is_file();
    let loaded = if is_run { None } else { Some(folder::read(&args.model, &device)?) };
    let (policy, members, tokenizer, remarks) = match loaded {
        Some(loaded) if loaded.decoder.config.output == Output::Tokens => {
            let tokenizer = tokenizer_of(&args.model, &loaded)?;
            (Some(loaded.decoder), Vec::new(), tokenizer, loaded.remarks)
        }
        _ => {
            let RewardModels { members, tokenizer, remarks, .. } = reward_models::read(&args.model, &device)?;
            (None, members, tokenizer, remarks)
        }
    };
    remarks.iter().for_each(|text| note(text));
    let context = policy.iter().chain(&members).map(|model| model.config.context).min().unwrap_or(0);
    let rows: Vec<CompletionRow> = args.rows.read(&args.data)?;
    let template = ChatTemplate::wanted(&tokenizer, args.rows.chat_template.as_deref(), args.rows.time()?)?;
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
        for (example, values) in examples.iter().zip(token_log_probs(&model, &examples, PART_TOKENS, &|_| ())) {
            let sum: f64 = values.iter().map(|&value| f64::from(value)).sum();
            if !sum.is_finite() {
                return Err(no_number(lines.lines().count(), sum));
            }
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
            if !mean.is_finite() {
                return Err(no_number(lines.lines().count(), mean));
            }
            (total, count) = (total + mean, count + 1);
            let mut row = json!({"score": mean, "tokens": example.ids.len()});
            if scores.len() > 1 {
                row["scores"] = json!(scores);
            }
            lines += &format!("{row}\n");
        }
    }
    write_or_print(args.out.as_deref(), &lines)?;
    let mean = (count > 0).then(|| total / count as f64);
    args.shared
        .json
        .print(&json!({"rows": examples.len(), "tokens": count, "mean": mean, "out": args.out.as_deref().map(shown)}));
    Ok(())
}

/// A row, counted from 0, for which the model's numbers overflow.
fn no_number(row: usize, found: f64) -> Failure {
    Failure::negative(format!("row {}: the model computes {found} for it: its weights are too large for f32", row + 1))
}

pub(super) fn query(args: &QueryArgs) -> Result<(), Failure> {
    args.shared.threads.apply()?;
    if args.count == 0 {
        return Err(Failure::usage("--count 0: must be 1 or more"));
    }
    let device = device::pick(DeviceChoice::Cpu)?;
    let models = reward_models::read(&args.model, &device)?;
    models.remarks.iter().for_each(|text| note(text));
    if args.sampler.reads.contains(&Reads::Disagreement) && models.members.len() == 1 {
        return Err(Failure::usage(format!(
            "--sampler {}: a single reward model never disagrees; train several with `lm reward --members 3`, or use \
             --sampler entropy",
            args.sampler.name
        )));
    }
    let config = models.config.as_ref();
    let recorded = config.map(LmConfig::template_time).transpose()?.flatten();
    let time = args.rows.time()?.or(recorded);
    let template = ChatTemplate::wanted(
        &models.tokenizer,
        args.rows.chat_template.as_deref().or(config.and_then(LmConfig::template)),
        time,
    )?;
    let conventions = config.map(|config| config.conventions.clone()).unwrap_or_default();
    let context = models.members.iter().map(|member| member.config.context).min().unwrap_or(0);
    let conventions = conventions.within(context);
    let read = ReadConfig { skip_bad_rows: args.skip_bad_rows, ..args.rows.config() };
    let encoded = |files: &[PathBuf]| -> Result<(Vec<CandidateRow>, Vec<EncodedPair>), Failure> {
        let (rows, skipped) = data::read_all::<CandidateRow>(files, &read)?;
        let candidates: Vec<PreferenceRow> = rows.iter().flat_map(|row| row.candidates.iter().cloned()).collect();
        let (pairs, report) = data::encode_pairs(&candidates, &models.tokenizer, template.as_ref(), &conventions)?;
        if let Some(remark) = skipped.unread_fields() {
            note(&remark);
        }
        for (count, what) in [(skipped.count, "bad rows are left out"), (report.dropped.count, "pairs are too long")] {
            if count > 0 {
                note(&format!("{count} {what}"));
            }
        }
        Ok((rows, pairs))
    };
    let (rows, candidates) = encoded(&args.data)?;
    let asked = if args.asked.is_empty() { Vec::new() } else { encoded(&args.asked)?.1 };
    let mut rng = stream(args.seed.seed, "query", 0);
    let chosen = reward_models::choose(&models, &candidates, &asked, args.sampler, args.count, PART_TOKENS, &mut rng);
    // Which row each candidate is of, and its number there.
    let places: Vec<(usize, usize)> =
        rows.iter().enumerate().flat_map(|(i, row)| (0..row.candidates.len()).map(move |own| (i, own))).collect();
    let mut lines = String::new();
    for Query { candidate, disagreement, entropy, probabilities } in &chosen {
        let (row, own) = places[candidates[*candidate].row];
        let mut object = rows[row].only(own);
        let numbers = [json!(disagreement), json!(entropy), json!(probabilities)];
        object.extend(["disagreement", "entropy", "probabilities"].map(str::to_owned).into_iter().zip(numbers));
        lines += &format!("{}\n", Value::Object(object));
    }
    write_or_print(args.out.as_deref(), &lines)?;
    // A single reward model has nobody to disagree with.
    let known = models.members.len() > 1 && !chosen.is_empty();
    let mean = known.then(|| chosen.iter().map(|query| query.disagreement).sum::<f64>() / chosen.len() as f64);
    let in_words = number(mean, 4);
    remark(&format!("{} of {} candidates, mean disagreement {in_words}", chosen.len(), candidates.len()));
    args.shared.json.print(&json!({
        "candidates": candidates.len(), "chosen": chosen.len(), "members": models.members.len(),
        "sampler": args.sampler, "mean_disagreement": mean, "seed": args.seed.seed,
        "out": args.out.as_deref().map(shown),
    }));
    Ok(())
}
