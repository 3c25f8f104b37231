"""Runs the scenarios on a real Docker Engine: `suite.py BINARY [WORDS...]` runs those whose name contains one of the words.

Prints one line a scenario and ends with `N passed, N failed`. What tells why one
failed is kept under target/e2e/. Everything made in Docker is removed.
"""

import fcntl
import pathlib
import shutil
import signal
import sys
import tempfile
import threading
import time

import harness
import scenarios
import scenarios_cluster
import scenarios_redis
import scenarios_web
from client import Silent
from runner import attempt, chosen

CLUSTER = "e2e-db"
SAVED = harness.ROOT / "target" / "e2e"


class Beside(threading.Thread):
    """Runs scenarios one after the other, with an operator of their own, beside those that measure nothing."""

    def __init__(self, binary, chosen):
        super().__init__(daemon=True)
        self.chosen, self.passed, self.failed = chosen, 0, 0
        self.cluster = harness.Cluster(harness.start_operator(binary), f"{CLUSTER}-beside") if chosen else None
        self.start()

    def run(self):
        for scenario in self.chosen:
            passed = attempt(self.cluster, scenario, SAVED)
            self.passed, self.failed = self.passed + passed, self.failed + (not passed)

    def end(self):
        """Stops its operator."""
        if self.cluster:
            harness.discard(self.cluster.operator)


def bring_up(cluster):
    """Applies the cluster and waits by `evenkeel wait`. Returns the seconds it took."""
    began = time.monotonic()
    cluster.apply()
    cluster.operator.cli(
        "wait", f"postgrescluster/{cluster.name}", "--for=condition=Ready", "--timeout=180s", timeout=190
    )
    cluster.settled(60)
    return time.monotonic() - began


def run(binary, words):
    """Runs the suite. Returns (passed, failed)."""
    passed = failed = 0
    beside = None
    operator = harness.start_operator(binary)
    cluster = harness.Cluster(operator, CLUSTER)
    cluster.clean()
    try:

        def a_cluster_of_three_becomes_ready(cluster):
            return f"Ready after {bring_up(cluster):.1f} s"

        if not attempt(cluster, a_cluster_of_three_becomes_ready, SAVED):
            return 0, 1
        passed += 1
        beside = Beside(binary, chosen(words, scenarios.BESIDE))
        for scenario in chosen(words, scenarios.SCENARIOS):
            if scenario not in scenarios.UNHURRIED:
                beside.join()
            if attempt(cluster, scenario, SAVED):
                passed += 1
                continue
            failed += 1
            for one in (scenarios_web, scenarios_redis, scenarios_cluster):
                one.clear(cluster, SAVED / scenario.__name__)
            try:
                operator.process.poll() is None or operator.start()
                cluster.settled(60)
            except (harness.Failed, Silent) as problem:
                # A broken cluster would fail every later scenario; they get a new one.
                print(f"     the cluster did not recover ({problem}); making a new one", flush=True)
                operator.cli_result("delete", "postgrescluster", CLUSTER)
                cluster.clean()
                bring_up(cluster)
        beside.join()
    finally:
        if beside:
            beside.end()
        scenarios_cluster.clear(cluster)
        scenarios_redis.clear(cluster)
        scenarios_web.clear(cluster)
        harness.discard(operator)
        cluster.clean()
    return passed + beside.passed, failed + beside.failed


def alone():
    """Waits until no other run of the suite uses this engine: their objects have the same names. Keep what it returns."""
    lock = open(pathlib.Path(tempfile.gettempdir()) / "evenkeel-e2e.lock", "w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def main():
    """Runs the suite and exits 1 when a scenario failed."""
    if len(sys.argv) < 2:
        sys.exit("usage: suite.py BINARY [WORDS...]")
    lock = alone()
    # A SIGTERM also cleans up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    shutil.rmtree(SAVED, ignore_errors=True)
    passed, failed = run(sys.argv[1], sys.argv[2:])
    print(f"{passed} passed, {failed} failed", flush=True)
    lock.close()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
