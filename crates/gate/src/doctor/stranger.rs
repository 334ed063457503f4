//! A visitor without a certificate and with forged headers, by whom a doctor asks a site. In: the site. Out: what the gate
//! believed of it. It teaches nothing: its requests are known by their user agent and only noted.

use std::time::Duration;

use addr::Addr;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;

use super::diagnosis::Stranger;
use super::finding::{Finding, FindingId};
use crate::answer::text;
use crate::asked::{Cert, LEARN, Peer, holder};
use crate::intake::{Serves, named};
use crate::probe::{self, Answer};
use crate::state::GateState;
use runtime::fetch::Base;

/// How long a mirrored request may take to arrive after the site's answer.
const ARRIVES: Duration = Duration::from_millis(1_500);
/// How long a site may take to answer the doctor.
const ANSWERS: Duration = Duration::from_secs(5);
const AGENT: &str = "portcullis-doctor/";
const FORGED: &str = "192.0.2.113";
/// A visitor's query, which proxies pass on to the gate: none of it may mean anything there.
const QUERY: &str = "cert=traefik&certificate=traefik&protocol=http&container_name_port=doctor";
/// Asks a site as a stranger would, and waits for what the gate hears of it.
pub(super) async fn ask(state: &GateState, site: &Base) -> Vec<Finding> {
    let Ok(forged) = FORGED.parse::<Addr>() else { return Vec::new() };
    let agent = format!("{AGENT}{:032x}", rand::random::<u128>());
    let stranger = Stranger { agent: agent.clone(), forged, believed: None, named: None, placed: false };
    *state.diagnosis.stranger.lock() = Some(stranger);
    let forwarded = format!("for={FORGED}");
    let headers = [
        ("User-Agent", agent.as_str()),
        ("X-Forwarded-For", FORGED),
        ("Forwarded", forwarded.as_str()),
        ("X-Real-IP", FORGED),
        ("X-Gate-Cert-Subject", "CN=portcullis-doctor"),
        ("X-Gate-Cert-Fp", "00"),
        ("X-Forwarded-Tls-Client-Cert-Info", "Subject%3D%22CN%3Dportcullis-doctor%22%3BSerialNumber%3D%220%22"),
    ];
    let path = format!("{}{}{QUERY}", site.path, if site.path.contains('?') { '&' } else { '?' });
    let answer = probe::ask(site, &path, &headers, ANSWERS).await;
    if matches!(answer, Answer::Answered) {
        tokio::time::sleep(ARRIVES).await;
    }
    let seen = state.diagnosis.stranger.lock().take();
    let mut found = Vec::new();
    let Some(seen) = seen else { return found };
    if let Some(endpoint) = seen.believed {
        found.push(Finding::new(
            FindingId::SiteWithoutCertificate,
            format!("{site} takes visitors without a certificate for proven: its {endpoint} believed one"),
            "demand it: Traefik `clientAuthType: RequireAndVerifyClientCert` in the router's TLS options, Caddy `mode require_and_verify`, nginx `ssl_verify_client on`",
        ));
    }
    if let Some(endpoint) = seen.named {
        found.push(Finding::new(
            FindingId::SiteCertificateHeader,
            format!("{site} passes a visitor's own certificate headers on: its {endpoint} believed one"),
            "let the proxy write them itself (nginx: proxy_set_header X-Gate-Cert-Subject $ssl_client_s_dn; Caddy: header_up; Traefik: passTLSClientCert before the forwardAuth)",
        ));
    }
    if seen.placed {
        found.push(Finding::new(
            FindingId::SiteAddressHeader,
            format!("{site} passes a visitor's own {} on: anybody can be anywhere", state.proxies.header.name()),
            "Traefik: no `forwardedHeaders.insecure`, and only the proxies in front of it in `trustedIPs`; nginx: proxy_set_header X-Forwarded-For $remote_addr; Caddy: only real proxies in `trusted_proxies`",
        ));
    }
    if let Answer::Nothing(e) = answer {
        found.push(Finding::new(
            FindingId::SiteUnreachable,
            format!("{site} could not be asked: {e:#}"),
            "is the URL right, as seen from the gate?",
        ));
    }
    found
}

impl GateState {
    /// The answer to a request of the doctor's stranger; `None` for everybody else.
    pub(crate) fn strangers(
        &self,
        serves: &Serves,
        peer: Peer,
        request: &Request<Incoming>,
    ) -> Option<Response<Full<Bytes>>> {
        let headers = request.headers();
        let agent = headers.get(header::USER_AGENT)?.to_str().ok()?;
        if !agent.starts_with(AGENT) {
            return None;
        }
        let mut stranger = self.diagnosis.stranger.lock();
        let s = stranger.as_mut().filter(|s| s.agent == agent)?;
        // Nobody who is not believed proves or places anything.
        if let Ok(visitor) = self.proxies.visitor(peer, headers) {
            s.placed |= visitor.addr == s.forged;
            let name = serves.name();
            // The stranger has no certificate: whoever it is taken for is a mistake.
            let taken = |cert: Cert| holder(headers, cert).is_ok();
            match serves {
                Serves::Mirror { cert, .. } => {
                    s.believed = Some(name.clone());
                    if cert.is_some_and(taken) {
                        s.named = Some(name);
                    }
                }
                Serves::Gatekeeper { .. } => s.believed = Some(name),
                Serves::Learn { cert, .. } if taken(*cert) => s.named = Some(name),
                Serves::Check { learn, .. } => {
                    let list = named(request.uri().path(), LEARN).map(|(list, _)| list);
                    if learn.iter().any(|(l, cert)| list == Some(l.as_str()) && taken(*cert)) {
                        s.named = Some(format!("{LEARN}{}", list.unwrap_or_default()));
                    }
                }
                Serves::Learn { .. } | Serves::Share => {}
            }
        }
        Some(text(StatusCode::FORBIDDEN, "the doctor was here\n"))
    }
}
