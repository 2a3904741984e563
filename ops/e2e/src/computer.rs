//! The computer that a technician logs in to: agent, PAM module, and the programs that ask it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::login::{self, Login};
use crate::process::{Finished, Running, program, run};
use crate::server::free_port;
use crate::terminal::Terminal;
use crate::wait::until;

/// What it is called, on a technician's phone too.
const NAME: &str = "web-01";

/// The agent with the feature `fault`, under a name of its own beside the real one: `ops/test` puts it there.
const FAULTY: &str = "gatepass-agent-faulty";

/// Tells a program another time.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// The services of PAM and their stacks.
const STACKS: [(&str, &str); 4] = [
    ("sshd", include_str!("../../../agent-client/pam/stacks/sshd")),
    ("login", include_str!("../../../agent-client/pam/stacks/login")),
    ("su", include_str!("../../../agent-client/pam/stacks/su")),
    ("gatepass-sudo", include_str!("../../../agent-client/pam/stacks/sudo")),
];

/// How the computer makes accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// The agent is the user database.
    Userdb,
    /// Standing accounts in `/etc/passwd`, for a computer without libnss-systemd.
    Standing,
}

/// A computer with an agent.
#[derive(Debug)]
pub struct Computer {
    folder: PathBuf,
    ssh_port: u16,
    agent: Option<Running>,
    sshd: Option<Running>,
}

impl Computer {
    /// Prepares the machine of this jail: PAM stacks, sudoers, sshd; and the agent's configuration.
    pub(crate) fn new(folder: &Path, provider: Provider) -> Self {
        fs::create_dir_all(folder).expect("the world's folder can be written");
        let computer = Self { folder: folder.to_owned(), ssh_port: free_port(), agent: None, sshd: None };
        run(Command::new("hostname").arg(NAME)).ok();
        edit("/etc/hosts", |text| format!("{text}127.0.1.1 {NAME}\n"));
        if provider == Provider::Standing {
            edit("/etc/nsswitch.conf", |text| text.replace(" systemd", ""));
        }
        computer.configure("");
        computer.install_pam();
        computer.install_ssh();
        computer
    }

    /// Writes the agent's configuration: defaults, and what a story adds to them.
    pub fn configure(&self, more: &str) {
        let state = self.state();
        let text = format!("state = \"{}\"\n{more}\n", state.display());
        fs::write(self.config(), text).expect("the world's folder can be written");
    }

    /// Enrols the computer by a ticket.
    pub(crate) fn enrol(&self, ticket: &Path) {
        run(self.gatepass_agent(&["enrol"]).arg("--ticket-file").arg(ticket)).ok();
    }

    /// Starts the agent, and sshd if it does not run yet.
    pub(crate) fn start(&mut self) {
        self.start_agent();
        if self.sshd.is_none() {
            let mut sshd = Command::new("/usr/sbin/sshd");
            sshd.args(["-D", "-e", "-f"]).arg(self.folder.join("sshd_config"));
            self.sshd = Some(Running::start(&mut sshd, &self.folder.join("sshd.log")));
            let address = ("127.0.0.1", self.ssh_port);
            until("sshd to listen", || std::net::TcpStream::connect(address).ok());
        }
    }

    /// Starts the agent, and waits until it serves.
    pub fn start_agent(&mut self) {
        self.spawn_agent();
        self.wait_for_agent();
    }

    /// Starts an agent that kills itself (SIGKILL) at this point of a grant, and waits until it serves.
    pub fn start_agent_killed_at(&mut self, point: &str) {
        self.run_agent(&mut Command::new(program(FAULTY)), &["--fault", point]);
        self.wait_for_agent();
    }

    /// Starts the agent, and waits for nothing.
    pub fn spawn_agent(&mut self) {
        self.run_agent(&mut Command::new(program("gatepass-agent")), &[]);
    }

    /// Starts the agent with a wall clock that is off: `-2h`, `+3d`. Debian's libfaketime tells it so.
    pub fn spawn_agent_at(&mut self, offset: &str) {
        let mut command = Command::new(program("gatepass-agent"));
        command.env("LD_PRELOAD", FAKETIME).env("FAKETIME", offset).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        self.run_agent(&mut command, &[]);
    }

    fn run_agent(&mut self, command: &mut Command, options: &[&str]) {
        command.arg("run").arg("--config").arg(self.config()).args(options);
        self.agent = Some(Running::start(command, &self.folder.join("agent.log")));
    }

    /// Waits until the agent serves and has reached its relay.
    pub fn wait_for_agent(&self) {
        until("the agent to serve and to reach its relay", || {
            self.status().contains("\"relay_online\": true").then_some(())
        });
    }

    /// What the agent says of itself and its grants, as JSON; empty when it does not answer.
    pub fn status(&self) -> String {
        self.tries(&["status", "--json"]).out
    }

    /// Whether the agent says that nothing is granted here. An agent that does not answer says nothing.
    pub fn has_no_grant(&self) -> bool {
        let status = self.status();
        status.contains("\"grants\"") && !status.contains("\"grant\":")
    }

    /// The agent's process.
    pub fn agent(&mut self) -> &mut Running {
        self.agent.as_mut().expect("the agent was started")
    }

    /// A stock ssh client in a terminal of 80x24, logging in to this computer.
    pub fn ssh(&self, user: &str) -> Terminal {
        self.terminal(&["ssh", &format!("{user}@localhost")])
    }

    /// Any program in a terminal of this computer, as root.
    pub fn terminal(&self, command: &[&str]) -> Terminal {
        Terminal::open(&self.folder, command)
    }

    /// The machine's own console: `login`, as getty starts it, and a name typed there.
    pub fn login(&self, user: &str) -> Terminal {
        let terminal = self.terminal(&["login"]);
        terminal.wait_for("login: ");
        terminal.type_line(user);
        terminal
    }

    /// An ordinary user of this computer.
    pub fn add_user(&self, name: &str) {
        run(Command::new("useradd").args(["--create-home", "--shell", "/bin/bash", name])).ok();
    }

    /// A login without a terminal, in which PAM's phases follow each other: see [`Login`].
    pub fn pam(&self, user: &str, phases: &[&str]) -> Login {
        Login::start(&self.folder, user, phases)
    }

    /// A shell of a user in a terminal.
    pub fn shell(&self, user: &str) -> Terminal {
        self.terminal(&["setpriv", "--reuid", user, "--regid", user, "--init-groups", "--reset-env", "bash", "--norc"])
    }

    /// Runs a command of the agent's. Panics unless it succeeds.
    pub fn does(&self, arguments: &[&str]) -> String {
        self.tries(arguments).ok()
    }

    /// Runs a command of the agent's.
    pub fn tries(&self, arguments: &[&str]) -> Finished {
        run(&mut self.gatepass_agent(arguments))
    }

    /// Whether somebody could log in to this account now.
    pub fn has_open_account(&self, name: &str) -> bool {
        let passwd = run(Command::new("getent").args(["passwd", name]));
        let shadow = run(Command::new("getent").args(["shadow", name]));
        let expiry: Option<i64> = shadow.out.trim().split(':').nth(7).and_then(|days| days.parse().ok());
        let today = i64::try_from(gatepass_client::edge::now() / 86_400).unwrap_or_default();
        passwd.status.success() && expiry.is_none_or(|day| day > today)
    }

    /// Where the agent keeps its state.
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    fn config(&self) -> PathBuf {
        self.folder.join("agent.toml")
    }

    fn gatepass_agent(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("gatepass-agent"));
        command.arg("--config").arg(self.config()).args(arguments);
        command
    }

    /// As an administrator does it, by the files in `agent-client/pam/stacks`; only that the module is named by its path, for
    /// `/usr` is the machine's own.
    fn install_pam(&self) {
        let module = Path::new("/run/pam_gatepass.so");
        fs::copy(program("libpam_gatepass.so"), module).expect("/run can be written");
        for (service, stack) in STACKS {
            let stack = stack.replace("pam_gatepass.so", &module.display().to_string());
            fs::write(Path::new("/etc/pam.d").join(service), stack).expect("/etc is an overlay");
        }
        fs::write(Path::new("/etc/pam.d").join(login::SERVICE), login::stack(module)).expect("/etc is an overlay");
        let sudoers = Path::new("/etc/sudoers.d/gatepass");
        fs::write(sudoers, include_str!("../../../agent-client/pam/stacks/sudoers")).expect("/etc is an overlay");
        fs::set_permissions(sudoers, fs::Permissions::from_mode(0o440)).expect("/etc is an overlay");
    }

    fn install_ssh(&self) {
        let key = self.folder.join("ssh_host_ed25519_key");
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key)).ok();
        let config = format!(
            "Port {}\nListenAddress 127.0.0.1\nHostKey {}\nPidFile none\nUsePAM yes\nKbdInteractiveAuthentication yes\n\
             PasswordAuthentication no\nPubkeyAuthentication no\nPermitRootLogin no\n",
            self.ssh_port,
            key.display()
        );
        fs::write(self.folder.join("sshd_config"), config).expect("the world's folder can be written");

        // The client is stock, and so is its command line: `ssh gp-alex@localhost`.
        let client = Path::new("/root/.ssh");
        fs::create_dir_all(client).expect("/root is an overlay");
        fs::set_permissions(client, fs::Permissions::from_mode(0o700)).expect("/root is an overlay");
        let public = fs::read_to_string(key.with_extension("pub")).expect("ssh-keygen wrote it");
        fs::write(client.join("known_hosts"), format!("[localhost]:{} {public}", self.ssh_port))
            .expect("/root is an overlay");
        let port = format!("Host localhost\n  Port {}\n  AddressFamily inet\n", self.ssh_port);
        fs::write(client.join("config"), port).expect("/root is an overlay");
    }
}

fn edit(path: &str, change: impl FnOnce(String) -> String) {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
    fs::write(path, change(text)).unwrap_or_else(|error| panic!("{path}: {error}"));
}
