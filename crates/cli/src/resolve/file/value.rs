//! Values of the configuration file that are more than TOML knows: lists with the place of each entry, addresses, ports,
//! lengths of time. In: TOML. Out: typed values; a bad one is an error with line and column.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use access::visitor::AddressHeader;
use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};
use toml::Spanned;
use tunnel::settings::Site;
use tunnel_proto::upstream::PortRanges;

use crate::args::ProxyLine;

/// One string or an array of strings, each with its place in the file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ListValue(pub(super) Spanned<Vec<Spanned<String>>>);

impl<'de> Deserialize<'de> for ListValue {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<ListValue, D::Error> {
        #[derive(Deserialize)]
        struct Inner(#[serde(deserialize_with = "one_or_many")] Vec<Spanned<String>>);
        let spanned = Spanned::<Inner>::deserialize(from)?;
        let span = spanned.span();
        let mut items = spanned.into_inner().0;
        // A single string has no span of its own; it is that of the value.
        if let [only] = items.as_mut_slice()
            && only.span().is_empty()
        {
            *only = Spanned::new(span.clone(), std::mem::take(only.as_mut()));
        }
        Ok(ListValue(Spanned::new(span, items)))
    }
}

fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Spanned<String>>, D::Error> {
    struct Items;
    impl<'de> Visitor<'de> for Items {
        type Value = Vec<Spanned<String>>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list such as [\"198.51.100.0/24\", \"@office.txt\"]")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            Ok(vec![Spanned::new(0..0, text.to_string())])
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut out = Vec::new();
            while let Some(item) = seq.next_element::<Spanned<String>>()? {
                out.push(item);
            }
            Ok(out)
        }
    }
    from.deserialize_any(Items)
}

fn parsed<'de, D, T>(from: D, parse: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
{
    let text = String::deserialize(from)?;
    parse(&text).map(Some).map_err(|why| de::Error::custom(format!("`{text}`: {why}")))
}

pub(super) fn bind_addr<'de, D: Deserializer<'de>>(from: D) -> Result<Option<IpAddr>, D::Error> {
    parsed(from, crate::args::values::bind_addr)
}

pub(super) fn ports<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PortRanges>, D::Error> {
    parsed(from, |t| t.parse().map_err(|e: tunnel_proto::upstream::UpstreamError| e.to_string()))
}

pub(super) fn sites<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Vec<Site>>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    texts.iter().map(|t| t.parse().map_err(de::Error::custom)).collect::<Result<_, _>>().map(Some)
}

pub(super) fn trusted_header<'de, D: Deserializer<'de>>(from: D) -> Result<Option<AddressHeader>, D::Error> {
    parsed(from, str::parse)
}

pub(super) fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    parsed(from, crate::args::values::duration)
}

pub(super) fn proxy_version<'de, D: Deserializer<'de>>(from: D) -> Result<Option<ProxyLine>, D::Error> {
    parsed(from, crate::args::proxy_version)
}
