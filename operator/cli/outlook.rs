//! Asks the operator what it would do about an object, and what it sees in the archives of it.

use serde::Deserialize as _;
use serde_json::{Value, json};

use super::error::Error;
use super::session::Session;
use crate::api::archive_outlook::ArchiveOutlook;

/// Path of plans on the server: POST `{"object": {...}}`, response `{"status", "steps": [...], "requeueSeconds", "outlook"}`.
const PATH: &str = "/evenkeel/v1/plan";

/// The answer about this object.
pub async fn plan(object: &Value, session: &Session<'_>) -> Result<Value, Error> {
    Ok(session.client.post(PATH, &[], &json!({"object": object})).await?.body)
}

/// What an answer says of archives; nothing if the object has none.
pub fn archives(plan: &Value) -> ArchiveOutlook {
    ArchiveOutlook::deserialize(&plan["outlook"]).unwrap_or_default()
}

/// What the operator sees in the archives of this PostgresCluster.
///
/// # Errors
/// The operator cannot plan it, and says why.
pub async fn of_cluster(object: &Value, session: &Session<'_>) -> Result<ArchiveOutlook, Error> {
    let mut object = object.clone();
    // An item of a list does not say what it is.
    object["apiVersion"] = json!("evenkeel.dev/v1alpha1");
    object["kind"] = json!("PostgresCluster");
    let plan = plan(&object, session).await?;
    match plan["note"].as_str() {
        Some(note) => Err(Error::Failed(note.to_owned())),
        None => Ok(archives(&plan)),
    }
}
