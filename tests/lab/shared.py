"""A lab in which every host has an operator and a member of etcd, beside its Docker: any of them may be lost at any moment."""

import base64
import json
import shutil
import subprocess
import time

from harness import Failed, Operator, run, wait_until
from lab import SECRET, Lab
from private_engine import remove_folder, within

PREFIX = "/evenkeel/v1/"
LEADER = PREFIX + "!leader"
ETCD_LOG = "etcd.log"


class Member:
    """One member of etcd, in the namespace of a host."""

    def __init__(self, lab, name):
        self.lab, self.name = lab, name
        self.address = lab.network.nodes[name]
        self.folder = lab.folder / f"etcd-{name}"
        self.process = None

    def start(self):
        """Starts it; the first time with the other members as a new cluster."""
        self.folder.mkdir(exist_ok=True)
        cluster = ",".join(f"{one}=http://{self.lab.network.nodes[one]}:2380" for one in self.lab.names)
        peer, client = f"http://{self.address}:2380", f"http://{self.address}:2379"
        options = {
            "name": self.name,
            "data-dir": self.folder / "data",
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "initial-cluster": cluster,
            "initial-cluster-state": "new",
            "logger": "zap",
            # For machines in one room.
            "heartbeat-interval": 50,
            "election-timeout": 500,
            # The default of 3.5: a member that comes back makes no election.
            "pre-vote": "true",
        }
        words = [f"--{name}={value}" for name, value in options.items()]
        with open(self.folder / ETCD_LOG, "a", encoding="utf-8") as log:
            command = [*within(self.lab.network.netns(self.name)), "etcd", *words]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def kill(self):
        """kill -9."""
        self.process.kill()
        self.process.wait()


class SharedLab(Lab):
    """Hosts, each with Docker, an operator and a member of etcd."""

    member = Member

    def __init__(self, binary, hosts=3, name="evenkeel-lab"):
        super().__init__(binary, hosts, name)
        self.operators, self.members = {}, {}
        self.away = set()  # hosts that no command goes to, because they are cut off or frozen

    def env(self, name):
        """Variables of an operator beside what it needs."""
        return {}

    @property
    def endpoints(self):
        """The addresses of etcd."""
        return ",".join(f"http://{self.network.nodes[name]}:2379" for name in self.names)

    def start_operator(self):
        """Starts etcd and the operators, and declares the hosts. `operator` is any that lives."""
        for name in self.names:
            self.members[name] = self.member(self, name)
            self.members[name].start()
        wait_until("etcd has a leader", self.etcd_leader, 30)
        for name in self.names:
            folder = self.folder / f"operator-{name}"
            folder.mkdir(mode=0o700)
            one = self.operators[name] = Operator(self.binary, folder, within(self.network.netns(name)))
            one.env |= {"DOCKER_HOST": "tcp://192.0.2.1:2376", "DOCKER_TLS_VERIFY": "1", **self.env(name)}
            one.address = self.network.nodes[name]
        self.share(self.names[0])
        self.operator = Living(self)
        self.apply(self.certificates.secret(SECRET, "operator"))
        for host in self.hosts.values():
            self.declare(host)
        wait_until("all hosts are Ready", self.all_ready, 30)

    @property
    def first_options(self):
        """What the operator is told that begins to share a store."""
        return ["--etcd-endpoints", self.endpoints]

    def share(self, first):
        """The operator of this host begins to share a store, and the others join it."""
        self.took[f"start of {first}"] = self.started(first, *self.first_options)
        for name in self.names:
            if name != first:
                self.took[f"join of {name}"] = self.started(name, *self.join(self.operators[first]))

    def started(self, name, *options):
        """Starts an operator with these options, and from then on without them; the seconds that it took to serve."""
        one = self.operators[name]
        one.options = ["--node", name, *options]
        began = time.monotonic()
        one.start()
        # What it was told is in its data directory now.
        one.options = ["--node", name]
        return time.monotonic() - began

    def join(self, one):
        """What the next operators are told, so that they join this one."""
        file = self.folder / "join-token"
        file.touch(mode=0o600)
        file.write_text(one.cli("cluster", "token"), encoding="utf-8")
        return ["--join", f"{one.address}:{one.port}", "--token-file", str(file)]

    def lose_etcd(self):
        """All members of etcd end and lose their data; an empty etcd takes their place."""
        for member in self.members.values():
            member.kill()
            shutil.rmtree(member.folder / "data")
        for member in self.members.values():
            member.start()
        wait_until("the new etcd has a leader", self.etcd_leader, 30)

    def lose_data(self, name):
        """The operator of a host, which does not run, loses its data directory."""
        remove_folder(self.operators[name].data)

    def prepare_restore(self, _first):
        """What has to be done on the first host before the store is restored there, but for an empty etcd: nothing."""

    def start_restored(self, _first):
        """Starts the operators after the store was restored on the first host."""
        self.revive()

    def power_off(self, name):
        """Takes the power of a host, with everything that runs there."""
        self.hosts[name].power_off()
        self.operators[name].kill()
        self.members[name].kill()

    def revive(self):
        """Starts the members of etcd and the operators that have ended."""
        self.away.clear()
        for one in self.members.values():
            if one.process.poll() is not None:
                one.start()
        for one in self.operators.values():
            if one.process.poll() is not None:
                one.start()

    def logs(self):
        """{name: log} of the operators and of etcd."""
        members = {f"etcd-{name}": one.folder / ETCD_LOG for name, one in self.members.items()}
        return {f"operator-{name}": one.log for name, one in self.operators.items()} | members

    def etcdctl(self, *words):
        """Asks any member of etcd."""
        return self.etcdctl_at(self.endpoints, *words)

    def etcdctl_at(self, endpoints, *words):
        """Asks these members of etcd."""
        command = ["etcdctl", "--endpoints", endpoints, "--command-timeout=1s", "--dial-timeout=500ms", *words]
        return run(*within(self.network.netns("op")), "env", "ETCDCTL_API=3", *command, timeout=10)

    def etcd_leader(self):
        """The host whose member leads etcd."""
        for name in self.names:
            one = f"http://{self.network.nodes[name]}:2379"
            try:
                status = self.etcd_status(one)
            except (Failed, ValueError, KeyError, IndexError):
                continue
            if status["leader"] == status["header"]["member_id"]:
                return name
        return None

    def etcd_status(self, endpoint):
        """What a member of etcd says of itself."""
        return json.loads(self.etcdctl_at(endpoint, "endpoint", "status", "-w", "json"))[0]["Status"]

    def move_etcd(self, name):
        """Makes the member of this host the leader of etcd; an operator that leads there moves it away again, some time later."""

        def look():
            leader = self.etcd_leader()
            if leader not in (None, name):
                wanted = self.etcd_status(f"http://{self.network.nodes[name]}:2379")["header"]["member_id"]
                self.etcdctl_at(f"http://{self.network.nodes[leader]}:2379", "move-leader", format(wanted, "x"))
                leader = self.etcd_leader()
            return leader == name

        wait_until(f"{name} leads etcd", look, 20)

    def leader(self):
        """(the host whose operator leads, its epoch); None while nobody does."""
        told = json.loads(self.etcdctl("get", LEADER, "-w", "json"))
        found = told.get("kvs")
        if not found:
            return None
        return json.loads(base64.b64decode(found[0]["value"]))["node"], found[0]["create_revision"]

    def move_leadership(self, name):
        """Makes the operator of this host lead: each other one that leads is stopped and started again."""

        def look():
            lead = self.leader()
            if lead and lead[0] != name:
                self.operators[lead[0]].stop()
                lead = self.leads_after(lead)
                self.revive()
            return lead and lead[0] == name

        wait_until(f"the operator of {name} leads", look, 60)

    def leads_after(self, old, within_seconds=20):
        """Waits until another leadership has begun; returns (the host, the seconds since now)."""
        began = time.monotonic()

        def look():
            now = self.leader()
            return now if now and now[1] > old[1] else None

        host, _ = wait_until("another operator leads", look, within_seconds, poll=0.02)
        return host, time.monotonic() - began

    def stop(self):
        """Ends everything."""
        for one in self.operators.values():
            one.stop()
        for one in self.members.values():
            if one.process is not None and one.process.poll() is None:
                one.kill()
        super().stop()


class Living:
    """The operators as one: a command goes to any that lives."""

    def __init__(self, lab):
        self.lab = lab
        self.env = {}

    def __getattr__(self, name):
        return getattr(self.any(), name)

    def any(self):
        """An operator whose process runs, on a host that has power and can be reached."""
        for name, one in self.lab.operators.items():
            if self.lab.hosts[name].on and one.process.poll() is None and name not in self.lab.away:
                return one
        raise Failed("no operator lives")

    def cli(self, *arguments, **how):
        """Runs `evenkeel` against one of them."""
        return self.any().cli(*arguments, **how)

    def stop(self):
        """Ends all of them."""
        for one in self.lab.operators.values():
            one.stop()

    def kill(self):
        """kill -9 of all of them."""
        for one in self.lab.operators.values():
            one.kill()
