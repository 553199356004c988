//! `lm serve`.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::{Failure, print_line};
use crate::cli::train::Threads;
use crate::cli::train::on_interrupt;
use crate::lm::serve::{Served, Server};

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Folder of the model
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Name or number to listen on; 127.0.0.1 is reached from this machine only, 0.0.0.0 from everywhere
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    /// Port to listen on; 0 for any free one
    #[arg(long, value_name = "N", default_value_t = 8080, allow_negative_numbers = true)]
    port: u16,
    /// What clients call the model [default: the folder's name]
    #[arg(long)]
    name: Option<String>,
    /// A chat template by name or file [default: the tokenizer's, or hh]
    #[arg(long, value_name = "NAME")]
    chat_template: Option<String>,
    #[command(flatten)]
    threads: Threads,
}

pub(super) fn serve(args: &ServeArgs) -> Result<(), Failure> {
    args.threads.apply()?;
    let served = Served::open(&args.model, args.name.as_deref(), args.chat_template.as_deref())?;
    let server = Server::bind(&args.host, args.port)?;
    let stop = on_interrupt()?;
    served.remarks.iter().for_each(|remark| eprintln!("note: {remark}"));
    if !server.is_private() {
        eprintln!("note: whoever reaches {} can use the model: there is no key", server.address());
    }
    print_line(&format!("serving {} at http://{}/v1", served.name, server.address()));
    std::io::stdout().flush().ok();
    let requests = server.run(&Arc::new(served), &stop)?;
    print_line(&format!("stopped after {requests} requests"));
    Ok(())
}
