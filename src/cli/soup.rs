//! `soup`: policies of runs with one beginning, mixed (Ramé et al. 2023, arXiv 2306.04488).

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::failure::Failure;
use super::flags::{SeedArgs, SharedArgs};
use super::screen::{print_line, shown};
use super::train::note_few;
use crate::control::rl::evaluate::evaluate;
use crate::control::run::policy::{Policy, mixable, mixed};
use crate::device::{self, DeviceChoice};
use crate::pareto::above_chord;
use crate::soup::{SUM_TOLERANCE, grid};

/// Arguments of `soup`.
#[derive(Debug, Args)]
pub(crate) struct SoupArgs {
    /// Runs, or files of policies, that were fine-tuned from one policy (`pairwise train … --init RUN`)
    #[arg(value_name = "RUN", num_args = 2.., required = true)]
    runs: Vec<PathBuf>,
    /// Weights of the runs; they sum to 1 [default: every mix of the path from one run to another]
    #[arg(long, value_name = "W,W,…", value_delimiter = ',')]
    weights: Vec<f64>,
    /// Steps of the path from one run to another
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=100), conflicts_with = "weights", allow_negative_numbers = true)]
    steps: u16,
    /// Episodes that a mix is measured over
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000), allow_negative_numbers = true)]
    episodes: u16,
    #[command(flatten)]
    seed: SeedArgs,
    /// File for the mix of these weights; `evaluate`, `clips` and `train --init` read it
    #[arg(long, value_name = "FILE.safetensors", requires = "weights")]
    out: Option<PathBuf>,
    #[command(flatten)]
    shared: SharedArgs,
}

/// A mix, measured.
#[derive(Debug, Serialize)]
struct MeasuredMix {
    weights: Vec<f64>,
    /// Mean return by every run's environment.
    returns: Vec<f64>,
    /// How far these lie above the chord between the runs.
    above_chord: Vec<f64>,
}

pub(crate) fn soup(args: &SoupArgs) -> Result<(), Failure> {
    if args.out.as_ref().is_some_and(|out| out.extension().is_none_or(|end| end != "safetensors")) {
        return Err(Failure::usage("--out: the file must end in .safetensors"));
    }
    check_weights(&args.weights, args.runs.len())?;
    args.shared.threads.apply()?;
    note_few(usize::from(args.episodes));
    let device = device::pick(DeviceChoice::Cpu)?;
    let policies = args.runs.iter().map(|run| Policy::read(run, &device)).collect::<Result<Vec<_>, _>>()?;
    let names: Vec<String> = args.runs.iter().map(|run| run.display().to_string()).collect();
    mixable(&policies, &names)?;
    let agents: Vec<_> = policies.iter().map(|policy| &policy.agent).collect();
    // What the runs were after: every environment once.
    let mut envs: Vec<&str> = Vec::new();
    for policy in &policies {
        if !envs.contains(&policy.env.as_str()) {
            envs.push(&policy.env);
        }
    }
    let measure = |weights: &[f64]| -> Result<Vec<f64>, Failure> {
        let agent = mixed(&agents, weights);
        let of_env = |env: &&str| {
            let mean = evaluate(&agent, env, usize::from(args.episodes), args.seed.seed)?.mean;
            match mean.is_finite() {
                true => Ok(mean),
                false => Err(Failure::negative(format!(
                    "{env}: the mean return of the mix {weights:?} is {mean}: it drives the environment to states that it \
                     cannot compute"
                ))),
            }
        };
        envs.iter().map(of_env).collect()
    };
    let single = |run: usize| (0..agents.len()).map(|i| if i == run { 1.0 } else { 0.0 }).collect::<Vec<f64>>();
    let ends = (0..agents.len()).map(|run| measure(&single(run))).collect::<Result<Vec<_>, _>>()?;
    let all = match args.weights.is_empty() {
        true => grid(agents.len(), usize::from(args.steps)),
        false => vec![args.weights.clone()],
    };
    print_line(&format!(
        "mean return of {} episodes, and how far it lies above the chord between the runs",
        args.episodes
    ));
    let column = |text: String| format!("{text:<28}");
    let head: String = envs.iter().map(|env| column((*env).to_owned())).collect();
    print_line(format!("{:<width$}{head}", "weights", width = 8 * agents.len()).trim_end());
    let mut found = Vec::new();
    for weights in all {
        let returns = measure(&weights)?;
        let above = above_chord(&ends, &weights, &returns);
        let shares: String = weights.iter().map(|weight| format!("{weight:<8.2}")).collect();
        let numbers: String =
            returns.iter().zip(&above).map(|(value, above)| column(format!("{value:.2} ({above:+.2})"))).collect();
        print_line(format!("{shares}{numbers}").trim_end());
        found.push(MeasuredMix { weights, returns, above_chord: above });
    }
    if let Some(out) = &args.out {
        let agent = mixed(&agents, &args.weights);
        Policy { agent, ..policies[0].clone() }.save(out)?;
        print_line(&format!("the mix is in {}: pairwise clips {} --out mix.gif", out.display(), out.display()));
    }
    args.shared.json.print(
        &serde_json::json!({ "runs": names, "envs": envs, "mixes": found, "out": args.out.as_deref().map(shown) }),
    );
    Ok(())
}

fn check_weights(weights: &[f64], runs: usize) -> Result<(), Failure> {
    if weights.is_empty() {
        return Ok(());
    }
    let sum: f64 = weights.iter().sum();
    if weights.len() != runs {
        return Err(Failure::usage(format!("--weights: there are {} for {runs} runs", weights.len())));
    }
    match weights.iter().all(|weight| weight.is_finite()) && (sum - 1.0).abs() < SUM_TOLERANCE {
        true => Ok(()),
        false => Err(Failure::usage(format!("--weights: they sum to {sum}: must sum to 1"))),
    }
}
