//! Idle connections over TLS, made by the library that agents use. Only memory is measured, so it does not matter what they cost the
//! load.

use std::{collections::VecDeque, time::Duration};

use anyhow::Context;
use gatepass_client::{Connection, Settings};
use gatepass_protocol::channel::Channel;
use tokio::{
    runtime::Runtime,
    time::{sleep, timeout},
};

/// Connections that are under way at once.
const AT_ONCE: usize = 64;
/// How long one may take. The relay has one worker, and each costs it a handshake.
const PATIENCE: Duration = Duration::from_secs(20);

/// Agents that stay connected until this is dropped.
pub(crate) struct Agents {
    runtime: Runtime,
    connections: Vec<Connection>,
}

impl Agents {
    /// None yet.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { runtime, connections: Vec::new() })
    }

    /// More of them; returns a moment after the last is ready.
    pub(crate) fn join(&mut self, each: impl Iterator<Item = (Settings, Channel)>) -> anyhow::Result<()> {
        self.runtime.block_on(async {
            let mut joining = VecDeque::new();
            for (settings, channel) in each {
                joining.push_back((Connection::start(settings), channel));
                if joining.len() == AT_ONCE {
                    self.connections.extend(ready(joining.pop_front()).await?);
                }
            }
            while !joining.is_empty() {
                self.connections.extend(ready(joining.pop_front()).await?);
            }
            sleep(Duration::from_secs(1)).await;
            Ok(())
        })
    }
}

async fn ready(joining: Option<(Connection, Channel)>) -> anyhow::Result<Option<Connection>> {
    let Some((connection, channel)) = joining else { return Ok(None) };
    let sender = connection.sender();
    timeout(PATIENCE, sender.online()).await.context("the relay does not answer")??;
    timeout(PATIENCE, sender.subscribe(channel)).await.context("the relay does not answer")??;
    Ok(Some(connection))
}
