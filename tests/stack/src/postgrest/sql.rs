//! Quoting.

/// A name, as SQL takes any.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A string, as SQL takes any. (`standard_conforming_strings` is on.)
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
