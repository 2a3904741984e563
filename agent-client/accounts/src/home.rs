//! Home directories: made whole or not at all, never taken over, removed without following links.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::{DirBuilderExt, MetadataExt, chown, lchown, symlink},
    path::{Path, PathBuf},
};

use crate::{AccountError, AccountName, During};

/// Where home directories are and what is in a new one.
#[derive(Clone, Debug)]
pub struct Homes {
    /// Usually `/home`. Only root may write here.
    pub base: PathBuf,
    /// Usually `/etc/skel`. It may be missing.
    pub skel: PathBuf,
}

impl Default for Homes {
    fn default() -> Self {
        Self { base: "/home".into(), skel: "/etc/skel".into() }
    }
}

impl Homes {
    pub(crate) fn of(&self, name: &AccountName) -> PathBuf {
        self.base.join(name.as_str())
    }

    /// Whether `name` may have its home: nothing is there, or what is there belongs to `uid` (if it has one yet).
    pub(crate) fn check(&self, name: &AccountName, uid: Option<u32>) -> Result<bool, AccountError> {
        let home = self.of(name);
        match home.symlink_metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error).during("look at", home),
            Ok(found) if found.is_dir() && Some(found.uid()) == uid => Ok(true),
            Ok(found) => Err(AccountError::Clash {
                name: name.clone(),
                by: format!("what lies at {} and belongs to user id {}", home.display(), found.uid()),
            }),
        }
    }

    /// Makes the home if it isn't there. It appears under its name only when it is complete.
    pub(crate) fn make(&self, name: &AccountName, uid: u32) -> Result<(), AccountError> {
        if self.check(name, Some(uid))? {
            return Ok(());
        }
        let new = self.unfinished(name);
        remove(&new)?;
        fs::DirBuilder::new().mode(0o700).create(&new).during("make the directory", &new)?;
        if self.skel.is_dir() {
            copy(&self.skel, &new, uid)?;
        }
        // Its owner last: until then only root can change what is copied.
        chown(&new, Some(uid), Some(uid)).during("give away", &new)?;
        fs::rename(&new, self.of(name)).during("name the directory", self.of(name))
    }

    /// Removes the home and all that is in it.
    pub(crate) fn remove(&self, name: &AccountName, uid: u32) -> Result<(), AccountError> {
        remove(&self.unfinished(name))?;
        if self.check(name, Some(uid))? { remove(&self.of(name)) } else { Ok(()) }
    }

    fn unfinished(&self, name: &AccountName) -> PathBuf {
        self.base.join(format!(".{name}.new"))
    }
}

fn copy(from: &Path, to: &Path, uid: u32) -> Result<(), AccountError> {
    for entry in fs::read_dir(from).during("read", from)? {
        let entry = entry.during("read", from)?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().during("look at", &source)?;
        if kind.is_dir() {
            let mode = entry.metadata().during("look at", &source)?.mode() & 0o777;
            fs::DirBuilder::new().mode(mode).create(&target).during("make the directory", &target)?;
            copy(&source, &target, uid)?;
        } else if kind.is_symlink() {
            let aim = fs::read_link(&source).during("read", &source)?;
            symlink(aim, &target).during("make the link", &target)?;
        } else if kind.is_file() {
            fs::copy(&source, &target).during("copy", &source)?;
        } else {
            continue;
        }
        lchown(&target, Some(uid), Some(uid)).during("give away", &target)?;
    }
    Ok(())
}

/// The standard library's removal opens each step relative to the last and follows no link.
fn remove(dir: &Path) -> Result<(), AccountError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).during("remove", dir),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_never_made_over_something_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let homes = Homes { base: dir.path().into(), skel: dir.path().join("no-skel") };
        let name = AccountName::new("gp-alex").unwrap();
        assert!(!homes.check(&name, None).unwrap());
        for make in [
            (|path: &Path| fs::create_dir(path).unwrap()) as fn(&Path),
            |path| fs::write(path, "").unwrap(),
            |path| symlink("/root", path).unwrap(),
        ] {
            make(&homes.of(&name));
            // Whoever runs this test, uid 4_000_000_000 is somebody else.
            assert!(matches!(homes.make(&name, 4_000_000_000), Err(AccountError::Clash { .. })));
            assert!(matches!(homes.remove(&name, 4_000_000_000), Err(AccountError::Clash { .. })));
            assert!(homes.of(&name).symlink_metadata().is_ok());
            let _ = fs::remove_dir(homes.of(&name)).or_else(|_| fs::remove_file(homes.of(&name)));
        }
    }
}
