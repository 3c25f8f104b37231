"""A PostgresCluster over the hosts of the lab, and its clients on nodes of the lab while hosts and network are disturbed."""

import time

import client
from checks import check_everywhere, expect, single_host
from harness import Cluster, Failed, wait_until
from history import CERTAIN
from splits import Splits
from talk import at
from workload import PROBES, TABLE, Workload

FAR = "far_writes"  # table of the client on the other node
INSTANT = 0.3  # seconds: what was on its way when a cut was made may still arrive


class LabCluster(Cluster):
    """The cluster as the status tells where its members are, and as the engines there show them."""

    def __init__(self, lab, name="lab-db"):
        super().__init__(lab.operator, name)
        self.lab = lab
        self.spec["storage"] = {"reclaimPolicy": "Delete"}

    def members(self):
        """{member: where it is, as decided}."""
        return {place["name"]: place for place in self.status().get("decisions", {}).get("members", [])}

    def host_of(self, member):
        """The lab's host of a member."""
        return self.lab[self.members()[member]["host"]]

    def roles(self):
        """(the primary's host, the standbys' hosts), by name."""
        primary = self.primary
        places = {name: place["host"] for name, place in self.members().items()}
        return places[primary], sorted(host for name, host in places.items() if name != primary)

    def listener(self, member):
        """Where a member listens, as ADDRESS:PORT."""
        place = self.members()[member]
        return f"{place['address']}:{place['port']}"

    def container(self, member):
        """Id of the container of a member, on its host."""
        found = self.host_of(member).docker("ps", "-aq", "--no-trunc", *self.filters(member)).split()
        expect(len(found) == 1, f"{member} has {len(found)} containers, not one")
        return found[0]

    def started(self):
        """{host: {container: when it was started}} of the hosts with power."""
        form = "{{.Id}} {{.State.StartedAt}}"

        def look(host):
            ids = host.docker("ps", "-aq", *self.filters()).split()
            return dict(line.split() for line in host.docker("inspect", "-f", form, *ids).splitlines()) if ids else {}

        return self.lab.each(look, [host for host in self.lab.hosts.values() if host.on and host.running()])

    def uri(self):
        """The URI of the Secret, with all hosts and ports."""
        return self.secret()["uri"]

    def whole(self, timeout=120):
        """Settled, with every member on a host of its own, and the Secret says where. Returns the status."""

        def look():
            status = self.settled(timeout)
            places = self.members()
            hosts = [place["host"] for place in places.values()]
            expect(len(set(hosts)) == len(hosts), f"members share a host: {places}")
            listeners = {host.name for host in client.hosts_of(self.uri())}
            wanted = {self.listener(member) for member in places}
            expect(listeners == wanted, f"the Secret names {listeners}, the members listen at {wanted}")
            return status

        return wait_until(f"{self.name} is whole", look, timeout)


class Clients:
    """Writers, readers and a writer on each instance, on node c1; with `far` one more of each on c2.

    At the end of the `with`, once the cluster is whole, no acknowledged write may be missing anywhere, and no two instances
    may ever have taken writes at once, whichever node the clients were on.
    """

    def __init__(self, cluster, far=False, seed="lab"):
        self.cluster, self.lab, self.far, self.seed = cluster, cluster.lab, far, seed
        self.records, self.far_probes = [], []
        self.far_writer = None

    def __enter__(self):
        self.cluster.whole()
        self.uri = self.cluster.uri()
        self.workload = Workload(self.uri, self.seed)
        self.workload.acknowledged = self.acknowledged
        if self.far:
            at(self.lab.network, "c2", self.begin_far)
        self.go_on(20)
        if self.far:
            self.go_on(20, distant=True)
        return self

    def begin_far(self):
        """The clients of node c2."""
        connection = client.connect(self.uri)
        client.execute(connection, client.CREATE.format(table=FAR), deadline=30)
        connection.close()
        self.far_writer = client.Writer(self.uri, table=FAR, pause=0.02, create=False).start()
        for host in client.hosts_of(self.uri):
            single = single_host(self.uri, host.name)
            probe = client.Writer(single, table=PROBES, attributes="any", pause=0.05, create=False)
            self.far_probes.append(probe.start())

    def acknowledged(self, write):
        """Keeps an acknowledged append of the clients on c1."""
        self.records.append(write)

    def near(self):
        """Acknowledged writes of all clients on c1."""
        probes = list(self.workload.probes.values())
        return list(self.records) + client.acked(record for probe in probes for record in list(probe.records))

    def distant(self):
        """Acknowledged writes of all clients on c2."""
        writers = [self.far_writer, *self.far_probes] if self.far_writer else []
        return client.acked(record for writer in writers for record in list(writer.records))

    def go_on(self, within, distant=False):
        """Waits until a client's writes that begin from now on are acknowledged. Returns the seconds it took."""
        began = time.monotonic()

        def look():
            return any(write["start"] > began for write in self.writes(distant))

        wait_until(f"writes of {'c2' if distant else 'c1'} are acknowledged again", look, within, poll=0.02)
        return time.monotonic() - began

    def outage(self, around, distant=False):
        """The longest time without an acknowledgement around this moment."""
        return client.longest_gap(sorted(write["ack"] for write in self.writes(distant)), around)

    def writes(self, distant):
        """Acknowledged writes of the clients with the multi-host URI, on c2 or c1."""
        return client.acked(list(self.far_writer.records)) if distant else list(self.records)

    def silent_at(self, listener, since, until=float("inf")):
        """Fails if an instance acknowledged a write that began in this time, to any client of c1."""
        late = [w for w in self.near() if w["host"] == listener and since + INSTANT < w["start"] < until]
        expect(not late, f"{listener} acknowledged {len(late)} writes, the last {late[-1:]}, since {since}")

    def __exit__(self, kind, error, trace):
        try:
            if error is None:
                self.cluster.whole()
                # Members may have been replaced since the clients began.
                self.uri = self.workload.uri = self.cluster.uri()
                self.workload.everywhere(self.uri, 30)
        finally:
            self.workload.stop()
            for writer in filter(None, [self.far_writer, *self.far_probes]):
                writer.stop()
        if error is not None:
            return
        self.workload.verify(whole=True)
        counts = {what: count for what, count in self.workload.history.counts().items() if what in CERTAIN and count}
        expect(not counts, f"the history has {counts}")
        splits = Splits()
        splits.add(self.near())
        splits.add(self.distant())
        expect(not splits.overlaps(), f"two instances took writes at once: {splits.overlaps()}")
        if self.far_writer:
            check_everywhere(self.uri, self.far_writer.records, FAR)
        connection = client.connect(self.cluster.uri())
        client.execute(connection, f"DROP TABLE IF EXISTS {TABLE}, {PROBES}, {FAR}", deadline=30)
        connection.close()


def gate_is_shut(lab, node, uri, listener):
    """Whether a client on the node cannot write at an instance."""

    def write():
        connection = client.connect(single_host(uri, listener), attributes="read-write", timeout=1)
        connection.close()

    try:
        at(lab.network, node, write)
    except client.Silent:
        return True
    raise Failed(f"{listener} takes connections that can write")
