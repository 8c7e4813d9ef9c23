use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt};

use futures::StreamExt;

use super::*;
use crate::snapshots::{Origin, Snapshots, Upload};

/// A store in a directory, and two nodes' snapshots.
struct Rig {
    dir: tempfile::TempDir,
    store: Store,
    here: Arc<Snapshots>,
    there: Arc<Snapshots>,
}

fn actor() -> ActorKey {
    ActorKey::new("demo", "counter").unwrap()
}

fn runtime() -> Runtime {
    Runtime { name: "gvisor".into(), version: "1".into() }
}

/// Like pages of memory: holes, zeros, a few values again and again, and noise.
fn pages(seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; 9 * chunks::CHUNK + 777];
    for (at, byte) in bytes.iter_mut().enumerate().skip(3 * chunks::CHUNK) {
        let chunk = at / chunks::CHUNK;
        *byte = match chunk {
            3 | 5 => 7,
            4 => (((at as u64 + seed) * 2_654_435_761) >> 13) as u8,
            6 => 0,
            _ => (at % 251) as u8,
        };
    }
    bytes
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("file://{}", dir.path().join("store").display());
        Self::of(dir, Store::open(&url, None).unwrap())
    }

    fn of(dir: tempfile::TempDir, store: Store) -> Self {
        let open = |name: &str| Arc::new(Snapshots::open(&dir.path().join(name), true).unwrap());
        let (here, there) = (open("here"), open("there"));
        Self { store, here, there, dir }
    }

    fn take(&self, id: &str, epoch: u64, bytes: &[u8]) {
        let draft = self.here.begin(&actor(), id).unwrap();
        fs::write(draft.dir().join("pages.img"), bytes).unwrap();
        fs::write(draft.dir().join("checkpoint.img"), format!("state of {id}")).unwrap();
        fs::write(draft.dir().join("empty.img"), "").unwrap();
        let origin = Origin {
            actor: actor(),
            epoch: Epoch(epoch),
            template: "t".into(),
            runtime: "gvisor".into(),
            runtime_version: "1".into(),
            image: None,
            upload: Upload::Due(0),
        };
        self.here.commit(self.here.seal(draft, origin).unwrap()).unwrap();
    }

    /// Bytes that were sent.
    async fn upload(&self, id: &str) -> Result<u64, Error> {
        let progress = Progress::default();
        upload(&self.store, self.here.files(&actor(), id).unwrap(), &progress).await?;
        let (done, total) = progress.get();
        assert_eq!(done, total);
        Ok(progress.sent())
    }

    async fn fetch(&self, id: &str) -> Result<(), Error> {
        fetch(&self.store, &self.there, &actor(), id, &runtime()).await.map(drop)
    }

    /// The files of a fetched snapshot, after the check that precedes every restore.
    fn fetched(&self, id: &str) -> Vec<u8> {
        let reopened = Snapshots::open(&self.dir.path().join("there"), true).unwrap();
        let image = reopened.verify(&actor(), id, "gvisor", "1").unwrap();
        assert_eq!(fs::metadata(image.dir.join("empty.img")).unwrap().len(), 0);
        let state = fs::read_to_string(image.dir.join("checkpoint.img")).unwrap();
        assert_eq!(state, format!("state of {id}"));
        fs::read(image.dir.join("pages.img")).unwrap()
    }

    async fn names(&self) -> BTreeSet<String> {
        let listed = self.store.objects.list(None).map(|meta| meta.unwrap().location.to_string());
        listed.collect().await
    }

    async fn chunks(&self) -> usize {
        self.names().await.iter().filter(|name| name.contains(CHUNKS)).count()
    }
}

#[tokio::test]
async fn a_snapshot_is_fetched_as_it_was_taken_and_zeros_take_no_place() {
    let rig = Rig::new();
    rig.take("s1", 3, &pages(1));
    assert!(!rig.store.has(&actor(), "s1").await.unwrap());
    rig.upload("s1").await.unwrap();
    assert!(rig.store.has(&actor(), "s1").await.unwrap());
    // Of ten chunks four are zeros and two are equal; and the state.
    assert_eq!(rig.chunks().await, 6);
    rig.fetch("s1").await.unwrap();
    assert!(rig.fetched("s1") == pages(1));
    let told = rig.there.told(&actor(), "s1", "n").unwrap();
    assert_eq!((told.epoch, told.storage()), (3, reveille_api::proto::Storage::Stored));
    let file = rig.dir.path().join("there/demo/counter/s1/pages.img");
    let disk = fs::metadata(file).map(|m| std::os::unix::fs::MetadataExt::blocks(&m) * 512);
    assert!(disk.unwrap() <= 7 * chunks::CHUNK as u64);
}

#[tokio::test]
async fn only_chunks_that_are_not_there_are_sent_and_an_upload_that_was_done_sends_nothing() {
    let rig = Rig::new();
    rig.take("s1", 3, &pages(1));
    let first = rig.upload("s1").await.unwrap();
    rig.take("s2", 4, &pages(2));
    let second = rig.upload("s2").await.unwrap();
    assert!(second * 3 < first * 2, "{second} of {first}");
    assert_eq!(rig.upload("s2").await.unwrap(), 0);
    rig.fetch("s2").await.unwrap();
    assert!(rig.fetched("s2") == pages(2));
}

#[tokio::test]
async fn a_flipped_byte_anywhere_in_the_store_is_found_and_nothing_of_the_snapshot_is_started() {
    let rig = Rig::new();
    rig.take("s1", 3, &pages(1));
    rig.upload("s1").await.unwrap();
    for name in rig.names().await {
        let path = rig.dir.path().join("store").join(&name);
        let whole = fs::read(&path).unwrap();
        for at in [0, 1, whole.len() / 2, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            fs::write(&path, bytes).unwrap();
            let outcome = rig.fetch("s1").await;
            // A bit of zstd's header that nothing is read from: then what was fetched is right all the same.
            if outcome.is_ok() {
                assert!(rig.fetched("s1") == pages(1), "{name} at {at}");
                rig.there.delete(&actor(), Epoch(9), &[]).unwrap();
            } else {
                assert!(matches!(outcome, Err(Error::Corrupt(_))), "{name} at {at}: {outcome:?}");
                assert!(rig.there.list("n").is_empty());
            }
        }
        fs::remove_file(&path).unwrap();
        let error = rig.fetch("s1").await.unwrap_err();
        assert!(matches!(error, Error::Corrupt(_) | Error::Absent), "{name}: {error}");
        fs::write(&path, &whole).unwrap();
    }
    assert_eq!(files::names(&rig.dir.path().join("there/demo/counter")).unwrap().len(), 0);
    rig.fetch("s1").await.unwrap();
}

#[tokio::test]
async fn a_snapshot_that_another_runtime_took_is_refused_before_anything_is_fetched() {
    let rig = Rig::new();
    rig.take("s1", 3, &pages(1));
    rig.upload("s1").await.unwrap();
    let other = Runtime { version: "2".into(), ..runtime() };
    let error = fetch(&rig.store, &rig.there, &actor(), "s1", &other).await.unwrap_err();
    assert!(matches!(error, Error::Unfit(_)), "{error}");
    assert!(error.to_string().contains("gvisor 1, this node has gvisor 2"), "{error}");
    assert!(matches!(rig.fetch("s9").await, Err(Error::Absent)));
}

#[tokio::test]
async fn damaged_files_are_not_uploaded() {
    let rig = Rig::new();
    rig.take("s1", 3, &pages(1));
    let path = rig.dir.path().join("here/demo/counter/s1/pages.img");
    let mut bytes = fs::read(&path).unwrap();
    bytes[4 * chunks::CHUNK] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(matches!(rig.upload("s1").await, Err(Error::Damaged(_))));
    assert!(rig.names().await.is_empty());
}

#[test]
fn what_a_manifest_says_becomes_no_path_outside_of_its_place() {
    let rig = Rig::new();
    rig.take("s1", 3, b"x");
    let contents = |change: &dyn Fn(&mut Manifest)| {
        let (_, mut manifest) = rig.here.files(&actor(), "s1").unwrap();
        change(&mut manifest);
        let size = |size: u64| if size == 0 { vec![] } else { vec![Digest::of(b"x")] };
        let chunks: Vec<_> = manifest.files.iter().map(|file| size(file.size)).collect();
        for (file, chunks) in manifest.files.iter_mut().zip(&chunks) {
            file.blake3 = chunks::of_file(chunks);
        }
        Contents { manifest, chunks }.check(&actor(), "s1")
    };
    contents(&|_| {}).unwrap();
    for name in ["../s2", "/etc/passwd", "a/b", ".hidden", "", "manifest.json", "pages.img"] {
        let why = contents(&|manifest| manifest.files[0].name = name.into()).unwrap_err();
        assert!(why.contains("no name of an image file"), "{name}: {why}");
    }
    contents(&|manifest| manifest.files[0].size = u64::MAX).unwrap_err();
    contents(&|manifest| manifest.files.clear()).unwrap_err();
    contents(&|manifest| manifest.id = "s2".into()).unwrap_err();
    contents(&|manifest| manifest.actor = ActorKey::new("demo", "other").unwrap()).unwrap_err();
    contents(&|manifest| manifest.version = 1).unwrap_err();
}

#[tokio::test]
async fn only_older_snapshots_that_are_not_kept_are_deleted() {
    let rig = Rig::new();
    for (id, epoch) in [("s1", 3), ("s2", 4), ("s3", 5)] {
        rig.take(id, epoch, &pages(epoch));
        rig.upload(id).await.unwrap();
    }
    let has = async |id: &str| rig.store.has(&actor(), id).await.unwrap();
    rig.store.delete(&actor(), Epoch(5), &["s2".into()]).await.unwrap();
    assert_eq!([has("s1").await, has("s2").await, has("s3").await], [false, true, true]);
    rig.store.delete(&actor(), Epoch(6), &[]).await.unwrap();
    assert_eq!([has("s2").await, has("s3").await], [false, false]);
}

#[tokio::test]
async fn a_sweep_removes_what_nobody_refers_to_and_nothing_else() {
    let rig = Rig::new();
    rig.take("s1", 3, &pages(1));
    rig.take("s2", 4, &pages(2));
    rig.upload("s1").await.unwrap();
    rig.upload("s2").await.unwrap();
    let both = rig.chunks().await;
    assert_eq!(rig.store.sweep("demo").await.unwrap(), 0);
    rig.store.delete(&actor(), Epoch(4), &[]).await.unwrap();
    // Of s1 alone: its state and one chunk of noise.
    assert_eq!(rig.store.sweep("demo").await.unwrap(), 2);
    assert_eq!(rig.chunks().await, both - 2);
    rig.fetch("s2").await.unwrap();
    assert!(rig.fetched("s2") == pages(2));
    assert_eq!(rig.store.namespaces().await.unwrap(), ["demo"]);

    // An intent keeps the chunks of an upload that has not come to its end.
    let (whole, intent) = (file(&actor(), "s2", SNAPSHOT), file(&actor(), "s2", INTENT));
    let codec = rig.store.keys.of("demo").unwrap();
    let sealed = rig.store.get(&whole).await.unwrap().unwrap();
    let text = codec.open_checked(whole.as_ref(), &sealed, 1 << 20).unwrap();
    let sealed = codec.seal_checked(intent.as_ref(), &text).unwrap();
    rig.store.put(&intent, sealed).await.unwrap();
    rig.store.remove(&whole).await.unwrap();
    assert_eq!(rig.store.sweep("demo").await.unwrap(), 0);
    rig.store.remove(&intent).await.unwrap();
    assert_eq!(rig.store.sweep("demo").await.unwrap(), both as u64 - 2);
    assert!(rig.names().await.is_empty());
}

#[tokio::test]
async fn nothing_is_swept_when_a_manifest_cannot_be_read() {
    let rig = Rig::new();
    rig.take("s1", 3, &pages(1));
    rig.upload("s1").await.unwrap();
    let before = rig.chunks().await;
    fs::write(rig.dir.path().join("store/demo/counter/s1.snapshot"), "garbage").unwrap();
    assert!(matches!(rig.store.sweep("demo").await, Err(Error::Corrupt(_))));
    assert_eq!(rig.chunks().await, before);
}

#[tokio::test(start_paused = true)]
async fn an_upload_waits_for_a_sweep_that_may_not_have_seen_it_and_not_for_one_that_died() {
    let rig = Rig::new();
    rig.take("s1", 3, &pages(1));
    let mark = Path::from_iter(["demo", SWEEP]);
    rig.store.put(&mark, b"somebody".to_vec()).await.unwrap();
    let begin = tokio::time::Instant::now();
    rig.upload("s1").await.unwrap();
    assert!(begin.elapsed() >= Duration::from_secs(90), "{:?}", begin.elapsed());
    // And the next sweep goes on, too.
    rig.store.sweep("demo").await.unwrap();
    assert!(rig.store.get(&mark).await.unwrap().is_none());
}

#[tokio::test]
async fn with_keys_nothing_in_the_store_can_be_read_or_guessed_without_them() {
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys");
    fs::create_dir(&keys).unwrap();
    let path = keys.join("demo.key");
    fs::write(&path, "17".repeat(32)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let url = format!("file://{}", dir.path().join("store").display());
    let rig = Rig::of(dir, Store::open(&url, Some(keys)).unwrap());
    rig.take("s1", 3, &pages(1));
    rig.upload("s1").await.unwrap();
    let guess = Digest::of(b"state of s1").to_string();
    for name in rig.names().await {
        assert!(!name.contains(&guess), "{name}");
        let bytes = fs::read(rig.dir.path().join("store").join(&name)).unwrap();
        let found = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        assert!(!found(b"state of s1") && !found(b"pages.img"), "{name}");
    }
    rig.fetch("s1").await.unwrap();
    assert!(rig.fetched("s1") == pages(1));
    assert_eq!(rig.store.sweep("demo").await.unwrap(), 0);

    fs::write(&path, "18".repeat(32)).unwrap();
    let error = rig.fetch("s1").await.unwrap_err();
    assert!(error.to_string().contains("another key"), "{error}");
}

/// A server that speaks S3, on a directory with one bucket.
async fn s3(tasks: &mut tokio::task::JoinSet<()>, dir: &std::path::Path) -> std::net::SocketAddr {
    use hyper_util::rt::{TokioExecutor, TokioIo};
    fs::create_dir_all(dir.join("bucket")).unwrap();
    let files = s3s_fs::FileSystem::new(dir).unwrap();
    let mut service = s3s::service::S3ServiceBuilder::new(files);
    service.set_auth(s3s::auth::SimpleAuth::from_single("who", "secret"));
    let service = service.build();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    reveille_api::task::spawn(tasks, "s3", async move {
        let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((socket, _)) = listener.accept().await {
            let connection = server.serve_connection(TokioIo::new(socket), service.clone());
            let connection = connection.into_owned();
            reveille_api::task::spawn(&mut connections, "s3 connection", async move {
                let _ = connection.await;
            });
        }
    });
    address
}

#[tokio::test]
async fn a_store_that_speaks_s3_does_all_that_a_directory_does() {
    let (dir, mut tasks) = (tempfile::tempdir().unwrap(), tokio::task::JoinSet::new());
    let address = s3(&mut tasks, &dir.path().join("s3")).await;
    let open = |secret: &str| {
        let variables = [
            ("aws_endpoint", format!("http://{address}")),
            ("aws_allow_http", "true".into()),
            ("aws_region", "eu-central-1".into()),
            ("aws_access_key_id", "who".into()),
            ("aws_secret_access_key", secret.into()),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value)).to_vec();
        Store::with("s3://bucket/some/where", None, variables).unwrap()
    };
    let wrong = open("guessed").has(&actor(), "s1").await.unwrap_err();
    assert!(!format!("{wrong} {wrong:?}").contains("guessed"), "{wrong}");
    let rig = Rig::of(dir, open("secret"));
    rig.take("s1", 3, &pages(1));
    rig.take("s2", 4, &pages(2));
    let first = rig.upload("s1").await.unwrap();
    assert!(rig.upload("s2").await.unwrap() * 3 < first * 2);
    assert_eq!(rig.upload("s2").await.unwrap(), 0);
    assert!(rig.dir.path().join("s3/bucket/some/where/demo/counter").is_dir());
    rig.fetch("s2").await.unwrap();
    assert!(rig.fetched("s2") == pages(2));
    assert!(matches!(rig.fetch("s9").await, Err(Error::Absent)));

    rig.store.delete(&actor(), Epoch(4), &[]).await.unwrap();
    assert!(!rig.store.has(&actor(), "s1").await.unwrap());
    assert_eq!(rig.store.namespaces().await.unwrap(), ["demo"]);
    assert_eq!(rig.store.sweep("demo").await.unwrap(), 2);
    assert_eq!(rig.store.sweep("demo").await.unwrap(), 0);
    rig.there.delete(&actor(), Epoch(9), &[]).unwrap();
    rig.fetch("s2").await.unwrap();
    assert!(rig.fetched("s2") == pages(2));
}

#[test]
fn a_store_that_cannot_be_is_refused_with_what_to_write() {
    let open = |url: &str| Store::open(url, None).unwrap_err().to_string();
    assert!(open("no url").contains("file:///dir"));
    assert!(open("s3://key:secret@bucket/x").contains("AWS_"));
    assert!(!open("s3://key:secret@bucket/x").contains("secret"));
    assert!(open("ftp://host/x").contains("ftp://host/x"));
    assert!(open("file:///proc/no").contains("/proc/no"));
}
