//! What app connectors have learned. In: their own word, asked over their map streams, and what the names answer now.
//! Out: learned addresses in the registry, which go when their name stops answering with them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use addr::{Addr, Prefix};
use anyhow::{Context, bail};
use net::dns::{Answer, Resolver};
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::ControlSettings;
use super::state::ControlState;
use runtime::run::Run;

/// A connector that says nothing new of itself is asked this often.
const REFRESH_INTERVAL: Duration = Duration::from_secs(60);
/// One that has not answered is asked again after this.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Changes that come together are asked about together.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// A connector answers at once or not at all.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// A name is asked again after its time to live, within these bounds.
const MIN_LOOKUP_INTERVAL: Duration = Duration::from_secs(2);
const LATEST: Duration = Duration::from_secs(300);
/// Names asked in one turn, all at once.
const NAMES: usize = 64;

/// What a connector answers (tailcfg `C2NAppConnectorDomainRoutesResponse`).
#[derive(Deserialize)]
struct Routes {
    #[serde(rename = "Domains", default)]
    domains: Option<BTreeMap<String, Option<Vec<String>>>>,
}

/// How names of apps are looked up.
#[derive(Debug, Clone)]
pub(super) struct Lookups {
    /// Who answers; `None`: nobody, names are not followed.
    resolver: Option<Resolver>,
    /// Seconds after which an address goes that its name does not answer with (`None`: it never goes).
    expiry: Option<u64>,
}

impl Lookups {
    /// As these settings say: by their nameservers, else by the system's.
    ///
    /// # Errors
    /// The nameservers cannot be used.
    pub(super) fn of(settings: &ControlSettings) -> anyhow::Result<Lookups> {
        let none = |e: anyhow::Error| {
            warn!(err = format!("{e:#}"), "names of apps are not followed; name a nameserver with `--app-resolver`")
        };
        let resolver = match settings.app_resolvers.as_slice() {
            [] => Resolver::system().map_err(none).ok(),
            all => Some(Resolver::at(all)?),
        };
        Ok(Lookups { resolver, expiry: settings.registry.app_expiry })
    }
}

/// Follows connectors and names until the run stops.
pub(super) fn watch(run: &Run, state: Arc<ControlState>) {
    let (stopping, ours) = (run.stopping(), state.clone());
    run.spawn("app connectors", async move {
        tokio::select! {
            () = follow(&ours) => {}
            () = stopping => {}
        }
        Ok(())
    });
    let stopping = run.stopping();
    run.spawn("app names", async move {
        let mut lookups = state.lookups.subscribe();
        let each = async {
            loop {
                let now = lookups.borrow_and_update().clone();
                tokio::select! {
                    () = follow_names(&state, &now) => {}
                    changed = lookups.changed() => if changed.is_err() { return },
                }
            }
        };
        tokio::select! {
            () = each => {}
            () = stopping => {}
        }
        Ok(())
    });
}

/// Asks each connector when it offers other routes, and now and then.
async fn follow(state: &Arc<ControlState>) {
    let mut snapshot = state.registry.snapshot.clone();
    // What each offered when it was asked last, and when it is asked again.
    let mut asked: BTreeMap<u64, (Vec<Prefix>, Instant)> = BTreeMap::new();
    let mut under_way: BTreeSet<u64> = BTreeSet::new();
    let mut asking: JoinSet<(u64, Vec<Prefix>, Duration)> = JoinSet::new();
    loop {
        let now = snapshot.borrow_and_update().clone();
        let there = now.connectors().filter(|m| state.has_stream(m.node.id));
        let connectors: BTreeMap<u64, Vec<Prefix>> =
            there.map(|m| (m.node.id, m.node.host.routable_ips.clone())).collect();
        drop(now);
        asked.retain(|id, _| connectors.contains_key(id));
        for (id, offered) in connectors {
            let due = asked.get(&id).is_none_or(|(then, again)| *then != offered || *again <= Instant::now());
            // One that hangs holds back itself alone.
            if due && under_way.insert(id) {
                let state = state.clone();
                asking.spawn(async move {
                    let again = match ask(&state, id, &offered).await {
                        Ok(()) => REFRESH_INTERVAL,
                        Err(e) => {
                            debug!(node = id, err = format!("{e:#}"), "cannot read what the connector learned");
                            RETRY_INTERVAL
                        }
                    };
                    (id, offered, again)
                });
            }
        }
        let waiting = asked.iter().filter(|(id, _)| !under_way.contains(id)).map(|(_, (_, again))| *again);
        let next = waiting.min().unwrap_or_else(|| Instant::now() + REFRESH_INTERVAL);
        tokio::select! {
            changed = snapshot.changed() => if changed.is_err() { return },
            Some(done) = asking.join_next() => {
                if let Ok((id, offered, again)) = done {
                    under_way.remove(&id);
                    asked.insert(id, (offered, Instant::now() + again));
                }
            }
            () = tokio::time::sleep_until(next) => {}
        }
        tokio::time::sleep(DEBOUNCE).await;
    }
}

async fn ask(state: &ControlState, id: u64, offered: &[Prefix]) -> anyhow::Result<()> {
    let request = "GET /appconnector/routes HTTP/1.1\r\nHost: connector\r\n\r\n";
    let answer = state.ask(id, Some(request), REQUEST_TIMEOUT).await?;
    let (domains, offered) = (read(&answer)?, offered.to_vec());
    state.registry.change(move |registry, now| registry.connector_reported(id, &domains, &offered, now)).await
}

/// The body of an HTTP answer, as a connector writes it.
fn read(answer: &[u8]) -> anyhow::Result<BTreeMap<String, Vec<Addr>>> {
    /// An answer has a handful of headers.
    const HEADERS: usize = 32;
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(len) = head.parse(answer).context("its answer is no HTTP")? else {
        bail!("its answer is cut short");
    };
    if head.code != Some(200) {
        bail!("it answered {}", head.code.unwrap_or_default());
    }
    let chunked = head
        .headers
        .iter()
        .any(|h| h.name.eq_ignore_ascii_case("transfer-encoding") && h.value.eq_ignore_ascii_case(b"chunked"));
    let body = if chunked { unchunked(&answer[len..])? } else { answer[len..].to_vec() };
    let routes: Routes = serde_json::from_slice(&body).context("its answer is no list of domains")?;
    let addrs = |list: Option<Vec<String>>| list.unwrap_or_default().iter().filter_map(|a| a.parse().ok()).collect();
    Ok(routes.domains.unwrap_or_default().into_iter().map(|(d, list)| (d, addrs(list))).collect())
}

fn unchunked(mut rest: &[u8]) -> anyhow::Result<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        let (at, size) = match httparse::parse_chunk_size(rest) {
            Ok(httparse::Status::Complete(found)) => found,
            _ => bail!("its answer is cut short"),
        };
        let size = usize::try_from(size)?;
        if size == 0 {
            return Ok(out);
        }
        let end = at.checked_add(size).context("its answer is cut short")?;
        out.extend_from_slice(rest.get(at..end).context("its answer is cut short")?);
        rest = rest.get(end + 2..).context("its answer is cut short")?;
    }
}

/// Asks the names themselves by their time to live: those that apps spell out before anybody else does, so that their
/// routes are there for the first connection.
async fn follow_names(state: &Arc<ControlState>, lookups: &Lookups) {
    let Lookups { resolver: Some(resolver), expiry } = lookups else { return std::future::pending().await };
    let expiry = *expiry;
    let mut due: BTreeMap<String, Instant> = BTreeMap::new();
    let most = expiry.map_or(LATEST, |p| LATEST.min(Duration::from_secs((p / 3).max(1))));
    let mut snapshot = state.registry.snapshot.clone();
    loop {
        let of = snapshot.borrow_and_update().app_names();
        due.retain(|d, _| of.contains_key(d));
        let now = Instant::now();
        let mut asking = JoinSet::new();
        for (domain, nodes) in of.into_iter().filter(|(d, _)| due.get(d).is_none_or(|at| *at <= now)).take(NAMES) {
            let (state, resolver) = (state.clone(), resolver.clone());
            asking.spawn(async move {
                let wait = one(&state, &resolver, &domain, nodes, expiry).await;
                (domain, wait)
            });
        }
        while let Some(done) = asking.join_next().await {
            if let Ok((domain, wait)) = done {
                due.insert(domain, Instant::now() + wait.clamp(MIN_LOOKUP_INTERVAL.min(most), most));
            }
        }
        tokio::time::sleep(MIN_LOOKUP_INTERVAL / 2).await;
    }
}

/// Asks one name. Without an answer everything stays as it is.
async fn one(
    state: &ControlState,
    resolver: &Resolver,
    domain: &str,
    nodes: BTreeSet<u64>,
    expiry: Option<u64>,
) -> Duration {
    let (v4, v6) = tokio::join!(resolver.v4(domain), resolver.v6(domain));
    let mut addrs: Vec<Addr> = Vec::new();
    let mut ttl = u32::MAX;
    for answer in [v4, v6] {
        match answer {
            Answer::Addrs(list, t) => {
                addrs.extend(list.into_iter().map(Addr::new));
                ttl = ttl.min(t);
            }
            Answer::None(t) => ttl = ttl.min(t),
            Answer::Failed(why) => {
                debug!(%domain, %why, "no good answer");
                return LATEST;
            }
        }
    }
    let domain = domain.to_string();
    let done = state
        .registry
        .change(move |registry, now| {
            for id in nodes {
                registry.name_answered(id, &domain, &addrs, now, expiry);
            }
        })
        .await;
    if let Err(e) = done {
        warn!(err = format!("{e:#}"), "cannot keep learned addresses");
    }
    Duration::from_secs(u64::from(ttl))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_connectors() {
        let body = r#"{"Domains":{"x.example":["198.51.100.1","nonsense"],"y.example":null}}"#;
        let plain = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let chunked =
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        for answer in [plain.clone(), chunked] {
            let found = read(answer.as_bytes()).unwrap();
            assert_eq!(found["x.example"], ["198.51.100.1".parse::<Addr>().unwrap()]);
            assert!(found["y.example"].is_empty());
        }
        assert!(read(b"HTTP/1.1 500 No\r\n\r\n").is_err());
        assert!(read(&plain.as_bytes()[..20]).is_err());
        assert!(read(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx").is_err());
    }
}
