//! One pairing between real connections, and the account of it: what each end sent, what arrived in which order, how it ended and who
//! was told.
//!
//! The phone says a few numbered messages, the agent answers each, they pause, and again, until they are told to finish: the phone then
//! says its last one, and ends the pairing once that is answered.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use gatepass_client::{Incoming, RequestError, edge};
use gatepass_protocol::ids::Rid;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::{
    crowd::{Member, locked},
    dice::Dice,
};

/// Messages that a phone says before it waits for the answers, at most.
const BURST: u64 = 3;
/// A message: number, whether it is the last, and padding up to what M1 to M6 come to on the wire.
const SIZES: [usize; 3] = [304, 784, 1_552];
/// What is told after the pairing's own life is not told.
const GRACE: Duration = Duration::from_secs(15);

/// How an end of a pairing ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Everything was said, and the end of it.
    Done,
    /// It was told that it is over, by this word.
    Told(String),
    /// Nobody told it anything.
    Silent,
}

/// What one end knows.
#[derive(Debug, Default)]
pub(crate) struct End {
    /// When each message was sent.
    sent: Vec<Instant>,
    /// The number of the last message that arrived.
    received: u32,
    /// One arrived twice, or before another, or was never sent.
    pub(crate) doubled: bool,
    /// One is missing before another.
    pub(crate) hole: bool,
    /// It is the phone that was let have the pairing.
    pub(crate) claimed: bool,
    /// Its last message was answered: it ends the pairing.
    ends: bool,
    /// The longest that a message was on its way, or that this end's last one was until it was told.
    pub(crate) longest: Duration,
    pub(crate) ending: Option<Ending>,
}

impl End {
    /// Whether an answer is due.
    fn is_owed(&self) -> bool {
        self.received < self.sent.len() as u32
    }
}

/// A pairing of the account.
pub(crate) struct Pairing {
    pub(crate) number: u32,
    pub(crate) rid: Rid,
    /// Seconds that it lives.
    ttl: u32,
    pub(crate) agent: Mutex<End>,
    /// The phone, and where there is one, the rival that claims at the same moment.
    pub(crate) phones: Vec<Mutex<End>>,
    shown: watch::Sender<Shown>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    NotYet,
    Yes,
    /// The agent could not open it.
    Never,
}

/// Who takes part.
pub(crate) struct Cast {
    pub(crate) agent: Arc<Member>,
    pub(crate) phones: Vec<Arc<Member>>,
}

impl Pairing {
    pub(crate) fn new(number: u32, ttl: u32, phones: usize) -> Arc<Self> {
        Arc::new(Self {
            number,
            rid: Rid(edge::random()),
            ttl,
            agent: Mutex::default(),
            phones: (0..phones).map(|_| Mutex::default()).collect(),
            shown: watch::Sender::new(Shown::NotYet),
        })
    }

    /// Plays it to its end, whatever that is.
    pub(crate) async fn play(self: Arc<Self>, cast: Cast, finish: watch::Receiver<bool>, dice: Dice) {
        let life = Duration::from_secs(self.ttl.into()) + GRACE;
        let agent = async {
            let ending = timeout(life, self.at_agent(&cast.agent)).await.unwrap_or(Ending::Silent);
            self.shown.send_if_modified(|shown| {
                let never = *shown == Shown::NotYet;
                if never {
                    *shown = Shown::Never;
                }
                never
            });
            self.end(&self.agent, ending);
        };
        let mut playing = vec![];
        for (nth, phone) in cast.phones.iter().enumerate() {
            let (finish, dice) = (finish.clone(), dice.clone());
            let (this, phone) = (self.clone(), phone.clone());
            playing.push(tokio::spawn(async move {
                let played = timeout(life, this.at_phone(nth, &phone, finish, dice)).await;
                this.end(&this.phones[nth], played.unwrap_or(Ending::Silent));
            }));
        }
        agent.await;
        for one in playing {
            let _ = one.await;
        }
    }

    async fn at_agent(&self, member: &Member) -> Ending {
        let mut mail = member.expect(self.rid);
        loop {
            match member.sender.open(self.rid, self.ttl).await {
                Ok(()) => break,
                // Nothing was sent.
                Err(RequestError::Offline) => member.online().await,
                Err(error) => return told(&error),
            }
        }
        self.shown.send_replace(Shown::Yes);
        loop {
            match mail.recv().await {
                // Said again to an agent that resumes before it had a message.
                Some(Incoming::Claimed { .. }) => {}
                Some(Incoming::Forwarded { bytes, .. }) => {
                    let from = self.phones.iter().find(|phone| locked(phone).claimed).unwrap_or(&self.phones[0]);
                    let last = self.arrived(&self.agent, from, &bytes);
                    if let Err(error) = self.say(member, &self.agent, last).await {
                        return told(&error);
                    }
                }
                other => return self.over(&self.agent, other),
            }
        }
    }

    async fn at_phone(&self, nth: usize, member: &Member, mut finish: watch::Receiver<bool>, mut dice: Dice) -> Ending {
        let own = &self.phones[nth];
        let shown = self.shown.subscribe().wait_for(|shown| *shown != Shown::NotYet).await.map(|shown| *shown);
        if !matches!(shown, Ok(Shown::Yes)) {
            return Ending::Told("there was no QR".to_owned());
        }
        let mut mail = member.expect(self.rid);
        loop {
            match member.sender.claim(self.rid, edge::random(), edge::random()).await {
                Ok(()) => break,
                Err(RequestError::Offline) => member.online().await,
                Err(error) => return told(&error),
            }
        }
        locked(own).claimed = true;
        loop {
            let last = *finish.borrow();
            for _ in 0..if last { 1 } else { 1 + dice.below(BURST) } {
                if let Err(error) = self.say(member, own, last).await {
                    return told(&error);
                }
            }
            while locked(own).is_owed() {
                if let Some(ending) = self.hears(own, mail.recv().await) {
                    return ending;
                }
            }
            if last {
                locked(own).ends = true;
                return match member.sender.end(self.rid).await {
                    Ok(()) => Ending::Done,
                    Err(error) => told(&error),
                };
            }
            let pause = dice.between(Duration::from_millis(800), Duration::from_millis(3_200));
            tokio::select! {
                () = sleep(pause) => {}
                _ = finish.wait_for(|finish| *finish) => {}
                // Nothing is due: it can only be the end.
                incoming = mail.recv() => if let Some(ending) = self.hears(own, incoming) {
                    return ending;
                },
            }
        }
    }

    /// What a phone hears; how it ended, if that is it.
    fn hears(&self, own: &Mutex<End>, incoming: Option<Incoming>) -> Option<Ending> {
        match incoming {
            Some(Incoming::Forwarded { bytes, .. }) => {
                self.arrived(own, &self.agent, &bytes);
                None
            }
            other => Some(self.over(own, other)),
        }
    }

    async fn say(&self, member: &Member, own: &Mutex<End>, last: bool) -> Result<(), RequestError> {
        let n = {
            let mut own = locked(own);
            own.sent.push(Instant::now());
            own.sent.len() as u32
        };
        let mut bytes = vec![0; SIZES[n as usize % SIZES.len()]];
        bytes[..4].copy_from_slice(&self.number.to_be_bytes());
        bytes[4..8].copy_from_slice(&n.to_be_bytes());
        bytes[8] = last.into();
        member.sender.forward(self.rid, bytes).await
    }

    /// Checks a message. Returns whether it is the last one.
    fn arrived(&self, own: &Mutex<End>, from: &Mutex<End>, bytes: &Bytes) -> bool {
        let number = |at: usize| bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map(u32::from_be_bytes);
        let (pairing, n) = (number(0), number(4).unwrap_or(0));
        let sent = locked(from).sent.get((n as usize).wrapping_sub(1)).copied();
        let mut own = locked(own);
        let now = Instant::now();
        own.doubled |= pairing != Some(self.number) || sent.is_none() || n <= own.received;
        own.hole |= n > own.received + 1;
        own.received = own.received.max(n);
        own.longest = own.longest.max(sent.map_or(Duration::ZERO, |sent| now - sent));
        bytes.get(8) == Some(&1)
    }

    /// It is over for an end.
    fn over(&self, own: &Mutex<End>, incoming: Option<Incoming>) -> Ending {
        match incoming {
            Some(Incoming::Closed { code: Some(code), .. }) => Ending::Told(code.name().to_owned()),
            Some(Incoming::Closed { code: None, .. }) => {
                // Only the phone ends a pairing, and only once it has everything.
                let complete = std::ptr::eq(own, &self.agent) && self.phones.iter().any(|phone| locked(phone).ends);
                if complete { Ending::Done } else { Ending::Told("closed".to_owned()) }
            }
            Some(_) => {
                locked(own).doubled = true;
                Ending::Told("out of order".to_owned())
            }
            None => Ending::Told("stopped".to_owned()),
        }
    }

    fn end(&self, own: &Mutex<End>, ending: Ending) {
        let mut own = locked(own);
        // What it said last, and was never answered, was on its way until now.
        if ending != Ending::Done
            && own.is_owed()
            && let Some(sent) = own.sent.get(own.received as usize).copied()
        {
            own.longest = own.longest.max(sent.elapsed());
        }
        own.ending = Some(ending);
    }

    /// Whether nothing is left to come.
    pub(crate) fn is_over(&self) -> bool {
        locked(&self.agent).ending.is_some() && self.phones.iter().all(|phone| locked(phone).ending.is_some())
    }

    /// Whether a phone has it, or it is over.
    pub(crate) fn is_in_flight(&self) -> bool {
        self.is_over() || self.phones.iter().any(|phone| locked(phone).received > 0)
    }

    /// Whether both ends are in it, and the phone has waited longer than this for an answer.
    pub(crate) fn is_stuck(&self, longer: Duration) -> bool {
        if locked(&self.agent).ending.is_some() {
            return false;
        }
        self.phones.iter().map(locked).any(|phone| {
            let oldest = phone.sent.get(phone.received as usize);
            phone.claimed && phone.ending.is_none() && oldest.is_some_and(|sent| sent.elapsed() > longer)
        })
    }

    /// How many messages arrived at either end.
    pub(crate) fn messages(&self) -> u64 {
        let phones: u64 = self.phones.iter().map(|phone| u64::from(locked(phone).received)).sum();
        phones + u64::from(locked(&self.agent).received)
    }
}

fn told(error: &RequestError) -> Ending {
    Ending::Told(match error {
        RequestError::Refused { code, .. } => code.name().to_owned(),
        RequestError::Offline => "offline".to_owned(),
        RequestError::Cut => "cut before the answer".to_owned(),
        RequestError::Stopped => "stopped".to_owned(),
    })
}
