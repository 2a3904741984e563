//! What the relay counts, in one struct: a field a metric, its doc comment the metric's help text.
//!
//! Reading them is `GET /metrics`, in Prometheus' text format. A label's values are the variants of an enum, so a label
//! can't grow without bound and never carries a name of a client.

use std::{
    fmt::Write,
    marker::PhantomData,
    sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use gatepass_protocol::Code;

/// A number that only rises.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds some.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number that rises and falls.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Adds one until the guard is dropped.
    pub fn hold(self: &std::sync::Arc<Self>) -> Held {
        self.0.fetch_add(1, Relaxed);
        Held(self.clone())
    }

    /// Sets the value.
    pub fn set(&self, value: i64) {
        self.0.store(value, Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// One that a [`Gauge`] counts; no more once dropped.
#[derive(Debug)]
pub struct Held(std::sync::Arc<Gauge>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Relaxed);
    }
}

/// The values of a label.
pub trait Label: Copy + PartialEq + 'static {
    /// The label's name.
    const NAME: &'static str;
    /// Its values.
    const ALL: &'static [Self];
    /// A value as it is written.
    fn text(self) -> &'static str;
}

impl Label for Code {
    const NAME: &'static str = "code";
    const ALL: &'static [Code] = Code::ALL;
    fn text(self) -> &'static str {
        self.name()
    }
}

/// A counter for each value of a label.
#[derive(Debug)]
pub struct CounterBy<L>(Box<[Counter]>, PhantomData<L>);

impl<L: Label> Default for CounterBy<L> {
    fn default() -> Self {
        Self(L::ALL.iter().map(|_| Counter::default()).collect(), PhantomData)
    }
}

impl<L: Label> CounterBy<L> {
    /// Adds one to a value's count.
    pub fn inc(&self, value: L) {
        self.of(value).inc();
    }

    /// A value's counter.
    pub fn of(&self, value: L) -> &Counter {
        // Every value is in ALL: it is made by the macro that makes the enum, or by the protocol's.
        &self.0[L::ALL.iter().position(|known| *known == value).unwrap_or_default()]
    }
}

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident as $label:literal { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl Label for $name {
            const NAME: &'static str = $label;
            const ALL: &'static [Self] = &[$(Self::$variant),*];
            fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    )*};
}

labels! {
    /// Why an authenticated connection ended.
    End as "reason" {
        /// The client closed it, or its socket broke.
        Left = "left",
        /// Nothing was heard from it for too long.
        Idle = "idle",
        /// It did not read fast enough for what was sent to it: its queue was full.
        Overflow = "overflow",
        /// One write to it took too long.
        Stalled = "stalled",
        /// It sent what is no frame.
        Protocol = "protocol",
        /// Its certificate ended or was revoked.
        Revoked = "revoked",
        /// The relay is shutting down.
        Draining = "draining",
    }

    /// Why a queued packet was not written.
    Unsent as "reason" {
        /// Newer messages about who is online took its place.
        Presence = "presence",
        /// Its connection ended.
        Ended = "ended",
    }

    /// A bound at which somebody is refused.
    Limit as "limit" {
        /// `limits.connections`.
        Connections = "connections",
        /// `limits.handshakes`.
        Handshakes = "handshakes",
        /// `limits.handshake_seconds`.
        HandshakeTime = "handshake_time",
        /// `limits.accepts_per_second` and `limits.accept_burst`.
        AcceptRate = "accept_rate",
        /// `limits.ip_per_second` and `limits.ip_burst`.
        IpRate = "ip_rate",
        /// A PROXY header or an X-Forwarded-For of one of `edge.proxies` that can't be read.
        ProxyHeader = "proxy_header",
        /// `limits.tenant_connections`.
        TenantConnections = "tenant_connections",
        /// `limits.tenant_pairings`.
        TenantPairings = "tenant_pairings",
        /// `limits.tenant_bytes_per_minute`.
        TenantQuota = "tenant_quota",
        /// `limits.tenant_connects_per_second` and `limits.tenant_connect_burst`.
        TenantConnects = "tenant_connect_rate",
        /// `limits.client_connects_per_second` and `limits.client_connect_burst`.
        ClientConnects = "client_connect_rate",
        /// `limits.tenant_frames_per_second` and `limits.tenant_frame_burst`.
        TenantFrames = "tenant_frames",
        /// `limits.tenant_bytes_per_second` and `limits.tenant_byte_burst`.
        TenantBytes = "tenant_bytes",
        /// `limits.tenant_publishes_per_second` and `limits.tenant_publish_burst`.
        TenantPublishes = "tenant_publishes",
        /// `limits.client_frames_per_second` and `limits.client_frame_burst`.
        ClientFrames = "client_frames",
        /// `limits.pairings`.
        Pairings = "pairings",
        /// `limits.publish_per_second` and `limits.publish_burst`.
        Publishes = "publishes",
        /// A frame, or a POST, larger than the protocol allows.
        FrameSize = "frame_size",
        /// 16 messages of one direction of a pairing wait for their acknowledgement.
        Unacked = "unacked",
        /// The relay is shutting down.
        Draining = "draining",
    }

    /// How a pairing ended at this relay.
    Outcome as "outcome" {
        /// One end said so.
        Closed = "closed",
        /// Its time was over.
        Expired = "expired",
        /// Both ends went away; they may be back at another relay.
        Left = "left",
    }

    /// What became of a POST to a stream of events.
    Posted as "outcome" {
        /// Its frames are the connection's.
        Taken = "taken",
        /// It had been taken before.
        Repeated = "repeated",
        /// One is missing before it, or it was taken with other frames.
        OutOfOrder = "out_of_order",
        /// There is no such stream any more.
        Gone = "gone",
        /// Not now: the connection is still busy with those before, or another node did not answer.
        Busy = "busy",
        /// Without a token of this region.
        Forged = "forged",
        /// More than a POST may have.
        TooLarge = "too_large",
        /// No POST of the protocol.
        Malformed = "malformed",
        /// It did not arrive whole in time.
        Slow = "slow",
    }

    /// What became of reconnect tickets.
    Ticket as "outcome" {
        /// Given to a client.
        Issued = "issued",
        /// A client came back by one.
        Taken = "taken",
        /// Not taken: the client authenticates instead.
        Refused = "refused",
    }

    /// What became of new TLS files.
    Reload as "outcome" {
        /// They are in force.
        Loaded = "loaded",
        /// They can't be used, so the old ones go on.
        Refused = "refused",
    }

    /// How a channel went on for a subscriber that had heard it before.
    ChannelResume as "outcome" {
        /// With everything that it missed.
        Complete = "complete",
        /// Without: it was told to fetch anew.
        Refetch = "refetch",
    }

    /// How a RESUME ended.
    Resume as "outcome" {
        /// Back, and nothing is lost.
        Resumed = "resumed",
        /// Refused.
        Denied = "denied",
    }
}

/// How often something took how long.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

/// The buckets' upper bounds in microseconds: from what memory does to what a person waits for.
const BOUNDS_US: [u64; 14] =
    [10, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 100_000, 500_000, 2_000_000, 10_000_000];

impl Histogram {
    /// Counts one.
    pub fn observe(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| *bound < us);
        self.buckets[bucket].fetch_add(1, Relaxed);
        if us > 0 {
            self.sum_us.fetch_add(us, Relaxed);
        }
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Relaxed)).sum()
    }
}

impl Limit {
    /// What a client that has authenticated is told when it is refused there, and one that has not may read in the body of
    /// a 503 by its label.
    pub fn code(self) -> Code {
        match self {
            Self::TenantConnections | Self::TenantPairings | Self::TenantQuota | Self::Pairings | Self::Unacked => {
                Code::Quota
            }
            Self::FrameSize => Code::Size,
            Self::Draining => Code::Draining,
            Self::Connections
            | Self::Handshakes
            | Self::HandshakeTime
            | Self::AcceptRate
            | Self::IpRate
            | Self::ProxyHeader
            | Self::TenantConnects
            | Self::ClientConnects
            | Self::TenantFrames
            | Self::TenantBytes
            | Self::TenantPublishes
            | Self::ClientFrames
            | Self::Publishes => Code::Rate,
        }
    }
}

trait Metric {
    const TYPE: &'static str;
    fn write(&self, name: &str, out: &mut String);
}

impl Metric for Counter {
    const TYPE: &'static str = "counter";
    fn write(&self, name: &str, out: &mut String) {
        let _ = writeln!(out, "{name} {}", self.get());
    }
}

impl Metric for std::sync::Arc<Gauge> {
    const TYPE: &'static str = "gauge";
    fn write(&self, name: &str, out: &mut String) {
        let _ = writeln!(out, "{name} {}", self.get());
    }
}

impl<L: Label> Metric for CounterBy<L> {
    const TYPE: &'static str = "counter";
    fn write(&self, name: &str, out: &mut String) {
        for (value, counter) in L::ALL.iter().zip(&self.0) {
            let _ = writeln!(out, "{name}{{{}=\"{}\"}} {}", L::NAME, value.text(), counter.get());
        }
    }
}

impl Metric for Histogram {
    const TYPE: &'static str = "histogram";
    fn write(&self, name: &str, out: &mut String) {
        let mut so_far = 0;
        for (nth, bucket) in self.buckets.iter().enumerate() {
            so_far += bucket.load(Relaxed);
            let bound = BOUNDS_US.get(nth).map_or("+Inf".to_owned(), |us| (*us as f64 / 1e6).to_string());
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {so_far}");
        }
        let seconds = self.sum_us.load(Relaxed) as f64 / 1e6;
        let _ = writeln!(out, "{name}_sum {seconds}\n{name}_count {so_far}");
    }
}

macro_rules! metrics {
    ($(#[doc = $help:literal] $field:ident: $kind:ty = $name:literal,)*) => {
        /// Everything that a relay counts.
        #[derive(Debug, Default)]
        pub struct Metrics { $(#[doc = $help] pub $field: $kind,)* }

        impl Metrics {
            /// The names of all metrics, as Prometheus sees them.
            pub const NAMES: &[&str] = &[$($name),*];

            /// In Prometheus' text format.
            pub fn render(&self) -> String {
                fn one<M: Metric>(metric: &M, name: &str, help: &str, out: &mut String) {
                    let _ = writeln!(out, "# HELP {name} {}\n# TYPE {name} {}", help.trim(), M::TYPE);
                    metric.write(name, out);
                }
                let mut out = String::new();
                $(one(&self.$field, $name, $help, &mut out);)*
                out
            }
        }
    };
}

type SharedGauge = std::sync::Arc<Gauge>;

metrics! {
    /// Authenticated connections now.
    connections: SharedGauge = "gatepass_relay_connections",
    /// Streams of events now: connections without a WebSocket.
    streams: SharedGauge = "gatepass_relay_streams",
    /// POSTs to streams of events, by outcome.
    posts: CounterBy<Posted> = "gatepass_relay_posts_total",
    /// POSTs that were handed on to another relay, where their stream is.
    posts_carried: Counter = "gatepass_relay_posts_carried_total",
    /// Sockets now that have begun to speak and have not authenticated yet.
    handshakes: SharedGauge = "gatepass_relay_handshakes",
    /// Sockets now that have begun to speak and wait for their turn to authenticate.
    waiting: SharedGauge = "gatepass_relay_waiting",
    /// Seconds that sockets waited for their turn to authenticate; those that had it at once count as 0.
    turn_waits: Histogram = "gatepass_relay_turn_seconds",
    /// Connections that authenticated.
    welcomed: Counter = "gatepass_relay_connections_total",
    /// Reconnect tickets, by outcome.
    tickets: CounterBy<Ticket> = "gatepass_relay_tickets_total",
    /// Connections that ended, by reason.
    ended: CounterBy<End> = "gatepass_relay_connections_ended_total",
    /// Refusals at a limit, by limit.
    refused: CounterBy<Limit> = "gatepass_relay_refused_total",
    /// ERR frames sent, by code.
    errors: CounterBy<Code> = "gatepass_relay_errors_total",
    /// Frames received from authenticated clients.
    frames_in: Counter = "gatepass_relay_frames_received_total",
    /// Bytes of frames received from authenticated clients.
    bytes_in: Counter = "gatepass_relay_bytes_received_total",
    /// Frames written to authenticated clients.
    frames_out: Counter = "gatepass_relay_frames_sent_total",
    /// Bytes of frames written to authenticated clients.
    bytes_out: Counter = "gatepass_relay_bytes_sent_total",
    /// Times that queued frames were flushed to a socket: frames sent over flushes is how well they coalesce.
    flushes: Counter = "gatepass_relay_flushes_total",
    /// Seconds that packets waited in a connection's queue before they were written; those written at once count as 0.
    queued: Histogram = "gatepass_relay_queue_seconds",
    /// Packets that were queued and never written, by reason.
    dropped: CounterBy<Unsent> = "gatepass_relay_packets_dropped_total",
    /// Pairings now with an end at this relay.
    pairings: SharedGauge = "gatepass_relay_pairings",
    /// Pairings opened by agents.
    opened: Counter = "gatepass_relay_pairings_opened_total",
    /// Pairings claimed by phones.
    claimed: Counter = "gatepass_relay_pairings_claimed_total",
    /// Pairings that ended here, by outcome.
    pairings_ended: CounterBy<Outcome> = "gatepass_relay_pairings_ended_total",
    /// RESUMEs, by outcome.
    resumes: CounterBy<Resume> = "gatepass_relay_resumes_total",
    /// Subscriptions that went on after a cut or a loss, by outcome.
    channel_resumes: CounterBy<ChannelResume> = "gatepass_relay_channel_resumes_total",
    /// Messages published to channels through this relay.
    published: Counter = "gatepass_relay_published_total",
    /// Messages of channels handed to connections of this relay.
    delivered: Counter = "gatepass_relay_delivered_total",
    /// When the TLS certificate ends, in Unix seconds; 0 without TLS.
    tls_not_after: SharedGauge = "gatepass_relay_tls_not_after_seconds",
    /// Times that new TLS files were read, by outcome.
    tls_reloads: CounterBy<Reload> = "gatepass_relay_tls_reloads_total",
    /// When the control plane last answered a regional relay, in Unix seconds; 0 where this is no regional relay.
    control_plane_heard: SharedGauge = "gatepass_relay_control_plane_heard_seconds",
    /// Channels now with a subscriber at this relay.
    channels: SharedGauge = "gatepass_relay_channels",
    /// Commands sent to Redis.
    backplane_commands: Counter = "gatepass_relay_backplane_commands_total",
    /// Commands to Redis that failed.
    backplane_errors: Counter = "gatepass_relay_backplane_errors_total",
    /// Seconds until Redis answered a command.
    backplane_round_trip: Histogram = "gatepass_relay_backplane_round_trip_seconds",
    /// Connections to Redis made after the first one.
    backplane_reconnects: Counter = "gatepass_relay_backplane_reconnects_total",
    /// Milliseconds since what was published to Redis last arrived here again.
    backplane_probe_age: SharedGauge = "gatepass_relay_backplane_probe_age_milliseconds",
    /// Messages from Redis dropped because the relay did not keep up; what they said was looked up afterwards.
    backplane_overflows: Counter = "gatepass_relay_backplane_overflows_total",
    /// Times that an end of a pairing was looked up in Redis because something may have been missed.
    backplane_syncs: Counter = "gatepass_relay_backplane_lookups_total",
    /// Messages of pairings that this relay took in while Redis did not.
    backplane_deferred: Counter = "gatepass_relay_backplane_deferred_total",
    /// Messages of pairings that were handed over without Redis: both ends were here, or the other end's relay was told directly.
    backplane_handed: Counter = "gatepass_relay_backplane_handed_total",
    /// Connections now to other relays of the region.
    backplane_links: SharedGauge = "gatepass_relay_backplane_links",
    /// Times that what was missed on a channel was no longer kept.
    backplane_refetches: Counter = "gatepass_relay_backplane_refetches_total",
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scraper_reads_names_help_types_labels_and_values() {
        let metrics = Metrics::default();
        metrics.refused.inc(Limit::IpRate);
        metrics.errors.of(Code::Claimed).add(2);
        let held = metrics.connections.hold();
        metrics.queued.observe(Duration::ZERO);
        metrics.queued.observe(Duration::from_millis(2));
        let text = metrics.render();
        for line in [
            "# HELP gatepass_relay_refused_total Refusals at a limit, by limit.",
            "# TYPE gatepass_relay_refused_total counter",
            "gatepass_relay_refused_total{limit=\"ip_rate\"} 1",
            "gatepass_relay_refused_total{limit=\"connections\"} 0",
            "gatepass_relay_errors_total{code=\"claimed\"} 2",
            "# TYPE gatepass_relay_queue_seconds histogram",
            "gatepass_relay_queue_seconds_bucket{le=\"0.00001\"} 1",
            "gatepass_relay_queue_seconds_bucket{le=\"0.0025\"} 2",
            "gatepass_relay_queue_seconds_bucket{le=\"+Inf\"} 2",
            "gatepass_relay_queue_seconds_sum 0.002",
            "gatepass_relay_queue_seconds_count 2",
            "# TYPE gatepass_relay_connections gauge",
            "gatepass_relay_connections 1",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is missing in\n{text}");
        }
        drop(held);
        assert_eq!(metrics.connections.get(), 0);
    }
}
