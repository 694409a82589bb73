//! Reads JSON objects from bytes, within limits. The calling modules define the objects' members.

use serde::{
    Deserialize, Deserializer,
    de::{self, IntoDeserializer},
};
use serde_json::value::RawValue;
use std::{borrow::Cow, fmt, marker::PhantomData};

/// The reason why bytes could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadError {
    /// The bytes are not JSON in UTF-8.
    NotJson(String),
    /// The bytes are JSON of another shape. The text names the wrong part.
    NotAnEvent(String),
}

/// The member of a body that names its operation.
const OPERATION: &str = "operation";

/// Deepest nesting of arrays and objects in a body. A webhook nests three deep; the rest is room for columns
/// of JSON.
pub const NESTING_LIMIT: usize = 64;

/// Longest part of a parser's message that a reply holds, in characters. The message can quote the caller's
/// bytes.
pub const DETAIL_LIMIT_CHARS: usize = 200;

/// A value that was read from a JSON object. Serde alone would also read an array, by the order of the
/// fields.
pub struct Whole<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Whole<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Visitor<T> {
            type Value = Whole<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Whole<T>, A::Error> {
                T::deserialize(de::value::MapAccessDeserializer::new(map)).map(Whole)
            }
        }

        deserializer.deserialize_map(Visitor(PhantomData))
    }
}

/// Returns the bytes as text. Refuses text that nests deeper than [`NESTING_LIMIT`].
fn check(body: &[u8]) -> Result<&str, ReadError> {
    let text = std::str::from_utf8(body);
    let text = text.map_err(|_| ReadError::NotJson("the body is not UTF-8".to_owned()))?;
    // The parser would skip deep nesting in unknown columns, so this check comes first.
    if nesting(body) > NESTING_LIMIT {
        return refuse("the body nests deeper than 64 levels");
    }
    Ok(text)
}

/// Returns how deep the brackets outside of strings nest. For text that is not JSON the number has no
/// meaning.
fn nesting(body: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth = depth.saturating_add(1);
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Reads an object from text. The caller has checked its depth.
pub fn read_text<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, ReadError> {
    read_value(text).map(|Whole(value)| value)
}

/// Reads any value from text. The caller has checked its depth.
pub fn read_value<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, ReadError> {
    serde_json::from_str(text).map_err(|error| {
        let detail = error.to_string().chars().take(DETAIL_LIMIT_CHARS).collect();
        if error.is_data() { ReadError::NotAnEvent(detail) } else { ReadError::NotJson(detail) }
    })
}

/// Reads a body: a JSON object within the limit of depth.
pub fn read<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ReadError> {
    read_text(check(body)?)
}

/// Reads columns of a row.
pub fn read_columns<'a, T: Deserialize<'a>>(row: &'a RawValue) -> Result<T, ReadError> {
    read_text(row.get())
}

/// Returns the error for a body of another shape, with the reason.
pub fn refuse<T>(detail: &str) -> Result<T, ReadError> {
    Err(ReadError::NotAnEvent(detail.to_owned()))
}

/// Reads the arguments of an operation: the body without the operation's name.
pub fn arguments<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ReadError> {
    let Arguments(arguments) = read(body)?;
    Ok(arguments)
}

/// The members of an object, without the operation's name.
struct Arguments<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Arguments<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Visitor<T> {
            type Value = Arguments<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Arguments<T>, A::Error> {
                T::deserialize(de::value::MapAccessDeserializer::new(Without(map))).map(Arguments)
            }
        }

        deserializer.deserialize_map(Visitor(PhantomData))
    }
}

/// A map access that skips the operation's name.
struct Without<A>(A);

impl<'de, A: de::MapAccess<'de>> de::MapAccess<'de> for Without<A> {
    type Error = A::Error;

    fn next_key_seed<K: de::DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        while let Some(name) = self.0.next_key::<Cow<str>>()? {
            if name != OPERATION {
                return seed.deserialize(name.into_deserializer()).map(Some);
            }
            self.0.next_value::<de::IgnoredAny>()?;
        }
        Ok(None)
    }

    fn next_value_seed<V: de::DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.0.next_value_seed(seed)
    }
}
