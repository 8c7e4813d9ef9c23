//! Addresses in a file.

use std::{convert::Infallible, net::IpAddr, path::Path, time::Duration};

use tokio::{
    fs,
    time::{MissedTickBehavior, interval},
};

use super::Fronts;

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// Longest file that is believed.
const LONGEST: u64 = 64 * 1024;

/// Small, and in the cache: it is read each time, so that no change of it can be missed.
pub(super) async fn follow(path: &Path, fronts: &Fronts) -> Infallible {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = None;
    loop {
        looks.tick().await;
        let found = read(path).await;
        if last.as_ref() == Some(&found) {
            continue;
        }
        match &found {
            Ok(addresses) => fronts.set(addresses),
            Err(why) => fronts.unknown(&format!("{}: {why}", path.display())),
        }
        last = Some(found);
    }
}

async fn read(path: &Path) -> Result<Vec<IpAddr>, String> {
    let metadata = fs::metadata(path).await.map_err(|error| error.to_string())?;
    if metadata.len() > LONGEST {
        return Err(format!("longer than {LONGEST} bytes"));
    }
    parse(&fs::read_to_string(path).await.map_err(|error| error.to_string())?)
}

fn parse(text: &str) -> Result<Vec<IpAddr>, String> {
    let mut addresses = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if !line.is_empty() {
            let wrong = |_| format!("line {}: {line:?} is no IP address", n + 1);
            addresses.push(line.parse().map_err(wrong)?);
        }
    }
    match addresses.is_empty() {
        true => Err("no address in it".into()),
        false => Ok(addresses),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_an_address_in_a_line_and_a_wrong_line_is_named() {
        let text = "# fronts\n192.0.2.1\n\n 2001:db8::1  # the other one\n";
        let expected: Vec<IpAddr> =
            vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        assert_eq!(parse(text), Ok(expected));
        assert_eq!(parse("192.0.2.1\nfront"), Err("line 2: \"front\" is no IP address".into()));
        assert!(parse("# nothing\n").is_err());
    }
}
