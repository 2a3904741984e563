//! The server, seen from outside: its memory and processor time from `/proc`, where it runs on this machine.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};

/// What the server used at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds since the test began.
    pub s: f64,
    /// Processor time so far, in seconds.
    pub cpu_seconds: f64,
    /// Resident memory, in KiB.
    pub rss_kib: u64,
    /// Threads.
    pub threads: u64,
    /// Open files; none where this user may not look.
    pub files: Option<u64>,
}

/// What these processes use now, together; none if one is gone, or there are none.
pub fn sample(processes: &[u32], s: f64) -> Option<Sample> {
    let mut all = processes.iter().map(|pid| of_one(*pid, s));
    let first = all.next()??;
    all.try_fold(first, |sum, one| {
        let one = one?;
        Some(Sample {
            s,
            cpu_seconds: sum.cpu_seconds + one.cpu_seconds,
            rss_kib: sum.rss_kib + one.rss_kib,
            threads: sum.threads + one.threads,
            files: sum.files.zip(one.files).map(|(sum, one)| sum + one),
        })
    })
}

fn of_one(pid: u32, s: f64) -> Option<Sample> {
    let stat = Stat::of(pid)?;
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    let files = fs::read_dir(format!("/proc/{pid}/fd")).ok().map(|files| files.count() as u64);
    Some(Sample {
        s,
        cpu_seconds: stat.cpu_seconds,
        rss_kib: pages * rustix::param::page_size() as u64 / 1024,
        threads: stat.threads,
        files,
    })
}

/// The processor time that a process has used, in seconds.
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    Stat::of(pid).map(|stat| stat.cpu_seconds)
}

/// The processor time that this machine has used since it started, for everybody, in seconds.
pub fn machine_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    // user, nice, system, idle, iowait, irq, softirq; what follows is counted in them, or was somebody else's machine.
    let spent: Vec<u64> =
        stat.lines().next()?.split_whitespace().skip(1).map_while(|field| field.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = spent[..] else { return None };
    Some((user + nice + system + irq + softirq) as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// What a process is called.
pub fn name(pid: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/comm")).ok().map(|name| name.trim().to_owned())
}

struct Stat {
    cpu_seconds: f64,
    threads: u64,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in brackets, may hold anything; utime and stime are the 14th and 15th field, threads the 20th.
        let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks = (field(14)? + field(15)?) as f64;
        Some(Self { cpu_seconds: ticks / rustix::param::clock_ticks_per_second() as f64, threads: field(20)? })
    }
}

/// The process of this machine that listens on a TCP port; none where this user may not look at it.
pub fn listening_on(port: u16) -> Option<u32> {
    let sockets: Vec<String> =
        ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().flat_map(|table| listeners(table, port)).collect();
    let processes = fs::read_dir("/proc").ok()?;
    processes.filter_map(Result::ok).find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        holds(&process.path(), &sockets).then_some(pid)
    })
}

/// `socket:[INODE]` of each listener on a port.
fn listeners(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    let text = fs::read_to_string(table).unwrap_or_default();
    let socket = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, local) = fields.get(1)?.rsplit_once(':')?;
        let ours = u16::from_str_radix(local, 16).ok()? == port && *fields.get(3)? == LISTEN;
        ours.then(|| format!("socket:[{}]", fields.get(9).copied().unwrap_or_default()))
    };
    text.lines().skip(1).filter_map(socket).collect()
}

fn holds(process: &Path, sockets: &[String]) -> bool {
    let Ok(files) = fs::read_dir(process.join("fd")) else { return false };
    files.filter_map(Result::ok).any(|file| {
        fs::read_link(file.path())
            .is_ok_and(|target| sockets.iter().any(|socket| target.as_os_str() == socket.as_str()))
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_server_on_a_port_is_found_and_measured() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let pid = listening_on(listener.local_addr().unwrap().port()).unwrap();
        assert_eq!(pid, std::process::id());
        let sample = sample(&[pid], 1.0).unwrap();
        assert!(sample.rss_kib > 500 && sample.threads >= 1 && sample.files > Some(2), "{sample:?}");
        assert!(name(pid).is_some());
    }

    #[test]
    fn the_machine_has_used_at_least_what_one_of_its_processes_has() {
        assert!(machine_seconds().unwrap() >= cpu_seconds(std::process::id()).unwrap());
    }

    #[test]
    fn a_process_that_is_gone_has_no_sample() {
        assert_eq!(sample(&[u32::MAX], 0.0), None);
        assert_eq!(sample(&[std::process::id(), u32::MAX], 0.0), None);
        assert_eq!(sample(&[], 0.0), None);
    }
}
