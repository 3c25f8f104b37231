//! The mirror of one host: its containers, volumes, networks and images in memory, for all owners. A reconcile of a
//! settled object therefore needs no request to the host. A mirror is an [`Engine`] around another one: reads are
//! answered from memory, every other call is forwarded.
//!
//! Memory is used only while a task follows the events of the host. An entry is removed from memory at once by an event
//! about its owner, by a change through the mirror, and by a new subscription. In addition the whole host is listed
//! every [`REFRESH`] and at each new subscription, with the same few requests for any number of owners. Therefore a
//! lost event, and the removal of a volume, network or image (Docker's events about them name no owner), is noticed
//! within that time. Memory is at most [`REFRESH`] and one list old: when a list fails, all of it is removed. While a
//! host has not answered a request for [`HANG`], all reads of it fail at once until it answers again, so that it delays
//! no other host.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::{Stream, StreamExt as _, stream};
use tokio::sync::{Notify, mpsc};
use tokio::time::sleep;

use super::{
    Attachment, ContainerSeen, ContainerSpec, Conversation, Daemon, Engine, Error, EventHint, Everything, ExecRequest,
    ExecResult, ExecSession, File, HostInfo, ImageSeen, LogOptions, NetworkSeen, NetworkSpec, Outputs, RegistryLogin,
    VolumeSpec,
};
use crate::api::labels::Owner;
use crate::api::sync::lock;

/// Interval between two lists of the whole host.
pub const REFRESH: Duration = Duration::from_secs(10);
/// A read that took this long and failed means that the host hangs.
const HANG: Duration = Duration::from_secs(1);
/// Interval between two attempts to reach a host that hangs.
const RETRY: Duration = Duration::from_secs(1);
/// An entry that was not read for this many refreshes is dropped.
const UNUSED: u8 = 3;
/// Most hints that wait for a reader; more make the stream of events wait.
const QUEUE: usize = 256;

/// The mirror of one host.
#[derive(Clone)]
pub struct Mirror {
    inner: Arc<dyn Engine>,
    host: Arc<str>,
    state: Arc<Mutex<State>>,
    /// Notified when the host is found to hang.
    hangs: Arc<Notify>,
}

#[derive(Default)]
struct State {
    /// Number of tasks that follow the events; without any, memory is not used.
    followers: usize,
    /// Grows with each removal from memory; the result of a read that began before is not stored.
    version: u64,
    owners: BTreeMap<Owner, Picture>,
    networks: BTreeMap<String, Kept<Option<NetworkSeen>>>,
    images: BTreeMap<String, Kept<Option<ImageSeen>>>,
    /// The host's images in the last list.
    listed: Option<BTreeMap<String, Vec<String>>>,
    /// The owner of each known container and volume, by name.
    of: BTreeMap<String, Owner>,
    /// Why the host is not asked, if it hangs.
    silent: Option<String>,
}

/// The state of one owner on the host.
#[derive(Default)]
struct Picture {
    version: u64,
    containers: Option<Vec<ContainerSeen>>,
    volumes: Option<Vec<String>>,
    unused: u8,
}

struct Kept<T> {
    value: T,
    unused: u8,
}

impl State {
    fn next(&mut self) -> u64 {
        self.version += 1;
        self.version
    }

    /// Forgets the state of the owner.
    fn outdate(&mut self, owner: &Owner) {
        let version = self.next();
        let unused = self.owners.get(owner).map(|picture| picture.unused).unwrap_or_default();
        self.owners.insert(owner.clone(), Picture { version, unused, ..Default::default() });
    }

    fn outdate_all(&mut self) {
        let owners: Vec<_> = self.owners.keys().cloned().collect();
        owners.iter().for_each(|owner| self.outdate(owner));
        self.outdate_shared();
    }

    /// Forgets all networks and images.
    fn outdate_shared(&mut self) {
        self.networks.clear();
        self.images.clear();
        self.next();
    }

    /// Whether reads are answered from memory: a task follows the events, and the host is not known to hang.
    fn holds(&self) -> bool {
        self.followers > 0 && self.silent.is_none()
    }

    /// Forgets the owner's state before a container or volume with these labels is created.
    fn outdate_made(&mut self, name: &str, labels: &BTreeMap<String, String>) {
        match Owner::from_labels(|key| labels.get(key).map(String::as_str)) {
            Some(owner) => {
                self.outdate(&owner);
                self.of.insert(name.to_owned(), owner);
            }
            None => self.outdate_all(),
        }
    }

    /// Forgets the owner's state before a container or volume changes; everything if its owner is unknown.
    fn outdate_thing(&mut self, name: &str) {
        match self.of.get(name).cloned() {
            Some(owner) => self.outdate(&owner),
            None => self.outdate_all(),
        }
    }
}

impl Mirror {
    /// The mirror of this engine, whose host has the name `host`.
    pub fn new(host: &str, inner: Arc<dyn Engine>) -> Self {
        Self { inner, host: host.into(), state: Arc::default(), hangs: Arc::default() }
    }

    /// Number of kept entries, for tests of the memory.
    pub fn kept(&self) -> usize {
        let state = lock(&self.state);
        state.owners.len() + state.networks.len() + state.images.len() + state.of.len()
    }

    /// Reads from the host itself. After a read that hung, the next ones fail at once.
    async fn ask<T>(&self, read: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let silent = lock(&self.state).silent.clone();
        match silent {
            Some(why) => Err(Error::unreachable(&self.host, "reading what is there", why)),
            None => self.watch(read).await,
        }
    }

    /// Records whether the host hangs.
    async fn watch<T>(&self, read: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let mut read = std::pin::pin!(read);
        let (outcome, hung) = tokio::select! {
            biased;
            outcome = &mut read => (outcome, false),
            () = sleep(HANG) => (read.await, true),
        };
        let mut state = lock(&self.state);
        match &outcome {
            Err(error @ Error::Unreachable { .. }) if hung && state.followers > 0 => {
                state.silent.get_or_insert_with(|| error.to_string());
                self.hangs.notify_one();
            }
            Err(_) => {}
            Ok(_) => state.silent = None,
        }
        drop(state);
        outcome
    }

    /// A list of an owner's containers or volumes, from memory if known.
    async fn owned<T: Clone>(
        &self,
        owner: &Owner,
        list: fn(&mut Picture) -> &mut Option<Vec<T>>,
        name: fn(&T) -> &String,
        read: impl Future<Output = Result<Vec<T>, Error>>,
    ) -> Result<Vec<T>, Error> {
        let version = {
            let mut state = lock(&self.state);
            let holds = state.holds();
            let picture = state.owners.entry(owner.clone()).or_default();
            picture.unused = 0;
            if let Some(known) = list(picture).clone().filter(|_| holds) {
                return Ok(known);
            }
            picture.version
        };
        let seen = self.ask(read).await?;
        let mut state = lock(&self.state);
        state.of.extend(seen.iter().map(|one| (name(one).clone(), owner.clone())));
        if let Some(picture) = state.owners.get_mut(owner).filter(|picture| picture.version == version) {
            *list(picture) = Some(seen.clone());
        }
        Ok(seen)
    }

    /// A network or image by its name, from memory if known.
    async fn named<T: Clone>(
        &self,
        name: &str,
        all: fn(&mut State) -> &mut BTreeMap<String, Kept<Option<T>>>,
        read: impl Future<Output = Result<Option<T>, Error>>,
    ) -> Result<Option<T>, Error> {
        let version = {
            let mut state = lock(&self.state);
            let holds = state.holds();
            if let Some(kept) = all(&mut state).get_mut(name).filter(|_| holds) {
                kept.unused = 0;
                return Ok(kept.value.clone());
            }
            state.version
        };
        let seen = self.ask(read).await?;
        let mut state = lock(&self.state);
        if state.version == version {
            all(&mut state).insert(name.to_owned(), Kept { value: seen.clone(), unused: 0 });
        }
        Ok(seen)
    }

    /// Performs a change to an owner's containers or volumes. The owner's state is forgotten before and after, even if
    /// the caller is cancelled.
    async fn change<T>(
        &self,
        outdate: impl Fn(&mut State),
        deed: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        outdate(&mut lock(&self.state));
        let _after = Outdates { state: &self.state, outdate };
        deed.await
    }

    /// Lists the whole host; returns the owners whose state differs from memory. With `fill`, owners that were never
    /// read are stored too.
    async fn refresh(&self, fill: bool) -> Result<BTreeSet<Owner>, Error> {
        let before = lock(&self.state).version;
        let everything = self.watch(self.inner.list_all()).await?;
        Ok(self.take_in(before, everything, fill))
    }

    fn take_in(&self, before: u64, everything: Everything, fill: bool) -> BTreeSet<Owner> {
        let mut state = lock(&self.state);
        let Everything { mut containers, mut volumes, networks, images } = everything;
        let mut changed = BTreeSet::new();
        state.owners.retain(|_, picture| {
            picture.unused += 1;
            picture.unused <= UNUSED
        });
        if fill {
            for owner in containers.keys().chain(volumes.keys()) {
                state.owners.entry(owner.clone()).or_default();
            }
        }
        for (owner, picture) in &mut state.owners {
            // A change after the request makes the list outdated for this owner.
            if picture.version > before {
                continue;
            }
            let (containers, volumes) =
                (containers.remove(owner).unwrap_or_default(), volumes.remove(owner).unwrap_or_default());
            let same = picture.containers.as_ref().is_none_or(|known| *known == containers)
                && picture.volumes.as_ref().is_none_or(|known| *known == volumes);
            if !same {
                changed.insert(owner.clone());
            }
            (picture.containers, picture.volumes) = (Some(containers), Some(volumes));
        }
        if state.version == before {
            state.networks.retain(|name, kept| {
                kept.unused += 1;
                // A network without Evenkeel's labels is not in the list; it is read again when it is needed.
                kept.value.as_ref() == networks.get(name) && kept.unused <= UNUSED
            });
            // Only the host knows which reference means which image, so any change forgets them all.
            let same = state.listed.as_ref() == Some(&images);
            state.images.retain(|_, kept| {
                kept.unused += 1;
                same && kept.unused <= UNUSED
            });
            state.listed = Some(images);
        }
        let mut of = BTreeMap::new();
        for (owner, picture) in &state.owners {
            let names =
                picture.containers.iter().flatten().map(|one| &one.name).chain(picture.volumes.iter().flatten());
            of.extend(names.map(|name| (name.clone(), owner.clone())));
        }
        state.of = of;
        changed
    }

    async fn keep_fresh(self, hints: mpsc::Sender<EventHint>) {
        loop {
            let silent = lock(&self.state).silent.is_some();
            tokio::select! {
                biased;
                () = self.hangs.notified(), if !silent => continue,
                () = sleep(if silent { RETRY } else { REFRESH }) => {}
            }
            match self.refresh(false).await {
                Ok(_) if silent => {
                    lock(&self.state).outdate_all();
                    if hints.send(None).await.is_err() {
                        return;
                    }
                }
                Ok(changed) => {
                    for owner in changed {
                        if hints.send(Some(owner)).await.is_err() {
                            return;
                        }
                    }
                }
                // Without the list the age of memory is unknown.
                Err(error) => {
                    tracing::debug!(host = &*self.host, %error, "what is there could not be listed");
                    lock(&self.state).outdate_all();
                }
            }
        }
    }

    async fn pass_on(self, hints: mpsc::Sender<EventHint>) {
        let mut events = self.inner.events();
        while let Some(hint) = events.next().await {
            {
                let mut state = lock(&self.state);
                match &hint {
                    Some(owner) => state.outdate(owner),
                    None => state.outdate_all(),
                }
            }
            if hint.is_none() {
                // One list for all owners that will read now; if it is late, each of them lists for itself.
                let _ = tokio::time::timeout(HANG, self.refresh(true)).await;
            }
            if hints.send(hint).await.is_err() {
                return;
            }
        }
    }
}

/// Calls its function again when it is dropped.
struct Outdates<'a, F: Fn(&mut State)> {
    state: &'a Mutex<State>,
    outdate: F,
}

impl<F: Fn(&mut State)> Drop for Outdates<'_, F> {
    fn drop(&mut self) {
        (self.outdate)(&mut lock(self.state));
    }
}

/// Counts as a follower of the events until it is dropped.
struct Follower(Arc<Mutex<State>>);

impl Follower {
    fn of(mirror: &Mirror) -> Self {
        lock(&mirror.state).followers += 1;
        Self(mirror.state.clone())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.followers -= 1;
        // Without events memory is not valid.
        state.outdate_all();
        state.silent = None;
    }
}

#[async_trait::async_trait]
impl Engine for Mirror {
    async fn info(&self) -> Result<HostInfo, Error> {
        self.inner.info().await
    }

    fn daemon(&self) -> Option<Daemon> {
        self.inner.daemon()
    }

    async fn list_all(&self) -> Result<Everything, Error> {
        self.inner.list_all().await
    }

    async fn list_containers(&self, owner: &Owner) -> Result<Vec<ContainerSeen>, Error> {
        self.owned(owner, |picture| &mut picture.containers, |one| &one.name, self.inner.list_containers(owner)).await
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
        self.inner.volume(name).await
    }

    async fn remove_volume(&self, name: &str) -> Result<(), Error> {
        self.change(|state| state.outdate_thing(name), self.inner.remove_volume(name)).await
    }

    async fn ensure_binary(&self, image: &str) -> Result<String, Error> {
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
        self.inner.signal_container(name, signal).await
    }

    async fn put_files(&self, container: &str, directory: &str, files: &[File]) -> Result<(), Error> {
        self.inner.put_files(container, directory, files).await
    }

    async fn exec(&self, container: &str, command: &[String], limit: Duration) -> Result<ExecResult, Error> {
        self.inner.exec(container, command, limit).await
    }

    async fn exec_attached(&self, container: &str, request: &ExecRequest) -> Result<ExecSession, Error> {
        self.inner.exec_attached(container, request).await
    }

    async fn exec_resize(&self, id: &str, size: (u16, u16)) -> Result<(), Error> {
        self.inner.exec_resize(id, size).await
    }

    async fn exec_code(&self, id: &str) -> Result<Option<i64>, Error> {
        self.inner.exec_code(id).await
    }

    async fn logs(&self, container: &str, options: &LogOptions) -> Result<Outputs, Error> {
        self.inner.logs(container, options).await
    }

    async fn dial(&self, container: &str, address: &str) -> Result<Box<dyn Conversation>, Error> {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures::FutureExt as _;

    use super::super::fake::FakeEngine;
    use super::*;

    fn owner(name: &str) -> Owner {
        Owner { kind: "K".into(), namespace: "default".into(), name: name.into() }
    }

    fn spec(owner: &Owner, name: &str) -> ContainerSpec {
        let (image, network) = ("image".into(), "net".into());
        ContainerSpec { name: name.into(), image, network, labels: owner.labels(), ..Default::default() }
    }

    /// A host with one running container `a` of owner `one`, its mirror, and its events.
    async fn mirrored() -> (Arc<FakeEngine>, Mirror, Pin<Box<dyn Stream<Item = EventHint> + Send>>) {
        let fake = Arc::new(FakeEngine::new("fake"));
        let mirror = Mirror::new("fake", fake.clone());
        let mut events = mirror.events();
        assert_eq!(events.next().await, Some(None));
        mirror.pull_image("image", None).await.unwrap();
        mirror
            .ensure_network(&NetworkSpec { name: "net".into(), labels: owner("one").labels(), internal: false })
            .await
            .unwrap();
        mirror.create_container(&spec(&owner("one"), "a")).await.unwrap();
        mirror.start_container("a").await.unwrap();
        (fake, mirror, events)
    }

    async fn states(mirror: &Mirror, owner: &Owner) -> String {
        let seen = mirror.list_containers(owner).await.unwrap();
        seen.iter().map(|one| format!("{} {:?} ", one.name, one.state)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn looking_again_costs_the_host_nothing_and_what_was_done_is_seen() {
        let (fake, mirror, _events) = mirrored().await;
        assert_eq!(states(&mirror, &owner("one")).await, "a Running ");
        fake.take_calls();
        for _ in 0..100 {
            assert_eq!(states(&mirror, &owner("one")).await, "a Running ");
        }
        assert!(fake.take_calls().is_empty());
        mirror.stop_container("a", Duration::ZERO).await.unwrap();
        assert_eq!(states(&mirror, &owner("one")).await, "a Exited ");
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_outdates_its_owner_alone() {
        let (fake, mirror, mut events) = mirrored().await;
        mirror.create_container(&spec(&owner("two"), "b")).await.unwrap();
        let both = [owner("one"), owner("two")];
        // The test's own changes cause events too.
        while tokio::time::timeout(Duration::from_millis(10), events.next()).await.is_ok() {}
        for owner in &both {
            states(&mirror, owner).await;
        }
        fake.take_calls();
        fake.die("a");
        while events.next().await != Some(Some(owner("one"))) {}
        assert_eq!(states(&mirror, &both[0]).await + &states(&mirror, &both[1]).await, "a Exited b Created ");
        assert_eq!(fake.take_calls(), ["list_containers one"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_no_event_told_is_seen_at_the_next_refresh_and_its_owner_is_woken() {
        let (fake, mirror, mut events) = mirrored().await;
        states(&mirror, &owner("one")).await;
        fake.world(|world| world.containers.clear());
        assert_eq!(states(&mirror, &owner("one")).await, "a Running ");
        let woken = async { while events.next().await != Some(Some(owner("one"))) {} };
        tokio::time::timeout(REFRESH + Duration::from_secs(1), woken).await.unwrap();
        assert_eq!(states(&mirror, &owner("one")).await, "");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_follower_nothing_is_answered_from_memory() {
        let (fake, mirror, events) = mirrored().await;
        drop(events);
        tokio::task::yield_now().await;
        states(&mirror, &owner("one")).await;
        fake.world(|world| world.containers.clear());
        assert_eq!(states(&mirror, &owner("one")).await, "");
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_reads_any_more_is_given_back() {
        let (_fake, mirror, mut events) = mirrored().await;
        tokio::spawn(async move { while events.next().await.is_some() {} });
        for number in 0..100 {
            states(&mirror, &owner(&number.to_string())).await;
        }
        assert!(mirror.kept() >= 100);
        sleep(REFRESH * 6).await;
        // The network is dropped too, because it was not read.
        assert_eq!(mirror.kept(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_hangs_fails_at_once_from_the_second_read_on() {
        let (fake, mirror, mut events) = mirrored().await;
        tokio::spawn(async move { while events.next().await.is_some() {} });
        fake.world(|world| world.hangs = true);
        let (x, y) = (owner("x"), owner("y"));
        assert!(matches!(mirror.list_containers(&x).await, Err(Error::Unreachable { .. })));
        let second = mirror.list_containers(&y).now_or_never();
        assert!(matches!(second, Some(Err(Error::Unreachable { .. }))));
        fake.world(|world| world.hangs = false);
        sleep(Duration::from_secs(15)).await;
        mirror.list_containers(&owner("x")).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_hangs_fails_for_what_was_known_too() {
        let (fake, mirror, mut events) = mirrored().await;
        tokio::spawn(async move { while events.next().await.is_some() {} });
        sleep(Duration::from_millis(10)).await;
        states(&mirror, &owner("one")).await;
        sleep(Duration::from_millis(4_000)).await;
        fake.world(|world| world.hangs = true);
        assert!(matches!(mirror.list_containers(&owner("x")).await, Err(Error::Unreachable { .. })));
        let known = mirror.list_containers(&owner("one")).await;
        assert!(known.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_that_is_refused_outdates_its_owner_alone() {
        let (fake, mirror, mut events) = mirrored().await;
        tokio::spawn(async move { while events.next().await.is_some() {} });
        for number in 0..200 {
            states(&mirror, &owner(&number.to_string())).await;
        }
        sleep(Duration::from_millis(10)).await;
        fake.take_calls();
        fake.fail_next("start_container", 1, super::super::fake::Fault::Refused);
        mirror.create_container(&spec(&owner("one"), "b")).await.unwrap();
        mirror.start_container("b").await.unwrap_err();
        for number in 0..200 {
            states(&mirror, &owner(&number.to_string())).await;
        }
        let lists = fake.take_calls().iter().filter(|call| call.starts_with("list")).count();
        assert!(lists <= 2, "{lists}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_subscription_costs_one_list_whatever_the_number_of_owners() {
        let (fake, mirror, mut events) = mirrored().await;
        tokio::spawn(async move { while events.next().await.is_some() {} });
        for number in 0..200 {
            states(&mirror, &owner(&number.to_string())).await;
        }
        fake.take_calls();
        fake.hint(None);
        sleep(Duration::from_millis(100)).await;
        for number in 0..200 {
            states(&mirror, &owner(&number.to_string())).await;
        }
        let lists = fake.take_calls().iter().filter(|call| call.starts_with("list")).count();
        assert!(lists <= 2, "{lists}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_made_anew_outside_is_seen_at_the_next_refresh() {
        let (fake, mirror, mut events) = mirrored().await;
        tokio::spawn(async move { while events.next().await.is_some() {} });
        let before = mirror.network("net").await.unwrap().unwrap();
        fake.world(|world| {
            let (_, seen) = world.networks.get_mut("net").unwrap();
            seen.subnet.0 = std::net::Ipv4Addr::new(10, 99, 0, 0);
        });
        for _ in 0..3 {
            sleep(REFRESH).await;
            mirror.network("net").await.unwrap();
        }
        let after = mirror.network("net").await.unwrap().unwrap();
        assert_ne!(before, after);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_that_nobody_waits_for_leaves_nothing_old() {
        let (fake, mirror, mut events) = mirrored().await;
        tokio::spawn(async move { while events.next().await.is_some() {} });
        sleep(Duration::from_millis(10)).await;
        let changing = mirror.change(|state| state.outdate_thing("a"), async {
            sleep(Duration::from_millis(5)).await;
            fake.world(|world| world.containers.clear());
            sleep(Duration::from_secs(5)).await;
            Ok(())
        });
        let one = owner("one");
        tokio::join!(
            async {
                sleep(Duration::from_millis(1)).await;
                assert_eq!(states(&mirror, &one).await, "a Running ");
            },
            async { assert!(tokio::time::timeout(Duration::from_millis(20), changing).await.is_err()) }
        );
        assert_eq!(states(&mirror, &owner("one")).await, "");
    }

    #[tokio::test(start_paused = true)]
    async fn many_images_are_kept_by_one_list_and_a_change_outdates_them() {
        let (fake, mirror, mut events) = mirrored().await;
        tokio::spawn(async move { while events.next().await.is_some() {} });
        let names: Vec<_> = (0..100).map(|number| format!("web:{number}")).collect();
        fake.world(|world| world.images.extend(names.iter().cloned()));
        let read = async || {
            for name in &names {
                mirror.image(name).await.unwrap();
            }
            fake.take_calls()
        };
        sleep(REFRESH + Duration::from_millis(100)).await;
        read().await;
        for _ in 0..3 {
            sleep(REFRESH).await;
            assert_eq!(read().await, ["list_all"]);
        }
        fake.world(|world| world.ids.insert("web:7".into(), "sha256:new".into()));
        sleep(REFRESH).await;
        assert_eq!(mirror.image("web:7").await.unwrap().unwrap().id, "sha256:new");
    }
}
