"""What a LoadBalancer in front of PostgreSQL costs: `balancer.py BINARY [ROUNDS]`.

Throughput of pgbench, to the primary itself, through the balancer's published port (which Docker's own proxy forwards),
and through the address of the balancer's container. The ways take turns in each round; the table shows the ratio to the
direct way of the same run. Writes target/bench/balancer.md and balancer.json.
"""

import os
import pathlib
import re
import shutil
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import failover
import harness
from objects import LoadBalancer

ROUNDS = 5
SECONDS = 8  # of each run
CLIENTS, THREADS, SCALE = 8, 2, 5
LOADS = {"writes (TPC-B)": [], "reads (-S)": ["-S"]}


class Pgbench:
    """pgbench with the credentials of a cluster."""

    def __init__(self, cluster):
        secret = cluster.secret()
        self.base = ["pgbench", "-n", "-U", secret["username"]]
        self.database = secret["dbname"]
        self.env = {**os.environ, "PGPASSWORD": secret["password"]}

    def run(self, address, *arguments, timeout=120):
        """Its output."""
        host, port = address.rsplit(":", 1)
        command = [*self.base, "-h", host, "-p", port, *arguments, self.database]
        return harness.run(*command, timeout=timeout, env=self.env)

    def rate(self, address, load):
        """Transactions per second of one run."""
        said = self.run(address, "-c", str(CLIENTS), "-j", str(THREADS), "-T", str(SECONDS), *load)
        found = re.search(r"^tps = ([\d.]+)", said, re.MULTILINE)
        if not found:
            raise harness.Failed(f"pgbench at {address} says {said[-300:]}")
        return float(found[1])


def ways(cluster, edge):
    """{name: address} of each way to the primary."""
    direct = cluster.addresses()[cluster.settled()["primary"]]
    pod = edge.settled()["pods"][0]
    return {
        "direct": f"{direct}:5432",
        "balancer, published port": edge.addresses()[0],
        "balancer, container address": f"{pod['address']}:5432",
    }


def measure(cluster, edge, rounds):
    """{load: {way: [transactions per second]}}."""
    pgbench, found = Pgbench(cluster), {}
    addresses = ways(cluster, edge)
    pgbench.run(addresses["direct"], "-i", "-q", "-s", str(SCALE))
    names = list(addresses)
    for number in range(rounds):
        # Each way is first, second and last in turn.
        turn = names[number % len(names) :] + names[: number % len(names)]
        for load, arguments in LOADS.items():
            rates = {way: pgbench.rate(addresses[way], arguments) for way in turn}
            for way in names:
                found.setdefault(load, {}).setdefault(way, []).append(rates[way])
            line = ", ".join(f"{way} {rates[way]:.0f}" for way in names)
            print(f"round {number + 1} of {rounds}, {load}: {line}", flush=True)
    return found


def table(results):
    """The results as a markdown table."""
    lines = ["| load | way | tps median (min-max) | ÷ direct |", "|---|---|---|---|"]
    for load, each in results.items():
        base = statistics.median(each["direct"])
        for way, rates in each.items():
            median = statistics.median(rates)
            spread = f"{min(rates):.0f}-{max(rates):.0f}"
            lines.append(f"| {load} | {way} | {median:.0f} ({spread}) | {median / base:.2f} |")
    return "\n".join(lines) + "\n"


def main():
    """Runs the benchmark."""
    if len(sys.argv) < 2:
        sys.exit("usage: balancer.py BINARY [ROUNDS]")
    if not shutil.which("pgbench"):
        sys.exit("pgbench is not installed; it comes with PostgreSQL (Debian: postgresql-contrib)")
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else ROUNDS
    operator, cluster = failover.bring_up(sys.argv[1])
    edge = LoadBalancer(operator, "bench-edge")
    edge.spec["frontends"] = [
        {"name": "rw", "port": 5432, "mode": "tcp", "hostPort": edge.host_port, "backend": "rw"},
    ]
    edge.spec["backends"] = [{"name": "rw", "postgres": {"name": cluster.name, "role": "primary"}}]
    try:
        results = measure(cluster, edge.apply(), rounds)
        edge.delete()
    finally:
        harness.discard(operator)
        edge.clean()
        cluster.clean()
    failover.keep("balancer", results, table(results))


if __name__ == "__main__":
    main()
