//! A mirror as an engine: which verbs are answered from memory, and what a change makes it forget.

use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, stream};
use tokio::sync::mpsc;

use super::super::{
    Attachment, ClockSeen, ContainerSeen, ContainerSpec, Conversation, Daemon, Engine, Error, EventHint, Everything,
    ExecRequest, ExecResult, ExecSession, File, HostInfo, Identity, ImageSeen, LogOptions, NetworkSeen, NetworkSpec,
    Outputs, RegistryLogin, VolumeSpec,
};
use super::state::State;
use super::{Follower, INFO, Mirror, QUEUE};
use crate::api::labels::Owner;
use crate::api::sync::lock;

#[async_trait::async_trait]
impl Engine for Mirror {
    async fn info(&self) -> Result<HostInfo, Error> {
        self.not_silent()?;
        let fresh = |mirror: &Self| {
            let state = lock(&mirror.state);
            state.followers > 0
                && state.trouble.is_none()
                && state.info.as_ref().is_some_and(|(_, at)| at.elapsed() < INFO)
        };
        self.ask_itself(|mirror| !fresh(mirror)).await?;
        self.recognise().await?;
        let known = lock(&self.state).info.clone();
        known
            .map(|(info, _)| info)
            .ok_or_else(|| Error::unreachable(&self.host, "asking for its status", "not asked yet"))
    }

    async fn ping(&self) -> Result<(), Error> {
        self.ask(self.inner.ping()).await
    }

    fn identity(&self) -> Identity {
        self.inner.identity()
    }

    fn clock(&self) -> Option<ClockSeen> {
        self.inner.clock()
    }

    fn close(&self) {
        self.inner.close();
    }

    fn daemon(&self) -> Option<Daemon> {
        self.inner.daemon()
    }

    async fn list_all(&self) -> Result<Everything, Error> {
        self.recognise().await?;
        self.inner.list_all().await
    }

    async fn list_containers(&self, owner: &Owner) -> Result<Vec<ContainerSeen>, Error> {
        let read = async {
            let seen = self.inner.list_containers(owner).await?;
            if seen.is_empty() {
                self.make_sure().await?;
            }
            Ok(seen)
        };
        self.owned(owner, |picture| &mut picture.containers, |one| &one.name, read).await
    }

    async fn list_volumes(&self, owner: &Owner) -> Result<Vec<String>, Error> {
        self.owned(owner, |picture| &mut picture.volumes, |name| name, self.inner.list_volumes(owner)).await
    }

    async fn network(&self, name: &str) -> Result<Option<NetworkSeen>, Error> {
        self.named(name, |state| &mut state.networks, self.inner.network(name)).await
    }

    async fn image(&self, image: &str) -> Result<Option<ImageSeen>, Error> {
        self.named(image, |state| &mut state.images, self.inner.image(image)).await
    }

    async fn ensure_network(&self, spec: &NetworkSpec) -> Result<NetworkSeen, Error> {
        let outdate = |state: &mut State| {
            state.networks.remove(&spec.name);
            state.next();
        };
        self.change(outdate, self.inner.ensure_network(spec)).await
    }

    async fn connect_network(&self, container: &str, to: &Attachment) -> Result<(), Error> {
        // A failed connect may mean that memory has a network that was removed or made anew.
        let outdate = |state: &mut State| {
            state.outdate_thing(container);
            state.networks.remove(&to.network);
        };
        self.change(outdate, self.inner.connect_network(container, to)).await
    }

    async fn remove_network(&self, name: &str) -> Result<(), Error> {
        let outdate = |state: &mut State| {
            state.networks.remove(name);
            state.next();
        };
        self.change(outdate, self.inner.remove_network(name)).await
    }

    async fn ensure_volume(&self, spec: &VolumeSpec) -> Result<(), Error> {
        let outdate = |state: &mut State| state.outdate_made(&spec.name, &spec.labels);
        self.change(outdate, self.inner.ensure_volume(spec)).await
    }

    async fn volume(&self, name: &str) -> Result<Option<VolumeSpec>, Error> {
        // Asked once for each claim, so it is not kept in memory.
        self.ask(self.inner.volume(name)).await
    }

    async fn remove_volume(&self, name: &str) -> Result<(), Error> {
        self.change(|state| state.outdate_thing(name), self.inner.remove_volume(name)).await
    }

    async fn ensure_binary(&self, image: &str) -> Result<String, Error> {
        self.recognise().await?;
        self.may_change()?;
        self.inner.ensure_binary(image).await
    }

    fn binary(&self) -> Option<String> {
        self.inner.binary()
    }

    async fn create_container(&self, spec: &ContainerSpec) -> Result<(), Error> {
        let outdate = |state: &mut State| state.outdate_made(&spec.name, &spec.labels);
        let made = self.change(outdate, self.inner.create_container(spec)).await;
        if matches!(made, Err(Error::NotFound { .. })) {
            // Its image or network does not exist, even if memory has it.
            lock(&self.state).outdate_shared();
        }
        made
    }

    async fn start_container(&self, name: &str) -> Result<(), Error> {
        let started = self.change(|state| state.outdate_thing(name), self.inner.start_container(name)).await;
        if started.is_err() {
            lock(&self.state).outdate_shared();
        }
        started
    }

    async fn stop_container(&self, name: &str, timeout: Duration) -> Result<(), Error> {
        self.change(|state| state.outdate_thing(name), self.inner.stop_container(name, timeout)).await
    }

    async fn unpause_container(&self, name: &str) -> Result<(), Error> {
        self.change(|state| state.outdate_thing(name), self.inner.unpause_container(name)).await
    }

    async fn remove_container(&self, name: &str) -> Result<(), Error> {
        self.change(|state| state.outdate_thing(name), self.inner.remove_container(name)).await
    }

    async fn pull_image(&self, image: &str, login: Option<&RegistryLogin>) -> Result<(), Error> {
        // Memory may have its id and digests under other references too.
        let outdate = |state: &mut State| {
            state.images.clear();
            state.next();
        };
        self.change(outdate, self.inner.pull_image(image, login)).await
    }

    async fn signal_container(&self, name: &str, signal: &str) -> Result<(), Error> {
        self.recognise().await?;
        self.may_change()?;
        self.inner.signal_container(name, signal).await
    }

    async fn put_files(&self, container: &str, directory: &str, files: &[File]) -> Result<(), Error> {
        self.recognise().await?;
        self.may_change()?;
        self.inner.put_files(container, directory, files).await
    }

    async fn exec(&self, container: &str, command: &[String], limit: Duration) -> Result<ExecResult, Error> {
        self.recognise().await?;
        self.may_change()?;
        self.inner.exec(container, command, limit).await
    }

    async fn exec_attached(&self, container: &str, request: &ExecRequest) -> Result<ExecSession, Error> {
        self.recognise().await?;
        self.inner.exec_attached(container, request).await
    }

    async fn exec_resize(&self, id: &str, size: (u16, u16)) -> Result<(), Error> {
        self.inner.exec_resize(id, size).await
    }

    async fn exec_code(&self, id: &str) -> Result<Option<i64>, Error> {
        self.inner.exec_code(id).await
    }

    async fn logs(&self, container: &str, options: &LogOptions) -> Result<Outputs, Error> {
        self.recognise().await?;
        self.inner.logs(container, options).await
    }

    async fn dial(&self, container: &str, address: &str) -> Result<Box<dyn Conversation>, Error> {
        self.recognise().await?;
        self.inner.dial(container, address).await
    }

    fn events(&self) -> Pin<Box<dyn Stream<Item = EventHint> + Send>> {
        let (hints, receiver) = mpsc::channel(QUEUE);
        let (mirror, follower) = (self.clone(), Follower::of(self));
        tokio::spawn(async move {
            let _follows = follower;
            tokio::select! {
                biased;
                () = hints.closed() => {}
                () = mirror.clone().pass_on(hints.clone()) => {}
                () = mirror.clone().keep_fresh(hints.clone()) => {}
            }
        });
        Box::pin(stream::unfold(
            receiver,
            |mut receiver| async move { receiver.recv().await.map(|hint| (hint, receiver)) },
        ))
    }
}
