//! What the control plane promises, tried on each database it can have. One suite: a promise is written once.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use gatepass_protocol::ids::{Serial, TechnicianId, TenantId};
use gatepass_protocol::keys::{Signer as _, SigningKey};
use gatepass_protocol::log::{Frontier, Head};
use gatepass_protocol::signed::{Signed, Unverified};
use gatepass_protocol::statement::{
    CertifiedKey, Draft, KeyUse, Purpose, RevocationTerms, Statement, Terms, TicketTerms,
};
use gatepass_protocol::trust::CaPublic;

use super::cluster::Cluster;
use super::migrations::{MIGRATIONS, Migration};
use super::*;
use crate::api::{Named, NewCaKey, NewStatement, NewTechnician, Role, Technician};
use crate::http::{Call, Slice};
use crate::problem::Refusal;
use crate::{Control, http, matrix, rng};

/// An empty database, of which there are as many as a test wants.
struct World<'a> {
    fresh: &'a dyn Fn() -> Database,
    folder: &'a Path,
}

fn open_with(database: &Database, known: &[Migration]) -> Result<Store, StoreError> {
    Store::open_with(database, known, Patience::Short)
}

type OfPeople = (&'static str, fn(&matrix::World));
type Promise = (&'static str, fn(&World<'_>));

const PROMISES: &[Promise] = &[
    ("what is refused halfway leaves nothing", what_is_refused_halfway_leaves_nothing),
    ("computers that come together share one count", computers_that_come_together_share_one_count),
    ("the trail has no gaps when many write at once", the_trail_has_no_gaps_when_many_write_at_once),
    ("the trail is never changed", the_trail_is_never_changed),
    ("an epoch never goes back", an_epoch_never_goes_back),
    ("everything is read back as it was written", everything_is_read_back_as_it_was_written),
    ("a number that is too large is refused", a_number_that_is_too_large_is_refused),
    ("an interrupted migration leaves nothing half", an_interrupted_migration_leaves_nothing_half),
    ("a newer database is left alone", a_newer_database_is_left_alone),
    ("a backup is restored whole", a_backup_is_restored_whole),
    ("yesterday's backup widens nobody's rights", yesterdays_backup_widens_nobodys_rights),
    ("a backup of the first version is restored", a_backup_of_the_first_version_is_restored),
];

/// What is promised of people and of whom a computer is shared with.
const OF_PEOPLE: &[OfPeople] = &[
    ("nobody sees another tenant", matrix::nobody_sees_or_changes_anything_of_another_tenant),
    ("a token ends", matrix::a_token_ends_when_it_says_and_when_its_technicians_role_changes),
    ("a technician sees what is shared", matrix::a_technician_sees_the_computers_that_are_shared_with_them),
    ("two do not undo each other", matrix::two_who_change_the_same_thing_do_not_undo_each_other),
    ("what is repeated is done once", matrix::what_is_repeated_is_done_once),
    ("a list is whole", matrix::a_list_is_given_page_by_page_with_nothing_twice_and_nothing_left_out),
];

fn keep_all(world: &World<'_>) {
    for (name, promise) in PROMISES {
        assert!(catch_unwind(AssertUnwindSafe(|| promise(world))).is_ok(), "not kept: {name}");
    }
    for (name, promise) in OF_PEOPLE {
        let people = matrix::World::of(&(world.fresh)(), TempDir::new().unwrap());
        assert!(catch_unwind(AssertUnwindSafe(|| promise(&people))).is_ok(), "not kept: {name}");
    }
}

#[test]
fn sqlite_keeps_every_promise() {
    let (folder, count) = (TempDir::new().unwrap(), AtomicU64::new(0));
    let fresh = || {
        let number = count.fetch_add(1, Ordering::Relaxed);
        let folder = folder.path().join(number.to_string());
        std::fs::create_dir(&folder).unwrap();
        Database::File(folder.join("control.db"))
    };
    keep_all(&World { fresh: &fresh, folder: folder.path() });
}

#[test]
fn postgres_keeps_every_promise() {
    let (cluster, folder, count) = (Cluster::start(), TempDir::new().unwrap(), AtomicU64::new(0));
    let fresh = || cluster.database(&format!("d{}", count.fetch_add(1, Ordering::Relaxed)));
    keep_all(&World { fresh: &fresh, folder: folder.path() });
}

/// A control plane with one tenant.
struct Tenant {
    control: Control,
    id: TenantId,
    ca: SigningKey,
}

impl World<'_> {
    fn control(&self, database: &Database) -> Control {
        // Each with its own folder of tokens, as each node has.
        let folder = self.folder.join(Serial::random(&mut rng()).to_string());
        std::fs::create_dir(&folder).unwrap();
        Control::connect(database, &folder).unwrap()
    }

    fn tenant(&self, database: &Database) -> Tenant {
        Tenant::of(self.control(database))
    }

    fn file(&self) -> PathBuf {
        self.folder.join(format!("{}.backup", Serial::random(&mut rng())))
    }
}

impl Tenant {
    fn of(control: Control) -> Tenant {
        let ca = SigningKey::generate(&mut rng());
        let id = control.inner.new_tenant(&Named { name: "Acme".into() }, 1).unwrap().id;
        let pem = CaPublic::new(ca.public_key()).unwrap().to_pem();
        control.inner.new_ca_key(id, NewCaKey { name: "first".into(), pem }, 2).unwrap();
        Tenant { control, id, ca }
    }

    fn add(&self, name: String) -> Result<Technician, Refusal> {
        let new = NewTechnician { name, email: String::new(), role: Role::Technician };
        self.control.inner.new_technician(&Call { now: 2, ..matrix::call(self.id, None) }, new)
    }

    fn sign<T: Terms>(&self, epoch: u64, keys: Vec<CertifiedKey>, terms: &T) -> Signed<Statement> {
        let now = http::now();
        let draft = Draft {
            serial: Serial::random(&mut rng()),
            tenant: self.id,
            subject: [0; 16],
            keys,
            not_before: now,
            not_after: now + 1000,
            epoch,
        };
        draft.sign(terms, &self.ca).unwrap()
    }

    fn submit(&self, statement: &Signed<Statement>) -> Result<u64, Refusal> {
        let statement = NewStatement { statement: statement.bytes().to_vec().into() };
        self.control.inner.new_statement(self.id, statement, http::now()).map(|in_force| in_force.epoch)
    }

    fn revocations(&self, epoch: u64) -> Signed<Statement> {
        let now = http::now();
        let revoked = vec![Serial([epoch as u8; 16])];
        self.sign(epoch, Vec::new(), &RevocationTerms { issued: now, next_update: now + 500, min_epoch: 0, revoked })
    }

    fn ticket(&self, uses: u32) -> (Signed<Statement>, SigningKey) {
        let key = SigningKey::generate(&mut rng());
        let terms = TicketTerms {
            purpose: Purpose::Phone,
            uses,
            tags: vec!["web".into(), "eu".into()],
            certificates_until: http::now() + 1000,
        };
        let keys = vec![CertifiedKey { key_use: KeyUse::Sign, key: key.public_key() }];
        (self.sign(0, keys, &terms), key)
    }

    fn trail_is_whole(&self) -> u64 {
        let (mut grown, mut slice) = (Frontier::default(), Slice::default());
        loop {
            let page = self.control.inner.events(self.id, &slice).unwrap();
            for entry in page.items {
                assert_eq!(entry.seq, grown.size() + 1, "a gap");
                grown.push(entry.entry().leaf(), |_, _, _| {});
            }
            if page.next.is_none() {
                let log = self.control.inner.log(self.id, 0, 1).unwrap();
                let head = Unverified::<Head>::decode(log.head.0).unwrap().claimed().clone();
                assert_eq!((head.size, head.root), (grown.size(), grown.root()), "an entry was changed");
                return head.size;
            }
            slice.after = grown.size().to_be_bytes().to_vec();
        }
    }
}

fn what_is_refused_halfway_leaves_nothing(world: &World<'_>) {
    let tenant = world.tenant(&(world.fresh)());
    let inner = &tenant.control.inner;
    let refused = inner.store.write(Scope::Tenant(tenant.id), |db| {
        let technician = Technician {
            id: TechnicianId([7; 16]),
            name: "bo".into(),
            email: String::new(),
            role: Role::Technician,
            delegated: false,
            added: 1,
        };
        insert_technician(db, tenant.id, &technician)?;
        insert_technician(db, tenant.id, &technician)
    });
    assert!(matches!(refused, Err(Refusal::Exists { .. })), "{refused:?}");
    assert!(inner.technicians(tenant.id, &Slice::default()).unwrap().items.is_empty());
    tenant.add("bo".into()).unwrap();
    assert!(matches!(tenant.add("bo".into()), Err(Refusal::Exists { .. })));
    assert_eq!(tenant.trail_is_whole(), 3);
    let read_only = inner.store.read(|db| insert_tenant(db, TenantId([1; 16]), "Sneaky", 1));
    assert!(read_only.is_err(), "a reader wrote");
}

fn computers_that_come_together_share_one_count(world: &World<'_>) {
    let tenant = world.tenant(&(world.fresh)());
    let ticket = tenant.ticket(5).0;
    tenant.submit(&ticket).unwrap();
    let (inner, serial) = (&tenant.control.inner, ticket.body().serial);
    let came = thread::scope(|scope| {
        let one = |_| {
            scope.spawn(move || {
                let used = inner.store.write(Scope::Tenant(tenant.id), |db| use_ticket(db, tenant.id, serial, 5));
                usize::from(used.is_ok())
            })
        };
        let all: Vec<_> = (0..12).map(one).collect();
        all.into_iter().map(|one| one.join().unwrap()).sum::<usize>()
    });
    assert_eq!(came, 5);
    assert_eq!(inner.tickets(tenant.id, &Slice::default()).unwrap().items[0].used, 5);
}

fn the_trail_has_no_gaps_when_many_write_at_once(world: &World<'_>) {
    let tenant = world.tenant(&(world.fresh)());
    thread::scope(|scope| {
        for writer in 0..6 {
            let tenant = &tenant;
            scope.spawn(move || (0..10).for_each(|number| drop(tenant.add(format!("t{writer}-{number}")).unwrap())));
        }
    });
    assert_eq!(tenant.trail_is_whole(), 62);
    assert_eq!(tenant.control.inner.technicians(tenant.id, &Slice::default()).unwrap().items.len(), 60);
}

fn the_trail_is_never_changed(world: &World<'_>) {
    let tenant = world.tenant(&(world.fresh)());
    for sql in ["UPDATE events SET at = 0", "DELETE FROM events"] {
        let changed = tenant.control.inner.store.write(Scope::Tenant(tenant.id), |db| db.execute(sql, &[]));
        assert!(changed.unwrap_err().to_string().contains("append-only"), "{sql}");
    }
    assert_eq!(tenant.trail_is_whole(), 2);
}

fn an_epoch_never_goes_back(world: &World<'_>) {
    let tenant = world.tenant(&(world.fresh)());
    let (first, second) = (tenant.revocations(1), tenant.revocations(2));
    assert_eq!(tenant.submit(&second).unwrap(), 2);
    for statement in [&first, &second] {
        assert!(matches!(tenant.submit(statement), Err(Refusal::EpochBehind { newest: 2, .. })));
    }
    let trust = tenant.control.trust(&tenant.id).unwrap();
    assert!(trust.is_revoked(&[2; 16]) && !trust.is_revoked(&[1; 16]));
}

fn everything_is_read_back_as_it_was_written(world: &World<'_>) {
    let database = (world.fresh)();
    let tenant = world.tenant(&database);
    let ticket = tenant.ticket(3).0;
    tenant.submit(&ticket).unwrap();
    tenant.submit(&tenant.revocations(9)).unwrap();
    let added = tenant.add("alex".into()).unwrap();
    let again = world.control(&database);
    let inner = &again.inner;
    let shown = inner.technicians(tenant.id, &Slice::default()).unwrap().items;
    assert_eq!((shown[0].id, shown[0].name.as_str(), shown[0].added), (added.id, "alex", 2));
    let shown = &inner.tickets(tenant.id, &Slice::default()).unwrap().items[0];
    assert_eq!((shown.tags.as_slice(), shown.uses, shown.used), (&["web".to_owned(), "eu".to_owned()][..], 3, 0));
    assert_eq!(inner.statements(tenant.id).unwrap().revocation.unwrap().0, tenant.revocations_in_force());
    assert_eq!(again.trust(&tenant.id).unwrap().revocation_epoch(), 9);
    let name = "Zoë 😀 – ünïted".to_owned();
    let other = inner.new_tenant(&Named { name: name.clone() }, 3).unwrap().id;
    assert_eq!(
        inner.tenants(&Slice::default()).unwrap().items.into_iter().find(|one| one.id == other).unwrap().name,
        name
    );
    assert!(inner.technicians(other, &Slice::default()).unwrap().items.is_empty(), "another tenant's");
}

impl Tenant {
    fn revocations_in_force(&self) -> bytes::Bytes {
        self.control.in_force().unwrap().pop().unwrap().statement
    }
}

fn a_number_that_is_too_large_is_refused(world: &World<'_>) {
    let tenant = world.tenant(&(world.fresh)());
    let refused = tenant.submit(&tenant.revocations(u64::MAX));
    assert!(refused.is_err());
    assert_eq!(tenant.submit(&tenant.revocations(i64::MAX as u64)).unwrap(), i64::MAX as u64);
}

fn an_interrupted_migration_leaves_nothing_half(world: &World<'_>) {
    let database = (world.fresh)();
    let step = |both| Migration { both, sqlite: "", postgres: "" };
    let first = [step("CREATE TABLE one (id BLOB PRIMARY KEY) STRICT;")];
    let broken = "CREATE TABLE two (id BLOB PRIMARY KEY) STRICT; INSERT INTO one VALUES (NULL); SELECT broken;";
    let store = open_with(&database, &first).unwrap();
    let insert = |store: &Store, table: &str| {
        let sql = format!("INSERT INTO {table} VALUES (?1)");
        store.write(Scope::Operator, |db| db.execute(&sql, &[b"x".into()]))
    };
    insert(&store, "one").unwrap();
    drop(store);
    let [first] = first;
    assert!(open_with(&database, &[step(first.both), step(broken)]).is_err());
    // The program that could do no better still works, and a better one goes on from there.
    let store = open_with(&database, &[step(first.both)]).unwrap();
    assert!(insert(&store, "two").is_err(), "half of the broken step was left");
    drop(store);
    let good = step("CREATE TABLE two (id BLOB PRIMARY KEY) STRICT;");
    let store = open_with(&database, &[first, good]).unwrap();
    insert(&store, "two").unwrap();
    let kept = store.read(|db| db.row("SELECT COUNT(*) FROM one", &[], |row| row.next::<u64>())).unwrap();
    assert_eq!(kept, Some(1));
}

fn a_newer_database_is_left_alone(world: &World<'_>) {
    let database = (world.fresh)();
    drop(Store::open(&database).unwrap());
    let error = open_with(&database, &MIGRATIONS[..1]).err().unwrap().to_string();
    assert!(error.contains(&format!("newer Gatepass (schema {}", MIGRATIONS.len())), "{error}");
    Store::open(&database).unwrap();
}

fn a_backup_is_restored_whole(world: &World<'_>) {
    let database = (world.fresh)();
    let tenant = world.tenant(&database);
    tenant.submit(&tenant.revocations(1)).unwrap();
    tenant.submit(&tenant.ticket(3).0).unwrap();
    (0..50).for_each(|number| drop(tenant.add(format!("t{number}")).unwrap()));
    let (file, other) = (world.file(), world.file());
    let rows = Control::back_up(&database, &file).unwrap();
    assert!(matches!(Control::back_up(&database, &file), Err(StoreError::NotEmpty(_))), "a backup was written over");
    assert!(matches!(Control::restore(&database, &file), Err(StoreError::NotEmpty(_))), "a database was written over");

    let restored = (world.fresh)();
    assert_eq!(Control::restore(&restored, &file).unwrap(), rows);
    let Tenant { id, ca, .. } = tenant;
    let again = Tenant { control: world.control(&restored), id, ca };
    assert_eq!(again.trail_is_whole(), 54);
    assert_eq!(again.control.inner.technicians(id, &Slice::default()).unwrap().items.len(), 50);
    assert_eq!(again.control.trust(&id).unwrap().revocation_epoch(), 1);
    // What is damaged, or no backup, is said to be so, and nothing of it is kept.
    std::fs::write(
        &other,
        b"not a database, but as long as a header of one would have to be: one hundred bytes and then some.",
    )
    .unwrap();
    let empty = (world.fresh)();
    assert!(Control::restore(&empty, &other).is_err());
    assert_eq!(Control::restore(&empty, &file).unwrap(), rows);
}

fn yesterdays_backup_widens_nobodys_rights(world: &World<'_>) {
    let database = (world.fresh)();
    let tenant = world.tenant(&database);
    let token = tenant.control.inner.new_tenant(&Named { name: "Other".into() }, 1).unwrap();
    let (statement, key) = tenant.ticket(1);
    tenant.submit(&statement).unwrap();
    let (yesterday, now) = (world.file(), http::now());
    Control::back_up(&database, &yesterday).unwrap();
    // Since then: something was revoked, and the ticket used.
    tenant.submit(&tenant.revocations(1)).unwrap();
    let agent = tenant.control.trust(&tenant.id).unwrap();

    let restored = (world.fresh)();
    Control::restore(&restored, &yesterday).unwrap();
    let Tenant { id, ca, .. } = tenant;
    let again = Tenant { control: world.control(&restored), id, ca };
    let inner = &again.control.inner;
    let path = format!("/api/v1/tenants/{}", token.id);
    let came_in = inner.let_in(&hyper::Method::GET, &path, Some(&token.token), now);
    assert!(matches!(came_in, Err(Refusal::SignIn)), "a token that may have been withdrawn");
    let enrol = crate::enrol::tests::phone(&statement, &key);
    assert!(matches!(inner.enrol_device(&enrol, now), Err(Refusal::TicketUsedUp { .. })), "a ticket that was used");
    // An agent that has seen the newer list does not go back, whatever this server shows.
    let mut agent = gatepass_protocol::trust::TrustStore::clone(&agent);
    assert!(agent.is_revoked(&[1; 16]));
    assert!(inner.statements(id).unwrap().revocation.is_none());
    let older = again.revocations(0);
    assert!(agent.accept_revocation(older.bytes(), now).is_err());
    // And the administrator's machine brings the list back, as it was.
    again.submit(&again.revocations(1)).unwrap();
    assert!(again.control.trust(&id).unwrap().is_revoked(&[1; 16]));
}

fn a_backup_of_the_first_version_is_restored(world: &World<'_>) {
    let old = Database::File(world.file());
    let store = open_with(&old, &MIGRATIONS[..1]).unwrap();
    store.write(Scope::Operator, |db| insert_tenant(db, TenantId([3; 16]), "Old", 5)).unwrap();
    drop(store);
    let Database::File(file) = old else { unreachable!() };
    let before = std::fs::read(&file).unwrap();
    let restored = (world.fresh)();
    Control::restore(&restored, &file).unwrap();
    assert_eq!(world.control(&restored).inner.tenants(&Slice::default()).unwrap().items[0].name, "Old");
    assert_eq!(std::fs::read(&file).unwrap(), before, "the backup itself was changed");
}

#[test]
fn postgres_killed_under_load_loses_nothing_that_was_promised() {
    let (cluster, folder) = (Cluster::start(), TempDir::new().unwrap());
    let database = cluster.database("postgres");
    let tenant = Tenant::of(Control::connect(&database, folder.path()).unwrap());
    let (kept, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    let (back, unsure) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for writer in 0..4 {
            let (tenant, kept, refused, back, unsure) = (&tenant, &kept, &refused, &back, &unsure);
            scope.spawn(move || {
                let begun = Instant::now();
                // On until something was kept after the return.
                for number in 0.. {
                    let was_down = back.load(Ordering::SeqCst) == 1;
                    match tenant.add(format!("t{writer}-{number}")) {
                        Ok(_) => {
                            kept.fetch_add(1, Ordering::SeqCst);
                            if was_down {
                                return;
                            }
                        }
                        Err(Refusal::Store(StoreError::Unsure)) => drop(unsure.fetch_add(1, Ordering::SeqCst)),
                        Err(Refusal::Store(StoreError::Gone(_))) => drop(refused.fetch_add(1, Ordering::SeqCst)),
                        Err(other) => panic!("{other}"),
                    }
                    assert!(begun.elapsed() < Duration::from_secs(120), "it never came back");
                }
            });
        }
        wait_for(|| kept.load(Ordering::SeqCst) >= 20);
        cluster.kill();
        wait_for(|| refused.load(Ordering::SeqCst) >= 4);
        let refusal = tenant.add("nobody".into()).unwrap_err();
        assert!(refusal.to_string().contains("can't be reached"), "{refusal}");
        assert_eq!(refusal.response().status(), 503);
        cluster.resume();
        back.store(1, Ordering::SeqCst);
    });
    let counted = tenant.control.inner.store.read(|db| counts(db, tenant.id)).unwrap();
    let (there, kept) = (counted[0], kept.into_inner());
    assert!((kept..=kept + unsure.into_inner()).contains(&there), "{there} are there, {kept} were promised");
    assert_eq!(tenant.trail_is_whole(), there + 2, "each act with its entry");
}

fn wait_for(done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < Duration::from_secs(120), "it never happened");
        thread::yield_now();
    }
}

#[test]
fn two_nodes_at_one_postgres_hear_of_each_others_revocations() {
    let (cluster, here, there) = (Cluster::start(), TempDir::new().unwrap(), TempDir::new().unwrap());
    let database = cluster.database("postgres");
    let node = Control::connect(&database, here.path()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let other = Control::connect(&database, there.path()).unwrap();
    let mut news = other.news();
    let following = runtime.spawn({
        let other = other.clone();
        async move { other.follow().await }
    });
    let tenant = Tenant::of(node);
    tenant.submit(&tenant.revocations(4)).unwrap();
    let heard = runtime.block_on(news.recv()).unwrap();
    assert_eq!((heard.tenant, heard.epoch), (tenant.id, 4));
    assert!(other.trust(&tenant.id).unwrap().is_revoked(&[4; 16]));
    following.abort();
}
