//! The agent as a program: enrolled, connected, with logins over its socket and real accounts, in `ops/jail`.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test that can't go on fails, and says why")]

mod control;
mod endings;
#[cfg(feature = "fault")]
mod faults;
mod logins;
mod machine;
mod module;
mod offline;
mod trouble;

use gatepass_accounts::conformance::{jailed, shell};

#[test]
fn be_the_program() {
    module::be_the_program();
}

/// Runs a story in the jail.
fn story(name: &str, story: impl AsyncFnOnce()) {
    if jailed(name) {
        tokio::runtime::Runtime::new().unwrap().block_on(story());
    }
}

/// What everybody on the machine sees of an account: its groups, or nothing.
fn groups_of(account: &str) -> Option<String> {
    let (code, said) = shell(&format!("setpriv --reuid nobody --clear-groups id -nG {account}"));
    (code == 0).then_some(said)
}

fn is_in_adm(account: &str) -> bool {
    groups_of(account).is_some_and(|groups| groups.split_whitespace().any(|group| group == "adm"))
}
