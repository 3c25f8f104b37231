"""Three operators go from one version to the next, one after the other, and back: `upgrade.py OLD NEW`.

Under writes of clients on two nodes; the operator that leads comes last. While versions are mixed, the operator that leads is killed twice.
Afterwards everything is whole, no acknowledged write is lost, no two instances took writes at once, and a failover works. Then
the operators go back to the old version, which either works on or refuses the store in words. Exits 1 if something is wrong.
"""

import pathlib
import sys
import time

sys.path[1:1] = [str(pathlib.Path(__file__).resolve().parents[1] / name) for name in ("e2e", "chaos")]

from checks import expect
from cluster import Clients, LabCluster
from harness import Failed, wait_until
from objects import Deployment
from shared import SharedLab

BACK = 30  # seconds in which an operator of the old version serves or says why not


def version(operator, binary):
    """Replaces the program of a stopped operator."""
    operator.command[-1] = operator.binary = str(pathlib.Path(binary).resolve())


def replace(lab, name, binary):
    """One operator is stopped and started in another version. Returns the seconds until it serves."""
    began = time.monotonic()
    lab.operators[name].stop()
    version(lab.operators[name], binary)
    lab.operators[name].start()
    return time.monotonic() - began


def order(lab):
    """The operators; the one that leads comes last."""
    leader = wait_until("an operator leads", lab.leader, 20)[0]
    return [*(name for name in lab.names if name != leader), leader]


def forth(lab, cluster, web, new):
    """All operators become new ones; in the middle those that lead are killed. Returns the seconds of each."""
    took = []
    for place, name in enumerate(order(lab)):
        took.append(replace(lab, name, new))
        web.scale(3 + place).settled(60)
        if place == 1:
            # The leader is an old one now, and then maybe a new one.
            for _ in range(2):
                leads = wait_until("an operator leads", lab.leader, 20)
                lab.operators[leads[0]].kill()
                lab.leads_after(leads)
                lab.revive()
            web.settled(60)
    cluster.whole(180)
    return took


def back(lab, old):
    """The operators become old ones again. Returns what they say about the store, if they do not want it."""
    for one in lab.operators.values():
        one.stop()
        version(one, old)
    try:
        for one in lab.operators.values():
            one.start()
    except SystemExit as refused:
        return str(refused).strip().splitlines()[-1]
    wait_until("an old operator leads", lab.leader, BACK)
    return None


def main():
    """Runs it."""
    old, new = sys.argv[1:3]
    lab, wrong = SharedLab(old), 1
    try:
        lab.begin()
        cluster = LabCluster(lab, "lab-upgrade")
        cluster.apply()
        web = Deployment(lab.operator, "lab-web", 3)
        web.apply()
        cluster.whole(180)
        with Clients(cluster, far=True) as clients:
            began = time.monotonic()
            took = forth(lab, cluster, web, new)
            gap = clients.outage(began)
            primary = cluster.primary
            cluster.host_of(primary).docker("kill", cluster.container(primary))
            clients.go_on(30)
            cluster.whole()
        lab.nothing_twice()
        print(f"ok   forth: each serves after {max(took):.1f} s, longest time without writes {gap:.2f} s; a failover works", flush=True)
        with Clients(cluster, far=True) as clients:
            refused = back(lab, old)
            clients.go_on(30)
            if refused:
                for one in lab.operators.values():
                    one.kill()
                    version(one, new)
                    one.start()
            cluster.whole(180)
        expect(not refused or "newer" in refused, refused)
        print(f"ok   back: {refused or 'the old version works on'}", flush=True)
        wrong = 0
    except Failed as failed:
        print(f"FAIL {failed}", flush=True)
        lab.save(pathlib.Path("target/lab/upgrade"))
    finally:
        lab.stop()
    sys.exit(wrong)


if __name__ == "__main__":
    main()
