//! Creating and updating the tables: by any number of processes concurrently, or by the app's own migrations.

use crate::store::StoreError;

/// The migrations of one database. Script `n` leads from version `n` to `n + 1`.
pub(super) struct Migrations {
    pub(super) scripts: &'static [&'static str],
    pub(super) begin: &'static str,
    /// Statements to execute first in the transaction. May be empty.
    pub(super) prepare: &'static str,
    /// A query that waits for the migration lock and returns 1 when it is acquired. Empty if `begin` locks.
    pub(super) lock: &'static str,
}

pub(super) const TABLE: &str = "CREATE TABLE IF NOT EXISTS axum_refresh_schema (version BIGINT NOT NULL PRIMARY KEY)";

impl Migrations {
    pub(super) fn latest_version(&self) -> i64 {
        i64::try_from(self.scripts.len()).unwrap_or(i64::MAX)
    }

    /// All migrations as one script for an empty database.
    pub(super) fn schema(&self) -> String {
        let mut schema = String::new();
        for script in self.scripts {
            schema.push_str(script);
            schema.push('\n');
        }
        schema.push_str(&format!(
            "{TABLE};\nINSERT INTO axum_refresh_schema (version) VALUES ({});\n",
            self.latest_version()
        ));
        schema
    }

    /// Returns an error unless the installed version `found` is the latest.
    pub(super) fn check_version(&self, found: i64) -> Result<(), StoreError> {
        let latest = self.latest_version();
        let problem = match found {
            found if found == latest => return Ok(()),
            0 => format!("tables missing; call migrate(), or run the script schema() (version {latest})"),
            found if found < latest => {
                format!("tables have version {found}, but this release needs version {latest}; call migrate()")
            }
            found => {
                format!("tables have version {found}, but this release supports at most {latest}; upgrade axum-refresh")
            }
        };
        Err(StoreError::new(problem))
    }
}

/// Whether a table is missing: SQLSTATE 42P01 in PostgreSQL, 42S02 in MySQL. SQLite has only the message.
pub(super) fn is_missing_table(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error() else { return false };
    let code = error.code().unwrap_or_default();
    code == "42P01" || code == "42S02" || error.message().contains("no such table")
}

macro_rules! migrating {
    // `$precondition` is checked first, before anything is prepared or written.
    ($Store:ident, $migrations:expr $(, $precondition:path)?) => {
        impl $Store {
            /// Creates the tables or updates them to the latest version: `axum_refresh_sessions`,
            /// `axum_refresh_revocations` and a few more with that prefix.
            ///
            /// Any number of processes may call this concurrently. If the tables are up to date, it reads one row and
            /// needs no permission to change tables.
            ///
            /// # Errors
            ///
            /// Returns an error if the database fails, or if the tables have a later version than this release
            /// supports. On PostgreSQL, also behind a connection pooler in transaction mode.
            pub async fn migrate(&self) -> Result<(), StoreError> {
                $($precondition(&self.0.pool).await?;)?
                let found = self.installed_version().await.map_err(super::failed)?;
                if found >= $migrations.latest_version() {
                    return $migrations.check_version(found);
                }
                self.run_migrations().await.map_err(|error| StoreError::new(format!("migrate: {error}")))
            }

            /// Checks that the tables exist and have the version that this release needs. Call this at start-up if you
            /// run [`schema`](Self::schema) with migrations of your own.
            ///
            /// # Errors
            ///
            /// Returns an error if tables are missing or have another version, or if the database is unreachable or not
            /// the primary. On PostgreSQL, also behind a connection pooler in transaction mode.
            pub async fn check(&self) -> Result<(), StoreError> {
                $($precondition(&self.0.pool).await?;)?
                let mut lease = self.lease().await.map_err(super::failed)?;
                self.clock(&mut lease.connection).await.map_err(super::failed)?;
                lease.done();
                $migrations.check_version(self.installed_version().await.map_err(super::failed)?)
            }

            /// Returns the latest tables as a SQL script for an empty database, for migrations of your own.
            pub fn schema() -> String {
                $migrations.schema()
            }

            async fn installed_version(&self) -> Result<i64, sqlx::Error> {
                let version = sqlx::query_scalar("SELECT MAX(version) FROM axum_refresh_schema");
                match version.fetch_one(&self.0.pool).await {
                    Ok(version) => Ok(Option::<i64>::unwrap_or_default(version)),
                    Err(error) if crate::store::sql::migrate::is_missing_table(&error) => Ok(0),
                    Err(error) => Err(error),
                }
            }

            async fn run_migrations(&self) -> Result<(), sqlx::Error> {
                // The connection is closed, not returned to the pool: that releases its settings and locks.
                let mut lease = self.lease().await?;
                let mut transaction = sqlx::Connection::begin_with(&mut *lease.connection, $migrations.begin).await?;
                if !$migrations.prepare.is_empty() {
                    sqlx::raw_sql($migrations.prepare).execute(&mut *transaction).await?;
                }
                if !$migrations.lock.is_empty() {
                    let locked: i64 = sqlx::query_scalar($migrations.lock).fetch_one(&mut *transaction).await?;
                    if locked != 1 {
                        return Err(sqlx::Error::Protocol(
                            "another process has been migrating for 60 seconds; try again".to_owned(),
                        ));
                    }
                }
                sqlx::raw_sql(crate::store::sql::migrate::TABLE).execute(&mut *transaction).await?;
                let found: Option<i64> = sqlx::query_scalar("SELECT MAX(version) FROM axum_refresh_schema")
                    .fetch_one(&mut *transaction)
                    .await?;
                let mut version = found.unwrap_or_default();
                for script in $migrations.scripts.iter().skip(usize::try_from(version).unwrap_or(usize::MAX)) {
                    version += 1;
                    sqlx::raw_sql(*script).execute(&mut *transaction).await?;
                    let insert = format!("INSERT INTO axum_refresh_schema (version) VALUES ({version})");
                    sqlx::raw_sql(sqlx::AssertSqlSafe(insert)).execute(&mut *transaction).await?;
                }
                transaction.commit().await
            }
        }
    };
}
pub(super) use migrating;
