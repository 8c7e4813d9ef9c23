//! Short ways to write protobuf values that Envoy's messages are full of.

use std::time::Duration;

use envoy_types::pb::{
    envoy::config::core::v3::{self as core, address, socket_address},
    google::protobuf::{self as pb, Any},
};
use prost::{Message, Name};
use reveille_api::net::Address;

/// A message with its type, for the places that take any.
pub(crate) fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

pub(crate) fn duration(duration: Duration) -> Option<pb::Duration> {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    let nanos = i32::try_from(duration.subsec_nanos()).unwrap_or_default();
    Some(pb::Duration { seconds, nanos })
}

pub(crate) fn uint32(value: u32) -> Option<pb::UInt32Value> {
    Some(pb::UInt32Value { value })
}

pub(crate) fn boolean(value: bool) -> Option<pb::BoolValue> {
    Some(pb::BoolValue { value })
}

/// Where Envoy listens or connects.
pub(crate) fn address(of: &Address) -> core::Address {
    let address = match of {
        Address::Tcp(addr) => {
            address::Address::SocketAddress(socket_address(addr.ip().to_string(), addr.port()))
        }
        Address::Name { host, port } => {
            address::Address::SocketAddress(socket_address(host.clone(), *port))
        }
        Address::Unix(path) => address::Address::Pipe(core::Pipe {
            path: path.to_string_lossy().into_owned(),
            ..Default::default()
        }),
    };
    core::Address { address: Some(address) }
}

fn socket_address(address: String, port: u16) -> core::SocketAddress {
    core::SocketAddress {
        address,
        port_specifier: Some(socket_address::PortSpecifier::PortValue(port.into())),
        ..Default::default()
    }
}
