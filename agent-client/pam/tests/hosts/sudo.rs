//! Somebody without any sudo right runs one command as root, by phone.

use gatepass_logon::text::CODE_PROMPT;
use gatepass_logon::wire::{FromDaemon, FromModule, MAX_FRAME, Phase, Secret, Verdict};

use crate::CODE;
use crate::daemon::Daemon;
use crate::jail::{PASSWORD, in_jail};
use crate::terminal::Terminal;

#[test]
fn a_user_scans_types_the_digits_and_the_command_runs_as_root() {
    in_jail(|| {
        let (approve, approved) = std::sync::mpsc::channel();
        let approved = std::sync::Mutex::new(approved);
        let daemon = Daemon::serve(move |start, line| {
            line.show_picture(start);
            approved.lock().unwrap().recv().unwrap();
            line.say(&FromDaemon::Prompt { text: CODE_PROMPT.into(), echo: true });
            assert_eq!(line.hear(), Some(FromModule::Answer(Secret::new("831".into()))));
            line.grant();
        });
        let terminal = Terminal::of_tess();
        terminal.type_line("sudo sh -c 'id -un; env'");
        terminal.wait_for("Waiting for your approval");
        assert_eq!(terminal.photographed(), CODE);
        approve.send(()).unwrap();
        terminal.wait_for(CODE_PROMPT.trim_end());
        terminal.type_line("831");
        let screen = terminal.wait_for("SUDO_USER=tess");
        assert!(screen.contains("root\n") && screen.contains("GATEPASS_UNTIL=14:30"), "{screen}");

        daemon.wait_for(Phase::CloseSession);
        let told = daemon.told();
        assert_eq!(daemon.phases(), [Phase::Authenticate, Phase::Account, Phase::OpenSession, Phase::CloseSession]);
        // One process for all, the user is who asks, then whom the command runs as.
        assert!(told.iter().all(|one| one.pid == told[0].pid && one.pid == one.start.pid), "{told:?}");
        let users: Vec<_> = told.iter().map(|told| told.start.user.as_str()).collect();
        assert_eq!(users, ["tess", "tess", "root", "root"]);
        assert!(told.iter().all(|told| told.start.ruser == "tess" && told.start.service == "gatepass-sudo"));
        assert!(told.iter().skip(1).all(|told| told.start.session == Some([0x5e; 16])));
    });
}

#[test]
fn a_denial_is_said_and_the_own_password_is_never_asked_for() {
    in_jail(|| {
        let daemon = Daemon::serve(|start, line| {
            line.show_picture(start);
            line.deny();
        });
        let terminal = Terminal::of_tess();
        for (n, command) in ["sudo id -u", "sudo -i id -u", "sudo -s id -u"].into_iter().enumerate() {
            terminal.type_line(&format!("clear; {command}; echo code {n} $?"));
            let screen = terminal.wait_for(&format!("code {n} 1"));
            assert!(screen.contains("Denied on the phone."), "{screen}");
            assert!(!screen.contains("assword for"), "{screen}");
            // Asked once for each command, whichever service it goes by.
            assert_eq!(daemon.phases().len(), n + 1);
        }
    });
}

#[test]
fn each_command_needs_its_own_approval() {
    in_jail(|| {
        let daemon = Daemon::serve(|_, line| line.grant());
        let terminal = Terminal::of_tess();
        terminal.type_line("sudo true; sudo true; echo done $?");
        terminal.wait_for("done 0");
        let asked = daemon.phases().into_iter().filter(|phase| *phase == Phase::Authenticate).count();
        assert_eq!(asked, 2);
    });
}

#[test]
fn nothing_that_the_phone_does_not_show_reaches_the_command() {
    in_jail(|| {
        let _daemon = Daemon::serve(|_, line| line.grant());
        let terminal = Terminal::of_tess();
        for (n, options) in ["-E", "-HE", "--preserve-env=GIT_PAGER"].into_iter().enumerate() {
            terminal.type_line(&format!(
                "clear; BASH_ENV=/tmp/evil GIT_PAGER=/tmp/evil sudo {options} env; echo code {n} $?"
            ));
            let screen = terminal.wait_for(&format!("code {n} 1"));
            assert!(screen.contains("not allowed to") && !screen.contains("=/tmp/evil\n"), "{screen}");
        }
    });
}

#[test]
fn nothing_runs_in_a_session_that_the_agent_does_not_take() {
    let refusals: [fn(&mut crate::daemon::Line); 2] =
        [|line| line.say(&FromDaemon::Done(Verdict::Expired)), |line| line.raw(b"")];
    in_jail(|| {
        let terminal = Terminal::of_tess();
        for (n, refuses) in refusals.into_iter().enumerate() {
            let daemon = Daemon::serve_with(|_, line| line.grant(), refuses);
            terminal.type_line(&format!("clear; sudo id -un; echo code {n} $?"));
            let screen = terminal.wait_for(&format!("code {n} 1"));
            assert!(!screen.contains("root"), "{screen}");
            assert_eq!(daemon.phases(), [Phase::Authenticate, Phase::Account, Phase::OpenSession]);
            std::fs::remove_file(crate::jail::SOCKET).unwrap();
        }
    });
}

#[test]
fn ctrl_c_while_waiting_ends_it() {
    in_jail(|| {
        let daemon = Daemon::serve(|start, line| {
            line.show_picture(start);
            line.hear();
        });
        let terminal = Terminal::of_tess();
        terminal.type_line("sudo id -u; echo code $?");
        terminal.wait_for("Waiting for your approval");
        terminal.press("C-c");
        daemon.wait_to_hear(&FromModule::Cancelled);
        terminal.wait_for("tess>");
        assert_eq!(daemon.phases(), [Phase::Authenticate]);
    });
}

#[test]
fn ctrl_c_at_the_digits_ends_it() {
    in_jail(|| {
        let daemon = Daemon::serve(|_, line| {
            line.say(&FromDaemon::Prompt { text: CODE_PROMPT.into(), echo: true });
            line.hear();
        });
        let terminal = Terminal::of_tess();
        terminal.type_line("sudo id -u; echo code $?");
        terminal.wait_for(CODE_PROMPT.trim_end());
        terminal.press("C-c");
        daemon.wait_to_hear(&FromModule::Cancelled);
        assert_eq!(daemon.phases(), [Phase::Authenticate]);
    });
}

#[test]
fn without_an_agent_a_sentence_says_so_and_no_password_helps() {
    in_jail(|| {
        let terminal = Terminal::of_tess();
        terminal.type_line("sudo id -u; echo code $?");
        let screen = terminal.wait_for("code 1");
        assert!(screen.contains("agent does not answer") && screen.contains("As root run:"), "{screen}");
        assert!(!screen.contains(PASSWORD) && !screen.contains("assword for"), "{screen}");
    });
}

#[test]
fn an_agent_that_dies_or_talks_nonsense_lets_nobody_in() {
    in_jail(|| {
        let turn = std::sync::atomic::AtomicUsize::new(0);
        let _daemon = Daemon::serve(move |start, line| match turn.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0 => line.show_picture(start),
            1 => line.raw(b"\xff\xff\xff\xff endless"),
            2 => line.raw(&[&(MAX_FRAME as u32).to_be_bytes()[..], &[0x81]].concat()),
            _ => line.raw(b"SSH-2.0-OpenSSH_9.2\r\n"),
        });
        let terminal = Terminal::of_tess();
        for turn in 0..4 {
            terminal.type_line(&format!("clear; sudo id -u; echo code {turn} $?"));
            let screen = terminal.wait_for(&format!("code {turn} 1"));
            assert!(screen.contains("agent stopped in the middle"), "{screen}");
        }
    });
}

#[test]
fn hostile_texts_do_not_reach_the_terminal() {
    in_jail(|| {
        let _daemon = Daemon::serve(|_, line| {
            line.say(&FromDaemon::Info("\x1b[2J\x1b[1;1H\x1b]0;owned\x07info\r".into()));
            line.say(&FromDaemon::Prompt { text: "\x1b[8mprompt \u{202e}".into(), echo: true });
            line.hear();
            line.deny();
        });
        let terminal = Terminal::of_tess();
        terminal.type_line("sudo id -u; echo code $?");
        let screen = terminal.wait_for("prompt");
        assert!(screen.contains("?[2J?[1;1H?]0;owned?info?") && screen.contains("?[8mprompt ?"), "{screen}");
    });
}
