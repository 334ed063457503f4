//! What one decision costs. In: nothing. Out: the table of `dev/sim/examples/admit.rs`, built with optimisation.

use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Builds and runs the example.
///
/// # Errors
/// It does not build or run.
pub(super) fn run(_args: &[String]) -> Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_string());
    let status = Command::new(cargo)
        .args(["run", "--quiet", "--release", "--package", "sim", "--example", "admit"])
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "the benchmark ended with {status}");
    Ok(())
}
