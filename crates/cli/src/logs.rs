//! The log, on standard error. In: the form and level asked for. Out: lines for people on a terminal, the same without
//! colours elsewhere, or JSON.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use server::Log;

/// Starts the log. `RUST_LOG` refines what is shown, for developers.
pub(crate) fn start(Log { json, debug }: Log) {
    let default = if debug { "debug,hyper=info,rustls=info,h2=info,mio=info,notify=info" } else { "info" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(debug)
        .with_span_events(FmtSpan::NONE)
        // Nobody reads standard error any more: the room goes on without a log. The library's own complaint about it
        // would go to the same place, and panic.
        .log_internal_errors(false)
        .with_writer(std::io::stderr);
    // A second start (in tests of this process) is no error.
    let _ = match json {
        // A line has its fields and those of the connection that it belongs to.
        true => builder.json().flatten_event(true).with_span_list(false).try_init(),
        false => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
}
