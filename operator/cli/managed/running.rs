//! This node's member of etcd while the operator runs: it is made, started again, promoted, gets new certificates; and the list of
//! members is kept, so that a later start needs none of those that are there now.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::kept;
use crate::api::chain::chain;
use crate::api::cluster::{MemberStatus, Role};
use crate::api::hash::short_hash;
use crate::cli::error::{Error, failed};
use crate::cli::etcd;
use crate::engine::Engine;
use crate::etcd::act;
use crate::etcd::container::{Files, NAME, container};
use crate::etcd::member::{Began, Member};
use crate::etcd::plan::{Step, plan};
use crate::runtime::Clock;
use crate::runtime::clock::instant;
use crate::server::identity::etcd as certificates;
use crate::store::etcd::{EtcdCluster, EtcdConfig, EtcdTls};

/// Interval of looking after the member.
const INTERVAL: Duration = Duration::from_secs(2);
/// Pause between two looks while it is waited for.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a start waits for a majority of the members.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a node that joins waits until it has everything.
const CATCH_UP: Duration = Duration::from_secs(600);

/// This node's member.
pub struct Managed {
    dir: PathBuf,
    member: Member,
    engine: Arc<dyn Engine>,
    clock: Arc<dyn Clock>,
    /// What is kept of the store, without the files of TLS.
    config: EtcdConfig,
}

impl Managed {
    /// The member of a data directory.
    pub fn new(
        dir: &Path,
        member: Member,
        engine: Arc<dyn Engine>,
        prefix: &str,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Error> {
        let first =
            || EtcdConfig { endpoints: vec![member.client_url()], prefix: prefix.to_owned(), tls: None, managed: true };
        let mut config = etcd::kept(dir)?.unwrap_or_else(first);
        // The node may have another address than at the start before.
        if !config.endpoints.contains(&member.client_url()) {
            config.endpoints.insert(0, member.client_url());
        }
        Ok(Self { dir: dir.to_owned(), member, engine, clock, config })
    }

    /// The name of this node.
    pub fn node(&self) -> &str {
        &self.member.node
    }

    /// How the store is reached from here.
    pub fn config(&self) -> Result<EtcdConfig, Error> {
        Ok(EtcdConfig { tls: Some(self.files()?), ..self.config.clone() })
    }

    /// Waits until the member runs and votes, and keeps what the next start needs.
    pub async fn joins_in(&mut self) -> Result<(), Error> {
        let joins = self.member.began == Began::Join && !self.member.ran;
        let patience = instant() + if joins { CATCH_UP } else { PATIENCE };
        let cluster = self.connected(self.config.endpoints.clone()).await?;
        if joins {
            self.begin_with(&cluster).await;
        }
        loop {
            let made = self.ensure(false).await;
            let problem = match (made, self.votes(&cluster).await) {
                (_, Ok(Some(endpoints))) => return self.keep_endpoints(endpoints),
                (_, Err(removed @ Error::Failed(_))) => {
                    self.ends().await;
                    return Err(removed);
                }
                (Err(refused @ Error::Failed(_)), _) => return Err(refused),
                (Err(problem), _) | (Ok(()), Err(problem)) => Some(problem),
                (Ok(()), Ok(None)) => None,
            };
            if instant() >= patience {
                let complaint = act::complaint(&*self.engine).await.map(|line| format!("; etcd says: {line}"));
                let why = problem.map_or_else(|| "it has not caught up".to_owned(), |problem| chain(&problem));
                return Err(Error::Failed(format!(
                    "this node's member of etcd (container {NAME}) does not work: {why}{}",
                    complaint.unwrap_or_default()
                )));
            }
            sleep(PAUSE).await;
        }
    }

    /// The store was opened: from now on the member's data is worth something.
    pub fn served(&mut self) -> Result<(), Error> {
        etcd::keep(&self.dir, &self.config)?;
        if self.member.ran {
            return Ok(());
        }
        self.member.ran = true;
        kept::write(&self.dir, &self.member)
    }

    /// Looks after the member for ever. Ends only if this node was removed.
    pub async fn keep(mut self, cluster: EtcdCluster) -> Error {
        let mut told = String::new();
        loop {
            sleep(INTERVAL).await;
            let problem = match self.look_after(&cluster).await {
                Ok(()) => String::new(),
                Err(removed @ Error::Failed(_)) => {
                    self.ends().await;
                    return removed;
                }
                Err(problem) => chain(&problem),
            };
            if problem != told && !problem.is_empty() {
                tracing::warn!("this node's member of etcd: {problem}");
            }
            told = problem;
        }
    }

    async fn look_after(&mut self, cluster: &EtcdCluster) -> Result<(), Error> {
        let made = match self.ensure(false).await {
            // A volume that is gone, or that of others, is told; the operator goes on with the other members.
            Err(Error::Failed(refused)) => Err(Error::Operator { doing: refused, source: "nothing is done".into() }),
            other => other,
        };
        if let Some(endpoints) = self.votes(cluster).await? {
            self.keep_endpoints(endpoints)?;
        }
        let renewed = cluster.renew(&self.config.endpoints, Some(self.files()?)).await;
        renewed.map_err(failed(|| "its connections could not be renewed".to_owned()))?;
        made
    }

    /// The addresses of the other members where one answers, whatever it knows.
    pub async fn others_that_answer(&self) -> Result<Vec<String>, Error> {
        let own = self.member.client_url();
        let others: Vec<_> = self.config.endpoints.iter().filter(|url| **url != own).cloned().collect();
        if others.is_empty() {
            return Ok(others);
        }
        Ok(self.connected(others).await?.answering().await)
    }

    /// Makes a cluster of this member alone from its data. What is interrupted is done again by the next call.
    pub async fn reset(&mut self) -> Result<(), Error> {
        self.member.resetting = true;
        kept::write(&self.dir, &self.member)?;
        // Once as one that forgets the others, then as it always runs.
        for alone in [true, false] {
            self.leads_alone(alone).await?;
        }
        self.config.endpoints = vec![self.member.client_url()];
        let cluster = self.connected(self.config.endpoints.clone()).await?;
        // Their machines join again, under their names.
        let forgotten = cluster.forget_nodes(&self.config.prefix).await;
        forgotten.map_err(failed(|| "the other operators could not be forgotten; run this again".to_owned()))?;
        etcd::keep(&self.dir, &self.config)?;
        self.member.resetting = false;
        kept::write(&self.dir, &self.member)
    }

    /// Waits until this member runs and is the only one.
    async fn leads_alone(&mut self, alone: bool) -> Result<(), Error> {
        let patience = instant() + PATIENCE;
        let cluster = self.connected(vec![self.member.client_url()]).await?;
        loop {
            self.ensure(alone).await?;
            let members = cluster.survey().await.unwrap_or_default();
            if matches!(&members[..], [own] if own.role == Role::Leader) {
                return Ok(());
            }
            if instant() >= patience {
                let complaint = act::complaint(&*self.engine).await.unwrap_or_else(|| "nothing".to_owned());
                return Err(Error::Failed(format!(
                    "etcd (container {NAME}) does not go on alone; it complains of: {complaint}. Run this again"
                )));
            }
            sleep(PAUSE).await;
        }
    }

    /// Makes and starts the container, as far as that is to be done. `alone`: one that forgets the other members.
    async fn ensure(&mut self, alone: bool) -> Result<(), Error> {
        let files = self.files()?;
        let certificate = short_hash(&files.certificate, 16);
        let engine = self.engine.clone();
        let refused = |step: &str| {
            let doing = format!("cannot {step}");
            failed(move || doing.clone())
        };
        let seen = act::observe(&*engine, &self.member.node, &self.member.image).await;
        let seen = seen.map_err(refused("look at the container of etcd"))?;
        let want = container(&self.member, alone);
        let steps = plan(&self.member, &want, &seen, &certificate).map_err(|why| Error::Failed(why.to_string()))?;
        for step in steps {
            let of_member = Files { ca: &files.ca, certificate: &files.certificate, key: &files.key };
            let done = act::act(&*engine, step, &self.member, &want, &of_member).await;
            done.map_err(refused(&step.to_string()))?;
            if step == Step::Deliver && self.member.delivered != certificate {
                self.member.delivered.clone_from(&certificate);
                kept::write(&self.dir, &self.member)?;
            }
        }
        Ok(())
    }

    /// The addresses of all members, this one's first, if this one votes; it is promoted if it can be. [`Error::Failed`]: it was
    /// removed.
    async fn votes(&self, cluster: &EtcdCluster) -> Result<Option<Vec<String>>, Error> {
        let list = cluster.agreed().await.map_err(failed(|| "the members are not known".to_owned()))?;
        let peer = self.member.peer_url();
        let named = || list.iter().find(|member| self.member.ran && member.name == self.member.node);
        let Some(own) = list.iter().find(|member| member.peer == peer).or_else(named) else {
            return Err(self.removed());
        };
        if own.peer != peer {
            let told = cluster.set_peer(&own.id, &peer).await;
            told.map_err(failed(|| "the others cannot be told its new address".to_owned()))?;
        }
        if !own.voter && !cluster.promote(&own.id).await.map_err(failed(|| "it cannot be promoted".to_owned()))? {
            return Ok(None);
        }
        // A new member tells its address for clients when it has joined in.
        let others = list.iter().filter(|member| member.id != own.id).filter_map(|member| member.client.clone());
        Ok(Some([self.member.client_url()].into_iter().chain(others).collect()))
    }

    /// Ends the container of a member that was removed; Docker would start it for ever.
    async fn ends(&self) {
        if let Err(error) = act::stop(&*self.engine).await {
            tracing::warn!(error = %chain(&error), "the container of etcd could not be stopped");
        }
    }

    fn removed(&self) -> Error {
        Error::Failed(format!(
            "this node ({}) was removed from its cluster; its operator ends. To use the machine again: docker rm -f {NAME}; docker \
             volume rm {NAME}; empty the data directory {}; join with a new token",
            self.member.node,
            self.dir.display()
        ))
    }

    fn keep_endpoints(&mut self, endpoints: Vec<String>) -> Result<(), Error> {
        if self.config.endpoints != endpoints {
            tracing::info!(members = endpoints.join(", "), "the members of etcd");
            self.config.endpoints = endpoints;
            // Before the store was opened for the first time, a start without --cluster-init finds no store in etcd.
            if self.member.ran || self.member.began == Began::Join {
                etcd::keep(&self.dir, &self.config)?;
            }
        }
        Ok(())
    }

    /// A node that joins names the members as they are when its own begins.
    async fn begin_with(&mut self, cluster: &EtcdCluster) {
        let Ok(list) = cluster.agreed().await else { return };
        let one = |member: &MemberStatus| {
            let is_own = member.peer == self.member.peer_url();
            format!("{}={}", if is_own { &self.member.node } else { &member.name }, member.peer)
        };
        let initial = list.iter().map(one).collect::<Vec<_>>();
        let mut before: Vec<_> = self.member.initial.split(',').collect();
        before.sort_unstable();
        let mut now: Vec<_> = initial.iter().map(String::as_str).collect();
        now.sort_unstable();
        // The order does not matter, and another text makes another container.
        if before != now {
            self.member.initial = initial.join(",");
        }
    }

    async fn connected(&self, endpoints: Vec<String>) -> Result<EtcdCluster, Error> {
        let connected = EtcdCluster::connect(&EtcdConfig { endpoints, ..self.config()? }).await;
        connected.map_err(failed(|| "cannot connect with etcd".to_owned()))
    }

    fn files(&self) -> Result<EtcdTls, Error> {
        let files = certificates::files(&self.dir, self.member.address, &*self.clock);
        files.map_err(failed(|| "cannot read or renew the certificates of etcd".to_owned()))
    }
}
