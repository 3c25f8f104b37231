"""Deployments behind LoadBalancers over several Docker hosts: what clients see when a host is lost, returns or is drained."""

import threading
import time
import urllib.request
from collections import Counter

from checks import expect
from harness import wait_until
from objects import Deployment, LoadBalancer

PORT = 8080  # of every host
TIMEOUT = 3  # seconds that a client gives one balancer before it asks the next
LOST = 60  # seconds after which a silent host's pods are replaced
ALLOWED = 8  # seconds that requests may take when the host of their balancer and pods is gone


class Clients:
    """Threads that send one request after the other, each to any balancer that answers."""

    def __init__(self, addresses, threads=3):
        self.addresses, self.stopping = list(addresses), threading.Event()
        self.failed, self.slow, self.sent, self.pods = [], 0.0, 0, Counter()
        self.threads = [threading.Thread(target=self.work, args=(number,), daemon=True) for number in range(threads)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        for thread in self.threads:
            thread.join()

    def work(self, number):
        """Sends requests; each may ask every balancer once."""
        while not self.stopping.is_set():
            began, problems = time.monotonic(), []
            for place in range(len(self.addresses)):
                address = self.addresses[(number + place) % len(self.addresses)]
                try:
                    with urllib.request.urlopen(f"http://{address}:{PORT}/", timeout=TIMEOUT) as answer:
                        answer.read()
                    break
                except OSError as problem:
                    problems.append(f"{address}: {problem}")
            else:
                self.failed.append("; ".join(problems))
            self.sent += 1
            self.slow = max(self.slow, time.monotonic() - began)
            self.stopping.wait(0.01)

    def told(self):
        """The counts, in words."""
        return f"{self.sent} requests, {len(self.failed)} failed, the slowest took {self.slow:.1f} s"


class Stage:
    """Three pods behind three balancers, one of each a host. Deleted at the end."""

    def __init__(self, lab, replicas=3):
        self.lab = lab
        self.web = Deployment(lab.operator, "lab-web", replicas)
        self.edge = LoadBalancer(lab.operator, "lab-edge", replicas=3, backend="lab-web")
        self.edge.spec["bindAddress"] = "Host"
        self.edge.spec["frontends"][0]["hostPort"] = PORT

    def __enter__(self):
        self.web.apply()
        self.edge.apply()
        self.web.settled(120)
        self.edge.settled(120)
        return self

    def __exit__(self, *_):
        self.lab.heal()
        wait_until("all hosts are Ready", self.lab.all_ready, 60)
        self.edge.delete()
        self.web.delete()

    def addresses(self):
        """The addresses of all hosts."""
        return [host.address for host in self.lab.hosts.values()]

    def places(self):
        """{pod: host} of the pods that are ready."""
        return {pod["name"]: pod["host"] for pod in self.web.pods() if pod.get("ready") and not pod.get("terminating")}

    def whole(self, hosts):
        """Whether as many pods as wanted are ready on these hosts."""
        ready = [host for host in self.places().values() if host in hosts]
        return len(ready) == self.web.spec["replicas"]


def every_balancer_reaches_the_pods_of_every_host(lab):
    """One balancer and one pod a host; each balancer sends requests to all pods."""
    with Stage(lab) as stage:
        expect(sorted(stage.places().values()) == lab.names, f"the pods are on {stage.places()}")
        balancers = sorted(pod["host"] for pod in stage.edge.pods())
        expect(balancers == lab.names, f"the balancers are on {balancers}")
        for address in stage.addresses():
            found = set()
            for _ in range(30):
                with urllib.request.urlopen(f"http://{address}:{PORT}/", timeout=TIMEOUT) as answer:
                    found.add(answer.read().decode())
            expect(len(found) == 3, f"the balancer at {address} reaches {found}")
        ports = [one["metadata"]["name"] for one in reservations(lab)]
        expect(len(ports) == 6, f"{ports} are reserved, not one of each pod and each balancer")


def reservations(lab):
    """The reserved ports that are in use, without those of the agents."""
    import json

    listed = json.loads(lab.operator.cli("get", "portreservations", "-o", "json"))["items"]
    used = [one for one in listed if not one["metadata"].get("deletionTimestamp")]
    return [one for one in used if one["spec"]["owner"]["kind"] != "DockerHost"]


def a_rollout_over_three_hosts_loses_no_request(lab):
    """Every pod is replaced while clients ask all balancers."""
    with Stage(lab) as stage, Clients(stage.addresses()) as clients:
        stage.web.main.setdefault("env", []).append({"name": "ROUND", "value": "2"})
        stage.web.apply()
        stage.web.settled(120)
        time.sleep(2)
        expect(not clients.failed, f"{clients.told()}: {clients.failed[:3]}")
        return clients.told()


def the_service_survives_the_loss_of_a_host(lab):
    """A host loses its power: clients go on by the others, its pod is replaced after a minute and removed on its return."""
    with Stage(lab) as stage, Clients(stage.addresses()) as clients:
        time.sleep(2)
        began = time.monotonic()
        lab["h3"].power_off()
        rest = lab.names[:2]
        wait_until("the pod is replaced", lambda: stage.whole(rest), 120)
        replaced = time.monotonic() - began
        expect(replaced >= LOST, f"it was replaced after {replaced:.0f} s")
        kept = stage.places()
        lab["h3"].power_on()
        wait_until("the host is Ready again", lab.all_ready, 60)
        stage.web.settled(120)
        stage.edge.settled(120)
        expect(stage.places() == kept, f"{kept} became {stage.places()}")
        left = [name for name in lab["h3"].containers() if "lab-web" in name]
        expect(not left, f"{left} are left on the host that is back")
        expect(not clients.failed and clients.slow < ALLOWED, f"{clients.told()}: {clients.failed[:3]}")
        return f"replaced after {replaced:.0f} s; {clients.told()}"


def a_drained_host_gives_its_pods_away_without_a_failed_request(lab):
    """Drain: first a new pod elsewhere, in the balancers, then the old one goes; the host's balancer leaves last."""
    with Stage(lab) as stage:
        with Clients([stage.addresses()[0]]) as clients:
            lab.declare(lab["h3"], drain=True)
            wait_until("the pods have moved", lambda: stage.whole(lab.names[:2]), 120)
            empty = lambda: not lab["h3"].containers(running=True)  # noqa: E731
            wait_until("nothing runs on the host", empty, 120)
            expect(not clients.failed, f"{clients.told()}: {clients.failed[:3]}")
        lab.declare(lab["h3"], drain=False)
        stage.edge.settled(120)
        return clients.told()


def an_operator_without_most_hosts_replaces_nothing(lab):
    """The operator loses two of three hosts for two minutes: everything goes on, nothing is made twice."""
    with Stage(lab) as stage, Clients(stage.addresses()) as clients:
        before = stage.places()
        for host in ("h2", "h3"):
            lab.network.cut("op", host)
            lab.network.cut(host, "op")
        time.sleep(2 * LOST)
        why = stage.web.condition("ManyHostsSilent")
        expect(why and why["status"] == "True", f"the condition is {why}")
        lab.network.heal()
        wait_until("all hosts are Ready", lab.all_ready, 60)
        stage.web.settled(120)
        expect(stage.places() == before, f"{before} became {stage.places()}")
        expect(not clients.failed, f"{clients.told()}: {clients.failed[:3]}")
        return clients.told()


SCENARIOS = [
    every_balancer_reaches_the_pods_of_every_host,
    a_rollout_over_three_hosts_loses_no_request,
    the_service_survives_the_loss_of_a_host,
    a_drained_host_gives_its_pods_away_without_a_failed_request,
    an_operator_without_most_hosts_replaces_nothing,
]
