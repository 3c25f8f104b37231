"""The tests' web application, in one file: HTTP/1.1 with keep-alive on asyncio, PostgreSQL and Redis when asked for.

    GET  /api/v2/ping/   {"version", "pod", "pid", "requests"}; 503 while unready
    GET  /               the version and the pod's name, as text
    GET  /slow?ms=N      answers after N milliseconds
    POST /echo           the body back
    GET  /db             writes a row and counts rows (DATABASE_URL, or the files of DB_SECRET, /run/secrets/db)
    GET  /redis          INCR of one key (REDIS_HOST:REDIS_PORT, or the unix socket REDIS_SOCKET)
    GET  /env?name=N     one environment variable (a test's own; there is nothing to hide here)
    GET  /file?path=P    one file
    GET  /live           200, or no answer while it hangs
    POST /unready /ready /hang /crash   change how it behaves

PORT (8052) says where it listens, LISTEN_SOCKET adds a unix socket, START_DELAY waits that many seconds first,
STOP_DELAY goes on taking connections for that many seconds after SIGTERM. On SIGTERM it stops listening, finishes what
is under way with `Connection: close`, and ends.

`app.py redis PATH` is another program: a Redis on a unix socket that knows INCR only, for a pod of two containers.
`app.py check` asks the application beside it, for exec probes.
"""

import asyncio
import json
import os
import signal
import socket
import sys
import time
from urllib.parse import parse_qs, unquote

VERSION = os.environ.get("VERSION", "0")
POD = os.environ.get("HOSTNAME", socket.gethostname())
REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 413: "Too Large", 500: "Error", 503: "Not Ready"}
LARGEST = 16 << 20  # bytes of a request
GRACE = 25.0  # seconds that requests under way may take after SIGTERM


class State:
    """What the toggles change."""

    ready = True
    hanging = False
    stopping = False
    requests = 0
    connections = set()


def db(_query):
    """Inserts a row and counts all; in a thread, psycopg2 blocks."""
    import psycopg2  # not at the start: most containers never speak to a database

    folder = os.environ.get("DB_SECRET", "/run/secrets/db")
    url = os.environ.get("DATABASE_URL")
    if not url:
        with open(os.path.join(folder, "uri"), encoding="utf-8") as file:
            url = file.read().strip()
    connection = psycopg2.connect(url, connect_timeout=3)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE IF NOT EXISTS evenkeel_web (pod text, at timestamptz DEFAULT now())")
            cursor.execute("INSERT INTO evenkeel_web (pod) VALUES (%s)", (POD,))
            cursor.execute("SELECT count(*), inet_server_addr()::text FROM evenkeel_web")
            rows, server = cursor.fetchone()
        return 200, {"rows": rows, "server": server}
    finally:
        connection.close()


async def redis(_query):
    """INCR of one key, in Redis' own protocol."""
    path = os.environ.get("REDIS_SOCKET")
    if path:
        reader, writer = await asyncio.open_unix_connection(path)
    else:
        reader, writer = await asyncio.open_connection(
            os.environ.get("REDIS_HOST", "redis"), int(os.environ.get("REDIS_PORT", "6379"))
        )
    try:
        writer.write(b"*2\r\n$4\r\nINCR\r\n$12\r\nevenkeel-web\r\n")
        line = (await asyncio.wait_for(reader.readline(), 3)).decode().strip()
        if not line.startswith(":"):
            return 503, {"redis": line}
        return 200, {"count": int(line[1:])}
    finally:
        writer.close()


async def slow(query):
    """Waits, then answers."""
    await asyncio.sleep(float(query.get("ms", ["100"])[0]) / 1000)
    return 200, {"slept": True, "version": VERSION, "pod": POD}


async def in_thread(work, query):
    """Work that blocks."""
    return await asyncio.get_running_loop().run_in_executor(None, work, query)


def ping():
    """What the probes and the balancer ask."""
    if not State.ready:
        return 503, {"ready": False, "pod": POD}
    return 200, {"version": VERSION, "pod": POD, "pid": os.getpid(), "requests": State.requests}


def read_file(query):
    """One file, its mode and the file system under it."""
    path = query.get("path", [""])[0]
    info = os.stat(path)
    with open(path, encoding="utf-8") as file:
        return 200, {"text": file.read(), "mode": oct(info.st_mode & 0o7777), "uid": info.st_uid}


def answer(method, path, query, body):
    """(status, text or value), or a coroutine that gives it. Never blocks."""
    if path in ("/api/v2/ping/", "/api/v2/ping"):
        return ping()
    if path == "/":
        return 200, f"{VERSION} {POD}\n"
    if path == "/live":
        return 200, "alive\n"
    if path == "/slow":
        return slow(query)
    if path == "/db":
        return in_thread(db, query)
    if path == "/redis":
        return redis(query)
    if path == "/env":
        return 200, {"value": os.environ.get(query.get("name", [""])[0])}
    if path == "/file":
        return read_file(query)
    if method != "POST":
        return (405 if path in TOGGLES or path == "/echo" else 404), f"{method} {path}\n"
    if path == "/echo":
        return 200, body
    if path in TOGGLES:
        return TOGGLES[path]()
    return 404, f"{method} {path}\n"


def be(**changes):
    """A toggle."""

    def change():
        for name, value in changes.items():
            setattr(State, name, value)
        return 200, {"pod": POD, **changes}

    return change


def crash():
    """Ends at once, in the middle of the request."""
    print("told to crash", flush=True)
    os._exit(42)


TOGGLES = {"/unready": be(ready=False), "/ready": be(ready=True), "/hang": be(hanging=True), "/crash": crash}


class Connection(asyncio.Protocol):
    """One client's connection: requests are parsed and answered in their order."""

    def __init__(self):
        self.transport = None
        self.waiting = bytearray()
        self.task = None  # the answer under way that takes its time

    def connection_made(self, transport):
        self.transport = transport
        State.connections.add(self)

    def connection_lost(self, _error):
        State.connections.discard(self)
        if self.task:
            self.task.cancel()

    def data_received(self, data):
        self.waiting += data
        self.advance()

    def advance(self):
        """Answers every whole request that is here, one after the other."""
        while self.task is None and not State.hanging:
            end = self.waiting.find(b"\r\n\r\n")
            if end < 0:
                if len(self.waiting) > 65536:
                    self.write(413, "the head is too long\n", False)
                return
            lines = bytes(self.waiting[:end]).decode("latin-1").split("\r\n")
            headers = {}
            for line in lines[1:]:
                name, _, value = line.partition(":")
                headers[name.strip().lower()] = value.strip()
            try:
                method, target, protocol = lines[0].split(" ")
                length = int(headers.get("content-length", "0"))
            except ValueError:
                return self.write(400, "what is that?\n", False)
            if length > LARGEST or "chunked" in headers.get("transfer-encoding", ""):
                return self.write(413, "too large, or in chunks\n", False)
            if "100-continue" in headers.get("expect", "") and len(self.waiting) < end + 4 + length:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            if len(self.waiting) < end + 4 + length:
                return
            body = bytes(self.waiting[end + 4 : end + 4 + length])
            del self.waiting[: end + 4 + length]
            wish = headers.get("connection", "").lower()
            keep = wish == "keep-alive" if protocol == "HTTP/1.0" else wish != "close"
            self.respond(method, target, body, keep)

    def respond(self, method, target, body, keep):
        """One request."""
        State.requests += 1
        path, _, query = target.partition("?")
        try:
            result = answer(method, unquote(path), parse_qs(query), body)
        except Exception as error:  # a request shall not end the program
            result = 500, f"{type(error).__name__}: {error}\n"
        if asyncio.iscoroutine(result):
            self.task = asyncio.ensure_future(self.later(result, keep))
        else:
            self.write(*result, keep)

    async def later(self, coroutine, keep):
        """Answers when the coroutine has ended."""
        try:
            result = await coroutine
        except asyncio.CancelledError:
            raise
        except Exception as error:
            result = 503, f"{type(error).__name__}: {error}\n"
        self.task = None
        self.write(*result, keep)
        self.advance()

    def write(self, status, content, keep):
        """One answer. The connection ends after it when the client or the shutdown wishes so."""
        kind = "text/plain"
        if isinstance(content, (dict, list)):
            content, kind = json.dumps(content) + "\n", "application/json"
        if isinstance(content, str):
            content = content.encode()
        keep = keep and not State.stopping
        head = (
            f"HTTP/1.1 {status} {REASONS.get(status, 'Other')}\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(content)}\r\nX-Pod: {POD}\r\nX-Version: {VERSION}\r\n"
            f"Connection: {'keep-alive' if keep else 'close'}\r\n\r\n"
        )
        self.transport.write(head.encode() + content)
        if not keep:
            self.transport.close()

    def idle(self):
        """Nothing of a request is here."""
        return self.task is None and not self.waiting


async def stop(servers, done):
    """The graceful end."""
    State.stopping = True
    await asyncio.sleep(float(os.environ.get("STOP_DELAY", "0")))
    for server in servers:
        server.close()
    until = time.monotonic() + GRACE
    # An idle connection may have a request on the way: it gets a moment to arrive and is answered with `close`.
    await asyncio.sleep(0.2)
    for connection in [each for each in State.connections if each.idle()]:
        connection.transport.close()
    while State.connections and time.monotonic() < until:
        await asyncio.sleep(0.02)
    done.set()


async def main():
    """Listens until told to end."""
    time.sleep(float(os.environ.get("START_DELAY", "0")))
    loop = asyncio.get_running_loop()
    done = asyncio.Event()
    port = int(os.environ.get("PORT", "8052"))
    servers = [await loop.create_server(Connection, "0.0.0.0", port, backlog=1024, reuse_address=True)]
    path = os.environ.get("LISTEN_SOCKET")
    if path:
        servers.append(await loop.create_unix_server(Connection, path))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: asyncio.ensure_future(stop(servers, done)))
    print(f"version {VERSION} listens on port {port} as {POD}", flush=True)
    await done.wait()
    print("ended after its last answer", flush=True)


async def serve_counts(path):
    """The Redis that knows INCR only."""
    counts = {}

    async def serve(reader, writer):
        while line := await reader.readline():
            words = []
            for _ in range(int(line[1:])):
                size = int((await reader.readline())[1:])
                words.append((await reader.readexactly(size + 2))[:-2])
            counts[words[1]] = counts.get(words[1], 0) + 1
            writer.write(b":%d\r\n" % counts[words[1]])
        writer.close()

    await asyncio.start_unix_server(serve, path)
    done = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, done.set)
    await done.wait()


if __name__ == "__main__":
    if sys.argv[1:2] == ["redis"]:
        asyncio.run(serve_counts(sys.argv[2]))
        sys.exit()
    if sys.argv[1:] == ["check"]:
        # An exec probe: does the program beside us answer?
        import http.client

        probe = http.client.HTTPConnection("127.0.0.1", int(os.environ.get("PORT", "8052")), timeout=2)
        probe.request("GET", "/api/v2/ping/")
        sys.exit(0 if probe.getresponse().status == 200 else 1)
    asyncio.run(main())
