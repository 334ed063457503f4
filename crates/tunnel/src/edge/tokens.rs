//! The tokens of an edge at one moment. In: settings. Out: who proved which, and what it may do.
//!
//! A token keeps its number as long as its name and its secret stay, so that sessions name it by that while others come
//! and go.

use std::sync::Arc;

use access::Service;
use runtime::admission::{AccessGuard, Admission};

use super::super::settings::{EdgeToken, Rights};

/// A token in force.
pub(super) struct Known {
    /// Its number, never given to another.
    pub(super) id: usize,
    pub(super) token: EdgeToken,
    /// Its own guard, if it has a list of its own.
    pub(super) guard: Option<AccessGuard>,
}

/// All of them.
pub(super) struct Tokens {
    all: Vec<Known>,
    /// The first number that was never given.
    next: usize,
}

/// What became of the tokens of an edge.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) added: Vec<String>,
    pub(super) removed: Vec<String>,
    pub(super) changed: Vec<String>,
}

impl Tokens {
    /// None.
    pub(super) fn none() -> Tokens {
        Tokens { all: Vec::new(), next: 0 }
    }

    /// These, where the ones that were there before keep their numbers.
    pub(super) fn next(&self, tokens: &[EdgeToken], admission: &Arc<Admission>) -> (Tokens, Difference) {
        let (mut all, mut next, mut difference) = (Vec::new(), self.next, Difference::default());
        for token in tokens {
            let guard = token.guarded.then(|| admission.guard(Service::Token(token.name.clone())));
            let before = self.all.iter().find(|k| k.token.name == token.name && k.token.hash == token.hash);
            let id = match before {
                Some(known) => {
                    if (&known.token.rights, known.token.guarded) != (&token.rights, token.guarded) {
                        difference.changed.push(token.name.clone());
                    }
                    known.id
                }
                None => {
                    match self.all.iter().any(|k| k.token.name == token.name) {
                        true => difference.changed.push(token.name.clone()),
                        false => difference.added.push(token.name.clone()),
                    }
                    next += 1;
                    next - 1
                }
            };
            all.push(Known { id, token: token.clone(), guard });
        }
        let gone = |k: &&Known| !tokens.iter().any(|t| t.name == k.token.name);
        difference.removed.extend(self.all.iter().filter(gone).map(|k| k.token.name.clone()));
        (Tokens { all, next }, difference)
    }

    /// The token of this number, as long as it is in force.
    pub(super) fn get(&self, id: usize) -> Option<&Known> {
        self.all.iter().find(|k| k.id == id)
    }

    /// What a token may publish; nothing once it is no longer in force.
    pub(super) fn rights(&self, id: usize) -> Rights {
        let nothing = || Rights { hosts: Some(Vec::new()), ports: Some(tunnel_proto::upstream::PortRanges::none()) };
        self.get(id).map_or_else(nothing, |k| k.token.rights.clone())
    }

    /// The token that this text is.
    pub(super) fn proved(&self, text: &str) -> Option<&Known> {
        // Every hash is compared, so that time does not tell which token came close.
        let mut found = None;
        for known in &self.all {
            if known.token.hash.matches(text) {
                found = Some(known);
            }
        }
        found.filter(|_| !text.is_empty())
    }
}

impl Difference {
    /// `tokens: `a` added, `b` removed`; nothing if nothing differs.
    pub(super) fn words(&self) -> Option<String> {
        let each = |names: &[String], what: &str| {
            let names: Vec<String> = names.iter().map(|n| format!("`{n}`")).collect();
            (!names.is_empty()).then(|| format!("{} {what}", names.join(", ")))
        };
        let words = [each(&self.added, "added"), each(&self.removed, "removed"), each(&self.changed, "changed")];
        let words: Vec<String> = words.into_iter().flatten().collect();
        (!words.is_empty()).then(|| format!("tokens: {}", words.join(", ")))
    }
}

#[cfg(test)]
mod tests {
    use net::secret::TokenHash;

    use super::*;

    #[test]
    fn a_token_keeps_its_number_as_long_as_its_name_and_secret_stay() {
        let admission = Admission::new();
        let token = |name: &str, secret: &str| EdgeToken::all(name, TokenHash::of(secret));
        let (first, said) = Tokens::none().next(&[token("a", "1"), token("b", "2")], &admission);
        assert_eq!(said.added, ["a", "b"]);
        let id = |tokens: &Tokens, secret: &str| tokens.proved(secret).map(|k| k.id);
        let (a, b) = (id(&first, "1").unwrap(), id(&first, "2").unwrap());
        let narrow =
            EdgeToken { rights: Rights { ports: Some("22".parse().unwrap()), hosts: None }, ..token("b", "2") };
        let (next, said) = first.next(&[token("c", "3"), narrow, token("a", "new")], &admission);
        assert_eq!(said.words().unwrap(), "tokens: `c` added, `b`, `a` changed");
        assert_eq!(id(&next, "2"), Some(b), "other rights, the same token");
        assert_eq!((id(&next, "1"), next.get(a).is_none()), (None, true), "the old secret proves nothing");
        let fresh = [id(&next, "3").unwrap(), id(&next, "new").unwrap()];
        assert!(!fresh.contains(&a) && !fresh.contains(&b) && fresh[0] != fresh[1]);
        assert_eq!(next.rights(a).hosts, Some(Vec::new()), "who is gone may publish nothing");
        let (last, said) = next.next(&[token("b", "2")], &admission);
        assert_eq!(said.words().unwrap(), "tokens: `c`, `a` removed, `b` changed");
        assert!(last.proved("").is_none() && last.proved("3").is_none());
        assert_eq!(last.next(&[token("b", "2")], &admission).1.words(), None);
    }
}
