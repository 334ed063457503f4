//! Values that stand in JSON as their text: addresses, prefixes.

use std::fmt::Display;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serializer, de::Error};

pub(crate) fn serialize<S: Serializer, T: Display>(it: &T, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(it)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(d: D) -> Result<T, D::Error> {
    read(&String::deserialize(d)?)
}

fn read<T: FromStr<Err: Display>, E: Error>(text: &str) -> Result<T, E> {
    text.parse().map_err(E::custom)
}

/// The same for what may be missing.
pub(crate) mod opt {
    use super::*;

    pub(crate) fn serialize<S: Serializer, T: Display>(it: &Option<T>, s: S) -> Result<S::Ok, S::Error> {
        match it {
            Some(it) => s.collect_str(it),
            None => s.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(
        d: D,
    ) -> Result<Option<T>, D::Error> {
        Option::<String>::deserialize(d)?.map(|text| read(&text)).transpose()
    }
}

/// The same for lists.
pub(crate) mod list {
    use super::*;

    pub(crate) fn serialize<S: Serializer, T: Display>(all: &[T], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(all.iter().map(ToString::to_string))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(d: D) -> Result<Vec<T>, D::Error> {
        Vec::<String>::deserialize(d)?.iter().map(|text| read(text)).collect()
    }
}

/// Prefixes with their length, also where they are one address: `192.0.2.7/32`.
pub(crate) mod long {
    use addr::Prefix;

    use super::*;

    pub(crate) fn serialize<S: Serializer>(it: &Prefix, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&it.long())
    }

    pub(crate) use super::deserialize;

    /// The same for lists.
    pub(crate) mod list {
        use super::*;

        pub(crate) fn serialize<S: Serializer>(all: &[Prefix], s: S) -> Result<S::Ok, S::Error> {
            s.collect_seq(all.iter().map(|p| p.long()))
        }

        pub(crate) use crate::text::list::deserialize;
    }
}
