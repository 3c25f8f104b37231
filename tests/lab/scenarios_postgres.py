"""A PostgresCluster whose three members are on three hosts: loss of a host, cuts, lost engines, each under writes."""

import time

from checks import expect
from cluster import Clients, LabCluster, gate_is_shut
from harness import wait_until
from network import pairs
from objects import stays
from scenarios_deployment import SOON, web

# Seconds in which a client's writes go on: the host's silence (3 s), the election, and a slow machine.
OVER = 10
GATE = 12  # seconds after which an isolated primary takes no clients any more
REST = 15  # seconds for which something must not happen

CLUSTER = {}


def cluster_of(lab):
    """The lab's cluster of three members, made at its first use."""
    cluster = CLUSTER.get(id(lab))
    if cluster is None or cluster.get() is None:
        cluster = CLUSTER[id(lab)] = LabCluster(lab)
        cluster.apply()
    cluster.whole(180)
    return cluster


def three_members_are_on_three_hosts_and_reachable_at_their_addresses(lab):
    """Each listens on its host's address alone, at a reserved port."""
    began = time.monotonic()
    cluster = cluster_of(lab)
    took = time.monotonic() - began
    for member, place in cluster.members().items():
        host = lab[place["host"]]
        expect(place["address"] == host.address, f"{member} has the address {place['address']}")
        listening = host.inside("ss", "-Htln").split("\n")
        ours = [line.split()[3] for line in listening if line.split()[3:] and line.split()[3].endswith(f":{place['port']}")]
        expect(set(ours) <= {f"{host.address}:{place['port']}", f"127.0.0.1:{place['port']}"}, f"{member} listens at {ours}")
        expect(f"{host.address}:{place['port']}" in ours, f"{member} does not listen at its address: {ours}")
    with Clients(cluster) as clients:
        clients.go_on(5)
    return f"whole after {took:.1f} s"


def the_primarys_host_loses_its_power_and_another_member_takes_over(lab):
    """Writes go on, none is lost, and the host's return makes the old primary a standby."""
    cluster = cluster_of(lab)
    primary = cluster.primary
    host = cluster.host_of(primary)
    with Clients(cluster) as clients:
        moment = time.monotonic()
        host.power_off()
        clients.go_on(OVER + 20)
        outage = clients.outage(moment)
        began = time.monotonic()
        host.power_on()
        cluster.whole()
        healed = time.monotonic() - began
        expect(cluster.primary != primary, f"{primary} is primary again")
    expect(outage < OVER, f"the outage was {outage:.2f} s")
    return f"outage {outage:.2f} s, whole {healed:.1f} s after the host's return"


def a_standbys_host_loses_its_power_and_writes_hardly_notice(lab):
    """The other standby acknowledges."""
    cluster = cluster_of(lab)
    primary, (first, _) = cluster.roles()
    with Clients(cluster) as clients:
        moment = time.monotonic()
        lab[first].power_off()
        clients.go_on(OVER)
        time.sleep(5)
        outage = clients.outage(moment)
        lab[first].power_on()
        cluster.whole()
    expect(cluster.roles()[0] == primary, "the primary changed")
    return f"outage {outage:.2f} s"


def a_host_that_returns_after_two_seconds_does_no_harm(lab):
    """The primary's host restarts faster than its silence counts."""
    cluster = cluster_of(lab)
    host = cluster.host_of(cluster.primary)
    with Clients(cluster) as clients:
        moment = time.monotonic()
        host.power_off()
        time.sleep(max(0, moment + 2 - time.monotonic()))
        host.power_on()
        clients.go_on(OVER + 20)
        cluster.whole()
        outage = clients.outage(moment)
    return f"outage {outage:.2f} s"


def a_primary_cut_off_together_with_a_client_acknowledges_nothing(lab):
    """{its host, c1 | the other hosts, c2, the operator}: the other side elects; the old primary's gate is shut in time."""
    cluster = cluster_of(lab)
    primary = cluster.primary
    host, others = cluster.roles()
    listener = cluster.listener(primary)
    with Clients(cluster, far=True) as clients:
        uri = cluster.uri()
        moment = time.monotonic()
        lab.network.cut_both([host, "c1"], [*others, "c2", "op"])
        clients.go_on(OVER + 20, distant=True)
        outage = clients.outage(moment, distant=True)
        wait_until("the old primary's gate is shut", lambda: gate_is_shut(lab, "c1", uri, listener), GATE)
        shut = time.monotonic() - moment
        time.sleep(5)
        healed = time.monotonic()
        clients.silent_at(listener, moment, healed)
        lab.network.heal()
        cluster.whole()
        expect(cluster.primary != primary, f"{primary} is primary again")
    expect(outage < OVER, f"the outage of the other side was {outage:.2f} s")
    return f"outage {outage:.2f} s for c2; gate shut after {shut:.1f} s"


def one_way_cuts_between_the_members_hosts_never_make_two_primaries(lab):
    """The primary's packets do not reach the standbys, theirs do not reach it, and each pair of hosts in each direction."""
    cluster, notes = cluster_of(lab), []

    def cuts():
        host, (first, second) = cluster.roles()
        return {
            "to one standby": [(host, first)],
            "from one standby": [(first, host)],
            "between the standbys": [(first, second)],
            "to both standbys": [(host, first), (host, second)],
            "from both standbys": [(first, host), (second, host)],
        }

    for what in cuts():
        chosen = cuts()[what]
        before = cluster.primary
        with Clients(cluster) as clients:
            moment = time.monotonic()
            for here, there in chosen:
                lab.network.cut(here, there)
            time.sleep(REST)
            lab.network.heal()
            clients.go_on(2 * OVER)
            outage = clients.outage(moment)
            cluster.whole()
        moved = "fails over" if cluster.primary != before else "stays"
        notes.append(f"{what}: {moved}, outage {outage:.1f} s")
        expect(len(chosen) == 2 or outage < OVER, f"{what}: the outage was {outage:.1f} s")
    return "; ".join(notes)


def an_operator_that_cannot_reach_one_host_replaces_nothing(lab):
    """Cut from the primary's host, then from a standby's: the data path is whole, so the primary stays and nothing moves."""
    cluster = cluster_of(lab)
    host, (standby, _) = cluster.roles()
    before, started, term = cluster.primary, cluster.started(), cluster.status()["term"]
    notes = []
    with Clients(cluster) as clients:
        for number, cut in enumerate((host, standby)):
            moment = time.monotonic()
            lab.network.cut_both("op", cut)
            began = time.monotonic()
            other = web(lab, f"beside-{number}", 2)
            other.settled()
            took = time.monotonic() - began
            stays("the primary changed", lambda: cluster.primary == before, max(1, REST - took), poll=0.5)
            clients.go_on(5)
            outage = clients.outage(moment)
            lab.network.heal()
            other.delete()
            cluster.whole()
            expect(outage < 1, f"{cut}: the outage was {outage:.2f} s")
            expect(took < SOON, f"{cut}: another object was ready only after {took:.1f} s")
            notes.append(f"{cut}: outage {outage:.2f} s, another object ready in {took:.1f} s")
    expect(cluster.status()["term"] == term, "there was an election")
    expect(cluster.started() == started, "a container was restarted or made again")
    return "; ".join(notes)


def a_cut_of_one_direction_between_operator_and_primary_changes_nothing(lab):
    """The operator's packets do not arrive, or the answers do not."""
    cluster = cluster_of(lab)
    host, _ = cluster.roles()
    before, started = cluster.primary, cluster.started()
    with Clients(cluster) as clients:
        for pair in (("op", host), (host, "op")):
            moment = time.monotonic()
            lab.network.cut(*pair)
            stays("the primary changed", lambda: cluster.primary == before, REST, poll=0.5)
            clients.go_on(5)
            expect(clients.outage(moment) < 1, f"{pair}: the outage was {clients.outage(moment):.2f} s")
            lab.network.heal()
            cluster.whole()
    expect(cluster.started() == started, "a container was restarted or made again")


def a_network_of_50_ms_and_1_percent_loss_fails_nobody_over(lab):
    """Between the members' hosts, and between them and the operator."""
    cluster = cluster_of(lab)
    before, term = cluster.primary, cluster.status()["term"]
    with Clients(cluster) as clients:
        for here, there in pairs([*lab.names, "op"], [*lab.names, "op"]):
            lab.network.delay(here, there, 25)
            lab.network.loss(here, there, 1)
        moment = time.monotonic()
        stays("the primary changed", lambda: cluster.primary == before, 2 * REST, poll=0.5)
        clients.go_on(5)
        outage = clients.outage(moment)
        lab.network.heal()
        cluster.whole()
    expect(cluster.status()["term"] == term, "there was an election")
    return f"longest gap between two acknowledgements {outage:.2f} s"


def dockerd_dies_on_the_primarys_host(lab):
    """By SIGKILL and SIGTERM with live-restore: nobody notices. Without it and with SIGTERM: its containers end, and another
    member takes over."""
    cluster, notes = cluster_of(lab), []
    for live, kill in ((True, True), (True, False), (False, False)):
        host = cluster.host_of(cluster.primary)
        before = cluster.primary
        with Clients(cluster) as clients:
            moment = time.monotonic()
            host.stop_dockerd(live_restore=live, kill=kill)
            if live:
                stays("the primary changed", lambda: cluster.primary == before, REST, poll=0.5)
            clients.go_on(OVER + 20)
            outage = clients.outage(moment)
            host.start()
            cluster.whole()
            host.live_restore(False)
        limit = 1 if live else OVER
        what = f"{'SIGKILL' if kill else 'SIGTERM'}, {'with' if live else 'without'} live-restore"
        expect(outage < limit, f"{what}: the outage was {outage:.2f} s")
        notes.append(f"{what}: outage {outage:.2f} s")
    return "; ".join(notes)


def dockerd_hangs_on_the_primarys_host(lab):
    """SIGSTOP: connections are accepted and nothing is said. The primary stays."""
    cluster = cluster_of(lab)
    host, before, started = cluster.host_of(cluster.primary), cluster.primary, cluster.started()
    with Clients(cluster) as clients:
        moment = time.monotonic()
        host.freeze_dockerd()
        stays("the primary changed", lambda: cluster.primary == before, REST, poll=0.5)
        clients.go_on(5)
        outage = clients.outage(moment)
        host.thaw_dockerd()
        cluster.whole()
    expect(outage < 1, f"the outage was {outage:.2f} s")
    expect(cluster.started() == started, "a container was restarted or made again")
    return f"outage {outage:.2f} s"


def flushed_firewall_rules_do_not_touch_members_on_the_hosts_network(lab):
    """Docker's rules are gone on every host; members need none."""
    cluster = cluster_of(lab)
    before = cluster.primary
    with Clients(cluster) as clients:
        moment = time.monotonic()
        lab.each(lambda host: host.flush_iptables())
        stays("the primary changed", lambda: cluster.primary == before, 5, poll=0.5)
        clients.go_on(5)
        outage = clients.outage(moment)
    # Docker makes its rules again at its start.
    for host in lab.hosts.values():
        host.stop_dockerd(live_restore=True)
        host.start()
        host.live_restore(False)
    cluster.whole()
    expect(outage < 1, f"the outage was {outage:.2f} s")
    return f"outage {outage:.2f} s"


def another_engine_at_the_same_address_is_trusted_with_nothing(lab):
    """A standby's host is reinstalled: nothing is made there and nobody is certified dead; the old engine's return heals."""
    cluster = cluster_of(lab)
    _, (standby, _) = cluster.roles()
    host, members = lab[standby], cluster.members()
    with Clients(cluster) as clients:
        host.replace_engine()
        wait_until("the operator tells", lambda: lab.condition(standby, "IdentityChanged") == "True", 60)
        stays("something was made on it", lambda: not host.containers(), REST, poll=0.5)
        expect(cluster.members() == members, "members were replaced")
        clients.go_on(5)
        host.restore_engine()
        cluster.whole()


def a_port_that_another_program_has_is_left_to_it(lab):
    """Foreign programs listen at all ports of each host's range but one: the members get that one."""
    taken = (21000, 21001, 21002)
    for host in lab.hosts.values():
        lab.declare(host, portRange="21000-21003")
    script = "import socket, time; " + "; ".join(
        f"s{port} = socket.create_server(('ADDRESS', {port}))" for port in taken
    )
    holders = {}
    try:
        for host in lab.hosts.values():
            command = ["python3", "-c", script.replace("ADDRESS", host.address) + "; time.sleep(600)"]
            holders[host] = host.spawn(*command)
        second = LabCluster(lab, "lab-ports")
        second.apply()
        second.whole(60)
        ports = {place["port"] for place in second.members().values()}
        expect(not ports & set(taken), f"the members have the ports {ports}")
        second.delete()
    finally:
        for holder in holders.values():
            holder.kill()
            holder.wait()
        for host in lab.hosts.values():
            lab.declare(host)
    return f"ports {sorted(ports)}"


def maintenance_moves_the_primary_and_keeps_the_data(lab):
    """Its host may be restarted then: one short gap in the writes, no member is replaced."""
    cluster = cluster_of(lab)
    primary, members = cluster.primary, cluster.members()
    host = cluster.host_of(primary)
    with Clients(cluster) as clients:
        moment = time.monotonic()
        lab.declare(host, maintenance=True)
        wait_until("another member is primary", lambda: cluster.primary not in (None, primary), 30)
        clients.go_on(10)
        switched = clients.outage(moment)
        host.power_off()
        clients.go_on(OVER)
        host.power_on()
        lab.declare(host)
        cluster.whole()
        expect(cluster.members() == members, "a member was replaced or moved")
    expect(switched < 3, f"the outage was {switched:.2f} s")
    return f"outage of the switchover {switched:.2f} s"


def a_drained_host_loses_its_primary_and_says_what_must_stay(lab):
    """The cluster has as many members as there are hosts, so its data member cannot leave: the condition says so."""
    cluster = cluster_of(lab)
    primary = cluster.primary
    host = cluster.host_of(primary)
    with Clients(cluster) as clients:
        moment = time.monotonic()
        lab.declare(host, drain=True)
        wait_until("another member is primary", lambda: cluster.primary not in (None, primary), 30)
        clients.go_on(10)
        outage = clients.outage(moment)
        drained = wait_until("the host says whether it is drained", lambda: lab.condition(host.name, "Drained"), 30)
        lab.declare(host)
        cluster.whole()
    expect(drained == "False", f"the host is Drained: {drained}")
    return f"outage {outage:.2f} s"


def members_of_a_host_that_a_person_calls_lost_are_replaced_on_another(lab):
    """The primary's host dies for good: a new member on a fourth host; the dead one's return brings no old member back."""
    cluster = cluster_of(lab)
    primary = cluster.primary
    dead, fourth = cluster.host_of(primary), lab.add()
    with Clients(cluster) as clients:
        dead.power_off()
        clients.go_on(OVER + 20)
        lab.declare(dead, outOfService=True)
        wait_until("the member has left", lambda: primary not in cluster.members(), 60)
        cluster.whole()
        expect(fourth.name in cluster.roles()[1], f"{fourth.name} has no member")
        dead.power_on()
        wait_until("the old member's container is gone", lambda: not dead.containers(), 60)
        lab.declare(dead)
        cluster.whole()
    cluster.delete()
    lab.drop(fourth)


def the_cluster_leaves_nothing_behind(lab):
    """Deleted, it leaves no container and no volume but those of Evenkeel's binary, on any host."""
    cluster = cluster_of(lab)
    cluster.delete(120)
    filters = cluster.filters()
    left = lab.each(lambda host: host.docker("ps", "-aq", *filters) + host.docker("volume", "ls", "-q", *filters))
    expect(not any(left.values()), f"left: {left}")


# About a minute.
QUICK = [
    three_members_are_on_three_hosts_and_reachable_at_their_addresses,
    the_primarys_host_loses_its_power_and_another_member_takes_over,
    a_primary_cut_off_together_with_a_client_acknowledges_nothing,
]

SCENARIOS = [
    three_members_are_on_three_hosts_and_reachable_at_their_addresses,
    the_primarys_host_loses_its_power_and_another_member_takes_over,
    a_standbys_host_loses_its_power_and_writes_hardly_notice,
    a_host_that_returns_after_two_seconds_does_no_harm,
    a_primary_cut_off_together_with_a_client_acknowledges_nothing,
    one_way_cuts_between_the_members_hosts_never_make_two_primaries,
    a_cut_of_one_direction_between_operator_and_primary_changes_nothing,
    a_network_of_50_ms_and_1_percent_loss_fails_nobody_over,
    dockerd_dies_on_the_primarys_host,
    dockerd_hangs_on_the_primarys_host,
    flushed_firewall_rules_do_not_touch_members_on_the_hosts_network,
    another_engine_at_the_same_address_is_trusted_with_nothing,
    a_port_that_another_program_has_is_left_to_it,
    an_operator_that_cannot_reach_one_host_replaces_nothing,
    maintenance_moves_the_primary_and_keeps_the_data,
    a_drained_host_loses_its_primary_and_says_what_must_stay,
    members_of_a_host_that_a_person_calls_lost_are_replaced_on_another,
    the_cluster_leaves_nothing_behind,
]
