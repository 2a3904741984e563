"""PROTOCOL.md, section 1: strict msgpack and the shapes of everything; section 2: signed bodies."""

import hashlib
import struct

import msgpack
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature


class Malformed(Exception):
    """Not the one encoding of a value of the expected shape."""


# Shapes: "u8".."u64", "bin", "str", "bool", ("bin", length), ["T"] (an array of T), ("?", T), Fields.
class Fields:
    def __init__(self, **fields):
        self.fields = fields


def _check(shape, value):
    if isinstance(shape, Fields):
        if not isinstance(value, list) or len(value) != len(shape.fields):
            raise Malformed("number of fields")
        return {name: _check(inner, item) for (name, inner), item in zip(shape.fields.items(), value)}
    if isinstance(shape, list):
        if not isinstance(value, list):
            raise Malformed("not an array")
        return [_check(shape[0], item) for item in value]
    if isinstance(shape, tuple) and shape[0] == "?":
        return None if value is None else _check(shape[1], value)
    if isinstance(shape, tuple) and shape[0] == "bin":
        if not isinstance(value, bytes) or len(value) != shape[1]:
            raise Malformed("bytes of another length")
        return value
    if isinstance(shape, tuple) and shape[0] == "one of":
        if type(value) is not int or value not in shape[1]:
            raise Malformed("an unknown number")
        return value
    if shape in ("u8", "u16", "u32", "u64"):
        if type(value) is not int or not 0 <= value < 1 << int(shape[1:]):
            raise Malformed("not an integer of its size")
        return value
    if not isinstance(value, {"bin": bytes, "str": str, "bool": bool}[shape]):
        raise Malformed(f"not a {shape}")
    return value


def _depth(value):
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0


def encode(value):
    return msgpack.packb(value, use_bin_type=True)


def decode(shape, data):
    try:
        value = msgpack.unpackb(data, raw=False, strict_map_key=True)
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError) as error:
        raise Malformed(str(error)) from error
    if _depth(value) > 4:
        raise Malformed("too deep")
    result = _check(shape, value)
    if encode(value) != data:
        raise Malformed("not the shortest encoding")
    return result


def values(shape, fields):
    """The array of a structure that was written as a dict."""
    if isinstance(shape, Fields):
        return [values(inner, fields[name]) for name, inner in shape.fields.items()]
    if isinstance(shape, list):
        return [values(shape[0], item) for item in fields]
    if isinstance(shape, tuple) and shape[0] == "?":
        return None if fields is None else values(shape[1], fields)
    return fields


B8, B16, B32, B64 = ("bin", 8), ("bin", 16), ("bin", 32), ("bin", 64)
SCENARIO = ("one of", range(1, 7))
ACCOUNT = ("one of", range(0, 4))
PROTECTION = ("one of", (1, 2))
CODE = ("one of", (10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 30, 31, 32, 33, 34, 35, 36, 37, 40, 41, 42))
KEY = Fields(use=("one of", (1, 2, 3, 4)), key=Fields(algorithm=("one of", (1, 2, 3)), key="bin"))
EXTENSION = Fields(id="u16", value="bin")

SIGNED = Fields(body="bin", signature=B64)
STATEMENT = Fields(
    version="u8", kind=("one of", range(1, 7)), serial=B16, issuer=B8, tenant=B16, subject=B16, keys=[KEY],
    not_before="u64", not_after="u64", epoch="u64", usages="u32", constraints="bin", critical=[EXTENSION], extensions=[EXTENSION],
)
DEVICE = Fields(technician=B16, technician_name="str", device_name="str", protection=PROTECTION)
AGENT = Fields(computer="str", domain="str", os="str", tags=["str"])
TICKET_TERMS = Fields(purpose=("one of", (1, 2)), uses="u32", tags=["str"], certificates_until="u64")
RULE = Fields(
    name="str", technicians=[B16], computers=[B16], tags=["str"], scenarios=[SCENARIO], accounts=[ACCOUNT], groups=["str"],
    max_minutes="u32", confirm="bool", reason="bool",
)
POLICY = Fields(default_minutes="u32", software_keys="bool", delete_on_end="bool", idle_days="u32", rules=[RULE])
REVOCATION = Fields(issued="u64", next_update="u64", min_epoch="u64", revoked=[B16])
RELAYS = Fields(relays=[Fields(index="u16", url="str")])
OFFLINE_TERMS = Fields(
    max_age_hours="u32", max_minutes="u32", scenarios=[SCENARIO], groups=("?", ["str"]), long_codes=["str"], time_codes="bool",
    while_online="bool",
)
OFFLINE_QUESTION = Fields(
    mode=("one of", (1, 2)), number="u64", scenario=SCENARIO, kind=ACCOUNT, account="str", groups=["str"], minutes="u32",
)
TERMS = {1: DEVICE, 2: AGENT, 3: TICKET_TERMS, 4: POLICY, 5: REVOCATION, 6: RELAYS}

HELLO = Fields(versions=["u8"], suites=["u8"], app="str", revocation_epoch="u64")
AGENT_HELLO = Fields(chain=["bin"], signature=B64)
DEVICE_HELLO = Fields(chain=["bin"], revocation_epoch="u64")
CHOICE = Fields(accounts=[ACCOUNT], groups=["str"], max_minutes="u32", confirm="bool", reason="bool")
CONTEXT = Fields(
    machine=Fields(computer=B16, host="str", os="str", agent="str"), scenario=SCENARIO,
    request=Fields(service="str", user="str", target="str", origin="str", tty="str", command="str"),
    choices=[CHOICE], accounts=[Fields(kind=ACCOUNT, name="str")], default_minutes="u32", nonce=B16, time="u64", expires="u64",
    policy_epoch="u64", revocation_epoch="u64", audit_root=B32,
)
APPROVAL = Fields(
    version="u8", decision="u8", h_final=B32, context=B32, tenant=B16, agent=B16, computer=B16, device=B16, technician=B16,
    kind=ACCOUNT, account="str", groups=["str"], ou="str", not_after="u64", max_session="u32", nonce=B16,
    confirm=("one of", (0, 1, 2)), confirm_value="u32", revocation_epoch="u64", verification=("one of", (1, 2)),
    protection=PROTECTION, reason=B32,
)
DECISION = Fields(approval=("?", "bin"), not_me="bool", reason="str", ticket="str")
OUTCOME = Fields(code=("?", CODE), grant=("?", B16), account="str", until="u64")
ENDING = ("?", "bin")
RELAY_AUTH = Fields(nonce=B32, relay="str", time="u64")
DEVICE_REQUEST = Fields(ticket=B16, device=B16, keys=[KEY], device_name="str", protection=PROTECTION, time="u64")
TICKET = Fields(statement="bin", seed=B32, url="str", tls_ca_pem=("?", "str"), cas=["str"])
LETTER = Fields(chain=["bin"], signed="bin")
ORDER = Fields(computer=B16, nonce=B16, time="u64", end=("?", B16))
GRANT = Fields(grant=B16, account="str", groups=["str"], scenario=SCENARIO, since="u64", until="u64", sessions="u32")
REPORT = Fields(device=B16, answers=("?", B16), time="u64", grants=[GRANT], receipts=["bin"])
VERIFIED = Fields(disabled="bool", groups_stripped="bool", password_rotated="bool", sessions_ended="bool")
RECEIPT = Fields(
    tenant=B16, computer=B16, grant=B16, technician=B16, device=B16, scenario=SCENARIO, kind=ACCOUNT, account="str", groups=["str"],
    since="u64", ended="u64", reason=("one of", range(1, 8)), verified=VERIFIED, approval=B32,
)
ENTRY = Fields(received="u64", computer=("?", ("bin", 16)), revoked="bool", event="bin")
LOG_HEAD = Fields(tenant=("bin", 16), size="u64", time="u64", root=("bin", 32))
EVENT = Fields(
    tenant=B16, computer=B16, sequence="u64", time="u64", kind=("one of", range(1, 10)), technician=("?", B16), device=("?", B16),
    grant=("?", B16), scenario=("?", SCENARIO), account="str", code=("?", CODE), evidence="bin", policy_epoch="u64", text="str",
)
BULLETIN = Fields(kind=("one of", range(1, 7)), epoch="u64", statement=("?", "bin"))

PRESENCE = Fields(whole=("?", Fields(after=("bin", 17), upto=("bin", 17))), online="bin", offline="bin")
PLACE = Fields(epoch="u64", offset="u64")
FRAMES = {
    0: Fields(nonce=B32, server_time="u64"),
    1: Fields(proof="bin", chain=["bin"]),
    2: Fields(connection="u64", server_time="u64"),
    3: Fields(rid=B16, ttl="u32"),
    4: Fields(rid=B16, token=B32),
    5: Fields(rid=B16, n=B16, tag=B16),
    6: Fields(rid=B16, token=B32),
    7: Fields(rid=B16, seq="u32", ack="u32", bytes="bin"),
    8: Fields(rid=B16, token=B32, last_seq="u32"),
    9: Fields(rid=B16, last_seq="u32"),
    10: Fields(channel="str", since=("?", PLACE)),
    11: Fields(channel="str", place=PLACE, complete="bool", following="u32"),
    12: Fields(id="u32", channel="str", bytes="bin"),
    13: Fields(id="u32", delivered="u32"),
    14: Fields(channel="str", offset="u64", bytes="bin"),
    15: Fields(channel="str"),
    16: Fields(rid=B16),
    17: Fields(code=CODE, rid=("?", B16), id=("?", "u32"), text="str"),
    18: Fields(after_ms="u32", url=("?", "str")),
    19: Fields(rid=B16, ack="u32"),
    20: Fields(ticket="bin", secret=B32),
    21: Fields(ticket="bin", relay="str", mac=B32),
}
MAX_FRAME = 8192


class TooLarge(Malformed):
    """Longer than a frame may be."""


def decode_frame(data):
    if len(data) > MAX_FRAME:
        raise TooLarge(str(len(data)))
    if len(data) < 2 or not 0x92 <= data[0] <= 0x9F or data[1] not in FRAMES:
        raise Malformed("no known type")
    fields = decode(Fields(type="u8", **FRAMES[data[1]].fields), data)
    return fields.pop("type"), fields


def encode_frame(kind, *fields):
    return encode([kind, *fields])


# Section 2.
def framed(label, body):
    return label.encode() + b"\0" + struct.pack(">I", len(body)) + body


class BadSignature(Exception):
    """It does not fit."""


_SPKI = {
    1: bytes.fromhex("302a300506032b6570032100"),
    2: bytes.fromhex("302a300506032b656e032100"),
    3: bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200"),
}
KEY_LENGTH = {1: 32, 2: 32, 3: 65}
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def spki(algorithm, key):
    return _SPKI[algorithm] + key


def kid(algorithm, key):
    return hashlib.sha256(spki(algorithm, key)).digest()[:8]


def revocation_id(algorithm, key):
    return hashlib.sha256(spki(algorithm, key)).digest()[:16]


def verify_raw(algorithm, key, message, signature):
    try:
        if algorithm == 1:
            ed25519.Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
            return
        if algorithm == 3:
            r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
            if 0 < r < P256_ORDER and 0 < s <= P256_ORDER // 2 and key[:1] == b"\x04":
                public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), key)
                public.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
                return
    except (InvalidSignature, ValueError) as error:
        raise BadSignature from error
    raise BadSignature


def claimed(shape, signed):
    """The body of signed bytes, which nobody has verified yet."""
    return decode(shape, decode(SIGNED, signed)["body"])


def verified(shape, label, signed, algorithm, key):
    envelope = decode(SIGNED, signed)
    body = decode(shape, envelope["body"])
    verify_raw(algorithm, key, framed(label, envelope["body"]), envelope["signature"])
    return body


def sign(shape, label, fields, signer):
    body = encode(values(shape, fields))
    return encode([body, signer(framed(label, body))])


def p256_signer(private):
    def signer(message):
        r, s = decode_dss_signature(private.sign(message, ec.ECDSA(hashes.SHA256())))
        s = min(s, P256_ORDER - s)
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    return signer
