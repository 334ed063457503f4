//! What mends something, by how a gate is configured. In: an observation, or what is to be changed. Out: the line to
//! write.

use addr::{Addr, AddrSet, Prefix};

use crate::asked::Proxies;
use crate::observations::Observation;

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
    /// What to do about an observation. No line lets in more than it names, and every line that lets somebody in says
    /// first what must be true.
    pub(crate) fn mend(self, proxies: &Proxies, what: &Observation) -> String {
        let trusting = |a: &Addr| self.trusting(&proxies.trusted, *a);
        match what {
            Observation::UntrustedPeer(a) if a.is_private() => format!("if it is a proxy of yours: {}", trusting(a)),
            Observation::UntrustedPeer(a) => format!(
                "if it is not a proxy of yours, strangers reach this port: listen on an address that only your proxies reach; if it is: {}",
                trusting(a)
            ),
            Observation::NoAddress(_, header) => {
                format!("let the proxy write it (nginx: proxy_set_header {} $remote_addr)", header.name())
            }
            Observation::Unreadable(..) => "let the proxy in front write the header anew instead of passing the visitor's own on (nginx: proxy_set_header X-Forwarded-For $remote_addr)".to_string(),
            Observation::SecondProxy(a, _) if proxies.trusted.contains(*a) => format!(
                "let it write its visitors' addresses into {0}, and the proxy behind it keep them (Traefik: forwardedHeaders.trustedIPs: [\"{a}\"]); keep it out of {1}",
                proxies.header.name(),
                self.range()
            ),
            Observation::SecondProxy(a, _) => format!(
                "if it is a proxy of yours or of your provider, name it, and let the proxy behind it trust it too (Traefik: forwardedHeaders.trustedIPs): {}; if it is not, its visitor wrote the header: let your proxy write it anew",
                trusting(a)
            ),
            Observation::Gateway(_) => format!(
                "Docker: publish the proxy's ports with `network_mode: host`, or set \"userland-proxy\": false and turn IPv6 on for its network; take its network out of {} until then",
                self.range()
            ),
            Observation::Loopback(_) => format!(
                "let the tunnel pass the visitor's address on and the proxy trust it for that; keep loopback out of {}",
                self.range()
            ),
            Observation::PrivateProof(a) => self.private(*a),
            Observation::HopBeforeTraefik(a) => {
                format!("{}, or ask the check endpoint with trustForwardHeader: true", self.excluding(*a))
            }
            Observation::PathBelow(..) => format!("if it is Envoy or does the same: {}", self.below()),
            Observation::NoList(_, endpoint, _, there) if there.is_empty() => {
                format!("no list learns at {endpoint}: `[[gate.learn]]` with its name makes one do so")
            }
            Observation::NoList(_, endpoint, _, there) => format!("ask for one of these: {endpoint}{}", there.replace(", ", &format!(", {endpoint}"))),
            Observation::Certificate(..) => {
                format!("let the proxy write it as the manual shows; which header counts: {}", self.certificate())
            }
            Observation::OpenSite(_) => {
                "Traefik makes a site of each container with traefik.enable=true, and whoever visits the gate's own would be learnt: take that label off the gate's container, and put its middlewares' labels on the services that use them".to_string()
            }
            Observation::Crowded(_) => {
                "if it is a proxy of yours, let it keep connections open instead of making new ones".to_string()
            }
        }
    }

    /// A private address without a sign of others behind it: a device, or a proxy that hides them.
    fn private(self, addr: Addr) -> String {
        let range = self.range();
        let docker = addr.is_v4() && addr.bits() >> 20 == (172 << 24 | 16 << 16) >> 20;
        if docker {
            return format!(
                "this is an address of containers: if a proxy or a tunnel has it, everybody comes from there, so keep it out of {range} and let it pass visitors' addresses on; only if it is one device of yours add {addr} there"
            );
        }
        format!(
            "only if one device of yours has this address, and no proxy, tunnel or router through which others come: add {addr} to {range}"
        )
    }

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
            ConfiguredBy::File => {
                "`certificate` of [[gate.mirror]] or [[gate.learn]], \"gate\", \"traefik\" or \"traefik-chain\""
            }
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
