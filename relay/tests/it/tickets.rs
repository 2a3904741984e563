//! Who was here comes back by a ticket, for as long as its certificate is good.

use gatepass_protocol::{
    Code,
    channel::Channel,
    frame::{Frame, return_mac},
    ids::Serial,
    testing::Tenant,
};
use gatepass_relay::{
    metrics::Ticket,
    testing::{Tenancy, TestRelay},
};

use crate::client::{Client, Heard, Ticket as Held, eventually};

/// Answers the challenge with a ticket; returns what the relay says to it.
async fn comes_back(relay: &TestRelay, (ticket, secret): &Held, dialled: &str) -> (Client, Heard) {
    let mut client = Client::unauthenticated(relay).await;
    let Heard::Frame(Frame::Challenge { nonce, .. }) = client.hear().await else { panic!("no challenge") };
    let mac = return_mac(secret, &nonce, dialled);
    client.send(Frame::Return { ticket: ticket.clone(), relay: dialled.to_owned(), mac }).await;
    let heard = client.hear().await;
    (client, heard)
}

/// A client that has been given a ticket.
async fn ticketed(relay: &TestRelay, who: &impl crate::client::Credentials) -> (Client, Held) {
    eventually(|| relay.relay.issues_tickets()).await;
    let mut client = Client::connect(relay, who).await;
    client.silent().await;
    let ticket = client.1.clone().expect("a ticket");
    (client, ticket)
}

#[tokio::test]
async fn a_client_comes_back_by_its_ticket_with_the_rights_of_its_certificate() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let computer = tenant.computer();
    let (_, ticket) = ticketed(&relay, &computer).await;
    let (mut back, heard) = comes_back(&relay, &ticket, "127.0.0.1:1").await;
    assert!(matches!(heard, Heard::Frame(Frame::Welcome { .. })), "{heard:?}");
    back.subscribe(Channel::Computer(computer.computer())).await;
    back.open(1).await;
    let others = Channel::Computer(tenant.computer().computer());
    assert_eq!(back.refused(Frame::Subscribe { channel: others.to_string(), since: None }).await, Code::NotAllowed);
    assert!(back.1.is_some(), "and it has one for the next time");
    assert_eq!(relay.relay.metrics().tickets.of(Ticket::Taken).get(), 1);
}

#[tokio::test]
async fn a_ticket_that_is_not_taken_costs_one_answer_and_the_certificate_still_counts() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let other = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let computer = tenant.computer();
    let (_, foreign) = ticketed(&other, &computer).await;
    let (_, own) = ticketed(&relay, &computer).await;
    for (why, ticket, dialled) in [
        ("of another region", &foreign, "127.0.0.1"),
        ("with another secret", &(own.0.clone(), [0; 32]), "127.0.0.1"),
        ("for another relay", &own, "evil.example"),
    ] {
        let mut client = Client::unauthenticated(&relay).await;
        let Heard::Frame(Frame::Challenge { nonce, .. }) = client.hear().await else { panic!("no challenge") };
        let mac = return_mac(&ticket.1, &nonce, dialled);
        let refused = Frame::Return { ticket: ticket.0.clone(), relay: dialled.to_owned(), mac };
        assert_eq!(client.refused(refused.clone()).await, Code::ResumeDenied, "{why}");
        client
            .send(Frame::Auth {
                proof: gatepass_relay::testing::proof(&computer.sign, nonce, "127.0.0.1"),
                chain: computer.chain.clone(),
            })
            .await;
        assert!(matches!(client.frame().await, Frame::Welcome { .. }), "{why}");
        // Twice is not taken for a try at something else.
        let mut client = Client::unauthenticated(&relay).await;
        client.hear().await;
        assert_eq!(client.refused(refused.clone()).await, Code::ResumeDenied);
        assert_eq!(client.refused(refused).await, Code::NotAllowed);
        assert_eq!(client.hear().await, Heard::Closed(Some(1008)));
    }
}

#[tokio::test]
async fn whose_certificate_was_revoked_does_not_come_back_by_a_ticket() {
    let mut tenant = Tenant::new(1);
    let relay = TestRelay::start(Tenancy::of([tenant.trust()])).await;
    let computer = tenant.computer();
    let (client, ticket) = ticketed(&relay, &computer).await;
    drop(client);
    relay.announce(&tenant.revocation(1, vec![Serial(*computer.computer().as_bytes())])).await;
    let (_, heard) = comes_back(&relay, &ticket, "127.0.0.1:1").await;
    assert!(matches!(heard, Heard::Frame(Frame::Err { code: Code::ResumeDenied, .. })), "{heard:?}");
    assert_eq!(relay.relay.metrics().tickets.of(Ticket::Refused).get(), 1);
}
