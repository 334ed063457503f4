//! Flags of inlets that mean nothing here. In: command lines written for it. Out: a word about each: taken and of no
//! effect, or refused with what to do instead. None of them shows in help.

use clap::Args;

use crate::fail::Fail;

/// `num_args = 0..=1` for those that have a value in one release and none in another.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct InletsArgs {
    #[arg(long, hide = true, num_args = 0..=1, aliases = ["license-file"])]
    license: Vec<String>,
    #[arg(long, hide = true, num_args = 0..=1, aliases = [
        "basic-auth-password", "bearer-token", "oauth-provider", "oauth-client-id", "oauth-client-secret", "oauth-acl",
        "oauth-cookie-ttl", "oauth-provider-host", "oauth-http-dump",
    ])]
    basic_auth_username: Vec<String>,
    #[arg(long, hide = true, num_args = 0..=1, aliases = ["letsencrypt-email", "letsencrypt-issuer", "letsencrypt-path"])]
    letsencrypt_domain: Vec<String>,
    #[arg(long, hide = true, num_args = 0..=1)]
    auto_tls_discovery: Vec<String>,
    #[arg(long, hide = true, num_args = 0..=1, aliases = ["local-port", "local-addr"])]
    local: Vec<String>,
    #[arg(long, hide = true, num_args = 0..=1)]
    client_forwarding: Vec<String>,
}

impl InletsArgs {
    /// Says what became of them.
    ///
    /// # Errors
    /// One that cannot be left out without changing who gets in or what is served.
    pub(crate) fn judge(&self, given: &super::Given) -> Result<(), Fail> {
        let of = |id: &str| given.typed(id);
        if of("license") {
            tracing::warn!("--license and --license-file are taken and mean nothing: no licence is needed here");
        }
        for (id, what, instead) in [
            (
                "basic_auth_username",
                "logins for visitors (--basic-auth-…, --bearer-token, --oauth-…) are not part of a tunnel here",
                "restrict by address with --allow-ips-data, or put the login into the service or a proxy in front",
            ),
            (
                "letsencrypt_domain",
                "the edge gets no certificates from Let's Encrypt (--letsencrypt-…)",
                "put Caddy in front, which does (docs/manual/howto/behind-a-proxy.md), or give a certificate with --tls-cert and --tls-key",
            ),
            (
                "local",
                "ports of the edge's side are not forwarded to the client's (--local)",
                "run the edge where the visitors are, and the client where the service is",
            ),
            (
                "client_forwarding",
                "clients do not choose what is reached at the edge's side (--client-forwarding)",
                "run a client of another edge there",
            ),
        ] {
            if of(id) {
                return Err(Fail::usage(what, instead));
            }
        }
        if of("auto_tls_discovery") {
            tracing::warn!("--auto-tls-discovery is taken and means nothing: the edge's CA is in the connect string");
        }
        Ok(())
    }
}
