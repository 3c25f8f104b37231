//! The Secrets of a cluster: `NAME-app` for applications, `NAME-internal` for replication. Passwords are created once
//! and never shown.

use serde_json::Value;

use super::certificates;
use super::{PostgresClusterKind, SecretsSeen};
use crate::api::failure::{Class, Failure};
use crate::api::hash::short_hash_of_parts;
use crate::api::object::Object as _;
use crate::api::postgres_cluster::PostgresCluster;
use crate::api::postgres_tls::ClientTls;
use crate::api::secret::{percent, text};
use crate::kinds::certificates::authority::{self, Authority};
use crate::kinds::certificates::due::member_names;
use crate::kinds::owned_secret::write;
use crate::store::clock;
use crate::store::objects::Objects;
use crate::store::{Error, Key};
use crate::supervisor::wire::Credentials;

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
    object.spec.bootstrap.secret().map(|named| Key::beside(object, "secrets", &named.name))
}

/// The keys of all Secrets that are read for a cluster.
pub fn keys(object: &PostgresCluster) -> impl Iterator<Item = Key> {
    [app(object), internal(object)].into_iter().chain(given(object)).chain(authority::keys(object))
}

/// The state of the Secrets, without their values. `authority`: the certificates.
pub async fn read(objects: &Objects, object: &PostgresCluster, authority: &Authority) -> Result<SecretsSeen, Error> {
    let source_problem = source(objects, object).await?.err();
    let app: Option<Value> = objects.get(&app(object)).await?;
    let written = |key: &str| app.as_ref().and_then(|secret| text(secret, key)).unwrap_or_default();
    let (host, port) = (written("host"), written("port"));
    let credentials = credentials(objects, object, authority).await?;
    let hash = credentials.as_ref().map(|credentials| credentials.hash.clone()).unwrap_or_default();
    // What follows from another Secret or from the spec must be copied into the application's Secret when it changes.
    let complete = credentials.zip(app).is_some_and(|(credentials, app)| {
        let fields = fields(object, &credentials.owner_password, (&host, &port), authority.server_cas());
        fields.into_iter().all(|(key, value)| text(&app, key) == Some(value))
    });
    Ok(SecretsSeen { source_problem, complete, hash, host, port })
}

/// The owner's password from the user's Secret, if one is named; or the problem with that Secret.
async fn source(objects: &Objects, object: &PostgresCluster) -> Result<Result<Option<String>, String>, Error> {
    let bootstrap = &object.spec.bootstrap;
    let Some(key) = given(object) else { return Ok(Ok(None)) };
    let (part, name, owner) = (bootstrap.path(), &key.name, bootstrap.owner());
    let path = format!("{part}.secret");
    let Some(secret) = objects.get::<Value>(&key).await? else {
        let keys = "create it with the keys username and password";
        return Ok(Err(format!("{path} names Secret {name}, which does not exist: {keys}")));
    };
    if let Some(username) = text(&secret, "username").filter(|username| username != owner) {
        let declared = format!("{part}.owner is {owner}");
        return Ok(Err(format!("{path}: username in Secret {name} is {username}, but {declared}")));
    }
    Ok(match text(&secret, "password").filter(|password| !password.is_empty()) {
        Some(password) => Ok(Some(password)),
        None => Err(format!("{path}: Secret {name} has no key password")),
    })
}

/// The passwords in use, with the certificates; `None` until the passwords are created.
pub async fn credentials(
    objects: &Objects,
    object: &PostgresCluster,
    authority: &Authority,
) -> Result<Option<Credentials>, Error> {
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
    let tls = certificates::tls(authority);
    let parts = [&replication_password, &owner_password].into_iter().chain(tls.iter().map(|tls| &tls.hash));
    let hash = short_hash_of_parts(parts, 16);
    Ok(Some(Credentials { hash, replication_password, owner_password, tls }))
}

/// Writes both Secrets: existing passwords stay, connection data is updated.
pub async fn ensure(
    controller: &PostgresClusterKind,
    object: &PostgresCluster,
    at: (&str, &str),
) -> Result<(), Failure> {
    let objects = &controller.objects;
    let generate = || clock::password(&*controller.clock, PASSWORD_LENGTH);
    let given = source(objects, object).await?.map_err(|problem| Failure::new(Class::Terminal, problem))?;
    let old: Option<Value> = objects.get(&app(object)).await?;
    let password = given.or_else(|| text(old.as_ref()?, "password")).unwrap_or_else(generate);
    let ca = Authority::read(objects, object, controller.clock.now()).await?.server_cas();
    let fields = fields(object, &password, at, ca);
    let fields: Vec<(&str, &str)> = fields.iter().map(|(key, value)| (*key, value.as_str())).collect();
    write(objects, object, &app(object), "Opaque", None, &fields).await?;
    if objects.get::<Value>(&internal(object)).await?.is_none() {
        write(objects, object, &internal(object), "Opaque", None, &[(REPLICATION_PASSWORD, &generate())]).await?;
    }
    Ok(())
}

/// The application's Secret. `host` and `port`: as libpq takes them. `ca`: the CA certificates that verify the instances.
fn fields(
    object: &PostgresCluster,
    password: &str,
    (host, port): (&str, &str),
    ca: Option<String>,
) -> Vec<(&'static str, String)> {
    let bootstrap = &object.spec.bootstrap;
    let uri = |hosts: Vec<&str>, more: &str| {
        let ports = port.split(',').cycle();
        let hosts: Vec<_> = hosts.into_iter().zip(ports).map(|(host, port)| format!("{host}:{port}")).collect();
        let (owner, password, database) =
            (percent(bootstrap.owner()), percent(password), percent(bootstrap.database()));
        format!("postgresql://{owner}:{password}@{}/{database}?target_session_attrs=read-write{more}", hosts.join(","))
    };
    let (addresses, names): (Vec<&str>, Vec<String>) = (host.split(',').collect(), member_names(object));
    // Every server certificate has the names of the instances; a user's need not have their addresses, and libpq before 15
    // does not look for an address. So libpq verifies the names, and connects to the addresses.
    let verified = match names.len() == addresses.len() {
        true => uri(names.iter().map(String::as_str).collect(), &format!("&hostaddr={host}&sslmode=verify-full")),
        false => uri(addresses.clone(), "&sslmode=verify-full"),
    };
    let uri = match object.spec.tls.clients {
        ClientTls::Optional => uri(addresses, ""),
        ClientTls::Required => uri(addresses, "&sslmode=verify-full"),
    };
    let mut fields = vec![
        ("username", bootstrap.owner().to_owned()),
        ("password", password.to_owned()),
        ("dbname", bootstrap.database().to_owned()),
        ("host", host.to_owned()),
        ("port", port.to_owned()),
        ("uri", uri),
        ("uri-verify-full", verified),
    ];
    fields.extend(ca.map(|ca| ("ca.crt", ca)));
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::postgres_cluster::PostgresClusterStatus;
    use expect_test::expect;

    /// Regression 145: an application had no way to verify the server: there was no CA certificate in its Secret, and no URI
    /// with which libpq verifies.
    #[test]
    fn the_applications_secret_has_what_verifies_the_server() {
        let shown = |tls: &str| {
            let spec = format!("image: postgres:15\ntls: {tls}\n");
            let mut object = PostgresCluster::new("db", serde_saphyr::from_str(&spec).expect("a spec"));
            let mut decisions = super::super::protocol::begin(jiff::Timestamp::UNIX_EPOCH);
            let place = serde_json::json!([{"name": "db-1", "ordinal": 1, "host": "local"}, {"name": "db-2", "ordinal": 2, "host": "local"}]);
            decisions.members = serde_json::from_value(place).expect("members");
            object.status = Some(PostgresClusterStatus { decisions: Some(decisions), ..Default::default() });
            let fields = fields(&object, "p", ("10.0.0.1,10.0.0.2", "5432"), Some("CA".into()));
            let chosen = fields.iter().filter(|(key, _)| key.starts_with("uri") || *key == "ca.crt");
            chosen.map(|(key, text)| format!("{key}: {text}\n")).collect::<String>()
        };
        expect![[r#"
            uri: postgresql://app:p@10.0.0.1:5432,10.0.0.2:5432/app?target_session_attrs=read-write
            uri-verify-full: postgresql://app:p@db-1:5432,db-2:5432/app?target_session_attrs=read-write&hostaddr=10.0.0.1,10.0.0.2&sslmode=verify-full
            ca.crt: CA
        "#]].assert_eq(&shown("{}"));
        expect![[r#"
            uri: postgresql://app:p@10.0.0.1:5432,10.0.0.2:5432/app?target_session_attrs=read-write&sslmode=verify-full
            uri-verify-full: postgresql://app:p@db-1:5432,db-2:5432/app?target_session_attrs=read-write&hostaddr=10.0.0.1,10.0.0.2&sslmode=verify-full
            ca.crt: CA
        "#]].assert_eq(&shown("{clients: required}"));
    }
}
