//! `app` in a program that was built without its window.

use std::ffi::OsString;
use std::path::Path;

use clap::Args;

use super::failure::Failure;
use crate::control::config::Config;

/// Arguments of `app`: all are taken, as nothing can be done with any.
#[derive(Debug, Args)]
#[command(hide = true)]
pub(crate) struct AppArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    _all: Vec<OsString>,
}

pub(crate) fn app(_args: &AppArgs) -> Result<(), Failure> {
    Err(missing())
}

pub(crate) fn watch(_config: Config, _path: &Path) -> Result<(), Failure> {
    Err(missing())
}

fn missing() -> Failure {
    Failure::usage(
        "this program was built without its window: build it with cargo's feature `app`, which is on by default",
    )
}
