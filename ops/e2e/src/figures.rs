//! `gatepass-figures`: how long the machines take from scan to shell, the human left out, and what the PAM module costs.
//!
//! ```text
//! cargo build --release --workspace && ops/jail target/release/gatepass-figures
//! ```
//!
//! Total: from the start of the phone's program, which has the picture's code and its PIN, to the prompt of the shell, at a console
//! (`login`), over TLS. The parts are taken by a relay in between that looks at its clock and does nothing else, without TLS.

use std::fs;
use std::io::Write as _;
use std::time::{Duration, Instant};

use gatepass_e2e::{LyingRelay, Plan, World, policy, until};

const LOGINS: usize = 30;

fn main() {
    assert!(std::env::var_os("GATEPASS_JAIL").is_some(), "run ops/jail target/release/gatepass-figures");
    let world = new_world(Plan::default());
    let (mut totals, mut module) = (Vec::new(), String::new());
    for _ in 0..LOGINS {
        totals.push(one_login(&world, &mut module).0);
    }
    say("scan to shell, all of it, TLS", totals);
    // The next computer is this jail's, too.
    drop(world);

    let world = new_world(Plan { lying_relay: true, ..Plan::default() });
    let relay = world.lying_relay.as_ref().expect("it was planned");
    let (mut handshake, mut pin, mut grant, mut rest) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..LOGINS {
        let (total, code) = one_login(&world, &mut module);
        let spent = |from: u8, to: u8| time(relay, &code, to) - time(relay, &code, from);
        handshake.push(spent(0, 4));
        pin.push(spent(4, 5));
        grant.push(spent(5, 6));
        rest.push(total.saturating_sub(spent(0, 6)));
    }
    say("  claim, handshake, question (M1 to M4)", handshake);
    say("  the phone opens its key: Argon2id (M4 to M5)", pin);
    say("  approval checked, account made (M5 to M6)", grant);
    say("  the rest: the phone's start, the shell's start", rest);
    print(&module);
}

/// A world in which accounts go with their homes: the next world's alex is somebody else, who is not given this one's.
fn new_world(plan: Plan) -> World {
    let world = World::new(plan);
    world.admin.sets_policy(&format!("delete_on_end = true\n{}", policy(false)));
    until("the policy", || world.computer.status().contains(r#""policy_epoch": 2"#).then_some(()));
    world
}

/// When the relay saw a message; 0 is the claim.
fn time(relay: &LyingRelay, code: &str, number: u8) -> Instant {
    until("a message at the relay", || relay.heard_at(code, number))
}

/// Logs in at the console and out again; how long it took, and the code.
fn one_login(world: &World, module: &mut String) -> (Duration, String) {
    let terminal = world.computer.login("gp-alex");
    let code = terminal.read_qr();
    let login = until("login, waiting", || process("login"));
    let begin = Instant::now();
    // The phone first: looking at the terminal takes a processor, which the phone would lack.
    world.phone.approve(&code).granted();
    terminal.wait_for("gp-alex@web-01");
    let took = begin.elapsed();
    *module = cost(&login);
    terminal.type_line("exit");
    terminal.wait_for_end();
    until("the grant to end", || world.computer.has_no_grant().then_some(()));
    (took, code)
}

/// The newest process of that name.
fn process(name: &str) -> Option<String> {
    let pids =
        fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let named = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name);
    pids.filter(named).max().map(|pid| pid.to_string())
}

/// What the module costs the process that it lives in.
fn cost(pid: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let threads = status.lines().find_map(|line| line.strip_prefix("Threads:")).unwrap_or("?").trim().to_owned();
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default();
    let (mut ours, mut kib) = (false, 0);
    for line in smaps.lines() {
        // A mapping begins with its addresses; its figures follow.
        if line.split_once('-').is_some_and(|(from, _)| u64::from_str_radix(from, 16).is_ok()) {
            ours = line.ends_with("pam_gatepass.so");
        } else if let Some(rss) = line.strip_prefix("Rss:").filter(|_| ours) {
            kib += rss.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0);
        }
    }
    format!("PAM module in login: {threads} thread(s) in the process, {kib} KiB of the module resident\n")
}

fn say(what: &str, mut figures: Vec<Duration>) {
    figures.sort();
    let at = |percent: usize| figures[(figures.len() - 1) * percent / 100].as_secs_f64() * 1000.0;
    print(&format!("{what:<47} p50 {:6.1} ms   p95 {:6.1} ms   of {}\n", at(50), at(95), figures.len()));
}

fn print(text: &str) {
    // A reader that went away stops nothing.
    let _ = std::io::stdout().write_all(text.as_bytes());
}
