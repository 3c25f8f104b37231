"""The faults of a campaign with three operators over etcd: any of them killed, frozen or cut off, in the middle of its work."""

import os
import signal
import time

from faults import Round
from harness import wait_until

MINUTE = 60  # seconds without a quorum of etcd, or of a frozen leader, in the long rounds
ETCD, DOCKER = 2379, 2376


class OperatorsRound(Round):
    """One fault of operators or of etcd, while pods are made and removed."""

    def __init__(self, lab, cluster, draw):
        super().__init__(lab, cluster, draw)
        # Between two rounds somebody leads.
        self.leader = wait_until("an operator leads", lab.leader, 20)[0]
        self.others = [name for name in lab.names if name != self.leader]

    def begin(self, name):
        """Changes the number of pods, and begins the fault a moment later."""
        self.lab.web.scale(self.draw.choice([2, 3, 4, 5, 6]))
        time.sleep(self.draw.uniform(0, 0.5))
        super().begin(name)

    def end(self):
        """Ends the fault; the pods are as many as wanted again."""
        super().end()
        self.lab.web.settled(120)

    # Operators

    def leader_killed(self):
        """kill -9 of the operator that leads."""
        self.lab.operators[self.leader].kill()

    def leader_stopped(self):
        """SIGTERM of the operator that leads."""
        self.lab.operators[self.leader].stop()

    def standby_killed(self):
        """kill -9 of one that stands by."""
        self.lab.operators[self.draw.choice(self.others)].kill()

    def all_operators_killed(self):
        """kill -9 of all of them at once."""
        for one in self.lab.operators.values():
            one.kill()

    def leader_killed_in_a_failover(self):
        """The primary's container is killed, and the operator that leads a moment later."""
        primary = self.cluster.primary
        self.cluster.host_of(primary).docker("kill", self.cluster.container(primary))
        time.sleep(self.draw.uniform(0, 0.6))
        self.lab.operators[self.leader].kill()

    def leader_frozen(self):
        """The operator that leads stands still, and goes on after another one has led."""
        self.freeze(self.leader)
        time.sleep(self.draw.choice([0.5, 2, 5, 30]))

    def leader_frozen_in_a_failover(self):
        """The primary's container is killed, the operator that leads stands still a moment later, and wakes."""
        primary = self.cluster.primary
        self.cluster.host_of(primary).docker("kill", self.cluster.container(primary))
        time.sleep(self.draw.uniform(0, 0.6))
        self.freeze(self.leader)
        time.sleep(self.draw.uniform(1, 8))

    def freeze(self, name):
        """SIGSTOP until the end of the round."""
        process = self.lab.operators[name].process
        self.lab.away.add(name)
        process.send_signal(signal.SIGSTOP)
        self.lab.ends.append(lambda: os.kill(process.pid, signal.SIGCONT))

    def leader_cut_from_etcd(self):
        """The operator that leads reaches no member of etcd any more, its own included."""
        self.lab.away.add(self.leader)
        self.drop(self.leader, ETCD)

    def leader_cut_from_hosts(self):
        """The operator that leads does not reach the Docker of any other host."""
        self.drop(self.leader, DOCKER)

    def drop(self, name, port):
        """Drops what the operator of a host sends to this port, until the end of the round."""
        rule = ("OUTPUT", "-p", "tcp", "--dport", str(port), "-j", "DROP")
        host = self.lab[name]
        host.inside("iptables", "-w", "-I", *rule)
        self.lab.ends.append(lambda: host.inside("iptables", "-w", "-D", *rule, check=False))

    # etcd

    def etcd_leader_killed(self):
        """kill -9 of the member that leads etcd."""
        self.lab.members[wait_until("etcd has a leader", self.lab.etcd_leader, 10)].kill()

    def quorum_lost(self):
        """Two members of etcd end, sometimes for a minute."""
        for name in self.draw.sample(self.lab.names, 2):
            self.lab.members[name].kill()
        time.sleep(self.draw.choice([0, MINUTE]))

    def etcd_disk_full(self):
        """The disk of the member that leads etcd is full."""
        self.lab.members[wait_until("etcd has a leader", self.lab.etcd_leader, 10)].fill()

    # Hosts with everything on them

    def leaders_host_without_power(self):
        """The host of the operator that leads loses its power, with its member of etcd and its database."""
        self.lab.power_off(self.leader)

    def primarys_host_without_power(self):
        """The primary's host loses its power, with its operator and its member of etcd."""
        self.lab.power_off(self.primary)

    def leader_in_the_minority(self):
        """The host of the operator that leads is cut off from everybody else, with a client if the primary is there."""
        side = [self.leader, "c1"] if self.leader == self.primary else [self.leader]
        rest = [node for node in (*self.others, "c1", "c2", "op") if node not in side]
        self.lab.away.add(self.leader)
        self.lab.network.cut_both(side, rest)

    def primarys_host_leads_all_without_power(self):
        """The primary's host loses its power, with the operator that leads; etcd is led where the operators keep its leader."""
        self.lab.move_leadership(self.primary)
        apart = lambda: self.lab.etcd_leader() not in (None, self.primary)  # noqa: E731
        wait_until("etcd is led on another host", apart, 30)
        self.moment = time.monotonic()
        self.lab.power_off(self.primary)

    def primarys_host_leads_etcd_too_without_power(self):
        """The same, with the leader of etcd: the moment before an operator that has just begun to lead moves it."""
        self.lab.move_leadership(self.primary)
        self.lab.move_etcd(self.primary)
        self.moment = time.monotonic()
        self.lab.power_off(self.primary)
