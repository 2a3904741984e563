//! People and what they may do through the API: technicians, groups, tokens, the operator's people, and with whom a computer
//! is shared.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand};
use gatepass_client::{Http, Proxies, Tls};
use gatepass_control::api::{
    Computer, Delegate, Group, NewGroup, NewPerson, NewSignIn, NewTechnician, NewToken, Person, Role, Shares, SignIn,
    SignInMade, Technician, TechnicianChange, Token, TokenCreated,
};
use gatepass_protocol::ids::{Serial, TechnicianId};

use crate::profile::Profile;
use crate::session::{self, Session};
use crate::tenant::{self, Operator};
use crate::{files, keys, password, say, show};

/// Add, change and list technicians, the people who may approve
#[derive(Subcommand)]
pub(crate) enum Technicians {
    /// Add a technician
    Add {
        /// A short name: it becomes part of account names, as in gp-alex
        name: String,
        /// The e-mail address
        #[arg(long, default_value = "")]
        email: String,
        /// What they may do through the API: tenant-admin, technician, read-only, auditor
        #[arg(long, default_value_t = Role::Technician)]
        role: Role,
    },
    /// Change a technician's e-mail address or role; a new role makes their tokens worthless
    Change {
        /// The technician's name
        name: String,
        /// The new e-mail address
        #[arg(long)]
        email: Option<String>,
        /// The new role: tenant-admin, technician, read-only, auditor
        #[arg(long)]
        role: Option<Role>,
    },
    /// List technicians
    List,
}

/// Make, change and list groups of technicians
#[derive(Subcommand)]
pub(crate) enum Groups {
    /// Make a group
    New {
        /// What to call it
        name: String,
        /// A technician who is in it; may be given several times
        #[arg(long = "technician", value_name = "NAME")]
        technicians: Vec<String>,
    },
    /// Say anew who is in a group
    Set {
        /// The group's name
        name: String,
        /// A technician who is in it; may be given several times
        #[arg(long = "technician", value_name = "NAME")]
        technicians: Vec<String>,
    },
    /// Remove a group; what was shared with it is shared with it no more
    Remove {
        /// The group's name
        name: String,
    },
    /// List groups
    List,
}

/// Make, list and remove tokens for the API
#[derive(Subcommand)]
pub(crate) enum Tokens {
    /// Make a token with a role and an end
    New {
        /// What it is for, in words
        name: String,
        /// What it lets do: tenant-admin, technician, read-only, auditor
        #[arg(long)]
        role: Role,
        /// Whose it is; it lets do no more than they may
        #[arg(long, value_name = "NAME")]
        technician: Option<String>,
        /// After how many days it ends
        #[arg(long, default_value_t = 90)]
        days: u64,
        /// Where to write it (mode 0600)
        #[arg(long, value_name = "FILE")]
        token_file: PathBuf,
    },
    /// Make a token worthless, at once
    Remove {
        /// Its identifier, as 'gatepass token list' shows it
        id: String,
    },
    /// List tokens: what each is for, never the secret
    List,
}

/// Add, list and delegate the operator's people
#[derive(Subcommand)]
pub(crate) enum People {
    /// Add one of the operator's people
    Add {
        /// A short name: it becomes part of account names, as in gp-alex
        name: String,
        /// The e-mail address
        email: String,
        #[command(flatten)]
        operator: Operator,
    },
    /// Make one of the operator's people a technician of a tenant
    Delegate {
        /// The person's name
        name: String,
        /// The tenant's name or identifier
        #[arg(long)]
        tenant: String,
        /// What they may do through the tenant's API
        #[arg(long, default_value_t = Role::Technician)]
        role: Role,
        #[command(flatten)]
        operator: Operator,
    },
    /// List the operator's people
    List(Operator),
}

/// Sign in with a password and a one-time code
#[derive(Subcommand)]
pub(crate) enum SignIns {
    /// Set your password, with a token of your own; writes the secret of your one-time codes for your authenticator
    Setup {
        /// Where to write the secret, an otpauth:// address (mode 0600): give it to the authenticator, then delete it
        #[arg(long, value_name = "FILE")]
        codes_file: PathBuf,
        /// Read the password from this file (mode 0600) instead of asking for it
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Sign in: puts a token for twelve hours in the place of the profile's
    As {
        /// Your name as a technician
        name: String,
        /// The six digits that the authenticator shows now [default: asked for]
        #[arg(long)]
        code: Option<String>,
        /// Read the password from this file (mode 0600) instead of asking for it
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Take a technician's password, codes and tokens away, as an administrator
    Remove {
        /// The technician's name
        name: String,
    },
}

/// With whom a computer is shared from now on.
#[derive(Args)]
pub(crate) struct Share {
    /// The computer's name or identifier
    computer: String,
    /// All administrators of the tenant
    #[arg(long)]
    all_admins: bool,
    /// All technicians of the tenant
    #[arg(long)]
    all_users: bool,
    /// This technician; may be given several times
    #[arg(long = "technician", value_name = "NAME")]
    technicians: Vec<String>,
    /// This group; may be given several times
    #[arg(long = "group", value_name = "NAME")]
    groups: Vec<String>,
}

pub(crate) async fn technicians(command: Technicians, profile: &Path) -> Result<()> {
    let session = Session::open(profile)?;
    match command {
        Technicians::Add { name, email, role } => {
            let new = NewTechnician { name, email, role };
            let technician: Technician = session.post("/technicians", &new).await?;
            // From now on this machine knows who that name is.
            session.technicians().await?;
            say(&format!("technician {} ({})", technician.name, technician.id))
        }
        Technicians::Change { name, email, role } => {
            let one = session.technician(&name).await?;
            let change = TechnicianChange { email: email.unwrap_or(one.email), role: role.unwrap_or(one.role) };
            let one: Technician = session.put(&format!("/technicians/{}", one.id), &change).await?;
            say(&format!("technician {}: {}, {}", one.name, show::clean(&one.email), one.role))
        }
        Technicians::List => {
            let technicians = session.technicians().await?;
            show::list(&["NAME", "TECHNICIAN", "E-MAIL", "ROLE", "ADDED"], &technicians, |one| {
                let role = if one.delegated { format!("{}, delegated", one.role) } else { one.role.to_string() };
                vec![one.name.clone(), one.id.to_string(), one.email.clone(), role, show::time(one.added)]
            })
        }
    }
}

pub(crate) async fn groups(command: Groups, profile: &Path) -> Result<()> {
    let session = Session::open(profile)?;
    match command {
        Groups::New { name, technicians } => {
            let new = NewGroup { name, technicians: named(&session, &technicians).await? };
            let group: Group = session.post("/groups", &new).await?;
            say(&format!("group \"{}\": {} technicians", show::clean(&group.name), group.technicians.len()))
        }
        Groups::Set { name, technicians } => {
            let group = group(&session, &name).await?;
            let new = NewGroup { name: group.name, technicians: named(&session, &technicians).await? };
            let group: Group = session.put(&format!("/groups/{}", group.id), &new).await?;
            say(&format!("group \"{}\": {} technicians", show::clean(&group.name), group.technicians.len()))
        }
        Groups::Remove { name } => {
            let group = group(&session, &name).await?;
            session.delete(&format!("/groups/{}", group.id)).await?;
            say(&format!("the group \"{}\" is removed", show::clean(&group.name)))
        }
        Groups::List => {
            let (groups, names) = (session.list::<Group>("/groups").await?, session.technicians().await?);
            show::list(&["GROUP", "NAME", "TECHNICIANS"], &groups, |one| {
                vec![one.id.to_string(), one.name.clone(), names_of(&one.technicians, &names)]
            })
        }
    }
}

pub(crate) async fn tokens(command: Tokens, profile: &Path) -> Result<()> {
    let session = Session::open(profile)?;
    match command {
        Tokens::New { name, role, technician, days, token_file } => {
            if token_file.exists() {
                bail!("{} is there already and is not overwritten", token_file.display());
            }
            let technician = match technician {
                Some(name) => Some(session.technician(&name).await?.id),
                None => None,
            };
            let new = NewToken { name, role, technician, days };
            let made: TokenCreated = session.post("/tokens", &new).await?;
            files::write_secret(&token_file, &made.secret)?;
            say(&format!(
                "token {} ({}), until {}\n  {}  keep it secret, the server has no copy",
                made.token.id,
                made.token.role,
                made.token.expires.map_or_else(|| "it is removed".to_owned(), show::time),
                token_file.display()
            ))
        }
        Tokens::Remove { id } => {
            let id: Serial = id.parse().with_context(|| format!("{id:?}; see 'gatepass token list'"))?;
            session.delete(&format!("/tokens/{id}")).await?;
            say(&format!("the token {id} is worthless"))
        }
        Tokens::List => {
            let (tokens, names) = (session.list::<Token>("/tokens").await?, session.technicians().await?);
            show::list(&["TOKEN", "NAME", "ROLE", "TECHNICIAN", "UNTIL"], &tokens, |one| {
                let until = one.expires.map_or_else(|| "removed".to_owned(), show::time);
                let whose = names_of(one.technician.as_slice(), &names);
                vec![one.id.to_string(), one.name.clone(), one.role.to_string(), whose, until]
            })
        }
    }
}

pub(crate) async fn sign_ins(command: SignIns, profile: &Path) -> Result<()> {
    match command {
        SignIns::Setup { codes_file, password_file } => {
            let session = Session::open(profile)?;
            if codes_file.exists() {
                bail!("{} is there already and is not overwritten", codes_file.display());
            }
            let chosen = password::twice("New password: ", password_file.as_deref())?;
            let new = NewSignIn { password: chosen.to_string() };
            let made: SignInMade = session.put("/sign-in", &new).await?;
            files::write_secret(&codes_file, &made.uri)?;
            say(&format!(
                "{}  the secret of your codes: give it to your authenticator, then delete the file",
                codes_file.display()
            ))
        }
        SignIns::As { name, code, password_file } => {
            let profile = Profile::read(profile)?;
            let tls = Tls::from_pem(profile.server_ca_pem()?.as_deref())?;
            let http = Http::new(&profile.url, tls, Proxies::from_environment()?)?;
            let password = password::ask("Password: ", password_file.as_deref())?;
            let code = code.map_or_else(|| crate::ask("Code: "), Ok)?;
            let tenant = profile.tenant()?;
            let sign_in = SignIn { tenant, name, password: password.to_string(), code };
            let made: TokenCreated = http.post_json("/api/v1/sign-in", &sign_in).await?;
            files::replace(&profile.token_file, &made.secret)?;
            let until = made.token.expires.map_or_else(|| "it is removed".to_owned(), show::time);
            say(&format!("signed in as {} until {until}", made.token.role))
        }
        SignIns::Remove { name } => {
            let session = Session::open(profile)?;
            let one = session.technician(&name).await?;
            session.delete(&format!("/technicians/{}/sign-in", one.id)).await?;
            say(&format!(
                "{} can't sign in any more, and has no tokens; a new token and 'sign-in setup' begin anew",
                one.name
            ))
        }
    }
}

pub(crate) async fn people(command: People) -> Result<()> {
    match command {
        People::Add { name, email, operator } => {
            let person: Person = operator.http()?.post_json("/api/v1/people", &NewPerson { name, email }).await?;
            say(&format!("person {} ({})", person.name, person.id))
        }
        People::Delegate { name, tenant, role, operator } => {
            let http = operator.http()?;
            let people: Vec<Person> = session::list(&http, "/api/v1/people").await?;
            let person = people.iter().find(|one| one.name == name);
            let person = person.with_context(|| format!("there is no person \"{name}\""))?;
            let tenant = tenant::find(&http, &tenant).await?;
            let path = format!("/api/v1/tenants/{}/delegations", tenant.id);
            let one: Technician = http.post_json(&path, &Delegate { person: person.id, role }).await?;
            say(&format!(
                "{} is a technician of \"{}\"; its administrators enrol their phone and name them in the policy",
                one.name,
                show::clean(&tenant.name)
            ))
        }
        People::List(operator) => {
            let people: Vec<Person> = session::list(&operator.http()?, "/api/v1/people").await?;
            show::list(&["NAME", "PERSON", "E-MAIL"], &people, |one| {
                vec![one.name.clone(), one.id.to_string(), one.email.clone()]
            })
        }
    }
}

impl Share {
    pub(crate) async fn run(self, session: &Session) -> Result<()> {
        let computer = computer(session, &self.computer).await?;
        let mut groups = Vec::new();
        for name in &self.groups {
            groups.push(group(session, name).await?.id);
        }
        let technicians = named(session, &self.technicians).await?;
        let shares = Shares { all_admins: self.all_admins, all_users: self.all_users, technicians, groups };
        let shares: Shares = session.put(&format!("/computers/{}/shares", computer.id), &shares).await?;
        show_shares(session, &computer, &shares).await?;
        say("This says who sees the computer here. Who may log in to it, the policy says: 'gatepass policy show'.")
    }
}

/// Shows with whom a computer is shared.
pub(crate) async fn shares(session: &Session, name: &str) -> Result<()> {
    let computer = computer(session, name).await?;
    let shares: Shares = session.get(&format!("/computers/{}/shares", computer.id)).await?;
    if show::is_json() { show::value(&shares) } else { show_shares(session, &computer, &shares).await }
}

async fn show_shares(session: &Session, computer: &Computer, shares: &Shares) -> Result<()> {
    let (known, technicians) = (session.list::<Group>("/groups").await?, session.technicians().await?);
    let groups = known.iter().filter(|group| shares.groups.contains(&group.id)).map(|group| group.name.clone());
    let all = [(shares.all_admins, "all administrators"), (shares.all_users, "all users")];
    let all = all.into_iter().filter(|(shared, _)| *shared).map(|(_, name)| name.to_owned());
    let technicians = Some(names_of(&shares.technicians, &technicians)).filter(|names| !names.is_empty());
    let with: Vec<String> = all.chain(technicians).chain(groups).collect();
    let with = if with.is_empty() { "nobody".to_owned() } else { with.join(", ") };
    say(&show::clean(&format!("{} is shared with {with}", computer.name)))
}

async fn computer(session: &Session, wanted: &str) -> Result<Computer> {
    let computers: Vec<Computer> = session.list("/computers").await?;
    let mut found = computers.into_iter().filter(|one| one.name == wanted || one.id.to_string() == wanted);
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => bail!("there is no computer \"{wanted}\"; see 'gatepass computer list'"),
        (Some(_), Some(_)) => bail!("several computers are called \"{wanted}\"; give the identifier"),
    }
}

async fn group(session: &Session, wanted: &str) -> Result<Group> {
    let groups: Vec<Group> = session.list("/groups").await?;
    let names: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
    let hint = keys::hint(wanted, &names);
    groups.into_iter().find(|one| one.name == wanted).with_context(|| format!("there is no group \"{wanted}\"{hint}"))
}

async fn named(session: &Session, names: &[String]) -> Result<Vec<TechnicianId>> {
    let mut ids = Vec::new();
    for name in names {
        ids.push(session.technician(name).await?.id);
    }
    Ok(ids)
}

fn names_of(ids: &[TechnicianId], technicians: &[Technician]) -> String {
    let name = |id: &TechnicianId| {
        let known = technicians.iter().find(|one| one.id == *id);
        known.map_or_else(|| id.to_string(), |one| one.name.clone())
    };
    ids.iter().map(name).collect::<Vec<_>>().join(", ")
}
