//! The later phases of a login, and the clock above it: account, session opened, session closed, warnings, the end.

use std::collections::HashSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gatepass_accounts::{AccountName, AccountState};
use gatepass_agent_core::grant::{Grant, Right, Session};
use gatepass_agent_core::{Grants, NotLive};
use gatepass_logon::text;
use gatepass_logon::wire::{Start, Verdict};
use gatepass_protocol::ids::GrantId;
use gatepass_protocol::order::EndReason;
use rustix::fs::OFlags;

use crate::agent::Agent;
use crate::clock::now;
use crate::process;

/// A session is told this many minutes before its grant ends.
const WARN_AT: [u32; 2] = [5, 1];
/// How long the process that closed the last session may take to leave by itself.
const LEAVE: Duration = Duration::from_millis(500);

/// May this account be used now?
pub(crate) async fn account(agent: &Arc<Agent>, start: &Start) -> Verdict {
    let (id, user) = (start.session.map(GrantId), start.user.clone());
    let accounts = agent.accounts.clone();
    let found = move |grants: &mut Grants| {
        if find(grants, id, &user).is_some() {
            return Verdict::Success;
        }
        match AccountName::new(&user).map(|name| accounts.state(&name)) {
            Ok(Ok(AccountState::Marked(_))) => Verdict::Expired,
            _ => Verdict::Ignore,
        }
    };
    agent.with_grants(found).await.unwrap_or(Verdict::Unavailable)
}

/// A session begins below `pid`: it joins its grant, or does not begin.
pub(crate) async fn open(agent: &Arc<Agent>, start: &Start, pid: u32) -> Result<Option<GrantId>, NotLive> {
    let (id, user) = (start.session.map(GrantId), start.user.clone());
    let accounts = agent.accounts.clone();
    let opened = move |grants: &mut Grants| {
        let Some(id) = find(grants, id, &user) else {
            // A Gatepass account without a grant has no business in a session; any other user is not ours to judge.
            let ours = AccountName::new(&user).map(|name| accounts.state(&name));
            let ours = matches!(ours, Ok(Ok(AccountState::Marked(_)))) || id.is_some();
            return if ours { Err(NotLive::Ended) } else { Ok(None) };
        };
        let session = process::session(pid).ok_or(NotLive::Ended)?;
        let right = grants.session_opened(&id, session, now())?.right.clone();
        // What an account of ours does by sudo stays in that account's cgroup, and ends with it.
        if matches!(&right, Right::Elevation { from, .. } if grants.of_account(from, now()).is_none()) {
            process::enclose(&session);
        }
        Ok(Some(id))
    };
    agent.with_grants(opened).await.unwrap_or(Err(NotLive::Ended))
}

/// A session ended. With the last one the grant ends, when the process that says so has left.
pub(crate) async fn close(agent: &Arc<Agent>, start: &Start, pid: u32) {
    let (id, user) = (start.session.map(GrantId), start.user.clone());
    let closed = move |grants: &mut Grants| {
        let id = find(grants, id, &user)?;
        let session = process::session(pid)?;
        // Root may start services that stay; nobody else stays behind in another user's rights.
        let stays =
            grants.get(&id).is_none_or(|grant| !matches!(&grant.right, Right::Elevation { to, .. } if to != "root"));
        grants.session_closed(&id, &session, now()).then_some((id, session, stays))
    };
    if let Some((id, session, stays)) = agent.with_grants(closed).await.flatten() {
        if !stays {
            // While it waits for our answer: once it has left, nobody knows whose these are.
            let _ = tokio::task::spawn_blocking(move || process::end_below(session)).await;
        }
        tokio::spawn(end_after(agent.clone(), id, session));
    }
}

async fn end_after(agent: Arc<Agent>, id: GrantId, session: Session) {
    let until = tokio::time::Instant::now() + LEAVE;
    while tokio::time::Instant::now() < until && process::session(session.pid) == Some(session) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    agent.end(id, EndReason::Logout).await;
}

/// Whether a session of the grant still runs.
pub(crate) fn is_somebody_in(grant: &Grant) -> bool {
    grant.sessions.iter().any(|open| process::session(open.pid) == Some(*open))
}

/// The live grant of a login: the one that its first phase left behind, else that of its account. (sshd authenticates in
/// another process than it opens the session in, and nothing is handed over but the user.) What is handed over is believed only
/// for the users that the grant is about.
fn find(grants: &Grants, id: Option<GrantId>, user: &str) -> Option<GrantId> {
    let at = now();
    let live = |grant: &&Grant| grant.is_live() && grant.deadline.left(at) > 0;
    let about = |grant: &&Grant| match &grant.right {
        Right::Account { name, .. } => name == user,
        Right::Elevation { from, to } => from == user || to == user,
    };
    let handed_over = id.and_then(|id| grants.get(&id)).filter(live).filter(about);
    handed_over.or_else(|| grants.of_account(user, at)).map(|grant| grant.id)
}

/// Ends what is due and warns what soon will be, every second, for as long as the daemon runs.
pub(crate) async fn watch(agent: Arc<Agent>) {
    let mut warned = HashSet::new();
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let look = |grants: &mut Grants| {
            let at = now();
            let due = grants.due(at);
            if let Err(error) = grants.tend_journal(at) {
                tracing::error!(%error, "the journal could not be written anew");
            }
            let live = grants.open_grants().filter(|grant| grant.is_live()).cloned().collect::<Vec<_>>();
            (due, live)
        };
        let Some((due, live)) = agent.with_grants(look).await else { continue };
        for (id, reason) in due {
            agent.end(id, reason).await;
        }
        warned.retain(|(id, _)| live.iter().any(|grant| grant.id == *id));
        for grant in live {
            if let Some(minutes) = due_warning(&grant, grant.deadline.left(now()), &mut warned) {
                tell(&grant.sessions, text::warning(grant.right.shown_account(), minutes)).await;
            }
        }
    }
}

/// The warning that is due and was not given yet. A grant that is shorter than that is not warned at its very beginning.
fn due_warning(grant: &Grant, left: u64, warned: &mut HashSet<(GrantId, u32)>) -> Option<u32> {
    let lasts = grant.deadline.wall.saturating_sub(grant.granted_at);
    let due = |minutes: &u32| left <= u64::from(minutes * 60) && lasts > u64::from(minutes * 60) && left > 0;
    let minutes = WARN_AT.into_iter().filter(due).min()?;
    warned.insert((grant.id, minutes)).then_some(minutes)
}

async fn tell(sessions: &[Session], message: String) {
    let sessions = sessions.to_vec();
    let told = tokio::task::spawn_blocking(move || write_to_terminals(&sessions, &message)).await;
    if let Err(error) = told {
        tracing::error!(%error, "a session could not be told");
    }
}

/// The last word, before a grant ends under somebody who did not ask for it; whether there was anybody to hear it. Blocks as
/// little as a terminal does.
pub(crate) fn say_goodbye(grant: &Grant, reason: EndReason) -> bool {
    let account = grant.right.shown_account();
    match reason {
        EndReason::Logout | EndReason::Failed => false,
        EndReason::Time => write_to_terminals(&grant.sessions, &text::ended(account)),
        _ => {
            let message = format!("Gatepass: the grant of {account} is over: {}.", reason.name());
            write_to_terminals(&grant.sessions, &message)
        }
    }
}

/// Whether there was a terminal to write to.
fn write_to_terminals(sessions: &[Session], message: &str) -> bool {
    let terminals = process::terminals(sessions);
    for path in &terminals {
        if let Err(error) = write_to_terminal(path, message) {
            tracing::debug!(path = %path.display(), %error, "a terminal could not be written to");
        }
    }
    !terminals.is_empty()
}

/// Writes as `wall` does: never becoming its owner, never waiting for a terminal that is stopped, nothing but a terminal.
fn write_to_terminal(path: &Path, message: &str) -> std::io::Result<()> {
    let flags = OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::NOFOLLOW;
    let mut terminal = OpenOptions::new().write(true).custom_flags(flags.bits() as i32).open(path)?;
    if !terminal.metadata()?.file_type().is_char_device() {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    terminal.write_all(format!("\r\n{}\r\n", text::clean(message)).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepass_agent_core::clock::{BootId, Deadline};
    use gatepass_agent_core::fault::Step;
    use gatepass_agent_core::grant::{Approval, Approver};
    use gatepass_protocol::ids::{DeviceId, Serial, TechnicianId};
    use gatepass_protocol::policy::Scenario;

    fn lasting(seconds: u64) -> Grant {
        Grant {
            id: GrantId([1; 16]),
            right: Right::Elevation { from: "carol".into(), to: "root".into() },
            approver: Approver {
                technician: TechnicianId([2; 16]),
                name: "alex".into(),
                device: DeviceId([3; 16]),
                certificate: Serial([4; 16]),
                chain: vec![],
            },
            scenario: Scenario::Elevation,
            approval: Approval([5; 32]),
            evidence: [6; 32],
            granted_at: 1000,
            deadline: Deadline { wall: 1000 + seconds, uptime: seconds, boot: BootId([7; 16]) },
            step: Step::Active,
            reason_to_end: None,
            sessions: vec![],
        }
    }

    #[test]
    fn a_session_is_warned_five_minutes_and_one_minute_before_its_end_and_once_each() {
        let (grant, mut warned) = (lasting(1800), HashSet::new());
        let said: Vec<_> =
            (0..=1800).rev().filter_map(|left| Some((left, due_warning(&grant, left, &mut warned)?))).collect();
        assert_eq!(said, [(300, 5), (60, 1)]);
        // An agent that was away at the fifth minute warns when it is back; a short grant is not warned as it begins.
        assert_eq!(due_warning(&grant, 200, &mut HashSet::new()), Some(5));
        assert_eq!(due_warning(&lasting(300), 299, &mut HashSet::new()), None);
        assert_eq!(due_warning(&lasting(300), 60, &mut HashSet::new()), Some(1));
    }

    #[test]
    fn only_a_terminal_is_written_to() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "untouched").unwrap();
        assert!(write_to_terminal(&file, "Gatepass").is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "untouched");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        assert!(write_to_terminal(&link, "Gatepass").is_err(), "no link is followed");
    }
}
