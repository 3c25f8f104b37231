"""Shared by scenarios: writes around a disturbance, after which no instance may miss an acknowledged row."""

import client
import psycopg2
from harness import Failed, wait_until, writer_for

WRITE_PAUSE = 0.005  # seconds between two rows: leaves CPU time for the failover
AFTER = 50  # rows that must be acknowledged after a disturbance


def expect(truth, sentence):
    """Fails with the sentence unless the condition is true."""
    if not truth:
        raise Failed(sentence)


class Writes:
    """Writes rows around a disturbance; at the end of the `with` no instance may miss an acknowledged row."""

    def __init__(self, cluster, table, watch_splits=False):
        self.cluster = cluster
        self.table = table
        self.uri = cluster.uri()
        self.watch_splits = watch_splits
        self.probes = []

    def __enter__(self):
        self.writer = writer_for(self.uri, self.table, WRITE_PAUSE)
        if self.watch_splits:
            # One more writer on each instance, which writes whenever the instance accepts writes, primary or not.
            for host in client.hosts_of(self.uri):
                single = single_host(self.uri, host.name)
                self.probes.append(
                    client.Writer(single, table=self.table + "_probe", attributes="any", pause=0.02).start()
                )
        return self

    def go_on(self, within):
        """Waits until the client's writes are acknowledged again."""
        if not self.writer.wait_for_acks(AFTER, within):
            raise Failed(f"the client's writes did not continue within {within} s: {self.writer.errors[-1:]}")

    def outage(self, around):
        """The client's write outage, in seconds."""
        return client.outage(self.writer.records, around)

    def __exit__(self, kind, error, trace):
        self.writer.stop()
        for probe in self.probes:
            probe.stop()
        if error is not None:
            return
        records = [record for probe in [self.writer, *self.probes] for record in probe.records]
        found = client.splits(records)
        expect(not found, f"two instances took acknowledged writes at once: {found[:1]}")
        check_everywhere(self.uri, self.writer.records, self.table)


def single_host(uri, name):
    """The URI with only one of its hosts."""
    before, _, rest = uri.partition("@")
    return f"{before}@{name}/{rest.split('/', 1)[1]}"


def check_everywhere(uri, records, table):
    """Checks that no instance misses an acknowledged row, has one twice, or has one that was never written."""
    for host in client.hosts_of(uri):
        single = single_host(uri, host.name)

        def same():
            try:
                result = client.check(single, records, table, attributes="any", timeout=10)
            except (psycopg2.Error, client.Silent) as error:
                raise Failed(f"{host.name} cannot be read: {error}") from error
            expect(not result["phantoms"], f"{host.name} has rows that nobody wrote: {result['phantoms'][:5]}")
            expect(not result["duplicates"], f"{host.name} has rows twice: {result['duplicates'][:5]}")
            lost = result["lost"]
            expect(
                not lost, f"{host.name} misses {len(lost)} of {result['acknowledged']} acknowledged rows: {lost[:5]}"
            )
            return True

        # A standby replays a little after the primary has answered.
        wait_until(f"{host.name} has every acknowledged row", same, 20)


def ask(uri, question):
    """One value read from the instance."""
    connection = client.connect(uri, attributes="any", timeout=20)
    try:
        return client.execute(connection, question, deadline=10)[0][0]
    finally:
        connection.close()


def ask_all(uri, question):
    """The value read from each instance."""
    return {host.name: ask(single_host(uri, host.name), question) for host in client.hosts_of(uri)}
