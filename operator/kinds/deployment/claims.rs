//! Decides which Docker volume a claim of a pod is. Pure.
//!
//! A claim belongs to its namespace: it is the Docker volume `NAMESPACE.claim.NAME`. Three claims are the Docker volume of
//! exactly their name instead: one that a DockerHost gives to the namespace, one that pods of this Deployment used before
//! claims belonged to a namespace, and one that somebody made by hand, in a namespace of level privileged.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::PodSpec;

use super::Observed;
use crate::api::deployment::{Decisions, Deployment};
use crate::api::docker_host::is_ours;
use crate::api::object::Object as _;
use crate::api::pod_security::Level;
pub use crate::api::volume_claims::{owner, volume};

/// The claims of a template.
pub fn of(spec: &PodSpec) -> impl Iterator<Item = &str> {
    let volumes = spec.volumes.iter().flatten();
    volumes.filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.as_str()))
}

/// The claims that are not decided yet.
pub fn open(object: &Deployment) -> BTreeSet<String> {
    let d = object.status.as_ref().and_then(|status| status.decisions.as_ref());
    let decided = d.and_then(|d| d.claims.as_ref());
    let spec = object.spec.template.spec.as_ref();
    let wanted = spec.into_iter().flat_map(of).filter(|claim| !decided.is_some_and(|all| all.contains_key(*claim)));
    wanted.map(str::to_owned).collect()
}

/// Decides the claims of the template. Comes before a new revision is chosen: what the kept revisions claim without a
/// decision, they claim by the rule of an earlier version.
pub fn decide(object: &Deployment, observed: &Observed, d: &mut Decisions) {
    let namespace = object.namespace();
    let mut decided = d.claims.clone().unwrap_or_default();
    if d.claims.is_none() {
        let specs = d.revisions.iter().filter_map(|revision| revision.template.spec.as_ref());
        let before = |claim: &str| if is_ours(claim) { volume(namespace, claim) } else { claim.to_owned() };
        decided.extend(specs.flat_map(of).map(|claim| (claim.to_owned(), before(claim))));
    }
    let seen: Vec<_> = observed.hosts.values().filter_map(|host| host.docker.foreign.known()).collect();
    for claim in open(object) {
        let by_hand = seen.iter().any(|volumes| volumes.contains(&claim)) && !is_ours(&claim);
        let exact = by_hand && observed.level == Level::Privileged;
        // While no host has answered, it is not known.
        if !seen.is_empty() {
            decided.entry(claim.clone()).or_insert_with(|| if exact { claim } else { volume(namespace, &claim) });
        }
    }
    d.claims = Some(decided).filter(|decided| d.claims.is_some() || !decided.is_empty());
}

/// The claims that are the Docker volume of exactly their name on this host.
pub fn exact(observed: &Observed, decided: &BTreeMap<String, String>, host: &str) -> BTreeSet<String> {
    let given = observed.hosts.get(host).map(|host| host.volumes.clone()).unwrap_or_default();
    let decided = decided.iter().filter(|(claim, volume)| claim == volume).map(|(claim, _)| claim.clone());
    given.into_iter().chain(decided).collect()
}

/// What to tell about claims that are a Docker volume which is not the namespace's.
pub fn warning(object: &Deployment, observed: &Observed, d: &Decisions) -> Option<String> {
    let given = |claim: &str| observed.hosts.values().any(|host| host.volumes.contains(claim));
    let mut exact = d.claims.iter().flatten().filter(|(claim, volume)| claim == volume && !given(claim));
    let (claim, _) = exact.next()?;
    let own = volume(object.namespace(), claim);
    Some(format!(
        "claim {claim} is the Docker volume {claim}, which other namespaces may claim too; name it in spec.volumes of its \
         DockerHost to keep it, or copy it to {own}, which a claim is otherwise"
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::deployment::Revision;
    use crate::kinds::containers::DockerSeen;
    use crate::kinds::deployment::HostSeen;
    use crate::kinds::fact::Fact;
    use crate::kinds::hosts::Declared;

    fn deployment(claims: &[&str]) -> Deployment {
        let volume = |claim: &&str| json!({"name": "v", "persistentVolumeClaim": {"claimName": claim}});
        let volumes: Vec<_> = claims.iter().map(volume).collect();
        let pod = json!({"containers": [{"name": "web", "image": "web"}], "volumes": volumes});
        let spec = json!({"selector": {}, "template": {"spec": pod}});
        serde_json::from_value(json!({"metadata": {"name": "web", "namespace": "team"}, "spec": spec})).unwrap()
    }

    /// Decisions of a version without decisions about claims.
    fn before(claims: &[&str]) -> Decisions {
        let revision = Revision { template: deployment(claims).spec.template, ..Default::default() };
        Decisions { revisions: vec![revision], ..Default::default() }
    }

    fn observed(level: Level, by_hand: &[&str], given: &[&str]) -> Observed {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let host = HostSeen {
            declared: Declared { domain: "local".into(), open: true, ..Default::default() },
            volumes: set(given),
            docker: DockerSeen { foreign: Fact::Known(set(by_hand)), ..DockerSeen::nothing() },
        };
        Observed { level, hosts: BTreeMap::from([("local".to_owned(), host)]), ..Default::default() }
    }

    /// What each claim is on the host, and the warning.
    fn decided(object: &Deployment, observed: &Observed, mut d: Decisions) -> String {
        decide(object, observed, &mut d);
        let all = d.claims.clone().unwrap_or_default();
        let exact = exact(observed, &all, "local");
        let one = |claim: String| {
            let volume =
                if exact.contains(&claim) { claim.clone() } else { all.get(&claim).cloned().unwrap_or_default() };
            format!("{claim}={volume} ")
        };
        let wanted: BTreeSet<_> = open(object).into_iter().chain(all.keys().cloned()).collect();
        let told: String = wanted.into_iter().map(one).collect();
        let warned = warning(object, observed, &d).map(|_| "warned").unwrap_or_default();
        format!("{told}{warned}").trim_end().to_owned()
    }

    /// Regression 196: `claimName` was the name of any Docker volume. A pod mounted the data of a database of another
    /// namespace, and, writable, the volume with the program that runs as root in every database.
    #[test]
    fn a_claim_is_a_volume_of_its_namespace() {
        let none = Decisions::default;
        let claim = |claim: &str| deployment(&[claim]);
        let all = ["other.db-1", "evenkeel-bin-5cbe", "data"];
        let hardened = observed(Level::Baseline, &all, &[]);
        assert_eq!(decided(&claim("data"), &hardened, none()), "data=team.claim.data");
        assert_eq!(decided(&claim("other.db-1"), &hardened, none()), "other.db-1=team.claim.other.db-1");
        // A volume with an owner is never seen as foreign, so it is never the claim, whatever the level.
        let own = observed(Level::Privileged, &[], &[]);
        assert_eq!(decided(&claim("other.db-1"), &own, none()), "other.db-1=team.claim.other.db-1");
        let binary = "evenkeel-bin-5cbe=team.claim.evenkeel-bin-5cbe";
        for d in [none(), before(&["evenkeel-bin-5cbe"])] {
            assert_eq!(decided(&claim("evenkeel-bin-5cbe"), &observed(Level::Privileged, &all, &[]), d), binary);
        }
    }

    #[test]
    fn a_volume_that_somebody_made_by_hand_stays_the_claim_where_it_was() {
        let found = |level, d| decided(&deployment(&["data"]), &observed(level, &["data"], &[]), d);
        assert_eq!(found(Level::Privileged, Decisions::default()), "data=data warned");
        assert_eq!(found(Level::Baseline, Decisions::default()), "data=team.claim.data");
        // Pods of an earlier version use it, also when its host is asked too late or it is made again.
        assert_eq!(found(Level::Baseline, before(&["data"])), "data=data warned");
        assert_eq!(
            decided(&deployment(&["data"]), &observed(Level::Baseline, &[], &[]), before(&["data"])),
            "data=data warned"
        );
        // A claim that such a Deployment did not have is a new one.
        let both = deployment(&["data", "more"]);
        let seen = observed(Level::Baseline, &["data", "more"], &[]);
        assert_eq!(decided(&both, &seen, before(&["data"])), "data=data more=team.claim.more warned");
    }

    #[test]
    fn a_decision_stays_and_a_host_can_give_a_volume() {
        let kept = Decisions { claims: Some([("data".into(), "team.claim.data".into())].into()), ..before(&["data"]) };
        let mut object = deployment(&["data"]);
        object.status =
            Some(crate::api::deployment::DeploymentStatus { decisions: Some(kept.clone()), ..Default::default() });
        assert_eq!(
            decided(&object, &observed(Level::Privileged, &["data"], &[]), kept.clone()),
            "data=team.claim.data"
        );
        assert_eq!(decided(&object, &observed(Level::Restricted, &["data"], &["data"]), kept), "data=data");
        let given = observed(Level::Privileged, &["data"], &["data"]);
        assert_eq!(decided(&deployment(&["data"]), &given, Decisions::default()), "data=data");
    }

    #[test]
    fn while_no_host_has_answered_nothing_is_decided() {
        let mut silent = observed(Level::Privileged, &[], &[]);
        silent.hosts.values_mut().for_each(|host| host.docker = DockerSeen::unknown("it does not answer"));
        assert_eq!(decided(&deployment(&["data"]), &silent, Decisions::default()), "data=");
        assert_eq!(decided(&deployment(&[]), &silent, Decisions::default()), "");
    }
}
