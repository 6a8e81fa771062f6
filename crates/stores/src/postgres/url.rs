//! The URL of a shared arbiter, which is checked before anything else uses it.
//!
//! A URL with an unescaped password is split at the wrong places, and its parts may appear in errors of the
//! driver and of the server. So a URL in which that is possible is refused, and never repeated.

use reqwest::Url;

use super::PostgresError;

/// Parameters that the driver knows. It logs the values of others.
const PARAMETERS: &[&str] = &[
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
    "ssl-mode",
    "ssl-root-cert",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "statement-cache-capacity",
    "user",
];

/// Checks a URL.
///
/// # Errors
/// [`PostgresError::Url`] for a malformed URL, [`PostgresError::Parameter`] for an unknown parameter.
pub(super) fn check(text: &str) -> Result<(), PostgresError> {
    let url = Url::parse(text).map_err(|_| PostgresError::Url)?;
    let is_postgres = ["postgres", "postgresql"].contains(&url.scheme());
    // The password contains a character that ends it.
    let rest = [Some(url.path()), url.query(), url.fragment()];
    let is_broken = rest.iter().flatten().any(|part| part.contains('@'));
    if !is_postgres || is_broken || url.fragment().is_some() || url.cannot_be_a_base() {
        return Err(PostgresError::Url);
    }
    let is_known = |name: &str| PARAMETERS.contains(&name) || name.starts_with("options[");
    if url.query_pairs().any(|(name, _)| !is_known(&name)) {
        return Err(PostgresError::Parameter);
    }
    Ok(())
}

/// Returns the place of a database, `HOST/DATABASE`, without user, password and parameters. Returns `None`
/// for a URL that is refused.
pub fn place_of(text: &str) -> Option<String> {
    check(text).ok()?;
    let url = Url::parse(text).ok()?;
    let parameter = |wanted| {
        let found = url.query_pairs().find(|(name, _)| name == wanted);
        found.map(|(_, value)| value.into_owned())
    };
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let host = url.host_str().filter(|host| !host.is_empty()).map(|host| format!("{host}{port}"));
    let host = parameter("host").or(host).unwrap_or_else(|| "localhost".to_owned());
    let database = Some(url.path().trim_start_matches('/')).filter(|name| !name.is_empty());
    let database = parameter("dbname").or(database.map(str::to_owned));
    Some(format!("{host}/{}", database.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_a_database_shows_no_password() {
        for (url, place) in [
            ("postgres://fula:hush@db:5433/fula?sslmode=require", "db:5433/fula"),
            ("postgres://fula:hush@db/fula?password=hush", "db/fula"),
            ("postgres:///fula?host=/run/postgresql&user=fula", "/run/postgresql/fula"),
        ] {
            assert_eq!(place_of(url).as_deref(), Some(place));
        }
        assert_eq!(place_of("postgres://fula:hu@sh@db/@fula"), None);
    }

    #[test]
    fn urls_that_may_show_a_password_are_refused() {
        for good in [
            "postgres://fula:hush@db/fula",
            "postgresql://fula:hu%2Fsh%40@db:5432/fula?sslmode=require&options[statement_timeout]=5s",
            "postgres://fula@db/fula?password=hush&application_name=x",
            "postgres:///fula?host=/var/run/postgresql",
            "postgres://fula:hush@[::1]:5432/fula",
            "postgres://fula:hu@sh@db/fula",
        ] {
            assert!(check(good).is_ok(), "{good}");
        }
        for wrong in [
            "fula:hush@db/fula",
            "postgres//fula:hush@db/fula",
            "postgres:fula:hush@db/fula",
            "postgrs://fula:hush@db/fula",
            "https://fula:hush@db/fula",
            "postgres://fula:hu/sh@db/fula",
            "postgres://fula:12/hush@db/fula",
            "postgres://fula:12?hush@db/fula",
            "postgres://fula:12#hush@db/fula",
            "postgres://fula:hush@db:port/fula",
            "postgres://fula:hush@db/fula?pasword=hush",
            "postgres://fula@db/fula?hush",
            "postgres://fula@db/fula#hush",
        ] {
            let refused = check(wrong).unwrap_err().to_string();
            assert!(!refused.contains("hush"), "{wrong}: {refused}");
        }
    }
}
