"""Detects whether two instances acknowledged writes at the same time, from writes that become known gradually. Pure.

Every promotion raises the timeline, so a write on an older timeline that began after a newer one had acknowledged a write
is proof of two primaries; so are two hosts on one timeline.
"""


class Splits:
    """Per timeline: the host, the first acknowledgement, and the start of the last acknowledged write."""

    def __init__(self):
        self.timelines = {}

    def add(self, writes):
        """Adds acknowledged writes, each with host, timeline, start and ack."""
        for write in writes:
            one = self.timelines.setdefault(
                write["timeline"], {"hosts": set(), "first": write["ack"], "last": write["start"]}
            )
            one["hosts"].add(write["host"])
            one["first"] = min(one["first"], write["ack"])
            one["last"] = max(one["last"], write["start"])

    def overlaps(self):
        """(older timeline, the newer one that was first, seconds for which both acknowledged writes)."""
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
        """Longest time in which two instances were writable."""
        return max((seconds for _, _, seconds in self.overlaps()), default=0)

    @property
    def pairs(self):
        """Number of pairs of primaries that were writable at the same time."""
        return len(self.overlaps())
