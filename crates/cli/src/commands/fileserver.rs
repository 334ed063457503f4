//! `portcullis fileserver`. In: what was typed. Out: a file server until it is told to stop.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use fileserver::{self, FilesSettings};
use net::secret::TokenHash;
use runtime::admission::Admission;
use runtime::lists::{self, ListPart, ListSource};
use runtime::run::Run;

use crate::args::{FilesArgs, Given};
use crate::fail::{Done, Fail};
use crate::resolve::{Notes, token};
use crate::{resolve, say};

/// Port that inlets-pro documents.
const PORT: u16 = 8080;

/// Serves a folder.
pub(crate) fn run(args: &FilesArgs, given: &Given) -> Done {
    let notes = Notes::default();
    let token = token::find(&args.token, given, &notes)?;
    notes.log();
    let listen = SocketAddr::new(args.addr.unwrap_or(IpAddr::from([127, 0, 0, 1])), args.port.unwrap_or(PORT));
    let parts = if args.allow_ips.is_empty() {
        vec![ListPart::Default]
    } else {
        resolve::lists::from_flags(&args.allow_ips, &given.place("allow_ips")).map_err(Fail::misused)?
    };
    let sources = vec![ListSource { name: fileserver::SERVICE.list(), parts }];
    let settings = FilesSettings {
        webroot: args.webroot.clone().unwrap_or_else(|| PathBuf::from(".")),
        allow_browsing: args.allow_browsing.unwrap_or(false),
        token: token.map(|t| TokenHash::of(t.secret.reveal())),
        listen,
    };
    let drain = args.drain.unwrap_or(runtime::run::DRAIN);
    crate::block_on(async move {
        let run = Run::new(drain);
        run.follow_signals()?;
        let admission = Admission::new();
        lists::keep(&run, &admission, sources, None)?;
        server::say_unreachable(&admission.view(), &fileserver::SERVICE, listen.ip(), "--addr 0.0.0.0");
        let ready = run.not_ready("file server");
        let handle = fileserver::start(settings, admission, &run).await?;
        let host = if handle.addr.ip().is_unspecified() {
            net::sockets::own_address().unwrap_or(IpAddr::from([127, 0, 0, 1]))
        } else {
            handle.addr.ip()
        };
        say::aside(format_args!("files: http://{}", SocketAddr::new(host, handle.addr.port())));
        ready.ready();
        Ok(run.finish().await?)
    })
}
