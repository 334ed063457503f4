//! What the simulation does not reach: changes that could not be saved, limits, and what the audit log says of each end.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// A ledger with one list.
fn one(rules: Rules) -> Ledger {
    Ledger::new([("home".to_string(), rules)], AddrSet::default())
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn proof_of(addr: &str, evidence: Evidence, who: &str) -> Event {
    Event::Proof(Proof {
        list: "home".into(),
        addr: addr.parse().unwrap(),
        evidence,
        principal: (!who.is_empty()).then(|| who.to_string()),
        device: (!who.is_empty()).then(|| format!("{who}'s")),
        ttl: None,
    })
}

fn proof(addr: &str) -> Event {
    proof_of(addr, Evidence::Mtls, "")
}

fn entry(text: &str, until: Option<u64>) -> Entry {
    let (list, prefix) = ("home".to_string(), prefix(text));
    Entry { list, prefix, evidence: Evidence::Manual, principal: None, until, pinned: false }
}

fn ban(text: &str, until: Option<u64>) -> Event {
    let bans = vec![("home".to_string(), Whom::From(prefix(text)), until)];
    Event::Close(Close { ids: Vec::new(), principal: None, bans, by: "test".into() })
}

fn effects(l: &mut Ledger) -> Vec<Effect> {
    std::iter::from_fn(|| l.poll_effect()).collect()
}

/// What the audit log says: what happened and why.
fn audited(l: &mut Ledger) -> Vec<(What, String)> {
    let told = effects(l).into_iter().filter_map(|e| match e {
        Effect::Audit(a) => Some((a.what, a.by)),
        _ => None,
    });
    told.collect()
}

fn only(l: &Ledger) -> &Grant {
    let mut all = l.grants("home");
    let g = all.next().unwrap();
    assert!(all.next().is_none());
    g
}

/// Everything that a ledger shows of its list. Of learned entries who they are: enforcers hear of an end that only moved
/// with a sign of life later.
fn shown(l: &Ledger) -> impl PartialEq + std::fmt::Debug + use<> {
    let grants: Vec<Grant> = l.grants("home").cloned().collect();
    let bans: Vec<Ban> = l.bans("home").cloned().collect();
    let learned: Vec<Prefix> = l.learnt("home").iter().map(|(p, _)| p).collect();
    (grants, bans, learned, l.counted("home"), l.poll_timeout())
}

#[derive(Debug, Clone)]
enum Step {
    Proof { at: u8, evidence: Evidence, who: u8 },
    Seen(u8),
    Add { at: u8, lasts: Option<u64>, pinned: bool },
    Close { at: u8, ban: Option<u64> },
    Extend { at: u8, until: Option<u64>, shorten: bool },
    Unban(u8),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let evidence = prop_oneof![Just(Evidence::Share), Just(Evidence::Login), Just(Evidence::Mtls)];
    let lasts = || prop::option::of(1..400u64);
    let step = prop_oneof![
        6 => (0..8u8, evidence, 0..4u8).prop_map(|(at, evidence, who)| Step::Proof { at, evidence, who }),
        2 => (0..8u8).prop_map(Step::Seen),
        2 => (0..8u8, lasts(), any::<bool>()).prop_map(|(at, lasts, pinned)| Step::Add { at, lasts, pinned }),
        1 => (0..8u8, lasts()).prop_map(|(at, ban)| Step::Close { at, ban }),
        1 => (0..8u8, lasts(), any::<bool>()).prop_map(|(at, until, shorten)| Step::Extend { at, until, shorten }),
        1 => (0..8u8).prop_map(Step::Unban),
        4 => (1..300u64).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..40)
}

/// Addresses of both families.
fn place_of(at: u8) -> String {
    if at < 4 { format!("198.51.100.{at}") } else { format!("2001:db8:0:{at}::1") }
}

fn prefix_of(at: u8) -> Prefix {
    Rules::default().learnt(place_of(at).parse().unwrap())
}

fn event(step: &Step, l: &Ledger, now: u64) -> Option<Event> {
    let of = |at: u8| l.grants("home").filter(|g| g.prefix == prefix_of(at)).map(|g| g.id).collect::<Vec<_>>();
    Some(match *step {
        Step::Proof { at, evidence, who } => {
            proof_of(&place_of(at), evidence, ["", "anna", "bert", "carl"][usize::from(who)])
        }
        Step::Seen(at) => Event::Seen("home".into(), place_of(at).parse().unwrap()),
        Step::Add { at, lasts, pinned } => {
            Event::Add(Entry { pinned, ..entry(&prefix_of(at).to_string(), lasts.map(|l| now + l)) })
        }
        Step::Close { at, ban } => Event::Close(Close {
            ids: of(at),
            principal: None,
            bans: ban.map(|b| ("home".into(), Whom::From(prefix_of(at)), Some(now + b))).into_iter().collect(),
            by: "test".into(),
        }),
        Step::Extend { at, until, shorten } => Event::Extend { ids: of(at), until: until.map(|u| now + u), shorten },
        Step::Unban(at) => Event::Unban(vec![("home".into(), Whom::From(prefix_of(at)))]),
        Step::Wait(_) => return None,
    })
}

/// What was saved.
#[derive(Debug, Default)]
struct Disk {
    grants: BTreeMap<GrantId, Grant>,
    bans: BTreeMap<BanId, Ban>,
}

impl Disk {
    fn save(&mut self, effects: &[Effect]) {
        for e in effects {
            match e {
                Effect::Persist(g) => drop(self.grants.insert(g.id, g.clone())),
                Effect::Forget(id) => drop(self.grants.remove(id)),
                Effect::PersistBan(b) => drop(self.bans.insert(b.id, b.clone())),
                Effect::ForgetBan(id) => drop(self.bans.remove(id)),
                Effect::Changed(_) | Effect::Audit(_) | Effect::Ended(_) => {}
            }
        }
    }

    /// Puts back everything that a change touched.
    fn put_back(&self, l: &mut Ledger, touched: &[Effect]) {
        for e in touched.iter().rev() {
            match e {
                Effect::Persist(Grant { id, .. }) | Effect::Forget(id) => {
                    l.put_back(*id, self.grants.get(id).cloned());
                }
                Effect::PersistBan(Ban { id, .. }) | Effect::ForgetBan(id) => {
                    l.put_back_ban(*id, self.bans.get(id).cloned());
                }
                Effect::Changed(_) | Effect::Audit(_) | Effect::Ended(_) => {}
            }
        }
    }
}

fn tight() -> Rules {
    Rules { max: Some(3), guests: Some(2), ttl: Some(500), idle: Some(350), devices: Some(2), ..Rules::default() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// A change that the disk refused leaves nothing behind: not on the list, in no limit, in no deadline.
    #[test]
    fn what_could_not_be_saved_is_undone(steps in steps()) {
        let (mut l, mut disk, mut now) = (one(tight()), Disk::default(), 1_000u64);
        let (last, before) = steps.split_last().unwrap();
        for step in before {
            if let Step::Wait(by) = step { now += by }
            if let Some(e) = event(step, &l, now) { l.handle(e, now); } else { l.handle_timeout(now); }
            disk.save(&effects(&mut l));
        }
        // Signs of life of less than a step, which nobody saves, are no part of this.
        disk.save(&l.grants("home").cloned().map(Effect::Persist).collect::<Vec<_>>());
        let (was, next) = (shown(&l), l.next_id());
        if let Some(e) = event(last, &l, now) { l.handle(e, now); }
        let touched = effects(&mut l);
        disk.put_back(&mut l, &touched);
        let saved = touched.iter().any(|e| matches!(e, Effect::Persist(_) | Effect::Forget(_) | Effect::PersistBan(_) | Effect::ForgetBan(_)));
        if saved {
            prop_assert_eq!(shown(&l), was);
        }
        prop_assert!(l.next_id() >= next, "a number is given out once, saved or not");
        prop_assert!(effects(&mut l).iter().all(|e| matches!(e, Effect::Changed(_))), "nothing more is saved");
    }

    /// A start from what was saved is the ledger that stopped: the same people for the same reasons, the same bans and
    /// limits. Nobody stays longer than he would have, and nobody loses more than a step of signs of life.
    #[test]
    fn a_start_finds_what_was_there(steps in steps()) {
        let (mut l, mut disk, mut now) = (one(tight()), Disk::default(), 1_000u64);
        for step in &steps {
            if let Step::Wait(by) = step { now += by }
            if let Some(e) = event(step, &l, now) { l.handle(e, now); } else { l.handle_timeout(now); }
            disk.save(&effects(&mut l));
        }
        let unsaved: Vec<Grant> = l.unsaved().cloned().collect();
        disk.save(&unsaved.into_iter().map(Effect::Persist).collect::<Vec<_>>());
        // What ends within a step may have ended already for what was saved.
        prop_assume!(l.grants("home").all(|g| g.changes_at().is_none_or(|end| end >= now + SEEN_STEP)));
        let mut again = one(tight());
        prop_assert_eq!(again.restore(disk.grants.into_values(), disk.bans.into_values(), now), l.len());
        for (was, is) in l.grants("home").zip(again.grants("home")) {
            prop_assert_eq!((was.id, was.prefix, was.seen_at), (is.id, is.prefix, is.seen_at));
            let why = |g: &Grant| g.claims().map(|c| (c.evidence, c.principal.clone(), c.pinned)).collect::<Vec<_>>();
            prop_assert_eq!(why(was), why(is));
            let (before, after) = (was.ends_at().unwrap_or(u64::MAX), is.ends_at().unwrap_or(u64::MAX));
            prop_assert!(after <= before && before - after < SEEN_STEP, "{was:?} {is:?}");
        }
        let told: Vec<_> = again.grants("home").map(|g| (g.prefix, g.ends_at())).collect();
        prop_assert_eq!(again.learnt("home").iter().collect::<Vec<_>>(), told);
        prop_assert_eq!(again.bans("home").collect::<Vec<_>>(), l.bans("home").collect::<Vec<_>>());
        prop_assert_eq!((again.counted("home"), again.unsaved().count()), (l.counted("home"), 0));
    }
}

#[test]
fn numbers_are_given_out_once() {
    let mut l = one(Rules::default());
    assert!(l.is_empty() && l.next_id() == 1);
    l.handle(proof("198.51.100.1"), 10);
    let id = only(&l).id;
    l.put_back(id, None);
    assert!(l.is_empty() && l.grant(id).is_none() && l.next_id() == 2);
    l.skip_ids(40);
    l.skip_ids(7);
    assert_eq!(l.handle(proof("198.51.100.1"), 10), Outcome::Given(GrantId(40)));
    // A ban has a number of the same kind, and a store without grants may have one.
    let stored = Ban { id: BanId(90), list: "home".into(), whom: Whom::Named("eve".into()), since: 1, until: None };
    let mut again = one(Rules::default());
    again.restore([], [stored], 10);
    assert_eq!(again.next_id(), 91);
}

#[test]
fn two_grants_of_one_prefix_are_one_after_a_start() {
    let mut l = one(Rules::default());
    l.handle(proof("198.51.100.1"), 10);
    let first = only(&l).clone();
    let later = Grant { id: GrantId(9), given_at: 20, seen_at: 20, ..first.clone() };
    let elsewhere = Grant { id: GrantId(12), list: "gone".into(), ..first.clone() };
    let mut again = one(Rules::default());
    assert_eq!(again.restore([first.clone(), later, elsewhere], [], 30), 1);
    assert_eq!((only(&again).id, again.next_id()), (GrantId(9), 13));
    assert!(effects(&mut again).contains(&Effect::Forget(first.id)), "the other one leaves the store too");
}

/// A list that was made smaller while the process stood still: places are for those who are still in.
#[test]
fn who_is_over_takes_nobodys_place_at_a_start() {
    let mut l = one(Rules::default());
    l.handle(proof("198.51.100.1"), 50);
    let for_a_while = Proof {
        list: "home".into(),
        addr: "198.51.100.2".parse().unwrap(),
        evidence: Evidence::Mtls,
        principal: None,
        device: None,
        ttl: Some(10),
    };
    l.handle(Event::Proof(for_a_while), 100);
    let stored: Vec<Grant> = l.grants("home").cloned().collect();
    let mut again = one(Rules { max: Some(1), ..Rules::default() });
    assert_eq!(again.restore(stored.clone(), [], 200), 1);
    assert_eq!(only(&again).prefix, prefix("198.51.100.1"));
    assert!(audited(&mut again).iter().all(|(what, _)| *what == What::Expired));
    // Of two who are in, the one who was seen longest ago leaves.
    let mut again = one(Rules { max: Some(1), ..Rules::default() });
    assert_eq!(again.restore(stored, [], 105), 1);
    assert_eq!(only(&again).prefix, prefix("198.51.100.2"));
    assert_eq!(audited(&mut again), [(What::Evicted, "the list holds 1 entries".to_string())]);
}

#[test]
fn a_sign_of_life_is_saved_once_a_minute_and_sooner_where_silence_ends_sooner() {
    for (idle, step) in [(None, 60), (Some(30), 10), (Some(180), 60), (Some(179), 59), (Some(86_400), 60), (Some(2), 0)]
    {
        assert_eq!(seen_step(idle), step, "{idle:?}");
    }
    let mut l = one(Rules { idle: Some(600), ..Rules::default() });
    l.handle(proof("198.51.100.1"), 1_000);
    effects(&mut l);
    let seen = || Event::Seen("home".into(), "198.51.100.1".parse().unwrap());
    l.handle(seen(), 1_059);
    assert_eq!(effects(&mut l), [], "not yet");
    // What is told and what is stored end when the saved sign of life does; the ledger itself knows better.
    assert_eq!((l.learnt("home").iter().next().unwrap().1, only(&l).ends_at()), (Some(1_600), Some(1_659)));
    assert_eq!(l.unsaved().map(|g| g.seen_at).collect::<Vec<_>>(), [1_059]);
    l.handle(seen(), 1_060);
    assert!(matches!(&effects(&mut l)[..], [Effect::Persist(g), Effect::Changed(_)] if g.seen_at == 1_060));
    assert_eq!((l.learnt("home").iter().next().unwrap().1, l.unsaved().count()), (Some(1_660), 0));
    let no_list = Event::Seen("work".into(), "198.51.100.1".parse().unwrap());
    assert_eq!(l.handle(no_list, 1_060), Outcome::Rejected(Rejection::NoList));
    let nobody = Event::Seen("home".into(), "198.51.100.2".parse().unwrap());
    assert_eq!(l.handle(nobody, 1_060), Outcome::Rejected(Rejection::NoGrant));
}

#[test]
fn a_sign_of_life_counts_for_the_narrowest_entry() {
    let mut l = one(Rules::default());
    for p in ["198.51.0.0/16", "198.51.100.0/24", "0.0.0.0/1"] {
        l.handle(Event::Add(entry(p, None)), 10);
    }
    l.handle(Event::Seen("home".into(), "198.51.100.1".parse().unwrap()), 500);
    l.handle(Event::Seen("home".into(), "10.0.0.1".parse().unwrap()), 600);
    let seen: Vec<_> = l.grants("home").map(|g| (g.prefix.to_string(), g.seen_at)).collect();
    assert_eq!(seen, [("198.51.0.0/16".into(), 10), ("198.51.100.0/24".into(), 500), ("0.0.0.0/1".into(), 600)]);
}

#[test]
fn nobody_comes_from_addresses_that_nobody_has() {
    let mut l = one(Rules { learn_private: true, ..Rules::default() });
    for addr in ["0.0.0.0", "255.255.255.255", "224.0.0.1", "239.1.2.3", "::", "ff02::1"] {
        assert_eq!(l.handle(proof(addr), 10), Outcome::Rejected(Rejection::Nobodys), "{addr}");
    }
    for addr in ["10.0.0.1", "fd00::1", "127.0.0.1"] {
        assert!(matches!(l.handle(proof(addr), 10), Outcome::Given(_)), "{addr}");
    }
    let work = Event::Proof(Proof {
        list: "work".into(),
        addr: "198.51.100.1".parse().unwrap(),
        evidence: Evidence::Mtls,
        principal: None,
        device: None,
        ttl: None,
    });
    assert_eq!(l.handle(work, 10), Outcome::Rejected(Rejection::NoList));
}

#[test]
fn a_prefix_is_as_wide_as_the_rules_say() {
    let rules = Rules { v4_width: 24, v6_width: 56, ..Rules::default() };
    let learnt = |rules: &Rules, addr: &str| rules.learnt(addr.parse().unwrap()).to_string();
    assert_eq!(learnt(&rules, "198.51.100.77"), "198.51.100.0/24");
    assert_eq!(learnt(&rules, "2001:db8:0:12ff::1"), "2001:db8:0:1200::/56");
    // A width that a family does not have teaches one address, never more.
    let odd = Rules { v4_width: 64, v6_width: 200, ..Rules::default() };
    assert_eq!(
        (learnt(&odd, "198.51.100.77"), learnt(&odd, "2001:db8::1")),
        ("198.51.100.77".into(), "2001:db8::1".into())
    );
}

/// People behind one address, each with a few devices: of too many the weakest reason goes, then the oldest.
#[test]
fn reasons_of_one_address_are_bounded() {
    let mut l = one(Rules { devices: None, ..Rules::default() });
    l.handle(proof_of("198.51.100.1", Evidence::Login, "first login"), 10);
    l.handle(proof_of("198.51.100.1", Evidence::Mtls, "first key"), 5);
    for n in 0..CLAIMS as u64 - 2 {
        l.handle(proof_of("198.51.100.1", Evidence::Mtls, &format!("key {n}")), 20 + n);
    }
    let who = |l: &Ledger| only(l).claims().filter_map(|c| c.principal.clone()).collect::<Vec<_>>();
    assert_eq!(only(&l).claims().count(), CLAIMS);
    assert!(who(&l).contains(&"first login".to_string()));
    l.handle(proof_of("198.51.100.1", Evidence::Mtls, "one more"), 90);
    assert_eq!(only(&l).claims().count(), CLAIMS);
    assert!(!who(&l).contains(&"first login".to_string()), "the weakest goes");
    l.handle(proof_of("198.51.100.1", Evidence::Mtls, "two more"), 91);
    assert!(!who(&l).contains(&"first key".to_string()), "of as strong ones the oldest");
    assert!(who(&l).contains(&"two more".to_string()) && who(&l).contains(&"key 0".to_string()));
}

#[test]
fn several_entries_are_one_event() {
    let mut l = one(Rules { max: Some(2), ..Rules::default() });
    assert_eq!(l.handle(Event::AddAll(Vec::new()), 10), Outcome::Rejected(Rejection::NoGrant));
    let work = |p: &str| Entry { list: "work".into(), ..entry(p, None) };
    let none = Event::AddAll(vec![work("192.0.2.1"), work("192.0.2.2")]);
    assert_eq!(l.handle(none, 10), Outcome::Rejected(Rejection::NoList));
    let some = Event::AddAll(vec![work("192.0.2.1"), entry("192.0.2.2", None), entry("192.0.2.3", None)]);
    assert_eq!(l.handle(some, 10), Outcome::Settled(2));
    // A third word of a person takes the place of the first: he knows what he does.
    assert_eq!(l.handle(Event::AddAll(vec![entry("192.0.2.4", None)]), 20), Outcome::Settled(1));
    assert_eq!(l.grants("home").map(|g| g.prefix.to_string()).collect::<Vec<_>>(), ["192.0.2.3", "192.0.2.4"]);
    let (_, why) = audited(&mut l).into_iter().find(|(what, _)| *what == What::Evicted).unwrap();
    assert_eq!(why, "g3 192.0.2.4 (manual) came; the list holds 2 entries");
}

#[test]
fn a_list_of_pinned_entries_has_no_room_but_for_more_of_them() {
    let mut l = one(Rules { max: Some(0), guests: Some(0), ..Rules::default() });
    assert_eq!(l.handle(Event::Add(entry("192.0.2.1", None)), 10), Outcome::Rejected(Rejection::Full));
    assert_eq!(l.handle(proof("198.51.100.1"), 10), Outcome::Rejected(Rejection::Full));
    assert_eq!(l.handle(proof_of("198.51.100.1", Evidence::Share, ""), 10), Outcome::Rejected(Rejection::Full));
    let pinned = Event::Add(Entry { pinned: true, ..entry("192.0.2.1", None) });
    assert!(matches!(l.handle(pinned, 10), Outcome::Given(_)));
    assert_eq!(l.counted("home"), (0, 0));
    let said: Vec<Ended> = effects(&mut l)
        .into_iter()
        .filter_map(|e| match e {
            Effect::Ended(e) => Some(e),
            _ => None,
        })
        .collect();
    assert!(said.iter().all(|e| e.what == What::Full), "{said:?}");
    assert_eq!(said.len(), 2, "a person is told at once and need not be remembered");
}

#[test]
fn what_ended_says_why() {
    let rules = Rules { ttl: Some(1_000), idle: Some(100), guests: Some(1), grace: Some(0), ..Rules::default() };
    let mut l = one(rules);
    // By silence.
    l.handle(proof("198.51.100.1"), 0);
    l.handle_timeout(99);
    assert_eq!(l.len(), 1);
    l.handle_timeout(100);
    assert_eq!(audited(&mut l)[1], (What::Expired, "nobody was seen for 100 s".into()));
    // By the time of its proof, though somebody is there.
    l.handle(proof("198.51.100.1"), 1_000);
    for n in 1..20 {
        l.handle(Event::Seen("home".into(), "198.51.100.1".parse().unwrap()), 1_000 + n * 50);
    }
    l.handle_timeout(1_999);
    assert_eq!(l.len(), 1);
    l.handle_timeout(2_000);
    assert_eq!(audited(&mut l).last(), Some(&(What::Expired, String::new())));
    // Because its device came from elsewhere.
    l.handle(proof_of("198.51.100.1", Evidence::Mtls, "anna"), 3_000);
    l.handle(proof_of("198.51.100.2", Evidence::Mtls, "anna"), 3_010);
    let told = audited(&mut l);
    assert!(told.contains(&(What::Superseded, "its device came from 198.51.100.2".into())), "{told:?}");
    assert!(told.contains(&(What::Expired, "its device came from 198.51.100.2 meanwhile".into())), "{told:?}");
    // Because there is no room for more guests.
    l.handle(proof_of("203.0.113.1", Evidence::Share, ""), 3_020);
    l.handle(proof_of("203.0.113.2", Evidence::Share, ""), 3_021);
    let told = audited(&mut l);
    let why = "g6 203.0.113.2 (share) came; the list holds 1 guests".to_string();
    assert!(told.contains(&(What::Evicted, why)), "{told:?}");
    // Because a person said so; of one of several reasons, which go on.
    let id = l.grants("home").find(|g| g.prefix == prefix("198.51.100.2")).unwrap().id;
    l.handle(proof_of("198.51.100.2", Evidence::Login, "bert"), 3_030);
    audited(&mut l);
    let anna = Claim { principal: Some("anna".into()), device: Some("anna's".into()), ..Claim::new(Evidence::Mtls, 0) };
    assert_eq!(l.handle(Event::Withdraw(id, anna.clone(), "lost phone".into()), 3_040), Outcome::Ended(id));
    assert_eq!(audited(&mut l), [(What::Revoked, "lost phone; login goes on".to_string())]);
    assert_eq!(l.handle(Event::Withdraw(id, anna, "again".into()), 3_040), Outcome::Rejected(Rejection::NoGrant));
    assert_eq!(l.handle(Event::Revoke(id, "gone".into()), 3_041), Outcome::Ended(id));
    assert_eq!(audited(&mut l), [(What::Revoked, "gone".to_string())]);
    assert_eq!(l.handle(Event::Revoke(id, "gone".into()), 3_042), Outcome::Rejected(Rejection::NoGrant));
}

#[test]
fn one_of_several_reasons_lapses_and_the_others_go_on() {
    let mut l = one(Rules { ttl: Some(100), max: Some(1), ..Rules::default() });
    l.handle(proof_of("198.51.100.1", Evidence::Mtls, "anna"), 0);
    l.handle(proof_of("198.51.100.1", Evidence::Share, ""), 50);
    assert_eq!(l.counted("home"), (1, 0));
    assert_eq!(l.poll_timeout(), Some(100));
    audited(&mut l);
    l.handle_timeout(100);
    assert_eq!(audited(&mut l), [(What::Lapsed, "share goes on".to_string())]);
    // He has a guest's place now, and the other place is free.
    assert_eq!((l.counted("home"), l.poll_timeout()), ((0, 1), Some(150)));
    assert!(matches!(l.handle(proof("198.51.100.2"), 110), Outcome::Given(_)));
    assert_eq!(l.len(), 2);
}

#[test]
fn a_persons_word_on_an_end() {
    let mut l = one(Rules { ttl: Some(1_000), ..Rules::default() });
    l.handle(proof_of("198.51.100.1", Evidence::Mtls, "anna"), 0);
    let id = only(&l).id;
    let extend = |until, shorten| Event::Extend { ids: vec![id, GrantId(77)], until, shorten };
    // A later end stands beside the proof's, as a word of its own.
    assert_eq!(l.handle(extend(Some(5_000), false), 10), Outcome::Settled(1));
    let ends: Vec<_> = only(&l).claims().map(|c| (c.evidence, c.until)).collect();
    assert_eq!(ends, [(Evidence::Manual, Some(5_000)), (Evidence::Mtls, Some(1_000))]);
    assert_eq!(only(&l).seen_at, 10);
    // The same again sets that word and adds none; never, if nothing is said.
    l.handle(extend(None, false), 20);
    assert_eq!((only(&l).claims().count(), only(&l).ends_at()), (2, None));
    // An earlier end for all: what ends sooner anyway stays.
    l.handle(extend(Some(3_000), true), 30);
    let ends: Vec<_> = only(&l).claims().map(|c| (c.evidence, c.until)).collect();
    assert_eq!(ends, [(Evidence::Manual, Some(3_000)), (Evidence::Mtls, Some(1_000))]);
    l.handle(extend(Some(500), true), 40);
    assert_eq!(only(&l).claims().map(|c| c.until).collect::<Vec<_>>(), [Some(500), Some(500)]);
    // One that is over ends it at once.
    assert_eq!(l.handle(extend(Some(40), true), 50), Outcome::Settled(1));
    assert!(l.is_empty());
    assert_eq!(l.handle(extend(None, false), 60), Outcome::Rejected(Rejection::NoGrant));
    // Where nobody put a word, shortening adds none.
    l.handle(proof("198.51.100.2"), 100);
    l.handle(Event::Extend { ids: vec![only(&l).id], until: Some(700), shorten: true }, 100);
    assert_eq!((only(&l).claims().count(), only(&l).ends_at()), (1, Some(700)));
}

#[test]
fn what_a_name_says_is_ended_by_the_name_alone() {
    let mut l = one(Rules::default());
    let dns = Entry {
        evidence: Evidence::Dns,
        principal: Some("dns:home.example.net".into()),
        ..entry("198.51.100.1", None)
    };
    l.handle(Event::Add(dns.clone()), 10);
    l.handle(proof_of("198.51.100.1", Evidence::Mtls, "anna"), 20);
    let id = only(&l).id;
    let all = Close { ids: vec![id], principal: None, bans: Vec::new(), by: "test".into() };
    assert_eq!(l.handle(Event::Close(all.clone()), 30), Outcome::Settled(1));
    assert_eq!(only(&l).claims().map(|c| c.evidence).collect::<Vec<_>>(), [Evidence::Dns]);
    assert_eq!(l.handle(Event::Close(all), 31), Outcome::Rejected(Rejection::NoGrant));
    l.handle(Event::Extend { ids: vec![id], until: Some(40), shorten: true }, 32);
    assert_eq!(only(&l).ends_at(), None, "nobody shortens it by hand");
    // Told again it is the same reason; another name is another one.
    l.handle(Event::Add(dns.clone()), 50);
    l.handle(Event::Add(Entry { principal: Some("dns:other.example.net".into()), ..dns }), 51);
    assert_eq!((only(&l).claims().count(), l.counted("home")), (2, (0, 0)));
}

#[test]
fn bans_end_by_time_by_hand_and_by_a_welcome() {
    let mut l = one(Rules::default());
    l.handle(ban("198.51.100.0/24", Some(100)), 10);
    l.handle(ban("203.0.113.7", None), 10);
    assert_eq!(l.poll_timeout(), Some(100));
    // Told anew it is the same ban with another end, and the old deadline is none.
    l.handle(ban("198.51.100.0/24", Some(300)), 20);
    assert_eq!((l.bans("home").count(), l.poll_timeout()), (2, Some(300)));
    l.handle(ban("198.51.100.0/24", Some(200)), 30);
    assert_eq!(l.poll_timeout(), Some(200));
    audited(&mut l);
    l.handle_timeout(199);
    assert_eq!(l.bans("home").count(), 2);
    l.handle_timeout(200);
    assert_eq!(audited(&mut l), [(What::Unbanned, "its time is over".to_string())]);
    assert_eq!((l.bans("home").count(), l.poll_timeout()), (1, None));
    // A welcome for a network ends the bans within it; for one address only that one's.
    l.handle(ban("203.0.113.0/28", Some(900)), 210);
    l.handle(Event::Add(entry("203.0.113.7", None)), 220);
    assert_eq!(l.bans("home").map(|b| b.whom.to_string()).collect::<Vec<_>>(), ["203.0.113.0/28"]);
    l.handle(Event::Add(entry("203.0.113.0/24", None)), 230);
    assert_eq!((l.bans("home").count(), l.poll_timeout()), (0, None));
    let told = audited(&mut l);
    assert_eq!(told.iter().filter(|t| **t == (What::Unbanned, "let in by hand".into())).count(), 2, "{told:?}");
    // What a name says welcomes nobody.
    l.handle(ban("192.0.2.1", None), 240);
    let dns = Entry { evidence: Evidence::Dns, principal: Some("dns:a.example".into()), ..entry("192.0.2.1", None) };
    l.handle(Event::Add(dns), 250);
    assert_eq!(l.bans("home").count(), 1);
    let unban =
        Event::Unban(vec![("home".into(), Whom::From(prefix("192.0.2.1"))), ("home".into(), Whom::Named("x".into()))]);
    assert_eq!(l.handle(unban.clone(), 260), Outcome::Settled(1));
    assert_eq!(l.handle(unban, 261), Outcome::Rejected(Rejection::NoGrant));
}

#[test]
fn a_full_list_of_bans_takes_no_new_one_but_changes_old_ones() {
    let mut l = one(Rules::default());
    let whom = |n: usize| ("home".to_string(), Whom::Named(format!("mallory {n}")), None);
    let close = |bans| Event::Close(Close { ids: Vec::new(), principal: None, bans, by: String::new() });
    assert_eq!(l.handle(close((0..BANS).map(whom).collect()), 10), Outcome::Settled(BANS));
    assert_eq!(l.handle(close(vec![whom(BANS)]), 11), Outcome::Rejected(Rejection::Bans));
    assert_eq!(l.handle(close(vec![whom(0), whom(BANS - 1)]), 12), Outcome::Settled(2));
    assert_eq!(l.handle(close(vec![whom(0), whom(BANS)]), 13), Outcome::Rejected(Rejection::Bans), "all or nothing");
    // Bans of a list that is not there are no bans.
    let elsewhere = ("work".to_string(), Whom::Named("mallory".into()), None);
    assert_eq!(l.handle(close(vec![elsewhere]), 14), Outcome::Rejected(Rejection::NoGrant));
    assert_eq!(l.bans("home").count(), BANS);
}

#[test]
fn a_ban_that_could_not_be_saved_is_undone() {
    let mut l = one(Rules::default());
    l.handle(ban("198.51.100.1", Some(100)), 10);
    let saved = l.bans("home").next().unwrap().clone();
    l.handle(ban("198.51.100.1", Some(900)), 20);
    l.put_back_ban(saved.id, Some(saved.clone()));
    assert_eq!((l.bans("home").collect::<Vec<_>>(), l.poll_timeout()), (vec![&saved], Some(100)));
    l.put_back_ban(saved.id, None);
    assert_eq!((l.bans("home").count(), l.poll_timeout()), (0, None));
    assert!(matches!(l.handle(proof("198.51.100.1"), 30), Outcome::Given(_)));
}

/// A wrong clock gave something for an hour: when the clock is right again, it lasts an hour from then.
#[test]
fn what_began_later_begins_now() {
    let mut l = one(Rules { ttl: Some(3_600), idle: Some(600), grace: Some(60), ..Rules::default() });
    l.handle(proof_of("198.51.100.1", Evidence::Mtls, "anna"), 1_000);
    l.handle(proof_of("198.51.100.9", Evidence::Mtls, "bert"), 9_000_000);
    l.handle(proof_of("198.51.100.8", Evidence::Mtls, "bert"), 9_000_010);
    effects(&mut l);
    l.set_back(2_000);
    assert_eq!(l.now(), 2_000);
    let at = |l: &Ledger, p: &str| l.grants("home").find(|g| g.prefix == prefix(p)).unwrap().clone();
    assert_eq!(l.len(), 2, "anna's time was over by the wrong clock, and what ended stays ended");
    let (old, new) = (at(&l, "198.51.100.9"), at(&l, "198.51.100.8"));
    assert_eq!((new.given_at, new.seen_at, new.claim.proved_at), (2_000, 2_000, 2_000));
    assert_eq!(new.claim.until, Some(5_600));
    // The place that a device had left ends within the grace, not with its proof.
    assert_eq!((old.seen_at, old.claim.until), (2_000, Some(2_060)));
    assert_eq!(l.poll_timeout(), Some(2_060));
    let saved = effects(&mut l).iter().filter(|e| matches!(e, Effect::Persist(_))).count();
    assert_eq!(saved, 2, "a crash does not bring the wrong time back");
    l.set_back(2_000);
    assert_eq!(effects(&mut l), [], "what is right already stays as it is");
}

#[test]
fn a_clock_that_runs_backwards_gives_nobody_more() {
    let mut l = one(Rules { ttl: Some(100), ..Rules::default() });
    l.handle(proof("198.51.100.1"), 1_000);
    assert_eq!(l.handle(proof("198.51.100.2"), 500), Outcome::Given(GrantId(2)));
    assert!(l.grants("home").all(|g| g.given_at == 1_000 && g.ends_at() == Some(1_100)));
    l.handle_timeout(1_099);
    l.handle_timeout(0);
    assert_eq!((l.len(), l.now()), (2, 1_099));
    l.handle_timeout(1_100);
    assert!(l.is_empty() && l.poll_timeout().is_none());
}

#[test]
fn a_proof_that_only_moves_its_end_is_saved_like_a_sign_of_life() {
    let mut l = one(Rules { ttl: Some(1_000), ..Rules::default() });
    l.handle(proof("198.51.100.1"), 100);
    effects(&mut l);
    l.handle(proof("198.51.100.1"), 159);
    assert_eq!(effects(&mut l), []);
    l.handle(proof("198.51.100.1"), 160);
    assert!(matches!(effects(&mut l)[..], [Effect::Persist(_), Effect::Changed(_)]));
    // An end of its own, another reason, and an end that is taken away are saved at once.
    let for_a_day = |ttl| {
        Event::Proof(Proof {
            list: "home".into(),
            addr: "198.51.100.1".parse().unwrap(),
            evidence: Evidence::Mtls,
            principal: None,
            device: None,
            ttl,
        })
    };
    l.handle(for_a_day(Some(86_400)), 161);
    assert!(matches!(effects(&mut l)[..], [Effect::Persist(_), Effect::Changed(_)]));
    assert_eq!(only(&l).ends_at(), Some(86_561));
    l.handle(for_a_day(Some(10)), 162);
    assert_eq!(only(&l).ends_at(), Some(86_561), "a weaker proof shortens nothing");
    l.handle(proof_of("198.51.100.1", Evidence::Login, "anna"), 163);
    assert!(matches!(effects(&mut l)[..], [Effect::Persist(_), Effect::Changed(_), ..]));
}

#[test]
fn kinds_of_evidence_are_named_once_strongest_first() {
    let mut l = one(Rules::default());
    for (evidence, who) in
        [(Evidence::Share, ""), (Evidence::Mtls, "anna"), (Evidence::Mtls, "bert"), (Evidence::Login, "bert")]
    {
        l.handle(proof_of("198.51.100.1", evidence, who), 10);
    }
    assert_eq!(evidence(only(&l)), "mtls, login, share");
    // A named one is read first among as strong ones.
    l.handle(Event::Add(entry("198.51.100.1", None)), 20);
    assert_eq!(evidence(only(&l)), "manual, mtls, login, share");
}

#[test]
fn every_refusal_has_words_of_its_own() {
    use Rejection::{Banned, Bans, Full, NoGrant, NoList, Nobodys, Own, Private, Static};
    let all = [NoList, NoGrant, Private, Own, Nobodys, Static, Full, Banned, Bans].map(|r| r.to_string());
    let different: BTreeSet<&String> = all.iter().collect();
    assert!(different.len() == all.len() && all.iter().all(|t| t.len() > 10), "{all:?}");
}

/// Places that devices left are remembered for as long as a phone may come back, and no more than so many.
#[test]
fn places_left_are_bounded_and_forgotten() {
    let rules = Rules { grace: Some(0), devices: None, ..Rules::default() };
    let back = |waits: u64| {
        let mut l = one(rules.clone());
        l.handle(proof_of("198.51.100.1", Evidence::Mtls, "anna"), 1_000);
        l.handle(proof_of("198.51.100.2", Evidence::Mtls, "anna"), 1_010);
        assert_eq!(only(&l).prefix, prefix("198.51.100.2"), "one phone, one place");
        l.handle(proof_of("198.51.100.1", Evidence::Mtls, "anna"), 1_010 + waits);
        l.len()
    };
    assert_eq!(back(3_600), 2, "back within the hour: two phones");
    assert_eq!(back(3_601), 1, "back later: the phone came home");
    let mut l = one(rules.clone());
    for n in 0..u32::from(u16::MAX) / 64 {
        let at = std::net::Ipv4Addr::from(0x0b00_0000 + n).to_string();
        l.handle(proof_of(&at, Evidence::Mtls, &format!("traveller {n}")), 1_000);
        l.handle(proof_of(&at.replace("11.", "12."), Evidence::Mtls, &format!("traveller {n}")), 1_001);
    }
    assert_eq!(l.moved.len(), MOVED);
}

#[test]
fn a_clock_set_back_touches_what_is_late_and_nothing_else() {
    let mut l = one(Rules { idle: Some(600), ..Rules::default() });
    l.handle(proof("198.51.100.1"), 1_000);
    l.handle(ban("203.0.113.1", None), 1_500);
    l.handle(Event::Seen("home".into(), "198.51.100.1".parse().unwrap()), 1_500);
    effects(&mut l);
    for now in [1_500, 2_000, 9_000] {
        l.set_back(now);
        assert_eq!(effects(&mut l), [], "nothing is late at {now}");
    }
    // Proved before, and seen by the wrong clock: only the sign of life was wrong.
    l.set_back(1_200);
    assert_eq!((only(&l).given_at, only(&l).seen_at, only(&l).claim.proved_at), (1_000, 1_200, 1_000));
    assert_eq!(l.bans("home").next().unwrap().since, 1_200);
    assert!(matches!(&effects(&mut l)[..], [Effect::Persist(_), Effect::Changed(_), Effect::PersistBan(_)]));
}

#[test]
fn a_ledger_says_what_it_has() {
    let own: AddrSet = AddrSet::new([prefix("203.0.113.9")]);
    let lists = ["a", "b"].map(|name| (name.to_string(), Rules::default()));
    let mut l = Ledger::new(lists, own);
    assert_eq!(l.lists().collect::<Vec<_>>(), ["a", "b"]);
    assert!(l.own().contains("203.0.113.9".parse().unwrap()) && l.is_empty() && l.rules("c").is_none());
    let Outcome::Given(id) = l.handle(Event::Add(Entry { list: "b".into(), ..entry("192.0.2.1", None) }), 5) else {
        panic!("nobody is on it")
    };
    assert_eq!(l.grant(id).map(|g| g.prefix), Some(prefix("192.0.2.1")));
    assert!(!l.is_empty() && l.len() == 1 && l.grants("a").next().is_none());
    assert_eq!((l.counted("b"), l.counted("c")), ((1, 0), (0, 0)));
    assert_eq!(l.handle(Event::Add(entry("192.0.2.1", None)), 5), Outcome::Rejected(Rejection::NoList));
}

/// Somebody else's device left the place where this one shows up: that makes this one no second phone.
#[test]
fn a_return_is_ones_own() {
    let mut l = one(Rules { grace: Some(100), ..Rules::default() });
    l.handle(proof_of("198.51.100.1", Evidence::Mtls, "anna"), 0);
    l.handle(proof_of("198.51.100.2", Evidence::Mtls, "anna"), 1);
    l.handle(proof_of("198.51.100.3", Evidence::Mtls, "bert"), 2);
    l.handle(proof_of("198.51.100.1", Evidence::Mtls, "bert"), 3);
    l.handle_timeout(103);
    let on: Vec<String> = l.grants("home").map(|g| g.prefix.to_string()).collect();
    assert_eq!(on, ["198.51.100.1", "198.51.100.2"], "both moved, each with one phone");
    let who: Vec<_> =
        l.grants("home").flat_map(Grant::claims).map(|c| (c.principal.clone().unwrap(), c.places)).collect();
    assert_eq!(who, [("bert".to_string(), 1), ("anna".to_string(), 1)]);
}

#[test]
fn a_renewed_reason_keeps_what_a_proof_does_not_say() {
    let claim = Claim { until: Some(500), places: 3, pinned: true, ..Claim::new(Evidence::Mtls, 10) };
    let g = new_grant("home", prefix("192.0.2.1"), claim.clone(), 10);
    let again = renewed(&g, &Claim { until: Some(400), ..Claim::new(Evidence::Mtls, 50) }, 50);
    assert_eq!(again.claim, Claim { proved_at: 50, ..claim.clone() }, "the later end stays");
    let endless = renewed(&g, &Claim::new(Evidence::Mtls, 60), 60);
    assert_eq!((endless.claim.until, endless.seen_at, endless.given_at), (None, 60, 10));
}

#[test]
fn an_end_that_moved_less_than_a_step_may_wait() {
    let with = |until| new_grant("home", prefix("192.0.2.1"), Claim { until, ..Claim::new(Evidence::Mtls, 10) }, 10);
    let same = |before, after| alike(&with(before), &with(after));
    assert!(same(None, None) && same(Some(500), Some(500)) && same(Some(500), Some(559)));
    assert!(!same(Some(500), Some(560)), "a whole step is saved");
    assert!(!same(Some(500), Some(499)), "an earlier end is saved at once");
    assert!(!same(None, Some(500)) && !same(Some(500), None));
    let other = Claim { principal: Some("anna".into()), ..Claim::new(Evidence::Mtls, 10) };
    let two = Grant { beside: vec![other], ..with(None) };
    assert!(!alike(&with(None), &two) && alike(&two, &two));
}

#[test]
fn an_end_has_one_reason() {
    let claim = |idle, until| Claim { idle, until, ..Claim::new(Evidence::Mtls, 0) };
    assert_eq!(ended_by(&claim(Some(10), Some(111)), 100), "nobody was seen for 10 s");
    assert_eq!(ended_by(&claim(Some(10), Some(110)), 100), "", "its time was over at the same moment");
    assert_eq!(ended_by(&claim(Some(10), Some(109)), 100), "");
    assert_eq!(ended_by(&claim(Some(10), None), 100), "nobody was seen for 10 s");
    let moved = Claim { superseded: Some(prefix("203.0.113.1")), ..claim(Some(10), None) };
    assert_eq!(ended_by(&moved, 100), "its device came from 203.0.113.1 meanwhile");
}

fn on(l: &Ledger) -> Vec<String> {
    l.grants("home").map(|g| g.prefix.to_string()).collect()
}

#[test]
fn a_ban_holds_for_all_of_a_network_and_for_whatever_would_let_it_in() {
    let mut l = one(Rules::default());
    l.handle(ban("198.51.100.0/24", None), 10);
    l.handle(ban("2001:db8::7", None), 10);
    for kept_out in ["198.51.100.0", "198.51.100.255", "2001:db8::7", "2001:db8::9"] {
        assert_eq!(l.handle(proof(kept_out), 20), Outcome::Rejected(Rejection::Banned), "{kept_out}");
    }
    for other in ["198.51.101.0", "198.51.99.255", "2001:db8:0:1::7"] {
        assert!(matches!(l.handle(proof(other), 20), Outcome::Given(_)), "{other}");
    }
}

#[test]
fn guests_of_one_link_are_many_persons_and_one_login_is_one() {
    let mut l = one(Rules { devices: Some(1), grace: Some(0), ..Rules::default() });
    let shown = |addr: &str, evidence, who: &str| {
        let Event::Proof(p) = proof_of(addr, evidence, who) else { panic!() };
        Event::Proof(Proof { device: None, ..p })
    };
    l.handle(shown("198.51.100.1", Evidence::Share, "guest of photos"), 10);
    l.handle(shown("198.51.100.2", Evidence::Share, "guest of photos"), 11);
    l.handle(shown("203.0.113.1", Evidence::Login, "anna"), 12);
    l.handle(shown("203.0.113.2", Evidence::Login, "anna"), 13);
    assert_eq!(on(&l), ["198.51.100.1", "198.51.100.2", "203.0.113.2"]);
}

#[test]
fn the_other_place_of_two_phones_leaves_after_a_day_without_a_proof() {
    let mut l = one(Rules { grace: Some(0), ..Rules::default() });
    l.handle(proof_of("198.51.100.1", Evidence::Mtls, "anna"), 1_000);
    l.handle(proof_of("198.51.100.2", Evidence::Mtls, "anna"), 1_010);
    l.handle(proof_of("198.51.100.1", Evidence::Mtls, "bert"), 1_020);
    // Back where she was: the certificate is on two phones.
    l.handle(proof_of("198.51.100.1", Evidence::Mtls, "anna"), 1_100);
    let of = |l: &Ledger, who: &str| {
        let each = l.grants("home").flat_map(|g| g.claims().map(|c| (g.prefix.to_string(), c.clone())));
        let his = each.filter(|(_, c)| c.principal.as_deref() == Some(who));
        his.map(|(p, c)| (p, c.places, c.superseded.is_some())).collect::<Vec<_>>()
    };
    assert_eq!(of(&l, "anna"), [("198.51.100.2".into(), 1, false), ("198.51.100.1".to_string(), 2, false)]);
    assert_eq!(of(&l, "bert"), [("198.51.100.1".to_string(), 1, false)], "nothing of it is his");
    l.handle_timeout(1_010 + OTHER_PLACE - 1);
    assert_eq!(l.len(), 2);
    l.handle_timeout(1_010 + OTHER_PLACE);
    assert_eq!(on(&l), ["198.51.100.1"]);
}

#[test]
fn places_are_ones_own_and_the_latest_proof_is_here() {
    let mut l = one(Rules { devices: Some(2), grace: Some(100), ..Rules::default() });
    l.handle(proof_of("198.51.100.1", Evidence::Mtls, "bert"), 1);
    l.handle(proof_of("198.51.100.1", Evidence::Mtls, "anna"), 2);
    l.handle(proof_of("198.51.100.2", Evidence::Login, "anna"), 3);
    l.handle_timeout(1_000);
    let bert = l.grants("home").flat_map(Grant::claims).find(|c| c.principal.as_deref() == Some("bert")).unwrap();
    assert_eq!((bert.superseded, bert.until, on(&l).len()), (None, None, 2), "he is at one place, whatever she does");
    // All in one second: whoever proved himself last is where he did.
    let mut l = one(Rules { devices: Some(1), grace: Some(100), ..Rules::default() });
    for addr in ["198.51.100.1", "198.51.100.2", "198.51.100.1"] {
        l.handle(proof_of(addr, Evidence::Mtls, "anna"), 5);
    }
    l.handle_timeout(105);
    assert_eq!(on(&l), ["198.51.100.1"]);
}

#[test]
fn who_comes_through_a_translator_is_learned_as_the_ipv4_address_that_it_is() {
    let learnt = |rules: &Rules, addr: &str| rules.learnt(addr.parse().unwrap()).to_string();
    let rules = Rules::default();
    assert_eq!(learnt(&rules, "64:ff9b::203.0.113.7"), "64:ff9b::cb00:7107");
    assert_eq!(learnt(&rules, "64:ff9b:1::203.0.113.7"), "64:ff9b:1::cb00:7107");
    assert_eq!(learnt(&rules, "64:ff9c::203.0.113.7"), "64:ff9c::/64");
    let pool = Rules { v4_width: 24, ..Rules::default() };
    assert_eq!(learnt(&pool, "64:ff9b::203.0.113.7"), "64:ff9b::cb00:7100/120");
}
