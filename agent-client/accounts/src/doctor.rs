//! What a computer lacks for either provider, said so that somebody can put it right.

use std::{fs::OpenOptions, io::ErrorKind, ops::RangeInclusive, path::Path};

use rustix::{
    fs::{FlockOperation, fcntl_lock},
    io::Errno,
};

use crate::{AccountError, During, local};

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// As it should be.
    Good,
    /// It works, but not as well as it could.
    Notice,
    /// It won't work.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at, in a word or two.
    pub subject: &'static str,
    /// How much it matters.
    pub severity: Severity,
    /// What was found.
    pub found: String,
    /// What to do, unless it is good.
    pub todo: String,
}

impl Finding {
    fn good(subject: &'static str, found: impl Into<String>) -> Self {
        Self { subject, severity: Severity::Good, found: found.into(), todo: String::new() }
    }

    fn problem(subject: &'static str, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { subject, severity: Severity::Problem, found: found.into(), todo: todo.into() }
    }

    fn notice(subject: &'static str, found: impl Into<String>, todo: impl Into<String>) -> Self {
        Self { severity: Severity::Notice, ..Self::problem(subject, found, todo) }
    }
}

/// Everything below, for this computer.
pub fn examine(uids: &RangeInclusive<u32>) -> Vec<Finding> {
    let root = Path::new("/");
    vec![name_service(root), library(root), cache(root), range(uids), account_lock(root)]
}

/// Whether this computer can ask us who its users are, so that [`crate::UserDb`] works.
pub fn can_be_user_database() -> bool {
    let root = Path::new("/");
    [name_service(root), library(root)].iter().all(|finding| finding.severity == Severity::Good)
}

/// Whether `nsswitch.conf` asks systemd's library for users, groups and their expiry.
pub fn name_service(root: &Path) -> Finding {
    const SUBJECT: &str = "name service";
    let path = root.join("etc/nsswitch.conf");
    let text = match std::fs::read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => {
            let todo = "Write it with \"passwd: files systemd\" and the same for group and shadow.";
            return Finding::problem(SUBJECT, format!("{} can't be read: {error}", path.display()), todo);
        }
    };
    let lacks = |database: &&str| !local::sources(&text, database).iter().any(|source| source == "systemd");
    let lacking: Vec<&str> = ["passwd", "group", "shadow"].into_iter().filter(lacks).collect();
    if lacking.is_empty() {
        return Finding::good(SUBJECT, format!("{} asks systemd's library", path.display()));
    }
    let lines = lacking.join(", ");
    let todo = format!("Add the word systemd to the end of these lines in {}: {lines}.", path.display());
    Finding::problem(SUBJECT, format!("{} does not ask systemd's library for: {lines}", path.display()), todo)
}

/// Whether systemd's name service library is there.
pub fn library(root: &Path) -> Finding {
    const SUBJECT: &str = "libnss-systemd";
    const FILE: &str = "libnss_systemd.so.2";
    let mut dirs: Vec<_> = ["lib64", "usr/lib64", "lib", "usr/lib"].map(|dir| root.join(dir)).into();
    for lib in ["lib", "usr/lib"] {
        let triplets = std::fs::read_dir(root.join(lib)).into_iter().flatten().filter_map(Result::ok);
        dirs.extend(triplets.map(|entry| entry.path()).filter(|path| path.to_string_lossy().ends_with("-linux-gnu")));
    }
    match dirs.iter().map(|dir| dir.join(FILE)).find(|path| path.is_file()) {
        Some(path) => Finding::good(SUBJECT, format!("{} is there", path.display())),
        None => Finding::problem(
            SUBJECT,
            format!("{FILE} is missing"),
            "Install libnss-systemd (Debian, Ubuntu) or systemd-libs (Fedora, Red Hat). Until then standing accounts are used.",
        ),
    }
}

/// Whether a cache may show accounts for longer than they exist.
pub fn cache(root: &Path) -> Finding {
    const SUBJECT: &str = "name service cache";
    if root.join("run/nscd/socket").exists() {
        Finding::notice(
            SUBJECT,
            "nscd runs and remembers who exists, and who does not, for minutes",
            "Set \"enable-cache passwd no\" and \"enable-cache group no\" in /etc/nscd.conf.",
        )
    } else {
        Finding::good(SUBJECT, "nscd does not run")
    }
}

/// Whether the uids to give out are nobody else's.
pub fn range(uids: &RangeInclusive<u32>) -> Finding {
    const SUBJECT: &str = "user ids";
    let (first, last) = (uids.start(), uids.end());
    let todo = "Choose another range (accounts.uids).";
    let (users, groups) = match (local::users(), local::groups()) {
        (Ok(users), Ok(groups)) => (users, groups),
        (Err(error), _) | (_, Err(error)) => return Finding::problem(SUBJECT, error.to_string(), "Look at the file."),
    };
    // Standing accounts of ours are in the files too.
    let ours = |name: &str| users.iter().any(|user| user.name == name && user.gecos.starts_with("Gatepass "));
    let user = users.iter().find(|user| uids.contains(&user.uid) && !ours(&user.name)).map(|user| &user.name);
    let group = groups.iter().find(|group| uids.contains(&group.gid) && !ours(&group.name)).map(|group| &group.name);
    if let Some(name) = user.or(group) {
        return Finding::notice(SUBJECT, format!("{name} has an id between {first} and {last}; it is left out"), todo);
    }
    for file in ["/etc/subuid", "/etc/subgid"] {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        if let Some(line) = text.lines().find(|line| overlaps(line, uids)) {
            return Finding::problem(
                SUBJECT,
                format!("{file} gives ids between {first} and {last} to containers: {line}"),
                todo,
            );
        }
    }
    Finding::good(SUBJECT, format!("{first} to {last} are free"))
}

fn overlaps(line: &str, uids: &RangeInclusive<u32>) -> bool {
    let mut fields = line.split(':').skip(1).map(str::parse::<u64>);
    let (Some(Ok(start)), Some(Ok(count))) = (fields.next(), fields.next()) else { return false };
    start <= u64::from(*uids.end()) && start.saturating_add(count) > u64::from(*uids.start())
}

/// Whether somebody holds the lock of the account files.
pub fn account_lock(root: &Path) -> Finding {
    const SUBJECT: &str = "account files";
    let path = root.join("etc/.pwd.lock");
    match pwd_lock_is_held(&path) {
        Ok(false) => Finding::good(SUBJECT, "nobody holds their lock"),
        Ok(true) => Finding::notice(
            SUBJECT,
            format!("another program holds {}", path.display()),
            format!("If it lasts, find it with: fuser -v {}", path.display()),
        ),
        Err(error) => Finding::problem(SUBJECT, error.to_string(), "Run as root."),
    }
}

/// Tries the lock that `lckpwdf` takes, and gives it back at once.
pub(crate) fn pwd_lock_is_held(path: &Path) -> Result<bool, AccountError> {
    let file = match OpenOptions::new().write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).during("open", path),
    };
    match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(false),
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(true),
        Err(error) => Err(error).during("try the lock", path),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_doctor_names_the_lines_to_change() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        assert_eq!(name_service(root.path()).severity, Severity::Problem);
        fs::write(root.path().join("etc/nsswitch.conf"), "passwd: files systemd\ngroup: files\n").unwrap();
        let finding = name_service(root.path());
        assert_eq!(finding.severity, Severity::Problem);
        assert!(finding.todo.contains("group, shadow") && !finding.todo.contains("passwd"), "{}", finding.todo);
        fs::write(
            root.path().join("etc/nsswitch.conf"),
            "passwd: files systemd\ngroup: files systemd\nshadow: systemd files\n",
        )
        .unwrap();
        assert_eq!(name_service(root.path()).severity, Severity::Good);
    }

    #[test]
    fn the_doctor_finds_the_library_wherever_a_distribution_puts_it() {
        for dir in ["lib/aarch64-linux-gnu", "usr/lib64", "usr/lib"] {
            let root = tempfile::tempdir().unwrap();
            assert_eq!(library(root.path()).severity, Severity::Problem);
            fs::create_dir_all(root.path().join(dir)).unwrap();
            fs::write(root.path().join(dir).join("libnss_systemd.so.2"), "").unwrap();
            assert_eq!(library(root.path()).severity, Severity::Good);
        }
    }

    #[test]
    fn a_range_that_containers_use_is_seen() {
        assert!(overlaps("alex:100000:65536", &(80_000..=100_000)));
        assert!(overlaps("alex:65536:65536", &(70_000..=89_999)));
        assert!(!overlaps("alex:100000:65536", &(70_000..=89_999)));
        assert!(!overlaps("alex:x:65536", &(70_000..=89_999)));
        // root and most system accounts are in every range that begins at 0.
        assert_eq!(range(&(0..=10)).severity, Severity::Notice);
    }
}
