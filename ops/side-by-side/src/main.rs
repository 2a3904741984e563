//! `gatepass-side-by-side`: our relay, two peers and the floor do the same work, one after the other, on this machine.
//!
//! `ops/bench` builds it, installs the peers, and starts it. It needs two processors: one for the server of the moment, one for
//! the load.

mod encrypted;
mod figures;
mod floor;
mod machine;
mod message;
mod net;
mod process;
mod quiet;
mod report;
mod subject;
mod table;
mod websocket;
mod work;

use std::{
    fs,
    io::Write as _,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use serde_json::json;

use crate::{
    figures::{Figures, Sample},
    machine::Machine,
    quiet::Awake,
    subject::{Stable, Subject},
    work::{Size, Work},
};

/// Measures our relay, nats-server, nginx with nchan, and a bare epoll server side by side: each on one worker, on loopback,
/// without TLS, doing the same work in turn over several rounds
#[derive(Parser)]
#[command(name = "ops/bench", version, disable_help_subcommand = true)]
struct Arguments {
    /// Fewer and shorter rounds, and nothing with TLS: under 5 minutes
    #[arg(long)]
    quick: bool,
    /// Only these pieces of work
    #[arg(long, value_name = "WORK,...", value_delimiter = ',')]
    only: Vec<Work>,
    /// Only these subjects
    #[arg(long, value_name = "SUBJECT,...", value_delimiter = ',')]
    subjects: Vec<Subject>,
    /// How often each subject does each work [default: 5; with --quick 3]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// How long messages are counted in each [default: 8; with --quick 2]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: Option<u32>,
    /// Where the medians go: {"rows": [{"work", "subject", "cpu_us", "per_s", "p50_ms", "p99_ms", "rss_kib"}, ...]}
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the data of each round and the plots go [default: target/bench]
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// The relay's program [default: gatepass-relay beside this one]
    #[arg(long, value_name = "FILE")]
    relay: Option<PathBuf>,
    /// A crowd of a few: does it work at all?
    #[arg(long, hide = true)]
    tiny: bool,
    /// Says which of Debian's packages the subjects need, and ends
    #[arg(long, hide = true)]
    packages: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Is the floor
    #[command(hide = true)]
    Floor { address: SocketAddr },
    /// Keeps a processor awake
    #[command(hide = true)]
    Awake { cpu: usize },
}

fn main() -> ExitCode {
    match start(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where standard error is gone, nobody can be told.
            let _ = writeln!(std::io::stderr(), "bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: Arguments) -> anyhow::Result<()> {
    raise_open_files()?;
    match arguments.command {
        Some(Command::Floor { address }) => {
            let listener = TcpListener::bind(address).with_context(|| format!("can't listen on {address}"))?;
            floor::serve(&listener)?;
        }
        Some(Command::Awake { cpu }) => return quiet::keep_awake(cpu),
        None => {}
    }
    let or_all = |given: &[Subject]| if given.is_empty() { Subject::ALL.to_vec() } else { given.to_vec() };
    let subjects = or_all(&arguments.subjects);
    if arguments.packages {
        let packages: Vec<&str> = subjects.iter().flat_map(|subject| subject.packages()).copied().collect();
        return Ok(writeln!(std::io::stdout(), "{}", packages.join(" "))?);
    }
    let works = match &arguments.only[..] {
        [] => Work::ALL.into_iter().filter(|work| !arguments.quick || work.is_quick()).collect(),
        only => only.to_vec(),
    };
    let size = size(&arguments);
    let rounds = arguments.rounds.unwrap_or(if arguments.quick { 3 } else { 5 });
    let relay = match arguments.relay {
        Some(file) => file,
        None => beside("gatepass-relay")?,
    };
    if !relay.is_file() {
        bail!("{} is missing: build it with cargo build --release -p gatepass-relay-server", relay.display());
    }
    quiet::take_precedence();
    let stable = Stable::new(relay.clone(), Awake::keep()?)?;
    let figures = measure(&works, &subjects, rounds as usize, &size, stable);
    let mut out = std::io::stdout();
    write!(out, "{}", table::table(&figures, &size))?;
    let folder = match arguments.out {
        Some(folder) => folder,
        None => beside("")?.with_file_name("bench"),
    };
    let machine = Machine::here(&subjects, &relay);
    let samples = json!({ "machine": machine, "samples": figures.samples });
    fs::create_dir_all(&folder).with_context(|| format!("can't make {}", folder.display()))?;
    let (data, report) = (folder.join("samples.json"), folder.join("report.html"));
    save(&data, &serde_json::to_vec_pretty(&samples)?)?;
    save(&report, report::html(&figures, &size, &machine).as_bytes())?;
    if let Some(file) = &arguments.json {
        save(file, &serde_json::to_vec_pretty(&json!({ "rows": figures.rows() }))?)?;
    }
    writeln!(out, "\nEach round: {}\nPlots:      {}", data.display(), report.display())?;
    match &figures.failures[..] {
        [] => Ok(()),
        failures => bail!("{} of {} failed:\n{}", failures.len(), figures.tried(), failures.join("\n")),
    }
}

fn save(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    fs::write(file, bytes).with_context(|| format!("can't write {}", file.display()))
}

/// A path from this program.
fn beside(path: &str) -> anyhow::Result<PathBuf> {
    let itself = std::env::current_exe()?;
    Ok(itself.parent().unwrap_or(Path::new("/")).join(path).components().collect())
}

fn size(arguments: &Arguments) -> Size {
    let seconds = arguments.seconds.unwrap_or(if arguments.quick { 2 } else { 8 });
    let normal = Size {
        subscribers: 1_000,
        pairs: 100,
        idle: 15_000,
        visitors: 5_000,
        measured: Duration::from_secs(seconds.into()),
        warm_up: Duration::from_millis(500),
    };
    if arguments.tiny {
        let (measured, warm_up) = (Duration::from_millis(300), Duration::from_millis(100));
        Size { subscribers: 5, pairs: 3, idle: 20, visitors: 10, measured, warm_up }
    } else {
        normal
    }
}

fn measure(works: &[Work], subjects: &[Subject], rounds: usize, size: &Size, mut stable: Stable) -> Figures {
    let begun = Instant::now();
    let mut figures = Figures::default();
    let able = |work: Work| subjects.iter().copied().filter(|subject| work.is_for(*subject)).collect::<Vec<_>>();
    let all = rounds * works.iter().map(|work| able(*work).len()).sum::<usize>();
    for round in 1..=rounds {
        for &work in works {
            let subjects = able(work);
            // Not always the same one first, and so not always the same one after the same other.
            for turn in 0..subjects.len() {
                let subject = subjects[(turn + round) % subjects.len()];
                let done = work.run(subject, &mut stable, size);
                progress(begun.elapsed(), (figures.tried() + 1, all), work, subject, &done);
                match done {
                    Ok(measured) => figures.samples.push(Sample { round, work, subject, measured }),
                    Err(error) => figures.failures.push(format!("round {round}: {error:#}")),
                }
            }
        }
    }
    figures
}

/// A line a figure on standard error, where somebody waits.
fn progress(
    took: Duration,
    (done, all): (usize, usize),
    work: Work,
    subject: Subject,
    measured: &anyhow::Result<work::Measured>,
) {
    let took = took.as_secs();
    let what = match measured {
        Ok(measured) => brief(measured),
        Err(error) => format!("{error:#}"),
    };
    let (minutes, seconds) = (took / 60, took % 60);
    let _ = writeln!(
        std::io::stderr(),
        "{done:>4}/{all} {minutes:>3}:{seconds:02}  {:<11} {subject:<9} {what}",
        work.name()
    );
}

fn brief(measured: &work::Measured) -> String {
    let parts = [
        measured.cpu_us.map(|us| format!("{us:.1} us")),
        measured.per_s.map(|per_s| format!("{}/s", table::grouped(per_s))),
        measured.p50_ms.map(|ms| format!("p50 {ms:.3} ms")),
        measured.p99_ms.map(|ms| format!("p99 {ms:.3} ms")),
        measured.rss_kib.map(|kib| format!("{kib:.1} KiB")),
        measured.load_share.map(|share| format!("load {:.0} %", share * 100.0)),
        measured.others_share.filter(|share| *share > 0.1).map(|share| format!("others {:.0} %", share * 100.0)),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("  ")
}

/// Fifteen thousand connections are as many open files, on both sides.
fn raise_open_files() -> anyhow::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).context("can't raise the number of open files")
}
