//! What can be known of the terminal, to choose a picture by.

use rustix::fs::{Mode, OFlags};
use rustix::termios::{Winsize, tcgetwinsize};

/// A terminal's abilities.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terminal {
    /// Whether it can show half blocks.
    pub utf8: bool,
    /// Its width.
    pub columns: u16,
    /// Its height.
    pub rows: u16,
    /// `TERM`.
    pub kind: Option<String>,
}

impl Terminal {
    /// The terminal at the other end of ssh: sshd authenticates before it has one, so this assumes what nearly all are.
    pub fn assumed() -> Self {
        Self { utf8: true, columns: 80, rows: 24, kind: None }
    }

    /// The terminal of this process. Its environment may be that of whoever called sudo, which is good enough for a picture.
    pub fn of_this_process() -> Self {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let locale = variable("LC_ALL").or_else(|| variable("LC_CTYPE")).or_else(|| variable("LANG"));
        let (columns, rows) = size().unwrap_or((80, 24));
        Self { utf8: can_utf8(locale.as_deref()), columns, rows, kind: variable("TERM") }
    }
}

/// A locale that says nothing says nothing about the terminal either, and nearly all are UTF-8; one that names another charset, or C,
/// was chosen by somebody.
fn can_utf8(locale: Option<&str>) -> bool {
    locale.map(str::to_ascii_lowercase).is_none_or(|locale| locale.contains("utf-8") || locale.contains("utf8"))
}

fn size() -> Option<(u16, u16)> {
    let terminal = rustix::fs::open("/dev/tty", OFlags::RDONLY | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).ok();
    let known = |size: Winsize| (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row));
    known(tcgetwinsize(terminal?).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_taken_for_utf8_unless_its_locale_says_otherwise() {
        for yes in [None, Some("C.UTF-8"), Some("de_DE.utf8"), Some("en_GB.UTF-8@euro")] {
            assert!(can_utf8(yes), "{yes:?}");
        }
        for no in ["C", "POSIX", "de_DE", "de_DE.ISO-8859-1"] {
            assert!(!can_utf8(Some(no)), "{no}");
        }
    }
}
