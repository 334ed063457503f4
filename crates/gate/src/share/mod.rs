//! Share links: is this link alive? In: the upstream that a label names, the path that a guest asked for. Out: yes or
//! no, by asking an upstream that the configuration names, and by nothing else.
//!
//! An upstream that says yes to a random link of the same shape says nothing about links: what it says of that shape
//! counts for nothing, loudly, until it answers otherwise.

pub(crate) mod guest;
pub(crate) mod guests;
pub mod refused;
mod report;
pub mod shape;
mod spend;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use addr::{Addr, SourceKey};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use http::{HeaderMap, HeaderValue, header};
use net::log_budget::LogBudget;
use net::serve::{Limits, Slots};
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;
use tracing::{error, info, warn};

use super::doctor::ConfiguredBy;
pub use refused::No;
use refused::Refusals;
use report::Notice;
use runtime::fetch::{Base, Fetch};
use shape::{Link, Shape};
use spend::Spend;

/// A named upstream whose links are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Short name; `dynamic-whitelist-NAME` is its middleware.
    pub name: String,
    /// Where it is.
    pub base: Base,
}

/// Asks whether a link is alive.
#[derive(Debug)]
pub(super) struct Question<'a> {
    /// Of the label: `http` or `https`.
    pub protocol: &'a str,
    /// Of the label: host and port.
    pub service: &'a str,
    /// The path that the guest asked for.
    pub uri: &'a str,
    /// The host that the guest asked for.
    pub host: Option<&'a HeaderValue>,
    /// Who asks.
    pub guest: Addr,
    /// The guest is let in already: the questions of such are not counted.
    pub known: bool,
}

/// The checker of all shares.
#[derive(Debug)]
pub struct Shares {
    shares: Vec<Share>,
    shapes: Vec<Shape>,
    how: ConfiguredBy,
    /// Links that were alive, and when they were last.
    alive: Mutex<HashMap<Id, Instant>>,
    /// Why links opened nothing, and when.
    dead: Mutex<HashMap<Id, (No, Instant)>>,
    /// One check of a link at a time; who comes meanwhile waits for its answer.
    flights: Mutex<HashMap<Id, Arc<AsyncMutex<()>>>>,
    /// Whether an upstream tells live links of a shape from others; each is asked apart, so that a slow one holds up no
    /// other.
    canaries: Mutex<BTreeMap<Kind, Canary>>,
    spend: Mutex<Spend>,
    /// Those who became guests, within the same limits: whoever holds a live link and many networks can make any number,
    /// and each is a line of the audit log.
    newcomers: Mutex<Spend>,
    /// Questions that are being asked.
    places: Arc<Slots>,
    /// What was noticed of the upstreams, and when it was said last.
    noticed: Mutex<BTreeMap<Notice, Instant>>,
    /// Links that opened nothing.
    pub refusals: Refusals,
    /// What guests may cause in the log.
    lines: LogBudget,
}

/// An upstream, by its place, and the path that it is asked for.
type Id = (usize, String);
/// An upstream, what is asked of it before the token, and the token's length.
type Kind = (usize, String, usize);
type Canary = Arc<AsyncMutex<Option<Sung>>>;

/// What came of asking for links that do not exist.
#[derive(Debug, Clone, Copy)]
struct Sung {
    good: bool,
    at: Instant,
    lasts: Duration,
}

/// An upstream on the same machine answers in milliseconds; a guest waits no longer than this.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// A dead link is not asked for again so soon: guessing the same one costs the upstream nothing.
const DEAD_FOR: Duration = Duration::from_secs(60);
/// A page and its pictures are one question; a link that is withdrawn opens nothing new after this.
const ALIVE_FOR: Duration = Duration::from_secs(10);
/// A link that was alive within this time is asked for without being counted: whoever floods the gate with others does
/// not close it.
const CANARY_TTL: Duration = Duration::from_secs(3_600);
/// An upstream that did not answer is left alone for so long: whoever queues behind a silent one is told at once.
const UPSTREAM_COOLDOWN: Duration = Duration::from_secs(5);
/// An upgrade of the upstream may mend its answers: asked again this often.
const BAD_CANARY_FOR: Duration = Duration::from_secs(600);
/// … or break them. Nextcloud slows down who asks for links that do not exist, for half a day and twice as much each
/// time: two such questions in that time cost 0.4 s.
const GOOD_CANARY_FOR: Duration = Duration::from_secs(6 * 3_600);
/// Questions that are asked or waited for at a time, so that a slow upstream holds up no other: far below the connections
/// of a listener, with a reserve for those whose links were alive.
const ASKING: Limits = Limits { total: 512, per_source: 64, reserve: 128 };
/// Links remembered; beyond it what is no longer needed is forgotten, or all.
const REMEMBERED: usize = 10_000;
/// Kinds of links whose canary is remembered.
const KINDS: usize = 512;
/// The start of an answer, enough for Immich's `{"message":"Invalid share slug",…}`.
const BODY: usize = 64 * 1024;
impl Shares {
    /// A checker of these shares. `shapes` of links count before those that are known without being told.
    #[must_use]
    pub fn new(shares: Vec<Share>, shapes: Vec<Shape>, how: ConfiguredBy) -> Shares {
        Shares {
            shares,
            shapes: shapes.into_iter().chain(shape::built_in()).collect(),
            how,
            alive: Mutex::default(),
            dead: Mutex::default(),
            flights: Mutex::default(),
            canaries: Mutex::default(),
            spend: Mutex::default(),
            newcomers: Mutex::default(),
            places: Slots::new(ASKING),
            noticed: Mutex::default(),
            refusals: Refusals::default(),
            lines: LogBudget::default(),
        }
    }

    /// The shares.
    #[must_use]
    pub fn all(&self) -> &[Share] {
        &self.shares
    }

    /// Asks whether the link is alive.
    ///
    /// # Errors
    /// Why it opens nothing.
    pub(super) async fn check(&self, q: &Question<'_>) -> Result<&Share, No> {
        let Some((at, share)) = self.find(q.protocol, q.service) else {
            // Shown as data, not as a line of its own, and not at any length.
            let url: String = format!("{}://{}", q.protocol, q.service).chars().take(120).collect();
            let url = url.escape_debug().to_string();
            self.once(Notice::Unnamed(url.clone()), || {
                warn!(upstream = url, fix = %self.naming(&url), "share link refused: its upstream is not named");
            });
            return Err(No::Unnamed);
        };
        let link = shape::find(&self.shapes, q.uri).map_err(No::Link)?;
        let id = (at, link.path());
        if let Some(known) = self.remembered(&id) {
            return known.map(|()| share);
        }
        let source = SourceKey::of(q.guest);
        let _place = self.places.take(source).map_err(|_| No::Budget)?;
        let flight = self.flights.lock().entry(id.clone()).or_default().clone();
        let landed = flight.lock().await;
        let answer = match self.remembered(&id) {
            Some(known) => known,
            None => self.ask(at, share, &link, &id, q).await,
        };
        drop(landed);
        drop(flight);
        // Whoever is the last one out, or went away meanwhile, leaves nothing behind.
        self.flights.lock().retain(|_, f| Arc::strong_count(f) > 1);
        answer.map(|()| {
            self.places.know(source);
            share
        })
    }

    /// True if one more guest from there may be let in within this minute.
    pub(super) fn takes_newcomer(&self, guest: Addr) -> bool {
        self.newcomers.lock().ask(guest, Instant::now())
    }

    /// Logs something that guests cause, within the budget of such lines; `log` gets how many were held back.
    pub(super) fn say(&self, log: impl FnOnce(u64)) {
        if let Some(held_back) = self.lines.spend(Instant::now()) {
            log(held_back);
        }
    }

    /// Asks every upstream for links that do not exist. Returns those that accept all of them, or do not answer.
    pub async fn probe(&self) -> Vec<(String, String)> {
        const PLACES: [&str; 3] = ["/share/a1b2c3d4e5f6g7h", "/s/a1b2c3d4e5f6g7h", "/index.php/s/a1b2c3d4e5f6g7h"];
        let each = self.shares.iter().enumerate().map(|(at, share)| async move {
            for place in PLACES {
                let link = shape::find(&self.shapes, place).ok()?;
                let own = self.canary(at, share, &link, &link.place, Link::path, None).await;
                let other = match (own, link.api()) {
                    (Ok(false), Some(_)) => self.canary(at, share, &link, "api", by_api, None).await,
                    (own, _) => own,
                };
                if other != Ok(false) {
                    return None;
                }
            }
            Some((
                format!("{} accepts any share link, also those that do not exist", share.base),
                "is it the share's own service, and not a login page or a proxy in front? its links open nothing"
                    .to_string(),
            ))
        });
        futures_util::future::join_all(each).await.into_iter().flatten().collect()
    }

    async fn ask(&self, at: usize, share: &Share, link: &Link, id: &Id, q: &Question<'_>) -> Result<(), No> {
        let vouched = self.alive.lock().get(id).is_some_and(|when| when.elapsed() < CANARY_TTL);
        if !q.known && !vouched && !self.spend.lock().ask(q.guest, Instant::now()) {
            return Err(No::Budget);
        }
        let answer = self.live(at, share, link, q).await;
        match answer {
            Ok(()) => {
                let mut alive = self.alive.lock();
                if alive.len() >= REMEMBERED {
                    alive.retain(|_, when| when.elapsed() < CANARY_TTL);
                }
                if alive.len() >= REMEMBERED {
                    alive.clear();
                }
                alive.insert(id.clone(), Instant::now());
            }
            Err(no) => {
                let mut dead = self.dead.lock();
                if dead.len() >= REMEMBERED {
                    dead.clear();
                }
                dead.insert(id.clone(), (no, Instant::now()));
                if matches!(no, No::Dead(_) | No::Canary) {
                    self.alive.lock().remove(id);
                }
            }
        }
        answer
    }

    /// Asks for the link itself; where the upstream says yes to any, what else there is to ask about it.
    async fn live(&self, at: usize, share: &Share, link: &Link, q: &Question<'_>) -> Result<(), No> {
        let told = self.says(share, link, &link.path(), q.host, Some(q.guest)).await?;
        if let LinkState::Dead(status) = told {
            return Err(No::Dead(status));
        }
        if self.canary(at, share, link, &link.place, Link::path, q.host).await? {
            return Ok(());
        }
        let Some(api) = link.api() else { return Err(No::Canary) };
        if let LinkState::Dead(status) = self.says(share, link, &api, q.host, Some(q.guest)).await? {
            return Err(No::Dead(status));
        }
        let good = self.canary(at, share, link, "api", by_api, q.host).await?;
        if good { Ok(()) } else { Err(No::Canary) }
    }

    /// True if the upstream refuses a link of this kind that does not exist.
    async fn canary(
        &self,
        at: usize,
        share: &Share,
        link: &Link,
        place: &str,
        asked: fn(&Link) -> String,
        host: Option<&HeaderValue>,
    ) -> Result<bool, No> {
        let canary = {
            let mut all = self.canaries.lock();
            let kind = (at, format!("{place}{}", if place == "api" { &link.place } else { "" }), link.token.len());
            if all.len() >= KINDS && !all.contains_key(&kind) {
                all.clear();
            }
            all.entry(kind).or_default().clone()
        };
        let mut canary = canary.lock().await;
        if let Some(sung) = *canary
            && sung.at.elapsed() < sung.lasts
        {
            return Ok(sung.good);
        }
        let (mut path, mut good, mut lasts) = (String::new(), true, GOOD_CANARY_FOR);
        // An error may be an accident: then a second one must fail as well, and it counts for less long.
        for _ in 0..2 {
            let nobodys = link.canary(|bytes| {
                if SystemRandom::new().fill(bytes).is_err() {
                    // No randomness: a link nobody made will still do.
                    bytes.fill(7);
                }
            });
            path = asked(&nobodys);
            match self.says(share, &nobodys, &path, host, None).await? {
                LinkState::Alive => (good, lasts) = (false, BAD_CANARY_FOR),
                LinkState::Dead(500..) => {
                    lasts = BAD_CANARY_FOR;
                    continue;
                }
                LinkState::Dead(_) => {}
            }
            break;
        }
        let before = canary.replace(Sung { good, at: Instant::now(), lasts });
        let shown = shape::masked(&path);
        if !good {
            let more = if link.api().is_some() && place != "api" {
                "its API is asked instead"
            } else {
                "its links there open nothing; an upgrade of it may help"
            };
            self.once(Notice::AcceptsAll(share.name.clone(), shown.clone()), || {
                error!(share = share.name, upstream = %share.base, path = shown, "share upstream accepts links that do not exist: {more}");
            });
        } else if before.is_some_and(|b| !b.good) {
            info!(share = share.name, upstream = %share.base, path = shown, "share upstream refuses links that do not exist again");
        }
        Ok(good)
    }

    /// What an upstream says of a link when it is asked for this path.
    async fn says(
        &self,
        share: &Share,
        link: &Link,
        path: &str,
        host: Option<&HeaderValue>,
        guest: Option<Addr>,
    ) -> Result<LinkState, No> {
        let mut headers = HeaderMap::new();
        // The upstream sees the name and the guest it would see anyway: its own throttling hits the guest, not us.
        if let Some(host) = host {
            headers.insert(header::HOST, host.clone());
            headers.insert("x-forwarded-host", host.clone());
            headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
        }
        if let Some(Ok(guest)) = guest.map(|g| HeaderValue::from_str(&g.to_string())) {
            headers.insert("x-forwarded-for", guest);
        }
        let answer = match Fetch::get(path, headers).start_of_body(BODY).send(&share.base, CHECK_TIMEOUT).await {
            Ok(answer) => answer,
            Err(e) => {
                self.once(Notice::Silent(share.name.clone()), || {
                    warn!(share = share.name, upstream = %share.base, err = format!("{e:#}"), "share upstream does not answer; its links open nothing")
                });
                return Err(No::Silent);
            }
        };
        let location = answer.headers.get(header::LOCATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
        match answer.status {
            200 => Ok(LinkState::Alive),
            301 | 302 | 303 | 307 | 308 if link.asks_password(location) => Ok(LinkState::Alive),
            401 if asks_password(&answer.body) => Ok(LinkState::Alive),
            status @ (429 | 502..=504) => Err(No::Busy(status)),
            status => Ok(LinkState::Dead(status)),
        }
    }

    fn find(&self, protocol: &str, service: &str) -> Option<(usize, &Share)> {
        let wanted: Base = format!("{protocol}://{service}").parse().ok()?;
        // The service must be a host and a port and nothing more: no path, no query.
        if wanted.path != "/" || service.contains(['/', '?', '#', '@']) {
            return None;
        }
        self.shares.iter().enumerate().find(|(_, s)| {
            s.base.https == wanted.https && s.base.port == wanted.port && s.base.host.eq_ignore_ascii_case(&wanted.host)
        })
    }

    fn remembered(&self, id: &Id) -> Option<Result<(), No>> {
        if self.alive.lock().get(id).is_some_and(|when| when.elapsed() < ALIVE_FOR) {
            return Some(Ok(()));
        }
        let dead = self.dead.lock();
        let (no, when) = dead.get(id)?;
        let lasts = if matches!(no, No::Silent | No::Busy(_)) { UPSTREAM_COOLDOWN } else { DEAD_FOR };
        (when.elapsed() < lasts).then_some(Err(*no))
    }
}

/// What an upstream says of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LinkState {
    Alive,
    Dead(u16),
}

fn by_api(link: &Link) -> String {
    link.api().unwrap_or_default()
}

/// Immich's API says whether a link that needs a password exists: `Invalid password`, later `Password required`, and
/// `Invalid share key` or `Invalid share slug` for one that does not.
fn asks_password(body: &[u8]) -> bool {
    let message = serde_json::from_slice::<serde_json::Value>(body).ok();
    let message = message.as_ref().and_then(|m| m["message"].as_str());
    matches!(message, Some("Invalid password" | "Password required"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(urls: &[&str], how: ConfiguredBy) -> Shares {
        let share = |url: &&str| Share { name: "x".into(), base: url.parse().unwrap() };
        Shares::new(urls.iter().map(share).collect(), Vec::new(), how)
    }

    #[test]
    fn only_named_upstreams_are_found() {
        let s = shares(&["http://immich_server:2283", "https://cloud"], ConfiguredBy::Environment);
        assert!(s.find("http", "immich_server:2283").is_some() && s.find("https", "Cloud").is_some());
        for (p, h) in [
            ("https", "immich_server:2283"),
            ("http", "immich_server:22"),
            ("http", "immich_server:2283/x?y="),
            ("http", "a@immich_server:2283"),
            ("file", "x"),
            ("", ""),
            ("http", "169.254.169.254"),
        ] {
            assert!(s.find(p, h).is_none(), "{p} {h}");
        }
    }

    #[test]
    fn immichs_word_for_a_password() {
        assert!(asks_password(br#"{"message":"Password required","error":"Unauthorized","statusCode":401}"#));
        assert!(asks_password(br#"{"message":"Invalid password"}"#));
        assert!(!asks_password(br#"{"message":"Invalid share slug","statusCode":401}"#));
        assert!(!asks_password(b"<html>") && !asks_password(b"") && !asks_password(br#"{"message":["x"]}"#));
    }
}
