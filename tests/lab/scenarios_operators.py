"""Several operators over etcd: any one may die, freeze or be cut off, and the others go on."""

import os
import signal
import time

from checks import expect
from cluster import Clients, LabCluster
from harness import wait_until
from objects import Deployment

KILLED = 8  # seconds until another operator leads after kill -9, on a busy machine
STOPPED = 1.9  # and after SIGTERM: less than a lease lasts
NODE = 12.0  # seconds without writes when a node with everything that leads is lost, on a busy machine
FROZEN = 20  # seconds that a leader is frozen


def database(lab):
    """The database of these scenarios; made by the first."""
    cluster = LabCluster(lab, "lab-shared")
    cluster.apply()
    cluster.whole(120)
    return cluster


def another_operator_leads_after_kill_9_and_after_sigterm(lab):
    """The leader is killed, and the next one told to stop; each time another one leads and works."""
    database(lab)
    old = wait_until("an operator leads", lab.leader, 20)
    lab.operators[old[0]].kill()
    host, killed = lab.leads_after(old)
    expect(host != old[0], f"{host} leads again")
    lab.revive()
    now = lab.leader()
    lab.operators[now[0]].process.send_signal(signal.SIGTERM)
    _, stopped = lab.leads_after(now)
    lab.operators[now[0]].stop()
    lab.revive()
    # The next host to be lost has not both.
    apart = lambda: lab.etcd_leader() not in (None, lab.leader()[0])  # noqa: E731
    wait_until("etcd is led on another host than the operators", apart, 30)
    web = Deployment(lab.operator, "lab-after", 2)
    web.apply()
    web.settled(60)
    web.delete()
    expect(killed < KILLED and stopped < STOPPED, f"kill -9: {killed:.2f} s, SIGTERM: {stopped:.2f} s")
    return f"another one led {killed:.2f} s after kill -9, {stopped:.2f} s after SIGTERM"


def a_node_with_the_leaders_of_everything_is_lost(lab):
    """One host has the operator that leads, the leader of etcd and the primary, and loses its power."""
    cluster = database(lab)
    host = cluster.roles()[0]
    lab.move_leadership(host)
    with Clients(cluster, far=True) as clients:
        lead = lab.leader()
        # It would not stay there: an operator that leads looks every ten seconds.
        lab.move_etcd(host)
        moment = time.monotonic()
        lab.power_off(host)
        clients.go_on(40)
        outage = clients.outage(moment)
        _, took = lab.leads_after(lead, 1)
        lab.heal()
        cluster.whole()
    expect(outage < NODE, f"the outage was {outage:.2f} s")
    return f"no writes for {outage:.2f} s"


def a_frozen_leader_does_nothing_when_it_wakes(lab):
    """The leader stands still for a while in the middle of its work; nothing is made twice, and no write is lost."""
    cluster = database(lab)
    web = Deployment(lab.operator, "lab-frozen", 3)
    web.apply()
    web.settled(60)
    with Clients(cluster, far=True) as clients:
        old = lab.leader()
        frozen = lab.operators[old[0]]
        lab.away.add(old[0])
        web.spec["replicas"] = 6
        web.apply()
        os.kill(frozen.process.pid, signal.SIGSTOP)
        try:
            lab.leads_after(old)
            web.settled(60)
            primary = cluster.primary
            cluster.host_of(primary).docker("kill", cluster.container(primary))
            clients.go_on(30)
            time.sleep(FROZEN)
        finally:
            os.kill(frozen.process.pid, signal.SIGCONT)
        lab.away.clear()
        web.settled(60)
        cluster.whole()
        lab.nothing_twice()
    web.delete()
    return f"frozen for {FROZEN} s"


def without_a_quorum_the_database_goes_on_and_the_operators_come_back(lab):
    """Two members of etcd end for a while: nobody leads, nothing changes, people still see what there is, writes go on."""
    cluster = database(lab)
    with Clients(cluster) as clients:
        began = time.monotonic()
        for name in lab.names[:2]:
            lab.members[name].kill()
        time.sleep(15)
        code, told = lab.operator.cli_result("get", "postgresclusters")
        expect(code == 0 and cluster.name in told and "the store has no quorum: this is what one member" in told, told)
        code, told = lab.operator.cli_result("apply", "-f", "-", text=cluster.manifest(instances=4))
        expect(code != 0 and "the store has no quorum" in told, told)
        clients.go_on(5)
        gap = clients.outage(began)
        lab.revive()
        wait_until("an operator leads again", lambda: lab.leader(), 30)
        cluster.whole()
    expect(gap < 2, f"writes stood still for {gap:.2f} s")
    return f"longest gap {gap:.2f} s"


SCENARIOS = [
    another_operator_leads_after_kill_9_and_after_sigterm,
    a_node_with_the_leaders_of_everything_is_lost,
    a_frozen_leader_does_nothing_when_it_wakes,
    without_a_quorum_the_database_goes_on_and_the_operators_come_back,
]
