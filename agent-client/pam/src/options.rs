//! What the administrator writes behind `pam_gatepass.so` in a PAM stack.

use std::path::PathBuf;
use std::time::Duration;

use gatepass_logon::picture::Style;

/// Where the daemon listens.
const SOCKET: &str = "/run/gatepass/pam.sock";
/// How long the daemon may be silent: a pairing's 90 s, and time to spare for the daemon to say that it expired.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The module's options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// `socket=PATH`: where the daemon listens.
    pub socket: PathBuf,
    /// `timeout=SECONDS`: for how long the daemon may be silent.
    pub timeout: Duration,
    /// `style=auto|blocks|ascii|blocks-inverted|ascii-inverted|text`: how to draw the code; None is `auto`.
    pub style: Option<Style>,
    /// `live=yes|no`: whether the program shows information at once; None: unless it is sshd.
    pub live: Option<bool>,
    /// `renames=yes|no`: whether the program goes on as the account that PAM names at the end; None: if it is login.
    pub renames: Option<bool>,
}

impl Default for Options {
    fn default() -> Self {
        Self { socket: SOCKET.into(), timeout: TIMEOUT, style: None, live: None, renames: None }
    }
}

impl Options {
    /// Reads the options; an error is the sentence for the log, and then the module refuses: a stack with a typing error must not mean
    /// something else than its author thinks.
    pub fn parse<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut options = Self::default();
        for argument in arguments {
            let wrong = || {
                format!(
                    "unknown option {argument:?}; there are socket=PATH, timeout=SECONDS, live=yes|no, renames=yes|no and \
                     style=auto|blocks|ascii|blocks-inverted|ascii-inverted|text"
                )
            };
            let (name, value) = argument.split_once('=').ok_or_else(wrong)?;
            match (name, value) {
                ("socket", path) if path.starts_with('/') => options.socket = path.into(),
                ("timeout", seconds) => match seconds.parse() {
                    Ok(seconds @ 1..=3600) => options.timeout = Duration::from_secs(seconds),
                    _ => return Err(format!("timeout={seconds}: seconds from 1 to 3600 are meant")),
                },
                ("live", "yes") => options.live = Some(true),
                ("live", "no") => options.live = Some(false),
                ("renames", "yes") => options.renames = Some(true),
                ("renames", "no") => options.renames = Some(false),
                ("style", "auto") => options.style = None,
                ("style", "blocks") => options.style = Some(Style::HalfBlocks),
                ("style", "ascii") => options.style = Some(Style::Ascii),
                ("style", "blocks-inverted") => options.style = Some(Style::HalfBlocksInverted),
                ("style", "ascii-inverted") => options.style = Some(Style::AsciiInverted),
                ("style", "text") => options.style = Some(Style::Text),
                _ => return Err(wrong()),
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_administrator_sets_every_option() {
        let options =
            Options::parse(["socket=/tmp/s", "timeout=30", "style=ascii-inverted", "live=no", "renames=yes"]).unwrap();
        let wanted = Options {
            socket: "/tmp/s".into(),
            timeout: Duration::from_secs(30),
            style: Some(Style::AsciiInverted),
            live: Some(false),
            renames: Some(true),
        };
        assert_eq!(options, wanted);
        assert_eq!(Options::parse([]).unwrap(), Options::default());
        assert_eq!(Options::parse(["style=auto"]).unwrap().style, None);
    }

    #[test]
    fn a_typing_error_is_refused_with_the_names_that_there_are() {
        for wrong in ["stile=ascii", "style=big", "socket=relative", "debug", "live=maybe"] {
            assert!(Options::parse([wrong]).unwrap_err().contains("style=auto|blocks"), "{wrong}");
        }
        assert!(Options::parse(["timeout=0"]).unwrap_err().contains("from 1 to 3600"));
    }
}
