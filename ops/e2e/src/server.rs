//! The server: relay and control plane in one process, as `gatepass-relay` runs by default.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::{Running, program};
use crate::wait::until;

/// A running `gatepass-relay`.
#[derive(Debug)]
pub struct Server {
    folder: PathBuf,
    port: u16,
    secure: bool,
    process: Running,
}

/// A port of this machine that nobody listens on now.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("the machine has a free port");
    listener.local_addr().expect("a listener has an address").port()
}

impl Server {
    /// Starts one, with a TLS certificate that it makes itself, or without TLS; with a log of what matters, or of everything.
    pub(crate) fn start(folder: &Path, secure: bool, debug: bool) -> Self {
        fs::create_dir_all(folder).expect("the world's folder can be written");
        let port = free_port();
        let tls = if secure { "self-made" } else { "off" };
        let (state, level) = (folder.join("state"), if debug { "debug" } else { "info" });
        let config = format!(
            "[edge]\nlisten = \"127.0.0.1:{port}\"\nstate_dir = \"{}\"\n[tls]\nmode = \"{tls}\"\n[log]\nfilter = \"{level}\"\n",
            state.display()
        );
        fs::write(folder.join("relay.toml"), config).expect("the world's folder can be written");
        let process = Self::run(folder);
        let server = Self { folder: folder.to_owned(), port, secure, process };
        server.wait_until_ready();
        server
    }

    /// Kills it and starts it again, at the same address and with the same state.
    pub fn restart(&mut self) {
        self.process.kill();
        self.process = Self::run(&self.folder);
        self.wait_until_ready();
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    fn run(folder: &Path) -> Running {
        let mut command = Command::new(program("gatepass-relay"));
        command.arg("--config").arg(folder.join("relay.toml"));
        Running::start(&mut command, &folder.join("relay.log"))
    }

    fn wait_until_ready(&self) {
        until("the server to listen", || TcpStream::connect(("127.0.0.1", self.port)).ok());
    }

    /// `https://localhost:PORT`.
    pub fn url(&self) -> String {
        format!("{}://localhost:{}", if self.secure { "https" } else { "http" }, self.port)
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The certificate that it made itself, to be given to clients.
    pub fn certificate(&self) -> Option<PathBuf> {
        self.secure.then(|| self.folder.join("state/relay.pem"))
    }

    /// The token that makes tenants.
    pub fn operator_token(&self) -> PathBuf {
        self.folder.join("state/operator.token")
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Running {
        &mut self.process
    }
}
