-- What was answered to requests with an idempotency key, for a day. Not part of backups.
CREATE TABLE answers (
    caller  BLOB NOT NULL CHECK (length(caller) = 32),
    key     TEXT NOT NULL,
    request BLOB NOT NULL CHECK (length(request) = 32),
    answer  TEXT NOT NULL,
    at      INTEGER NOT NULL,
    PRIMARY KEY (caller, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX answers_by_age ON answers (at);
