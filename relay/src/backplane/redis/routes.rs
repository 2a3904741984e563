//! Which link leads to which bucket, now.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{keys::BUCKETS, link::Link};

/// One bucket's way.
#[derive(Clone)]
pub(super) enum Way {
    Link(Arc<Link>),
    /// There is none, since then.
    None(Instant),
}

pub(super) struct Routes {
    table: watch::Sender<Arc<Vec<Way>>>,
    patience: Duration,
}

impl Routes {
    pub(super) fn new(patience: Duration) -> Self {
        let nowhere = vec![Way::None(Instant::now()); BUCKETS];
        Self { table: watch::Sender::new(Arc::new(nowhere)), patience }
    }

    pub(super) fn table(&self) -> Arc<Vec<Way>> {
        self.table.borrow().clone()
    }

    pub(super) fn set(&self, table: Vec<Way>) {
        self.table.send_replace(Arc::new(table));
    }

    /// The link to a bucket, if there is one.
    pub(super) fn now(&self, bucket: usize) -> Option<Arc<Link>> {
        match &self.table.borrow()[bucket] {
            Way::Link(link) if link.is_alive() => Some(link.clone()),
            _ => None,
        }
    }

    /// The link to a bucket; while a failover may just be under way, waits for it a little.
    pub(super) async fn wait(&self, bucket: usize) -> Option<Arc<Link>> {
        let mut changes = self.table.subscribe();
        let mut until = Instant::now() + self.patience;
        loop {
            if let Some(link) = self.now(bucket) {
                return Some(link);
            }
            // Away for longer than anybody should wait: whoever asks now is told at once.
            if let Way::None(since) = changes.borrow_and_update()[bucket] {
                until = until.min(since + self.patience);
            }
            timeout_at(until, changes.changed()).await.ok()?.ok()?;
        }
    }
}
