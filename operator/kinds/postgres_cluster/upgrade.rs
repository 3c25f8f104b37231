//! When a container gets another version of our program: by the rolling update, or, if the object defers that, when it is made anew
//! for another reason. Pure.

use jiff::Timestamp;

use super::{Observed, container_name, workload};
use crate::api::conditions;
use crate::api::labels;
use crate::api::postgres_cluster::{DEFER_UPDATE_ANNOTATION, MemberPlace, PostgresCluster, PostgresClusterStatus};
use crate::engine::ContainerSeen;

/// The condition that is True while an update waits.
const CONDITION: &str = "SupervisorUpdateDeferred";

/// Why a container must be replaced, if it must.
pub fn replacement_reason(
    object: &PostgresCluster,
    place: &MemberPlace,
    container: &ContainerSeen,
    binary: &str,
) -> Option<String> {
    let why = workload::stale(container, &workload::container_spec(object, place, binary))?;
    if !only_program_differs(object, place, container) {
        return Some(why);
    }
    (!deferred(object)).then(|| "it runs another version of the supervisor".into())
}

/// The container is what it should be but for the volume with our program.
fn only_program_differs(object: &PostgresCluster, place: &MemberPlace, container: &ContainerSeen) -> bool {
    let label = |name: &str| container.labels.get(name);
    let Some(binary) = label(labels::BINARY) else { return false };
    label(labels::SPEC_HASH) == Some(&workload::container_spec(object, place, binary).hash())
}

/// The object asks to leave running supervisors alone.
fn deferred(object: &PostgresCluster) -> bool {
    let annotations = object.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(DEFER_UPDATE_ANNOTATION)).is_some_and(|value| value == "true")
}

/// Says in the status which instances wait for an update; nothing if none does.
pub fn tell(
    object: &PostgresCluster,
    observed: &Observed,
    places: &[MemberPlace],
    status: &mut PostgresClusterStatus,
    now: Timestamp,
) {
    let (Some(containers), Some(binary)) = (observed.containers.known(), &observed.binary) else { return };
    let waits = |place: &&MemberPlace| {
        let container = containers.get(&container_name(object, &place.name));
        container.is_some_and(|container| {
            container.labels.get(labels::BINARY) != Some(binary) && only_program_differs(object, place, container)
        })
    };
    let waiting: Vec<&str> = places.iter().filter(waits).map(|place| place.name.as_str()).collect();
    if waiting.is_empty() || !deferred(object) {
        status.conditions.retain(|condition| condition.type_ != CONDITION);
        return;
    }
    let message = format!(
        "another version of the supervisor runs in {}; remove the annotation {DEFER_UPDATE_ANNOTATION} for a rolling update",
        waiting.join(", ")
    );
    let verdict = conditions::yes("Deferred", message);
    conditions::set(&mut status.conditions, CONDITION, verdict, status.observed_generation, now);
}
