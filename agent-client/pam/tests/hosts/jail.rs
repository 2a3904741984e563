//! A machine to break: namespaces and overlays by `ops/jail`, the stacks installed, a user `tess` with a password.

use std::any::type_name_of_val;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the stacks of the jail look for the daemon.
pub(crate) const SOCKET: &str = "/run/gatepass/pam.sock";
const MODULE: &str = "/run/pam_gatepass.so";
/// The password of `tess`.
pub(crate) const PASSWORD: &str = "correct horse";

/// Runs the test that this closure is in inside a jail: the test's program calls itself there.
pub(crate) fn in_jail<F: FnOnce()>(test: F) {
    if std::env::var_os("GATEPASS_JAIL").is_some() {
        prepare();
        return test();
    }
    let name = type_name_of_val(&test).trim_end_matches("::{{closure}}").split_once("::").unwrap().1;
    let status = Command::new(repository().join("ops/jail"))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env("LANG", "C.UTF-8")
        .status()
        .unwrap();
    assert!(status.success(), "in the jail {name} failed");
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap()
}

/// The module, as cargo built it for this test.
pub(crate) fn built_module() -> PathBuf {
    std::env::current_exe().unwrap().with_file_name("libpam_gatepass.so")
}

fn prepare() {
    fs::copy(built_module(), MODULE).unwrap();
    for (stack, services) in
        [("sshd", &["sshd"][..]), ("login", &["login"]), ("su", &["su"]), ("sudo", &["gatepass-sudo"])]
    {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("stacks").join(stack)).unwrap();
        for service in services {
            install(service, &text, "");
        }
    }
    let sudoers = Path::new(env!("CARGO_MANIFEST_DIR")).join("stacks/sudoers");
    fs::copy(sudoers, "/etc/sudoers.d/gatepass").unwrap();
    fs::set_permissions("/etc/sudoers.d/gatepass", fs::Permissions::from_mode(0o440)).unwrap();
    fs::create_dir_all("/run/gatepass").unwrap();
    run("useradd -m -s /bin/bash tess");
    run(&format!("echo 'tess:{PASSWORD}' | chpasswd"));
    run("useradd -m -s /bin/bash gp-tess");
}

/// Writes a stack; the module by its path in this jail, with these options besides.
pub(crate) fn install(service: &str, stack: &str, options: &str) {
    let stack = stack.replace("pam_gatepass.so", &format!("{MODULE} {options}"));
    fs::write(format!("/etc/pam.d/{service}"), stack).unwrap();
}

/// Runs a shell command that has to succeed; its output.
pub(crate) fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
