//! A server as a process: started, awaited, looked at through /proc, and stopped.

use std::{
    collections::HashMap,
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Longer than a server takes to start or stop on a busy machine.
const PATIENCE: Duration = Duration::from_secs(15);

/// A server that runs until this is dropped.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

/// An address of this machine that nobody listens on now.
pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("the machine has no free port")?;
    Ok(listener.local_addr()?)
}

impl Process {
    /// Starts it, and waits until it takes connections. Its words go to a file in `folder`.
    pub(crate) fn start(
        name: &'static str,
        program: &Path,
        with: impl FnOnce(&mut Command),
        folder: &Path,
        address: SocketAddr,
    ) -> anyhow::Result<Self> {
        // It goes when the bench goes, however that ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]).arg(program);
        with(&mut command);
        let log = folder.join("log");
        let words = fs::File::create(&log)?;
        command.stdin(Stdio::null()).stdout(words.try_clone()?).stderr(words);
        let child = command.spawn().with_context(|| format!("can't start setpriv (of util-linux) and {name}"))?;
        let mut process = Self { name, child, log };
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            if let Some(status) = process.child.try_wait()? {
                bail!("{name} did not start ({status}): {}", process.words());
            }
            if begun.elapsed() > PATIENCE {
                bail!("{name} does not listen on {address} after {} s: {}", PATIENCE.as_secs(), process.words());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(process)
    }

    /// The last that it said.
    pub(crate) fn words(&self) -> String {
        let words = String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = words.lines().collect();
        match lines.len() {
            0 => "nothing".to_owned(),
            len => lines[len.saturating_sub(5)..].join("\n"),
        }
    }

    /// What it has used up to now.
    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        Usage::of(&family(self.child.id())?).with_context(|| format!("{} is gone: {}", self.name, self.words()))
    }

    /// Its resident memory, in KiB, with its workers'.
    pub(crate) fn resident_kib(&self) -> anyhow::Result<u64> {
        let each = family(self.child.id())?.into_iter().map(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            resident_kib(&status).context("the kernel says nothing about resident memory")
        });
        each.sum()
    }

    fn stop(&mut self) {
        let family = family(self.child.id()).unwrap_or_default();
        let signal = |pid: u32, signal| {
            // Already gone is as well.
            let _ = pid.try_into().ok().and_then(Pid::from_raw).map(|pid| kill_process(pid, signal));
        };
        signal(self.child.id(), Signal::TERM);
        let begun = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if begun.elapsed() > PATIENCE {
                family.iter().for_each(|pid| signal(*pid, Signal::KILL));
                let _ = self.child.wait();
                return;
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A process and all that it started.
fn family(pid: u32) -> anyhow::Result<Vec<u32>> {
    let mut family = vec![pid];
    let mut at = 0;
    while at < family.len() {
        let pid = family[at];
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        family.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        at += 1;
    }
    Ok(family)
}

/// Processor time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Usage {
    /// Of each thread, in nanoseconds: the scheduler's own account.
    threads: HashMap<(u32, u32), u64>,
    /// Of all of them and those that ended, in ticks of 10 ms.
    ticks: u64,
}

/// Ticks a second in /proc, on every Linux.
const TICKS: u64 = 100;

impl Usage {
    /// Of these processes.
    pub(crate) fn of(family: &[u32]) -> anyhow::Result<Self> {
        let mut usage = Self::default();
        for &pid in family {
            usage.ticks +=
                ticks(&fs::read_to_string(format!("/proc/{pid}/stat"))?).context("no times in /proc/PID/stat")?;
            for task in fs::read_dir(format!("/proc/{pid}/task"))? {
                let task = task?;
                let tid = task.file_name().to_string_lossy().parse()?;
                // A thread may end meanwhile.
                let account = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
                if let Some(ran) = account.split(' ').next().and_then(|ran| ran.parse().ok()) {
                    usage.threads.insert((pid, tid), ran);
                }
            }
        }
        Ok(usage)
    }

    /// This process.
    pub(crate) fn own() -> anyhow::Result<Self> {
        Self::of(&[std::process::id()])
    }

    /// What was used since, in seconds. Exact while no thread ends; of one that ended only whole ticks are known.
    pub(crate) fn since(&self, before: &Usage) -> f64 {
        let ran =
            |(thread, ran): (&(u32, u32), &u64)| ran.saturating_sub(before.threads.get(thread).copied().unwrap_or(0));
        let exact = self.threads.iter().map(ran).sum::<u64>() as f64 / 1e9;
        let ticks = self.ticks.saturating_sub(before.ticks) as f64 / TICKS as f64;
        let all_are_there =
            !self.threads.is_empty() && before.threads.keys().all(|thread| self.threads.contains_key(thread));
        if all_are_there { exact } else { ticks }
    }
}

/// What all processors of the machine were busy with since it started, in seconds.
pub(crate) fn machine_busy() -> anyhow::Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    busy_ticks(&stat).map(|ticks| ticks as f64 / TICKS as f64).context("no times in /proc/stat")
}

fn busy_ticks(stat: &str) -> Option<u64> {
    let cpu = stat.lines().next()?.strip_prefix("cpu ")?;
    // user nice system idle iowait irq softirq steal
    let times: Vec<u64> = cpu.split_whitespace().map_while(|time| time.parse().ok()).collect();
    let counted = times.iter().take(8).enumerate().filter(|(at, _)| !matches!(at, 3 | 4));
    (times.len() >= 8).then(|| counted.map(|(_, time)| time).sum())
}

/// utime + stime of a line of /proc/PID/stat, whose second field, the program's name, may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11).map(str::parse::<u64>);
    Some(times.next()?.ok()? + times.next()?.ok()?)
}

fn resident_kib(status: &str) -> Option<u64> {
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    resident.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let stat = "42 (a) b (c) S 1 42 42 0 -1 4194304 97 0 0 0 120 34 5 6 20 0 1 0 35512 3133440 359";
        assert_eq!(ticks(stat), Some(154));
        assert_eq!(ticks("42 (a"), None);
        assert_eq!(resident_kib("Name:\tx\nVmRSS:\t   10640 kB\nThreads:\t1\n"), Some(10_640));
        assert_eq!(busy_ticks("cpu  1 2 4 800 1600 8 16 32 64 128\ncpu0 1\n"), Some(63));
    }

    #[test]
    fn a_process_that_computes_has_used_time_and_memory() {
        let before = Usage::own().unwrap();
        let begun = Instant::now();
        let mut work = 0_u64;
        while Usage::own().unwrap().since(&before) == 0.0 {
            work = work.wrapping_add(1);
            assert!(begun.elapsed() < PATIENCE, "{work}");
        }
        let (ticked, now) = (Usage { threads: HashMap::new(), ticks: 5 }, Usage { threads: HashMap::new(), ticks: 8 });
        assert_eq!(now.since(&ticked), 0.03);
    }
}
