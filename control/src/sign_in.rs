//! Signing in with a password and a one-time code (RFC 6238), for a token that holds for a working day.
//!
//! An administrator gives a technician a token of their own; with it the technician sets a password and gets the secret of the
//! codes. From then on those two bring tokens. A code is taken once; a try is counted before it is looked at, and five wrong ones
//! lock for a minute, then for two, and so on up to fifteen. Whatever was wrong, the answer is the same, after the same work.

use argon2::{Algorithm, Argon2, Params, Version};
use rand_core::Rng as _;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;
use zxcvbn::{Score, zxcvbn};

use gatepass_protocol::ids::{Serial, TechnicianId, TenantId};

use crate::api::{By, NewSignIn, SignIn, SignInMade, Token, TokenCreated};
use crate::audit::{self, note};
use crate::http::{Answer, Call, done, missing};
use crate::problem::Refusal;
use crate::store::{self, Scope};
use crate::{Inner, rng, token};

/// Argon2id as OWASP's Password Storage Cheat Sheet has it for servers: 19 MiB, two passes, one lane.
const PARAMETERS: (u32, u32, u32) = (19 * 1024, 2, 1);

/// Passwords that are looked at side by side: each takes 19 MiB, and anybody may ask.
const AT_ONCE: usize = 4;

/// So many wrong ones lock.
const TRIES: u64 = 5;

/// For so many seconds at first, and at most.
const LOCK: (u64, u64) = (60, 900);

/// A working day.
const SESSION: u64 = 12 * 3600;

/// Longer ones only cost time.
const LONGEST_PASSWORD: usize = 256;

impl Inner {
    /// Sets how the technician whose token this is signs in from now on. Once that is set, only an administrator takes it away: a
    /// stolen token must not become a password.
    pub(crate) fn new_sign_in(&self, call: &Call<'_>, new: NewSignIn) -> Result<SignInMade, Refusal> {
        let password = Zeroizing::new(new.password);
        let tenant = call.tenant;
        let who = call.who.and_then(|who| who.technician);
        let who =
            who.ok_or_else(|| Refusal::Fix("this token is no technician's own; ask for one that is".to_owned()))?;
        let name =
            self.store.read(|db| store::technician(db, tenant, who))?.ok_or_else(|| missing("technician", who))?.name;
        judge(&password, &name)?;
        let (mut salt, mut totp) = ([0; 16], [0; 20]);
        rng().fill_bytes(&mut salt);
        rng().fill_bytes(&mut totp);
        let hash = self.hash(&password, &salt)?;
        let sign_in = store::SignIn { salt, hash, totp, used_step: 0, failures: 0, locked_until: 0 };
        self.store.write(Scope::Tenant(tenant), |db| {
            if store::sign_in(db, tenant, who)?.is_some() {
                return Err(Refusal::Exists { what: "sign-in for", name: name.clone() });
            }
            store::set_sign_in(db, tenant, who, &sign_in)?;
            note(db, tenant, call.now, "sign-in set", &name, "")
        })?;
        let secret = totp_rs::Secret::from(totp).to_base32();
        let uri = format!("otpauth://totp/Gatepass:{name}?secret={secret}&issuer=Gatepass");
        Ok(SignInMade { uri })
    }

    /// Takes a technician's password, codes and tokens away.
    pub(crate) fn remove_sign_in(&self, call: &Call<'_>) -> Result<Answer, Refusal> {
        let (tenant, who) = (call.tenant, call.id(0)?);
        self.store.write(Scope::Tenant(tenant), |db| {
            let name = store::technician(db, tenant, who)?.ok_or_else(|| missing("technician", who))?.name;
            store::remove_sign_in(db, tenant, who)?;
            store::remove_tokens_of(db, tenant, who)?;
            note(db, tenant, call.now, "sign-in removed", &name, "")
        })?;
        Ok(done())
    }

    /// A token for whoever knows the password and has the codes.
    pub(crate) fn sign_in(&self, sign_in: SignIn, now: u64) -> Result<TokenCreated, Refusal> {
        let SignIn { tenant, name, password, code } = sign_in;
        let password = Zeroizing::new(password);
        let tried = self.store.write(Scope::Tenant(tenant), |db| {
            let Some(who) = store::technician_named(db, tenant, &name)? else { return Ok(None) };
            let Some(mut known) = store::sign_in(db, tenant, who)? else { return Ok(None) };
            if known.locked_until > now {
                return Ok(None);
            }
            known.failures += 1;
            known.locked_until = now + lock(known.failures);
            store::set_sign_in(db, tenant, who, &known)?;
            Ok::<_, Refusal>(Some((who, known)))
        })?;
        // For a stranger the same work is done, with a salt that is nobody's.
        let salt = tried.as_ref().map_or([0; 16], |(_, known)| known.salt);
        let hash = self.hash(&password, &salt)?;
        let (who, known) = tried.ok_or(Refusal::WrongSignIn)?;
        let step = step(&known.totp, &code, now)?;
        let fits = bool::from(hash.ct_eq(&known.hash)) && step.is_some_and(|step| step > known.used_step);
        match step.filter(|_| fits) {
            Some(step) => self.signed_in(tenant, who, step, now),
            None => {
                // As often as it may be tried, and no oftener: whoever is locked out is not looked at.
                let seen = self
                    .store
                    .write(Scope::Tenant(tenant), |db| note(db, tenant, now, "sign-in refused", &who.to_string(), ""));
                seen.and(Err(Refusal::WrongSignIn))
            }
        }
    }

    fn signed_in(&self, tenant: TenantId, who: TechnicianId, step: u64, now: u64) -> Result<TokenCreated, Refusal> {
        let (secret, hash) = token::new();
        let token = self.store.write(Scope::Tenant(tenant), |db| {
            let known = store::sign_in(db, tenant, who)?.filter(|known| known.used_step < step);
            // Somebody was faster with the same code.
            let known = known.ok_or(Refusal::WrongSignIn)?;
            store::set_sign_in(
                db,
                tenant,
                who,
                &store::SignIn { used_step: step, failures: 0, locked_until: 0, ..known },
            )?;
            let technician = store::technician(db, tenant, who)?.ok_or(Refusal::WrongSignIn)?;
            let token = Token {
                id: Serial::random(&mut rng()),
                name: "signed in".to_owned(),
                role: technician.role,
                technician: Some(who),
                created: now,
                expires: Some(now + SESSION),
            };
            store::insert_token(db, Some(tenant), &token, &hash)?;
            let request = "POST /sign-in".to_owned();
            let by = By { role: token.role, technician: token.technician, token: token.id, request };
            audit::acting(Some(by), || note(db, tenant, now, "signed in", &technician.name, &token.id.to_string()))?;
            Ok::<_, Refusal>(token)
        })?;
        Ok(TokenCreated { token, secret: secret.to_string() })
    }

    fn hash(&self, password: &str, salt: &[u8; 16]) -> Result<[u8; 32], Refusal> {
        let _turn = self.hashing.try_acquire().map_err(|_| Refusal::Overloaded)?;
        let (memory, passes, lanes) = PARAMETERS;
        let mut hash = [0; 32];
        let parameters = Params::new(memory, passes, lanes, Some(hash.len()));
        let hashed = parameters.and_then(|parameters| {
            let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters);
            argon2.hash_password_into(password.as_bytes(), salt, &mut hash)
        });
        hashed.map(|()| hash).map_err(|error| {
            tracing::error!(%error, "a password can't be hashed");
            Refusal::Failed
        })
    }
}

/// How many passwords may be looked at side by side.
pub(crate) fn turns() -> tokio::sync::Semaphore {
    tokio::sync::Semaphore::new(AT_ONCE)
}

/// The seconds for which so many failures lock.
fn lock(failures: u64) -> u64 {
    let Some(doublings) = failures.checked_sub(TRIES) else { return 0 };
    LOCK.0.checked_shl(u32::try_from(doublings.min(20)).unwrap_or(20)).map_or(LOCK.1, |lock| lock.min(LOCK.1))
}

/// The time step whose code this is, if it is one of the last, the present or the next.
fn step(secret: &[u8; 20], code: &str, now: u64) -> Result<Option<u64>, Refusal> {
    let codes = totp_rs::Builder::new().with_secret(*secret).build().map_err(|error| {
        tracing::error!(%error, "a one-time code can't be computed");
        Refusal::Failed
    })?;
    Ok(codes.check(code, now))
}

fn judge(password: &str, name: &str) -> Result<(), Refusal> {
    let is_short_enough = password.len() <= LONGEST_PASSWORD;
    if is_short_enough && zxcvbn(password, &["gatepass", name]).score() >= Score::Three {
        return Ok(());
    }
    Err(Refusal::Fix(format!(
        "this password is too easy to guess, or longer than {LONGEST_PASSWORD} bytes; four or more random words do well"
    )))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::Control;
    use crate::access::Caller;
    use crate::api::{Named, NewTechnician, Role};

    const NOW: u64 = 1_000_000_000;
    const PASSWORD: &str = "orbit-kettle-marrow-fiddle-61";

    struct World {
        control: Control,
        tenant: TenantId,
        who: TechnicianId,
        codes: totp_rs::Totp,
        _folder: TempDir,
    }

    impl World {
        fn new() -> World {
            let folder = TempDir::new().unwrap();
            let control = Control::open(&folder.path().join("control.db")).unwrap();
            let tenant = control.inner.new_tenant(&Named { name: "Acme".into() }, NOW).unwrap().id;
            let new = NewTechnician { name: "cleo".into(), email: String::new(), role: Role::Auditor };
            let who = control.inner.new_technician(&crate::matrix::call(tenant, None), new).unwrap().id;
            let made = control.inner.new_sign_in(&own(tenant, who), NewSignIn { password: PASSWORD.into() }).unwrap();
            let secret = made.uri.split("secret=").nth(1).unwrap().split('&').next().unwrap();
            let secret = totp_rs::Secret::try_from_base32(secret).unwrap();
            let codes = totp_rs::Builder::new().with_secret(secret).build().unwrap();
            World { control, tenant, who, codes, _folder: folder }
        }

        fn come(&self, name: &str, password: &str, code: &str, now: u64) -> Result<TokenCreated, Refusal> {
            let (name, password, code) = (name.into(), password.into(), code.into());
            self.control.inner.sign_in(SignIn { tenant: self.tenant, name, password, code }, now)
        }

        fn code(&self, now: u64) -> String {
            self.codes.generate(now).to_string()
        }
    }

    fn own(tenant: TenantId, technician: TechnicianId) -> Call<'static> {
        let who = Some(Caller {
            role: Role::Auditor,
            tenant: Some(tenant),
            technician: Some(technician),
            token: Serial([1; 16]),
        });
        Call { who, now: NOW, ..crate::matrix::call(tenant, None) }
    }

    #[test]
    fn a_technician_signs_in_with_password_and_code_and_each_code_once() {
        let world = World::new();
        let code = world.code(NOW);
        let made = world.come("cleo", PASSWORD, &code, NOW).unwrap();
        assert_eq!(
            (made.token.role, made.token.technician, made.token.expires),
            (Role::Auditor, Some(world.who), Some(NOW + SESSION))
        );
        let path = format!("/api/v1/tenants/{}/events", world.tenant);
        let come_in = |now| world.control.inner.let_in(&hyper::Method::GET, &path, Some(&made.secret), now);
        assert!(come_in(NOW + SESSION - 1).is_ok() && come_in(NOW + SESSION).is_err());
        assert!(matches!(world.come("cleo", PASSWORD, &code, NOW + 1), Err(Refusal::WrongSignIn)), "a code twice");
        assert!(
            matches!(world.come("cleo", PASSWORD, &world.code(NOW - 30), NOW + 1), Err(Refusal::WrongSignIn)),
            "an older code"
        );
        world.come("cleo", PASSWORD, &world.code(NOW + 30), NOW + 30).unwrap();
    }

    #[test]
    fn whatever_is_wrong_the_answer_is_the_same_and_five_of_them_lock() {
        let world = World::new();
        let good = |now| world.come("cleo", PASSWORD, &world.code(now), now);
        let mut answers = vec![world.come("nobody", PASSWORD, &world.code(NOW), NOW).err().unwrap().to_string()];
        answers.push(world.come("cleo", PASSWORD, "000000x", NOW).err().unwrap().to_string());
        for _ in 0..4 {
            answers.push(world.come("cleo", "wrong", &world.code(NOW), NOW).err().unwrap().to_string());
        }
        answers.push(good(NOW).err().unwrap().to_string());
        answers.dedup();
        assert_eq!(answers.len(), 1, "{answers:?}");
        assert!(good(NOW + 59).is_err());
        good(NOW + 60).unwrap();
        // A good one forgives the others.
        for _ in 0..4 {
            assert!(world.come("cleo", "wrong", "", NOW + 90).is_err());
        }
        good(NOW + 90).unwrap();
        assert_eq!([4, 5, 6, 8, 9, 90].map(lock), [0, 60, 120, 480, 900, 900]);
    }

    #[test]
    fn a_stolen_token_does_not_become_a_password() {
        let world = World::new();
        let inner = &world.control.inner;
        let set = |call: &Call<'_>, password: &str| inner.new_sign_in(call, NewSignIn { password: password.into() });
        let again = set(&own(world.tenant, world.who), "another-kettle-marrow-fiddle-62");
        assert!(matches!(again, Err(Refusal::Exists { .. })));
        let token = world.come("cleo", PASSWORD, &world.code(NOW), NOW).unwrap();
        let id = world.who.to_string();
        inner.remove_sign_in(&Call { places: vec![&id], ..own(world.tenant, world.who) }).unwrap();
        assert!(world.come("cleo", PASSWORD, &world.code(NOW + 60), NOW + 60).is_err());
        let path = format!("/api/v1/tenants/{}", world.tenant);
        assert!(inner.let_in(&hyper::Method::GET, &path, Some(&token.secret), NOW).is_err());
        for weak in ["", "password", "cleo-cleo"] {
            assert!(matches!(set(&own(world.tenant, world.who), weak), Err(Refusal::Fix(_))), "{weak}");
        }
        let nobodys = Call { who: None, ..own(world.tenant, world.who) };
        assert!(set(&nobodys, PASSWORD).is_err(), "a token that is no technician's own");
        set(&own(world.tenant, world.who), PASSWORD).unwrap();
    }
}
