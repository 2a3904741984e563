//! `pam_gatepass.so`: Gatepass at the logon of sshd, sudo, su and login.
//!
//! The module lives in other people's processes, as root, so it is as little as it can be: for each PAM phase it opens one
//! connection to the daemon, tells it what is asked, then shows what it is told to show and asks what it is told to ask until
//! the daemon gives its verdict. No thread, no runtime, no output of its own, nothing kept between phases but the grant's id.
//!
//! - [`module`]: that conversation, against PAM as a trait; `line`: the socket; [`options`], [`terminal`]: what they are called.
//! - `ffi`: C, in both directions, and nothing else.
//!
//! # Which phase runs where
//!
//! What the daemon may rely on, seen with OpenSSH 9.2, sudo 1.9.13, util-linux 2.38's su and shadow 4.13's login; `tests/hosts` checks it.
//!
//! | | sshd | sudo | su | login |
//! | --- | --- | --- | --- | --- |
//! | authenticate, account | `sshd: USER [pam]`, gone afterwards | sudo | su | login |
//! | open, close session | its parent `sshd: USER [priv]` | the same process | the same | the same |
//! | everything in the session descends from | the process that opened it | the same | the same | the same |
//! | `PAM_USER` when it authenticates | the account named to ssh | who calls sudo | the target | what was typed |
//! | `PAM_USER` in the session | the same | whom the command runs as | the target | the last `SetUser` |
//! | `PAM_RUSER` | empty | who calls | who calls | empty |
//! | a `SetUser` with another name | ignored: refused by this module | ignored: refused | ignored: refused | obeyed, the typed name need not exist |
//! | an unknown name | never gets in, not even when approved | - | not asked | gets in by `SetUser` |
//! | `Info` is seen | with the next prompt, or at the end | at once | at once | at once |
//! | Ctrl-C while nothing is asked | the client goes: end of file | blocked by sudo: `Cancelled` | ends su: end of file | ends login: end of file |
//! | after a denial | asks again (the client's `NumberOfPasswordPrompts`) | `passwd_tries` | ends | asks for the name again |
//!
//! - A phase is a connection; those of one login are tied together by [`module::SESSION_VARIABLE`], which all four carry through.
//! - `sudo -i` has a PAM service of its own (`pam_login_service`), and so has `su -` (`su-l`).
//! - ssh with a key skips authenticate: account and session are then the only phases, and no grant's id comes with them.
//! - `pam_loginuid`, where the stack has it before this module, has set the login uid when the session opens.
//! - sudo tries the account phase with the caller as `PAM_USER`, the session with the target.

pub mod ffi;
mod line;
pub mod module;
pub mod options;
pub mod terminal;
