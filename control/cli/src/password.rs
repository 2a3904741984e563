//! The password of a CA key: asked for hidden, or read from a file that only its owner may read.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use zeroize::Zeroizing;
use zxcvbn::{Score, zxcvbn};

use crate::files;

/// The password of an existing CA key.
pub(crate) fn ask(prompt: &str, file: Option<&Path>) -> Result<Zeroizing<String>> {
    match file {
        Some(file) => files::read_secret(file, "the password file"),
        None => prompt_hidden(prompt),
    }
}

/// The password of a new CA key: strong, and typed twice.
pub(crate) fn choose(name: &str, file: Option<&Path>) -> Result<Zeroizing<String>> {
    let password = ask(&format!("New password for the CA key \"{name}\": "), file)?;
    judge(&password, name)?;
    if file.is_none() && prompt_hidden("The same password again: ")? != password {
        bail!("the two passwords differ; nothing was written");
    }
    Ok(password)
}

/// A new password that somebody else judges: typed twice.
pub(crate) fn twice(prompt: &str, file: Option<&Path>) -> Result<Zeroizing<String>> {
    let password = ask(prompt, file)?;
    if file.is_none() && prompt_hidden("The same password again: ")? != password {
        bail!("the two passwords differ; nothing was done");
    }
    Ok(password)
}

fn prompt_hidden(prompt: &str) -> Result<Zeroizing<String>> {
    let password = rpassword::prompt_password(prompt);
    password.map(Zeroizing::new).context("there is no terminal to ask for the password on; use --password-file")
}

/// Whoever gets hold of the file may guess offline and for years, and each guess costs 64 MiB and a tenth of a second. So
/// nothing below zxcvbn's best mark, ten thousand million guesses, will do.
fn judge(password: &str, name: &str) -> Result<()> {
    let verdict = zxcvbn(password, &["gatepass", name]);
    if verdict.score() >= Score::Four {
        return Ok(());
    }
    let feedback = verdict.feedback();
    let mut reasons: Vec<String> =
        feedback.and_then(|feedback| feedback.warning()).map(|why| why.to_string()).into_iter().collect();
    reasons.extend(feedback.iter().flat_map(|feedback| feedback.suggestions()).map(ToString::to_string));
    bail!(
        "this password is too weak for a CA key: about 10^{:.0} guesses find it, and 10^10 are the least. {} \
         Five or more random words do well. Nothing was written",
        verdict.guesses_log10(),
        reasons.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weak_passwords_are_refused_with_the_reason() {
        for weak in ["", "password", "Passw0rd!", "qwertyuiop", "gatepass", "acme-2026", "acme acme", "19841984"] {
            let error = judge(weak, "acme-2026").unwrap_err().to_string();
            assert!(error.contains("too weak"), "{weak}: {error}");
        }
        assert!(judge("Password1", "acme").unwrap_err().to_string().contains("common password"));
        assert!(judge("orbit-kettle-marrow-fiddle-61", "acme").is_ok());
    }
}
