"""An HTTP proxy between supervisors and an S3 server that fails as stores do: `Proxy(host, (host, port)).mode = ...`.

Modes, each with a share of the requests that it hits: `slowdown` (503), `cut` (the connection ends in the middle of
the answer or of the upload), `slow` (so many bytes a second), `answer-lost` (the store did it, and nobody hears of
it), `stale-list` (lists as they were a while ago).
"""

import http.client
import http.server
import random
import socket
import threading
import time

SLOWDOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)
MODES = ("slowdown", "cut", "slow", "answer-lost", "stale-list")
CHUNK = 64 << 10
SLOW_RATE = 2 << 20  # bytes a second
STALE = 5.0  # seconds that a list may be old
HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "proxy-connection"}


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_):
        """Nothing is logged."""

    def handle_any(self):
        """Passes one request on, or fails it."""
        proxy = self.server.proxy
        mode = proxy.draw(self.command)
        body = self.body(mode)
        if body is None:
            return self.hang_up()
        if mode == "slowdown":
            return self.answer(503, [("Content-Type", "application/xml")], SLOWDOWN)
        is_list = self.command == "GET" and ("list-type=2" in self.path or self.path.rstrip("/").count("/") == 1)
        if mode == "stale-list" and is_list and (old := proxy.old_list(self.path)):
            return self.answer(*old)
        try:
            status, headers, content = proxy.ask(self.command, self.path, body, self.headers)
        except OSError:
            return self.hang_up()
        if is_list and status == 200:
            proxy.remember(self.path, (status, headers, content))
        if mode == "answer-lost":
            return self.hang_up()
        if mode == "cut":
            return self.answer(status, headers, content, upto=proxy.random.randrange(len(content) + 1))
        return self.answer(status, headers, content, rate=SLOW_RATE if mode == "slow" else None)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

    def body(self, mode):
        """What the client sends; None when the connection is to be cut on the way."""
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        length = int(self.headers.get("Content-Length") or 0)
        cut = self.server.proxy.random.randrange(length) if mode == "cut" and length else None
        parts, left = [], length
        while left:
            part = self.rfile.read(min(left, CHUNK))
            if not part:
                return None
            parts.append(part)
            left -= len(part)
            if cut is not None and length - left > cut:
                return None
            if mode == "slow":
                time.sleep(len(part) / SLOW_RATE)
        return b"".join(parts)

    def answer(self, status, headers, content, upto=None, rate=None):
        """Sends an answer, or its begin."""
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in HOP and name.lower() != "content-length":
                self.send_header(name, value)
        length = dict((name.lower(), value) for name, value in headers).get("content-length")
        self.send_header("Content-Length", length if self.command == "HEAD" and length else str(len(content)))
        self.end_headers()
        content = content if upto is None else content[:upto]
        for begin in range(0, len(content), CHUNK):
            self.wfile.write(content[begin : begin + CHUNK])
            if rate:
                time.sleep(CHUNK / rate)
        if upto is not None:
            self.hang_up()

    def hang_up(self):
        """Ends the connection."""
        self.close_connection = True
        try:
            self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


class Server(http.server.ThreadingHTTPServer):
    """Threads that die with the program; a client that goes away is no error."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_):
        """A broken connection is what this is for."""


class Proxy:
    """The proxy; in its mode `None` everything passes."""

    def __init__(self, host, upstream, seed=0):
        self.upstream, self.random, self.lock = upstream, random.Random(seed), threading.Lock()
        self.mode, self.share, self.hits, self.lists = None, 0.3, {}, {}
        self.local = threading.local()
        self.server = Server((host, 0), Handler)
        self.server.proxy = self
        self.endpoint = f"http://{host}:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def draw(self, _verb):
        """The fault of the next request, if it gets one."""
        with self.lock:
            mode = self.mode
            if mode is None or self.random.random() > self.share:
                return None
            self.hits[mode] = self.hits.get(mode, 0) + 1
            return mode

    def ask(self, verb, path, body, headers):
        """Asks the server: (status, headers, content)."""
        connection = http.client.HTTPConnection(self.upstream[0], self.upstream[1], timeout=60)
        try:
            passed = {name: value for name, value in headers.items() if name.lower() not in HOP | {"expect"}}
            passed["Content-Length"] = str(len(body))
            connection.request(verb, path, body=body, headers=passed)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        except http.client.HTTPException as problem:
            raise OSError(problem) from problem
        finally:
            connection.close()

    def remember(self, path, answer):
        """Keeps an answer to a list, for later."""
        with self.lock:
            self.lists.setdefault(path, []).append((time.monotonic(), answer))
            self.lists[path] = self.lists[path][-20:]

    def old_list(self, path):
        """The oldest answer to this list that is not too old; None if there is none."""
        with self.lock:
            known = self.lists.get(path, [])
            limit = time.monotonic() - STALE
            return next((answer for at, answer in known if at >= limit), None)

    def stop(self):
        """Ends it."""
        self.server.shutdown()
        self.server.server_close()
