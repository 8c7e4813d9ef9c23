//! The bearer token of the TCP address.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
};

use http::HeaderMap;
use tonic::Status;

/// Random bytes of a new token.
const BYTES: usize = 32;

/// A secret that programs show: only those who do are let in.
#[derive(Clone)]
pub(super) struct Token(Arc<str>);

impl Token {
    /// Reads the file; makes it, for its owner only, if it is missing.
    pub(super) fn read_or_make(path: &Path) -> io::Result<Self> {
        match fs::read_to_string(path) {
            Ok(text) if !text.trim().is_empty() => return Ok(Self(text.trim().into())),
            Ok(_) => fs::remove_file(path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let bytes: [u8; BYTES] = rand::random();
        let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        writeln!(file, "{token}")?;
        Ok(Self(token.into()))
    }

    /// Takes as long for a token that is nearly right as for one that is not.
    fn is(&self, shown: &str) -> bool {
        let (own, shown) = (self.0.as_bytes(), shown.as_bytes());
        let differences = own.iter().zip(shown).fold(0, |all, (a, b)| all | (a ^ b));
        own.len() == shown.len() && differences == 0
    }

    /// Looks for it in a request's headers.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), Status> {
        let header = headers.get("authorization").and_then(|value| value.to_str().ok());
        match header.and_then(|header| header.strip_prefix("Bearer ")) {
            Some(shown) if self.is(shown) => Ok(()),
            Some(_) => {
                Err(Status::unauthenticated("the token is wrong; read the token file again"))
            }
            None => Err(Status::unauthenticated(
                "a token is required: authorization: Bearer <content of the token file>",
            )),
        }
    }
}
