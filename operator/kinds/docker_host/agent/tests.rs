//! Tests of the agent of a host: when there is one, what it is told, and what is told of what it finds.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use expect_test::expect;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::super::{Answer, HostSeen, Observed, Registration, plan};
use super::*;
use crate::api::docker_host::DockerHostSpec;
use crate::api::reach::Reach;
use crate::engine::{ContainerSeen, ContainerState, Daemon, HostInfo, ImageSeen};
use crate::kinds::containers::{DockerSeen, DockerStep};
use crate::kinds::fact::Fact;
use crate::kinds::hosts::Declared;
use crate::kinds::links::LinkSeen;
use crate::kinds::ports::Reservation;
use crate::runtime::Want;

const BOOT: [&str; 2] = ["65f3d8c7-0a41-4c8e-9d3b-0c1b5a3f2e10", "b0072222-0a41-4c8e-9d3b-0c1b5a3f2e10"];

fn host(name: &str, address: Option<u8>) -> DockerHost {
    let address = address.map(|last| Ipv4Addr::new(10, 0, 0, last));
    let endpoint = format!("ssh://ops@{name}");
    let mut host = DockerHost::new(name, DockerHostSpec { endpoint, address, ..Default::default() });
    host.metadata.generation = Some(1);
    host.metadata.uid = Some(format!("uid-{name}"));
    host
}

/// Some hosts, of which the first is looked at.
struct World {
    object: DockerHost,
    observed: Observed,
    second: i64,
}

impl World {
    fn new(hosts: &[DockerHost]) -> Self {
        let seen = |host: &DockerHost| {
            let (declared, owner) = (Declared::from(host), ports::owner_of(host));
            (host.name().to_owned(), HostSeen { declared, owner, listens: true })
        };
        let daemon = Some(Daemon { log_driver: "json-file".into(), memory_bytes: 8 << 30 });
        let docker = DockerSeen { daemon, ..DockerSeen::nothing() };
        let info = HostInfo {
            engine_id: "4Z2K:one".into(),
            engine_version: "29.0".into(),
            api_version: "1.52".into(),
            operating_system: "Debian".into(),
            architecture: "x86_64".into(),
            cpus: 4,
            memory_bytes: 8 << 30,
        };
        let agent = AgentSeen {
            hosts: hosts.iter().map(seen).collect(),
            docker: [(hosts[0].name().to_owned(), docker)].into(),
            ..Default::default()
        };
        let (heard, clock, containers, leaders) = Default::default();
        let (registration, answer) = (Registration::Same, Answer::Info(info));
        let observed = Observed { registration, answer, heard, clock, containers, leaders, agent };
        Self { object: hosts[0].clone(), observed, second: 0 }
    }

    /// Hosts h1, h2 and h3 with addresses, whose agents have ports 20001, 20002 and 20003; that of h1 runs and has its order.
    fn settled() -> Self {
        let mut world = Self::new(&[host("h1", Some(1)), host("h2", Some(2)), host("h3", Some(3))]);
        for (at, name) in ["h1", "h2", "h3"].into_iter().enumerate() {
            world.reserve(name, 20_001 + u16::try_from(at).unwrap(), AGENT);
        }
        let docker = world.docker();
        docker.binary = Some("evenkeel-bin-1".into());
        docker.images = Fact::Known([(EMPTY_IMAGE.to_owned(), ImageSeen::default())].into());
        world.runs(20_001);
        let order = order(&world.object, &world.observed.agent).hash();
        world.report(|report| (report.order, report.boot_id) = (order, BOOT[0].into()));
        world
    }

    fn docker(&mut self) -> &mut DockerSeen {
        self.observed.agent.docker.get_mut("h1").unwrap()
    }

    /// The container of its agent runs with this port.
    fn runs(&mut self, port: u16) {
        let spec = container(&self.object, SocketAddrV4::new([10, 0, 0, 1].into(), port), "evenkeel-bin-1");
        let mut labels = spec.labels.clone();
        labels.insert(labels::SPEC_HASH.to_owned(), spec.hash());
        let (id, name, image, state) = ("id".into(), spec.name.clone(), spec.image, ContainerState::Running);
        let container = ContainerSeen { id, name, labels, state, image, networks: Default::default(), exit_code: None };
        self.docker().containers = Fact::Known([(spec.name, container)].into());
    }

    fn report(&mut self, change: impl FnOnce(&mut Report)) {
        let link = self.observed.agent.link.get_or_insert_with(|| {
            let report = Report { listening: Listening::Yes, ..Default::default() };
            LinkSeen { report, connected: true, silent_ms: 0 }
        });
        change(&mut link.report);
    }

    /// Reserves a port of a host for a member of that DockerHost.
    fn reserve(&mut self, host: &str, port: u16, member: &str) {
        let (owner, foreign) = (self.observed.agent.hosts[host].owner.clone(), false);
        let (host, member, purpose) = (host.to_owned(), member.to_owned(), AGENT.to_owned());
        let spec = crate::api::port_reservation::PortReservationSpec {
            host,
            port,
            owner,
            member,
            purpose,
            foreign,
            named: false,
        };
        let reservation = Reservation { spec: spec.clone(), released: false };
        self.observed.agent.reserved.insert((spec.host, port), reservation);
    }

    /// Plans and records: the steps, what is recorded, and the conditions about the agent.
    fn turn(&mut self) -> String {
        self.second += 1;
        let want = if self.object.metadata.deletion_timestamp.is_some() { Want::Absent } else { Want::Present };
        let plan = plan(&self.object, &self.observed, want, Timestamp::from_second(self.second).unwrap());
        let mut told: String = plan.steps.iter().map(|step| format!("step: {step}\n")).collect();
        for one in plan.status.conditions.iter().filter(|one| one.type_ != "Ready") {
            told.push_str(&format!("{} {}: {}\n", one.type_, one.reason, one.message));
        }
        if !plan.status.reach.is_empty() || !plan.status.foreign_ports.is_empty() {
            let (reach, ports) = (&plan.status.reach, &plan.status.foreign_ports);
            told.push_str(&format!("reach {reach:?}, foreign ports {ports:?}\n"));
        }
        if plan.finished {
            told.push_str("finished\n");
        }
        self.object.status = Some(plan.status);
        told
    }
}

#[test]
fn a_single_host_and_a_host_without_an_address_have_no_agent() {
    for hosts in [
        vec![host("h1", None)],
        vec![host("h1", Some(1))],
        vec![host("h1", Some(1)), host("h2", None)],
        vec![host("h1", None), host("h2", Some(2)), host("h3", Some(3))],
    ] {
        assert_eq!(World::new(&hosts).turn(), "", "{hosts:?}");
    }
    let mut given_up = host("h1", Some(1));
    given_up.spec.out_of_service = true;
    assert_eq!(World::new(&[given_up, host("h2", Some(2))]).turn(), "");
}

#[test]
fn an_agent_gets_a_port_then_an_image_then_the_program_and_then_it_is_made() {
    let mut world = World::new(&[host("h1", Some(1)), host("h2", Some(2))]);
    let mut told = world.turn();
    world.reserve("h1", 20_001, AGENT);
    told += "--\n";
    world.docker().images = Fact::Known([(EMPTY_IMAGE.to_owned(), ImageSeen::default())].into());
    told += &world.turn();
    told += "--\n";
    world.docker().binary = Some("evenkeel-bin-1".into());
    told += &world.turn();
    told += "--\n";
    world.runs(20_001);
    world.report(|report| report.boot_id = BOOT[0].into());
    told += &world.turn();
    expect![[r#"
        step: reserve port 22941 of h1 for agent
        step: get image evenkeel.dev/empty:1 on h1
        --
        step: put evenkeel on h1
        --
        step: create container evenkeel-agent.h1 on h1
        step: start container evenkeel-agent.h1
        --
        step: let its agent watch 0 peers
    "#]]
    .assert_eq(&told);
}

/// Regression 412: an agent could not make its socket when it was started again, because runc takes the mode of a mounted folder
/// back at the second start; it was restarted for ever. The folder is its own now, and no longer everybody's.
#[test]
fn an_agent_has_no_privilege_and_bounded_resources() {
    let spec = container(&host("h1", Some(1)), SocketAddrV4::new([10, 0, 0, 1].into(), 20_001), "evenkeel-bin-1");
    assert_eq!(spec.entrypoint.join(" "), "/evenkeel/evenkeel agent --listen 10.0.0.1:20001");
    let (security, no_caps) = (&spec.security, vec!["ALL".to_owned()]);
    assert_eq!((spec.user.as_deref(), spec.network.as_str()), (Some("65534:65534"), "host"));
    assert!(security.read_only && security.no_new_privileges && !security.privileged);
    assert_eq!((&security.cap_drop, security.cap_add.len(), spec.mounts.len()), (&no_caps, 0, 0));
    assert!(spec.memory_bytes.is_some() && spec.pids_limit.is_some() && spec.cpu_shares.is_some() && spec.restart);
    assert_eq!(spec.tmpfs["/run/evenkeel"], "mode=0755,uid=65534,gid=65534,size=64k");
    assert!(spec.volumes.iter().all(|(_, _, read_only)| *read_only));
    let other = container(&host("h1", Some(1)), SocketAddrV4::new([10, 0, 0, 1].into(), 20_001), "evenkeel-bin-2");
    assert_ne!(spec.hash(), other.hash(), "an update of what runs in containers replaces it");
}

#[test]
fn an_agent_leaves_when_no_other_host_has_an_address_and_when_its_host_is_deleted() {
    let mut world = World::settled();
    world.observed.agent.hosts.retain(|name, _| name == "h1");
    let remove = "step: remove container evenkeel-agent.h1: the host needs no agent\n";
    assert_eq!(world.turn(), format!("{remove}step: release port 20001 of h1\n"));
    let mut world = World::settled();
    world.object.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    assert_eq!(world.turn(), remove);
    world.docker().containers = Fact::Known(BTreeMap::new());
    assert_eq!(world.turn(), "step: forget Docker host h1\n");
    assert_eq!(world.turn(), "finished\n");
    // One that does not answer keeps its agent, and is forgotten all the same.
    let mut world = World::settled();
    world.object.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    (world.observed.answer, world.observed.agent.docker) = (Answer::NotAsked, BTreeMap::new());
    assert_eq!(world.turn(), "step: forget Docker host h1\n");
}

#[test]
fn a_host_that_cannot_connect_to_another_one_is_told_with_the_ports_to_allow() {
    let mut world = World::settled();
    let mut told = world.turn();
    world.report(|report| report.reach = [("h2".into(), Reach::Ok), ("h3".into(), Reach::Timeout)].into());
    told += &world.turn();
    // What an agent says of hosts that nobody knows is nothing.
    world.report(|report| report.reach = [("h2".into(), Reach::Refused), ("x".into(), Reach::Timeout)].into());
    told += &world.turn();
    world.report(|report| report.reach = [("h2".into(), Reach::Ok), ("h3".into(), Reach::Ok)].into());
    told += &world.turn();
    expect![[r#"
        PeersUnreachable ConnectionsFail: it cannot connect to h3 (TCP 10.0.0.3:20003: no answer; allow TCP from 10.0.0.1 to 10.0.0.3 ports 20000-29999). Correct the firewall of that host, or what is between them: no member with data is placed on two hosts that do not reach each other
        reach {"h2": Ok, "h3": Timeout}, foreign ports {}
        PeersUnreachable ConnectionsFail: it cannot connect to h2 (TCP 10.0.0.2:20002: refused; allow TCP from 10.0.0.1 to 10.0.0.2 ports 20000-29999). Correct the firewall of that host, or what is between them: no member with data is placed on two hosts that do not reach each other
        reach {"h2": Refused}, foreign ports {}
        reach {"h2": Ok, "h3": Ok}, foreign ports {}
    "#]].assert_eq(&told);
}

/// Regression 410: a host that is off was told as one behind a firewall.
#[test]
fn nothing_is_known_of_the_way_to_a_host_whose_agent_is_not_heard() {
    let mut world = World::settled();
    world.report(|report| report.reach = [("h2".into(), Reach::Ok), ("h3".into(), Reach::Timeout)].into());
    world.observed.agent.hosts.get_mut("h3").unwrap().listens = false;
    assert_eq!(world.turn(), "reach {\"h2\": Ok}, foreign ports {}\n");
    // A person's word that it is off takes it from the list of peers.
    world.observed.agent.hosts.get_mut("h3").unwrap().declared.lost = true;
    assert_eq!(world.turn(), "step: let its agent watch 1 peers\nreach {\"h2\": Ok}, foreign ports {}\n");
}

#[test]
fn a_new_operator_keeps_what_was_found_until_the_agents_can_have_answered() {
    let mut world = World::settled();
    world.report(|report| {
        report.reach = [("h2".into(), Reach::Ok)].into();
        report.listeners = [20_100].into();
    });
    let known = world.turn();
    assert!(known.ends_with("reach {\"h2\": Ok}, foreign ports {20100}\n"), "{known}");
    (world.observed.agent.link, world.observed.agent.young) = (None, true);
    assert_eq!(world.turn(), known);
    world.observed.agent.young = false;
    let silent = world.turn();
    assert!(silent.starts_with("AgentUnavailable NotReporting") && !silent.contains("reach {"), "{silent}");
}

/// Regression 409: a port of the range that another program has was tried for each new member, and found only when its server
/// could not start.
#[test]
fn a_port_at_which_something_without_a_reservation_listens_is_told_and_not_chosen() {
    let mut world = World::settled();
    world.reserve("h1", 20_500, "db-1");
    world.reserve("h1", 20_600, "db-2");
    let left = world.observed.agent.reserved.get_mut(&("h1".to_owned(), 20_600)).unwrap();
    left.spec.foreign = true;
    // Its own port, that of a member, one that was left to another program, one without a reservation, one beyond the range.
    world.report(|report| report.listeners = [20_001, 20_500, 20_600, 20_700, 30_000].into());
    let told = world.turn();
    expect![[r#"
        ForeignListeners PortsInUse: something that has no PortReservation listens at TCP 20600, 20700 of its range 20000-29999: another program, or a port that an object publishes by number. These ports are not reserved; to free them, stop what listens there or choose another spec.portRange
        reach {}, foreign ports {20600, 20700}
    "#]].assert_eq(&told);
    let declared = Declared::from(&world.object);
    let owner = &world.observed.agent.hosts["h2"].owner;
    let choose = |declared: &Declared| {
        ports::reserve(&Default::default(), owner, ("db-1", "postgres"), ("h1", declared), None).map(|spec| spec.port)
    };
    let first = choose(&declared).unwrap();
    let declared = Declared { foreign: [first].into(), ..declared };
    assert_eq!(choose(&declared), Ok(first + 1));
    let all: BTreeSet<u16> = (20_000..=29_999).collect();
    let none = choose(&Declared { foreign: all, ..declared });
    assert_eq!(none, Err("every port of host h1 from 20000 to 29999 is reserved or in use".to_owned()));
}

#[test]
fn an_agent_whose_port_another_program_has_gets_another_one() {
    let mut world = World::settled();
    world.turn();
    world.report(|report| report.listening = Listening::Taken);
    expect![[r#"
        step: record that another program has port 20001 of h1
        step: reserve port 22941 of h1 for agent
    "#]]
    .assert_eq(&world.turn());
    world.report(|report| report.listening = Listening::NotHere);
    expect![[r#"
        AgentUnavailable WrongAddress: 10.0.0.1 is not an address of this host: correct spec.address
    "#]]
    .assert_eq(&world.turn());
}

#[test]
fn a_boot_is_told_once_and_certifies_nothing() {
    let mut world = World::settled();
    assert_eq!(world.turn(), "");
    world.report(|report| report.boot_id = BOOT[1].into());
    let step = format!("step: Docker host h1 was booted: its boot id is {} and was {}\n", BOOT[1], BOOT[0]);
    assert_eq!(world.turn(), step);
    assert_eq!(world.turn(), "");
}

#[test]
fn a_failed_step_of_the_agent_leaves_its_host_ready() {
    let mut world = World::settled();
    world.turn();
    let step = Step::Docker(DockerStep::start("h1", AGENT, "evenkeel-agent.h1", None));
    let failure = crate::api::failure::Failure::new(crate::api::failure::Class::Transient, "no space left on device");
    let status = plan::failed(world.object.status.clone().unwrap(), &step, &failure, Timestamp::UNIX_EPOCH);
    let told: Vec<_> =
        status.conditions.iter().map(|one| format!("{}={} {}", one.type_, one.status, one.reason)).collect();
    assert_eq!(told, ["Ready=True Reachable", "AgentUnavailable=True ContainerNotStarting"]);
}
