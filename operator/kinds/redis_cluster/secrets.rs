//! The Secrets of a RedisCluster: `NAME-app` for applications, `NAME-internal` for its members. Passwords are created once
//! and never shown.

use serde_json::Value;

use crate::api::failure::{Class, Failure};
use crate::api::hash::short_hash_of_parts;
use crate::api::object::Object as _;
use crate::api::redis_cluster::RedisCluster;
use crate::api::secret::{percent, text};
use crate::kinds::owned_secret::write;
use crate::store::clock;
use crate::store::objects::Objects;
use crate::store::{Clock, Error, Key};
use crate::supervisor::redis::wire::{Address, Credentials};

const PASSWORD_LENGTH: usize = 32;
/// Longest password of a user's, in bytes.
const LONGEST_PASSWORD: usize = 512;
/// The keys of `NAME-internal`: passwords of the supervisor and of replication.
const INTERNAL: [&str; 2] = ["adminPassword", "replicationPassword"];

/// Where applications connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The members.
    pub members: Vec<Address>,
}

/// The state of the Secrets, without their values.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SecretsSeen {
    /// The problem with the user's Secret.
    pub problem: Option<String>,
    /// Both exist, and the application's agrees with the spec, the passwords and [`SecretsSeen::facts`].
    pub complete: bool,
    /// Hash of the credentials; empty until they exist.
    pub hash: String,
    /// Where applications connect, as their Secret says.
    pub facts: Option<Facts>,
}

fn own(object: &RedisCluster, end: &str) -> Key {
    Key::beside(object, "secrets", &format!("{}-{end}", object.name()))
}

/// The keys of all Secrets that are read.
pub fn keys(object: &RedisCluster) -> impl Iterator<Item = Key> {
    let given = object.spec.auth.secret.as_ref().map(|named| Key::beside(object, "secrets", &named.name));
    [own(object, "app"), own(object, "internal")].into_iter().chain(given)
}

/// The state of the Secrets.
pub async fn read(objects: &Objects, object: &RedisCluster) -> Result<SecretsSeen, Error> {
    let problem = source(objects, object).await?.err();
    let app: Option<Value> = objects.get(&own(object, "app")).await?;
    let facts = app.as_ref().and_then(facts_of);
    let credentials = credentials(objects, object).await?;
    let hash = credentials.as_ref().map(|credentials| credentials.hash.clone()).unwrap_or_default();
    let agrees = |(credentials, (app, facts)): (Credentials, (Value, &Facts))| {
        let fields = fields(object, &credentials.app_password, facts);
        fields.into_iter().all(|(key, value)| text(&app, key) == Some(value))
    };
    let complete = credentials.zip(app.zip(facts.as_ref())).is_some_and(agrees);
    Ok(SecretsSeen { problem, complete, hash, facts })
}

/// The application's password from the user's Secret, if one is named; or the problem with that Secret.
async fn source(objects: &Objects, object: &RedisCluster) -> Result<Result<Option<String>, String>, Error> {
    let Some(named) = &object.spec.auth.secret else { return Ok(Ok(None)) };
    let (path, name) = ("spec.auth.secret", &named.name);
    let key = Key::beside(object, "secrets", name);
    if [own(object, "app"), own(object, "internal")].contains(&key) {
        return Ok(Err(format!("{path} names Secret {name}, which Evenkeel writes itself: use another name")));
    }
    let Some(secret) = objects.get::<Value>(&key).await? else {
        return Ok(Err(format!("{path} names Secret {name}, which does not exist: create it with the key password")));
    };
    Ok(match text(&secret, "password") {
        None => Err(format!("{path}: Secret {name} has no key password")),
        Some(password) if password.is_empty() => Err(format!("{path}: password in Secret {name} is empty")),
        Some(password) if password.contains(char::is_control) => Err(format!(
            "{path}: password in Secret {name} has a line break or another control character, which clients cannot send"
        )),
        Some(password) if password.len() > LONGEST_PASSWORD => {
            Err(format!("{path}: password in Secret {name} is longer than {LONGEST_PASSWORD} bytes"))
        }
        Some(password) => Ok(Some(password)),
    })
}

/// The passwords in use; `None` until they are created. While the user's Secret has a problem, the password before stays.
pub async fn credentials(objects: &Objects, object: &RedisCluster) -> Result<Option<Credentials>, Error> {
    let app: Option<Value> = objects.get(&own(object, "app")).await?;
    let internal: Option<Value> = objects.get(&own(object, "internal")).await?;
    let given = source(objects, object).await?.ok().flatten();
    let passwords = app.zip(internal).and_then(|(app, internal)| {
        let [admin, replication] = INTERNAL.map(|key| text(&internal, key));
        Some((admin?, replication?, given.or_else(|| text(&app, "password"))?))
    });
    let Some((admin_password, replication_password, app_password)) = passwords else { return Ok(None) };
    let hash = short_hash_of_parts([&admin_password, &replication_password, &app_password], 16);
    // No Sentinel watches a Redis Cluster; its user gets the password of nobody else.
    let sentinel_password = short_hash_of_parts([&admin_password, "sentinel"], 32);
    Ok(Some(Credentials { hash, admin_password, replication_password, sentinel_password, app_password, tls: None }))
}

/// Writes both Secrets: existing passwords stay, connection data is updated.
pub async fn ensure(objects: &Objects, clock: &dyn Clock, object: &RedisCluster, facts: &Facts) -> Result<(), Failure> {
    let generate = || clock::password(clock, PASSWORD_LENGTH);
    let given = source(objects, object).await?.map_err(|problem| Failure::new(Class::Terminal, problem))?;
    let old: Option<Value> = objects.get(&own(object, "internal")).await?;
    let kept = INTERNAL.map(|key| old.as_ref().and_then(|secret| text(secret, key)));
    if kept.iter().any(Option::is_none) {
        let passwords = kept.map(|kept| kept.unwrap_or_else(generate));
        let fields: Vec<_> = INTERNAL.into_iter().zip(passwords.iter().map(String::as_str)).collect();
        write(objects, object, &own(object, "internal"), "Opaque", None, &fields).await?;
    }
    let old: Option<Value> = objects.get(&own(object, "app")).await?;
    let password = given.or_else(|| text(old.as_ref()?, "password")).unwrap_or_else(generate);
    let fields = fields(object, &password, facts);
    let fields: Vec<(&str, &str)> = fields.iter().map(|(key, value)| (*key, value.as_str())).collect();
    write(objects, object, &own(object, "app"), "Opaque", None, &fields).await?;
    Ok(())
}

/// The application's Secret.
fn fields(object: &RedisCluster, password: &str, facts: &Facts) -> Vec<(&'static str, String)> {
    let user = &object.spec.auth.username;
    let nodes = facts.members.iter().map(Address::to_string).collect::<Vec<_>>().join(",");
    let first = facts.members.first().map(Address::to_string).unwrap_or_default();
    let (host, port) = first.split_once(':').unwrap_or_default();
    vec![
        ("username", user.clone()),
        ("password", password.to_owned()),
        ("host", host.to_owned()),
        ("port", port.to_owned()),
        ("uri", format!("redis://{}:{}@{first}", percent(user), percent(password))),
        ("nodes", nodes),
    ]
}

/// Where applications connect, as their Secret says.
fn facts_of(app: &Value) -> Option<Facts> {
    let address = |text: &str| {
        let (ip, port) = text.split_once(':')?;
        Some(Address { ip: ip.parse().ok()?, port: port.parse().ok()? })
    };
    Some(Facts { members: text(app, "nodes")?.split(',').map(address).collect::<Option<_>>()? })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::runtime::clock::TestClock;
    use crate::store::MemoryStore;

    #[tokio::test]
    async fn passwords_are_made_once_and_applications_are_told_every_member() {
        let clock = Arc::new(TestClock::still(jiff::Timestamp::UNIX_EPOCH));
        let objects = Objects::new(Arc::new(MemoryStore::default()), clock.clone());
        let mut object = RedisCluster::new("shop", serde_saphyr::from_str("image: redis:7").unwrap());
        (object.metadata.namespace, object.metadata.uid) = (Some("n".into()), Some("u".into()));
        assert_eq!(read(&objects, &object).await.unwrap(), SecretsSeen::default());
        let at = |last| Address { ip: [10, 0, 0, last].into(), port: 6379 };
        let facts = Facts { members: vec![at(2), at(3)] };
        ensure(&objects, &*clock, &object, &facts).await.unwrap();
        let first = credentials(&objects, &object).await.unwrap().unwrap();
        let seen = read(&objects, &object).await.unwrap();
        assert_eq!((seen.complete, seen.facts, seen.hash), (true, Some(facts), first.hash.clone()));
        ensure(&objects, &*clock, &object, &Facts { members: vec![at(4)] }).await.unwrap();
        assert_eq!(credentials(&objects, &object).await.unwrap(), Some(first.clone()));
        let app: Value = objects.get(&own(&object, "app")).await.unwrap().unwrap();
        assert_eq!(text(&app, "nodes").unwrap(), "10.0.0.4:6379");
        assert_eq!(text(&app, "uri").unwrap(), format!("redis://app:{}@10.0.0.4:6379", first.app_password));
    }
}
