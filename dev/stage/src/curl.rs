//! A visitor by `curl`, which speaks to proxies as people's programs do. In: an address of the loopback network to come
//! from, a site, a certificate. Out: the status of the answer.

use std::path::Path;
use std::process::Command;

/// How long curl waits for an answer: far more than is needed, for a machine that is busy.
const LIMIT: &str = "20";

/// Somebody at a site on 127.0.0.1.
#[derive(Debug, Clone, Copy)]
pub struct Visitor<'a> {
    /// Which address of 127.0.0.0/8 it comes from.
    pub from: &'a str,
    /// The name of the site.
    pub site: &'a str,
    /// The port of the site.
    pub port: u16,
    /// Where `phone.pem` and `phone.key` are, if it shows a certificate (see [`crate::certificates`]).
    pub certificate: Option<&'a Path>,
}

impl<'a> Visitor<'a> {
    /// Without a certificate.
    #[must_use]
    pub fn new(from: &'a str, site: &'a str, port: u16) -> Visitor<'a> {
        Visitor { from, site, port, certificate: None }
    }

    /// The same with the certificate in a folder.
    #[must_use]
    pub fn with(self, certificate: &'a Path) -> Visitor<'a> {
        Visitor { certificate: Some(certificate), ..self }
    }

    /// The status of a path over TLS, with fields such as `"X-Forwarded-For: 192.0.2.1"`; 0 if there is no answer.
    /// Nobody checks the site's certificate.
    #[must_use]
    pub fn get(&self, path: &str, fields: &[&str]) -> u16 {
        self.get_by("https", path, fields)
    }

    /// The same without TLS.
    #[must_use]
    pub fn plain(&self, path: &str, fields: &[&str]) -> u16 {
        self.get_by("http", path, fields)
    }

    fn get_by(&self, scheme: &str, path: &str, fields: &[&str]) -> u16 {
        let mut command = command(self.from);
        command.args(["-k", "--http1.1", "-o", "/dev/null", "-w", "%{http_code}"]);
        command.args(["--resolve", &format!("{}:{}:127.0.0.1", self.site, self.port)]);
        if let Some(dir) = self.certificate {
            command.arg("--cert").arg(dir.join("phone.pem")).arg("--key").arg(dir.join("phone.key"));
        }
        for field in fields {
            command.args(["-H", field]);
        }
        let out = command.arg(format!("{scheme}://{}:{}{path}", self.site, self.port)).output().unwrap();
        String::from_utf8_lossy(&out.stdout).trim().parse().unwrap_or(0)
    }
}

/// curl, silent, from an address of this machine.
#[must_use]
pub fn command(from: &str) -> Command {
    let mut command = Command::new("curl");
    command.args(["-s", "--max-time", LIMIT, "--interface", from]);
    command
}
