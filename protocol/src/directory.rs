//! The directory: which phones and computers a tenant has, for those who must know each other before they are offline. An agent asks
//! for phones, a phone for computers.
//!
//! Nobody signs the directory, and nobody needs to: each entry is a certificate chain, which its reader verifies with its own trust
//! store, and revocations come by their own list. Whoever hands it out can leave somebody out, and nothing else. It is asked for with
//! a signature, because certificates have people's names in them.

use serde::{Deserialize, Serialize};

use crate::{ids::TenantId, signed::Body};

/// A request older or newer than this many seconds is refused.
pub const WINDOW: u64 = 300;

/// Entries of one answer.
pub const PAGE: usize = 500;

/// Asks for what came since. Signed by the Sign key of a device or an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectoryRequest {
    /// Whose directory.
    pub tenant: TenantId,
    /// Who asks: a computer or a device.
    #[serde(with = "serde_bytes")]
    pub subject: [u8; 16],
    /// When, in Unix seconds.
    pub time: u64,
    /// Those enrolled from then on, in Unix seconds by the control plane's clock.
    pub since: u64,
    /// Of those enrolled in that very second, the ones behind this identifier; zeros: all of them.
    #[serde(with = "serde_bytes")]
    pub after: [u8; 16],
}

impl Body for DirectoryRequest {
    const LABEL: &'static str = "gp1 directory";
}
