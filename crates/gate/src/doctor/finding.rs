//! What a doctor can find. In: observations, remarks. Out: kinds with names by which the configuration accepts them.

use std::fmt;
use std::str::FromStr;

use crate::enforce::Remark;
use crate::observations::Observation;

/// Kinds of findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FindingId {
    /// The store or the audit log does not save.
    Store,
    /// The clock was set back, or jumped forward.
    Clock,
    /// Something in front is not equal to its list.
    Enforcer,
    /// Advice about something in front.
    EnforcerAdvice,
    /// A file is written in place.
    SingleFileMount,
    /// Each change closes Caddy's streams.
    CaddyStreams,
    /// A followed host name has no good answer.
    Name,
    /// What a followed host name answers does not count.
    NameAddress,
    /// A list is full: somebody left for another, or found no place.
    ListFull,
    /// A share's upstream.
    Share,
    /// [`Observation::UntrustedPeer`].
    UntrustedPeer,
    /// [`Observation::NoAddress`].
    NoAddress,
    /// [`Observation::Unreadable`].
    UnreadableAddress,
    /// [`Observation::SecondProxy`].
    SecondProxy,
    /// [`Observation::Gateway`], [`Observation::Loopback`].
    Gateway,
    /// [`Observation::PrivateProof`].
    PrivateProof,
    /// [`Observation::HopBeforeTraefik`].
    TraefikBehindProxy,
    /// [`Observation::PathBelow`].
    PathBelow,
    /// [`Observation::NoList`].
    NoList,
    /// [`Observation::Certificate`].
    CertificateForm,
    /// [`Observation::OpenSite`].
    OpenSite,
    /// [`Observation::Crowded`].
    Crowded,
    /// Anybody may be a trusted proxy.
    WideTrust,
    /// A site takes visitors without a certificate for proven.
    SiteWithoutCertificate,
    /// A site passes a visitor's own certificate headers on.
    SiteCertificateHeader,
    /// A site passes a visitor's own address header on.
    SiteAddressHeader,
    /// A site could not be asked.
    SiteUnreachable,
}

/// Every kind and its name.
const IDS: [(FindingId, &str); 27] = [
    (FindingId::Store, "store"),
    (FindingId::Clock, "clock"),
    (FindingId::Enforcer, "enforcer"),
    (FindingId::EnforcerAdvice, "enforcer-advice"),
    (FindingId::SingleFileMount, "single-file-mount"),
    (FindingId::CaddyStreams, "caddy-streams"),
    (FindingId::Name, "name"),
    (FindingId::NameAddress, "name-address"),
    (FindingId::ListFull, "list-full"),
    (FindingId::Share, "share"),
    (FindingId::UntrustedPeer, "untrusted-peer"),
    (FindingId::NoAddress, "no-address"),
    (FindingId::UnreadableAddress, "unreadable-address"),
    (FindingId::SecondProxy, "second-proxy"),
    (FindingId::Gateway, "gateway"),
    (FindingId::PrivateProof, "private-proof"),
    (FindingId::TraefikBehindProxy, "traefik-behind-proxy"),
    (FindingId::PathBelow, "path-below"),
    (FindingId::NoList, "no-list"),
    (FindingId::CertificateForm, "certificate-form"),
    (FindingId::OpenSite, "open-site"),
    (FindingId::Crowded, "crowded"),
    (FindingId::WideTrust, "wide-trust"),
    (FindingId::SiteWithoutCertificate, "site-without-certificate"),
    (FindingId::SiteCertificateHeader, "site-certificate-header"),
    (FindingId::SiteAddressHeader, "site-address-header"),
    (FindingId::SiteUnreachable, "site-unreachable"),
];

impl FindingId {
    /// What works, and may not be what is wanted, is a warning.
    pub(super) fn severity(self) -> api::Severity {
        match self {
            FindingId::EnforcerAdvice | FindingId::CaddyStreams | FindingId::Crowded => api::Severity::Warning,
            _ => api::Severity::Error,
        }
    }
}

/// Something wrong.
#[derive(Debug, Clone)]
pub(super) struct Finding {
    pub(super) id: FindingId,
    pub(super) what: String,
    pub(super) fix: String,
}

impl Finding {
    pub(super) fn new(id: FindingId, what: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding { id, what: what.into(), fix: fix.into() }
    }
}

impl fmt::Display for FindingId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(IDS.iter().find(|(id, _)| id == self).map_or("", |(_, name)| name))
    }
}

impl FromStr for FindingId {
    type Err = String;

    fn from_str(text: &str) -> Result<FindingId, String> {
        let found = IDS.iter().find(|(_, name)| *name == text).map(|(id, _)| *id);
        let all = || IDS.map(|(_, name)| name).join(", ");
        found.ok_or_else(|| format!("`{text}` is no finding of doctor; there are {}", all()))
    }
}

impl From<&Observation> for FindingId {
    fn from(what: &Observation) -> FindingId {
        match what {
            Observation::UntrustedPeer(_) => FindingId::UntrustedPeer,
            Observation::NoAddress(..) => FindingId::NoAddress,
            Observation::Unreadable(..) => FindingId::UnreadableAddress,
            Observation::SecondProxy(..) => FindingId::SecondProxy,
            Observation::Gateway(_) | Observation::Loopback(_) => FindingId::Gateway,
            Observation::PrivateProof(_) => FindingId::PrivateProof,
            Observation::HopBeforeTraefik(_) => FindingId::TraefikBehindProxy,
            Observation::PathBelow(..) => FindingId::PathBelow,
            Observation::NoList(..) => FindingId::NoList,
            Observation::Certificate(..) => FindingId::CertificateForm,
            Observation::OpenSite(_) => FindingId::OpenSite,
            Observation::Crowded(_) => FindingId::Crowded,
        }
    }
}

impl From<&Remark> for FindingId {
    fn from(what: &Remark) -> FindingId {
        match what {
            Remark::InPlace { .. } => FindingId::SingleFileMount,
            Remark::ClosesStreams => FindingId::CaddyStreams,
            Remark::LongList { .. } => FindingId::EnforcerAdvice,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        for (id, name) in IDS {
            assert_eq!((name.parse(), id.to_string().as_str()), (Ok(id), name));
        }
        assert!("nonsense".parse::<FindingId>().unwrap_err().contains("single-file-mount"));
    }
}
