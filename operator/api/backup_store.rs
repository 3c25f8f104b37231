//! The store of backups and WAL, as a spec declares it: a bucket of S3, or a directory of the Docker hosts. Pure.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::invalid::Invalid;

/// Longest path or prefix, in bytes: an object's key has up to 1024, and ours follow it.
const LONGEST_PATH: usize = 512;

/// Exactly one of `s3` and `directory`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackupStore {
    /// A bucket of S3, or of a server that speaks its protocol.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Store>,
    /// A directory of each Docker host that has an instance: the same network file system on all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<DirectoryStore>,
}

/// A bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct S3Store {
    /// Its name.
    pub bucket: String,
    /// What every key begins with, such as `prod/databases`. Default: nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prefix: String,
    /// The server: `https://HOST[:PORT]`, or `http://` where nobody else can listen. Default: that of AWS for the region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The region that requests are signed for.
    #[serde(default = "S3Store::region")]
    pub region: String,
    /// `true`: the bucket is in the path of a request, and not in its host name. Default: `true` if there is an endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,
    /// A checksum that the server compares with each upload. A bucket with Object Lock takes none without it. Default: none, as some
    /// stores refuse such requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<S3Checksum>,
    /// What opens the bucket.
    pub credentials: S3Credentials,
    /// A Secret whose key `ca.crt` has the CA certificates to trust, as PEM. Default: the public ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1))]
    pub ca_secret_name: Option<String>,
}

/// Checksums of uploads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum S3Checksum {
    /// `x-amz-checksum-sha256`.
    #[serde(rename = "SHA256")]
    Sha256,
}

/// What opens a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct S3Credentials {
    /// A Secret with the keys `accessKeyId` and `secretAccessKey`, and `sessionToken` for temporary credentials.
    #[schemars(length(min = 1))]
    pub secret_name: String,
}

/// A directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DirectoryStore {
    /// An absolute path on each Docker host that has an instance.
    pub path: String,
}

/// What an archive is encrypted with, before it leaves a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Encryption {
    /// A Secret with the key `identity`: lines `AGE-SECRET-KEY-1...`, as `age-keygen` writes them. The first is used for what is written,
    /// all of them for what is read.
    #[schemars(length(min = 1))]
    pub secret_name: String,
}

impl S3Store {
    /// The default of [`S3Store::region`].
    pub fn region() -> String {
        "us-east-1".into()
    }

    /// Whether the bucket is in the path of a request.
    pub fn path_style(&self) -> bool {
        self.path_style.unwrap_or(self.endpoint.is_some())
    }
}

impl BackupStore {
    /// The names of the Secrets that it needs.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        self.s3.iter().flat_map(|s3| {
            [Some(s3.credentials.secret_name.as_str()), s3.ca_secret_name.as_deref()].into_iter().flatten()
        })
    }

    /// Every problem; `path` is that of the store, such as `spec.backup.store`.
    pub fn problems(&self, path: &str) -> Vec<Invalid> {
        let mut problems = Vec::new();
        let mut wrong = |field: &str, message: &str| problems.push(Invalid::new(format!("{path}{field}"), message));
        if self.s3.is_some() == self.directory.is_some() {
            wrong("", "give exactly one of s3, directory");
        }
        if let Some(s3) = &self.s3 {
            if !is_bucket(&s3.bucket) {
                wrong(".s3.bucket", "not a bucket name (3 to 63 of a-z 0-9 . -)");
            }
            if !s3.prefix.is_empty() && !is_relative(&s3.prefix) {
                wrong(".s3.prefix", "relative, without empty or .. parts");
            }
            if s3.endpoint.as_deref().is_some_and(|endpoint| !is_endpoint(endpoint)) {
                wrong(".s3.endpoint", "needs http:// or https:// and no path");
            }
            let word = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if s3.region.is_empty() || s3.region.len() > 64 || !s3.region.chars().all(word) {
                wrong(".s3.region", "not a region, such as us-east-1 (1 to 64 letters, digits, - and _)");
            }
        }
        if self.directory.as_ref().is_some_and(|directory| !is_directory(&directory.path)) {
            wrong(".directory.path", "absolute, without empty, . or .. parts, and without ':' and ','");
        }
        problems
    }
}

/// Whether it is the name of a bucket.
fn is_bucket(name: &str) -> bool {
    let end = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (3..=63).contains(&name.len())
        && name.chars().all(|c| end(c) || c == '.' || c == '-')
        && name.starts_with(end)
        && name.ends_with(end)
        && !name.contains("..")
}

/// Whether it is a path below another one: of parts that a URL and a file system take as they are.
pub fn is_relative(path: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-=+@".contains(c);
    let part = |part: &str| !part.is_empty() && part != "." && part != ".." && part.chars().all(allowed);
    path.len() <= LONGEST_PATH && path.split('/').all(part)
}

/// Whether it is a directory that can be mounted. The root itself is none.
fn is_directory(path: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part != "." && part != "..";
    let Some(below) = path.strip_prefix('/') else { return false };
    path.len() <= LONGEST_PATH
        && below.split('/').all(part)
        && !path.contains([':', ','])
        && !path.contains(char::is_control)
}

/// Whether it is a server: scheme, host, perhaps a port, and nothing else.
fn is_endpoint(endpoint: &str) -> bool {
    let Some((scheme, rest)) = endpoint.split_once("://") else { return false };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = match authority.rsplit_once(':') {
        // The colons within brackets are those of an IPv6 address.
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let named = |host: &str| host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c));
    let host_fits = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.len() <= 253 && named(host),
    };
    let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|number| number > 0));
    ["http", "https"].contains(&scheme) && host_fits && port_fits
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn problems(yaml: &str) -> String {
        let store: BackupStore = serde_saphyr::from_str(yaml).unwrap();
        store.problems("spec.backup.store").iter().map(|one| format!("{one}\n")).collect()
    }

    #[test]
    fn a_bucket_and_a_directory_are_accepted_with_their_defaults() {
        let yaml = "s3: {bucket: backups, credentials: {secretName: s3}}";
        let s3 = serde_saphyr::from_str::<BackupStore>(yaml).unwrap().s3.unwrap();
        assert_eq!((s3.region.as_str(), s3.path_style(), s3.prefix.as_str()), ("us-east-1", false, ""));
        let near = S3Store { endpoint: Some("http://10.0.0.1:9000".into()), ..s3.clone() };
        assert!(near.path_style() && !S3Store { path_style: Some(false), ..near }.path_style());
        for good in [
            yaml,
            "s3: {bucket: a.b-3, prefix: prod/db, endpoint: 'https://[::1]:9000/', credentials: {secretName: s}, caSecretName: c}",
            "directory: {path: /srv/backups}",
        ] {
            assert_eq!(problems(good), "", "{good}");
        }
        let store: BackupStore =
            serde_saphyr::from_str("s3: {bucket: abc, credentials: {secretName: s}, caSecretName: c}").unwrap();
        assert_eq!(store.secrets().collect::<Vec<_>>(), ["s", "c"]);
    }

    #[test]
    fn every_problem_of_a_store_is_told_with_its_path() {
        expect_test::expect![[r#"
            spec.backup.store: give exactly one of s3, directory
        "#]]
        .assert_eq(&problems("{}"));
        expect_test::expect![[r#"
            spec.backup.store: give exactly one of s3, directory
            spec.backup.store.s3.bucket: not a bucket name (3 to 63 of a-z 0-9 . -)
            spec.backup.store.s3.prefix: relative, without empty or .. parts
            spec.backup.store.s3.endpoint: needs http:// or https:// and no path
            spec.backup.store.s3.region: not a region, such as us-east-1 (1 to 64 letters, digits, - and _)
            spec.backup.store.directory.path: absolute, without empty, . or .. parts, and without ':' and ','
        "#]]
        .assert_eq(&problems(
            "{s3: {bucket: My_Bucket, prefix: /a, endpoint: s3.example, region: 'a b', credentials: {secretName: s}}, \
             directory: {path: backups}}",
        ));
    }

    #[test]
    fn what_only_looks_like_an_endpoint_a_prefix_or_a_directory_is_refused() {
        for bad in [
            "s3.example",
            "ftp://s3",
            "https://",
            "https://s3/path",
            "http://u:p@s3",
            "http://s3:0",
            "http://s3:x",
            "http://[::1",
            "http://a b",
            "https://s3?x=1",
            "HTTPS://s3",
        ] {
            assert!(!is_endpoint(bad), "{bad}");
        }
        for bad in ["/a", "a/", "a//b", "a/../b", ".", "..", "a b", "ä"] {
            assert!(!is_relative(bad), "{bad}");
        }
        for bad in ["/", "srv", "/srv/", "/srv/../etc", "/srv//a", "/srv:ro", "/srv,ro", "/a\nb"] {
            assert!(!is_directory(bad), "{bad}");
        }
        for bad in ["ab", "-ab", "ab-", "a..b", "My_Bucket"] {
            assert!(!is_bucket(bad), "{bad}");
        }
    }
}
