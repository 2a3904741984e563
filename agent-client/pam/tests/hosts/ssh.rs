//! A stock ssh client against a real sshd.

use std::net::TcpListener;

use gatepass_logon::text::{CODE_PROMPT, Refusal};
use gatepass_logon::wire::{FromDaemon, FromModule, Phase, Secret, Verdict};

use crate::CODE;
use crate::daemon::{Daemon, wait};
use crate::jail::{PASSWORD, in_jail, run};
use crate::terminal::Terminal;

/// Starts sshd; the client's command line up to the user's name.
fn sshd() -> String {
    run("ssh-keygen -q -A");
    // Free a moment ago; the jail shares the machine's network.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = format!(
        "Port {port}\nListenAddress 127.0.0.1\nUsePAM yes\nKbdInteractiveAuthentication yes\nPasswordAuthentication no\nPidFile none\n"
    );
    std::fs::write("/run/sshd_config", config).unwrap();
    run("/usr/sbin/sshd -f /run/sshd_config -E /run/sshd.log");
    format!("ssh -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -p {port} -l")
}

#[test]
fn a_technician_scans_presses_enter_types_the_digits_and_gets_a_shell() {
    in_jail(|| {
        let daemon = Daemon::serve(|start, line| {
            assert!(!start.live);
            line.show_picture(start);
            line.say(&FromDaemon::Prompt { text: CODE_PROMPT.into(), echo: true });
            assert_eq!(line.hear(), Some(FromModule::Answer(Secret::new("831".into()))));
            line.say(&FromDaemon::SetUser("gp-tess".into()));
            line.grant();
        });
        let ssh = sshd();
        let terminal = Terminal::open(&format!("{ssh} gp-tess 127.0.0.1"));
        terminal.wait_for("then press Enter");
        assert_eq!(terminal.photographed(), CODE);
        terminal.press("Enter");
        terminal.wait_for(CODE_PROMPT.trim_end());
        terminal.type_line("831");
        terminal.wait_for("$");
        terminal.type_line("clear; id -un; env | grep GATEPASS_UNTIL");
        let screen = terminal.wait_for("GATEPASS_UNTIL=14:30");
        assert!(screen.contains("gp-tess\n"), "{screen}");

        let told = daemon.told();
        assert_eq!(daemon.phases(), [Phase::Authenticate, Phase::Account, Phase::OpenSession]);
        assert!(
            told.iter()
                .all(|one| one.start.user == "gp-tess" && one.start.rhost == "127.0.0.1" && one.start.tty == "ssh")
        );
        // sshd authenticates in a process that is gone by the time the session opens, in its parent, the ancestor of the shell. The
        // grant's id gets there all the same.
        assert_eq!(told[0].pid, told[1].pid);
        let session = &told[2];
        assert_ne!(told[0].pid, session.pid);
        assert_eq!(session.start.session, Some([0x5e; 16]));
        assert!(run(&format!("ps -o args= --pid {}", session.pid)).contains("gp-tess [priv]"));
        assert!(!std::fs::exists(format!("/proc/{}", told[0].pid)).unwrap());

        terminal.type_line("exit");
        assert_eq!(daemon.wait_for(Phase::CloseSession).pid, session.pid);
    });
}

#[test]
fn a_denial_is_said_and_no_password_is_asked_for() {
    in_jail(|| {
        let _daemon = Daemon::serve(|start, line| {
            line.show_picture(start);
            line.deny();
        });
        let ssh = sshd();
        let terminal = Terminal::open(&format!("{ssh} gp-tess -o NumberOfPasswordPrompts=1 127.0.0.1; echo code $?"));
        terminal.wait_for("then press Enter");
        terminal.press("Enter");
        terminal.wait_for("Denied on the phone.");
        let screen = terminal.wait_for("code 255");
        assert!(screen.contains("Permission denied") && !screen.contains("Password:"), "{screen}");
    });
}

#[test]
fn an_agent_that_is_not_there_or_dies_is_said() {
    in_jail(|| {
        let ssh = sshd();
        let terminal = Terminal::open(&format!("{ssh} gp-tess 127.0.0.1"));
        let screen = terminal.wait_for("Password:");
        assert!(screen.contains("agent does not answer at /run/gatepass/pam.sock"), "{screen}");

        let _daemon = Daemon::serve(|start, line| line.show_picture(start));
        let terminal = Terminal::open(&format!("{ssh} gp-tess 127.0.0.1"));
        terminal.wait_for("then press Enter");
        terminal.press("Enter");
        let gone = Refusal::AgentGone.to_string();
        let screen = terminal.wait_for(&gone[..40]);
        assert!(!screen.contains('$'), "{screen}");
    });
}

#[test]
fn a_client_that_goes_away_leaves_nobody_waiting() {
    in_jail(|| {
        let (tell, told) = std::sync::mpsc::channel();
        let _daemon = Daemon::serve(move |start, line| {
            line.say(&FromDaemon::Prompt {
                text: gatepass_logon::text::approve_then_enter(CODE, start.style),
                echo: true,
            });
            tell.send(line.hear()).unwrap();
        });
        let ssh = sshd();
        let terminal = Terminal::open(&format!("{ssh} gp-tess 127.0.0.1"));
        terminal.wait_for("then press Enter");
        terminal.press("C-c");
        assert!(matches!(told.recv().unwrap(), None | Some(FromModule::Cancelled)));
    });
}

#[test]
fn ssh_never_becomes_somebody_else_than_was_approved() {
    in_jail(|| {
        let daemon = Daemon::serve(|start, line| {
            line.show_picture(start);
            // As if the technician had approved an account of their own for somebody who named another one.
            line.say(&FromDaemon::SetUser("gp-tess".into()));
            line.grant();
        });
        let ssh = sshd();
        let terminal = Terminal::open(&format!("{ssh} tess 127.0.0.1"));
        terminal.wait_for("then press Enter");
        terminal.press("Enter");
        terminal.wait_for("can only log in the account");
        assert_eq!(daemon.phases(), [Phase::Authenticate]);
    });
}

#[test]
fn a_name_that_nobody_has_does_not_get_in_even_if_approved() {
    in_jail(|| {
        let daemon = Daemon::serve(|start, line| {
            line.show_picture(start);
            line.grant();
        });
        let ssh = sshd();
        let terminal = Terminal::open(&format!("{ssh} nobodyhere 127.0.0.1; echo code $?"));
        terminal.wait_for("then press Enter");
        terminal.press("Enter");
        terminal.wait_for("code 255");
        assert!(!daemon.phases().contains(&Phase::OpenSession));
    });
}

#[test]
fn an_account_that_is_not_gatepasss_keeps_its_password() {
    in_jail(|| {
        let daemon = Daemon::serve(|_, line| line.say(&FromDaemon::Done(Verdict::Ignore)));
        let ssh = sshd();
        let terminal = Terminal::open(&format!("{ssh} tess 127.0.0.1 id -un"));
        terminal.wait_for("Password:");
        terminal.type_line(PASSWORD);
        wait("tess", || terminal.shows().lines().any(|line| line == "tess").then_some(()));
        daemon.wait_for(Phase::CloseSession);
    });
}
