//! The name of an account, checked once where it enters.
//!
//! A name travels into a varlink answer, a path below `/home`, a crontab's file name and the argument list of `useradd`. So
//! it can only be what is harmless in all of them: lower-case ASCII letters, digits, `-` and `_`, beginning with a letter.
//! Whoever holds an [`AccountName`] need not look again.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::AccountError;

/// `utmp` keeps 32 bytes of a user's name and `useradd` refuses more.
const MAX: usize = 32;

/// A name that is safe in paths, records and argument lists.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AccountName(String);

impl AccountName {
    /// Checks `name`.
    pub fn new(name: &str) -> Result<Self, AccountError> {
        let bad = |why| Err(AccountError::BadName { name: name.escape_default().to_string(), why });
        if name.is_empty() {
            return bad("it is empty");
        }
        if name.len() > MAX {
            return bad("it is longer than 32 characters");
        }
        if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
            return bad("it must begin with a lower-case letter from a to z");
        }
        if !name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_')) {
            return bad("only a to z, 0 to 9, '-' and '_' may be in it");
        }
        Ok(Self(name.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is a shared account, `gp-` and four digits, which belongs to no single technician.
    pub fn is_shared(&self) -> bool {
        self.0.strip_prefix("gp-").is_some_and(|rest| rest.len() == 4 && rest.bytes().all(|b| b.is_ascii_digit()))
    }
}

impl TryFrom<String> for AccountName {
    type Error = AccountError;

    fn try_from(name: String) -> Result<Self, AccountError> {
        Self::new(&name)
    }
}

impl From<AccountName> for String {
    fn from(name: AccountName) -> Self {
        name.0
    }
}

impl FromStr for AccountName {
    type Err = AccountError;

    fn from_str(name: &str) -> Result<Self, AccountError> {
        Self::new(name)
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for AccountName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_people_use_are_accepted() {
        for name in ["gp-alex", "gp-1234", "alex_566054625600", "a"] {
            assert_eq!(AccountName::new(name).unwrap().as_str(), name);
        }
        assert!(AccountName::new("gp-1234").unwrap().is_shared());
        assert!(!AccountName::new("gp-12345").unwrap().is_shared());
        assert!(!AccountName::new("gp-alex").unwrap().is_shared());
    }

    #[test]
    fn names_with_shell_path_or_foreign_characters_are_refused_and_printed_harmlessly() {
        let long = "a".repeat(33);
        for name in [
            "",
            "-alex",
            "1alex",
            "Alex",
            "a/b",
            "..",
            "a;rm",
            "a$(x)",
            "a b",
            "a:b",
            "a,b",
            "gp-älex",
            "a\n",
            "a\0b",
            "a\u{1b}[2J",
            &long,
        ] {
            let error = AccountName::new(name).unwrap_err().to_string();
            assert!(!error.contains(['\n', '\0', '\u{1b}']), "{error:?}");
        }
    }
}
