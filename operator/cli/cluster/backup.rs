//! `evenkeel cluster backup`: writes a copy of the store of the running operators into a file.

use std::path::PathBuf;

use crate::api::cluster::BACKUP;
use crate::cli::error::Error;
use crate::cli::session::Session;
use crate::store::private_file;

/// What every file of SQLite begins with.
const MAGIC: &[u8] = b"SQLite format 3\0";

/// A backup.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file; one of this name is replaced when the new one is complete
    file: PathBuf,
}

/// Writes the file.
pub async fn run(args: &Args, session: &mut Session<'_>) -> Result<(), Error> {
    let response = session.client.open_text(BACKUP, &[]).await?;
    let length = response.content_length();
    let bytes = response.bytes().await.map_err(|error| session.client.unreachable(error))?;
    if !bytes.starts_with(MAGIC) || length.is_some_and(|length| length != bytes.len() as u64) {
        return Err(Error::Failed("the server's answer is no whole backup; nothing was written".to_owned()));
    }
    let written = private_file::write(&args.file, &bytes);
    written.map_err(|source| Error::Io { doing: format!("write {}", args.file.display()), source })?;
    writeln!(session.out, "{}: {} bytes", args.file.display(), bytes.len())?;
    writeln!(
        session.err,
        "The Secrets in it can be read only with the keys of the operators: keep pki/ of a data directory, with pki/secrets.key (or your \
         own key file), too, in another place"
    )?;
    Ok(())
}
