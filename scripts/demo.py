"""The demonstration, after the preparations of demo.sh: `demo.py BINARY`. KEEP=1 leaves everything running.

Brings up deploy/examples/postgres.yaml and postgres-route.yaml with an operator
of its own. Two clients write, one that knows all instances and one that knows
only the balancer; the primary's container is killed; shown is what they and the
status saw. Then the same with a Redis (demo_redis.py).
"""

import os
import pathlib
import signal
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))

import client
import demo_redis
import harness
from checks import single_host
from objects import LoadBalancer, free_ports

EXAMPLE = ROOT / "deploy" / "examples" / "postgres.yaml"
ROUTE = ROOT / "deploy" / "examples" / "postgres-route.yaml"
NAME = "awx-db"
ROUTE_NAME = "awx-db-route"
TABLE = "demo"
BEGAN = time.monotonic()


def say(text):
    """Prints one line with the time since the start."""
    print(f"[{time.monotonic() - BEGAN:6.1f} s] {text}", flush=True)


def manifest():
    """The example; unlike in real use, its volumes are deleted with the object."""
    text = EXAMPLE.read_text(encoding="utf-8")
    changed = text.replace("\nspec:\n", "\nspec:\n  storage: {reclaimPolicy: Delete}\n", 1)
    if changed == text:
        raise harness.Failed(f"{EXAMPLE} has no line `spec:`")
    return changed


def route(operator):
    """The LoadBalancer of the example, on a free port."""
    edge = LoadBalancer(operator, ROUTE_NAME)
    edge.host_port, other = free_ports(1), free_ports(1)
    text = ROUTE.read_text(encoding="utf-8")
    for old, new in (("hostPort: 15432", edge.host_port), ("hostPort: 15442", other)):
        if old not in text:
            raise harness.Failed(f"{ROUTE} has no {old}")
        text = text.replace(old, f"hostPort: {new}")
    say(f"applying {ROUTE.relative_to(ROOT)}: an HAProxy whose port {edge.host_port} leads to the primary")
    operator.cli("apply", "-f", "-", text=text)

    def balances():
        return edge.condition("Ready").get("status") == "True" and "ready" in edge.servers("primary").values()

    harness.wait_until(f"{ROUTE_NAME} leads to the primary", balances, 60)
    return edge


def refuse_to_touch_what_is_there(cluster):
    """Exits if a cluster with this name already exists on the engine: it belongs to someone else."""
    containers = harness.docker("ps", "-a", "--format", "{{.Names}}", *cluster.filters()).split()
    containers += LoadBalancer(cluster.operator, ROUTE_NAME).containers()
    things = containers + cluster.volumes()
    if things:
        sys.exit(
            f"The engine already has a cluster {NAME}: {', '.join(sorted(set(things)))}.\n"
            "The demo does not touch it. If it was left by `make demo KEEP=1`, remove it as was shown then."
        )


def bring_up(cluster):
    """Applies the example and waits until it is Ready."""
    say(f"applying {EXAMPLE.relative_to(ROOT)}: three instances of postgres:15, no acknowledged write may be lost")
    cluster.operator.cli("apply", "-f", "-", text=manifest())
    shown = None
    until = time.monotonic() + 180
    while True:
        seen = cluster.get() or {}
        status = seen.get("status") or {}
        line = ", ".join(f"{m['name']} {m['role']} {m['state']}" for m in status.get("instances", []))
        if line and line != shown:
            say(f"  {line}")
            shown = line
        if not harness.unsettled(seen, 3):
            break
        if time.monotonic() > until:
            raise harness.Failed(f"{NAME} was not Ready within 180 s: {status.get('conditions')}")
        time.sleep(0.2)
    say("Ready")
    print(cluster.operator.cli("get", "postgrescluster", NAME, "-o", "wide"), flush=True)


def kill_the_primary_under_writes(cluster, edge):
    """Returns (writers by name, moment of the kill, status afterwards)."""
    before = cluster.settled()
    uri = cluster.uri()
    through = single_host(uri, edge.addresses()[0])
    writers = {
        "that knows all instances": harness.writer_for(uri, TABLE, pause=0.001, acks=1000),
        "of the balancer": harness.writer_for(through, f"{TABLE}_balanced", pause=0.001, acks=1000),
    }
    container = cluster.container(before["primary"])
    say(f"two clients write; killing the container of the primary, {before['primary']}")
    moment = time.monotonic()
    harness.docker("kill", container)
    for name, writing in writers.items():
        if not writing.wait_for_acks(1000, 60):
            raise harness.Failed(f"the client {name} could not write again: {writing.errors[-1:]}")
    for writing in writers.values():
        writing.stop()
    say("the clients write again")
    after = cluster.settled(120)
    say(f"{before['primary']} is back as a standby; the primary is {after['primary']}")
    return writers, moment, after


def show(cluster, writers, moment, status):
    """Prints the timeline and the number of lost rows. Returns that number."""
    failover = status.get("lastFailover") or {}
    print(
        f"\nFailover as the operator saw it: {failover.get('from')} -> {failover.get('to')} ({failover.get('cause')})"
    )
    at = 0.0
    for step in failover.get("steps", []):
        print(f"  +{at:6.3f} s  {step['step']} ({step['took']:.3f} s)")
        at += step["took"]
    if failover.get("outage") is not None:
        print(f"  +{failover['outage']:6.3f} s  writes again")
    print()
    acknowledged = found = lost = 0
    for name, writing in writers.items():
        print(f"Write outage as the client {name} saw it: {client.outage(writing.records, moment):.3f} s")
        result = client.check(cluster.uri(), writing.records, writing.table)
        acknowledged += result["acknowledged"]
        found += result["found"]
        lost += len(result["lost"])
    print(f"Rows acknowledged to the clients: {acknowledged}; found afterwards: {found}")
    print(f"Lost acknowledged writes: {lost}\n", flush=True)
    return lost


def how_to_look(operator):
    """Prints what KEEP=1 leaves running, and how to remove it."""
    binary = os.path.relpath(operator.binary)
    print(
        f"Left running (operator: process {operator.process.pid}, log {operator.log}). To look at it:\n"
        f"  export EVENKEEL_KUBECONFIG={operator.env['EVENKEEL_KUBECONFIG']}\n"
        f"  {binary} get postgrescluster {NAME} -o wide\n"
        f"  {binary} describe postgrescluster {NAME}\n"
        f"  {binary} get loadbalancer {ROUTE_NAME} -o wide\n"
        f"  {binary} switchover {NAME}\n"
        f"  {binary} get secret {NAME}-app -o yaml        # how to connect\n"
        "To remove it:\n"
        f"  {binary} delete loadbalancer {ROUTE_NAME}\n"
        f"  {binary} delete postgrescluster {NAME}\n"
        f"  kill {operator.process.pid} && rm -rf {operator.data.parent}"
    )


def binaries():
    """The volumes with the supervisor's binary; an operator keeps its own for the next start."""
    return set(harness.docker("volume", "ls", "-q", "--filter", "name=^evenkeel-bin-").split())


def main():
    """The demonstration."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    keep = os.environ.get("KEEP", "") not in ("", "0")
    operator = harness.Operator(sys.argv[1], tempfile.mkdtemp(prefix="evenkeel-demo-"))
    cluster = harness.Cluster(operator, NAME)
    lost, done, before = None, False, binaries()
    try:
        refuse_to_touch_what_is_there(cluster)
    except SystemExit:
        harness.discard(operator)
        raise
    try:
        operator.start()
        say("the operator runs")
        bring_up(cluster)
        edge = route(operator)
        lost = show(cluster, *kill_the_primary_under_writes(cluster, edge))
        lost += demo_redis.act(operator, say)
        done = True
        if keep:
            how_to_look(operator)
            return
        edge.delete()
        cluster.delete()
        say("deleted, with its volumes")
    except harness.Failed as failed:
        print(f"\nThe demo failed: {failed}", file=sys.stderr)
        print(operator.log.read_text(encoding="utf-8", errors="replace")[-3000:], file=sys.stderr)
    finally:
        if not (keep and done):
            harness.discard(operator)
            LoadBalancer(operator, ROUTE_NAME).clean()
            cluster.clean()
            for volume in binaries() - before:
                harness.docker("volume", "rm", volume)
    sys.exit(0 if done and lost == 0 else 1)


if __name__ == "__main__":
    main()
