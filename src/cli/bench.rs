//! placeholder
use super::Failure;
/// Arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {}
pub(crate) fn bench(_args: &BenchArgs) -> Result<(), Failure> {
    Ok(())
}
