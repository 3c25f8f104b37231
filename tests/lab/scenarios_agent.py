"""What the agents of the hosts find: hosts that do not reach each other, ports of other programs."""

import json
import time

from checks import expect
from cluster import LabCluster
from harness import wait_until

FOUND = 30  # seconds in which an agent must have found a change, and its host must tell it
TAKEN = (21000, 21001, 21002)
RANGE = "21000-21003"


def status(lab, name):
    """The status of a DockerHost."""
    return json.loads(lab.operator.cli("get", "dockerhost", name, "-o", "json"))["status"]


def message(lab, name, kind):
    """The message of a condition of a DockerHost; empty if there is none."""
    found = status(lab, name).get("conditions", [])
    return next((one["message"] for one in found if one["type"] == kind), "")


def reach(lab):
    """{host: {other: ok, refused or timeout}}, as the operator says."""
    return {name: status(lab, name).get("reach", {}) for name in lab.names}


def all_reached(lab):
    """Whether each host is known to reach every other one."""
    return reach(lab) == {name: dict.fromkeys(sorted(set(lab.names) - {name}), "ok") for name in lab.names}


def reservations(lab, kind):
    """The reserved ports of the objects of a kind."""
    listed = json.loads(lab.operator.cli("get", "portreservations", "-o", "json"))["items"]
    return [one["spec"] for one in listed if one["spec"]["owner"]["kind"] == kind]


def every_host_has_an_agent_that_reaches_the_others(lab):
    """One container without privileges each, with one port, which can be restarted; boot ids and ways are known."""
    began = time.monotonic()
    wait_until("every host reaches every other one", lambda: all_reached(lab), FOUND)
    took = time.monotonic() - began
    for name, host in lab.hosts.items():
        agent = json.loads(host.docker("inspect", f"evenkeel-agent.{name}"))[0]
        settings = agent["HostConfig"]
        expect(agent["Config"]["User"] == "65534:65534", f"the agent is user {agent['Config']['User']}")
        expect(settings["ReadonlyRootfs"] and not settings["Privileged"], f"{settings}")
        expect(settings["CapDrop"] == ["ALL"] and not settings["CapAdd"] and not settings["Binds"], f"{settings}")
        expect(len(status(lab, name)["bootID"]) == 36, f"{name} has no boot id")
        said = [one for one in status(lab, name)["conditions"] if one["type"] != "Ready"]
        expect(not said, f"{name} says {said}")
    ports = reservations(lab, "DockerHost")
    for one in ports:
        host = lab[one["host"]]
        host.docker("restart", f"evenkeel-agent.{host.name}")
        listens = lambda host=host, at=one["port"]: f"{host.address}:{at} " in host.inside("ss", "-Htln")  # noqa: E731
        wait_until(f"the agent of {host.name} listens again", listens, 5)
    expect(sorted(one["host"] for one in ports) == lab.names, f"the agents have the ports {ports}")
    return f"after {took:.1f} s"


def a_cut_between_two_hosts_is_told_on_both_and_heals(lab):
    """Packets of one direction are dropped: no connection of either direction is possible. The third host sees nothing."""
    wait_until("every host reaches every other one", lambda: all_reached(lab), FOUND)
    lab.network.cut("h1", "h2")
    began = time.monotonic()
    cut = lambda: [lab.condition(name, "PeersUnreachable") for name in lab.names] == ["True", "True", None]  # noqa: E731
    wait_until("both hosts tell", cut, FOUND)
    found = time.monotonic() - began
    expect(reach(lab)["h1"] == {"h2": "timeout", "h3": "ok"}, f"{reach(lab)}")
    lab.network.heal()
    began = time.monotonic()
    wait_until("every host reaches every other one again", lambda: all_reached(lab), FOUND)
    told = [lab.condition(name, "PeersUnreachable") for name in lab.names]
    expect(told == [None] * 3, f"after healing the hosts tell {told}")
    return f"told after {found:.1f} s, healed after {time.monotonic() - began:.1f} s"


def a_firewall_is_told_on_the_host_that_it_shuts_out_and_members_avoid_it(lab):
    """h2 drops new connections of h1: h1 tells which ports h2 must allow, and no cluster has members on both."""
    wait_until("every host reaches every other one", lambda: all_reached(lab), FOUND)
    one, two = lab["h1"], lab["h2"]
    rule = ("INPUT", "-p", "tcp", "--syn", "-s", one.address, "--dport", "20000:29999", "-j", "DROP")
    two.inside("iptables", "-w", "-A", *rule)
    try:
        wait_until("h1 tells", lambda: lab.condition("h1", "PeersUnreachable") == "True", FOUND)
        said = message(lab, "h1", "PeersUnreachable")
        wanted = f"allow TCP from {one.address} to {two.address} ports 20000-29999"
        expect(wanted in said, f"h1 says: {said}")
        expect(reach(lab)["h2"] == {"h1": "ok", "h3": "ok"}, f"{reach(lab)}")
        code, text = lab.operator.cli_result("host", "check", "h1")[:2]
        expect(code == 1 and wanted in text, f"host check says {code}: {text}")
        for number in range(4):
            pair = LabCluster(lab, f"lab-pair-{number}")
            pair.spec["instances"] = 2
            pair.apply()
            pair.whole(120)
            hosts = {place["host"] for place in pair.members().values()}
            pair.delete()
            expect(hosts != {"h1", "h2"}, "a cluster has members on two hosts that do not reach each other")
    finally:
        two.inside("iptables", "-w", "-D", *rule)
    wait_until("every host reaches every other one again", lambda: all_reached(lab), FOUND)


def a_port_at_which_another_program_listens_is_told_and_never_tried(lab):
    """All ports of each host's range but one: they are told, and reserved for nobody."""
    script = "import socket, time; " + "; ".join(
        f"s{port} = socket.create_server(('ADDRESS', {port}))" for port in TAKEN
    )
    holders = []
    try:
        for name, host in lab.hosts.items():
            lab.declare(host, portRange=RANGE)
            command = ["python3", "-c", script.replace("ADDRESS", host.address) + "; time.sleep(600)"]
            holders.append(host.spawn(*command))
        told = lambda: all(status(lab, name).get("foreignPorts") == list(TAKEN) for name in lab.names)  # noqa: E731
        wait_until("every host tells", told, FOUND)
        said = message(lab, "h1", "ForeignListeners")
        expect("TCP 21000, 21001, 21002 of its range 21000-21003" in said, f"h1 says: {said}")
        cluster = LabCluster(lab, "lab-beside")
        cluster.apply()
        cluster.whole(60)
        ports = {place["port"] for place in cluster.members().values()}
        tried = {one["port"] for one in reservations(lab, "PostgresCluster") if one["owner"]["name"] == "lab-beside"}
        expect(ports == tried == {21003}, f"the members have the ports {ports}, {tried} were tried")
        cluster.delete()
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()
        for host in lab.hosts.values():
            lab.declare(host)
    wait_until("nobody tells any more", lambda: not message(lab, "h1", "ForeignListeners"), FOUND)


SCENARIOS = [
    every_host_has_an_agent_that_reaches_the_others,
    a_cut_between_two_hosts_is_told_on_both_and_heals,
    a_firewall_is_told_on_the_host_that_it_shuts_out_and_members_avoid_it,
    a_port_at_which_another_program_listens_is_told_and_never_tried,
]
