"""Finds masters that acknowledge writes at the same time, from writes that become known gradually. Pure.

Redis tells nothing with an acknowledgement that distinguishes two masters, so the order in time does: while a member that is
no longer master still acknowledges, its writes lie between those of the new one. A client writes to every member each
50 ms, so a turn of one member between two turns of another that is shorter than `TURN` is not a failover there and back.
"""

TURN = 0.5  # seconds
# Sentinel's own bound: a master without replicas refuses after min-replicas-max-lag (3 s), which it looks at each second.
BOUND = 5.0
KEPT = 120.0  # seconds of writes that are kept


class Masters:
    """The acknowledged writes of the last minutes, and the longest times of two masters."""

    def __init__(self):
        self.writes = []

    def add(self, writes):
        """Adds acknowledged writes, each with host, start and ack."""
        self.writes += [(write["ack"], write["start"], write["host"]) for write in writes]
        newest = max(self.writes, default=(0,))[0]
        self.writes = [write for write in self.writes if write[0] > newest - KEPT]

    def turns(self):
        """[host, first acknowledgement, start of the last acknowledged write] for each turn of a member."""
        turns = []
        for ack, start, host in sorted(self.writes):
            if turns and turns[-1][0] == host:
                turns[-1][2] = max(turns[-1][2], start)
            else:
                turns.append([host, ack, start])
        return turns

    def times(self):
        """(one host, another, seconds in which both acknowledged)."""
        turns, found, position = self.turns(), [], 1
        while position + 1 < len(turns):
            end = position
            while end + 1 < len(turns) and turns[end][2] - turns[end][1] < TURN and turns[end - 1][0] == turns[end + 1][0]:
                end += 1
            if end > position:
                found.append((turns[position - 1][0], turns[position][0], turns[end - 1][2] - turns[position][1]))
            position = end + 1
        return found

    def overlaps(self):
        """Those that are longer than the bound."""
        return [one for one in self.times() if one[2] > BOUND]

    @property
    def seconds(self):
        """The longest time in which two acknowledged."""
        return max((seconds for *_, seconds in self.times()), default=0.0)

    @property
    def pairs(self):
        """Number of times that were longer than the bound."""
        return len(self.overlaps())
