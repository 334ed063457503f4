//! What a gate is told of its enforcers. In: flags and the configuration's tables. Out: the enforcer of each.

use super::caddy::{Caddy, CaddyConfig};
use super::command::{Command, CommandConfig};
use super::file::{FileConfig, TextFile};
use super::haproxy::{Haproxy, HaproxyConfig};
use super::nftables::Nftables;
use super::nginx::{Nginx, NginxConfig};
use super::ports::NftablesConfig;
use super::traefik::{Traefik, TraefikConfig};
use super::webhook::{Webhook, WebhookConfig};
use super::{Enforcer, Info};

/// What stands in front, and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Config {
    /// Traefik's file provider.
    Traefik(TraefikConfig),
    /// nginx: a file for `geo … { include FILE; }`.
    Nginx(NginxConfig),
    /// HAProxy: a map, changed through the runtime API.
    Haproxy(HaproxyConfig),
    /// Caddy: the ranges of a `remote_ip` matcher with an `@id`, through the admin API.
    Caddy(CaddyConfig),
    /// nftables: a table of our own in the kernel.
    Nftables(NftablesConfig),
    /// A plain file, one prefix a line: what an edge follows as `--allow-ips @FILE`.
    File(FileConfig),
    /// Any program: the entries on its standard input, one a line.
    Command(CommandConfig),
    /// Any HTTP service: the entries by POST, as JSON.
    Webhook(WebhookConfig),
}

impl Config {
    /// The enforcer of this configuration. Nothing is touched yet.
    #[must_use]
    pub fn build(&self) -> Box<dyn Enforcer> {
        match self.clone() {
            Config::Traefik(c) => Box::new(Traefik::new(c)),
            Config::Nginx(c) => Box::new(Nginx::new(c)),
            Config::Haproxy(c) => Box::new(Haproxy::new(c)),
            Config::Caddy(c) => Box::new(Caddy::new(c)),
            Config::Nftables(c) => Box::new(Nftables::new(c)),
            Config::File(c) => Box::new(TextFile::new(c)),
            Config::Command(c) => Box::new(Command::new(c)),
            Config::Webhook(c) => Box::new(Webhook::new(c)),
        }
    }

    /// The table in the kernel that it keeps, if it keeps one.
    #[must_use]
    pub fn table(&self) -> Option<String> {
        match self {
            Config::Nftables(c) => Some(c.table.clone()),
            _ => None,
        }
    }

    /// What the enforcer of this configuration is.
    #[must_use]
    pub fn info(&self) -> Info {
        self.build().info().clone()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What an enforcer is called stands in logs, in `doctor` and in metrics: secrets of addresses do not.
    #[test]
    fn enforcers_are_named_by_kind_and_place() {
        let list = || "home".to_string();
        let base = |url: &str| url.parse::<runtime::fetch::Base>().unwrap();
        let traefik = |strategy| TraefikConfig {
            file: "/app/dyn/list.yml".into(),
            middlewares: vec![("a".into(), vec!["home".into(), "friends".into()]), ("b".into(), vec!["home".into()])],
            style: access::publish::TraefikStyle { strategy, ..Default::default() },
            tcp: false,
            api: None,
            throttle: std::time::Duration::ZERO,
        };
        let nft = NftablesConfig {
            list: list(),
            ports: BTreeSet::new(),
            table: "portcullis".into(),
            on_failure: Default::default(),
        };
        let all = [
            (Config::Traefik(traefik(None)), "traefik /app/dyn/list.yml"),
            (Config::Nginx(NginxConfig { list: list(), file: "/n".into(), test: vec![], reload: vec![] }), "nginx /n"),
            (Config::Haproxy(HaproxyConfig { list: list(), socket: "/s".into(), map: "/m".into() }), "haproxy /s"),
            (
                Config::Caddy(CaddyConfig { list: list(), api: base("http://127.0.0.1:2019/id/gate/ranges") }),
                "caddy http://127.0.0.1:2019/id/gate/ranges",
            ),
            (Config::Nftables(nft), "nftables inet portcullis"),
            (Config::File(FileConfig { list: list(), file: "/f".into() }), "file /f"),
            (
                Config::Command(CommandConfig { list: list(), argv: vec!["/bin/told".into(), "secret".into()] }),
                "command /bin/told",
            ),
            (
                Config::Webhook(WebhookConfig { list: list(), to: base("https://hooks.example/T0/secret") }),
                "webhook https://hooks.example:443",
            ),
        ];
        let names: BTreeSet<String> = all.iter().map(|(config, _)| config.info().name).collect();
        assert_eq!(names.len(), all.len());
        for (config, name) in all {
            let info = config.info();
            assert_eq!(info.name, name);
            assert!(info.lists.contains(&list()) && !info.name.contains("secret"), "{info:?}");
            assert_eq!(
                info.file.is_some(),
                matches!(config, Config::Traefik(_) | Config::Nginx(_) | Config::Haproxy(_) | Config::File(_)),
                "{info:?}"
            );
        }
        // A Traefik that looks at who connects judges proxies, not visitors.
        let depth = Config::Traefik(traefik(Some(access::publish::IpStrategy::Depth(1))));
        assert!(Config::Traefik(traefik(None)).info().by_peer && !depth.info().by_peer);
        assert_eq!(depth.info().lists, ["friends", "home"]);
    }
}
