"""Several Docker hosts on one machine: h1, h2, ... , clients' nodes c1 and c2, and the operator's node op, on one network."""

import fcntl
import json
import os
import pathlib
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from certificates import Certificates
from harness import Failed, Operator, run, wait_until
from host import Host, Images, remove_cgroups
from network import SUBNET, Network, namespaces_of
from private_engine import NAMESPACES, enter, kill_all, processes, remove_folder, within

ROOM = pathlib.Path("/var/tmp")  # a real filesystem: Docker's layers need one
IMAGES = ("postgres:15", "haproxy:2.6", "redis:7", "evenkeel-test/web:1")
SECRET = "docker-client"
FIRST = 11  # last byte of the first host's address
OTHERS = {"c1": "10.99.0.101", "c2": "10.99.0.102", "op": "10.99.0.201"}
KINDS = ("deployments", "loadbalancers", "postgresclusters", "redissentinels", "redisclusters")
LABELS = ("kind", "namespace", "name", "member", "container")


class Lab:
    """Hosts, network and operator. `begin` moves this process into the client's node. Only one lab of a name can run."""

    def __init__(self, binary, hosts=3, name="evenkeel-lab"):
        self.binary, self.name = binary, name
        self.folder = ROOM / name
        self.lock = open(ROOM / f"{name}.lock", "w", encoding="ascii")
        names = [f"h{number}" for number in range(1, hosts + 1)]
        addresses = {host: f"{SUBNET}{FIRST + place}" for place, host in enumerate(names)}
        self.network = Network(name, {**addresses, **OTHERS})
        self.names = names
        self.hosts = {}
        self.operator = self.images = self.certificates = None
        self.openssl = ()  # words in front of openssl
        self.origin = os.open("/proc/self/ns/net", os.O_RDONLY)
        self.took = {}

    def __getitem__(self, name):
        """The host of this name."""
        return self.hosts[name]

    # Begin and end

    def begin(self, images=IMAGES):
        """Makes everything, on a machine where a former run may have left something."""
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as taken:
            raise SystemExit(f"a lab named {self.name} is running") from taken
        self.sweep()
        began = time.monotonic()
        self.folder.mkdir(mode=0o700)
        self.network.begin()
        self.certificates = Certificates(self.folder / "pki", self.openssl)
        for name in self.names:
            self.certificates.issue(name, "server", self.network.nodes[name])
        self.certificates.issue("operator", "client")
        self.images = Images(images)
        self.images.ensure(self.folder / "images", self.network.netns(self.names[0]))
        self.took["images"] = time.monotonic() - began
        self.hosts = {name: Host(self, name) for name in self.names}
        self.each(lambda host: (host.install(), host.boot()))
        self.took["hosts"] = time.monotonic() - began
        enter(NAMESPACES / self.network.netns("c1"))
        self.start_operator()
        self.took["operator"] = time.monotonic() - began
        return self

    def add(self):
        """One more host."""
        name = f"h{len(self.names) + 1}"
        self.network.add(name, f"{SUBNET}{FIRST + len(self.names)}")
        self.certificates.issue(name, "server", self.network.nodes[name])
        host = self.hosts[name] = Host(self, name)
        host.install()
        host.boot()
        self.names.append(name)
        self.declare(host)
        wait_until(f"{name} is Ready", self.all_ready, 30)
        return host

    def drop(self, host):
        """Ends `add`."""
        self.operator.cli("delete", "dockerhost", host.name)
        host.kill_everything()
        self.network.drop(host.name)
        self.names.remove(host.name)
        self.hosts.pop(host.name)

    def start_operator(self):
        """Starts the operator in its node and declares the hosts."""
        self.operator = Operator(self.binary, self.folder, within(self.network.netns("op")))
        # With these it declares no host `local`, which would be the machine's own engine.
        self.operator.env |= {"DOCKER_HOST": "tcp://192.0.2.1:2376", "DOCKER_TLS_VERIFY": "1"}
        self.operator.start()
        self.apply(self.certificates.secret(SECRET, "operator"))
        for host in self.hosts.values():
            self.declare(host)
        wait_until("all hosts are Ready", self.all_ready, 30)

    def apply(self, manifest):
        """Applies an object."""
        self.operator.cli("apply", "-f", "-", text=json.dumps(manifest))

    def declare(self, host, **fields):
        """Declares a host, with these fields of the spec beside the usual ones."""
        tls = {"secretName": SECRET}
        spec = {"endpoint": host.reached, "tls": tls, "address": host.address, **fields}
        kind = {"apiVersion": "evenkeel.dev/v1alpha1", "kind": "DockerHost"}
        self.apply({**kind, "metadata": {"name": host.name}, "spec": spec})

    def condition(self, name, kind):
        """The status of a host's condition; None if there is none."""
        found = json.loads(self.operator.cli("get", "dockerhost", name, "-o", "json"))
        conditions = (found.get("status") or {}).get("conditions", [])
        return next((one["status"] for one in conditions if one["type"] == kind), None)

    def ready(self):
        """{host: whether it is Ready}, as the operator says."""
        listed = json.loads(self.operator.cli("get", "dockerhosts", "-o", "json"))["items"]
        conditions = {one["metadata"]["name"]: (one.get("status") or {}).get("conditions", []) for one in listed}
        return {name: any(c["type"] == "Ready" and c["status"] == "True" for c in seen) for name, seen in conditions.items()}

    def all_ready(self):
        """Whether the operator knows exactly the lab's hosts, and all are Ready."""
        return self.ready() == dict.fromkeys(self.names, True)

    def each(self, act, hosts=None):
        """Does something on all hosts at once. Returns the results by host."""
        chosen = hosts or list(self.hosts.values())
        with ThreadPoolExecutor(len(chosen)) as pool:
            return dict(zip((host.name for host in chosen), pool.map(act, chosen)))

    def stop(self):
        """Removes everything that this lab made."""
        if self.operator:
            self.operator.kill()
        enter(self.origin)
        self.sweep()
        self.network.remove()
        self.lock.close()
        (ROOM / f"{self.name}.lock").unlink(missing_ok=True)

    def sweep(self):
        """Removes everything that has this lab's name: processes, mounts, control groups, namespaces, files."""
        marks = (f"{self.folder}/", f"cable.py\0{self.name}\0")

        def ours(entry):
            words = (entry / "cmdline").read_bytes().decode(errors="replace")
            groups = (entry / "cgroup").read_text(encoding="utf-8")
            return any(mark in words for mark in marks) or f"/{self.name}-h" in groups

        wait_until("no process of the lab is left", lambda: not kill_all(processes(ours)), 20, poll=0.02)
        for number in range(1, 10):
            remove_cgroups(f"{self.name}-h{number}")
        for path in namespaces_of(self.name):
            run("ip", "netns", "del", path.name, check=False)
        remove_folder(self.folder)

    # Between scenarios

    def heal(self):
        """Ends every fault: network whole, hosts on, engines and operator run."""
        self.network.heal()
        for host in self.hosts.values():
            host.thaw_dockerd()
            if host.replaced:
                host.restore_engine()
            elif not host.on:
                host.power_on()
            elif not host.running():
                host.start()
        for name in list(self.network.off):
            self.network.join(name)
        self.revive()
        wait_until("all hosts are Ready again", self.all_ready, 60)

    def clear(self):
        """After a failed scenario: heals, deletes every object and removes what is left on the engines."""
        self.heal()
        for kind in KINDS:
            for name in self.operator.cli("get", kind, "-o", "name").split():
                self.operator.cli("delete", kind, name.rpartition("/")[2], "--wait=false")
        self.each(Host.clean)
        wait_until("every object is gone", lambda: not any(self.operator.cli("get", k, "-o", "name") for k in KINDS), 60)

    def places(self):
        """{identity of a managed container: hosts that have it, running or not}, of hosts with power."""
        form = "\t".join(f'{{{{.Label "evenkeel.dev/{label}"}}}}' for label in LABELS)
        command = ("ps", "-a", "--filter", "label=evenkeel.dev/kind", "--format", form)
        on = [host for host in self.hosts.values() if host.on and host.running()]
        found = {}
        for name, text in self.each(lambda host: host.docker(*command), on).items():
            for line, count in Counter(text.splitlines()).items():
                found.setdefault(line.replace("\t", "/"), []).extend([name] * count)
        return found

    def nothing_twice(self, timeout=60):
        """Waits until no container of an object is on two hosts under one identity. Each host has its own that fills the binary's
        volume; a leader that ends meanwhile leaves it there for the next fill."""

        def look():
            of_objects = {what: hosts for what, hosts in self.places().items() if not what.startswith("Binary/")}
            twice = {what: hosts for what, hosts in of_objects.items() if len(hosts) > 1}
            if twice:
                raise Failed(f"{twice}")
            return True

        wait_until("nothing is on two hosts under one identity", look, timeout)

    def revive(self):
        """Starts the operator if it has ended."""
        if self.operator.process.poll() is not None:
            self.operator.start()

    def logs(self):
        """{name: log} of the operators."""
        return {"operator": self.operator.log}

    def save(self, folder):
        """Saves the evidence of a failed scenario."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "network.json").write_text(self.network.told(), encoding="utf-8")
        for file, arguments in {"objects.txt": ("get", "all"), "events.txt": ("events",)}.items():
            (folder / file).write_text(self.operator.cli_result(*arguments)[1], encoding="utf-8")
        for kind in (*KINDS, "dockerhosts", "portreservations"):
            text = self.operator.cli_result("get", kind, "-A", "-o", "yaml")[1]
            (folder / f"{kind}.yaml").write_text(text, encoding="utf-8")
        for name, log in self.logs().items():
            (folder / f"{name}.log").write_bytes(log.read_bytes()[-2_000_000:])
        for host in self.hosts.values():
            log = host.log.read_bytes()[-200_000:]
            (folder / f"dockerd-{host.name}.log").write_bytes(log)
            if not host.running():
                continue
            listed = host.docker("ps", "-a", "--no-trunc", check=False)
            (folder / f"containers-{host.name}.txt").write_text(listed, encoding="utf-8")
            for container in host.managed():
                text = run("sh", "-c", f"docker -H {host.endpoint} logs -t --tail 2000 {container} 2>&1", check=False)
                (folder / f"{host.name}-{container}.log").write_text(text, encoding="utf-8")
