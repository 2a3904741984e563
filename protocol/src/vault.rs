//! A secret behind a password, as a small JSON text: a CA's private key (`gatepass-ca.json`) and a phone's software key.
//!
//! Argon2id (RFC 9106; its second recommended set of parameters) makes the key, XChaCha20-Poly1305 seals the secret, and the whole header is its associated data, so
//! that nobody can weaken the parameters of a text and have it open.

use argon2::{Algorithm, Argon2, Params, Version};
use base64::{Engine, engine::general_purpose::STANDARD};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305,
    aead::{AeadInOut, Buffer},
};
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::wire;

/// 64 MiB, the least that a vault is made with or opened at.
pub const MEMORY_KIB: u32 = 64 * 1024;
/// Passes over the memory, at least.
pub const PASSES: u32 = 3;
/// Lanes that a vault is made with. An owner with several cores opens it in less time; who guesses passwords on all cores anyway
/// gains nothing.
pub const LANES: u32 = 4;
// A text from elsewhere must not make its reader allocate without bound.
const MAX_MEMORY_KIB: u32 = 1024 * 1024;
const MAX_PASSES: u32 = 16;
const MAX_LANES: u32 = 16;

/// Why a vault does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// Not a vault, or damaged beyond reading.
    #[error("this is not a sealed Gatepass key file, or it is damaged; restore it from a backup")]
    NotAVault,
    /// Made with parameters that are too weak or too large to accept.
    #[error("the key file's password parameters are outside what Gatepass accepts; it may have been tampered with")]
    Parameters,
    /// Wrong password, or a changed file.
    #[error("the password is wrong, or the file was changed")]
    WrongPassword,
}

#[derive(Serialize, Deserialize, Clone)]
#[serde(deny_unknown_fields)]
struct Vault {
    format: String,
    name: String,
    kdf: String,
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: String,
    cipher: String,
    nonce: String,
    sealed: String,
}

const FORMAT: &str = "gatepass-vault-1";
const KDF: &str = "argon2id";
const CIPHER: &str = "xchacha20-poly1305";

/// Seals a secret. `name` says what it is, to people; it is authenticated, not hidden.
pub fn seal(name: &str, password: &[u8], secret: &[u8], rng: &mut impl CryptoRng) -> Result<String, VaultError> {
    let (mut salt, mut nonce) = ([0; 16], [0; 24]);
    rng.fill_bytes(&mut salt);
    rng.fill_bytes(&mut nonce);
    let mut vault = Vault {
        format: FORMAT.into(),
        name: name.into(),
        kdf: KDF.into(),
        memory_kib: MEMORY_KIB,
        passes: PASSES,
        lanes: LANES,
        salt: STANDARD.encode(salt),
        cipher: CIPHER.into(),
        nonce: STANDARD.encode(nonce),
        sealed: String::new(),
    };
    let key = vault.key(password)?;
    let mut data = Zeroizing::new(Vec::with_capacity(secret.len() + 16));
    data.extend_from_slice(secret);
    XChaCha20Poly1305::new(&(*key).into())
        .encrypt_in_place(&nonce.into(), &vault.header(), &mut *data as &mut dyn Buffer)
        .map_err(|_| VaultError::NotAVault)?;
    vault.sealed = STANDARD.encode(&*data);
    serde_json::to_string_pretty(&vault).map_err(|_| VaultError::NotAVault)
}

/// Opens a vault with its password.
pub fn open(text: &str, password: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    let vault = read(text)?;
    if !(MEMORY_KIB..=MAX_MEMORY_KIB).contains(&vault.memory_kib)
        || !(PASSES..=MAX_PASSES).contains(&vault.passes)
        || !(1..=MAX_LANES).contains(&vault.lanes)
    {
        return Err(VaultError::Parameters);
    }
    let nonce: [u8; 24] = decode(&vault.nonce)?.try_into().map_err(|_| VaultError::NotAVault)?;
    let mut data = Zeroizing::new(decode(&vault.sealed)?);
    let key = vault.key(password)?;
    XChaCha20Poly1305::new(&(*key).into())
        .decrypt_in_place(&nonce.into(), &vault.header(), &mut *data as &mut dyn Buffer)
        .map_err(|_| VaultError::WrongPassword)?;
    Ok(data)
}

/// What a vault says it holds, without its password. Only [`open`] proves it.
pub fn name(text: &str) -> Result<String, VaultError> {
    read(text).map(|vault| vault.name)
}

fn read(text: &str) -> Result<Vault, VaultError> {
    let vault: Vault = serde_json::from_str(text).map_err(|_| VaultError::NotAVault)?;
    if vault.format == FORMAT && vault.kdf == KDF && vault.cipher == CIPHER {
        Ok(vault)
    } else {
        Err(VaultError::NotAVault)
    }
}

fn decode(text: &str) -> Result<Vec<u8>, VaultError> {
    STANDARD.decode(text).map_err(|_| VaultError::NotAVault)
}

impl Vault {
    /// Everything but the sealed secret itself.
    fn header(&self) -> Vec<u8> {
        wire::to_vec(&(
            &self.format,
            &self.name,
            &self.kdf,
            self.memory_kib,
            self.passes,
            self.lanes,
            &self.salt,
            &self.cipher,
            &self.nonce,
        ))
    }

    fn key(&self, password: &[u8]) -> Result<Zeroizing<[u8; 32]>, VaultError> {
        let params =
            Params::new(self.memory_kib, self.passes, self.lanes, Some(32)).map_err(|_| VaultError::Parameters)?;
        let mut key = Zeroizing::new([0; 32]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(password, &decode(&self.salt)?, &mut *key)
            .map_err(|_| VaultError::Parameters)?;
        Ok(key)
    }
}
