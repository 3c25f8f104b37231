"""An S3 server that nobody here wrote (moto), where containers reach it, and what is in its bucket."""

import ipaddress
import json
import subprocess
import urllib.parse
import urllib.request
import xml.etree.ElementTree as ElementTree

import harness

ACCESS = {"accessKeyId": "AKIDEVENKEEL", "secretAccessKey": "not-a-secret-but-32-characters-00"}
PYTHON = harness.ROOT / "target" / "venv" / "bin" / "python"
# The server checks no signature, but gives objects to nobody who has none. Content without a type it takes for a form.
SIGNED = {
    "Content-Type": "application/octet-stream",
    "Authorization": f"AWS4-HMAC-SHA256 Credential={ACCESS['accessKeyId']}/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=0"
}
XML = "{http://s3.amazonaws.com/doc/2006-03-01/}"


def gateway():
    """The address of this machine on Docker's default network: containers of every network reach it."""
    config = json.loads(harness.docker("network", "inspect", "bridge", "-f", "{{json (index .IPAM.Config 0)}}"))
    # Some versions of Docker do not show the gateway of a network that has had no container yet: it is the first address.
    return config.get("Gateway") or str(next(ipaddress.ip_network(config["Subnet"]).hosts()))


class Server:
    """One server with one bucket. It holds everything in memory, and admits everybody."""

    def __init__(self, bucket):
        self.bucket, self.host, self.port = bucket, gateway(), harness.free_port()
        self.process = subprocess.Popen(
            [str(PYTHON), "-m", "moto.server", "-H", self.host, "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

        def answers():
            self.ask("PUT", "")
            return True

        harness.wait_until("the S3 server has a bucket", answers, 30)

    @property
    def endpoint(self):
        """Where it listens."""
        return f"http://{self.host}:{self.port}"

    def ask(self, verb, path, body=None):
        """One request about the bucket; the content of the answer."""
        request = urllib.request.Request(f"{self.endpoint}/{self.bucket}{path}", method=verb, data=body, headers=SIGNED)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.read()
        except OSError as problem:
            raise harness.Failed(f"{verb} {path}: {problem}") from problem

    def stop(self):
        """Ends it; what it holds is gone."""
        self.process.kill()
        self.process.wait(10)

    def keys(self, prefix=""):
        """All keys that begin so."""
        keys, token = [], None
        while True:
            query = {"list-type": "2", "prefix": prefix, **({"continuation-token": token} if token else {})}
            page = ElementTree.fromstring(self.ask("GET", "?" + urllib.parse.urlencode(query)))
            keys += [one.findtext(f"{XML}Key") for one in page.findall(f"{XML}Contents")]
            token = page.findtext(f"{XML}NextContinuationToken")
            if not token:
                return keys

    def get(self, key):
        """The content of an object."""
        return self.ask("GET", "/" + urllib.parse.quote(key))

    def put(self, key, content):
        """Writes an object."""
        self.ask("PUT", "/" + urllib.parse.quote(key), content)

    def store(self, secret, prefix=""):
        """`spec.backup.store` for it."""
        s3 = {"bucket": self.bucket, "prefix": prefix, "endpoint": self.endpoint, "credentials": {"secretName": secret}}
        return {"s3": s3}


def apply_secret(operator, name, values=None):
    """The Secret with the credentials."""
    document = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": values or ACCESS}
    operator.cli("apply", "-f", "-", text=json.dumps(document))
