"""The operator's own store: its snapshots in an S3 server, and what comes back when the data directory is lost."""

import json
import os
import pathlib
import shutil
import tempfile

import harness
import s3
from checks import expect
from harness import wait_until


def settings(folder, server):
    """The file of `--snapshot-store`."""
    path = pathlib.Path(folder) / "snapshots.yaml"
    store = {"bucket": server.bucket, "prefix": "prod", "endpoint": server.endpoint, **s3.ACCESS}
    path.write_text(json.dumps({"s3": store}), encoding="utf-8")
    os.chmod(path, 0o600)
    return str(path)


def what_the_operator_knew_comes_back_from_the_object_store(cluster):
    """An operator loses its data directory but for `pki/`. A snapshot that was changed in the store is refused before that."""
    folder = tempfile.mkdtemp(prefix="evenkeel-e2e-")
    server = s3.Server("backups")
    operator = harness.Operator(cluster.operator.binary, folder)
    try:
        file = settings(folder, server)
        operator.options = ["--snapshot-store", file]
        operator.start()
        values = {"password": "hunter2-of-the-snapshot"}
        document = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "kept"}, "stringData": values}
        operator.cli("apply", "-f", "-", text=json.dumps(document))

        def known():
            found = json.loads(operator.cli("get", "secret", "kept", "-o", "json"))
            return found["metadata"]["uid"], found["data"]

        before = known()
        # The first one is written a minute after the start.
        wait_until("a snapshot is stored", lambda: server.keys("prod/evenkeel-store/"), 90, poll=1)
        (key,) = server.keys("prod/evenkeel-store/")
        listed = operator.cli("cluster", "snapshots", "--snapshot-store", file)
        expect(key.rsplit("/", 1)[1] in listed, f"{key} is not in {listed}")
        whole = server.get(key)
        expect(values["password"].encode() not in whole, "the snapshot shows a password")
        operator.kill()
        for path in operator.data.iterdir():
            if path.name != "pki":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        restore = ("cluster", "restore", "--snapshot-store", file, "--data-dir", str(operator.data))
        server.put(key, whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
        code, said = operator.cli_result(*restore)
        expect(code == 1 and "was damaged in the store" in said, f"{code} {said}")
        server.put(key, whole)
        shown = operator.cli(*restore, "--dry-run")
        expect("secrets" in shown and not (operator.data / "store.db").exists(), shown)
        told = operator.cli(*restore)
        expect("fetched store-" in told and "secrets" in told, told)
        operator.start()
        expect(known() == before, "the Secret is another one")
        return f"{len(whole) // 1024} KiB"
    finally:
        operator.stop()
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


BESIDE = [what_the_operator_knew_comes_back_from_the_object_store]
