//! A JSON object whose fields are read one by one. The ledger's replies are read with it, because a derived
//! reader for each row and reply would make the component larger.
//!
//! The reader is as strict as a derived one. A field that is read must have its type and must occur once.
//! Other fields may hold anything. The error names no field, because no caller can correct the ledger's
//! reply.

use crate::domain::amount::{self, Amount};
use rust_decimal::Decimal;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error, MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};
use std::{borrow::Cow, fmt};

/// The fields of an object, as text.
#[derive(Debug)]
pub struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// The error for text that is not an object, or for a field of another type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable;

impl<'a> Object<'a> {
    /// Reads an object with any fields.
    pub fn read(text: &'a str) -> Result<Self, Unreadable> {
        serde_json::from_str(text).map_err(|_| Unreadable)
    }

    /// Reads an array of objects.
    pub fn read_all(text: &'a str) -> Result<Vec<Self>, Unreadable> {
        serde_json::from_str(text).map_err(|_| Unreadable)
    }

    /// Returns a field's text; `None` if the object does not have the field.
    pub fn raw(&self, name: &str) -> Result<Option<&'a RawValue>, Unreadable> {
        let mut fields = self.0.iter().filter(|(field, _)| field == name).map(|(_, value)| *value);
        match (fields.next(), fields.next()) {
            (field, None) => Ok(field),
            _ => Err(Unreadable),
        }
    }

    /// Returns a field's text; `None` if the field is null or missing.
    pub fn not_null(&self, name: &str) -> Result<Option<&'a RawValue>, Unreadable> {
        Ok(self.raw(name)?.filter(|field| field.get() != "null"))
    }

    /// Returns a string; `None` if the field is null or missing.
    pub fn maybe_text(&self, name: &str) -> Result<Option<String>, Unreadable> {
        match self.value(name)? {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text)),
            _ => Err(Unreadable),
        }
    }

    /// Returns a string.
    pub fn text(&self, name: &str) -> Result<String, Unreadable> {
        self.maybe_text(name)?.ok_or(Unreadable)
    }

    /// Returns an integer from 0; `None` if the field is null or missing.
    pub fn maybe_integer(&self, name: &str) -> Result<Option<u64>, Unreadable> {
        match self.value(name)? {
            Value::Null => Ok(None),
            Value::Number(number) => number.as_str().parse().map(Some).map_err(|_| Unreadable),
            _ => Err(Unreadable),
        }
    }

    /// Returns an integer from 0.
    pub fn integer(&self, name: &str) -> Result<u64, Unreadable> {
        self.maybe_integer(name)?.ok_or(Unreadable)
    }

    /// Returns a boolean.
    pub fn flag(&self, name: &str) -> Result<bool, Unreadable> {
        self.value(name)?.as_bool().ok_or(Unreadable)
    }

    /// Returns a boolean; `false` if the field is missing.
    pub fn flag_or_false(&self, name: &str) -> Result<bool, Unreadable> {
        if self.raw(name)?.is_some() { self.flag(name) } else { Ok(false) }
    }

    /// Returns an amount; `None` if the field is null or missing.
    pub fn maybe_amount(&self, name: &str) -> Result<Option<Amount>, Unreadable> {
        match self.value(name)? {
            Value::Null => Ok(None),
            value => Amount::from_json(&value).map(Some).map_err(|_| Unreadable),
        }
    }

    /// Returns an amount.
    pub fn amount(&self, name: &str) -> Result<Amount, Unreadable> {
        self.maybe_amount(name)?.ok_or(Unreadable)
    }

    /// Returns a number of any size.
    pub fn decimal(&self, name: &str) -> Result<Decimal, Unreadable> {
        match self.value(name)? {
            Value::Number(number) => amount::decimal(number.as_str()).map_err(|_| Unreadable),
            _ => Err(Unreadable),
        }
    }

    /// Returns a variant of an enum by its JSON name; `None` if the field is null or missing.
    pub fn maybe_variant<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Unreadable> {
        // The value is made from a string. A value that could be a number would add the parser of floats to
        // the component.
        let variant = self.maybe_text(name)?.map(|text| serde_json::from_value(Value::String(text)));
        variant.transpose().map_err(|_| Unreadable)
    }

    /// Returns a variant of an enum by its JSON name.
    pub fn variant<T: DeserializeOwned>(&self, name: &str) -> Result<T, Unreadable> {
        self.maybe_variant(name)?.ok_or(Unreadable)
    }

    fn value(&self, name: &str) -> Result<Value, Unreadable> {
        match self.raw(name)? {
            None => Ok(Value::Null),
            Some(field) => value(field.get()),
        }
    }
}

/// Reads a value that is not an object.
pub fn value(text: &str) -> Result<Value, Unreadable> {
    serde_json::from_str(text).map_err(|_| Unreadable)
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some((Name(name), value)) = map.next_entry()? {
                    fields.push((name, value));
                }
                Ok(Object(fields))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// A field's name, borrowed if it has no escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl<'de> Visitor<'de> for Text {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a field's name")
            }

            fn visit_borrowed_str<E: Error>(self, name: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(name)))
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(name.to_owned())))
            }
        }

        deserializer.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_another_type_is_refused() {
        let text = r#"{"t":"a\"b","n":7,"f":true,"a":1.50,"z":null,"o":{"x":[1]},"e\u0073c":"y","t2":" "}"#;
        let object = Object::read(text).unwrap();
        assert_eq!(object.text("t").unwrap(), "a\"b");
        assert_eq!(object.text("esc").unwrap(), "y", "a name may have escapes");
        assert_eq!(object.integer("n"), Ok(7));
        assert_eq!(object.flag("f"), Ok(true));
        assert_eq!(object.amount("a").unwrap().to_string(), "1.50");
        assert_eq!(object.raw("o").unwrap().unwrap().get(), r#"{"x":[1]}"#);
        for name in ["z", "missing"] {
            assert_eq!(object.maybe_text(name), Ok(None));
            assert_eq!(object.maybe_integer(name), Ok(None));
            assert_eq!(object.maybe_amount(name), Ok(None));
            assert!(object.not_null(name).unwrap().is_none());
            assert_eq!(object.text(name), Err(Unreadable));
            assert_eq!(object.integer(name), Err(Unreadable));
            assert_eq!(object.flag(name), Err(Unreadable));
            assert_eq!(object.amount(name), Err(Unreadable));
        }
        assert_eq!(object.flag_or_false("missing"), Ok(false));
        assert_eq!(object.flag_or_false("z"), Err(Unreadable));
        for name in ["n", "f", "o"] {
            assert_eq!(object.maybe_text(name), Err(Unreadable), "{name}");
        }
        for name in ["t", "f", "o", "a"] {
            assert_eq!(object.maybe_integer(name), Err(Unreadable), "{name}");
        }
        for name in ["t", "f", "o"] {
            assert_eq!(object.maybe_amount(name), Err(Unreadable), "{name}");
        }
    }

    #[test]
    fn an_integer_is_read_only_without_sign_fraction_and_exponent() {
        for (text, whole) in [
            ("0", Ok(0)),
            ("18446744073709551615", Ok(u64::MAX)),
            ("18446744073709551616", Err(Unreadable)),
            ("-1", Err(Unreadable)),
            ("-0", Err(Unreadable)),
            ("1.0", Err(Unreadable)),
            ("1e0", Err(Unreadable)),
            ("\"1\"", Err(Unreadable)),
        ] {
            let text = format!(r#"{{"n":{text}}}"#);
            assert_eq!(Object::read(&text).unwrap().integer("n"), whole, "{text}");
        }
    }

    #[test]
    fn a_repeated_field_is_refused_when_it_is_read_and_a_text_that_is_not_an_object_always() {
        let object = Object::read(r#"{"a":1,"b":2,"a":1}"#).unwrap();
        assert_eq!(object.integer("a"), Err(Unreadable));
        assert_eq!(object.integer("b"), Ok(2));
        for text in ["", "[1]", "null", "\"a\"", "{\"a\":1} x", "{\"a\":01}", "{\"a\"}", "{a:1}"] {
            assert!(Object::read(text).is_err(), "{text}");
        }
        assert_eq!(Object::read_all("[{},{}]").unwrap().len(), 2);
        for text in ["{}", "[[]]", "[{},1]"] {
            assert!(Object::read_all(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_unread_field_may_nest_to_any_depth() {
        let text = format!(r#"{{"deep":{}1{},"n":1}}"#, "[".repeat(500), "]".repeat(500));
        assert_eq!(Object::read(&text).unwrap().integer("n"), Ok(1));
    }
}
