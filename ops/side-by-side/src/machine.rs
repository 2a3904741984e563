//! On what, and with which versions, figures were taken.

use std::{fs, path::Path, process::Command};

use serde::Serialize;

use crate::subject::Subject;

/// What a reader has to know to compare figures with others.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Machine {
    /// The processor's name.
    pub(crate) processor: String,
    /// How many there are.
    pub(crate) processors: usize,
    /// Linux's version.
    pub(crate) kernel: String,
    /// The subjects' versions.
    pub(crate) versions: Vec<String>,
    /// The commit that was built.
    pub(crate) commit: String,
}

impl Machine {
    /// This one.
    pub(crate) fn here(subjects: &[Subject], relay: &Path) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let processor =
            read("/proc/cpuinfo").lines().find_map(processor_name).unwrap_or("unknown processor").to_owned();
        let versions = subjects.iter().filter_map(|subject| match subject {
            Subject::Floor => None,
            Subject::Gatepass => said(Command::new(relay).arg("--version")),
            Subject::Nats => package("nats-server"),
            Subject::Nchan => {
                Some([package("nginx"), package("libnginx-mod-nchan")].map(Option::unwrap_or_default).join(", "))
            }
        });
        Self {
            processor,
            processors: std::thread::available_parallelism().map_or(0, Into::into),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            versions: versions.collect(),
            commit: said(Command::new("git").args(["describe", "--always", "--dirty"])).unwrap_or_default(),
        }
    }

    /// For a person.
    pub(crate) fn lines(&self) -> [String; 2] {
        let Self { processor, processors, kernel, versions, commit } = self;
        [format!("{processors} x {processor}, Linux {kernel}"), format!("{}; commit {commit}", versions.join(", "))]
    }
}

fn processor_name(line: &str) -> Option<&str> {
    let (key, value) = line.split_once(':')?;
    (key.trim() == "model name").then(|| value.trim())
}

fn package(name: &str) -> Option<String> {
    said(Command::new("dpkg-query").args(["-W", "-f", "${Package} ${Version}", name]))
}

/// The first line that a program says; `None` where there is no such program, or it fails.
fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(|line| line.trim().to_owned())
}
