//! A control plane of a few lines: it hands on what the test's tenant signs.

use std::sync::{Arc, Mutex};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use gatepass_client::edge;
use gatepass_protocol::{
    enrol::{DeviceRequest, fingerprint},
    ids::TechnicianId,
    signed::{Signed, Unverified},
    statement::{DeviceTerms, KeyUse, RelayEntry, RelayTerms, Statement},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::world::World;

#[derive(Default)]
struct Desk {
    statements: Value,
    tenant: String,
    request: Option<Signed<DeviceRequest>>,
    certificate: Option<Bytes>,
}

/// The server.
pub(crate) struct Control {
    port: u16,
    desk: Arc<Mutex<Desk>>,
}

impl Control {
    pub(crate) async fn start(world: &mut World) -> Self {
        let relays = RelayTerms { relays: vec![RelayEntry { index: 0, url: world.relay.url() }] };
        let relays = world.tenant.list(1).sign(&relays, &world.tenant.ca).unwrap().bytes().clone();
        let policy = world.tenant.policy(1, true);
        let statements =
            json!({"policy": STANDARD.encode(policy), "revocation": null, "relays": STANDARD.encode(relays)});
        let desk = Arc::new(Mutex::new(Desk { statements, tenant: world.tenant.id.to_string(), ..Desk::default() }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn({
            let desk = desk.clone();
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    answer(stream, &desk).await;
                }
            }
        });
        Self { port, desk }
    }

    /// The tenant has a second relay from now on.
    pub(crate) fn second_relay(&self, world: &mut World, url: &str) {
        let entries = [world.relay.url(), url.to_owned()].into_iter().zip(0..);
        let relays = RelayTerms { relays: entries.map(|(url, index)| RelayEntry { index, url }).collect() };
        let relays = world.tenant.list(2).sign(&relays, &world.tenant.ca).unwrap().bytes().clone();
        self.desk.lock().unwrap().statements["relays"] = STANDARD.encode(relays).into();
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What the administrator sees.
    pub(crate) fn fingerprint(&self) -> String {
        fingerprint(self.desk.lock().unwrap().request.as_ref().unwrap())
    }

    /// The administrator signs for technician `alex`.
    pub(crate) fn approve(&self, world: &mut World) {
        let mut desk = self.desk.lock().unwrap();
        let request = desk.request.as_ref().unwrap().body();
        let terms = DeviceTerms {
            technician: TechnicianId([1; 16]),
            technician_name: "alex".into(),
            device_name: request.device_name.clone(),
            protection: request.protection,
        };
        let draft = world.tenant.draft(*request.device.as_bytes(), request.keys.clone());
        desk.certificate = Some(draft.sign(&terms, &world.tenant.ca).unwrap().bytes().clone());
    }
}

async fn answer(mut stream: TcpStream, desk: &Mutex<Desk>) {
    let mut asked = Vec::new();
    let (head, body) = loop {
        let mut part = [0; 4096];
        let read = stream.read(&mut part).await.unwrap_or(0);
        asked.extend_from_slice(&part[..read]);
        let text = String::from_utf8_lossy(&asked).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                break (head.to_owned(), body.to_owned());
            }
        }
        assert!(read > 0, "half a request");
    };
    let (status, answer) = desk.lock().unwrap().answer(&head, &body);
    let text = answer.to_string();
    let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{text}", text.len());
    let _ = stream.write_all(answer.as_bytes()).await;
}

impl Desk {
    fn answer(&mut self, head: &str, body: &str) -> (u16, Value) {
        let path = head.split(' ').nth(1).unwrap();
        if head.starts_with("POST /api/v1/enrol/device ") {
            let body: Value = serde_json::from_str(body).unwrap();
            let part = |name: &str| Bytes::from(STANDARD.decode(body[name].as_str().unwrap()).unwrap());
            let ticket = Unverified::<Statement>::decode(part("ticket")).unwrap();
            let key = ticket.claimed().key(KeyUse::Sign).unwrap();
            let request = Unverified::<DeviceRequest>::decode(part("request")).unwrap().verify(&key).unwrap();
            assert!(request.body().time <= edge::now());
            self.request = Some(request);
            return (202, json!({"request_id": "0".repeat(32)}));
        }
        if path.starts_with("/api/v1/statements/") {
            return (200, self.statements.clone());
        }
        if path == "/api/v1/directory" {
            return (200, json!({"chains": [], "since": 0, "after": "0".repeat(32), "more": false}));
        }
        if path.starts_with("/api/v1/log/") {
            return (404, json!({"detail": "this desk keeps no log"}));
        }
        assert_eq!(path, format!("/api/v1/enrol/device/{}", "0".repeat(32)));
        let Some(certificate) = &self.certificate else { return (202, json!({})) };
        let mut welcome = self.statements.clone();
        welcome["tenant"] = self.tenant.clone().into();
        welcome["ca_pem"] = json!([]);
        welcome["certificate"] = json!([STANDARD.encode(certificate)]);
        (200, welcome)
    }
}
