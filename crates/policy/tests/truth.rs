//! Captures of the hosted service: for each policy the verdict and, per node, packet filter, peers, allowed addresses,
//! capabilities. They lie outside of the repository; where they are absent, one line says so.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on fails by panicking"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use policy::{Compiled, Policy, Topology};
use serde_json::Value;

/// Fields of a capture that cannot be right for any one state of a network, by case, field and reason. Everything else
/// of the case is compared.
const IN_FLUX: [(&str, &str, &str); 2] = [
    (
        "acl-k03",
        "peer_allowed_ips",
        "taken while 10.33.0.0/16 was being approved: four nodes have the route, three not yet",
    ),
    ("acl-k03", "self_allowed_ips", "the router itself has not heard of the approval that its peers already show"),
];

#[test]
fn every_capture_of_the_hosted_service() {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/truth/policy");
    let Ok(entries) = std::fs::read_dir(&dir) else {
        return stage::skip::skip(&format!("the captures of the hosted service are absent from {}", dir.display()));
    };
    let only = std::env::var("TRUTH_CASE").ok();
    let mut failures = BTreeMap::new();
    let mut seen = 0;
    for entry in entries {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        if only.as_ref().is_some_and(|o| !name.contains(o.as_str())) {
            continue;
        }
        seen += 1;
        let case: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        if let Err(why) = judge(&name, &case) {
            failures.insert(name, why);
        }
    }
    println!("{seen} captures, {} differ", failures.len());
    for (name, why) in &failures {
        println!("--- {name}\n{why}");
    }
    assert!(failures.is_empty(), "{} of {seen} captures differ: {:?}", failures.len(), failures.keys());
}

fn judge(name: &str, case: &Value) -> Result<(), String> {
    let policy = match &case["policy"] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let topology = Topology::read(&case["topology"].to_string()).map_err(|p| format!("topology: {p:?}"))?;
    let accepted = case["api_response_code"] == 200;
    let refuse = |why: String| if accepted { Err(format!("refused, but it is good: {why}")) } else { Ok(()) };
    let policy = match Policy::parse(&policy) {
        Ok(policy) => policy,
        Err(problems) => return refuse(format!("{problems:?}")),
    };
    let compiled = Compiled::new(policy.into(), topology.into());
    let failed: Vec<_> = compiled.run_tests().into_iter().filter(|o| !o.holds()).collect();
    if !failed.is_empty() {
        return refuse(format!("{failed:?}"));
    }
    if !accepted {
        return Err(format!("accepted, but: {}", case["api_response_body"]["message"]));
    }
    let got = compiled.to_json(None);
    let mut out = Vec::new();
    for (node, want) in case["expect"].as_object().into_iter().flatten() {
        for (field, want) in want.as_object().unwrap() {
            if IN_FLUX.iter().any(|(n, f, _)| *n == name && f == field) {
                continue;
            }
            let got = &got["nodes"][node][field];
            let (g, w) = (canonical(field, got), canonical(field, want));
            if g != w {
                out.push(format!("{node}.{field}\n  want {w}\n  got  {g}"));
            }
        }
    }
    if out.is_empty() { Ok(()) } else { Err(out.join("\n")) }
}

/// The same value with what has no order in order: rules, `SrcIPs`, peers.
fn canonical(field: &str, value: &Value) -> Value {
    let sorted = |v: &Value| {
        let mut list = v.as_array().cloned().unwrap_or_default();
        list.sort_by_key(Value::to_string);
        Value::Array(list)
    };
    match (field, value) {
        ("packet_filter_rules", Value::Array(rules)) => {
            let rules = rules.iter().map(|r| {
                let mut r = r.clone();
                r["SrcIPs"] = sorted(&r["SrcIPs"]);
                r
            });
            sorted(&Value::Array(rules.collect()))
        }
        ("peers", _) => sorted(value),
        _ => value.clone(),
    }
}
