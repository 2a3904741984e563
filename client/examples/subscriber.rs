//! A computer that prints what it is sent, beside a relay of its own:
//!
//! ```text
//! cargo run -p gatepass-client --example subscriber
//! cargo run -p gatepass-client --example publisher -- hello     # in another terminal, as often as you like
//! ```

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Arc;

use gatepass_client::{Connection, Incoming, Proxies, Settings, Tls, edge};
use gatepass_protocol::{channel::Channel, testing::Tenant};
use gatepass_relay::testing::{Tenancy, TestRelay};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Made-up certificates: the publisher makes the same ones of the same seed.
    let mut tenant = Tenant::at(1, edge::now());
    let here = |config: &mut gatepass_relay::Config| config.edge.listen = ([127, 0, 0, 1], 7788).into();
    let relay = TestRelay::with_clock(Tenancy::of([tenant.trust()]), here, gatepass_relay::system_clock()).await;
    let computer = tenant.computer();
    let channel = Channel::Computer(computer.computer());

    let mut connection = Connection::start(Settings {
        relays: vec![relay.url().parse()?],
        tls: Tls::system()?,
        proxies: Proxies::from_environment()?,
        chain: computer.chain.clone(),
        key: Arc::new(computer.sign),
    });
    connection.sender().online().await?;
    connection.sender().subscribe(channel).await?;
    println!("listening at {}", relay.url());
    while let Some(incoming) = connection.next().await {
        if let Incoming::Message { offset, bytes, .. } = incoming {
            println!("{offset}: {}", String::from_utf8_lossy(&bytes));
        }
    }
    Ok(())
}
