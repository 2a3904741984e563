"""Replays docs/vectors with other people's cryptography: `ops/python/check`."""

import base64
import hashlib
import json
import pathlib
import re
import sys
import warnings

import msgpack
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gatepass import channel, enrol, offline, slot, trust, vault, wire
from gatepass.qr import BadQr, Qr, tenant_tag

checks = 0
code_names = {}


def same(found, expected, about):
    global checks
    checks += 1
    if found != expected:
        sys.exit(f"{about}: expected {expected!r}, found {found!r}")


def unhex(value, name):
    return bytes.fromhex(value[name])


def verdict(act):
    """What `act` returns, or the name of the code with which it refuses."""
    try:
        return act()
    except trust.Refused as refused:
        return code_names[refused.code]


def qr(file):
    for case in file["cases"]:
        found = Qr(case["text"])
        for name, value in (("bytes", found.data), ("qs", found.qs), ("a_q", found.a_q), ("rid", found.rid), ("psk", found.psk)):
            same(value, unhex(case, name), name)
        same(found.relay_idx, case["relay_idx"], "relay_idx")
        same(tenant_tag(unhex(case, "tenant")), unhex(case, "tenant_tag"), "tenant tag")
        same(found.tenant_tag, unhex(case, "tenant_tag"), "tenant tag in the QR")
        same(found.tag(unhex(case, "claim_n")), unhex(case, "claim_tag"), "claim tag")
    for case in file["negative"]:
        try:
            Qr(case["text"])
            found = "taken"
        except BadQr as bad:
            found = bad.kind
        same(found, case["expect"], case["name"])


BODIES = {
    "M1": wire.HELLO, "M2": wire.AGENT_HELLO, "M3": wire.DEVICE_HELLO, "M4": wire.CONTEXT, "M5": wire.DECISION,
    "M6": wire.OUTCOME, "M7 end": wire.ENDING, "M7 receipt": wire.ENDING,
}


def agree(private, public):
    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))


def handshake(file):
    for case in file["cases"]:
        code = Qr(case["qr_text"])
        same(b"gp1" + code.data, unhex(case, "prologue"), "prologue")
        phone = channel.Channel(code, True, unhex(case, "s_phone_private"), unhex(case, "e_phone_private"))
        agent = channel.Channel(code, False, unhex(case, "a_q_private"), unhex(case, "e_agent_private"))
        for message in case["messages"]:
            name, kind, body, sent = message["name"], message["type"], unhex(message, "body"), unhex(message, "wire")
            writer, reader = (phone, agent) if message["from"] == "phone" else (agent, phone)
            if name in ("M1", "M2", "M3"):
                same(writer.write(kind, body), sent, name)
                same(reader.read(kind, sent), body, name)
            else:
                same(writer.seal(kind, body), sent, name)
                same(reader.open([kind], sent), (kind, body), name)
            fields = wire.decode(BODIES[name], body)
            if name == "M2":
                same(writer.h_before, reader.h_before, "h before M2's payload")
                key = wire.claimed(wire.STATEMENT, fields["chain"][0])["keys"][0]["key"]["key"]
                wire.verify_raw(1, key, wire.framed("gp1 agent-auth", reader.h_before), fields["signature"])
                signer = Ed25519PrivateKey.from_private_bytes(unhex(case, "agent_sign_seed"))
                same(signer.sign(wire.framed("gp1 agent-auth", reader.h_before)), fields["signature"], "the agent's signature")
            if name == "M7 receipt":
                receipt = wire.verified(wire.RECEIPT, "gp1 receipt", fields, 1, key)
                same(receipt["verified"]["disabled"], True, "receipt")
        for end in (phone, agent):
            same(end.h, unhex(case, "h"), "h")
            same(end.up, unhex(case, "key_phone_to_agent"), "key up")
            same(end.down, unhex(case, "key_agent_to_phone"), "key down")
            same(end.exporter, unhex(case, "exporter"), "exporter")
            same(end.confirm_code(), case["confirm_code"], "confirm code")
        same(phone.cks, [unhex(step, "ck") for step in case["schedule"][1:]], "chaining keys")
        same(agree(unhex(case, "e_phone_private"), code.a_q), unhex(case["schedule"][2], "input"), "es")
    for case in file["negative"]:
        first = file["cases"][0]
        code = Qr(first["qr_text"])
        phone = channel.Channel(code, True, unhex(first, "s_phone_private"), unhex(first, "e_phone_private"))
        agent = channel.Channel(code, False, unhex(first, "a_q_private"), unhex(first, "e_agent_private"))
        try:
            for message in first["messages"][:3]:
                reader, writer = (agent, phone) if message["from"] == "phone" else (phone, agent)
                writer.write(message["type"], unhex(message, "body"))
                sent = unhex(case if case["message"] == message["name"] else message, "wire")
                reader.read(message["type"], sent)
            found = "taken"
        except channel.Broken:
            found = "generic"
        same(found, case["expect"], case["name"])


def confirm(file):
    for case in file["cases"]:
        same(channel.confirm_code(unhex(case, "exporter"), unhex(case, "h")), case["code"], "confirm code")
    for case in file["typed"]:
        same(case["typed"].replace("CODE", "042").strip() == "042", case["right"], "typed")


CHANNEL = re.compile(r"(computer|device|tenant|presence)/[0-9a-f]{32}")


def unhexed(fields, shape):
    """The JSON of a vector with its byte strings as bytes, where the shape says so."""
    if isinstance(shape, wire.Fields):
        return {name: unhexed(value, inner) for (name, inner), value in zip(shape.fields.items(), fields, strict=True)}
    if isinstance(shape, list):
        return [unhexed(item, shape[0]) for item in fields]
    if isinstance(shape, tuple) and shape[0] == "?":
        return None if fields is None else unhexed(fields, shape[1])
    return bytes.fromhex(fields) if shape == "bin" or isinstance(shape, tuple) and shape[0] == "bin" else fields


def frames(file):
    for case in file["cases"]:
        shape = wire.FRAMES[case["type"]]
        fields = unhexed(case["fields"], shape)
        same(wire.encode_frame(case["type"], *wire.values(shape, fields)), unhex(case, "bytes"), case["name"])
        same(wire.decode_frame(unhex(case, "bytes")), (case["type"], fields), case["name"])
    for case in file["negative"]:
        data = bytes(case["zeros"]) if "zeros" in case else unhex(case, "bytes")
        try:
            wire.decode_frame(data)
            found = "taken"
        except wire.TooLarge:
            found = "size"
        except wire.Malformed:
            found = "bad_frame"
        same(found, case["expect"], case["name"])
    for case in file["bulletins"]:
        statement = unhexed(case["statement"], ("?", "bin"))
        fields = {"kind": case["kind"], "epoch": case["epoch"], "statement": statement}
        same(wire.decode(wire.BULLETIN, unhex(case, "bytes")), fields, "bulletin")
    for case in file["presence"]:
        fields = unhexed([case["whole"], case["online"], case["offline"]], wire.PRESENCE)
        same(wire.decode(wire.PRESENCE, unhex(case, "bytes")), fields, "presence")
    for good in file["channels"]["good"]:
        same(bool(CHANNEL.fullmatch(good)), True, good)
    for bad in file["channels"]["bad"]:
        same(bool(CHANNEL.fullmatch(bad)), False, bad)


def statements(file):
    tenant = unhex(file, "tenant")
    decoded = file["decoded"]
    statement = wire.claimed(wire.STATEMENT, unhex(decoded, "signed"))
    for name in ("version", "kind", "not_before", "not_after", "epoch", "usages"):
        same(statement[name], decoded[name], name)
    for name in ("serial", "issuer", "tenant", "subject", "constraints"):
        same(statement[name], unhex(decoded, name), name)
    for key, expected in zip(statement["keys"], decoded["keys"], strict=True):
        found = key["key"]
        same((key["use"], found["algorithm"], found["key"].hex()), (expected["use"], expected["algorithm"], expected["key"]), "key")
        same(wire.kid(**found).hex(), expected["kid"], "kid")
        same(wire.revocation_id(**found).hex(), expected["revocation_id"], "revocation id")
    terms = wire.decode(wire.DEVICE, statement["constraints"])
    same(terms["technician"].hex(), decoded["terms"]["technician"], "technician")
    for case in file["certificates"]:
        store = trust.TrustStore(tenant, file["ca_pem"])
        for entry in case["lists"]:
            store.accept(bytes.fromhex(entry), 1_800_000_000)
        chain = [bytes.fromhex(link) for link in case["chain"]]
        same(verdict(lambda: store.certificate(chain, case["now"]) and "ok"), case["expect"], case["name"])
    for case in file["lists"]:
        store = trust.TrustStore(tenant, file["ca_pem"])
        for step in case["steps"]:
            same(verdict(lambda: store.accept(unhex(step, "list"), case["now"])), step["expect"], case["name"])
    signed_bodies(file["signed"])


def signed_bodies(signed):
    auth = signed["relay_auth"]
    fields = {"nonce": unhex(auth, "nonce"), "relay": auth["relay"], "time": auth["time"]}
    signer = Ed25519PrivateKey.from_private_bytes(unhex(auth, "seed")).sign
    same(wire.sign(wire.RELAY_AUTH, auth["label"], fields, signer), unhex(auth, "signed"), "RelayAuth")
    for name, shape in (("relay_auth", wire.RELAY_AUTH), ("device_request", wire.DEVICE_REQUEST), ("event", wire.EVENT)):
        case = signed[name]
        wire.verified(shape, case["label"], unhex(case, "signed"), 1, unhex(case, "public"))
    request = signed["device_request"]
    same(enrol.fingerprint(unhex(request, "signed")), request["fingerprint"], "fingerprint")
    ticket = signed["ticket"]
    fields = enrol.read_ticket(ticket["text"])
    same(fields["statement"], unhex(ticket, "statement"), "ticket")
    same((fields["url"], fields["cas"], fields["tls_ca_pem"]), (ticket["url"], ticket["cas"], None), "ticket")
    public = Ed25519PrivateKey.from_private_bytes(fields["seed"]).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    store = trust.TrustStore(wire.claimed(wire.STATEMENT, fields["statement"])["tenant"], fields["cas"])
    same(store.ticket(fields["statement"], 1_800_000_000).key(trust.SIGN), public, "the ticket's key")


def approval(file):
    chains = [[bytes.fromhex(link) for link in file[name]] for name in ("agent_chain", "device_chain")]
    for case in file["cases"]:
        store = trust.TrustStore(unhex(file, "tenant"), file["ca_pem"])
        store.accept(unhex(file, "policy"), 1_800_000_000)
        for entry in case["lists"]:
            store.accept(bytes.fromhex(entry), 1_800_000_000)
        decide = lambda: trust.judge(store, *chains, unhex(file, "h"), unhex(file, "context"), unhex(case, "m5"), case["now"])
        same(verdict(decide), case["expect"], case["name"])


def sealed(file):
    for case in file["cases"]:
        message, private = unhex(case, "message"), unhex(case, "recipient_private")
        same(channel.seal_letter(unhex(case, "recipient"), message, unhex(case, "e_private")), unhex(case, "sealed"), case["name"])
        same(channel.open_letter(private, unhex(case, "sealed")), message, case["name"])
        if "letter" in case["name"]:
            letter = wire.decode(wire.LETTER, message)
            key = wire.claimed(wire.STATEMENT, letter["chain"][0])["keys"][0]["key"]["key"]
            shape, label = (wire.ORDER, "gp1 order") if "order" in case["name"] else (wire.REPORT, "gp1 report")
            wire.verified(shape, label, letter["signed"], 1, key)
    for case in file["negative"]:
        try:
            channel.open_letter(unhex(case, "recipient_private"), unhex(case, "sealed"))
            found = "taken"
        except channel.Broken:
            found = "not_sealed"
        same(found, case["expect"], case["name"])


def offline_codes(file):
    codes, computer = file["codes"], unhex(file, "computer")
    store = trust.TrustStore(unhex(file, "tenant"), file["ca_pem"])
    store.accept(unhex(codes, "policy"), 1_800_000_000)
    device = store.device([bytes.fromhex(link) for link in codes["device_chain"]], 1_800_000_000)
    agent = store.agent([bytes.fromhex(link) for link in codes["agent_chain"]], 1_800_000_000)
    terms = wire.decode(wire.OFFLINE_TERMS, offline.extension(store.policy().statement, offline.OFFLINE_CODES))
    shared = offline.agree(unhex(codes, "device_private"), offline.extension(agent.statement, offline.OTP_KEY))
    same(shared, unhex(codes, "shared"), "ECDH at the phone")
    theirs = offline.extension(device.statement, offline.OTP_KEY)
    same(offline.agree(unhex(codes, "computer_private"), theirs), shared, "ECDH at the computer")
    subject, technician, epoch = device.statement["subject"], device.terms["technician"], device.statement["epoch"]
    same(epoch, codes["epoch"], "epoch")
    key = offline.code_key(shared, subject, technician, computer, epoch)
    same(key, unhex(codes, "key"), "K")
    for case in codes["cases"]:
        question = {name: case[name] for name in wire.OFFLINE_QUESTION.fields}
        who = (technician, device.terms["protection"], computer, agent.terms["tags"], case["scenario"], case["kind"])
        offer = [case["groups"], case["minutes"], case["reason"], case["digits"]]
        same(offline.offers(store.policy().terms, terms, *who)[0], offer, "offer")
        same(offline.code(key, question, case["digits"]), case["code"], "code")
        same(hashlib.sha256(offline.message(question)).digest(), unhex(case, "evidence"), "evidence")
        if case["time"]:
            same(case["time"] // 30, case["number"], "step")
    challenges(file["challenges"], unhex(file, "tenant"), computer)


def challenges(file, tenant, computer):
    def takes(read, *arguments):
        try:
            return bool(read(*arguments))
        except offline.NotAChallenge:
            return False

    for case in file["good"]:
        bits = offline.read_challenge(case["text"], computer)
        same((bits, bits >> 46, offline.challenge_text(bits)), (case["bits"], case["scenario"], case["text"]), "challenge")
        same(offline.qr_text(tenant, computer, bits, case["account"]), case["qr"], "its QR")
        same(offline.read_qr(case["qr"]), (tenant_tag(tenant), computer[:8], bits, case["account"]), "its QR, read")
    for case in file["typed"]:
        same(takes(offline.read_challenge, case["typed"], computer), case["takes"], case["name"])
    for case in file["no_qr"]:
        same(takes(offline.read_qr, case["text"]), False, case["name"])


def vaults(file):
    for case in file["cases"]:
        same(vault.open_vault(case["vault"], case["password"]), unhex(case, "secret"), case["name"])
    for case in file["negative"]:
        try:
            vault.open_vault(case["vault"], case["password"])
            found = "opened"
        except vault.NotOpened as error:
            found = error.kind
        same(found, case["expect"], case["name"])


def slots(file):
    # The draft's own, so that the group and CPace stand on more than our word.
    draft = slot.Cpace(
        b"Password", b"oc\x0bB_responder\x0bA_initiator", bytes.fromhex("7e4b4791d6a8ef019b936c79fb7f2c57"),
        bytes.fromhex("da3d23700a9e5699258aef94dc060dfda5ebb61f02a5ea77fad53f4ff0976d08"),
    )
    same(draft.generator.hex(), "a6fc82c3b8968fbb2e06fee81ca858586dea50d248f0c7ca6a18b0902a30b36b", "the draft's generator")
    same(draft.share.hex(), "d40fb265a7abeaee7939d91a585fe59f7053f982c296ec413c624c669308f87a", "the draft's Ya")
    words = (pathlib.Path(__file__).parent / "../../protocol/src/words.txt").read_text().splitlines()
    same(" ".join(words[byte].split()[place] for place, byte in enumerate(b"\xe2\xe0")), file["words"], "the words")
    ends = ({name: unhex(file[end], name) for name in file[end]} for end in ("phone_draws", "administrator_draws"))
    messages, code, reply, down, up = slot.exchange(file["words"], unhex(file, "tenant_tag"), *ends)
    for number, (found, expected) in enumerate(zip(messages, file["messages"]), 1):
        same(found.hex(), expected, f"message {number}")
    same((code, reply), (file["code"], file["reply"]), "code and reply")
    sixth, seventh = (bytes.fromhex(message) for message in file["messages"][5:])
    ticket = base64.urlsafe_b64encode(slot.opened(down, sixth)).rstrip(b"=").decode()
    same(f"GPT1:{ticket}", file["ticket"], "the ticket")
    introduction = msgpack.unpackb(slot.opened(up, seventh))
    same(introduction, [unhex(file, "request"), file["model"], file["platform"]], "what the phone says of itself")


def tree(leaves):
    """RFC 9162, 2.1.1."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    middle = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\x01" + tree(leaves[:middle]) + tree(leaves[middle:])).digest()


def path(index, leaves):
    """RFC 9162, 2.1.3.1."""
    if len(leaves) <= 1:
        return []
    middle = 1 << (len(leaves) - 1).bit_length() - 1
    if index < middle:
        return path(index, leaves[:middle]) + [tree(leaves[middle:])]
    return path(index - middle, leaves[middle:]) + [tree(leaves[:middle])]


def subproof(old, leaves, is_whole=True):
    """RFC 9162, 2.1.4.1."""
    if old == len(leaves):
        return [] if is_whole else [tree(leaves)]
    middle = 1 << (len(leaves) - 1).bit_length() - 1
    if old <= middle:
        return subproof(old, leaves[:middle], is_whole) + [tree(leaves[middle:])]
    return subproof(old - middle, leaves[middle:], False) + [tree(leaves[:middle])]


def log(file):
    leaves = []
    for case in file["entries"]:
        entry = unhex(case, "entry")
        computer = bytes.fromhex(case["computer"]) if case["computer"] else None
        same(wire.encode([case["received"], computer, case["revoked"], unhex(case, "event")]), entry, "an entry")
        wire.decode(wire.ENTRY, entry)
        leaves.append(hashlib.sha256(b"\x00" + entry).digest())
        same(leaves[-1], unhex(case, "leaf"), "its leaf")
    for case in file["roots"]:
        same(tree(leaves[: case["size"]]), unhex(case, "root"), f"the root of {case['size']}")
    for case in file["inclusion"]:
        same(b"".join(path(case["index"], leaves[: case["size"]])), unhex(case, "proof"), "an inclusion proof")
    for case in file["consistency"]:
        same(b"".join(subproof(case["old"], leaves[: case["new"]])), unhex(case, "proof"), "a consistency proof")
        whole, rest = [], leaves[: case["old"]]
        while rest:
            size = 1 << len(rest).bit_length() - 1
            whole, rest = whole + [tree(rest[:size])], rest[size:]
        same(b"".join(whole), unhex(case, "frontier_of_old"), "a frontier")
    head = file["head"]
    fields = wire.verified(wire.LOG_HEAD, "gp1 log-head", unhex(head, "signed"), 1, unhex(head, "log_key"))
    same((fields["size"], fields["root"]), (head["size"], unhex(head, "root")), "the head")


def main():
    # The vectors fix the ephemeral keys, of which noiseprotocol rightly warns.
    warnings.filterwarnings("ignore", module="noise")
    folder = pathlib.Path(sys.argv[1])
    files = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    code_names.update((code["number"], code["name"]) for code in files["frames"]["codes"])
    replays = {
        "qr": qr, "handshake": handshake, "confirm": confirm, "frames": frames, "statements": statements, "approval": approval,
        "sealed": sealed, "offline": offline_codes, "log": log, "slot": slots, "vault": vaults,
    }
    same(sorted(files), sorted(replays), "the files")
    for name, replay in replays.items():
        before = checks
        replay(files[name])
        print(f"{name}.json: {checks - before} checks")


if __name__ == "__main__":
    main()
