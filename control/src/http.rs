//! `/api/v1`: from a request to an answer. Bodies are bounded in size and time, and the work, all of which waits for the
//! disk, runs on a bounded number of threads of its own. Which addresses there are says [`crate::routes`].

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, ETAG, HOST, HeaderMap, HeaderName, HeaderValue, IF_MATCH,
    IF_NONE_MATCH, USER_AGENT,
};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use tokio::time::{Instant, sleep, timeout};
use zeroize::Zeroizing;

use gatepass_protocol::ids::{Serial, TenantId};

use crate::access::{self, Access, Caller};
use crate::api::{By, Page, hex};
use crate::audit;
use crate::feed::WAIT;
use crate::problem::Refusal;
use crate::routes::{self, FEED};
use crate::store::{self, Db, Filter, Repeatable, StoreError};
use crate::{Control, Inner, LOOK, token};

/// A phone on a bad line sends 2 KiB in less.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a request waits for a thread before it is told to come back.
const WORKER_TIMEOUT: Duration = Duration::from_secs(5);

/// The header of the IETF's draft-ietf-httpapi-idempotency-key-header.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Room for a UUID or two.
const LONGEST_KEY: usize = 100;

/// What an endpoint has to say.
#[derive(Debug)]
pub(crate) struct Answer {
    status: StatusCode,
    body: Vec<u8>,
}

#[cfg(test)]
impl Answer {
    pub(crate) fn into_body(self) -> Vec<u8> {
        self.body
    }

    pub(crate) fn tag(&self) -> String {
        tag(&self.body)
    }
}

/// A JSON answer.
pub(crate) fn answer<T: Serialize>(status: StatusCode, body: &T) -> Result<Answer, Refusal> {
    Ok(Answer { status, body: to_json(body)? })
}

/// Done, and nothing to say.
pub(crate) fn done() -> Answer {
    Answer { status: StatusCode::NO_CONTENT, body: Vec::new() }
}

fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>, Refusal> {
    serde_json::to_vec(value).map_err(|error| Refusal::Fix(format!("the answer can't be written: {error}")))
}

/// What somebody asks for, once it is clear that they may.
pub(crate) struct Call<'a> {
    /// Who asks; none where everybody may.
    pub(crate) who: Option<Caller>,
    /// The tenant of the path; where it has none, none that exists.
    pub(crate) tenant: TenantId,
    /// What stands at the path's other places.
    pub(crate) places: Vec<&'a str>,
    pub(crate) slice: Slice,
    pub(crate) body: &'a [u8],
    pub(crate) if_match: Option<&'a str>,
    /// Whether this may be a repetition, and of what.
    pub(crate) repeatable: Option<Repeatable>,
    /// Which program asks, by its own word.
    pub(crate) agent: Option<&'a str>,
    pub(crate) host: Option<&'a str>,
    pub(crate) now: u64,
}

impl Call<'_> {
    /// The identifier at one of the path's places.
    pub(crate) fn id<T: FromStr>(&self, place: usize) -> Result<T, Refusal> {
        self.places.get(place).and_then(|text| text.parse().ok()).ok_or(Refusal::NoSuchPage)
    }

    /// What the body says.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        serde_json::from_slice(self.body)
            .map_err(|error| Refusal::Fix(format!("the request is not what is expected here: {error}")))
    }

    /// Goes on only if what is to be changed still is what the caller saw, where they say what they saw (RFC 9110, If-Match).
    pub(crate) fn expects<T: Serialize>(&self, current: &T) -> Result<(), Refusal> {
        let Some(wanted) = self.if_match else { return Ok(()) };
        let tag = tag(&to_json(current)?);
        let fits = wanted.split(',').map(str::trim).any(|one| one == "*" || one == tag);
        if fits { Ok(()) } else { Err(Refusal::Changed) }
    }

    /// Carries out a write, once: repeated with the same idempotency key, it is only answered again. Says whether it was done now.
    pub(crate) fn once<T: Serialize + DeserializeOwned>(
        &self,
        db: &mut dyn Db,
        work: impl FnOnce(&mut dyn Db) -> Result<T, Refusal>,
    ) -> Result<(T, bool), Refusal> {
        let Some(repeatable) = &self.repeatable else { return Ok((work(db)?, true)) };
        match store::answered(db, repeatable)? {
            Some((request, _)) if request != repeatable.request => {
                Err(Refusal::Fix("this idempotency key was used for another request; make a new one".to_owned()))
            }
            Some((_, answer)) => {
                let answer = serde_json::from_str(&answer);
                Ok((answer.map_err(|_| StoreError::Damaged("a kept answer can't be read"))?, false))
            }
            None => {
                let done = work(db)?;
                let answer = serde_json::to_string(&done).map_err(|error| Refusal::Fix(error.to_string()))?;
                store::keep_answer(db, repeatable, &answer, self.now)?;
                Ok((done, true))
            }
        }
    }

    /// Where the caller called.
    pub(crate) fn origin(&self) -> &str {
        self.host.unwrap_or_default()
    }
}

/// Which part of a list: `?after=CURSOR&limit=NUMBER`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slice {
    pub(crate) after: Vec<u8>,
    pub(crate) limit: u64,
    /// Which of them.
    pub(crate) filter: Filter,
    /// How much of a log somebody has seen.
    pub(crate) from: u64,
}

impl Default for Slice {
    fn default() -> Slice {
        Slice { after: Vec::new(), limit: Slice::LARGEST, filter: Filter::default(), from: 0 }
    }
}

impl Slice {
    /// As many events as fit into the largest answer that a client takes, were each as large as it may be.
    const LARGEST: u64 = 200;

    /// Reads a query, of which an endpoint takes `also` some parameters.
    pub(crate) fn of(query: &str, also: &[(&str, &str)]) -> Result<Slice, Refusal> {
        let mut slice = Slice::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            match key {
                "after" => slice.after = cursor(value).ok_or_else(|| Refusal::Fix("after is not a cursor".into()))?,
                "limit" => {
                    let limit = value.parse::<u64>().map_err(|_| Refusal::Fix("limit is not a number".into()))?;
                    slice.limit = limit.clamp(1, Slice::LARGEST);
                }
                _ if also.iter().any(|(name, _)| *name == key) => slice.set(key, value)?,
                _ => {
                    let also: String = also.iter().map(|(name, _)| format!(", {name}")).collect();
                    return Err(Refusal::Fix(format!("the only parameters are after, limit{also}")));
                }
            }
        }
        Ok(slice)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), Refusal> {
        let wrong = |what: &str| Refusal::Fix(format!("{key} is not {what}"));
        let number = || value.parse().ok().filter(|number| *number <= i64::MAX as u64).ok_or_else(|| wrong("a number"));
        let id = || value.parse().map(|Serial(id)| id).map_err(|_| wrong("an identifier"));
        match key {
            "since" => self.filter.since = Some(number()?),
            "until" => self.filter.until = Some(number()?),
            "proved_in" => self.filter.proved_in = Some(number()?),
            "from" => self.from = number()?,
            "actor" => self.filter.actor = Some(id()?),
            "computer" => self.filter.computer = Some(id()?),
            "outcome" => self.filter.outcome = Some(value.parse().map_err(Refusal::Fix)?),
            "kind" => {
                let is_plain = value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
                self.filter.kind = Some(Some(value.to_owned()).filter(|_| is_plain).ok_or_else(|| wrong("a kind"))?);
            }
            _ => {}
        }
        Ok(())
    }

    /// One more than is shown, to know whether there is more.
    pub(crate) fn and_one(&self) -> u64 {
        self.limit + 1
    }

    /// The page of what was found, in the order of its identifiers.
    pub(crate) fn page<T>(&self, mut items: Vec<T>, id: impl Fn(&T) -> &[u8]) -> Page<T> {
        let is_more = items.len() as u64 > self.limit;
        items.truncate(usize::try_from(self.limit).unwrap_or(usize::MAX));
        let next = items.last().filter(|_| is_more).map(|last| hex(id(last)));
        Page { items, next }
    }
}

/// Hexadecimal digits of at most 16 bytes, the longest identifier.
fn cursor(text: &str) -> Option<Vec<u8>> {
    let is_whole = text.len() <= 32 && text.len().is_multiple_of(2) && text.is_ascii();
    let byte = |place| u8::from_str_radix(&text[place..place + 2], 16).ok();
    (0..text.len()).step_by(2).filter(|_| is_whole).map(byte).collect::<Option<Vec<u8>>>().filter(|_| is_whole)
}

/// A request that may be asked more than once, until there is an answer.
struct Asked {
    path: String,
    method: Method,
    headers: HeaderMap,
    who: Option<Caller>,
    slice: Slice,
    body: Bytes,
    repeatable: Option<Repeatable>,
}

impl Asked {
    fn run(&self, inner: &Inner) -> Result<Answer, Refusal> {
        let (endpoint, tenant, places) = routes::find(&self.method, &self.path).ok_or(Refusal::NoSuchPage)?;
        let text = |name: HeaderName| self.headers.get(name).and_then(|value| value.to_str().ok());
        let call = Call {
            who: self.who,
            tenant: tenant_of(tenant)?.unwrap_or(TenantId([0; 16])),
            places,
            slice: self.slice.clone(),
            body: &self.body,
            if_match: text(IF_MATCH),
            repeatable: self.repeatable.clone(),
            agent: text(USER_AGENT),
            host: text(HOST),
            now: now(),
        };
        let by = |who: Caller| By {
            role: who.role,
            technician: who.technician,
            token: who.token,
            request: format!("{} {}", endpoint.method, endpoint.path),
        };
        audit::acting(self.who.map(by), || (endpoint.run)(inner, &call))
    }
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
        let path = head.uri.path().to_owned();
        let (endpoint, _, _) = routes::find(&head.method, &path).ok_or(Refusal::NoSuchPage)?;
        let bearer = bearer(&head.headers);
        let query = head.uri.query().unwrap_or_default();
        if endpoint.path == FEED {
            let feed = self.feed(bearer.as_deref().map(String::as_str), query).await?;
            return Ok(respond(&head.method, &head.headers, answer(StatusCode::OK, &feed)?));
        }
        let slice = Slice::of(query, endpoint.parameters)?;
        // Asked before the body is read: strangers make us hold a few KiB each, and not a megabyte.
        let repeatable = |body: &[u8]| repeatable(&head, &bearer, body);
        let who = {
            let bearer = bearer.clone();
            let (path, method) = (path.clone(), head.method.clone());
            self.blocking(move |inner| inner.let_in(&method, &path, bearer.as_deref().map(String::as_str), now()))
                .await?
        };
        let body = read(body, endpoint.largest).await?;
        let repeatable = repeatable(&body)?;
        let asked = Asked { path, method: head.method, headers: head.headers, who, slice, body, repeatable };
        let asked = Arc::new(asked);
        let until = Instant::now() + WAIT;
        let mut closing = self.inner.closing.subscribe();
        loop {
            let asking = Arc::clone(&asked);
            let answer = self.blocking(move |inner| asking.run(inner)).await?;
            let is_over = !endpoint.waits || answer.status != StatusCode::ACCEPTED || Instant::now() >= until;
            if is_over || *closing.borrow_and_update() {
                return Ok(respond(&asked.method, &asked.headers, answer));
            }
            tokio::select! {
                () = sleep(LOOK) => {}
                _ = closing.changed() => {}
            }
        }
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
    /// Whether somebody may ask this.
    pub(crate) fn let_in(
        &self,
        method: &Method,
        path: &str,
        bearer: Option<&str>,
        now: u64,
    ) -> Result<Option<Caller>, Refusal> {
        let (endpoint, tenant, _) = routes::find(method, path).ok_or(Refusal::NoSuchPage)?;
        let tenant = tenant_of(tenant)?;
        if endpoint.access == Access::Everybody {
            return Ok(None);
        }
        self.store.read(|db| access::let_in(db, endpoint.access, tenant, bearer, now))
    }
}

fn tenant_of(place: Option<&str>) -> Result<Option<TenantId>, Refusal> {
    place.map(|text| text.parse().map_err(|_| Refusal::NoSuchPage)).transpose()
}

/// The clock, read once for each request.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

fn bearer(headers: &HeaderMap) -> Option<Zeroizing<String>> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    value.strip_prefix("Bearer ").map(|token| Zeroizing::new(token.to_owned()))
}

/// A request with an idempotency key: the same key means the same only with the same token and the same words.
fn repeatable(head: &Parts, bearer: &Option<Zeroizing<String>>, body: &[u8]) -> Result<Option<Repeatable>, Refusal> {
    let (Some(key), Some(bearer)) = (head.headers.get(IDEMPOTENCY_KEY), bearer) else { return Ok(None) };
    let key = key.to_str().ok().filter(|key| (1..=LONGEST_KEY).contains(&key.len()));
    let key =
        key.ok_or_else(|| Refusal::Fix(format!("an idempotency key has 1 to {LONGEST_KEY} letters and digits")))?;
    let request = Sha256::new()
        .chain_update(head.method.as_str())
        .chain_update(b" ")
        .chain_update(head.uri.path())
        .chain_update(b"\n")
        .chain_update(body)
        .finalize();
    Ok(Some(Repeatable { caller: token::hash(bearer), key: key.to_owned(), request: request.into() }))
}

async fn read(body: Incoming, limit: usize) -> Result<Bytes, Refusal> {
    let body = timeout(BODY_TIMEOUT, Limited::new(body, limit).collect()).await.map_err(|_| Refusal::Slow)?;
    match body {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Refusal::TooLarge { limit }),
        Err(_) => Err(Refusal::Slow),
    }
}

/// What stands for a state of something: 128 bits of its hash.
fn tag(body: &[u8]) -> String {
    format!("\"{}\"", hex(&Sha256::digest(body)[..16]))
}

/// Puts an answer on the wire; of one that the client has already, only that it is the same.
fn respond(method: &Method, asked: &HeaderMap, answer: Answer) -> Response<Full<Bytes>> {
    let Answer { mut status, mut body } = answer;
    let is_state = *method == Method::GET && status == StatusCode::OK;
    let tag = (is_state || *method == Method::PUT).then(|| tag(&body));
    let known = asked.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok()).filter(|_| is_state);
    if let (Some(tag), Some(known)) = (&tag, known)
        && known.split(',').map(str::trim).any(|one| one == tag)
    {
        (status, body) = (StatusCode::NOT_MODIFIED, Vec::new());
    }
    let is_empty = body.is_empty();
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if !is_empty {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(tag) = tag.and_then(|tag| HeaderValue::from_str(&tag).ok()) {
        headers.insert(ETAG, tag);
    }
    response
}

/// A name or identifier that there is none of.
pub(crate) fn missing(what: &'static str, name: impl Display) -> Refusal {
    Refusal::Missing { what, name: name.to_string() }
}
