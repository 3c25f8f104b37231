"""The rounds of one RedisSentinel: as for a PostgresCluster, with what asynchronous replication may lose told apart."""

from harness import Failed, wait_until
from lane import Lane
from redis_objects import RedisSentinel
from redis_workload import RedisWorkload

# A replica has everything that was acknowledged this long before a fault, in seconds.
REPLICATED = 1.0
BYTES = 33  # of the replication stream, at least, for one append


class RedisLane(Lane):
    """A RedisSentinel, its clients, and its own sequence of faults."""

    kind, leader = "redissentinel", "master"

    def new_cluster(self):
        """A RedisSentinel that is not made yet."""
        return RedisSentinel(self.machine.operator, self.name)

    def new_workload(self):
        """Its clients."""
        return RedisWorkload(self.cluster.secret(), self.cluster.uri(), f"{self.seed}-{self.made}")

    def make_disks(self, count):
        """None: no fault of a RedisSentinel needs a disk of its own."""

    def roles(self, status):
        """Names of the members by role."""
        members = status["members"]
        found = {role: [one["name"] for one in members if one["role"] == role] for role in ("master", "replica")}
        return {**found, "sentinel": [one["name"] for one in status["sentinels"]]}

    def status(self):
        """The status, once the operator answers: another lane may have killed it."""
        return wait_until("the operator answers", self.cluster.status, 60)

    def disturb(self, record):
        """As for every kind; remembers the epoch and the last failover."""
        before = self.status()
        self.epoch, self.told = before.get("epoch"), (before.get("lastFailover") or {}).get("detectedAt")
        return super().disturb(record)

    def heal(self, record, undone):
        """As for every kind; then compares what is gone with the status."""
        try:
            super().heal(record, undone)
        finally:
            gone = self.workload.excuse(record["struck"] - REPLICATED)
        both = self.workload.splits.seconds
        if both > 0:
            self.note(f"two masters acknowledged for {both:.1f} s")
        status = self.status()
        told = status.get("lastFailover") or {}
        words = f"lastFailover: {told.get('lostBytes')} bytes, {told.get('loss')}"
        if gone:
            self.note(f"{gone} acknowledged appends gone; {words}")
        # With several failovers in one round the last one tells only about itself.
        if status.get("epoch") == self.epoch + 1 and told.get("detectedAt") != self.told and "lostBytes" in told:
            record.update({"gone": gone, "gone bytes": gone * BYTES, "bound": told["lostBytes"]})
            more = not told.get("lossMeasured") and any(words in told["loss"] for words in ("after that", "until it follows"))
            if gone * BYTES > told["lostBytes"] and not more:
                raise Failed(f"{gone} appends are gone, at least {gone * BYTES} bytes, more than the status says: {words}")
        empty = [one["name"] for one in status["members"] if one["role"] == "master" and not one["usedMemory"]]
        if empty:
            raise Failed(f"the master {empty} has no data")
