"""Independent clients of one cluster: writers that append to lists, readers, and a writer on each instance that
detects when two accept writes at once. They run during all rounds; each round takes the results since the last one."""

import random
import threading
import time

import client
import psycopg2
from checks import single_host
from harness import Failed, wait_until
from history import History
from splits import Splits

TABLE, PROBES = "lists", "probes"
CREATE = f"CREATE TABLE IF NOT EXISTS {TABLE} (key int, place int, value bigint NOT NULL, PRIMARY KEY (key, place))"
APPEND = (
    f"INSERT INTO {TABLE} SELECT %(key)s, coalesce(max(place), 0) + 1, %(value)s FROM {TABLE} WHERE key = %(key)s "
    "RETURNING place, ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int"
)
READ = f"SELECT place, value FROM {TABLE} WHERE key = %s AND place > %s ORDER BY place"
SHOWS = f"SELECT count(*) FROM {TABLE} WHERE key = %s AND place = %s AND value = %s"
# Errors after which certainly nothing was written.
FOR_CERTAIN = (
    psycopg2.errors.UniqueViolation,
    psycopg2.errors.ReadOnlySqlTransaction,
    psycopg2.errors.DiskFull,
)
WRITERS, KEYS_EACH, READERS = 4, 2, 2
WRITE_PAUSE, READ_PAUSE, PROBE_PAUSE = 0.02, 0.1, 0.05  # seconds between two requests of one client
ROUND = 5.0  # seconds after which a client without a connection reads the URI again
ANSWER = 1.0  # time-out of the server's answer, in seconds
OVERLAP = 20  # places before the verified one that are read again

# A client that cannot connect must not take CPU time from the failover.
client.RETRY_PAUSE = 0.05


class Client:
    """One client in its own thread; reconnects when its connection is unusable."""

    def __init__(self, workload):
        self.workload = workload
        self.connection = self.host = None
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        """Runs until it is stopped."""
        while not self.stopping.is_set():
            try:
                if self.connection is None:
                    # Members may have been replaced since.
                    hosts = client.hosts_of(self.workload.uri, "read-write")
                    self.connection, self.host = client.race(hosts, time.monotonic() + ROUND, self.stopping)
                usable = self.act()
            except (psycopg2.Error, client.Silent):
                usable = False
            if not usable:
                client.hang_up(self.connection)
                self.connection = None
            self.stopping.wait(self.pause)
        client.hang_up(self.connection)

    def stop(self):
        """Stops it."""
        self.stopping.set()


class Writer(Client):
    """Appends to its keys in turn, one at a time."""

    pause = WRITE_PAUSE

    def __init__(self, workload, keys):
        self.keys = keys
        self.turn = 0
        super().__init__(workload)

    def act(self):
        """One append. False if the connection is unusable."""
        self.turn += 1
        key = self.keys[self.turn % len(self.keys)]
        history = self.workload.history
        value = history.invoke(key)
        start = time.monotonic()
        try:
            rows = client.execute(self.connection, APPEND, {"key": key, "value": value}, deadline=ANSWER)
        except FOR_CERTAIN:
            history.failed(key, value)
            return False
        if any(client.SYNC_WAIT_CANCELLED in notice for notice in self.connection.notices):
            return False
        (place, timeline), ack = rows[0], time.monotonic()
        history.ok(key, value, place)
        self.workload.acknowledged({"start": start, "ack": ack, "host": self.host, "timeline": timeline})
        return True


class Reader(Client):
    """Reads the tails of lists. `anew`: with a connection per read, like a client without a pool."""

    pause = READ_PAUSE

    def __init__(self, workload, anew, seed):
        self.anew = anew
        self.random = random.Random(seed)
        super().__init__(workload)

    def act(self):
        """One read. False if the connection is unusable."""
        self.workload.read(self.connection, self.random.choice(self.workload.keys))
        return not self.anew


class Workload:
    """All clients of one cluster, and their history."""

    def __init__(self, uri, seed):
        self.uri = uri
        self.keys = list(range(1, WRITERS * KEYS_EACH + 1))
        self.history = History(self.keys)
        self.splits = Splits()
        self.acks = []
        self.clients, self.probes = [], {}
        self.prepare()
        for number in range(WRITERS):
            self.clients.append(Writer(self, self.keys[number * KEYS_EACH : (number + 1) * KEYS_EACH]))
        for number in range(READERS):
            self.clients.append(Reader(self, anew=number % 2 == 0, seed=f"{seed}-{number}"))
        self.probe(uri)

    def prepare(self):
        """Creates the tables."""
        connection = client.connect(self.uri)
        client.execute(connection, CREATE, deadline=30)
        client.execute(connection, client.CREATE.format(table=PROBES), deadline=30)
        connection.close()

    def probe(self, uri):
        """Runs a writer on each instance of the URI, and removes those of former instances."""
        wanted = {host.name for host in client.hosts_of(uri)}
        for name in set(self.probes) - wanted:
            probe = self.probes.pop(name)
            probe.stop()
            self.splits.add(client.acked(probe.drain()))
        for name in wanted - set(self.probes):
            single = single_host(uri, name)
            probe = client.Writer(single, table=PROBES, attributes="any", pause=PROBE_PAUSE, create=False)
            self.probes[name] = probe.start()

    def acknowledged(self, write):
        """Records one acknowledged append for the next round."""
        self.acks.append(write)

    def read(self, connection, key, whole=False, settled=False, deadline=ANSWER * 3):
        """Reads one list from somewhat before the verified place, and checks it."""
        after = 0 if whole else max(0, self.history.verified(key) - OVERLAP)
        last = self.history.last(key)
        rows = client.execute(connection, READ, (key, after), deadline=deadline)
        self.history.read(key, last, after, rows, settled)

    def verify(self, whole=False):
        """Reads every list while the cluster is undisturbed: a value that is missing now is lost."""
        for _ in range(3):
            try:
                connection = client.connect(self.uri)
                for key in self.keys:
                    self.read(connection, key, whole, settled=True, deadline=30)
                connection.close()
                return
            except (psycopg2.Error, client.Silent) as error:
                problem = error
        raise Failed(f"the settled cluster cannot be read: {problem}")

    def everywhere(self, uri, timeout):
        """Waits until every instance has an append that was acknowledged just now."""
        key = self.keys[0]
        history = self.history
        before = history.last(key)
        wait_until("an append to the first list is acknowledged", lambda: history.last(key) > before, timeout)
        place = history.last(key)
        value = history.keys[key].acked[place]
        for host in client.hosts_of(uri):
            self.shown(single_host(uri, host.name), host.name, (key, place, value), timeout)

    def shown(self, single, name, append, timeout):
        """Waits until this instance has the append."""

        def look():
            try:
                connection = client.connect(single, attributes="any", timeout=5)
                try:
                    return client.execute(connection, SHOWS, append, deadline=5)[0][0] == 1
                finally:
                    connection.close()
            except (psycopg2.Error, client.Silent) as error:
                raise Failed(str(error).strip()) from error

        wait_until(f"{name} shows the append {append}", look, timeout)

    def take(self):
        """The times of the acknowledgements since the last call; adds writes of probes and writers to the splits."""
        count = len(self.acks)
        taken = self.acks[:count]
        del self.acks[:count]
        self.splits.add(taken)
        for probe in self.probes.values():
            self.splits.add(client.acked(probe.drain()))
            probe.errors.clear()
        return sorted(write["ack"] for write in taken)

    def flood(self, mebibytes):
        """Writes this much WAL at once, outside of tables."""
        connection = client.connect(self.uri, timeout=2)
        try:
            for _ in range(mebibytes):
                client.execute(
                    connection, "SELECT pg_logical_emit_message(false, '', repeat('x', 1 << 20))", deadline=2
                )
        except (psycopg2.Error, client.Silent):
            pass  # the disk is full, as intended
        finally:
            connection.close()

    def stop(self):
        """Ends all clients."""
        for one in self.clients:
            one.stop()
        for one in self.clients:
            one.thread.join(10)
        for probe in self.probes.values():
            probe.stop()
