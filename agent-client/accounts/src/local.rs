//! Who already lives on this computer: everybody whom Gatepass did not make.
//!
//! A name may be taken in `/etc/passwd`, in any other source of the name service switch (a directory, for instance), in systemd's
//! drop-in folders or by another user-database service. All are asked, because an account that Gatepass made over an existing one
//! would hand out the other's name, files and rights. Files are read directly, which takes microseconds; the others are asked only
//! where they are configured.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{AccountError, AccountName, During, command};

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";
const SHADOW: &str = "/etc/shadow";
const NSSWITCH: &str = "/etc/nsswitch.conf";
const DROP_INS: [&str; 4] = ["/etc/userdb", "/run/userdb", "/run/host/userdb", "/usr/lib/userdb"];
const SERVICES: &str = "/run/systemd/userdb";

/// Services that only repeat what the other sources say, or what we say ourselves.
const REPEATERS: [&str; 3] = ["io.systemd.Multiplexer", "io.systemd.NameServiceSwitch", "io.systemd.DropIn"];

/// A line of `/etc/passwd`.
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) uid: u32,
    pub(crate) gecos: String,
}

/// A line of `/etc/group`.
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) gid: u32,
    pub(crate) members: Vec<String>,
}

pub(crate) fn users() -> Result<Vec<User>, AccountError> {
    let user = |line: &str| {
        let mut fields = line.split(':');
        let (name, _, uid, _, gecos) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        Some(User { name: name.into(), uid: uid.parse().ok()?, gecos: gecos.into() })
    };
    Ok(lines(PASSWD)?.lines().filter_map(user).collect())
}

pub(crate) fn groups() -> Result<Vec<Group>, AccountError> {
    let group = |line: &str| {
        let mut fields = line.split(':');
        let (name, _, gid, members) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let members = members.split(',').filter(|member| !member.is_empty()).map(str::to_owned).collect();
        Some(Group { name: name.into(), gid: gid.parse().ok()?, members })
    };
    Ok(lines(GROUP)?.lines().filter_map(group).collect())
}

/// The password and expiry fields of `/etc/shadow`: whether it is locked, and the day of the expiry.
pub(crate) fn shadow(name: &AccountName) -> Result<Option<(bool, Option<u64>)>, AccountError> {
    let shadow = lines(SHADOW)?;
    let line = shadow.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|line| line[0] == name.as_str());
    Ok(line.map(|line| {
        let locked = line.get(1).is_none_or(|password| password.starts_with(['!', '*']));
        (locked, line.get(7).and_then(|day| day.parse().ok()))
    }))
}

/// Whether a uid, or the gid of the same number, is somebody else's in the files.
pub(crate) fn takes(users: &[User], groups: &[Group], uid: u32, besides: &AccountName) -> bool {
    users.iter().any(|user| user.uid == uid && user.name != besides.as_str())
        || groups.iter().any(|group| group.gid == uid && group.name != besides.as_str())
}

/// Who has `name` in any source but the files and `own`, our own service.
pub(crate) fn holder_elsewhere(name: &AccountName, own: Option<&Path>) -> Result<Option<String>, AccountError> {
    for (database, what) in [("passwd", "an account"), ("group", "a group")] {
        for source in other_sources(database)? {
            if getent(&source, database, name.as_str())? {
                return Ok(Some(format!("{what} of the source \"{source}\" in {NSSWITCH}")));
            }
        }
    }
    for file in
        DROP_INS.iter().flat_map(|dir| ["user", "group"].map(|kind| Path::new(dir).join(format!("{name}.{kind}"))))
    {
        if file.symlink_metadata().is_ok() {
            return Ok(Some(format!("the record {}", file.display())));
        }
    }
    Ok(other_services(own).into_iter().find(|socket| service_knows(socket, name)).map(|socket| {
        format!("an account of the service {}", socket.file_name().unwrap_or_default().to_string_lossy())
    }))
}

/// Who has `name` in the files.
pub(crate) fn holder_in_files(users: &[User], groups: &[Group], name: &AccountName) -> Option<String> {
    let user = users.iter().find(|user| user.name == name.as_str());
    let group = groups.iter().find(|group| group.name == name.as_str());
    user.map(|user| format!("the local account with user id {}", user.uid))
        .or_else(|| group.map(|group| format!("the local group with group id {}", group.gid)))
}

/// Where a group may be known.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sources {
    /// `usermod` can put somebody into these only.
    Files,
    /// A directory's groups as well.
    All,
}

/// Refuses groups that don't exist here.
pub(crate) fn know_groups(wanted: &[String], groups: &[Group], known: Sources) -> Result<(), AccountError> {
    let harmless = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    for name in wanted {
        let unknown = || AccountError::UnknownGroup { group: name.escape_default().to_string() };
        if name.is_empty()
            || name.starts_with('-')
            || !name.bytes().all(harmless)
            || name.bytes().all(|b| b.is_ascii_digit())
        {
            return Err(unknown());
        }
        if groups.iter().any(|group| group.name == *name) {
            continue;
        }
        let mut found = false;
        for source in if known == Sources::All { other_sources("group")? } else { Vec::new() } {
            found = found || getent(&source, "group", name)?;
        }
        if !found {
            return Err(unknown());
        }
    }
    Ok(())
}

/// The sources of a database in `nsswitch.conf`, in order.
pub(crate) fn sources(nsswitch: &str, database: &str) -> Vec<String> {
    let line = nsswitch.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let found = line.filter_map(|line| line.split_once(':')).find(|(name, _)| name.trim() == database);
    let mut inside_action = false;
    let source = |word: &&str| {
        let skip = inside_action || word.starts_with('[');
        inside_action = skip && !word.ends_with(']');
        !skip
    };
    found.map_or_else(Vec::new, |(_, sources)| sources.split_whitespace().filter(source).map(str::to_owned).collect())
}

fn other_sources(database: &str) -> Result<Vec<String>, AccountError> {
    let mut sources = sources(&lines(NSSWITCH)?, database);
    sources.retain(|source| !matches!(source.as_str(), "files" | "compat" | "systemd"));
    Ok(sources)
}

fn getent(source: &str, database: &str, key: &str) -> Result<bool, AccountError> {
    Ok(command::run("getent", &["-s", source, database, key], None)?.code == 0)
}

fn other_services(own: Option<&Path>) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(SERVICES) else { return Vec::new() };
    let ours = own.and_then(|path| path.canonicalize().ok());
    let foreign = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        !name.starts_with('.') && !REPEATERS.contains(&name.as_str()) && path.canonicalize().ok() != ours
    };
    entries.filter_map(|entry| Some(entry.ok()?.path())).filter(foreign).collect()
}

/// Asks another user-database service. One that doesn't answer has no account to lose.
fn service_knows(socket: &Path, name: &AccountName) -> bool {
    let ask = || -> io::Result<bool> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.set_write_timeout(Some(Duration::from_secs(2)))?;
        let service = socket.file_name().unwrap_or_default().to_string_lossy();
        let question = json!({
            "method": "io.systemd.UserDatabase.GetUserRecord",
            "parameters": { "userName": name.as_str(), "service": service },
        });
        stream.write_all(format!("{question}\0").as_bytes())?;
        let mut answer = Vec::new();
        let mut part = [0; 4096];
        while !answer.ends_with(&[0]) && answer.len() < 65536 {
            match stream.read(&mut part)? {
                0 => break,
                n => answer.extend_from_slice(&part[..n]),
            }
        }
        let answer = serde_json::from_slice::<Value>(answer.strip_suffix(&[0]).unwrap_or(&answer))?;
        Ok(answer["parameters"]["record"]["userName"] == name.as_str())
    };
    ask().unwrap_or(false)
}

fn lines(path: &str) -> Result<String, AccountError> {
    // Not only UTF-8 lives in these files; a name of ours is ASCII and is found all the same.
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).during("read", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nsswitch_is_read_as_people_write_it() {
        let text = "# passwd: nis\npasswd:\tfiles [NOTFOUND=continue SUCCESS=return] systemd sss # new\ngroup: files\n";
        assert_eq!(sources(text, "passwd"), ["files", "systemd", "sss"]);
        assert_eq!(sources(text, "group"), ["files"]);
        assert!(sources(text, "shadow").is_empty());
    }

    #[test]
    fn a_group_that_is_no_name_is_unknown_and_printed_harmlessly() {
        for group in ["", "-G", "a,b", "a b", "27", "no\nsuch", "no-such-group-here", "sud\u{f6}"] {
            let error = know_groups(&[group.to_owned()], &[], Sources::All).unwrap_err();
            assert!(matches!(error, AccountError::UnknownGroup { .. }));
            assert!(!error.to_string().contains('\n'));
        }
    }
}
