//! Where a server is: the one reader of `https://host[:port]`, `wss://…` and their plain forms.

use std::{fmt, net::IpAddr, str::FromStr};

use hyper::{Uri, http::uri::Authority};

/// A server's address, read from a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    secure: bool,
    host: String,
    port: u16,
    source: Option<IpAddr>,
}

/// Why a text is not a server's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Not of the form `scheme://host[:port]`.
    #[error("\"{url}\" is not a server's address: write it as https://name or https://name:port")]
    Malformed {
        /// What was given.
        url: String,
    },
    /// A scheme that this program does not speak.
    #[error("\"{url}\" begins with \"{scheme}\": use https or wss (http and ws only for tests on one machine)")]
    Scheme {
        /// What was given.
        url: String,
        /// Its scheme.
        scheme: String,
    },
}

impl Endpoint {
    /// Whether it is reached with TLS.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// The name or address to look up, without brackets.
    pub fn host(&self) -> &str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `host[:port]` as the `Host` header says it and as a client signs it for the relay: no port where it is the default.
    pub fn authority(&self) -> String {
        let default = if self.secure { 443 } else { 80 };
        if self.port == default { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }

    /// The same server, called from this address of this machine: where a machine has several and a firewall lets one through,
    /// and in load tests, where one machine plays many.
    pub fn called_from(mut self, source: IpAddr) -> Self {
        self.source = Some(source);
        self
    }

    /// The address of this machine to call from, where one is set.
    pub fn source(&self) -> Option<IpAddr> {
        self.source
    }

    /// Whether both are the same server, wherever it is called from.
    pub fn is_same_server(&self, other: &Self) -> bool {
        (self.secure, &self.host, self.port) == (other.secure, &other.host, other.port)
    }

    /// `host:port`, always with the port: what a proxy is asked to connect to.
    pub(crate) fn tunnel(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Whether it can only be this machine, so that plain text leaks to nobody.
    pub fn is_loopback(&self) -> bool {
        self.host() == "localhost" || self.host().parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(url: &str) -> Result<Self, EndpointError> {
        let malformed = || EndpointError::Malformed { url: url.to_owned() };
        let uri: Uri = url.trim().parse().map_err(|_| malformed())?;
        let scheme = uri.scheme_str().ok_or_else(malformed)?;
        let secure = match scheme {
            "https" | "wss" => true,
            "http" | "ws" => false,
            _ => return Err(EndpointError::Scheme { url: url.to_owned(), scheme: scheme.to_owned() }),
        };
        let authority = uri.authority().ok_or_else(malformed)?;
        if !has_port_or_none(authority) || authority.as_str().contains('@') || !matches!(uri.path(), "" | "/") {
            return Err(malformed());
        }
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Ok(Self { secure, host: authority.host().to_ascii_lowercase(), port, source: None })
    }
}

/// Whether there is a host, and after it nothing or a port: the parser lets `host:port` through, and would mean 443 by it.
pub(crate) fn has_port_or_none(authority: &Authority) -> bool {
    let place = authority.as_str().rsplit('@').next().unwrap_or_default();
    match place.strip_prefix(authority.host()) {
        _ if authority.host().is_empty() => false,
        Some("") => true,
        Some(_) => authority.port_u16().is_some_and(|port| port != 0),
        None => false,
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.secure { "https" } else { "http" }, self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_port_is_neither_dialled_wrong_nor_signed() {
        let plain: Endpoint = "wss://Relay.example/".parse().unwrap();
        assert_eq!((plain.port(), plain.authority().as_str()), (443, "relay.example"));
        let odd: Endpoint = "https://relay.example:8443".parse().unwrap();
        assert_eq!((odd.port(), odd.authority().as_str()), (8443, "relay.example:8443"));
        let six: Endpoint = "ws://[::1]:80".parse().unwrap();
        assert_eq!((six.host(), six.authority().as_str(), six.is_loopback()), ("::1", "[::1]", true));
    }

    #[test]
    fn a_mistyped_address_says_how_to_write_it() {
        for bad in [
            "relay.example",
            "https://",
            "ftp://x",
            "https://user@host",
            "https://host/path",
            "https://host:port",
            "https://h:",
            "",
        ] {
            let error = bad.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains("https"), "{bad}: {error}");
        }
    }
}
