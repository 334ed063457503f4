//! Learning inside the request path, through the real Traefik, Caddy and nginx with the configurations of
//! docs/manual/gate.md: a certificate opens its site and puts its address on the list, with its name.

use std::process::Command;

use crate::room::*;

struct Learning {
    serve: Serve,
    dir: Dir,
    learn: u16,
}

/// A gate with one list that learns at /v1/learn/family.
fn gate(name: &str, certificate: &str) -> Option<Learning> {
    peer("openssl", &[])?;
    peer("curl", &[])?;
    let dir = Dir::new(name);
    certificates(&dir.0);
    let learn = free_port();
    let config = format!(
        "http = false\n[lists.family]\nlearn_private = true\n[gate]\nlisten = \"127.0.0.1:{learn}\"\n[[gate.learn]]\nlist = \"family\"\ncertificate = \"{certificate}\"\n"
    );
    let serve = Serve::start(&dir.0, &config, &["check endpoint: listening"]);
    Some(Learning { serve, dir, learn })
}

impl Learning {
    /// The status of a request to a site on a port, from an address, with the certificate or with headers of its own.
    fn get(&self, host: &str, port: u16, from: &str, cert: bool, headers: &[&str]) -> u16 {
        // The query is a visitor's: it must mean nothing to the gate.
        let mut c = Command::new("curl");
        c.args(["-sk", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "20", "--interface", from]);
        c.args(["--resolve", &format!("{host}:{port}:127.0.0.1")]);
        if cert {
            c.arg("--cert").arg(self.dir.at("phone.pem")).arg("--key").arg(self.dir.at("phone.key"));
        }
        for h in headers {
            c.args(["-H", h]);
        }
        let out = c.arg(format!("https://{host}:{port}/?cert=traefik")).output().unwrap();
        String::from_utf8_lossy(&out.stdout).trim().parse().unwrap_or(0)
    }

    /// What each proxy must do, with `ha` the site of the certificate and `photos` the one that asks the list.
    fn round(&self, ha: u16, photos: u16, proxy: &Proc) {
        let open = |from: &str| self.get("photos.example.com", photos, from, false, &[]);
        wait_or(|| open("127.0.0.1") == 403, || format!("{}\n{}", proxy.text(), self.serve.proc.text()));
        // No certificate: no site, and no way to say who one is.
        let info = "X-Forwarded-Tls-Client-Cert-Info: Subject%3D%22CN%3Dmallory%22%3BSerialNumber%3D%2218%22";
        let forged = ["X-Gate-Cert-Subject: CN=mallory", "X-Gate-Cert-Fp: 00", info];
        assert_ne!(self.get("ha.example.com", ha, "127.0.1.2", false, &forged), 200);
        assert_eq!(open("127.0.1.2"), 403);
        // With it the site opens, and so does the other one, at once: the answer came after the list had it.
        let claims = ["X-Gate-Cert-Subject: CN=mallory", "X-Gate-Cert-Fp: 00", "X-Forwarded-For: 127.0.1.9", info];
        assert_eq!(self.get("ha.example.com", ha, "127.0.1.1", true, &claims), 200, "{}", self.serve.proc.text());
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
        let said = self.serve.ok(&["list", "show", "family", "--json"]);
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
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
    let Some(binary) = traefik() else { return };
    let Some(l) = gate("learntraefik", "traefik") else { return };
    let up = upstream(|_| (200, "in".into()));
    let (port, gate, d) = (free_port(), l.learn, l.dir.0.display().to_string());
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
    let mut t = Command::new(binary);
    t.args([
        &format!("--entryPoints.https.address=127.0.0.1:{port}"),
        &format!("--providers.file.directory={d}/dyn"),
        "--log.level=ERROR",
        "--global.checkNewVersion=false",
        "--global.sendAnonymousUsage=false",
    ]);
    let t = Proc::start(t);
    l.round(port, port, &t);
}

#[test]
fn caddy_forward_auth_with_the_certificate_in_headers() {
    let Some(caddy) = peer("caddy", &[]) else { return };
    let Some(l) = gate("learncaddy", "gate") else { return };
    let up = upstream(|_| (200, "in".into()));
    let (ha, photos, gate, d) = (free_port(), free_port(), l.learn, l.dir.0.display().to_string());
    std::fs::write(
        l.dir.at("Caddyfile"),
        format!(
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
        ),
    )
    .unwrap();
    let mut c = Command::new(caddy);
    c.args(["run", "--adapter", "caddyfile", "--config"]).arg(l.dir.at("Caddyfile"));
    c.env("HOME", &l.dir.0).env("XDG_CONFIG_HOME", &l.dir.0).env("XDG_DATA_HOME", &l.dir.0);
    let c = Proc::start(c);
    l.round(ha, photos, &c);
}

#[test]
fn nginx_auth_request_with_the_certificate_in_headers() {
    let Some(nginx) = peer("nginx", &[]) else { return };
    let Some(l) = gate("learnnginx", "gate") else { return };
    let up = upstream(|_| (200, "in".into()));
    let (ha, photos, gate, d) = (free_port(), free_port(), l.learn, l.dir.0.display().to_string());
    std::fs::write(
        l.dir.at("nginx.conf"),
        format!(
            "daemon off; pid {d}/nginx.pid; error_log stderr warn; worker_processes 1; events {{}}
http {{ access_log off; client_body_temp_path {d}/b; proxy_temp_path {d}/p; fastcgi_temp_path {d}/f; uwsgi_temp_path {d}/u; scgi_temp_path {d}/s;
  ssl_certificate {d}/site.pem; ssl_certificate_key {d}/site.key;
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
    location / {{ auth_request /_gate; proxy_pass http://{up}; }} }} }}"
        ),
    )
    .unwrap();
    let mut n = Command::new(nginx);
    n.arg("-c").arg(l.dir.at("nginx.conf"));
    let n = Proc::start(n);
    l.round(ha, photos, &n);
}
