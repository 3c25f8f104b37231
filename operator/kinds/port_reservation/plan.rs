//! Plans a reservation: kept while its owner exists, then a quarantine. Pure.

use std::time::Duration;

use jiff::Timestamp;

use super::{Observed, PortReservationKind, Step};
use crate::api::conditions::{self, no, unknown, yes};
use crate::api::port_reservation::PortReservation;
use crate::kinds::fact::Fact;
use crate::runtime::{Plan, Planned, Want};

/// Time from the release of a port to its next use, counted by the operator that leads. A client or a standby that still connects to its old place must not reach
/// another database there.
pub const QUARANTINE: Duration = Duration::from_secs(3600);
/// Poll interval.
const POLL: Duration = Duration::from_secs(60);

/// Pure: what to record about the port, and whether it is free.
pub fn plan(object: &PortReservation, observed: &Observed, want: Want, now: Timestamp) -> Planned<PortReservationKind> {
    let mut status = object.status.clone().unwrap_or_default();
    let (mut steps, mut finished) = (Vec::new(), false);
    let spec = &object.spec;
    let verdict = match (want, &observed.used) {
        (Want::Absent, _) if observed.forgotten => {
            finished = true;
            no("Released", "the host is not declared any more")
        }
        // Silence is not absence: the container may run and listen.
        (Want::Absent, Fact::Unknown(why)) => unknown("HostUnreachable", format!("{why}; the port stays reserved")),
        (Want::Absent, Fact::Known(true)) => {
            no("StillUsed", format!("the container of {} is still on {}", spec.member, spec.host))
        }
        (Want::Absent, Fact::Known(false)) => {
            let quarantine = if spec.named { Duration::ZERO } else { QUARANTINE };
            finished = observed.released.is_some_and(|since| since >= quarantine);
            no("Quarantined", "the port is released; it may be reserved again one hour after that")
        }
        (_, _) if !observed.owned => {
            steps.push(Step::Release);
            no("OwnerGone", format!("{} {} does not exist any more", spec.owner.kind, spec.owner.name))
        }
        (_, _) if spec.foreign => {
            no("Foreign", "another program of the host listens there; free it, then delete this object")
        }
        (_, _) => yes("Reserved", format!("{} of {} {} has it", spec.member, spec.owner.kind, spec.owner.name)),
    };
    conditions::set(&mut status.conditions, "Ready", verdict, object.metadata.generation.unwrap_or_default(), now);
    Plan { status, steps, requeue: Some(POLL), finished }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::api::port_reservation::{PortOwner, PortReservationSpec};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap_or_default()
    }

    /// The reason of the condition, the steps, and whether the port is free, `age` seconds after its release if it is released.
    fn told(age: Option<i64>, owned: bool, used: Fact<bool>, forgotten: bool, named: bool) -> String {
        let owner = PortOwner {
            kind: "PostgresCluster".into(),
            resource: "postgresclusters.evenkeel.dev".into(),
            namespace: "default".into(),
            name: "db".into(),
            uid: "1".into(),
        };
        let (member, purpose) = ("db-1".into(), "postgres".into());
        let spec =
            PortReservationSpec { host: "h1".into(), port: 20_001, owner, member, purpose, foreign: false, named };
        let mut object = PortReservation::new("h1.20001", spec);
        object.metadata.deletion_timestamp = age.map(|_| Time(at(1000)));
        let want = if age.is_some() { Want::Absent } else { Want::Present };
        let released = age.map(|age| Duration::from_secs(age.unsigned_abs()));
        let plan = plan(&object, &Observed { owned, forgotten, used, released }, want, at(1000));
        let steps: Vec<_> = plan.steps.iter().map(ToString::to_string).collect();
        format!("{} {steps:?} free: {}\n", plan.status.conditions[0].reason, plan.finished)
    }

    #[test]
    fn a_port_is_free_only_an_hour_after_its_release_and_only_once_its_container_is_seen_gone() {
        let silent = || Fact::Unknown("Docker host h1 does not answer".into());
        let told = [
            told(None, true, Fact::Known(true), false, false),
            told(None, false, Fact::Known(false), false, false),
            told(Some(10), false, Fact::Known(true), false, false),
            told(Some(10), true, Fact::Known(false), false, false),
            told(Some(3599), true, Fact::Known(false), false, false),
            told(Some(3600), true, Fact::Known(false), false, false),
            told(Some(9999), true, Fact::Known(true), false, false),
            told(Some(9999), true, silent(), false, false),
            told(Some(10), true, silent(), true, false),
            // A person named it: clients of that port expect whoever has it.
            told(Some(0), true, Fact::Known(false), false, true),
            told(Some(0), true, Fact::Known(true), false, true),
        ];
        expect_test::expect![[r#"
            Reserved [] free: false
            OwnerGone ["release the port: its owner is gone"] free: false
            StillUsed [] free: false
            Quarantined [] free: false
            Quarantined [] free: false
            Quarantined [] free: true
            StillUsed [] free: false
            HostUnreachable [] free: false
            Released [] free: true
            Quarantined [] free: true
            StillUsed [] free: false
        "#]]
        .assert_eq(&told.concat());
    }
}
