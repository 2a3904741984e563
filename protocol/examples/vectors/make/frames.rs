use bytes::Bytes;
use gatepass_protocol::{
    Code,
    channel::{Bulletin, Channel},
    frame::{Frame, MAX_FRAME, Place, return_mac},
    ids::{ComputerId, DeviceId, Rid, TenantId},
    presence::{Key, Presence, Span, Who},
    statement::Kind,
};
use serde_json::{Value, json};

use super::hex;

/// One of each frame, with what it says.
pub fn samples() -> Vec<(&'static str, Value, Frame)> {
    let rid = Rid(*b"0123456789abcdef");
    let rid_hex = rid.to_string();
    let (token, nonce) = ([0xa5; 32], [0x11; 32]);
    let bytes = Bytes::from_static(b"\x01\x02\x03");
    let computer = Channel::Computer(ComputerId([0xc0; 16])).to_string();
    let device = Channel::Device(DeviceId([0xde; 16])).to_string();
    let tenant = Channel::Tenant(TenantId([0x7e; 16])).to_string();
    vec![
        ("CHALLENGE", json!([hex(nonce), 1_800_000_000]), Frame::Challenge { nonce, server_time: 1_800_000_000 }),
        (
            "AUTH",
            json!(["010203", ["aabb", "ccdd"]]),
            Frame::Auth {
                proof: bytes.clone(),
                chain: vec![Bytes::from_static(&[0xaa, 0xbb]), Bytes::from_static(&[0xcc, 0xdd])],
            },
        ),
        ("WELCOME", json!([70_000, 1_800_000_000]), Frame::Welcome { connection: 70_000, server_time: 1_800_000_000 }),
        ("OPEN", json!([rid_hex, 60]), Frame::Open { rid, ttl: 60 }),
        ("OPENED", json!([rid_hex, hex(token)]), Frame::Opened { rid, token }),
        ("CLAIM", json!([rid_hex, hex([1; 16]), hex([2; 16])]), Frame::Claim { rid, n: [1; 16], tag: [2; 16] }),
        ("CLAIMED", json!([rid_hex, hex(token)]), Frame::Claimed { rid, token }),
        ("FWD", json!([rid_hex, 1, 0, "010203"]), Frame::Forward { rid, seq: 1, ack: 0, bytes: bytes.clone() }),
        ("RESUME", json!([rid_hex, hex(token), 300]), Frame::Resume { rid, token, last_seq: 300 }),
        ("RESUMED", json!([rid_hex, 2]), Frame::Resumed { rid, last_seq: 2 }),
        (
            "SUBSCRIBE",
            json!([tenant, [9, 126]]),
            Frame::Subscribe { channel: tenant.clone(), since: Some(Place { epoch: 9, offset: 126 }) },
        ),
        (
            "SUBSCRIBED",
            json!([tenant, [9, 128], true, 2]),
            Frame::Subscribed {
                channel: tenant.clone(),
                place: Place { epoch: 9, offset: 128 },
                complete: true,
                following: 2,
            },
        ),
        ("PUBLISH", json!([7, device, "010203"]), Frame::Publish { id: 7, channel: device, bytes: bytes.clone() }),
        ("ACK", json!([7, 1]), Frame::Ack { id: 7, delivered: 1 }),
        ("MESSAGE", json!([tenant, 129, "010203"]), Frame::Message { channel: tenant, offset: 129, bytes }),
        ("UNSUBSCRIBE", json!([computer]), Frame::Unsubscribe { channel: computer }),
        ("CLOSE", json!([rid_hex]), Frame::Close { rid }),
        (
            "ERR",
            json!([12, rid_hex, null, "claimed"]),
            Frame::Err { code: Code::Claimed, rid: Some(rid), id: None, text: "claimed".into() },
        ),
        (
            "DRAIN",
            json!([1500, "wss://relay-2.example.org"]),
            Frame::Drain { after_ms: 1500, url: Some("wss://relay-2.example.org".into()) },
        ),
        ("FWDACK", json!([rid_hex, 4]), Frame::ForwardAck { rid, ack: 4 }),
        (
            "TICKET",
            json!(["010203", hex(token)]),
            Frame::Ticket { ticket: Bytes::from_static(&[1, 2, 3]), secret: token },
        ),
        (
            "RETURN",
            json!(["010203", "relay.example.org:8443", hex(return_mac(&token, &nonce, "relay.example.org:8443"))]),
            Frame::Return {
                ticket: Bytes::from_static(&[1, 2, 3]),
                relay: "relay.example.org:8443".into(),
                mac: return_mac(&token, &nonce, "relay.example.org:8443"),
            },
        ),
    ]
}

pub fn file() -> Value {
    let cases: Vec<_> = samples()
        .into_iter()
        .map(|(name, fields, frame)| (name, fields, frame.encode()))
        .map(|(name, fields, bytes)| json!({"name": name, "type": bytes[1], "fields": fields, "bytes": hex(bytes)}))
        .collect();
    let close = Frame::Close { rid: Rid([1; 16]) }.encode();
    let open = Frame::Open { rid: Rid([1; 16]), ttl: 60 }.encode();
    let ping = Frame::Ack { id: 7, delivered: 1 }.encode();
    let with = |bytes: &[u8], change: fn(&mut Vec<u8>)| {
        let mut bytes = bytes.to_vec();
        change(&mut bytes);
        hex(bytes)
    };
    let bad = Code::BadFrame.name();
    let negative = json!([
        {"name": "nothing", "bytes": "", "expect": bad},
        {"name": "not an array", "bytes": "c0", "expect": bad},
        {"name": "an empty array", "bytes": "90", "expect": bad},
        {"name": "type 22", "bytes": with(&close, |frame| frame[1] = 22), "expect": bad},
        {"name": "a wide type", "bytes": "92cc10c41001010101010101010101010101010101", "expect": bad},
        {"name": "a field too few", "bytes": "9110", "expect": bad},
        {"name": "a field too many", "bytes": with(&close, |frame| { frame[0] = 0x93; frame.push(0); }), "expect": bad},
        {"name": "cut", "bytes": with(&close, |frame| { frame.pop(); }), "expect": bad},
        {"name": "a byte more", "bytes": with(&close, |frame| frame.push(0xc0)), "expect": bad},
        {"name": "a rid of 15 bytes", "bytes": with(&close, |frame| { frame[3] = 15; frame.pop(); }), "expect": bad},
        {"name": "a rid as text", "bytes": with(&close, |frame| { frame[2] = 0xd9; }), "expect": bad},
        {"name": "a wide integer", "bytes": with(&open, |frame| { frame.pop(); frame.extend([0xcd, 0, 60]); }), "expect": bad},
        {"name": "a negative integer", "bytes": with(&ping, |frame| { frame[2] = 0xff; }), "expect": bad},
        {"name": "an integer above u32", "bytes": with(&open, |frame| { frame.pop(); frame.extend([0xcf, 0, 0, 0, 1, 0, 0, 0, 0]); }), "expect": bad},
        {"name": "text that is not UTF-8", "bytes": "920fa2c328", "expect": bad},
        {"name": "an unknown code in ERR", "bytes": "951163c0c0a0", "expect": bad},
        {"name": "8193 bytes", "zeros": MAX_FRAME + 1, "expect": Code::Size.name()},
    ]);
    let bulletin = Bulletin::new(Kind::Revocation, 7, Bytes::from_static(b"statement"));
    let fetch = Bulletin { statement: None, ..bulletin.clone() };
    let (computer, phone) = (Who::Computer(ComputerId([5; 16])), Who::Device(DeviceId([6; 16])));
    let key = |who: Who| hex(Key::from(who).0);
    let came = Presence { whole: None, online: vec![computer], offline: vec![phone] };
    let span = Span { after: Key::FIRST, upto: Key::LAST };
    let all = Presence { whole: Some(span), online: vec![computer, phone], offline: vec![] };
    json!({
        "about": "Each relay frame, in order of its type; `fields` are those after the type. `zeros` stands for that many zero bytes.",
        "cases": cases,
        "bulletins": [
            {"kind": 5, "epoch": 7, "statement": hex(b"statement"), "bytes": hex(bulletin.encode())},
            {"kind": 5, "epoch": 7, "statement": null, "bytes": hex(fetch.encode())},
        ],
        "presence": [
            {"whole": null, "online": key(computer), "offline": key(phone), "bytes": hex(came.encode())},
            {"whole": [hex(Key::FIRST.0), hex(Key::LAST.0)], "online": key(computer) + &key(phone), "offline": "", "bytes": hex(all.encode())},
        ],
        "channels": {
            "good": ["presence/000102030405060708090a0b0c0d0e0f", "computer/000102030405060708090a0b0c0d0e0f", "device/ffffffffffffffffffffffffffffffff", "tenant/00000000000000000000000000000000"],
            "bad": ["", "computer", "computer/", "computer/00", "Computer/000102030405060708090a0b0c0d0e0f",
                    "computer/000102030405060708090A0B0C0D0E0F", "pair/000102030405060708090a0b0c0d0e0f",
                    "tenant/00000000000000000000000000000000/"],
        },
        "codes": Code::ALL.iter().map(|code| json!({"number": code.number(), "name": code.name(), "message": code.message(), "todo": code.todo()})).collect::<Vec<_>>(),
        "negative": negative,
    })
}
