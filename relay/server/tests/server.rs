//! The program as an operator runs it.

mod harness;

use std::{fs, net::TcpListener, path::Path, process::Command};

use gatepass_protocol::channel::Channel;
use harness::{Computer, Customer, PROGRAM, Server, check_config, hears, mode, revocation};

#[tokio::test(flavor = "multi_thread")]
async fn the_first_start_makes_all_it_needs_and_sigterm_ends_it_cleanly() {
    let mut server = Server::new("");
    server.start();
    let ready = server.http().request(gatepass_client::Method::GET, "/health/ready", None).await.expect("ready");
    assert_eq!(ready.status, 200);
    for file in ["relay-key.pem", "operator.token", "relay.token", "control.sqlite"] {
        assert_eq!(mode(&server.state(file)), 0o600, "{file}");
    }
    assert_eq!(mode(&server.state("")), 0o700);
    let token = fs::read_to_string(server.state("operator.token")).expect("made");
    let given = server.http();
    assert!(server.terminate().success());
    assert!(server.log().contains("draining") && server.log().contains("stopped"));

    server.start();
    assert_eq!(fs::read_to_string(server.state("operator.token")).expect("kept"), token);
    let ready = given.request(gatepass_client::Method::GET, "/health/ready", None).await;
    assert_eq!(ready.expect("clients need not be given anything anew").status, 200);
    assert!(server.terminate().success());
    assert!(!server.log().contains(token.trim()), "the token is in a file and nowhere else");
    assert!(!server.log().contains("PRIVATE KEY"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_administrator_signs_reaches_a_connected_computer_at_once_and_a_late_one_too() {
    let mut server = Server::new("[drain]\nspread_seconds = 0");
    server.start();
    let mut customer = Customer::at(&server).await;
    let computer = Computer::of(&mut customer.tenant, customer.id);
    let mut connected = computer.connect(&server);
    connected.sender().online().await.expect("let in");
    connected.sender().subscribe(Channel::Tenant(customer.id)).await.expect("its tenant");
    connected.sender().subscribe(Channel::Computer(computer.id)).await.expect("its own");
    let list = revocation(&mut customer.tenant, customer.id, 1, &[]);
    customer.publish(&server, &list).await;
    hears(&mut connected, 1, &list).await;

    // Also one that comes after a restart, from the database.
    assert!(server.terminate().success());
    server.start();
    let mut late = computer.connect(&server);
    late.sender().online().await.expect("let in");
    late.sender().subscribe(Channel::Tenant(customer.id)).await.expect("its tenant");
    hears(&mut late, 1, &list).await;
    server.wait(|log| log.contains("ended"));
    let names = [customer.id.to_string(), computer.id.to_string()];
    assert!(names.iter().all(|name| !server.log().contains(name)), "no names at INFO:\n{}", server.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_has_the_certificate_read_again_and_ends_nothing() {
    let mut server = Server::new("");
    server.start();
    server.signal("HUP");
    server.wait(|log| log.contains("a new TLS certificate is in force"));
    let key = fs::read(server.state("relay-key.pem")).expect("its key");
    fs::write(server.state("relay-key.pem"), "no key").expect("written");
    server.signal("HUP");
    server.wait(|log| log.contains("the old certificate goes on"));
    let ready = server.http().request(gatepass_client::Method::GET, "/health/ready", None).await.expect("it serves on");
    assert_eq!(ready.status, 200);
    fs::write(server.state("relay-key.pem"), key).expect("written");
    assert!(server.terminate().success());

    let mut plain = Server::new("[tls]\nmode = 'off'");
    plain.start();
    plain.signal("HUP");
    plain.wait(|log| log.contains("SIGHUP: there are no TLS files"));
    assert!(plain.terminate().success());
}

#[test]
fn check_config_says_what_is_wrong_before_a_start_would() {
    let server = Server::new("[limits]\nqueue_bytes = 100000");
    let good = check_config(&server.config());
    assert!(good.status.success());
    let said = String::from_utf8_lossy(&good.stdout).into_owned();
    assert!(said.starts_with("ok: a relay and control plane would listen on 127.0.0.1:"), "{said}");
    assert!(!server.state("").exists(), "and makes nothing");
    for (more, expected) in [
        ("[limits]\nqueue_byte = 1", "unknown key `limits.queue_byte`; did you mean `limits.queue_bytes`?"),
        ("[limits]\nqueue_bytes = 1", "`limits.queue_bytes`: must be at least 65536"),
        ("[log]\nformat = 'xml'", "unknown variant `xml`, expected `text` or `json`"),
        ("[tls]\nmode = 'files'\ncertificate = '/nowhere.pem'", "`tls.certificate`: can't read \"/nowhere.pem\""),
        ("[edge", "TOML parse error"),
    ] {
        let server = Server::new(more);
        let bad = check_config(&server.config());
        let said = String::from_utf8_lossy(&bad.stderr).into_owned();
        assert!(!bad.status.success() && said.contains(expected), "{said}");
    }
    let missing = check_config(Path::new("/nowhere/relay.toml"));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("can't read /nowhere/relay.toml"));
}

#[test]
fn a_port_that_is_taken_is_named_with_the_way_out() {
    let server = Server::new("");
    let _taken = TcpListener::bind(("127.0.0.1", server.port)).expect("free");
    let output = Command::new(PROGRAM).arg("--config").arg(server.config()).output().expect("run");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("free the port or set `edge.listen`"), "{said}");
}
