//! `siege`: the same load in peace, beside each kind of attack, and in peace again.

use std::{
    future::pending,
    io::{self, Read as _, Write as _},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum as _;
use gatepass_client::edge;
use gatepass_loadtest::{
    attack::{self, Attack, Plan, Tally},
    crew::{self, Phase, Setup},
    results::Results,
    summary::{kib, ms, number},
};
use gatepass_protocol::api::Base64;
use rustix::process::nice;
use serde::Serialize;

use crate::{LIMIT, arguments::Siege, prepare, say, terminal::Live, write};

/// Longer than any load: an attack ends when its round does.
const UNTIL_STOPPED: f64 = 86_400.0;

/// What a round came to.
#[derive(Debug, Serialize)]
struct Round {
    attack: Option<Attack>,
    p50_ms: f64,
    p99_ms: f64,
    /// The 99th percentile, in times that of the first round.
    times: f64,
    errors: u64,
    rss_highest_kib: Option<u64>,
    server_cpu_percent: Option<f64>,
    did: Option<Tally>,
}

/// The attackers' process. It is told to end by the end of its standard input.
struct Attackers(Child);

impl Attackers {
    fn start(plan: &Plan) -> Result<Self> {
        let program = std::env::current_exe().context("can't find this program")?;
        let mut child = Command::new(program).arg("attack").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = serde_json::to_string(plan)?;
        line.push('\n');
        child.stdin.as_mut().context("no pipe to the attackers")?.write_all(line.as_bytes())?;
        Ok(Self(child))
    }

    /// Ends the attack; what they did.
    fn stop(mut self) -> Result<Tally> {
        drop(self.0.stdin.take());
        let mut said = String::new();
        self.0.stdout.take().context("no pipe from the attackers")?.read_to_string(&mut said)?;
        self.0.wait()?;
        serde_json::from_str(&said).context("the attackers ended early")
    }
}

impl Drop for Attackers {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The attackers' process, from inside.
pub(crate) async fn attacker() -> Result<()> {
    // What they cost the machine is not to be what the others suffer from.
    let _ = nice(19);
    let mut lines = io::BufRead::lines(io::BufReader::new(io::stdin()));
    let plan: Plan = serde_json::from_str(&lines.next().context("no plan")??)?;
    let (stop, stopped) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = lines.next();
        let _ = stop.send(());
    });
    let tally = attack::attack(plan, async { drop(stopped.await) }).await?;
    say(&serde_json::to_string(&tally)?)
}

pub(crate) async fn run(siege: Siege) -> Result<u8> {
    let kinds = if siege.only.is_empty() { Attack::value_variants() } else { &siege.only };
    if let Some(relay) = prepare(&siege.run)?.relays.iter().find(|relay| relay.is_secure()) {
        bail!(
            "attackers speak no TLS, and {} does: give one with `tls.mode = \"off\"`, as in --relay ws://localhost:8080",
            relay.authority()
        );
    }
    if siege.run.html.is_some() {
        bail!("a siege has no page to write: leave --html away; --json has its figures");
    }
    let rounds = [None].into_iter().chain(kinds.iter().copied().map(Some)).chain([None]);
    say(&format!(
        "{:<14} {:>9} {:>9} {:>6} {:>7} {:>11} {:>7}  {}",
        "attack", "p50", "p99", "times", "errors", "memory", "CPU", "the attackers"
    ))?;
    let mut all: Vec<Round> = vec![];
    for attack in rounds {
        let (results, did) = round(prepare(&siege.run)?, attack).await?;
        let what = results.profile.series()[0];
        let Some(series) = results.series.get(what) else { bail!("nothing was measured of {what}") };
        let server = results.server.as_ref();
        let round = Round {
            attack,
            p50_ms: series.p50_ms,
            p99_ms: series.p99_ms,
            times: series.p99_ms / all.first().map_or(series.p99_ms, |first| first.p99_ms),
            errors: results.errors.values().sum(),
            rss_highest_kib: server.map(|server| server.rss_highest_kib),
            server_cpu_percent: server.map(|server| server.cpu_percent),
            did,
        };
        say(&line(&round))?;
        all.push(round);
    }
    if let Some(path) = &siege.run.json {
        write(path, &serde_json::to_string(&all)?)?;
    }
    let held = all.iter().all(|round| round.times <= siege.times && round.errors == 0);
    if !held {
        writeln!(io::stderr(), "gatepass-loadtest: the others suffered: more than {} times, or errors", siege.times)?;
    }
    Ok(if held { 0 } else { LIMIT })
}

async fn round(setup: Setup, attack: Option<Attack>) -> Result<(Results, Option<Tally>)> {
    let plan = match attack {
        None => None,
        Some(attack) => {
            let relay = setup.relays.first().context("no relay")?;
            Some(Plan {
                attack,
                relay: format!("ws://{}", relay.authority()),
                tenant: setup.tenant.id(),
                ca: Base64(setup.tenant.ca_seed().to_vec().into()),
                now: edge::now(),
                epoch: setup.tenant.statements().await?.revocation_epoch(),
                seconds: UNTIL_STOPPED,
            })
        }
    };
    let mut live = Live::new(setup.profile.kind());
    let mut attackers = None;
    let ran = crew::run(
        setup,
        |progress| {
            if let (Phase::Load, Some(plan), None) = (progress.phase, &plan, &attackers) {
                attackers = Some(Attackers::start(plan));
            }
            live.show(progress);
        },
        pending(),
    )
    .await;
    live.end();
    let did = match attackers {
        Some(attackers) => Some(attackers?.stop()?),
        None => None,
    };
    Ok((ran?, did))
}

fn line(round: &Round) -> String {
    let did = round.did.map_or(String::new(), |did| {
        format!("{} sockets, {} closed, {} sent", number(did.sockets), number(did.closed), kib(did.bytes / 1024))
    });
    format!(
        "{:<14} {:>9} {:>9} {:>6.2} {:>7} {:>11} {:>7}  {did}",
        round.attack.map_or_else(|| "none".to_owned(), Attack::name),
        ms(round.p50_ms),
        ms(round.p99_ms),
        round.times,
        number(round.errors),
        round.rss_highest_kib.map_or_else(|| "?".to_owned(), kib),
        round.server_cpu_percent.map_or_else(|| "?".to_owned(), |cpu| format!("{cpu:.0} %")),
    )
    .trim_end()
    .to_owned()
}
