"""Time to replace and start replicas, compared with doing it by hand: `heal.py BINARY [ROUNDS] [PARTS...]`.

replace    from kill -9 of a replica's process until its replacement runs, compared with a raw create and start
hundred    100 replicas on one host, compared with a shell loop of `docker run -d`; then the cost of the settled set
balanced   the write outage of a failover through the balancer, compared with a client that knows all instances

Writes target/bench/heal.md and heal.json. Exits 1 when a limit is exceeded.
"""

import datetime
import json
import os
import pathlib
import re
import signal
import statistics
import sys
import tempfile
import threading
import time
from urllib.parse import quote

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import client
import counting
import failover
import floor
import harness
from checks import single_host
from harness import NAMESPACE, docker, run, wait_until
from objects import Deployment, LoadBalancer

ROUNDS = 15
MANY = 100
LANES = 8  # steps that the operator performs concurrently
LOOPS = 3  # rounds of the part `hundred`
SETTLED = 30  # seconds for which the settled set is observed
POKES = 5  # reconciles that are forced in that time
BUSYBOX = "evenkeel-test/busybox:1"
SLEEP = ["/bin/busybox", "sleep", "86400"]
WITHIN_RAW, WITHIN_LOOP, WITHIN_DIRECT = 1.3, 1.5, 0.3


class Engine:
    """The Docker Engine by its API, on one connection."""

    def __init__(self):
        self.connection = floor.EngineConnection("localhost", timeout=60)

    def ask(self, method, path, body=None):
        """One request. Returns the JSON of the response, or None if there is none."""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        self.connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status >= 400:
            raise harness.Failed(f"{method} {path}: {answer.status} {text.decode()}")
        return json.loads(text) if text else None


class Starts(threading.Thread):
    """The engine's events about ends and starts of one object's containers."""

    def __init__(self, name):
        super().__init__(daemon=True)
        filters = {"type": ["container"], "event": ["die", "start"], "label": [f"evenkeel.dev/name={name}"]}
        self.connection = floor.EngineConnection("localhost")
        self.connection.request("GET", "/events?filters=" + quote(json.dumps(filters)))
        self.answer = self.connection.getresponse()
        self.seen = []
        self.start()

    def run(self):
        """Stores events as they arrive."""
        try:
            for line in self.answer:
                if line.strip():
                    self.seen.append(json.loads(line))
        except (OSError, ValueError):
            pass  # the stream has ended

    def first(self, action, after):
        """The first event of this kind after a time by this machine's clock."""
        return next((e for e in self.seen if e["Action"] == action and e["timeNano"] / 1e9 > after), None)


def seconds_of(text):
    """Docker's time in seconds of this machine's clock."""
    whole, fraction = re.fullmatch(r"([^.Z]+)\.?(\d*)Z", text).groups()
    moment = datetime.datetime.fromisoformat(whole).replace(tzinfo=datetime.timezone.utc)
    return moment.timestamp() + float(f"0.{fraction or 0}")


def raw(engine, like, number):
    """Creates and starts a similar container by the API: (seconds until it runs, seconds until the API answered)."""
    seen = engine.ask("GET", f"/containers/{like}/json")
    name = f"evenkeel-bench-raw-{os.getpid()}-{number}"
    config = {key: seen["Config"][key] for key in ("Image", "Cmd", "Env", "Entrypoint")}
    began = time.time()
    made = engine.ask(
        "POST", f"/containers/create?name={name}", {**config, "HostConfig": {"NetworkMode": f"evenkeel-{NAMESPACE}"}}
    )["Id"]
    engine.ask("POST", f"/containers/{made}/start")
    answered = time.time() - began
    runs = seconds_of(engine.ask("GET", f"/containers/{made}/json")["State"]["StartedAt"]) - began
    engine.ask("DELETE", f"/containers/{made}?force=true")
    return runs, answered


def by_program(image, network, number):
    """The same with `docker create` and `docker start`."""
    name = f"evenkeel-bench-cli-{os.getpid()}-{number}"
    began = time.time()
    docker("create", "--name", name, "--network", network, image)
    docker("start", name)
    took = time.time() - began
    docker("rm", "-f", name)
    return took


def replace(operator, rounds):
    """Measures the time from a death to its replacement."""
    web = Deployment(operator, "bench-heal", replicas=2 * rounds)
    web.clean()
    engine, found = Engine(), []
    try:
        web.apply()
        web.settled(180)
        starts = Starts(web.name)
        # Each replica dies once: after a second death within ten minutes it would wait for its backoff.
        victims = web.staying()
        for number, (victim, other) in enumerate(zip(victims[:rounds], victims[rounds:]), 1):
            time.sleep(1)
            alone, answered = raw(engine, web.container(victim), number)
            program = by_program(web.main["image"], f"evenkeel-{NAMESPACE}", number)
            time.sleep(1)
            pid = engine.ask("GET", f"/containers/{web.container(victim)}/json")["State"]["Pid"]
            moment = time.time()
            os.kill(pid, signal.SIGKILL)
            started = wait_until("a replacement starts", lambda: starts.first("start", moment), 30, poll=0.01)
            runs = seconds_of(engine.ask("GET", f"/containers/{started['id']}/json")["State"]["StartedAt"])
            died = starts.first("die", moment)["timeNano"] / 1e9
            one = {"healed": runs - moment, "told": died - moment, "raw": alone, "raw answered": answered}
            web.settled(30)
            time.sleep(1)
            found.append({**one, "raw by program": program, **removed(engine, web.container(other), starts)})
            print(f"round {number}: " + ", ".join(f"{k} {v:.3f}" for k, v in found[-1].items()), flush=True)
            web.settled(30)
    finally:
        operator.cli_result("delete", "deployment", web.name)
        web.clean()
    return found


def removed(engine, victim, starts):
    """Seconds from `docker rm -f` of a replica until that answered, and until its replacement runs."""
    moment = time.time()
    docker("rm", "-f", victim)
    took = time.time() - moment
    started = wait_until("a replacement starts", lambda: starts.first("start", moment), 30, poll=0.01)
    runs = seconds_of(engine.ask("GET", f"/containers/{started['id']}/json")["State"]["StartedAt"])
    return {"removed": runs - moment, "rm -f": took}


def replace_table(found):
    """The rounds as markdown, and whether the limit is kept."""
    names = {
        "healed": "kill -9 of a replica's process until its replacement runs",
        "told": "of that: until the engine tells of the death",
        "raw": "raw create + start by the API, until it runs",
        "raw answered": "the same, until the API has answered",
        "raw by program": "the same by `docker create` and `docker start`",
        "removed": "`docker rm -f` of a replica until its replacement runs",
        "rm -f": "of that: until `docker rm -f` has answered",
    }
    medians = {key: statistics.median(each[key] for each in found) for key in names}
    lines = ["| replacement of a replica | median s | max s | healed ÷ this |", "|---|---|---|---|"]
    for key, name in names.items():
        worst = max(each[key] for each in found)
        ratio = f"{medians['healed'] / medians[key]:.2f}" if key.startswith("raw") else ""
        lines.append(f"| {name} | {medians[key]:.3f} | {worst:.3f} | {ratio} |")
    return lines, medians["healed"] <= WITHIN_RAW * medians["raw answered"]


def loop_of_runs():
    """A shell loop of `docker run -d` with the operator's concurrency. Returns the seconds."""
    network = f"evenkeel-bench-{os.getpid()}"
    docker("network", "create", "--label", floor.LABEL, network)
    try:
        command = f"docker run -d --label {floor.LABEL} --network {network} --stop-timeout 0 {BUSYBOX} {' '.join(SLEEP)}"
        began = time.monotonic()
        run("sh", "-c", f"seq {MANY} | xargs -P {LANES} -I N {command} >/dev/null", timeout=300)
        return time.monotonic() - began
    finally:
        remove_all(f"network={network}")
        docker("network", "rm", network)


def remove_all(what):
    """Removes all containers that match a filter."""
    command = f"docker ps -aq --filter {what} | xargs -r -P {LANES} -n 10 docker rm -fv >/dev/null"
    run("sh", "-c", command, timeout=300)


def hundred(operator):
    """100 replicas and the shell loop, in turn; afterwards the cost of the settled set."""
    many = Deployment(operator, "bench-many", MANY, BUSYBOX, command=SLEEP)
    del many.main["readinessProbe"], many.main["ports"]
    many.template["spec"]["terminationGracePeriodSeconds"] = 0
    found = {"loop": [], "kind": []}
    try:
        for number in range(1, LOOPS + 1):
            found["loop"].append(loop_of_runs())
            time.sleep(2)
            began = time.monotonic()
            many.apply()
            ready = f"--for=jsonpath={{.status.readyReplicas}}={MANY}"
            operator.cli("wait", many.word, ready, "--timeout=300s", timeout=310)
            found["kind"].append(time.monotonic() - began)
            print(f"round {number}: loop {found['loop'][-1]:.2f}, kind {found['kind'][-1]:.2f}", flush=True)
            many.settled(60)
            many.delete(180)
            time.sleep(2)
        found.update(at_rest(operator, many))
    finally:
        operator.cli_result("delete", "deployment", many.name)
        remove_all(f"label=evenkeel.dev/name={many.name}")
    return found


def at_rest(operator, many):
    """The requests of a settled set to Docker, when idle and when it is reconciled again."""
    proxy = counting.Counting()
    # An operator stores the address of its Docker at its first start.
    another = harness.Operator(operator.binary, tempfile.mkdtemp(prefix="evenkeel-bench-"))
    another.env["DOCKER_HOST"] = proxy.host
    try:
        another.start()
        many.operator = another
        many.apply().settled(120)
        time.sleep(10)  # right after a start it is not settled
        proxy.taken()
        time.sleep(SETTLED)
        settled = proxy.taken()
        for number in range(POKES):
            many.annotate("example.com/poke", str(number))
            time.sleep(2)
        poked = proxy.taken()
        if not poked.get("GET /containers/json"):
            raise harness.Failed(f"the proxy saw no list of containers: {poked}")
        many.delete(180)
        return {"settled": settled, "poked": poked}
    finally:
        many.operator = operator
        harness.discard(another)
        proxy.stop()


def hundred_table(found):
    """As markdown, and whether the limits are kept."""
    loop, kind = statistics.median(found["loop"]), statistics.median(found["kind"])
    each = lambda values: " ".join(f"{value:.1f}" for value in values)  # noqa: E731
    lines = [
        f"| {MANY} replicas on one host | median s | ÷ loop | each round |",
        "|---|---|---|---|",
        f"| `docker run -d`, {LANES} at once | {loop:.1f} | 1 | {each(found['loop'])} |",
        f"| applied until all are Ready | {kind:.1f} | {kind / loop:.2f} | {each(found['kind'])} |",
        "",
        f"| Docker requests of the settled set | {SETTLED} s of peace | {POKES} forced reconciles (2 s each) |",
        "|---|---|---|",
    ]
    requests = sorted({**found["settled"], **found["poked"]})
    for request in requests:
        lines.append(f"| {request} | {found['settled'].get(request, 0)} | {found['poked'].get(request, 0)} |")
    writes = [request for request in requests if not request.startswith(("GET ", "HEAD "))]
    lines.append("")
    lines.append(f"Writes: {', '.join(writes) or 'none'}.")
    return lines, kind <= WITHIN_LOOP * loop and not writes


def balanced(operator, rounds):
    """Failovers observed by two clients at the same time: one knows all instances, one only the balancer."""
    cluster = harness.Cluster(operator, failover.CLUSTER, failover.IMAGE)
    edge = LoadBalancer(operator, "bench-pg")
    port = edge.host_port
    edge.spec["frontends"] = [{"name": "pg-rw", "port": 5432, "mode": "tcp", "hostPort": port, "backend": "rw"}]
    edge.spec["backends"] = [{"name": "rw", "postgres": {"name": cluster.name, "role": "primary"}}]
    cluster.clean()
    edge.clean()
    found = []
    try:
        cluster.apply()
        edge.apply()
        cluster.settled(180)
        writes_go_through = lambda: client.connect(uri_through(cluster, port), timeout=1).close() is None  # noqa: E731
        wait_until("the balancer lets to the primary", forgiving(writes_go_through), 60)
        for number in range(1, rounds + 1):
            found.append(failover_seen_twice(cluster, port, number))
            told = ", ".join(f"{key} {value:.2f}" for key, value in found[-1].items())
            print(f"round {number} of {rounds}: {told}", flush=True)
    finally:
        for kind, thing in (("loadbalancer", edge), ("postgrescluster", cluster)):
            operator.cli_result("delete", kind, thing.name)
            thing.clean()
    return found


def forgiving(look):
    """The same; false if the client cannot connect."""

    def tries():
        try:
            return look()
        except client.Silent:
            return False

    return tries


def uri_through(cluster, port):
    """The cluster's URI through the balancer only."""
    return single_host(cluster.uri(), f"127.0.0.1:{port}")


def failover_seen_twice(cluster, port, number):
    """Kills the primary once. Returns both outages and the number of lost rows."""
    before = cluster.settled()
    direct, through = cluster.uri(), uri_through(cluster, port)
    writers = {
        "direct": harness.writer_for(direct, f"direct_{number}", floor.WRITE_PAUSE, floor.ACKS_BEFORE),
        "balanced": harness.writer_for(through, f"balanced_{number}", floor.WRITE_PAUSE, floor.ACKS_BEFORE),
    }
    moment = time.monotonic()
    floor.kill_container(cluster.container(before["primary"]))
    seen = {}
    for name, writing in writers.items():
        if not writing.wait_for_acks(floor.ACKS_AFTER, failover.PATIENCE):
            raise harness.Failed(f"the {name} writes did not continue: {writing.errors[-1:]}")
    lost = 0
    for name, writing in writers.items():
        writing.stop()
        seen[name] = client.outage(writing.records, moment)
        lost += len(client.check(direct, writing.records, f"{name}_{number}")["lost"])
    cluster.settled()
    return {**seen, "lost": lost}


def balanced_table(found):
    """As markdown, and whether the limit is kept."""
    medians = {key: statistics.median(each[key] for each in found) for key in ("direct", "balanced")}
    more = statistics.median(each["balanced"] - each["direct"] for each in found)
    names = {"direct": "client that knows all instances", "balanced": "client of the balancer"}
    lines = ["| write outage, primary's container killed | median s | max s | each round |", "|---|---|---|---|"]
    for key, name in names.items():
        each = [one[key] for one in found]
        lines.append(f"| {name} | {medians[key]:.2f} | {max(each):.2f} | {' '.join(f'{v:.2f}' for v in each)} |")
    lost = sum(each["lost"] for each in found)
    lines.append(f"| more through the balancer, by round | {more:.2f} | | lost rows: {lost} |")
    return lines, more <= WITHIN_DIRECT and not lost


def main():
    """Runs the requested parts, or all."""
    if len(sys.argv) < 2:
        sys.exit("usage: heal.py BINARY [ROUNDS] [PARTS...]")
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else ROUNDS
    parts = sys.argv[3:] or ["replace", "hundred", "balanced"]
    operator = harness.start_operator(sys.argv[1])
    results, lines, good = {}, [], True
    try:
        for part, act, shown in (
            ("replace", lambda: replace(operator, rounds), replace_table),
            ("hundred", lambda: hundred(operator), hundred_table),
            ("balanced", lambda: balanced(operator, rounds), balanced_table),
        ):
            if part not in parts:
                continue
            results[part] = act()
            rows, holds = shown(results[part])
            lines += [*rows, "", "The bound holds." if holds else "The bound does NOT hold.", ""]
            good = good and holds
    finally:
        harness.discard(operator)
    failover.keep("heal", results, "\n".join(lines))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
