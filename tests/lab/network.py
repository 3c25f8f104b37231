"""The lab's network: a namespace for each node, joined by a router namespace where packets between two nodes can be dropped,
lost or delayed, for each direction on its own.

Each node has one address (/32) and one cable to the router. The router decides by source and destination address, so a
cut also ends what is established, without a word to either side.
"""

import json
import pathlib
import subprocess
import sys

from harness import Failed, run
from private_engine import NAMESPACES, end, within

SUBNET = "10.99.0."
GATEWAY = SUBNET + "254"
CABLE = pathlib.Path(__file__).resolve().parent / "cable.py"


class Network:
    """The namespaces `NAME-NODE` of the nodes {node: address} and the router `NAME-net`."""

    def __init__(self, name, nodes):
        self.name = name
        self.nodes = nodes
        self.router = f"{name}-net"
        self.dropped = set()  # (from, to)
        self.off = set()  # nodes without power
        self.lost = {}  # (from, to): percent
        self.delays = {}  # (from, to): (queue, process)

    def netns(self, node):
        """The node's network namespace."""
        return f"{self.name}-{node}"

    def begin(self):
        """Makes the router and all nodes."""
        run("ip", "netns", "add", self.router)
        run("ip", "-n", self.router, "link", "set", "lo", "up")
        self.router_sets("net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.default.rp_filter=0")
        # Answers of the router itself, such as "host unreachable", would be a word about a dead host.
        self.router_sets("net.ipv4.icmp_ratelimit=0", "net.ipv4.conf.all.send_redirects=0")
        for node, address in list(self.nodes.items()):
            self.add(node, address)

    def add(self, node, address):
        """Makes a node."""
        self.nodes[node] = address
        run("ip", "-n", self.router, "route", "add", "blackhole", f"{address}/32", "metric", "4096")
        self.plug(node)

    def drop(self, node):
        """Removes a node."""
        self.unplug(node)
        address = self.nodes.pop(node)
        run("ip", "-n", self.router, "route", "del", "blackhole", f"{address}/32", "metric", "4096")

    def router_sets(self, *settings):
        """Kernel settings of the router."""
        run(*within(self.router), "sysctl", "-q", *settings)

    def plug(self, node):
        """Makes the namespace of a node and its cable to the router."""
        netns, address = self.netns(node), self.nodes[node]
        lines = [
            f"link add {node} type veth peer name eth0 netns {netns}",
            f"addr add {GATEWAY}/32 dev {node}",
            f"link set {node} up",
            f"route add {address}/32 dev {node}",
        ]
        inside = [
            "link set lo up",
            f"addr add {address}/32 dev eth0",
            "link set eth0 up",
            f"route add {GATEWAY}/32 dev eth0 scope link",
            f"route add default via {GATEWAY} src {address}",
        ]
        run("ip", "netns", "add", netns)
        run("ip", "-n", self.router, "-batch", "-", text="\n".join(lines))
        run("ip", "-n", netns, "-batch", "-", text="\n".join(inside))

    def renumber(self, node, address):
        """Gives a node another address; the one that it had is gone."""
        netns, former = self.netns(node), self.nodes[node]
        routes = [
            f"route add blackhole {address}/32 metric 4096",
            f"route add {address}/32 dev {node}",
            f"route del {former}/32 dev {node}",
            f"route del blackhole {former}/32 metric 4096",
        ]
        inside = [
            f"addr add {address}/32 dev eth0",
            f"route replace default via {GATEWAY} src {address}",
            f"addr del {former}/32 dev eth0",
        ]
        run("ip", "-n", self.router, "-batch", "-", text="\n".join(routes))
        run("ip", "-n", netns, "-batch", "-", text="\n".join(inside))
        self.nodes[node] = address

    def unplug(self, node):
        """Removes the namespace of a node, in which no process may be left, with all that it had: bridges, rules, sockets."""
        run("ip", "-n", self.router, "link", "del", node, check=False)
        run("ip", "netns", "del", self.netns(node), check=False)

    # What happens to packets

    def cut(self, here, there):
        """Drops what `here` sends to `there`."""
        self.dropped.add((here, there))
        self.apply()

    def cut_both(self, here, there):
        """Drops what either sends to the other; groups of nodes are given as lists."""
        for pair in pairs(here, there):
            self.dropped |= {pair, pair[::-1]}
        self.apply()

    def cut_off(self, node):
        """Drops everything from and to a node: its cable is pulled, and nobody is told."""
        self.off.add(node)
        self.apply()

    def join(self, node):
        """Ends `cut_off`."""
        self.off.discard(node)
        self.apply()

    def heal(self, here=None, there=None):
        """Ends all faults, or those of packets from `here` to `there`. Nodes that are cut off stay so."""
        chosen = lambda pair: here is None or pair == (here, there)  # noqa: E731
        self.dropped = {pair for pair in self.dropped if not chosen(pair)}
        self.lost = {pair: percent for pair, percent in self.lost.items() if not chosen(pair)}
        ended = [self.delays.pop(pair)[1] for pair in list(self.delays) if chosen(pair)]
        self.apply()
        for process in ended:
            end(process)

    def loss(self, here, there, percent):
        """Loses this share of the packets from `here` to `there`, at random."""
        self.lost[here, there] = percent
        self.apply()

    def delay(self, here, there, milliseconds):
        """Lets every packet from `here` to `there` arrive this much later, in order."""
        former = self.delays.pop((here, there), None)
        used = {queue for queue, _ in self.delays.values()}
        queue = next(number for number in range(1, 1 << 16) if number not in used)
        command = (*within(self.router), sys.executable, str(CABLE), self.name, str(queue), str(milliseconds))
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        if process.stdout.readline().strip() != "ready":
            raise Failed(f"the delay of {milliseconds} ms from {here} to {there} could not be made")
        self.delays[here, there] = (queue, process)
        self.apply()
        if former:
            end(former[1])

    def apply(self):
        """Replaces the router's rules by those of the current faults, at once."""
        lines = ["*filter", ":INPUT ACCEPT", ":FORWARD ACCEPT", ":OUTPUT ACCEPT"]
        for node in sorted(self.off):
            address = self.nodes[node]
            lines += [f"-A FORWARD -s {address} -j DROP", f"-A FORWARD -d {address} -j DROP"]
        for pair in sorted(self.dropped):
            lines.append(f"-A FORWARD {self.matching(pair)} -j DROP")
        for pair, percent in sorted(self.lost.items()):
            share = f"-m statistic --mode random --probability {percent / 100:.4f}"
            lines.append(f"-A FORWARD {self.matching(pair)} {share} -j DROP")
        for pair, (queue, _) in sorted(self.delays.items()):
            lines.append(f"-A FORWARD {self.matching(pair)} -j NFQUEUE --queue-num {queue}")
        run(*within(self.router), "iptables-restore", "-w", text="\n".join([*lines, "COMMIT", ""]))

    def matching(self, pair):
        """The part of a rule that matches packets of this pair."""
        here, there = pair
        return f"-s {self.nodes[here]} -d {self.nodes[there]}"

    def told(self):
        """What is disturbed now, in words."""
        words = {
            "off": sorted(self.off),
            "dropped": [" -> ".join(pair) for pair in sorted(self.dropped)],
            "lost": {" -> ".join(pair): percent for pair, percent in self.lost.items()},
            "delayed": [" -> ".join(pair) for pair in self.delays],
        }
        return json.dumps({what: seen for what, seen in words.items() if seen})

    def remove(self):
        """Removes all namespaces."""
        for _, process in self.delays.values():
            end(process)
        self.delays = {}
        for node in self.nodes:
            run("ip", "netns", "del", self.netns(node), check=False)
        run("ip", "netns", "del", self.router, check=False)
        left = [path.name for path in namespaces_of(self.name)]
        if left:
            raise Failed(f"namespaces are left: {left}")


def pairs(here, there):
    """All pairs of two nodes, or of the nodes of two lists."""
    listed = lambda nodes: [nodes] if isinstance(nodes, str) else list(nodes)  # noqa: E731
    return [(one, other) for one in listed(here) for other in listed(there) if one != other]


def namespaces_of(name):
    """The namespaces of a lab with this name, of a run that may have crashed."""
    return sorted(NAMESPACES.glob(f"{name}-*")) if NAMESPACES.exists() else []
