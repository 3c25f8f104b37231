//! `evenkeel scale`: sets the number of replicas of an object through its scale subresource.

use serde_json::json;

use super::discovery;
use super::error::{Error, Refusal};
use super::session::Session;

/// Sets the number of replicas.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// KIND NAME... or KIND/NAME...
    #[arg(required = true, value_name = "KIND NAME")]
    words: Vec<String>,
    /// Number of replicas
    #[arg(long, value_name = "NUMBER")]
    replicas: u32,
}

/// Runs the verb.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<(), Error> {
    let catalog = session.client.catalog().await?;
    for (kind, name) in discovery::targets(&args.words)? {
        let resource = catalog.resolve(&kind)?;
        let name = name.ok_or_else(|| Error::Usage(format!("say which {kind} to scale, by name")))?;
        let path = format!("{}/scale", resource.path(Some(&session.namespace), Some(&name)));
        let patch = json!({"spec": {"replicas": args.replicas}});
        let query = [("fieldManager", "evenkeel-scale")];
        let label = resource.label();
        match session.client.patch(&path, &query, "application/merge-patch+json", &patch).await {
            Ok(_) => writeln!(session.out, "{label}/{name} scaled")?,
            // A 404 without details means that the path is not served; the object may exist.
            Err(Error::Refused(Refusal { code: 404, message, .. })) if !message.contains(&name) => {
                return Err(Error::Failed(format!("{label} has no scale subresource; change its spec and apply it")));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
