//! A machine as quiet as it can be had: what else runs is to disturb neither servers nor load, and processors are not to fall asleep.
//!
//! A virtual processor that has nothing to do is taken away, and to get it back takes longer than any server here needs for a
//! message: one pair's round trip was 112 us on an idle machine and 32 us on one where something else kept the processors awake, by
//! the same floor. So something does: a process for each, at the lowest priority.

use std::{
    fs,
    hint::black_box,
    process::{Child, Command, Stdio},
};

use anyhow::Context;
use rustix::{
    process::{Pid, setpriority_process, setsid},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

use crate::process::Usage;

/// Comes before what else runs here; servers that are started inherit it. Only root may, and without it the figures are as good as
/// the machine is quiet.
pub(crate) fn take_precedence() {
    prioritise(-15);
}

fn prioritise(nice: i32) {
    let _ = setpriority_process(None, nice);
    // Where Linux groups by session, niceness counts only within one. Others' sessions are left alone.
    if leads_its_session() {
        let _ = fs::write("/proc/self/autogroup", nice.to_string());
    }
}

/// Read of /proc, where a session that began outside this container is 0; rustix's `getsid` panics of that.
fn leads_its_session() -> bool {
    let session = || fs::read_to_string("/proc/self/stat").ok()?.rsplit_once(") ")?.1.split(' ').nth(3)?.parse().ok();
    session() == Some(std::process::id())
}

/// A process for each processor, until this is dropped.
pub(crate) struct Awake(Vec<Child>);

impl Awake {
    /// Starts them.
    pub(crate) fn keep() -> anyhow::Result<Self> {
        let itself = std::env::current_exe()?;
        let allowed = sched_getaffinity(None)?;
        let processors = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
        let start = |cpu: usize| {
            let mut command = Command::new("chrt");
            // --pdeathsig: it goes when the bench goes, however that ends.
            command.args(["--idle", "0", "setpriv", "--pdeathsig", "KILL", "--"]).arg(&itself);
            command.arg("awake").arg(cpu.to_string()).stdin(Stdio::null());
            command.spawn().context("can't start chrt (of util-linux)")
        };
        let mut awake = Self(Vec::new());
        for cpu in processors {
            awake.0.push(start(cpu)?);
        }
        Ok(awake)
    }

    /// What they have used.
    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        Usage::of(&self.0.iter().map(Child::id).collect::<Vec<_>>())
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Is such a process.
pub(crate) fn keep_awake(cpu: usize) -> anyhow::Result<()> {
    let mut only = CpuSet::new();
    only.set(cpu);
    sched_setaffinity(None::<Pid>, &only)?;
    // A session of its own, so that its low priority holds against everybody.
    setsid()?;
    prioritise(19);
    let mut spins = 0_u64;
    loop {
        // Not the processor's own pause: a hypervisor takes that for a reason to look elsewhere.
        spins = black_box(spins.wrapping_add(1));
    }
}
