use std::{fs, sync::mpsc};

use rcgen::{CertifiedKey as Pair, generate_simple_self_signed};
use tempfile::TempDir;

use super::*;

fn pair() -> (String, String) {
    let Pair { cert, signing_key } = generate_simple_self_signed(["a.test".to_owned()]).unwrap();
    (cert.pem(), signing_key.serialize_pem())
}

fn files(dir: &TempDir) -> Files {
    Files { certificate: dir.path().join("cert.pem"), key: dir.path().join("key.pem") }
}

fn write(files: &Files, (chain, key): &(String, String)) {
    fs::write(&files.certificate, chain).unwrap();
    fs::write(&files.key, key).unwrap();
}

#[tokio::test]
async fn what_is_no_certificate_with_its_key_is_refused_and_the_file_named() {
    let dir = TempDir::new().unwrap();
    let files = files(&dir);
    let missing = files.read().await.unwrap_err().to_string();
    assert!(missing.contains("cert.pem"), "{missing}");
    let good = pair();
    write(&files, &good);
    let read = files.read().await.unwrap();
    assert_eq!(read.chain(), good.0.as_bytes());
    assert!(!format!("{read:?}").contains("PRIVATE"));
    write(&files, &(good.0.clone(), pair().1));
    let mismatch = files.read().await.unwrap_err();
    assert!(matches!(mismatch, Error::Mismatch { .. }), "{mismatch}");
    let half = good.0[..good.0.len() / 2].to_owned();
    for (broken, named) in
        [((half, good.1.clone()), "cert.pem"), ((good.0.clone(), String::new()), "key.pem")]
    {
        write(&files, &broken);
        let error = files.read().await.unwrap_err();
        assert!(matches!(error, Error::Pem { .. }) && error.to_string().contains(named), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_pair_is_given_once_and_a_broken_one_never() {
    let dir = TempDir::new().unwrap();
    let files = files(&dir);
    write(&files, &pair());
    let first = files.read().await.unwrap();
    let (sender, given) = mpsc::channel();
    let follow = files.follow(first, |certificate| sender.send(certificate).unwrap());
    tokio::pin!(follow);
    let mut look = async || {
        let _ = tokio::time::timeout(3 * EVERY, &mut follow).await;
        given.try_iter().map(|certificate| certificate.chain).collect::<Vec<_>>()
    };
    assert!(look().await.is_empty(), "nothing is new");
    let second = pair();
    fs::write(&files.certificate, &second.0).unwrap();
    assert!(look().await.is_empty(), "the key is still the old one");
    fs::write(&files.key, &second.1).unwrap();
    assert_eq!(look().await, [second.0.clone().into_bytes()]);
    fs::write(&files.key, "garbage").unwrap();
    fs::remove_file(&files.certificate).unwrap();
    assert!(look().await.is_empty(), "the one before is kept");
    // Moved over, as people who are careful do.
    let third = pair();
    for (path, text) in [(&files.certificate, &third.0), (&files.key, &third.1)] {
        fs::write(path.with_extension("new"), text).unwrap();
        fs::rename(path.with_extension("new"), path).unwrap();
    }
    assert_eq!(look().await, [third.0.into_bytes()]);
}
