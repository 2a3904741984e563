//! Every sentence that a person reads at the computer.
//!
//! A screen is a picture with its instruction, made to fit 80x24. A [`Refusal`] says what happened and what to do next. Texts
//! may carry names from elsewhere (an account, a relay's address, a policy's words), so whatever reaches a terminal goes
//! through [`clean`] first: the PAM module does that for all it shows, the daemon for what it writes to a session.

use std::fmt;

use crate::picture::{Style, render};

/// The screen for surfaces that show it at once (sudo, su, login) and wait: picture, then cursor, 24 rows in all.
pub fn waiting(code: &str, style: Style) -> String {
    picture(code, style) + "Waiting for your approval there ..."
}

/// The same as a prompt, for ssh, which can only show it by asking something.
///
/// OpenSSH writes `(user@host) ` before the first line. The answer is an empty line once approved, or a
/// wish for another picture ([`Style::wished`]).
pub fn approve_then_enter(code: &str, style: Style) -> String {
    picture(code, style) + "Approve there, then press Enter (i inverts, a ASCII, t text): "
}

fn picture(code: &str, style: Style) -> String {
    let picture = render(code, style);
    match style {
        Style::Text => format!("Paste this code into Gatepass on your phone:\n\n{picture}\n"),
        _ => format!("Scan this with Gatepass on your phone:\n{picture}"),
    }
}

/// Asked again when Enter came before the approval.
pub const NOT_APPROVED_YET: &str = "Not approved yet. Approve on your phone, then press Enter: ";

/// The confirm code: shown on the phone, typed here, so that a swapped QR code is noticed.
pub const CODE_PROMPT: &str = "Type the 3 digits that your phone shows: ";

/// The screen for an offline code: a challenge, as a QR code and as text, and the question for the code. `qr` is the QR code's text,
/// where there is one. It fits 80x24, for ssh too.
pub fn offline_code(qr: Option<&str>, challenge: &str, computer: &str, account: &str, style: Style) -> String {
    match qr.filter(|_| style != Style::Text) {
        Some(qr) => {
            let picture = render(qr, style);
            format!(
                "Offline code: scan this with Gatepass on your phone,\n{picture}or type {challenge} there. The code: "
            )
        }
        None => format!(
            "Offline code: in Gatepass on your phone choose the computer {computer},\nthe account {account}, and type the \
             challenge {challenge}\nThe code: "
        ),
    }
}

/// Asked again when an offline code was wrong.
pub fn wrong_offline_code(tries: u32) -> String {
    let tries = if tries == 1 { "1 try is".to_owned() } else { format!("{tries} tries are") };
    format!("That is not the code; {tries} left. The code: ")
}

/// Whose phone the code will come from, where the login does not say it.
pub const TECHNICIAN_PROMPT: &str = "Offline code. Your name as a technician (alex for gp-alex): ";

/// Asked where the policy wants a reason and no phone can send one.
pub const REASON_PROMPT: &str = "The reason for this: ";

/// Asked where offline codes are taken while the relay is there.
pub const WHICH_WAY: &str = "Press Enter for a QR code, or type o for an offline code: ";

/// Said when the grant is active. `until` is a local time of day.
pub fn granted(account: &str, until: &str) -> String {
    format!("Approved. You are {account} until {until}.")
}

/// Said when a command or a shell was approved for a user who stays who they are.
pub fn elevated(until: &str) -> String {
    format!("Approved until {until}.")
}

/// Written into the session before its time is over.
pub fn warning(account: &str, minutes: u32) -> String {
    let minutes = if minutes == 1 { "1 minute".to_owned() } else { format!("{minutes} minutes") };
    format!("Gatepass: {account} ends in {minutes}, and every program it runs with it. Save your work.")
}

/// Written into the session when its time is over.
pub fn ended(account: &str) -> String {
    format!("Gatepass: the time of {account} is over.")
}

/// Why there is no way in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The technician said no.
    Denied,
    /// The technician said "that was not me".
    NotMe,
    /// Nobody approved in time.
    Expired,
    /// The digits typed here were not those on the phone.
    WrongCode,
    /// The phone went away in the middle, or what came was not from it.
    Broken,
    /// The agent has no connection to its relay.
    Unreachable {
        /// Which relay.
        relay: String,
    },
    /// This computer has not heard from its control plane for longer than the policy lets offline codes be taken.
    TooLongOffline {
        /// The policy's hours.
        hours: u32,
    },
    /// Too many wrong offline codes.
    Locked {
        /// For how many more seconds.
        seconds: u64,
    },
    /// What was typed was no right offline code, as often as that may be.
    WrongOfflineCode,
    /// As many logins wait for a phone as may, of all or of this user or host.
    TooMany,
    /// The agent is there, but its computer is not enrolled.
    NotEnrolled,
    /// No agent answers at the socket.
    NoAgent {
        /// Where it was looked for.
        socket: String,
    },
    /// Somebody else than root answers at the socket.
    NotTheAgent {
        /// Where.
        socket: String,
    },
    /// The agent stopped answering in the middle.
    AgentGone,
    /// Refused for a reason that has its own words (a protocol code's message, a clash of accounts).
    Because {
        /// What happened and what to do next.
        reason: String,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied => f.write_str("Denied on the phone. Try again if that was a slip."),
            Self::NotMe => f.write_str(
                "Denied on the phone as somebody else's request. If it was yours, scan again; if not, tell your administrator.",
            ),
            Self::Expired => f.write_str("Nobody approved in time. Try again, and scan the new code."),
            Self::WrongCode => f.write_str(
                "These are not the digits that the phone shows. Try again. If they did match, don't: tell your administrator.",
            ),
            Self::Broken => f.write_str("The connection to the phone broke. Try again, and scan the new code."),
            Self::Unreachable { relay } => {
                write!(f, "This computer can't reach the relay {relay}. Check its network, or run: gatepass-agent doctor")
            }
            Self::TooLongOffline { hours } => write!(
                f,
                "This computer has heard no news for over {hours} h, so it takes no offline code. Connect it, or run: gatepass-agent doctor"
            ),
            Self::Locked { seconds } => {
                write!(f, "Too many wrong offline codes. Try again in {}.", duration(*seconds))
            }
            Self::WrongOfflineCode => f.write_str(
                "No right offline code was typed. Try again, and compare computer, account and challenge with the phone.",
            ),
            Self::TooMany => {
                f.write_str("Too many logins are waiting for a phone on this computer. Try again in a minute.")
            }
            Self::NotEnrolled => f.write_str("This computer is not enrolled. As root run: gatepass-agent enrol"),
            Self::NoAgent { socket } => {
                write!(f, "The Gatepass agent does not answer at {socket}. As root run: gatepass-agent doctor")
            }
            Self::NotTheAgent { socket } => {
                write!(f, "The program that answers at {socket} is not the Gatepass agent. Tell your administrator.")
            }
            Self::AgentGone => f.write_str("The Gatepass agent stopped in the middle. Try again in a moment."),
            Self::Because { reason } => f.write_str(reason),
        }
    }
}

fn duration(seconds: u64) -> String {
    match seconds {
        1 => "1 second".to_owned(),
        few @ ..=120 => format!("{few} seconds"),
        more => format!("{} minutes", more.div_ceil(60)),
    }
}

/// A text that can only write letters to a terminal: line breaks stay, every other control character (escape sequences,
/// bells, C1) and every character that reorders or hides its neighbours (bidirectional overrides, zero width) becomes `?`.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if harmless(c) { c } else { '?' }).collect()
}

fn harmless(c: char) -> bool {
    let hides_or_reorders = matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
    c == '\n' || !(c.is_control() || hides_or_reorders)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "GP1:QED8WEX0 C91/DG%6J74X.E$PE0/DG+6+94 /DTPE8+9 JC0/DO/E0/DY0DSUEEQDPED+EDIEDLPC6WE%6EO";

    /// The rows that a terminal of 80 columns needs for it, the cursor's included.
    fn rows(screen: &str) -> usize {
        screen.split('\n').map(|line| line.chars().count().div_ceil(80).max(1)).sum()
    }

    #[test]
    fn picture_and_prompt_fit_a_terminal_of_80x24() {
        // sudo, su and login end an information with a line break of their own.
        assert_eq!(rows(&(waiting(CODE, Style::HalfBlocks) + "\n")), 24);
        // ssh puts who and where in front; the longest account name at a long host name.
        let ssh = format!("(alex_566054625600@{}) {}", "h".repeat(63), approve_then_enter(CODE, Style::HalfBlocks));
        assert!(rows(&ssh) <= 24);
        assert!(rows(&approve_then_enter(CODE, Style::Text)) <= 24);
    }

    #[test]
    fn the_screen_for_an_offline_code_fits_too() {
        // The longest: an account of 32 characters.
        let qr = format!("GPC1:{}", "A".repeat(78));
        let screen = |style| offline_code(Some(&qr), "K7QM2-XWD4P", &"h".repeat(63), &"a".repeat(32), style);
        let ssh = |style| format!("({}@{}) {}", "a".repeat(32), "h".repeat(63), screen(style));
        assert!(rows(&ssh(Style::HalfBlocks)) <= 24, "{}", rows(&ssh(Style::HalfBlocks)));
        assert!(rows(&ssh(Style::Text)) <= 24);
        for style in [Style::HalfBlocks, Style::Text] {
            assert!(screen(style).contains("K7QM2-XWD4P"));
        }
        assert_eq!(screen(Style::HalfBlocks).matches('\n').count(), 22, "no larger than the code of a pairing");
    }

    #[test]
    fn a_warning_says_whose_time_ends_and_when() {
        assert!(warning("gp-alex", 5).contains("gp-alex ends in 5 minutes"));
        assert!(warning("gp-alex", 1).contains("in 1 minute,"));
    }

    #[test]
    fn a_refusal_fits_two_lines_and_says_what_to_do() {
        let refusals = [
            Refusal::Denied,
            Refusal::NotMe,
            Refusal::Expired,
            Refusal::WrongCode,
            Refusal::Broken,
            Refusal::Unreachable { relay: "wss://relay.example.com".into() },
            Refusal::TooLongOffline { hours: 720 },
            Refusal::Locked { seconds: 86_400 },
            Refusal::WrongOfflineCode,
            Refusal::TooMany,
            Refusal::NotEnrolled,
            Refusal::NoAgent { socket: "/run/gatepass/pam.sock".into() },
            Refusal::NotTheAgent { socket: "/run/gatepass/pam.sock".into() },
            Refusal::AgentGone,
        ];
        for refusal in refusals {
            let sentence = refusal.to_string();
            assert!(sentence.len() <= 160, "{sentence}");
            assert!(["ry again", "run:", "administrator"].iter().any(|todo| sentence.contains(todo)), "{sentence}");
        }
    }

    #[test]
    fn nothing_hostile_reaches_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\x07\rc\u{9b}31m\x7f\nd\te"), "a?[2Jb??c?31m?\nd?e");
        assert_eq!(clean("safe\u{202e}txt.exe\u{200b}\u{2066}"), "safe?txt.exe??");
        assert_eq!(clean("Zo\u{eb} \u{2588}\u{2580}\u{2584} \u{4e2d}"), "Zo\u{eb} \u{2588}\u{2580}\u{2584} \u{4e2d}");
    }
}
