//! Which server, which tenant, and with which token: a small TOML file, `~/.config/gatepass/profile.toml` unless said
//! otherwise. Its CA keys are what this program believes, whatever the server says.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use gatepass_protocol::ids::TenantId;
use gatepass_protocol::trust::{CaPublic, TrustStore};

use crate::{files, keys};

/// The profile's contents.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Profile {
    /// `https://host[:port]` of the control plane.
    pub(crate) url: String,
    /// The tenant's identifier.
    pub(crate) tenant: String,
    /// The tenant's name, for people.
    pub(crate) name: String,
    /// The file with the administrator's token.
    pub(crate) token_file: PathBuf,
    /// The certificate to expect from the server, where no public CA vouches for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server_ca: Option<PathBuf>,
    /// The sealed CA key to sign with where `--ca` names none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca_key: Option<PathBuf>,
    /// The tenant's CA keys, as PEM.
    #[serde(default)]
    pub(crate) cas: Vec<String>,
}

const KEYS: &[&str] = &["url", "tenant", "name", "token_file", "server_ca", "ca_key", "cas"];

impl Profile {
    /// The default place of the profile.
    pub(crate) fn default_path() -> Result<PathBuf> {
        let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
        let config = config.or_else(home).context("neither XDG_CONFIG_HOME nor HOME is set; use --profile")?;
        Ok(config.join("gatepass/profile.toml"))
    }

    /// Reads a profile.
    pub(crate) fn read(path: &Path) -> Result<Profile> {
        if !path.exists() {
            bail!(
                "there is no profile at {}; 'gatepass tenant create' makes one, or name yours with --profile",
                path.display()
            );
        }
        let text = files::read_public(path, "the profile")?;
        let what = || format!("in the profile {}", path.display());
        let table: toml::Table = text.parse().with_context(what)?;
        keys::check(&table, KEYS, "profile").with_context(what)?;
        table.try_into().with_context(what)
    }

    /// Writes a profile that wasn't there.
    pub(crate) fn write_new(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).with_context(|| format!("can't make {}", folder.display()))?;
        }
        files::write_secret(path, &toml::to_string(self)?)
    }

    /// Writes a profile over the one that was read.
    pub(crate) fn rewrite(&self, path: &Path) -> Result<()> {
        files::replace(path, &toml::to_string(self)?)
    }

    /// The tenant's identifier.
    pub(crate) fn tenant(&self) -> Result<TenantId> {
        self.tenant.parse().with_context(|| format!("the profile's tenant {:?}", self.tenant))
    }

    /// The trust store of the profile's CA keys, with no statement in it yet.
    pub(crate) fn trust(&self) -> Result<TrustStore> {
        let cas: Vec<CaPublic> = self.cas.iter().map(|pem| CaPublic::from_pem(pem)).collect::<Result<_, _>>()?;
        Ok(TrustStore::new(self.tenant()?, cas))
    }

    /// The certificate to expect from the server, as PEM.
    pub(crate) fn server_ca_pem(&self) -> Result<Option<String>> {
        self.server_ca.as_deref().map(|path| files::read_public(path, "the server's certificate")).transpose()
    }
}
