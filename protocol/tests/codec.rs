//! What is encoded decodes to the same; nothing else decodes to it; and no bytes make a decoder panic.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use gatepass_protocol::{
    Code,
    channel::Bulletin,
    directory::DirectoryRequest,
    enrol::{DeviceRequest, Ticket},
    event::{Event, EventKind},
    frame::{Frame, Place, RelayAuth},
    ids::*,
    keys::{ChannelKey, PublicKey, Signer, SigningKey},
    order::*,
    pairing::{messages::*, padding},
    policy::{AccountKind, Choice, Policy, Rule, Scenario},
    presence::{Presence, Span, Who},
    qr::QrPayload,
    sealed,
    signed::{Body, Signed, Unverified},
    statement::*,
    testing::{Rng, SoftKey, Tenant},
    trust::CaPublic,
    vault, wire,
};
use proptest::{collection::vec, option, prelude::*};
use serde::{Serialize, de::DeserializeOwned};

fn id() -> impl Strategy<Value = [u8; 16]> + Clone {
    any::<[u8; 16]>()
}

fn blob(most: usize) -> impl Strategy<Value = Bytes> + Clone {
    vec(any::<u8>(), 0..most).prop_map(Bytes::from)
}

fn words() -> impl Strategy<Value = String> + Clone {
    "\\PC{0,40}"
}

fn place() -> impl Strategy<Value = Place> + Clone {
    any::<(u64, u64)>().prop_map(|(epoch, offset)| Place { epoch, offset })
}

fn texts() -> impl Strategy<Value = Vec<String>> + Clone {
    vec(words(), 0..4)
}

fn one<T: Clone + std::fmt::Debug + 'static>(all: &'static [T]) -> impl Strategy<Value = T> + Clone {
    proptest::sample::select(all)
}

fn frame() -> impl Strategy<Value = Frame> {
    let rid = || id().prop_map(Rid);
    prop_oneof![
        (any::<[u8; 32]>(), any::<u64>()).prop_map(|(nonce, server_time)| Frame::Challenge { nonce, server_time }),
        (blob(300), vec(blob(600), 0..3)).prop_map(|(proof, chain)| Frame::Auth { proof, chain }),
        (blob(300), any::<[u8; 32]>()).prop_map(|(ticket, secret)| Frame::Ticket { ticket, secret }),
        (blob(300), ".{0,40}", any::<[u8; 32]>()).prop_map(|(ticket, relay, mac)| Frame::Return { ticket, relay, mac }),
        any::<(u64, u64)>().prop_map(|(connection, server_time)| Frame::Welcome { connection, server_time }),
        (rid(), any::<u32>()).prop_map(|(rid, ttl)| Frame::Open { rid, ttl }),
        (rid(), any::<[u8; 32]>()).prop_map(|(rid, token)| Frame::Opened { rid, token }),
        (rid(), id(), id()).prop_map(|(rid, n, tag)| Frame::Claim { rid, n, tag }),
        (rid(), any::<[u8; 32]>()).prop_map(|(rid, token)| Frame::Claimed { rid, token }),
        (rid(), any::<u32>(), any::<u32>(), blob(6200)).prop_map(|(rid, seq, ack, bytes)| Frame::Forward {
            rid,
            seq,
            ack,
            bytes
        }),
        (rid(), any::<[u8; 32]>(), any::<u32>()).prop_map(|(rid, token, last_seq)| Frame::Resume {
            rid,
            token,
            last_seq
        }),
        (rid(), any::<u32>()).prop_map(|(rid, last_seq)| Frame::Resumed { rid, last_seq }),
        (words(), option::of(place())).prop_map(|(channel, since)| Frame::Subscribe { channel, since }),
        (words(), place(), any::<bool>(), any::<u32>()).prop_map(|(channel, place, complete, following)| {
            Frame::Subscribed { channel, place, complete, following }
        }),
        (any::<u32>(), words(), blob(6200)).prop_map(|(id, channel, bytes)| Frame::Publish { id, channel, bytes }),
        any::<(u32, u32)>().prop_map(|(id, delivered)| Frame::Ack { id, delivered }),
        (words(), any::<u64>(), blob(7200)).prop_map(|(channel, offset, bytes)| Frame::Message {
            channel,
            offset,
            bytes
        }),
        words().prop_map(|channel| Frame::Unsubscribe { channel }),
        rid().prop_map(|rid| Frame::Close { rid }),
        (one(Code::ALL), option::of(rid()), option::of(any::<u32>()), words())
            .prop_map(|(code, rid, id, text)| Frame::Err { code, rid, id, text }),
        (any::<u32>(), option::of(words())).prop_map(|(after_ms, url)| Frame::Drain { after_ms, url }),
        (rid(), any::<u32>()).prop_map(|(rid, ack)| Frame::ForwardAck { rid, ack }),
    ]
}

fn public_key() -> impl Strategy<Value = PublicKey> + Clone {
    prop_oneof![
        any::<[u8; 32]>().prop_map(PublicKey::Ed25519),
        any::<[u8; 32]>().prop_map(PublicKey::X25519),
        vec(any::<u8>(), 65).prop_map(|key| PublicKey::P256(key.try_into().unwrap())),
    ]
}

fn keys() -> impl Strategy<Value = Vec<CertifiedKey>> + Clone {
    let key_use = one(KeyUse::ALL);
    vec((key_use, public_key()).prop_map(|(key_use, key)| CertifiedKey { key_use, key }), 0..4)
}

fn extensions() -> impl Strategy<Value = Vec<Extension>> + Clone {
    vec((any::<u16>(), blob(20)).prop_map(|(id, value)| Extension { id, value }), 0..3)
}

fn statement() -> impl Strategy<Value = Statement> {
    let kind =
        one(&[Kind::Device, Kind::Agent, Kind::Ticket, Kind::Policy, Kind::Revocation, Kind::Relays, Kind::Revoker]);
    let who = (any::<u8>(), kind, id(), any::<[u8; 8]>(), id(), id(), keys());
    let rest = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u32>(), blob(200), extensions(), extensions());
    (who, rest).prop_map(
        |(
            (version, kind, serial, issuer, tenant, subject, keys),
            (not_before, not_after, epoch, usages, constraints, critical, extensions),
        )| Statement {
            version,
            kind,
            serial: Serial(serial),
            issuer: gatepass_protocol::keys::Kid(issuer),
            tenant: TenantId(tenant),
            subject,
            keys,
            not_before,
            not_after,
            epoch,
            usages,
            constraints,
            critical,
            extensions,
        },
    )
}

fn choice() -> impl Strategy<Value = Choice> + Clone {
    (vec(one(AccountKind::ALL), 0..4), texts(), any::<u32>(), any::<bool>(), any::<bool>()).prop_map(
        |(accounts, groups, max_minutes, confirm, reason)| Choice { accounts, groups, max_minutes, confirm, reason },
    )
}

fn policy() -> impl Strategy<Value = Policy> {
    let rule = (
        words(),
        vec(id().prop_map(TechnicianId), 0..3),
        vec(id().prop_map(ComputerId), 0..3),
        texts(),
        vec(one(Scenario::ALL), 0..6),
        choice(),
    )
        .prop_map(|(name, technicians, computers, tags, scenarios, choice)| Rule {
            name,
            technicians,
            computers,
            tags,
            scenarios,
            choice,
        });
    (any::<u32>(), any::<bool>(), any::<bool>(), any::<u32>(), vec(rule, 0..4)).prop_map(
        |(default_minutes, software_keys, delete_on_end, idle_days, rules)| Policy {
            default_minutes,
            software_keys,
            delete_on_end,
            idle_days,
            rules,
        },
    )
}

fn context() -> impl Strategy<Value = Context> {
    let machine = (id(), words(), words(), words()).prop_map(|(computer, host, os, agent)| MachineCard {
        computer: ComputerId(computer),
        host,
        os,
        agent,
    });
    let request = (words(), words(), words(), words(), words(), words())
        .prop_map(|(service, user, target, from, tty, command)| Request { service, user, target, from, tty, command });
    let accounts = vec((one(AccountKind::ALL), words()), 0..4);
    (
        (machine, one(Scenario::ALL), request, vec(choice(), 0..3), accounts),
        (any::<u32>(), id(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<[u8; 32]>()),
    )
        .prop_map(
            |(
                (machine, scenario, request, choices, accounts),
                (default_minutes, nonce, time, expires, policy_epoch, revocation_epoch, audit_root),
            )| Context {
                machine,
                scenario,
                request,
                choices,
                accounts,
                default_minutes,
                nonce,
                time,
                expires,
                policy_epoch,
                revocation_epoch,
                audit_root,
            },
        )
}

fn approval() -> impl Strategy<Value = Approval> {
    let ids = (id(), id(), id(), id(), id());
    let hashes = (any::<[u8; 32]>(), any::<[u8; 32]>(), id(), any::<[u8; 32]>());
    let choice = (one(AccountKind::ALL), words(), texts(), words());
    let modes = (
        one(&[ConfirmMode::Off, ConfirmMode::AtComputer, ConfirmMode::OnPhone]),
        one(&[Verification::Pin, Verification::Biometric]),
        one(&[KeyProtection::Software, KeyProtection::Hardware]),
    );
    (any::<(u8, u8, u64, u32, u32, u64)>(), ids, hashes, choice, modes).prop_map(
        |(
            (version, decision, not_after, max_session, confirm_value, revocation_epoch),
            (tenant, agent, computer, device, technician),
            (h_final, context, nonce, reason),
            (kind, account, groups, ou),
            (confirm, verification, protection),
        )| Approval {
            version,
            decision,
            h_final,
            context,
            tenant: TenantId(tenant),
            agent: Serial(agent),
            computer: ComputerId(computer),
            device: Serial(device),
            technician: TechnicianId(technician),
            kind,
            account,
            groups,
            ou,
            not_after,
            max_session,
            nonce,
            confirm,
            confirm_value,
            revocation_epoch,
            verification,
            protection,
            reason,
        },
    )
}

fn receipt() -> impl Strategy<Value = Receipt> {
    let ids = (id(), id(), id(), id(), id());
    let what = (one(Scenario::ALL), one(AccountKind::ALL), words(), texts(), one(EndReason::ALL));
    (ids, what, any::<(u64, u64, bool, bool, bool, bool)>(), any::<[u8; 32]>()).prop_map(
        |(
            (tenant, computer, grant, technician, device),
            (scenario, kind, account, groups, reason),
            (since, ended, disabled, groups_stripped, password_rotated, sessions_ended),
            approval,
        )| Receipt {
            tenant: TenantId(tenant),
            computer: ComputerId(computer),
            grant: GrantId(grant),
            technician: TechnicianId(technician),
            device: Serial(device),
            scenario,
            kind,
            account,
            groups,
            since,
            ended,
            reason,
            verified: Verified { disabled, groups_stripped, password_rotated, sessions_ended },
            approval,
        },
    )
}

fn report() -> impl Strategy<Value = Report> {
    let grant = (id(), words(), texts(), one(Scenario::ALL), any::<(u64, u64, u32)>()).prop_map(
        |(grant, account, groups, scenario, (since, until, sessions))| GrantView {
            grant: GrantId(grant),
            account,
            groups,
            scenario,
            since,
            until,
            sessions,
        },
    );
    (id(), option::of(id()), any::<u64>(), vec(grant, 0..4), vec(blob(200), 0..4)).prop_map(
        |(device, answers, time, grants, receipts)| Report {
            device: DeviceId(device),
            answers: answers.map(Serial),
            time,
            grants,
            receipts,
        },
    )
}

fn event() -> impl Strategy<Value = Event> {
    let about = (option::of(id()), option::of(id()), option::of(id()), option::of(one(Scenario::ALL)));
    let rest = (words(), option::of(one(Code::ALL)), blob(33), any::<u64>(), words());
    ((id(), id(), any::<u64>(), any::<u64>(), one(EventKind::ALL)), about, rest).prop_map(
        |(
            (tenant, computer, sequence, time, kind),
            (technician, device, grant, scenario),
            (account, code, evidence, policy_epoch, text),
        )| Event {
            tenant: TenantId(tenant),
            computer: ComputerId(computer),
            sequence,
            time,
            kind,
            technician: technician.map(TechnicianId),
            device: device.map(Serial),
            grant: grant.map(GrantId),
            scenario,
            account,
            code,
            evidence: evidence.to_vec(),
            policy_epoch,
            text,
        },
    )
}

fn same<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T) {
    let bytes = wire::to_vec(value);
    assert_eq!(wire::from_slice::<T>(&bytes).as_ref(), Ok(value));
    let longer = [&bytes[..], &[0xc0]].concat();
    assert!(wire::from_slice::<T>(&longer).is_err(), "a byte more");
    assert!(wire::from_slice::<T>(&bytes[..bytes.len() - 1]).is_err(), "a byte less");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn every_frame_reads_back(frame in frame()) {
        let bytes = frame.encode();
        prop_assert_eq!(Frame::decode(&bytes), Ok(frame));
    }

    #[test]
    fn a_changed_frame_is_another_frame_or_none(frame in frame(), at in any::<usize>(), bit in 0u8..8) {
        let mut bytes = frame.encode();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        prop_assert_ne!(Frame::decode(&bytes), Ok(frame));
    }

    #[test]
    fn every_statement_and_its_terms_read_back(statement in statement(), policy in policy()) {
        same(&statement);
        same(&policy);
    }

    #[test]
    fn every_other_terms_read_back(
        names in (words(), words(), words()), tags in texts(), id in id(), numbers in any::<(u32, u64, u64, u64, u16)>(),
        serials in vec(id(), 0..9),
    ) {
        let (a, b, c) = names;
        let (uses, first, second, third, index) = numbers;
        same(&DeviceTerms { technician: TechnicianId(id), technician_name: a.clone(), device_name: b.clone(), protection: KeyProtection::Hardware });
        same(&AgentTerms { computer: a.clone(), domain: b, os: c, tags: tags.clone() });
        same(&TicketTerms { purpose: Purpose::Phone, uses, tags, certificates_until: first });
        same(&RevocationTerms { issued: first, next_update: second, min_epoch: third, revoked: serials.into_iter().map(Serial).collect() });
        same(&RelayTerms { relays: vec![RelayEntry { index, url: a }] });
    }

    #[test]
    fn every_message_of_a_pairing_reads_back(
        versions in vec(any::<u8>(), 0..5), app in words(), epoch in any::<u64>(), chain in vec(blob(400), 0..3), signature in vec(any::<u8>(), 64),
        context in context(), not_me in any::<bool>(), approval in option::of(blob(600)), grant in id(), code in one(Code::ALL),
    ) {
        same(&Hello { suites: versions.clone(), versions, app: app.clone(), revocation_epoch: epoch });
        same(&AgentHello { chain: chain.clone(), signature: signature.try_into().unwrap() });
        same(&DeviceHello { chain, revocation_epoch: epoch });
        same(&context);
        same(&Decision { approval: approval.clone(), not_me, reason: app.clone(), ticket: app.clone() });
        same(&Outcome::Granted { grant: GrantId(grant), account: app, until: epoch });
        same(&Outcome::Refused(code));
        same(&Ending { receipt: approval });
    }

    #[test]
    fn every_signed_body_reads_back(approval in approval(), receipt in receipt(), report in report(), event in event(), id in id(), end in option::of(id()), keys in keys(), text in words()) {
        same(&approval);
        same(&receipt);
        same(&report);
        same(&event);
        same(&Order { computer: ComputerId(id), nonce: id, time: 1, end: end.map(GrantId) });
        same(&DeviceRequest { ticket: Serial(id), device: DeviceId(id), keys, device_name: text.clone(), protection: KeyProtection::Software, time: 2 });
        same(&RelayAuth { nonce: [1; 32], relay: text, time: 3 });
        same(&DirectoryRequest { tenant: TenantId(id), subject: id, time: 4, since: 5, after: id });
    }

    #[test]
    fn letters_and_bulletins_read_back(chain in vec(blob(400), 0..3), signed in blob(900), epoch in any::<u64>()) {
        same(&Letter { chain, signed: signed.clone() });
        same(&Bulletin::new(Kind::Relays, epoch, signed));
    }

    #[test]
    fn who_is_online_reads_back(online in vec((any::<bool>(), id()), 0..20), offline in vec((any::<bool>(), id()), 0..20), span in option::of((id(), id()))) {
        let who = |(computer, id)| if computer { Who::Computer(ComputerId(id)) } else { Who::Device(DeviceId(id)) };
        let [online, offline] = [online, offline].map(|some| some.into_iter().map(who).collect());
        let whole = span.map(|(after, upto)| Span { after: who((true, after)).into(), upto: who((false, upto)).into() });
        same(&Presence { whole, online, offline });
    }

    #[test]
    fn a_qr_reads_back_and_a_changed_one_is_another_or_none(relay in any::<u16>(), tag in any::<[u8; 4]>(), qs in any::<[u8; 16]>(), a_q in any::<[u8; 32]>(), at in 0usize..88, with in any::<char>()) {
        let qr = QrPayload { relay_idx: relay, tenant_tag: tag, qs, a_q };
        let text = qr.to_text();
        prop_assert_eq!(text.len(), 88);
        prop_assert!(text.bytes().all(|byte| b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:".contains(&byte)));
        prop_assert!(QrPayload::from_text(&text) == Ok(qr.clone()));
        let mut changed: Vec<char> = text.chars().collect();
        changed[at] = with;
        let changed: String = changed.into_iter().collect();
        prop_assume!(changed != text);
        // A line's own end is the one thing that may be taken off.
        if changed.trim_end_matches(['\r', '\n']) != text {
            prop_assert!(QrPayload::from_text(&changed) != Ok(qr));
        }
    }

    #[test]
    fn padding_tells_type_and_class_only(kind in 1u8..=9, body in vec(any::<u8>(), 0..6141)) {
        use padding::Type::*;
        let kind = [Hello, AgentIdentity, DeviceIdentity, Context, Decision, Outcome, End, Sealed, Refusal][usize::from(kind) - 1];
        let padded = padding::pad(kind, &body).unwrap();
        prop_assert!(padding::CLASSES.contains(&padded.len()));
        let silent = padding::pad(kind, &vec![0; body.len()]).unwrap();
        prop_assert_eq!(padded.len(), silent.len(), "whatever the body says");
        prop_assert_eq!(padding::unpad(kind, &padded).unwrap(), &body[..]);
        for other in [Hello, AgentIdentity, DeviceIdentity, Context, Decision, Outcome, End, Sealed, Refusal] {
            prop_assert!(other == kind || padding::unpad(other, &padded).is_err());
        }
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in vec(any::<u8>(), 0..400), text in "\\PC{0,120}") {
        every_decoder(&bytes);
        let _ = QrPayload::from_text(&text);
        let _ = QrPayload::from_text(&format!("GP1:{text}"));
        let _ = Ticket::from_text(&format!("GPT1:{text}"));
        let _ = CaPublic::from_pem(&text);
        let _ = vault::name(&text);
        let _ = text.parse::<gatepass_protocol::channel::Channel>();
    }

    #[test]
    fn nearly_right_bytes_make_no_decoder_panic(context in context(), approval in approval(), at in any::<usize>(), byte in any::<u8>()) {
        for mut bytes in [wire::to_vec(&context), wire::to_vec(&approval)] {
            let at = at % bytes.len();
            bytes[at] = byte;
            every_decoder(&bytes);
        }
    }
}

fn every_decoder(bytes: &[u8]) {
    let _ = Frame::decode(bytes);
    let _ = Bulletin::decode(bytes);
    let _ = Presence::decode(bytes);
    let _ = Letter::decode(bytes);
    let _ = wire::from_slice::<Statement>(bytes);
    let _ = wire::from_slice::<Policy>(bytes);
    let _ = wire::from_slice::<Context>(bytes);
    let _ = wire::from_slice::<Decision>(bytes);
    let _ = wire::from_slice::<Outcome>(bytes);
    let _ = wire::from_slice::<Ending>(bytes);
    let _ = wire::from_slice::<Hello>(bytes);
    let _ = wire::from_slice::<AgentHello>(bytes);
    let _ = wire::from_slice::<DeviceHello>(bytes);
    let _ = wire::from_slice::<Ticket>(bytes);
    let owned = Bytes::copy_from_slice(bytes);
    let _ = Unverified::<Statement>::decode(owned.clone());
    let _ = Unverified::<Approval>::decode(owned.clone());
    let _ = Unverified::<Report>::decode(owned.clone());
    let _ = Unverified::<Event>::decode(owned);
    let _ = sealed::open(&ChannelKey::from_bytes(&[1; 32]), bytes);
    let _ = QrPayload::from_bytes(bytes);
    for kind in [padding::Type::Hello, padding::Type::Sealed, padding::Type::Context] {
        let _ = padding::unpad(kind, bytes);
    }
}

/// Flips each bit of signed bytes; nothing that comes out may verify.
fn no_flip_verifies<B: Body>(signed: &[u8], key: &PublicKey) {
    assert!(Unverified::<B>::decode(signed.to_vec()).unwrap().verify(key).is_ok());
    for at in 0..signed.len() * 8 {
        let mut changed = signed.to_vec();
        changed[at / 8] ^= 1 << (at % 8);
        let taken = Unverified::<B>::decode(changed).ok().and_then(|unverified| unverified.verify(key).ok());
        assert!(taken.is_none(), "bit {at} was flipped and verified");
    }
}

#[test]
fn no_flipped_bit_of_a_signed_body_verifies() {
    let mut tenant = Tenant::new(3);
    let phone = tenant.phone(1);
    no_flip_verifies::<Statement>(&phone.identity.chain[0], &tenant.ca.public_key());
    let key = SoftKey::generate(&mut Rng::new(4));
    let approval = approval().new_tree(&mut proptest::test_runner::TestRunner::deterministic()).unwrap();
    let signed = Signed::sign(proptest::strategy::ValueTree::current(&approval), &key).unwrap();
    no_flip_verifies::<Approval>(signed.bytes(), &key.public_key());
}

#[test]
fn no_flipped_bit_of_a_sealed_message_opens() {
    let mut rng = Rng::new(5);
    let key = ChannelKey::generate(&mut rng);
    let wire = sealed::seal(&key.public_bytes(), b"end it", &mut rng).unwrap();
    for at in 0..wire.len() * 8 {
        let mut changed = wire.clone();
        changed[at / 8] ^= 1 << (at % 8);
        // X25519 ignores the highest bit of a point, but the point is hashed as it came.
        assert!(sealed::open(&key, &changed).is_err(), "bit {at} was flipped and opened");
    }
}

#[test]
fn no_flipped_bit_of_a_vault_opens_to_the_secret() {
    let text = vault::seal("a key", b"password", b"secret", &mut Rng::new(6)).unwrap();
    // One bit of each byte would take a minute of Argon2id; of the sealed and derived parts, each seventh byte.
    let header = text.find("\"salt\"").unwrap();
    for at in (0..header).filter(|at| at % 3 == 0).chain((header..text.len()).filter(|at| at % 7 == 0)) {
        let mut changed = text.clone().into_bytes();
        changed[at] ^= 1 << (at % 5);
        let Ok(changed) = String::from_utf8(changed) else { continue };
        assert!(vault::open(&changed, b"password").is_err(), "byte {at} was changed and the vault opened: {changed}");
    }
}

#[test]
fn a_ticket_reads_back_and_a_changed_one_is_another_or_none() {
    let ticket = Tenant::new(8).ticket(Purpose::Agent, "https://gatepass.example.org");
    let text = ticket.to_text();
    assert_eq!(Ticket::from_text(&format!(" {text}\n")).unwrap().to_text(), text);
    assert_eq!(SigningKey::from_seed(&ticket.seed).public_key(), ticket.key().public_key());
    for at in 5..text.len() {
        let mut changed = text.clone().into_bytes();
        changed[at] ^= 1;
        let changed = String::from_utf8(changed).unwrap();
        assert!(Ticket::from_text(&changed).is_err() || Ticket::from_text(&changed).unwrap().to_text() != text);
    }
}
