"""User input and its answers: secrets, refusals, conditions."""

import base64
import json
import socket
import subprocess

import psycopg2
from checks import ask, expect
from harness import Cluster, docker, wait_until

SMALL = "e2e-small"


class Small:
    """A second cluster with one instance, for wrong specs; deleted at the end of the `with`."""

    def __init__(self, cluster, **spec):
        self.cluster = Cluster(cluster.operator, SMALL)
        self.cluster.spec.update(instances=1, durability={}, storage={"reclaimPolicy": "Delete"}, **spec)

    def __enter__(self):
        self.cluster.apply()
        return self.cluster

    def __exit__(self, kind, error, trace):
        try:
            self.cluster.delete()
        finally:
            self.cluster.clean()


def wait_for_complaint(cluster, word):
    """Waits until the object is not Ready and a condition's message names the problem."""

    def look():
        conditions = cluster.status().get("conditions", [])
        ready = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
        return not ready and any(word in c.get("message", "") for c in conditions)

    wait_until(f"a condition of {cluster.name} names {word}", look, 60)


def the_secret_says_how_to_connect(cluster):
    """A stock libpq program reaches the primary with the Secret's own URI."""
    secret = cluster.secret()
    missing = {"username", "password", "dbname", "host", "port", "uri"} - set(secret)
    expect(not missing, f"the Secret {cluster.name}-app lacks {sorted(missing)}")
    expect("target_session_attrs=read-write" in secret["uri"], "the URI does not ask for a read-write instance")
    connection = psycopg2.connect(secret["uri"], connect_timeout=5)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT current_database(), current_user, pg_is_in_recovery()")
        expect(cursor.fetchone() == (secret["dbname"], secret["username"], False), "the URI leads to the wrong place")
    connection.close()


def passwords_are_in_no_environment_log_or_process_list(cluster):
    """Checks the places where others could see a password."""
    password = cluster.secret()["password"]
    for container in cluster.containers():
        log = subprocess.run(
            ["docker", "logs", container], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True, text=True
        )
        places = {
            "docker inspect": docker("inspect", container),
            "docker top": docker("top", container, "-eo", "pid,args"),
            "docker logs": log.stdout,
        }
        for place, text in places.items():
            expect(password not in text, f"{place} shows the application's password")
    expect(
        password not in cluster.operator.log.read_text(encoding="utf-8"),
        "the operator's log shows the application's password",
    )


def plan_says_that_a_settled_cluster_needs_nothing(cluster):
    """`evenkeel plan` of a settled cluster; it changes nothing."""
    cluster.settled()
    version = cluster.get()["metadata"]["generation"]
    cluster.operator.cli("plan", f"postgrescluster/{cluster.name}")
    expect(cluster.get()["metadata"]["generation"] == version, "plan changed the object")


def what_makes_no_sense_is_refused_with_its_path_and_changes_nothing(cluster):
    """Invalid objects are refused."""
    before = cluster.settled()
    generation, started = cluster.get()["metadata"]["generation"], cluster.started()
    bad = {
        "instances": cluster.manifest(instances=0),
        "synchronousReplicas": cluster.manifest(durability={"mode": "required", "synchronousReplicas": 3}),
        "instancez": cluster.manifest(instancez=3),
        "image": cluster.manifest(image="No Image"),
        "max_connections": cluster.manifest(parameters={"max_connections": {"a": 1}}),
    }
    for word, manifest in bad.items():
        code, out = cluster.operator.cli_result("apply", "-f", "-", text=manifest)
        expect(code != 0, f"a manifest with a bad {word} was accepted")
        expect(word in out, f"the message does not name {word}: {out.strip()}")
    code, out = cluster.operator.cli_result(
        "apply", "-f", "-", text="kind: PostgresCluster\nmetadata: {name: x\nspec: [\n"
    )
    expect(code != 0 and any(ch.isdigit() for ch in out), f"a syntax error names no line: {out.strip()}")
    expect(cluster.get()["metadata"]["generation"] == generation, "a refused manifest changed the object")
    expect(cluster.started() == started, "a refused manifest changed a container")
    expect(cluster.settled()["primary"] == before["primary"], "a refused manifest changed the primary")


def an_image_that_cannot_be_had_becomes_a_condition(cluster):
    """Nothing is created, the condition names the image, deletion works; the other cluster is not affected."""
    started = cluster.started()
    image = "127.0.0.1:1/nowhere:1"
    with Small(cluster, image=image) as small:
        wait_for_complaint(small, image)
    expect(cluster.started() == started, "a container of the other cluster was restarted")


def a_secret_that_is_missing_becomes_a_condition_until_it_is_there(cluster):
    """bootstrap.initdb.secret names a Secret that is created later."""
    name, password = "e2e-late", "p w'\"%/@:é"
    data = {"username": "awx", "password": password}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name},
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()},
    }
    initdb = {"database": "awx", "owner": "awx", "secret": {"name": name}}
    with Small(cluster, bootstrap={"initdb": initdb}) as small:
        wait_for_complaint(small, name)
        small.operator.cli("apply", "-f", "-", text=json.dumps(secret))
        try:
            small.settled()
            expect(small.secret()["password"] == password, "the Secret that says how to connect has another password")
            expect(ask(small.uri(), "SELECT 1") == 1, "the password of the Secret does not let in")
        finally:
            small.operator.cli("delete", "secret", name)


def a_port_that_is_taken_becomes_a_condition_until_it_is_free(cluster):
    """expose.hostPort is in use by another program, which then ends."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with Small(cluster, expose={"hostPort": port}) as small:
            wait_for_complaint(small, str(port))
            other.close()
            status = small.settled()
            expect(
                status["endpoints"]["readWrite"] == [f"127.0.0.1:{port}"], f"the endpoints are {status['endpoints']}"
            )
            expect(ask(small.uri(), "SELECT 1") == 1, "the published port does not lead to the database")


SCENARIOS = [
    the_secret_says_how_to_connect,
    passwords_are_in_no_environment_log_or_process_list,
    plan_says_that_a_settled_cluster_needs_nothing,
    what_makes_no_sense_is_refused_with_its_path_and_changes_nothing,
    an_image_that_cannot_be_had_becomes_a_condition,
    a_secret_that_is_missing_becomes_a_condition_until_it_is_there,
    a_port_that_is_taken_becomes_a_condition_until_it_is_free,
]
