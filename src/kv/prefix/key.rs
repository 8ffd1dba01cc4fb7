//! Names of blocks: a keyed hash over everything their content depends on.
//!
//! The hash is BLAKE3 under a random secret of the engine, so nobody outside can construct two prompts whose blocks
//! have one name. Every field is tagged and has its length in front, so no two lists of fields give the same bytes.

use std::hash::{BuildHasher, Hasher, RandomState};
#[cfg(unix)]
use std::io::Read;

use super::Fingerprint;
use crate::kv::geometry::BLOCK_TOKENS;

/// Name of a block, or of the empty prefix that chains of blocks begin at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key([u8; 32]);

impl Key {
    /// A key that was stored.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes, to be stored.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Eight bytes of it, as good as random.
    pub(crate) fn short(&self) -> u64 {
        u64::from_le_bytes(*self.0.first_chunk().unwrap_or(&[0; 8]))
    }
}

/// Names a full block and says what it must hold: a copy is used only when all of it agrees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockName {
    /// Hash over the parent and the tokens.
    pub key: Key,
    /// Key of the block before it, or the root.
    pub parent: Key,
    /// Where its chain begins: blocks of one salt are forgotten together.
    pub root: Key,
    /// Its tokens.
    pub tokens: [u32; BLOCK_TOKENS],
}

/// What an engine's keys are keyed by.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// A new one: the system's random bytes, mixed with the random numbers that seed the standard library's hash maps,
    /// which are all there is where the system has no file of random bytes.
    pub fn random() -> Self {
        let mut mixed = blake3::Hasher::new_derive_key("libinfer secret of block names");
        #[cfg(unix)]
        {
            let mut bytes = [0; 32];
            let source = std::fs::File::open("/dev/urandom");
            if source.is_ok_and(|mut source| source.read_exact(&mut bytes).is_ok()) {
                mixed.update(&bytes);
            }
        }
        for i in 0..4 {
            let mut hasher = RandomState::new().build_hasher();
            hasher.write_usize(i);
            mixed.update(&hasher.finish().to_le_bytes());
        }
        Self(*mixed.finalize().as_bytes())
    }

    /// A given one: it was stored, or results are to be reproduced.
    pub fn fixed(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes, to be stored where nobody else reads them.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

#[derive(Debug, Clone, Copy)]
#[repr(u8)]
enum Tag {
    Group = 1,
    Fingerprint,
    Salt,
    Parent,
    Tokens,
}

struct Fields(blake3::Hasher);

impl Fields {
    fn keyed(secret: &Secret) -> Self {
        Self(blake3::Hasher::new_keyed(&secret.0))
    }

    fn field(&mut self, tag: Tag, bytes: &[u8]) -> &mut Self {
        self.0.update(&[tag as u8]);
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    fn finish(&self) -> [u8; 32] {
        *self.0.finalize().as_bytes()
    }
}

/// Makes the keys of one layer group of one engine.
#[derive(Debug, Clone)]
pub struct Namer {
    secret: Secret,
    group: u32,
    fingerprint: Fingerprint,
}

impl Namer {
    /// For a group of layers whose blocks live and die together.
    pub fn new(secret: Secret, group: u32, fingerprint: Fingerprint) -> Self {
        Self {
            secret,
            group,
            fingerprint,
        }
    }

    /// The same with another secret.
    pub fn with_secret(&self, secret: Secret) -> Self {
        Self::new(secret, self.group, self.fingerprint.clone())
    }

    /// The same for another group.
    pub fn for_group(&self, group: u32) -> Self {
        Self {
            group,
            ..self.clone()
        }
    }

    /// What the keys are about.
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    /// Where the prefixes of a salt begin. Blocks below different roots never have the same name.
    pub fn root(&self, salt: &[u8]) -> Key {
        let mut fields = Fields::keyed(&self.secret);
        fields
            .field(Tag::Group, &self.group.to_le_bytes())
            .field(Tag::Fingerprint, self.fingerprint.as_str().as_bytes())
            .field(Tag::Salt, salt);
        Key(fields.finish())
    }

    /// Where this group's prefixes begin that begin at `root` in the first group: one root stands for a salt in all of them.
    pub fn root_below(&self, root: &Key) -> Key {
        let mut fields = Fields::keyed(&self.secret);
        fields
            .field(Tag::Group, &self.group.to_le_bytes())
            .field(Tag::Parent, &root.0);
        Key(fields.finish())
    }

    /// The block of these tokens after a prefix. The prefix carries group, fingerprint and salt.
    pub fn child(&self, parent: &Key, tokens: &[u32]) -> Key {
        let mut fields = Fields::keyed(&self.secret);
        fields
            .field(Tag::Parent, &parent.0)
            .field(Tag::Tokens, bytemuck::cast_slice(tokens));
        Key(fields.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::RowType;
    use crate::kv::Geometry;

    fn namer(secret: u8, group: u32, version: u64) -> Namer {
        let geometry = Geometry::new(RowType::F16, Vec::new()).unwrap();
        let fingerprint = Fingerprint::new(&geometry, &[("version", &version)]);
        Namer::new(Secret::fixed([secret; 32]), group, fingerprint)
    }

    #[test]
    fn every_field_decides_the_name() {
        let a = namer(1, 0, 0);
        let root = a.root(b"");
        let keys = [
            root,
            a.root(b"tenant"),
            namer(2, 0, 0).root(b""),
            namer(1, 1, 0).root(b""),
            namer(1, 0, 1).root(b""),
            a.child(&root, &[1, 2]),
            a.child(&root, &[1]),
            a.child(&root, &[1, 2, 0]),
            a.child(&a.child(&root, &[1]), &[2]),
            a.child(&a.root(b"tenant"), &[1, 2]),
            a.for_group(1).root_below(&root),
            a.for_group(2).root_below(&root),
            a.for_group(1).root_below(&a.root(b"tenant")),
        ];
        for (i, a) in keys.iter().enumerate() {
            assert!(keys[..i].iter().all(|b| a != b), "{i}");
        }
        assert_eq!(root, namer(1, 0, 0).root(b""));
    }

    #[test]
    fn secrets_differ() {
        assert_ne!(Secret::random().0, Secret::random().0);
    }
}
