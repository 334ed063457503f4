//! nginx: a file for a `geo` block. In: the list. Out: the file, tested, and a reload.

use std::path::Path;

use access::publish::{Desired, nginx_geo};
use anyhow::Context;
use net::replace::replace;

use super::Memory;
use super::hooks::program;

pub(super) async fn apply(
    d: &Desired,
    file: &Path,
    test: &[String],
    reload: &[String],
    memory: &mut Memory,
) -> anyhow::Result<bool> {
    let text = nginx_geo(&d.merged());
    let before = std::fs::read(file).ok();
    if before.as_deref() == Some(text.as_bytes()) && memory.reloaded {
        return Ok(false);
    }
    replace(file, text.as_bytes()).with_context(|| format!("{} can not be written", file.display()))?;
    if let Err(e) = program(test, None).await {
        // A reload of somebody else must not meet it either.
        if let Some(before) = before {
            replace(file, &before)?;
        }
        return Err(e.context("nginx refuses its configuration"));
    }
    program(reload, None).await.context("nginx was not reloaded")?;
    memory.reloaded = true;
    Ok(true)
}
