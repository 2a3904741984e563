//! What any phone does, whatever it looks like: keys, enrolment, login, orders, receipts.
//!
//! ```text
//! keys      two keys that work unattended, one that approves and needs its person
//! enrol     ticket -> request -> an administrator compares fingerprints -> certificate
//! slot      two words -> a code -> a ticket
//! profile   what the phone keeps of that, and whom it believes
//! login     scanned code -> question -> approve or deny -> outcome
//! presence  which computers are on
//! orders    list and end grants, outside a pairing
//! directory which computers there are, by certificate
//! offline   codes for a computer whose relay is away
//! book      the computers, the live grants, the receipts, each checked again when it is shown
//! ```
//!
//! A phone's whole evening:
//!
//! ```no_run
//! # async fn evening(text: &str, profile: &gatepass_mobile::profile::Profile, pin: &str) -> Result<(), Box<dyn std::error::Error>> {
//! use gatepass_client::{Connection, edge};
//! use gatepass_mobile::{keys::ApprovalKey, login};
//! use gatepass_protocol::pairing::{messages::Verification, phone::{Chosen, DeviceIdentity, Scan}};
//! use gatepass_protocol::policy::AccountKind;
//!
//! let scan = Scan::from_text(text)?;
//! let mut trust = profile.trust()?;
//! let identity = DeviceIdentity::new(profile.chain()?, profile.channel_key(), profile.sign_key())?;
//! let mut connection = Connection::start(profile.settings(&trust, Some(scan.relay_idx()))?);
//!
//! let question = login::begin(&mut connection, scan, &identity, &mut trust).await?;
//! println!("{} asks", gatepass_mobile::clean(&question.asked().agent().terms().computer));
//! let chosen = Chosen {
//!     kind: AccountKind::Named,
//!     groups: vec!["adm".into()],
//!     minutes: 30,
//!     reason: "disk full".into(),
//!     ticket: String::new(),
//!     verification: Verification::Pin,
//! };
//! let key = ApprovalKey::open(profile.sealed_approval_key(), pin)?;
//! let approved = question.approve(&connection, &chosen, &identity, &key).await?;
//! println!("type {} at the computer", approved.confirm_code());
//! println!("{:?}", approved.outcome(&mut connection).await?);
//! # Ok(()) }
//! ```
//!
//! The app around it has the camera, the screen and the storage. It shows nothing that came over the wire without [`clean`].

pub mod book;
pub mod directory;
pub mod enrol;
pub mod keys;
pub mod login;
pub mod offline;
pub mod orders;
pub mod presence;
pub mod profile;
pub mod slot;

/// A text that can only write letters on a screen: control characters (escape sequences, line breaks, C1) and characters that
/// reorder or hide their neighbours (bidirectional overrides, zero width) become `?`.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if harmless(c) { c } else { '?' }).collect()
}

fn harmless(c: char) -> bool {
    let hides_or_reorders = matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}');
    !(c.is_control() || hides_or_reorders)
}

#[cfg(test)]
mod tests {
    use super::clean;

    #[test]
    fn a_hostile_name_can_neither_steer_the_screen_nor_read_backwards() {
        assert_eq!(clean("web\u{1b}[2J\n\u{9b}1m\u{202e}gpj.exe\u{200b}"), "web?[2J??1m?gpj.exe?");
        assert_eq!(clean("Zo\u{eb}'s 中文 rm -rf \"/\""), "Zo\u{eb}'s 中文 rm -rf \"/\"");
    }
}
