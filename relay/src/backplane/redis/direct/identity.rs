//! How two relays of a region know each other: what a relay says of itself in Redis names the certificate that it answers with,
//! made anew at each start, and a caller proves that it knows the region's secret, for this TLS session alone.

use std::sync::Arc;

use ring::{
    digest::{SHA256, digest},
    hmac,
};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring::default_provider, verify_tls13_signature},
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Of a certificate: SHA-256 of its DER.
pub(super) type Fingerprint = [u8; 32];

/// The name in every relay's certificate: who it is, only the fingerprint says.
pub(super) const NAME: &str = "relay.invalid";
/// Of what both ends of a TLS session can work out of it (RFC 8446, section 7.5), and of the proof over it.
const LABEL: &[u8] = b"EXPORTER-gp1 relay to relay";

fn fingerprint(certificate: &CertificateDer<'_>) -> Fingerprint {
    let mut fingerprint = [0; 32];
    fingerprint.copy_from_slice(digest(&SHA256, certificate).as_ref());
    fingerprint
}

/// What a relay answers with.
pub(super) struct Identity {
    pub(super) fingerprint: Fingerprint,
    pub(super) acceptor: TlsAcceptor,
}

impl Identity {
    /// A fresh one. `None` where the system gives no randomness.
    pub(super) fn new() -> Option<Self> {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).ok()?;
        let certificate = made.cert.der().clone();
        let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let fingerprint = fingerprint(&certificate);
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_protocol_versions(&[&TLS13]).ok()?.with_no_client_auth();
        let config = builder.with_single_cert(vec![certificate], key).ok()?;
        Some(Self { fingerprint, acceptor: TlsAcceptor::from(Arc::new(config)) })
    }
}

/// What calls the relay with this certificate, and no other.
pub(super) fn connector(of: Fingerprint) -> Result<TlsConnector, Error> {
    let provider = Arc::new(default_provider());
    let verifier = Arc::new(Pinned { of, provider: provider.clone() });
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13])?;
    let config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Takes one certificate, whatever is written in it.
#[derive(Debug)]
struct Pinned {
    of: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match fingerprint(certificate) == self.of {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)),
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("relays speak TLS 1.3 to each other".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Proves the region's secret for one TLS session and one direction.
pub(super) struct Proof(hmac::Key, Vec<u8>);

impl Proof {
    /// For a caller by this name at a relay by that one. `None` where the session is not yet up.
    pub(super) fn new<Data>(
        secret: &[u8; 32],
        session: &rustls::ConnectionCommon<Data>,
        (caller, called): (u64, u64),
    ) -> Option<Self> {
        let exported = session.export_keying_material([0; 32], LABEL, None).ok()?;
        let said = [LABEL, &exported, &caller.to_be_bytes(), &called.to_be_bytes()].concat();
        Some(Self(hmac::Key::new(hmac::HMAC_SHA256, secret), said))
    }

    pub(super) fn tag(&self) -> [u8; 32] {
        let mut tag = [0; 32];
        tag.copy_from_slice(hmac::sign(&self.0, &self.1).as_ref());
        tag
    }

    pub(super) fn is(&self, tag: &[u8; 32]) -> bool {
        hmac::verify(&self.0, &self.1, tag).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    /// Calls a relay with this identity, taking that certificate; the tags that both ends work out by this secret.
    async fn call(identity: &Identity, taken: Fingerprint, secret: &[u8; 32]) -> Option<[[u8; 32]; 2]> {
        let (near, far) = duplex(16_384);
        let connector = connector(taken).unwrap();
        let calling = connector.connect(ServerName::try_from(NAME).unwrap(), near);
        let (called, answered) = tokio::join!(calling, identity.acceptor.accept(far));
        let (called, answered) = (called.ok()?, answered.ok()?);
        let callers = Proof::new(secret, called.get_ref().1, (1, 2)).unwrap();
        let own = Proof::new(secret, answered.get_ref().1, (1, 2)).unwrap();
        assert!(own.is(&callers.tag()));
        let turned = Proof::new(secret, answered.get_ref().1, (2, 1)).unwrap();
        let other = Proof::new(&[9; 32], answered.get_ref().1, (1, 2)).unwrap();
        assert!(!turned.is(&callers.tag()) && !other.is(&callers.tag()));
        Some([callers.tag(), own.tag()])
    }

    #[tokio::test]
    async fn a_caller_takes_one_certificate_and_proves_the_secret_for_one_session() {
        let (identity, another) = (Identity::new().unwrap(), Identity::new().unwrap());
        let [one, _] = call(&identity, identity.fingerprint, &[7; 32]).await.unwrap();
        let [next, _] = call(&identity, identity.fingerprint, &[7; 32]).await.unwrap();
        assert_ne!(one, next, "what was proved in one session is worth nothing in another");
        assert_eq!(call(&identity, another.fingerprint, &[7; 32]).await, None);
    }
}
