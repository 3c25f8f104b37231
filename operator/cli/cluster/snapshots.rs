//! `evenkeel cluster snapshots`: lists the snapshots of the store in an object store. Works without an operator.

use std::io::Write;
use std::path::PathBuf;

use crate::cli::error::Error;
use crate::cli::snapshot_store::SnapshotStore;

/// A list.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// File that says in which S3 bucket or directory they are
    #[arg(long, value_name = "FILE")]
    snapshot_store: PathBuf,
}

/// Lists them, the newest last.
pub async fn run(args: &Args, out: &mut (dyn Write + Send)) -> Result<(), Error> {
    for one in SnapshotStore::open(&args.snapshot_store)?.list().await? {
        writeln!(out, "{}  {:>10}  {}", one.installation, one.size, one.name)?;
    }
    Ok(())
}
