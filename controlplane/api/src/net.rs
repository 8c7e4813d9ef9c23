//! How the parts reach each other, and how each knows who the other is.
//!
//! | address | connection | [`Peer`] |
//! | --- | --- | --- |
//! | `unix:/path` | a socket of mode 0600 | [`Peer::Local`], by its uid: root's or our own |
//! | `IP:PORT`, `name:port`, with certificates | TLS 1.3 with a certificate on both sides | [`Peer::Certified`], by its [`Identity`] |
//! | `IP:PORT` on loopback, without | plain | [`Peer::Anybody`]: nobody, until it shows a token |
//!
//! ```text
//!  accept ─▶ handshake (bounded in number and time) ─▶ Io, with its Peer ─▶ Authorize: the table of services and roles
//!            no, foreign or expired certificate: refused          wrong role: PERMISSION_DENIED, whatever the path
//! ```
//!
//! A [`Transport`] is a part's own side of it: nothing, or the [`Tls`] of its certificate. What it listens on or connects to by
//! TCP is TLS or is refused; there is no way from one to the other.

mod address;
mod authorize;
mod exchange;
mod identity;
mod io;
mod listen;
mod roots;
#[cfg(test)]
mod tests;
mod tls;
mod transport;

pub use address::{Address, InvalidAddress};
pub use authorize::{Authorize, Authorized, named};
pub use exchange::ask;
pub use identity::{Identity, InvalidIdentity, Role};
pub use io::{Io, Peer};
pub use listen::{LONGEST_SOCKET, ListenError, Listener, SocketFile};
pub use roots::Roots;
pub use tls::{Tls, TlsError, TlsFiles};
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub use transport::simulated;
pub use transport::{Expected, NoTls, Transport};
