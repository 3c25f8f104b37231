"""Snapshots of a RedisSentinel in S3, and the RedisSentinel that is made from one."""

import json
import os
import shutil
import signal
import tempfile
import time

import redis
import redis_client
import s3
from checks import expect
from harness import Failed, docker, wait_until
from redis_objects import REDIS, VALKEY, RedisSentinel, kill_servers
from scenarios_encryption import FIRST
from scenarios_redis import fail_over

KEYS = 10_000
SECRET, KEY = "e2e-redis-s3", "e2e-redis-key"
FUNCTION = "#!lua name=e2e\nredis.register_function('answer', function() return 42 end)"


def fill(one):
    """Keys of every kind, expiring keys, a stream with a group, keys in another database, and a function."""
    connection = one.client()
    pipe = connection.pipeline(transaction=False)
    for number in range(KEYS):
        pipe.set(f"text:{number}", f"value {number}", px=86_400_000 if number % 4 == 0 else None)
    pipe.rpush("list", *range(1000))
    pipe.sadd("set", *range(1000))
    pipe.hset("hash", mapping={f"field {number}": number for number in range(1000)})
    pipe.zadd("scores", {f"member {number}": number for number in range(1000)})
    pipe.set("large", "x" * (5 << 20))
    for number in range(100):
        pipe.xadd("stream", {"number": number})
    pipe.xgroup_create("stream", "readers", "0")
    pipe.execute()
    connection.xreadgroup("readers", "one", {"stream": ">"}, count=5)
    connection.function_load(FUNCTION, replace=True)


def content(connection):
    """Everything: of each key what DUMP says and the moment when it expires, and the functions.

    What has no order is dumped in another one by each server.
    """
    unordered = {b"hash": sorted(connection.hgetall("hash").items()), b"set": sorted(connection.smembers("set"))}
    keys = sorted(connection.scan_iter(count=1000))
    pipe = connection.pipeline(transaction=False)
    for key in keys:
        pipe.dump(key)
        pipe.pexpiretime(key)
    answers = pipe.execute()
    found = {key: (unordered.get(key, answers[2 * at]), answers[2 * at + 1]) for at, key in enumerate(keys)}
    return found, connection.function_list(withcode=True)


def compare(wanted, connection, where):
    """Fails unless a server has exactly this."""
    found = content(connection)
    missing = sorted(set(wanted[0]) - set(found[0]))
    more = sorted(set(found[0]) - set(wanted[0]))
    other = [key for key in wanted[0] if key in found[0] and wanted[0][key] != found[0][key]]
    expect(not (missing or more or other), f"{where}: missing {missing[:3]}, more {more[:3]}, other {other[:3]}")
    expect(found[1] == wanted[1], f"{where} has the functions {found[1]}")


def backed_up(cluster, one, *words):
    """Takes a snapshot by the command line; the status of the Backup."""
    name = f"{one.name}-{time.time_ns() % 10**9}"
    cluster.operator.cli("backup", f"redissentinel/{one.name}", "--name", name, "--wait", *words, timeout=90)
    return name, json.loads(cluster.operator.cli("get", "backup", name, "-o", "json"))["status"]


def restored(cluster, name, recovery, **spec):
    """A RedisSentinel from a backup, applied and not waited for."""
    one = RedisSentinel(cluster.operator, name, **spec)
    one.clean()
    one.spec["bootstrap"] = {"recovery": recovery}
    one.spec["storage"] = {"reclaimPolicy": "Delete"}
    return one.apply()


def told(one, word):
    """What the status says of the restore, once it is this phase."""

    def look():
        recovery = one.status().get("recovery") or {}
        if recovery.get("phase") != word:
            raise Failed(f"recovery is {recovery}, Ready is {one.condition('Ready')}")
        return recovery

    return wait_until(f"the restore of {one.name} is {word}", look, 60)


def end(cluster, server, *objects):
    """Removes everything."""
    for one in objects:
        cluster.operator.cli_result("delete", "redissentinel", one.name)
        one.clean()
    server.stop()
    for name in (SECRET, KEY):
        cluster.operator.cli_result("delete", "secret", name)


def a_redis_is_restored_from_a_snapshot_of_a_replica_with_all_its_data(cluster):
    """10,000 keys of every kind, encrypted; the object is deleted; the new one has exactly these, survives a restart of all, and fails over."""
    server = s3.Server("redis")
    one = RedisSentinel(cluster.operator, "e2e-saved", storage={"reclaimPolicy": "Delete"})
    one.clean()
    new = None
    try:
        s3.apply_secret(cluster.operator, SECRET)
        s3.apply_secret(cluster.operator, KEY, {"identity": f"{FIRST}\n"})
        kept = {"retention": {"count": 1, "minimum": 1}, "encryption": {"secretName": KEY}}
        one.spec["backup"] = {"store": server.store(SECRET, "prod"), **kept}
        one.apply().settled(120)
        fill(one)
        wanted = content(one.client())
        folder = "prod/" + one.status()["backup"]["archive"]
        backed_up(cluster, one)
        moment = time.monotonic()
        name, status = backed_up(cluster, one)
        took = time.monotonic() - moment
        expect(status["member"] in one.replicas() and status["serverVersion"].startswith("7."), f"the Backup says {status}")
        expect(status["keys"] == len(wanted[0]) and status["replicationOffset"] > 0, f"the Backup says {status}")
        files = sorted(key.removeprefix(folder + "/rdb/") for key in server.keys(folder))
        wanted_files = [f"{status['backupID']}/{file}" for file in ("dump.rdb.zst.age", "frames.json.age", "rdb.json")]
        expect(files == wanted_files, f"the store has {files}, and retention keeps one")
        for file in wanted_files[:2]:
            head = server.get(f"{folder}/rdb/{file}")[:22]
            expect(head == b"age-encryption.org/v1\n", f"{file} begins with {head}")
        of_master = backed_up(cluster, one)
        # A snapshot of the master with the Sentinels watching: nobody takes the supervisor for a replica.
        manifest = {
            "apiVersion": "evenkeel.dev/v1alpha1",
            "kind": "Backup",
            "metadata": {"name": f"{one.name}-of-master"},
            "spec": {"cluster": {"kind": "RedisSentinel", "name": one.name}, "target": "primary", "maxRate": "2Mi"},
        }
        expect(of_master[1]["phase"] == "Completed", f"{of_master}")
        master = one.master
        cluster.operator.cli("apply", "-f", "-", text=json.dumps(manifest))
        cluster.operator.cli("wait", f"backup/{one.name}-of-master", "--for=condition=Completed", "--timeout=60s", timeout=70)
        last = json.loads(cluster.operator.cli("get", "backup", f"{one.name}-of-master", "-o", "json"))["status"]
        expect(last["member"] == master, f"it was taken of {last['member']}")
        one.settled(30)
        one.delete()
        moment = time.monotonic()
        new = restored(cluster, "e2e-back", {"source": {"backup": f"{one.name}-of-master"}})
        told(new, "Completed")
        new.settled(90)
        ready = time.monotonic() - moment
        for member in new.members():
            compare(wanted, new.at(member), member)
        for container in new.containers():
            docker("kill", container)
        new.settled(90)
        for member in new.members():
            compare(wanted, new.at(member), f"{member} after a restart of all")
        before = new.master
        kill_servers(new.container(before))
        wait_until("another is master", lambda: new.master not in (None, before), 30)
        new.settled(60)
        compare(wanted, new.at(new.master), "the next master")
        return f"backup {took:.1f} s, restored and Ready after {ready:.1f} s"
    finally:
        end(cluster, server, *filter(None, (one, new)))


def a_damaged_snapshot_is_named_and_no_data_is_served(cluster):
    """One bit in the stored frame of a Valkey; then its snapshot in a Redis, which cannot read it; then in a Valkey."""
    server = s3.Server("redis")
    one = RedisSentinel(cluster.operator, "e2e-saved", VALKEY, storage={"reclaimPolicy": "Delete"}, replicas=2)
    one.clean()
    new = None
    try:
        s3.apply_secret(cluster.operator, SECRET)
        one.spec["backup"] = {"store": server.store(SECRET)}
        one.apply().settled(120)
        one.client().set("key", "value")
        _, status = backed_up(cluster, one)
        folder = one.status()["backup"]["archive"]
        data = f"{folder}/rdb/{status['backupID']}/dump.rdb.zst"
        good = server.get(data)
        server.put(data, good[:20] + bytes([good[20] ^ 1]) + good[21:])
        new = restored(cluster, "e2e-back", {"source": {"cluster": one.name}}, image=VALKEY, replicas=2)
        failed = told(new, "Failed")
        expect(data.removeprefix(folder + "/") in failed["lastFailure"], f"it says {failed}")
        time.sleep(3)
        expect(new.status()["phase"] == "Recovering", f"the phase is {new.status()['phase']}")
        expect(new.condition("Ready")["reason"] == "RecoveryFailed", f"Ready says {new.condition('Ready')}")
        for member in new.status()["members"]:
            try:
                redis.Redis(*redis_client.address_of(member["address"]), socket_timeout=1).ping()
            except redis.AuthenticationError as problem:
                raise Failed(f"{member['name']} serves: {problem}") from problem
            except redis.RedisError:
                continue
        new.delete()
        server.put(data, good)
        which = {"source": {"cluster": one.name}, "backupID": status["backupID"]}
        new = restored(cluster, "e2e-back", which, image=REDIS, replicas=2)
        newer = told(new, "Failed")
        expect("Can't handle RDB format version" in newer["lastFailure"], f"it says {newer}")
        new.delete()
        new = restored(cluster, "e2e-back", which, image=VALKEY, replicas=2)
        new.settled(90)
        expect(new.client().get("key") == b"value", "the key is not there")
        return failed["lastFailure"][:120]
    finally:
        end(cluster, server, *filter(None, (one, new)))


def taking(one, name, rate, target):
    """A Backup that reads slowly, once it runs."""
    manifest = {
        "apiVersion": "evenkeel.dev/v1alpha1",
        "kind": "Backup",
        "metadata": {"name": name},
        "spec": {"cluster": {"kind": "RedisSentinel", "name": one.name}, "target": target, "maxRate": rate},
    }
    one.operator.cli("apply", "-f", "-", text=json.dumps(manifest))

    def runs():
        status = backup(one, name)
        if status.get("phase") != "Running":
            raise Failed(f"it is {status}")
        return status

    return wait_until(f"Backup {name} runs", runs, 30)


def backup(one, name):
    """The status of a Backup."""
    return json.loads(one.operator.cli("get", "backup", name, "-o", "json")).get("status") or {}


def a_failover_does_not_wait_for_a_snapshot_and_the_snapshot_moves(cluster):
    """The master is read slowly and dies: the failover is as fast as ever, and another member is read. With a frozen store a
    switchover waits for nothing. A Backup that is deleted leaves nothing in the store."""
    server = s3.Server("redis")
    one = RedisSentinel(cluster.operator, "e2e-saved", storage={"reclaimPolicy": "Delete"})
    one.clean()
    names = [f"{one.name}-moved", f"{one.name}-frozen", f"{one.name}-deleted"]
    try:
        s3.apply_secret(cluster.operator, SECRET)
        one.spec["backup"] = {"store": server.store(SECRET)}
        one.apply().settled(120)
        one.client().set("large", os.urandom(4 << 20))
        first = taking(one, names[0], "256Ki", "primary")
        outcome = fail_over(one, "read", lambda master: docker("kill", one.container(master)), within=3)

        def moved():
            status = backup(one, names[0])
            if status["phase"] != "Completed":
                raise Failed(f"it is {status['phase']}: {status['message']}")
            return status

        last = wait_until("the snapshot is complete elsewhere", moved, 60)
        expect(last["attempt"] == 2 and last["lastFailure"]["member"] == first["member"], f"the Backup says {last}")
        taking(one, names[1], "512Ki", "primary")
        os.kill(server.process.pid, signal.SIGSTOP)
        before, moment = one.master, time.monotonic()
        cluster.operator.cli("switchover", one.name)
        wait_until("another is master", lambda: one.master not in (None, before), 30)
        took = time.monotonic() - moment
        one.settled(60)
        os.kill(server.process.pid, signal.SIGCONT)
        expect(took < 8, f"the switchover took {took:.1f} s")
        cluster.operator.cli("delete", "backup", names[1])
        status = taking(one, names[2], "256Ki", "preferStandby")
        cluster.operator.cli("delete", "backup", names[2])
        wanted = [f"rdb/{last['backupID']}/{file}" for file in ("dump.rdb.zst", "frames.json", "rdb.json")]
        folder = one.status()["backup"]["archive"] + "/"

        def clean():
            keys = sorted(key.removeprefix(folder) for key in server.keys(folder))
            if keys != wanted:
                raise Failed(f"the store has {keys}; {status['backupID']} was deleted")
            return True

        wait_until("the store has the complete snapshot alone", clean, 30)
        return f"{outcome}, switchover with a frozen store {took:.1f} s"
    finally:
        for name in names:
            cluster.operator.cli_result("delete", "backup", name)
        end(cluster, server, one)


def a_snapshot_in_a_directory_of_the_host_is_restored_by_its_path(cluster):
    """One member and one Sentinel, with snapshots instead of a log; the folder is on the host."""
    folder = tempfile.mkdtemp(prefix="evenkeel-redis-")
    store = {"directory": {"path": folder}}
    small = {"replicas": 1, "sentinels": 1, "persistence": "rdb", "storage": {"reclaimPolicy": "Delete"}}
    one = RedisSentinel(cluster.operator, "e2e-saved", **small)
    one.clean()
    new = None
    try:
        one.spec["backup"] = {"store": store}
        one.apply().settled(120)
        one.client().set("key", "value")
        _, status = backed_up(cluster, one)
        archive = one.status()["backup"]["archive"]
        one.delete()
        recovery = {"source": {"store": store, "path": archive}}
        new = restored(cluster, "e2e-back", recovery, replicas=1, sentinels=1, persistence="rdb")
        new.settled(90)
        expect(new.client().get("key") == b"value", "the key is not there")
        expect(told(new, "Completed")["backupID"] == status["backupID"], f"it says {new.status()['recovery']}")
        new.spec["bootstrap"] = {"recovery": {"source": {"cluster": "other"}}}
        code, out = cluster.operator.cli_result("apply", "-f", "-", text=json.dumps(new.manifest))
        expect(code != 0 and "spec.bootstrap: Invalid value: cannot be changed" in out, f"a change of spec.bootstrap: {code} {out}")
    finally:
        for each in filter(None, (one, new)):
            cluster.operator.cli_result("delete", "redissentinel", each.name)
            each.clean()
        shutil.rmtree(folder, ignore_errors=True)


SCENARIOS = [
    a_snapshot_in_a_directory_of_the_host_is_restored_by_its_path,
    a_failover_does_not_wait_for_a_snapshot_and_the_snapshot_moves,
    a_redis_is_restored_from_a_snapshot_of_a_replica_with_all_its_data,
    a_damaged_snapshot_is_named_and_no_data_is_served,
]
