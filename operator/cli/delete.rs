//! `evenkeel delete`: requests the deletion, then waits until the objects are gone and their finalizers are done.

use std::path::PathBuf;
use std::time::Duration;

use clap::ArgAction;
use serde_json::{Value, json};

use super::apply;
use super::discovery::{self, Resource};
use super::error::{Error, Refusal};
use super::follow::{Event, Follow};
use super::render;
use super::session::{Session, duration};

/// Deletes objects.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// KIND NAME... or KIND/NAME...
    #[arg(value_name = "KIND NAME", required_unless_present = "paths", conflicts_with = "paths")]
    words: Vec<String>,
    /// Delete the objects in these files
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    paths: Vec<PathBuf>,
    /// Wait until they are gone
    #[arg(long, action = ArgAction::Set, default_value_t = true, default_missing_value = "true", num_args = 0..=1, require_equals = true, value_name = "BOOL")]
    wait: bool,
    /// How long to wait for all of them
    #[arg(long, value_parser = duration, default_value = "5m", value_name = "TIME")]
    timeout: Duration,
    /// Do not fail if an object does not exist
    #[arg(long)]
    ignore_not_found: bool,
}

struct Doomed {
    resource: Resource,
    namespace: String,
    name: String,
}

/// Runs the verb.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<(), Error> {
    let mut problems = Vec::new();
    let mut going = Vec::new();
    for doomed in doomed(&args, session).await? {
        match ask(&doomed, session).await {
            Ok(uid) => going.push((doomed, uid)),
            Err(Error::Refused(Refusal { code: 404, .. })) if args.ignore_not_found => {}
            Err(error @ Error::Unreachable { .. }) => return Err(error),
            Err(error) => problems.push(error),
        }
    }
    if args.wait {
        let mut left = None;
        let all = async {
            for (doomed, uid) in &going {
                left = Some(doomed);
                gone(doomed, uid, session).await?;
            }
            Ok::<(), Error>(())
        };
        match tokio::time::timeout(args.timeout, all).await {
            Ok(result) => result?,
            Err(_) => {
                let Some(doomed) = left else { return Ok(()) };
                return Err(still_there(doomed, args.timeout, session).await?);
            }
        }
    }
    match problems.len() {
        0 => Ok(()),
        1 => Err(problems.remove(0)),
        _ => Err(Error::Several(problems)),
    }
}

async fn doomed(args: &Args, session: &Session<'_>) -> Result<Vec<Doomed>, Error> {
    if !args.paths.is_empty() {
        let targets = apply::targets(&args.paths, session).await?;
        let from = |target: apply::Target| Doomed {
            name: target.document.name().to_owned(),
            resource: target.resource,
            namespace: target.namespace,
        };
        return Ok(targets.into_iter().map(from).collect());
    }
    let catalog = session.client.catalog().await?;
    let mut all = Vec::new();
    for (kind, name) in discovery::targets(&args.words)? {
        let name = name.ok_or_else(|| Error::Usage(format!("say which {kind} to delete, by name")))?;
        let resource = catalog.resolve(&kind)?.clone();
        all.push(Doomed { resource, namespace: session.namespace.clone(), name });
    }
    Ok(all)
}

/// Requests the deletion; returns the uid of the object that is being deleted.
async fn ask(doomed: &Doomed, session: &mut Session<'_>) -> Result<String, Error> {
    let path = doomed.resource.path(Some(&doomed.namespace), Some(&doomed.name));
    let answer = session.client.delete(&path, &[], &json!({"propagationPolicy": "Background"})).await?;
    session.warn(&answer.warnings)?;
    writeln!(session.out, "{} \"{}\" deleted", doomed.resource.label(), doomed.name)?;
    let body = &answer.body;
    let uid = body["details"]["uid"].as_str().or_else(|| body["metadata"]["uid"].as_str());
    Ok(uid.unwrap_or_default().to_owned())
}

/// Waits until the object with this uid is gone; a new object with the same name does not count. It is followed from the state
/// that was read. (Regression 319: it was followed from whatever there was later. One that went in between, as a Backup does within
/// milliseconds, was waited for until the time-out.)
async fn gone(doomed: &Doomed, uid: &str, session: &Session<'_>) -> Result<(), Error> {
    let other = |object: &Value| !uid.is_empty() && object["metadata"]["uid"] != *uid;
    loop {
        let read = session.client.object(&doomed.resource, &doomed.namespace, &doomed.name).await?;
        let Some(object) = read.filter(|object| !other(object)) else { return Ok(()) };
        let since = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        let mut follow =
            Follow::object(&session.client, &doomed.resource, &doomed.namespace, &doomed.name).since(since);
        loop {
            match follow.next().await? {
                Event::Changed(object) if !other(&object) => {}
                Event::Changed(_) | Event::Deleted(_) => return Ok(()),
                Event::Restarted => break,
            }
        }
    }
}

async fn still_there(doomed: &Doomed, after: Duration, session: &mut Session<'_>) -> Result<Error, Error> {
    let object = session.client.object(&doomed.resource, &doomed.namespace, &doomed.name).await?;
    let finalizers = object.as_ref().and_then(|object| object["metadata"]["finalizers"].as_array());
    let waits = finalizers.map(|all| all.iter().map(render::cell).collect::<Vec<_>>().join(", ")).unwrap_or_default();
    let what = format!("{}/{} to be deleted; its finalizers are {waits}", doomed.resource.label(), doomed.name);
    session.timed_out(what, after, object.as_ref())
}
