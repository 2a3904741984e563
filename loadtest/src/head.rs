//! What the head of the workers knows: what they measured, who was reached, what the server used; and the results of it all.

use std::collections::BTreeMap;

use gatepass_protocol::statement::Kind;

use crate::{
    Profile, Tenant,
    agenda::{List, lists},
    clock::Moment,
    crew::{Phase, Progress},
    measure::{LAG, Reached, Second, histogram, sparse},
    profile::Load,
    results::{Machine, Merged, Results, SCHEMA, Series, ServerUse},
    server::{self, Sample},
    tenant::TenantError,
    worker::Announcement,
};

/// The epochs that the next lists must have.
pub(crate) struct Epochs {
    policy: u64,
    revocation: u64,
}

impl Epochs {
    pub(crate) async fn now(tenant: &Tenant) -> Result<Self, TenantError> {
        let trust = tenant.statements().await?;
        Ok(Self { policy: trust.policy_epoch() + 1, revocation: trust.revocation_epoch() + 1 })
    }
}

/// What is known so far.
pub(crate) struct Head {
    profile: Profile,
    pub(crate) zero: Moment,
    /// When the load began.
    pub(crate) load: Option<Moment>,
    merged: Merged,
    failures: BTreeMap<String, u64>,
    announcements: Vec<Announcement>,
    reached: BTreeMap<u64, Reached>,
    /// Clients online and processor seconds, by worker.
    workers: BTreeMap<u32, (i64, f64)>,
    online: Vec<(f64, i64)>,
    servers: Vec<u32>,
    /// Before the first client came.
    before: Option<Sample>,
    samples: Vec<Sample>,
    /// Processor time when the load began: the machine's, the tester's, the server's.
    spent: [f64; 3],
}

impl Head {
    pub(crate) fn new(profile: &Profile, servers: Vec<u32>) -> Self {
        Self {
            profile: profile.clone(),
            zero: Moment::now(),
            load: None,
            merged: Merged::default(),
            failures: BTreeMap::new(),
            announcements: vec![],
            reached: BTreeMap::new(),
            workers: BTreeMap::new(),
            online: vec![],
            servers,
            before: None,
            samples: vec![],
            spent: [0.0; 3],
        }
    }

    /// Processor time so far: the machine's, the tester's, the server's.
    fn spent(&self) -> [f64; 3] {
        let tester = self.workers.values().map(|(_, cpu)| cpu).sum();
        let server = server::sample(&self.servers, 0.0).map_or(0.0, |sample| sample.cpu_seconds);
        [server::machine_seconds().unwrap_or_default(), tester, server]
    }

    /// Time begins.
    pub(crate) fn begin(&mut self) {
        self.zero = Moment::now();
        self.online.clear();
        self.samples.clear();
        self.before = server::sample(&self.servers, 0.0);
        self.samples.extend(self.before);
    }

    /// The load begins at this moment.
    pub(crate) fn go(&mut self, at: Moment, next: &Epochs) -> Vec<Announcement> {
        (self.load, self.spent) = (Some(at), self.spent());
        let (mut policies, mut revocations) = (next.policy.., next.revocation..);
        let mut take = |list| match list {
            List::Policy => (Kind::Policy, policies.next().unwrap_or_default()),
            List::Revocation => (Kind::Revocation, revocations.next().unwrap_or_default()),
        };
        let announcement = |(number, (offset, list))| {
            let (kind, epoch) = take(list);
            Announcement { number: number as u64, kind, epoch, at: at + offset }
        };
        self.announcements = lists(&self.profile).into_iter().enumerate().map(announcement).collect();
        self.announcements.clone()
    }

    fn s(&self) -> f64 {
        Moment::now().since(self.zero).as_secs_f64()
    }

    pub(crate) fn tick(&mut self, worker: u32, seconds: BTreeMap<u32, Second>, online: i64, cpu: f64) {
        self.workers.insert(worker, (online, cpu));
        seconds.into_iter().for_each(|(second, part)| self.merged.add(second, part));
    }

    /// Once a second.
    pub(crate) fn watch(&mut self) {
        let s = self.s();
        self.online.push((s, self.workers.values().map(|(online, _)| online).sum()));
        self.look_at_server();
    }

    fn look_at_server(&mut self) {
        self.samples.extend(server::sample(&self.servers, self.s()));
    }

    pub(crate) fn failed(&mut self, kind: String) {
        *self.failures.entry(kind).or_default() += 1;
    }

    pub(crate) fn reached(&mut self, reached: BTreeMap<u64, Reached>) {
        for (number, one) in reached {
            let all = self.reached.entry(number).or_default();
            all.clients += one.clients;
            all.last = all.last.max(one.last);
        }
    }

    pub(crate) fn progress(&self, phase: Phase) -> Progress {
        let s = self.s();
        let name = if self.load.is_some() { self.profile.series()[0] } else { "connect" };
        let cpu = |pair: &[Sample]| (pair[1].cpu_seconds - pair[0].cpu_seconds) / (pair[1].s - pair[0].s) * 100.0;
        let server =
            self.samples.last().map(|last| (last.rss_kib, self.samples.windows(2).next_back().map_or(0.0, cpu)));
        let errors: u64 = self.merged.errors().values().sum();
        Progress {
            phase,
            s,
            of: self.load.map(|load| load.since(self.zero).as_secs_f64() + self.profile.seconds()),
            online: self.online.last().map_or(0, |(_, online)| *online),
            // The second before this one is the latest that is over.
            latest: self.merged.latest(name, (s as u32).saturating_sub(1)).map(|latest| (name, latest)),
            errors: errors + self.failures.values().sum::<u64>(),
            server,
        }
    }

    pub(crate) fn results(mut self, started: u64, target: String, workers: u32, interrupted: bool) -> Results {
        let seconds = self.s();
        self.look_at_server();
        self.look_who_was_missed(interrupted);
        let load_from = self.load.map_or(seconds, |load| load.since(self.zero).as_secs_f64());
        let measured = match &self.profile.load {
            Load::Pairings(load) if !interrupted => Some(load.seconds),
            Load::Messages(load) if !interrupted => Some(load.seconds),
            Load::Fanout(load) if !interrupted => Some(load.seconds),
            _ => None,
        };
        let during_load = ["pairing", "claim", "open", "message", "delivery", "publish"];
        let mut series: BTreeMap<String, Series> = BTreeMap::new();
        for name in self.merged.names().into_iter().filter(|name| name != LAG) {
            let over = measured.filter(|_| during_load.contains(&name.as_str()));
            series.insert(name.clone(), self.merged.series(&name, over));
        }
        series.extend(self.last_of_each());
        let mut errors = self.merged.errors();
        self.failures.iter().for_each(|(kind, times)| *errors.entry(kind.clone()).or_default() += times);
        let limits = self.profile.limits.clone();
        let mut results = Results {
            schema: SCHEMA.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            started,
            seconds,
            load_from,
            interrupted,
            target,
            workers,
            machine: Machine::this(),
            series,
            lag: self.merged.series(LAG, None),
            counts: self.merged.counts(),
            errors,
            errors_over_time: self.merged.errors_over_time(),
            retries: self.merged.retries(),
            server: self.server_use(load_from),
            others_cpu_percent: self.others(),
            tester_cpu_seconds: self.workers.values().map(|(_, cpu)| cpu).sum(),
            limits: vec![],
            online: self.online,
            profile: self.profile,
        };
        results.judge(&limits);
        results
    }

    /// What others used of this machine during the load, in percent of all processors.
    fn others(&self) -> f64 {
        let Some(load) = self.load else { return 0.0 };
        let [machine, tester, server] = [0, 1, 2].map(|who| self.spent()[who] - self.spent[who]);
        let all = Moment::now().since(load).as_secs_f64() * f64::from(Machine::this().cpus);
        ((machine - tester - server) / all.max(0.1) * 100.0).clamp(0.0, 100.0)
    }

    /// What was sent and came to nobody is an error like any other.
    fn look_who_was_missed(&mut self, interrupted: bool) {
        let counts = self.merged.counts();
        let count = |what: &str| counts.get(what).copied().unwrap_or_default();
        let lost = count("handed over").saturating_sub(count("delivered"));
        if interrupted {
            return;
        }
        if lost > 0 {
            self.failures.insert("delivery: lost".into(), lost);
        }
        if let Load::Revocation(_) = self.profile.load {
            let online_at = |at: Moment| {
                let s = at.since(self.zero).as_secs_f64();
                self.online.iter().take_while(|(then, _)| *then <= s).last().map_or(0, |(_, online)| *online)
            };
            let missed = |one: &Announcement| {
                let reached = self.reached.get(&one.number).map_or(0, |reached| reached.clients);
                online_at(one.at).max(0).cast_unsigned().saturating_sub(reached)
            };
            let missed: u64 = self.announcements.iter().map(missed).sum();
            if missed > 0 {
                self.failures.insert("revocation: not heard".into(), missed);
            }
        }
    }

    /// How long each list took to its last listener.
    fn last_of_each(&self) -> Option<(String, Series)> {
        let mut merged = Merged::default();
        for announcement in &self.announcements {
            let Some(reached) = self.reached.get(&announcement.number) else { continue };
            let mut one = histogram();
            one.saturating_record(reached.last.max(1));
            let series = BTreeMap::from([("last".to_owned(), sparse(&one))]);
            let second = announcement.at.since(self.zero).as_secs() as u32;
            merged.add(second, Second { series, ..Second::default() });
        }
        (!self.reached.is_empty()).then(|| ("last".to_owned(), merged.series("last", None)))
    }

    fn server_use(&self, load_from: f64) -> Option<ServerUse> {
        let (pid, before) = (*self.servers.first()?, self.before?);
        let (last, highest) = (self.samples.last()?, self.samples.iter().map(|sample| sample.rss_kib).max()?);
        let connected = self.samples.iter().take_while(|sample| sample.s <= load_from).last().unwrap_or(&before);
        let clients = self.online.iter().take_while(|(s, _)| *s <= load_from).last().map_or(0, |(_, online)| *online);
        let busy = (last.cpu_seconds - connected.cpu_seconds) / (last.s - connected.s).max(0.001) * 100.0;
        Some(ServerUse {
            processes: self.servers.clone(),
            name: server::name(pid).unwrap_or_default(),
            cpu_percent: busy,
            rss_before_kib: before.rss_kib,
            rss_connected_kib: connected.rss_kib,
            rss_highest_kib: highest,
            rss_after_kib: last.rss_kib,
            kib_per_client: if clients > 0 {
                connected.rss_kib.saturating_sub(before.rss_kib) as f64 / clients as f64
            } else {
                0.0
            },
            samples: self.samples.clone(),
        })
    }
}
