//! `evenkeel apply`: reads every document and looks up its kind before it sends the first; then the server
//! applies each.

use std::path::PathBuf;

use reqwest::StatusCode;
use serde_json::Value;

use super::client::Client;
use super::discovery::Resource;
use super::error::Error;
use super::manifest::{self, Document};
use super::session::Session;

/// The field manager of fields that `apply` sets.
const MANAGER: &str = "evenkeel";

/// Creates or changes objects from files.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    files: Files,
    /// Take over fields that another manager has set
    #[arg(long)]
    force_conflicts: bool,
    /// `server`: let the server check and answer, but change nothing
    #[arg(long, value_name = "WHERE", default_value = "none")]
    dry_run: DryRun,
}

/// `-f`, as every verb takes it.
#[derive(Debug, Clone, clap::Args)]
pub struct Files {
    /// File, directory (its *.yaml, *.yml, *.json) or `-` for stdin; may be repeated
    #[arg(short = 'f', long = "filename", required = true, value_name = "FILE")]
    pub paths: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum DryRun {
    /// Apply
    None,
    /// Server-side dry run
    Server,
}

/// The result of one document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Created,
    Configured,
    Unchanged,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
        }
    }
}

/// One document and the kind that the server knows for it.
pub struct Target {
    /// The document.
    pub document: Document,
    /// Its kind.
    pub resource: Resource,
    /// Its namespace (unused for cluster-scoped kinds).
    pub namespace: String,
}

impl Target {
    /// `postgrescluster.evenkeel.dev/awx-db`.
    pub fn label(&self) -> String {
        format!("{}/{}", self.resource.label(), self.document.name())
    }

    /// URL path of the object.
    pub fn path(&self) -> String {
        self.resource.path(Some(&self.namespace), Some(self.document.name()))
    }

    /// Adds positions in the file to the server's refusal.
    pub fn locate(&self, error: Error) -> Error {
        match error {
            Error::Refused(refusal) => Error::Refused(refusal.locate(|field| self.document.position(field))),
            other => other,
        }
    }
}

/// Runs the verb.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<(), Error> {
    let targets = targets(&args.files.paths, session).await?;
    let options = Options { force: args.force_conflicts, dry_run: args.dry_run == DryRun::Server };
    apply(&targets, options, session).await
}

/// How to apply.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Take over fields of other managers.
    pub force: bool,
    /// Change nothing.
    pub dry_run: bool,
}

/// Reads all documents and looks up their kinds; sends nothing.
pub async fn targets(paths: &[PathBuf], session: &Session<'_>) -> Result<Vec<Target>, Error> {
    identify(manifest::read(paths, &mut std::io::stdin())?, session).await
}

/// Asks the server for the kinds of documents; sends nothing.
pub async fn identify(documents: Vec<Document>, session: &Session<'_>) -> Result<Vec<Target>, Error> {
    let catalog = session.client.catalog().await?;
    let mut targets = Vec::new();
    let mut problems = Vec::new();
    for document in documents {
        let Some(resource) = catalog.of_document(document.api_version(), document.kind()) else {
            let place = document.position("kind").unwrap_or_default();
            let kind = format!("{} {}", document.api_version(), document.kind());
            problems.push(Error::Manifest(format!("{place}: {}", catalog.unknown(&kind))));
            continue;
        };
        let namespace = document.namespace().unwrap_or(&session.namespace).to_owned();
        targets.push(Target { resource: resource.clone(), namespace, document });
    }
    match problems.len() {
        0 => Ok(targets),
        1 => Err(problems.remove(0)),
        _ => Err(Error::Several(problems)),
    }
}

/// Applies each document in turn; a failure does not stop the others.
pub async fn apply(targets: &[Target], options: Options, session: &mut Session<'_>) -> Result<(), Error> {
    let mut problems = Vec::new();
    for target in targets {
        match apply_one(target, options, &session.client).await {
            Ok((outcome, warnings)) => {
                session.warn(&warnings)?;
                let note = if options.dry_run { " (server dry run)" } else { "" };
                writeln!(session.out, "{} {}{note}", target.label(), outcome.word())?;
            }
            Err(error @ Error::Unreachable { .. }) => return Err(error),
            Err(error) => problems.push(target.locate(error)),
        }
    }
    match problems.len() {
        0 => Ok(()),
        1 => Err(problems.remove(0)),
        _ => Err(Error::Several(problems)),
    }
}

async fn apply_one(target: &Target, options: Options, client: &Client) -> Result<(Outcome, Vec<String>), Error> {
    let before = client.object(&target.resource, &target.namespace, target.document.name()).await?;
    let mut query = vec![("fieldManager", MANAGER), ("fieldValidation", "Strict")];
    if options.force {
        query.push(("force", "true"));
    }
    if options.dry_run {
        query.push(("dryRun", "All"));
    }
    let body = &target.document.value;
    let kind = "application/apply-patch+yaml";
    let answer = match client.patch(&target.path(), &query, kind, body).await {
        // The other verbs (`scale`, `rollout`) are of the same user: the newest wish counts.
        Err(Error::Refused(refusal)) if refusal.conflicts_with_other_verbs() => {
            query.push(("force", "true"));
            client.patch(&target.path(), &query, kind, body).await?
        }
        answer => answer?,
    };
    let outcome = match before {
        _ if answer.status == StatusCode::CREATED => Outcome::Created,
        Some(before) if same(&before, &answer.body, options.dry_run) => Outcome::Unchanged,
        _ => Outcome::Configured,
    };
    Ok((outcome, answer.warnings))
}

/// Whether the apply changed nothing. The server then keeps the resourceVersion; a dry run does not return a
/// useful one.
fn same(before: &Value, after: &Value, dry_run: bool) -> bool {
    if !dry_run {
        return before["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"];
    }
    let essence = |object: &Value| {
        let mut object = object.clone();
        if let Some(object) = object.as_object_mut() {
            object.remove("status");
        }
        if let Some(metadata) = object["metadata"].as_object_mut() {
            for bookkeeping in ["resourceVersion", "generation", "managedFields", "creationTimestamp", "uid"] {
                metadata.remove(bookkeeping);
            }
        }
        object
    };
    essence(before) == essence(after)
}
