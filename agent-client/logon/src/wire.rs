//! The frames of the local socket: a `u32` length (big endian, at most [`MAX_FRAME`]) and one msgpack value.
//!
//! One conversation is one connection: the module sends [`Start`], then does what each [`FromDaemon`] says, in order,
//! until [`FromDaemon::Done`]. Only a [`FromDaemon::Prompt`] is answered, by exactly one [`FromModule::Answer`] or
//! [`FromModule::Cancelled`]. A connection that ends earlier means that the other side died: for the module that is
//! "unavailable", for the daemon "the person went away".
//!
//! Decoding is strict: what was received must be exactly what encoding the value again gives, so there is one spelling of
//! each message, and nothing behind it. A message may carry a confirm code, so the buffers are wiped.

use std::fmt;
use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::picture::Style;

/// The longest body of a frame. The largest real one is a prompt with a half-block picture (3 KiB).
pub const MAX_FRAME: usize = 16 * 1024;

/// What the module says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromModule {
    /// The first and only opening message.
    Start(Start),
    /// What the person typed at the last prompt.
    Answer(Secret),
    /// The person gave up at the last prompt (Ctrl-C, Ctrl-D, a closed terminal).
    Cancelled,
}

/// Where the conversation takes place and what PAM wants to know.
///
/// The daemon trusts none of it for identity: that comes from the socket's peer credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// What PAM asks for.
    pub phase: Phase,
    /// `PAM_SERVICE`: "sshd", "sudo", "login".
    pub service: String,
    /// `PAM_USER`: whom the person wants to be.
    pub user: String,
    /// `PAM_RUSER`: who the person is already (sudo, su); empty when nobody.
    pub ruser: String,
    /// `PAM_RHOST`: where the person comes from; empty at the machine itself.
    pub rhost: String,
    /// `PAM_TTY`; "ssh" under sshd, which has no terminal yet when it authenticates.
    pub tty: String,
    /// The process that the module lives in.
    pub pid: u32,
    /// How to draw the QR code, by what the module knows of the terminal and by its `style=` option.
    pub style: Style,
    /// Whether [`FromDaemon::Info`] is shown at once. False under sshd, which holds it back until the next prompt: there the
    /// picture has to be part of a prompt.
    pub live: bool,
    /// Whether the program goes on as the account of [`FromDaemon::SetUser`]. Of those that Gatepass knows only login does. sshd and su look
    /// their user up first and go on as that one, whatever PAM says later: there the module refuses another name.
    pub renames: bool,
    /// What [`FromDaemon::SetSession`] left behind in an earlier phase of the same login.
    #[serde(with = "serde_bytes")]
    pub session: Option<[u8; 16]>,
}

/// What PAM asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Who is this? The only phase in which a person is asked anything.
    Authenticate,
    /// May this account be used now?
    Account,
    /// The session begins; the peer process is the ancestor of everything in it.
    OpenSession,
    /// The session ended.
    CloseSession,
}

/// What the daemon says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromDaemon {
    /// Show this.
    Info(String),
    /// Show this as an error.
    Error(String),
    /// Ask this and answer.
    Prompt {
        /// The whole prompt; it may have many lines.
        text: String,
        /// Whether the person sees what they type.
        echo: bool,
    },
    /// Set `PAM_USER`: the login goes on as this account. Where [`Start::renames`] is false it may only repeat [`Start::user`].
    SetUser(String),
    /// Remember this grant until the session's end and hand it back as [`Start::session`].
    SetSession(#[serde(with = "serde_bytes")] [u8; 16]),
    /// Set a variable in the session's environment: name, value.
    SetEnv(String, String),
    /// The end of the conversation.
    Done(Verdict),
}

/// How a phase ends, in words that PAM has a code for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Yes.
    Success,
    /// No: denied on the phone, wrong code, refused by policy, nobody answered.
    Denied,
    /// Can't say: relay unreachable, not enrolled, journal disk full.
    Unavailable,
    /// Not Gatepass's business: let the rest of the stack decide.
    Ignore,
    /// There is no such account and none is to be made.
    UserUnknown,
    /// The account is a Gatepass account whose time is over.
    Expired,
}

/// Something that a person typed: wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes over what was typed.
    pub fn new(typed: String) -> Self {
        Self(typed)
    }

    /// What was typed.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other side closed the connection. Give up: nothing more will come.
    #[error("the other side closed the connection")]
    Closed,
    /// The other side did not speak in time. Give up.
    #[error("the other side did not answer in time")]
    TimedOut,
    /// The other side doesn't speak this protocol (or another version of it). Give up; update both together.
    #[error("{what} on the local socket: agent and PAM module may be of different versions")]
    Garbage {
        /// What was wrong.
        what: &'static str,
    },
    /// The frame is longer than [`MAX_FRAME`].
    #[error("a frame of {got} bytes on the local socket, at most {MAX_FRAME} are allowed")]
    TooLong {
        /// Its length.
        got: usize,
    },
    /// The socket failed.
    #[error("the local socket failed: {0}")]
    Io(io::Error),
}

impl From<io::Error> for FrameError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::Closed,
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Self::TimedOut,
            _ => Self::Io(error),
        }
    }
}

/// The whole frame of a message: length and body.
pub fn encode<T: Serialize>(message: &T) -> Result<Zeroizing<Vec<u8>>, FrameError> {
    // All of it at once: a growing buffer would leave pieces of a typed code behind in freed memory.
    let mut frame = Zeroizing::new(Vec::with_capacity(4 + MAX_FRAME));
    frame.extend_from_slice(&[0; 4]);
    rmp_serde::encode::write(&mut *frame, message)
        .map_err(|_| FrameError::Garbage { what: "a message that can't be encoded" })?;
    let length = frame.len() - 4;
    if length > MAX_FRAME {
        return Err(FrameError::TooLong { got: length });
    }
    frame[..4].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(frame)
}

/// The length of the body that follows these first four bytes.
pub fn body_length(header: [u8; 4]) -> Result<usize, FrameError> {
    match u32::from_be_bytes(header) as usize {
        0 => Err(FrameError::Garbage { what: "an empty frame" }),
        got if got > MAX_FRAME => Err(FrameError::TooLong { got }),
        length => Ok(length),
    }
}

/// Decodes the body of a frame, strictly.
pub fn decode<T: Serialize + DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    let message = rmp_serde::from_slice(body).map_err(|_| FrameError::Garbage { what: "an unknown message" })?;
    match encode(&message)?.get(4..) {
        Some(again) if again == body => Ok(message),
        _ => Err(FrameError::Garbage { what: "a message that is not spelled the one right way" }),
    }
}

/// Reads one message; blocks until it is whole.
pub fn read_frame<T: Serialize + DeserializeOwned>(from: &mut impl Read) -> Result<T, FrameError> {
    let mut header = [0; 4];
    from.read_exact(&mut header)?;
    let mut body = Zeroizing::new(vec![0; body_length(header)?]);
    from.read_exact(&mut body)?;
    decode(&body)
}

/// Writes one message.
pub fn write_frame<T: Serialize>(to: &mut impl Write, message: &T) -> Result<(), FrameError> {
    to.write_all(&encode(message)?)?;
    Ok(to.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn start() -> Start {
        Start {
            phase: Phase::Authenticate,
            service: "sshd".into(),
            user: "gp-alex".into(),
            ruser: String::new(),
            rhost: "192.0.2.7".into(),
            tty: "ssh".into(),
            pid: 4711,
            style: Style::HalfBlocks,
            live: false,
            renames: false,
            session: Some([7; 16]),
        }
    }

    #[test]
    fn both_ends_understand_each_other() {
        let mut line = Vec::new();
        let said = [
            FromModule::Start(start()),
            FromModule::Start(Start { session: None, ..start() }),
            FromModule::Answer(Secret::new("123".into())),
            FromModule::Cancelled,
        ];
        for message in &said {
            write_frame(&mut line, message).unwrap();
        }
        let mut line = line.as_slice();
        for message in said {
            assert_eq!(read_frame::<FromModule>(&mut line).unwrap(), message);
        }
        assert!(matches!(read_frame::<FromModule>(&mut line), Err(FrameError::Closed)));
    }

    #[test]
    fn the_bytes_of_each_message_stay_as_they_are() {
        let hex = |m: &FromDaemon| encode(m).unwrap().iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(hex(&FromDaemon::Done(Verdict::Success)), "0000000e81a4446f6e65a753756363657373");
        assert_eq!(hex(&FromDaemon::Prompt { text: "?".into(), echo: true }), "0000000c81a650726f6d707492a13fc3");
        assert_eq!(
            hex(&FromDaemon::SetSession([1; 16])),
            "0000001e81aa53657453657373696f6ec41001010101010101010101010101010101"
        );
    }

    #[test]
    fn an_oversize_frame_is_refused_before_it_is_read() {
        let mut line = &(MAX_FRAME as u32 + 1).to_be_bytes()[..];
        assert!(matches!(read_frame::<FromDaemon>(&mut line), Err(FrameError::TooLong { .. })));
        let long = FromDaemon::Info("x".repeat(MAX_FRAME));
        assert!(matches!(encode(&long), Err(FrameError::TooLong { .. })));
    }

    #[test]
    fn a_second_spelling_is_refused() {
        let good = encode(&FromDaemon::Done(Verdict::Denied)).unwrap();
        assert!(decode::<FromDaemon>(&good[4..]).is_ok());
        let mut trailing = good[4..].to_vec();
        trailing.push(0xc0);
        assert!(matches!(decode::<FromDaemon>(&trailing), Err(FrameError::Garbage { .. })));
        // The variant by its number, which serde would also take.
        assert!(matches!(decode::<FromDaemon>(b"\x81\x06\xa6Denied"), Err(FrameError::Garbage { .. })));
    }

    #[test]
    fn a_typed_code_is_never_printed() {
        let message = FromModule::Answer(Secret::new("831".into()));
        assert!(!format!("{message:?}").contains("831"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_understood(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(message) = decode::<FromDaemon>(&bytes) {
                prop_assert_eq!(&encode(&message).unwrap()[4..], &bytes[..]);
            }
            let _ = read_frame::<FromModule>(&mut bytes.as_slice());
        }
    }
}
