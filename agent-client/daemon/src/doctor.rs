//! `gatepass-agent doctor`: everything that could keep a login from working, each with what to do about it.
//!
//! It reads and asks and changes nothing, with the agent running or not, so that it can be run at any time by anybody who is
//! root. The exit code is 1 when something won't work.

mod logon;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;

use gatepass_accounts::doctor::{Finding, Severity, examine};
use gatepass_agent_core::journal;
use gatepass_client::{Endpoint, Http, Proxies, Tls, edge, reach};
use gatepass_protocol::Code;
use serde::Serialize;

use crate::admin;
use crate::config::{Config, DEFAULT_PATH, Provider};
use crate::identity::{Identity, IdentityError};
use crate::trust::Trust;

/// An agent whose clock is further off is refused by relays and phones.
const CLOCK_OFF: u64 = 60;
/// Somebody has to renew a list or a certificate that ends within this many seconds.
const SOON: u64 = 14 * 86_400;
/// Less room than this, in bytes, and the journal soon stops grants.
const ROOM: u64 = 16 * 1024 * 1024;

pub(super) fn good(subject: &'static str, found: impl Into<String>) -> Finding {
    Finding { subject, severity: Severity::Good, found: found.into(), todo: String::new() }
}

pub(super) fn notice(subject: &'static str, found: impl Into<String>, todo: impl Into<String>) -> Finding {
    Finding { subject, severity: Severity::Notice, found: found.into(), todo: todo.into() }
}

pub(super) fn problem(subject: &'static str, found: impl Into<String>, todo: impl Into<String>) -> Finding {
    Finding { subject, severity: Severity::Problem, found: found.into(), todo: todo.into() }
}

/// Looks at everything and prints it.
#[expect(clippy::print_stdout, reason = "this is what the command is for")]
pub(crate) async fn run(path: Option<&Path>, json: bool) -> anyhow::Result<ExitCode> {
    let findings = look(path).await;
    if json {
        println!("{}", serde_json::to_string_pretty(&findings.iter().map(Line::from).collect::<Vec<_>>())?);
    } else {
        for finding in &findings {
            let mark = match finding.severity {
                Severity::Good => "good   ",
                Severity::Notice => "notice ",
                Severity::Problem => "PROBLEM",
            };
            println!("{mark} {}: {}", finding.subject, finding.found);
            if !finding.todo.is_empty() {
                println!("        -> {}", finding.todo);
            }
        }
    }
    let bad = findings.iter().any(|finding| finding.severity == Severity::Problem);
    Ok(if bad { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

#[derive(Serialize)]
struct Line<'a> {
    subject: &'a str,
    severity: &'static str,
    found: &'a str,
    todo: &'a str,
}

impl<'a> From<&'a Finding> for Line<'a> {
    fn from(finding: &'a Finding) -> Self {
        let severity = match finding.severity {
            Severity::Good => "good",
            Severity::Notice => "notice",
            Severity::Problem => "problem",
        };
        Self { subject: finding.subject, severity, found: &finding.found, todo: &finding.todo }
    }
}

async fn look(path: Option<&Path>) -> Vec<Finding> {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(error) => {
            return vec![problem(
                "configuration",
                error.to_string(),
                "Correct the file; agent.example.toml explains every key.",
            )];
        }
    };
    let mut findings = vec![good("configuration", "every key is known")];
    if rustix::process::geteuid().is_root() {
        findings.push(state(&config));
        findings.push(journal_of(&config));
    } else {
        findings.push(problem(
            "user",
            "doctor does not run as root",
            "Run it as root: most of what it looks at is root's alone.",
        ));
    }
    let identity = Identity::load(&config);
    findings.push(enrolment(&identity));
    if let Ok(identity) = &identity {
        findings.extend(believed(path, &config, identity).await);
    }
    findings.extend(running(&config).await);
    let provider = config.accounts.provider;
    let on_user_database = |finding: &Finding| matches!(finding.subject, "name service" | "libnss-systemd");
    findings.extend(examine(&(config.accounts.uids[0]..=config.accounts.uids[1])).into_iter().map(|mut finding| {
        // Where standing accounts will do, what only the user database needs is no problem.
        if provider != Provider::Userdb && on_user_database(&finding) && finding.severity == Severity::Problem {
            finding.severity = Severity::Notice;
        }
        finding
    }));
    findings.extend(logon::examine(Path::new("/")));
    findings
}

/// The folder with the keys and the journal.
fn state(config: &Config) -> Finding {
    const SUBJECT: &str = "state";
    let path = &config.state;
    let shown = path.display();
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => {
            return problem(SUBJECT, format!("{shown}: {error}"), "Enrol this computer: `gatepass-agent enrol`.");
        }
    };
    if metadata.mode() & 0o077 != 0 || metadata.uid() != 0 {
        let todo = format!("chown root: {shown} && chmod 700 {shown}");
        return problem(
            SUBJECT,
            format!("{shown} is open to others than root (mode {:o})", metadata.mode() & 0o7777),
            todo,
        );
    }
    match rustix::fs::statvfs(path) {
        Ok(disk) if disk.f_bavail * disk.f_frsize < ROOM => {
            let left = disk.f_bavail * disk.f_frsize / 1024;
            problem(
                SUBJECT,
                format!("the disk of {shown} has {left} KiB left"),
                "Free some space: without a journal nothing is granted.",
            )
        }
        _ => good(SUBJECT, format!("{shown} is root's alone and has room")),
    }
}

fn journal_of(config: &Config) -> Finding {
    const SUBJECT: &str = "journal";
    match journal::examine(&config.state) {
        Ok(records) => good(SUBJECT, format!("whole, {records} records")),
        Err(journal::JournalError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            good(SUBJECT, "none yet: nothing was ever granted")
        }
        Err(error) => problem(SUBJECT, error.to_string(), "As it says there."),
    }
}

fn enrolment(identity: &Result<Identity, IdentityError>) -> Finding {
    match identity {
        Ok(identity) => good("enrolment", format!("computer {} of tenant {}", identity.computer, identity.tenant)),
        Err(error) => {
            problem("enrolment", error.to_string(), "As it says there; the ticket comes from your administrator.")
        }
    }
}

/// The certificate, the lists, and whether their source can be reached.
async fn believed(path: Option<&Path>, config: &Config, identity: &Identity) -> Vec<Finding> {
    const LISTS: &str = "trust store";
    let tls = match Tls::from_pem(identity.tls_ca_pem.as_deref()) {
        Ok(tls) => tls,
        Err(error) => return vec![problem(LISTS, error.to_string(), "Correct relay.ca_file, or enrol again.")],
    };
    let proxies = match config.relay.proxies() {
        Ok(proxies) => proxies,
        Err(error) => return vec![problem("proxy", error.to_string(), "As it says there.")],
    };
    let http = match Http::new(&identity.url, tls, proxies.clone()) {
        Ok(http) => http,
        Err(error) => return vec![problem("control plane", error.to_string(), "Enrol again with a new ticket.")],
    };
    let tenant = identity.tenant;
    let answer = http.get_json::<serde_json::Value>(&format!("/api/v1/statements/{tenant}")).await;
    let mut findings = vec![match answer {
        Ok(_) => good("control plane", format!("{} answers", identity.url)),
        Err(error) => {
            problem("control plane", error.to_string(), "Check network, name resolution, firewall and proxy.")
        }
    }];
    let now = edge::now();
    let mut servers = vec![http.endpoint().clone()];
    let trust = Trust::load(identity, &config.state, http);
    let store = trust.read().clone();
    findings.push(match store.agent(&identity.chain, now) {
        Ok(certificate) if certificate.statement().not_after < now + SOON => {
            notice("certificate", "it ends within two weeks", "Enrol this computer again with a new ticket.")
        }
        Ok(_) => good("certificate", "valid"),
        Err(Code::Revoked) => problem(
            "certificate",
            "revoked",
            "Ask your administrator for a ticket, then `gatepass-agent enrol --again`.",
        ),
        Err(code) => {
            problem("certificate", code.message(), "Check the clock; if it is right, enrol this computer again.")
        }
    });
    findings.push(match store.policy() {
        None => problem(
            LISTS,
            "no policy",
            "Have your administrator sign one (`gatepass policy`); without one nothing is granted.",
        ),
        Some(policy) if policy.statement().not_after < now => {
            problem(LISTS, "the policy has expired", "Have your administrator sign a new one.")
        }
        Some(policy) => {
            good(LISTS, format!("policy {}, revocation list {}", policy.statement().epoch, store.revocation_epoch()))
        }
    });
    if let Some(list) = store.revocation().filter(|list| list.terms().next_update < now) {
        let late = (now - list.terms().next_update) / 3600;
        findings.push(notice(
            LISTS,
            format!("a newer revocation list was due {late} hours ago"),
            "Have your administrator sign one, or check the connection.",
        ));
    }
    let relays = store.relays().map(|list| list.terms().relays.clone()).unwrap_or_default();
    let urls = match config.relay.url.as_str() {
        "" => relays.into_iter().map(|relay| relay.url).collect(),
        url => vec![url.to_owned()],
    };
    if urls.is_empty() {
        findings.push(problem(
            "relay",
            "none is known",
            "Have your administrator sign a relay list, or set relay.url.",
        ));
    }
    for url in urls {
        findings.push(dial(&url, &proxies).await);
        servers.extend(url.parse());
    }
    findings.extend(proxy(path, config, &servers));
    findings
}

async fn dial(url: &str, proxies: &Proxies) -> Finding {
    const SUBJECT: &str = "relay";
    let endpoint: Endpoint = match url.parse() {
        Ok(endpoint) => endpoint,
        Err(error) => {
            return problem(SUBJECT, format!("{error}"), "Correct relay.url, or have the relay list signed anew.");
        }
    };
    match reach(&endpoint, proxies).await {
        Ok(()) => good(SUBJECT, format!("{url} can be reached")),
        Err(error) => problem(
            SUBJECT,
            format!("{url}: {error}"),
            "Check network, name resolution, firewall and proxy: TCP out to this port must be open.",
        ),
    }
}

/// What the running agent says of itself.
async fn running(config: &Config) -> Vec<Finding> {
    const SUBJECT: &str = "agent";
    let status = match admin::look(config).await {
        Ok(status) => status,
        Err(error) => {
            return vec![problem(SUBJECT, format!("{error:#}"), "Start it: systemctl enable --now gatepass-agent")];
        }
    };
    let mut findings = vec![match status.relay_online {
        true => good(SUBJECT, format!("runs, {} accounts, connected to {}", status.accounts, status.relay)),
        false => problem(
            SUBJECT,
            format!("runs, but is not connected: {}", status.relay),
            if status.relay.contains(Code::Revoked.message()) {
                "Ask your administrator for a ticket, then `gatepass-agent enrol --again`, and restart the agent."
            } else {
                "See the findings about relay and certificate."
            },
        ),
    }];
    findings.push(match (&status.clock, status.relay_clock) {
        (Some(wrong), _) => problem("clock", wrong.clone(), "As it says there."),
        (None, Some(skew)) if skew.unsigned_abs() > CLOCK_OFF => {
            let found =
                format!("{} seconds {} the relay's", skew.unsigned_abs(), if skew > 0 { "behind" } else { "ahead of" });
            problem("clock", found, "Set it, and keep it right with systemd-timesyncd or chrony.")
        }
        _ => good("clock", "agrees with the relay and with the journal"),
    });
    if status.events_waiting > 100 {
        let found = format!("{} events of the audit trail wait to be sent", status.events_waiting);
        findings.push(notice("audit", found, "See the finding about the control plane; they are kept on the disk."));
    }
    findings.push(socket(&config.pam_socket));
    findings
}

fn socket(path: &Path) -> Finding {
    const SUBJECT: &str = "PAM socket";
    let shown = path.display();
    match fs::metadata(path) {
        Ok(metadata) if metadata.mode() & 0o222 == 0o222 => good(SUBJECT, format!("{shown} is there")),
        Ok(_) => problem(
            SUBJECT,
            format!("{shown} can't be written by everybody"),
            "Restart the agent: it sets the mode; only root is answered.",
        ),
        Err(error) => problem(SUBJECT, format!("{shown}: {error}"), "Restart the agent; something removed its socket."),
    }
}

/// Through which proxies the agent goes out, and whether a password among them is kept well.
fn proxy(path: Option<&Path>, config: &Config, servers: &[Endpoint]) -> Vec<Finding> {
    const SUBJECT: &str = "proxy";
    let Ok(proxies) = config.relay.proxies() else { return vec![] };
    let mut names: Vec<String> = servers.iter().filter_map(|server| proxies.name_for(server)).collect();
    names.sort();
    names.dedup();
    let mut findings = vec![match names.is_empty() {
        true => good(SUBJECT, "none: the agent connects directly"),
        false => good(SUBJECT, format!("the agent goes out through {}", names.join(", "))),
    }];
    let path = path.unwrap_or(Path::new(DEFAULT_PATH));
    let is_open = fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o077 != 0);
    if config.relay.has_password() && is_open {
        let shown = path.display();
        findings.push(problem(
            SUBJECT,
            format!("relay.proxy has a password in it, and {shown} may be read by others than root"),
            format!("chown root: {shown} && chmod 600 {shown}"),
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proxy_is_named_without_its_password_which_has_to_be_kept_well() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agent.toml");
        fs::write(&file, "[relay]\nproxy = \"http://u:s3cret@proxy.example:3128\"").unwrap();
        let servers = ["https://control.example", "wss://relay.example"].map(|url| url.parse().unwrap());
        let look = |mode| {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            proxy(Some(&file), &Config::load(Some(&file)).unwrap(), &servers)
        };
        let kept = look(0o600);
        assert_eq!((kept.len(), kept[0].found.as_str()), (1, "the agent goes out through proxy.example:3128"));
        let open = look(0o644);
        assert!(open[1].severity == Severity::Problem && open[1].todo.contains("chmod 600"), "{:?}", open[1]);
        fs::write(&file, "[relay]\nproxy = \"none\"").unwrap();
        assert!(look(0o644)[0].found.contains("directly"));
    }

    #[tokio::test]
    async fn a_wrong_configuration_is_the_first_thing_that_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("agent.toml");
        fs::write(&file, "stat = \"/x\"").unwrap();
        let findings = look(Some(&file)).await;
        assert_eq!(findings.len(), 1);
        assert!(findings[0].found.contains("did you mean \"state\""), "{:?}", findings[0]);
    }

    #[tokio::test]
    async fn a_relay_that_nobody_runs_is_found_out() {
        assert_eq!(dial("wss://127.0.0.1:1", &Proxies::none()).await.severity, Severity::Problem);
        assert!(dial("relay", &Proxies::none()).await.found.contains("https"), "an address that is none");
    }

    #[test]
    fn a_state_folder_open_to_others_is_a_problem() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let config = Config { state: folder.path().into(), ..Config::default() };
        assert!(state(&config).todo.contains("chmod 700"));
    }
}
