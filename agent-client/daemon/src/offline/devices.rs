//! The tenant's phones, as the control plane's directory names them: each by its certificate, verified when it comes and again when
//! it is used.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use bytes::Bytes;
use gatepass_client::api::{Base64, Place};
use gatepass_protocol::Code;
use gatepass_protocol::policy::named_account;
use gatepass_protocol::signed::Unverified;
use gatepass_protocol::statement::{DeviceTerms, KeyUse, Statement};
use gatepass_protocol::trust::{Certified, TrustStore};
use serde::{Deserialize, Serialize};

use crate::identity::replace_file;

/// More phones than any tenant has: 30 MB on the disk.
const MOST: usize = 50_000;

/// The phones.
pub(super) struct Devices {
    file: PathBuf,
    kept: RwLock<Kept>,
}

#[derive(Default, Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    place: Place,
    devices: Vec<Base64>,
}

impl Devices {
    /// What was kept. What can't be read is fetched anew, from the beginning.
    pub(super) fn open(state: &Path) -> Self {
        let file = state.join("devices.json");
        let kept = fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Self { file, kept: RwLock::new(kept) }
    }

    fn read(&self) -> RwLockReadGuard<'_, Kept> {
        self.kept.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn place(&self) -> Place {
        self.read().place
    }

    pub(super) fn count(&self) -> usize {
        self.read().devices.len()
    }

    /// Takes what the directory has shown: of each phone the newest certificate, and none that is not valid.
    pub(super) fn take(&self, chains: Vec<Vec<Bytes>>, place: Place, trust: &TrustStore, now: u64) {
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        let known = kept.devices.iter().map(|device| vec![device.0.clone()]);
        let mut by_device: BTreeMap<[u8; 16], Bytes> = BTreeMap::new();
        for chain in known.chain(chains) {
            match trust.device(&chain, now) {
                Ok(device) if device.statement().key(KeyUse::Otp).is_some() => {
                    by_device.insert(device.statement().subject, device.bytes().clone());
                }
                // Enrolled before there were offline codes, revoked, or expired: nothing to remember.
                Ok(_) | Err(Code::Revoked) => {}
                Err(code) => tracing::debug!(%code, "the directory names a phone that is not valid"),
            }
        }
        let devices: Vec<Base64> = by_device.into_values().take(MOST).map(Base64).collect();
        if place == kept.place && devices == kept.devices {
            return;
        }
        *kept = Kept { place, devices };
        let json = serde_json::to_vec(&*kept).unwrap_or_default();
        if let Err(error) = replace_file(&self.file, &json) {
            tracing::error!(%error, file = %self.file.display(), "the tenant's phones can't be kept");
        }
    }

    /// The valid phones of the technician whose account this is.
    pub(super) fn of(&self, account: &str, trust: &TrustStore, now: u64) -> Vec<Certified<DeviceTerms>> {
        let claims_to_be = |device: &&Base64| {
            let claimed = Unverified::<Statement>::decode(device.0.clone()).ok();
            let terms = claimed.and_then(|claimed| claimed.claimed().terms::<DeviceTerms>().ok());
            terms.is_some_and(|terms| named_account(&terms.technician_name) == account)
        };
        let devices: Vec<Bytes> = self.read().devices.iter().filter(claims_to_be).map(|one| one.0.clone()).collect();
        devices.iter().filter_map(|device| trust.device(std::slice::from_ref(device), now).ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use gatepass_protocol::ids::Serial;
    use gatepass_protocol::testing::{NOW, Tenant};

    use super::*;

    #[test]
    fn only_valid_phones_with_a_key_are_known_and_a_restart_forgets_none() {
        let state = tempfile::tempdir().unwrap();
        let mut tenant = Tenant::new(700);
        let old = tenant.phone(1).identity.chain;
        tenant.offline_codes = true;
        let (new, lost) = (tenant.phone(1).identity, tenant.phone(1).identity);
        let stranger = Tenant { offline_codes: true, ..Tenant::new(999) }.phone(1).identity.chain;
        let mut trust = tenant.trust();
        let place = Place { since: 7, after: Serial([3; 16]) };

        let devices = Devices::open(state.path());
        devices.take(vec![old, new.chain.clone(), lost.chain.clone(), stranger], place, &trust, NOW);
        assert_eq!((devices.count(), devices.of("gp-alex", &trust, NOW).len()), (2, 2));
        assert!(devices.of("gp-kim", &trust, NOW).is_empty());

        let devices = Devices::open(state.path());
        assert_eq!((devices.place(), devices.count()), (place, 2));
        let list = tenant.revocation(1, vec![lost.statement().serial]);
        trust.accept_revocation(&list, NOW).unwrap();
        let valid = devices.of("gp-alex", &trust, NOW);
        assert_eq!(valid.len(), 1, "a revoked phone is refused at once");
        assert_eq!(valid[0].statement().serial, new.statement().serial);
        devices.take(vec![], place, &trust, NOW);
        assert_eq!(devices.count(), 1, "and then forgotten");
        assert!(devices.of("gp-alex", &trust, new.statement().not_after + 1).is_empty());
    }
}
