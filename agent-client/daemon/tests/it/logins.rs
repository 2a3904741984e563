//! Ways in, and ways to be kept out.

use gatepass_logon::wire::{Phase, Verdict};
use gatepass_protocol::Code;
use gatepass_protocol::event::EventKind;
use gatepass_protocol::pairing::messages::Outcome;
use gatepass_protocol::pairing::phone::Scan;
use gatepass_protocol::policy::{AccountKind, Scenario};

use crate::machine::{Machine, chosen};
use crate::{is_in_adm, story};

async fn console_login(provider: &str) {
    let machine = Machine::new(provider, false).await;
    let mut login = machine.program("login", "gatepass");
    login.begin(Phase::Authenticate);
    let approval = machine.approve(&login.code(), chosen(AccountKind::Named)).await;
    assert_eq!(approval.context.scenario, Scenario::Console);
    assert_eq!(approval.context.accounts[0], (AccountKind::Named, "gp-alex".into()));
    assert_eq!(login.verdict(), Verdict::Success, "{}", login.said());
    let Outcome::Granted { grant, account, .. } = approval.outcome().await else { panic!("not granted") };
    assert_eq!((account.as_str(), login.user.as_deref()), ("gp-alex", Some("gp-alex")));
    assert!(login.said().contains("You are gp-alex until"), "{}", login.said());
    assert_eq!(login.phase(Phase::Account), Verdict::Success);
    assert_eq!(login.phase(Phase::OpenSession), Verdict::Success);
    assert!(is_in_adm("gp-alex"));
    assert_eq!(machine.grants(), 1);

    assert_eq!(login.phase(Phase::CloseSession), Verdict::Success);
    machine.until("the grant is closed", |machine| machine.grants() == 0).await;
    assert!(!is_in_adm("gp-alex"));
    machine
        .until("grant and end are in the trail", |machine| {
            let events = machine.control.events();
            let has = |kind| events.iter().any(|event| event.kind == kind && event.grant == Some(grant));
            has(EventKind::Granted) && has(EventKind::Ended)
        })
        .await;
    let numbers: Vec<u64> = machine.control.events().iter().map(|event| event.sequence).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "no event is missing");
}

#[test]
fn technician_logs_in_at_the_console_and_everything_is_gone_after_logout() {
    story("logins::technician_logs_in_at_the_console_and_everything_is_gone_after_logout", async || {
        console_login("userdb").await;
    });
}

#[test]
fn when_its_relay_goes_the_code_on_the_screen_leads_to_the_next() {
    story("logins::when_its_relay_goes_the_code_on_the_screen_leads_to_the_next", async || {
        let mut machine = Machine::new("userdb", false).await;
        let second = machine.second_relay(5).await;
        // Two on one machine: it may take either for the nearer one.
        machine
            .until("the agent knows of both relays", |machine| {
                machine.log().contains("kind=Relays epoch=2")
                    && (machine.is_at(machine.relay.as_ref().unwrap()) || machine.is_at(&second))
            })
            .await;
        let first = machine.relay.take().unwrap();
        let (goes, stays, index) =
            if machine.is_at(&first) { (first, second, 5) } else { (second, first, machine.relay_index) };
        let mut login = machine.program("login", "gatepass");
        login.begin(Phase::Authenticate);
        let before = login.code();
        goes.stop().await;
        // The screen gets a code of the other relay by itself.
        let code = loop {
            let code = login.code();
            if code != before && Scan::from_text(&code).unwrap().relay_idx() == index {
                break code;
            }
        };
        (machine.relay, machine.relay_index) = (Some(stays), index);
        let approval = machine.approve(&code, chosen(AccountKind::Named)).await;
        assert_eq!(login.verdict(), Verdict::Success, "{}", login.said());
        assert!(matches!(approval.outcome().await, Outcome::Granted { .. }));
    });
}

#[test]
fn the_same_with_standing_accounts() {
    story("logins::the_same_with_standing_accounts", async || console_login("standing").await);
}

#[test]
fn the_first_ssh_to_a_standing_account_makes_it_and_the_second_gets_in() {
    story("logins::the_first_ssh_to_a_standing_account_makes_it_and_the_second_gets_in", async || {
        let machine = Machine::new("standing", false).await;
        let mut login = machine.program("sshd", "gp-alex");
        login.begin(Phase::Authenticate);
        assert!(machine.try_to_approve(&login.code(), chosen(AccountKind::Named)).await.is_err());
        login.answer("");
        assert_eq!(login.verdict(), Verdict::Denied);
        assert!(login.said().contains("connect once more"), "{}", login.said());
        assert!(crate::shell("chage -l gp-alex").1.contains("Account expires\t\t\t\t\t\t: Jan 02, 1970"), "locked");
        let mut login = machine.program("sshd", "gp-alex");
        login.begin(Phase::Authenticate);
        machine.approve(&login.code(), chosen(AccountKind::Named)).await;
        login.answer("");
        assert_eq!(login.verdict(), Verdict::Success, "{}", login.said());
        assert_eq!(login.phase(Phase::OpenSession), Verdict::Success);
        assert!(is_in_adm("gp-alex"));
    });
}

#[test]
fn technician_logs_in_by_ssh_with_the_digits_from_the_phone() {
    story("logins::technician_logs_in_by_ssh_with_the_digits_from_the_phone", async || {
        let machine = Machine::new("userdb", true).await;
        let mut login = machine.program("sshd", "gp-alex");
        login.begin(Phase::Authenticate);
        let approval = machine.approve(&login.code(), chosen(AccountKind::Named)).await;
        assert_eq!(approval.context.request.from, "192.0.2.7");
        assert_eq!(machine.grants(), 0, "an approval alone gives nothing where the digits are due");
        login.answer("");
        assert!(login.prompt().contains("3 digits"));
        login.answer(&approval.digits);
        assert_eq!(login.verdict(), Verdict::Success, "{}", login.said());
        assert!(matches!(approval.outcome().await, Outcome::Granted { .. }));
        // sshd opens the session in another process, which knows only the account.
        assert_eq!(login.phase(Phase::Account), Verdict::Success);
        assert_eq!(login.phase(Phase::OpenSession), Verdict::Success);
        assert_eq!(machine.grants(), 1);
    });
}

#[test]
fn wrong_digits_end_the_login_with_the_reason_on_both_sides() {
    story("logins::wrong_digits_end_the_login_with_the_reason_on_both_sides", async || {
        let machine = Machine::new("userdb", true).await;
        let mut login = machine.program("login", "gp-alex");
        login.begin(Phase::Authenticate);
        let approval = machine.approve(&login.code(), chosen(AccountKind::Named)).await;
        assert!(login.prompt().contains("3 digits"));
        let wrong = if approval.digits == "000" { "111" } else { "000" };
        login.answer(wrong);
        assert_eq!(login.verdict(), Verdict::Denied);
        assert!(login.said().contains("not the digits"), "{}", login.said());
        assert_eq!(approval.outcome().await, Outcome::Refused(Code::ConfirmCode));
        assert_eq!((machine.grants(), is_in_adm("gp-alex")), (0, false));
    });
}

#[test]
fn a_denied_login_says_so_and_a_stranger_s_is_an_alert_in_the_trail() {
    story("logins::a_denied_login_says_so_and_a_stranger_s_is_an_alert_in_the_trail", async || {
        let machine = Machine::new("userdb", false).await;
        for (not_me, said, kind) in
            [(false, "Denied on the phone.", EventKind::Denied), (true, "somebody else's request", EventKind::NotMe)]
        {
            let mut login = machine.program("sshd", "gp-alex");
            login.begin(Phase::Authenticate);
            machine.deny(&login.code(), not_me).await;
            login.answer("");
            assert_eq!(login.verdict(), Verdict::Denied);
            assert!(login.said().contains(said), "{}", login.said());
            let is_there = |machine: &Machine| machine.control.events().iter().any(|event| event.kind == kind);
            machine.until("it is in the trail", is_there).await;
        }
        assert_eq!(machine.grants(), 0);
    });
}

#[test]
fn sudo_shows_the_exact_command_and_gets_no_account() {
    story("logins::sudo_shows_the_exact_command_and_gets_no_account", async || {
        let machine = Machine::new("userdb", false).await;
        let mut sudo = machine.program("sudo", "root");
        sudo.asks_as("carol");
        sudo.begin(Phase::Authenticate);
        let approval = machine.approve(&sudo.code(), chosen(AccountKind::Own)).await;
        let (context, request) = (&approval.context, &approval.context.request);
        assert_eq!(context.scenario, Scenario::Elevation);
        assert_eq!(context.accounts, [(AccountKind::Own, "carol".into())]);
        assert!(request.command.ends_with(" be_the_program --exact --nocapture"), "{}", request.command);
        assert_eq!((request.user.as_str(), request.target.as_str()), ("carol", "root"));
        assert_eq!(sudo.verdict(), Verdict::Success, "{}", sudo.said());
        assert_eq!(sudo.user, None, "sudo goes on as who it was");
        assert_eq!(sudo.phase(Phase::OpenSession), Verdict::Success);
        assert_eq!(machine.status()["grants"][0]["account"], "carol");
        assert_eq!(sudo.phase(Phase::CloseSession), Verdict::Success);
        machine.until("the elevation is over", |machine| machine.grants() == 0).await;
    });
}

#[test]
fn a_second_window_joins_the_grant_and_the_last_to_leave_ends_it() {
    story("logins::a_second_window_joins_the_grant_and_the_last_to_leave_ends_it", async || {
        let machine = Machine::new("userdb", false).await;
        let mut windows = Vec::new();
        let mut ids = Vec::new();
        for window in 0..2 {
            let mut login = machine.program("sshd", "gp-alex");
            login.begin(Phase::Authenticate);
            let approval = machine.approve(&login.code(), chosen(AccountKind::Named)).await;
            assert_eq!(approval.context.choices[0].groups.len(), if window == 0 { 2 } else { 1 }, "only what is open");
            login.answer("");
            assert_eq!(login.verdict(), Verdict::Success, "{}", login.said());
            let Outcome::Granted { grant, .. } = approval.outcome().await else { panic!("not granted") };
            ids.push(grant);
            assert_eq!(login.phase(Phase::OpenSession), Verdict::Success);
            windows.push(login);
        }
        assert_eq!(ids[0], ids[1]);
        assert_eq!((machine.grants(), machine.status()["grants"][0]["sessions"].as_u64()), (1, Some(2)));
        assert_eq!(windows[0].phase(Phase::CloseSession), Verdict::Success);
        assert_eq!(machine.status()["grants"][0]["sessions"], 1);
        assert!(windows[1].runs() && is_in_adm("gp-alex"));
        assert_eq!(windows[1].phase(Phase::CloseSession), Verdict::Success);
        machine.until("the grant is closed", |machine| machine.grants() == 0).await;
    });
}

#[test]
fn a_made_up_account_lives_for_one_grant_only() {
    story("logins::a_made_up_account_lives_for_one_grant_only", async || {
        let machine = Machine::new("userdb", false).await;
        let mut login = machine.program("login", "gatepass");
        login.begin(Phase::Authenticate);
        machine.approve(&login.code(), chosen(AccountKind::Random)).await;
        assert_eq!(login.verdict(), Verdict::Success);
        let account = login.user.clone().unwrap();
        assert!(account.starts_with("alex_") && account.len() <= 20, "{account}");
        assert_eq!(login.phase(Phase::OpenSession), Verdict::Success);
        let home = std::path::PathBuf::from(format!("/home/{account}"));
        assert!(is_in_adm(&account) && home.is_dir());
        assert_eq!(login.phase(Phase::CloseSession), Verdict::Success);
        machine.until("the grant is closed", |machine| machine.grants() == 0).await;
        assert!(!home.exists() && !is_in_adm(&account));
    });
}

#[test]
fn a_local_account_of_that_name_is_never_taken_over() {
    story("logins::a_local_account_of_that_name_is_never_taken_over", async || {
        let mut machine = Machine::new("userdb", false).await;
        machine.kill(); // while the agent runs, useradd finds the name taken
        assert_eq!(crate::shell("useradd -m gp-alex").0, 0);
        machine.start(&[]).await;
        let before = crate::shell("getent shadow gp-alex; id gp-alex");
        let mut login = machine.program("login", "gp-alex");
        login.begin(Phase::Authenticate);
        let code = login.code();
        assert!(machine.try_to_approve(&code, chosen(AccountKind::Named)).await.is_err());
        assert_eq!(login.verdict(), Verdict::Denied);
        assert!(login.said().contains("already taken on this computer"), "{}", login.said());
        assert_eq!(crate::shell("getent shadow gp-alex; id gp-alex"), before);
    });
}

#[test]
fn another_technician_s_account_and_other_users_are_left_alone() {
    story("logins::another_technician_s_account_and_other_users_are_left_alone", async || {
        let machine = Machine::new("userdb", false).await;
        let mut login = machine.program("login", "gp-carol");
        login.begin(Phase::Authenticate);
        let code = login.code();
        assert!(machine.try_to_approve(&code, chosen(AccountKind::Named)).await.is_err());
        assert_eq!(login.verdict(), Verdict::Denied);
        assert!(login.said().contains("Log in as gp-alex"), "{}", login.said());
        for user in ["root", "nobody", "../../etc", "$(id)", "gp-", ""] {
            assert_eq!(machine.program("login", user).phase(Phase::Authenticate), Verdict::Ignore, "{user:?}");
            assert_eq!(machine.program("login", user).phase(Phase::Account), Verdict::Ignore, "{user:?}");
            assert_eq!(machine.program("login", user).phase(Phase::OpenSession), Verdict::Ignore, "{user:?}");
        }
    });
}
