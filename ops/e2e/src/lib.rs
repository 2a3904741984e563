//! Gatepass as its users meet it: the real binaries, a stock ssh, sudo, su and login, a terminal of 80x24 and a camera.
//!
//! A [`World`] is one machine inside a jail (`ops/jail`) with everything on it: the server, an administrator, a technician's
//! phone, and a computer with agent, PAM module and sshd. Stories in `tests/` each make a world of their own, so they run side
//! by side; `gatepass-demo` tells the first of them aloud.
//!
//! ```text
//! in_jail(|| {
//!     let world = World::new(Plan::default());
//!     let terminal = world.computer.ssh("gp-alex");          // a stock ssh client in a terminal of 80x24
//!     world.phone.approve(&terminal.read_qr());              // picture, zbarimg, gatepass-phone
//!     terminal.enter();
//!     terminal.wait_for("$");
//! });
//! ```

mod admin;
mod computer;
mod jail;
mod login;
mod lying_relay;
mod phone;
mod process;
mod server;
mod terminal;
mod wait;
mod world;

pub use admin::Admin;
pub use computer::{Computer, Provider};
pub use jail::in_jail;
pub use login::{ALL_PHASES, Login};
pub use lying_relay::{Lie, LyingRelay, rid_of};
pub use phone::{Phone, Scan};
pub use process::{Finished, Running, program, run};
pub use server::Server;
pub use terminal::Terminal;
pub use wait::{until, within};
pub use world::{Plan, World, policy};
