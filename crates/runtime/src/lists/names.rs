//! Host names on lists of the admission: `dns:home.example.net`. In: the names that the lists in force hold, the system's
//! name servers. Out: their addresses, and a word when they change. When to ask is `access::names`'s rule; what a name
//! server says of private addresses does not count, since the one who owns the name would let in whom he cannot know.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use access::names::{DnsOutcome, Follow, HostName, Names};
use addr::{Addr, Prefix};
use net::dns::{Answer, Resolver};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::{error, info, warn};

/// Names that lists may hold in all: each costs questions for ever.
pub(super) const MAX_NAMES: usize = 1_000;

/// Questions at the same time.
const MAX_CONCURRENT_LOOKUPS: usize = 16;

/// What is followed and known.
#[derive(Debug)]
pub(super) struct Followed {
    names: Mutex<Names>,
    changed: Notify,
    /// Questions are due by this clock: one that somebody sets would put them off.
    since: Instant,
}

impl Default for Followed {
    fn default() -> Followed {
        Followed { names: Mutex::default(), changed: Notify::new(), since: Instant::now() }
    }
}

impl Followed {
    /// Seconds.
    fn now(&self) -> u64 {
        self.since.elapsed().as_secs()
    }

    /// These are followed from now on, and nothing else.
    pub(super) fn follow(&self, hosts: &BTreeSet<HostName>) {
        let follow = |host: &HostName| Follow { list: String::new(), host: host.clone(), until: None, pinned: false };
        let mut names = self.names.lock();
        if names.follows().len() == hosts.len() && names.follows().iter().all(|f| hosts.contains(&f.host)) {
            return;
        }
        names.follow(hosts.iter().map(follow).collect(), self.now());
        self.changed.notify_one();
    }

    /// The addresses of a name by the last good answer.
    pub(super) fn prefixes(&self, host: &HostName) -> Vec<Prefix> {
        let names = self.names.lock();
        let addrs = names.known(host).into_iter().flat_map(|k| k.addrs()).filter(|a| !a.is_private());
        addrs.map(Prefix::host).collect()
    }

    /// Asks when it is time to, and calls `changed`, which may block, when something did. Never ends by itself.
    pub(super) async fn keep(&self, changed: Arc<dyn Fn() + Send + Sync>) {
        /// Longest sleep: names are followed in between, and clocks are set.
        const MAX_SLEEP: u64 = 60;
        let mut resolver: Option<Resolver> = None;
        loop {
            let due = self.names.lock().take_due(self.now());
            for some in due.chunks(MAX_CONCURRENT_LOOKUPS) {
                let asked = some.iter().map(|host| ask(&mut resolver, host)).collect::<Vec<_>>();
                let mut news = false;
                for (host, (v4, v6)) in some.iter().zip(futures_util::future::join_all(asked).await) {
                    news |= self.answered(host, v4, v6);
                }
                if news {
                    let changed = changed.clone();
                    if let Err(e) = tokio::task::spawn_blocking(move || changed()).await {
                        error!(err = %e, "cannot follow the names on lists");
                    }
                }
            }
            let next = self
                .names
                .lock()
                .poll_timeout()
                .map_or(MAX_SLEEP, |at| at.saturating_sub(self.now()).clamp(1, MAX_SLEEP));
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep(Duration::from_secs(next)) => {}
            }
        }
    }

    /// Takes an answer in; true if the name has other addresses now.
    fn answered(&self, host: &HostName, v4: DnsOutcome, v6: DnsOutcome) -> bool {
        let before = self.prefixes(host);
        let (turned, known) = {
            let mut names = self.names.lock();
            let turned = names.answered(host, v4, v6, self.now());
            (turned, names.known(host).cloned().unwrap_or_default())
        };
        match &known.failed {
            Some(why) if turned && before.is_empty() => warn!(name = %host.entry(), %why, "no good answer"),
            Some(why) if turned => warn!(name = %host.entry(), %why, "no good answer; its last one stays"),
            None if turned => info!(name = %host.entry(), "a good answer again"),
            _ => {}
        }
        let after = self.prefixes(host);
        if after == before {
            return false;
        }
        let private = known.addrs().filter(|a| a.is_private()).map(|a| a.to_string()).collect::<Vec<_>>();
        if !private.is_empty() {
            warn!(name = %host.entry(), addrs = private.join(", "), "private addresses do not count");
        }
        let words: Vec<String> = after.iter().map(ToString::to_string).collect();
        info!(name = %host.entry(), addrs = words.join(", "), "name resolved");
        true
    }
}

/// Asks for both families.
fn ask(resolver: &mut Option<Resolver>, host: &HostName) -> impl Future<Output = (DnsOutcome, DnsOutcome)> + use<> {
    // Tried again with the next question: a network may come later than this process.
    let made = match resolver.take() {
        Some(made) => Ok(made),
        None => Resolver::system().map_err(|e| format!("{e:#}")),
    };
    *resolver = made.as_ref().ok().cloned();
    let host = host.clone();
    async move {
        match made {
            Ok(resolver) => {
                let (v4, v6) = tokio::join!(resolver.v4(host.as_str()), resolver.v6(host.as_str()));
                (said(v4), said(v6))
            }
            Err(why) => (DnsOutcome::Failed(why.clone()), DnsOutcome::Failed(why)),
        }
    }
}

fn said(answer: Answer) -> DnsOutcome {
    match answer {
        Answer::Addrs(ips, ttl) => DnsOutcome::Addrs(ips.into_iter().map(Addr::new).collect(), u64::from(ttl)),
        Answer::None(ttl) => DnsOutcome::None(u64::from(ttl)),
        Answer::Failed(why) => DnsOutcome::Failed(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_where_its_last_good_answer_says_and_never_in_private() {
        let host: HostName = "dns:home.example.net".parse().unwrap();
        let followed = Followed::default();
        followed.follow(&BTreeSet::from([host.clone()]));
        let addrs = |text: &[&str]| DnsOutcome::Addrs(text.iter().map(|t| t.parse().unwrap()).collect(), 60);
        let is = || followed.prefixes(&host).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(is().is_empty(), "before the first answer");
        assert!(followed.answered(
            &host,
            addrs(&["198.51.100.7", "127.0.0.1", "192.168.0.1"]),
            addrs(&["2001:db8::7", "fd00::1"])
        ));
        assert_eq!(is(), ["198.51.100.7", "2001:db8::7"]);
        assert!(!followed.answered(
            &host,
            DnsOutcome::Failed("no answer".into()),
            DnsOutcome::Failed("no answer".into())
        ));
        assert_eq!(is(), ["198.51.100.7", "2001:db8::7"], "the last good one stays");
        assert!(followed.answered(&host, addrs(&["198.51.100.8"]), DnsOutcome::None(60)));
        assert_eq!(is(), ["198.51.100.8"]);
        followed.follow(&BTreeSet::new());
        assert!(is().is_empty(), "no longer followed");
    }
}
