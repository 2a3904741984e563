//! Whom to believe on the wire. TLS only keeps strangers from watching who talks to whom: trust in what is said comes from
//! signatures. Still, a program given its own root certificate believes that one and nobody else's.

use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore, crypto::ring};
use rustls_pki_types::{CertificateDer, pem::PemObject};

/// TLS settings, cheap to clone and shared by the realtime connection and HTTP.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ClientConfig>,
}

/// Why TLS can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The text given as root certificate holds none.
    #[error("no certificate was found in the PEM text given for the server: expected \"-----BEGIN CERTIFICATE-----\"")]
    NoCertificate,
    /// A certificate in it can't be used.
    #[error("a certificate given for the server can't be used: {0}")]
    BadCertificate(rustls::Error),
    /// The machine has no root certificates and none was given.
    #[error(
        "this machine has no root certificates: install its ca-certificates package, or give the server's own certificate"
    )]
    NoRoots,
    /// The cryptography provider refused its own defaults.
    #[error("TLS can't be set up: {0}")]
    Provider(rustls::Error),
}

impl Tls {
    /// Believes the root certificates of this machine.
    pub fn system() -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        let (added, _unusable) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if added == 0 {
            return Err(TlsError::NoRoots);
        }
        Self::with_roots(roots)
    }

    /// Believes exactly the certificates of a PEM text: an own root, or a pinned self-signed server certificate.
    pub fn only(pem: &str) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            roots.add(certificate.map_err(|_| TlsError::NoCertificate)?).map_err(TlsError::BadCertificate)?;
        }
        if roots.is_empty() {
            return Err(TlsError::NoCertificate);
        }
        Self::with_roots(roots)
    }

    /// [`Tls::only`] where a PEM text is given, else [`Tls::system`].
    pub fn from_pem(pem: Option<&str>) -> Result<Self, TlsError> {
        pem.map_or_else(Self::system, Self::only)
    }

    fn with_roots(roots: RootCertStore) -> Result<Self, TlsError> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Provider)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config) })
    }

    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        self.config.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_certificate_is_refused_with_what_was_expected() {
        let error = Tls::only("not a certificate").unwrap_err();
        assert!(error.to_string().contains("BEGIN CERTIFICATE"), "{error}");
    }
}
