//! The way out where only an HTTP proxy may go out: it is asked to CONNECT, and from then on passes bytes on. TLS and the
//! relay's own authentication run inside, so that the proxy learns which server is called and nothing else.
//!
//! Which proxy, if any, says a setting or else the environment, read the way curl reads it: `HTTPS_PROXY`, `HTTP_PROXY` for
//! servers without TLS, `ALL_PROXY`, and `NO_PROXY` for what is reached directly; in small letters too. What the environment
//! says is never applied to this machine itself.

use std::{env, fmt, sync::Arc};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::{
    Request, StatusCode, Uri,
    client::conn::http1,
    header::{HOST, HeaderValue, PROXY_AUTHORIZATION},
};
use hyper_util::{
    client::proxy::matcher::{Intercept, Matcher},
    rt::TokioIo,
};
use tokio::{net::TcpStream, task::JoinSet};

use crate::{DialError, Endpoint, endpoint::has_port_or_none};

/// The largest head of a proxy's answer that is read.
const LARGEST_HEAD: usize = 16 * 1024;
/// The setting that stands for no proxy, whatever the environment says.
const DIRECT: &str = "none";

/// Which servers are reached through which proxy. Cheap to clone; shows no password.
#[derive(Clone)]
pub struct Proxies {
    matcher: Arc<Matcher>,
    /// Also for servers on this machine.
    everywhere: bool,
}

/// Why something is not a proxy's address. It does not say the address, for there may be a password in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// Not of the form that is understood.
    #[error("{source_name} is not a proxy's address: write it as http://host:port or http://user:password@host:port")]
    Malformed {
        /// The setting or the variable.
        source_name: String,
    },
    /// A kind of proxy that this program does not speak to.
    #[error("{source_name} names a proxy that is spoken to by \"{scheme}\": only http:// is understood")]
    Scheme {
        /// The setting or the variable.
        source_name: String,
        /// Its scheme.
        scheme: String,
    },
}

/// One proxy.
pub(crate) struct Proxy(Intercept);

impl Proxies {
    /// No proxy at all.
    pub fn none() -> Self {
        Self { matcher: Arc::new(Matcher::builder().build()), everywhere: false }
    }

    /// What the environment says.
    pub fn from_environment() -> Result<Self, ProxyError> {
        Self::read(|name| env::var(name).ok())
    }

    /// What a setting says: empty for the environment, `none` for no proxy, else `http://[user:password@]host:port` for
    /// every server that `NO_PROXY` does not name. `source_name` is how an error calls the setting.
    pub fn from_setting(setting: &str, source_name: &str) -> Result<Self, ProxyError> {
        match setting.trim() {
            "" => Self::from_environment(),
            DIRECT => Ok(Self::none()),
            url => {
                check(url, source_name)?;
                let except = variable(&|name| env::var(name).ok(), "NO_PROXY").map(|(_, value)| value);
                Ok(Self { matcher: matcher("", "", url, &except.unwrap_or_default()), everywhere: true })
            }
        }
    }

    fn read(of: impl Fn(&str) -> Option<String>) -> Result<Self, ProxyError> {
        let proxy = |name: &str| match variable(&of, name) {
            Some((name, url)) => check(&url, &name).map(|()| url),
            None => Ok(String::new()),
        };
        // A program that a web server runs has its visitors' "Proxy:" header in HTTP_PROXY.
        let plain = if of("REQUEST_METHOD").is_some() { String::new() } else { proxy("HTTP_PROXY")? };
        let except = variable(&of, "NO_PROXY").map(|(_, value)| value).unwrap_or_default();
        let secure = proxy("HTTPS_PROXY")?;
        // Often beside the others, for programs that speak SOCKS.
        let all = match secure.is_empty() {
            true => proxy("ALL_PROXY")?,
            false => proxy("ALL_PROXY").unwrap_or_default(),
        };
        let matcher = matcher(&plain, &secure, &all, &except);
        Ok(Self { matcher, everywhere: false })
    }

    /// The proxy through which a server is reached, as `host:port`; `None`: directly.
    pub fn name_for(&self, server: &Endpoint) -> Option<String> {
        self.of(server).map(|proxy| proxy.name())
    }

    pub(crate) fn of(&self, server: &Endpoint) -> Option<Proxy> {
        if server.is_loopback() && !self.everywhere {
            return None;
        }
        self.matcher.intercept(&server.to_string().parse().ok()?).map(Proxy)
    }
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.matcher.fmt(f)
    }
}

fn matcher(http: &str, https: &str, all: &str, except: &str) -> Arc<Matcher> {
    Arc::new(Matcher::builder().http(http).https(https).all(all).no(except).build())
}

/// A variable in small or, where there is none, in capital letters; one that is empty counts as none.
fn variable(of: &impl Fn(&str) -> Option<String>, name: &str) -> Option<(String, String)> {
    let set = |name: String| of(&name).filter(|value| !value.trim().is_empty()).map(|value| (name, value));
    set(name.to_lowercase()).or_else(|| set(name.to_owned()))
}

/// The library ignores what it does not understand, and whoever wrote it would never know.
fn check(url: &str, source_name: &str) -> Result<(), ProxyError> {
    let malformed = || ProxyError::Malformed { source_name: source_name.to_owned() };
    let uri: Uri = url.parse().map_err(|_| malformed())?;
    match uri.scheme_str() {
        // `proxy:3128` is usual in the environment.
        None | Some("http") => {}
        Some(scheme) => {
            return Err(ProxyError::Scheme { source_name: source_name.to_owned(), scheme: scheme.to_owned() });
        }
    }
    let authority = uri.authority().ok_or_else(malformed)?;
    if !has_port_or_none(authority) || !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(malformed());
    }
    Ok(())
}

impl Proxy {
    fn host(&self) -> &str {
        self.0.uri().host().unwrap_or_default()
    }

    fn port(&self) -> u16 {
        self.0.uri().port_u16().unwrap_or(80)
    }

    pub(crate) fn name(&self) -> String {
        format!("{}:{}", self.host(), self.port())
    }

    /// A stream whose other end is the server's.
    pub(crate) async fn connect(&self, server: &Endpoint) -> Result<TcpStream, DialError> {
        let proxy = self.name();
        let unreachable = |reason: &dyn fmt::Display| DialError::ProxyUnreachable {
            proxy: proxy.clone(),
            reason: reason.to_string(),
        };
        let host = self.host().trim_start_matches('[').trim_end_matches(']');
        let tcp = TcpStream::connect((host, self.port())).await.map_err(|error| unreachable(&error))?;
        tcp.set_nodelay(true).map_err(|error| unreachable(&error))?;
        let strange =
            |reason: &dyn fmt::Display| DialError::NoProxy { proxy: proxy.clone(), reason: reason.to_string() };
        let question = self.question(server).map_err(|error| strange(&error))?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(LARGEST_HEAD)
            .handshake(TokioIo::new(tcp))
            .await
            .map_err(|error| strange(&error))?;
        // Dropped when this is over, which ends the connection with it unless it has been taken out by then.
        let mut driver = JoinSet::new();
        driver.spawn(connection.with_upgrades());
        let answer = sender.send_request(question).await.map_err(|error| strange(&error))?;
        match answer.status() {
            status if status.is_success() => {}
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                return Err(DialError::ProxyLogin { proxy, given: self.0.basic_auth().is_some() });
            }
            status => {
                let server = server.tunnel();
                return Err(DialError::ProxyRefused { proxy, server, status: status.as_u16() });
            }
        }
        let tunnel = hyper::upgrade::on(answer).await.map_err(|error| strange(&error))?;
        match tunnel.downcast::<TokioIo<TcpStream>>() {
            // The server of this protocol never speaks first, so bytes that came along are not from it.
            Ok(parts) if parts.read_buf.is_empty() => Ok(parts.io.into_inner()),
            _ => Err(strange(&"it sent bytes of its own into the tunnel")),
        }
    }

    fn question(&self, server: &Endpoint) -> Result<Request<Empty<Bytes>>, hyper::http::Error> {
        let target = server.tunnel();
        let mut question = Request::connect(&target).header(HOST, &target);
        if let Some(login) = self.0.basic_auth() {
            let mut login: HeaderValue = login.clone();
            login.set_sensitive(true);
            question = question.header(PROXY_AUTHORIZATION, login);
        }
        question.body(Empty::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &'static [(&str, &str)], server: &str) -> Result<Option<String>, ProxyError> {
        let find =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Proxies::read(find).map(|proxies| proxies.name_for(&server.parse().unwrap()))
    }

    #[test]
    fn the_environment_is_read_the_way_that_curl_reads_it() {
        let through = |name: &str| Ok(Some(name.to_owned()));
        for (variables, server, expected) in [
            (&[][..], "https://relay.example", Ok(None)),
            (&[("HTTPS_PROXY", "http://a:1")][..], "wss://relay.example", through("a:1")),
            (&[("HTTPS_PROXY", "a:1")][..], "wss://relay.example", through("a:1")),
            (&[("https_proxy", "http://[::1]:1/"), ("HTTPS_PROXY", "http://b:2")][..], "wss://r", through("[::1]:1")),
            (&[("https_proxy", ""), ("HTTPS_PROXY", "http://b")][..], "wss://relay.example", through("b:80")),
            (&[("all_proxy", "http://u:p@a:1")][..], "https://relay.example", through("a:1")),
            (&[("HTTPS_PROXY", "http://a:1"), ("HTTP_PROXY", "http://b:2")][..], "ws://relay.example", through("b:2")),
            (&[("HTTPS_PROXY", "http://a:1"), ("ALL_PROXY", "socks5://b:2")][..], "wss://r", through("a:1")),
            (&[("HTTP_PROXY", "http://b:2"), ("REQUEST_METHOD", "GET")][..], "ws://relay.example", Ok(None)),
        ] {
            assert_eq!(of(variables, server), expected, "{variables:?} {server}");
        }
    }

    #[test]
    fn what_no_proxy_names_is_reached_directly_and_this_machine_always() {
        const SET: &[(&str, &str)] = &[
            ("ALL_PROXY", "http://a:1"),
            ("no_proxy", "example.org, .corp.example,10.0.0.0/8,2001:db8::/32,192.0.2.7"),
        ];
        for (server, direct) in [
            ("https://example.org", true),
            ("https://relay.example.org:8443", true),
            ("https://notexample.org", false),
            ("https://relay.corp.example", true),
            ("https://10.1.2.3", true),
            ("https://[2001:db8::1]", true),
            ("https://192.0.2.7:8443", true),
            ("https://192.0.2.8", false),
            ("https://localhost:1", true),
            ("https://127.0.0.1:1", true),
            ("https://[::1]:1", true),
        ] {
            assert_eq!(of(SET, server).unwrap().is_none(), direct, "{server}");
        }
        assert_eq!(of(&[("ALL_PROXY", "http://a:1"), ("NO_PROXY", "*")], "https://relay.example"), Ok(None));
    }

    #[test]
    fn a_setting_is_stronger_than_the_environment() {
        let server = "https://127.0.0.1:1".parse().unwrap();
        let proxies = |setting| Proxies::from_setting(setting, "relay.proxy").unwrap();
        assert_eq!(proxies("http://u:p@a:1").name_for(&server).as_deref(), Some("a:1"), "also for this machine");
        assert_eq!(proxies("none").name_for(&"https://relay.example".parse().unwrap()), None);
    }

    #[test]
    fn a_wrong_address_is_refused_and_its_password_not_repeated() {
        for (url, scheme) in [
            ("socks5://u:s3cret@a:1", true),
            ("https://u:s3cret@a:1", true),
            ("http://u:s3cret@", false),
            ("http://u:s3cret@a:port", false),
            ("http://u:s3cret@a/path", false),
            ("u:s3cret a", false),
        ] {
            let error = Proxies::from_setting(url, "relay.proxy").unwrap_err();
            let said = format!("{error} {error:?}");
            assert!(error.to_string().starts_with("relay.proxy") && said.contains("http://"), "{said}");
            assert!(!said.contains("s3cret"), "{said}");
            assert_eq!(matches!(error, ProxyError::Scheme { .. }), scheme, "{said}");
        }
        let shown = format!("{:?}", Proxies::from_setting("http://u:s3cret@a:1", "x").unwrap());
        assert!(shown.contains("a:1") && !shown.contains("s3cret"), "{shown}");
    }
}
