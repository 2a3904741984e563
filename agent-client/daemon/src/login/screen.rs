//! What the person at the computer sees while a phone is awaited.
//!
//! sudo, su and login show what they are told at once: each new code replaces the one before it, and the login goes on the
//! moment the phone has approved. ssh shows nothing but prompts, and takes nothing new before the prompt is answered: the
//! picture is part of it, "approve, then press Enter", and a code that became too old meanwhile is replaced after that Enter.

use std::sync::Arc;

use gatepass_logon::picture::Style;
use gatepass_logon::text::{self, Refusal};
use gatepass_logon::wire::{FromDaemon, FromModule, Start};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::phone::{self, Codes, Consent, Shown};
use super::question::Asked;
use crate::agent::Agent;
use crate::door::{Gone, Terminal};

/// Shows codes until a phone has approved, somebody gave up, or it is sure that nobody will.
pub(crate) async fn wait_for_phone(
    agent: &Arc<Agent>,
    asked: &Asked,
    start: &Start,
    terminal: &mut Terminal,
) -> Result<Result<Consent, Refusal>, Gone> {
    let (newest, codes) = watch::channel(Shown::default());
    let asked = Arc::new(asked.clone());
    if start.live {
        let phone = phone::approval(agent, &asked, Codes { newest, wanted: None });
        live(phone, codes, start.style, terminal).await
    } else {
        let wanted = Arc::new(Notify::new());
        let phone = phone::approval(agent, &asked, Codes { newest, wanted: Some(wanted.clone()) });
        by_prompt(phone, codes, &wanted, start.style, terminal).await
    }
}

async fn live(
    phone: impl Future<Output = Result<Consent, Refusal>>,
    mut codes: watch::Receiver<Shown>,
    style: Style,
    terminal: &mut Terminal,
) -> Result<Result<Consent, Refusal>, Gone> {
    tokio::pin!(phone);
    loop {
        tokio::select! {
            outcome = &mut phone => return Ok(outcome),
            Ok(()) = codes.changed() => {
                let code = codes.borrow_and_update().code.clone();
                terminal.tell(&FromDaemon::Info(text::waiting(&code, style))).await?;
            }
            // Nothing was asked, so whatever comes is the end of it.
            _ = terminal.next() => return Err(Gone),
        }
    }
}

async fn by_prompt(
    phone: impl Future<Output = Result<Consent, Refusal>>,
    mut codes: watch::Receiver<Shown>,
    wanted: &Notify,
    mut style: Style,
    terminal: &mut Terminal,
) -> Result<Result<Consent, Refusal>, Gone> {
    tokio::pin!(phone);
    let mut outcome = None;
    let mut asking = false;
    loop {
        tokio::select! {
            done = &mut phone, if outcome.is_none() => outcome = Some(done),
            Ok(()) = codes.changed(), if !asking && outcome.is_none() => {
                let code = codes.borrow_and_update().code.clone();
                prompt(terminal, text::approve_then_enter(&code, style)).await?;
                asking = true;
            }
            said = terminal.next(), if asking => {
                asking = false;
                let FromModule::Answer(answer) = said? else { return Err(Gone) };
                if outcome.is_none() {
                    if codes.has_changed().unwrap_or(false) {
                        continue; // the one on the screen was burnt meanwhile; the new one is prompted for
                    }
                    let shown = codes.borrow().clone();
                    let old = shown.until.is_none_or(|until| Instant::now() >= until);
                    if old {
                        // The next code is prompted for when it is there.
                        wanted.notify_one();
                        continue;
                    }
                    let again = match style.wished(answer.as_str()) {
                        Some(wish) => {
                            style = wish;
                            text::approve_then_enter(&shown.code, style)
                        }
                        None => text::NOT_APPROVED_YET.to_owned(),
                    };
                    prompt(terminal, again).await?;
                    asking = true;
                }
            }
        }
        if !asking && let Some(outcome) = outcome.take() {
            return Ok(outcome);
        }
    }
}

async fn prompt(terminal: &mut Terminal, text: String) -> Result<(), Gone> {
    terminal.tell(&FromDaemon::Prompt { text, echo: true }).await
}
