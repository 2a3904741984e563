//! Redis servers to test against, as a region may have them: alone, watched by Sentinels, or as a cluster. They are Debian's
//! `redis-server`, started on free ports of 127.0.0.1 with nothing on disk that stays.
//!
//! Each dies with its value, and with the thread that started it: nothing is left behind where a test is killed.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use redis::{FromRedisValue, Value};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::config::{Backplane, BackplaneKind};

/// Longer than any of them takes to do anything.
const PATIENCE: Duration = Duration::from_secs(30);
/// Milliseconds of silence after which the others call a server dead.
const DEAD_AFTER_MS: u32 = 1_000;
/// By which the Sentinels know it.
const MASTER: &str = "gatepass";

/// Where they are unless said otherwise.
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn free_port(host: IpAddr) -> u16 {
    let listener = TcpListener::bind((host, 0)).unwrap_or_else(|error| panic!("no free port at {host}: {error}"));
    listener.local_addr().map(|address| address.port()).unwrap_or_else(|error| panic!("{error}"))
}

/// Waits until something is so.
pub async fn eventually<T>(what: &str, mut so: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = so().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "waited in vain: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// One server process.
pub struct Server {
    host: IpAddr,
    port: u16,
    dir: TempDir,
    arguments: Vec<String>,
    guarded: bool,
    process: Option<Child>,
}

/// The rights that `relay.example.toml` says a relay needs.
const RIGHTS: &str = "~gp:* &gp:* +@read +@write +@scripting +@pubsub +cluster|slots +time +ping +hello";

impl Server {
    /// A server with these arguments beside the usual ones.
    pub async fn start(arguments: &[&str]) -> Self {
        Self::start_at(HERE, arguments).await
    }

    /// The same at another address of this machine.
    pub async fn start_at(host: IpAddr, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        Self::begin(host, arguments, false).await
    }

    /// A server that speaks TLS only, to clients with a certificate only, and lets one user in, with a password and no
    /// more rights than a relay needs.
    pub async fn guarded() -> Self {
        let files = ["--tls-cert-file", "it.crt", "--tls-key-file", "it.key", "--tls-ca-cert-file", "it.crt"];
        let users = ["--user", "default", "off", "--user", "gatepass", "on", ">secret"];
        let words = files.into_iter().chain(users).chain(RIGHTS.split(' '));
        let arguments = words.map(str::to_owned).collect();
        Self::begin(HERE, arguments, true).await
    }

    async fn begin(host: IpAddr, arguments: Vec<String>, guarded: bool) -> Self {
        let dir = tempfile::tempdir().unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        if guarded {
            let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned(), "localhost".to_owned()]);
            let made = made.unwrap_or_else(|error| panic!("no certificate: {error}"));
            let files = [
                ("it.crt", made.cert.pem()),
                ("it.key", made.signing_key.serialize_pem()),
                ("password", "secret\n".into()),
            ];
            for (name, text) in files {
                fs::write(dir.path().join(name), text).unwrap_or_else(|error| panic!("{error}"));
            }
        }
        let mut server = Self { host, port: free_port(host), dir, arguments, guarded, process: None };
        // Somebody may take the port in between.
        for _ in 0..5 {
            server.spawn();
            if server.answers().await {
                return server;
            }
            server.port = free_port(host);
        }
        panic!(
            "redis-server does not start: {}",
            fs::read_to_string(server.dir.path().join("log")).unwrap_or_default()
        );
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        SocketAddr::new(self.host, self.port).to_string()
    }

    /// A command, and what is answered to it.
    pub async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> Option<T> {
        let client = redis::Client::open(format!("redis://{}", self.address())).ok()?;
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(2)));
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await.ok()?;
        let mut command = redis::Cmd::new();
        words.iter().for_each(|word| {
            command.arg(*word);
        });
        command.query_async(&mut connection).await.ok()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Starts it again at the same place, with nothing of what it knew.
    pub async fn restart(&mut self) {
        self.kill();
        self.spawn();
        assert!(self.answers().await, "redis-server does not start again at {}", self.address());
    }

    /// `kill -STOP`: its sockets stay open, and nothing answers.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// `kill -CONT`.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let process = self.process.as_ref().map(|process| process.id().to_string()).unwrap_or_default();
        let done = Command::new("kill").args([signal, &process]).status();
        assert!(done.is_ok_and(|status| status.success()), "kill {signal} {process}");
    }

    fn spawn(&mut self) {
        let (host, port) = (self.host.to_string(), self.port.to_string());
        let usual = ["--bind", &host, "--save", "", "--appendonly", "no", "--logfile", "log", "--port", &port];
        // Without a password, Redis talks to its own machine's loopback only.
        let open = ["--protected-mode", "no"];
        let tls = ["--port", "0", "--tls-port", &port];
        let faster = ["--repl-diskless-sync-delay", "0"];
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "redis-server"])
            .args(self.config())
            .args(usual)
            .args(faster.iter().filter(|_| self.config().is_none()))
            .args(tls.iter().filter(|_| self.guarded))
            .args(open.iter().filter(|_| !self.host.is_loopback()))
            .args(&self.arguments)
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let process =
            process.unwrap_or_else(|error| panic!("can't start redis-server (package redis-server): {error}"));
        self.process = Some(process);
    }

    /// A Sentinel writes its own configuration.
    fn config(&self) -> Option<PathBuf> {
        let file = self.dir.path().join("sentinel.conf");
        file.exists().then_some(file)
    }

    /// Whether it comes up; false where it ended instead.
    async fn answers(&mut self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let ended = self.process.as_mut().is_none_or(|process| !matches!(process.try_wait(), Ok(None)));
            if ended {
                return false;
            }
            // With a password or TLS, this is answered by an error, or not in the right language: it listens, then.
            let listens = tokio::net::TcpStream::connect(self.address()).await.is_ok();
            // A server that dislikes its arguments ends a moment after it began to listen.
            sleep(Duration::from_millis(10)).await;
            if listens {
                return self.process.as_mut().is_some_and(|process| matches!(process.try_wait(), Ok(None)));
            }
        }
        false
    }

    /// As one part of a configuration.
    pub fn backplane(&self) -> Backplane {
        let open = Backplane { kind: BackplaneKind::Redis, servers: vec![self.address()], ..Backplane::default() };
        if !self.guarded {
            return open;
        }
        let file = |name| self.dir.path().join(name);
        Backplane {
            username: "gatepass".into(),
            password_file: file("password"),
            tls: true,
            tls_ca: file("it.crt"),
            tls_certificate: file("it.crt"),
            tls_key: file("it.key"),
            ..open
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A master and its replica, with three Sentinels.
pub struct Watched {
    /// The master at the beginning, and the replica.
    pub servers: [Server; 2],
    sentinels: Vec<Server>,
}

impl Watched {
    /// Starts them, and waits until a failover would succeed.
    pub async fn start() -> Self {
        let master = Server::start(&[]).await;
        let of = format!("127.0.0.1 {}", master.port);
        let replica = Server::start(&["--replicaof", &of]).await;
        let mut sentinels = vec![];
        for _ in 0..3 {
            sentinels.push(sentinel(master.port).await);
        }
        let watched = Self { servers: [master, replica], sentinels };
        for sentinel in &watched.sentinels {
            eventually("the Sentinels know each other and the replica", async || {
                let about: Value = sentinel.ask(&["SENTINEL", "MASTER", MASTER]).await?;
                let text = format!("{about:?}");
                let has = |name: &str, value: &str| {
                    text.contains(&format!("bulk-string('\"{name}\"'), bulk-string('\"{value}\"')"))
                        || text.contains(&format!("bulk-string('\"{name}\"'): bulk-string('\"{value}\"')"))
                };
                (has("num-slaves", "1") && has("num-other-sentinels", "2")).then_some(())
            })
            .await;
        }
        watched.replicated().await;
        watched
    }

    async fn replicated(&self) {
        eventually("the replica is in step", async || {
            let about: String = self.servers[1].ask(&["INFO", "replication"]).await?;
            about.contains("master_link_status:up").then_some(())
        })
        .await;
    }

    /// As one part of a configuration.
    pub fn backplane(&self) -> Backplane {
        let servers = self.sentinels.iter().map(Server::address).collect();
        let kind = BackplaneKind::RedisSentinel;
        Backplane { kind, servers, sentinel_master: MASTER.into(), ..Backplane::default() }
    }
}

async fn sentinel(master: u16) -> Server {
    let dir = tempfile::tempdir().unwrap_or_else(|error| panic!("no temporary folder: {error}"));
    let config = format!(
        "sentinel monitor {MASTER} 127.0.0.1 {master} 2\nsentinel down-after-milliseconds {MASTER} {DEAD_AFTER_MS}\n\
         sentinel failover-timeout {MASTER} 5000\n"
    );
    fs::write(dir.path().join("sentinel.conf"), config).unwrap_or_else(|error| panic!("{error}"));
    let arguments = vec!["--sentinel".to_owned()];
    let mut server = Server { host: HERE, port: free_port(HERE), dir, arguments, guarded: false, process: None };
    server.spawn();
    assert!(server.answers().await, "a Sentinel does not start");
    server
}

/// A cluster of three masters, with or without a replica each.
pub struct Cluster {
    /// The masters at the beginning.
    pub masters: Vec<Server>,
    /// One of each master.
    pub replicas: Vec<Server>,
}

impl Cluster {
    /// Starts it, and waits until it is whole.
    pub async fn start(with_replicas: bool) -> Self {
        Self::start_at(HERE, with_replicas).await
    }

    /// The same at another address of this machine.
    pub async fn start_at(host: IpAddr, with_replicas: bool) -> Self {
        const MASTERS: usize = 3;
        let mut nodes = vec![];
        for _ in 0..MASTERS * (1 + usize::from(with_replicas)) {
            nodes.push(node(host).await);
        }
        for (nth, (node, _)) in nodes.iter().enumerate() {
            if nth < MASTERS {
                let (first, last) = (nth * 16_384 / MASTERS, (nth + 1) * 16_384 / MASTERS - 1);
                does(node, &["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]).await;
            }
            does(node, &["CLUSTER", "SET-CONFIG-EPOCH", &(nth + 1).to_string()]).await;
        }
        let meet = async || {
            for (node, bus) in &nodes[1..] {
                let host = host.to_string();
                does(&nodes[0].0, &["CLUSTER", "MEET", &host, &node.port.to_string(), &bus.to_string()]).await;
            }
        };
        meet().await;
        let mut met = Instant::now();
        let count = format!("cluster_known_nodes:{}\r", nodes.len());
        for (node, _) in &nodes {
            eventually("the cluster is whole", async || {
                let about: String = node.ask(&["CLUSTER", "INFO"]).await?;
                let whole = about.contains("cluster_state:ok") && about.contains(&count);
                // On a busy machine a first meeting may take too long, and is not tried again by itself.
                if !whole && met.elapsed() > Duration::from_secs(5) {
                    meet().await;
                    met = Instant::now();
                }
                whole.then_some(())
            })
            .await;
        }
        let mut masters: Vec<Server> = nodes.into_iter().map(|(node, _)| node).collect();
        let replicas = masters.split_off(MASTERS);
        for (master, replica) in masters.iter().zip(&replicas) {
            let id: String = eventually("a master has a name", async || master.ask(&["CLUSTER", "MYID"]).await).await;
            does(replica, &["CLUSTER", "REPLICATE", &id]).await;
            eventually("the replica is in step", async || {
                let about: String = replica.ask(&["INFO", "replication"]).await?;
                about.contains("master_link_status:up").then_some(())
            })
            .await;
        }
        Self { masters, replicas }
    }

    /// As one part of a configuration.
    pub fn backplane(&self) -> Backplane {
        let servers = self.masters.iter().map(Server::address).collect();
        Backplane { kind: BackplaneKind::RedisCluster, servers, ..Backplane::default() }
    }
}

async fn node(host: IpAddr) -> (Server, u16) {
    let bus = free_port(host);
    let (port, dead) = (bus.to_string(), DEAD_AFTER_MS.to_string());
    let cluster = ["--cluster-enabled", "yes", "--cluster-port", &port, "--cluster-node-timeout", &dead];
    (Server::start_at(host, &cluster).await, bus)
}

/// A command that has to succeed, perhaps not at once.
async fn does(server: &Server, words: &[&str]) {
    eventually(&words.join(" "), async || server.ask::<Value>(words).await).await;
}
