-- How technicians sign in to the API. Not part of backups: a password that was replaced since must not come back.
CREATE TABLE sign_ins (
    tenant       BLOB NOT NULL,
    technician   BLOB NOT NULL,
    salt         BLOB NOT NULL CHECK (length(salt) = 16),
    hash         BLOB NOT NULL CHECK (length(hash) = 32),
    totp         BLOB NOT NULL CHECK (length(totp) = 20),
    used_step    INTEGER NOT NULL,
    failures     INTEGER NOT NULL,
    locked_until INTEGER NOT NULL,
    PRIMARY KEY (tenant, technician),
    FOREIGN KEY (tenant, technician) REFERENCES technicians (tenant, id)
) STRICT, WITHOUT ROWID;
