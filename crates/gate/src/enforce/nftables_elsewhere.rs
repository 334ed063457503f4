//! nftables where there is none. In: a configuration that asks for it. Out: an error that says so.

use access::publish::Desired;
use anyhow::bail;
use futures_util::future::{BoxFuture, FutureExt, ready};
use runtime::hint::Hinted;

use super::ports::NftablesConfig;
use super::{Closed, Enforcer, Info, Reconciled, Snapshot};

/// Ports that nothing guards.
pub(super) struct Nftables(Info);

impl Nftables {
    pub(super) fn new(config: NftablesConfig) -> Nftables {
        Nftables(Info { name: format!("nftables inet {}", config.table), lists: vec![config.list], ..Info::default() })
    }
}

impl Enforcer for Nftables {
    fn info(&self) -> &Info {
        &self.0
    }

    fn close(&mut self, _: &Desired, _: u64) -> anyhow::Result<Closed> {
        Err(Hinted::error("nftables is a part of Linux".to_string(), "leave out --nft-ports"))
    }

    fn guard(&mut self, _: &Snapshot) -> anyhow::Result<()> {
        bail!("nftables is a part of Linux")
    }

    fn reconcile<'a>(&'a mut self, _: &'a Snapshot, _: bool) -> BoxFuture<'a, anyhow::Result<Reconciled>> {
        ready(Err(anyhow::anyhow!("nftables is a part of Linux"))).boxed()
    }
}
