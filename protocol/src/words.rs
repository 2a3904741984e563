//! Two words that a person reads out and another types: 16 bits, from the PGP word list (Juola and Zimmermann, 1995).
//!
//! The list was made for this: no two of its words sound alike over a bad line, and the first word is always one of two
//! syllables and the second one of three, so that words that were swapped or left out are noticed before anything is tried.
//! 16 bits are few. They hold because [`crate::slot`] lets nobody try twice, and nobody try in private.

use std::{fmt, str::FromStr, sync::LazyLock};

use rand_core::CryptoRng;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// One line for each byte: its word of two syllables, its word of three.
const LIST: &str = include_str!("words.txt");

static PAIRS: LazyLock<Vec<(&str, &str)>> =
    LazyLock::new(|| LIST.lines().filter_map(|line| line.split_once(' ')).collect());

/// Two words of the list. They are a secret, for ten minutes.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Words([u8; 2]);

/// The text is not two words of the list. Nothing was tried with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotWords {
    /// Type both.
    #[error("type the two words that the phone shows, with a space between them")]
    NotTwo,
    /// Listen again.
    #[error("\"{word}\" is not a word that a phone shows there; the nearest is \"{nearest}\"")]
    Unknown {
        /// The word.
        word: String,
        /// The word of the list that begins most like it.
        nearest: &'static str,
    },
}

impl Words {
    /// Two fresh words.
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        let mut bytes = [0; 2];
        rng.fill_bytes(&mut bytes);
        Self(bytes)
    }

    /// What both ends know, for CPace: the two words in small letters with a space between them.
    pub(crate) fn secret(&self) -> zeroize::Zeroizing<Vec<u8>> {
        zeroize::Zeroizing::new(self.to_string().into_bytes())
    }

    /// The words of two bytes, for vectors.
    #[cfg(feature = "testing")]
    pub fn of(bytes: [u8; 2]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Words {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second] = self.0.map(usize::from);
        write!(out, "{} {}", PAIRS[first].0, PAIRS[second].1)
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Words(withheld)")
    }
}

impl FromStr for Words {
    type Err = NotWords;
    fn from_str(text: &str) -> Result<Self, NotWords> {
        let mut words = text.split(|c: char| c.is_whitespace() || c == '-').filter(|word| !word.is_empty());
        let (Some(first), Some(second), None) = (words.next(), words.next(), words.next()) else {
            return Err(NotWords::NotTwo);
        };
        Ok(Self([place(first, |pair| pair.0)?, place(second, |pair| pair.1)?]))
    }
}

fn place(word: &str, of: impl Fn(&(&'static str, &'static str)) -> &'static str) -> Result<u8, NotWords> {
    let wanted = word.to_lowercase();
    let shared = |known: &str| known.bytes().zip(wanted.bytes()).take_while(|(one, other)| one == other).count();
    match PAIRS.iter().position(|pair| of(pair) == wanted).and_then(|place| u8::try_from(place).ok()) {
        Some(place) => Ok(place),
        None => {
            let nearest = PAIRS.iter().map(&of).max_by_key(|known| shared(known)).unwrap_or_default();
            Err(NotWords::Unknown { word: word.chars().take(32).collect(), nearest })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_of_the_words_reads_back_as_it_was_shown_however_it_is_typed() {
        for byte in 0..=255 {
            let words = Words([byte, byte.wrapping_mul(7)]);
            let shown = words.to_string();
            assert_eq!(shown.parse(), Ok(words.clone()));
            assert_eq!(shown.to_uppercase().replace(' ', "-").parse(), Ok(words.clone()));
            assert_eq!(format!("  {shown}\n").parse(), Ok(words));
        }
    }

    #[test]
    fn no_word_is_there_twice() {
        let words: HashSet<&str> = LIST.split_whitespace().collect();
        assert_eq!((PAIRS.len(), words.len()), (256, 512));
    }

    #[test]
    fn what_was_misheard_or_swapped_is_told_before_anything_is_tried() {
        let wrong = |text: &str| text.parse::<Words>().unwrap_err();
        assert_eq!(wrong("tiger"), NotWords::NotTwo);
        assert_eq!(wrong("tiger tobacco tobacco"), NotWords::NotTwo);
        assert_eq!(wrong("tiger tobaco"), NotWords::Unknown { word: "tobaco".into(), nearest: "tobacco" });
        assert!(matches!(wrong("tobacco tiger"), NotWords::Unknown { .. }));
    }
}
