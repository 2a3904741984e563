//! What `/proc` says about processes: who asks and with which command, who is still there, what runs below a session, and
//! on which terminals.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use gatepass_agent_core::Processes;
use gatepass_agent_core::grant::Session;
use gatepass_logon::text::clean;
use rustix::process::{Pid, Signal, kill_process};

/// A command longer than this is refused: the phone must show all of it.
pub(crate) const LONGEST_COMMAND: usize = 2048;

/// Why a command can't be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error(
        "the command is longer than {LONGEST_COMMAND} characters, and a phone must show all of it. Put it into a script and run that"
    )]
    TooLong,
    #[error("the command could not be read from process {pid}: {source}")]
    Unreadable { pid: u32, source: std::io::Error },
}

/// The exact arguments of a process, its own name first.
pub(crate) fn arguments(pid: u32) -> Result<Vec<Vec<u8>>, CommandError> {
    let unreadable = |source| CommandError::Unreadable { pid, source };
    let mut raw = Vec::new();
    let file = fs::File::open(format!("/proc/{pid}/cmdline")).map_err(unreadable)?;
    file.take(LONGEST_COMMAND as u64 + 1).read_to_end(&mut raw).map_err(unreadable)?;
    match raw.len() {
        0 => Err(unreadable(std::io::ErrorKind::UnexpectedEof.into())),
        1..=LONGEST_COMMAND => {
            let raw = raw.strip_suffix(&[0]).unwrap_or(&raw);
            Ok(raw.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect())
        }
        _ => Err(CommandError::TooLong),
    }
}

/// Arguments as one line, each quoted where a shell would split or change it. What is no printable text is shown by its
/// escapes, so nothing hides.
pub(crate) fn quoted(arguments: &[Vec<u8>]) -> String {
    let quoted = arguments.iter().map(|argument| {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-+=:,./@%^".contains(byte);
        match std::str::from_utf8(argument) {
            Ok(text) if !argument.is_empty() && argument.iter().all(plain) => text.to_owned(),
            Ok(text) if !text.contains('\n') && clean(text) == text => format!("'{}'", text.replace('\'', r"'\''")),
            _ => format!("$'{}'", argument.escape_ascii()),
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// One line of `/proc/PID/stat`, as far as it is needed.
#[derive(Debug, Clone, Copy)]
struct Stat {
    parent: u32,
    tty: u32,
    started: u64,
    gone: bool,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold anything, brackets too: what counts comes after the last one.
    let fields: Vec<&str> = text.get(text.rfind(')')? + 2..)?.split(' ').collect();
    Some(Stat {
        gone: matches!(*fields.first()?, "Z" | "X"),
        parent: fields.get(1)?.parse().ok()?,
        tty: fields.get(4)?.parse::<i32>().ok()? as u32,
        started: fields.get(19)?.parse().ok()?,
    })
}

/// The session that a process leads: the process and when it started.
pub(crate) fn session(pid: u32) -> Option<Session> {
    stat(pid).filter(|stat| !stat.gone).map(|stat| Session { pid, started: stat.started })
}

/// Every process, by its number.
fn all() -> HashMap<u32, Stat> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| Some((pid, stat(pid)?))).collect()
}

/// The sessions' processes and all that descend from them.
fn below(sessions: &[Session]) -> HashMap<u32, Stat> {
    let all = all();
    let leads = |pid: &u32, stat: &Stat| sessions.iter().any(|one| one.pid == *pid && one.started == stat.started);
    let mut found: HashSet<u32> = all.iter().filter(|(pid, stat)| leads(pid, stat)).map(|(pid, _)| *pid).collect();
    loop {
        let children = all.iter().filter(|(pid, stat)| found.contains(&stat.parent) && !found.contains(pid));
        let children: Vec<u32> = children.map(|(pid, _)| *pid).collect();
        if children.is_empty() {
            return all.into_iter().filter(|(pid, stat)| found.contains(pid) && !stat.gone).collect();
        }
        found.extend(children);
    }
}

/// The terminals on which something of these sessions runs.
pub(crate) fn terminals(sessions: &[Session]) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = below(sessions).values().filter_map(|stat| terminal(stat.tty)).collect();
    paths.sort();
    paths.dedup();
    paths
}

/// The device of a `tty_nr`: pseudo-terminals have the majors 136 to 143, consoles 4 with minors below 64, serial lines above.
fn terminal(number: u32) -> Option<PathBuf> {
    let (major, minor) = ((number >> 8) & 0xfff, (number & 0xff) | ((number >> 12) & 0xfff00));
    match major {
        136..=143 => Some(format!("/dev/pts/{}", (major - 136) * 256 + minor).into()),
        4 if minor < 64 => Some(format!("/dev/tty{minor}").into()),
        4 => Some(format!("/dev/ttyS{}", minor - 64).into()),
        _ => None,
    }
}

/// Ends sudo's and su's sessions: the process and all below it.
pub(crate) struct ProcessTree;

impl Processes for ProcessTree {
    fn end(&self, sessions: &[Session]) -> usize {
        // Who leads goes last: the PAM module made it the parent of what is orphaned below it, so that nothing gets away.
        end_all(sessions, |pid| !sessions.iter().any(|session| session.pid == pid)) + end_all(sessions, |_| true)
    }

    fn alive(&self, session: &Session) -> bool {
        crate::process::session(session.pid) == Some(*session)
    }
}

/// Ends what a session has left below its leader, which is about to leave itself.
pub(crate) fn end_below(session: Session) -> usize {
    end_all(&[session], |pid| pid != session.pid)
}

/// The cgroup of a session, by the same name for a restarted agent; none where there is no v2 tree.
fn cgroup(session: &Session) -> Option<PathBuf> {
    let mounts = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
    let mount = mounts.into_iter().find(|mount| mount.join("cgroup.procs").exists())?;
    Some(mount.join("gatepass").join(format!("elevation-{}-{}", session.pid, session.started)))
}

/// Puts a session, and with it all that it will start, into a cgroup of its own. Who asked for it can kill the su above it,
/// and then nothing else tells whose the rest is.
pub(crate) fn enclose(session: &Session) {
    let Some(cgroup) = cgroup(session) else { return };
    for old in cgroup.parent().and_then(|all| fs::read_dir(all).ok()).into_iter().flatten().flatten() {
        if old.file_name().to_string_lossy().starts_with("elevation-") {
            let _ = fs::remove_dir(old.path()); // only an empty one goes
        }
    }
    let put = || {
        fs::create_dir_all(&cgroup)?;
        fs::write(cgroup.join("cgroup.procs"), session.pid.to_string())
    };
    if let Err(error) = put() {
        tracing::debug!(path = %cgroup.display(), %error, "no cgroup for an elevation: it ends by parentage alone");
    }
}

/// What is in the sessions' cgroups. (A process of another pid namespace reads as 0.)
fn enclosed(sessions: &[Session]) -> impl Iterator<Item = u32> {
    let inside = |session| fs::read_to_string(cgroup(session)?.join("cgroup.procs")).ok();
    let pids: Vec<u32> = sessions
        .iter()
        .filter_map(inside)
        .flat_map(|pids| pids.lines().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect();
    pids.into_iter().filter(|pid| *pid != 0 && session(*pid).is_some())
}

fn end_all(sessions: &[Session], wanted: impl Fn(u32) -> bool) -> usize {
    let mut ended = HashSet::new();
    // Again until nothing is left: a child may be born between the look and the kill.
    for _ in 0..20 {
        let found: HashSet<u32> = below(sessions).into_keys().chain(enclosed(sessions)).collect();
        // An agent that was started in the session lives on to end the rest.
        let found: Vec<u32> = found.into_iter().filter(|pid| wanted(*pid) && *pid != std::process::id()).collect();
        if found.is_empty() {
            break;
        }
        for pid in found {
            if let Some(target) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                // Gone in the meantime is as good as ended.
                let _ = kill_process(target, Signal::KILL);
                ended.insert(pid);
            }
        }
    }
    ended.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn the_command_is_shown_exactly_and_nothing_in_it_hides() {
        let shown = |line: &[u8]| quoted(&line.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect::<Vec<_>>());
        assert_eq!(shown(b"sudo\0ls\0-l\0/root"), "sudo ls -l /root");
        assert_eq!(shown(b"sudo\0sh\0-c\0rm -rf / # it's\0"), r"sudo sh -c 'rm -rf / # it'\''s' ''");
        assert_eq!(shown("sudo\0a\u{202e}b\0Zo\u{eb}".as_bytes()), r"sudo $'a\xe2\x80\xaeb' 'Zoë'");
        assert_eq!(shown(b"sudo\0\x1b[2Jls\0\xff\n"), r"sudo $'\x1b[2Jls' $'\xff\n'");
    }

    #[test]
    fn a_command_too_long_for_a_phone_is_refused_not_cut() {
        let mut child =
            Command::new("sleep").args(["60", &"0".repeat(LONGEST_COMMAND)]).stdin(Stdio::null()).spawn().unwrap();
        // A process that has only just begun has no command line yet.
        let command = loop {
            match arguments(child.id()) {
                Err(CommandError::Unreadable { .. }) => std::thread::yield_now(),
                command => break command,
            }
        };
        assert!(matches!(command, Err(CommandError::TooLong)), "{command:?}");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(arguments(u32::MAX), Err(CommandError::Unreadable { .. })));
    }

    #[test]
    fn a_session_ends_with_all_that_it_started() {
        let mut child = Command::new("sh").args(["-c", "sleep 60 & sleep 61 & wait"]).spawn().unwrap();
        let leader = session(child.id()).unwrap();
        assert!(ProcessTree.alive(&leader));
        while below(&[leader]).len() < 3 {
            std::thread::yield_now();
        }
        // The shell may leave by itself when its children have gone.
        assert!(ProcessTree.end(&[leader]) >= 2);
        child.wait().unwrap();
        assert!(!ProcessTree.alive(&leader));
        assert!(below(&[leader]).is_empty());
        let reused = Session { started: leader.started + 1, ..session(std::process::id()).unwrap() };
        assert_eq!(ProcessTree.end(&[reused]), 0, "another process with the same number is left alone");
    }

    #[test]
    fn terminals_are_named_by_their_numbers() {
        assert_eq!(terminal((136 << 8) | 7), Some("/dev/pts/7".into()));
        assert_eq!(terminal((137 << 8) | 1), Some("/dev/pts/257".into()));
        assert_eq!(terminal((4 << 8) | 1), Some("/dev/tty1".into()));
        assert_eq!(terminal(0), None);
    }
}
