"""What three operators over etcd cost, and how fast their API is: `operators.py BINARY [SECONDS]`.

A lab of three hosts with an operator and a member of etcd on each, one settled PostgresCluster and a Deployment: CPU and memory
of each operator and member, and the writes of etcd per second; then a list of 2,000 small objects, and 300 watchers, a hundred
at each operator. Before that, for comparison, three Patronis over an etcd of three members, settled as well.
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
from harness import ROOT, Failed
from idle import cpu_seconds, resident_mib
from objects import Deployment
from patroni_peer import DEFAULTS, Patroni
from shared import SharedLab

OBJECTS, WATCHERS, ROUNDS = 2000, 100, 20
AT_ONCE = 20  # connections that are opened at once to an operator: it lets 64 of one address come without a word from them
LATE = 5  # seconds after which an event does not come any more
A_SECOND = 300  # objects made a second: the server has a limit of 400 requests
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

    async def open(self):
        """A connection."""
        return await asyncio.open_connection(self.host, self.port, ssl=self.context, limit=1 << 26)

    async def ask(self, connection, method, path, body=None):
        """Sends a request over a connection; returns the headers of its answer, which is read to their end."""
        reader, writer = connection
        data = json.dumps(body).encode() if body is not None else b""
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}", f"Authorization: Bearer {self.token}"]
        lines += ["Content-Type: application/json", f"Content-Length: {len(data)}", "", ""]
        writer.write("\r\n".join(lines).encode() + data)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        if not re.match(r"HTTP/1.1 2", head):
            raise Failed(f"{method} {path}: {head.splitlines()[0]} {(await reader.read(1000)).decode(errors='replace')}")
        return head

    async def whole(self, connection, method, path, body=None):
        """Sends a request over a connection and reads the whole answer."""
        head = await self.ask(connection, method, path, body)
        reader = connection[0]
        if length := re.search(r"content-length: (\d+)", head, re.I):
            return await reader.readexactly(int(length.group(1)))
        pieces = []
        while size := int(await reader.readline(), 16):
            pieces.append((await reader.readexactly(size + 2))[:-2])
        await reader.readline()
        return b"".join(pieces)


def config_map(name, value="1"):
    """A small object."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"at": value}}


async def lists(api):
    """Seconds of each list of all objects."""
    connections = [await api.open() for _ in range(AT_ONCE)]

    async def fill(number):
        for one in range(number, OBJECTS, AT_ONCE):
            await api.whole(connections[number], "POST", PATH, config_map(f"o-{one}"))
            await asyncio.sleep(AT_ONCE / A_SECOND)

    await asyncio.gather(*map(fill, range(AT_ONCE)))
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        data = await api.whole(connections[0], "GET", PATH)
        took.append(time.perf_counter() - began)
    assert data.count(b'"name":"o-') == OBJECTS, data[:200]
    for _, writer in connections:
        writer.close()
    return took


class Watchers:
    """Many watches of one object at each operator, and how long after a moment each of them got an event."""

    def __init__(self):
        self.took, self.moment, self.wanted, self.all = [], 0.0, 0, asyncio.Event()
        self.tasks, self.connections = [], []

    async def open(self, api):
        """One more."""
        connection = await api.open()
        await api.ask(connection, "GET", f"{PATH}?watch=true&fieldSelector=metadata.name=watched")
        self.connections.append(connection)
        self.tasks.append(asyncio.create_task(self.watch(connection[0])))

    async def watch(self, reader):
        """Notes each event; the first one is the object as it was."""
        while line := await reader.readline():
            if b'"MODIFIED"' in line:
                self.took.append(time.perf_counter() - self.moment)
                if len(self.took) == self.wanted:
                    self.all.set()

    async def round(self, write):
        """Makes a change, and waits until all have its event."""
        self.all.clear()
        before = len(self.took)
        self.wanted, self.moment = before + len(self.tasks), time.perf_counter()
        await write
        try:
            await asyncio.wait_for(self.all.wait(), LATE)
        except asyncio.TimeoutError as late:
            got, ended = len(self.took) - before, sum(task.done() for task in self.tasks)
            raise Failed(f"{got} of {len(self.tasks)} events came within {LATE} s; {ended} watches ended") from late

    def close(self):
        """Ends all."""
        for task in self.tasks:
            task.cancel()
        for _, writer in self.connections:
            writer.close()


async def watches(apis):
    """Seconds until all watches are open; from the beginning of each write to its answer; and to its event, at each watcher of each
    operator."""
    await apis[0].whole(await apis[0].open(), "POST", PATH, config_map("watched", "none"))
    watchers, began = Watchers(), time.perf_counter()
    for _ in range(0, WATCHERS, AT_ONCE):
        await asyncio.gather(*(watchers.open(api) for api in apis for _ in range(AT_ONCE)))
    opened = time.perf_counter() - began
    connections, answered = [await api.open() for api in apis], []

    async def write(number):
        at = number % len(apis)
        await apis[at].whole(connections[at], "PUT", f"{PATH}/watched", config_map("watched", f"{number}"))
        answered.append(time.perf_counter() - watchers.moment)

    for number in range(ROUNDS):
        await watchers.round(write(number))
        await asyncio.sleep(0.2)
    watchers.close()
    return opened, answered, watchers.took


def milliseconds(values):
    """Median and 99th percentile."""
    ordered = sorted(values)
    return f"{1000 * statistics.median(ordered):.1f} ms, p99 {1000 * ordered[int(0.99 * (len(ordered) - 1))]:.1f} ms"


def main():
    """Runs the benchmark."""
    binary, seconds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 60
    lab = SharedLab(binary, name="evenkeel-bench-lab")
    try:
        with Patroni() as patroni:
            time.sleep(SETTLE)
            peers = idle(patroni.groups, seconds)
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
        listed = asyncio.run(lists(apis[0]))
        opened, answered, told = asyncio.run(watches(apis))
        sizes = {name: resident_mib(pid) for name, pid in processes(lab).items()}
    finally:
        lab.stop()
    lines = ["| process | % of a core | resident MiB |", "|---|---|---|"]
    lines += [f"| {row['process']} | {row['cpu']:.2f} | {row['rss']:.1f} |" for row in rows + peers]
    lines += [
        "",
        f"Patroni and its etcd run without Docker, each with one PostgreSQL, by Patroni's defaults: {DEFAULTS}.",
        f"{leads} led. etcd: {writes['log']:.2f} entries of its log a second, {writes['revisions']:.2f} revisions.",
        f"List of {OBJECTS} objects: {milliseconds(listed)}.",
        f"{3 * WATCHERS} watchers at three operators: all began within {opened:.2f} s; from the beginning of a write to its event: "
        f"{milliseconds(told)}; to its answer: {milliseconds(answered)}.",
        "Resident MiB after that: " + ", ".join(f"{name} {size:.1f}" for name, size in sizes.items()),
    ]
    text = "\n".join(lines) + "\n"
    out = ROOT / "target" / "bench"
    out.mkdir(parents=True, exist_ok=True)
    (out / "operators.md").write_text(text, encoding="utf-8")
    measured = {"rows": rows, "patroni": peers, "writes": writes, "list": listed, "opened": opened, "write": answered, "watch": told}
    (out / "operators.json").write_text(json.dumps(measured), encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
