use bytes::Bytes;
use gatepass_protocol::{
    ids::{GrantId, Serial},
    keys::ChannelKey,
    order::{GrantView, Letter, Order, Report},
    policy::Scenario,
    sealed,
    signed::Signed,
    testing::{NOW, Rng, Tenant},
};
use rand_core::Rng as _;
use serde_json::{Value, json};

use super::{hex, noise};

fn case(name: &str, recipient: &ChannelKey, message: &[u8], rng: &mut Rng) -> (Value, Vec<u8>) {
    let mut e = [0; 32];
    rng.clone().fill_bytes(&mut e);
    let wire = sealed::seal(&recipient.public_bytes(), message, rng).unwrap();
    let value = json!({
        "name": name, "recipient_private": hex(*recipient.to_bytes()), "recipient": hex(recipient.public_bytes()),
        "e_private": hex(e), "message": hex(message), "sealed": hex(&wire),
    });
    (value, wire)
}

/// Sealed by snow, with padding that ours would not make.
fn sealed_as(recipient: &ChannelKey, padded: &[u8]) -> Vec<u8> {
    let mut state = snow::Builder::new("Noise_N_25519_ChaChaPoly_SHA256".parse().unwrap())
        .prologue(b"gp1 sealed")
        .unwrap()
        .remote_public_key(&recipient.public_bytes())
        .unwrap()
        .fixed_ephemeral_key_for_testing_only(&[0x77; 32])
        .build_initiator()
        .unwrap();
    noise::write(&mut state, padded)
}

pub fn file() -> Value {
    let mut tenant = Tenant::new(400);
    let (phone, agent) = (tenant.phone(1), tenant.computer());
    let mut rng = Rng::new(401);
    let order = Order { computer: agent.computer(), nonce: [8; 16], time: NOW, end: Some(GrantId([3; 16])) };
    let order = Signed::sign(order, &phone.identity.sign).unwrap();
    let letter = Letter { chain: phone.identity.chain.clone(), signed: order.bytes().clone() };
    let report = Report {
        device: gatepass_protocol::ids::DeviceId(phone.identity.statement().subject),
        answers: Some(Serial([8; 16])),
        time: NOW + 1,
        grants: vec![GrantView {
            grant: GrantId([3; 16]),
            account: "gp-alex".into(),
            groups: vec!["sudo".into()],
            scenario: Scenario::Ssh,
            since: NOW,
            until: NOW + 1800,
            sessions: 1,
        }],
        receipts: vec![Bytes::from_static(b"a receipt")],
    };
    let report = Signed::sign(report, &agent.sign).unwrap();
    let answer = Letter { chain: agent.chain.clone(), signed: report.bytes().clone() };

    let recipient = &agent.channel;
    let (first, wire) = case("three bytes", recipient, b"abc", &mut rng);
    let cases = [
        first,
        case("nothing", recipient, b"", &mut rng).0,
        case("the largest", recipient, &[0x55; 6141], &mut rng).0,
        case("an order in its letter", recipient, &letter.encode(), &mut rng).0,
        case("a report in its letter", &phone.identity.channel, &answer.encode(), &mut rng).0,
    ];
    let with = |change: fn(&mut Vec<u8>)| {
        let mut bytes = wire.clone();
        change(&mut bytes);
        hex(bytes)
    };
    let mut dirty = noise::pad(8, b"abc", 768);
    dirty[700] = 1;
    let mut beyond = noise::pad(8, b"abc", 768);
    beyond[1] = 0xff;
    let not_sealed = "not_sealed";
    let private = hex(*recipient.to_bytes());
    let negative = json!([
        {"name": "empty", "recipient_private": private, "sealed": "", "expect": not_sealed},
        {"name": "cut", "recipient_private": private, "sealed": with(|wire| { wire.pop(); }), "expect": not_sealed},
        {"name": "a bit of e flipped", "recipient_private": private, "sealed": with(|wire| wire[3] ^= 2), "expect": not_sealed},
        {"name": "a bit of the payload flipped", "recipient_private": private, "sealed": with(|wire| wire[99] ^= 2), "expect": not_sealed},
        {"name": "e is the all-zero point", "recipient_private": private, "sealed": with(|wire| wire[..32].fill(0)), "expect": not_sealed},
        {"name": "another's key", "recipient_private": hex(*phone.identity.channel.to_bytes()), "sealed": hex(&wire), "expect": not_sealed},
        {"name": "a length that is no class", "recipient_private": private, "sealed": hex(sealed_as(recipient, &noise::pad(8, b"abc", 700))), "expect": not_sealed},
        {"name": "a class too large", "recipient_private": private, "sealed": hex(sealed_as(recipient, &noise::pad(8, b"abc", 1536))), "expect": not_sealed},
        {"name": "padding that is not zero", "recipient_private": private, "sealed": hex(sealed_as(recipient, &dirty)), "expect": not_sealed},
        {"name": "a length beyond the end", "recipient_private": private, "sealed": hex(sealed_as(recipient, &beyond)), "expect": not_sealed},
        {"name": "another type", "recipient_private": private, "sealed": hex(sealed_as(recipient, &noise::pad(7, b"abc", 768))), "expect": not_sealed},
    ]);
    json!({
        "about": "Messages sealed to one key: Noise_N_25519_ChaChaPoly_SHA256, prologue \"gp1 sealed\", one padded payload.",
        "cases": cases,
        "negative": negative,
    })
}
