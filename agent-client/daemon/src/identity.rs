//! Who this computer is: its keys, its certificate, its tenant. Made by `enrol`, read by everything else.
//!
//! One file, root's alone, replaced as a whole: there is no moment in which a key is on the disk without its certificate.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use gatepass_client::Tls;
use gatepass_protocol::ids::{ComputerId, TenantId};
use gatepass_protocol::keys::{ChannelKey, OtpKey, SigningKey};
use gatepass_protocol::trust::CaPublic;
use gatepass_protocol::wire;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::config::Config;

/// The file as it is stored.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub(crate) struct Stored {
    /// Of this format.
    #[zeroize(skip)]
    pub(crate) version: u8,
    #[zeroize(skip)]
    pub(crate) tenant: TenantId,
    #[zeroize(skip)]
    pub(crate) computer: ComputerId,
    /// The Ed25519 seed.
    #[serde(with = "serde_bytes")]
    pub(crate) sign: [u8; 32],
    /// The X25519 key.
    #[serde(with = "serde_bytes")]
    pub(crate) channel: [u8; 32],
    /// The certificate, then the ticket that issued it.
    #[zeroize(skip)]
    pub(crate) chain: Vec<Bytes>,
    /// The tenant's CA keys, PEM.
    #[zeroize(skip)]
    pub(crate) cas: Vec<String>,
    /// The control plane.
    #[zeroize(skip)]
    pub(crate) url: String,
    /// What vouches for it and for the relays, where no public CA does.
    #[zeroize(skip)]
    pub(crate) tls_ca_pem: Option<String>,
    /// The P-256 scalar for offline codes. A computer that was enrolled before there were any has none.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "serde_bytes")]
    pub(crate) otp: Option<[u8; 32]>,
}

pub(crate) const VERSION: u8 = 1;

/// The enrolled computer.
pub(crate) struct Identity {
    pub(crate) tenant: TenantId,
    pub(crate) computer: ComputerId,
    pub(crate) sign: Arc<SigningKey>,
    pub(crate) channel: ChannelKey,
    /// For offline codes.
    pub(crate) otp: Option<OtpKey>,
    pub(crate) chain: Vec<Bytes>,
    pub(crate) cas: Vec<CaPublic>,
    pub(crate) url: String,
    pub(crate) tls_ca_pem: Option<String>,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error("this computer is not enrolled: run `gatepass-agent enrol --ticket-file FILE` as root")]
    NotEnrolled,
    #[error("{} can't be read: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} may be read by others than root (mode {mode:o}): its keys are no secret any more. Enrol again, and revoke this computer's certificate", path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("{} is damaged: enrol this computer again", path.display())]
    Damaged { path: PathBuf },
    #[error(transparent)]
    Tls(#[from] gatepass_client::TlsError),
}

/// Where the identity is.
pub(crate) fn path(state: &Path) -> PathBuf {
    state.join("identity")
}

impl Identity {
    pub(crate) fn load(config: &Config) -> Result<Self, IdentityError> {
        let path = path(&config.state);
        let unreadable = |source| IdentityError::Unreadable { path: path.clone(), source };
        let metadata = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(IdentityError::NotEnrolled),
            other => other.map_err(unreadable)?,
        };
        if metadata.mode() & 0o077 != 0 {
            return Err(IdentityError::Exposed { path, mode: metadata.mode() & 0o7777 });
        }
        let bytes = Zeroizing::new(fs::read(&path).map_err(unreadable)?);
        let damaged = || IdentityError::Damaged { path: path.clone() };
        let stored: Stored = wire::from_slice(&bytes).map_err(|_| damaged())?;
        if stored.version != VERSION {
            return Err(damaged());
        }
        let cas =
            stored.cas.iter().map(|pem| CaPublic::from_pem(pem)).collect::<Result<_, _>>().map_err(|_| damaged())?;
        let tls_ca_pem = match config.relay.ca_file.as_str() {
            "" => stored.tls_ca_pem.clone(),
            file => Some(
                fs::read_to_string(file).map_err(|source| IdentityError::Unreadable { path: file.into(), source })?,
            ),
        };
        Ok(Self {
            tenant: stored.tenant,
            computer: stored.computer,
            sign: Arc::new(SigningKey::from_seed(&stored.sign)),
            channel: ChannelKey::from_bytes(&stored.channel),
            otp: stored.otp.as_ref().map(OtpKey::from_bytes).transpose().map_err(|_| damaged())?,
            chain: stored.chain.clone(),
            cas,
            url: stored.url.clone(),
            tls_ca_pem,
        })
    }

    /// Whom to believe on the wire.
    pub(crate) fn tls(&self) -> Result<Tls, IdentityError> {
        Ok(Tls::from_pem(self.tls_ca_pem.as_deref())?)
    }
}

/// Makes a folder that is root's alone, or makes an existing one so.
pub(crate) fn private_folder(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Writes a whole file of ours, or leaves the old one: flushed, renamed, folder flushed.
pub(crate) fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_from_before_offline_codes_still_loads() {
        type Before<'a> = (u8, TenantId, ComputerId, Bytes, Bytes, Vec<Bytes>, Vec<String>, &'a str, Option<String>);
        let key = || Bytes::from_static(&[3; 32]);
        let before: Before<'_> =
            (VERSION, TenantId([1; 16]), ComputerId([2; 16]), key(), key(), vec![], vec![], "https://localhost", None);
        let stored: Stored = wire::from_slice(&wire::to_vec(&before)).unwrap();
        assert_eq!(stored.otp, None);
        let mut now: Stored = wire::from_slice(&wire::to_vec(&before)).unwrap();
        now.otp = Some([4; 32]);
        assert_eq!(wire::from_slice::<Stored>(&wire::to_vec(&now)).unwrap().otp, Some([4; 32]));
    }
}
