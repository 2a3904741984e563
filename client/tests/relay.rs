//! The connection against the real relay, over a network that is cut again and again.

#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use gatepass_client::{Connection, Incoming, Proxies, RequestError, Settings, Tls, edge};
use gatepass_protocol::{Code, channel::Channel, ids::Rid, keys::SigningKey, testing::Tenant};
use gatepass_relay::{
    config::TlsMode,
    metrics::Ticket,
    system_clock,
    testing::{Tenancy, TestRelay},
};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};

const RID: Rid = Rid([6; 16]);

/// A wire to the relay that can be cut: every connection through it breaks, new ones are taken.
struct Wire {
    address: SocketAddr,
    cuts: watch::Sender<u32>,
}

impl Wire {
    async fn to(relay: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (cuts, cut) = watch::channel(0);
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut cut = cut.clone();
                cut.mark_unchanged();
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(relay).await else { return };
                    tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { address, cuts }
    }

    fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

fn connect(address: SocketAddr, chain: &[Bytes], key: &SigningKey) -> Connection {
    Connection::start(Settings {
        relays: vec![format!("ws://{address}").parse().unwrap()],
        tls: Tls::system().unwrap(),
        proxies: Proxies::none(),
        chain: chain.to_vec(),
        key: Arc::new(SigningKey::from_seed(&key.seed())),
    })
}

async fn forwarded(connection: &mut Connection) -> Bytes {
    loop {
        match timeout(Duration::from_secs(20), connection.next()).await.unwrap().unwrap() {
            Incoming::Forwarded { bytes, .. } => return bytes,
            Incoming::Closed { code, .. } => panic!("the pairing was lost: {code:?}"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_login_survives_a_network_that_is_cut_at_every_message() {
    let mut tenant = Tenant::at(1, edge::now());
    let relay = TestRelay::with_clock(Tenancy::of([tenant.trust()]), |_| {}, system_clock()).await;
    let wire = Wire::to(relay.address()).await;
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let mut agent = connect(wire.address, &computer.chain, &computer.sign);
    let mut device = connect(wire.address, &phone.chain, &phone.sign);
    agent.sender().online().await.unwrap();
    device.sender().online().await.unwrap();
    agent.sender().open(RID, 60).await.unwrap();
    device.sender().claim(RID, [1; 16], [2; 16]).await.unwrap();
    assert!(matches!(agent.next().await, Some(Incoming::Claimed { rid: RID, nonce: [1, ..], tag: [2, ..] })));
    for round in 0..6_u8 {
        device.sender().forward(RID, vec![round]).await.unwrap();
        if round % 2 == 0 {
            wire.cut();
        }
        assert_eq!(forwarded(&mut agent).await, vec![round]);
        agent.sender().forward(RID, vec![round, round]).await.unwrap();
        wire.cut();
        assert_eq!(forwarded(&mut device).await, vec![round, round]);
    }
    assert!(relay.relay.metrics().tickets.of(Ticket::Taken).get() > 1, "it came back by tickets");
}

#[tokio::test]
async fn a_relay_that_restarts_loses_the_pairing_out_loud_and_nothing_else() {
    let mut tenant = Tenant::at(1, edge::now());
    let relay = TestRelay::with_clock(Tenancy::of([tenant.trust()]), |_| {}, system_clock()).await;
    let address = relay.address();
    let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
    let mut agent = connect(address, &computer.chain, &computer.sign);
    let orders = Channel::Computer(computer.computer());
    agent.sender().online().await.unwrap();
    agent.sender().subscribe(orders).await.unwrap();
    agent.sender().open(RID, 60).await.unwrap();
    relay.stop().await;
    let again = |config: &mut gatepass_relay::Config| config.edge.listen = address;
    let _relay = TestRelay::with_clock(Tenancy::of([tenant.trust()]), again, system_clock()).await;
    let lost = timeout(Duration::from_secs(20), agent.next()).await.unwrap().unwrap();
    // Of the channel it can't say what was published meanwhile.
    let next = timeout(Duration::from_secs(20), agent.next()).await.unwrap().unwrap();
    let mut both = [lost, next];
    both.sort_by_key(|incoming| matches!(incoming, Incoming::Refetch { .. }));
    assert!(matches!(both, [Incoming::Closed { rid: RID, .. }, Incoming::Refetch { .. }]), "{both:?}");

    let device = connect(address, &phone.chain, &phone.sign);
    device.sender().online().await.unwrap();
    assert_eq!(device.sender().publish(orders, &b"order"[..]).await, Ok(1), "the subscription is back");
    assert!(matches!(agent.next().await, Some(Incoming::Message { bytes, .. }) if bytes == "order"));
}

#[tokio::test]
async fn each_client_gets_what_its_certificate_allows_and_a_reason_otherwise() {
    let mut tenant = Tenant::at(1, edge::now());
    let self_made = |config: &mut gatepass_relay::Config| config.tls.mode = TlsMode::SelfMade;
    let relay = TestRelay::with_clock(Tenancy::of([tenant.trust()]), self_made, system_clock()).await;
    let phone = tenant.phone(1).identity;
    let connection = Connection::start(Settings {
        relays: vec![relay.url().parse().unwrap()],
        tls: Tls::only(relay.certificate_pem().unwrap()).unwrap(),
        proxies: Proxies::none(),
        chain: phone.chain.clone(),
        key: Arc::new(SigningKey::from_seed(&phone.sign.seed())),
    });
    connection.sender().online().await.unwrap();
    let refused = |result: Result<u64, RequestError>, expected| {
        assert!(matches!(&result, Err(RequestError::Refused { code, .. }) if *code == expected), "{result:?}");
    };
    refused(connection.sender().open(RID, 60).await.map(|()| 0), Code::NotAllowed);
    refused(connection.sender().claim(RID, [1; 16], [2; 16]).await.map(|()| 0), Code::Unknown);
    refused(connection.sender().subscribe(Channel::Computer(tenant.computer().computer())).await, Code::NotAllowed);
    refused(
        connection.sender().publish(Channel::Tenant(tenant.id), &b"news"[..]).await.map(u64::from),
        Code::NotAllowed,
    );
    connection.sender().subscribe(Channel::Tenant(tenant.id)).await.unwrap();
    connection.close().await;
}
