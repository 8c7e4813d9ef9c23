//! [`Stay`]: one registration of a node, quoted by every call that the control plane makes to its agent.
//!
//! ```text
//!  agent ── Register (highest stay heard: 4) ─▶ control plane      this is stay 5
//!  agent ◀─ GetInventory (stay: 5) ──────────── control plane      from here on 4 is refused, also what waits its turn
//!  agent ◀─ Suspend (stay: 4), late
//!        └─ ABORTED: asked again by stay 5, if anybody still wants it
//! ```

use std::fmt;

use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataMap, MetadataValue},
    service::Interceptor,
};

/// Metadata of a call to a node agent.
const HEADER: &str = "reveille-stay";

/// Grows with each registration of a node. A call that quotes none is of stay 0, before the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stay(pub u64);

impl fmt::Display for Stay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Stay {
    /// The one that a call quotes.
    pub fn quoted(metadata: &MetadataMap) -> Result<Self, Status> {
        let Some(value) = metadata.get(HEADER) else { return Ok(Self::default()) };
        let number = value.to_str().ok().and_then(|text| text.parse().ok());
        let number = number.ok_or_else(|| Status::invalid_argument("reveille-stay is no number"));
        Ok(Self(number?))
    }
}

/// Quotes it in every call of a client.
impl Interceptor for Stay {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(HEADER, MetadataValue::<Ascii>::from(self.0));
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_stay_is_read_and_anything_else_is_refused() {
        let quoted = Stay(7).call(Request::new(())).unwrap();
        assert_eq!(Stay::quoted(quoted.metadata()).unwrap(), Stay(7));
        assert_eq!(Stay::quoted(&MetadataMap::new()).unwrap(), Stay(0));
        let mut odd = MetadataMap::new();
        odd.insert(HEADER, MetadataValue::from_static("-1"));
        assert_eq!(Stay::quoted(&odd).unwrap_err().code(), tonic::Code::InvalidArgument);
    }
}
