//! What is typed for the gate: `gatekeeper`, `list`, `grant`, `audit`, `doctor`.

use std::path::PathBuf;

use addr::{Port, Timestamp};
use clap::{Args, Subcommand, ValueEnum};

/// A number of seconds, or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Option<u64>);

/// Who leaves a full list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum EvictArg {
    /// Who came first
    FirstSeen,
    /// Who was seen longest ago
    LeastRecentlySeen,
}

/// Whom a share link lets in where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ScopeArg {
    /// The guest enters the one list, as Gatekeeper documents
    List,
    /// The guest enters `dynamic-whitelist-NAME` of that share only
    Service,
}

/// Which key Traefik reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum KeyArg {
    /// Traefik 2.11 and 3
    IpAllowList,
    /// Traefik 2.0 to 2.10
    IpWhiteList,
}

/// Where a proxy writes whose certificate it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum CertArg {
    /// X-Gate-Cert-Subject and X-Gate-Cert-Fp, which its configuration must set
    Gate,
    /// X-Forwarded-Tls-Client-Cert-Info, as Traefik's passTLSClientCert writes subject and serial number
    Traefik,
    /// The same of clients that send their CA's certificate along
    TraefikChain,
}

/// In which header a proxy says where a visitor comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum HeaderArg {
    /// X-Forwarded-For
    XForwardedFor,
    /// Forwarded (RFC 7239)
    Forwarded,
}

impl From<CertArg> for gate::asked::Cert {
    fn from(a: CertArg) -> Self {
        match a {
            CertArg::Gate => Self::Gate,
            CertArg::Traefik => Self::Traefik,
            CertArg::TraefikChain => Self::TraefikChain,
        }
    }
}

impl From<HeaderArg> for access::visitor::AddressHeader {
    fn from(a: HeaderArg) -> Self {
        match a {
            HeaderArg::XForwardedFor => Self::XForwardedFor,
            HeaderArg::Forwarded => Self::Forwarded,
        }
    }
}

/// Run a gate as Gatekeeper does: learn addresses from mirrored requests and share links, and write Traefik's list.
#[derive(Debug, Clone, Args)]
pub(crate) struct GatekeeperArgs {
    /// Where mirrored requests and share questions arrive: ADDRESS:PORT, unix:PATH or `none` [default: 0.0.0.0:5000 in a container, else 127.0.0.1:5000; none with --nft-ports or --check-listen alone]
    #[arg(long, value_name = "PLACE", env = "PORTCULLIS_LISTEN")]
    pub(crate) listen: Option<String>,
    /// A place for share questions alone; then --listen takes only mirrored requests [default: as --listen]
    #[arg(long, value_name = "PLACE", env = "PORTCULLIS_SHARE_LISTEN")]
    pub(crate) share_listen: Option<String>,
    /// Where proxies ask /v1/check/LIST and /v1/learn/LIST, with /metrics and /healthz [default: nowhere]
    #[arg(long, value_name = "PLACE", env = "PORTCULLIS_CHECK_LISTEN")]
    pub(crate) check_listen: Option<String>,
    /// The file that Traefik reads [default: dynamic-whitelist.yml in the working directory, if mirrored requests are taken and nothing else is kept equal]
    #[arg(long, value_name = "FILE", env = "PORTCULLIS_FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Name of the list and of its middleware [default: dynamic-whitelist]
    #[arg(long, value_name = "NAME", env = "PORTCULLIS_LIST")]
    pub(crate) list: Option<String>,
    /// Most learned addresses, guests of share links apart [default: 10]; MAX_ALLOWED_IPS is read too
    #[arg(long, value_name = "N", env = "MAX_IP_LEN")]
    pub(crate) max: Option<String>,
    /// Addresses, prefixes and names (`dns:home.example.net`) that are always on the list, with commas between them; they do not count [default: none]
    #[arg(long, value_name = "LIST", env = "DEFAULT_SOURCE_RANGE")]
    pub(crate) default_source_range: Option<String>,
    /// Proxies whose X-Forwarded-For is believed [default: loopback and private ranges]
    #[arg(long, value_name = "LIST", env = "TRUSTED_PROXIES")]
    pub(crate) trusted_proxies: Option<String>,
    /// The header in which they say where a visitor comes from; the other is not read [default: x-forwarded-for]
    #[arg(long, value_name = "HEADER", env = "TRUSTED_HEADER")]
    pub(crate) trusted_header: Option<HeaderArg>,
    /// At the check endpoint, judge a peer that is no trusted proxy by its own address instead of refusing it [default: false]
    #[arg(long, value_name = "BOOL", env = "CHECK_DIRECT", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = clap::builder::BoolishValueParser::new(), hide_possible_values = true)]
    pub(crate) check_direct: Option<bool>,
    /// At the check and learn endpoints, let proxies append the visitor's path, as Envoy does; it means nothing [default: false]
    #[arg(long, value_name = "BOOL", env = "PORTCULLIS_PATHS_BELOW", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = clap::builder::BoolishValueParser::new(), hide_possible_values = true)]
    pub(crate) paths_below: Option<bool>,
    /// Where the proxy writes whose certificate it was, for /v1/learn/LIST [default: gate]
    #[arg(long, value_name = "WHERE", env = "PORTCULLIS_CERTIFICATE")]
    pub(crate) certificate: Option<CertArg>,
    /// Status of a refusal at the check and learn endpoints, 400 to 499 [default: 403]
    #[arg(long, value_name = "STATUS", env = "REFUSE_STATUS")]
    pub(crate) refuse_status: Option<u16>,
    /// Its body; HTML if it starts with `<` [default: refused]
    #[arg(long, value_name = "TEXT", env = "REFUSE_BODY")]
    pub(crate) refuse_body: Option<String>,
    /// Send the refused visitor there instead, with 302 [default: nowhere]
    #[arg(long, value_name = "URL", env = "REFUSE_REDIRECT")]
    pub(crate) refuse_redirect: Option<String>,
    /// Say the reason in X-Gate-Reason, which names lists; most proxies hand it to the visitor [default: false]
    #[arg(long, value_name = "BOOL", env = "REFUSE_REASON", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = clap::builder::BoolishValueParser::new(), hide_possible_values = true)]
    pub(crate) refuse_reason: Option<bool>,
    /// Findings that `doctor` does not count, by their names, with commas [default: none]
    #[arg(long, value_name = "NAMES", env = "DOCTOR_ACCEPT", value_delimiter = ',')]
    pub(crate) accept: Vec<String>,
    /// Sites of yours that `doctor` asks as a stranger would, without a certificate and with forged headers; with commas [default: none]
    #[arg(long, value_name = "URLS", env = "PROBE_URLS", value_delimiter = ',')]
    pub(crate) probe: Vec<String>,
    /// Name servers for `dns:` entries, with commas, with or without a port [default: those of the system]
    #[arg(long, value_name = "ADDRESSES", env = "DNS_SERVERS", value_delimiter = ',', value_parser = super::values::name_server)]
    pub(crate) dns_servers: Vec<std::net::SocketAddr>,
    /// How long at the least until a name is asked for again: 30s, 5m; at most an hour passes [default: 30s]
    #[arg(long, value_name = "TIME", env = "DNS_LEAST", value_parser = span)]
    pub(crate) dns_least: Option<Span>,
    /// Upstreams whose share links are checked, as http://HOST:PORT or NAME=http://HOST:PORT, with commas [default: none]
    #[arg(long, value_name = "URLS", env = "SHARE_UPSTREAMS")]
    pub(crate) share_upstreams: Option<String>,
    /// What share links look like, such as /gallery/{token}, with commas; beside those of Immich, Nextcloud, Seafile, Synology and Paperless, and any whose last part looks random [default: none]
    #[arg(long, value_name = "SHAPES", env = "SHARE_PATHS")]
    pub(crate) share_paths: Option<String>,
    /// Where a share link lets its guest in [default: list]
    #[arg(long, value_name = "SCOPE", env = "SHARE_SCOPE")]
    pub(crate) share_scope: Option<ScopeArg>,
    /// How long a share link's guest stays: 24h, 7d [default: 24h]
    #[arg(long, value_name = "TIME", env = "SHARE_TTL", value_parser = span)]
    pub(crate) share_ttl: Option<Span>,
    /// Most guests of share links; who has a certificate is never pushed out by them [default: 50]
    #[arg(long, value_name = "N", env = "MAX_GUESTS")]
    pub(crate) guests: Option<String>,
    /// Most addresses of one family for one person or certificate [default: no limit]
    #[arg(long, value_name = "N", env = "GRANT_DEVICES", value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) devices: Option<u16>,
    /// How long the old address of a device stays after its new one came: 5m, `never` (it is not ended) [default: 5m]
    #[arg(long, value_name = "TIME", env = "GRANT_GRACE", value_parser = span)]
    pub(crate) grace: Option<Span>,
    /// How long an address stays after its latest proof: 12h, 7d, `never` [default: 7d]
    #[arg(long, value_name = "TIME", env = "GRANT_TTL", value_parser = span)]
    pub(crate) ttl: Option<Span>,
    /// How long an address stays without a request at the check endpoint: 12h, 7d, `never` [default: never]
    #[arg(long, value_name = "TIME", env = "GRANT_IDLE", value_parser = span)]
    pub(crate) idle: Option<Span>,
    /// Who leaves a full list [default: first-seen]
    #[arg(long, value_name = "WHO", env = "PORTCULLIS_EVICT")]
    pub(crate) evict: Option<EvictArg>,
    /// Bits of a learned IPv6 prefix: 64 is a household, 128 one address [default: 64]
    #[arg(long, value_name = "BITS", env = "IPV6_PREFIX", value_parser = clap::value_parser!(u8).range(1..=128))]
    pub(crate) ipv6_prefix: Option<u8>,
    /// Bits of a learned IPv4 prefix: 32 is one address, 24 a part of a carrier's pool and everybody in it [default: 32]
    #[arg(long, value_name = "BITS", env = "IPV4_PREFIX", value_parser = clap::value_parser!(u8).range(16..=32))]
    pub(crate) ipv4_prefix: Option<u8>,
    /// Learn private, loopback and CGN addresses too [default: false]
    #[arg(long, value_name = "BOOL", env = "LEARN_PRIVATE", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = clap::builder::BoolishValueParser::new(), hide_possible_values = true)]
    pub(crate) learn_private: Option<bool>,
    /// The key in Traefik's file [default: ip-allow-list]
    #[arg(long, value_name = "KEY", env = "TRAEFIK_KEY")]
    pub(crate) traefik_key: Option<KeyArg>,
    /// Write the middlewares for TCP routers too [default: false]
    #[arg(long, value_name = "BOOL", env = "TRAEFIK_TCP", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = clap::builder::BoolishValueParser::new(), hide_possible_values = true)]
    pub(crate) traefik_tcp: Option<bool>,
    /// Which entry of X-Forwarded-For, from the right, Traefik's list takes for the visitor [default: who connects to it]
    #[arg(long, value_name = "N", env = "TRAEFIK_DEPTH", value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) traefik_depth: Option<u8>,
    /// Or: the last entry that is none of these proxies in front of it; `none`: who connects to it [default: the public ones of TRUSTED_PROXIES]
    #[arg(long, value_name = "LIST", env = "TRAEFIK_EXCLUDED_IPS")]
    pub(crate) traefik_excluded_ips: Option<String>,
    /// The status with which Traefik's list refuses, 400 to 499 [default: 403]
    #[arg(long, value_name = "STATUS", env = "TRAEFIK_REJECT_STATUS", value_parser = clap::value_parser!(u16).range(400..500))]
    pub(crate) traefik_reject_status: Option<u16>,
    /// Traefik's providersThrottleDuration: without its API a new guest's first answer waits this long for it to read the list, 10s at most [default: 2s]
    #[arg(long, value_name = "TIME", env = "TRAEFIK_THROTTLE", value_parser = throttle)]
    pub(crate) traefik_throttle: Option<std::time::Duration>,
    /// Traefik's API, to see when it has read the list, such as http://traefik:8080 [default: not asked]
    #[arg(long, value_name = "URL", env = "TRAEFIK_API")]
    pub(crate) traefik_api: Option<String>,
    /// Print a unit for this command line instead of running it
    #[arg(long, value_enum, value_name = "FORM")]
    pub(crate) generate: Option<super::client::Generate>,
    #[command(flatten)]
    pub(crate) also: AlsoArgs,
}

/// What else is kept equal to the list.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Keep equal too")]
pub(crate) struct AlsoArgs {
    /// nginx: a file for `geo $var { default 0; include FILE; }`; tested and reloaded at each change
    #[arg(long, value_name = "FILE", env = "PORTCULLIS_NGINX_FILE")]
    pub(crate) nginx_file: Option<PathBuf>,
    /// How nginx is tested [default: nginx -t -q]
    #[arg(long, value_name = "COMMAND", env = "PORTCULLIS_NGINX_TEST", requires = "nginx_file")]
    pub(crate) nginx_test: Option<String>,
    /// How nginx is reloaded [default: nginx -s reload]
    #[arg(long, value_name = "COMMAND", env = "PORTCULLIS_NGINX_RELOAD", requires = "nginx_file")]
    pub(crate) nginx_reload: Option<String>,
    /// HAProxy: its `stats socket` with level admin
    #[arg(long, value_name = "SOCKET", env = "PORTCULLIS_HAPROXY_SOCKET", requires = "haproxy_map")]
    pub(crate) haproxy_socket: Option<PathBuf>,
    /// HAProxy: the map file as its configuration names it
    #[arg(long, value_name = "FILE", env = "PORTCULLIS_HAPROXY_MAP", requires = "haproxy_socket")]
    pub(crate) haproxy_map: Option<PathBuf>,
    /// Caddy: admin API and path of the ranges; each change closes its open streams
    #[arg(long, value_name = "URL", env = "PORTCULLIS_CADDY_API")]
    pub(crate) caddy_api: Option<String>,
    /// A plain file, one prefix a line, which an edge follows as `--allow-ips @FILE`
    #[arg(long, value_name = "FILE", env = "PORTCULLIS_LIST_FILE")]
    pub(crate) list_file: Option<PathBuf>,
    /// nftables: ports that only the list may reach, such as 25565,27015-27030/udp; without /tcp or /udp both; needs root or CAP_NET_ADMIN
    #[arg(long, value_name = "PORTS", env = "PORTCULLIS_NFT_PORTS", value_parser = Port::parse_list)]
    pub(crate) nft_ports: Option<std::collections::BTreeSet<Port>>,
    /// nftables: the name of the table, one for each gate of a machine [default: portcullis]
    #[arg(long, value_name = "NAME", env = "PORTCULLIS_NFT_TABLE", requires = "nft_ports", value_parser = table_name)]
    pub(crate) nft_table: Option<String>,
    /// Run this at each change, with the entries on its standard input; words are split at spaces, there is no shell
    #[arg(long = "exec", value_name = "COMMAND", env = "PORTCULLIS_EXEC")]
    pub(crate) exec: Option<String>,
    /// POST the entries as JSON to this URL at each change
    #[arg(long, value_name = "URL", env = "PORTCULLIS_WEBHOOK")]
    pub(crate) webhook: Option<String>,
}

/// How a gate's command prints.
#[derive(Debug, Clone, Args)]
pub(crate) struct JsonArgs {
    /// Print JSON [default: false]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL", env = "PORTCULLIS_JSON", hide_possible_values = true)]
    pub(crate) json: Option<bool>,
}

/// Guarded ports, beside the gate that runs.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum NftCommand {
    /// Close the guarded ports before there is a network: to everybody but the entries that the configuration names
    Boot(NftBootArgs),
    /// Open the guarded ports to everybody: take the table away, until the gate runs again
    Open {
        /// The table [default: portcullis]
        #[arg(long = "nft-table", value_name = "NAME", env = "PORTCULLIS_NFT_TABLE", value_parser = table_name)]
        table: Option<String>,
        /// Every table that the gate of the data directory had when it last started, instead of one [default: false]
        #[arg(long, conflicts_with = "table")]
        all: bool,
    },
}

/// What is closed at boot: as the gate is told itself.
#[derive(Debug, Clone, Args)]
pub(crate) struct NftBootArgs {
    /// The file that `serve` reads; its [[gate.nftables]] say what is guarded
    #[arg(long, value_name = "FILE", env = "PORTCULLIS_CONFIG", conflicts_with = "nft_ports")]
    pub(crate) config: Option<PathBuf>,
    /// As for `gatekeeper`
    #[arg(long, value_name = "PORTS", env = "PORTCULLIS_NFT_PORTS", value_parser = Port::parse_list)]
    pub(crate) nft_ports: Option<std::collections::BTreeSet<Port>>,
    /// As for `gatekeeper`
    #[arg(long, value_name = "NAME", env = "PORTCULLIS_NFT_TABLE", requires = "nft_ports", value_parser = table_name)]
    pub(crate) nft_table: Option<String>,
    /// As for `gatekeeper`; names (`dns:…`) are let in once the gate runs
    #[arg(long, value_name = "LIST", env = "DEFAULT_SOURCE_RANGE", requires = "nft_ports")]
    pub(crate) default_source_range: Option<String>,
    /// Print a unit that does this before the network is up, instead of doing it
    #[arg(long, value_enum, value_name = "FORM")]
    pub(crate) generate: Option<super::client::Generate>,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ListsArgs {
    #[command(subcommand)]
    pub(crate) what: Option<ListsCommand>,
    #[command(flatten)]
    pub(crate) admin: super::AdminArgs,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ListsCommand {
    /// What is on a list; of a gate's: who, from where, since when, until when, by what evidence, and which enforcers have it
    Show {
        /// The list [default: the only one]
        name: Option<String>,
        #[command(flatten)]
        json: JsonArgs,
    },
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum GrantCommand {
    /// Let an address or a prefix in by hand
    Add {
        /// Address, prefix, range (192.0.2.10-192.0.2.20), or dns:HOSTNAME, which is followed
        prefix: String,
        /// The list [default: the only one]
        #[arg(long, value_name = "NAME")]
        list: Option<String>,
        /// For how long: 12h, 7d, `never` [default: never]
        #[arg(long = "for", value_name = "TIME", value_parser = span)]
        span: Option<Span>,
        /// Who it is for
        #[arg(long, value_name = "NAME")]
        principal: Option<String>,
        /// Break-glass: no limit of the list removes it
        #[arg(long)]
        pin: bool,
        /// Yes, that many addresses: asked for with 0.0.0.0/0 and other very wide prefixes
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        json: JsonArgs,
    },
    /// Show the grants of a list
    List {
        /// The list [default: every list]
        name: Option<String>,
        #[command(flatten)]
        json: JsonArgs,
    },
    /// End grants now: g17, an address, a prefix (or, if it is no grant itself, all within it), a person's name, or dns:HOSTNAME
    Revoke {
        /// Which
        what: String,
        /// Let no proof count for so long: 1h, 7d, `ever` [default: the next proof lets them in again]
        #[arg(long = "for", value_name = "TIME", value_parser = ban_span)]
        span: Option<Span>,
        /// End wider grants around it too
        #[arg(long)]
        wider: bool,
        /// End narrower grants within it too, if it is a grant itself
        #[arg(long)]
        within: bool,
        /// Only on this list [default: all]
        #[arg(long, value_name = "NAME")]
        list: Option<String>,
        #[command(flatten)]
        json: JsonArgs,
    },
    /// Let proofs count again of whom `grant revoke --for` keeps out: an address, a prefix or a name
    Unban {
        /// Whom
        what: String,
        /// Only on this list [default: all]
        #[arg(long, value_name = "NAME")]
        list: Option<String>,
        #[command(flatten)]
        json: JsonArgs,
    },
    /// Set when grants end, counted from now; what a proof gave for longer stays
    Extend {
        /// Which
        what: String,
        /// For how long: 12h, 7d, `never`
        #[arg(long = "for", value_name = "TIME", value_parser = span)]
        span: Span,
        /// What proofs gave ends then too, until the next one
        #[arg(long)]
        shorten: bool,
        /// Only on this list [default: all]
        #[arg(long, value_name = "NAME")]
        list: Option<String>,
        #[command(flatten)]
        json: JsonArgs,
    },
}

#[derive(Debug, Clone, Args)]
pub(crate) struct AuditArgs {
    #[command(subcommand)]
    pub(crate) what: Option<AuditCommand>,
    /// Only what is about this address or prefix [default: all]
    #[arg(long, value_name = "PREFIX")]
    pub(crate) address: Option<String>,
    /// Only this list [default: all]
    #[arg(long, value_name = "NAME")]
    pub(crate) list: Option<String>,
    /// Only this person, or whose name holds this [default: all]
    #[arg(long, value_name = "NAME")]
    pub(crate) who: Option<String>,
    /// Only this: given, revoked, expired, evicted, extended, superseded, lapsed, banned, unbanned, …; with commas [default: all]
    #[arg(long = "what", value_name = "WORDS", value_delimiter = ',')]
    pub(crate) what_happened: Vec<String>,
    /// Only since then: 24h, 7d, 2026-11-28, 2026-11-28T14:00:00Z [default: all]
    #[arg(long, value_name = "TIME", value_parser = since)]
    pub(crate) since: Option<Since>,
    /// Only the last N lines [default: all]
    #[arg(long, value_name = "N")]
    pub(crate) last: Option<usize>,
    #[command(flatten)]
    pub(crate) json: JsonArgs,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum AuditCommand {
    /// Check that no line was changed, moved or taken out
    Verify {
        /// The log [default: all logs of the data directory]
        file: Option<PathBuf>,
    },
}

/// `2s`, `200ms`: at most ten seconds, as no guest waits longer.
pub(crate) fn throttle(text: &str) -> Result<std::time::Duration, String> {
    let time = super::values::duration(text)?;
    if time > std::time::Duration::from_secs(10) { Err("wanted at most 10s".to_string()) } else { Ok(time) }
}

/// A name that `nft` takes without quotes.
fn table_name(text: &str) -> Result<String, String> {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if plain && text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.len() <= 64 {
        return Ok(text.to_string());
    }
    Err("wanted at most 64 letters, digits and `_`, a letter first".to_string())
}

/// A length of time, `ever`, `forever`.
fn ban_span(text: &str) -> Result<Span, String> {
    if matches!(text.trim(), "ever" | "forever") {
        return Ok(Span(None));
    }
    span(text).map_err(|_| "wanted a length of time such as `1h` or `7d`, or `ever`".to_string())
}

/// A moment: so many seconds ago, or seconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Since {
    Ago(u64),
    At(u64),
}

/// `24h`, `2026-11-28`, `2026-11-28T14:00:00Z`, with a blank for the `T` as `audit` prints it.
fn since(text: &str) -> Result<Since, String> {
    if let Ok(Span(Some(secs))) = span(text) {
        return Ok(Since::Ago(secs));
    }
    let wrong = || format!("`{text}` is no length of time (24h) and no date (2026-11-28, 2026-11-28T14:00:00Z)");
    let bare = text.trim().trim_end_matches('Z');
    let (date, time) = bare.split_once(['T', ' ']).unwrap_or((bare, "0:0:0"));
    let numbers = |t: &str, by: char| -> Option<Vec<u32>> { t.split(by).map(|n| n.parse().ok()).collect() };
    let (Some(date), Some(time)) = (numbers(date, '-'), numbers(time, ':')) else { return Err(wrong()) };
    let ([y @ 1970..=9999, m, d], [h, rest @ ..]) = (&date[..], &time[..]) else { return Err(wrong()) };
    let (min, sec) = match rest {
        [] => (0, 0),
        [min] => (*min, 0),
        [min, sec] => (*min, *sec),
        _ => return Err(wrong()),
    };
    let at = format!("{y:04}-{m:02}-{d:02}T{h:02}:{min:02}:{sec:02}Z").parse::<Timestamp>();
    at.map(|at| Since::At(at.0)).map_err(|_| wrong())
}

/// `90s`, `15m`, `24h`, `7d`, `never`.
pub(crate) fn span(text: &str) -> Result<Span, String> {
    let t = text.trim();
    if matches!(t, "never" | "off" | "none") {
        return Ok(Span(None));
    }
    let wrong = || "wanted a length of time such as `90s`, `24h` or `7d`, or `never`".to_string();
    let unit_at = t.find(|c: char| !c.is_ascii_digit()).unwrap_or(t.len());
    let (number, unit) = t.split_at(unit_at);
    let scale = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    // A century: longer is a typo.
    let secs = number.checked_mul(scale).filter(|s| (1..=3_155_760_000).contains(s));
    secs.map(|s| Span(Some(s))).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        for (text, at) in [
            ("2026-11-28", 1_795_824_000),
            ("2026-11-28T14:00:00Z", 1_795_874_400),
            ("2026-11-28 14:00:01", 1_795_874_401),
            ("2026-11-28T14:02", 1_795_874_520),
            ("1970-01-01", 0),
        ] {
            assert_eq!(since(text), Ok(Since::At(at)), "{text}");
        }
        assert_eq!(since("24h"), Ok(Since::Ago(86_400)));
        for wrong in
            ["", "2026-02-30", "1969-12-31", "2026-11", "2026-11-28T", "2026-11-28T25", "2026-11-28T1:2:3:4", "x"]
        {
            assert!(since(wrong).is_err(), "{wrong}");
        }
    }
}
