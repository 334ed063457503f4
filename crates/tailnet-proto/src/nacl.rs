//! The sealed box of NaCl (`crypto_box`), with which relays and their clients introduce themselves. In: keys, a nonce,
//! bytes. Out: bytes sealed or opened. Curve25519 of aws-lc-rs; XSalsa20 and Poly1305, which it has not, of RustCrypto.

use crypto_secretbox::aead::{AeadInPlace, KeyInit};
use crypto_secretbox::{Key, Nonce, Tag, XSalsa20Poly1305};
use salsa20::cipher::consts::U10;
use zeroize::Zeroize;

use crate::meshkey::{NodeKey, NodePrivate, agree};

/// Bytes of a nonce; random ones never meet twice.
pub const NONCE_LEN: usize = 24;

/// Bytes that sealing adds in front.
pub const TAG_LEN: usize = 16;

/// What two keys share; both sides make the same one.
pub struct SharedBox(XSalsa20Poly1305);

impl SharedBox {
    /// For `own` and a peer; nothing if the peer's key is one with which there are no secrets.
    #[must_use]
    pub fn new(own: &NodePrivate, peer: &NodeKey) -> Option<SharedBox> {
        let mut secret = agree(own.as_bytes(), peer.as_bytes())?;
        let mut key: Key = salsa20::hsalsa::<U10>(&secret.into(), &[0; 16].into());
        let shared = SharedBox(XSalsa20Poly1305::new(&key));
        secret.zeroize();
        key.as_mut_slice().zeroize();
        Some(shared)
    }

    /// Tag and ciphertext. Never use a nonce twice with the same two keys.
    #[must_use]
    pub fn seal(&self, nonce: &[u8; NONCE_LEN], plain: &[u8]) -> Vec<u8> {
        let mut out = vec![0; TAG_LEN + plain.len()];
        let (front, body) = out.split_at_mut(TAG_LEN);
        body.copy_from_slice(plain);
        match self.0.encrypt_in_place_detached(Nonce::from_slice(nonce), &[], body) {
            Ok(tag) => front.copy_from_slice(&tag),
            // Only for texts of gigabytes; zeros open for nobody.
            Err(_) => out.fill(0),
        }
        out
    }

    /// The plaintext, or nothing if it was not sealed with these keys and this nonce.
    #[must_use]
    pub fn open(&self, nonce: &[u8; NONCE_LEN], sealed: &[u8]) -> Option<Vec<u8>> {
        let (tag, body) = sealed.split_first_chunk::<TAG_LEN>()?;
        let mut plain = body.to_vec();
        let nonce = Nonce::from_slice(nonce);
        self.0.decrypt_in_place_detached(nonce, &[], &mut plain, Tag::from_slice(tag)).ok()?;
        Some(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    }

    /// The box of "Cryptography in NaCl" (D. J. Bernstein), section 10.
    #[test]
    fn boxes_are_those_of_the_public_vector() {
        let bob: NodePrivate =
            "privkey:5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb".parse().unwrap();
        let alice: NodePrivate =
            "privkey:77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a".parse().unwrap();
        let nonce = hex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37").try_into().unwrap();
        let plain = hex(
            "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffce5ecbaaf33bd751a1ac728d45e6c612\
                         96cdc3c01233561f41db66cce314adb310e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1f\
                         de048977eb48f59ffd4924ca1c60902e52f0a089bc76897040e082f937763848645e0705",
        );
        let sealed = hex(
            "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c531a118\
                          6ac0dfc17c98dce87b4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e5\
                          26ae90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b37973f622a43d14a6599b1f654c\
                          b45a74e355a5",
        );
        let from_bob = SharedBox::new(&bob, &alice.public()).unwrap();
        let from_alice = SharedBox::new(&alice, &bob.public()).unwrap();
        assert_eq!(from_bob.seal(&nonce, &plain), sealed);
        assert_eq!(from_alice.open(&nonce, &sealed).unwrap(), plain);
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(from_alice.open(&nonce, &changed), None);
        }
        assert_eq!(from_alice.open(&nonce, &sealed[..TAG_LEN - 1]), None);
        assert!(SharedBox::new(&bob, &NodeKey::default()).is_none());
    }
}
