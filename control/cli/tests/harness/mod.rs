//! A control plane on loopback, an administrator at the command line, and the computers and phones that enrol.

// Each test file uses its own part of this.
#![allow(dead_code)]

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

use gatepass_client::{Http, HttpError, Proxies, Tls, edge};
use gatepass_control::Control;
use gatepass_control::api::{EnrolAgent, EnrolDevice, Kept, NewEvent, Waiting, Welcome};
use gatepass_protocol::enrol::{DeviceRequest, Ticket, fingerprint};
use gatepass_protocol::event::{Event, EventKind};
use gatepass_protocol::ids::{ComputerId, DeviceId, Serial, TenantId};
use gatepass_protocol::keys::{ChannelKey, OtpKey, PublicKey, Signer as _, SigningKey};
use gatepass_protocol::signed::{Signed, Unverified};
use gatepass_protocol::statement::{AgentTerms, CertifiedKey, Draft, KeyProtection, KeyUse, Statement, TicketTerms};

pub(crate) const PASSWORD: &str = "orbit-kettle-marrow-fiddle-61";

/// A server with its own folder, gone with the test.
pub(crate) struct Server {
    pub(crate) runtime: Runtime,
    pub(crate) control: Control,
    pub(crate) url: String,
    pub(crate) folder: TempDir,
}

impl Server {
    pub(crate) fn start() -> Server {
        Server::with(TempDir::new().unwrap(), "127.0.0.1:0")
    }

    /// At the same address as another one was, with what is in a folder.
    pub(crate) fn with(folder: TempDir, address: &str) -> Server {
        let control = Control::open(&folder.path().join("control.db")).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind(address)).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        runtime.spawn(serve(listener, control.clone()));
        Server { runtime, control, url, folder }
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.folder.path().join("control.db")
    }

    pub(crate) fn http(&self) -> Http {
        // Plain HTTP on loopback: whom TLS would believe plays no part.
        Http::new(&self.url, Tls::system().unwrap(), Proxies::none()).unwrap()
    }

    pub(crate) fn enrol_agent(&self, enrol: &EnrolAgent) -> Result<Welcome, HttpError> {
        self.runtime.block_on(self.http().post_json("/api/v1/enrol/agent", enrol))
    }

    pub(crate) fn enrol_device(&self, enrol: &EnrolDevice) -> Result<Waiting, HttpError> {
        self.runtime.block_on(self.http().post_json("/api/v1/enrol/device", enrol))
    }

    /// The phone's certificate, once it is there.
    pub(crate) fn enrolled(&self, waiting: &Waiting) -> Option<Welcome> {
        let path = format!("/api/v1/enrol/device/{}", waiting.request_id);
        let answer = self.runtime.block_on(self.http().request(hyper::Method::GET, &path, None)).unwrap();
        (answer.status == 200).then(|| answer.json().unwrap())
    }

    pub(crate) fn send_event(&self, event: &NewEvent) -> Result<Kept, HttpError> {
        self.runtime.block_on(self.http().post_json("/api/v1/events", event))
    }
}

async fn serve(listener: TcpListener, control: Control) {
    while let Ok((stream, _)) = listener.accept().await {
        let control = control.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let control = control.clone();
                async move { Ok::<_, std::convert::Infallible>(control.handle(request).await) }
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

/// A person with a folder, a profile in it, and the command line.
pub(crate) struct Administrator {
    pub(crate) folder: TempDir,
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) ok: bool,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Administrator {
    pub(crate) fn new() -> Administrator {
        let folder = TempDir::new().unwrap();
        write_secret(&folder.path().join("password"), PASSWORD);
        Administrator { folder }
    }

    /// With a tenant, a CA key that it trusts, and the technician alex.
    pub(crate) fn of_tenant(server: &Server, name: &str) -> Administrator {
        let administrator = Administrator::new();
        administrator.create_tenant(server, name);
        administrator.did("ca new acme --password-file password");
        administrator.did("ca add gatepass-ca.pem");
        administrator.did("technician add alex");
        administrator
    }

    pub(crate) fn create_tenant(&self, server: &Server, name: &str) -> String {
        let token = server.folder.path().join("operator.token");
        let arguments =
            ["tenant", "create", name, "--url", &server.url, "--operator-token-file", token.to_str().unwrap()];
        let said = self.run(&arguments);
        assert!(said.ok, "{said:?}");
        said.out
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        self.run_and_type(arguments, "")
    }

    /// Runs a command, and types into it.
    pub(crate) fn run_and_type(&self, arguments: &[&str], typed: &str) -> Said {
        let mut child = Command::new(env!("CARGO_BIN_EXE_gatepass"))
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .env("XDG_CONFIG_HOME", self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It may end without reading.
        let _ = child.stdin.take().unwrap().write_all(typed.as_bytes());
        let output = child.wait_with_output().unwrap();
        Said {
            ok: output.status.success(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Runs a command that works, and says what it printed.
    pub(crate) fn did(&self, command: &str) -> String {
        let said = self.run(&command.split(' ').collect::<Vec<_>>());
        assert!(said.ok, "{command}: {}", said.err);
        said.out
    }

    /// Runs a command that is refused, and says why.
    pub(crate) fn refused(&self, command: &str) -> String {
        let said = self.run(&command.split(' ').collect::<Vec<_>>());
        assert!(!said.ok, "{command} worked: {}", said.out);
        said.err
    }

    /// Runs a command that signs.
    pub(crate) fn signed(&self, command: &str) -> String {
        self.did(&format!("{command} --password-file password"))
    }

    pub(crate) fn ticket(&self, purpose: &str, more: &str) -> Ticket {
        let name = format!("{}.ticket", Serial::random(&mut edge::rng()));
        self.signed(&format!("ticket new --for {purpose} --out {name}{more}"));
        Ticket::from_text(&fs::read_to_string(self.path(&name)).unwrap()).unwrap()
    }

    pub(crate) fn tenant(&self) -> TenantId {
        let profile = fs::read_to_string(self.path("gatepass/profile.toml")).unwrap();
        let line = profile.lines().find_map(|line| line.strip_prefix("tenant = ")).unwrap();
        line.trim_matches('"').parse().unwrap()
    }

    pub(crate) fn token(&self) -> String {
        fs::read_to_string(self.path("gatepass/admin.token")).unwrap().trim().to_owned()
    }
}

pub(crate) fn write_secret(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// A computer's keys and the certificate that it signed itself with a ticket.
pub(crate) struct Computer {
    pub(crate) id: ComputerId,
    pub(crate) sign: SigningKey,
    pub(crate) certificate: Signed<Statement>,
    pub(crate) ticket: Ticket,
}

impl Computer {
    pub(crate) fn with(ticket: &Ticket, name: &str) -> Computer {
        let statement = Unverified::<Statement>::decode(ticket.statement.clone()).unwrap();
        let (terms, now) = (statement.claimed().terms::<TicketTerms>().unwrap(), edge::now());
        let (id, sign) = (ComputerId::random(&mut edge::rng()), SigningKey::generate(&mut edge::rng()));
        let draft = Draft {
            serial: Serial::random(&mut edge::rng()),
            tenant: statement.claimed().tenant,
            subject: id.0,
            keys: vec![
                CertifiedKey { key_use: KeyUse::Sign, key: sign.public_key() },
                CertifiedKey { key_use: KeyUse::Channel, key: ChannelKey::generate(&mut edge::rng()).public_key() },
            ],
            not_before: now,
            not_after: terms.certificates_until,
            epoch: statement.claimed().epoch,
        };
        let terms =
            AgentTerms { computer: name.into(), domain: String::new(), os: "Debian 12".into(), tags: terms.tags };
        let certificate = draft.sign(&terms, &ticket.key()).unwrap();
        Computer { id, sign, certificate, ticket: ticket.clone() }
    }

    pub(crate) fn enrolment(&self) -> EnrolAgent {
        EnrolAgent {
            ticket: self.ticket.statement.to_vec().into(),
            certificate: self.certificate.bytes().to_vec().into(),
        }
    }

    pub(crate) fn event(&self, sequence: u64, text: &str) -> Event {
        Event {
            tenant: self.certificate.body().tenant,
            computer: self.id,
            sequence,
            time: edge::now(),
            kind: EventKind::Started,
            technician: None,
            device: None,
            grant: None,
            scenario: None,
            account: String::new(),
            code: None,
            evidence: Vec::new(),
            policy_epoch: 0,
            text: text.into(),
        }
    }

    pub(crate) fn signed(&self, event: Event) -> NewEvent {
        self.wrapped(Signed::sign(event, &self.sign).unwrap().bytes().to_vec())
    }

    pub(crate) fn wrapped(&self, event: Vec<u8>) -> NewEvent {
        let chain = vec![self.certificate.bytes().to_vec().into(), self.ticket.statement.to_vec().into()];
        NewEvent { chain, event: event.into() }
    }
}

/// A phone's request, and the fingerprint that it shows.
pub(crate) struct Phone {
    pub(crate) id: DeviceId,
    pub(crate) sign: SigningKey,
    pub(crate) enrolment: EnrolDevice,
    pub(crate) fingerprint: String,
}

impl Phone {
    pub(crate) fn with(ticket: &Ticket, name: &str) -> Phone {
        let statement = Unverified::<Statement>::decode(ticket.statement.clone()).unwrap();
        let id = DeviceId::random(&mut edge::rng());
        let key = |key_use, key| CertifiedKey { key_use, key };
        let sign = SigningKey::generate(&mut edge::rng());
        let request = DeviceRequest {
            ticket: statement.claimed().serial,
            device: id,
            keys: vec![
                key(KeyUse::Sign, sign.public_key()),
                key(KeyUse::Channel, ChannelKey::generate(&mut edge::rng()).public_key()),
                key(KeyUse::Approve, PublicKey::P256([4; 65])),
                key(KeyUse::Otp, OtpKey::generate(&mut edge::rng()).public_key()),
            ],
            device_name: name.into(),
            protection: KeyProtection::Software,
            time: edge::now(),
        };
        let request = Signed::sign(request, &ticket.key()).unwrap();
        let enrolment =
            EnrolDevice { ticket: ticket.statement.to_vec().into(), request: request.bytes().to_vec().into() };
        Phone { id, sign, enrolment, fingerprint: fingerprint(&request) }
    }
}

/// The commands in the shell blocks of a guide.
pub(crate) fn shell_lines(guide: &str) -> Vec<&str> {
    let blocks = guide.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.flat_map(str::lines).filter(|line| line.starts_with("gatepass ")).collect()
}
