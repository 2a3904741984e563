//! Every address of `/api/v1`, in one table: who may ask, what is taken, what is answered, and who does it. The router, the
//! OpenAPI document and the test that tries every role at every address all read this and nothing else.

use hyper::{Method, StatusCode};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use gatepass_protocol::api::SlotOpened;

use crate::access::Access::{Everybody, Operator, Relays, Tenant};
use crate::access::{Access, Right};
use crate::api::{
    ApproveDevice, CaKey, Computer, Delegate, Device, Group, InForce, Named, NewCaKey, NewGroup, NewPerson, NewSignIn,
    NewStatement, NewTechnician, NewToken, Page, PendingDevice, Person, Shares, SignIn, SignInMade, Slot, Status,
    Technician, TechnicianChange, Tenant as TenantRow, TenantCreated, Ticket, Token, TokenCreated, TrailEntry, Waiting,
};
use crate::http::{Answer, Call, answer, done};
use crate::people::seen_by;
use crate::problem::Refusal;
use crate::slots::End;
use crate::store;
use crate::{Inner, openapi};

/// What agents and phones send is a few KiB.
const LARGEST_BODY: usize = 64 * 1024;

/// A list that revokes tens of thousands of computers.
const LARGEST_STATEMENT: usize = 1024 * 1024;

/// Writes down the JSON Schema of a type, and says where.
type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

type Run = fn(&Inner, &Call<'_>) -> Result<Answer, Refusal>;

/// One address and method.
pub(crate) struct Endpoint {
    pub(crate) method: Method,
    /// Below `/api/v1`, with the names of its parts in braces.
    pub(crate) path: &'static str,
    pub(crate) access: Access,
    /// What it does, for people.
    pub(crate) summary: &'static str,
    pub(crate) takes: Option<SchemaOf>,
    pub(crate) status: StatusCode,
    pub(crate) answers: SchemaOf,
    /// The most that is read of a body.
    pub(crate) largest: usize,
    /// Whether it is a list, given page by page.
    pub(crate) is_list: bool,
    /// Whether an answer of 202 is held back for a while, in case there is more to say.
    pub(crate) waits: bool,
    /// What it takes in the query, and what each means; a list also takes a cursor and a limit.
    pub(crate) parameters: &'static [(&'static str, &'static str)],
    pub(crate) run: Run,
}

impl Endpoint {
    const fn new(method: Method, path: &'static str, access: Access, summary: &'static str, run: Run) -> Endpoint {
        let (status, largest) = (StatusCode::OK, LARGEST_BODY);
        let (takes, answers, is_list, waits, parameters) = (None, nothing as SchemaOf, false, false, &[] as _);
        Endpoint { method, path, access, summary, takes, status, answers, largest, is_list, waits, parameters, run }
    }

    const fn takes(mut self, schema: SchemaOf) -> Endpoint {
        self.takes = Some(schema);
        self
    }

    const fn answers(mut self, status: StatusCode, schema: SchemaOf) -> Endpoint {
        (self.status, self.answers) = (status, schema);
        self
    }

    const fn waits(mut self) -> Endpoint {
        self.waits = true;
        self
    }

    const fn asks(mut self, parameters: &'static [(&'static str, &'static str)]) -> Endpoint {
        self.parameters = parameters;
        self
    }

    const fn large(mut self) -> Endpoint {
        self.largest = LARGEST_STATEMENT;
        self
    }
}

const fn get(path: &'static str, access: Access, summary: &'static str, schema: SchemaOf, run: Run) -> Endpoint {
    Endpoint::new(Method::GET, path, access, summary, run).answers(StatusCode::OK, schema)
}

const fn list(path: &'static str, access: Access, summary: &'static str, schema: SchemaOf, run: Run) -> Endpoint {
    let mut endpoint = get(path, access, summary, schema, run);
    endpoint.is_list = true;
    endpoint
}

const fn post(path: &'static str, access: Access, summary: &'static str, run: Run) -> Endpoint {
    Endpoint::new(Method::POST, path, access, summary, run)
}

const fn put(path: &'static str, access: Access, summary: &'static str, run: Run) -> Endpoint {
    Endpoint::new(Method::PUT, path, access, summary, run)
}

const fn delete(path: &'static str, access: Access, summary: &'static str, run: Run) -> Endpoint {
    Endpoint::new(Method::DELETE, path, access, summary, run).answers(StatusCode::NO_CONTENT, nothing)
}

const OK: StatusCode = StatusCode::OK;
const CREATED: StatusCode = StatusCode::CREATED;
const WORK: Access = Tenant(Right::Work);
const SEE: Access = Tenant(Right::See);
const MANAGE: Access = Tenant(Right::Manage);

/// What a log is searched by.
const SEARCH: &[(&str, &str)] = &[
    ("since", "Received then or later, in Unix seconds"),
    ("until", "Received before then"),
    ("actor", "By this technician, or with this token"),
    ("computer", "Of this computer"),
    ("kind", "Of this kind: granted, technician-added"),
    ("outcome", "With this outcome: done, denied, refused, alert"),
    ("proved_in", "With the proof of each that it is in the log of so many entries"),
];

/// All of them.
pub(crate) static ENDPOINTS: &[Endpoint] = &[
    get("/openapi.json", Everybody, "This description", anything, |_, call| {
        answer(OK, &openapi::document(call.origin()))
    }),
    post("/enrol/agent", Everybody, "Enrol a computer with a ticket", |inner, call| {
        answer(CREATED, &inner.enrol_agent(&call.json()?, call.now)?)
    })
    .takes(enrol_agent)
    .answers(CREATED, welcome),
    post("/enrol/device", Everybody, "Ask for a phone to be enrolled, with a ticket", |inner, call| {
        answer(StatusCode::ACCEPTED, &inner.enrol_device(&call.json()?, call.now)?)
    })
    .takes(enrol_device)
    .answers(StatusCode::ACCEPTED, waiting),
    get(
        "/enrol/device/{request}",
        Everybody,
        "The certificate of a phone that asked; 202 as long as it waits",
        welcome,
        {
            |inner, call| match inner.enrolled_device(call.id(0)?)? {
                Some(welcome) => answer(OK, &welcome),
                None => answer(StatusCode::ACCEPTED, &Waiting { request_id: call.id(0)? }),
            }
        },
    ),
    post("/enrol/slots", Everybody, "Open a slot for a phone that shows two words", |inner, call| {
        answer(CREATED, &inner.open_slot(&call.json()?, call.now)?)
    })
    .takes(new_slot)
    .answers(CREATED, slot_opened),
    delete("/enrol/slots/{slot}", Everybody, "End an enrolment by words, as the phone", |inner, call| {
        inner.close_slot(End::Phone, call.id(0)?, call.now)?;
        Ok(done())
    }),
    get(
        "/enrol/slots/{slot}/messages/{number}",
        Everybody,
        "A message to the phone; 202 as long as there is none",
        slot_message,
        |inner, call| message(inner, End::Phone, call),
    )
    .waits(),
    put("/enrol/slots/{slot}/messages/{number}", Everybody, "The phone's next message", |inner, call| {
        answer(OK, &inner.put_slot_message(End::Phone, call.id(0)?, call.id(1)?, call.json()?, call.now)?)
    })
    .takes(slot_message)
    .answers(OK, slot_message),
    post("/events", Everybody, "Hand over an event that an enrolled computer signed", |inner, call| {
        answer(CREATED, &inner.new_event(&call.json()?, call.agent, call.now)?)
    })
    .takes(new_event)
    .answers(CREATED, kept),
    post("/directory", Everybody, "Whom an enrolled computer or phone may meet offline", |inner, call| {
        answer(OK, &inner.directory(&call.json()?, call.now)?)
    })
    .takes(ask_directory)
    .answers(OK, directory),
    get("/statements/{tenant}", Everybody, "The signed statements in force in a tenant", statements, |inner, call| {
        answer(OK, &inner.statements(call.tenant)?)
    }),
    get(
        "/log/{tenant}",
        Everybody,
        "The signed head of the audit log, and that it continues what was seen",
        signed_log,
        |inner, call| {
            inner.trust_of(call.tenant)?;
            answer(OK, &inner.log(call.tenant, call.slice.from, call.now)?)
        },
    )
    .asks(&[("from", "How many entries the log had when it was last seen")]),
    get(FEED, Relays, "What regional relays need to know, as it changes", anything, |_, _| Err(Refusal::RelaysOnly)),
    post("/sign-in", Everybody, "Sign in with a password and a one-time code, for a token", |inner, call| {
        answer(CREATED, &inner.sign_in(call.json()?, call.now)?)
    })
    .takes(of::<SignIn>)
    .answers(CREATED, of::<TokenCreated>),
    list("/tenants", Operator, "List the tenants", of::<Page<TenantRow>>, |inner, call| {
        answer(OK, &inner.tenants(&call.slice)?)
    }),
    post("/tenants", Operator, "Create a tenant, with a token for its first administrator", |inner, call| {
        answer(CREATED, &inner.new_tenant(&call.json()?, call.now)?)
    })
    .takes(of::<Named>)
    .answers(CREATED, of::<TenantCreated>),
    list("/people", Operator, "List the operator's people", of::<Page<Person>>, |inner, call| {
        answer(OK, &inner.people(&call.slice)?)
    }),
    post("/people", Operator, "Add one of the operator's people", |inner, call| {
        answer(CREATED, &inner.new_person(call, call.json()?)?)
    })
    .takes(of::<NewPerson>)
    .answers(CREATED, of::<Person>),
    list("/tokens", Operator, "List the operator's tokens", of::<Page<Token>>, |inner, call| {
        answer(OK, &inner.tokens(None, &call.slice)?)
    }),
    post("/tokens", Operator, "Make a token for a global administrator", |inner, call| {
        answer(CREATED, &inner.new_token(None, call, call.json()?)?)
    })
    .takes(of::<NewToken>)
    .answers(CREATED, of::<TokenCreated>),
    delete("/tokens/{token}", Operator, "Make one of the operator's tokens worthless", |inner, call| {
        inner.remove_token(None, call)
    }),
    list(
        "/operator/events",
        Operator,
        "What the operator and the operator's people did",
        of::<Page<TrailEntry>>,
        |inner, call| answer(OK, &inner.events(store::OPERATOR, &call.slice)?),
    )
    .asks(SEARCH),
    get("/operator/log", Operator, "The signed head of the log of that", signed_log, |inner, call| {
        answer(OK, &inner.log(store::OPERATOR, call.slice.from, call.now)?)
    })
    .asks(&[("from", "How many entries the log had when it was last seen")]),
    post(
        "/tenants/{tenant}/delegations",
        Operator,
        "Delegate one of the operator's people to a tenant",
        |inner, call| answer(CREATED, &inner.delegate(call, &call.json()?)?),
    )
    .takes(of::<Delegate>)
    .answers(CREATED, of::<Technician>),
    post("/tenants/{tenant}/administrators", Operator, "Make a token for a tenant's administrator", |inner, call| {
        answer(CREATED, &inner.new_token(Some(call.tenant), call, call.json()?)?)
    })
    .takes(of::<NewToken>)
    .answers(CREATED, of::<TokenCreated>),
    get("/tenants/{tenant}", WORK, "The tenant at a glance", of::<Status>, |inner, call| {
        answer(OK, &inner.status(call.tenant, call.now)?)
    }),
    put("/tenants/{tenant}/sign-in", WORK, "Set one's own password, and get the secret of the codes", |inner, call| {
        answer(OK, &inner.new_sign_in(call, call.json()?)?)
    })
    .takes(of::<NewSignIn>)
    .answers(OK, of::<SignInMade>),
    list("/tenants/{tenant}/tokens", MANAGE, "List the tenant's tokens", of::<Page<Token>>, |inner, call| {
        answer(OK, &inner.tokens(Some(call.tenant), &call.slice)?)
    }),
    post("/tenants/{tenant}/tokens", MANAGE, "Make a token with a role and an end", |inner, call| {
        answer(CREATED, &inner.new_token(Some(call.tenant), call, call.json()?)?)
    })
    .takes(of::<NewToken>)
    .answers(CREATED, of::<TokenCreated>),
    delete("/tenants/{tenant}/tokens/{token}", MANAGE, "Make a token worthless", |inner, call| {
        inner.remove_token(Some(call.tenant), call)
    }),
    list("/tenants/{tenant}/ca-keys", SEE, "List the CA keys", of::<Page<CaKey>>, |inner, call| {
        answer(OK, &inner.ca_keys(call.tenant)?)
    }),
    post("/tenants/{tenant}/ca-keys", MANAGE, "Trust one more CA key", |inner, call| {
        answer(CREATED, &inner.new_ca_key(call.tenant, call.json()?, call.now)?)
    })
    .takes(of::<NewCaKey>)
    .answers(CREATED, of::<CaKey>),
    list("/tenants/{tenant}/technicians", WORK, "List the technicians", of::<Page<Technician>>, |inner, call| {
        answer(OK, &inner.technicians(call.tenant, &call.slice)?)
    }),
    post("/tenants/{tenant}/technicians", MANAGE, "Add a technician", |inner, call| {
        answer(CREATED, &inner.new_technician(call, call.json()?)?)
    })
    .takes(of::<NewTechnician>)
    .answers(CREATED, of::<Technician>),
    get("/tenants/{tenant}/technicians/{technician}", WORK, "A technician", of::<Technician>, |inner, call| {
        answer(OK, &inner.technician(call.tenant, call.id(0)?)?)
    }),
    put(
        "/tenants/{tenant}/technicians/{technician}",
        MANAGE,
        "Change a technician's e-mail and role",
        |inner, call| answer(OK, &inner.change_technician(call, call.json()?)?),
    )
    .takes(of::<TechnicianChange>)
    .answers(OK, of::<Technician>),
    delete("/tenants/{tenant}/technicians/{technician}/sign-in", MANAGE, "Take a password and its tokens away", {
        |inner, call| inner.remove_sign_in(call)
    }),
    list("/tenants/{tenant}/groups", WORK, "List the groups of technicians", of::<Page<Group>>, |inner, call| {
        answer(OK, &inner.groups(call.tenant, &call.slice)?)
    }),
    post("/tenants/{tenant}/groups", MANAGE, "Make a group of technicians", |inner, call| {
        answer(CREATED, &inner.new_group(call, call.json()?)?)
    })
    .takes(of::<NewGroup>)
    .answers(CREATED, of::<Group>),
    get("/tenants/{tenant}/groups/{group}", WORK, "A group", of::<Group>, |inner, call| {
        answer(OK, &inner.group(call.tenant, call.id(0)?)?)
    }),
    put("/tenants/{tenant}/groups/{group}", MANAGE, "Give a group its name and members anew", |inner, call| {
        answer(OK, &inner.change_group(call, call.json()?)?)
    })
    .takes(of::<NewGroup>)
    .answers(OK, of::<Group>),
    delete("/tenants/{tenant}/groups/{group}", MANAGE, "Remove a group", |inner, call| inner.remove_group(call)),
    list("/tenants/{tenant}/tickets", SEE, "List the enrolment tickets", of::<Page<Ticket>>, |inner, call| {
        answer(OK, &inner.tickets(call.tenant, &call.slice)?)
    }),
    list("/tenants/{tenant}/slots", MANAGE, "List the phones that show two words", of::<Page<Slot>>, |inner, call| {
        answer(OK, &inner.slots(call.tenant, &call.slice, call.now)?)
    }),
    delete(
        "/tenants/{tenant}/slots/{slot}",
        MANAGE,
        "End an enrolment by words, as the administrator",
        |inner, call| {
            inner.close_slot(End::Administrator(call.tenant), call.id(0)?, call.now)?;
            Ok(done())
        },
    ),
    get(
        "/tenants/{tenant}/slots/{slot}/messages/{number}",
        MANAGE,
        "A message from the phone; 202 as long as there is none",
        slot_message,
        |inner, call| message(inner, End::Administrator(call.tenant), call),
    )
    .waits(),
    put(
        "/tenants/{tenant}/slots/{slot}/messages/{number}",
        MANAGE,
        "The administrator's next message",
        |inner, call| {
            let end = End::Administrator(call.tenant);
            answer(OK, &inner.put_slot_message(end, call.id(0)?, call.id(1)?, call.json()?, call.now)?)
        },
    )
    .takes(slot_message)
    .answers(OK, slot_message),
    list("/tenants/{tenant}/devices", SEE, "List the enrolled phones", of::<Page<Device>>, |inner, call| {
        answer(OK, &inner.devices(call.tenant, &call.slice)?)
    }),
    list(
        "/tenants/{tenant}/devices/pending",
        SEE,
        "List the phones that wait",
        of::<Page<PendingDevice>>,
        |inner, call| answer(OK, &inner.pending_devices(call.tenant, &call.slice)?),
    ),
    post("/tenants/{tenant}/devices/pending/{request}/approve", MANAGE, "Enrol a phone that waits", |inner, call| {
        answer(CREATED, &inner.approve_device(call.tenant, call.id(0)?, call.json()?, call.now)?)
    })
    .takes(of::<ApproveDevice>)
    .answers(CREATED, of::<Device>),
    post(
        "/tenants/{tenant}/devices/pending/{request}/refuse",
        MANAGE,
        "Send a phone away that waits",
        |inner, call| answer(OK, &inner.refuse_device(call.tenant, call.id(0)?, call.now)?),
    )
    .answers(OK, of::<PendingDevice>),
    list(
        "/tenants/{tenant}/computers",
        WORK,
        "List the computers; a technician: those shared with them",
        of::<Page<Computer>>,
        |inner, call| answer(OK, &inner.computers(call.tenant, seen_by(call), &call.slice)?),
    ),
    get("/tenants/{tenant}/computers/{computer}", WORK, "A computer", of::<Computer>, |inner, call| {
        answer(OK, &inner.computer(call.tenant, seen_by(call), call.id(0)?)?)
    }),
    get("/tenants/{tenant}/computers/{computer}/shares", SEE, "With whom a computer is shared", of::<Shares>, {
        |inner, call| answer(OK, &inner.shares(call.tenant, call.id(0)?)?)
    }),
    put("/tenants/{tenant}/computers/{computer}/shares", MANAGE, "Share a computer with these, and nobody else", {
        |inner, call| answer(OK, &inner.share(call, call.json()?)?)
    })
    .takes(of::<Shares>)
    .answers(OK, of::<Shares>),
    post(
        "/tenants/{tenant}/statements",
        MANAGE,
        "Put a signed statement in force, or make a ticket known",
        |inner, call| answer(CREATED, &inner.new_statement(call.tenant, call.json()?, call.now)?),
    )
    .large()
    .takes(of::<NewStatement>)
    .answers(CREATED, of::<InForce>),
    list("/tenants/{tenant}/events", Tenant(Right::Audit), "The audit trail", of::<Page<TrailEntry>>, |inner, call| {
        answer(OK, &inner.events(call.tenant, &call.slice)?)
    })
    .asks(SEARCH),
];

/// It waits for news, and so is answered apart.
pub(crate) const FEED: &str = "/feed";

/// Finds the endpoint of an address, and what stands at its places but the tenant's.
pub(crate) fn find<'a>(method: &Method, path: &'a str) -> Option<(&'static Endpoint, Option<&'a str>, Vec<&'a str>)> {
    let path: Vec<&str> = path.strip_prefix("/api/v1/")?.split('/').collect();
    ENDPOINTS.iter().filter(|endpoint| endpoint.method == method).find_map(|endpoint| {
        let (mut tenant, mut rest) = (None, Vec::new());
        let mut parts = endpoint.path.split('/').skip(1);
        for given in &path {
            match parts.next()? {
                "{tenant}" => tenant = Some(*given),
                part if part.starts_with('{') => rest.push(*given),
                part if part == *given => {}
                _ => return None,
            }
        }
        parts.next().is_none().then_some((endpoint, tenant, rest))
    })
}

/// A message of an enrolment slot, or that there is none yet.
fn message(inner: &Inner, end: End, call: &Call<'_>) -> Result<Answer, Refusal> {
    let slot = call.id(0)?;
    match inner.slot_message(end, slot, call.id(1)?, call.now)? {
        Some(message) => answer(OK, &message),
        None => answer(StatusCode::ACCEPTED, &SlotOpened { slot }),
    }
}

fn of<T: JsonSchema>(schemas: &mut SchemaGenerator) -> Schema {
    schemas.subschema_for::<T>()
}

fn nothing(_: &mut SchemaGenerator) -> Schema {
    json_schema!(false)
}

fn anything(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object" })
}

/// An object of base64 texts: what agents and phones send is described in docs/PROTOCOL.md.
fn signed(names: &[&str]) -> Schema {
    let text = |name: &&str| ((*name).to_owned(), serde_json::json!({ "type": "string", "contentEncoding": "base64" }));
    let properties: serde_json::Map<_, _> = names.iter().map(text).collect();
    json_schema!({ "type": "object", "properties": properties, "required": names })
}

fn enrol_agent(_: &mut SchemaGenerator) -> Schema {
    signed(&["ticket", "certificate"])
}

fn enrol_device(_: &mut SchemaGenerator) -> Schema {
    signed(&["ticket", "request"])
}

fn new_slot(_: &mut SchemaGenerator) -> Schema {
    let text = serde_json::json!({ "type": "string" });
    let message = serde_json::json!({ "type": "string", "contentEncoding": "base64" });
    let properties = serde_json::json!({ "tenant": text, "name": text, "message": message });
    json_schema!({ "type": "object", "properties": properties, "required": ["tenant", "name", "message"] })
}

fn slot_opened(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "properties": { "slot": { "type": "string" } }, "required": ["slot"] })
}

fn slot_message(_: &mut SchemaGenerator) -> Schema {
    signed(&["message"])
}

fn statements(_: &mut SchemaGenerator) -> Schema {
    let text = serde_json::json!({ "type": ["string", "null"], "contentEncoding": "base64" });
    json_schema!({ "type": "object", "properties": { "policy": text, "revocation": text, "relays": text } })
}

fn new_event(_: &mut SchemaGenerator) -> Schema {
    let text = serde_json::json!({ "type": "string", "contentEncoding": "base64" });
    let properties = serde_json::json!({ "chain": { "type": "array", "items": text }, "event": text });
    json_schema!({ "type": "object", "properties": properties, "required": ["chain", "event"] })
}

fn ask_directory(_: &mut SchemaGenerator) -> Schema {
    let text = serde_json::json!({ "type": "string", "contentEncoding": "base64" });
    let properties = serde_json::json!({ "chain": { "type": "array", "items": text }, "request": text });
    json_schema!({ "type": "object", "properties": properties, "required": ["chain", "request"] })
}

fn directory(_: &mut SchemaGenerator) -> Schema {
    let chain = serde_json::json!({ "type": "array", "items": { "type": "string", "contentEncoding": "base64" } });
    let properties = serde_json::json!({
        "chains": { "type": "array", "items": chain }, "since": { "type": "integer" }, "after": { "type": "string" },
        "more": { "type": "boolean" },
    });
    json_schema!({ "type": "object", "properties": properties, "required": ["chains", "since", "after", "more"] })
}

fn signed_log(_: &mut SchemaGenerator) -> Schema {
    let text = |types| serde_json::json!({ "type": types, "contentEncoding": "base64" });
    let properties = serde_json::json!({
        "head": text(vec!["string"]), "key": text(vec!["string"]),
        "consistency": text(vec!["string", "null"]), "frontier": text(vec!["string", "null"]),
    });
    json_schema!({ "type": "object", "properties": properties, "required": ["head", "key"] })
}

fn kept(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "properties": { "seq": { "type": "integer" } }, "required": ["seq"] })
}

fn waiting(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "properties": { "request_id": { "type": "string" } }, "required": ["request_id"] })
}

fn welcome(schemas: &mut SchemaGenerator) -> Schema {
    let statements = statements(schemas);
    let text = serde_json::json!({ "type": "array", "items": { "type": "string" } });
    let properties = serde_json::json!({
        "tenant": { "type": "string" }, "ca_pem": text, "certificate": text, "statements": statements,
    });
    json_schema!({ "type": "object", "properties": properties, "required": ["tenant", "ca_pem", "statements"] })
}
