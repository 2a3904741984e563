//! A phone that sends its arguments to the computer of the `subscriber` example.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::sync::Arc;

use gatepass_client::{Connection, Proxies, Settings, Tls, edge};
use gatepass_protocol::{channel::Channel, testing::Tenant};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut tenant = Tenant::at(1, edge::now());
    let (computer, phone) = (tenant.computer().computer(), tenant.phone(1).identity);

    let connection = Connection::start(Settings {
        relays: vec!["ws://127.0.0.1:7788".parse()?],
        tls: Tls::system()?,
        proxies: Proxies::from_environment()?,
        chain: phone.chain,
        key: Arc::new(phone.sign),
    });
    connection.sender().online().await?;
    for word in std::env::args().skip(1) {
        let delivered = connection.sender().publish(Channel::Computer(computer), word.into_bytes()).await?;
        println!("delivered to {delivered}");
    }
    connection.close().await;
    Ok(())
}
