//! Tests of where members live: a small fleet of hosts, and what is decided turn by turn.

use std::collections::BTreeSet;
use std::time::Duration;

use expect_test::{Expect, expect};

use super::super::workload;
use super::*;
use crate::api::placement::ReplacementCause;
use crate::api::postgres_cluster::Voter;
use crate::api::reach::Reach;
use crate::engine::{ContainerSeen, ContainerState};
use crate::kinds::containers::DockerSeen;
use crate::kinds::fact::Fact;
use crate::kinds::hosts::Declared;
use crate::kinds::ports::{PortStep, Reservation};
use crate::supervisor::wire::Report;

/// Hosts and a cluster on them. All that a turn decides is done at once, except where a test says otherwise.
struct Fleet {
    object: PostgresCluster,
    observed: Observed,
    decisions: Decisions,
    /// Members that do not become voters.
    slow: BTreeSet<String>,
}

fn nothing() -> Observed {
    Observed {
        declared: Default::default(),
        reserved: Default::default(),
        waited: Default::default(),
        silent: Default::default(),
        hosts: Default::default(),
        work: Default::default(),
        libraries: Default::default(),
        links: Default::default(),
        proven_ms: Default::default(),
        calling: false,
        refused: Default::default(),
        secrets: Default::default(),
        archives: Default::default(),
        backups: None,
        certificates: None,
    }
}

fn container(name: &str) -> ContainerSeen {
    ContainerSeen {
        id: format!("id of {name}"),
        name: name.into(),
        labels: Default::default(),
        state: ContainerState::Running,
        image: String::new(),
        networks: Default::default(),
        exit_code: None,
    }
}

impl Fleet {
    /// Hosts by name, each with an address, and a cluster with this spec.
    fn new(hosts: &str, spec: &str) -> Self {
        let mut object =
            PostgresCluster::new("db", serde_saphyr::from_str(&format!("{{image: 'postgres:15', {spec}}}")).unwrap());
        object.metadata.uid = Some("uid".into());
        let mut fleet = Self {
            object,
            observed: nothing(),
            decisions: super::super::protocol::begin(jiff::Timestamp::UNIX_EPOCH),
            slow: BTreeSet::new(),
        };
        hosts.split_whitespace().for_each(|name| fleet.add_host(name));
        fleet
    }

    fn add_host(&mut self, name: &str) {
        let number = u8::try_from(self.observed.declared.len() + 1).unwrap();
        let address = Some([10, 0, 0, number].into());
        let declared = Declared { address, domain: name.into(), open: true, ..Default::default() };
        self.observed.declared.insert(name.into(), declared);
        self.observed.hosts.insert(name.into(), DockerSeen::nothing());
    }

    fn host(&mut self, name: &str) -> &mut Declared {
        self.observed.declared.get_mut(name).unwrap()
    }

    /// New connections from one host to another one get no answer.
    fn cut(&mut self, from: &str, to: &str) {
        self.host(from).reach.insert(to.into(), Reach::Timeout);
    }

    fn silence(&mut self, host: &str) {
        *self.observed.hosts.get_mut(host).unwrap() = DockerSeen::unknown("it does not answer");
        self.observed.silent.insert(host.into(), Duration::ZERO);
        let there: Vec<_> = self.decisions.members.iter().filter(|place| place.host == host).collect();
        there.iter().for_each(|place| drop(self.observed.links.remove(&place.name)));
    }

    fn returns(&mut self, host: &str) {
        self.observed.hosts.insert(host.into(), DockerSeen::nothing());
        self.observed.silent.remove(host);
        self.run_containers();
    }

    fn pass(&mut self, minutes: u64) {
        self.observed.silent.values_mut().for_each(|waited| *waited += Duration::from_secs(60 * minutes));
    }

    /// Plans until nothing changes; what is decided happens.
    fn settle(&mut self) -> &mut Self {
        for _ in 0..20 {
            let before = self.decisions.clone();
            self.turn();
            if self.decisions == before {
                return self;
            }
        }
        panic!("it does not settle: {}", self.told());
    }

    fn turn(&mut self) {
        let placed = placed(&self.object, &self.observed, &self.decisions);
        self.decisions = placed.decisions;
        for step in placed.steps {
            match step {
                Step::Port(PortStep::Reserve(spec)) => {
                    let key = (spec.host.clone(), spec.port);
                    let taken = self.observed.reserved.insert(key, Reservation { spec: *spec, released: false });
                    assert_eq!(taken, None, "a port is reserved twice");
                }
                Step::Port(PortStep::Release { host, port, .. }) => {
                    self.observed.reserved.get_mut(&(host, port)).unwrap().released = true;
                }
                Step::Port(PortStep::Foreign { host, port }) => {
                    self.observed.reserved.get_mut(&(host, port)).unwrap().spec.foreign = true;
                }
                other => panic!("{other}"),
            }
        }
        self.run_containers();
        self.vote();
    }

    /// A container runs for each member that has a port, and its supervisor reports.
    fn run_containers(&mut self) {
        for place in &self.decisions.members {
            let Some(seen) = self.observed.hosts.get_mut(&place.host) else { continue };
            let Fact::Known(containers) = &mut seen.containers else { continue };
            let name = container_name(&self.object, &place.name);
            if place.port.is_some() && !containers.contains_key(&name) {
                containers.insert(name.clone(), container(&name));
            }
            if containers.contains_key(&name) && !self.observed.links.contains_key(&place.name) {
                let report = Report { secures: true, tls: Some("t".into()), ..Report::default() };
                let link = crate::kinds::links::LinkSeen { report, connected: true, silent_ms: 0 };
                self.observed.links.insert(place.name.clone(), link);
            }
        }
    }

    /// What the protocol does: the first member leads, the others with containers vote, and one that is replaced leaves.
    fn vote(&mut self) {
        let leaving = workload::leaving(&self.object, &self.decisions);
        self.decisions.members.retain(|place| !leaving.contains(&place.name));
        let incarnation = |name: &str| Voter { member: name.to_owned(), incarnation: name.to_owned() };
        if self.decisions.stage == Stage::New && self.decisions.members.iter().all(|place| place.port.is_some()) {
            self.decisions.stage = Stage::Steady;
        }
        if self.decisions.leader.is_none() {
            self.decisions.leader = self.decisions.members.first().map(|place| incarnation(&place.name));
        }
        let links = &self.observed.links;
        let streams = |place: &&MemberPlace| links.contains_key(&place.name) && !self.slow.contains(&place.name);
        let voters = self.decisions.members.iter().filter(streams).map(|place| incarnation(&place.name));
        self.decisions.election.voters = voters.filter(|voter| Some(voter) != self.decisions.leader.as_ref()).collect();
    }

    fn told(&self) -> String {
        let place = |place: &MemberPlace| format!("{}@{}:{}", place.name, place.host, place.port.unwrap_or_default());
        let members: Vec<_> = self.decisions.members.iter().map(place).collect();
        let placed = placed(&self.object, &self.observed, &self.decisions);
        let problem = placed.problem.map(|(reason, text)| format!(" {reason}: {text}")).unwrap_or_default();
        let swap = self.decisions.replacement.as_ref();
        let swap = swap.map(|one| format!(" {} for {} ({:?})", one.by, one.member, one.cause)).unwrap_or_default();
        format!("{:?} {}{swap}{problem}\n", self.decisions.network, members.join(" "))
    }

    fn check(&mut self, expected: Expect) -> &mut Self {
        let told = self.told();
        expected.assert_eq(&told);
        self
    }
}

#[test]
fn members_spread_over_hosts_and_have_the_same_port_everywhere() {
    Fleet::new("h1 h2 h3", "instances: 3").settle().check(expect![[r#"
        Host db-1@h3:25469 db-2@h1:25469 db-3@h2:25469
    "#]]);
}

#[test]
fn one_host_with_an_address_stays_on_its_bridge_unless_it_is_asked_for() {
    Fleet::new("local", "instances: 2").settle().check(expect![[r#"
        Bridge db-1@local:0 db-2@local:0
    "#]]);
    Fleet::new("local", "instances: 2, placement: {network: Host}").settle().check(expect![[r#"
        Host db-1@local:25469 db-2@local:25470
    "#]]);
    Fleet::new("local h2", "instances: 2, placement: {network: Bridge}").settle().check(expect![[r#"
        Bridge db-1@local:0 db-2@local:0
    "#]]);
}

#[test]
fn a_host_that_comes_later_takes_one_of_two_members_that_share_one() {
    let mut fleet = Fleet::new("h1 h2", "instances: 3");
    fleet.settle().check(expect![[r#"
        Host db-1@h1:25469 db-2@h2:25469 db-3@h1:25470
    "#]]);
    fleet.add_host("h3");
    fleet.settle().check(expect![[r#"
        Host db-1@h1:25469 db-2@h2:25469 db-4@h3:25469
    "#]]);
}

#[test]
fn a_drained_host_is_left_and_where_there_is_no_other_host_that_is_told() {
    let mut fleet = Fleet::new("h1 h2 h3", "instances: 3");
    fleet.settle();
    let second = fleet.decisions.members[1].host.clone();
    fleet.host(&second).drains = true;
    fleet.host(&second).open = false;
    fleet.settle().check(expect![[r#"
        Host db-1@h3:25469 db-3@h2:25469 db-4@h3:25470
    "#]]);
    fleet.observed.declared.values_mut().for_each(|host| host.open = false);
    let third = fleet.decisions.members[1].host.clone();
    fleet.host(&third).drains = true;
    fleet.settle().check(expect![[r#"
        Host db-1@h3:25469 db-3@h2:25469 db-4@h3:25470 DrainBlocked: db-3 stays where it is: host h2 is being drained, but no host will take it: 3 declared, 3 closed, 0 not answering
    "#]]);
}

#[test]
fn a_silent_host_is_replaced_after_its_time_and_not_before() {
    let mut fleet = Fleet::new("h1 h2 h3", "instances: 3");
    fleet.settle();
    let second = fleet.decisions.members[1].host.clone();
    fleet.silence(&second);
    fleet.settle();
    fleet.pass(29);
    fleet.settle().check(expect![[r#"
        Host db-1@h3:25469 db-2@h1:25469 db-3@h2:25469
    "#]]);
    fleet.pass(1);
    fleet.settle().check(expect![[r#"
        Host db-1@h3:25469 db-3@h2:25469 db-4@h3:25470
    "#]]);
}

/// Regression 306: every member of a silent host was replaced after `replaceAfter`, also when so many hosts were silent that the
/// operator itself was cut off.
#[test]
fn nothing_is_replaced_while_many_hosts_are_silent_together() {
    let mut fleet = Fleet::new("h1 h2 h3 h4 h5", "instances: 5");
    fleet.settle();
    let before = fleet.told();
    let hosts: Vec<String> = fleet.decisions.members[1..3].iter().map(|place| place.host.clone()).collect();
    hosts.iter().for_each(|host| fleet.silence(host));
    fleet.pass(100);
    fleet.settle();
    assert_eq!(fleet.told(), before);
}

#[test]
fn a_host_that_returns_before_the_new_member_votes_keeps_its_member() {
    let mut fleet = Fleet::new("h1 h2 h3", "instances: 3");
    fleet.settle();
    let second = fleet.decisions.members[1].host.clone();
    fleet.slow.insert("db-4".into());
    fleet.silence(&second);
    fleet.settle();
    fleet.pass(31);
    fleet.settle().check(expect![[r#"
        Host db-1@h3:25469 db-2@h1:25469 db-3@h2:25469 db-4@h3:25470 db-4 for db-2 (HostSilent)
    "#]]);
    fleet.returns(&second);
    fleet.settle().check(expect![[r#"
        Host db-1@h3:25469 db-2@h1:25469 db-3@h2:25469
    "#]]);
}

#[test]
fn a_persons_word_replaces_a_member_at_once_and_never_is_a_cause() {
    let mut fleet = Fleet::new("h1 h2 h3", "instances: 3, placement: {replaceAfter: never}");
    fleet.settle();
    let second = fleet.decisions.members[1].host.clone();
    fleet.silence(&second);
    fleet.pass(100_000);
    fleet.settle().check(expect![[r#"
        Host db-1@h3:25469 db-2@h1:25469 db-3@h2:25469
    "#]]);
    fleet.host(&second).lost = true;
    fleet.host(&second).open = false;
    fleet.settle().check(expect![[r#"
        Host db-1@h3:25469 db-3@h2:25469 db-4@h3:25470
    "#]]);
}

/// Regression 307 (campaign, drain during a failover): the member that another one was to take the place of became the leader, and
/// then its host was not drained any more. A leader is never replaced and had no reason to switch over, so the cluster had one
/// member too many for ever.
#[test]
fn a_member_that_became_the_leader_stays_when_its_host_need_not_be_left_any_more() {
    let mut fleet = Fleet::new("h1 h2 h3", "instances: 3");
    fleet.settle();
    let (second, host) = (fleet.decisions.members[1].name.clone(), fleet.decisions.members[1].host.clone());
    fleet.slow.insert("db-4".into());
    (fleet.host(&host).drains, fleet.host(&host).open) = (true, false);
    fleet.settle().check(expect![[r#"
        Host db-1@h3:25469 db-2@h1:25469 db-3@h2:25469 db-4@h3:25470 db-4 for db-2 (Drain)
    "#]]);
    fleet.decisions.leader = Some(Voter { member: second.clone(), incarnation: second });
    fleet.slow.clear();
    (fleet.host(&host).drains, fleet.host(&host).open) = (false, true);
    fleet.settle().check(expect![[r#"
        Host db-1@h3:25469 db-2@h1:25469 db-3@h2:25469
    "#]]);
}

/// Regression 309 (campaign, drain during a failover): the successor of a member was to leave again because that one leads now. It
/// waited for a vote of the leader, who is no voter.
#[test]
fn a_member_leaves_for_one_that_leads() {
    let voter = |name: &str| Voter { member: name.into(), incarnation: name.into() };
    let mut decisions = super::super::protocol::begin(jiff::Timestamp::UNIX_EPOCH);
    let (member, by) = ("db-4".to_owned(), "db-2".to_owned());
    decisions.replacement = Some(Replacement { member, by, cause: ReplacementCause::NotNeeded });
    decisions.election.voters = vec![voter("db-1"), voter("db-4")];
    assert_eq!(replaced(&decisions), None);
    decisions.leader = Some(voter("db-2"));
    assert_eq!(replaced(&decisions), Some("db-4"));
    decisions.leader = Some(voter("db-4"));
    assert_eq!(replaced(&decisions), None, "a leader never leaves");
}

/// Regression 407: a member was placed on a host that those of the others did not reach. It never held a copy.
#[test]
fn members_avoid_a_host_that_does_not_reach_those_of_the_others() {
    let mut fleet = Fleet::new("h1 h2 h3", "instances: 2");
    fleet.settle().check(expect![[r#"
        Host db-1@h3:25469 db-2@h1:25469
    "#]]);
    // One direction is enough, and what is not known changes nothing.
    for (from, to) in [("h3", "h1"), ("h1", "h3")] {
        let mut fleet = Fleet::new("h1 h2 h3", "instances: 2");
        fleet.cut(from, to);
        fleet.settle().check(expect![[r#"
            Host db-1@h3:25469 db-2@h2:25469
        "#]]);
    }
    // Members that exist stay.
    fleet.cut("h3", "h1");
    fleet.settle().check(expect![[r#"
        Host db-1@h3:25469 db-2@h1:25469
    "#]]);
}

/// Regression 408: a dead host is not reached by anybody. Its member was replaced nowhere if that counted, and the member of a
/// drained host that is cut off could not leave it.
#[test]
fn a_host_that_is_left_or_dead_keeps_no_successor_away() {
    let dead = |word: fn(&mut Fleet)| {
        let mut fleet = Fleet::new("h1 h2 h3", "instances: 3");
        fleet.settle();
        for (from, to) in [("h3", "h1"), ("h2", "h1"), ("h1", "h2"), ("h1", "h3")] {
            fleet.cut(from, to);
        }
        fleet.host("h1").open = false;
        word(&mut fleet);
        fleet.settle().told()
    };
    let left = "Host db-1@h3:25469 db-3@h2:25469 db-4@h3:25470\n";
    assert_eq!(dead(|fleet| fleet.host("h1").drains = true), left);
    assert_eq!(dead(|fleet| fleet.host("h1").lost = true), left);
    let silent = dead(|fleet| {
        fleet.silence("h1");
        fleet.settle().pass(30);
    });
    assert_eq!(silent, left);
}

/// Regression 403: members were counted before it was seen that a replacement had ended, so that one more member was made, and
/// removed at once.
#[test]
fn the_end_of_a_replacement_makes_no_further_member() {
    let mut fleet = Fleet::new("h1 h2 h3", "instances: 3");
    fleet.settle();
    let second = fleet.decisions.members[1].host.clone();
    fleet.host(&second).drains = true;
    fleet.host(&second).open = false;
    fleet.settle();
    assert_eq!(fleet.decisions.last_ordinal, 4);
}

#[test]
fn a_port_of_another_program_is_given_up_unless_a_person_named_it() {
    let mut fleet = Fleet::new("h1 h2 h3", "instances: 3");
    fleet.settle();
    let (name, before) = (fleet.decisions.members[1].name.clone(), fleet.decisions.members[1].port);
    fleet.observed.links.get_mut(&name).unwrap().report.port_taken = true;
    fleet.turn();
    fleet.observed.links.get_mut(&name).unwrap().report.port_taken = false;
    fleet.settle();
    assert_eq!(fleet.decisions.members[1].port, before.map(|port| port + 1));
    let mut fleet = Fleet::new("h1 h2 h3", "instances: 3, expose: {hostPort: 15432}");
    fleet.settle();
    fleet.observed.links.get_mut("db-2").unwrap().report.port_taken = true;
    fleet.settle().check(expect![[r#"
        Host db-1@h3:15432 db-2@h1:15432 db-3@h2:15432
    "#]]);
}

#[test]
fn a_port_that_a_person_named_and_another_object_has_is_told() {
    let mut fleet = Fleet::new("h1", "instances: 1, placement: {network: Host}, expose: {hostPort: 15432}");
    fleet.settle();
    let mut other = Fleet::new("h1", "instances: 1, placement: {network: Host}, expose: {hostPort: 15432}");
    other.object.metadata.uid = Some("another".into());
    other.observed.reserved = fleet.observed.reserved.clone();
    other.settle().check(expect![[r#"
        Host db-1@h1:0 PortConflict: port 15432 of host h1 is reserved for db-1 of PostgresCluster db
    "#]]);
}

/// Regression 404: while a cluster moved to the hosts' networks, a member was already made on another host. It could not reach
/// the primary, which was still on the bridge, and the primary waited for it. All members move first.
/// The way from one host to several: a member is where it was until its container is removed; then it is made on the host's
/// network, with the same data.
#[test]
fn a_cluster_moves_from_its_bridge_to_the_hosts_networks_one_member_after_the_other() {
    let mut fleet = Fleet::new("local", "instances: 2");
    fleet.settle();
    fleet.add_host("h2");
    fleet.decisions.stage = Stage::Steady;
    for place in &fleet.decisions.members {
        let name = container_name(&fleet.object, &place.name);
        let seen = fleet.observed.hosts.get_mut("local").unwrap();
        let Fact::Known(containers) = &mut seen.containers else { panic!("known") };
        containers.insert(name.clone(), container(&name));
    }
    fleet.object.spec.placement.network = NetworkMode::Host;
    fleet.settle().check(expect![[r#"
        Host db-1@local:0 db-2@local:0
    "#]]);
    let place = fleet.decisions.members[1].clone();
    let wanted = wanted(&fleet.object, &fleet.observed, &place);
    assert_eq!((place.network, wanted.network, wanted.port.is_some()), (Network::Bridge, Network::Host, true));
    let seen = fleet.observed.hosts.get_mut("local").unwrap();
    let Fact::Known(containers) = &mut seen.containers else { panic!("known") };
    containers.remove(&container_name(&fleet.object, &place.name));
    fleet.settle().check(expect![[r#"
        Host db-1@local:0 db-2@local:25470
    "#]]);
    assert_eq!(fleet.decisions.members[1].network, Network::Host);
}
