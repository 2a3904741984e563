//! What the logon surfaces draw is what a camera reads. `zbarimg` (Debian: zbar-tools) is the camera.

#![allow(clippy::unwrap_used)]
use std::io::Write as _;
use std::process::{Command, Stdio};

use gatepass_logon::picture::{Style, render};
use gatepass_logon::text;
use gatepass_terminal_picture::{Ground, draw};

const CODE: &str = "GP1:QED8WEX0 C91/DG%6J74X.E$PE0/DG+6+94 /DTPE8+9 JC0/DO/E0/DY0DSUEEQDPED+EDIEDLPC6WE%6EO";

/// What the camera reads off a terminal with this text on it.
fn photographed(screen: &str, ground: Ground) -> Option<String> {
    photographed_from(0, screen, ground)
}

fn photographed_from(distance: usize, screen: &str, ground: Ground) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("screen.png");
    std::fs::write(&file, draw(screen, ground).blurred(distance).png().unwrap()).unwrap();
    let camera = Command::new("zbarimg")
        .args(["--quiet", "--raw", "--set", "*.enable=0", "--set", "qrcode.enable=1"])
        .arg(&file)
        .output();
    let read = String::from_utf8(camera.expect("zbarimg is missing: install zbar-tools").stdout).unwrap();
    read.strip_suffix('\n').filter(|text| !text.is_empty()).map(str::to_owned)
}

#[test]
fn a_technician_scans_half_blocks_off_a_dark_terminal() {
    assert_eq!(photographed(&text::waiting(CODE, Style::HalfBlocks), Ground::Dark).as_deref(), Some(CODE));
    let ssh = format!("(alex@host) {}", text::approve_then_enter(CODE, Style::HalfBlocks));
    assert_eq!(photographed(&ssh, Ground::Dark).as_deref(), Some(CODE));
}

#[test]
fn a_technician_scans_ascii_off_a_dark_terminal() {
    let screen = text::waiting(CODE, Style::Ascii);
    assert_eq!(photographed_from(6, &screen, Ground::Dark).as_deref(), Some(CODE));
}

#[test]
fn a_technician_with_a_light_terminal_asks_for_the_inverted_picture() {
    assert_eq!(photographed(&text::waiting(CODE, Style::HalfBlocksInverted), Ground::Light).as_deref(), Some(CODE));
    let ascii = text::waiting(CODE, Style::AsciiInverted);
    assert_eq!(photographed_from(6, &ascii, Ground::Light).as_deref(), Some(CODE));
    // That this is needed: the wrong polarity is not read.
    assert_eq!(photographed(&render(CODE, Style::HalfBlocks), Ground::Light), None);
}

#[test]
fn the_command_draws_what_it_reads() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.png");
    let mut command =
        Command::new(env!("CARGO_BIN_EXE_terminal-picture")).arg(&out).stdin(Stdio::piped()).spawn().unwrap();
    command.stdin.take().unwrap().write_all(render(CODE, Style::HalfBlocks).as_bytes()).unwrap();
    assert!(command.wait().unwrap().success());
    assert_eq!(std::fs::read(out).unwrap(), draw(&render(CODE, Style::HalfBlocks), Ground::Dark).png().unwrap());
}
