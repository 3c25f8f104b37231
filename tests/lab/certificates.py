"""The lab's certificates: one authority, a server certificate for each Docker host, a client certificate for the operator."""

import base64
import os
import pathlib

from harness import run

DAYS = "3"


class Certificates:
    """All files are in `folder`, which only root may read."""

    def __init__(self, folder, before=()):
        """`before`: words in front of each command of openssl."""
        self.before = before
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(mode=0o700)
        os.chmod(self.folder, 0o700)
        key = self.key("ca")
        subject = ("-subj", "/CN=lab", "-days", DAYS, "-addext", "keyUsage=critical,keyCertSign,cRLSign")
        run(*self.before, "openssl", "req", "-x509", "-new", "-key", key, *subject, "-out", self.path("ca.crt"))

    def path(self, name):
        """The path of a file."""
        return str(self.folder / name)

    def key(self, name):
        """A new private key; its path."""
        path = self.path(f"{name}.key")
        run(*self.before, "openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", path)
        return path

    def issue(self, name, usage, address=None):
        """A certificate for a `server` at an address, or for a `client`."""
        request, extensions = self.path(f"{name}.csr"), self.folder / f"{name}.ext"
        lines = [f"extendedKeyUsage={usage}Auth", "keyUsage=critical,digitalSignature"]
        lines += [f"subjectAltName=IP:{address}"] if address else []
        extensions.write_text("\n".join(lines), encoding="ascii")
        run(*self.before, "openssl", "req", "-new", "-key", self.key(name), "-subj", f"/CN={name}", "-out", request)
        signer = ("-CA", self.path("ca.crt"), "-CAkey", self.path("ca.key"), "-CAcreateserial")
        given = ("-in", request, "-days", DAYS, "-extfile", str(extensions), "-out", self.path(f"{name}.crt"))
        run(*self.before, "openssl", "x509", "-req", *signer, *given)

    def settings(self, name):
        """Keys of a daemon.json: only clients with a certificate of this authority are served."""
        return {
            "tls": True,
            "tlsverify": True,
            "tlscacert": self.path("ca.crt"),
            "tlscert": self.path(f"{name}.crt"),
            "tlskey": self.path(f"{name}.key"),
        }

    def secret(self, name, client):
        """A Secret with a client's certificate, as a DockerHost names it."""
        files = {"ca.crt": "ca.crt", "tls.crt": f"{client}.crt", "tls.key": f"{client}.key"}
        data = {key: base64.b64encode((self.folder / file).read_bytes()).decode() for key, file in files.items()}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": data}
