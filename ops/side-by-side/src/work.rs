//! What is done by each subject in turn, and what is read off meanwhile. Processor time is the server's own, all of its processes
//! and threads; latency is measured by the clients.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hdrhistogram::Histogram;

use crate::{
    encrypted::Agents,
    net::{Heard, Net, What},
    process::{Usage, machine_busy},
    quiet::Awake,
    subject::{Role, Server, Stable, Subject, Wire},
};

/// Connections that are under way at once while many are made.
const AT_ONCE: usize = 64;
/// How long a server may be silent while something is due from it.
const SILENCE: Duration = Duration::from_secs(10);
/// Connections that are there before idle ones are counted: what a server needs for its first is not what each one takes.
const FIRST: usize = 100;

/// A piece of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Work {
    /// One speaks 20 times a second, 1,000 listen.
    #[value(name = "fanout-20")]
    Fanout20,
    /// 100 times a second.
    #[value(name = "fanout-100")]
    Fanout100,
    /// 300 times a second.
    #[value(name = "fanout-300")]
    Fanout300,
    /// 100 pairs, each asking again as soon as it was answered.
    #[value(name = "pair-100")]
    Pair100,
    /// One pair.
    #[value(name = "pair-1")]
    Pair1,
    /// 15,000 connections that listen and hear nothing.
    #[value(name = "idle-15000")]
    Idle,
    /// The same over TLS: our relay only.
    #[value(name = "idle-15000-tls")]
    IdleTls,
    /// Connections that come one after the other.
    #[value(name = "connect")]
    Connect,
    /// The same connections again, each with the ticket that it was given: our relay only.
    #[value(name = "connect-ticket")]
    ConnectTicket,
}

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// Who listen to a fan-out.
    pub(crate) subscribers: usize,
    /// How many pairs "100 pairs" are.
    pub(crate) pairs: usize,
    /// How many connections "15,000" are.
    pub(crate) idle: usize,
    /// How many connections come.
    pub(crate) visitors: usize,
    /// How long messages are sent and counted.
    pub(crate) measured: Duration,
    /// How long they are sent before that.
    pub(crate) warm_up: Duration,
}

/// What one subject did in one round.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub(crate) struct Measured {
    /// The server's processor time for each delivery, round trip or connection, in microseconds.
    pub(crate) cpu_us: Option<f64>,
    /// Deliveries, round trips or connections a second.
    pub(crate) per_s: Option<f64>,
    /// Median latency, in milliseconds.
    pub(crate) p50_ms: Option<f64>,
    /// 99th percentile, in milliseconds.
    pub(crate) p99_ms: Option<f64>,
    /// Resident memory for each connection, in KiB.
    pub(crate) rss_kib: Option<f64>,
    /// Of one processor: what the server used.
    pub(crate) server_share: Option<f64>,
    /// Of one processor: what the load used. Near 1, the load is what was measured.
    pub(crate) load_share: Option<f64>,
    /// Of one processor: what everybody else on the machine used.
    pub(crate) others_share: Option<f64>,
}

impl Work {
    /// All, in the order in which they are done.
    pub(crate) const ALL: [Self; 9] = [
        Self::Fanout20,
        Self::Fanout100,
        Self::Fanout300,
        Self::Pair100,
        Self::Pair1,
        Self::Idle,
        Self::IdleTls,
        Self::Connect,
        Self::ConnectTicket,
    ];

    /// Its name in files and arguments.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Fanout20 => "fanout-20",
            Self::Fanout100 => "fanout-100",
            Self::Fanout300 => "fanout-300",
            Self::Pair100 => "pair-100",
            Self::Pair1 => "pair-1",
            Self::Idle => "idle-15000",
            Self::IdleTls => "idle-15000-tls",
            Self::Connect => "connect",
            Self::ConnectTicket => "connect-ticket",
        }
    }

    /// Whether a subject knows how to do it.
    pub(crate) fn is_for(self, subject: Subject) -> bool {
        !matches!(self, Self::ConnectTicket | Self::IdleTls) || subject == Subject::Gatepass
    }

    /// Whether it is done where there is little time.
    pub(crate) fn is_quick(self) -> bool {
        self != Self::IdleTls
    }

    /// Does it once with a fresh server.
    pub(crate) fn run(self, subject: Subject, stable: &mut Stable, size: &Size) -> anyhow::Result<Measured> {
        let wire = if self == Self::IdleTls { Wire::Tls } else { Wire::Plain };
        let server = stable.start(subject, wire)?;
        let at = At { server: &server, awake: &stable.awake };
        let done = match self {
            Self::Fanout20 => fan_out(&at, size, 20),
            Self::Fanout100 => fan_out(&at, size, 100),
            Self::Fanout300 => fan_out(&at, size, 300),
            Self::Pair100 => pairs(&at, size, size.pairs),
            Self::Pair1 => pairs(&at, size, 1),
            Self::Idle => idle(&at, size),
            Self::IdleTls => idle_encrypted(&at, size),
            Self::Connect => connect(&at, size, Role::Visitor),
            Self::ConnectTicket => come_back(&at, size),
        };
        done.with_context(|| format!("{} by {subject} failed (its log: {})", self.name(), server.process.words()))
    }
}

/// Where work is done.
struct At<'a> {
    server: &'a Server,
    awake: &'a Awake,
}

/// Processor times at one moment.
struct Clocks {
    at: Instant,
    server: Usage,
    load: Usage,
    awake: Usage,
    machine: f64,
}

impl Clocks {
    fn read(at: &At) -> anyhow::Result<Self> {
        Ok(Self {
            at: Instant::now(),
            server: at.server.process.usage()?,
            load: Usage::own()?,
            awake: at.awake.usage()?,
            machine: machine_busy()?,
        })
    }

    /// What was used since, for this many of whatever was done.
    fn since(&self, before: &Self, done: u64) -> Measured {
        let wall = (self.at - before.at).as_secs_f64();
        let (server, load) = (self.server.since(&before.server), self.load.since(&before.load));
        let others = (self.machine - before.machine - server - load - self.awake.since(&before.awake)).max(0.0);
        Measured {
            cpu_us: Some(server * 1e6 / done as f64),
            server_share: Some(server / wall),
            load_share: Some(load / wall),
            others_share: Some(others / wall),
            ..Measured::default()
        }
    }
}

/// Latencies, to three digits, in units of 100 ns up to ten minutes.
struct Latencies(Histogram<u64>);

const UNIT: Duration = Duration::from_nanos(100);
const LONGEST: u64 = 10 * 60 * 10_000_000;

impl Latencies {
    fn new() -> anyhow::Result<Self> {
        Ok(Self(Histogram::new_with_max(LONGEST, 3)?))
    }

    fn record(&mut self, latency: Duration) {
        self.0.saturating_record((latency.as_nanos() / UNIT.as_nanos()) as u64);
    }

    fn into(self, measured: Measured) -> Measured {
        let ms = |quantile| Some(self.0.value_at_quantile(quantile) as f64 * UNIT.as_secs_f64() * 1e3);
        Measured { p50_ms: ms(0.5), p99_ms: ms(0.99), ..measured }
    }
}

/// Makes connections, some at a time, and waits until all are ready. How long each took.
fn join(net: &mut Net, server: &Server, roles: impl Iterator<Item = Role>) -> anyhow::Result<(Vec<usize>, Latencies)> {
    // The load's preparations (a certificate for each) are done before the first call.
    let mut speakers = roles.map(|role| server.speaker(role)).collect::<Vec<_>>().into_iter();
    join_as(net, &mut speakers)
}

fn join_as(
    net: &mut Net,
    speakers: &mut dyn ExactSizeIterator<Item = Box<dyn crate::net::Speaker>>,
) -> anyhow::Result<(Vec<usize>, Latencies)> {
    let (first, count) = (net.len(), speakers.len());
    let (mut begun, mut heard, mut latencies) = (Vec::with_capacity(count), Vec::new(), Latencies::new()?);
    let mut ready = 0;
    while ready < count {
        while begun.len() < count && begun.len() - ready < AT_ONCE {
            let Some(speaker) = speakers.next() else { break };
            begun.push(Instant::now());
            net.connect(speaker)?;
        }
        net.turn(SILENCE, &mut heard)?;
        if heard.is_empty() && begun.iter().rev().take(AT_ONCE).all(|begun| begun.elapsed() > SILENCE) {
            bail!("{ready} of {count} connections are ready, and the next is not after {} s", SILENCE.as_secs());
        }
        for Heard { line, at, what } in heard.drain(..) {
            if what == What::Ready {
                ready += 1;
                latencies.record(at - begun[line - first]);
            }
        }
    }
    Ok(((first..first + count).collect(), latencies))
}

/// One speaks at a rate, all others listen; each must hear each message once, in order.
fn fan_out(at: &At, size: &Size, per_second: u32) -> anyhow::Result<Measured> {
    let mut net = Net::to(at.server.address)?;
    join(&mut net, at.server, std::iter::repeat_n(Role::Subscriber, size.subscribers))?;
    let (publisher, _) = join(&mut net, at.server, std::iter::once(Role::Publisher))?;
    let mut fan = Fan { net, publisher: publisher[0], every: Duration::from_secs(1) / per_second, next: 0 };
    let count = |span: Duration| (span.as_secs_f64() * f64::from(per_second)).ceil() as u64;
    fan.send(count(size.warm_up))?;
    let before = Clocks::read(at)?;
    let (latencies, took) = fan.send(count(size.measured))?;
    let after = Clocks::read(at)?;
    let delivered = latencies.0.len();
    let measured = Measured { per_s: Some(delivered as f64 / took.as_secs_f64()), ..after.since(&before, delivered) };
    Ok(latencies.into(measured))
}

struct Fan {
    net: Net,
    publisher: usize,
    every: Duration,
    /// The number of the next message.
    next: u64,
}

impl Fan {
    /// Sends so many messages at their times, and waits until everybody has heard them all. Latency counts from when a message
    /// was to be sent, so that a load or a server that is late does not look fast.
    fn send(&mut self, count: u64) -> anyhow::Result<(Latencies, Duration)> {
        let subscribers = self.net.len() - 1;
        let (from, to) = (self.next, self.next + count);
        let mut expected = vec![from; subscribers];
        let (mut missing, mut latencies, mut heard) = (count * subscribers as u64, Latencies::new()?, Vec::new());
        let begin = Instant::now() + self.every;
        let due = |number: u64| begin + self.every * (number - from) as u32;
        let mut last = begin;
        while missing > 0 {
            while self.next < to && Instant::now() >= due(self.next) {
                self.net.say(self.publisher, self.next)?;
                self.next += 1;
            }
            let wait = if self.next < to { due(self.next).saturating_duration_since(Instant::now()) } else { SILENCE };
            self.net.turn(wait, &mut heard)?;
            let silent = last.max(due(self.next.max(from + 1) - 1)).elapsed();
            if heard.is_empty() && silent > SILENCE {
                bail!(
                    "{missing} of {} deliveries are missing after {} s of silence",
                    count * subscribers as u64,
                    silent.as_secs()
                );
            }
            for Heard { line, at, what } in heard.drain(..) {
                let What::Message(number) = what else { continue };
                if number != expected[line] {
                    bail!("subscriber {line} heard message {number} where {} was next", expected[line]);
                }
                expected[line] += 1;
                missing -= 1;
                latencies.record(at.saturating_duration_since(due(number)));
                last = at;
            }
        }
        Ok((latencies, last - begin))
    }
}

/// Pairs that go to and fro; each asks again when it was answered.
fn pairs(at: &At, size: &Size, pairs: usize) -> anyhow::Result<Measured> {
    let mut net = Net::to(at.server.address)?;
    // First those who answer: a phone can only claim what is open.
    join(&mut net, at.server, (0..pairs).map(Role::Answering))?;
    join(&mut net, at.server, (0..pairs).map(Role::Asking))?;
    let mut next = 0;
    to_and_fro(&mut net, pairs, &mut next, size.warm_up)?;
    let before = Clocks::read(at)?;
    let (latencies, took) = to_and_fro(&mut net, pairs, &mut next, size.measured)?;
    let after = Clocks::read(at)?;
    let trips = latencies.0.len();
    let measured = Measured { per_s: Some(trips as f64 / took.as_secs_f64()), ..after.since(&before, trips) };
    Ok(latencies.into(measured))
}

fn to_and_fro(net: &mut Net, pairs: usize, next: &mut u64, span: Duration) -> anyhow::Result<(Latencies, Duration)> {
    let (mut latencies, mut heard) = (Latencies::new()?, Vec::new());
    let begin = Instant::now();
    let mut asked = vec![(0, begin); pairs];
    for (pair, asked) in asked.iter_mut().enumerate() {
        *next += 1;
        *asked = (*next, Instant::now());
        net.say(pairs + pair, *next)?;
    }
    let (mut asking, mut last) = (pairs, begin);
    while asking > 0 {
        net.turn(SILENCE, &mut heard)?;
        if heard.is_empty() && last.elapsed() > SILENCE {
            bail!("{asking} of {pairs} pairs wait for a message for {} s", last.elapsed().as_secs());
        }
        for Heard { line, at, what } in heard.drain(..) {
            let What::Message(number) = what else { continue };
            last = at;
            let Some(pair) = line.checked_sub(pairs) else {
                net.say(line, number)?;
                continue;
            };
            let (expected, since) = asked[pair];
            if number != expected {
                bail!("pair {pair} was answered {number} where it asked {expected}");
            }
            latencies.record(at - since);
            if begin.elapsed() < span {
                *next += 1;
                asked[pair] = (*next, Instant::now());
                net.say(line, *next)?;
            } else {
                asking -= 1;
            }
        }
    }
    Ok((latencies, last - begin))
}

/// Connections that are there and hear nothing: what each adds to the server's memory.
fn idle(at: &At, size: &Size) -> anyhow::Result<Measured> {
    let mut net = Net::to(at.server.address)?;
    let first = FIRST.min(size.idle);
    join(&mut net, at.server, (0..first).map(Role::Idle))?;
    settle(&mut net)?;
    let before = at.server.process.resident_kib()?;
    join(&mut net, at.server, (first..first + size.idle).map(Role::Idle))?;
    settle(&mut net)?;
    let after = at.server.process.resident_kib()?;
    Ok(Measured { rss_kib: Some(after.saturating_sub(before) as f64 / size.idle as f64), ..Measured::default() })
}

fn idle_encrypted(at: &At, size: &Size) -> anyhow::Result<Measured> {
    let (mut agents, agent) = (Agents::new()?, at.server.agents()?);
    let first = FIRST.min(size.idle);
    agents.join((0..first).map(&agent))?;
    let before = at.server.process.resident_kib()?;
    agents.join((first..first + size.idle).map(&agent))?;
    let after = at.server.process.resident_kib()?;
    Ok(Measured { rss_kib: Some(after.saturating_sub(before) as f64 / size.idle as f64), ..Measured::default() })
}

/// A moment in which nothing is asked of the server.
fn settle(net: &mut Net) -> anyhow::Result<()> {
    let (begun, mut heard) = (Instant::now(), Vec::new());
    while let Some(left) = Duration::from_secs(1).checked_sub(begun.elapsed()) {
        net.turn(left, &mut heard)?;
    }
    Ok(())
}

/// Connections that come, some at a time: what each costs until it is ready.
fn connect(at: &At, size: &Size, role: fn(usize) -> Role) -> anyhow::Result<Measured> {
    let mut net = Net::to(at.server.address)?;
    let first = FIRST.min(size.visitors);
    join(&mut net, at.server, (0..first).map(role))?;
    let numbers = first..first + size.visitors;
    let mut speakers = numbers.map(|number| at.server.speaker(role(number))).collect::<Vec<_>>().into_iter();
    let before = Clocks::read(at)?;
    let (_, latencies) = join_as(&mut net, &mut speakers)?;
    let after = Clocks::read(at)?;
    let wall = (after.at - before.at).as_secs_f64();
    let measured = Measured { per_s: Some(size.visitors as f64 / wall), ..after.since(&before, size.visitors as u64) };
    Ok(latencies.into(measured))
}

/// Connections that were there before.
fn come_back(at: &At, size: &Size) -> anyhow::Result<Measured> {
    let mut net = Net::to(at.server.address)?;
    join(&mut net, at.server, (0..FIRST.min(size.visitors) + size.visitors).map(Role::Visitor))?;
    // Their tickets come behind their welcome.
    settle(&mut net)?;
    drop(net);
    // What it takes to forget those that are gone is not what it takes to let them in.
    settle(&mut Net::to(at.server.address)?)?;
    connect(at, size, Role::Returning)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn size() -> Size {
        let (measured, warm_up) = (Duration::from_secs(3), Duration::from_millis(500));
        Size { subscribers: 1_000, pairs: 100, idle: 15_000, visitors: 5_000, measured, warm_up }
    }

    #[test]
    fn percentiles_are_in_milliseconds() {
        let mut latencies = Latencies::new().unwrap();
        (1..=100).for_each(|ms| latencies.record(Duration::from_millis(ms)));
        let Measured { p50_ms: Some(p50), p99_ms: Some(p99), .. } = latencies.into(Measured::default()) else {
            panic!()
        };
        assert!((p50 - 50.0).abs() < 0.1 && (p99 - 99.0).abs() < 0.2, "{p50} {p99}");
    }

    #[test]
    fn a_work_has_one_name_everywhere() {
        use clap::ValueEnum as _;
        for work in Work::ALL {
            assert_eq!(Work::from_str(work.name(), false), Ok(work));
        }
        for subject in Subject::ALL {
            assert_eq!(Subject::from_str(subject.name(), false), Ok(subject));
        }
    }
}
