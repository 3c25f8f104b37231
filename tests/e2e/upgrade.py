"""A running installation of the version before is taken over by this one: `upgrade.py OLD NEW`, two binaries.

A cluster, a Deployment with a volume, and a balancer are made by the old operator. The new one starts on the same data
directory while a client writes. Exits 1 when something is not as promised.
"""

import shutil
import signal
import sys
import time

import harness
from checks import Writes, expect
from harness import docker, run, wait_until
from objects import Deployment, LoadBalancer, free_ports

VOLUME = "up-data"


def ids(one):
    """{name: id} of the containers of an object."""
    lines = docker("ps", "--no-trunc", "--format", "{{.Names}} {{.ID}}", *one.filters()).splitlines()
    return dict(line.split() for line in lines)


class Installation:
    """What the old operator made."""

    def __init__(self, operator):
        self.operator = operator
        self.cluster = harness.Cluster(operator, "up-db")
        self.web = Deployment(operator, "up-web", 2)
        self.web.main["env"] = [{"name": "URI", "valueFrom": {"secretKeyRef": {"name": "up-db-app", "key": "uri"}}}]
        self.web.main["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
        self.web.template["spec"]["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": VOLUME}}]
        self.edge = LoadBalancer(operator, "up-edge", backend="up-web")
        self.edge.spec["frontends"].append(
            {"name": "pg", "port": 5432, "hostPort": free_ports(1), "backend": "pg", "mode": "tcp"}
        )
        self.edge.spec["backends"].append({"name": "pg", "postgres": {"name": "up-db", "role": "primary"}})

    def bring_up(self):
        """Applies everything and waits."""
        docker("volume", "create", VOLUME)
        self.cluster.apply()
        self.cluster.settled(180)
        self.web.apply()
        self.edge.apply()
        self.web.settled(90)
        self.edge.settled(90)
        docker("exec", self.web.container(self.pod()), "sh", "-c", "echo kept > /data/file")

    def pod(self):
        """One of its pods."""
        return self.web.status()["pods"][0]["name"]

    def clean(self):
        """Removes everything."""
        for one in (self.edge, self.web):
            self.operator.cli_result("delete", one.kind.lower(), one.name)
            one.clean()
        self.operator.cli_result("delete", "postgrescluster", self.cluster.name)
        self.cluster.clean()
        docker("volume", "rm", "-f", VOLUME, check=False)


def upgrade(installation, new):
    """Starts the new operator on the data of the old one, under writes."""
    operator, cluster = installation.operator, installation.cluster
    before = {one.name: ids(one) for one in (cluster, installation.web, installation.edge)}
    term = cluster.status()["term"]
    kubeconfig = operator.data.parent / "kubeconfig-of-the-old-operator"
    shutil.copy(operator.data / "kubeconfig", kubeconfig)

    def members_are_new():
        now = ids(cluster)
        return len(now) == 3 and not set(now.values()) & set(before[cluster.name].values())

    with Writes(cluster, "upgrade", watch_splits=True) as writes:
        moment = time.monotonic()
        operator.stop()
        operator.binary = new
        operator.start()
        wait_until("every member runs in a new container", members_are_new, 240)
        after = cluster.settled(120)
        writes.go_on(20)
    took = time.monotonic() - moment
    print(f"took {took:.1f} s, term {term} -> {after['term']}, outage {writes.outage(moment):.2f} s, 0 lost")
    expect(after["term"] == term + 1, f"one switchover is promised; the term went from {term} to {after['term']}")
    for one in (installation.web, installation.edge):
        expect(ids(one) == before[one.name], f"containers of {one.name} were replaced: {before[one.name]} -> {ids(one)}")
    run("kubectl", "--kubeconfig", str(kubeconfig), "get", "postgresclusters,deployments,secrets")


def replication_is_encrypted(cluster):
    """Every standby streams by TLS, from its address on the members' own network."""
    secret = cluster.secret()
    question = (
        "select count(*) || ' ' || count(*) filter (where ssl) from pg_stat_replication join pg_stat_ssl using (pid)"
    )
    container = cluster.container(cluster.primary)
    streams = docker("exec", "-u", "postgres", container, "psql", "-XAtqc", question, secret["dbname"]).strip()
    expect(streams == "2 2", f"of the standbys' connections (all, by TLS) there are {streams}")


def claims_stay(installation):
    """A pod that is replaced later still has its volume."""
    web = installation.web
    installation.operator.cli("rollout", "restart", f"deployment/{web.name}")
    installation.operator.cli("rollout", "status", f"deployment/{web.name}", "--timeout=90s", timeout=100)
    kept = docker("exec", web.container(installation.pod()), "cat", "/data/file").strip()
    expect(kept == "kept", f"the volume of a replaced pod holds {kept!r}")


def main():
    """Runs it."""
    old, new = sys.argv[1:3]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    operator = harness.start_operator(old)
    installation = Installation(operator)
    installation.clean()
    try:
        installation.bring_up()
        upgrade(installation, new)
        replication_is_encrypted(installation.cluster)
        claims_stay(installation)
        print("ok")
    finally:
        installation.clean()
        harness.discard(operator)


if __name__ == "__main__":
    main()
