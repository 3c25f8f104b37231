//! The reaction of PostgreSQL to a supervisor's acts, and the flow of WAL between servers.

use super::instance::{Age, Author, Disk, Receiving, Record};
use super::{Ablation, Box, World, grant};
use crate::api::lsn::Lsn;
use crate::supervisor::state::{Act, Gate, Source};
use crate::supervisor::wire::{Data, Follow, Job, JobKind, Postgres};

impl World {
    /// Performs one act of the supervisor in a container.
    pub fn perform(&mut self, name: &str, act: Act) {
        let copied = match &act {
            Act::Clone(follow) | Act::Rewind(follow) => self.leader_disk(name, follow),
            _ => None,
        };
        let terms = match &act {
            Act::Clone(follow) | Act::Rewind(follow) => follow.timeline_terms.clone(),
            _ => Default::default(),
        };
        self.check_grant(name, &act);
        let (ablation, short) = (self.ablation, self.short_copies);
        let member = Self::member(name);
        let incarnation = match ablation {
            Some(Ablation::Incarnation) => member,
            _ => format!("{member}#{}", self.copies.get(name).copied().unwrap_or_default() + 1),
        };
        if matches!(act, Act::InitDb(_)) || matches!(act, Act::Clone(_)) && copied.is_some() {
            *self.copies.entry(name.to_owned()).or_default() += 1;
        }
        if act == Act::StopFast {
            self.ship_the_rest(name);
        }
        let (Some(one), Some(disk)) = (self.boxes.get_mut(name), self.disks.get_mut(name)) else { return };
        let process = &mut one.process;
        match act {
            Act::Wait | Act::Poll | Act::Exit | Act::Recovery(_) => {}
            Act::InitDb(_) => {
                disk.durable.incarnation = Some(incarnation);
                disk.data = Data::Primary;
                disk.write(1, Author::Server(name, process.run));
                process.fresh = true;
            }
            Act::Clone(_) => match copied {
                Some(leader) => {
                    disk.durable.timeline_terms = terms;
                    disk.durable.incarnation = Some(incarnation);
                    disk.durable.unfinished = None;
                    disk.durable.rewound = None;
                    disk.data = Data::Standby;
                    disk.clean = false;
                    disk.wal = leader.wal;
                    if short {
                        disk.wal.truncate(1);
                    }
                    process.job = None;
                }
                None => process.job = Some(failed(JobKind::Clone)),
            },
            Act::Rewind(_) => match copied {
                Some(leader) if disk.timeline() == leader.timeline() => {
                    // "source and target cluster are on the same timeline"
                    disk.durable.unfinished = Some(JobKind::Clone);
                    disk.data = Data::Broken;
                }
                Some(leader) => {
                    disk.durable.timeline_terms = terms;
                    disk.durable.unfinished = None;
                    disk.data = Data::Standby;
                    disk.clean = false;
                    disk.wal = rewound(disk, &leader);
                }
                None => process.job = Some(failed(JobKind::Rewind)),
            },
            Act::Recover => {
                // The records that recovery itself writes.
                disk.write(disk.timeline(), Author::Server(name, process.run));
                disk.clean = true;
            }
            Act::RecordWalEnd(end) => disk.durable.former_wal_end = Some(end),
            Act::RecordTimelineTerms(terms) => disk.durable.timeline_terms = terms,
            Act::Condemn => {
                disk.durable.unfinished = Some(JobKind::Clone);
                disk.data = Data::Broken;
            }
            Act::Restore(remembered) => disk.durable = *remembered,
            Act::Start { standby, config } => {
                process.run += 1;
                process.fresh = false;
                process.restart_asked = false;
                process.ordered_since_stop = false;
                process.postgres = if standby { Postgres::Standby } else { Postgres::Primary };
                process.session = config.gate == Gate::Open || ablation == Some(Ablation::Gate);
                process.applied = Some(config);
                process.sessions_ended = false;
                disk.data = if standby { Data::Standby } else { Data::Primary };
                disk.clean = false;
            }
            Act::Apply(config) => {
                let old = process.applied.clone().unwrap_or_default();
                if config.gate == Gate::Open {
                    process.sessions_ended = false;
                    process.session = true;
                    process.opened =
                        process.postgres == Postgres::Primary && grant(&disk.durable).is_some_and(|g| g.1.open);
                }
                if config.commit != old.commit {
                    process.barrier_lsn = None;
                }
                if config.upstream != old.upstream
                    && let Some(receiver) = &mut process.receiver
                {
                    receiver.leaving = true;
                }
                process.applied = Some(config);
            }
            Act::EndSessions => (process.session, process.sessions_ended) = (false, true),
            Act::EnsureSlots(slots) => process.slots = slots,
            Act::Promote => {
                disk.data = Data::Primary;
                disk.write(disk.timeline() + 1, Author::Server(name, process.run));
                process.postgres = Postgres::Primary;
                process.barrier_lsn = None;
                process.receiver = None;
                process.opened = false;
                process.session |= ablation == Some(Ablation::Gate);
            }
            Act::EnsureApp { .. } => process.app_ensured = true,
            Act::DryStart(_) | Act::ResumeReplay | Act::LoadTls => {}
            Act::SetBarrier => {
                disk.write(disk.timeline(), Author::Server(name, process.run));
                process.barrier_lsn = Some(disk.end());
                process.barrier_age = Age::default();
            }
            Act::Checkpoint => process.checkpoint_started = true,
            Act::CheckpointForStop => process.checkpointed_for_stop = true,
            Act::StopFast => {
                process.down();
                disk.clean = true;
            }
            Act::StopImmediate if ablation == Some(Ablation::ImmediateFence) && process.session => {
                process.postgres = Postgres::Stopping;
            }
            Act::StopImmediate => process.down(),
        }
        self.drop_broken_streams();
    }

    /// I5: no read-write postmaster without a grant of the highest term promised.
    fn check_grant(&mut self, name: &str, act: &Act) {
        if matches!(act, Act::Promote | Act::Start { standby: false, .. }) {
            let durable = &self.disks[name].durable;
            if grant(durable).is_none_or(|(term, _)| term != durable.promised) {
                self.broken.insert("I5 no read-write postmaster without a grant");
            }
        }
    }

    fn leader_disk(&self, name: &str, follow: &Follow) -> Option<Disk> {
        let leader = self.admits(name, &follow.into())?;
        let up = self.boxes[&leader].runs() && self.boxes[&leader].process.up();
        (up && self.reaches(&leader, name) && self.reaches(name, &leader)).then(|| self.disks[&leader].clone())
    }

    /// The container at the other end of this connection, if its server admits it from this container.
    fn admits(&self, name: &str, source: &Source) -> Option<String> {
        let peer = |one: &Box| one.spec.chosen.networks.first().and_then(|to| to.address);
        let there = |one: &&Box| match source {
            Source::Plain { address, .. } => one.spec.address.is_some_and(|at| at.to_string() == *address),
            Source::Secure { name, address, .. } => one.spec.hostname == *name && peer(one) == Some(*address),
        };
        let other = self.boxes.values().find(there)?;
        let access = other.process.applied.as_ref().and_then(|applied| applied.access.as_ref());
        let from = &self.boxes[name];
        let admitted = match (source, access) {
            (Source::Plain { .. }, None) => true,
            (Source::Plain { .. }, Some(access)) => from.spec.address.is_some_and(|at| access.plain.contains(&at)),
            (Source::Secure { .. }, access) => {
                access.zip(peer(from)).is_some_and(|(access, at)| access.secure.contains(&at))
            }
        };
        admitted.then(|| other.spec.name.clone())
    }

    /// Ends streams whose other end is gone; a paused server or a cut connection closes nothing.
    pub fn drop_broken_streams(&mut self) {
        let broken = |one: &Box| {
            let (from, run) = &one.process.receiver.as_ref()?.from;
            let other = self.boxes.get(from);
            let there = other.is_some_and(|other| {
                matches!(other.state, crate::engine::ContainerState::Running | crate::engine::ContainerState::Paused)
                    && other.process.run == *run
                    && (other.process.up() || other.process.postgres == Postgres::Stopping)
            });
            let told = self.reaches(from, &one.spec.name);
            (!there && told).then(|| one.spec.name.clone())
        };
        let ended: Vec<_> = self.boxes.values().filter_map(broken).collect();
        for name in ended {
            self.end_receiver(&name);
        }
    }

    pub fn end_receiver(&mut self, name: &str) {
        if let Some(one) = self.boxes.get_mut(name) {
            one.process.receiver = None;
        }
    }

    /// Everything that streams do when nothing delays them.
    pub fn streams(&mut self) {
        let names: Vec<_> = self.boxes.keys().cloned().collect();
        for name in &names {
            if self.leaves(name) {
                self.end_receiver(name);
            }
            self.end_stop(name);
            self.connect(name);
            self.ship(name);
            self.reply(name);
        }
    }

    /// Whether a receiver whose upstream was removed has not ended yet.
    pub fn leaves(&self, name: &str) -> bool {
        self.boxes.get(name).is_some_and(|one| one.runs() && one.process.receiver.as_ref().is_some_and(|r| r.leaving))
    }

    /// A stop that waited for sessions ends.
    pub fn end_stop(&mut self, name: &str) -> bool {
        let stopping = |one: &&mut Box| one.runs() && one.process.postgres == Postgres::Stopping;
        let Some(one) = self.boxes.get_mut(name).filter(stopping) else { return false };
        one.process.down();
        self.drop_broken_streams();
        true
    }

    /// A standby's receiver connects, if its upstream accepts it.
    pub fn connect(&mut self, name: &str) -> bool {
        let Some(one) = self.boxes.get(name) else { return false };
        let process = &one.process;
        if !one.runs() || process.postgres != Postgres::Standby || process.receiver.is_some() {
            return false;
        }
        let Some(upstream) = process.applied.as_ref().and_then(|applied| applied.upstream.as_ref()) else {
            return false;
        };
        let Some(from) = self.admits(name, &upstream.source) else { return false };
        let other = &self.boxes[&from];
        let takes = other.runs() && other.process.up() && other.process.slots.contains(&upstream.slot);
        let both_ways = self.reaches(&from, name) && self.reaches(name, &from);
        if from == name || !takes || !both_ways || !self.disks[&from].serves(&self.disks[name]) {
            return false;
        }
        let receiver = Receiving {
            from: (from.clone(), other.process.run),
            replied: self.disks[name].end(),
            silent: Age::default(),
            quiet: Age::default(),
            leaving: false,
        };
        if let Some(one) = self.boxes.get_mut(name) {
            one.process.receiver = Some(receiver);
        }
        true
    }

    /// WAL arrives over a stream and is flushed.
    pub fn ship(&mut self, name: &str) -> bool {
        let Some(receiver) = self.boxes.get(name).filter(|one| one.runs()).and_then(|one| one.process.receiver.clone())
        else {
            return false;
        };
        let from = &receiver.from.0;
        if !self.boxes.get(from).is_some_and(Box::runs) || !self.reaches(from, name) {
            return false;
        }
        let theirs = self.disks[from].wal.clone();
        let ours = &mut self.disks.entry(name.to_owned()).or_default().wal;
        if theirs.len() <= ours.len() {
            return false;
        }
        if theirs[..ours.len()] != ours[..] {
            // PostgreSQL does not notice it: from now on the standby is corrupt.
            self.broken.insert("I6 a standby's WAL is a prefix of its leader's");
        }
        let had = ours.len();
        ours.extend(&theirs[had..]);
        true
    }

    /// A standby reports how far it has flushed.
    pub fn reply(&mut self, name: &str) -> bool {
        let end = self.disks.get(name).map_or(Lsn(0), Disk::end);
        let Some(from) = self.boxes.get(name).and_then(|one| Some(one.process.receiver.as_ref()?.from.0.clone()))
        else {
            return false;
        };
        let stands = self.boxes[name].runs() && self.boxes.get(&from).is_some_and(Box::runs);
        if !stands || !self.reaches(name, &from) {
            return false;
        }
        let receiver = self.boxes.get_mut(name).and_then(|one| one.process.receiver.as_mut());
        receiver.is_some_and(|receiver| std::mem::replace(&mut receiver.replied, end) != end)
    }

    /// A fast stop ends only when every streaming standby has received all WAL.
    fn ship_the_rest(&mut self, leader: &str) {
        let streams = |one: &&Box| one.process.receiver.as_ref().is_some_and(|receiver| receiver.from.0 == leader);
        let names: Vec<_> = self.boxes.values().filter(streams).map(|one| one.spec.name.clone()).collect();
        for name in names {
            self.ship(&name);
        }
    }
}

fn failed(kind: JobKind) -> Job {
    Job { kind, error: Some("no leader".into()), failures: 1, running: false }
}

/// The WAL of a directory after pg_rewind and the leader's WAL: both trust timeline numbers and the start of each
/// timeline.
fn rewound(disk: &Disk, leader: &Disk) -> Vec<Record> {
    let spans = |disk: &Disk| {
        let mut begin = Lsn(0);
        let mut spans = Vec::new();
        for fork in disk.history() {
            spans.push((fork.timeline, begin, fork.ended_at));
            begin = fork.ended_at;
        }
        spans.push((disk.timeline(), begin, Lsn(u64::MAX)));
        spans
    };
    let (ours, theirs) = (spans(disk), spans(leader));
    let common = ours.iter().zip(&theirs).take_while(|(one, other)| (one.0, one.1) == (other.0, other.1)).last();
    let diverged = common.map_or(0, |(one, other)| one.2.min(other.2).0 as usize);
    let mut wal = disk.wal[..diverged.min(disk.wal.len())].to_vec();
    wal.extend(&leader.wal[wal.len().min(leader.wal.len())..]);
    wal
}
