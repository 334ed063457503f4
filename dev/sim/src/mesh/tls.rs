//! TLS to a relay that nobody vouches for. In: a connection. Out: the same, encrypted, and the fingerprint of the
//! certificate that was shown, which the caller compares with what the map of relays says.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::control::Transport;

/// Connects; `host` is a name, or an address, for which no name is sent. Returns the SHA-256 of the certificate, as
/// official clients compute it, in hexadecimal.
///
/// # Errors
/// No TLS, or more than one certificate, which official clients refuse when they pin.
pub async fn tls<S: Transport>(io: S, host: &str) -> Result<(TlsStream<S>, String)> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from(host.to_string())?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, io).await?;
    let shown = stream.get_ref().1.peer_certificates().context("no certificate")?;
    // Official relays show a second one that only carries their key.
    let leaf = shown.first().context("no certificate")?;
    ensure!(shown.len() <= 2, "{} certificates", shown.len());
    let hash = digest(&SHA256, leaf).as_ref().iter().map(|b| format!("{b:02x}")).collect();
    Ok((stream, hash))
}

#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
