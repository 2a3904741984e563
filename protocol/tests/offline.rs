//! Offline codes: both ends agree, and on nothing but what was asked.
#![allow(clippy::unwrap_used)]

use gatepass_protocol::{
    Code,
    ids::{ComputerId, Serial, TechnicianId, TenantId},
    keys::{OtpKey, PublicKey},
    offline::{Challenge, ChallengeQr, CodeKey, Digits, Offer, OfflineTerms, Question, offers},
    pairing::agent::AgentIdentity,
    policy::{self, AccountKind, Choice, Policy, Rule, Scenario},
    statement::{AgentTerms, DeviceTerms, KeyProtection, KeyUse, OFFLINE_CODES, OTP_KEY, RevocationTerms},
    testing::{NOW, Phone, Rng, Tenant, offline_terms, otp_key},
    trust::{Certified, TrustStore},
};
use proptest::prelude::*;

struct Scene {
    tenant: Tenant,
    trust: TrustStore,
    phone: Phone,
    agent: AgentIdentity,
}

impl Scene {
    fn new() -> Self {
        let mut tenant = Tenant::new(800);
        tenant.offline_codes = true;
        let (phone, agent) = (tenant.phone(1), tenant.computer_by_ticket());
        let mut trust = tenant.trust();
        let policy = tenant.policy_with(1, true, Some(&offline_terms()));
        trust.accept_policy(&policy, NOW).unwrap();
        Self { tenant, trust, phone, agent }
    }

    fn device(&self) -> Certified<DeviceTerms> {
        self.trust.device(&self.phone.identity.chain, NOW).unwrap()
    }

    fn certificate(&self) -> Certified<AgentTerms> {
        self.trust.agent(&self.agent.chain, NOW).unwrap()
    }

    fn at_the_phone(&self) -> CodeKey {
        let own = otp_key(&self.phone.identity.statement().subject);
        CodeKey::of_device(&own, &self.device(), &self.certificate()).unwrap()
    }

    fn at_the_computer(&self) -> CodeKey {
        CodeKey::of_agent(&otp_key(&self.agent.computer().0), &self.device(), self.agent.computer()).unwrap()
    }

    fn challenge(&mut self) -> Challenge {
        Challenge::new(Scenario::Ssh, self.agent.computer(), &mut self.tenant.rng)
    }
}

fn offer() -> Offer {
    Offer { kind: AccountKind::Named, groups: vec!["adm".into()], minutes: 20, reason: false, digits: Digits::Eight }
}

#[test]
fn phone_and_computer_agree_on_eight_or_ten_digits() {
    let mut scene = Scene::new();
    let question = Question::of_challenge(&offer(), "gp-alex", scene.challenge());
    for digits in [Digits::Eight, Digits::Ten] {
        let code = scene.at_the_phone().code(&question, digits);
        assert_eq!(code.len(), digits.count());
        assert!(code.bytes().all(|byte| byte.is_ascii_digit()));
        assert!(scene.at_the_computer().is_right(&question, digits, &code));
        let carried = format!(" {} {}\n", &code[..4], &code[4..]);
        assert!(scene.at_the_computer().is_right(&question, digits, &carried));
        assert!(!scene.at_the_computer().is_right(&question, digits, &code[1..]));
        assert!(!scene.at_the_computer().is_right(&question, digits, &format!("{}0", &*code)));
    }
}

#[test]
fn a_code_is_good_for_nothing_but_what_it_was_made_for() {
    let mut scene = Scene::new();
    let challenge = scene.challenge();
    let asked = Question::of_challenge(&offer(), "gp-alex", challenge);
    let code = scene.at_the_phone().code(&asked, Digits::Eight);
    let key = scene.at_the_computer();
    let other = scene.challenge();
    for (what, question) in [
        ("another challenge", Question::of_challenge(&offer(), "gp-alex", other)),
        ("another account", Question::of_challenge(&offer(), "gp-kim", challenge)),
        ("another scenario", Question { scenario: Scenario::Console, ..asked.clone() }),
        ("more groups", Question { groups: vec!["adm".into(), "sudo".into()], ..asked.clone() }),
        ("more time", Question { minutes: 21, ..asked.clone() }),
        ("another kind", Question { kind: AccountKind::Shared, ..asked.clone() }),
        ("the same number as a time", Question::of_time(&offer(), "gp-alex", Scenario::Ssh, challenge.bits())),
    ] {
        assert!(!key.is_right(&question, Digits::Eight, &code), "{what}");
    }
    assert!(key.is_right(&asked, Digits::Eight, &code));
}

#[test]
fn a_code_of_another_phone_computer_technician_or_epoch_is_another_code() {
    let mut scene = Scene::new();
    let question = Question::of_challenge(&offer(), "gp-alex", scene.challenge());
    let code = scene.at_the_phone().code(&question, Digits::Eight);
    let own = otp_key(&scene.agent.computer().0);
    let wrong = |key: CodeKey| !key.is_right(&question, Digits::Eight, &code);
    let of =
        |device: &Certified<DeviceTerms>, own: &OtpKey, computer| CodeKey::of_agent(own, device, computer).unwrap();

    let another_phone = scene.tenant.phone(1);
    let device = scene.trust.device(&another_phone.identity.chain, NOW).unwrap();
    assert!(wrong(of(&device, &own, scene.agent.computer())), "another phone of the same technician");
    let another = scene.tenant.computer();
    assert!(wrong(of(&scene.device(), &otp_key(&another.computer().0), another.computer())), "another computer");
    assert!(wrong(of(&scene.device(), &own, another.computer())), "the name of another computer");

    let reissued = |scene: &mut Scene, technician: u8, epoch: u64| {
        let statement = scene.phone.identity.statement().clone();
        let mut draft = scene.tenant.draft(statement.subject, statement.certified_keys());
        draft.epoch = epoch;
        let terms = DeviceTerms { technician: TechnicianId([technician; 16]), ..scene.device().terms().clone() };
        let signed = draft.sign(&terms, &scene.tenant.ca).unwrap().bytes().clone();
        scene.trust.device(&[signed], NOW).unwrap()
    };
    let computer = scene.agent.computer();
    assert!(!wrong(of(&reissued(&mut scene, 1, 0), &own, computer)), "a new certificate alone changes nothing");
    assert!(wrong(of(&reissued(&mut scene, 2, 0), &own, computer)), "another technician");
    assert!(wrong(of(&reissued(&mut scene, 1, 1), &own, computer)), "another epoch");
}

#[test]
fn a_revoked_phone_or_one_of_an_old_epoch_has_no_certificate_to_make_a_code_by() {
    let mut scene = Scene::new();
    let device = scene.device();
    let list = scene.tenant.revocation(1, vec![Serial(device.terms().technician.0)]);
    scene.trust.accept_revocation(&list, NOW).unwrap();
    assert_eq!(scene.trust.device(&scene.phone.identity.chain, NOW).err(), Some(Code::Revoked));
    let mut scene = Scene::new();
    let terms = RevocationTerms { issued: NOW, next_update: NOW + 1, min_epoch: 1, revoked: vec![] };
    let list = scene.tenant.list(1).sign(&terms, &scene.tenant.ca).unwrap().bytes().clone();
    scene.trust.accept_revocation(&list, NOW).unwrap();
    assert_eq!(scene.trust.device(&scene.phone.identity.chain, NOW).err(), Some(Code::Revoked));
}

#[test]
fn who_knows_nothing_of_offline_codes_reads_the_certificates_all_the_same() {
    let scene = Scene::new();
    let device = scene.device();
    let statement = device.statement();
    assert_eq!(statement.keys.len(), 3, "the fourth key is an extension, which may be ignored");
    assert!(statement.critical.is_empty());
    assert!(statement.keys.iter().all(|key| key.key_use != KeyUse::Otp));
    assert_eq!(statement.extensions.iter().map(|one| one.id).collect::<Vec<_>>(), [OTP_KEY]);
    assert_eq!(statement.key(KeyUse::Otp), Some(otp_key(&statement.subject).public_key()));
    let policy = scene.trust.policy().unwrap();
    assert_eq!(policy.statement().extensions[0].id, OFFLINE_CODES);
    assert_eq!(policy.offline(), Some(offline_terms()));
}

#[test]
fn a_certificate_with_no_key_two_keys_or_a_broken_one_has_no_codes() {
    let scene = Scene::new();
    let own = otp_key(&scene.agent.computer().0);
    let with = |change: &dyn Fn(&mut gatepass_protocol::statement::Statement)| {
        let mut statement = scene.phone.identity.statement().clone();
        change(&mut statement);
        let signed = gatepass_protocol::signed::Signed::sign(statement, &scene.tenant.ca).unwrap();
        let device = scene.trust.device(&[signed.bytes().clone()], NOW).unwrap();
        CodeKey::of_agent(&own, &device, scene.agent.computer()).is_ok()
    };
    assert!(with(&|_| ()));
    assert!(!with(&|statement| statement.extensions.clear()));
    assert!(!with(&|statement| statement.extensions.push(statement.extensions[0].clone())));
    let broken = |value: Vec<u8>| with(&move |statement| statement.extensions[0].value = value.clone().into());
    assert!(!broken(vec![4; 64]) && !broken(vec![4; 65]) && !broken(vec![0; 65]) && !broken(vec![]));
    assert_eq!(own.agree(&PublicKey::X25519([9; 32])).err(), Some(gatepass_protocol::keys::NotP256));
}

fn rule(groups: &[&str], max_minutes: u32, reason: bool) -> Rule {
    let choice = Choice {
        accounts: vec![AccountKind::Named, AccountKind::Random],
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        max_minutes,
        confirm: true,
        reason,
    };
    Rule {
        name: "rule".into(),
        technicians: vec![],
        computers: vec![],
        tags: vec![],
        scenarios: vec![Scenario::Ssh],
        choice,
    }
}

#[test]
fn an_offer_is_what_a_rule_gives_within_what_the_policy_lets_codes_give() {
    let question = |scenario, protection| policy::Question {
        technician: TechnicianId([1; 16]),
        protection,
        computer: ComputerId([2; 16]),
        tags: &[],
        scenario,
    };
    let ssh = question(Scenario::Ssh, KeyProtection::Software);
    let policy = |rules: Vec<Rule>| Policy {
        default_minutes: 30,
        software_keys: true,
        delete_on_end: false,
        idle_days: 30,
        rules,
    };
    let terms = OfflineTerms { groups: Some(vec!["adm".into(), "dba".into()]), ..offline_terms() };
    let long = OfflineTerms { long_codes: vec!["dba".into()], ..terms.clone() };
    let two = policy(vec![rule(&["adm", "sudo"], 60, true), rule(&["dba"], 5, false)]);
    let given = offers(&two, &long, &ssh, AccountKind::Named);
    let short = |offer: &Offer| (offer.groups.join(" "), offer.minutes, offer.reason, offer.digits);
    assert_eq!(
        given.iter().map(short).collect::<Vec<_>>(),
        [("adm".into(), 20, true, Digits::Eight), ("dba".into(), 5, false, Digits::Ten),]
    );
    let same = policy(vec![rule(&["adm", "sudo"], 60, true), rule(&["adm"], 45, false)]);
    let given = offers(&same, &terms, &ssh, AccountKind::Named);
    assert_eq!(given.len(), 1, "what is the same is offered once");
    assert!(!given[0].reason, "without the duty that one of the rules does without");
    assert!(offers(&two, &terms, &ssh, AccountKind::Shared).is_empty(), "a kind that no rule gives");
    let console = question(Scenario::Console, KeyProtection::Software);
    assert!(offers(&two, &terms, &console, AccountKind::Named).is_empty(), "a scenario that no rule names");
    let not_ssh = OfflineTerms { scenarios: vec![Scenario::Console], ..terms.clone() };
    assert!(offers(&two, &not_ssh, &ssh, AccountKind::Named).is_empty(), "a scenario without codes");
    let hardware_only = Policy { software_keys: false, ..two };
    assert!(offers(&hardware_only, &terms, &ssh, AccountKind::Named).is_empty(), "a key in software");
}

#[test]
fn what_can_not_be_read_of_a_policy_allows_no_codes() {
    let good = offline_terms().encode();
    assert_eq!(OfflineTerms::decode(&good), Some(offline_terms()));
    assert_eq!(OfflineTerms::decode(&[]), None);
    assert_eq!(OfflineTerms::decode(&good[..good.len() - 1]), None);
    assert_eq!(OfflineTerms::decode(&[&good[..], &[0]].concat()), None);
}

#[test]
fn a_challenge_is_read_as_people_type_and_a_slip_is_noticed() {
    let computer = ComputerId([7; 16]);
    let challenge = Challenge::new(Scenario::Console, computer, &mut Rng::new(9));
    let text = challenge.text();
    assert_eq!((text.len(), text.as_bytes()[5]), (11, b'-'));
    for typed in [text.to_lowercase(), text.replace('-', ""), format!("  {} ", text.replace('-', " - "))] {
        assert_eq!(Challenge::from_text(&typed, computer), Ok(challenge), "{typed}");
    }
    let alike = text.replace('0', "o").replace('1', "l");
    assert_eq!(Challenge::from_text(&alike, computer), Ok(challenge));
    for typed in ["", "K7QM2", &text[1..], &format!("{text}0"), &text.replacen(&text[..1], "U", 1), "é"] {
        assert!(Challenge::from_text(typed, computer).is_err(), "{typed}");
    }
    assert!(Challenge::from_text(&text, ComputerId([8; 16])).is_err(), "another computer was chosen");
}

proptest! {
    #[test]
    fn a_challenge_reads_back_and_two_changed_letters_rarely_pass(seed: u64, at in 0usize..10, scenario in 0usize..6) {
        let computer = ComputerId([7; 16]);
        let challenge = Challenge::new(Scenario::ALL[scenario], computer, &mut Rng::new(seed));
        prop_assert_eq!(Challenge::from_text(&challenge.text(), computer), Ok(challenge));
        prop_assert_eq!(Challenge::from_bits(challenge.bits(), computer), Ok(challenge));
        prop_assert_eq!(challenge.scenario(), Scenario::ALL[scenario]);
        // What passes with a letter changed is a challenge, and not this one: the code will be wrong, and nothing else.
        let changed = challenge.bits() ^ 1 << (5 * at);
        prop_assert!(Challenge::from_bits(changed, computer) != Ok(challenge));
    }

    #[test]
    fn the_qr_of_a_challenge_reads_back(seed: u64, account in "[ -~]{0,32}", tenant: [u8; 16], computer: [u8; 16]) {
        let (tenant, computer) = (TenantId(tenant), ComputerId(computer));
        let challenge = Challenge::new(Scenario::Ssh, computer, &mut Rng::new(seed));
        let qr = ChallengeQr::new(tenant, computer, challenge, &account).unwrap();
        let text = qr.to_text();
        prop_assert!(text.len() <= 88, "{} characters", text.len());
        let read = ChallengeQr::from_text(&format!("{text}\r\n")).unwrap();
        prop_assert_eq!(&read, &qr);
        prop_assert!(read.is_of(tenant, computer));
        prop_assert_eq!(Challenge::from_bits(read.bits, computer), Ok(challenge));
        prop_assert!(ChallengeQr::new(tenant, computer, challenge, &"x".repeat(33)).is_none());
    }

    #[test]
    fn any_text_is_a_challenge_or_is_not(text: String) {
        let _ = Challenge::from_text(&text, ComputerId([7; 16]));
        if let Ok(qr) = ChallengeQr::from_text(&text) {
            prop_assert_eq!(qr.to_text(), text.trim_end_matches(['\r', '\n']));
        }
    }
}
