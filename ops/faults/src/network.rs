//! A network of its own for all of it, so that a relay can be cut off from Redis and from nobody else.
//!
//! ```text
//!  this program and the control plane  10.80.0.1 --- 10.77.N.1 === 10.77.N.2  relay N, in a namespace of its own
//!  Redis                               10.79.0.1 --- 10.78.N.1 =x= 10.78.N.2    x: the link that is cut
//! ```
//!
//! The program starts itself anew inside a network namespace, so no interface, route or port of the machine is touched, and all of it
//! is gone with the last process. Where that is not allowed, everything is on 127.0.0.1, and nobody can be cut off.

use std::{
    env,
    net::{IpAddr, Ipv4Addr},
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// Says to the program that it is inside.
const INSIDE: &str = "GATEPASS_CHAOS_INSIDE";
const REDIS: Ipv4Addr = Ipv4Addr::new(10, 79, 0, 1);
const CONTROL: Ipv4Addr = Ipv4Addr::new(10, 80, 0, 1);

/// Starts this program anew in a network namespace; returns where that is not possible, or has been done.
pub(crate) fn enter() -> Result<()> {
    if env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    let ways: &[&[&str]] = match rustix::process::geteuid().is_root() {
        true => &[&["--net"]],
        false => &[&["--user", "--map-root-user", "--net"]],
    };
    for way in ways {
        // Making a pair of interfaces is what may be missing.
        let trial = ["ip", "link", "add", "gp0", "type", "veth", "peer", "name", "gp1"];
        let mut unshare = Command::new("unshare");
        let possible = unshare.args(*way).args(trial).stdin(Stdio::null()).stderr(Stdio::null()).status();
        if possible.is_ok_and(|status| status.success()) {
            let itself = env::current_exe().context("can't find this program")?;
            let mut again = Command::new("unshare");
            let failed = again.args(*way).arg("--").arg(itself).args(env::args_os().skip(1)).env(INSIDE, "1").exec();
            return Err(failed).context("can't start unshare (package util-linux)");
        }
    }
    Ok(())
}

/// Where everything is.
pub(crate) struct Network {
    relays: Vec<Namespace>,
}

/// A relay's own network, held open by a process that does nothing.
struct Namespace {
    nth: usize,
    holder: Child,
}

/// The links of a relay: name outside, network, name inside.
const LINKS: [(&str, u8, &str); 2] = [("client", 77, "eth0"), ("redis", 78, "eth1")];

impl Drop for Namespace {
    fn drop(&mut self) {
        // The kernel takes its time to find that nobody needs them any more, and the next fault has some of the same name.
        for (name, ..) in LINKS {
            let _ = Command::new("ip").args(["link", "delete", &format!("{name}{}", self.nth)]).status();
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

impl Network {
    /// A network for so many relays.
    pub(crate) fn new(relays: usize) -> Result<Self> {
        if env::var_os(INSIDE).is_none() {
            return Ok(Self { relays: vec![] });
        }
        ip(&["link", "set", "lo", "up"])?;
        for address in [REDIS, CONTROL] {
            // Of the fault before, it is there already.
            let _ = Command::new("ip")
                .args(["address", "add", &format!("{address}/32"), "dev", "lo"])
                .stderr(Stdio::null())
                .status();
        }
        let relays = (0..relays).map(Namespace::new).collect::<Result<_>>()?;
        Ok(Self { relays })
    }

    /// Whether a relay can be cut off.
    pub(crate) fn is_own(&self) -> bool {
        !self.relays.is_empty()
    }

    pub(crate) fn redis(&self) -> IpAddr {
        if self.is_own() { REDIS.into() } else { Ipv4Addr::LOCALHOST.into() }
    }

    pub(crate) fn control(&self) -> IpAddr {
        if self.is_own() { CONTROL.into() } else { Ipv4Addr::LOCALHOST.into() }
    }

    /// Where clients find a relay.
    pub(crate) fn relay(&self, nth: usize) -> IpAddr {
        if self.is_own() { Ipv4Addr::new(10, 77, nth as u8, 2).into() } else { Ipv4Addr::LOCALHOST.into() }
    }

    /// What starts a program at a relay's place; it dies with this program.
    pub(crate) fn at_relay(&self, nth: usize) -> Command {
        match self.relays.get(nth) {
            Some(at) => {
                let mut command = at.command();
                command.args(["setpriv", "--pdeathsig", "KILL", "--"]);
                command
            }
            None => here(),
        }
    }

    /// Cuts a relay off from Redis, or mends it.
    pub(crate) fn cut_from_redis(&self, nth: usize, cut: bool) -> Result<()> {
        if !self.is_own() {
            bail!("a relay can't be cut off without a network namespace");
        }
        ip(&["link", "set", &format!("redis{nth}"), if cut { "down" } else { "up" }])
    }
}

/// What starts a program that dies with this one.
pub(crate) fn here() -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]);
    command
}

impl Namespace {
    fn new(nth: usize) -> Result<Self> {
        let mut hold = here();
        hold.args(["unshare", "--net", "sleep", "infinity"]).stdin(Stdio::null()).stdout(Stdio::null());
        let holder = hold.spawn().context("can't start unshare (package util-linux)")?;
        let namespace = Self { nth, holder };
        namespace.wait()?;
        let id = namespace.holder.id().to_string();
        for (name, net, inside) in LINKS {
            let outside = format!("{name}{nth}");
            ip(&["link", "add", &outside, "type", "veth", "peer", "name", inside, "netns", &id])?;
            ip(&["address", "add", &format!("10.{net}.{nth}.1/24"), "dev", &outside])?;
            ip(&["link", "set", &outside, "up"])?;
            namespace.ip(&["address", "add", &format!("10.{net}.{nth}.2/24"), "dev", inside])?;
            namespace.ip(&["link", "set", inside, "up"])?;
        }
        namespace.ip(&["link", "set", "lo", "up"])?;
        namespace.ip(&["route", "add", &REDIS.to_string(), "via", &format!("10.78.{nth}.1")])?;
        namespace.ip(&["route", "add", &CONTROL.to_string(), "via", &format!("10.77.{nth}.1")])?;
        Ok(namespace)
    }

    /// Waits until the process is in a namespace that is not ours.
    fn wait(&self) -> Result<()> {
        let own = std::fs::read_link("/proc/self/ns/net")?;
        let path = format!("/proc/{}/ns/net", self.holder.id());
        for _ in 0..1_000 {
            if std::fs::read_link(&path).is_ok_and(|its| its != own) {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        bail!("a network namespace could not be made")
    }

    fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.holder.id()));
        command
    }

    fn ip(&self, words: &[&str]) -> Result<()> {
        let mut command = self.command();
        run(command.arg("ip").args(words))
    }
}

fn ip(words: &[&str]) -> Result<()> {
    run(Command::new("ip").args(words))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("can't start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} failed ({status})");
    }
    Ok(())
}
