"""The guarantee of `async`: a loss is at most what status.lastFailover says, which says nothing before it knows.

One cluster with durability.mode async; each round a client writes, the standbys are cut off for a moment, the primary dies,
and what the client had acknowledged is looked for.
"""

import random
import threading
import time
import traceback

import client
import faults
import network
import psycopg2
from harness import Cluster, Failed, wait_until

NAME = "chaos-async"
CREATE = "CREATE TABLE IF NOT EXISTS acknowledged (round int, n int)"
INSERT = "INSERT INTO acknowledged VALUES (%s, %s) RETURNING pg_current_wal_insert_lsn() - '0/0'::pg_lsn"
HEAL = 120  # seconds


class Burst:
    """Rows of one round, written until the primary dies: `acknowledged` has (n, position in the WAL)."""

    def __init__(self, uri, number):
        self.number = number
        self.connection = client.connect(uri)
        client.execute(self.connection, CREATE, deadline=10)
        self.acknowledged = []
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        """Writes rows."""
        n = 0
        try:
            while True:
                n += 1
                rows = client.execute(self.connection, INSERT, (self.number, n), deadline=2)
                self.acknowledged.append((n, int(rows[0][0])))
        except (psycopg2.Error, client.Silent):
            self.connection.close()


def lost_bytes(lost):
    """A lower bound of the WAL that was lost with these rows, (n, position), in the order in which they were written.

    The first one's commit record is gone, and the second one began after it.
    """
    return lost[-1][1] - lost[1][1] if len(lost) > 1 else 0


class AsyncLane:
    """The cluster and its rounds."""

    def __init__(self, machine, seed):
        self.machine = machine
        self.random = random.Random(f"{seed}-async")
        self.rounds = 0
        self.over = threading.Event()  # the current round is over
        self.cluster = Cluster(machine.operator, NAME)
        self.cluster.spec["durability"] = {"mode": "async"}

    def bring_up(self):
        """A new cluster."""
        self.cluster.apply()
        self.cluster.settled(180)

    def run(self, until, report):
        """Runs rounds until this time, at least one."""
        while not self.rounds or time.monotonic() < until:
            self.rounds += 1
            report(self.round())

    def round(self):
        """One round. Returns its record."""
        kill = self.random.choice((faults.kill_container, faults.kill_postgres, faults.kill_supervisor))
        cut = self.random.choice((0, self.random.uniform(0.2, 3)))
        fault = f"async: {kill.__name__.replace('_', ' ')}{' after its peers were cut off' if cut else ''}"
        record = {"lane": NAME, "round": self.rounds, "faults": [fault], "at": time.monotonic()}
        self.over = threading.Event()
        try:
            self.measure(record, kill, cut)
        except Exception as error:  # every error belongs to this round
            record["failed"] = f"{type(error).__name__}: {error}"
            record["trace"] = traceback.format_exc()
        self.over.set()
        record["took"] = time.monotonic() - record["at"]
        return record

    def measure(self, record, kill, cut):
        """Writes, kills, and compares the loss with the status."""
        before = self.cluster.settled(HEAL)
        primary = before["primary"]
        burst = Burst(self.cluster.uri(), self.rounds)
        time.sleep(self.random.uniform(0.3, 1))
        join = network.cut_peers(self.cluster, primary, ("in", "out")) if cut else lambda: None
        time.sleep(cut)
        heard = []
        last = (before.get("lastFailover") or {}).get("detectedAt")
        listener = threading.Thread(target=self.listen, args=(last, heard, self.over), daemon=True)
        listener.start()
        record["struck"] = time.monotonic()
        kill(self, primary)
        burst.thread.join(30)
        # The death of a postmaster does not change the container's network.
        join()
        time.sleep(1)
        after = self.cluster.settled(HEAL)
        record["redundancy"] = time.monotonic() - record["struck"]
        lost = self.missing(burst)
        record["acknowledged"], record["gone"] = len(burst.acknowledged), len(lost)
        record["gone bytes"] = lost_bytes(lost)
        if after["term"] == before["term"]:
            words, record["bound"] = "nobody else was promoted", 0
        else:
            words, record["bound"] = self.said(primary)
        self.over.set()
        listener.join()
        record["notes"] = [
            f"{len(lost)} of {len(burst.acknowledged)} acknowledged rows gone, at least {record['gone bytes']} bytes; "
            f"the status allows {record['bound']}: {words}"
        ]
        if record["gone bytes"] > record["bound"] or (lost and not record["bound"]):
            raise Failed(f"more is gone than the status says: {record['notes'][0]}")
        wrong = [one for one in heard if one[1] != record["bound"] and (one[1] is not None or "not known" not in one[0])]
        if wrong:
            raise Failed(f"the status said {wrong[0]} before it knew {record['bound']}")

    def listen(self, last, heard, over):
        """Records what the status says about the loss of the next promotion, until the round is over."""
        while not over.is_set():
            story = (self.cluster.get() or {}).get("status", {}).get("lastFailover") or {}
            if story.get("detectedAt") != last and story.get("to", "") not in ("", story["from"]):
                heard.append((story.get("possibleLoss", "nothing"), story.get("possibleLossBytes")))
            time.sleep(0.02)

    def said(self, primary):
        """The loss by the status: text and number. The old primary is back, so the number must appear soon."""

        def look():
            story = self.cluster.status()["lastFailover"]
            if story["from"] == primary and story["to"] == primary:
                return "it leads again", 0
            if "possibleLossBytes" not in story:
                raise Failed(f"no figure: {story}")
            return story["possibleLoss"], story["possibleLossBytes"]

        return wait_until("the status says what was lost", look, 10)

    def missing(self, burst):
        """The acknowledged rows that are missing."""
        connection = client.connect(self.cluster.uri())
        rows = client.execute(connection, "SELECT n FROM acknowledged WHERE round = %s", (burst.number,), deadline=30)
        connection.close()
        present = {row[0] for row in rows}
        return [(n, position) for n, position in burst.acknowledged if n not in present]

    def take_down(self):
        """Removes the cluster."""
        self.cluster.clean()
