//! `gatepass audit verify`: what an exported trail proves, with nothing but the file, the tenant's CA keys and, where there are
//! some, heads that others have seen.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde_json::Value;

use gatepass_protocol::ids::TenantId;
use gatepass_protocol::log::{Frontier, Head};
use gatepass_protocol::trust::{CaPublic, TrustStore};
use gatepass_protocol::witness::Witnessed;

use super::file::{Exported, FORMAT, Line, Start};
use super::read::{self, Names};
use super::{Signers, begun, complete, follows, included};
use crate::{files, say, show};

/// A line is an entry of 8 KiB at most, twice, with its certificates.
const LONGEST_LINE: u64 = 256 * 1024;

/// Check an exported trail, without a server
#[derive(Args)]
pub(super) struct Verify {
    /// The export
    file: PathBuf,
    /// A CA key of the tenant (gatepass-ca.pem); may be given several times
    #[arg(long, value_name = "FILE", required = true)]
    ca: Vec<PathBuf>,
    /// Heads that a phone or an administrator's machine has seen, as 'heads' prints them; may be given several times
    #[arg(long, value_name = "FILE")]
    witnessed: Vec<PathBuf>,
}

/// A head that somebody has seen, and what was found of it.
struct Witness {
    head: Head,
    is_compared: bool,
}

/// What was found.
struct Found {
    head: Head,
    is_chosen: bool,
    from: u64,
    entries: u64,
    by_computers: u64,
    missing: u64,
    compared: usize,
    not_compared: usize,
}

impl Verify {
    pub(super) fn run(&self) -> Result<()> {
        let found = self.check().with_context(|| format!("{} proves nothing", self.file.display()))?;
        if show::is_json() {
            return show::value(&serde_json::json!({
                "tenant": found.head.tenant.to_string(), "size": found.head.size, "head_time": found.head.time,
                "root": gatepass_control::api::hex(&found.head.root), "from": found.from, "entries": found.entries,
                "complete": !found.is_chosen && found.from == 0, "signed_by_computers": found.by_computers,
                "events_missing": found.missing, "witnessed_heads_that_agree": found.compared,
                "witnessed_heads_not_comparable": found.not_compared,
            }));
        }
        for line in found.words() {
            say(&line)?;
        }
        Ok(())
    }

    fn check(&self) -> Result<Found> {
        let mut lines = Lines(BufReader::new(File::open(&self.file).context("can't open it")?));
        let Some(Line::Start(start)) = lines.next()? else { bail!("it does not begin like an export of a log") };
        if start.format != FORMAT {
            bail!("it has the format {:?}, but this program knows {FORMAT}", start.format);
        }
        let head = start.log.verify()?;
        if head.tenant.to_string() != start.tenant || start.from > head.size {
            bail!("what its first line says does not fit its signed head");
        }
        let mut witnesses = self.witnesses(&start, &head)?;
        let mut signers = Signers::new(self.trust(head.tenant)?);
        let mut frontier = start.frontier.as_ref().map(|roots| begun(start.from, roots)).transpose()?;
        let (mut entries, mut by_computers, mut missing, mut after) = (0, 0, 0, start.from);
        loop {
            // The frontier before an entry is the log that a witness may have seen.
            if let Some(frontier) = &frontier {
                compare(&mut witnesses, frontier)?;
            }
            match lines.next()? {
                Some(Line::Entry(exported)) => {
                    let Exported { read, signed } = *exported;
                    match &mut frontier {
                        Some(frontier) => follows(frontier, &signed)?,
                        None => included(&signed, &head, after)?,
                    }
                    after = signed.seq;
                    if !says_the_same(&read, &read::in_json(&signed, &Names::default())) {
                        bail!("what entry {after} reads is not what was signed: somebody changed it");
                    }
                    missing += signers.check(&signed)?.filter(|_| frontier.is_some()).unwrap_or(0);
                    by_computers += u64::from(signed.computer.is_some());
                    entries += 1;
                }
                Some(Line::End { entries: counted }) if counted == entries => break,
                Some(Line::End { entries: counted }) => {
                    bail!("it has {entries} entries, but its last line counts {counted}: some were taken out or put in")
                }
                Some(Line::Start(_)) => bail!("after entry {after} a second export begins"),
                None => bail!("it ends after entry {after}, without its last line: it was cut off"),
            }
        }
        if lines.next()?.is_some() {
            bail!("something follows its last line");
        }
        if let Some(frontier) = &frontier {
            complete(frontier, &head)?;
        }
        let compared = witnesses.iter().filter(|witness| witness.is_compared).count();
        Ok(Found {
            is_chosen: frontier.is_none(),
            from: start.from,
            not_compared: witnesses.len() - compared,
            head,
            entries,
            by_computers,
            missing,
            compared,
        })
    }

    fn trust(&self, tenant: TenantId) -> Result<TrustStore> {
        let mut keys = Vec::new();
        for path in &self.ca {
            let pem = files::read_public(path, "the CA key")?;
            keys.push(CaPublic::from_pem(&pem).with_context(|| path.display().to_string())?);
        }
        Ok(TrustStore::new(tenant, keys))
    }

    /// What others have seen of this log.
    fn witnesses(&self, start: &Start, head: &Head) -> Result<Vec<Witness>> {
        let mut witnesses = Vec::new();
        for path in &self.witnessed {
            let text = files::read_public(path, "the witnessed heads")?;
            for line in text.lines().filter(|line| !line.trim().is_empty()) {
                let what = || format!("{}: a witnessed head", path.display());
                let seen: Witnessed = serde_json::from_str(line).with_context(what)?;
                let witnessed = seen.verify().with_context(what)?;
                if witnessed.tenant != head.tenant {
                    bail!("{}: a head of another tenant, {}", path.display(), witnessed.tenant);
                }
                if seen.log_key != start.log.log_key {
                    bail!(
                        "{} has seen the log signed with another key: this is a fork, or the server's database was made anew",
                        path.display()
                    );
                }
                if witnessed.size > head.size && witnessed.time <= head.time {
                    bail!(
                        "{} has seen {} entries at {}, but at {} the log had {}: it was cut off, or forked",
                        path.display(),
                        witnessed.size,
                        show::time(witnessed.time),
                        show::time(head.time),
                        head.size
                    );
                }
                if witnessed.size == head.size && witnessed.root != head.root {
                    bail!(fork(&witnessed));
                }
                let is_compared = witnessed.size == head.size;
                witnesses.push(Witness { head: witnessed, is_compared });
            }
        }
        Ok(witnesses)
    }
}

/// Looks whether what a witness saw is what the log was at that length.
fn compare(witnesses: &mut [Witness], frontier: &Frontier) -> Result<()> {
    for witness in witnesses.iter_mut().filter(|witness| witness.head.size == frontier.size()) {
        if witness.head.root != frontier.root() {
            bail!(fork(&witness.head));
        }
        witness.is_compared = true;
    }
    Ok(())
}

fn fork(witnessed: &Head) -> String {
    format!(
        "the log was FORKED: at {} entries somebody was shown another log, signed with the same key at {}",
        witnessed.size,
        show::time(witnessed.time)
    )
}

/// Whether the readable part says what was signed; names are the exporter's word.
fn says_the_same(read: &Value, signed: &Value) -> bool {
    let (Some(read), Some(signed)) = (read.as_object(), signed.as_object()) else { return false };
    let plain = |key: &str| !key.ends_with("_name");
    read.len() == signed.len()
        && signed.iter().filter(|(key, _)| plain(key)).all(|(key, value)| read.get(key) == Some(value))
}

impl Found {
    fn words(&self) -> Vec<String> {
        let Head { tenant, size, time, .. } = &self.head;
        let mut words = vec![format!("log        tenant {tenant}, {size} entries, signed {}", show::time(*time))];
        words.push(match (self.is_chosen, self.from) {
            (true, _) => format!("proved     {} chosen entries are in it, unchanged", self.entries),
            (false, 0) => "proved     all of them are here, unchanged and in order".to_owned(),
            (false, from) => {
                format!("proved     all after the first {from} are here, unchanged and in order, and continue those")
            }
        });
        words.push(format!("proved     {} events were signed by computers of the tenant's CA", self.by_computers));
        match self.compared {
            0 => words.push(
                "not proved that nobody was shown another log: compare with heads that phones have seen (--witnessed)"
                    .to_owned(),
            ),
            count => words.push(format!("proved     {count} heads that others have seen are of this log")),
        }
        if self.not_compared > 0 {
            words.push(format!(
                "not proved anything of {} witnessed heads: they are of a part that is not here",
                self.not_compared
            ));
        }
        if self.is_chosen {
            words.push(
                "not proved that no other entries would have been chosen: that takes an export of all".to_owned(),
            );
        }
        if self.missing > 0 {
            words.push(format!(
                "missing    {} events that computers numbered never came, or were withheld; 'gatepass audit' says where",
                self.missing
            ));
        }
        let acts = self.entries - self.by_computers;
        words.push(format!(
            "not proved that the control plane told the truth about its own {acts} acts when it wrote them"
        ));
        words
    }
}

/// The lines of an export, each of which has a bound.
struct Lines(BufReader<File>);

impl Lines {
    fn next(&mut self) -> Result<Option<Line>> {
        let mut line = Vec::new();
        let read =
            std::io::Read::take(&mut self.0, LONGEST_LINE).read_until(b'\n', &mut line).context("can't read it")?;
        if read == 0 {
            return Ok(None);
        }
        if line.last() != Some(&b'\n') {
            bail!("its last line is not whole: it was cut off");
        }
        Ok(Some(serde_json::from_slice(&line).context("a line of it is not as it was written")?))
    }
}
