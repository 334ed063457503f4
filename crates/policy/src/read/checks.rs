//! SSH rules and what a policy promises of itself: its tests. In: parts of a document. Out: the language's values; what is wrong is
//! kept with its place.

use crate::hujson::{Item, Json, clip};
use crate::language::*;
use crate::posture::{self, Condition};
use crate::who::{self, Who};
use std::collections::BTreeMap;

use super::text::duration;
use super::*;

impl Reader<'_> {
    pub(super) fn ssh(&mut self, item: &Item) -> Option<Ssh> {
        self.object(item)?;
        let mut s = Ssh {
            pos: self.lines.pos(item.at),
            check: false,
            src: vec![],
            dst: vec![],
            users: vec![],
            check_period: None,
            accept_env: vec![],
            posture: vec![],
            recorder: vec![],
            enforce_recorder: false,
        };
        let mut action = None;
        let known =
            ["action", "src", "dst", "users", "checkPeriod", "acceptEnv", "srcPosture", "recorder", "enforceRecorder"];
        let mut period = None;
        for (name, v) in self.fields(item, "a rule of ssh", &known) {
            match name {
                "action" => action = self.text(v).map(|t| t.trim().to_string()),
                "src" => s.src = self.whos(v, "sources"),
                "dst" => s.dst = self.whos(v, "destinations"),
                "users" => s.users = self.texts(v, "login names"),
                "checkPeriod" => {
                    period = Some(v.at);
                    s.check_period = self.via(v, duration).filter(|d| self.check_period(v, *d));
                }
                "acceptEnv" => {
                    for i in self.items(v, "variables") {
                        match self.text(i) {
                            Some("") => self.fault(i.at, "a variable under acceptEnv may not be empty"),
                            Some(t) => s.accept_env.push(t.to_string()),
                            None => {}
                        }
                    }
                }
                "srcPosture" => s.posture = self.texts(v, "postures"),
                "recorder" => s.recorder = self.texts(v, "tags"),
                _ => s.enforce_recorder = self.bool(v),
            }
        }
        match action.as_deref() {
            Some("accept") => {}
            Some("check") => s.check = true,
            Some("") | None => self.fault_hint(item.at, "this rule has no `action`", "write `accept` or `check`"),
            Some(other) => {
                self.fault(item.at, format!("`{}` is no action of SSH; `accept` and `check` are", clip(other)))
            }
        }
        if let (Some(at), false) = (period, s.check) {
            self.fault(at, "`checkPeriod` belongs to rules with the action `check` only");
        }
        Some(s)
    }

    pub(super) fn check_period(&mut self, item: &Item, seconds: u64) -> bool {
        if seconds > MAX_CHECK_PERIOD {
            self.fault(item.at, "`checkPeriod` may be 168h at most");
        }
        seconds <= MAX_CHECK_PERIOD
    }

    pub(super) fn condition(&mut self, item: &Item) -> Option<Condition> {
        self.via(item, posture::read_condition)
    }

    pub(super) fn test(&mut self, item: &Item) -> Option<Test> {
        self.object(item)?;
        let (mut src, mut posture, mut accept, mut deny) = (None, BTreeMap::new(), vec![], vec![]);
        let known = ["src", "proto", "srcPostureAttrs", "accept", "deny", "user", "allow"];
        let fields = self.fields(item, "a test", &known);
        // What a port may be depends on the protocol, wherever it stands.
        let proto = fields.iter().find(|(name, _)| *name == "proto").and_then(|(_, v)| self.test_proto(v));
        for (name, v) in fields {
            match name {
                "src" | "user" => src = self.who(v).map(|w| self.at(v, w)),
                "proto" => {}
                "srcPostureAttrs" => posture = self.attributes(v),
                "accept" | "allow" => {
                    accept = self.list(v, "destinations", |r, i| r.via(i, |t| who::read_test_place(t, proto)));
                }
                _ => deny = self.list(v, "destinations", |r, i| r.via(i, |t| who::read_test_place(t, proto))),
            }
        }
        let empty =
            !self.has_content(item, "accept") && !self.has_content(item, "allow") && !self.has_content(item, "deny");
        if empty {
            self.fault_hint(item.at, "this test asks for nothing", "give it `accept` or `deny`, or both");
        }
        let Some(src) = src else {
            if !self.has_content(item, "src") && !self.has_content(item, "user") {
                self.fault(item.at, "this test has no `src`");
            }
            return None;
        };
        Some(Test { pos: self.lines.pos(item.at), src, proto, posture, accept, deny })
    }

    pub(super) fn test_proto(&mut self, item: &Item) -> who::Proto {
        let proto = self.via(item, |t| who::read_proto(&t.to_ascii_lowercase())).flatten();
        if !who::has_ports(proto) && !matches!(proto, Some(1 | 58)) {
            self.fault(item.at, "a test speaks tcp, udp, sctp or icmp, or leaves `proto` out");
            return None;
        }
        proto
    }

    /// Posture attributes: text, number, or true and false.
    pub(crate) fn attributes(&mut self, item: &Item) -> BTreeMap<String, posture::Value> {
        let mut out = BTreeMap::new();
        for m in self.object(item).unwrap_or_default() {
            let value = match &m.item.value {
                Json::Text(t) => posture::Value::Text(t.clone()),
                Json::Bool(b) => posture::Value::Bool(*b),
                Json::Number(n) => posture::Value::Number(n.parse().unwrap_or_default()),
                _ => {
                    self.wrong::<()>(&m.item, "a text, a number, true or false");
                    continue;
                }
            };
            out.insert(m.key.clone(), value);
        }
        out
    }

    pub(super) fn ssh_test(&mut self, item: &Item) -> Option<SshTest> {
        self.object(item)?;
        let mut src = None;
        let mut t = SshTest {
            pos: self.lines.pos(item.at),
            src: self.at(item, Who::Any),
            dst: vec![],
            posture: BTreeMap::new(),
            accept: vec![],
            deny: vec![],
            check: vec![],
        };
        let names = |r: &mut Self, v: &Item| r.texts(v, "login names").into_iter().map(|t| t.it).collect();
        for (name, v) in self.fields(item, "an SSH test", &["src", "dst", "accept", "deny", "check", "srcPostureAttrs"])
        {
            match name {
                "src" => src = self.who(v).map(|w| self.at(v, w)),
                "dst" => t.dst = self.whos(v, "destinations"),
                "accept" => t.accept = names(self, v),
                "deny" => t.deny = names(self, v),
                "check" => t.check = names(self, v),
                _ => t.posture = self.attributes(v),
            }
        }
        if !self.has_content(item, "dst") {
            self.fault(item.at, "this SSH test has no `dst`");
        }
        if !["accept", "deny", "check"].iter().any(|k| self.has_content(item, k)) {
            self.fault(item.at, "this SSH test asks for nothing: give it `accept`, `deny` or `check`");
        }
        match src {
            Some(src) => Some(SshTest { src, ..t }),
            None => {
                if !self.has_content(item, "src") {
                    self.fault(item.at, "this SSH test has no `src`");
                }
                None
            }
        }
    }
}
