"""Independent Sentinel clients of one RedisSentinel: writers that append to lists, readers, and a writer on each member that
detects when two acknowledge at once. They run during all rounds; each round takes the results since the last one."""

import random
import threading
import time

import client
import redis
import redis_client
from harness import Failed, wait_until
from history import History
from masters import Masters

WRITERS, KEYS_EACH, READERS = 4, 2, 2
WRITE_PAUSE, READ_PAUSE, PROBE_PAUSE = 0.02, 0.1, 0.05  # seconds between two requests of one client
RETRY_PAUSE = 0.05  # a client that cannot connect must not take CPU time from the failover
OVERLAP = 20  # places before the verified one that are read again
PROBES = "probes"


def is_refused(error):
    """Whether the answer says that certainly nothing was written."""
    return isinstance(error, redis_client.REFUSED) or str(error).startswith(redis_client.REFUSALS)


class Client(threading.Thread):
    """One client in its own thread."""

    def __init__(self, workload):
        super().__init__(daemon=True)
        self.workload = workload
        self.redis = redis_client.through_sentinels(workload.secret)
        self.stopping = threading.Event()
        self.thread = self
        self.start()

    def run(self):
        """Runs until it is stopped."""
        while not self.stopping.is_set():
            try:
                self.act()
                self.stopping.wait(self.pause)
            except redis.RedisError:
                self.stopping.wait(RETRY_PAUSE)
        self.redis.close()

    def stop(self):
        """Stops it."""
        self.stopping.set()


class Writer(Client):
    """Appends to its keys in turn, one at a time."""

    pause = WRITE_PAUSE

    def __init__(self, workload, keys):
        self.keys, self.turn = keys, 0
        super().__init__(workload)

    def act(self):
        """One append."""
        self.turn += 1
        key, history = self.keys[self.turn % len(self.keys)], self.workload.history
        value = history.invoke(key)
        try:
            place = self.redis.rpush(f"list-{key}", value)
        except redis.RedisError as error:
            if is_refused(error):
                history.failed(key, value)
            raise
        history.ok(key, value, place)
        self.workload.acknowledged(key, value, time.monotonic())


class Reader(Client):
    """Reads the tails of lists."""

    pause = READ_PAUSE

    def __init__(self, workload, seed):
        self.random = random.Random(seed)
        super().__init__(workload)

    def act(self):
        """One read."""
        self.workload.read(self.redis, self.random.choice(self.workload.keys))


class RedisWorkload:
    """All clients of one RedisSentinel, and their history."""

    def __init__(self, secret, places, seed):
        self.secret = secret
        self.keys = list(range(1, WRITERS * KEYS_EACH + 1))
        self.history = History(self.keys)
        self.splits = Masters()
        self.acks, self.times = [], {}
        self.clients, self.probes = [], {}
        for number in range(WRITERS):
            self.clients.append(Writer(self, self.keys[number * KEYS_EACH : (number + 1) * KEYS_EACH]))
        for number in range(READERS):
            self.clients.append(Reader(self, f"{seed}-{number}"))
        self.probe(places)

    def probe(self, places):
        """Runs a writer on each of the members ({name: address}), and removes those of former members."""
        wanted = set(places.values())
        for address in set(self.probes) - wanted:
            probe = self.probes.pop(address)
            probe.stop()
            self.splits.add(client.acked(probe.drain()))
        for address in wanted - set(self.probes):
            there = redis_client.at(address, self.secret)
            self.probes[address] = redis_client.Writer(there, PROBES, PROBE_PAUSE, address).start()

    def acknowledged(self, key, value, moment):
        """Records one acknowledged append for the next round."""
        self.times[key, value] = moment
        self.acks.append(moment)

    def read(self, there, key, whole=False, settled=False):
        """Reads one list from somewhat before the verified place, and checks it."""
        after = 0 if whole else max(0, self.history.verified(key) - OVERLAP)
        last = self.history.last(key)
        found = there.lrange(f"list-{key}", after, -1)
        rows = [(after + place, int(value)) for place, value in enumerate(found, 1)]
        self.history.read(key, last, after, rows, settled)

    def verify(self, whole=False):
        """Reads every list while nothing disturbs: a value that is missing now is lost."""
        for _ in range(3):
            try:
                there = redis_client.through_sentinels(self.secret)
                for key in self.keys:
                    self.read(there, key, whole, settled=True)
                return
            except redis.RedisError as error:
                problem = error
        raise Failed(f"the settled master cannot be read: {problem}")

    def excuse(self, since):
        """Appends acknowledged after this moment may be lost: replicas need not have them. Returns their number."""
        times, self.times = self.times, {}
        return self.history.excuse(lambda key, value: times.get((key, value), 0) > since)

    def everywhere(self, places, timeout):
        """Waits until every member has an append that was acknowledged just now. A master that was replaced in the same moment
        takes its last ones with it, so that a second one may be tried."""
        try:
            self.arrives(places, timeout)
        except Failed:
            self.arrives(places, timeout)

    def arrives(self, places, timeout):
        """Waits until every member has one append."""
        key, history = self.keys[0], self.history
        before = history.last(key)
        wait_until("an append to the first list is acknowledged", lambda: history.last(key) > before, timeout)
        place = history.last(key)
        value = history.keys[key].acked[place]
        for name, address in places.items():

            def shows(there=redis_client.at(address, self.secret)):
                try:
                    return there.lindex(f"list-{key}", place - 1) == str(value).encode()
                except redis.RedisError as error:
                    raise Failed(str(error)) from error

            wait_until(f"{name} shows the append {value} at place {place}", shows, timeout)

    def take(self):
        """The times of the acknowledgements since the last call; adds the probes' writes to the search for two masters."""
        count = len(self.acks)
        taken = self.acks[:count]
        del self.acks[:count]
        for probe in self.probes.values():
            self.splits.add(client.acked(probe.drain()))
            probe.errors.clear()
        return sorted(taken)

    def stop(self):
        """Ends all clients."""
        for one in self.clients:
            one.stop()
        for one in self.clients:
            one.join(10)
        for probe in self.probes.values():
            probe.stop()
