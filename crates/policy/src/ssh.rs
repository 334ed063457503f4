//! Who may log in where by SSH. In: the rules of section `ssh` and who exists. Out: for one pair and a login name, yes,
//! no or after a check; for one node, the rules that its SSH server is told.

use std::collections::BTreeMap;

use tailnet_proto::tailcfg::ssh::{SshAction, SshPolicy, SshPrincipal, SshRecorderFailureAction, SshRule};

use super::compile::Compiled;
use super::language::Ssh;
use super::posture::Value;
use super::resolve::fits;
use super::topology::Node;
use super::who::Who;

/// Seconds that a check lasts where a rule does not say (public documentation of SSH rules, `checkPeriod`).
const CHECK_PERIOD: u64 = 12 * 3600;

/// What a person reads whose session cannot be recorded and must be.
const MUST_RECORD: &str = "this session must be recorded, and no recorder can be reached";

/// The port on which the field's recorders take sessions (public documentation of session recording).
const RECORDER_PORT: u16 = 80;

impl Compiled {
    /// Whether `from` may log in at `to` under this name: by any rule, and by one that asks for a check.
    #[must_use]
    pub fn ssh(&self, from: usize, to: usize, login: &str) -> (bool, bool) {
        self.ssh_as(from, to, login, None)
    }

    /// The same; attributes, if given, decide about postures.
    pub(crate) fn ssh_as(
        &self,
        from: usize,
        to: usize,
        login: &str,
        attributes: Option<&BTreeMap<String, Value>>,
    ) -> (bool, bool) {
        let (mut let_in, mut checked) = (false, false);
        for rule in self.ssh_rules(from, to, login, attributes) {
            let_in = true;
            checked |= rule.check;
        }
        (let_in, checked)
    }

    /// Seconds that the check lasts which `from` must pass to log in at `to` under this name: the shortest that a
    /// matching rule asks for, 0 for one at every login. `None` if no rule asks for a check.
    #[must_use]
    pub fn ssh_check_period(&self, from: usize, to: usize, login: &str) -> Option<u64> {
        let checks = self.ssh_rules(from, to, login, None).filter(|r| r.check);
        checks.map(|r| r.check_period.unwrap_or(CHECK_PERIOD)).min()
    }

    fn ssh_rules<'s>(
        &'s self,
        from: usize,
        to: usize,
        login: &'s str,
        attributes: Option<&'s BTreeMap<String, Value>>,
    ) -> impl Iterator<Item = &'s Ssh> {
        let nodes = &self.topology().nodes;
        let pair = nodes.get(from).zip(nodes.get(to));
        let matches = move |rule: &&Ssh| {
            pair.is_some_and(|(from, to)| {
                self.ssh_src(rule, from, attributes) && self.ssh_dst(rule, from, to) && self.login(rule, from, login)
            })
        };
        self.policy().ssh.iter().filter(matches)
    }

    fn ssh_src(&self, rule: &Ssh, from: &Node, attributes: Option<&BTreeMap<String, Value>>) -> bool {
        let known = attributes.unwrap_or(&from.posture);
        let fit = rule.posture.is_empty() || rule.posture.iter().any(|p| fits(self.policy(), &p.it, known));
        fit && rule.src.iter().any(|s| self.is(&s.it, from))
    }

    fn ssh_dst(&self, rule: &Ssh, from: &Node, to: &Node) -> bool {
        rule.dst.iter().any(|d| match &d.it {
            Who::Own => to.owner().is_some() && from.owner() == to.owner(),
            who => self.is(who, to),
        })
    }

    fn is(&self, who: &Who, node: &Node) -> bool {
        self.resolver.members(who).is_some_and(|m| m.has(node))
    }

    fn login(&self, rule: &Ssh, from: &Node, login: &str) -> bool {
        let local = self.local_part(rule, from);
        let names = |name: &str| match name {
            "autogroup:nonroot" => login != "root",
            name => name == login && !name.starts_with("localpart:"),
        };
        !login.is_empty() && (local == Some(login) || rule.users.iter().any(|u| names(&u.it)))
    }

    /// The part before `@` of the address of a node's user, if the rule lets it be a login name.
    fn local_part<'s>(&'s self, rule: &Ssh, node: &Node) -> Option<&'s str> {
        let user = self.topology().users.get(node.owner()?)?;
        let (local, domain) = user.email.rsplit_once('@')?;
        let named = |u: &str| u.strip_prefix("localpart:*@").is_some_and(|d| d.eq_ignore_ascii_case(domain));
        rule.users.iter().any(|u| named(&u.it)).then_some(local)
    }

    /// What a node's SSH server is told, checks first: of two rules that match, the stricter one decides. `check_url` is
    /// where the control server answers about checks, see [`SshAction::check`].
    #[must_use]
    pub fn ssh_policy(&self, node: usize, check_url: &str) -> SshPolicy {
        let mut rules = Vec::new();
        let Some(to) = self.topology().nodes.get(node) else { return SshPolicy::default() };
        for check in [true, false] {
            for rule in self.policy().ssh.iter().filter(|r| r.check == check) {
                self.ssh_rules_at(rule, to, check_url, &mut rules);
            }
        }
        SshPolicy { rules }
    }

    /// One rule as a node hears it: once for everybody, and once for each source with a login name of its own.
    fn ssh_rules_at(&self, rule: &Ssh, to: &Node, check_url: &str, out: &mut Vec<SshRule>) {
        // Where nobody is meant by the destination, the sources need no look.
        if !rule.dst.iter().any(|d| d.it == Who::Own || self.is(&d.it, to)) {
            return;
        }
        let recorders = self.recorders(rule);
        let enforced = rule.enforce_recorder && !rule.recorder.is_empty();
        // A client without recorders records nothing, so nobody may be let in to it.
        let action = match (enforced && recorders.is_empty(), rule.check) {
            (true, _) => SshAction::reject(MUST_RECORD),
            (false, true) => SshAction::check(check_url),
            (false, false) => SshAction::accept(),
        };
        let action = SshAction { recorders, on_recording_failure: enforced.then(must_record), ..action };
        let mut everybody = Vec::new();
        let mut by_login: BTreeMap<&str, Vec<SshPrincipal>> = BTreeMap::new();
        for from in &self.topology().nodes {
            if !self.ssh_src(rule, from, None) || !self.ssh_dst(rule, from, to) {
                continue;
            }
            let addrs = || from.addrs().map(|a| SshPrincipal { node_ip: a.to_string(), any: false });
            everybody.extend(addrs());
            if let Some(login) = self.local_part(rule, from) {
                by_login.entry(login).or_default().extend(addrs());
            }
        }
        let mut add = |principals: Vec<SshPrincipal>, ssh_users: BTreeMap<String, String>| {
            if !principals.is_empty() && ssh_users.values().any(|u| !u.is_empty()) {
                let (action, accept_env) = (Some(action.clone()), rule.accept_env.clone());
                out.push(SshRule { principals, ssh_users, action, accept_env });
            }
        };
        add(everybody, logins(rule));
        for (login, principals) in by_login {
            add(principals, BTreeMap::from([(login.to_string(), login.to_string())]));
        }
    }

    /// Where sessions under a rule are recorded: the nodes with the tag, lowest address first.
    fn recorders(&self, rule: &Ssh) -> Vec<String> {
        let nodes = rule.recorder.iter().flat_map(|t| self.resolver.tagged(&t.it));
        let nodes = nodes.filter_map(|n| self.topology().nodes.get(*n));
        let mut addrs: Vec<addr::Addr> = nodes.flat_map(|n| n.addrs()).collect();
        addrs.sort();
        addrs.dedup();
        addrs.into_iter().map(|a| std::net::SocketAddr::new(a.ip(), RECORDER_PORT).to_string()).collect()
    }
}

/// Login names of a rule, without those that differ from source to source. `root` is named in any case: where it is not
/// meant, it must not be met by `*`.
fn logins(rule: &Ssh) -> BTreeMap<String, String> {
    let mut out = BTreeMap::from([("root".to_string(), String::new())]);
    for user in rule.users.iter().map(|u| u.it.as_str()).filter(|u| !u.starts_with("localpart:")) {
        match user {
            "autogroup:nonroot" => out.insert("*".to_string(), "=".to_string()),
            name => out.insert(name.to_string(), name.to_string()),
        };
    }
    out
}

fn must_record() -> SshRecorderFailureAction {
    let words = MUST_RECORD.to_string();
    SshRecorderFailureAction { reject_session_with_message: words.clone(), terminate_session_with_message: words }
}

#[cfg(test)]
mod tests {
    use super::super::{Policy, Topology};
    use super::*;

    const NODES: &str = r#"{"users": [{"id": 1, "name": "ada", "email": "ada@example.com"}, {"id": 2, "name": "ben", "email": "ben@example.org"}],
        "nodes": {"a": {"user": "ada", "ipv4": "100.64.0.1", "posture": {"node:os": "macos"}}, "a2": {"user": "ada", "ipv4": "100.64.0.2"},
                  "b": {"user": "ben", "ipv4": "100.64.0.3", "ipv6": "fd7a::3"},
                  "rec": {"tags": ["tag:rec"], "ipv4": "100.64.0.9", "ipv6": "fd7a::9"}, "web": {"tags": ["tag:web"], "ipv4": "100.64.0.8"}}}"#;

    fn compiled(rules: &str) -> Compiled {
        let text = format!(
            r#"{{"tagOwners": {{"tag:web": [], "tag:rec": []}}, "postures": {{"posture:mac": ["node:os == 'macos'"]}}, "ssh": [{rules}]}}"#
        );
        Compiled::new(Policy::parse(&text).unwrap().into(), Topology::read(NODES).unwrap().into())
    }

    /// Who gets in by the rules that a node is told, as its SSH server reads them: the first match decides.
    fn told(policy: &SshPolicy, addr: &str, login: &str) -> Option<bool> {
        let rule = policy.rules.iter().find(|r| {
            let to = r.ssh_users.get(login).or_else(|| r.ssh_users.get("*"));
            r.principals.iter().any(|p| p.node_ip == addr) && to.is_some_and(|t| !t.is_empty())
        })?;
        Some(!rule.action.as_ref().unwrap().hold_and_delegate.is_empty())
    }

    #[test]
    fn what_a_node_is_told_is_what_the_rules_say() {
        let c = compiled(
            r#"{"action": "accept", "src": ["autogroup:member"], "dst": ["tag:web"], "users": ["autogroup:nonroot", "localpart:*@example.com"]},
               {"action": "check", "src": ["ada@example.com"], "dst": ["tag:web", "autogroup:self"], "users": ["root"], "checkPeriod": "30m"},
               {"action": "check", "src": ["autogroup:member"], "dst": ["autogroup:self"], "users": ["deploy", "ada"]},
               {"action": "accept", "src": ["ben@example.org"], "dst": ["tag:rec"], "users": ["localpart:*@example.com", "ops"]},
               {"action": "accept", "src": ["ada@example.com"], "dst": ["tag:rec"], "users": ["autogroup:nonroot"], "srcPosture": ["posture:mac"]}"#,
        );
        let nodes = c.topology().nodes.clone();
        for (to, _) in nodes.iter().enumerate() {
            let policy = c.ssh_policy(to, "https://control.example/check");
            for (from, source) in nodes.iter().enumerate() {
                for login in ["root", "ada", "ben", "deploy", "ops", "anybody"] {
                    let (let_in, checked) = c.ssh(from, to, login);
                    let want = let_in.then_some(checked);
                    for addr in source.addrs() {
                        let at = format!("{} -> {login}@{}", source.name, nodes[to].name);
                        assert_eq!(told(&policy, &addr.to_string(), login), want, "{at}");
                    }
                    assert_eq!(c.ssh_check_period(from, to, login).is_some(), checked);
                }
            }
        }
        let place = |n: &str| c.topology().node(n).unwrap();
        assert_eq!(c.ssh_check_period(place("a"), place("web"), "root"), Some(1800));
        assert_eq!(c.ssh_check_period(place("a"), place("a2"), "deploy"), Some(CHECK_PERIOD));
        assert_eq!(c.ssh(place("a"), place("rec"), "x"), (true, false), "its posture fits");
        assert_eq!(c.ssh(place("a2"), place("rec"), "x"), (false, false), "nothing is known of its posture");
        assert!(c.ssh_policy(99, "").rules.is_empty());
    }

    #[test]
    fn what_must_be_recorded_is_not_let_through_without() {
        let c = compiled(
            r#"{"action": "accept", "src": ["autogroup:member"], "dst": ["tag:web"], "users": ["root"], "recorder": ["tag:rec"], "enforceRecorder": true, "acceptEnv": ["LC_*"]}"#,
        );
        let rule = c.ssh_policy(c.topology().node("web").unwrap(), "").rules.remove(0);
        let action = rule.action.unwrap();
        assert_eq!(action.recorders, ["100.64.0.9:80", "[fd7a::9]:80"]);
        assert!(!action.on_recording_failure.unwrap().reject_session_with_message.is_empty());
        assert_eq!(rule.accept_env, ["LC_*"]);
        let without = c.without_node("rec");
        let rule = without.ssh_policy(without.topology().node("web").unwrap(), "").rules.remove(0);
        assert!(rule.action.unwrap().reject, "nobody is there to record");
    }
}
