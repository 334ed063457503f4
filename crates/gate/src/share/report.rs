//! What a person should know of share links. In: what was noticed of the upstreams, links that were refused. Out: sentences
//! for `doctor` and `explain`, each with the line that mends it.

use std::fmt;
use std::time::{Duration, Instant};

use super::refused::{Refusal, Why};
use super::shape::{NoLink, Shape};
use super::{No, Shares, Sung};
use crate::doctor::ConfiguredBy;

/// Something about an upstream that a person may have to mend.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Notice {
    /// Somebody asks for links of an upstream that is not named: its URL.
    Unnamed(String),
    /// An upstream does not answer: the share's name.
    Silent(String),
    /// An upstream accepts links that do not exist: the share's name, and the links' masked path.
    AcceptsAll(String, String),
}

/// Refused links that `doctor` tells of one by one.
const REFUSALS_TOLD: usize = 5;
/// The same is said again in the log after this long.
const SAID_AGAIN: Duration = Duration::from_secs(600);
/// Notices that are kept: anybody can make up upstreams.
const MAX_NOTICES: usize = 1_000;

impl Shares {
    /// What is wrong with the upstreams and with links that were refused, each with the line that mends it.
    #[must_use]
    pub fn trouble(&self) -> Vec<(String, String)> {
        let mut out: Vec<(String, String)> = Vec::new();
        for notice in self.noticed.lock().keys() {
            let fix = match notice {
                Notice::Unnamed(url) => self.naming(url),
                Notice::Silent(_) => "are both on the same network, and is the port right?".to_string(),
                // ConfiguredBy below, as it stands now.
                Notice::AcceptsAll(..) => continue,
            };
            out.push((notice.to_string(), fix));
        }
        for ((at, place, _), canary) in self.canaries.lock().iter() {
            // Held only while the upstream is asked, two seconds at most: then this time nothing is said of it.
            let bad = canary.try_lock().is_ok_and(|c| matches!(*c, Some(Sung { good: false, .. })));
            if let (true, Some(share)) = (bad, self.shares.get(*at)) {
                let what = format!("{} accepts {place}… links that do not exist", share.base);
                if !out.iter().any(|(w, _)| *w == what) {
                    out.push((what, "its links open nothing; upgrade it, or name a question that tells live links from others: SHARE_PATHS=/PATH/{token}=/QUESTION/{token}".to_string()));
                }
            }
        }
        // Dead links are everyday; these are not. Any untrusted peer can make them: the latest say enough. Without a line that
        // mends it, it is a page like any other.
        let all: Vec<(Refusal, String)> = self
            .refusals
            .all(Instant::now())
            .into_iter()
            .filter(|r| matches!(r.why, Why::No(No::Link(NoLink::Shapeless | NoLink::Short(_)) | No::Busy(_))))
            .filter_map(|r| self.mend(&r).map(|mend| (r, mend)))
            .collect();
        out.extend(all.iter().take(REFUSALS_TOLD).map(|(r, mend)| (format!("{}: {r}", r.addr), mend.clone())));
        if let Some(more @ 1..) = all.len().checked_sub(REFUSALS_TOLD) {
            let what = format!("share links of {more} further sources were refused for such reasons");
            out.push((what, "`portcullis explain ADDRESS` says why for each".to_string()));
        }
        out
    }

    /// A refusal as `explain` says it.
    #[must_use]
    pub fn in_words(&self, refusal: &Refusal) -> String {
        let ago = refusal.at.elapsed().as_secs();
        let ago = if ago < 120 { format!("{ago} s") } else { format!("{} min", ago / 60) };
        let mend = self.mend(refusal).map(|m| format!("; {m}")).unwrap_or_default();
        format!("{ago} ago, {}: {refusal}{mend}", refusal.addr)
    }

    /// The line that mends a refusal, where there is one.
    #[must_use]
    pub fn mend(&self, refusal: &Refusal) -> Option<String> {
        let Why::No(no) = refusal.why else { return None };
        let paths = match self.how {
            ConfiguredBy::Environment => "SHARE_PATHS=",
            ConfiguredBy::File => "share_paths = [\"…\"] under [gate], such as ",
        };
        match no {
            No::Link(NoLink::Shapeless) => {
                let shape = shape_of(&refusal.path, "{token}")?;
                Some(format!("if it is a share link, say what such links look like: {paths}{shape}"))
            }
            No::Link(NoLink::Short(_)) => {
                let shape = shape_of(&refusal.path, "{token:4}")?;
                Some(format!("longer links are safer; shorter ones need a word: {paths}{shape}"))
            }
            No::Busy(429) => Some("let the upstream trust the gate's address as a proxy, so that it slows down guests and not the gate (Nextcloud: trusted_proxies)".to_string()),
            No::Busy(_) => Some("see the upstream's own log".to_string()),
            _ => None,
        }
    }

    /// How an upstream is named beside those that are.
    pub(super) fn naming(&self, url: &str) -> String {
        match self.how {
            ConfiguredBy::Environment => {
                let named =
                    self.shares.iter().map(|s| format!("{}={}", s.name, s.base.to_string().trim_end_matches('/')));
                let all: Vec<String> = named.chain([url.to_string()]).collect();
                format!("SHARE_UPSTREAMS={}", all.join(","))
            }
            ConfiguredBy::File => format!("[gate.shares.NAME] with upstream = \"{url}\""),
        }
    }

    /// LinkState something about an upstream at most once in ten minutes, and keeps it that long for `doctor`.
    pub(super) fn once(&self, what: Notice, say: impl FnOnce()) {
        let mut noticed = self.noticed.lock();
        noticed.retain(|_, when| when.elapsed() < SAID_AGAIN);
        if noticed.len() < MAX_NOTICES && noticed.insert(what, Instant::now()).is_none() {
            drop(noticed);
            say();
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Unnamed(url) => write!(f, "share links of `{url}` were refused: it is not named"),
            Notice::Silent(share) => write!(f, "the share upstream {share} does not answer"),
            Notice::AcceptsAll(share, path) => {
                write!(f, "the share upstream {share} answers {path} links that do not exist as if they did")
            }
        }
    }
}

/// The shape of links such as this path, which is masked; `None`: no part of it may be a token.
fn shape_of(masked: &str, token: &str) -> Option<String> {
    let shape = format!("{}{token}", masked.split_once('…')?.0);
    shape.parse::<Shape>().is_ok().then_some(shape)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::Share;

    fn shares(urls: &[&str], how: ConfiguredBy) -> Shares {
        let share = |url: &&str| Share { name: "x".into(), base: url.parse().unwrap() };
        Shares::new(urls.iter().map(share).collect(), Vec::new(), how)
    }

    #[test]
    fn the_line_that_names_an_upstream_keeps_those_that_are() {
        let s = shares(&["http://immich_server:2283"], ConfiguredBy::Environment);
        assert_eq!(
            s.naming("http://nextcloud-app:80"),
            "SHARE_UPSTREAMS=x=http://immich_server:2283,http://nextcloud-app:80"
        );
        assert!(shares(&[], ConfiguredBy::File).naming("http://a:1").starts_with("[gate.shares.NAME]"));
    }

    #[test]
    fn what_is_noticed_is_bounded_and_told_once() {
        let s = shares(&[], ConfiguredBy::Environment);
        let mut said = 0;
        for n in 0..2 * MAX_NOTICES {
            s.once(Notice::Unnamed(format!("http://a{n}:80")), || said += 1);
            s.once(Notice::Unnamed("http://a0:80".to_string()), || said += 1);
        }
        assert_eq!(said, MAX_NOTICES);
        let trouble = s.trouble();
        assert_eq!(trouble.len(), MAX_NOTICES);
        assert!(trouble.iter().all(|(what, fix)| what.contains("is not named") && fix.starts_with("SHARE_UPSTREAMS=")));
    }
}
