//! Places where a crash is tried: around each record in the journal and around each act on an account.
//!
//! The engine calls [`Fault::reach`] at every one. In the running agent that does nothing. A test unwinds there, or kills
//! the process there, and then looks at what a restart makes of it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A step of a grant, in the order in which they are written to the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Step {
    /// The approval is spent; the account is about to be made.
    Intent,
    /// The account is there, disabled.
    Created,
    /// The account carries the grant's end.
    ExpirySet,
    /// The account is in the groups.
    Grouped,
    /// The account can log in; nobody has yet.
    Enabled,
    /// Somebody logged in.
    Active,
    /// The right is being taken back.
    Ending,
    /// It was seen that nothing is left of it.
    Verified,
    /// The receipt is written.
    Closed,
}

/// One change to an account, or one look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Act {
    /// Make the account, disabled.
    Create,
    /// Give it a password nobody knows.
    Rotate,
    /// Give it the grant's end.
    SetExpiry,
    /// Put it into the groups.
    SetGroups,
    /// Let it log in.
    Enable,
    /// Let it log in no more.
    Disable,
    /// End what runs as it.
    EndSessions,
    /// Take it out of the groups.
    StripGroups,
    /// Another password nobody knows; twice, as some directories take the previous one as well.
    RotateAgain,
    /// Delete it, where it is not to be kept.
    Remove,
    /// Look whether all of that is so.
    Verify,
}

/// A place in the life of a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Point {
    /// The record is about to be written.
    Recording(Step),
    /// The record is on the disk.
    Recorded(Step),
    /// The act is about to begin.
    Acting(Act),
    /// The act is done.
    Acted(Act),
}

const STEPS: [(Step, &str); 9] = [
    (Step::Intent, "intent"),
    (Step::Created, "created"),
    (Step::ExpirySet, "expiry-set"),
    (Step::Grouped, "grouped"),
    (Step::Enabled, "enabled"),
    (Step::Active, "active"),
    (Step::Ending, "ending"),
    (Step::Verified, "verified"),
    (Step::Closed, "closed"),
];

const ACTS: [(Act, &str); 11] = [
    (Act::Create, "create"),
    (Act::Rotate, "rotate"),
    (Act::SetExpiry, "set-expiry"),
    (Act::SetGroups, "set-groups"),
    (Act::Enable, "enable"),
    (Act::Disable, "disable"),
    (Act::EndSessions, "end-sessions"),
    (Act::StripGroups, "strip-groups"),
    (Act::RotateAgain, "rotate-again"),
    (Act::Remove, "remove"),
    (Act::Verify, "verify"),
];

impl Point {
    /// Every point there is.
    pub fn all() -> impl Iterator<Item = Point> {
        let steps = STEPS.iter().flat_map(|(step, _)| [Point::Recording(*step), Point::Recorded(*step)]);
        let acts = ACTS.iter().flat_map(|(act, _)| [Point::Acting(*act), Point::Acted(*act)]);
        steps.chain(acts)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(STEPS.iter().find(|(step, _)| step == self).map_or("", |(_, name)| name))
    }
}

impl fmt::Display for Act {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(ACTS.iter().find(|(act, _)| act == self).map_or("", |(_, name)| name))
    }
}

impl fmt::Display for Point {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Point::Recording(step) => write!(out, "recording:{step}"),
            Point::Recorded(step) => write!(out, "recorded:{step}"),
            Point::Acting(act) => write!(out, "acting:{act}"),
            Point::Acted(act) => write!(out, "acted:{act}"),
        }
    }
}

/// The text names no point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no such point; one of recording:STEP, recorded:STEP, acting:ACT, acted:ACT")]
pub struct NoSuchPoint;

impl FromStr for Point {
    type Err = NoSuchPoint;
    fn from_str(text: &str) -> Result<Self, NoSuchPoint> {
        Point::all().find(|point| point.to_string() == text).ok_or(NoSuchPoint)
    }
}

/// What happens at each point.
pub trait Fault: Send + Sync {
    /// The engine is at `point`.
    fn reach(&self, point: Point);
}

/// Nothing happens anywhere: what the running agent uses.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoFault;

impl Fault for NoFault {
    fn reach(&self, _: Point) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_has_a_name_that_reads_back() {
        assert_eq!(Point::all().count(), 2 * (STEPS.len() + ACTS.len()));
        for point in Point::all() {
            assert_eq!(point.to_string().parse(), Ok(point));
        }
        assert_eq!("acting:nothing".parse::<Point>(), Err(NoSuchPoint));
    }
}
