"""Bytes between two nodes of the lab, for tests of its network."""

import socket
import threading
import time

from private_engine import NAMESPACES, enter

PORT = 7007


def at(network, node, act):
    """Calls the function in a thread that is in the node's namespace. Returns its result or raises its error."""
    outcome = {}

    def work():
        try:
            enter(NAMESPACES / network.netns(node))
            outcome["result"] = act()
        except Exception as error:  # it belongs to the caller
            outcome["error"] = error

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join()
    if "error" in outcome:
        raise outcome["error"]
    return outcome.get("result")


class Talk:
    """One established connection from `here` to `there`."""

    def __init__(self, network, here, there, timeout=2):
        address = (network.nodes[there], PORT)
        self.timeout = timeout
        with at(network, there, lambda: socket.create_server(address)) as listener:
            listener.settimeout(timeout)
            self.near = at(network, here, lambda: socket.create_connection(address, timeout))
            self.far = listener.accept()[0]
        for one in (self.near, self.far):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.near.close()
        self.far.close()

    def arrives(self, forth=True, within=0.5):
        """Sends a byte forth or back; seconds until it arrived, or None if it did not."""
        sender, receiver = (self.near, self.far) if forth else (self.far, self.near)
        receiver.settimeout(within)
        began = time.monotonic()
        sender.send(b"x")
        try:
            return time.monotonic() - began if receiver.recv(1) else None
        except TimeoutError:
            return None


def datagrams(network, here, there, count):
    """The share of this many datagrams from `here` that arrive."""
    address = (network.nodes[there], PORT)

    def bound():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        receiver.bind(address)
        receiver.settimeout(0.3)
        return receiver

    sender = at(network, here, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with at(network, there, bound) as receiver, sender:
        got = 0
        for _ in range(count // 100):
            for _ in range(100):
                sender.sendto(b"x", address)
            try:
                for _ in range(100):
                    receiver.recv(1)
                    got += 1
            except TimeoutError:
                pass
        return got / (count // 100 * 100)
