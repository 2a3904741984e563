//! Every role at every address, in its own tenant, in another and in one that there is not. Who may what is written down in
//! docs/guides/api.md, and that table is compared with what really happens.

use std::fmt::Write as _;

use hyper::StatusCode;
use tempfile::TempDir;

use gatepass_protocol::ids::{ComputerId, Serial, TechnicianId, TenantId};

use super::*;
use crate::access::{Access, Caller};
use crate::api::{Named, NewGroup, NewTechnician, NewToken};
use crate::http::{Call, Slice};
use crate::problem::Refusal;
use crate::routes::{ENDPOINTS, Endpoint};
use crate::store::{NewComputer, NewTicket};

const NOW: u64 = 1_000_000;

/// Who tries: what they show, and what is known of them.
struct Somebody {
    name: &'static str,
    bearer: Option<String>,
}

/// A tenant in which everything has the tenant's name in it.
struct Tenant {
    id: TenantId,
    name: &'static str,
    technician: TechnicianId,
    group: Serial,
    computer: ComputerId,
    token: Serial,
}

pub(crate) struct World {
    control: Control,
    ours: Tenant,
    theirs: Tenant,
    people: Vec<Somebody>,
    _folder: TempDir,
}

pub(crate) fn call(tenant: TenantId, who: Option<Caller>) -> Call<'static> {
    let (if_match, agent, host, repeatable) = (None, None, None, None);
    Call {
        who,
        tenant,
        places: Vec::new(),
        slice: Slice::default(),
        body: b"{}",
        if_match,
        repeatable,
        agent,
        host,
        now: NOW,
    }
}

fn world() -> World {
    let folder = TempDir::new().unwrap();
    World::of(&Database::File(folder.path().join("control.db")), folder)
}

fn tenant(control: &Control, name: &'static str) -> Tenant {
    let inner = &control.inner;
    let id = inner.new_tenant(&Named { name: format!("{name} inc") }, NOW).unwrap().id;
    let new = NewTechnician { name: format!("{name}-t"), email: format!("t@{name}"), role: Role::Technician };
    let technician = inner.new_technician(&call(id, None), new).unwrap().id;
    let new = NewGroup { name: format!("{name} group"), technicians: vec![technician] };
    let group = inner.new_group(&call(id, None), new).unwrap().id;
    let new = NewToken { name: format!("{name} token"), role: Role::ReadOnly, technician: None, days: 1 };
    let token = inner.new_token(Some(id), &call(id, None), new).unwrap().token.id;
    let (computer, ticket) = (ComputerId::random(&mut rng()), Serial::random(&mut rng()));
    let known = inner.store.write(Scope::Tenant(id), |db| {
        let tags = [format!("{name}-tag")];
        let new = NewTicket {
            serial: ticket,
            purpose: "agent",
            tags: &tags,
            uses: 1,
            not_after: NOW,
            statement: name.as_bytes(),
        };
        store::insert_ticket(db, id, &new, NOW)?;
        let new = NewComputer {
            id: computer,
            ticket,
            name: &format!("{name}-computer"),
            domain: "",
            os: "",
            tags: &tags,
            certificate: name.as_bytes(),
            not_after: NOW,
        };
        store::insert_computer(db, id, &new, NOW)?;
        store::set_shares(db, id, computer, &api::Shares { all_users: true, ..api::Shares::default() })
    });
    known.unwrap();
    Tenant { id, name, technician, group, computer, token }
}

impl Tenant {
    /// An address, with this tenant's own things in its places.
    fn address(&self, endpoint: &Endpoint) -> String {
        let place = |part: &str| match part {
            "{technician}" => self.technician.to_string(),
            "{group}" => self.group.to_string(),
            "{computer}" => self.computer.to_string(),
            "{token}" => self.token.to_string(),
            "{request}" | "{slot}" => Serial([9; 16]).to_string(),
            "{number}" => "2".to_owned(),
            "{tenant}" => self.id.to_string(),
            other => other.to_owned(),
        };
        let parts: Vec<String> = endpoint.path.split('/').map(place).collect();
        format!("/api/v1{}", parts.join("/"))
    }
}

impl World {
    /// Two tenants in an empty database, whose tokens are kept in a folder.
    pub(crate) fn of(database: &Database, folder: TempDir) -> World {
        let control = Control::connect(database, folder.path()).unwrap();
        let (ours, theirs) = (tenant(&control, "acme"), tenant(&control, "borealis"));
        let inner = &control.inner;
        let operator = std::fs::read_to_string(folder.path().join(OPERATOR_TOKEN_FILE)).unwrap().trim().to_owned();
        let relays = std::fs::read_to_string(folder.path().join(RELAY_TOKEN_FILE)).unwrap().trim().to_owned();
        let make = |owner: Option<TenantId>, role, days| {
            let new = NewToken { name: "one".into(), role, technician: None, days };
            inner.new_token(owner, &call(owner.unwrap_or(ours.id), None), new).unwrap().secret
        };
        let mut people = vec![
            Somebody { name: "nobody", bearer: None },
            Somebody { name: "stranger", bearer: Some("gatepass-token-0000".into()) },
            Somebody { name: "relay", bearer: Some(relays) },
            Somebody { name: "operator", bearer: Some(operator) },
            Somebody { name: "global-admin", bearer: Some(make(None, Role::GlobalAdmin, 300)) },
        ];
        for role in Role::ALL.into_iter().filter(|role| role.is_of_a_tenant()) {
            people.push(Somebody { name: role.name(), bearer: Some(make(Some(ours.id), role, 300)) });
        }
        World { control, ours, theirs, people, _folder: folder }
    }

    fn let_in(&self, who: &Somebody, endpoint: &Endpoint, tenant: &Tenant) -> Result<Option<Caller>, Refusal> {
        self.control.inner.let_in(&endpoint.method, &tenant.address(endpoint), who.bearer.as_deref(), NOW)
    }
}

#[test]
fn each_role_may_at_each_address_what_the_guide_says() {
    let world = world();
    let mut table = String::new();
    for endpoint in ENDPOINTS {
        let may = |who: &&Somebody| match endpoint.access {
            Access::Relays => who.name == "relay",
            _ => world.let_in(who, endpoint, &world.ours).is_ok(),
        };
        let names: Vec<&str> = world.people.iter().filter(may).map(|who| who.name).collect();
        let names = if names.len() == world.people.len() { "everybody".to_owned() } else { names.join(", ") };
        writeln!(table, "{:6} {:55} {names}", endpoint.method.as_str(), endpoint.path).unwrap();
    }
    let guide = include_str!("../../docs/guides/api.md");
    assert!(guide.contains(&table), "docs/guides/api.md should have this table:\n{table}");
}

pub(crate) fn nobody_sees_or_changes_anything_of_another_tenant(world: &World) {
    let missing = Tenant { id: TenantId([0xee; 16]), ..tenant(&world.control, "nowhere") };
    let of_a_tenant = |who: &&Somebody| Role::ALL.iter().any(|role| role.is_of_a_tenant() && role.name() == who.name);
    let mut tried = 0;
    for (who, endpoint) in
        world.people.iter().filter(of_a_tenant).flat_map(|who| ENDPOINTS.iter().map(move |one| (who, one)))
    {
        if !matches!(endpoint.access, Access::Tenant(_)) {
            continue;
        }
        let what = format!("{} as {} of acme", endpoint.path, who.name);
        let theirs = world.let_in(who, endpoint, &world.theirs).expect_err(&what);
        let nowhere = world.let_in(who, endpoint, &missing).expect_err(&what);
        assert_eq!(theirs.to_string(), nowhere.to_string(), "{what}: whether the tenant exists");
        assert_eq!(theirs.response().status(), StatusCode::UNAUTHORIZED, "{what}");

        // In the own tenant, with the other one's things at the places, and with nothing sensible in the body.
        let Ok(caller) = world.let_in(who, endpoint, &world.ours) else { continue };
        let theirs = world.theirs.address(endpoint);
        let (_, _, places) = routes::find(&endpoint.method, &theirs).unwrap();
        let has_places = !places.is_empty();
        let bodies: [&[u8]; 3] = [
            b"{}",
            br#"{"name":"x","email":"","role":"read-only","technicians":[]}"#,
            br#"{"name":"x","technicians":[]}"#,
        ];
        for body in bodies {
            tried += 1;
            let call = Call { places: places.clone(), body, ..call(world.ours.id, caller) };
            match (endpoint.run)(&world.control.inner, &call) {
                Ok(answer) => {
                    assert!(!has_places, "{what}: another tenant's");
                    let text = String::from_utf8(answer.into_body()).unwrap();
                    assert!(
                        !text.contains(world.theirs.name) && !text.contains(&world.theirs.id.to_string()),
                        "{what}: {text}"
                    );
                }
                Err(refusal) => {
                    let status = refusal.response().status();
                    assert!(!status.is_server_error(), "{what}: {refusal}");
                    assert!(!refusal.to_string().contains(world.theirs.name), "{what}: {refusal}");
                }
            }
        }
    }
    assert!(tried > 100, "{tried}");
    let inner = &world.control.inner;
    let group = inner.group(world.theirs.id, world.theirs.group).unwrap();
    assert_eq!(
        (group.name.as_str(), group.technicians.len()),
        ("borealis group", 1),
        "somebody else's group was changed"
    );
    let shares = inner.shares(world.theirs.id, world.theirs.computer).unwrap();
    assert!(shares.all_users && shares.technicians.is_empty(), "somebody else's computer was shared");
    assert_eq!(inner.tokens(Some(world.theirs.id), &Slice::default()).unwrap().items.len(), 2);
}

pub(crate) fn a_token_ends_when_it_says_and_when_its_technicians_role_changes(world: &World) {
    let (inner, ours) = (&world.control.inner, &world.ours);
    let new = |role, technician, days| NewToken { name: "laptop".into(), role, technician, days };
    let make = |new| inner.new_token(Some(ours.id), &call(ours.id, None), new);
    assert!(make(new(Role::GlobalAdmin, None, 1)).is_err(), "no tenant makes global administrators");
    assert!(make(new(Role::ReadOnly, None, 0)).is_err() && make(new(Role::ReadOnly, None, 367)).is_err());
    assert!(make(new(Role::Auditor, Some(ours.technician), 1)).is_err(), "more than the technician may");
    assert!(make(new(Role::Technician, Some(world.theirs.technician), 1)).is_err(), "somebody else's technician");
    let made = make(new(Role::Technician, Some(ours.technician), 1)).unwrap();
    let path = format!("/api/v1/tenants/{}", ours.id);
    let come = |now| inner.let_in(&hyper::Method::GET, &path, Some(&made.secret), now);
    assert_eq!(come(NOW + 86_399).unwrap().unwrap().technician, Some(ours.technician));
    assert!(matches!(come(NOW + 86_400), Err(Refusal::TokenExpired)));

    let id = ours.technician.to_string();
    let change = Call { places: vec![&id], ..call(ours.id, None) };
    let to = |role| api::TechnicianChange { email: "T@Acme".into(), role };
    let changed = inner.change_technician(&change, to(Role::Technician)).unwrap();
    assert_eq!(changed.email, "t@acme");
    assert!(come(NOW).is_ok());
    inner.change_technician(&change, to(Role::ReadOnly)).unwrap();
    assert!(matches!(come(NOW), Err(Refusal::SignIn)), "a token of the role before");
}

pub(crate) fn a_technician_sees_the_computers_that_are_shared_with_them(world: &World) {
    let (inner, ours) = (&world.control.inner, &world.ours);
    let sees = |technician| {
        let by = store::SeenBy::Technician(technician);
        let listed = inner.computers(ours.id, by, &Slice::default()).unwrap().items.len();
        assert_eq!(inner.computer(ours.id, by, ours.computer).is_ok(), listed == 1);
        listed == 1
    };
    let id = ours.computer.to_string();
    let share = |shares| inner.share(&Call { places: vec![&id], ..call(ours.id, None) }, shares).unwrap();
    assert!(sees(None) && sees(Some(ours.technician)), "shared with all users");
    share(api::Shares { all_admins: true, ..api::Shares::default() });
    assert!(!sees(None) && !sees(Some(ours.technician)));
    share(api::Shares { technicians: vec![ours.technician], ..api::Shares::default() });
    assert!(!sees(None) && sees(Some(ours.technician)) && !sees(Some(world.theirs.technician)));
    share(api::Shares { groups: vec![ours.group], ..api::Shares::default() });
    assert!(!sees(None) && sees(Some(ours.technician)));
    let group = ours.group.to_string();
    inner.remove_group(&Call { places: vec![&group], ..call(ours.id, None) }).unwrap();
    assert!(!sees(Some(ours.technician)), "through a group that is gone");
    assert_eq!(inner.shares(ours.id, ours.computer).unwrap(), api::Shares::default());
}

pub(crate) fn two_who_change_the_same_thing_do_not_undo_each_other(world: &World) {
    let (inner, ours) = (&world.control.inner, &world.ours);
    let seen = http::answer(StatusCode::OK, &inner.group(ours.id, ours.group).unwrap()).unwrap().tag();
    let id = ours.group.to_string();
    let change = |if_match, name: &str| {
        let call = Call { places: vec![&id], if_match, ..call(ours.id, None) };
        inner.change_group(&call, NewGroup { name: name.into(), technicians: Vec::new() })
    };
    assert_eq!(change(Some(&seen), "night shift").unwrap().name, "night shift");
    let refused = change(Some(&seen), "day shift").unwrap_err();
    assert_eq!(refused.response().status(), StatusCode::PRECONDITION_FAILED);
    assert_eq!(inner.group(ours.id, ours.group).unwrap().name, "night shift");
    change(None, "whoever comes last").unwrap();
    change(Some("*"), "acme group").unwrap();
}

pub(crate) fn a_list_is_given_page_by_page_with_nothing_twice_and_nothing_left_out(world: &World) {
    let (inner, ours) = (&world.control.inner, &world.ours);
    for number in 0..10 {
        let new = NewTechnician { name: format!("t{number}"), email: String::new(), role: Role::Technician };
        inner.new_technician(&call(ours.id, None), new).unwrap();
    }
    let (mut slice, mut found) = (Slice { limit: 3, ..Slice::default() }, Vec::new());
    loop {
        let page = inner.technicians(ours.id, &slice).unwrap();
        assert!(page.items.len() <= 3);
        found.extend(page.items.into_iter().map(|one| one.id));
        let Some(next) = page.next else { break };
        slice = Slice::of(&format!("after={next}&limit=3"), &[]).unwrap();
    }
    let all: Vec<_> =
        inner.technicians(ours.id, &Slice::default()).unwrap().items.into_iter().map(|one| one.id).collect();
    assert_eq!((all.len(), &found), (11, &all));
    for wrong in ["after=x", "after=zz", "limit=many", "page=2", "after=é0"] {
        assert!(Slice::of(wrong, &[]).is_err(), "{wrong}");
    }
}

/// A request that is repeated, because its answer was lost, is done once.
pub(crate) fn what_is_repeated_is_done_once(world: &World) {
    let (inner, ours) = (&world.control.inner, &world.ours);
    let with = |key: &str, request| {
        let repeatable = store::Repeatable { caller: [1; 32], key: key.to_owned(), request: [request; 32] };
        Call { repeatable: Some(repeatable), ..call(ours.id, None) }
    };
    let group =
        |call: &Call<'_>, name: &str| inner.new_group(call, NewGroup { name: name.into(), technicians: Vec::new() });
    let first = group(&with("a", 1), "first").unwrap();
    assert_eq!(group(&with("a", 1), "first").unwrap().id, first.id);
    assert!(matches!(group(&with("b", 1), "first"), Err(Refusal::Exists { .. })), "another key is another request");
    assert!(matches!(group(&with("a", 2), "second"), Err(Refusal::Fix(_))), "the same key for something else");
    let before = inner.groups(ours.id, &Slice::default()).unwrap().items.len();
    assert_eq!(before, 2);
    let new = || NewToken { name: "one".into(), role: Role::ReadOnly, technician: None, days: 1 };
    let made = inner.new_token(Some(ours.id), &with("t", 3), new()).unwrap();
    let again = inner.new_token(Some(ours.id), &with("t", 3), new()).err().unwrap();
    assert!(again.to_string().contains(&made.token.id.to_string()), "{again}");
    // What failed is not remembered, and a key is forgotten after a day.
    let later = Call { now: NOW + 86_401, ..with("a", 9) };
    group(&Call { now: NOW + 86_401, ..with("c", 4) }, "third").unwrap();
    assert_eq!(group(&later, "fourth").unwrap().name, "fourth");
}

#[test]
fn the_description_is_whole() {
    let document = openapi::document("");
    let text = document.to_string();
    let paths = document["paths"].as_object().unwrap();
    let mut operations = std::collections::HashSet::new();
    for operation in paths.values().flat_map(|path| path.as_object().unwrap().values()) {
        assert!(operations.insert(operation["operationId"].as_str().unwrap().to_owned()), "{operation}");
    }
    assert_eq!(operations.len(), ENDPOINTS.len());
    // Nothing refers to what is not there.
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer}");
    }
}
