//! Body and `Proxy-Status` of an answer that is not the actor's: the same from Envoy and from the router.

pub(crate) mod accept;

use reveille_api::Reason;

/// What the client understands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// A gRPC call: the status is in `grpc-status`, the body becomes `grpc-message`.
    Grpc,
    /// A browser: `Accept` wants `text/html` most.
    Html,
    /// `Accept` wants `text/plain` most.
    Text,
    /// Everybody else: `application/problem+json` (RFC 9457).
    Json,
}

impl Shape {
    /// In the order in which they are tried.
    pub const ALL: &[Self] = &[Self::Grpc, Self::Html, Self::Text, Self::Json];

    /// The shape for a request with these headers.
    pub fn of(content_type: Option<&str>, accept: Option<&str>) -> Self {
        if content_type.is_some_and(is_grpc) {
            return Self::Grpc;
        }
        accept.map_or(Self::Json, accept::shape)
    }

    /// The `content-type` of the body.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Grpc => "application/grpc",
            Self::Html => "text/html; charset=utf-8",
            Self::Text => "text/plain; charset=utf-8",
            Self::Json => "application/problem+json",
        }
    }
}

/// The body. Holds nothing but what is in the reason's own row. The page of an actor that is waking loads itself again, by
/// itself and without a script, until the actor answers.
pub fn body(reason: Reason, shape: Shape) -> String {
    body_with(reason, shape, &reason.http_status().to_string())
}

/// The body of an answer whose status is not the reason's own.
pub(crate) fn body_with(reason: Reason, shape: Shape, status: &str) -> String {
    let title = reason.title();
    let reload = match reason {
        Reason::Waking => "<meta http-equiv=\"refresh\" content=\"1\">",
        _ => "",
    };
    match shape {
        Shape::Grpc => title.to_owned(),
        Shape::Text => format!("{title}\n"),
        Shape::Json => format!(
            "{{\"type\":\"about:blank\",\"title\":\"{title}\",\"status\":{status},\"reason\":\"{reason}\"}}\n"
        ),
        Shape::Html => format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">{reload}\
             <meta name=\"viewport\" content=\"width=device-width\"><title>{status}</title>\
             <body style=\"font-family:system-ui;margin:15vh auto;max-width:32em;padding:0 1em\">\
             <h1>{title}</h1><p>{status} · {reason}</p></body></html>\n"
        ),
    }
}

/// The value of `Proxy-Status` (RFC 9209): this proxy, a registered error type, and our reason.
pub fn proxy_status(reason: Reason, error: &str) -> String {
    format!("reveille; error={error}; details=\"{reason}\"")
}

/// The error type of a reason, where nothing more exact is known.
pub fn proxy_error(reason: Reason) -> &'static str {
    match reason {
        Reason::InvalidRequest => "http_request_error",
        Reason::InvalidHost | Reason::ActorNotFound => "destination_not_found",
        Reason::Unauthenticated | Reason::AccessDenied | Reason::QuotaExceeded => {
            "http_request_denied"
        }
        Reason::ParkingFull | Reason::ActorParkingFull => "connection_limit_reached",
        Reason::NoCapacity
        | Reason::ControlPlaneUnavailable
        | Reason::Waking
        | Reason::ActorStopped
        | Reason::ActorLost
        | Reason::RestoreFailed
        | Reason::SnapshotCorrupt
        | Reason::StartFailed => "destination_unavailable",
        Reason::UpstreamConnectFailed => "connection_refused",
        Reason::UpstreamReset => "connection_terminated",
        Reason::WakeTimeout => "connection_timeout",
        Reason::UpstreamTimeout => "http_response_timeout",
        Reason::Internal => "proxy_internal_error",
    }
}

/// As Envoy judges it: nothing, a subtype or parameters may follow the name.
fn is_grpc(content_type: &str) -> bool {
    const GRPC: &str = "application/grpc";
    let named = content_type.get(..GRPC.len()).is_some_and(|name| name.eq_ignore_ascii_case(GRPC));
    named
        && content_type[GRPC.len()..]
            .trim_start()
            .chars()
            .next()
            .is_none_or(|c| c == '+' || c == ';')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_needs_no_escaping_in_json_in_html_or_in_envoys_formats() {
        for reason in Reason::ALL {
            let plain = |c: char| c.is_ascii_alphanumeric() || " .,'_".contains(c);
            assert!(reason.title().chars().all(plain), "{reason}: {}", reason.title());
        }
    }

    #[test]
    fn only_the_page_of_an_actor_that_wakes_loads_itself_again() {
        for reason in Reason::ALL {
            let reloads = body(*reason, Shape::Html).contains("http-equiv=\"refresh\"");
            assert_eq!(reloads, *reason == Reason::Waking, "{reason}");
        }
    }

    #[test]
    fn the_shape_is_what_the_client_asked_for() {
        let browser = Some("text/html,application/xhtml+xml,*/*;q=0.8");
        assert_eq!(Shape::of(None, browser), Shape::Html);
        assert_eq!(Shape::of(Some("application/grpc+proto"), browser), Shape::Grpc);
        assert_eq!(Shape::of(Some("Application/gRPC; a=b"), browser), Shape::Grpc);
        // Another protocol, which has no trailers-only answers.
        assert_ne!(Shape::of(Some("application/grpc-web+proto"), browser), Shape::Grpc);
        assert_eq!(Shape::of(Some("application/json"), Some("text/plain")), Shape::Text);
        assert_eq!(Shape::of(None, Some("*/*")), Shape::Json);
        assert_eq!(Shape::of(None, None), Shape::Json);
    }
}
