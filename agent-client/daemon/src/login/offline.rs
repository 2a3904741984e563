//! A login by offline code: no phone is reached, but one shows digits that only it and this computer can compute.
//!
//! The order is that of an approval: certificate, time, revocation and policy by what this computer holds; the code, whose try is on
//! the disk before it is compared; then the trail, the journal, the act. What this computer holds may be old: how old, the policy says.

use std::sync::Arc;
use std::time::Duration;

use gatepass_accounts::{AccountError, AccountName};
use gatepass_agent_core::Wanted;
use gatepass_agent_core::fault::Step;
use gatepass_agent_core::grant::{Approval, Approver};
use gatepass_client::edge;
use gatepass_logon::picture::Style;
use gatepass_logon::text::{self, Refusal};
use gatepass_logon::wire::Start;
use gatepass_protocol::Code;
use gatepass_protocol::event::{Event, EventKind};
use gatepass_protocol::ids::{DeviceId, GrantId};
use gatepass_protocol::offline::{
    Challenge, ChallengeQr, CodeKey, Mode, Offer, OfflineTerms, Question, TIME_SLACK, TIME_STEP, TRIES, offers,
};
use gatepass_protocol::order::EndReason;
use gatepass_protocol::policy::{self, AccountKind, named_account};
use gatepass_protocol::statement::DeviceTerms;
use gatepass_protocol::trust::Certified;
use tokio::time::Instant;

use super::grant::{LONGEST_REASON, at_most, begin, said, tell};
use super::question::{Asked, Wish, spec};
use crate::agent::Agent;
use crate::clock::now;
use crate::door::{Gone, Terminal};
use crate::offline::counters::NoGuess;

/// How long a challenge is good: to fetch a phone and to type twice ten characters.
const PATIENCE: Duration = Duration::from_secs(300);

/// What the policy says of offline codes for this scenario, if it takes them. Whether it is in time is asked later, for the clock may be
/// what is wrong.
pub(super) fn terms(agent: &Agent, asked: &Asked) -> Option<OfflineTerms> {
    let terms = agent.trust.read().policy()?.offline()?;
    terms.scenarios.contains(&asked.scenario).then_some(terms)
}

/// A code that was right.
struct Right {
    device: Certified<DeviceTerms>,
    account: String,
    offer: Offer,
    question: Question,
}

/// Asks for a code and acts on it.
pub(super) async fn log_in(
    agent: &Arc<Agent>,
    asked: &Asked,
    terms: &OfflineTerms,
    start: &Start,
    terminal: &mut Terminal,
) -> Result<Result<(), Refusal>, Gone> {
    if let Err(refusal) = may_judge(agent, terms).await {
        return Ok(Err(refusal));
    }
    let deadline = Instant::now() + PATIENCE;
    let technician = match &asked.right {
        Wish::Account(name) if !name.is_shared() => name.to_string(),
        _ => match ask(terminal, text::TECHNICIAN_PROMPT.to_owned(), deadline).await? {
            Some(name) => named_account(name.trim().strip_prefix("gp-").unwrap_or(name.trim())),
            None => return Ok(Err(Refusal::WrongOfflineCode)),
        },
    };
    let right = match right_code(agent, asked, &technician, start, terminal, deadline).await? {
        Ok(right) => right,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let reason = match right.offer.reason {
        true => ask(terminal, text::REASON_PROMPT.to_owned(), deadline).await?.unwrap_or_default(),
        false => String::new(),
    };
    if right.offer.reason && reason.trim().is_empty() {
        let reason = "The policy asks for a reason, and none was given. Try again with a new code.".to_owned();
        return Ok(Err(Refusal::Because { reason }));
    }
    act(agent, asked, right, &reason, terminal).await
}

/// Whether this computer can judge codes at all, by what it holds.
async fn may_judge(agent: &Arc<Agent>, terms: &OfflineTerms) -> Result<(), Refusal> {
    let because = |reason: String| Refusal::Because { reason };
    if agent.offline.key.is_none() {
        return Err(because(
            "This computer has no key for offline codes yet. Once it is online, enrol it again: gatepass-agent enrol --again"
                .into(),
        ));
    }
    let at = now();
    // First, for all that follows goes by the clock: one that was set back would make the age less.
    let clock = agent.with_grants(move |grants| grants.check_clock(at)).await;
    clock.ok_or(Refusal::Broken)?.map_err(|error| because(error.to_string()))?;
    {
        let trust = agent.trust.read();
        trust.agent(&agent.identity.chain, at.wall).map_err(|code| because(code.to_string()))?;
        if !trust.policy_is_in_time(at.wall) {
            return Err(because("The tenant's policy has expired. Ask your administrator to sign a new one.".into()));
        }
    }
    let heard = agent.offline.counters().last_heard();
    let age = heard.map(|heard| at.wall.saturating_sub(heard));
    if age.is_none_or(|age| age > u64::from(terms.max_age_hours) * 3600) {
        return Err(Refusal::TooLongOffline { hours: terms.max_age_hours });
    }
    Ok(())
}

/// Shows a challenge and compares what is typed, as often as may be.
async fn right_code(
    agent: &Arc<Agent>,
    asked: &Asked,
    technician: &str,
    start: &Start,
    terminal: &mut Terminal,
    deadline: Instant,
) -> Result<Result<Right, Refusal>, Gone> {
    // Names that belong to nobody count as one: whoever makes them up fills no disk with them.
    let known = !agent.offline.devices_of(technician, &agent.trust.read()).is_empty();
    let counted = if known { technician } else { "" };
    if let Some(seconds) = agent.offline.counters().locked(counted, now()) {
        return Ok(Err(Refusal::Locked { seconds }));
    }
    let challenge = Challenge::new(asked.scenario, agent.computer, &mut edge::rng());
    let account = match &asked.right {
        Wish::AnyAccount => "",
        _ => &asked.request.user,
    };
    let qr = ChallengeQr::new(agent.tenant, agent.computer, challenge, account).map(|qr| qr.to_text());
    let shown = if account.is_empty() { technician } else { account };
    let screen = |style| text::offline_code(qr.as_deref(), &challenge.text(), &agent.machine.host, shown, style);
    let mut style: Style = start.style;
    let mut prompt = screen(style);
    let mut tries = TRIES;
    while tries > 0 {
        let Some(typed) = ask(terminal, prompt, deadline).await? else { return Ok(Err(Refusal::WrongOfflineCode)) };
        if let Some(wish) = style.wished(&typed) {
            style = wish;
            prompt = screen(style);
            continue;
        }
        tries -= 1;
        if let Err(why) = agent.offline.counters().guess(counted, now()) {
            return Ok(Err(refusal(why)));
        }
        if let Some((right, by_time)) = compare(agent, asked, technician, challenge, &typed) {
            return Ok(match agent.offline.counters().right(counted, by_time) {
                Ok(()) => Ok(right),
                Err(why) => Err(refusal(why)),
            });
        }
        prompt = text::wrong_offline_code(tries);
    }
    let event = Event { code: Some(Code::ConfirmCode), ..agent.event(EventKind::Alert) };
    let text = format!("{TRIES} wrong offline codes for {technician}, by {}", asked.request.service);
    agent.report(Event { scenario: Some(asked.scenario), account: asked.request.user.clone(), text, ..event });
    Ok(Err(Refusal::WrongOfflineCode))
}

fn refusal(why: NoGuess) -> Refusal {
    match why {
        NoGuess::Locked { seconds } => Refusal::Locked { seconds },
        NoGuess::Used => Refusal::Because { reason: Code::Duplicate.message().to_owned() },
        NoGuess::Disk(error) => Refusal::Because {
            reason: format!("Offline codes can't be counted ({error}), so none is taken. Free some space on the disk."),
        },
    }
}

/// Whether this is the code of one of the technician's phones for one of the things that the policy gives. All of them are computed,
/// whichever it is.
fn compare(
    agent: &Agent,
    asked: &Asked,
    technician: &str,
    challenge: Challenge,
    typed: &str,
) -> Option<(Right, Option<(DeviceId, u64)>)> {
    let own = agent.offline.key.as_ref()?;
    let (trust, at) = (agent.trust.read(), now().wall);
    let policy = trust.policy().filter(|_| trust.policy_is_in_time(at))?;
    let terms = policy.offline()?;
    let step = at / TIME_STEP;
    let mut found = None;
    for device in agent.offline.devices_of(technician, &trust) {
        let Ok(key) = CodeKey::of_agent(own, &device, agent.computer) else { continue };
        let question = policy::Question {
            technician: device.terms().technician,
            protection: device.terms().protection,
            computer: agent.computer,
            tags: &agent.tags,
            scenario: asked.scenario,
        };
        let id = DeviceId(device.statement().subject);
        let first_step = agent.offline.counters().first_step(id);
        // A name that is made up for one grant can't be agreed on with a phone that is not there.
        let accounts = asked.accounts(device.terms()).unwrap_or_default();
        for (kind, account) in accounts.into_iter().filter(|(kind, _)| *kind != AccountKind::Random) {
            for offer in offers(policy.terms(), &terms, &question, kind) {
                let by_time = |step| Question::of_time(&offer, &account, asked.scenario, step);
                let steps = step.saturating_sub(TIME_SLACK)..=step + TIME_SLACK;
                let steps = steps.filter(|step| terms.time_codes && *step >= first_step);
                let questions = std::iter::once(Question::of_challenge(&offer, &account, challenge));
                for question in questions.chain(steps.map(by_time)) {
                    if key.is_right(&question, offer.digits, typed) {
                        let by_time = (question.mode == Mode::Time).then_some((id, question.number));
                        let (device, account, offer) = (device.clone(), account.clone(), offer.clone());
                        found = Some((Right { device, account, offer, question }, by_time));
                    }
                }
            }
        }
    }
    found
}

/// From the right code to the right.
async fn act(
    agent: &Arc<Agent>,
    asked: &Asked,
    right: Right,
    reason: &str,
    terminal: &mut Terminal,
) -> Result<Result<(), Refusal>, Gone> {
    let (wanted, event) = match possible(agent, asked, &right).await {
        Ok(groups) => (wanted(agent, asked, &right, &groups), granted_event(agent, asked, &right, &groups, reason)),
        Err(reason) => return Ok(Err(Refusal::Because { reason })),
    };
    let event = Event { grant: Some(wanted.id), ..event };
    let grant = match begin(agent, wanted, event).await {
        Ok(grant) => grant,
        Err((_, refusal)) => return Ok(Err(refusal)),
    };
    // The relay may have come back, and with it a list that did not see this grant yet.
    let stands = agent.trust.read().device_stands(&right.device, now().wall);
    if let Err(code) = stands {
        agent.end(grant.id, EndReason::Administrator).await;
        return Ok(Err(Refusal::Because { reason: code.to_string() }));
    }
    let told = tell(&grant, terminal).await;
    if told.is_err() && grant.step != Step::Active {
        agent.end(grant.id, EndReason::Failed).await;
    }
    told.map(Ok)
}

/// The offer's groups that this computer has, once it is sure that the account can be had.
async fn possible(agent: &Arc<Agent>, asked: &Asked, right: &Right) -> Result<Vec<String>, String> {
    if right.offer.kind == AccountKind::Own {
        return Ok(Vec::new());
    }
    let (agent, asked, device) = (agent.clone(), asked.clone(), right.device.clone());
    let (account, groups) = (right.account.clone(), right.offer.groups.clone());
    // Looks up accounts and groups on the disk.
    let look = move || {
        asked.can_go_on(&agent, device.terms(), now().wall).map_err(|(_, reason)| reason)?;
        let name = AccountName::new(&account).map_err(|error| error.to_string())?;
        let has = |group: &String| {
            let one = spec(name.clone(), device.terms(), std::slice::from_ref(group), now().wall);
            match agent.accounts.check(&one) {
                Err(AccountError::UnknownGroup { group }) => {
                    tracing::warn!(group, "the policy gives a group that this computer does not have");
                    false
                }
                // What else is wrong is said when the account is made.
                _ => true,
            }
        };
        Ok(groups.into_iter().filter(has).collect())
    };
    tokio::task::spawn_blocking(look).await.unwrap_or_else(|_| Err("The agent is stopping. Try again.".to_owned()))
}

fn wanted(agent: &Agent, asked: &Asked, right: &Right, groups: &[String]) -> Wanted {
    let (device, at) = (&right.device, now().wall);
    let trust = agent.trust.read();
    let policy = trust.policy().map(|policy| policy.terms());
    let evidence = right.question.evidence();
    Wanted {
        id: GrantId::random(&mut edge::rng()),
        right: asked.right(right.offer.kind, &right.account, groups, policy),
        approver: Approver {
            technician: device.terms().technician,
            name: device.terms().technician_name.clone(),
            device: DeviceId(device.statement().subject),
            certificate: device.statement().serial,
            chain: vec![device.bytes().clone()],
        },
        scenario: asked.scenario,
        // A challenge is random and a step of the time used once, so no two codes of a device have one name.
        approval: Approval(name_of(&evidence, device)),
        evidence,
        until: at + u64::from(right.offer.minutes) * 60,
    }
}

/// SHA-256 of what the code was computed over, and of the certificate's serial.
fn name_of(evidence: &[u8; 32], device: &Certified<DeviceTerms>) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    Sha256::new().chain_update(evidence).chain_update(device.statement().serial.0).finalize().into()
}

fn granted_event(agent: &Agent, asked: &Asked, right: &Right, groups: &[String], reason: &str) -> Event {
    let how = match right.question.mode {
        Mode::Challenge => "by offline code",
        Mode::Time => "by offline code, of the time",
    };
    Event {
        technician: Some(right.device.terms().technician),
        device: Some(right.device.statement().serial),
        scenario: Some(asked.scenario),
        account: right.account.clone(),
        evidence: right.question.evidence().to_vec(),
        text: said(&[
            ("", how),
            ("in ", &groups.join(", ")),
            ("for at most ", &format!("{} min", right.offer.minutes)),
            ("command: ", &asked.request.command),
            ("reason: ", &at_most(reason.trim(), LONGEST_REASON)),
        ]),
        ..agent.event(EventKind::Granted)
    }
}

/// Asks; `None` when nobody answered in time, or nothing was typed.
async fn ask(terminal: &mut Terminal, prompt: String, deadline: Instant) -> Result<Option<String>, Gone> {
    let left = deadline.saturating_duration_since(Instant::now());
    let typed = terminal.ask(prompt, true, left).await?;
    Ok(typed.map(|typed| typed.as_str().to_owned()).filter(|typed| !typed.trim().is_empty()))
}
