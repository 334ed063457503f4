//! Keys of the mesh. In: raw bytes, or texts such as `nodekey:<64 hex digits>`. Out: typed Curve25519 keys, so that one
//! kind is never taken for another. Texts are those of Tailscale's `types/key`.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::agreement::{self, UnparsedPublicKey, X25519};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;
use zeroize::Zeroize;

/// Bytes in a Curve25519 key, public or private.
pub const KEY_LEN: usize = 32;

/// Why a text is no key. It never holds the text, which may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyError {
    /// It starts differently.
    #[error("a key of this kind starts with `{0}`")]
    Prefix(&'static str),
    /// The rest is not 64 hexadecimal digits.
    #[error("`{0}` must be followed by 64 hexadecimal digits")]
    Digits(&'static str),
}

macro_rules! public_key {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name([u8; KEY_LEN]);

        impl $name {
            /// What its text starts with.
            pub const PREFIX: &'static str = $prefix;

            /// The key with these bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; KEY_LEN]) -> $name {
                $name(bytes)
            }

            /// Its bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; KEY_LEN] {
                &self.0
            }

            /// True for the key of zeros, with which official clients say "none".
            #[must_use]
            pub fn is_zero(&self) -> bool {
                self.0 == [0; KEY_LEN]
            }

            /// Its first five digits after the kind, for logs.
            #[must_use]
            pub fn short(&self) -> String {
                self.to_string().chars().take($prefix.len() + 5).collect()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($prefix)?;
                write_hex(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = KeyError;

            fn from_str(text: &str) -> Result<$name, KeyError> {
                read($prefix, text).map($name)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                struct Text;
                impl de::Visitor<'_> for Text {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str(concat!("`", $prefix, "` and 64 hexadecimal digits"))
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }
    };
}

macro_rules! private_key {
    ($(#[$doc:meta])* $name:ident, $public:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq)]
        pub struct $name([u8; KEY_LEN]);

        impl $name {
            /// What its text starts with.
            pub const PREFIX: &'static str = "privkey:";

            /// A key from random bytes, clamped as Curve25519 wants it (RFC 7748, section 5).
            #[must_use]
            pub fn from_random(mut random: [u8; KEY_LEN]) -> $name {
                random[0] &= 0b1111_1000;
                random[31] = (random[31] & 0b0111_1111) | 0b0100_0000;
                $name(random)
            }

            /// Its public half.
            #[must_use]
            pub fn public(&self) -> $public {
                $public(public_of(&self.0))
            }

            /// Its bytes, for the handshake.
            #[must_use]
            pub(crate) fn as_bytes(&self) -> &[u8; KEY_LEN] {
                &self.0
            }

            /// Its text, `privkey:<64 hex digits>`, for the file or the table that keeps it.
            #[must_use]
            pub fn reveal(&self) -> String {
                let mut text = String::from($name::PREFIX);
                // Writing to a string does not fail.
                let _ = write_hex(&self.0, &mut text);
                text
            }
        }

        impl FromStr for $name {
            type Err = KeyError;

            fn from_str(text: &str) -> Result<$name, KeyError> {
                read($name::PREFIX, text).map($name)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("privkey:***")
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                self.0.zeroize();
            }
        }
    };
}

public_key! {
    /// Who a machine is to the coordination server: the static key of its Noise handshakes.
    MachineKey, "mkey:"
}
public_key! {
    /// Who a node is to its peers: its WireGuard key, by which relays know it too.
    NodeKey, "nodekey:"
}
public_key! {
    /// The key with which nodes find paths to each other.
    DiscoKey, "discokey:"
}
private_key! {
    /// The private half of a [`MachineKey`].
    MachinePrivate, MachineKey
}
private_key! {
    /// The private half of a [`NodeKey`]; relays have one too.
    NodePrivate, NodeKey
}

/// The secret that both sides of a Curve25519 agreement know; nothing for a peer key of low order, with which the
/// secret would be no secret.
pub(crate) fn agree(private: &[u8; KEY_LEN], public: &[u8; KEY_LEN]) -> Option<[u8; KEY_LEN]> {
    let private = agreement::PrivateKey::from_private_key(&X25519, private).ok()?;
    let peer = UnparsedPublicKey::new(&X25519, public);
    let shared = agreement::agree(&private, peer, (), |secret| secret.try_into().map_err(|_| ())).ok()?;
    (shared != [0; KEY_LEN]).then_some(shared)
}

pub(crate) fn public_of(private: &[u8; KEY_LEN]) -> [u8; KEY_LEN] {
    let mut public = [0; KEY_LEN];
    let key = agreement::PrivateKey::from_private_key(&X25519, private);
    if let Some(computed) = key.ok().and_then(|k| k.compute_public_key().ok()) {
        public.copy_from_slice(computed.as_ref());
    }
    public
}

fn write_hex(bytes: &[u8; KEY_LEN], out: &mut impl fmt::Write) -> fmt::Result {
    bytes.iter().try_for_each(|b| write!(out, "{b:02x}"))
}

fn read(prefix: &'static str, text: &str) -> Result<[u8; KEY_LEN], KeyError> {
    let digits = text.strip_prefix(prefix).ok_or(KeyError::Prefix(prefix))?.as_bytes();
    let mut key = [0; KEY_LEN];
    if digits.len() != 2 * KEY_LEN {
        return Err(KeyError::Digits(prefix));
    }
    for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |d: u8| char::from(d).to_digit(16).ok_or(KeyError::Digits(prefix));
        // Two digits fit one byte.
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_read_back_and_kinds_do_not_mix() {
        let key = NodeKey::from_bytes(std::array::from_fn(|i| i as u8));
        let text = "nodekey:000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
        assert_eq!(key.to_string(), text);
        assert_eq!(text.parse(), Ok(key));
        assert_eq!(text.to_uppercase().replace("NODEKEY", "nodekey").parse(), Ok(key));
        assert_eq!(key.short(), "nodekey:00010");
        assert_eq!(text.parse::<MachineKey>(), Err(KeyError::Prefix("mkey:")));
        assert_eq!("mkey:00".parse::<MachineKey>(), Err(KeyError::Digits("mkey:")));
        assert_eq!(format!("discokey:{}", "é".repeat(32)).parse::<DiscoKey>(), Err(KeyError::Digits("discokey:")));
        assert_eq!(serde_json::to_string(&key).unwrap(), format!("\"{text}\""));
        assert_eq!(serde_json::from_str::<NodeKey>(&format!("\"{text}\"")).unwrap(), key);
        assert!(serde_json::from_str::<NodeKey>("\"\"").is_err());
        assert!(NodeKey::default().is_zero() && !key.is_zero());
    }

    #[test]
    fn private_keys_make_the_public_keys_of_the_standard_and_hide() {
        // RFC 7748, section 6.1.
        let alice: MachinePrivate =
            "privkey:77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a".parse().unwrap();
        let public = "mkey:8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a";
        assert_eq!(alice.public().to_string(), public);
        assert_eq!(alice.reveal().parse(), Ok(alice.clone()));
        assert_eq!(format!("{alice:?}"), "privkey:***");
        let random = NodePrivate::from_random([0xff; KEY_LEN]);
        assert_eq!((random.as_bytes()[0], random.as_bytes()[31]), (0xf8, 0x7f));
        let other = NodePrivate::from_random([7; KEY_LEN]);
        let one = agree(random.as_bytes(), other.public().as_bytes());
        assert!(one.is_some());
        assert_eq!(one, agree(other.as_bytes(), random.public().as_bytes()));
    }

    #[test]
    fn keys_of_low_order_agree_on_nothing() {
        let own = NodePrivate::from_random([7; KEY_LEN]);
        let mut one = [0; KEY_LEN];
        one[0] = 1;
        for low in [[0; KEY_LEN], one] {
            assert_eq!(agree(own.as_bytes(), &low), None);
        }
    }
}
