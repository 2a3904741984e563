-- The audit trail as a Merkle log (docs/PROTOCOL.md, "Audit log"). The chain of hashes is gone: the tree says the same of any part of
-- the trail, and in a few hashes. Both tables beside it are made of it alone, and made again where they are missing.
ALTER TABLE events DROP COLUMN hash;

-- What the log's heads are signed with.
ALTER TABLE tenants ADD COLUMN log_key BLOB CHECK (length(log_key) = 32);

-- The nodes of whole subtrees: level 0 are the leaves.
CREATE TABLE log_nodes (
    tenant BLOB NOT NULL REFERENCES tenants (id),
    level  INTEGER NOT NULL,
    place  INTEGER NOT NULL,
    hash   BLOB NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (tenant, level, place)
) STRICT, WITHOUT ROWID;

-- What is searched by. The time is when the entry came, and never goes back, so that a span of time is a span of numbers.
CREATE TABLE event_facts (
    tenant   BLOB NOT NULL REFERENCES tenants (id),
    seq      INTEGER NOT NULL,
    time     INTEGER NOT NULL,
    kind     TEXT NOT NULL,
    outcome  TEXT NOT NULL,
    actor    BLOB,
    computer BLOB,
    PRIMARY KEY (tenant, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX event_facts_by_time ON event_facts (tenant, time, seq);
CREATE INDEX event_facts_by_kind ON event_facts (tenant, kind, seq);
CREATE INDEX event_facts_by_outcome ON event_facts (tenant, outcome, seq);
CREATE INDEX event_facts_by_actor ON event_facts (tenant, actor, seq);
CREATE INDEX event_facts_by_computer ON event_facts (tenant, computer, seq);

-- How far a trail was sent to a collector.
CREATE TABLE forwarded (
    target TEXT NOT NULL,
    tenant BLOB NOT NULL REFERENCES tenants (id),
    seq    INTEGER NOT NULL,
    PRIMARY KEY (target, tenant)
) STRICT, WITHOUT ROWID;
