"""PROTOCOL.md, section 14: secrets behind a password."""

import base64
import binascii
import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from . import wire

MEMBERS = {"format", "name", "kdf", "memory_kib", "passes", "lanes", "salt", "cipher", "nonce", "sealed"}


class NotOpened(Exception):
    """`kind` is not_a_vault, parameters or wrong_password."""

    def __init__(self, kind):
        super().__init__(kind)
        self.kind = kind


def _quarter(state, a, b, c, d):
    for first, second, third, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        state[first] = (state[first] + state[second]) & 0xFFFFFFFF
        mixed = state[third] ^ state[first]
        state[third] = (mixed << turn | mixed >> 32 - turn) & 0xFFFFFFFF


def _hchacha20(key, nonce):
    state = list(struct.unpack("<16I", b"expand 32-byte k" + key + nonce))
    for _ in range(10):
        for column in range(4):
            _quarter(state, column, column + 4, column + 8, column + 12)
        for at in range(4):
            _quarter(state, at, 4 + (at + 1) % 4, 8 + (at + 2) % 4, 12 + (at + 3) % 4)
    return struct.pack("<8I", *state[:4], *state[12:])


def open_vault(vault, password):
    fixed = {"format": "gatepass-vault-1", "kdf": "argon2id", "cipher": "xchacha20-poly1305"}
    if set(vault) != MEMBERS or any(vault[name] != value for name, value in fixed.items()):
        raise NotOpened("not_a_vault")
    in_bounds = 65536 <= vault["memory_kib"] <= 1048576 and 3 <= vault["passes"] <= 16 and 1 <= vault["lanes"] <= 16
    if not in_bounds:
        raise NotOpened("parameters")
    try:
        salt, nonce, sealed = (base64.b64decode(vault[name], validate=True) for name in ("salt", "nonce", "sealed"))
    except binascii.Error as error:
        raise NotOpened("not_a_vault") from error
    if len(nonce) != 24:
        raise NotOpened("not_a_vault")
    kdf = Argon2id(salt=salt, length=32, iterations=vault["passes"], lanes=vault["lanes"], memory_cost=vault["memory_kib"])
    key = kdf.derive(password.encode())
    names = ("format", "name", "kdf", "memory_kib", "passes", "lanes", "salt", "cipher", "nonce")
    header = wire.encode([vault[name] for name in names])
    try:
        return ChaCha20Poly1305(_hchacha20(key, nonce[:16])).decrypt(bytes(4) + nonce[16:], sealed, header)
    except InvalidTag as error:
        raise NotOpened("wrong_password") from error
