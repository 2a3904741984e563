//! A regional relay as an MSP runs it: no database, tenants from a control plane elsewhere, and what happens while that is
//! away.

mod harness;

use std::{fs, os::unix::fs::PermissionsExt, process::Command, time::Duration};

use gatepass_client::{Connection, Method, Why};
use gatepass_protocol::{Code, channel::Channel, testing::Tenant};
use harness::{Computer, Customer, PATIENCE, PROGRAM, Server, hears, now, revocation};

/// A regional relay of this control plane, with its token and certificate.
fn region_of(central: &Server, more: &str) -> Server {
    let ca = central.state("relay.pem");
    let region = Server::new(&format!(
        "[drain]\nspread_seconds = 0\n[region]\ncontrol_plane = '{}'\nca_file = '{}'\n{more}",
        central.url(),
        ca.display()
    ));
    fs::create_dir_all(region.state("")).expect("made");
    fs::copy(central.state("relay.token"), region.state("relay.token")).expect("copied");
    region
}

/// Connects until the relay has heard of the computer's tenant and key.
async fn let_in(computer: &Computer, server: &Server) -> Connection {
    let connect = async {
        loop {
            // A connection that was refused waits for somebody to change something.
            let connection = computer.connect(server);
            if connection.sender().online().await.is_ok() {
                return connection;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, connect).await.expect("let in")
}

/// Why a computer is not let in.
async fn refused(computer: &Computer, server: &Server) -> Code {
    let connection = computer.connect(server);
    match connection.sender().online().await {
        Err(Why::Refused { code, .. }) => code,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_regional_relay_serves_tenants_of_a_control_plane_elsewhere_and_goes_on_while_that_is_away() {
    let mut central = Server::new("[drain]\nspread_seconds = 0");
    central.start_as("control");
    central.wait_for_start();
    let mut region = region_of(&central, "");
    region.start_as("relay");
    region.wait_for_start();

    // A tenant and a CA key that come later are known there too.
    let mut customer = Customer::at(&central).await;
    let (stays, goes) =
        (Computer::of(&mut customer.tenant, customer.id), Computer::of(&mut customer.tenant, customer.id));
    let mut connected = let_in(&stays, &region).await;
    connected.sender().subscribe(Channel::Tenant(customer.id)).await.expect("its tenant");

    // A revocation is there as soon as it is signed: the one hears of it, the other is put out.
    let put_out = goes.connect(&region);
    put_out.sender().online().await.expect("let in");
    let first = revocation(&mut customer.tenant, customer.id, 1, &[*goes.id.as_bytes()]);
    customer.publish(&central, &first).await;
    hears(&mut connected, 1, &first).await;
    let mut state = put_out.sender().state();
    let refused_now = state.wait_for(|state| {
        matches!(state, gatepass_client::State::Waiting { why: Why::Refused { code: Code::Revoked, .. }, .. })
    });
    drop(tokio::time::timeout(PATIENCE, refused_now).await.expect("in time").expect("refused"));

    // The control plane is gone, and the relay starts without it.
    region.wait(|_| {
        fs::read_to_string(region.state(&format!("tenants/{}.json", customer.id))).is_ok_and(|kept| !kept.is_empty())
    });
    central.kill();
    region.wait(|log| log.contains("going on with what is known"));
    assert!(region.terminate().success());
    region.start_as("relay");
    region.wait_for_start();
    let mut back = stays.connect(&region);
    back.sender().online().await.expect("let in from what was kept");
    back.sender().subscribe(Channel::Tenant(customer.id)).await.expect("its tenant");
    hears(&mut back, 1, &first).await;
    assert_eq!(refused(&goes, &region).await, Code::Revoked, "also after the restart");

    // And what comes when the control plane is back.
    central.start_as("control");
    central.wait_for_start();
    let second = revocation(&mut customer.tenant, customer.id, 2, &[*goes.id.as_bytes()]);
    customer.publish(&central, &second).await;
    hears(&mut back, 2, &second).await;
    let metrics = region.http().request(Method::GET, "/metrics", None).await.expect("metrics");
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    let heard = metrics.lines().find_map(|line| line.strip_prefix("gatepass_relay_control_plane_heard_seconds "));
    let heard: u64 = heard.and_then(|heard| heard.parse().ok()).expect("a time");
    assert!(heard.abs_diff(now()) < 60, "{heard}");
    let names = [customer.id.to_string(), stays.id.to_string()];
    assert!(names.iter().all(|name| !region.log().contains(name)), "no names at INFO:\n{}", region.log());
    assert!(central.terminate().success() && region.terminate().success());
    assert!(
        !central.log().contains("did not end in time"),
        "the relay that waits for news is let go:\n{}",
        central.log()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customers_second_ca_key_counts_at_the_regional_relay_and_another_customers_does_not() {
    let mut central = Server::new("");
    central.start();
    let mut customer = Customer::at(&central).await;
    let mut region = region_of(&central, &format!("tenants = ['{}']", customer.id));
    region.start_as("relay");
    region.wait_for_start();
    let_in(&Computer::of(&mut customer.tenant, customer.id), &region).await;

    let mut second = Tenant::new(now() + 1);
    let computer = Computer::of(&mut second, customer.id);
    assert_eq!(refused(&computer, &region).await, Code::Certificate, "not yet");
    customer.trust(&central, "second", &second).await;
    let_in(&computer, &region).await;

    let mut other = Customer::at(&central).await;
    let stranger = Computer::of(&mut other.tenant, other.id);
    stranger.connect(&central).sender().online().await.expect("let in where it belongs");
    assert_eq!(refused(&stranger, &region).await, Code::Certificate, "a tenant that this region does not serve");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_token_nobody_is_told_who_the_tenants_are_and_the_relay_says_what_is_missing() {
    let mut central = Server::new("");
    central.start();
    for token in [None, Some("wrong"), Some("gatepass-token-00000000000000000000000000000000")] {
        let http = token.map_or(central.http(), |token| central.http().with_bearer(token));
        let error = http.request(Method::GET, "/api/v1/feed", None).await.expect_err("refused").to_string();
        assert!(error.contains("401") && error.contains("relay.token"), "{error}");
    }
    let mut region = region_of(&central, "");
    fs::set_permissions(region.state("relay.token"), fs::Permissions::from_mode(0o644)).expect("opened");
    let said = check(&region);
    assert!(said.contains("chmod 600"), "{said}");
    fs::remove_file(region.state("relay.token")).expect("removed");
    let said = check(&region);
    assert!(said.contains("copy relay.token"), "{said}");

    // A token of another control plane: it waits, says why, and is told to stop all the same.
    fs::write(region.state("relay.token"), "gatepass-token-of-somebody-else-entirely").expect("written");
    fs::set_permissions(region.state("relay.token"), fs::Permissions::from_mode(0o600)).expect("closed");
    region.start_as("relay");
    region.wait(|log| log.contains("the token is missing, or not the relays'"));
    assert!(region.terminate().success());
    assert!(!region.log().contains("listening") && !region.log().contains("somebody-else"), "{}", region.log());
}

/// What check-config says of a regional relay that can't work.
fn check(region: &Server) -> String {
    let mut command = Command::new(PROGRAM);
    let output = command.args(["check-config", "--role", "relay", "--config"]).arg(region.config());
    let output = output.env_remove("RUST_BACKTRACE").output().expect("run");
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_regional_relay_without_a_control_plane_is_told_which_key_to_set() {
    for (more, expected) in [
        ("", "`region.control_plane`"),
        ("[region]\ncontrol_plane = 'control.example'", "`region.control_plane`"),
        ("[region]\ncontrol_plane = 'https://control.example'\ntenants = ['acme']", "`region.tenants`"),
    ] {
        let said = check(&Server::new(more));
        assert!(said.contains(expected), "{said}");
    }
}
