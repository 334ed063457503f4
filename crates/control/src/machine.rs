//! What machines ask inside their channel: to register, for their map, to answer a question. In: requests of a machine
//! that has proved its key. Out: answers; unknown requests are answered too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use addr::Addr;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use serde::de::DeserializeOwned;
use tailnet::record::BcryptHash;
use tailnet::{Registered, Registry, Snapshot};
use tailnet_proto::meshkey::MachineKey;
use tailnet_proto::tailcfg::map::MapRequest;
use tailnet_proto::tailcfg::register::{Login, RegisterRequest, RegisterResponse, User};
use tailnet_proto::tailcfg::ssh::SshAction;
use tokio::sync::{Mutex, Semaphore};
use tracing::debug;

use super::state::{ControlState, Place};
use super::stream::{self, Body};
use runtime::answer::{self, Media};
use runtime::owner::Kind;
use runtime::sha256_hex;

/// The oldest capability version served: release 1.80 (January 2025), well before the last ten.
pub(super) const MIN_CAPABILITY_VERSION: u32 = 113;
/// Longest request: a host with thousands of routes fits.
const BODY: usize = 512 * 1024;
/// The same of a machine that nobody knows yet: its host and its key fit.
const BODY_OF_STRANGER: usize = 32 * 1024;
/// Longest answer to a question of ours: thousands of learned names fit.
const MAX_ANSWER_LEN: usize = 1 << 20;
/// A request comes at once; who trickles it holds one of few places.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// Nobody vouches for a person at this server but its administrator, who is not asked for each login.
const NO_CHECK: &str = "this server cannot confirm logins; ask for a rule with the action `accept`\r\n";
/// How long a client waits for a person before it is told to ask again, shorter than proxies' patience.
const FOLLOWUP: Duration = Duration::from_secs(50);

/// Who asks in one channel.
#[derive(Debug)]
pub(super) struct ChannelPeer {
    machine: MachineKey,
    from: Addr,
    /// One request of a channel is read at a time: the memory that it may fill is that of one.
    reading: Mutex<()>,
    /// Its place among the connections, and its memory while it has no node.
    place: parking_lot::Mutex<Place>,
    known: AtomicBool,
}

impl ChannelPeer {
    pub(super) fn new(machine: MachineKey, from: Addr, place: Place) -> ChannelPeer {
        let (place, known) = (parking_lot::Mutex::new(place), AtomicBool::new(false));
        ChannelPeer { machine, from, reading: Mutex::new(()), place, known }
    }

    pub(super) fn machine(&self) -> MachineKey {
        self.machine
    }

    /// True if it was seen to have a node.
    pub(super) fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    /// It has a node: it no longer counts as an untrusted peer of its address.
    fn proved(&self) {
        if !self.known.swap(true, Ordering::Relaxed) {
            self.place.lock().proved();
        }
    }
}

/// Answers one request.
pub(super) async fn answer(
    state: &Arc<ControlState>,
    asker: &ChannelPeer,
    request: Request<Incoming>,
) -> Response<Body> {
    let path = request.uri().path().to_string();
    let (what, done) = match (request.method(), path.as_str()) {
        (&Method::POST, "/machine/register") => ("register", register(state, asker, request).await),
        (&Method::POST, "/machine/map") => ("map", map(state, asker, request).await),
        (_, p) if p.starts_with("/machine/answer/") => {
            ("answer", answered(state, asker, &p["/machine/answer/".len()..], request).await)
        }
        (&Method::GET, "/machine/ssh/check") => ("ssh-check", json(&SshAction::reject(NO_CHECK))),
        (m, p) => {
            debug!(machine = %asker.machine.short(), method = %m, path = p, "not offered here");
            (
                "unknown",
                Err(Problem(
                    StatusCode::NOT_IMPLEMENTED,
                    format!("{} is not offered by this server", p.escape_debug()),
                )),
            )
        }
    };
    let answer =
        done.unwrap_or_else(|Problem(status, text)| answer::with(status, Media::Text, full(format!("{text}\n"))));
    state.count(what, answer.status().as_u16());
    answer
}

/// Why a request is not done.
struct Problem(StatusCode, String);

type Answered = Result<Response<Body>, Problem>;

async fn register(state: &Arc<ControlState>, asker: &ChannelPeer, request: Request<Incoming>) -> Answered {
    let ask: RegisterRequest = read(state, asker, request).await?;
    let (machine, from) = (asker.machine, asker.from);
    if ask.version < MIN_CAPABILITY_VERSION {
        return json(&RegisterResponse {
            error: "this client is too old for this server; update it".into(),
            ..Default::default()
        });
    }
    let proof = ask.auth_key().map(|key| sha256_hex(key.as_bytes()));
    let foreign = match ask.auth_key() {
        Some(key) => foreign_key(state, key).await,
        None => None,
    };
    let wait = ask.followup.rsplit('/').next().filter(|t| !t.is_empty()).map(str::to_string);
    if let Some(ticket) = wait {
        followed(state, &ticket).await;
    }
    let ticket = ticket();
    // A disk that is full keeps nobody who logs out.
    let kind = if ask.logs_out(state.registry.time.now()) { Kind::Takes } else { Kind::Gives };
    let done = {
        let (ask, ticket) = (ask.clone(), ticket);
        let registered = move |registry: &mut Registry, now| {
            if let (Some(prefix), Some(proof)) = (&foreign, &proof) {
                registry.proved_foreign_key(prefix, proof);
            }
            let done = registry.register(machine, &ask, proof.as_deref(), &ticket, now);
            if let Registered::Waits(ticket) = &done {
                registry.waits_from(ticket, from);
            }
            done
        };
        state.registry.make(kind, registered).await.map(|(done, _)| done)
    };
    let done = done.map_err(|e| Problem(StatusCode::SERVICE_UNAVAILABLE, format!("{e:#}")))?;
    debug!(%from, machine = %machine.short(), ?done, "register");
    let mut out = RegisterResponse::default();
    match done {
        Registered::Node(id) => {
            asker.proved();
            let s = state.registry.now();
            (out.user, out.login) = owner(&s, id);
            out.machine_authorized = true;
        }
        Registered::Waits(ticket) => {
            debug!(%from, "a node waits: portcullis nodes approve {ticket} --user NAME");
            out.auth_url = format!("{}/register/{ticket}", state.url);
        }
        Registered::Ended | Registered::Left => out.node_key_expired = true,
        Registered::Refused(why) => {
            debug!(%from, machine = %machine.short(), why, "registration refused");
            out.error = why;
        }
    }
    json(&out)
}

/// A key of another server that is known by its hash alone: its prefix, if this is it. A hash is computed only for who
/// knows the prefix, one at a time, and never again once somebody has proved the key.
async fn foreign_key(state: &ControlState, key: &str) -> Option<String> {
    static ONE: Semaphore = Semaphore::const_new(1);
    let known = Registry::foreign_key(state.registry.now().keys.values(), key)?.clone();
    let (_, secret) = BcryptHash::split(key)?;
    let secret = secret.to_string();
    let _turn = ONE.acquire().await.ok()?;
    let check = move || bcrypt::verify(secret, &known.hash).is_ok_and(|good| good).then_some(known.prefix);
    // It takes a tenth of a second, which no other task waits for.
    tokio::task::spawn_blocking(check).await.ok()?
}

/// Waits until a person has decided about a ticket, or long enough.
async fn followed(state: &ControlState, ticket: &str) {
    let mut snapshot = state.registry.snapshot.clone();
    let decided = snapshot.wait_for(|s| s.pending.get(ticket).is_none_or(|p| !p.waits()));
    tokio::select! {
        _ = decided => {}
        () = tokio::time::sleep(FOLLOWUP) => {}
        () = state.run.stopping() => {}
    }
}

fn owner(s: &Snapshot, id: u64) -> (User, Login) {
    let profile = s.profile_of(id);
    let user = User { id: profile.id, display_name: profile.display_name.clone() };
    let login = Login {
        id: profile.id,
        login_name: profile.login_name,
        display_name: profile.display_name,
        ..Login::default()
    };
    (user, login)
}

async fn map(state: &Arc<ControlState>, asker: &ChannelPeer, request: Request<Incoming>) -> Answered {
    let ask: MapRequest = read(state, asker, request).await?;
    let (machine, from) = (asker.machine, asker.from);
    if ask.version < MIN_CAPABILITY_VERSION {
        return Err(Problem(StatusCode::BAD_REQUEST, "this client is too old for this server; update it".into()));
    }
    let how = stream::How { zstd: ask.compress == "zstd", keep_alive: ask.keep_alive };
    let (streams, whole) = (ask.stream, !ask.omit_peers);
    // Where it is and what it offers is its own; nothing that was not approved opens by it.
    let done = state.registry.make(Kind::Keeps, move |registry, now| registry.update(machine, &ask, now)).await;
    let done = done.map(|(done, _)| done);
    let id = match done {
        Ok(Ok(id)) => id,
        Ok(Err(no)) => {
            debug!(%from, machine = %machine.short(), why = %no, "map refused");
            return Err(Problem(StatusCode::NOT_FOUND, no.to_string()));
        }
        Err(e) => return Err(Problem(StatusCode::SERVICE_UNAVAILABLE, format!("{e:#}"))),
    };
    asker.proved();
    let body = if streams {
        stream::start(state, id, from, how)
    } else if whole {
        full(stream::once(state, id, how).unwrap_or_default())
    } else {
        full(Bytes::new())
    };
    Ok(answer::with(StatusCode::OK, Media::Json, body))
}

async fn answered(state: &ControlState, asker: &ChannelPeer, id: &str, request: Request<Incoming>) -> Answered {
    if !state.awaits(id) {
        return Err(Problem(StatusCode::NOT_FOUND, "nobody waits for this answer".into()));
    }
    let body =
        if request.method() == Method::HEAD { Bytes::new() } else { bytes(asker, request, MAX_ANSWER_LEN).await? };
    if state.answered(id, body) {
        Ok(Response::new(full(Bytes::new())))
    } else {
        Err(Problem(StatusCode::NOT_FOUND, "nobody waits for this answer".into()))
    }
}

async fn bytes(asker: &ChannelPeer, request: Request<Incoming>, most: usize) -> Result<Bytes, Problem> {
    let whole = async {
        let _turn = asker.reading.lock().await;
        Limited::new(request.into_body(), most).collect().await
    };
    let whole = tokio::time::timeout(REQUEST_TIMEOUT, whole).await;
    let whole = whole.map_err(|_| Problem(StatusCode::REQUEST_TIMEOUT, "the request did not come in time".into()))?;
    let whole = whole.map_err(|e| {
        if e.is::<http_body_util::LengthLimitError>() {
            Problem(StatusCode::PAYLOAD_TOO_LARGE, format!("a request has {most} bytes at most"))
        } else {
            Problem(StatusCode::BAD_REQUEST, "the request broke off".into())
        }
    })?;
    Ok(whole.to_bytes())
}

async fn read<T: DeserializeOwned>(
    state: &ControlState,
    asker: &ChannelPeer,
    request: Request<Incoming>,
) -> Result<T, Problem> {
    let known = state.registry.now().knows(&asker.machine);
    let body = bytes(asker, request, if known { BODY } else { BODY_OF_STRANGER }).await?;
    serde_json::from_slice(&body)
        .map_err(|e| Problem(StatusCode::BAD_REQUEST, format!("the request is not understood: {e}")))
}

fn json<T: serde::Serialize>(value: &T) -> Answered {
    let text = serde_json::to_vec(value).map_err(|e| Problem(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))?;
    Ok(answer::with(StatusCode::OK, Media::Json, full(text)))
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

/// What a page and `nodes approve` call a waiting node: hard to guess, short enough to read out.
fn ticket() -> String {
    /// No letter or digit that looks like another one.
    const LETTERS: &[u8; 30] = b"abcdefghjkmnpqrstuvwxyz2345678";
    let random: [u8; 16] = rand::random();
    random.iter().map(|b| char::from(LETTERS[usize::from(*b) % LETTERS.len()])).collect()
}
