"""Three Patronis with their PostgreSQL, over three members of etcd, on loopback ports and without Docker: what they cost idle."""

import json
import pathlib
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request

from harness import Failed, free_port, wait_until

NAMES = ("p1", "p2", "p3")
AS_POSTGRES = ("setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups")
# Patroni's own defaults, written down.
DEFAULTS = {"ttl": 30, "loop_wait": 10, "retry_timeout": 10}


class Patroni:
    """The three of them, settled while they are entered. `groups`: {name: [pids]} of each Patroni and each member of etcd."""

    def __enter__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="evenkeel-bench-patroni-", dir="/var/tmp"))
        self.folder.chmod(0o755)  # the user postgres has its folders below
        self.processes, self.groups = {}, {}
        try:
            self.start_etcd()
            self.start_patroni()
            wait_until("Patroni has a primary and two standbys that stream", self.settled, 120)
        except BaseException:
            self.__exit__()
            raise
        return self

    def run(self, name, *command):
        """Starts a program whose output goes to a log."""
        with open(self.log(name), "w", encoding="utf-8") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder)
        self.processes[name] = process
        self.groups[name] = [process.pid]

    def log(self, name):
        """The log of a program."""
        return self.folder / f"{name}.log"

    def start_etcd(self):
        """Three members, as the lab has."""
        peers = {name: f"http://127.0.0.1:{free_port()}" for name in NAMES}
        self.clients = {name: f"127.0.0.1:{free_port()}" for name in NAMES}
        for name in NAMES:
            client = f"http://{self.clients[name]}"
            options = {
                "name": name,
                "data-dir": self.folder / f"etcd-{name}",
                "listen-peer-urls": peers[name],
                "initial-advertise-peer-urls": peers[name],
                "listen-client-urls": client,
                "advertise-client-urls": client,
                "initial-cluster": ",".join(f"{one}={url}" for one, url in peers.items()),
                "heartbeat-interval": 50,
                "election-timeout": 500,
            }
            self.run(f"etcd of {name}", "etcd", *(f"--{key}={value}" for key, value in options.items()))

    def start_patroni(self):
        """One a name, with the defaults."""
        self.apis = {}
        programs = max(pathlib.Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parts[-2]))
        for name in NAMES:
            folder, api, port = self.folder / name, f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
            self.apis[name] = api
            folder.mkdir(mode=0o700)
            settings = {
                "scope": "bench",
                "name": name,
                "restapi": {"listen": api, "connect_address": api},
                "etcd3": {"hosts": list(self.clients.values())},
                "bootstrap": {
                    "dcs": DEFAULTS,
                    "initdb": [{"encoding": "UTF8"}, {"locale": "C"}],
                    "pg_hba": ["host all all 127.0.0.1/32 trust", "host replication all 127.0.0.1/32 trust"],
                },
                "postgresql": {
                    "listen": port,
                    "connect_address": port,
                    "data_dir": str(folder / "data"),
                    "bin_dir": str(programs),
                    "pgpass": str(folder / "pgpass"),
                    "authentication": {"superuser": {"username": "postgres"}, "replication": {"username": "replicator"}},
                    "parameters": {"unix_socket_directories": str(folder)},
                },
            }
            file = folder / "patroni.yml"
            file.write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML, too
            for path in (folder, file):
                shutil.chown(path, "postgres", "postgres")
            self.run(f"Patroni of {name}", *AS_POSTGRES, "patroni", str(file))

    def settled(self):
        """Whether one leads and the others follow it, as they say."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                last = self.log(name).read_text(encoding="utf-8", errors="replace")[-2000:]
                raise SystemExit(f"{name} has ended with {process.returncode}:\n{last}")
        try:
            with urllib.request.urlopen(f"http://{self.apis[NAMES[0]]}/cluster", timeout=2) as answer:
                members = json.load(answer)["members"]
        except (urllib.error.URLError, OSError, ValueError, KeyError) as problem:
            raise Failed(f"Patroni does not answer: {problem}") from problem
        return sorted((one["role"], one["state"]) for one in members) == [("leader", "running")] + [("replica", "running")] * 2

    def __exit__(self, *_):
        # Patroni ends its PostgreSQL, and needs etcd for it.
        for process in reversed(self.processes.values()):
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
