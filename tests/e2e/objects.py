"""Deployments and LoadBalancers by the command line, with their containers as Docker shows them."""

import http.client
import json
import socket
import threading
import time
import urllib.error
import urllib.request

from harness import NAMESPACE, Failed, docker, wait_until

WEB = "evenkeel-test/web:1"
PORT = 8052
PING = "/api/v2/ping/"
PROBE = {"httpGet": {"path": PING, "port": PORT}, "periodSeconds": 1}


class Object:
    """One object; `manifest` is what was last applied."""

    kind = api_version = ""

    def __init__(self, operator, name):
        self.operator = operator
        self.name = name
        self.manifest = {"apiVersion": self.api_version, "kind": self.kind, "metadata": {"name": name}}

    @property
    def word(self):
        """Its kind and name for the command line."""
        return f"{self.kind.lower()}/{self.name}"

    def apply(self):
        """Applies the manifest, like a user with a file."""
        self.operator.cli("apply", "-f", "-", text=json.dumps(self.manifest))
        return self

    def annotate(self, name, value):
        """Sets an annotation of the object and applies it."""
        self.manifest["metadata"].setdefault("annotations", {})[name] = value
        return self.apply()

    def get(self):
        """The object as stored; None when it is gone."""
        code, out = self.operator.cli_result("get", self.kind.lower(), self.name, "-o", "json")
        if code == 3:  # not found
            return None
        if code != 0:
            raise Failed(f"get {self.word}: {out.strip()}")
        return json.loads(out)

    def status(self):
        """Its status; empty if there is none."""
        return (self.get() or {}).get("status") or {}

    def condition(self, kind):
        """One condition; empty if there is none."""
        return next((c for c in self.status().get("conditions", []) if c["type"] == kind), {})

    def pods(self):
        """Its pods according to its status."""
        return self.status().get("pods", [])

    def staying(self):
        """Names of its pods that are not terminating."""
        return sorted(pod["name"] for pod in self.pods() if not pod.get("terminating"))

    def pod(self, name):
        """One of its pods according to its status; empty if it does not exist."""
        return next((pod for pod in self.pods() if pod["name"] == name), {})

    def unsettled(self, seen):
        """Why it is not settled; empty if it is."""
        raise NotImplementedError

    def settled(self, timeout=60):
        """Waits until it is settled, and returns the status."""

        def look():
            seen = self.get()
            if not seen:
                raise Failed("it is not there")
            status = seen.get("status") or {}
            if status.get("observedGeneration") != seen["metadata"].get("generation"):
                raise Failed("the status speaks of an older generation")
            problem = self.unsettled(seen)
            if problem:
                conditions = {c["type"]: c.get("message") for c in status.get("conditions", [])}
                raise Failed(f"{problem}; conditions {conditions}")
            return status

        return wait_until(f"{self.word} is as declared", look, timeout)

    def delete(self, timeout=60):
        """Deletes it and waits until it is gone."""
        self.operator.cli("delete", self.kind.lower(), self.name, timeout=timeout)
        wait_until(f"{self.word} is gone", lambda: self.get() is None, timeout)

    # As Docker shows it

    def filters(self, member=None):
        """Docker filters for everything that belongs to it."""
        labels = {"kind": self.kind, "namespace": NAMESPACE, "name": self.name}
        if member:
            labels["member"] = member
        return [part for key, value in labels.items() for part in ("--filter", f"label=evenkeel.dev/{key}={value}")]

    def containers(self, member=None):
        """Names of its containers, running or not."""
        return sorted(docker("ps", "-a", "--format", "{{.Names}}", *self.filters(member)).split())

    def container(self, member, name=None):
        """Docker's name of a container of a pod; by default of the only one that has a name in the pod."""
        for one in self.containers(member):
            inside = docker("inspect", "-f", '{{index .Config.Labels "evenkeel.dev/container"}}', one).strip()
            if inside and (name is None or inside == name):
                return one
        raise Failed(f"{member} has no container {name or 'at all'}")

    def clean(self):
        """Removes everything that belongs to it with Docker only."""
        for container in docker("ps", "-aq", *self.filters(), check=False).split():
            docker("rm", "-fv", container, check=False)
        for volume in docker("volume", "ls", "-q", *self.filters(), check=False).split():
            docker("volume", "rm", "-f", volume, check=False)

    def save(self, folder):
        """Saves the evidence of a failed test."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.kind}-{self.name}.json").write_text(json.dumps(self.get(), indent=1), encoding="utf-8")
        (folder / f"{self.kind}-{self.name}.txt").write_text(docker("ps", "-a", *self.filters()), encoding="utf-8")
        for container in self.containers():
            text = docker("logs", "--tail", "300", container, check=False)
            (folder / f"{container}.log").write_text(text, encoding="utf-8")


class Deployment(Object):
    """A Deployment of the tests' web application."""

    kind, api_version = "Deployment", "apps/v1"

    def __init__(self, operator, name, replicas=2, image=WEB, **container):
        super().__init__(operator, name)
        labels = {"app": name}
        first = {"name": "web", "image": image, "ports": [{"containerPort": PORT}], "readinessProbe": dict(PROBE)}
        self.manifest["spec"] = {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"terminationGracePeriodSeconds": 10, "containers": [{**first, **container}]},
            },
        }

    @property
    def spec(self):
        """The spec that is applied."""
        return self.manifest["spec"]

    @property
    def template(self):
        """Its pod template."""
        return self.spec["template"]

    @property
    def main(self):
        """The first container of the template."""
        return self.template["spec"]["containers"][0]

    def scale(self, replicas):
        """Sets another number of replicas."""
        self.spec["replicas"] = replicas
        return self.apply()

    def unsettled(self, seen):
        """Whether all replicas are of the target revision, ready and available, and none is terminating."""
        status, wanted = seen.get("status") or {}, self.spec["replicas"]
        counts = {k: status.get(k, 0) for k in ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")}
        if any(count != wanted for count in counts.values()):
            return f"{wanted} are wanted, there are {counts}"
        leaving = [pod["name"] for pod in status.get("pods", []) if pod.get("terminating")]
        return f"{leaving} are on their way out" if leaving else ""

    def ask(self, pod, path, method="GET"):
        """Sends a request to one pod at its own address. Returns (status code, text)."""
        address = self.pod(pod).get("address")
        if not address:
            raise Failed(f"{pod} has no address")
        return fetch(f"http://{address}:{PORT}{path}", method)


class LoadBalancer(Object):
    """A LoadBalancer in front of a Deployment of the web application."""

    kind, api_version = "LoadBalancer", "evenkeel.dev/v1alpha1"

    def __init__(self, operator, name, engine="haproxy", replicas=1, backend="web"):
        super().__init__(operator, name)
        self.host_port = free_ports(replicas)
        check = {"interval": "1s"}
        if engine == "haproxy":
            check["path"] = PING  # nginx has no health checks with a path
        self.manifest["spec"] = {
            "engine": engine,
            "replicas": replicas,
            "frontends": [{"name": "http", "port": 8080, "hostPort": self.host_port, "backend": "web"}],
            "backends": [{"name": "web", "deployment": {"name": backend, "port": PORT}, "healthCheck": check}],
        }

    @property
    def spec(self):
        """The spec that is applied."""
        return self.manifest["spec"]

    def addresses(self):
        """The address of its balancers on this machine."""
        return [f"127.0.0.1:{self.host_port + number}" for number in range(self.spec["replicas"])]

    def url(self, path="/", number=0):
        """The same as a URL, of one balancer."""
        return f"http://{self.addresses()[number]}{path}"

    def servers(self, backend=None):
        """{server: state} according to its status, of one backend or of all."""
        return {
            server["name"]: server["state"]
            for one in self.status().get("backends", [])
            if backend in (None, one["name"])
            for server in one.get("servers", [])
        }

    def unsettled(self, seen):
        """Whether all balancers run, nothing changes, and every server gets requests."""
        status = seen.get("status") or {}
        conditions = {c["type"]: c["status"] for c in status.get("conditions", [])}
        if status.get("readyReplicas") != self.spec["replicas"]:
            return f"{status.get('readyReplicas')} of {self.spec['replicas']} balancers are ready"
        if conditions.get("Ready") != "True" or conditions.get("Progressing") == "True":
            return f"phase {status.get('phase')}"
        for backend, wish in zip(status.get("backends", []), self.spec["backends"]):
            states = {server["name"]: server["state"] for server in backend.get("servers", [])}
            working = sum(state == "ready" for state in states.values())
            # Only members with the role get connections.
            if working < (len(states) if "deployment" in wish else 1):
                return f"servers of {backend['name']} are {states}"
        return ""


def free_ports(count):
    """The first of this many free ports in a row."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            first = probe.getsockname()[1]
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return first
        except OSError:
            continue


def fetch(url, method="GET", timeout=5):
    """One request. Returns (status code, text); code 0 if there was no response."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error)


def version_at(url):
    """The version and the pod that answer at the root of this URL."""
    code, text = fetch(url)
    if code != 200:
        raise Failed(f"{url} answers {code}: {text[:100]}")
    return tuple(text.split())


def pods_behind(url, tries=30):
    """The pods that answer at this URL, by many requests."""
    return {version_at(url)[1] for _ in range(tries)}


class Requests:
    """Sends GETs without end on keep-alive or new connections; `failed` lists answers that are not 2xx."""

    def __init__(self, url, keep=True, threads=3, pause=0.005):
        self.address, _, path = url.removeprefix("http://").partition("/")
        self.path = f"/{path}"
        self.keep, self.pause = keep, pause
        self.count, self.failed = 0, []
        self.ending = threading.Event()
        self.threads = [threading.Thread(target=self.work, daemon=True) for _ in range(threads)]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.ending.set()
        for thread in self.threads:
            thread.join()

    def work(self):
        """Sends one request after the other."""
        connection = None
        while not self.ending.is_set():
            try:
                connection = connection or http.client.HTTPConnection(self.address, timeout=10)
                connection.request("GET", self.path, headers={} if self.keep else {"Connection": "close"})
                answer = connection.getresponse()
                answer.read()
                self.count += 1
                if not 200 <= answer.status < 300:
                    self.failed.append(f"status {answer.status}")
                if not self.keep:
                    connection.close()
            except (OSError, http.client.HTTPException) as problem:
                self.count += 1
                self.failed.append(f"{type(problem).__name__}: {problem}")
                connection = None
            self.ending.wait(self.pause)

    def none_failed(self):
        """Fails if a request failed. Returns a note for the report."""
        if self.failed:
            raise Failed(f"{len(self.failed)} of {self.count} requests failed: {sorted(set(self.failed))[:5]}")
        return f"0 of {self.count} requests failed"


def stays(what, look, seconds, poll=0.1):
    """Checks for this long that `look` is true all the time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not look():
            raise Failed(what)
        time.sleep(poll)
