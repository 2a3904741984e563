-- What a tenant is made of. Written for SQLite; the words that Postgres has others for are replaced.
-- Every row that matters to a judge (an agent, a phone) is a statement signed by the
-- tenant's CA and kept as the exact bytes that were received: this database can lose them, not invent them.

CREATE TABLE tenants (
    id      BLOB PRIMARY KEY CHECK (length(id) = 16),
    name    TEXT NOT NULL UNIQUE,
    created INTEGER NOT NULL
) STRICT;

-- Bearer tokens of administrators, as SHA-256. No tenant: the operator, who may create tenants and nothing else.
CREATE TABLE tokens (
    hash    BLOB PRIMARY KEY CHECK (length(hash) = 32),
    tenant  BLOB REFERENCES tenants (id),
    created INTEGER NOT NULL
) STRICT;
CREATE INDEX tokens_of_tenant ON tokens (tenant);

CREATE TABLE ca_keys (
    tenant BLOB NOT NULL REFERENCES tenants (id),
    kid    BLOB NOT NULL CHECK (length(kid) = 8),
    name   TEXT NOT NULL,
    pem    TEXT NOT NULL,
    added  INTEGER NOT NULL,
    PRIMARY KEY (tenant, kid)
) STRICT, WITHOUT ROWID;

CREATE TABLE technicians (
    tenant BLOB NOT NULL REFERENCES tenants (id),
    id     BLOB NOT NULL CHECK (length(id) = 16),
    name   TEXT NOT NULL,
    added  INTEGER NOT NULL,
    PRIMARY KEY (tenant, id),
    UNIQUE (tenant, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE tickets (
    tenant    BLOB NOT NULL REFERENCES tenants (id),
    serial    BLOB NOT NULL CHECK (length(serial) = 16),
    purpose   TEXT NOT NULL,
    tags      TEXT NOT NULL,
    uses      INTEGER NOT NULL,
    used      INTEGER NOT NULL DEFAULT 0 CHECK (used <= uses),
    not_after INTEGER NOT NULL,
    statement BLOB NOT NULL,
    added     INTEGER NOT NULL,
    PRIMARY KEY (tenant, serial)
) STRICT, WITHOUT ROWID;

-- A phone that asked to be enrolled, and, once an administrator signed its certificate, the device it became.
CREATE TABLE devices (
    request     BLOB PRIMARY KEY CHECK (length(request) = 16),
    tenant      BLOB NOT NULL REFERENCES tenants (id),
    ticket      BLOB NOT NULL,
    name        TEXT NOT NULL,
    enrol       BLOB NOT NULL,
    asked       INTEGER NOT NULL,
    device      BLOB CHECK (length(device) = 16),
    serial      BLOB CHECK (length(serial) = 16),
    technician  BLOB,
    certificate BLOB,
    not_after   INTEGER,
    approved    INTEGER,
    UNIQUE (tenant, enrol),
    UNIQUE (tenant, device),
    CHECK ((device IS NULL) = (certificate IS NULL)),
    FOREIGN KEY (tenant, ticket) REFERENCES tickets (tenant, serial),
    FOREIGN KEY (tenant, technician) REFERENCES technicians (tenant, id)
) STRICT;

CREATE TABLE computers (
    tenant      BLOB NOT NULL REFERENCES tenants (id),
    id          BLOB NOT NULL CHECK (length(id) = 16),
    ticket      BLOB NOT NULL,
    name        TEXT NOT NULL,
    domain      TEXT NOT NULL,
    os          TEXT NOT NULL,
    tags        TEXT NOT NULL,
    certificate BLOB NOT NULL,
    not_after   INTEGER NOT NULL,
    enrolled    INTEGER NOT NULL,
    last_event  INTEGER,
    PRIMARY KEY (tenant, id),
    FOREIGN KEY (tenant, ticket) REFERENCES tickets (tenant, serial)
) STRICT, WITHOUT ROWID;

-- Policies, revocation lists, relay lists. The newest epoch of a kind is the one in force.
CREATE TABLE statements (
    tenant    BLOB NOT NULL REFERENCES tenants (id),
    kind      TEXT NOT NULL,
    epoch     INTEGER NOT NULL,
    statement BLOB NOT NULL,
    added     INTEGER NOT NULL,
    PRIMARY KEY (tenant, kind, epoch)
) STRICT;

-- The audit trail: hash = SHA-256(previous hash || event), so that a row changed or taken out breaks every later one.
-- A computer signed its event; where there is no computer, the control plane wrote down what an administrator did.
CREATE TABLE events (
    tenant   BLOB NOT NULL REFERENCES tenants (id),
    seq      INTEGER NOT NULL CHECK (seq > 0),
    at       INTEGER NOT NULL,
    computer BLOB CHECK (length(computer) = 16),
    revoked  INTEGER NOT NULL,
    event    BLOB NOT NULL,
    digest   BLOB NOT NULL CHECK (length(digest) = 32),
    hash     BLOB NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (tenant, seq),
    UNIQUE (tenant, digest)
) STRICT;
