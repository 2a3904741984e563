use gatepass_protocol::{
    ids::TenantId,
    qr::{QrPayload, tenant_tag},
    testing::Rng,
};
use serde_json::{Value, json};

use super::{hex, noise};

pub fn file() -> Value {
    let mut rng = Rng::new(100);
    let mut cases = Vec::new();
    for (name, relay_idx, a_q) in [("ordinary", 0u16, [0x42u8; 32]), ("another relay", 0x0102, [0xff; 32])] {
        let tenant = TenantId::random(&mut rng);
        let qr = QrPayload::new(relay_idx, tenant, a_q, &mut rng);
        let keys = qr.keys();
        let n = [0x5a; 16];
        cases.push(json!({
            "name": name,
            "version": 1, "suite": 1, "relay_idx": relay_idx, "tenant": tenant.to_string(),
            "tenant_tag": hex(tenant_tag(tenant)), "qs": hex(qr.qs), "a_q": hex(qr.a_q),
            "bytes": hex(qr.to_bytes()), "text": qr.to_text(),
            "rid": keys.rid().to_string(), "psk": hex(noise::psk(&qr)),
            "claim_n": hex(n), "claim_tag": hex(keys.claim_tag(&n)),
        }));
    }
    let good = QrPayload::new(0, TenantId([7; 16]), [9; 32], &mut rng);
    let text = good.to_text();
    let coded = |change: fn(&mut Vec<u8>)| {
        let mut bytes = good.to_bytes().to_vec();
        change(&mut bytes);
        format!("GP1:{}", base45::encode(bytes))
    };
    let negative = [
        ("another QR", "https://example.org/".to_owned(), "not_gatepass"),
        ("empty", String::new(), "not_gatepass"),
        ("lower case prefix", text.replace("GP1:", "gp1:"), "not_gatepass"),
        ("blank before it", format!(" {text}"), "not_gatepass"),
        ("nothing after the prefix", "GP1:".into(), "damaged"),
        ("cut by one character", text[..text.len() - 1].into(), "damaged"),
        ("one character too many", format!("{text}0"), "damaged"),
        ("a character that base45 lacks", text.replacen(':', ":a", 1), "damaged"),
        ("a group above 65535", format!("GP1:{}", "::".repeat(42)), "damaged"),
        ("55 bytes", coded(|bytes| bytes.truncate(55)), "damaged"),
        ("57 bytes", coded(|bytes| bytes.push(0)), "damaged"),
        ("version 2", coded(|bytes| bytes[0] = 2), "version"),
        ("suite 2", coded(|bytes| bytes[1] = 2), "suite"),
    ];
    let negative: Vec<_> = negative
        .into_iter()
        .map(|(name, text, expect)| json!({"name": name, "text": text, "expect": expect}))
        .collect();
    json!({
        "about": "A QR's 56 bytes, its text, and what is derived from it. Byte strings are hexadecimal.",
        "cases": cases,
        "negative": negative,
    })
}
