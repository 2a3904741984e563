//! The audit trail: who asked for what is written down, read page by page, and proved by signed heads.

use std::cell::RefCell;

use gatepass_protocol::ids::TenantId;
use gatepass_protocol::keys::{PublicKey, Signer as _};
use gatepass_protocol::log::{self, Head};
use gatepass_protocol::signed::Signed;

use crate::Inner;
use crate::api::{Act, By, Log, Page, TrailEntry, hex};
use crate::http::{Slice, missing};
use crate::problem::Refusal;
use crate::store::{self, Actor, Db, StoreError, Tree};

thread_local! {
    /// Who asked for what this thread is doing. Not handed from function to function: an act that is added later can't forget
    /// to say who did it.
    static BY: RefCell<Option<By>> = const { RefCell::new(None) };
}

/// Does something for somebody: what is written down meanwhile says so.
pub(crate) fn acting<T>(by: Option<By>, work: impl FnOnce() -> T) -> T {
    /// Forgets at the end, also of a panic: the thread serves others next.
    struct Until(Option<By>);
    impl Drop for Until {
        fn drop(&mut self) {
            BY.replace(self.0.take());
        }
    }
    let _until = Until(BY.replace(by));
    work()
}

/// Writes down in the audit trail what an administrator did.
pub(crate) fn note(
    db: &mut dyn Db,
    tenant: TenantId,
    now: u64,
    act: &str,
    to: &str,
    detail: &str,
) -> Result<(), Refusal> {
    let by = BY.with_borrow(Clone::clone);
    let act = Act { at: now, act: act.to_owned(), to: to.to_owned(), detail: detail.to_owned(), by };
    let event = serde_json::to_vec(&act).map_err(|error| Refusal::Fix(error.to_string()))?;
    store::append(db, tenant, Actor::Control, &event, now)?;
    Ok(())
}

impl Inner {
    pub(crate) fn events(&self, tenant: TenantId, slice: &Slice) -> Result<Page<TrailEntry>, Refusal> {
        // A cursor is the number's eight bytes, as others are an identifier's sixteen; both databases count with a sign.
        let after =
            slice.after.iter().fold(0_u64, |number, byte| (number << 8) | u64::from(*byte)).min(i64::MAX as u64);
        let mut items = self.store.read(|db| {
            let size = store::log_size(db, tenant)?;
            if slice.filter.proved_in.is_some_and(|wanted| wanted > size) {
                return Err(Refusal::Fix(format!("the log has {size} entries, and proves nothing about more")));
            }
            Ok(store::page(db, tenant, &slice.filter, after, slice.and_one())?)
        })?;
        let is_more = items.len() as u64 > slice.limit;
        items.truncate(usize::try_from(slice.limit).unwrap_or(usize::MAX));
        let next = items.last().filter(|_| is_more).map(|last| hex(&last.seq.to_be_bytes()));
        Ok(Page { items, next })
    }

    /// The log's head as of now, and how it continues what somebody has seen.
    pub(crate) fn log(&self, tenant: TenantId, from: u64, now: u64) -> Result<Log, Refusal> {
        self.store.read(|db| {
            store::tenant(db, tenant)?.ok_or_else(|| missing("tenant", tenant))?;
            let key = store::log_key(db, tenant)?.ok_or(StoreError::Damaged("a tenant has no key for its log"))?;
            let PublicKey::Ed25519(public) = key.public_key() else {
                return Err(StoreError::Damaged("a log's key is of another kind").into());
            };
            let size = store::log_size(db, tenant)?;
            let mut tree = Tree { db, tenant };
            let head = Head { tenant, size, time: now, root: log::root(&mut tree, size)? };
            let head = Signed::sign(head, &key).map_err(|error| Refusal::Fix(error.to_string()))?;
            // A log that is shorter than what somebody has seen proves nothing, and its reader sees why.
            let (consistency, frontier) = if from <= size {
                let consistency = log::consistency(&mut tree, from, size)?.to_bytes();
                (Some(consistency.into()), Some(log::frontier(&mut tree, from)?.to_bytes().into()))
            } else {
                (None, None)
            };
            Ok(Log { head: head.bytes().to_vec().into(), key: public.to_vec().into(), consistency, frontier })
        })
    }
}
