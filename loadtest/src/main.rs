//! `gatepass-loadtest`: puts a stated load on a relay and says how it did.
#![forbid(unsafe_code)]

mod arguments;
mod siege;
mod terminal;

use std::{
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use clap::Parser as _;
use gatepass_client::Endpoint;
use gatepass_loadtest::{
    Profile, Tenant,
    compare::{self, Comparison},
    crew::{self, CLIENTS_PER_WORKER, Hands, Setup},
    limits::Limit,
    profile::SHIPPED,
    report,
    results::Results,
    server, summary, tenant,
};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    arguments::{Arguments, Command, Run},
    terminal::Live,
};

/// A limit was broken.
const LIMIT: u8 = 1;
/// It did not come to results.
const FAILED: u8 = 2;
/// Somebody stopped it: 128 and the number of the signal, as shells have it.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    match start(Arguments::parse()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            // Where standard error is gone, nobody can be told.
            let _ = writeln!(io::stderr(), "gatepass-loadtest: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn start(Arguments { command, compare, html }: Arguments) -> Result<u8> {
    match (command, compare.as_deref()) {
        (Some(Command::Run(run)), None) => runtime()?.block_on(load_test(*run)),
        (Some(Command::Siege(siege)), None) => runtime()?.block_on(siege::run(*siege)),
        (Some(Command::Tenant(new)), None) => runtime()?.block_on(make_tenant(&new)),
        (Some(Command::Report { results, html }), None) => {
            write(&html, &report::page(&read(&results)?))?;
            Ok(0)
        }
        (Some(Command::Profiles { name }), None) => profiles(name.as_deref()),
        (Some(Command::Worker), None) => {
            raise_open_files()?;
            runtime()?.block_on(crew::worker_process())?;
            Ok(0)
        }
        (Some(Command::Attack), None) => {
            raise_open_files()?;
            runtime()?.block_on(siege::attacker())?;
            Ok(0)
        }
        (None, Some([before, after])) => side_by_side(before, after, html.as_deref()),
        _ => bail!("nothing to do: see gatepass-loadtest --help"),
    }
}

/// One thread: a worker is one, the head does little, and the server needs the processor more.
fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

fn say(text: &str) -> Result<()> {
    Ok(writeln!(io::stdout(), "{text}")?)
}

fn read(path: &Path) -> Result<Results> {
    let text = std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
    Results::parse(&text).with_context(|| path.display().to_string())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("can't write {}", path.display()))
}

fn profiles(name: Option<&str>) -> Result<u8> {
    match name {
        None => {
            for (name, text) in SHIPPED {
                let told: Vec<&str> = text.lines().take_while(|line| !line.starts_with("# Each key")).collect();
                let told = told.join(" ").replace("# ", "");
                say(&format!(
                    "{}\n",
                    told.strip_prefix(&format!("{name}: ")).map_or(told.clone(), |rest| format!("{name}\n  {rest}"))
                ))?;
            }
            say("'gatepass-loadtest profiles NAME' prints one, to start your own from.")?;
        }
        Some(name) => match SHIPPED.iter().find(|(shipped, _)| *shipped == name) {
            Some((_, text)) => say(text.trim_end())?,
            None => {
                bail!("there is no shipped profile {name:?}; there are {}", SHIPPED.map(|(name, _)| name).join(", "))
            }
        },
    }
    Ok(0)
}

fn side_by_side(before: &Path, after: &Path, html: Option<&Path>) -> Result<u8> {
    let (one, other) = (read(before)?, read(after)?);
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let comparison = Comparison::of(&one, &other, [&name(before), &name(after)]);
    say(compare::text(&comparison).trim_end())?;
    if let Some(html) = html {
        write(html, &compare::page(&comparison, &one, &other))?;
    }
    Ok(0)
}

async fn make_tenant(new: &arguments::NewTenant) -> Result<u8> {
    let server = tenant::Server {
        url: new.server.clone(),
        operator_token: new.operator_token_file.clone(),
        server_ca: new.server_ca.clone(),
    };
    let made = Tenant::create(&server, &new.name, &new.folder).await?;
    let folder = new.folder.display();
    say(&format!(
        "tenant \"{}\" ({}) and its CA key are in {folder}\nnext: gatepass-loadtest run pairings --tenant {folder}",
        new.name,
        made.id()
    ))?;
    Ok(0)
}

/// What a run needs, as the command line says.
fn prepare(run: &Run) -> Result<Setup> {
    let mut profile =
        Profile::load(&run.profile, &run.changes()).with_context(|| format!("the profile {}", run.profile))?;
    for limit in &run.limits {
        let limit = Limit::parse(limit, profile.series())?;
        // The last word about a metric counts.
        profile.limits.retain(|other| other.metric != limit.metric);
        profile.limits.push(limit);
    }
    let tenant = Tenant::open(&run.tenant)
        .with_context(|| "no tenant to test with; 'gatepass-loadtest tenant' makes one at a server of yours")?;
    let control: Endpoint = tenant.url().parse()?;
    let mut relays: Vec<Endpoint> = run.relays.iter().map(|relay| relay.parse()).collect::<Result<_, _>>()?;
    if relays.is_empty() {
        relays.push(control.clone());
    }
    for target in relays.iter().chain([&control]) {
        run.allows(target)?;
    }
    let tls_pem = match run.server_ca.as_deref().or(tenant.server_ca()) {
        Some(path) => Some(std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?),
        None => None,
    };
    let workers = run.workers(&profile)?;
    if let Some(pid) = run.server_pids.iter().find(|pid| server::sample(&[**pid], 0.0).is_none()) {
        bail!("there is no process {pid} (--server-pid)");
    }
    let servers = match run.server_pids.as_slice() {
        [] if relays.iter().all(Endpoint::is_loopback) => {
            relays.iter().filter_map(|relay| server::listening_on(relay.port())).collect()
        }
        given => given.to_vec(),
    };
    let hands = Hands::Processes(std::env::current_exe().context("can't find this program")?);
    Ok(Setup { profile, relays, tls_pem, tenant, workers, hands, servers })
}

async fn load_test(run: Run) -> Result<u8> {
    let setup = prepare(&run)?;
    // Before anything takes time: a file that can't be written is said now.
    for path in [&run.json, &run.html].into_iter().flatten() {
        let opened = std::fs::OpenOptions::new().append(true).create(true).open(path);
        opened.with_context(|| format!("can't write {}", path.display()))?;
    }

    let mut live = Live::new(setup.profile.kind());
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let (stop, stopped) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut stop = Some(stop);
        loop {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            match stop.take() {
                Some(stop) => drop(stop.send(())),
                // The second time is meant.
                None => std::process::exit(INTERRUPTED.into()),
            }
        }
    });
    let stopped = async { drop(stopped.await) };
    let ran = crew::run(setup, |progress| live.show(progress), stopped).await;
    live.end();
    let results = ran?;

    if let Some(path) = &run.json {
        write(path, &serde_json::to_string(&results)?)?;
    }
    if let Some(path) = &run.html {
        write(path, &report::page(&results))?;
    }
    say(&summary::sentences(&results).join("\n"))?;
    say(&format!("\n{}", summary::table(&results).trim_end()))?;
    let written: Vec<String> =
        [&run.json, &run.html].into_iter().flatten().map(|path| path.display().to_string()).collect();
    if !written.is_empty() {
        say(&format!("\nwritten: {}", written.join(", ")))?;
    }
    let broken = results.broken_limits();
    for verdict in &broken {
        writeln!(io::stderr(), "gatepass-loadtest: limit broken: {}", summary::judged(verdict))?;
    }
    Ok(match (results.interrupted, broken.is_empty()) {
        (true, _) => INTERRUPTED,
        (false, true) => 0,
        (false, false) => LIMIT,
    })
}

/// Each connection is an open file, and the usual soft limit of 1,024 is meant for programs that use select(2).
fn raise_open_files() -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).context("can't raise the number of open files")
}

/// Clients that one worker may have: as many as files may be open, less a few.
fn clients_per_worker() -> u32 {
    use rustix::process::{Resource, getrlimit};
    const OWN: u64 = 200;
    let files = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX).saturating_sub(OWN);
    u32::try_from(files).unwrap_or(u32::MAX).min(CLIENTS_PER_WORKER.max(1)).max(1)
}
