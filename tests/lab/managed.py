"""A lab in which Evenkeel manages etcd: every host has an operator and its member of etcd, as a container of its Docker."""

import json
from pathlib import Path

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
        """Begins a cluster on the first host and lets the others join it."""
        self.operator = Living(self)
        for name in self.names:
            self.operators[name] = self.made(name)
        self.share(self.names[0])
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

    @property
    def first_options(self):
        """It runs etcd."""
        return ["--cluster-init"]

    def started(self, name, *options):
        """As in any lab; its etcd is of the image on the hosts."""
        return super().started(name, "--etcd-image", ETCD_IMAGE, *options)

    def lose_etcd(self):
        """Nothing of etcd is left on any host."""
        for name in self.names:
            self.remove_etcd(name)

    def remove_etcd(self, name):
        """Removes the member of a host with its data."""
        self.hosts[name].docker("rm", "-f", CONTAINER, check=False)
        self.hosts[name].docker("volume", "rm", CONTAINER, check=False)

    def lose_data(self, name):
        """The operator of a host, which does not run, loses its data directory."""
        self.operators[name] = self.made(name)

    def prepare_restore(self, first):
        """Only the key of the Secrets is kept of the first host's data directory."""
        key = Path("pki", "secrets.key")
        kept = (self.operators[first].data / key).read_bytes()
        self.lose_data(first)
        file = self.operators[first].data / key
        file.parent.mkdir(mode=0o700, parents=True)
        file.touch(mode=0o600)
        file.write_bytes(kept)

    def start_restored(self, first):
        """A new etcd begins on the first host; the others are wiped and join."""
        for name in self.names:
            if name != first:
                self.lose_data(name)
        self.share(first)

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
        self.remove_etcd(name)
        self.lose_data(name)

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
