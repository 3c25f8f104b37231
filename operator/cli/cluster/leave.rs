//! `evenkeel cluster leave`: the way back from several operators to one. Takes all objects out of etcd into a store of this node's
//! operator alone. Works on the data directory of a stopped operator.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::stopped;
use crate::api::join::ETCD;
use crate::cli::datadir::DataDir;
use crate::cli::error::{Error, failed};
use crate::cli::etcd;
use crate::cli::managed::kept;
use crate::cli::operator::Home;
use crate::runtime::{Clock as _, SystemClock};
use crate::store::etcd::Closed;
use crate::store::generation;
use crate::store::sqlite::Snapshot;

/// A way back.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    home: Home,
}

/// What was taken out.
pub(super) struct Taken {
    /// How many objects; `None`: an earlier call took them.
    count: Option<usize>,
    /// Whether Evenkeel manages the etcd that was left.
    managed: bool,
}

/// Takes all objects out, and says what is left to do.
pub async fn run(args: &Args, out: &mut (dyn Write + Send)) -> Result<(), Error> {
    let (home, dir) = (&args.home, args.home.dir());
    if !is_to_do(&dir)? {
        return Err(Error::Failed(format!(
            "the operator of {} shares no etcd with others; name another data directory by --data-dir",
            dir.display()
        )));
    }
    let taken = take_out(home).await?;
    let count = taken.count.map_or_else(|| "the".to_owned(), |count| count.to_string());
    writeln!(out, "{count} objects are in {}; start the operator here", home.store().display())?;
    let etcd = match taken.managed {
        true => "on every machine, also this one: docker rm -f evenkeel-etcd; docker volume rm evenkeel-etcd",
        false => "etcd is not needed any more; to share a store again, begin with an empty one",
    };
    writeln!(out, "Remove the data directories of the other nodes, and do not start their operators again; {etcd}")?;
    Ok(())
}

/// Whether this data directory shares an etcd, or an earlier call was interrupted.
pub(super) fn is_to_do(dir: &Path) -> Result<bool, Error> {
    Ok(etcd::is_kept(dir) || is_interrupted(dir)?)
}

/// Whether this data directory has left an etcd.
pub(super) fn is_done(dir: &Path) -> bool {
    aside(dir, ETCD).exists() && !etcd::is_kept(dir)
}

/// Whether an earlier call ended before its last step.
fn is_interrupted(dir: &Path) -> Result<bool, Error> {
    Ok(is_done(dir) && kept::read(dir)?.is_some())
}

/// Takes all objects out into the file of a store, and puts the settings of etcd aside.
pub(super) async fn take_out(home: &Home) -> Result<Taken, Error> {
    let dir = home.dir();
    let doing = || "cannot take the objects out of etcd".to_owned();
    if is_interrupted(&dir)? {
        put_aside(&dir, kept::FILE)?;
        return Ok(Taken { count: None, managed: true });
    }
    let seal = stopped::keys(home)?;
    let _claimed = DataDir::claim(&dir)?;
    let Some(store) = stopped::etcd(&dir, seal.clone()).await? else {
        return Err(Error::Failed("the settings of etcd are gone".to_owned()));
    };
    stopped::nobody_runs(&store).await?;
    let member = kept::read(&dir)?;
    let node = member.as_ref().map_or_else(|| etcd::Args::default().node(), |member| member.node.clone());
    let left = Closed::Left { node };
    // The file is complete as soon as it is there; only an interrupted call can have made one.
    let is_again = store.is_closed(&left).await.map_err(failed(doing))?;
    let file = if is_again { home.store() } else { stopped::vacant_file(home, seal.clone()).await? };
    // From now on no operator leads there.
    let before = store.close(left).await.map_err(failed(doing))?;
    let next = generation::next(before, &dir).map_err(failed(doing))?;
    let all = Snapshot::of(&store, next, SystemClock.now()).await.map_err(failed(doing))?;
    let count = all.objects.len();
    Snapshot { content: None, ..all }.write(&file, &seal).await.map_err(failed(doing))?;
    generation::note(&dir, next).map_err(failed(doing))?;
    // Without it the store is the file.
    put_aside(&dir, ETCD)?;
    put_aside(&dir, kept::FILE)?;
    Ok(Taken { count: Some(count), managed: member.is_some() })
}

fn aside(dir: &Path, name: &str) -> PathBuf {
    dir.join("pki").join(format!("{name}.left"))
}

/// Gives a file of `pki/` another name, if it is there.
fn put_aside(dir: &Path, name: &str) -> Result<(), Error> {
    let file = dir.join("pki").join(name);
    match std::fs::rename(&file, aside(dir, name)) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::Io { doing: format!("put {} aside", file.display()), source })
        }
        _ => Ok(()),
    }
}
