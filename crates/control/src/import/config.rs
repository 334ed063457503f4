//! What stands in Headscale's `config.yaml`. In: the file. Out: settings for `[control]`, names, and where its keys and its
//! policy are; every other key that is set, with what becomes of it. Source: Headscale's `config-example.yaml`.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use runtime::hint::Hinted;
use serde_json::Value;
use tailnet_proto::tailcfg::map::DnsRecord;

use super::{Sources, text_of};

/// Files that the configuration names.
#[derive(Debug, Default)]
pub(super) struct Named {
    pub(super) noise_key: Option<PathBuf>,
    pub(super) derp_key: Option<PathBuf>,
    pub(super) policy_file: Option<PathBuf>,
    pub(super) policy_in_database: bool,
}

/// Keys that are not carried: what they begin with, and what becomes of it. The first that fits counts; nothing is said
/// where there is nothing to say.
const NOT: [(&str, &str); 27] = [
    ("database.", ""),
    ("log.", ""),
    ("unix_socket", ""),
    ("disable_check_updates", ""),
    ("tuning.", ""),
    ("noise.", ""),
    ("policy.", ""),
    ("derp.server.private_key_path", ""),
    ("derp.server.automatically_add_embedded_derp_region", ""),
    ("derp.server.region", "this server's relay is a region of its own; clients move over by themselves"),
    ("derp.server.verify_clients", "this server's relay serves its own nodes only"),
    ("derp.server.ipv", "clients find this server's relay by the server's own name"),
    ("derp.", "relays of others are given with `--derp-map FILE`, as JSON; without it clients use this server's own"),
    ("acme_", "certificates are not ordered here"),
    ("tls_letsencrypt", "certificates are not ordered here: give `tls_cert` and `tls_key`, or put a proxy in front"),
    ("grpc_", "there is no gRPC here: commands go over a socket of the data directory"),
    ("oidc.", "nobody logs in by OpenID Connect here: nodes join with a key or are approved; users keep their names"),
    ("logtail.", "clients are told to send no logs to Tailscale"),
    ("randomize_client_port", "this is `randomizeClientPort` of the policy"),
    ("taildrop.", "files may be sent between the nodes of one person"),
    ("auto_update.", "clients are not told whether to update themselves"),
    ("prefixes.allocation", "addresses are given in order"),
    ("node.ephemeral.", "an ephemeral node is forgotten after five minutes away"),
    ("ephemeral_node_inactivity_timeout", "an ephemeral node is forgotten after five minutes away"),
    ("node.routes.", "routers are asked whether they live without a setting"),
    ("dns.magic_dns", "names of nodes are always answered; a client may say `--accept-dns=false`"),
    (
        "dns.override_local_dns",
        "nameservers that only fill a gap are not known here: set them with `portcullis dns nameservers`",
    ),
];

pub(super) fn read(path: &Path, out: &mut Sources) -> anyhow::Result<Named> {
    let text = text_of(path, "configuration")?;
    let config: Value = serde_saphyr::from_str(&text).map_err(|e| {
        Hinted::error(
            format!("{} is no YAML that can be read: {e}", path.display()),
            "is it Headscale's config.yaml? Without `--config`, give `--noise-key` and `--policy` by hand",
        )
    })?;
    if !config.is_object() {
        bail!("{} holds no settings", path.display());
    }
    let get = |key: &str| key.split('.').try_fold(&config, |v, k| v.get(k)).filter(|v| is_set(v));
    let word = |key: &str| get(key).map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_string));
    if word("database.type").is_some_and(|t| t.starts_with("postgres")) {
        return Err(Hinted::error(
            format!("{}: the database is PostgreSQL, and only SQLite is read", path.display()),
            "Headscale moves it: https://headscale.net/stable/about/faq/",
        ));
    }
    // What follows is carried; the rest is listed.
    let mut carried: Vec<String> = Vec::new();
    let mut take = |key: &str| {
        carried.push(key.to_string());
        word(key)
    };
    for (key, ours) in [
        ("server_url", "server_url"),
        ("dns.base_domain", "domain"),
        ("prefixes.v4", "ipv4"),
        ("prefixes.v6", "ipv6"),
        ("metrics_listen_addr", "metrics"),
        ("tls_cert_path", "tls_cert"),
        ("tls_key_path", "tls_key"),
    ] {
        if let Some(mut value) = take(key) {
            if ours.starts_with("tls") {
                value = beside(path, &value).display().to_string();
            }
            out.settings.insert(ours.into(), value.trim_end_matches('/').into());
        }
    }
    if let Some(listen) = take("listen_addr") {
        out.settings.insert("listen".into(), Value::from(vec![everywhere(&listen)]));
    }
    if let Some(expiry) = take("node.expiry").filter(|e| e != "0") {
        out.settings.insert("node_expiry".into(), expiry.into());
    }
    let relay = take("derp.server.enabled").as_deref() == Some("true");
    if let Some(stun) = take("derp.server.stun_listen_addr").filter(|_| relay) {
        out.settings.insert("stun".into(), everywhere(&stun).into());
    }
    if let Some(proxies) = get("trusted_proxies") {
        out.settings.insert("trusted_proxies".into(), proxies.clone());
    }
    carried.push("trusted_proxies".into());
    let named = Named {
        noise_key: word("noise.private_key_path").map(|p| beside(path, &p)),
        derp_key: word("derp.server.private_key_path").filter(|_| relay).map(|p| beside(path, &p)),
        policy_file: word("policy.path").map(|p| beside(path, &p)),
        policy_in_database: word("policy.mode").as_deref() == Some("database"),
    };
    dns(path, &config, out, &mut carried)?;
    let mut rest = Vec::new();
    leaves("", &config, &mut rest);
    let mut said: Vec<&str> = Vec::new();
    for (key, value) in rest {
        let is = |c: &String| key == *c || key.strip_prefix(c.as_str()).is_some_and(|r| r.starts_with('.'));
        if carried.iter().any(is) || is_default(&key, value) {
            continue;
        }
        let why = NOT.iter().find(|(begin, _)| key.starts_with(begin));
        let (begin, why) = why.copied().unwrap_or(("", "there is no such setting here"));
        // One line for a family of keys.
        if why.is_empty() || (!begin.is_empty() && said.contains(&begin)) {
            continue;
        }
        said.push(begin);
        out.not(format!("config {key}: {}", short(value)), why);
    }
    Ok(named)
}

/// Names: who is asked for them, and own ones.
fn dns(path: &Path, config: &Value, out: &mut Sources, carried: &mut Vec<String>) -> anyhow::Result<()> {
    let Some(dns) = config.get("dns") else { return Ok(()) };
    let texts = |v: &Value| -> Vec<String> {
        v.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_string).collect()
    };
    let names = &mut out.network.names;
    let servers = dns.get("nameservers").unwrap_or(&Value::Null);
    if dns.get("override_local_dns").and_then(Value::as_bool).unwrap_or(true) {
        names.nameservers = servers.get("global").map(texts).unwrap_or_default();
        carried.extend(["dns.nameservers.global", "dns.override_local_dns"].map(String::from));
    } else if servers.get("global").is_none_or(|g| !is_set(g)) {
        carried.push("dns.override_local_dns".into());
    } else {
        // Its own line says why.
        carried.push("dns.nameservers.global".into());
    }
    for (domain, list) in servers.get("split").and_then(Value::as_object).into_iter().flatten() {
        names.split.insert(domain.clone(), texts(list));
    }
    names.search = dns.get("search_domains").map(texts).unwrap_or_default();
    let mut records: Vec<Value> = dns.get("extra_records").and_then(Value::as_array).cloned().unwrap_or_default();
    if let Some(file) = dns.get("extra_records_path").and_then(Value::as_str).filter(|p| !p.is_empty()) {
        let file = beside(path, file);
        let text = text_of(&file, "file of DNS records")?;
        let more: Vec<Value> =
            serde_json::from_str(&text).with_context(|| format!("{} is no JSON list of records", file.display()))?;
        records.extend(more);
    }
    for r in records {
        let text = |key: &str| r.get(key).and_then(Value::as_str).unwrap_or_default().to_string();
        names.records.push(DnsRecord {
            name: text("name"),
            r#type: text("type").to_ascii_uppercase(),
            value: text("value"),
        });
    }
    if dns.get("extra_records_path").is_some_and(is_set) {
        out.not(
            "config dns.extra_records_path",
            "its records are taken as they are now; the file is not followed: `portcullis dns add`",
        );
    }
    carried.extend(
        ["dns.nameservers.split", "dns.search_domains", "dns.extra_records", "dns.extra_records_path"]
            .map(String::from),
    );
    Ok(())
}

/// A path of the configuration starts at its folder.
fn beside(config: &Path, path: &str) -> PathBuf {
    config.parent().unwrap_or(Path::new("")).join(path)
}

/// `:8080` is every address, as Go writes it.
fn everywhere(listen: &str) -> String {
    if listen.starts_with(':') { format!("[::]{listen}") } else { listen.to_string() }
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(s) => !s.is_empty(),
        Value::Array(a) => !a.is_empty(),
        Value::Object(o) => !o.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    }
}

/// A key at the value that means the same here.
fn is_default(key: &str, value: &Value) -> bool {
    match key {
        "dns.magic_dns" | "taildrop.enabled" | "derp.server.verify_clients" => *value == Value::Bool(true),
        "logtail.enabled" | "auto_update.enabled" | "randomize_client_port" | "derp.server.enabled" => {
            *value == Value::Bool(false)
        }
        "prefixes.allocation" => value == "sequential",
        "derp.auto_update_enabled" | "derp.update_frequency" => true,
        _ => false,
    }
}

/// Every key that is set, with its whole path.
fn leaves<'v>(above: &str, value: &'v Value, out: &mut Vec<(String, &'v Value)>) {
    match value {
        Value::Object(o) => {
            for (k, v) in o {
                let path = if above.is_empty() { k.clone() } else { format!("{above}.{k}") };
                leaves(&path, v, out);
            }
        }
        v if is_set(v) => out.push((above.to_string(), v)),
        _ => {}
    }
}

/// A value for a line; nothing that may be a secret.
fn short(value: &Value) -> String {
    let text = match value {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    };
    if text.chars().count() > 60 { text.chars().take(57).chain("…".chars()).collect() } else { text }
}
