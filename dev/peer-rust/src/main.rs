//! A node by the Rust crate `tailscale`, for the mesh tests. In: `peer-rust CONTROL_URL NAME KEY_FILE [TARGET…]`, the
//! pre-auth key in `PEER_KEY`. Out: its addresses, and once a second whom each target says it sees; on its port 80 it says
//! whom it sees itself.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use tailscale::netstack::TcpStream;
use tailscale::{Config, Device};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Longer than any packet of a test takes, also by the relay.
const PATIENCE: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let log = tracing_subscriber::EnvFilter::from_default_env();
    tracing_subscriber::fmt().with_env_filter(log).with_writer(std::io::stderr).init();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [url, name, keys, targets @ ..] = args.as_slice() else {
        return Err("usage: peer-rust CONTROL_URL NAME KEY_FILE [TARGET…]".into());
    };
    let targets = targets.iter().map(|t| t.parse()).collect::<Result<Vec<SocketAddr>, _>>()?;
    let mut config = Config::default_with_key_file(keys).await?;
    config.control_server_url = url.parse()?;
    config.requested_hostname = Some(name.clone());
    let device = Device::new(&config, std::env::var("PEER_KEY").ok()).await?;
    let (v4, v6) = (device.ipv4_addr().await?, device.ipv6_addr().await?);
    println!("joined {v4} {v6}");
    let listener = device.tcp_listen((v4, 80).into()).await?;
    tokio::spawn(async move {
        while let Ok(stream) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    loop {
        for target in &targets {
            match tokio::time::timeout(PATIENCE, visit(&device, *target)).await {
                Ok(Ok(seen)) => println!("{target} sees {seen}"),
                Ok(Err(e)) => println!("{target} fails: {e}"),
                Err(_) => println!("{target} does not answer"),
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Answers each thing said with the visitor's address, as the services of the mesh tests do.
async fn serve(mut stream: TcpStream) {
    let peer = stream.remote_addr().ip();
    let mut buf = [0; 512];
    while stream.read(&mut buf).await.is_ok_and(|n| n > 0) {
        if stream.write_all(format!("{peer}\n").as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn visit(device: &Device, target: SocketAddr) -> Result<String, Box<dyn Error>> {
    let mut stream = device.tcp_connect(target).await?;
    stream.write_all(b"whom do you see?\n").await?;
    let mut line = Vec::new();
    while !line.ends_with(b"\n") && line.len() < 64 {
        line.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&line).trim().to_string())
}
