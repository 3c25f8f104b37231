//! Observes a host: its registration, what the mirror knows of it, and its agent. A host that does not answer is asked nothing,
//! so it delays no reconcile.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{AgentSeen, Answer, DockerHostKind, HostSeen, Observed, Registration, agent, register};
use crate::api::docker_host::DockerHost;
use crate::api::endpoints::EndpointRole;
use crate::api::failure::Failure;
use crate::api::object::Object as _;
use crate::engine::EMPTY_IMAGE;
use crate::engine::mirror::Glance;
use crate::kinds::containers::Needs;
use crate::kinds::hosts::Declared;
use crate::kinds::ports;
use crate::store::Objects;
use crate::supervisor::agent::wire::Listening;

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
    let answer = answer(glance);
    let has_agent = containers.as_ref().is_some_and(|all| all.contains_key(&object.owner()));
    let agent = agent(controller, object, matches!(answer, Answer::Info(_)), has_agent).await?;
    Ok(Observed { registration, answer, heard, clock, containers, leaders, agent })
}

/// Reads what the agent of a host is about: nothing, if the host has no address and is not being deleted. `has_agent`: a container
/// of one was listed.
async fn agent(
    controller: &DockerHostKind,
    object: &DockerHost,
    answers: bool,
    has_agent: bool,
) -> Result<AgentSeen, Failure> {
    let owner = object.owner();
    let stays = object.metadata.deletion_timestamp.is_none();
    if object.spec.address.is_none() && !has_agent && stays {
        return Ok(AgentSeen::default());
    }
    let (all, _) = controller.objects.list::<DockerHost>(DockerHost::RESOURCE, None).await?;
    let declared = all.iter().filter(|host| host.metadata.deletion_timestamp.is_none());
    let hosts = declared.map(|host| (host.name().to_owned(), seen(controller, host))).collect();
    let reserved = ports::read(&controller.objects).await?;
    let docker = match answers {
        true => {
            let needs = Needs { images: [EMPTY_IMAGE.to_owned()].into(), ..Default::default() };
            controller.docker.observe(&owner, [object.name().to_owned()], &needs).await
        }
        false => BTreeMap::new(),
    };
    if answers {
        controller.links.keep(&controller.hosts, &owner, &docker);
    }
    Ok(AgentSeen {
        hosts,
        reserved,
        docker,
        work: controller.docker.work.heard(&owner),
        link: controller.links.heard(&owner).remove(agent::AGENT),
        refused: controller.links.refused(&owner).remove(agent::AGENT),
        young: controller.links.young(),
    })
}

fn seen(controller: &DockerHostKind, host: &DockerHost) -> HostSeen {
    let link = controller.links.heard(&host.owner()).remove(agent::AGENT);
    let listens = link.is_some_and(|link| link.live() && link.report.listening == Listening::Yes);
    HostSeen { declared: Declared::from(host), owner: ports::owner_of(host), listens }
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
