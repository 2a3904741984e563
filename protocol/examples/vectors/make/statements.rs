use bytes::Bytes;
use gatepass_protocol::{
    Code,
    enrol::{DeviceRequest, fingerprint},
    event::{Event, EventKind},
    frame::RelayAuth,
    ids::{DeviceId, GrantId, Serial, TechnicianId},
    keys::{PublicKey, Signer, SigningKey},
    policy::Scenario,
    signed::Signed,
    statement::{
        AgentTerms, CertifiedKey, Draft, Extension, KeyProtection, KeyUse, Purpose, RelayEntry, RelayTerms,
        RevocationTerms, Statement, TicketTerms,
    },
    testing::{NOW, Tenant},
};
use serde_json::{Value, json};

use super::{hex, hexes};

const YEAR: u64 = 365 * 86_400;

fn case(name: &str, chain: &[Bytes], lists: &[&Bytes], now: u64, expect: &str) -> Value {
    let lists: Vec<_> = lists.iter().map(hex).collect();
    json!({"name": name, "chain": hexes(chain), "lists": lists, "now": now, "expect": expect})
}

fn resigned(mut statement: Statement, key: &SigningKey, change: impl FnOnce(&mut Statement)) -> Bytes {
    change(&mut statement);
    Signed::sign(statement, key).unwrap().bytes().clone()
}

fn agent_by_ticket(
    tenant: &mut Tenant,
    ticket_key: &SigningKey,
    change: impl FnOnce(&mut Draft, &mut AgentTerms),
) -> Bytes {
    let key = |seed: u8, key_use| CertifiedKey {
        key_use,
        key: match key_use {
            KeyUse::Channel => PublicKey::X25519([seed; 32]),
            _ => SigningKey::from_seed(&[seed; 32]).public_key(),
        },
    };
    let mut draft = tenant.draft([0xc1; 16], vec![key(1, KeyUse::Sign), key(2, KeyUse::Channel)]);
    let mut terms = AgentTerms {
        computer: "web-02".into(),
        domain: String::new(),
        os: "Debian 12".into(),
        tags: vec!["web".into()],
    };
    change(&mut draft, &mut terms);
    draft.sign(&terms, ticket_key).unwrap().bytes().clone()
}

fn certificates(tenant: &mut Tenant) -> Vec<Value> {
    let phone = tenant.phone(1);
    let (agent, by_ticket) = (tenant.computer(), tenant.computer_by_ticket());
    let device_chain = phone.identity.chain.clone();
    let statement = phone.identity.statement().clone();
    let (ok, bad, revoked) = ("ok", Code::Certificate.name(), Code::Revoked.name());
    let stranger = Tenant::new(999).phone(1).identity.chain;

    let lists: Vec<Bytes> = [
        statement.serial,
        Serial(statement.subject),
        Serial(phone.identity.terms().technician.0),
        Serial(tenant.ca.public_key().revocation_id()),
        Serial([0xee; 16]),
    ]
    .into_iter()
    .map(|id| tenant.revocation(1, vec![id]))
    .collect();
    let no_older = {
        let terms = RevocationTerms { issued: NOW, next_update: NOW + 86_400, min_epoch: 1, revoked: vec![] };
        tenant.list(1).sign(&terms, &tenant.ca).unwrap().bytes().clone()
    };
    let ticket = tenant.ticket(Purpose::Agent, "");
    let phone_ticket = tenant.ticket(Purpose::Phone, "");
    let ticket_serial =
        gatepass_protocol::signed::Unverified::<Statement>::decode(ticket.statement.clone()).unwrap().claimed().serial;
    let ticket_revoked = tenant.revocation(1, vec![ticket_serial]);
    let key = ticket.key();
    let enrolled = agent_by_ticket(tenant, &key, |_, _| ());
    let with_ticket = |certificate: &Bytes| vec![certificate.clone(), ticket.statement.clone()];
    let ca = SigningKey::from_seed(&tenant.ca.seed());
    let device = |change: &dyn Fn(&mut Statement)| vec![resigned(statement.clone(), &ca, change)];
    let extension = || vec![Extension { id: 9, value: Bytes::from_static(b"x") }];

    let mut cases = vec![
        case("a device", &device_chain, &[], NOW, ok),
        case("an agent, signed by the CA", &agent.chain, &[], NOW, ok),
        case("an agent, signed by a ticket", &by_ticket.chain, &[], NOW, ok),
        case("an agent after its ticket's time", &with_ticket(&enrolled), &[], NOW + YEAR, ok),
        case("a device, a list that names others", &device_chain, &[&lists[4]], NOW, ok),
        case("a device at the first moment of the skew", &device_chain, &[], statement.not_before - 300, ok),
        case("a device at its last moment", &device_chain, &[], statement.not_after, ok),
        case(
            "an extension that may be ignored",
            &device(&|statement| statement.extensions = extension()),
            &[],
            NOW,
            ok,
        ),
        case("no chain", &[], &[], NOW, bad),
        case("not yet", &device_chain, &[], statement.not_before - 301, bad),
        case("no longer", &device_chain, &[], statement.not_after + 1, bad),
        case("a device with a chain of two", &[device_chain[0].clone(), ticket.statement.clone()], &[], NOW, bad),
        case("another CA", &stranger, &[], NOW, bad),
        case("another tenant, this CA", &device(&|statement| statement.tenant.0[0] ^= 1), &[], NOW, bad),
        case("version 2", &device(&|statement| statement.version = 2), &[], NOW, bad),
        case("usages that nobody knows", &device(&|statement| statement.usages = 1), &[], NOW, bad),
        case("an unknown critical extension", &device(&|statement| statement.critical = extension()), &[], NOW, bad),
        case("an issuer that did not sign", &device(&|statement| statement.issuer.0[0] ^= 1), &[], NOW, bad),
        case("two keys for one use", &device(&|statement| statement.keys.push(statement.keys[2])), &[], NOW, bad),
        case(
            "no approval key",
            &device(&|statement| {
                statement.keys.pop();
            }),
            &[],
            NOW,
            bad,
        ),
        case(
            "a signing key for the channel",
            &device(&|statement| statement.keys[1].key = statement.keys[0].key),
            &[],
            NOW,
            bad,
        ),
        case(
            "a kind with another's terms",
            &device(&|statement| statement.kind = gatepass_protocol::statement::Kind::Agent),
            &[],
            NOW,
            bad,
        ),
        case("a policy as a certificate", &[tenant.policy(1, true)], &[], NOW, bad),
        case("a flipped bit of the signature", &[flipped(&device_chain[0], 1)], &[], NOW, bad),
        case("a flipped bit of the body", &[flipped(&device_chain[0], 90)], &[], NOW, bad),
        case("its serial revoked", &device_chain, &[&lists[0]], NOW, revoked),
        case("the device revoked", &device_chain, &[&lists[1]], NOW, revoked),
        case("the technician revoked", &device_chain, &[&lists[2]], NOW, revoked),
        case("expired, and the technician revoked", &device_chain, &[&lists[2]], statement.not_after + 1, revoked),
        case("the CA key revoked", &device_chain, &[&lists[3]], NOW, revoked),
        case("issued before the least epoch", &device_chain, &[&no_older], NOW, revoked),
        case("its ticket revoked", &with_ticket(&enrolled), &[&ticket_revoked], NOW, revoked),
        case("an agent without its ticket", std::slice::from_ref(&enrolled), &[], NOW, bad),
        case("an agent with another's ticket", &[enrolled.clone(), by_ticket.chain[1].clone()], &[], NOW, bad),
    ];
    let outside = [
        ("tags that the ticket lacks", agent_by_ticket(tenant, &key, |_, terms| terms.tags.push("db".into()))),
        (
            "valid longer than the ticket allows",
            agent_by_ticket(tenant, &key, |draft, _| draft.not_after = NOW + 2 * YEAR + 1),
        ),
        ("begun before the ticket", agent_by_ticket(tenant, &key, |draft, _| draft.not_before -= 1)),
    ];
    for (name, certificate) in outside {
        cases.push(case(name, &with_ticket(&certificate), &[], NOW, bad));
    }
    let by_phone_ticket = agent_by_ticket(tenant, &phone_ticket.key(), |_, _| ());
    cases.push(case("an agent by a phones' ticket", &[by_phone_ticket, phone_ticket.statement.clone()], &[], NOW, bad));
    cases
}

/// Flips a bit that many bytes from the end.
fn flipped(bytes: &Bytes, from_end: usize) -> Bytes {
    let mut bytes = bytes.to_vec();
    let at = bytes.len() - from_end;
    bytes[at] ^= 1;
    bytes.into()
}

fn lists(tenant: &mut Tenant) -> Vec<Value> {
    let old = tenant.policy(4, true);
    let policy = tenant.policy(5, true);
    let contradiction = tenant.policy(5, false);
    let newer = tenant.policy(6, true);
    let sorted = tenant.revocation(5, vec![Serial([1; 16]), Serial([2; 16])]);
    let unsorted = {
        let revoked = vec![Serial([2; 16]), Serial([1; 16])];
        let terms = RevocationTerms { issued: NOW, next_update: NOW + 86_400, min_epoch: 0, revoked };
        tenant.list(5).sign(&terms, &tenant.ca).unwrap().bytes().clone()
    };
    let twice = {
        let revoked = vec![Serial([1; 16]), Serial([1; 16])];
        let terms = RevocationTerms { issued: NOW, next_update: NOW + 86_400, min_epoch: 0, revoked };
        tenant.list(5).sign(&terms, &tenant.ca).unwrap().bytes().clone()
    };
    let relays = {
        let entry = |index, url: &str| RelayEntry { index, url: url.into() };
        let terms =
            RelayTerms { relays: vec![entry(0, "wss://relay.example.org"), entry(3, "wss://eu.example.org:8443")] };
        tenant.list(1).sign(&terms, &tenant.ca).unwrap().bytes().clone()
    };
    let other = Tenant::new(999).policy(9, true);
    let ticket = tenant.ticket(Purpose::Agent, "").statement.clone();
    let case = |name: &str, steps: &[(&Bytes, &str)]| {
        let steps: Vec<_> = steps.iter().map(|(list, expect)| json!({"list": hex(list), "expect": expect})).collect();
        json!({"name": name, "now": NOW, "steps": steps})
    };
    let (stale, bad) = (Code::StaleEpoch.name(), Code::Certificate.name());
    vec![
        case("a policy, again, a newer one", &[(&policy, "new"), (&policy, "known"), (&newer, "new")]),
        case("an epoch that goes back", &[(&policy, "new"), (&old, stale)]),
        case("one epoch, two contents", &[(&policy, "new"), (&contradiction, stale)]),
        case("a revocation list", &[(&sorted, "new")]),
        case("a revocation list out of order", &[(&unsorted, bad)]),
        case("a revocation list with a repetition", &[(&twice, bad)]),
        case("a relay list", &[(&relays, "new")]),
        case("another tenant's", &[(&other, bad)]),
        case("a ticket is no list", &[(&ticket, bad)]),
    ]
}

fn signed_bodies(tenant: &mut Tenant) -> Value {
    let (phone, agent) = (tenant.phone(1), tenant.computer());
    let ticket = tenant.ticket(Purpose::Phone, "https://gatepass.example.org");
    let statement = gatepass_protocol::signed::Unverified::<Statement>::decode(ticket.statement.clone()).unwrap();
    let auth = RelayAuth { nonce: [0x11; 32], relay: "relay.example.org:8443".into(), time: NOW };
    let auth = Signed::sign(auth, &phone.identity.sign).unwrap();
    let request = DeviceRequest {
        ticket: statement.claimed().serial,
        device: DeviceId(phone.identity.statement().subject),
        keys: phone.identity.statement().keys.clone(),
        device_name: "Alex's phone".into(),
        protection: KeyProtection::Software,
        time: NOW,
    };
    let request = Signed::sign(request, &ticket.key()).unwrap();
    let event = Event {
        tenant: tenant.id,
        computer: agent.computer(),
        sequence: 1,
        time: NOW,
        kind: EventKind::Refused,
        technician: Some(TechnicianId([1; 16])),
        device: None,
        grant: Some(GrantId([3; 16])),
        scenario: Some(Scenario::Elevation),
        account: String::new(),
        code: Some(Code::ConfirmCode),
        evidence: vec![],
        policy_epoch: 1,
        text: "sudo apt update".into(),
    };
    let event = Signed::sign(event, &agent.sign).unwrap();
    let terms: TicketTerms = statement.claimed().terms().unwrap();
    json!({
        "relay_auth": {"label": "gp1 relay-auth", "public": hex(raw(&phone.identity.sign)), "seed": hex(*phone.identity.sign.seed()),
            "nonce": hex([0x11; 32]), "relay": "relay.example.org:8443", "time": NOW, "signed": hex(auth.bytes())},
        "device_request": {"label": "gp1 device-request", "public": hex(raw(&ticket.key())), "signed": hex(request.bytes()), "fingerprint": fingerprint(&request)},
        "event": {"label": "gp1 event", "public": hex(raw(&agent.sign)), "signed": hex(event.bytes())},
        "ticket": {"text": ticket.to_text(), "statement": hex(&ticket.statement), "seed": hex(ticket.seed), "url": ticket.url,
            "tls_ca_pem": null, "cas": ticket.cas, "uses": terms.uses, "certificates_until": terms.certificates_until},
    })
}

fn raw(key: &SigningKey) -> [u8; 32] {
    match key.public_key() {
        PublicKey::Ed25519(key) => key,
        _ => unreachable!(),
    }
}

pub fn file() -> Value {
    let mut tenant = Tenant::new(600);
    let device = tenant.phone(7);
    let statement = device.identity.statement();
    let keys: Vec<_> = statement.keys.iter().map(|key| {
        let (algorithm, bytes): (u8, serde_bytes::ByteBuf) = key.key.into();
        json!({"use": u8::from(key.key_use), "algorithm": algorithm, "key": hex(bytes), "kid": hex(key.key.kid().0), "revocation_id": hex(key.key.revocation_id())})
    }).collect();
    json!({
        "about": "Statements and the trust store. A case verifies `chain` at `now` after taking `lists`; `ok` or the code. `lists` cases take one list after the other.",
        "tenant": tenant.id.to_string(),
        "ca_pem": [tenant.ca_public().to_pem()],
        "ca_kid": hex(tenant.ca.public_key().kid().0),
        "decoded": {
            "signed": hex(&device.identity.chain[0]),
            "version": statement.version, "kind": u8::from(statement.kind), "serial": statement.serial.to_string(),
            "issuer": hex(statement.issuer.0), "tenant": statement.tenant.to_string(), "subject": hex(statement.subject),
            "keys": keys, "not_before": statement.not_before, "not_after": statement.not_after,
            "epoch": statement.epoch, "usages": 0, "constraints": hex(&statement.constraints), "critical": [], "extensions": [],
            "terms": {"technician": device.identity.terms().technician.to_string(), "technician_name": "alex", "device_name": "Alex's phone", "protection": 1},
        },
        "certificates": certificates(&mut tenant),
        "lists": lists(&mut tenant),
        "signed": signed_bodies(&mut tenant),
    })
}
