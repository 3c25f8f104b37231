"""Requests that fail during changes behind a balancer: `rollout.py BINARY [REQUESTS]`.

Six replicas of the tests' web application behind two HAProxies, then behind two
nginx. Each row is repeated until at least REQUESTS (20,000) requests were made
while the change went on. Writes target/bench/rollout.md and rollout.json. Exits
1 when a request failed in a row that promises none.
"""

import functools
import signal
import sys
import time

import failover
import floor
import harness
from load import Hey, PairClient, Wrk
from harness import wait_until
from objects import PING, Deployment, LoadBalancer, version_at

REPLICAS = 6
LEAST = 20_000
PATIENCE = 180  # seconds for one change
TAIL = 1.0  # seconds that the load continues after a change
EVICT = "evenkeel.dev/evict"


class Stage:
    """A Deployment behind a LoadBalancer, and the changes that are measured."""

    def __init__(self, operator, engine):
        self.web = Deployment(operator, f"bench-{engine}", REPLICAS)
        self.web.spec["strategy"] = {"rollingUpdate": {"maxSurge": 2, "maxUnavailable": 0}}
        self.web.spec["revisionHistoryLimit"] = 2
        self.edge = LoadBalancer(operator, f"bench-{engine}-edge", engine, replicas=2, backend=self.web.name)
        self.version = 1
        self.extra = 0

    def bring_up(self):
        """Applies both and waits."""
        self.web.apply()
        self.edge.apply()
        self.settled()

    def settled(self):
        """Waits until both are settled."""
        self.web.settled(PATIENCE)
        self.edge.settled(PATIENCE)

    def clean(self):
        """Removes both, with Docker if the operator does not."""
        for one in (self.edge, self.web):
            one.operator.cli_result("delete", one.kind.lower(), one.name)
            one.clean()

    # The changes under load. Each ends when everything is settled again.

    def rolling_update(self, _client):
        """Sets another image for all replicas."""
        self.version = 3 - self.version
        self.web.main["image"] = f"evenkeel-test/web:{self.version}"
        self.web.apply()
        self.settled()
        found = version_at(self.edge.url())[0]
        if found != str(self.version):
            raise harness.Failed(f"version {found} answers after the rolling update to {self.version}")

    def reload(self, _client):
        """Adds a frontend: a change that needs a reload."""
        before = self.edge.status().get("reloads", 0)
        self.extra = 1 - self.extra
        frontends = self.edge.spec["frontends"][:1]
        self.edge.spec["frontends"] = frontends + [{"name": "extra", "port": 9001, "backend": "web"}] * self.extra
        self.edge.apply()
        wait_until("the balancers were reloaded", lambda: self.edge.status().get("reloads", 0) > before, PATIENCE)
        self.settled()

    def scaling(self, _client):
        """Scales 2 -> 6 -> 2, starting and ending with six."""
        for replicas in (2, 6, 2, 6):
            self.web.scale(replicas)
            self.settled()

    def drain(self, _client):
        """One replica is drained and replaced."""
        victim = self.web.staying()[0]
        self.web.annotate(EVICT, victim)
        wait_until(f"{victim} is gone", lambda: not self.web.pod(victim), PATIENCE)
        self.settled()

    def killed_balancer(self, client):
        """kill -9 of one of two balancers."""
        victim = self.edge.containers()[0]
        client.mark()
        floor.kill_container(victim)
        time.sleep(0.5)
        self.settled()


def rows(stage, engine):
    """(name, change, type of load, whether failures are allowed)."""
    kept, anew = stage.edge.url(PING, 0), stage.edge.url(PING, 1)
    echo = stage.edge.url("/echo", 1)
    wrk, hey, post = functools.partial(Wrk, kept), functools.partial(Hey, anew), functools.partial(Hey, echo, post=True)
    pair = functools.partial(PairClient, stage.edge.addresses(), PING)
    # A reload of nginx closes idle keep-alive connections, whether or not a request is in flight.
    keeps = engine == "haproxy"
    return [
        ("rolling update of 6, keep-alive", stage.rolling_update, wrk, keeps),
        ("rolling update of 6, a connection a request", stage.rolling_update, hey, True),
        ("rolling update of 6, POST, a connection a request", stage.rolling_update, post, True),
        ("reload, keep-alive", stage.reload, wrk, keeps),
        ("reload, a connection a request", stage.reload, hey, True),
        ("scaling 2→6→2, keep-alive", stage.scaling, wrk, keeps),
        ("scaling 2→6→2, a connection a request", stage.scaling, hey, True),
        ("drain of one replica, keep-alive", stage.drain, wrk, keeps),
        ("drain of one replica, a connection a request", stage.drain, hey, True),
        ("kill of one of two balancers, new connections", stage.killed_balancer, pair, True),
    ]


def measure(name, change, load, strict, least):
    """Repeats one change under load until enough requests were sent."""
    row = {"name": name, "strict": strict, "requests": 0, "failed": 0, "failures": {}, "p50": [], "p99": [], "took": []}
    row.update(seconds=0.0, repeated=0, under_way=0)
    while row["requests"] < least:
        client = load()
        time.sleep(0.5)
        began = time.monotonic()
        try:
            change(client)
            row["took"].append(time.monotonic() - began)
            time.sleep(TAIL)
        finally:
            result = client.stop()
        row["client"] = result.client
        row["requests"] += result.requests
        row["failed"] += result.failed
        row["seconds"] += result.seconds
        row["p50"].append(result.p50)
        row["p99"].append(result.p99)
        for kind, count in result.failures.items():
            row["failures"][kind] = row["failures"].get(kind, 0) + count
        row["repeated"] += getattr(client, "repeated", 0)
        row["under_way"] += getattr(client, "under_way", 0)
    print(line(row), flush=True)
    return row


def line(row):
    """A row as markdown."""
    middle = lambda values: sorted(values)[len(values) // 2]  # noqa: E731
    failed = f"{row['failed']}"
    if row["failures"]:
        failed += " (" + ", ".join(f"{kind} {count}" for kind, count in row["failures"].items()) + ")"
    if row["repeated"]:
        failed += f"; {row['repeated']} went to the other address, {row['under_way']} were under way at the kill"
    cells = [row["name"], row["client"], row["requests"], failed, "0" if row["strict"] else "shown"]
    cells += [f"{middle(row['p50']):.1f} / {max(row['p99']):.1f}", f"{middle(row['took']):.1f} × {len(row['took'])}"]
    return "| " + " | ".join(map(str, [*cells, f"{row['seconds']:.0f}"])) + " |"


def table(results):
    """All rows as markdown."""
    lines = []
    for engine, found in results.items():
        lines += [
            f"| {engine} | client | requests | failed | wanted | p50 / p99 ms | change took s × times | load s |",
            "|---|---|---|---|---|---|---|---|",
            *map(line, found),
            "",
        ]
    return "\n".join(lines)


def main():
    """Runs the benchmark."""
    if len(sys.argv) < 2:
        sys.exit("usage: rollout.py BINARY [REQUESTS] [WORDS...]")
    least = int(sys.argv[2]) if len(sys.argv) > 2 else LEAST
    words = sys.argv[3:]
    # `kill` also cleans up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    operator = harness.start_operator(sys.argv[1])
    results = {}
    try:
        for engine in ("haproxy", "nginx"):
            stage = Stage(operator, engine)
            stage.clean()
            try:
                chosen = [row for row in rows(stage, engine) if not words or any(w in f"{engine} {row[0]}" for w in words)]
                if chosen:
                    stage.bring_up()
                for row in chosen:
                    results.setdefault(engine, []).append(measure(*row, least))
            finally:
                stage.clean()
    finally:
        harness.discard(operator)
        # Results are kept even if a later step fails.
        failover.keep("rollout", results, table(results))
    sys.exit(1 if any(row["strict"] and row["failed"] for found in results.values() for row in found) else 0)


if __name__ == "__main__":
    main()
