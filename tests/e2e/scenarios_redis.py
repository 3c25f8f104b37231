"""RedisSentinel: failures, changes and wrong input, while a Sentinel client writes all the time."""

import json
import os
import signal
import subprocess
import time

import client
import redis
import redis_client
from checks import expect
from harness import ROOT, Failed, docker, run, wait_until
from objects import LoadBalancer, stays
from redis_objects import REDIS, VALKEY, Numbers, RedisSentinel, certificate_of, kill_servers, servers_of

TAIL = 1  # acknowledged numbers of one writer that can be on their way to the replicas when their master dies


class Stage:
    """The RedisSentinel of most scenarios. Created on first use, removed by the last one."""

    one = None


def cache(cluster):
    """It, settled."""
    if Stage.one is None:
        Stage.one = RedisSentinel(cluster.operator, "e2e-cache")
        Stage.one.clean()
        Stage.one.apply()
        Stage.one.settled(120)
    Stage.one.settled(90)
    return Stage.one


def fail_over(one, table, disturb, within):
    """Disturbs the master under writes: another takes over in time, and the old one returns as a replica."""
    before = one.settled()
    with Numbers(one, table, loses=TAIL) as numbers:
        moment = time.monotonic()
        disturb(before["master"])
        numbers.go_on(within + 20)
        after = one.settled(90)
    outage = numbers.outage(moment)
    expect(after["master"] != before["master"], f"{before['master']} is master again")
    expect(after["epoch"] > before["epoch"], f"the epoch did not rise above {before['epoch']}")
    expect(outage <= within, f"the client could not write for {outage:.2f} s, more than {within} s")
    told = after.get("lastFailover") or {}
    expect((told.get("from"), told.get("to")) == (before["master"], after["master"]), f"lastFailover is {told}")
    return f"outage {outage:.2f} s, {len(numbers.lost)} lost"


def a_redis_becomes_ready_and_its_secret_is_enough_for_clients(cluster):
    """Three members, three Sentinels; the Secret's values serve redis-py by the Sentinels and at one address."""
    began = time.monotonic()
    one = cache(cluster)
    took = time.monotonic() - began
    secret, status = one.secret(), one.status()
    found = redis_client.sentinels(secret).discover_master(secret["masterName"])
    expect(f"{found[0]}:{found[1]}" in status["endpoints"]["master"], f"the Sentinels name {found}")
    names = sorted(f"{host}:{port}" for host, port in redis_client.sentinels(secret).discover_slaves(secret["masterName"]))
    expect(names == sorted(status["endpoints"]["replicas"]), f"the Sentinels name the replicas {names}")
    direct = redis_client.at(f"{secret['host']}:{secret['port']}", secret)
    expect(direct.set("first", "1") and direct.get("first") == b"1", "the Secret's host takes no write")
    expect(redis.Redis.from_url(secret["uri"]).get("first") == b"1", "the Secret's uri does not work")
    return f"Ready after {took:.1f} s"


def nobody_gets_in_without_the_password(cluster):
    """No member and no Sentinel answers a client without a user, and the application cannot administer."""
    one = cache(cluster)
    secret, status = one.secret(), one.status()
    addresses = [member["address"] for member in status["members"] + status["sentinels"]]
    for address in addresses:
        try:
            redis_client.at(address, {}).ping()
        except redis.AuthenticationError:
            continue
        expect(False, f"{address} answers without a password")
    forbidden = [["CONFIG", "GET", "*"], ["REPLICAOF", "NO", "ONE"], ["SHUTDOWN"], ["ACL", "LIST"], ["DEBUG", "SLEEP", "0"]]
    forbidden += [["SENTINEL", "FAILOVER", secret["masterName"]], ["SENTINEL", "RESET", "*"]]
    for address in addresses:
        for command in forbidden:
            try:
                redis_client.at(address, secret).execute_command(*command)
            except redis.ResponseError:
                continue
            expect(False, f"the application's user may do {command} at {address}")


def an_application_cannot_speak_as_a_sentinel(cluster):
    """A message on __sentinel__:hello is refused, and every other channel works.

    Regression 300: with all channels allowed, one PUBLISH by an application made two of three Sentinels name the address
    in it as master, and clients followed. ACL channels cannot exclude one, so patterns leave out `__s*`.
    """
    one = cache(cluster)
    secret = one.secret()
    there = redis_client.through_sentinels(secret)
    sentinel = redis_client.at(secret["sentinels"].split(",")[0], secret)
    peers = sentinel.sentinel_sentinels(secret["masterName"])
    forged = f"{peers[0]['ip']},{peers[0]['port']},{peers[0]['runid']},999,{secret['masterName']},127.0.0.1,9,999"
    script = ("return redis.call('publish', KEYS[1], ARGV[1])", 1, "__sentinel__:hello", forged)
    for act in (lambda: there.publish("__sentinel__:hello", forged), lambda: there.eval(*script)):
        try:
            act()
        except redis.ResponseError:
            continue
        expect(False, "the application's user may publish to __sentinel__:hello")
    for pattern in ("*", "__keyspace@0__:*"):
        heard = there.pubsub()
        heard.psubscribe(pattern)
        expect(heard.get_message(timeout=1)["type"] == "psubscribe", f"{pattern} cannot be subscribed")
        heard.close()
    there.publish("news", "1")
    one.settled()


def a_killed_master_is_failed_over(cluster):
    """docker kill of the master's container."""
    one = cache(cluster)
    return fail_over(one, "killed", lambda master: docker("kill", one.container(master)), within=3)


def a_killed_redis_server_is_failed_over(cluster):
    """kill -9 of redis-server alone."""
    one = cache(cluster)
    return fail_over(one, "server", lambda master: kill_servers(one.container(master)), within=3)


def a_stopped_redis_server_is_failed_over_and_a_busy_one_goes_on(cluster):
    """kill -STOP of redis-server: it cannot answer, so it is killed. A script of some seconds costs no server.

    Regression 456: the stopped server was left to the Sentinels, which take downAfter.
    """
    one = cache(cluster)
    one.change(downAfter="1m")
    try:
        one.settled()
        note = fail_over(one, "stopped", lambda master: kill_servers(one.container(master), signal.SIGSTOP), within=10)
        master, script = one.master, "local n = 0 for i = 1, 300000000 do n = n + i % 7 end return n"
        container = one.container(master)
        before, address, secret = servers_of(container), redis_client.address_of(one.uri()[master]), one.secret()
        patient = redis.Redis(*address, username=secret["username"], password=secret["password"], socket_timeout=50)
        began = time.monotonic()
        expect(patient.eval(script, 0) > 0, "the script has no result")
        took = time.monotonic() - began
        one.settled()
        expect((one.master, servers_of(container)) == (master, before), "the busy server was killed")
    finally:
        one.change(downAfter="5s")
    one.settled()
    return f"{note}; a script of {took:.1f} s"


def a_removed_master_is_failed_over_and_made_again(cluster):
    """docker rm -f of the master's container."""
    one = cache(cluster)
    return fail_over(one, "removed", lambda master: docker("rm", "-f", one.container(master)), within=3)


def a_wiped_master_is_failed_over_and_filled_again(cluster):
    """The master's container and volume are removed: the member comes back empty, as a replica."""
    one = cache(cluster)

    def disturb(master):
        volumes = one.volumes(master)
        docker("rm", "-f", one.container(master))
        docker("volume", "rm", "-f", *volumes, check=False)

    return fail_over(one, "wiped", disturb, within=3)


def a_master_that_returns_at_once_takes_no_write(cluster):
    """Its container is killed and started again by hand with its old file and data, and offered writes all the time."""
    one = cache(cluster)
    taken = []

    def disturb(master):
        address = one.uri()[master]
        docker("kill", one.container(master))
        offers = redis_client.Writer(redis_client.at(address, one.secret()), "offered", 0.002, address).start()
        docker("start", one.container(master))
        time.sleep(5)  # plain Sentinel leaves it master for eleven seconds
        offers.stop()
        taken.extend(client.acked(offers.records))

    note = fail_over(one, "returned", disturb, within=3)
    expect(not taken, f"the old master took {len(taken)} writes")
    return note


def a_paused_master_is_failed_over_by_sentinel_and_takes_no_write_when_it_wakes(cluster):
    """docker pause: nobody can prove that it is dead. Sentinel decides; the operator adopts the result."""
    one = cache(cluster)
    taken = []

    def disturb(master):
        address, container = one.uri()[master], one.container(master)
        docker("pause", container)
        try:
            wait_until("another is master", lambda: one.master not in (None, master), 40)
        finally:
            docker("unpause", container, check=False)
        offers = redis_client.Writer(redis_client.at(address, one.secret()), "woken", 0.002, address).start()
        time.sleep(3)
        offers.stop()
        taken.extend(client.acked(offers.records))

    note = fail_over(one, "paused", disturb, within=20)
    expect(not taken, f"the old master took {len(taken)} writes after it woke up")
    return note


def a_switchover_loses_no_write(cluster):
    """`evenkeel switchover`, to the best replica and to a named one."""
    one = cache(cluster)
    outages = []
    for named in (False, True):
        before = one.settled()
        target = one.replicas()[-1]
        with Numbers(one, f"switched_{named}") as numbers:
            moment = time.monotonic()
            cluster.operator.cli("switchover", one.name, *(["--to", target] if named else []))
            wait_until("the master has changed", lambda: one.master not in (None, before["master"]), 30)
            numbers.go_on(10)
            after = one.settled()
        expect(not named or after["master"] == target, f"{after['master']} is master, {target} was asked for")
        outages.append(numbers.outage(moment))
    expect(max(outages) <= 3, f"the client could not write for {max(outages):.2f} s")
    return ", ".join(f"outage {outage:.2f} s" for outage in outages)


def a_killed_replica_and_a_killed_sentinel_cost_nothing(cluster):
    """docker kill of a replica, then of a Sentinel: the master stays, and both return."""
    one = cache(cluster)
    before = one.settled()
    with Numbers(one, "killed_others") as numbers:
        moment = time.monotonic()
        for victim in (one.replicas()[0], f"{one.name}-sentinel-1"):
            docker("kill", one.container(victim))
            numbers.go_on(10)
            after = one.settled()
    expect(after["master"] == before["master"], "the master changed")
    outage = numbers.outage(moment)
    expect(outage <= 1, f"the client could not write for {outage:.2f} s")


def wiped_sentinels_and_replicas_are_made_again(cluster):
    """Container and volume of a Sentinel, then of a replica are removed; nobody keeps a stale entry."""
    one = cache(cluster)
    before = one.settled()
    with Numbers(one, "wiped_others") as numbers:
        for victim in (f"{one.name}-sentinel-2", one.replicas()[0]):
            cluster.operator.kill()
            volumes = one.volumes(victim)
            expect(len(volumes) == 1, f"{victim} has the volumes {volumes}")
            docker("rm", "-f", one.container(victim))
            docker("volume", "rm", *volumes)
            cluster.operator.start()
            numbers.go_on(10)
            after = one.settled(120)
    expect(after["master"] == before["master"], "the master changed")


def an_operator_that_is_killed_with_the_master_finishes_the_failover(cluster):
    """The operator dies with the master, or a moment after it."""
    one = cache(cluster)
    for number, moment in enumerate((0, 0.05, 0.2)):
        before = one.settled()
        with Numbers(one, f"mid_{number}", loses=TAIL) as numbers:
            docker("kill", one.container(before["master"]))
            time.sleep(moment)  # the moment within the failover when the operator is killed
            cluster.operator.kill()
            cluster.operator.start()
            numbers.go_on(60)
            one.settled(90)


def without_an_operator_sentinel_fails_over_and_the_operator_adopts_it(cluster):
    """The operator is away for the whole failover."""
    one = cache(cluster)
    before = one.settled()
    with Numbers(one, "alone", loses=TAIL) as numbers:
        cluster.operator.kill()
        try:
            kill_servers(one.container(before["master"]))
            numbers.go_on(60)
        finally:
            cluster.operator.start()
        # Until its first look the new operator shows what the one before had written.
        wait_until("the operator has adopted another master", lambda: one.master not in (None, before["master"]), 60)
        after = one.settled(90)
    expect(after["epoch"] > before["epoch"], "the epoch did not rise")


def all_members_killed_at_once_come_back_with_the_newest_data(cluster):
    """docker kill of every container; what was acknowledged a second before is on disk."""
    one = cache(cluster)
    one.settled()
    with Numbers(one, "all") as numbers:
        numbers.writer.stop()
        time.sleep(1.5)  # the append-only file is synced each second
        docker("kill", *one.containers())
        one.settled(120)


def it_is_scaled_under_writes(cluster):
    """Members 3, 5, 3, then Sentinels 3, 5, 3: the quorum follows, and nothing stale is left.

    Regression 301: with two members to remove, the first one's removal waited for ever to be forgotten: the Sentinels were
    told to forget only when no member that is to leave existed, and the second one left only when the first was forgotten.
    """
    one = RedisSentinel(cluster.operator, "e2e-scaled", storage={"reclaimPolicy": "Delete"})
    one.clean()
    try:
        before = one.apply().settled(120)
        with Numbers(one, "scaled") as numbers:
            for field, count in (("replicas", 5), ("replicas", 3), ("sentinels", 5), ("sentinels", 3)):
                one.change(**{field: count})
                one.settled(240)
                numbers.go_on(10)
        expect(one.master in [f"{one.name}-{ordinal}" for ordinal in (1, 2, 3)], f"the master is {one.master}")
        expect(len(one.containers()) == 6, f"there are {len(one.containers())} containers")
        note = f"master {before['master']} -> {one.master}"
        one.delete()
    finally:
        one.clean()
    return note


def directives_are_set_at_once_or_by_a_rolling_restart(cluster):
    """maxmemory-policy needs no restart; io-threads does: replicas first, then a switchover."""
    one = cache(cluster)
    started = one.started()
    runs = lambda: [one.at(member).info("server")["run_id"] for member in one.members()]  # noqa: E731
    policies = lambda: {one.at(member).info("memory")["maxmemory_policy"] for member in one.members()}  # noqa: E731
    before = runs()

    def applied(directive):
        try:
            if directive == "maxmemory-policy":
                return policies() == {"allkeys-lru"} and runs() == before
            return not set(runs()) & set(before)
        except redis.RedisError:
            return False  # it restarts

    for directive, value in (("maxmemory-policy", "allkeys-lru"), ("io-threads", "2")):
        with Numbers(one, f"config_{directive}") as numbers:
            moment = time.monotonic()
            one.change(config={**one.spec.get("config", {}), directive: value})
            wait_until(f"every member runs with {directive} {value}", lambda name=directive: applied(name), 60)
            one.settled(60)
            numbers.go_on(10)
        expect(numbers.outage(moment) <= 3, f"{directive}: the client could not write for {numbers.outage(moment):.2f} s")
    expect(one.started() == started, "a container was restarted")


def wrong_input_is_refused_or_shown_and_changes_nothing(cluster):
    """At the door, or as a condition; the members run on."""
    one = cache(cluster)
    before, started = one.settled(), one.started()
    refused = {
        "quorum larger than the number of Sentinels": ("spec.quorum", {"quorum": 4}),
        "a masterName with spaces": ("spec.masterName", {"masterName": "my master"}),
        "a reserved directive": ("spec.config", {"config": {"replicaof": "10.0.0.1 6379"}}),
        "a memory that cannot hold": ("spec", {"config": {"maxmemory": "2gb"}, "resources": {"limits": {"memory": "64Mi"}}}),
        "a directive with a line end": ("spec.config", {"config": {"save": "1 1\nreplicaof 10.0.0.1 6379"}}),
    }
    for what, (path, change) in refused.items():
        manifest = json.dumps({**one.manifest, "spec": {**one.spec, **change}})
        code, out = cluster.operator.cli_result("apply", "-f", "-", text=manifest)
        expect(code != 0 and path in out, f"{what}: {out.strip()}")
    config = dict(one.spec.get("config", {}))
    for directive, value in (("maxmemory-policy", "never"), ("no-such-directive", "1")):
        manifest = json.dumps({**one.manifest, "spec": {**one.spec, "config": {**config, directive: value}}})
        code, out = cluster.operator.cli_result("apply", "-f", "-", text=manifest)
        if code == 0:
            wait_until(
                f"a condition names {directive}",
                lambda name=directive: any(name in c.get("message", "") for c in one.status().get("conditions", [])),
                60,
            )
        else:
            expect(directive in out, f"{directive}: {out.strip()}")
        one.apply()
        one.settled()
    expect(one.status()["master"] == before["master"] and one.started() == started, "a member was touched")


def ioredis_follows_the_master(cluster):
    """A client in another language writes by the Sentinels while the master is killed."""
    one = cache(cluster)
    folder = run(str(ROOT / "scripts" / "ensure-ioredis.sh"), timeout=180).strip()
    with subprocess.Popen(
        ["node", str(ROOT / "tests" / "e2e" / "ioredis_writer.js"), "ioredis"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "NODE_PATH": f"{folder}/node_modules"},
    ) as writer:  # fmt: skip
        writer.stdin.write(json.dumps(one.secret()))
        writer.stdin.close()
        acknowledged = [int(writer.stdout.readline()) for _ in range(50)]
        docker("kill", one.container(one.master))
        acknowledged += [int(writer.stdout.readline()) for _ in range(100)]
        writer.terminate()
        acknowledged += [int(line) for line in writer.stdout]
    one.settled(90)
    found = {int(number) for number in redis_client.through_sentinels(one.secret()).zrange("ioredis", 0, -1)}
    lost = [number for number in acknowledged if number not in found]
    expect(len(lost) <= TAIL, f"{len(lost)} numbers are lost: {lost[:5]}")
    return f"{len(acknowledged)} acknowledged, {len(lost)} lost"


def redis_benchmark_runs_against_the_master(cluster):
    """The load generator that comes with Redis, with the Secret's user."""
    one = cache(cluster)
    secret = one.secret()
    login = ["-h", secret["host"], "-p", secret["port"], "--user", secret["username"], "-a", secret["password"]]
    out = docker("exec", one.container(one.replicas()[0]), "redis-benchmark", *login, "-q", "-t", "set,get", "-n", "20000")
    expect("SET:" in out.replace("\r", "\n") and "GET:" in out, f"redis-benchmark says {out[-200:]}")
    one.settled()
    return " ".join(line.strip() for line in out.replace("\r", "\n").splitlines() if "requests per second" in line)


def a_balancer_leads_to_the_master_and_moves_with_it(cluster):
    """A client that knows one address writes while the master is killed, and while it is switched over."""
    one = cache(cluster)
    edge = LoadBalancer(cluster.operator, "e2e-cache-edge")
    edge.spec["frontends"] = [
        {"name": "redis", "mode": "tcp", "port": 6379, "hostPort": edge.host_port, "backend": "master"}
    ]
    edge.spec["backends"] = [{"name": "master", "redisSentinel": {"name": one.name, "role": "master"}}]
    outages = []
    try:
        edge.apply().settled()
        for name in ("killed", "switched"):
            master = one.settled()["master"]
            edge.settled()
            table = f"balanced_{name}"
            writer = redis_client.Writer(redis_client.at(edge.addresses()[0], one.secret()), table, 0.005).start()
            expect(writer.wait_for_acks(50, 20), f"the balancer does not lead to the master: {writer.errors[-1:]}")
            moment = time.monotonic()
            if name == "killed":
                docker("kill", one.container(master))
            else:
                cluster.operator.cli("switchover", one.name)
            wait_until("the master has changed", lambda before=master: one.master not in (None, before), 30)
            expect(writer.wait_for_acks(50, 20), f"the writes did not continue: {writer.errors[-1:]}")
            one.settled(90)
            writer.stop()
            lost = one.compare(table, writer.records)["lost"]
            expect(len(lost) <= (TAIL if name == "killed" else 0), f"{len(lost)} numbers are lost")
            outages.append(client.outage(writer.records, moment))
        edge.delete()
    finally:
        edge.clean()
    return ", ".join(f"outage {outage:.2f} s" for outage in outages)


def a_restart_without_persistence_wipes_nobody(cluster):
    """persistence none: the master restarts faster than anybody can notice, ten times; the replicas keep the keys."""
    one = RedisSentinel(cluster.operator, "e2e-memory", persistence="none", storage={"reclaimPolicy": "Delete"})
    one.clean()
    try:
        one.apply().settled(120)
        for number in range(10):
            master = one.settled()["master"]
            connection = redis_client.through_sentinels(one.secret())
            connection.mset({f"{number}-{key}": key for key in range(100)})
            wait_until("both replicas have acknowledged", lambda there=connection: there.wait(2, 100) == 2, 10)
            docker("restart", "-t", "0", one.container(master))
            one.settled(90)
            there = redis_client.through_sentinels(one.secret()).mget([f"{number}-{key}" for key in range(100)])
            expect(None not in there, f"{there.count(None)} of 100 keys are gone after restart {number + 1}")
        one.delete()
    finally:
        one.clean()


def a_deleted_redis_keeps_its_data_and_finds_the_newest_again(cluster):
    """Deletion keeps the volumes. One of them is emptied, and the first member's is old: the newest data leads."""
    one = cache(cluster)
    with Numbers(one, "kept") as numbers:
        numbers.go_on(10)
    volumes = one.volumes()
    one.delete()
    expect(one.containers() == [], "containers are left")
    expect(one.volumes() == volumes and volumes, f"the volumes {volumes} became {one.volumes()}")
    first = one.volumes(one.members()[0])
    docker("run", "--rm", "--entrypoint", "sh", "-v", f"{first[0]}:/data", REDIS, "-c", "rm -rf /data/redis /data/evenkeel")
    one.apply()
    one.settled(120)
    found = one.compare("kept", numbers.writer.records)
    expect(not found["lost"], f"{len(found['lost'])} numbers are lost")


def tls_serves_clients_through_a_failover_and_new_certificates(cluster):
    """Clients with the Secret's CA; none without TLS. The server is killed, then the certificate is made anew under writes, then
    TLS is switched off under writes of a client that stays connected.

    Regression 455: all Sentinels restarted in the same moment for a new certificate, and clients found none.
    """
    one = RedisSentinel(cluster.operator, "e2e-tls", tls={"enabled": True}, storage={"reclaimPolicy": "Delete"})
    one.clean()
    try:
        one.apply().settled(120)
        secret = one.secret()
        for member in one.status()["members"] + one.status()["sentinels"]:
            try:
                redis_client.at(member["address"], {key: secret[key] for key in ("username", "password")}).ping()
            except redis.ConnectionError:
                continue
            expect(False, f"{member['name']} answers without TLS")
        note = fail_over(one, "secure", lambda master: kill_servers(one.container(master)), within=3)
        clients = {member: one.at(member) for member in one.members()}
        for there in clients.values():
            there.client_setname("before")
        shown = {address: certificate_of(address) for address in secret["sentinels"].split(",")}

        def changed():
            return all(certificate_of(address) not in (None, before) for address, before in shown.items())

        with Numbers(one, "renewed") as numbers, redis_client.Asking(secret) as asking:
            cluster.operator.cli("delete", "secret", f"{one.name}-server")
            wait_until("every Sentinel shows a new certificate", changed, 30)
            numbers.go_on(10)
        expect(not asking.errors, f"no Sentinel answered {len(asking.errors)} times: {asking.errors[:3]}")
        expect(not numbers.writer.errors, f"writes failed: {numbers.writer.errors[:3]}")
        names = {member: there.client_getname() for member, there in clients.items()}
        expect(set(names.values()) == {"before"}, f"connections were lost: {names}")

        def without():
            plain = one.secret()
            for member in one.status()["members"] + one.status()["sentinels"]:
                try:
                    redis_client.at(member["address"], plain).ping()
                except redis.RedisError as problem:
                    raise Failed(f"{member['name']}: {problem}") from problem
            return "ca.crt" not in plain

        with Numbers(one, "plain") as numbers:
            one.change(tls={"enabled": False})
            wait_until("everybody answers without TLS", without, 60)
            numbers.go_on(10)
        expect(not numbers.writer.errors, f"writes of a client that was connected failed: {numbers.writer.errors[:3]}")
        one.settled()
        one.delete()
    finally:
        one.clean()
    return f"{note}; {asking.answers} answers of Sentinels"


def valkey_works_as_redis_does(cluster):
    """The image of Valkey 8: a killed server, a switchover, and a directive that needs a restart."""
    one = RedisSentinel(cluster.operator, "e2e-valkey", image=VALKEY, storage={"reclaimPolicy": "Delete"})
    one.clean()
    try:
        one.apply().settled(120)
        note = fail_over(one, "killed", lambda master: kill_servers(one.container(master)), within=3)
        with Numbers(one, "changed") as numbers:
            cluster.operator.cli("switchover", one.name)
            one.change(config={"maxmemory-policy": "allkeys-lru", "tcp-backlog": "128"})
            one.settled(60)
            numbers.go_on(10)
        policies = {member: one.at(member).info("memory")["maxmemory_policy"] for member in one.members()}
        expect(set(policies.values()) == {"allkeys-lru"}, f"the policies are {policies}")
        one.delete()
    finally:
        one.clean()
    return note


def a_paused_redis_is_left_alone(cluster):
    """The annotation evenkeel.dev/reconcile: paused; a stopped replica stays down until it is removed."""
    one = cache(cluster)
    replica = one.replicas()[0]
    one.annotate("evenkeel.dev/reconcile", "paused")
    try:
        wait_until("the phase says Paused", lambda: one.status().get("phase") == "Paused", 20)
        docker("stop", "-t", "2", one.container(replica))
        inspect = ("inspect", "-f", "{{.State.Running}}", one.container(replica))
        stays(f"{replica} was started", lambda: docker(*inspect).strip() == "false", 3)
    finally:
        del one.manifest["metadata"]["annotations"]
        one.apply()
    one.settled()


def deletion_with_reclaim_policy_delete_leaves_nothing_of_redis(cluster):
    """The last scenario: nothing is left."""
    one = cache(cluster)
    one.change(storage={"reclaimPolicy": "Delete"})
    one.settled()
    one.delete()
    networks = docker("network", "ls", "-q", *one.filters()).split()
    expect(one.containers() + one.volumes() + networks == [], f"left: {one.containers() + one.volumes() + networks}")
    Stage.one = None


def clear(cluster, folder=None):
    """Removes what a failed scenario left, and saves its evidence in the folder."""
    if Stage.one:
        if folder:
            Stage.one.save(folder)
        cluster.operator.cli_result("delete", "redissentinel", Stage.one.name)
        Stage.one.clean()
        Stage.one = None


SCENARIOS = [
    a_redis_becomes_ready_and_its_secret_is_enough_for_clients,
    nobody_gets_in_without_the_password,
    an_application_cannot_speak_as_a_sentinel,
    a_killed_master_is_failed_over,
    a_killed_redis_server_is_failed_over,
    a_stopped_redis_server_is_failed_over_and_a_busy_one_goes_on,
    a_removed_master_is_failed_over_and_made_again,
    a_wiped_master_is_failed_over_and_filled_again,
    a_master_that_returns_at_once_takes_no_write,
    a_paused_master_is_failed_over_by_sentinel_and_takes_no_write_when_it_wakes,
    a_switchover_loses_no_write,
    a_killed_replica_and_a_killed_sentinel_cost_nothing,
    wiped_sentinels_and_replicas_are_made_again,
    an_operator_that_is_killed_with_the_master_finishes_the_failover,
    without_an_operator_sentinel_fails_over_and_the_operator_adopts_it,
    all_members_killed_at_once_come_back_with_the_newest_data,
    directives_are_set_at_once_or_by_a_rolling_restart,
    wrong_input_is_refused_or_shown_and_changes_nothing,
    ioredis_follows_the_master,
    redis_benchmark_runs_against_the_master,
    a_balancer_leads_to_the_master_and_moves_with_it,
    tls_serves_clients_through_a_failover_and_new_certificates,
    valkey_works_as_redis_does,
    a_paused_redis_is_left_alone,
    a_deleted_redis_keeps_its_data_and_finds_the_newest_again,
    deletion_with_reclaim_policy_delete_leaves_nothing_of_redis,
]

# With objects of their own, and without a measured outage: they wait for Sentinels most of the time.
BESIDE = [it_is_scaled_under_writes, a_restart_without_persistence_wipes_nobody]
