//! Traces of pairings, for a collector of OpenTelemetry: one trace follows one pairing from phone to relay to relay to agent.
//!
//! Nothing travels for that, and no relay learns anything by it: everybody who takes part knows the pairing's id, and its trace id is
//! a hash of that ([`gatepass_protocol::ids::Rid::trace`]). So each program sends its own spans, and the collector puts them together.
//! A trace holds no name of a person or a computer, no account and no message.
//!
//! ```text
//! phone   claim ---------.                      forward ---.
//! relay     claim -- deliver                       forward -- deliver
//! relay     open                                               deliver
//! agent   open ---------- received                               received
//! ```
//!
//! Built in with the feature `otel` of the programs, and switched on by the environment variables of OpenTelemetry:
//! `OTEL_EXPORTER_OTLP_ENDPOINT` (or `..._TRACES_ENDPOINT`), an `http://` address that takes OTLP in protobuf, mostly
//! `http://127.0.0.1:4318`; `OTEL_TRACES_SAMPLER_ARG`, which part of all pairings, 1 if unset; `OTEL_RESOURCE_ATTRIBUTES`.

#[cfg(feature = "otel")]
pub mod otlp;
#[cfg(feature = "otel")]
use otlp as built_in;
#[cfg(not(feature = "otel"))]
mod built_in {
    //! Without the feature.

    /// Nothing goes wrong with what is not there.
    #[derive(Debug, thiserror::Error)]
    pub enum TracesError {}

    /// Nothing is sent.
    #[derive(Debug)]
    pub struct Sending;

    /// Nothing is being sent.
    #[derive(Debug)]
    pub struct Sender;

    impl Sending {
        /// Begins to send, inside a Tokio runtime.
        pub fn start(self) -> Sender {
            tracing::warn!(
                "OTEL_EXPORTER_OTLP_ENDPOINT asks for traces; this program was built without the feature otel"
            );
            Sender
        }
    }

    impl Sender {
        /// Waits until what has ended so far is sent: for a program that is about to end.
        pub async fn flush(self) {}
    }

    pub(crate) fn start(_: &'static str, _: Option<&str>) -> Result<(Option<crate::AnyLayer>, Sending), TracesError> {
        Ok((None, Sending))
    }
}

use tracing_subscriber::{Layer, Registry, layer::SubscriberExt, util::SubscriberInitExt};

pub use built_in::{Sender, Sending, TracesError};

/// A layer of any kind.
pub type AnyLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Logs from now on as `lines` does, and traces as the environment asks, for a program of this name. What comes back is to be
/// started once there is a runtime.
pub fn init(service: &'static str, lines: AnyLayer) -> Result<Option<Sending>, TracesError> {
    let (traces, sending) = from_environment(service)?.unzip();
    Registry::default().with(traces.into_iter().flatten().chain([lines]).collect::<Vec<_>>()).init();
    Ok(sending)
}

/// What the environment asks for, for a program of this name: nothing, where it names no collector.
pub fn from_environment(service: &'static str) -> Result<Option<(Option<AnyLayer>, Sending)>, TracesError> {
    let named = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
    let wanted = named.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()));
    if wanted { built_in::start(service, None).map(Some) } else { Ok(None) }
}
