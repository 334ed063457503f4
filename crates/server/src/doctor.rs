//! What is wrong with a whole process. In: its components, each with a doctor of its own. Out: all findings, the worst
//! first.

use std::path::PathBuf;
use std::sync::Arc;

use ::api::{Finding, Findings, Part, Severity};
use control::Control;
use gate::Gate;
use runtime::doctor::{self as host, Symptom};
use runtime::lists::Lists;
use tokio::sync::watch;
use tunnel::edge::{self, EdgeHandle};

use crate::admin::Components;
use crate::config::{Config, Teach};
use crate::node_lists;

/// Looks at everything that runs in a process; clones look at the same.
#[derive(Clone)]
pub(crate) struct Doctor(Arc<Parts>);

struct Parts {
    data_dir: PathBuf,
    lists: Lists,
    edge: Option<EdgeHandle>,
    gate: Option<Gate>,
    control: Option<Control>,
    teach: watch::Receiver<Arc<[Teach]>>,
}

impl Doctor {
    /// For these components, started with this configuration.
    pub(crate) fn new(config: &Config, parts: &Components<'_>, teach: watch::Receiver<Arc<[Teach]>>) -> Doctor {
        Doctor(Arc::new(Parts {
            data_dir: config.data_dir.clone(),
            lists: parts.lists.clone(),
            edge: parts.edge.cloned(),
            gate: parts.gate.cloned(),
            control: parts.control.cloned(),
            teach,
        }))
    }

    /// Everything that is wrong.
    pub(crate) async fn findings(&self) -> Findings {
        let Parts { data_dir, lists, edge, gate, control, teach } = &*self.0;
        let mut found: Vec<Finding> = host::disk(data_dir).iter().map(Symptom::finding).collect();
        let mut accept = None;
        // The gate names its own list files among the rest, and its enforcers wait for no other component.
        let asked_gate = async {
            match gate {
                Some(gate) => Some(gate::doctor::doctor(gate).await),
                None => None,
            }
        };
        let asked_edge = async {
            match edge {
                Some(edge) => edge::doctor(edge).await,
                None => Vec::new(),
            }
        };
        let asked_control = async {
            match control {
                Some(control) => control::doctor(control).await,
                None => Vec::new(),
            }
        };
        let (of_gate, of_edge, of_control) = tokio::join!(asked_gate, asked_edge, asked_control);
        if let Some(of_gate) = of_gate {
            accept = of_gate.accept;
            found.extend(of_gate.found);
        }
        found.extend(of_edge);
        found.extend(of_control);
        found.extend(host::lists(lists).iter().map(Symptom::finding));
        if let Some(control) = control {
            let now = control.state.registry.now();
            let taught = teach.borrow().clone();
            found.extend(taught.iter().filter_map(|t| node_lists::nobody(&now, t)).map(teaches_nobody));
        }
        found.sort_by_key(|f| f.severity);
        Findings { found, accept }
    }
}

/// A list takes in nodes by names that stand for nobody.
fn teaches_nobody((list, names): (String, String)) -> Finding {
    Finding {
        part: Part::Control,
        severity: Severity::Warning,
        id: "teach".to_string(),
        what: format!("[[control.teach]] of the list `{list}`: {names} stands for no node now"),
        fix: "is the name right? `portcullis nodes list` and the policy's groups and tags have those there are"
            .to_string(),
        accepted: false,
    }
}
