//! `[gate]` and `[lists.NAME]` of the configuration file. In: what is written there. Out: the settings of a gate that
//! runs in the process of `serve`; every error names file and line. `docs/manual/gate.toml` explains every key.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;

use access::ledger::{Evict, Rules};
use access::names::{Follow, Pace};
use access::publish::{IpStrategy, TraefikKey, TraefikStyle, is_plain_name};
use access::visitor::AddressHeader;
use addr::{AddrSet, Port, Prefix};
use anyhow::{Context, anyhow, bail, ensure};
use gate::asked::Proxies;
use gate::doctor::{ConfiguredBy, FindingId};
use gate::enforce::{self, TRAEFIK_THROTTLE};
use gate::intake::{Cert, Guests, Listen, RefusalPage, Serves};
use gate::ledger::Ahead;
use gate::names::Dns;
use gate::share::Share;
use gate::share::shape::Shape;
use gate::{self, GateSettings};
use policy::Policy;
use runtime::fetch::Base;
use runtime::hint::Hinted;
use runtime::lists::{ListPart, ListSource};
use toml::Spanned;

use super::Notes;
use super::file::Read;
use super::file::gate::{GateFile, Length, ListFile, RefuseFile, TraefikFile};
use super::gate_shared::{MAX_GUESTS, SHARE_TTL, TTL, in_front, private_proxies};
use super::lists::{say_wide, set_of};
use crate::args::gate::{CertArg, EvictArg, KeyArg, Span, throttle};
use crate::args::values::name_server;
use crate::fail::Fail;

/// Lists by name, and the host names that they follow.
pub(crate) type Lists = (Vec<(String, Rules)>, Vec<Follow>);

/// A list that nobody gave a limit: far more than a household has, few enough that no proxy slows down.
const DEFAULT_MAX_ENTRIES: usize = 1_000;

/// True if the file asks for a gate.
pub(crate) fn wanted(read: &Read) -> bool {
    read.edge.gate.is_some() || !read.edge.lists.is_empty()
}

/// The files that the lists of the file name.
///
/// # Errors
/// A bad entry, with its line.
pub(crate) fn files(read: &Read) -> anyhow::Result<Vec<PathBuf>> {
    lists(read, &Notes::default()).map(|(_, files)| files)
}

/// The lists of the file, and the files that they name.
///
/// # Errors
/// A bad entry, limit or name, with its line.
pub(crate) fn lists(read: &Read, notes: &Notes) -> anyhow::Result<(Lists, Vec<PathBuf>)> {
    let mut out: Vec<(String, Rules)> = Vec::new();
    let mut follows: Vec<Follow> = Vec::new();
    let mut files: Vec<PathBuf> = Vec::new();
    let policy_file = read.edge.gate.as_ref().and_then(|g| g.policy.as_ref()).map(|p| read.at(p));
    let policy = policy_file.as_ref().map(|p| policy(p)).transpose()?;
    files.extend(policy_file);
    for (name, list) in &read.edge.lists {
        if !is_plain_name(name) {
            bail!("{}: `lists.{name}` needs a name of letters, digits, `-`, `_` and `.`", read.path.display());
        }
        let mut statics: Vec<Prefix> = Vec::new();
        if let Some(policy) = &policy
            && let Some(set) = policy.list_sets().get(name)
        {
            statics.extend(set.prefixes().iter());
        }
        let mut parts: Vec<ListPart> = Vec::new();
        for (text, place) in list.statics.as_ref().map(|v| read.entries(v)).transpose()?.into_iter().flatten() {
            let text = text.trim();
            if text.starts_with("dns:") {
                let host = text.parse().map_err(|e| anyhow!("{place}: {e}"))?;
                follows.push(Follow { list: name.clone(), host, until: None, pinned: false });
            } else if text.starts_with("ipset:") {
                let Some(policy) = &policy else {
                    return Err(Hinted::error(
                        format!("{place}: `{text}` is an IP set of a policy, and the file names none"),
                        "write `policy = \"policy.hujson\"` under `[gate]`",
                    ));
                };
                let sets = policy.ip_sets();
                let Some(set) = sets.get(text) else {
                    let all: Vec<&str> = sets.keys().map(String::as_str).collect();
                    bail!("{place}: the policy has no `{text}`; it has {}", all.join(", "));
                };
                statics.extend(set.prefixes().iter());
            } else {
                parts.extend(runtime::lists::parts(text, &place, Some(&read.dir()))?);
            }
        }
        for part in &parts {
            match part {
                ListPart::File(path) => files.push(path.clone()),
                ListPart::Named { name: other, from } => {
                    bail!("{from}: a list of the gate cannot hold another (`list:{other}`)")
                }
                ListPart::Default | ListPart::Name(_) | ListPart::Text { .. } => {}
            }
        }
        let loaded = runtime::lists::load(&[ListSource { name: name.clone(), parts }], None)?;
        for w in &loaded.warnings {
            notes.warning(w.clone());
        }
        statics.extend(loaded.lists.iter().flat_map(|l| l.set.prefixes().into_owned()));
        // Names that stand in a file or beside other entries.
        let more = loaded.hosts.into_iter().flatten();
        follows.extend(more.map(|host| Follow { list: name.clone(), host, until: None, pinned: false }));
        // In order and each once: what an unchanged file says is equal to what it said.
        let statics = AddrSet::new(statics).prefixes().to_vec();
        out.push((name.clone(), rules(read, name, list, statics)?));
    }
    Ok(((out, follows), files))
}

fn rules(read: &Read, name: &str, list: &ListFile, statics: Vec<Prefix>) -> anyhow::Result<Rules> {
    let width = list.ipv6_prefix.unwrap_or(Rules::default().v6_width);
    let v4_width = list.ipv4_prefix.unwrap_or(Rules::default().v4_width);
    let at = read.path.display();
    ensure!((16..=32).contains(&v4_width), "{at}: `lists.{name}`: `ipv4_prefix` is 16 to 32 bits, not {v4_width}");
    ensure!((1..=128).contains(&width), "{at}: `lists.{name}`: `ipv6_prefix` is 1 to 128 bits, not {width}");
    ensure!(
        list.max != Some(0),
        "{at}: `lists.{name}`: `max = 0` would forget everybody; leave out what grants (mirror, learn, shares) instead"
    );
    let v4_width = list.ipv4_prefix.unwrap_or(Rules::default().v4_width);
    ensure!((16..=32).contains(&v4_width), "{at}: `lists.{name}`: `ipv4_prefix` is 16 to 32 bits, not {v4_width}");
    ensure!(
        list.guests.is_none_or(|g| (1..=MAX_GUESTS).contains(&g)),
        "{at}: `lists.{name}`: `guests` is 1 to {MAX_GUESTS}; leave the shares out to have none"
    );
    ensure!(list.devices != Some(0), "{at}: `lists.{name}`: `devices = 0` would forget everybody");
    Ok(Rules {
        max: Some(list.max.unwrap_or(DEFAULT_MAX_ENTRIES)),
        evict: if list.evict == Some(EvictArg::FirstSeen) { Evict::FirstSeen } else { Evict::LeastRecentlySeen },
        ttl: list.ttl.unwrap_or(Length(Span(Some(TTL)))).0.0,
        idle: list.idle.and_then(|l| l.0.0),
        guests: list.guests.or(Rules::default().guests),
        v4_width,
        v6_width: width,
        learn_private: list.learn_private.unwrap_or(false),
        devices: list.devices,
        grace: list.grace.map_or(Rules::default().grace, |l| l.0.0),
        statics,
    })
}

fn policy(path: &std::path::Path) -> anyhow::Result<Policy> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read the policy {}", path.display()))?;
    Policy::parse(&text).map_err(|problems| {
        let first =
            problems.first().map(|p| format!("{}:{}: {}", path.display(), p.pos, p.message)).unwrap_or_default();
        Hinted::error(
            first,
            format!("`portcullis policy check {}` shows everything that is wrong with it", path.display()),
        )
    })
}

/// Everything the gate of this file is told.
///
/// # Errors
/// Contradictions and bad values, with the line they stand in.
pub(crate) fn plan(read: &Read, data_dir: PathBuf, notes: &Notes) -> anyhow::Result<Option<GateSettings>> {
    if !wanted(read) {
        return Ok(None);
    }
    let none = GateFile::default();
    let g = read.edge.gate.as_ref().unwrap_or(&none);
    let ((lists, follows), _) = lists(read, notes)?;
    let file = File { read, lists: lists.iter().map(|(n, _)| n.clone()).collect() };
    ensure!(!lists.is_empty(), "{}: `[gate]` has no list; write one, such as `[lists.family]`", read.path.display());
    let trusted = match &g.trusted_proxies {
        None => private_proxies(),
        Some(value) => set_of("trusted_proxies", &[], Some((value, read)), "gate.trusted_proxies", notes)
            .map_err(Fail::into_error)?,
    };
    say_wide(&trusted, "trusted_proxies under [gate]", notes);
    let (shares, guests) = file.shares(g)?;
    let mut servers: Vec<SocketAddr> = Vec::new();
    for s in &g.dns_servers {
        servers.push(name_server(s.get_ref()).map_err(|e| anyhow!("{}: {e}", file.line(s)))?);
    }
    let own = gate::own_addresses();
    let least = g.dns_least.and_then(|l| l.0.0).unwrap_or(Pace::default().least);
    Ok(Some(GateSettings {
        data_dir,
        lists,
        follows,
        dns: Dns { servers, pace: Pace { least, ..Pace::default() } },
        listeners: file.listeners(g)?,
        refusal: file.refusal(g)?,
        configured_by: ConfiguredBy::File,
        accept: file.accepted(g)?,
        probes: g.probes.iter().map(|u| file.url(u)).collect::<anyhow::Result<_>>()?,
        shares: shares.into_iter().zip(guests).collect(),
        share_paths: g
            .share_paths
            .iter()
            .map(|s| s.get_ref().parse::<Shape>().map_err(|e| anyhow!("{}: {e}", file.line(s))))
            .collect::<anyhow::Result<_>>()?,
        enforcers: file.enforcers(g, &trusted, &own, notes)?,
        own,
        proxies: Proxies {
            trusted,
            header: g.trusted_header.map_or(AddressHeader::default(), AddressHeader::from),
            direct: g.direct,
        },
        take_over: Vec::new(),
        ahead: Ahead::default(),
    }))
}

/// The file, and the lists that it has.
struct File<'a> {
    read: &'a Read,
    lists: BTreeSet<String>,
}

impl File<'_> {
    fn line<T>(&self, s: &Spanned<T>) -> String {
        self.read.place(s.span().start)
    }

    fn path(&self, p: &std::path::Path) -> PathBuf {
        self.read.at(p)
    }

    /// A list that the file has.
    fn list(&self, name: &Spanned<String>) -> anyhow::Result<String> {
        if self.lists.contains(name.get_ref()) {
            return Ok(name.get_ref().clone());
        }
        let all: Vec<&str> = self.lists.iter().map(String::as_str).collect();
        Err(Hinted::error(
            format!("{}: there is no list `{}`; there are {}", self.line(name), name.get_ref(), all.join(", ")),
            format!("write `[lists.{}]`, or another name", name.get_ref()),
        ))
    }

    fn listen(&self, s: &Spanned<String>) -> anyhow::Result<Listen> {
        Listen::parse(s.get_ref()).map_err(|e| anyhow!("{}: {e}", self.line(s)))
    }

    fn url(&self, s: &Spanned<String>) -> anyhow::Result<Base> {
        s.get_ref().parse().map_err(|e| anyhow!("{}: {e}", self.line(s)))
    }

    fn shares(&self, g: &GateFile) -> anyhow::Result<(Vec<Share>, Vec<Guests>)> {
        let (mut shares, mut guests) = (Vec::new(), Vec::new());
        for (name, share) in &g.shares {
            let at = self.line(&share.upstream);
            ensure!(is_plain_name(name), "{at}: `shares.{name}` needs a name of letters, digits, `-`, `_` and `.`");
            let base = self.url(&share.upstream)?;
            ensure!(base.path == "/", "{at}: name only scheme, host and port, such as http://immich_server:2283");
            let ttl = share.ttl.unwrap_or(Length(Span(Some(SHARE_TTL)))).0.0;
            let Some(ttl) = ttl else {
                bail!("{at}: a guest cannot stay for ever; give `ttl` a length such as \"24h\"")
            };
            guests.push(Guests { list: self.list(&share.list)?, ttl });
            shares.push(Share { name: name.clone(), base });
        }
        if let (false, None, Some(first)) = (shares.is_empty(), &g.share_listen, g.shares.values().next()) {
            return Err(Hinted::error(
                format!("{}: share links are asked nowhere", self.line(&first.upstream)),
                "say where with `share_listen = \"127.0.0.1:5002\"` under `[gate]`",
            ));
        }
        Ok((shares, guests))
    }

    fn listeners(&self, g: &GateFile) -> anyhow::Result<Vec<(Listen, Serves)>> {
        let mut out = Vec::new();
        for m in &g.mirror {
            let list = self.list(&m.list)?;
            let Some(listen) = &m.listen else {
                // On a shared one a client's own path could reach another endpoint.
                bail!("{}: a mirror needs a `listen` of its own, such as \"127.0.0.1:5000\"", self.line(&m.list));
            };
            out.push((self.listen(listen)?, Serves::Mirror { list, cert: m.certificate.map(Cert::from) }));
        }
        let mut learn = Vec::new();
        for l in &g.learn {
            let (list, cert) = (self.list(&l.list)?, Cert::from(l.certificate.unwrap_or(CertArg::Gate)));
            match &l.listen {
                Some(at) => out.push((self.listen(at)?, Serves::Learn { list, cert })),
                None if g.listen.is_none() => bail!(
                    "{}: learning needs a `listen` of its own, or one under `[gate]` for /v1/learn/{list}",
                    self.line(&l.list)
                ),
                None => learn.push((list, cert)),
            }
        }
        if let Some(at) = &g.share_listen {
            out.push((self.listen(at)?, Serves::Share));
        }
        if let Some(at) = &g.listen {
            out.push((self.listen(at)?, Serves::Check { learn, below: g.paths_below }));
        }
        let mut seen: Vec<&Listen> = Vec::new();
        for (at, serves) in &out {
            let any = matches!(at, Listen::Tcp(a) if a.port() == 0);
            ensure!(
                any || !seen.contains(&at),
                "{}: {} wants an address that another one listens on; each needs its own",
                self.read.path.display(),
                serves.name()
            );
            seen.push(at);
        }
        Ok(out)
    }

    fn refusal(&self, g: &GateFile) -> anyhow::Result<RefusalPage> {
        let Some(r) = &g.refuse else { return Ok(RefusalPage::default()) };
        let RefuseFile { status, body, redirect, reason } = r.get_ref();
        RefusalPage::new(*status, body.clone(), redirect.as_deref(), *reason)
            .map_err(|e| anyhow!("{}: {e}", self.line(r)))
    }

    fn accepted(&self, g: &GateFile) -> anyhow::Result<BTreeSet<FindingId>> {
        g.accept.iter().map(|n| n.get_ref().parse().map_err(|e: String| anyhow!("{}: {e}", self.line(n)))).collect()
    }

    /// How a Traefik reads its lists; see [`in_front`] for the default.
    fn style(&self, t: &TraefikFile, trusted: &AddrSet, own: &AddrSet, notes: &Notes) -> anyhow::Result<TraefikStyle> {
        let key = if t.key == Some(KeyArg::IpWhiteList) { TraefikKey::IpWhiteList } else { TraefikKey::IpAllowList };
        if let Some(status) = &t.reject_status {
            let at = self.line(status);
            ensure!((400..500).contains(status.get_ref()), "{at}: `reject_status` is 400 to 499");
            ensure!(key == TraefikKey::IpAllowList, "{at}: `reject_status` is a key of \"ip-allow-list\"");
        }
        let strategy = match (&t.depth, &t.excluded_ips) {
            (Some(depth), None) => {
                ensure!(*depth.get_ref() > 0, "{}: `depth` counts from 1, the last entry", self.line(depth));
                Some(IpStrategy::Depth(*depth.get_ref()))
            }
            (Some(depth), Some(_)) => bail!("{}: `depth` and `excluded_ips` exclude each other", self.line(depth)),
            (None, Some(value)) => {
                let set = set_of("excluded_ips", &[], Some((value, self.read)), "gate.traefik.excluded_ips", notes)
                    .map_err(Fail::into_error)?;
                let all = set.prefixes().to_vec();
                (!all.is_empty()).then_some(IpStrategy::Excluded(all))
            }
            (None, None) => in_front(trusted, own, notes),
        };
        Ok(TraefikStyle { key, strategy, reject: t.reject_status.as_ref().map(|s| *s.get_ref()) })
    }

    fn enforcers(
        &self,
        g: &GateFile,
        trusted: &AddrSet,
        own: &AddrSet,
        notes: &Notes,
    ) -> anyhow::Result<Vec<enforce::Config>> {
        let mut out = Vec::new();
        for t in &g.traefik {
            let mut middlewares = Vec::new();
            for (name, lists) in &t.middlewares {
                let at = self.line(name);
                ensure!(is_plain_name(name.get_ref()), "{at}: `{}` cannot name a middleware", name.get_ref());
                ensure!(!lists.is_empty(), "{at}: the middleware `{}` has no list", name.get_ref());
                let lists = lists.iter().map(|l| self.list(l)).collect::<anyhow::Result<Vec<_>>>()?;
                middlewares.push((name.get_ref().clone(), lists));
            }
            ensure!(!middlewares.is_empty(), "{}: `[[gate.traefik]]` has no middleware", self.read.path.display());
            let style = self.style(t, trusted, own, notes)?;
            let api = t.api.as_ref().map(|u| self.url(u)).transpose()?;
            let throttle = t.throttle.as_ref().map_or(Ok(TRAEFIK_THROTTLE), |s| {
                throttle(s.get_ref()).map_err(|why| anyhow!("{}: `{}`: {why}", self.line(s), s.get_ref()))
            })?;
            out.push(enforce::Config::Traefik(enforce::TraefikConfig {
                file: self.path(&t.file),
                middlewares,
                style,
                tcp: t.tcp,
                api,
                throttle,
            }));
        }
        let words = |given: &Option<Vec<String>>, or: &[&str]| {
            given.clone().unwrap_or_else(|| or.iter().map(|w| (*w).to_string()).collect())
        };
        for n in &g.nginx {
            let (test, reload) = (words(&n.test, &["nginx", "-t", "-q"]), words(&n.reload, &["nginx", "-s", "reload"]));
            out.push(enforce::Config::Nginx(enforce::NginxConfig {
                list: self.list(&n.list)?,
                file: self.path(&n.file),
                test,
                reload,
            }));
        }
        for h in &g.haproxy {
            // The map's name is what HAProxy's configuration calls it, so it is passed on as written.
            let (list, socket) = (self.list(&h.list)?, self.path(&h.socket));
            out.push(enforce::Config::Haproxy(enforce::HaproxyConfig { list, socket, map: h.map.clone() }));
        }
        for c in &g.caddy {
            out.push(enforce::Config::Caddy(enforce::CaddyConfig {
                list: self.list(&c.list)?,
                api: self.url(&c.api)?,
            }));
        }
        let mut tables: BTreeSet<String> = BTreeSet::new();
        for n in &g.nftables {
            let text = n.ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            let ports = Port::parse_list(&text).map_err(|e| anyhow!("{}: `ports`: {e}", self.line(&n.list)))?;
            let table = n.table.as_ref().map_or("portcullis", |t| t.get_ref().as_str()).to_string();
            ensure!(is_plain_name(&table), "{}: `{table}` cannot name a table", self.line(&n.list));
            ensure!(
                tables.insert(table.clone()),
                "{}: two lists want the table `{table}`; give one a `table` of its own",
                self.line(&n.list)
            );
            let (list, on_failure) = (self.list(&n.list)?, n.on_failure);
            out.push(enforce::Config::Nftables(enforce::NftablesConfig { list, ports, table, on_failure }));
        }
        for f in &g.file {
            out.push(enforce::Config::File(enforce::FileConfig {
                list: self.list(&f.list)?,
                file: self.path(&f.file),
            }));
        }
        for c in &g.command {
            ensure!(
                !c.run.is_empty(),
                "{}: `run` needs a program, such as [\"/usr/local/bin/apply\"]",
                self.line(&c.list)
            );
            out.push(enforce::Config::Command(enforce::CommandConfig {
                list: self.list(&c.list)?,
                argv: c.run.clone(),
            }));
        }
        for w in &g.webhook {
            out.push(enforce::Config::Webhook(enforce::WebhookConfig {
                list: self.list(&w.list)?,
                to: self.url(&w.url)?,
            }));
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use crate::resolve::file::{self, EdgeFile};

    const MANUAL: &str = include_str!("../../../../docs/manual/gate.toml");

    #[derive(Debug, Deserialize)]
    struct Whole {
        lists: BTreeMap<String, ListFile>,
        gate: GateFile,
    }

    /// The manual with everything in force that it shows as a comment.
    fn all_of_it() -> String {
        let live = |l: &str| {
            let bare = l.strip_prefix("# ").filter(|b| b.starts_with('[') || b.contains(" = "));
            bare.unwrap_or(l).to_string() + "\n"
        };
        MANUAL.lines().map(live).collect()
    }

    #[test]
    fn the_manual_is_valid_as_it_stands_and_with_everything_that_it_shows() {
        toml::from_str::<EdgeFile>(MANUAL).unwrap();
        let file = toml::from_str::<EdgeFile>(&all_of_it()).unwrap();
        let g = file.gate.unwrap();
        assert!(!g.nftables.is_empty() && !g.webhook.is_empty() && !g.haproxy.is_empty() && !g.shares.is_empty());
        let dir = std::env::temp_dir().join(format!("portcullis-gate-toml-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("gate.toml"), all_of_it()).unwrap();
        std::fs::write(dir.join("office.txt"), "192.0.2.0/28\n").unwrap();
        std::fs::write(dir.join("policy.hujson"), r#"{"ipsets": {"ipset:branch": ["add 198.51.100.64/26"]}}"#).unwrap();
        let read = file::read(&dir.join("gate.toml")).unwrap();
        let plan = plan(&read, dir.join("state"), &Notes::default()).unwrap().unwrap();
        assert!(plan.enforcers.len() >= 8 && plan.listeners.len() == 3, "{plan:?}");
        assert!(plan.lists.iter().any(|(_, r)| r.statics.contains(&"198.51.100.64/26".parse().unwrap())));
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_manual_knows_every_key() {
        let said = |key: &str| {
            MANUAL.lines().any(|l| {
                let l = l.trim_start_matches("# ");
                l.starts_with(&format!("{key} = "))
                    || l.starts_with(&format!("[[gate.{key}]]"))
                    || l.starts_with(&format!("[gate.{key}."))
            })
        };
        for at in ["[lists.x]\nno_such_key = 1\n[gate]", "[lists.x]\n[gate]\nno_such_key = 1"] {
            let error = toml::from_str::<Whole>(at).unwrap_err().to_string();
            let keys: Vec<&str> = error.split("expected").nth(1).unwrap().split('`').skip(1).step_by(2).collect();
            assert!(keys.len() > 8, "{error}");
            for key in keys {
                assert!(said(key), "docs/manual/gate.toml does not explain `{key}`");
            }
        }
        let _ = toml::from_str::<Whole>("[lists.x]\n[gate]").map(|w| (w.lists, w.gate)).unwrap();
    }
}
