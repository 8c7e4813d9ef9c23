//! Who gives tokens for a registry, as the big ones have it.

use std::time::SystemTime;

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use rcgen::{CertificateParams, KeyPair, SigningKey};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// See the module. Dropped, it ends.
pub(crate) struct Tokens {
    pub(crate) address: String,
    /// Of whom signs them, as PEM.
    pub(crate) certificate: String,
    _tasks: JoinSet<()>,
}

impl Tokens {
    /// Gives them to one user only.
    pub(crate) async fn start(user: &str, password: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let login = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        let (pem, chain) = (certificate.pem(), STANDARD.encode(certificate.der()));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                answer(stream, &login, &token(&key, &chain)).await;
            }
        });
        Self { address, certificate: pem, _tasks: tasks }
    }
}

async fn answer(mut stream: TcpStream, login: &str, token: &str) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") && stream.read_buf(&mut request).await.unwrap() > 0 {}
    let request = String::from_utf8(request).unwrap();
    let known = request.lines().any(|line| line.ends_with(login));
    let (status, body) = if known {
        ("200 OK", json!({ "token": token }).to_string())
    } else {
        ("401 Unauthorized", "s3cret".into())
    };
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    stream.write_all((head + &body).as_bytes()).await.unwrap();
}

/// A JSON web token for the repository of the tests.
fn token(key: &KeyPair, chain: &str) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let head = part(json!({ "typ": "JWT", "alg": "ES256", "x5c": [chain] }));
    let body = part(json!({
        "iss": "tokens", "sub": "test", "aud": "test", "jti": "1",
        "iat": now - 60, "nbf": now - 60, "exp": now + 600,
        "access": [{ "type": "repository", "name": "demo/counter", "actions": ["pull", "push"] }],
    }));
    let signed = format!("{head}.{body}");
    let signature = raw(&key.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// The two numbers of a signature, without what ASN.1 says of them.
fn raw(der: &[u8]) -> Vec<u8> {
    let number = |at: usize| {
        let length = der[at + 1] as usize;
        let digits = &der[at + 2..at + 2 + length];
        let digits = &digits[length.saturating_sub(32)..];
        let mut number = vec![0; 32 - digits.len()];
        number.extend(digits);
        (number, at + 2 + length)
    };
    let (mut first, next) = number(2);
    first.extend(number(next).0);
    first
}
