//! What stands in the way of a client. In: its settings; it need not run. Out: symptoms, each with the line that mends it.
//! The edge is asked for its status with the client's token, and nothing is published.

use std::fmt;
use std::time::Duration;

use addr::Timestamp;
use api::{EdgeStatus, Finding, Part, Severity};
use runtime::doctor::Symptom;
use runtime::hint;
use tokio::net::UnixStream;
use tunnel_proto::hello::RejectCode;
use tunnel_proto::upstream::{Place, UpstreamTo};

use super::super::settings::{ClientSettings, Trust};
use super::dial::{DialError, Dialler};

/// What can be wrong with a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// The settings cannot be used.
    Settings(String),
    /// The edge's name has no address.
    Unresolved {
        /// The name.
        host: String,
        /// Why.
        why: String,
    },
    /// Nobody answers there.
    Unreachable {
        /// The edge.
        edge: String,
        /// Why.
        why: String,
    },
    /// Whoever answers is not the edge that is trusted, or speaks something else.
    Untrusted {
        /// What is seen.
        what: String,
        /// What to do.
        fix: String,
    },
    /// The edge refuses this client.
    Refused {
        /// Its code.
        code: RejectCode,
        /// That in words.
        what: String,
        /// What to do, if somebody knows.
        fix: Option<String>,
    },
    /// An upstream does not answer.
    Upstream {
        /// Which.
        to: String,
        /// Why.
        why: String,
    },
    /// This machine's clock is so many seconds behind the edge's.
    Clock(u64),
    /// No client of this machine is connected.
    NotConnected,
}

/// Whoever is asked answers within this time, or counts as away.
const WAIT: Duration = Duration::from_secs(5);
/// Clocks that differ by less do no harm.
const SKEW: u64 = 60;

/// Everything that is wrong.
pub async fn doctor(settings: ClientSettings) -> Vec<Finding> {
    let mut found = Vec::new();
    for upstream in &settings.upstreams {
        found.extend(answers(&upstream.to).await);
    }
    found.extend(edge(settings).await);
    found.iter().map(Symptom::finding).collect()
}

/// The way to the edge, step by step up to the first that fails.
async fn edge(settings: ClientSettings) -> Option<Wrong> {
    let (url, plain) = (settings.url.clone(), matches!(settings.trust, Trust::Plain));
    if settings.proxy.is_none() {
        let unresolved = tokio::net::lookup_host((url.host.as_str(), url.port)).await.err();
        if let Some(e) = unresolved {
            return Some(Wrong::Unresolved { host: url.host, why: e.to_string() });
        }
        let reached = tokio::time::timeout(WAIT, net::dial::tcp(&url.host, url.port)).await;
        let why = match reached {
            Ok(Ok(_)) => None,
            Ok(Err(e)) => Some(e.to_string()),
            Err(_) => Some(format!("no answer within {} s", WAIT.as_secs())),
        };
        if let Some(why) = why {
            return Some(Wrong::Unreachable { edge: format!("{}:{}", url.host, url.port), why });
        }
    }
    let dialler = match Dialler::new(settings) {
        Ok(dialler) => dialler,
        Err(e) => return Some(Wrong::Settings(format!("{e:#}"))),
    };
    if !plain && let Err(e) = dialler.connect().await {
        return Some(untrusted(e));
    }
    let asked = match dialler.ask("/status").await {
        Ok(asked) => asked,
        Err(e) => return Some(untrusted(e)),
    };
    if let Some((code, e)) = asked.refusal() {
        let (what, fix) = words(e);
        return Some(Wrong::Refused { code, what, fix });
    }
    let status: EdgeStatus = match serde_json::from_slice(&asked.body) {
        Ok(status) => status,
        Err(_) => {
            let what = format!("{url} answers with something that is no edge's status");
            return Some(Wrong::Refused { code: RejectCode::Unknown, what, fix: None });
        }
    };
    let now = runtime::wall();
    let started = status.info.start_time.parse::<Timestamp>().map_or(0, |t| t.0);
    if started > now.saturating_add(SKEW) {
        return Some(Wrong::Clock(started - now));
    }
    let here = hostname();
    (!status.clients.iter().any(|c| c.hostname == here)).then_some(Wrong::NotConnected)
}

fn untrusted(e: DialError) -> Wrong {
    let (what, fix) = words(e);
    Wrong::Untrusted { what, fix: fix.unwrap_or_else(|| "compare the connect string with what the edge printed at its start; the edge's own `portcullis explain ADDRESS --service control` says whether this machine may connect".to_string()) }
}

fn words(e: DialError) -> (String, Option<String>) {
    let (DialError::Final(e) | DialError::Again(e)) = e;
    (format!("{e:#}"), hint::of(&e).map(str::to_string))
}

/// An upstream: it is dialled, and nothing is sent.
async fn answers(to: &UpstreamTo) -> Option<Wrong> {
    let why = match &to.at {
        Place::Unix(path) => tokio::time::timeout(WAIT, UnixStream::connect(path)).await.map(|r| r.map(drop)),
        Place::Tcp { host, port } => tokio::time::timeout(WAIT, net::dial::tcp(host, *port)).await.map(|r| r.map(drop)),
    };
    let why = match why {
        Ok(Ok(())) => return None,
        Ok(Err(e)) => e.to_string(),
        Err(_) => format!("no answer within {} s", WAIT.as_secs()),
    };
    Some(Wrong::Upstream { to: to.to_string(), why })
}

fn hostname() -> String {
    String::from_utf8_lossy(rustix::system::uname().nodename().to_bytes()).into_owned()
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wrong::Settings(why) => write!(f, "these settings cannot be used: {why}"),
            Wrong::Unresolved { host, why } => write!(f, "{host}, the edge's name, has no address here: {why}"),
            Wrong::Unreachable { edge, why } => write!(f, "the edge at {edge} cannot be reached: {why}"),
            Wrong::Untrusted { what, .. } => f.write_str(what),
            Wrong::Refused { code: RejectCode::Unknown, what, .. } => f.write_str(what),
            Wrong::Refused { code, what, .. } => write!(f, "{what} ({code})"),
            Wrong::Upstream { to, why } => write!(f, "the upstream {to} does not answer: {why}"),
            Wrong::Clock(by) => write!(f, "this machine's clock is at least {by} s behind the edge's"),
            Wrong::NotConnected => {
                f.write_str("the edge would take this client, and no client of this machine is connected")
            }
        }
    }
}

impl Symptom for Wrong {
    const PART: Part = Part::Client;

    fn id(&self) -> &'static str {
        match self {
            Wrong::Settings(_) => "settings",
            Wrong::Unresolved { .. } => "name",
            Wrong::Unreachable { .. } => "unreachable",
            Wrong::Untrusted { .. } => "certificate",
            Wrong::Refused { code: RejectCode::TokenRefused, .. } => "token",
            Wrong::Refused { .. } => "refused",
            Wrong::Upstream { .. } => "upstream",
            Wrong::Clock(_) => "clock",
            Wrong::NotConnected => "not-connected",
        }
    }

    fn severity(&self) -> Severity {
        match self {
            Wrong::Clock(_) | Wrong::NotConnected => Severity::Warning,
            _ => Severity::Error,
        }
    }

    fn fix(&self) -> String {
        match self {
            Wrong::Settings(_) => "compare them with the manual's page on the tunnel",
            Wrong::Unresolved { host, .. } => {
                return format!("is it written right, and does it exist? getent ahosts {host}");
            }
            Wrong::Unreachable { .. } => {
                "does the edge run (`portcullis doctor` there), and does its firewall let that port through?"
            }
            Wrong::Untrusted { fix, .. } => fix,
            Wrong::Refused { fix: Some(fix), .. } => fix,
            Wrong::Refused { code: RejectCode::AddressRefused, .. } => {
                "let this machine's address in at the edge: --allow-ips-control, or the token's own list"
            }
            Wrong::Refused { code: RejectCode::TooManyGuesses, .. } => "wait a minute, then try with the right token",
            Wrong::Refused { .. } => "the edge's log says more",
            Wrong::Upstream { .. } => "start the service, or mend --upstream; visitors get an error until then",
            Wrong::Clock(_) => "set the clock: timedatectl set-ntp true",
            Wrong::NotConnected => {
                "start it: the same flags behind `portcullis http client` or `tcp client`, or its service"
            }
        }
        .to_string()
    }
}
