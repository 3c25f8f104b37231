//! The etcd that an operator shares with others: its options, and the file in the data directory that keeps them.

use std::path::{Path, PathBuf};

use super::error::Error;
use crate::api::join::ETCD;
use crate::store::etcd::{EtcdConfig, EtcdTls};
use crate::store::private_file;

/// The etcd that an operator shares with others.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Addresses of the members of an etcd that several operators share, such as https://10.0.0.1:2379 [default: none, the
    /// store is a file and this operator the only one; else those that it was started with before]
    #[arg(long, value_name = "URL,...", value_delimiter = ',')]
    pub etcd_endpoints: Vec<String>,
    /// File with the certificates of the authorities of etcd, PEM
    #[arg(long, value_name = "FILE", requires = "etcd_endpoints")]
    pub etcd_cacert: Option<PathBuf>,
    /// File with this operator's certificate for etcd, PEM
    #[arg(long, value_name = "FILE", requires = "etcd_cacert")]
    pub etcd_cert: Option<PathBuf>,
    /// File with the key of that certificate, PEM
    #[arg(long, value_name = "FILE", requires = "etcd_cert")]
    pub etcd_key: Option<PathBuf>,
    /// What all keys in etcd begin with
    #[arg(long, value_name = "PREFIX", default_value = EtcdConfig::PREFIX)]
    pub etcd_prefix: String,
    /// The name of this machine among those of the other operators [default: its host name]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
}

impl Args {
    /// The etcd that is named, else the one that the data directory remembers.
    pub fn config(&self, dir: &Path) -> Result<Option<EtcdConfig>, Error> {
        if let Some(named) = self.named()? {
            return Ok(Some(named));
        }
        kept(dir)
    }

    /// The etcd, if one is named.
    pub fn named(&self) -> Result<Option<EtcdConfig>, Error> {
        if self.etcd_endpoints.is_empty() {
            return Ok(None);
        }
        let tls = match (&self.etcd_cacert, &self.etcd_cert, &self.etcd_key) {
            (Some(ca), Some(certificate), Some(key)) => {
                Some(EtcdTls { ca: read(ca)?, certificate: read(certificate)?, key: read(key)? })
            }
            (None, _, _) => None,
            _ => {
                let missing = "etcd with TLS wants --etcd-cacert, --etcd-cert and --etcd-key";
                return Err(Error::Failed(missing.to_owned()));
            }
        };
        Ok(Some(EtcdConfig {
            endpoints: self.etcd_endpoints.clone(),
            prefix: self.etcd_prefix.clone(),
            tls,
            managed: false,
        }))
    }

    /// The name of this machine.
    pub fn node(&self) -> String {
        let own = || rustix::system::uname().nodename().to_str().ok().map(str::to_owned);
        self.node.clone().or_else(own).unwrap_or_else(|| "operator".to_owned())
    }
}

/// The etcd that a data directory remembers, if it does.
pub fn kept(dir: &Path) -> Result<Option<EtcdConfig>, Error> {
    let path = file(dir);
    match std::fs::read_to_string(&path) {
        Ok(text) => parse(&text).map(Some).map_err(|source| Error::Operator {
            doing: format!("{} is damaged; start the operator with --etcd-endpoints to write it anew", path.display()),
            source: source.into(),
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { doing: format!("read {}", path.display()), source }),
    }
}

/// Keeps the settings, so that no later start has to name them, and none takes a file for the store.
pub fn keep(dir: &Path, config: &EtcdConfig) -> Result<(), Error> {
    let path = file(dir);
    let failed = |source| Error::Io { doing: format!("write {}", path.display()), source };
    let text = serde_json::to_string(config).map_err(|error| failed(error.into()))?;
    if std::fs::read_to_string(&path).is_ok_and(|before| before == text) {
        return Ok(());
    }
    private_file::write(&path, &text).map_err(failed)
}

/// Settings as they are kept.
pub fn parse(text: &str) -> Result<EtcdConfig, serde_json::Error> {
    serde_json::from_str(text)
}

/// Whether the operator of this data directory shares an etcd.
pub fn is_kept(dir: &Path) -> bool {
    file(dir).exists()
}

fn file(dir: &Path) -> PathBuf {
    dir.join("pki").join(ETCD)
}

fn read(path: &Path) -> Result<String, Error> {
    std::fs::read_to_string(path).map_err(|source| Error::Io { doing: format!("read {}", path.display()), source })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Regression 450: a start without --etcd-endpoints made a new store in a file, and two operators acted for the same
    /// objects. A data directory remembers the etcd that it was started with; what is named wins.
    #[test]
    fn a_start_without_options_uses_the_etcd_of_the_start_before() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("pki")).unwrap();
        let args =
            Args { etcd_endpoints: vec!["http://10.0.0.1:2379".into()], etcd_prefix: "/a".into(), ..Args::default() };
        assert_eq!(Args::default().config(dir.path()).unwrap(), None);
        let named = args.config(dir.path()).unwrap().unwrap();
        keep(dir.path(), &named).unwrap();
        assert_eq!(Args::default().config(dir.path()).unwrap(), Some(named));
        let others = Args { etcd_endpoints: vec!["http://10.0.0.9:2379".into()], ..args };
        assert_eq!(others.config(dir.path()).unwrap().unwrap().endpoints, ["http://10.0.0.9:2379"]);
        std::fs::write(file(dir.path()), "{").unwrap();
        let damaged = Args::default().config(dir.path()).unwrap_err().to_string();
        assert!(damaged.contains("etcd.json is damaged; start the operator with --etcd-endpoints"), "{damaged}");
    }
}
