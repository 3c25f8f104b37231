"""A database client that knows nothing about Evenkeel: numbered writes over libpq, and the fate of each.

The writer takes a multi-host URI, keeps one attempt to connect running for each
host (as drivers that race hosts do), uses the first that is read-write, and
inserts one numbered row at a time. A number counts as acknowledged only if the
server said so without a warning. The checker reads the table back.

As a program:
    client.py write --uri - --seconds 10 --log writes.jsonl   (the URI on standard input)
    client.py check --uri - --log writes.jsonl
All times are seconds of CLOCK_MONOTONIC, comparable between processes of one machine.
"""

import argparse
import json
import os
import select
import sys
import threading
import time
from collections import Counter

import psycopg2
from psycopg2 import extensions

RETRY_PAUSE = 0.01  # seconds between two attempts at one host
CONNECT_DEADLINE = 0.5  # seconds for one attempt: TCP, authentication and the read-write question
REPLY_DEADLINE = 0.5  # time-out of the server's answer in seconds; the row's fate is then unknown
TABLE = "evenkeel_writes"
# The timeline distinguishes two primaries of one cluster: every promotion increases it.
INSERT = (
    "INSERT INTO {table} (n) VALUES (%s) "
    "RETURNING ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int"
)
CREATE = "CREATE TABLE IF NOT EXISTS {table} (n bigint NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp())"
SYNC_WAIT_CANCELLED = "canceling wait for synchronous replication"


class Silent(Exception):
    """The server did not answer before the deadline."""


class Host:
    """One host of the URI and its newest connection attempt."""

    def __init__(self, params):
        self.params = params
        self.name = f"{params['host']}:{params['port']}"
        self.connection = None
        self.deadline = 0.0
        self.next_try = 0.0
        self.waits_for = extensions.POLL_WRITE
        self.problem = "not tried"

    def give_up(self, now, problem):
        """Ends this attempt; the next may start after the pause."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None
        self.problem = str(problem).strip()
        self.next_try = now + RETRY_PAUSE

    def advance(self, now):
        """Starts or continues an attempt without blocking. Returns True when connected."""
        try:
            if self.connection is None:
                if now < self.next_try:
                    return False
                self.connection = psycopg2.connect(**self.params, async_=1)
                self.deadline = now + CONNECT_DEADLINE
            self.waits_for = self.connection.poll()
        except psycopg2.Error as error:
            self.give_up(now, error)
            return False
        if self.waits_for == extensions.POLL_OK:
            return True
        if now > self.deadline:
            self.give_up(now, "no answer")
        return False

    def take(self):
        """Returns the connection."""
        connection, self.connection = self.connection, None
        return connection


def hosts_of(uri, attributes=None):
    """The hosts of a libpq URI or DSN, each with the parameters to connect to it alone."""
    params = extensions.parse_dsn(uri)
    names = params.pop("host").split(",")
    ports = params.pop("port", "5432").split(",")
    if len(ports) == 1:
        ports *= len(names)
    params.pop("connect_timeout", None)
    if attributes:
        params["target_session_attrs"] = attributes
    params.setdefault("application_name", "evenkeel-test-client")
    return [Host({**params, "host": name, "port": port}) for name, port in zip(names, ports)]


def race(hosts, deadline, stop=None):
    """Tries all hosts at once until one accepts. Returns (connection, host name)."""
    while True:
        now = time.monotonic()
        for host in hosts:
            if host.advance(now):
                winner = host.take(), host.name
                for other in hosts:
                    other.give_up(now, "another host was first")
                    other.next_try = 0.0
                return winner
        if now > deadline or (stop is not None and stop.is_set()):
            problems = "; ".join(f"{host.name}: {host.problem}" for host in hosts)
            for host in hosts:
                host.give_up(now, host.problem)
            raise Silent(f"no host took us: {problems}")
        wait_for_any(hosts)


def wait_for_any(hosts):
    """Sleeps until a socket is ready, at most the retry pause."""
    under_way = [host for host in hosts if host.connection is not None]
    readable = [host.connection.fileno() for host in under_way if host.waits_for == extensions.POLL_READ]
    writable = [host.connection.fileno() for host in under_way if host.waits_for == extensions.POLL_WRITE]
    select.select(readable, writable, [], RETRY_PAUSE)


def execute(connection, sql, values=(), deadline=REPLY_DEADLINE):
    """Runs one statement and returns its rows. Raises Silent if the server does not answer in time."""
    until = time.monotonic() + deadline
    cursor = connection.cursor()
    cursor.execute(sql, values)
    while True:
        state = connection.poll()
        if state == extensions.POLL_OK:
            return cursor.fetchall() if cursor.description else []
        left = until - time.monotonic()
        if left <= 0:
            raise Silent("no reply")
        descriptor = [connection.fileno()]
        if state == extensions.POLL_READ:
            select.select(descriptor, [], [], left)
        else:
            select.select([], descriptor, [], left)


def connect(uri, attributes="read-write", timeout=30.0):
    """One connection to any accepting host of the URI, tried until the time-out."""
    return race(hosts_of(uri, attributes), time.monotonic() + timeout)[0]


class Writer:
    """Writes numbered rows until it is stopped. `records` has one entry for each attempted number."""

    def __init__(self, uri, log=None, table=TABLE, attributes="read-write", pause=0.0, create=True):
        self.hosts = hosts_of(uri, attributes)
        self.table = table
        self.pause = pause
        self.create = create
        self.records = []
        self.errors = []
        self._log = open(log, "w", encoding="utf-8", buffering=1) if log else None
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
        if self._log:
            self._log.close()

    def drain(self):
        """Returns a copy of the records so far."""
        count = len(self.records)
        taken = self.records[:count]
        del self.records[:count]
        return taken

    def wait_for_acks(self, count, timeout):
        """Waits until `count` more numbers are acknowledged; False on time-out."""
        with self._acknowledged:
            goal = self._acks + count
            return self._acknowledged.wait_for(lambda: self._acks >= goal, timeout)

    def run(self, seconds=None):
        """Writes until stopped, or for this many seconds."""
        until = time.monotonic() + seconds if seconds is not None else float("inf")
        number, connection, host, ready = 0, None, None, not self.create
        while not self._stop.is_set() and time.monotonic() < until:
            try:
                if connection is None:
                    connection, host = race(self.hosts, until, self._stop)
                if not ready:
                    execute(connection, CREATE.format(table=self.table), deadline=5.0)
                    ready = True
            except (psycopg2.Error, Silent) as error:
                self.errors.append((time.monotonic(), str(error).strip()))
                connection = hang_up(connection)
                continue
            number += 1
            if not self.write(connection, host, number):
                connection = hang_up(connection)
            if self.pause:
                self._stop.wait(self.pause)
        hang_up(connection)

    def write(self, connection, host, number):
        """Inserts one number and records the server's answer. False if the connection is unusable."""
        record = {"n": number, "host": host, "start": time.monotonic()}
        usable = False
        try:
            rows = execute(connection, INSERT.format(table=self.table), (number,))
            moment = time.monotonic()
            usable = True
            if any(SYNC_WAIT_CANCELLED in notice for notice in connection.notices):
                record.update(unknown=moment, why=SYNC_WAIT_CANCELLED)
                usable = False
            else:
                record.update(ack=moment, timeline=rows[0][0])
        except psycopg2.errors.ReadOnlySqlTransaction:
            # This instance is not a primary: nothing was written, and it may become one later.
            record.update(refused=time.monotonic(), why="read-only")
            usable = not self.hosts[0].params.get("target_session_attrs", "any") == "read-write"
            self._stop.wait(RETRY_PAUSE)
        except (psycopg2.Error, Silent) as error:
            record.update(unknown=time.monotonic(), why=str(error).strip())
        self.keep(record)
        return usable

    def keep(self, record):
        """Adds one record to the list and the log file."""
        self.records.append(record)
        if self._log:
            self._log.write(json.dumps(record) + "\n")
        if "ack" in record:
            with self._acknowledged:
                self._acks += 1
                self._acknowledged.notify_all()


def hang_up(connection):
    """Closes a connection, if any."""
    if connection is not None:
        connection.close()


def acked(records):
    """The records whose number the server acknowledged."""
    return [record for record in records if "ack" in record]


def compare(records, present):
    """The fate of the numbers: `present` are those found in the table, with repetitions."""
    attempted = {record["n"] for record in records}
    acknowledged = {record["n"] for record in acked(records)}
    found = set(present)
    return {
        "attempted": len(attempted),
        "acknowledged": len(acknowledged),
        "found": len(found),
        "lost": sorted(acknowledged - found),
        "duplicates": sorted(n for n, times in Counter(present).items() if times > 1),
        "phantoms": sorted(found - attempted),
    }


def check(uri, records, table=TABLE, attributes="read-write", timeout=30.0):
    """Reads the table back and compares it with the writer's records."""
    connection = connect(uri, attributes, timeout)
    try:
        rows = execute(connection, f"SELECT n FROM {table} ORDER BY n", deadline=timeout)
    finally:
        connection.close()
    return compare(records, [row[0] for row in rows])


def outage(records, around, window=60.0):
    """The longest time without an acknowledgement that ends after `around` and starts within `window` of it.

    Seconds; infinite when nothing was acknowledged after `around`.
    """
    return longest_gap(sorted(record["ack"] for record in acked(records)), around, window)


def longest_gap(moments, around, window=60.0):
    """The same for the ordered times of the acknowledgements."""
    if not moments or moments[-1] < around:
        return float("inf")
    gaps = [
        later - max(earlier, around - window)
        for earlier, later in zip(moments, moments[1:])
        if later >= around and earlier <= around + window
    ]
    return max(gaps, default=float("inf"))


def splits(records):
    """Pairs of acknowledged writes that two primaries accepted at the same time.

    That is: a write which began after a newer timeline had acknowledged one, or
    two hosts that acknowledged on the same timeline.
    """
    found = []
    hosts = {}
    writes = acked(records)
    for write in writes:
        first = hosts.setdefault(write["timeline"], write)
        if first["host"] != write["host"]:
            found.append((first, write))
    first_ack = {}
    for write in sorted(writes, key=lambda write: write["ack"]):
        first_ack.setdefault(write["timeline"], write)
    for write in writes:
        for timeline, newer in first_ack.items():
            if timeline > write["timeline"] and newer["ack"] < write["start"]:
                found.append((newer, write))
    return found


def read_log(path):
    """The records of a writer's log file."""
    with open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def arguments():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("write", "check"):
        sub = verbs.add_parser(verb)
        sub.add_argument(
            "--uri", default=os.environ.get("DATABASE_URI"), help="libpq URI; - reads it from standard input"
        )
        sub.add_argument("--log", required=True, help="JSON-lines file of what was tried")
        sub.add_argument("--table", default=TABLE)
    verbs.choices["write"].add_argument("--seconds", type=float, required=True)
    verbs.choices["check"].add_argument("--around", type=float, help="report the outage around this moment")
    return parser.parse_args()


def main():
    """Runs one verb; `check` exits 1 when an acknowledged write is missing or a row was never written."""
    args = arguments()
    uri = sys.stdin.readline().strip() if args.uri == "-" else args.uri
    if not uri:
        sys.exit("give the database's URI with --uri or DATABASE_URI")
    if args.verb == "write":
        writer = Writer(uri, args.log, args.table)
        writer.run(args.seconds)
        writer.stop()
        print(f"{len(acked(writer.records))} of {len(writer.records)} numbers acknowledged")
        return
    records = read_log(args.log)
    result = check(uri, records, args.table)
    if args.around is not None:
        result["outage"] = outage(records, args.around)
    print(json.dumps(result))
    if result["lost"] or result["duplicates"] or result["phantoms"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
