//! `evenkeel cluster restore`: writes the objects of a backup or a snapshot into an empty store. Works on the data directory of a
//! stopped operator.

use std::fs::DirBuilder;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use super::stopped;
use crate::cli::datadir::DataDir;
use crate::cli::error::{Error, failed};
use crate::cli::operator::Home;
use crate::cli::snapshot_store::{self, SnapshotStore};
use crate::store::sqlite::Snapshot;
use crate::store::{Seal, generation, private_file, snapshots};

/// A restore.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The backup, or a file of `snapshots/` in a data directory; with --snapshot-store the name of a snapshot there [default: the newest]
    #[arg(required_unless_present = "snapshot_store")]
    file: Option<PathBuf>,
    #[command(flatten)]
    from: snapshot_store::Args,
    /// Only tells what is in the file, and whether the keys open it
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    home: Home,
}

/// Restores the file.
pub async fn run(args: &Args, out: &mut (dyn Write + Send)) -> Result<(), Error> {
    let (home, dir) = (&args.home, args.home.dir());
    let file = args.file.clone().unwrap_or_default();
    let named = args.file.as_ref().map_or_else(|| "the newest snapshot".to_owned(), |file| file.display().to_string());
    let doing = || format!("cannot restore {named}");
    if args.from.snapshot_store.is_none() && !file.exists() {
        return Err(Error::Failed(format!("there is no file {}", file.display())));
    }
    let seal = stopped::keys(home)?;
    let _claimed = if args.dry_run { None } else { Some(DataDir::claim(&dir)?) };
    let snapshot = match &args.from.snapshot_store {
        None => Snapshot::read(&file, &seal).await.map_err(failed(doing))?,
        Some(store) => args.fetched(&SnapshotStore::open(store)?, (&dir, &seal), out).await?,
    };
    write!(out, "{}", told(&snapshot))?;
    if args.dry_run {
        return Ok(());
    }
    let next = generation::next(snapshot.generation, &dir).map_err(failed(doing))?;
    let target = match stopped::etcd(&dir, seal.clone()).await? {
        Some(etcd) => {
            stopped::nobody_runs(&etcd).await?;
            let goes_on = etcd.is_closed(&snapshot.copying()).await.map_err(failed(doing))?;
            let there = stopped::count(&etcd).await?;
            if there > 0 && !goes_on {
                return Err(Error::Failed(format!(
                    "etcd has {there} objects; nothing was changed. A backup is restored into an empty etcd only"
                )));
            }
            snapshot.import_into(&etcd, next).await.map_err(failed(doing))?;
            "etcd".to_owned()
        }
        None => {
            let file = stopped::vacant_file(home, seal.clone()).await?;
            let restored = Snapshot { generation: next, content: None, ..snapshot };
            restored.write(&file, &seal).await.map_err(failed(doing))?;
            file.display().to_string()
        }
    };
    generation::note(&dir, next).map_err(failed(doing))?;
    writeln!(out, "restored into {target}, generation {next}; start the operators")?;
    Ok(())
}

impl Args {
    /// A snapshot of an object store. Its file goes among those that are written in `snapshots/` of the data directory; for a dry run
    /// into a folder that is removed again.
    async fn fetched(
        &self,
        store: &SnapshotStore,
        (dir, seal): (&Path, &Seal),
        out: &mut (dyn Write + Send),
    ) -> Result<Snapshot, Error> {
        let name = self.file.as_ref().map(|name| name.to_string_lossy().into_owned());
        let chosen = store.choose(name.as_deref()).await?;
        let bytes = store.get(&chosen).await?;
        writeln!(out, "fetched {}, {} bytes", chosen.name, bytes.len())?;
        let (folder, made) = match self.dry_run {
            true => {
                let folder = std::env::temp_dir().join(format!("evenkeel-restore-{}", std::process::id()));
                // Others may write in its parent: one that is there already is not ours.
                let made = DirBuilder::new().mode(0o700).create(&folder);
                (folder, made)
            }
            false => (snapshots::folder(dir), snapshots::make(&snapshots::folder(dir))),
        };
        let file = folder.join(chosen.file());
        let written = made.and_then(|()| private_file::write(&file, &bytes));
        let read = match written {
            Ok(()) => Snapshot::read(&file, seal).await.map_err(failed(|| format!("cannot restore {}", chosen.name))),
            Err(source) => Err(Error::Io { doing: format!("write {}", file.display()), source }),
        };
        if self.dry_run {
            // It has no Secret that could be read.
            let _ = std::fs::remove_file(&file).and_then(|()| std::fs::remove_dir(&folder));
        }
        read
    }
}

/// What people want to know of a file before they restore it.
fn told(snapshot: &Snapshot) -> String {
    let taken = snapshot.taken.as_deref().unwrap_or("at an unknown time");
    let head = format!("taken {taken}, generation {}\n", snapshot.generation);
    snapshot.counts().iter().fold(head, |told, (resource, count)| told + &format!("{count:>7}  {resource}\n"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::store::{Key, KeyFiles, SqliteStore, Store as _};

    #[tokio::test]
    async fn a_backup_is_restored_into_an_empty_data_directory_once_and_its_generation_grows() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("data");
        std::fs::create_dir_all(dir.join("pki")).unwrap();
        let keys = KeyFiles::new(&dir, None).read_or_make().unwrap();
        let secret = json!({"metadata": {"name": "app", "uid": "1"}, "data": {"p": "aHVudGVyMg=="}});
        let objects = vec![(Key::new("secrets", "default", "app"), Arc::new(secret))];
        let taken = Some("2026-11-29T17:00:00Z".to_owned());
        let file = folder.path().join("backup.db");
        Snapshot { objects, generation: 2, taken, content: None }.write(&file, &keys).await.unwrap();
        let home = Home { data_dir: Some(dir.clone()), encryption_key_file: None };
        let mut args = Args { file: Some(file), from: Default::default(), dry_run: true, home };
        let mut out = Vec::new();
        run(&args, &mut out).await.unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "taken 2026-11-29T17:00:00Z, generation 2\n      1  secrets\n");
        assert!(!dir.join("store.db").exists());
        args.dry_run = false;
        run(&args, &mut Vec::new()).await.unwrap();
        let store = SqliteStore::open(dir.join("store.db"), keys).await.unwrap();
        assert_eq!((stopped::count(&store).await.unwrap(), store.generation().await.unwrap()), (1, 3));
        store.close().await;
        let refused = run(&args, &mut Vec::new()).await.unwrap_err().to_string();
        assert!(refused.contains("has 1 objects; nothing was changed"), "{refused}");
        std::fs::remove_file(dir.join("store.db")).unwrap();
        run(&args, &mut Vec::new()).await.unwrap();
        assert_eq!(
            Snapshot::read(&dir.join("store.db"), &stopped::keys(&args.home).unwrap()).await.unwrap().generation,
            4
        );
    }

    #[tokio::test]
    async fn without_the_keys_nothing_is_restored() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("backup.db");
        std::fs::write(&file, "x").unwrap();
        let home = Home { data_dir: Some(dir.path().join("data")), encryption_key_file: None };
        let refused = run(&Args { file: Some(file), from: Default::default(), dry_run: false, home }, &mut Vec::new())
            .await
            .unwrap_err()
            .to_string();
        assert!(refused.contains("bring pki/ of a former data directory"), "{refused}");
        assert!(!dir.path().join("data").exists());
    }
}
