"""Changes by users while a client writes: switchover, parameters, instances, pause, deletion."""

import json
import time

import client
import psycopg2
from checks import Writes, ask_all, check_everywhere, expect
from harness import docker, wait_until


def annotate(cluster, value):
    """Sets evenkeel.dev/reconcile, or removes it."""
    document = json.loads(cluster.manifest())
    if value:
        document["metadata"]["annotations"] = {"evenkeel.dev/reconcile": value}
    cluster.operator.cli("apply", "-f", "-", text=json.dumps(document))


def a_switchover_moves_the_primary_where_it_is_asked_to(cluster):
    """`evenkeel switchover`, to the best standby and to a named one."""
    outages = []
    for named in (False, True):
        before = cluster.settled()
        target = next(member["name"] for member in reversed(before["instances"]) if member["role"] == "standby")
        with Writes(cluster, f"switchover_{named}".lower(), watch_splits=True) as writes:
            moment = time.monotonic()
            cluster.operator.cli("switchover", cluster.name, *(["--to", target] if named else []))
            wait_until("the primary has changed", lambda: cluster.primary not in (None, before["primary"]), 30)
            writes.go_on(10)
            after = cluster.settled()
        if named:
            expect(after["primary"] == target, f"{after['primary']} is primary, {target} was asked for")
        outages.append(writes.outage(moment))
    expect(max(outages) <= 5, f"the client could not write for {max(outages):.2f} s")
    return ", ".join(f"outage {outage:.2f} s" for outage in outages)


def a_parameter_that_needs_only_a_reload_restarts_nothing(cluster):
    """Changes work_mem: applied everywhere, without a restart."""
    cluster.settled()
    uri, started = cluster.uri(), cluster.started()
    since = ask_all(uri, "SELECT pg_postmaster_start_time()::text")
    with Writes(cluster, "reloaded") as writes:
        cluster.apply(parameters={**cluster.spec["parameters"], "work_mem": "7MB"})
        wait_until(
            "every instance has the new work_mem", lambda: set(ask_all(uri, "SHOW work_mem").values()) == {"7MB"}, 30
        )
        writes.go_on(10)
        cluster.settled()
    expect(ask_all(uri, "SELECT pg_postmaster_start_time()::text") == since, "a postmaster was restarted")
    expect(cluster.started() == started, "a container was restarted")


def a_parameter_that_needs_a_restart_is_rolled_out_without_losing_a_write(cluster):
    """max_connections up, then down: standbys and primary restart one after the other."""
    for value in ("80", "60"):
        with Writes(cluster, f"rolled_{value}") as writes:
            moment = time.monotonic()
            cluster.apply(parameters={**cluster.spec["parameters"], "max_connections": value})
            uri = writes.uri

            def everywhere():
                try:
                    return set(ask_all(uri, "SHOW max_connections").values()) == {value}
                except (psycopg2.Error, client.Silent):
                    return False

            wait_until(f"every instance has max_connections {value}", everywhere, 90)
            status = cluster.settled()
            writes.go_on(10)
        waiting = [member["name"] for member in status["instances"] if member.get("pendingRestart")]
        expect(not waiting, f"{waiting} still wait for a restart")
        outage = writes.outage(moment)
        expect(outage <= 5, f"the client could not write for {outage:.2f} s")


def instances_are_taken_away_and_added(cluster):
    """Scales 3, then 2, then 3 again."""
    with Writes(cluster, "scaled_down") as writes:
        cluster.apply(instances=2)
        cluster.settled()
        writes.go_on(10)
        expect(len(cluster.containers()) == 2, "there are not two containers")
        # The removed instance is no longer in the URI.
        writes.uri = cluster.uri()
    with Writes(cluster, "scaled_up") as writes:
        cluster.apply(instances=3)
        cluster.settled()
        writes.go_on(10)
        writes.uri = cluster.uri()
    expect(len(cluster.containers()) == 3, "there are not three containers")


def a_paused_object_is_left_alone(cluster):
    """The annotation evenkeel.dev/reconcile: paused; a killed standby stays down until it is removed."""
    before = cluster.settled()
    standby = next(member["name"] for member in before["instances"] if member["role"] == "standby")
    annotate(cluster, "paused")
    try:
        wait_until("the phase says Paused", lambda: cluster.status().get("phase") == "Paused", 20)
        container = cluster.container(standby)
        docker("stop", "-t", "2", container)
        time.sleep(3)  # nothing may happen in this time
        running = docker("inspect", "-f", "{{.State.Running}}", container).strip()
        expect(running == "false", f"{standby} was started again although reconciliation is paused")
    finally:
        annotate(cluster, None)
    cluster.settled()


def a_deleted_cluster_keeps_its_data_and_finds_it_again(cluster):
    """Deletion removes containers, not volumes; a new object with the same name adopts them."""
    with Writes(cluster, "before_deletion") as writes:
        writes.go_on(10)
    volumes = cluster.volumes()
    cluster.delete()
    expect(cluster.containers() == [], "containers are left")
    expect(cluster.volumes() == volumes and len(volumes) == 3, f"the volumes {volumes} became {cluster.volumes()}")
    cluster.apply()
    cluster.settled()
    check_everywhere(cluster.uri(), writes.writer.records, "before_deletion")


def deletion_with_reclaim_policy_delete_leaves_nothing_behind(cluster):
    """The last scenario: afterwards there is no cluster."""
    cluster.apply(storage={"reclaimPolicy": "Delete"})
    cluster.settled()
    cluster.delete()
    expect(cluster.containers() == [], "containers are left")
    expect(cluster.volumes() == [], f"volumes are left: {cluster.volumes()}")
    networks = docker("network", "ls", "-q", *cluster.filters()).split()
    expect(networks == [], "the network is left")


SCENARIOS = [
    a_switchover_moves_the_primary_where_it_is_asked_to,
    a_parameter_that_needs_only_a_reload_restarts_nothing,
    a_parameter_that_needs_a_restart_is_rolled_out_without_losing_a_write,
    instances_are_taken_away_and_added,
    a_paused_object_is_left_alone,
    a_deleted_cluster_keeps_its_data_and_finds_it_again,
    deletion_with_reclaim_policy_delete_leaves_nothing_behind,
]
