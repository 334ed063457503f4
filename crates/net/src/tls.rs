//! Certificates and trust. In: settings. Out: rustls configurations: for an edge with its own CA, for an edge with a
//! given certificate, for a client that pins a fingerprint or trusts what the system trusts.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use addr::Diagnostic;
use anyhow::{Context as _, Result, bail};
use aws_lc_rs::digest;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs as provider};
use rustls::{
    CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

/// SHA-256 of a certificate in DER.
pub type Digest = [u8; 32];

/// How long the edge's own certificates are valid. They are trusted by pin alone, so that a short life would only
/// break tunnels; the leaf is made anew at every start.
const YEARS: i32 = 10;

/// The crypto of this program: aws-lc-rs, AES-128-GCM first where the processor has AES (five times cheaper than
/// ChaCha20 there), ChaCha20 first where it has not.
#[must_use]
pub fn crypto() -> CryptoProvider {
    let mut crypto = provider::default_provider();
    let aes = has_aes();
    crypto.cipher_suites.sort_by_key(|suite| match suite.suite() {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => u8::from(!aes),
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => u8::from(aes) * 2,
        CipherSuite::TLS13_AES_256_GCM_SHA384 => 2,
        _ => 3,
    });
    crypto
}

/// Fingerprint of a certificate.
#[must_use]
pub fn fingerprint(der: &[u8]) -> Digest {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, der).as_ref());
    out
}

/// An edge's configuration with its own CA, made in `dir` at the first start, and the CA's fingerprint.
///
/// # Errors
/// The directory cannot be written, or what is in it is damaged.
pub fn own_ca(dir: &Path, sans: &[String]) -> Result<(Arc<ServerConfig>, Digest)> {
    make_private_dir(dir)?;
    let (ca_path, key_path) = (dir.join("ca.crt"), dir.join("ca.key"));
    if !ca_path.exists() || !key_path.exists() {
        if ca_path.exists() != key_path.exists() {
            return Err(Diagnostic::new(
                format!("{} has only one of ca.crt and ca.key", dir.display()),
                "put the other one back, or remove both for a new CA (clients must then pin the new fingerprint)",
            )
            .into());
        }
        make_ca(&ca_path, &key_path)?;
    }
    let ca_pem = fs::read_to_string(&ca_path).with_context(|| format!("cannot read {}", ca_path.display()))?;
    let key_pem = fs::read_to_string(&key_path).with_context(|| format!("cannot read {}", key_path.display()))?;
    let ca_der = CertificateDer::from_pem_slice(ca_pem.as_bytes())
        .map_err(|e| anyhow::anyhow!("{} holds no certificate in PEM: {e}", ca_path.display()))?;
    let ca_key = KeyPair::from_pem(&key_pem).with_context(|| format!("{} holds no key in PEM", key_path.display()))?;
    let issuer = Issuer::from_ca_cert_der(&ca_der, ca_key)
        .with_context(|| format!("{} and {} do not belong together", ca_path.display(), key_path.display()))?;
    let (leaf, leaf_key) = make_leaf(&issuer, sans)?;
    let digest = fingerprint(&ca_der);
    let config = server_config(vec![leaf, ca_der], leaf_key)?;
    Ok((config, digest))
}

/// A configuration with a certificate for `name` that nobody vouches for, made in `dir` at the first start and kept
/// while the name stays, and its fingerprint. For clients that pin exactly this certificate.
///
/// # Errors
/// The directory cannot be written, or what is in it is damaged.
pub fn own_leaf(dir: &Path, name: &str) -> Result<(Arc<ServerConfig>, Digest)> {
    make_private_dir(dir)?;
    let (cert, key) = (dir.join("relay.crt"), dir.join("relay.key"));
    // Clients compare the name too: under another one the old certificate would be refused.
    if !cert.exists() || !key.exists() || !is_for(&cert, name)? {
        let pair = KeyPair::generate().context("cannot make a key")?;
        let mut params = CertificateParams::new(vec![name.to_string()])
            .with_context(|| format!("`{name}` cannot stand in a certificate"))?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        set_life(&mut params);
        // Official clients tell their people of an intercepted connection when subject and issuer are the same.
        let mut by = CertificateParams::new(Vec::<String>::new()).context("cannot describe a CA")?;
        by.distinguished_name.push(DnType::CommonName, "Portcullis");
        let signer = KeyPair::generate().context("cannot make a key")?;
        let made = params.signed_by(&pair, &Issuer::new(by, signer)).context("cannot make a certificate")?;
        write_private(&key, pair.serialize_pem().as_bytes())?;
        write_private(&cert, made.pem().as_bytes())?;
    }
    let config = own_certificate(&cert, &key)?;
    let leaf = read_chain(&cert)?;
    let leaf = leaf.first().with_context(|| format!("{} holds no certificate", cert.display()))?;
    Ok((config, fingerprint(leaf)))
}

/// True if the first certificate of a file is for this name or address.
fn is_for(cert: &Path, name: &str) -> Result<bool> {
    let chain = read_chain(cert)?;
    let Some(Ok(leaf)) = chain.first().map(webpki::EndEntityCert::try_from) else { return Ok(false) };
    let Ok(name) = ServerName::try_from(name) else { return Ok(false) };
    Ok(leaf.verify_is_valid_for_subject_name(&name).is_ok())
}

/// When the first certificate of a file ends, in seconds since the Unix epoch, and whether it is for `name`; without a
/// name that is not asked.
///
/// # Errors
/// The file cannot be read, or holds no certificate.
pub fn ends_at(cert: &Path, name: Option<&str>) -> Result<(u64, bool)> {
    /// Later than any certificate ends (RFC 5280, section 4.1.2.5: at most the year 9999).
    const NEVER: std::time::Duration = std::time::Duration::from_secs(253_402_300_800);
    let chain = read_chain(cert)?;
    let leaf = chain.first().with_context(|| format!("{} holds no certificate", cert.display()))?;
    let parsed = webpki::EndEntityCert::try_from(leaf)
        .map_err(|e| anyhow::anyhow!("{} holds no certificate of a server: {e}", cert.display()))?;
    let (algorithms, usage) = (crypto().signature_verification_algorithms.all, webpki::KeyUsage::server_auth());
    // The dates of a certificate are looked at before anything else, and told by the error alone.
    let late = UnixTime::since_unix_epoch(NEVER);
    match parsed.verify_for_usage(algorithms, &[], &[], late, usage, None, None) {
        Err(webpki::Error::CertExpired { not_after, .. }) => {
            Ok((not_after.as_secs(), name.is_none() || is_for(cert, name.unwrap_or_default())?))
        }
        _ => bail!("{} does not say until when it is valid", cert.display()),
    }
}

/// An edge's configuration with a given certificate.
///
/// # Errors
/// A file cannot be read, holds no PEM, or the key is not the certificate's.
pub fn own_certificate(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>> {
    let chain = read_chain(cert)?;
    let key_der = PrivateKeyDer::from_pem_file(key)
        .map_err(|e| anyhow::anyhow!("{} holds no private key in PEM: {e}", key.display()))?;
    server_config(chain, key_der)
        .with_context(|| format!("cannot use {} with the key {}", cert.display(), key.display()))
}

/// What clients must know to believe an edge with a given certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vouched {
    /// The system's roots vouch for it: its name alone, so that it may be renewed from any intermediate.
    BySystem,
    /// The last certificate of its file vouches for itself: this fingerprint outlives every renewal by that CA.
    ByRoot(Digest),
    /// Its CA's root is not in the file: clients need the root in a file of their own.
    Elsewhere,
}

/// Who vouches for the certificate in a file, and its first name that is no wildcard.
///
/// # Errors
/// The file cannot be read.
pub fn vouched(cert: &Path) -> Result<(Vouched, Option<String>)> {
    let chain = read_chain(cert)?;
    let Some((end, rest)) = chain.split_first() else { return Ok((Vouched::Elsewhere, None)) };
    let natives = rustls_native_certs::load_native_certs().certs;
    let anchors: Vec<_> = natives.iter().filter_map(|c| webpki::anchor_from_trusted_cert(c).ok()).collect();
    let leaf = webpki::EndEntityCert::try_from(end).ok();
    let name = leaf.as_ref().and_then(|l| l.valid_dns_names().find(|n| !n.contains('*')).map(ToString::to_string));
    let algorithms = crypto().signature_verification_algorithms.all;
    let usage = webpki::KeyUsage::server_auth();
    let trusted = leaf.is_some_and(|leaf| {
        leaf.verify_for_usage(algorithms, &anchors, rest, UnixTime::now(), usage, None, None).is_ok()
    });
    let last = rest.last().unwrap_or(end);
    let by = match (trusted, names_itself(last)) {
        (true, _) => Vouched::BySystem,
        (false, true) => Vouched::ByRoot(fingerprint(last)),
        (false, false) => Vouched::Elsewhere,
    };
    Ok((by, name))
}

/// True if a certificate names itself as its issuer, as roots and self-signed ones do. Intermediates do not, and CAs
/// change them as they like.
fn names_itself(der: &CertificateDer<'_>) -> bool {
    webpki::EndEntityCert::try_from(der).is_ok_and(|c| c.issuer() == c.subject())
}

/// A client that believes an edge because a certificate of its chain has this fingerprint. Names are not compared:
/// the pin names one edge.
///
/// # Errors
/// Never with this crypto; rustls wants to be asked.
pub fn pinned(pin: Digest) -> Result<Arc<ClientConfig>> {
    let crypto = Arc::new(crypto());
    let verifier = Arc::new(Pin { pin, algorithms: crypto.signature_verification_algorithms });
    client_config(crypto, verifier)
}

/// A client that believes what the system believes, and the certificates of a PEM file: what they sign, and a server
/// that shows exactly one of them, as a self-signed one is.
///
/// # Errors
/// The file cannot be read or holds no certificate.
pub fn system_roots(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    let mut exact = Vec::new();
    for cert in rustls_native_certs::load_native_certs().certs {
        // A root that webpki does not understand is skipped, as every client does.
        let _ = roots.add(cert);
    }
    if let Some(path) = ca_file {
        let before = roots.len();
        let certs =
            CertificateDer::pem_file_iter(path).map_err(|e| anyhow::anyhow!("cannot read {}: {e}", path.display()))?;
        for cert in certs {
            let cert = cert.map_err(|e| anyhow::anyhow!("{} is not PEM: {e}", path.display()))?;
            exact.push(fingerprint(&cert));
            roots.add(cert).with_context(|| format!("{} holds a certificate that is no CA", path.display()))?;
        }
        if roots.len() == before {
            bail!("{} holds no certificate", path.display());
        }
    }
    let crypto = Arc::new(crypto());
    let inner = if roots.is_empty() {
        None
    } else {
        Some(WebPkiServerVerifier::builder_with_provider(Arc::new(roots), crypto.clone()).build()?)
    };
    let verifier = Arc::new(System { inner, exact, algorithms: crypto.signature_verification_algorithms });
    client_config(crypto, verifier)
}

/// A client that believes any certificate; for `https://` upstreams on request only.
///
/// # Errors
/// Never with this crypto; rustls wants to be asked.
pub fn unverified() -> Result<Arc<ClientConfig>> {
    let crypto = Arc::new(crypto());
    let algorithms = crypto.signature_verification_algorithms;
    client_config(crypto, Arc::new(Anyone { algorithms }))
}

/// A certificate that was refused, from an error of a handshake made with [`system_roots`] or [`pinned`]: the
/// fingerprint that would pin it, if the last certificate of its chain vouches for itself, and why it was refused.
#[must_use]
pub fn seen_in(error: &(dyn std::error::Error + 'static)) -> Option<(Option<Digest>, String)> {
    let mut at = Some(error);
    while let Some(e) = at {
        if let Some(untrusted) = e.downcast_ref::<Untrusted>() {
            return Some((untrusted.seen, untrusted.reason.clone()));
        }
        if let Some(TlsError::InvalidCertificate(CertificateError::Other(other))) = e.downcast_ref::<TlsError>()
            && let Some(untrusted) = other.0.downcast_ref::<Untrusted>()
        {
            return Some((untrusted.seen, untrusted.reason.clone()));
        }
        if let Some(io) = e.downcast_ref::<std::io::Error>()
            && let Some(inner) = io.get_ref()
        {
            at = Some(inner);
            continue;
        }
        at = e.source();
    }
    None
}

/// The same client, offering only this protocol (RFC 7301).
#[must_use]
pub fn with_alpn(config: &ClientConfig, protocol: &[u8]) -> Arc<ClientConfig> {
    let mut config = config.clone();
    config.alpn_protocols = vec![protocol.to_vec()];
    Arc::new(config)
}

/// Why a handshake as a client failed, in words for a person.
#[must_use]
pub fn words(error: &std::io::Error) -> String {
    use rustls::AlertDescription as Alert;
    if let Some((_, words)) = seen_in(error) {
        return words;
    }
    match error.get_ref().and_then(|e| e.downcast_ref::<TlsError>()) {
        Some(TlsError::InvalidMessage(_)) => "it does not answer in TLS".to_string(),
        Some(TlsError::AlertReceived(Alert::NoApplicationProtocol)) => {
            "it does not speak this version of HTTP".to_string()
        }
        Some(TlsError::AlertReceived(Alert::UnrecognisedName)) => "it has no certificate for this name".to_string(),
        Some(TlsError::AlertReceived(Alert::CertificateRequired | Alert::BadCertificate)) => {
            "it wants a certificate of the client".to_string()
        }
        Some(TlsError::AlertReceived(alert)) => format!("it ended the handshake: {alert:?}"),
        _ if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            "it closed the connection during the handshake".to_string()
        }
        _ => error.to_string(),
    }
}

/// A chain that was refused, and what it ended in.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
struct Untrusted {
    seen: Option<Digest>,
    reason: String,
}

#[derive(Debug)]
struct Pin {
    pin: Digest,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
struct System {
    inner: Option<Arc<WebPkiServerVerifier>>,
    /// Certificates that are believed when a server shows them itself.
    exact: Vec<Digest>,
    algorithms: WebPkiSupportedAlgorithms,
}

#[derive(Debug)]
struct Anyone {
    algorithms: WebPkiSupportedAlgorithms,
}

fn untrusted(end: &CertificateDer<'_>, chain: &[CertificateDer<'_>], reason: String) -> TlsError {
    let last = chain.last().unwrap_or(end);
    let seen = names_itself(last).then(|| fingerprint(last));
    TlsError::InvalidCertificate(CertificateError::Other(rustls::OtherError(Arc::new(Untrusted { seen, reason }))))
}

macro_rules! signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, TlsError> {
            rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, TlsError> {
            rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.algorithms.supported_schemes()
        }
    };
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        // The leaf itself is pinned: the handshake's signature proves that the edge has its key.
        if fingerprint(end) == self.pin {
            return Ok(ServerCertVerified::assertion());
        }
        let Some(anchor) = chain.iter().find(|c| fingerprint(c) == self.pin) else {
            return Err(untrusted(end, chain, "no certificate of the edge has the pinned fingerprint".to_string()));
        };
        let refused =
            |e: webpki::Error| untrusted(end, chain, format!("the pinned CA did not sign the edge's certificate: {e}"));
        let anchor = webpki::anchor_from_trusted_cert(anchor).map_err(refused)?;
        let leaf = webpki::EndEntityCert::try_from(end).map_err(refused)?;
        leaf.verify_for_usage(self.algorithms.all, &[anchor], chain, now, webpki::KeyUsage::server_auth(), None, None)
            .map_err(refused)?;
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}

impl ServerCertVerifier for System {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        if !self.exact.is_empty() && self.exact.contains(&fingerprint(end)) {
            return Ok(ServerCertVerified::assertion());
        }
        let Some(inner) = &self.inner else {
            return Err(untrusted(end, chain, "this system has no trusted certificates".to_string()));
        };
        inner.verify_server_cert(end, chain, name, ocsp, now).map_err(|e| match e {
            TlsError::InvalidCertificate(why) => {
                let why = match why {
                    CertificateError::Other(other)
                        if other.0.downcast_ref() == Some(&webpki::Error::CaUsedAsEndEntity) =>
                    {
                        "it is self-signed".to_string()
                    }
                    CertificateError::Other(other) => other.to_string(),
                    CertificateError::UnknownIssuer => "nobody whom this system trusts has signed it".to_string(),
                    why => why.to_string(),
                };
                untrusted(end, chain, format!("the certificate for `{}` is not trusted: {why}", name.to_str()))
            }
            other => other,
        })
    }

    signatures!();
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    signatures!();
}

fn read_chain(cert: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(cert)
        .map_err(|e| anyhow::anyhow!("cannot read {}: {e}", cert.display()))?
        .collect::<Result<_, _>>()
        .map_err(|e| anyhow::anyhow!("{} is not PEM: {e}", cert.display()))?;
    if chain.is_empty() {
        bail!("{} holds no certificate", cert.display());
    }
    Ok(chain)
}

fn client_config(crypto: Arc<CryptoProvider>, verifier: Arc<dyn ServerCertVerifier>) -> Result<Arc<ClientConfig>> {
    let mut config = ClientConfig::builder_with_provider(crypto)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    // Upgrade does not exist in HTTP/2: a proxy in front must not choose it.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn server_config(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Arc<ServerConfig>> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(crypto()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Stateless tickets: a client's further links skip the certificate, and an edge keeps nothing for them.
    config.ticketer = provider::Ticketer::new()?;
    Ok(Arc::new(config))
}

fn make_ca(ca_path: &Path, key_path: &Path) -> Result<()> {
    let key = KeyPair::generate().context("cannot make a key")?;
    let mut params = CertificateParams::new(Vec::<String>::new()).context("cannot describe a CA")?;
    params.distinguished_name.push(DnType::CommonName, "Portcullis edge CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_life(&mut params);
    let cert = params.self_signed(&key).context("cannot make a CA")?;
    // The key first: a crash between the two leaves a key without a CA, which is reported, never a CA without a key.
    write_private(key_path, key.serialize_pem().as_bytes())?;
    write_private(ca_path, cert.pem().as_bytes())
}

fn make_leaf(
    issuer: &Issuer<'_, KeyPair>,
    sans: &[String],
) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>)> {
    let key = KeyPair::generate().context("cannot make a key")?;
    let names = if sans.is_empty() { vec!["localhost".to_string()] } else { sans.to_vec() };
    let mut params = CertificateParams::new(names)
        .with_context(|| format!("`{}` cannot stand in a certificate", sans.join(", ")))?;
    params.distinguished_name.push(DnType::CommonName, "Portcullis edge");
    params.use_authority_key_identifier_extension = true;
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    set_life(&mut params);
    let cert = params.signed_by(&key, issuer).context("cannot sign the edge's certificate")?;
    let key =
        PrivateKeyDer::try_from(key.serialize_der()).map_err(|e| anyhow::anyhow!("cannot use the new key: {e}"))?;
    Ok((cert.der().clone(), key))
}

fn set_life(params: &mut CertificateParams) {
    // A fixed day in the past: clocks of clients may be slow, and a pin does not ask how old a CA is.
    params.not_before = rcgen::date_time_ymd(2025, 1, 1);
    params.not_after = rcgen::date_time_ymd(2025 + 2 * YEARS, 1, 1);
}

/// Makes a directory that only its owner can enter.
fn make_private_dir(dir: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot make the directory {}", dir.display()))
}

fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let part = path.with_extension("part");
    let write = || -> std::io::Result<()> {
        // Made anew: what a crash left has another's mode perhaps, and a link leads nowhere.
        match fs::remove_file(&part) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&part, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
fn has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes")
}

#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
fn has_aes() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_own_certificate_stays_until_its_name_changes() {
        let dir = std::env::temp_dir().join(format!("portcullis-leaf-{}", std::process::id()));
        let pin = |name: &str| own_leaf(&dir, name).unwrap().1;
        let first = pin("203.0.113.9");
        assert_eq!(pin("203.0.113.9"), first);
        let named = pin("mesh.example.com");
        assert_ne!(named, first, "clients compare the name as well");
        assert_eq!(pin("mesh.example.com"), named);
        let (ends, named) = ends_at(&dir.join("relay.crt"), Some("mesh.example.com")).unwrap();
        assert_eq!((ends, named), (2_366_841_600, true), "the first second of 2045");
        assert!(!ends_at(&dir.join("relay.crt"), Some("other.example.com")).unwrap().1);
        fs::remove_dir_all(&dir).unwrap();
    }
}
