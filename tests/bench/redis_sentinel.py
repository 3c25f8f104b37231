"""Write outage and lost writes of a Redis Sentinel client, beside plain Sentinel in the same run: `redis_sentinel.py BINARY [ROUNDS]`.

Both groups have the same image and the same settings of the client. Writes target/bench/redis.md and redis.json.
Exits 1 when a write is lost that a replica had, or when an old master takes a write. BINARY `-` measures only plain Sentinel.
"""

import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import client
import failover
import floor
import harness
import redis_client
from objects import LoadBalancer
from redis_objects import REDIS, RedisSentinel, kill_servers
from sentinels import MASTER_NAME, Group

NAME, BALANCER = "bench-cache", "bench-cache-lb"
PATIENCE = 60  # seconds until an outage counts as infinite
RETURN_SECONDS = 6  # seconds for which a member that returned is offered writes
KEYS = 500  # keys that exist before a fast restart


def writing_through(connection, table):
    """A running writer with some acknowledged numbers behind it."""
    writer = redis_client.Writer(connection, table, floor.WRITE_PAUSE).start()
    if not writer.wait_for_acks(floor.ACKS_BEFORE, 30):
        writer.stop()
        raise harness.Failed(f"the writer got no acknowledgements: {writer.errors[-1:]}")
    return writer


def finish(writer, settled):
    """Goes on writing until the group is settled; then stops."""
    if not writer.wait_for_acks(floor.ACKS_AFTER, PATIENCE):
        writer.stop()
        raise harness.Failed(f"writes did not continue within {PATIENCE} s: {writer.errors[-1:]}")
    after = settled()
    writer.stop()
    return after


def behind(records, lost):
    """Lost numbers that a replica had for certain: a later number that was acknowledged before the outage is there."""
    gone = set(lost)
    kept = [one for one in client.acked(records) if one["n"] not in gone]
    if not gone:
        return []
    last = max(gone)
    later = [one["n"] for one in kept if min(gone) < one["n"] < last]
    return [number for number in gone if later and number < max(later)]


class Ours:
    """A RedisSentinel of an operator."""

    def __init__(self, binary):
        self.operator = harness.start_operator(binary)
        self.cache = RedisSentinel(self.operator, NAME)
        self.cache.clean()
        self.cache.apply().settled(180)
        self.balancer = LoadBalancer(self.operator, BALANCER)
        self.balancer.spec["frontends"][0].update(name="redis", port=6379, backend="redis", mode="tcp")
        self.balancer.spec["backends"] = [{"name": "redis", "redisSentinel": {"name": NAME, "role": "master"}}]
        self.balancer.apply().settled(60)

    def through(self, balancer):
        """A client by the Sentinels, or by the balancer."""
        if balancer:
            return redis_client.at(self.balancer.addresses()[0], self.cache.secret())
        return redis_client.through_sentinels(self.cache.secret())

    def round(self, kind, table):
        """One round: (outage, lost numbers, lost numbers that a replica had, what the status says)."""
        how, _, balancer = kind.partition(" ")
        master = self.cache.settled(PATIENCE)["master"]
        if balancer:
            self.balancer.settled(PATIENCE)
        container = self.cache.container(master)
        writer = writing_through(self.through(balancer), table)
        moment = time.monotonic()
        if how == "container":
            floor.kill_container(container)
        elif how == "process":
            kill_servers(container)
        else:
            self.operator.cli("switchover", NAME)
        harness.wait_until("the master has changed", lambda: self.cache.master not in (None, master), PATIENCE)
        after = finish(writer, lambda: self.cache.settled(PATIENCE))
        lost = self.cache.compare(table, writer.records)["lost"]
        told = after.get("lastFailover") if how != "planned" else (after.get("lastSwitchover") or {}).get("result")
        return client.outage(writer.records, moment), len(lost), behind(writer.records, lost), told

    def returns(self):
        """The master's container is killed and started again by hand at once: writes that it then takes as an old master."""
        master = self.cache.settled(PATIENCE)["master"]
        address, secret = self.cache.uri()[master], self.cache.secret()
        floor.kill_container(self.cache.container(master))
        writer = redis_client.Writer(redis_client.at(address, secret), "returned", 0.001, address).start()
        harness.docker("start", self.cache.container(master))
        time.sleep(RETURN_SECONDS)
        writer.stop()
        if self.cache.settled(PATIENCE)["master"] == master:
            raise harness.Failed("the killed master is master again")
        return len(client.acked(writer.records))

    def remove(self):
        """Removes everything."""
        harness.discard(self.operator)
        self.balancer.clean()
        self.cache.clean()


class Plain:
    """Plain Sentinel."""

    def __init__(self):
        self.group = Group(REDIS)
        self.group.settled()

    def round(self, kind, table):
        """One round, as above."""
        master = self.group.settled()
        writer = writing_through(redis_client.through_sentinels(self.group.secret), table)
        moment = time.monotonic()
        if kind == "container":
            floor.kill_container(self.group.container(master))
        elif kind == "process":
            kill_servers(self.group.container(master))
        else:
            self.group.sentinel().execute_command("SENTINEL", "FAILOVER", MASTER_NAME)
            harness.wait_until("the master has changed", lambda: self.group.views()[0][0] != master, PATIENCE)
        if kind != "planned":
            self.group.replace(master)
        after = finish(writer, self.group.settled)
        lost = redis_client.check(self.group.at(after), writer.records, table)["lost"]
        return client.outage(writer.records, moment), len(lost), behind(writer.records, lost)

    def returns(self):
        """As above, once plain Sentinel has promoted another."""
        master = self.group.settled()
        floor.kill_container(self.group.container(master))
        harness.wait_until("another is master", lambda: self.group.views()[0][0] != master, PATIENCE)
        harness.docker("start", self.group.container(master))
        writer = redis_client.Writer(self.group.at(master), "returned", 0.001, "old").start()
        time.sleep(RETURN_SECONDS)
        writer.stop()
        self.group.settled()
        return len(client.acked(writer.records))

    def remove(self):
        """Removes everything."""
        self.group.remove()


def restart_ours(operator, rounds):
    """Keys lost by fast restarts of a master without persistence."""
    cache = RedisSentinel(operator, f"{NAME}-memory", persistence="none")
    cache.clean()
    lost = []
    try:
        cache.apply().settled(180)
        for number in range(rounds):
            master = cache.settled(PATIENCE)["master"]
            fill(redis_client.through_sentinels(cache.secret()), number)
            harness.docker("restart", "-t", "0", cache.container(master))
            cache.settled(PATIENCE)
            lost.append(missing(redis_client.through_sentinels(cache.secret()), number))
    finally:
        # The operator goes on: it would make again what only Docker has removed.
        operator.cli("delete", "redissentinel", cache.name, "--ignore-not-found")
        cache.clean()
    return lost


def restart_plain(rounds):
    """The same with plain Sentinel."""
    group = Group(REDIS, "none")
    lost = []
    try:
        for number in range(rounds):
            master = group.settled()
            fill(group.at(master), number)
            harness.docker("restart", "-t", "0", group.container(master))
            lost.append(missing(group.at(group.settled()), number))
    finally:
        group.remove()
    return lost


def fill(connection, number):
    """Writes keys and waits until both replicas have them."""
    connection.mset({f"{number}-{key}": key for key in range(KEYS)})
    harness.wait_until("both replicas have acknowledged", lambda: connection.wait(2, 100) == 2, 10)


def missing(connection, number):
    """Number of those keys that are missing."""
    return sum(one is None for one in connection.mget([f"{number}-{key}" for key in range(KEYS)]))


def all_killed(cache, number):
    """Every container is killed at once: (seconds until it is settled, acknowledged numbers lost)."""
    cache.settled(PATIENCE)
    table = f"all_{number}"
    writer = writing_through(redis_client.through_sentinels(cache.secret()), table)
    time.sleep(1.5)  # the append-only file is synced each second
    begin = time.monotonic()
    harness.docker("kill", *cache.containers())
    cache.settled(120)
    took = time.monotonic() - begin
    writer.stop()
    lost = cache.compare(table, writer.records)["lost"]
    return took, len(lost)


NAMES = {
    "container": "master's container killed",
    "process": "redis-server killed (kill -9)",
    "planned": "switchover; plain: SENTINEL FAILOVER",
    "container balancer": "master's container killed, through the balancer",
    "planned balancer": "switchover, through the balancer",
}


def table(results, others):
    """The results as markdown."""
    lines = [
        "| write outage of a redis-py client | median s | max s | plain median s | ratio | lost | lost that a replica had | plain lost |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, name in NAMES.items():
        ours, plain = results.get(kind), results.get(f"plain {kind.split()[0]}")
        cells = [f"{ours['median']:.2f}", f"{ours['max']:.2f}"] if ours else ["", ""]
        cells.append(f"{plain['median']:.2f}" if plain else "")
        cells.append(f"1/{plain['median'] / ours['median']:.0f}" if ours and plain else "")
        cells += [str(ours["lost"]), str(ours["behind"])] if ours else ["", ""]
        cells.append(str(plain["lost"]) if plain else "")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| what | Evenkeel, each round | plain Sentinel, each round |", "|---|---|---|"]
    lines += [f"| {name} | {ours} | {plain} |" for name, (ours, plain) in others.items()]
    return "\n".join(lines) + "\n"


def summary(rounds):
    """As for PostgreSQL, and the lost numbers that a replica had."""
    return {**failover.summary(rounds), "behind": sum(len(one[2]) for one in rounds), "told": [one[3:] for one in rounds]}


def measure(ours, plain, count):
    """Every kind in turn, `count` times, so that a slow minute of the machine affects both."""
    found = {}
    for number in range(1, count + 1):
        for kind in NAMES:
            if ours:
                found.setdefault(kind, []).append(ours.round(kind, f"{kind.replace(' ', '_')}_{number}"))
            if " " not in kind:
                found.setdefault(f"plain {kind}", []).append(plain.round(kind, f"{kind}_{number}"))
        line = ", ".join(f"{kind} {rounds[-1][0]:.2f} lost {rounds[-1][1]}" for kind, rounds in found.items())
        print(f"round {number} of {count}: {line}", flush=True)
    return {kind: summary(rounds) for kind, rounds in found.items()}


def main():
    """Runs the benchmark."""
    if len(sys.argv) < 2:
        sys.exit("usage: redis_sentinel.py BINARY [ROUNDS]")
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    ours = plain = None
    others = {}
    try:
        plain = Plain()
        ours = Ours(sys.argv[1]) if sys.argv[1] != "-" else None
        results = measure(ours, plain, count)
        returned = [ours.returns() for _ in range(count)] if ours else []
        others["writes taken by an old master that returned"] = returned, [plain.returns()]
        restarted = restart_ours(ours.operator, count) if ours else []
        plain.remove()
        others[f"keys of {KEYS} lost by a restart without persistence"] = restarted, restart_plain(1)
        killed = [all_killed(ours.cache, number) for number in range(min(count, 3))] if ours else []
        others["all killed: seconds until ready, numbers lost"] = [(round(took, 1), lost) for took, lost in killed], ""
    finally:
        for group in filter(None, (ours, plain)):
            group.remove()
    failover.keep("redis", {**results, "others": others}, table(results, others))
    bad = sum(returned) + sum(restarted) + sum(results[kind]["behind"] for kind in NAMES if kind in results)
    bad += sum(results[kind]["lost"] for kind in NAMES if kind in results and kind.startswith("planned"))
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
