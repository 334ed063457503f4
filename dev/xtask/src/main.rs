//! `cargo xtask test|check|fuzz|bench|release|site`: the project's own commands. In: arguments. Out: suites run, figures
//! measured, house rules checked, a release page and a site made; exit 0 only if all is well.

use std::process::ExitCode;

mod bench;
mod check;
mod fuzz;
mod release;
mod setup;
mod site;
mod step;
mod test;

const USAGE: &str = "\
usage: cargo xtask test [--setup [--releases]]
                                         every check and every suite; --setup first installs what the suites need and then requires it;
                                         --releases also builds the official mesh clients of ten releases (15 min)
       cargo xtask check [NAME…]         what machines hold us to; without names all but the last:
                                           rules       our own: arrows between crates, headers, sizes, words, purity,
                                                       unused dependencies; a second, no build
                                           fmt         rustfmt
                                           deny        licences, sources and banned crates, by cargo-deny
                                           clippy      all targets, warnings denied
                                           doc         rustdoc, private items too, warnings denied
                                           advisories  known faults of dependencies, by cargo-deny; fetches a database
       cargo xtask fuzz [TARGET…] [--seconds N]
                                         every target of fuzz/, or these, N seconds each (60), two at a time
       cargo xtask bench NAME [--quick] [--rounds N] …
                                         measure: `cargo xtask bench` lists the names
       cargo xtask release [--target T] [--out DIR] …
                                         everything that a release page needs, into target/release-page;
                                         `cargo xtask release --help` lists flags and steps
       cargo xtask site                  the manual as a site, into target/site; fails if a link in it leads nowhere";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rest = args.get(1..).unwrap_or_default();
    let done = match args.first().map(String::as_str) {
        Some("test") => test::run(rest),
        Some("check") => check::run(rest),
        Some("fuzz") => fuzz::run(rest),
        Some("bench") => bench::run(rest),
        Some("release") => release::run(rest),
        Some("site") => site::run(rest),
        Some("--help" | "-h" | "help") => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::FAILURE
        }
    }
}
