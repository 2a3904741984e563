//! What all simulated clients of one worker share, and a client: a realtime connection with somebody who listens to it.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use gatepass_client::{Connection, DialError, Endpoint, Incoming, RequestError, Sender, Settings, State, Tls, Why};
use gatepass_protocol::{
    channel::{Bulletin, Channel},
    ids::{ComputerId, DeviceId, Rid},
    trust::TrustStore,
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    Fleet,
    clock::Moment,
    measure::Recorder,
    profile::{Load, Profile},
    schedule::Share,
    talk,
    worker::Announcement,
};

/// The first address that clients call from, where the target is this machine.
const FIRST_SOURCE: u32 = u32::from_be_bytes([127, 64, 0, 1]);

/// A request without an answer: the connection was cut before it came.
pub(crate) const CUT: &str = "cut";
/// What the system says of a cut is a short sentence; a server's own words may be longer.
const LONGEST_REASON: usize = 60;

/// What all clients of one worker share.
pub(crate) struct Stage {
    pub(crate) profile: Profile,
    pub(crate) share: Share,
    pub(crate) fleet: Fleet,
    pub(crate) trust: TrustStore,
    pub(crate) relays: Vec<Endpoint>,
    pub(crate) tls: Tls,
    /// Whether clients call from addresses of their own.
    pub(crate) spread: bool,
    pub(crate) recorder: Recorder,
    /// When which list is meant to be heard; known before the load begins.
    pub(crate) announcements: watch::Receiver<Vec<Announcement>>,
}

/// A client that is online, or on its way back.
pub(crate) struct Member {
    pub(crate) sender: Sender,
    pub(crate) inbox: Arc<Inbox>,
    listening: JoinHandle<()>,
}

/// Where what comes for a client goes.
#[derive(Default)]
pub(crate) struct Inbox {
    pairings: Mutex<HashMap<Rid, mpsc::UnboundedSender<Incoming>>>,
    /// When it was meant to be cut, if it was and is not back: nanoseconds, else 0.
    cut: AtomicU64,
}

impl Stage {
    pub(crate) fn patience(&self) -> Duration {
        Duration::from_secs_f64(self.profile.patience_seconds)
    }

    /// The relays, called from where client `n` is: each client has a first choice, spread evenly, and the others behind it.
    fn relays_for(&self, n: u32) -> Vec<Endpoint> {
        let mut relays = self.relays.clone();
        let first = n as usize % relays.len().max(1);
        relays.rotate_left(first);
        if self.spread {
            let source = IpAddr::V4(Ipv4Addr::from(FIRST_SOURCE + n / self.profile.clients_per_address));
            relays = relays.into_iter().map(|relay| relay.called_from(source)).collect();
        }
        relays
    }

    /// Client `n`, as agent number `identity`.
    pub(crate) fn agent(&self, n: u32, identity: u32) -> Settings {
        self.fleet.agent_settings(identity, self.relays_for(n), self.tls.clone())
    }

    pub(crate) fn phone(&self, n: u32) -> Settings {
        self.fleet.phone_settings(n, self.relays_for(self.profile.agents.saturating_add(n)), self.tls.clone())
    }

    /// Connects, by the product's own rules, until let in or out of patience. What was meant for `meant` is measured as
    /// `series`.
    pub(crate) async fn connect(&self, settings: Settings, meant: Moment, series: &'static str) -> Option<Connection> {
        let connection = Connection::start(settings);
        let mut last = String::from("timeout");
        let online = async {
            let mut states = connection.sender().state();
            loop {
                let state = states.borrow_and_update().clone();
                match state {
                    State::Online { .. } => return true,
                    State::Waiting { why, .. } => {
                        last = kind(&why);
                        self.recorder.retried(&last);
                    }
                    State::Connecting { .. } => {}
                    State::Stopped => return false,
                }
                if states.changed().await.is_err() {
                    return false;
                }
            }
        };
        if let Ok(true) = timeout(self.patience(), online).await {
            self.recorder.took(series, meant);
            return Some(connection);
        }
        self.recorder.failed(&format!("{series}: {last}"));
        None
    }

    /// Connects, subscribes, and listens from then on.
    pub(crate) async fn join(
        self: &Arc<Self>,
        settings: Settings,
        meant: Moment,
        channels: &[Channel],
    ) -> Option<Member> {
        let connection = self.connect(settings, meant, "connect").await?;
        self.recorder.online(1);
        let (sender, inbox) = (connection.sender().clone(), Arc::new(Inbox::default()));
        let listening = tokio::spawn(listen(self.clone(), connection, inbox.clone()));
        let member = Member { sender, inbox, listening };
        for channel in channels {
            let subscribed = timeout(self.patience(), member.sender.subscribe(*channel)).await;
            if let Some(kind) = refusal(subscribed) {
                self.recorder.failed(&format!("subscribe: {kind}"));
            }
        }
        Some(member)
    }

    /// The channels that a real agent listens to.
    pub(crate) fn channels_of_agent(&self, computer: ComputerId) -> [Channel; 2] {
        [Channel::Computer(computer), Channel::Tenant(self.fleet.tenant())]
    }

    /// The channels that a real phone listens to.
    pub(crate) fn channels_of_phone(&self, device: DeviceId) -> [Channel; 2] {
        [Channel::Device(device), Channel::Tenant(self.fleet.tenant())]
    }
}

impl Member {
    /// Cuts the connection, as if meant for `meant`.
    pub(crate) async fn cut(&self, meant: Moment) {
        self.inbox.cut.store(meant.0, Relaxed);
        let _ = self.sender.reconnect().await;
    }

    /// Whether it was cut and is not back.
    pub(crate) fn is_away(&self) -> bool {
        self.inbox.cut.load(Relaxed) != 0
    }

    /// Whether it is connected now.
    pub(crate) fn is_online(&self) -> bool {
        matches!(*self.sender.state().borrow(), State::Online { .. })
    }

    /// The relay that it is connected to now.
    pub(crate) fn relay(&self) -> Option<String> {
        match &*self.sender.state().borrow() {
            State::Online { relay, .. } => Some(relay.clone()),
            _ => None,
        }
    }

    /// What comes for a pairing from now on.
    pub(crate) fn expect(&self, rid: Rid) -> Mail {
        let (sender, receiver) = mpsc::unbounded_channel();
        locked(&self.inbox.pairings).insert(rid, sender);
        Mail { rid, receiver, inbox: self.inbox.clone() }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// What comes for one pairing.
pub(crate) struct Mail {
    rid: Rid,
    pub(crate) receiver: mpsc::UnboundedReceiver<Incoming>,
    inbox: Arc<Inbox>,
}

impl Drop for Mail {
    fn drop(&mut self) {
        locked(&self.inbox.pairings).remove(&self.rid);
    }
}

/// What a client does with what comes, and with being cut and coming back.
async fn listen(stage: Arc<Stage>, mut connection: Connection, inbox: Arc<Inbox>) {
    let mut presence =
        Presence { stage: stage.clone(), inbox: inbox.clone(), online: true, known: 0, since: Moment::now() };
    let mut states = connection.sender().state();
    presence.is(&states.borrow_and_update().clone());
    loop {
        tokio::select! {
            incoming = connection.next() => match incoming {
                Some(Incoming::Message { channel, bytes, .. }) => presence.hears(channel, &bytes),
                Some(Incoming::Forwarded { bytes, .. }) if matches!(stage.profile.load, Load::Messages(_)) => {
                    presence.took("message", &bytes);
                }
                Some(incoming) => inbox.deliver(incoming),
                None => return,
            },
            changed = states.changed() => match changed {
                Ok(()) => presence.is(&states.borrow_and_update().clone()),
                Err(_) => return,
            },
        }
    }
}

impl Inbox {
    fn deliver(&self, incoming: Incoming) {
        let rid = match &incoming {
            Incoming::Claimed { rid, .. } | Incoming::Forwarded { rid, .. } | Incoming::Closed { rid, .. } => *rid,
            Incoming::Message { .. } | Incoming::Refetch { .. } => return,
        };
        if let Some(mail) = locked(&self.pairings).get(&rid) {
            let _ = mail.send(incoming);
        }
    }
}

/// One client's coming and going; counted as gone when it is dropped.
struct Presence {
    stage: Arc<Stage>,
    inbox: Arc<Inbox>,
    online: bool,
    /// The relay's number of the connection.
    known: u64,
    /// Since when it is online, or since when it is not.
    since: Moment,
}

impl Presence {
    fn is(&mut self, state: &State) {
        let recorder = &self.stage.recorder;
        match state {
            State::Online { connection, .. } if *connection != self.known => {
                let cut = self.inbox.cut.swap(0, Relaxed);
                if self.known != 0 {
                    recorder.took("reconnect", if cut == 0 { self.since } else { Moment(cut) });
                }
                if !self.online {
                    recorder.online(1);
                }
                (self.online, self.known, self.since) = (true, *connection, Moment::now());
            }
            State::Online { .. } => {}
            State::Waiting { why, .. } => {
                // The tester's own cuts are no news.
                if self.inbox.cut.load(Relaxed) == 0 || !matches!(why, Why::Cut { .. }) {
                    recorder.retried(&kind(why));
                }
                self.goes();
            }
            State::Connecting { .. } | State::Stopped => self.goes(),
        }
    }

    fn goes(&mut self) {
        if std::mem::take(&mut self.online) {
            self.since = Moment::now();
            self.stage.recorder.online(-1);
        }
    }

    /// A message that says when it was meant to be sent.
    fn took(&self, series: &'static str, message: &[u8]) {
        if let Some(meant) = talk::measured(message) {
            self.stage.recorder.took(series, meant);
            self.stage.recorder.count("delivered", 1);
        }
    }

    fn hears(&self, channel: Channel, bytes: &Bytes) {
        let recorder = &self.stage.recorder;
        if let (Load::Fanout(_), Channel::Computer(_)) = (&self.stage.profile.load, channel) {
            self.took("delivery", bytes);
        }
        let Channel::Tenant(_) = channel else { return };
        let Ok(bulletin) = Bulletin::decode(bytes) else { return };
        let announcements = self.stage.announcements.borrow();
        let meant = announcements.iter().find(|one| (one.kind, one.epoch) == (bulletin.kind, bulletin.epoch));
        // Who came later hears it too, but was not there to be reached.
        if let Some(announcement) = meant.filter(|announcement| self.since <= announcement.at) {
            recorder.took(announcement.series(), announcement.at);
            recorder.heard(announcement.number, announcement.at);
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.goes();
    }
}

/// What a request failed of, in a word.
pub(crate) fn refusal<T>(answer: Result<Result<T, RequestError>, tokio::time::error::Elapsed>) -> Option<String> {
    match answer {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(request_kind(&error)),
        Err(_) => Some("timeout".into()),
    }
}

pub(crate) fn request_kind(error: &RequestError) -> String {
    match error {
        RequestError::Refused { code, .. } => code.name().into(),
        RequestError::Offline => "offline".into(),
        RequestError::Cut => CUT.into(),
        RequestError::Stopped => "stopped".into(),
    }
}

/// Why a connection ended or did not come about, in a word.
fn kind(why: &Why) -> String {
    match why {
        Why::Dial(DialError::Unreachable { reason, .. }) if reason.contains("refused") => "connection refused".into(),
        Why::Dial(DialError::Unreachable { reason, .. }) if reason.contains("reset") => "reset".into(),
        Why::Dial(DialError::Unreachable { .. }) => "unreachable".into(),
        Why::Dial(DialError::Silent { .. }) => "no answer".into(),
        Why::Dial(DialError::Untrusted { .. }) => "untrusted certificate".into(),
        Why::NotOpened { status, .. } => format!("HTTP {status}"),
        Why::Refused { code, .. } => format!("refused: {}", code.name()),
        Why::Silent { .. } => "silent".into(),
        Why::Cut { reason, .. } => format!("cut: {}", reason.chars().take(LONGEST_REASON).collect::<String>()),
        Why::BadFrame { .. } => "bad frame".into(),
        Why::Draining { .. } => "draining".into(),
        // There is no proxy in a load test, and none of its relays is nearer.
        Why::Dial(_) | Why::Returning { .. } | Why::Unblocked { .. } => "other".into(),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
