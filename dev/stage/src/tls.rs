//! TLS for visitors of a stage. In: a connection and a name. Out: an encrypted stream, from whoever answers: these are
//! visitors of test proxies with certificates made a moment ago.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
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

fn start(socket: TcpStream, name: &str) -> io::Result<Tls> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.map_err(io::Error::other)?;
    let mut config =
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider))).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let name = ServerName::try_from(name.to_string()).map_err(io::Error::other)?;
    let conn = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    Ok(StreamOwned::new(conn, socket))
}

/// Believes every certificate.
#[derive(Debug)]
struct Anybody(Arc<rustls::crypto::CryptoProvider>);

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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
