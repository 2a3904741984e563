//! The module in the programs that it was made for: real sshd with a stock ssh, sudo, su and login, in a terminal of 80x24, with the
//! stacks of `stacks/`. Only the daemon is scripted. Each test runs in a jail of its own (`ops/jail`), as root.

#![allow(clippy::unwrap_used)]

mod daemon;
mod footprint;
mod jail;
mod login;
mod ssh;
mod su;
mod sudo;
mod terminal;

/// A pairing's code, as the daemon would show it.
const CODE: &str = "GP1:QED8WEX0 C91/DG%6J74X.E$PE0/DG+6+94 /DTPE8+9 JC0/DO/E0/DY0DSUEEQDPED+EDIEDLPC6WE%6EO";
