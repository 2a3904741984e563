//! A terminal of 80x24, and a camera in front of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use gatepass_terminal_picture::{Ground, draw};

use crate::process::{Finished, run};
use crate::wait::until;

/// A program in a terminal (a window of tmux).
#[derive(Debug)]
pub struct Terminal {
    folder: PathBuf,
    name: String,
    last_code: Mutex<String>,
}

static NEXT: AtomicU32 = AtomicU32::new(1);

impl Terminal {
    /// Opens a terminal of 80x24 with a program in it. What it last showed stays readable when it ends.
    pub fn open(folder: &Path, command: &[&str]) -> Self {
        let name = format!("terminal-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let terminal = Self { folder: folder.to_owned(), name, last_code: Mutex::default() };
        let settings = folder.join("tmux.conf");
        if !settings.exists() {
            let text = "set -g exit-empty off\nset -g status off\nset -g remain-on-exit on\nset -g remain-on-exit-format ''\nset -g history-limit 5000\n\
                        set -g default-terminal screen-256color\n";
            fs::write(&settings, text).expect("the world's folder can be written");
        }
        let mut tmux = terminal.tmux("new-session");
        tmux.args(["-d", "-x", "80", "-y", "24", "-s", &terminal.name, "--"]).args(command);
        run(&mut tmux).ok();
        terminal
    }

    /// What it shows now.
    pub fn screen(&self) -> String {
        self.run("capture-pane", &["-p"]).out
    }

    /// The command that prints what it shows now, for a shell.
    pub fn capture_command(&self) -> String {
        format!("tmux -u -S {} capture-pane -p -t {}", self.folder.join("tmux").display(), self.name)
    }

    /// What it shows now and has shown.
    pub fn everything(&self) -> String {
        self.run("capture-pane", &["-p", "-J", "-S", "-"]).out
    }

    /// Types a text.
    pub fn type_text(&self, text: &str) {
        self.run("send-keys", &["-l", text]).ok();
    }

    /// Types a line.
    pub fn type_line(&self, text: &str) {
        self.type_text(text);
        self.press("Enter");
    }

    /// Presses Enter.
    pub fn enter(&self) {
        self.press("Enter");
    }

    /// Presses a key, by tmux's name for it: `C-c`.
    pub fn press(&self, key: &str) {
        self.run("send-keys", &[key]).ok();
    }

    /// Waits until it has shown a text; returns all that it has shown.
    pub fn wait_for(&self, text: &str) -> String {
        self.wait_for_any(&[text])
    }

    /// Waits until it has shown one of these texts; returns all that it has shown.
    pub fn wait_for_any(&self, texts: &[&str]) -> String {
        self.wait_until(&format!("{texts:?}"), |shown| texts.iter().any(|text| shown.contains(text)))
    }

    /// Waits until all that it has shown is as wished.
    fn wait_until(&self, what: &str, wished: impl Fn(&str) -> bool) -> String {
        until(&format!("{what} in the terminal"), || Some(self.everything()).filter(|shown| wished(shown)))
    }

    /// Presses Enter at ssh's prompt below the code, and again as long as it answers that nobody has approved yet; until it
    /// shows one of these texts. Returns all that it has shown.
    pub fn enter_until(&self, texts: &[&str]) -> String {
        let mut times = 0;
        loop {
            self.enter();
            times += 1;
            let not_yet = || self.everything().matches("Not approved yet").count() == times;
            let shown = self
                .wait_until(&format!("{texts:?}"), |shown| texts.iter().any(|text| shown.contains(text)) || not_yet());
            if texts.iter().any(|text| shown.contains(text)) {
                return shown;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Runs a command in the shell that is in it, and returns what that printed.
    pub fn command(&self, line: &str) -> String {
        static COMMANDS: AtomicU32 = AtomicU32::new(1);
        let mark = format!("done-{}", COMMANDS.fetch_add(1, Ordering::Relaxed));
        // The mark is written so that the echo of what was typed does not look like it.
        self.type_line(&format!("{line}; echo \"$?-\"'{mark}'"));
        let shown = self.wait_for(&format!("-{mark}"));
        let until_mark = shown.split(&format!("-{mark}")).next().unwrap_or_default();
        let typed = until_mark.rfind(&format!("'{mark}'")).map_or(0, |at| at + mark.len() + 2);
        let (printed, _status) = until_mark[typed..].rsplit_once('\n').unwrap_or_default();
        printed.trim_start_matches('\n').to_owned()
    }

    /// A picture of it, as a camera would take it.
    pub fn photograph(&self) -> PathBuf {
        let path = self.folder.join(format!("{}.png", self.name));
        let picture = draw(&self.screen(), Ground::Dark).png().expect("a screen can be drawn");
        fs::write(&path, picture).expect("the world's folder can be written");
        path
    }

    /// Photographs it until zbarimg reads a QR code of Gatepass in the picture, other than the one that it read last.
    pub fn read_qr(&self) -> String {
        let mut last = self.last_code.lock().unwrap_or_else(PoisonError::into_inner);
        *last = until("a QR code in the terminal", || {
            let read = run(Command::new("zbarimg").args(["--quiet", "--raw"]).arg(self.photograph()));
            Some(read.out.trim_end_matches('\n').to_owned()).filter(|code| code.starts_with("GP1:") && code != &*last)
        });
        last.clone()
    }

    /// Whether the program in it has ended.
    pub fn has_ended(&self) -> bool {
        self.run("display-message", &["-p", "#{pane_dead}"]).out.trim() != "0"
    }

    /// Waits until the program in it has ended; returns all that it has shown.
    pub fn wait_for_end(&self) -> String {
        until("the program in the terminal to end", || self.has_ended().then_some(()));
        self.everything()
    }

    /// Puts it in front of whoever started this program, until they leave it.
    pub fn attach(&self) {
        // They leave it by ending its program.
        self.run("set-option", &["remain-on-exit", "off"]).ok();
        let mut tmux = self.tmux("attach-session");
        let _ = tmux.args(["-t", &self.name]).status();
    }

    fn run(&self, verb: &str, arguments: &[&str]) -> Finished {
        run(self.tmux(verb).args(["-t", &self.name]).args(arguments))
    }

    fn tmux(&self, verb: &str) -> Command {
        let mut tmux = Command::new("tmux");
        tmux.arg("-u").arg("-S").arg(self.folder.join("tmux")).arg("-f").arg(self.folder.join("tmux.conf")).arg(verb);
        tmux.env("LANG", "C.UTF-8").env_remove("TMUX");
        tmux
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = std::io::Write::write_fmt(
                &mut std::io::stderr(),
                format_args!("--- {} ---\n{}\n", self.name, self.everything().trim_end()),
            );
        }
        self.run("kill-session", &[]);
    }
}
