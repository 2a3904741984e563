//! Tenants: made by the server's operator, who hands its administrator a profile and a token.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};

use gatepass_client::{Http, Proxies, Tls};
use gatepass_control::api::{Named, NewToken, Role, Tenant, TenantCreated, TokenCreated};

use crate::profile::Profile;
use crate::{files, say, session, show};

/// Create and list tenants, as the operator of a server
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Create a tenant; writes a profile and the administrator's token (mode 0600)
    Create(Create),
    /// List the server's tenants
    List(Operator),
    /// Make a new token for a tenant's administrator, in place of one that was lost
    Token(Token),
}

/// The server, and the right to make tenants there.
#[derive(Args)]
pub(crate) struct Operator {
    /// Where the server answers: https://host[:port]
    #[arg(long)]
    url: String,
    /// The operator's token: operator.token beside the server's database
    #[arg(long, value_name = "FILE")]
    operator_token_file: PathBuf,
    /// The certificate (PEM) to expect from the server, where no public CA vouches for it
    #[arg(long, value_name = "FILE")]
    server_ca: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Create {
    /// The organisation's name, for people
    name: String,
    #[command(flatten)]
    operator: Operator,
    /// Where to write the administrator's token [default: admin.token beside the profile]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Token {
    /// The tenant's name or identifier
    tenant: String,
    #[command(flatten)]
    operator: Operator,
    /// Where to write the token
    #[arg(long, value_name = "FILE")]
    token_file: PathBuf,
    /// What it is for, in words
    #[arg(long, default_value = "administrator")]
    label: String,
    /// After how many days it ends
    #[arg(long, default_value_t = 365)]
    days: u64,
}

pub(crate) async fn run(command: Command, profile_path: &Path) -> Result<()> {
    match command {
        Command::Create(create) => make(create, profile_path).await,
        Command::List(operator) => list(&operator).await,
        Command::Token(token) => token.run().await,
    }
}

async fn list(operator: &Operator) -> Result<()> {
    let tenants: Vec<Tenant> = session::list(&operator.http()?, "/api/v1/tenants").await?;
    let row = |one: &Tenant| vec![one.id.to_string(), one.name.clone(), show::time(one.created)];
    show::list(&["TENANT", "NAME", "CREATED"], &tenants, row)
}

async fn make(create: Create, profile_path: &Path) -> Result<()> {
    let token_file = create.token_file.unwrap_or_else(|| profile_path.with_file_name("admin.token"));
    for path in [profile_path, &token_file] {
        if path.exists() {
            bail!(
                "{} is there already and is not overwritten; choose other files with --profile and --token-file",
                path.display()
            );
        }
    }
    let http = create.operator.http()?;
    let absolute = |path: PathBuf| std::path::absolute(&path).with_context(|| path.display().to_string());
    let mut profile = Profile {
        url: create.operator.url,
        tenant: String::new(),
        name: create.name,
        token_file: absolute(token_file)?,
        server_ca: create.operator.server_ca.map(absolute).transpose()?,
        ca_key: None,
        cas: Vec::new(),
    };
    make_folder(profile_path)?;
    make_folder(&profile.token_file)?;
    let created: TenantCreated = http.post_json("/api/v1/tenants", &Named { name: profile.name.clone() }).await?;
    profile.tenant = created.id.to_string();
    files::write_secret(&profile.token_file, &created.token)?;
    profile.write_new(profile_path)?;
    say(&format!(
        "tenant \"{}\" ({})\n  {}  profile\n  {}  the administrator's token: keep it secret, the server has no copy",
        show::clean(&profile.name),
        profile.tenant,
        profile_path.display(),
        profile.token_file.display()
    ))
}

impl Token {
    async fn run(self) -> Result<()> {
        if self.token_file.exists() {
            bail!("{} is there already and is not overwritten", self.token_file.display());
        }
        let http = self.operator.http()?;
        let found = find(&http, &self.tenant).await?;
        make_folder(&self.token_file)?;
        let new = NewToken { name: self.label, role: Role::TenantAdmin, technician: None, days: self.days };
        let path = format!("/api/v1/tenants/{}/administrators", found.id);
        let made: TokenCreated = http.post_json(&path, &new).await?;
        files::write_secret(&self.token_file, &made.secret)?;
        say(&format!(
            "{}  a token that administers \"{}\": put it where the profile's token_file is",
            self.token_file.display(),
            show::clean(&found.name)
        ))
    }
}

/// The tenant of that name or identifier.
pub(crate) async fn find(http: &Http, wanted: &str) -> Result<Tenant> {
    let tenants: Vec<Tenant> = session::list(http, "/api/v1/tenants").await?;
    let found = tenants.into_iter().find(|one| one.name == wanted || one.id.to_string() == wanted);
    found.with_context(|| format!("there is no tenant \"{wanted}\""))
}

impl Operator {
    pub(crate) fn http(&self) -> Result<Http> {
        let token = files::read_secret(&self.operator_token_file, "the operator's token file")?;
        let pem =
            self.server_ca.as_deref().map(|path| files::read_public(path, "the server's certificate")).transpose()?;
        Ok(Http::new(&self.url, Tls::from_pem(pem.as_deref())?, Proxies::from_environment()?)?.with_bearer(&token))
    }
}

/// Before the server is asked, so that a token isn't lost for want of a folder.
fn make_folder(file: &Path) -> Result<()> {
    match file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => std::fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display())),
        None => Ok(()),
    }
}
