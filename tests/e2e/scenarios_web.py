"""Deployments and LoadBalancers: specs, failures caused by hand, and their effect on clients."""

import base64
import datetime
import json
import shutil
import ssl
import tempfile
import time
import urllib.request

import client
import psycopg2
from checks import Writes, expect, single_host
from harness import ROOT, Failed, docker, free_port, kill_postmaster, run, wait_until
from objects import PORT, Deployment, LoadBalancer, Object, Requests, fetch, pods_behind, stays, version_at

EXAMPLE = ROOT / "deploy" / "examples" / "web.yaml"
BUSYBOX = "evenkeel-test/busybox:1"


class Secret(Object):
    """A Secret with string values."""

    kind, api_version = "Secret", "v1"

    def holds(self, **texts):
        """Sets its values; a `_` in a name stands for a dot."""
        coded = {name.replace("_", "."): base64.b64encode(text.encode()).decode() for name, text in texts.items()}
        self.manifest["data"] = coded
        return self.apply()


class ConfigMap(Object):
    """A ConfigMap."""

    kind, api_version = "ConfigMap", "v1"

    def holds(self, **texts):
        """Sets its values."""
        self.manifest["data"] = texts
        return self.apply()


class Stage:
    """Used by most scenarios: two web replicas behind one HAProxy. Created on first use, removed by the last one."""

    one = None

    def __init__(self, operator):
        self.web = Deployment(operator, "e2e-web", 2, livenessProbe=probe("/live"))
        self.web.spec["strategy"] = {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
        self.edge = LoadBalancer(operator, "e2e-edge", backend="e2e-web")
        self.web.apply()
        self.edge.apply()

    def settled(self, timeout=60):
        """Waits until both are settled."""
        self.web.settled(timeout)
        self.edge.settled(timeout)
        return self


def stage(cluster):
    """The stage, settled."""
    if Stage.one is None:
        Stage.one = Stage(cluster.operator)
    return Stage.one.settled()


class Passing:
    """Objects of one scenario; deleted at the end of the `with`, also on failure."""

    def __init__(self, *objects):
        self.objects = objects

    def __enter__(self):
        return self.objects if len(self.objects) > 1 else self.objects[0]

    def __exit__(self, kind, error, trace):
        for one in self.objects:
            if error is not None:
                # The existing objects show the cause.
                one.save(ROOT / "target" / "e2e" / "objects")
            try:
                if one.get() is not None:
                    one.delete()
            finally:
                one.clean()


def probe(path, **more):
    """An HTTP probe every second."""
    return {"httpGet": {"path": path, "port": PORT}, "periodSeconds": 1, "failureThreshold": 2, **more}


def example():
    """The example with free host ports: (text, port of HAProxy, port of nginx)."""
    text = EXAMPLE.read_text(encoding="utf-8")
    ports = {}
    for port in ("8080", "8090"):
        expect(text.count(f"hostPort: {port}") == 1, f"{EXAMPLE} has no hostPort: {port}")
        # Two balancers: the port and the next one.
        ports[port] = LoadBalancer(None, "x", replicas=2).host_port
        text = text.replace(f"hostPort: {port}", f"hostPort: {ports[port]}")
    return text, ports["8080"], ports["8090"]


def the_example_is_applied_by_kubectl_and_serves(cluster):
    """deploy/examples/web.yaml with the users' tools: apply, rollout status, get, scale, delete."""
    kubectl = shutil.which("kubectl")
    expect(kubectl, "kubectl is not installed")
    operator = cluster.operator
    text, haproxy, nginx = example()

    def ctl(*arguments, **more):
        return run(kubectl, "--kubeconfig", operator.env["EVENKEEL_KUBECONFIG"], *arguments, **more)

    web = Deployment(operator, "web", 3)
    edges = [LoadBalancer(operator, "edge", replicas=2), LoadBalancer(operator, "edge-nginx", "nginx")]
    for edge, port in zip(edges, (haproxy, nginx)):
        edge.host_port = port
    try:
        ctl("apply", "-f", "-", text=text)
        ctl("rollout", "status", "deployment/web", "--timeout=60s", timeout=70)
        web.settled()
        for edge in edges:
            edge.settled()
        expect("3/3" in ctl("get", "deployments"), "`kubectl get deployments` does not say 3/3")
        expect(len(ctl("get", "pods", "-o", "name").split()) >= 3, "`kubectl get pods` does not list three pods")
        for port in (haproxy, haproxy + 1, nginx):
            code, answer = fetch(f"http://127.0.0.1:{port}/api/v2/ping/")
            expect(code == 200, f"port {port} answers {code}: {answer[:200]}")
        expect(fetch(f"http://127.0.0.1:{haproxy}/private/")[0] == 401, "the page behind a password is open")
        ctl("scale", "deployment/web", "--replicas=1")
        web.spec["replicas"] = 1
        web.settled()
        ctl("delete", "-f", "-", text=text, timeout=90)
        wait_until("its containers are gone", lambda: not web.containers(), 30)
    finally:
        for one in [*edges, web]:
            operator.cli_result("delete", one.kind.lower(), one.name)
            one.clean()


def a_rolling_update_drops_no_request(cluster):
    """Another image under requests, with and without keep-alive."""
    on = stage(cluster)
    with Requests(on.edge.url()) as kept, Requests(on.edge.url(), keep=False) as anew:
        on.web.main["image"] = "evenkeel-test/web:2"
        on.web.apply()
        on.settled()
        time.sleep(0.5)
    expect(version_at(on.edge.url())[0] == "2", "the new version does not answer")
    kept.none_failed()
    anew.none_failed()
    return f"0 of {kept.count + anew.count} requests failed"


def what_is_undone_becomes_the_newest_revision(cluster):
    """The old template again: its revision is not created again but gets the highest number."""
    on = stage(cluster)
    before = max(pod["revision"] for pod in on.web.pods())
    with Requests(on.edge.url()) as requests:
        on.web.main["image"] = "evenkeel-test/web:1"
        on.web.apply()
        on.settled()
    revisions = {pod["revision"] for pod in on.web.pods()}
    expect(revisions == {before + 1}, f"the revisions are {revisions}, not {before + 1}")
    expect(version_at(on.edge.url())[0] == "1", "the old version does not answer")
    return requests.none_failed()


def an_image_that_cannot_be_had_is_rolled_back_and_the_old_pods_serve(cluster):
    """A wrong image, a short deadline, and the annotation that rolls back to the last good revision."""
    on = stage(cluster)
    before, image = on.web.staying(), "127.0.0.1:1/nowhere:1"
    on.web.manifest["metadata"]["annotations"] = {"evenkeel.dev/rollback-on-failure": "true"}
    on.web.spec["progressDeadlineSeconds"] = 5
    with Requests(on.edge.url()) as requests:
        on.web.main["image"] = image
        on.web.apply()

        def told():
            seen = on.web.status()
            return any(image in c.get("message", "") for c in seen.get("conditions", [])) and seen["phase"] == "Degraded"

        wait_until("a condition names the image", told, 20)
        rolled_back = lambda: on.web.condition("Degraded").get("reason") == "RolledBack"  # noqa: E731
        wait_until("the last good revision is taken back", rolled_back, 30)
        wait_until("the old pods are all there is", lambda: on.web.staying() == before, 20)
    on.web.main["image"] = "evenkeel-test/web:1"
    del on.web.spec["progressDeadlineSeconds"]
    on.web.manifest["metadata"]["annotations"] = {}
    on.web.apply()
    on.settled()
    return requests.none_failed()


def what_is_done_by_hand_is_repaired(cluster):
    """docker rm, stop, pause and rename of a replica's container."""
    on = stage(cluster)
    notes = []
    for verb, arguments in {
        "rm": ("rm", "-f"),
        "stop": ("stop", "-t", "0"),
        "pause": ("pause",),
        "rename": ("rename",),
    }.items():
        container = on.web.container(on.web.staying()[0])
        moment = time.monotonic()
        docker(*arguments, container, *(["e2e-elsewhere"] if verb == "rename" else []))
        time.sleep(0.3)
        try:
            # A container that ends a second time waits for its backoff.
            on.settled(90)
            others = lambda: len(on.web.containers()) == 2 and "e2e-elsewhere" not in on.web.containers()  # noqa: E731
            wait_until(f"after docker {verb} there are two containers by their names", others, 30)
        except Failed as failed:
            raise Failed(f"docker {verb}: {failed}") from failed
        notes.append(f"{verb} {time.monotonic() - moment:.1f} s")
    return ", ".join(notes)


def a_pod_and_a_balancer_that_are_taken_off_their_network_are_connected_again(cluster):
    """docker network disconnect of a replica's container and of the balancer's: the containers keep running."""
    on = stage(cluster)
    on.settled()
    notes = []
    for one in (on.web, on.edge):
        before = one.containers()
        moment = time.monotonic()
        docker("network", "disconnect", "evenkeel-default", before[0])
        again = lambda: "evenkeel-default" in docker("inspect", "-f", "{{json .NetworkSettings.Networks}}", before[0])  # noqa: B023, E731
        wait_until("it is on its network again", again, 20)
        notes.append(f"{one.kind} {time.monotonic() - moment:.2f} s")
        on.settled()
        wait_until("it answers", lambda: fetch(on.edge.url())[0] == 200, 10)
        expect(one.containers() == before, "a container was made again")
    return ", ".join(notes)


def a_changed_config_map_rolls_out_only_when_asked(cluster):
    """The annotation on the pod template decides."""
    on = stage(cluster)
    config = ConfigMap(cluster.operator, "e2e-web").holds(GREETING="hello")
    on.web.main["env"] = [
        {"name": "GREETING", "valueFrom": {"configMapKeyRef": {"name": "e2e-web", "key": "GREETING"}}}
    ]
    on.web.apply()
    before = on.settled().web.staying()
    config.holds(GREETING="hi")
    stays("pods were replaced without being asked for", lambda: on.web.staying() == before, 1.5)
    on.web.template["metadata"]["annotations"] = {"evenkeel.dev/roll-on-change": "true"}
    on.web.apply()
    on.settled()
    with Requests(on.edge.url()) as requests:
        before = on.web.staying()
        config.holds(GREETING="good morning")
        wait_until("pods are replaced", lambda: not set(before) & set(on.web.staying()), 30)
        on.settled()
    for pod in on.web.staying():
        said = json.loads(on.web.ask(pod, "/env?name=GREETING")[1])["value"]
        expect(said == "good morning", f"{pod} has {said!r} in its environment")
    del on.web.main["env"], on.web.template["metadata"]["annotations"]
    on.web.apply()
    on.settled()
    cluster.operator.cli("delete", "configmap", config.name)
    return requests.none_failed()


def readiness_takes_a_pod_out_of_the_balancer_without_a_restart(cluster):
    """A pod reports that it is not ready, and later that it is."""
    on = stage(cluster)
    one, other = on.web.staying()
    container = on.web.pod(one)["containers"][0]
    with Requests(on.edge.url()) as requests:
        expect(on.web.ask(one, "/unready", "POST")[0] == 200, f"{one} does not listen")
        wait_until(f"{one} is not ready", lambda: not on.web.pod(one)["ready"], 20)
        wait_until(f"{one} is out of the balancer", lambda: on.edge.servers().get(one) != "ready", 20)
        wait_until("only the other answers", lambda: pods_behind(on.edge.url(), 10) == {other}, 10)
        on.web.ask(one, "/ready", "POST")
        on.settled()
    now = on.web.pod(one)["containers"][0]
    expect((now["id"], now["restarts"]) == (container["id"], container["restarts"]), f"{one} was restarted")
    return requests.none_failed()


def liveness_restarts_what_hangs(cluster):
    """A pod stops answering."""
    on = stage(cluster)
    one = on.web.staying()[0]
    restarts = on.web.pod(one)["restarts"]
    moment = time.monotonic()
    on.web.ask(one, "/hang", "POST")
    wait_until(f"{one} is started again", lambda: on.web.pod(one).get("restarts", 0) > restarts, 40)
    took = time.monotonic() - moment
    on.settled(60)
    return f"after {took:.1f} s"


def scaling_up_and_down_drops_no_request(cluster):
    """2 -> 4 -> 2 through the balancer."""
    on = stage(cluster)
    with Requests(on.edge.url()) as requests:
        on.web.scale(4)
        on.settled()
        expect(len(pods_behind(on.edge.url(), 40)) == 4, "not all four answer")
        on.web.scale(2)
        on.settled()
    return requests.none_failed()


def nginx_follows_a_rolling_update_too(cluster):
    """The same pods behind nginx, with a connection per request."""
    on = stage(cluster)
    with Passing(LoadBalancer(cluster.operator, "e2e-nginx", "nginx", backend="e2e-web")) as edge:
        edge.apply()
        edge.settled()
        version = "2" if on.web.main["image"].endswith("1") else "1"
        with Requests(edge.url(), keep=False) as requests:
            on.web.main["image"] = f"evenkeel-test/web:{version}"
            on.web.apply()
            on.settled()
            edge.settled()
        expect(version_at(edge.url())[0] == version, "nginx does not give the new version")
    return requests.none_failed()


def one_of_two_balancers_dies_and_comes_back(cluster):
    """New connections go to the other balancer meanwhile."""
    on = stage(cluster)
    on.edge.spec["replicas"] = 2
    # Now it needs two free ports in a row.
    on.edge.host_port = LoadBalancer(cluster.operator, "x", replicas=2).host_port
    on.edge.spec["frontends"][0]["hostPort"] = on.edge.host_port
    on.edge.apply()
    on.settled()
    with Requests(on.edge.url(number=1), keep=False) as requests:
        docker("kill", on.edge.containers()[0])
        wait_until("the status says that one is away", lambda: on.edge.status().get("readyReplicas") == 1, 20)
        on.settled()
    wait_until("the first answers again", lambda: fetch(on.edge.url())[0] == 200, 10)
    return requests.none_failed()


def a_backend_that_is_not_there_is_named_and_the_others_serve(cluster):
    """A backend for a Deployment that does not exist; then without it."""
    on = stage(cluster)
    frontends, backends = list(on.edge.spec["frontends"]), list(on.edge.spec["backends"])
    with Requests(on.edge.url(number=0)) as requests:
        on.edge.spec["frontends"] = [*frontends, {"name": "other", "port": 9002, "backend": "other"}]
        on.edge.spec["backends"] = [*backends, {"name": "other", "deployment": {"name": "nowhere", "port": 80}}]
        on.edge.apply()
        named = lambda: "nowhere" in on.edge.condition("BackendsResolved").get("message", "")  # noqa: E731
        wait_until("a condition names the Deployment", named, 20)
        expect(on.edge.condition("BackendsResolved")["status"] == "False", "BackendsResolved is not False")
        on.edge.spec.update(frontends=frontends, backends=backends)
        on.edge.apply()
        on.settled()
    return requests.none_failed()


def certificate():
    """A self-signed certificate for localhost: (certificate, key)."""
    with tempfile.TemporaryDirectory() as folder:
        paths = f"{folder}/crt", f"{folder}/key"
        subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        made = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
        run("openssl", "req", *made, *subject, "-out", paths[0], "-keyout", paths[1])
        return tuple(open(path, encoding="ascii").read() for path in paths)


def over_tls(port, trusted):
    """The status code over TLS, for a client that trusts only this certificate."""
    context = ssl.create_default_context(cadata=trusted)
    try:
        return urllib.request.urlopen(f"https://localhost:{port}/", timeout=5, context=context).status
    except OSError as problem:
        raise Failed(f"https://localhost:{port}/: {problem}") from problem


def a_bad_certificate_leaves_the_last_good_one_in_use(cluster):
    """TLS from a Secret, which is then broken and repaired."""
    on = stage(cluster)
    first, second = certificate(), certificate()
    port = free_port()
    secret = Secret(cluster.operator, "e2e-cert").holds(tls_crt=first[0], tls_key=first[1])
    frontends = list(on.edge.spec["frontends"])
    on.edge.spec["replicas"] = 1
    tls = {"name": "https", "port": 8443, "hostPort": port, "tls": {"secretName": "e2e-cert"}, "backend": "web"}
    on.edge.spec["frontends"] = [*frontends, tls]
    on.edge.apply()
    on.settled()
    wait_until("it speaks TLS", lambda: over_tls(port, first[0]) == 200, 20)
    secret.holds(tls_crt="no certificate", tls_key=first[1])
    named = lambda: "e2e-cert" in on.edge.condition("CertificatesValid").get("message", "")  # noqa: E731
    wait_until("a condition names the Secret", named, 20)
    expect(over_tls(port, first[0]) == 200, "the last good certificate is not in use")
    secret.holds(tls_crt=second[0], tls_key=second[1])
    wait_until("the new certificate is in use", lambda: over_tls(port, second[0]) == 200, 20)
    on.edge.spec["frontends"] = frontends
    on.edge.apply()
    on.settled()
    cluster.operator.cli("delete", "secret", "e2e-cert")


def a_container_that_keeps_ending_waits_for_its_next_try_whoever_operates(cluster):
    """CrashLoopBackOff with its next try, which survives a restart of the operator."""
    web = Deployment(cluster.operator, "e2e-crash", 1, BUSYBOX, command=["/bin/busybox", "false"])
    del web.main["readinessProbe"], web.main["ports"]
    with Passing(web.apply()):

        def backs_off():
            pods = [pod for pod in web.pods() if pod["phase"] == "CrashLoopBackOff" and pod.get("nextTry")]
            return pods and left(pods[0]) > 4 and pods[0]

        before = wait_until("it is CrashLoopBackOff with its next try", backs_off, 40)
        cluster.operator.kill()
        cluster.operator.start()
        after = wait_until("the pod is told of", lambda: web.pod(before["name"]), 10)
        expect(
            (after["nextTry"], after["restarts"]) == (before["nextTry"], before["restarts"]),
            f"the next try is at {after.get('nextTry')} after {after['restarts']} restarts, "
            f"it was {before['nextTry']} after {before['restarts']}",
        )
        more = lambda: web.pod(before["name"]).get("restarts", 0) > before["restarts"]  # noqa: E731
        wait_until("it is tried again", more, left(before) + 15)
        expect(left(before) <= 1, f"it was tried again {left(before):.1f} s before its time")
        return f"next try after {before['restarts']} restarts"


def left(pod):
    """Seconds until its next try."""
    moment = datetime.datetime.fromisoformat(pod["nextTry"].replace("Z", "+00:00"))
    return moment.timestamp() - time.time()


def containers_of_a_pod_share_a_socket_and_get_secrets_as_files(cluster):
    """A web container and a Redis on a unix socket in one pod, with an init container and a Secret in memory."""
    operator, password = cluster.operator, "p w'\"%/@:é"
    secret = Secret(operator, "e2e-group").holds(password=password)
    group = Deployment(operator, "e2e-group", 1)
    shared = {"name": "shared", "mountPath": "/shared"}
    group.main.update(
        env=[{"name": "REDIS_SOCKET", "value": "/shared/redis.sock"}],
        volumeMounts=[shared, {"name": "secret", "mountPath": "/run/secrets/group", "readOnly": True}],
    )
    redis = {"name": "redis", "image": group.main["image"], "command": ["python3", "/app.py", "redis"]}
    group.template["spec"]["containers"].append({**redis, "args": ["/shared/redis.sock"], "volumeMounts": [shared]})
    first = {"name": "first", "image": BUSYBOX, "command": ["/bin/busybox", "sh", "-c", "echo prepared > /shared/note"]}
    group.template["spec"]["initContainers"] = [{**first, "volumeMounts": [shared]}]
    group.template["spec"]["volumes"] = [
        {"name": "shared", "emptyDir": {"medium": "Memory"}},
        {"name": "secret", "secret": {"secretName": "e2e-group", "defaultMode": 0o600}},
    ]
    try:
        with Passing(group.apply()):
            group.settled()
            pod = group.staying()[0]
            # It has no probe: it may run without listening yet.
            wait_until("the Redis beside it answers", lambda: group.ask(pod, "/redis")[0] == 200, 10)
            counts = [json.loads(group.ask(pod, "/redis")[1])["count"] - 1 for _ in range(2)]
            expect(counts == [1, 2], f"the Redis beside it counts {counts}")
            note = json.loads(group.ask(pod, "/file?path=/shared/note")[1])
            expect(note["text"] == "prepared\n", f"the init container left {note}")
            file = json.loads(group.ask(pod, "/file?path=/run/secrets/group/password")[1])
            expect((file["text"], file["mode"]) == (password, "0o600"), f"the Secret's file is {file}")
            mounts = json.loads(group.ask(pod, "/file?path=/proc/self/mounts")[1])["text"]
            kinds = {line.split()[1]: line.split()[2] for line in mounts.splitlines()}
            expect(kinds.get("/run/secrets/group") == "tmpfs", f"the Secret lies on {kinds.get('/run/secrets/group')}")
            for container in group.containers():
                expect(password not in docker("inspect", container), f"docker inspect {container} shows the Secret")
            log = operator.log.read_text(encoding="utf-8", errors="replace")
            expect(password not in log, "the operator's log shows the Secret")
            # A container that ends does not end the pod.
            docker("kill", group.container(pod, "redis"))
            wait_until("the Redis is started again", lambda: group.pod(pod).get("restarts", 0) > 0, 20)
            wait_until("the pod counts again", lambda: '"count"' in group.ask(pod, "/redis")[1], 20)
    finally:
        operator.cli_result("delete", "secret", secret.name)


def a_host_port_is_freed_before_it_is_taken_again(cluster):
    """A Deployment with a host port cannot surge: the old pod stops first."""
    port = free_port()
    web = Deployment(cluster.operator, "e2e-port", 1)
    web.main["ports"][0]["hostPort"] = port
    with Passing(web.apply()):
        web.settled()
        expect(version_at(f"http://127.0.0.1:{port}/")[0] == "1", "the host port does not lead to the pod")
        web.main["image"] = "evenkeel-test/web:2"
        web.apply()
        said = lambda: "host port" in web.condition("Progressing").get("message", "")  # noqa: E731
        wait_until("a condition says that old pods stop first", said, 10, poll=0.02)
        web.settled()
        expect(version_at(f"http://127.0.0.1:{port}/")[0] == "2", "the new version does not answer")


def what_is_not_supported_is_refused_by_its_path(cluster):
    """Every unsupported field is refused, and nothing is stored."""
    web = Deployment(cluster.operator, "e2e-refused", 1)
    web.template["spec"]["affinity"] = {"nodeAffinity": {}, "podAffinity": {"x": 1}}
    web.template["spec"]["volumes"] = [{"name": "v", "emptyDir": {}}]
    web.main["volumeMounts"] = [{"name": "v", "mountPath": "/v", "subPath": "part"}]
    web.main["lifecycle"] = {"postStart": {"exec": {"command": ["true"]}}}
    edge = LoadBalancer(cluster.operator, "e2e-refused", "nginx", backend="web")
    edge.spec["backends"][0]["healthCheck"]["path"] = "/"
    edge.spec["frontends"][0]["backend"] = "elsewhere"
    container = "spec.template.spec.containers[0]"
    for one, paths in {
        web: ["spec.template.spec.affinity", f"{container}.volumeMounts[0].subPath", f"{container}.lifecycle.postStart"],
        edge: ["spec.backends[0].healthCheck.path", "spec.frontends[0].backend"],
    }.items():
        code, out = cluster.operator.cli_result("apply", "-f", "-", text=json.dumps(one.manifest))
        expect(code == 4, f"a {one.kind} with unsupported fields ended with {code}: {out}")
        for path in paths:
            expect(path in out, f"the refusal does not name {path}: {out}")
        expect(one.get() is None, f"the refused {one.kind} was stored")


def a_deleted_deployment_leaves_only_the_volumes_that_people_named(cluster):
    """Containers and their own volumes are removed, a named volume with data stays."""
    web = Deployment(cluster.operator, "e2e-keep", 1)
    web.template["spec"]["volumes"] = [
        {"name": "keep", "persistentVolumeClaim": {"claimName": "e2e-kept"}},
        {"name": "lose", "emptyDir": {}},
    ]
    web.main["volumeMounts"] = [
        {"name": "keep", "mountPath": "/keep"},
        {"name": "lose", "mountPath": "/lose"},
    ]
    kept = None
    try:
        with Passing(web.apply()):
            web.settled()
            mounts = json.loads(docker("inspect", "-f", "{{json .Mounts}}", web.container(web.staying()[0])))
            volumes = {mount["Destination"]: mount.get("Name") for mount in mounts}
            kept = volumes["/keep"]
            web.delete()
            expect(not web.containers(), f"containers are left: {web.containers()}")
            there = docker("volume", "ls", "-q").split()
            expect(kept in there, f"the named volume {kept} is gone")
            expect(volumes["/lose"] not in there, f"the volume {volumes['/lose']} is left")
    finally:
        if kept:
            docker("volume", "rm", "-f", kept, check=False)


def the_route_to_the_database_follows_a_failover(cluster):
    """Writes through the balancer continue at the new primary; sessions to the old one are closed."""
    edge = LoadBalancer(cluster.operator, "e2e-pg")
    edge.spec["frontends"] = [
        {"name": "pg-rw", "port": 5432, "mode": "tcp", "hostPort": edge.host_port, "backend": "rw"},
    ]
    edge.spec["backends"] = [{"name": "rw", "postgres": {"name": cluster.name, "role": "primary"}}]
    before = cluster.settled()
    with Passing(edge.apply()):
        edge.settled()
        through = single_host(cluster.uri(), f"127.0.0.1:{edge.host_port}")
        idle = client.connect(through)
        with Writes(cluster, "balanced") as direct:
            balanced = client.Writer(through, table="balanced_route", pause=0.005).start()
            try:
                expect(balanced.wait_for_acks(20, 20), f"no writes through the balancer: {balanced.errors[-1:]}")
                moment = time.monotonic()
                kill_postmaster(cluster.postmaster(before["primary"]))
                direct.go_on(15)
                expect(balanced.wait_for_acks(50, 15), f"the route did not follow: {balanced.errors[-1:]}")
            finally:
                balanced.stop()
            after = cluster.settled()
        expect(after["primary"] != before["primary"], "the old primary is primary again")
        expect(not client.check(cluster.uri(), balanced.records, "balanced_route")["lost"], "acknowledged rows are lost")
        try:
            client.execute(idle, "SELECT 1", deadline=5)
            raise Failed("a session to the old primary goes on")
        except psycopg2.Error:
            pass
        finally:
            idle.close()
        direct_outage = client.outage(direct.writer.records, moment)
        return f"outage {client.outage(balanced.records, moment):.2f} s, direct {direct_outage:.2f} s"


def everything_of_them_is_removed(cluster):
    """The shared objects are deleted: no container of them is left, and the namespace's network is removed."""
    on = stage(cluster)
    on.edge.delete()
    on.web.delete()
    for one in (on.edge, on.web):
        expect(not one.containers(), f"containers are left: {one.containers()}")
    Stage.one = None


def clear(cluster, folder=None):
    """Removes what a failed scenario left, and saves its evidence in the folder."""
    if Stage.one:
        for one in (Stage.one.edge, Stage.one.web):
            if folder:
                one.save(folder)
            cluster.operator.cli_result("delete", one.kind.lower(), one.name)
            one.clean()
        Stage.one = None
    containers = docker("ps", "-aq", "--filter", "network=evenkeel-default", check=False).split()
    if not containers:
        docker("network", "rm", "evenkeel-default", check=False)


SCENARIOS = [
    what_is_not_supported_is_refused_by_its_path,
    the_example_is_applied_by_kubectl_and_serves,
    a_rolling_update_drops_no_request,
    what_is_undone_becomes_the_newest_revision,
    an_image_that_cannot_be_had_is_rolled_back_and_the_old_pods_serve,
    what_is_done_by_hand_is_repaired,
    a_pod_and_a_balancer_that_are_taken_off_their_network_are_connected_again,
    a_changed_config_map_rolls_out_only_when_asked,
    readiness_takes_a_pod_out_of_the_balancer_without_a_restart,
    scaling_up_and_down_drops_no_request,
    nginx_follows_a_rolling_update_too,
    one_of_two_balancers_dies_and_comes_back,
    a_backend_that_is_not_there_is_named_and_the_others_serve,
    a_bad_certificate_leaves_the_last_good_one_in_use,
    liveness_restarts_what_hangs,
    everything_of_them_is_removed,
    a_container_that_keeps_ending_waits_for_its_next_try_whoever_operates,
    containers_of_a_pod_share_a_socket_and_get_secrets_as_files,
    a_host_port_is_freed_before_it_is_taken_again,
    a_deleted_deployment_leaves_only_the_volumes_that_people_named,
    the_route_to_the_database_follows_a_failover,
]
