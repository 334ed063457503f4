//! Devices that move: one that shows up at a new place leaves its old one, unless it turns out to be several. In: a proof
//! of somebody with a device. Out: earlier ends of that person's other places.

use crate::{Claim, GrantId, Strength};
use addr::Prefix;

use super::{Effect, Ledger};
use crate::ended::What;

/// Somebody's device that is no longer at a place.
#[derive(Debug)]
pub(super) struct Moved {
    pub(super) at: u64,
    pub(super) list: String,
    pub(super) prefix: Prefix,
    pub(super) claim: Claim,
}

/// Places of one certificate at a time that are told apart: more than a household has phones.
pub const MAX_DEVICES_TOLD_APART: u8 = 16;
/// Seconds within which a device that is back at a place it had left is two devices: longer than apps report home.
const RETURN_WINDOW: u64 = 3_600;
/// Seconds after which the other places of a certificate on several devices leave, unless they prove themselves again.
pub const OTHER_PLACE: u64 = 86_400;
/// Devices that are remembered after they left a place.
pub(super) const MOVED: usize = 256;
impl Ledger {
    /// True if this device left this place a short while ago because it showed up elsewhere.
    pub(super) fn was_here(&self, list: &str, prefix: Prefix, claim: &Claim) -> bool {
        let since = self.now.saturating_sub(RETURN_WINDOW);
        claim.device.is_some()
            && self
                .moved
                .iter()
                .any(|m| m.at >= since && m.prefix == prefix && m.list == list && m.claim.is_same(claim))
    }

    /// A device that shows up at a new place leaves its old one after the grace, unless it is known to be several: one
    /// certificate may be on two phones. Somebody at too many places leaves the one that proved itself longest ago.
    /// Families are apart: a device has one address of each. `returns`: it had left this place for another.
    pub(super) fn roam(&mut self, list: &str, id: GrantId, claim: &Claim, returns: bool) {
        let Some(page) = self.lists.get(list) else { return };
        let (Some(principal), Some(here)) = (&claim.principal, self.grants.get(&id).map(|g| g.prefix)) else { return };
        let Some(ids) = page.by_principal.get(principal) else { return };
        // Everywhere this person has proved himself, this place first, then the latest.
        let mut places: Vec<(GrantId, Claim)> = ids
            .iter()
            .filter_map(|i| self.grants.get(i))
            .filter(|g| g.prefix.is_v4() == here.is_v4())
            .flat_map(|g| g.claims().map(|c| (g.id, c)))
            .filter(|(_, c)| c.principal.as_ref() == Some(principal) && roams(c))
            .map(|(i, c)| (i, c.clone()))
            .collect();
        places.sort_by_key(|(i, c)| std::cmp::Reverse((*i == id && c.is_same(claim), c.proved_at, *i)));
        let same = |c: &Claim| c.device.is_some() && c.device == claim.device;
        let here_too = places.iter().filter(|(_, c)| same(c)).count();
        let known = places.iter().filter(|(_, c)| same(c)).map(|(_, c)| usize::from(c.places)).max().unwrap_or(1);
        let most = page.rules.devices.unwrap_or(usize::MAX).min(usize::from(MAX_DEVICES_TOLD_APART)).max(1);
        let known = (known + usize::from(returns)).min(here_too).clamp(1, most);
        let soon = page.rules.grace.map(|g| self.now.saturating_add(g));
        // With a grace without end only a limit makes somebody leave, and that at once.
        let over = soon.unwrap_or(self.now);
        let other = page.rules.grace.unwrap_or(0).max(OTHER_PLACE);
        let (mut ends, mut devices): (Vec<(GrantId, Claim, u64, bool)>, usize) = (Vec::new(), 0);
        for (n, (i, c)) in places.into_iter().enumerate() {
            devices += usize::from(same(&c));
            let leaves = if page.rules.devices.is_some_and(|slots| n >= slots) {
                Some((over, true))
            } else if same(&c) && n > 0 && devices > known {
                soon.map(|at| (at, true))
            } else if same(&c) && n > 0 && soon.is_some() {
                Some((c.proved_at.saturating_add(other), false))
            } else {
                None
            };
            ends.extend(leaves.map(|(at, superseded)| (i, c, at, superseded)));
        }
        for (i, c, at, superseded) in ends {
            self.leave(i, &c, at, superseded.then_some(here));
        }
        self.note_places(id, claim, known as u8);
        self.handle_timeout(self.now);
    }

    /// Ends a device's stay at an old place, then. `superseded`: the place for which it does; `None`: it is one of several
    /// devices and only has to show itself in time.
    fn leave(&mut self, id: GrantId, of: &Claim, at: u64, superseded: Option<Prefix>) {
        let Some(g) = self.grants.get(&id) else { return };
        let mut claims: Vec<Claim> = g.claims().cloned().collect();
        let Some(c) = claims.iter_mut().find(|c| c.is_same(of)) else { return };
        if c.until.is_some_and(|u| u <= at) {
            return;
        }
        c.until = Some(at);
        c.superseded = superseded.or(c.superseded);
        let told = Claim::clone(c);
        let Some(g) = g.with_claims(claims) else { return };
        self.effects.push_back(Effect::Persist(g.clone()));
        self.effects.push_back(Effect::Changed(g.list.clone()));
        if let Some(place) = superseded {
            let about = g.with_claims(vec![told]).unwrap_or_else(|| g.clone());
            self.audit(What::Superseded, &about, &format!("its device came from {place}"));
        }
        self.put(g, true);
    }

    /// Remembers, with the grant, at how many places a device has been seen at a time.
    fn note_places(&mut self, id: GrantId, claim: &Claim, known: u8) {
        let Some(g) = self.grants.get(&id) else { return };
        let mut claims: Vec<Claim> = g.claims().cloned().collect();
        let Some(c) = claims.iter_mut().find(|c| c.is_same(claim) && c.places != known) else { return };
        c.places = known;
        let Some(g) = g.with_claims(claims) else { return };
        self.effects.push_back(Effect::Persist(g.clone()));
        self.put(g, true);
    }
}

/// True for what a person's device proves; a link's guests are many persons.
fn roams(c: &Claim) -> bool {
    matches!(c.strength(), Strength::Login | Strength::Key)
}
