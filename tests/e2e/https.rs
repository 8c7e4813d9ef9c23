//! HTTPS: the same as HTTP, and a certificate that is renewed while it is in use.

use std::{fs, path::PathBuf, time::Duration};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tempfile::TempDir;

use crate::{
    COUNTER,
    harness::{
        cluster::{Cluster, Options},
        eventually, machine_can_run_it,
        manifest::Manifests,
        tls::Tls,
    },
};

async fn cluster(extra: Vec<String>) -> Cluster {
    let manifests =
        Manifests::new().counter("demo", "counter", "").actor("demo", "counter", "counter");
    Cluster::start(Options { extra, ..Options::new(manifests) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn https_speaks_h2_and_http1_by_alpn_and_wakes_as_http_does() {
    if !machine_can_run_it("https") {
        return;
    }
    let cluster = cluster(Vec::new()).await;
    // Both are what the client asked for first; without ALPN it is HTTP/1.1.
    let mut last = None;
    for (alpn, chosen) in
        [(&["h2", "http/1.1"][..], Some("h2")), (&["http/1.1"], Some("http/1.1")), (&[], None)]
    {
        let tls = Tls::connect(cluster.https, COUNTER, alpn).await.expect("a handshake");
        assert_eq!(tls.alpn().as_deref(), chosen);
        let count = tls.get(COUNTER, "/").await.count();
        assert_eq!(count.host, COUNTER);
        let (before, nonce) = last.unwrap_or((0, count.nonce.clone()));
        assert_eq!((count.count, &count.nonce), (before + 1, &nonce));
        last = Some((count.count, nonce));
        cluster.ok(&["suspend", "actor", "counter", "-n", "demo"]).await;
    }
    let tls = Tls::connect(cluster.https, COUNTER, &["h2"]).await.expect("a handshake");
    let headers = tls.get(COUNTER, "/headers").await.text();
    assert!(headers.contains("x-forwarded-proto") && headers.contains("https"), "{headers}");

    // Whatever name the handshake asked for, the request says what it is for.
    for name in ["elsewhere.example", "127.0.0.1"] {
        let connect = || Tls::connect(cluster.https, name, &["h2", "http/1.1"]);
        let answer = connect().await.expect("a handshake").get(COUNTER, "/healthz").await;
        assert_eq!(answer.status, 200, "{name}");
        let answer = connect().await.expect("a handshake").get("elsewhere.example", "/").await;
        assert_eq!((answer.status.as_u16(), answer.reason()), (404, Some("invalid_host")));
    }
    cluster.stop().await;
}

/// Two files that are renewed.
struct Files {
    dir: TempDir,
}

impl Files {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A new certificate (DER), and both files.
    fn make() -> (Vec<u8>, [(&'static str, String); 2]) {
        let names = ["actors.localhost".to_owned(), "*.demo.actors.localhost".to_owned()];
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).expect("made");
        let texts = [("cert.pem", cert.pem()), ("key.pem", signing_key.serialize_pem())];
        (cert.der().to_vec(), texts)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_is_used_without_a_restart_however_it_came_and_a_broken_one_is_not() {
    if !machine_can_run_it("certificates") {
        return;
    }
    let files = Files { dir: TempDir::new().expect("a directory") };
    let (first, texts) = Files::make();
    texts.iter().for_each(|(name, text)| fs::write(files.path(name), text).expect("written"));
    let flag = |flag: &str, name| [flag.to_owned(), files.path(name).display().to_string()];
    let extra = [flag("--https-cert", "cert.pem"), flag("--https-key", "key.pem")].concat();
    let cluster = cluster(extra).await;
    let shown = async || {
        let tls = Tls::connect(cluster.https, COUNTER, &["h2"]).await.expect("a handshake");
        let certificate = tls.certificate();
        assert_eq!(tls.get(COUNTER, "/healthz").await.status, 200);
        certificate
    };
    let becomes = async |wanted: &[u8], how: &str| {
        eventually(&format!("the certificate that was {how}"), Duration::from_secs(30), || async {
            if shown().await == wanted { Ok(()) } else { Err(cluster.log_tail()) }
        })
        .await;
    };
    assert!(shown().await == first);
    let (pid, envoy) = (cluster.pid_of("router"), cluster.pid_of("envoy"));

    let (second, texts) = Files::make();
    for (name, text) in &texts {
        fs::write(files.path("new"), text).expect("written");
        fs::rename(files.path("new"), files.path(name)).expect("renamed");
    }
    becomes(&second, "renamed over the one before").await;

    let (third, texts) = Files::make();
    texts.iter().for_each(|(name, text)| fs::write(files.path(name), text).expect("written"));
    becomes(&third, "written in place").await;

    let (_, texts) = Files::make();
    fs::write(files.path("cert.pem"), &texts[0].1).expect("written");
    eventually("the key that does not fit is told", Duration::from_secs(30), || async {
        let log = cluster.log_text();
        let told = log.contains("no new certificate") && log.contains("is not that of");
        if told { Ok(()) } else { Err(cluster.log_tail()) }
    })
    .await;
    assert!(shown().await == third, "the one before is kept");

    let (fourth, texts) = Files::make();
    texts.iter().for_each(|(name, text)| fs::write(files.path(name), text).expect("written"));
    becomes(&fourth, "right again").await;
    assert_eq!((cluster.pid_of("router"), cluster.pid_of("envoy")), (pid, envoy), "no restart");
    cluster.stop().await;
}
