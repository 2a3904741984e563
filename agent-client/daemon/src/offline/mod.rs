//! What an agent holds so that it can judge offline codes by itself.
//!
//! ```text
//! devices    the tenant's phones and their keys, fetched while there is a control plane
//! counters   who guessed how often, which codes by the time were used, when the control plane was last heard
//! ```
//!
//! The login itself is in [`crate::login`].

pub(crate) mod counters;
mod devices;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use gatepass_client::{Http, HttpError};
use gatepass_protocol::ids::{ComputerId, TenantId};
use gatepass_protocol::keys::{OtpKey, SigningKey};
use gatepass_protocol::offline::OfflineTerms;
use gatepass_protocol::statement::DeviceTerms;
use gatepass_protocol::trust::{Certified, TrustStore};

use crate::clock::{now, time_of_day};
use crate::trust::Trust;
use counters::Counters;
use devices::Devices;

/// Everything that offline codes need.
pub(crate) struct Offline {
    /// This computer's key; none where it was enrolled before there were offline codes.
    pub(crate) key: Option<OtpKey>,
    devices: Devices,
    counters: Mutex<Counters>,
}

impl Offline {
    /// What was kept in the state folder.
    pub(crate) fn open(state: &Path, key: Option<OtpKey>) -> Self {
        Self { key, devices: Devices::open(state), counters: Mutex::new(Counters::open(state, now())) }
    }

    /// The counters. Each of their acts waits for the disk.
    pub(crate) fn counters(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The phones that are valid now and whose technician's account is this one.
    pub(crate) fn devices_of(&self, account: &str, trust: &TrustStore) -> Vec<Certified<DeviceTerms>> {
        self.devices.of(account, trust, now().wall)
    }

    /// Forgets the phones that are not valid any more.
    pub(crate) fn forget_revoked(&self, trust: &TrustStore) {
        self.devices.take(Vec::new(), self.devices.place(), trust, now().wall);
    }

    /// The control plane has just answered, so this computer knows all that it is told; and it is asked who is new.
    pub(crate) async fn heard(
        &self,
        http: &Http,
        chain: &[bytes::Bytes],
        sign: &SigningKey,
        (tenant, computer): (TenantId, ComputerId),
        trust: &Trust,
    ) -> Result<(), HttpError> {
        if self.key.is_none() {
            return Ok(());
        }
        if let Err(error) = self.counters().heard(now()) {
            tracing::error!(%error, "that the control plane was heard can't be kept: offline codes will stop the sooner");
        }
        let place = self.devices.place();
        let (chains, place) = gatepass_client::directory(http, chain, sign, tenant, computer.0, place).await?;
        self.devices.take(chains, place, &trust.read(), now().wall);
        Ok(())
    }

    /// How offline codes stand, in words.
    pub(crate) fn summary(&self, terms: Option<&OfflineTerms>) -> String {
        let Some(terms) = terms else { return "none, by the policy".into() };
        if self.key.is_none() {
            return "none: enrol this computer again for a key".into();
        }
        match self.counters().last_heard() {
            None => "not until the control plane has been heard once".into(),
            Some(at) => format!(
                "{} phones known, control plane heard {}, good for {} hours from then",
                self.devices.count(),
                time_of_day(at),
                terms.max_age_hours
            ),
        }
    }
}
