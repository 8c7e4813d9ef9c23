//! The answers Envoy gives by itself, in the shape that all of Reveille's answers have.
//!
//! | why Envoy answers | how that is seen | reason |
//! | --- | --- | --- |
//! | the router refused | the answer has a reason already | as it is |
//! | the request names no host, or none there can be | details | `invalid_host` |
//! | the request is not HTTP, or its headers are too large | details | `invalid_request`, Envoy's status |
//! | the router did not answer in time | details | `wake_timeout` |
//! | too many requests for the router | details | `parking_full` |
//! | the router says that the actor's process is gone | details | `upstream_reset` |
//! | the router has ended, and the request had a connection to its actor: it may have been there | details, upstream | `upstream_reset` |
//! | the router cannot be reached | details | `control_plane_unavailable` |
//! | no connection to the actor | flags UF, UH, URX | `upstream_connect_failed` |
//! | the same, of a request too large to be tried again | details | `upstream_connect_failed` |
//! | the connection to the actor broke, or it spoke no HTTP | flags UC, UR, LR, UPE | `upstream_reset` |
//! | the actor did not answer in time | flags UT, SI, DT | `upstream_timeout` |
//! | too many requests for actors, or connections | flags UO, OM | `parking_full` |
//! | an upgrade we do not know | details | `invalid_request`, Envoy's status |
//! | a filter of the operator's in front of ours refused it | status 401, 403 | `unauthenticated`, `access_denied` |
//! | any other fault | status 500 and above | `internal` |
//! | any other mistake of the client's: headers that never end | status 400 and above | `invalid_request`, Envoy's status |
//!
//! A request that was never read to the end of its headers has said nothing of the shape it wants, and gets JSON.

use envoy_types::pb::envoy::{
    config::{
        accesslog::v3::{
            AccessLogFilter, AndFilter, ComparisonFilter, ExtensionFilter, HeaderFilter,
            ResponseFlagFilter, StatusCodeFilter, access_log_filter::FilterSpecifier,
            comparison_filter, extension_filter,
        },
        core::v3::{
            DataSource, HeaderValue, HeaderValueOption, RuntimeUInt32, SubstitutionFormatString,
            data_source, header_value_option::HeaderAppendAction, substitution_format_string,
        },
        route::v3::{HeaderMatcher, header_matcher::HeaderMatchSpecifier},
    },
    extensions::{
        access_loggers::filters::cel::v3::ExpressionFilter,
        filters::network::http_connection_manager::v3::{LocalReplyConfig, ResponseMapper},
    },
    r#type::matcher::v3::{StringMatcher, string_matcher},
};
use reveille_api::Reason;

use super::names;
use crate::{
    proto::{any, uint32},
    reply::{
        self, Shape,
        accept::{self, Level},
    },
};

/// How Envoy shows why it answers by itself.
enum Seen {
    Flags(&'static [&'static str]),
    /// A condition on `response.code_details`, in CEL.
    Details(&'static str),
    /// This status.
    Exactly(u32),
    /// A status of at least this.
    Status(u32),
}

/// One row: what is seen, the reason, and the error type for `Proxy-Status` where it is known better than by the reason.
type Row = (Seen, Reason, Option<&'static str>);

/// The first that applies decides.
const REASONS: &[Row] = &[
    (Seen::Details(" == 'missing_host_header'"), Reason::InvalidHost, None),
    (Seen::Details(" == 'http.invalid_authority'"), Reason::InvalidHost, None),
    (Seen::Details(".matches('^http[123]\\\\.')"), Reason::InvalidRequest, None),
    (Seen::Details(".startsWith('ext_proc_error_per-message_timeout')"), Reason::WakeTimeout, None),
    (Seen::Details(".matches('^ext_proc_error.*overflow')"), Reason::ParkingFull, None),
    (Seen::Details(".startsWith('ext_proc_error_gRPC_error_10')"), Reason::UpstreamReset, None),
    (
        Seen::Details(".startsWith('ext_proc_error') && upstream.address != ''"),
        Reason::UpstreamReset,
        None,
    ),
    (Seen::Details(".startsWith('ext_proc_error')"), Reason::ControlPlaneUnavailable, None),
    (
        Seen::Details(".contains('connection_timeout')"),
        Reason::UpstreamConnectFailed,
        Some("connection_timeout"),
    ),
    (
        Seen::Details(" == 'request_payload_exceeded_retry_buffer_limit'"),
        Reason::UpstreamConnectFailed,
        None,
    ),
    (Seen::Flags(&["UF", "UH", "URX"]), Reason::UpstreamConnectFailed, None),
    (Seen::Flags(&["UPE"]), Reason::UpstreamReset, Some("http_protocol_error")),
    (Seen::Flags(&["UC", "UR", "LR"]), Reason::UpstreamReset, None),
    (Seen::Flags(&["UT", "SI", "DT"]), Reason::UpstreamTimeout, None),
    (Seen::Flags(&["UO", "OM"]), Reason::ParkingFull, None),
    (Seen::Details(".endsWith('upgrade_failed')"), Reason::InvalidRequest, None),
    (Seen::Exactly(401), Reason::Unauthenticated, None),
    (Seen::Exactly(403), Reason::AccessDenied, None),
    (Seen::Status(500), Reason::Internal, None),
    (Seen::Status(400), Reason::InvalidRequest, None),
];

pub(super) fn config() -> LocalReplyConfig {
    // What this leaves as it is, no later mapper sees.
    let kept = ResponseMapper {
        filter: Some(expression(format!("'{}' in response.headers", names::REASON_HEADER))),
        ..Default::default()
    };
    let mappers =
        REASONS.iter().flat_map(|row| Shape::ALL.iter().map(move |shape| mapper(row, *shape)));
    LocalReplyConfig { mappers: [kept].into_iter().chain(mappers).collect(), body_format: None }
}

fn mapper((seen, reason, error): &Row, shape: Shape) -> ResponseMapper {
    let seen = match seen {
        Seen::Flags(seen) => flags(seen),
        Seen::Details(condition) => expression(format!("response.code_details{condition}")),
        Seen::Exactly(status) => status_is(comparison_filter::Op::Eq, *status),
        Seen::Status(status) => status_is(comparison_filter::Op::Ge, *status),
    };
    let filter = match asked_for(shape) {
        Some(asked_for) => {
            filter(FilterSpecifier::AndFilter(AndFilter { filters: vec![seen, asked_for] }))
        }
        None => seen,
    };
    // What is wrong with a request, Envoy's status says better.
    let (status_code, body) = match reason {
        Reason::InvalidRequest => (None, reply::body_with(*reason, shape, "%RESPONSE_CODE%")),
        reason => (uint32(reason.http_status().into()), reply::body(*reason, shape)),
    };
    ResponseMapper {
        filter: Some(filter),
        status_code,
        body_format_override: Some(SubstitutionFormatString {
            content_type: shape.content_type().into(),
            format: Some(substitution_format_string::Format::TextFormatSource(inline(body))),
            ..Default::default()
        }),
        headers_to_add: headers(*reason, error.unwrap_or(reply::proxy_error(*reason)), shape),
        ..Default::default()
    }
}

fn headers(reason: Reason, error: &str, shape: Shape) -> Vec<HeaderValueOption> {
    let mut headers = vec![
        header(names::REASON_HEADER, reason.name().into()),
        header("proxy-status", reply::proxy_status(reason, error)),
        // Of a request that waited: without the times of an answer that never began.
        HeaderValueOption {
            append_action: HeaderAppendAction::OverwriteIfExists.into(),
            ..header(names::SERVER_TIMING_HEADER, names::metadata(names::SERVER_TIMING))
        },
    ];
    if let Some(least) = reason.retry_after() {
        // Spread by the millisecond in which the request came.
        let least = least.as_secs();
        let spread = least + 1;
        headers.push(header(
            "retry-after",
            format!("%CEL({least} + request.time.getMilliseconds() % {spread})%"),
        ));
    }
    if shape == Shape::Grpc {
        headers.push(header("grpc-status", i32::from(reason.grpc_code()).to_string()));
    }
    headers
}

/// Whether the client asked for this shape. JSON is for those who did not ask.
fn asked_for(shape: Shape) -> Option<AccessLogFilter> {
    match shape {
        Shape::Grpc => Some(filter(FilterSpecifier::HeaderFilter(HeaderFilter {
            header: Some(HeaderMatcher {
                name: "content-type".into(),
                header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
                    match_pattern: Some(string_matcher::MatchPattern::Prefix(
                        "application/grpc".into(),
                    )),
                    ..Default::default()
                })),
                ..Default::default()
            }),
        }))),
        Shape::Html | Shape::Text => Some(expression(accepts(shape))),
        Shape::Json => None,
    }
}

/// [`accept::condition`] in CEL. Without the header it is an error there, which is a no.
fn accepts(shape: Shape) -> String {
    let found = |pattern: &String| format!("request.headers['accept'].matches(r'{pattern}')");
    let level = |level: Level| {
        let unless = level.unless.iter().map(|pattern| format!(" && !{}", found(pattern)));
        format!("({}{})", found(&level.wanted), unless.collect::<String>())
    };
    let levels: Vec<_> = accept::condition(shape).into_iter().map(level).collect();
    levels.join(" || ")
}

fn status_is(op: comparison_filter::Op, status: u32) -> AccessLogFilter {
    filter(FilterSpecifier::StatusCodeFilter(StatusCodeFilter {
        comparison: Some(ComparisonFilter {
            op: op.into(),
            value: Some(RuntimeUInt32 {
                default_value: status,
                runtime_key: "reveille.local_reply.fault".into(),
            }),
        }),
    }))
}

fn flags(flags: &[&str]) -> AccessLogFilter {
    filter(FilterSpecifier::ResponseFlagFilter(ResponseFlagFilter {
        flags: flags.iter().map(|&flag| flag.into()).collect(),
    }))
}

fn expression(expression: String) -> AccessLogFilter {
    let config = ExpressionFilter { expression, ..Default::default() };
    filter(FilterSpecifier::ExtensionFilter(ExtensionFilter {
        name: "envoy.access_loggers.extension_filters.cel".into(),
        config_type: Some(extension_filter::ConfigType::TypedConfig(any(&config))),
    }))
}

fn filter(specifier: FilterSpecifier) -> AccessLogFilter {
    AccessLogFilter { filter_specifier: Some(specifier) }
}

fn header(name: &str, value: String) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue { key: name.into(), value, ..Default::default() }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..Default::default()
    }
}

fn inline(text: String) -> DataSource {
    DataSource { specifier: Some(data_source::Specifier::InlineString(text)), ..Default::default() }
}
