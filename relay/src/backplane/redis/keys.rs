//! Names in Redis, balanced over a cluster.
//!
//! Everything belongs to one of 256 buckets, and each bucket has a hash tag whose slot lies in its own 1/256 of a cluster's
//! 16,384 slots: however many masters share them, each gets its part. What one script touches is of one bucket, so it is at
//! one master: a pairing's key, and the notice channel on which each node listens in each bucket. A node therefore
//! subscribes 256 times, however many pairings it has. One Redis alone holds all the buckets.

use gatepass_protocol::{
    channel::Channel,
    ids::{Rid, TenantId},
};

use crate::backplane::Topic;

/// Enough for each of 100 masters to have two or three; few enough to subscribe to in one pipeline.
pub(super) const BUCKETS: usize = 256;
/// Of a Redis cluster.
pub(super) const SLOTS: usize = 16_384;

/// As much of a note as is looked at for its bucket.
const NOTE_HEAD: usize = 32;

/// The names of one region, below its prefix.
#[derive(Debug)]
pub(super) struct Keys {
    prefix: String,
    tags: Vec<String>,
    notices: Vec<String>,
}

/// CRC-16/XMODEM, as in Redis' cluster specification.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(
            crc ^ (u16::from(*byte) << 8),
            |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 },
        )
    })
}

/// The slot of a hash tag.
fn slot(tag: &str) -> usize {
    usize::from(crc16(tag.as_bytes())) % SLOTS
}

/// The bucket of a name.
fn bucket(name: &[u8]) -> usize {
    usize::from(crc16(name)) % BUCKETS
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        let mut tags = vec![String::new(); BUCKETS];
        let mut missing = BUCKETS;
        // The smallest number for each: the same in every node and every version.
        for tag in (0_u32..).map(|n| n.to_string()) {
            let of = &mut tags[slot(&tag) * BUCKETS / SLOTS];
            if of.is_empty() {
                *of = tag;
                missing -= 1;
            }
            if missing == 0 {
                break;
            }
        }
        let notices = tags.iter().map(|tag| format!("{prefix}:{{{tag}}}:n:")).collect();
        Self { prefix: prefix.to_owned(), tags, notices }
    }

    /// A bucket's slot.
    pub(super) fn slot(&self, bucket: usize) -> usize {
        slot(&self.tags[bucket])
    }

    pub(super) fn pairing_bucket(rid: &Rid) -> usize {
        bucket(rid.as_bytes())
    }

    pub(super) fn tenant_bucket(tenant: &TenantId) -> usize {
        bucket(tenant.as_bytes())
    }

    /// Of what one node tells another: any will do, so notes are spread over all.
    pub(super) fn note_bucket(note: &[u8]) -> usize {
        bucket(&note[..note.len().min(NOTE_HEAD)])
    }

    pub(super) fn topic_bucket(topic: &Topic) -> usize {
        bucket(format!("{}/{}", topic.tenant, topic.channel).as_bytes())
    }

    /// A pairing; and the word that there was one, which stays longer.
    pub(super) fn pairing(&self, rid: &Rid) -> (usize, [String; 2]) {
        let bucket = Self::pairing_bucket(rid);
        (bucket, [self.key(bucket, "p", rid), self.key(bucket, "o", rid)])
    }

    /// A channel and its history. The Redis channel of its messages has the first one's name.
    pub(super) fn topic(&self, topic: &Topic) -> (usize, [String; 2]) {
        let bucket = Self::topic_bucket(topic);
        let name = format!("{}/{}", topic.tenant, topic.channel);
        (bucket, [self.key(bucket, "c", &name), self.key(bucket, "h", &name)])
    }

    /// What a node's notice channel in a bucket begins with; its name follows.
    pub(super) fn notices(&self, bucket: usize) -> &str {
        &self.notices[bucket]
    }

    /// A key of this region.
    pub(super) fn key(&self, bucket: usize, kind: &str, name: impl std::fmt::Display) -> String {
        format!("{}:{{{}}}:{kind}:{name}", self.prefix, self.tags[bucket])
    }

    /// What a Redis channel is for: its kind and its name.
    pub(super) fn read<'a>(&self, channel: &'a str) -> Option<(&'a str, &'a str)> {
        let (_, rest) = channel.strip_prefix(&self.prefix)?.split_once("}:")?;
        rest.split_once(':')
    }
}

/// The topic that [`Keys::topic`] named.
pub(super) fn parse_topic(name: &str) -> Option<Topic> {
    let (tenant, channel) = name.split_once('/')?;
    Some(Topic { tenant: tenant.parse().ok()?, channel: channel.parse::<Channel>().ok()? })
}

#[cfg(test)]
mod tests {
    use gatepass_protocol::ids::ComputerId;

    use super::*;

    #[test]
    fn slots_are_redis_own() {
        // From Redis' cluster specification, and `CLUSTER KEYSLOT user1000`.
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot("user1000"), 3443);
    }

    #[test]
    fn every_master_gets_its_part_of_the_buckets() {
        let keys = Keys::new("gp");
        for masters in [1, 3, 7, 32] {
            let mut of_master = vec![0_usize; masters];
            (0..BUCKETS).for_each(|bucket| of_master[keys.slot(bucket) * masters / SLOTS] += 1);
            let (least, most) = (of_master.iter().min().unwrap(), of_master.iter().max().unwrap());
            assert!(most - least <= 1, "{masters} masters: {of_master:?}");
        }
    }

    #[test]
    fn a_name_is_read_back() {
        let keys = Keys::new("gp:eu");
        let topic = Topic { tenant: TenantId([7; 16]), channel: Channel::Computer(ComputerId([9; 16])) };
        let (bucket, [key, _]) = keys.topic(&topic);
        let (kind, name) = keys.read(&key).unwrap();
        assert_eq!((kind, parse_topic(name)), ("c", Some(topic)));
        let notices = format!("{}00ff", keys.notices(bucket));
        assert_eq!(keys.read(&notices), Some(("n", "00ff")));
        assert_eq!(keys.read("other:{1}:n:00ff"), None);
    }
}
