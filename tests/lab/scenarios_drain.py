"""Every host of the lab is emptied in turn, under load: a database, pods and balancers leave it before it is "safe to reboot"."""

import time

from checks import expect
from cluster import Clients as Writers
from cluster import LabCluster
from harness import wait_until
from scenarios_web import Clients, Stage

REQUESTS = 20_000
THREADS = 8
SLACK = 0.3  # seconds that the outage of a drain may be longer than that of a switchover by hand


def every_host_is_drained_in_turn_without_a_failed_request(lab):
    """On four hosts: each is drained until it is empty, and opened again, while clients write and send requests."""
    fourth = lab.add()
    cluster = LabCluster(lab, "lab-drain")
    cluster.apply()
    gaps, empty = {}, {}
    with Stage(lab) as stage, Writers(cluster) as writers, Clients(stage.addresses(), threads=THREADS) as clients:
        moment, before = time.monotonic(), cluster.primary
        lab.operator.cli("switchover", cluster.name)
        wait_until("another member is primary", lambda: cluster.primary not in (None, before), 30)
        writers.go_on(10)
        asked = writers.outage(moment)
        for name in list(lab.names):
            cluster.whole()
            # An application that lives longer than the members reads the Secret again, or goes through a balancer.
            writers.workload.uri = cluster.uri()
            host, moment = lab[name], time.monotonic()
            lab.declare(host, drain=True)
            wait_until(f"{name} is Drained", lambda name=name: lab.condition(name, "Drained") == "True", 180)
            expect(not host.containers(running=True), f"{host.containers(running=True)} run on {name}, which is Drained")
            empty[name], gaps[name] = time.monotonic() - moment, writers.outage(moment)
            lab.declare(host)
            stage.web.settled(120)
            stage.edge.settled(120)
        wait_until(f"{REQUESTS} requests", lambda: clients.sent >= REQUESTS, 300)
        expect(not clients.failed, f"{clients.told()}: {clients.failed[:3]}")
    # A host without the primary has no outage; its longest gap is that of the writer itself.
    worst = max(gaps.values())
    expect(worst <= asked + SLACK, f"outages of the drains {gaps}, of the switchover by hand {asked:.2f} s")
    cluster.delete(120)
    lab.drop(fourth)
    drains = ", ".join(f"{name} empty after {empty[name]:.1f} s, outage {gaps[name]:.2f} s" for name in empty)
    return f"{clients.told()}; switchover by hand {asked:.2f} s; {drains}"


SCENARIOS = [every_host_is_drained_in_turn_without_a_failed_request]
