//! A test runs itself again inside `ops/jail`, where it may change accounts, PAM and sudoers as it likes.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Runs the calling test's story in a jail of its own.
///
/// The name of the test is the name of the function that the closure stands in: that is how the second run finds it.
pub fn in_jail<F: FnOnce()>(story: F) {
    if env::var_os("GATEPASS_JAIL").is_some() {
        return story();
    }
    let path = std::any::type_name::<F>().replace("::{{closure}}", "");
    let name = path.split_once("::").map_or(path.as_str(), |(_crate, name)| name);
    let itself = env::current_exe().expect("a program knows where it is");
    let output = Command::new(repository().join("ops/jail"))
        .arg(itself)
        .args(["--exact", name, "--nocapture", "--include-ignored", "--test-threads=1"])
        .output()
        .expect("ops/jail can be started");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name} in its jail: {}\n{out}\n{err}", output.status);
    assert!(out.contains("1 passed"), "{name} was not found in its own binary:\n{out}\n{err}");
}

/// The checkout that this was built from.
fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
