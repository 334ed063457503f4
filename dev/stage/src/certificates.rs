//! Certificates made a moment ago, by `openssl`. In: names. Out: PEM files in a folder.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The sites of a gate's tests.
const SITES: &str = "DNS:ha.example.com,DNS:photos.example.com,DNS:cloud.example.com,DNS:localhost";

/// A certificate for 127.0.0.1 and localhost as `cert.pem`, `key.pem` and `both.pem`; gives the first.
pub fn self_signed(dir: &Path) -> PathBuf {
    make(dir, &leaf("/CN=stage", "subjectAltName=IP:127.0.0.1,DNS:localhost"), "key.pem", "cert.pem");
    let both = ["cert.pem", "key.pem"].map(|name| std::fs::read(dir.join(name)).unwrap()).concat();
    std::fs::write(dir.join("both.pem"), both).unwrap();
    dir.join("cert.pem")
}

/// A CA, and a certificate that it signed for the given names (as `DNS:a.test,IP:192.0.2.1`), as `cert.pem` and
/// `key.pem`; gives the CA's certificate.
pub fn signed(dir: &Path, names: &str) -> PathBuf {
    let ca = authority(dir);
    signed_by(dir, &leaf("/CN=stage", &format!("subjectAltName={names}")), "key.pem", "cert.pem");
    ca
}

/// A CA (`ca.pem`), a certificate for the sites of a gate's tests (`site.pem`, `site.key`) and one of a visitor
/// (`phone.pem`, `phone.key`).
pub fn sites_and_a_phone(dir: &Path) {
    authority(dir);
    signed_by(dir, &leaf("/CN=site", &format!("subjectAltName={SITES}")), "site.key", "site.pem");
    phone(dir, "phone");
}

/// Another certificate of the visitor by the CA that is there, for this name.
pub fn phone(dir: &Path, name: &str) {
    signed_by(dir, &leaf(&format!("/CN={name}"), "extendedKeyUsage=clientAuth"), "phone.key", "phone.pem");
}

/// The first certificate of a PEM file, in DER.
#[must_use]
pub fn der_of(pem: &Path) -> Vec<u8> {
    use base64::Engine;
    let text = std::fs::read_to_string(pem).unwrap_or_else(|e| panic!("{}: {e}", pem.display()));
    let body: String =
        text.lines().skip_while(|l| !l.contains("BEGIN CERT")).skip(1).take_while(|l| !l.contains("END")).collect();
    base64::engine::general_purpose::STANDARD.decode(body).unwrap()
}

/// Subject and extensions of a certificate that signs no others.
fn leaf<'a>(subject: &'a str, extension: &'a str) -> Vec<&'a str> {
    vec!["-subj", subject, "-addext", extension, "-addext", "basicConstraints=critical,CA:FALSE"]
}

fn authority(dir: &Path) -> PathBuf {
    make(dir, &["-subj", "/CN=stage CA", "-addext", "keyUsage=critical,keyCertSign"], "ca.key", "ca.pem");
    dir.join("ca.pem")
}

fn signed_by(dir: &Path, args: &[&str], key: &str, cert: &str) {
    make(dir, &[&["-CA", "ca.pem", "-CAkey", "ca.key"], args].concat(), key, cert);
}

fn make(dir: &Path, args: &[&str], key: &str, cert: &str) {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]);
    command.args(args).args(["-keyout", key, "-out", cert]).current_dir(dir);
    let out = command.output().unwrap_or_else(|e| panic!("openssl: {e}"));
    assert!(out.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}
