//! One session of a client. In: a dialler. Out: carriers and idle bulk links, kept up until the session is over.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use net::buffers::Lease;
use net::link::Link;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, warn};
use tunnel_proto::frame::{self, FrameReader, Kind, Open, Part, Reset, ResetCode};
use tunnel_proto::hello::{Hello, Published, Reject, RouteKey, Welcome};
use tunnel_proto::mux::dedicated::{Due, Waiting};
use tunnel_proto::mux::pool;
use tunnel_proto::upstream::UpstreamMatch;
use tunnel_proto::ws::{Role, WsItem, WsReader};

use super::super::bulk::{BulkLink, Home, whole_message};
use super::super::mux::{Carrier, Session};
use super::super::printable;
use super::super::stream::Stream;
use super::super::upgrade::LinkKind;
use super::Backoff;
use super::dial::{DialError, Dialler, random_name};
use super::upstreams::Upstreams;
use runtime::run::{NotReady, Run};

/// Requests of the edge for more bulk links that wait; it never asks for more than [`pool::MAX`] in all.
const DIAL_QUEUE: usize = pool::MAX as usize;

/// The session as its carriers see it.
struct ClientSession {
    key: String,
    upstreams: Arc<Upstreams>,
    run: Run,
    dial: mpsc::Sender<u32>,
    carriers: Mutex<Vec<Arc<Carrier>>>,
    leaving: tokio_util::sync::CancellationToken,
}

impl Session for ClientSession {
    fn open(&self, carrier: &Arc<Carrier>, stream: u32, payload: &[u8]) -> Result<(), String> {
        let open = Open::parse(payload).map_err(|e| e.to_string())?;
        let Some(upstream) = self.upstreams.get(open.upstream) else {
            let words = format!("this client publishes no upstream number {}", open.upstream);
            carrier.refuse(stream, &Reset { code: ResetCode::Unknown, words });
            return Ok(());
        };
        if let Some(stream) = Stream::accept(carrier, stream) {
            let upstreams = self.upstreams.clone();
            self.run.connection("visitor", open.visitor, async move { upstreams.serve(upstream, stream).await });
        }
        Ok(())
    }

    fn control(&self, kind: Kind, payload: &[u8]) -> Result<(), String> {
        match kind {
            Kind::Dial => {
                let more = frame::parse_u32(kind, payload).map_err(|e| e.to_string())?;
                // A full queue means that many are being dialled already.
                let _ = self.dial.try_send(more);
                Ok(())
            }
            Kind::GoAway => {
                info!("edge draining: finishing what runs, then connecting again");
                self.leaving.cancel();
                Ok(())
            }
            _ => Err(format!("a {kind:?} frame where none belongs")),
        }
    }
}

/// Begins a session and keeps it up; the words say why it is over.
pub(super) async fn run(
    dialler: &Arc<Dialler>,
    upstreams: &Arc<Upstreams>,
    run: &Run,
    ready: &mut Option<NotReady>,
) -> Result<String, DialError> {
    let key = random_name();
    let dial = dialler.link(&key, LinkKind::Carrier(0));
    let mut link = tokio::select! {
        link = dial => link?,
        () = run.stopping() => return Ok("stopped".to_string()),
    };
    let hello = hello(dialler);
    let bytes = whole_message(Role::Client, Kind::Hello, &tunnel_proto::hello::bytes(&hello));
    link.write.write_all(&bytes).await.map_err(anyhow::Error::from)?;
    let (mut ws, mut frames) = (WsReader::default(), FrameReader::default());
    let read = read_welcome(&mut link, &mut ws, &mut frames);
    /// The edge only has to open its ports.
    const WELCOME: Duration = Duration::from_secs(10);
    let welcome = tokio::time::timeout(WELCOME, read)
        .await
        .map_err(|_| DialError::Again(anyhow!("the edge did not answer the hello in 10 s")))??;
    let lacks: Vec<_> = hello.needs().into_iter().filter(|n| !welcome.features.iter().any(|f| f == n)).collect();
    if !lacks.is_empty() {
        let what = lacks.iter().map(|l| words_of(l)).collect::<Vec<_>>().join(", ");
        let program = printable(&welcome.program);
        return Err(DialError::Final(anyhow!("the edge ({program}) is too old for {what}: update it")));
    }
    let (dial, asked) = mpsc::channel(DIAL_QUEUE);
    let session = Arc::new(ClientSession {
        key,
        upstreams: upstreams.clone(),
        run: run.clone(),
        dial,
        carriers: Mutex::default(),
        leaving: tokio_util::sync::CancellationToken::new(),
    });
    info!(edge = %dialler.settings.url, version = printable(&welcome.program), "connected to the edge");
    for line in welcome.published.iter().take(tunnel_proto::hello::UPSTREAMS_MAX) {
        info!(upstream = printable(line), "published");
    }
    for words in welcome.warnings.iter().take(tunnel_proto::hello::UPSTREAMS_MAX) {
        warn!(warning = printable(words), "the edge warns");
    }
    if let Some(ready) = ready.take() {
        ready.ready();
    }
    let why = keep_up(dialler, &session, link, ws, frames, welcome.bulk, asked).await;
    // Carriers know their session and the session its carriers: the circle is opened here.
    session.carriers.lock().clear();
    Ok(why)
}

/// What a person calls a feature of an edge.
fn words_of(feature: &str) -> &str {
    match feature {
        "h2" => "`h2c://` upstreams",
        "rewrite" => "changed headers (--host-header and its like)",
        "wildcard" => "hosts with `*.`",
        other => other,
    }
}

fn hello(dialler: &Dialler) -> Hello {
    let publish = |u: &tunnel_proto::upstream::Upstream| {
        let (ask, http) = match &u.ask {
            UpstreamMatch::Port(port) => (RouteKey::Port(*port), false),
            UpstreamMatch::Http { host, path } => {
                (RouteKey::Http { host: host.clone().unwrap_or_default(), path: path.clone() }, true)
            }
        };
        let scheme = if http { u.to.scheme() } else { "" };
        Published {
            ask,
            name: format!("{scheme}{}", u.to),
            h2: u.to.h2,
            alpn: http && u.to.tls,
            rewrite: u.rewrite.clone(),
        }
    };
    Hello {
        version: tunnel_proto::hello::VERSION,
        program: env!("CARGO_PKG_VERSION").to_string(),
        host: String::from_utf8_lossy(rustix::system::uname().nodename().to_bytes()).into_owned(),
        upstreams: dialler.settings.upstreams.iter().map(publish).collect(),
        demux: dialler.settings.demux,
    }
}

async fn read_welcome(link: &mut Link, ws: &mut WsReader, frames: &mut FrameReader) -> Result<Welcome, DialError> {
    let mut plain = Lease::new();
    loop {
        if link.read.fill(&mut plain).await.map_err(anyhow::Error::from)? == 0 {
            return Err(DialError::Again(anyhow!("the edge closed the connection before its welcome")));
        }
        let mut input = plain.filled_mut();
        while let Some(item) = ws.next(&mut input).map_err(anyhow::Error::from)? {
            let WsItem::Payload(mut payload) = item else {
                return Err(DialError::Again(anyhow!("the connection was closed before the edge's welcome")));
            };
            match frames.next(&mut payload).map_err(anyhow::Error::from)? {
                None => {}
                Some(Part::Control(Kind::Welcome, _, bytes)) => {
                    // The welcome is a message of its own; what follows is for the carrier.
                    if !payload.is_empty() {
                        return Err(DialError::Again(anyhow!("the edge said more than its welcome")));
                    }
                    link.read.unread(input);
                    return serde_json::from_slice(&bytes)
                        .map_err(|e| DialError::Again(anyhow!("the edge's welcome is not understood: {e}")));
                }
                Some(Part::Control(Kind::Reject, _, bytes)) => {
                    let reject: Reject = serde_json::from_slice(&bytes)
                        .map_err(|e| DialError::Again(anyhow!("the edge's refusal is not understood: {e}")))?;
                    let e = anyhow!("the edge refuses: {}", printable(&reject.reason));
                    return Err(if reject.is_final { DialError::Final(e) } else { DialError::Again(e) });
                }
                Some(part) => return Err(DialError::Again(anyhow!("{part:?} where a welcome belongs"))),
            }
        }
        plain.clear();
    }
}

/// Runs carrier 0 with the link that began the session, dials the others and the bulk links.
async fn keep_up(
    dialler: &Arc<Dialler>,
    session: &Arc<ClientSession>,
    link: Link,
    ws: WsReader,
    frames: FrameReader,
    bulk: u32,
    mut asked: mpsc::Receiver<u32>,
) -> String {
    // Everything that belongs to the session ends with this set.
    let mut tasks = tokio::task::JoinSet::new();
    let (over, mut is_over) = mpsc::channel::<String>(1);
    for no in 0..dialler.settings.carriers.max(1) {
        let first = (no == 0).then_some(());
        let (dialler, session, over) = (dialler.clone(), session.clone(), over.clone());
        if first.is_none() {
            tasks.spawn(async move { carrier(&dialler, &session, no, None, &over).await });
        }
    }
    {
        let (dialler, session, over) = (dialler.clone(), session.clone(), over.clone());
        tasks.spawn(async move { carrier(&dialler, &session, 0, Some((link, ws, frames)), &over).await });
    }
    for _ in 0..bulk.min(pool::MAX) {
        tasks.spawn(bulk_link(dialler.clone(), session.clone()));
    }
    let drained = drained(session);
    tokio::pin!(drained);
    loop {
        tokio::select! {
            Some(why) = is_over.recv() => return why,
            () = &mut drained => return "stopped".to_string(),
            Some(more) = asked.recv() => {
                for _ in 0..more.min(pool::MAX) {
                    if tasks.len() > pool::MAX as usize + usize::from(dialler.settings.carriers) {
                        break;
                    }
                    tasks.spawn(bulk_link(dialler.clone(), session.clone()));
                }
            }
            Some(_) = tasks.join_next() => {}
            () = session.leaving.cancelled() => {
                // The edge drains: it gives what runs its time and then ends the carriers.
                tokio::select! {
                    Some(why) = is_over.recv() => return why,
                    () = &mut drained => return "stopped".to_string(),
                }
            }
        }
    }
}

/// Ends when the run stops and the session carries nothing any more.
async fn drained(session: &ClientSession) {
    /// Often enough that nobody waits for a stop, seldom enough to cost nothing.
    const POLL_INTERVAL: Duration = Duration::from_millis(50);
    session.run.stopping().await;
    if let Some(carrier) = session.carriers.lock().first() {
        // The edge lets go of idle streams and sends no new visitors.
        carrier.push(Kind::GoAway, &[]);
    }
    while session.carriers.lock().iter().map(|c| c.load()).sum::<usize>() > 0 {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Keeps one carrier up. The session is over when the edge has forgotten it or no carrier is left.
async fn carrier(
    dialler: &Arc<Dialler>,
    session: &Arc<ClientSession>,
    no: u8,
    first: Option<(Link, WsReader, FrameReader)>,
    over: &mpsc::Sender<String>,
) {
    let mut ready = first;
    let mut retry = Backoff::default();
    loop {
        let (link, ws, frames) = match ready.take() {
            Some(ready) => ready,
            None => match dialler.link(&session.key, LinkKind::Carrier(no)).await {
                Ok(link) => (link, WsReader::default(), FrameReader::default()),
                Err(DialError::Final(e)) => return end(over, format!("{e:#}")).await,
                Err(DialError::Again(e)) => {
                    if session.carriers.lock().is_empty() {
                        return end(over, format!("{e:#}")).await;
                    }
                    debug!(link = no, err = format!("{e:#}"), "cannot connect");
                    tokio::time::sleep(retry.next()).await;
                    continue;
                }
            },
        };
        let carrier = Carrier::new(no, Role::Client, session.clone());
        session.carriers.lock().push(carrier.clone());
        let why = carrier.run(link, ws, frames).await;
        let last = {
            let mut carriers = session.carriers.lock();
            carriers.retain(|c| !Arc::ptr_eq(c, &carrier));
            carriers.is_empty()
        };
        debug!(link = no, why, "link closed");
        if last || session.leaving.is_cancelled() {
            return end(over, why).await;
        }
    }
}

async fn end(over: &mpsc::Sender<String>, why: String) {
    // Nobody listens once the session is over.
    let _ = over.send(why).await;
}

/// Dials one bulk link and serves streams on it until it breaks.
async fn bulk_link(dialler: Arc<Dialler>, session: Arc<ClientSession>) {
    let link = match dialler.link(&session.key, LinkKind::Bulk).await {
        Ok(link) => link,
        Err(DialError::Final(e) | DialError::Again(e)) => {
            debug!(err = format!("{e:#}"), "no dedicated link");
            return;
        }
    };
    let mut link = BulkLink::new(link, Role::Client);
    loop {
        let (carrier, stream) = match wait_for_stream(&session, &mut link).await {
            Ok(bound) => bound,
            Err(why) => {
                debug!(why, "dedicated link closed");
                return;
            }
        };
        let (home, back) = oneshot::channel();
        carrier.bind(stream, link, Home::new(move |link| drop(home.send(link))));
        drop(carrier);
        match back.await {
            Ok(Some(returned)) => link = returned,
            _ => return,
        }
    }
}

/// Waits until the edge binds the link, then for the stream: the link may overtake the carrier that opens it.
async fn wait_for_stream(session: &ClientSession, link: &mut BulkLink) -> Result<(Arc<Carrier>, u32), String> {
    let mut waiting = Waiting::begin(Instant::now());
    while matches!(waiting, Waiting::Bind(_)) {
        tokio::select! {
            frame = std::future::poll_fn(|cx| link.read.poll_next(cx)) => {
                let frame = frame.map_err(|e| e.to_string())?;
                if let Err(why) = waiting.handle_frame(&frame, Instant::now()) {
                    let Some(misuse) = why else { return Err("closed".to_string()) };
                    warn!(err = %misuse, "the edge broke the protocol");
                    return Err(misuse.to_string());
                }
            }
            () = tokio::time::sleep_until(waiting.poll_timeout().into()) => {
                if waiting.handle_timeout(Instant::now()) == Due::Ping {
                    link.write.say(Kind::Ping).await.map_err(|e| e.to_string())?;
                }
            }
        }
    }
    let Waiting::Stream { carrier, stream, until } = waiting else { return Err("not bound".to_string()) };
    let found = session.carriers.lock().iter().find(|c| c.no == carrier).cloned();
    let carrier = found.ok_or("its carrier is gone")?;
    match tokio::time::timeout_at(until.into(), carrier.opens(stream)).await {
        Ok(true) => Ok((carrier, stream)),
        // The stream was reset meanwhile; the edge drops its half too.
        Ok(false) | Err(_) => Err("its stream is over".to_string()),
    }
}
