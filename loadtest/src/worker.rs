//! One worker: its share of the clients and of the load.
//!
//! ```text
//! plan      -> worker    what to do; then, in this order:
//! Prepared  <- worker    identities are minted
//! Connect   -> worker    time begins, clients connect
//! Ready     <- worker    all that could be are online
//! Go        -> worker    the load begins at this moment
//! Tick      <- worker    each second: what was measured
//! Done      <- worker    the load is over, and the last tick was sent
//! Stop      -> worker    at any time: tick and be done
//! ```
//!
//! The same over channels inside one process and as lines of JSON between processes.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::Arc,
    thread,
    time::Duration,
};

use gatepass_client::{Endpoint, Settings, Tls, TlsError};
use gatepass_protocol::{
    api::{Base64, text},
    channel::Channel,
    ids::{ComputerId, DeviceId, TenantId},
    keys::SigningKey,
    pairing::agent::AgentIdentity,
    statement::Kind,
};
use serde::{Deserialize, Serialize};
use tokio::{
    runtime::Builder,
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};
use zeroize::Zeroizing;

use crate::{
    Fleet,
    agenda::{self, Act, Entry, agenda, at_first},
    clock::{Moment, Pacer},
    fleet::Phone,
    measure::{LAG, Reached, Recorder, Second},
    pairing::{Login, PhoneMember, login},
    profile::{Load, Profile},
    schedule::{Arrivals, Random, Schedule, Share},
    stage::{Member, Stage, refusal},
    talk::{self, Talk},
};

/// What a worker is told first. It holds the CA's private key, so it travels through a pipe and is never logged.
#[derive(Clone, Serialize, Deserialize)]
pub struct Plan {
    /// The load.
    pub profile: Profile,
    /// Which part of it.
    pub share: Share,
    /// `ws://host[:port]` or `wss://`, at least one; clients are spread over them.
    pub relays: Vec<String>,
    /// The server's certificate, PEM; none: what the machine believes.
    pub tls_pem: Option<String>,
    /// The tenant.
    #[serde(with = "text")]
    pub tenant: TenantId,
    /// The seed of its CA's key.
    pub ca: Base64,
    /// When certificates begin, in Unix seconds.
    pub now: u64,
    /// The tenant's revocation epoch.
    pub epoch: u64,
    /// Whether clients call from addresses of their own.
    pub spread: bool,
}

/// A list that everybody is meant to hear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// From 0.
    pub number: u64,
    /// Which list.
    pub kind: Kind,
    /// Its epoch.
    pub epoch: u64,
    /// When it is meant to be put in force.
    pub at: Moment,
}

impl Announcement {
    /// What latencies to it are measured as.
    pub fn series(&self) -> &'static str {
        if self.kind == Kind::Policy { "policy" } else { "revocation" }
    }
}

/// From the crew's head to a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Order {
    /// Time begins here; connect.
    Connect {
        /// The first moment.
        zero: Moment,
    },
    /// The load begins.
    Go {
        /// When.
        at: Moment,
        /// What everybody is going to hear.
        announcements: Vec<Announcement>,
    },
    /// Tick and be done.
    Stop,
}

/// From a worker to the crew's head.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Report {
    /// Identities are minted.
    Prepared,
    /// All that could be are online.
    Ready,
    /// What was measured.
    Tick {
        /// By whom.
        worker: u32,
        /// By second since time began. A second may come again: its parts add up.
        seconds: BTreeMap<u32, Second>,
        /// Clients online now.
        online: i64,
        /// Processor time that this worker's process has used, in seconds.
        cpu: f64,
    },
    /// The load is over.
    Done {
        /// Whom each announcement reached.
        reached: BTreeMap<u64, Reached>,
    },
    /// The worker can't go on.
    Problem {
        /// Why.
        text: String,
    },
}

/// Why a worker can't go on.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The plan makes no sense here.
    #[error("the plan is unusable: {0}")]
    Plan(String),
    /// The server's certificate can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The system refuses a timer.
    #[error("no timer: {0}")]
    Timer(#[from] io::Error),
    /// Whoever gave the orders is gone.
    #[error("the load test was given up")]
    GivenUp,
}

/// Works until done or told to stop. An error is reported, too.
pub async fn work(plan: Plan, orders: mpsc::Receiver<Order>, reports: mpsc::Sender<Report>) -> Result<(), WorkerError> {
    let worked = perform(plan, orders, reports.clone()).await;
    if let Err(error) = &worked {
        let _ = reports.send(Report::Problem { text: error.to_string() }).await;
    }
    worked
}

async fn perform(
    plan: Plan,
    mut orders: mpsc::Receiver<Order>,
    reports: mpsc::Sender<Report>,
) -> Result<(), WorkerError> {
    let send = async |report| reports.send(report).await.map_err(|_| WorkerError::GivenUp);
    let seed: &[u8; 32] = plan.ca.0[..].try_into().map_err(|_| WorkerError::Plan("no CA key".into()))?;
    let ca = SigningKey::from_seed(&Zeroizing::new(*seed));
    let fleet = Fleet::new(plan.tenant, ca, plan.profile.seed, plan.now).at_epoch(plan.epoch);
    let relays: Result<Vec<Endpoint>, _> = plan.relays.iter().map(|relay| relay.parse::<Endpoint>()).collect();
    let relays = relays.map_err(|error| WorkerError::Plan(error.to_string()))?;
    if relays.is_empty() {
        return Err(WorkerError::Plan("no relay".into()));
    }
    let tls = Tls::from_pem(plan.tls_pem.as_deref())?;
    let (announce, announcements) = watch::channel(vec![]);
    let Plan { profile, share, spread, .. } = plan;
    let mut stage = Stage {
        trust: fleet.trust(),
        recorder: Recorder::new(Moment::now()),
        profile,
        share,
        fleet,
        relays,
        tls,
        spread,
        announcements,
    };
    let entries = agenda(&stage.profile, share);
    let cast = Cast::mint(&stage);
    send(Report::Prepared).await?;

    let Some(Order::Connect { zero }) = orders.recv().await else { return stop(&reports).await };
    stage.recorder = Recorder::new(zero);
    let stage = Arc::new(stage);
    let ticking = tokio::spawn(tick(stage.clone(), reports.clone()));
    let play = async {
        let mut crowd = tokio::select! {
            crowd = cast.connect(&stage, zero) => crowd?,
            // The only order that comes before all are there.
            _ = orders.recv() => return Ok(()),
        };
        send(Report::Ready).await?;
        let Some(Order::Go { at, announcements }) = orders.recv().await else { return Ok(()) };
        announce.send_replace(announcements);
        let stopped = async { while !matches!(orders.recv().await, None | Some(Order::Stop)) {} };
        tokio::select! {
            done = crowd.play(&stage, at, &entries) => done,
            () = stopped => Ok(()),
        }
    };
    let played = play.await;
    ticking.abort();
    let _ = ticking.await;
    send(ticked(&stage)).await?;
    send(Report::Done { reached: stage.recorder.announcements() }).await?;
    played
}

async fn stop(reports: &mpsc::Sender<Report>) -> Result<(), WorkerError> {
    reports.send(Report::Done { reached: BTreeMap::new() }).await.map_err(|_| WorkerError::GivenUp)
}

async fn tick(stage: Arc<Stage>, reports: mpsc::Sender<Report>) {
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        seconds.tick().await;
        if reports.send(ticked(&stage)).await.is_err() {
            return;
        }
    }
}

fn ticked(stage: &Stage) -> Report {
    let cpu = crate::server::cpu_seconds(std::process::id()).unwrap_or_default();
    Report::Tick { worker: stage.share.index, seconds: stage.recorder.take(), online: stage.recorder.now_online(), cpu }
}

/// One who takes part, on or off.
struct Seat {
    settings: Settings,
    computer: ComputerId,
    /// Only where agents pair.
    identity: Option<Arc<AgentIdentity>>,
    member: Option<Arc<Member>>,
}

/// All who take part.
struct Crowd {
    agents: Vec<Seat>,
    phones: Vec<Arc<PhoneMember>>,
    /// Those that stay open.
    talks: Vec<Option<Talk>>,
}

enum Came {
    Agent(usize, Option<Member>),
    Phone(Option<Arc<PhoneMember>>),
}

/// Who takes part, before it connects.
struct Cast {
    agents: Vec<Seat>,
    phones: Vec<(Settings, Phone)>,
}

impl Cast {
    fn mint(stage: &Stage) -> Self {
        let Profile { agents, phones, load, .. } = &stage.profile;
        let pairs = matches!(load, Load::Pairings(_) | Load::Day(_));
        let seat = |n| {
            // Everybody who listens to a channel is the computer that it belongs to.
            let number = if let Load::Fanout(fanout) = load { n % fanout.channels } else { n };
            let identity = pairs.then(|| Arc::new(stage.fleet.agent(number)));
            Seat { settings: stage.agent(n, number), computer: stage.fleet.computer(number), identity, member: None }
        };
        let phone = |n| (stage.phone(n), stage.fleet.phone(n));
        Self {
            agents: stage.share.members(*agents).map(seat).collect(),
            phones: stage.share.members(*phones).map(phone).collect(),
        }
    }

    /// Connects all that are on at first, at the profile's rate.
    async fn connect(self, stage: &Arc<Stage>, zero: Moment) -> Result<Crowd, WorkerError> {
        let first = at_first(&stage.profile, self.agents.len() as u32) as usize;
        let mut moments = Schedule::steady(1e9, stage.profile.connects_per_second, Arrivals::Even, 0, stage.share);
        let mut pacer = Pacer::new()?;
        let mut coming = JoinSet::new();
        for (n, seat) in self.agents.iter().enumerate().take(first) {
            let meant = moments.next().map_or(zero, |at| zero + at);
            pacer.until(meant).await?;
            stage.recorder.took(LAG, meant);
            let (stage, settings, computer) = (stage.clone(), seat.settings.clone(), seat.computer);
            coming.spawn(async move {
                let channels = stage.channels_of_agent(computer);
                Came::Agent(n, stage.join(settings, meant, &channels).await)
            });
        }
        for (settings, phone) in self.phones {
            let meant = moments.next().map_or(zero, |at| zero + at);
            pacer.until(meant).await?;
            stage.recorder.took(LAG, meant);
            let stage = stage.clone();
            coming.spawn(async move {
                let channels = stage.channels_of_phone(DeviceId(phone.identity.statement().subject));
                let member = stage.join(settings, meant, &channels).await;
                Came::Phone(member.map(|member| Arc::new(PhoneMember { member: Arc::new(member), phone })))
            });
        }
        let mut crowd = Crowd { agents: self.agents, phones: vec![], talks: vec![] };
        while let Some(came) = coming.join_next().await {
            crowd.take_seat(came.map_err(|error| WorkerError::Plan(error.to_string()))?);
        }
        if let Load::Messages(_) = stage.profile.load {
            crowd.begin_talks(stage).await;
        }
        Ok(crowd)
    }
}

impl Crowd {
    fn take_seat(&mut self, came: Came) {
        match came {
            Came::Agent(n, member) => self.agents[n].member = member.map(Arc::new),
            Came::Phone(phone) => self.phones.extend(phone),
        }
    }

    /// Goes through the agenda.
    async fn play(&mut self, stage: &Arc<Stage>, at: Moment, entries: &[Entry]) -> Result<(), WorkerError> {
        let mut pacer = Pacer::new()?;
        let mut random = Random::new(stage.profile.seed ^ u64::from(stage.share.index));
        let mut doing: JoinSet<Option<Came>> = JoinSet::new();
        let mut on_screen: VecDeque<Option<watch::Sender<bool>>> = VecDeque::new();
        let moments = entries.iter().filter(|entry| entry.act == Act::Newcomer).map(|entry| at + entry.at);
        let newcomers = Newcomers::start(stage.clone(), moments.collect())?;
        for entry in entries.iter().filter(|entry| entry.act != Act::Newcomer) {
            let meant = at + entry.at;
            pacer.until(meant).await?;
            stage.recorder.took(LAG, meant);
            match entry.act {
                Act::Show => on_screen.push_back(self.show(stage, meant, entry.measured, &mut random, &mut doing)),
                Act::Scan => {
                    let scan = on_screen.pop_front().flatten();
                    let _ = scan.map(|scan| scan.send(true));
                }
                Act::Publish { channel } => {
                    self.publish(stage, channel, meant, entry.measured, &mut random, &mut doing)
                }
                Act::Say { talk, turn } => {
                    let Load::Messages(load) = &stage.profile.load else { continue };
                    let Some(Some(talk)) = self.talks.get(talk as usize) else { continue };
                    talk.say(stage, turn, talk::message(load.bytes, meant, entry.measured)).await;
                }
                Act::Cut => {
                    let Load::Storm(storm) = &stage.profile.load else { continue };
                    for member in self.agents.iter().filter_map(|seat| seat.member.as_ref()) {
                        if random.fraction() * 100.0 < storm.cut_percent {
                            stage.recorder.count("cut", 1);
                            member.cut(meant).await;
                        }
                    }
                }
                Act::Muster => {
                    let members = self.agents.iter().filter_map(|seat| seat.member.as_ref());
                    stage
                        .recorder
                        .failed_times("reconnect: not back", members.filter(|member| member.is_away()).count() as u64);
                }
                // They have a thread of their own.
                Act::Newcomer => {}
                Act::Join(n) => {
                    let Some(Seat { settings, computer, .. }) = self.agents.get(n as usize) else { continue };
                    let (stage, settings, computer) = (stage.clone(), settings.clone(), *computer);
                    doing.spawn(async move {
                        let channels = stage.channels_of_agent(computer);
                        Some(Came::Agent(n as usize, stage.join(settings, meant, &channels).await))
                    });
                }
                Act::Leave(n) => {
                    if let Some(seat) = self.agents.get_mut(n as usize) {
                        seat.member = None;
                    }
                }
                Act::Reconnect => {
                    if let Some(member) = self.anybody(&mut random) {
                        stage.recorder.count("cut", 1);
                        member.cut(meant).await;
                    }
                }
            }
            while let Some(done) = doing.try_join_next() {
                if let Ok(Some(came)) = done {
                    self.take_seat(came);
                }
            }
        }
        pacer.until(at + Duration::from_secs_f64(stage.profile.seconds())).await?;
        let rest = async {
            while doing.join_next().await.is_some() {}
            newcomers.all().await;
        };
        let _ = timeout(stage.patience(), rest).await;
        self.linger(stage).await;
        Ok(())
    }

    /// Each agent's pairing is claimed by a phone at random; by one at its own relay, where phones follow the QR and one is left.
    async fn begin_talks(&mut self, stage: &Arc<Stage>) {
        let follow = matches!(&stage.profile.load, Load::Messages(load) if load.phones_follow);
        let mut random = Random::new(stage.profile.seed ^ u64::from(stage.share.index));
        let mut phones: Vec<Arc<Member>> = self.phones.iter().map(|phone| phone.member.clone()).collect();
        for agent in self.agents.iter().filter_map(|seat| seat.member.clone()) {
            if phones.is_empty() {
                return;
            }
            let from = random.below(phones.len());
            let near = |at: &usize| follow && phones[*at].relay() == agent.relay();
            let phone = phones.swap_remove((from..phones.len()).chain(0..from).find(near).unwrap_or(from));
            self.talks.push(Talk::open(stage, agent, phone).await);
        }
    }

    /// A QR on the screen of an agent that is on, for a phone to scan.
    fn show(
        &self,
        stage: &Arc<Stage>,
        shown: Moment,
        measured: bool,
        random: &mut Random,
        doing: &mut JoinSet<Option<Came>>,
    ) -> Option<watch::Sender<bool>> {
        let (handshake, shown_for, follow) = match &stage.profile.load {
            Load::Pairings(load) => {
                (load.handshake, Duration::from_secs_f64(load.shown_ms / 1_000.0), load.phones_follow)
            }
            Load::Day(day) => (day.handshake, agenda::SHOWN, false),
            _ => return None,
        };
        // A computer without a connection shows no QR, and nobody opens the app to scan without one.
        let agent = pick(&self.agents, random, |seat| {
            Some((seat.member.clone().filter(|member| member.is_online())?, seat.identity.clone()?))
        });
        let at = agent.as_ref().and_then(|(agent, _)| agent.relay());
        let phone = pick(&self.phones, random, |phone| {
            let relay = phone.member.relay();
            Some(phone.clone()).filter(|_| relay.is_some() && (!follow || relay == at))
        });
        let (Some((agent, identity)), Some(phone)) = (agent, phone) else {
            stage.recorder.failed("pairing: nobody is online");
            return None;
        };
        let (scan, scanned) = watch::channel(false);
        let when = Login { shown, scanned: shown + shown_for, measured, handshake };
        let stage = stage.clone();
        doing.spawn(async move {
            login(stage, (agent, identity), phone, when, scanned).await;
            None
        });
        Some(scan)
    }

    fn publish(
        &self,
        stage: &Arc<Stage>,
        channel: u32,
        meant: Moment,
        measured: bool,
        random: &mut Random,
        doing: &mut JoinSet<Option<Came>>,
    ) {
        let Load::Fanout(fanout) = &stage.profile.load else { return };
        let online = |phone: &Arc<PhoneMember>| Some(phone.clone()).filter(|phone| phone.member.is_online());
        let Some(phone) = pick(&self.phones, random, online) else {
            return stage.recorder.failed("publish: nobody is online");
        };
        let channel = Channel::Computer(stage.fleet.computer(channel));
        let (message, stage) = (talk::message(fanout.bytes, meant, measured), stage.clone());
        doing.spawn(async move {
            match timeout(stage.patience(), phone.member.sender.publish(channel, message)).await {
                Ok(Ok(handed)) if measured => {
                    stage.recorder.took("publish", meant);
                    stage.recorder.count("handed over", handed.into());
                }
                Ok(Ok(_)) => {}
                failed => {
                    let kind = refusal(failed).unwrap_or_default();
                    stage.recorder.failed(&format!("publish: {kind}"));
                }
            }
            None
        });
    }

    fn anybody(&self, random: &mut Random) -> Option<Arc<Member>> {
        let all = self.agents.len() + self.phones.len();
        if random.below(all) < self.agents.len() {
            pick(&self.agents, random, |seat| seat.member.clone())
        } else {
            pick(&self.phones, random, |phone| Some(phone.clone())).map(|phone| phone.member.clone())
        }
    }

    /// Waits for what is still on its way: until nothing has come for a second.
    async fn linger(&self, stage: &Stage) {
        if !matches!(stage.profile.load, Load::Messages(_) | Load::Fanout(_) | Load::Revocation(_) | Load::Day(_)) {
            return;
        }
        let quiet = async {
            loop {
                let before = stage.recorder.samples();
                sleep(Duration::from_secs(1)).await;
                if stage.recorder.samples() == before {
                    return;
                }
            }
        };
        let _ = timeout(stage.patience(), quiet).await;
    }
}

/// Those who come for the first time, in a thread of their own: in the worker's, each would wait for its whole crowd's turns on
/// the processor, and what would be measured is the tester. They go when this is dropped.
struct Newcomers {
    _stay: oneshot::Sender<()>,
    done: oneshot::Receiver<()>,
}

impl Newcomers {
    fn start(stage: Arc<Stage>, moments: Vec<Moment>) -> Result<Self, WorkerError> {
        let ((stay, go), (tell, done)) = (oneshot::channel::<()>(), oneshot::channel());
        if !moments.is_empty() {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            thread::Builder::new().name("newcomers".into()).spawn(move || {
                runtime.block_on(async {
                    tokio::select! { () = Self::come(stage, moments) => {}, _ = go => {} }
                });
                let _ = tell.send(());
            })?;
        }
        Ok(Self { _stay: stay, done })
    }

    async fn come(stage: Arc<Stage>, moments: Vec<Moment>) {
        let Ok(mut pacer) = Pacer::new() else { return stage.recorder.failed("newcomer: no timer") };
        let mut coming = JoinSet::new();
        for (n, meant) in (0..).zip(moments) {
            if pacer.until(meant).await.is_err() {
                return stage.recorder.failed("newcomer: no timer");
            }
            stage.recorder.took(LAG, meant);
            let number = stage.profile.agents + stage.share.index + n * stage.share.of;
            let stage = stage.clone();
            coming.spawn(async move { stage.connect(stage.agent(number, number), meant, "newcomer").await });
            while coming.try_join_next().is_some() {}
        }
        while coming.join_next().await.is_some() {}
    }

    /// Returns when all have come or given up.
    async fn all(self) {
        // Where there are none, nobody tells.
        let _ = self.done.await;
    }
}

/// One at random of those that fit.
fn pick<T, U>(all: &[T], random: &mut Random, fits: impl Fn(&T) -> Option<U>) -> Option<U> {
    // Mostly the first try fits. Where few do, from a random place on.
    let from = random.below(all.len());
    all[from..].iter().chain(&all[..from]).find_map(fits)
}
