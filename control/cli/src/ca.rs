//! The tenant's CA keys: made here, kept here, used here. The server gets the public half and nothing else, ever.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use gatepass_client::edge;
use gatepass_control::api::{CaKey, NewCaKey, hex};
use gatepass_protocol::ids::Serial;
use gatepass_protocol::keys::{Signer as _, SigningKey};
use gatepass_protocol::signed::Unverified;
use gatepass_protocol::statement::{RevokerTerms, Statement};
use gatepass_protocol::trust::CaPublic;
use gatepass_protocol::vault;

use crate::session::Session;
use crate::{files, password, say, show};

/// Make, add and list CA keys
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Make a new CA key: gatepass-ca.pem (public) and gatepass-ca.json (private, sealed by a password)
    ///
    /// Needs no server and no profile: make it on the machine where it will be used, keep gatepass-ca.json there, and a copy
    /// of it and its password in a safe place. Whoever has both can enrol phones and computers and change the policy.
    New(New),
    /// Trust a CA key in this tenant: upload its public half, and let this profile believe it
    Add {
        /// The public key: gatepass-ca.pem
        pem: PathBuf,
        /// What to call it [default: the name in the gatepass-ca.json beside it, or the file's]
        #[arg(long)]
        name: Option<String>,
    },
    /// Keys that may revoke and do nothing else
    #[command(subcommand)]
    RevokeKey(RevokeKeys),
    /// List the tenant's CA keys, and whether this profile believes them
    List,
}

/// Keys that may revoke and do nothing else
#[derive(Subcommand)]
pub(crate) enum RevokeKeys {
    /// Make one: gatepass-revoke.json (private, sealed by its own password) and gatepass-revoke.cert (signed by the CA key)
    ///
    /// For whoever is on duty: 'gatepass revoke device ID --revoke-key gatepass-revoke.json'. It adds to the revocation list; it lets
    /// nobody in, brings nothing back, and revokes no CA key. Take it away with 'gatepass revoke revoke-key gatepass-revoke.cert': keep that file.
    Create(Create),
}

#[derive(Args)]
pub(crate) struct Create {
    /// What to call it, for example "night shift"
    name: String,
    /// The folder for the two files
    #[arg(long, default_value = ".", value_name = "FOLDER")]
    out: PathBuf,
    /// For how many days it counts
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u64).range(1..=3650))]
    days: u64,
    /// How many lists may be signed from now on, by whomever, before it must be made anew
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    lists: u64,
    /// Read the new key's password from this file (mode 0600) instead of asking for it
    #[arg(long, value_name = "FILE")]
    new_password_file: Option<PathBuf>,
    #[command(flatten)]
    unlock: Unlock,
}

#[derive(Args)]
pub(crate) struct New {
    /// What to call it, for example "acme-2026"
    name: String,
    /// The folder for the two files
    #[arg(long, default_value = ".", value_name = "FOLDER")]
    out: PathBuf,
    /// Read the password from this file (mode 0600) instead of asking for it
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

/// Which CA key signs, and where its password comes from.
#[derive(Args)]
pub(crate) struct Unlock {
    /// The sealed CA key (default: the profile's ca_key, or ./gatepass-ca.json)
    #[arg(long, global = true, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Read the CA key's password from this file (mode 0600) instead of asking for it
    #[arg(long, global = true, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

pub(crate) async fn run(command: Command, profile: &Path) -> Result<()> {
    match command {
        Command::New(new) => make(&new),
        Command::Add { pem, name } => add(Session::open(profile)?, &pem, name).await,
        Command::RevokeKey(RevokeKeys::Create(create)) => create.run(&Session::open(profile)?).await,
        Command::List => list(&Session::open(profile)?).await,
    }
}

fn make(new: &New) -> Result<()> {
    let (pem_path, json_path) = (new.out.join("gatepass-ca.pem"), new.out.join("gatepass-ca.json"));
    for path in [&pem_path, &json_path] {
        if path.exists() {
            bail!(
                "{} is there already, and a CA key is never overwritten; choose another folder with --out",
                path.display()
            );
        }
    }
    let password = password::choose(&new.name, new.password_file.as_deref())?;
    let key = SigningKey::generate(&mut edge::rng());
    let sealed = vault::seal(&new.name, password.as_bytes(), &*key.seed(), &mut edge::rng())?;
    let public = CaPublic::new(key.public_key())?;
    files::write_secret(&json_path, &sealed)?;
    files::write_public(&pem_path, &public.to_pem())?;
    say(&format!(
        "CA key \"{}\" ({})\n  {}   public: give it to 'gatepass ca add'\n  {}  private: keep it, and a copy of it and its \
         password in a safe place",
        show::clean(&new.name),
        hex(&public.key().kid().0),
        pem_path.display(),
        json_path.display()
    ))
}

async fn add(mut session: Session, pem: &Path, name: Option<String>) -> Result<()> {
    let public =
        CaPublic::from_pem(&files::read_public(pem, "the CA key")?).with_context(|| pem.display().to_string())?;
    let sealed = pem.with_extension("json");
    let sealed_name = || files::read_secret(&sealed, "the sealed CA key").ok().and_then(|text| vault::name(&text).ok());
    let stem = || pem.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let new = NewCaKey { name: name.or_else(sealed_name).unwrap_or_else(stem), pem: public.to_pem() };
    let known: Vec<CaKey> = session.list("/ca-keys").await?;
    let kid = public.key().kid();
    if !known.iter().any(|key| key.kid == kid) {
        let _: CaKey = session.post("/ca-keys", &new).await?;
    }
    if !session.profile.cas.contains(&new.pem) {
        session.profile.cas.push(new.pem);
    }
    if session.profile.ca_key.is_none() && sealed.exists() {
        session.profile.ca_key = Some(sealed.canonicalize().unwrap_or(sealed));
    }
    session.profile.rewrite(&session.profile_path)?;
    say(&format!("CA key {} is trusted in \"{}\"", hex(&kid.0), show::clean(&session.profile.name)))
}

async fn list(session: &Session) -> Result<()> {
    let trust = session.profile.trust()?;
    let keys: Vec<CaKey> = session.list("/ca-keys").await?;
    let row = |key: &CaKey| {
        let believed = trust.cas().any(|ca| ca.key().kid() == key.kid && ca.to_pem() == key.pem);
        let believed = if believed { "yes" } else { "no" };
        vec![hex(&key.kid.0), key.name.clone(), show::time(key.added), believed.to_owned()]
    };
    show::list(&["KEY", "NAME", "ADDED", "BELIEVED HERE"], &keys, row)
}

impl Create {
    async fn run(self, session: &Session) -> Result<()> {
        let (json_path, cert_path) = (self.out.join("gatepass-revoke.json"), self.out.join("gatepass-revoke.cert"));
        for path in [&json_path, &cert_path] {
            if path.exists() {
                bail!("{} is there already; choose another folder with --out", path.display());
            }
        }
        let trust = session.trust().await?;
        let ca = self.unlock.open(session)?;
        let password = password::choose(&self.name, self.new_password_file.as_deref())?;
        let key = SigningKey::generate(&mut edge::rng());
        let draft = session.draft(&trust, &key, self.days * 86_400);
        let (serial, now) = (draft.serial, draft.not_before);
        let terms = RevokerTerms { max_epoch: trust.revocation_epoch() + self.lists };
        let statement = draft.sign(&terms, &ca)?;
        files::write_secret(
            &json_path,
            &vault::seal(&self.name, password.as_bytes(), &*key.seed(), &mut edge::rng())?,
        )?;
        files::write_public(&cert_path, &format!("{}\n", STANDARD.encode(statement.bytes())))?;
        say(&format!(
            "revoke-only key \"{}\" ({serial}), until {}\n  {}  private\n  {}  belongs beside it",
            show::clean(&self.name),
            show::time(now + self.days * 86_400),
            json_path.display(),
            cert_path.display()
        ))
    }
}

/// A key that only revokes, with the statement that says so.
pub(crate) fn open_revoke_key(path: &Path, password_file: Option<&Path>) -> Result<(SigningKey, Bytes)> {
    let statement = read_cert(&path.with_extension("cert"))?;
    let (_, key) = open_sealed(path, "revoke-only key", password_file)?;
    Ok((key, statement))
}

/// The serial of a key that only revokes, and the highest epoch that it may sign.
pub(crate) fn read_revoke_key(session: &Session, cert: &Path) -> Result<(Serial, u64)> {
    let why = || format!("{} is no statement about a revoke-only key of this tenant", cert.display());
    let statement = Unverified::<Statement>::decode(read_cert(cert)?).with_context(why)?;
    let (issuer, trust) = (statement.claimed().issuer, session.profile.trust()?);
    let ca = trust.ca(&issuer).with_context(why)?;
    let statement = statement.verify(ca.key()).with_context(why)?;
    let terms: RevokerTerms = statement.body().terms().with_context(why)?;
    Ok((statement.body().serial, terms.max_epoch))
}

fn read_cert(cert: &Path) -> Result<Bytes> {
    let text = files::read_public(cert, "the statement about the revoke-only key")?;
    let statement = STANDARD.decode(text.trim()).with_context(|| format!("{} is damaged", cert.display()))?;
    Ok(statement.into())
}

/// Opens a sealed key: its name, and itself.
fn open_sealed(path: &Path, what: &str, password_file: Option<&Path>) -> Result<(String, SigningKey)> {
    let sealed = files::read_secret(path, &format!("the sealed {what}"))?;
    let name = vault::name(&sealed).with_context(|| path.display().to_string())?;
    let password = password::ask(&format!("Password for the {what} \"{}\": ", show::clean(&name)), password_file)?;
    let secret = vault::open(&sealed, password.as_bytes()).with_context(|| path.display().to_string())?;
    let seed: &[u8; 32] = secret.as_slice().try_into().with_context(|| format!("{} holds no key", path.display()))?;
    Ok((name, SigningKey::from_seed(&Zeroizing::new(*seed))))
}

impl Unlock {
    /// The file with the password, if one was named.
    pub(crate) fn password_file(&self) -> Option<&Path> {
        self.password_file.as_deref()
    }

    /// Opens the CA key. It must be one that the profile believes: what another signs, nobody of this tenant accepts.
    pub(crate) fn open(&self, session: &Session) -> Result<SigningKey> {
        let default = || session.profile.ca_key.clone().unwrap_or_else(|| PathBuf::from("gatepass-ca.json"));
        let path = self.ca.clone().unwrap_or_else(default);
        if !path.exists() {
            bail!("there is no sealed CA key {}; 'gatepass ca new' makes one, or name yours with --ca", path.display());
        }
        let (name, key) = open_sealed(&path, "CA key", self.password_file.as_deref())?;
        let trusted = session.profile.trust()?.cas().any(|ca| *ca.key() == key.public_key());
        if !trusted {
            bail!(
                "the CA key \"{}\" ({}) is none of this tenant's; run 'gatepass ca add' with its gatepass-ca.pem first",
                show::clean(&name),
                hex(&key.public_key().kid().0)
            );
        }
        Ok(key)
    }
}
