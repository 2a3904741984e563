"""Enrolment by two words (section 13): CPace, the code and the reply, and what is sealed."""

import hashlib
import hmac

import msgpack
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from gatepass import ristretto

PHONE, ADMINISTRATOR = b"phone", b"administrator"


def lv(*parts):
    out = b""
    for part in parts:
        length = len(part)
        while length >= 0x80:
            out += bytes([length & 0x7F | 0x80])
            length >>= 7
        out += bytes([length]) + part
    return out


def sha512(*parts):
    return hashlib.sha512(b"".join(parts)).digest()


class Cpace:
    def __init__(self, secret, channel, sid, scalar):
        """`scalar`: little endian, of any length."""
        dsi = b"CPaceRistretto255"
        padding = bytes(max(0, 127 - len(lv(secret)) - len(lv(dsi))))
        generator = ristretto.from_uniform_bytes(sha512(lv(dsi, secret, padding, channel, sid)))
        self.sid, self.scalar = sid, int.from_bytes(scalar, "little")
        self.generator = ristretto.encode(generator)
        self.share = ristretto.encode(ristretto.multiply(self.scalar, generator))

    def isk(self, other, transcript):
        k = ristretto.encode(ristretto.multiply(self.scalar, ristretto.decode(other)))
        if k == bytes(32):
            raise ristretto.NotAnElement
        return sha512(lv(b"CPaceRistretto255_ISK", self.sid, k), transcript)


def tag(isk, sid, share, name):
    return hmac.digest(sha512(b"CPaceMac", sid, isk), lv(share, name), "sha512")


def exchange(words, tenant_tag, phone, administrator):
    """Both ends, from what each draws: messages 1 to 5, code, reply, down, up."""
    channel, secret, sid = lv(b"gp1 slot", tenant_tag), words.encode(), phone["sid"]
    a, b = (Cpace(secret, channel, sid, end["scalar"]) for end in (phone, administrator))
    transcript = lv(a.share, PHONE, b.share, ADMINISTRATOR)
    isk = a.isk(b.share, transcript)
    if isk != b.isk(a.share, transcript):
        raise ristretto.NotAnElement
    commitment = hashlib.sha256(b"gp1 slot commit\0" + phone["nonce"]).digest()
    messages = [
        [1, sid, a.share], [b.share, tag(isk, sid, b.share, ADMINISTRATOR)], [tag(isk, sid, a.share, PHONE), commitment],
        administrator["nonce"], phone["nonce"],
    ]
    prk = hmac.digest(b"gp1 slot", isk + phone["nonce"] + administrator["nonce"], "sha256")
    code, reply, down, up = (HKDFExpand(SHA256(), 32, name).derive(prk) for name in (b"code", b"reply", b"down", b"up"))
    digits = (f"{int.from_bytes(value[:8], 'big') % 10**count:0{count}}" for value, count in ((code, 6), (reply, 3)))
    return [msgpack.packb(message) for message in messages], *digits, down, up


def opened(key, message):
    return ChaCha20Poly1305(key).decrypt(bytes(12), message, None)
