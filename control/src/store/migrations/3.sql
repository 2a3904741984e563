-- Who may do what through the API: tokens with a role, a name and an end; people of the operator, who are delegated to tenants;
-- groups of technicians; and with whom a computer is shared.

ALTER TABLE tokens ADD COLUMN id BLOB;
ALTER TABLE tokens ADD COLUMN name TEXT NOT NULL DEFAULT '';
ALTER TABLE tokens ADD COLUMN role TEXT NOT NULL DEFAULT 'tenant-admin';
ALTER TABLE tokens ADD COLUMN technician BLOB;
ALTER TABLE tokens ADD COLUMN expires INTEGER;
UPDATE tokens SET id = substr(hash, 1, 16);
UPDATE tokens SET role = 'operator' WHERE tenant IS NULL;
CREATE UNIQUE INDEX tokens_by_id ON tokens (id);

CREATE TABLE people (
    id    BLOB PRIMARY KEY CHECK (length(id) = 16),
    name  TEXT NOT NULL UNIQUE,
    email TEXT NOT NULL UNIQUE,
    added INTEGER NOT NULL
) STRICT;

-- A technician whom the operator delegated has the identifier of the person.
ALTER TABLE technicians ADD COLUMN email TEXT NOT NULL DEFAULT '';
ALTER TABLE technicians ADD COLUMN role TEXT NOT NULL DEFAULT 'technician';
ALTER TABLE technicians ADD COLUMN delegated INTEGER NOT NULL DEFAULT 0;

CREATE TABLE technician_groups (
    tenant BLOB NOT NULL REFERENCES tenants (id),
    id     BLOB NOT NULL CHECK (length(id) = 16),
    name   TEXT NOT NULL,
    PRIMARY KEY (tenant, id),
    UNIQUE (tenant, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE group_members (
    tenant     BLOB NOT NULL,
    id         BLOB NOT NULL,
    technician BLOB NOT NULL,
    PRIMARY KEY (tenant, id, technician),
    FOREIGN KEY (tenant, id) REFERENCES technician_groups (tenant, id) ON DELETE CASCADE,
    FOREIGN KEY (tenant, technician) REFERENCES technicians (tenant, id)
) STRICT, WITHOUT ROWID;

-- Kinds: admins (all of them) and users (all of them), whose subject has no bytes, technician, group.
CREATE TABLE shares (
    tenant   BLOB NOT NULL,
    computer BLOB NOT NULL,
    kind     TEXT NOT NULL CHECK (kind IN ('admins', 'users', 'technician', 'group')),
    subject  BLOB NOT NULL,
    PRIMARY KEY (tenant, computer, kind, subject),
    FOREIGN KEY (tenant, computer) REFERENCES computers (tenant, id)
) STRICT, WITHOUT ROWID;

ALTER TABLE computers ADD COLUMN agent_version TEXT NOT NULL DEFAULT '';
