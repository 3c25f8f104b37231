//! The etcd that Evenkeel manages, on this node: begins it, joins it, and opens it at each start. Wiring: what is decided is in
//! `etcd/plan.rs` and `api/cluster.rs`.

pub mod kept;
pub mod running;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::ServerName;

use self::running::Managed;
use super::error::{Error, failed};
use super::etcd;
use super::join::Asking;
use crate::api::cluster::name_problem;
use crate::api::docker_host::{Endpoint, LOCAL};
use crate::api::join::{Bundle, ETCD, ETCD_CA, ETCD_CA_KEY};
use crate::engine::Engine;
use crate::engine::docker::{DockerEngine, OwnBinary};
use crate::engine::hosts::local_endpoint;
use crate::etcd::act;
use crate::etcd::container::NAME;
use crate::etcd::member::{Began, IMAGE, Member, peer_url};
use crate::etcd::plan::Refusal;
use crate::runtime::Clock;
use crate::server::identity::etcd as certificates;
use crate::store::etcd::{EtcdConfig, version_problem};

/// The etcd that Evenkeel manages.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Begins a cluster of operators: starts a member of etcd as a container of this machine's Docker. Other machines join by
    /// --join. Where it was begun, nothing more is done
    #[arg(long, conflicts_with_all = ["etcd_endpoints", "join"])]
    pub cluster_init: bool,
    /// Image of etcd, if Evenkeel manages it [default: that of the start before, else quay.io/coreos/etcd:v3.5.21]
    #[arg(long, value_name = "IMAGE")]
    pub etcd_image: Option<String>,
}

/// One start of this node's operator.
pub struct Start<'a> {
    /// The options.
    pub args: &'a Args,
    /// The data directory.
    pub dir: &'a Path,
    /// The name of the node that was given by an option, if one was.
    pub named: Option<&'a str>,
    /// The name of the node.
    pub node: String,
    /// Where the other nodes reach this one, or why that is not known.
    pub address: Result<IpAddr, String>,
    /// What all keys in etcd begin with.
    pub prefix: &'a str,
    /// The clock.
    pub clock: Arc<dyn Clock>,
}

/// The address of this node among the others: what it advertises, else what it listens on.
pub fn address(listen: SocketAddr, advertise: &[ServerName<'static>]) -> Result<IpAddr, String> {
    let addresses = advertise.iter().filter_map(|name| match name {
        ServerName::IpAddress(address) => Some(IpAddr::from(*address)),
        _ => None,
    });
    let mut usable =
        addresses.chain([listen.ip()]).filter(|address| !address.is_unspecified() && !address.is_loopback());
    usable.next().ok_or_else(|| {
        format!(
            "the other machines must reach this one, and {} is not such an address; start it with --listen ADDRESS:PORT, or with \
             --advertise ADDRESS: an address of this machine, not a name",
            listen.ip()
        )
    })
}

impl Start<'_> {
    /// Begins a cluster, if that is wanted and not done. Nothing is changed if it is refused.
    pub async fn begin(&self) -> Result<(), Error> {
        if !self.args.cluster_init {
            return Ok(());
        }
        let dir = self.dir.display();
        match (kept::read(self.dir)?, etcd::is_kept(self.dir)) {
            (Some(Member { began: Began::Init, .. }), _) => {
                tracing::info!("the cluster of this node was begun before; --cluster-init is not needed any more");
                return Ok(());
            }
            (Some(Member { began: Began::Join, .. }), _) => {
                return Err(Error::Failed(format!(
                    "--cluster-init: {dir} has joined other operators and belongs to their cluster; start it without this option"
                )));
            }
            (None, true) => {
                return Err(Error::Failed(format!(
                    "--cluster-init: {dir} shares an etcd that Evenkeel does not manage; its objects cannot be taken over"
                )));
            }
            (None, false) => {}
        }
        let image = self.args.etcd_image.as_deref().unwrap_or(IMAGE);
        let address = self.fit(&*local_engine(self.dir)?, image).await?;
        let files = certificates::files(self.dir, address, &*self.clock);
        let files = files.map_err(failed(|| format!("cannot make the certificates of etcd in {dir}")))?;
        let cluster = certificates::cluster(&files.ca).unwrap_or_default();
        kept::write(self.dir, &Member::first(&self.node, address, image, &cluster))
    }

    /// What a node that joins has in its data directory: what it got, and its own member of etcd, if Evenkeel manages etcd. The
    /// member is added to the others when everything else is known to fit.
    pub async fn complete<F: Future<Output = Result<(), Error>>>(
        &self,
        mut bundle: Bundle,
        asking: &Asking,
        try_out: impl FnOnce(Bundle, Option<EtcdConfig>) -> F,
    ) -> Result<Bundle, Error> {
        let config = etcd::parse(bundle.text(ETCD).unwrap_or_default()).ok().filter(|config| config.managed);
        let Some(config) = config else {
            try_out(bundle.clone(), None).await?;
            return Ok(bundle);
        };
        let (Some(ca), Some(ca_key)) = (bundle.text(ETCD_CA), bundle.text(ETCD_CA_KEY)) else {
            return Err(Error::Failed("the other operator has sent no CA of etcd".to_owned()));
        };
        let image = self.args.etcd_image.as_deref().unwrap_or(IMAGE);
        let address = self.fit(&*local_engine(self.dir)?, image).await?;
        let files = certificates::joining(ca, ca_key, address, self.clock.now());
        let files = files.map_err(failed(|| "cannot make the certificates of etcd".to_owned()))?;
        let cluster = certificates::cluster(ca).unwrap_or_default();
        try_out(bundle.clone(), Some(EtcdConfig { tls: Some(files.clone()), ..config })).await?;
        let with_member = asking.ask(Some(peer_url(address))).await?;
        let initial = with_member.members.clone().unwrap_or_default();
        let member = Member { began: Began::Join, initial, ..Member::first(&self.node, address, image, &cluster) };
        // Its list of members is newer.
        bundle.files.extend(with_member.files);
        let own = [
            (certificates::CERTIFICATE, files.certificate),
            (certificates::KEY, files.key),
            (kept::FILE, kept::text(&member)?),
        ];
        bundle.files.extend(own.map(|(name, text)| (name.to_owned(), text)));
        Ok(bundle)
    }

    /// This node's member, which runs and votes. `None`: Evenkeel does not manage etcd here.
    pub async fn open(&self) -> Result<Option<Managed>, Error> {
        let Some(mut member) = kept::read(self.dir)? else { return Ok(None) };
        if member.resetting {
            return Err(Error::Failed(
                "`evenkeel cluster reset` has begun here and is not done; run it again".to_owned(),
            ));
        }
        if let Some(named) = self.named.filter(|named| *named != member.node) {
            return Err(Error::Usage(format!(
                "--node {named}: this node is called {:?} in its cluster, which cannot be changed",
                member.node
            )));
        }
        if let Some(image) = self.args.etcd_image.as_ref().filter(|image| **image != member.image) {
            member.image.clone_from(image);
            kept::write(self.dir, &member)?;
        }
        if !act::is_here(member.address) {
            member = self.moved(member)?;
        }
        let engine = local_engine(self.dir)?;
        let mut managed = Managed::new(self.dir, member, engine, self.prefix, self.clock.clone())?;
        managed.joins_in().await?;
        Ok(Some(managed))
    }

    /// This node's member at the address that the machine has now. The others are told when the member runs there.
    fn moved(&self, member: Member) -> Result<Member, Error> {
        let old = member.address;
        let refused = |why: String| {
            Error::Failed(format!("the address of this node, {old}, is no address of this machine any more: {why}"))
        };
        let new = self.address.clone().map_err(refused)?;
        if !member.ran {
            let node = &member.node;
            return Err(refused(format!(
                "it has never run, so remove it (`evenkeel cluster remove {node}` on another node) and join with an empty data directory"
            )));
        }
        if let Some(problem) = act::port_problem(new) {
            return Err(refused(problem));
        }
        tracing::warn!(%old, %new, "this node has another address now");
        let member = member.at(new);
        kept::write(self.dir, &member)?;
        Ok(member)
    }

    /// Whether a member of etcd can be made here; its address.
    async fn fit(&self, engine: &dyn Engine, image: &str) -> Result<IpAddr, Error> {
        let unfit = |why: String| Error::Failed(format!("no member of etcd can be made here: {why}"));
        let address = self.address.clone().map_err(unfit)?;
        if let Some(problem) = name_problem(&self.node) {
            return Err(unfit(problem));
        }
        let asked = |source| Error::Operator {
            doing: "no member of etcd can be made here; it needs this machine's Docker".to_owned(),
            source: Box::new(source),
        };
        engine.ping().await.map_err(asked)?;
        if engine.volume(NAME).await.map_err(asked)?.is_some() {
            return Err(unfit(Refusal::Foreign.to_string()));
        }
        let owned = engine.list_owned().await.map_err(asked)?;
        if owned.values().flatten().any(|container| container.name == NAME) {
            return Err(unfit(format!("a container {NAME} is there already; if nobody needs it: docker rm -f {NAME}")));
        }
        if let Some(problem) = act::port_problem(address) {
            return Err(unfit(problem));
        }
        if engine.image(image).await.map_err(asked)?.is_none() {
            tracing::info!(image, "pulling the image of etcd");
            engine.pull_image(image, None).await.map_err(asked)?;
        }
        let said = act::version(engine, LOCAL, &self.node, image).await.map_err(asked)?;
        match version_problem(&said) {
            Some(problem) => Err(unfit(format!("image {image}: {problem}"))),
            None => Ok(address),
        }
    }
}

/// The Docker of this machine, on whose network a member of etcd is.
pub fn local_engine(dir: &Path) -> Result<Arc<dyn Engine>, Error> {
    let failed = failed(|| "no member of etcd runs without this machine's Docker".to_owned());
    let endpoint = local_endpoint().map_err(&failed)?;
    if !matches!(endpoint, Endpoint::Unix { .. }) {
        return Err(Error::Failed(format!(
            "a member of etcd is a container of this machine's own Docker, and DOCKER_HOST names another one ({endpoint})"
        )));
    }
    let binary = Arc::new(OwnBinary::running());
    let engine = DockerEngine::connect_below(LOCAL, &endpoint, None, binary, &dir.join("run")).map_err(&failed)?;
    Ok(Arc::new(engine))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Regression 496, found before its release: a cluster that was begun on loopback could never be joined.
    #[test]
    fn a_node_that_others_cannot_reach_is_told_so() {
        let at = |listen: &str, advertise: &[&str]| {
            let advertise: Vec<_> =
                advertise.iter().map(|name| ServerName::try_from((*name).to_owned()).unwrap()).collect();
            address(listen.parse().unwrap(), &advertise).map(|address| address.to_string())
        };
        assert_eq!(at("10.0.0.1:7443", &[]).unwrap(), "10.0.0.1");
        assert_eq!(at("0.0.0.0:7443", &["one.example", "10.0.0.2"]).unwrap(), "10.0.0.2");
        assert_eq!(at("127.0.0.1:7443", &["10.0.0.2"]).unwrap(), "10.0.0.2");
        for (listen, advertise) in [("127.0.0.1:7443", &[][..]), ("0.0.0.0:7443", &["one.example"])] {
            let refused = at(listen, advertise).unwrap_err();
            assert!(refused.contains("--advertise ADDRESS"), "{refused}");
        }
    }
}
