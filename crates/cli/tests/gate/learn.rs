//! Learning inside the request path, through the real Traefik, Caddy and nginx with the configurations of
//! docs/manual/gate.md: a certificate opens its site and puts its address on the list, with its name.

use std::process::Command;

use stage::command::Server;
use stage::curl::Visitor;
use stage::gate::Serve;
use stage::process::Process;
use stage::proxies::{caddy_by, nginx_by, traefik_by};
use stage::upstream::answering;
use stage::{Dir, certificates, peers, ports, wait_or};

struct Learning {
    serve: Serve,
    dir: Dir,
    learn: u16,
}

/// A gate with one list that learns at /v1/learn/family.
fn gate(name: &str, certificate: &str) -> Option<Learning> {
    peers::need("openssl")?;
    peers::need("curl")?;
    let dir = Dir::new(name);
    certificates::sites_and_a_phone(dir.path());
    let learn = ports::free();
    let config = format!(
        "http = false\n[lists.family]\nlearn_private = true\n[gate]\nlisten = \"127.0.0.1:{learn}\"\n[[gate.learn]]\nlist = \"family\"\ncertificate = \"{certificate}\"\n"
    );
    let serve = Serve::start(dir.path(), &config, &["listener=\"check endpoint\""]);
    Some(Learning { serve, dir, learn })
}

impl Learning {
    /// The status of a request to a site on a port, from an address, with the certificate or with headers of its own.
    fn get(&self, host: &str, port: u16, from: &str, cert: bool, headers: &[&str]) -> u16 {
        let visitor = Visitor::new(from, host, port);
        let visitor = if cert { visitor.with(self.dir.path()) } else { visitor };
        // The query is a visitor's: it must mean nothing to the gate.
        visitor.get("/?cert=traefik", headers)
    }

    /// What each proxy must do, with `ha` the site of the certificate and `photos` the one that asks the list.
    fn round(&self, ha: u16, photos: u16, proxy: &Process) {
        let open = |from: &str| self.get("photos.example.com", photos, from, false, &[]);
        wait_or(|| open("127.0.0.1") == 403, || format!("{}\n{}", proxy.output(), self.serve.process.output()));
        // No certificate: no site, and no way to say who one is.
        let info = "X-Forwarded-Tls-Client-Cert-Info: Subject%3D%22CN%3Dmallory%22%3BSerialNumber%3D%2218%22";
        let forged = ["X-Gate-Cert-Subject: CN=mallory", "X-Gate-Cert-Fp: 00", info];
        assert_ne!(self.get("ha.example.com", ha, "127.0.1.2", false, &forged), 200);
        assert_eq!(open("127.0.1.2"), 403);
        // With it the site opens, and so does the other one, at once: the answer came after the list had it.
        let claims = ["X-Gate-Cert-Subject: CN=mallory", "X-Gate-Cert-Fp: 00", "X-Forwarded-For: 127.0.1.9", info];
        assert_eq!(self.get("ha.example.com", ha, "127.0.1.1", true, &claims), 200, "{}", self.serve.process.output());
        assert_eq!(open("127.0.1.1"), 200);
        assert_eq!(open("127.0.1.9"), 403);
        // A websocket is judged before it is one.
        let upgrade = [
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        ];
        let socket = |from: &str| self.get("photos.example.com", photos, from, false, &upgrade);
        assert_eq!((socket("127.0.1.1"), socket("127.0.1.2")), (200, 403));
        let said = self.serve.json(&["lists", "show", "family"]);
        let g = &said["grants"][0];
        assert!(g["principal"].as_str().unwrap().contains("CN=phone"), "{said}");
        assert!(g["device"].as_str().is_some_and(|d| d.len() > 5), "{said}");
        assert!(g["evidence"] == "mtls" && said["grants"].as_array().unwrap().len() == 1, "{said}");
        self.serve.ok(&["grant", "revoke", "127.0.1.1"]);
        assert_eq!(open("127.0.1.1"), 403);
    }
}

#[test]
fn traefik_forward_auth_with_pass_tls_client_cert() {
    let Some(binary) = peers::need("traefik") else { return };
    let Some(l) = gate("learntraefik", "traefik") else { return };
    let up = answering(|_| (200, "in".into()));
    let (port, gate, d) = (ports::free(), l.learn, l.dir.path().display().to_string());
    std::fs::create_dir(l.dir.at("dyn")).unwrap();
    std::fs::write(
        l.dir.at("dyn/http.yml"),
        format!(
            r#"
http:
  routers:
    ha: {{ rule: "Host(`ha.example.com`)", service: up, middlewares: [gate-cert, gate-learn], tls: {{ options: mtls }} }}
    photos: {{ rule: "Host(`photos.example.com`)", service: up, middlewares: [gate-check], tls: {{}} }}
  middlewares:
    gate-cert: {{ passTLSClientCert: {{ info: {{ subject: {{ commonName: true }}, serialNumber: true }} }} }}
    gate-learn: {{ forwardAuth: {{ address: "http://127.0.0.1:{gate}/v1/learn/family", trustForwardHeader: true }} }}
    gate-check: {{ forwardAuth: {{ address: "http://127.0.0.1:{gate}/v1/check/family" }} }}
  services:
    up: {{ loadBalancer: {{ servers: [ {{ url: "http://{up}" }} ] }} }}
tls:
  certificates: [ {{ certFile: {d}/site.pem, keyFile: {d}/site.key }} ]
  options:
    mtls: {{ clientAuth: {{ caFiles: [ {d}/ca.pem ], clientAuthType: RequireAndVerifyClientCert }} }}
"#
        ),
    )
    .unwrap();
    let entry = format!("--entryPoints.https.address=127.0.0.1:{port}");
    let t = Process::start("traefik", traefik_by(Command::new(binary), l.dir.path(), &[&entry]));
    l.round(port, port, &t);
}

#[test]
fn caddy_forward_auth_with_the_certificate_in_headers() {
    let Some(caddy) = peers::need("caddy") else { return };
    let Some(l) = gate("learncaddy", "gate") else { return };
    let up = answering(|_| (200, "in".into()));
    let (ha, photos, gate, d) = (ports::free(), ports::free(), l.learn, l.dir.path().display().to_string());
    let file = format!(
        "{{
	admin off
	auto_https disable_redirects
}}
https://ha.example.com:{ha} {{
	tls {d}/site.pem {d}/site.key {{
		client_auth {{
			mode require_and_verify
			trusted_ca_cert_file {d}/ca.pem
		}}
	}}
	forward_auth 127.0.0.1:{gate} {{
		uri /v1/learn/family
		header_up X-Gate-Cert-Subject {{tls_client_subject}}
		header_up X-Gate-Cert-Fp {{tls_client_fingerprint}}
	}}
	reverse_proxy {up}
}}
https://photos.example.com:{photos} {{
	tls {d}/site.pem {d}/site.key
	forward_auth 127.0.0.1:{gate} {{
		uri /v1/check/family
		copy_headers X-Gate-User
	}}
	reverse_proxy {up}
}}
"
    );
    let c = Process::start("caddy", caddy_by(Command::new(caddy), l.dir.path(), &file));
    l.round(ha, photos, &c);
}

#[test]
fn nginx_auth_request_with_the_certificate_in_headers() {
    let Some(nginx) = peers::need("nginx") else { return };
    let Some(l) = gate("learnnginx", "gate") else { return };
    let up = answering(|_| (200, "in".into()));
    let (ha, photos, gate, d) = (ports::free(), ports::free(), l.learn, l.dir.path().display().to_string());
    let http = format!(
        "ssl_certificate {d}/site.pem; ssl_certificate_key {d}/site.key;
  server {{ listen 127.0.0.1:{ha} ssl; server_name ha.example.com;
    ssl_client_certificate {d}/ca.pem; ssl_verify_client on;
    location = /_learn {{
      internal;
      proxy_pass http://127.0.0.1:{gate}/v1/learn/family;
      proxy_pass_request_body off;
      proxy_set_header Content-Length \"\";
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Gate-Cert-Subject $ssl_client_s_dn;
      proxy_set_header X-Gate-Cert-Fp $ssl_client_fingerprint;
    }}
    location / {{ auth_request /_learn; proxy_pass http://{up}; }} }}
  server {{ listen 127.0.0.1:{photos} ssl; server_name photos.example.com;
    location = /_gate {{
      internal;
      proxy_pass http://127.0.0.1:{gate}/v1/check/family;
      proxy_pass_request_body off;
      proxy_set_header Content-Length \"\";
      proxy_set_header X-Forwarded-For $remote_addr;
    }}
    location / {{ auth_request /_gate; proxy_pass http://{up}; }} }}"
    );
    let n = Process::start("nginx", nginx_by(Command::new(nginx), l.dir.path(), &http));
    l.round(ha, photos, &n);
}
