//! The answers Envoy gives by itself, in the shape that all of Reveille's answers have.
//!
//! | why Envoy answers | how that is seen | reason |
//! | --- | --- | --- |
//! | the router refused | the answer has a reason already | as it is |
//! | the request is not HTTP | details | none: Envoy's own status and text |
//! | the request names no host, or none there can be | details | `invalid_host` |
//! | the router did not answer in time | details | `wake_timeout` |
//! | too many requests for the router | details | `parking_full` |
//! | the router cannot be reached | details | `control_plane_unavailable` |
//! | no connection to the actor | flags UF, UH, URX | `upstream_connect_failed` |
//! | the connection to the actor broke | flags UC, UR, LR, UPE | `upstream_reset` |
//! | the actor did not answer in time | flags UT, SI, DT | `upstream_timeout` |
//! | too many requests for actors, or connections | flags UO, OM | `parking_full` |
//! | any other fault | status 500 and above | `internal` |
//!
//! Other mistakes of the client's (headers too large, for one) keep Envoy's status and plain text too.

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
    reply::{self, Shape},
};

/// How Envoy shows why it answers by itself.
enum Seen {
    Flags(&'static [&'static str]),
    /// A condition on `response.code_details`, in CEL.
    Details(&'static str),
    Fault,
}

/// The first that applies decides.
const REASONS: &[(Seen, Reason)] = &[
    (Seen::Details(" == 'missing_host_header'"), Reason::InvalidHost),
    (Seen::Details(" == 'http.invalid_authority'"), Reason::InvalidHost),
    (Seen::Details(".startsWith('ext_proc_error_per-message_timeout')"), Reason::WakeTimeout),
    (Seen::Details(".matches('^ext_proc_error.*overflow')"), Reason::ParkingFull),
    (Seen::Details(".startsWith('ext_proc_error')"), Reason::ControlPlaneUnavailable),
    (Seen::Flags(&["UF", "UH", "URX"]), Reason::UpstreamConnectFailed),
    (Seen::Flags(&["UC", "UR", "LR", "UPE"]), Reason::UpstreamReset),
    (Seen::Flags(&["UT", "SI", "DT"]), Reason::UpstreamTimeout),
    (Seen::Flags(&["UO", "OM"]), Reason::ParkingFull),
    (Seen::Fault, Reason::Internal),
];

pub(super) fn config() -> LocalReplyConfig {
    // What these leave as it is, no later mapper sees.
    let as_it_is = |filter| ResponseMapper { filter: Some(filter), ..Default::default() };
    let kept = [
        as_it_is(expression(format!("'{}' in response.headers", names::REASON_HEADER))),
        as_it_is(expression("response.code_details.matches('^http[123]\\\\.')".into())),
    ];
    let mappers = REASONS.iter().flat_map(|(seen, reason)| {
        Shape::ALL.iter().map(move |shape| mapper(seen, *reason, *shape))
    });
    LocalReplyConfig { mappers: kept.into_iter().chain(mappers).collect(), body_format: None }
}

fn mapper(seen: &Seen, reason: Reason, shape: Shape) -> ResponseMapper {
    let seen = match seen {
        Seen::Flags(seen) => flags(seen),
        Seen::Details(condition) => expression(format!("response.code_details{condition}")),
        Seen::Fault => at_least(500),
    };
    let filter = match asked_for(shape) {
        Some(asked_for) => {
            filter(FilterSpecifier::AndFilter(AndFilter { filters: vec![seen, asked_for] }))
        }
        None => seen,
    };
    ResponseMapper {
        filter: Some(filter),
        status_code: uint32(reason.http_status().into()),
        body: Some(inline(reply::body(reason, shape))),
        body_format_override: Some(SubstitutionFormatString {
            content_type: shape.content_type().into(),
            format: Some(substitution_format_string::Format::TextFormatSource(inline(
                "%LOCAL_REPLY_BODY%".into(),
            ))),
            ..Default::default()
        }),
        headers_to_add: headers(reason, shape),
    }
}

fn headers(reason: Reason, shape: Shape) -> Vec<HeaderValueOption> {
    let mut headers = vec![header(names::REASON_HEADER, reason.name().into())];
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
    let (name, pattern) = match shape {
        Shape::Grpc => {
            ("content-type", string_matcher::MatchPattern::Prefix("application/grpc".into()))
        }
        Shape::Html => ("accept", string_matcher::MatchPattern::Contains("text/html".into())),
        Shape::Text => ("accept", string_matcher::MatchPattern::Contains("text/plain".into())),
        Shape::Json => return None,
    };
    Some(filter(FilterSpecifier::HeaderFilter(HeaderFilter {
        header: Some(HeaderMatcher {
            name: name.into(),
            header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
                match_pattern: Some(pattern),
                ..Default::default()
            })),
            ..Default::default()
        }),
    })))
}

fn at_least(status: u32) -> AccessLogFilter {
    filter(FilterSpecifier::StatusCodeFilter(StatusCodeFilter {
        comparison: Some(ComparisonFilter {
            op: comparison_filter::Op::Ge.into(),
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
