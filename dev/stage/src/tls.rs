//! TLS for visitors of a stage. In: a connection and a name. Out: an encrypted stream, from whoever answers: these are
//! visitors of test proxies with certificates made a moment ago.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned};

/// An encrypted stream.
pub type Tls = StreamOwned<ClientConnection, TcpStream>;

/// Connects, offering only HTTP/1.1.
///
/// # Errors
/// No connection, or no handshake.
pub fn connect(addr: SocketAddr, name: &str) -> io::Result<Tls> {
    over(crate::http::tcp(addr)?, name)
}

/// The same over a connection that stands.
///
/// # Errors
/// No handshake.
pub fn over(socket: TcpStream, name: &str) -> io::Result<Tls> {
    let mut stream = start(socket, name)?;
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

/// The certificates that a server shows, leaf first.
///
/// # Errors
/// No connection, or no handshake.
pub fn certificates(addr: SocketAddr, name: &str) -> io::Result<Vec<Vec<u8>>> {
    let stream = connect(addr, name)?;
    Ok(stream.conn.peer_certificates().unwrap_or_default().iter().map(|c| c.to_vec()).collect())
}

/// What a client that believes every certificate asks for: HTTP/1.1.
///
/// # Errors
/// The library knows no version of TLS that its algorithms can do.
pub fn config() -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let verifier = Arc::new(Anybody(provider));
    let mut config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn start(socket: TcpStream, name: &str) -> io::Result<Tls> {
    let name = ServerName::try_from(name.to_string()).map_err(io::Error::other)?;
    let conn = ClientConnection::new(config().map_err(io::Error::other)?, name).map_err(io::Error::other)?;
    Ok(StreamOwned::new(conn, socket))
}

/// Believes every certificate, whose key must have signed the handshake.
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
