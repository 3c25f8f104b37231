"""Network faults of one instance: cut off from everything, from its peers (both directions or one), or the operator."""

import os
import pathlib
import signal
import threading

from harness import docker, run

SCAN = 0.05  # seconds between two searches for new bridges of the operator


def process_of(container):
    """Process id, on this machine, of the container's first process."""
    return int(docker("inspect", "-f", "{{.State.Pid}}", container))


def disconnect(cluster, member):
    """Disconnects an instance from its networks. Returns the function that reconnects it."""
    container = cluster.container(member)
    had = {network: cluster.addresses(network).get(member) for network in cluster.networks()}
    had = {network: address for network, address in had.items() if address}
    for network in had:
        docker("network", "disconnect", network, container)

    def undo():
        # The operator may have created another container meanwhile, or connected this one.
        now = cluster.container(member)
        for network, address in had.items():
            docker("network", "connect", "--ip", address, "--alias", member, network, now, check=False)

    return undo


def cut_peers(cluster, member, directions, among=lambda name: True):
    """Drops packets of an instance to its peers (`out`), from them (`in`), or both. Clients are not affected. `among`: only
    of the peers with such a name.

    Returns what lifts that.
    """
    process = process_of(cluster.container(member))
    everywhere = [cluster.addresses(network) for network in cluster.networks()]
    peers = [address for addresses in everywhere for name, address in addresses.items() if name != member and among(name)]
    namespace = os.open(f"/proc/{process}/ns/net", os.O_RDONLY)
    rules = []
    for peer in peers:
        if "in" in directions:
            rules.append(("INPUT", "-s", peer, "-j", "DROP"))
        if "out" in directions:
            rules.append(("OUTPUT", "-d", peer, "-j", "DROP"))
    inside = ("nsenter", f"--net=/proc/{os.getpid()}/fd/{namespace}", "iptables", "-w")
    for rule in rules:
        run(*inside, "-I", *rule)

    def undo():
        for rule in rules:
            run(*inside, "-D", *rule, check=False)
        os.close(namespace)

    return undo


class OperatorCut:
    """Stops the bridges between the operator and the supervisor of one container, including new ones."""

    def __init__(self, container):
        # Control groups know ids only.
        self.container = docker("inspect", "-f", "{{.Id}}", container).strip()
        self.stopped = set()
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.stop_new()
        self.thread.start()

    def run(self):
        """Looks for new bridges until it is stopped."""
        while not self.ending.wait(SCAN):
            self.stop_new()

    def stop_new(self):
        """Sends SIGSTOP to each new bridge."""
        for process in bridges(self.container) - self.stopped:
            self.signal(process, signal.SIGSTOP)
            self.stopped.add(process)

    def signal(self, process, number):
        """Signals a bridge, which may have ended."""
        try:
            os.kill(process, number)
        except ProcessLookupError:
            pass

    def undo(self):
        """Continues all bridges."""
        self.ending.set()
        self.thread.join()
        for process in self.stopped & bridges(self.container):
            self.signal(process, signal.SIGCONT)


def bridges(container):
    """Process ids of the operator's bridges in a container."""
    found = set()
    for entry in pathlib.Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if words[1:2] == [b"dial"] and container in (entry / "cgroup").read_text(encoding="ascii"):
                found.add(int(entry.name))
        except OSError:
            pass  # it has ended meanwhile
    return found
