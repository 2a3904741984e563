"""PROTOCOL.md, section 5: the QR and its keys."""

import hashlib
import hmac

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:"


class BadQr(Exception):
    """`kind` is not_gatepass, damaged, version or suite."""

    def __init__(self, kind):
        super().__init__(kind)
        self.kind = kind


def base45_encode(data):
    out = ""
    for at in range(0, len(data), 2):
        pair = data[at : at + 2]
        number = int.from_bytes(pair, "big")
        for _ in range(len(pair) + 1):
            number, digit = divmod(number, 45)
            out += ALPHABET[digit]
    return out


def base45_decode(text):
    out = b""
    for at in range(0, len(text), 3):
        group = text[at : at + 3]
        if len(group) == 1 or any(character not in ALPHABET for character in group):
            raise BadQr("damaged")
        number = sum(ALPHABET.index(character) * 45**place for place, character in enumerate(group))
        if number >= 256 ** (len(group) - 1):
            raise BadQr("damaged")
        out += number.to_bytes(len(group) - 1, "big")
    return out


def hkdf_expand(prk, label, length):
    return hmac.digest(prk, label + b"\x01", "sha256")[:length]


def tenant_tag(tenant):
    return hashlib.sha256(b"gp1 tenant\0" + tenant).digest()[:4]


class Qr:
    def __init__(self, text):
        text = text.rstrip("\r\n")
        if not text.startswith("GP1:"):
            raise BadQr("not_gatepass")
        data = base45_decode(text[4:])
        if not data:
            raise BadQr("damaged")
        if data[0] != 1:
            raise BadQr("version")
        if len(data) < 2 or data[1] != 1:
            raise BadQr("suite")
        if len(data) != 56 or "GP1:" + base45_encode(data) != text:
            raise BadQr("damaged")
        self.data = data
        self.relay_idx = int.from_bytes(data[2:4], "big")
        self.tenant_tag, self.qs, self.a_q = data[4:8], data[8:24], data[24:]
        prk = hmac.digest(b"gp1 qr", self.qs, "sha256")
        self.rid = hkdf_expand(prk, b"rid", 16)
        self.psk = hkdf_expand(prk, b"psk", 32)
        self.claim = hkdf_expand(prk, b"claim", 32)

    def tag(self, n):
        return hmac.digest(self.claim, b"claim" + self.rid + n, "sha256")[:16]
