//! Finds the Gatepass code in what a person has: a picture file, what a terminal shows, or the text itself.

use std::{
    fs::File,
    io::{BufReader, Read},
    path::Path,
};

use anyhow::{Context as _, Result};
use gatepass_protocol::{offline::ChallengeQr, qr::QrPayload};

use crate::terminal::ask;

/// No screenshot is larger; a picture file can't make us take all memory.
const LARGEST_PICTURE: usize = 64 << 20;
/// The side of the smallest QR code, in modules.
const SMALLEST: usize = 21;
/// Pixels a module of a terminal's code is drawn with: enough for the finder to measure its rings.
const SCALE: usize = 4;

/// Why there is no code.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoCode {
    /// The file can't be read.
    #[error("the picture {path} can't be read ({reason})")]
    Unreadable {
        /// Which file.
        path: String,
        /// Why.
        reason: String,
    },
    /// It is no PNG.
    #[error("{path} is not a PNG picture that can be read ({reason}): save a screenshot as PNG")]
    NotPng {
        /// Which file.
        path: String,
        /// What the decoder said.
        reason: String,
    },
    /// No QR code anywhere.
    #[error("no QR code was found: make sure that the whole code with the empty frame around it is in the picture")]
    NoQr,
    /// A QR code of something else.
    #[error("the QR code is not one of Gatepass")]
    NotGatepass,
}

/// Greys of a picture, 0 is black.
struct Greys {
    width: usize,
    height: usize,
    greys: Vec<u8>,
}

/// Where a code is.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    /// A picture file.
    pub(crate) picture: Option<&'a Path>,
    /// A file with what a terminal shows; `-`: standard input.
    pub(crate) terminal: Option<&'a Path>,
    /// The code's text; `-`: standard input.
    pub(crate) text: Option<&'a str>,
}

impl Source<'_> {
    /// The code that begins with this prefix; asked for where no source was given.
    pub(crate) fn read(self, prefix: &str) -> Result<String> {
        let stdin = || {
            let mut text = String::new();
            std::io::stdin().take(1 << 20).read_to_string(&mut text).context("can't read standard input")?;
            Ok::<_, anyhow::Error>(text)
        };
        if let Some(path) = self.picture {
            return Ok(from_file(path, prefix)?);
        }
        if let Some(path) = self.terminal {
            let capture = if path == Path::new("-") {
                stdin()?
            } else {
                std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?
            };
            return Ok(from_terminal(&capture, prefix)?);
        }
        let text = match self.text {
            Some("-") => stdin()?,
            Some(text) => text.to_owned(),
            None => ask(&format!("Paste the code that the computer shows as text ({prefix}...)"), "")?,
        };
        Ok(from_text(&text, prefix)?)
    }
}

/// The code in a picture file.
fn from_file(path: &Path, prefix: &str) -> Result<String, NoCode> {
    let file = File::open(path)
        .map_err(|error| NoCode::Unreadable { path: path.display().to_string(), reason: error.to_string() })?;
    let greys = png_greys(BufReader::new(file))
        .map_err(|error| NoCode::NotPng { path: path.display().to_string(), reason: error.to_string() })?;
    find(&greys, prefix)
}

/// The code in what a terminal shows: half blocks or two characters a module, dark on light or light on dark, other text
/// around it. Of several codes, the lowest: the newest.
fn from_terminal(capture: &str, prefix: &str) -> Result<String, NoCode> {
    let rows: Vec<Vec<char>> = without_escapes(capture).lines().map(|line| line.chars().collect()).collect();
    // A character is one module wide and two high, or half of one that is two characters wide.
    let width = rows.iter().map(Vec::len).max().unwrap_or(0) * SCALE;
    let height = rows.len() * 2 * SCALE;
    if width * height > LARGEST_PICTURE {
        return Err(NoCode::NoQr);
    }
    let mut greys = vec![0; width * height];
    for (y, row) in greys.chunks_exact_mut(width.max(1)).enumerate() {
        let upper = (y / SCALE).is_multiple_of(2);
        for (character, pixels) in rows[y / SCALE / 2].iter().zip(row.chunks_exact_mut(SCALE)) {
            let inked = match character {
                '\u{2588}' | '@' | '#' => true,
                '\u{2580}' => upper,
                '\u{2584}' => !upper,
                _ => false,
            };
            pixels.fill(if inked { 255 } else { 0 });
        }
    }
    find(&Greys { width, height, greys }, prefix)
}

/// The code as text: copied from the screen in groups with `_` for the blanks, or as it is in the QR.
fn from_text(text: &str, prefix: &str) -> Result<String, NoCode> {
    let plain = text.trim_start().trim_end_matches(['\r', '\n']);
    if QrPayload::from_text(plain).is_ok() || ChallengeQr::from_text(plain).is_ok() {
        return Ok(plain.to_owned());
    }
    let start = text.find(prefix).ok_or(NoCode::NotGatepass)?;
    let joined = text[start..].chars().filter(|c| !c.is_whitespace()).map(|c| if c == '_' { ' ' } else { c });
    Ok(joined.collect())
}

fn png_greys(file: BufReader<File>) -> Result<Greys, png::DecodingError> {
    let mut decoder = png::Decoder::new_with_limits(file, png::Limits { bytes: LARGEST_PICTURE });
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let mut reader = decoder.read_info()?;
    let mut buffer = vec![
        0;
        reader
            .output_buffer_size()
            .filter(|size| *size <= LARGEST_PICTURE)
            .ok_or(png::DecodingError::LimitsExceeded)?
    ];
    let info = reader.next_frame(&mut buffer)?;
    let samples = info.color_type.samples();
    let greys = buffer[..info.buffer_size()]
        .chunks_exact(samples)
        .map(|pixel| match *pixel {
            [grey] => grey,
            [grey, alpha] => on_white(grey, alpha),
            [r, g, b] => luma(r, g, b),
            [r, g, b, alpha] => on_white(luma(r, g, b), alpha),
            _ => 255,
        })
        .collect();
    Ok(Greys { width: info.width as usize, height: info.height as usize, greys })
}

/// ITU-R BT.601, in 256ths.
fn luma(r: u8, g: u8, b: u8) -> u8 {
    ((u32::from(r) * 77 + u32::from(g) * 150 + u32::from(b) * 29) >> 8) as u8
}

fn on_white(grey: u8, alpha: u8) -> u8 {
    let (grey, alpha) = (u32::from(grey), u32::from(alpha));
    ((grey * alpha + 255 * (255 - alpha)) / 255) as u8
}

/// Dark on light is the rule; a code drawn with the terminal's own colours may be the other way round.
fn find(picture: &Greys, prefix: &str) -> Result<String, NoCode> {
    if picture.width.min(picture.height) < SMALLEST {
        return Err(NoCode::NoQr);
    }
    let mut seen = NoCode::NoQr;
    for inverted in [false, true] {
        let mut prepared = rqrr::PreparedImage::prepare_from_greyscale(picture.width, picture.height, |x, y| {
            let grey = picture.greys[y * picture.width + x];
            if inverted { 255 - grey } else { grey }
        });
        let mut codes = prepared.detect_grids();
        codes.sort_by_key(|code| -code.bounds[0].y);
        for (_, text) in codes.iter().filter_map(|code| code.decode().ok()) {
            if text.starts_with(prefix) {
                return Ok(text);
            }
            seen = NoCode::NotGatepass;
        }
    }
    Err(seen)
}

/// Drops what steers a terminal: CSI and OSC sequences, other escapes, carriage returns.
fn without_escapes(capture: &str) -> String {
    let mut plain = String::with_capacity(capture.len());
    let mut characters = capture.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\u{1b}' => match characters.next() {
                Some('[') => while characters.next().is_some_and(|c| !('\u{40}'..='\u{7e}').contains(&c)) {},
                Some(']') => while characters.next().is_some_and(|c| c != '\u{7}' && c != '\u{1b}') {},
                _ => {}
            },
            '\r' => {}
            other => plain.push(other),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use gatepass_logon::picture::{Style, render};
    use gatepass_protocol::qr::PREFIX;
    use std::io::BufWriter;

    const CODE: &str = "GP1:QED8WEX0 C91/DG%6J74X.E$PE0/DG+6+94 /DTPE8+9 JC0/DO/E0/DY0DSUEEQDPED+EDIEDLPC6WE%6EO";
    const OTHER: &str = "GP1:AAA8WEX0 C91/DG%6J74X.E$PE0/DG+6+94 /DTPE8+9 JC0/DO/E0/DY0DSUEEQDPED+EDIEDLPC6WE%6EO";
    const STYLES: [Style; 4] = [Style::HalfBlocks, Style::HalfBlocksInverted, Style::Ascii, Style::AsciiInverted];

    #[test]
    fn a_terminal_is_read_in_each_style_that_it_may_show() {
        for style in STYLES {
            let screen = format!("user@host:~$ sudo id\nScan this:\n{}Waiting ...\n", render(CODE, style));
            assert_eq!(from_terminal(&screen, PREFIX).unwrap(), CODE, "{style:?}");
        }
    }

    #[test]
    fn a_capture_without_trailing_blanks_and_with_colours_is_read_too() {
        for style in STYLES {
            let lines: Vec<String> = render(CODE, style)
                .lines()
                .map(|line| format!("\x1b[1;37;40m  {}\x1b[0m\r", line.trim_end()))
                .collect();
            assert_eq!(from_terminal(&lines.join("\n"), PREFIX).unwrap(), CODE, "{style:?}");
        }
    }

    #[test]
    fn of_two_codes_on_the_screen_the_newer_counts() {
        let screen = format!("{}too old\n{}", render(OTHER, Style::HalfBlocks), render(CODE, Style::HalfBlocks));
        assert_eq!(from_terminal(&screen, PREFIX).unwrap(), CODE);
    }

    #[test]
    fn a_screen_without_a_code_says_what_to_do() {
        for screen in ["", "\n", "user@host:~$ ls\n", "####\n####\n", "\u{2588}"] {
            assert!(from_terminal(screen, PREFIX).unwrap_err().to_string().contains("whole code"), "{screen}");
        }
        assert!(matches!(
            from_terminal(&render("https://example.com", Style::HalfBlocks), PREFIX),
            Err(NoCode::NotGatepass)
        ));
    }

    #[test]
    fn noise_is_no_code_and_no_crash() {
        for (side, seed) in (21..120).step_by(7).zip(1_u64..) {
            let mut state = seed;
            let mut noise = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            };
            let greys: Vec<u8> =
                (0..side * (side + 3)).map(|_| if seed % 2 == 0 { noise() } else { noise() & 128 }).collect();
            assert!(find(&Greys { width: side, height: side + 3, greys }, PREFIX).is_err());
        }
    }

    #[test]
    fn a_picture_of_either_polarity_is_read() {
        let folder = tempfile::tempdir().unwrap();
        for (name, style) in [("light", Style::Ascii), ("dark", Style::AsciiInverted)] {
            let path = folder.path().join(name);
            let drawn = render(CODE, style);
            let lines: Vec<Vec<u8>> = drawn.lines().map(|line| line.bytes().step_by(2).collect()).collect();
            let (scale, width) = (6, lines[0].len());
            let mut encoder = png::Encoder::new(
                BufWriter::new(File::create(&path).unwrap()),
                (width * scale) as u32,
                (lines.len() * scale) as u32,
            );
            encoder.set_color(png::ColorType::Rgb);
            let pixel =
                |x: usize, y: usize| if lines[y / scale][x / scale] == b'@' { [230, 230, 230] } else { [20, 20, 40] };
            let pixels: Vec<u8> =
                (0..lines.len() * scale).flat_map(|y| (0..width * scale).flat_map(move |x| pixel(x, y))).collect();
            encoder.write_header().unwrap().write_image_data(&pixels).unwrap();
            assert_eq!(from_file(&path, PREFIX).unwrap(), CODE, "{name}");
        }
        let error = from_file(&folder.path().join("missing.png"), PREFIX).unwrap_err().to_string();
        assert!(error.contains("missing.png"), "{error}");
    }

    #[test]
    fn a_copied_text_is_read_with_its_blanks() {
        let code = QrPayload { relay_idx: 0, tenant_tag: [1; 4], qs: [2; 16], a_q: [3; 32] }.to_text();
        assert_eq!(from_text(&format!("{code}\n"), PREFIX).unwrap(), code);
        assert_eq!(from_text(&render(&code, Style::Text), PREFIX).unwrap(), code);
        assert!(matches!(from_text("hello", PREFIX), Err(NoCode::NotGatepass)));
    }
}
