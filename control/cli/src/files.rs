//! Files with secrets: made for their owner only, never over another file, and not read when others could have read them.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use zeroize::Zeroizing;

/// No file that this program reads is larger: the largest holds the statements that it has seen.
const LARGEST: u64 = 8 * 1024 * 1024;

/// Writes a new file that only its owner may read, and is sure that it is on the disk.
pub(crate) fn write_secret(path: &Path, text: &str) -> Result<()> {
    write_new(path, text, 0o600)
}

/// Writes a new file that everybody may read.
pub(crate) fn write_public(path: &Path, text: &str) -> Result<()> {
    write_new(path, text, 0o644)
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<()> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file =
        opened.with_context(|| format!("can't make {} (an existing file is never overwritten)", path.display()))?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if written.is_err() {
        // Half a key is worse than none: it would look like the real one tomorrow.
        let _ = std::fs::remove_file(path);
    }
    written.with_context(|| format!("can't write {}", path.display()))
}

/// Replaces a file as a whole: readers see the old or the new one.
pub(crate) fn replace(path: &Path, text: &str) -> Result<()> {
    let mut beside = path.as_os_str().to_owned();
    // Another run of this program may do the same now.
    beside.push(format!(".{}.new", std::process::id()));
    let beside = Path::new(&beside);
    write_secret(beside, text)?;
    std::fs::rename(beside, path).with_context(|| format!("can't replace {}", path.display()))
}

/// Reads a secret from a file that nobody but its owner may read, without the line break at its end.
pub(crate) fn read_secret(path: &Path, what: &str) -> Result<Zeroizing<String>> {
    let file = File::open(path).with_context(|| format!("can't open {what} {}", path.display()))?;
    let mode = file.metadata().with_context(|| format!("can't look at {}", path.display()))?.mode();
    if mode & 0o077 != 0 {
        bail!(
            "{what} {} can be read by others than its owner (mode {:o}); if nobody did, run: chmod 600 {0}",
            path.display(),
            mode & 0o777
        );
    }
    let mut text = Zeroizing::new(String::new());
    file.take(LARGEST).read_to_string(&mut text).with_context(|| format!("can't read {what} {}", path.display()))?;
    Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}

/// Reads a file that is no secret.
pub(crate) fn read_public(path: &Path, what: &str) -> Result<String> {
    let file = File::open(path).with_context(|| format!("can't open {what} {}", path.display()))?;
    let mut text = String::new();
    file.take(LARGEST).read_to_string(&mut text).with_context(|| format!("can't read {what} {}", path.display()))?;
    Ok(text)
}
