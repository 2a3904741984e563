//! The QR code as text: what a camera can read off a terminal.
//!
//! A pairing's code is 88 characters of QR's alphanumeric set: version 4-M, 33 by 33 modules. With its quiet zone of four
//! modules that is 41 columns by 21 rows of half blocks, which leaves an 80x24 terminal the room for its prompt.
//! ASCII (`@`, the character with the most ink) needs two columns and one row a module, so it takes 78 by 39 with a quiet zone of three. Where neither fits, the
//! code itself is shown, in groups that can be copied ([`Style::Text`]).
//!
//! Polarity: a QR code is dark on light, a terminal mostly light on dark, so the *light* modules are drawn as ink. The
//! inverted styles draw the dark ones, for terminals with a light ground.

use qrcode::{Color, EcLevel, QrCode};
use serde::{Deserialize, Serialize};

/// How a QR code is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Style {
    /// Unicode half blocks, 41 columns by 21 rows, for light text on a dark ground.
    HalfBlocks,
    /// `@` and spaces, 78 columns by 39 rows, for light text on a dark ground.
    Ascii,
    /// Half blocks for dark text on a light ground.
    HalfBlocksInverted,
    /// `@` and spaces for dark text on a light ground.
    AsciiInverted,
    /// No picture: the code as text to copy.
    Text,
}

/// Columns and rows that a half-block picture takes together with its prompt.
const BLOCKS_NEED: (u16, u16) = (41, 23);
/// Columns and rows that an ASCII picture takes together with its prompt.
const ASCII_NEEDS: (u16, u16) = (78, 41);

impl Style {
    /// The style for somebody who answered a prompt with a wish instead of a plain Enter: `i` inverts, `a` asks for ASCII, `b` for
    /// half blocks, `t` for text. None: it was no wish.
    pub fn wished(self, answer: &str) -> Option<Self> {
        match answer.trim() {
            "i" | "I" => Some(self.inverted()),
            "a" | "A" => Some(Self::Ascii),
            "b" | "B" => Some(Self::HalfBlocks),
            "t" | "T" => Some(Self::Text),
            _ => None,
        }
    }

    fn inverted(self) -> Self {
        match self {
            Self::HalfBlocks => Self::HalfBlocksInverted,
            Self::HalfBlocksInverted => Self::HalfBlocks,
            Self::Ascii => Self::AsciiInverted,
            Self::AsciiInverted => Self::Ascii,
            Self::Text => Self::Text,
        }
    }
}

/// The best picture that a terminal of this size can show. `term` is its `TERM`, if that is known.
pub fn choose_style(locale_utf8: bool, columns: u16, rows: u16, term: Option<&str>) -> Style {
    // The Linux console reads UTF-8 and has half blocks in every font, whatever locale `login` was started with.
    let blocks = locale_utf8 || term == Some("linux");
    let fits = |(c, r): (u16, u16)| columns >= c && rows >= r;
    match () {
        () if term == Some("dumb") => Style::Text,
        () if blocks && fits(BLOCKS_NEED) => Style::HalfBlocks,
        () if fits(ASCII_NEEDS) => Style::Ascii,
        () => Style::Text,
    }
}

/// Draws a pairing's code, lines ended by `\n` each.
///
/// A code that is too long for any QR code, which no pairing's is, is shown as text.
pub fn render(code: &str, style: Style) -> String {
    let qr = match QrCode::with_error_correction_level(code, EcLevel::M) {
        Ok(qr) if style != Style::Text => qr,
        _ => return grouped(code),
    };
    match style {
        Style::HalfBlocks => half_blocks(&Modules { qr, quiet: 4, ink: Color::Light }),
        Style::HalfBlocksInverted => half_blocks(&Modules { qr, quiet: 4, ink: Color::Dark }),
        Style::Ascii => ascii(&Modules { qr, quiet: 3, ink: Color::Light }),
        Style::AsciiInverted => ascii(&Modules { qr, quiet: 3, ink: Color::Dark }),
        Style::Text => grouped(code),
    }
}

/// The code's grid with its quiet zone around it.
struct Modules {
    qr: QrCode,
    quiet: usize,
    ink: Color,
}

impl Modules {
    fn side(&self) -> usize {
        self.qr.width() + 2 * self.quiet
    }

    /// Whether the module at this place is drawn. Everything outside of the code is light.
    fn inked(&self, x: usize, y: usize) -> bool {
        let inside = self.quiet..self.quiet + self.qr.width();
        let color = match inside.contains(&x) && inside.contains(&y) {
            true => self.qr[(x - self.quiet, y - self.quiet)],
            false => Color::Light,
        };
        color == self.ink
    }
}

fn half_blocks(modules: &Modules) -> String {
    let mut picture = String::new();
    for y in (0..modules.side()).step_by(2) {
        picture.extend((0..modules.side()).map(|x| match (modules.inked(x, y), modules.inked(x, y + 1)) {
            (true, true) => '\u{2588}',
            (true, false) => '\u{2580}',
            (false, true) => '\u{2584}',
            (false, false) => ' ',
        }));
        picture.push('\n');
    }
    picture
}

fn ascii(modules: &Modules) -> String {
    let mut picture = String::new();
    for y in 0..modules.side() {
        picture.extend((0..modules.side()).map(|x| if modules.inked(x, y) { "@@" } else { "  " }));
        picture.push('\n');
    }
    picture
}

/// The code in groups of four, eight groups a line.
///
/// A space is one of the code's own characters (base45 has it), so it is written `_`, which is not; then white space
/// means nothing, and whoever reads it back drops that and turns `_` into a space.
fn grouped(code: &str) -> String {
    let characters: Vec<char> = code.chars().map(|c| if c == ' ' { '_' } else { c }).collect();
    let groups: Vec<String> = characters.chunks(4).map(|group| group.iter().collect()).collect();
    groups.chunks(8).map(|line| line.join(" ") + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CODE: &str = "GP1:QED8WEX0 C91/DG%6J74X.E$PE0/DG+6+94 /DTPE8+9 JC0/DO/E0/DY0DSUEEQDPED+EDIEDLPC6WE%6EO";

    fn size(picture: &str) -> (usize, usize) {
        (picture.lines().map(|line| line.chars().count()).max().unwrap(), picture.lines().count())
    }

    #[test]
    fn each_picture_has_the_size_that_the_screen_was_planned_for() {
        assert_eq!(CODE.len(), 88);
        assert_eq!(size(&render(CODE, Style::HalfBlocks)), (41, 21));
        assert_eq!(size(&render(CODE, Style::HalfBlocksInverted)), (41, 21));
        assert_eq!(size(&render(CODE, Style::Ascii)), (78, 39));
        assert_eq!(size(&render(CODE, Style::AsciiInverted)), (78, 39));
        assert_eq!(size(&render(CODE, Style::Text)), (39, 3));
    }

    #[test]
    fn a_copied_text_code_is_read_back_by_dropping_white_space() {
        let copied = render(CODE, Style::Text);
        let read: String =
            copied.chars().filter(|c| !c.is_whitespace()).map(|c| if c == '_' { ' ' } else { c }).collect();
        assert_eq!(read, CODE);
    }

    #[test]
    fn each_terminal_gets_the_best_that_it_can_show() {
        assert_eq!(choose_style(true, 80, 24, Some("xterm")), Style::HalfBlocks);
        assert_eq!(choose_style(true, 80, 24, None), Style::HalfBlocks);
        assert_eq!(choose_style(false, 80, 25, Some("linux")), Style::HalfBlocks);
        assert_eq!(choose_style(false, 80, 24, Some("vt220")), Style::Text);
        assert_eq!(choose_style(false, 132, 50, Some("vt220")), Style::Ascii);
        assert_eq!(choose_style(true, 40, 50, Some("xterm")), Style::Text);
        assert_eq!(choose_style(true, 200, 60, Some("dumb")), Style::Text);
        assert_eq!(choose_style(true, 0, 0, None), Style::Text);
    }

    #[test]
    fn a_person_whose_camera_fails_asks_for_another_picture() {
        assert_eq!(Style::HalfBlocks.wished("i"), Some(Style::HalfBlocksInverted));
        assert_eq!(Style::HalfBlocksInverted.wished("I\n"), Some(Style::HalfBlocks));
        assert_eq!(Style::HalfBlocks.wished("a"), Some(Style::Ascii));
        assert_eq!(Style::Ascii.wished("t"), Some(Style::Text));
        assert_eq!(Style::HalfBlocks.wished(""), None);
    }

    #[test]
    fn a_code_that_fits_no_qr_is_shown_as_text() {
        assert!(render(&"x".repeat(5000), Style::HalfBlocks).starts_with("xxxx xxxx"));
    }
}
