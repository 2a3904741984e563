//! Standing accounts with the real shadow tools, in the jail.

use std::{
    io::Read,
    process::{Command, Stdio},
    slice,
    time::Instant,
};

use gatepass_accounts::{
    AccountState, Accounts, Standing, StandingConfig,
    conformance::{self, end, grant, jailed, shell, spec},
};

fn open() -> Standing {
    Standing::open(StandingConfig::default()).expect("the accounts")
}

#[test]
fn standing_accounts_conform() {
    if jailed("standing_accounts_conform") {
        conformance::run(&open());
    }
}

#[test]
fn another_writer_of_the_account_files_is_waited_for_and_then_named() {
    if !jailed("another_writer_of_the_account_files_is_waited_for_and_then_named") {
        return;
    }
    let accounts = open();
    let spec = spec("gp-alex", 1, &["sudo"]);
    grant(&accounts, &spec);
    let lock = "open F, '>>', '/etc/.pwd.lock'; my $l = pack('s s l! l! i', F_WRLCK, 0, 0, 0, 0); fcntl(F, F_SETLK, $l) or die; syswrite(STDOUT, 'held'); sleep 60";
    let mut holder = Command::new("perl").args(["-MFcntl", "-e", lock]).stdout(Stdio::piped()).spawn().unwrap();
    holder.stdout.as_mut().unwrap().read_exact(&mut [0; 4]).unwrap();
    let start = Instant::now();
    let error = accounts.disable(&spec.name).unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("/etc/.pwd.lock"), "{error}");
    assert!(start.elapsed().as_secs() < 10, "it says so before useradd's 15 s");
    holder.kill().unwrap();
    holder.wait().unwrap();
    end(&accounts, &spec.name);
    assert!(matches!(accounts.state(&spec.name).unwrap(), AccountState::Marked(state) if !state.enabled));
}

#[test]
fn a_mark_alone_does_not_make_an_account_ours() {
    if !jailed("a_mark_alone_does_not_make_an_account_ours") {
        return;
    }
    let accounts = open();
    let spec = spec("gp-fake", 1, &[]);
    let mark = format!("Gatepass {}", "01".repeat(16));
    assert_eq!(shell(&format!("useradd -c '{mark}' -u 70005 -K UID_MAX=89999 gp-fake")).0, 0);
    assert_eq!(accounts.state(&spec.name).unwrap(), AccountState::Foreign);
    assert!(accounts.create(&spec).is_err());
    assert!(accounts.remove(&spec.name).is_err());
    assert_eq!(shell("getent passwd gp-fake").0, 0);
}

#[test]
fn a_restarted_agent_finds_its_accounts_and_no_password_opens_one() {
    if !jailed("a_restarted_agent_finds_its_accounts_and_no_password_opens_one") {
        return;
    }
    let spec = spec("gp-alex", 1, &["sudo"]);
    let accounts = open();
    grant(&accounts, &spec);
    drop(accounts);
    let accounts = open();
    assert_eq!(accounts.marked().unwrap(), slice::from_ref(&spec.name));
    assert!(
        matches!(accounts.state(&spec.name).unwrap(), AccountState::Marked(state) if state.enabled && state.expiry.is_some())
    );
    let hash = || shell("getent shadow gp-alex").1.split(':').nth(1).unwrap().to_owned();
    accounts.rotate_password(&spec.name).unwrap();
    let first = hash();
    accounts.rotate_password(&spec.name).unwrap();
    assert_ne!(first, hash());
    end(&accounts, &spec.name);
    assert!(hash().starts_with('!'));
    assert_eq!(shell("passwd -S gp-alex").1.split(' ').nth(1), Some("L"));
    // It can't be opened from outside Gatepass without being seen: what is read back is what counts.
    assert_eq!(shell("usermod -e '' gp-alex").0, 0);
    assert!(matches!(accounts.state(&spec.name).unwrap(), AccountState::Marked(state) if state.enabled));
    accounts.disable(&spec.name).unwrap();
    assert!(matches!(accounts.state(&spec.name).unwrap(), AccountState::Marked(state) if !state.enabled));
}

#[test]
fn the_password_is_seen_by_chpasswd_alone() {
    if !jailed("the_password_is_seen_by_chpasswd_alone") {
        return;
    }
    // A witness in chpasswd's place writes down what anybody could see of it, and what only it could.
    let witness = r##"
        mkdir /run/witness && cp /usr/sbin/chpasswd /run/witness/
        cat >/run/witness/see <<'EOF'
#!/bin/bash
line=$(cat)
{ tr '\0' '\n' </proc/$$/cmdline; tr '\0' '\n' </proc/$$/environ; } >>/run/witness/seen
echo "${line#gp-alex:}" >>/run/witness/passwords
/run/witness/chpasswd <<<"$line"
EOF
        chmod +x /run/witness/see && mount --bind /run/witness/see /usr/sbin/chpasswd"##;
    assert_eq!(shell(witness).0, 0);
    let accounts = open();
    let spec = spec("gp-alex", 1, &["sudo"]);
    grant(&accounts, &spec);
    end(&accounts, &spec.name);
    let (seen, passwords) = (shell("cat /run/witness/seen").1, shell("cat /run/witness/passwords").1);
    assert!(seen.contains("/usr/sbin/chpasswd"), "the witness slept");
    let passwords: Vec<&str> = passwords.lines().collect();
    assert_eq!(passwords.len(), 2);
    assert_ne!(passwords[0], passwords[1]);
    for password in passwords {
        assert_eq!(password.len(), 64);
        assert!(!seen.contains(password));
    }
}
