//! What a database role needs that may not create tables, and what it lacks.

use sqlx::Row;

use super::{PostgresError, sessions::Connections, statement::Statement};

/// What the gateway does with each table and view. It deletes nothing.
const NEEDED: [(&str, &str); 4] = [
    ("bucket_roots", "SELECT, INSERT, UPDATE"),
    ("fula_directory", "SELECT, INSERT, UPDATE"),
    ("fula_arbiter", "SELECT, UPDATE"),
    ("fula_mark", "SELECT"),
];

/// Privileges that the role lacks on tables that are there, as `table`, `privileges`; those of a table are
/// one row. The role and the schema are in each row, also in the one that says that nothing is lacking.
const LACKING: &str = "SELECT current_user::TEXT AS role, current_schema()::TEXT AS schema,
    lacking.name AS name, lacking.privileges AS privileges
    FROM (SELECT 1) AS one LEFT JOIN (
        SELECT name, string_agg(privilege, ', ' ORDER BY privilege) AS privileges
        FROM (VALUES ('bucket_roots', 'SELECT'), ('bucket_roots', 'INSERT'), ('bucket_roots', 'UPDATE'),
            ('fula_directory', 'SELECT'), ('fula_directory', 'INSERT'), ('fula_directory', 'UPDATE'),
            ('fula_arbiter', 'SELECT'), ('fula_arbiter', 'UPDATE'), ('fula_mark', 'SELECT')
        ) AS needed (name, privilege)
        WHERE NOT coalesce(has_table_privilege(to_regclass(name), privilege), true)
        GROUP BY name) AS lacking ON true ORDER BY lacking.name";

/// Returns a name as SQL takes it, whatever characters it has. Always quoted: `user` is a word of SQL.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Returns the statements that let a role work on tables which another one owns.
pub(super) fn statements(schema: &str, role: &str) -> Vec<String> {
    let (schema, role) = (quoted(schema), quoted(role));
    let usage = format!("GRANT USAGE ON SCHEMA {schema} TO {role};");
    let tables = NEEDED
        .iter()
        .map(|(table, privileges)| format!("GRANT {privileges} ON {schema}.{table} TO {role};"));
    std::iter::once(usage).chain(tables).collect()
}

/// What is known of the role that is connected.
struct Role {
    name: String,
    schema: Option<String>,
    /// Statements that grant what it lacks on tables that it can see.
    lacking: Vec<String>,
}

async fn role(connections: &Connections) -> Result<Role, sqlx::Error> {
    let rows = connections.fetch(&Statement::new(LACKING)).await?;
    let first = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    let (name, schema): (String, Option<String>) =
        (first.try_get("role")?, first.try_get("schema")?);
    let mut lacking = Vec::new();
    for row in &rows {
        let (table, privileges): (Option<String>, Option<String>) =
            (row.try_get("name")?, row.try_get("privileges")?);
        if let Some((table, privileges)) = table.zip(privileges) {
            lacking.push(format!("GRANT {privileges} ON {table} TO {}", quoted(&name)));
        }
    }
    Ok(Role { name, schema, lacking })
}

/// Returns the schema in which the tables are, or would be.
pub(super) async fn schema_of(connections: &Connections) -> Result<String, PostgresError> {
    let role = role(connections).await.map_err(PostgresError::Connect)?;
    role.schema.ok_or(PostgresError::NoSchema(role.name))
}

/// Refuses a role that lacks something on the tables there are.
///
/// # Errors
/// [`PostgresError::NotGranted`].
pub(super) async fn check(connections: &Connections) -> Result<(), PostgresError> {
    match role(connections).await {
        Ok(role) if !role.lacking.is_empty() => {
            Err(PostgresError::NotGranted { role: role.name, lacking: role.lacking.join("; ") })
        }
        Ok(_) => Ok(()),
        Err(error) => {
            // An engine that cannot be asked says it with the first statement that is refused.
            tracing::debug!(%error, "cannot find out what the role may do");
            Ok(())
        }
    }
}

/// Says what a role lacks to which a statement was refused.
pub(super) async fn explain(connections: &Connections, refused: sqlx::Error) -> PostgresError {
    match role(connections).await {
        Ok(role) if !role.lacking.is_empty() => {
            PostgresError::NotGranted { role: role.name, lacking: role.lacking.join("; ") }
        }
        Ok(role) if role.schema.is_none() => PostgresError::NoSchema(role.name),
        Ok(role) => PostgresError::MayNotCreate {
            schema: role.schema.unwrap_or_default(),
            role: role.name,
            refused,
        },
        Err(_) => PostgresError::Migrate(refused),
    }
}

/// Returns whether a statement was refused because the role may not do that.
pub(super) fn is_refused(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| code == "42501")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted() {
        let all = statements("public", "fula_app").join("\n");
        assert!(all.starts_with("GRANT USAGE ON SCHEMA \"public\" TO \"fula_app\";\n"));
        let grant = "GRANT SELECT, INSERT, UPDATE ON \"public\".bucket_roots TO \"fula_app\";";
        assert!(all.contains(grant), "{all}");
        assert!(statements("public", "user").join("\n").contains("TO \"user\";"));
        let all = statements("My Schema", "a\"; DROP TABLE x; --").join("\n");
        assert!(
            all.contains("ON \"My Schema\".fula_mark TO \"a\"\"; DROP TABLE x; --\";"),
            "{all}"
        );
    }
}
