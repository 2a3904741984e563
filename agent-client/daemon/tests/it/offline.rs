//! Offline codes, as somebody tries them who should not get in: guessed, used twice, of another time or computer.

use gatepass_logon::wire::{Phase, Verdict};
use gatepass_mobile::offline::{Asked, Freshness};
use gatepass_protocol::event::EventKind;
use gatepass_protocol::ids::ComputerId;
use gatepass_protocol::offline::{Challenge, OfflineTerms};
use gatepass_protocol::policy::Scenario;
use gatepass_protocol::testing::{offline_terms, otp_key};

use crate::machine::Machine;
use crate::module::Program;
use crate::{is_in_adm, story};

impl Machine {
    /// A computer whose relay went away after it had heard everything.
    async fn offline(terms: &OfflineTerms) -> Self {
        let mut machine = Machine::with_codes(terms).await;
        let knows = |machine: &Machine| machine.status()["offline_codes"].to_string().contains("1 phones known");
        machine.until("the phone is known", knows).await;
        machine.relay.take().unwrap().stop().await;
        machine
    }

    fn computer(&self) -> ComputerId {
        self.status()["computer"].as_str().unwrap().parse().unwrap()
    }

    /// What the technician's phone shows.
    fn code(&self, fresh: Freshness, account: &str) -> String {
        let (trust, now) = (self.trust(), gatepass_client::edge::now());
        let device = trust.device(&self.phone.identity.chain, now).unwrap();
        let agent = trust.agent(&self.chain(), now).unwrap();
        let asked = Asked::new(&device, &agent, &trust, fresh, account, now).unwrap();
        let own = otp_key(&device.statement().subject);
        asked.code(&asked.offers()[0], &own, &device, &agent, now).unwrap().to_string()
    }

    fn challenge(&self, prompt: &str) -> Challenge {
        let text = prompt.split("challenge ").nth(1).unwrap().lines().next().unwrap();
        Challenge::from_text(text, self.computer()).unwrap()
    }

    /// The answer to what is asked.
    fn answer_to(&self, prompt: &str, account: &str) -> String {
        self.code(Freshness::Challenge(self.challenge(prompt)), account)
    }
}

fn ssh(machine: &Machine) -> Program {
    let mut login = machine.program("sshd", "gp-alex");
    login.begin(Phase::Authenticate);
    login
}

/// Types wrong codes for as long as one is asked for.
fn guess(login: &mut Program) {
    for _ in 0..3 {
        assert!(login.prompt().contains("The code:"));
        login.answer("12345678");
    }
    assert_eq!(login.verdict(), Verdict::Denied, "{}", login.said());
}

#[test]
fn a_code_opens_the_account_and_is_in_the_trail() {
    story("offline::a_code_opens_the_account_and_is_in_the_trail", async || {
        let machine = Machine::offline(&offline_terms()).await;
        let mut login = ssh(&machine);
        let prompt = login.prompt();
        login.answer(&machine.answer_to(&prompt, ""));
        assert_eq!(login.verdict(), Verdict::Success, "{}", login.said());
        assert!(login.said().contains("You are gp-alex until"), "{}", login.said());
        assert_eq!(login.phase(Phase::Account), Verdict::Success);
        assert!(is_in_adm("gp-alex"));
        let is_it = |event: &gatepass_protocol::event::Event| {
            event.kind == EventKind::Granted && event.text.starts_with("by offline code; in adm, sudo")
        };
        machine.until("it is in the trail", |machine| machine.control.events().iter().any(is_it)).await;
    });
}

#[test]
fn at_the_console_the_technician_says_who_it_is() {
    story("offline::at_the_console_the_technician_says_who_it_is", async || {
        let machine = Machine::offline(&offline_terms()).await;
        let mut login = machine.program("login", "gatepass");
        login.begin(Phase::Authenticate);
        assert!(login.prompt().contains("Your name as a technician"));
        login.answer("alex");
        let prompt = login.prompt();
        login.answer(&machine.answer_to(&prompt, ""));
        assert_eq!(login.verdict(), Verdict::Success, "{}", login.said());
        assert_eq!(login.user.as_deref(), Some("gp-alex"));
    });
}

#[test]
fn a_code_is_good_for_one_login_one_computer_and_one_account() {
    story("offline::a_code_is_good_for_one_login_one_computer_and_one_account", async || {
        let machine = Machine::offline(&offline_terms()).await;
        let mut first = ssh(&machine);
        let used = machine.answer_to(&first.prompt(), "");
        first.answer(&used);
        assert_eq!(first.verdict(), Verdict::Success);

        let mut second = ssh(&machine);
        let prompt = second.prompt();
        second.answer(&used);
        assert!(second.prompt().contains("not the code; 2 tries are left"));
        let other = machine.challenge(&prompt);
        second.answer(&machine.code(Freshness::Challenge(other), "gp-kim"));
        assert!(second.prompt().contains("not the code; 1 try is left"));
        let elsewhere = ComputerId([9; 16]);
        assert!(
            Challenge::from_text(&other.text(), elsewhere).is_err(),
            "a phone notices that it is another computer's"
        );
        second.answer("");
        assert_eq!(second.verdict(), Verdict::Denied);
    });
}

#[test]
fn who_guesses_is_locked_out_and_stays_so_after_a_restart() {
    story("offline::who_guesses_is_locked_out_and_stays_so_after_a_restart", async || {
        let mut machine = Machine::offline(&offline_terms()).await;
        guess(&mut ssh(&machine));
        let mut login = ssh(&machine);
        for _ in 0..2 {
            login.prompt();
            login.answer("00000000");
        }
        // The fifth failure in a row: the third try of this login is not even compared.
        login.prompt();
        login.answer("00000000");
        assert_eq!(login.verdict(), Verdict::Denied);
        assert!(login.said().contains("Too many wrong offline codes"), "{}", login.said());
        machine.kill();
        machine.spawn(&[]);
        machine.until("the agent serves", |machine| machine.status()["grants"].is_array()).await;
        let mut login = ssh(&machine);
        assert_eq!(login.verdict(), Verdict::Denied);
        assert!(login.said().contains("Too many wrong offline codes"), "{}", login.said());
        let alert = |event: &gatepass_protocol::event::Event| event.kind == EventKind::Alert;
        machine.until("it is in the trail", |machine| machine.control.events().iter().any(alert)).await;
    });
}

#[test]
fn who_takes_the_counters_away_gets_no_further_guess() {
    story("offline::who_takes_the_counters_away_gets_no_further_guess", async || {
        let mut machine = Machine::offline(&offline_terms()).await;
        guess(&mut ssh(&machine));
        machine.control.away.store(true, std::sync::atomic::Ordering::Relaxed);
        machine.kill();
        std::fs::remove_file(machine.at("state/offline.json")).unwrap();
        machine.spawn(&[]);
        machine.until("the agent serves", |machine| machine.status()["grants"].is_array()).await;
        let mut login = ssh(&machine);
        assert_eq!(login.verdict(), Verdict::Unavailable);
        assert!(login.said().contains("takes no offline code"), "{}", login.said());
    });
}

#[test]
fn codes_by_the_time_are_taken_only_where_the_policy_says_so_and_once() {
    story("offline::codes_by_the_time_are_taken_only_where_the_policy_says_so_and_once", async || {
        let terms = OfflineTerms { time_codes: true, ..offline_terms() };
        let mut machine = Machine::offline(&terms).await;
        // Counters that are new take no code by the time of the first minute and a half. These are older.
        machine.kill();
        let counters = machine.at("state/offline.json");
        let mut kept: serde_json::Value = serde_json::from_slice(&std::fs::read(&counters).unwrap()).unwrap();
        kept["first_step"] = 0.into();
        std::fs::write(&counters, kept.to_string()).unwrap();
        machine.spawn(&[]);
        machine.until("the agent serves", |machine| machine.status()["grants"].is_array()).await;
        let code = machine.code(Freshness::Time(Scenario::Ssh), "");
        for verdict in [Verdict::Success, Verdict::Denied] {
            let mut login = ssh(&machine);
            login.prompt();
            login.answer(&code);
            if verdict == Verdict::Denied {
                assert!(login.prompt().contains("not the code"));
                login.answer("");
            }
            assert_eq!(login.verdict(), verdict, "{}", login.said());
        }
    });
}

#[test]
fn while_the_relay_is_there_a_code_is_taken_only_where_the_policy_says_so() {
    story("offline::while_the_relay_is_there_a_code_is_taken_only_where_the_policy_says_so", async || {
        let machine = Machine::with_codes(&offline_terms()).await;
        let mut login = ssh(&machine);
        login.code();
        drop((login, machine));

        let machine = Machine::with_codes(&OfflineTerms { while_online: true, ..offline_terms() }).await;
        let knows = |machine: &Machine| machine.status()["offline_codes"].to_string().contains("1 phones known");
        machine.until("the phone is known", knows).await;
        let mut login = ssh(&machine);
        assert!(login.prompt().contains("type o for an offline code"));
        login.answer("o");
        let prompt = login.prompt();
        login.answer(&machine.answer_to(&prompt, ""));
        assert_eq!(login.verdict(), Verdict::Success, "{}", login.said());
        let mut login = ssh(&machine);
        login.prompt();
        login.answer("");
        login.code();
    });
}
