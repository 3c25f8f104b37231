//! Observes a host: its registration and its engine's answer.

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use super::{Answer, Connection, DockerHostKind, Observed, Registration};
use crate::api::docker_host::{DockerHost, TlsReference};
use crate::api::failure::Failure;
use crate::api::object::Object as _;
use crate::engine::docker::Tls;
use crate::engine::{Engine, Error};
use crate::store::Key;

/// Time-out of the first answer; a slower host is unreliable.
const PATIENCE: Duration = Duration::from_secs(5);

/// Reads the registration of a host, and asks its engine if the registration equals the object.
pub async fn observe(controller: &DockerHostKind, object: &DockerHost) -> Result<Observed, Failure> {
    let (hosts, name) = (&controller.hosts, object.name());
    let there = hosts.get(name).ok();
    let registration = match connection(controller, object).await? {
        Err((reason, message)) => Registration::Impossible(reason, message),
        Ok((endpoint, tls)) if hosts.is_registered(name, &endpoint, tls.as_ref()) => Registration::Same,
        Ok(_) if there.is_some() => Registration::Differs,
        Ok(_) => Registration::Absent,
    };
    let answer = match there {
        Some(engine) if registration == Registration::Same => ask(&*engine).await,
        _ => Answer::NotAsked,
    };
    Ok(Observed { registration, answer })
}

/// The endpoint and the certificate that the object asks for.
pub async fn connection(controller: &DockerHostKind, object: &DockerHost) -> Result<Connection, Failure> {
    let endpoint = match object.spec.endpoint.parse() {
        Ok(endpoint) => endpoint,
        Err(message) => return Ok(Err(("InvalidEndpoint", message))),
    };
    let Some(reference) = &object.spec.tls else { return Ok(Ok((endpoint, None))) };
    let secret_name = format!("{}/{}", reference.secret_namespace, reference.secret_name);
    Ok(match controller.objects.get::<Value>(&secret(reference)).await? {
        None => Err(("SecretNotFound", format!("Secret {secret_name} of spec.tls does not exist"))),
        Some(secret) => {
            tls(&secret, reference).map(|tls| (endpoint, Some(tls))).map_err(|message| ("SecretInvalid", message))
        }
    })
}

/// The key of the Secret with a certificate.
pub fn secret(reference: &TlsReference) -> Key {
    Key::new("secrets", &reference.secret_namespace, &reference.secret_name)
}

async fn ask(engine: &dyn Engine) -> Answer {
    let (reason, message) = match tokio::time::timeout(PATIENCE, engine.info()).await {
        Ok(Ok(info)) => return Answer::Info(info),
        Ok(Err(error)) => (
            if matches!(error, Error::Unreachable { .. }) { "Unreachable" } else { "EngineRefused" },
            Failure::from(error).message,
        ),
        Err(_) => ("Unreachable", format!("the engine gave no answer within {} s", PATIENCE.as_secs())),
    };
    Answer::Trouble(reason, message)
}

fn tls(secret: &Value, reference: &TlsReference) -> Result<Tls, String> {
    let field = |key: &str| {
        let told = || format!("Secret {}/{} of spec.tls", reference.secret_namespace, reference.secret_name);
        let encoded = secret["data"][key].as_str().ok_or_else(|| format!("{} has no key {key}", told()))?;
        BASE64_STANDARD.decode(encoded).map_err(|_| format!("{}: {key} is not base64", told()))
    };
    Ok(Tls { ca: field("ca.crt")?, certificate: field("tls.crt")?, key: field("tls.key")? })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_secret_without_all_three_keys_is_told_by_the_first_missing_one() {
        let reference = TlsReference { secret_name: "cert".into(), secret_namespace: "default".into() };
        let said = |secret: Value| tls(&secret, &reference).err().unwrap_or_default();
        assert_eq!(said(json!({})), "Secret default/cert of spec.tls has no key ca.crt");
        assert_eq!(
            said(json!({"data": {"ca.crt": "YQ==", "tls.crt": "?"}})),
            "Secret default/cert of spec.tls: tls.crt is not base64"
        );
        assert_eq!(said(json!({"data": {"ca.crt": "YQ==", "tls.crt": "YQ==", "tls.key": "YQ=="}})), "");
    }
}
