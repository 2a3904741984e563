//! The user database against the real libnss-systemd, in the jail.

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
    slice,
    time::{Duration, Instant},
};

use gatepass_accounts::{
    AccountName, AccountState, Accounts, UserDb, UserDbConfig,
    conformance::{self, end, grant, jailed, shell, shell_as_nobody, spec, wait_for},
};

const SOCKET: &str = "/run/systemd/userdb/io.gatepass.Agent";

fn open() -> UserDb {
    UserDb::open(UserDbConfig::default(), |name| name.as_str().starts_with("gp-")).expect("the user database")
}

#[test]
fn the_user_database_conforms() {
    if jailed("the_user_database_conforms") {
        // The names that others take must be free for them to take.
        let granted = |name: &AccountName| {
            name.as_str().starts_with("gp-") && !name.as_str().ends_with("mallory") && !name.as_str().ends_with("taken")
        };
        conformance::run(&UserDb::open(UserDbConfig::default(), granted).unwrap());
    }
}

#[test]
fn sshd_sees_who_may_be_granted_and_nobody_else_does() {
    if !jailed("sshd_sees_who_may_be_granted_and_nobody_else_does") {
        return;
    }
    let accounts = open();
    let (code, seen) = shell("getent passwd gp-alex");
    assert_eq!(code, 0, "root must see {seen}");
    let uid = seen.split(':').nth(2).unwrap().to_owned();
    assert_eq!(seen, format!("gp-alex:x:{uid}:{uid}::/home/gp-alex:/bin/bash"));
    // Locked, and expired on the second of January 1970.
    assert_eq!(shell("getent shadow gp-alex").1, "gp-alex:!*:::::::1:".replace(":::::::1:", "::::::1:"));
    assert_eq!(shell(&format!("getent passwd {uid}")).1, seen);
    assert_eq!(shell_as_nobody("getent passwd gp-alex").1, "");
    assert_eq!(shell_as_nobody(&format!("getent passwd {uid}")).1, "");
    for stranger in ["alex_566054625600", "bob", "Gp-alex", "gp-a/b", "gp-ä"] {
        assert_eq!(shell(&format!("getent passwd {stranger}")).1, "", "{stranger}");
    }
    assert_eq!(fs::read_dir("/var/lib/gatepass/agent/accounts").unwrap().count(), 1, "looking writes nothing");

    // The uid that sshd heard is the one that the grant brings.
    let spec = spec("gp-alex", 1, &["sudo"]);
    grant(&accounts, &spec);
    assert_eq!(shell_as_nobody("id -u gp-alex").1, uid);
    assert!(shell_as_nobody("getent passwd").1.contains("gp-alex"));
    assert!(shell_as_nobody("getent group").1.contains("gp-alex"));
    end(&accounts, &spec.name);
    assert_eq!(shell_as_nobody("getent passwd").1.matches("gp-").count(), 0);
    drop(accounts);
    assert!(!Path::new(SOCKET).exists());
    assert_eq!(shell("getent passwd gp-alex").1, "");
}

#[test]
fn an_account_shuts_by_itself_when_its_time_is_over() {
    if !jailed("an_account_shuts_by_itself_when_its_time_is_over") {
        return;
    }
    let accounts = open();
    let mut spec = spec("gp-alex", 1, &["sudo"]);
    spec.not_after -= 3596;
    grant(&accounts, &spec);
    assert_eq!(shell_as_nobody("id -nG gp-alex").1, "gp-alex sudo");
    wait_for("its end", || shell_as_nobody("getent passwd gp-alex").1.is_empty());
    assert!(matches!(accounts.state(&spec.name).unwrap(), AccountState::Marked(state) if !state.enabled));
    assert_eq!(shell("id -nG gp-alex").1, "gp-alex");
}

#[test]
fn a_killed_daemon_leaves_no_account_behind() {
    if !jailed("a_killed_daemon_leaves_no_account_behind") {
        return;
    }
    let mut daemon = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "serve_until_killed", "--ignored"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the grant", || shell_as_nobody("id -nG gp-x").1 == "gp-x sudo");
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    assert!(Path::new(SOCKET).exists(), "the socket of the dead is still there");
    for look in ["getent passwd gp-x", "getent group gp-x", "getent shadow gp-x"] {
        assert_eq!((shell(look).1, shell_as_nobody(look).1), (String::new(), String::new()), "{look}");
    }
    assert!(!shell("cat /etc/passwd /etc/group /etc/shadow /etc/gshadow").1.contains("gp-x"));

    // The next daemon knows whom to sweep, and starts with all of them shut.
    let accounts = open();
    let spec = spec("gp-x", 1, &[]);
    assert_eq!(accounts.marked().unwrap(), slice::from_ref(&spec.name));
    assert!(matches!(accounts.state(&spec.name).unwrap(), AccountState::Marked(state) if !state.enabled));
    assert_eq!(shell_as_nobody("getent passwd gp-x").1, "");
    end(&accounts, &spec.name);
}

#[test]
#[ignore = "the daemon of the test above"]
fn serve_until_killed() {
    let accounts = open();
    grant(&accounts, &spec("gp-x", 1, &["sudo"]));
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn questions_may_come_in_pieces_or_many_at_once() {
    if !jailed("questions_may_come_in_pieces_or_many_at_once") {
        return;
    }
    let _accounts = open();
    let question =
        b"{\"method\":\"io.systemd.UserDatabase.GetUserRecord\",\"parameters\":{\"userName\":\"gp-alex\"}}\0";
    let mut stream = UnixStream::connect(SOCKET).unwrap();
    for piece in question.chunks(7) {
        stream.write_all(piece).unwrap();
        std::thread::yield_now();
    }
    stream.write_all(&question.repeat(999)).unwrap();
    let mut answers = 0;
    let mut part = [0; 4096];
    while answers < 1000 {
        let n = stream.read(&mut part).unwrap();
        assert_ne!(n, 0, "hung up after {answers} answers");
        answers += part[..n].iter().filter(|byte| **byte == 0).count();
    }
}

#[test]
fn nobody_can_keep_sshd_from_asking() {
    if !jailed("nobody_can_keep_sshd_from_asking") {
        return;
    }
    let _accounts = open();
    // Half a question, no question, one without end, and more connections than there are places.
    let long = vec![b'x'; 10_000];
    let garbage: [&[u8]; 4] = [b"{\"method\":", b"\0", b"not json\0", &long];
    for bytes in garbage {
        let mut stream = UnixStream::connect(SOCKET).unwrap();
        let _ = stream.write_all(bytes);
        assert_eq!(shell("id -un gp-alex").1, "gp-alex");
    }
    let mut hung_up = UnixStream::connect(SOCKET).unwrap();
    hung_up.write_all(&long[..4096]).unwrap();
    hung_up.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert!(matches!(hung_up.read(&mut [0; 16]), Ok(0) | Err(_)), "an endless question is cut");

    // One that never stops asking and reading.
    let question = b"{\"method\":\"io.systemd.UserDatabase.GetMemberships\",\"parameters\":{}}\0".repeat(50);
    let reading = UnixStream::connect(SOCKET).unwrap();
    let mut asking = reading.try_clone().unwrap();
    let greedy = [
        std::thread::spawn(move || while asking.write_all(&question).is_ok() {}),
        std::thread::spawn({
            let mut reading = reading.try_clone().unwrap();
            move || while reading.read(&mut [0; 65536]).is_ok_and(|n| n > 0) {}
        }),
    ];
    (0..20).for_each(|_| assert_eq!(shell("id -un gp-alex").1, "gp-alex"));
    reading.shutdown(std::net::Shutdown::Both).unwrap();
    greedy.into_iter().for_each(|thread| thread.join().unwrap());

    let crowd = "exec perl -MIO::Socket::UNIX -e 'for (1..400) { push @s, IO::Socket::UNIX->new(Peer => $ARGV[0]) } syswrite STDOUT, \"here\\n\"; sleep 60' ";
    let mut crowd = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "bash", "-c", &format!("{crowd} {SOCKET}")])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    crowd.stdout.as_mut().unwrap().read_exact(&mut [0; 5]).unwrap();
    for _ in 0..20 {
        assert_eq!(shell("id -un gp-alex").1, "gp-alex");
        assert_eq!(shell_as_nobody("id -u nobody").1, "65534");
    }
    crowd.kill().unwrap();
    crowd.wait().unwrap();
}

#[test]
#[expect(clippy::print_stdout, reason = "figures to read, with --no-capture; no machine is promised a speed")]
fn a_grant_and_its_end_take_no_time() {
    if !jailed("a_grant_and_its_end_take_no_time") {
        return;
    }
    let accounts = open();
    let spec = spec("gp-alex", 1, &["sudo"]);
    let times = |act: &mut dyn FnMut()| {
        let mut times: Vec<Duration> = (0..200)
            .map(|_| {
                let start = Instant::now();
                act();
                start.elapsed()
            })
            .collect();
        times.sort_unstable();
        format!("p50 {:?}, p99 {:?}", times[100], times[198])
    };
    let start = Instant::now();
    grant(&accounts, &spec);
    println!("first grant, with its home directory and its uid on disk: {:?}", start.elapsed());
    println!(
        "grant and revoke: {}",
        times(&mut || {
            grant(&accounts, &spec);
            accounts.disable(&spec.name).unwrap();
            accounts.strip_groups(&spec.name).unwrap();
        })
    );
    println!(
        "looking through all processes for its sessions: {}",
        times(&mut || _ = accounts.sessions(&spec.name).unwrap())
    );
    println!("ending them when there are none: {}", times(&mut || _ = accounts.end_sessions(&spec.name).unwrap()));
    assert!(matches!(accounts.state(&spec.name).unwrap(), AccountState::Marked(_)));
}
