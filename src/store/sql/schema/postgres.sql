CREATE TABLE axum_refresh_sessions (
    id BYTEA PRIMARY KEY,
    seq BIGINT GENERATED ALWAYS AS IDENTITY,
    user_id BYTEA NOT NULL,
    everyone BYTEA NOT NULL,
    secret_hash BYTEA NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    idle_timeout BIGINT,
    is_limited BIGINT NOT NULL,
    client TEXT NOT NULL,
    login TEXT NOT NULL,
    external BYTEA,
    claims TEXT NOT NULL,
    generation BIGINT NOT NULL,
    parent BIGINT,
    rotated_at BIGINT,
    recoveries BIGINT NOT NULL,
    last_seen_at BIGINT NOT NULL,
    last_client TEXT,
    acknowledged BIGINT NOT NULL,
    revoked_at BIGINT,
    revoked_reason TEXT,
    version BIGINT NOT NULL,
    user_cutoff BIGINT NOT NULL,
    everyone_cutoff BIGINT NOT NULL
) WITH (fillfactor = 70);
CREATE INDEX axum_refresh_sessions_user_id ON axum_refresh_sessions (user_id, user_cutoff, created_at, seq);
CREATE INDEX axum_refresh_sessions_expires_at ON axum_refresh_sessions (expires_at);
CREATE INDEX axum_refresh_sessions_external ON axum_refresh_sessions (external) WHERE external IS NOT NULL;

CREATE TABLE axum_refresh_revocations (
    seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    written_at BIGINT NOT NULL,
    kind BIGINT NOT NULL,
    subject BYTEA NOT NULL,
    cutoff BIGINT,
    revoked_at BIGINT,
    spared BYTEA
);
CREATE INDEX axum_refresh_revocations_written_at ON axum_refresh_revocations (written_at);

CREATE TABLE axum_refresh_cutoffs (
    scope BYTEA PRIMARY KEY,
    cutoff BIGINT NOT NULL,
    revoked_at BIGINT NOT NULL,
    revoked_reason TEXT NOT NULL
);

CREATE TABLE axum_refresh_locks (stripe BIGINT PRIMARY KEY);
INSERT INTO axum_refresh_locks SELECT generate_series(0, 1023);
