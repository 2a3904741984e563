//! A control plane in a few lines: it enrols whoever asks, hands out what the tenant signed and keeps events.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use gatepass_client::api::{Base64, Statements};
use gatepass_protocol::event::Event;
use gatepass_protocol::ids::TenantId;
use gatepass_protocol::signed::Unverified;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What it has.
#[derive(Clone, Default)]
pub(crate) struct Control {
    pub(crate) statements: Arc<Mutex<Statements>>,
    /// The chains of its directory.
    pub(crate) directory: Arc<Mutex<Vec<Vec<Bytes>>>>,
    /// It answers nobody.
    pub(crate) away: Arc<AtomicBool>,
    events: Arc<Mutex<Vec<Event>>>,
}

impl Control {
    /// Starts it; says where.
    pub(crate) async fn start(&self, tenant: TenantId) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let control = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if control.away.load(Ordering::Relaxed) {
                    continue;
                }
                tokio::spawn(answer(control.clone(), tenant, stream));
            }
        });
        url
    }

    /// The events that came, in order.
    pub(crate) fn events(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    fn reply(&self, tenant: TenantId, path: &str, body: &[u8]) -> Value {
        let mut lists = serde_json::to_value(&*self.statements.lock().unwrap()).unwrap();
        match path {
            "/api/v1/enrol/agent" => {
                lists["tenant"] = json!(tenant.to_string());
                lists["ca_pem"] = json!([]);
            }
            "/api/v1/directory" => {
                let chains = self.directory.lock().unwrap().clone();
                let chains: Vec<Vec<Base64>> =
                    chains.into_iter().map(|chain| chain.into_iter().map(Base64).collect()).collect();
                return json!({ "chains": chains, "since": 1, "after": "0".repeat(32), "more": false });
            }
            "/api/v1/events" => {
                let posted: Value = serde_json::from_slice(body).unwrap();
                let event: Base64 = serde_json::from_value(posted["event"].clone()).unwrap();
                self.events.lock().unwrap().push(Unverified::<Event>::decode(event.0).unwrap().claimed().clone());
                return json!({ "seq": 1 });
            }
            _ => {}
        }
        lists
    }
}

async fn answer(control: Control, tenant: TenantId, mut stream: TcpStream) -> Option<()> {
    let mut bytes = Vec::new();
    let (path, body) = loop {
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).await.ok()?;
        bytes.extend_from_slice(&piece[..read]);
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        if bytes.len() >= end + 4 + length {
            let path = head.split(' ').nth(1)?.to_owned();
            break (path, Bytes::copy_from_slice(&bytes[end + 4..]));
        }
    };
    let json = control.reply(tenant, &path, &body).to_string();
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{json}",
        json.len()
    );
    stream.write_all(answer.as_bytes()).await.ok()
}
