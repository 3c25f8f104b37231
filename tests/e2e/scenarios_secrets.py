"""The values of Secrets, followed through their whole life: they may be seen where an application asks for them, and nowhere else."""

import base64
import contextlib
import json
import pathlib
import threading

from checks import expect
from harness import docker, free_port, run, wait_until
from objects import Deployment, LoadBalancer
from scenarios_input import Small
from scenarios_web import Object, Passing, Secret, certificate

KINDS = ("events", "pods", "deployments", "postgresclusters", "loadbalancers", "dockerhosts", "namespaces", "nodes")


class DockerHost(Object):
    """A host that does not answer, with a certificate."""

    kind, api_version = "DockerHost", "evenkeel.dev/v1alpha1"


def forms(value):
    """What to search for: a part of the value as it is, and of its base64, that no other text has."""
    lines = [line for line in value.splitlines() if line and not line.startswith("-----")]
    coded = base64.b64encode(value.encode()).decode().rstrip("=")
    # The last character of base64 depends on what follows; a PEM key differs from others after its header.
    return {max(lines, key=len), coded[len(coded) // 2 : -1] if len(coded) > 80 else coded[:-1]}


class Watch:
    """Searches for values everywhere that people, metrics or thieves look."""

    def __init__(self, operator, asks):
        self.operator = operator
        self.asks = asks  # Deployments whose containers have a value in their environment, as their manifest asks
        self.words = set()
        self.lines = set()
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self.sample, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.thread.join(5)

    def sample(self):
        """Collects the command lines of all processes of the machine."""
        while not self.stopped.wait(0.05):
            for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    self.lines.add(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))

    def knows(self, *values):
        """Searches for these values from now on."""
        for value in values:
            self.words |= forms(value)

    def knows_made(self, *names):
        """The same for the values of Secrets that the operator makes."""
        for name in names:
            secret = wait_until(f"the Secret {name}", lambda name=name: self.read(name), 60)
            for key, coded in secret["data"].items():
                if "assword" in key:
                    self.knows(base64.b64decode(coded).decode())

    def read(self, name):
        """A Secret; empty if there is none."""
        code, out = self.operator.cli_result("get", "secret", name, "-o", "json")
        return json.loads(out) if code == 0 else {}

    def places(self):
        """Each place and its text."""
        yield "a process list", "\n".join(tuple(self.lines))
        for file in self.operator.data.parent.rglob("*"):
            inside = file.relative_to(self.operator.data.parent).as_posix()
            if file.is_file() and not inside.startswith("data/pki/") and inside != "data/kubeconfig":
                yield inside, file.read_bytes().decode("latin-1")
        for kind in KINDS:
            yield kind, self.operator.cli("get", kind, "-o", "json")
        for container in docker("ps", "-aq", "--filter", "label=evenkeel.dev/kind").split():
            seen = json.loads(docker("inspect", container, check=False) or "[]")
            for one in seen:
                labels = one["Config"]["Labels"]
                own = labels.get("evenkeel.dev/name") in self.asks and labels.get("evenkeel.dev/container")
                if own:
                    one["Config"].pop("Env")
                yield f"docker inspect {one['Name']}", json.dumps(one)
                yield f"docker logs {one['Name']}", docker("logs", container, check=False)

    def sees_nothing(self, when):
        """Searches everywhere; returns the number of places."""
        texts = list(self.places())
        hits = [place for place, text in texts if any(word in text for word in self.words)]
        expect(not hits, f"{when}, values of Secrets are in: {', '.join(sorted(set(hits)))}")
        return len(texts)


def a_value_of_a_secret_is_seen_nowhere(cluster):
    """Regression 183: a canary in every kind of Secret, at the log level `trace`: create, change, rotate keys, delete."""
    # Until then the journal had the environment of every container at `debug`, and the store's files had every value.
    operator = cluster.operator
    operator.stop()
    operator.env["EVENKEEL_LOG"] = "trace"
    try:
        operator.start()
        with Watch(operator, {"e2e-canary"}) as watch:
            return life(cluster, watch)
    finally:
        operator.env.pop("EVENKEEL_LOG")
        operator.stop()
        operator.start()


def life(cluster, watch):
    """The whole life of the Secrets. Returns a note."""
    operator = cluster.operator
    word, first, second = "canary-in-a-pod-1", certificate(), certificate()
    registry = f"127.0.0.1:{free_port()}"
    auths = {"auths": {registry: {"username": "canary", "password": "canary-of-a-registry"}}}
    secrets = {
        "pod": Secret(operator, "e2e-canary-pod").holds(word=word),
        "db": Secret(operator, "e2e-canary-db").holds(username="awx", password="canary-of-a-database-1"),
        "cert": Secret(operator, "e2e-canary-cert").holds(tls_crt=first[0], tls_key=first[1]),
        "host": Secret(operator, "e2e-canary-host").holds(ca_crt=second[0], tls_crt=second[0], tls_key=second[1]),
    }
    pull = Secret(operator, "e2e-canary-pull")
    pull.manifest["type"] = "kubernetes.io/dockerconfigjson"
    pull.holds(_dockerconfigjson=json.dumps(auths))
    watch.knows(word, "canary-of-a-database-1", "canary-of-a-registry", first[1], second[1])

    web = Deployment(operator, "e2e-canary", 1)
    web.main.update(
        env=[{"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "e2e-canary-pod", "key": "word"}}}],
        volumeMounts=[{"name": "secret", "mountPath": "/run/secrets/word"}],
    )
    web.template["metadata"]["annotations"] = {"evenkeel.dev/roll-on-change": "true"}
    web.template["spec"]["volumes"] = [{"name": "secret", "secret": {"secretName": "e2e-canary-pod"}}]
    lost = Deployment(operator, "e2e-canary-lost", 1, f"{registry}/web:1")
    lost.template["spec"]["imagePullSecrets"] = [{"name": "e2e-canary-pull"}]
    edge = LoadBalancer(operator, "e2e-canary-edge", backend="e2e-canary")
    edge.spec["stats"] = {}
    tls = {"name": "https", "port": 8443, "hostPort": free_port(), "tls": {"secretName": "e2e-canary-cert"}}
    edge.spec["frontends"].append({**tls, "backend": "web"})
    host = DockerHost(operator, "e2e-canary-host")
    host.manifest["spec"] = {
        "endpoint": f"tcp://127.0.0.1:{free_port()}",
        "tls": {"secretName": "e2e-canary-host", "secretNamespace": "default"},
    }
    initdb = {"database": "awx", "owner": "awx", "secret": {"name": "e2e-canary-db"}}
    made = Passing(web.apply(), lost.apply(), edge.apply(), host.apply())
    with made, Small(cluster, bootstrap={"initdb": initdb}) as small:
        web.settled()
        edge.settled()
        small.settled()
        watch.knows_made(f"{small.name}-app", f"{small.name}-internal", f"{edge.name}-stats")
        failed = lambda: registry in lost.condition("Degraded").get("message", "")  # noqa: E731
        wait_until("the pull with a login has failed", failed, 60)
        places = watch.sees_nothing("after they were created")

        before = web.staying()
        secrets["pod"].holds(word="canary-in-a-pod-2")
        secrets["db"].holds(username="awx", password="canary-of-a-database-2")
        secrets["cert"].holds(tls_crt=second[0], tls_key=second[1])
        watch.knows("canary-in-a-pod-2", "canary-of-a-database-2")
        wait_until("the pod is replaced", lambda: web.staying() != before, 60)
        web.settled()
        edge.settled()
        small.settled()
        watch.sees_nothing("after they were changed")

        operator.stop()
        run(operator.binary, "secrets", "rotate-keys", "--data-dir", str(operator.data))
        operator.start()
        web.settled()
        watch.sees_nothing("after the keys were rotated")
    for one in (*secrets.values(), pull):
        operator.cli("delete", "secret", one.name)
    watch.sees_nothing("after they were deleted")
    return f"{len(watch.words)} words, {places} places, {len(watch.lines)} command lines"


SCENARIOS = [a_value_of_a_secret_is_seen_nowhere]
