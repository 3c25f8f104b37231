"""An operator under siege still fails over: `siege.py BINARY [SECONDS]`.

Each row starts under one attack, kills the primary's container, and shows the write outage of a client, the operator's
greatest memory and the growth of its store, beside a row without an attack of the same run. Writes
target/bench/siege.md. Exits 1 when a promise is broken: no failover, 200 MiB of memory, 5 MB of store in a minute.
"""

import contextlib
import os
import pathlib
import resource
import socket
import subprocess
import sys
import threading
import time

import failover
import floor
import harness
from harness import docker

IDLE = 2000
MEMORY = 200  # MiB
GROWTH = 5.0  # MB a minute
# Root in a container of a standby answers in the supervisor's place, as fast as it can, with 0.9 MB of changing words.
HOSTILE = r"""
use IO::Socket::UNIX; unlink "/run/evenkeel/supervisor.sock"; $SIG{PIPE}="IGNORE"; $SIG{CHLD}="IGNORE";
my $l = IO::Socket::UNIX->new(Type=>SOCK_STREAM, Local=>"/run/evenkeel/supervisor.sock", Listen=>9) or die;
for my $p (glob "/proc/[0-9]*/cmdline") { open my $f,"<",$p or next; my $c=<$f> // ""; my ($pid) = $p=~/(\d+)/; kill 9,$pid if $c=~/dial/ && $pid!=$$ }
while (my $s = $l->accept) { next if fork; my $n=0;
  while (1) { $n++; my $w = ("x$n" x (900000/length("x$n"))); print $s "{\"boot\":\"b\",\"clockMs\":$n,\"problem\":\"$w\",\"settingErrors\":[\"$w\"]}\n" or exit } }
"""


class Memory(threading.Thread):
    """Watches the greatest resident memory of a process."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.most, self.ending = pid, 0.0, threading.Event()

    def run(self):
        """Looks ten times a second."""
        while not self.ending.wait(0.1):
            with contextlib.suppress(OSError):
                for line in pathlib.Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines():
                    if line.startswith("VmRSS"):
                        self.most = max(self.most, int(line.split()[1]) / 1024)


def store_size(operator):
    """Bytes of the store's files."""
    return sum(file.stat().st_size for file in operator.data.glob("store.db*"))


@contextlib.contextmanager
def nothing(_cluster):
    """No attack."""
    yield ""


@contextlib.contextmanager
def idle_connections(cluster):
    """Connections that send nothing, from many addresses; kept up by a process of its own."""
    operator = cluster.operator
    command = [sys.executable, __file__, "--hold", str(operator.port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            if holder.stdout.readline().strip() != "held":
                raise harness.Failed("the connections could not be made")
            began = time.monotonic()
            operator.cli("get", "postgresclusters")
            yield f"`evenkeel get` took {(time.monotonic() - began) * 1000:.0f} ms"
        finally:
            holder.kill()


def hold(port):
    """Holds idle connections, and makes new ones for those that are closed."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
    held, number = [], 0
    while True:
        number += 1
        one = socket.socket()
        one.settimeout(1)
        with contextlib.suppress(OSError):
            one.bind((f"127.0.{1 + number % 50}.{1 + number // 50 % 40}", 0))
            one.connect(("127.0.0.1", port))
        held.append(one)
        if len(held) == IDLE:
            print("held", flush=True)
        if len(held) > IDLE:
            held.pop(0).close()
            time.sleep(0.002)


@contextlib.contextmanager
def port_taken(cluster):
    """Another process has the operator's port before it starts."""
    operator = cluster.operator
    operator.stop()
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", operator.port))
        squatter.listen()
        with open(operator.log, "a", encoding="utf-8") as log:
            operator.process = subprocess.Popen(
                [operator.binary, "operator", "--data-dir", str(operator.data), "--listen", f"127.0.0.1:{operator.port}"],
                stdout=log,
                stderr=log,
                env={**os.environ, **operator.env},
            )
        time.sleep(3)  # the time in which it would end is the test
        if operator.process.poll() is not None:
            raise harness.Failed(f"the operator ended with {operator.process.returncode}")
        yield ""
    harness.wait_until("the API is served when the port is free", lambda: operator.cli("get", "postgresclusters"), 15)


@contextlib.contextmanager
def audit_disk_full(cluster):
    """The disk of the audit log is full."""
    operator = cluster.operator
    operator.stop()
    log = operator.data / "audit.log"
    log.unlink(missing_ok=True)
    disk = operator.data.parent / "full"
    disk.mkdir()
    harness.run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk))
    (disk / "audit.log").write_bytes(b"")
    with contextlib.suppress(OSError):
        (disk / "filler").write_bytes(b"x" * 65536)
    log.write_bytes(b"")
    harness.run("mount", "--bind", str(disk / "audit.log"), str(log))
    try:
        operator.start()
        yield ""
    finally:
        operator.stop()
        harness.run("umount", str(log))
        harness.run("umount", str(disk))
        operator.start()


@contextlib.contextmanager
def hostile_supervisor(cluster):
    """Root in the container of a standby speaks for its supervisor."""
    primary = cluster.primary
    standby = next(one["name"] for one in cluster.status()["instances"] if one["name"] != primary)
    container = cluster.container(standby)
    docker("exec", "-d", container, "perl", "-e", HOSTILE)
    began, before = time.monotonic(), store_size(cluster.operator)
    time.sleep(SECONDS)  # the time of the attack is the test
    minutes = (time.monotonic() - began) / 60
    growth = (store_size(cluster.operator) - before) / 1e6 / minutes
    if growth > GROWTH:
        raise harness.Failed(f"the store grew by {growth:.1f} MB a minute")
    try:
        yield f"store: {growth:+.1f} MB a minute"
    finally:
        docker("restart", "-t", "1", container, check=False)


SECONDS = 60.0
ATTACKS = (nothing, port_taken, idle_connections, audit_disk_full, hostile_supervisor)


def outage_of(cluster, number):
    """Kills the primary's container under writes; the outage of the client. The API may be away."""
    before = cluster.known
    writing = harness.writer_for(cluster.known_uri, f"siege_{number}", floor.WRITE_PAUSE, floor.ACKS_BEFORE)
    moment = time.monotonic()
    floor.kill_container(before)
    on = writing.wait_for_acks(floor.ACKS_AFTER, failover.PATIENCE)
    writing.stop()
    if not on:
        raise harness.Failed(f"no failover within {failover.PATIENCE} s")
    return failover.client.outage(writing.records, moment)


def main():
    """Runs all rows."""
    global SECONDS
    if sys.argv[1] == "--hold":
        hold(int(sys.argv[2]))
    binary = sys.argv[1]
    SECONDS = float(sys.argv[2]) if len(sys.argv) > 2 else SECONDS
    operator = harness.start_operator(binary)
    cluster = harness.Cluster(operator, failover.CLUSTER)
    cluster.clean()
    lines, broken = ["| attack | outage, s | memory, MiB | |", "|---|---|---|---|"], []
    try:
        cluster.apply()
        for number, attack in enumerate(ATTACKS):
            status = cluster.settled(120)
            cluster.known_uri, cluster.known = cluster.uri(), cluster.container(status["primary"])
            name = attack.__name__.replace("_", " ")
            try:
                with attack(cluster) as note:
                    memory = Memory(operator.process.pid)
                    memory.start()
                    outage = outage_of(cluster, number)
                    memory.ending.set()
                    lines.append(f"| {name} | {outage:.2f} | {memory.most:.0f} | {note} |")
                    if memory.most > MEMORY:
                        broken.append(f"{name}: {memory.most:.0f} MiB")
            except harness.Failed as failed:
                lines.append(f"| {name} | failed | | {failed} |")
                broken.append(f"{name}: {failed}")
                if operator.process.poll() is not None:
                    operator.start()
            print(lines[-1], flush=True)
    finally:
        operator.cli_result("delete", "postgrescluster", cluster.name)
        harness.discard(operator)
        cluster.clean()
    failover.OUT.mkdir(parents=True, exist_ok=True)
    (failover.OUT / "siege.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for one in broken:
        print(f"broken: {one}", flush=True)
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
