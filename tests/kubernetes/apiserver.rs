//! A Kubernetes API server of its own: etcd, kube-apiserver, and nothing else of a cluster.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::manifests;

/// On a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(90);
/// Somebody who may do everything.
const ADMIN: &str = "admin";
/// The service accounts of the manifests.
const ACCOUNTS: [&str; 2] = ["dns", "dns-install"];

pub(crate) struct ApiServer {
    dir: TempDir,
    port: u16,
    etcd: Child,
    server: Child,
}

pub(crate) fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

pub(crate) fn tool(name: &str) -> PathBuf {
    repository().join(".deps/bin").join(name)
}

/// In CI a missing part fails the test; elsewhere it is skipped, loudly.
pub(crate) fn is_here() -> bool {
    let missing = ["etcd", "kube-apiserver", "corefile"].iter().find(|name| !tool(name).exists());
    let Some(missing) = missing else { return true };
    assert!(std::env::var_os("CI").is_none(), "deploy/setup.sh kubernetes is missing: {missing}");
    eprintln!("SKIPPED: there is no .deps/bin/{missing}; run deploy/setup.sh kubernetes");
    false
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl ApiServer {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let openssl =
            ["genrsa", "-out", path("sa.key").to_str().unwrap(), "2048"].map(str::to_owned);
        assert!(
            Command::new("openssl").args(openssl).stderr(Stdio::null()).status().unwrap().success()
        );
        let mut tokens = format!("{ADMIN},admin,1,system:masters\n");
        for account in ACCOUNTS {
            let user = format!("system:serviceaccount:reveille-system:{account}");
            tokens += &format!("{account},{user},{account},system:serviceaccounts\n");
        }
        fs::write(path("tokens"), tokens).unwrap();

        let (client, peer, port) = (free_port(), free_port(), free_port());
        let url = |port| format!("http://127.0.0.1:{port}");
        let log = |name: &str| fs::File::create(path(name)).unwrap();
        let etcd = Command::new(tool("etcd"))
            .args(["--unsafe-no-fsync", "--log-level=error", "--name=test"])
            .arg(format!("--data-dir={}", path("etcd").display()))
            .arg(format!("--listen-client-urls={}", url(client)))
            .arg(format!("--advertise-client-urls={}", url(client)))
            .arg(format!("--listen-peer-urls={}", url(peer)))
            .arg(format!("--initial-advertise-peer-urls={}", url(peer)))
            .arg(format!("--initial-cluster=test={}", url(peer)))
            .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH.replace("aarch64", "arm64"))
            .stdout(log("etcd.out"))
            .stderr(log("etcd.log"))
            .spawn()
            .unwrap();
        let key = path("sa.key");
        let server = Command::new(tool("kube-apiserver"))
            .arg(format!("--etcd-servers={}", url(client)))
            .arg(format!("--secure-port={port}"))
            .args(["--bind-address=127.0.0.1", "--authorization-mode=RBAC"])
            // As in every cluster whose own parts are pods.
            .arg("--allow-privileged=true")
            .arg(format!("--cert-dir={}", path("certs").display()))
            .arg(format!("--token-auth-file={}", path("tokens").display()))
            .args([
                "--service-cluster-ip-range=10.0.0.0/24",
                "--disable-admission-plugins=ServiceAccount",
            ])
            .arg("--service-account-issuer=https://kubernetes.default.svc")
            .arg(format!("--service-account-key-file={}", key.display()))
            .arg(format!("--service-account-signing-key-file={}", key.display()))
            .stdout(log("apiserver.out"))
            .stderr(log("apiserver.log"))
            .spawn()
            .unwrap();
        let cluster = Self { dir, port, etcd, server };
        let end = Instant::now() + PATIENCE;
        // RBAC's own roles are made after it says that it is ready.
        let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles/cluster-admin";
        while cluster.call("GET", "/readyz", None).0 != 200
            || cluster.call("GET", roles, None).0 != 200
        {
            let log =
                fs::read_to_string(cluster.dir.path().join("apiserver.log")).unwrap_or_default();
            let last: Vec<_> = log.lines().rev().take(5).collect();
            assert!(Instant::now() < end, "the API server is not ready: {last:?}");
            sleep(Duration::from_millis(100)).await;
        }
        for account in [ADMIN].iter().chain(&ACCOUNTS) {
            cluster.write_kubeconfig(account);
        }
        cluster
    }

    fn write_kubeconfig(&self, account: &str) {
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.port),
                "certificate-authority": self.dir.path().join("certs/apiserver.crt"),
            }}],
            "users": [{ "name": "test", "user": { "token": account } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
        });
        fs::write(self.kubeconfig(account), config.to_string()).unwrap();
    }

    /// For programs that are to be somebody.
    pub(crate) fn kubeconfig(&self, account: &str) -> PathBuf {
        self.dir.path().join(format!("{account}.kubeconfig"))
    }

    pub(crate) fn call(&self, method: &str, path: &str, body: Option<&str>) -> (u16, Value) {
        self.call_as(ADMIN, method, path, body)
    }

    /// One call, with a body of YAML or JSON.
    pub(crate) fn call_as(
        &self,
        account: &str,
        method: &str,
        path: &str,
        body: Option<&str>,
    ) -> (u16, Value) {
        let (method, kind) = match method {
            "PATCH" => (method, "application/merge-patch+json"),
            "APPLY" => ("PATCH", "application/apply-patch+yaml"),
            _ => (method, "application/yaml"),
        };
        let mut curl = Command::new("curl");
        curl.args(["-sk", "--max-time", "15", "-w", "\n%{http_code}", "-X", method])
            .args(["-H", &format!("Authorization: Bearer {account}")])
            .args(["-H", &format!("Content-Type: {kind}")])
            .arg(format!("https://127.0.0.1:{}{path}", self.port));
        if let Some(body) = body {
            let file = self.dir.path().join("body");
            fs::write(&file, body).unwrap();
            curl.arg("--data-binary").arg(format!("@{}", file.display()));
        }
        let output = curl.output().expect("curl");
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, code) = text.rsplit_once('\n').unwrap();
        (code.parse().unwrap(), serde_json::from_str(body).unwrap_or_default())
    }

    /// The objects of a file of ours, as `kubectl apply --server-side`: a field that there is not is refused.
    pub(crate) fn apply(&self, file: &Path) {
        for (document, object) in manifests::documents(file) {
            let (code, answer) = self.apply_one(&document, &object);
            assert!(matches!(code, 200 | 201), "{}: {answer}", object["kind"]);
        }
    }

    pub(crate) fn apply_one(&self, document: &str, object: &Value) -> (u16, Value) {
        let field = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (version, kind) = (field(&object["apiVersion"]), field(&object["kind"]));
        let (namespace, name) =
            (field(&object["metadata"]["namespace"]), field(&object["metadata"]["name"]));
        // This server is older than policy/v1, which has the same fields; later ones do not know the other.
        let (served, document) = match version.as_str() {
            "policy/v1" => ("policy/v1beta1", document.replace("policy/v1", "policy/v1beta1")),
            other => (other, document.to_owned()),
        };
        let group = if served == "v1" { "/api/v1".into() } else { format!("/apis/{served}") };
        let within =
            if namespace.is_empty() { String::new() } else { format!("/namespaces/{namespace}") };
        let path = format!("{group}{within}/{}s/{name}", kind.to_lowercase());
        self.call("APPLY", &format!("{path}?fieldManager=test&force=true"), Some(&document))
    }

    /// Makes or replaces a ConfigMap of `kube-system`.
    pub(crate) fn put_config_map(&self, name: &str, data: &Value) {
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": name, "namespace": "kube-system" }, "data": data,
        });
        let path = "/api/v1/namespaces/kube-system/configmaps";
        let (code, _) = self.call("PUT", &format!("{path}/{name}"), Some(&map.to_string()));
        if code == 404 {
            let (code, answer) = self.call("POST", path, Some(&map.to_string()));
            assert_eq!(code, 201, "{answer}");
        }
    }

    pub(crate) fn config_map(&self, name: &str) -> Value {
        let path = format!("/api/v1/namespaces/kube-system/configmaps/{name}");
        let (code, map) = self.call("GET", &path, None);
        assert_eq!(code, 200, "{map}");
        map
    }

    pub(crate) fn corefile(&self, name: &str) -> String {
        self.config_map(name)["data"]["Corefile"].as_str().unwrap().to_owned()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        for child in [&mut self.server, &mut self.etcd] {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
