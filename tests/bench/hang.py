"""Servers that hang and servers that are slow: `hang.py BINARY [ROUNDS] [KIND ...]`.

A frozen postmaster, a frozen server and a frozen disk must be told within 2 s, and new sessions
must write again within 5 s. A server under heavy load, also with checkpoints,
must never be failed over. Each instance's volume is a file system of its own in
a file, so that the disk of one instance can be frozen (needs root).

Prints a line per round. Exits 1 when a promise was broken or a row was lost.
"""

import contextlib
import os
import pathlib
import signal
import statistics
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import client
import harness
import psycopg2
from checks import single_host
from harness import docker, run

IMAGE = "postgres:15"
CLUSTER = "bench-hang"
TOLD, WRITES = 2.0, 5.0  # seconds
LOAD_SECONDS = 20
DISK_MIB = 6000


class Sessions:
    """New sessions to each instance, one after the other, each of which inserts one row."""

    def __init__(self, uri, table):
        self.uri, self.table, self.acknowledged, self.stop = uri, table, [], threading.Event()
        self.number = 0
        self.lock = threading.Lock()
        hosts = [single_host(uri, host.name) for host in client.hosts_of(uri)]
        self.threads = [threading.Thread(target=self.ask, args=(host,), daemon=True) for host in hosts]

    def ask(self, uri):
        """Tries again and again; what waits on a server that hangs ends with that server."""
        while not self.stop.is_set():
            with self.lock:
                self.number += 1
                number = self.number
            with contextlib.suppress(psycopg2.Error), contextlib.closing(psycopg2.connect(uri)) as session:
                with session, session.cursor() as cursor:
                    cursor.execute(f"INSERT INTO {self.table} VALUES (%s)", (number,))
                self.acknowledged.append((time.monotonic(), number))
            time.sleep(0.02)

    def __enter__(self):
        with contextlib.closing(psycopg2.connect(self.uri)) as session, session, session.cursor() as cursor:
            cursor.execute(f"CREATE TABLE {self.table} (n int)")
        for thread in self.threads:
            thread.start()
        harness.wait_until("new sessions write", lambda: len(self.acknowledged) > 20, 30)
        return self

    def __exit__(self, *_):
        self.stop.set()

    def after(self, moment, patience=60):
        """Seconds from the moment to the first write of a new session after it that stays."""
        look = lambda: [at for at, _ in self.acknowledged if at > moment + 0.2]  # noqa: E731
        return harness.wait_until("a new session writes", look, patience, 0.02)[0] - moment

    def lost(self):
        """Acknowledged rows that are not there."""
        with contextlib.closing(psycopg2.connect(self.uri)) as session, session, session.cursor() as cursor:
            cursor.execute(f"SELECT n FROM {self.table}")
            there = {n for (n,) in cursor.fetchall()}
        return [n for _, n in list(self.acknowledged) if n not in there]


class Disks:
    """A file system in a file for each instance, as its Docker volume."""

    def __init__(self, cluster):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="evenkeel-hang-"))
        self.devices = []
        for ordinal in range(1, 4):
            file = self.folder / f"disk-{ordinal}"
            with open(file, "wb") as disk:
                disk.truncate(DISK_MIB << 20)
            run("mkfs.ext4", "-q", "-F", str(file))
            device = run("losetup", "--find", "--show", str(file)).strip()
            self.devices.append(device)
            member = f"{cluster.name}-{ordinal}"
            labels = {"kind": "PostgresCluster", "namespace": harness.NAMESPACE, "name": cluster.name, "member": member}
            marks = [part for key, value in labels.items() for part in ("--label", f"evenkeel.dev/{key}={value}")]
            options = ["--opt", "type=ext4", "--opt", f"device={device}"]
            docker("volume", "create", *marks, *options, f"{harness.NAMESPACE}.{member}")

    def remove(self):
        """Unmounts nothing: Docker did, with the last container."""
        for device in self.devices:
            run("losetup", "-d", device, check=False)
        for file in self.folder.iterdir():
            file.unlink()
        self.folder.rmdir()


def freeze_postmaster(cluster, primary):
    """SIGSTOP of the postmaster; it is killed with its server later."""
    process = cluster.postmaster(primary)
    os.kill(process, signal.SIGSTOP)
    return lambda: None


def freeze_all(cluster, primary):
    """SIGSTOP of every process of the server: no session gets an answer any more."""
    for line in docker("top", cluster.container(primary), "-eo", "pid,comm").splitlines()[1:]:
        process, name = line.split(None, 1)
        if name.strip() == "postgres":
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGSTOP)
    return lambda: None


def freeze_disk(cluster, primary):
    """Nothing more is written to the primary's volume."""
    mount = docker("volume", "inspect", "-f", "{{.Mountpoint}}", cluster.volumes(primary)[0]).strip()
    run("fsfreeze", "--freeze", mount)
    return lambda: run("fsfreeze", "--unfreeze", mount)


HANGS = {"postmaster": freeze_postmaster, "server": freeze_all, "disk": freeze_disk}


def ready(cluster):
    """The status word of the Ready condition."""
    return cluster.condition("Ready")


def hang(cluster, kind, number):
    """One round: (seconds until told, seconds until new sessions write, lost rows, the operator's outage)."""
    before = cluster.settled()
    with Sessions(cluster.uri(), f"{kind}_{number}") as sessions:
        moment = time.monotonic()
        repair = HANGS[kind](cluster, before["primary"])
        try:
            told = harness.wait_until("it is told", lambda: told_since(cluster, before, moment), 60, 0.05)
            writes = sessions.after(moment)
        finally:
            repair()
    after = cluster.settled(120)
    failover = after.get("lastFailover") or {}
    return told, writes, len(sessions.lost()), failover.get("outage"), failover.get("cause")


def told_since(cluster, before, moment):
    """Seconds since the moment, once the status says that something is wrong."""
    told = cluster.condition("Ready") != "True" or cluster.status().get("term") != before["term"]
    return time.monotonic() - moment if told else None


def load(cluster, number):
    """One round: whether the primary stayed, and for how many seconds Ready was not True."""
    before = cluster.settled()
    container = cluster.container(before["primary"])
    inside = lambda *command: ("exec", "-u", "postgres", container, *command)  # noqa: E731
    if number == 1:
        docker(*inside("psql", "-qc", "CREATE DATABASE load"))
        docker(*inside("pgbench", "-q", "-i", "-s", "20", "load"), timeout=120)
    script = (
        f"for i in $(seq 8); do (timeout {LOAD_SECONDS} sh -c 'while :; do :; done' &) ; done; "
        f"(for i in $(seq 6); do psql -qc CHECKPOINT load; sleep 2; done) & "
        f"pgbench -c 55 -j 2 -T {LOAD_SECONDS} load >/dev/null 2>&1; wait"
    )
    unready = 0.0
    worker = threading.Thread(target=lambda: docker(*inside("sh", "-c", script), check=False, timeout=180), daemon=True)
    worker.start()
    last = time.monotonic()
    while worker.is_alive():
        word = ready(cluster)
        now = time.monotonic()
        if word != "True":
            unready += now - last
        last = now
        time.sleep(0.2)
    after = cluster.settled(60)
    return before["term"] == after["term"], unready


def main():
    """Runs the rounds."""
    if len(sys.argv) < 2:
        sys.exit("usage: hang.py BINARY [ROUNDS] [postmaster|server|disk|load ...]")
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    kinds = sys.argv[3:] or ["postmaster", "server", "disk", "load"]
    operator = harness.start_operator(sys.argv[1])
    cluster = harness.Cluster(operator, CLUSTER, IMAGE)
    cluster.clean()
    disks = Disks(cluster)
    good, found = True, {}
    try:
        cluster.apply()
        cluster.settled(180)
        for number in range(1, count + 1):
            for kind in kinds:
                if kind == "load":
                    stayed, unready = load(cluster, number)
                    good &= stayed
                    word = "stayed" if stayed else "FAILED OVER"
                    print(f"load {number}: {word}, not Ready for {unready:.1f} s", flush=True)
                    continue
                told, writes, lost, outage, cause = hang(cluster, kind, number)
                good &= told <= TOLD and writes <= WRITES and not lost
                found.setdefault(kind, []).append((told, writes))
                figures = f"told {told:.2f} s, writes {writes:.2f} s, lost {lost}, status {outage} s"
                print(f"{kind} {number}: {figures}, {cause}", flush=True)
    finally:
        harness.discard(operator)
        cluster.clean()
        disks.remove()
    for kind, rounds in found.items():
        told, writes = zip(*rounds, strict=True)
        figures = [f"{name} median {statistics.median(of):.2f} max {max(of):.2f}" for name, of in (("told", told), ("writes", writes))]
        print(f"{kind}: {', '.join(figures)}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
