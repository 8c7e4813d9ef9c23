//! Images from a real registry, on loopback.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use oci_client::{
    Client, Reference, RegistryOperation,
    client::{ClientConfig, ClientProtocol},
    secrets::RegistryAuth,
};
use reveille_node::Config;
use rstest::rstest;
use serde_json::{Value, json};

use crate::{
    image::{committed, counter, layers, of},
    oci::Layout,
    support::{CRIU, GVISOR, Node, Place, count, reason},
    token::Tokens,
};

const USER: &str = "reveille";
const PASSWORD: &str = "s3cret-word";
/// Of the password, by bcrypt.
const HASH: &str = "$2y$05$abcdefghijklmnopqrstuuEpHRRKIlpAGo.iP7Bpa.htQEJMAAnRe";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A registry that gives what it has to one user only.
struct Registry {
    process: Child,
    address: String,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Registry {
    /// One that asks for the password itself.
    fn start(place: &Place) -> Option<Self> {
        let users = place.path("users");
        fs::write(&users, format!("{USER}:{HASH}\n")).unwrap();
        Self::with(place, json!({ "htpasswd": { "realm": "test", "path": users } }))
    }

    /// `None`, and a loud word about it, where it is not installed; a failure in CI.
    fn with(place: &Place, auth: Value) -> Option<Self> {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.deps/bin/registry");
        if !program.exists() {
            let missing = "an image registry (deploy/setup.sh registry)";
            assert!(std::env::var_os("CI").is_none(), "this test needs {missing}");
            eprintln!("SKIPPED: this test needs {missing}");
            return None;
        }
        let [config, data] = ["registry.json", "registry"].map(|name| place.path(name));
        let settings = json!({
            "version": "0.1",
            "log": { "accesslog": { "disabled": true } },
            "storage": { "filesystem": { "rootdirectory": data } },
            "http": { "addr": "127.0.0.1:0" },
            "auth": auth,
        });
        // It is YAML too.
        fs::write(&config, settings.to_string()).unwrap();
        let mut process = Command::new(program)
            .arg("serve")
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
        let listens = "listening on 127.0.0.1:";
        let line = log.find(|line| line.as_ref().unwrap().contains(listens)).unwrap().unwrap();
        let (_, port) = line.split_once(listens).unwrap();
        let port: String = port.chars().take_while(char::is_ascii_digit).collect();
        // Whatever else it says is read, so that it does not wait for that.
        std::thread::spawn(move || log.for_each(drop));
        Some(Self { process, address: format!("127.0.0.1:{port}") })
    }

    fn name(&self, tag: &str) -> String {
        format!("{}/demo/counter:{tag}", self.address)
    }

    /// What docker would have written at a login.
    fn login(&self, place: &Place, password: &str) -> PathBuf {
        let file = place.path("config.json");
        let login =
            json!({ "auths": { &self.address: { "username": USER, "password": password } } });
        fs::write(&file, login.to_string()).unwrap();
        file
    }

    /// Pushes a layout, as an index that has it for this platform and something else for another.
    async fn push(&self, tag: &str, layout: &Layout) {
        // An error says that somebody has chosen one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client =
            Client::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() });
        let reference: Reference = self.name(tag).parse().unwrap();
        let auth = RegistryAuth::Basic(USER.into(), PASSWORD.into());
        client.auth(&reference, &auth, RegistryOperation::Push).await.unwrap();
        for blob in fs::read_dir(layout.dir.join("blobs/sha256")).unwrap() {
            let blob = blob.unwrap();
            let digest = format!("sha256:{}", blob.file_name().display());
            if digest != layout.digest {
                let bytes = fs::read(blob.path()).unwrap();
                client.push_blob(&reference, bytes, &digest).await.unwrap();
            }
        }
        let manifest = fs::read(layout.dir.join("blobs").join(layout.digest.replace(':', "/")));
        let manifest = manifest.unwrap();
        let size = manifest.len();
        let by_digest = reference.clone_with_digest(layout.digest.clone());
        let kind = MANIFEST.parse().unwrap();
        client.push_manifest_raw(&by_digest, manifest, kind).await.unwrap();
        let platform = |architecture| {
            json!({
                "mediaType": MANIFEST, "digest": layout.digest, "size": size,
                "platform": { "os": "linux", "architecture": architecture },
            })
        };
        let here = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let manifests = [platform("s390x"), platform(here)];
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
        let kind = INDEX.parse().unwrap();
        client.push_manifest_raw(&reference, index.to_string(), kind).await.unwrap();
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_pulled_once_and_needs_no_registry_from_then_on(
    #[values(GVISOR, CRIU)] runtime: &'static str,
) {
    let Some(place) = Place::of(runtime) else { return };
    let Some(registry) = Registry::start(&place) else { return };
    let (first, second) =
        (counter(&place, "first", &[("v", "1")]), counter(&place, "second", &[("v", "2")]));
    registry.push("latest", &first).await;
    let config =
        || Config { registry_auth: Some(registry.login(&place, PASSWORD)), ..place.config(1) };
    let node = Node::start(config()).await;
    let name = registry.name("latest");
    let wake = |epoch| of(&place, epoch, json!({ "image": name }));
    let cold = node.activate(&wake(1)).await.unwrap();
    let count_1 = count(&cold.endpoint).await;
    let pulled = layers(&place);
    assert_eq!(pulled.len(), 2);
    let snapshot = committed(node.suspend(1, "s1").await.unwrap());
    assert_eq!(snapshot.image, format!("{name}@{}", first.digest));
    node.crash().await;

    // The tag says something else by now. For this template it was found out already.
    registry.push("latest", &second).await;
    let node = Node::start(config()).await;
    node.activate(&wake(2)).await.unwrap();
    assert!(committed(node.suspend(2, "s2").await.unwrap()).image.ends_with(&first.digest));
    let changed =
        |epoch| wake(epoch).with("port", json!(8080)).with("drain", json!({ "timeout": "1s" }));
    node.activate(&changed(3)).await.unwrap();
    assert!(committed(node.suspend(3, "s3").await.unwrap()).image.ends_with(&second.digest));
    let both = layers(&place);
    assert!(both.is_superset(&pulled) && both.len() == 3, "{both:?}");
    node.crash().await;

    // Nobody asks a registry for what is here.
    let config = config();
    drop(registry);
    let node = Node::start(config).await;
    let warm = node.activate(&changed(4).from("s1")).await.unwrap();
    let count_2 = count(&warm.endpoint).await;
    assert_eq!((count_2.count, count_2.nonce), (2, count_1.nonce));
    let cold = node.activate(&wake(5)).await.unwrap();
    assert_eq!(count(&cold.endpoint).await.count, 1);
    node.destroy_activation(5).await.unwrap();
    assert_eq!(layers(&place), both);
    // But for what is not.
    let other = wake(6).with("rootfs", json!({ "image": name.replace("latest", "other") }));
    let status = node.activate(&other).await.unwrap_err();
    let message = status.message();
    assert!(message.contains(&name.replace("latest", "other")), "{message}");
    assert!(message.contains("cannot be reached"), "{message}");
    assert_eq!(reason(&status), "start_failed");

    // Not even a restore that could start cold takes this for a snapshot that is no good.
    node.destroy().await;
    fs::remove_dir_all(place.path("node/images")).unwrap();
    let node = place.start(1).await;
    let status = node.activate(&wake(7).from("s1")).await.unwrap_err();
    assert_eq!(reason(&status), "wake_timeout", "{}", status.message());
    node.destroy().await;
    place.eventually_traces(&BTreeSet::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_that_has_gone_is_pulled_again_by_digest_for_a_restore() {
    let Some(place) = Place::new() else { return };
    let Some(registry) = Registry::start(&place) else { return };
    let first = counter(&place, "first", &[]);
    registry.push("v1", &first).await;
    let config =
        || Config { registry_auth: Some(registry.login(&place, PASSWORD)), ..place.config(1) };
    let node = Node::start(config()).await;
    let wake = |epoch| of(&place, epoch, json!({ "image": registry.name("v1") }));
    let cold = node.activate(&wake(1)).await.unwrap();
    let before = count(&cold.endpoint).await;
    node.suspend(1, "s1").await.unwrap();
    node.stop().await;

    // As on another node, which has the snapshot from the store and nothing else.
    fs::remove_dir_all(place.path("node/images")).unwrap();
    registry.push("v1", &counter(&place, "second", &[("v", "2")])).await;
    let node = Node::start(config()).await;
    let warm = node.activate(&wake(2).from("s1")).await.unwrap();
    let after = count(&warm.endpoint).await;
    assert_eq!((after.count, after.nonce), (2, before.nonce));
    drop(registry);
    node.destroy().await;
    place.eventually_traces(&BTreeSet::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_wants_a_token_of_somebody_else_is_given_it() {
    let Some(place) = Place::new() else { return };
    let tokens = Tokens::start(USER, PASSWORD).await;
    let certificate = place.path("tokens.pem");
    fs::write(&certificate, &tokens.certificate).unwrap();
    let auth = json!({ "token": {
        "realm": format!("http://{}/token", tokens.address), "service": "test",
        "issuer": "tokens", "rootcertbundle": certificate,
    }});
    let Some(registry) = Registry::with(&place, auth) else { return };
    registry.push("v1", &counter(&place, "image", &[])).await;
    let file = registry.login(&place, "s3cret-other");
    let config = Config { registry_auth: Some(file), ..place.config(1) };
    let node = Node::start(config).await;
    let wake = of(&place, 1, json!({ "image": registry.name("v1") }));
    let status = node.activate(&wake).await.unwrap_err();
    assert!(status.message().contains("--registry-auth"), "{}", status.message());
    registry.login(&place, PASSWORD);
    let woken = node.activate(&wake).await.unwrap();
    assert_eq!(count(&woken.endpoint).await.count, 1);
    drop(registry);
    node.destroy().await;
    place.eventually_traces(&BTreeSet::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_fails_says_which_image_and_why_and_no_password() {
    let Some(place) = Place::new() else { return };
    let Some(registry) = Registry::start(&place) else { return };
    let image = counter(&place, "image", &[]);
    registry.push("v1", &image).await;
    let file = registry.login(&place, PASSWORD);
    let config = Config { registry_auth: Some(file.clone()), ..place.config(1) };
    let node = Node::start(config).await;
    let fails = async |name: String, says: &str| {
        let wake = of(&place, 1, json!({ "image": name }));
        let status = node.activate(&wake).await.unwrap_err();
        assert_eq!(reason(&status), "start_failed");
        let message = status.message();
        assert!(message.contains(&name) && message.contains(says), "{says}: {message}");
        assert!(!message.contains("s3cret"), "{message}");
    };
    fails(registry.name("v2"), "does not have it").await;
    let absent = registry.name("v1").replace(":v1", &format!("@sha256:{}", "0".repeat(64)));
    fails(absent, "does not have it").await;
    // The file is read anew for each pull.
    registry.login(&place, "s3cret-other");
    fails(registry.name("v1"), "not give it to whom --registry-auth names").await;
    fs::write(&file, r#"{"auths":{"other.example":{"auth":"cmV2OnMzY3JldA=="}}}"#).unwrap();
    fails(registry.name("v1"), "--registry-auth has nothing for it").await;
    fs::write(&file, r#"{"auths":"s3cret"}"#).unwrap();
    fails(registry.name("v1"), "is not like docker's config.json").await;
    fs::remove_file(&file).unwrap();
    fails(registry.name("v1"), "--registry-auth").await;

    registry.login(&place, PASSWORD);
    let pinned = format!("{}@{}", registry.name("v1"), image.digest);
    let wake = node.activate(&of(&place, 1, json!({ "image": pinned }))).await.unwrap();
    assert_eq!(count(&wake.endpoint).await.count, 1);
    drop(registry);
    node.destroy().await;
    place.eventually_traces(&BTreeSet::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pull_that_a_wake_gives_up_goes_on_for_the_next_one() {
    let Some(place) = Place::new() else { return };
    let Some(registry) = Registry::start(&place) else { return };
    registry.push("v1", &counter(&place, "image", &[])).await;
    let config =
        Config { registry_auth: Some(registry.login(&place, PASSWORD)), ..place.config(1) };
    let node = Node::start(config).await;
    let pid = Pid::from_raw(registry.process.id() as i32);
    kill(pid, Signal::SIGSTOP).unwrap();
    let wake = of(&place, 1, json!({ "image": registry.name("v1") }));
    let status = node.activate_within(&wake, 300).await.unwrap_err();
    assert_eq!(reason(&status), "wake_timeout");
    assert!(status.message().contains("the image was not fetched within"), "{status}");
    kill(pid, Signal::SIGCONT).unwrap();
    let woken = node.activate(&wake).await.unwrap();
    assert_eq!(count(&woken.endpoint).await.count, 1);
    drop(registry);
    node.destroy().await;
    place.eventually_traces(&BTreeSet::new()).await;
}
