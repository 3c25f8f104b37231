"""What the parts of the benchmark of backups share: a cluster that archives, S3 servers, and what is in an archive."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.parse
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import harness
import psycopg2
import s3
import scenarios_backup
from harness import Failed, wait_until

IMAGE = "postgres:15"
CLUSTER = "bench-backup"
SECRET = "bench-s3"
SEGMENT = scenarios_backup.SEGMENT
# About 10 MiB of WAL: more than two segments.
FILL = (
    "INSERT INTO {table} SELECT string_agg(md5(random()::text), '') FROM generate_series(1, 330000) n GROUP BY n / 100"
)


class Rclone:
    """`rclone serve s3` over a folder: it checks signatures and keeps objects on the disk."""

    def __init__(self, bucket):
        self.bucket, self.folder = bucket, pathlib.Path(tempfile.mkdtemp(prefix="evenkeel-bench-s3-"))
        (self.folder / bucket).mkdir()
        host, port = s3.gateway(), harness.free_port()
        self.endpoint = f"http://{host}:{port}"
        key = f"{s3.ACCESS['accessKeyId']},{s3.ACCESS['secretAccessKey']}"
        command = [
            s3.PYTHON.with_name("rclone"),
            "serve",
            "s3",
            "--auth-key",
            key,
            "--config=",
            f"--addr={host}:{port}",
        ]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([*map(str, command), str(self.folder)], **quiet)
        wait_until("rclone serves", lambda: not refused(host, port), 20)

    def keys(self, prefix=""):
        """All keys that begin so."""
        root = self.folder / self.bucket
        found = (str(file.relative_to(root)) for file in root.rglob("*") if file.is_file())
        return sorted(key for key in found if key.startswith(prefix))

    def get(self, key):
        """The content of an object."""
        return (self.folder / self.bucket / key).read_bytes()

    def store(self, secret, prefix=""):
        """`spec.backup.store` for it."""
        return s3.Server.store(self, secret, prefix)

    def stop(self):
        """Ends it and removes its folder."""
        self.process.kill()
        self.process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)


def refused(host, port):
    """The error number of a connection; 0 if it is accepted."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((host, port))


class Rig:
    """An operator, a settled cluster of three instances (`required`), and its archive in an S3 server."""

    def __init__(self, binary, server=None, store=None, parameters=None, **backup):
        self.server = server or s3.Server("backups")
        self.operator, self.cluster = None, None
        try:
            self.operator = harness.start_operator(binary)
            self.cluster = harness.Cluster(self.operator, CLUSTER, IMAGE)
            self.cluster.clean()
            s3.apply_secret(self.operator, SECRET)
            self.cluster.spec["parameters"].update(parameters or {})
            where = store or self.server.store(SECRET)
            self.cluster.apply(backup={"store": where, "wal": {"maxAge": "2s"}, **backup})
            self.cluster.settled(180)
            self.archive = scenarios_backup.archiving(self.cluster)["archive"]
        except BaseException:
            self.remove()
            raise

    def remove(self):
        """Removes the cluster, the operator and the S3 server."""
        if os.environ.get("EVIDENCE") and self.cluster:
            self.cluster.save(pathlib.Path(os.environ["EVIDENCE"]))
        if self.operator:
            harness.discard(self.operator)
        if self.cluster:
            self.cluster.clean()
        self.server.stop()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.remove()

    def archived(self):
        """Waits until all that was written until now is in the archive."""
        scenarios_backup.archiving(self.cluster)
        scenarios_backup.archived_up_to(self.cluster, self.server, self.archive)

    def settled_member(self, role):
        """The container of the primary, or of a standby, of the settled cluster."""
        status = self.cluster.settled()
        return self.cluster.container(next(one["name"] for one in status["instances"] if one["role"] == role))

    @contextlib.contextmanager
    def frozen_store(self):
        """The S3 server answers nothing meanwhile."""
        os.kill(self.server.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.server.process.pid, signal.SIGCONT)


def way(server, archive):
    """The segments that a recovery of all asks for: [(timeline, number)]; those that are there; histories that lack.

    Which timeline a segment is read from follows from the newest history.
    """
    found = scenarios_backup.segments(server, archive)
    if not found:
        raise Failed(f"no segments in {archive}: {server.keys()[:5]}")
    newest, numbers = max(found), sorted({number for those in found.values() for number in those})
    histories = {int(key[-16:-8], 16): key for key in server.keys(archive) if key.endswith(".history")}
    lacking = [f"{timeline:08X}.history" for timeline in found if timeline > 1 and timeline not in histories]
    ends = []
    lines = server.get(histories[newest]).decode().splitlines() if newest in histories else []
    for line in filter(str.strip, lines):
        timeline, lsn = line.split()[:2]
        high, low = lsn.split("/")
        ends.append((int(timeline), ((int(high, 16) << 32) + int(low, 16)) // SEGMENT))
    asked = [
        (next((timeline for timeline, end in ends if number < end), newest), number)
        for number in range(numbers[0], numbers[-1] + 1)
    ]
    return asked, found, lacking


def missing(server, archive):
    """Segments that a recovery to the end asks for and the archive lacks, and how many there are: ([names], number)."""
    asked, found, lacking = way(server, archive)
    lacking += [segment_name(*one) for one in asked if one[1] not in found.get(one[0], [])]
    return lacking, sum(map(len, found.values()))


def segment_name(timeline, number):
    """The name of a segment's file."""
    in_log = 2**32 // SEGMENT
    return f"{timeline:08X}{number // in_log:08X}{number % in_log:08X}"


def request(server, verb, key, body=None, headers=None):
    """One signed request about an object: (headers, content)."""
    url = f"{server.endpoint}/{server.bucket}/{urllib.parse.quote(key)}"
    # As a form, which is urllib's default, the server takes no content.
    kind = {"Content-Type": "application/octet-stream"}
    asked = urllib.request.Request(url, method=verb, data=body, headers={**s3.SIGNED, **kind, **(headers or {})})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return dict(answer.headers), answer.read()


def copy_flipped(server, archive, prefix, key, bit):
    """A copy of an archive below a prefix; one object has one bit flipped (its metadata is that of the original)."""
    for one in server.keys(archive):
        request(
            server, "PUT", f"{prefix}/{one}", b"", {"x-amz-copy-source": f"/{server.bucket}/{urllib.parse.quote(one)}"}
        )
    headers, content = request(server, "GET", key)
    meta = {name: value for name, value in headers.items() if name.lower().startswith("x-amz-meta-")}
    flipped = bytearray(content)
    flipped[bit // 8 % len(flipped)] ^= 1 << (bit % 8)
    request(server, "PUT", f"{prefix}/{key}", bytes(flipped), meta)


def sql(uri, statement, values=()):
    """Runs one statement in a transaction of its own; its rows."""
    with contextlib.closing(psycopg2.connect(uri)) as session, session, session.cursor() as cursor:
        cursor.execute(statement, values)
        return cursor.fetchall() if cursor.description else []


def backed_up(cluster, name):
    """Takes a base backup by the command line; its status."""
    cluster.operator.cli("backup", cluster.name, "--name", name, "--wait", timeout=900)
    return json.loads(cluster.operator.cli("get", "backup", name, "-o", "json"))["status"]


class Recovery:
    """A cluster of one instance, recovered from the archive of another one."""

    def __init__(self, cluster, name, target, **recovery):
        self.cluster = harness.Cluster(cluster.operator, name, IMAGE)
        source = {"source": {"cluster": cluster.name}, "database": "awx", "owner": "awx"}
        self.cluster.spec = {
            "image": IMAGE,
            "instances": 1,
            "bootstrap": {"recovery": {**source, "target": target, **recovery}},
        }
        self.cluster.clean()
        self.cluster.apply()

    def settled(self, timeout=180):
        """Waits until it is Ready."""
        try:
            return self.cluster.settled(timeout)
        except Failed:
            self.cluster.save(harness.ROOT / "target" / "bench" / self.cluster.name)
            raise

    def column(self, question):
        """The first column of an answer."""
        return [row[0] for row in sql(self.cluster.uri(), question)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.cluster.operator.cli_result("delete", "postgrescluster", self.cluster.name)
        self.cluster.clean()


class Beside:
    """A function that runs in a thread meanwhile; what it raises is raised at the end."""

    def __init__(self, function, *arguments):
        self.result, self.problem = None, None

        def run():
            try:
                self.result = function(*arguments)
            except Exception as problem:  # handed to who waits
                self.problem = problem

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    @property
    def runs(self):
        """Whether it has not ended."""
        return self.thread.is_alive()

    def wait(self, timeout=900):
        """Its result."""
        self.thread.join(timeout)
        if self.problem:
            raise self.problem
        if self.runs:
            raise Failed(f"not within {timeout} s")
        return self.result


@contextlib.contextmanager
def removing(thing):
    """Removes it at the end."""
    try:
        yield thing
    finally:
        thing.remove()


def load():
    """How busy the machine is."""
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
