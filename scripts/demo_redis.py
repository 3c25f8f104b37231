"""The demo's act about Redis: the master of a RedisSentinel is killed under writes, and that of plain Sentinel beside it."""

import pathlib
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "e2e"), str(ROOT / "tests" / "bench")]

import client
import harness
import redis_client
from redis_objects import REDIS, RedisSentinel
from sentinels import Group

NAME = "demo-cache"
ACKS = 300  # numbers acknowledged before and after the kill


def writer(secret):
    """A redis-py client that writes by the Sentinels."""
    writing = redis_client.Writer(redis_client.through_sentinels(secret), "demo", 0.001).start()
    if not writing.wait_for_acks(ACKS, 30):
        raise harness.Failed(f"the client could not write: {writing.errors[-1:]}")
    return writing


def kill(container, writing):
    """Kills a master; returns the moment, when the client writes again."""
    moment = time.monotonic()
    harness.docker("kill", container)
    if not writing.wait_for_acks(ACKS, 60):
        raise harness.Failed(f"the client could not write again: {writing.errors[-1:]}")
    return moment


def plain():
    """The write outage with plain Sentinel."""
    group = Group(REDIS)
    try:
        master = group.settled()
        writing = writer(group.secret)
        moment = kill(group.container(master), writing)
        writing.stop()
        return client.outage(writing.records, moment)
    finally:
        group.remove()


def timeline(told):
    """Prints a failover as the operator saw it."""
    print(f"\nFailover as the operator saw it: {told.get('from')} -> {told.get('to')} ({told.get('cause')})")
    at = 0.0
    for step in told.get("steps", []):
        print(f"  +{at:6.3f} s  {step['step']} ({step['took']:.3f} s)")
        at += step["took"]
    if told.get("outage") is not None:
        print(f"  +{told['outage']:6.3f} s  writes again")


def act(operator, say):
    """The act. Returns the number of lost acknowledged writes that a replica had."""
    cache = RedisSentinel(operator, NAME, storage={"reclaimPolicy": "Delete"})
    if cache.containers() or cache.volumes():
        raise harness.Failed(f"the engine already has a Redis {NAME}; the demo does not touch it")
    try:
        say(f"applying the RedisSentinel {NAME}: a master, two replicas, three Sentinels of {REDIS}")
        cache.apply()
        master = cache.settled(120)["master"]
        writing = writer(cache.secret())
        say(f"Ready; a redis-py client writes; killing the container of the master, {master}")
        moment = kill(cache.container(master), writing)
        after = cache.settled(120)
        writing.stop()
        say(f"{master} is back as a replica; the master is {after['master']}")
        lost = cache.compare("demo", writing.records)
        say("the same with plain Sentinel (down-after 5 s)")
        beside = plain()
        timeline(after.get("lastFailover") or {})
        print(f"\nWrite outage as the client saw it: {client.outage(writing.records, moment):.3f} s; plain Sentinel: {beside:.3f} s")
        print(f"Numbers acknowledged: {lost['acknowledged']}; lost: {len(lost['lost'])}\n", flush=True)
        cache.delete()
        return max(0, len(lost["lost"]) - 1)
    finally:
        cache.clean()
