"""PROTOCOL.md, section 4: what is trusted; section 8: judging an approval."""

import hashlib

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from . import wire

SIGN, CHANNEL, APPROVE = 1, 2, 3
CERTIFICATE, REVOKED, STALE, POLICY, CONTEXT, TIMED_OUT = 30, 31, 32, 33, 35, 36
SKEW = 300


class Refused(Exception):
    def __init__(self, code):
        super().__init__(f"code {code}")
        self.code = code


def require(fits, code):
    if not fits:
        raise Refused(code)


def in_time(statement, now):
    require(statement["not_before"] - SKEW <= now <= statement["not_after"], CERTIFICATE)


class Certified:
    def __init__(self, signed, statement, terms):
        self.signed, self.statement, self.terms = signed, statement, terms

    def key(self, use):
        """The one key of a use, of the use's algorithm, which has the same number."""
        keys = [key["key"] for key in self.statement["keys"] if key["use"] == use]
        require(len(keys) == 1 and keys[0]["algorithm"] == use, CERTIFICATE)
        return keys[0]["key"]


class TrustStore:
    def __init__(self, tenant, ca_pems):
        self.tenant = tenant
        self.cas = {}
        for pem in ca_pems:
            key = load_pem_public_key(pem.encode()).public_bytes(Encoding.Raw, PublicFormat.Raw)
            self.cas[wire.kid(1, key)] = key
        self.lists = {}

    def epoch(self, kind):
        return self.lists[kind].statement["epoch"] if kind in self.lists else 0

    def policy(self):
        """The policy in force: it falls with its CA key."""
        policy = self.lists.get(4)
        if policy and not self.is_revoked(wire.revocation_id(1, self.cas[policy.statement["issuer"]])):
            return policy
        return None

    def is_revoked(self, name):
        return 5 in self.lists and name in self.lists[5].terms["revoked"]

    def _claimed(self, signed):
        try:
            statement = wire.claimed(wire.STATEMENT, signed)
        except wire.Malformed as error:
            raise Refused(CERTIFICATE) from error
        for key in statement["keys"]:
            require(len(key["key"]["key"]) == wire.KEY_LENGTH[key["key"]["algorithm"]], CERTIFICATE)
        return statement

    def _ca_of(self, statement):
        key = self.cas.get(statement["issuer"])
        require(key is not None, CERTIFICATE)
        require(not self.is_revoked(wire.revocation_id(1, key)), REVOKED)
        return key

    def _issued(self, signed, kind, now, issuer=None):
        """Steps 1 to 5; without a time, 1 to 4."""
        statement = self._claimed(signed)
        issuer = issuer or self._ca_of(statement)
        require(statement["issuer"] == wire.kid(1, issuer), CERTIFICATE)
        try:
            wire.verified(wire.STATEMENT, "gp1 statement", signed, 1, issuer)
            require(statement["kind"] == kind, CERTIFICATE)
            require(statement["version"] == 1 and statement["tenant"] == self.tenant, CERTIFICATE)
            require(not statement["critical"] and statement["usages"] == 0, CERTIFICATE)
            terms = wire.decode(wire.TERMS[kind], statement["constraints"])
        except (wire.Malformed, wire.BadSignature) as error:
            raise Refused(CERTIFICATE) from error
        if kind in (1, 2, 3) and 5 in self.lists:
            require(statement["epoch"] >= self.lists[5].terms["min_epoch"], REVOKED)
        require(not self.is_revoked(statement["serial"]) and not self.is_revoked(statement["subject"]), REVOKED)
        if now is not None:
            in_time(statement, now)
        return Certified(signed, statement, terms)

    def certificate(self, chain, now):
        require(chain, CERTIFICATE)
        kind = self._claimed(chain[0])["kind"]
        require(kind in (1, 2), CERTIFICATE)
        return self.device(chain, now) if kind == 1 else self.agent(chain, now)

    def device(self, chain, now):
        require(len(chain) == 1, CERTIFICATE)
        device = self._issued(chain[0], 1, None)
        require(not self.is_revoked(device.terms["technician"]), REVOKED)
        in_time(device.statement, now)
        for use in (SIGN, CHANNEL, APPROVE):
            device.key(use)
        return device

    def agent(self, chain, now):
        require(len(chain) in (1, 2), CERTIFICATE)
        if len(chain) == 1:
            agent = self._issued(chain[0], 2, now)
        else:
            ticket = self._issued(chain[1], 3, None)
            agent = self._issued(chain[0], 2, now, ticket.key(SIGN))
            issued, limits = agent.statement, ticket.statement
            require(ticket.terms["purpose"] == 1 and agent.terms["tags"] == ticket.terms["tags"], CERTIFICATE)
            require(limits["not_before"] <= issued["not_before"] <= limits["not_after"], CERTIFICATE)
            require(issued["not_after"] <= ticket.terms["certificates_until"], CERTIFICATE)
        for use in (SIGN, CHANNEL):
            agent.key(use)
        return agent

    def ticket(self, signed, now):
        ticket = self._issued(signed, 3, now)
        ticket.key(SIGN)
        return ticket

    def accept(self, signed, now):
        """Takes a list: "new" or "known"."""
        kind = self._claimed(signed)["kind"]
        require(kind in (4, 5, 6), CERTIFICATE)
        new = self._issued(signed, kind, now)
        if kind == 5:
            revoked = new.terms["revoked"]
            require(all(a < b for a, b in zip(revoked, revoked[1:])), CERTIFICATE)
        known = self.lists.get(kind)
        if known and known.signed == signed:
            return "known"
        require(not known or new.statement["epoch"] > known.statement["epoch"], STALE)
        self.lists[kind] = new
        return "new"


def reason_hash(reason, ticket):
    return hashlib.sha256(wire.encode([reason, ticket])).digest()


def gives(choice, kind, groups, minutes, reason):
    return (
        kind in choice["accounts"]
        and set(groups) <= set(choice["groups"])
        and 1 <= minutes <= choice["max_minutes"]
        and (bool(reason.strip()) or not choice["reason"])
    )


def granted(choices, kind, groups, minutes, reason):
    """None: not granted; else whether the confirm code is due."""
    duties = [choice["confirm"] for choice in choices if gives(choice, kind, groups, minutes, reason)]
    return min(duties) if duties else None


def judge(trust, agent_chain, device_chain, h, context_bytes, m5, now):
    """Section 8 up to step 7: "approved", "denied", "denied_not_me", or Refused."""
    context = wire.decode(wire.CONTEXT, context_bytes)
    try:
        decision = wire.decode(wire.DECISION, m5)
        if decision["approval"] is None:
            return "denied_not_me" if decision["not_me"] else "denied"
        wire.claimed(wire.APPROVAL, decision["approval"])
    except wire.Malformed as error:
        raise Refused(CONTEXT) from error
    device = trust.device(device_chain, now)
    try:
        approval = wire.verified(wire.APPROVAL, "gp1 approve", decision["approval"], 3, device.key(APPROVE))
    except wire.BadSignature as error:
        raise Refused(CERTIFICATE) from error
    own = wire.claimed(wire.STATEMENT, agent_chain[0])
    require(
        approval["h_final"] == h
        and approval["context"] == hashlib.sha256(context_bytes).digest()
        and (approval["version"], approval["decision"], approval["nonce"]) == (1, 1, context["nonce"])
        and {"kind": approval["kind"], "name": approval["account"]} in context["accounts"]
        and approval["reason"] == reason_hash(decision["reason"], decision["ticket"])
        and (approval["tenant"], approval["agent"], approval["computer"]) == (own["tenant"], own["serial"], own["subject"])
        and approval["device"] == device.statement["serial"]
        and approval["technician"] == device.terms["technician"]
        and approval["protection"] == device.terms["protection"],
        CONTEXT,
    )
    require(now <= context["expires"] and now + SKEW >= context["time"] and now < approval["not_after"], TIMED_OUT)
    policy = trust.policy()
    require(approval["revocation_epoch"] <= trust.epoch(5) and context["policy_epoch"] == trust.epoch(4), STALE)
    require(policy and now <= policy.statement["not_after"], STALE)
    minutes = -(-approval["max_session"] // 60)
    due = granted(context["choices"], approval["kind"], approval["groups"], minutes, decision["reason"])
    require(due is not None and approval["confirm"] != 2 and not (due and approval["confirm"] != 1), POLICY)
    return "approved"
