//! `evenkeel secrets`: the keys that seal Secrets in the store. Works on the data directory, not on the API.

use super::datadir::DataDir;
use super::error::{Error, failed};
use super::etcd;
use super::operator::Home;
use crate::store::SqliteStore;

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
    /// Makes a new key, seals every Secret with it and forgets the old key; the operator must be stopped
    RotateKeys,
    /// Writes every Secret in plain, for a downgrade to a version that does not seal them; the operator must be stopped
    Unseal,
}

/// Runs the verb.
pub async fn run(args: &Args, out: &mut (dyn std::io::Write + Send)) -> Result<(), Error> {
    let Args { verb, home } = args;
    let (keys, file) = (home.keys(), home.store());
    let doing = || format!("cannot do that with the Secrets in {}", file.display());
    if etcd::is_kept(&home.dir()) {
        return Err(Error::Failed(format!(
            "the Secrets of {} are in an etcd that several operators share; their keys cannot be changed by this verb",
            home.dir().display()
        )));
    }
    if !file.exists() {
        return Err(Error::Failed(format!("there is no store {}; name the folder with --data-dir", file.display())));
    }
    match verb {
        Verb::Status => {
            let ids = keys.read().map_err(failed(doing))?.ids();
            let values = SqliteStore::sealed(&file).await.map_err(failed(doing))?;
            writeln!(out, "KEY       VALUES  USE")?;
            for (at, id) in ids.iter().enumerate() {
                let role = if at == 0 { format!("seals ({})", keys.first().display()) } else { "opens".to_owned() };
                writeln!(out, "{id}  {:>6}  {role}", values.get(id).unwrap_or(&0))?;
            }
            for (id, count) in values.iter().filter(|(id, _)| !ids.contains(id)) {
                let (id, why) = if id.is_empty() { ("-", "not sealed") } else { (id.as_str(), "the key is missing") };
                writeln!(out, "{id:<8}  {count:>6}  {why}")?;
            }
        }
        Verb::RotateKeys => {
            let _dir = DataDir::claim(&home.dir())?;
            keys.read().and_then(|_| keys.renew()).map_err(failed(doing))?;
            let seal = keys.read().map_err(failed(doing))?;
            let id = seal.ids().into_iter().next().unwrap_or_default();
            // Opening seals what is not sealed with the first key.
            SqliteStore::open(&file, seal).await.map_err(failed(doing))?.close().await;
            keys.forget().map_err(failed(doing))?;
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
