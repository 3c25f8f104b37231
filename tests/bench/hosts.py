"""The cost of many Docker hosts: `hosts.py BINARY [SECONDS] [HOSTS] [CONTAINERS]`.

An operator with 100 simulated hosts of 100 containers each (docker_hosts.py): how long after its start every host was
listed, and what the settled operator costs; and the same with 10 hosts that accept connections and say nothing.
Writes target/bench/hosts.md and hosts.json.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import failover
import harness
from idle import cpu_seconds, resident_mib

SETTLE = 75  # seconds after a start until it counts as settled: longer than two intervals of the lists
HOLES = 10
WANTED = {"cpu": 10, "rss": 150, "requests": 10, "view": 5}


class Simulation:
    """The simulated hosts, in a process of their own."""

    def __init__(self, folder, hosts, containers):
        self.folder = folder
        self.hosts = hosts
        program = pathlib.Path(__file__).with_name("docker_hosts.py")
        self.process = subprocess.Popen(
            [sys.executable, str(program), str(folder), str(hosts), str(containers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.process.stdout.readline()

    def tell(self, line):
        """Sends a command; returns the answer."""
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def manifest(self):
        """All hosts as objects."""
        return "".join(
            "---\n"
            + json.dumps(
                {
                    "apiVersion": "evenkeel.dev/v1alpha1",
                    "kind": "DockerHost",
                    "metadata": {"name": f"sim-{number}"},
                    "spec": {"endpoint": f"unix://{self.folder}/{number}.sock"},
                }
            )
            + "\n"
            for number in range(self.hosts)
        )

    def stop(self):
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait(10)


def unready(operator):
    """Names of the simulated hosts that are not Ready."""
    items = json.loads(operator.cli("get", "dockerhosts", "-o", "json"))["items"]
    ready = [
        item["metadata"]["name"]
        for item in items
        if any(one["type"] == "Ready" and one["status"] == "True" for one in item.get("status", {}).get("conditions", []))
    ]
    names = [item["metadata"]["name"] for item in items if item["metadata"]["name"].startswith("sim-")]
    return [name for name in names if name not in ready]


def measure(operator, simulation, seconds, holes):
    """One row: the operator is started again, settles and is watched."""
    operator.stop()
    for number in range(holes):
        simulation.tell(f"fault {number} hole")
    simulation.tell("reset")
    began = time.time()
    operator.start()

    def view():
        listed = simulation.tell("counts")["listed_at"][holes:]
        return listed if all(listed) else None

    viewed = max(harness.wait_until("every host was listed", view, 60, poll=0.05)) - began
    harness.wait_until("the hosts are Ready", lambda: len(unready(operator)) == holes, 60, poll=1)
    time.sleep(SETTLE)
    before = (simulation.tell("reset"), cpu_seconds(operator.process.pid), time.monotonic())
    time.sleep(seconds)
    took = time.monotonic() - before[2]
    counts = simulation.tell("counts")["counts"]
    return {
        "holes": holes,
        "cpu": 100 * (cpu_seconds(operator.process.pid) - before[1]) / took,
        "rss": resident_mib(operator.process.pid),
        "requests": sum(counts.values()) / took,
        "view": viewed,
        "kinds": {kind: round(count / took, 2) for kind, count in counts.items()},
    }


def table(rows, hosts, containers):
    """The rows as markdown."""
    lines = [
        f"{hosts} hosts x {containers} containers",
        "",
        "| black holes | % of a core | resident MiB | requests/s | s to full view |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['holes']} | {row['cpu']:.1f} | {row['rss']:.0f} | {row['requests']:.1f} | {row['view']:.2f} |"
        )
    one, other = rows
    ratio = [f"{other[key] / one[key]:.2f}" if one[key] else "-" for key in ("cpu", "rss", "requests", "view")]
    lines.append(f"| ratio | {' | '.join(ratio)} |")
    lines.append(f"| wanted | {' | '.join(f'<= {WANTED[key]}' for key in ('cpu', 'rss', 'requests', 'view'))} |")
    lines += ["", *(f"with {row['holes']} black holes, requests/s: {row['kinds']}" for row in rows)]
    return "\n".join(lines) + "\n"


def main():
    """Runs the benchmark."""
    if len(sys.argv) < 2:
        sys.exit("usage: hosts.py BINARY [SECONDS] [HOSTS] [CONTAINERS]")
    numbers = [int(word) for word in sys.argv[2:]]
    seconds, hosts, containers = numbers + [60, 100, 100][len(numbers) :]
    with tempfile.TemporaryDirectory() as folder:
        simulation = Simulation(pathlib.Path(folder), hosts, containers)
        operator = harness.start_operator(sys.argv[1])
        try:
            operator.cli("apply", "-f", "-", text=simulation.manifest())
            harness.wait_until("the hosts are Ready", lambda: not unready(operator), 60, poll=1)
            rows = [measure(operator, simulation, seconds, holes) for holes in (0, HOLES)]
        finally:
            harness.discard(operator)
            simulation.stop()
    failover.keep("hosts", rows, table(rows, hosts, containers))


if __name__ == "__main__":
    main()
