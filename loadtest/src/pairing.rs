//! One simulated login: an agent shows a QR, a phone scans it, both ends do all that real ones do, with the human left out.
//!
//! Without handshakes, messages of the same number and sizes go through the relay instead.

use std::sync::Arc;

use bytes::Bytes;
use gatepass_client::{Incoming, RequestError, Sender, State, edge};
use gatepass_protocol::{
    Code,
    ids::{GrantId, Rid, TechnicianId},
    pairing::{
        agent::{AgentIdentity, Offer, Verdict},
        messages::{Context, MachineCard, Outcome, Request, Verification},
        phone::{Chosen, Scan},
    },
    policy::{AccountKind, Question, Scenario},
    statement::KeyProtection,
};
use tokio::{
    sync::{oneshot, watch},
    time::timeout,
};

use crate::{
    clock::Moment,
    fleet::Phone,
    stage::{CUT, Mail, Member, Stage, request_kind},
};

/// Seconds that a simulated pairing may wait to be claimed.
const TTL: u32 = 60;
/// M1 to M6 as they are on the wire: padded, with Noise's keys and tags.
const SIZES: [usize; 6] = [304, 1584, 832, 1552, 784, 784];
/// For how long, in minutes.
const MINUTES: u32 = 30;

/// A phone of the fleet.
pub(crate) struct PhoneMember {
    pub(crate) member: Arc<Member>,
    pub(crate) phone: Phone,
}

/// When a login is to be, and whether it counts.
pub(crate) struct Login {
    /// When the QR is meant to be asked for.
    pub(crate) shown: Moment,
    /// When it is meant to be scanned.
    pub(crate) scanned: Moment,
    pub(crate) measured: bool,
    pub(crate) handshake: bool,
}

/// Why there was no result.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    Request(&'static str, String),
    Lost(Option<Code>),
    Failed(&'static str),
}

impl Fault {
    fn kind(&self) -> String {
        match self {
            Fault::Request(what, kind) => format!("{what}: {kind}"),
            Fault::Lost(Some(code)) => format!("pairing lost: {}", code.name()),
            Fault::Lost(None) => "pairing lost: closed".into(),
            Fault::Failed(what) => format!("pairing: {what}"),
        }
    }
}

fn asked(what: &'static str) -> impl Fn(RequestError) -> Fault {
    move |error| Fault::Request(what, request_kind(&error))
}

/// Asks the relay, once there is a connection: who is cut off at this moment waits for it to come back, and the wait counts.
async fn when_online<F: Future<Output = Result<(), RequestError>>>(
    stage: &Stage,
    sender: &Sender,
    what: &'static str,
    ask: impl Fn() -> F,
) -> Result<(), Fault> {
    loop {
        match ask().await {
            Err(RequestError::Offline) => {
                stage.recorder.retried(&format!("{what}: offline"));
                let mut state = sender.state();
                let back = state.wait_for(|state| matches!(state, State::Online { .. } | State::Stopped)).await;
                if !matches!(back.as_deref(), Ok(State::Online { .. })) {
                    return Err(Fault::Request(what, "stopped".into()));
                }
            }
            answer => return answer.map_err(asked(what)),
        }
    }
}

/// Plays both parts. `scan` becomes true when the phone reads the QR. Where one of them was cut off while it asked the relay for
/// the pairing, nobody knows whether it has it: there is a new QR, the technician scans that, and the wait counts.
pub(crate) async fn login(
    stage: Arc<Stage>,
    (agent, identity): (Arc<Member>, Arc<AgentIdentity>),
    phone: Arc<PhoneMember>,
    login: Login,
    scan: watch::Receiver<bool>,
) {
    let patience = stage.patience() + login.scanned.since(login.shown);
    let both = async {
        loop {
            let (screen, seen) = oneshot::channel();
            let played = tokio::try_join!(
                at_computer(&stage, &agent, &identity, &login, screen),
                at_phone(&stage, &phone, &login, scan.clone(), seen)
            );
            match played {
                Err(Fault::Request(what, kind)) if kind == CUT => stage.recorder.retried(&format!("{what}: {kind}")),
                played => return played,
            }
        }
    };
    match timeout(patience, both).await {
        Ok(Ok(_)) => stage.recorder.count("pairings", 1),
        Ok(Err(fault)) => stage.recorder.failed(&fault.kind()),
        Err(_) => stage.recorder.failed("pairing: timeout"),
    }
}

async fn at_computer(
    stage: &Stage,
    agent: &Member,
    identity: &AgentIdentity,
    login: &Login,
    screen: oneshot::Sender<(Rid, String)>,
) -> Result<(), Fault> {
    let now = edge::now();
    let offer = Offer::new(0, stage.fleet.tenant(), now, &mut edge::rng());
    let (rid, sender) = (offer.rid(), &agent.sender);
    let mut mail = agent.expect(rid);
    when_online(stage, sender, "open", || sender.open(rid, TTL)).await?;
    if login.measured {
        stage.recorder.took("open", login.shown);
    }
    let _ = screen.send((rid, offer.text()));
    let (n, tag) = mail.claimed().await?;
    let m1 = mail.forwarded().await?;
    let forward = |bytes: Vec<u8>| async move { sender.forward(rid, bytes).await.map_err(asked("forward")) };
    if login.handshake {
        let failed = |what: &'static str| move |_| Fault::Failed(what);
        let claimed = offer.claim(&n, &tag, edge::now()).map_err(failed("claim"))?;
        let (device, m2) = claimed.receive(&m1, identity, &mut edge::rng()).map_err(failed("M1"))?;
        forward(m2).await?;
        let device = device.receive(&mail.forwarded().await?, &stage.trust, edge::now()).map_err(failed("M3"))?;
        let context = question(stage, identity, device.device().terms().technician);
        let (decision, m4) = device.ask(context).map_err(failed("M4"))?;
        forward(m4).await?;
        let m5 = mail.forwarded().await?;
        let verdict = decision.receive(&m5, identity, &stage.trust, edge::now()).map_err(failed("M5"))?;
        let Verdict::Approved(approved) = verdict else { return Err(Fault::Failed("denied")) };
        let until = approved.until(edge::now());
        let grant = GrantId(edge::random());
        let (_open, m6) = approved.granted(grant, "gp-load".into(), until).map_err(failed("M6"))?;
        forward(m6).await?;
    } else {
        forward(vec![2; SIZES[1]]).await?;
        mail.forwarded().await?;
        forward(vec![4; SIZES[3]]).await?;
        mail.forwarded().await?;
        forward(vec![6; SIZES[5]]).await?;
    }
    mail.closed().await;
    Ok(())
}

async fn at_phone(
    stage: &Stage,
    phone: &PhoneMember,
    login: &Login,
    mut scan: watch::Receiver<bool>,
    seen: oneshot::Receiver<(Rid, String)>,
) -> Result<(), Fault> {
    scan.wait_for(|read| *read).await.map_err(|_| Fault::Failed("stopped"))?;
    // A QR that was not there in time is waited for, and the wait counts.
    let (rid, text) = seen.await.map_err(|_| Fault::Failed("stopped"))?;
    let (sender, identity) = (&phone.member.sender, &phone.phone.identity);
    let mut mail = phone.member.expect(rid);
    let scan = Scan::from_text(&text).map_err(|_| Fault::Failed("QR"))?;
    let (n, tag) = scan.claim(&mut edge::rng());
    when_online(stage, sender, "claim", || sender.claim(rid, n, tag)).await?;
    if login.measured {
        stage.recorder.took("claim", login.scanned);
    }
    let forward = |bytes: Vec<u8>| async move { sender.forward(rid, bytes).await.map_err(asked("forward")) };
    if login.handshake {
        let failed = |what: &'static str| move |_| Fault::Failed(what);
        let version = concat!("gatepass-loadtest ", env!("CARGO_PKG_VERSION"));
        let (agent, m1) = scan.start(version, &stage.trust, &mut edge::rng()).map_err(failed("M1"))?;
        forward(m1).await?;
        let m2 = mail.forwarded().await?;
        let (context, m3) = agent.receive(&m2, identity, &stage.trust, edge::now()).map_err(failed("M2"))?;
        forward(m3).await?;
        let asked = context.receive(&mail.forwarded().await?).map_err(failed("M4"))?;
        let (outcome, m5) =
            asked.approve(&chosen(), identity, &phone.phone.approve).map_err(|_| Fault::Failed("M5"))?;
        forward(m5).await?;
        let (result, _open) = outcome.receive(&mail.forwarded().await?).map_err(failed("M6"))?;
        let Outcome::Granted { .. } = result else { return Err(Fault::Failed("refused")) };
    } else {
        forward(vec![1; SIZES[0]]).await?;
        mail.forwarded().await?;
        forward(vec![3; SIZES[2]]).await?;
        mail.forwarded().await?;
        forward(vec![5; SIZES[4]]).await?;
        mail.forwarded().await?;
    }
    if login.measured {
        stage.recorder.took("pairing", login.scanned);
    }
    sender.end(rid).await.map_err(asked("close"))
}

impl Mail {
    async fn claimed(&mut self) -> Result<([u8; 16], [u8; 16]), Fault> {
        match self.receiver.recv().await {
            Some(Incoming::Claimed { nonce, tag, .. }) => Ok((nonce, tag)),
            other => Err(unexpected(other)),
        }
    }

    async fn forwarded(&mut self) -> Result<Bytes, Fault> {
        loop {
            match self.receiver.recv().await {
                Some(Incoming::Forwarded { bytes, .. }) => return Ok(bytes),
                // Said again to an agent that resumes before it had a message.
                Some(Incoming::Claimed { .. }) => {}
                other => return Err(unexpected(other)),
            }
        }
    }

    /// Until the other end has closed.
    async fn closed(&mut self) {
        while !matches!(self.receiver.recv().await, None | Some(Incoming::Closed { .. })) {}
    }
}

fn unexpected(incoming: Option<Incoming>) -> Fault {
    match incoming {
        Some(Incoming::Closed { code, .. }) => Fault::Lost(code),
        Some(_) => Fault::Failed("out of order"),
        None => Fault::Failed("stopped"),
    }
}

fn question(stage: &Stage, agent: &AgentIdentity, technician: TechnicianId) -> Context {
    let computer = agent.computer();
    let tags = [crate::fleet::TAG.to_owned()];
    let about =
        Question { technician, protection: KeyProtection::Software, computer, tags: &tags, scenario: Scenario::Ssh };
    let now = edge::now();
    Context {
        machine: MachineCard {
            computer,
            host: "load".into(),
            os: "Gatepass load test".into(),
            agent: concat!("gatepass-loadtest ", env!("CARGO_PKG_VERSION")).into(),
        },
        scenario: Scenario::Ssh,
        request: Request {
            service: "sshd".into(),
            user: "gp-load".into(),
            target: "gp-load".into(),
            from: "192.0.2.7".into(),
            tty: "ssh".into(),
            command: String::new(),
        },
        choices: stage.trust.policy().map(|policy| policy.terms().choices(&about)).unwrap_or_default(),
        accounts: vec![(AccountKind::Named, "gp-load".into())],
        default_minutes: MINUTES,
        nonce: edge::random(),
        time: now,
        expires: now + u64::from(TTL),
        policy_epoch: stage.trust.policy_epoch(),
        revocation_epoch: stage.trust.revocation_epoch(),
        audit_root: [0; 32],
    }
}

fn chosen() -> Chosen {
    Chosen {
        kind: AccountKind::Named,
        groups: vec!["sudo".into()],
        minutes: MINUTES,
        reason: String::new(),
        ticket: String::new(),
        verification: Verification::Pin,
    }
}
