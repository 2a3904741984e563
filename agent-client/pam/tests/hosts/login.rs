//! login at the console, which becomes whichever account was approved.

use gatepass_logon::wire::{FromDaemon, Phase};

use crate::CODE;
use crate::daemon::Daemon;
use crate::jail::{in_jail, run};
use crate::terminal::Terminal;

#[test]
fn a_technician_scans_and_gets_a_shell_as_a_fresh_account() {
    in_jail(|| {
        run("useradd -m -s /bin/bash alex_566054625600");
        let (approve, approved) = std::sync::mpsc::channel();
        let approved = std::sync::Mutex::new(approved);
        let daemon = Daemon::serve(move |start, line| {
            assert!(start.renames);
            line.show_picture(start);
            approved.lock().unwrap().recv().unwrap();
            line.say(&FromDaemon::SetUser("alex_566054625600".into()));
            line.grant();
        });
        // A name that no account has: it is only what the technician calls themselves.
        let terminal = Terminal::open("login");
        terminal.wait_for("login:");
        terminal.type_line("alex");
        terminal.wait_for("Waiting for your approval");
        assert_eq!(terminal.photographed(), CODE);
        approve.send(()).unwrap();
        terminal.wait_for("$");
        terminal.type_line("clear; id -un; env | grep GATEPASS_UNTIL");
        let screen = terminal.wait_for("GATEPASS_UNTIL=14:30");
        assert!(screen.contains("alex_566054625600\n"), "{screen}");
        terminal.type_line("exit");
        daemon.wait_for(Phase::CloseSession);
        let told = daemon.told();
        let users: Vec<_> = told.iter().map(|one| one.start.user.as_str()).collect();
        assert_eq!(users, ["alex", "alex_566054625600", "alex_566054625600", "alex_566054625600"]);
        // All in the process of login, which stays the parent of the shell.
        assert!(told.iter().all(|one| one.pid == told[0].pid), "{told:?}");
        assert!(told.iter().skip(1).all(|one| one.start.session == Some([0x5e; 16])));
    });
}

#[test]
fn a_denial_is_said_and_login_asks_again() {
    in_jail(|| {
        let _daemon = Daemon::serve(|start, line| {
            line.show_picture(start);
            line.deny();
        });
        let terminal = Terminal::open("login gp-tess");
        terminal.wait_for("Denied on the phone.");
        terminal.wait_for("Login incorrect");
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
        let terminal = Terminal::open("login gp-tess");
        terminal.wait_for("Waiting for your approval");
        terminal.press("C-c");
        assert_eq!(told.recv().unwrap(), None);
    });
}

#[test]
fn a_small_terminal_gets_the_code_as_text() {
    in_jail(|| {
        let _daemon = Daemon::serve(|start, line| {
            line.show_picture(start);
            line.hear();
        });
        let terminal = Terminal::open("stty rows 20; LANG=C login -p gp-tess");
        let screen = terminal.wait_for("Waiting for your approval");
        assert!(screen.contains("GP1: QED8 WEX0 _C91"), "{screen}");
    });
}
