//! The faults.

use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::region::{RELAYS, Region, are_ready};

/// For how long something stands still or is cut off: longer than a time-out, a failover and a proof of work.
const STILL: Duration = Duration::from_secs(8);
/// After which a service manager starts a relay again.
const RESTART: Duration = Duration::from_secs(2);
/// Which relay, and which master.
const WHICH: usize = 1;

/// What is done to a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    /// kill -9 of a relay, which is started again after 2 s
    RelayKilled,
    /// SIGSTOP of a relay, and SIGCONT 8 s later
    RelayFrozen,
    /// A relay can't reach Redis for 8 s; its clients, and the control plane, it can
    RelayCutOff,
    /// kill -9 of a Redis master: its replica takes over
    MasterKilled,
    /// SIGSTOP of a Redis master, and SIGCONT 8 s later: its replica has taken over
    MasterFrozen,
    /// SIGTERM of each relay in turn, and a new one in its place
    RollingRestart,
    /// kill -9 of a relay and of a Redis master at the same moment
    BothKilled,
}

impl Fault {
    /// All, in the order of the table.
    pub(crate) const ALL: [Fault; 7] = [
        Fault::RelayKilled,
        Fault::RelayFrozen,
        Fault::RelayCutOff,
        Fault::MasterKilled,
        Fault::MasterFrozen,
        Fault::RollingRestart,
        Fault::BothKilled,
    ];

    /// As it is called in the table and on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Does it. Returns the moment from which on the region mends itself: when a process was killed for good, or when what stood
    /// still goes on.
    pub(crate) async fn strike(self, region: &mut Region) -> Result<Instant> {
        let network = &region.network;
        let mut from = Instant::now();
        match self {
            Fault::RelayKilled => {
                let relay = &mut region.relays[WHICH];
                relay.signal(Signal::KILL)?;
                relay.ended().await?;
                sleep(RESTART).await;
                relay.start(network).await?;
            }
            Fault::RelayFrozen => {
                let relay = &region.relays[WHICH];
                relay.signal(Signal::STOP)?;
                sleep(STILL).await;
                relay.signal(Signal::CONT)?;
                from = Instant::now();
            }
            Fault::RelayCutOff => {
                network.cut_from_redis(WHICH, true)?;
                sleep(STILL).await;
                network.cut_from_redis(WHICH, false)?;
                from = Instant::now();
            }
            Fault::MasterKilled => region.cluster.masters[WHICH].kill(),
            Fault::MasterFrozen => {
                let master = &region.cluster.masters[WHICH];
                master.freeze();
                sleep(STILL).await;
                master.thaw();
                from = Instant::now();
            }
            Fault::RollingRestart => {
                for nth in 0..RELAYS {
                    let relay = &mut region.relays[nth];
                    relay.signal(Signal::TERM)?;
                    relay.ended().await?;
                    relay.start(network).await?;
                    let probe = [relay.probe(&region.tenant)?];
                    while !are_ready(&probe).await {
                        sleep(Duration::from_millis(20)).await;
                    }
                }
                from = Instant::now();
            }
            Fault::BothKilled => {
                region.cluster.masters[WHICH].kill();
                let relay = &mut region.relays[WHICH];
                relay.signal(Signal::KILL)?;
                relay.ended().await?;
                sleep(RESTART).await;
                relay.start(network).await?;
            }
        }
        Ok(from)
    }
}
