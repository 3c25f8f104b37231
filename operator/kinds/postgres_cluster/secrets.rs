//! The Secrets of a cluster: `NAME-app` for applications, `NAME-internal` for replication. Passwords are created once
//! and never shown.

use serde_json::{Value, json};

use super::{PostgresClusterKind, SecretsSeen};
use crate::api::failure::{Class, Failure};
use crate::api::hash::short_hash_of_parts;
use crate::api::object::Object as _;
use crate::api::postgres_cluster::PostgresCluster;
use crate::api::secret::{self, text};
use crate::store::clock;
use crate::store::objects::Objects;
use crate::store::{Error, Key};
use crate::supervisor::wire::{Credentials, PORT};

const PASSWORD_LENGTH: usize = 32;
const REPLICATION_PASSWORD: &str = "replicationPassword";

fn app(object: &PostgresCluster) -> Key {
    Key::beside(object, "secrets", &format!("{}-app", object.name()))
}

fn internal(object: &PostgresCluster) -> Key {
    Key::beside(object, "secrets", &format!("{}-internal", object.name()))
}

/// The Secret that the user named for the owner's password, if any.
fn given(object: &PostgresCluster) -> Option<Key> {
    object.spec.bootstrap.initdb.secret.as_ref().map(|named| Key::beside(object, "secrets", &named.name))
}

/// The keys of all Secrets that are read for a cluster.
pub fn keys(object: &PostgresCluster) -> impl Iterator<Item = Key> {
    [app(object), internal(object)].into_iter().chain(given(object))
}

/// The state of the Secrets, without their values.
pub async fn read(objects: &Objects, object: &PostgresCluster) -> Result<SecretsSeen, Error> {
    let source_problem = source(objects, object).await?.err();
    let app: Option<Value> = objects.get(&app(object)).await?;
    let host = app.as_ref().and_then(|secret| text(secret, "host")).unwrap_or_default();
    let credentials = credentials(objects, object).await?;
    let hash = credentials.as_ref().map(|credentials| credentials.hash.clone()).unwrap_or_default();
    // If the user changed the password in the named Secret, it must be copied into the application's Secret.
    let told = app.as_ref().and_then(|secret| text(secret, "password"));
    let complete = credentials.is_some_and(|credentials| Some(credentials.owner_password) == told);
    Ok(SecretsSeen { source_problem, complete, hash, host })
}

/// The owner's password from the user's Secret, if one is named; or the problem with that Secret.
async fn source(objects: &Objects, object: &PostgresCluster) -> Result<Result<Option<String>, String>, Error> {
    let initdb = &object.spec.bootstrap.initdb;
    let Some(key) = given(object) else { return Ok(Ok(None)) };
    let (path, name, owner) = ("spec.bootstrap.initdb.secret", &key.name, &initdb.owner);
    let Some(secret) = objects.get::<Value>(&key).await? else {
        let keys = "create it with the keys username and password";
        return Ok(Err(format!("{path} names Secret {name}, which does not exist: {keys}")));
    };
    if let Some(username) = text(&secret, "username").filter(|username| username != owner) {
        let declared = format!("spec.bootstrap.initdb.owner is {owner}");
        return Ok(Err(format!("{path}: username in Secret {name} is {username}, but {declared}")));
    }
    Ok(match text(&secret, "password").filter(|password| !password.is_empty()) {
        Some(password) => Ok(Some(password)),
        None => Err(format!("{path}: Secret {name} has no key password")),
    })
}

/// The passwords in use; `None` until they are created.
pub async fn credentials(objects: &Objects, object: &PostgresCluster) -> Result<Option<Credentials>, Error> {
    let (app, internal): (Option<Value>, Option<Value>) =
        (objects.get(&app(object)).await?, objects.get(&internal(object)).await?);
    let given = source(objects, object).await?.ok().flatten();
    let owner_password = given.or_else(|| text(app.as_ref()?, "password"));
    let replication_password = internal.as_ref().and_then(|secret| text(secret, REPLICATION_PASSWORD));
    let (Some(owner_password), Some(replication_password), true) =
        (owner_password, replication_password, app.is_some())
    else {
        return Ok(None);
    };
    let hash = short_hash_of_parts([&replication_password, &owner_password], 16);
    Ok(Some(Credentials { hash, replication_password, owner_password, tls: None }))
}

/// Writes both Secrets: existing passwords stay, connection data is updated.
pub async fn ensure(controller: &PostgresClusterKind, object: &PostgresCluster, host: &str) -> Result<(), Failure> {
    let objects = &controller.objects;
    let generate = || clock::password(&*controller.clock, PASSWORD_LENGTH);
    let given = source(objects, object).await?.map_err(|problem| Failure::new(Class::Terminal, problem))?;
    let old: Option<Value> = objects.get(&app(object)).await?;
    let password = given.or_else(|| text(old.as_ref()?, "password")).unwrap_or_else(generate);
    let initdb = &object.spec.bootstrap.initdb;
    let hosts: Vec<_> = host.split(',').map(|host| format!("{host}:{PORT}")).collect();
    let uri = format!(
        "postgresql://{}:{}@{}/{}?target_session_attrs=read-write",
        percent(&initdb.owner),
        percent(&password),
        hosts.join(","),
        percent(&initdb.database),
    );
    let port = PORT.to_string();
    let fields = [
        ("username", initdb.owner.as_str()),
        ("password", &password),
        ("dbname", &initdb.database),
        ("host", host),
        ("port", &port),
        ("uri", &uri),
    ];
    write(objects, object, &app(object), &fields).await?;
    if objects.get::<Value>(&internal(object)).await?.is_none() {
        write(objects, object, &internal(object), &[(REPLICATION_PASSWORD, &generate())]).await?;
    }
    Ok(())
}

async fn write(objects: &Objects, object: &PostgresCluster, key: &Key, fields: &[(&str, &str)]) -> Result<(), Error> {
    let mut secret = secret::owned(object, &key.name, fields);
    secret["metadata"]["ownerReferences"][0]["blockOwnerDeletion"] = json!(true);
    match objects.create(key, secret.clone()).await {
        Err(Error::AlreadyExists { .. }) => objects.update(key, secret).await.map(drop),
        outcome => outcome.map(drop),
    }
}

/// Percent-encodes every character that has a meaning in a connection URI.
fn percent(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_uri_could_take_for_itself_is_encoded() {
        assert_eq!(percent("p@ss:w/ör d~"), "p%40ss%3Aw%2F%C3%B6r%20d~");
    }
}
