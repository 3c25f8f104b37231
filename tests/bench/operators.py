"""What three operators over etcd cost, and how fast their API is: `operators.py BINARY [SECONDS]`.

A lab of three hosts with an operator and a member of etcd on each, one settled PostgresCluster and a Deployment: CPU and memory
of each operator and member, and the writes of etcd per second; then a list of 2,000 small objects, and 300 watchers, a hundred
at each operator.
Writes target/bench/operators.md and operators.json.
"""

import asyncio
import json
import pathlib
import re
import ssl
import statistics
import sys
import time

sys.path[1:1] = [str(pathlib.Path(__file__).resolve().parents[1] / name) for name in ("lab", "e2e", "chaos")]

from cluster import LabCluster
from harness import ROOT
from idle import cpu_seconds, resident_mib
from objects import Deployment
from shared import SharedLab

OBJECTS, WATCHERS, ROUNDS = 2000, 100, 20
SETTLE = 60  # seconds until everything counts as settled
PATH = "/api/v1/namespaces/default/configmaps"


def processes(lab):
    """{name: pid} of the operators and of the members of etcd."""
    operators = {f"operator of {name}": one.process.pid for name, one in lab.operators.items()}
    return operators | {f"etcd of {name}": one.process.pid for name, one in lab.members.items()}


def written(lab):
    """The entries of etcd's log so far, and its revision."""
    status = lab.etcd_status(f"http://{lab.network.nodes[lab.names[0]]}:2379")
    return status["raftIndex"], status["header"]["revision"]


def idle(groups, seconds):
    """[{process, cpu, rss}] of groups of processes {name: [pids]} over this many seconds."""
    spent = lambda pids: sum(cpu_seconds(pid) for pid in pids)  # noqa: E731
    before, began = {name: spent(pids) for name, pids in groups.items()}, time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    return [
        {"process": name, "cpu": 100 * (spent(pids) - before[name]) / took, "rss": sum(map(resident_mib, pids))}
        for name, pids in groups.items()
    ]


class Api:
    """The API of one operator, for requests that are timed."""

    def __init__(self, operator):
        text = (operator.data / "kubeconfig").read_text(encoding="utf-8")
        self.host, self.port = operator.address, operator.port
        self.token = re.search(r"token: (\S+)", text).group(1)
        self.context = ssl.create_default_context(cafile=operator.data / "pki" / "ca.crt")

    async def ask(self, method, path, body=None):
        """Sends a request; returns (reader, writer) behind the headers of its answer."""
        reader, writer = await asyncio.open_connection(self.host, self.port, ssl=self.context, limit=1 << 26)
        data = json.dumps(body).encode() if body is not None else b""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}", f"Authorization: Bearer {self.token}"]
        lines += ["Content-Type: application/json", f"Content-Length: {len(data)}", "", ""]
        writer.write("\r\n".join(lines).encode() + data)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if not re.match(r"HTTP/1.1 2", head):
            raise RuntimeError(f"{method} {path}: {head.splitlines()[0]} {(await reader.read(1000)).decode(errors='replace')}")
        return reader, writer, head

    async def whole(self, method, path, body=None):
        """Sends a request and reads the whole answer."""
        reader, writer, head = await self.ask(method, path, body)
        length = re.search(r"content-length: (\d+)", head, re.I)
        if length:
            data = await reader.readexactly(int(length.group(1)))
        else:
            data = b""
            while not data.endswith(b"\r\n0\r\n\r\n"):
                piece = await reader.read(1 << 20)
                if not piece:
                    break
                data += piece
        writer.close()
        return data


def config_map(name, value="1"):
    """A small object."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"at": value}}


async def lists(api):
    """Seconds of each list of all objects."""
    for start in range(0, OBJECTS, 20):
        await asyncio.gather(*(api.whole("POST", PATH, config_map(f"o-{start + one}")) for one in range(20)))
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        data = await api.whole("GET", PATH)
        took.append(time.perf_counter() - began)
    assert data.count(b'"name":"o-') == OBJECTS, data[:200]
    return took


async def watches(apis):
    """Seconds from the beginning of a write to its event, at each watcher of each operator."""
    seen = asyncio.Queue()

    async def watch(api):
        reader, writer, _ = await api.ask("GET", f"{PATH}?watch=true&fieldSelector=metadata.name=watched")
        await seen.put(None)
        while True:
            line = await reader.readline()
            if not line:
                return writer.close()  # it is held until then: without a holder the connection ends
            if value := re.search(rb'"at":"([0-9.]+)"', line):
                await seen.put(time.perf_counter() - float(value.group(1)))

    await apis[0].whole("POST", PATH, config_map("watched", "none"))
    tasks = [asyncio.create_task(watch(api)) for api in apis for _ in range(WATCHERS)]
    for _ in tasks:
        await seen.get()
    took, missed = [], 0
    for number in range(ROUNDS):
        await apis[number % len(apis)].whole("PUT", f"{PATH}/watched", config_map("watched", f"{time.perf_counter()}"))
        for _ in tasks:
            try:
                took.append(await asyncio.wait_for(seen.get(), 5))
            except asyncio.TimeoutError:
                missed += 1
                break
        await asyncio.sleep(0.2)
    for task in tasks:
        task.cancel()
    if missed:
        print(f"in {missed} of {ROUNDS} rounds an event did not come within 5 s; {sum(task.done() for task in tasks)} watches ended")
    return took


def milliseconds(values):
    """Median and 99th percentile."""
    ordered = sorted(values)
    return f"{1000 * statistics.median(ordered):.1f} ms, p99 {1000 * ordered[int(0.99 * (len(ordered) - 1))]:.1f} ms"


def main():
    """Runs the benchmark."""
    binary, seconds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 60
    lab = SharedLab(binary, name="evenkeel-bench-lab")
    try:
        lab.begin()
        LabCluster(lab, "bench-db").apply()
        Deployment(lab.operator, "bench-web", 3).apply()
        LabCluster(lab, "bench-db").whole(180)
        time.sleep(SETTLE)
        before = written(lab)
        rows = idle({name: [pid] for name, pid in processes(lab).items()}, seconds)
        after = written(lab)
        writes = {"log": (after[0] - before[0]) / seconds, "revisions": (after[1] - before[1]) / seconds}
        leads = lab.leader()[0]
        apis = [Api(one) for one in lab.operators.values()]
        took = {"list": asyncio.run(lists(apis[0])), "watch": asyncio.run(watches(apis))}
        sizes = {name: resident_mib(pid) for name, pid in processes(lab).items()}
    finally:
        lab.stop()
    lines = ["| process | % of a core | resident MiB |", "|---|---|---|"]
    lines += [f"| {row['process']} | {row['cpu']:.2f} | {row['rss']:.1f} |" for row in rows]
    lines += [
        "",
        f"{leads} led. etcd: {writes['log']:.2f} entries of its log a second, {writes['revisions']:.2f} revisions.",
        f"List of {OBJECTS} objects: {milliseconds(took['list'])}. From the beginning of a write to its event, "
        f"{3 * WATCHERS} watchers at three operators: {milliseconds(took['watch'])}.",
        "Resident MiB after that: " + ", ".join(f"{name} {size:.1f}" for name, size in sizes.items()),
    ]
    text = "\n".join(lines) + "\n"
    out = ROOT / "target" / "bench"
    out.mkdir(parents=True, exist_ok=True)
    (out / "operators.md").write_text(text, encoding="utf-8")
    told = {"rows": rows, "writes": writes, **took}
    (out / "operators.json").write_text(json.dumps(told), encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
