"""A lab in which Evenkeel manages etcd: every host has an operator and its member of etcd, as a container of its Docker."""

import json
import time

from harness import Failed, Operator, wait_until
from lab import IMAGES, SECRET
from private_engine import remove_folder, within
from shared import Living, SharedLab

ETCD_IMAGE = "evenkeel-test/etcd:3.4"
CONTAINER = "evenkeel-etcd"


class ManagedLab(SharedLab):
    """Hosts, each with Docker, an operator and a member of etcd in a container there."""

    def begin(self, images=(*IMAGES, ETCD_IMAGE)):
        """As any lab, with the image of etcd on each host."""
        return super().begin(images)

    def start_operator(self):
        """Begins a cluster on the first host and lets the others join it. `took` has the seconds of each."""
        self.operator = Living(self)
        for name in self.names:
            self.operators[name] = self.made(name)
        first, *others = self.names
        self.took["cluster-init"] = self.started(first, "--cluster-init")
        for name in others:
            self.took[f"join of {name}"] = self.started(name, *self.join(self.operators[first]))
        self.apply(self.certificates.secret(SECRET, "operator"))
        for host in self.hosts.values():
            self.declare(host)
        wait_until("all hosts are Ready", self.all_ready, 30)

    def made(self, name):
        """An operator of a host, with an empty data directory."""
        folder = self.folder / f"operator-{name}"
        if folder.exists():
            remove_folder(folder)
        folder.mkdir(mode=0o700)
        one = Operator(self.binary, folder, within(self.network.netns(name)))
        one.env |= {"DOCKER_HOST": self.hosts[name].endpoint, "DOCKER_TLS_VERIFY": ""}
        one.address = self.network.nodes[name]
        one.options = ["--node", name]
        return one

    def started(self, name, *options):
        """Starts an operator with these options, and from then on without them; the seconds that it took to serve."""
        one = self.operators[name]
        one.options = ["--node", name, "--etcd-image", ETCD_IMAGE, *options]
        began = time.monotonic()
        one.start()
        one.options = ["--node", name]
        return time.monotonic() - began

    def status(self):
        """What `cluster status` says."""
        return json.loads(self.operator.cli("cluster", "status", "-o", "json"))

    def roles(self):
        """{node: what its member of etcd does}."""
        return {one["name"]: (one["etcd"] or {}).get("role") for one in self.status()["nodes"]}

    def redundant(self):
        """Whether three members work, so that one may be lost, and every node has an operator."""
        status = self.status()
        return status["tolerates"] == 1 and all(one["operator"] for one in status["nodes"])

    def wipe(self, name):
        """What `cluster remove` and `cluster reset` say is to be done on a machine: no etcd, no data directory."""
        host = self.hosts[name]
        host.docker("rm", "-f", CONTAINER, check=False)
        host.docker("volume", "rm", CONTAINER, check=False)
        self.operators[name] = self.made(name)

    def etcd_leader(self):
        """The host whose member leads etcd."""
        return next((name for name, role in self.roles().items() if role == "leader"), None)

    def etcdctl_at(self, endpoints, *words):
        """Asks members of etcd, with the certificate of an operator that lives."""
        pki = self.operator.any().data / "pki"
        files = (f"--cacert={pki}/etcd-ca.crt", f"--cert={pki}/etcd.crt", f"--key={pki}/etcd.key")
        return super().etcdctl_at(endpoints.replace("http://", "https://"), *files, *words)

    def power_off(self, name):
        """Takes the power of a host, with everything that runs there."""
        self.hosts[name].power_off()
        self.operators[name].kill()

    def clear(self):
        """A lab whose scenario failed may have lost its etcd."""
        raise Failed("a lab with an etcd of Evenkeel's is made anew after a failure")
