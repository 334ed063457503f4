//! What a person ends and whom he keeps out. In: a command. Out: grants that end and bans that begin, all of it or nothing.

use crate::{Ban, BanId, Claim, Evidence, Whom};
use addr::Prefix;

use super::{About, Audit, Close, Effect, Ledger, Outcome, Rejection};
use crate::ended::What;

/// Bans of one list; each is looked at for each proof.
pub const BANS: usize = 1_000;

impl Ledger {
    pub(super) fn close(&mut self, c: &Close) -> Outcome {
        let new = |me: &Ledger, list: &str, whom: &Whom| me.lists.get(list).is_some_and(|p| !p.bans.contains_key(whom));
        for list in self.lists.keys() {
            let more = c.bans.iter().filter(|(l, whom, _)| l == list && new(self, l, whom)).count();
            if more > 0 && self.bans(list).count() + more > BANS {
                return Outcome::Rejected(Rejection::Bans);
            }
        }
        let mut done = 0;
        for (list, whom, until) in
            c.bans.iter().filter(|(l, ..)| self.lists.contains_key(l)).cloned().collect::<Vec<_>>()
        {
            // One that is there is told anew under its number, so that the store never has two.
            let there = self.lists.get(&list).and_then(|p| p.bans.get(&whom)).map(|b| b.id);
            let id = there.unwrap_or_else(|| BanId(self.number().0));
            let ban = Ban { id, list, whom, since: self.now, until };
            self.effects.push_back(Effect::PersistBan(ban.clone()));
            self.effects.push_back(Effect::Audit(Audit {
                at: self.now,
                what: What::Banned,
                about: About::Ban(ban.clone()),
                by: c.by.clone(),
            }));
            self.put_ban(ban);
            done += 1;
        }
        let meant = |x: &Claim| x.evidence != Evidence::Dns && (c.principal.is_none() || x.principal == c.principal);
        for id in &c.ids {
            done += usize::from(self.take_away(*id, &meant, &c.by));
        }
        if done == 0 { Outcome::Rejected(Rejection::NoGrant) } else { Outcome::Settled(done) }
    }

    /// Whoever is let in by hand is no longer banned.
    pub(super) fn welcome(&mut self, list: &str, prefix: Prefix, principal: Option<&str>) {
        let over: Vec<Whom> = self
            .bans(list)
            .filter(|b| match &b.whom {
                Whom::From(p) => prefix.covers(*p),
                Whom::Named(n) => Some(n.as_str()) == principal,
            })
            .map(|b| b.whom.clone())
            .collect();
        for whom in over {
            self.end_ban(list, &whom, "let in by hand");
        }
    }

    /// Puts a ban in its place, which may be that of another.
    pub(super) fn put_ban(&mut self, ban: Ban) {
        let Some(page) = self.lists.get_mut(&ban.list) else { return };
        if let Some(end) = ban.until {
            self.ban_ends.insert((end, ban.list.clone(), ban.whom.clone()));
        }
        let before = page.bans.insert(ban.whom.clone(), ban.clone());
        if let Some(b) = before.filter(|b| b.until != ban.until)
            && let Some(end) = b.until
        {
            self.ban_ends.remove(&(end, b.list, b.whom));
        }
    }

    pub(super) fn end_ban(&mut self, list: &str, whom: &Whom, by: &str) -> bool {
        let Some(ban) = self.lists.get_mut(list).and_then(|p| p.bans.remove(whom)) else { return false };
        if let Some(end) = ban.until {
            self.ban_ends.remove(&(end, list.to_string(), whom.clone()));
        }
        self.effects.push_back(Effect::ForgetBan(ban.id));
        let (about, by) = (About::Ban(ban), by.to_string());
        self.effects.push_back(Effect::Audit(Audit { at: self.now, what: What::Unbanned, about, by }));
        true
    }
}
