//! What a Backup takes of several objects at one moment: volumes of Deployments, and a restore point of each PostgresCluster.

use std::collections::BTreeSet;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::backup_store::{BackupStore, Encryption};
use super::cluster_ref::ClusterRef;
use super::duration::Span;
use super::invalid::Invalid;
use super::lsn::Lsn;
use super::words::words;

/// Most objects of one kind.
const MANY: usize = 32;
/// The shortest and the longest `timeout`, in seconds.
const TIMEOUT: (u64, u64) = (60, 86_400);

/// Volumes of Deployments and restore points of PostgresClusters, of one moment: the pods are stopped for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Together {
    /// Where the copies of the volumes go: a bucket.
    pub store: BackupStore,
    /// What the copies are encrypted with, before they leave their host. Default: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// The Deployments whose pods are stopped.
    pub deployments: Vec<Quieted>,
    /// PostgresClusters with `spec.backup`: each gets a restore point.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub clusters: Vec<ClusterRef>,
    /// The pods are stopped for no longer than this, such as `30m`: what is not copied by then is given up.
    #[serde(default = "hour")]
    pub timeout: Span,
}

fn hour() -> Span {
    Span::seconds(3600)
}

/// A Deployment whose pods are stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Quieted {
    /// Its name.
    #[schemars(length(min = 1))]
    pub name: String,
    /// The claims of its template whose volumes are copied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<String>,
}

impl Together {
    /// All claims that are copied, with their Deployments.
    pub fn claims(&self) -> impl Iterator<Item = (&str, &str)> {
        self.deployments.iter().flat_map(|one| one.claims.iter().map(|claim| (claim.as_str(), one.name.as_str())))
    }

    /// Every problem that the schema cannot express.
    pub fn problems(&self) -> Vec<Invalid> {
        let path = |field: &str| format!("spec.together{field}");
        let mut problems = self.store.problems(&path(".store"));
        let mut wrong = |field: &str, message: &str| problems.push(Invalid::new(path(field), message));
        if self.store.directory.is_some() {
            wrong(".store.directory", "is not for volumes: give s3");
        }
        if self.deployments.is_empty() {
            wrong(".deployments", "must name a Deployment at least");
        }
        for (field, count) in [(".deployments", self.deployments.len()), (".clusters", self.clusters.len())] {
            if count > MANY {
                wrong(field, "must be no more than 32");
            }
        }
        let mut seen = BTreeSet::new();
        for (number, one) in self.deployments.iter().enumerate() {
            let field = format!(".deployments[{number}].name");
            if one.name.is_empty() {
                wrong(&field, "must be the name of a Deployment");
            } else if !seen.insert(("deployment", one.name.as_str())) {
                wrong(&field, "is there twice");
            }
            for (at, claim) in one.claims.iter().enumerate() {
                let field = format!(".deployments[{number}].claims[{at}]");
                if claim.is_empty() {
                    wrong(&field, "must be the name of a claim");
                } else if !seen.insert(("claim", claim.as_str())) {
                    wrong(&field, "is there twice: one copy is enough");
                }
            }
        }
        for (number, one) in self.clusters.iter().enumerate() {
            let field = format!(".clusters[{number}].name");
            if one.name.is_empty() {
                wrong(&field, "must be the name of a PostgresCluster");
            } else if !seen.insert(("cluster", one.name.as_str())) {
                wrong(&field, "is there twice");
            }
        }
        let claims = self.claims().count();
        if !self.deployments.is_empty() && claims == 0 {
            wrong(".deployments", "must have a claim at least: without volumes, a backup of the cluster is enough");
        }
        if claims > MANY {
            wrong(".deployments", "must have no more than 32 claims in all");
        }
        if !(Span::seconds(TIMEOUT.0)..=Span::seconds(TIMEOUT.1)).contains(&self.timeout) {
            wrong(".timeout", &format!("is {}, must be from 1m to 24h", self.timeout));
        }
        problems
    }
}

/// The observed state of a Backup over several objects, and the decisions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TogetherStatus {
    /// The Deployments have no pods until this is false again, or `until` has passed, or this Backup is gone.
    pub holds: bool,
    /// The pods come back at this time at the latest.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub until: Option<Timestamp>,
    /// Since then no pod of the Deployments was there: everything in this Backup is as of this moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub quiet_at: Option<Timestamp>,
    /// When the pods were let come back.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub released_at: Option<Timestamp>,
    /// The name of the restore point in each PostgresCluster: `bootstrap.recovery.target.name` restores it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub point: Option<String>,
    /// The volumes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeCopy>,
    /// The restore points.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clusters: Vec<ClusterPoint>,
    /// Nothing of this Backup runs any more.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cleared: bool,
}

/// The copy of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeCopy {
    /// The claim.
    pub claim: String,
    /// The Deployment whose claim it is.
    pub deployment: String,
    /// The host of the volume.
    pub host: String,
    /// Docker's name of the volume.
    pub volume: String,
    /// The container that reads it.
    pub porter: String,
    /// The run of that container that makes the copy; absent until it has reported that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    /// The folder of the copy in the store.
    pub path: String,
    /// The state as one word.
    pub phase: PartPhase,
    /// Bytes of the files as a tar archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Bytes in the store, compressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<u64>,
    /// Files, directories and links.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entries: Option<u64>,
    /// Sockets, FIFOs and devices, which are not in the copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_out: Option<u64>,
}

/// The restore point of a PostgresCluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ClusterPoint {
    /// The name of the PostgresCluster.
    pub name: String,
    /// The primary that makes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
    /// The run of its supervisor; absent until it has reported that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    /// The folder of its archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive: Option<String>,
    /// The state as one word.
    pub phase: PartPhase,
    /// Its position.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lsn: Option<Lsn>,
    /// The WAL segment that has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wal: Option<String>,
}

words! {
    /// The state of one part of a Backup over several objects.
    PartPhase {
        /// It waits for its turn.
        #[default]
        Pending = "Pending",
        /// It was tried that it will be possible.
        Ready = "Ready",
        /// It is being made.
        Running = "Running",
        /// The restore point is made; its WAL is not yet in the archive.
        WaitingForWal = "WaitingForWal",
        /// It is in the store.
        Completed = "Completed",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn problems(yaml: &str) -> String {
        let together: Together = serde_saphyr::from_str(yaml).unwrap();
        together.problems().iter().map(|one| format!("{one}\n")).collect()
    }

    #[test]
    fn a_volume_and_its_database_are_a_complete_declaration() {
        let store = "store: {s3: {bucket: backups, credentials: {secretName: s3}}}";
        let yaml = format!("{{{store}, deployments: [{{name: web, claims: [files]}}], clusters: [{{name: db}}]}}");
        assert_eq!(problems(&yaml), "");
        let together: Together = serde_saphyr::from_str(&yaml).unwrap();
        assert_eq!(
            (together.timeout.to_string(), together.claims().collect()),
            ("1h".to_owned(), vec![("files", "web")])
        );
    }

    #[test]
    fn every_problem_of_several_objects_is_told_with_its_path() {
        let store = "store: {s3: {bucket: backups, credentials: {secretName: s3}}}";
        expect_test::expect![[r#"
            spec.together.deployments: must name a Deployment at least
            spec.together.deployments: must have a claim at least: without volumes, a backup of the cluster is enough
            spec.together.timeout: is 10s, must be from 1m to 24h
            spec.together.deployments[0].claims[1]: must be the name of a claim
            spec.together.deployments[0].claims[2]: is there twice: one copy is enough
            spec.together.deployments[1].name: must be the name of a Deployment
            spec.together.deployments[2].name: is there twice
            spec.together.deployments[2].claims[0]: is there twice: one copy is enough
            spec.together.clusters[1].name: is there twice
            spec.together.clusters[2].name: must be the name of a PostgresCluster
            spec.together.store.directory: is not for volumes: give s3
        "#]].assert_eq(
            &[
                format!("{{{store}, deployments: []}}"),
                format!("{{{store}, deployments: [{{name: web}}], timeout: 10s}}"),
                format!(
                    "{{{store}, deployments: [{{name: web, claims: [a, '', a]}}, {{name: ''}}, {{name: web, claims: [a]}}], \
                     clusters: [{{name: db}}, {{name: db}}, {{name: ''}}]}}"
                ),
                "{store: {directory: {path: /srv}}, deployments: [{name: web, claims: [a]}]}".to_owned(),
            ]
            .map(|yaml| problems(&yaml))
            .concat(),
        );
    }
}
