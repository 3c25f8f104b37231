//! What is wrong with a host, from its object and those of the other hosts. Pure.

use serde_json::Value;

use crate::api::docker_host::{Endpoint, LOCAL};

/// What a check has found.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Findings {
    /// How the host is.
    pub(super) facts: Vec<String>,
    /// What may be meant so.
    pub(super) remarks: Vec<String>,
    /// What is wrong.
    pub(super) problems: Vec<String>,
}

/// The condition of this type.
pub(super) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// Whether the operator has looked at the host as it is declared now.
pub(super) fn was_looked_at(object: &Value) -> bool {
    let generation = &object["metadata"]["generation"];
    let known = |ready: &Value| ready["status"] != "Unknown" && ready["observedGeneration"] == *generation;
    condition(object, "Ready").is_some_and(known)
}

/// Everything that can be wrong.
pub(super) fn findings(object: &Value, all: &[Value]) -> Findings {
    let mut found = Findings::default();
    found.facts.push(facts(object));
    let message = |condition: &Value| condition["message"].as_str().unwrap_or_default().to_owned();
    match condition(object, "Ready") {
        None => found.problems.push("the operator has not looked at it yet; does it run?".to_owned()),
        Some(ready) if ready["status"] == "True" => {}
        Some(ready) => {
            let reason = ready["reason"].as_str().unwrap_or_default();
            found.problems.push(format!("{} ({reason})", message(ready)));
        }
    }
    if let Some(skewed) = condition(object, "ClockSkewed").filter(|one| one["status"] == "True") {
        found.problems.push(message(skewed));
    }
    if let Some(cut) = condition(object, "PeersUnreachable") {
        found.problems.push(message(cut));
    }
    for kind in ["ForeignListeners", "AgentUnavailable"] {
        found.remarks.extend(condition(object, kind).map(message));
    }
    if let Some(insecure) = condition(object, "InsecureTransport").filter(|one| one["status"] == "True") {
        found.remarks.push(message(insecure));
    }
    if let Some(drained) = condition(object, "Drained") {
        found.remarks.push(message(drained));
    }
    remarks(object, &mut found.remarks);
    twins(object, all, &mut found.problems);
    found
}

/// The engine in one line.
fn facts(object: &Value) -> String {
    let (name, spec, status) = (&object["metadata"]["name"], &object["spec"], &object["status"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut parts = vec![format!("{} at {}", text(name), text(&spec["endpoint"]))];
    if let Some(version) = status["engineVersion"].as_str() {
        parts.push(format!("Docker Engine {version} (API {})", text(&status["apiVersion"])));
    }
    if let (Some(cpus), Some(memory)) = (status["capacity"]["cpus"].as_u64(), status["capacity"]["memory"].as_u64()) {
        parts.push(format!("{cpus} CPUs, {:.1} GiB", memory as f64 / f64::from(1 << 30)));
    }
    if let Some(containers) = status["containers"].as_u64() {
        parts.push(format!("{containers} managed containers"));
    }
    if let Some(heard) = status["lastHeard"].as_str().filter(|_| status["reachable"] != true) {
        parts.push(format!("last answered at {heard}"));
    }
    parts.join(", ")
}

/// What is so because somebody wants it, and what may be forgotten.
fn remarks(object: &Value, remarks: &mut Vec<String>) {
    let (name, spec) = (object["metadata"]["name"].as_str().unwrap_or_default(), &object["spec"]);
    let wanted = |field: &str| spec[field] == true;
    if wanted("unschedulable") {
        remarks.push(format!("it takes no new containers (evenkeel host uncordon {name})"));
    }
    if wanted("drain") {
        remarks.push(format!("it is being drained (evenkeel host undrain {name})"));
    }
    if wanted("maintenance") {
        remarks.push(format!("it is in maintenance (evenkeel host maintenance {name} --off)"));
    }
    if spec["address"].is_null() && name != LOCAL {
        let message = "it has no spec.address: objects that span several hosts do not use it";
        remarks.push(message.to_owned());
    }
    let endpoint = spec["endpoint"].as_str().and_then(|text| text.parse::<Endpoint>().ok());
    if matches!(endpoint, Some(Endpoint::Unix { .. })) && spec["node"].is_null() && name != LOCAL {
        let message =
            "unix:// means the engine of the machine that the operator runs on; spec.node says which one that is";
        remarks.push(message.to_owned());
    }
}

/// Other hosts that are the same machine.
fn twins(object: &Value, all: &[Value], problems: &mut Vec<String>) {
    let name = &object["metadata"]["name"];
    for other in all.iter().filter(|other| other["metadata"]["name"] != *name) {
        let twin = other["metadata"]["name"].as_str().unwrap_or_default();
        let same = |pointer: &str| {
            let value = object.pointer(pointer).filter(|value| !value.is_null());
            value.is_some() && value == other.pointer(pointer)
        };
        if same("/status/engineID") {
            problems.push(format!(
                "it is the same engine as DockerHost {twin}: what runs there would be placed and counted twice; delete one of \
                 them"
            ));
        } else if same("/spec/endpoint") {
            problems.push(format!("it has the same endpoint as DockerHost {twin}; delete one of them"));
        }
        if same("/spec/address") {
            problems.push(format!("it has the same address as DockerHost {twin}: their ports would collide"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn host(name: &str, id: &str) -> Value {
        json!({
            "metadata": {"name": name, "generation": 2},
            "spec": {"endpoint": format!("tcp://{name}:2376"), "address": "10.0.0.7", "unschedulable": true},
            "status": {"reachable": true, "engineID": id, "engineVersion": "29.0", "apiVersion": "1.52", "containers": 3,
                "capacity": {"cpus": 4, "memory": 8_589_934_592_u64}, "conditions": [
                {"type": "Ready", "status": "True", "reason": "Reachable", "message": "it answers", "observedGeneration": 2}]},
        })
    }

    fn told(object: &Value, all: &[Value]) -> String {
        let Findings { facts, remarks, problems } = findings(object, all);
        let lines =
            |kind: &str, all: Vec<String>| all.iter().map(|line| format!("{kind}: {line}\n")).collect::<String>();
        lines("fact", facts) + &lines("remark", remarks) + &lines("problem", problems)
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let mut bad = host("east", "A");
        bad["spec"]["address"] = Value::Null;
        bad["spec"]["drain"] = true.into();
        bad["status"]["reachable"] = false.into();
        bad["status"]["lastHeard"] = "2026-01-01T00:00:00Z".into();
        bad["status"]["conditions"] = json!([
            {"type": "Ready", "status": "False", "reason": "AuthenticationFailed", "message": "the key is refused"},
            {"type": "ClockSkewed", "status": "True", "message": "its clock is 5 s behind"},
            {"type": "Drained", "status": "False", "message": "still there: pod default/web-1"},
            {"type": "PeersUnreachable", "status": "True", "message": "it cannot connect to west"},
            {"type": "ForeignListeners", "status": "True", "message": "something listens at TCP 20100"},
            {"type": "AgentUnavailable", "status": "True", "message": "its agent does not report"},
        ]);
        let mut twin = host("west", "A");
        twin["spec"]["address"] = "10.0.0.7".into();
        expect_test::expect![[r#"
            fact: east at tcp://east:2376, Docker Engine 29.0 (API 1.52), 4 CPUs, 8.0 GiB, 3 managed containers, last answered at 2026-01-01T00:00:00Z
            remark: something listens at TCP 20100
            remark: its agent does not report
            remark: still there: pod default/web-1
            remark: it takes no new containers (evenkeel host uncordon east)
            remark: it is being drained (evenkeel host undrain east)
            remark: it has no spec.address: objects that span several hosts do not use it
            problem: the key is refused (AuthenticationFailed)
            problem: its clock is 5 s behind
            problem: it cannot connect to west
            problem: it is the same engine as DockerHost west: what runs there would be placed and counted twice; delete one of them
        "#]].assert_eq(&told(&bad, &[bad.clone(), twin]));
    }

    #[test]
    fn two_hosts_at_one_address_are_told() {
        let (one, other) = (host("east", "A"), host("west", "B"));
        expect_test::expect![[r#"
            fact: east at tcp://east:2376, Docker Engine 29.0 (API 1.52), 4 CPUs, 8.0 GiB, 3 managed containers
            remark: it takes no new containers (evenkeel host uncordon east)
            problem: it has the same address as DockerHost west: their ports would collide
        "#]]
        .assert_eq(&told(&one, &[one.clone(), other]));
    }

    #[test]
    fn a_host_that_nobody_has_looked_at_is_not_well() {
        let mut new = host("east", "A");
        new["status"] = Value::Null;
        assert!(!was_looked_at(&new));
        assert!(told(&new, &[]).ends_with("problem: the operator has not looked at it yet; does it run?\n"));
        let mut changed = host("east", "A");
        assert!(was_looked_at(&changed));
        changed["metadata"]["generation"] = 3.into();
        assert!(!was_looked_at(&changed));
    }
}
