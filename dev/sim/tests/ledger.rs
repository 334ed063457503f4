//! The ledger against a naive oracle, and with a crash between every two effects.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails by panicking"
)]

use std::collections::{BTreeMap, BTreeSet};

use access::ended::What;
use access::ledger::{Close, Effect, Entry, Event, Evict, Ledger, OTHER_PLACE, Outcome, Proof, Rejection, Rules};
use access::{Ban, BanId, Evidence, Grant, GrantId, Whom};
use addr::AddrSet;
use proptest::prelude::*;
use sim::doorbook::{Door, Habit, Happened, Note, Shown, inside};

const BOOKS: [&str; 2] = ["photos", "files"];

#[derive(Debug, Clone)]
enum Step {
    Show { book: usize, who: u8, shown: Shown, person: Option<u8>, thing: Option<u8> },
    Welcome { book: usize, who: u8, lasts: Option<u64> },
    Away { book: usize, who: u8, ban: Option<u64> },
    Dismiss { book: usize, person: u8, ban: Option<u64> },
    Forgive { book: usize, who: u8 },
    Pass { book: usize, who: u8 },
    Wait(u64),
    Back(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let shown = prop_oneof![2 => Just(Shown::Invitation), 1 => Just(Shown::Password), 4 => Just(Shown::Key)];
    let ban = || prop::option::of(1..600u64);
    prop_oneof![
        12 => (0..2usize, 1..17u8, shown, prop::option::of(0..2u8), prop::option::of(0..2u8))
            .prop_map(|(book, who, shown, person, thing)| match shown {
                // A link's guests have one name and no device.
                Shown::Invitation => Step::Show { book, who, shown, person: None, thing: None },
                _ => Step::Show { book, who, shown, person, thing },
            }),
        2 => (0..2usize, 1..17u8, prop::option::of(1..2_000u64))
            .prop_map(|(book, who, lasts)| Step::Welcome { book, who, lasts }),
        1 => (0..2usize, 1..17u8, ban()).prop_map(|(book, who, ban)| Step::Away { book, who, ban }),
        1 => (0..2usize, 0..2u8, ban()).prop_map(|(book, person, ban)| Step::Dismiss { book, person, ban }),
        1 => (0..2usize, 1..17u8).prop_map(|(book, who)| Step::Forgive { book, who }),
        3 => (0..2usize, 1..17u8).prop_map(|(book, who)| Step::Pass { book, who }),
        5 => (0..400u64).prop_map(Step::Wait),
        1 => (0..100_000u64).prop_map(Step::Wait),
        1 => (0..4000u64).prop_map(Step::Back),
    ]
}

/// Eight old addresses, and eight new ones in two streets of two houses each.
fn address(who: u8) -> String {
    match who {
        0..9 => format!("203.0.113.{who}"),
        _ => format!("2001:db8:{}:{:x}::/64", who % 2 + 1, u16::from(who / 2 % 2) * 0x100 + u16::from(who / 4)),
    }
}

fn any_of(who: u8) -> String {
    address(who).replace("::/64", "::7")
}

fn door(who: u8) -> Door {
    let name = address(who);
    let (house, street) = match who {
        0..9 => (name.clone(), name.clone()),
        _ => (format!("house {} of {}", who / 2 % 2, who % 2), format!("street {}", who % 2)),
    };
    Door { name, house, street, modern: who >= 9 }
}

fn rules(h: Habit) -> Rules {
    Rules {
        max: Some(h.room),
        guests: Some(h.guest_room),
        evict: if h.oldest_leaves { Evict::FirstSeen } else { Evict::LeastRecentlySeen },
        ttl: Some(h.proof_lasts),
        idle: Some(h.silence_lasts),
        grace: h.farewell,
        devices: h.places,
        ..Rules::default()
    }
}

fn person(p: u8) -> String {
    format!("person {p}")
}

fn event(step: &Step, ledger: &Ledger, now: u64) -> Option<Event> {
    let list = |book: &usize| BOOKS[*book].to_string();
    let close = |ids: Vec<GrantId>, principal: Option<String>, bans| {
        Event::Close(Close { ids, principal, bans, by: "test".into() })
    };
    Some(match step {
        Step::Show { book, who, shown, person: p, thing } => Event::Proof(Proof {
            list: list(book),
            addr: any_of(*who).parse().unwrap(),
            evidence: match shown {
                Shown::Invitation => Evidence::Share,
                Shown::Password => Evidence::Login,
                Shown::Key => Evidence::Mtls,
                Shown::Word => Evidence::Manual,
            },
            principal: p.map(person),
            device: thing.map(|t| format!("thing {t}")),
            ttl: None,
        }),
        Step::Welcome { book, who, lasts } => Event::Add(Entry {
            list: list(book),
            prefix: address(*who).parse().unwrap(),
            evidence: Evidence::Manual,
            principal: None,
            until: lasts.map(|l| now + l),
            pinned: false,
        }),
        Step::Pass { book, who } => Event::Seen(list(book), any_of(*who).parse().unwrap()),
        Step::Away { book, who, ban } => {
            let at = ledger.grants(BOOKS[*book]).find(|g| g.prefix.to_string() == address(*who));
            let whom = Whom::From(address(*who).parse().unwrap());
            let bans = ban.map(|b| (list(book), whom, Some(now + b)));
            close(at.into_iter().map(|g| g.id).collect(), None, bans.into_iter().collect())
        }
        Step::Dismiss { book, person: p, ban } => {
            let all = ledger.grants(BOOKS[*book]).map(|g| g.id).collect();
            let bans = ban.map(|b| (list(book), Whom::Named(person(*p)), Some(now + b)));
            close(all, Some(person(*p)), bans.into_iter().collect())
        }
        Step::Forgive { book, who } => Event::Unban(vec![(list(book), Whom::From(address(*who).parse().unwrap()))]),
        Step::Wait(_) | Step::Back(_) => return None,
    })
}

fn note(step: &Step, at: u64, clock: u64) -> Option<Note> {
    let (book, event) = match step.clone() {
        Step::Show { book, who, shown, person: p, thing } => (
            book,
            Happened::Showed {
                door: door(who),
                shown,
                person: p.map(person),
                thing: thing.map(|t| format!("thing {t}")),
            },
        ),
        Step::Welcome { book, who, lasts } => {
            (book, Happened::Welcomed { door: door(who), until: lasts.map(|l| clock + l) })
        }
        Step::Away { book, who, ban } => {
            (book, Happened::SentAway { door: door(who), not_before: ban.map(|b| clock + b) })
        }
        Step::Dismiss { book, person: p, ban } => {
            (book, Happened::Dismissed { person: person(p), not_before: ban.map(|b| clock + b) })
        }
        Step::Forgive { book, who } => (book, Happened::Forgave { door: door(who) }),
        Step::Pass { book, who } => (book, Happened::Passed { door: door(who) }),
        Step::Wait(_) | Step::Back(_) => return None,
    };
    Some(Note { at, book: BOOKS[book].into(), event })
}

/// A disk: what was persisted and not forgotten.
#[derive(Debug, Clone, Default)]
struct Disk(BTreeMap<GrantId, Grant>, BTreeMap<BanId, Ban>);

impl Disk {
    fn take(&mut self, e: &Effect) {
        match e {
            Effect::Persist(g) => drop(self.0.insert(g.id, g.clone())),
            Effect::Forget(id) => drop(self.0.remove(id)),
            Effect::PersistBan(b) => drop(self.1.insert(b.id, b.clone())),
            Effect::ForgetBan(id) => drop(self.1.remove(id)),
            Effect::Changed(_) | Effect::Audit(_) | Effect::Ended(_) => {}
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
    let farewell = prop_oneof![4 => (0..200u64).prop_map(Some), 1 => Just(None)];
    let lasts = || prop_oneof![3 => 1..900u64, 1 => 1..200_000u64];
    (1..5usize, 1..4usize, any::<bool>(), lasts(), lasts(), farewell, prop::option::of(1..4usize)).prop_map(
        |(room, guest_room, oldest_leaves, proof_lasts, silence_lasts, farewell, places)| Habit {
            room,
            guest_room,
            oldest_leaves,
            proof_lasts,
            silence_lasts,
            farewell,
            places,
            back_within: 3_600,
            elsewhere_lasts: OTHER_PLACE,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn the_ledger_agrees_with_the_naive_book(h in habit(), steps in prop::collection::vec(step(), 0..60)) {
        let mut ledger = fresh(h);
        let (mut wall, mut high, mut notes) = (10_000u64, 0u64, Vec::new());
        for s in &steps {
            match s {
                Step::Wait(by) => wall += by,
                Step::Back(by) => wall = wall.saturating_sub(*by),
                _ => {
                    high = high.max(wall);
                    ledger.handle_timeout(wall);
                    let e = event(s, &ledger, high).unwrap();
                    ledger.handle(e, wall);
                    notes.push(note(s, wall, high).unwrap());
                }
            }
            ledger.handle_timeout(wall);
            notes.push(Note { at: wall, book: String::new(), event: Happened::Struck });
            high = high.max(wall);
            for book in BOOKS {
                let want: BTreeSet<String> = inside(&notes, book, h, high).into_iter().collect();
                prop_assert_eq!(names(&ledger, book), want, "{} after {:?}", book, s);
                let (proven, guests) = ledger.counted(book);
                prop_assert!(proven <= h.room && guests <= h.guest_room);
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
            if let Some(e) = event(s, &ledger, wall) { ledger.handle(e, wall); } else { ledger.handle_timeout(wall); }
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
        after.restore(disk.0.values().cloned(), disk.1.values().cloned(), wall);
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
                prop_assert!(found.contains(who) || stored.unwrap().ends_at().is_some_and(|end| end <= wall), "{who} is not in force again");
            }
            prop_assert!(found.len() <= h.room + h.guest_room);
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
        ("10.0.0.5", Rejection::Private),
        ("::ffff:10.0.0.5", Rejection::Private),
        ("100.64.0.1", Rejection::Private),
        ("fd00::1", Rejection::Private),
        ("127.0.0.1", Rejection::Private),
        ("::1", Rejection::Private),
        ("198.51.100.1", Rejection::Own),
        ("203.0.113.9", Rejection::Static),
        ("::ffff:203.0.113.9", Rejection::Static),
    ] {
        assert_eq!(l.handle(proof(addr), 1), Outcome::Rejected(why), "{addr}");
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
    assert!(
        matches!(order[..], [Effect::Changed(_), Effect::Forget(_), Effect::Ended(_), Effect::Audit(_)]),
        "{order:?}"
    );
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

fn shows(addr: &str, evidence: Evidence, who: Option<&str>, device: Option<&str>) -> Event {
    Event::Proof(Proof {
        list: "photos".into(),
        addr: addr.parse().unwrap(),
        evidence,
        principal: who.map(str::to_string),
        device: device.map(str::to_string),
        ttl: None,
    })
}

fn on(l: &Ledger) -> Vec<String> {
    l.grants("photos").map(|g| g.prefix.to_string()).collect()
}

fn by_hand(prefix: &str, until: Option<u64>) -> Event {
    Event::Add(Entry {
        list: "photos".into(),
        prefix: prefix.parse().unwrap(),
        evidence: Evidence::Manual,
        principal: None,
        until,
        pinned: false,
    })
}

/// What was noted for whoever asks why somebody is no longer in.
fn noted(l: &mut Ledger) -> Vec<(What, String, String)> {
    let all = std::iter::from_fn(|| l.poll_effect());
    all.filter_map(|e| match e {
        Effect::Ended(e) => Some((e.what, e.prefix.to_string(), e.by)),
        _ => None,
    })
    .collect()
}

#[test]
fn a_guest_with_many_networks_pushes_out_nobody_but_himself() {
    let mut l = one(Rules { max: Some(3), guests: Some(4), evict: Evict::FirstSeen, ..Rules::default() });
    for n in 1..4 {
        l.handle(shows(&format!("198.51.100.{n}"), Evidence::Mtls, None, None), n);
    }
    for n in 1..3 {
        l.handle(shows(&format!("203.0.113.{n}"), Evidence::Share, None, None), 10 + n);
    }
    // One household with a /56, a hundred networks of it.
    for n in 0..100u64 {
        l.handle(shows(&format!("2001:db8:1:{n:x}::1"), Evidence::Share, None, None), 20 + n);
    }
    let mut want: Vec<String> = (1..4).map(|n| format!("198.51.100.{n}")).collect();
    want.extend(["203.0.113.1".into(), "203.0.113.2".into(), "2001:db8:1:62::/64".into(), "2001:db8:1:63::/64".into()]);
    assert_eq!(on(&l), want);
    let ended = noted(&mut l);
    assert_eq!(ended.len(), 98);
    assert!(
        ended.iter().all(|(w, p, by)| *w == What::Evicted && p.starts_with("2001:") && by.contains("holds 4 guests"))
    );
}

#[test]
fn weaker_evidence_never_takes_the_place_of_stronger() {
    let mut l = one(Rules { max: Some(2), ..Rules::default() });
    l.handle(by_hand("198.51.100.1", None), 1);
    l.handle(shows("198.51.100.2", Evidence::Mtls, Some("CN=anna"), None), 2);
    // Of the same weight: the one seen longest ago leaves, never the person's word.
    l.handle(shows("198.51.100.3", Evidence::Mtls, None, None), 3);
    assert_eq!(on(&l), ["198.51.100.1", "198.51.100.3"]);
    let ended = noted(&mut l);
    assert_eq!(ended[0].1, "198.51.100.2");
    assert!(ended[0].2.contains("g3 198.51.100.3 (mtls) came"), "{ended:?}");
    // A login finds no place, and that is known.
    assert_eq!(l.handle(shows("198.51.100.4", Evidence::Login, None, None), 4), Outcome::Rejected(Rejection::Full));
    assert_eq!(on(&l), ["198.51.100.1", "198.51.100.3"]);
    assert_eq!(noted(&mut l)[0].0, What::Full);
    // What an earlier gate learned leaves for whoever has a certificate.
    let mut l = one(Rules { max: Some(1), ..Rules::default() });
    let earlier = Entry {
        list: "photos".into(),
        prefix: "198.51.100.1".parse().unwrap(),
        evidence: Evidence::Earlier,
        principal: None,
        until: None,
        pinned: false,
    };
    l.handle(Event::Add(earlier), 1);
    l.handle(shows("198.51.100.2", Evidence::Mtls, None, None), 2);
    assert_eq!(on(&l), ["198.51.100.2"]);
}

#[test]
fn one_certificate_on_two_phones_keeps_both_and_one_phone_leaves_its_old_place() {
    let mut l = one(Rules { ttl: Some(7 * 86_400), ..Rules::default() });
    let phone = |l: &mut Ledger, addr: &str, t: u64| {
        let _ = l.handle(shows(addr, Evidence::Mtls, Some("CN=anna"), Some("fp")), t);
    };
    // They report every quarter of an hour, half of it apart.
    let mut t = 1_000;
    phone(&mut l, "198.51.100.7", t);
    phone(&mut l, "198.51.100.8", t + 450);
    let mut out = 0;
    for round in 0..96 {
        t += 900;
        for (addr, at) in [("198.51.100.7", t), ("198.51.100.8", t + 450)] {
            l.handle_timeout(at);
            // Once each is the price of learning that there are two.
            out += u32::from(round > 1 && on(&l).len() != 2);
            phone(&mut l, addr, at);
        }
    }
    assert_eq!(out, 0);
    assert_eq!(on(&l).len(), 2);
    let superseded = std::iter::from_fn(|| l.poll_effect())
        .filter(|e| matches!(e, Effect::Audit(a) if a.what == What::Superseded))
        .count();
    assert!(superseded <= 2, "they throw each other out: {superseded}");
    // One of them goes elsewhere: the place that it left lasts a day, not a week.
    for n in 1..=97 {
        phone(&mut l, "198.51.100.7", t + n * 900);
        phone(&mut l, "198.51.100.9", t + n * 900 + 400);
    }
    assert_eq!(on(&l), ["198.51.100.7", "198.51.100.9"]);
    // A single phone that moves on leaves its old place after the grace.
    let mut l = one(Rules::default());
    phone(&mut l, "198.51.100.1", 1_000);
    phone(&mut l, "198.51.100.2", 2_000);
    l.handle_timeout(2_299);
    assert_eq!(on(&l).len(), 2);
    l.handle_timeout(2_300);
    assert_eq!(on(&l), ["198.51.100.2"]);
    // Unless nothing is to be ended.
    let mut l = one(Rules { grace: None, ..Rules::default() });
    phone(&mut l, "198.51.100.1", 1_000);
    phone(&mut l, "198.51.100.2", 2_000);
    l.handle_timeout(1_000_000);
    assert_eq!(on(&l).len(), 2);
    // Nor is it more than the devices that one person may have.
    let mut l = one(Rules { devices: Some(2), ..Rules::default() });
    for round in 0..20u64 {
        for n in 1..=3 {
            phone(&mut l, &format!("198.51.100.{n}"), 1_000 + round * 900 + n * 100);
        }
    }
    l.handle_timeout(1_000 + 19 * 900 + 700);
    assert_eq!(on(&l).len(), 2);
}

#[test]
fn two_people_behind_one_address_do_not_end_each_others_stay() {
    let mut l = one(Rules::default());
    l.handle(shows("198.51.100.1", Evidence::Mtls, Some("CN=anna"), Some("a")), 1_000);
    l.handle(shows("198.51.100.1", Evidence::Mtls, Some("CN=bert"), Some("b")), 1_001);
    // Anna goes out; her old place is Bert's still.
    l.handle(shows("203.0.113.9", Evidence::Mtls, Some("CN=anna"), Some("a")), 2_000);
    l.handle_timeout(100_000);
    assert_eq!(on(&l), ["198.51.100.1", "203.0.113.9"]);
    let home = l.grants("photos").next().unwrap();
    assert_eq!(home.claims().map(|c| c.principal.as_deref().unwrap()).collect::<Vec<_>>(), ["CN=bert"]);
}

#[test]
fn an_end_by_hand_shortens_no_proof_unless_told_and_proofs_last_beside_it() {
    let mut l = one(Rules { ttl: Some(1_000), ..Rules::default() });
    l.handle(shows("198.51.100.1", Evidence::Mtls, Some("CN=anna"), None), 100);
    l.handle(by_hand("198.51.100.1", Some(200)), 150);
    assert_eq!(l.grants("photos").next().unwrap().ends_at(), Some(1_100));
    // A proof goes on counting beside it.
    l.handle(shows("198.51.100.1", Evidence::Mtls, Some("CN=anna"), None), 190);
    l.handle_timeout(500);
    let g = l.grants("photos").next().unwrap().clone();
    assert_eq!((g.ends_at(), g.claim.evidence, g.beside.len()), (Some(1_190), Evidence::Mtls, 0));
    l.handle(Event::Extend { ids: vec![g.id], until: Some(600), shorten: true }, 510);
    l.handle_timeout(600);
    assert!(on(&l).is_empty());
    // A guest's link neither takes the name off a certificate nor lengthens it, and goes on when that is over.
    let mut l = one(Rules { ttl: Some(100), ..Rules::default() });
    l.handle(shows("198.51.100.1", Evidence::Mtls, Some("CN=anna"), None), 100);
    let link = Proof {
        list: "photos".into(),
        addr: "198.51.100.1".parse().unwrap(),
        evidence: Evidence::Share,
        principal: Some("guest of photos".into()),
        device: None,
        ttl: Some(1_000),
    };
    l.handle(Event::Proof(link), 110);
    assert_eq!(l.grants("photos").next().unwrap().claim.principal.as_deref(), Some("CN=anna"));
    l.handle_timeout(200);
    let g = l.grants("photos").next().unwrap();
    assert_eq!((g.claim.evidence, g.ends_at()), (Evidence::Share, Some(1_110)));
    assert_eq!(l.counted("photos"), (0, 1));
}

#[test]
fn a_ban_keeps_proofs_out_until_its_time_or_a_persons_word() {
    let mut l = one(Rules::default());
    let Outcome::Given(id) = l.handle(shows("2001:db8::5", Evidence::Mtls, Some("CN=anna"), None), 10) else {
        panic!()
    };
    let close = |bans: Vec<(String, Whom, Option<u64>)>, ids: Vec<GrantId>| {
        Event::Close(Close { ids, principal: None, bans, by: "by hand".into() })
    };
    let net = Whom::From("2001:db8::/64".parse().unwrap());
    let ban = |whom: &Whom, until| vec![("photos".to_string(), whom.clone(), until)];
    l.handle(close(ban(&net, Some(100)), vec![id]), 20);
    let refused = Outcome::Rejected(Rejection::Banned);
    assert_eq!(l.handle(shows("2001:db8::6", Evidence::Mtls, Some("CN=bert"), None), 30), refused);
    assert_eq!(l.poll_timeout(), Some(100));
    // Told anew, it is the same one.
    let before: Vec<BanId> = l.bans("photos").map(|b| b.id).collect();
    l.handle(close(ban(&net, Some(90)), Vec::new()), 32);
    assert_eq!(l.poll_timeout(), Some(90));
    l.handle(close(ban(&net, Some(100)), Vec::new()), 33);
    assert_eq!(l.bans("photos").map(|b| b.id).collect::<Vec<_>>(), before);
    // What is stored is in force after a restart.
    let stored: Vec<Ban> = l.bans("photos").cloned().collect();
    let mut again = one(Rules::default());
    again.restore([], stored, 40);
    assert_eq!(again.handle(shows("2001:db8::6", Evidence::Mtls, None, None), 50), refused);
    assert!(matches!(again.handle(shows("2001:db8::6", Evidence::Mtls, None, None), 100), Outcome::Given(_)));
    // A person: from everywhere, but nobody else.
    let anna = Whom::Named("CN=anna".into());
    l.handle(close(ban(&anna, None), Vec::new()), 200);
    assert_eq!(l.handle(shows("198.51.100.9", Evidence::Mtls, Some("CN=anna"), None), 1 << 40), refused);
    assert!(matches!(
        l.handle(shows("198.51.100.9", Evidence::Mtls, Some("CN=bert"), None), 1 << 40),
        Outcome::Given(_)
    ));
    assert_eq!(l.handle(Event::Unban(vec![("photos".into(), anna)]), 1 << 40), Outcome::Settled(1));
    assert!(matches!(
        l.handle(shows("198.51.100.8", Evidence::Mtls, Some("CN=anna"), None), 1 << 40),
        Outcome::Given(_)
    ));
    // What a person lets in by hand is no longer banned.
    let there = Whom::From("203.0.113.7".parse().unwrap());
    l.handle(close(ban(&there, None), Vec::new()), 1 << 40);
    l.handle(by_hand("203.0.113.0/24", None), 1 << 40);
    assert_eq!(l.bans("photos").count(), 0);
    // There is an end to how many.
    let many: Vec<_> =
        (0..=access::ledger::BANS).map(|n| ("photos".to_string(), Whom::Named(n.to_string()), None)).collect();
    assert_eq!(l.handle(close(many, Vec::new()), 1 << 40), Outcome::Rejected(Rejection::Bans));
    assert_eq!(l.bans("photos").count(), 0, "all or none");
}

#[test]
fn what_one_command_ends_is_one_event() {
    let mut l = one(Rules::default());
    for n in 1..=5 {
        l.handle(shows(&format!("198.51.100.{n}"), Evidence::Mtls, Some("CN=anna"), None), n);
    }
    let name = Entry {
        list: "photos".into(),
        prefix: "198.51.100.5".parse().unwrap(),
        evidence: Evidence::Dns,
        principal: Some("dns:home.example.net".into()),
        until: None,
        pinned: false,
    };
    l.handle(Event::Add(name), 6);
    let ids: Vec<GrantId> = l.grants("photos").map(|g| g.id).collect();
    noted(&mut l);
    let done = l.handle(Event::Close(Close { ids, principal: None, bans: Vec::new(), by: "by hand".into() }), 7);
    assert_eq!(done, Outcome::Settled(5));
    // What a name says stays; it would be back at once.
    assert_eq!(on(&l), ["198.51.100.5"]);
    assert_eq!(noted(&mut l).len(), 4);
}

#[test]
fn a_carriers_pool_is_one_entry() {
    let mut l = one(Rules { v4_width: 24, ..Rules::default() });
    l.handle(proof("203.0.113.7"), 1);
    l.handle(proof("203.0.113.9"), 2);
    assert_eq!(on(&l), ["203.0.113.0/24"]);
}

#[test]
fn what_was_given_by_a_wrong_clock_lasts_as_long_as_it_was_given_for() {
    let mut l = one(Rules { ttl: Some(3_600), ..Rules::default() });
    let away = Whom::From("198.51.100.9".parse().unwrap());
    l.handle(by_hand("198.51.100.2", Some(2_000_000)), 1_000);
    l.handle(proof("198.51.100.3"), 1_000_000);
    let bans = vec![("photos".to_string(), away, Some(1_000_600))];
    l.handle(Event::Close(Close { ids: Vec::new(), principal: None, bans, by: "test".into() }), 1_000_000);
    noted(&mut l);
    l.set_back(2_000);
    let ends: Vec<_> = l.grants("photos").map(|g| (g.prefix.to_string(), g.ends_at())).collect();
    assert_eq!(ends, [("198.51.100.2".into(), Some(2_000_000)), ("198.51.100.3".to_string(), Some(5_600))]);
    assert_eq!(l.bans("photos").map(|b| (b.since, b.until)).collect::<Vec<_>>(), [(2_000, Some(2_600))]);
    assert_eq!(l.poll_timeout(), Some(2_600));
    l.handle_timeout(2_600);
    assert_eq!(l.bans("photos").count(), 0);
    l.handle_timeout(5_600);
    assert_eq!(on(&l), ["198.51.100.2"]);
}
