//! VolumeRestore: the copy of a volume, restored into the volume of a claim that has no data yet.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::backup::AttemptFailure;
use super::backup_store::{BackupStore, Encryption, is_relative};
use super::invalid::Invalid;
use super::words::words;

/// Most bytes of the name of a claim: it is a part of the name of a Docker volume.
const LONGEST: usize = 128;

/// Restores the copy of a volume into the volume of a claim.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "evenkeel.dev",
    version = "v1alpha1",
    kind = "VolumeRestore",
    plural = "volumerestores",
    namespaced,
    status = "VolumeRestoreStatus",
    derive = "PartialEq",
    doc = "Restores the copy of a volume into the volume of a claim. It is done once, when the object is created.",
    printcolumn = r#"{"name":"Claim","type":"string","jsonPath":".spec.claim"}"#,
    printcolumn = r#"{"name":"Backup","type":"string","jsonPath":".spec.from.backup"}"#,
    printcolumn = r#"{"name":"Status","type":"string","jsonPath":".status.phase"}"#,
    printcolumn = r#"{"name":"Progress","type":"string","jsonPath":".status.progress"}"#,
    printcolumn = r#"{"name":"Host","type":"string","jsonPath":".status.host","priority":1}"#,
    printcolumn = r#"{"name":"Message","type":"string","jsonPath":".status.message","priority":1}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VolumeRestoreSpec {
    /// The copy.
    pub from: CopySource,
    /// The claim whose volume gets the data. Nothing is overwritten: a volume that has data is refused.
    #[schemars(length(min = 1))]
    pub claim: String,
    /// The host of that volume. Default: the one that the Backup read it on, or `local`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub host: Option<String>,
}

/// The copy of a volume: that of a Backup, or one that is named by its place in a store.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CopySource {
    /// The name of a Backup with `together`, in the same namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// Which of its claims. Default: the one that gets the data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<String>,
    /// A store, with `path`: for a site that is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<BackupStore>,
    /// The folder of the copy there, such as `default.claim.files/volumes/20261130T030000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What the copy in `store` is encrypted with. A Backup knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
}

/// The observed state of a restore, and the decisions.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeRestoreStatus {
    /// The generation of the spec that this status is about.
    pub observed_generation: i64,
    /// The state as one word.
    pub phase: VolumeRestorePhase,
    /// Why it is in this state, as one word for programs.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The same, as a sentence.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The host of the volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Docker's name of the volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// The folder of the copy in the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The volume has, or may have, a part of the data and not all. No pod that claims it is created meanwhile.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
    /// Number of the attempt, from 1; 0 before the first one.
    pub attempt: u32,
    /// The run of the container that makes the current attempt; absent until it has reported that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    /// When the current attempt was decided, or last made progress, or when the attempt before failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub progressed_at: Option<Timestamp>,
    /// Why the attempt before failed, and which container made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<AttemptFailure>,
    /// When the current attempt began.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub stopped_at: Option<Timestamp>,
    /// Bytes of the copy that were restored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The part that was restored, such as `62%`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// Bytes a second that were restored on average, such as `40Mi/s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<String>,
    /// Nothing of it runs any more.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cleared: bool,
    /// `Completed`: the volume has all data.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

words! {
    /// The state of a restore.
    VolumeRestorePhase {
        /// It has not begun; the reason says what it waits for.
        #[default]
        Pending = "Pending",
        /// The copy is read and restored.
        Running = "Running",
        /// The volume has all data.
        Completed = "Completed",
        /// It failed for good.
        Failed = "Failed",
    }
}

impl VolumeRestorePhase {
    /// Whether it has ended: this state never changes.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Completed | Self::Failed)
    }
}

impl VolumeRestoreSpec {
    /// The claim of the copy.
    pub fn source_claim(&self) -> &str {
        self.from.claim.as_deref().unwrap_or(&self.claim)
    }

    /// Every problem that the schema cannot express.
    pub fn validate(&self) -> Vec<Invalid> {
        let from = &self.from;
        let mut problems = from.store.iter().flat_map(|store| store.problems("spec.from.store")).collect::<Vec<_>>();
        let mut problem = |path: &str, message: &str| problems.push(Invalid::new(path, message));
        if !is_claim(&self.claim) {
            problem("spec.claim", "must be the name of a claim: letters, digits, . and -");
        }
        if from.encryption.is_some() && from.store.is_none() {
            problem("spec.from.encryption", "is for store alone: a Backup knows it");
        }
        match (&from.backup, &from.store) {
            (Some(_), Some(_)) => problem("spec.from", "has backup and store: give one of them"),
            (None, None) => {
                problem("spec.from", "must have backup, the name of a Backup with together, or store and path")
            }
            (Some(_), None) if from.path.is_some() => {
                problem("spec.from.path", "is for store alone: a Backup knows it")
            }
            (None, Some(_)) if from.claim.is_some() => problem("spec.from.claim", "is for backup alone: path says it"),
            (None, Some(_)) if !from.path.as_deref().is_some_and(is_relative) => {
                problem(
                    "spec.from.path",
                    "must be the folder of a copy, such as default.claim.files/volumes/20261130T030000",
                );
            }
            _ => {}
        }
        if from.store.as_ref().is_some_and(|store| store.directory.is_some()) {
            problem("spec.from.store.directory", "is not for volumes: give s3");
        }
        problems
    }
}

/// Whether a volume of Docker can have it in its name.
fn is_claim(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-' || c == '_';
    (1..=LONGEST).contains(&name.len()) && name.chars().all(plain)
}

/// Every problem with a change: what was restored cannot become something else.
pub fn change_problems(old: &Value, new: &Value) -> Vec<Invalid> {
    let message = "cannot be changed: a volume is restored once; delete the VolumeRestore and create another";
    (old["spec"] != new["spec"]).then(|| Invalid::new("spec", message)).into_iter().collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_restore_names_one_copy_and_a_claim() {
        let problems = |yaml: &str| {
            let spec: VolumeRestoreSpec = serde_saphyr::from_str(yaml).unwrap();
            spec.validate().iter().map(|one| format!("{one}\n")).collect::<String>()
        };
        let store = "store: {s3: {bucket: backups, credentials: {secretName: s3}}}";
        assert_eq!(problems("{from: {backup: nightly}, claim: files}"), "");
        assert_eq!(problems("{from: {backup: nightly, claim: files}, claim: files-2, host: h2}"), "");
        assert_eq!(problems(&format!("{{from: {{{store}, path: a.claim.b/volumes/1}}, claim: files}}")), "");
        let wrong = [
            "{from: {}, claim: ''}".to_owned(),
            format!("{{from: {{backup: a, {store}}}, claim: a/b}}"),
            "{from: {backup: a, path: b}, claim: files}".to_owned(),
            format!("{{from: {{{store}, claim: a, path: ../x}}, claim: files}}"),
            format!("{{from: {{{store}, path: ../x}}, claim: files}}"),
            "{from: {store: {directory: {path: /srv}}, path: a}, claim: files}".to_owned(),
        ];
        expect_test::expect![[r#"
            spec.claim: must be the name of a claim: letters, digits, . and -
            spec.from: must have backup, the name of a Backup with together, or store and path
            spec.claim: must be the name of a claim: letters, digits, . and -
            spec.from: has backup and store: give one of them
            spec.from.path: is for store alone: a Backup knows it
            spec.from.claim: is for backup alone: path says it
            spec.from.path: must be the folder of a copy, such as default.claim.files/volumes/20261130T030000
            spec.from.store.directory: is not for volumes: give s3
        "#]]
        .assert_eq(&wrong.map(|yaml| problems(&yaml)).concat());
    }
}
