"""A proxy in front of the Docker Engine's unix socket that counts requests by method and path."""

import asyncio
import collections
import os
import pathlib
import re
import tempfile
import threading

SOCKET = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
NAMES = re.compile(r"^(/v[\d.]+)?/(containers|exec|images|volumes|networks)/(?!create$|json$|prune$)[^?]+?(/[a-z]+)?$")


def template(target):
    """A path without its version, names and query."""
    path = target.partition("?")[0]
    found = NAMES.match(path)
    return f"/{found[2]}/NAME{found[3] or ''}" if found else re.sub(r"^/v[\d.]+", "", path)


class Counting:
    """The proxy, in its own thread. `host` is for DOCKER_HOST; `taken` returns and clears the counts."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="evenkeel-proxy-")
        self.path = pathlib.Path(self.folder.name) / "docker.sock"
        self.counts = collections.Counter()
        self.lock = threading.Lock()
        self.serving = set()  # asyncio keeps only weak references to its tasks
        self.loop = self.ending = None
        listens = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self.run(listens)), daemon=True)
        self.thread.start()
        if not listens.wait(10):
            raise RuntimeError("the counting proxy does not listen")

    @property
    def host(self):
        """The value for DOCKER_HOST."""
        return f"unix://{self.path}"

    def taken(self):
        """Returns and clears the counts: {"GET /containers/json": 3}."""
        with self.lock:
            counts, self.counts = self.counts, collections.Counter()
        return dict(sorted(counts.items()))

    def stop(self):
        """Stops it and closes all its connections."""
        self.loop.call_soon_threadsafe(self.ending.set)
        self.thread.join(10)
        self.folder.cleanup()

    async def run(self, listens):
        """The thread's main function."""
        self.loop, self.ending = asyncio.get_running_loop(), asyncio.Event()
        await asyncio.start_unix_server(self.serve, str(self.path), limit=1 << 20)
        listens.set()
        await self.ending.wait()

    async def serve(self, reader, writer):
        """Serves one client connection."""
        self.serving.add(asyncio.current_task())
        answers, requests = await asyncio.open_unix_connection(SOCKET)
        try:
            await asyncio.gather(self.requests(reader, requests), pass_on(answers, writer))
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            requests.close()
            writer.close()
            self.serving.discard(asyncio.current_task())

    async def requests(self, reader, writer):
        """Counts requests and forwards everything unchanged."""
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                break
            writer.write(head)
            lines = head.decode("latin-1").split("\r\n")
            method, target, _ = lines[0].split(" ", 2)
            with self.lock:
                self.counts[f"{method} {template(target)}"] += 1
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            if "upgrade" in headers:
                await pass_on(reader, writer)
                return
            await pass_body(reader, writer, headers)
            await writer.drain()
        writer.write_eof()


async def pass_body(reader, writer, headers):
    """Forwards one request's body."""
    if headers.get("transfer-encoding") == "chunked":
        while True:
            size = await reader.readuntil(b"\r\n")
            chunk = await reader.readexactly(int(size.partition(b";")[0], 16) + 2)
            writer.write(size + chunk)
            if len(chunk) == 2:
                return
    elif int(headers.get("content-length", 0)):
        writer.write(await reader.readexactly(int(headers["content-length"])))


async def pass_on(reader, writer):
    """Forwards bytes until the end."""
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.write_eof()
