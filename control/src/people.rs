//! People and what they may do through the API: technicians, groups of them, the operator's people and their delegation, tokens,
//! and with whom a computer is shared.

use gatepass_protocol::ids::{ComputerId, Serial, TechnicianId, TenantId};

use crate::admin::good_name;
use crate::api::{
    Delegate, Group, NewGroup, NewPerson, NewTechnician, NewToken, Page, Person, Role, Shares, Technician,
    TechnicianChange, Token, TokenCreated, is_unprintable,
};
use crate::audit::note;
use crate::http::{Answer, Call, Slice, done, missing};
use crate::problem::Refusal;
use crate::store::{self, Db, Scope, SeenBy};
use crate::{Inner, rng, token};

/// Technicians' names become part of account names: `gp-` and the name stay below the 20 characters that directories allow.
const LONGEST_TECHNICIAN: usize = 16;

/// The longest e-mail address (RFC 5321, 4.5.3.1.3, without the angle brackets).
const LONGEST_EMAIL: usize = 254;

/// A token that nobody renews for longer than a year is one that nobody remembers.
const LONGEST_TOKEN: u64 = 366;

/// Members of a group, and those with whom one computer is shared by name.
const MOST_NAMED: usize = 1000;

impl Inner {
    pub(crate) fn technicians(&self, tenant: TenantId, slice: &Slice) -> Result<Page<Technician>, Refusal> {
        let technicians = self.store.read(|db| store::technicians(db, tenant, &slice.after, slice.and_one()))?;
        Ok(slice.page(technicians, |one| &one.id.0))
    }

    pub(crate) fn technician(&self, tenant: TenantId, id: TechnicianId) -> Result<Technician, Refusal> {
        self.store.read(|db| technician(db, tenant, id))
    }

    pub(crate) fn new_technician(&self, call: &Call<'_>, new: NewTechnician) -> Result<Technician, Refusal> {
        let NewTechnician { name, email, role } = new;
        let id = TechnicianId::random(&mut rng());
        let one = Technician { id, name: account_name(name)?, email, role, delegated: false, added: call.now };
        self.add_technician(call, one)
    }

    /// Makes one of the operator's people a technician of a tenant, whose CA then decides whether to sign for them.
    pub(crate) fn delegate(&self, call: &Call<'_>, delegate: &Delegate) -> Result<Technician, Refusal> {
        self.trust_of(call.tenant)?;
        let person = self.store.read(|db| store::person(db, delegate.person))?;
        let Person { id, name, email, .. } = person.ok_or_else(|| missing("person", delegate.person))?;
        let one = Technician { id, name, email, role: delegate.role, delegated: true, added: call.now };
        self.add_technician(call, one)
    }

    fn add_technician(&self, call: &Call<'_>, one: Technician) -> Result<Technician, Refusal> {
        let tenant = call.tenant;
        let one = Technician { email: good_email(one.email, true)?, role: of_a_tenant(one.role)?, ..one };
        let added = self.store.write(Scope::Tenant(tenant), |db| {
            call.once(db, |db| {
                store::insert_technician(db, tenant, &one)?;
                let act = if one.delegated { "technician delegated" } else { "technician added" };
                note(db, tenant, call.now, act, &one.name, &format!("{}, {}", one.id, one.role))?;
                Ok(one)
            })
        })?;
        Ok(added.0)
    }

    pub(crate) fn change_technician(&self, call: &Call<'_>, change: TechnicianChange) -> Result<Technician, Refusal> {
        let (tenant, id) = (call.tenant, call.id(0)?);
        let (email, role) = (good_email(change.email, true)?, of_a_tenant(change.role)?);
        self.store.write(Scope::Tenant(tenant), |db| {
            let before = technician(db, tenant, id)?;
            call.expects(&before)?;
            if role != before.role {
                store::remove_tokens_of(db, tenant, id)?;
            }
            let after = Technician { email, role, ..before };
            store::update_technician(db, tenant, &after)?;
            note(db, tenant, call.now, "technician changed", &after.name, &format!("{}, {role}", after.email))?;
            Ok(after)
        })
    }

    pub(crate) fn people(&self, slice: &Slice) -> Result<Page<Person>, Refusal> {
        let people = self.store.read(|db| store::people(db, &slice.after, slice.and_one()))?;
        Ok(slice.page(people, |one| &one.id.0))
    }

    pub(crate) fn new_person(&self, call: &Call<'_>, new: NewPerson) -> Result<Person, Refusal> {
        let id = TechnicianId::random(&mut rng());
        let (name, email) = (account_name(new.name)?, good_email(new.email, false)?);
        let person = Person { id, name, email, added: call.now };
        let added = self.store.write(Scope::Operator, |db| {
            call.once(db, |db| {
                store::insert_person(db, &person)?;
                let detail = format!("{}, {}", person.id, person.email);
                note(db, store::OPERATOR, call.now, "person added", &person.name, &detail)?;
                Ok(person)
            })
        })?;
        Ok(added.0)
    }

    pub(crate) fn groups(&self, tenant: TenantId, slice: &Slice) -> Result<Page<Group>, Refusal> {
        let groups = self.store.read(|db| store::groups(db, tenant, &slice.after, slice.and_one()))?;
        Ok(slice.page(groups, |one| &one.id.0))
    }

    pub(crate) fn group(&self, tenant: TenantId, id: Serial) -> Result<Group, Refusal> {
        self.store.read(|db| group(db, tenant, id))
    }

    pub(crate) fn new_group(&self, call: &Call<'_>, new: NewGroup) -> Result<Group, Refusal> {
        let (tenant, group) = (call.tenant, good_group(Serial::random(&mut rng()), new)?);
        let made = self.store.write(Scope::Tenant(tenant), |db| {
            call.once(db, |db| {
                store::insert_group(db, tenant, &group)?;
                note(db, tenant, call.now, "group made", &group.name, &members(&group))?;
                Ok(group)
            })
        })?;
        Ok(made.0)
    }

    pub(crate) fn change_group(&self, call: &Call<'_>, new: NewGroup) -> Result<Group, Refusal> {
        let (tenant, after) = (call.tenant, good_group(call.id(0)?, new)?);
        self.store.write(Scope::Tenant(tenant), |db| {
            call.expects(&group(db, tenant, after.id)?)?;
            store::update_group(db, tenant, &after)?;
            note(db, tenant, call.now, "group changed", &after.name, &members(&after))?;
            group(db, tenant, after.id)
        })
    }

    pub(crate) fn remove_group(&self, call: &Call<'_>) -> Result<Answer, Refusal> {
        let (tenant, id) = (call.tenant, call.id(0)?);
        self.store.write(Scope::Tenant(tenant), |db| {
            let before = group(db, tenant, id)?;
            call.expects(&before)?;
            store::remove_group(db, tenant, id)?;
            note(db, tenant, call.now, "group removed", &before.name, "")
        })?;
        Ok(done())
    }

    pub(crate) fn shares(&self, tenant: TenantId, computer: ComputerId) -> Result<Shares, Refusal> {
        self.store.read(|db| shares(db, tenant, computer))
    }

    pub(crate) fn share(&self, call: &Call<'_>, shares_after: Shares) -> Result<Shares, Refusal> {
        let (tenant, computer) = (call.tenant, call.id(0)?);
        if shares_after.technicians.len() + shares_after.groups.len() > MOST_NAMED {
            return Err(Refusal::Fix(format!("a computer is shared with at most {MOST_NAMED} by name; make a group")));
        }
        self.store.write(Scope::Tenant(tenant), |db| {
            call.expects(&shares(db, tenant, computer)?)?;
            store::set_shares(db, tenant, computer, &shares_after)?;
            let after = shares(db, tenant, computer)?;
            let detail = serde_json::to_string(&after).map_err(|error| Refusal::Fix(error.to_string()))?;
            note(db, tenant, call.now, "computer shared", &computer.to_string(), &detail)?;
            Ok(after)
        })
    }

    pub(crate) fn tokens(&self, owner: Option<TenantId>, slice: &Slice) -> Result<Page<Token>, Refusal> {
        let tokens = self.store.read(|db| store::tokens(db, owner, &slice.after, slice.and_one()))?;
        Ok(slice.page(tokens, |one| &one.id.0))
    }

    /// Makes a token. It lets do nothing that whoever makes it could not do, or, for the operator, make others do.
    pub(crate) fn new_token(
        &self,
        owner: Option<TenantId>,
        call: &Call<'_>,
        new: NewToken,
    ) -> Result<TokenCreated, Refusal> {
        if owner == Some(store::OPERATOR) {
            return Err(missing("tenant", store::OPERATOR));
        }
        if !(1..=LONGEST_TOKEN).contains(&new.days) {
            return Err(Refusal::Fix(format!("a token holds for 1 to {LONGEST_TOKEN} days")));
        }
        let is_fitting = if owner.is_some() { new.role.is_of_a_tenant() } else { new.role == Role::GlobalAdmin };
        if !is_fitting {
            return Err(Refusal::Fix(format!("the role {} is none for a token that is made here", new.role)));
        }
        let (secret, hash) = token::new();
        let token = Token {
            id: Serial::random(&mut rng()),
            name: good_name("the token's name", &new.name)?.to_owned(),
            role: new.role,
            technician: new.technician,
            created: call.now,
            expires: Some(call.now + new.days * 86_400),
        };
        let scope = owner.map_or(Scope::Operator, Scope::Tenant);
        let (token, is_new) = self.store.write(scope, |db| {
            call.once(db, |db| {
                match (owner, new.technician) {
                    (Some(tenant), Some(id)) => {
                        let whose = technician(db, tenant, id)?;
                        if !new.role.is_within(whose.role) {
                            let Technician { name, role, .. } = whose;
                            return Err(Refusal::Fix(format!(
                                "{name} has the role {role}, which does not include {}",
                                new.role
                            )));
                        }
                    }
                    (None, Some(_)) => {
                        return Err(Refusal::Fix("the operator has no technicians, but people".to_owned()));
                    }
                    (_, None) => {}
                }
                let tenant = owner.unwrap_or(store::OPERATOR);
                store::tenant(db, tenant)?.ok_or_else(|| missing("tenant", tenant))?;
                store::insert_token(db, owner, &token, &hash)?;
                note(
                    db,
                    tenant,
                    call.now,
                    "token made",
                    &token.id.to_string(),
                    &format!("{}, {}", token.name, token.role),
                )?;
                Ok(token)
            })
        })?;
        if !is_new {
            return Err(Refusal::SecretShown(token.id.to_string()));
        }
        Ok(TokenCreated { token, secret: secret.to_string() })
    }

    pub(crate) fn remove_token(&self, owner: Option<TenantId>, call: &Call<'_>) -> Result<Answer, Refusal> {
        let id: Serial = call.id(0)?;
        self.store.write(owner.map_or(Scope::Operator, Scope::Tenant), |db| {
            if !store::remove_token(db, owner, id)? {
                return Err(missing("token", id));
            }
            if owner.is_none() && !store::has_operator(db)? {
                return Err(Refusal::Fix("the operator's last token stays, or nobody could make others".to_owned()));
            }
            note(db, owner.unwrap_or(store::OPERATOR), call.now, "token removed", &id.to_string(), "")
        })?;
        Ok(done())
    }
}

/// What a caller sees of the computers.
pub(crate) fn seen_by(call: &Call<'_>) -> SeenBy {
    match &call.who {
        Some(who) if who.sees_only_shared() => SeenBy::Technician(who.technician),
        _ => SeenBy::Everybody,
    }
}

fn technician(db: &mut dyn Db, tenant: TenantId, id: TechnicianId) -> Result<Technician, Refusal> {
    store::technician(db, tenant, id)?.ok_or_else(|| missing("technician", id))
}

fn group(db: &mut dyn Db, tenant: TenantId, id: Serial) -> Result<Group, Refusal> {
    store::group(db, tenant, id)?.ok_or_else(|| missing("group", id))
}

fn shares(db: &mut dyn Db, tenant: TenantId, computer: ComputerId) -> Result<Shares, Refusal> {
    store::computer_certificate(db, tenant, computer)?.ok_or_else(|| missing("computer", computer))?;
    Ok(store::shares(db, tenant, computer)?)
}

fn good_group(id: Serial, new: NewGroup) -> Result<Group, Refusal> {
    if new.technicians.len() > MOST_NAMED {
        return Err(Refusal::Fix(format!("a group has at most {MOST_NAMED} technicians; make several")));
    }
    let (name, mut technicians) = (good_name("the group's name", &new.name)?.to_owned(), new.technicians);
    technicians.sort_unstable();
    technicians.dedup();
    Ok(Group { id, name, technicians })
}

fn members(group: &Group) -> String {
    group.technicians.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn of_a_tenant(role: Role) -> Result<Role, Refusal> {
    if role.is_of_a_tenant() { Ok(role) } else { Err(Refusal::Fix(format!("{role} is no role in a tenant"))) }
}

fn account_name(name: String) -> Result<String, Refusal> {
    let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_good = (1..=LONGEST_TECHNICIAN).contains(&name.len())
        && name.bytes().all(letters)
        && name.starts_with(|first: char| first.is_ascii_lowercase());
    if is_good {
        return Ok(name);
    }
    Err(Refusal::Fix(format!(
        "a technician's name becomes part of an account's name (gp-alex), so it has 1 to {LONGEST_TECHNICIAN} small \
         letters a-z, digits and hyphens, and begins with a letter"
    )))
}

/// Whether mail arrives is for the mail to say: this only keeps out what can't be an address.
fn good_email(email: String, may_lack: bool) -> Result<String, Refusal> {
    if email.is_empty() && may_lack {
        return Ok(email);
    }
    let is_plain = !email.contains(|letter: char| letter.is_whitespace() || is_unprintable(letter));
    let sides = email.rsplit_once('@').filter(|(name, domain)| !name.is_empty() && !domain.is_empty());
    if sides.is_some() && is_plain && email.len() <= LONGEST_EMAIL {
        return Ok(email.to_lowercase());
    }
    Err(Refusal::Fix("this is not an e-mail address: name@domain is expected".to_owned()))
}
