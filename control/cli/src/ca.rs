//! The tenant's CA keys: made here, kept here, used here. The server gets the public half and nothing else, ever.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use zeroize::Zeroizing;

use gatepass_client::edge;
use gatepass_control::api::{CaKey, NewCaKey, hex};
use gatepass_protocol::keys::{Signer as _, SigningKey};
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
    /// List the tenant's CA keys, and whether this profile believes them
    List,
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

impl Unlock {
    /// Opens the CA key. It must be one that the profile believes: what another signs, nobody of this tenant accepts.
    pub(crate) fn open(&self, session: &Session) -> Result<SigningKey> {
        let default = || session.profile.ca_key.clone().unwrap_or_else(|| PathBuf::from("gatepass-ca.json"));
        let path = self.ca.clone().unwrap_or_else(default);
        if !path.exists() {
            bail!("there is no sealed CA key {}; 'gatepass ca new' makes one, or name yours with --ca", path.display());
        }
        let sealed = files::read_secret(&path, "the sealed CA key")?;
        let name = vault::name(&sealed).with_context(|| path.display().to_string())?;
        let prompt = format!("Password for the CA key \"{}\": ", show::clean(&name));
        let password = password::ask(&prompt, self.password_file.as_deref())?;
        let secret = vault::open(&sealed, password.as_bytes()).with_context(|| path.display().to_string())?;
        let seed: &[u8; 32] =
            secret.as_slice().try_into().with_context(|| format!("{} holds no CA key", path.display()))?;
        let key = SigningKey::from_seed(&Zeroizing::new(*seed));
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
