//! `evenkeel host add`: makes a DockerHost, and a Secret with what its endpoint needs.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use super::super::client::Answer;
use super::super::error::Error;
use super::super::session::Session;
use super::kind;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Name of the new DockerHost
    name: String,
    /// unix:///path, tcp://host:port or ssh://user@host[:port][/path/of/docker.sock]
    endpoint: String,
    /// IPv4 address by which other hosts and clients reach it
    #[arg(long, value_name = "ADDRESS")]
    address: Option<String>,
    /// Authority that signed the engine's certificate, for tcp://
    #[arg(long, value_name = "FILE", requires = "tls_cert", conflicts_with = "ssh_key")]
    tls_ca: Option<PathBuf>,
    /// Client certificate
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key of the client certificate
    #[arg(long, value_name = "FILE", requires = "tls_ca")]
    tls_key: Option<PathBuf>,
    /// Private key without a passphrase, for ssh://
    #[arg(long, value_name = "FILE", requires = "known_hosts")]
    ssh_key: Option<PathBuf>,
    /// Keys of the host, as ssh-keyscan prints them
    #[arg(long, value_name = "FILE", requires = "ssh_key")]
    known_hosts: Option<PathBuf>,
    /// A label of the host; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<(String, String)>,
    /// Accept tcp:// without TLS: whoever is on the way reads every password and controls the engine
    #[arg(long)]
    insecure: bool,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// The key of each file in the Secret.
type Files<'a> = Vec<(&'static str, &'a Path)>;

impl Args {
    /// The field of the spec that names the Secret, and the Secret's files.
    fn keys(&self) -> Option<(&'static str, Files<'_>)> {
        match (&self.tls_ca, &self.tls_cert, &self.tls_key, &self.ssh_key, &self.known_hosts) {
            (Some(ca), Some(certificate), Some(key), _, _) => {
                Some(("tls", vec![("ca.crt", ca), ("tls.crt", certificate), ("tls.key", key)]))
            }
            (_, _, _, Some(key), Some(hosts)) => Some(("ssh", vec![("ssh-privatekey", key), ("known_hosts", hosts)])),
            _ => None,
        }
    }
}

/// Runs the verb.
pub(super) async fn run(args: Args, session: &mut Session<'_>) -> Result<(), Error> {
    if args.endpoint.starts_with("ssh://") && args.ssh_key.is_none() {
        let message = "ssh:// needs --ssh-key FILE and --known-hosts FILE (what `ssh-keyscan HOST` prints, compared with the \
                       host itself)";
        return Err(Error::Usage(message.to_owned()));
    }
    let name = &args.name;
    let secret_name = format!("dockerhost-{name}");
    let labels: Map<String, Value> =
        args.labels.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect();
    let mut spec = json!({"endpoint": args.endpoint});
    if let Some(address) = &args.address {
        spec["address"] = address.as_str().into();
    }
    if !labels.is_empty() {
        spec["labels"] = labels.into();
    }
    if args.insecure {
        spec["insecure"] = true.into();
    }
    let keys = args.keys();
    let mut data = Map::new();
    if let Some((field, files)) = &keys {
        spec[field] = json!({"secretName": secret_name, "secretNamespace": session.namespace});
        for (key, path) in files {
            let read = std::fs::read(path);
            let bytes = read.map_err(|source| Error::Io { doing: format!("read {}", path.display()), source })?;
            data.insert((*key).to_owned(), BASE64_STANDARD.encode(bytes).into());
        }
    }
    let resource = kind(session).await?;
    if session.client.object(&resource, &session.namespace, name).await?.is_some() {
        return Err(Error::Failed(format!("there is a DockerHost {name} already; change it with apply, or delete it")));
    }
    let host = json!({
        "apiVersion": "evenkeel.dev/v1alpha1",
        "kind": "DockerHost",
        "metadata": {"name": name},
        "spec": spec,
    });
    let path = resource.path(None, None);
    // A refused host leaves no Secret behind.
    session.client.post(&path, &[super::MANAGER, ("fieldValidation", "Strict"), ("dryRun", "All")], &host).await?;
    if keys.is_some() {
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": secret_name, "namespace": session.namespace},
            "type": "Opaque",
            "data": data,
        });
        let path = format!("/api/v1/namespaces/{}/secrets/{secret_name}", session.namespace);
        let query = [super::MANAGER, ("force", "true")];
        session.client.patch(&path, &query, "application/apply-patch+yaml", &secret).await?;
        writeln!(session.out, "secret/{secret_name} holds its keys")?;
    }
    let Answer { warnings, .. } =
        session.client.post(&path, &[super::MANAGER, ("fieldValidation", "Strict")], &host).await?;
    session.warn(&warnings)?;
    writeln!(
        session.out,
        "dockerhost.evenkeel.dev/{name} added; the operator connects to it now. To see how it is: evenkeel host check {name}"
    )?;
    Ok(())
}
