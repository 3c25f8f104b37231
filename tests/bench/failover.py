"""Client-seen write outage of failovers and switchovers, beside the floor of the same run: `failover.py BINARY [ROUNDS [BEFORE]]`.

BEFORE: another binary (of an earlier version), measured in turn with the first in the same run.
Writes target/bench/failover.md and failover.json. Exits 1 when an acknowledged
write was lost.
"""

import json
import pathlib
import platform
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import client
import floor
import harness

IMAGE = "postgres:15"
CLUSTER = "bench-db"
OUT = harness.ROOT / "target" / "bench"
PATIENCE = 60  # seconds until an outage counts as infinite


def primary_container_killed(cluster, primary):
    """docker kill of the primary's container."""
    container = cluster.container(primary)
    return lambda: floor.kill_container(container)


def primary_postmaster_killed(cluster, primary):
    """kill -9 of the primary's postmaster."""
    process = cluster.postmaster(primary)
    return lambda: harness.kill_postmaster(process)


def switchover(cluster, _primary):
    """A planned switchover by the command line."""
    return lambda: cluster.operator.cli("switchover", cluster.name)


KINDS = {"container": primary_container_killed, "postmaster": primary_postmaster_killed, "switchover": switchover}


def measure(cluster, kind, number):
    """One round: (outage, lost rows, outage reported by the operator)."""
    before = cluster.settled()
    uri, table = cluster.uri(), f"{kind}_{number}"
    act = KINDS[kind](cluster, before["primary"])
    writing = harness.writer_for(uri, table, floor.WRITE_PAUSE, floor.ACKS_BEFORE)
    moment = time.monotonic()
    act()
    changed = lambda: cluster.primary not in (None, before["primary"])  # noqa: E731
    harness.wait_until("the primary has changed", changed, PATIENCE)
    on = writing.wait_for_acks(floor.ACKS_AFTER, PATIENCE)
    writing.stop()
    if not on:
        raise harness.Failed(f"writes did not continue within {PATIENCE} s: {writing.errors[-1:]}")
    after = cluster.settled()
    lost = client.check(uri, writing.records, table)["lost"]
    told = after.get("lastFailover") if kind != "switchover" else (after.get("lastSwitchover") or {}).get("result")
    return client.outage(writing.records, moment), len(lost), told


def summary(rounds):
    """Median, maximum and all values of the outages; number of lost rows."""
    outages = [outage for outage, *_ in rounds]
    return {
        "median": statistics.median(outages),
        "max": max(outages),
        "rounds": outages,
        "lost": sum(lost for _, lost, *_ in rounds),
        "told": [told for _, _, *rest in rounds for told in rest if told],
    }


def table(results):
    """The results as a markdown table."""
    lines = [
        "| write outage seen by the client | median s | max s | × floor | lost rows | each round |",
        "|---|---|---|---|---|---|",
    ]
    names = {
        "container": "primary's container killed",
        "postmaster": "primary's postmaster killed (kill -9)",
        "switchover": "switchover",
        "floor container": "floor: container killed, promoted by hand",
        "floor postmaster": "floor: postmaster killed, promoted by hand",
    }
    names |= {f"before {kind}": f"the version before: {names[kind]}" for kind in KINDS}
    for key, name in names.items():
        if key not in results:
            continue
        result = results[key]
        base = results.get(f"floor {key}")
        ratio = f"{result['median'] / base['median']:.1f}" if base else ""
        each = " ".join(f"{outage:.2f}" for outage in result["rounds"])
        lines.append(f"| {name} | {result['median']:.2f} | {result['max']:.2f} | {ratio} | {result['lost']} | {each} |")
    return "\n".join(lines) + "\n"


def rounds_of(clusters, pair, count):
    """Measures every kind in turn, `count` times, so that a slow minute of the machine affects all of them."""
    found = {}
    for number in range(1, count + 1):
        for kind in ("container", "postmaster"):
            found.setdefault(f"floor {kind}", []).append(pair.round(kind))
        for kind in KINDS:
            for prefix, cluster in clusters.items():
                found.setdefault(f"{prefix}{kind}", []).append(measure(cluster, kind, number))
        line = ", ".join(f"{kind} {rounds[-1][0]:.2f}" for kind, rounds in found.items())
        print(f"round {number} of {count}: {line}", flush=True)
    return found


def bring_up(binary, name=CLUSTER):
    """An operator with a settled cluster of three instances."""
    operator = harness.start_operator(binary)
    cluster = harness.Cluster(operator, name, IMAGE)
    cluster.clean()
    cluster.apply()
    cluster.settled(180)
    return operator, cluster


def keep(name, results, text):
    """Writes results as JSON and as markdown, and prints the markdown."""
    OUT.mkdir(parents=True, exist_ok=True)
    machine = {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "engine": harness.docker("version", "-f", "{{.Server.Version}}").strip(),
    }
    (OUT / f"{name}.json").write_text(
        json.dumps({"machine": machine, "results": results}, indent=1) + "\n", encoding="utf-8"
    )
    (OUT / f"{name}.md").write_text(text, encoding="utf-8")
    print(f"\n{text}\nkept: target/bench/{name}.md, {name}.json")


def main():
    """Runs the benchmark. BINARY `-` measures only the floor."""
    if len(sys.argv) < 2:
        sys.exit("usage: failover.py BINARY [ROUNDS [BEFORE]]")
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    pair, clusters = None, {}
    try:
        pair = floor.Pair(IMAGE)
        if sys.argv[1] != "-":
            clusters[""] = bring_up(sys.argv[1])[1]
        if len(sys.argv) > 3:
            clusters["before "] = bring_up(sys.argv[3], f"{CLUSTER}-before")[1]
        results = {kind: summary(rounds) for kind, rounds in rounds_of(clusters, pair, count).items()}
    finally:
        for cluster in clusters.values():
            harness.discard(cluster.operator)
            cluster.clean()
        if pair:
            pair.remove()
    keep("failover", results, table(results))
    sys.exit(1 if any(result["lost"] for kind, result in results.items() if not kind.startswith("floor")) else 0)


if __name__ == "__main__":
    main()
