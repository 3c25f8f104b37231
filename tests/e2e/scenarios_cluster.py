"""RedisCluster: failures and moved slots, while a cluster client writes all the time."""

import subprocess
import time

import redis
import redis_client
from checks import expect
from harness import docker, wait_until
from redis_objects import VALKEY, Numbers, RedisCluster, certificate_of, kill_servers

TAIL = 1  # acknowledged numbers of one writer that can be on their way to the replica when their master dies
KEYS = 2000
SOME_LEFT = 3600  # slots, of 4096 that a fourth master gets


class Stage:
    """The RedisCluster of the scenarios. Created on first use, removed by the last one."""

    one = None


def shop(cluster):
    """It, settled."""
    if Stage.one is None:
        Stage.one = RedisCluster(cluster.operator, "e2e-shop")
        Stage.one.clean()
        Stage.one.apply()
    Stage.one.settled(120)
    return Stage.one


def key_of(connection, address, name):
    """A key with this beginning in a slot of the node at an address."""
    names = (f"{name}:{number}" for number in range(100_000))
    return next(key for key in names if connection.get_node_from_key(key).host == address.split(":")[0])


def benchmark(one, requests):
    """The load generator that comes with Redis, as a process: it knows clusters."""
    secret = one.secret()
    login = ["-h", secret["host"], "-p", secret["port"], "--user", secret["username"], "-a", secret["password"]]
    load = ["redis-benchmark", *login, "--cluster", "-q", "-t", "set,get", "-n", str(requests)]
    words = ["docker", "exec", one.container(one.masters()[0]["name"]), *load]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def fail_over(one, name, disturb, within):
    """Disturbs a master under writes to its slots: its replica takes over in time, and it comes back as a replica."""
    master = one.masters(one.settled())[0]
    with Numbers(one, key_of(one.client(), master["address"], name), loses=TAIL) as numbers:
        moment = time.monotonic()
        disturb(one.container(master["name"]))
        numbers.go_on(within + 20)
        after = one.settled(60)
    outage = numbers.outage(moment)
    expect(master["name"] not in [member["name"] for member in one.masters(after)], f"{master['name']} is master again")
    expect(outage <= within, f"the client could not write for {outage:.2f} s, more than {within} s")
    told = after.get("lastFailover") or {}
    expect(told.get("from") == master["name"], f"lastFailover is {told}")
    return f"outage {outage:.2f} s"


def a_redis_cluster_becomes_ready_and_redis_benchmark_runs(cluster):
    """Three masters with a replica each; a cluster client and redis-benchmark with the Secret's values."""
    began = time.monotonic()
    one = shop(cluster)
    took = time.monotonic() - began
    connection = one.client()
    expect(connection.set("first", "1") and connection.get("first") == b"1", "the cluster takes no write")
    load = benchmark(one, 20000)
    out = load.communicate(timeout=60)[0].replace("\r", "\n")
    rates = [line.strip() for line in out.splitlines() if "requests per second" in line]
    expect(load.returncode == 0 and len(rates) >= 2, f"redis-benchmark says {out[-300:]}")
    return f"Ready after {took:.1f} s; {' '.join(rates[-2:])}"


def a_killed_master_of_a_cluster_is_taken_over_under_load(cluster):
    """kill -9 of a master's server, then docker kill of a container, while redis-benchmark loads all others."""
    one = shop(cluster)
    load = benchmark(one, 2_000_000)
    try:
        server = fail_over(one, "server", kill_servers, within=3)
        container = fail_over(one, "container", lambda container: docker("kill", container), within=3)
    finally:
        load.kill()
        load.wait()
    return f"{server}; container {container}"


def most_masters_of_a_cluster_killed_at_once_are_taken_over_without_votes(cluster):
    """Two of three masters: no vote can succeed any more. Everything that their replicas had is there."""
    one = shop(cluster)
    masters = one.masters()[:2]
    connection = one.client()
    keys = [key_of(connection, master["address"], "kept") for master in masters]
    for key in keys:
        connection.set(key, "1")
    wait_until("the replicas have it", lambda: replicas_are_equal(one), 10)
    began = time.monotonic()
    docker("kill", *[one.container(master["name"]) for master in masters])
    one.settled(60)
    connection = one.client()
    found = [connection.get(key) for key in keys]
    expect(found == [b"1", b"1"], f"the keys are {found}")
    return f"settled after {time.monotonic() - began:.1f} s"


def replicas_are_equal(one):
    """Whether each replica is at the offset of its master."""
    members = one.status()["members"]
    offsets = {member["name"]: one.at(member["name"]).info("replication")["master_repl_offset"] for member in members}
    return all(offsets[member["name"]] >= offsets[member["master"]] for member in members if not member["slots"])


def slots_move_to_a_fourth_master_and_back_under_writes(cluster):
    """Back before all have moved. No key is lost, and no write fails."""
    one = shop(cluster)
    connection = one.client()
    for number in range(KEYS):
        connection.set(f"moved:{number}", number)
    with Numbers(one, "flow") as numbers:
        one.change(masters=4)
        wait_until("some slots have moved", lambda: len(one.masters()) == 4 and one.left() < SOME_LEFT, 60)
        one.change(masters=3)
        one.settled(120)
        numbers.go_on(10)
    expect(not numbers.writer.errors, f"{len(numbers.writer.errors)} writes failed: {numbers.writer.errors[:3]}")
    connection = one.client()
    found = [connection.get(f"moved:{number}") for number in range(KEYS)]
    lost = [number for number in range(KEYS) if found[number] != str(number).encode()]
    expect(not lost, f"{len(lost)} of {KEYS} keys are lost")


def valkey_forms_a_cluster_as_redis_does(cluster):
    """The image of Valkey 8: a killed server."""
    one = RedisCluster(cluster.operator, "e2e-vshop", image=VALKEY)
    one.clean()
    try:
        one.apply().settled(120)
        note = fail_over(one, "server", kill_servers, within=3)
        gone(one)
    finally:
        one.clean()
    return note


def tls_serves_cluster_clients_through_a_failover_new_certificates_and_new_members(cluster):
    """Nobody answers without TLS. The server is killed; then a master is added, so that the certificate is made anew under writes."""
    one = RedisCluster(cluster.operator, "e2e-tlsshop", tls={"enabled": True})
    one.clean()
    try:
        one.apply().settled(120)
        secret = one.secret()
        for address in one.uri().values():
            try:
                redis_client.at(address, {key: secret[key] for key in ("username", "password")}).ping()
            except redis.ConnectionError:
                continue
            expect(False, f"{address} answers without TLS")
        note = fail_over(one, "server", kill_servers, within=3)
        before = {address: certificate_of(address) for address in one.uri().values()}
        with Numbers(one, "flow") as numbers:
            one.change(masters=4)
            wait_until("some slots have moved", lambda: len(one.masters()) == 4 and one.left() < SOME_LEFT, 60)
            numbers.go_on(10)
        expect(not numbers.writer.errors, f"writes failed: {numbers.writer.errors[:3]}")
        kept = [address for address, shown in before.items() if certificate_of(address) == shown]
        expect(not kept, f"{kept} show the certificate of before")
        gone(one)
    finally:
        one.clean()
    return note


def deletion_leaves_nothing_of_a_cluster(cluster):
    """The last scenario: the reclaim policy is Delete."""
    gone(shop(cluster))
    Stage.one = None


def gone(one):
    """Deletes it, and looks whether something is left."""
    one.delete()
    left = one.containers() + one.volumes() + docker("network", "ls", "-q", *one.filters()).split()
    expect(left == [], f"left: {left}")


def clear(cluster, folder=None):
    """Removes what a failed scenario left, and saves its evidence in the folder."""
    if Stage.one:
        if folder:
            Stage.one.save(folder)
        cluster.operator.cli_result("delete", "rediscluster", Stage.one.name)
        Stage.one.clean()
        Stage.one = None


SCENARIOS = [
    a_redis_cluster_becomes_ready_and_redis_benchmark_runs,
    a_killed_master_of_a_cluster_is_taken_over_under_load,
    most_masters_of_a_cluster_killed_at_once_are_taken_over_without_votes,
    slots_move_to_a_fourth_master_and_back_under_writes,
    valkey_forms_a_cluster_as_redis_does,
    tls_serves_cluster_clients_through_a_failover_new_certificates_and_new_members,
    deletion_leaves_nothing_of_a_cluster,
]
