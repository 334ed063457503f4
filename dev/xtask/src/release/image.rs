//! The container image. In: the programs. Out: one OCI archive (image-spec 1.1: `oci-layout`, `index.json`, blobs by their
//! SHA-256) with an image for each machine, from scratch and without a daemon. A `manifest.json` beside it is what
//! `docker load` reads where Docker keeps images in its own store.
//!
//! In an image lie the program, Mozilla's root certificates, and the empty folder of the data.

use std::fmt::Write as _;

use addr::Timestamp;
use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::archive::{Archive, gzip};
use super::{Page, Program};

/// Nobody on the host: the number that images from scratch have in common.
const USER: u64 = 65532;

/// Where a container keeps its state: a volume.
const DATA: &str = "/var/lib/portcullis";

/// Where programs look for certificates.
const CERTIFICATES: &str = "etc/ssl/certs/ca-certificates.crt";

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Writes `portcullis-VERSION-image.tar`, and its layers as `portcullis-VERSION-rootfs-MACHINE.tar.gz`, which
/// `deploy/Containerfile` takes.
///
/// # Errors
/// A program cannot be read.
pub(super) fn make(page: &Page) -> Result<()> {
    let mut archive = Archive::new(page.epoch);
    let certificates = certificates();
    let name = format!("portcullis:{}", page.version);
    let (mut manifests, mut docker) = (Vec::new(), Vec::new());
    for (n, program) in page.programs.iter().enumerate() {
        let tar = layer(page, program, &certificates)?;
        let config = json(&config(page, program, &stage::sha256(&tar)));
        let layer = gzip(&tar)?;
        page.write(&format!("portcullis-{}-rootfs-{}.tar.gz", page.version, program.target.deb()), &layer)?;
        let (layer, config) = (blob(&mut archive, LAYER, layer), blob(&mut archive, CONFIG, config));
        // It takes both, and gives a name to one: another machine's has its machine in the name.
        let tag = if n == 0 { name.clone() } else { format!("{name}-{}", program.target.deb()) };
        docker.push(json!({ "Config": path(&config), "RepoTags": [tag], "Layers": [path(&layer)] }));
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer], "annotations": labels(page),
        });
        let mut manifest = blob(&mut archive, MANIFEST, json(&manifest));
        manifest["platform"] = json!({ "architecture": program.target.deb(), "os": "linux" });
        manifests.push(manifest);
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests, "annotations": labels(page) });
    let mut index = blob(&mut archive, INDEX, json(&index));
    index["annotations"] = json!({
        "org.opencontainers.image.ref.name": name,
        "io.containerd.image.name": format!("docker.io/library/{name}"),
    });
    archive.file("oci-layout", 0o644, json(&json!({ "imageLayoutVersion": "1.0.0" })));
    archive.file("index.json", 0o644, json(&json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [index] })));
    archive.file("manifest.json", 0o644, json(&Value::from(docker)));
    page.write(&format!("portcullis-{}-image.tar", page.version), archive.tar()?)
}

fn layer(page: &Page, program: &Program, certificates: &str) -> Result<Vec<u8>> {
    let mut layer = Archive::new(page.epoch);
    layer.file("usr/bin/portcullis", 0o755, std::fs::read(&program.path)?);
    layer.file(CERTIFICATES, 0o644, certificates);
    layer.folder(DATA.trim_start_matches('/'), 0o700, USER);
    layer.tar()
}

/// What an engine reads: image-spec 1.1, `config.md`.
fn config(page: &Page, program: &Program, layer: &str) -> Value {
    let created = Timestamp(page.epoch).to_string();
    json!({
        "created": created,
        "architecture": program.target.deb(),
        "os": "linux",
        "config": {
            "User": format!("{USER}:{USER}"),
            "Env": ["PATH=/usr/bin", format!("PORTCULLIS_DATA_DIR={DATA}")],
            "Entrypoint": ["/usr/bin/portcullis"],
            "Cmd": ["--help"],
            "Volumes": { DATA: {} },
            "WorkingDir": "/",
            "Labels": labels(page),
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{layer}")] },
        "history": [{ "created": created, "created_by": "cargo xtask release" }],
    })
}

/// The keys of image-spec 1.1, `annotations.md`.
fn labels(page: &Page) -> Value {
    json!({
        "org.opencontainers.image.created": Timestamp(page.epoch).to_string(),
        "org.opencontainers.image.title": "portcullis",
        "org.opencontainers.image.description": "A self-hosted access layer: tunnels, IP allow lists and a coordination server",
        "org.opencontainers.image.version": page.version,
        "org.opencontainers.image.revision": page.commit,
        "org.opencontainers.image.licenses": "MIT OR Apache-2.0",
    })
}

/// Puts a blob into the archive; its descriptor.
fn blob(archive: &mut Archive, kind: &str, content: Vec<u8>) -> Value {
    let (digest, size) = (stage::sha256(&content), content.len());
    archive.file(&format!("blobs/sha256/{digest}"), 0o644, content);
    json!({ "mediaType": kind, "digest": format!("sha256:{digest}"), "size": size })
}

/// Where the blob of a descriptor lies.
fn path(descriptor: &Value) -> String {
    format!("blobs/{}", descriptor["digest"].as_str().unwrap_or_default().replace(':', "/"))
}

fn json(value: &Value) -> Vec<u8> {
    value.to_string().into_bytes()
}

/// Mozilla's root certificates as PEM (RFC 7468), in the crate's order. They are of the version in `Cargo.lock`, not of
/// the machine that makes the page.
fn certificates() -> String {
    let mut text = "# Mozilla's root certificates, from the crate webpki-root-certs.\n\
                    # Licence: CDLA-Permissive-2.0, https://cdla.dev/permissive-2-0/\n"
        .to_string();
    for der in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        let body = STANDARD.encode(der);
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let mut rest = body.as_str();
        while !rest.is_empty() {
            let (line, more) = rest.split_at(rest.len().min(64));
            let _ = writeln!(text, "{line}");
            rest = more;
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}
