//! JSON values as R writes them. R has no scalars: where one value is missing it writes `{}` or `[]`,
//! and a vector of one may be a bare value.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor};

/// A string, or nothing.
#[derive(Default)]
pub(super) struct Text<'a>(pub(super) Option<Cow<'a, str>>);

/// Any number of strings.
#[derive(Default)]
pub(super) struct Texts<'a>(pub(super) Vec<Cow<'a, str>>);

/// A number of bytes, or nothing.
#[derive(Default)]
pub(super) struct Size(pub(super) Option<u64>);

/// True, or anything else.
#[derive(Default)]
pub(super) struct Flag(pub(super) bool);

/// The string values of an object.
#[derive(Default)]
pub(super) struct Metadata(pub(super) BTreeMap<String, String>);

/// The `packages` of all objects in a list.
#[derive(Default)]
pub(super) struct SystemPackages(pub(super) Vec<String>);

/// Takes one scalar after the other; what it does not accept is a value of the wrong kind.
trait FromR<'de>: Default {
    const EXPECTED: &'static str;

    fn accept(&mut self, scalar: Scalar<'de>) -> Result<(), Scalar<'de>>;

    fn field<A: MapAccess<'de>>(&mut self, _: &str, map: &mut A) -> Result<(), A::Error> {
        map.next_value::<IgnoredAny>().map(drop)
    }
}

/// A text is borrowed from the file unless it has escapes: a large lockfile has a million of them.
enum Scalar<'de> {
    Text(Cow<'de, str>),
    Number(f64),
    Boolean(bool),
}

impl<'de: 'a, 'a> FromR<'de> for Text<'a> {
    const EXPECTED: &'static str = "a string";

    fn accept(&mut self, scalar: Scalar<'de>) -> Result<(), Scalar<'de>> {
        let Scalar::Text(text) = scalar else { return Err(scalar) };
        self.0.get_or_insert(text);
        Ok(())
    }
}

impl<'de: 'a, 'a> FromR<'de> for Texts<'a> {
    const EXPECTED: &'static str = "a list of strings";

    fn accept(&mut self, scalar: Scalar<'de>) -> Result<(), Scalar<'de>> {
        let Scalar::Text(text) = scalar else { return Err(scalar) };
        self.0.extend(Some(text).filter(|text| !text.is_empty()));
        Ok(())
    }
}

impl<'de> FromR<'de> for Size {
    const EXPECTED: &'static str = "a number of bytes";

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be positive and small")]
    fn accept(&mut self, scalar: Scalar<'de>) -> Result<(), Scalar<'de>> {
        let Scalar::Number(number) = scalar else { return Err(scalar) };
        self.0 = (0.0..1e15).contains(&number).then_some(number as u64);
        Ok(())
    }
}

impl<'de> FromR<'de> for Flag {
    const EXPECTED: &'static str = "true or false";

    fn accept(&mut self, scalar: Scalar<'de>) -> Result<(), Scalar<'de>> {
        let Scalar::Boolean(value) = scalar else { return Err(scalar) };
        self.0 = value;
        Ok(())
    }
}

impl<'de> FromR<'de> for Metadata {
    const EXPECTED: &'static str = "an object";

    fn accept(&mut self, scalar: Scalar<'de>) -> Result<(), Scalar<'de>> {
        Err(scalar)
    }

    fn field<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        if let serde_json::Value::String(text) = map.next_value()? {
            self.0.insert(name.to_owned(), text);
        }
        Ok(())
    }
}

impl<'de> FromR<'de> for SystemPackages {
    const EXPECTED: &'static str = "a list of system requirements";

    fn accept(&mut self, scalar: Scalar<'de>) -> Result<(), Scalar<'de>> {
        Err(scalar)
    }

    fn field<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        if name == "packages" {
            self.0.extend(map.next_value::<Texts<'_>>()?.0.into_iter().map(Cow::into_owned));
            return Ok(());
        }
        map.next_value::<IgnoredAny>().map(drop)
    }
}

/// Visits scalars, lists (of lists) of them, and objects, all into one value.
struct RVisitor<'a, T>(&'a mut T);

impl<'de, T: FromR<'de>> RVisitor<'_, T> {
    fn accept<E: Error>(self, scalar: Scalar<'de>) -> Result<(), E> {
        self.0.accept(scalar).map_err(|scalar| {
            let unexpected = match &scalar {
                Scalar::Text(text) => Unexpected::Str(text),
                Scalar::Number(number) => Unexpected::Float(*number),
                Scalar::Boolean(value) => Unexpected::Bool(*value),
            };
            E::invalid_type(unexpected, &T::EXPECTED)
        })
    }
}

impl<'de, T: FromR<'de>> Visitor<'de> for RVisitor<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.accept(Scalar::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<(), E> {
        self.accept(Scalar::Text(Cow::Borrowed(text)))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<(), E> {
        self.accept(Scalar::Number(number))
    }

    #[expect(clippy::cast_precision_loss, reason = "sizes of files are far below 2^53")]
    fn visit_u64<E: Error>(self, number: u64) -> Result<(), E> {
        self.accept(Scalar::Number(number as f64))
    }

    #[expect(clippy::cast_precision_loss, reason = "sizes of files are far below 2^53")]
    fn visit_i64<E: Error>(self, number: i64) -> Result<(), E> {
        self.accept(Scalar::Number(number as f64))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.accept(Scalar::Boolean(value))
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Name<'_>>()? {
            self.0.field(&name.0, &mut map)?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Element(&mut *self.0))?.is_some() {}
        Ok(())
    }
}

/// The name of a field.
#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

struct Element<'a, T>(&'a mut T);

impl<'de, T: FromR<'de>> serde::de::DeserializeSeed<'de> for Element<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(RVisitor(self.0))
    }
}

fn from_r<'de, T: FromR<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    let mut value = T::default();
    deserializer.deserialize_any(RVisitor(&mut value))?;
    Ok(value)
}

macro_rules! deserialize_from_r {
    ($($name:ty),*) => {$(
        impl<'de: 'a, 'a> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                from_r(deserializer)
            }
        }
    )*};
}

deserialize_from_r!(Text<'a>, Texts<'a>, Size, Flag, Metadata, SystemPackages);
