//! The audit log of a tenant: a Merkle tree of its entries with the shapes of RFC 9162 (Certificate Transparency), and the
//! signed heads by which a copy of it is compared with another.
//!
//! ```text
//! entry      what was written down: when it came, whose it is, the signed event
//! leaf       SHA-256(00 entry)              node   SHA-256(01 left right)
//! head       {tenant, size, time, root}, signed with the log's key
//! inclusion  from one leaf up to the root of a head: the entry is in that log
//! consistency  from the root of one head to that of a later one: nothing of the first was changed or taken out
//! ```
//!
//! Who keeps a log can show one to some and another to others, and sign both. So heads are remembered by those who saw them
//! (phones, administrators' machines), and each newer one has to be consistent with what is remembered: two heads that are
//! not are proof, signed by the log's own key, that it was forked.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::{ComputerId, TenantId};
use crate::signed::Body;
use crate::wire;

/// A leaf's, a node's or a tree's hash.
pub type Hash = [u8; 32];

/// More than any log will have, and little enough to count on from.
const MOST_ENTRIES: u64 = 1 << 62;

/// No path is longer: a log has fewer than 2^63 entries. A consistency proof has one hash more.
const LONGEST_PROOF: usize = 64;

/// What is written down, and what the tree is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When the control plane wrote it, in Unix seconds.
    pub received: u64,
    /// The computer that signed the event; none where the control plane wrote down an act of its own.
    pub computer: Option<ComputerId>,
    /// Whether that computer was revoked by then.
    pub revoked: bool,
    /// The signed event, or the JSON of the act.
    #[serde(with = "serde_bytes")]
    pub event: Vec<u8>,
}

impl Entry {
    /// Its leaf.
    pub fn leaf(&self) -> Hash {
        leaf(&wire::to_vec(self))
    }
}

/// How far a log goes, and what is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Whose log.
    pub tenant: TenantId,
    /// How many entries it has.
    pub size: u64,
    /// When this was signed, in Unix seconds.
    pub time: u64,
    /// The root of the tree of them.
    #[serde(with = "serde_bytes")]
    pub root: Hash,
}

impl Body for Head {
    const LABEL: &'static str = "gp1 log-head";
}

/// The hash of a leaf.
pub fn leaf(entry: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(entry).finalize().into()
}

/// The hash of what stands above two others.
pub fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// The root of a log without entries.
pub fn nothing() -> Hash {
    Sha256::digest([]).into()
}

/// Why a proof proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoProof {
    /// Not whole hashes, or more of them than any tree is high.
    #[error("this is not a proof: it has {0} bytes")]
    Malformed(usize),
    /// There is no such entry, or the later log is the shorter one.
    #[error("there is no proof for {0} of {1} entries")]
    Range(u64, u64),
    /// Another log, or another proof.
    #[error("the proof leads to another root")]
    OtherRoot,
}

/// The hashes that lead from what is known to a root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proof(Vec<Hash>);

impl Proof {
    /// Reads hashes, one behind the other.
    pub fn from_bytes(bytes: &[u8]) -> Result<Proof, NoProof> {
        let (hashes, rest) = bytes.as_chunks::<32>();
        let is_whole = rest.is_empty() && hashes.len() <= LONGEST_PROOF;
        if is_whole { Ok(Proof(hashes.to_vec())) } else { Err(NoProof::Malformed(bytes.len())) }
    }

    /// The hashes, one behind the other.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.concat()
    }

    /// Whether this is the way from the leaf of entry `index` (from 0) to the root of a log of `size` entries (RFC 9162, 2.1.3.2).
    pub fn includes(&self, leaf: &Hash, index: u64, size: u64, root: &Hash) -> Result<(), NoProof> {
        if index >= size {
            return Err(NoProof::Range(index, size));
        }
        let (mut place, mut last, mut hash) = (index, size - 1, *leaf);
        for sibling in &self.0 {
            if last == 0 {
                return Err(NoProof::OtherRoot);
            }
            if place % 2 == 1 || place == last {
                hash = node(sibling, &hash);
                while place.is_multiple_of(2) && place != 0 {
                    (place, last) = (place / 2, last / 2);
                }
            } else {
                hash = node(&hash, sibling);
            }
            (place, last) = (place / 2, last / 2);
        }
        if last == 0 && hash == *root { Ok(()) } else { Err(NoProof::OtherRoot) }
    }

    /// Whether the log of `new` entries begins with that of `old` entries (RFC 9162, 2.1.4.2).
    pub fn continues(&self, old: (u64, &Hash), new: (u64, &Hash)) -> Result<(), NoProof> {
        let ((old, old_root), (new, new_root)) = (old, new);
        if old > new {
            return Err(NoProof::Range(old, new));
        }
        if old == 0 || old == new {
            let is_same = if old == 0 { *old_root == nothing() } else { old_root == new_root };
            return if self.0.is_empty() && is_same { Ok(()) } else { Err(NoProof::OtherRoot) };
        }
        let mut hashes = self.0.iter();
        let first = if old.is_power_of_two() { Some(old_root) } else { hashes.next() };
        let first = first.ok_or(NoProof::OtherRoot)?;
        let (mut place, mut last) = (old - 1, new - 1);
        while place % 2 == 1 {
            (place, last) = (place / 2, last / 2);
        }
        let (mut from, mut to) = (*first, *first);
        for sibling in hashes {
            if last == 0 {
                return Err(NoProof::OtherRoot);
            }
            if place % 2 == 1 || place == last {
                (from, to) = (node(sibling, &from), node(sibling, &to));
                while place.is_multiple_of(2) && place != 0 {
                    (place, last) = (place / 2, last / 2);
                }
            } else {
                to = node(&to, sibling);
            }
            (place, last) = (place / 2, last / 2);
        }
        let is_proved = last == 0 && from == *old_root && to == *new_root;
        if is_proved { Ok(()) } else { Err(NoProof::OtherRoot) }
    }
}

/// A log as far as it is needed to go on with it: the roots of the whole trees that it is made of, the largest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    roots: Vec<Hash>,
}

impl Frontier {
    /// Of a log of `size` entries, by what somebody says.
    pub fn new(size: u64, roots: Proof) -> Result<Frontier, NoProof> {
        let fits = size.count_ones() as usize == roots.0.len() && size <= MOST_ENTRIES;
        if fits { Ok(Frontier { size, roots: roots.0 }) } else { Err(NoProof::Malformed(roots.0.len() * 32)) }
    }

    /// How many entries the log has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds a leaf; hands over each node that became whole by it: its level, its place there, its hash.
    pub fn push(&mut self, leaf: Hash, mut made: impl FnMut(u8, u64, &Hash)) {
        let (mut place, mut level, mut hash) = (self.size, 0, leaf);
        made(level, place, &hash);
        while place % 2 == 1
            && let Some(left) = self.roots.pop()
        {
            hash = node(&left, &hash);
            (place, level) = (place / 2, level + 1);
            made(level, place, &hash);
        }
        self.roots.push(hash);
        self.size += 1;
    }

    /// The root.
    pub fn root(&self) -> Hash {
        let mut roots = self.roots.iter().rev();
        let Some(last) = roots.next() else { return nothing() };
        roots.fold(*last, |right, left| node(left, &right))
    }
}

/// What has the nodes of a log's whole subtrees: (0, n) is the leaf of entry n, (1, n) stands above (0, 2n) and (0, 2n + 1).
pub trait Nodes {
    /// Why there is none.
    type Error;

    /// The hash of the node at a level and a place.
    fn node(&mut self, level: u8, place: u64) -> Result<Hash, Self::Error>;
}

/// The root of a log's first `size` entries.
pub fn root<N: Nodes + ?Sized>(nodes: &mut N, size: u64) -> Result<Hash, N::Error> {
    if size == 0 { Ok(nothing()) } else { subtree(nodes, 0, size) }
}

/// The way from entry `index` to the root of the first `size` entries; nothing where there is no such entry.
pub fn inclusion<N: Nodes + ?Sized>(nodes: &mut N, index: u64, size: u64) -> Result<Proof, N::Error> {
    let (mut from, mut to, mut path) = (0, size, Vec::new());
    while index < size && to - from > 1 {
        let middle = from + split(to - from);
        if index < middle {
            path.push(subtree(nodes, middle, to)?);
            to = middle;
        } else {
            path.push(subtree(nodes, from, middle)?);
            from = middle;
        }
    }
    path.reverse();
    Ok(Proof(path))
}

/// That the first `new` entries begin with the first `old` ones.
pub fn consistency<N: Nodes + ?Sized>(nodes: &mut N, old: u64, new: u64) -> Result<Proof, N::Error> {
    let (mut from, mut to, mut path) = (0, new, Vec::new());
    if old == 0 || old >= new {
        return Ok(Proof(path));
    }
    while to != old {
        let middle = from + split(to - from);
        if old <= middle {
            path.push(subtree(nodes, middle, to)?);
            to = middle;
        } else {
            path.push(subtree(nodes, from, middle)?);
            from = middle;
        }
    }
    // Whoever asks has the old root, and needs its last whole part only where it isn't all of it.
    if from > 0 {
        path.push(subtree(nodes, from, to)?);
    }
    path.reverse();
    Ok(Proof(path))
}

/// The roots of the whole trees that the first `size` entries are made of: see [`Frontier::new`].
pub fn frontier<N: Nodes + ?Sized>(nodes: &mut N, size: u64) -> Result<Proof, N::Error> {
    let (mut from, mut roots) = (0, Vec::new());
    for level in (0..64).rev().filter(|level| size >> level & 1 == 1) {
        roots.push(nodes.node(level, from >> level)?);
        from += 1 << level;
    }
    Ok(Proof(roots))
}

/// The largest power of two below `size`, which is at least 2.
fn split(size: u64) -> u64 {
    1 << (size - 1).ilog2()
}

/// The root of the entries from `from` up to `to`, a range that some tree of this log splits into.
fn subtree<N: Nodes + ?Sized>(nodes: &mut N, from: u64, to: u64) -> Result<Hash, N::Error> {
    let size = to - from;
    if size.is_power_of_two() {
        let level = size.ilog2();
        return nodes.node(level as u8, from >> level);
    }
    let middle = from + split(size);
    Ok(node(&subtree(nodes, from, middle)?, &subtree(nodes, middle, to)?))
}
