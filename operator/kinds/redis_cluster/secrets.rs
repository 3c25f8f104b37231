//! The Secrets of a RedisCluster: `NAME-app` for applications, `NAME-internal` for its members. Passwords are created once
//! and never shown.

use serde_json::Value;

use crate::api::failure::Failure;
use crate::api::hash::short_hash_of_parts;
use crate::api::redis_cluster::RedisCluster;
use crate::api::secret::{percent, text};
use crate::kinds::certificates::authority::{self, Authority};
use crate::kinds::redis_certificates;
use crate::kinds::redis_passwords::{self, address, own};
use crate::store::objects::Objects;
use crate::store::{Clock, Error, Key};
use crate::supervisor::redis::wire::{Address, Credentials};

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

/// The keys of all Secrets that are read.
pub fn keys(object: &RedisCluster) -> impl Iterator<Item = Key> {
    let certificates = object.spec.tls.enabled.then(|| authority::keys(object));
    redis_passwords::keys(object, &object.spec.auth).chain(certificates.into_iter().flatten())
}

/// The state of the Secrets.
pub async fn read(
    objects: &Objects,
    object: &RedisCluster,
    authority: Option<&Authority>,
) -> Result<SecretsSeen, Error> {
    let problem = redis_passwords::source(objects, object, &object.spec.auth).await?.err();
    let app: Option<Value> = objects.get(&own(object, "app")).await?;
    let facts = app.as_ref().and_then(facts_of);
    let passwords = passwords(objects, object).await?;
    let agrees = |([.., password], (app, facts)): (&[String; 4], (Value, &Facts))| {
        let fields = fields(object, password, authority.and_then(Authority::server_cas), facts);
        fields.into_iter().all(|(key, value)| text(&app, key) == Some(value))
    };
    let complete = passwords.as_ref().zip(app.zip(facts.as_ref())).is_some_and(agrees);
    let credentials =
        passwords.and_then(|passwords| redis_certificates::credentials(passwords, &object.spec.tls, authority));
    let hash = credentials.map(|credentials| credentials.hash).unwrap_or_default();
    Ok(SecretsSeen { problem, complete, hash, facts })
}

/// The passwords in use, that of the application last; `None` until they are created. While the user's Secret has a problem,
/// the password before stays.
async fn passwords(objects: &Objects, object: &RedisCluster) -> Result<Option<[String; 4]>, Error> {
    let passwords = redis_passwords::read(objects, object, &object.spec.auth, INTERNAL).await?;
    let Some(([admin, replication], app)) = passwords else { return Ok(None) };
    // No Sentinel watches a Redis Cluster; its user gets the password of nobody else.
    let sentinel = short_hash_of_parts([&admin, "sentinel"], 32);
    Ok(Some([admin, replication, sentinel, app]))
}

/// What every member should have; `None` until it exists: members keep what they have.
pub async fn credentials(
    objects: &Objects,
    object: &RedisCluster,
    authority: Option<&Authority>,
) -> Result<Option<Credentials>, Error> {
    let passwords = passwords(objects, object).await?;
    Ok(passwords.and_then(|passwords| redis_certificates::credentials(passwords, &object.spec.tls, authority)))
}

/// Writes both Secrets: existing passwords stay, connection data is updated.
pub async fn ensure(
    objects: &Objects,
    clock: &dyn Clock,
    object: &RedisCluster,
    authority: Option<&Authority>,
    facts: &Facts,
) -> Result<(), Failure> {
    let password = redis_passwords::ensure(objects, clock, object, &object.spec.auth, INTERNAL).await?;
    let ca = authority.and_then(Authority::server_cas);
    redis_passwords::write_app(objects, object, &fields(object, &password, ca, facts)).await
}

/// The application's Secret. `ca`: the CA certificates that verify the members; with TLS only.
fn fields(object: &RedisCluster, password: &str, ca: Option<String>, facts: &Facts) -> Vec<(&'static str, String)> {
    let scheme = redis_certificates::scheme(&object.spec.tls);
    let user = &object.spec.auth.username;
    let nodes = facts.members.iter().map(Address::to_string).collect::<Vec<_>>().join(",");
    let first = facts.members.first().map(Address::to_string).unwrap_or_default();
    let (host, port) = first.split_once(':').unwrap_or_default();
    let mut fields = vec![
        ("username", user.clone()),
        ("password", password.to_owned()),
        ("host", host.to_owned()),
        ("port", port.to_owned()),
        ("uri", format!("{scheme}://{}:{}@{first}", percent(user), percent(password))),
        ("nodes", nodes),
    ];
    fields.extend(ca.map(|ca| ("ca.crt", ca)));
    fields
}

/// Where applications connect, as their Secret says.
fn facts_of(app: &Value) -> Option<Facts> {
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
        assert_eq!(read(&objects, &object, None).await.unwrap(), SecretsSeen::default());
        let at = |last| Address { ip: [10, 0, 0, last].into(), port: 6379 };
        let facts = Facts { members: vec![at(2), at(3)] };
        ensure(&objects, &*clock, &object, None, &facts).await.unwrap();
        let first = credentials(&objects, &object, None).await.unwrap().unwrap();
        let seen = read(&objects, &object, None).await.unwrap();
        assert_eq!((seen.complete, seen.facts, seen.hash), (true, Some(facts), first.hash.clone()));
        ensure(&objects, &*clock, &object, None, &Facts { members: vec![at(4)] }).await.unwrap();
        assert_eq!(credentials(&objects, &object, None).await.unwrap(), Some(first.clone()));
        let app: Value = objects.get(&own(&object, "app")).await.unwrap().unwrap();
        assert_eq!(text(&app, "nodes").unwrap(), "10.0.0.4:6379");
        assert_eq!(text(&app, "uri").unwrap(), format!("redis://app:{}@10.0.0.4:6379", first.app_password));
    }

    /// Regression 442: a Secret of the user's with another username was taken without a word, and applications that used its
    /// username were refused. The rule was RedisSentinel's only; now both kinds have one.
    #[tokio::test]
    async fn a_secret_with_another_username_is_told() {
        let clock = Arc::new(TestClock::still(jiff::Timestamp::UNIX_EPOCH));
        let objects = Objects::new(Arc::new(MemoryStore::default()), clock);
        let spec = "image: redis:7\nauth: {secret: {name: other}}";
        let mut object = RedisCluster::new("shop", serde_saphyr::from_str(spec).unwrap());
        (object.metadata.namespace, object.metadata.uid) = (Some("n".into()), Some("u".into()));
        let data = crate::api::secret::encoded(&[("password", "secret"), ("username", "root")]);
        let secret = serde_json::json!({"metadata": {"name": "other", "namespace": "n"}, "data": data});
        objects.create(&Key::new("secrets", "n", "other"), secret).await.unwrap();
        let told = "spec.auth.secret: username in Secret other is \"root\", but spec.auth.username is app";
        assert_eq!(read(&objects, &object, None).await.unwrap().problem.as_deref(), Some(told));
    }
}
