"""The operators' store is lost or moved: a restore from a backup, and the way from several operators to one and back."""

import time

import client
from checks import expect
from cluster import Clients
from harness import wait_until
from scenarios_operators import database

AWAY = 2  # longest time without writes while all operators are away, in seconds, on a busy machine
ADOPTED = 20  # and while a record that is older than the database is adopted


def containers(cluster):
    """The containers of the database, by host, without what has ended by a fault."""
    return {host: set(ids) for host, ids in cluster.started().items()}


def stop_operators(lab):
    """Stops all operators; the databases are alone."""
    for one in lab.operators.values():
        one.stop()


def fail_over(cluster, clients):
    """Kills the container of the primary and waits until another member takes writes."""
    before = cluster.primary
    cluster.host_of(before).docker("kill", cluster.container(before))
    wait_until("another member leads", lambda: cluster.primary != before, 30)
    clients.go_on(30)
    cluster.whole()


def without_operators(lab, cluster, clients, work, start):
    """Does the work while no operator runs, which the database may not notice; then they start and adopt it. Returns the longest
    times without writes of both."""
    before = containers(cluster)
    began = time.monotonic()
    stop_operators(lab)
    work()
    back = time.monotonic()
    away = client.longest_gap(sorted(write["ack"] for write in clients.writes(False)), began)
    start()
    wait_until("an operator leads", lab.leader, 30)
    cluster.whole(180)
    adopted = clients.outage(back)
    expect(containers(cluster) == before, f"containers were recreated: {before}, now {containers(cluster)}")
    expect(away < AWAY and adopted < ADOPTED, f"writes stood still for {away:.2f} s, and {adopted:.2f} s in the adoption")
    return away, adopted


def all_of_etcd_is_lost_and_the_store_is_restored_from_an_older_backup(lab):
    """A backup is taken, a failover and changes follow, etcd loses everything, and the backup is restored."""
    cluster = database(lab)
    backup = str(lab.folder / "backup.db")
    lab.operator.cli("cluster", "backup", backup)
    name = lab.names[0]

    def work():
        first = lab.operators[name]
        code, told = first.cli_result("cluster", "restore", backup, "--data-dir", str(first.data))
        expect(code == 1 and "objects; nothing was changed" in told, f"an etcd with objects: {code} {told}")
        lab.lose_etcd()
        lab.prepare_restore(name)
        first = lab.operators[name]
        told = first.cli("cluster", "restore", backup, "--data-dir", str(first.data), "--dry-run")
        expect("postgresclusters.evenkeel.dev" in told and "secrets" in told, told)
        first.cli("cluster", "restore", backup, "--data-dir", str(first.data))

    with Clients(cluster, far=True) as clients:
        fail_over(cluster, clients)
        away, adopted = without_operators(lab, cluster, clients, work, lambda: lab.start_restored(name))
        fail_over(cluster, clients)
    return f"longest time without writes: {away:.2f} s without operators, {adopted:.2f} s in the adoption"


def from_three_operators_to_one_and_to_three_again(lab):
    """One node takes all objects out of etcd and is the only operator; later all share a new etcd."""
    cluster = database(lab)
    alone, others = lab.names[0], lab.names[1:]
    one = lab.operators[alone]

    def leave():
        told = one.cli("cluster", "leave", "--data-dir", str(one.data))
        expect("start the operator here" in told, told)
        code, told = refused_to_start(lab, others[0])
        expect(code == 1 and "cluster leave" in told, f"an operator over the etcd that was left: {code} {told}")

    with Clients(cluster, far=True) as clients:
        before, began = containers(cluster), time.monotonic()
        stop_operators(lab)
        leave()
        one.start()
        lab.away = set(others)
        cluster.whole(180)
        expect(containers(cluster) == before, "containers were recreated on the way to one operator")
        fail_over(cluster, clients)
        before = containers(cluster)
        one.stop()
        lab.lose_etcd()
        for name in others:
            lab.lose_data(name)
        lab.share(alone)
        lab.away.clear()
        wait_until("an operator leads", lab.leader, 30)
        cluster.whole(180)
        expect(containers(cluster) == before, "containers were recreated on the way to three operators")
        lead = lab.leader()
        lab.operators[lead[0]].kill()
        lab.leads_after(lead)
        fail_over(cluster, clients)
        lab.revive()
    return f"there and back in {time.monotonic() - began:.0f} s"


def refused_to_start(lab, name):
    """The (exit code, output) of an operator that may not start."""
    one = lab.operators[name]
    listen = f"{one.address}:{one.port}"
    return one.cli_result("operator", "--data-dir", str(one.data), "--listen", listen, "--node", name)


SCENARIOS = [
    all_of_etcd_is_lost_and_the_store_is_restored_from_an_older_backup,
    from_three_operators_to_one_and_to_three_again,
]
