//! The Helm chart and the manifests made from it: by Helm's own checks, by Kubernetes' schemas, and by running what a pod
//! would: the program in a container, with the files that the kubelet would lay, asked by its probes.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use stage::command::Outcome;
use stage::netns::{Host, World};
use stage::{Dir, certificates, http, pages, peers, tls, wait_or};

use crate::container::{self, Container, Spec, USER};

/// Sets of values that lie beside the chart; the first three are the manifests of `deploy/kubernetes`.
const SETS: [&str; 4] = ["edge", "gate", "control", "all"];

/// Kubernetes releases whose schemas set-up lays into the cache.
const KUBERNETES: [&str; 2] = ["1.31", "1.37"];

/// What its clients are given.
const TOKEN: &str = "a-token-of-the-test-0123456789";

fn chart() -> PathBuf {
    pages::root().join("deploy/helm/portcullis")
}

/// `helm`, with nothing of its user's.
fn helm(dir: &Dir, args: &[&str]) -> Option<Outcome> {
    let mut command = Command::new(peers::need("helm")?);
    command.args(args).current_dir(chart()).env_clear().env("HOME", dir.path());
    Some(Outcome::of(&mut command))
}

/// The chart with these values, as Helm lays it out.
fn template(dir: &Dir, args: &[&str]) -> Option<Outcome> {
    let fixed = ["template", "portcullis", ".", "--namespace", "portcullis", "--kube-version", "1.31.0"];
    helm(dir, &[&fixed, args].concat())
}

/// The same of a set that is beside the chart.
fn set(dir: &Dir, name: &str) -> Option<String> {
    let out = template(dir, &["--values", &format!("ci/{name}.yaml")])?;
    assert_eq!(out.code, 0, "{name}: {}", out.err);
    Some(out.out)
}

/// YAML documents, read as Kubernetes reads them (YAML 1.1).
pub(crate) fn documents(yaml: &str) -> Option<Vec<Value>> {
    let python = peers::cache().join("kubernetes/bin/python");
    if !python.is_file() {
        stage::skip::skip("no YAML reader is installed (`cargo xtask release --setup` installs it)");
        return None;
    }
    let script = "import json, sys, yaml; print(json.dumps([d for d in yaml.safe_load_all(sys.stdin) if d]))";
    let mut command = Command::new(python);
    let mut child = command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), yaml.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "no YAML:\n{yaml}");
    Some(serde_json::from_slice(&out.stdout).unwrap())
}

fn of_kind<'a>(documents: &'a [Value], kind: &str) -> Vec<&'a Value> {
    documents.iter().filter(|d| d["kind"] == kind).collect()
}

fn each(value: &Value) -> std::slice::Iter<'_, Value> {
    value.as_array().map(Vec::as_slice).unwrap_or_default().iter()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

#[test]
fn helm_and_the_schemas_of_kubernetes_take_every_set() {
    let dir = Dir::new("chart");
    let Some(kubeconform) = peers::need("kubeconform") else { return };
    for name in SETS {
        let Some(lint) = helm(&dir, &["lint", "--strict", ".", "--values", &format!("ci/{name}.yaml")]) else { return };
        assert_eq!(lint.code, 0, "{name}: {}", lint.all());
        let Some(yaml) = set(&dir, name) else { return };
        let file = dir.write(&format!("{name}.yaml"), yaml);
        for release in KUBERNETES {
            let known = peers::cache().join("kubernetes/schemas").join(release);
            let own = pages::root().join("dev/xtask/tests/release/schemas");
            let mut command = Command::new(&kubeconform);
            command.args(["-strict", "-summary"]);
            for place in [known, own] {
                let pattern = format!("{}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json", place.display());
                command.args(["-schema-location", &pattern]);
            }
            let out = Outcome::of(command.arg(&file));
            assert_eq!(out.code, 0, "{name} for {release}: {}", out.all());
            assert!(out.out.contains("Invalid: 0, Errors: 0, Skipped: 0"), "{}", out.all());
        }
    }
}

#[test]
fn the_chart_is_of_this_version() {
    let Some(read) = documents(&pages::file("deploy/helm/portcullis/Chart.yaml")) else { return };
    assert_eq!(read[0]["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(read[0]["appVersion"], env!("CARGO_PKG_VERSION"));
}

/// Of two sources of one chart, what people get from the release page is the tested one.
#[test]
fn the_packed_chart_is_the_folder() {
    let Some(program) = crate::built() else { return };
    let dir = Dir::new("page");
    crate::page(&program, "charts", dir.path());
    let packed = dir.at(format!("portcullis-{}.tgz", env!("CARGO_PKG_VERSION")));
    let inside = Outcome::of(Command::new("tar").arg("-tzf").arg(&packed)).out;
    assert!(inside.contains("portcullis/Chart.yaml") && !inside.contains("/ci/"), "{inside}");
    for name in SETS {
        let Some(folder) = set(&dir, name) else { return };
        let values = chart().join(format!("ci/{name}.yaml"));
        let fixed = ["template", "portcullis", packed.to_str().unwrap(), "--namespace", "portcullis"];
        let more = ["--kube-version", "1.31.0", "--values", values.to_str().unwrap()];
        let Some(out) = helm(&dir, &[&fixed[..], &more[..]].concat()) else { return };
        assert!(out.code == 0 && out.out == folder, "{name}: {}", out.err);
    }
}

/// What would let a stranger in, or nobody, is no chart.
#[test]
fn values_that_cannot_be_meant_are_refused_in_words() {
    let dir = Dir::new("values");
    let edge = ["--set", "edge.enabled=true", "--set", "edge.tokenSecret.name=t"];
    let gate = ["--set", "gate.enabled=true", "--set-json", "gate.from=[{\"podSelector\":{}}]"];
    let cases: [(&[&str], &[&str], &str); 11] = [
        (&[], &[], "nothing is enabled"),
        (&["--set", "edge.enabled=true"], &[], "an edge needs a token"),
        (&edge, &["--set", "edge.tcpPorts={2222}", "--set", "edge.config.allow_ports=all"], "say the same"),
        (&edge, &["--set", "edge.tcpPorts={70000}"], "edge/tcpPorts/0"),
        (&edge, &["--set", "edge.tokens=x"], "tokens"),
        (&["--set", "gate.enabled=true"], &[], "gate.from"),
        (&gate, &["--set-json", "gate.config.nftables=[{}]"], "a pod has none"),
        (&gate, &["--set", "gate.traefikMiddlewares={family}"], "names the list \"family\""),
        (&gate, &["--set", "podMonitor.enabled=true"], "podMonitor.from"),
        (&["--set", "control.enabled=true"], &[], "control.config.server_url"),
        (&["--set", "control.enabled=true"], &["--set", "control.config.server_url=mesh"], "server_url"),
    ];
    for (values, more, said) in cases {
        let Some(out) = template(&dir, &[values, more].concat()) else { return };
        assert!(out.code != 0 && out.err.contains(said), "{values:?} {more:?}: {}", out.all());
    }
}

/// In a NetworkPolicy a rule without ports is for all of them.
#[test]
fn no_rule_lets_anybody_reach_every_port() {
    let dir = Dir::new("network");
    let gate =
        ["--set", "gate.enabled=true", "--set", "podMonitor.enabled=true", "--set", "gate.config.listen=unix:/x"];
    let from =
        ["--set-json", "gate.from=[{\"podSelector\":{}}]", "--set-json", "podMonitor.from=[{\"podSelector\":{}}]"];
    let mirror = ["--set-json", "gate.config.mirror=[{\"list\":\"family\",\"listen\":\"0.0.0.0:5000\"}]"];
    for (more, rules) in [(&[][..], 0), (&mirror[..], 1)] {
        let Some(out) = template(&dir, &[&gate[..], &from, more].concat()) else { return };
        assert_eq!(out.code, 0, "{}", out.err);
        let Some(all) = documents(&out.out) else { return };
        let ingress = &of_kind(&all, "NetworkPolicy")[0]["spec"]["ingress"];
        assert_eq!(ingress.as_array().map(Vec::len), Some(rules), "{ingress}");
        assert!(each(ingress).all(|r| r["ports"].as_array().is_some_and(|p| !p.is_empty())), "{ingress}");
        let asked = &of_kind(&all, "PodMonitor")[0]["spec"]["podMetricsEndpoints"];
        assert_eq!(asked, &serde_json::json!([]), "no port is called so");
    }
    for name in SETS {
        let Some(all) = set(&dir, name).and_then(|yaml| documents(&yaml)) else { return };
        for policy in of_kind(&all, "NetworkPolicy") {
            assert!(each(&policy["spec"]["ingress"]).all(|r| r["ports"].is_array()), "{name}: {policy}");
        }
    }
}

/// Pod Security Standards, profile "restricted" (<https://kubernetes.io/docs/concepts/security/pod-security-standards/>),
/// and what this program needs besides.
#[test]
fn pods_are_restricted() {
    let dir = Dir::new("restricted");
    for name in SETS {
        let Some(yaml) = set(&dir, name) else { return };
        let Some(all) = documents(&yaml) else { return };
        let spec = &of_kind(&all, "Deployment")[0]["spec"];
        assert_eq!((&spec["replicas"], &spec["strategy"]["type"]), (&1.into(), &"Recreate".into()), "{name}");
        let pod = &spec["template"]["spec"];
        for field in ["hostNetwork", "hostPID", "hostIPC"] {
            assert!(pod[field].is_null(), "{name}: {field}");
        }
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
        assert_eq!(pod["securityContext"]["runAsUser"], USER, "{name}");
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault", "{name}");
        assert_eq!(pod["automountServiceAccountToken"], false, "{name}");
        // Otherwise a Service called `portcullis` sets PORTCULLIS_PORT=tcp://…, which is the port of the HTTP plane.
        assert_eq!(pod["enableServiceLinks"], false, "{name}");
        for volume in each(&pod["volumes"]) {
            let kinds: Vec<&str> =
                volume.as_object().unwrap().keys().map(String::as_str).filter(|k| *k != "name").collect();
            let fine = ["configMap", "emptyDir", "persistentVolumeClaim", "projected"];
            assert!(kinds.iter().all(|k| fine.contains(k)), "{name}: {kinds:?}");
        }
        for it in each(&pod["containers"]) {
            let context = &it["securityContext"];
            assert_eq!(context["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(context["capabilities"], serde_json::json!({"drop": ["ALL"]}), "{name}");
            assert_eq!(context["readOnlyRootFilesystem"], true, "{name}");
            assert!(each(&it["ports"]).all(|p| p["hostPort"].is_null()), "{name}");
        }
    }
}

/// A pod of a chart: its container on a host, with the folders that the kubelet would mount.
struct Pod {
    container: Container,
    documents: Vec<Value>,
    dir: Dir,
    host: Host,
}

impl Pod {
    fn start(world: &World, name: &str, documents: Vec<Value>) -> Option<Pod> {
        let program = crate::built()?;
        let host = world.lone(name);
        if !container::possible(&host) {
            return None;
        }
        let dir = Dir::new(name);
        certificates::signed(dir.path(), "DNS:edge.example.com,DNS:mesh.example.com");
        let pod = &of_kind(&documents, "Deployment")[0]["spec"]["template"]["spec"];
        let mut spec = Spec::image(&program);
        let it = &pod["containers"][0];
        spec.args = each(&it["args"]).map(|a| text(a).to_string()).collect();
        spec.read_only = it["securityContext"]["readOnlyRootFilesystem"] == true;
        spec.no_new_privileges = it["securityContext"]["allowPrivilegeEscalation"] == false;
        let group = pod["securityContext"]["fsGroup"].as_u64().unwrap() as u32;
        for volume in each(&pod["volumes"]) {
            let at = dir.at(text(&volume["name"]));
            std::fs::create_dir(&at).unwrap();
            let files = laid(volume, &documents, &dir);
            if let Some(files) = &files {
                swap(&at, files, group);
            } else {
                std::os::unix::fs::chown(&at, Some(0), Some(group)).unwrap();
                std::fs::set_permissions(&at, std::os::unix::fs::PermissionsExt::from_mode(0o2775)).unwrap();
            }
            let mount = each(&it["volumeMounts"]).find(|m| m["name"] == volume["name"]).unwrap();
            assert_eq!(mount["readOnly"] == true, files.is_some(), "{mount}");
            spec.mount(at, text(&mount["mountPath"]), files.is_some());
        }
        Some(Pod { container: Container::start(&host, spec), documents, dir, host })
    }

    /// Waits until its startup probe is content.
    fn ready(&mut self) {
        let pod = &of_kind(&self.documents, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0];
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            let probe = &pod[probe];
            let seen = stage::eventually(stage::START, || {
                self.container.process.must_run();
                if self.host.within(|| content(pod, probe)) { Ok(()) } else { Err(()) }
            });
            assert!(seen.is_ok(), "{probe}: {}", self.container.process.output());
        }
    }

    /// What listens in the pod, from `/proc/net` (proc(5)): addresses other than loopback's, by protocol.
    fn listening(&self) -> BTreeSet<(String, u16)> {
        let mut found = BTreeSet::new();
        for (table, state, protocol) in
            [("tcp", "0A", "TCP"), ("tcp6", "0A", "TCP"), ("udp", "07", "UDP"), ("udp6", "07", "UDP")]
        {
            let out = self.host.run("cat", &[&format!("/proc/net/{table}")]);
            for line in String::from_utf8_lossy(&out.stdout).lines().skip(1) {
                let fields: Vec<&str> = line.split_whitespace().collect();
                let (_, port) = fields[1].split_once(':').unwrap();
                let port = u16::from_str_radix(port, 16).unwrap();
                // A resolver's socket of the moment is no service.
                if fields[3] == state && (protocol == "TCP" || port < 32768) {
                    found.insert((protocol.to_string(), port));
                }
            }
        }
        found
    }

    /// The ports that the pod declares.
    fn declared(&self) -> BTreeSet<(String, u16)> {
        let it = &of_kind(&self.documents, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0];
        let port = |p: &Value| (text(&p["protocol"]).to_string(), p["containerPort"].as_u64().unwrap() as u16);
        each(&it["ports"]).map(port).collect()
    }
}

/// One look of a probe, from where the kubelet is.
fn content(pod: &Value, probe: &Value) -> bool {
    let action = if probe["httpGet"].is_null() { &probe["tcpSocket"] } else { &probe["httpGet"] };
    let port = each(&pod["ports"]).find(|p| p["name"] == action["port"]).unwrap();
    let at = SocketAddr::from(([127, 0, 0, 1], port["containerPort"].as_u64().unwrap() as u16));
    if probe["httpGet"].is_null() {
        return std::net::TcpStream::connect_timeout(&at, Duration::from_secs(1)).is_ok();
    }
    let path = text(&action["path"]);
    let answer = match text(&action["scheme"]) {
        "HTTPS" => tls::connect(at, "localhost").and_then(|mut s| http::get_on(&mut s, "localhost", path, &[])),
        _ => http::get(at, "localhost", path, &[]),
    };
    answer.is_ok_and(|a| (200..400).contains(&a.status))
}

/// The files of a volume that has files, with the secrets of this test; nothing for one that is an empty folder.
fn laid(volume: &Value, documents: &[Value], dir: &Dir) -> Option<Vec<(String, Vec<u8>)>> {
    if let Some(name) = volume["configMap"]["name"].as_str() {
        let map = documents.iter().find(|d| d["kind"] == "ConfigMap" && d["metadata"]["name"] == name).unwrap();
        let data = map["data"].as_object().unwrap();
        return Some(data.iter().map(|(k, v)| (k.clone(), text(v).as_bytes().to_vec())).collect());
    }
    let sources = volume["projected"]["sources"].as_array()?;
    let secret = |key: &str| match key {
        "tls.crt" => std::fs::read(dir.at("cert.pem")).unwrap(),
        "tls.key" => std::fs::read(dir.at("key.pem")).unwrap(),
        _ => TOKEN.as_bytes().to_vec(),
    };
    let items = sources.iter().flat_map(|s| each(&s["secret"]["items"]));
    Some(items.map(|i| (text(&i["path"]).to_string(), secret(text(&i["key"])))).collect())
}

/// Puts files into a volume as the kubelet does: into a new folder, to which one link then leads instead of the old one
/// (`pkg/volume/util/atomic_writer.go` of Kubernetes).
fn swap(volume: &std::path::Path, files: &[(String, Vec<u8>)], group: u32) {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};
    let number = std::fs::read_dir(volume).unwrap().filter(|e| e.as_ref().unwrap().path().is_dir()).count();
    let data = format!("..{number}");
    for (name, bytes) in files {
        let path = volume.join(&data).join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        chown(&path, Some(0), Some(group)).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o440)).unwrap();
        let top = name.split('/').next().unwrap();
        if !volume.join(top).is_symlink() {
            symlink(format!("..data/{top}"), volume.join(top)).unwrap();
        }
    }
    symlink(&data, volume.join("..data_tmp")).unwrap();
    std::fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
}

/// The folder of a release with shims in it that take `kubectl` and `docker` at their word: what they were asked is kept,
/// and `helm` lays charts out instead of installing them.
pub(crate) fn operator() -> Option<Dir> {
    let (program, helm) = (crate::built()?, peers::need("helm")?);
    let dir = Dir::new("operator");
    crate::page(&program, "charts", dir.path());
    let bin = dir.at("bin");
    std::fs::create_dir(&bin).unwrap();
    let asked = dir.at("asked");
    let shim = |name: &str, then: &str| {
        let text = format!("#!/bin/sh\necho \"{name} $*\" >> {}\n{then}\n", asked.display());
        std::fs::write(bin.join(name), text).unwrap();
        std::fs::set_permissions(bin.join(name), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    };
    shim(
        "kubectl",
        "for a; do case $a in --from-file=*) test -s ${a#*=} || exit 1 ;; esac; done; test \"$1\" != apply || test -s \"$5\"",
    );
    shim("docker", &format!("test -s compose.yaml && pwd > {}", dir.at("folder").display()));
    let laid = dir.at("laid.yaml");
    shim("helm", &format!("shift; exec {} template \"$@\" --kube-version 1.31.0 > {}", helm.display(), laid.display()));
    Some(dir)
}

/// Types the lines of a recipe in a folder, as its operator.
#[track_caller]
pub(crate) fn types(dir: &Dir, recipe: &str) {
    let path = format!("{}:{}", dir.at("bin").display(), std::env::var("PATH").unwrap_or_default());
    let lines = pages::commands(recipe).join("\n");
    let mut shell = Command::new("sh");
    shell.args(["-ec", &lines]).current_dir(dir.path()).env("PATH", path).env("HOME", dir.path());
    let out = Outcome::of(&mut shell);
    assert_eq!(out.code, 0, "{recipe}: {}", out.all());
}

/// The manual's page on clusters: values and commands as printed, then the pods that come of them.
#[test]
fn the_manuals_clusters_run() {
    let Some(world) = World::new() else { return };
    let Some(dir) = operator() else { return };
    for (values, recipe) in [
        ("kubernetes-edge-values", Some("kubernetes-edge")),
        ("kubernetes-gate-values", None),
        ("kubernetes-control-values", Some("kubernetes-control")),
    ] {
        let file = dir.write("values.yaml", pages::recipe(values));
        let yaml = if let Some(recipe) = recipe {
            types(&dir, recipe);
            std::fs::read_to_string(dir.at("laid.yaml")).unwrap()
        } else {
            let Some(out) = template(&dir, &["--values", file.to_str().unwrap()]) else { return };
            assert_eq!(out.code, 0, "{values}: {}", out.err);
            out.out
        };
        let Some(all) = documents(&yaml) else { return };
        let deployment = text(&of_kind(&all, "Deployment")[0]["metadata"]["name"]).to_string();
        if recipe.is_some() {
            let asked = std::fs::read_to_string(dir.at("asked")).unwrap();
            assert!(asked.contains(&format!("deploy/{deployment}")), "{deployment} in:\n{asked}");
        }
        let Some(mut pod) = Pod::start(&world, values, all) else { return };
        pod.ready();
        if let Some(recipe) = recipe {
            // What was typed to the pod, in its container.
            for line in pages::commands(recipe) {
                let Some((_, typed)) = line.split_once(" -- portcullis ") else { continue };
                let words: Vec<&str> = typed.split(' ').collect();
                let done = || pod.container.exec(&words);
                wait_or(|| done().code == 0, || done().all());
            }
        }
    }
    // The Secret that was made is the one that the edge is given.
    let asked = std::fs::read_to_string(dir.at("asked")).unwrap();
    assert!(
        asked.contains("create secret generic portcullis-token --namespace portcullis --from-file=token"),
        "{asked}"
    );
    types(&dir, "kubernetes-plain");
}

/// Every set runs: restricted, with what the kubelet lays, as far as probes, ports and Services are concerned.
#[test]
fn pods_of_every_set_run_and_listen_where_the_chart_says() {
    let Some(world) = World::new() else { return };
    let dir = Dir::new("sets");
    for name in SETS {
        let Some(yaml) = set(&dir, name) else { return };
        let Some(all) = documents(&yaml) else { return };
        let Some(mut pod) = Pod::start(&world, name, all) else { return };
        pod.ready();
        let said = pod.container.process.output();
        // What lists and tokens are read from gives no reason to complain, and nothing is in error.
        assert!(!said.contains("ERROR"), "{name}: {said}");
        assert!(!said.contains("can read the token"), "{name}: {said}");
        // The TCP ports of an edge open when a client publishes them.
        let on_demand = |p: &(String, u16)| p.0 == "TCP" && [2222, 5432].contains(&p.1);
        let declared: BTreeSet<_> = pod.declared().into_iter().filter(|p| !on_demand(p)).collect();
        wait_or(|| pod.listening() == declared, || format!("{name}: {:?} of {declared:?}: {said}", pod.listening()));
        for service in of_kind(&pod.documents, "Service") {
            for port in each(&service["spec"]["ports"]) {
                let it = &of_kind(&pod.documents, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0];
                let target = each(&it["ports"]).find(|p| p["name"] == port["targetPort"]);
                assert_eq!(target.unwrap_or(&Value::Null)["protocol"], port["protocol"], "{name}: {port}");
            }
        }
        pod.container.stop();
    }
}

/// The gate's pod: a proof is kept over a new pod, Traefik takes the Middleware, and what is changed in the ConfigMap is
/// followed.
#[test]
fn a_gate_in_a_pod_learns_keeps_and_follows_its_map() {
    let Some(world) = World::new() else { return };
    let (Some(traefik), Some(_)) = (peers::need("traefik"), peers::need("curl")) else { return };
    let dir = Dir::new("gatepod");
    let Some(yaml) = set(&dir, "gate") else { return };
    let Some(all) = documents(&yaml) else { return };
    let Some(mut pod) = Pod::start(&world, "gate", all) else { return };
    pod.ready();
    let host = pod.host.clone();
    let middleware = of_kind(&pod.documents, "Middleware")[0]["spec"].clone();
    host.name_of("portcullis-gate.portcullis.svc", [127, 0, 0, 1].into());
    for address in ["203.0.113.7/32", "203.0.113.8/32"] {
        host.ip(&["addr", "add", address, "dev", "lo"]);
    }
    let files = Dir::new("gatepod-traefik");
    std::fs::create_dir(files.at("dyn")).unwrap();
    let dynamic = serde_json::json!({"http": {
        "routers": {"site": {"rule": "Host(`photos.example.com`)", "service": "ping@internal", "middlewares": ["family"]}},
        "middlewares": {"family": middleware},
    }});
    // JSON is YAML.
    files.write("dyn/site.yml", dynamic.to_string());
    let args = ["--entryPoints.web.address=:8000", "--ping=true", "--ping.manualrouting=true"];
    let front = stage::process::Process::start(
        "traefik",
        stage::proxies::traefik_by(host.command(&traefik), files.path(), &args),
    );
    let visit = |from: &str| {
        let mut curl = host.command("curl");
        curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--interface", from, "--max-time", "20"]);
        let out = curl.args(["-H", "Host: photos.example.com", "http://127.0.0.1:8000/ping"]).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    wait_or(|| visit("203.0.113.7") == "403", || format!("{}\n{}", front.output(), pod.container.process.output()));
    let mirror = SocketAddr::from(([127, 0, 0, 1], 5000));
    let proof = host.within(|| http::request(mirror, "GET", "/", &[("X-Forwarded-For", "203.0.113.7")]));
    assert_eq!(proof.0, 200, "{}", pod.container.process.output());
    assert_eq!(visit("203.0.113.7"), "200", "{}", front.output());
    assert_eq!(visit("203.0.113.8"), "403");
    // A new pod with the same claim.
    let mut pod = Pod { container: pod.container.again(), ..pod };
    pod.ready();
    assert_eq!(visit("203.0.113.7"), "200", "{}", pod.container.process.output());
    // The words of NOTES.txt, in the container.
    wait_or(
        || pod.container.exec(&["explain", "203.0.113.8"]).code == 3,
        || pod.container.exec(&["explain", "203.0.113.8"]).all(),
    );
    // The map changes; the pod stays.
    let map = text(&of_kind(&pod.documents, "ConfigMap")[0]["data"]["portcullis.toml"]);
    let changed = map.replace("192.168.0.0/16", "203.0.113.8");
    assert_ne!(map, changed);
    swap(&pod.dir.at("config"), &[("portcullis.toml".to_string(), changed.into_bytes())], USER);
    wait_or(|| visit("203.0.113.8") == "200", || pod.container.process.output());
}

/// The manifests are the chart's own words; with `UPDATE_GOLDEN=1` they are written anew.
#[test]
fn manifests_are_the_chart() {
    let dir = Dir::new("manifests");
    for name in &SETS[..3] {
        let Some(yaml) = set(&dir, name) else { return };
        let path = pages::root().join(format!("deploy/kubernetes/{name}.yaml"));
        let wanted = manifest(name, &yaml);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &wanted).unwrap();
        }
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            there == wanted,
            "deploy/kubernetes/{name}.yaml is not what the chart gives: UPDATE_GOLDEN=1 writes it anew"
        );
    }
}

/// Helm's output for people without Helm: with a heading, without Helm's own labels.
fn manifest(name: &str, yaml: &str) -> String {
    let heading = match *name.as_bytes() {
        [b'e', ..] => {
            "An edge. First: kubectl create secret generic portcullis-token --namespace portcullis --from-file=token"
        }
        [b'g', ..] => "A gate beside Traefik, whose pods are in the namespace `traefik`.",
        _ => "A coordination server.",
    };
    let helms = ["# Source:", "helm.sh/", "app.kubernetes.io/managed-by:", "checksum/start:"];
    let ours = |l: &&str| !helms.iter().any(|h| l.trim_start().starts_with(h));
    let body: Vec<&str> = yaml.lines().filter(ours).map(str::trim_end).collect();
    // An entry of which nothing is left.
    let end = |i: usize| body.get(i + 1).is_none_or(|next| !next.starts_with("     "));
    let body: Vec<&str> =
        body.iter().enumerate().filter(|(i, l)| l.trim() != "annotations:" || !end(*i)).map(|(_, l)| *l).collect();
    format!(
        "# {heading}\n# Change names, addresses and lists to yours; then: kubectl apply --namespace portcullis -f {name}.yaml\n\
         # Made from deploy/helm/portcullis with ci/{name}.yaml.\n{}\n",
        body.join("\n")
    )
}
