//! The directory of a tenant: a phone's way to computers' certificates, and an agent's to phones'.

use bytes::Bytes;
use gatepass_protocol::{
    api::{AskDirectory, Base64, Directory, Place},
    directory::DirectoryRequest,
    ids::{Serial, TenantId},
    keys::SigningKey,
    signed::Signed,
};

use crate::{Http, HttpError, edge};

/// A server that goes on for ever is not listened to: so many answers are fifty thousand entries.
const PAGES: usize = 100;

/// A new round begins so many seconds before the last entry of the round before: the server's clock may have been corrected, and
/// several may be enrolled in one second. What comes twice does no harm.
const OVERLAP: u64 = 300;

/// Fetches what has been enrolled since `place`, and says where to go on from the next time. None of the chains was verified.
pub async fn directory(
    http: &Http,
    chain: &[Bytes],
    key: &SigningKey,
    tenant: TenantId,
    subject: [u8; 16],
    place: Place,
) -> Result<(Vec<Vec<Bytes>>, Place), HttpError> {
    let mut place = Place { since: place.since.saturating_sub(OVERLAP), after: Serial([0; 16]) };
    let mut chains = Vec::new();
    for _ in 0..PAGES {
        let request = DirectoryRequest { tenant, subject, time: edge::now(), since: place.since, after: place.after.0 };
        // A key in memory never refuses to sign.
        let Ok(request) = Signed::sign(request, key) else { break };
        let ask = AskDirectory {
            chain: chain.iter().cloned().map(Base64).collect(),
            request: Base64(request.bytes().clone()),
        };
        let answer: Directory = http.post_json("/api/v1/directory", &ask).await?;
        chains.extend(answer.chains.into_iter().map(|chain| chain.into_iter().map(|link| link.0).collect()));
        place = answer.place;
        if !answer.more {
            break;
        }
    }
    Ok((chains, place))
}
