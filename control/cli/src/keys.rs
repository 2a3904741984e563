//! Keys of a TOML table that nobody knows are mistakes, and mostly misspellings: the nearest known one is named.

use anyhow::{Result, bail};

/// Refuses a table with a key that isn't known.
pub(crate) fn check(table: &toml::Table, known: &[&str], what: &str) -> Result<()> {
    match table.keys().find(|key| !known.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => bail!("unknown key \"{}\" in the {what}{}", crate::show::clean(key), hint(key, known)),
    }
}

/// "; did you mean …?", or all that there is to choose from.
pub(crate) fn hint(word: &str, known: &[&str]) -> String {
    let nearest = known.iter().map(|one| (strsim::damerau_levenshtein(word, one), one)).min();
    match nearest {
        Some((distance, one)) if distance <= 3.max(one.len() / 3) && distance < word.len().max(2) => {
            format!("; did you mean \"{one}\"?")
        }
        _ => format!("; known are: {}", known.join(", ")),
    }
}
