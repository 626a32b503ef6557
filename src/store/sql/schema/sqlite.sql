CREATE TABLE axum_refresh_sessions (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL UNIQUE,
    user_id BLOB NOT NULL,
    everyone BLOB NOT NULL,
    secret_hash BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    idle_timeout INTEGER,
    is_limited INTEGER NOT NULL,
    client TEXT NOT NULL,
    login TEXT NOT NULL,
    external BLOB,
    claims TEXT NOT NULL,
    generation INTEGER NOT NULL,
    parent INTEGER,
    rotated_at INTEGER,
    recoveries INTEGER NOT NULL,
    last_seen_at INTEGER NOT NULL,
    last_client TEXT,
    acknowledged INTEGER NOT NULL,
    revoked_at INTEGER,
    revoked_reason TEXT,
    version INTEGER NOT NULL,
    user_cutoff INTEGER NOT NULL,
    everyone_cutoff INTEGER NOT NULL
);
CREATE INDEX axum_refresh_sessions_user_id ON axum_refresh_sessions (user_id, user_cutoff, created_at);
CREATE INDEX axum_refresh_sessions_expires_at ON axum_refresh_sessions (expires_at);
CREATE INDEX axum_refresh_sessions_external ON axum_refresh_sessions (external) WHERE external IS NOT NULL;

CREATE TABLE axum_refresh_revocations (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    written_at INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    subject BLOB NOT NULL,
    cutoff INTEGER,
    revoked_at INTEGER,
    spared BLOB
);
CREATE INDEX axum_refresh_revocations_written_at ON axum_refresh_revocations (written_at);

CREATE TABLE axum_refresh_cutoffs (
    scope BLOB PRIMARY KEY NOT NULL,
    cutoff INTEGER NOT NULL,
    revoked_at INTEGER NOT NULL,
    revoked_reason TEXT NOT NULL
);
