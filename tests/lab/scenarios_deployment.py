"""Deployments over several Docker hosts."""

import time

from checks import expect
from harness import wait_until
from objects import Deployment

EXEC = {"exec": {"command": ["true"]}, "periodSeconds": 1}
SOON = 5  # seconds in which a new Deployment is ready although a host is silent


def web(lab, name, replicas):
    """A Deployment whose pods are ready as soon as a command runs in them."""
    return Deployment(lab.operator, name, replicas, readinessProbe=EXEC).apply()


def hosts_of(deployment):
    """{pod: host} of the pods that stay, according to the status."""
    return {pod["name"]: pod["host"] for pod in deployment.pods() if not pod.get("terminating")}


def three_replicas_spread_over_three_hosts(lab):
    """One pod a host, seen in the status and on the engines."""
    spread = web(lab, "spread", 3)
    spread.settled()
    places = hosts_of(spread)
    expect(sorted(places.values()) == lab.names, f"the pods are on {places}")
    for pod, host in places.items():
        expect(any(pod in name for name in lab[host].containers(running=True)), f"{host} has no container of {pod}")
    spread.delete()
    left = lab.each(lambda host: host.containers())
    expect(not any(left.values()), f"containers are left: {left}")


def a_pod_on_any_host_is_ready_by_its_http_probe(lab):
    """The probe asks each pod over the network, wherever it runs."""
    pods = Deployment(lab.operator, "probed", replicas=3).apply()
    pods.settled()
    places = hosts_of(pods)
    pods.delete()
    expect(sorted(places.values()) == lab.names, f"the pods are on {places}")


def a_host_without_power_delays_no_other_object(lab):
    """A new Deployment of two pods is ready at once on the hosts that answer; the dead host's pods are not made twice."""
    old = web(lab, "old", 3)
    old.settled()
    times = []
    lab["h3"].power_off()
    for number in range(3):
        began = time.monotonic()
        new = web(lab, f"new-{number}", 2)
        new.settled()
        times.append(time.monotonic() - began)
        expect(lab.names[-1] not in hosts_of(new).values(), "a pod was placed on the dead host")
        new.delete()
    lab["h3"].power_on()
    wait_until("the host is Ready again", lab.all_ready, 60)
    old.settled()
    old.delete()
    took = ", ".join(f"{one:.1f} s" for one in times)
    expect(max(times) < SOON, f"the new Deployments were ready after {took}")
    return f"ready after {took}"


SCENARIOS = [
    three_replicas_spread_over_three_hosts,
    a_pod_on_any_host_is_ready_by_its_http_probe,
    a_host_without_power_delays_no_other_object,
]
