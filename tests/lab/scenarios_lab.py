"""What the lab itself promises: cuts, losses and delays of each direction, power off and on, engines killed and replaced."""

import socket
import time

from checks import expect
from harness import Failed, wait_until
from host import PORT
from talk import Talk, at, datagrams

WEB = "evenkeel-test/web:1"


def each_host_is_an_engine_of_its_own_that_serves_only_with_a_certificate(lab):
    """Three IDs, images everywhere, and TLS clients without a certificate are refused."""
    ids = lab.each(lambda host: host.engine_id())
    expect(len(set(ids.values())) == len(lab.names), f"engines share an ID: {ids}")
    for host in lab.hosts.values():
        images = host.docker("images", "-q", WEB).split()
        expect(len(images) == 1, f"{host.name} has no image {WEB}")
        said = host.anonymous()
        expect("certificate" in said, f"{host.name} answers without a certificate: {said}")


def a_container_on_the_host_network_sees_only_its_host(lab):
    """Its addresses are those of the host's namespace."""
    script = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
        "s.connect(('10.99.0.254', 9)); print(s.getsockname()[0])"
    )
    for host in lab.hosts.values():
        command = ("run", "--rm", "--network", "host", "--entrypoint", "python3", WEB, "-c", script)
        said = host.docker(*command).strip()
        expect(said == host.address, f"a container of {host.name} has the address {said}")


def a_cut_ends_one_direction_of_an_established_connection(lab):
    """Forth is dropped, back still arrives; after healing the lost byte comes by itself."""
    with Talk(lab.network, "h1", "h2") as talk:
        expect(talk.arrives(forth=True) is not None, "nothing arrives before the cut")
        # A byte from h2 needs no acknowledgement of h1 to arrive there.
        lab.network.cut("h1", "h2")
        expect(talk.arrives(forth=True) is None, "a byte arrived over the cut")
        expect(talk.arrives(forth=False) is not None, "the other direction is cut, too")
        lab.network.heal()
        talk.far.settimeout(10)
        expect(talk.far.recv(1) == b"x", "the byte did not come after healing")


def a_loss_loses_its_share_and_a_delay_delays_its_direction(lab):
    """30 % of datagrams; 80 ms in one direction."""
    network = lab.network
    network.loss("h1", "h3", 30)
    share = datagrams(network, "h1", "h3", 2000)
    network.heal()
    expect(0.65 < share < 0.75, f"{share:.0%} arrived")
    with Talk(network, "h1", "h3") as talk:
        network.delay("h1", "h3", 80)
        forth = [talk.arrives(forth=True) for _ in range(10)]
        back = [talk.arrives(forth=False) for _ in range(10)]
        network.heal()
        after = talk.arrives(forth=True)
    expect(all(one and 0.08 <= one < 0.12 for one in forth), f"forth took {forth}")
    expect(all(one and one < 0.02 for one in back), f"back took {back}")
    expect(after and after < 0.02, f"after healing it took {after}")
    return f"{share:.0%} arrived; forth {1000 * max(forth):.0f} ms, back {1000 * max(back):.1f} ms at most"


def a_host_without_power_says_nothing_and_starts_its_containers_when_it_boots(lab):
    """No FIN reaches the other side; a restart policy is kept, a container without one stays down."""
    host = lab["h2"]
    host.docker("run", "-d", "--name", "lab-again", "--restart", "unless-stopped", WEB)
    host.docker("run", "-d", "--name", "lab-once", WEB)
    address, identity = (host.address, PORT), host.engine_id()
    with at(lab.network, "c1", lambda: socket.create_connection(address, 2)) as open_one:
        began = time.monotonic()
        host.power_off()
        took = time.monotonic() - began
        expect(not host.everything(), "processes are left")
        open_one.settimeout(0.3)
        try:
            raise Failed(f"the dead host said {open_one.recv(1)!r}")
        except TimeoutError:
            pass
        try:
            at(lab.network, "c1", lambda: socket.create_connection(address, 0.3).close())
            raise Failed("the dead host accepts connections")
        except TimeoutError:
            pass
    began = time.monotonic()
    host.power_on()
    booted = time.monotonic() - began
    state = lambda name: host.docker("inspect", "-f", "{{.State.Running}}", name).strip()  # noqa: E731
    wait_until("the container with a restart policy runs again", lambda: state("lab-again") == "true", 10)
    expect(state("lab-once") == "false", "a container without a restart policy was started")
    expect(host.engine_id() == identity, "the engine has another ID after a boot")
    host.docker("rm", "-f", "lab-again", "lab-once")
    return f"off in {took:.2f} s, on in {booted:.2f} s"


def dockerd_can_be_killed_with_and_without_its_containers(lab):
    """With live-restore a container goes on; without, it is started again when dockerd is."""
    host = lab["h3"]
    host.docker("run", "-d", "--name", "lab-lives", "--restart", "unless-stopped", WEB)
    started = lambda: host.docker("inspect", "-f", "{{.State.Pid}}", "lab-lives").strip()  # noqa: E731
    first = started()
    host.stop_dockerd(live_restore=True, kill=True)
    host.start()
    expect(started() == first, "live-restore did not keep the container")
    host.stop_dockerd(live_restore=False)
    host.start()
    wait_until("the container runs again", lambda: started() not in ("0", first), 20)
    host.docker("rm", "-f", "lab-lives")


def an_engine_can_be_replaced_at_its_address_and_come_back(lab):
    """The new one has another ID and no container; the old one returns with its ID and its containers."""
    host = lab["h1"]
    host.docker("create", "--name", "lab-kept", WEB)
    first = host.engine_id()
    host.replace_engine()
    expect(host.engine_id() != first, "the engine has the same ID")
    expect(not host.docker("ps", "-aq").split(), "the new engine has containers")
    host.restore_engine()
    expect(host.engine_id() == first, "the old engine has another ID")
    host.docker("rm", "lab-kept")


SCENARIOS = [
    each_host_is_an_engine_of_its_own_that_serves_only_with_a_certificate,
    a_container_on_the_host_network_sees_only_its_host,
    a_cut_ends_one_direction_of_an_established_connection,
    a_loss_loses_its_share_and_a_delay_delays_its_direction,
    a_host_without_power_says_nothing_and_starts_its_containers_when_it_boots,
    dockerd_can_be_killed_with_and_without_its_containers,
    an_engine_can_be_replaced_at_its_address_and_come_back,
]
