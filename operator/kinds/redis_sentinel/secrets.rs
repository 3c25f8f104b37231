//! The Secrets of a RedisSentinel: `NAME-app` for applications, `NAME-internal` for its members. Passwords are created once
//! and never shown.

use serde_json::Value;

use crate::api::failure::Failure;
use crate::api::redis_sentinel::RedisSentinel;
use crate::api::secret::{percent, text};
use crate::kinds::certificates::authority::{self, Authority};
use crate::kinds::redis_certificates;
use crate::kinds::redis_passwords::{self, address, own};
use crate::store::objects::Objects;
use crate::store::{Clock, Error, Key};
use crate::supervisor::redis::wire::{Address, Credentials};

/// The keys of `NAME-internal`: passwords of the supervisor, of replication and of the Sentinels.
const INTERNAL: [&str; 3] = ["adminPassword", "replicationPassword", "sentinelPassword"];

/// Where applications connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The master.
    pub master: Address,
    /// The Sentinels.
    pub sentinels: Vec<Address>,
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
pub fn keys(object: &RedisSentinel) -> impl Iterator<Item = Key> {
    let certificates = object.spec.tls.enabled.then(|| authority::keys(object));
    redis_passwords::keys(object, &object.spec.auth).chain(certificates.into_iter().flatten())
}

/// The state of the Secrets.
pub async fn read(
    objects: &Objects,
    object: &RedisSentinel,
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
async fn passwords(objects: &Objects, object: &RedisSentinel) -> Result<Option<[String; 4]>, Error> {
    let passwords = redis_passwords::read(objects, object, &object.spec.auth, INTERNAL).await?;
    Ok(passwords.map(|([admin, replication, sentinel], app)| [admin, replication, sentinel, app]))
}

/// What every member should have; `None` until the passwords are created, and with TLS while there are no certificates to
/// send: members keep those that they have.
pub async fn credentials(
    objects: &Objects,
    object: &RedisSentinel,
    authority: Option<&Authority>,
) -> Result<Option<Credentials>, Error> {
    let passwords = passwords(objects, object).await?;
    Ok(passwords.and_then(|passwords| redis_certificates::credentials(passwords, &object.spec.tls, authority)))
}

/// Writes both Secrets: existing passwords stay, connection data is updated.
pub async fn ensure(
    objects: &Objects,
    clock: &dyn Clock,
    object: &RedisSentinel,
    authority: Option<&Authority>,
    facts: &Facts,
) -> Result<(), Failure> {
    let password = redis_passwords::ensure(objects, clock, object, &object.spec.auth, INTERNAL).await?;
    let ca = authority.and_then(Authority::server_cas);
    redis_passwords::write_app(objects, object, &fields(object, &password, ca, facts)).await
}

/// The application's Secret. `ca`: the CA certificates that verify the members; with TLS only.
fn fields(object: &RedisSentinel, password: &str, ca: Option<String>, facts: &Facts) -> Vec<(&'static str, String)> {
    let (user, master_name) = (&object.spec.auth.username, &object.spec.master_name);
    let login = format!("{}:{}", percent(user), percent(password));
    let scheme = redis_certificates::scheme(&object.spec.tls);
    let sentinels = facts.sentinels.iter().map(Address::to_string).collect::<Vec<_>>().join(",");
    let mut fields = vec![
        ("username", user.clone()),
        ("password", password.to_owned()),
        ("host", facts.master.ip.to_string()),
        ("port", facts.master.port.to_string()),
        ("masterName", master_name.clone()),
        ("uri", format!("{scheme}://{login}@{}/0", facts.master)),
        ("uri-sentinel", format!("{scheme}+sentinel://{login}@{sentinels}/{master_name}/0")),
        ("sentinels", sentinels),
    ];
    fields.extend(ca.map(|ca| ("ca.crt", ca)));
    fields
}

/// Where applications connect, as their Secret says.
fn facts_of(app: &Value) -> Option<Facts> {
    let master = address(&format!("{}:{}", text(app, "host")?, text(app, "port")?))?;
    let sentinels = text(app, "sentinels")?;
    Some(Facts { master, sentinels: sentinels.split(',').map(address).collect::<Option<_>>()? })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use expect_test::expect;
    use serde_json::json;

    use super::*;
    use crate::api::secret::encoded;
    use crate::runtime::clock::TestClock;
    use crate::store::MemoryStore;

    fn object(more: &str) -> RedisSentinel {
        let mut object =
            RedisSentinel::new("cache", serde_saphyr::from_str(&format!("image: redis:7\n{more}")).unwrap());
        (object.metadata.namespace, object.metadata.uid) = (Some("n".into()), Some("u".into()));
        object
    }

    fn facts(master: u8) -> Facts {
        let at = |last, port| Address { ip: [10, 0, 0, last].into(), port };
        Facts { master: at(master, 6379), sentinels: vec![at(102, 26379), at(103, 26379)] }
    }

    fn world() -> (Objects, Arc<TestClock>) {
        let clock = Arc::new(TestClock::still(jiff::Timestamp::UNIX_EPOCH));
        (Objects::new(Arc::new(MemoryStore::default()), clock.clone()), clock)
    }

    async fn put(objects: &Objects, name: &str, fields: &[(&str, &str)]) {
        let secret = json!({"metadata": {"name": name, "namespace": "n"}, "data": encoded(fields)});
        objects.create(&Key::new("secrets", "n", name), secret).await.unwrap();
    }

    #[test]
    fn applications_are_told_how_to_connect_in_every_usual_form() {
        let shown = |more: &str| {
            let fields = fields(&object(more), "p@ss", Some("CA".into()), &facts(2));
            fields.into_iter().map(|(key, text)| format!("{key}: {text}\n")).collect::<String>()
        };
        expect![[r#"
            username: app
            password: p@ss
            host: 10.0.0.2
            port: 6379
            masterName: mymaster
            uri: redis://app:p%40ss@10.0.0.2:6379/0
            uri-sentinel: redis+sentinel://app:p%40ss@10.0.0.102:26379,10.0.0.103:26379/mymaster/0
            sentinels: 10.0.0.102:26379,10.0.0.103:26379
            ca.crt: CA
        "#]]
        .assert_eq(&shown(""));
        let tls = shown("tls: {enabled: true}\n");
        assert!(tls.contains("uri: rediss://app:") && tls.contains("uri-sentinel: rediss+sentinel://app:"), "{tls}");
    }

    #[tokio::test]
    async fn passwords_are_made_once_and_the_address_follows_the_master() {
        let (objects, clock) = world();
        let object = object("");
        assert_eq!(read(&objects, &object, None).await.unwrap(), SecretsSeen::default());
        ensure(&objects, &*clock, &object, None, &facts(2)).await.unwrap();
        let first = credentials(&objects, &object, None).await.unwrap().unwrap();
        let seen = read(&objects, &object, None).await.unwrap();
        let right = SecretsSeen { problem: None, complete: true, hash: first.hash.clone(), facts: Some(facts(2)) };
        assert_eq!(seen, right);
        ensure(&objects, &*clock, &object, None, &facts(3)).await.unwrap();
        assert_eq!(credentials(&objects, &object, None).await.unwrap(), Some(first.clone()));
        assert_eq!(read(&objects, &object, None).await.unwrap(), SecretsSeen { facts: Some(facts(3)), ..right });
        let Credentials { admin_password, replication_password, sentinel_password, app_password, .. } = first;
        let mut all = vec![admin_password, replication_password, sentinel_password, app_password];
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.iter().map(String::len).collect::<Vec<_>>(), [redis_passwords::LENGTH; 4]);
    }

    /// Regression 347: a key of `NAME-internal` that was removed by hand left all members without credentials.
    #[tokio::test]
    async fn a_password_that_was_removed_is_made_again_and_the_others_stay() {
        let (objects, clock) = world();
        let object = object("");
        ensure(&objects, &*clock, &object, None, &facts(2)).await.unwrap();
        let before = credentials(&objects, &object, None).await.unwrap().unwrap();
        let key = own(&object, "internal");
        let mut secret: Value = objects.get(&key).await.unwrap().unwrap();
        secret["data"].as_object_mut().unwrap().remove("sentinelPassword");
        objects.update(&key, secret).await.unwrap();
        assert!(!read(&objects, &object, None).await.unwrap().complete);
        ensure(&objects, &*clock, &object, None, &facts(2)).await.unwrap();
        let after = credentials(&objects, &object, None).await.unwrap().unwrap();
        assert_eq!(after.admin_password, before.admin_password);
        assert_ne!(after.sentinel_password, before.sentinel_password);
    }

    /// Regression 348: a Secret of the user's that is not there, or that has no usable password, must be told, and must not
    /// change what the members use.
    #[tokio::test]
    async fn a_secret_that_cannot_be_used_is_told_and_the_password_before_stays() {
        let (objects, clock) = world();
        ensure(&objects, &*clock, &object(""), None, &facts(2)).await.unwrap();
        let generated = credentials(&objects, &object(""), None).await.unwrap().unwrap();
        put(&objects, "none", &[("user", "x")]).await;
        put(&objects, "empty", &[("password", "")]).await;
        put(&objects, "line", &[("password", "secret\n")]).await;
        put(&objects, "other", &[("password", "secret"), ("username", "root")]).await;
        put(&objects, "good", &[("password", "secret"), ("username", "app")]).await;
        let mut told = String::new();
        for name in ["missing", "none", "empty", "line", "other", "cache-app", "good"] {
            let object = object(&format!("auth: {{secret: {{name: {name}}}}}\n"));
            let problem = read(&objects, &object, None).await.unwrap().problem;
            let used = credentials(&objects, &object, None).await.unwrap().unwrap();
            assert_eq!(used.app_password != generated.app_password, problem.is_none(), "{name}");
            assert_eq!(ensure(&objects, &*clock, &object, None, &facts(2)).await.is_err(), problem.is_some(), "{name}");
            told += &format!("{}\n", problem.unwrap_or_else(|| "none".into()));
        }
        assert!(!told.contains("secret\n"));
        expect![[r#"
            spec.auth.secret names Secret missing, which does not exist: create it with the key password
            spec.auth.secret: Secret none has no key password
            spec.auth.secret: password in Secret empty is empty
            spec.auth.secret: password in Secret line has a line break or another control character, which clients cannot send
            spec.auth.secret: username in Secret other is "root", but spec.auth.username is app
            spec.auth.secret names Secret cache-app, which Evenkeel writes itself: use another name
            none
        "#]]
        .assert_eq(&told);
    }
}
