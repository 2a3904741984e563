//! A Postgres of a test's own: Debian's programs, a folder under /tmp, a socket in it and no port. Gone with the test.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

use super::Database;

/// Postgres refuses to run as root: a test that does, runs it as this user.
const USER: &str = "nobody";

pub(crate) struct Cluster {
    folder: TempDir,
}

impl Cluster {
    /// Starts one with an empty database.
    pub(crate) fn start() -> Cluster {
        let folder = tempfile::Builder::new().prefix("gatepass-pg").tempdir_in("/tmp").unwrap();
        if is_root() {
            let (user, group) = (id("-u"), id("-g"));
            chown(folder.path(), Some(user), Some(group)).unwrap();
        }
        let cluster = Cluster { folder };
        let data = cluster.data();
        // Nothing here outlives the test, so nothing waits for the disk, but for the one test that pulls the plug.
        run(
            "initdb",
            &["--no-sync", "--no-locale", "--encoding=UTF8", "--auth=trust", "--username=gatepass", "-D", &data],
        );
        let folder = cluster.folder.path().display();
        let settings = format!(
            "listen_addresses = ''\nunix_socket_directories = '{folder}'\nmax_connections = 50\nshared_buffers = 16MB\n"
        );
        run_with_input("tee", &["-a", &format!("{data}/postgresql.conf")], &settings);
        cluster.resume();
        cluster
    }

    /// Another, empty database in it.
    pub(crate) fn database(&self, name: &str) -> Database {
        let folder = self.folder.path().to_str().unwrap();
        if name != "postgres" {
            run("createdb", &["-h", folder, "-U", "gatepass", name]);
        }
        Database::Postgres {
            connection: format!("host={folder} user=gatepass dbname={name}"),
            password_file: None,
            ca_file: None,
        }
    }

    /// Kills it as a power cut would.
    pub(crate) fn kill(&self) {
        run("pg_ctl", &["stop", "-m", "immediate", "-w", "-D", &self.data()]);
    }

    /// Starts it again.
    pub(crate) fn resume(&self) {
        run("pg_ctl", &["start", "-w", "-l", &format!("{}/log", self.folder.path().display()), "-D", &self.data()]);
    }

    fn data(&self) -> String {
        self.folder.path().join("data").to_str().unwrap().to_owned()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if Path::new(&self.data()).join("postmaster.pid").exists() {
            run("pg_ctl", &["stop", "-m", "immediate", "-w", "-D", &self.data()]);
        }
    }
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

fn id(which: &str) -> u32 {
    let output = Command::new("id").args([which, USER]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

/// Where Debian keeps the programs of each version.
fn program(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let versions = fs::read_dir("/usr/lib/postgresql").expect("Debian's postgresql: ops/needs postgresql");
        let newest =
            versions.map(|version| version.unwrap().path().join("bin")).filter(|bin| bin.join("initdb").exists());
        newest.max().expect("Debian's postgresql: ops/needs postgresql")
    });
    let there = folder.join(name);
    if there.exists() { there } else { name.into() }
}

fn run(name: &str, arguments: &[&str]) {
    run_with_input(name, arguments, "");
}

fn run_with_input(name: &str, arguments: &[&str], input: &str) {
    let program = program(name);
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", USER, "--regid", &id("-g").to_string(), "--clear-groups"]).arg(program);
        command
    } else {
        Command::new(program)
    };
    let output = tempfile::tempfile().unwrap();
    let mut child = command
        .args(arguments)
        .current_dir("/tmp")
        .stdin(Stdio::piped())
        // A file and not a pipe: the server inherits it, and would be waited for.
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{name} {arguments:?}");
}
