//! Other settings for a running coordination server. In: the next settings. Out: the same server under them, and what has to
//! wait for a restart.

use addr::AddrSet;
use runtime::reload::Applied;

use super::apps::Lookups;
use super::{Control, ControlSettings, relays};

/// The next settings, and what they need.
pub struct Prepared {
    settings: ControlSettings,
    lookups: Lookups,
}

impl Control {
    /// Makes everything ready that the next settings need.
    ///
    /// # Errors
    /// A nameserver cannot be used; the server goes on as it was.
    pub fn prepare(&self, next: ControlSettings) -> anyhow::Result<Prepared> {
        Ok(Prepared { lookups: Lookups::of(&next)?, settings: next })
    }

    /// Puts prepared settings into force.
    ///
    /// # Errors
    /// The registry takes no change now; everything is as it was.
    pub async fn apply(&self, prepared: Prepared) -> anyhow::Result<Applied> {
        let Prepared { settings: next, lookups } = prepared;
        let before = self.settings.lock().clone();
        let mut applied = Applied { changed: Vec::new(), restart: beyond_reload(&before, &next) };
        let mut now = before.clone();
        let limits = |s: &ControlSettings| (s.registry.node_expiry, s.registry.app_expiry, s.registry.app_routes);
        // What can fail comes first.
        if limits(&before) != limits(&next) {
            let (node_expiry, app_expiry, app_routes) = limits(&next);
            self.state.registry.change(move |registry, _| registry.limit(node_expiry, app_expiry, app_routes)).await?;
            (now.registry.node_expiry, now.registry.app_expiry) = (node_expiry, app_expiry);
            now.registry.app_routes = app_routes;
            applied.changed.push("expiry and limits of nodes and apps".to_string());
        }
        if before.app_resolvers != next.app_resolvers || before.registry.app_expiry != next.registry.app_expiry {
            self.state.lookups.send_replace(lookups);
        }
        if before.app_resolvers != next.app_resolvers {
            now.app_resolvers = next.app_resolvers;
            applied.changed.push("nameservers of apps".to_string());
        }
        if !same(&before.trusted, &next.trusted) {
            *self.state.trusted.write() = next.trusted.clone();
            now.trusted = next.trusted;
            applied.changed.push("control's trusted proxies".to_string());
        }
        if before.derp_map != next.derp_map {
            now.derp_map = next.derp_map;
            let map = relays::map(&now, self.pin);
            self.state.derp.send_modify(|(number, told)| (*number, *told) = (*number + 1, map));
            applied.changed.push("relays".to_string());
        }
        *self.settings.lock() = now;
        Ok(applied)
    }
}

fn same(a: &AddrSet, b: &AddrSet) -> bool {
    a.prefixes() == b.prefixes()
}

/// Settings that are read at the start only, and differ from those. The policy file is read again by itself.
fn beyond_reload(started: &ControlSettings, next: &ControlSettings) -> Vec<&'static str> {
    [
        (started.server_url != next.server_url).then_some("server_url"),
        (started.listen != next.listen).then_some("control.listen"),
        (started.tls != next.tls).then_some("control.tls_cert"),
        (started.stun != next.stun).then_some("stun"),
        (started.relay != next.relay).then_some("relay"),
        (started.registry.pools != next.registry.pools).then_some("ipv4, ipv6"),
        (started.registry.domain != next.registry.domain).then_some("domain"),
        (started.metrics != next.metrics).then_some("metrics"),
        (started.policy != next.policy).then_some("control.policy"),
    ]
    .into_iter()
    .flatten()
    .collect()
}
