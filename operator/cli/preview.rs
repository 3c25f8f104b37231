//! `evenkeel plan`: shows the steps that the operator's planner would return; changes nothing.

use std::path::PathBuf;

use serde_json::Value;

use super::error::Error;
use super::session::Session;
use super::{apply, discovery, outlook, render, restore};

/// Shows what the operator would do now.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// KIND NAME... or KIND/NAME...: stored objects
    #[arg(value_name = "KIND NAME", required_unless_present = "paths", conflicts_with = "paths")]
    words: Vec<String>,
    /// Objects in these files
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    paths: Vec<PathBuf>,
}

/// Runs the verb.
pub async fn run(args: Args, session: &mut Session<'_>) -> Result<(), Error> {
    if args.paths.is_empty() {
        let catalog = session.client.catalog().await?;
        for (kind, name) in discovery::targets(&args.words)? {
            let name = name.ok_or_else(|| Error::Usage(format!("say which {kind}, by name")))?;
            let resource = catalog.resolve(&kind)?;
            let path = resource.path(Some(&session.namespace), Some(&name));
            let object = session.client.get(&path, &[], super::client::JSON).await?;
            show(&format!("{}/{name}", resource.label()), &object, session).await?;
        }
        return Ok(());
    }
    for target in apply::targets(&args.paths, session).await? {
        // The server's dry run fills in defaults and keeps the status, so this is the plan for the object
        // after the apply.
        let query = [("fieldManager", "evenkeel"), ("fieldValidation", "Strict"), ("dryRun", "All"), ("force", "true")];
        let body = &target.document.value;
        let answer = session.client.patch(&target.path(), &query, "application/apply-patch+yaml", body).await;
        let object = answer.map_err(|error| target.locate(error))?.body;
        show(&target.label(), &object, session).await?;
    }
    Ok(())
}

async fn show(label: &str, object: &Value, session: &mut Session<'_>) -> Result<(), Error> {
    let plan = outlook::plan(object, session).await?;
    write!(session.out, "{}", text(label, &plan))?;
    let seen = outlook::archives(&plan);
    for what in seen.own.iter().flat_map(|own| &own.deletes) {
        writeln!(session.out, "     retention deletes {what}")?;
    }
    if let Some(recovery) = &seen.recovery {
        write!(session.out, "{}", restore::indented(recovery))?;
    }
    Ok(())
}

/// A plan as text: its steps in order, or the reason for having none.
pub fn text(label: &str, plan: &Value) -> String {
    let steps: Vec<String> = plan["steps"].as_array().into_iter().flatten().map(render::cell).collect();
    let phase = plan["status"]["phase"].as_str().map(|phase| format!(" ({phase})")).unwrap_or_default();
    if let Some(note) = plan["note"].as_str() {
        return format!("{label}: {note}\n");
    }
    if steps.is_empty() {
        return format!("{label}{phase}: nothing to do\n");
    }
    let numbered = steps.iter().enumerate().map(|(index, step)| format!("  {:>2}. {step}\n", index + 1));
    format!("{label}{phase}:\n{}", numbered.collect::<String>())
}
