"""Plain Sentinel, for comparison: a master, two replicas and three Sentinels of the same image, started by hand."""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import redis
import redis_client
from harness import Failed, docker, wait_until

LABEL = "evenkeel-bench"
SUBNET = "10.213.77"
MASTER_NAME = "mymaster"
DOWN_AFTER = 5000  # milliseconds
PERSISTENCE = {"aof": ["appendonly yes"], "none": ["save ''", "appendonly no"]}


class Group:
    """Data members 1 to 3 and Sentinels 1 to 3, each with a fixed address."""

    def __init__(self, image, persistence="aof"):
        self.image, self.persistence = image, persistence
        self.name = f"{LABEL}-{os.getpid()}"
        docker("network", "create", "--label", LABEL, "--subnet", f"{SUBNET}.0/24", self.name)
        for number in (1, 2, 3):
            self.member(number, None if number == 1 else 1)
        for number in (1, 2, 3):
            self.run(
                f"s{number}", 20 + number, "sh", "-c",
                f"printf 'sentinel monitor {MASTER_NAME} {SUBNET}.11 6379 2\\n"
                f"sentinel down-after-milliseconds {MASTER_NAME} {DOWN_AFTER}\\n' > sentinel.conf && "
                "exec redis-server sentinel.conf --sentinel --protected-mode no",
            )  # fmt: skip
        self.secret = {
            "sentinels": ",".join(f"{SUBNET}.{20 + number}:26379" for number in (1, 2, 3)),
            "masterName": MASTER_NAME,
        }

    def run(self, name, address, *command):
        """Starts a container."""
        place = ["--label", LABEL, "--network", self.name, "--ip", f"{SUBNET}.{address}"]
        docker("run", "-d", "--init", *place, "--name", self.container(name), self.image, *command)

    def container(self, name):
        """Docker's name of a member."""
        return f"{self.name}-{name}"

    def member(self, number, master):
        """Starts a data member; without a master it is one."""
        lines = ["protected-mode no", "repl-diskless-sync-delay 0", *PERSISTENCE[self.persistence]]
        lines += [f"replicaof {SUBNET}.{10 + master} 6379"] if master else []
        # Its own file, which Sentinel has rewritten at each change of its role: a restart comes back in its last role.
        self.run(
            str(number), 10 + number, "sh", "-c",
            "test -e redis.conf || printf '%s\\n' \"$@\" > redis.conf; exec redis-server redis.conf", "sh", *lines,
        )  # fmt: skip

    def at(self, number):
        """A client of a data member."""
        return redis_client.at(f"{SUBNET}.{10 + number}:6379", self.secret)

    def sentinel(self, number=1):
        """A client of a Sentinel."""
        return redis_client.at(f"{SUBNET}.{20 + number}:26379", self.secret)

    def views(self):
        """Each Sentinel's (master, replicas, peers)."""
        found = [self.sentinel(number).sentinel_masters()[MASTER_NAME] for number in (1, 2, 3)]
        return [(int(one["ip"].split(".")[-1]) - 10, one["num-slaves"], one["num-other-sentinels"]) for one in found]

    def settled(self, timeout=60):
        """Waits until the Sentinels agree and both replicas are in sync; returns the number of the master."""

        def look():
            try:
                views = self.views()
                if views != [(views[0][0], 2, 2)] * 3:
                    raise Failed(f"the views are {views}")
                for number in {1, 2, 3} - {views[0][0]}:
                    info = self.at(number).info("replication")
                    if info["role"] != "slave" or info["master_link_status"] != "up" or info["master_sync_in_progress"]:
                        raise Failed(f"member {number} is not in sync")
            except (redis.RedisError, KeyError) as problem:
                raise Failed(str(problem)) from problem
            return views[0][0]

        return wait_until("the plain Sentinels agree", look, timeout)

    def replace(self, number):
        """A new, empty container for a member that died: a replica of the master."""
        master = wait_until("the plain Sentinels chose another", lambda: self.views()[0][0] != number and self.views()[0][0], 60)
        docker("rm", "-fv", self.container(number))
        self.member(number, master)

    def remove(self):
        """Removes everything."""
        for container in docker("ps", "-aq", "--filter", f"network={self.name}", check=False).split():
            docker("rm", "-fv", container, check=False)
        docker("network", "rm", self.name, check=False)
