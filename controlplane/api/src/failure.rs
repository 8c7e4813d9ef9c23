//! [`Failure`]: a [`Reason`] with a message for the operator, and how it crosses gRPC.

use std::time::Duration;

use tonic::{Code, Status, metadata::MetadataValue};

use crate::{InvalidLabel, Reason};

/// Trailer that names the [`Reason`] of a failed call between the parts.
const REASON_HEADER: &str = "reveille-reason";
/// Trailer that tells when trying again may help, in milliseconds, where that is known.
const RETRY_HEADER: &str = "reveille-retry-after-ms";

/// Trailer of a node that cannot restore a snapshot which another one may restore.
pub const UNFIT_HEADER: &str = "reveille-unfit";

/// Why an operation failed. The message is for operators and logs; clients of actors see only the reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Failure {
    /// Decides what the client sees.
    pub reason: Reason,
    /// For the operator.
    pub message: String,
    /// When trying again may help, where that is known better than by the reason alone.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure of this reason.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), retry_after: None }
    }

    /// A fault of Reveille itself.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Reason::Internal, message)
    }

    /// The failure a call ended with. One that names no reason comes from the transport: `otherwise`.
    pub fn from_status(status: &Status, otherwise: Reason) -> Self {
        let trailer = |name| status.metadata().get(name).and_then(|value| value.to_str().ok());
        let named = trailer(REASON_HEADER).and_then(|name| name.parse().ok());
        let retry_ms = trailer(RETRY_HEADER).and_then(|ms| ms.parse().ok());
        let failure = Self::new(named.unwrap_or(otherwise), status.message());
        Self { retry_after: retry_ms.map(Duration::from_millis), ..failure }
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let mut status = Self::new(failure.reason.grpc_code(), failure.message);
        let name = MetadataValue::from_static(failure.reason.name());
        status.metadata_mut().insert(REASON_HEADER, name);
        if let Some(wait) = failure.retry_after {
            let ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            status.metadata_mut().insert(RETRY_HEADER, ms.into());
        }
        status
    }
}

/// A bad name in a request is the caller's mistake.
impl From<InvalidLabel> for Status {
    fn from(error: InvalidLabel) -> Self {
        Self::new(Code::InvalidArgument, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_survives_the_wire_and_a_transport_error_gets_the_callers() {
        let status = Status::from(Failure::new(Reason::NoCapacity, "8 of 8 workers in use"));
        let back = Failure::from_status(&status, Reason::Internal);
        assert_eq!(back, Failure::new(Reason::NoCapacity, "8 of 8 workers in use"));
        let soon = Failure { retry_after: Some(Duration::from_millis(7_500)), ..back };
        assert_eq!(Failure::from_status(&soon.clone().into(), Reason::Internal), soon);
        let broken = Status::unavailable("connection refused");
        let back = Failure::from_status(&broken, Reason::ControlPlaneUnavailable);
        assert_eq!(back.reason, Reason::ControlPlaneUnavailable);
    }
}
