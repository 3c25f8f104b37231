//! Copies files into a container through the archive API: it writes through the container's mounts, running or not.

use bollard::body_full;
use bollard::query_parameters::UploadToContainerOptionsBuilder;
use bytes::Bytes;

use super::super::{Error, File};
use super::DockerEngine;
use super::containers::START;

/// Mode of parent directories.
const BETWEEN: u32 = 0o755;

impl DockerEngine {
    pub(super) async fn files_put(&self, container: &str, directory: &str, files: &[File]) -> Result<(), Error> {
        let doing = format!("putting files into {directory} of container {container}");
        let archive =
            archive(directory, files).map_err(|error| Error::refused(&self.host, &doing, error.to_string()))?;
        // The owners are those in the archive (`copyUIDGID` would replace them by the container's user); a directory is
        // never replaced by a file.
        let options =
            UploadToContainerOptionsBuilder::default().path(directory).no_overwrite_dir_non_dir("true").build();
        self.call(&doing, START, |docker| docker.upload_to_container(container, Some(options), body_full(archive)))
            .await
    }
}

/// A tar of these files and their parent directories; the directories first, so that each gets the right mode.
fn archive(directory: &str, files: &[File]) -> std::io::Result<Bytes> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut made = std::collections::BTreeSet::new();
    for file in files {
        let inner = file.path.trim_start_matches("./").trim_end_matches('/');
        if !inner.is_empty() && inner.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
            let message = format!("the path {:?} does not stay in its directory", file.path);
            return Err(std::io::Error::other(message));
        }
        for (end, _) in inner.match_indices('/') {
            if made.insert(&inner[..end]) {
                append(&mut archive, &format!("{}/", &inner[..end]), BETWEEN, (0, 0), &[])?;
            }
        }
        if !file.path.ends_with('/') {
            append(&mut archive, inner, file.mode, file.owner, &file.bytes)?;
        } else if inner.is_empty() {
            append_itself(&mut archive, directory, file)?;
        } else if made.insert(inner) {
            append(&mut archive, &format!("{inner}/"), file.mode, file.owner, &[])?;
        }
    }
    archive.into_inner().map(Bytes::from)
}

/// The mode and owner of the directory itself. Docker skips the entry `.`, so it is named as seen from within; the crate
/// refuses `..` in a path, so the name is written past it, here and nowhere else.
fn append_itself(archive: &mut tar::Builder<Vec<u8>>, directory: &str, file: &File) -> std::io::Result<()> {
    let name = format!("../{}/", directory.trim_end_matches('/').rsplit('/').next().unwrap_or_default());
    let mut header = header(tar::EntryType::Directory, file.mode, file.owner, 0);
    let field = &mut header.as_old_mut().name;
    let field = field.get_mut(..name.len()).ok_or_else(|| std::io::Error::other("its name is too long"))?;
    field.copy_from_slice(name.as_bytes());
    header.set_cksum();
    archive.append(&header, std::io::empty())
}

fn header(kind: tar::EntryType, mode: u32, (user, group): (u64, u64), size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size as u64);
    header.set_mode(mode);
    header.set_uid(user);
    header.set_gid(group);
    header
}

fn append(
    archive: &mut tar::Builder<Vec<u8>>,
    path: &str,
    mode: u32,
    owner: (u64, u64),
    bytes: &[u8],
) -> std::io::Result<()> {
    let kind = if path.ends_with('/') { tar::EntryType::Directory } else { tar::EntryType::Regular };
    archive.append_data(&mut header(kind, mode, owner, bytes.len()), path, bytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn directories_come_before_what_is_in_them_and_once() {
        let file = |path: &str, mode, text: &str| File { path: path.into(), mode, owner: (7, 8), bytes: text.into() };
        let long = format!("{}/x", "d".repeat(120));
        let files = [
            file("./", 0o1777, ""),
            file("a/b/c", 0o600, "one"),
            file("a/b/d", 0o640, "two"),
            file("e/", 0o700, ""),
            file(&long, 0o600, ""),
        ];
        let archive = archive("/mnt/data/", &files).unwrap();
        let mut told = String::new();
        for entry in tar::Archive::new(archive.as_ref()).entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            let path = String::from_utf8_lossy(&entry.path_bytes()).replace(&"d".repeat(120), "long");
            let (mode, user, size) = (header.mode().unwrap(), header.uid().unwrap(), header.size().unwrap());
            told += &format!("{path} {mode:o} {user} {size}\n");
        }
        expect_test::expect![[r#"
            ../data/ 1777 7 0
            a/ 755 0 0
            a/b/ 755 0 0
            a/b/c 600 7 3
            a/b/d 640 7 3
            e/ 700 7 0
            long/ 755 0 0
            long/x 600 7 0
        "#]]
        .assert_eq(&told);
    }

    /// Regression 191: the path of a file was written as it was. `items[].path: ../../etc/x` of a ConfigMap left its volume as
    /// far as Docker let it, and the pod never started.
    #[test]
    fn a_path_that_leaves_its_directory_is_refused() {
        for path in ["../x", "../../etc/x", "a/../../x", "/etc/x", "a//b", "..", "../", "a/./b"] {
            let file = File { path: path.into(), mode: 0o644, owner: (0, 0), bytes: Vec::new() };
            assert!(archive("/mnt/data", &[file]).is_err(), "{path}");
        }
    }
}
