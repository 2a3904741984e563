//! nats-server: its text protocol inside WebSocket frames, which cut it anywhere.

use std::{fs, net::SocketAddr, path::Path};

use anyhow::bail;

use super::{Role, daemon};
use crate::{
    net::{Hearing, Out, Speaker},
    process::{Process, free_address},
};

pub(super) fn start(folder: &Path) -> anyhow::Result<(SocketAddr, Process)> {
    let address = free_address()?;
    // The limits are its defaults, but for a burst of a thousand subscribers.
    let config = format!(
        "listen: \"127.0.0.1:-1\"\nwebsocket {{ listen: \"{address}\", no_tls: true }}\nmax_connections: 65536\n\
         max_pending: 268435456\n"
    );
    let file = folder.join("nats.conf");
    fs::write(&file, config)?;
    let arguments = |command: &mut std::process::Command| {
        command.arg("-c").arg(&file).env("GOMAXPROCS", "1");
    };
    Ok((address, Process::start("nats-server", &daemon("nats-server")?, arguments, folder, address)?))
}

/// A client of NATS.
pub(super) struct Client {
    role: Role,
    ready: bool,
    /// What has not been a whole line or message yet.
    rest: Vec<u8>,
}

impl Client {
    pub(super) fn new(role: Role) -> Self {
        Self { role, ready: false, rest: Vec::new() }
    }

    /// What it hears and what it speaks to.
    fn subjects(&self) -> (Option<String>, String) {
        match self.role {
            Role::Subscriber | Role::Idle(_) => (Some("fan".to_owned()), "fan".to_owned()),
            Role::Publisher | Role::Visitor(_) | Role::Returning(_) => (None, "fan".to_owned()),
            Role::Asking(pair) => (Some(format!("a.{pair}")), format!("b.{pair}")),
            Role::Answering(pair) => (Some(format!("b.{pair}")), format!("a.{pair}")),
        }
    }

    /// Acts on each whole line or message; how much of the text they were.
    fn lines(&mut self, text: &[u8], out: &mut Out, heard: &mut Hearing) -> anyhow::Result<usize> {
        let mut used = 0;
        loop {
            let rest = &text[used..];
            let Some(end) = rest.windows(2).position(|end| end == b"\r\n") else { return Ok(used) };
            let line = &rest[..end];
            let mut next = end + 2;
            if line.starts_with(b"MSG ") {
                let size: usize = std::str::from_utf8(line)?.rsplit(' ').next().unwrap_or_default().parse()?;
                let Some(message) = rest.get(next..next + size).filter(|_| rest.len() >= next + size + 2) else {
                    return Ok(used);
                };
                heard.message(message)?;
                next += size + 2;
            } else if line == b"PING" {
                out.frame(b"PONG\r\n");
            } else if line == b"PONG" {
                if !std::mem::replace(&mut self.ready, true) {
                    heard.ready();
                }
            } else if line.starts_with(b"INFO ") {
                if !self.ready {
                    self.hello(out);
                }
            } else if !line.starts_with(b"+OK") {
                bail!("nats-server says {}", String::from_utf8_lossy(line));
            }
            used += next;
        }
    }

    fn hello(&self, out: &mut Out) {
        let connect = r#"CONNECT {"verbose":false,"pedantic":false,"lang":"rust","version":"0","protocol":1}"#;
        let subscribe = self.subjects().0.map(|subject| format!("SUB {subject} 1\r\n")).unwrap_or_default();
        out.frame(format!("{connect}\r\n{subscribe}PING\r\n").as_bytes());
    }
}

impl Speaker for Client {
    fn path(&self) -> String {
        "/".to_owned()
    }

    fn opened(&mut self, _: &mut Out) -> bool {
        false
    }

    fn hear(&mut self, payload: &[u8], out: &mut Out, heard: &mut Hearing) -> anyhow::Result<()> {
        if self.rest.is_empty() {
            let used = self.lines(payload, out, heard)?;
            self.rest.extend_from_slice(&payload[used..]);
        } else {
            let mut text = std::mem::take(&mut self.rest);
            text.extend_from_slice(payload);
            let used = self.lines(&text, out, heard)?;
            text.drain(..used);
            self.rest = text;
        }
        Ok(())
    }

    fn say(&mut self, message: &[u8], out: &mut Out) -> anyhow::Result<()> {
        let (_, subject) = self.subjects();
        let mut text = format!("PUB {subject} {}\r\n", message.len()).into_bytes();
        text.extend_from_slice(message);
        text.extend_from_slice(b"\r\n");
        out.frame(&text);
        Ok(())
    }
}
