"""Tests of the checker: planted losses, duplicates, phantoms, outages and splits are found."""

import unittest

import client


def ack(n, at, host="a", timeline=1):
    """An acknowledged record."""
    return {"n": n, "start": at - 0.1, "ack": at, "host": host, "timeline": timeline}


def unknown(n, at):
    """A record whose fate is unknown to the client."""
    return {"n": n, "start": at - 0.1, "unknown": at, "host": "a"}


class Compare(unittest.TestCase):
    def test_an_acknowledged_row_that_is_missing_is_lost(self):
        self.assertEqual(client.compare([ack(1, 1), ack(2, 2)], [1])["lost"], [2])

    def test_a_row_of_unknown_fate_may_be_there_or_not(self):
        for present in ([1], [1, 2]):
            result = client.compare([ack(1, 1), unknown(2, 2)], present)
            self.assertEqual((result["lost"], result["phantoms"], result["duplicates"]), ([], [], []))

    def test_a_row_that_is_there_twice_is_a_duplicate(self):
        self.assertEqual(client.compare([ack(1, 1)], [1, 1])["duplicates"], [1])

    def test_a_row_that_nobody_wrote_is_a_phantom(self):
        self.assertEqual(client.compare([ack(1, 1)], [1, 7])["phantoms"], [7])


class Outage(unittest.TestCase):
    def test_it_is_the_longest_gap_after_the_moment(self):
        records = [ack(1, 1.0), ack(2, 5.0), ack(3, 5.5), ack(4, 8.0), ack(5, 8.25)]
        self.assertEqual(client.outage(records, around=5.6), 2.5)

    def test_writes_that_never_go_on_are_an_endless_outage(self):
        self.assertEqual(client.outage([ack(1, 1.0)], around=2.0), float("inf"))


class Splits(unittest.TestCase):
    def test_an_old_primary_that_acknowledges_after_the_new_one_is_a_split(self):
        records = [ack(1, 1), ack(2, 2, "b", 2), ack(3, 3, "a", 1)]
        self.assertEqual(client.splits(records), [(records[1], records[2])])

    def test_two_hosts_on_one_timeline_are_a_split(self):
        records = [ack(1, 1), ack(2, 2, "b", 1)]
        self.assertEqual(client.splits(records), [(records[0], records[1])])

    def test_a_failover_and_back_is_none(self):
        self.assertEqual(client.splits([ack(1, 1), ack(2, 2, "b", 2), ack(3, 3, "a", 3)]), [])

    def test_a_write_under_way_while_the_new_primary_begins_is_none(self):
        before = {"n": 1, "start": 0.5, "ack": 2.5, "host": "a", "timeline": 1}
        self.assertEqual(client.splits([before, ack(2, 2, "b", 2)]), [])


class Hosts(unittest.TestCase):
    def test_each_host_of_a_uri_is_tried_by_itself(self):
        hosts = client.hosts_of("postgresql://u:p@h1:1,h2:2/d?target_session_attrs=any", "read-write")
        self.assertEqual([host.name for host in hosts], ["h1:1", "h2:2"])
        self.assertEqual({host.params["target_session_attrs"] for host in hosts}, {"read-write"})


if __name__ == "__main__":
    unittest.main()
