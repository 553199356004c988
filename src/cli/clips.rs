//! placeholder
use super::Failure;
/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct ClipsArgs {}
pub(crate) fn clips(_args: &ClipsArgs) -> Result<(), Failure> {
    Ok(())
}
