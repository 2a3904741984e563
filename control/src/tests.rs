//! What can only be arranged from inside: a full disk, a database of tomorrow.

use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::api::{Named, NewTechnician, Role};

struct Tenant {
    control: Control,
    id: TenantId,
    path: PathBuf,
    _folder: TempDir,
}

fn tenant() -> Tenant {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("control.db");
    let control = Control::open(&path).unwrap();
    let id = control.inner.new_tenant(&Named { name: "Acme".into() }, 1).unwrap().id;
    Tenant { control, id, path, _folder: folder }
}

impl Tenant {
    fn add(&self, number: usize) -> Result<(), Refusal> {
        let new = NewTechnician { name: format!("t{number}"), email: String::new(), role: Role::Technician };
        self.control.inner.new_technician(&matrix::call(self.id, None), new).map(|_| ())
    }

    /// Whether every technician has its entry in the trail, and no entry is without its technician.
    fn whole(&self) -> (usize, usize) {
        let counted = self.control.inner.store.read(|db| store::counts(db, self.id)).unwrap();
        (counted[0] as usize, counted[4] as usize)
    }
}

#[test]
fn a_full_disk_is_said_clearly_and_loses_nothing() {
    let tenant = tenant();
    tenant.add(0).unwrap();
    tenant.control.inner.store.fill_disk(3);
    let (count, refusal) = (1..10_000).find_map(|count| tenant.add(count).err().map(|why| (count, why))).unwrap();
    assert!(matches!(refusal, Refusal::Store(StoreError::DiskFull)), "{refusal}");
    assert!(refusal.to_string().contains("nothing was written. Make room"), "{refusal}");
    assert_eq!(refusal.response().status(), 507);
    assert_eq!(tenant.whole(), (count, count + 1), "each act with its entry, and the tenant's own");

    tenant.control.inner.store.fill_disk(1000);
    tenant.add(count).unwrap();
    assert_eq!(tenant.whole(), (count + 1, count + 2));
    drop(Control::open(&tenant.path).unwrap());
}

#[test]
fn a_database_of_a_newer_version_is_left_alone() {
    let tenant = tenant();
    let database = rusqlite::Connection::open(&tenant.path).unwrap();
    database.pragma_update(None, "user_version", 99).unwrap();
    let error = Control::open(&tenant.path).err().unwrap().to_string();
    assert!(error.contains("newer Gatepass (schema 99"), "{error}");
}

#[test]
fn a_migration_that_was_interrupted_starts_again() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("control.db");
    // The power went between making the file and the end of the first migration: an empty file with no schema.
    std::fs::write(&path, b"").unwrap();
    Control::open(&path).unwrap();
    assert!(Control::open(folder.path()).err().unwrap().to_string().contains("can't open the database"));
}

#[test]
fn the_operators_token_is_made_once() {
    let tenant = tenant();
    let token = tenant.path.with_file_name(OPERATOR_TOKEN_FILE);
    let before = std::fs::read_to_string(&token).unwrap();
    drop(Control::open(&tenant.path).unwrap());
    assert_eq!(std::fs::read_to_string(&token).unwrap(), before);
    let inner = &tenant.control.inner;
    let came_in = |path: &str, token| inner.let_in(&hyper::Method::GET, path, token, 1).is_ok();
    assert!(came_in("/api/v1/tenants", Some(before.trim())));
    assert!(!came_in("/api/v1/tenants", None) && !came_in("/api/v1/tenants", Some("")));
    let its = format!("/api/v1/tenants/{}", tenant.id);
    assert!(!came_in(&its, Some(before.trim())), "the operator is no administrator");
}
