//! The directory, for those who have to know each other before they are offline: an agent is told the tenant's phones, a phone its
//! computers. Certificates have people's names in them, so whoever asks shows a certificate and signs the question.

use bytes::Bytes;

use gatepass_protocol::Code;
use gatepass_protocol::api::{AskDirectory, Base64, Directory, Place};
use gatepass_protocol::directory::{DirectoryRequest, PAGE, WINDOW};
use gatepass_protocol::ids::{Serial, TenantId};
use gatepass_protocol::signed::Unverified;
use gatepass_protocol::trust::Certificate;

use crate::Inner;
use crate::enrol::claimed_tenant;
use crate::problem::Refusal;
use crate::store::{Db, StoreError};

impl Inner {
    /// A part of the directory.
    pub(crate) fn directory(&self, ask: &AskDirectory, now: u64) -> Result<Directory, Refusal> {
        let refused = |code| Refusal::Statement { what: "directory request", code };
        let chain: Vec<Bytes> = ask.chain.iter().map(|link| link.0.clone()).collect();
        let tenant = claimed_tenant(chain.first()).ok_or(refused(Code::Certificate))?;
        let trust = self.trust.get(&tenant).ok_or(refused(Code::Certificate))?;
        let certificate = trust.certificate(&chain, now).map_err(refused)?;
        let key = certificate.sign_key().map_err(refused)?;
        let request = Unverified::<DirectoryRequest>::decode(ask.request.0.clone());
        let request = request.map_err(|_| refused(Code::Certificate))?;
        let request = request.verify(&key).map_err(|_| refused(Code::Certificate))?.into_body();
        if request.tenant != tenant
            || request.subject != certificate.statement().subject
            || request.time.abs_diff(now) > WINDOW
        {
            return Err(refused(Code::NotAllowed));
        }
        let place = Place { since: request.since, after: Serial(request.after) };
        let entries = self.store.read(|db| match certificate {
            Certificate::Agent(_) => devices(db, tenant, place),
            Certificate::Device(_) => computers(db, tenant, place),
        })?;
        let place = entries.last().map_or(place, |entry| entry.place);
        let more = entries.len() == PAGE;
        Ok(Directory { chains: entries.into_iter().map(|entry| entry.chain).collect(), place, more })
    }
}

struct Entry {
    place: Place,
    chain: Vec<Base64>,
}

fn devices(db: &mut dyn Db, tenant: TenantId, place: Place) -> Result<Vec<Entry>, StoreError> {
    db.rows(
        "SELECT approved, device, certificate FROM devices
         WHERE tenant = ?1 AND certificate IS NOT NULL AND (approved, device) > (?2, ?3) ORDER BY approved, device LIMIT ?4",
        &[(&tenant).into(), since(place).into(), (&place.after).into(), (PAGE as u64).into()],
        |row| {
            let place = Place { since: row.next()?, after: row.next()? };
            Ok(Entry { place, chain: vec![Base64::from(row.next::<Vec<u8>>()?)] })
        },
    )
}

fn computers(db: &mut dyn Db, tenant: TenantId, place: Place) -> Result<Vec<Entry>, StoreError> {
    db.rows(
        "SELECT c.enrolled, c.id, c.certificate, t.statement
         FROM computers c JOIN tickets t ON t.tenant = c.tenant AND t.serial = c.ticket
         WHERE c.tenant = ?1 AND (c.enrolled, c.id) > (?2, ?3) ORDER BY c.enrolled, c.id LIMIT ?4",
        &[(&tenant).into(), since(place).into(), (&place.after).into(), (PAGE as u64).into()],
        |row| {
            let place = Place { since: row.next()?, after: row.next()? };
            let chain = [row.next::<Vec<u8>>()?, row.next::<Vec<u8>>()?];
            Ok(Entry { place, chain: chain.into_iter().map(Base64::from).collect() })
        },
    )
}

/// Both databases count with a sign.
fn since(place: Place) -> u64 {
    place.since.min(i64::MAX as u64)
}
