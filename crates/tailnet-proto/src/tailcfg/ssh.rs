//! Who may log in at a node, as the control protocol sends it (`SSHPolicy` of tailcfg, the public client source). In:
//! rules that `decide` made for one node, or bytes of a map response. Out: the JSON that a client's SSH server reads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Rules for logins at one node; the first that matches decides, and without a match nobody gets in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshPolicy {
    /// In the order in which they are tried.
    #[serde(default)]
    pub rules: Vec<SshRule>,
}

/// One rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SshRule {
    /// Who may; one match is enough.
    #[serde(default)]
    pub principals: Vec<SshPrincipal>,
    /// Name that is asked for (`*` for any other) to name on the machine: `=` is the same name, the empty text nobody.
    #[serde(default)]
    pub ssh_users: BTreeMap<String, String>,
    /// What happens then.
    #[serde(default)]
    pub action: Option<SshAction>,
    /// Environment variables that may be sent; `*` and `?` stand for others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accept_env: Vec<String>,
}

/// Somebody who may log in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SshPrincipal {
    /// An address of a node.
    #[serde(rename = "nodeIP", default, skip_serializing_if = "String::is_empty")]
    pub node_ip: String,
    /// True for everybody.
    #[serde(default, skip_serializing_if = "is_false")]
    pub any: bool,
}

/// What happens to a login. Also the answer to a client that asks the URL of `hold_and_delegate`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SshAction {
    /// Shown to the person before it happens.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Refused; counts for more than `accept`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub reject: bool,
    /// Let in.
    #[serde(default, skip_serializing_if = "is_false")]
    pub accept: bool,
    /// Nanoseconds that the session may last; 0 for no limit.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub session_duration: i64,
    /// The session may forward an agent.
    #[serde(default, skip_serializing_if = "is_false")]
    pub allow_agent_forwarding: bool,
    /// A URL of the control server that answers with the next action as soon as there is one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hold_and_delegate: String,
    /// The session may open connections from the machine.
    #[serde(default, skip_serializing_if = "is_false")]
    pub allow_local_port_forwarding: bool,
    /// The session may open ports on the machine.
    #[serde(default, skip_serializing_if = "is_false")]
    pub allow_remote_port_forwarding: bool,
    /// `ADDRESS:PORT` of machines that record the session, the first one first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub recorders: Vec<String>,
    /// What happens when recording fails; without it the session goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_recording_failure: Option<SshRecorderFailureAction>,
}

/// What happens when a session cannot be recorded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SshRecorderFailureAction {
    /// If not empty, the session is refused with these words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reject_session_with_message: String,
    /// If not empty, a session under way is ended with these words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub terminate_session_with_message: String,
}

impl SshAction {
    /// Let in, with everything that a session may do.
    #[must_use]
    pub fn accept() -> SshAction {
        SshAction {
            accept: true,
            allow_agent_forwarding: true,
            allow_local_port_forwarding: true,
            allow_remote_port_forwarding: true,
            ..SshAction::default()
        }
    }

    /// Refused with a word to the person.
    #[must_use]
    pub fn reject(message: &str) -> SshAction {
        SshAction { reject: true, message: message.to_string(), ..SshAction::default() }
    }

    /// The control server is asked, which answers once the person has proved who they are. In `url` the client puts
    /// `$SRC_NODE_IP`, `$SRC_NODE_ID`, `$DST_NODE_IP`, `$DST_NODE_ID`, `$SSH_USER` and `$LOCAL_USER`.
    #[must_use]
    pub fn check(url: &str) -> SshAction {
        SshAction { hold_and_delegate: url.to_string(), ..SshAction::default() }
    }
}

fn is_false(b: &bool) -> bool {
    !*b
}

fn is_zero(n: &i64) -> bool {
    *n == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_protocols() {
        let policy = SshPolicy {
            rules: vec![SshRule {
                principals: vec![SshPrincipal { node_ip: "100.64.0.1".into(), any: false }],
                ssh_users: BTreeMap::from([("*".into(), "=".into()), ("root".into(), String::new())]),
                action: Some(SshAction::check("https://c.example/$SRC_NODE_ID")),
                accept_env: vec!["LC_*".into()],
            }],
        };
        let text = r#"{"rules":[{"principals":[{"nodeIP":"100.64.0.1"}],"sshUsers":{"*":"=","root":""},"action":{"holdAndDelegate":"https://c.example/$SRC_NODE_ID"},"acceptEnv":["LC_*"]}]}"#;
        assert_eq!(serde_json::to_string(&policy).unwrap(), text);
        assert_eq!(serde_json::from_str::<SshPolicy>(text).unwrap(), policy);
        assert_eq!(
            serde_json::to_string(&SshAction::accept()).unwrap(),
            r#"{"accept":true,"allowAgentForwarding":true,"allowLocalPortForwarding":true,"allowRemotePortForwarding":true}"#
        );
    }
}
