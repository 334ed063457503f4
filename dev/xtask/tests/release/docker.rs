//! A container engine's socket, as far as Traefik's provider asks it. In: the containers that run. Out: their names,
//! labels and addresses in the form of the Engine API (<https://docs.docker.com/reference/api/engine/>).

use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use stage::http;

/// The API's version; clients settle on it.
const VERSION: &str = "1.44";

/// What is known of a container.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) name: String,
    pub(crate) service: String,
    pub(crate) address: String,
    pub(crate) exposed: Vec<u16>,
    pub(crate) labels: Vec<(String, String)>,
}

impl Known {
    fn inspected(&self, project: &str) -> Value {
        let network = format!("{project}_default");
        let mut labels: serde_json::Map<String, Value> =
            self.labels.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
        labels.insert("com.docker.compose.project".into(), json!(project));
        labels.insert("com.docker.compose.service".into(), json!(self.service));
        let ports: serde_json::Map<String, Value> =
            self.exposed.iter().map(|p| (format!("{p}/tcp"), Value::Null)).collect();
        json!({
            "Id": self.name, "Name": format!("/{}", self.name), "State": {"Status": "running", "Running": true},
            "HostConfig": {"NetworkMode": network}, "Config": {"Labels": labels, "Image": self.service},
            "NetworkSettings": {"Ports": ports, "Networks": {network: {"IPAddress": self.address, "NetworkID": "n1"}}},
        })
    }
}

/// An engine's socket; it is there as long as its owner.
#[derive(Debug)]
pub(crate) struct Socket {
    pub(crate) path: PathBuf,
}

impl Socket {
    /// Serves these containers of a project at `path`.
    pub(crate) fn serve(path: &Path, project: &str, containers: Vec<Known>) -> Socket {
        let listener = UnixListener::bind(path).unwrap();
        let (project, containers) = (project.to_string(), Arc::new(containers));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (project, containers) = (project.clone(), containers.clone());
                std::thread::spawn(move || drop(serve(stream, &project, &containers)));
            }
        });
        Socket { path: path.to_path_buf() }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Streams of events, held open: nothing happens there.
static EVENTS: Mutex<Vec<UnixStream>> = Mutex::new(Vec::new());

fn serve(mut stream: UnixStream, project: &str, containers: &[Known]) -> std::io::Result<()> {
    while let Some(head) = http::read_head(&mut stream)? {
        let path = head.split(' ').nth(1).unwrap_or_default().split('?').next().unwrap_or_default();
        // `/v1.44/containers/json`
        let path = path.strip_prefix("/v").and_then(|p| p.find('/').map(|at| &p[at..])).unwrap_or(path);
        let answer = match path {
            "/_ping" => json!("OK"),
            "/version" => json!({"Version": "28.0.0", "ApiVersion": VERSION, "MinAPIVersion": "1.24"}),
            "/containers/json" => {
                let short = |k: &Known| {
                    let all = k.inspected(project);
                    json!({"Id": k.name, "Names": [all["Name"]], "Labels": all["Config"]["Labels"], "State": "running"})
                };
                containers.iter().map(short).collect()
            }
            "/events" => {
                let head = format!("HTTP/1.1 200 OK\r\nApi-Version: {VERSION}\r\nTransfer-Encoding: chunked\r\n\r\n");
                stream.write_all(head.as_bytes())?;
                EVENTS.lock().unwrap().push(stream);
                return Ok(());
            }
            p => {
                let id = p.strip_prefix("/containers/").and_then(|p| p.strip_suffix("/json"));
                let known = id.and_then(|id| containers.iter().find(|k| k.name == id));
                known.map_or(Value::Null, |k| k.inspected(project))
            }
        };
        let asked = !head.starts_with("HEAD ");
        let status = if answer.is_null() { "404 Not Found" } else { "200 OK" };
        let body = answer.to_string();
        let head = format!("HTTP/1.1 {status}\r\nApi-Version: {VERSION}\r\nContent-Type: application/json\r\n");
        write!(stream, "{head}Content-Length: {}\r\n\r\n", body.len())?;
        if asked {
            stream.write_all(body.as_bytes())?;
        }
    }
    Ok(())
}
