//! Why a request fails: one closed enum and one table that decides everything shown for it.

use std::{fmt, str::FromStr, time::Duration};

use tonic::Code;

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident $name:literal $http:literal $grpc:ident $retry:literal $title:literal;)*) => {
        /// Why a request was not answered by its actor. The name is what `x-reveille-reason` carries.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// Every reason, in the order of the design's table.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name in headers, metrics and logs.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The HTTP status.
            pub const fn http_status(self) -> u16 {
                match self { $(Self::$variant => $http,)* }
            }

            /// The gRPC status, for gRPC callers and between the parts.
            pub const fn grpc_code(self) -> Code {
                match self { $(Self::$variant => Code::$grpc,)* }
            }

            /// One sentence a client may see. Holds nothing internal.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }

            /// Seconds after which trying again may help; nothing where it does not.
            const fn retry_secs(self) -> u64 {
                match self { $(Self::$variant => $retry,)* }
            }
        }
    };
}

reasons! {
    /// Not a request that can be served, whoever it is for. The status says more where it is another one of the 400s.
    InvalidRequest "invalid_request" 400 InvalidArgument 0 "This request is malformed or too large.";
    /// The host is not `<actor>.<namespace>.<domain>`.
    InvalidHost "invalid_host" 404 NotFound 0 "This host names no actor.";
    /// No such actor.
    ActorNotFound "actor_not_found" 404 NotFound 0 "There is no such actor.";
    /// Credentials are missing.
    Unauthenticated "unauthenticated" 401 Unauthenticated 0 "Credentials are required.";
    /// Credentials do not allow this.
    AccessDenied "access_denied" 403 PermissionDenied 0 "Access is denied.";
    /// The wake budget or another limit of the namespace is used up.
    QuotaExceeded "quota_exceeded" 429 ResourceExhausted 5 "A limit of this namespace is used up.";
    /// The router, or the namespace on it, has no parking place left.
    ParkingFull "parking_full" 503 Unavailable 1 "Too many requests are waiting for sleeping actors.";
    /// The actor has no parking place left.
    ActorParkingFull "actor_parking_full" 503 Unavailable 1 "Too many requests are waiting for this actor.";
    /// No worker became free within the park budget.
    NoCapacity "no_capacity" 503 Unavailable 5 "No worker is free to run this actor.";
    /// The control plane cannot be reached and no binding is known.
    ControlPlaneUnavailable "control_plane_unavailable" 503 Unavailable 2 "This actor cannot be woken right now.";
    /// It is being woken, and a browser is shown a page meanwhile that loads itself again. Not in the design's table:
    /// only where the template asks for it.
    Waking "waking" 503 Unavailable 1 "This actor is waking up.";
    /// Stopped by its user; traffic does not wake it.
    ActorStopped "actor_stopped" 503 FailedPrecondition 0 "This actor is stopped.";
    /// Its worker died and no snapshot can be used.
    ActorLost "actor_lost" 503 FailedPrecondition 0 "This actor's state is lost.";
    /// The actor's endpoint did not accept a connection.
    UpstreamConnectFailed "upstream_connect_failed" 503 Unavailable 1 "The actor could not be reached.";
    /// The connection to the actor broke before its answer.
    UpstreamReset "upstream_reset" 503 Unavailable 1 "The connection to the actor broke.";
    /// The snapshot is whole but could not be restored.
    RestoreFailed "restore_failed" 502 Unavailable 0 "The actor could not be restored.";
    /// The snapshot is damaged.
    SnapshotCorrupt "snapshot_corrupt" 502 DataLoss 0 "The actor's snapshot is damaged.";
    /// A cold start failed.
    StartFailed "start_failed" 502 Unavailable 0 "The actor could not be started.";
    /// It did not wake within the budget. The wake itself may still succeed.
    WakeTimeout "wake_timeout" 504 DeadlineExceeded 1 "The actor did not wake in time.";
    /// The actor did not answer in time.
    UpstreamTimeout "upstream_timeout" 504 DeadlineExceeded 1 "The actor did not answer in time.";
    /// A fault of Reveille.
    Internal "internal" 500 Internal 0 "Something went wrong inside.";
}

impl Reason {
    /// Shortest wait worth telling a client, where trying again helps. Add jitter before showing it.
    pub fn retry_after(self) -> Option<Duration> {
        (self.retry_secs() > 0).then(|| Duration::from_secs(self.retry_secs()))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no [`Reason`].
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no failure reason")]
pub struct UnknownReason(String);

impl FromStr for Reason {
    type Err = UnknownReason;

    fn from_str(name: &str) -> Result<Self, UnknownReason> {
        let found = Self::ALL.iter().find(|reason| reason.name() == name);
        found.copied().ok_or_else(|| UnknownReason(name.into()))
    }
}

impl serde::Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> serde::Deserialize<'de> for Reason {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        name.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_retrying_is_told_only_where_it_can_help() {
        for reason in Reason::ALL {
            assert_eq!(reason.name().parse::<Reason>().unwrap(), *reason);
            if reason.retry_after().is_some() {
                assert!(matches!(reason.http_status(), 429 | 503 | 504), "{reason}");
            }
        }
        assert_eq!(Reason::ALL.len(), 21);
    }
}
