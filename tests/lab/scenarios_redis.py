"""RedisSentinel and RedisCluster over three Docker hosts: places, the loss of a host, drain and return."""

import time

import redis
import redis_client
from checks import expect
from harness import Failed, wait_until
from redis_objects import Numbers, RedisCluster, RedisSentinel

LOST = 12  # seconds without writes when the master's host loses its power: downAfter is 5 s, then the Sentinels vote
SWITCHED = 2  # seconds without writes in a switchover
MOVED = 240  # seconds for a drain, and for a host that is given up


class Spread(RedisSentinel):
    """Three data members and three Sentinels, one of each a host."""

    def members(self):
        """Names of the data members; those that were replaced have other ordinals."""
        return [one["name"] for one in self.status().get("members", [])]

    def hosts(self, part="members"):
        """{name: host} of the data members or the Sentinels."""
        return {one["name"]: one["host"] for one in self.status().get(part, [])}

    def spread(self):
        """Waits until it is settled with one data member and one Sentinel a host."""
        self.settled(MOVED)
        names = sorted(self.operator_hosts)
        for part in ("members", "sentinels"):
            wait_until(f"the {part} are spread", lambda part=part: sorted(self.hosts(part).values()) == names, MOVED)
        return self.settled(MOVED)


def spread(lab, name, **spec):
    """A new one, settled."""
    one = Spread(lab.operator, name, **spec)
    one.operator_hosts = lab.names
    one.apply()
    one.spread()
    return one


def declare(lab, name, **spec):
    """Changes what a DockerHost declares."""
    lab.declare(lab[name], **spec)


def gone(lab, name, kind="redissentinel"):
    """Deletes it, and waits until no container is left."""
    lab.operator.cli("delete", kind, name, "--wait=false")
    wait_until("no container is left", lambda: not any(lab.each(lambda host: host.containers()).values()), 60)


def listens(host, container):
    """The addresses where processes of this container listen."""
    pid = host.docker("inspect", "-f", "{{.State.Pid}}", container).strip()
    text = host.docker("exec", container, "cat", "/proc/net/tcp")
    expect(pid != "0", f"{container} does not run")
    rows = [line.split() for line in text.splitlines()[1:]]
    packed = [row[1] for row in rows if row[3] == "0A"]
    address = lambda word: ".".join(str(int(word[at : at + 2], 16)) for at in (6, 4, 2, 0))  # noqa: E731
    return {(address(one[:8]), int(one[9:], 16)) for one in packed}


def data_members_and_sentinels_are_spread_and_listen_at_their_hosts_address_only(lab):
    """One of each a host, each with a port of the host's range; TLS over addresses; the Secret is enough for a client."""
    one = spread(lab, "tls", tls={"enabled": True})
    status = one.status()
    expect(status["toleratedLosses"] == {"members": 1, "hosts": 1}, f"tolerated is {status['toleratedLosses']}")
    expect(status["endpointSet"].get("network", "") == "", f"the endpoints are {status['endpointSet']}")
    for member in status["members"] + status["sentinels"]:
        host = lab[member["host"]]
        address, port = redis_client.address_of(member["address"])
        expect(address == host.address and 20000 <= port <= 29999, f"{member['name']} announces {member['address']}")
        bound = {ip for ip, bound_port in listens(host, f"default.{member['name']}") if bound_port == port}
        expect(bound == {host.address, "127.0.0.1"}, f"{member['name']} listens at {bound}")
    client = redis_client.through_sentinels(one.secret())
    expect(client.set("first", "1") and client.get("first") == b"1", "the Secret does not serve a Sentinel client")
    plain = {key: value for key, value in one.secret().items() if key != "ca.crt"}
    try:
        redis_client.at(status["endpoints"]["master"][0], plain).ping()
        raise Failed("the master answers without TLS")
    except redis.ConnectionError:
        pass
    gone(lab, "tls")


def the_loss_of_the_masters_host_costs_seconds_and_nothing_that_a_replica_had(lab):
    """The Sentinels of the other hosts promote; the host returns, and its member follows."""
    one = spread(lab, "lost")
    expect(one.condition("Unencrypted").get("status") == "True", "nobody says that TLS is off between hosts")
    before = one.status()
    host = one.hosts()[before["master"]]
    with Numbers(one, "power", loses=3) as numbers:
        moment = time.monotonic()
        lab[host].power_off()
        numbers.go_on(LOST + 20)
        after = one.status()
        lab[host].power_on()
        wait_until("the host is Ready again", lab.all_ready, 60)
        one.spread()
    outage = numbers.outage(moment)
    expect(after["master"] != before["master"], f"{before['master']} is master still")
    expect(outage <= LOST, f"the client could not write for {outage:.2f} s, more than {LOST} s")
    gone(lab, "lost")
    return f"outage {outage:.2f} s, {len(numbers.lost)} of {len(numbers.writer.records)} lost"


def a_drain_takes_the_master_away_first_and_leaves_nothing_on_the_host(lab):
    """A switchover, successors that are ready before the old ones leave, and a spread again when the host is back."""
    one = spread(lab, "drained")
    host = one.hosts()[one.master]
    with Numbers(one, "drain") as numbers:
        began = time.monotonic()
        declare(lab, host, drain=True)
        empty = lambda: not lab[host].containers()  # noqa: E731
        wait_until("the host is empty", empty, MOVED)
        took = time.monotonic() - began
        outage = numbers.outage(began)
        expect(outage <= SWITCHED, f"the client could not write for {outage:.2f} s, more than {SWITCHED} s")
        shared = one.condition("PlacementProblem")
        declare(lab, host)
        one.spread()
    expect("stops elections" in shared.get("message", ""), f"PlacementProblem was {shared}")
    gone(lab, "drained")
    return f"empty after {took:.0f} s, outage {outage:.2f} s"


def a_host_that_is_given_up_is_replaced_and_what_returns_is_removed_but_for_its_volumes(lab):
    """At once on the person's word; later the old containers go, the volumes stay, and the members part again."""
    one = spread(lab, "given")
    master = one.master
    host = one.hosts()[master]
    with Numbers(one, "given", loses=3) as numbers:
        began = time.monotonic()
        lab[host].power_off()
        declare(lab, host, outOfService=True)
        numbers.go_on(LOST + 20)
        replaced = lambda: host not in [*one.hosts().values(), *one.hosts("sentinels").values()]  # noqa: E731
        wait_until("nobody is on the host any more", replaced, MOVED)
        one.settled(MOVED)
        took = time.monotonic() - began
        outage = numbers.outage(began)
        lab[host].power_on()
        declare(lab, host)
        wait_until("the host is Ready again", lab.all_ready, 60)
        one.spread()
    volumes = lab[host].docker("volume", "ls", "-q").split()
    expect(f"default.{master}" in volumes, f"the volume of {master} is gone: {volumes}")
    gone(lab, "given")
    return f"replaced after {took:.0f} s, outage {outage:.2f} s, {len(numbers.lost)} lost"


def shards(one):
    """[(host of a master, hosts of its replicas)] of a RedisCluster."""
    members = one.status()["members"]
    hosts = {member["name"]: member["host"] for member in members}
    copies = lambda master: [hosts[member["name"]] for member in members if member.get("master") == master]  # noqa: E731
    return [(hosts[master["name"]], copies(master["name"])) for master in one.masters()]


def apart(one):
    """Waits until a RedisCluster is settled, with its masters on three hosts and every replica on another host than its master."""

    def look():
        found = shards(one)
        if len({host for host, _ in found}) < 3 or any(host in copies or not copies for host, copies in found):
            raise Failed(f"masters and replicas are on {found}")
        return True

    one.settled(MOVED)
    wait_until("masters and replicas are apart", look, MOVED)
    return one.settled(MOVED)


def a_cluster_survives_the_loss_of_any_one_host(lab):
    """Masters on three hosts, replicas elsewhere; a host loses its power, its master's slots go to the replica, and it returns."""
    one = RedisCluster(lab.operator, "shop", tls={"enabled": True}).apply()
    status = apart(one)
    expect(status["toleratedLosses"] == {"members": 1, "hosts": 1}, f"tolerated is {status['toleratedLosses']}")
    with Numbers(one, "shop", loses=3) as numbers:
        # The host of the master that has the numbers.
        address = redis_client.of_cluster(one.secret()).get_node_from_key("shop").name
        host = next(member["host"] for member in one.masters() if member["address"] == address)
        moment = time.monotonic()
        lab[host].power_off()
        served = lambda: one.status()["slotsServed"] == 16384  # noqa: E731
        wait_until("all slots are served again", served, 60)
        took = time.monotonic() - moment
        numbers.go_on(30)
        lab[host].power_on()
        wait_until("the host is Ready again", lab.all_ready, 60)
        apart(one)
    gone(lab, "shop", "rediscluster")
    return f"all slots served after {took:.1f} s, outage of one key {numbers.outage(moment):.2f} s, {len(numbers.lost)} lost"


def a_drained_host_has_no_member_of_a_cluster_any_more(lab):
    """Its masters hand over first; each successor is in sync before a member leaves; writes go on."""
    one = RedisCluster(lab.operator, "moved").apply()
    apart(one)
    host = lab.names[0]
    with Numbers(one, "moved") as numbers:
        began = time.monotonic()
        declare(lab, host, drain=True)
        wait_until("the host is empty", lambda: not lab[host].containers(), MOVED)
        took = time.monotonic() - began
        declare(lab, host)
        apart(one)
    gone(lab, "moved", "rediscluster")
    return f"empty after {took:.0f} s, outage of one key {numbers.outage(began):.2f} s"


SCENARIOS = [
    data_members_and_sentinels_are_spread_and_listen_at_their_hosts_address_only,
    the_loss_of_the_masters_host_costs_seconds_and_nothing_that_a_replica_had,
    a_drain_takes_the_master_away_first_and_leaves_nothing_on_the_host,
    a_host_that_is_given_up_is_replaced_and_what_returns_is_removed_but_for_its_volumes,
    a_cluster_survives_the_loss_of_any_one_host,
    a_drained_host_has_no_member_of_a_cluster_any_more,
]
