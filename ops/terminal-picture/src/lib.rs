//! A photograph of a terminal, without a terminal: draws captured text (`tmux capture-pane -p`) as pixels.
//!
//! What a camera sees decides whether a login works, so tests, the demo and the README's picture all go this way: text to
//! picture, picture to `zbarimg` or to the phone. Each character is a cell of 8 by 16 pixels, light on dark; block elements are
//! drawn exactly, letters with a bitmap font, anything else as a box.

use std::io;

use font8x8::UnicodeFonts as _;

const CELL_WIDTH: usize = 8;
const CELL_HEIGHT: usize = 16;
/// Ground around the text, as a terminal's window has; also keeps a picture of no text from being empty.
const MARGIN: usize = 8;

/// Which of ink and ground is light.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ground {
    /// Light text on a dark ground.
    Dark,
    /// Dark text on a light ground.
    Light,
}

/// An 8 bit greyscale picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Row by row.
    pub pixels: Vec<u8>,
}

/// Draws the text of a terminal.
pub fn draw(capture: &str, ground: Ground) -> Picture {
    let lines: Vec<Vec<char>> = capture.lines().map(|line| line.chars().collect()).collect();
    let columns = lines.iter().map(Vec::len).max().unwrap_or(0);
    let width = columns * CELL_WIDTH + 2 * MARGIN;
    let height = lines.len() * CELL_HEIGHT + 2 * MARGIN;
    let (ink, paper) = match ground {
        Ground::Dark => (0xe8, 0x10),
        Ground::Light => (0x10, 0xe8),
    };
    let mut pixels = vec![paper; width * height];
    for (row, line) in lines.iter().enumerate() {
        for (column, character) in line.iter().enumerate() {
            let glyph = glyph(*character);
            for (y, bits) in glyph.into_iter().enumerate() {
                let start = (MARGIN + row * CELL_HEIGHT + y) * width + MARGIN + column * CELL_WIDTH;
                for (x, pixel) in pixels[start..start + CELL_WIDTH].iter_mut().enumerate() {
                    if bits & 1 << x != 0 {
                        *pixel = ink;
                    }
                }
            }
        }
    }
    Picture { width, height, pixels }
}

/// The rows of a cell; bit 0 is its left edge.
fn glyph(character: char) -> [u8; CELL_HEIGHT] {
    let mut rows = [0; CELL_HEIGHT];
    match character {
        ' ' => {}
        '\u{2588}' => rows.fill(0xff),
        '\u{2580}' => rows[..CELL_HEIGHT / 2].fill(0xff),
        '\u{2584}' => rows[CELL_HEIGHT / 2..].fill(0xff),
        _ => {
            let known = font8x8::BASIC_FONTS.get(character).or_else(|| font8x8::LATIN_FONTS.get(character));
            let bitmap = known.unwrap_or([0xff, 0x81, 0x81, 0x81, 0x81, 0x81, 0x81, 0xff]);
            for (y, row) in rows.iter_mut().enumerate() {
                *row = bitmap[y / 2];
            }
        }
    }
    rows
}

impl Picture {
    /// The same from further away, out of focus by about `radius` pixels: a camera sees characters as shades, not as strokes.
    /// That is how an ASCII code is read.
    pub fn blurred(&self, radius: usize) -> Self {
        // A mean of means falls off with the distance, as a lens does. Along the rows, written as columns: each second time turns
        // the picture back.
        let mean = |from: &[u8], width: usize, height: usize| {
            let mut to = Vec::with_capacity(from.len());
            for x in 0..width {
                for y in 0..height {
                    let window = &from[y * width + x.saturating_sub(radius)..y * width + (x + radius + 1).min(width)];
                    let sum: usize = window.iter().map(|pixel| usize::from(*pixel)).sum();
                    to.push((sum / window.len()) as u8);
                }
            }
            to
        };
        let (width, height) = (self.width, self.height);
        let both_ways = |pixels: &[u8]| mean(&mean(pixels, width, height), height, width);
        Self { width, height, pixels: both_ways(&both_ways(&self.pixels)) }
    }

    /// The picture as a PNG file.
    pub fn png(&self) -> io::Result<Vec<u8>> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, self.width as u32, self.height as u32);
        encoder.set_color(png::ColorType::Grayscale);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header().map_err(io::Error::other)?;
        writer.write_image_data(&self.pixels).map_err(io::Error::other)?;
        writer.finish().map_err(io::Error::other)?;
        Ok(file)
    }
}
