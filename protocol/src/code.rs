//! Every way in which a pairing or a relay connection fails: one number on the wire, one sentence for a person, one thing
//! to do next.
//!
//! 10 to 19 come from a relay, in the clear. 20 and up travel only inside the channel and only after M3: before that both
//! ends fail in one generic way, so that somebody who probes learns nothing.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal, $message:literal, $todo:literal;)*) => {
        /// What went wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(into = "u8", try_from = "u8")]
        #[repr(u8)]
        pub enum Code { $($(#[$doc])* $name = $number,)* }

        impl Code {
            /// All of them, by rising number.
            pub const ALL: &[Code] = &[$(Code::$name),*];

            /// The number on the wire.
            pub fn number(self) -> u8 {
                self as u8
            }

            /// The code of a number, if there is one.
            pub fn from_number(number: u8) -> Option<Code> {
                match number { $($number => Some(Code::$name),)* _ => None }
            }

            /// A stable name in `snake_case`: a metric's label, a test vector's expectation.
            pub fn name(self) -> &'static str {
                match self { $(Code::$name => $text,)* }
            }

            /// What happened, as a sentence for a person.
            pub fn message(self) -> &'static str {
                match self { $(Code::$name => $message,)* }
            }

            /// What that person can do next, as a sentence.
            pub fn todo(self) -> &'static str {
                match self { $(Code::$name => $todo,)* }
            }
        }
    };
}

codes! {
    /// A relay frame does not decode, or makes no sense in this state.
    BadFrame = 10, "bad_frame", "The relay could not read what was sent.", "Update Gatepass on this side and try again.";
    /// No such pairing or channel.
    Unknown = 11, "unknown", "This QR code is not known to the relay.", "Scan the code that is on the screen now.";
    /// Another phone was first.
    Claimed = 12, "claimed", "This QR code was already scanned by another phone.", "If that was not you, do not approve anything; ask for a new code.";
    /// The pairing's time is over.
    Expired = 13, "expired", "This QR code has expired.", "Scan the new code on the screen.";
    /// Too many requests.
    Rate = 14, "rate", "Too many attempts in a short time.", "Wait a minute and try again.";
    /// A frame or queue is too large.
    Size = 15, "size", "The message is too large for the relay.", "Shorten the reason or the command and try again.";
    /// The resume token is wrong, or the pairing can't be resumed any more.
    ResumeDenied = 16, "resume_denied", "The interrupted login can't be resumed.", "Scan the new code on the screen.";
    /// The tenant's or connection's quota is used up.
    Quota = 17, "quota", "The quota of this organisation on the relay is used up.", "Wait a minute; if it stays, tell your administrator.";
    /// The certificate does not give this right.
    NotAllowed = 18, "not_allowed", "The relay does not allow this for this certificate.", "Enrol this device or computer again, or tell your administrator.";
    /// The relay is going down; another one is ready.
    Draining = 19, "draining", "The relay is being restarted.", "Nothing to do: the connection comes back by itself.";
    /// No common protocol version.
    Version = 20, "version", "The phone and the computer speak different versions of Gatepass.", "Update the older of the two.";
    /// No common cipher suite.
    Suite = 21, "suite", "The phone and the computer have no cipher suite in common.", "Update the older of the two.";
    /// A certificate is missing, expired, of another tenant, or not signed by a trusted CA.
    Certificate = 30, "certificate", "The certificate is not valid for this organisation.", "Enrol the device again with your administrator.";
    /// A certificate, its owner or its issuer was revoked.
    Revoked = 31, "revoked", "This device or computer has been revoked.", "Ask your administrator to enrol it again.";
    /// A policy or revocation list is older than one already seen.
    StaleEpoch = 32, "stale_epoch", "The policy or revocation list is out of date.", "Check the computer's connection and try again.";
    /// The policy does not allow what was approved.
    Policy = 33, "policy", "The policy does not allow this.", "Choose what the phone offers, or ask your administrator for the right.";
    /// The confirm code is wrong.
    ConfirmCode = 34, "confirm_code", "The code typed at the computer is not the one on the phone.", "Make sure you stand at the right computer, then scan its new code.";
    /// The approval was made for something else.
    Context = 35, "context", "The approval does not belong to this login.", "Scan the new code on the screen; if it happens again, tell your administrator.";
    /// The request's or the approval's time is over.
    TimedOut = 36, "timed_out", "The approval came too late.", "Scan the new code on the screen.";
    /// The approval was used before.
    Duplicate = 37, "duplicate", "This approval was already used.", "Scan a new code for a new login.";
    /// The account can't be made ready.
    Account = 40, "account", "The account could not be made ready on the computer.", "Run 'gatepass-agent doctor' on the computer, or choose another account.";
    /// The directory refused or can't be reached.
    Directory = 41, "directory", "The directory could not be reached or refused the change.", "Check the domain controller, then try again.";
    /// The account lacks a logon right.
    LogonRight = 42, "logon_right", "The account lacks the right to log on in this way.", "Choose a group that has the right, or ask your administrator.";
}

impl fmt::Display for Code {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} ({})", self.message(), self.todo(), self.number())
    }
}

impl std::error::Error for Code {}

impl From<Code> for u8 {
    fn from(code: Code) -> u8 {
        code.number()
    }
}

impl TryFrom<u8> for Code {
    type Error = &'static str;
    fn try_from(number: u8) -> Result<Self, &'static str> {
        Code::from_number(number).ok_or("not a code of gp1")
    }
}

#[cfg(test)]
mod tests {
    use super::Code;

    #[test]
    fn every_code_has_its_own_number_name_and_sentences() {
        for (at, code) in Code::ALL.iter().enumerate() {
            assert_eq!(Code::from_number(code.number()), Some(*code));
            for text in [code.message(), code.todo()] {
                assert!(text.ends_with('.') && text.starts_with(|first: char| first.is_uppercase()), "{text}");
            }
            for other in &Code::ALL[at + 1..] {
                assert!(
                    other.number() > code.number() && other.name() != code.name() && other.message() != code.message()
                );
            }
        }
        assert_eq!(Code::from_number(0), None);
    }
}
