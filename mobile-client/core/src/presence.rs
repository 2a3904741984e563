//! Which of the tenant's computers are connected to a relay now.

use std::{collections::BTreeSet, time::Duration};

use gatepass_client::{Connection, Incoming, RequestError};
use gatepass_protocol::{
    channel::Channel,
    ids::TenantId,
    presence::{Key, Presence, Who},
};
use tokio::time::timeout;

use crate::orders::OrderError;

/// A list of ten thousand takes a relay less than a second.
const PATIENCE: Duration = Duration::from_secs(15);

/// Everybody of the tenant who is connected to this relay's region, as the relay says: good for a light next to a name, and
/// for nothing that has to be true.
pub async fn online(connection: &mut Connection, tenant: TenantId) -> Result<BTreeSet<Who>, OrderError> {
    connection.sender().online().await?;
    let presence = Channel::Presence(tenant);
    connection.sender().subscribe(presence).await?;
    let listen = async {
        let mut online = BTreeSet::new();
        loop {
            let next = connection.next().await.ok_or(RequestError::Stopped)?;
            let Incoming::Message { channel, bytes, .. } = next else { continue };
            let Some(said) = Presence::decode(&bytes).ok().filter(|_| channel == presence) else { continue };
            online.retain(|who| !said.whole.is_some_and(|span| span.contains(*who)) && !said.offline.contains(who));
            online.extend(said.online);
            if said.whole.is_some_and(|span| span.upto == Key::LAST) {
                return Ok(online);
            }
        }
    };
    let online = timeout(PATIENCE, listen).await.unwrap_or(Err(RequestError::Cut))?;
    connection.sender().unsubscribe(presence).await?;
    Ok(online)
}
