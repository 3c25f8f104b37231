"""Load on an HTTP address by independent programs, and a client with two addresses.

`Wrk` keeps its connections; `Hey` makes one a request, or posts. Both are run
until `stop`, and what they say at their end becomes a `Result`. `PairClient` is
what a real client of two balancers does; neither program can do that.

Only addresses of this machine's loopback are loaded.
"""

import asyncio
import dataclasses
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

from harness import Failed

UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60000.0}
LATENCY = re.compile(r"^\s+(50|99)%\s+([\d.]+)(us|ms|s|m) *$", re.MULTILINE)


@dataclasses.dataclass
class Result:
    """The result of a load. `failed` counts every answer that is not 2xx; latencies in ms."""

    client: str
    requests: int
    seconds: float
    p50: float
    p99: float
    failures: dict = dataclasses.field(default_factory=dict)

    @property
    def failed(self):
        """Number of failed requests."""
        return sum(self.failures.values())


class Program:
    """A running load generator; `stop` ends it like Ctrl-C and parses its report."""

    def __init__(self, name, command):
        self.name = name
        self.began = time.monotonic()
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def stop(self):
        """Ends it. Returns the Result."""
        self.process.send_signal(signal.SIGINT)
        try:
            out = self.process.communicate(timeout=40)[0]
        except subprocess.TimeoutExpired as expired:
            self.process.kill()
            self.process.communicate()
            raise Failed(f"{self.name} did not end") from expired
        try:
            return self.read(out, time.monotonic() - self.began)
        except (AttributeError, KeyError, ValueError) as problem:
            raise Failed(f"what {self.name} said cannot be read ({problem}):\n{out}") from problem

    def read(self, out, seconds):
        """Its report as a Result."""
        raise NotImplementedError


class Wrk(Program):
    """GETs on keep-alive connections; each connection waits `pause` ms after a response."""

    def __init__(self, url, connections=16, pause=5, post=False):
        self.folder = tempfile.TemporaryDirectory()
        script = pathlib.Path(self.folder.name) / "load.lua"
        lines = [f"function delay() return {pause} end"]
        if post:
            lines += ['wrk.method = "POST"', 'wrk.body = "one=1&two=2"']
        script.write_text("\n".join(lines) + "\n", encoding="ascii")
        command = ["wrk", "-t", "1", "-c", str(connections), "-d", "600", "--timeout", "10s", "--latency"]
        super().__init__("wrk, POST" if post else "wrk", [*command, "-s", str(script), url])

    def read(self, out, seconds):
        """wrk counts broken connections separately from bad responses."""
        answered, took = re.search(r"(\d+) requests in ([\d.]+\w+),", out).groups()
        failures = {}
        found = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", out)
        if found:
            failures.update(zip(("connect", "read", "write", "timeout"), map(int, found.groups())))
        broken = sum(failures.values())
        found = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
        if found:
            failures["status"] = int(found.group(1))
        latency = {quantile: float(number) * UNITS[unit] for quantile, number, unit in LATENCY.findall(out)}
        self.folder.cleanup()
        failures = {kind: count for kind, count in failures.items() if count}
        return Result(self.name, int(answered) + broken, seconds, latency["50"], latency["99"], failures)


class Hey(Program):
    """A new connection for each request, `rate` per second in total; POSTs on request."""

    def __init__(self, url, connections=10, rate=800, post=False, keep=False):
        command = ["hey", "-z", "600s", "-c", str(connections), "-q", str(rate / connections), "-t", "10"]
        if not keep:
            command.append("-disable-keepalive")
        if post:
            command += ["-m", "POST", "-d", "one=1&two=2", "-T", "application/x-www-form-urlencoded"]
        super().__init__("hey, POST" if post else "hey", [*command, url])

    def read(self, out, seconds):
        """hey counts status codes, and errors by their text."""
        codes = {int(code): int(count) for code, count in re.findall(r"^\s+\[(\d+)\]\t(\d+) responses$", out, re.M)}
        errors = out.partition("Error distribution:")[2]
        failures = {f"status {code}": count for code, count in codes.items() if not 200 <= code < 300}
        for count, text in re.findall(r"^\s+\[(\d+)\]\t(.+)$", errors, re.M):
            # The address at the beginning differs from run to run; the error is at the end.
            kind = text.rpartition(": ")[2]
            failures[kind] = failures.get(kind, 0) + int(count)
        latency = {q: 1000 * float(s) for q, s in re.findall(r"^\s+(50|99)%+ in ([\d.]+) secs", out, re.M)}
        total = sum(codes.values()) + sum(count for kind, count in failures.items() if not kind.startswith("status"))
        return Result(self.name, total, seconds, latency["50"], latency["99"], failures)


class PairClient:
    """A client that knows two addresses, like two A records, and opens a connection for each request.

    It takes the addresses in turn. Where one does not take the connection, or
    closes it before the first byte of an answer, it asks the other one (RFC 9110
    9.2.2 lets a client repeat a GET so). A request failed when that did not
    bring a 2xx answer either. Requests whose connection was open when
    `mark` was called are counted apart (`under_way`): a balancer that is killed
    takes them with it.
    """

    def __init__(self, addresses, path, workers=8, pause=0.004):
        self.addresses = [(host, int(port)) for host, port in (each.rsplit(":", 1) for each in addresses)]
        self.path = path
        self.workers = workers
        self.pause = pause
        self.times = []
        self.failures = {}
        self.repeated = self.under_way = 0
        self.marked = None
        self.began = time.monotonic()
        self.ending = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self.run()), daemon=True)
        self.thread.start()

    def mark(self):
        """Marks the moment just before the fault."""
        self.marked = time.monotonic()

    async def run(self):
        """Runs all workers until it is stopped."""
        await asyncio.gather(*(self.work(number) for number in range(self.workers)))

    async def work(self, number):
        """Sends one request after the other."""
        while not self.ending.is_set():
            number += 1
            began = time.monotonic()
            first = await self.ask(self.addresses[number % 2])
            problem = first
            if first:
                self.repeated += 1
                problem = await self.ask(self.addresses[(number + 1) % 2])
            if problem and self.marked and began < self.marked:
                self.under_way += 1
            elif problem:
                self.failures[problem] = self.failures.get(problem, 0) + 1
            self.times.append(time.monotonic() - began)
            await asyncio.sleep(self.pause)

    async def ask(self, address):
        """One attempt at one address. Returns the error, or None."""
        writer = None
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection(*address), 1)
            writer.write(f"GET {self.path} HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\n\r\n".encode())
            answer = await asyncio.wait_for(reader.read(), 10)
            if not answer:
                return "closed without an answer"
            status = answer.split(b" ", 2)[1]
            return "" if status.startswith(b"2") else f"status {status.decode()}"
        except (OSError, asyncio.TimeoutError, IndexError) as problem:
            return type(problem).__name__
        finally:
            if writer:
                writer.close()

    def stop(self):
        """Stops it. Returns the Result."""
        self.ending.set()
        self.thread.join(40)
        seconds = time.monotonic() - self.began
        ordered = sorted(1000 * each for each in self.times)
        p99 = ordered[int(len(ordered) * 0.99)] if ordered else 0
        p50 = statistics.median(ordered) if ordered else 0
        return Result("two addresses", len(ordered), seconds, p50, p99, self.failures)
