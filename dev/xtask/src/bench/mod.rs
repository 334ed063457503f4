//! `cargo xtask bench NAME`: figures beside a peer's in the same run. In: a name and flags. Out: a table in Markdown.

use anyhow::{Result, bail};

/// A benchmark: its name, what it measures, how it is run.
type Bench = (&'static str, &'static str, fn(&[String]) -> Result<()>);

/// Every benchmark that is built in.
const BENCHES: &[Bench] = &[];

/// Runs one benchmark, or lists them.
///
/// # Errors
/// An unknown name, or what the benchmark says.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let list = || BENCHES.iter().map(|(n, what, _)| format!("  {n:<8} {what}")).collect::<Vec<_>>().join("\n");
    let Some((name, rest)) = args.split_first() else {
        println!("cargo xtask bench NAME, where NAME is one of\n{}", list());
        return Ok(());
    };
    match BENCHES.iter().find(|(n, _, _)| n == name) {
        Some((_, _, run)) => run(rest),
        None => bail!("there is no benchmark `{name}`; there are\n{}", list()),
    }
}
