//! The administrator, at the command line `gatepass`.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::phone::Phone;
use crate::process::{Finished, program, run};
use crate::server::Server;

/// An administrator with a tenant and its CA key.
#[derive(Debug)]
pub struct Admin {
    folder: PathBuf,
}

/// Writes a file that only its owner can read.
pub(crate) fn write_secret(path: &Path, text: &str) {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).expect("the world's folder can be written");
}

impl Admin {
    /// Creates the tenant and its CA key. The key's password is made up, and kept in a file of mode 0600.
    pub(crate) fn begin(folder: &Path, server: &Server, tenant: &str, password: &str) -> Self {
        fs::create_dir_all(folder).expect("the world's folder can be written");
        let admin = Self { folder: folder.to_owned() };
        write_secret(&admin.password_file(), password);
        let mut create = admin.gatepass(&["tenant", "create", tenant, "--url", &server.url()]);
        create.arg("--operator-token-file").arg(server.operator_token());
        if let Some(certificate) = server.certificate() {
            create.arg("--server-ca").arg(certificate);
        }
        run(&mut create).ok();
        let mut new = admin.gatepass(&["ca", "new", &format!("{tenant} 2026")]);
        run(new.arg("--out").arg(folder).arg("--password-file").arg(admin.password_file())).ok();
        run(admin.gatepass(&["ca", "add"]).arg(folder.join("gatepass-ca.pem"))).ok();
        admin
    }

    /// Runs a command. Panics unless it succeeds.
    pub fn does(&self, arguments: &[&str]) -> String {
        run(&mut self.gatepass(arguments)).ok()
    }

    /// Runs a command that signs with the CA key. Panics unless it succeeds.
    pub fn signs(&self, arguments: &[&str]) -> String {
        self.tries_to_sign(arguments).ok()
    }

    /// Runs a command that signs with the CA key.
    pub fn tries_to_sign(&self, arguments: &[&str]) -> Finished {
        run(self.gatepass(arguments).arg("--password-file").arg(self.password_file()))
    }

    /// Signs a policy and puts it in force.
    pub fn sets_policy(&self, policy: &str) {
        let file = self.folder.join("policy.toml");
        fs::write(&file, policy).expect("the world's folder can be written");
        run(self.gatepass(&["policy", "set"]).arg(file).arg("--password-file").arg(self.password_file())).ok();
    }

    /// A new ticket, for one `agent` or `phone`.
    pub fn ticket(&self, purpose: &str, more: &[&str]) -> PathBuf {
        let file = self.folder.join(format!("{purpose}.ticket"));
        let _ = fs::remove_file(&file);
        let mut new = self.gatepass(&["ticket", "new", "--for", purpose, "--out"]);
        run(new.arg(&file).args(more).arg("--password-file").arg(self.password_file())).ok();
        file
    }

    /// Approves the one phone that waits, as a technician's, after comparing the fingerprint that it shows.
    pub fn approves(&self, phone: &Phone, technician: &str, more: &[&str]) {
        let shown = phone.fingerprint();
        let pending = self.does(&["device", "pending"]);
        let line = pending.lines().find(|line| line.contains(&shown));
        let line = line.unwrap_or_else(|| panic!("no phone with the fingerprint {shown} waits:\n{pending}"));
        let request = line.split_whitespace().next().unwrap_or_default();
        let mut arguments = vec!["device", "approve", request, "--technician", technician, "--fingerprint", &shown];
        arguments.extend(more);
        self.signs(&arguments);
    }

    /// The audit trail as JSON Lines, checked by `gatepass audit` on the way.
    pub fn audit(&self) -> String {
        self.does(&["audit", "--last", "0", "--json"])
    }

    /// The file with the CA key's password.
    pub fn password_file(&self) -> PathBuf {
        self.folder.join("ca-password")
    }

    /// Where its profile, token and CA key are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn gatepass(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("gatepass"));
        command.arg("--profile").arg(self.folder.join("profile.toml")).args(arguments);
        command
    }
}
