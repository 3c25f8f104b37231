"""The faults: each disturbs a cluster and may return a function that undoes it.

A fault's `act(lane, member)` is called with the lane (its cluster, disks, machine and random source) and the instance it
strikes. What it returns is called when the fault has lasted for as long as it was to.
"""

import dataclasses
import subprocess
import time
from collections.abc import Callable

import network
from harness import docker, kill_postmaster, run

SHORT, LONG = (0.5, 4.0), (2.0, 8.0)  # seconds; three without a report count as a failure


@dataclasses.dataclass(frozen=True)
class Fault:
    """One type of fault."""

    name: str
    act: Callable
    roles: tuple = ("primary", "standby")  # its target; (None,): no particular instance
    weight: float = 1.0
    lasts: tuple = (0.0, 0.0)  # seconds between act and undo
    by_engine: bool = True  # undo needs the engine
    long: bool = False  # long; other lanes may disturb meanwhile
    machine: bool = False  # affects every cluster
    alone: bool = False  # never combined with another: it removes a copy of the data, or is long

    def named(self, role):
        """Its name with its target."""
        return f"{self.name}, {role}" if role else self.name


# Processes and containers


def kill_postgres(lane, member):
    """kill -9 of only the postmaster."""
    kill_postmaster(lane.cluster.postmaster(member))


def kill_supervisor(lane, member):
    """kill -9 of the container's first process, which ends the container; Docker restarts it."""
    kill_postmaster(network.process_of(lane.cluster.container(member)))


def kill_container(lane, member):
    """docker kill."""
    docker("kill", lane.cluster.container(member))


def remove_container(lane, member):
    """docker rm -f."""
    docker("rm", "-f", lane.cluster.container(member))


def kill_all(lane, _member):
    """docker kill of all instances at once."""
    docker("kill", *lane.cluster.containers())


def stop_container(lane, member):
    """docker stop, without waiting for it."""
    stopping = subprocess.Popen(
        ["docker", "stop", lane.cluster.container(member)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return lambda: stopping.wait(60)


def pause_container(lane, member):
    """docker pause."""
    container = lane.cluster.container(member)
    docker("pause", container)
    # The operator may have replaced the frozen container.
    return lambda: docker("unpause", container, check=False)


# The network


def disconnect(lane, member):
    """docker network disconnect."""
    return network.disconnect(lane.cluster, member)


def cut_from_operator(lane, member):
    """The operator receives nothing from the supervisor."""
    return network.OperatorCut(lane.cluster.container(member)).undo


def cut_from_peers(*directions):
    """Drops packets from and to the other instances."""
    return lambda lane, member: network.cut_peers(lane.cluster, member, directions)


# Disks


def fill_disk(lane, member):
    """Fills the volume while the server needs a block."""
    undo = lane.disks[member].fill()
    lane.workload.flood(64)
    return undo


def slow_disk(lane, member):
    """The volume accepts only a few writes per second."""
    return lane.disks[member].slow_down(network.process_of(lane.cluster.container(member)))


def freeze_disk(lane, member):
    """No write to the volume completes."""
    return lane.disks[member].freeze()


def replace_volume(lane, member):
    """The container dies and restarts with an empty volume."""
    container = lane.cluster.container(member)
    lane.disks[member].replace()
    docker("kill", container)


def empty_volume(lane, member):
    """Removes everything on the volume of a running server."""
    lane.disks[member].empty()


# Actions of users


def switch_over(lane, _member):
    """`evenkeel switchover`, half of the time to a named standby; its result is ignored."""
    target = lane.random.choice([[], ["--to", lane.follower()]])
    lane.begin_cli("switchover", lane.cluster.name, *target)


def switch_over_frozen(lane, member):
    """Freezes a standby, and then requests a switchover."""
    undo = pause_container(lane, member)
    switch_over(lane, member)
    return undo


def change_parameters(lane, member):
    """The primary dies during a change of a parameter that needs a restart, or of one that does not."""
    changes = {"max_connections": str(lane.random.choice((60, 70, 80)))}
    if lane.random.random() < 0.5:
        changes = {"work_mem": f"{lane.random.randint(4, 9)}MB"}
    acts = [
        lambda: lane.cluster.apply(parameters={**lane.cluster.spec["parameters"], **changes}),
        lambda: kill_container(lane, member),
    ]
    lane.random.shuffle(acts)
    for act in acts:
        act()


def scale(lane, _member):
    """3, 5, 3 instances."""
    lane.make_disks(5)
    lane.insist("five instances are declared", lambda: lane.cluster.apply(instances=5))
    lane.workload.probe(lane.settled_uri(120))
    time.sleep(1)  # writes with five instances
    lane.insist("three instances are declared", lambda: lane.cluster.apply(instances=3))


def promote_by_hand(lane, member):
    """A user runs pg_ctl promote on a standby."""
    script = "$(ls /usr/lib/postgresql/*/bin/pg_ctl) promote -W -D /var/lib/postgresql/data/pgdata"
    run("docker", "exec", "-u", "postgres", lane.cluster.container(member), "sh", "-c", script)


# The operator and the engine


def kill_operator(lane, _member):
    """kill -9 of the operator; another one starts up to two seconds later."""
    lane.machine.operator.kill()
    time.sleep(lane.random.uniform(0, 2))
    lane.machine.operator.start()


def kill_operator_at_a_step(*triggers):
    """kill -9 of the operator when its k-th step after a disturbance is done; k grows from round to round."""

    def act(lane, member):
        trigger = lane.random.choice(triggers)
        lane.machine.kill_at_step(lane, trigger, lambda: trigger(lane, member))

    return act


def restart_engine(live, kill):
    """dockerd is stopped and started again."""

    def act(lane, _member):
        engine = lane.machine.engine
        engine.live_restore(live)
        engine.end(kill)
        time.sleep(lane.random.uniform(0, 2))
        engine.start()

    return act


AT_A_STEP = kill_operator_at_a_step(kill_container, kill_postgres, switch_over)
PRIMARY, STANDBY, NOBODY = ("primary",), ("standby",), (None,)
FAULTS = [
    Fault("postmaster killed", kill_postgres, weight=1.5),
    Fault("supervisor killed", kill_supervisor),
    Fault("container killed", kill_container, weight=1.5),
    Fault("container removed", remove_container),
    Fault("all containers killed", kill_all, NOBODY, alone=True),
    Fault("container stopped", stop_container),
    Fault("container paused", pause_container, lasts=LONG, weight=1.5),
    Fault("network disconnected", disconnect, lasts=LONG),
    Fault("cut off from the operator", cut_from_operator, lasts=LONG),
    Fault("cut off from its peers", cut_from_peers("in", "out"), lasts=LONG),
    Fault("cut off from its peers inwards", cut_from_peers("in"), lasts=LONG),
    Fault("cut off from its peers outwards", cut_from_peers("out"), lasts=LONG),
    Fault("volume full", fill_disk, lasts=SHORT, by_engine=False, alone=True),
    Fault("disk slow", slow_disk, lasts=LONG, by_engine=False),
    Fault("disk frozen", freeze_disk, lasts=SHORT, by_engine=False),
    Fault("volume wiped", replace_volume, alone=True),
    Fault("volume emptied while it runs", empty_volume, alone=True),
    Fault("switchover", switch_over, NOBODY),
    Fault("standby frozen during a switchover", switch_over_frozen, STANDBY, lasts=LONG),
    Fault("parameters changed during a failover", change_parameters, PRIMARY),
    Fault("scaled 3, 5, 3", scale, NOBODY, weight=0.5, alone=True, long=True),
    Fault("standby promoted by hand", promote_by_hand, STANDBY, alone=True),
    Fault("operator killed", kill_operator, NOBODY, machine=True),
    Fault("operator killed at a step", AT_A_STEP, PRIMARY, weight=3, machine=True, alone=True),
    Fault("dockerd restarted, live-restore", restart_engine(True, False), NOBODY, weight=0.5, machine=True),
    Fault("dockerd killed, live-restore", restart_engine(True, True), NOBODY, weight=0.5, machine=True),
    Fault("dockerd restarted, no live-restore", restart_engine(False, False), NOBODY, weight=0.3, machine=True),
    Fault("dockerd killed, no live-restore", restart_engine(False, True), NOBODY, weight=0.3, machine=True),
]


def possible(faults, engine, disks, slow):
    """Those of the faults that this machine can provide: depends on a private engine, disks, and disks that can be slow."""
    of_disks = {fill_disk, slow_disk, freeze_disk, replace_volume, empty_volume, scale}
    return [
        fault
        for fault in faults
        if (engine or not fault.name.startswith("dockerd"))
        and (disks or fault.act not in of_disks)
        and (slow or fault.act is not slow_disk)
    ]


def entries(faults, words):
    """(fault, role) for each target of each fault whose name contains one of the words and none of the words with a
    minus in front."""
    wanted = [word for word in words if not word.startswith("-")]
    unwanted = [word[1:] for word in words if word.startswith("-")]
    found = [(fault, role) for fault in faults for role in fault.roles]
    return [
        (fault, role)
        for fault, role in found
        if (not wanted or any(word in fault.named(role) for word in wanted))
        and not any(word in fault.named(role) for word in unwanted)
    ]


def choose(rng, choices, pairs):
    """One fault, or with probability `pairs` two compatible ones: [(fault, role)]."""

    def pick(among):
        return rng.choices(among, [fault.weight / len(fault.roles) for fault, _ in among])[0]

    first = pick(choices)
    if first[0].alone or rng.random() >= pairs:
        return [first]
    others = [one for one in choices if not one[0].alone and one[0] is not first[0] and not clash(first, one)]
    return [first, pick(others)] if others else [first]


def clash(one, other):
    """Whether two faults exclude each other: two that kill the leader or two lasting ones on it, two machine-wide
    ones, or one that waits for a disk which is unblocked only afterwards."""
    faults = one[0], other[0]
    machine = sum(fault.machine for fault in faults)
    frozen = any(fault.act is freeze_disk for fault in faults)
    both = one[1] == other[1] in ("primary", "master")
    lasting = sum(fault.lasts != (0.0, 0.0) for fault in faults)
    return machine == 2 or (machine == 1 and frozen) or (both and (frozen or lasting != 1))
