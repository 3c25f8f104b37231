"""Whether two instances took acknowledged writes at once, over writes that become known little by little. Pure.

Every promotion raises the timeline, so a write on an older timeline that began after a newer one had acknowledged a write
is proof of two primaries; so are two hosts on one timeline.
"""


class Splits:
    """Per timeline: who acknowledged, when first, and when the last acknowledged write began."""

    def __init__(self):
        self.timelines = {}

    def add(self, writes):
        """Takes acknowledged writes, each with host, timeline, start and ack."""
        for write in writes:
            one = self.timelines.setdefault(
                write["timeline"], {"hosts": set(), "first": write["ack"], "last": write["start"]}
            )
            one["hosts"].add(write["host"])
            one["first"] = min(one["first"], write["ack"])
            one["last"] = max(one["last"], write["start"])

    def overlaps(self):
        """(older timeline, the newer one that was first, seconds for which both took writes)."""
        found, newer = [], None
        for line in sorted(self.timelines, reverse=True):
            one = self.timelines[line]
            if len(one["hosts"]) > 1:
                found.append((line, line, 0.0))
            if newer is not None and one["last"] > self.timelines[newer]["first"]:
                found.append((line, newer, one["last"] - self.timelines[newer]["first"]))
            if newer is None or one["first"] < self.timelines[newer]["first"]:
                newer = line
        return found

    @property
    def seconds(self):
        """Longest time for which two were writable."""
        return max((seconds for _, _, seconds in self.overlaps()), default=0)

    @property
    def pairs(self):
        """How many pairs of primaries were writable at once."""
        return len(self.overlaps())
