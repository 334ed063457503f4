//! The policy of a running coordination server: read at the start, followed in its file, asked for and set through the
//! admin socket. In: files, texts. Out: what is in force, what a change would change, who exists.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use api::Error;
use api::control::{Change, Network, PolicyChange, PolicySet, PolicyTopology};
use policy::{Compiled, Diff, Policy, Problem, Verdict, diff};
use tailnet::{OPEN, Refusal};
use tracing::warn;

use super::registry::{BY, RegistryHandle};
use super::state::ControlState;
use runtime::hint::Hinted;

/// Lines of one kind in an answer; of more, the number is said.
const MAX_LINES: usize = 200;

/// Faults of a policy in force that are logged at a start.
const MAX_WARNED: usize = 20;

/// Puts what a server starts with in force: the file if there is one, else what is stored. Tests that fail, and words
/// that only earlier versions took, are warned about: without a server nobody could join and mend them.
pub(super) async fn begin(registry: &RegistryHandle, file: Option<&Path>) -> anyhow::Result<()> {
    let (faults, of) = match file {
        None => (registry.change(|registry, _| registry.policy_faults()).await?, "the stored policy".to_string()),
        Some(file) => {
            let text = read(file)?;
            let done = registry.change(move |registry, now| {
                if registry.policy_text() == Some(text.as_str()) {
                    return Ok(registry.policy_faults());
                }
                registry.begin_with_policy(&text, "file", now)
            });
            (done.await?.map_err(|e| refused(file, &e))?, file.display().to_string())
        }
    };
    for fault in faults.iter().take(MAX_WARNED) {
        warn!(policy = of, fault = %fault, "a policy is in force that would be refused today");
    }
    if faults.len() > MAX_WARNED {
        warn!(policy = of, more = faults.len() - MAX_WARNED, "and more faults of that kind");
    }
    Ok(())
}

/// Puts a policy file in force while the server runs, unless it is already; a bad one changes nothing.
pub(super) async fn follow(registry: &RegistryHandle, file: &Path) -> anyhow::Result<String> {
    let text = read(file)?;
    let done = registry
        .change(move |registry, now| {
            if registry.policy_text() == Some(text.as_str()) {
                return Ok(false);
            }
            registry.set_policy(Some(&text), "file", now).map(|()| true)
        })
        .await?;
    match done {
        Ok(true) => Ok(format!("{} is in force", file.display())),
        Ok(false) => Ok("the same as before".to_string()),
        Err(e) => Err(refused(file, &e)),
    }
}

fn read(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("the policy {} cannot be read", file.display()))
}

fn refused(file: &Path, why: &Refusal) -> anyhow::Error {
    Hinted::error(
        format!("{}: {why}", file.display()),
        "mend these lines; `portcullis policy check FILE --running` shows them with hints",
    )
}

/// Who exists, under the policy in force or another one, in the form of a topology file; and the policy in force, which
/// is one that lets everybody through where there is none.
pub(super) async fn network(state: Arc<ControlState>, call: PolicyTopology) -> anyhow::Result<Network> {
    let other = call.policy.map(|text| Policy::parse(&text).map_err(|p| not_taken(&p))).transpose()?;
    let primaries = state.registry.now().compiled.primaries();
    let now = state.registry.change(move |registry, _| {
        let mut topology = registry.topology_under(other.as_ref().unwrap_or(registry.policy()));
        topology.primaries = primaries;
        (topology, registry.policy_text().map(str::to_string))
    });
    let (topology, text) = now.await?;
    let topology = blocking(move || topology.to_json()).await?;
    let stored = text.is_some();
    Ok(Network { topology, policy: text.unwrap_or_else(|| OPEN.to_string()), stored })
}

/// Checks a policy against the network, says what it changes and, unless it is a dry run, puts it in force.
pub(super) async fn set(state: Arc<ControlState>, call: PolicySet) -> anyhow::Result<PolicyChange> {
    let PolicySet { policy: text, dry_run: dry, strict } = call;
    let policy = Arc::new(Policy::parse(&text).map_err(|p| not_taken(&p))?);
    let asked = policy.clone();
    let now = state.registry.change(move |registry, _| {
        let before = registry.policy().clone();
        (registry.topology_under(&before), before, registry.topology_under(&asked))
    });
    let (old_network, before, new_network) = now.await?;
    let (changes, outcomes, notes) = blocking(move || {
        let old = Compiled::new(before, Arc::new(old_network));
        let new = Compiled::new(policy, Arc::new(new_network));
        let outcomes = new.run_tests();
        // Nobody waits for the differences of what is not taken.
        let fails = outcomes.iter().any(|o| o.failure(strict).is_some());
        let changes = if fails { Diff::default() } else { diff(&old, &new) };
        (changes, outcomes, new.notes())
    })
    .await?;
    let failed: Vec<String> = outcomes
        .iter()
        .filter_map(|o| o.failure(strict).map(|why| format!("{} at {}: {}: {why}", o.section, o.pos, o.asserted)))
        .collect();
    if !failed.is_empty() {
        let what = format!("the policy's own tests fail, the old one stays in force\n{}", failed.join("\n"));
        return Err(Error::refused(what).hinted("mend the rules or the tests").into());
    }
    let unknown = outcomes.iter().filter_map(|o| match &o.verdict {
        Verdict::Unknown(why) => Some(format!("{} at {}: {}: {why}", o.section, o.pos, o.asserted)),
        _ => None,
    });
    let unknown: Vec<String> = unknown.collect();
    if !dry {
        let done = state.registry.change(move |registry, now| registry.set_policy(Some(&text), BY, now)).await?;
        done.map_err(|e| Error::refused(e.to_string()))?;
    }
    let tests = outcomes.len();
    let all = changes.changes.len();
    let shown: Vec<Change> = changes.changes.into_iter().take(MAX_LINES).map(shown).collect();
    Ok(PolicyChange {
        more: changes.more + all - shown.len(),
        changes: shown,
        partial: changes.partial,
        in_force: !dry,
        tests,
        unknown: unknown.into_iter().take(MAX_LINES).collect(),
        // What is read at every start goes before what was set.
        until_start_from: state.policy_file.as_ref().map(|f| f.display().to_string()),
        notes: notes.iter().take(MAX_LINES).map(ToString::to_string).collect(),
    })
}

fn shown(c: policy::Change) -> Change {
    Change { gained: c.gained, who: c.who, at: c.at, what: c.what, arrives: c.arrives }
}

fn not_taken(problems: &[Problem]) -> anyhow::Error {
    let lines: Vec<String> = problems
        .iter()
        .map(|p| match &p.hint {
            Some(hint) => format!("{p}\n  hint: {hint}"),
            None => p.to_string(),
        })
        .collect();
    let what = format!("the policy is refused, the old one stays in force\n{}", lines.join("\n"));
    Error::refused(what).hinted("mend these lines; `portcullis policy check FILE` shows them too").into()
}

/// Compares large networks without holding up those who are served.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("the work on the policy was ended")
}
