//! A proxy asks whether a guest's share link opens. In: the upstream of the middleware, the guest, the path and the headers
//! of his request. Out: the status that lets him pass or not, and a guest on the list who finds every part of the page
//! open when the answer comes.

use std::time::{Duration, Instant};

use access::ledger::{Event, Outcome, Proof, Rejection};
use access::{Evidence, GrantId};
use addr::{Addr, SourceKey};
use http::{HeaderMap, HeaderValue, StatusCode};
use tracing::{info, warn};

use super::guests::Guests;
use super::refused::Why;
use super::{No, Question, shape};
use crate::state::GateState;

/// What the proxy asks.
#[derive(Debug)]
pub(crate) struct LinkRequest<'a> {
    /// `http` or `https`, from the middleware's address.
    pub protocol: &'a str,
    /// Host and port, from the middleware's address.
    pub service: &'a str,
    /// What the guest asked for.
    pub uri: &'a str,
    /// The guest.
    pub visitor: Addr,
    /// The headers of his request, with the proxy's own.
    pub headers: &'a HeaderMap,
}

/// The longest that a new guest's first answer waits until what stands in front lets him in: Traefik reads a file within
/// its throttle (2 s), measured 3.4 s for the second of two changes. Then the answer comes, and the guest may have to
/// load again.
const FIRST_PAGE_TIMEOUT: Duration = Duration::from_secs(4);
/// Whoever was given his place within this time may still have to wait for it.
const NEW: u64 = 6;
/// Answers the question.
pub(crate) async fn open(state: &GateState, asked: &LinkRequest<'_>) -> StatusCode {
    let to = |name: &str| state.shares.guests(name);
    let named = state.shares.checker.find(asked.protocol, asked.service).map(|(_, s)| s.name.as_str());
    let question = Question {
        protocol: asked.protocol,
        service: asked.service,
        uri: asked.uri,
        host: asked.headers.get("x-forwarded-host"),
        guest: asked.visitor,
        known: named.and_then(to).is_some_and(|g| lets_in(state, &g.list, asked.visitor)),
    };
    let share = match state.shares.checker.check(&question).await {
        Ok(share) => share.name.clone(),
        Err(no) => {
            refused(state, asked, named.unwrap_or(asked.service), Why::No(no));
            return StatusCode::FORBIDDEN;
        }
    };
    let Some(Guests { list, ttl }) = to(&share) else { return StatusCode::FORBIDDEN };
    if let Some(what) = shown_only(asked.headers) {
        state.shares.checker.say(|held_back| {
            info!(peer = %asked.visitor, share, why = what, held_back, "share link shown, no grant");
        });
        return StatusCode::OK;
    }
    if !lets_in(state, list, asked.visitor) && !state.shares.checker.takes_newcomer(asked.visitor) {
        refused(state, asked, &share, Why::No(No::Budget));
        return StatusCode::FORBIDDEN;
    }
    let proof = Proof {
        list: list.clone(),
        addr: asked.visitor,
        evidence: Evidence::Share,
        principal: Some(format!("guest of {share}")),
        device: None,
        ttl: Some(*ttl),
    };
    let done = match state.ledger.submit(Event::Proof(proof)).await {
        Ok(done) => done,
        Err(e) => {
            warn!(peer = %asked.visitor, share, list, err = %e, "cannot grant");
            return StatusCode::SERVICE_UNAVAILABLE;
        }
    };
    match done.outcome {
        Outcome::Given(id) => {
            info!(peer = %asked.visitor, share, list, grant = %id, "granted by share link");
            in_force(state, list, asked.visitor, done.generation).await;
        }
        // A page may be asked for twice, and its pictures before the first answer came.
        Outcome::Renewed(id) if is_new(state, list, asked.visitor, id) => {
            in_force(state, list, asked.visitor, done.generation).await;
        }
        Outcome::Renewed(_) | Outcome::Ended(_) | Outcome::Settled(_) | Outcome::Rejected(Rejection::Static) => {}
        Outcome::Rejected(why @ (Rejection::Private | Rejection::Own | Rejection::Nobodys | Rejection::Full)) => {
            refused(state, asked, &share, Why::NotLearnt(why));
        }
        Outcome::Rejected(why) => {
            refused(state, asked, &share, Why::NotLearnt(why));
            return StatusCode::FORBIDDEN;
        }
    }
    StatusCode::OK
}

/// Waits until every enforcer of the list has the guest, the process stops, or the time is over.
async fn in_force(state: &GateState, list: &str, guest: Addr, generation: u64) {
    let Ok(_place) = state.shares.waiting.take(SourceKey::of(guest)) else { return };
    let until = Instant::now() + FIRST_PAGE_TIMEOUT;
    let each = state.enforcers.iter().filter(|e| e.holds(list)).map(|e| async move {
        if !e.has(generation, until).await {
            warn!(enforcer = e.info.name, peer = %guest, "enforcer is slow: the guest may have to load the page again");
        }
    });
    tokio::select! {
        _ = futures_util::future::join_all(each) => {}
        () = state.shares.stopping.cancelled() => {}
    }
}

fn lets_in(state: &GateState, list: &str, addr: Addr) -> bool {
    let published = state.ledger.published.borrow().clone();
    let on = published.view.id(list).and_then(|id| published.view.list(id));
    on.is_some_and(|l| l.set.contains(addr))
}

fn is_new(state: &GateState, list: &str, addr: Addr, id: GrantId) -> bool {
    let now = state.ledger.model.time.now();
    state.ledger.holding(list, addr).iter().any(|g| g.id == id && now.saturating_sub(g.given_at) <= NEW)
}

/// Keeps a refusal for `explain` and `doctor`, and says it within the budget of such lines.
fn refused(state: &GateState, asked: &LinkRequest<'_>, share: &str, why: Why) {
    let now = Instant::now();
    state.shares.checker.refusals.note(asked.visitor, share, shape::masked(asked.uri), why, now);
    let Some(refusal) = state.shares.checker.refusals.of(asked.visitor, now) else { return };
    state.shares.checker.say(|held_back| {
        let fix = state.shares.checker.mend(&refusal);
        info!(peer = %asked.visitor, share, why = %refusal, fix, held_back, "share link refused");
    });
}

/// Programs that fetch a link to show what it leads to, each by a part of its user agent.
const PREVIEWS: [&str; 14] = [
    "facebookexternalhit",
    "WhatsApp/",
    "TelegramBot",
    "Twitterbot",
    "Slackbot",
    "Slack-ImgProxy",
    "Discordbot",
    "LinkedInBot",
    "SkypeUriPreview",
    "Mastodon/",
    "Iframely",
    "redditbot",
    "Googlebot",
    "bingbot",
];

/// Why a request is nobody's who wants to look at what is shared: he sees the page and makes no guest. Everything here is
/// the visitor's own word, and takes from him only.
fn shown_only(headers: &HeaderMap) -> Option<&'static str> {
    let get = |name: &str| headers.get(name).map(HeaderValue::as_bytes).unwrap_or_default();
    let holds = |name: &str, what: &str| {
        let value = get(name).to_ascii_lowercase();
        value.windows(what.len()).any(|w| w == what.as_bytes())
    };
    if !matches!(get("x-forwarded-method"), b"" | b"GET" | b"POST") {
        return Some("it was not asked for by GET or POST");
    }
    if ["sec-purpose", "purpose", "x-moz", "x-purpose"].iter().any(|h| holds(h, "prefetch") || holds(h, "preview")) {
        return Some("a browser fetched it ahead");
    }
    let elsewhere = get("sec-fetch-site") == b"cross-site";
    if elsewhere && (get("sec-fetch-mode") != b"navigate" || get("sec-fetch-dest") != b"document") {
        return Some("another site's page asked for it");
    }
    let preview = PREVIEWS.iter().any(|p| holds("user-agent", &p.to_ascii_lowercase()));
    preview.then_some("a program that shows previews asked for it")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(headers: &[(&'static str, &'static str)]) -> bool {
        shown_only(&headers.iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap())).collect()).is_some()
    }

    #[test]
    fn people_become_guests_and_previews_do_not() {
        let chat = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
        let cubot = [("user-agent", "Mozilla/5.0 (Linux; Android 13; CUBOT P80) AppleWebKit/537.36")];
        for people in [&[][..], &chat, &cubot, &[("x-forwarded-method", "GET")], &[("x-forwarded-method", "POST")]] {
            assert!(!only(people), "{people:?}");
        }
        for preview in [
            &[("x-forwarded-method", "HEAD")][..],
            &[("x-forwarded-method", "PROPFIND")],
            &[("sec-purpose", "prefetch;prerender")],
            &[("purpose", "preview")],
            &[("user-agent", "WhatsApp/2.23.20.0 A")],
            &[("user-agent", "Mozilla/5.0 (compatible; Discordbot/2.0; +https://discordapp.com)")],
            &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")],
            &[("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")],
        ] {
            assert!(only(preview), "{preview:?}");
        }
    }
}
