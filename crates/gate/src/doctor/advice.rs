//! The switches that mend something, by how a gate is configured. In: what is to be changed. Out: the line to write.

use addr::{Addr, AddrSet, Prefix};

/// How a gate is configured, for the lines that mend something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ConfiguredBy {
    /// By environment variables and flags.
    #[default]
    Environment,
    /// By `[gate]` of a file.
    File,
}

/// Trusted prefixes that a line names; longer ones are told as an addition.
const LINE: usize = 12;

impl ConfiguredBy {
    /// The whole line that trusts these and one more.
    pub(super) fn trusting(self, now: &AddrSet, more: Addr) -> String {
        let prefixes = now.prefixes();
        let list: Vec<String> = prefixes.iter().chain([&Prefix::host(more)]).map(ToString::to_string).collect();
        match (self, list.len() > LINE) {
            (ConfiguredBy::Environment, true) => format!("add {more} to TRUSTED_PROXIES"),
            (ConfiguredBy::Environment, false) => format!("TRUSTED_PROXIES={}", list.join(",")),
            (ConfiguredBy::File, true) => format!("add \"{more}\" to trusted_proxies under [gate]"),
            (ConfiguredBy::File, false) => format!("trusted_proxies = [\"{}\"] under [gate]", list.join("\", \"")),
        }
    }

    /// The switches for the most learned entries and the most guests.
    pub(super) fn limits(self) -> (&'static str, &'static str) {
        match self {
            ConfiguredBy::Environment => ("MAX_IP_LEN", "MAX_GUESTS"),
            ConfiguredBy::File => ("`max` of the list", "`guests` of the list"),
        }
    }

    /// The switch that always lets addresses in.
    pub(super) fn range(self) -> &'static str {
        match self {
            ConfiguredBy::Environment => "DEFAULT_SOURCE_RANGE",
            ConfiguredBy::File => "`static` of the list",
        }
    }

    pub(super) fn excluding(self, hop: Addr) -> String {
        match self {
            ConfiguredBy::Environment => format!("TRAEFIK_EXCLUDED_IPS={hop}"),
            ConfiguredBy::File => format!("excluded_ips = [\"{hop}\"] under [[gate.traefik]]"),
        }
    }

    pub(super) fn below(self) -> &'static str {
        match self {
            ConfiguredBy::Environment => "--paths-below",
            ConfiguredBy::File => "paths_below = true under [gate]",
        }
    }

    pub(super) fn certificate(self) -> &'static str {
        match self {
            ConfiguredBy::Environment => "--certificate gate|traefik|traefik-chain",
            ConfiguredBy::File => "`certificate` of the teacher, \"gate\", \"traefik\" or \"traefik-chain\"",
        }
    }

    /// The switch that accepts findings.
    pub(super) fn accept(self) -> &'static str {
        match self {
            ConfiguredBy::Environment => "DOCTOR_ACCEPT=",
            ConfiguredBy::File => "accept = [\"…\"] under [gate], with ",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_trusts_one_more_keeps_the_others() {
        let now = AddrSet::new(["172.16.0.0/12".parse().unwrap(), "127.0.0.1".parse().unwrap()]);
        let more = "173.245.48.5".parse().unwrap();
        let line = ConfiguredBy::Environment.trusting(&now, more);
        assert!(
            line.starts_with("TRUSTED_PROXIES=") && line.contains("172.16.0.0/12") && line.contains("173.245.48.5")
        );
        assert!(ConfiguredBy::File.trusting(&now, more).contains("trusted_proxies = ["));
    }
}
