"""A phone in Python, for tests: enrols with a ticket, reads a QR's text, approves or denies. Each line that it prints is a
JSON object. Run it as `ops/python/python ops/python/gatepass_phone.py`.

exit code: 0 granted or denied as told, 2 refused or failed, 1 used wrongly
"""

import argparse
import asyncio
import hashlib
import json
import os
import pathlib
import sys
import time
from urllib.parse import urlsplit

from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from gatepass import channel, enrol, trust, wire
from gatepass.qr import BadQr, Qr, tenant_tag

KINDS = {"own": 0, "named": 1, "shared": 2, "random": 3}
APP = "gatepass-python 1.0"


def say(**fields):
    print(json.dumps(fields), flush=True)


class Failed(Exception):
    """The pairing is over; what to print about it."""

    def __init__(self, **fields):
        super().__init__(fields)
        self.fields = fields


class Relay:
    """PROTOCOL.md, section 10, for one pairing."""

    def __init__(self, url, ca_pem, identity):
        parts = urlsplit(url)
        default = {"wss": 443, "ws": 80}[parts.scheme]
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        name = host if (parts.port or default) == default else f"{host}:{parts.port}"
        tls = enrol.tls(ca_pem) if parts.scheme == "wss" else None
        address = f"{parts.scheme}://{name}/v1/ws"
        # The library's blocking client reads and writes in two threads, which one TLS connection of this Python doesn't take:
        # now and then the very first request is spoilt by the session tickets that come at the same time.
        self.loop = asyncio.new_event_loop()
        self.socket = self.wait(self.connect(address, tls))
        challenge = self.expect(0)
        auth = {"nonce": challenge["nonce"], "relay": name, "time": int(time.time())}
        proof = wire.sign(wire.RELAY_AUTH, "gp1 relay-auth", auth, identity.sign_key.sign)
        self.send(1, proof, identity.chain)
        self.expect(2)
        self.received = self.sent = 0

    async def connect(self, address, tls):
        return await connect(
            address, ssl=tls, compression=None, max_size=wire.MAX_FRAME, open_timeout=10, ping_interval=None, proxy=None
        )

    def wait(self, what, patience=30):
        return self.loop.run_until_complete(asyncio.wait_for(what, patience))

    def send(self, kind, *fields):
        self.wait(self.socket.send(wire.encode_frame(kind, *fields)))

    def expect(self, kind, patience=30):
        """The next frame of a kind; lists that come in between are left to the trust store."""
        until = time.monotonic() + patience
        while True:
            found, fields = wire.decode_frame(self.wait(self.socket.recv(), max(until - time.monotonic(), 0.01)))
            if found == kind:
                return fields
            if found == 17:
                raise Failed(event="relay refused", code=fields["code"], text=fields["text"])
            if found == 16:
                raise Failed(event="closed", code=None)
            if found == 14:
                self.heard(fields["bytes"])

    def heard(self, bulletin):
        fields = wire.decode(wire.BULLETIN, bulletin)
        if fields["statement"] is not None:
            try:
                self.trust.accept(fields["statement"], int(time.time()))
            except trust.Refused as refused:
                say(event="list refused", code=refused.code)

    def claim(self, qr, store):
        self.rid, self.trust = qr.rid, store
        self.send(10, "tenant/" + store.tenant.hex(), None)
        n = os.urandom(16)
        self.send(5, qr.rid, n, qr.tag(n))
        self.expect(6)

    def forward(self, message):
        self.sent += 1
        self.send(7, self.rid, self.sent, self.received, message)

    def next(self, patience=30):
        while True:
            fields = self.expect(7, patience)
            if fields["rid"] == self.rid and fields["seq"] == self.received + 1:
                self.received += 1
                return fields["bytes"]

    def close(self):
        self.send(16, self.rid)
        self.wait(self.socket.close())
        self.loop.close()


def relay_url(store, index):
    entries = store.lists[6].terms["relays"] if 6 in store.lists else []
    urls = [entry["url"] for entry in entries if entry["index"] == index]
    if not urls:
        raise Failed(event="failed", why="the QR names a relay that is not in the relay list; give --relay")
    return urls[0]


def pair(relay, qr, identity, store):
    """M1 to M4: the channel, the agent, and the body of M4."""
    noise = channel.Channel(qr, True, identity.channel)
    hello = {"versions": [1], "suites": [1], "app": APP, "revocation_epoch": store.epoch(5)}
    relay.forward(noise.write(channel.HELLO, wire.encode(wire.values(wire.HELLO, hello))))
    m2 = wire.decode(wire.AGENT_HELLO, noise.read(channel.AGENT_HELLO, relay.next()))
    agent = store.agent(m2["chain"], int(time.time()))
    wire.verify_raw(1, agent.key(trust.SIGN), wire.framed("gp1 agent-auth", noise.h_before), m2["signature"])
    hello = {"chain": identity.chain, "revocation_epoch": store.epoch(5)}
    relay.forward(noise.write(channel.DEVICE_HELLO, wire.encode(wire.values(wire.DEVICE_HELLO, hello))))
    kind, m4 = noise.open([channel.CONTEXT, channel.REFUSAL], relay.next())
    if kind == channel.REFUSAL:
        raise Failed(event="refused", code=wire.decode(wire.OUTCOME, m4)["code"])
    return noise, agent, m4


def approval(args, noise, agent, m4, identity, store):
    context = wire.decode(wire.CONTEXT, m4)
    kind = KINDS[args.kind]
    names = [account["name"] for account in context["accounts"] if account["kind"] == kind]
    minutes = args.minutes or context["default_minutes"]
    due = trust.granted(context["choices"], kind, args.group, minutes, args.reason)
    if not names or due is None:
        raise Failed(event="failed", why="not offered", choices=context["choices"], accounts=context["accounts"])
    device = wire.claimed(wire.STATEMENT, identity.chain[0])
    terms = wire.decode(wire.DEVICE, device["constraints"])
    fields = {
        "version": 1, "decision": 1, "h_final": noise.h, "context": hashlib.sha256(m4).digest(), "tenant": device["tenant"],
        "agent": agent.statement["serial"], "computer": context["machine"]["computer"], "device": device["serial"],
        "technician": terms["technician"], "kind": kind, "account": names[0], "groups": args.group, "ou": "",
        "not_after": context["expires"] + minutes * 60, "max_session": minutes * 60, "nonce": context["nonce"],
        "confirm": int(due), "confirm_value": 0, "revocation_epoch": store.epoch(5), "verification": 1,
        "protection": terms["protection"], "reason": trust.reason_hash(args.reason, args.ticket),
    }
    return wire.sign(wire.APPROVAL, "gp1 approve", fields, wire.p256_signer(identity.approve_key)), bool(due)


def scan(args):
    identity = enrol.Identity.load(args.identity)
    store = identity.trust(int(time.time()))
    qr = Qr(sys.stdin.readline() if args.qr == "-" else args.qr)
    if qr.tenant_tag != tenant_tag(store.tenant):
        raise Failed(event="failed", why="another tenant's QR")
    ca_pem = args.ca_pem.read_text() if args.ca_pem else identity.fields["tls_ca_pem"]
    relay = Relay(args.relay or relay_url(store, qr.relay_idx), ca_pem, identity)
    relay.claim(qr, store)
    noise, agent, m4 = pair(relay, qr, identity, store)
    context = wire.decode(wire.CONTEXT, m4)
    if context["machine"]["computer"] != agent.statement["subject"]:
        raise Failed(event="failed", why="the question names another computer than the certificate")
    say(
        event="asked", computer=agent.terms["computer"], domain=agent.terms["domain"], scenario=context["scenario"],
        request=context["request"], choices=context["choices"], accounts=context["accounts"],
    )
    if args.approve:
        signed, due = approval(args, noise, agent, m4, identity, store)
        decision = [signed, False, args.reason, args.ticket]
    else:
        decision = [None, args.not_me, "", ""]
    relay.forward(noise.seal(channel.DECISION, wire.encode(decision)))
    if not args.approve:
        say(event="denied", not_me=args.not_me)
        return relay.close()
    say(event="approved", confirm_code=noise.confirm_code(), code_due=due)
    _, m6 = noise.open([channel.OUTCOME], relay.next(patience=100))
    outcome = wire.decode(wire.OUTCOME, m6)
    if outcome["code"] is not None:
        raise Failed(event="refused", code=outcome["code"])
    say(event="granted", grant=outcome["grant"].hex(), account=outcome["account"], until=outcome["until"])


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    asking = commands.add_parser("enrol", help="ask for a certificate and wait for an administrator")
    asking.add_argument("--identity", type=pathlib.Path, required=True, help="the folder to keep the identity in")
    asking.add_argument("--ticket-file", type=pathlib.Path, required=True)
    asking.add_argument("--name", default="Python phone")
    asking.add_argument("--wait", type=float, default=60, help="seconds")
    scanning = commands.add_parser("scan", help="answer the question behind a QR")
    scanning.add_argument("--identity", type=pathlib.Path, required=True)
    scanning.add_argument("--qr", required=True, help="the text, GP1:...; - reads it from standard input")
    scanning.add_argument("--relay", help="wss://host[:port]; otherwise the relay list says where")
    scanning.add_argument("--ca-pem", type=pathlib.Path, help="the TLS certificate to trust; otherwise the ticket's")
    answer = scanning.add_mutually_exclusive_group(required=True)
    for name in ("--approve", "--deny", "--not-me"):
        answer.add_argument(name, action="store_true")
    scanning.add_argument("--kind", choices=KINDS, default="named")
    scanning.add_argument("--group", action="append", default=[])
    scanning.add_argument("--minutes", type=int)
    scanning.add_argument("--reason", default="")
    scanning.add_argument("--ticket", default="", help="of another system")
    return parser.parse_args()


def main():
    args = arguments()
    try:
        if args.command == "enrol":
            enrol.enrol(args.identity, args.ticket_file.read_text(), args.name, args.wait, say)
        else:
            scan(args)
    except Failed as failed:
        say(**failed.fields)
        sys.exit(2)
    except trust.Refused as refused:
        say(event="failed", code=refused.code)
        sys.exit(2)
    except (BadQr, channel.Broken, wire.Malformed, wire.BadSignature, enrol.HttpRefused, WebSocketException, OSError) as error:
        say(event="failed", why=f"{type(error).__name__}: {error}")
        sys.exit(2)


if __name__ == "__main__":
    main()
