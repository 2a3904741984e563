//! One pairing between a phone and a computer at two relays of one region, as a collector of traces sees it.
#![allow(clippy::unwrap_used, reason = "a test that can't go on fails")]

use std::{
    collections::{BTreeSet, HashSet},
    convert::Infallible,
    sync::{Arc, Mutex},
};

use gatepass_client::{Connection, Incoming, Proxies, Settings, Tls, edge};
use gatepass_protocol::{ids::Rid, keys::SigningKey, testing::Tenant};
use gatepass_relay::{
    system_clock,
    testing::{
        Tenancy, TestRelay,
        redis::{Server, eventually},
    },
};
use gatepass_telemetry::otlp;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::{Bytes, Incoming as Body},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{collector::trace::v1::ExportTraceServiceRequest, trace::v1::Span};
use prost::Message;
use tokio::net::TcpListener;
use tracing_subscriber::{Registry, layer::SubscriberExt};

const RID: Rid = Rid([7; 16]);

/// A collector of OTLP over HTTP.
async fn collector() -> (String, Arc<Mutex<Vec<Span>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let spans = Arc::<Mutex<Vec<Span>>>::default();
    let kept = spans.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let kept = kept.clone();
            let take = service_fn(move |request: Request<Body>| {
                let kept = kept.clone();
                async move {
                    assert_eq!(request.uri().path(), "/v1/traces");
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    let sent = ExportTraceServiceRequest::decode(body).unwrap();
                    let scopes = sent.resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
                    kept.lock().unwrap().extend(scopes.flat_map(|scope| scope.spans));
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
                }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), take));
        }
    });
    (url, spans)
}

fn connect(relay: &TestRelay, chain: &[bytes::Bytes], key: &SigningKey) -> Connection {
    Connection::start(Settings {
        relays: vec![relay.url().parse().unwrap()],
        tls: Tls::system().unwrap(),
        proxies: Proxies::none(),
        chain: chain.to_vec(),
        key: Arc::new(SigningKey::from_seed(&key.seed())),
    })
}

#[test]
fn an_operator_follows_one_login_from_phone_to_relay_to_relay_to_computer() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (url, spans) = runtime.block_on(collector());
    let (layer, sending) = otlp::start("test", Some(&format!("{url}/v1/traces"))).unwrap();
    let _log = tracing::subscriber::set_default(Registry::default().with(layer.into_iter().collect::<Vec<_>>()));
    runtime.block_on(async {
        let sender = sending.start();
        let redis = Server::start(&[]).await;
        let mut tenant = Tenant::at(1, edge::now());
        let start = async |tenancy: &Arc<Tenancy>| {
            let on_redis = |config: &mut gatepass_relay::Config| config.backplane = redis.backplane();
            let relay = TestRelay::with_clock(tenancy.clone(), on_redis, system_clock()).await;
            eventually("Redis is reached", async || relay.relay.issues_tickets().then_some(())).await;
            relay
        };
        let tenancy = Tenancy::of([tenant.trust()]);
        let (a, b) = (start(&tenancy).await, start(&tenancy).await);
        let (computer, phone) = (tenant.computer(), tenant.phone(1).identity);
        let mut agent = connect(&a, &computer.chain, &computer.sign);
        let mut device = connect(&b, &phone.chain, &phone.sign);
        agent.sender().online().await.unwrap();
        device.sender().online().await.unwrap();
        agent.sender().open(RID, 60).await.unwrap();
        device.sender().claim(RID, [1; 16], [2; 16]).await.unwrap();
        assert!(matches!(agent.next().await, Some(Incoming::Claimed { .. })));
        device.sender().forward(RID, &b"what does it ask?"[..]).await.unwrap();
        assert!(matches!(agent.next().await, Some(Incoming::Forwarded { .. })));
        agent.sender().forward(RID, &b"this"[..]).await.unwrap();
        assert!(matches!(device.next().await, Some(Incoming::Forwarded { .. })));
        // A second pairing is another trace.
        let other = Rid([8; 16]);
        agent.sender().open(other, 60).await.unwrap();
        assert!(device.sender().claim(Rid([9; 16]), [1; 16], [2; 16]).await.is_err());
        sender.flush().await;
    });
    let spans = spans.lock().unwrap();
    let trace = |rid: Rid| rid.trace().to_string();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let of = |rid: Rid| spans.iter().filter(|span| hex(&span.trace_id) == trace(rid)).collect::<Vec<_>>();
    let names = |rid| of(rid).iter().map(|span| span.name.as_str()).collect::<BTreeSet<_>>();
    let all = ["claim", "claimed", "deliver", "forward", "open", "received", "send"];
    assert_eq!(names(RID), BTreeSet::from(all), "{spans:#?}");
    assert_eq!(names(Rid([8; 16])), BTreeSet::from(["open"]));
    // Both programs and both relays: open and claim at client and relay, two messages each way through two relays.
    let count = |name| of(RID).iter().filter(|span| span.name == name).count();
    assert_eq!(["open", "claim", "forward", "received"].map(count), [2, 2, 2, 2]);
    assert!(of(RID).iter().all(|span| span.end_time_unix_nano >= span.start_time_unix_nano));
    assert_eq!(of(RID).iter().map(|span| &span.span_id).collect::<HashSet<_>>().len(), of(RID).len());
    let refused =
        of(Rid([9; 16])).into_iter().find(|span| span.name == "claim" && !span.attributes.is_empty()).unwrap();
    assert!(refused.attributes.iter().any(|attribute| attribute.key == "gatepass.refused"), "{refused:?}");
}
