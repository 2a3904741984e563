//! Finding and ending everything that an account runs.
//!
//! Three nets, because each has holes. A cgroup of the account's own catches what became root on the way (sudo), and empties at
//! once, but needs a writable v2 tree, and whoever is root can leave it. The login uid sticks to a process through sudo and su, but only
//! where PAM set it; it also sticks to a service that was restarted from the session by hand, on computers whose init doesn't start
//! services itself. The uid is always there, but sudo changes it. Whatever hangs in any of them is killed, again and again until
//! nothing is left or the bound is reached, since processes may fork meanwhile. Processes are killed through pidfds, after a second
//! look, so that a reused pid is never hit.

use std::{
    collections::BTreeSet,
    fs, io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal},
};

use crate::{AccountError, AccountName, During, leftovers};

/// A killed process is gone within milliseconds; longer means that it hangs in the kernel.
const BOUND: Duration = Duration::from_secs(5);

/// How long one round waits for what it killed.
const ROUND: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// Pidfds open at once, well below the usual limit of 1024 files.
const BATCH: usize = 256;

/// The sessions of this computer.
pub(crate) struct Sessions {
    /// The cgroup v2 tree: the unified mount of a hybrid machine, or the only one.
    mount: Option<PathBuf>,
}

impl Sessions {
    pub(crate) fn detect() -> Self {
        let mounts = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(PathBuf::from);
        Self { mount: mounts.into_iter().find(|mount| mount.join("cgroup.procs").exists()) }
    }

    /// Puts `pid`, and with it all that it will start, into the account's cgroup, where that can be done.
    pub(crate) fn adopt(&self, name: &AccountName, pid: u32) -> Result<(), AccountError> {
        let Some(cgroup) = self.cgroup(name) else { return Ok(()) };
        if let Err(error) = fs::create_dir_all(&cgroup) {
            tracing::debug!(path = %cgroup.display(), %error, "no cgroup for sessions: they end by login uid and uid");
            return Ok(());
        }
        fs::write(cgroup.join("cgroup.procs"), pid.to_string()).during("put the session into", cgroup)
    }

    fn cgroup(&self, name: &AccountName) -> Option<PathBuf> {
        self.mount.as_ref().map(|mount| mount.join("gatepass").join(name.as_str()))
    }

    /// How many processes the account has.
    pub(crate) fn count(&self, name: &AccountName, uid: u32) -> Result<usize, AccountError> {
        Ok(self.find(name, uid)?.len())
    }

    /// Ends everything, and returns how many processes that were.
    pub(crate) fn end(&self, name: &AccountName, uid: u32) -> Result<usize, AccountError> {
        let until = Instant::now() + BOUND;
        let mut seen: BTreeSet<u32> = BTreeSet::new();
        let mut rounds = 0;
        loop {
            // Inside the loop: a process that is still alive may have written them again.
            leftovers::tidy(name, uid)?;
            let found = self.find(name, uid)?;
            if found.is_empty() {
                break;
            }
            if Instant::now() >= until {
                return Err(AccountError::StillRunning { name: name.clone(), uid, left: found.len() });
            }
            seen.extend(&found);
            self.kill_cgroups(name, uid, &found);
            if rounds > 2 {
                kill_all_of(uid);
            }
            for batch in found.iter().collect::<Vec<_>>().chunks(BATCH) {
                self.kill(batch, name, uid);
            }
            rounds += 1;
        }
        if let Some(cgroup) = self.cgroup(name) {
            prune(&cgroup);
        }
        Ok(seen.len())
    }

    /// Every process of the account but the dead and ourselves.
    fn find(&self, name: &AccountName, uid: u32) -> Result<BTreeSet<u32>, AccountError> {
        let mut found = BTreeSet::new();
        for cgroup in self.cgroups(name, uid) {
            members(&cgroup, &mut found);
        }
        found.retain(|pid| is_alive(*pid));
        for entry in fs::read_dir("/proc").during("read", "/proc")? {
            let pid = entry.ok().and_then(|entry| entry.file_name().to_str()?.parse().ok());
            found.extend(pid.filter(|pid| belongs(*pid, uid)));
        }
        // The technician may have restarted the agent from his own session: it must live to end the rest.
        found.remove(&(getpid().as_raw_nonzero().get().unsigned_abs()));
        Ok(found)
    }

    /// Our own cgroup for the account, and the slice that systemd's login manager made for it.
    fn cgroups(&self, name: &AccountName, uid: u32) -> Vec<PathBuf> {
        let slice = self.mount.iter().map(|mount| mount.join(format!("user.slice/user-{uid}.slice")));
        self.cgroup(name).into_iter().chain(slice).filter(|cgroup| cgroup.is_dir()).collect()
    }

    fn kill_cgroups(&self, name: &AccountName, uid: u32, found: &BTreeSet<u32>) {
        let me = getpid().as_raw_nonzero().get().unsigned_abs();
        for cgroup in self.cgroups(name, uid) {
            let mut inside = BTreeSet::new();
            members(&cgroup, &mut inside);
            if !inside.contains(&me) && inside.iter().any(|pid| found.contains(pid)) {
                // Kernels before 5.14 don't have it; the kill by pid follows.
                let _ = fs::write(cgroup.join("cgroup.kill"), "1");
            }
        }
    }

    fn kill(&self, batch: &[&u32], name: &AccountName, uid: u32) {
        let open = |pid: &&u32| {
            let fd = pidfd_open(Pid::from_raw(i32::try_from(**pid).ok()?)?, PidfdFlags::empty()).ok()?;
            let ours = belongs(**pid, uid) || {
                let mut inside = BTreeSet::new();
                self.cgroups(name, uid).iter().for_each(|cgroup| members(cgroup, &mut inside));
                inside.contains(*pid)
            };
            ours.then_some(fd)
        };
        let pidfds: Vec<OwnedFd> = batch.iter().filter_map(open).collect();
        for pidfd in &pidfds {
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
        let until = Instant::now() + Duration::from_millis(50);
        let mut waiting: Vec<PollFd<'_>> = pidfds.iter().map(|pidfd| PollFd::new(pidfd, PollFlags::IN)).collect();
        while !waiting.is_empty() && Instant::now() < until {
            if poll(&mut waiting, Some(&ROUND)).is_err() {
                break;
            }
            waiting.retain(|pidfd| pidfd.revents().is_empty());
        }
    }
}

/// Kills all processes of a uid in one sweep of the kernel, which a fork bomb can't outrun.
fn kill_all_of(uid: u32) {
    let mut kill = Command::new("/bin/kill");
    kill.args(["-KILL", "--", "-1"]).env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let killed = kill.uid(uid).gid(uid).status();
    tracing::debug!(uid, ?killed, "processes fork faster than they are found: killed all of the uid at once");
}

fn is_alive(pid: u32) -> bool {
    status(pid).is_ok_and(|status| !status.contains("\nState:\tZ"))
}

/// Whether a living process runs as `uid`, or was started by somebody who logged in as `uid`.
fn belongs(pid: u32, uid: u32) -> bool {
    let Ok(status) = status(pid) else { return false };
    if status.contains("\nState:\tZ") {
        return false;
    }
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    uids.split_whitespace().any(|one| one.parse() == Ok(uid))
        || fs::read_to_string(format!("/proc/{pid}/loginuid")).is_ok_and(|login| login.trim().parse() == Ok(uid))
}

fn status(pid: u32) -> io::Result<String> {
    fs::read(format!("/proc/{pid}/status")).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// All pids in a cgroup and below it.
fn members(cgroup: &Path, found: &mut BTreeSet<u32>) {
    // In the reader's pid namespace, a process outside it reads as 0.
    let pids = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    found.extend(pids.lines().filter_map(|pid| pid.parse::<u32>().ok()).filter(|pid| *pid != 0));
    for below in below(cgroup) {
        members(&below, found);
    }
}

fn prune(cgroup: &Path) {
    for below in below(cgroup) {
        prune(&below);
    }
    let _ = fs::remove_dir(cgroup);
}

fn below(cgroup: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(cgroup) else { return Vec::new() };
    entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}
