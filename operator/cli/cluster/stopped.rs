//! What the verbs share that move all objects on the data directory of a stopped operator.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cli::error::{Error, failed};
use crate::cli::etcd;
use crate::cli::managed::running::Managed;
use crate::cli::managed::{kept, local_engine};
use crate::cli::operator::Home;
use crate::runtime::SystemClock;
use crate::store::etcd::EtcdConfig;
use crate::store::events::EVENTS;
use crate::store::{EtcdStore, Leases as _, Seal, SqliteStore, Store};

/// The keys of a data directory, which must be there.
pub fn keys(home: &Home) -> Result<Seal, Error> {
    home.keys().read().map_err(failed(|| {
        format!(
            "the Secrets cannot be opened: bring pki/ of a former data directory, with secrets.key, back into {} (or name your key \
             file by --encryption-key-file)",
            home.dir().display()
        )
    }))
}

/// The etcd that the operator of a data directory shares with others; `None`: its store is a file.
pub async fn etcd(dir: &Path, seal: Seal) -> Result<Option<EtcdStore>, Error> {
    let Some(mut config) = etcd::kept(dir)? else { return Ok(None) };
    let clock = Arc::new(SystemClock);
    if let Some(member) = kept::read(dir)?.filter(|_| config.managed) {
        config = Managed::new(dir, member, local_engine(dir)?, EtcdConfig::PREFIX, clock.clone())?.config()?;
    }
    let opened = EtcdStore::open(&config, seal, clock).await;
    opened.map(Some).map_err(failed(|| format!("cannot open the store in {}", config.endpoints.join(", "))))
}

/// Refuses while an operator runs over this store.
pub async fn nobody_runs(store: &EtcdStore) -> Result<(), Error> {
    let failed = failed(|| "it is not known whether an operator runs".to_owned());
    let mut names: Vec<String> =
        store.nodes().list().await.map_err(&failed)?.into_iter().map(|node| node.name).collect();
    names.extend(store.leases().leader().await.map_err(&failed)?.map(|leader| leader.who.node));
    names.sort();
    names.dedup();
    if names.is_empty() {
        return Ok(());
    }
    Err(Error::Failed(format!(
        "operators run over this store: {}. Stop all of them first; one that was killed is known for ten more seconds. Nothing was \
         changed",
        names.join(", ")
    )))
}

/// How many objects a store has, besides Events.
pub async fn count(store: &dyn Store) -> Result<usize, Error> {
    let all = store.all().await.map_err(failed(|| "cannot read the store".to_owned()))?;
    Ok(all.iter().filter(|(key, _)| key.resource != EVENTS).count())
}

/// The path of the file for a new store, which has no objects yet.
pub async fn vacant_file(home: &Home, seal: Seal) -> Result<PathBuf, Error> {
    let file = home.store();
    let existed = file.exists();
    if existed {
        let opened = SqliteStore::open(&file, seal).await;
        let store = opened.map_err(failed(|| format!("cannot open the store {}", file.display())))?;
        let objects = count(&store).await;
        store.close().await;
        let objects = objects?;
        if objects > 0 {
            return Err(Error::Failed(format!(
                "{} has {objects} objects; nothing was changed. If they are not needed, move the file away first",
                file.display()
            )));
        }
    }
    for end in ["-wal", "-shm"] {
        let mut beside = file.clone().into_os_string();
        beside.push(end);
        let beside = PathBuf::from(beside);
        if !beside.exists() {
            continue;
        }
        // It would be taken for a part of the new store.
        if !existed {
            return Err(Error::Failed(format!(
                "{} is a part of a store whose file is gone; move it away first",
                beside.display()
            )));
        }
        std::fs::remove_file(&beside)
            .map_err(|source| Error::Io { doing: format!("remove {}", beside.display()), source })?;
    }
    Ok(file)
}
