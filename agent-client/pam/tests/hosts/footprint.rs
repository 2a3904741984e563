//! What the module costs the program that it lives in: no thread, little memory, no library that wasn't there.

use std::process::Command;

use gatepass_logon::wire::FromDaemon;

use crate::daemon::{Daemon, wait};
use crate::jail::{built_module, in_jail, install, run};
use crate::terminal::Terminal;

/// Threads and resident KiB of the `pamtester` that runs now.
fn figures() -> Option<(u64, u64)> {
    let pid = Command::new("pgrep").args(["-x", "pamtester"]).output().unwrap();
    let pid = String::from_utf8(pid.stdout).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.trim())).ok()?;
    let field = |name| status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
    Some((field("Threads:")?, field("VmRSS:")?))
}

#[test]
fn the_module_adds_no_thread_and_less_than_two_megabytes() {
    in_jail(|| {
        // Twice the same program that waits: for a module of Debian's that runs `sleep`, and for ours that asks.
        install("bare", "auth required pam_exec.so /bin/sleep 60\n", "");
        install("with", "auth required pam_gatepass.so\n", "");
        let _daemon = Daemon::serve(|_, line| {
            line.say(&FromDaemon::Prompt { text: "prompt:".into(), echo: true });
            line.hear();
        });
        let _terminal = Terminal::open("pamtester bare gp-tess authenticate");
        wait("pam_exec", || Command::new("pgrep").args(["-x", "sleep"]).status().unwrap().success().then_some(()));
        let (_, without) = figures().unwrap();
        run("pkill -x sleep");
        wait("the end of the first", || figures().is_none().then_some(()));

        let terminal = Terminal::open("pamtester with gp-tess authenticate");
        terminal.wait_for("prompt:");
        let (threads, with) = figures().unwrap();
        assert_eq!(threads, 1);
        assert!(with < without + 2048, "{with} KiB with the module, {without} KiB without");
    });
}

#[test]
fn the_module_needs_no_library_that_its_host_has_not() {
    let listed = Command::new("ldd").arg(built_module()).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    // libaudit and libcap-ng are libpam's own.
    let known = ["linux-vdso", "ld-linux", "libpam.so", "libgcc_s.so", "libc.so", "libaudit.so", "libcap-ng.so"];
    for line in listed.lines() {
        assert!(known.iter().any(|name| line.contains(name)), "{line}");
    }
    assert!(listed.contains("libpam.so"), "{listed}");
}
