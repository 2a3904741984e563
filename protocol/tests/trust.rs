//! What a trust store believes when several CA keys stand side by side, and what an agent does with lists that are old.
//! The published vectors (`statements.json`) hold the rules that need one CA only.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use gatepass_protocol::{
    Code,
    ids::Serial,
    keys::{Signer, SigningKey},
    pairing::{Failure, agent, messages::Outcome, phone},
    policy::Question,
    statement::{
        CertifiedKey, Extension, KeyProtection, KeyUse, Kind, REVOKER, RelayTerms, RevocationTerms, RevokerTerms,
    },
    testing::{NOW, Phone, Rng, Tenant, chosen, context},
    trust::{CaPublic, TrustStore},
};

/// A tenant whose second CA key signs as well, and a store that trusts both.
fn two_cas() -> (Tenant, SigningKey, TrustStore) {
    let tenant = Tenant::new(30);
    let second = SigningKey::from_seed(&[0x5e; 32]);
    let trust = TrustStore::new(tenant.id, [tenant.ca_public(), CaPublic::new(second.public_key()).unwrap()]);
    (tenant, second, trust)
}

/// Runs with the second key in the tenant's hand.
fn signed_by<T>(tenant: &mut Tenant, key: &SigningKey, act: impl FnOnce(&mut Tenant) -> T) -> T {
    let first = std::mem::replace(&mut tenant.ca, SigningKey::from_seed(&key.seed()));
    let result = act(tenant);
    tenant.ca = first;
    result
}

#[test]
fn each_of_several_ca_keys_suffices_and_one_can_be_revoked() {
    let (mut tenant, second, mut trust) = two_cas();
    let (old, new) = (tenant.phone(1), signed_by(&mut tenant, &second, |tenant| tenant.phone(2)));
    assert!(trust.device(&old.identity.chain, NOW).is_ok() && trust.device(&new.identity.chain, NOW).is_ok());

    let first_key = Serial(tenant.ca.public_key().revocation_id());
    let list = signed_by(&mut tenant, &second, |tenant| tenant.revocation(1, vec![first_key]));
    trust.accept_revocation(&list, NOW).unwrap();
    assert_eq!(trust.device(&old.identity.chain, NOW).err(), Some(Code::Revoked));
    assert!(trust.device(&new.identity.chain, NOW).is_ok());
    assert_eq!(
        trust.accept_policy(&tenant.policy(9, false), NOW).err(),
        Some(Code::Revoked),
        "nothing new from it either"
    );
    let by_ticket = tenant.computer_by_ticket();
    assert_eq!(trust.agent(&by_ticket.chain, NOW).err(), Some(Code::Revoked), "nor from its tickets");
}

/// A key that only revokes, as a CA certified it for epochs up to 50.
struct Revoker {
    key: SigningKey,
    statement: Bytes,
    serial: Serial,
}

impl Revoker {
    fn of(tenant: &mut Tenant) -> Self {
        let key = SigningKey::from_seed(&[0x4e; 32]);
        let keys = vec![CertifiedKey { key_use: KeyUse::Sign, key: key.public_key() }];
        let draft = tenant.draft([7; 16], keys);
        let serial = draft.serial;
        let statement = draft.sign(&RevokerTerms { max_epoch: 50 }, &tenant.ca).unwrap().bytes().clone();
        Self { key, statement, serial }
    }

    fn list(&self, tenant: &mut Tenant, epoch: u64, min_epoch: u64, mut revoked: Vec<Serial>) -> Bytes {
        revoked.sort();
        let terms = RevocationTerms { issued: NOW, next_update: NOW + 86_400, min_epoch, revoked };
        let extension = Extension { id: REVOKER, value: self.statement.clone() };
        tenant.list(epoch).sign_with(&terms, vec![extension], &self.key).unwrap().bytes().clone()
    }
}

#[test]
fn a_revoke_only_key_ends_a_lost_phone_and_what_it_said_outlives_a_restart() {
    let mut tenant = Tenant::new(40);
    let (mut trust, revoker, phone) = (tenant.trust(), Revoker::of(&mut tenant), tenant.phone(1));
    trust.accept_revocation(&tenant.revocation(1, vec![Serial([1; 16])]), NOW).unwrap();
    let lost = phone.identity.statement().serial;
    let list = revoker.list(&mut tenant, 2, 0, vec![Serial([1; 16]), lost]);
    trust.accept_revocation(&list, NOW).unwrap();
    assert_eq!(trust.device(&phone.identity.chain, NOW).err(), Some(Code::Revoked));
    let mut restarted = tenant.trust();
    restarted.restore(&list).unwrap();
    assert_eq!(restarted.device(&phone.identity.chain, NOW).err(), Some(Code::Revoked));
    trust.accept_revocation(&tenant.revocation(3, vec![lost]), NOW).unwrap();
}

#[test]
fn a_revoke_only_key_brings_nothing_back_and_leaves_room_for_the_ca() {
    let mut tenant = Tenant::new(41);
    let (mut trust, revoker) = (tenant.trust(), Revoker::of(&mut tenant));
    let (stolen, ca) = (Serial([1; 16]), Serial(tenant.ca.public_key().revocation_id()));
    trust.accept_revocation(&tenant.revocation(1, vec![stolen]), NOW).unwrap();
    for (what, list) in [
        ("takes a name off", revoker.list(&mut tenant, 2, 0, vec![Serial([2; 16])])),
        ("revokes everything at once", revoker.list(&mut tenant, 2, 9, vec![stolen])),
        ("revokes the CA key", revoker.list(&mut tenant, 2, 0, vec![stolen, ca])),
        ("uses up the numbers", revoker.list(&mut tenant, 51, 0, vec![stolen])),
    ] {
        assert_eq!(trust.accept_revocation(&list, NOW).err(), Some(Code::NotAllowed), "{what}");
    }
    assert_eq!(trust.revocation_epoch(), 1);
}

#[test]
fn a_revoke_only_key_signs_nothing_else() {
    let mut tenant = Tenant::new(42);
    let (mut trust, revoker) = (tenant.trust(), Revoker::of(&mut tenant));
    let seed = SigningKey::from_seed(&revoker.key.seed());
    let (phone, computer, policy) =
        signed_by(&mut tenant, &seed, |tenant| (tenant.phone(1), tenant.computer(), tenant.policy(1, false)));
    assert_eq!(trust.device(&phone.identity.chain, NOW).err(), Some(Code::Certificate));
    let behind = vec![phone.identity.chain[0].clone(), revoker.statement.clone()];
    assert_eq!(trust.device(&behind, NOW).err(), Some(Code::Certificate));
    let behind = vec![computer.chain[0].clone(), revoker.statement.clone()];
    assert_eq!(trust.agent(&behind, NOW).err(), Some(Code::Certificate), "it is no ticket");
    assert_eq!(trust.accept_policy(&policy, NOW).err(), Some(Code::Certificate));
    let relays = RelayTerms { relays: Vec::new() };
    let extension = Extension { id: REVOKER, value: revoker.statement.clone() };
    let relays = tenant.list(1).sign_with(&relays, vec![extension], &revoker.key).unwrap();
    assert_eq!(trust.accept_relays(relays.bytes(), NOW).err(), Some(Code::Certificate));
    assert_eq!(trust.restore(relays.bytes()).err(), Some(Code::Certificate));
    assert_eq!(trust.certificate(std::slice::from_ref(&revoker.statement), NOW).err(), Some(Code::Certificate));
    // Nor does it certify another like it.
    let mut second = signed_by(&mut tenant, &seed, Revoker::of);
    second.key = SigningKey::from_seed(&[0x4f; 32]);
    let list = second.list(&mut tenant, 1, 0, vec![]);
    assert_eq!(trust.accept_revocation(&list, NOW).err(), Some(Code::Certificate));
}

#[test]
fn a_revoke_only_key_ends_with_its_time_its_revocation_and_its_ca_and_is_of_one_tenant() {
    let mut tenant = Tenant::new(43);
    let revoker = Revoker::of(&mut tenant);
    let list = revoker.list(&mut tenant, 9, 0, vec![revoker.serial]);
    let late = NOW + 400 * 86_400;
    assert_eq!(tenant.trust().accept_revocation(&list, late).err(), Some(Code::Certificate));
    let by_key = Serial(revoker.key.public_key().revocation_id());
    for id in [revoker.serial, by_key] {
        let mut trust = tenant.trust();
        trust.accept_revocation(&tenant.revocation(1, vec![id]), NOW).unwrap();
        let list = revoker.list(&mut tenant, 2, 0, vec![id]);
        assert_eq!(trust.accept_revocation(&list, NOW).err(), Some(Code::Revoked));
    }
    let mut other = Tenant::new(44);
    let foreign = Revoker::of(&mut other);
    let list = foreign.list(&mut tenant, 2, 0, vec![]);
    assert_eq!(tenant.trust().accept_revocation(&list, NOW).err(), Some(Code::Certificate), "another tenant's CA");
    let (mut tenant, second, mut trust) = two_cas();
    let revoker = Revoker::of(&mut tenant);
    let first = Serial(tenant.ca.public_key().revocation_id());
    let fell = signed_by(&mut tenant, &second, |tenant| tenant.revocation(1, vec![first]));
    trust.accept_revocation(&fell, NOW).unwrap();
    let list = revoker.list(&mut tenant, 2, 0, vec![first]);
    assert_eq!(trust.accept_revocation(&list, NOW).err(), Some(Code::Revoked), "its CA key fell");
}

#[test]
fn a_policy_falls_with_its_ca_key_and_its_epoch_stays() {
    let (mut tenant, second, mut trust) = two_cas();
    let policy = signed_by(&mut tenant, &second, |tenant| tenant.policy(5, true));
    trust.accept_policy(&policy, NOW).unwrap();
    assert!(trust.policy_is_in_time(NOW));
    let second_key = Serial(second.public_key().revocation_id());
    trust.accept_revocation(&tenant.revocation(1, vec![second_key]), NOW).unwrap();
    assert!(trust.policy().is_none() && !trust.policy_is_in_time(NOW));
    assert_eq!(trust.accept_policy(&tenant.policy(5, true), NOW).err(), Some(Code::StaleEpoch));
    trust.accept_policy(&tenant.policy(6, true), NOW).unwrap();
    assert!(trust.policy_is_in_time(NOW));
}

#[test]
fn epochs_are_counted_over_all_ca_keys_together() {
    let (mut tenant, second, mut trust) = two_cas();
    trust.accept_policy(&tenant.policy(5, true), NOW).unwrap();
    let older = signed_by(&mut tenant, &second, |tenant| tenant.policy(4, true));
    assert_eq!(trust.accept_policy(&older, NOW).err(), Some(Code::StaleEpoch));
    let same = signed_by(&mut tenant, &second, |tenant| tenant.policy(5, true));
    assert_eq!(trust.accept_policy(&same, NOW).err(), Some(Code::StaleEpoch));
}

#[test]
fn a_list_that_was_refused_changes_nothing() {
    let mut tenant = Tenant::new(31);
    let mut trust = tenant.trust();
    let phone = tenant.phone(1);
    trust.accept_revocation(&tenant.revocation(3, vec![phone.identity.statement().serial]), NOW).unwrap();
    for wrong in [tenant.revocation(2, vec![]), Tenant::new(32).revocation(9, vec![]), Bytes::from_static(b"\x90")] {
        assert!(trust.accept(&wrong, NOW).is_err());
        assert_eq!(trust.revocation_epoch(), 3);
        assert_eq!(trust.device(&phone.identity.chain, NOW).err(), Some(Code::Revoked));
    }
}

#[test]
fn a_newer_list_may_set_the_least_epoch_and_new_certificates_pass_it() {
    let mut tenant = Tenant::new(33);
    let mut trust = tenant.trust();
    let old = tenant.phone(1);
    let terms = RevocationTerms { issued: NOW, next_update: NOW + 1, min_epoch: 4, revoked: vec![] };
    let list = tenant.list(4).sign(&terms, &tenant.ca).unwrap();
    trust.accept_revocation(list.bytes(), NOW).unwrap();
    assert_eq!(trust.device(&old.identity.chain, NOW).err(), Some(Code::Revoked));
    let statement = old.identity.statement();
    let draft =
        gatepass_protocol::statement::Draft { epoch: 4, ..tenant.draft(statement.subject, statement.keys.clone()) };
    let renewed = draft.sign(old.identity.terms(), &tenant.ca).unwrap();
    assert!(trust.device(&[renewed.bytes().clone()], NOW).is_ok());
    assert!(trust.accept_policy(&tenant.policy(1, true), NOW).is_ok(), "lists count epochs of their own");
}

type Asked = (Result<(agent::AwaitDecision, Vec<u8>), Failure>, phone::AwaitContext, agent::AgentIdentity, Phone);

/// A pairing up to M3, with `change` to the question.
fn asked(
    tenant: &mut Tenant,
    trust: &TrustStore,
    change: impl FnOnce(&mut gatepass_protocol::pairing::messages::Context),
) -> Asked {
    let (device, identity, mut rng) = (tenant.phone(1), tenant.computer(), Rng::new(34));
    let offer = agent::Offer::new(0, tenant.id, NOW, &mut rng);
    let scan = phone::Scan::from_text(&offer.text()).unwrap();
    let (n, tag) = scan.claim(&mut rng);
    let (phone, m1) = scan.start("test", trust, &mut rng).unwrap();
    let (agent, m2) = offer.claim(&n, &tag, NOW).unwrap().receive(&m1, &identity, &mut rng).unwrap();
    let (phone, m3) = phone.receive(&m2, &device.identity, trust, NOW).unwrap();
    let agent = agent.receive(&m3, trust, NOW).unwrap();
    let question = Question {
        technician: agent.device().terms().technician,
        protection: KeyProtection::Software,
        computer: identity.computer(),
        tags: &[],
        scenario: gatepass_protocol::policy::Scenario::Ssh,
    };
    let mut question = context(&identity, trust, trust.policy().unwrap().terms().choices(&question));
    change(&mut question);
    (agent.ask(question), phone, identity, device)
}

#[test]
fn an_expired_policy_grants_nothing() {
    let mut tenant = Tenant::new(35);
    let (mut trust, end) = (tenant.trust_with_policy(), NOW + 1000);
    let policy = trust.policy().unwrap().terms().clone();
    let short =
        gatepass_protocol::statement::Draft { not_after: end, ..tenant.list(2) }.sign(&policy, &tenant.ca).unwrap();
    trust.accept_policy(short.bytes(), NOW).unwrap();
    // The question is asked in the policy's last moment and answered in the next.
    let (asked, phone, identity, device) =
        asked(&mut tenant, &trust, |question| (question.time, question.expires) = (end, end + 60));
    let (agent, m4) = asked.unwrap();
    let (_, m5) = phone.receive(&m4).unwrap().approve(&chosen(), &device.identity, &device.approve).ok().unwrap();
    assert!(trust.policy_is_in_time(end) && !trust.policy_is_in_time(end + 1));
    assert_eq!(agent.receive(&m5, &identity, &trust, end + 1).err().unwrap().code, Some(Code::StaleEpoch));
}

#[test]
fn a_question_too_large_for_a_message_is_refused_and_both_ends_hear_why() {
    let mut tenant = Tenant::new(36);
    let trust = tenant.trust_with_policy();
    let (asked, phone, ..) = asked(&mut tenant, &trust, |question| question.request.command = "x".repeat(7000));
    let failure = asked.err().unwrap();
    assert_eq!(failure.code, Some(Code::Size));
    assert_eq!(phone.receive(&failure.reply.unwrap()).err().unwrap().code, Some(Code::Size));
}

#[test]
fn a_reason_too_long_for_a_message_is_said_to_be_and_not_called_interference() {
    let mut tenant = Tenant::new(37);
    let trust = tenant.trust_with_policy();
    let (asked, phone, _, device) = asked(&mut tenant, &trust, |_| ());
    let wordy = phone::Chosen { reason: "x".repeat(7000), ..chosen() };
    let asked = phone.receive(&asked.unwrap().1).unwrap();
    match asked.approve(&wordy, &device.identity, &device.approve).err().unwrap() {
        phone::NotApproved::Channel(failure) => assert_eq!(failure.code, Some(Code::Size)),
        other => panic!("{other}"),
    }
}

#[test]
fn an_outcome_is_granted_or_refused_and_nothing_between() {
    use gatepass_protocol::wire;
    for both in [
        wire::to_vec(&(Some(33u8), Some(Serial([1; 16])), "", 0u64)),
        wire::to_vec(&(None::<u8>, None::<Serial>, "", 0u64)),
    ] {
        assert!(wire::from_slice::<Outcome>(&both).is_err());
    }
}

/// What was kept holds for ever against older lists, and a policy falls with the CA key that signed it.
#[test]
fn what_was_kept_keeps_older_lists_out_after_a_restart_and_a_policy_falls_with_its_ca() {
    let mut tenant = Tenant::new(1);
    let (old, new) = (tenant.policy(1, false), tenant.policy(2, true));
    let mut trust = tenant.trust();
    trust.accept_policy(&new, NOW).unwrap();
    let kept = trust.kept(Kind::Policy).unwrap().clone();

    let years_later = NOW + 10 * 365 * 86_400;
    let mut restarted = tenant.trust();
    assert_eq!(restarted.accept_policy(&new, years_later), Err(Code::Certificate), "it has expired");
    restarted.restore(&kept).unwrap();
    assert_eq!(restarted.accept_policy(&old, NOW), Err(Code::StaleEpoch));
    assert!(!restarted.policy_is_in_time(years_later));

    let other = SigningKey::generate(&mut tenant.rng);
    let both = [tenant.ca_public(), CaPublic::new(other.public_key()).unwrap()];
    let mut trust = TrustStore::new(tenant.id, both);
    trust.accept_policy(&new, NOW).unwrap();
    let revoked = RevocationTerms {
        issued: NOW,
        next_update: NOW + 1,
        min_epoch: 0,
        revoked: vec![Serial(tenant.ca.public_key().revocation_id())],
    };
    let list = tenant.list(1).sign(&revoked, &other).unwrap();
    trust.accept_revocation(list.bytes(), NOW).unwrap();
    assert!(trust.policy().is_none(), "not by a revoked key");
    assert_eq!(trust.policy_epoch(), 2, "and nothing older instead");
}

#[test]
fn what_changed_while_the_code_was_typed_counts() {
    let mut tenant = Tenant::new(38);
    let trust = tenant.trust_with_policy();
    let (asked, phone, identity, device) = asked(&mut tenant, &trust, |_| ());
    let (agent, m4) = asked.unwrap();
    let (_, m5) = phone.receive(&m4).unwrap().approve(&chosen(), &device.identity, &device.approve).ok().unwrap();
    let agent::Verdict::Approved(approved) = agent.receive(&m5, &identity, &trust, NOW).unwrap() else { panic!() };
    assert_eq!(approved.still_holds(&trust, NOW + 30), Ok(()));
    assert_eq!(approved.still_holds(&trust, NOW + 3600), Err(Code::TimedOut));
    let mut revoked = trust.clone();
    revoked.accept(&tenant.revocation(1, vec![device.identity.statement().serial]), NOW).unwrap();
    assert_eq!(approved.still_holds(&revoked, NOW + 30), Err(Code::Revoked));
    let mut changed = trust.clone();
    changed.accept(&tenant.policy(2, true), NOW).unwrap();
    assert_eq!(approved.still_holds(&changed, NOW + 30), Err(Code::StaleEpoch));
}
