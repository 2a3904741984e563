//! su to root, to an account of Gatepass, and to anybody else.

use gatepass_logon::wire::{FromDaemon, FromModule, Phase, Verdict};

use crate::CODE;
use crate::daemon::Daemon;
use crate::jail::{PASSWORD, in_jail, run};
use crate::terminal::Terminal;

#[test]
fn a_user_scans_and_becomes_root() {
    in_jail(|| {
        let (approve, approved) = std::sync::mpsc::channel();
        let approved = std::sync::Mutex::new(approved);
        let daemon = Daemon::serve(move |start, line| {
            line.show_picture(start);
            approved.lock().unwrap().recv().unwrap();
            line.grant();
        });
        let terminal = Terminal::of_tess();
        terminal.type_line("su -c 'id -un; env | grep GATEPASS_U; ps -o pid= $PPID'");
        terminal.wait_for("Waiting for your approval");
        assert_eq!(terminal.photographed(), CODE);
        approve.send(()).unwrap();
        let screen = terminal.wait_for("GATEPASS_UNTIL=14:30");
        assert!(screen.contains("root\n"), "{screen}");
        daemon.wait_for(Phase::CloseSession);
        let told = daemon.told();
        assert!(told.iter().all(|one| one.start.user == "root" && one.start.ruser == "tess"));
        // All in the process of su, which stays the parent of the shell.
        assert!(told.iter().all(|one| one.pid == told[0].pid), "{told:?}");
        assert!(told.iter().skip(1).all(|one| one.start.session == Some([0x5e; 16])));
    });
}

#[test]
fn a_denial_is_final_and_no_password_is_asked_for() {
    in_jail(|| {
        let _daemon = Daemon::serve(|start, line| {
            line.show_picture(start);
            line.deny();
        });
        let terminal = Terminal::of_tess();
        terminal.type_line("su - -c 'id -u'; echo code $?");
        let screen = terminal.wait_for("code 1");
        assert!(screen.contains("Denied on the phone.") && !screen.contains("Password:"), "{screen}");
    });
}

#[test]
fn ctrl_c_while_waiting_ends_it() {
    in_jail(|| {
        let (tell, told) = std::sync::mpsc::channel();
        let _daemon = Daemon::serve(move |start, line| {
            line.show_picture(start);
            tell.send(line.hear()).unwrap();
        });
        let terminal = Terminal::of_tess();
        terminal.type_line("su -c 'id -u'");
        terminal.wait_for("Waiting for your approval");
        terminal.press("C-c");
        assert!(matches!(told.recv().unwrap(), None | Some(FromModule::Cancelled)));
    });
}

#[test]
fn an_agent_that_died_before_the_answer_does_not_take_su_with_it() {
    in_jail(|| {
        let _daemon = Daemon::serve(|_, line| line.say(&FromDaemon::Prompt { text: "digits:".into(), echo: true }));
        let terminal = Terminal::of_tess();
        terminal.type_line("su -c 'id -u'; echo code $?");
        terminal.wait_for("digits:");
        // su does not ignore SIGPIPE, as sudo does: only the flag on each send keeps it alive.
        terminal.type_line("831");
        terminal.wait_for("agent stopped in the middle");
        terminal.wait_for("Password:");
        terminal.type_line(PASSWORD);
        terminal.wait_for("code 1");
    });
}

#[test]
fn su_never_becomes_somebody_else_than_was_approved() {
    in_jail(|| {
        run("useradd -m gp-other");
        let daemon = Daemon::serve(|start, line| {
            assert!(!start.renames);
            line.say(&FromDaemon::SetUser("gp-other".into()));
            line.grant();
        });
        let terminal = Terminal::of_tess();
        terminal.type_line("su -c 'id -un' gp-tess; echo code $?");
        terminal.wait_for("can only log in the account that it was asked for");
        // The stack goes on to passwords, of which gp-tess has none.
        terminal.wait_for("Password:");
        terminal.type_line(PASSWORD);
        terminal.wait_for("code 1");
        assert!(!daemon.phases().contains(&Phase::OpenSession));
    });
}

#[test]
fn an_account_that_is_not_gatepasss_keeps_its_password() {
    in_jail(|| {
        let daemon = Daemon::serve(|_, line| line.say(&FromDaemon::Done(Verdict::Ignore)));
        let terminal = Terminal::open("setpriv --reuid gp-tess --regid gp-tess --init-groups su -c 'id -un' tess");
        terminal.wait_for("Password:");
        terminal.type_line(PASSWORD);
        terminal.wait_for("tess");
        daemon.wait_for(Phase::CloseSession);
    });
}
