"""Tests of the checker: each kind of anomaly, planted in a small history, is found, and nothing else."""

import unittest

import splits
from history import History
from masters import BOUND, Masters


def history(acked=0, unknown=0):
    """Key 7 with this many acknowledged values at their places, followed by some of unknown fate."""
    one = History([7])
    for value in range(1, acked + 1):
        assert one.invoke(7) == value
        one.ok(7, value, value)
    for _ in range(unknown):
        one.invoke(7)
    return one


def rows(*values, after=0):
    """Rows as returned by a read."""
    return [(after + place, value) for place, value in enumerate(values, 1)]


class Checker(unittest.TestCase):
    def found(self, one, **expected):
        """Asserts that exactly these anomalies were found, by kind."""
        self.assertEqual({kind: n for kind, n in one.counts().items() if n}, expected)

    def test_a_whole_list_is_fine(self):
        one = history(acked=3)
        one.read(7, 3, 0, rows(1, 2, 3), settled=True)
        self.found(one)
        self.assertEqual(one.verified(7), 3)

    def test_an_acknowledged_append_that_a_settled_read_misses_at_the_end_is_lost(self):
        one = history(acked=3)
        one.read(7, 3, 0, rows(1, 2), settled=True)
        self.found(one, lost=1)

    def test_an_acknowledged_append_that_is_missing_in_the_middle_is_lost(self):
        one = history(acked=3)
        one.read(7, 3, 0, [(1, 1), (3, 3)], settled=True)
        self.found(one, lost=1)

    def test_an_acknowledged_append_whose_place_holds_another_is_lost(self):
        one = history(acked=2, unknown=1)
        one.read(7, 2, 0, rows(1, 3), settled=True)
        self.found(one, lost=1)

    def test_a_place_that_is_acknowledged_twice_lost_its_first_value(self):
        one = history(acked=3)
        one.ok(7, one.invoke(7), 3)
        self.found(one, lost=1)

    def test_a_lost_tail_can_be_excused_and_is_not_found_again(self):
        one = history(acked=3)
        one.read(7, 3, 0, rows(1), settled=True)
        self.assertEqual(one.excuse(lambda _key, value: value == 3), 1)
        one.read(7, one.last(7), 0, rows(1), settled=True)
        self.found(one, lost=1, tail=1)
        self.assertEqual(one.last(7), 2)

    def test_a_loss_that_is_seen_often_counts_once(self):
        one = history(acked=2)
        for _ in range(3):
            one.read(7, 2, 0, rows(1), settled=True)
        self.found(one, lost=1)

    def test_an_append_of_unknown_fate_may_be_there_or_not(self):
        for values in ((1,), (1, 2)):
            one = history(acked=1, unknown=1)
            one.read(7, 1, 0, rows(*values), settled=True)
            self.found(one)

    def test_a_read_that_began_after_the_acknowledgement_and_misses_it_is_stale(self):
        one = history(acked=3)
        one.read(7, 3, 0, rows(1, 2))
        self.found(one, stale=1)

    def test_a_read_that_began_before_the_acknowledgement_may_miss_it(self):
        one = history(acked=2)
        last = one.last(7)
        one.ok(7, one.invoke(7), 3)
        one.read(7, last, 0, rows(1, 2))
        self.found(one)

    def test_a_read_of_the_tail_says_nothing_about_what_is_before_it(self):
        one = history(acked=3)
        one.read(7, 3, 2, rows(3, after=2))
        self.found(one)

    def test_a_value_that_nobody_appended_is_a_phantom(self):
        one = history(acked=1)
        one.read(7, 1, 0, rows(1, 9))
        self.found(one, phantom=1)

    def test_a_value_whose_append_failed_is_a_phantom(self):
        one = history(acked=1, unknown=1)
        one.failed(7, 2)
        one.read(7, 1, 0, rows(1, 2))
        self.found(one, phantom=1)

    def test_a_value_twice_in_one_read_is_a_duplicate(self):
        one = history(acked=1, unknown=1)
        one.read(7, 1, 0, rows(1, 2, 2))
        self.found(one, duplicate=1)

    def test_a_value_again_after_what_was_read_before_is_a_duplicate(self):
        one = history(acked=1, unknown=1)
        one.read(7, 1, 0, rows(1, 2))
        one.read(7, 1, 2, [(3, 2)])
        self.found(one, duplicate=1)

    def test_an_append_that_stands_before_an_older_acknowledged_one_is_misordered(self):
        one = History([7])
        one.ok(7, one.invoke(7), 2)
        one.invoke(7)
        one.read(7, 2, 0, rows(2, 1))
        self.found(one, misordered=1)

    def test_an_append_of_unknown_fate_may_arrive_late(self):
        one = History([7])
        one.invoke(7)
        one.ok(7, one.invoke(7), 1)
        one.read(7, 1, 0, rows(2, 1))
        self.found(one)

    def test_an_unacknowledged_append_that_was_shown_and_is_gone_is_withdrawn_and_not_lost(self):
        one = history(acked=1, unknown=1)
        one.read(7, 1, 0, rows(1, 2))
        one.read(7, 1, 0, rows(1), settled=True)
        self.found(one, withdrawn=1)


def ack(timeline, start, at, host="a"):
    """An acknowledged write."""
    return {"timeline": timeline, "start": start, "ack": at, "host": host}


class Splits(unittest.TestCase):
    def test_a_failover_is_none(self):
        found = splits.Splits()
        found.add([ack(1, 1, 2), ack(2, 3, 4, "b"), ack(3, 5, 6)])
        self.assertEqual((found.seconds, found.pairs), (0, 0))

    def test_a_write_under_way_while_the_new_primary_begins_is_none(self):
        found = splits.Splits()
        found.add([ack(1, 1, 4), ack(2, 2, 3, "b")])
        self.assertEqual(found.pairs, 0)

    def test_an_old_primary_that_takes_a_write_after_the_new_one_did_is_a_split_of_that_long(self):
        found = splits.Splits()
        found.add([ack(1, 1, 2), ack(2, 3, 4, "b")])
        found.add([ack(1, 6.5, 7)])
        self.assertEqual((found.seconds, found.pairs), (2.5, 1))

    def test_the_order_in_which_they_become_known_does_not_matter(self):
        found = splits.Splits()
        found.add([ack(1, 1, 2), ack(1, 6.5, 7)])
        found.add([ack(2, 3, 4, "b")])
        self.assertEqual((found.seconds, found.pairs), (2.5, 1))

    def test_two_hosts_on_one_timeline_are_a_split(self):
        found = splits.Splits()
        found.add([ack(1, 1, 2), ack(1, 3, 4, "b")])
        self.assertEqual(found.pairs, 1)


def taken(host, begin, end, pause=0.05):
    """Writes that one member acknowledged."""
    count = round((end - begin) / pause)
    return [{"host": host, "start": begin + n * pause, "ack": begin + n * pause + 0.01} for n in range(count)]


class TwoMasters(unittest.TestCase):
    def seconds(self, *writes):
        """The longest time of two masters."""
        one = Masters()
        for some in writes:
            one.add(some)
        return one.seconds, one.pairs

    def test_one_master_after_the_other_and_back_is_fine(self):
        self.assertEqual(self.seconds(taken("a", 0, 10), taken("b", 11, 12), taken("a", 13, 20)), (0, 0))

    def test_an_old_master_that_still_acknowledges_is_found(self):
        seconds, pairs = self.seconds(taken("a", 0, 12), taken("b", 10.02, 20))
        self.assertAlmostEqual(seconds, 2, delta=0.1)
        self.assertEqual(pairs, 0)

    def test_longer_than_the_bound_is_a_split(self):
        _, pairs = self.seconds(taken("a", 0, 11 + BOUND), taken("b", 10.02, 30))
        self.assertEqual(pairs, 1)


if __name__ == "__main__":
    unittest.main()
