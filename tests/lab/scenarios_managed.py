"""An etcd that Evenkeel manages: nodes are killed, lost, removed and join again; a majority is lost for good."""

import shutil
import subprocess
import time

from checks import expect
from cluster import Clients, LabCluster
from harness import Failed, wait_until
from managed import CONTAINER, ETCD_IMAGE
from shared import SharedLab

GAP = 8.0  # seconds without a leading operator after the member of etcd beside it was killed, on a busy machine
LOST = 12.0  # and after the host of everything that leads has lost its power


def a_killed_etcd_is_started_again_and_the_others_go_on(lab):
    """The member of etcd beside the operator that leads is killed by `docker kill`: Docker itself leaves it dead."""
    wait_until("one node may be lost", lab.redundant, 30)
    host = lab.hosts[lab.leader()[0]]
    lab.move_etcd(host.name)
    began = time.monotonic()
    host.docker("kill", CONTAINER)
    wait_until("an operator leads", lambda: lab.leader() is not None, 20, poll=0.05)
    lab.operator.cli("get", "dockerhosts")
    gap = time.monotonic() - began
    wait_until("one node may be lost again", lab.redundant, 30)
    healed = time.monotonic() - began
    expect(gap < GAP, f"no operator led for {gap:.2f} s")
    return f"served again after {gap:.2f} s, redundant after {healed:.2f} s"


def the_node_with_the_leaders_of_everything_is_lost_and_comes_back(lab):
    """The host with the operator that leads and the leader of etcd loses its power; later it boots, and its etcd with it."""
    wait_until("one node may be lost", lab.redundant, 30)
    old = lab.leader()
    lab.move_etcd(old[0])
    began = time.monotonic()
    lab.power_off(old[0])
    _, took = lab.leads_after(old)
    took = max(took, time.monotonic() - began)
    lab.hosts[old[0]].power_on()
    lab.revive()
    wait_until("one node may be lost again", lab.redundant, 60)
    expect(took < LOST, f"another operator led after {took:.2f} s")
    return f"another operator led after {took:.2f} s, with the time of the kill itself"


def wrong_input_changes_nothing(lab):
    """What cannot be begun or joined ends with a sentence that says why, and the cluster is as before."""
    before = lab.etcdctl("member", "list")
    one, last = lab.operators[lab.names[0]], lab.names[-1]
    token = lab.join(one)[-1]
    lab.operators[last].stop()
    whole, address = lab.operators[last], lab.network.nodes[last]

    def refused(words, *options, listen=address, data="other", environment=None):
        spare = lab.folder / "spare"
        command = [*whole.command, "operator", "--data-dir", str(spare / data), "--listen", f"{listen}:7999"]
        env = {**whole.env, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **(environment or {})}
        ended = subprocess.run([*command, *options], capture_output=True, text=True, timeout=90, check=False, env=env)
        said = ended.stderr + ended.stdout
        expect(ended.returncode in (1, 2), f"{options} ended with {ended.returncode}: {said}")
        expect(words in said, f"{options} said: {said}")

    image = ["--etcd-image", ETCD_IMAGE]
    join = ["--join", f"{one.address}:{one.port}", "--token-file", token, "--node", "new", *image]
    begin = ["--cluster-init", "--node", "new", *image]
    wrong = lab.folder / "wrong-token"
    text = (lab.folder / "join-token").read_text(encoding="utf-8").strip()
    wrong.write_text(f"{text}x", encoding="utf-8")
    refused("it is wrong, expired or revoked", *join[:2], "--token-file", str(wrong), *join[4:])
    wrong.write_text(text.replace(text[3:11], "00000000"), encoding="utf-8")
    refused("nothing was sent: the token is not of the operators there", *join[:2], "--token-file", str(wrong), *join[4:])
    refused(f'a node is called "{one.options[1]}" already', *join[:4], "--node", one.options[1], *image)
    refused("it cannot be reached", "--join", "10.99.0.11:1", *join[2:])
    refused("has the data of another cluster", *join)
    refused("has the data of another cluster", *begin)
    refused("needs this machine's Docker", *begin, environment={"DOCKER_HOST": "unix:///nowhere.sock"})
    refused("--advertise ADDRESS", *begin, listen="127.0.0.1")
    refused("--advertise ADDRESS", *begin, listen="0.0.0.0")
    refused("has joined other operators", "--cluster-init", data=str(whole.data))
    whole.start()
    wait_until("one node may be lost", lab.redundant, 30)
    expect(lab.etcdctl("member", "list") == before, "the members of etcd have changed")
    refused_by(lab, 3, "no node is called", "cluster", "remove", "nobody")
    refused_by(lab, 4, "is the node that is asked", "cluster", "remove", lab.operator.any().options[1])


def refused_by(lab, code, words, *command):
    """The command ends with this code and these words."""
    ended, said = lab.operator.cli_result(*command)
    expect(ended == code and words in said, f"{command} ended with {ended}: {said}")


def a_lost_node_is_removed_and_a_new_one_joins_in_its_place(lab):
    """A host loses its power; it is removed, comes back, is told so, is wiped and joins again."""
    wait_until("one node may be lost", lab.redundant, 30)
    last = lab.names[-1]
    lab.power_off(last)
    wait_until("it is down", lambda: lab.roles()[last] == "down", 20)
    told = lab.operator.cli("cluster", "status")
    expect("the loss of one more node stops the store" in told, told)
    other = next(name for name in lab.names[:-1] if lab.operator.any() is not lab.operators[name])
    refused_by(lab, 4, "it would stand still", "cluster", "remove", other)
    lab.operator.cli("cluster", "remove", last)
    expect("a witness" in lab.operator.cli("cluster", "status"), "two nodes are left")
    lab.hosts[last].power_on()
    removed = lab.operators[last]
    try:
        removed.start()
        raise Failed("a node that was removed has started")
    except SystemExit as ended:
        expect("was removed from its cluster" in str(ended), str(ended))
    lab.wipe(last)
    took = lab.started(last, *lab.join(lab.operator.any()))
    wait_until("one node may be lost again", lab.redundant, 30)
    return f"the new one joined in {took:.1f} s"


def two_of_three_nodes_are_lost_for_good_and_the_last_one_is_reset(lab):
    """A database runs; two hosts lose their power. The last node goes on alone, and the others join it again, empty."""
    wait_until("one node may be lost", lab.redundant, 30)
    cluster = LabCluster(lab, "lab-reset")
    cluster.apply()
    cluster.whole(120)
    primary, _ = cluster.roles()
    lost = [name for name in lab.names if name != primary]
    survivor = lab.operators[primary]
    with Clients(cluster) as clients:
        for name in lost:
            lab.power_off(name)
        time.sleep(3)
        code, said = survivor.cli_result("cluster", "status")
        expect(code != 0 or "the store stands still" in said, said)
        code, said = reset(survivor)
        expect(code == 1 and "is an operator on the data directory" in said, said)
        survivor.stop()
        code, said = reset(survivor)
        expect(code == 2 and "nothing was done" in said, f"{code} {said}")
        began = time.monotonic()
        code, said = reset(survivor, "--yes")
        expect(code == 0 and "is a cluster of its own now" in said, f"{code} {said}")
        survivor.start()
        alone = time.monotonic() - began
        wait_until("it leads", lambda: lab.leader() is not None, 20)
        expect("the loss of this one node stops the store" in survivor.cli("cluster", "status"), "one node is left")
        for name in lost:
            lab.hosts[name].power_on()
            lab.wipe(name)
            lab.started(name, *lab.join(survivor))
        wait_until("one node may be lost again", lab.redundant, 60)
        clients.go_on(120)
        cluster.whole(180)
    return f"served {alone:.1f} s after the reset began"


def a_node_has_another_address_after_a_restart(lab):
    """The address of a machine changes while its operator is stopped; then it gets the old one again."""
    wait_until("one node may be lost", lab.redundant, 30)
    name = lab.names[-1]
    one, former = lab.operators[name], lab.network.nodes[name]
    took = []
    for address in (former.rsplit(".", 1)[0] + ".77", former):
        one.stop()
        lab.network.renumber(name, address)
        code, said = one.cli_result("operator", "--data-dir", str(one.data), "--listen", "127.0.0.1:7999", "--node", name)
        expect(code == 1 and "is no address of this machine any more" in said, f"{code} {said}")
        one.address = address
        began = time.monotonic()
        one.start()
        wait_until("one node may be lost again", lab.redundant, 60)
        took.append(time.monotonic() - began)
        peers = {node["name"]: node["etcd"]["peer"] for node in lab.status()["nodes"]}
        expect(peers[name] == f"https://{address}:2380", f"the members are {peers}")
        for other in lab.operators.values():
            wait_until("kubeconfigs name it", lambda file=other.data / "kubeconfig": f"{address}:" in file.read_text(), 15)
    return f"redundant {max(took):.1f} s after the start at the other address"


def a_stolen_node_is_shut_out_by_new_keys(lab):
    """Somebody has the files of a node: it is removed, the keys are renewed, and its files are refused by etcd and by the API."""
    wait_until("one node may be lost", lab.redundant, 30)
    first, *others = lab.names
    one, stolen, files = lab.operators[first], lab.operators[others[-1]], lab.folder / "stolen"
    shutil.copytree(stolen.data / "pki", files)
    etcd = f"https://{lab.network.nodes[first]}:2379"
    thief = (f"--cacert={files}/etcd-ca.crt", f"--cert={files}/etcd.crt", f"--key={files}/etcd.key")

    def removed():
        code, said = one.cli_result("cluster", "remove", others[-1], "--stolen")
        waits = code == 4 and "has joined just now" in said
        expect(waits or "evenkeel cluster renew-keys --yes" in said, f"{code} {said}")
        return code == 0

    wait_until("it is removed", removed, 30)
    wait_until("its operator ends", lambda: stolen.process.poll() is not None, 30)
    SharedLab.etcdctl_at(lab, etcd, *thief, "member", "list")
    began = time.monotonic()
    for operator in lab.operators.values():
        if operator.process.poll() is None:
            operator.stop()

    def renewed():
        code, said = one.cli_result("cluster", "renew-keys", "--yes", "--data-dir", str(one.data))
        expect(code == 0 or "operators run over this store" in said, f"{code} {said}")
        return code == 0

    wait_until("the keys are renewed", renewed, 20)
    for words in (("rm", "-f", CONTAINER), ("volume", "rm", CONTAINER)):
        lab.hosts[first].docker(*words)
    lab.started(first, "--cluster-init")
    served = time.monotonic() - began
    for name in others:
        lab.wipe(name)
        lab.started(name, *lab.join(one))
    wait_until("one node may be lost again", lab.redundant, 60)
    own = one.data / "pki"
    # The thief knows the new CA, which is no secret.
    for authority in (files, own):
        try:
            SharedLab.etcdctl_at(lab, etcd, f"--cacert={authority}/etcd-ca.crt", *thief[1:], "member", "list")
        except Failed:
            continue
        raise Failed(f"etcd lets the certificate of the stolen node in, with the CA in {authority}")
    kubeconfig = (one.data / "kubeconfig").read_text(encoding="utf-8")
    token = (own / "token").read_text(encoding="utf-8").strip()
    forged = lab.folder / "forged"
    forged.write_text(kubeconfig.replace(token, (files / "token").read_text(encoding="utf-8").strip()), encoding="utf-8")
    code, said = one.cli_result("get", "secrets", "--kubeconfig", str(forged))
    expect(code == 1 and "expired or revoked" in said, f"{code} {said}")
    return f"served {served:.1f} s after the stop of all operators"


def reset(operator, *words):
    """`cluster reset` on the data directory of an operator: (exit code, all output)."""
    return operator.cli_result("cluster", "reset", "--data-dir", str(operator.data), *words)


SCENARIOS = [
    a_killed_etcd_is_started_again_and_the_others_go_on,
    the_node_with_the_leaders_of_everything_is_lost_and_comes_back,
    wrong_input_changes_nothing,
    a_lost_node_is_removed_and_a_new_one_joins_in_its_place,
    a_node_has_another_address_after_a_restart,
    a_stolen_node_is_shut_out_by_new_keys,
    two_of_three_nodes_are_lost_for_good_and_the_last_one_is_reset,
]
