//! What an account leaves behind that would start processes, or let them in, after it ended: lingering user managers, crontabs, at
//! jobs, sudo's memory of who typed a password a moment ago, and programs that lend the account's user or groups to whoever runs
//! them.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;

use crate::{AccountError, AccountName, During};

/// Files of an account's name or uid, on Debian, Red Hat and SUSE.
const NAMED: [&str; 8] = [
    "/var/lib/systemd/linger",
    "/var/spool/cron/crontabs",
    "/var/spool/cron/tabs",
    "/var/spool/cron",
    "/run/sudo/ts",
    "/var/lib/sudo/ts",
    "/var/db/sudo/ts",
    "/run/sudo-rs/ts",
];

/// Where files belong to whoever made them, whatever their name is.
const OWNED: [&str; 3] = ["/var/spool/cron/atjobs", "/var/spool/at", "/var/spool/atjobs"];

/// Where everybody may write.
const SHARED: [&str; 4] = ["/tmp", "/var/tmp", "/dev/shm", "/run/user"];

/// Set-user-id and set-group-id.
const LENDING: u32 = 0o6000;

/// Files looked at in one place; a home with more has other troubles.
const LOOKED_AT: usize = 1_000_000;

const MAIL: [&str; 2] = ["/var/mail", "/var/spool/mail"];

/// Removes what could start or admit something later.
pub(crate) fn tidy(name: &AccountName, uid: u32) -> Result<(), AccountError> {
    for dir in NAMED.map(Path::new) {
        unlink(&dir.join(name.as_str()))?;
        unlink(&dir.join(uid.to_string()))?;
    }
    for dir in OWNED {
        let Ok(entries) = fs::read_dir(dir) else { continue };
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if path.symlink_metadata().is_ok_and(|found| found.uid() == uid && !found.is_dir()) {
                unlink(&path)?;
            }
        }
    }
    Ok(())
}

/// Takes the set-user-id and set-group-id bits off the account's files, where it could write without being root: a copy of a shell
/// in a group of the grant would keep that group for whoever runs it. Call it when nothing of the account runs any more.
pub(crate) fn disarm(home: &Path, uid: u32) -> Result<(), AccountError> {
    let places = SHARED.iter().map(PathBuf::from).chain([home.to_owned()]);
    places.into_iter().try_for_each(|place| disarm_below(place, uid))
}

fn disarm_below(place: PathBuf, uid: u32) -> Result<(), AccountError> {
    let Ok(device) = place.symlink_metadata().map(|found| found.dev()) else { return Ok(()) };
    let (mut folders, mut looked_at) = (vec![place], 0);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            // Of the entry itself: a link is not followed.
            let Ok(found) = entry.metadata() else { continue };
            looked_at += 1;
            if looked_at > LOOKED_AT {
                tracing::error!(folder = %folder.display(), "too many files to look for set-user-id ones in all of them");
                return Ok(());
            }
            if found.is_dir() && found.dev() == device {
                folders.push(entry.path());
            } else if found.is_file() && found.uid() == uid && found.mode() & LENDING != 0 {
                strip(&entry.path(), uid).during("take the set-user-id bit off", entry.path())?;
            }
        }
    }
    Ok(())
}

/// Through the open file, and only if it is still the one that was meant.
fn strip(path: &Path, uid: u32) -> std::io::Result<()> {
    let careful = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY).bits();
    let file = fs::OpenOptions::new().read(true).custom_flags(careful.cast_signed()).open(path)?;
    let found = file.metadata()?;
    if found.is_file() && found.uid() == uid {
        file.set_permissions(fs::Permissions::from_mode(found.mode() & !LENDING & 0o7777))?;
    }
    Ok(())
}

/// Removes the account's mail, when the account itself goes.
pub(crate) fn remove_mail(name: &AccountName) -> Result<(), AccountError> {
    MAIL.iter().try_for_each(|dir| unlink(&Path::new(dir).join(name.as_str())))
}

fn unlink(path: &Path) -> Result<(), AccountError> {
    match fs::remove_file(path) {
        Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Err(error).during("remove", path)
        }
        _ => Ok(()),
    }
}
