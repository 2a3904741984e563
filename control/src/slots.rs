//! Enrolment slots: the messages between a phone that shows two words and an administrator who types them. They are carried
//! and not understood: [`gatepass_protocol::slot`] is made for a carrier that lies. What this server adds for the honest case
//! is the count: three slots in ten minutes, ten a day for each tenant, so that words can't be guessed at by trying often.
//!
//! The slot's identifier, which only the phone and the tenant's administrators are told, is the phone's right to it.

use gatepass_protocol::api::{NewSlot, SlotMessage, SlotOpened};
use gatepass_protocol::ids::{Serial, TenantId};
use gatepass_protocol::slot::{LARGEST, OPEN_FOR, Tries};

use crate::Inner;
use crate::admin::good_name;
use crate::api::{Page, Slot};
use crate::audit::note;
use crate::http::Slice;
use crate::problem::Refusal;
use crate::rng;
use crate::store::{self, Db, Scope, SlotRow};

/// The last message of an exchange; the phone's are odd, the administrator's even.
const LAST: u64 = 7;

/// Which end speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Phone,
    /// An administrator of this tenant.
    Administrator(TenantId),
}

impl Inner {
    /// Opens a slot in the tenant of a tag.
    pub(crate) fn open_slot(&self, new: &NewSlot, now: u64) -> Result<SlotOpened, Refusal> {
        let name = good_name("the phone's name", &new.name)?;
        let message = sized(&new.message.0)?;
        let tenant = self.trust.tagged(&new.tenant)?;
        let id = Serial::random(&mut rng());
        self.store.write(Scope::Tenant(tenant), |db| {
            Tries::of(store::slots_of_the_day(db, tenant, now)?).count(now).map_err(Refusal::TooMany)?;
            store::insert_slot(db, tenant, id, name, now)?;
            store::insert_slot_message(db, id, 1, message)?;
            note(db, tenant, now, "enrolment slot opened", &id.to_string(), name)
        })?;
        Ok(SlotOpened { slot: id })
    }

    /// The phones that wait for somebody who types their words.
    pub(crate) fn slots(&self, tenant: TenantId, slice: &Slice, now: u64) -> Result<Page<Slot>, Refusal> {
        let waiting = self.store.read(|db| store::waiting_slots(db, tenant, &slice.after, slice.and_one(), now))?;
        Ok(slice.page(waiting, |one| &one.id.0))
    }

    /// A message, if it is there already.
    pub(crate) fn slot_message(
        &self,
        end: End,
        slot: Serial,
        number: u64,
        now: u64,
    ) -> Result<Option<SlotMessage>, Refusal> {
        self.store.read(|db| {
            open(db, end, slot, now)?;
            Ok(store::slot_message(db, slot, number)?.map(|message| SlotMessage { message: message.into() }))
        })
    }

    /// Puts a message behind the one before it. The same one again changes nothing.
    pub(crate) fn put_slot_message(
        &self,
        end: End,
        slot: Serial,
        number: u64,
        message: SlotMessage,
        now: u64,
    ) -> Result<SlotMessage, Refusal> {
        let is_phones = number % 2 == 1;
        if !(2..=LAST).contains(&number) || is_phones != (end == End::Phone) {
            return Err(Refusal::Fix(format!("message {number} of an enrolment slot is not this end's to send")));
        }
        let bytes = sized(&message.message.0)?;
        let tenant = self.store.read(|db| open(db, end, slot, now))?.tenant;
        self.store.write(Scope::Tenant(tenant), |db| {
            open(db, end, slot, now)?;
            match store::slot_message(db, slot, number)? {
                Some(known) if known == bytes => return Ok(()),
                Some(_) => {
                    return Err(Refusal::Exists { what: "message in this slot,", name: format!("number {number}") });
                }
                None => {}
            }
            if store::slot_message(db, slot, number - 1)?.is_none() {
                return Err(Refusal::Fix(format!(
                    "message {number} of an enrolment slot comes after message {}",
                    number - 1
                )));
            }
            Ok(store::insert_slot_message(db, slot, number, bytes)?)
        })?;
        Ok(message)
    }

    /// Ends a slot: its words are burnt.
    pub(crate) fn close_slot(&self, end: End, slot: Serial, now: u64) -> Result<(), Refusal> {
        let tenant = self.store.read(|db| open(db, end, slot, now))?.tenant;
        self.store.write(Scope::Tenant(tenant), |db| {
            store::close_slot(db, slot)?;
            note(db, tenant, now, "enrolment slot closed", &slot.to_string(), "")
        })
    }
}

/// The slot, as long as it is open.
fn open(db: &mut dyn Db, end: End, slot: Serial, now: u64) -> Result<SlotRow, Refusal> {
    let found = store::slot(db, slot)?.filter(|found| end == End::Phone || end == End::Administrator(found.tenant));
    let found = found.ok_or_else(|| Refusal::Missing { what: "enrolment slot", name: slot.to_string() })?;
    if found.closed || found.opened.saturating_add(OPEN_FOR) <= now { Err(Refusal::SlotOver) } else { Ok(found) }
}

fn sized(message: &[u8]) -> Result<&[u8], Refusal> {
    if message.len() <= LARGEST { Ok(message) } else { Err(Refusal::TooLarge { limit: LARGEST }) }
}
