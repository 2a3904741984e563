-- Phones that wait for somebody who types their two words, and what both ends said. Over within minutes, counted for a day,
-- and not part of backups.
CREATE TABLE slots (
    id     BLOB PRIMARY KEY CHECK (length(id) = 16),
    tenant BLOB NOT NULL REFERENCES tenants (id),
    name   TEXT NOT NULL,
    opened INTEGER NOT NULL,
    closed INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX slots_of_tenant ON slots (tenant, opened);

CREATE TABLE slot_messages (
    slot    BLOB NOT NULL REFERENCES slots (id),
    number  INTEGER NOT NULL,
    message BLOB NOT NULL,
    PRIMARY KEY (slot, number)
) STRICT, WITHOUT ROWID;
