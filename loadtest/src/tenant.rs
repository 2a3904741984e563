//! The tenant that a load test belongs to: a folder with what `gatepass` keeps for an administrator.
//!
//! ```text
//! profile.toml       server, tenant, where the other files are: the same file that `gatepass` uses
//! admin.token        the administrator's token
//! gatepass-ca.json   the CA's private key, sealed; gatepass-ca.pem is its public half
//! ca-password        its password
//! ```
//!
//! [`Tenant::create`] makes one at a server, as `gatepass tenant create`, `ca new` and `ca add` would. Make one for load tests
//! alone: its CA's password lies beside its key.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use gatepass_client::{Http, HttpError, Proxies, Tls, TlsError, edge};
use gatepass_protocol::{
    api::{Base64, Statements, text},
    ids::TenantId,
    keys::{Signer as _, SigningKey},
    statement::Kind,
    trust::{CaPublic, TrustStore},
    vault::{self, VaultError},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::Fleet;

const PROFILE: &str = "profile.toml";
const TOKEN: &str = "admin.token";
const CA_KEY: &str = "gatepass-ca.json";
const CA_PEM: &str = "gatepass-ca.pem";
const PASSWORD: &str = "ca-password";

/// Why there is no tenant to test with.
#[derive(Debug, thiserror::Error)]
pub enum TenantError {
    /// A file can't be read or made.
    #[error("{}: {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        reason: io::Error,
    },
    /// Others than its owner could have read a secret.
    #[error("{} can be read by others than its owner; if nobody did, run: chmod 600 {}", path.display(), path.display())]
    Open {
        /// Which.
        path: PathBuf,
    },
    /// The profile can't be read.
    #[error("{}: {problem}", path.display())]
    Profile {
        /// Which.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// The CA's key can't be opened.
    #[error("{}: {source}", path.display())]
    Ca {
        /// Which.
        path: PathBuf,
        /// Why.
        source: VaultError,
    },
    /// The CA's key is not one that the profile names.
    #[error("{} is none of the CA keys in the profile beside it: agents that it signs would not be let in", path.display())]
    OtherCa {
        /// Which.
        path: PathBuf,
    },
    /// The server refused or was not reached.
    #[error(transparent)]
    Server(#[from] HttpError),
    /// The server's certificate can't be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A tenant with the right to sign for it.
pub struct Tenant {
    profile: Profile,
    ca: Zeroizing<[u8; 32]>,
    http: Http,
    tls: Tls,
}

/// The keys of `gatepass`'s profile that matter here.
#[derive(Serialize, Deserialize)]
struct Profile {
    url: String,
    #[serde(with = "text")]
    tenant: TenantId,
    name: String,
    token_file: PathBuf,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    server_ca: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ca_key: Option<PathBuf>,
    #[serde(default)]
    cas: Vec<String>,
}

#[derive(Serialize)]
struct Named<'a> {
    name: &'a str,
}

#[derive(Deserialize)]
struct Created {
    #[serde(with = "text")]
    id: TenantId,
    token: String,
}

#[derive(Serialize)]
struct NewCaKey<'a> {
    name: &'a str,
    pem: &'a str,
}

#[derive(Serialize)]
struct NewStatement {
    statement: Base64,
}

/// Where a tenant is made.
#[derive(Debug, Clone)]
pub struct Server {
    /// `https://host[:port]` of the control plane.
    pub url: String,
    /// The file with the operator's token: `operator.token` beside the server's database.
    pub operator_token: PathBuf,
    /// The certificate to expect from the server, PEM, where no public CA vouches for it.
    pub server_ca: Option<PathBuf>,
}

impl Tenant {
    /// Makes a tenant of this name and its CA key, in a new folder.
    pub async fn create(server: &Server, name: &str, folder: &Path) -> Result<Self, TenantError> {
        let tls = tls(server.server_ca.as_deref())?;
        let operator = Http::new(&server.url, tls, Proxies::none())?.with_bearer(&read_secret(&server.operator_token)?);
        fs::create_dir_all(folder).map_err(at(folder))?;
        let (password, ca) = (random_words(), SigningKey::generate(&mut edge::rng()));
        // First what can go wrong without the server, so that a tenant's token is not lost for want of a file.
        write_new(&folder.join(PASSWORD), &password, 0o600)?;
        let sealed = vault::seal(name, password.as_bytes(), &*ca.seed(), &mut edge::rng())
            .map_err(|source| TenantError::Ca { path: folder.join(CA_KEY), source })?;
        write_new(&folder.join(CA_KEY), &sealed, 0o600)?;
        let pem = pem(&ca);
        write_new(&folder.join(CA_PEM), &pem, 0o644)?;

        let asked = operator.post_json::<_, Created>("/api/v1/tenants", &Named { name }).await;
        if asked.is_err() {
            // So that the same command can be given again once the server answers.
            for name in [PASSWORD, CA_KEY, CA_PEM] {
                let _ = fs::remove_file(folder.join(name));
            }
        }
        let created = asked?;
        let absolute = |path: &Path| std::path::absolute(path).map_err(at(path));
        write_new(&folder.join(TOKEN), &created.token, 0o600)?;
        let profile = Profile {
            url: server.url.clone(),
            tenant: created.id,
            name: name.to_owned(),
            token_file: absolute(&folder.join(TOKEN))?,
            server_ca: server.server_ca.as_deref().map(absolute).transpose()?,
            ca_key: Some(absolute(&folder.join(CA_KEY))?),
            cas: vec![pem.clone()],
        };
        let path = folder.join(PROFILE);
        let text = toml::to_string(&profile)
            .map_err(|error| TenantError::Profile { path: path.clone(), problem: error.to_string() })?;
        write_new(&path, &text, 0o600)?;
        let tenant = Self::open(folder)?;
        let path = format!("/api/v1/tenants/{}/ca-keys", created.id);
        let _: serde::de::IgnoredAny = tenant.http.post_json(&path, &NewCaKey { name, pem: &pem }).await?;
        Ok(tenant)
    }

    /// Opens a folder that [`Tenant::create`] made, or one of `gatepass` with the CA's password in `ca-password`.
    pub fn open(folder: &Path) -> Result<Self, TenantError> {
        let path = folder.join(PROFILE);
        let text = fs::read_to_string(&path).map_err(at(&path))?;
        let profile: Profile = toml::from_str(&text)
            .map_err(|error| TenantError::Profile { path: path.clone(), problem: error.to_string() })?;
        let ca_key = profile.ca_key.clone().unwrap_or_else(|| folder.join(CA_KEY));
        let sealed = read_secret(&ca_key)?;
        let wrong = |source| TenantError::Ca { path: ca_key.clone(), source };
        let secret = vault::open(&sealed, read_secret(&folder.join(PASSWORD))?.as_bytes()).map_err(wrong)?;
        let ca = Zeroizing::new(secret.as_slice().try_into().map_err(|_| wrong(VaultError::NotAVault))?);
        if !profile.cas.contains(&pem(&SigningKey::from_seed(&ca))) {
            return Err(TenantError::OtherCa { path: ca_key });
        }
        let tls = tls(profile.server_ca.as_deref())?;
        let http =
            Http::new(&profile.url, tls.clone(), Proxies::none())?.with_bearer(&read_secret(&profile.token_file)?);
        Ok(Self { profile, ca, http, tls })
    }

    /// Its identifier.
    pub fn id(&self) -> TenantId {
        self.profile.tenant
    }

    /// `https://host[:port]` of its control plane.
    pub fn url(&self) -> &str {
        &self.profile.url
    }

    /// Whom to believe on the wire.
    pub fn tls(&self) -> &Tls {
        &self.tls
    }

    /// The certificate to expect from the server, where no public CA vouches for it.
    pub fn server_ca(&self) -> Option<&Path> {
        self.profile.server_ca.as_deref()
    }

    /// The seed of its CA's private key.
    pub fn ca_seed(&self) -> &Zeroizing<[u8; 32]> {
        &self.ca
    }

    /// Its simulated agents and phones, with certificates that begin now.
    pub fn fleet(&self, seed: u64) -> Fleet {
        Fleet::new(self.id(), SigningKey::from_seed(&self.ca), seed, edge::now())
    }

    /// What is in force at its server.
    pub async fn statements(&self) -> Result<TrustStore, TenantError> {
        let shown: Statements = self.http.get_json(&format!("/api/v1/statements/{}", self.id())).await?;
        let mut trust =
            TrustStore::new(self.id(), self.profile.cas.iter().filter_map(|pem| CaPublic::from_pem(pem).ok()));
        // What does not verify is as good as not there.
        let _ = shown.accept_into(&mut trust, edge::now());
        Ok(trust)
    }

    /// Puts a signed list in force.
    pub async fn submit(&self, statement: &Bytes) -> Result<(), TenantError> {
        let path = format!("/api/v1/tenants/{}/statements", self.id());
        let question = NewStatement { statement: Base64(statement.clone()) };
        let _: serde::de::IgnoredAny = self.http.post_json(&path, &question).await?;
        Ok(())
    }

    /// The epoch that the next list of a kind must have.
    pub async fn next_epoch(&self, kind: Kind) -> Result<u64, TenantError> {
        let trust = self.statements().await?;
        Ok(1 + match kind {
            Kind::Revocation => trust.revocation_epoch(),
            Kind::Policy => trust.policy_epoch(),
            _ => trust.relays().map_or(0, |relays| relays.statement().epoch),
        })
    }
}

fn tls(server_ca: Option<&Path>) -> Result<Tls, TenantError> {
    match server_ca {
        Some(path) => Ok(Tls::only(&fs::read_to_string(path).map_err(at(path))?)?),
        None => Ok(Tls::system()?),
    }
}

fn pem(ca: &SigningKey) -> String {
    CaPublic::new(ca.public_key()).map(|ca| ca.to_pem()).unwrap_or_else(|error| unreachable!("{error}"))
}

/// A password that nobody guesses and nobody has to remember.
fn random_words() -> Zeroizing<String> {
    let bytes: Zeroizing<[u8; 24]> = Zeroizing::new(edge::random());
    Zeroizing::new(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn at(path: &Path) -> impl Fn(io::Error) -> TenantError + use<> {
    let path = path.to_owned();
    move |reason| TenantError::File { path: path.clone(), reason }
}

fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), TenantError> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    opened.and_then(|mut file| file.write_all(text.as_bytes())).map_err(at(path))
}

/// Reads a secret that nobody but its owner may read.
fn read_secret(path: &Path) -> Result<Zeroizing<String>, TenantError> {
    if fs::metadata(path).map_err(at(path))?.mode() & 0o077 != 0 {
        return Err(TenantError::Open { path: path.to_owned() });
    }
    let text = Zeroizing::new(fs::read_to_string(path).map_err(at(path))?);
    Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}
