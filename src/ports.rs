//! Whether a port can be listened on, and who has it if not.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener, UdpSocket},
};

/// A port held for as long as this lives: two users of one port are found too.
#[derive(Debug)]
pub(crate) enum Held {
    Tcp { _listener: TcpListener },
    Udp { _socket: UdpSocket },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

/// Why not, in words: "is in use by nginx (pid 4711)".
pub(crate) fn hold(address: SocketAddr, protocol: Protocol) -> Result<Held, String> {
    let bound = match protocol {
        Protocol::Tcp => {
            TcpListener::bind(address).map(|listener| Held::Tcp { _listener: listener })
        }
        Protocol::Udp => UdpSocket::bind(address).map(|socket| Held::Udp { _socket: socket }),
    };
    bound.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => match owner(address.port(), protocol) {
            Some(owner) => format!("is in use by {owner}"),
            None => "is in use".into(),
        },
        io::ErrorKind::AddrNotAvailable => "is not an address of this machine".into(),
        io::ErrorKind::PermissionDenied => "needs root (ports below 1024)".into(),
        _ => format!("cannot be used: {error}"),
    })
}

/// Name and pid of a process that has the port, where the kernel lets us see it.
fn owner(port: u16, protocol: Protocol) -> Option<String> {
    let tables = match protocol {
        Protocol::Tcp => ["/proc/net/tcp", "/proc/net/tcp6"],
        Protocol::Udp => ["/proc/net/udp", "/proc/net/udp6"],
    };
    let inodes: Vec<String> = tables
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| {
            table.lines().filter_map(|line| inode(line, port, protocol)).collect::<Vec<_>>()
        })
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut found = pids.filter(|pid| {
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        let mut links = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
        links.any(|link| inodes.iter().any(|inode| link.as_os_str() == inode.as_str()))
    });
    let pid = found.next()?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("{} (pid {pid})", name.trim()))
}

/// The inode of a line of `/proc/net/tcp` that listens on `port`.
fn inode(line: &str, port: u16, protocol: Protocol) -> Option<String> {
    /// State "listen" of TCP.
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let local = fields.get(1)?.rsplit_once(':')?.1;
    let right = u16::from_str_radix(local, 16).ok()? == port
        && (protocol == Protocol::Udp || *fields.get(3)? == LISTEN);
    right.then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_told_with_its_owner() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let error = hold(taken.local_addr().unwrap(), Protocol::Tcp).unwrap_err();
        let pid = std::process::id();
        assert!(
            error.starts_with("is in use by ") && error.contains(&format!("pid {pid}")),
            "{error}"
        );
        assert!(hold("198.51.100.1:80".parse().unwrap(), Protocol::Udp).is_err());
    }
}
