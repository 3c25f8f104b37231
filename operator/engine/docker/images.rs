//! Images: look them up, pull them with progress in the log, and make the empty one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bollard::auth::DockerCredentials;
use bollard::body_full;
use bollard::models::CreateImageInfo;
use bollard::query_parameters::{CreateImageOptionsBuilder, ListImagesOptions};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::time::MissedTickBehavior;

use super::super::{EMPTY_IMAGE, Error, ImageSeen, RegistryLogin};
use super::{ANSWER, DockerEngine, classify};
use crate::api::sync::lock;

/// Time-out of a pull without progress: Docker reports each step, and its own registry retries take less time.
const SILENCE: Duration = Duration::from_secs(120);
/// Interval of the log summary of a running pull.
const SUMMARY: Duration = Duration::from_secs(5);
/// A tar archive without a file.
const EMPTY: [u8; 1024] = [0; 1024];

/// The running pulls on one host: one at a time for each image.
#[derive(Default)]
pub(super) struct Pulls(Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Pulls {
    fn lock(&self, image: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = lock(&self.0);
        locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        locks.entry(image.to_owned()).or_default().clone()
    }
}

impl DockerEngine {
    pub(super) async fn image_seen(&self, image: &str) -> Result<Option<ImageSeen>, Error> {
        let doing = format!("looking for image {image}");
        if !is_reference(image) {
            return Err(Error::refused(&self.host, doing, "that is not an image reference"));
        }
        match self.call(&doing, ANSWER, |docker| docker.inspect_image(image)).await {
            Ok(found) => Ok(Some(ImageSeen {
                id: found.id.unwrap_or_default(),
                digests: found.repo_digests.unwrap_or_default(),
                user: found.config.and_then(|config| config.user).unwrap_or_default(),
            })),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Tags and digests of all images, by ID.
    pub(super) async fn images_of_all(&self) -> Result<BTreeMap<String, Vec<String>>, Error> {
        let all = None::<ListImagesOptions>;
        let found = self.call("listing all images", ANSWER, |docker| docker.list_images(all)).await?;
        let names = |mut tags: Vec<String>, digests: Vec<String>| {
            tags.extend(digests);
            tags.sort();
            tags
        };
        Ok(found.into_iter().map(|one| (one.id, names(one.repo_tags, one.repo_digests))).collect())
    }

    pub(super) async fn image_present(&self, image: &str) -> Result<bool, Error> {
        self.image_seen(image).await.map(|found| found.is_some())
    }

    pub(super) async fn image_pulled(&self, image: &str, login: Option<&RegistryLogin>) -> Result<(), Error> {
        let lock = self.pulls.lock(image);
        let _one_pull_at_a_time = lock.lock().await;
        if image == EMPTY_IMAGE {
            return self.empty_made().await;
        }
        if !is_reference(image) {
            return Err(Error::refused(&self.host, pulling(image), "that is not an image reference"));
        }
        self.pull(image, login).await
    }

    /// Makes [`EMPTY_IMAGE`] of an archive without a file.
    async fn empty_made(&self) -> Result<(), Error> {
        let doing = "making the empty image";
        let (repository, tag) = EMPTY_IMAGE.rsplit_once(':').unwrap_or((EMPTY_IMAGE, "latest"));
        let options = CreateImageOptionsBuilder::default().from_src("-").repo(repository).tag(tag).build();
        let archive = body_full(Bytes::from_static(&EMPTY));
        let reports = self.client(doing).await?.create_image(Some(options), Some(archive), None);
        match tokio::time::timeout(SILENCE, reports.try_collect::<Vec<_>>()).await {
            Ok(made) => made.map(drop).map_err(|error| classify::classify(&self.host, doing, error)),
            Err(_) => Err(Error::unreachable(&self.host, doing, format!("no answer within {} s", SILENCE.as_secs()))),
        }
    }

    async fn pull(&self, image: &str, login: Option<&RegistryLogin>) -> Result<(), Error> {
        let doing = pulling(image);
        self.pull_to_its_end(image, login, &doing).await.map_err(|error| self.pull_failed(image, &doing, error))
    }

    async fn pull_to_its_end(&self, image: &str, login: Option<&RegistryLogin>, doing: &str) -> Result<(), Error> {
        let host = &*self.host;
        tracing::info!(host, image, "pulling the image");
        let mut progress = Progress::default();
        let mut options = CreateImageOptionsBuilder::default().from_image(image);
        if !has_tag(image) {
            // Without a tag Docker would pull every tag.
            options = options.tag("latest");
        }
        let client = self.client(doing).await?;
        let mut reports = Box::pin(client.create_image(Some(options.build()), None, login.map(credentials)));
        let mut summary = tokio::time::interval(SUMMARY);
        summary.set_missed_tick_behavior(MissedTickBehavior::Skip);
        summary.tick().await;
        let mut summed_up = String::new();
        let mut silent = Duration::ZERO;
        loop {
            tokio::select! {
                report = reports.next() => match report {
                    None => break,
                    Some(report) => {
                        let report = report.map_err(|error| classify::classify(host, doing, error))?;
                        silent = Duration::ZERO;
                        if let Some(change) = progress.take(&report) {
                            tracing::debug!(host, image, "{change}");
                        }
                                    }
                },
                _ = summary.tick() => {
                    let text = progress.to_string();
                    if text != summed_up {
                        tracing::info!(host, image, "{text}");
                        summed_up = text;
                    }
                    silent += SUMMARY;
                    if silent > SILENCE {
                        let message = format!("Docker reported no progress for {} s", SILENCE.as_secs());
                        return Err(Error::refused(host, doing, message));
                    }
                }
            }
        }
        tracing::info!(host, image, "the image is pulled");
        Ok(())
    }

    fn pull_failed(&self, image: &str, doing: &str, error: Error) -> Error {
        match error {
            Error::NotFound { message, .. } | Error::Refused { message, .. } | Error::Conflict { message, .. } => {
                Error::refused(&self.host, doing, explain(image, &message))
            }
            other => other,
        }
    }
}

fn pulling(image: &str) -> String {
    format!("pulling image {image}")
}

fn credentials(login: &RegistryLogin) -> DockerCredentials {
    DockerCredentials {
        username: Some(login.username.clone()),
        password: Some(login.password.clone()),
        serveraddress: Some(login.server.clone()),
        ..Default::default()
    }
}

/// Names the likely cause, followed by Docker's own message.
fn explain(image: &str, message: &str) -> String {
    let says = |signs: &[&str]| signs.iter().any(|sign| message.contains(sign));
    if says(&[
        "manifest unknown",
        "not found",
        "pull access denied",
        "does not exist",
        "denied",
        "unauthorized",
        "no basic auth",
    ]) {
        format!(
            "its registry does not give the host image {image} (check the name and the tag; for a private one name a Secret in imagePullSecrets, or put it on the host by hand): {message}"
        )
    } else if says(&[
        "dial tcp",
        "no such host",
        "timeout",
        "Timeout",
        "deadline",
        "connection refused",
        "EOF",
        "TLS",
        "x509",
        "lookup ",
    ]) {
        format!(
            "the registry does not answer the host (check its network, or put the image on the host by hand): {message}"
        )
    } else {
        message.to_owned()
    }
}

/// Whether it can be an image reference at all; the engine checks more strictly, this only keeps the request
/// well-formed.
fn is_reference(image: &str) -> bool {
    !image.is_empty()
        && !image.starts_with(['/', '.'])
        && !image.contains("..")
        && image.chars().all(|c| c.is_ascii_alphanumeric() || "._-/:@".contains(c))
}

fn has_tag(image: &str) -> bool {
    image.contains('@') || image.rsplit('/').next().is_some_and(|last| last.contains(':'))
}

/// The layers of one pull, as reported by Docker so far.
#[derive(Default)]
struct Progress {
    layers: BTreeMap<String, Layer>,
}

#[derive(Default)]
struct Layer {
    status: String,
    done: i64,
    total: i64,
}

impl Progress {
    /// Handles a report; returns a log line if a layer changed its state.
    fn take(&mut self, report: &CreateImageInfo) -> Option<String> {
        let status = report.status.as_deref()?;
        let Some(id) = report.id.as_deref().filter(|_| !status.starts_with("Pulling from")) else {
            return Some(status.to_owned());
        };
        let layer = self.layers.entry(id.to_owned()).or_default();
        match (status, &report.progress_detail) {
            ("Downloading", Some(detail)) => {
                layer.done = detail.current.unwrap_or(layer.done);
                layer.total = detail.total.unwrap_or(layer.total);
            }
            ("Download complete" | "Verifying Checksum" | "Pull complete" | "Already exists", _) => {
                layer.done = layer.total
            }
            _ => {}
        }
        let changed = layer.status != status;
        layer.status = status.to_owned();
        changed.then(|| format!("layer {id}: {status}"))
    }
}

impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.layers.is_empty() {
            return f.write_str("asking the registry");
        }
        let complete = self
            .layers
            .values()
            .filter(|layer| matches!(layer.status.as_str(), "Pull complete" | "Already exists"))
            .count();
        let (done, total) = self.layers.values().fold((0, 0), |sum, layer| (sum.0 + layer.done, sum.1 + layer.total));
        let percent = if total > 0 { (done * 100 / total).clamp(0, 100) } else { 0 };
        write!(f, "{percent} % downloaded, {complete} of {} layers done", self.layers.len())
    }
}

#[cfg(test)]
mod tests {
    use bollard::models::ProgressDetail;

    use super::*;

    fn report(id: &str, status: &str, bytes: Option<(i64, i64)>) -> CreateImageInfo {
        CreateImageInfo {
            id: Some(id.to_owned()),
            status: Some(status.to_owned()),
            progress_detail: bytes
                .map(|(current, total)| ProgressDetail { current: Some(current), total: Some(total) }),
            error_detail: None,
        }
    }

    #[test]
    fn progress_tells_each_change_once_and_sums_up() {
        let mut progress = Progress::default();
        let mut told = format!("[{progress}]\n");
        for report in [
            report("15", "Pulling from library/postgres", None),
            report("aa", "Pulling fs layer", None),
            report("bb", "Already exists", None),
            report("aa", "Downloading", Some((10, 40))),
            report("aa", "Downloading", Some((20, 40))),
            report("aa", "Download complete", None),
            report("aa", "Extracting", Some((1, 40))),
            report("aa", "Pull complete", None),
        ] {
            let change = progress.take(&report).unwrap_or_default();
            told.push_str(&format!("{change} [{progress}]\n"));
        }
        expect_test::expect![[r#"
            [asking the registry]
            Pulling from library/postgres [asking the registry]
            layer aa: Pulling fs layer [0 % downloaded, 0 of 1 layers done]
            layer bb: Already exists [0 % downloaded, 1 of 2 layers done]
            layer aa: Downloading [25 % downloaded, 1 of 2 layers done]
             [50 % downloaded, 1 of 2 layers done]
            layer aa: Download complete [100 % downloaded, 1 of 2 layers done]
            layer aa: Extracting [100 % downloaded, 1 of 2 layers done]
            layer aa: Pull complete [100 % downloaded, 2 of 2 layers done]
        "#]]
        .assert_eq(&told);
    }

    #[test]
    fn a_failed_pull_says_whether_the_registry_or_the_name_is_wrong() {
        let told = [
            "pull access denied for nosuch, repository does not exist or may require 'docker login'",
            "manifest for postgres:99 not found: manifest unknown",
            "Get \"https://registry-1.docker.io/v2/\": dial tcp: lookup registry-1.docker.io: no such host",
            "write /var/lib/docker/tmp/x: no space left on device",
        ]
        .map(|message| explain("postgres:99", message) + "\n")
        .concat();
        expect_test::expect![[r#"
            its registry does not give the host image postgres:99 (check the name and the tag; for a private one name a Secret in imagePullSecrets, or put it on the host by hand): pull access denied for nosuch, repository does not exist or may require 'docker login'
            its registry does not give the host image postgres:99 (check the name and the tag; for a private one name a Secret in imagePullSecrets, or put it on the host by hand): manifest for postgres:99 not found: manifest unknown
            the registry does not answer the host (check its network, or put the image on the host by hand): Get "https://registry-1.docker.io/v2/": dial tcp: lookup registry-1.docker.io: no such host
            write /var/lib/docker/tmp/x: no space left on device
        "#]].assert_eq(&told);
    }

    #[test]
    fn a_reference_has_a_tag_only_after_its_last_slash() {
        let tagged: Vec<_> =
            ["postgres", "postgres:15", "registry:5000/postgres", "registry:5000/postgres:15", "postgres@sha256:00"]
                .into_iter()
                .filter(|image| has_tag(image))
                .collect();
        assert_eq!(tagged, ["postgres:15", "registry:5000/postgres:15", "postgres@sha256:00"]);
    }

    #[test]
    fn what_would_change_the_request_is_no_reference() {
        for image in ["", "a b", "../version", "x?y", "x#y", "/x", "x%2f"] {
            assert!(!is_reference(image), "{image:?}");
        }
        assert!(is_reference("registry:5000/team/postgres_x-y.z:15@sha256:00"));
    }
}
