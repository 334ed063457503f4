//! The ledger against a naive oracle, and with a crash between every two effects.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};

use decide::grant::{Effect, Entry, Event, Evict, Ledger, Outcome, Proof, Refusal, Rules};
use model::{AddrSet, Evidence, Grant, GrantId};
use proptest::prelude::*;
use sim::doorbook::{Habit, Note, inside};

const BOOKS: [&str; 2] = ["photos", "files"];

#[derive(Debug, Clone)]
enum Step {
    Show { book: usize, who: u8, person: Option<u8>, thing: Option<u8> },
    Away { book: usize, who: u8 },
    Pass { book: usize, who: u8 },
    Wait(u64),
    Back(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..2usize, 1..9u8, prop::option::of(0..3u8), prop::option::of(0..3u8))
            .prop_map(|(book, who, person, thing)| Step::Show { book, who, person, thing }),
        1 => (0..2usize, 1..9u8).prop_map(|(book, who)| Step::Away { book, who }),
        2 => (0..2usize, 1..9u8).prop_map(|(book, who)| Step::Pass { book, who }),
        3 => (0..400u64).prop_map(Step::Wait),
        1 => (0..4000u64).prop_map(Step::Back),
    ]
}

fn address(who: u8) -> String {
    format!("203.0.113.{who}")
}

fn rules(h: Habit) -> Rules {
    Rules {
        max: Some(h.room),
        evict: if h.oldest_leaves { Evict::FirstSeen } else { Evict::LeastRecentlySeen },
        ttl: Some(h.proof_lasts),
        idle: Some(h.silence_lasts),
        grace: h.farewell,
        ..Rules::default()
    }
}

fn event(step: &Step, ledger: &Ledger) -> Option<Event> {
    Some(match step {
        Step::Show { book, who, person, thing } => Event::Proof(Proof {
            list: BOOKS[*book].to_string(),
            addr: address(*who).parse().unwrap(),
            evidence: Evidence::Mtls,
            principal: person.map(|p| format!("person {p}")),
            device: thing.map(|t| format!("thing {t}")),
            ttl: None,
        }),
        Step::Pass { book, who } => Event::Seen(BOOKS[*book].to_string(), address(*who).parse().unwrap()),
        Step::Away { book, who } => {
            let id = ledger.grants(BOOKS[*book]).find(|g| g.prefix.to_string() == address(*who)).map(|g| g.id);
            Event::Revoke(id.unwrap_or(GrantId(u64::MAX)), "test".into())
        }
        Step::Wait(_) | Step::Back(_) => return None,
    })
}

fn note(step: &Step, at: u64) -> Option<Note> {
    Some(match step.clone() {
        Step::Show { book, who, person, thing } => Note::Showed {
            at,
            book: BOOKS[book].into(),
            who: address(who),
            person: person.map(|p| format!("person {p}")),
            thing: thing.map(|t| format!("thing {t}")),
        },
        Step::Away { book, who } => Note::SentAway { at, book: BOOKS[book].into(), who: address(who) },
        Step::Pass { book, who } => Note::Passed { at, book: BOOKS[book].into(), who: address(who) },
        Step::Wait(_) | Step::Back(_) => return None,
    })
}

/// A disk: what was persisted and not forgotten.
#[derive(Debug, Clone, Default)]
struct Disk(BTreeMap<GrantId, Grant>);

impl Disk {
    fn take(&mut self, e: &Effect) {
        match e {
            Effect::Persist(g) => {
                self.0.insert(g.id, g.clone());
            }
            Effect::Forget(id) => {
                self.0.remove(id);
            }
            Effect::Changed(_) | Effect::Audit(_) => {}
        }
    }
}

fn names(ledger: &Ledger, book: &str) -> BTreeSet<String> {
    ledger.grants(book).map(|g| g.prefix.to_string()).collect()
}

fn fresh(h: Habit) -> Ledger {
    Ledger::new(BOOKS.iter().map(|b| ((*b).to_string(), rules(h))), AddrSet::default())
}

fn habit() -> impl Strategy<Value = Habit> {
    (1..5usize, any::<bool>(), 1..900u64, 1..900u64, 0..200u64).prop_map(
        |(room, oldest_leaves, proof_lasts, silence_lasts, farewell)| Habit {
            room,
            oldest_leaves,
            proof_lasts,
            silence_lasts,
            farewell,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn the_ledger_agrees_with_the_naive_book(h in habit(), steps in prop::collection::vec(step(), 0..60)) {
        let mut ledger = fresh(h);
        let (mut wall, mut high, mut notes) = (10_000u64, 0u64, Vec::new());
        for s in &steps {
            match s {
                Step::Wait(by) => wall += by,
                Step::Back(by) => wall = wall.saturating_sub(*by),
                _ => {
                    ledger.handle_timeout(wall);
                    let e = event(s, &ledger).unwrap();
                    ledger.handle(e, wall);
                    notes.push(note(s, wall).unwrap());
                }
            }
            ledger.handle_timeout(wall);
            notes.push(Note::Struck { at: wall });
            high = high.max(wall);
            for book in BOOKS {
                let want: BTreeSet<String> = inside(&notes, book, h, high).into_iter().collect();
                prop_assert_eq!(names(&ledger, book), want, "{} after {:?}", book, s);
            }
            prop_assert!(ledger.poll_timeout().is_none_or(|t| t > high));
        }
    }

    /// After every single effect the machine may die. What it finds on the disk is never more than what it had in
    /// force or had taken in when it died, holds every acknowledged grant that is still live, and no ended one.
    #[test]
    fn a_crash_between_any_two_effects_loses_nothing(h in habit(), steps in prop::collection::vec(step(), 1..30), die in 0..200usize) {
        let mut ledger = fresh(h);
        let (mut disk, mut wall, mut count) = (Disk::default(), 10_000u64, 0);
        let mut before: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
        'run: for s in &steps {
            for book in BOOKS {
                before.insert(book, names(&ledger, book));
            }
            if let Step::Wait(by) = s { wall += by }
            if let Some(e) = event(s, &ledger) { ledger.handle(e, wall); } else { ledger.handle_timeout(wall); }
            while let Some(e) = ledger.poll_effect() {
                if count == die { break 'run }
                count += 1;
                disk.take(&e);
            }
            for book in BOOKS {
                before.insert(book, names(&ledger, book));
            }
        }
        let mut after = fresh(h);
        after.restore(disk.0.values().cloned(), wall);
        for book in BOOKS {
            let (acked, now, found) = (&before[book], names(&ledger, book), names(&after, book));
            for who in found.iter() {
                prop_assert!(acked.contains(who) || now.contains(who), "{who} came from nowhere");
            }
            // In force before the event under way and after it: must be there, unless its unsaved sign of life (at
            // most SEEN_STEP seconds) was all that kept it.
            for who in acked.intersection(&now) {
                let stored = disk.0.values().find(|g| g.list == book && &g.prefix.to_string() == who);
                prop_assert!(stored.is_some(), "{who} was acknowledged and is lost");
                prop_assert!(found.contains(who) || !stored.unwrap().is_live(wall), "{who} is not in force again");
            }
            prop_assert!(found.len() <= h.room);
        }
        prop_assert!(after.poll_timeout().is_none_or(|t| t > wall));
    }
}

fn proof(addr: &str) -> Event {
    Event::Proof(Proof {
        list: "photos".into(),
        addr: addr.parse().unwrap(),
        evidence: Evidence::Mtls,
        principal: None,
        device: None,
        ttl: None,
    })
}

fn one(rules: Rules) -> Ledger {
    Ledger::new([("photos".to_string(), rules)], AddrSet::default())
}

#[test]
fn every_spelling_of_an_ipv6_address_is_one_entry() {
    let mut l = one(Rules { v6_width: 128, ..Rules::default() });
    for spelling in ["2001:db8::1", "2001:DB8::1", "2001:db8:0::1", "2001:0db8:0000:0000:0000:0000:0000:0001"] {
        l.handle(proof(spelling), 1);
    }
    l.handle(proof("198.51.100.7"), 1);
    l.handle(proof("::ffff:198.51.100.7"), 1);
    assert_eq!(l.len(), 2);
    let mut l = one(Rules::default());
    l.handle(proof("2001:db8::1"), 1);
    l.handle(proof("2001:db8::abcd:1"), 1);
    assert_eq!(l.grants("photos").map(|g| g.prefix.to_string()).collect::<Vec<_>>(), ["2001:db8::/64"]);
}

#[test]
fn private_own_and_static_addresses_are_not_learnt_in_any_spelling() {
    let own = AddrSet::new(["198.51.100.1".parse().unwrap()]);
    let rules = Rules { statics: vec!["203.0.113.0/24".parse().unwrap()], ..Rules::default() };
    let mut l = Ledger::new([("photos".to_string(), rules)], own);
    for (addr, why) in [
        ("10.0.0.5", Refusal::Private),
        ("::ffff:10.0.0.5", Refusal::Private),
        ("100.64.0.1", Refusal::Private),
        ("fd00::1", Refusal::Private),
        ("127.0.0.1", Refusal::Private),
        ("::1", Refusal::Private),
        ("198.51.100.1", Refusal::Own),
        ("203.0.113.9", Refusal::Static),
        ("::ffff:203.0.113.9", Refusal::Static),
    ] {
        assert_eq!(l.handle(proof(addr), 1), Outcome::Refused(why), "{addr}");
    }
    assert!(l.is_empty() && l.poll_effect().is_none());
}

#[test]
fn a_revocation_is_published_before_it_is_forgotten_and_a_grant_saved_before_it_is_published() {
    let mut l = one(Rules::default());
    let Outcome::Given(id) = l.handle(proof("198.51.100.7"), 1) else { panic!() };
    let order: Vec<Effect> = std::iter::from_fn(|| l.poll_effect()).collect();
    assert!(matches!(order[..], [Effect::Persist(_), Effect::Changed(_), Effect::Audit(_)]), "{order:?}");
    l.handle(Event::Revoke(id, "anna".into()), 2);
    let order: Vec<Effect> = std::iter::from_fn(|| l.poll_effect()).collect();
    assert!(matches!(order[..], [Effect::Changed(_), Effect::Forget(_), Effect::Audit(_)]), "{order:?}");
}

#[test]
fn break_glass_entries_outlive_every_limit() {
    let mut l = one(Rules { max: Some(1), ttl: Some(10), idle: Some(10), ..Rules::default() });
    let entry = Entry {
        list: "photos".into(),
        prefix: "192.0.2.1".parse().unwrap(),
        evidence: Evidence::Manual,
        principal: None,
        until: None,
        pinned: true,
    };
    l.handle(Event::Add(entry), 1);
    for n in 1..50 {
        l.handle(proof(&format!("198.51.100.{n}")), 1 + n);
    }
    l.handle(proof("192.0.2.1"), 60);
    l.handle_timeout(1_000_000);
    assert_eq!(l.grants("photos").map(|g| g.prefix.to_string()).collect::<Vec<_>>(), ["192.0.2.1"]);
}

#[test]
fn a_busy_client_costs_one_write_a_minute() {
    let mut l = one(Rules { idle: Some(3600), ..Rules::default() });
    let mut writes = 0;
    for t in 0..600 {
        l.handle(proof("198.51.100.7"), 1000 + t);
        writes += std::iter::from_fn(|| l.poll_effect()).filter(|e| matches!(e, Effect::Persist(_))).count();
    }
    assert_eq!(writes, 10);
}
