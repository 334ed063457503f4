//! Share links: is this link alive? In: the upstream that a label names, the path that a guest asked for. Out: yes or
//! no, by asking an upstream that the configuration names, and by nothing else.
//!
//! An upstream that says 200 to a random link of the same shape says nothing about links: that shape is switched off,
//! loudly, until it answers otherwise.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use model::Addr;
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;
use tracing::{error, info, warn};

use super::fetch::{Base, fetch};

/// A named upstream whose links are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Short name; `dynamic-whitelist-NAME` is its middleware.
    pub name: String,
    /// Where it is.
    pub base: Base,
}

/// Why a link opens nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum No {
    /// The upstream is not in the configuration.
    Unnamed,
    /// The path is not of the shape of a share link.
    Shape,
    /// The upstream did not answer 200.
    Dead,
    /// The upstream says 200 to links that do not exist.
    Canary,
    /// Too many wrong links from this address, or from all together.
    Budget,
    /// The upstream did not answer.
    Silent,
}

/// The checker of all shares.
#[derive(Debug)]
pub struct Shares {
    shares: Vec<Share>,
    /// What is known of a link, and since when.
    known: Mutex<HashMap<Link, Known>>,
    /// One check of a link at a time; who comes meanwhile waits for its answer.
    flights: Mutex<HashMap<Link, Arc<AsyncMutex<()>>>>,
    /// Whether the upstream tells live links of a shape from others; each is asked apart, so that a slow one holds up
    /// no other.
    canaries: Mutex<BTreeMap<(usize, &'static str), Canary>>,
    budget: Mutex<Budget>,
    said: Mutex<BTreeMap<String, Instant>>,
}

type Link = (usize, String);
type Known = (Result<(), No>, Instant);
type Canary = Arc<AsyncMutex<Option<(bool, Instant)>>>;

#[derive(Debug, Default)]
struct Budget {
    since: Option<Instant>,
    all: u32,
    each: HashMap<Addr, u32>,
}

/// An upstream on the same machine answers in milliseconds; a guest waits no longer than this.
const WAIT: Duration = Duration::from_secs(2);
/// A dead link is not asked for again so soon: guessing the same one costs the upstream nothing.
const DEAD_FOR: Duration = Duration::from_secs(60);
/// A page and its pictures are one question; a link that is withdrawn opens nothing new after this.
const ALIVE_FOR: Duration = Duration::from_secs(10);
/// An upstream that did not answer is left alone for so long: whoever queues behind a silent one is told at once.
const SILENT_FOR: Duration = Duration::from_secs(5);
/// An upgrade of the upstream may break its answers: asked again this often.
const CANARY_EVERY: Duration = Duration::from_secs(600);
/// Questions to upstreams in a minute. Immich's keys have 67 characters and Nextcloud's 15: guessing is hopeless at
/// any rate; the budgets protect the upstream and its own throttling.
const PER_MINUTE_EACH: u32 = 20;
const PER_MINUTE_ALL: u32 = 300;
/// Links remembered; beyond it all are forgotten and asked for anew.
const REMEMBERED: usize = 10_000;
/// Shortest and longest token of a link, as characters: a shorter one can be guessed.
const TOKEN: std::ops::RangeInclusive<usize> = 8..=200;

/// The first part of a path that may be followed by a token: Immich, Immich's own names, Nextcloud.
const PLACES: [&str; 3] = ["/share/", "/s/", "/index.php/s/"];

impl Shares {
    /// A checker of these shares.
    #[must_use]
    pub fn new(shares: Vec<Share>) -> Shares {
        Shares {
            shares,
            known: Mutex::default(),
            flights: Mutex::default(),
            canaries: Mutex::default(),
            budget: Mutex::default(),
            said: Mutex::default(),
        }
    }

    /// The shares.
    #[must_use]
    pub fn all(&self) -> &[Share] {
        &self.shares
    }

    /// What is wrong with the upstreams, each with the line that mends it.
    #[must_use]
    pub fn trouble(&self) -> Vec<(String, &'static str)> {
        let said = self.said.lock();
        let mut out: Vec<(String, &'static str)> = Vec::new();
        for what in said.keys() {
            if let Some(url) = what.strip_prefix("unnamed ") {
                out.push((
                    format!("share links of {url:?} were refused: it is not named"),
                    "add it to SHARE_UPSTREAMS if it is yours",
                ));
            } else if let Some(name) = what.strip_prefix("silent ") {
                out.push((
                    format!("the share upstream {name} does not answer"),
                    "are both on the same network, and is the port right?",
                ));
            }
        }
        drop(said);
        for ((at, place), canary) in self.canaries.lock().iter() {
            // Held only while the upstream is asked, two seconds at most: then this time nothing is said of it.
            let bad = canary.try_lock().is_ok_and(|c| matches!(*c, Some((false, _))));
            if let (true, Some(share)) = (bad, self.shares.get(*at)) {
                out.push((
                    format!("{} accepts {place}… links that do not exist", share.base),
                    "its links open nothing; upgrade it, then they are checked again",
                ));
            }
        }
        out
    }

    /// Asks whether the link is alive. `protocol` and `service` come from the label, `uri` and `host` from the guest.
    ///
    /// # Errors
    /// Why it opens nothing.
    pub async fn check(
        &self,
        protocol: &str,
        service: &str,
        uri: &str,
        host: Option<&HeaderValue>,
        guest: Addr,
    ) -> Result<&Share, No> {
        let Some((at, share)) = self.find(protocol, service) else {
            self.once(&format!("unnamed {protocol}://{service}"), || {
                // Shown as data, not as a line of its own.
                warn!("a share link of {:?} is refused: it is not named; to allow it add it to SHARE_UPSTREAMS={protocol}://{service}", format!("{protocol}://{service}"));
            });
            return Err(No::Unnamed);
        };
        let (place, token) = shape(uri).ok_or(No::Shape)?;
        let path = format!("{place}{token}");
        let link = (at, path.clone());
        if let Some(known) = self.remembered(&link) {
            return known.map(|()| share);
        }
        let flight = self.flights.lock().entry(link.clone()).or_default().clone();
        let landed = flight.lock().await;
        let answer = match self.remembered(&link) {
            Some(known) => known,
            None => self.ask(at, share, place, token, &path, host, guest).await,
        };
        drop(landed);
        drop(flight);
        // Whoever is the last one out, or went away meanwhile, leaves nothing behind.
        self.flights.lock().retain(|_, f| Arc::strong_count(f) > 1);
        answer.map(|()| share)
    }

    /// Asks every upstream for links that do not exist. Returns those that accept all of them, or do not answer.
    pub async fn probe(&self) -> Vec<(String, &'static str)> {
        let each = self.shares.iter().enumerate().map(|(at, share)| async move {
            let mut accepts = 0;
            for place in PLACES {
                match self.canary(at, share, place, "a1b2c3d4e5f6g7h", None).await {
                    Ok(true) => return None,
                    Ok(false) => accepts += 1,
                    Err(_) => return None,
                }
            }
            (accepts == PLACES.len()).then(|| {
                (
                    format!("{} accepts any share link, also those that do not exist", share.base),
                    "is it the share's own service, and not a login page or a proxy in front? its links open nothing",
                )
            })
        });
        futures_util::future::join_all(each).await.into_iter().flatten().collect()
    }

    #[allow(clippy::too_many_arguments)]
    async fn ask(
        &self,
        at: usize,
        share: &Share,
        place: &'static str,
        token: &str,
        path: &str,
        host: Option<&HeaderValue>,
        guest: Addr,
    ) -> Result<(), No> {
        self.spend(guest)?;
        let answer = match self.canary(at, share, place, token, host).await {
            Ok(true) => self.status(share, path, host, Some(guest)).await,
            Ok(false) => Err(No::Canary),
            Err(e) => Err(e),
        };
        let answer = answer.and_then(|status| if status == 200 { Ok(()) } else { Err(No::Dead) });
        let mut known = self.known.lock();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert((at, path.to_string()), (answer, Instant::now()));
        answer
    }

    /// True if the upstream refuses a link of this shape that does not exist.
    async fn canary(
        &self,
        at: usize,
        share: &Share,
        place: &'static str,
        token: &str,
        host: Option<&HeaderValue>,
    ) -> Result<bool, No> {
        let canary = self.canaries.lock().entry((at, place)).or_default().clone();
        let mut canary = canary.lock().await;
        if let Some((good, when)) = *canary
            && when.elapsed() < CANARY_EVERY
        {
            return Ok(good);
        }
        let path = format!("{place}{}", random_like(token));
        let good = self.status(share, &path, host, None).await? != 200;
        let before = canary.replace((good, Instant::now()));
        if !good {
            error!(
                "{} answers 200 to {place}… links that do not exist: it cannot say which are alive, so its {place} links open nothing; an upgrade of it may help",
                share.base
            );
        } else if before.is_some_and(|(was, _)| !was) {
            info!("{} refuses {place}… links that do not exist again: they are checked again", share.base);
        }
        Ok(good)
    }

    async fn status(
        &self,
        share: &Share,
        path: &str,
        host: Option<&HeaderValue>,
        guest: Option<Addr>,
    ) -> Result<u16, No> {
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
        match fetch(&share.base, Method::GET, path, headers, Bytes::new(), 0, WAIT).await {
            Ok((status, _)) => Ok(status),
            Err(e) => {
                self.once(&format!("silent {}", share.name), || {
                    warn!("{} does not answer: {e:#}; its links open nothing", share.base)
                });
                Err(No::Silent)
            }
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

    fn remembered(&self, link: &Link) -> Option<Result<(), No>> {
        let known = self.known.lock();
        let (answer, when) = known.get(link)?;
        let lasts = match answer {
            Ok(()) => ALIVE_FOR,
            Err(No::Silent) => SILENT_FOR,
            Err(_) => DEAD_FOR,
        };
        (when.elapsed() < lasts).then_some(*answer)
    }

    fn spend(&self, guest: Addr) -> Result<(), No> {
        let mut b = self.budget.lock();
        if b.since.is_none_or(|s| s.elapsed() >= Duration::from_secs(60)) {
            *b = Budget { since: Some(Instant::now()), ..Budget::default() };
        }
        // Bounded by the budget of all: no more addresses than questions.
        let each = b.each.get(&guest).copied().unwrap_or(0);
        if each >= PER_MINUTE_EACH || b.all >= PER_MINUTE_ALL {
            drop(b);
            self.once(&format!("budget {guest}"), || {
                warn!("{guest} asks for too many share links; refused for a minute")
            });
            return Err(No::Budget);
        }
        b.all += 1;
        b.each.insert(guest, each + 1);
        Ok(())
    }

    /// Says something at most once in ten minutes.
    fn once(&self, what: &str, say: impl FnOnce()) {
        let mut said = self.said.lock();
        said.retain(|_, when| when.elapsed() < CANARY_EVERY);
        if said.len() < 1_000 && said.insert(what.to_string(), Instant::now()).is_none() {
            say();
        }
    }
}

/// The place and the token of a share link; the query and what follows the token do not count.
fn shape(uri: &str) -> Option<(&'static str, &str)> {
    let path = uri.split(['?', '#']).next()?;
    let place = PLACES.into_iter().find(|p| path.starts_with(p))?;
    let token = path.strip_prefix(place)?.split('/').next()?;
    let good =
        TOKEN.contains(&token.len()) && token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    good.then_some((place, token))
}

/// A token that does not exist, with a letter for each letter and a digit for each digit.
fn random_like(token: &str) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut random = vec![0u8; token.len()];
    if SystemRandom::new().fill(&mut random).is_err() {
        // No randomness: a link nobody made will still do.
        random.fill(7);
    }
    let pick = |set: &[u8], r: u8| set.get(usize::from(r) % set.len()).copied().unwrap_or(b'x') as char;
    token
        .bytes()
        .zip(random)
        .map(|(t, r)| if t.is_ascii_digit() { pick(b"0123456789", r) } else { pick(LETTERS, r) })
        .collect()
}

impl std::fmt::Display for No {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            No::Unnamed => "the upstream is not named in SHARE_UPSTREAMS",
            No::Shape => "the path is not that of a share link",
            No::Dead => "the upstream does not know the link",
            No::Canary => "the upstream accepts links that do not exist",
            No::Budget => "too many links were asked for",
            No::Silent => "the upstream does not answer",
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_links_have_a_shape_and_others_have_none() {
        let immich = "/share/TEsm6bGu0tN5o1PjeVHDY0vwIqIfNDVPbVSzyfgI_jif2h0r8_GogiXmz8g3ziKYBh4";
        assert_eq!(shape(immich).unwrap().0, "/share/");
        assert_eq!(shape(&format!("{immich}?x=1")).unwrap().1.len(), 67);
        assert_eq!(shape("/s/aBcDeFgHiJkLmNo").unwrap(), ("/s/", "aBcDeFgHiJkLmNo"));
        assert_eq!(shape("/index.php/s/aBcDeFgHiJkLmNo/download").unwrap().1, "aBcDeFgHiJkLmNo");
        for bad in [
            "",
            "/",
            "/share/",
            "/share/short",
            "/admin/TEsm6bGu0tN5o1PjeVHD",
            "/s/aaaaaaa,aaaaaaaa",
            "/share/../api/users",
            "http://evil/share/aaaaaaaaaaaa",
            "/share/%41aaaaaaaaaa",
        ] {
            assert_eq!(shape(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_named_upstreams_are_found() {
        let share = |url: &str| Share { name: "x".into(), base: url.parse().unwrap() };
        let s = Shares::new(vec![share("http://immich_server:2283"), share("https://cloud")]);
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
    fn a_canary_is_of_the_same_shape_and_another_each_time() {
        let token = "TEsm6bGu0tN5o1PjeVHDY0vwIqIf";
        let (a, b) = (random_like(token), random_like(token));
        assert!(a != b && a != token && a.len() == token.len());
        assert!(shape(&format!("/share/{a}")).is_some());
    }
}
