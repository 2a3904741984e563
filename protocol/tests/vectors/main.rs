//! The published vectors are what the code makes, and the code takes and refuses each of them as they say.
#![allow(clippy::unwrap_used)]

mod impostors;
mod lying_relay;
#[path = "../../examples/vectors/make/mod.rs"]
mod make;
mod oracle;

use bytes::Bytes;
use gatepass_protocol::{
    Code,
    channel::{Bulletin, Channel},
    enrol::{DeviceRequest, Ticket, fingerprint},
    event::Event,
    frame::{Frame, RelayAuth},
    ids::{ComputerId, TenantId},
    keys::{ChannelKey, OtpKey, PublicKey},
    log::{self, Entry, Frontier, Head, Proof},
    offline::{Challenge, ChallengeQr, CodeKey, Digits, Mode, Question},
    pairing::{agent, phone},
    policy::{AccountKind, Scenario},
    presence::Presence,
    qr::{QrError, QrPayload, tenant_tag},
    sealed,
    signed::Unverified,
    statement::Statement,
    testing::{NOW, Rng, chosen},
    trust::{Accepted, CaPublic, TrustStore},
    vault::{self, VaultError},
    wire,
};
use make::{approval, handshake::Scene};
use serde_json::Value;

fn file(name: &str) -> Value {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/vectors").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().unwrap()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no text {name} in {value}"))
}

fn bytes(value: &Value, name: &str) -> Bytes {
    make::handshake::unhex(text(value, name)).into()
}

fn array<const N: usize>(value: &Value, name: &str) -> [u8; N] {
    bytes(value, name)[..].try_into().unwrap()
}

fn chain(value: &Value, name: &str) -> Vec<Bytes> {
    list(value, name).iter().map(|link| make::handshake::unhex(link.as_str().unwrap()).into()).collect()
}

fn trust_of(file: &Value) -> TrustStore {
    let tenant: TenantId = text(file, "tenant").parse().unwrap();
    TrustStore::new(tenant, list(file, "ca_pem").iter().map(|pem| CaPublic::from_pem(pem.as_str().unwrap()).unwrap()))
}

#[test]
fn the_published_files_are_what_the_code_makes() {
    for (name, made) in make::all() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/vectors").join(name);
        let published = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            published == made,
            "{name} is out of date; run: cargo run -p gatepass-protocol --features testing --example vectors -- docs/vectors"
        );
    }
}

#[test]
fn a_qr_reads_as_published_and_a_damaged_one_is_refused() {
    let file = file("qr.json");
    for case in list(&file, "cases") {
        let qr = QrPayload::from_text(text(case, "text")).unwrap();
        assert_eq!(text(case, "text").len(), 88);
        assert_eq!(qr.to_bytes()[..], bytes(case, "bytes"));
        assert_eq!(qr.tenant_tag, tenant_tag(text(case, "tenant").parse().unwrap()));
        assert_eq!(qr.qs, array(case, "qs"));
        assert_eq!(qr.a_q, array(case, "a_q"));
        assert_eq!(qr.relay_idx, u16::try_from(case["relay_idx"].as_u64().unwrap()).unwrap());
        assert_eq!(qr.keys().rid().to_string(), text(case, "rid"));
        assert!(qr.keys().claim_is_good(&array(case, "claim_n"), &array(case, "claim_tag")));
        assert!(!qr.keys().claim_is_good(&array(case, "claim_tag"), &array(case, "claim_tag")));
    }
    for case in list(&file, "negative") {
        let error = match QrPayload::from_text(text(case, "text")).err().unwrap_or_else(|| panic!("taken: {case}")) {
            QrError::NotGatepass => "not_gatepass",
            QrError::Damaged => "damaged",
            QrError::Version(2) => "version",
            QrError::Suite(2) => "suite",
            other => panic!("{other}: {case}"),
        };
        assert_eq!(error, text(case, "expect"), "{case}");
    }
}

#[test]
fn a_spoiled_handshake_message_fails_in_the_one_generic_way() {
    for case in list(&file("handshake.json"), "negative") {
        let (spoiled, wire) = (text(case, "message"), bytes(case, "wire"));
        let on_the_wire = |name: &str, message: Vec<u8>| if name == spoiled { wire.to_vec() } else { message };
        let Scene { trust, phone: device, agent: identity, mut rng, offer, .. } = Scene::new(200);
        let scan = phone::Scan::from_text(&offer.text()).unwrap();
        let (n, tag) = scan.claim(&mut rng);
        let (phone, m1) = scan.start("vectors 1.0", &trust, &mut rng).unwrap();
        let claimed = offer.claim(&n, &tag, NOW).unwrap();
        let failure = match claimed.receive(&on_the_wire("M1", m1), &identity, &mut rng) {
            Err(failure) => failure,
            Ok((agent, m2)) => match phone.receive(&on_the_wire("M2", m2), &device.identity, &trust, NOW) {
                Err(failure) => failure,
                Ok((_, m3)) => agent.receive(&on_the_wire("M3", m3), &trust, NOW).err().unwrap(),
            },
        };
        assert_eq!((failure.code, failure.reply), (None, None), "{case}");
    }
}

#[test]
fn frames_and_channels_read_as_published() {
    let file = file("frames.json");
    let samples = make_samples();
    for (case, frame) in list(&file, "cases").iter().zip(&samples) {
        assert_eq!(frame.encode(), bytes(case, "bytes"), "{case}");
        assert_eq!(Frame::decode(&bytes(case, "bytes")).as_ref(), Ok(frame));
    }
    assert_eq!(list(&file, "cases").len(), 22);
    for case in list(&file, "negative") {
        let bytes = match case["zeros"].as_u64() {
            Some(zeros) => vec![0; usize::try_from(zeros).unwrap()],
            None => bytes(case, "bytes").to_vec(),
        };
        let error = Frame::decode(&bytes).err().unwrap_or_else(|| panic!("taken: {case}"));
        assert_eq!(error.code().name(), text(case, "expect"), "{case}");
    }
    for case in list(&file, "bulletins") {
        assert_eq!(Bulletin::decode(&bytes(case, "bytes")).unwrap().encode(), bytes(case, "bytes"));
    }
    for case in list(&file, "presence") {
        let presence = Presence::decode(&bytes(case, "bytes")).unwrap();
        let named = presence.online.len() + presence.offline.len();
        assert_eq!(named * 34, text(case, "online").len() + text(case, "offline").len());
        assert_eq!(presence.encode(), bytes(case, "bytes"));
    }
    for good in list(&file["channels"], "good") {
        assert!(good.as_str().unwrap().parse::<Channel>().is_ok());
    }
    for bad in list(&file["channels"], "bad") {
        assert!(bad.as_str().unwrap().parse::<Channel>().is_err(), "{bad}");
    }
}

fn make_samples() -> Vec<Frame> {
    make::frames::samples().into_iter().map(|(_, _, frame)| frame).collect()
}

#[test]
fn certificates_get_the_verdict_that_is_published() {
    let file = file("statements.json");
    for case in list(&file, "certificates") {
        let mut trust = trust_of(&file);
        for list in chain(case, "lists") {
            trust.accept(&list, NOW).unwrap();
        }
        let verdict = trust.certificate(&chain(case, "chain"), case["now"].as_u64().unwrap());
        assert_eq!(verdict.map_or_else(Code::name, |_| "ok"), text(case, "expect"), "{}", case["name"]);
    }
}

#[test]
fn lists_are_taken_in_order_and_never_back() {
    let file = file("statements.json");
    for case in list(&file, "lists") {
        let mut trust = trust_of(&file);
        for step in list(case, "steps") {
            let verdict = match trust.accept(&bytes(step, "list"), case["now"].as_u64().unwrap()) {
                Ok((_, Accepted::New)) => "new",
                Ok((_, Accepted::Known)) => "known",
                Err(code) => code.name(),
            };
            assert_eq!(verdict, text(step, "expect"), "{}", case["name"]);
        }
    }
}

#[test]
fn other_signed_bodies_verify_with_their_key_only() {
    let file = file("statements.json");
    let signed = &file["signed"];
    fn verified<B: gatepass_protocol::signed::Body>(case: &Value) -> B {
        let claimed = || Unverified::<B>::decode(bytes(case, "signed")).unwrap();
        assert!(claimed().verify(&PublicKey::Ed25519([9; 32])).is_err());
        claimed().verify(&PublicKey::Ed25519(array(case, "public"))).unwrap().into_body()
    }
    let auth: RelayAuth = verified(&signed["relay_auth"]);
    assert_eq!(auth.relay, text(&signed["relay_auth"], "relay"));
    let _: Event = verified(&signed["event"]);
    let request: DeviceRequest = verified(&signed["device_request"]);
    let case = &signed["device_request"];
    let again = Unverified::<DeviceRequest>::decode(bytes(case, "signed")).unwrap();
    let again = again.verify(&PublicKey::Ed25519(array(case, "public"))).unwrap();
    assert_eq!(fingerprint(&again), text(case, "fingerprint"));
    let ticket = Ticket::from_text(text(&signed["ticket"], "text")).unwrap();
    let statement = Unverified::<Statement>::decode(ticket.statement.clone()).unwrap();
    assert_eq!(statement.claimed().serial, request.ticket);
    // One label's signature is not another's.
    assert!(Unverified::<Event>::decode(bytes(case, "signed")).is_err());
}

/// What the real agent says to this M5.
fn verdict(case: &Value) -> String {
    let Scene { mut trust, agent: identity, .. } = Scene::new(approval::SEED);
    let question = Scene::new(approval::SEED).question();
    let (agent, mut phone, _) = approval::channel(Scene::new(approval::SEED));
    let (agent, m4) = agent.ask(question).unwrap();
    make::noise::open(&mut phone, &m4);
    let m5 = make::noise::seal(&mut phone, &make::noise::pad(5, &bytes(case, "m5"), padded(&bytes(case, "m5"))));
    for list in chain(case, "lists") {
        trust.accept(&list, NOW).unwrap();
    }
    match agent.receive(&m5, &identity, &trust, case["now"].as_u64().unwrap()) {
        Ok(agent::Verdict::Approved(_)) => "approved".into(),
        Ok(agent::Verdict::Denied { not_me: false }) => "denied".into(),
        Ok(agent::Verdict::Denied { not_me: true }) => "denied_not_me".into(),
        Err(failure) => {
            // The phone reads the same code.
            let reply = make::noise::open(&mut phone, &failure.reply.unwrap());
            assert_eq!(make::noise::body(&reply)[1], failure.code.unwrap().number());
            failure.code.unwrap().name().into()
        }
    }
}

fn padded(body: &[u8]) -> usize {
    [768, 1536, 3072, 6144].into_iter().find(|class| *class >= body.len() + 3).unwrap()
}

#[test]
fn each_decision_gets_the_verdict_that_is_published() {
    for case in list(&file("approval.json"), "cases") {
        assert_eq!(verdict(case), text(case, "expect"), "{}", case["name"]);
    }
}

#[test]
fn confirm_codes_are_as_published_and_typed_exactly() {
    let file = file("confirm.json");
    for case in list(&file, "cases") {
        let code = gatepass_protocol::testing::confirm_code(&array(case, "exporter"), &array(case, "h"));
        assert_eq!(code, text(case, "code"));
        assert_eq!(code.len(), 3);
    }
    let Scene { trust, phone: device, agent: identity, mut rng, offer, .. } = Scene::new(200);
    let question = Scene::new(200).question();
    let scan = phone::Scan::from_text(&offer.text()).unwrap();
    let (n, tag) = scan.claim(&mut rng);
    let (phone, m1) = scan.start("vectors 1.0", &trust, &mut rng).unwrap();
    let (agent, m2) = offer.claim(&n, &tag, NOW).unwrap().receive(&m1, &identity, &mut rng).unwrap();
    let (phone, m3) = phone.receive(&m2, &device.identity, &trust, NOW).unwrap();
    let (agent, m4) = agent.receive(&m3, &trust, NOW).unwrap().ask(question).unwrap();
    let (phone, m5) = phone.receive(&m4).unwrap().approve(&chosen(), &device.identity, &device.approve).ok().unwrap();
    let agent::Verdict::Approved(approved) = agent.receive(&m5, &identity, &trust, NOW).unwrap() else { panic!() };
    for case in list(&file, "typed") {
        let typed = text(case, "typed").replace("CODE", &phone.confirm_code());
        assert_eq!(approved.code_is_right(&typed), case["right"].as_bool().unwrap(), "{typed:?}");
    }
}

#[test]
fn sealed_messages_open_with_their_key_and_unchanged_only() {
    let file = file("sealed.json");
    for case in list(&file, "cases") {
        let key = ChannelKey::from_bytes(&array(case, "recipient_private"));
        assert_eq!(key.public_bytes(), array(case, "recipient"));
        assert_eq!(sealed::open(&key, &bytes(case, "sealed")).unwrap()[..], bytes(case, "message"));
    }
    for case in list(&file, "negative") {
        let key = ChannelKey::from_bytes(&array(case, "recipient_private"));
        assert!(sealed::open(&key, &bytes(case, "sealed")).is_err(), "{case}");
    }
    let key = ChannelKey::generate(&mut Rng::new(1)).public_bytes();
    assert!(sealed::seal(&key, &[0; 6142], &mut Rng::new(2)).is_err(), "too large");
    assert!(sealed::seal(&[0; 32], b"x", &mut Rng::new(2)).is_err(), "to a key that contributes nothing");
}

#[test]
fn vaults_open_with_their_password_and_unchanged_only() {
    let file = file("vault.json");
    let open = |case: &Value| vault::open(&case["vault"].to_string(), text(case, "password").as_bytes());
    for case in list(&file, "cases") {
        assert_eq!(open(case).unwrap()[..], bytes(case, "secret"));
    }
    for case in list(&file, "negative") {
        let error = match open(case).unwrap_err() {
            VaultError::NotAVault => "not_a_vault",
            VaultError::Parameters => "parameters",
            VaultError::WrongPassword => "wrong_password",
        };
        assert_eq!(error, text(case, "expect"), "{}", case["name"]);
    }
}

#[test]
fn the_exchange_of_an_enrolment_by_words_comes_out_message_by_message() {
    let file = file("slot.json");
    let scene = make::slot::scene();
    let messages: Vec<String> = list(&file, "messages").iter().map(|one| one.as_str().unwrap().to_owned()).collect();
    assert_eq!(messages, scene.messages.iter().map(make::hex).collect::<Vec<_>>());
    assert_eq!((scene.code.as_str(), scene.reply.as_str()), (text(&file, "code"), text(&file, "reply")));
    assert_eq!(scene.ticket, text(&file, "ticket"));
    assert_eq!(scene.words, text(&file, "words").parse().unwrap());
}

#[test]
fn the_decoded_statement_is_the_one_of_its_fields() {
    let file = file("statements.json");
    let decoded = &file["decoded"];
    let statement = Unverified::<Statement>::decode(bytes(decoded, "signed")).unwrap();
    let statement = statement.claimed();
    assert_eq!(statement.serial.to_string(), text(decoded, "serial"));
    assert_eq!(statement.constraints, bytes(decoded, "constraints"));
    assert_eq!(statement.not_after, decoded["not_after"].as_u64().unwrap());
    assert_eq!(wire::to_vec(statement)[..2], [0x9e, 1], "fourteen fields, version 1");
}

#[test]
fn the_published_offline_codes_are_taken_and_what_is_no_challenge_is_not() {
    let file = file("offline.json");
    let (trust, codes) = (trust_of(&file), &file["codes"]);
    let computer: ComputerId = text(&file, "computer").parse().unwrap();
    let device = trust.device(&chain(codes, "device_chain"), NOW).unwrap();
    let own = OtpKey::from_bytes(&array(codes, "computer_private")).unwrap();
    let key = CodeKey::of_agent(&own, &device, computer).unwrap();
    assert_eq!(key.bytes()[..], bytes(codes, "key"));
    for case in list(codes, "cases") {
        let number = |name: &str| case[name].as_u64().unwrap();
        let question = Question {
            mode: Mode::try_from(number("mode") as u8).unwrap(),
            number: number("number"),
            scenario: Scenario::try_from(number("scenario") as u8).unwrap(),
            kind: AccountKind::try_from(number("kind") as u8).unwrap(),
            account: text(case, "account").into(),
            groups: list(case, "groups").iter().map(|group| group.as_str().unwrap().into()).collect(),
            minutes: number("minutes") as u32,
        };
        let digits = if number("digits") == 10 { Digits::Ten } else { Digits::Eight };
        assert!(key.is_right(&question, digits, text(case, "code")), "{case}");
        assert_eq!(question.evidence()[..], bytes(case, "evidence"));
    }
    let challenges = &file["challenges"];
    for case in list(challenges, "good") {
        let challenge = Challenge::from_text(text(case, "text"), computer).unwrap();
        assert_eq!(challenge.bits(), case["bits"].as_u64().unwrap());
        let qr = ChallengeQr::from_text(text(case, "qr")).unwrap();
        assert_eq!((qr.bits, qr.account.as_str()), (challenge.bits(), text(case, "account")));
        assert!(qr.is_of(trust.tenant(), computer));
    }
    for case in list(challenges, "typed") {
        let taken = Challenge::from_text(text(case, "typed"), computer).is_ok();
        assert_eq!(taken, case["takes"].as_bool().unwrap(), "{case}");
    }
    for case in list(challenges, "no_qr") {
        assert!(ChallengeQr::from_text(text(case, "text")).is_err(), "{case}");
    }
}

#[test]
fn the_published_log_grows_as_it_says_and_is_proved() {
    let file = file("log.json");
    let number = |value: &Value, name: &str| value[name].as_u64().unwrap();
    let (mut frontier, mut leaves) = (Frontier::default(), Vec::new());
    let roots: Vec<[u8; 32]> = list(&file, "roots").iter().map(|root| array(root, "root")).collect();
    assert_eq!(frontier.root(), roots[0]);
    for (case, root) in list(&file, "entries").iter().zip(&roots[1..]) {
        let entry: Entry = wire::from_slice(&bytes(case, "entry")).unwrap();
        assert_eq!((entry.received, entry.event.clone()), (number(case, "received"), bytes(case, "event").to_vec()));
        assert_eq!((entry.leaf(), log::leaf(&bytes(case, "entry"))), (array(case, "leaf"), array(case, "leaf")));
        leaves.push(entry.leaf());
        frontier.push(entry.leaf(), |_, _, _| {});
        assert_eq!(frontier.root(), *root);
    }
    for case in list(&file, "inclusion") {
        let (index, size) = (number(case, "index"), number(case, "size"));
        let proof = Proof::from_bytes(&bytes(case, "proof")).unwrap();
        proof.includes(&leaves[index as usize], index, size, &roots[size as usize]).unwrap();
    }
    for case in list(&file, "consistency") {
        let (old, new) = (number(case, "old"), number(case, "new"));
        let proof = Proof::from_bytes(&bytes(case, "proof")).unwrap();
        proof.continues((old, &roots[old as usize]), (new, &roots[new as usize])).unwrap();
        let begun = Frontier::new(old, Proof::from_bytes(&bytes(case, "frontier_of_old")).unwrap()).unwrap();
        assert_eq!(begun.root(), roots[old as usize]);
    }
    let key = PublicKey::Ed25519(array(&file["head"], "log_key"));
    let head = Unverified::<Head>::decode(bytes(&file["head"], "signed")).unwrap().verify(&key).unwrap().into_body();
    assert_eq!((head.size, head.root), (7, roots[7]));
}
