//! Users, roles, keys and the policy of a network: what administrators may do, what is refused, and what a change that
//! could not be saved leaves behind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails by panicking"
)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use tailnet::record::{Names, PreAuthKey, User};
use tailnet::{OPEN, Refusal, Registry, Saved, Settings, Slot};

fn registry() -> Registry {
    Registry::new(Settings { domain: "mesh.internal".into(), ..Settings::default() })
}

fn with_users(names: &[&str]) -> Registry {
    let mut b = registry();
    for name in names {
        b.create_user(name, None, "test", 1).unwrap();
    }
    b
}

fn audited(b: &mut Registry) -> Vec<String> {
    b.take_audits().into_iter().map(|a| format!("{} {}", a.what, a.about)).collect()
}

fn key(user: Option<u64>, tags: &[&str]) -> PreAuthKey {
    PreAuthKey {
        bcrypt: None,
        id: 0,
        user,
        hash: "x".into(),
        reusable: true,
        ephemeral: true,
        tags: tags.iter().map(|t| (*t).to_string()).collect(),
        created: 0,
        expires: None,
        used: 0,
        revoked: false,
    }
}

#[test]
fn names_of_users_are_names_or_addresses() {
    let mut b = registry();
    for good in ["ada", "ada.l", "ada_l-2", "Ünal", "ada+x@example.com", "carol@"] {
        let user = b.create_user(good, None, "test", 1).unwrap();
        assert_eq!(user.login(), good.trim_end_matches('@'));
        assert_eq!(user.email.is_empty(), !good.trim_end_matches('@').contains('@'), "{good}");
    }
    let long = "a".repeat(129);
    for bad in ["", "@", "@example.com", "a b", "a@b@c", "ada/x", "ada\n", "a,b", "group:x", long.as_str()] {
        assert_eq!(b.create_user(bad, None, "test", 1), Err(Refusal::BadUserName(bad.into())), "{bad}");
    }
    assert_eq!(b.users().count(), 6, "nothing that was refused is there");
}

#[test]
fn one_name_is_one_user() {
    let mut b = with_users(&["ada@example.com", "ben"]);
    for taken in ["ada@example.com", "ADA@Example.com", "ada", "ada@", "ben", "BEN"] {
        assert!(matches!(b.create_user(taken, None, "test", 1), Err(Refusal::UserExists(_))), "{taken}");
    }
    // The same short name at another address is another person, whom the short name does not mean any more.
    b.create_user("ada@other.example", None, "test", 1).unwrap();
    assert!(matches!(b.user_named("ada"), Err(Refusal::AmbiguousUser { all, .. }) if all.len() == 2));
    assert_eq!(b.user_named("ADA@other.example").unwrap().id, 3);
    assert_eq!((b.user_named("ben@").unwrap().id, b.user_named("2").unwrap().id), (2, 2));
    // Who is renamed may keep his own name, and nobody else's.
    assert_eq!(b.rename_user("ben", "Ben", "test", 2).unwrap().login(), "Ben");
    assert!(matches!(b.rename_user("Ben", "ada@example.com", "test", 2), Err(Refusal::UserExists(_))));
    assert_eq!(b.rename_user("Ben", "ben@example.com", "test", 2).unwrap().name, "ben");
    assert!(matches!(b.rename_user("Ben", "x", "test", 2), Err(Refusal::NoUser { .. })));
    assert_eq!(audited(&mut b)[3..], ["user-renamed ben to Ben", "user-renamed Ben to ben@example.com"]);
}

#[test]
fn a_network_has_one_owner() {
    let mut b = with_users(&["ada", "ben", "cleo"]);
    let role = |b: &Registry, name: &str| b.user_named(name).unwrap().role.clone();
    b.set_role("ada", Some("owner"), "test", 2).unwrap();
    assert_eq!(b.set_role("ada", None, "test", 2), Err(Refusal::OnlyOwner("ada".into())));
    assert_eq!(b.set_role("ada", Some("admin"), "test", 2), Err(Refusal::OnlyOwner("ada".into())));
    assert_eq!(role(&b, "ada").as_deref(), Some("owner"));
    audited(&mut b);
    b.take_saves();
    b.set_role("ben", Some("owner"), "test", 3).unwrap();
    assert_eq!((role(&b, "ada").as_deref(), role(&b, "ben").as_deref()), (Some("admin"), Some("owner")));
    assert_eq!(audited(&mut b), ["user-role ada: admin", "user-role ben: owner"]);
    assert_eq!(b.take_saves().into_iter().collect::<Vec<_>>(), [Slot::User(1), Slot::User(2)]);
    b.set_role("ada", None, "test", 4).unwrap();
    assert_eq!((role(&b, "ada"), audited(&mut b)), (None, vec!["user-role ada: member".to_string()]));
    assert!(matches!(b.set_role("dora", None, "test", 4), Err(Refusal::NoUser { .. })));
}

#[test]
fn a_key_is_somebodys_or_some_tags() {
    let mut b = with_users(&["ada"]);
    assert_eq!(b.create_key(key(None, &[]), "test", 2), Err(Refusal::KeyOfNobody));
    for bad in ["web", "tag:", "tag:1x", "tag:-x", "tag:a b", "tag:ü", &format!("tag:{}", "a".repeat(51))] {
        assert_eq!(b.create_key(key(Some(1), &["tag:ok", bad]), "test", 2), Err(Refusal::NoTag(bad.into())), "{bad}");
    }
    assert_eq!(b.keys().count(), 0);
    let id = b.create_key(key(None, &["tag:ok", &format!("tag:{}", "a".repeat(50))]), "test", 2).unwrap().id;
    assert_eq!(id, 1, "what was refused has taken no number");
    assert_eq!(b.revoke_key(7, "test", 3), Err(Refusal::NoKey(7)));
    b.revoke_key(id, "test", 3).unwrap();
    b.take_saves();
    assert!(b.revoke_key(id, "test", 4).unwrap().revoked && b.take_saves().is_empty(), "once is enough");
    // Who goes takes his keys along.
    b.create_key(key(Some(1), &[]), "test", 5).unwrap();
    b.delete_user("ada", "test", 6).unwrap();
    assert_eq!(b.keys().map(|k| k.id).collect::<Vec<_>>(), [1]);
    assert_eq!(b.take_saves().into_iter().collect::<Vec<_>>(), [Slot::User(1), Slot::Key(2), Slot::Counters]);
    assert_eq!((b.saved(Slot::User(1)), b.saved(Slot::Key(2))), (None, None));
}

/// A node of a user.
fn node(b: &mut Registry, id: u64, user: u64) {
    let record = serde_json::json!({
        "id": id, "machine": format!("mkey:{id:064x}"), "key": format!("nodekey:{id:064x}"), "name": format!("n{id}"),
        "ipv4": format!("100.64.0.{id}"), "ipv6": format!("fd7a:115c:a1e0::{id}"), "created": 1, "user": user });
    b.load(Saved::Node(std::sync::Arc::new(serde_json::from_value(record).unwrap())), 1).unwrap();
}

const OWNED: &str =
    r#"{"tagOwners": {"tag:web": ["ada@"]}, "grants": [{"src": ["ada@"], "dst": ["tag:web"], "ip": ["443"]}]}"#;

#[test]
fn a_policy_counts_when_it_is_one_and_its_tests_pass() {
    let mut b = with_users(&["ada", "ben"]);
    node(&mut b, 1, 1);
    node(&mut b, 2, 2);
    assert_eq!((b.policy_text(), b.unknown_tags(&["tag:web".into()])), (None, vec![]), "nothing to know yet");
    b.set_policy(Some(OWNED), "test", 2).unwrap();
    assert_eq!(b.unknown_tags(&["tag:web".into(), "tag:db".into()]), ["tag:db"]);
    audited(&mut b);
    // What is no policy, and what fails its own tests, changes nothing.
    assert!(matches!(b.set_policy(Some("{"), "test", 3), Err(Refusal::Policy(_))));
    let failing = r#"{"grants": [], "tests": [{"src": "ada@", "accept": ["ben@:22"]}]}"#;
    let refused = b.set_policy(Some(failing), "test", 3);
    assert!(matches!(&refused, Err(Refusal::PolicyTests(all)) if all.len() == 1), "{refused:?}");
    assert_eq!((audited(&mut b), b.policy_text()), (vec![], Some(OWNED)));
    assert!(b.policy_faults().is_empty());
    b.set_policy(None, "test", 4).unwrap();
    assert_eq!((b.policy_text(), b.saved(Slot::Policy)), (None, None));
    assert_eq!(audited(&mut b), ["policy-set 0 bytes"]);
    assert!(policy::Policy::parse(OPEN).is_ok(), "the policy of a network without one");
}

#[test]
fn a_network_that_cannot_read_its_policy_lets_nobody_through() {
    let mut b = with_users(&["ada"]);
    b.set_policy(Some(OWNED), "test", 2).unwrap();
    b.take_saves();
    b.shut_policy();
    assert!(b.changed() && b.take_saves().is_empty(), "what was saved stays, for a version that can read it");
    let s = b.snapshot(3);
    assert!(s.has_policy && s.compiled.policy().grants.as_ref().is_some_and(Vec::is_empty));
    assert_eq!(b.policy_text(), Some(r#"{"grants": []}"#));
}

#[derive(Debug, Clone)]
enum Step {
    Create(u8),
    Rename(u8, u8),
    Role(u8, Option<&'static str>),
    Delete(u8),
    Key(u8),
    RevokeKey(u64),
    Policy(Option<&'static str>),
    Records(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let role = prop::sample::select(vec![None, Some("owner"), Some("admin"), Some("auditor")]);
    prop_oneof![
        4 => (0..4u8).prop_map(Step::Create),
        2 => (0..4u8, 0..4u8).prop_map(|(a, b)| Step::Rename(a, b)),
        3 => (0..4u8, role).prop_map(|(who, role)| Step::Role(who, role)),
        1 => (0..4u8).prop_map(Step::Delete),
        3 => (0..4u8).prop_map(Step::Key),
        1 => (1..6u64).prop_map(Step::RevokeKey),
        1 => prop::sample::select(vec![None, Some(OWNED), Some(r#"{"grants": []}"#)]).prop_map(Step::Policy),
        1 => (0..3u8).prop_map(Step::Records),
    ]
}

fn name(n: u8) -> String {
    ["ada", "ben@example.com", "ben@other.example", "cleo"][usize::from(n)].to_string()
}

/// Does it; what is refused is refused.
fn go(b: &mut Registry, step: &Step, now: u64) {
    let _ = match step.clone() {
        Step::Create(n) => b.create_user(&name(n), None, "test", now).map(drop),
        Step::Rename(a, to) => b.rename_user(&name(a), &name(to), "test", now).map(drop),
        Step::Role(n, role) => b.set_role(&name(n), role, "test", now).map(drop),
        Step::Delete(n) => b.delete_user(&name(n), "test", now).map(drop),
        Step::Key(n) => {
            let user = b.user_named(&name(n)).ok().map(|u| u.id);
            b.create_key(key(user, &["tag:web"]), "test", now).map(drop)
        }
        Step::RevokeKey(id) => b.revoke_key(id, "test", now).map(drop),
        Step::Policy(text) => b.set_policy(text, "test", now),
        Step::Records(n) => {
            let names =
                Names { split: [(format!("d{n}.example"), vec!["192.0.2.53".into()])].into(), ..Names::default() };
            b.set_names(names, "test", now);
            Ok(())
        }
    };
}

type Shown = (Vec<User>, Vec<PreAuthKey>, Option<String>, Names);

fn shown(b: &Registry) -> Shown {
    (b.users().cloned().collect(), b.keys().cloned().collect(), b.policy_text().map(str::to_string), b.names().clone())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// A change that the disk refused leaves nothing behind but its numbers, and what is refused saves nothing.
    #[test]
    fn what_could_not_be_saved_is_undone(steps in prop::collection::vec(step(), 1..25)) {
        let (mut b, mut disk) = (registry(), BTreeMap::<Slot, Saved>::new());
        let (last, before) = steps.split_last().unwrap();
        for (now, step) in before.iter().enumerate() {
            let was = shown(&b);
            go(&mut b, step, now as u64);
            let saves = b.take_saves();
            prop_assert!(!saves.is_empty() || shown(&b) == was, "{step:?} is in force and saved nowhere");
            prop_assert!(b.take_audits().is_empty() == saves.is_empty(), "{step:?} is on record if it happened");
            for slot in saves {
                match b.saved(slot) {
                    Some(saved) => drop(disk.insert(slot, saved)),
                    None => drop(disk.remove(&slot)),
                }
            }
        }
        let was = shown(&b);
        go(&mut b, last, 99);
        for slot in b.take_saves() {
            b.put_back(slot, disk.get(&slot).cloned(), 99).unwrap();
        }
        prop_assert_eq!(shown(&b), was);
        prop_assert!(b.take_saves().into_iter().all(|s| s == Slot::Counters), "numbers that were given out stay so");
    }
}
