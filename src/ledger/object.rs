//! A JSON object, read field by field. What the ledger sends is read so: a derived reader would be compiled in once for
//! each of its rows and replies, and this one is there once for all of them.
//!
//! As strict as a derived one: a field that is read must be of its type and may not stand twice; any other may be
//! whatever it likes. Nothing says what was wrong, as nobody could correct it.

use crate::domain::amount::{self, Amount};
use rust_decimal::Decimal;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error, MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};
use std::{borrow::Cow, fmt};

/// An object's fields, each as it was written.
#[derive(Debug)]
pub struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

/// The text is not an object, or the field not what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable;

impl<'a> Object<'a> {
    /// Reads an object, whatever its fields are.
    pub fn read(text: &'a str) -> Result<Self, Unreadable> {
        serde_json::from_str(text).map_err(|_| Unreadable)
    }

    /// The objects of an array.
    pub fn read_all(text: &'a str) -> Result<Vec<Self>, Unreadable> {
        serde_json::from_str(text).map_err(|_| Unreadable)
    }

    /// A field as it was written; `None` if it is not there.
    pub fn raw(&self, name: &str) -> Result<Option<&'a RawValue>, Unreadable> {
        let mut fields = self.0.iter().filter(|(field, _)| field == name).map(|(_, value)| *value);
        match (fields.next(), fields.next()) {
            (field, None) => Ok(field),
            _ => Err(Unreadable),
        }
    }

    /// A field as it was written; `None` if it is null or not there.
    pub fn not_null(&self, name: &str) -> Result<Option<&'a RawValue>, Unreadable> {
        Ok(self.raw(name)?.filter(|field| field.get() != "null"))
    }

    /// A text, if it is there.
    pub fn maybe_text(&self, name: &str) -> Result<Option<String>, Unreadable> {
        match self.value(name)? {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text)),
            _ => Err(Unreadable),
        }
    }

    /// A text.
    pub fn text(&self, name: &str) -> Result<String, Unreadable> {
        self.maybe_text(name)?.ok_or(Unreadable)
    }

    /// A whole number from 0, if it is there.
    pub fn maybe_whole(&self, name: &str) -> Result<Option<u64>, Unreadable> {
        match self.value(name)? {
            Value::Null => Ok(None),
            Value::Number(number) => number.as_str().parse().map(Some).map_err(|_| Unreadable),
            _ => Err(Unreadable),
        }
    }

    /// A whole number from 0.
    pub fn whole(&self, name: &str) -> Result<u64, Unreadable> {
        self.maybe_whole(name)?.ok_or(Unreadable)
    }

    /// A yes or no.
    pub fn flag(&self, name: &str) -> Result<bool, Unreadable> {
        self.value(name)?.as_bool().ok_or(Unreadable)
    }

    /// A yes or no, and no if it is not there.
    pub fn flag_or_no(&self, name: &str) -> Result<bool, Unreadable> {
        if self.raw(name)?.is_some() { self.flag(name) } else { Ok(false) }
    }

    /// An amount, if it is there.
    pub fn maybe_amount(&self, name: &str) -> Result<Option<Amount>, Unreadable> {
        match self.value(name)? {
            Value::Null => Ok(None),
            value => Amount::from_json(&value).map(Some).map_err(|_| Unreadable),
        }
    }

    /// An amount.
    pub fn amount(&self, name: &str) -> Result<Amount, Unreadable> {
        self.maybe_amount(name)?.ok_or(Unreadable)
    }

    /// A number, of any size.
    pub fn decimal(&self, name: &str) -> Result<Decimal, Unreadable> {
        match self.value(name)? {
            Value::Number(number) => amount::decimal(number.as_str()).map_err(|_| Unreadable),
            _ => Err(Unreadable),
        }
    }

    /// One of an enum's words, by the names that its JSON has, if it is there.
    pub fn maybe_word<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, Unreadable> {
        // From a text, not from what stands there: what can come from a number brings the reading of floats along.
        let word = self.maybe_text(name)?.map(|word| serde_json::from_value(Value::String(word)));
        word.transpose().map_err(|_| Unreadable)
    }

    /// One of an enum's words, by the names that its JSON has.
    pub fn word<T: DeserializeOwned>(&self, name: &str) -> Result<T, Unreadable> {
        self.maybe_word(name)?.ok_or(Unreadable)
    }

    fn value(&self, name: &str) -> Result<Value, Unreadable> {
        match self.raw(name)? {
            None => Ok(Value::Null),
            Some(field) => value(field.get()),
        }
    }
}

/// Reads what is no object.
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

/// A field's name, borrowed where it is written without escapes.
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
    fn a_field_is_of_its_type_or_refused() {
        let text = r#"{"t":"a\"b","n":7,"f":true,"a":1.50,"z":null,"o":{"x":[1]},"e\u0073c":"y","t2":" "}"#;
        let object = Object::read(text).unwrap();
        assert_eq!(object.text("t").unwrap(), "a\"b");
        assert_eq!(object.text("esc").unwrap(), "y", "a name is what it reads as");
        assert_eq!(object.whole("n"), Ok(7));
        assert_eq!(object.flag("f"), Ok(true));
        assert_eq!(object.amount("a").unwrap().to_string(), "1.50");
        assert_eq!(object.raw("o").unwrap().unwrap().get(), r#"{"x":[1]}"#);
        for name in ["z", "missing"] {
            assert_eq!(object.maybe_text(name), Ok(None));
            assert_eq!(object.maybe_whole(name), Ok(None));
            assert_eq!(object.maybe_amount(name), Ok(None));
            assert!(object.not_null(name).unwrap().is_none());
            assert_eq!(object.text(name), Err(Unreadable));
            assert_eq!(object.whole(name), Err(Unreadable));
            assert_eq!(object.flag(name), Err(Unreadable));
            assert_eq!(object.amount(name), Err(Unreadable));
        }
        assert_eq!(object.flag_or_no("missing"), Ok(false));
        assert_eq!(object.flag_or_no("z"), Err(Unreadable));
        for name in ["n", "f", "o"] {
            assert_eq!(object.maybe_text(name), Err(Unreadable), "{name}");
        }
        for name in ["t", "f", "o", "a"] {
            assert_eq!(object.maybe_whole(name), Err(Unreadable), "{name}");
        }
        for name in ["t", "f", "o"] {
            assert_eq!(object.maybe_amount(name), Err(Unreadable), "{name}");
        }
    }

    #[test]
    fn a_whole_number_is_written_as_one() {
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
            assert_eq!(Object::read(&text).unwrap().whole("n"), whole, "{text}");
        }
    }

    #[test]
    fn what_stands_twice_is_refused_where_it_is_read_and_what_is_no_object_always() {
        let object = Object::read(r#"{"a":1,"b":2,"a":1}"#).unwrap();
        assert_eq!(object.whole("a"), Err(Unreadable));
        assert_eq!(object.whole("b"), Ok(2));
        for text in ["", "[1]", "null", "\"a\"", "{\"a\":1} x", "{\"a\":01}", "{\"a\"}", "{a:1}"] {
            assert!(Object::read(text).is_err(), "{text}");
        }
        assert_eq!(Object::read_all("[{},{}]").unwrap().len(), 2);
        for text in ["{}", "[[]]", "[{},1]"] {
            assert!(Object::read_all(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_not_read_may_nest_as_deep_as_it_likes() {
        let text = format!(r#"{{"deep":{}1{},"n":1}}"#, "[".repeat(500), "]".repeat(500));
        assert_eq!(Object::read(&text).unwrap().whole("n"), Ok(1));
    }
}
