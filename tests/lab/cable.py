"""A long cable: `cable.py NAME QUEUE MILLISECONDS` accepts each packet of a netfilter queue this much after it came.

Speaks the kernel's nfnetlink_queue protocol in this network namespace; prints `ready` when packets of the queue are
taken. Only the packets' numbers are read, in order. When it ends, the kernel drops what waits.
NAME is the lab's, so that a later run finds what a crashed one left.
"""

import collections
import select
import socket
import struct
import sys
import time

NETLINK_NETFILTER = 12
NFNL_SUBSYS_QUEUE = 3
PACKET, VERDICT, CONFIG = 0, 1, 2  # nfqnl_msg_types
PACKET_HDR, VERDICT_HDR = 1, 2  # attributes of a packet and of a verdict
CFG_CMD, CFG_PARAMS, CFG_MAXLEN, CFG_MASK, CFG_FLAGS = 1, 2, 3, 4, 5
BIND, COPY_META, FLAG_GSO = 1, 1, 1 << 2
NF_ACCEPT = 1
NLM_F_REQUEST, NLM_F_ACK, NLMSG_ERROR = 1, 4, 2
WAITING = 100_000  # packets that may wait


def attribute(kind, value):
    """One netlink attribute, padded."""
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def message(kind, queue, payload, flags=NLM_F_REQUEST):
    """One message of the queue's protocol."""
    body = struct.pack("!BBH", socket.AF_UNSPEC, 0, queue) + payload
    return struct.pack("=IHHII", 16 + len(body), NFNL_SUBSYS_QUEUE << 8 | kind, flags, 0, 0) + body


def configure(link, queue, payload):
    """Sends one setting and reads the kernel's answer."""
    link.send(message(CONFIG, queue, payload, NLM_F_REQUEST | NLM_F_ACK))
    answer = link.recv(1 << 16)
    kind = struct.unpack_from("=H", answer, 4)[0]
    code = struct.unpack_from("=i", answer, 16)[0]
    if kind != NLMSG_ERROR or code != 0:
        sys.exit(f"the kernel refused queue {queue}: {-code}")


def numbers(data):
    """The numbers of the packets that a datagram announces."""
    at = 0
    while at + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        if kind == NFNL_SUBSYS_QUEUE << 8 | PACKET:
            # The packet's header is the first attribute.
            size, attr = struct.unpack_from("=HH", data, at + 20)
            assert attr == PACKET_HDR and size >= 8
            yield struct.unpack_from("!I", data, at + 24)[0]
        at += (length + 3) & ~3


def main():
    """Delays packets until it is ended."""
    queue, delay = int(sys.argv[2]), float(sys.argv[3]) / 1000
    link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 23)
    link.bind((0, 0))
    configure(link, queue, attribute(CFG_CMD, struct.pack("!BBH", BIND, 0, socket.AF_INET)))
    configure(link, queue, attribute(CFG_PARAMS, struct.pack("!IB", 0, COPY_META)))
    configure(link, queue, attribute(CFG_MAXLEN, struct.pack("!I", WAITING)))
    flags = struct.pack("!I", FLAG_GSO)
    configure(link, queue, attribute(CFG_FLAGS, flags) + attribute(CFG_MASK, flags))
    print("ready", flush=True)
    waiting = collections.deque()  # (when it may pass, its number)
    while True:
        left = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        if select.select([link], [], [], left)[0]:
            came = time.monotonic()
            try:
                data = link.recv(1 << 16)
            except OSError:
                continue  # more came than the socket holds: those packets are lost
            waiting.extend((came + delay, number) for number in numbers(data))
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            verdict = struct.pack("!II", NF_ACCEPT, waiting.popleft()[1])
            link.send(message(VERDICT, queue, attribute(VERDICT_HDR, verdict)))


if __name__ == "__main__":
    main()
