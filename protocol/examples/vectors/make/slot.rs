use gatepass_protocol::{
    enrol::DeviceRequest,
    ids::DeviceId,
    signed::{Signed, Unverified},
    slot::{Introduction, administrator::Answering, phone::Opened},
    statement::{KeyProtection, Purpose, Statement},
    testing::{NOW, Rng, Tenant},
    words::Words,
};
use rand_core::Rng as _;
use serde_json::{Value, json};

use super::hex;

/// One whole exchange, with what each end drew.
pub struct Scene {
    pub words: Words,
    pub tag: [u8; 4],
    pub messages: [Vec<u8>; 7],
    pub code: String,
    pub reply: String,
    pub ticket: String,
    pub introduction: Introduction,
}

/// What an end draws from its source, in this order.
fn drawn<const N: usize>(rng: &mut Rng) -> String {
    let mut bytes = [0; N];
    rng.fill_bytes(&mut bytes);
    hex(bytes)
}

pub fn scene() -> Scene {
    let (words, tag) = (Words::of([0xe2, 0xe0]), [0xa1, 0xb2, 0xc3, 0xd4]);
    let ticket = Tenant::new(600).ticket(Purpose::Phone, "https://gate.example");
    let statement = Unverified::<Statement>::decode(ticket.statement.clone()).unwrap();
    let request = DeviceRequest {
        ticket: statement.claimed().serial,
        device: DeviceId([2; 16]),
        keys: Vec::new(),
        device_name: "Alex's phone".into(),
        protection: KeyProtection::Hardware,
        time: NOW,
    };
    let request = Signed::sign(request, &ticket.key()).unwrap().bytes().clone();
    let introduction = Introduction { request, model: "Pixel 9".into(), platform: "Android 16".into() };

    let (mut a, mut b) = (Rng::new(601), Rng::new(602));
    let (phone, first) = Opened::new(&words, tag, &mut a);
    let (desk, second) = Answering::new(&words, tag, &first, &mut b).unwrap();
    let (phone, third) = phone.answered(&second, &mut a).unwrap();
    let (desk, fourth) = desk.promised(&third, &mut b).unwrap();
    let (phone, fifth) = phone.told(&fourth).unwrap();
    let desk = desk.revealed(&fifth).unwrap();
    let code = desk.code().to_owned();
    let phone = phone.typed(&code).unwrap();
    let reply = phone.reply().to_owned();
    let (_, sixth) = desk.replied(&reply, &ticket).unwrap();
    let (phone, got) = phone.ticket(&sixth).unwrap();
    let seventh = phone.introduce(&introduction);
    let messages = [first, second, third, fourth, fifth, sixth, seventh];
    Scene { words, tag, messages, code, reply, ticket: got.to_text(), introduction }
}

pub fn file() -> Value {
    let scene = scene();
    let (mut a, mut b) = (Rng::new(601), Rng::new(602));
    json!({
        "about": "A phone's enrolment by two words: CPace with its key confirmation, a code bound by a promise, and two sealed \
                  messages. A scalar is 64 bytes, little endian, modulo the group's order.",
        "words": scene.words.to_string(),
        "tenant_tag": hex(scene.tag),
        "phone_draws": {"sid": drawn::<16>(&mut a), "scalar": drawn::<64>(&mut a), "nonce": drawn::<32>(&mut a)},
        "administrator_draws": {"scalar": drawn::<64>(&mut b), "nonce": drawn::<32>(&mut b)},
        "messages": scene.messages.iter().map(hex).collect::<Vec<_>>(),
        "code": scene.code,
        "reply": scene.reply,
        "ticket": scene.ticket,
        "request": hex(&scene.introduction.request),
        "model": scene.introduction.model,
        "platform": scene.introduction.platform,
    })
}
