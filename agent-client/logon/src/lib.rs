//! What a person meets at the terminal, and the wire between the PAM module that owns the terminal and the daemon that
//! owns everything else.
//!
//! ```text
//!   sshd, sudo, su, login                                   gatepass-agent (root)
//!   +---------------------+   /run/gatepass/pam.sock    +------------------------+
//!   | pam_gatepass.so     | -- Start ---------------->  | pairing, policy, grant |
//!   | shows what it is    | <- Info / Prompt / Set* --  | accounts, journal      |
//!   | told, asks what it  | -- Answer / Cancelled --->  |                        |
//!   | is told to ask      | <- Done(verdict) ---------  |                        |
//!   +---------------------+                             +------------------------+
//! ```
//!
//! The module is a dumb terminal: it lives in somebody else's process, so it decides nothing, keeps nothing and is
//! done when the verdict arrives. The texts are made here ([`text`]), the picture too ([`picture`]), and both ends
//! share the frames ([`wire`]).

pub mod picture;
pub mod text;
pub mod wire;
