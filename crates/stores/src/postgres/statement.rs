//! Statements with their values, and the two ways of sending them.
//!
//! In a session that this process alone uses, a statement is prepared once. Behind a pooler that shares
//! sessions, the next message may reach another session. There a statement is one text message, which
//! carries its settings and values, and leaves nothing in the session (docs/adr/0031).

use sqlx::{AssertSqlSafe, PgConnection, postgres::PgRow};

/// The condition that a statement commits durably: the commit waits for the disk, and for synchronous
/// replicas if there are any, and the server's writes are safe. It sets what it can, for this transaction
/// alone. `$n` is the required value of `synchronous_commit`. Unless the condition holds, nothing is
/// written.
macro_rules! durable {
    ($n:literal) => {
        concat!(
            "(set_config('synchronous_commit', ",
            $n,
            ", true) = ",
            $n,
            " AND coalesce(current_setting('fsync', true), 'on') = 'on'",
            " AND coalesce(current_setting('full_page_writes', true), 'on') = 'on')"
        )
    };
}
pub(super) use durable;

/// A value of a statement.
#[derive(Clone, Debug)]
enum Value {
    Text(String),
    Texts(Vec<String>),
    Number(Option<i64>),
    Bytes(Option<Vec<u8>>),
}

/// A statement and the values of its `$1`, `$2` and so on.
#[derive(Clone, Debug)]
pub(super) struct Statement {
    sql: &'static str,
    values: Vec<Value>,
}

impl Statement {
    pub(super) fn new(sql: &'static str) -> Self {
        Self { sql, values: Vec::new() }
    }

    fn with(mut self, value: Value) -> Self {
        self.values.push(value);
        self
    }

    pub(super) fn text(self, value: impl Into<String>) -> Self {
        self.with(Value::Text(value.into()))
    }

    pub(super) fn texts(self, values: Vec<String>) -> Self {
        self.with(Value::Texts(values))
    }

    pub(super) fn number(self, value: impl Into<Option<i64>>) -> Self {
        self.with(Value::Number(value.into()))
    }

    pub(super) fn bytes(self, value: Option<&[u8]>) -> Self {
        self.with(Value::Bytes(value.map(<[u8]>::to_vec)))
    }

    /// Sends the statement and returns its rows. It is a prepared statement, or with `settings` one text
    /// that begins with those.
    pub(super) async fn fetch(
        &self,
        connection: &mut PgConnection,
        settings: Option<&str>,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        if let Some(settings) = settings {
            let text = format!("{settings} {}", self.inlined());
            return sqlx::raw_sql(AssertSqlSafe(text)).fetch_all(connection).await;
        }
        let mut query = sqlx::query(self.sql);
        for value in &self.values {
            query = match value.clone() {
                Value::Text(text) => query.bind(text),
                Value::Texts(texts) => query.bind(texts),
                Value::Number(number) => query.bind(number),
                Value::Bytes(bytes) => query.bind(bytes),
            };
        }
        query.fetch_all(connection).await
    }

    /// Returns the statement with its values in place of `$1` and so on.
    fn inlined(&self) -> String {
        let mut text = String::with_capacity(self.sql.len() + 64 * self.values.len());
        let mut pieces = self.sql.split('$');
        text.push_str(pieces.next().unwrap_or_default());
        for piece in pieces {
            let digits = piece.bytes().take_while(u8::is_ascii_digit).count();
            let (number, rest) = piece.split_at(digits);
            let value = number.parse().ok().and_then(|n: usize| self.values.get(n.checked_sub(1)?));
            match value {
                Some(value) => value.write_to(&mut text),
                None => text.extend(["$", number]),
            }
            text.push_str(rest);
        }
        text
    }
}

impl Value {
    fn write_to(&self, text: &mut String) {
        match self {
            Self::Text(value) => write_text(text, value),
            Self::Texts(values) => {
                text.push_str("ARRAY[");
                for (n, value) in values.iter().enumerate() {
                    text.push_str(if n == 0 { "" } else { "," });
                    write_text(text, value);
                }
                text.push_str("]::TEXT[]");
            }
            Self::Number(Some(number)) => text.extend(["'", &number.to_string(), "'::BIGINT"]),
            Self::Number(None) => text.push_str("NULL::BIGINT"),
            Self::Bytes(Some(bytes)) => {
                text.extend(["decode('", &hex::encode(bytes), "', 'hex')"]);
            }
            Self::Bytes(None) => text.push_str("NULL::BYTEA"),
        }
    }
}

/// Writes text so that no rule of quoting matters, whatever the settings of the session. All but harmless
/// characters are sent as hex digits.
fn write_text(text: &mut String, value: &str) {
    let is_harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:".contains(&byte);
    if value.bytes().all(is_harmless) {
        text.extend(["'", value, "'::TEXT"]);
    } else {
        text.extend(["convert_from(decode('", &hex::encode(value), "', 'hex'), 'UTF8')"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_take_the_place_of_their_numbers() {
        let statement = Statement::new("SELECT $2, $1, $10, '$', $3, $4, $5, $2 - 1")
            .text("a-b")
            .number(-7)
            .texts(vec!["x".to_owned(), "y".to_owned()])
            .bytes(Some(&[0, 255]))
            .number(None);
        let text = "SELECT '-7'::BIGINT, 'a-b'::TEXT, $10, '$', ARRAY['x'::TEXT,'y'::TEXT]::TEXT[], \
                    decode('00ff', 'hex'), NULL::BIGINT, '-7'::BIGINT - 1";
        assert_eq!(statement.inlined(), text);
    }

    #[test]
    fn no_text_ends_its_quotes() {
        for hostile in ["'", "\\'", "a'; DROP TABLE bucket_roots; --", "$1", "é", "a b", "\u{2019}"]
        {
            let text = Statement::new("$1").text(hostile).inlined();
            let hex = text.strip_prefix("convert_from(decode('").unwrap();
            let hex = hex.strip_suffix("', 'hex'), 'UTF8')").unwrap();
            assert_eq!(hex::decode(hex).unwrap(), hostile.as_bytes());
        }
    }
}
