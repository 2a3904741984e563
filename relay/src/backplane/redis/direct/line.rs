//! What goes over a connection from one relay to another: notices, each behind its length in four bytes, big-endian.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split},
    sync::Notify,
    time::{sleep, timeout},
};

use crate::{backplane::redis::notice::Notice, locked};

/// Between two probes. A relay at the other end answers each with itself.
const BEAT: Duration = Duration::from_secs(1);
/// Without a sign of life for so long, nobody is there.
pub(super) const SILENCE: Duration = Duration::from_millis(2_500);
/// Bytes that may wait to be written: some thousands of messages. More is a relay that does not take them.
const MAX_WAITING: usize = 8 * 1024 * 1024;
/// No notice is longer: a frame and what stands before it.
const MAX_NOTICE: usize = 9 * 1024;
/// Of a length.
const HEAD: usize = 4;

/// Towards another relay: whoever has something to say puts it here, and one task writes all that has gathered.
#[derive(Debug)]
pub(in super::super) struct Outgoing {
    /// Never the same again in this process.
    pub(in super::super) id: u64,
    waiting: Mutex<Waiting>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    over: bool,
}

impl Outgoing {
    pub(super) fn new(id: u64) -> Arc<Self> {
        Arc::new(Self { id, waiting: Mutex::default(), wake: Notify::new() })
    }

    pub(in super::super) fn is_up(&self) -> bool {
        !locked(&self.waiting).over
    }

    /// Queues a notice. Whether it arrives, only the other end's answer says.
    pub(in super::super) fn send(&self, notice: &[u8]) {
        let mut waiting = locked(&self.waiting);
        if waiting.bytes.len() + notice.len() > MAX_WAITING {
            waiting.over = true;
        }
        if !waiting.over {
            put(&mut waiting.bytes, notice);
        }
        drop(waiting);
        self.wake.notify_one();
    }

    /// Writes what gathers, and probes, until the connection is gone or nobody answers.
    pub(super) async fn write_to(&self, stream: impl AsyncRead + AsyncWrite) {
        let (mut reader, mut writer) = split(stream);
        let writing = async {
            let mut bytes = Vec::new();
            loop {
                self.wake.notified().await;
                {
                    let mut waiting = locked(&self.waiting);
                    if waiting.over {
                        return;
                    }
                    bytes.clear();
                    std::mem::swap(&mut bytes, &mut waiting.bytes);
                }
                if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
                    return;
                }
            }
        };
        let answered = async {
            let mut answers = [0; 256];
            while let Ok(Ok(1..)) = timeout(SILENCE, reader.read(&mut answers)).await {}
        };
        let probing = async {
            loop {
                self.send(&Notice::Probe(self.id).encode());
                sleep(BEAT).await;
            }
        };
        tokio::select! {
            () = writing => {}
            () = answered => {}
            () = probing => {}
        }
        locked(&self.waiting).over = true;
    }
}

/// Reads notices until the connection is gone, silent or makes no sense, and answers probes.
pub(super) async fn read_from(mut stream: impl AsyncRead + AsyncWrite + Unpin, mut heard: impl FnMut(Notice) -> bool) {
    let mut bytes = BytesMut::new();
    loop {
        let mut answer = Vec::new();
        while let Some(notice) = next(&mut bytes) {
            match notice {
                Some(probe @ Notice::Probe(_)) => put(&mut answer, &probe.encode()),
                Some(notice) => {
                    if !heard(notice) {
                        return;
                    }
                }
                None => return,
            }
        }
        if !answer.is_empty() && (stream.write_all(&answer).await.is_err() || stream.flush().await.is_err()) {
            return;
        }
        bytes.reserve(MAX_NOTICE);
        let Ok(Ok(1..)) = timeout(SILENCE, stream.read_buf(&mut bytes)).await else { return };
    }
}

fn put(bytes: &mut Vec<u8>, notice: &[u8]) {
    bytes.extend_from_slice(&(notice.len() as u32).to_be_bytes());
    bytes.extend_from_slice(notice);
}

/// Takes the next notice out; as an inner `None`, where what comes next is none.
fn next(bytes: &mut BytesMut) -> Option<Option<Notice>> {
    let length = u32::from_be_bytes(*bytes.first_chunk::<HEAD>()?) as usize;
    if length > MAX_NOTICE {
        return Some(None);
    }
    if bytes.len() < HEAD + length {
        return None;
    }
    bytes.advance(HEAD);
    Some(Notice::decode(&bytes.split_to(length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_are_read_however_they_are_cut_and_nonsense_ends_it() {
        let mut line = Vec::new();
        put(&mut line, &Notice::Probe(7).encode());
        put(&mut line, &Notice::Probe(8).encode());
        let mut bytes = BytesMut::new();
        let mut heard = vec![];
        for byte in line {
            bytes.extend_from_slice(&[byte]);
            heard.extend(next(&mut bytes));
        }
        assert_eq!(heard, [Some(Notice::Probe(7)), Some(Notice::Probe(8))]);
        assert_eq!(next(&mut BytesMut::from([0xff; 4].as_slice())), Some(None), "longer than any");
        assert_eq!(next(&mut BytesMut::from([0, 0, 0, 1, b'?'].as_slice())), Some(None));
    }

    #[tokio::test]
    async fn what_waits_for_a_relay_that_takes_nothing_is_bounded() {
        let outgoing = Outgoing::new(1);
        let large = vec![0; MAX_WAITING / 2 - HEAD];
        outgoing.send(&large);
        outgoing.send(&large);
        assert!(outgoing.is_up());
        outgoing.send(&large);
        assert!(!outgoing.is_up());
    }
}
