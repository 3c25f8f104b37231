//! The pods in each kind's status. A kind whose status has `pods` needs one function here, and one line in the view's
//! sources.

use std::net::Ipv4Addr;

use serde::Deserialize as _;
use serde_json::{Value, json};

use super::owner::{created_at, derived_uid, fields, reference, reference_to, text};
use super::pod::{Deletion, PodTemplate};
use super::replica_sets::{TEMPLATE_HASH, set_name};
use crate::api::deployment::{DeploymentStatus, EVICT_ANNOTATION};
use crate::api::load_balancer::LoadBalancerStatus;
use crate::api::pod::{PodContainer, PodContainerState, PodPhase, PodSeen};
use crate::api::postgres_cluster::{InstanceState, InstanceStatus, PostgresClusterStatus};
use crate::api::redis_cluster::{ClusterMemberStatus, RedisClusterStatus};
use crate::api::redis_sentinel::{RedisMemberStatus, RedisSentinelStatus, RedisState, SentinelStatus};

/// The pods of a Deployment, each owned by the ReplicaSet of its revision.
pub fn pods_of_deployment(deployment: &Value) -> Vec<Value> {
    let status = DeploymentStatus::deserialize(&deployment["status"]).unwrap_or_default();
    let decisions = status.decisions.unwrap_or_default();
    // An eviction that was requested and not handled yet.
    let asked = text(&deployment["metadata"]["annotations"][EVICT_ANNOTATION]);
    let asked = if decisions.evicted.as_deref() == Some(asked) { "" } else { asked };
    let one = |seen: &PodSeen| {
        let revision = decisions.revisions.iter().find(|revision| revision.revision == seen.revision);
        let template =
            revision.map_or_else(|| deployment["spec"]["template"].clone(), |revision| json!(revision.template));
        let parent = match revision.map(|revision| set_name(deployment, revision)) {
            Some(name) => reference("apps/v1", "ReplicaSet", &name, &derived_uid(deployment, "ReplicaSet", &name)),
            None => reference_to(deployment),
        };
        let mut labels = fields(&template["metadata"]["labels"]);
        labels.extend(revision.map(|revision| (TEMPLATE_HASH.to_owned(), revision.hash.clone().into())));
        let template = PodTemplate {
            owner: deployment,
            parent,
            labels,
            annotations: fields(&template["metadata"]["annotations"]),
            spec: fields(&template["spec"]),
            images: revision.map(|revision| revision.images.clone()).unwrap_or_default(),
        };
        let evicted = asked.split(',').any(|name| name.trim() == seen.name);
        let stop = decisions.pods.iter().find(|pod| pod.name == seen.name).and_then(|pod| pod.stop.as_ref());
        let since = stop.and_then(|stop| stop.since);
        template.pod(seen, if evicted { Deletion::Since(since.or(seen.created_at)) } else { deletion(seen, since) })
    };
    status.pods.iter().map(one).collect()
}

/// Evictions take one ready pod of a Deployment after the other, as a PodDisruptionBudget with `maxUnavailable: 1` does.
pub fn too_soon(deployment: &Value, name: &str) -> Option<String> {
    let pods = pods_of_deployment(deployment);
    let is_true = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
    let is_ready = |pod: &&Value| {
        let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        pod["metadata"]["deletionTimestamp"].is_null() && conditions.into_iter().any(is_true)
    };
    let (wanted, ready) = (deployment["spec"]["replicas"].as_u64().unwrap_or(1), pods.iter().filter(is_ready).count());
    let serves = pods.iter().filter(is_ready).any(|pod| pod["metadata"]["name"] == name);
    (serves && (ready as u64) < wanted).then(|| {
        let of = text(&deployment["metadata"]["name"]);
        format!("{ready} of {wanted} pods of Deployment {of} are ready: the next one is evicted when all are")
    })
}

/// The pods of a LoadBalancer: its replicas.
pub fn pods_of_balancer(balancer: &Value) -> Vec<Value> {
    let status = LoadBalancerStatus::deserialize(&balancer["status"]).unwrap_or_default();
    let app = balancer["spec"]["engine"].as_str().unwrap_or("loadbalancer");
    let template = PodTemplate::of_application(app, balancer);
    status.pods.iter().map(|seen| template.pod(seen, deletion(seen, None))).collect()
}

/// The pods of a PostgresCluster: its instances, with their role as a label.
pub fn pods_of_cluster(cluster: &Value) -> Vec<Value> {
    let status = PostgresClusterStatus::deserialize(&cluster["status"]).unwrap_or_default();
    let one = |instance: &InstanceStatus| {
        let mut template = PodTemplate::of_application("postgresql", cluster);
        template.labels.insert("evenkeel.dev/role".to_owned(), instance.role.to_string().into());
        template.pod(&instance_as_pod(cluster, instance), Deletion::No)
    };
    status.instances.iter().map(one).collect()
}

/// A terminating pod is shown as being deleted since `since`, or else since its creation.
fn deletion(seen: &PodSeen, since: Option<jiff::Timestamp>) -> Deletion {
    if seen.terminating { Deletion::Since(since.or(seen.created_at)) } else { Deletion::No }
}

/// The pods of a RedisSentinel: its data members, with their role as a label, and its Sentinels.
pub fn pods_of_redis(redis: &Value) -> Vec<Value> {
    let status = RedisSentinelStatus::deserialize(&redis["status"]).unwrap_or_default();
    let data = status.members.iter().map(|one| {
        let RedisMemberStatus { name, host, address, state, message, .. } = one;
        redis_pod(redis, one.role.to_string(), redis_member("redis", name, host, address, *state, message.as_deref()))
    });
    let sentinels = status.sentinels.iter().map(|one| {
        let SentinelStatus { name, host, address, state, message, .. } = one;
        let member = redis_member("sentinel", name, host, address, *state, message.as_deref());
        redis_pod(redis, "sentinel".to_owned(), member)
    });
    data.chain(sentinels).collect()
}

/// The pods of a RedisCluster, with their role as a label.
pub fn pods_of_redis_cluster(redis: &Value) -> Vec<Value> {
    let status = RedisClusterStatus::deserialize(&redis["status"]).unwrap_or_default();
    let member = |one: &ClusterMemberStatus| {
        let ClusterMemberStatus { name, host, address, state, message, .. } = one;
        redis_pod(redis, one.role.to_string(), redis_member("redis", name, host, address, *state, message.as_deref()))
    };
    status.members.iter().map(member).collect()
}

fn redis_pod(redis: &Value, role: String, member: Member<'_>) -> Value {
    let mut template = PodTemplate::of_application("redis", redis);
    template.labels.insert("evenkeel.dev/role".to_owned(), role.into());
    template.pod(&member_as_pod(redis, member), Deletion::No)
}

fn redis_member<'a>(
    container: &'a str,
    name: &'a str,
    host: &'a str,
    address: &Option<String>,
    state: RedisState,
    message: Option<&'a str>,
) -> Member<'a> {
    Member {
        container,
        name,
        host,
        address: address.as_ref().and_then(|at| at.split(':').next()?.parse().ok()),
        ready: matches!(state, RedisState::Running | RedisState::Synced),
        runs: !matches!(
            state,
            RedisState::Stopped | RedisState::Created | RedisState::Unknown | RedisState::Absent | RedisState::Paused
        ),
        state: state.word(),
        message,
    }
}

fn instance_as_pod(cluster: &Value, instance: &InstanceStatus) -> PodSeen {
    let state = instance.state;
    let member = Member {
        container: "postgres",
        name: &instance.name,
        host: &instance.host,
        address: instance.address.as_ref().and_then(|address| address.parse().ok()),
        ready: matches!(state, InstanceState::Running | InstanceState::Streaming),
        runs: !matches!(state, InstanceState::Stopped | InstanceState::Unknown | InstanceState::Absent),
        state: state.word(),
        message: instance.message.as_deref(),
    };
    member_as_pod(cluster, member)
}

/// A member of a kind whose container has its name.
struct Member<'a> {
    /// The name of the container within the pod.
    container: &'a str,
    name: &'a str,
    host: &'a str,
    address: Option<Ipv4Addr>,
    ready: bool,
    runs: bool,
    state: &'a str,
    message: Option<&'a str>,
}

fn member_as_pod(owner: &Value, member: Member<'_>) -> PodSeen {
    let Member { ready, runs, .. } = member;
    PodSeen {
        name: member.name.to_owned(),
        host: member.host.to_owned(),
        address: member.address,
        phase: if runs { PodPhase::Running } else { PodPhase::Pending },
        ready,
        created_at: created_at(owner),
        message: Some(member.message.unwrap_or(member.state).to_owned()),
        containers: vec![PodContainer {
            name: member.container.to_owned(),
            container: format!("{}.{}", text(&owner["metadata"]["namespace"]), member.name),
            image: text(&owner["spec"]["image"]).to_owned(),
            state: if runs { PodContainerState::Running } else { PodContainerState::Waiting },
            reason: (!runs).then(|| capitalized(member.state)),
            ready,
            ..PodContainer::default()
        }],
        ..PodSeen::default()
    }
}

fn capitalized(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
