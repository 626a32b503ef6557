//! The tables: made and brought up to date by any number of processes at once, or by the app's own migrations.

use crate::store::StoreError;

/// One database's way from nothing to the newest schema. Script n leads from version n to n + 1.
pub(super) struct Migrations {
    pub(super) scripts: &'static [&'static str],
    pub(super) begin: &'static str,
    /// What has to be set first, for this transaction. May be nothing.
    pub(super) prepare: &'static str,
    /// Answers 1 once nobody else migrates. May be nothing, where `begin` sees to that.
    pub(super) lock: &'static str,
}

pub(super) const TABLE: &str = "CREATE TABLE IF NOT EXISTS axum_refresh_schema (version BIGINT NOT NULL PRIMARY KEY)";

impl Migrations {
    pub(super) fn newest(&self) -> i64 {
        i64::try_from(self.scripts.len()).unwrap_or(i64::MAX)
    }

    /// All of it as one script, for an empty database.
    pub(super) fn schema(&self) -> String {
        let mut schema = String::new();
        for script in self.scripts {
            schema.push_str(script);
            schema.push('\n');
        }
        schema.push_str(&format!("{TABLE};\nINSERT INTO axum_refresh_schema (version) VALUES ({});\n", self.newest()));
        schema
    }

    pub(super) fn compare(&self, found: i64) -> Result<(), StoreError> {
        let newest = self.newest();
        let problem = match found {
            found if found == newest => return Ok(()),
            0 => format!("the tables are missing: call migrate(), or run schema() (version {newest})"),
            found if found < newest => {
                format!("the tables are of version {found}, this release needs {newest}: call migrate()")
            }
            found => format!("the tables are of version {found}, and this release knows no later one than {newest}"),
        };
        Err(StoreError::new(problem))
    }
}

/// Whether a table is not there: SQLSTATE 42P01 of Postgres, 42S02 of MySQL; SQLite has it in words.
pub(super) fn is_missing(error: &sqlx::Error) -> bool {
    let Some(error) = error.as_database_error() else { return false };
    let code = error.code().unwrap_or_default();
    code == "42P01" || code == "42S02" || error.message().contains("no such table")
}

macro_rules! migrating {
    ($Store:ident, $migrations:expr) => {
        impl $Store {
            /// Makes the tables or brings them up to date: `axum_refresh_sessions`, `axum_refresh_revocations` and a
            /// few more of that prefix. Any number of processes may call it at once. Where there is nothing to do it
            /// reads one row, and needs no right to change tables.
            ///
            /// # Errors
            /// Where the database refuses, or the tables are of a later version than this release knows.
            pub async fn migrate(&self) -> Result<(), StoreError> {
                let found = self.installed().await.map_err(super::failed)?;
                if found >= $migrations.newest() {
                    return $migrations.compare(found);
                }
                self.run_migrations().await.map_err(|error| StoreError::new(format!("migrate: {error}")))
            }

            /// Whether the tables are there and of the version that this release needs, for those who run
            /// [`schema`](Self::schema) by their own means.
            ///
            /// # Errors
            /// Where they are not, and where the database does not answer.
            pub async fn check(&self) -> Result<(), StoreError> {
                let mut lease = self.lease().await.map_err(super::failed)?;
                self.refuse_a_replica(&mut lease.connection).await.map_err(super::failed)?;
                lease.done();
                $migrations.compare(self.installed().await.map_err(super::failed)?)
            }

            /// The tables as a SQL script for an empty database, for those who run their own migrations.
            pub fn schema() -> String {
                $migrations.schema()
            }

            async fn installed(&self) -> Result<i64, sqlx::Error> {
                let version = sqlx::query_scalar("SELECT MAX(version) FROM axum_refresh_schema");
                match version.fetch_one(&self.0.pool).await {
                    Ok(version) => Ok(Option::<i64>::unwrap_or_default(version)),
                    Err(error) if crate::store::sql::migrate::is_missing(&error) => Ok(0),
                    Err(error) => Err(error),
                }
            }

            async fn run_migrations(&self) -> Result<(), sqlx::Error> {
                // Not given back to the pool: what is set and locked on it ends with it.
                let mut lease = self.lease().await?;
                let mut transaction = sqlx::Connection::begin_with(&mut *lease.connection, $migrations.begin).await?;
                if !$migrations.prepare.is_empty() {
                    sqlx::raw_sql($migrations.prepare).execute(&mut *transaction).await?;
                }
                if !$migrations.lock.is_empty() {
                    let locked: i64 = sqlx::query_scalar($migrations.lock).fetch_one(&mut *transaction).await?;
                    if locked != 1 {
                        return Err(sqlx::Error::Protocol("somebody else is migrating and does not finish".to_owned()));
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
