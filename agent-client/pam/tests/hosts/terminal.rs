//! A person at a terminal of 80x24: tmux to type into and to look at, and a camera that reads its picture.

use std::fs;
use std::process::Command;

use gatepass_terminal_picture::{Ground, draw};

use crate::daemon::wait_or;

const SETTINGS: &str = "/run/tmux.conf";
const TMUX: &str = "/run/tmux.sock";

/// A terminal with something running in it.
pub(crate) struct Terminal;

impl Terminal {
    /// Opens a terminal with this command in it.
    pub(crate) fn open(command: &str) -> Self {
        // What the terminal showed last can be looked at even when its program has ended; and all 24 rows are the program's.
        fs::write(SETTINGS, "set -g remain-on-exit on\nset -g status off\n").unwrap();
        tmux(&["new-session", "-d", "-x", "80", "-y", "24", command]);
        assert_eq!(tmux(&["display", "-p", "#{pane_width}x#{pane_height}"]), "80x24\n");
        Self
    }

    /// Opens a terminal in which `tess` has a shell.
    pub(crate) fn of_tess() -> Self {
        let terminal =
            Self::open("sleep 0.2; exec setpriv --reuid tess --regid tess --init-groups env PS1='tess> ' bash --norc");
        terminal.wait_for("tess>");
        terminal
    }

    pub(crate) fn type_line(&self, line: &str) {
        tmux(&["send-keys", "-l", line]);
        self.press("Enter");
    }

    pub(crate) fn press(&self, key: &str) {
        tmux(&["send-keys", key]);
    }

    /// All that it shows.
    pub(crate) fn shows(&self) -> String {
        tmux(&["capture-pane", "-p"])
    }

    /// Waits until it shows this; all that it shows then.
    pub(crate) fn wait_for(&self, text: &str) -> String {
        let found = wait_or(|| Some(self.shows()).filter(|screen| screen.contains(text)));
        found.unwrap_or_else(|| panic!("waited in vain for {text:?} on the screen:\n{}", self.shows()))
    }

    /// What a camera reads off it.
    pub(crate) fn photographed(&self) -> String {
        let file = "/run/screen.png";
        fs::write(file, draw(&self.shows(), Ground::Dark).png().unwrap()).unwrap();
        let camera = Command::new("zbarimg").args(["--quiet", "--raw", file]).output().unwrap();
        String::from_utf8(camera.stdout).unwrap().trim_end_matches('\n').to_owned()
    }
}

fn tmux(arguments: &[&str]) -> String {
    let output = Command::new("tmux").args(["-u", "-f", SETTINGS, "-S", TMUX]).args(arguments).output().unwrap();
    assert!(output.status.success(), "tmux {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
