"""PROTOCOL.md, sections 6, 9 and 12: the channel, the confirm code, sealed letters. Noise by `noiseprotocol`."""

import hmac

from noise.connection import Keypair, NoiseConnection

CLASSES = (256, 768, 1536, 3072, 6144)
SMALLEST = {1: 256, 2: 1536, 3: 768, 4: 1536, 5: 768, 6: 768, 7: 768, 8: 768, 9: 1536}
HELLO, AGENT_HELLO, DEVICE_HELLO, CONTEXT, DECISION, OUTCOME, ENDING, SEALED, REFUSAL = range(1, 10)


class Broken(Exception):
    """The one generic failure."""


def padded_length(kind, length):
    for size in CLASSES:
        if size >= max(length + 3, SMALLEST[kind]):
            return size
    raise ValueError("too large for a message")


def pad(kind, body):
    head = bytes([kind]) + len(body).to_bytes(2, "big")
    return (head + body).ljust(padded_length(kind, len(body)), b"\0")


def unpad(kind, padded):
    length = int.from_bytes(padded[1:3], "big")
    body, rest = padded[3 : 3 + length], padded[3 + length :]
    if len(padded) < 3 or padded[0] != kind or len(body) != length or length > 6141:
        raise Broken("another type or length")
    if len(padded) != padded_length(kind, length) or rest.strip(b"\0"):
        raise Broken("another padding")
    return body


class Channel:
    """Either end. After three handshake messages h, up, down and exporter are there."""

    def __init__(self, qr, initiator, static, ephemeral=None):
        noise = NoiseConnection.from_name(b"Noise_XKpsk0_25519_ChaChaPoly_SHA256")
        noise.set_prologue(b"gp1" + qr.data)
        noise.set_psks(psk=qr.psk)
        noise.set_keypair_from_private_bytes(Keypair.STATIC, static)
        if initiator:
            noise.set_as_initiator()
            noise.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, qr.a_q)
        else:
            noise.set_as_responder()
        if ephemeral:
            noise.set_keypair_from_private_bytes(Keypair.EPHEMERAL, ephemeral)
        noise.start_handshake()
        self.noise = noise
        self.state = noise.noise_protocol.symmetric_state
        self.cks = []
        self._watch()

    def _watch(self):
        """Notes h before each payload (M2's is signed) and ck after each token."""
        state = self.state
        encrypt, decrypt, mix_key = state.encrypt_and_hash, state.decrypt_and_hash, state.mix_key

        def noting(inner):
            def call(data):
                self.h_before = state.get_handshake_hash()
                return inner(data)

            return call

        def noting_ck(data):
            mix_key(data)
            self.cks.append(state.ck)

        state.encrypt_and_hash, state.decrypt_and_hash, state.mix_key = noting(encrypt), noting(decrypt), noting_ck

    def write(self, kind, body):
        message = bytes(self.noise.write_message(pad(kind, body)))
        self._finished()
        return message

    def read(self, kind, message):
        try:
            padded = bytes(self.noise.read_message(message))
        except Exception as error:
            raise Broken(str(error)) from error
        self._finished()
        return unpad(kind, padded)

    def _finished(self):
        if self.noise.handshake_finished:
            self.h = self.noise.get_handshake_hash()
            self.up, self.down, self.exporter = hkdf3(self.state.ck, b"")

    def seal(self, kind, body):
        return bytes(self.noise.encrypt(pad(kind, body)))

    def open(self, kinds, message):
        """The type, of those expected, and the body."""
        try:
            padded = bytes(self.noise.decrypt(message))
        except Exception as error:
            raise Broken(str(error)) from error
        kind = padded[0] if padded[0] in kinds else kinds[0]
        return kind, unpad(kind, padded)

    def confirm_code(self):
        return confirm_code(self.exporter, self.h)


def hkdf3(ck, data):
    prk = hmac.digest(ck, data, "sha256")
    first = hmac.digest(prk, b"\x01", "sha256")
    second = hmac.digest(prk, first + b"\x02", "sha256")
    return first, second, hmac.digest(prk, second + b"\x03", "sha256")


def confirm_code(exporter, h):
    number = int.from_bytes(hmac.digest(exporter, b"gp1 confirm" + h, "sha256")[:8], "big")
    return f"{number % 1000:03}"


def _noise_n(initiator, private=None, public=None, ephemeral=None):
    noise = NoiseConnection.from_name(b"Noise_N_25519_ChaChaPoly_SHA256")
    noise.set_prologue(b"gp1 sealed")
    if initiator:
        noise.set_as_initiator()
        noise.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, public)
        if ephemeral:
            noise.set_keypair_from_private_bytes(Keypair.EPHEMERAL, ephemeral)
    else:
        noise.set_as_responder()
        noise.set_keypair_from_private_bytes(Keypair.STATIC, private)
    noise.start_handshake()
    return noise


def seal_letter(public, message, ephemeral=None):
    return bytes(_noise_n(True, public=public, ephemeral=ephemeral).write_message(pad(SEALED, message)))


def open_letter(private, sealed):
    try:
        padded = bytes(_noise_n(False, private=private).read_message(sealed))
    except Exception as error:
        raise Broken(str(error)) from error
    return unpad(SEALED, padded)
