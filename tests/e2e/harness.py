"""The base of the real-Docker tests and benchmarks: a private operator, one cluster, and Docker's view of containers.

Uses only what a user has: the `evenkeel` program, the `docker` program, libpq.
Things are found by their labels; nothing of Evenkeel's code is used.
"""

import base64
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from urllib.parse import quote

import client

ROOT = pathlib.Path(__file__).resolve().parents[2]
NAMESPACE = "default"
POLL = 0.1  # poll interval in seconds


class Failed(Exception):
    """A sentence about what did not happen."""


def run(*command, timeout=60, check=True, text=None, env=None):
    """Runs a program until it ends and returns its standard output."""
    try:
        result = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={**os.environ, **(env or {})},
        )
    except subprocess.TimeoutExpired as expired:
        raise Failed(f"`{' '.join(command)}` did not end within {timeout} s") from expired
    if check and result.returncode != 0:
        raise Failed(
            f"`{' '.join(command)}` ended with {result.returncode}: {result.stderr.strip() or result.stdout.strip()}"
        )
    return result.stdout


def docker(*arguments, check=True, timeout=60):
    """Runs the docker program."""
    return run("docker", *arguments, check=check, timeout=timeout)


def wait_until(what, look, timeout, poll=POLL):
    """Polls `look` until it returns something true, and returns that. Raises Failed with `what` on time-out."""
    until = time.monotonic() + timeout
    problem = ""
    while True:
        try:
            seen = look()
            if seen:
                return seen
            problem = ""
        except Failed as failed:
            problem = f" ({failed})"
        if time.monotonic() > until:
            raise Failed(f"not within {timeout:.0f} s: {what}{problem}")
        time.sleep(poll)


def free_port():
    """A free TCP port on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Operator:
    """One `evenkeel operator` with its own data directory. `before`: words in front of each of its commands."""

    def __init__(self, binary, folder, before=()):
        self.binary = str(pathlib.Path(binary).resolve())
        self.command = [*before, self.binary]
        self.data = pathlib.Path(folder) / "data"
        self.log = pathlib.Path(folder) / "operator.log"
        self.port = free_port()
        self.address = "127.0.0.1"  # that its API listens on
        self.process = None
        self.options = []  # more words after `operator`
        self.env = {"EVENKEEL_KUBECONFIG": str(self.data / "kubeconfig"), "NO_COLOR": "1"}

    def start(self):
        """Starts it and waits until it serves requests."""
        with open(self.log, "a", encoding="utf-8") as log:
            listen = f"{self.address}:{self.port}"
            self.process = subprocess.Popen(
                [*self.command, "operator", "--data-dir", str(self.data), "--listen", listen, *self.options],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env={**os.environ, **self.env},
            )

        def serves():
            if self.process.poll() is not None:
                last = self.log.read_text(encoding="utf-8", errors="replace")[-2000:]
                raise SystemExit(f"the operator ended with {self.process.returncode}:\n{last}")
            code, said = self.cli_result("get", "postgresclusters") if (self.data / "kubeconfig").exists() else (1, "")
            # Of several operators, another one answers when this one does not, and the command says so.
            return code == 0 and "does not answer" not in said

        wait_until("the operator serves requests", serves, 30)
        return self

    def kill(self):
        """kill -9."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
        if self.process is not None:
            self.process.wait()

    def stop(self):
        """Sends SIGTERM, and SIGKILL if it has not ended after ten seconds."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()

    def cli(self, *arguments, text=None, timeout=60, check=True):
        """Runs `evenkeel` against this operator."""
        return run(*self.command, *arguments, text=text, timeout=timeout, check=check, env=self.env)

    def cli_result(self, *arguments, text=None):
        """Runs `evenkeel` and returns (exit code, all output)."""
        try:
            result = subprocess.run(
                [*self.command, *arguments],
                input=text,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=60,
                check=False,
                env={**os.environ, **self.env},
            )
        except subprocess.TimeoutExpired as expired:
            raise Failed(f"`evenkeel {' '.join(arguments)}` did not end within 60 s") from expired
        return result.returncode, result.stdout


class Cluster:
    """One PostgresCluster, its containers and how to connect to it."""

    def __init__(self, operator, name, image="postgres:15"):
        self.operator = operator
        self.name = name
        self.spec = {
            "image": image,
            "instances": 3,
            "durability": {"mode": "required", "synchronousReplicas": 1},
            "bootstrap": {"initdb": {"database": "awx", "owner": "awx"}},
            "parameters": {"max_connections": "60"},
        }

    # The object

    def apply(self, **changes):
        """Changes fields of the spec and applies the whole object, like a user with a file."""
        self.spec.update(changes)
        self.operator.cli("apply", "-f", "-", text=self.manifest())

    def manifest(self, **spec):
        """The object as a YAML document (JSON is YAML)."""
        return json.dumps(
            {
                "apiVersion": "evenkeel.dev/v1alpha1",
                "kind": "PostgresCluster",
                "metadata": {"name": self.name},
                "spec": {**self.spec, **spec},
            }
        )

    def get(self):
        """The object as stored; None when it is gone."""
        code, out = self.operator.cli_result("get", "postgrescluster", self.name, "-o", "json")
        if code == 3:  # not found
            return None
        if code != 0:
            raise Failed(f"get postgrescluster {self.name}: {out.strip()}")
        return json.loads(out)

    def status(self):
        """Its status; empty if there is none."""
        return (self.get() or {}).get("status") or {}

    def condition(self, kind):
        """Status word of one condition: True, False, Unknown, or None."""
        conditions = {c["type"]: c["status"] for c in self.status().get("conditions", [])}
        return conditions.get(kind)

    def delete(self, timeout=60):
        """Deletes the object and waits until it is gone."""
        self.operator.cli("delete", "postgrescluster", self.name, timeout=timeout)
        wait_until(f"{self.name} is gone", lambda: self.get() is None, timeout)

    def settled(self, timeout=90):
        """Waits until it is Ready as in the spec, with every standby streaming; returns the status."""

        def look():
            seen = self.get() or {}
            status = seen.get("status") or {}
            problem = unsettled(seen, self.spec["instances"])
            if problem:
                raise Failed(f"{problem}; phase {status.get('phase')}")
            return status

        return wait_until(f"{self.name} is Ready with {self.spec['instances']} instances", look, timeout)

    @property
    def primary(self):
        """Name of the primary according to the status."""
        return self.status().get("primary")

    # Its containers, as Docker shows them

    def filters(self, member=None):
        """Docker filters for everything that belongs to it."""
        labels = {"kind": "PostgresCluster", "namespace": NAMESPACE, "name": self.name}
        if member:
            labels["member"] = member
        return [part for key, value in labels.items() for part in ("--filter", f"label=evenkeel.dev/{key}={value}")]

    def containers(self, member=None):
        """Ids of its containers, running or not."""
        return docker("ps", "-aq", "--no-trunc", *self.filters(member)).split()

    def container(self, member):
        """Id of the container of a member."""
        found = self.containers(member)
        if len(found) != 1:
            raise Failed(f"{member} has {len(found)} containers, not one")
        return found[0]

    def volumes(self, member=None):
        """Names of its volumes."""
        return docker("volume", "ls", "-q", *self.filters(member)).split()

    def started(self):
        """Start time of each container: {id: StartedAt}."""
        lines = docker("inspect", "-f", "{{.Id}} {{.State.StartedAt}}", *self.containers()).splitlines()
        return dict(line.split() for line in lines)

    def networks(self):
        """The cluster's network, for clients, and the one of its members, for replication."""
        return f"{NAMESPACE}.{self.name}", f"{NAMESPACE}.{self.name}_peers"

    def addresses(self, network=None):
        """The fixed address of each member on a network, that of clients if none is given: {name: address}."""
        return fixed_addresses(network or self.networks()[0], self.containers())

    def postmaster(self, member):
        """Process id, on this machine, of the member's postmaster."""
        return postmaster_of(self.container(member))

    # How to connect

    def secret(self):
        """The content of the Secret NAME-app, decoded."""
        data = json.loads(self.operator.cli("get", "secret", f"{self.name}-app", "-o", "json"))["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def uri(self, database=None):
        """A URI of all instances from the endpoints in the status, with the Secret's credentials; of another database if wanted."""
        endpoints = self.status().get("endpoints", {})
        hosts = sorted(endpoints.get("readWrite", []) + endpoints.get("readOnly", []))
        if not hosts:
            raise Failed(f"{self.name} has no endpoints")
        secret = self.secret()
        user, password = quote(secret["username"], safe=""), quote(secret["password"], safe="")
        return f"postgresql://{user}:{password}@{','.join(hosts)}/{database or secret['dbname']}?target_session_attrs=read-write"

    def clean(self):
        """Removes everything that belongs to it with Docker only, whatever the operator does."""
        networks = docker("network", "ls", "-q", *self.filters(), check=False).split()
        for container in docker("ps", "-aq", *self.filters(), check=False).split():
            docker("rm", "-fv", container, check=False)
        for volume in docker("volume", "ls", "-q", *self.filters(), check=False).split():
            docker("volume", "rm", "-f", volume, check=False)
        for network in networks:
            docker("network", "rm", network, check=False)

    def save(self, folder, log_from=0):
        """Saves the evidence of a failed test: the object, its events, the containers' logs, the operator's log."""
        folder.mkdir(parents=True, exist_ok=True)
        for file, arguments in {
            "object.json": ("get", "postgrescluster", self.name, "-o", "json"),
            "events.txt": ("events",),
            "describe.txt": ("describe", "postgrescluster", self.name),
        }.items():
            (folder / file).write_text(self.operator.cli_result(*arguments)[1], encoding="utf-8")
        (folder / "containers.txt").write_text(docker("ps", "-a", *self.filters(), check=False), encoding="utf-8")
        for container in docker("ps", "-a", "--format", "{{.Names}}", *self.filters(), check=False).split():
            log = subprocess.run(
                ["docker", "logs", "--timestamps", "--tail", "2000", container],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=60,
                check=False,
            )
            (folder / f"{container}.log").write_bytes(log.stdout)
        with open(self.operator.log, "rb") as log, open(folder / "operator.log", "wb") as kept:
            log.seek(log_from)
            shutil.copyfileobj(log, kept)


def fixed_addresses(network, containers):
    """The fixed address on a network of each member with one of these containers: {name: address}."""
    lines = docker(
        "inspect",
        "-f",
        '{{index .Config.Labels "evenkeel.dev/member"}} '
        f'{{{{with index .NetworkSettings.Networks "{network}"}}}}'
        "{{with .IPAMConfig}}{{.IPv4Address}}{{end}}{{end}}",
        *containers,
    ).splitlines()
    return dict(line.split() for line in lines if len(line.split()) == 2)


def unsettled(seen, instances):
    """Why an object is not settled with this many instances; empty if it is."""
    status = seen.get("status") or {}
    conditions = {c["type"]: c["status"] for c in status.get("conditions", [])}
    members = status.get("instances", [])
    roles = sorted(member["role"] for member in members)
    if conditions.get("Ready") != "True":
        return "it is not Ready"
    if status.get("observedGeneration") != seen["metadata"].get("generation"):
        return "the status speaks of an older generation"
    if conditions.get("Progressing") == "True":
        return "it is Progressing"
    if roles != ["primary"] + ["standby"] * (instances - 1):
        return f"the roles are {roles}"
    behind = [f"{m['name']} is {m['state']}" for m in members if m["role"] == "standby" and m["state"] != "streaming"]
    return ", ".join(behind)


def postmaster_of(container):
    """Process id, on this machine, of the postmaster in a container: the postgres whose parent is no postgres."""
    processes = {}
    for line in docker("top", container, "-eo", "pid,ppid,comm").splitlines()[1:]:
        pid, parent, name = line.split(None, 2)
        processes[int(pid)] = (int(parent), name.strip())
    servers = {pid for pid, (_, name) in processes.items() if name == "postgres"}
    roots = [pid for pid in servers if processes[pid][0] not in servers]
    if len(roots) != 1:
        raise Failed(f"found {len(roots)} postmasters in container {container[:12]}")
    return roots[0]


def kill_postmaster(pid):
    """kill -9 of one process of this machine."""
    os.kill(pid, signal.SIGKILL)


def start_operator(binary):
    """An operator in a new folder; remove the folder with `discard`."""
    return Operator(binary, tempfile.mkdtemp(prefix="evenkeel-e2e-")).start()


def discard(operator):
    """Stops an operator and removes its folder."""
    operator.stop()
    shutil.rmtree(operator.data.parent, ignore_errors=True)


def writer_for(uri, table, pause, acks=20):
    """A running writer with this many acknowledged rows behind it."""
    writing = client.Writer(uri, table=table, pause=pause).start()
    if not writing.wait_for_acks(acks, 30):
        writing.stop()
        raise Failed(f"the writer got no acknowledgements: {writing.errors[-1:] or writing.records[-1:]}")
    return writing
