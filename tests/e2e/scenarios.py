"""What a PostgresCluster promises, each as one scenario on a real Docker Engine with an outside client writing all the while.

A scenario's name is its sentence. It gets one settled three-instance cluster and
leaves it settled; it fails by raising `Failed`.
"""

import json
import subprocess
import time

import client
import psycopg2
from harness import Failed, docker, kill_postmaster, wait_until, writer_for

WRITE_PAUSE = 0.005  # seconds between two rows: leaves the machine to the failover
AFTER = 50  # rows that must be acknowledged after a disturbance


def expect(truth, sentence):
    """Fails with the sentence unless it is true."""
    if not truth:
        raise Failed(sentence)


class Writes:
    """Rows written around a disturbance; at the end of the `with` nothing acknowledged may be missing anywhere."""

    def __init__(self, cluster, table, watch_splits=False):
        self.cluster = cluster
        self.table = table
        self.uri = cluster.uri()
        self.watch_splits = watch_splits
        self.probes = []

    def __enter__(self):
        self.writer = writer_for(self.uri, self.table, WRITE_PAUSE)
        if self.watch_splits:
            # One more writer on each instance, which takes whatever the instance takes, primary or not.
            for host in client.hosts_of(self.uri):
                single = single_host(self.uri, host.name)
                self.probes.append(client.Writer(single, table=self.table + "_probe", attributes="any", pause=0.02).start())
        return self

    def go_on(self, within):
        """Waits until the client's writes are acknowledged again."""
        if not self.writer.wait_for_acks(AFTER, within):
            raise Failed(f"the client's writes did not go on within {within} s: {self.writer.errors[-1:]}")

    def outage(self, around):
        """The client's write outage, in seconds."""
        return client.outage(self.writer.records, around)

    def __exit__(self, kind, error, trace):
        self.writer.stop()
        for probe in self.probes:
            probe.stop()
        if error is not None:
            return
        records = [record for probe in [self.writer, *self.probes] for record in probe.records]
        found = client.splits(records)
        expect(not found, f"two instances took acknowledged writes at once: {found[:1]}")
        check_everywhere(self.uri, self.writer.records, self.table)


def single_host(uri, name):
    """The URI with one of its hosts only."""
    before, _, rest = uri.partition("@")
    return f"{before}@{name}/{rest.split('/', 1)[1]}"


def check_everywhere(uri, records, table):
    """No instance misses an acknowledged row, has one twice, or has one that nobody wrote."""
    for host in client.hosts_of(uri):
        single = single_host(uri, host.name)

        def same():
            try:
                result = client.check(single, records, table, attributes="any", timeout=10)
            except (psycopg2.Error, client.Silent) as error:
                raise Failed(f"{host.name} cannot be read: {error}") from error
            expect(not result["phantoms"], f"{host.name} has rows that nobody wrote: {result['phantoms'][:5]}")
            expect(not result["duplicates"], f"{host.name} has rows twice: {result['duplicates'][:5]}")
            lost = result["lost"]
            expect(not lost, f"{host.name} misses {len(lost)} of {result['acknowledged']} acknowledged rows: {lost[:5]}")
            return True

        # A standby replays a little later than the primary answers.
        wait_until(f"{host.name} has every acknowledged row", same, 20)


def ask(uri, question):
    """One value from the instance."""
    connection = client.connect(uri, attributes="any", timeout=20)
    try:
        return client.execute(connection, question, deadline=10)[0][0]
    finally:
        connection.close()


def ask_all(uri, question):
    """The value that each instance gives."""
    return {host.name: ask(single_host(uri, host.name), question) for host in client.hosts_of(uri)}


def fail_over(cluster, table, disturb, within, watch_splits=False):
    """Disturbs the primary under writes: another must take over in time, and the old one come back as standby."""
    before = cluster.settled()
    with Writes(cluster, table, watch_splits) as writes:
        moment = time.monotonic()
        repair = disturb(before["primary"])
        writes.go_on(within + 10)
        if repair:
            repair()
        after = cluster.settled()
    outage = writes.outage(moment)
    expect(after["primary"] != before["primary"], f"{before['primary']} is primary again; another should have been promoted")
    expect(after["term"] > before["term"], f"the term did not rise above {before['term']}")
    expect(outage <= within, f"the client could not write for {outage:.2f} s, more than {within} s")
    failover = after.get("lastFailover") or {}
    expect(failover.get("to") == after["primary"], f"status.lastFailover does not name {after['primary']}: {failover}")
    return f"outage {outage:.2f} s"


# The scenarios, in the order in which they run.


def the_secret_says_how_to_connect(cluster):
    """A stock libpq program gets to the primary with the Secret's own URI."""
    secret = cluster.secret()
    missing = {"username", "password", "dbname", "host", "port", "uri"} - set(secret)
    expect(not missing, f"the Secret {cluster.name}-app lacks {sorted(missing)}")
    expect("target_session_attrs=read-write" in secret["uri"], "the URI does not ask for a read-write instance")
    connection = psycopg2.connect(secret["uri"], connect_timeout=5)
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT current_database(), current_user, pg_is_in_recovery()")
        expect(cursor.fetchone() == (secret["dbname"], secret["username"], False), "the URI leads to the wrong place")
    connection.close()


def passwords_are_in_no_environment_log_or_process_list(cluster):
    """Looks where a password would be seen by others."""
    password = cluster.secret()["password"]
    for container in cluster.containers():
        log = subprocess.run(["docker", "logs", container], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True, text=True)
        places = {
            "docker inspect": docker("inspect", container),
            "docker top": docker("top", container, "-eo", "args"),
            "docker logs": log.stdout,
        }
        for place, text in places.items():
            expect(password not in text, f"{place} shows the application's password")
    expect(password not in cluster.operator.log.read_text(encoding="utf-8"), "the operator's log shows the application's password")


def a_killed_postmaster_is_failed_over(cluster):
    """kill -9 of the primary's postmaster alone, orphaned backends and all."""
    return fail_over(cluster, "killed_postmaster", lambda primary: kill_postmaster(cluster.postmaster(primary)), within=5)


def a_killed_container_is_failed_over(cluster):
    """docker kill of the primary's container."""

    def disturb(primary):
        docker("kill", cluster.container(primary))

    return fail_over(cluster, "killed_container", disturb, within=5)


def a_removed_container_is_failed_over(cluster):
    """docker rm -f of the primary's container; its volume stays."""

    def disturb(primary):
        docker("rm", "-f", cluster.container(primary))

    return fail_over(cluster, "removed_container", disturb, within=5)


def a_stopped_container_is_failed_over_and_started_again(cluster):
    """docker stop of the primary's container, which gives it time to shut down."""

    def disturb(primary):
        docker("stop", cluster.container(primary), timeout=120)

    return fail_over(cluster, "stopped_container", disturb, within=15)


def a_paused_primary_is_failed_over_and_acknowledges_nothing_when_it_wakes(cluster):
    """docker pause: silence, and a primary that wakes up believing that it still is one."""

    def disturb(primary):
        container = cluster.container(primary)
        docker("pause", container)

        def repair():
            # The operator may have ended the frozen container by itself.
            docker("unpause", container, check=False)

        return repair

    return fail_over(cluster, "paused", disturb, within=15, watch_splits=True)


def a_killed_standby_costs_the_client_next_to_nothing(cluster):
    """docker kill of a standby: the other one acknowledges, and the killed one comes back."""
    before = cluster.settled()
    standby = next(member["name"] for member in before["instances"] if member["role"] == "standby")
    with Writes(cluster, "killed_standby") as writes:
        moment = time.monotonic()
        docker("kill", cluster.container(standby))
        writes.go_on(10)
        after = cluster.settled()
    expect(after["primary"] == before["primary"], "the primary changed although only a standby was killed")
    outage = writes.outage(moment)
    expect(outage <= 2, f"the client could not write for {outage:.2f} s")
    return f"outage {outage:.2f} s"


def a_killed_operator_is_not_noticed_and_takes_over_again(cluster):
    """kill -9 of the operator: clients go on; started again, it restarts nothing."""
    cluster.settled()
    started = cluster.started()
    with Writes(cluster, "killed_operator") as writes:
        moment = time.monotonic()
        cluster.operator.kill()
        time.sleep(5)  # the silence itself is what is tested
        writes.go_on(10)
        cluster.operator.start()
        cluster.settled()
        writes.go_on(10)
    expect(cluster.started() == started, "a container was restarted or made again")
    outage = writes.outage(moment)
    expect(outage <= 1, f"the client could not write for {outage:.2f} s")
    return f"outage {outage:.2f} s"


def a_primary_that_dies_while_the_operator_is_away_is_failed_over_or_back_when_it_returns(cluster):
    """The operator is killed, then the primary's container; then the operator starts."""
    cluster.settled()
    with Writes(cluster, "both_killed", watch_splits=True) as writes:
        primary = cluster.primary
        cluster.operator.kill()
        docker("kill", cluster.container(primary))
        cluster.operator.start()
        writes.go_on(60)
        cluster.settled()


def an_operator_killed_in_the_middle_of_a_failover_finishes_it_afterwards(cluster):
    """The operator dies a moment after the primary's container, three times at different moments."""
    for round_, moment in enumerate((0.05, 0.15, 0.4)):
        cluster.settled()
        with Writes(cluster, f"mid_failover_{round_}", watch_splits=True) as writes:
            docker("kill", cluster.container(cluster.primary))
            time.sleep(moment)  # where in the failover the operator dies
            cluster.operator.kill()
            cluster.operator.start()
            writes.go_on(60)
            cluster.settled()


def a_switchover_moves_the_primary_where_it_is_asked_to(cluster):
    """`evenkeel switchover`, to the best standby and to a named one."""
    outages = []
    for named in (False, True):
        before = cluster.settled()
        target = next(member["name"] for member in reversed(before["instances"]) if member["role"] == "standby")
        with Writes(cluster, f"switchover_{named}".lower(), watch_splits=True) as writes:
            moment = time.monotonic()
            cluster.operator.cli("switchover", cluster.name, *(["--to", target] if named else []))
            wait_until("the primary has changed", lambda: cluster.primary not in (None, before["primary"]), 30)
            writes.go_on(10)
            after = cluster.settled()
        if named:
            expect(after["primary"] == target, f"{after['primary']} is primary, {target} was asked for")
        outages.append(writes.outage(moment))
    expect(max(outages) <= 5, f"the client could not write for {max(outages):.2f} s")
    return ", ".join(f"outage {outage:.2f} s" for outage in outages)


def a_parameter_that_needs_only_a_reload_restarts_nothing(cluster):
    """work_mem: everywhere, at once."""
    cluster.settled()
    uri, started = cluster.uri(), cluster.started()
    since = ask_all(uri, "SELECT pg_postmaster_start_time()::text")
    with Writes(cluster, "reloaded") as writes:
        cluster.apply(parameters={**cluster.spec["parameters"], "work_mem": "7MB"})
        wait_until("every instance has the new work_mem", lambda: set(ask_all(uri, "SHOW work_mem").values()) == {"7MB"}, 30)
        writes.go_on(10)
        cluster.settled()
    expect(ask_all(uri, "SELECT pg_postmaster_start_time()::text") == since, "a postmaster was restarted")
    expect(cluster.started() == started, "a container was restarted")


def a_parameter_that_needs_a_restart_is_rolled_out_without_losing_a_write(cluster):
    """max_connections up, then down: standbys and primary are restarted one after the other."""
    for value in ("80", "60"):
        with Writes(cluster, f"rolled_{value}") as writes:
            moment = time.monotonic()
            cluster.apply(parameters={**cluster.spec["parameters"], "max_connections": value})
            uri = writes.uri

            def everywhere():
                try:
                    return set(ask_all(uri, "SHOW max_connections").values()) == {value}
                except (psycopg2.Error, client.Silent):
                    return False

            wait_until(f"every instance has max_connections {value}", everywhere, 90)
            status = cluster.settled()
            writes.go_on(10)
        waiting = [member["name"] for member in status["instances"] if member.get("pendingRestart")]
        expect(not waiting, f"{waiting} still wait for a restart")
        outage = writes.outage(moment)
        expect(outage <= 5, f"the client could not write for {outage:.2f} s")


def instances_are_taken_away_and_added(cluster):
    """3, then 2, then 3 again."""
    with Writes(cluster, "scaled_down") as writes:
        cluster.apply(instances=2)
        cluster.settled()
        writes.go_on(10)
        expect(len(cluster.containers()) == 2, "there are not two containers")
        # The instance that went is no longer one to be read from.
        writes.uri = cluster.uri()
    with Writes(cluster, "scaled_up") as writes:
        cluster.apply(instances=3)
        cluster.settled()
        writes.go_on(10)
        writes.uri = cluster.uri()
    expect(len(cluster.containers()) == 3, "there are not three containers")


def a_standby_without_its_data_is_built_anew(cluster):
    """The container and the volume of a standby are removed by hand."""
    before = cluster.settled()
    standby = next(member["name"] for member in before["instances"] if member["role"] == "standby")
    volumes = cluster.volumes(standby)
    expect(len(volumes) == 1, f"{standby} has {len(volumes)} volumes, not one")
    with Writes(cluster, "lost_volume") as writes:
        cluster.operator.kill()  # so that the volume can be removed before the container is made again
        docker("rm", "-f", cluster.container(standby))
        docker("volume", "rm", volumes[0])
        cluster.operator.start()
        writes.go_on(10)
        after = cluster.settled()
    expect(after["primary"] == before["primary"], "the primary changed although only a standby was hurt")


def a_primary_without_its_data_is_replaced_and_built_anew(cluster):
    """The container and the volume of the primary are removed by hand: the disk is gone."""
    before = cluster.settled()
    volumes = cluster.volumes(before["primary"])
    with Writes(cluster, "lost_primary") as writes:
        cluster.operator.kill()
        docker("rm", "-f", cluster.container(before["primary"]))
        docker("volume", "rm", *volumes)
        cluster.operator.start()
        writes.go_on(60)
        after = cluster.settled()
    expect(after["primary"] != before["primary"], "the member without data is primary")


def a_paused_object_is_left_alone(cluster):
    """The annotation evenkeel.dev/reconcile: paused; a killed standby stays down until it is taken away."""
    before = cluster.settled()
    standby = next(member["name"] for member in before["instances"] if member["role"] == "standby")
    annotate(cluster, "paused")
    try:
        wait_until("the phase says Paused", lambda: cluster.status().get("phase") == "Paused", 20)
        container = cluster.container(standby)
        docker("stop", "-t", "2", container)
        time.sleep(3)  # nothing may happen in this time
        running = docker("inspect", "-f", "{{.State.Running}}", container).strip()
        expect(running == "false", f"{standby} was started again although reconciliation is paused")
    finally:
        annotate(cluster, None)
    cluster.settled()


def annotate(cluster, value):
    """Sets evenkeel.dev/reconcile, or takes it away."""
    document = json.loads(cluster.manifest())
    if value:
        document["metadata"]["annotations"] = {"evenkeel.dev/reconcile": value}
    cluster.operator.cli("apply", "-f", "-", text=json.dumps(document))


def what_makes_no_sense_is_refused_with_its_path_and_changes_nothing(cluster):
    """Bad input at the door."""
    before = cluster.settled()
    generation, started = cluster.get()["metadata"]["generation"], cluster.started()
    bad = {
        "instances": cluster.manifest(instances=0),
        "synchronousReplicas": cluster.manifest(durability={"mode": "required", "synchronousReplicas": 3}),
        "instancez": cluster.manifest(instancez=3),
        "image": cluster.manifest(image="No Image"),
        "max_connections": cluster.manifest(parameters={"max_connections": {"a": 1}}),
    }
    for word, manifest in bad.items():
        code, out = cluster.operator.cli_result("apply", "-f", "-", text=manifest)
        expect(code != 0, f"a manifest with a bad {word} was accepted")
        expect(word in out, f"the message does not name {word}: {out.strip()}")
    code, out = cluster.operator.cli_result("apply", "-f", "-", text="kind: PostgresCluster\nmetadata: {name: x\nspec: [\n")
    expect(code != 0 and any(ch.isdigit() for ch in out), f"a syntax error names no line: {out.strip()}")
    expect(cluster.get()["metadata"]["generation"] == generation, "a refused manifest changed the object")
    expect(cluster.started() == started, "a refused manifest changed a container")
    expect(cluster.settled()["primary"] == before["primary"], "a refused manifest changed the primary")


def plan_says_that_a_settled_cluster_needs_nothing(cluster):
    """`evenkeel plan` of a settled cluster; and it changes nothing."""
    cluster.settled()
    version = cluster.get()["metadata"]["generation"]
    cluster.operator.cli("plan", f"postgrescluster/{cluster.name}")
    expect(cluster.get()["metadata"]["generation"] == version, "plan changed the object")


def a_deleted_cluster_keeps_its_data_and_finds_it_again(cluster):
    """Deletion removes containers, not volumes; a new object of the name takes them over."""
    with Writes(cluster, "before_deletion") as writes:
        writes.go_on(10)
    volumes = cluster.volumes()
    cluster.delete()
    expect(cluster.containers() == [], "containers are left")
    expect(cluster.volumes() == volumes and len(volumes) == 3, f"the volumes {volumes} became {cluster.volumes()}")
    cluster.apply()
    cluster.settled()
    check_everywhere(cluster.uri(), writes.writer.records, "before_deletion")


def deletion_with_reclaim_policy_delete_leaves_nothing_behind(cluster):
    """The last scenario: afterwards there is no cluster."""
    cluster.apply(storage={"reclaimPolicy": "Delete"})
    cluster.settled()
    cluster.delete()
    expect(cluster.containers() == [], "containers are left")
    expect(cluster.volumes() == [], f"volumes are left: {cluster.volumes()}")
    networks = docker("network", "ls", "-q", *cluster.filters()).split()
    expect(networks == [], "the network is left")


SCENARIOS = [
    the_secret_says_how_to_connect,
    passwords_are_in_no_environment_log_or_process_list,
    plan_says_that_a_settled_cluster_needs_nothing,
    what_makes_no_sense_is_refused_with_its_path_and_changes_nothing,
    a_killed_postmaster_is_failed_over,
    a_killed_container_is_failed_over,
    a_removed_container_is_failed_over,
    a_stopped_container_is_failed_over_and_started_again,
    a_paused_primary_is_failed_over_and_acknowledges_nothing_when_it_wakes,
    a_killed_standby_costs_the_client_next_to_nothing,
    a_killed_operator_is_not_noticed_and_takes_over_again,
    a_primary_that_dies_while_the_operator_is_away_is_failed_over_or_back_when_it_returns,
    an_operator_killed_in_the_middle_of_a_failover_finishes_it_afterwards,
    a_switchover_moves_the_primary_where_it_is_asked_to,
    a_parameter_that_needs_only_a_reload_restarts_nothing,
    a_parameter_that_needs_a_restart_is_rolled_out_without_losing_a_write,
    instances_are_taken_away_and_added,
    a_standby_without_its_data_is_built_anew,
    a_primary_without_its_data_is_replaced_and_built_anew,
    a_paused_object_is_left_alone,
    a_deleted_cluster_keeps_its_data_and_finds_it_again,
    deletion_with_reclaim_policy_delete_leaves_nothing_behind,
]
