use gatepass_protocol::{testing::Rng, vault};
use serde_json::{Value, json};

use super::hex;

pub fn file() -> Value {
    let (password, secret) = ("correct horse battery staple", [0x2a; 32]);
    let text = vault::seal("Example CA", password.as_bytes(), &secret, &mut Rng::new(500)).unwrap();
    let good: Value = serde_json::from_str(&text).unwrap();
    let with = |field: &str, value: Value| {
        let mut changed = good.clone();
        changed[field] = value;
        changed
    };
    json!({
        "about": "A secret behind a password. In a negative case, `vault` is opened with `password`.",
        "cases": [{"name": "a CA key", "password": password, "secret": hex(secret), "vault": good}],
        "negative": [
            {"name": "another password", "password": "correct horse", "vault": good, "expect": "wrong_password"},
            {"name": "a changed name", "password": password, "vault": with("name", json!("Other CA")), "expect": "wrong_password"},
            {"name": "more passes than it was made with", "password": password, "vault": with("passes", json!(4)), "expect": "wrong_password"},
            {"name": "fewer lanes than it was made with", "password": password, "vault": with("lanes", json!(1)), "expect": "wrong_password"},
            {"name": "no lane", "password": password, "vault": with("lanes", json!(0)), "expect": "parameters"},
            {"name": "more lanes than anybody needs", "password": password, "vault": with("lanes", json!(17)), "expect": "parameters"},
            {"name": "one pass", "password": password, "vault": with("passes", json!(1)), "expect": "parameters"},
            {"name": "8 MiB", "password": password, "vault": with("memory_kib", json!(8192)), "expect": "parameters"},
            {"name": "2 GiB", "password": password, "vault": with("memory_kib", json!(2 * 1024 * 1024)), "expect": "parameters"},
            {"name": "another cipher", "password": password, "vault": with("cipher", json!("none")), "expect": "not_a_vault"},
            {"name": "a field more", "password": password, "vault": with("more", json!(1)), "expect": "not_a_vault"},
            {"name": "a short nonce", "password": password, "vault": with("nonce", json!("AAAA")), "expect": "not_a_vault"},
        ],
    })
}
