"""A RedisSentinel and a RedisCluster by the command line, their containers as Docker shows them, and writes around a disturbance."""

import base64
import json
import os
import shutil
import signal
import ssl

import client
import redis
import redis_client
from harness import NAMESPACE, Failed, docker, fixed_addresses, wait_until
from objects import Object

REDIS = "redis:7"
VALKEY = "valkey/valkey:8"
SERVERS = {"redis-server", "valkey-server"}
WRITE_PAUSE = 0.005  # seconds between two numbers: leaves CPU time for the failover
AFTER = 50  # numbers that must be acknowledged after a disturbance


def servers_of(container):
    """Process ids, on this machine, of the Redis servers in a container."""
    lines = [line.split(None, 1) for line in docker("top", container, "-eo", "pid,comm").splitlines()[1:]]
    return [int(pid) for pid, name in lines if name.strip() in SERVERS]


def kill_servers(container, number=signal.SIGKILL):
    """A signal to the Redis server in a container, by default kill -9."""
    found = servers_of(container)
    if not found:
        raise Failed(f"no Redis server runs in {container}")
    for pid in found:
        os.kill(pid, number)


def certificate_of(address):
    """What a server shows; None while it is down."""
    try:
        return ssl.get_server_certificate(redis_client.address_of(address), timeout=1)
    except OSError:
        return None


class RedisObject(Object):
    """Redis servers of one object, each a member with a container and a volume."""

    api_version = "evenkeel.dev/v1alpha1"

    @property
    def spec(self):
        """The spec that is applied."""
        return self.manifest["spec"]

    def change(self, **spec):
        """Changes fields of the spec and applies it."""
        self.spec.update(spec)
        return self.apply()

    def container(self, member, name=None):
        """Docker's name of a member's container."""
        return f"{NAMESPACE}.{member}"

    def volumes(self, member=None):
        """Names of its volumes."""
        return docker("volume", "ls", "-q", *self.filters(member)).split()

    def secret(self):
        """The content of the Secret NAME-app, decoded."""
        data = json.loads(self.operator.cli("get", "secret", f"{self.name}-app", "-o", "json"))["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def uri(self):
        """The address and port of each data member: {name: "ADDRESS:PORT"}."""
        return {one["name"]: one["address"] for one in self.status().get("members", []) if one.get("address")}

    def at(self, member):
        """A client of one member."""
        return redis_client.at(self.uri()[member], self.secret())

    def writer(self, table, pause=WRITE_PAUSE, acks=20, host=None):
        """A running writer with this many acknowledged numbers behind it."""
        writing = redis_client.Writer(self.client(), table, pause, host).start()
        if not writing.wait_for_acks(acks, 30):
            writing.stop()
            raise Failed(f"the writer got no acknowledgements: {writing.errors[-1:]}")
        return writing

    def clean(self):
        """Removes everything that belongs to it with Docker only."""
        networks = docker("network", "ls", "-q", *self.filters(), check=False).split()
        super().clean()
        for network in networks:
            docker("network", "rm", network, check=False)

    def save(self, folder, log_from=0):
        """Saves the evidence of a failed test, with the operator's log from this place on."""
        super().save(folder)
        (folder / "events.txt").write_text(self.operator.cli_result("events")[1], encoding="utf-8")
        with open(self.operator.log, "rb") as log, open(folder / "operator.log", "wb") as kept:
            log.seek(log_from)
            shutil.copyfileobj(log, kept)


class RedisSentinel(RedisObject):
    """One RedisSentinel with three members and three Sentinels."""

    kind = "RedisSentinel"

    def __init__(self, operator, name, image=REDIS, **spec):
        super().__init__(operator, name)
        self.manifest["spec"] = {"image": image, "replicas": 3, "sentinels": 3, **spec}

    def unsettled(self, seen):
        """Whether it is Ready with one master, replicas in sync, and Sentinels that agree."""
        status = seen.get("status") or {}
        conditions = {c["type"]: c["status"] for c in status.get("conditions", [])}
        members, sentinels = status.get("members", []), status.get("sentinels", [])
        if conditions.get("Ready") != "True" or conditions.get("Progressing") == "True":
            return f"phase {status.get('phase')}"
        found = sorted((one["role"], one["state"]) for one in members)
        if found != [("master", "running")] + [("replica", "in sync")] * (self.spec["replicas"] - 1):
            return f"the members are {found}"
        if status.get("staleMembers"):
            return f"stale: {status['staleMembers']}"
        views = [(one["state"], one.get("master"), one["knownReplicas"], one["knownSentinels"]) for one in sentinels]
        masters = [one.get("address") for one in members if one["role"] == "master"]
        right = ("running", masters[0], self.spec["replicas"] - 1, self.spec["sentinels"] - 1)
        return "" if views == [right] * self.spec["sentinels"] else f"the Sentinels' views are {views}"

    @property
    def master(self):
        """Name of the master according to the status."""
        return self.status().get("master")

    def replicas(self):
        """Names of the other members according to the status."""
        status = self.status()
        return [one["name"] for one in status.get("members", []) if one["name"] != status.get("master")]

    def members(self):
        """Names of the data members."""
        return [f"{self.name}-{ordinal}" for ordinal in range(1, self.spec["replicas"] + 1)]

    def started(self):
        """Start time of each container: {id: StartedAt}."""
        lines = docker("inspect", "-f", "{{.Id}} {{.State.StartedAt}}", *self.containers()).splitlines()
        return dict(line.split() for line in lines)

    def networks(self):
        """Its networks."""
        inspected = docker("inspect", "-f", "{{json .NetworkSettings.Networks}}", *self.containers())
        return sorted({name for line in inspected.splitlines() for name in json.loads(line)})

    def addresses(self, network):
        """The fixed address of each member and Sentinel on a network: {name: address}."""
        return fixed_addresses(network, self.containers())

    def client(self):
        """A client of the master that the Sentinels name."""
        return redis_client.through_sentinels(self.secret())

    def compare(self, table, records):
        """Waits until every member has the same numbers, and compares them with the records."""

        def same():
            try:
                found = [redis_client.check(self.at(member), records, table) for member in self.members()]
            except (redis.RedisError, KeyError) as problem:
                raise Failed(str(problem)) from problem
            if any(one != found[0] for one in found):
                raise Failed(f"the members differ: {[one['found'] for one in found]} numbers")
            return found[0]

        return wait_until("every member has the same numbers", same, 30)


class RedisCluster(RedisObject):
    """One RedisCluster: three masters with a replica each."""

    kind = "RedisCluster"

    def __init__(self, operator, name, image=REDIS, **spec):
        super().__init__(operator, name)
        self.manifest["spec"] = {"image": image, "masters": 3, "storage": {"reclaimPolicy": "Delete"}, **spec}

    def unsettled(self, seen):
        """Whether it is Ready with all its masters, and everything is as declared."""
        status = seen.get("status") or {}
        conditions = {one["type"]: one for one in status.get("conditions", [])}
        if conditions.get("Ready", {}).get("status") != "True" or conditions["Progressing"]["reason"] != "Settled":
            return f"phase {status.get('phase')}"
        count = len(self.masters(status))
        return "" if count == self.spec["masters"] else f"{count} members have slots"

    def masters(self, status=None):
        """The members that have slots."""
        return [one for one in (status or self.status()).get("members", []) if one["slots"]]

    def left(self):
        """Slots that are still to move."""
        return (self.status().get("migration") or {}).get("left", 0)

    def client(self):
        """A cluster client."""
        return redis_client.of_cluster(self.secret())

    def writer(self, table, pause=WRITE_PAUSE, acks=20, host="cluster"):
        """As for every kind; a cluster client goes to no one address."""
        return super().writer(table, pause, acks, host)

    def compare(self, table, records):
        """Compares the numbers with the records."""
        return redis_client.check(self.client(), records, table)


class Numbers:
    """Writes numbers around a disturbance. At the end every acknowledged one but `loses` of them is there, and none else; of a
    RedisSentinel every member has the same."""

    def __init__(self, one, table, loses=0):
        self.one, self.table, self.loses = one, table, loses

    def __enter__(self):
        self.writer = self.one.writer(self.table)
        return self

    def go_on(self, within):
        """Waits until the client's writes are acknowledged again."""
        if not self.writer.wait_for_acks(AFTER, within):
            raise Failed(f"the client's writes did not continue within {within} s: {self.writer.errors[-1:]}")

    def outage(self, around):
        """The client's write outage, in seconds."""
        return client.outage(self.writer.records, around)

    def __exit__(self, kind, error, trace):
        self.writer.stop()
        if error is None:
            found = self.one.compare(self.table, self.writer.records)
            self.lost = found["lost"]
            if found["phantoms"]:
                raise Failed(f"there are numbers that nobody wrote: {found['phantoms'][:5]}")
            if len(self.lost) > self.loses:
                raise Failed(f"{len(self.lost)} acknowledged numbers are lost: {self.lost[:5]}")
