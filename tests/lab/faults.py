"""The faults of a campaign: hosts without power, cut networks, lost engines, drains."""

import time

HELPERS = ("any_host", "declare", "begin", "end", "freeze", "drop")  # methods of a round that are no faults


class Round:
    """One fault: what it does to the lab. Everything is ended by `end`."""

    def __init__(self, lab, cluster, draw):
        self.lab, self.cluster, self.draw = lab, cluster, draw
        primary, standbys = cluster.roles()
        self.primary, self.standbys = primary, standbys
        self.undo = []
        self.moment = 0.0  # when the fault began

    def begin(self, name):
        """Begins the fault of this name."""
        self.moment = time.monotonic()
        faults_of(type(self))[name](self)

    def end(self):
        """Ends it."""
        try:
            self.lab.heal()
        finally:
            for undo in self.undo:
                undo()

    def any_host(self):
        """One of the cluster's hosts."""
        return self.draw.choice([self.primary, *self.standbys])

    def declare(self, host, **fields):
        """Declares a host until the end of the round."""
        self.lab.declare(self.lab[host], **fields)
        self.undo.append(lambda: self.lab.declare(self.lab[host]))

    def primary_without_power(self):
        """The primary's host loses its power."""
        self.lab[self.primary].power_off()

    def standby_without_power(self):
        """A standby's host loses its power."""
        self.lab[self.draw.choice(self.standbys)].power_off()

    def host_without_power_for_a_moment(self):
        """A host loses its power and has it again at once."""
        host = self.lab[self.any_host()]
        host.power_off()
        time.sleep(self.draw.uniform(0, 3))
        host.power_on()

    def minority_with_the_primary(self):
        """The primary and a client are cut off from everybody else."""
        self.lab.network.cut_both([self.primary, "c1"], [*self.standbys, "c2", "op"])

    def minority_with_a_standby(self):
        """A standby is cut off from everybody else."""
        cut = self.draw.choice(self.standbys)
        rest = [host for host in (self.primary, *self.standbys) if host != cut]
        self.lab.network.cut_both(cut, [*rest, "c1", "c2", "op"])

    def one_pair(self):
        """Two hosts do not reach each other."""
        here, there = self.draw.sample([self.primary, *self.standbys], 2)
        self.lab.network.cut_both(here, there)

    def one_way(self):
        """Packets of one host do not arrive at another one."""
        self.lab.network.cut(*self.draw.sample([self.primary, *self.standbys], 2))

    def operator_cut_from_one(self):
        """The operator does not reach one host."""
        self.lab.network.cut_both("op", self.any_host())

    def dockerd_killed(self):
        """kill -9 of dockerd; its containers go on."""
        self.lab[self.any_host()].stop_dockerd(live_restore=True, kill=True)

    def dockerd_stopped(self):
        """dockerd ends, and with it its containers."""
        self.lab[self.any_host()].stop_dockerd(live_restore=False)

    def dockerd_frozen(self):
        """dockerd accepts connections and says nothing."""
        self.lab[self.any_host()].freeze_dockerd()

    def rules_flushed(self):
        """A foreign script removes all firewall rules of a host."""
        self.lab[self.any_host()].flush_iptables()

    def slow_and_lossy(self):
        """50 ms and one packet in a hundred lost between all hosts and the operator."""
        nodes = [self.primary, *self.standbys, "op"]
        for here in nodes:
            for there in nodes:
                if here != there:
                    self.lab.network.delay(here, there, 25)
        self.lab.network.loss(self.primary, self.standbys[0], 1)

    def operator_killed(self):
        """kill -9 of the operator, and the loss of the primary's host once it is back."""
        self.lab.operator.kill()
        self.lab.operator.start()
        self.lab[self.primary].power_off()

    def drain_during_a_failover(self):
        """The primary's host loses its power while a standby's host is being drained."""
        self.declare(self.standbys[0], drain=True)
        self.lab[self.primary].power_off()

    def maintenance(self):
        """The primary's host is maintained, and restarted."""
        self.declare(self.primary, maintenance=True)
        time.sleep(self.draw.uniform(0, 4))
        self.lab[self.primary].power_off()

    def another_engine(self):
        """Another engine answers at a standby's address."""
        self.lab[self.draw.choice(self.standbys)].replace_engine()


def faults_of(kind):
    """{name: method} of the faults of a kind of round."""
    return {name: one for name, one in vars(kind).items() if callable(one) and not name.startswith("_") and name not in HELPERS}
