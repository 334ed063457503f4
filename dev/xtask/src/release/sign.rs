//! The signature. In: the checksums and a key of minisign. Out: `SHA256SUMS.minisig`. What is signed is the list, and the
//! list vouches for every file.

use anyhow::{Context, Result, ensure};

use super::{Page, sums, tool};

/// Signs; without a key it says so and does nothing. Minisign asks for the key's password itself.
///
/// # Errors
/// There are no checksums, or minisign's words.
pub(super) fn make(page: &Page) -> Result<()> {
    let Some(key) = &page.key else {
        println!("release: nothing is signed: no key was given (`--key FILE`; `minisign -G` makes one)");
        return Ok(());
    };
    let sums = page.dir.join(sums::NAME);
    ensure!(sums.is_file(), "{} is not there: it is what is signed", sums.display());
    let mut minisign = tool("minisign")?;
    // Both comments by hand: minisign would write the time of day into the one that is signed too.
    let said = format!("portcullis {} {}", page.version, page.commit);
    minisign.args(["-S", "-c", "signature of portcullis", "-t", said.trim_end(), "-s"]).arg(key).arg("-m").arg(&sums);
    let done = minisign.status().context("cannot run minisign")?;
    ensure!(done.success(), "minisign did not sign with {}", key.display());
    println!("release: {}.minisig", sums.display());
    Ok(())
}
