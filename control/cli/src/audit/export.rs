//! `gatepass audit export`: entry by entry into a file, which appears under its name once it is whole.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use gatepass_protocol::log::Head;

use super::file::{Exported, FORMAT, Line, Start};
use super::read::{self, Names};
use super::{Chosen, Part, Signers, walk};
use crate::session::Session;
use crate::{say, show};

/// Write the trail into a file, with what proves it (JSON Lines) or as a table (CSV)
#[derive(Args)]
pub(super) struct Export {
    /// The file, which must not be there yet
    file: PathBuf,
    /// How: with all that proves it, or for a spreadsheet
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    format: Format,
    /// Leave out what was exported before: the first so many entries
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    from: u64,
    #[command(flatten)]
    chosen: Chosen,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// JSON Lines, which 'gatepass audit verify' checks
    Jsonl,
    /// A table, for people: it proves nothing
    Csv,
}

impl Export {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        let names = Names::of(session).await?;
        let query = self.chosen.query(&names)?;
        if self.from > 0 && !query.is_empty() {
            bail!("--from is for all entries after a number; leave it out where entries are chosen");
        }
        if self.file.exists() {
            bail!("{} is there already, and is not written over", self.file.display());
        }
        let (head, log) = session.log_head().await?;
        if self.from > head.size {
            bail!("the audit trail has {} entries, so there is nothing after the first {}", head.size, self.from);
        }
        let unfinished = self.file.with_added_extension("unfinished");
        let failed = || format!("can't write {}", unfinished.display());
        let mut out = BufWriter::new(File::create(&unfinished).with_context(failed)?);
        let part = if query.is_empty() { Part::From(self.from) } else { Part::Chosen(&query) };
        match self.format {
            Format::Csv => write!(out, "{}\r\n", read::COLUMNS.join(",")).with_context(failed)?,
            Format::Jsonl => {
                let frontier = match part {
                    Part::From(from) => Some(session.log_frontier(from).await?),
                    Part::Chosen(_) => None,
                };
                let start = Start {
                    format: FORMAT.to_owned(),
                    tenant: session.tenant.to_string(),
                    tenant_name: session.profile.name.clone(),
                    log,
                    from: self.from,
                    frontier,
                };
                writeln!(out, "{}", serde_json::to_string(&Line::Start(Box::new(start)))?).with_context(failed)?;
            }
        }
        let written = self.write(session, &head, part, &names, &mut out).await;
        let written = written.and_then(|entries| {
            if self.format == Format::Jsonl {
                writeln!(out, "{}", serde_json::to_string(&Line::End { entries })?).with_context(failed)?;
            }
            out.into_inner()
                .map_err(|error| error.into_error())
                .and_then(|file| file.sync_all())
                .with_context(failed)?;
            std::fs::rename(&unfinished, &self.file).with_context(failed)?;
            Ok(entries)
        });
        if written.is_err() {
            let _ = std::fs::remove_file(&unfinished);
        }
        let entries = written?;
        say(&show::clean(&format!(
            "{entries} of the {} entries of the audit log of {:?} are in {}",
            head.size,
            session.profile.name,
            self.file.display()
        )))
    }

    async fn write(
        &self,
        session: &Session,
        head: &Head,
        part: Part<'_>,
        names: &Names,
        out: &mut BufWriter<File>,
    ) -> Result<u64> {
        let (mut entries, mut signers) = (0, Signers::new(session.profile.trust()?));
        walk(session, head, part, async |entry| {
            signers.check(entry)?;
            let read = read::in_json(entry, names);
            let line = match self.format {
                Format::Csv => format!("{}\r\n", read::in_csv(&read)),
                Format::Jsonl => {
                    let line = Line::Entry(Box::new(Exported { read, signed: entry.clone() }));
                    format!("{}\n", show::escape(&serde_json::to_string(&line)?))
                }
            };
            entries += 1;
            out.write_all(line.as_bytes()).with_context(|| format!("can't write {}", self.file.display()))
        })
        .await?;
        Ok(entries)
    }
}
