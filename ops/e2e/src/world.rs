//! A world: one machine in a jail with the server, an administrator, a phone and a computer, all of it real and all of it new.

use std::path::{Path, PathBuf};

use gatepass_client::edge;
use tempfile::TempDir;

use crate::admin::Admin;
use crate::computer::{Computer, Provider};
use crate::lying_relay::LyingRelay;
use crate::phone::Phone;
use crate::server::Server;
use crate::terminal::Terminal;

/// How a world shall be.
#[derive(Debug)]
pub struct Plan {
    /// How the computer makes accounts.
    pub provider: Provider,
    /// Whether the code on the phone has to be typed at the computer.
    pub confirm_code: bool,
    /// Whether a relay that lies stands between phones and the real one.
    pub lying_relay: bool,
    /// The password of the CA key.
    pub ca_password: String,
    /// The PIN of the phone.
    pub pin: String,
    /// Whether the programs log all that they can.
    pub debug: bool,
    /// Where everything is kept; none: in memory, until the world ends.
    pub folder: Option<PathBuf>,
    /// Hears of each step.
    pub tell: fn(&str),
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            provider: Provider::Userdb,
            confirm_code: false,
            lying_relay: false,
            ca_password: random_words(),
            pin: random_words(),
            debug: false,
            folder: None,
            tell: |_| {},
        }
    }
}

/// A secret that nobody guesses.
fn random_words() -> String {
    let bytes: [u8; 12] = edge::random();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Everything.
#[derive(Debug)]
pub struct World {
    /// The technician's phone.
    pub phone: Phone,
    /// The computer that the technician logs in to.
    pub computer: Computer,
    /// The administrator.
    pub admin: Admin,
    /// Relay and control plane.
    pub server: Server,
    /// What phones take for the relay, if it lies.
    pub lying_relay: Option<LyingRelay>,
    folder: PathBuf,
    // Last: what is in it goes after those who use it.
    _memory: Option<TempDir>,
}

impl World {
    /// Makes one. Only in a jail: it writes to `/etc`.
    pub fn new(plan: Plan) -> Self {
        assert!(std::env::var_os("GATEPASS_JAIL").is_some(), "a world is made inside ops/jail only");
        let memory =
            plan.folder.is_none().then(|| TempDir::with_prefix_in("world-", "/run").expect("/run can be written"));
        let folder = plan.folder.clone().or_else(|| Some(memory.as_ref()?.path().to_owned()));
        let folder = folder.expect("one of the two is there");

        let server = Server::start(&folder.join("server"), !plan.lying_relay, plan.debug);
        let lying_relay = plan.lying_relay.then(|| LyingRelay::before(server.port()));
        (plan.tell)("the server runs: relay and control plane, SQLite, self-made TLS");

        let admin = Admin::begin(&folder.join("admin"), &server, "Acme", &plan.ca_password);
        (plan.tell)("the administrator has a tenant and a CA key of its own");
        admin.signs(&["relay", "set", &lying_relay.as_ref().map_or_else(|| server.url(), LyingRelay::url)]);
        admin.does(&["technician", "add", "alex"]);
        admin.sets_policy(&policy(plan.confirm_code));
        (plan.tell)("technician alex is known; policy and relay list are signed");

        let computer = Computer::new(&folder.join("computer"), plan.provider);
        if plan.lying_relay {
            computer.configure(&format!("[relay]\nurl = \"{}\"", server.url()));
        } else if plan.debug {
            computer.configure("[log]\nlevel = \"debug\"");
        }
        computer.enrol(&admin.ticket("agent", &["--tag", "test"]));
        (plan.tell)("the computer is enrolled, by a ticket");

        let phone = Phone::new(&folder.join("phone"), &plan.pin);
        enrol(&phone, &admin, "alex", "Alex's phone", &[]);
        (plan.tell)("the phone is enrolled: its fingerprint was compared and signed");

        let mut world = Self { phone, computer, admin, server, lying_relay, folder, _memory: memory };
        world.computer.start();
        (plan.tell)("the agent runs; sshd, sudo, su and login ask it through PAM");
        world
    }

    /// A technician logs in by ssh: scans, approves, presses Enter. Returns the terminal with the shell in it, and the grant.
    pub fn logs_in(&self, choice: &[&str]) -> (Terminal, String) {
        let terminal = self.computer.ssh("gp-alex");
        let scan = self.phone.approve_with(&terminal.read_qr(), choice);
        terminal.enter_until(&["gp-alex@web-01"]);
        (terminal, scan.granted())
    }

    /// A phone that nobody has enrolled yet.
    pub fn new_phone(&self, name: &str) -> Phone {
        Phone::new(&self.folder.join(name), &random_words())
    }

    /// Another phone, of a technician whom the administrator knows.
    pub fn another_phone(&self, technician: &str, name: &str, certificate: &[&str]) -> Phone {
        let phone = self.new_phone(name);
        enrol(&phone, &self.admin, technician, name, certificate);
        phone
    }

    /// A phone of another tenant of the same server.
    pub fn other_tenant(&self, name: &str) -> Phone {
        let admin = Admin::begin(&self.folder.join(name), &self.server, name, &random_words());
        admin.signs(&["relay", "set", &self.server.url()]);
        admin.does(&["technician", "add", "kim"]);
        admin.sets_policy(&policy(false).replace("alex", "kim"));
        let phone = self.new_phone("Kim's phone");
        enrol(&phone, &admin, "kim", "Kim's phone", &[]);
        phone
    }

    /// Where everything of this world is kept.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Everything that its programs have written to their logs.
    pub fn logs(&self) -> String {
        let logs = ["server/relay.log", "computer/agent.log", "computer/sshd.log"];
        logs.iter().map(|log| format!("--- {log} ---\n{}\n", read(&self.folder.join(log)))).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = std::io::Write::write_all(&mut std::io::stderr(), self.logs().as_bytes());
        }
    }
}

fn enrol(phone: &Phone, admin: &Admin, technician: &str, name: &str, certificate: &[&str]) {
    phone.asks(&admin.ticket("phone", &[]), name).ok();
    admin.approves(phone, technician, certificate);
    phone.completes();
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// What the stories' technicians may do: log in with an account of their own, and be root for one command.
pub fn policy(confirm_code: bool) -> String {
    format!(
        r#"
default_minutes = 30
software_keys = true

[[rule]]
name = "on call"
technicians = ["alex"]
computers = "all"
scenarios = ["ssh", "console", "logon"]
accounts = ["named", "random"]
groups = ["adm", "sudo"]
max_minutes = 60
confirm_code = {confirm_code}

[[rule]]
name = "root for one command"
technicians = ["alex"]
computers = "all"
scenarios = ["elevation"]
accounts = ["own"]
max_minutes = 15
confirm_code = {confirm_code}
"#
    )
}
