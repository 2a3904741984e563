//! A byte stream to a server: TCP without Nagle's delay, through a proxy where there is one, then TLS where the address asks
//! for it.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpSocket, TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{Endpoint, Proxies, Tls};

/// Name lookup, TCP, proxy and TLS together: long enough for a lost SYN and its two repeats.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Why no stream came about.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DialError {
    /// The name is unknown, or nothing answers there.
    #[error("{server} can't be reached ({reason}): check its name, the network and any proxy or firewall between")]
    Unreachable {
        /// Who was called.
        server: String,
        /// What the system said.
        reason: String,
    },
    /// No answer within the time allowed.
    #[error("{server} did not answer within {} seconds: check the network and any firewall between", DIAL_TIMEOUT.as_secs())]
    Silent {
        /// Who was called.
        server: String,
    },
    /// It answered, but could not prove who it is.
    #[error(
        "{server} could not prove who it is ({reason}): check this machine's clock, and whether it was told to trust that server's certificate (where it made that itself: --server-ca, or the ticket)"
    )]
    Untrusted {
        /// Who was called.
        server: String,
        /// What TLS said.
        reason: String,
    },
    /// The proxy's name is unknown, or nothing answers there.
    #[error("the proxy {proxy} can't be reached ({reason}): check its address in the settings or in HTTPS_PROXY")]
    ProxyUnreachable {
        /// Which proxy.
        proxy: String,
        /// What the system said.
        reason: String,
    },
    /// The proxy wants to know who asks (HTTP 407).
    #[error("the proxy {proxy} {}", if *given {
        "refused the user name and password that it was given: correct them"
    } else {
        "asks for a user name and password: write its address as http://user:password@host:port"
    })]
    ProxyLogin {
        /// Which proxy.
        proxy: String,
        /// It was given some.
        given: bool,
    },
    /// The proxy does not connect to this server.
    #[error(
        "the proxy {proxy} refused to connect to {server} (HTTP {status}): ask whoever runs it to allow CONNECT to there"
    )]
    ProxyRefused {
        /// Which proxy.
        proxy: String,
        /// Who was called, with the port.
        server: String,
        /// The proxy's HTTP status.
        status: u16,
    },
    /// What answers as a proxy does not speak like one.
    #[error("{proxy} does not answer like an HTTP proxy ({reason}): check the proxy's address and port")]
    NoProxy {
        /// Which proxy.
        proxy: String,
        /// What is wrong.
        reason: String,
    },
}

impl DialError {
    /// Whether trying soon again is pointless: somebody has to change something first.
    pub(crate) fn needs_somebody(&self) -> bool {
        match self {
            Self::Untrusted { .. } | Self::ProxyLogin { .. } => true,
            Self::ProxyRefused { status, .. } => (400..500).contains(status),
            Self::Unreachable { .. } | Self::Silent { .. } | Self::ProxyUnreachable { .. } | Self::NoProxy { .. } => {
                false
            }
        }
    }
}

/// Whether a server can be reached: through its proxy where it has one, and without TLS.
pub async fn reach(endpoint: &Endpoint, proxies: &Proxies) -> Result<(), DialError> {
    let server = endpoint.authority();
    timeout(DIAL_TIMEOUT, tcp(endpoint, proxies)).await.unwrap_or(Err(DialError::Silent { server })).map(drop)
}

pub(crate) async fn dial(endpoint: &Endpoint, tls: &Tls, proxies: &Proxies) -> Result<Box<dyn Stream>, DialError> {
    let server = endpoint.authority();
    timeout(DIAL_TIMEOUT, connect(endpoint, tls, proxies, &server))
        .await
        .unwrap_or(Err(DialError::Silent { server: server.clone() }))
}

async fn tcp(endpoint: &Endpoint, proxies: &Proxies) -> Result<TcpStream, DialError> {
    if let Some(proxy) = proxies.of(endpoint) {
        return proxy.connect(endpoint).await;
    }
    let unreachable =
        |error: io::Error| DialError::Unreachable { server: endpoint.authority(), reason: error.to_string() };
    let target = (endpoint.host(), endpoint.port());
    let tcp = match endpoint.source() {
        Some(source) => connect_from(source, target).await,
        None => TcpStream::connect(target).await,
    };
    let tcp = tcp.map_err(unreachable)?;
    tcp.set_nodelay(true).map_err(unreachable)?;
    Ok(tcp)
}

async fn connect(
    endpoint: &Endpoint,
    tls: &Tls,
    proxies: &Proxies,
    server: &str,
) -> Result<Box<dyn Stream>, DialError> {
    let tcp = tcp(endpoint, proxies).await?;
    if !endpoint.is_secure() {
        return Ok(Box::new(tcp));
    }
    let untrusted = |reason: String| DialError::Untrusted { server: server.to_owned(), reason };
    let name = ServerName::try_from(endpoint.host().to_owned()).map_err(|error| untrusted(error.to_string()))?;
    let stream = TlsConnector::from(tls.config()).connect(name, tcp).await.map_err(|error| {
        // Only what TLS itself found wrong is a matter of trust; a cut during the handshake is the network's.
        if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) {
            untrusted(error.to_string())
        } else {
            DialError::Unreachable { server: server.to_owned(), reason: error.to_string() }
        }
    })?;
    Ok(Box::new(stream))
}

/// From one of this machine's addresses, so only to addresses of its family.
async fn connect_from(source: IpAddr, target: (&str, u16)) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, format!("it has no address that {source} can call"));
    for address in lookup_host(target).await?.filter(|address| address.is_ipv4() == source.is_ipv4()) {
        let socket = if source.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.bind(SocketAddr::new(source, 0))?;
        match socket.connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
