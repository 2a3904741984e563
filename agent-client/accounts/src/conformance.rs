//! What every provider of accounts must do, asked of the real machine: `getent`, `id`, `su`, PAM and `/proc`.
//!
//! The suite makes and removes accounts, so it refuses to run anywhere but in `ops/jail`. A test gets there with [`jailed`].
//! Every check panics with the command and what it said.

use std::{
    env, fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::{Child, Command, Stdio},
    slice,
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

use crate::{AccountError, AccountName, AccountSpec, AccountState, Accounts, Marked, OnEnd};

const INSIDE: &str = "GATEPASS_JAILED_TEST";
const GROUPS: [&str; 2] = ["gpt-ops", "gpt-web"];
const PAM_SERVICE: &str = "gatepass-conformance";

/// Runs the test `name` again inside `ops/jail` (as root, by sudo if need be) and says whether we are in there now.
///
/// The first lines of such a test are `if !jailed("name_of_the_test") { return; }`.
pub fn jailed(name: &str) -> bool {
    if env::var_os(INSIDE).is_some_and(|inside| inside == name) {
        return true;
    }
    let jail = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../ops/jail");
    let test = env::current_exe().expect("the path of the running test");
    let status = Command::new(&jail).arg(test).args(["--exact", name, "--nocapture"]).env(INSIDE, name).status();
    assert!(status.as_ref().is_ok_and(|status| status.success()), "in {}: {status:?}", jail.display());
    false
}

/// The account of `technician` with an hour to go.
pub fn spec(name: &str, technician: u8, groups: &[&str]) -> AccountSpec {
    AccountSpec {
        name: account(name),
        technician: [technician; 16],
        technician_name: "Alex Döe: x,y".into(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        not_after: crate::now() + 3600,
        on_end: OnEnd::Keep,
    }
}

/// A grant from beginning to end of the opening.
pub fn grant(accounts: &dyn Accounts, spec: &AccountSpec) {
    for act in [Accounts::check, Accounts::create, Accounts::set_expiry, Accounts::set_groups, Accounts::enable] {
        ok(act(accounts, spec));
    }
}

/// The end of a grant.
pub fn end(accounts: &dyn Accounts, name: &AccountName) {
    ok(accounts.disable(name));
    ok(accounts.strip_groups(name));
    ok(accounts.rotate_password(name));
    ok(accounts.end_sessions(name));
    ok(accounts.rotate_password(name));
}

/// Runs a shell command as root and says its code and what it printed.
pub fn shell(command: &str) -> (i32, String) {
    let said = Command::new("/bin/bash").args(["-c", command]).stdin(Stdio::null()).output().expect("bash");
    let text = [said.stdout, said.stderr].map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
    (said.status.code().unwrap_or(-1), text.join("\n").trim().to_owned())
}

/// The same as nobody.
pub fn shell_as_nobody(command: &str) -> (i32, String) {
    shell(&format!("setpriv --reuid 65534 --regid 65534 --clear-groups {command}"))
}

/// The whole suite.
pub fn run(accounts: &dyn Accounts) {
    prepare();
    a_grant_opens_an_account_and_its_end_shuts_it(accounts);
    the_end_kills_what_runs_and_what_would_run_later(accounts);
    a_removed_account_is_gone_and_its_uid_stays_its_technicians(accounts);
    a_shared_account_changes_hands(accounts);
    somebody_elses_account_is_never_touched(accounts);
    what_can_not_be_granted_is_refused_before_anything_is_made(accounts);
    idle_accounts_are_found(accounts);
    fifty_grants_at_once_lose_nothing(accounts);
}

fn prepare() {
    assert!(env::var_os("GATEPASS_JAIL").is_some(), "the suite changes accounts: run it in ops/jail only");
    for group in GROUPS {
        check(&format!("groupadd {group}"));
    }
    check("groupadd -f sudo");
    check("useradd -m -c 'Not a Gatepass' gp-mallory");
    fs::write(format!("/etc/pam.d/{PAM_SERVICE}"), "auth required pam_permit.so\naccount required pam_unix.so\n")
        .expect("pam.d");
}

fn a_grant_opens_an_account_and_its_end_shuts_it(accounts: &dyn Accounts) {
    let mut spec = spec("gp-alex", 1, &[GROUPS[1], "sudo", GROUPS[0]]);
    let name = spec.name.clone();
    assert_eq!(ok(accounts.state(&name)), AccountState::Absent);
    assert!(shell_as_nobody("getent passwd gp-alex").1.is_empty());

    // Each step twice, since a journal may replay it; and shut until the last.
    let steps = [Accounts::check, Accounts::create, Accounts::set_expiry, Accounts::set_groups];
    for step in steps.iter().flat_map(|step| [step, step]) {
        ok(step(accounts, &spec));
        is_shut(accounts, &name);
    }
    let uid = marked(accounts, &name).uid;
    let home = fs::symlink_metadata("/home/gp-alex").expect("a home directory");
    assert_eq!((home.uid(), home.gid(), home.permissions().mode() & 0o7777), (uid, uid, 0o700));
    if Path::new("/etc/skel/.profile").exists() {
        assert_eq!(fs::symlink_metadata("/home/gp-alex/.profile").expect("a copy of skel").uid(), uid);
    }

    for _ in 0..2 {
        ok(accounts.enable(&spec));
        let state = marked(accounts, &name);
        assert_eq!(
            (state.enabled, state.expiry, state.uid, state.technician),
            (true, Some(spec.not_after), uid, [1; 16])
        );
        assert_eq!(state.groups, [GROUPS[0], GROUPS[1], "sudo"]);
        // For everybody.
        for ask in [shell, shell_as_nobody] {
            assert_eq!(ask("id -un gp-alex"), (0, "gp-alex".into()));
            assert_eq!(ask(&format!("getent passwd {uid}")).1.split(':').next(), Some("gp-alex"));
            assert_eq!(ask(&format!("getent group {uid}")).1.split(':').next(), Some("gp-alex"));
            let (_, groups) = ask("id -nG gp-alex");
            let mut groups: Vec<&str> = groups.split(' ').collect();
            groups.sort_unstable();
            assert_eq!(groups, ["gp-alex", GROUPS[0], GROUPS[1], "sudo"]);
        }
        assert!(admits(&name), "PAM refuses an enabled account");
        let inside = "su - gp-alex -c 'whoami; id -nG; pwd; touch kept; cat .profile >/dev/null'";
        let (code, said) = shell(inside);
        assert_eq!(code, 0, "{inside}: {said}");
        assert!(said.contains("gp-alex") && said.contains(GROUPS[0]) && said.contains("/home/gp-alex"), "{said}");
        if Path::new("/usr/bin/sudo").exists() {
            let said = check("sudo -l -U gp-alex");
            assert!(said.contains("may run the following"), "{said}");
        }
    }
    ok(accounts.rotate_password(&name));
    assert!(marked(accounts, &name).enabled && admits(&name), "a new password at login shuts nothing");

    // Fewer groups, a later end: the same account.
    spec.groups = vec!["sudo".into()];
    spec.not_after += 86_400;
    for step in [Accounts::set_expiry, Accounts::set_groups, Accounts::enable] {
        ok(step(accounts, &spec));
    }
    assert_eq!(marked(accounts, &name).groups, ["sudo"]);
    assert_eq!(marked(accounts, &name).expiry, Some(spec.not_after));
    assert!(!check("id -nG gp-alex").contains(GROUPS[0]));

    for _ in 0..2 {
        end(accounts, &name);
        is_shut(accounts, &name);
        assert_eq!(
            marked(accounts, &name),
            Marked { uid, technician: [1; 16], enabled: false, expiry: None, groups: vec![] }
        );
        assert!(!shell("id -nG gp-alex").1.contains("sudo"));
    }

    // It waits for its next grant, with what its owner left in it.
    assert_eq!(ok(accounts.marked()), slice::from_ref(&name));
    spec.not_after = crate::now() + 60;
    grant(accounts, &spec);
    assert!(admits(&name));
    assert_eq!(marked(accounts, &name).uid, uid);
    assert!(Path::new("/home/gp-alex/kept").exists());
    end(accounts, &name);
}

fn the_end_kills_what_runs_and_what_would_run_later(accounts: &dyn Accounts) {
    let spec = spec("gp-alex", 1, &[]);
    let name = spec.name.clone();
    grant(accounts, &spec);
    let uid = marked(accounts, &name).uid;
    assert_eq!(ok(accounts.sessions(&name)), 0);

    let mut children = vec![
        // A session with something in the background that left it.
        start("exec su gp-alex -c 'setsid sleep 1001 & sleep 1002'"),
        // What became root by sudo after a login: only its login uid tells.
        start(&format!("echo {uid} >/proc/self/loginuid; exec sleep 1003")),
        // One that forks as fast as it can.
        start("exec su gp-alex -c 'f() { sleep 0.01; f & }; f; sleep 1004'"),
    ];
    let has_loginuid = fs::read_to_string(format!("/proc/{}/loginuid", children[1].id())).is_ok();
    // What became root without a login uid: only its cgroup tells.
    let mut root = start("read -r _; sleep 1005 & exec sleep 1005");
    ok(accounts.adopt_session(&name, root.id()));
    let has_cgroup = check(&format!("cat /proc/{}/cgroup", root.id())).contains("/gatepass/gp-alex");
    drop(root.stdin.take());
    if has_cgroup {
        children.push(root)
    } else {
        stop(root)
    }
    wait_for("the sessions", || {
        ["1001", "1002", "1003", "1004"].iter().all(|n| shell(&format!("pgrep -f 'sleep {n}'")).0 == 0)
    });

    let later = [
        "/var/lib/systemd/linger/gp-alex",
        "/var/spool/cron/crontabs/gp-alex",
        "/var/spool/cron/atjobs/a00001",
        "/run/sudo/ts/gp-alex",
    ];
    let others =
        ["/var/lib/systemd/linger/gp-mallory", "/var/spool/cron/crontabs/gp-mallory", "/var/spool/cron/atjobs/a00002"];
    for path in later.iter().chain(&others) {
        let owner = if later.contains(path) { uid.to_string() } else { "gp-mallory".into() };
        check(&format!("mkdir -p $(dirname {path}) && touch {path} && chown {owner} {path}"));
    }

    // A shell that lends a group of the grant to whoever runs it, at home and where all may write; and somebody else's program.
    let lending = ["/tmp/gatepass-lending", "/home/gp-alex/.cache/deep/lending"];
    for path in lending {
        check(&format!("install -D -o {uid} -g adm -m 6755 /bin/true {path}"));
    }
    let foreign = "/tmp/gatepass-foreign";
    check(&format!("install -o nobody -m 4755 /bin/true {foreign} && ln -sf {foreign} /home/gp-alex/link"));

    assert!(ok(accounts.sessions(&name)) >= 4);
    ok(accounts.disable(&name));
    let killed = ok(accounts.end_sessions(&name));
    assert!(killed >= 4, "killed only {killed}");
    assert_eq!(ok(accounts.sessions(&name)), 0);
    assert_eq!(ok(accounts.end_sessions(&name)), 0);
    for (n, child) in children.into_iter().enumerate() {
        if n == 1 && !has_loginuid { stop(child) } else { is_over(child) }
    }
    assert_eq!(shell(&format!("pgrep -U {uid}")).0, 1);
    for path in later {
        assert!(!Path::new(path).exists(), "{path} is still there");
    }
    for path in others {
        assert!(Path::new(path).exists(), "{path} was not ours to remove");
    }
    for path in lending {
        assert_eq!(check(&format!("stat -c %a {path}")).trim(), "755", "{path} still lends the account's group");
    }
    assert_eq!(
        check(&format!("stat -c %a {foreign}; rm -f {} {foreign}", lending[0])).trim(),
        "4755",
        "not ours to change"
    );
    if has_cgroup {
        assert!(
            !shell("cat /sys/fs/cgroup/{,unified/}gatepass/gp-alex/cgroup.procs")
                .1
                .lines()
                .any(|pid| pid.parse::<u32>().is_ok())
        );
    }
    end(accounts, &name);
}

fn a_removed_account_is_gone_and_its_uid_stays_its_technicians(accounts: &dyn Accounts) {
    let mut wanted = spec("gp-alex", 1, &["sudo"]);
    let name = wanted.name.clone();
    let uid = marked(accounts, &name).uid;
    for _ in 0..2 {
        ok(accounts.remove(&name));
        assert_eq!(ok(accounts.state(&name)), AccountState::Absent);
        assert!(ok(accounts.marked()).is_empty());
        assert!(shell_as_nobody("getent passwd gp-alex").1.is_empty());
        assert!(shell_as_nobody(&format!("getent passwd {uid}")).1.is_empty());
        assert!(!Path::new("/home/gp-alex").exists());
        assert!(!check("cat /etc/group /etc/gshadow").contains("gp-alex"));
    }
    // Acts on what is gone change nothing, or say so.
    end(accounts, &name);
    assert!(matches!(accounts.enable(&wanted), Err(AccountError::Missing { .. })));
    assert!(matches!(accounts.adopt_session(&name, 1), Err(AccountError::Missing { .. })));

    let other = spec("gp-anna", 2, &[]);
    grant(accounts, &other);
    assert_ne!(marked(accounts, &other.name).uid, uid);
    wanted.technician = [3; 16];
    assert!(matches!(accounts.check(&wanted), Err(AccountError::Clash { .. })), "another technician's name");
    assert!(matches!(accounts.create(&wanted), Err(AccountError::Clash { .. })));
    wanted.technician = [1; 16];
    grant(accounts, &wanted);
    assert_eq!(marked(accounts, &name).uid, uid);
    assert!(!Path::new("/home/gp-alex/kept").exists());
    for name in [&name, &other.name] {
        end(accounts, name);
        ok(accounts.remove(name));
    }
}

fn a_shared_account_changes_hands(accounts: &dyn Accounts) {
    let mut spec = spec("gp-1234", 1, &["sudo"]);
    let name = spec.name.clone();
    grant(accounts, &spec);
    let uid = marked(accounts, &name).uid;
    spec.technician = [2; 16];
    assert!(matches!(accounts.create(&spec), Err(AccountError::Clash { .. })), "not while the other uses it");
    assert!(admits(&name));
    check("mkdir ~gp-1234/.ssh && touch ~gp-1234/.ssh/authorized_keys");
    end(accounts, &name);
    grant(accounts, &spec);
    assert!(!Path::new("/home/gp-1234/.ssh").exists(), "the last holder's keys would let him in again");
    let state = marked(accounts, &name);
    assert_eq!((state.uid, state.technician), (uid, [2; 16]));
    end(accounts, &name);
    ok(accounts.remove(&name));
}

fn somebody_elses_account_is_never_touched(accounts: &dyn Accounts) {
    const FILES: &str = "grep -h gp-mallory /etc/passwd /etc/shadow /etc/group /etc/gshadow; ls -la /home/gp-mallory";
    let spec = spec("gp-mallory", 9, &["sudo"]);
    let before = check(FILES);
    let mut sleeper = start("exec su gp-mallory -c 'sleep 1010'");
    wait_for("mallory's sleep", || shell("pgrep -f 'sleep 1010'").0 == 0);
    for step in [Accounts::check, Accounts::create] {
        let error = step(accounts, &spec).expect_err("a foreign account was taken over").to_string();
        assert!(error.contains("gp-mallory is already taken"), "{error}");
    }
    for step in [Accounts::set_expiry, Accounts::set_groups, Accounts::enable] {
        assert!(step(accounts, &spec).is_err());
    }
    for step in [Accounts::disable, Accounts::strip_groups, Accounts::rotate_password, Accounts::remove] {
        let _ = step(accounts, &spec.name);
    }
    let _ = accounts.end_sessions(&spec.name);
    assert_eq!(ok(accounts.state(&spec.name)), AccountState::Foreign);
    assert!(sleeper.try_wait().expect("its state").is_none(), "a foreign process was killed");
    check("pkill -f 'sleep 1010'");
    is_over(sleeper);
    assert_eq!(check(FILES), before);

    // A group of that name, somebody's home, a drop-in record: taken too.
    let spec = AccountSpec { name: account("gp-taken"), ..spec };
    for (make, remove) in [
        ("groupadd gp-taken", "groupdel gp-taken"),
        ("mkdir /home/gp-taken", "rmdir /home/gp-taken"),
        ("ln -s /root /home/gp-taken", "rm /home/gp-taken"),
        ("mkdir -p /etc/userdb && touch /etc/userdb/gp-taken.user", "rm /etc/userdb/gp-taken.user"),
    ] {
        check(make);
        for step in [Accounts::check, Accounts::create] {
            assert!(matches!(step(accounts, &spec), Err(AccountError::Clash { .. })), "after {make}");
        }
        check(remove);
        assert!(!ok(accounts.marked()).contains(&spec.name));
    }
    ok(accounts.check(&spec));
    assert_eq!(ok(accounts.state(&spec.name)), AccountState::Absent);
}

fn what_can_not_be_granted_is_refused_before_anything_is_made(accounts: &dyn Accounts) {
    let good = spec("gp-late", 1, &["sudo"]);
    for group in ["no-such-group", "", "-aG", "sudo,root", "sudo root", "27", "../sudo"] {
        let spec = AccountSpec { groups: vec!["sudo".into(), group.into()], ..good.clone() };
        assert!(matches!(accounts.check(&spec), Err(AccountError::UnknownGroup { .. })), "{group:?}");
    }
    let spec = AccountSpec { not_after: crate::now(), ..good.clone() };
    assert!(matches!(accounts.check(&spec), Err(AccountError::Past { .. })));
    ok(accounts.create(&good));
    assert!(accounts.enable(&good).is_err(), "enabled without an expiry");
    is_shut(accounts, &good.name);
    assert!(matches!(accounts.set_expiry(&spec), Err(AccountError::Past { .. })));
    ok(accounts.remove(&good.name));
}

fn idle_accounts_are_found(accounts: &dyn Accounts) {
    const DAY: u64 = 86_400;
    let spec = spec("gp-idle", 1, &[]);
    grant(accounts, &spec);
    assert!(ok(accounts.idle_since(crate::now() + 2 * DAY)).is_empty(), "one in use is not idle");
    end(accounts, &spec.name);
    assert!(ok(accounts.idle_since(crate::now() - 30 * DAY)).is_empty());
    assert_eq!(ok(accounts.idle_since(crate::now() + 2 * DAY)), slice::from_ref(&spec.name));
    ok(accounts.remove(&spec.name));
}

fn fifty_grants_at_once_lose_nothing(accounts: &dyn Accounts) {
    let specs: Vec<AccountSpec> =
        (0..50).map(|n| spec(&format!("gp-many{n}"), n + 100, &[GROUPS[0], "sudo"])).collect();
    let together = |act: &(dyn Fn(&AccountSpec) + Sync)| {
        let barrier = Barrier::new(specs.len());
        thread::scope(|scope| {
            for spec in &specs {
                scope.spawn(|| {
                    barrier.wait();
                    act(spec);
                });
            }
        });
    };
    together(&|spec| grant(accounts, spec));
    let mut uids: Vec<u32> = specs.iter().map(|spec| marked(accounts, &spec.name).uid).collect();
    uids.sort_unstable();
    uids.dedup();
    assert_eq!(uids.len(), specs.len(), "two accounts with one uid");
    for spec in &specs {
        let state = marked(accounts, &spec.name);
        assert!(state.enabled && state.groups == [GROUPS[0], "sudo"], "{}: {state:?}", spec.name);
        assert!(check(&format!("id -nG {}", spec.name)).contains(GROUPS[0]));
    }
    together(&|spec| end(accounts, &spec.name));
    for spec in &specs {
        let state = marked(accounts, &spec.name);
        assert!(!state.enabled && state.groups.is_empty(), "{}: {state:?}", spec.name);
    }
    together(&|spec| ok(accounts.remove(&spec.name)));
    assert!(ok(accounts.marked()).is_empty());
    assert!(!check("cat /etc/passwd /etc/group; ls -a /home").contains("gp-many"));
}

/// Nobody can log in: PAM refuses, and ordinary users see no way either.
fn is_shut(accounts: &dyn Accounts, name: &AccountName) {
    if let AccountState::Marked(state) = ok(accounts.state(name)) {
        assert!(!state.enabled);
        let (code, status) = shell(&format!("passwd -S {name}"));
        assert!(code != 0 || status.split(' ').nth(1) == Some("L"), "not locked: {status}");
    }
    assert!(!admits(name), "PAM admits a disabled account");
    let (code, said) = shell_as_nobody(&format!("getent shadow {name}"));
    assert_ne!(code, 0, "nobody reads {said}");
}

/// What PAM's account phase says, which is the last word in sshd, sudo, su and login.
fn admits(name: &AccountName) -> bool {
    shell(&format!("pamtester {PAM_SERVICE} {name} acct_mgmt")).0 == 0
}

fn marked(accounts: &dyn Accounts, name: &AccountName) -> Marked {
    match ok(accounts.state(name)) {
        AccountState::Marked(state) => state,
        other => panic!("{name} is {other:?}"),
    }
}

fn account(name: &str) -> AccountName {
    ok(AccountName::new(name))
}

#[track_caller]
fn ok<T>(result: Result<T, AccountError>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn check(command: &str) -> String {
    let (code, said) = shell(command);
    assert_eq!(code, 0, "{command}: {said}");
    said
}

fn start(command: &str) -> Child {
    let mut bash = Command::new("/bin/bash");
    bash.args(["-c", command]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    bash.spawn().expect("bash")
}

fn stop(mut child: Child) {
    child.kill().expect("to end it");
    child.wait().expect("its end");
}

/// Waits until the child is over, reaping it.
#[track_caller]
fn is_over(mut child: Child) {
    wait_for("a child's end", || child.try_wait().expect("its state").is_some());
}

/// Waits until something is true.
#[track_caller]
pub fn wait_for(what: &str, is_true: impl FnMut() -> bool) {
    let mut is_true = is_true;
    let until = Instant::now() + Duration::from_secs(20);
    while !is_true() {
        assert!(Instant::now() < until, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
