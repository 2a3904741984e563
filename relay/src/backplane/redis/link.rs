//! One connection to one Redis server: commands are pipelined on it, and what it subscribed to arrives on it.
//!
//! A link lives once. When anything is wrong with it (closed, silent for longer than the time-out, subscribed to less than
//! it thinks), it is dead, whoever keeps links makes another, and everything is subscribed again and looked up again. There
//! is no reconnecting behind anybody's back, because a connection that came back is not a subscription that came back.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, PushInfo, PushKind, RedisError, ServerErrorKind, Value,
    aio::MultiplexedConnection,
};
use tokio::{sync::Notify, time::Instant};
use tracing::debug;

use super::{
    handoff::{Handoff, Push},
    scripts::{Answer, No, Script},
};
use crate::{locked, metrics::Metrics};

/// Subscriptions in one pipeline.
const BATCH: usize = 500;
/// Commands that may wait to be written.
const PIPELINE: usize = 4_096;

/// Why a command was not carried out, or is not known to have been.
#[derive(Debug)]
pub(super) enum Failure {
    /// The connection is gone: it may have been carried out.
    Lost,
    /// It was not carried out, and will be once the cluster or the failover has settled.
    NotNow,
    /// Redis refuses it for good: a setting is wrong, or a right is missing.
    Refused(RedisError),
}

/// What a script is given.
#[derive(Debug, Clone, Copy)]
pub(super) enum Arg<'a> {
    Bytes(&'a [u8]),
    Number(u64),
    /// The server's time in milliseconds.
    Now,
}

impl<'a> From<&'a str> for Arg<'a> {
    fn from(text: &'a str) -> Self {
        Arg::Bytes(text.as_bytes())
    }
}

/// A connection.
pub(super) struct Link {
    pub(super) address: String,
    connection: MultiplexedConnection,
    state: Arc<State>,
    hashes: Vec<String>,
    /// Redis' clock in milliseconds, and when it said so.
    clock: Mutex<(Instant, u64)>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct State {
    dead: AtomicBool,
    wake: Arc<Notify>,
    /// Channels that this side asked to leave, with how often.
    leaving: Mutex<HashMap<String, u32>>,
}

impl State {
    fn die(&self) {
        if !self.dead.swap(true, SeqCst) {
            self.wake.notify_one();
        }
    }

    /// Redis says that a channel was left; whether it was asked to.
    fn left(&self, channel: &str) -> bool {
        let mut leaving = locked(&self.leaving);
        let Some(count) = leaving.get_mut(channel) else { return false };
        *count -= 1;
        if *count == 0 {
            leaving.remove(channel);
        }
        true
    }

    fn take(&self, push: PushInfo, handoff: &Handoff) {
        let mut data = push.data.into_iter().filter_map(|value| match value {
            Value::BulkString(bytes) => Some(bytes),
            _ => None,
        });
        let channel = data.next().and_then(|name| String::from_utf8(name).ok()).unwrap_or_default();
        match push.kind {
            PushKind::SMessage => {
                handoff.offer(Push { channel, payload: data.next().unwrap_or_default().into() });
            }
            // Unasked: the slot has moved. The library takes it for the answer to the oldest command, so from here on
            // every answer would be another command's: this runs before any of them is handed out.
            PushKind::SUnsubscribe if !self.left(&channel) => self.die(),
            PushKind::Disconnection => self.die(),
            _ => {}
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.state.die();
    }
}

impl Link {
    /// Connects, and loads the scripts.
    pub(super) async fn connect(
        client: &Client,
        timeout: Duration,
        handoff: Arc<Handoff>,
        wake: Arc<Notify>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, RedisError> {
        let state = Arc::new(State { dead: AtomicBool::new(false), wake, leaving: Mutex::default() });
        let pushes = state.clone();
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(timeout))
            .set_response_timeout(Some(timeout))
            .set_pipeline_buffer_size(PIPELINE)
            .set_push_sender(move |push: PushInfo| -> Result<(), ()> {
                pushes.take(push, &handoff);
                Ok(())
            });
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let mut load = redis::pipe();
        for script in Script::ALL {
            load.cmd("SCRIPT").arg("LOAD").arg(script.body());
        }
        let hashes = load.query_async(&mut connection).await?;
        let address = client.get_connection_info().addr().to_string();
        let link = Self { address, connection, state, hashes, clock: Mutex::new((Instant::now(), 0)), metrics };
        link.read_clock().await?;
        Ok(link)
    }

    pub(super) fn is_alive(&self) -> bool {
        !self.state.dead.load(SeqCst)
    }

    /// Never uses it again.
    pub(super) fn give_up(&self) {
        self.state.die();
    }

    /// Redis' time in milliseconds, as nearly as it is known here: the relays' clocks are never compared.
    pub(super) fn server_time(&self) -> u64 {
        let (when, time) = *locked(&self.clock);
        time + u64::try_from(when.elapsed().as_millis()).unwrap_or(0)
    }

    /// Asks for Redis' clock.
    pub(super) async fn read_clock(&self) -> Result<(), RedisError> {
        let (seconds, micros): (u64, u64) = redis::from_redis_value(self.ask(&redis::cmd("TIME")).await?)?;
        *locked(&self.clock) = (Instant::now(), seconds * 1_000 + micros / 1_000);
        Ok(())
    }

    /// Sends a command and waits for its answer, but not for long.
    pub(super) async fn ask(&self, command: &Cmd) -> Result<Value, RedisError> {
        self.metrics.backplane_commands.inc();
        let begun = Instant::now();
        let answer = command.query_async::<Value>(&mut self.connection.clone()).await;
        self.metrics.backplane_round_trip.observe(begun.elapsed());
        // Looked at after the answer: from the moment on in which it is dead, answers may be another's.
        if !self.is_alive() {
            self.metrics.backplane_errors.inc();
            return Err((ErrorKind::Io, "the connection to Redis is given up").into());
        }
        answer.inspect_err(|error| {
            self.metrics.backplane_errors.inc();
            if error.is_io_error() || error.is_timeout() || error.is_unrecoverable_error() {
                debug!(redis = self.address, %error, "lost");
                self.state.die();
            }
        })
    }

    /// Runs a script.
    pub(super) async fn run(
        &self,
        script: Script,
        keys: &[String; 2],
        args: &[Arg<'_>],
    ) -> Result<Result<Answer, No>, Failure> {
        let now = self.server_time();
        let command = |name: &str, text: &str| {
            let mut command = redis::cmd(name);
            command.arg(text).arg(keys.len()).arg(keys);
            for arg in args {
                match arg {
                    Arg::Bytes(bytes) => command.arg(*bytes),
                    Arg::Number(number) => command.arg(*number),
                    Arg::Now => command.arg(now),
                };
            }
            command
        };
        let mut answer = self.ask(&command("EVALSHA", &self.hashes[script as usize])).await;
        if answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)) {
            // Somebody flushed them, or a replica that never had them was promoted.
            answer = self.ask(&command("EVAL", script.body())).await;
        }
        let nonsense = |_| Failure::Refused((ErrorKind::UnexpectedReturnType, "not an answer of this version").into());
        answer.map_err(|error| self.why(error)).and_then(|value| Answer::read(value).map_err(nonsense))
    }

    fn why(&self, error: RedisError) -> Failure {
        use ServerErrorKind::{Ask, BusyLoading, ClusterDown, MasterDown, Moved, ReadOnly, TryAgain};
        match error.kind() {
            _ if !self.is_alive() => Failure::Lost,
            ErrorKind::Server(Moved | ReadOnly) => {
                // What was subscribed to here is deaf now.
                self.give_up();
                Failure::NotNow
            }
            ErrorKind::Server(Ask | BusyLoading | ClusterDown | MasterDown | TryAgain) => {
                self.state.wake.notify_one();
                Failure::NotNow
            }
            _ => Failure::Refused(error),
        }
    }

    /// Publishes to a Redis channel. Returns how many are subscribed to it.
    pub(super) async fn publish(&self, channel: &str, bytes: &[u8]) -> Result<u64, RedisError> {
        Ok(redis::from_redis_value(self.ask(redis::cmd("SPUBLISH").arg(channel).arg(bytes)).await?)?)
    }

    /// Subscribes; afterwards everything published to these is pushed, as long as the link lives.
    pub(super) async fn subscribe(&self, channels: &[String]) -> Result<(), RedisError> {
        for some in channels.chunks(BATCH) {
            self.each("SSUBSCRIBE", some).await?;
        }
        Ok(())
    }

    /// The opposite.
    pub(super) async fn unsubscribe(&self, channels: &[String]) -> Result<(), RedisError> {
        for some in channels.chunks(BATCH) {
            {
                let mut leaving = locked(&self.state.leaving);
                some.iter().for_each(|channel| *leaving.entry(channel.clone()).or_default() += 1);
            }
            self.each("SUNSUBSCRIBE", some).await?;
        }
        Ok(())
    }

    /// One command a channel: Redis confirms each channel apart, and the library expects one answer to a command.
    async fn each(&self, name: &str, channels: &[String]) -> Result<(), RedisError> {
        let mut pipe = redis::pipe();
        for channel in channels {
            pipe.cmd(name).arg(channel);
        }
        self.metrics.backplane_commands.add(channels.len() as u64);
        let answered = pipe.query_async::<Vec<Value>>(&mut self.connection.clone()).await;
        let complete = answered.and_then(|answers| {
            let confirmed = |answer: &Value| matches!(answer, Value::Push { .. });
            match answers.iter().all(confirmed) && answers.len() == channels.len() && self.is_alive() {
                true => Ok(()),
                false => Err((ErrorKind::UnexpectedReturnType, "not subscribed").into()),
            }
        });
        // What is half subscribed is worth nothing.
        complete.inspect_err(|error| {
            debug!(redis = self.address, %error, "can't subscribe");
            self.metrics.backplane_errors.inc();
            self.state.die();
        })
    }
}
