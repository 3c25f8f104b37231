//! Observes a host: its registration, and what the mirror knows of it. Asks the host nothing, so a silent host delays no
//! reconcile.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Answer, DockerHostKind, Observed, Registration, register};
use crate::api::docker_host::DockerHost;
use crate::api::endpoints::EndpointRole;
use crate::api::failure::Failure;
use crate::api::object::Object as _;
use crate::engine::mirror::Glance;
use crate::store::Objects;

/// The kinds whose objects have endpoints, and whether all of them must leave a host that is restarted or only the
/// primary.
const WITH_ENDPOINTS: [(&str, &str, bool); 3] = [
    ("deployments.apps", "pod", true),
    ("postgresclusters.evenkeel.dev", "primary", false),
    ("redissentinels.evenkeel.dev", "master", false),
];

/// Reads the registration of a host, and what is known of it.
pub async fn observe(controller: &DockerHostKind, object: &DockerHost) -> Result<Observed, Failure> {
    let (hosts, name) = (&controller.hosts, object.name());
    let glance = hosts.glance(name);
    let registration = match register::connection(&controller.objects, object).await? {
        Err((reason, message)) => Registration::Impossible(reason, message),
        Ok((endpoint, keys)) if hosts.is_registered(name, &endpoint, keys.as_ref()) => Registration::Same,
        Ok(_) if glance.is_some() => Registration::Differs,
        Ok(_) => Registration::Absent,
    };
    let glance = glance.filter(|_| registration == Registration::Same).unwrap_or_default();
    let leaders = match object.spec.maintenance {
        true => leaders(&controller.objects, name).await?,
        false => BTreeSet::new(),
    };
    let Glance { heard, clock, containers, .. } = glance.clone();
    Ok(Observed { registration, answer: answer(glance), heard, clock, containers, leaders })
}

fn answer(glance: Glance) -> Answer {
    match glance {
        Glance { stranger: Some(found), .. } => Answer::Stranger(found),
        Glance { trouble: Some(trouble), .. } => Answer::Trouble(trouble),
        Glance { info: Some(info), .. } => Answer::Info(info),
        _ => Answer::NotAsked,
    }
}

/// What must leave the host before it is restarted. Only read during maintenance, and then often: no other object's change
/// wakes this one.
async fn leaders(objects: &Objects, host: &str) -> Result<BTreeSet<String>, Failure> {
    let mut found = BTreeSet::new();
    for (resource, word, all) in WITH_ENDPOINTS {
        let (values, _) = objects.list::<Value>(resource, None).await?;
        found.extend(values.iter().flat_map(|value| on_host(value, host, word, all)));
    }
    Ok(found)
}

fn on_host(value: &Value, host: &str, word: &str, all: bool) -> Vec<String> {
    let primary = serde_json::to_value(EndpointRole::Primary).unwrap_or_default();
    let endpoints = value["status"]["endpointSet"]["endpoints"].as_array().into_iter().flatten();
    let leads = |one: &&Value| all || one["roles"].as_array().is_some_and(|roles| roles.contains(&primary));
    let there = endpoints.filter(|one| one["host"] == host).filter(leads);
    let namespace = value["metadata"]["namespace"].as_str().unwrap_or_default();
    there.filter_map(|one| Some(format!("{word} {namespace}/{}", one["name"].as_str()?))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_primaries_and_pods_leave_a_host_that_is_restarted() {
        let object = json!({"metadata": {"namespace": "default"}, "status": {"endpointSet": {"endpoints": [
            {"name": "db-1", "host": "east", "roles": ["primary"]},
            {"name": "db-2", "host": "east", "roles": ["replica"]},
            {"name": "db-3", "host": "west", "roles": ["primary"]},
        ]}}});
        assert_eq!(on_host(&object, "east", "primary", false), ["primary default/db-1"]);
        assert_eq!(on_host(&object, "east", "pod", true), ["pod default/db-1", "pod default/db-2"]);
        assert_eq!(on_host(&json!({}), "east", "pod", true), Vec::<String>::new());
    }
}
