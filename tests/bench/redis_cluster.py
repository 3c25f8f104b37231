"""Kills masters of a RedisCluster, and moves its slots under load: `redis_cluster.py BINARY [KILLS]`.

The client is redis-py's. Prints the time without an acknowledged write on the slots of a killed master, and for 3 -> 4 -> 3
masters the keys of 100,000 that are lost and the requests that failed, with the operator killed again and again. Exits 1 if a
key or an acknowledged write is lost.
"""

import json
import pathlib
import sys
import tempfile
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import harness
import redis
from redis_objects import RedisCluster, kill_servers

NAME, KEYS, PIPE, LISTS = "bench-slots", 100_000, 1000, 500
OPERATOR_KILLS = 10


class Writer(threading.Thread):
    """Appends numbers to lists; counts what is acknowledged and what failed, and the longest time without either."""

    def __init__(self, client, key):
        super().__init__(daemon=True)
        self.client, self.key = client, key
        self.acknowledged, self.failed, self.gap, self.over = 0, [], 0.0, False

    def run(self):
        last = time.monotonic()
        while not self.over:
            try:
                self.client.rpush(self.key(self.acknowledged), self.acknowledged)
                self.acknowledged += 1
                now = time.monotonic()
                self.gap, last = max(self.gap, now - last), now
            except redis.RedisError as error:
                self.failed.append(f"{type(error).__name__}: {error}"[:100])
            time.sleep(0.002)

    def stop(self):
        self.over = True
        self.join()
        return self


def kill(cluster, number):
    """Kills the server of a master; returns the seconds without a write on its slots, and the lost writes."""
    masters = cluster.masters()
    master = masters[number % len(masters)]
    address, client = master["address"].split(":")[0], cluster.client()
    key = next(f"gap:{n}" for n in range(KEYS) if client.get_node_from_key(f"gap:{n}").host == address)
    writer = Writer(client, lambda _: key)
    writer.start()
    time.sleep(1)
    kill_servers(cluster.container(master["name"]))
    time.sleep(4)
    writer.stop()
    there = {int(one) for one in client.lrange(key, 0, -1)}
    lost = len(set(range(writer.acknowledged)) - there)
    client.delete(key)
    print(f"{master['name']} killed: {writer.gap:.2f} s, {len(writer.failed)} requests failed, {lost} writes lost", flush=True)
    cluster.settled(240)
    return writer.gap, lost


def pipelined(client, ask):
    """Asks for each key; returns the answers."""
    answers = []
    for first in range(0, KEYS, PIPE):
        pipe = client.pipeline()
        for number in range(first, first + PIPE):
            ask(pipe, number)
        answers.extend(pipe.execute())
    return answers


def move(cluster, masters):
    """Scales under load while the operator is killed; returns the number of lost keys and writes."""
    writer = Writer(cluster.client(), lambda count: f"flow:{count % LISTS}")
    writer.start()
    begun = time.monotonic()
    cluster.change(masters=masters)
    harness.wait_until("slots are moved", cluster.left, 90)
    for _ in range(OPERATOR_KILLS):
        left = cluster.left()
        cluster.operator.kill()
        cluster.operator.start()
        harness.wait_until("more slots are moved", lambda: cluster.left() < left or not left, 60)
    cluster.settled(240)
    took = time.monotonic() - begun
    writer.stop()
    client = cluster.client()
    values = pipelined(client, lambda pipe, number: pipe.get(f"key:{number}"))
    lost = sum(1 for number, value in enumerate(values) if value != str(number).encode())
    there = {int(one) for number in range(LISTS) for one in client.lrange(f"flow:{number}", 0, -1)}
    gone = len(set(range(writer.acknowledged)) - there)
    for number in range(LISTS):
        client.delete(f"flow:{number}")
    print(
        f"{masters} masters: {took:.0f} s, operator killed {OPERATOR_KILLS} times, {lost} of {KEYS} keys lost, "
        f"{gone} of {writer.acknowledged} writes lost, {len(writer.failed)} requests failed {writer.failed[:2]}, "
        f"longest gap {writer.gap:.2f} s",
        flush=True,
    )
    return lost + gone


def main():
    """Runs the benchmark."""
    if len(sys.argv) < 2:
        sys.exit("usage: redis_cluster.py BINARY [KILLS]")
    with tempfile.TemporaryDirectory() as folder:
        operator = harness.Operator(sys.argv[1], folder).start()
        cluster = RedisCluster(operator, NAME)
        try:
            begun = time.monotonic()
            cluster.apply().settled(240)
            print(f"3 masters with a replica each: ready after {time.monotonic() - begun:.1f} s", flush=True)
            killed = [kill(cluster, number) for number in range(int(sys.argv[2]) if len(sys.argv) > 2 else 5)]
            gaps = sorted(gap for gap, _ in killed)
            if gaps:
                print(f"killed masters: median {gaps[len(gaps) // 2]:.2f} s, longest {gaps[-1]:.2f} s", flush=True)
            pipelined(cluster.client(), lambda pipe, number: pipe.set(f"key:{number}", number))
            lost = [move(cluster, masters) for masters in (4, 3)]
        except harness.Failed:
            print(operator.log.read_text(encoding="utf-8", errors="replace")[-4000:])
            print(json.dumps(cluster.status(), indent=1)[:6000])
            raise
        finally:
            cluster.delete()
            operator.stop()
    sys.exit(1 if sum(lost) else 0)


if __name__ == "__main__":
    main()
