//! Addresses in a file. It may be renamed into its place or written there: what is found counts when the next look finds the
//! same.

use std::{convert::Infallible, net::IpAddr, path::Path, time::Duration};

use tokio::{
    fs,
    time::{MissedTickBehavior, interval},
};

use super::Fronts;

/// How often it is looked at: what changes is to be answered within a second, also when it was half written at the first look
/// and has to be found whole at two more.
const LOOK: Duration = Duration::from_millis(250);
const _: () = assert!(3 * LOOK.as_millis() < 1_000);
/// Longest file that is believed.
const LONGEST: u64 = 64 * 1024;

/// Small, and in the cache: it is read each time, so that no change of it can be missed.
pub(super) async fn follow(path: &Path, fronts: &Fronts) -> Infallible {
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Looks::default();
    loop {
        looks.tick().await;
        match last.see(read(path).await) {
            None => {}
            Some(Ok(addresses)) => fronts.set(addresses),
            Some(Err(why)) => fronts.unknown(&format!("{}: {why}", path.display())),
        }
    }
}

type Found = Result<Vec<IpAddr>, String>;

/// What was found last, and what was told last.
#[derive(Default)]
struct Looks {
    found: Option<Found>,
    told: Option<Found>,
}

impl Looks {
    /// What is to be told now: what was found twice, and not told before.
    fn see(&mut self, found: Found) -> Option<&Found> {
        let twice = self.found.as_ref() == Some(&found);
        let new = self.told.as_ref() != Some(&found);
        if twice && new {
            self.told = Some(found);
            return self.told.as_ref();
        }
        self.found = Some(found);
        None
    }
}

async fn read(path: &Path) -> Found {
    let metadata = fs::metadata(path).await.map_err(|error| error.to_string())?;
    if metadata.len() > LONGEST {
        return Err(format!("longer than {LONGEST} bytes"));
    }
    parse(&fs::read_to_string(path).await.map_err(|error| error.to_string())?)
}

fn parse(text: &str) -> Found {
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
    use std::{net::Ipv4Addr, path::PathBuf};

    use tokio::{
        task::JoinSet,
        time::{sleep, timeout},
    };

    use super::*;
    use crate::{Config, Source};

    const INSTANT: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn a_change_is_answered_at_the_second_look_whenever_it_comes() {
        let dir = tempfile::tempdir().unwrap();
        let path: PathBuf = dir.path().join("fronts");
        let listen = (Ipv4Addr::LOCALHOST, 0).into();
        let config =
            Config::new(listen, "actors.localhost".parse().unwrap(), Source::File(path.clone()));
        let fronts = config.build().await.unwrap().fronts();
        let (followed, at) = (fronts.clone(), path.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { match follow(&at, &followed).await {} });
        for n in 1..=20 {
            sleep(LOOK * 3 / 7).await;
            let address = IpAddr::from([192, 0, 2, n]);
            std::fs::write(&path, address.to_string()).unwrap();
            let answered = async {
                while !fronts.0.records.load().has_fronts(&[address]) {
                    sleep(INSTANT).await;
                }
            };
            // The clock stands still while the file is read, however slow the machine is.
            timeout(2 * LOOK + INSTANT, answered).await.expect("answered at the second look");
        }
    }

    #[test]
    fn a_half_written_file_is_not_believed_and_a_change_is_told_once() {
        let mut looks = Looks::default();
        let (half, whole) = (parse("10.0.0.1"), parse("10.0.0.17\n10.0.0.18\n"));
        let mut told = Vec::new();
        for found in [&half, &whole, &half, &whole, &whole, &whole, &half, &whole, &whole] {
            told.extend(looks.see(found.clone()).cloned());
        }
        assert_eq!(told, [whole]);
        assert_eq!(
            (looks.see(half.clone()).cloned(), looks.see(half.clone()).cloned()),
            (None, Some(half))
        );
    }

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
