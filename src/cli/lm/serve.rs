//! `lm serve`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::shared::TemplateArgs;
use crate::cli::failure::Failure;
use crate::cli::flags::{Threads, template_time};
use crate::cli::screen::{note, print_line};
use crate::cli::train::on_interrupt;
use crate::lm::serve::{Access, Limits, Served, Server};

/// Arguments of `lm serve`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ServeArgs {
    /// Folder of the model
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Name or address to listen on; 127.0.0.1 can be reached from this machine only, 0.0.0.0 from everywhere
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port to listen on; 0 for any free one
    #[arg(long, value_name = "N", default_value_t = 8080, allow_negative_numbers = true)]
    port: u16,
    /// What clients call the model [default: the folder's name]
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    template: TemplateArgs,
    /// Ask clients for the key that this environment variable holds [default if no name follows: PAIRWISE_API_KEY]
    #[arg(long, value_name = "VARIABLE", num_args = 0..=1, default_missing_value = KEY_VARIABLE)]
    api_key: Option<String>,
    /// Names by which clients may reach this machine, beside --host, localhost and addresses; * for any
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    allow_host: Vec<String>,
    /// Web pages that may send requests, such as https://example.com; * for any [default: none]
    #[arg(long, value_name = "ORIGIN,…", value_delimiter = ',')]
    allow_origin: Vec<String>,
    /// Connections at the same time; one more closes the one that has been silent for longest
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections as u32,
        value_parser = clap::value_parser!(u32).range(1..=65536), allow_negative_numbers = true)]
    max_connections: u32,
    /// Requests that are worked on or wait for their turn; more are refused with status 429
    #[arg(long, value_name = "N", default_value_t = Limits::default().requests as u32,
        value_parser = clap::value_parser!(u32).range(1..=4096), allow_negative_numbers = true)]
    max_requests: u32,
    /// Largest body of a request, MiB; reading one takes up to 40 times as much memory
    #[arg(long, value_name = "MIB", default_value_t = (Limits::default().body >> 20) as u32,
        value_parser = clap::value_parser!(u32).range(1..=1024), allow_negative_numbers = true)]
    max_body: u32,
    /// Longest time of a request, in seconds
    #[arg(long, value_name = "S", default_value_t = Limits::default().request.as_secs() as u32,
        value_parser = clap::value_parser!(u32).range(1..=86400), allow_negative_numbers = true)]
    request_seconds: u32,
    /// Seconds that a client has to send a request's head, and then its body, and that it may be silent or read nothing
    #[arg(long, value_name = "S", default_value_t = Limits::default().patience.as_secs() as u32,
        value_parser = clap::value_parser!(u32).range(1..=3600), allow_negative_numbers = true)]
    patience_seconds: u32,
    #[command(flatten)]
    threads: Threads,
}

/// Where the key is unless another variable is named.
const KEY_VARIABLE: &str = "PAIRWISE_API_KEY";

pub(super) fn serve(args: &ServeArgs) -> Result<(), Failure> {
    args.threads.apply()?;
    let key = args.api_key.as_deref().map(key_in).transpose()?;
    let access = Access::new(&args.allow_host, &args.allow_origin, key.as_deref())?;
    let limits = Limits {
        connections: args.max_connections as usize,
        requests: args.max_requests as usize,
        body: (args.max_body as usize) << 20,
        request: Duration::from_secs(args.request_seconds.into()),
        patience: Duration::from_secs(args.patience_seconds.into()),
        ..Limits::default()
    };
    let has_key = access.has_key();
    let TemplateArgs { chat_template, template_date } = &args.template;
    let now = template_time(template_date.as_deref())?;
    let served = Served::open(&args.model, args.name.as_deref(), chat_template.as_deref(), now)?;
    let server = Server::bind_with(&args.host, args.port, limits, access)?;
    let stop = on_interrupt()?;
    served.remarks.iter().for_each(|text| note(text));
    if !server.is_private() && !has_key {
        note(&format!(
            "whoever reaches {} can use the model; with --api-key only clients that have a key can",
            server.address()
        ));
    }
    print_line(&format!("serving {} at http://{}/v1", served.name, server.address()));
    let requests = server.run(&Arc::new(served), &stop)?;
    print_line(&format!("stopped after {requests} requests"));
    Ok(())
}

/// The key in an environment variable. Messages do not repeat what was given: it may be the key itself.
fn key_in(variable: &str) -> Result<String, Failure> {
    let is_name = variable.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && variable.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_');
    if !is_name {
        return Err(Failure::usage(
            "--api-key: must be the name of an environment variable that holds the key, never the key".to_owned(),
        ));
    }
    let problem = match std::env::var(variable) {
        Ok(key) if !key.is_empty() => return Ok(key),
        Ok(_) => "is empty",
        Err(std::env::VarError::NotPresent) => "is not set",
        Err(std::env::VarError::NotUnicode(_)) => "holds characters that no key has",
    };
    let which = if variable == KEY_VARIABLE { KEY_VARIABLE } else { "that it names" };
    Err(Failure::usage(format!("--api-key: the environment variable {which} {problem}: must hold the key")))
}
