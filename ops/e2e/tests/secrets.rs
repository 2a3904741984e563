//! No secret leaves the place where it belongs: not into a log, not into a command line or environment, not into a core dump, not to
//! where others can read it. The secrets are planted, and then looked for.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use gatepass_e2e::{Plan, World, in_jail, run, until};

const CA_PASSWORD: &str = "planted-orbit-kettle-marrow-fiddle";
const PIN: &str = "planted-81427359";

/// Looks at every process of the jail, again and again, until told to stop; returns what it saw.
fn watch(stop: &AtomicBool) -> Vec<u8> {
    let mut seen = std::collections::BTreeSet::new();
    while !stop.load(Ordering::Relaxed) {
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let is_process = entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit());
            // Its own memory holds the secrets, which is no leak.
            if is_process && entry.file_name().to_string_lossy() != std::process::id().to_string() {
                seen.extend(["cmdline", "environ"].map(|name| fs::read(entry.path().join(name)).unwrap_or_default()));
            }
        }
    }
    seen.into_iter().flatten().collect()
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files(&entry.path())),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}

fn contains(hay: &[u8], needle: &str) -> bool {
    hay.windows(needle.len()).any(|window| window == needle.as_bytes())
}

#[test]
fn planted_secrets_are_found_nowhere_else() {
    in_jail(|| {
        let stop = AtomicBool::new(false);
        let (seen, world, codes, digits) = thread::scope(|scope| {
            let watcher = scope.spawn(|| watch(&stop));
            let plan = Plan {
                ca_password: CA_PASSWORD.into(),
                pin: PIN.into(),
                confirm_code: true,
                debug: true,
                ..Plan::default()
            };
            let world = World::new(plan);
            let terminal = world.computer.ssh("gp-alex");
            let code = terminal.read_qr();
            // The phone reads the picture: a code in its arguments would be the test's own leak.
            let mut scan = world.phone.scan_picture(&terminal.photograph(), &["--approve", "--yes"]);
            let digits = scan.confirm_code();
            terminal.enter_until(&["Type the 3 digits"]);
            terminal.type_line(&digits);
            let grant = scan.granted();
            terminal.wait_for("gp-alex@web-01");
            // Environment and arguments of the session count too.
            terminal.command("env");
            world.phone.does(&["end", &grant]);
            terminal.wait_for_end();
            until("the end", || world.computer.has_no_grant().then_some(()));
            stop.store(true, Ordering::Relaxed);
            (watcher.join().unwrap(), world, vec![code], digits)
        });
        assert!(contains(&seen, "gatepass-agent") && contains(&seen, "gatepass-phone"), "the watcher saw nothing");

        let read = |path: &str| fs::read_to_string(world.folder().join(path)).unwrap().trim().to_owned();
        let profile = read("phone/home/profile.json");
        let key = |name: &str| {
            profile.split(&format!("\"{name}\": \"")).nth(1).unwrap().split('"').next().unwrap().to_owned()
        };
        let mut secrets = vec![CA_PASSWORD.to_owned(), PIN.to_owned()];
        secrets.extend([read("admin/admin.token"), read("server/state/operator.token")]);
        secrets.extend([read("admin/agent.ticket"), read("admin/phone.ticket")]);
        secrets.extend([key("channel_key"), key("sign_key")]);
        secrets.extend(codes);
        assert!(secrets.iter().all(|secret| secret.len() > 12), "{secrets:?}");

        let trail = world.admin.audit();
        let mut places = vec![("the processes' arguments and environments".to_owned(), seen)];
        places.push(("the audit trail".to_owned(), trail.into_bytes()));
        let logs = files(world.folder()).into_iter().filter(|path| path.extension().is_some_and(|end| end == "log"));
        places.extend(
            logs.chain(files(Path::new("/var/log"))).map(|path| (path.display().to_string(), fs::read(path).unwrap())),
        );
        for name in ["relay.log", "agent.log", "sshd.log"] {
            assert!(
                places.iter().any(|(path, bytes)| path.ends_with(name) && !bytes.is_empty()),
                "{name} is looked at"
            );
        }
        for secret in &secrets {
            for (place, bytes) in &places {
                assert!(!contains(bytes, secret), "{:.12}... is in {place}", secret);
            }
        }
        let typed = format!("\"{digits}\"");
        assert!(!places.iter().any(|(_, bytes)| contains(bytes, &typed)));

        // What is kept on disk is its owner's alone.
        for path in files(&world.computer.state())
            .into_iter()
            .chain(files(&world.phone.home()))
            .chain(files(&world.folder().join("server/state")))
        {
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            let public = path.ends_with("relay.pem");
            let folder_is_closed = fs::metadata(path.parent().unwrap()).unwrap().permissions().mode() & 0o077 == 0;
            assert!(public || mode & 0o077 == 0 || folder_is_closed, "{} has mode {mode:o}", path.display());
        }
    });
}

#[test]
fn no_program_that_holds_keys_leaves_a_core_dump() {
    in_jail(|| {
        let mut world = World::new(Plan::default());
        for (name, pid) in [("agent", world.computer.agent().pid()), ("server", world.server.process().pid())] {
            let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
            let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
            let mut words = core.split_whitespace().skip(4);
            assert_eq!((words.next(), words.next()), (Some("0"), Some("0")), "{name}: {core}");
            run(Command::new("kill").args(["-ABRT", &pid.to_string()])).ok();
        }
        assert!(!std::os::unix::process::ExitStatusExt::core_dumped(&world.computer.agent().wait()));
        assert!(!std::os::unix::process::ExitStatusExt::core_dumped(&world.server.process().wait()));
    });
}
