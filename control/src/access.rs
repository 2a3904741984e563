//! Who may ask for what. A token has one role, in one tenant or at the operator; an endpoint needs one right. Nothing else
//! decides, so that the whole matrix can be, and is, tried.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use gatepass_protocol::ids::{Serial, TechnicianId, TenantId};

use crate::http::missing;
use crate::problem::Refusal;
use crate::store::{self, Db};
use crate::token;

/// What somebody is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Whoever has the file beside the database: makes tenants and tokens, and sees into no tenant.
    Operator,
    /// Of the operator's people: everything, in all tenants.
    GlobalAdmin,
    /// Everything in one tenant.
    TenantAdmin,
    /// Sees the computers that are shared with them.
    Technician,
    /// Sees all that a tenant has, but not what happened in it.
    ReadOnly,
    /// Sees all that a tenant has, and what happened in it.
    Auditor,
}

impl Role {
    /// All of them.
    pub const ALL: [Role; 6] =
        [Role::Operator, Role::GlobalAdmin, Role::TenantAdmin, Role::Technician, Role::ReadOnly, Role::Auditor];

    /// The name in the API and the database.
    pub fn name(self) -> &'static str {
        match self {
            Role::Operator => "operator",
            Role::GlobalAdmin => "global-admin",
            Role::TenantAdmin => "tenant-admin",
            Role::Technician => "technician",
            Role::ReadOnly => "read-only",
            Role::Auditor => "auditor",
        }
    }

    /// Whether it is one in a tenant.
    pub fn is_of_a_tenant(self) -> bool {
        !matches!(self, Role::Operator | Role::GlobalAdmin)
    }

    /// Whether it may do something in a tenant that it is a role in.
    pub(crate) fn has(self, right: Right) -> bool {
        match self {
            Role::Operator => false,
            Role::GlobalAdmin | Role::TenantAdmin => true,
            Role::Technician => right == Right::Work,
            Role::ReadOnly => matches!(right, Right::Work | Right::See),
            Role::Auditor => right != Right::Manage,
        }
    }

    /// Whether it may do nothing that the other one may not.
    pub fn is_within(self, other: Role) -> bool {
        self == other || Right::ALL.iter().all(|right| !self.has(*right) || other.has(*right))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Role, String> {
        let known = || Role::ALL.map(Role::name).join(", ");
        let found = Role::ALL.into_iter().find(|role| role.name() == text);
        found.ok_or_else(|| format!("there is no role {text:?}; known are: {}", known()))
    }
}

/// What can be done in a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Right {
    /// Know one's colleagues, and the computers that are shared with one.
    Work,
    /// See all that there is.
    See,
    /// See what happened.
    Audit,
    /// Change things.
    Manage,
}

impl Right {
    pub(crate) const ALL: [Right; 4] = [Right::Work, Right::See, Right::Audit, Right::Manage];
}

/// Whom an endpoint is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Anybody: what is sent carries its own right, a ticket or a certificate, or the answer is no secret.
    Everybody,
    /// Regional relays, by their own token.
    Relays,
    /// The operator, and the operator's people.
    Operator,
    /// Who has this right in the tenant of the path.
    Tenant(Right),
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) role: Role,
    /// Where; none for those of the operator.
    pub(crate) tenant: Option<TenantId>,
    /// Which technician's token it is, if it is one's.
    pub(crate) technician: Option<TechnicianId>,
    /// Which token it is.
    pub(crate) token: Serial,
}

impl Caller {
    /// Whether the caller sees only the computers that are shared with them.
    pub(crate) fn sees_only_shared(&self) -> bool {
        !self.role.has(Right::See)
    }
}

/// Lets somebody in. Without a right in the tenant, a tenant that exists is answered for like one that doesn't: who has no
/// business there learns nothing of who else is here.
pub(crate) fn let_in(
    db: &mut dyn Db,
    access: Access,
    tenant: Option<TenantId>,
    bearer: Option<&str>,
    now: u64,
) -> Result<Option<Caller>, Refusal> {
    let stranger = match access {
        Access::Everybody => return Ok(None),
        Access::Relays => return Err(Refusal::RelaysOnly),
        Access::Operator => Refusal::OperatorOnly,
        Access::Tenant(_) => Refusal::SignIn,
    };
    let Some(bearer) = bearer else { return Err(stranger) };
    let Some(known) = store::token(db, &token::hash(bearer))? else { return Err(stranger) };
    if known.expires.is_some_and(|expires| expires <= now) {
        return Err(Refusal::TokenExpired);
    }
    let caller = known.caller;
    let allowed = match access {
        Access::Everybody | Access::Relays => false,
        Access::Operator => !caller.role.is_of_a_tenant(),
        Access::Tenant(right) => {
            let Some(tenant) = tenant else { return Err(stranger) };
            match caller.role {
                Role::GlobalAdmin => {
                    let known = store::tenant(db, tenant)?.filter(|known| known.id != store::OPERATOR);
                    known.ok_or_else(|| missing("tenant", tenant))?;
                }
                _ if caller.tenant != Some(tenant) => return Err(stranger),
                role if !role.has(right) => return Err(Refusal::NotAllowed { role }),
                _ => {}
            }
            true
        }
    };
    if allowed { Ok(Some(caller)) } else { Err(stranger) }
}
