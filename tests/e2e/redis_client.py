"""A Redis client that knows nothing about Evenkeel: numbered writes with redis-py, and the fate of each.

The writer asks the Sentinels for the master (or uses one address) and adds one
number at a time to a sorted set. Its records have the form of those of `client.Writer`.
"""

import threading
import time

import client
import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.retry import Retry
from redis.sentinel import Sentinel

CONNECT_DEADLINE = 0.1  # seconds for the connection to a member or a Sentinel
REPLY_DEADLINE = 0.5  # seconds for an answer; the number's fate is then unknown
RETRY_PAUSE = 0.01  # seconds after an error
# After these nothing was written.
REFUSED = (redis.ReadOnlyError, redis.exceptions.BusyLoadingError, redis.exceptions.NoPermissionError)
REFUSALS = ("NOREPLICAS", "MASTERDOWN", "LOADING", "READONLY", "OOM", "MISCONF")


def options(secret):
    """redis-py's options for members and Sentinels. A group without users has a Secret without a username."""
    return {
        "username": secret.get("username"),
        "password": secret.get("password"),
        "socket_connect_timeout": CONNECT_DEADLINE,
        "socket_timeout": REPLY_DEADLINE,
        "retry": Retry(NoBackoff(), 0),
        **({"ssl": True, "ssl_ca_data": secret["ca.crt"]} if "ca.crt" in secret else {}),
    }


def address_of(text):
    """(host, port) of `HOST:PORT`."""
    host, _, port = text.rpartition(":")
    return host, int(port)


def sentinels(secret):
    """redis-py's Sentinel client."""
    addresses = [address_of(one) for one in secret["sentinels"].split(",")]
    return Sentinel(addresses, sentinel_kwargs=options(secret), **options(secret))


def through_sentinels(secret):
    """A client of the master that the Sentinels name."""
    return sentinels(secret).master_for(secret["masterName"])


def at(address, secret):
    """A client of one address."""
    host, port = address_of(address)
    return redis.Redis(host, port, **options(secret))


def of_cluster(secret):
    """redis-py's cluster client. It needs redis-py 5: the one of 4 ends when a node does not answer."""
    nodes = [ClusterNode(*address_of(one)) for one in secret["nodes"].split(",")]
    login = {key: value for key, value in options(secret).items() if key != "retry"}
    return redis.RedisCluster(startup_nodes=nodes, **{**login, "socket_connect_timeout": 0.3, "socket_timeout": 1})


class Writer:
    """Adds numbers until it is stopped. `records` has one entry for each attempted number."""

    def __init__(self, connection, table, pause=0.0, host=None):
        self.client = connection
        self.table = table
        self.pause = pause
        self.host = host
        self.records, self.errors = [], []
        self._stop = threading.Event()
        self._acknowledged = threading.Condition()
        self._acks = 0
        self._thread = None

    def start(self):
        """Runs in its own thread."""
        self._thread = threading.Thread(target=self.run, daemon=True)
        self._thread.start()
        return self

    def stop(self):
        """Stops after the current number."""
        self._stop.set()
        if self._thread:
            self._thread.join()
        self.client.close()

    def drain(self):
        """Returns the records so far and forgets them."""
        count = len(self.records)
        taken = self.records[:count]
        del self.records[:count]
        return taken

    def wait_for_acks(self, count, timeout):
        """Waits until `count` more numbers are acknowledged; False on time-out."""
        with self._acknowledged:
            goal = self._acks + count
            return self._acknowledged.wait_for(lambda: self._acks >= goal, timeout)

    def server(self):
        """The address that the last command went to."""
        found = self.host or getattr(self.client.connection_pool, "master_address", None)
        return found if isinstance(found, str) or found is None else f"{found[0]}:{found[1]}"

    def run(self):
        """Writes until stopped."""
        number = 0
        while not self._stop.is_set():
            number += 1
            record = {"n": number, "start": time.monotonic()}
            pause = self.pause
            try:
                self.client.zadd(self.table, {number: number})
                record.update(ack=time.monotonic(), host=self.server())
            except redis.RedisError as error:
                text = str(error)
                # redis-py answers READONLY from a former master with a ConnectionError of its own.
                refused = isinstance(error, REFUSED) or text.startswith((*REFUSALS, "The previous master"))
                record.update(why=text, **{"refused" if refused else "unknown": time.monotonic()})
                self.errors.append((time.monotonic(), text))
                pause = max(pause, RETRY_PAUSE)
            self.keep(record)
            if pause:
                self._stop.wait(pause)

    def keep(self, record):
        """Adds one record."""
        self.records.append(record)
        if "ack" in record:
            with self._acknowledged:
                self._acks += 1
                self._acknowledged.notify_all()


class Asking:
    """Asks the Sentinels for the master, again and again by new connections, while it is entered."""

    def __init__(self, secret):
        self.secret, self.answers, self.errors = secret, 0, []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def run(self):
        """Asks until it is left. A busy machine has time to answer."""
        patient = {**options(self.secret), "socket_connect_timeout": 5, "socket_timeout": 5}
        addresses = [address_of(one) for one in self.secret["sentinels"].split(",")]
        while not self._stop.is_set():
            try:
                Sentinel(addresses, sentinel_kwargs=patient).discover_master(self.secret["masterName"])
                self.answers += 1
            except redis.RedisError as error:
                self.errors.append(str(error))


def check(connection, records, table):
    """Reads the numbers back and compares them with the writer's records."""
    return client.compare(records, [int(one) for one in connection.zrange(table, 0, -1)])
