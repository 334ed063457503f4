//! What the relay answers over HTTP. In: requests to `/derp` and its neighbours. Out: responses, and for an upgrade the
//! future that serves it. The server must be HTTP/1.1 with upgrades. Paths and headers are those of Tailscale's
//! `derp/derpserver/handler.go`.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;

use bytes::Bytes;
use http::header::{ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONNECTION, HeaderName, HeaderValue, UPGRADE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use runtime::answer;
use tracing::debug;

use super::relay::Relay;

/// A client that saw a meta certificate asks for no answer; we send none, so nobody has a reason to ask.
const FAST_START: HeaderName = HeaderName::from_static("derp-fast-start");
const VERSION: HeaderName = HeaderName::from_static("derp-version");
const PUBLIC_KEY: HeaderName = HeaderName::from_static("derp-public-key");
const CHALLENGE: HeaderName = HeaderName::from_static("x-tailscale-challenge");
const CHALLENGE_RESPONSE: HeaderName = HeaderName::from_static("x-tailscale-response");

/// Longest challenge that is given back.
const CHALLENGE_MAX: usize = 64;

/// The response, and what is to be run after it.
pub struct Answer {
    /// To be sent.
    pub response: Response<Full<Bytes>>,
    /// Serves the upgraded connection until its end; to be run as a task of its own, at once.
    pub serve: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// Answers a request to one of the relay's paths; nothing for any other path.
pub fn answer<B>(relay: &Relay, request: &mut Request<B>, remote: SocketAddr) -> Option<Answer> {
    let response = match request.uri().path() {
        "/derp" => return Some(upgrade(relay, request, remote)),
        "/derp/probe" | "/derp/latency-check" => match *request.method() {
            Method::GET | Method::HEAD => {
                let mut response = answer::empty(StatusCode::OK);
                response.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
                response
            }
            _ => answer::text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD, please\n"),
        },
        "/generate_204" => no_content(request.headers()),
        _ => return None,
    };
    Some(Answer { response, serve: None })
}

fn upgrade<B>(relay: &Relay, request: &mut Request<B>, remote: SocketAddr) -> Answer {
    let refuse = |status, text: &'static str| Answer { response: answer::text(status, text), serve: None };
    let wanted = request.headers().get(UPGRADE).is_some_and(|u| u.as_bytes().eq_ignore_ascii_case(b"derp"));
    if !wanted {
        return refuse(StatusCode::UPGRADE_REQUIRED, "this is a relay: `Upgrade: DERP` is wanted\n");
    }
    if !matches!(*request.method(), Method::GET | Method::POST) {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "GET or POST, please\n");
    }
    if request.headers().contains_key(FAST_START) {
        return refuse(StatusCode::BAD_REQUEST, "no fast start without a meta certificate\n");
    }
    let mut response = answer::empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("DERP"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(VERSION, HeaderValue::from(tailnet_proto::derp::VERSION));
    let key = relay.key().to_string();
    if let Ok(key) = HeaderValue::from_str(key.trim_start_matches("nodekey:")) {
        headers.insert(PUBLIC_KEY, key);
    }
    let (relay, upgraded) = (relay.clone(), hyper::upgrade::on(request));
    let serve = async move {
        match upgraded.await {
            Ok(io) => relay.serve(TokioIo::new(io), [], remote).await,
            Err(e) => debug!(%remote, err = %e, "relay: upgrade failed"),
        }
    };
    Answer { response, serve: Some(Box::pin(serve)) }
}

/// What clients ask to find out whether something between them and us answers in our place.
fn no_content(headers: &HeaderMap) -> Response<Full<Bytes>> {
    let mut response = answer::empty(StatusCode::NO_CONTENT);
    let harmless = |c: &u8| c.is_ascii_alphanumeric() || b".-_:".contains(c);
    if let Some(challenge) = headers.get(CHALLENGE).map(HeaderValue::as_bytes)
        && challenge.len() <= CHALLENGE_MAX
        && challenge.iter().all(harmless)
        && let Ok(value) = HeaderValue::from_bytes(&[b"response ", challenge].concat())
    {
        response.headers_mut().insert(CHALLENGE_RESPONSE, value);
    }
    let never = HeaderValue::from_static("no-cache, no-store, must-revalidate, no-transform, max-age=0");
    response.headers_mut().insert(CACHE_CONTROL, never);
    response
}

#[cfg(test)]
mod tests {
    use tailnet_proto::meshkey::NodePrivate;

    use super::*;

    fn ask(method: &str, path: &str, headers: &[(&str, &str)]) -> Option<Answer> {
        let relay = Relay::new(NodePrivate::from_random([1; 32]), |_| true);
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answer(&relay, &mut request.body(()).unwrap(), "192.0.2.1:1".parse().unwrap())
    }

    fn status(method: &str, path: &str, headers: &[(&str, &str)]) -> u16 {
        ask(method, path, headers).unwrap().response.status().as_u16()
    }

    #[test]
    fn probes_and_wrong_requests_are_answered() {
        assert_eq!(status("GET", "/derp/probe", &[]), 200);
        assert_eq!(status("HEAD", "/derp/latency-check", &[]), 200);
        assert_eq!(status("POST", "/derp/probe", &[]), 405);
        assert_eq!(status("GET", "/derp", &[]), 426);
        assert_eq!(status("GET", "/derp", &[("upgrade", "websocket")]), 426);
        assert_eq!(status("PUT", "/derp", &[("upgrade", "DERP")]), 405);
        assert_eq!(status("GET", "/derp", &[("upgrade", "DERP"), ("derp-fast-start", "1")]), 400);
        assert!(ask("GET", "/derpx", &[]).is_none());
        let upgraded = ask("GET", "/derp", &[("upgrade", "DERP"), ("connection", "Upgrade")]).unwrap();
        assert_eq!(upgraded.response.status(), 101);
        assert_eq!(upgraded.response.headers()["derp-version"], "2");
        assert_eq!(upgraded.response.headers()["derp-public-key"].len(), 64);
        assert!(upgraded.serve.is_some());
    }

    #[test]
    fn challenges_come_back_unless_they_could_harm() {
        let said = |challenge| {
            let answer = ask("GET", "/generate_204", &[("x-tailscale-challenge", challenge)]).unwrap();
            assert_eq!(answer.response.status(), 204);
            answer.response.headers().get("x-tailscale-response").map(|v| v.to_str().unwrap().to_string())
        };
        assert_eq!(said("ts_derp.example:1"), Some("response ts_derp.example:1".into()));
        assert_eq!(said("<script>"), None);
        assert_eq!(said(&"a".repeat(65)), None);
    }
}
