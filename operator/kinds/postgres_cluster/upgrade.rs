//! Decides when a container gets another version of Evenkeel's binary: in the rolling update, or, if the object defers
//! that, when it is recreated for another reason. Pure.

use jiff::Timestamp;

use super::{Observed, container_name, definition};
use crate::api::conditions;
use crate::api::labels;
use crate::api::object::Object as _;
use crate::api::postgres_cluster::{DEFER_UPDATE_ANNOTATION, MemberPlace, PostgresCluster, PostgresClusterStatus};

/// The condition is True while an update is deferred.
const CONDITION: &str = "SupervisorUpdateDeferred";

/// The volume with the desired binary for the container of a member, if known.
pub fn program<'a>(object: &PostgresCluster, observed: &'a Observed, place: &MemberPlace) -> Option<&'a String> {
    let newest = observed.hosts.get(&place.host)?.binary.as_ref();
    kept(object, observed, place).or(newest)
}

/// The binary of a container that equals its spec except for the binary, if the object defers updates. (A hash of the spec
/// is not cheap, so the annotation is asked first.)
fn kept<'a>(object: &PostgresCluster, observed: &'a Observed, place: &MemberPlace) -> Option<&'a String> {
    if !deferred(object) {
        return None;
    }
    let container = observed.hosts.get(&place.host)?.container(&container_name(object, &place.name))?;
    let program = container.labels.get(labels::BINARY)?;
    let hash = definition::container_spec(object, place, program).hash();
    (container.labels.get(labels::SPEC_HASH) == Some(&hash)).then_some(program)
}

/// Whether the object defers updates of running supervisors.
fn deferred(object: &PostgresCluster) -> bool {
    object.annotation(DEFER_UPDATE_ANNOTATION) == Some("true")
}

/// Sets the condition with the instances that wait for an update; removes it if none waits.
pub fn tell(
    object: &PostgresCluster,
    observed: &Observed,
    places: &[MemberPlace],
    status: &mut PostgresClusterStatus,
    now: Timestamp,
) {
    let waits = |place: &&MemberPlace| {
        let newest = observed.hosts.get(&place.host).and_then(|host| host.binary.as_ref());
        kept(object, observed, place).zip(newest).is_some_and(|(kept, newest)| kept != newest)
    };
    let waiting: Vec<&str> = places.iter().filter(waits).map(|place| place.name.as_str()).collect();
    if waiting.is_empty() {
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
