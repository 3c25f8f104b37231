"""Patroni of the distribution on the hosts of a lab, over the lab's etcd: what an idle Evenkeel is compared with."""

import json
import pathlib
import pwd
import shutil
import subprocess

from harness import run, wait_until
from private_engine import within

BIN = "/usr/lib/postgresql/15/bin"
PORTS = {"postgres": 15432, "rest": 18008}


class Patroni:
    """Three members with their default times, each in the namespace of a host."""

    def __init__(self, lab):
        self.lab = lab
        self.folder = lab.folder / "patroni"
        self.started = {}

    def settings(self, name):
        """The configuration of a member; YAML that is JSON."""
        address = self.lab.network.nodes[name]
        users = {role: {"username": role, "password": "bench"} for role in ("replication", "superuser")}
        users["superuser"]["username"] = "postgres"
        return {
            "scope": "bench",
            "name": name,
            "restapi": {"listen": f"{address}:{PORTS['rest']}", "connect_address": f"{address}:{PORTS['rest']}"},
            "etcd3": {"hosts": [f"{one}:2379" for one in self.lab.network.nodes.values() if one in self.etcd()]},
            "bootstrap": {
                "dcs": {"ttl": 30, "loop_wait": 10, "retry_timeout": 10, "synchronous_mode": True},
                "initdb": [{"encoding": "UTF8"}],
                "pg_hba": ["host all all 10.99.0.0/24 md5", "host replication all 10.99.0.0/24 md5"],
            },
            "postgresql": {
                "listen": f"{address}:{PORTS['postgres']}",
                "connect_address": f"{address}:{PORTS['postgres']}",
                "data_dir": str(self.folder / name / "data"),
                "bin_dir": BIN,
                "authentication": users,
                "parameters": {"unix_socket_directories": str(self.folder / name)},
            },
        }

    def etcd(self):
        """Addresses of the members of etcd."""
        return [self.lab.network.nodes[name] for name in self.lab.names]

    def start(self):
        """Starts all members and waits until they stream."""
        postgres = pwd.getpwnam("postgres")
        for parent in (self.lab.folder, *self.folder.parents):
            if parent.is_relative_to("/var/tmp") and parent != pathlib.Path("/var/tmp"):
                parent.chmod(0o711)
        for name in self.lab.names:
            folder = self.folder / name
            folder.mkdir(parents=True)
            (folder / "patroni.yml").write_text(json.dumps(self.settings(name)), encoding="utf-8")
            for path in (self.folder, folder, folder / "patroni.yml"):
                shutil.chown(path, postgres.pw_uid, postgres.pw_gid)
            log = open(folder / "log", "w", encoding="utf-8")
            command = ["setpriv", f"--reuid={postgres.pw_uid}", f"--regid={postgres.pw_gid}", "--clear-groups"]
            command = [*within(self.lab.network.netns(name)), *command, "patroni", str(folder / "patroni.yml")]
            self.started[name] = subprocess.Popen(command, stdout=log, stderr=log, cwd="/", start_new_session=True)
        wait_until("Patroni has a leader and two replicas", self.streams, 90, poll=1)

    def streams(self):
        """Whether two replicas stream."""
        address = self.lab.network.nodes[self.lab.names[0]]
        command = ["curl", "-s", f"http://{address}:{PORTS['rest']}/cluster"]
        told = run(*within(self.lab.network.netns("op")), *command, check=False)
        members = json.loads(told or "{}").get("members", [])
        return len([one for one in members if one["state"] in ("running", "streaming")]) == 3

    def processes(self):
        """{name: pids}: Patroni itself, and etcd."""
        own = {f"Patroni of {name}": [one.pid] for name, one in self.started.items()}
        return own | {f"etcd of {name}, Patroni": [one.process.pid] for name, one in self.lab.members.items()}

    def stop(self):
        """Ends them and their servers."""
        for one in self.started.values():
            one.terminate()
        for one in self.started.values():
            try:
                one.wait(20)
            except subprocess.TimeoutExpired:
                one.kill()
