//! What is typed for the mesh: `control`, `users`, `keys`, `nodes`, `routes`, `apps`, `dns`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::gate::{JsonArgs, Span, span};

/// Run the coordination server that the official Tailscale clients join with `--login-server`.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ControlArgs {
    /// How clients reach it: http://HOST:PORT, or https://HOST behind a proxy or with a certificate
    #[arg(long, value_name = "URL", env = "PORTCULLIS_SERVER_URL")]
    pub(crate) server_url: Option<String>,
    /// Where it listens, for HTTP and TLS alike; repeatable [default: 0.0.0.0:8080]
    #[arg(long, value_name = "ADDR:PORT", env = "PORTCULLIS_LISTEN")]
    pub(crate) listen: Vec<SocketAddr>,
    /// Where it answers STUN, over UDP; `off` for not at all [default: 0.0.0.0:3478]
    #[arg(long, value_name = "ADDR:PORT", env = "PORTCULLIS_STUN")]
    pub(crate) stun: Option<String>,
    /// Relay packets of nodes that do not reach each other [default: true]
    #[arg(long, value_name = "BOOL", env = "PORTCULLIS_RELAY", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true)]
    pub(crate) relay: Option<bool>,
    /// Relays beside its own, as a JSON DERPMap [default: none]
    #[arg(long, value_name = "FILE", env = "PORTCULLIS_DERP_MAP")]
    pub(crate) derp_map: Option<PathBuf>,
    /// The policy in force from the start, HuJSON [default: what `policy set` put in force; without any, all of one's own is reachable]
    #[arg(long, value_name = "FILE", env = "PORTCULLIS_POLICY")]
    pub(crate) policy: Option<PathBuf>,
    /// A TOML file with these settings; flags and environment go before it [default: none]
    #[arg(long, value_name = "FILE", env = "PORTCULLIS_CONFIG")]
    pub(crate) config: Option<PathBuf>,
    /// Certificate chain, PEM [default: one of its own that relay clients pin]
    #[arg(long, value_name = "FILE", env = "PORTCULLIS_TLS_CERT", requires = "tls_key")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", env = "PORTCULLIS_TLS_KEY", requires = "tls_cert")]
    pub(crate) tls_key: Option<PathBuf>,
    /// The network's own domain for the names of nodes [default: mesh.internal]
    #[arg(long, value_name = "DOMAIN", env = "PORTCULLIS_DOMAIN")]
    pub(crate) domain: Option<String>,
    /// Where IPv4 addresses of nodes come from, inside 100.64.0.0/10 [default: 100.64.0.0/10]
    #[arg(long, value_name = "CIDR", env = "PORTCULLIS_IPV4")]
    pub(crate) ipv4: Option<String>,
    /// Where IPv6 addresses of nodes come from, inside fd7a:115c:a1e0::/48 [default: fd7a:115c:a1e0::/48]
    #[arg(long, value_name = "CIDR", env = "PORTCULLIS_IPV6")]
    pub(crate) ipv6: Option<String>,
    /// How long a person's node stays logged in: 180d, `never` [default: never]
    #[arg(long, value_name = "TIME", env = "PORTCULLIS_NODE_EXPIRY", value_parser = span)]
    pub(crate) node_expiry: Option<Span>,
    /// How long an address of an app keeps its route without its name answering with it: 24h, `never` [default: 24h]
    #[arg(long, value_name = "TIME", env = "PORTCULLIS_APP_EXPIRY", value_parser = span)]
    pub(crate) app_expiry: Option<Span>,
    /// How many addresses of one app have a route at one connector [default: 1000]
    #[arg(long, value_name = "N", env = "PORTCULLIS_APP_ROUTES", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) app_routes: Option<u32>,
    /// Who is asked for the names of apps, as the connectors see them; repeatable [default: this machine's nameservers]
    #[arg(long, value_name = "ADDR", env = "PORTCULLIS_APP_RESOLVER")]
    pub(crate) app_resolver: Vec<String>,
    /// Where Prometheus finds /metrics; keep it private [default: nowhere]
    #[arg(long, value_name = "ADDR:PORT", env = "PORTCULLIS_METRICS")]
    pub(crate) metrics: Option<SocketAddr>,
    /// Proxies whose X-Forwarded-For is believed [default: none]
    #[arg(long, value_name = "LIST", env = "PORTCULLIS_TRUSTED_PROXIES")]
    pub(crate) trusted_proxies: Vec<String>,
    /// Print a systemd unit for this command line instead of running it
    #[arg(long, value_name = "KIND")]
    pub(crate) generate: Option<super::client::Generate>,
}

/// People whose nodes join.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum UsersCommand {
    /// Add a user
    Create {
        /// A name, or an address such as ada@example.com
        name: String,
        /// owner, admin, network-admin, it-admin, billing-admin, auditor or member [default: owner for the first, member after]
        #[arg(long, value_name = "ROLE")]
        role: Option<String>,
        #[command(flatten)]
        json: JsonArgs,
    },
    /// Show all users
    List(JsonArgs),
    /// Give a user another name; rules of the policy go by names
    Rename {
        /// Which
        name: String,
        /// The new name
        new: String,
        #[command(flatten)]
        json: JsonArgs,
    },
    /// Give a user a role; a new owner takes the old one's place, who becomes an admin
    Role {
        /// Which
        name: String,
        /// owner, admin, network-admin, it-admin, billing-admin, auditor or member
        role: String,
        #[command(flatten)]
        json: JsonArgs,
    },
    /// Take a user without nodes away
    Delete {
        /// Which
        name: String,
        #[command(flatten)]
        json: JsonArgs,
    },
}

/// Keys with which nodes join unasked.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum KeysCommand {
    /// Make a key and print it; it is not shown again
    Create {
        /// Whose nodes these will be
        #[arg(long, value_name = "NAME", required_unless_present = "tags")]
        user: Option<String>,
        /// For any number of nodes [default: for one]
        #[arg(long)]
        reusable: bool,
        /// Its nodes are forgotten when they are gone
        #[arg(long)]
        ephemeral: bool,
        /// Tags of its nodes, with commas: tag:router,tag:dns
        #[arg(long, value_name = "TAGS", value_delimiter = ',')]
        tags: Vec<String>,
        /// How long it is good for: 24h, 7d, `never` [default: 24h]
        #[arg(long, value_name = "TIME", value_parser = span)]
        expiry: Option<Span>,
        #[command(flatten)]
        json: JsonArgs,
    },
    /// Show all keys, without their secrets
    List(JsonArgs),
    /// Take a key back; nodes that joined with it stay
    Revoke {
        /// Its number
        id: u64,
        #[command(flatten)]
        json: JsonArgs,
    },
}

/// Members of the network.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum NodesCommand {
    /// Show all nodes, and those that wait
    List(JsonArgs),
    /// Show all there is about a node
    Show {
        /// Name, number or address
        node: String,
        #[command(flatten)]
        json: JsonArgs,
    },
    /// Let a waiting node join
    Approve {
        /// What its page, or `nodes list`, calls it
        node: String,
        /// Whose it is [default: the only user]
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        #[command(flatten)]
        json: JsonArgs,
    },
    /// Turn a waiting node away
    Refuse {
        /// What its page, or `nodes list`, calls it
        node: String,
        #[command(flatten)]
        json: JsonArgs,
    },
    /// Log a node out
    Expire {
        /// Name, number or address
        node: String,
        #[command(flatten)]
        json: JsonArgs,
    },
    /// Give a node another name
    Rename {
        /// Name, number or address
        node: String,
        /// The new name
        name: String,
        #[command(flatten)]
        json: JsonArgs,
    },
    /// Give a node to another user
    Move {
        /// Name, number or address
        node: String,
        /// Whose it will be
        #[arg(long, value_name = "NAME")]
        user: String,
        #[command(flatten)]
        json: JsonArgs,
    },
    /// Give a node these tags in place of those it has
    Tag {
        /// Name, number or address
        node: String,
        /// Tags such as tag:router; none gives it back to its user
        tags: Vec<String>,
        #[command(flatten)]
        json: JsonArgs,
    },
    /// Take a node away
    Delete {
        /// Name, number or address
        node: String,
        #[command(flatten)]
        json: JsonArgs,
    },
}

/// Routes that nodes offer.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum RoutesCommand {
    /// Show all routes, and what became of them
    List(JsonArgs),
    /// Let routes of a node be used
    Approve {
        /// Name, number or address
        node: String,
        /// Prefixes such as 198.51.100.7/32; `exit` for an exit node
        #[arg(required = true)]
        routes: Vec<String>,
        #[command(flatten)]
        json: JsonArgs,
    },
    /// Take routes of a node back
    Revoke {
        /// Name, number or address
        node: String,
        /// Prefixes such as 198.51.100.7/32; `exit` for an exit node
        #[arg(required = true)]
        routes: Vec<String>,
        #[command(flatten)]
        json: JsonArgs,
    },
    /// Say which router carries an address for whom, and every address that traffic may come from; exit 3 where nobody may pass
    Check {
        /// The address
        address: String,
        #[command(flatten)]
        json: JsonArgs,
    },
}

/// Services that are reached by name through a connector.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum AppsCommand {
    /// Show all apps of the policy
    List(JsonArgs),
    /// Show what an app stands for: domains, addresses, since when, by which connector
    Show {
        /// Its name in the policy
        name: String,
        #[command(flatten)]
        json: JsonArgs,
    },
}

/// Names inside the network.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum DnsCommand {
    /// Show who is asked for which names
    Show(JsonArgs),
    /// Who is asked for everything else; none leaves it to each node
    Nameservers {
        /// Addresses such as 9.9.9.9
        servers: Vec<String>,
        #[command(flatten)]
        json: JsonArgs,
    },
    /// Who is asked for a domain and what is below it; none takes it away
    Split {
        /// The domain
        domain: String,
        /// Addresses such as 10.0.0.53
        servers: Vec<String>,
        #[command(flatten)]
        json: JsonArgs,
    },
    /// Domains that are tried after a short name
    Search {
        /// The domains
        domains: Vec<String>,
        #[command(flatten)]
        json: JsonArgs,
    },
    /// Add a name of one's own
    Add {
        /// The full name
        name: String,
        /// Its address
        address: String,
        #[command(flatten)]
        json: JsonArgs,
    },
    /// Take a name of one's own away
    Remove {
        /// The full name
        name: String,
        #[command(flatten)]
        json: JsonArgs,
    },
}
