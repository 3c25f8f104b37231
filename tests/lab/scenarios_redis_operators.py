"""The Redis kinds under several operators: the one that leads is killed, and later stands still, in the middle of failovers."""

import os
import signal
import time

import redis
import redis_client
from checks import expect
from harness import Failed, wait_until
from redis_objects import Numbers, RedisCluster
from scenarios_redis import apart, spread

ORDER = "to promote a replica"  # what the operator that leads logs when it has begun a failover
FROZEN = 10  # seconds that a leader stands still
AGAIN = 40  # seconds until clients write again, on a busy machine
LOST = 3  # acknowledged numbers that no replica had yet


def shard(one, key):
    """Name and host of the member of a RedisCluster that is master of this key, as the cluster itself says."""
    address = redis_client.of_cluster(one.secret()).get_node_from_key(key).name
    return next((member["name"], member["host"]) for member in one.masters() if member["address"] == address)


def alone(one):
    """Waits until exactly one member of a RedisSentinel says that it is master, and it is the one of the status."""

    def look():
        try:
            roles = {name: one.at(name).role()[0].decode() for name in one.members()}
        except (redis.RedisError, KeyError) as problem:
            raise Failed(str(problem)) from problem
        masters = [name for name, role in roles.items() if role == "master"]
        if masters != [one.master]:
            raise Failed(f"the members say {roles}, the status says {one.master}")
        return True

    wait_until("there is one master", look, AGAIN)


def an_operator_that_dies_or_stands_still_in_a_failover_of_redis_leaves_one_master(lab):
    """Both kinds lose their masters twice: the leading operator is killed a moment later, then it stands still and wakes."""
    cache = spread(lab, "shared-cache")
    shop = RedisCluster(lab.operator, "shared-shop").apply()
    apart(shop)

    def fail_over(disturb):
        """Kills the masters, disturbs the operator that leads in the middle of that, and waits until all is whole."""
        master, (member, host) = cache.master, shard(shop, "shop")
        lead, moment = lab.leader(), time.monotonic()
        log = lab.operators[lead[0]].log
        start = log.stat().st_size
        lab[host].docker("kill", shop.container(member))
        lab[cache.hosts()[master]].docker("kill", cache.container(master))
        wait_until("a failover has begun", lambda: ORDER in log.read_text(encoding="utf-8", errors="replace")[start:], 10, poll=0.01)
        disturb(lead)
        for numbers in (first, second):
            numbers.go_on(AGAIN)
        wait_until("another member is master", lambda: cache.master != master, AGAIN)
        outages = [numbers.outage(moment) for numbers in (first, second)]
        lab.away.clear()
        lab.revive()
        cache.settled(AGAIN)
        alone(cache)
        apart(shop)
        return "{:.1f} and {:.1f} s".format(*outages)

    def kill(lead):
        lab.operators[lead[0]].kill()
        lab.leads_after(lead)

    def freeze(lead):
        process = lab.operators[lead[0]].process
        lab.away.add(lead[0])
        process.send_signal(signal.SIGSTOP)
        try:
            lab.leads_after(lead)
            time.sleep(FROZEN)
        finally:
            os.kill(process.pid, signal.SIGCONT)

    with Numbers(cache, "cache", loses=LOST) as first, Numbers(shop, "shop", loses=LOST) as second:
        killed, frozen = fail_over(kill), fail_over(freeze)
    cache.delete()
    shop.delete()
    lost = [len(numbers.lost) for numbers in (first, second)]
    return f"Sentinel and cluster: no writes for {killed} with a killed operator, {frozen} with a frozen one; lost {lost}"


SCENARIOS = [an_operator_that_dies_or_stands_still_in_a_failover_of_redis_leaves_one_master]
