"""What applications do at the edges of Deployments and LoadBalancers: large heads, long requests, listening sessions,
probes that hang, files."""

import concurrent.futures
import http.client
import http.server
import ipaddress
import json
import select
import threading
import time

import client
from checks import expect, single_host
from harness import docker, wait_until
from objects import Deployment, LoadBalancer, fetch
from scenarios_web import ConfigMap, Passing

KIB = 1 << 10
# Both engines pass heads of this size, with the first line and all headers.
LARGEST = 32 * KIB
# Both engines refuse a header of this size.
TOO_LARGE = 40 * KIB


class Handler(http.server.BaseHTTPRequestHandler):
    """`/` answers, `/big?N` with a head of N bytes, `/hold` without end: dots, and `!` once it is late."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "edge", ""

    def log_message(self, *_):
        """Says nothing."""

    def do_GET(self):  # noqa: N802, the name is http.server's
        """Answers."""
        if self.path.startswith("/hold"):
            self.send_response(200)
            # Said to nginx: pass on each byte at once.
            self.send_header("X-Accel-Buffering", "no")
            self.end_headers()
            while not self.server.ended.wait(0.2):
                try:
                    self.wfile.write(b"!" if self.server.late.is_set() else b".")
                except OSError:
                    break
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("Content-Length", "3")
        if self.path.startswith("/big"):
            # What is there already, `Set-Cookie: `, two line ends.
            there = sum(len(line) for line in self._headers_buffer) + len("Set-Cookie: ") + 4
            self.send_header("Set-Cookie", "x" * (int(self.path.split("?")[1]) - there))
        self.end_headers()
        self.wfile.write(b"ok\n")


class Server(http.server.ThreadingHTTPServer):
    """An application on this machine that balancers reach by the address of Docker's default bridge."""

    daemon_threads = True

    def __init__(self):
        network = json.loads(docker("network", "inspect", "bridge"))[0]["IPAM"]["Config"][0]
        # An engine that finds its bridge there, after a restart, does not tell the gateway.
        gateway = network.get("Gateway") or str(ipaddress.ip_network(network["Subnet"])[1])
        super().__init__((gateway, 0), Handler)
        self.ended, self.late = threading.Event(), threading.Event()
        self.address = f"{gateway}:{self.server_address[1]}"

    def handle_error(self, *_):
        """A client that went away is no news."""

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.shutdown()
        self.server_close()


def edge(cluster, engine, address):
    """A LoadBalancer in front of a fixed address, applied."""
    one = LoadBalancer(cluster.operator, f"e2e-{engine}", engine)
    one.spec["backends"] = [{"name": "web", "servers": [address]}]
    return one.apply()


def asked(port, size):
    """The status code of a request whose head has this many bytes, in one cookie."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    start = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nCookie: "
    try:
        connection.connect()
        connection.sock.sendall((start + "x" * (size - len(start) - 4) + "\r\n\r\n").encode())
        answer = http.client.HTTPResponse(connection.sock)
        answer.begin()
        return answer.status
    finally:
        connection.close()


def both_engines_pass_heads_of_32_kib_and_refuse_larger_ones(cluster):
    """Regression 78: the same bound, for requests and for answers, with both engines."""
    with Server() as server:
        for engine in ("haproxy", "nginx"):
            with Passing(edge(cluster, engine, server.address)) as one:
                wait_until("it answers", lambda: fetch(one.url())[0] == 200, 60)  # noqa: B023
                codes = [asked(one.host_port, size) for size in (12 * KIB, LARGEST, TOO_LARGE)]
                expect(codes == [200, 200, 400], f"{engine} answers requests with {codes}")
                codes = [fetch(one.url(f"/big?{size}"))[0] for size in (8 * KIB, LARGEST, TOO_LARGE)]
                expect(codes == [200, 200, 502], f"{engine} answers with {codes}")


def processes(one):
    """Number of processes of a balancer, without those that the operator runs there."""
    return docker("top", one.containers()[0], "-eo", "pid,comm").count(one.spec["engine"])


def reloaded(one, before):
    """Whether a balancer has taken up a configuration since it had so many reloads."""
    settled = one.condition("Progressing").get("status") == "False"
    return settled and one.status()["reloads"] > before


def goes_on(answer):
    """Whether an answer that is under way still gets bytes."""
    try:
        for byte in iter(lambda: answer.read(1), b""):
            if byte == b"!":
                return True
    except (OSError, http.client.HTTPException):
        pass
    finally:
        answer.close()
    return False


def reloads_under_long_requests_leave_a_bounded_number_of_processes(cluster):
    """Regression 79: each reload of a busy balancer left processes behind, without a bound."""
    engines = (("haproxy", 2, 2), ("nginx", 3, 3))
    # Most of it is the wait between reloads (`RELOAD_GAP`, `CROWDED_GAP`); both engines wait at the same time.
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return "; ".join(pool.map(lambda engine: reloads_under_long_requests(cluster, *engine), engines))


def reloads_under_long_requests(cluster, engine, limit, rest):
    """Reloads of a balancer with this engine, which may keep that many old processes and has those others."""
    with Server() as server, Passing(edge(cluster, engine, server.address)) as one:
        one.spec["reload"] = {"oldProcesses": limit, "timeout": "10m"}
        one.apply()
        wait_until("it answers", lambda: fetch(one.url())[0] == 200, 60)
        held = []
        for number in range(6):
            connection = http.client.HTTPConnection("127.0.0.1", one.host_port, timeout=30)
            connection.request("GET", "/hold")
            held.append(connection.getresponse())
            before = one.status()["reloads"]
            one.spec["frontends"][0]["timeouts"] = {"client": f"{100 + number}s"}
            one.apply()
            wait_until("a reload", lambda: reloaded(one, before), 15)  # noqa: B023
        # Master and workers, and what may be left.
        expect(processes(one) <= rest + limit, f"{engine} has {processes(one)} processes")
        old = one.status().get("oldProcesses", 0)
        expect(0 < old <= limit, f"the status of {engine} counts {old} old processes")
        server.late.set()
        alive = sum(goes_on(answer) for answer in held)
        # A reload of nginx makes room for two processes, and each request here holds one.
        expect(alive >= limit - (engine == "nginx"), f"{alive} requests go on with {engine}")
        return f"{engine}: {processes(one)} processes, {alive} of 6 requests go on"


def a_listening_session_ends_when_its_primary_hangs(cluster):
    """Regression 80: a session that only listens learns by a closed connection that its primary is another one."""
    one = LoadBalancer(cluster.operator, "e2e-listen")
    one.spec["frontends"] = [
        {"name": "rw", "port": 5432, "mode": "tcp", "hostPort": one.host_port, "backend": "rw"},
    ]
    one.spec["backends"] = [{"name": "rw", "postgres": {"name": cluster.name, "role": "primary"}}]
    before = cluster.settled()
    with Passing(one.apply()):
        one.settled()
        session = client.connect(single_host(cluster.uri(), f"127.0.0.1:{one.host_port}"))
        client.execute(session, "LISTEN news")
        # One session is in a process from before a reload.
        one.spec["frontends"][0]["timeouts"] = {"client": "2h"}
        reloads = one.status()["reloads"]
        one.apply()
        wait_until("a reload", lambda: one.status()["reloads"] > reloads, 20)
        one.settled()
        client.execute(session, "SELECT 1")
        late = client.connect(single_host(cluster.uri(), f"127.0.0.1:{one.host_port}"))
        client.execute(late, "LISTEN news")
        frozen = cluster.container(before["primary"])
        docker("pause", frozen)
        began = time.monotonic()
        try:
            for name, one_session in (("old", session), ("new", late)):
                ended = select.select([one_session.fileno()], [], [], 60)[0]
                expect(ended, f"the session of the {name} process to a primary that hangs goes on")
            took = time.monotonic() - began
        finally:
            session.close()
            late.close()
            docker("unpause", frozen, check=False)
        after = cluster.settled()
        expect(after["primary"] != before["primary"], "there was no failover")
        return f"closed after {took:.1f} s"


def a_probe_that_hangs_leaves_no_process(cluster):
    """Regression 81: each period of an exec probe that hangs left its processes in the container."""
    hangs = {"exec": {"command": ["sh", "-c", "sleep 1000 & sleep 1000"]}, "periodSeconds": 1, "timeoutSeconds": 1}
    one = Deployment(cluster.operator, "e2e-hang", 1, readinessProbe=hangs)
    with Passing(one.apply()):
        wait_until("it runs", lambda: one.pods() and "no answer" in one.pods()[0].get("message", ""), 60)
        container = one.container(one.staying()[0])

        def sleeps():
            lines = docker("top", container, "-eo", "pid,args").splitlines()
            return sum("sleep 1000" in line for line in lines)

        most, until = 0, time.monotonic() + 12
        while time.monotonic() < until:
            most = max(most, sleeps())
            time.sleep(0.2)
        # The parent, the shell and its two children, of one probe at a time.
        expect(0 < most <= 4, f"{most} processes of the probe ran at once")
        return f"at most {most} processes of the probe"


def files_and_directories_come_in_every_kind_of_pod(cluster):
    """Regression 82: a ConfigMap in a pod of one container, and a directory that an init container fills."""
    operator = cluster.operator
    settings = ConfigMap(operator, "e2e-files").holds(note="from the map")
    one = Deployment(operator, "e2e-files", 1)
    one.main["volumeMounts"] = [
        {"name": "map", "mountPath": "/map"},
        {"name": "made", "mountPath": "/made", "readOnly": True},
    ]
    made = {"name": "made", "mountPath": "/made"}
    first = {"name": "first", "image": "evenkeel-test/busybox:1", "volumeMounts": [made]}
    first["command"] = ["/bin/busybox", "sh", "-c", "echo made > /made/note"]
    only_map = {"name": "map", "configMap": {"name": "e2e-files"}}
    only_made = {"name": "made", "emptyDir": {}}
    try:
        with Passing(one):
            for volumes, mounts, inits in (
                ([only_map], ["map"], []),
                ([only_made], ["made"], [first]),
                ([only_map, only_made], ["map", "made"], [first]),
            ):
                spec = one.template["spec"]
                spec["volumes"], spec["initContainers"] = volumes, inits
                one.main["volumeMounts"] = [
                    {"name": name, "mountPath": f"/{name}", "readOnly": True} for name in mounts
                ]
                one.apply().settled()
                notes = [one.ask(one.staying()[0], f"/file?path=/{name}/note")[1] for name in mounts]
                good = all(text in note for text, note in zip([{"map": "from the map"}.get(n, "made") for n in mounts], notes))
                expect(good, f"{mounts} hold {notes}")
    finally:
        operator.cli_result("delete", "configmap", settings.name)


SCENARIOS = [
    both_engines_pass_heads_of_32_kib_and_refuse_larger_ones,
    reloads_under_long_requests_leave_a_bounded_number_of_processes,
    a_probe_that_hangs_leaves_no_process,
    files_and_directories_come_in_every_kind_of_pod,
    a_listening_session_ends_when_its_primary_hangs,
]
