//! Other settings for a running edge. In: the next settings. Out: the same edge under them: what can fail (listeners,
//! certificates) is prepared first, and nothing changes if it does.

use std::net::SocketAddr;
use std::sync::Arc;

use addr::AddrSet;
use anyhow::Result;
use net::serve::{Limits, Listener};
use net::sockets;
use runtime::reload::Applied;
use tracing::{info, warn};
use tunnel_proto::hello::RouteKey;
use tunnel_proto::http1::forwarded::Trust;

use super::super::settings::{EdgeSettings, EdgeTls};
use super::sessions::EdgeSession;
use super::tokens::Known;
use super::{Edge, EdgeHandle, Loaded, control, listen, load_tls, owners, ports, visitors_max, web};

/// The next settings of an edge, and what they need.
pub struct Prepared {
    settings: EdgeSettings,
    control: Option<Listener>,
    http: Option<Listener>,
    tls: Option<Loaded>,
    restart: Vec<&'static str>,
}

impl EdgeHandle {
    /// Makes everything ready that the next settings need.
    ///
    /// # Errors
    /// An address cannot be had, or a certificate not be read; the edge goes on as it was.
    pub fn prepare(&self, next: EdgeSettings) -> Result<Prepared> {
        let now = self.edge.settings();
        let mut next = next;
        let mut restart = Vec::new();
        let own = [Some(self.edge.listening().0), self.edge.listening().1];
        let ours = |at: SocketAddr| at.port() != 0 && own.iter().flatten().any(|o| o.port() == at.port());
        let mut control = None;
        if next.control != now.control {
            // Another address at a port that is ours cannot be bound before the old one is given up.
            if ours(next.control) {
                restart.push("control_addr");
                next.control = now.control;
            } else {
                control = Some(listen("control plane", next.control, "clients (control_addr, control_port)")?);
            }
        }
        let mut http = None;
        if next.http != now.http
            && let Some(at) = next.http
        {
            if ours(at) {
                restart.push("data_addr");
                next.http = now.http;
                next.tcp = next.tcp.map(|t| super::super::settings::TcpPlane {
                    addr: now.tcp.as_ref().map_or(t.addr, |n| n.addr),
                    ..t
                });
            } else {
                http = Some(listen("http plane", at, "visitors (data_addr, port)")?);
            }
        }
        // A certificate of one's own may be another under the same name.
        let tls = (next.tls != now.tls || matches!(next.tls, EdgeTls::Own { .. })).then(|| load_tls(&next.tls));
        let known = self.edge.certificate.lock().clone();
        let tls = tls.transpose()?.filter(|loaded| next.tls != now.tls || loaded.digest != known);
        Ok(Prepared { settings: next, control, http, tls, restart })
    }

    /// Puts prepared settings into force.
    pub fn apply(&self, prepared: Prepared) -> Applied {
        let edge = &self.edge;
        let Prepared { settings, control, http, tls, restart } = prepared;
        let before = edge.settings();
        let next = Arc::new(settings);
        let mut changed = Vec::new();
        let (tokens, difference) = edge.tokens.read().next(&next.tokens, &edge.admission);
        // In force before anybody inside is looked at: who comes in from here on is judged by them.
        *edge.tokens.write() = Arc::new(tokens);
        edge.settings.send_replace(next.clone());
        changed.extend(difference.words());
        changed.extend(self.trust(&before, &next));
        changed.extend(limits(edge, &before, &next));
        if let Some(tls) = tls {
            changed.extend(self.certify(tls));
        }
        if let Some(listener) = control {
            changed.push(format!("control plane on {}", next.control));
            edge.serve_control(listener);
        }
        match (http, next.http) {
            (Some(listener), Some(at)) => {
                changed.push(format!("http plane on {at}"));
                edge.serve_http(listener);
            }
            (None, None) if before.http.is_some() => {
                changed.push("http plane closed".to_string());
                edge.close_http();
            }
            _ => {}
        }
        if before.tcp != next.tcp {
            changed.push(next.tcp.as_ref().map_or_else(
                || "tcp ports closed".to_string(),
                |t| format!("tcp ports {} on {}", t.allow_ports, t.addr),
            ));
            let moved = before.tcp.as_ref().map(|t| t.addr) != next.tcp.as_ref().map(|t| t.addr);
            ports::close_if(edge, |port| moved || next.tcp.as_ref().is_none_or(|t| !t.allow_ports.contains(port)));
        }
        let ended = sweep(edge, &before, &next);
        if ended > 0 {
            changed.push(format!("{ended} sessions ended"));
        }
        Applied { changed, restart }
    }

    /// Whom the planes believe from now on.
    fn trust(&self, before: &EdgeSettings, next: &EdgeSettings) -> Option<String> {
        let same = |a: &AddrSet, b: &AddrSet| a.prefixes() == b.prefixes();
        let proxies = same(&before.trusted_proxies, &next.trusted_proxies);
        let header = before.trusted_header == next.trusted_header && before.identity_fields == next.identity_fields;
        let lines = (before.proxy_protocol, before.lb_proxy_protocol) == (next.proxy_protocol, next.lb_proxy_protocol);
        if proxies && header && lines && before.stall == next.stall {
            return None;
        }
        if let Some(plane) = self.edge.plane.get() {
            let trust = Trust {
                proxies: next.trusted_proxies.clone(),
                header: next.trusted_header,
                identity: next.identity_fields.clone(),
            };
            plane.retell(trust, next.stall);
        }
        let words = [
            (!proxies).then_some("trusted proxies"),
            (!header).then_some("trusted headers"),
            (!lines).then_some("PROXY lines"),
            (before.stall != next.stall).then_some("stall timeout"),
        ];
        Some(words.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }

    /// The certificate from now on; who is connected stays.
    fn certify(&self, Loaded { tls, fingerprint, digest, .. }: Loaded) -> Option<String> {
        if let Some(printed) = self.fingerprint.filter(|p| fingerprint != Some(*p)) {
            let now = fingerprint.map_or_else(|| "none to pin".to_string(), |n| n.to_string());
            warn!(pinned = %printed, fingerprint = now, "clients that pinned the old CA will refuse the new certificate");
        }
        let said = match (&tls, self.edge.tls().is_some()) {
            (Some(_), _) => "certificate read again",
            (None, true) => "control plane without TLS",
            (None, false) => return None,
        };
        *self.edge.tls.write() = tls;
        *self.edge.certificate.lock() = digest;
        Some(said.to_string())
    }
}

/// Limits of visitors, and how long a lost client is waited for.
fn limits(edge: &Edge, before: &EdgeSettings, next: &EdgeSettings) -> Option<String> {
    let of = |s: &EdgeSettings| (s.max_visitors, s.max_visitors_per_source, s.grace);
    if of(before) == of(next) {
        return None;
    }
    edge.visitors.limit(visitor_limits(next));
    edge.table.wait(next.grace);
    Some("limits".to_string())
}

/// The places of visitors, all planes together.
pub(super) fn visitor_limits(settings: &EdgeSettings) -> Limits {
    let total = visitors_max(settings.max_visitors, sockets::files_max());
    Limits { total, per_source: settings.max_visitors_per_source.clamp(1, total), reserve: 0 }
}

/// Ends sessions that would not be let in as they are; their clients come back and are told what they may do. Returns how
/// many.
fn sweep(edge: &Edge, before: &EdgeSettings, next: &EdgeSettings) -> usize {
    let tokens = edge.tokens();
    let moved = before.tcp.as_ref().map(|t| t.addr) != next.tcp.as_ref().map(|t| t.addr);
    let offered = |ask: &RouteKey| match ask {
        RouteKey::Http { .. } => next.http.is_some(),
        RouteKey::Port(port) => next.tcp.as_ref().is_some_and(|t| t.allow_ports.contains(*port)),
    };
    let may = |known: &Known, ask: &RouteKey| {
        owners::may(&known.token.rights, &known.token.name, ask).is_ok() && offered(ask)
    };
    let mut ended = 0;
    for session in edge.table.sessions() {
        let Some(known) = tokens.get(session.token()) else {
            // Nobody of that token is expected back.
            edge.table.remove(&session);
            end(edge, &session, "its token is no longer one of this edge's");
            ended += 1;
            continue;
        };
        let was_guarded = before.tokens.iter().any(|t| t.name == known.token.name && t.guarded);
        let stays = |ask: &RouteKey| may(known, ask) && !(moved && matches!(ask, RouteKey::Port(_)));
        if !session.asks().all(stays) || (known.token.guarded && !was_guarded) {
            edge.table.leave(&session);
            end(edge, &session, "what it may publish here has changed");
            ended += 1;
        }
    }
    edge.table.forget(|token, ask| !tokens.get(token).is_some_and(|known| may(known, ask)));
    ended
}

fn end(edge: &Edge, session: &EdgeSession, why: &str) {
    info!(client = session.hello.host, why, "client session closed");
    session.end(why);
    if let Some(plane) = edge.plane.get() {
        plane.forget(session.id);
    }
}

impl Edge {
    /// Serves clients at this listener from now on, and no longer at the one before.
    pub(super) fn serve_control(self: &Arc<Edge>, listener: Listener) {
        let close = self.planes.lock().control.replace(&listener);
        self.run.spawn("control plane", control::accept(self.clone(), listener, close));
    }

    /// Serves visitors at this listener from now on, and no longer at the one before.
    pub(super) fn serve_http(self: &Arc<Edge>, listener: Listener) {
        let Some(plane) = self.plane.get().cloned() else { return };
        let close = self.planes.lock().http.replace(&listener);
        self.run.spawn("http plane", web::accept(self.clone(), plane, listener, close));
    }

    fn close_http(&self) {
        self.planes.lock().http.close();
    }
}
