//! Inputs of containers from Secrets and ConfigMaps, read just before use: environment, files, registry logins.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use k8s_openapi::api::core::v1::{KeyToPath, Volume};
use serde_json::Value;

use crate::api::failure::{Class, Failure};
use crate::engine::{File, RegistryLogin};
use crate::store::objects::Objects;
use crate::store::{Error, Key};

/// Default permissions of files.
const FILE_MODE: i32 = 0o644;

/// A source of one or more environment variables.
#[allow(missing_docs)]
#[derive(Debug, Clone, PartialEq)]
pub enum EnvSource {
    /// A variable with this value; `$(NAME)` in it refers to an earlier variable.
    Value { name: String, value: String },
    /// A variable from a key of a Secret or ConfigMap.
    Key { name: String, input: InputRef, key: String, optional: bool },
    /// A variable from each key of a Secret or ConfigMap, with this prefix before the key.
    All { prefix: String, input: InputRef, optional: bool },
}

/// A Secret or ConfigMap of the namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct InputRef {
    /// `secrets` or `configmaps`.
    pub resource: &'static str,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for InputRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", if self.resource == "secrets" { "Secret" } else { "ConfigMap" }, self.name)
    }
}

/// A Secret with that name.
pub fn secret(name: &str) -> InputRef {
    InputRef { resource: "secrets", name: name.to_owned() }
}

/// A ConfigMap with that name.
pub fn config_map(name: &str) -> InputRef {
    InputRef { resource: "configmaps", name: name.to_owned() }
}

/// The Secret or ConfigMap, if it exists.
pub async fn object(objects: &Objects, namespace: &str, input: &InputRef) -> Result<Option<Value>, Error> {
    objects.get(&Key::new(input.resource, namespace, &input.name)).await
}

/// The values of a Secret or ConfigMap, by key.
pub fn contents(value: &Value) -> BTreeMap<String, Vec<u8>> {
    let secret = value["kind"] == "Secret";
    let mut all = BTreeMap::new();
    for (field, encoded) in [("data", secret), ("binaryData", true)] {
        for (key, text) in value[field].as_object().into_iter().flatten() {
            let text = text.as_str().unwrap_or_default();
            let bytes = if encoded { BASE64.decode(text).unwrap_or_default() } else { text.as_bytes().to_vec() };
            all.insert(key.clone(), bytes);
        }
    }
    all
}

/// Builds the environment.
pub async fn environment(
    objects: &Objects,
    namespace: &str,
    sources: &[EnvSource],
) -> Result<BTreeMap<String, String>, Failure> {
    let mut env: BTreeMap<String, String> = BTreeMap::new();
    for source in sources {
        match source {
            EnvSource::Value { name, value } => {
                let value = expand(value, &env);
                env.insert(name.clone(), value);
            }
            EnvSource::Key { name, input, key, optional } => {
                let found = object(objects, namespace, input).await?;
                let value = found.as_ref().map(contents).and_then(|mut contents| contents.remove(key));
                match value {
                    Some(value) => drop(env.insert(name.clone(), text(value))),
                    None if *optional => {}
                    None => return Err(gone(input)),
                }
            }
            EnvSource::All { prefix, input, optional } => match object(objects, namespace, input).await? {
                Some(value) => {
                    let all = contents(&value).into_iter();
                    env.extend(all.map(|(key, value)| (format!("{prefix}{key}"), text(value))));
                }
                None if *optional => {}
                None => return Err(gone(input)),
            },
        }
    }
    Ok(env)
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The failure for an input that existed when the plan was made and is gone now.
fn gone(input: &InputRef) -> Failure {
    Failure::new(Class::Conflict, format!("{input} changed meanwhile"))
}

/// Replaces `$(NAME)` by the variable's value and `$$` by a dollar; unknown names stay.
fn expand(value: &str, env: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = value;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let name = rest.strip_prefix("$(").and_then(|inner| inner.split_once(')'));
        match name.and_then(|(name, after)| Some((env.get(name)?, after))) {
            Some((known, after)) => {
                out.push_str(known);
                rest = after;
            }
            None => {
                out.push('$');
                rest = rest.strip_prefix("$$").unwrap_or(&rest[1..]);
            }
        }
    }
    out + rest
}

/// The files of a volume from a Secret or ConfigMap.
pub async fn files(objects: &Objects, namespace: &str, volume: &Volume) -> Result<Vec<File>, Failure> {
    let (input, items, mode, optional) = if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        (secret(name), &source.items, source.default_mode, source.optional)
    } else if let Some(map) = &volume.config_map {
        (config_map(&map.name), &map.items, map.default_mode, map.optional)
    } else {
        return Ok(Vec::new());
    };
    let contents = match object(objects, namespace, &input).await? {
        Some(value) => contents(&value),
        None if optional == Some(true) => BTreeMap::new(),
        None => return Err(gone(&input)),
    };
    let mode = |own: Option<i32>| u32::try_from(own.or(mode).unwrap_or(FILE_MODE)).unwrap_or_default() & 0o7777;
    let file = |path: String, mode: u32, bytes: Vec<u8>| File { path, mode, owner: (0, 0), bytes };
    let Some(items) = items.as_ref().filter(|items| !items.is_empty()) else {
        return Ok(contents.into_iter().map(|(key, bytes)| file(key, mode(None), bytes)).collect());
    };
    let chosen = |item: &KeyToPath| {
        let bytes = contents.get(&item.key).cloned()?;
        Some(file(item.path.clone(), mode(item.mode), bytes))
    };
    Ok(items.iter().filter_map(chosen).collect())
}

/// The login for an image's registry, from Secrets of type `kubernetes.io/dockerconfigjson`.
pub async fn login(
    objects: &Objects,
    namespace: &str,
    secrets: &[String],
    image: &str,
) -> Result<Option<RegistryLogin>, Failure> {
    let server = registry_of(image);
    for name in secrets {
        let Some(secret) = object(objects, namespace, &secret(name)).await? else {
            let missing = format!("imagePullSecrets: Secret {name} does not exist; create it");
            return Err(Failure::new(Class::Transient, missing));
        };
        let config = contents(&secret).remove(".dockerconfigjson").unwrap_or_default();
        let config: Value = serde_json::from_slice(&config).unwrap_or_default();
        for (known, entry) in config["auths"].as_object().into_iter().flatten() {
            let host = known.trim_start_matches("https://").trim_start_matches("http://");
            if host.split('/').next() != Some(server) {
                continue;
            }
            let auth = entry["auth"].as_str().and_then(|auth| BASE64.decode(auth).ok()).map(text);
            let pair = auth.as_deref().and_then(|auth| auth.split_once(':'));
            let own = |field: &str| entry[field].as_str().map(str::to_owned);
            let username = own("username").or(pair.map(|(name, _)| name.to_owned())).unwrap_or_default();
            let password = own("password").or(pair.map(|(_, word)| word.to_owned())).unwrap_or_default();
            return Ok(Some(RegistryLogin { server: known.clone(), username, password }));
        }
    }
    Ok(None)
}

/// The registry of an image reference; Docker's default if it names none.
fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "index.docker.io",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn variables_refer_to_those_before_them() {
        let env = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        assert_eq!(expand("x$(A)y$(B)$$z$", &env), "x1y$(B)$z$");
    }

    #[test]
    fn secrets_are_base64_and_config_maps_are_not() {
        let secret = json!({"kind": "Secret", "data": {"a": "eA=="}});
        let map = json!({"kind": "ConfigMap", "data": {"a": "eA=="}, "binaryData": {"b": "eA=="}});
        assert_eq!(contents(&secret)["a"], b"x");
        assert_eq!((contents(&map)["a"].as_slice(), contents(&map)["b"].as_slice()), (&b"eA=="[..], &b"x"[..]));
    }

    #[test]
    fn an_image_names_its_registry_or_means_dockers() {
        assert_eq!(registry_of("quay.example/a/b:1"), "quay.example");
        assert_eq!(registry_of("localhost/a"), "localhost");
        assert_eq!(registry_of("library/nginx:1"), "index.docker.io");
        assert_eq!(registry_of("nginx"), "index.docker.io");
    }
}
