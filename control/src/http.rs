//! `/api/v1`: from a request to an answer. Bodies are bounded in size and time, and the work, all of which waits for the
//! disk, runs on a bounded number of threads of its own.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use zeroize::Zeroizing;

use gatepass_protocol::ids::{Serial, TenantId};

use crate::api::Waiting;
use crate::problem::Refusal;
use crate::{Control, Inner};

/// What agents and phones send is a few KiB.
const LARGEST_BODY: usize = 64 * 1024;

/// A list that revokes tens of thousands of computers.
const LARGEST_STATEMENT: usize = 1024 * 1024;

/// A phone on a bad line sends 2 KiB in less.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a request waits for a thread before it is told to come back.
const WORKER_TIMEOUT: Duration = Duration::from_secs(5);

/// One thing that can be asked for.
#[derive(Debug, PartialEq, Eq)]
enum Route {
    EnrolAgent,
    EnrolDevice,
    EnrolledDevice(Serial),
    NewEvent,
    Statements(TenantId),
    Feed,
    Tenants,
    NewTenant,
    NewToken,
    Tenant(TenantId, Admin),
}

/// What an administrator can ask for in a tenant.
#[derive(Debug, PartialEq, Eq)]
enum Admin {
    Status,
    CaKeys,
    NewCaKey,
    Technicians,
    NewTechnician,
    Tickets,
    Devices,
    PendingDevices,
    ApproveDevice(Serial),
    RefuseDevice(Serial),
    Computers,
    NewStatement,
    Events,
}

impl Control {
    /// Answers a request under `/api/v1/`.
    pub async fn handle(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        match self.answer(request).await {
            Ok(response) => response,
            Err(refusal) => {
                tracing::debug!(why = refusal.name(), "a request was refused");
                refusal.response()
            }
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Refusal> {
        let (head, body) = request.into_parts();
        let route = route(&head.method, head.uri.path()).ok_or(Refusal::NoSuchPage)?;
        let bearer = bearer(&head.headers);
        if route == Route::Feed {
            let feed = self.feed(bearer.as_deref().map(String::as_str), head.uri.query().unwrap_or_default()).await?;
            return json(StatusCode::OK, &feed);
        }
        let page = Page::of(head.uri.query().unwrap_or_default())?;
        let mut limit = LARGEST_BODY;
        if let Route::Tenant(tenant, Admin::NewStatement) = route {
            // Asked before the body is read: strangers make us hold a few KiB each, and not a megabyte.
            let bearer = bearer.clone();
            self.blocking(move |inner| inner.let_administrator_in(tenant, bearer.as_deref().map(String::as_str)))
                .await?;
            limit = LARGEST_STATEMENT;
        }
        let body = read(body, limit).await?;
        self.blocking(move |inner| inner.work(route, bearer.as_deref().map(String::as_str), &page, &body, now())).await
    }

    /// Does what waits for the disk on one of a bounded number of threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let worker = timeout(WORKER_TIMEOUT, Arc::clone(&self.inner.workers).acquire_owned()).await;
        let Ok(Ok(worker)) = worker else { return Err(Refusal::Overloaded) };
        let inner = Arc::clone(&self.inner);
        let work = tokio::task::spawn_blocking(move || {
            let _worker = worker;
            work(&inner)
        });
        work.await.unwrap_or_else(|error| {
            tracing::error!(%error, "answering a request panicked");
            Err(Refusal::Failed)
        })
    }
}

impl Inner {
    fn work(
        &self,
        route: Route,
        bearer: Option<&str>,
        page: &Page,
        body: &[u8],
        now: u64,
    ) -> Result<Response<Full<Bytes>>, Refusal> {
        let created = StatusCode::CREATED;
        match route {
            Route::EnrolAgent => json(created, &self.enrol_agent(&parse(body)?, now)?),
            Route::EnrolDevice => json(StatusCode::ACCEPTED, &self.enrol_device(&parse(body)?, now)?),
            Route::EnrolledDevice(request) => match self.enrolled_device(request)? {
                Some(welcome) => json(StatusCode::OK, &welcome),
                None => json(StatusCode::ACCEPTED, &Waiting { request_id: request }),
            },
            Route::NewEvent => json(created, &self.new_event(&parse(body)?, now)?),
            Route::Feed => Err(Refusal::NoSuchPage), // answered before, for it waits
            Route::Statements(tenant) => json(StatusCode::OK, &self.statements(tenant)?),
            Route::Tenants => {
                self.let_operator_in(bearer)?;
                json(StatusCode::OK, &self.tenants()?)
            }
            Route::NewTenant => {
                self.let_operator_in(bearer)?;
                json(created, &self.new_tenant(&parse(body)?, now)?)
            }
            Route::NewToken => {
                self.let_operator_in(bearer)?;
                json(created, &self.new_token(&parse(body)?, now)?)
            }
            Route::Tenant(tenant, admin) => {
                self.let_administrator_in(tenant, bearer)?;
                self.administer(tenant, admin, page, body, now)
            }
        }
    }

    fn administer(
        &self,
        tenant: TenantId,
        admin: Admin,
        page: &Page,
        body: &[u8],
        now: u64,
    ) -> Result<Response<Full<Bytes>>, Refusal> {
        let (ok, created) = (StatusCode::OK, StatusCode::CREATED);
        match admin {
            Admin::Status => json(ok, &self.status(tenant, now)?),
            Admin::CaKeys => json(ok, &self.ca_keys(tenant)?),
            Admin::NewCaKey => json(created, &self.new_ca_key(tenant, parse(body)?, now)?),
            Admin::Technicians => json(ok, &self.technicians(tenant)?),
            Admin::NewTechnician => json(created, &self.new_technician(tenant, parse(body)?, now)?),
            Admin::Tickets => json(ok, &self.tickets(tenant)?),
            Admin::Devices => json(ok, &self.devices(tenant)?),
            Admin::PendingDevices => json(ok, &self.pending_devices(tenant)?),
            Admin::ApproveDevice(request) => json(created, &self.approve_device(tenant, request, parse(body)?, now)?),
            Admin::RefuseDevice(request) => json(ok, &self.refuse_device(tenant, request, now)?),
            Admin::Computers => json(ok, &self.computers(tenant)?),
            Admin::NewStatement => json(created, &self.new_statement(tenant, parse(body)?, now)?),
            Admin::Events => json(ok, &self.events(tenant, page.after, page.limit)?),
        }
    }
}

/// The clock, read once for each request.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

fn route(method: &Method, path: &str) -> Option<Route> {
    let segments: Vec<&str> = path.strip_prefix("/api/v1/")?.split('/').collect();
    let (get, post) = (method == Method::GET, method == Method::POST);
    Some(match *segments {
        ["enrol", "agent"] if post => Route::EnrolAgent,
        ["enrol", "device"] if post => Route::EnrolDevice,
        ["enrol", "device", request] if get => Route::EnrolledDevice(request.parse().ok()?),
        ["events"] if post => Route::NewEvent,
        ["feed"] if get => Route::Feed,
        ["statements", tenant] if get => Route::Statements(tenant.parse().ok()?),
        ["tenants"] if get => Route::Tenants,
        ["tenants"] if post => Route::NewTenant,
        ["tokens"] if post => Route::NewToken,
        ["tenants", tenant, ref rest @ ..] => {
            let admin = match *rest {
                [] if get => Admin::Status,
                ["ca-keys"] if get => Admin::CaKeys,
                ["ca-keys"] if post => Admin::NewCaKey,
                ["technicians"] if get => Admin::Technicians,
                ["technicians"] if post => Admin::NewTechnician,
                ["tickets"] if get => Admin::Tickets,
                ["devices"] if get => Admin::Devices,
                ["devices", "pending"] if get => Admin::PendingDevices,
                ["devices", "pending", request, "approve"] if post => Admin::ApproveDevice(request.parse().ok()?),
                ["devices", "pending", request, "refuse"] if post => Admin::RefuseDevice(request.parse().ok()?),
                ["computers"] if get => Admin::Computers,
                ["statements"] if post => Admin::NewStatement,
                ["events"] if get => Admin::Events,
                _ => return None,
            };
            Route::Tenant(tenant.parse().ok()?, admin)
        }
        _ => return None,
    })
}

/// Which part of a long list: `?after=NUMBER&limit=NUMBER`.
#[derive(Debug, PartialEq, Eq)]
struct Page {
    after: u64,
    limit: u64,
}

impl Page {
    /// As many events as fit into the largest answer that a client takes, were each as large as it may be.
    const LARGEST: u64 = 200;

    fn of(query: &str) -> Result<Page, Refusal> {
        let mut page = Page { after: 0, limit: Page::LARGEST };
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let number = value.parse::<u64>().map_err(|_| Refusal::Fix(format!("{key} is not a number")));
            match key {
                // SQLite counts with a sign.
                "after" => page.after = number?.min(i64::MAX as u64),
                "limit" => page.limit = number?.clamp(1, Page::LARGEST),
                _ => return Err(Refusal::Fix("the only parameters are after and limit".to_owned())),
            }
        }
        Ok(page)
    }
}

fn bearer(headers: &HeaderMap) -> Option<Zeroizing<String>> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    value.strip_prefix("Bearer ").map(|token| Zeroizing::new(token.to_owned()))
}

async fn read(body: Incoming, limit: usize) -> Result<Bytes, Refusal> {
    let body = timeout(BODY_TIMEOUT, Limited::new(body, limit).collect()).await.map_err(|_| Refusal::Slow)?;
    match body {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Refusal::TooLarge { limit }),
        Err(_) => Err(Refusal::Slow),
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body)
        .map_err(|error| Refusal::Fix(format!("the request is not what is expected here: {error}")))
}

fn json<T: Serialize>(status: StatusCode, answer: &T) -> Result<Response<Full<Bytes>>, Refusal> {
    let body =
        serde_json::to_vec(answer).map_err(|error| Refusal::Fix(format!("the answer can't be written: {error}")))?;
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
