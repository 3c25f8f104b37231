//! Opens the store of an operator: a file of its own, or an etcd that it shares with others.

use std::path::Path;
use std::sync::Arc;

use crate::cli::error::{Error, failed};
use crate::runtime::Clock;
use crate::store::etcd::EtcdConfig;
use crate::store::sqlite::Snapshot;
use crate::store::{EtcdStore, Leases, Seal, SoleLeader, SqliteStore, Store, generation};

/// The opened store, and the way to leadership over it.
pub struct Opened {
    /// The store.
    pub store: Arc<dyn Store>,
    /// The way to leadership.
    pub leases: Arc<dyn Leases>,
    /// The store, if it is a file.
    pub file: Option<Arc<SqliteStore>>,
    /// The store, if it is an etcd.
    pub etcd: Option<EtcdStore>,
}

impl Opened {
    /// A file of this operator alone.
    pub async fn file(path: &Path, seal: Seal, clock: &Arc<dyn Clock>) -> Result<Self, Error> {
        let opened = SqliteStore::open(path, seal).await;
        let file = Arc::new(opened.map_err(failed(|| format!("cannot open the store {}", path.display())))?);
        let generation =
            file.generation().await.map_err(failed(|| format!("cannot open the store {}", path.display())))?;
        let leases = Arc::new(SoleLeader::new(file.clone(), clock.clone(), generation));
        Ok(Self { store: file.clone(), leases, file: Some(file), etcd: None })
    }

    /// An etcd that several operators share.
    pub async fn etcd(config: &EtcdConfig, seal: Seal, clock: &Arc<dyn Clock>) -> Result<Self, Error> {
        let opened = EtcdStore::open(config, seal, clock.clone()).await;
        let store = opened.map_err(failed(|| format!("cannot open the store in {}", config.endpoints.join(", "))))?;
        let leases = Arc::new(store.leases());
        Ok(Self { store: Arc::new(store.clone()), leases, file: None, etcd: Some(store) })
    }
}

/// Takes the objects of this machine's own store, if it has one in its data directory, over into a shared one, and keeps its file
/// under another name.
pub async fn take_over(
    (file, dir): (&Path, &Path),
    seal: Seal,
    store: &EtcdStore,
    clock: &Arc<dyn Clock>,
) -> Result<(), Error> {
    if !file.exists() {
        return Ok(());
    }
    let doing = || format!("cannot take the objects of {} over into etcd", file.display());
    let old = SqliteStore::open(file, seal).await.map_err(failed(doing))?;
    let before = old.generation().await.map_err(failed(doing))?;
    let generation = generation::next(before, dir).map_err(failed(doing))?;
    let all = Snapshot::of(&old, before, clock.now()).await.map_err(failed(doing))?;
    old.close().await;
    let copied = all.import_into(store, generation).await.map_err(failed(doing))?;
    let kept = file.with_extension("db.imported");
    let renamed = std::fs::rename(file, &kept);
    renamed
        .map_err(|source| Error::Io { doing: format!("rename {} to {}", file.display(), kept.display()), source })?;
    tracing::info!(objects = copied, kept = %kept.display(), "the objects of this machine's store are in etcd now");
    Ok(())
}
