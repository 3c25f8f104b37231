//! Registers declared hosts: before any controller runs, and as soon as one is declared later. Every operator needs the
//! engines, whoever reconciles the objects.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize as _;
use serde_json::Value;
use tokio::sync::mpsc;

use super::Connection;
use crate::api::docker_host::{ACCEPT_ANNOTATION, DockerHost, Endpoint};
use crate::api::failure::{Class, Failure};
use crate::api::object::Object as _;
use crate::engine::docker::{Keys, SshKeys, Tls};
use crate::engine::hosts::Hosts;
use crate::runtime::reflector::{self, Event};
use crate::store::{Key, Objects};

/// Registers the hosts that are declared now. A host that cannot be registered is unknown to others, and its own object
/// tells why.
pub async fn all(hosts: &Hosts, objects: &Objects) -> Result<(), crate::store::Error> {
    let (declared, _) = objects.list::<DockerHost>(DockerHost::RESOURCE, None).await?;
    for host in declared {
        first(hosts, objects, &host).await;
    }
    Ok(())
}

/// Registers each host that is declared later, for ever. What changes afterwards is the matter of its object.
pub async fn follow(hosts: Arc<Hosts>, objects: Objects) {
    let (sender, mut seen) = mpsc::unbounded_channel();
    let following = reflector::follow(objects.clone(), DockerHost::RESOURCE, move |event| {
        let values = match event {
            Event::Listed(all) => all.to_vec(),
            Event::Changed(change) => change.new.clone().into_iter().collect(),
        };
        // The reader ends with this future.
        values.into_iter().for_each(|value| drop(sender.send(value)));
    });
    let registering = async {
        while let Some(value) = seen.recv().await {
            let Ok(host) = DockerHost::deserialize(&*value) else { continue };
            if host.metadata.deletion_timestamp.is_none() && hosts.glance(host.name()).is_none() {
                first(&hosts, &objects, &host).await;
            }
        }
    };
    tokio::join!(following, registering);
}

/// Registers a host for the first time, or notes why that cannot be.
async fn first(hosts: &Hosts, objects: &Objects, host: &DockerHost) {
    hosts.declare(host.name(), "it has just been declared");
    if let Err(failure) = one(hosts, objects, host).await {
        tracing::debug!(host = host.name(), "not registered yet: {failure}");
        hosts.declare(host.name(), &failure.message);
    }
}

/// Registers a host as its object says.
pub(super) async fn one(hosts: &Hosts, objects: &Objects, host: &DockerHost) -> Result<(), Failure> {
    let (endpoint, keys) =
        connection(objects, host).await?.map_err(|(_, message)| Failure::new(Class::Conflict, message))?;
    let id = host.status.as_ref().and_then(|status| status.engine_id.as_deref());
    Ok(hosts.register(host.name(), &endpoint, keys.as_ref(), id)?)
}

/// The ID of the engine that a person has accepted.
pub(super) fn accepted(host: &DockerHost) -> Option<&str> {
    host.annotation(ACCEPT_ANNOTATION)
}

/// The endpoint and the keys that the object asks for.
pub(super) async fn connection(objects: &Objects, object: &DockerHost) -> Result<Connection, Failure> {
    let endpoint: Endpoint = match object.spec.endpoint.parse() {
        Ok(endpoint) => endpoint,
        Err(message) => return Ok(Err(("InvalidEndpoint", message))),
    };
    let Some((field, key)) = secret(object) else { return Ok(Ok((endpoint, None))) };
    let name = format!("Secret {}/{} of {field}", key.namespace, key.name);
    let Some(secret) = objects.get::<Value>(&key).await? else {
        return Ok(Err(("SecretNotFound", format!("{name} does not exist"))));
    };
    let keys = match &endpoint {
        Endpoint::Ssh { host, port, .. } => ssh(&secret, &name, &format!("ssh-keyscan -p {port} {host}")),
        _ => tls(&secret, &name),
    };
    Ok(keys.map(|keys| (endpoint, Some(keys))))
}

/// The field that names the Secret with the keys, and the Secret's key.
pub(super) fn secret(object: &DockerHost) -> Option<(&'static str, Key)> {
    let key = |namespace: &str, name: &str| Key::new("secrets", namespace, name);
    let tls = object.spec.tls.iter().map(|tls| ("spec.tls", key(&tls.secret_namespace, &tls.secret_name)));
    let ssh = object.spec.ssh.iter().map(|ssh| ("spec.ssh", key(&ssh.secret_namespace, &ssh.secret_name)));
    tls.chain(ssh).next()
}

/// A problem of a Secret: the reason of a condition, and its message.
type Problem = (&'static str, String);

fn field(secret: &Value, name: &str, key: &str) -> Result<Vec<u8>, Problem> {
    let invalid = |message| ("SecretInvalid", message);
    let encoded = secret["data"][key].as_str().ok_or_else(|| invalid(format!("{name} has no key {key}")))?;
    BASE64_STANDARD.decode(encoded).map_err(|_| invalid(format!("{name}: {key} is not base64")))
}

fn tls(secret: &Value, name: &str) -> Result<Keys, Problem> {
    let field = |key| field(secret, name, key);
    Ok(Keys::Tls(Tls { ca: field("ca.crt")?, certificate: field("tls.crt")?, key: field("tls.key")? }))
}

fn ssh(secret: &Value, name: &str, scan: &str) -> Result<Keys, Problem> {
    let private_key = field(secret, name, "ssh-privatekey")?;
    let known_hosts = field(secret, name, "known_hosts")
        .map_err(|(_, message)| ("HostKeyUnknown", format!("{message}. Put there what this prints: {scan}")))?;
    let says_something = |line: &[u8]| line.first().is_some_and(|first| *first != b'#');
    if !known_hosts.split(|byte| *byte == b'\n').any(|line| says_something(line.trim_ascii())) {
        let message = format!(
            "known_hosts of {name} is empty. Put there what this prints, after a comparison with the host itself: {scan}"
        );
        return Err(("HostKeyUnknown", message));
    }
    Ok(Keys::Ssh(SshKeys { private_key, known_hosts }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(read: Result<Keys, Problem>) -> String {
        read.map_or_else(|(reason, message)| format!("{reason}: {message}"), |keys| format!("{keys:?}"))
    }

    #[test]
    fn a_secret_that_lacks_something_is_told_by_the_first_missing_key() {
        let tls = |secret: Value| said(tls(&secret, "Secret default/cert of spec.tls"));
        let ssh = |secret: Value| said(ssh(&secret, "Secret default/key of spec.ssh", "ssh-keyscan -p 22 far"));
        let told = [
            tls(json!({})),
            tls(json!({"data": {"ca.crt": "YQ==", "tls.crt": "?"}})),
            tls(json!({"data": {"ca.crt": "YQ==", "tls.crt": "YQ==", "tls.key": "YQ=="}})),
            ssh(json!({})),
            ssh(json!({"data": {"ssh-privatekey": "YQ=="}})),
            // Empty lines and a comment.
            ssh(json!({"data": {"ssh-privatekey": "YQ==", "known_hosts": "CiMgbm8KCg=="}})),
            ssh(json!({"data": {"ssh-privatekey": "YQ==", "known_hosts": "YQ=="}})),
        ];
        expect_test::expect![[r#"
            SecretInvalid: Secret default/cert of spec.tls has no key ca.crt
            SecretInvalid: Secret default/cert of spec.tls: tls.crt is not base64
            Tls(Tls(..))
            SecretInvalid: Secret default/key of spec.ssh has no key ssh-privatekey
            HostKeyUnknown: Secret default/key of spec.ssh has no key known_hosts. Put there what this prints: ssh-keyscan -p 22 far
            HostKeyUnknown: known_hosts of Secret default/key of spec.ssh is empty. Put there what this prints, after a comparison with the host itself: ssh-keyscan -p 22 far
            Ssh(SshKeys(..))"#]].assert_eq(&told.join("\n"));
    }
}
