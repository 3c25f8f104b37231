"""The faults of a RedisSentinel: those of every kind, with the roles `master`, `replica` and `sentinel`, and its own."""

import os
import signal
import time

import network
import redis_objects
from faults import (
    LONG,
    NOBODY,
    Fault,
    cut_from_operator,
    cut_from_peers,
    disconnect,
    kill_all,
    kill_container,
    kill_operator,
    kill_operator_at_a_step,
    kill_supervisor,
    pause_container,
    remove_container,
    restart_engine,
    stop_container,
    switch_over,
    switch_over_frozen,
)
from harness import docker


def kill_server(lane, member):
    """kill -9 of redis-server alone."""
    redis_objects.kill_servers(lane.cluster.container(member))


def freeze_server(lane, member):
    """SIGSTOP of redis-server: connections stay, and nothing is answered."""
    stopped = redis_objects.servers_of(lane.cluster.container(member))

    def undo():
        for pid in stopped:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                pass  # its supervisor has killed it

    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    return undo


def cut_from_sentinels(lane, member):
    """Drops packets from and to the Sentinels alone: the replicas still follow."""
    return network.cut_peers(lane.cluster, member, ("in", "out"), lambda name: "-sentinel-" in name)


def cut_from_members(lane, member):
    """Drops packets from and to the other data members alone: the Sentinels see them all."""
    return network.cut_peers(lane.cluster, member, ("in", "out"), lambda name: "-sentinel-" not in name)


def restart_container(lane, member):
    """docker restart: back before anybody can count it as down."""
    docker("restart", "-t", "0", lane.cluster.container(member))


def start_again(lane, member):
    """docker kill, and docker start by hand at once, as an old master."""
    docker("kill", lane.cluster.container(member))
    docker("start", lane.cluster.container(member), check=False)


def wipe(lane, member):
    """Everything on the volume of a running member is removed, and its container killed."""
    container = lane.cluster.container(member)
    docker("exec", "-u", "0", container, "sh", "-c", "rm -rf /data/* /data/.[!.]*")
    docker("kill", container)


def change_directives(lane, member):
    """The master dies during a change of a directive that needs a restart, or of one that does not."""
    directive = lane.random.choice((("io-threads", str(lane.random.randint(1, 3))), ("hz", str(lane.random.randint(10, 20)))))
    config = {**lane.cluster.spec.get("config", {}), directive[0]: directive[1]}
    acts = [lambda: lane.cluster.change(config=config), lambda: kill_container(lane, member)]
    lane.random.shuffle(acts)
    for act in acts:
        act()


def scale(field):
    """3, 5, 3 members, or Sentinels."""

    def act(lane, _member):
        lane.insist("five are declared", lambda: lane.cluster.change(**{field: 5}))
        lane.workload.probe(lane.settled_uri(180))
        time.sleep(1)  # writes with five
        lane.insist("three are declared", lambda: lane.cluster.change(**{field: 3}))

    return act


DATA, MASTER, REPLICA, EACH = ("master", "replica"), ("master",), ("replica",), ("master", "replica", "sentinel")
FAULTS = [
    Fault("redis-server killed", kill_server, EACH, weight=1.5),
    Fault("redis-server frozen", freeze_server, EACH, lasts=LONG),
    Fault("supervisor killed", kill_supervisor, EACH),
    Fault("container killed", kill_container, EACH, weight=1.5),
    Fault("container killed and started by hand", start_again, DATA),
    Fault("container restarted", restart_container, EACH),
    Fault("container removed", remove_container, EACH),
    Fault("all containers killed", kill_all, NOBODY, alone=True),
    Fault("container stopped", stop_container, EACH),
    Fault("container paused", pause_container, EACH, lasts=LONG, weight=1.5),
    Fault("network disconnected", disconnect, EACH, lasts=LONG),
    Fault("cut off from the operator", cut_from_operator, EACH, lasts=LONG),
    Fault("cut off from everybody", cut_from_peers("in", "out"), EACH, lasts=LONG),
    Fault("cut off from everybody inwards", cut_from_peers("in"), EACH, lasts=LONG),
    Fault("cut off from everybody outwards", cut_from_peers("out"), EACH, lasts=LONG),
    Fault("cut off from the Sentinels", cut_from_sentinels, EACH, lasts=LONG),
    Fault("cut off from the members", cut_from_members, EACH, lasts=LONG),
    Fault("volume wiped", wipe, EACH, alone=True),
    Fault("switchover", switch_over, NOBODY),
    Fault("replica frozen during a switchover", switch_over_frozen, REPLICA, lasts=LONG),
    Fault("directives changed during a failover", change_directives, MASTER),
    Fault("members scaled 3, 5, 3", scale("replicas"), NOBODY, weight=0.5, alone=True, long=True),
    Fault("Sentinels scaled 3, 5, 3", scale("sentinels"), NOBODY, weight=0.5, alone=True, long=True),
    Fault("operator killed", kill_operator, NOBODY, machine=True),
    Fault("operator killed at a step", kill_operator_at_a_step(kill_container, kill_server, switch_over), MASTER, weight=3, machine=True, alone=True),
    Fault("dockerd restarted, live-restore", restart_engine(True, False), NOBODY, weight=0.5, machine=True),
    Fault("dockerd killed, live-restore", restart_engine(True, True), NOBODY, weight=0.5, machine=True),
    Fault("dockerd restarted, no live-restore", restart_engine(False, False), NOBODY, weight=0.3, machine=True),
    Fault("dockerd killed, no live-restore", restart_engine(False, True), NOBODY, weight=0.3, machine=True),
]  # fmt: skip
