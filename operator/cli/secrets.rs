//! `evenkeel secrets`: the keys that seal Secrets in the store. Works on the data directory, not on the API.

use std::collections::BTreeMap;

use super::cluster::stopped;
use super::datadir::DataDir;
use super::error::{Error, failed};
use super::etcd;
use super::operator::Home;
use crate::store::{EtcdStore, KeyFiles, SqliteStore};

/// Shows and changes how Secrets are sealed in the data directory.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    home: Home,
}

/// What to do.
#[derive(Debug, Clone, Copy, clap::Subcommand)]
enum Verb {
    /// Prints the keys, and how many values each of them seals
    Status,
    /// Makes a new key, seals every Secret with it and forgets the old key; the operator must be stopped. In a store that several
    /// operators share: all operators, and the new key is to be copied to each node before its operator starts
    RotateKeys,
    /// Writes every Secret in plain, for a downgrade to a version that does not seal them; the operator must be stopped, and its
    /// store a file
    Unseal,
}

/// Runs the verb.
pub async fn run(args: &Args, out: &mut (dyn std::io::Write + Send)) -> Result<(), Error> {
    let Args { verb, home } = args;
    let (keys, file) = (home.keys(), home.store());
    let doing = || format!("cannot do that with the Secrets in {}", file.display());
    if etcd::is_kept(&home.dir()) {
        return run_shared(*verb, home, out).await;
    }
    if !file.exists() {
        return Err(Error::Failed(format!("there is no store {}; name the folder with --data-dir", file.display())));
    }
    match verb {
        Verb::Status => {
            let ids = keys.read().map_err(failed(doing))?.ids();
            let values = SqliteStore::sealed(&file).await.map_err(failed(doing))?;
            write_keys(&keys, &ids, &values, out)?;
        }
        Verb::RotateKeys => {
            let _dir = DataDir::claim(&home.dir())?;
            let id = rotate(home).await?;
            writeln!(out, "every Secret is sealed with the new key {id}; back up {}", keys.first().display())?;
        }
        Verb::Unseal => {
            let _dir = DataDir::claim(&home.dir())?;
            let seal = keys.read().map_err(failed(doing))?;
            let values = SqliteStore::unseal(&file, &seal).await.map_err(failed(doing))?;
            writeln!(out, "{values} values are plain now; start the version before, not this one")?;
        }
    }
    Ok(())
}

/// Seals the Secrets in the file of a stopped operator with a new key, and forgets the old one. The id of the new one.
pub(super) async fn rotate(home: &Home) -> Result<String, Error> {
    let (keys, file) = (home.keys(), home.store());
    let doing = || format!("cannot renew the key of the Secrets in {}", file.display());
    keys.read().and_then(|_| keys.renew()).map_err(failed(doing))?;
    let seal = keys.read().map_err(failed(doing))?;
    let id = seal.ids().into_iter().next().unwrap_or_default();
    // Opening seals what is not sealed with the first key.
    SqliteStore::open(&file, seal).await.map_err(failed(doing))?.close().await;
    keys.forget().map_err(failed(doing))?;
    Ok(id)
}

/// The same for the Secrets in an etcd that several operators share.
async fn run_shared(verb: Verb, home: &Home, out: &mut (dyn std::io::Write + Send)) -> Result<(), Error> {
    let (dir, keys) = (home.dir(), home.keys());
    let doing = || "cannot do that with the Secrets in etcd".to_owned();
    let open = async || -> Result<EtcdStore, Error> {
        let opened = stopped::etcd(&dir, stopped::keys(home)?).await?;
        opened.ok_or_else(|| Error::Failed("the settings of etcd are gone".to_owned()))
    };
    match verb {
        Verb::Status => {
            let values = open().await?.sealed().await.map_err(failed(doing))?;
            write_keys(&keys, &stopped::keys(home)?.ids(), &values, out)
        }
        Verb::RotateKeys => {
            let _dir = DataDir::claim(&dir)?;
            stopped::nobody_runs(&open().await?).await?;
            // A key file of the user's has the new key already.
            let is_own = keys.renews();
            if is_own {
                keys.renew().map_err(failed(doing))?;
            }
            let count = open().await?.reseal().await.map_err(failed(doing))?;
            if is_own {
                keys.forget().map_err(failed(doing))?;
            }
            let (file, id) = (keys.first().display(), stopped::keys(home)?.ids().swap_remove(0));
            writeln!(out, "{count} values were sealed anew; everything is sealed with the key {id} of {file}")?;
            writeln!(
                out,
                "Before the operator of another node starts: copy this file over its key file, in private (scp -p); without it, that \
                 operator opens no Secret. Backups and snapshots that were made before need the old key"
            )?;
            Ok(())
        }
        Verb::Unseal => Err(Error::Failed(
            "Secrets in an etcd that several operators share stay sealed; `evenkeel cluster leave` takes them into a file first"
                .to_owned(),
        )),
    }
}

fn write_keys(
    keys: &KeyFiles,
    ids: &[String],
    values: &BTreeMap<String, u64>,
    out: &mut (dyn std::io::Write + Send),
) -> Result<(), Error> {
    writeln!(out, "KEY       VALUES  USE")?;
    for (at, id) in ids.iter().enumerate() {
        let role = if at == 0 { format!("seals ({})", keys.first().display()) } else { "opens".to_owned() };
        writeln!(out, "{id}  {:>6}  {role}", values.get(id).unwrap_or(&0))?;
    }
    for (id, count) in values.iter().filter(|(id, _)| !ids.contains(id)) {
        let (id, why) = if id.is_empty() { ("-", "not sealed") } else { (id.as_str(), "the key is missing") };
        writeln!(out, "{id:<8}  {count:>6}  {why}")?;
    }
    Ok(())
}
