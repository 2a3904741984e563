//! Every way in which a grant ends, each within a second, with its receipt.

use std::time::{Duration, Instant};

use gatepass_logon::wire::{Phase, Verdict};
use gatepass_protocol::Code;
use gatepass_protocol::ids::{GrantId, Serial};
use gatepass_protocol::order::{EndReason, Receipt};
use gatepass_protocol::pairing::messages::Outcome;
use gatepass_protocol::policy::AccountKind;
use gatepass_protocol::signed::Unverified;

use crate::machine::{Machine, chosen};
use crate::module::Program;
use crate::{is_in_adm, story};

/// Somebody is logged in as gp-alex.
async fn logged_in(machine: &Machine) -> (Program, GrantId) {
    let mut login = machine.program("login", "gp-alex");
    login.begin(Phase::Authenticate);
    let approval = machine.approve(&login.code(), chosen(AccountKind::Named)).await;
    assert_eq!(login.verdict(), Verdict::Success, "{}", login.said());
    let Outcome::Granted { grant, .. } = approval.outcome().await else { panic!("not granted") };
    assert_eq!(login.phase(Phase::OpenSession), Verdict::Success);
    assert!(is_in_adm("gp-alex"));
    (login, grant)
}

#[test]
fn the_phone_lists_and_ends_the_grant_and_gets_the_receipt() {
    story("endings::the_phone_lists_and_ends_the_grant_and_gets_the_receipt", async || {
        let machine = Machine::new("userdb", false).await;
        let (mut login, grant) = logged_in(&machine).await;
        let listed = machine.order(None).await.report;
        assert_eq!((listed.grants.len(), listed.grants[0].grant, listed.grants[0].sessions), (1, grant, 1));
        assert!(login.runs());

        let ended = machine.order(Some(grant)).await;
        assert!(ended.report.grants.is_empty());
        let receipt = Unverified::<Receipt>::decode(ended.report.receipts[0].clone()).unwrap();
        let agent = machine.trust().agent(&ended.chain, gatepass_client::edge::now()).unwrap();
        let key = agent.statement().key(gatepass_protocol::statement::KeyUse::Sign).unwrap();
        let receipt = receipt.verify(&key).unwrap().into_body();
        assert_eq!(
            (receipt.grant, receipt.account.as_str(), receipt.reason),
            (grant, "gp-alex", EndReason::Technician)
        );
        assert!(!is_in_adm("gp-alex"));
        machine.until("the account is closed", |_| !is_in_adm("gp-alex")).await;
        assert!(!login.runs(), "the session is over");
    });
}

#[test]
fn a_revocation_ends_the_grant_at_once_and_keeps_the_phone_out() {
    story("endings::a_revocation_ends_the_grant_at_once_and_keeps_the_phone_out", async || {
        let mut machine = Machine::new("userdb", false).await;
        let (mut login, grant) = logged_in(&machine).await;
        machine.revoke(2, vec![Serial(grant.0)], true).await;
        let since = Instant::now();
        machine.until("the grant is closed", |machine| machine.grants() == 0).await;
        assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
        assert!(!login.runs() && !is_in_adm("gp-alex"));

        let (mut login, _) = logged_in(&machine).await;
        let device = machine.phone.identity.statement().subject;
        machine.revoke(3, vec![Serial(device)], true).await;
        machine.until("the grant is closed", |machine| machine.grants() == 0).await;
        assert!(!login.runs());
        // Also after a restart that hears of no list: it was kept.
        machine.kill();
        machine.control.statements.lock().unwrap().revocation = None;
        machine.start(&[]).await;
        assert_eq!(machine.status()["revocation_epoch"], 3);
    });
}

#[test]
fn a_revocation_that_only_the_phone_knows_is_fetched_before_anything_is_granted() {
    story("endings::a_revocation_that_only_the_phone_knows_is_fetched_before_anything_is_granted", async || {
        let mut machine = Machine::new("userdb", false).await;
        // The relay says nothing; the phone has it from elsewhere, and it is about another phone.
        machine.revoke(2, vec![Serial([9; 16])], false).await;
        assert_eq!(machine.status()["revocation_epoch"], 1);
        logged_in(&machine).await;
        assert_eq!(machine.status()["revocation_epoch"], 2);
    });
}

#[test]
fn a_policy_is_never_taken_back() {
    story("endings::a_policy_is_never_taken_back", async || {
        let mut machine = Machine::new("userdb", false).await;
        let (old, new) = (machine.tenant.policy(4, true), machine.tenant.policy(5, true));
        machine.relay.as_ref().unwrap().announce(&new).await;
        machine.until("policy 5 is in force", |machine| machine.status()["policy_epoch"] == 5).await;
        machine.control.statements.lock().unwrap().policy = Some(gatepass_client::api::Base64(old));
        machine.kill();
        machine.start(&[]).await;
        machine.until("the old policy was looked at", |machine| machine.log().contains("list was refused")).await;
        assert_eq!(machine.status()["policy_epoch"], 5);
    });
}

#[test]
fn root_ends_a_grant_at_the_computer() {
    story("endings::root_ends_a_grant_at_the_computer", async || {
        let machine = Machine::new("userdb", false).await;
        let (mut login, grant) = logged_in(&machine).await;
        let wrong = machine.command(&["end", "zz"]);
        assert!(String::from_utf8_lossy(&wrong.stderr).contains("no open grant"), "{wrong:?}");
        let ended = machine.command(&["end", &grant.to_string()[..6]]);
        assert!(ended.status.success(), "{ended:?}");
        assert_eq!(machine.grants(), 0);
        machine.until("the session is over", |_| true).await;
        assert!(!login.runs() && !is_in_adm("gp-alex"));
    });
}

#[test]
fn a_session_whose_program_was_killed_is_a_logout() {
    story("endings::a_session_whose_program_was_killed_is_a_logout", async || {
        let machine = Machine::new("userdb", false).await;
        let (login, _) = logged_in(&machine).await;
        drop(login);
        machine.until("the grant is closed", |machine| machine.grants() == 0).await;
        assert!(!is_in_adm("gp-alex"));
    });
}

#[test]
fn a_killed_agent_takes_up_running_sessions_and_ends_what_has_none() {
    story("endings::a_killed_agent_takes_up_running_sessions_and_ends_what_has_none", async || {
        for provider in ["userdb"] {
            let mut machine = Machine::new(provider, false).await;
            let (mut login, grant) = logged_in(&machine).await;
            machine.kill();
            machine.start(&[]).await;
            assert!(is_in_adm("gp-alex"), "the session goes on with its groups");
            assert_eq!(machine.status()["grants"][0]["grant"], grant.to_string());
            assert!(login.runs());
            machine.kill();
            drop(login);
            machine.start(&[]).await;
            assert_eq!(machine.grants(), 0);
            assert!(!is_in_adm("gp-alex"));
        }
    });
}

#[test]
fn an_ended_grant_lets_nobody_in_by_its_old_name() {
    story("endings::an_ended_grant_lets_nobody_in_by_its_old_name", async || {
        let machine = Machine::new("userdb", false).await;
        let (mut login, _) = logged_in(&machine).await;
        assert_eq!(login.phase(Phase::CloseSession), Verdict::Success);
        machine.until("the grant is closed", |machine| machine.grants() == 0).await;
        assert_eq!(machine.program("login", "gp-alex").phase(Phase::Account), Verdict::Expired);
        assert_eq!(machine.program("login", "gp-alex").phase(Phase::OpenSession), Verdict::Expired);
    });
}

#[test]
fn a_revoked_phone_is_told_so() {
    story("endings::a_revoked_phone_is_told_so", async || {
        let mut machine = Machine::new("userdb", false).await;
        let technician = machine.phone.identity.terms().technician.0;
        let mut login = machine.program("login", "gp-alex");
        login.begin(Phase::Authenticate);
        let code = login.code();
        let trusting = machine.trust();
        machine.revoke(2, vec![Serial(technician)], false).await;
        // The relay of the test does not know of it, nor does the phone; the agent does.
        machine.kill();
        machine.start(&[]).await;
        drop(login);
        let mut login = machine.program("login", "gp-alex");
        login.begin(Phase::Authenticate);
        machine.until("the list was fetched", |machine| machine.status()["revocation_epoch"] == 2).await;
        let failed = machine.approve_trusting(&login.code(), chosen(AccountKind::Named), trusting).await;
        assert!(failed.is_err_and(|error| error.to_string().contains(Code::Revoked.message())));
        assert_eq!(login.verdict(), Verdict::Denied);
        assert!(login.said().contains("revoked"), "{}", login.said());
        drop(code);
    });
}
