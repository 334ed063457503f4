//! The wire, by example. In: every operation's request and answers as types. Out: `golden/api.json`, in which each of
//! them stands as JSON; what is read from there is the type again. A change of the format fails here:
//! `UPDATE_GOLDEN=1` writes the file anew, and the difference is what the changelog has to say.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails by panicking"
)]

use std::fmt::Debug;

use api::control::{self, RouteState};
use api::{AuditEvent, Call, Code, Error, Nothing, Request, Verdict, Written, clock, gate};
use serde_json::{Value, json};

/// Every operation's examples, in the order of the table.
struct Golden(Vec<Value>);

impl Golden {
    /// A request with its answers; each is read back from its JSON and is what it was.
    fn add<C>(&mut self, call: C, answers: &[C::Answer])
    where
        C: Call + Clone + PartialEq + Debug,
        C::Answer: Clone + PartialEq + Debug,
    {
        let line = serde_json::to_vec(&call.clone().into()).unwrap();
        assert_eq!(C::of(Request::read(&line).unwrap()), Some(call.clone()));
        let request: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(request["verb"], C::VERB);
        let replies: Vec<Value> = answers
            .iter()
            .map(|answer| {
                let line = String::from_utf8(api::write_reply(&Ok(answer.clone())).unwrap()).unwrap();
                assert_eq!(&api::read_reply::<C>(&line).unwrap().unwrap(), answer);
                serde_json::from_str(&line).unwrap()
            })
            .collect();
        self.0.push(json!({ "request": request, "answers": replies }));
    }
}

fn text<T: std::str::FromStr<Err: Debug>>(text: &str) -> T {
    text.parse().unwrap()
}

fn texts(all: &[&str]) -> Vec<String> {
    all.iter().map(|t| (*t).to_string()).collect()
}

fn some(text: &str) -> Option<String> {
    Some(text.to_string())
}

fn freshness(trouble: bool) -> api::Freshness {
    let trouble = trouble.then(|| api::Trouble { since: 30, why: "home.txt: not found".into(), retried: true });
    let stale = trouble.is_some().then(|| "the lists in force were read 20 s ago and may be out of date".into());
    api::Freshness { read_at: 20, trouble, stale }
}

fn claim(evidence: &str) -> gate::Claim {
    gate::Claim {
        principal: None,
        device: None,
        evidence: evidence.into(),
        proved_at: None,
        idle: None,
        until: None,
        pinned: false,
        superseded: None,
        places: None,
        ends_at: None,
    }
}

fn grant() -> gate::Grant {
    gate::Grant {
        id: 17,
        list: "family".into(),
        prefix: text("203.0.113.7"),
        given_at: 100,
        seen_at: 200,
        claim: gate::Claim {
            principal: some("CN=anna"),
            device: some("ab:cd"),
            evidence: "mtls".into(),
            proved_at: Some(190),
            idle: Some(600),
            until: Some(900),
            pinned: true,
            superseded: Some(text("198.51.100.0/24")),
            places: Some(2),
            ends_at: Some(800),
        },
        beside: vec![claim("share")],
    }
}

fn ban() -> gate::Ban {
    gate::Ban {
        id: 4,
        list: "family".into(),
        prefix: Some(text("2001:db8::/64")),
        name: None,
        since: 3,
        until: Some(9),
    }
}

fn behind() -> gate::Behind {
    let ended = gate::Ended {
        at: 50,
        list: "family".into(),
        prefix: text("203.0.113.8"),
        principal: None,
        evidence: "mtls".into(),
        what: AuditEvent::Evicted,
        by: "CN=ben".into(),
        neighbour: true,
    };
    let named = gate::Ban { prefix: None, name: some("CN=eve"), until: None, ..ban() };
    gate::Behind { grants: vec![grant()], ended: vec![ended], bans: vec![ban(), named] }
}

fn enforcer() -> gate::Enforcer {
    gate::Enforcer {
        name: "nginx deny.conf".into(),
        generation: 6,
        current: false,
        changes: 3,
        took_ms: 1.5,
        error: some("permission denied"),
        remark: None,
    }
}

fn findings(accept: Option<&str>) -> api::Findings {
    let finding = |id: &str, accepted| api::Finding {
        part: api::Part::Gate,
        severity: if accepted { api::Severity::Warning } else { api::Severity::Error },
        id: id.into(),
        what: "the store does not save".into(),
        fix: "make room".into(),
        accepted,
    };
    let found = vec![finding("store", false), finding("gateway", true)];
    api::Findings { found, accept: accept.map(str::to_string) }
}

fn local(golden: &mut Golden) {
    golden.add(api::Reload {}, &[api::Reloaded { reloaded: texts(&["lists: 2 lists, 7 entries"]) }]);
    let jump = clock::Jump { by: 7_200, believed_in: 540 };
    let now = clock::Clock { wall: 100, time: 101, floor: 90, jump: None };
    golden.add(clock::Show::default(), &[now, clock::Clock { jump: Some(jump), ..now }]);
    let done = clock::WasReset { from: 900, floor: 900, to: 100, words: "800 s earlier than before".into() };
    golden.add(
        clock::Reset::default(),
        &[Written { done: done.clone(), unsaved: None }, Written { done, unsaved: some("no space left on device") }],
    );
}

fn edge(golden: &mut Golden) {
    let answer = api::ListAnswer {
        list: some("family"),
        source: some("home.txt"),
        verdict: Verdict::Allow,
        entry: Some(text("203.0.113.0/24")),
        behind: behind(),
        text: "203.0.113.7 is allowed".into(),
        service: some("port:2222"),
        guard: some("port 2222 is guarded by `family`"),
    };
    let none = api::ListAnswer {
        list: None,
        source: None,
        verdict: Verdict::Refuse,
        entry: None,
        behind: gate::Behind::default(),
        text: "203.0.113.7 is refused".into(),
        service: None,
        guard: None,
    };
    golden.add(
        api::Explain { address: text("203.0.113.7"), service: some("port:2222") },
        &[api::Explained {
            address: text("203.0.113.7"),
            generation: 5,
            answers: vec![answer, none],
            files: freshness(true),
        }],
    );
    let list = api::ListContents {
        name: "family".into(),
        source: "home.txt".into(),
        entries: 2,
        first: vec![text("203.0.113.7"), text("2001:db8::/48")],
    };
    golden.add(
        api::Lists {},
        &[api::ListsInForce { generation: 5, inside: 1, lists: vec![list], files: freshness(false) }],
    );
    golden.add(api::Doctor {}, &[findings(None)]);
    let client = api::ClientStatus {
        client_id: "7f3a".into(),
        remote_addr: "203.0.113.9:40000".into(),
        since: "2026-11-28T14:00:00Z".into(),
        upstreams: texts(&["2222=127.0.0.1:22", "*=http://127.0.0.1:3000"]),
        hostname: "laptop".into(),
        version: "portcullis/0.1.0".into(),
        carriers: 2,
        bulk_idle: 1,
        streams: 3,
    };
    let info = api::EdgeInfo {
        version: "0.1.0".into(),
        sha: String::new(),
        mode: "http,tcp".into(),
        start_time: "2026-11-28T13:00:00Z".into(),
        hostname: "edge".into(),
    };
    golden.add(api::Status {}, &[api::EdgeStatus { info, clients: vec![client], list_generation: 5, visitors: 4 }]);
}

fn gate(golden: &mut Golden) {
    let list = gate::ListSummary {
        name: "family".into(),
        statics: 2,
        learnt: 3,
        generation: 6,
        max: Some(50),
        counted: 3,
        guests: 1,
        max_guests: None,
        evicted: 0,
        refused: 4,
        bans: 1,
        enforcers: vec![enforcer()],
    };
    golden.add(gate::Lists {}, &[gate::ListStates { generation: 7, lists: vec![list] }]);
    let name = gate::FollowedName {
        name: "dns:home.example".into(),
        until: Some(900),
        pinned: false,
        addresses: vec![text("203.0.113.7")],
        not_counting: texts(&["10.0.0.1 is private"]),
        good_at: Some(80),
        ask_at: None,
        failed: some("no such name"),
    };
    golden.add(
        gate::Show { list: some("family") },
        &[gate::ListState {
            name: "family".into(),
            generation: 6,
            now: 210,
            names: vec![name],
            statics: vec![text("192.0.2.0/24")],
            grants: vec![grant()],
            bans: vec![ban()],
            enforcers: vec![enforcer()],
        }],
    );
    let answer = gate::ListAnswer {
        list: "family".into(),
        verdict: Verdict::Refuse,
        text: "203.0.113.7 is refused".into(),
        behind: behind(),
    };
    golden.add(
        gate::Explain { address: text("203.0.113.7"), service: None },
        &[gate::Explained {
            address: text("203.0.113.7"),
            generation: 7,
            now: 210,
            answers: vec![answer],
            heard: texts(&["203.0.113.7 is no trusted proxy"]),
        }],
    );
    let log = gate::AuditLog { file: "/var/lib/portcullis/audit.jsonl".into(), lines: None, head: None };
    let checked = gate::AuditLog { lines: Some(12), head: some("5f70bf18"), ..log.clone() };
    golden.add(gate::Audit { verify: true }, &[log, checked]);
    golden.add(gate::Doctor {}, &[findings(Some("DOCTOR_ACCEPT="))]);
    grants(golden);
}

fn grants(golden: &mut Golden) {
    use gate::{BanTime, ChangeGrants, GrantsChanged};
    let add = ChangeGrants::Add(gate::Add {
        list: "family".into(),
        prefix: "203.0.113.7".into(),
        r#for: Some(3_600),
        principal: some("anna"),
        pinned: false,
        yes: false,
    });
    let added = gate::Added {
        grant: "g17, g18".into(),
        generation: 8,
        unsaved: None,
        until: Some(900),
        notes: texts(&["the ban of CN=eve is over"]),
    };
    let followed = gate::Followed {
        grant: "dns:home.example".into(),
        extended: texts(&["dns:home.example"]),
        addresses: vec![text("203.0.113.7")],
        failed: some("no answer yet"),
        until: None,
        notes: Vec::new(),
        generation: 8,
    };
    golden.add(add, &[GrantsChanged::Added(added), GrantsChanged::Followed(followed.clone())]);
    let revoke =
        |ban| ChangeGrants::Revoke(gate::Revoke { what: "g17".into(), list: None, ban, wider: true, within: false });
    let banned = gate::Banned { list: "family".into(), whom: "CN=anna".into(), until: None };
    let revoked = gate::Revoked {
        ended: texts(&["g17"]),
        banned: vec![banned],
        generation: 9,
        unsaved: some("no space left on device"),
        notes: Vec::new(),
    };
    let unfollowed = gate::Unfollowed { ended: texts(&["dns:home.example"]) };
    golden.add(revoke(Some(BanTime::Forever)), &[GrantsChanged::Revoked(revoked)]);
    golden.add(revoke(Some(BanTime::Seconds(60))), &[]);
    golden.add(revoke(None), &[GrantsChanged::Unfollowed(unfollowed)]);
    let on = gate::OnList { list: "family".into(), whom: "CN=anna".into() };
    golden.add(
        ChangeGrants::Unban(gate::Unban { what: "CN=anna".into(), list: some("family") }),
        &[GrantsChanged::Unbanned(gate::Unbanned { unbanned: vec![on], generation: 10, unsaved: None })],
    );
    let extended = gate::Extended {
        extended: texts(&["g17"]),
        until: Some(5_000),
        generation: 11,
        unsaved: None,
        notes: Vec::new(),
    };
    golden.add(
        ChangeGrants::Extend(gate::Extend { what: "203.0.113.7".into(), r#for: None, list: None, shorten: true }),
        &[GrantsChanged::Extended(extended), GrantsChanged::Followed(followed)],
    );
}

fn user() -> control::User {
    let email = "anna@example.com".into();
    control::User { id: 1, name: "anna".into(), email, role: some("owner"), created: 10 }
}

fn users(golden: &mut Golden) {
    let bare = control::User { id: 2, name: "ben".into(), email: String::new(), role: None, created: 11 };
    let list = vec![control::UserNodes { user: user(), nodes: 3 }, control::UserNodes { user: bare.clone(), nodes: 0 }];
    golden.add(control::UsersList {}, &[control::Users { users: list }]);
    golden.add(control::UsersCreate { name: "ben".into(), role: None }, std::slice::from_ref(&bare));
    golden.add(
        control::UsersRename { name: "ben".into(), new: "cem".into() },
        &[control::UserRenamed { user: bare.clone(), before: "ben".into(), policy: true }],
    );
    golden.add(
        control::UsersRole { name: "anna".into(), role: "owner".into() },
        &[control::UserRole { user: user(), owner_before: some("ben") }],
    );
    golden.add(
        control::UsersDelete { name: "ben".into() },
        &[Written { done: bare, unsaved: some("no space left on device") }],
    );
    let key = control::Key {
        id: 3,
        user: some("anna@example.com"),
        reusable: true,
        ephemeral: false,
        tags: texts(&["tag:web"]),
        created: 12,
        expires: Some(86_412),
        used: 1,
        revoked: false,
        state: control::KeyState::Good,
    };
    let old = control::Key {
        user: None,
        tags: Vec::new(),
        expires: None,
        revoked: true,
        state: control::KeyState::Revoked,
        ..key.clone()
    };
    golden.add(control::KeysList {}, &[control::Keys { keys: vec![key.clone(), old] }]);
    golden.add(
        control::KeysCreate {
            user: some("anna"),
            reusable: true,
            ephemeral: false,
            tags: texts(&["tag:web"]),
            expiry: Some(86_400),
        },
        &[control::KeyCreated { about: key, unknown_tags: texts(&["tag:web"]), key: "pck-00".into() }],
    );
    golden.add(
        control::KeysRevoke { id: 3 },
        &[Written { done: control::KeyRevoked { id: 3, revoked: true }, unsaved: None }],
    );
}

fn node() -> control::Node {
    let route = control::NodeRoute {
        prefix: text("198.51.100.7"),
        state: RouteState::Awaited,
        by_policy: false,
        primary: true,
    };
    control::Node {
        id: 5,
        name: "office".into(),
        full_name: "office.tail.example".into(),
        user: some("anna@example.com"),
        tags: texts(&["tag:web"]),
        belongs_to: "tag:web".into(),
        ipv4: text("100.64.0.5"),
        ipv6: text("fd7a:115c:a1e0::5"),
        online: true,
        expected: true,
        expired: false,
        expires: Some(900),
        created: 100,
        seen: 200,
        ephemeral: false,
        comes_from: Some(text("203.0.113.77")),
        os: "linux".into(),
        client: "1.94.0".into(),
        hostname: "office".into(),
        version: 132,
        endpoints: vec![text("203.0.113.77:41641")],
        relay: 0,
        machine: "mkey:00".into(),
        key: "nodekey:00".into(),
        routes: vec![route],
    }
}

fn nodes(golden: &mut Golden) {
    let waiting = control::Waiting {
        ticket: "t-1".into(),
        hostname: "phone".into(),
        os: "android".into(),
        machine: "mkey:01".into(),
        asks_tags: texts(&["tag:web"]),
        since: 100,
        until: 3_700,
    };
    let stranger = control::Node { user: None, expires: None, comes_from: None, ..node() };
    golden.add(control::NodesList {}, &[control::Nodes { nodes: vec![node(), stranger], waiting: vec![waiting] }]);
    let rest = json!({ "packet_filter_rules": null, "self_allowed_ips": ["100.64.0.5/32"] });
    let map = control::NodeMap { peers: texts(&["laptop"]), rest: rest.as_object().unwrap().clone() };
    golden.add(
        control::NodesShow { node: "office".into() },
        &[control::NodeDetails { node: node(), map: Some(map) }, control::NodeDetails { node: node(), map: None }],
    );
    let changed = control::NodeChanged {
        id: 5,
        name: "office".into(),
        ipv4: text("100.64.0.5"),
        ipv6: text("fd7a:115c:a1e0::5"),
        tags: Vec::new(),
        expires: None,
    };
    let written = Written { done: changed.clone(), unsaved: None };
    golden.add(control::NodesApprove { node: "t-1".into(), user: None }, std::slice::from_ref(&changed));
    golden.add(control::NodesRefuse { node: "t-1".into() }, &[Written { done: Nothing {}, unsaved: None }]);
    golden.add(control::NodesExpire { node: "office".into() }, std::slice::from_ref(&written));
    golden.add(control::NodesRename { node: "office".into(), name: "den".into() }, std::slice::from_ref(&changed));
    golden.add(
        control::NodesMove { node: "office".into(), user: "ben".into() },
        &[control::NodeMoved { node: changed.clone(), user: some("ben") }],
    );
    golden.add(
        control::NodesTag { node: "office".into(), tags: texts(&["tag:web"]) },
        &[control::NodeTagged { node: changed, unknown_tags: texts(&["tag:web"]) }],
    );
    golden.add(control::NodesDelete { node: "office".into() }, &[written]);
}

fn routes(golden: &mut Golden) {
    let states = [
        RouteState::Pending,
        RouteState::Approved,
        RouteState::Revoked,
        RouteState::Gone,
        RouteState::LeftOut,
        RouteState::Over,
        RouteState::Awaited,
        RouteState::LoggedOut,
    ];
    let route = |state| control::Route {
        node: "office".into(),
        id: 5,
        route: control::NodeRoute { prefix: text("198.51.100.0/24"), state, by_policy: true, primary: false },
        online: true,
        leaves_from: Some(text("203.0.113.77")),
    };
    golden.add(control::RoutesList {}, &[control::Routes { routes: states.map(route).to_vec() }]);
    golden.add(
        control::RoutesApprove { node: "office".into(), routes: texts(&["198.51.100.7/32", "exit"]) },
        &[control::RoutesApproved { node: "office".into(), not_offered: vec![text("198.51.100.7")] }],
    );
    golden.add(
        control::RoutesRevoke { node: "office".into(), routes: texts(&["exit"]) },
        &[Written { done: control::RoutesRevoked { node: "office".into() }, unsaved: None }],
    );
    let carrier = control::Carrier {
        route: text("198.51.100.0/24"),
        node: "office".into(),
        online: true,
        exit: false,
        leaves_from: None,
        users: texts(&["laptop"]),
    };
    let source = control::Source {
        address: Some(text("203.0.113.77")),
        private: false,
        node: "office".into(),
        carries: true,
        online: true,
        app: some("partner"),
    };
    let unapproved =
        control::Unapproved { route: text("0.0.0.0/0"), node: "office".into(), state: RouteState::LoggedOut };
    golden.add(
        control::RoutesCheck { address: text("198.51.100.7") },
        &[control::Reachability {
            address: text("198.51.100.7"),
            node: None,
            carriers: vec![carrier],
            leaves_from: vec![source.clone(), control::Source { address: None, app: None, ..source }],
            nobody: some("no approved route leads there"),
            not_approved: vec![unapproved],
        }],
    );
}

fn policy(golden: &mut Golden) {
    let text = r#"{ "acls": [] }"#;
    golden.add(
        control::PolicyGet {},
        &[control::PolicyText { policy: None }, control::PolicyText { policy: some(text) }],
    );
    golden.add(
        control::PolicyTopology { policy: some(text) },
        &[control::Network { topology: json!({ "nodes": [] }), policy: text.into(), stored: true }],
    );
    let change = control::Change {
        gained: true,
        who: texts(&["laptop"]),
        at: texts(&["office"]),
        what: texts(&["tcp:22"]),
        arrives: true,
    };
    golden.add(
        control::PolicySet { policy: text.into(), dry_run: true, strict: false },
        &[control::PolicyChange {
            changes: vec![change],
            more: 0,
            partial: false,
            in_force: false,
            tests: 1,
            unknown: texts(&["tests at 3:4: laptop -> office: laptop is not here"]),
            until_start_from: some("/etc/portcullis/policy.hujson"),
            notes: texts(&["4:2: this rule lets nobody in"]),
        }],
    );
}

fn names(golden: &mut Golden) {
    let record = control::Record { name: "db.tail.example".into(), r#type: "A".into(), value: "100.64.0.9".into() };
    golden.add(
        control::DnsGet {},
        &[control::Dns {
            domain: "tail.example".into(),
            nameservers: texts(&["9.9.9.9"]),
            search: texts(&["corp.example"]),
            split: [("corp.example".to_string(), texts(&["10.0.0.53"]))].into(),
            records: vec![record.clone(), control::Record { r#type: String::new(), ..record }],
        }],
    );
    golden.add(
        control::DnsSet {
            nameservers: Some(Vec::new()),
            search: Some(texts(&["corp.example"])),
            split: Some(control::Split { domain: "corp.example".into(), servers: texts(&["10.0.0.53"]) }),
            record: Some(control::NewRecord { name: "db".into(), value: "100.64.0.9".into() }),
            remove_record: some("old"),
        },
        &[Nothing {}],
    );
    let pinned = || vec![text("192.0.2.0/24")];
    let app = control::App {
        name: "partner".into(),
        domains: texts(&["*.partner.example"]),
        pinned: pinned(),
        connectors: texts(&["office"]),
        addresses: 1,
    };
    golden.add(control::AppsList {}, &[control::Apps { apps: vec![app] }]);
    let learned = control::LearnedAddress {
        domain: "api.partner.example".into(),
        address: text("198.51.100.9"),
        since: 10,
        seen: 20,
        gone: false,
        over: false,
        until: Some(900),
        connector: "office".into(),
    };
    golden.add(
        control::AppsShow { name: "partner".into() },
        &[control::AppDetails {
            name: "partner".into(),
            domains: texts(&["*.partner.example"]),
            pinned: pinned(),
            connectors: texts(&["office"]),
            learnt: vec![learned],
        }],
    );
    golden.add(
        control::Status {},
        &[control::ServerStatus {
            url: "https://net.example".into(),
            nodes: 5,
            online: 4,
            streams: 4,
            users: 2,
            policy: true,
            generation: 9,
            waiting: 1,
        }],
    );
}

#[test]
fn the_wire_is_what_it_was() {
    let mut golden = Golden(Vec::new());
    local(&mut golden);
    edge(&mut golden);
    gate(&mut golden);
    users(&mut golden);
    nodes(&mut golden);
    routes(&mut golden);
    policy(&mut golden);
    names(&mut golden);
    for verb in api::VERBS {
        assert!(golden.0.iter().any(|e| e["request"]["verb"] == *verb), "`{verb}` has no example");
    }
    let errors: Vec<Value> = [Code::BadRequest, Code::UnknownVerb, Code::Refused, Code::Failed]
        .map(|code| {
            let error = Error { what: "there is no list `x`".into(), hint: some("the lists are family"), code };
            let line = String::from_utf8(api::write_reply::<Nothing>(&Err(error.clone())).unwrap()).unwrap();
            assert_eq!(api::read_reply::<api::Reload>(&line).unwrap(), Err(error));
            serde_json::from_str(&line).unwrap()
        })
        .to_vec();
    let got = serde_json::to_string_pretty(&json!({ "calls": golden.0, "errors": errors })).unwrap() + "\n";
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/api.json");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, &got).unwrap();
    }
    let want = std::fs::read_to_string(&file).unwrap_or_default();
    for (n, (got, want)) in got.lines().zip(want.lines()).enumerate() {
        assert_eq!(got, want, "{}:{}", file.display(), n + 1);
    }
    assert_eq!(got.lines().count(), want.lines().count());
}

/// What commands of the version before say.
#[test]
fn requests_of_the_version_before_are_understood() {
    for (line, want) in [
        (r#"{"verb":"users-list","args":null}"#, Request::from(control::UsersList {})),
        (r#"{"verb":"users-list"}"#, control::UsersList {}.into()),
        (r#"{"verb":"users-create","args":{"name":"ada","role":null}}"#, {
            control::UsersCreate { name: "ada".into(), role: None }.into()
        }),
        (
            r#"{"verb":"gate-grant","args":{"act":"revoke","what":"g1","list":null,"ban":null,"wider":false,"within":false}}"#,
            {
                gate::ChangeGrants::Revoke(gate::Revoke {
                    what: "g1".into(),
                    list: None,
                    ban: None,
                    wider: false,
                    within: false,
                })
                .into()
            },
        ),
        (r#"{"verb":"dns-set","args":{"remove_record":"db"}}"#, {
            control::DnsSet { remove_record: some("db"), ..control::DnsSet::default() }.into()
        }),
    ] {
        assert_eq!(Request::read(line.as_bytes()).unwrap(), want, "{line}");
    }
}

#[test]
fn what_is_not_understood_is_refused_and_named() {
    for (line, code, names) in [
        ("", Code::BadRequest, "one line of JSON"),
        ("[]", Code::BadRequest, "one line of JSON"),
        (r#"{"args":{}}"#, Code::BadRequest, "`verb`"),
        (r#"{"verb":"users-paint"}"#, Code::UnknownVerb, "users-paint"),
        (r#"{"verb":"users-create"}"#, Code::BadRequest, "`name`"),
        (r#"{"verb":"users-create","args":{"name":7}}"#, Code::BadRequest, "users-create"),
        // An intention that is not understood must not be carried out in part.
        (r#"{"verb":"policy-set","args":{"policy":"{}","dryrun":true}}"#, Code::BadRequest, "dryrun"),
        (
            r#"{"verb":"gate-grant","args":{"act":"add","list":"a","prefix":"::/0","until":5}}"#,
            Code::BadRequest,
            "until",
        ),
        (r#"{"verb":"gate-grant","args":{"act":"revoke","what":"a","ban":false}}"#, Code::BadRequest, "ban"),
        (r#"{"verb":"explain","args":{"address":"203.0.113"}}"#, Code::BadRequest, "203.0.113"),
        (r#"{"verb":"users-list","args":[]}"#, Code::BadRequest, "users-list"),
        (r#"{"verb":"users-list","args":{"a":1}}"#, Code::BadRequest, "`a`"),
    ] {
        let error = Request::read(line.as_bytes()).unwrap_err();
        assert_eq!(error.code, code, "{line}: {error}");
        assert!(error.what.contains(names), "{line}: {error}");
    }
}

/// Errors of the version before carry no code, those of a later one perhaps a new one.
#[test]
fn errors_of_other_versions_are_read() {
    for line in [r#"{"error":"no"}"#, r#"{"error":"no","code":"on-fire"}"#] {
        let error = api::read_reply::<api::Reload>(line).unwrap().unwrap_err();
        assert_eq!(error, Error::new(Code::Failed, "no"), "{line}");
    }
    assert!(api::read_reply::<api::Reload>(r#"{"ok":{"reload":[]}}"#).is_err());
    // What a newer process adds is no matter.
    let later = r#"{"ok":{"reloaded":[],"more":1}}"#;
    assert!(api::read_reply::<api::Reload>(later).unwrap().is_ok());
}
