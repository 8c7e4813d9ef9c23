//! What registries and layouts say of an image: manifests, indexes, configurations. Only what is used, typed.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use super::Error;

/// Longest document.
pub(super) const MAX_DOCUMENT: u64 = 4 << 20;
/// Layers of an image.
const MAX_LAYERS: usize = 127;

/// `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Digest(String);

impl Digest {
    /// Without the algorithm: a file name.
    pub(crate) fn hex(&self) -> &str {
        &self.0
    }

    pub(super) fn of(bytes: &[u8]) -> Self {
        Self::from_hash(Sha256::new_with_prefix(bytes))
    }

    pub(super) fn from_hash(hash: Sha256) -> Self {
        Self(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl FromStr for Digest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hexadecimal = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        let hex = text.strip_prefix("sha256:");
        let hex = hex.filter(|hex| hex.len() == 64 && hex.bytes().all(hexadecimal));
        let hex = hex.ok_or_else(|| format!("{text:?} is no digest that is known here"))?;
        Ok(Self(hex.into()))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a document says of another one, or of a layer.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    platform: Option<Platform>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

/// The one that images must be for.
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: &str = "arm64";
#[cfg(not(target_arch = "aarch64"))]
const ARCHITECTURE: &str = "amd64";
const OS: &str = "linux";

/// A manifest, or a list of them.
#[derive(Debug)]
pub(super) enum Document {
    Manifest(Manifest),
    Index(Vec<Descriptor>),
}

/// Of one image for one platform.
#[derive(Debug, Deserialize)]
pub(super) struct Manifest {
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

impl Document {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Either {
            schema_version: u32,
            manifests: Option<Vec<Descriptor>>,
            config: Option<Descriptor>,
            layers: Option<Vec<Descriptor>>,
        }
        let either: Either = serde_json::from_slice(bytes)
            .map_err(|error| Error::bad(format!("its manifest is not valid: {error}")))?;
        if either.schema_version != 2 {
            let version = either.schema_version;
            return Err(Error::bad(format!("its manifest has version {version}, not 2")));
        }
        match (either.manifests, either.config, either.layers) {
            (Some(manifests), None, None) => Ok(Self::Index(manifests)),
            (None, Some(config), Some(layers)) => {
                if layers.len() > MAX_LAYERS {
                    let count = layers.len();
                    return Err(Error::bad(format!(
                        "it has {count} layers, and {MAX_LAYERS} at most are taken"
                    )));
                }
                Ok(Self::Manifest(Manifest { config, layers }))
            }
            _ => Err(Error::bad("its manifest is neither that of an image nor an index")),
        }
    }
}

/// The one of an index that runs here.
pub(super) fn choose(manifests: &[Descriptor]) -> Result<&Descriptor, Error> {
    let here = |platform: &Platform| platform.os == OS && platform.architecture == ARCHITECTURE;
    // A layout's index mostly does not say.
    let fits = |m: &&Descriptor| m.platform.as_ref().is_none_or(here) && !is_attestation(m);
    let fitting: Vec<_> = manifests.iter().filter(fits).collect();
    let named: Vec<_> = fitting.iter().filter(|m| m.platform.is_some()).copied().collect();
    match (named.as_slice(), fitting.as_slice()) {
        ([one], _) | ([], [one]) => Ok(one),
        // Variants of one architecture: the first, as everybody takes it.
        ([first, ..], _) => Ok(first),
        ([], []) => Err(Error::bad(format!("it has nothing for {OS}/{ARCHITECTURE}"))),
        ([], many) => {
            let count = many.len();
            Err(Error::bad(format!("it holds {count} images: keep one, or one for each platform")))
        }
    }
}

fn is_attestation(descriptor: &Descriptor) -> bool {
    descriptor.platform.as_ref().is_some_and(|platform| platform.os == "unknown")
}

/// How an image wants to run.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    os: String,
    architecture: String,
    #[serde(default)]
    pub(super) config: Option<Execution>,
    pub(super) rootfs: Layers,
}

#[derive(Debug, Deserialize)]
pub(super) struct Layers {
    /// Of the layers unpacked, lowest first.
    pub(super) diff_ids: Vec<Digest>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Execution {
    pub(super) user: Option<String>,
    pub(super) env: Option<Vec<String>>,
    pub(super) entrypoint: Option<Vec<String>>,
    pub(super) cmd: Option<Vec<String>>,
    pub(super) working_dir: Option<String>,
}

impl Config {
    pub(super) fn parse(bytes: &[u8], manifest: &Manifest) -> Result<Self, Error> {
        let config: Self = serde_json::from_slice(bytes)
            .map_err(|error| Error::bad(format!("its configuration is not valid: {error}")))?;
        if (config.os.as_str(), config.architecture.as_str()) != (OS, ARCHITECTURE) {
            let (os, architecture) = (&config.os, &config.architecture);
            return Err(Error::bad(format!(
                "it is for {os}/{architecture}, and this node is {OS}/{ARCHITECTURE}"
            )));
        }
        if config.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err(Error::bad("its configuration lists other layers than its manifest"));
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(digit: char, platform: &str) -> String {
        let digest = format!("sha256:{}", digit.to_string().repeat(64));
        format!("{{\"digest\":\"{digest}\",\"size\":1{platform}}}")
    }

    fn chosen(descriptors: &[String]) -> Result<char, String> {
        let text = format!("{{\"schemaVersion\":2,\"manifests\":[{}]}}", descriptors.join(","));
        let Document::Index(manifests) = Document::parse(text.as_bytes()).unwrap() else {
            panic!("an index")
        };
        let one = choose(&manifests).map_err(|error| error.to_string())?;
        Ok(one.digest.hex().chars().next().unwrap())
    }

    #[test]
    fn of_an_index_the_image_of_this_platform_is_taken() {
        let platform = |os: &str, architecture: &str| {
            format!(",\"platform\":{{\"os\":\"{os}\",\"architecture\":\"{architecture}\"}}")
        };
        let here = descriptor('a', &platform("linux", ARCHITECTURE));
        let other = descriptor('b', &platform("linux", "s390x"));
        let attestation = descriptor('c', &platform("unknown", "unknown"));
        let unnamed = descriptor('d', "");
        let all = [other.clone(), attestation.clone(), here.clone(), unnamed.clone()];
        assert_eq!(chosen(&all), Ok('a'));
        assert_eq!(chosen(&[attestation, unnamed.clone()]), Ok('d'));
        assert!(chosen(&[other]).unwrap_err().contains("nothing for linux/"));
        assert!(chosen(&[unnamed.clone(), unnamed]).unwrap_err().contains("2 images"));
    }

    #[test]
    fn what_is_neither_manifest_nor_index_is_refused() {
        for bad in ["", "{}", "{\"schemaVersion\":2}", "{\"schemaVersion\":1,\"manifests\":[]}"] {
            assert!(Document::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        for bad in ["sha256:1", "sha512:aa", &format!("sha256:{}", "F".repeat(64)), ""] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        assert_eq!(
            Digest::of(b"").to_string(),
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
