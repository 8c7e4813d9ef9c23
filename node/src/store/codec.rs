//! [`Codec`]: how bytes of a namespace are written into the store: compressed, and encrypted if there is a key.
//!
//! ```text
//!  0 │ zstd                                    without a key
//!  1 │ nonce, 24 bytes │ XChaCha20-Poly1305    of the zstd, bound to its place in the store
//! ```
//!
//! With a key the names of chunks are keyed hashes: without it nobody can tell whether some content is there.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::Arc,
};

use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};

use crate::snapshots::chunks::Digest;

const PLAIN: u8 = 0;
const ENCRYPTED: u8 = 1;
const NONCE: usize = 24;
const HASH: usize = blake3::OUT_LEN;
/// Fast, and most of what there is to gain from pages of memory.
const LEVEL: i32 = 1;

/// Where the keys of the namespaces are.
#[derive(Clone, Debug)]
pub(super) struct Keys(Option<Arc<PathBuf>>);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeysError {
    #[error("the directory of keys {path}: {source}")]
    Directory { path: PathBuf, source: io::Error },
    #[error(
        "no key for the namespace {namespace:?}: {path}: {source}; make one: openssl rand -hex 32"
    )]
    Missing { namespace: String, path: PathBuf, source: io::Error },
    #[error("the key {0} is not 64 hexadecimal digits")]
    Malformed(PathBuf),
    #[error("others may read the key {0}: chmod 600 it")]
    Public(PathBuf),
}

impl Keys {
    pub(super) fn open(dir: Option<PathBuf>) -> Result<Self, KeysError> {
        if let Some(dir) = &dir {
            fs::read_dir(dir)
                .map_err(|source| KeysError::Directory { path: dir.clone(), source })?;
        }
        Ok(Self(dir.map(Arc::new)))
    }

    /// Read each time: a new namespace gets its key while the agent runs.
    pub(super) fn of(&self, namespace: &str) -> Result<Codec, KeysError> {
        let Some(dir) = &self.0 else { return Ok(Codec { secret: None }) };
        let path = dir.join(format!("{namespace}.key"));
        let missing =
            |source| KeysError::Missing { namespace: namespace.into(), path: path.clone(), source };
        let metadata = fs::metadata(&path).map_err(missing)?;
        if metadata.mode() & 0o077 != 0 {
            return Err(KeysError::Public(path));
        }
        let text = fs::read_to_string(&path).map_err(missing)?;
        let key = blake3::Hash::from_hex(text.trim()).map_err(|_| KeysError::Malformed(path))?;
        Ok(Codec::with(key.as_bytes()))
    }
}

/// See the module.
#[derive(Clone)]
pub(super) struct Codec {
    secret: Option<Arc<Secret>>,
}

struct Secret {
    cipher: XChaCha20Poly1305,
    names: [u8; 32],
}

impl Codec {
    fn with(key: &[u8; 32]) -> Self {
        let cipher = blake3::derive_key("reveille snapshot store 2026-11 contents", key);
        let names = blake3::derive_key("reveille snapshot store 2026-11 names of chunks", key);
        let cipher = XChaCha20Poly1305::new(&cipher.into());
        Self { secret: Some(Arc::new(Secret { cipher, names })) }
    }

    /// What a chunk is called.
    pub(super) fn name(&self, digest: &Digest) -> String {
        match &self.secret {
            None => digest.to_string(),
            Some(secret) => {
                blake3::keyed_hash(&secret.names, digest.as_bytes()).to_hex().to_string()
            }
        }
    }

    /// `place` is where it will be: read from elsewhere, it cannot be opened.
    pub(super) fn seal(&self, place: &str, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let packed = zstd::bulk::compress(bytes, LEVEL)?;
        let Some(secret) = &self.secret else {
            return Ok([&[PLAIN], packed.as_slice()].concat());
        };
        let nonce: [u8; NONCE] = rand::random();
        let payload = Payload { msg: &packed, aad: place.as_bytes() };
        let encrypted = secret.cipher.encrypt(&XNonce::from(nonce), payload);
        let encrypted = encrypted.map_err(|_| io::Error::other("it cannot be encrypted"))?;
        Ok([&[ENCRYPTED], nonce.as_slice(), &encrypted].concat())
    }

    /// Undoes [`Codec::seal`]; no more than `limit` bytes are unpacked.
    pub(super) fn open(&self, place: &str, sealed: &[u8], limit: usize) -> Result<Vec<u8>, String> {
        let decrypted;
        let packed = match (sealed.split_first(), &self.secret) {
            (Some((&PLAIN, packed)), None) => packed,
            (Some((&ENCRYPTED, rest)), Some(secret)) => {
                let (nonce, msg) =
                    rest.split_first_chunk::<NONCE>().ok_or_else(|| format!("{place} is cut"))?;
                let payload = Payload { msg, aad: place.as_bytes() };
                let opened = secret.cipher.decrypt(&XNonce::from(*nonce), payload);
                decrypted = opened
                    .map_err(|_| format!("{place} was changed, or encrypted with another key"))?;
                &decrypted
            }
            (Some((&ENCRYPTED, _)), None) => {
                return Err(format!("{place} is encrypted: give the node the keys (--store-keys)"));
            }
            (Some((&PLAIN, _)), Some(_)) => {
                return Err(format!("{place} is not encrypted, and there is a key"));
            }
            _ => return Err(format!("{place} has an unknown format")),
        };
        let mut bytes = Vec::new();
        let reader = zstd::Decoder::new(packed)
            .and_then(|decoder| decoder.take(limit as u64 + 1).read_to_end(&mut bytes));
        match reader {
            Err(error) => Err(format!("{place} cannot be unpacked: {error}")),
            Ok(length) if length > limit => Err(format!("{place} is larger than it may be")),
            Ok(_) => Ok(bytes),
        }
    }

    /// With a hash in front, for what is not called by its own.
    pub(super) fn seal_checked(&self, place: &str, bytes: &[u8]) -> io::Result<Vec<u8>> {
        let hash = blake3::hash(bytes);
        self.seal(place, &[hash.as_bytes(), bytes].concat())
    }

    /// Undoes [`Codec::seal_checked`].
    pub(super) fn open_checked(
        &self,
        place: &str,
        sealed: &[u8],
        limit: usize,
    ) -> Result<Vec<u8>, String> {
        let mut bytes = self.open(place, sealed, limit + HASH)?;
        let rest = bytes.split_off(HASH.min(bytes.len()));
        if blake3::hash(&rest).as_bytes() != bytes.as_slice() {
            return Err(format!("{place} has other contents"));
        }
        Ok(rest)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_sealed_is_opened_only_with_its_key_and_in_its_place() {
        let [none, one, two] =
            [Codec { secret: None }, Codec::with(&[1; 32]), Codec::with(&[2; 32])];
        let text = vec![5; 1000];
        for codec in [&none, &one] {
            let sealed = codec.seal("a", &text).unwrap();
            assert_eq!(codec.open("a", &sealed, 1000).unwrap(), text);
            assert!(codec.open("a", &sealed, 999).unwrap_err().contains("larger"));
        }
        let sealed = one.seal("a", &text).unwrap();
        assert!(one.open("b", &sealed, 1000).unwrap_err().contains("another key"));
        assert!(two.open("a", &sealed, 1000).unwrap_err().contains("another key"));
        assert!(none.open("a", &sealed, 1000).unwrap_err().contains("--store-keys"));
        // Whoever can write into the store cannot have a plain one taken for an encrypted one.
        let plain = none.seal("a", &text).unwrap();
        assert!(one.open("a", &plain, 1000).unwrap_err().contains("not encrypted"));
        for cut in 0..sealed.len() {
            one.open("a", &sealed[..cut], 1000).unwrap_err();
        }
    }

    #[test]
    fn equal_chunks_have_other_names_in_a_namespace_with_another_key() {
        let digest = Digest::of(b"the same");
        let names = [Codec { secret: None }, Codec::with(&[1; 32]), Codec::with(&[2; 32])]
            .map(|codec| codec.name(&digest));
        assert_ne!(names[0], names[1]);
        assert_ne!(names[1], names[2]);
        assert_eq!(names[1], Codec::with(&[1; 32]).name(&digest));
    }

    #[test]
    fn a_namespace_without_a_key_and_a_key_that_others_may_read_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::open(Some(dir.path().into())).unwrap();
        assert!(matches!(keys.of("demo"), Err(KeysError::Missing { .. })));
        let path = dir.path().join("demo.key");
        fs::write(&path, format!("{}\n", "ab".repeat(32))).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(keys.of("demo"), Err(KeysError::Public(_))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(keys.of("demo").unwrap().secret.is_some());
        fs::write(&path, "short").unwrap();
        assert!(matches!(keys.of("demo"), Err(KeysError::Malformed(_))));
        assert!(Keys::open(Some(dir.path().join("none"))).is_err());
        assert!(Keys::open(None).unwrap().of("demo").unwrap().secret.is_none());
    }
}
