//! The workers, from above: starts them, in this process or in ones of their own, keeps them in step, and puts lists in force.
//! What they report goes to the [`Head`].

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::Stdio,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use gatepass_client::{Endpoint, EndpointError, edge};
use gatepass_protocol::{api::Base64, statement::Kind};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::mpsc,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use zeroize::Zeroizing;

use crate::{
    Profile, Tenant,
    clock::{Moment, Pacer},
    head::{Epochs, Head},
    profile::Load,
    results::{Results, Series},
    schedule::Share,
    tenant::TenantError,
    worker::{Announcement, Order, Plan, Report, work},
};

/// Time for orders to reach every worker before what they order is due.
const HEADSTART: Duration = Duration::from_millis(500);
/// How long workers may take for their last words after a stop.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// Clients of one process: one may open 20,000 files at most on many machines, and needs some for itself.
pub const CLIENTS_PER_WORKER: u32 = 15_000;

/// What a run needs.
pub struct Setup {
    /// The load.
    pub profile: Profile,
    /// The relays, `wss://host[:port]` or `ws://`, at least one; clients are spread over them.
    pub relays: Vec<Endpoint>,
    /// The server's certificate, PEM, where no public CA vouches for it.
    pub tls_pem: Option<String>,
    /// Who signs.
    pub tenant: Tenant,
    /// How many workers.
    pub workers: u32,
    /// Where they run.
    pub hands: Hands,
    /// The server's processes on this machine.
    pub servers: Vec<u32>,
}

/// Where workers run.
#[derive(Debug, Clone)]
pub enum Hands {
    /// In this process, on the runtime of whoever asks: for few clients, and for tests.
    Here,
    /// Each in a process of its own: this program, which has a `worker` command.
    Processes(PathBuf),
}

/// Why there are no results.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A worker did not start.
    #[error("a worker process can't be started: {0}")]
    Start(#[from] io::Error),
    /// A worker gave up.
    #[error("worker {worker}: {text}")]
    Worker {
        /// Which, from 0.
        worker: usize,
        /// Why.
        text: String,
    },
    /// The control plane refused or was not reached.
    #[error(transparent)]
    Tenant(#[from] TenantError),
    /// The relay's address makes no sense.
    #[error(transparent)]
    Address(#[from] EndpointError),
}

/// What happens now, once a second.
#[derive(Debug, Clone)]
pub struct Progress {
    /// In which part of the test we are.
    pub phase: Phase,
    /// Seconds since it began.
    pub s: f64,
    /// Seconds that it will take, once that is known.
    pub of: Option<f64>,
    /// Clients online.
    pub online: i64,
    /// The latencies of the last second that has some, with their name.
    pub latest: Option<(&'static str, Series)>,
    /// What failed for good, so far.
    pub errors: u64,
    /// The server's memory in KiB, and its processor time in percent of a core.
    pub server: Option<(u64, f64)>,
}

/// A part of a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Identities are minted.
    Preparing,
    /// Clients connect.
    Connecting,
    /// The load.
    Load,
    /// Somebody stopped it.
    Stopping,
}

/// Runs a load test to its end, or until `stop`: then with what was measured so far. `tell` hears of it once a second.
pub async fn run(
    setup: Setup,
    mut tell: impl FnMut(&Progress),
    stop: impl Future<Output = ()>,
) -> Result<Results, RunError> {
    let Setup { profile, relays, tls_pem, tenant, workers, hands, servers } = setup;
    let (started, tenant) = (edge::now(), Arc::new(tenant));
    let trust = tenant.statements().await?;
    let target = |relay: &Endpoint| {
        let scheme = if relay.is_secure() { "wss" } else { "ws" };
        format!("{scheme}://{}", relay.authority())
    };
    let targets: Vec<String> = relays.iter().map(target).collect();
    let plan = |index| Plan {
        profile: profile.clone(),
        share: Share { index, of: workers },
        relays: targets.clone(),
        tls_pem: tls_pem.clone(),
        tenant: tenant.id(),
        ca: Base64(tenant.ca_seed().to_vec().into()),
        now: started,
        epoch: trust.revocation_epoch(),
        // Only loopback has addresses to spare, and only in IPv4.
        spread: relays.iter().all(|relay| relay.is_loopback() && relay.host() != "::1"),
    };
    let (reports_in, mut reports) = mpsc::channel(1_024);
    let mut crew = Crew::default();
    for index in 0..workers {
        crew.start(&hands, &plan(index), reports_in.clone()).await?;
    }
    drop(reports_in);

    let mut head = Head::new(&profile, servers);
    let mut announcing = JoinSet::new();
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (mut prepared, mut ready, mut done) = (0, 0, 0);
    let mut stopped_at: Option<Instant> = None;
    tokio::pin!(stop);
    while done < workers {
        tokio::select! {
            report = reports.recv() => match report {
                Some((_, Report::Prepared)) => {
                    prepared += 1;
                    if prepared == workers && stopped_at.is_none() {
                        head.begin();
                        crew.all(&Order::Connect { zero: head.zero }).await;
                    }
                }
                Some((_, Report::Ready)) => {
                    ready += 1;
                    if ready == workers && stopped_at.is_none() {
                        let next = Epochs::now(&tenant).await?;
                        let at = Moment::now() + HEADSTART;
                        let announcements = head.go(at, &next);
                        crew.all(&Order::Go { at, announcements: announcements.clone() }).await;
                        announcing.spawn(announce(tenant.clone(), profile.clone(), announcements));
                    }
                }
                Some((_, Report::Tick { seconds, online, cpu, worker })) => head.tick(worker, seconds, online, cpu),
                Some((_, Report::Done { reached })) => {
                    done += 1;
                    head.reached(reached);
                }
                Some((worker, Report::Problem { text })) => return Err(RunError::Worker { worker, text }),
                None => break,
            },
            _ = seconds.tick() => {
                head.watch();
                let phase = match (stopped_at, prepared == workers, head.load) {
                    (Some(_), ..) => Phase::Stopping,
                    (_, false, _) => Phase::Preparing,
                    (.., None) => Phase::Connecting,
                    (.., Some(_)) => Phase::Load,
                };
                tell(&head.progress(phase));
                if stopped_at.is_some_and(|at| at.elapsed() > LAST_WORDS) {
                    break;
                }
            }
            () = &mut stop, if stopped_at.is_none() => {
                stopped_at = Some(Instant::now());
                crew.all(&Order::Stop).await;
            }
        }
    }
    if stopped_at.is_some() {
        announcing.abort_all();
    }
    while let Some(announced) = announcing.join_next().await {
        announced.unwrap_or_default().into_iter().for_each(|failure| head.failed(failure));
    }
    Ok(head.results(started, targets.join(" "), workers, stopped_at.is_some()))
}

/// The workers. They end with it.
#[derive(Default)]
struct Crew {
    orders: Vec<mpsc::Sender<Order>>,
    tasks: JoinSet<()>,
}

impl Crew {
    async fn start(
        &mut self,
        hands: &Hands,
        plan: &Plan,
        reports: mpsc::Sender<(usize, Report)>,
    ) -> Result<(), RunError> {
        let worker = self.orders.len();
        let (orders, orders_out) = mpsc::channel(4);
        self.orders.push(orders);
        match hands {
            Hands::Here => {
                let (reports_in, mut reports_out) = mpsc::channel(64);
                let plan = plan.clone();
                self.tasks.spawn(async move { drop(work(plan, orders_out, reports_in).await) });
                self.tasks.spawn(async move {
                    while let Some(report) = reports_out.recv().await {
                        let _ = reports.send((worker, report)).await;
                    }
                });
            }
            Hands::Processes(program) => {
                let mut command = Command::new(program);
                // A group of its own: Ctrl-C in the terminal is for the head, which stops its workers in order.
                command.arg("worker").stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0).kill_on_drop(true);
                let mut child = command.spawn()?;
                let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
                let (Some(mut stdin), Some(stdout)) = (stdin, stdout) else {
                    return Err(io::Error::other("a pipe is missing").into());
                };
                let line = Zeroizing::new(json(plan));
                stdin.write_all(line.as_bytes()).await?;
                self.tasks.spawn(give(stdin, orders_out));
                self.tasks.spawn(hear(child, stdout, worker, reports));
            }
        }
        Ok(())
    }

    async fn all(&self, order: &Order) {
        for orders in &self.orders {
            // A worker that is gone reports so itself.
            let _ = orders.send(order.clone()).await;
        }
    }
}

fn json(message: &impl serde::Serialize) -> String {
    let mut line = serde_json::to_string(message).unwrap_or_else(|error| unreachable!("{error}"));
    line.push('\n');
    line
}

async fn give(mut stdin: ChildStdin, mut orders: mpsc::Receiver<Order>) {
    while let Some(order) = orders.recv().await {
        if stdin.write_all(json(&order).as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn hear(mut child: Child, stdout: ChildStdout, worker: usize, reports: mpsc::Sender<(usize, Report)>) {
    let mut lines = BufReader::new(stdout).lines();
    let mut done = false;
    while let Ok(Some(line)) = lines.next_line().await {
        let report = serde_json::from_str(&line)
            .unwrap_or_else(|error| Report::Problem { text: format!("it does not speak as a worker does: {error}") });
        done |= matches!(report, Report::Done { .. });
        let _ = reports.send((worker, report)).await;
    }
    let ended = child.wait().await;
    if !done {
        let text = ended.map_or_else(|error| error.to_string(), |status| format!("it ended early ({status})"));
        let _ = reports.send((worker, Report::Problem { text })).await;
    }
}

/// A worker process: its plan and orders come on standard input, its reports go to standard output.
pub async fn worker_process() -> Result<(), RunError> {
    let mut lines = io::BufRead::lines(io::BufReader::new(io::stdin()));
    let plan = Zeroizing::new(lines.next().transpose()?.unwrap_or_default());
    let plan: Plan = serde_json::from_str(&plan).map_err(io::Error::from)?;
    let (orders, orders_out) = mpsc::channel(4);
    let (reports, mut reports_out) = mpsc::channel::<Report>(64);
    // Where the head is gone, this ends, and with it the channel, which stops the worker.
    thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let Ok(order) = serde_json::from_str(&line) else { return };
            if orders.blocking_send(order).is_err() {
                return;
            }
        }
    });
    let says = thread::spawn(move || {
        let mut stdout = io::stdout().lock();
        while let Some(report) = reports_out.blocking_recv() {
            stdout.write_all(json(&report).as_bytes())?;
            stdout.flush()?;
        }
        Ok::<_, io::Error>(())
    });
    // What went wrong has been reported.
    let _ = work(plan, orders_out, reports).await;
    says.join().unwrap_or_else(|_| Err(io::Error::other("the thread that reports has ended")))?;
    Ok(())
}

/// Puts each list in force when it is due; says what failed.
async fn announce(tenant: Arc<Tenant>, profile: Profile, announcements: Vec<Announcement>) -> Vec<String> {
    let entries = if let Load::Revocation(load) = &profile.load { load.entries } else { 1 };
    let fleet = tenant.fleet(profile.seed);
    let list = |announcement: &Announcement| match announcement.kind {
        Kind::Policy => fleet.policy(announcement.epoch),
        _ => fleet.revocation(announcement.epoch, (0..entries).map(|n| fleet.nobody(n)).collect()),
    };
    let signed: Vec<_> = announcements.iter().map(|announcement| (announcement.at, list(announcement))).collect();
    let Ok(mut pacer) = Pacer::new() else { return vec!["announce: no timer".into()] };
    let mut submitting = JoinSet::new();
    for (at, list) in signed {
        if pacer.until(at).await.is_err() {
            return vec!["announce: no timer".into()];
        }
        let tenant = tenant.clone();
        submitting.spawn(async move { tenant.submit(&list).await.err().map(|error| format!("announce: {error}")) });
    }
    submitting.join_all().await.into_iter().flatten().collect()
}
