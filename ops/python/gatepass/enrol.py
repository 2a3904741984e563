"""PROTOCOL.md, section 13: tickets and the enrolment of a phone over HTTP."""

import base64
import hashlib
import json
import os
import ssl
import time
import urllib.error
import urllib.request

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from . import trust, wire

LISTS = ("revocation", "policy", "relays")


def read_ticket(text):
    encoded = text.strip()
    if not encoded.startswith("GPT1:"):
        raise wire.Malformed("not a ticket")
    encoded = encoded[5:]
    return wire.decode(wire.TICKET, base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True))


def fingerprint(signed):
    digits = hashlib.sha256(signed).hexdigest()[:20]
    return "-".join(digits[at : at + 4] for at in range(0, 20, 4))


class HttpRefused(Exception):
    """What the control plane says to a person."""


class Control:
    def __init__(self, url, ca_pem):
        self.url = url.rstrip("/")
        self.tls = tls(ca_pem) if self.url.startswith("https:") else None

    def call(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        # No proxy: what is reached is what the ticket names.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self.tls))
        try:
            with opener.open(request, timeout=10) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            raise HttpRefused(f"{error.code}: {json.loads(error.read() or b'{}').get('detail', error.reason)}") from error


def tls(ca_pem):
    return ssl.create_default_context(cadata=ca_pem) if ca_pem else ssl.create_default_context()


class Identity:
    """A folder's identity.json: keys, certificate and lists. The keys lie there in the clear: this phone is for tests."""

    def __init__(self, fields):
        self.fields = fields
        self.channel = bytes.fromhex(fields["channel"])
        self.sign_key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes.fromhex(fields["sign"]))
        self.approve_key = ec.derive_private_key(int(fields["approve"], 16), ec.SECP256R1())
        self.device = bytes.fromhex(fields["device"])
        self.chain = [bytes.fromhex(link) for link in fields["chain"]]

    @classmethod
    def fresh(cls, device_name):
        approve = ec.generate_private_key(ec.SECP256R1()).private_numbers().private_value
        return cls({
            "device": os.urandom(16).hex(), "device_name": device_name, "channel": os.urandom(32).hex(),
            "sign": os.urandom(32).hex(), "approve": f"{approve:064x}", "chain": [],
        })

    @classmethod
    def load(cls, folder):
        return cls(json.loads((folder / "identity.json").read_text()))

    def save(self, folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(folder / "identity.json", "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            json.dump(self.fields, file, indent=1)

    def keys(self):
        raw = (Encoding.Raw, PublicFormat.Raw)
        channel = x25519.X25519PrivateKey.from_private_bytes(self.channel).public_key().public_bytes(*raw)
        approve = self.approve_key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        keys = (self.sign_key.public_key().public_bytes(*raw), channel, approve)
        # A use and its algorithm have the same number.
        return [{"use": use, "key": {"algorithm": use, "key": key}} for use, key in enumerate(keys, 1)]

    def trust(self, now):
        store = trust.TrustStore(bytes.fromhex(self.fields["tenant"]), self.fields["cas"])
        for name in LISTS:
            if self.fields[name]:
                store.accept(bytes.fromhex(self.fields[name]), now)
        return store


def enrol(folder, text, device_name, patience, say):
    """Asks for a certificate and waits for an administrator."""
    ticket = read_ticket(text)
    now = int(time.time())
    tenant = wire.claimed(wire.STATEMENT, ticket["statement"])["tenant"]
    store = trust.TrustStore(tenant, ticket["cas"])
    certified = store.ticket(ticket["statement"], now)
    identity = Identity.fresh(device_name)
    request = {
        "ticket": certified.statement["serial"], "device": identity.device, "keys": identity.keys(), "device_name": device_name,
        "protection": 1, "time": now,
    }
    signer = ed25519.Ed25519PrivateKey.from_private_bytes(ticket["seed"]).sign
    signed = wire.sign(wire.DEVICE_REQUEST, "gp1 device-request", request, signer)
    control = Control(ticket["url"], ticket["tls_ca_pem"])
    body = {name: base64.b64encode(data).decode() for name, data in (("ticket", ticket["statement"]), ("request", signed))}
    _, waiting = control.call("/api/v1/enrol/device", body)
    say(event="waiting", request_id=waiting["request_id"], fingerprint=fingerprint(signed), device=identity.device.hex())
    until = time.monotonic() + patience
    while True:
        status, answer = control.call(f"/api/v1/enrol/device/{waiting['request_id']}")
        if status == 200:
            break
        if time.monotonic() > until:
            raise HttpRefused("no administrator has approved this phone in time")
        time.sleep(0.3)
    for name in LISTS:
        identity.fields[name] = base64.b64decode(answer[name]).hex() if answer.get(name) else None
    identity.fields.update(
        tenant=tenant.hex(), cas=ticket["cas"], url=ticket["url"], tls_ca_pem=ticket["tls_ca_pem"],
        chain=[base64.b64decode(link).hex() for link in answer["certificate"]],
    )
    identity = Identity(identity.fields)
    device = identity.trust(now).device(identity.chain, now)
    trust.require(device.statement["subject"] == identity.device and device.statement["keys"] == identity.keys(), trust.CERTIFICATE)
    identity.save(folder)
    say(event="enrolled", technician=device.terms["technician_name"], device=identity.device.hex())
