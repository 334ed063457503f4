//! Gatekeeper's environment, and flags beside it, become the settings of a gate.

use std::collections::BTreeSet;
use std::path::PathBuf;

use access::Evidence;
use access::ledger::{Entry, Event, Evict, Rules};
use access::names::{Follow, HostName, Pace};
use access::publish::{IpStrategy, TraefikKey, TraefikStyle, is_plain_name};
use access::visitor::AddressHeader;
use addr::{AddrSet, Prefix, parse_list};
use gate::GateSettings;
use gate::asked::Proxies;
use gate::doctor::{ConfiguredBy, FindingId};
use gate::enforce::{self, TRAEFIK_THROTTLE};
use gate::intake::{Cert, Guests, Listen, RefusalPage, Serves};
use gate::ledger::Ahead;
use gate::names::Dns;
use gate::share::Share;
use gate::share::shape::Shape;
use runtime::fetch::Base;
use tracing::{info, warn};

use super::Notes;
use super::gate_shared::{MAX_GUESTS, SHARE_TTL, TTL, in_front, private_proxies, say_private_proxies};
use super::lists::{say_wide, set_of};
use crate::args::GlobalArgs;
use crate::args::gate::{AlsoArgs, EvictArg, GatekeeperArgs, KeyArg, ScopeArg, Span};
use crate::fail::Fail;

/// The list, and the middleware, of a gate that is told no other name: Gatekeeper's.
pub(crate) const LIST: &str = "dynamic-whitelist";

/// Gatekeeper's own default.
const DEFAULT_MAX_ENTRIES: usize = 10;
/// What the environment and flags mean together.
///
/// # Errors
/// Contradictions and bad values, with the flag or variable they stand in.
pub(crate) fn plan(a: &GatekeeperArgs, global: &GlobalArgs, notes: &Notes) -> Result<GateSettings, Fail> {
    let list = a.list.clone().unwrap_or_else(|| LIST.to_string());
    if !is_plain_name(&list) {
        return Err(Fail::usage(format!("`{list}` cannot name a middleware"), "use letters, digits, `-`, `_` and `.`"));
    }
    let (statics, hosts) = source_range(a.default_source_range.as_deref().unwrap_or_default())?;
    let trusted = trusted(a.trusted_proxies.as_deref(), notes)?;
    let main = main_listener(a)?;
    let shares = shares(a.share_upstreams.as_deref().unwrap_or_default())?;
    let by_service = a.share_scope == Some(ScopeArg::Service);
    let rules = Rules {
        max: Some(max(a)?),
        evict: match a.evict {
            Some(EvictArg::LeastRecentlySeen) => Evict::LeastRecentlySeen,
            Some(EvictArg::FirstSeen) | None => Evict::FirstSeen,
        },
        ttl: a.ttl.unwrap_or(Span(Some(TTL))).0,
        idle: a.idle.and_then(|s| s.0),
        guests: Some(guests(a)?),
        devices: a.devices.map(usize::from),
        grace: a.grace.map_or(Rules::default().grace, |s| s.0),
        v4_width: a.ipv4_prefix.unwrap_or(32),
        v6_width: a.ipv6_prefix.unwrap_or(64),
        learn_private: a.learn_private.unwrap_or(false),
        statics: statics.clone(),
    };
    let mut lists = vec![(list.clone(), rules.clone())];
    let mut middlewares = vec![(list.clone(), vec![list.clone()])];
    let mut named = Vec::new();
    let share_ttl = a.share_ttl.unwrap_or(Span(Some(SHARE_TTL))).0.ok_or_else(|| {
        Fail::usage("a share link's guest cannot stay for ever", "give SHARE_TTL a length such as 24h or 30d")
    })?;
    for share in shares {
        let own = format!("{list}-{}", share.name);
        if by_service {
            // Guests do not push the household off its list, nor it them.
            lists.push((own.clone(), Rules { statics: Vec::new(), ..rules.clone() }));
            middlewares.push((own.clone(), vec![own.clone(), list.clone()]));
        }
        named.push((share, Guests { list: if by_service { own } else { list.clone() }, ttl: share_ttl }));
    }
    let own = gate::own_addresses();
    let mut enforcers = also(&a.also, &list)?;
    let file = traefik_file(a, main.is_some(), enforcers.is_empty());
    let take_over = file.as_ref().map(|f| earlier(f, &list, &rules)).transpose()?.unwrap_or_default();
    if let Some(file) = file {
        let api = a.traefik_api.as_deref().map(|u| url("TRAEFIK_API", u, "http://traefik:8080")).transpose()?;
        let style = traefik_style(a, &trusted, &own, notes)?;
        let (tcp, throttle) = (a.traefik_tcp.unwrap_or(false), a.traefik_throttle.unwrap_or(TRAEFIK_THROTTLE));
        enforcers.insert(
            0,
            enforce::Config::Traefik(enforce::TraefikConfig { file, middlewares, style, tcp, api, throttle }),
        );
    }
    let follows =
        hosts.into_iter().map(|host| Follow { list: list.clone(), host, until: None, pinned: false }).collect();
    let least = a.dns_least.and_then(|s| s.0).unwrap_or(Pace::default().least);
    Ok(GateSettings {
        data_dir: super::data_dir(global.data_dir.clone())?,
        lists,
        own,
        proxies: Proxies {
            trusted,
            header: a.trusted_header.map_or(AddressHeader::default(), AddressHeader::from),
            direct: a.check_direct.unwrap_or(false),
        },
        refusal: refusal(a)?,
        configured_by: ConfiguredBy::Environment,
        accept: accepted(&a.accept)?,
        listeners: listeners(a, main, &list)?,
        shares: named,
        share_paths: share_paths(a.share_paths.as_deref().unwrap_or_default())?,
        probes: a.probe.iter().map(|u| url("PROBE_URLS", u, "https://ha.example.com")).collect::<Result<_, _>>()?,
        follows,
        dns: Dns { servers: a.dns_servers.clone(), pace: Pace { least, ..Pace::default() } },
        enforcers,
        take_over,
        ahead: Ahead::default(),
    })
}

/// How Traefik finds a visitor's address. It reads a local file, so a public trusted proxy that is not this machine
/// stands in front of it: then who connects is that proxy, and the list must read the header.
fn traefik_style(a: &GatekeeperArgs, trusted: &AddrSet, own: &AddrSet, notes: &Notes) -> Result<TraefikStyle, Fail> {
    let key =
        if a.traefik_key == Some(KeyArg::IpWhiteList) { TraefikKey::IpWhiteList } else { TraefikKey::IpAllowList };
    if key == TraefikKey::IpWhiteList && a.traefik_reject_status.is_some() {
        return Err(Fail::usage(
            "TRAEFIK_REJECT_STATUS is a key of ipAllowList, which Traefik 3 reads",
            "leave it out, or TRAEFIK_KEY=ip-allow-list",
        ));
    }
    let excluded = a.traefik_excluded_ips.as_deref().map(str::trim).filter(|t| !t.is_empty());
    let strategy = match (a.traefik_depth, excluded) {
        (Some(_), Some(_)) => {
            return Err(Fail::usage("TRAEFIK_DEPTH and TRAEFIK_EXCLUDED_IPS exclude each other", "give one of them"));
        }
        (Some(depth), None) => Some(IpStrategy::Depth(depth)),
        (None, Some(text)) => {
            let set = set_of("TRAEFIK_EXCLUDED_IPS", &[text.to_string()], None, "TRAEFIK_EXCLUDED_IPS", notes)?;
            let all = set.prefixes().to_vec();
            (!all.is_empty()).then_some(IpStrategy::Excluded(all))
        }
        (None, None) => in_front(trusted, own, notes),
    };
    Ok(TraefikStyle { key, strategy, reject: a.traefik_reject_status })
}

fn refusal(a: &GatekeeperArgs) -> Result<RefusalPage, Fail> {
    let reason = a.refuse_reason.unwrap_or(false);
    RefusalPage::new(a.refuse_status, a.refuse_body.clone(), a.refuse_redirect.as_deref(), reason)
        .map_err(|e| Fail::usage(e, "such as --refuse-status 404, or --refuse-redirect https://example.com/knock"))
}

fn accepted(names: &[String]) -> Result<BTreeSet<FindingId>, Fail> {
    let named = names.iter().map(|n| n.trim()).filter(|n| !n.is_empty());
    named
        .map(|n| {
            n.parse().map_err(|e: String| Fail::usage(format!("DOCTOR_ACCEPT: {e}"), "names with commas between them"))
        })
        .collect()
}

fn max(a: &GatekeeperArgs) -> Result<usize, Fail> {
    // Gatekeeper documents the one and reads the other.
    let old = std::env::var("MAX_ALLOWED_IPS").ok();
    let set = |v: &Option<String>| v.as_deref().map(str::trim).filter(|v| !v.is_empty()).map(str::to_string);
    let (text, name) = match (set(&a.max), set(&old)) {
        (Some(new), Some(old)) if new != old => {
            warn!(MAX_IP_LEN = new, MAX_ALLOWED_IPS = old, "two limits are given; MAX_IP_LEN counts");
            (new, "MAX_IP_LEN")
        }
        (Some(new), _) => (new, "MAX_IP_LEN"),
        (None, Some(old)) => (old, "MAX_ALLOWED_IPS"),
        (None, None) => return Ok(DEFAULT_MAX_ENTRIES),
    };
    if text.trim() == "0" {
        return Err(Fail::usage(
            format!("{name}=0 would forget everybody who proves himself"),
            "give the number of addresses that your household uses at a time, such as 10",
        ));
    }
    let max = number(&text, name, "addresses", 1..=1_000_000)?;
    if max < DEFAULT_MAX_ENTRIES {
        info!(
            "{name}={max}: Gatekeeper never read it and kept {DEFAULT_MAX_ENTRIES}; here the {max} count, and who has no place is said"
        );
    }
    Ok(max)
}

fn guests(a: &GatekeeperArgs) -> Result<usize, Fail> {
    match a.guests.as_deref().map(str::trim).filter(|g| !g.is_empty()) {
        Some(text) => number(text, "MAX_GUESTS", "guests", 1..=MAX_GUESTS),
        None => Ok(Rules::default().guests.unwrap_or(DEFAULT_MAX_ENTRIES)),
    }
}

/// A number that may stand in quotes, as compose files keep them.
fn number(text: &str, name: &str, of: &str, range: std::ops::RangeInclusive<usize>) -> Result<usize, Fail> {
    let bare = text.trim().trim_matches(['"', '\'']);
    bare.parse().ok().filter(|n| range.contains(n)).ok_or_else(|| {
        Fail::usage(
            format!("{name}={text} is no number of {of}"),
            format!("give a whole number from {} to {}, such as 10", range.start(), range.end()),
        )
    })
}

pub(crate) fn source_range(text: &str) -> Result<(Vec<Prefix>, Vec<HostName>), Fail> {
    const NAME: &str = "DEFAULT_SOURCE_RANGE";
    let (mut out, mut hosts): (Vec<Prefix>, Vec<HostName>) = (Vec::new(), Vec::new());
    // Quotes around single entries are forgiven; names are taken out, the rest is a list like any other.
    let mut rest = String::new();
    for word in text.replace(['"', '\''], " ").split_inclusive(|c: char| c.is_whitespace() || matches!(c, ',' | ';')) {
        match word.trim_end_matches(|c: char| c.is_whitespace() || matches!(c, ',' | ';')) {
            name if name.starts_with("dns:") => {
                let wrong = |e| Fail::usage(format!("{NAME}: {e}"), "such as dns:home.example.net");
                hosts.push(name.parse().map_err(wrong)?);
            }
            _ => rest.push_str(word),
        }
    }
    let list = parse_list(&rest).map_err(|e| {
        let name = e.text.contains(|c: char| c.is_ascii_alphabetic() && !c.is_ascii_hexdigit())
            && format!("dns:{}", e.text).parse::<HostName>().is_ok();
        Fail::usage(
            format!("{NAME}: `{}`: {}", e.text, e.reason),
            if name {
                format!("a host name is followed as dns:{}", e.text)
            } else {
                "write addresses, prefixes, ranges and names with commas between them, such as 10.0.0.0/8,192.0.2.10-192.0.2.99,dns:home.example.net".to_string()
            },
        )
    })?;
    for w in &list.warnings {
        info!(variable = NAME, text = w.text, read_as = %w.normal, "entry has host bits");
    }
    for prefix in list.prefixes {
        if prefix.bits() == 0 {
            warn!(variable = NAME, %prefix, "everybody is let in");
        }
        if !out.contains(&prefix) {
            out.push(prefix);
        }
    }
    Ok((out, hosts))
}

fn trusted(text: Option<&str>, notes: &Notes) -> Result<AddrSet, Fail> {
    let Some(text) = text.map(str::trim).filter(|t| !t.is_empty()) else {
        say_private_proxies("TRUSTED_PROXIES", notes);
        return Ok(private_proxies());
    };
    let set = set_of("TRUSTED_PROXIES", &[text.to_string()], None, "TRUSTED_PROXIES", notes)?;
    let shown: Vec<String> = set.prefixes().iter().take(10).map(ToString::to_string).collect();
    info!(proxies = shown.join(", "), "trusted proxies");
    say_wide(&set, "TRUSTED_PROXIES", notes);
    Ok(set)
}

fn shares(text: &str) -> Result<Vec<Share>, Fail> {
    const NAME: &str = "SHARE_UPSTREAMS";
    let mut out: Vec<Share> = Vec::new();
    for item in text.split([',', ' ']).map(|t| t.trim_matches(['"', '\''])).filter(|t| !t.is_empty()) {
        let (name, at) = match item.split_once('=') {
            Some((name, at)) if !name.contains(':') => (Some(name.to_string()), at),
            _ => (None, item),
        };
        let base = url(NAME, at, "http://immich_server:2283")?;
        if base.path != "/" {
            return Err(Fail::usage(
                format!("{NAME}: {at} has a path"),
                "name only the scheme, host and port, such as http://immich_server:2283",
            ));
        }
        let taken = |name: &str| out.iter().any(|s| s.name == name);
        // The first upstream of a host has its name, another one its port as well: adding one renames none.
        let host = base.host.trim_matches(['[', ']']).replace(':', "-");
        let name = name.unwrap_or_else(|| if taken(&host) { format!("{host}-{}", base.port) } else { host });
        if !is_plain_name(&name) {
            return Err(Fail::usage(
                format!("{NAME}: `{name}` cannot name a middleware"),
                "put a name in front: photos=http://…",
            ));
        }
        if taken(&name) {
            return Err(Fail::usage(
                format!("{NAME}: two shares are called `{name}`"),
                "put names in front: photos=http://…,files=http://…",
            ));
        }
        out.push(Share { name, base });
    }
    Ok(out)
}

fn share_paths(text: &str) -> Result<Vec<Shape>, Fail> {
    let items = text.split([',', ' ', '\n']).map(|t| t.trim_matches(['"', '\''])).filter(|t| !t.is_empty());
    let wrong = |e| Fail::usage(format!("SHARE_PATHS: {e}"), "such as /gallery/{token}");
    items.map(|item| item.parse().map_err(wrong)).collect()
}

/// Where mirrored requests arrive: whoever reaches this place can put any address on the list, so that nobody but this
/// machine does unless asked for. In a container the place is the container's own, and proxies of its network reach it.
fn main_listener(a: &GatekeeperArgs) -> Result<Option<Listen>, Fail> {
    if let Some(text) = a.listen.as_deref().map(str::trim) {
        return if text == "none" { Ok(None) } else { place("--listen", text).map(Some) };
    }
    let guards = a.also.nft_ports.is_some() || a.check_listen.is_some();
    if guards && a.share_upstreams.is_none() && a.share_listen.is_none() && a.file.is_none() {
        info!("no mirrored requests are taken; --listen ADDRESS:PORT takes them");
        return Ok(None);
    }
    if in_container() && a.also.nft_ports.is_none() {
        return place("--listen", "0.0.0.0:5000").map(Some);
    }
    info!("mirrored requests are taken from this machine only; --listen ADDRESS:PORT takes them from others");
    place("--listen", "127.0.0.1:5000").map(Some)
}

/// True in a container of Docker, Podman, systemd-nspawn, LXC or Kubernetes, by the marks that they document.
fn in_container() -> bool {
    let marks = ["/.dockerenv", "/run/.containerenv", "/run/systemd/container"];
    marks.iter().any(|m| std::path::Path::new(m).exists())
        || ["container", "KUBERNETES_SERVICE_HOST"].iter().any(|v| std::env::var_os(v).is_some())
}

/// The file that Traefik reads, if there is a Traefik: somebody named it or asked for mirrored requests, or nothing else is
/// kept equal, as with Gatekeeper, or it is there from an earlier run.
fn traefik_file(a: &GatekeeperArgs, mirror: bool, alone: bool) -> Option<PathBuf> {
    if let Some(file) = &a.file {
        return Some(file.clone());
    }
    let default = PathBuf::from("dynamic-whitelist.yml");
    let named =
        a.traefik_api.is_some() || a.traefik_throttle.is_some() || a.traefik_key.is_some() || a.traefik_tcp.is_some();
    ((mirror && (alone || a.listen.is_some())) || named || default.exists()).then_some(default)
}

fn place(flag: &str, text: &str) -> Result<Listen, Fail> {
    Listen::parse(text)
        .map_err(|e| Fail::usage(format!("{flag}: {e}"), "such as 0.0.0.0:5000 or unix:/run/portcullis/gate.sock"))
}

fn listeners(a: &GatekeeperArgs, main: Option<Listen>, list: &str) -> Result<Vec<(Listen, Serves)>, Fail> {
    let list = list.to_string();
    let cert = a.certificate.map_or(Cert::Gate, Cert::from);
    let learn = vec![(list.clone(), cert)];
    let mut out = Vec::new();
    match (&a.share_listen, main) {
        (None, main) => out.extend(main.map(|at| (at, Serves::Gatekeeper { list }))),
        (Some(s), main) => {
            out.extend(main.map(|at| (at, Serves::Mirror { list, cert: Some(Cert::Traefik) })));
            out.push((place("--share-listen", s)?, Serves::Share));
        }
    }
    if let Some(c) = &a.check_listen {
        out.push((place("--check-listen", c)?, Serves::Check { learn, below: a.paths_below.unwrap_or(false) }));
    }
    Ok(out)
}

fn also(a: &AlsoArgs, list: &str) -> Result<Vec<enforce::Config>, Fail> {
    let words = |text: Option<&str>, default: &str| -> Vec<String> {
        text.unwrap_or(default).split_whitespace().map(str::to_string).collect()
    };
    let list = || list.to_string();
    let mut out = Vec::new();
    if let Some(file) = &a.nginx_file {
        out.push(enforce::Config::Nginx(enforce::NginxConfig {
            list: list(),
            file: file.clone(),
            test: words(a.nginx_test.as_deref(), "nginx -t -q"),
            reload: words(a.nginx_reload.as_deref(), "nginx -s reload"),
        }));
    }
    if let (Some(socket), Some(map)) = (&a.haproxy_socket, &a.haproxy_map) {
        out.push(enforce::Config::Haproxy(enforce::HaproxyConfig {
            list: list(),
            socket: socket.clone(),
            map: map.clone(),
        }));
    }
    if let Some(api) = &a.caddy_api {
        warn!(
            "each change closes every open WebSocket and stream of Caddy; forward_auth to /v1/check/{} does not",
            list()
        );
        out.push(enforce::Config::Caddy(enforce::CaddyConfig {
            list: list(),
            api: url("--caddy-api", api, "http://127.0.0.1:2019/id/gate/remote_ip/ranges")?,
        }));
    }
    if let Some(file) = &a.list_file {
        out.push(enforce::Config::File(enforce::FileConfig { list: list(), file: file.clone() }));
    }
    if let Some(ports) = &a.nft_ports {
        let table = a.nft_table.clone().unwrap_or_else(|| "portcullis".to_string());
        out.push(enforce::Config::Nftables(enforce::NftablesConfig {
            list: list(),
            ports: ports.clone(),
            table,
            on_failure: enforce::OnFailure::Closed,
        }));
    }
    if let Some(exec) = &a.exec {
        out.push(enforce::Config::Command(enforce::CommandConfig { list: list(), argv: words(Some(exec), "") }));
    }
    if let Some(to) = &a.webhook {
        out.push(enforce::Config::Webhook(enforce::WebhookConfig {
            list: list(),
            to: url("--webhook", to, "http://127.0.0.1:9000/list")?,
        }));
    }
    Ok(out)
}

fn url(name: &str, text: &str, such_as: &str) -> Result<Base, Fail> {
    text.trim().parse().map_err(|e| Fail::usage(format!("{name}: {e}"), format!("such as {such_as}")))
}

/// What an earlier gate left in the file: addresses that this list could have learned itself.
fn earlier(file: &std::path::Path, list: &str, rules: &Rules) -> Result<Vec<Event>, Fail> {
    let statics = AddrSet::new(rules.statics.iter().copied());
    let now = runtime::wall();
    let mut out = Vec::new();
    for p in gate::read_earlier(file, &[list.to_string()])? {
        if rules.statics.iter().any(|s| s.covers(p)) || statics.contains(p.first()) {
            continue;
        }
        let learnable = p.bits() >= if p.is_v4() { rules.v4_width } else { rules.v6_width };
        if !learnable && p != rules.learnt(p.first()) {
            info!(
                "{}: {p} is wider than anything learnt and is not taken over; add it to DEFAULT_SOURCE_RANGE if it should stay",
                file.display()
            );
            continue;
        }
        if p.first().is_private() && !rules.learn_private {
            info!(
                "{}: {p} is private and is not taken over; add it to DEFAULT_SOURCE_RANGE if it should stay",
                file.display()
            );
            continue;
        }
        out.push(Event::Add(Entry {
            list: list.to_string(),
            prefix: rules.learnt(p.first()),
            evidence: Evidence::Earlier,
            principal: None,
            until: rules.ttl.map(|t| now.saturating_add(t)),
            pinned: false,
        }));
    }
    Ok(out)
}
