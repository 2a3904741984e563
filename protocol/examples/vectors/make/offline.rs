use gatepass_protocol::{
    ids::ComputerId,
    offline::{Challenge, ChallengeQr, CodeKey, Digits, Mode, OfflineTerms, Question, offers},
    pairing::agent::AgentIdentity,
    policy::{self, AccountKind, Scenario},
    statement::OTP_KEY,
    testing::{NOW, Tenant, offline_terms, otp_key},
};
use serde_json::{Value, json};

use super::hex;

fn terms() -> OfflineTerms {
    OfflineTerms {
        groups: Some(vec!["adm".into(), "sudo".into()]),
        long_codes: vec!["sudo".into()],
        time_codes: true,
        ..offline_terms()
    }
}

fn challenges(computer: ComputerId, tenant: &mut Tenant) -> Value {
    let mut cases = Vec::new();
    for (scenario, account) in [(Scenario::Ssh, "gp-alex"), (Scenario::Elevation, "bob"), (Scenario::Console, "")] {
        let challenge = Challenge::new(scenario, computer, &mut tenant.rng);
        let qr = ChallengeQr::new(tenant.id, computer, challenge, account).unwrap();
        cases.push(json!({
            "scenario": u8::from(scenario), "account": account, "bits": challenge.bits(), "text": challenge.text(),
            "qr": qr.to_text(),
        }));
    }
    let good = Challenge::new(Scenario::Ssh, computer, &mut tenant.rng);
    let text = good.text();
    let flip = |bit: u32| {
        let letters = "0123456789ABCDEFGHJKMNPQRSTVWXYZ".as_bytes();
        let bits = good.bits() ^ 1 << bit;
        let letter = |at: usize| char::from(letters[(bits >> (5 * (9 - at)) & 31) as usize]);
        (0..10).map(letter).collect::<String>()
    };
    let typed = json!([
        {"name": "as shown", "typed": text, "takes": true},
        {"name": "small letters, no hyphen", "typed": text.replace('-', "").to_lowercase(), "takes": true},
        {"name": "blanks", "typed": format!(" {} ", text.replace('-', " ")), "takes": true},
        {"name": "a bit of the random part", "typed": flip(20), "takes": false},
        {"name": "a bit of the check", "typed": flip(3), "takes": false},
        {"name": "scenario 15", "typed": flip(47), "takes": false},
        {"name": "too short", "typed": text[..10], "takes": false},
        {"name": "too long", "typed": format!("{text}0"), "takes": false},
        {"name": "a letter that is none", "typed": text.replacen(&text[..1], "U", 1), "takes": false},
        {"name": "nothing", "typed": "", "takes": false},
    ]);
    let qr = ChallengeQr::new(tenant.id, computer, good, "gp-alex").unwrap();
    let bytes = base45::decode(&qr.to_text()[5..]).unwrap();
    let coded = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes.clone();
        change(&mut bytes);
        format!("GPC1:{}", base45::encode(bytes))
    };
    let no_qr = json!([
        {"name": "the code of a pairing", "text": "GP1:0000"},
        {"name": "empty", "text": ""},
        {"name": "nothing after the prefix", "text": "GPC1:"},
        {"name": "no base45", "text": "GPC1:abc"},
        {"name": "version 2", "text": coded(&|bytes| bytes[0] = 2)},
        {"name": "too short", "text": coded(&|bytes| bytes.truncate(19))},
        {"name": "an account too long", "text": coded(&|bytes| bytes.extend([b'x'; 33]))},
        {"name": "an account that is no text", "text": coded(&|bytes| bytes.push(0xff))},
        {"name": "51 bits", "text": coded(&|bytes| bytes[13] |= 4)},
        {"name": "one character too few", "text": qr.to_text()[..qr.to_text().len() - 1]},
    ]);
    json!({"good": cases, "typed": typed, "no_qr": no_qr})
}

fn codes(tenant: &mut Tenant, agent: &AgentIdentity) -> Value {
    let phone = tenant.phone(1);
    let mut trust = tenant.trust();
    let policy = tenant.policy_with(1, true, Some(&terms()));
    trust.accept_policy(&policy, NOW).unwrap();
    let device = trust.device(&phone.identity.chain, NOW).unwrap();
    let certificate = trust.agent(&agent.chain, NOW).unwrap();
    let subject = phone.identity.statement().subject;
    let (own, theirs) = (otp_key(&subject), otp_key(&agent.computer().0));
    let key = CodeKey::of_device(&own, &device, &certificate).unwrap();

    let mut cases = Vec::new();
    let step = NOW / 30;
    for (scenario, kind, account) in [
        (Scenario::Ssh, AccountKind::Named, "gp-alex"),
        (Scenario::Console, AccountKind::Shared, "gp-1234"),
        (Scenario::Elevation, AccountKind::Own, "bob"),
    ] {
        let question = policy::Question {
            technician: device.terms().technician,
            protection: device.terms().protection,
            computer: agent.computer(),
            tags: &certificate.terms().tags,
            scenario,
        };
        let policy = trust.policy().unwrap();
        let offer = offers(policy.terms(), &terms(), &question, kind).remove(0);
        let challenge = Challenge::new(scenario, agent.computer(), &mut tenant.rng);
        for question in
            [Question::of_challenge(&offer, account, challenge), Question::of_time(&offer, account, scenario, step)]
        {
            let digits = if offer.digits == Digits::Ten { 10 } else { 8 };
            cases.push(json!({
                "mode": u8::from(question.mode), "number": question.number, "scenario": u8::from(scenario),
                "kind": u8::from(kind), "account": account, "groups": offer.groups, "minutes": offer.minutes,
                "reason": offer.reason, "digits": digits, "time": if question.mode == Mode::Time { json!(NOW) } else { Value::Null },
                "evidence": hex(question.evidence()), "code": *key.code(&question, offer.digits),
            }));
        }
    }
    json!({
        "device_chain": super::hexes(&phone.identity.chain), "agent_chain": super::hexes(&agent.chain),
        "policy": hex(&policy), "extension": OTP_KEY,
        "device_private": hex(*own.to_bytes()), "computer_private": hex(*theirs.to_bytes()),
        "shared": hex(*own.agree(&theirs.public_key()).unwrap()), "epoch": device.statement().epoch,
        "key": hex(key.bytes()), "cases": cases,
    })
}

pub fn file() -> Value {
    let mut tenant = Tenant::new(900);
    tenant.offline_codes = true;
    let agent = tenant.computer_by_ticket();
    let computer = agent.computer();
    json!({
        "about": "Offline codes: certificates with their keys, the key that both ends derive, challenges and codes.",
        "tenant": tenant.id.to_string(),
        "ca_pem": [tenant.ca_public().to_pem()],
        "computer": computer.to_string(),
        "codes": codes(&mut tenant, &agent),
        "challenges": challenges(computer, &mut tenant),
    })
}
