"""Attacks from application pods, with what every pod has."""

import json

from checks import Writes, expect
from harness import ROOT, Failed, wait_until
from objects import Deployment
from scenarios_web import ConfigMap, Passing

SECONDS = 30
SCRIPT = ROOT / "tests" / "e2e" / "attack.py"


def attacker(cluster, name, add=()):
    """A pod whose only tie to the cluster is the application's Secret, and which attacks it."""
    command = f"python3 /attack/attack.py {SECONDS} $HOSTS; exec sleep infinity"
    pod = Deployment(
        cluster.operator,
        name,
        1,
        command=["sh", "-c", command],
        env=[{"name": "HOSTS", "valueFrom": {"secretKeyRef": {"name": f"{cluster.name}-app", "key": "host"}}}],
        volumeMounts=[{"name": "attack", "mountPath": "/attack"}],
        securityContext={"capabilities": {"add": list(add)}},
    )
    del pod.main["readinessProbe"], pod.main["ports"]
    pod.template["spec"]["terminationGracePeriodSeconds"] = 0
    pod.template["spec"]["volumes"] = [{"name": "attack", "configMap": {"name": "e2e-attack"}}]
    return pod


def outcome(pod):
    """What its attack ended with; an error in it is a failure of this test."""

    def ended():
        for line in pod.operator.cli("logs", f"deployment/{pod.name}").splitlines():
            if line.startswith("{"):
                return json.loads(line)
            if line.startswith("Traceback"):
                raise Failed(f"the attack itself broke: {pod.operator.cli('logs', f'deployment/{pod.name}')}")
        return None

    return wait_until(f"the attack of {pod.name} ended", ended, SECONDS + 60, poll=1)


def an_application_pod_learns_no_password_and_no_failover_comes_of_its_attack(cluster):
    """Regression 126: an application pod claimed the addresses of the members by false ARP answers and asked the standbys
    for a cleartext password: it had the replication role's within two seconds. Members replicate on a network of their own
    now, by TLS with certificates; no password is asked for there, and no pod can send false ARP answers by default."""
    before = cluster.settled()
    script = ConfigMap(cluster.operator, "e2e-attack").holds(**{"attack.py": SCRIPT.read_text(encoding="utf-8")})
    plain = attacker(cluster, "e2e-attack-plain")
    # The worst that a neighbour on the cluster's network can be.
    raw = attacker(cluster, "e2e-attack-raw", ["NET_RAW"])
    with Passing(script, plain, raw), Writes(cluster, "attacked") as writes:
        plain.apply()
        raw.apply()
        results = {pod.name: outcome(pod) for pod in (plain, raw)}
        writes.go_on(20)
    after = cluster.settled()
    expect(not results[plain.name]["raw"], "a pod can send false ARP answers without asking for the capability")
    expect(results[raw.name]["raw"], "the pod that asked for NET_RAW does not have it: the attack was not tried")
    for name, result in results.items():
        expect(not result["passwords"] and not result["startups"], f"members talked to {name}: {result}")
        open_doors = {door: word for door, word in result["asked"].items() if word != "refused"}
        expect(not open_doors, f"roles that only the cluster may use are asked for a password: {open_doors}")
    expect(after["term"] == before["term"], f"the term rose from {before['term']} to {after['term']}")
    return f"{SECONDS} s of false ARP answers"


SCENARIOS = [an_application_pod_learns_no_password_and_no_failover_comes_of_its_attack]
