//! The access log: one JSON object a request, without query strings, credentials or cookies.

use std::collections::HashMap;

use envoy_types::pb::{
    envoy::{
        config::{
            accesslog::v3::{AccessLog, access_log},
            core::v3::{SubstitutionFormatString, substitution_format_string},
        },
        extensions::access_loggers::{
            file::v3::{FileAccessLog, file_access_log},
            stream::v3::{StdoutAccessLog, stdout_access_log},
        },
    },
    google::protobuf::{Any, Struct, Value, value},
};
use prost::{Message, Name};

use super::AccessLog as Target;

const FIELDS: &[(&str, &str)] = &[
    ("authority", "%REQ(:authority)%"),
    ("bytes_in", "%BYTES_RECEIVED%"),
    ("bytes_out", "%BYTES_SENT%"),
    ("client", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"),
    ("details", "%RESPONSE_CODE_DETAILS%"),
    ("duration_ms", "%DURATION%"),
    ("first_byte_ms", "%RESPONSE_DURATION%"),
    ("flags", "%RESPONSE_FLAGS%"),
    ("grpc_status", "%GRPC_STATUS%"),
    ("method", "%REQ(:method)%"),
    ("path", "%PATH(NQ)%"),
    ("protocol", "%PROTOCOL%"),
    ("reason", "%RESP(x-reveille-reason)%"),
    ("request_id", "%REQ(x-request-id)%"),
    ("request_sent_ms", "%REQUEST_TX_DURATION%"),
    ("status", "%RESPONSE_CODE%"),
    ("time", "%START_TIME%"),
    ("trace_id", "%TRACE_ID%"),
    ("upstream", "%UPSTREAM_HOST%"),
    ("wake", "%DYNAMIC_METADATA(reveille:wake)%"),
];

/// Envoy's name for each logger does not matter; its type does.
pub(super) fn access_log(target: &Target) -> Vec<AccessLog> {
    let config = match target {
        Target::Off => return Vec::new(),
        Target::Stdout => merged(StdoutAccessLog::default(), |format| StdoutAccessLog {
            access_log_format: Some(stdout_access_log::AccessLogFormat::LogFormat(format)),
        }),
        Target::File(path) => {
            let file =
                FileAccessLog { path: path.to_string_lossy().into_owned(), ..Default::default() };
            merged(file, |format| FileAccessLog {
                access_log_format: Some(file_access_log::AccessLogFormat::LogFormat(format)),
                ..Default::default()
            })
        }
    };
    vec![AccessLog {
        name: "requests".into(),
        config_type: Some(access_log::ConfigType::TypedConfig(config)),
        ..Default::default()
    }]
}

/// The format's fields are a hash map, whose encoding would differ from one process to the next. Messages
/// written one after the other are one message, merged; so each field is written as a message of its own.
fn merged<M: Message + Name>(base: M, with: impl Fn(SubstitutionFormatString) -> M) -> Any {
    let mut encoded = base.encode_to_vec();
    for (name, format) in FIELDS {
        let value = Value { kind: Some(value::Kind::StringValue((*format).into())) };
        let fields = Struct { fields: HashMap::from([((*name).to_owned(), value)]) };
        encoded.extend(
            with(SubstitutionFormatString {
                format: Some(substitution_format_string::Format::JsonFormat(fields)),
                ..Default::default()
            })
            .encode_to_vec(),
        );
    }
    Any { type_url: M::type_url(), value: encoded }
}
