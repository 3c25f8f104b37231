"""The cost of an idle Evenkeel: `idle.py BINARY [SECONDS]`.

One settled cluster of three, and then one RedisSentinel with three Sentinels; the operator's share of a core over a minute and
its resident memory, and the resident memory of each supervisor, from /proc.
Writes target/bench/idle.md and idle.json.
"""

import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import failover
import harness
from redis_objects import RedisSentinel

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid):
    """CPU time of a process so far, user and system, in seconds."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident_mib(pid):
    """Resident memory of a process, in MiB."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise harness.Failed(f"/proc/{pid}/status has no VmRSS")


def evenkeel_processes(cluster):
    """Process ids, on this machine, of Evenkeel's processes in the cluster's containers: {name: pid}."""
    found = {}
    for container in cluster.containers():
        name = harness.docker("inspect", "-f", '{{index .Config.Labels "evenkeel.dev/member"}}', container).strip()
        for line in harness.docker("top", container, "-eo", "pid,comm").splitlines()[1:]:
            pid, command = line.split(None, 1)
            if command.startswith("evenkeel"):
                # Besides the supervisor there is a bridge for each open `dial`.
                is_first = f"supervisor of {name}" not in found
                found[f"supervisor of {name}" if is_first else f"bridge {pid} into {name}"] = int(pid)
    return found


def bring_up_redis(binary):
    """An operator with a settled RedisSentinel."""
    operator = harness.start_operator(binary)
    cache = RedisSentinel(operator, "bench-cache")
    cache.clean()
    cache.apply().settled(180)
    return operator, cache


def measure(operator, cluster, seconds):
    """[{process, cpu, rss}] over this many idle seconds."""
    processes = {f"operator of {cluster.name}": operator.process.pid, **evenkeel_processes(cluster)}
    before = {name: cpu_seconds(pid) for name, pid in processes.items()}
    began = time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    return [
        {"process": name, "cpu": 100 * (cpu_seconds(pid) - before[name]) / took, "rss": resident_mib(pid)}
        for name, pid in processes.items()
    ]


def table(rows):
    """The rows as markdown."""
    lines = ["| process | % of a core | resident MiB |", "|---|---|---|"]
    lines += [f"| {row['process']} | {row['cpu']:.2f} | {row['rss']:.1f} |" for row in rows]
    return "\n".join(lines) + "\n"


def main():
    """Runs the benchmark."""
    if len(sys.argv) < 2:
        sys.exit("usage: idle.py BINARY [SECONDS]")
    rows = []
    for bring_up in (failover.bring_up, bring_up_redis):
        operator, cluster = bring_up(sys.argv[1])
        try:
            time.sleep(10)  # right after it became Ready it is not idle
            rows += measure(operator, cluster, float(sys.argv[2]) if len(sys.argv) > 2 else 60)
        finally:
            harness.discard(operator)
            cluster.clean()
    failover.keep("idle", rows, table(rows))


if __name__ == "__main__":
    main()
