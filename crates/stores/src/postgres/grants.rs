//! The privileges that a database role without the right to create tables needs, and those that it lacks.

use sqlx::Row;

use super::{PostgresError, sessions::Connections, statement::Statement};

/// Privileges that the gateway needs on each table and view. It deletes entries of the list of packs, once they are in
/// an index run, and rows of buckets that were deleted long ago. A role without the right to delete the latter is
/// accepted, and the rows stay.
const NEEDED: [(&str, &str); 6] = [
    ("bucket_roots", "SELECT, INSERT, UPDATE, DELETE"),
    ("fula_directory", "SELECT, INSERT, UPDATE"),
    ("fula_arbiter", "SELECT, UPDATE"),
    ("fula_mark", "SELECT"),
    ("fula_pack_list", "SELECT, UPDATE"),
    ("fula_packs", "SELECT, INSERT, UPDATE, DELETE"),
];

/// Lists the privileges that the role lacks on existing tables, as one row with `table` and `privileges`
/// for each table. Every row carries role and schema, and one row always comes, even when nothing is
/// lacking.
const LACKING: &str = "SELECT current_user::TEXT AS role, current_schema()::TEXT AS schema,
    lacking.name AS name, lacking.privileges AS privileges
    FROM (SELECT 1) AS one LEFT JOIN (
        SELECT name, string_agg(privilege, ', ' ORDER BY privilege) AS privileges
        FROM (VALUES ('bucket_roots', 'SELECT'), ('bucket_roots', 'INSERT'), ('bucket_roots', 'UPDATE'),
            ('fula_directory', 'SELECT'), ('fula_directory', 'INSERT'), ('fula_directory', 'UPDATE'),
            ('fula_arbiter', 'SELECT'), ('fula_arbiter', 'UPDATE'), ('fula_mark', 'SELECT'),
            ('fula_pack_list', 'SELECT'), ('fula_pack_list', 'UPDATE'), ('fula_packs', 'SELECT'),
            ('fula_packs', 'INSERT'), ('fula_packs', 'UPDATE'), ('fula_packs', 'DELETE')
        ) AS needed (name, privilege)
        WHERE NOT coalesce(has_table_privilege(to_regclass(name), privilege), true)
        GROUP BY name) AS lacking ON true ORDER BY lacking.name";

/// Returns a name as SQL accepts it, whatever characters it contains. It is always quoted, because names
/// such as `user` are keywords.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Returns the statements that let a role use tables which another role owns.
pub(super) fn statements(schema: &str, role: &str) -> Vec<String> {
    let (schema, role) = (quoted(schema), quoted(role));
    let usage = format!("GRANT USAGE ON SCHEMA {schema} TO {role};");
    let tables = NEEDED
        .iter()
        .map(|(table, privileges)| format!("GRANT {privileges} ON {schema}.{table} TO {role};"));
    std::iter::once(usage).chain(tables).collect()
}

/// The facts about the connected role.
struct Role {
    name: String,
    schema: Option<String>,
    /// Statements that grant the missing privileges on tables that the role can see.
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

/// Returns the schema in which the tables are, or would be created.
pub(super) async fn schema_of(connections: &Connections) -> Result<String, PostgresError> {
    let role = role(connections).await.map_err(PostgresError::Connect)?;
    role.schema.ok_or(PostgresError::NoSchema(role.name))
}

/// Refuses a role that lacks privileges on the existing tables.
///
/// # Errors
/// [`PostgresError::NotGranted`] with the statements that grant them.
pub(super) async fn check(connections: &Connections) -> Result<(), PostgresError> {
    match role(connections).await {
        Ok(role) if !role.lacking.is_empty() => {
            Err(PostgresError::NotGranted { role: role.name, lacking: role.lacking.join("; ") })
        }
        Ok(_) => Ok(()),
        Err(error) => {
            // An engine without these catalogs reports missing privileges with the first statement that it
            // refuses.
            tracing::debug!(%error, "cannot read the privileges of the role");
            Ok(())
        }
    }
}

/// Returns the error that names the privileges which the role lacked for a refused statement.
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

/// Returns whether a statement was refused because of missing privileges.
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
        let grant =
            "GRANT SELECT, INSERT, UPDATE, DELETE ON \"public\".bucket_roots TO \"fula_app\";";
        assert!(all.contains(grant), "{all}");
        assert!(statements("public", "user").join("\n").contains("TO \"user\";"));
        let all = statements("My Schema", "a\"; DROP TABLE x; --").join("\n");
        assert!(
            all.contains("ON \"My Schema\".fula_mark TO \"a\"\"; DROP TABLE x; --\";"),
            "{all}"
        );
    }
}
