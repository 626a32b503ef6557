CREATE TABLE IF NOT EXISTS axum_refresh_sessions (
    id BINARY(16) NOT NULL PRIMARY KEY,
    seq BIGINT NOT NULL AUTO_INCREMENT UNIQUE,
    user_id VARBINARY(288) NOT NULL,
    everyone VARBINARY(288) NOT NULL,
    secret_hash BINARY(32) NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    idle_timeout BIGINT,
    is_limited BIGINT NOT NULL,
    client LONGTEXT NOT NULL,
    login LONGTEXT NOT NULL,
    external BINARY(32),
    claims LONGTEXT NOT NULL,
    generation BIGINT NOT NULL,
    parent BIGINT,
    rotated_at BIGINT,
    recoveries BIGINT NOT NULL,
    last_seen_at BIGINT NOT NULL,
    last_client LONGTEXT,
    acknowledged BIGINT NOT NULL,
    revoked_at BIGINT,
    revoked_reason VARCHAR(64),
    version BIGINT NOT NULL,
    user_cutoff BIGINT NOT NULL,
    everyone_cutoff BIGINT NOT NULL,
    KEY axum_refresh_sessions_user_id (user_id, user_cutoff, created_at, seq),
    KEY axum_refresh_sessions_expires_at (expires_at),
    KEY axum_refresh_sessions_external (external)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS axum_refresh_revocations (
    seq BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
    written_at BIGINT NOT NULL,
    kind BIGINT NOT NULL,
    subject VARBINARY(576) NOT NULL,
    cutoff BIGINT,
    revoked_at BIGINT,
    spared VARBINARY(16),
    KEY axum_refresh_revocations_written_at (written_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS axum_refresh_cutoffs (
    scope VARBINARY(576) NOT NULL PRIMARY KEY,
    cutoff BIGINT NOT NULL,
    revoked_at BIGINT NOT NULL,
    revoked_reason VARCHAR(64) NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS axum_refresh_locks (stripe BIGINT NOT NULL PRIMARY KEY) ENGINE = InnoDB;
INSERT IGNORE INTO axum_refresh_locks
    SELECT a.n + 4 * b.n + 16 * c.n + 64 * d.n + 256 * e.n
    FROM (SELECT 0 AS n UNION SELECT 1 UNION SELECT 2 UNION SELECT 3) AS a,
         (SELECT 0 AS n UNION SELECT 1 UNION SELECT 2 UNION SELECT 3) AS b,
         (SELECT 0 AS n UNION SELECT 1 UNION SELECT 2 UNION SELECT 3) AS c,
         (SELECT 0 AS n UNION SELECT 1 UNION SELECT 2 UNION SELECT 3) AS d,
         (SELECT 0 AS n UNION SELECT 1 UNION SELECT 2 UNION SELECT 3) AS e;
