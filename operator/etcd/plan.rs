//! The steps from what is there to a member that runs, or why there are none. Pure.

use std::fmt;

use super::container::NAME;
use super::member::Member;
use crate::api::labels;
use crate::engine::{ContainerSeen, ContainerSpec, ContainerState};

/// What is there.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Seen {
    /// The image is on the host.
    pub image: bool,
    /// The volume is there, with the cluster that its label names; an empty text if it names none.
    pub volume: Option<String>,
    /// The container.
    pub container: Option<ContainerSeen>,
}

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Get the image.
    Pull,
    /// Make the volume.
    Volume,
    /// Remove the container; its volume stays.
    Remove,
    /// Make the container.
    Create,
    /// Put the certificates into the volume.
    Deliver,
    /// Start the container.
    Start,
    /// Let a paused container go on.
    Unpause,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pull => "pull the image of etcd",
            Self::Volume => "make the volume of etcd",
            Self::Remove => "remove the container of etcd",
            Self::Create => "make the container of etcd",
            Self::Deliver => "give etcd its certificates",
            Self::Start => "start etcd",
            Self::Unpause => "let etcd go on",
        })
    }
}

/// Why nothing is done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The volume has the data of others.
    #[error(
        "the volume {NAME} on this machine's Docker has the data of another cluster; if nobody needs it, remove it: docker rm -f \
         {NAME}; docker volume rm {NAME}"
    )]
    Foreign,
    /// The volume is gone.
    #[error(
        "the volume {NAME} with this node's data of etcd is gone. If other nodes are left, remove this one there (`evenkeel cluster \
         remove {0}`), and join again with an empty data directory; else restore a backup"
    )]
    Lost(String),
}

/// The steps to this container. `certificate`: the hash of what it must have.
pub fn plan(member: &Member, want: &ContainerSpec, seen: &Seen, certificate: &str) -> Result<Vec<Step>, Refusal> {
    let mut steps = Vec::new();
    match &seen.volume {
        Some(cluster) if *cluster != member.cluster => return Err(Refusal::Foreign),
        Some(_) => {}
        None if member.ran => return Err(Refusal::Lost(member.node.clone())),
        None => steps.push(Step::Volume),
    }
    // A container without its volume has another one's, or none.
    let is_new_volume = seen.volume.is_none();
    let usable = seen.container.as_ref().filter(|found| {
        let same = found.labels.get(labels::SPEC_HASH) == Some(&want.hash());
        same && found.state != ContainerState::Dead && !is_new_volume
    });
    let Some(found) = usable else {
        if !seen.image {
            steps.push(Step::Pull);
        }
        if seen.container.is_some() {
            steps.push(Step::Remove);
        }
        steps.extend([Step::Create, Step::Deliver, Step::Start]);
        return Ok(steps);
    };
    let stale = member.delivered != certificate;
    match found.state {
        ContainerState::Created | ContainerState::Exited | ContainerState::Dead => {
            steps.extend([Step::Deliver, Step::Start]);
        }
        ContainerState::Paused => steps.extend(stale.then_some(Step::Deliver).into_iter().chain([Step::Unpause])),
        ContainerState::Running | ContainerState::Restarting => steps.extend(stale.then_some(Step::Deliver)),
    }
    Ok(steps)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::container::container;
    use super::*;

    fn member() -> Member {
        Member::first("one", [10, 0, 0, 1].into(), "image", "c")
    }

    fn found(want: &ContainerSpec, state: ContainerState) -> ContainerSeen {
        let labels = want.labels.clone().into_iter().chain([(labels::SPEC_HASH.to_owned(), want.hash())]);
        ContainerSeen {
            id: "1".into(),
            name: NAME.into(),
            labels: labels.collect(),
            state,
            image: want.image.clone(),
            networks: Default::default(),
            exit_code: None,
        }
    }

    fn told(member: &Member, seen: &Seen, certificate: &str) -> String {
        match plan(member, &container(member, false), seen, certificate) {
            Ok(steps) => steps.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
            Err(refusal) => refusal.to_string(),
        }
    }

    const WHOLE: &str = "make the container of etcd; give etcd its certificates; start etcd";

    #[test]
    fn from_nothing_everything_is_made_and_then_there_is_nothing_to_do() {
        let (mut member, mut seen) = (member(), Seen::default());
        let want = container(&member, false);
        assert_eq!(told(&member, &seen, "x"), format!("make the volume of etcd; pull the image of etcd; {WHOLE}"));
        seen.volume = Some("c".into());
        seen.image = true;
        assert_eq!(told(&member, &seen, "x"), WHOLE, "the volume was made, and the operator was killed");
        seen.container = Some(found(&want, ContainerState::Created));
        assert_eq!(told(&member, &seen, "x"), "give etcd its certificates; start etcd");
        seen.container = Some(found(&want, ContainerState::Running));
        member.delivered = "x".into();
        assert_eq!(told(&member, &seen, "x"), "");
        assert_eq!(told(&member, &seen, "y"), "give etcd its certificates", "it was renewed");
        // The image was removed while the container runs.
        seen.image = false;
        assert_eq!(told(&member, &seen, "x"), "");
    }

    #[test]
    fn a_container_that_ended_is_started_and_another_one_is_replaced() {
        let (mut member, mut seen) = (member(), Seen { image: true, volume: Some("c".into()), container: None });
        (member.ran, member.delivered) = (true, "x".into());
        let want = container(&member, false);
        let mut with = |state| {
            seen.container = Some(found(&want, state));
            told(&member, &seen, "x")
        };
        assert_eq!(with(ContainerState::Exited), "give etcd its certificates; start etcd");
        assert_eq!(with(ContainerState::Paused), "let etcd go on");
        assert_eq!(with(ContainerState::Restarting), "");
        assert_eq!(with(ContainerState::Dead), format!("remove the container of etcd; {WHOLE}"));
        member.image = "newer".into();
        seen.container = Some(found(&want, ContainerState::Running));
        assert_eq!(told(&member, &seen, "x"), format!("remove the container of etcd; {WHOLE}"));
        seen.image = false;
        assert_eq!(told(&member, &seen, "x"), format!("pull the image of etcd; remove the container of etcd; {WHOLE}"));
    }

    /// Regression 494, found before its release: a volume that was removed was made again, empty, and the only member of etcd began a
    /// new cluster: every object was gone. A member that has run is never started without its data, and none with that of others.
    #[test]
    fn no_member_starts_without_its_data_or_with_that_of_others() {
        let (mut member, mut seen) = (member(), Seen { image: true, ..Seen::default() });
        seen.container = Some(found(&container(&member, false), ContainerState::Exited));
        assert_eq!(
            told(&member, &seen, "x"),
            format!("make the volume of etcd; remove the container of etcd; {WHOLE}")
        );
        member.ran = true;
        assert!(
            told(&member, &seen, "x").starts_with("the volume evenkeel-etcd with this node's data of etcd is gone")
        );
        for other in ["", "d"] {
            seen.volume = Some(other.into());
            assert!(told(&member, &seen, "x").contains("has the data of another cluster"));
        }
    }
}
