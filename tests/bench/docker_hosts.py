"""Docker hosts in memory: `docker_hosts.py FOLDER HOSTS CONTAINERS` serves Docker's API on a unix socket per host.

It knows what an operator asks of a settled host: ping, version, info, lists, inspects and events. Commands are lines on
standard input, and each is answered by a line of JSON: `fault HOST none|slow|hole|refuse`,
`replace HOST ID` (an empty engine with another ID is there from now on), `reset`, `counts`.
"""

import asyncio
import collections
import datetime
import json
import os
import pathlib
import sys
import time

SLOW = 1.0  # seconds that an answer of a slow host takes
NETWORK = "default.sim"


def container(host, number):
    """One container as Docker lists it."""
    name = f"default.app-{number // 10}-{number % 10}"
    key = f"{host:04d}{number:04d}"
    endpoint = {
        "NetworkID": f"{host:064x}",
        "EndpointID": f"e{key}".ljust(64, "0"),
        "IPAddress": f"10.9.{number // 250}.{number % 250 + 2}",
        "Gateway": "10.9.0.1",
        "IPPrefixLen": 16,
        "MacAddress": "02:42:0a:09:00:02",
    }
    labels = {
        "evenkeel.dev/kind": "Deployment",
        "evenkeel.dev/namespace": "default",
        "evenkeel.dev/name": f"app-{number // 10}",
        "evenkeel.dev/member": f"app-{number // 10}-{number % 10}",
        "evenkeel.dev/spec-hash": key,
    }
    return {
        "Id": f"c{key}".ljust(64, "0"),
        "Names": [f"/{name}"],
        "Image": "nginx:1.22",
        "ImageID": "sha256:" + "0" * 64,
        "Command": "nginx -g 'daemon off;'",
        "Created": 1_700_000_000,
        "Ports": [],
        "Labels": labels,
        "State": "running",
        "Status": "Up 3 days",
        "HostConfig": {"NetworkMode": NETWORK},
        "NetworkSettings": {"Networks": {NETWORK: endpoint}},
        "Mounts": [],
    }


def inspected(listed):
    """The same container as Docker inspects it, as far as an operator reads that."""
    networks = {name: {**one, "Aliases": ["app"]} for name, one in listed["NetworkSettings"]["Networks"].items()}
    return {
        "Id": listed["Id"],
        "Name": listed["Names"][0],
        "Config": {"Labels": listed["Labels"]},
        "NetworkSettings": {"Networks": networks},
    }


class Host:
    """One host: its answers, its fault, and what it was asked."""

    def __init__(self, number, containers):
        self.number = number
        self.fault = "none"
        self.id = f"SIM:{number:04d}"
        self.streams = set()  # open streams of events
        self.counts = collections.Counter()
        self.listed_at = None  # wall clock of the first list of containers since the last reset
        all_of_them = [container(number, one) for one in range(containers)]
        self.containers = {one["Id"]: one for one in all_of_them}
        self.list = json.dumps(all_of_them).encode()
        network = {
            "Name": NETWORK,
            "Id": f"{number:064x}",
            "Labels": {
                "evenkeel.dev/kind": "Network",
                "evenkeel.dev/namespace": "default",
                "evenkeel.dev/name": "default",
            },
            "IPAM": {"Config": [{"Subnet": "10.9.0.0/16"}]},
        }
        self.networks = json.dumps([network]).encode()
        self.images = json.dumps(
            [{"Id": "sha256:" + "0" * 64, "RepoTags": ["nginx:1.22"], "RepoDigests": [], "Created": 0, "Size": 0}]
        ).encode()

    def replace(self, engine_id):
        """Becomes another, empty engine; every stream ends."""
        self.id = engine_id
        self.containers, self.list = {}, b"[]"
        for stream in list(self.streams):
            stream.close()

    def info(self):
        """What it says about itself."""
        now = datetime.datetime.now(datetime.timezone.utc).isoformat().replace("+00:00", "Z")
        return json.dumps(
            {
                "ID": self.id,
                "ServerVersion": "20.10.24",
                "OperatingSystem": "Simulated",
                "Architecture": "x86_64",
                "NCPU": 4,
                "MemTotal": 8 << 30,
                "SystemTime": now,
                "LoggingDriver": "json-file",
            }
        ).encode()

    def answer(self, path):
        """The kind of a request and the body of its answer; None: a stream of events."""
        words = [word for word in path.split("?")[0].split("/") if word]
        if words and words[0].startswith("v1."):
            words = words[1:]
        match words:
            case ["_ping"]:
                return "ping", b"OK"
            case ["version"]:
                return "version", b'{"Version":"20.10.24","ApiVersion":"1.41","MinAPIVersion":"1.12"}'
            case ["info"]:
                return "info", self.info()
            case ["containers", "json"]:
                return "containers", self.list
            case ["containers", name, "json"] if name in self.containers:
                return "inspect", json.dumps(inspected(self.containers[name])).encode()
            case ["volumes"]:
                return "volumes", b'{"Volumes":[],"Warnings":null}'
            case ["networks"]:
                return "networks", self.networks
            case ["images", "json"]:
                return "images", self.images
            case ["events"]:
                return "events", None
        return "other", b'{"message":"not simulated"}'

    async def serve(self, reader, writer):
        """One connection."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
                kind, body = self.answer(path)
                self.counts[kind] += 1
                if self.fault == "refuse":
                    return
                if self.fault == "hole":
                    await asyncio.sleep(3600)
                if self.fault == "slow":
                    await asyncio.sleep(SLOW)
                if kind == "containers" and self.listed_at is None:
                    self.listed_at = time.time()
                if body is None:
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
                    await writer.drain()
                    # The stream is open and silent until one side closes it.
                    self.streams.add(writer)
                    while await reader.read(1024):
                        pass
                    return
                status = "404 Not Found" if kind == "other" else "200 OK"
                lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}"]
                lines += ["Api-Version: 1.41", "", ""]
                writer.write("\r\n".join(lines).encode() + (b"" if method == "HEAD" else body))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.streams.discard(writer)
            writer.close()


def command(hosts, words):
    """Performs a command; returns its answer."""
    if words[0] == "fault":
        hosts[int(words[1])].fault = words[2]
    elif words[0] == "replace":
        hosts[int(words[1])].replace(words[2])
    elif words[0] == "reset":
        for host in hosts:
            host.counts.clear()
            host.listed_at = None
    counts = collections.Counter()
    for host in hosts:
        counts.update(host.counts)
    return {"counts": counts, "listed_at": [host.listed_at for host in hosts]}


async def main():
    """Serves until standard input ends."""
    folder, count, containers = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    hosts = [Host(number, containers) for number in range(count)]
    servers = [await asyncio.start_unix_server(host.serve, folder / f"{host.number}.sock") for host in hosts]
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    print(json.dumps({"serves": len(servers)}), flush=True)
    while line := await lines.readline():
        print(json.dumps(command(hosts, line.decode().split())), flush=True)
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main())
