//! Nodes that teach a list of the gate where they come from: what they claim besides is not believed, and what they
//! brought about goes with them. In: the built program as `serve --config`, nodes that lie. Out: the list.

use std::net::SocketAddr;

use serde_json::json;
use sim::mesh::{Channel, MapStream, Node, server_key};
use stage::command::Server;
use stage::control::key_in;
use stage::gate::Serve;
use stage::{Dir, ports, wait_or};
use tailnet_proto::meshkey::MachineKey;
use tokio::net::TcpSocket;

const PROXY: &str = "127.0.0.9";

struct Mesh {
    serve: Serve,
    addr: SocketAddr,
    key: MachineKey,
    config: String,
}

impl Mesh {
    async fn start(dir: &Dir) -> Mesh {
        let addr = SocketAddr::from(([127, 0, 0, 1], ports::free()));
        let config = format!(
            "[lists.photos]\nidle = \"12h\"\n[gate]\nlisten = \"127.0.0.1:0\"\n[control]\nserver_url = \"http://{addr}\"\n\
             listen = [\"{addr}\"]\nstun = \"off\"\ntrusted_proxies = [\"{PROXY}\"]\n\
             [[control.teach]]\nlist = \"photos\"\nnodes = [\"ada@example.com\"]\n"
        );
        let serve = Serve::start(dir.path(), &config, &["listener=\"check endpoint\"", &format!("addr={addr}")]);
        Mesh { key: server_key(addr).await.unwrap(), serve, addr, config }
    }

    fn auth(&self, user: &str) -> String {
        self.serve.ok(&["users", "create", user]);
        key_in(&self.serve.ok(&["keys", "create", "--user", user, "--reusable"]))
    }

    /// A node whose connection comes from `peer`, with what a proxy there says about it.
    async fn node(&self, n: u64, auth: &str, peer: &str, said: &str) -> (Channel, MapStream) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(peer.parse().unwrap(), 0)).unwrap();
        let io = socket.connect(self.addr).await.unwrap();
        let (node, host) = (Node::new(n), format!("c\r\nX-Forwarded-For: {said}"));
        let mut channel = node.connect_over(io, &host, &self.key).await.unwrap();
        channel.register(auth).await.unwrap();
        let mut update = node.map_request(false);
        update["Endpoints"] = json!(["203.0.113.200:41641"]);
        channel.post("/machine/map", &update).await.unwrap();
        let mut map = channel.map().await.unwrap();
        map.news().await.unwrap();
        (channel, map)
    }

    fn list(&self) -> String {
        self.serve.ok(&["lists", "show", "photos"])
    }

    fn has(&self, addr: &str, want: bool) {
        wait_or(
            || self.list().contains(addr) == want,
            || format!("{addr}: {}{}", self.list(), self.serve.process.output()),
        );
    }
}

#[tokio::test]
async fn a_list_learns_where_members_come_from_and_nothing_that_they_say() {
    let dir = Dir::new("teach");
    let mesh = Mesh::start(&dir).await;
    let (ada, mallory) = (mesh.auth("ada@example.com"), mesh.auth("mallory@example.com"));
    // What the proxy was told by its client stands to the left, and is not looked at.
    let phone = mesh.node(1, &ada, PROXY, "203.0.113.66, 198.51.100.1").await;
    mesh.has("198.51.100.1", true);
    let _strangers_proxy = mesh.node(2, &ada, "127.0.0.5", "203.0.113.67").await;
    let _other = mesh.node(3, &mallory, PROXY, "198.51.100.3").await;
    // A person let this address in; a node comes from there too, and goes.
    mesh.serve.ok(&["grant", "add", "198.51.100.4", "--list", "photos"]);
    let tablet = mesh.node(4, &ada, PROXY, "198.51.100.4").await;
    let laptop = mesh.node(5, &ada, PROXY, "198.51.100.5").await;
    mesh.has("198.51.100.5", true);
    let list = mesh.list();
    for never in ["203.0.113", "198.51.100.3", "127.0.0"] {
        assert!(!list.contains(never), "{never}: {list}");
    }
    for gone in ["sim-4", "sim-5"] {
        mesh.serve.ok(&["nodes", "delete", gone]);
    }
    mesh.has("198.51.100.5", false);
    mesh.has("198.51.100.4", true);
    drop((tablet, laptop, phone));

    // What a node brought about before a restart goes with it too, if it does not come back first.
    let Mesh { serve, addr, key, config } = mesh;
    drop(serve);
    let serve = Serve::start(dir.path(), &config, &["listener=\"check endpoint\"", &format!("addr={addr}")]);
    let mesh = Mesh { serve, addr, key, config };
    mesh.has("198.51.100.1", true);
    mesh.serve.ok(&["nodes", "expire", "sim-1"]);
    mesh.has("198.51.100.1", false);
}

#[tokio::test]
async fn what_can_change_while_it_runs_does_and_the_rest_is_said() {
    let dir = Dir::new("control-reload");
    let mesh = Mesh::start(&dir).await;
    let ada = mesh.auth("ada@example.com");
    let (_channel, mut map) = mesh.node(1, &ada, PROXY, "198.51.100.1").await;
    mesh.has("198.51.100.1", true);
    dir.write("relays.json", r#"{"Regions": {"901": {"RegionID": 901, "RegionCode": "far", "Nodes": []}}}"#);
    let more = "node_expiry = \"90d\"\napp_resolvers = [\"127.0.0.1:1\"]\nderp_map = \"relays.json\"\ndomain = \"other.internal\"\n";
    let config = mesh.config.replace(&format!("trusted_proxies = [\"{PROXY}\"]\n"), more);
    mesh.serve.rewrite(&config);
    let said = mesh.serve.ok(&["reload"]) + &mesh.serve.process.output();
    for changed in [
        "expiry and limits of nodes and apps",
        "nameservers of apps",
        "control's trusted proxies",
        "relays",
        "restart for: domain",
    ] {
        assert!(said.contains(changed), "{changed}: {said}");
    }
    // Who is connected is told of the relays, as they are now and as they become.
    loop {
        let news = map.news().await.unwrap();
        if news["DERPMap"]["Regions"]["901"].is_object() {
            assert!(news["DERPMap"]["Regions"]["900"].is_object(), "its own relay is gone: {news}");
            break;
        }
    }
    dir.write("relays.json", r#"{"Regions": {"902": {"RegionID": 902, "RegionCode": "near", "Nodes": []}}}"#);
    while !map.news().await.unwrap()["DERPMap"]["Regions"]["902"].is_object() {}
    // What the proxy says counts no longer, nor does anybody's expiry that logged in before.
    let _late = mesh.node(2, &ada, PROXY, "198.51.100.2").await;
    let shown = |node: &str| mesh.serve.json(&["nodes", "show", node])["expires"].clone();
    assert!(shown("sim-1").is_null() && shown("sim-2").is_u64(), "{} {}", shown("sim-1"), shown("sim-2"));
    assert!(!mesh.list().contains("198.51.100.2"), "{}", mesh.list());
}
