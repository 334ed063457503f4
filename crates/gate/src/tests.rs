//! A whole gate in a folder of its own: what people do with grants, and what another configuration changes.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use access::Evidence;
use access::ledger::{Outcome, Proof, Rejection, Rules};
use addr::AddrSet;
use api::gate::{Add, BanTime, ChangeGrants, Extend, GrantsChanged, Revoke, Unban};
use runtime::run::Run;

use super::enforce::{self, FileConfig};
use super::intake::{Listen, Serves};
use super::{Event, Gate, GateSettings, grants};

/// A running gate; its folder goes with it.
struct Stage {
    gate: Gate,
    run: Run,
    settings: GateSettings,
    dir: PathBuf,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.run.stop();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// A gate with the lists `family` (with a static entry) and `friends`.
fn stage() -> Stage {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("portcullis-gate-{}-{n}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let family = Rules { statics: vec!["203.0.113.0/24".parse().unwrap()], ttl: Some(3_600), ..Rules::default() };
    let settings = GateSettings {
        data_dir: dir.clone(),
        lists: vec![("family".into(), family), ("friends".into(), Rules::default())],
        follows: Vec::new(),
        dns: super::names::Dns::default(),
        own: AddrSet::default(),
        proxies: super::Proxies {
            trusted: AddrSet::default(),
            header: access::visitor::AddressHeader::XForwardedFor,
            direct: false,
        },
        refusal: super::RefusalPage::default(),
        configured_by: super::ConfiguredBy::File,
        accept: BTreeSet::new(),
        listeners: Vec::new(),
        shares: Vec::new(),
        share_paths: Vec::new(),
        probes: Vec::new(),
        enforcers: Vec::new(),
        take_over: Vec::new(),
        ahead: super::Ahead::default(),
    };
    let run = Run::new(Duration::from_millis(50));
    let gate = super::start(settings.clone(), &run).unwrap();
    Stage { gate, run, settings, dir }
}

impl Stage {
    async fn proves(&self, list: &str, addr: &str, evidence: Evidence, who: Option<&str>) -> Outcome {
        let proof = Proof {
            list: list.into(),
            addr: addr.parse().unwrap(),
            evidence,
            principal: who.map(str::to_string),
            device: None,
            ttl: None,
        };
        self.gate.ledger.submit(Event::Proof(proof)).await.unwrap().outcome
    }

    async fn does(&self, call: impl Into<ChangeGrants>) -> GrantsChanged {
        match grants::act(&self.gate, call.into()).await {
            Ok(changed) => changed,
            Err(e) => panic!("{e:#}"),
        }
    }

    /// What is refused, and the advice; nothing has changed.
    async fn refuses(&self, call: impl Into<ChangeGrants>) -> (String, String) {
        let before = self.everybody();
        let e = grants::act(&self.gate, call.into()).await.unwrap_err().downcast::<api::Error>().unwrap();
        assert_eq!((e.code, self.everybody()), (api::Code::Refused, before), "{e}");
        (e.what, e.hint.unwrap_or_default())
    }

    async fn add(&self, a: Add) -> (String, Vec<String>) {
        match self.does(ChangeGrants::Add(a)).await {
            GrantsChanged::Added(a) => (a.grant, a.notes),
            other => panic!("{other:?}"),
        }
    }

    async fn revoke(&self, r: Revoke) -> (Vec<String>, Vec<String>) {
        match self.does(ChangeGrants::Revoke(r)).await {
            GrantsChanged::Revoked(r) => (r.ended, r.notes),
            other => panic!("{other:?}"),
        }
    }

    /// Each list with who is on it.
    fn everybody(&self) -> Vec<String> {
        let grants = self.gate.ledger.model.grants.read();
        let each = grants.iter().flat_map(|(list, on)| on.values().map(move |g| format!("{list} {}", g.prefix)));
        each.collect()
    }
}

fn on(list: &str, prefix: &str) -> Add {
    Add { list: list.into(), prefix: prefix.into(), r#for: None, principal: None, pinned: false, yes: false }
}

fn off(what: &str) -> Revoke {
    Revoke { what: what.into(), ..Revoke::default() }
}

fn longer(what: &str, secs: Option<u64>) -> Extend {
    Extend { what: what.into(), r#for: secs, ..Extend::default() }
}

#[tokio::test]
async fn somebody_is_let_in_by_hand() {
    let s = stage();
    assert_eq!(s.add(on("family", "198.51.100.7")).await, ("g1".into(), vec![]));
    // The same again is the same grant, which is somebody's and ends now.
    let again = Add { r#for: Some(60), principal: Some("anna".into()), ..on("family", "198.51.100.7") };
    let now = s.gate.ledger.model.time.now();
    let GrantsChanged::Added(added) = s.does(ChangeGrants::Add(again)).await else { panic!() };
    assert_eq!((added.grant.as_str(), added.unsaved), ("g1", None));
    assert!(added.until.is_some_and(|t| (now + 60..now + 90).contains(&t)), "{:?}", added.until);
    // A range is several grants of one command; host bits are cut off and said.
    assert_eq!(s.add(on("friends", "192.0.2.1-192.0.2.4")).await.0, "g2, g3, g4");
    let (_, notes) = s.add(on("friends", "198.51.100.9/28")).await;
    assert_eq!(notes, ["`198.51.100.9/28` has host bits and was read as 198.51.100.0/28"]);
    assert_eq!(
        s.everybody(),
        [
            "family 198.51.100.7",
            "friends 192.0.2.1",
            "friends 192.0.2.2/31",
            "friends 192.0.2.4",
            "friends 198.51.100.0/28"
        ]
    );
}

/// Whatever is logged: nothing here listens to the log.
#[tokio::test]
async fn a_start_finds_what_was_saved() {
    let s = stage();
    s.add(on("friends", "198.51.100.7")).await;
    s.proves("family", "198.51.100.8", Evidence::Mtls, Some("CN=anna")).await;
    s.does(ChangeGrants::Revoke(Revoke { ban: Some(BanTime::Forever), ..off("CN=mallory") })).await;
    s.run.stop();
    s.run.finish().await.unwrap();
    let run = Run::new(Duration::from_millis(50));
    let again = Stage {
        gate: super::start(s.settings.clone(), &run).unwrap(),
        run,
        settings: s.settings.clone(),
        dir: s.dir.clone(),
    };
    assert_eq!(again.everybody(), ["family 198.51.100.8", "friends 198.51.100.7"]);
    assert_eq!(again.gate.ledger.published.borrow().lists.len(), 2);
    let refused = Outcome::Rejected(Rejection::Banned);
    assert_eq!(again.proves("friends", "192.0.2.9", Evidence::Mtls, Some("CN=mallory")).await, refused);
    // Numbers go on where they were: bans have some of them.
    assert_eq!(again.add(on("friends", "192.0.2.1")).await.0, "g5");
}

#[tokio::test]
async fn what_cannot_be_meant_changes_nothing() {
    let s = stage();
    let add = |prefix: &str| ChangeGrants::Add(on("family", prefix));
    let (what, hint) = s.refuses(ChangeGrants::Add(on("work", "192.0.2.1"))).await;
    assert_eq!((what.as_str(), hint.as_str()), ("there is no list `work`", "the lists are family, friends"));
    assert_eq!(s.refuses(add("none")).await.0, "`none` names no address");
    assert_eq!(s.refuses(add("192.0.2.256")).await.0, "`192.0.2.256`: it is not an IPv4 or IPv6 address");
    let (what, hint) = s.refuses(add("home.example.net")).await;
    assert_eq!(what, "`home.example.net` is a host name, not an address");
    assert_eq!(hint, "write `dns:home.example.net`: the name's addresses are followed");
    assert!(s.refuses(add("dns:home")).await.0.contains("no full host name"));
    let called = |who: &str| ChangeGrants::Add(Add { principal: Some(who.into()), ..on("family", "192.0.2.1") });
    for (who, words) in [
        (String::new(), "nobody is called by an empty name; nothing was changed"),
        ("a".repeat(257), "the name has 257 characters, at most 256 are taken; nothing was changed"),
        ("a\nb".into(), "the name has a control character; nothing was changed"),
    ] {
        assert_eq!(s.refuses(called(&who)).await.0, words);
    }
    s.does(called(&"ä".repeat(256))).await;
    s.does(ChangeGrants::Revoke(off("192.0.2.1"))).await;
    // Half of the internet is let in by somebody who says that this is what he wants.
    for (wide, words) in [
        ("all", "0.0.0.0/0 is everybody with an IPv4 address"),
        ("::/0", "::/0 is everybody with an IPv6 address"),
        ("192.0.2.1, 198.0.0.0/15", "198.0.0.0/15 is more than any one provider's customers"),
        ("2001:db8::/31", "2001:db8::/31 is more than any one provider's customers"),
        ("10.0.0.0/6", "8.0.0.0/6 is more than any one provider's customers"),
    ] {
        let (what, hint) = s.refuses(add(wide)).await;
        assert_eq!(what, format!("{words}; nothing was changed"));
        assert!(hint.contains(&format!("grant add {wide} --list family --yes")), "{hint}");
    }
    assert!(s.everybody().is_empty());
    for own in ["10.0.0.0/8", "fc00::/7", "198.51.0.0/16", "2001:db8::/32"] {
        s.add(on("family", own)).await;
    }
    s.add(Add { yes: true, ..on("family", "198.0.0.0/15") }).await;
    assert_eq!(s.everybody().len(), 5);
}

#[tokio::test]
async fn an_end_ends_what_was_named_and_nothing_else() {
    let s = stage();
    s.add(on("friends", "198.51.100.0/24")).await;
    s.add(on("friends", "198.51.100.7")).await;
    s.add(on("family", "198.51.100.7")).await;
    // An address ends itself on every list; what is around it stays, and is named.
    let (ended, notes) = s.revoke(off("198.51.100.7")).await;
    assert_eq!(ended, ["g3", "g2"]);
    assert!(
        notes.iter().any(|n| n.starts_with("g1 (198.51.100.0/24) around it still lets it in on `friends`")),
        "{notes:?}"
    );
    // Within a network that is no grant itself, all of it is meant.
    s.add(on("friends", "192.0.2.1")).await;
    s.add(on("friends", "192.0.2.200")).await;
    assert_eq!(s.revoke(off("192.0.2.0/24")).await.0.len(), 2);
    // Of one that is, only itself, unless more is asked for.
    s.add(on("friends", "198.51.100.8")).await;
    let (ended, notes) = s.revoke(off("198.51.100.0/24")).await;
    assert_eq!(
        (ended.len(), notes.as_slice()),
        (1, &["1 narrower grants within it stay; `--within` ends them too".to_string()][..])
    );
    s.add(on("friends", "198.51.100.0/24")).await;
    assert_eq!(s.revoke(Revoke { within: true, ..off("198.51.100.0/24") }).await.0.len(), 2);
    s.add(on("friends", "198.51.100.0/24")).await;
    assert_eq!(s.revoke(Revoke { wider: true, ..off("198.51.100.9") }).await.0.len(), 1);
    assert!(s.everybody().is_empty());
    let (what, _) = s.refuses(ChangeGrants::Revoke(off("198.51.100.9"))).await;
    assert_eq!(what, "no live grant is meant by `198.51.100.9`");
}

#[tokio::test]
async fn an_ipv6_address_stands_for_the_network_that_a_proof_of_it_gives() {
    let s = stage();
    assert!(matches!(s.proves("friends", "2001:db8::7", Evidence::Mtls, Some("anna")).await, Outcome::Given(_)));
    assert_eq!(s.everybody(), ["friends 2001:db8::/64"]);
    let (ended, notes) = s.revoke(off("2001:db8::99")).await;
    assert_eq!(ended, ["g1"]);
    assert!(notes[0].starts_with("the next proof lets them in again"), "{notes:?}");
}

#[tokio::test]
async fn somebody_is_ended_by_name_and_others_there_stay() {
    let s = stage();
    s.proves("friends", "198.51.100.1", Evidence::Mtls, Some("CN=anna")).await;
    s.proves("friends", "198.51.100.1", Evidence::Mtls, Some("CN=bert")).await;
    s.proves("family", "198.51.100.2", Evidence::Mtls, Some("CN=anna")).await;
    let (what, hint) = s.refuses(ChangeGrants::Revoke(off("carl"))).await;
    assert_eq!(
        what,
        "`carl` is no grant (g17), no address (it is not an IPv4 or IPv6 address) and nobody who is on a list"
    );
    assert_eq!(hint, "on the lists are CN=anna, CN=bert");
    let only = Revoke { list: Some("friends".into()), ..off("CN=anna") };
    let (ended, notes) = s.revoke(only).await;
    assert_eq!(ended, ["g1"]);
    assert!(notes.contains(&"198.51.100.1 stays on `friends`: CN=bert (mtls) is there too".to_string()), "{notes:?}");
    assert_eq!(s.everybody().len(), 2);
    assert_eq!(s.revoke(off("g2")).await.0, ["g2"]);
    let (what, hint) = s.refuses(ChangeGrants::Revoke(off("g2"))).await;
    assert_eq!(what, "there is no live grant g2");
    assert!(hint.contains("`portcullis audit` what became of g2"), "{hint}");
}

#[tokio::test]
async fn a_ban_keeps_proofs_out_until_somebody_ends_it() {
    let s = stage();
    s.proves("family", "198.51.100.1", Evidence::Mtls, Some("CN=anna")).await;
    let ban = |what: &str, ban| Revoke { ban: Some(ban), ..off(what) };
    let GrantsChanged::Revoked(r) = s.does(ChangeGrants::Revoke(ban("198.51.100.1", BanTime::Forever))).await else {
        panic!()
    };
    // On every list, since none was named.
    let banned: Vec<String> = r.banned.iter().map(|b| format!("{} {} {:?}", b.list, b.whom, b.until)).collect();
    let everywhere = vec!["family 198.51.100.1 None".to_string(), "friends 198.51.100.1 None".to_string()];
    assert_eq!((r.ended.len(), banned), (1, everywhere));
    let refused = Outcome::Rejected(Rejection::Banned);
    assert_eq!(s.proves("family", "198.51.100.1", Evidence::Mtls, Some("CN=anna")).await, refused);
    // Somebody who is on no list may be kept out ahead; a certificate's name is one too.
    s.does(ChangeGrants::Revoke(ban("CN=mallory", BanTime::Seconds(3_600)))).await;
    assert_eq!(s.proves("friends", "192.0.2.9", Evidence::Mtls, Some("CN=mallory")).await, refused);
    let GrantsChanged::Unbanned(u) = s.does(ChangeGrants::Unban(Unban { what: "CN=mallory".into(), list: None })).await
    else {
        panic!()
    };
    assert_eq!(u.unbanned.iter().map(|o| o.list.as_str()).collect::<Vec<_>>(), ["family", "friends"]);
    let unban = |what: &str| ChangeGrants::Unban(Unban { what: what.into(), list: None });
    let (what, hint) = s.refuses(unban("CN=mallory")).await;
    assert_eq!(what, "`CN=mallory` is not banned");
    assert_eq!(hint, "banned are 198.51.100.1 on `family`, 198.51.100.1 on `friends`");
    assert!(s.refuses(unban("dns:home.example.net")).await.0.contains("a host name proves nothing"));
    // Whoever lets him in by hand means it.
    let (_, notes) = s.add(on("family", "198.51.100.0/28")).await;
    assert_eq!(notes, ["the ban of 198.51.100.1 is over: a person let them in"]);
    assert!(matches!(s.proves("family", "198.51.100.1", Evidence::Mtls, None).await, Outcome::Given(_)));
    s.does(unban("198.51.100.1")).await;
    assert_eq!(s.refuses(unban("198.51.100.1")).await.1, "nobody is banned");
}

#[tokio::test]
async fn what_the_configuration_lets_in_is_named_and_stays() {
    let s = stage();
    let (what, hint) = s.refuses(ChangeGrants::Revoke(off("203.0.113.7"))).await;
    assert_eq!(what, "no live grant is meant by `203.0.113.7`");
    assert!(hint.contains("static entries are changed in the configuration"), "{hint}");
    s.add(on("family", "203.0.113.7")).await;
    let (_, notes) = s.revoke(off("203.0.113.7")).await;
    assert_eq!(notes, ["203.0.113.0/24 of the configuration is on `family` still: take it out there"]);
}

#[tokio::test]
async fn an_end_is_set_beside_what_proofs_gave() {
    let s = stage();
    s.proves("family", "198.51.100.1", Evidence::Mtls, Some("CN=anna")).await;
    let end = |s: &Stage| s.gate.ledger.grant("family", "198.51.100.1".parse().unwrap()).unwrap().ends_at();
    let by_proof = end(&s).unwrap();
    let GrantsChanged::Extended(e) = s.does(ChangeGrants::Extend(longer("198.51.100.1", Some(60)))).await else {
        panic!()
    };
    // A shorter end takes nothing from a proof, and that is said.
    assert_eq!((e.extended, end(&s)), (vec!["g1".to_string()], Some(by_proof)));
    assert!(
        e.notes[0].starts_with("198.51.100.1 stays in longer than that: CN=anna proved itself there by mtls"),
        "{:?}",
        e.notes
    );
    let short = Extend { shorten: true, ..longer("g1", Some(60)) };
    let GrantsChanged::Extended(e) = s.does(ChangeGrants::Extend(short)).await else { panic!() };
    assert!(
        end(&s).is_some_and(|t| t < by_proof) && e.notes[0].starts_with("the next proof gives its full time again")
    );
    s.does(ChangeGrants::Extend(longer("CN=anna", None))).await;
    assert_eq!(end(&s), None);
    let (what, hint) = s.refuses(ChangeGrants::Extend(longer("198.51.100.2", Some(60)))).await;
    assert!(what.contains("no live grant is meant") && hint.contains("grant add"), "{what}; {hint}");
    s.add(on("friends", "192.0.2.0/24")).await;
    let (what, _) = s.refuses(ChangeGrants::Extend(longer("192.0.2.9", Some(60)))).await;
    assert_eq!(what, "192.0.2.9 is let in by a wider grant, g2 (192.0.2.0/24) on `friends`; nothing was changed");
}

/// Waits for what has to happen.
async fn soon(what: &str, holds: impl Fn() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_configuration_takes_the_place_of_the_old_one() {
    let s = stage();
    s.add(on("friends", "198.51.100.7")).await;
    let file = |name: &str, list: &str| enforce::Config::File(FileConfig { list: list.into(), file: s.dir.join(name) });
    let read = |name: &str| std::fs::read_to_string(s.dir.join(name)).unwrap_or_default();
    let any = || Listen::Tcp("127.0.0.1:0".parse().unwrap());
    let serves = |below| Serves::Check { learn: Vec::new(), below };
    let next = GateSettings {
        enforcers: vec![file("a", "friends"), file("b", "family")],
        listeners: vec![(any(), serves(false))],
        ..s.settings.clone()
    };
    let applied = s.gate.apply(s.gate.prepare(next.clone()).unwrap()).await;
    assert_eq!(applied.changed.len(), 3, "{applied:?}");
    soon("both files", || read("a") == "198.51.100.7\n" && read("b") == "203.0.113.0/24\n").await;
    // The same again is nothing new.
    let applied = s.gate.apply(s.gate.prepare(next.clone()).unwrap()).await;
    assert_eq!((applied.changed.len(), applied.restart.len()), (0, 0), "{applied:?}");
    // One enforcer goes and keeps its last state, one listener serves something else, names are asked of another server.
    let less = GateSettings {
        enforcers: vec![file("b", "family")],
        listeners: vec![(any(), serves(true))],
        dns: super::names::Dns { servers: vec!["192.0.2.53:53".parse().unwrap()], ..next.dns.clone() },
        accept: BTreeSet::from([super::FindingId::Clock]),
        ..next.clone()
    };
    let applied = s.gate.apply(s.gate.prepare(less.clone()).unwrap()).await;
    assert!(applied.restart.is_empty(), "{applied:?}");
    let said = applied.changed.join("\n");
    for words in [
        "/a is no longer kept in sync and stays as it is",
        "serves check endpoint",
        "what doctor looks at",
        "name servers",
    ] {
        assert!(said.contains(words), "{words} in {said}");
    }
    s.revoke(off("198.51.100.7")).await;
    s.add(on("family", "192.0.2.1")).await;
    soon("the file that is left", || read("b") == "192.0.2.1\n203.0.113.0/24\n").await;
    assert_eq!(read("a"), "198.51.100.7\n", "nobody writes the other one any more");
    // What is somebody else's is refused before anything changes.
    std::fs::write(s.dir.join("c"), "Host *.example.com\n").unwrap();
    let foreign = GateSettings { enforcers: vec![file("c", "family")], ..less };
    let Err(e) = s.gate.prepare(foreign) else { panic!("it is not the gate's") };
    assert!(e.to_string().contains("is not the gate's to write"), "{e:#}");
    s.add(on("family", "192.0.2.9")).await;
    soon("it goes on", || read("b").contains("192.0.2.9")).await;
    assert_eq!(read("c"), "Host *.example.com\n");
}
