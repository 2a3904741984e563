"""PROTOCOL.md, section 15: offline codes."""

import hashlib
import hmac

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from . import wire
from .qr import BadQr, base45_decode, base45_encode, tenant_tag

OTP_KEY, OFFLINE_CODES = 1, 2
LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def extension(statement, number):
    """The value of an extension, if it is there once."""
    values = [one["value"] for one in statement["extensions"] if one["id"] == number]
    return values[0] if len(values) == 1 else None


def agree(private, point):
    """The x coordinate of ECDH on P-256."""
    key = ec.derive_private_key(int.from_bytes(private, "big"), ec.SECP256R1())
    return key.exchange(ec.ECDH(), ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point))


def code_key(shared, device, technician, computer, epoch):
    info = device + technician + computer + epoch.to_bytes(8, "big")
    return HKDF(hashes.SHA256(), 32, b"gp1 otp", info).derive(shared)


def message(question):
    return wire.framed("gp1 code", wire.encode(wire.values(wire.OFFLINE_QUESTION, question)))


def code(key, question, digits):
    tag = hmac.digest(key, message(question), hashlib.sha256)
    return f"{int.from_bytes(tag[:8], 'big') % 10**digits:0{digits}}"


def offers(policy, terms, technician, protection, computer, tags, scenario, kind):
    """What a code would give: (groups, minutes, reason, digits) for each rule."""
    found = []
    if scenario not in terms["scenarios"] or protection == 1 and not policy["software_keys"]:
        return found
    for rule in policy["rules"]:
        everywhere = not rule["computers"] and not rule["tags"]
        applies = (
            (not rule["technicians"] or technician in rule["technicians"])
            and (everywhere or computer in rule["computers"] or set(tags) & set(rule["tags"]))
            and scenario in rule["scenarios"]
            and kind in rule["accounts"]
        )
        if not applies:
            continue
        allowed = [group for group in rule["groups"] if terms["groups"] is None or group in terms["groups"]]
        groups = [] if kind == 0 else allowed
        minutes = max(1, min(policy["default_minutes"], rule["max_minutes"], terms["max_minutes"]))
        digits = 10 if set(groups) & set(terms["long_codes"]) else 8
        same = [offer for offer in found if offer[:2] == [groups, minutes]]
        if same:
            same[0][2] = same[0][2] and rule["reason"]
        else:
            found.append([groups, minutes, rule["reason"], digits])
    return found


class NotAChallenge(Exception):
    pass


def check(bits, computer):
    """Whether 50 bits are a challenge of this computer."""
    if bits >> 46 not in range(1, 7):
        raise NotAChallenge
    digest = hashlib.sha256(b"gp1 challenge\0" + computer + (bits >> 10).to_bytes(5, "big")).digest()
    if int.from_bytes(digest[:2], "big") >> 6 != bits & 0x3FF:
        raise NotAChallenge
    return bits


def read_challenge(typed, computer):
    bits, letters = 0, [letter for letter in typed.upper() if not letter.isspace() and letter != "-"]
    for letter in letters:
        value = LETTERS.find({"O": "0", "I": "1", "L": "1"}.get(letter, letter))
        if value < 0:
            raise NotAChallenge
        bits = bits << 5 | value
    if len(letters) != 10:
        raise NotAChallenge
    return check(bits, computer)


def challenge_text(bits):
    letters = "".join(LETTERS[bits >> 5 * (9 - at) & 31] for at in range(10))
    return f"{letters[:5]}-{letters[5:]}"


def read_qr(text):
    """(tenant tag, first half of the computer's id, bits, account)"""
    if not text.startswith("GPC1:"):
        raise NotAChallenge
    try:
        data = base45_decode(text[5:])
        account = data[20:].decode()
    except (BadQr, UnicodeDecodeError) as error:
        raise NotAChallenge from error
    bits = int.from_bytes(data[13:20], "big")
    if not 20 <= len(data) <= 52 or data[0] != 1 or bits >> 50 or "GPC1:" + base45_encode(data) != text:
        raise NotAChallenge
    return data[1:5], data[5:13], bits, account


def qr_text(tenant, computer, bits, account):
    data = b"\1" + tenant_tag(tenant) + computer[:8] + bits.to_bytes(7, "big") + account.encode()
    return "GPC1:" + base45_encode(data)
