//! `gatepass policy`: from a readable file to the signed statement that agents enforce, and back.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;

use gatepass_protocol::offline::OfflineTerms;
use gatepass_protocol::policy::Policy;
use gatepass_protocol::statement::{Extension, OFFLINE_CODES};

use crate::lists::list_draft;
use crate::policy_file::{Directory, EXAMPLE, PolicyFile};
use crate::session::Session;
use crate::{ca, files, say, show};

/// Show, check and set the policy
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Print an example to start from
    Example,
    /// Print the policy in force, as a file that 'set' takes
    Show,
    /// Check a policy file without signing it
    Check {
        /// The policy file
        file: PathBuf,
    },
    /// Check a policy file, sign it with the CA key, and put it in force everywhere
    Set {
        /// The policy file
        file: PathBuf,
        #[command(flatten)]
        unlock: ca::Unlock,
    },
}

pub(crate) async fn run(command: Command, profile: &Path) -> Result<()> {
    if let Command::Example = command {
        return say(EXAMPLE.trim_end());
    }
    let session = Session::open(profile)?;
    let directory =
        Directory { technicians: session.technicians().await?, computers: session.list("/computers").await? };
    match command {
        Command::Example => Ok(()),
        Command::Show => {
            let trust = session.trust().await?;
            let Some(policy) = trust.policy() else {
                bail!("no policy is in force yet, so nobody may do anything; 'gatepass policy set' puts one in force");
            };
            let text = PolicyFile::of(policy.terms(), policy.offline().as_ref(), &directory).to_text()?;
            let lines: Vec<String> = text.lines().map(show::clean).collect();
            say(&format!(
                "# epoch {}, signed {}\n{}",
                trust.policy_epoch(),
                show::time(policy.statement().not_before),
                lines.join("\n")
            ))
        }
        Command::Check { file } => {
            let (policy, _) = compiled(&file, &directory)?;
            say(&format!("{} is good: {} rules", file.display(), policy.rules.len()))?;
            say_whom(&policy, &directory)
        }
        Command::Set { file, unlock } => {
            let (policy, offline) = compiled(&file, &directory)?;
            let trust = session.trust().await?;
            let epoch = trust.policy_epoch() + 1;
            let statement = list_draft(&session, epoch).sign_with(&policy, offline, &unlock.open(&session)?)?;
            session.submit(&statement).await?;
            say(&format!("policy {epoch} is in force: {} rules", policy.rules.len()))?;
            say_whom(&policy, &directory)
        }
    }
}

/// Which computers the names in the rules stand for: names come from the computers themselves, and two may share one.
fn say_whom(policy: &Policy, directory: &Directory) -> Result<()> {
    let named: BTreeSet<_> = policy.rules.iter().flat_map(|rule| &rule.computers).collect();
    for id in named {
        let name = directory.computers.iter().find(|one| one.id == *id).map_or("not enrolled", |one| &one.name);
        say(&format!("  computer {id}  {}", show::clean(name)))?;
    }
    Ok(())
}

/// The policy of a file, and the extension with what it says of offline codes.
fn compiled(file: &Path, directory: &Directory) -> Result<(Policy, Vec<Extension>)> {
    let read = read(file)?;
    let offline = read.offline().with_context(|| file.display().to_string())?;
    let extension = |terms: OfflineTerms| Extension { id: OFFLINE_CODES, value: terms.encode().into() };
    let policy = read.compile(directory).with_context(|| file.display().to_string())?;
    Ok((policy, offline.map(extension).into_iter().collect()))
}

fn read(file: &Path) -> Result<PolicyFile> {
    PolicyFile::parse(&files::read_public(file, "the policy file")?).with_context(|| file.display().to_string())
}
