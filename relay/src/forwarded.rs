//! Whose socket it really is, where proxies or load balancers stand in front.
//!
//! A proxy is one address with many clients behind it, so limits for each address would stop all of them together. It says
//! for whom it calls: before everything else with a PROXY header (version 1 or 2, HAProxy's specification), or in each
//! HTTP request with `X-Forwarded-For`. Only the proxies of the configuration are believed: anybody can write such a
//! header. One that can't be read ends the socket, for what follows it would be read as something that it is not.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use hyper::header::HeaderMap;
use ipnet::IpNet;
use proxy_header::{ParseConfig, ProxyHeader};
use tokio::{io::AsyncReadExt, net::TcpStream};

use crate::config::{Edge, network};

const FORWARDED_FOR: &str = "x-forwarded-for";
/// The largest PROXY header: addresses, and what proxies add of TLS and of their cloud. The specification asks receivers to
/// take 536 bytes.
const MAX_HEADER: usize = 2_048;
/// The longest line of version 1, with its end.
const MAX_LINE: usize = 107;
/// Version 2 before the part whose length it says.
const FIXED: usize = 16;
/// What version 2 begins with. Version 1 begins with "PROXY ", and both are at least 15 bytes long.
const SHORTEST: usize = 15;
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// The proxies that are believed.
#[derive(Debug)]
pub(crate) struct Proxies {
    networks: Box<[IpNet]>,
    announce: bool,
}

/// Why it is not known whose socket it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("the proxy's header was cut off: {0}")]
    Socket(#[from] io::Error),
    #[error("no PROXY header came, or one that can't be read; does this proxy send them?")]
    Proxy,
    #[error("the PROXY header is longer than {MAX_HEADER} bytes")]
    TooLong,
    #[error("X-Forwarded-For can't be read")]
    Forwarded,
}

impl Proxies {
    pub(crate) fn new(edge: &Edge) -> Self {
        // Those that are no networks were refused with the configuration.
        let networks = edge.proxies.iter().filter_map(|text| network(text)).collect();
        Self { networks, announce: edge.proxy_protocol }
    }

    /// Whether it is a proxy's address.
    pub(crate) fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(&address))
    }

    /// Whether a socket from there begins with a PROXY header.
    pub(crate) fn announce(&self, address: IpAddr) -> bool {
        self.announce && self.contain(address)
    }

    /// For whom `from` asks: the last address that is no proxy's, if `from` is one and says so.
    pub(crate) fn client_of(&self, from: IpAddr, headers: &HeaderMap) -> Result<Option<IpAddr>, Unreadable> {
        if !self.contain(from) {
            return Ok(None);
        }
        let mut first = None;
        for value in headers.get_all(FORWARDED_FOR).into_iter().rev() {
            // What stands further left was said by somebody else, and is believed as far as a proxy passed it on.
            for entry in value.to_str().map_err(|_| Unreadable::Forwarded)?.rsplit(',') {
                let address = address(entry.trim()).ok_or(Unreadable::Forwarded)?;
                if !self.contain(address) {
                    return Ok(Some(address));
                }
                first = Some(address);
            }
        }
        Ok(first)
    }
}

/// With or without a port, as proxies write it.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let with_port = || text.parse::<SocketAddr>().map(|address| address.ip());
    bare.parse().or_else(|_| with_port()).ok().map(|address: IpAddr| address.to_canonical())
}

/// Reads a PROXY header, and not a byte further. `None`: the proxy calls for itself.
pub(crate) async fn read(socket: &mut TcpStream) -> Result<Option<SocketAddr>, Unreadable> {
    let mut header = vec![0; SHORTEST];
    socket.read_exact(&mut header).await?;
    if header.starts_with(SIGNATURE) {
        header.push(socket.read_u8().await?);
        let more = usize::from(u16::from_be_bytes([header[FIXED - 2], header[FIXED - 1]]));
        if FIXED + more > MAX_HEADER {
            return Err(Unreadable::TooLong);
        }
        header.resize(FIXED + more, 0);
        socket.read_exact(&mut header[FIXED..]).await?;
    } else if header.starts_with(b"PROXY ") {
        while !header.ends_with(b"\n") {
            take_line(socket, &mut header).await?;
        }
    } else {
        return Err(Unreadable::Proxy);
    }
    parse(&header)
}

/// Takes what there is of a line: what follows its end is the client's.
async fn take_line(socket: &mut TcpStream, line: &mut Vec<u8>) -> Result<(), Unreadable> {
    let mut ahead = [0; MAX_LINE];
    let room = MAX_LINE.checked_sub(line.len()).filter(|room| *room > 0).ok_or(Unreadable::Proxy)?;
    let seen = socket.peek(&mut ahead[..room]).await?;
    let end = ahead[..seen].iter().position(|byte| *byte == b'\n').map_or(seen, |end| end + 1);
    let old = line.len();
    // At least one, so that the end of the stream is met as such.
    line.resize(old + end.max(1), 0);
    socket.read_exact(&mut line[old..]).await?;
    Ok(())
}

fn parse(header: &[u8]) -> Result<Option<SocketAddr>, Unreadable> {
    match ProxyHeader::parse(header, ParseConfig::default()) {
        Ok((parsed, length)) if length == header.len() => {
            let source = parsed.proxied_address().map(|address| address.source);
            Ok(source.map(|source| SocketAddr::new(source.ip().to_canonical(), source.port())))
        }
        // What is too short for the parser is whole here: it says of itself that it ends.
        _ => Err(Unreadable::Proxy),
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;
    use proptest::prelude::*;
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;

    fn proxies(networks: &[&str]) -> Proxies {
        let proxies = networks.iter().map(|network| (*network).to_owned()).collect();
        Proxies::new(&Edge { proxies, proxy_protocol: true, ..Edge::default() })
    }

    fn v2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend([command, family]);
        header.extend(u16::try_from(addresses.len()).unwrap().to_be_bytes());
        header.extend(addresses);
        header
    }

    /// What is read of a stream that is `sent` in pieces and then closed, and what is left of it.
    async fn read_of(sent: &[u8], piece: usize) -> (Result<Option<SocketAddr>, Unreadable>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        near.set_nodelay(true).unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        let write = async move {
            for piece in sent.chunks(piece) {
                near.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let read = async {
            let header = read(&mut far).await;
            let mut rest = Vec::new();
            if header.is_ok() {
                far.read_to_end(&mut rest).await.unwrap();
            }
            (header, rest)
        };
        tokio::join!(write, read).1
    }

    #[tokio::test]
    async fn each_version_says_whose_socket_it_is_and_not_a_byte_more_is_taken() {
        let mut with_more = vec![192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x34, 1, 187];
        with_more.extend([0x20, 0, 5, 1, 2, 3, 4, 5]);
        let six: Vec<u8> = "2001:db8::7".parse::<std::net::Ipv6Addr>().unwrap().octets().repeat(2);
        let client = |text: &str| Some(text.parse().unwrap());
        for (header, expected) in [
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 4660 443\r\n".to_vec(), client("192.0.2.7:4660")),
            (b"PROXY TCP6 2001:db8::7 2001:db8::1 4660 443\r\n".to_vec(), client("[2001:db8::7]:4660")),
            (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 4660 443\r\n".to_vec(), client("192.0.2.7:4660")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec(), None),
            (v2(0x21, 0x11, &with_more[..12]), client("192.0.2.7:4660")),
            (v2(0x21, 0x11, &with_more), client("192.0.2.7:4660")),
            (v2(0x21, 0x21, &[&six[..], &[0x12, 0x34, 1, 187]].concat()), client("[2001:db8::7]:4660")),
            (v2(0x20, 0, &[]), None),
            (v2(0x20, 0x11, &with_more), None),
            (v2(0x21, 0x31, &[0; 216]), None),
        ] {
            for piece in [1, 7, 4_096] {
                let sent = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
                let (read, rest) = read_of(&sent, piece).await;
                assert_eq!(read.unwrap(), expected, "{}", String::from_utf8_lossy(&header));
                assert_eq!(rest, b"GET / HTTP/1.1\r\n");
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_not_guessed_at() {
        for bad in [
            &b""[..],
            b"PROXY",
            b"GET /v1/ws HTTP/1.1\r\n\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 4660\r\n",
            b"PROXY TCP4 2001:db8::7 10.0.0.1 4660 443\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 4660 443\n",
            b"PROXY UDP4 192.0.2.7 10.0.0.1 4660 443\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 46600 99999\r\n",
            &[b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat(),
            &v2(0x21, 0x11, &[192, 0, 2, 7]),
            &v2(0x22, 0x11, &[0; 12]),
            &v2(0x31, 0x11, &[0; 12]),
            &v2(0x21, 0x41, &[0; 12]),
            &v2(0x21, 0x11, &[0; 4_000]),
            &SIGNATURE[..12],
        ] {
            let (read, _) = read_of(bad, 4_096).await;
            assert!(read.is_err(), "{}: {read:?}", String::from_utf8_lossy(bad));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_of_a_header_panic(version in 0..3, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let header = match version {
                0 => bytes,
                1 => [b"PROXY ".as_slice(), &bytes].concat(),
                _ => [SIGNATURE, &bytes].concat(),
            };
            let _ = parse(&header);
        }

        #[test]
        fn no_forwarded_for_panics_and_none_of_a_stranger_counts(text in "[ -~]{0,60}", from in any::<[u8; 4]>()) {
            let mut headers = HeaderMap::new();
            headers.insert(FORWARDED_FOR, HeaderValue::from_str(&text).unwrap());
            let proxies = proxies(&["10.0.0.0/8"]);
            let answer = proxies.client_of(from.into(), &headers);
            prop_assert!(from[0] == 10 || matches!(answer, Ok(None)));
        }
    }

    #[test]
    fn the_last_who_is_no_proxy_is_the_client() {
        let proxies = proxies(&["10.0.0.0/8", "2001:db8::1", "192.0.2.1"]);
        let client = |from: &str, values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(FORWARDED_FOR, HeaderValue::from_static(value));
            }
            let client = proxies.client_of(from.parse().unwrap(), &headers);
            client.map(|client| client.map(|client| client.to_string()))
        };
        for (from, values, expected) in [
            ("10.0.0.1", &["203.0.113.5"][..], Some("203.0.113.5")),
            ("::ffff:10.0.0.1", &["203.0.113.5"], Some("203.0.113.5")),
            ("10.0.0.1", &["1.1.1.1, 203.0.113.5,10.0.0.2"], Some("203.0.113.5")),
            ("10.0.0.1", &["1.1.1.1", "203.0.113.5:4711", "10.0.0.2"], Some("203.0.113.5")),
            ("2001:db8::1", &["[2001:db8::5]:4711"], Some("2001:db8::5")),
            ("192.0.2.1", &["2001:db8::5"], Some("2001:db8::5")),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], Some("10.0.0.3")),
            ("10.0.0.1", &[], None),
            ("203.0.113.9", &["198.51.100.1"], None),
        ] {
            assert_eq!(client(from, values).unwrap().as_deref(), expected, "{from} {values:?}");
        }
        for bad in ["unknown", "", "203.0.113.5, ", "256.1.1.1", "_hidden"] {
            assert!(client("10.0.0.1", &[bad]).is_err(), "{bad}");
        }
        assert_eq!(
            client("10.0.0.1", &["junk, 203.0.113.5"]).unwrap().as_deref(),
            Some("203.0.113.5"),
            "the client's own words"
        );
    }
}
