//! Whose entries are taken: signatures as minisign knows them, over what an entry says of itself.

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

use crate::fault::fs;

/// What keys and signatures start with: Ed25519, over the message itself.
const ALGORITHM: &[u8; 2] = b"Ed";

/// Whose entries are taken from a tier.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Trust {
    /// Nobody's: the tier is only written to.
    None,
    /// Only those that one of these keys signed.
    Signed(Arc<[PublicKey]>),
    /// Everybody's who can write there.
    #[default]
    All,
}

impl Trust {
    /// Reads the word for it. Keys without a word mean that signatures are wanted.
    pub fn from_words(word: Option<&str>, keys: &[PublicKey]) -> Result<Self, String> {
        match (word, keys) {
            (None | Some("all"), []) => Ok(Self::All),
            (Some("none"), []) => Ok(Self::None),
            (None | Some("signed"), [_, ..]) => Ok(Self::Signed(keys.into())),
            (Some("signed"), []) => Err("`trust=signed` needs a public `key`".to_owned()),
            (Some("none" | "all"), [_, ..]) => Err("a `key` means `trust=signed`".to_owned()),
            (Some(other), _) => Err(format!("`trust` is `none`, `signed` or `all`, not `{other}`")),
        }
    }
}

/// The number that tells keys apart; it is no secret and proves nothing.
type KeyId = [u8; 8];

/// A key that signatures are checked with: a line of base64, as minisign writes it.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    id: KeyId,
    key: [u8; 32],
}

/// A key that entries are signed with.
pub struct SecretKey {
    id: KeyId,
    pair: Ed25519KeyPair,
    seed: [u8; 32],
}

/// A signature, with the number of its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Signature(String);

/// A text and who signed it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Signed {
    /// To the byte as it was signed.
    statement: String,
    #[serde(default)]
    signatures: Vec<Signature>,
}

impl Signed {
    /// Signs a text, if there is a key.
    pub(crate) fn new(statement: String, signer: Option<&SecretKey>) -> Self {
        let signatures = signer.map(|signer| signer.sign(statement.as_bytes())).into_iter().collect();
        Self { statement, signatures }
    }

    /// Returns the text, if it may be believed.
    pub(crate) fn trusted_by(&self, trust: &Trust) -> Option<&str> {
        let is_signed_by = |key: &PublicKey| {
            self.signatures.iter().any(|signature| key.has_signed(self.statement.as_bytes(), signature))
        };
        let is_trusted = match trust {
            Trust::All => true,
            Trust::Signed(keys) => keys.iter().any(is_signed_by),
            Trust::None => false,
        };
        is_trusted.then_some(&*self.statement)
    }
}

/// Text that is no key.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the messages say what each variant is")]
pub enum KeyError {
    #[error("`{0}` is no public key: one is a line of base64 that starts with `RW`")]
    Public(String),
    #[error("{0} holds no secret key that `solve remote keygen` wrote")]
    Secret(String),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let refused = || KeyError::Public(text.chars().take(80).collect());
        let bytes = STANDARD.decode(last_line(text)).map_err(|_| refused())?;
        let (id, key) = bytes.strip_prefix(ALGORITHM).and_then(|rest| rest.split_first_chunk()).ok_or_else(refused)?;
        Ok(Self { id: *id, key: key.try_into().map_err(|_| refused())? })
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode([&ALGORITHM[..], &self.id, &self.key].concat()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl PublicKey {
    /// Says whether this key signed these words.
    pub(crate) fn has_signed(&self, words: &[u8], signature: &Signature) -> bool {
        let Ok(bytes) = STANDARD.decode(&signature.0) else { return false };
        let parts = bytes.strip_prefix(ALGORITHM).and_then(|rest| rest.split_first_chunk());
        let Some((id, signature)) = parts else { return false };
        *id == self.id && UnparsedPublicKey::new(&ED25519, &self.key).verify(words, signature).is_ok()
    }
}

impl SecretKey {
    /// Makes a new key.
    pub fn generate() -> Self {
        let random = SystemRandom::new();
        let (mut id, mut seed) = ([0; 8], [0; 32]);
        random.fill(&mut id).and_then(|()| random.fill(&mut seed)).expect("the system has random numbers");
        Self::new(id, seed).expect("every seed makes a key")
    }

    fn new(id: KeyId, seed: [u8; 32]) -> Option<Self> {
        Some(Self { id, pair: Ed25519KeyPair::from_seed_unchecked(&seed).ok()?, seed })
    }

    /// Reads a key from its file.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        Self::parse(&fs::read_to_string(path)?).ok_or_else(|| KeyError::Secret(path.display().to_string()))
    }

    /// Reads a key from the text of its file.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = STANDARD.decode(last_line(text)).ok()?;
        let (id, seed) = bytes.strip_prefix(ALGORITHM)?.split_first_chunk()?;
        Self::new(*id, seed.try_into().ok()?)
    }

    /// Returns the text of the file that keeps it.
    pub fn to_text(&self) -> String {
        let line = STANDARD.encode([&ALGORITHM[..], &self.id, &self.seed].concat());
        format!("untrusted comment: larder secret key; its public key is {}\n{line}\n", self.public())
    }

    /// Returns the key that checks what this one signs.
    pub fn public(&self) -> PublicKey {
        let key = self.pair.public_key().as_ref().try_into().expect("public keys of Ed25519 have 32 bytes");
        PublicKey { id: self.id, key }
    }

    pub(crate) fn sign(&self, words: &[u8]) -> Signature {
        let signature = self.pair.sign(words);
        Signature(STANDARD.encode([&ALGORITHM[..], &self.id, signature.as_ref()].concat()))
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretKey").field("public", &self.public()).finish_non_exhaustive()
    }
}

/// The first line may be minisign's comment.
fn last_line(text: &str) -> &str {
    text.trim().lines().last().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_of_these_words_and_this_key_alone() {
        let (key, other) = (SecretKey::generate(), SecretKey::generate());
        let signature = key.sign(b"words");
        assert!(key.public().has_signed(b"words", &signature));
        assert!(!key.public().has_signed(b"Words", &signature));
        assert!(!other.public().has_signed(b"words", &signature));
        assert!(!key.public().has_signed(b"words", &Signature("?".to_owned())));
        assert!(!key.public().has_signed(b"words", &other.sign(b"words")));
    }

    #[test]
    fn keys_survive_as_text_and_the_secret_one_is_not_shown() {
        let key = SecretKey::generate();
        let again = SecretKey::parse(&key.to_text()).unwrap();
        assert_eq!(again.public(), key.public());
        assert_eq!(key.public().to_string().parse::<PublicKey>().unwrap(), key.public());
        let seed = STANDARD.encode(key.seed);
        assert!(!format!("{key:?}").contains(&seed[..20]));
        assert!("RWQ".parse::<PublicKey>().is_err());
        assert!(SecretKey::parse("nothing").is_none());
        // A public key that minisign made.
        let minisign =
            "untrusted comment: minisign public key\nRWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3";
        assert!(minisign.parse::<PublicKey>().is_ok());
    }
}
