//! How an image is named.

/// Longest name of a repository.
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// `registry/name:tag` or `registry/name[:tag]@sha256:…`. Says what to write instead.
pub(super) fn check(image: &str) -> Result<(), String> {
    if let Some((scheme, rest)) = image.split_once("://") {
        return Err(format!("{image:?} begins with {scheme}://: write {rest}"));
    }
    let (tagged, digest) = match image.split_once('@') {
        Some((tagged, digest)) => (tagged, Some(digest)),
        None => (image, None),
    };
    let (name, tag) = match tagged.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (tagged, None),
    };
    let Some((registry, path)) = name.split_once('/').filter(|(first, _)| is_registry(first))
    else {
        let path = if name.contains('/') { name.into() } else { format!("library/{name}") };
        return Err(format!(
            "{image:?} names no registry: write registry/name:tag, for one of Docker's docker.io/{path}"
        ));
    };
    if !path.split('/').all(is_component) || registry.len() + path.len() > MAX_NAME {
        return Err(format!(
            "{path:?} is no name of an image: use a-z, 0-9, '.', '_', '-' and '/'"
        ));
    }
    if let Some(tag) = tag.filter(|tag| !is_tag(tag)) {
        return Err(format!("{tag:?} is no tag: use letters, digits, '.', '_' and '-'"));
    }
    match digest {
        Some(digest) if !is_digest(digest) => {
            Err(format!("{digest:?} is no digest: write sha256: and 64 digits of 0-9, a-f"))
        }
        None if tag.is_none() => Err(format!(
            "{image:?} has neither a tag nor a digest: write {image}@sha256:…, or {image}:TAG"
        )),
        _ => Ok(()),
    }
}

/// As everybody tells it from the first part of a name: by its dot, its port, or because it is localhost.
fn is_registry(first: &str) -> bool {
    let (host, port) = first.rsplit_once(':').unwrap_or((first, "1"));
    let is_host = host == "localhost" || host.contains('.') || first.contains(':');
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'-';
    is_host
        && !host.is_empty()
        && host.bytes().all(plain)
        && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn is_component(part: &str) -> bool {
    let inside = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9');
    let ends = part.bytes().next().zip(part.bytes().last());
    ends.is_some_and(|(first, last)| inside(first) && inside(last))
        && part.bytes().all(|b| inside(b) || b"._-".contains(&b))
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=MAX_TAG).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn is_digest(digest: &str) -> bool {
    let hexadecimal = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    digest
        .strip_prefix("sha256:")
        .is_some_and(|hex| hex.len() == 64 && hex.bytes().all(hexadecimal))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_named_by_registry_name_and_tag_or_digest() {
        let digest = format!("sha256:{}", "0f".repeat(32));
        for good in [
            "docker.io/library/nginx:1.27",
            "localhost/a:b",
            "127.0.0.1:5000/demo/counter:v1.0_x",
            "registry:5000/a:b",
            &format!("ghcr.io/a/b-c@{digest}"),
            &format!("ghcr.io/a/b:tag@{digest}"),
        ] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, says) in [
            ("nginx:1.27", "docker.io/library/nginx"),
            ("demo/nginx:1", "docker.io/demo/nginx"),
            ("https://ghcr.io/a:b", "write ghcr.io/a:b"),
            ("ghcr.io/a", "ghcr.io/a@sha256:…"),
            ("ghcr.io/A:b", "a-z"),
            ("ghcr.io/../etc:b", "is no name"),
            ("ghcr.io/a//b:c", "is no name"),
            ("ghcr.io/a:", "is no tag"),
            ("ghcr.io/a:b c", "is no tag"),
            ("ghcr.io/a@sha256:12", "64 digits"),
            ("ghcr.io:x/a:b", "names no registry"),
            ("ghcr.io:0/a:b", "names no registry"),
            ("", "names no registry"),
        ] {
            let why = check(bad).unwrap_err();
            assert!(why.contains(says), "{bad}: {why}");
        }
    }
}
