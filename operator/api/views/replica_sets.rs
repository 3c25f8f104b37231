//! ReplicaSets: the revisions of a Deployment, in the form that clients expect.

use serde::Deserialize as _;
use serde_json::{Value, json};

use super::owner::{derived_uid, fields, reference_to, seconds, text};
use crate::api::deployment::{CHANGE_CAUSE_ANNOTATION, DeploymentStatus, Revision};

/// The label that distinguishes the pods of different revisions of a template.
pub const TEMPLATE_HASH: &str = "pod-template-hash";
/// The annotation from which clients read the number of a revision.
const REVISION: &str = "deployment.kubernetes.io/revision";
/// Annotations of a Deployment that are not copied to its revisions.
const KEPT_BACK: [&str; 2] = ["kubectl.kubernetes.io/last-applied-configuration", CHANGE_CAUSE_ANNOTATION];

/// The ReplicaSets of a Deployment.
pub fn replica_sets_of(deployment: &Value) -> Vec<Value> {
    let status = DeploymentStatus::deserialize(&deployment["status"]).unwrap_or_default();
    let decisions = status.decisions.unwrap_or_default();
    let one = |revision: &Revision| {
        let pods = status.pods.iter().filter(|pod| pod.revision == revision.revision && !pod.terminating);
        let (pods, ready) = (pods.clone().count(), pods.filter(|pod| pod.ready).count());
        let current = revision.hash == decisions.target;
        let desired = if current { deployment["spec"]["replicas"].as_i64().unwrap_or_default() } else { pods as i64 };
        let name = set_name(deployment, revision);
        let mut template = json!(revision.template);
        template["metadata"]["labels"][TEMPLATE_HASH] = revision.hash.as_str().into();
        let mut selector = deployment["spec"]["selector"].clone();
        selector["matchLabels"][TEMPLATE_HASH] = revision.hash.as_str().into();
        // As in Kubernetes, so that an undo, which restores a revision's annotations, loses none.
        let mut annotations = fields(&deployment["metadata"]["annotations"]);
        annotations.retain(|key, _| !KEPT_BACK.contains(&key.as_str()));
        let cause = revision.change_cause.as_ref();
        annotations.extend(cause.map(|cause| (CHANGE_CAUSE_ANNOTATION.to_owned(), cause.as_str().into())));
        annotations.insert(REVISION.to_owned(), revision.revision.to_string().into());
        json!({
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": name,
                "namespace": deployment["metadata"]["namespace"],
                "uid": derived_uid(deployment, "ReplicaSet", &name),
                "resourceVersion": deployment["metadata"]["resourceVersion"],
                "generation": 1,
                "creationTimestamp": seconds(revision.created_at),
                "labels": template["metadata"]["labels"],
                "annotations": annotations,
                "ownerReferences": [reference_to(deployment)],
            },
            "spec": {"replicas": desired, "selector": selector, "template": template},
            "status": {
                "replicas": pods,
                "fullyLabeledReplicas": pods,
                "readyReplicas": ready,
                "availableReplicas": ready,
                "observedGeneration": 1,
            },
        })
    };
    decisions.revisions.iter().map(one).collect()
}

/// `web-5d9c7b`: Deployment and hash of the template.
pub fn set_name(deployment: &Value, revision: &Revision) -> String {
    format!("{}-{}", text(&deployment["metadata"]["name"]), revision.hash)
}
