"""Values appended to lists, values read, and every contradiction between the two. Pure; knows no database.

Each key has one writer, which appends the values 1, 2, 3, ... to it. The server
chooses the place of a value in the list (1, 2, 3, ...) and tells it with the
acknowledgement. A read asks for everything of a key after a place.

lost        an acknowledged append that a settled read does not show, or whose place was given away again
stale       an acknowledged append that a read, begun after the acknowledgement, did not show
phantom     a value that was read and never appended, or whose append had failed for certain
duplicate   a value at two places
misordered  a value that stands before one which was acknowledged before its append began
withdrawn   an append without acknowledgement that a read showed and a settled read no longer shows
tail        a lost append that asynchronous replication may lose
"""

import threading
from array import array

CERTAIN = ("lost", "phantom", "duplicate", "misordered")
KINDS = (*CERTAIN, "stale", "withdrawn", "tail")

UNKNOWN, OK, FAILED = 0, 1, 2


class Key:
    """One list: the fate of each value, and the knowledge about each place. Index 0 of each array is unused."""

    def __init__(self):
        self.fate = bytearray(1)
        self.acked = array("q", [0])  # place -> the value acknowledged there
        self.seen = array("q", [0])  # place -> the value last read there
        self.place = array("q", [0])  # value -> the place where it was last read
        self.last = 0  # greatest acknowledged place
        self.verified = 0  # a settled read showed everything up to this place


def put(values, index, value):
    """values[index] = value, in an array that grows as needed."""
    if index >= len(values):
        values.extend([0] * (index + 1 - len(values)))
    values[index] = value


class History:
    """All keys of one cluster. Thread-safe."""

    def __init__(self, keys):
        self.keys = {key: Key() for key in keys}
        self.found = {kind: set() for kind in KINDS}
        self.appends = self.acks = self.reads = 0
        self._lock = threading.Lock()

    # Called by writers

    def invoke(self, key):
        """A new value is about to be appended. Returns the value."""
        with self._lock:
            self.appends += 1
            self.keys[key].fate.append(UNKNOWN)
            return len(self.keys[key].fate) - 1

    def ok(self, key, value, place):
        """The server acknowledged the value at this place."""
        with self._lock:
            one = self.keys[key]
            self.acks += 1
            one.fate[value] = OK
            before = one.acked[place] if place < len(one.acked) else 0
            if before:
                self.note("lost", key, before)  # the place was free again
            put(one.acked, place, value)
            one.last = max(one.last, place)

    def failed(self, key, value):
        """The server reported that nothing was appended."""
        with self._lock:
            self.keys[key].fate[value] = FAILED

    # Called by readers

    def last(self, key):
        """The greatest acknowledged place now: a read that starts after this must reach it."""
        with self._lock:
            return self.keys[key].last

    def verified(self, key):
        """The place up to which a settled read has shown everything."""
        with self._lock:
            return self.keys[key].verified

    def read(self, key, last, after, rows, settled=False):
        """Checks a read that started when `last` was acknowledged and found `rows`, (place, value), after `after`.

        `settled`: the writable endpoint was asked and nothing disturbed it, so what is missing is lost.
        """
        with self._lock:
            self.reads += 1
            one = self.keys[key]
            present = dict(rows)
            self._missing(key, one, last, after, present, settled)
            self._unfounded(key, one, rows, after)
            self._order(key, one, rows)
            for place, value in rows:
                put(one.seen, place, value)
                put(one.place, value, place)
            if settled:
                self._withdrawn(key, one, after, present)
                one.verified = max(present, default=after)

    def _missing(self, key, one, last, after, present, settled):
        """Acknowledged places within the range of the read that it does not contain."""
        for place in range(after + 1, last + 1):
            value = one.acked[place]
            if value and present.get(place) != value:
                self.note("lost" if settled else "stale", key, value)

    def _unfounded(self, key, one, rows, after):
        """Values that were never appended, that failed, or that are there twice."""
        here = set()
        for _, value in rows:
            if not 0 < value < len(one.fate) or one.fate[value] == FAILED:
                self.note("phantom", key, value)
                continue
            elsewhere = one.place[value] if value < len(one.place) else 0
            if value in here or 0 < elsewhere <= after:
                self.note("duplicate", key, value)
            here.add(value)

    def _order(self, key, one, rows):
        """The writer waits for each answer, so a value comes after every smaller acknowledged one."""
        smallest = None  # the smallest acknowledged value further on
        for _, value in reversed(rows):
            if smallest is not None and value > smallest:
                self.note("misordered", key, value)
            if 0 < value < len(one.fate) and one.fate[value] == OK:
                smallest = value if smallest is None else min(smallest, value)

    def _withdrawn(self, key, one, after, present):
        """Values that were once read without being acknowledged, and are gone."""
        for place in range(after + 1, len(one.seen)):
            value = one.seen[place]
            if value and present.get(place) != value:
                if value < len(one.fate) and one.fate[value] == UNKNOWN:
                    self.note("withdrawn", key, value)
                one.seen[place] = 0
                if value < len(one.place) and one.place[value] == place:
                    one.place[value] = 0

    def note(self, kind, key, value):
        """Records one contradiction; a repeated one counts once."""
        self.found[kind].add((key, value))

    def excuse(self, may):
        """Lost appends for which `may(key, value)` is true count as tail, and as never acknowledged from now on. Returns
        their number."""
        with self._lock:
            found = {lost for lost in self.found["lost"] if may(*lost)}
            self.found["lost"] -= found
            self.found["tail"] |= found
            for key, value in found:
                one = self.keys[key]
                one.fate[value] = UNKNOWN
                for place in range(len(one.acked) - 1, 0, -1):
                    if one.acked[place] == value:
                        one.acked[place] = 0
                while one.last and not one.acked[one.last]:
                    one.last -= 1
            return len(found)

    def counts(self):
        """Number of contradictions of each kind so far."""
        with self._lock:
            return {kind: len(found) for kind, found in self.found.items()}
