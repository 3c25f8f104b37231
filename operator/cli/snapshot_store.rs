//! Snapshots of the operator's own store in an object store: the file that says where it is, and what is there.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::Deserialize;

use crate::api::backup_store::{BackupStore, DirectoryStore, S3Checksum, S3Credentials, S3Store};
use crate::api::hash::short_hash_of_parts;
use crate::archive::access::{S3, Store as Place, StoreAccess};
use crate::archive::store::{self, Listed, Store};
use crate::cli::error::{Error, failed};
use crate::store::snapshots::{END, parse, superseded};

/// The folder of all installations, below the prefix of the store.
const FOLDER: &str = "evenkeel-store";
/// Digits of the hash of a snapshot in its name.
const DIGITS: usize = 32;
/// Snapshots of one installation that are listed.
const LISTED: usize = 10_000;
/// Bytes of a snapshot at most.
const LARGEST: u64 = 4 << 30;

/// The option that names the file.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
pub struct Args {
    /// File that says in which S3 bucket or directory the snapshots of the store are (docs/operations.md)
    #[arg(long, value_name = "FILE")]
    pub snapshot_store: Option<PathBuf>,
}

/// What is in the file. It has credentials, so nobody but its owner may read it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Declared {
    s3: Option<Bucket>,
    directory: Option<DirectoryStore>,
}

/// A bucket with what opens it: the fields of `spec.backup.store.s3` of a PostgresCluster, and those of its Secret.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Bucket {
    bucket: String,
    #[serde(default)]
    prefix: String,
    endpoint: Option<String>,
    #[serde(default = "S3Store::region")]
    region: String,
    path_style: Option<bool>,
    checksum: Option<S3Checksum>,
    /// The file with the CA certificates to trust, as PEM.
    ca_file: Option<PathBuf>,
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
}

/// The snapshots in an object store.
#[derive(Debug, Clone)]
pub struct SnapshotStore {
    store: Store,
}

/// A snapshot there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stored {
    /// Its name: that of the file, with a hash of its content.
    pub name: String,
    /// The installation that wrote it.
    pub installation: String,
    /// Its bytes.
    pub size: u64,
}

impl Stored {
    fn key(&self) -> String {
        format!("{}/{}", self.installation, self.name)
    }

    /// The name of its file in a data directory.
    pub fn file(&self) -> String {
        let hash = hash_in(&self.name).unwrap_or_default();
        self.name.replace(&format!("-{hash}"), "")
    }
}

impl SnapshotStore {
    /// Reads the file and opens the store; connects to nothing.
    ///
    /// # Errors
    /// The file cannot be read or is no description of a store, or others may read it; the directory does not exist.
    pub fn open(file: &Path) -> Result<Self, Error> {
        let wrong = |problem: String| Error::Usage(format!("{}: {problem}", file.display()));
        let read = |path: &Path| {
            std::fs::read_to_string(path)
                .map_err(|source| Error::Io { doing: format!("read {}", path.display()), source })
        };
        let text = read(file)?;
        let mode = std::fs::metadata(file).map(|found| found.mode()).unwrap_or_default();
        if mode & 0o077 != 0 {
            return Err(wrong(format!(
                "it has credentials, and others may read it (mode {:04o}): chmod 0600",
                mode & 0o7777
            )));
        }
        // The parser's message quotes lines of the file, which may have the secret key.
        let declared: Declared = serde_saphyr::from_str(&text).map_err(|error| {
            let at = error.location().map(|at| format!(" (line {})", at.line())).unwrap_or_default();
            wrong(format!("it is no description of a store{at}: give exactly one of s3, directory, with known fields"))
        })?;
        let problems: Vec<_> = declared
            .spec()
            .problems("")
            .iter()
            .map(|one| one.to_string().trim_start_matches(['.', ':', ' ']).to_owned())
            .collect();
        if !problems.is_empty() {
            return Err(wrong(problems.join("; ")));
        }
        let ca = declared.s3.as_ref().and_then(|s3| s3.ca_file.as_deref()).map(read).transpose()?;
        let access = StoreAccess { hash: String::new(), store: declared.place(ca), encryption: None };
        let store = Store::open(&access).map_err(|error| wrong(error.to_string()))?;
        Ok(Self { store: store.at(FOLDER) })
    }

    /// The snapshots of all installations, the oldest first.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn list(&self) -> Result<Vec<Stored>, Error> {
        let mut found = Vec::new();
        for installation in self.store.folders(1).await.map_err(failed(listing))? {
            found.extend(self.of(&installation).await.map_err(failed(listing))?);
        }
        found.sort();
        Ok(found)
    }

    /// Those of one installation, the oldest first.
    async fn of(&self, installation: &str) -> Result<Vec<Stored>, store::Error> {
        let listed = self.store.at(installation).list("", None, LISTED).await?;
        Ok(listed.into_iter().filter_map(|found| stored(installation, found)).collect())
    }

    /// Brings a snapshot there unless it is there, and deletes those of this installation that are superseded.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn keep(&self, installation: &str, file: &str, bytes: Bytes) -> Result<(), store::Error> {
        let name = name(file, &bytes);
        let there = self.of(installation).await?;
        if there.iter().all(|one| one.name != name) {
            self.store.at(installation).put(&name, bytes).await?;
        }
        let mut names: Vec<_> = there.into_iter().map(|one| one.name).chain([name]).collect();
        names.sort();
        names.dedup();
        let old: Vec<_> = superseded(&names).into_iter().cloned().collect();
        self.store.at(installation).delete(&old).await
    }

    /// The content of a snapshot.
    ///
    /// # Errors
    /// Those of the store; it is gone, or it was changed there.
    pub async fn get(&self, one: &Stored) -> Result<Bytes, Error> {
        let doing = || format!("cannot fetch {}", one.name);
        let found = self.store.get(&one.key(), LARGEST).await.map_err(failed(doing))?;
        let bytes = found.ok_or_else(|| Error::Failed(format!("{}: it does not exist any more", doing())))?;
        if hash_in(&one.name) != Some(&hash_of(&bytes)) {
            return Err(Error::Failed(format!(
                "{}: its content does not have the hash that is in its name, so it was damaged in the store; take another one",
                doing()
            )));
        }
        Ok(bytes)
    }

    /// The snapshot of this name, or the newest one.
    ///
    /// # Errors
    /// Those of the store; there is none; without a name: there are several installations.
    pub async fn choose(&self, name: Option<&str>) -> Result<Stored, Error> {
        choose(self.list().await?, name)
    }
}

/// The one of this name among all, of which the oldest is the first; without a name the newest.
fn choose(mut all: Vec<Stored>, name: Option<&str>) -> Result<Stored, Error> {
    if let Some(name) = name {
        let found = all.into_iter().find(|one| one.name == name);
        return found.ok_or_else(|| Error::Failed(format!("there is no snapshot {name} in the store")));
    }
    let mut installations: Vec<_> = all.iter().map(|one| one.installation.as_str()).collect();
    installations.sort_unstable();
    installations.dedup();
    if installations.len() > 1 {
        return Err(Error::Failed(format!(
            "the store has snapshots of several installations ({}): name the snapshot; `evenkeel cluster snapshots` lists them",
            installations.join(", ")
        )));
    }
    all.pop().ok_or_else(|| Error::Failed("there is no snapshot in the store".to_owned()))
}

fn listing() -> String {
    "cannot list the snapshots".to_owned()
}

fn hash_of(bytes: &[u8]) -> String {
    short_hash_of_parts([bytes], DIGITS)
}

/// The name in the object store of a file with this name and content.
fn name(file: &str, bytes: &[u8]) -> String {
    format!("{}-{}{END}", file.trim_end_matches(END), hash_of(bytes))
}

/// The hash of the content, as a name says; `None`: this is no name of a snapshot.
fn hash_in(name: &str) -> Option<&str> {
    let hash = parse(name)?.1.strip_prefix('-')?.strip_suffix(END)?;
    (hash.len() == DIGITS && hash.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(hash)
}

/// A snapshot of a list; `None`: it is something else.
fn stored(installation: &str, found: Listed) -> Option<Stored> {
    hash_in(&found.key)?;
    Some(Stored { name: found.key, installation: installation.to_owned(), size: found.size })
}

impl Declared {
    /// The same without credentials, as the API has it; for its rules.
    fn spec(&self) -> BackupStore {
        let s3 = self.s3.as_ref().map(|s3| S3Store {
            bucket: s3.bucket.clone(),
            prefix: s3.prefix.clone(),
            endpoint: s3.endpoint.clone(),
            region: s3.region.clone(),
            path_style: s3.path_style,
            checksum: s3.checksum,
            credentials: S3Credentials { secret_name: String::new() },
            ca_secret_name: None,
        });
        BackupStore { s3, directory: self.directory.clone() }
    }

    fn place(self, ca: Option<String>) -> Place {
        let path_style = self.spec().s3.is_some_and(|s3| s3.path_style());
        match (self.s3, self.directory) {
            (Some(s3), _) => Place::S3(S3 {
                bucket: s3.bucket,
                prefix: s3.prefix,
                endpoint: s3.endpoint,
                region: s3.region,
                path_style,
                sha256: s3.checksum.is_some(),
                access_key_id: s3.access_key_id,
                secret_access_key: s3.secret_access_key,
                session_token: s3.session_token,
                ca,
            }),
            (None, directory) => Place::Directory { path: directory.map(|found| found.path).unwrap_or_default() },
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    /// A file of this mode with this text, opened.
    fn opened(folder: &Path, text: &str, mode: u32) -> Result<SnapshotStore, String> {
        let file = folder.join("store.yaml");
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        SnapshotStore::open(&file).map_err(|error| error.to_string().replace(&file.display().to_string(), "FILE"))
    }

    #[test]
    fn a_bad_file_is_refused_with_its_problems_and_never_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let refused = |text: &str, mode| opened(dir.path(), text, mode).unwrap_err();
        let s3 = "s3: {bucket: backups, endpoint: 'http://127.0.0.1:1', accessKeyId: A, secretAccessKey: hunter2}";
        assert!(opened(dir.path(), s3, 0o600).is_ok());
        assert_eq!(refused(s3, 0o640), "FILE: it has credentials, and others may read it (mode 0640): chmod 0600");
        let bad = "s3: {bucket: B, prefix: /x, accessKeyId: A, secretAccessKey: hunter2}\ndirectory: {path: x}";
        expect_test::expect![[r#"
            FILE: give exactly one of s3, directory; s3.bucket: not a bucket name (3 to 63 of a-z 0-9 . -); s3.prefix: relative, without empty or .. parts; directory.path: absolute, without empty, . or .. parts, and without ':' and ','"#]]
        .assert_eq(&refused(bad, 0o600));
        for wrong in ["s3: {bucket: abc, secretAccessKey: hunter2}", "secretAccessKey: hunter2", "hunter2", "s3: ["] {
            let said = refused(wrong, 0o600);
            assert!(said.contains("it is no description of a store") && !said.contains("hunter2"), "{said}");
        }
        assert!(refused("directory: {path: /nowhere/at/all}", 0o600).contains("the directory does not exist"));
    }

    #[tokio::test]
    async fn snapshots_are_kept_once_each_listed_fetched_and_the_superseded_ones_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("directory: {{path: {}}}", dir.path().display());
        let store = opened(dir.path(), &text, 0o600).unwrap();
        assert_eq!(store.choose(None).await.unwrap_err().to_string(), "there is no snapshot in the store");
        for minute in (10..19).chain([18]) {
            let file = format!("store-20261130T06{minute}00Z.db");
            store.keep("site", &file, Bytes::from(format!("content {minute}"))).await.unwrap();
        }
        let all = store.list().await.unwrap();
        let minutes: Vec<_> = all.iter().map(|one| &one.name[17..19]).collect();
        assert_eq!(minutes, ["13", "14", "15", "16", "17", "18"]);
        let newest = store.choose(None).await.unwrap();
        assert_eq!(newest.file(), "store-20261130T061800Z.db");
        assert_eq!(store.get(&newest).await.unwrap(), "content 18");
        assert_eq!(store.choose(Some(&all[0].name)).await.unwrap(), all[0]);
        let missing = store.choose(Some("store-x.db")).await.unwrap_err().to_string();
        assert_eq!(missing, "there is no snapshot store-x.db in the store");
        // Another installation in the same place.
        store.keep("other", "store-20261130T070000Z.db", Bytes::from_static(b"x")).await.unwrap();
        let refused = store.choose(None).await.unwrap_err().to_string();
        assert!(refused.contains("snapshots of several installations (other, site): name the snapshot"), "{refused}");
    }

    #[tokio::test]
    async fn a_snapshot_that_was_changed_in_the_store_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let text = format!("directory: {{path: {}}}", dir.path().display());
        let store = opened(dir.path(), &text, 0o600).unwrap();
        store.keep("site", "store-20261130T070000Z.db", Bytes::from_static(b"content")).await.unwrap();
        let one = store.choose(None).await.unwrap();
        std::fs::write(dir.path().join(FOLDER).join(one.key()), "contenu").unwrap();
        let refused = store.get(&one).await.unwrap_err().to_string();
        assert!(refused.contains("does not have the hash that is in its name"), "{refused}");
    }
}
