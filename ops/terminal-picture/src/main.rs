//! `tmux capture-pane -p | terminal-picture OUT.png [--light]`: a picture of what the terminal shows.

use std::io::Read as _;

use anyhow::{Context as _, bail};
use gatepass_terminal_picture::{Ground, draw};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (path, ground) = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [path] if !path.starts_with('-') => (path, Ground::Dark),
        [path, "--light"] | ["--light", path] => (path, Ground::Light),
        _ => bail!("usage: terminal-picture OUT.png [--light] < TEXT\n--light draws dark text on a light ground"),
    };
    let mut capture = String::new();
    std::io::stdin().read_to_string(&mut capture).context("reading the terminal's text from standard input")?;
    std::fs::write(path, draw(&capture, ground).png()?).with_context(|| format!("writing the picture to {path}"))
}
