//! The units of the packages: `deploy/systemd` holds what this writes, with the sandbox of `--generate=systemd`. Packages
//! bring a user `portcullis`, so that its files can be given to it; a client keeps nothing and needs none.

use super::sandbox::{Home, Sandbox};
use super::{LIFE, guard};

const CONFIG: &str = "/etc/portcullis/portcullis.toml";
const USER: &str = "User=portcullis\nGroup=portcullis\n";
const STATE: &str =
    "StateDirectory=portcullis\nStateDirectoryMode=0700\nEnvironment=PORTCULLIS_DATA_DIR=%S/portcullis\n";

fn sandbox(families: &'static str) -> Sandbox {
    Sandbox { families, home: Home::Hidden, own_tmp: true, root: false }
}

/// Edge, gate and coordination server: whatever the file says.
fn server() -> String {
    let sandbox = sandbox("AF_INET AF_INET6 AF_UNIX");
    format!(
        "[Unit]
Description=Portcullis
Documentation=man:portcullis(1)
Wants=network-online.target
After=network-online.target nss-lookup.target portcullis-guard.service

[Service]
Type=notify
ExecStart=/usr/bin/portcullis serve --config {CONFIG}
# Says what is wrong with the file, and changes nothing then.
ExecReload=/usr/bin/portcullis reload
{LIFE}{USER}{STATE}# For ports below 1024.
AmbientCapabilities=CAP_NET_BIND_SERVICE
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
{sandbox}LimitNOFILE=65536

[Install]
WantedBy=multi-user.target
"
    )
}

/// One client for each file below `/etc/portcullis/clients`.
fn client() -> String {
    let sandbox = sandbox("AF_INET AF_INET6 AF_UNIX");
    format!(
        "[Unit]
Description=Portcullis client %i
Documentation=man:portcullis(1)
Wants=network-online.target
After=network-online.target nss-lookup.target
ConditionPathExists=/etc/portcullis/clients/%i.env

[Service]
Type=notify
# http or tcp; the file may say otherwise.
Environment=PLANE=http
EnvironmentFile=/etc/portcullis/clients/%i.env
LoadCredential=token:/etc/portcullis/clients/%i.token
ExecStart=/usr/bin/portcullis $PLANE client --token-file ${{CREDENTIALS_DIRECTORY}}/token
ExecReload=/bin/kill -HUP $MAINPID
{LIFE}DynamicUser=yes
CapabilityBoundingSet=
{sandbox}LimitNOFILE=65536

[Install]
WantedBy=multi-user.target
"
    )
}

/// Guarded ports, closed before there is a network.
fn boot() -> String {
    let command = format!("/usr/bin/portcullis nft boot --config {CONFIG}");
    let who = format!("{USER}{STATE}AmbientCapabilities=CAP_NET_ADMIN\nCapabilityBoundingSet=CAP_NET_ADMIN\n");
    guard("Ports that Portcullis guards, closed until it runs", &command, &who, Home::Hidden)
}

/// What `portcullis.service` needs besides where it guards ports.
fn guards() -> String {
    "[Service]
AmbientCapabilities=CAP_NET_ADMIN
CapabilityBoundingSet=CAP_NET_ADMIN
RestrictAddressFamilies=AF_NETLINK
"
    .to_string()
}

#[test]
fn the_units_of_the_packages_are_those_that_this_writes() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/systemd");
    for (name, text) in [
        ("portcullis.service", server()),
        ("portcullis-client@.service", client()),
        ("portcullis-guard.service", boot()),
        ("guarded-ports.conf", guards()),
    ] {
        let path = dir.join(name);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(there, text, "{} differs; UPDATE_GOLDEN=1 writes it", path.display());
    }
}
