//! The phone's folder: the profile, the book and the tenant's computers, readable by their owner only, each replaced as a whole or not at all.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use gatepass_client::{Proxies, api::Log};
use gatepass_mobile::{book::Book, directory::Directory, profile::Profile};
use gatepass_protocol::{slot::Tries, trust::TrustStore, witness::NotTheLog};
use rustix::fs::{FlockOperation, flock};
use zeroize::Zeroizing;

const PROFILE: &str = "profile.json";
const BOOK: &str = "book.json";
const DIRECTORY: &str = "computers.json";
const TRIES: &str = "tries.json";

/// The folder.
pub(crate) struct Home {
    folder: PathBuf,
    /// How the phone goes out.
    pub(crate) proxies: Proxies,
}

impl Home {
    /// `--home`, or `$XDG_DATA_HOME/gatepass-phone`, or `~/.local/share/gatepass-phone`.
    pub(crate) fn find(given: Option<PathBuf>, proxies: Proxies) -> Result<Self> {
        let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let folder = given
            .or_else(|| absolute("XDG_DATA_HOME").map(|data| data.join("gatepass-phone")))
            .or_else(|| absolute("HOME").map(|home| home.join(".local/share/gatepass-phone")))
            .context("there is no home folder to keep the phone's keys in: give one with --home")?;
        Ok(Self { folder, proxies })
    }

    /// The profile, if there is one.
    pub(crate) fn profile(&self) -> Result<Option<Profile>> {
        let Some(text) = self.read(PROFILE)? else { return Ok(None) };
        let mut profile = Profile::from_text(&text).with_context(|| format!("in {}", self.folder.display()))?;
        profile.proxies = self.proxies.clone();
        Ok(Some(profile))
    }

    /// The profile of a phone that is enrolled or waits to be.
    pub(crate) fn enrolled(&self) -> Result<Profile> {
        self.profile()?
            .context("this phone is not enrolled: run 'gatepass-phone enrol' with what your administrator tells you")
    }

    /// Keeps the newest lists that were seen, beside what another command may have kept meanwhile.
    pub(crate) fn remember(&self, trust: &TrustStore) -> Result<()> {
        let _lock = self.lock()?;
        let mut profile = self.enrolled()?;
        profile.remember(trust);
        self.write(PROFILE, &profile.to_text())
    }

    /// Keeps the newest head of the audit log, if it continues what this phone has seen.
    pub(crate) fn witness(&self, shown: &Log) -> Result<Result<(), NotTheLog>> {
        let _lock = self.lock()?;
        let mut profile = self.enrolled()?;
        let seen = profile.witness(shown);
        self.write(PROFILE, &profile.to_text())?;
        Ok(seen)
    }

    /// Keeps the profile of an enrolment.
    pub(crate) fn keep(&self, profile: &Profile) -> Result<()> {
        let _lock = self.lock()?;
        self.write(PROFILE, &profile.to_text())
    }

    /// When this phone opened slots.
    pub(crate) fn tries(&self) -> Result<Tries> {
        let Some(text) = self.read(TRIES)? else { return Ok(Tries::default()) };
        serde_json::from_str(&text)
            .with_context(|| format!("{} is damaged: remove it", self.folder.join(TRIES).display()))
    }

    /// Keeps that.
    pub(crate) fn keep_tries(&self, tries: &Tries) -> Result<()> {
        let _lock = self.lock()?;
        self.write(TRIES, &serde_json::to_string(tries)?)
    }

    /// The book.
    pub(crate) fn book(&self) -> Result<Book> {
        let Some(text) = self.read(BOOK)? else { return Ok(Book::default()) };
        serde_json::from_str(&text).with_context(|| {
            format!("{} is damaged: move it away to begin a new one", self.folder.join(BOOK).display())
        })
    }

    /// Changes the book; two commands at once lose nothing.
    pub(crate) fn change_book<T>(&self, change: impl FnOnce(&mut Book) -> T) -> Result<T> {
        let _lock = self.lock()?;
        let mut book = self.book()?;
        let changed = change(&mut book);
        self.write(BOOK, &serde_json::to_string_pretty(&book)?)?;
        Ok(changed)
    }

    /// The tenant's computers.
    pub(crate) fn directory(&self) -> Result<Directory> {
        let Some(text) = self.read(DIRECTORY)? else { return Ok(Directory::default()) };
        // All of it can be fetched again.
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    /// Keeps the tenant's computers.
    pub(crate) fn keep_directory(&self, directory: &Directory) -> Result<()> {
        let _lock = self.lock()?;
        self.write(DIRECTORY, &serde_json::to_string(directory)?)
    }

    fn read(&self, name: &str) -> Result<Option<Zeroizing<String>>> {
        let path = self.folder.join(name);
        match fs::read_to_string(&path) {
            Ok(text) => {
                private(&path)?;
                Ok(Some(Zeroizing::new(text)))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("can't read {}", path.display())),
        }
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let (path, new) = (self.folder.join(name), self.folder.join(format!("{name}.new")));
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        write().with_context(|| format!("can't write {}", path.display()))
    }

    fn lock(&self) -> Result<File> {
        let create = || {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(self.folder.join("lock"))?;
            flock(&file, FlockOperation::LockExclusive)?;
            Ok::<_, std::io::Error>(file)
        };
        create().with_context(|| format!("can't use the folder {}", self.folder.display()))
    }
}

/// Reads a file that holds a secret. It must be its owner's alone.
pub(crate) fn secret(path: &Path) -> Result<Zeroizing<String>> {
    private(path)?;
    let text = fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
    Ok(Zeroizing::new(text))
}

fn private(path: &Path) -> Result<()> {
    let about = fs::metadata(path).with_context(|| format!("can't read {}", path.display()))?;
    let me = rustix::process::geteuid().as_raw();
    if about.permissions().mode() & 0o077 != 0 || (about.uid() != me && me != 0) {
        bail!("{} holds a secret, but others can read it: run 'chmod 600 {0}'", path.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_that_others_can_read_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pin");
        fs::write(&path, "814273\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(secret(&path).unwrap_err().to_string().contains("chmod 600"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(&**secret(&path).unwrap(), "814273\n");
    }

    #[test]
    fn the_folder_and_its_files_are_the_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::find(Some(folder.path().join("deep/phone")), Proxies::none()).unwrap();
        assert!(home.profile().unwrap().is_none());
        home.change_book(|_| ()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder.path().join("deep/phone")), 0o700);
        assert_eq!(mode(&folder.path().join("deep/phone/book.json")), 0o600);
    }
}
