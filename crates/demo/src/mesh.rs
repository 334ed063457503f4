//! `portcullis demo --mesh`: a partner that answers one address only, on this machine, with official clients and real
//! packets. In: nothing. Out: each command as a person would type it and what became of it; hosts, processes and
//! files are gone afterwards.

mod stage;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use runtime::hint::Hinted;
use runtime::run::Run;

use self::stage::{Host, Stage};
use super::Steps;
use crate::say;

/// Documentation addresses (RFC 5737): the office that the partner trusts, a laptop elsewhere, control, the partner.
const OFFICE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const LAPTOP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 20);
const CONTROL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const PARTNER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 77);
const PORT: u16 = 443;

/// A change must be with the clients by then; a start, with two busy cores, has longer.
const CHANGE_DEADLINE: Duration = Duration::from_secs(10);
const START: Duration = Duration::from_secs(45);
/// The promise for a route that is taken back.
const REVOKED_WITHIN: Duration = Duration::from_secs(5);
/// How long one question waits for an answer: the hosts are one machine.
const PROBE_TIMEOUT: Duration = Duration::from_millis(700);

const ANN_MAY: &str =
    "{ \"acls\": [ { \"action\": \"accept\", \"src\": [\"ann@\"], \"dst\": [\"203.0.113.77:443\"] } ] }\n";
const BEN_MAY: &str =
    "{ \"acls\": [ { \"action\": \"accept\", \"src\": [\"ben@\"], \"dst\": [\"203.0.113.77:443\"] } ] }\n";

/// Shows it, and cleans up, also after Ctrl-C.
///
/// # Errors
/// Something that it needs is not here, or a step did not come out as it should.
pub async fn run() -> Result<()> {
    let missing = stage::missing();
    if !missing.is_empty() {
        return Err(Hinted::error(
            format!("the mesh demo needs what is not here: {}", missing.join(", ")),
            "run it as root on Linux, with iproute2, nftables and the official client installed (tailscale.com/download, or `go install tailscale.com/cmd/tailscale@v1.102.3 tailscale.com/cmd/tailscaled@v1.102.3`)",
        ));
    }
    let run = Run::new(Duration::from_secs(1));
    run.follow_signals()?;
    let toured = tokio::select! {
        toured = tour() => toured,
        () = run.stopping() => Ok(()),
    };
    run.stop();
    let finished = run.finish().await;
    toured.context("the demo did not come out as it should")?;
    finished
}

async fn tour() -> Result<()> {
    let mut stage = Stage::new()?;
    say::line("Portcullis mesh demo: a partner answers one address only, and a laptop elsewhere must reach it.\n");
    let (partner, office) = (stage.host("partner", PARTNER)?, stage.host("office", OFFICE)?);
    let (laptop, control) = (stage.host("laptop", LAPTOP)?, stage.host("control", CONTROL)?);
    for (host, words) in [
        (&partner, "a service on port 443 that drops every source but the office's"),
        (&office, "the router: the official client, with --advertise-routes"),
        (&laptop, "ann's, somewhere else: the official client, with --accept-routes"),
        (&control, "portcullis control"),
    ] {
        say::line(format_args!("  {:<8} {:<13} {words}", host.name, host.addr.to_string()));
    }
    say::line("\nFour network namespaces on this machine; nothing leaves it.\n");
    partner.only_from(OFFICE)?;
    partner.serve(PORT)?;
    office.forward()?;
    let mut steps = Steps::default();

    steps.title("Without a mesh");
    let answer = ask(&laptop);
    steps.check("the laptop asks the partner", &words(&answer), answer.is_err());
    let answer = ask(&office);
    steps.check("the office asks the partner", &words(&answer), answer == Ok(OFFICE.into()));

    say::line("");
    steps.title("Control, two official clients, a route that waits for approval");
    stage.control(&control, START).await?;
    for user in ["ann", "ben", "ops"] {
        stage.admin(&["users", "create", user])?;
    }
    stage.policy(ANN_MAY)?;
    steps.why("policy: ann may reach 203.0.113.77 on port 443; nobody else may reach anything");
    for (host, user, flag) in
        [(&laptop, "ann", "--accept-routes"), (&office, "ops", "--advertise-routes=203.0.113.77/32")]
    {
        let key = stage.admin(&["keys", "create", "--user", user])?;
        let begun = Instant::now();
        stage.join(host, &control, key.trim(), flag, START).await?;
        let took = begun.elapsed().as_millis();
        steps.check(&format!("{}: tailscale up {flag}", host.name), &format!("joined in {took} ms"), true);
    }
    wait(CHANGE_DEADLINE, || stage.admin(&["routes", "list"]).is_ok_and(|t| t.contains("203.0.113.77"))).await;
    let answer = ask(&laptop);
    steps.check("the route is pending: the laptop asks", &words(&answer), answer.is_err());

    say::line("");
    steps.title("portcullis routes approve office 203.0.113.77/32");
    stage.admin(&["routes", "approve", "office", "203.0.113.77/32"])?;
    let (took, through) = wait(CHANGE_DEADLINE, || ask(&laptop) == Ok(OFFICE.into())).await;
    let answer =
        if through { format!("answered after {took} ms: it saw {OFFICE}, the office") } else { words(&ask(&laptop)) };
    steps.check("the laptop asks", &answer, through);

    say::line("");
    steps.title("portcullis policy set: ben instead of ann");
    stage.policy(BEN_MAY)?;
    let (took, refused) = wait(CHANGE_DEADLINE, || ask(&laptop).is_err()).await;
    steps.check(
        "the laptop asks",
        &format!("{} after {took} ms", if refused { "refused" } else { "STILL answered" }),
        refused,
    );
    stage.policy(ANN_MAY)?;
    let (took, through) = wait(CHANGE_DEADLINE, || ask(&laptop) == Ok(OFFICE.into())).await;
    steps.check(
        "ann again",
        &format!("{} after {took} ms", if through { "answered" } else { "NOT answered" }),
        through,
    );

    say::line("");
    steps.title("portcullis routes revoke office 203.0.113.77/32");
    stage.admin(&["routes", "revoke", "office", "203.0.113.77/32"])?;
    let (took, gone) = wait(REVOKED_WITHIN, || ask(&laptop).is_err()).await;
    steps.check(
        "the laptop asks",
        &format!("{} after {took} ms", if gone { "no answer" } else { "STILL answered" }),
        gone,
    );
    let strangers = partner.seen().into_iter().filter(|source| *source != IpAddr::from(OFFICE)).count();
    steps.check("who the partner has seen", &format!("{OFFICE} alone"), strangers == 0);
    steps.finish()?;
    say::line("Hosts, processes and files of this demo are removed.");
    Ok(())
}

/// The source address that the partner saw, or why there was no answer.
fn ask(host: &Host) -> Result<IpAddr, String> {
    host.visit(SocketAddr::from((PARTNER, PORT)), PROBE_TIMEOUT)
}

fn words(answer: &Result<IpAddr, String>) -> String {
    match answer {
        Ok(source) => format!("answered: it saw {source}"),
        Err(_) => "no answer".to_string(),
    }
}

/// Tries until it is so; gives the milliseconds that took, and whether it came to be.
async fn wait(limit: Duration, mut so: impl FnMut() -> bool) -> (u128, bool) {
    let begun = Instant::now();
    loop {
        if so() {
            return (begun.elapsed().as_millis(), true);
        }
        if begun.elapsed() > limit {
            return (begun.elapsed().as_millis(), false);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What a program said when it failed.
fn said(out: &std::process::Output, what: &str) -> Result<String> {
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    if !out.status.success() {
        bail!("{what} ended with {}: {}{}", out.status, text, String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(text)
}

/// Runs a program to its end.
fn call(program: &str, args: &[&str]) -> Result<String> {
    let out =
        std::process::Command::new(program).args(args).output().with_context(|| format!("cannot run {program}"))?;
    said(&out, &format!("{program} {}", args.join(" ")))
}
