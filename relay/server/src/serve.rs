//! The assembly: a relay and the control plane behind one listener, or one of them.
//!
//! They don't know each other. The relay asks the control plane's trust stores through [`Tenants`], and what the control
//! plane has newly in force is announced to the relay's channels.

use std::{fs, io, os::unix::fs::DirBuilderExt, path::Path, sync::Arc};

use anyhow::Context;
use gatepass_control::{Control, News, OPERATOR_TOKEN_FILE};
use gatepass_protocol::{
    channel::Bulletin, ids::TenantId, signed::Unverified, statement::Statement, trust::TrustStore,
};
use gatepass_relay::{
    Api, Relay, Tenants, backplane,
    config::{Backplane, Config},
    tls::{self, Tls},
};
use tokio::{
    net::{TcpListener, TcpSocket},
    signal::unix::{SignalKind, signal},
    sync::{
        broadcast::{self, error::RecvError},
        watch,
    },
};
use tracing::{error, info, warn};

use crate::{
    region::{self, Region},
    settings::{Role, Settings},
};

struct Directory(Control);

impl Tenants for Directory {
    fn trust(&self, tenant: &TenantId) -> Option<Arc<TrustStore>> {
        self.0.trust(tenant)
    }
}

/// Where there are no clients, there are no tenants.
struct Nobody;

impl Tenants for Nobody {
    fn trust(&self, _: &TenantId) -> Option<Arc<TrustStore>> {
        None
    }
}

/// Serves until SIGTERM or SIGINT.
pub(crate) async fn run(settings: Settings, role: Role) -> anyhow::Result<()> {
    // Asked for first: a signal during the start is not lost.
    let stop = stop_signal()?;
    let state_dir = &settings.edge.state_dir;
    make_private(state_dir)
        .with_context(|| format!("can't make {}; make it or set `edge.state_dir`", state_dir.display()))?;
    let tls = tls::prepare(&settings.relay())?;
    let hanging_up = tokio::spawn(reload_at_sighup(tls.clone())?);
    match role {
        Role::All | Role::Control => central(&settings, role, tls, stop).await?,
        Role::Relay => regional(&settings, tls, stop).await?,
    }
    hanging_up.abort();
    info!("stopped");
    Ok(())
}

/// Sockets that may wait to be accepted, as far as the kernel lets it (`net.core.somaxconn`). What does not fit there waits for
/// TCP to try again, seconds later, and a crowd that was cut off is all back within one.
const BACKLOG: u32 = 16_384;

/// The control plane, and for [`Role::All`] the relay.
async fn central(
    settings: &Settings,
    role: Role,
    tls: Option<Tls>,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let database = settings.database();
    let token = settings.edge.state_dir.join(OPERATOR_TOKEN_FILE);
    let had_token = token.exists();
    let control = {
        let (database, tokens) = (database.clone(), settings.edge.state_dir.clone());
        tokio::task::spawn_blocking(move || Control::connect(&database, &tokens)).await?
    };
    let control = control.context("can't open the database of the control plane")?;
    let listener = listen(settings)?;
    if !had_token && token.exists() {
        info!(token = %token.display(), "this is a new database; whoever has this token creates tenants");
    }
    let following = tokio::spawn({
        let control = control.clone();
        async move { control.follow().await }
    });
    let forwarding = settings.collector()?.map(|collector| {
        let control = control.clone();
        tokio::spawn(async move { control.forward(&collector).await })
    });
    let stop = async {
        stop.await;
        // What is being sent is sent again after the next start.
        if let Some(forwarding) = &forwarding {
            forwarding.abort();
        }
        // Regional relays that wait for news would be waited for.
        control.close();
    };
    let api: Api = Arc::new({
        let control = control.clone();
        move |request, _from| {
            let control = control.clone();
            Box::pin(async move { control.handle(request).await })
        }
    });
    if role == Role::Control {
        // It relays nothing, so it shares nothing.
        let relay = relay(Config { backplane: Backplane::default(), ..settings.relay() }, Arc::new(Nobody))?;
        say_listening(&listener, tls.as_ref())?;
        relay.serve_api(listener, tls, api, stop).await;
        following.abort();
        return Ok(());
    }
    let relay = relay(settings.relay(), Arc::new(Directory(control.clone())))?;
    let news = control.news();
    announce_all(&relay, &control).await?;
    let announcing = tokio::spawn(announce_news(relay.clone(), control.clone(), news));
    say_listening(&listener, tls.as_ref())?;
    relay.serve(listener, tls, Some(api), stop).await;
    announcing.abort();
    following.abort();
    Ok(())
}

/// A relay whose tenants come from a control plane elsewhere.
async fn regional(settings: &Settings, tls: Option<Tls>, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let http = region::control_plane(settings)?;
    let region = Arc::new(Region::open(settings)?);
    let relay = relay(settings.relay(), region.clone())?;
    let (known, mut knows) = watch::channel(!region.is_empty());
    region.announce_all(&relay).await;
    let following = tokio::spawn({
        let (region, relay) = (region.clone(), relay.clone());
        async move { region.follow(&http, &relay, &known).await }
    });
    tokio::pin!(stop);
    if !*knows.borrow() {
        info!("waiting for the control plane: nobody is known here yet");
    }
    // A port that is open would say that clients should come, and each would be refused.
    tokio::select! {
        _ = knows.wait_for(|known| *known) => {}
        () = &mut stop => return Ok(()),
    }
    let listener = listen(settings)?;
    say_listening(&listener, tls.as_ref())?;
    relay.serve(listener, tls, None, stop).await;
    following.abort();
    Ok(())
}

fn relay(config: Config, tenants: Arc<dyn Tenants>) -> anyhow::Result<Relay> {
    let join = backplane::prepare(&config)?;
    Ok(Relay::new(config, tenants, join))
}

fn listen(settings: &Settings) -> anyhow::Result<TcpListener> {
    let listen = settings.edge.listen;
    let begin = || {
        let socket = if listen.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(listen)?;
        socket.listen(BACKLOG)
    };
    begin().with_context(|| format!("can't listen on {listen}; free the port or set `edge.listen`"))
}

fn say_listening(listener: &TcpListener, tls: Option<&Tls>) -> io::Result<()> {
    if let Some(certificate) = tls.and_then(Tls::self_made) {
        warn!(certificate = %certificate.display(), "the TLS certificate is self-made: clients must be given it");
    }
    info!(address = %listener.local_addr()?, tls = tls.is_some(), "listening");
    Ok(())
}

fn stop_signal() -> io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("draining");
    })
}

/// SIGHUP has the TLS files read again, and must not end a relay that has none.
fn reload_at_sighup(tls: Option<Tls>) -> io::Result<impl Future<Output = ()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        while hangup.recv().await.is_some() {
            match &tls {
                Some(tls) => tls.reload(),
                None => info!("SIGHUP: there are no TLS files to read again"),
            }
        }
    })
}

/// A folder that only its owner may look into, where there is none.
fn make_private(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

async fn announce_all(relay: &Relay, control: &Control) -> anyhow::Result<()> {
    let control = control.clone();
    let in_force = tokio::task::spawn_blocking(move || control.in_force()).await?;
    for news in in_force.context("can't read the statements in force")? {
        announce(relay, news).await;
    }
    Ok(())
}

async fn announce_news(relay: Relay, control: Control, mut news: broadcast::Receiver<News>) {
    loop {
        match news.recv().await {
            Ok(news) => announce(&relay, news).await,
            // The channels keep only the newest of each kind anyway.
            Err(RecvError::Lagged(_)) => {
                if let Err(problem) = announce_all(&relay, &control).await {
                    error!(%problem, "clients may not hear of new statements until the next one");
                }
            }
            Err(RecvError::Closed) => return,
        }
    }
}

async fn announce(relay: &Relay, news: News) {
    // The control plane verified it before it was kept.
    let Ok(statement) = Unverified::<Statement>::decode(news.statement.clone()) else {
        return error!(kind = ?news.kind, "a statement in force does not decode");
    };
    let bulletin = Bulletin::new(statement.claimed().kind, statement.claimed().epoch, news.statement);
    if let Err(refusal) = relay.announce(news.tenant, bulletin).await {
        error!(%refusal, kind = ?news.kind, "a statement could not be announced");
    }
}
