"""Failures, and their effect on a client that writes all the time."""

import itertools
import os
import signal
import time

from checks import Writes, expect
from harness import docker, kill_postmaster, wait_until


def fail_over(cluster, table, disturb, within, watch_splits=False):
    """Disturbs the primary under writes: another must take over in time, and the old one return as standby."""
    before = cluster.settled()
    with Writes(cluster, table, watch_splits) as writes:
        moment = time.monotonic()
        repair = disturb(before["primary"])
        writes.go_on(within + 10)
        if repair:
            repair()
        after = cluster.settled()
    outage = writes.outage(moment)
    expect(
        after["primary"] != before["primary"],
        f"{before['primary']} is primary again; another should have been promoted",
    )
    expect(after["term"] > before["term"], f"the term did not rise above {before['term']}")
    expect(outage <= within, f"the client could not write for {outage:.2f} s, more than {within} s")
    failover = after.get("lastFailover") or {}
    expect(failover.get("to") == after["primary"], f"status.lastFailover does not name {after['primary']}: {failover}")
    return f"outage {outage:.2f} s"


def a_killed_postmaster_is_failed_over(cluster):
    """kill -9 of only the primary's postmaster, whose backends become orphans."""
    return fail_over(
        cluster, "killed_postmaster", lambda primary: kill_postmaster(cluster.postmaster(primary)), within=5
    )


def a_killed_container_is_failed_over(cluster):
    """docker kill of the primary's container."""

    def disturb(primary):
        docker("kill", cluster.container(primary))

    return fail_over(cluster, "killed_container", disturb, within=5)


def a_removed_container_is_failed_over(cluster):
    """docker rm -f of the primary's container; its volume stays."""

    def disturb(primary):
        docker("rm", "-f", cluster.container(primary))

    return fail_over(cluster, "removed_container", disturb, within=5)


def a_stopped_container_is_failed_over_and_started_again(cluster):
    """docker stop of the primary's container, which gives it time to shut down."""

    def disturb(primary):
        docker("stop", cluster.container(primary), timeout=120)

    return fail_over(cluster, "stopped_container", disturb, within=15)


def a_paused_primary_is_failed_over_and_acknowledges_nothing_when_it_wakes(cluster):
    """docker pause: no reports, and then a primary that wakes up and still believes that it leads."""

    def disturb(primary):
        container = cluster.container(primary)
        docker("pause", container)

        def repair():
            # The operator may have stopped the frozen container.
            docker("unpause", container, check=False)

        return repair

    return fail_over(cluster, "paused", disturb, within=15, watch_splits=True)


def a_frozen_postmaster_is_failed_over(cluster):
    """SIGSTOP of the primary's postmaster: sessions go on, and no new one gets in."""

    def disturb(primary):
        os.kill(cluster.postmaster(primary), signal.SIGSTOP)
        wait_until("a failover began", lambda: cluster.primary != primary, 30)

    return fail_over(cluster, "frozen_postmaster", disturb, within=10)


def a_killed_standby_costs_the_client_next_to_nothing(cluster):
    """docker kill of a standby: the other one acknowledges, and the killed one returns."""
    before = cluster.settled()
    standby = next(member["name"] for member in before["instances"] if member["role"] == "standby")
    with Writes(cluster, "killed_standby") as writes:
        moment = time.monotonic()
        docker("kill", cluster.container(standby))
        writes.go_on(10)
        after = cluster.settled()
    expect(after["primary"] == before["primary"], "the primary changed although only a standby was killed")
    outage = writes.outage(moment)
    expect(outage <= 2, f"the client could not write for {outage:.2f} s")
    return f"outage {outage:.2f} s"


def a_killed_operator_is_not_noticed_and_takes_over_again(cluster):
    """kill -9 of the operator: clients continue; the next operator restarts nothing."""
    cluster.settled()
    started = cluster.started()
    with Writes(cluster, "killed_operator") as writes:
        moment = time.monotonic()
        cluster.operator.kill()
        time.sleep(5)  # the time without an operator is the test
        writes.go_on(10)
        cluster.operator.start()
        cluster.settled()
        writes.go_on(10)
    expect(cluster.started() == started, "a container was restarted or made again")
    outage = writes.outage(moment)
    expect(outage <= 1, f"the client could not write for {outage:.2f} s")
    return f"outage {outage:.2f} s"


def a_primary_that_dies_while_the_operator_is_away_is_failed_over_or_back_when_it_returns(cluster):
    """The operator is killed, then the primary's container; then the operator starts."""
    cluster.settled()
    with Writes(cluster, "both_killed", watch_splits=True) as writes:
        primary = cluster.primary
        cluster.operator.kill()
        docker("kill", cluster.container(primary))
        cluster.operator.start()
        writes.go_on(60)
        cluster.settled()


def an_operator_killed_in_the_middle_of_a_failover_finishes_it_afterwards(cluster):
    """The operator dies a moment after the primary's container, three times at different moments."""
    for round_, moment in enumerate((0.05, 0.15, 0.4)):
        cluster.settled()
        with Writes(cluster, f"mid_failover_{round_}", watch_splits=True) as writes:
            docker("kill", cluster.container(cluster.primary))
            time.sleep(moment)  # the moment within the failover when the operator is killed
            cluster.operator.kill()
            cluster.operator.start()
            writes.go_on(60)
            cluster.settled()


def an_instance_that_is_taken_off_its_network_is_connected_again(cluster):
    """docker network disconnect of a standby, of the primary, and of all: nothing is restarted or failed over."""
    before = cluster.settled()
    started = cluster.started()
    names = [member["name"] for member in before["instances"]]
    standby = next(name for name in names if name != before["primary"])
    notes = []
    cases = {"standby": [standby], "primary": [before["primary"]], "all": names}
    for network, (what, victims) in itertools.product(cluster.networks(), cases.items()):
        with Writes(cluster, f"off_network_{len(notes)}") as writes:
            moment = time.monotonic()
            for victim in victims:
                docker("network", "disconnect", network, cluster.container(victim))
            writes.go_on(20)
            after = cluster.settled()
        expect(after["primary"] == before["primary"], f"{what}: {after['primary']} was promoted")
        notes.append(f"{what}, {network}: outage {writes.outage(moment):.2f} s")
    expect(cluster.started() == started, "a container was restarted or made again")
    return ", ".join(notes)


def a_network_that_was_made_again_by_hand_is_used_or_replaced(cluster):
    """The network is removed and made again with another subnet, and then without one."""
    cluster.settled()
    clients, peers = cluster.networks()
    for number, (network, arguments) in enumerate([(clients, ["--subnet", "10.214.3.0/24"]), (clients, []), (peers, [])]):
        cluster.operator.kill()
        for container in cluster.containers():
            docker("network", "disconnect", network, container)
        docker("network", "rm", network)
        docker("network", "create", *arguments, network)
        cluster.operator.start()
        wait_until("every instance has an address", lambda: len(cluster.addresses()) == 3, 30)
        cluster.settled()
        with Writes(cluster, f"new_network_{number}") as writes:
            writes.go_on(10)


def a_standby_without_its_data_is_built_anew(cluster):
    """The container and the volume of a standby are removed by hand."""
    before = cluster.settled()
    standby = next(member["name"] for member in before["instances"] if member["role"] == "standby")
    volumes = cluster.volumes(standby)
    expect(len(volumes) == 1, f"{standby} has {len(volumes)} volumes, not one")
    with Writes(cluster, "lost_volume") as writes:
        cluster.operator.kill()  # so that the volume can be removed before the container is recreated
        docker("rm", "-f", cluster.container(standby))
        docker("volume", "rm", volumes[0])
        cluster.operator.start()
        writes.go_on(10)
        after = cluster.settled()
    expect(after["primary"] == before["primary"], "the primary changed although only a standby was hurt")


def a_primary_without_its_data_is_replaced_and_built_anew(cluster):
    """The container and the volume of the primary are removed by hand: the disk is lost."""
    before = cluster.settled()
    volumes = cluster.volumes(before["primary"])
    with Writes(cluster, "lost_primary") as writes:
        cluster.operator.kill()
        docker("rm", "-f", cluster.container(before["primary"]))
        docker("volume", "rm", *volumes)
        cluster.operator.start()
        writes.go_on(60)
        after = cluster.settled()
    expect(after["primary"] != before["primary"], "the member without data is primary")


SCENARIOS = [
    a_killed_postmaster_is_failed_over,
    a_killed_container_is_failed_over,
    a_removed_container_is_failed_over,
    a_stopped_container_is_failed_over_and_started_again,
    a_paused_primary_is_failed_over_and_acknowledges_nothing_when_it_wakes,
    a_frozen_postmaster_is_failed_over,
    a_killed_standby_costs_the_client_next_to_nothing,
    a_killed_operator_is_not_noticed_and_takes_over_again,
    a_primary_that_dies_while_the_operator_is_away_is_failed_over_or_back_when_it_returns,
    an_operator_killed_in_the_middle_of_a_failover_finishes_it_afterwards,
    an_instance_that_is_taken_off_its_network_is_connected_again,
    a_network_that_was_made_again_by_hand_is_used_or_replaced,
    a_standby_without_its_data_is_built_anew,
    a_primary_without_its_data_is_replaced_and_built_anew,
]
