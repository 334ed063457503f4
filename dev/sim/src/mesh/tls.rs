//! TLS to a relay that nobody vouches for. In: a connection. Out: the same, encrypted, and the fingerprint of the
//! certificate that was shown, which the caller compares with what the map of relays says.

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::control::Transport;

/// Connects; `host` is a name, or an address, for which no name is sent. Returns the SHA-256 of the certificate, as
/// official clients compute it, in hexadecimal.
///
/// # Errors
/// No TLS, or more than one certificate, which official clients refuse when they pin.
pub async fn tls<S: Transport>(io: S, host: &str) -> Result<(TlsStream<S>, String)> {
    let name = ServerName::try_from(host.to_string())?;
    let stream = TlsConnector::from(stage::tls::config()?).connect(name, io).await?;
    let shown = stream.get_ref().1.peer_certificates().context("no certificate")?;
    // Official relays show a second one that only carries their key.
    let leaf = shown.first().context("no certificate")?;
    ensure!(shown.len() <= 2, "{} certificates", shown.len());
    let hash = digest(&SHA256, leaf).as_ref().iter().map(|b| format!("{b:02x}")).collect();
    Ok((stream, hash))
}
