//! A relay that lies, at the level of frames: it stands between phones and the real relay, sees all that a relay sees, and does to
//! a pairing's messages what a hostile relay could do. Only without TLS, which would hide it all from it; a real hostile relay is the
//! TLS server itself.
//!
//! Transport it keeps in order: each side gets consecutive sequence numbers whatever is lost or added, so that nobody notices the lie
//! by a number in a frame, but only by what the messages themselves prove.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use gatepass_protocol::frame::Frame;
use gatepass_protocol::ids::Rid;
use gatepass_protocol::qr::QrPayload;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{accept_async, connect_async_with_config};

/// What to do to one pairing. The number says to which of its messages, M1 to M6.
#[derive(Debug, Clone)]
pub enum Lie {
    /// None: only listen.
    Honest,
    /// It never arrives.
    Drop(u8),
    /// It arrives twice.
    Repeat(u8),
    /// It arrives behind the next one of its sender.
    Late(u8),
    /// Its second half is missing.
    Truncate(u8),
    /// One bit of it is another; which byte, in percent of its length.
    Flip(u8, usize),
    /// It goes to another pairing, whose own goes to this one.
    Cross(u8, Rid),
    /// This arrives in its place: recorded in a pairing of yesterday.
    Replay(u8, Bytes),
    /// The phone's claim and all that follows goes to the pairing of another code: the codes' keys are swapped.
    Swap(Rid),
    /// The claim arrives with another tag.
    ForgeTag,
}

/// The relay that lies.
#[derive(Debug)]
pub struct LyingRelay {
    port: u16,
    told: Arc<Mutex<Told>>,
    _runtime: Runtime,
}

/// All it knows.
#[derive(Debug, Default)]
struct Told {
    lies: HashMap<Rid, Lie>,
    pairings: HashMap<Rid, Pairing>,
}

/// One pairing.
#[derive(Debug)]
struct Pairing {
    lie: Lie,
    to_phone: Side,
    to_agent: Side,
    /// Every message as it came and when, M1 first; the claim is 0, and empty here.
    heard: Vec<(u8, Bytes, Instant)>,
    /// Kept back: by [`Lie::Late`] and [`Lie::Cross`].
    kept: Option<Bytes>,
}

/// The way to one side.
#[derive(Debug)]
struct Side {
    socket: UnboundedSender<Frame>,
    /// The pairing's name on this side.
    rid: Rid,
    /// Messages that were sent to this side, and that came from it.
    sent: u32,
    received: u32,
}

impl Side {
    fn send(&mut self, bytes: Bytes) {
        self.sent += 1;
        let frame = Frame::Forward { rid: self.rid, seq: self.sent, ack: self.received, bytes };
        // Whoever has left hears nothing.
        let _ = self.socket.send(frame);
    }
}

/// The pairing's name that relays see in a code.
pub fn rid_of(code: &str) -> Rid {
    QrPayload::from_text(code).expect("a code of Gatepass").keys().rid()
}

impl LyingRelay {
    /// Puts one before the real relay that listens on this port, without TLS.
    pub(crate) fn before(relay: u16) -> Self {
        let runtime = Runtime::new().expect("a runtime starts");
        let listener = runtime.block_on(TcpListener::bind(("127.0.0.1", 0))).expect("the machine has a free port");
        let port = listener.local_addr().expect("a listener has an address").port();
        let told = Arc::new(Mutex::new(Told::default()));
        runtime.spawn(serve(listener, relay, told.clone()));
        Self { port, told, _runtime: runtime }
    }

    /// Where phones find it.
    pub(crate) fn url(&self) -> String {
        format!("http://localhost:{}", self.port)
    }

    /// What to do to the pairing of a code, once it is claimed.
    pub fn lie(&self, code: &str, lie: Lie) {
        lock(&self.told).lies.insert(rid_of(code), lie);
    }

    /// A message of a pairing, as it came, if it came.
    pub fn heard(&self, code: &str, number: u8) -> Option<Bytes> {
        let told = lock(&self.told);
        let heard = &told.pairings.get(&rid_of(code))?.heard;
        heard.iter().find(|(of, ..)| *of == number).map(|(_, bytes, _)| bytes.clone())
    }

    /// When it came; the claim is number 0.
    pub fn heard_at(&self, code: &str, number: u8) -> Option<Instant> {
        let told = lock(&self.told);
        let heard = &told.pairings.get(&rid_of(code))?.heard;
        heard.iter().find(|(of, ..)| *of == number).map(|(.., at)| *at)
    }
}

fn lock(told: &Mutex<Told>) -> MutexGuard<'_, Told> {
    told.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(listener: TcpListener, relay: u16, told: Arc<Mutex<Told>>) {
    while let Ok((client, _)) = listener.accept().await {
        let told = told.clone();
        tokio::spawn(async move { pass(client, relay, &told).await });
    }
}

/// One phone's connection and the one that is made for it to the real relay.
async fn pass(client: TcpStream, relay: u16, told: &Mutex<Told>) -> Option<()> {
    client.set_nodelay(true).ok()?;
    let mut phone = accept_async(client).await.ok()?;
    let (mut relay, _) = connect_async_with_config(format!("ws://127.0.0.1:{relay}/v1/ws"), None, true).await.ok()?;
    let ((to_phone, mut for_phone), (to_relay, mut for_relay)) =
        (unbounded_channel::<Frame>(), unbounded_channel::<Frame>());
    loop {
        tokio::select! {
            // What was taken is passed on before more is: a phone's last word before it leaves, too.
            biased;
            Some(frame) = for_phone.recv() => phone.send(Message::Binary(frame.encode().into())).await.ok()?,
            Some(frame) = for_relay.recv() => relay.send(Message::Binary(frame.encode().into())).await.ok()?,
            received = phone.next() => match received?.ok()? {
                Message::Binary(bytes) => lock(told).phone_says(Frame::decode(&bytes).ok()?, &to_phone, &to_relay),
                Message::Close(_) => return None,
                _ => {}
            },
            received = relay.next() => match received?.ok()? {
                Message::Binary(bytes) => lock(told).relay_says(Frame::decode(&bytes).ok()?, &to_phone),
                Message::Close(_) => return None,
                _ => {}
            },
        }
    }
}

impl Told {
    fn phone_says(&mut self, frame: Frame, to_phone: &UnboundedSender<Frame>, to_relay: &UnboundedSender<Frame>) {
        let pass_on = match frame {
            Frame::Claim { rid, n, mut tag } => {
                let lie = self.lies.remove(&rid).unwrap_or(Lie::Honest);
                let at_relay = if let Lie::Swap(other) = lie { other } else { rid };
                if let Lie::ForgeTag = lie {
                    tag[0] ^= 1;
                }
                let side =
                    |socket: &UnboundedSender<Frame>, rid| Side { socket: socket.clone(), rid, sent: 0, received: 0 };
                let (to_phone, to_agent) = (side(to_phone, rid), side(to_relay, at_relay));
                self.pairings.insert(
                    rid,
                    Pairing { lie, to_phone, to_agent, heard: vec![(0, Bytes::new(), Instant::now())], kept: None },
                );
                Some(Frame::Claim { rid: at_relay, n, tag })
            }
            Frame::Forward { rid, bytes, .. } => {
                self.hear(rid, true, bytes);
                None
            }
            Frame::ForwardAck { .. } => None,
            Frame::Close { rid } => {
                Some(Frame::Close { rid: self.pairings.get(&rid).map_or(rid, |known| known.to_agent.rid) })
            }
            other => Some(other),
        };
        pass_on.map(|frame| to_relay.send(frame));
    }

    fn relay_says(&mut self, frame: Frame, to_phone: &UnboundedSender<Frame>) {
        // What the relay says of a pairing that was swapped is about another code at the phone.
        let here = |rid: Rid| {
            let swapped = self
                .pairings
                .iter()
                .find(|(_, known)| known.to_agent.rid == rid && known.to_phone.socket.same_channel(to_phone));
            swapped.map_or(rid, |(at_phone, _)| *at_phone)
        };
        let pass_on = match frame {
            Frame::Forward { rid, bytes, .. } => {
                let rid = here(rid);
                self.hear(rid, false, bytes);
                None
            }
            Frame::ForwardAck { .. } => None,
            Frame::Claimed { rid, token } => Some(Frame::Claimed { rid: here(rid), token }),
            Frame::Close { rid } => Some(Frame::Close { rid: here(rid) }),
            Frame::Err { code, rid, id, text } => Some(Frame::Err { code, rid: rid.map(here), id, text }),
            other => Some(other),
        };
        pass_on.map(|frame| to_phone.send(frame));
    }

    /// A message, and what becomes of it.
    fn hear(&mut self, rid: Rid, by_phone: bool, bytes: Bytes) {
        let Some(pairing) = self.pairings.get_mut(&rid) else { return };
        let from = if by_phone { &mut pairing.to_phone } else { &mut pairing.to_agent };
        from.received += 1;
        let number = (2 * from.received) as u8 - u8::from(by_phone);
        pairing.heard.push((number, bytes.clone(), Instant::now()));
        match pairing.lie.clone() {
            Lie::Drop(at) if at == number => {}
            Lie::Repeat(at) if at == number => {
                pairing.to(by_phone).send(bytes.clone());
                pairing.to(by_phone).send(bytes);
            }
            Lie::Late(at) if at == number => pairing.kept = Some(bytes),
            Lie::Late(at) if at + 2 == number => {
                let late = pairing.kept.take();
                let to = pairing.to(by_phone);
                to.send(bytes);
                if let Some(late) = late {
                    to.send(late);
                }
            }
            Lie::Truncate(at) if at == number => pairing.to(by_phone).send(bytes.slice(..bytes.len() / 2)),
            Lie::Flip(at, percent) if at == number => {
                let mut bytes = bytes.to_vec();
                let place = (bytes.len() - 1) * percent / 100;
                bytes[place] ^= 1;
                pairing.to(by_phone).send(bytes.into());
            }
            Lie::Replay(at, old) if at == number => pairing.to(by_phone).send(old),
            Lie::Cross(at, other) if at == number => {
                pairing.kept = Some(bytes);
                self.cross(rid, other, by_phone);
            }
            _ => pairing.to(by_phone).send(bytes),
        }
    }

    /// Exchanges what two pairings have kept, once both have.
    fn cross(&mut self, one: Rid, other: Rid, by_phone: bool) {
        let kept = [other, one].map(|rid| self.pairings.get(&rid).and_then(|pairing| pairing.kept.clone()));
        let [Some(theirs), Some(ours)] = kept else { return };
        for (rid, bytes) in [(one, theirs), (other, ours)] {
            if let Some(pairing) = self.pairings.get_mut(&rid) {
                pairing.kept = None;
                pairing.to(by_phone).send(bytes);
            }
        }
    }
}

impl Pairing {
    /// The way of a message by the phone, or by the agent.
    fn to(&mut self, by_phone: bool) -> &mut Side {
        if by_phone { &mut self.to_agent } else { &mut self.to_phone }
    }
}
