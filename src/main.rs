//! The `pairwise` binary; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    pairwise::cli::run(std::env::args_os())
}
