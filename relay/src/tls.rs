//! TLS: rustls with ring, and a certificate from files or made here.
//!
//! Files are looked at every few seconds, and read again once they have changed and then stayed as they are: certificate
//! and key are rarely replaced in one stroke. New ones that don't work change nothing: what served before goes on serving,
//! and the log and a metric say so. Connections that are open stay; new ones get the new certificate.
//!
//! With `tls.client_ca`, whoever has no certificate of that CA does not get past the TLS handshake: for a relay that only
//! balancers of its own may reach. It does not replace the relay's own authentication.
//!
//! The self-made certificate is for a demo and for a relay whose clients are given it with their enrolment ticket. It is
//! its own authority, so a client that has it trusts exactly this relay. Its key is made once; the certificate is signed
//! at each start, for the names of that day. Whoever has an earlier one trusts this one too: same key, same subject.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    client::verify_server_name,
    server::{ParsedCertificate, WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::{
    CertificateDer, PrivateKeyDer, ServerName,
    pem::{self, PemObject},
};
use tokio::{sync::Notify, time::timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{error, info, warn};
use x509_cert::{der::Decode, ext::pkix::BasicConstraints};

use crate::{
    config::{Config, TlsMode},
    metrics::{Metrics, Reload},
};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Somebody should know when the certificate ends within this many seconds.
const SOON: u64 = 14 * 86_400;
const DAY: u64 = 86_400;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read or is not PEM of the right kind.
    #[error("can't use {} as {what}: {reason}; check `{key}`", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
        /// The key of the configuration that names it.
        key: &'static str,
        /// Why not.
        reason: pem::Error,
    },
    /// Certificate and key do not fit each other, or are of a kind that nobody accepts.
    #[error("the certificate {} and its key can't be used: {reason}", path.display())]
    Unusable {
        /// The certificate's file.
        path: PathBuf,
        /// Why not.
        reason: rustls::Error,
    },
    /// The certificate has ended.
    #[error("the certificate {} ended {} ago: renew it", path.display(), ago(*seconds))]
    Ended {
        /// Its file.
        path: PathBuf,
        /// How many seconds ago.
        seconds: u64,
    },
    /// The certificate is for other names.
    #[error(
        "the certificate {} is not valid for {name:?}, which is in `edge.names`: no client that dials it would come in. Get one for \
         every name, or take the name away", path.display()
    )]
    Names {
        /// Its file.
        path: PathBuf,
        /// The name that it lacks.
        name: String,
    },
    /// A CA's certificate where a server's should be.
    #[error(
        "the certificate {} is a CA's (basicConstraints CA:TRUE), and clients refuse that from a server: put the server's own first",
        path.display()
    )]
    IsACa {
        /// Its file.
        path: PathBuf,
    },
    /// The clients' CA can't be used.
    #[error("can't use {} to tell clients by: {reason}; check `tls.client_ca`", path.display())]
    ClientCa {
        /// Its file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The self-made certificate can't be made.
    #[error("can't make a certificate for the names in `edge.names`: {0}")]
    Make(#[from] rcgen::Error),
    /// The self-made certificate can't be kept.
    #[error("can't keep the self-made certificate in {}: {reason}; make the folder writable or set `edge.state_dir`", path.display())]
    Keep {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        reason: io::Error,
    },
}

fn ago(seconds: u64) -> String {
    if seconds < DAY { format!("{seconds} seconds") } else { format!("{} days", seconds / DAY) }
}

/// A relay's TLS. Clones share it.
#[derive(Clone)]
pub struct Tls(Arc<Shared>);

struct Shared {
    files: Files,
    self_made: bool,
    now: RwLock<InForce>,
    asked: Notify,
}

/// What TLS is made of.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    /// `None`: anybody may come.
    client_ca: Option<PathBuf>,
    /// What the certificate must be valid for.
    names: Vec<String>,
}

/// What serves new connections.
#[derive(Clone)]
struct InForce {
    config: Arc<ServerConfig>,
    /// When the certificate ends, in Unix seconds.
    not_after: u64,
}

/// How the files look from outside: each one's inode, size, and time of its last change.
type Stamp = [Option<(u64, u64, i64, i64)>; 3];

/// Prepares what the configuration says; `None` where TLS is off.
pub fn prepare(config: &Config) -> Result<Option<Tls>, TlsError> {
    let client_ca = Some(config.tls.client_ca.clone()).filter(|path| !path.as_os_str().is_empty());
    let (certificate, key) = match config.tls.mode {
        TlsMode::Off => return Ok(None),
        TlsMode::Files => (config.tls.certificate.clone(), config.tls.key.clone()),
        TlsMode::SelfMade => self_made(&config.edge.state_dir, &config.edge.names)?,
    };
    // The self-made one is for these names and is its own CA, of which clients are given exactly that.
    let names = if config.tls.mode == TlsMode::Files { config.edge.names.clone() } else { Vec::new() };
    let files = Files { certificate, key, client_ca, names };
    let now = RwLock::new(files.load()?);
    let self_made = config.tls.mode == TlsMode::SelfMade;
    Ok(Some(Tls(Arc::new(Shared { files, self_made, now, asked: Notify::new() }))))
}

impl Tls {
    /// Accepts one connection, with the certificate of this moment.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.in_force().config.into()
    }

    /// The self-made certificate, which clients have to be given; `None` if it came from files.
    pub fn self_made(&self) -> Option<&Path> {
        self.0.self_made.then_some(&self.0.files.certificate)
    }

    /// Has the files read again at once, changed or not, by the relay that serves with them: for SIGHUP.
    pub fn reload(&self) {
        self.0.asked.notify_one();
    }

    /// Keeps to the files, until dropped.
    pub(crate) async fn watch(&self, metrics: &Metrics) {
        let files = &self.0.files;
        let mut loaded = files.stamp();
        let mut before = loaded;
        let mut warned = 0;
        loop {
            self.tell(metrics, &mut warned);
            let asked = timeout(LOOK_EVERY, self.0.asked.notified()).await.is_ok();
            let stamp = files.stamp();
            let settled = stamp == before && stamp != loaded;
            before = stamp;
            if !asked && !settled {
                continue;
            }
            loaded = stamp;
            match files.load() {
                Ok(new) => {
                    let days = new.not_after.saturating_sub(unix_now()) / DAY;
                    *self.0.now.write().unwrap_or_else(PoisonError::into_inner) = new;
                    metrics.tls_reloads.inc(Reload::Loaded);
                    info!(certificate = %files.certificate.display(), days, "a new TLS certificate is in force");
                }
                Err(problem) => {
                    metrics.tls_reloads.inc(Reload::Refused);
                    error!(%problem, "the new TLS files can't be used: the old certificate goes on");
                }
            }
        }
    }

    /// Says when the certificate ends: as a metric, and once a day in the log when that is soon.
    fn tell(&self, metrics: &Metrics, warned: &mut u64) {
        let (not_after, now) = (self.in_force().not_after, unix_now());
        metrics.tls_not_after.set(not_after.try_into().unwrap_or(i64::MAX));
        if now + SOON > not_after && now >= *warned + DAY {
            *warned = now;
            let certificate = self.0.files.certificate.display();
            let days = not_after.saturating_sub(now) / DAY;
            warn!(%certificate, days, "the TLS certificate ends soon: replace its file, it is read again by itself");
        }
    }

    fn in_force(&self) -> InForce {
        self.0.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Files {
    fn load(&self) -> Result<InForce, TlsError> {
        let chain = certificates(&self.certificate, "the certificate", "tls.certificate")?;
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|reason| TlsError::File {
            path: self.key.clone(),
            what: "the private key",
            key: "tls.key",
            reason,
        })?;
        let not_after = self.end_of(&chain[0])?;
        self.check_names(&chain[0])?;
        let unusable = |reason| TlsError::Unusable { path: self.certificate.clone(), reason };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(unusable)?;
        let builder = match self.clients()? {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(unusable)?;
        // The WebSocket upgrade is HTTP/1.1.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(InForce { config: Arc::new(config), not_after })
    }

    /// When a server's certificate ends, which must not have been yet.
    fn end_of(&self, certificate: &CertificateDer<'_>) -> Result<u64, TlsError> {
        let path = || self.certificate.clone();
        let parsed = x509_cert::Certificate::from_der(certificate).map_err(|_| TlsError::Unusable {
            path: path(),
            reason: rustls::Error::InvalidCertificate(rustls::CertificateError::BadEncoding),
        })?;
        let constraints = parsed.tbs_certificate().get_extension::<BasicConstraints>();
        if constraints.is_ok_and(|found| found.is_some_and(|(_, constraints)| constraints.ca)) {
            return Err(TlsError::IsACa { path: path() });
        }
        let not_after = parsed.tbs_certificate().validity().not_after.to_unix_duration().as_secs();
        match unix_now().checked_sub(not_after) {
            Some(seconds) if seconds > 0 => Err(TlsError::Ended { path: path(), seconds }),
            _ => Ok(not_after),
        }
    }

    /// That clients will take it from a server, under each of the relay's names.
    fn check_names(&self, certificate: &CertificateDer<'_>) -> Result<(), TlsError> {
        let path = || self.certificate.clone();
        let parsed =
            ParsedCertificate::try_from(certificate).map_err(|reason| TlsError::Unusable { path: path(), reason })?;
        for name in &self.names {
            let dialled = ServerName::try_from(name.as_str()).ok();
            if dialled.is_none_or(|dialled| verify_server_name(&parsed, &dialled).is_err()) {
                return Err(TlsError::Names { path: path(), name: name.clone() });
            }
        }
        Ok(())
    }

    /// Who may come, where not anybody.
    fn clients(&self) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
        let Some(path) = &self.client_ca else { return Ok(None) };
        let wrong = |reason: String| TlsError::ClientCa { path: path.clone(), reason };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(path, "the clients' CA", "tls.client_ca")? {
            roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        verifier.build().map(|verifier| Some(verifier as _)).map_err(|error| wrong(error.to_string()))
    }

    fn stamp(&self) -> Stamp {
        let look = |path: &PathBuf| {
            let metadata = fs::metadata(path).ok()?;
            Some((metadata.ino(), metadata.size(), metadata.mtime(), metadata.mtime_nsec()))
        };
        [look(&self.certificate), look(&self.key), self.client_ca.as_ref().and_then(look)]
    }
}

/// The certificates of a PEM file: at least one.
fn certificates(path: &Path, what: &'static str, key: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .and_then(|chain| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) })
        .map_err(|reason| TlsError::File { path: path.to_owned(), what, key, reason })
}

/// The machine's clock, as rustls reads it too: certificates of TLS are a matter between machines.
fn unix_now() -> u64 {
    rustls_pki_types::UnixTime::now().as_secs()
}

/// The certificate and key in the state folder.
fn self_made(state_dir: &Path, names: &[String]) -> Result<(PathBuf, PathBuf), TlsError> {
    let (certificate, key) = (state_dir.join("relay.pem"), state_dir.join("relay-key.pem"));
    let keep = |path: &Path| {
        let path = path.to_owned();
        move |reason| TlsError::Keep { path, reason }
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(keep(state_dir))?;
    let pair = match fs::read_to_string(&key) {
        Ok(pem) => KeyPair::from_pem(&pem)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let pair = KeyPair::generate()?;
            write(&key, 0o600, &pair.serialize_pem()).map_err(keep(&key))?;
            pair
        }
        Err(error) => return Err(keep(&key)(error)),
    };
    let mut parameters = CertificateParams::new(names)?;
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, "Gatepass relay, self-made");
    let signed = parameters.self_signed(&pair)?;
    write(&certificate, 0o644, &signed.pem()).map_err(keep(&certificate))?;
    Ok((certificate, key))
}

/// Writes a file whole or not at all, so that an interrupted start leaves no half of one.
fn write(path: &Path, mode: u32, text: &str) -> io::Result<()> {
    let new = path.with_extension("new");
    // A leftover may have other permissions.
    fs::remove_file(&new).or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) })?;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::Edge;

    fn state(dir: &Path, names: &[&str]) -> Config {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Config { edge: Edge { state_dir: dir.join("new/state"), names, ..Edge::default() }, ..Config::default() }
    }

    #[test]
    fn a_relay_that_gets_another_name_keeps_the_clients_that_it_had() {
        let dir = tempfile::tempdir().unwrap();
        let first = state(dir.path(), &["localhost"]);
        let pem = prepare(&first).unwrap().unwrap().self_made().unwrap().to_owned();
        let known = CertificateDer::from_pem_file(&pem).unwrap();
        let key = first.edge.state_dir.join("relay-key.pem");
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);

        let renamed = prepare(&state(dir.path(), &["relay.example"])).unwrap().unwrap();
        let renamed = renamed.self_made().unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(known).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        let verify = |name: &'static str| {
            use rustls::client::danger::ServerCertVerifier;
            let certificate = CertificateDer::from_pem_file(renamed).unwrap();
            let (name, now) = (name.try_into().unwrap(), rustls_pki_types::UnixTime::now());
            verifier.clone().build().unwrap().verify_server_cert(&certificate, &[], &name, &[], now)
        };
        assert!(verify("relay.example").is_ok());
        assert!(verify("localhost").is_err());
    }

    #[test]
    fn a_state_folder_that_can_not_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("new"), "a file where a folder should be").unwrap();
        let error = prepare(&state(dir.path(), &["localhost"])).err().unwrap().to_string();
        assert!(error.contains("new/state") && error.contains("edge.state_dir"), "{error}");
    }

    #[test]
    fn a_certificate_that_no_client_would_take_is_refused_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = state(dir.path(), &["relay.eu.example", "192.0.2.1"]);
        config.tls.mode = TlsMode::Files;
        (config.tls.certificate, config.tls.key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let refusal = |names: &[&str], is_ca| {
            let pair = KeyPair::generate().unwrap();
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            let mut parameters = CertificateParams::new(names).unwrap();
            parameters.is_ca = is_ca;
            fs::write(&config.tls.certificate, parameters.self_signed(&pair).unwrap().pem()).unwrap();
            fs::write(&config.tls.key, pair.serialize_pem()).unwrap();
            prepare(&config).err().map(|error| error.to_string())
        };
        assert_eq!(refusal(&["*.eu.example", "192.0.2.1"], rcgen::IsCa::NoCa), None);
        let for_others = refusal(&["*.eu.example"], rcgen::IsCa::NoCa).unwrap();
        assert!(for_others.contains("192.0.2.1") && for_others.contains("edge.names"), "{for_others}");
        let authority = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let of_a_ca = refusal(&["relay.eu.example", "192.0.2.1"], authority).unwrap();
        assert!(of_a_ca.contains("a CA's"), "{of_a_ca}");
    }

    #[test]
    fn a_wrong_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.tls.mode = TlsMode::Files;
        config.tls.certificate = dir.path().join("cert.pem");
        config.tls.key = dir.path().join("key.pem");
        fs::write(&config.tls.certificate, "no certificate").unwrap();
        let error = prepare(&config).err().unwrap().to_string();
        assert!(error.contains("cert.pem") && error.contains("tls.certificate"), "{error}");
    }
}
