//! Where the front's addresses come from, and that they change.

use hickory_proto::{op::ResponseCode, rr::RecordType};
use reveille_dns::Source;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::rig::*;

async fn answers(dns: &Running, expected: &str) {
    eventually(async || {
        let reply = udp(dns.addr(), question(ACTOR, RecordType::A)).await;
        let mut told: Vec<_> = reply.answers.iter().map(|a| a.data.to_string()).collect();
        told.sort();
        match told.join(" ") {
            told if told == expected => Ok(()),
            told => Err(format!("{told:?}")),
        }
    })
    .await;
}

#[tokio::test]
async fn a_changed_file_is_answered_and_a_broken_one_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fronts");
    let dns = run(config(Source::File(path.clone()))).await;
    // Nobody may remember that there is nothing.
    let reply = udp(dns.addr(), question(ACTOR, RecordType::A)).await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    assert!(dns.get("/readyz").await.starts_with("HTTP/1.1 503"));

    std::fs::write(&path, "10.0.0.1\n10.0.0.2 # b\n").unwrap();
    answers(&dns, "10.0.0.1 10.0.0.2").await;
    assert!(dns.get("/readyz").await.starts_with("HTTP/1.1 200"));

    for broken in ["", "10.0.0.3\nnonsense\n", "# none\n"] {
        let errors = dns.metric("reveille_dns_front_errors_total").await;
        std::fs::write(&path, broken).unwrap();
        eventually(async || match dns.metric("reveille_dns_front_errors_total").await > errors {
            true => Ok(()),
            false => Err("not noticed".into()),
        })
        .await;
        answers(&dns, "10.0.0.1 10.0.0.2").await;
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "10.0.0.4\n").unwrap();
    answers(&dns, "10.0.0.4").await;
    assert_eq!(dns.metric("reveille_dns_front_changes_total").await, 2);
    assert_eq!(dns.metric("reveille_dns_fronts{family=\"ipv4\"}").await, 1);
}

#[tokio::test]
async fn no_answer_is_empty_while_the_fronts_change() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("fronts");
    std::fs::write(&path, "10.0.0.1\n").unwrap();
    let dns = run(config(Source::File(path.clone()))).await;
    answers(&dns, "10.0.0.1").await;
    let (addr, enough) = (dns.addr(), CancellationToken::new());
    let (mut asking, last) = (JoinSet::new(), enough.clone());
    asking.spawn(async move {
        let mut asked = 0;
        while !last.is_cancelled() {
            let reply = udp(addr, question(ACTOR, RecordType::A)).await;
            assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
            assert_eq!(reply.answers.len(), 1, "{reply:?}");
            asked += 1;
        }
        asked
    });
    for n in 1..=4 {
        // Written in place, by somebody who is slow: it is seen while it is empty.
        let errors = dns.metric("reveille_dns_front_errors_total").await;
        std::fs::write(&path, "").unwrap();
        eventually(async || match dns.metric("reveille_dns_front_errors_total").await > errors {
            true => Ok(()),
            false => Err("not noticed".into()),
        })
        .await;
        std::fs::write(&path, format!("10.0.1.{n}\n")).unwrap();
        answers(&dns, &format!("10.0.1.{n}")).await;
    }
    enough.cancel();
    let asked = asking.join_next().await.unwrap().unwrap();
    assert!(asked > 4, "{asked} questions");
}

#[tokio::test]
async fn an_empty_set_of_fronts_is_not_taken() {
    let dns = start().await;
    dns.fronts.set(&[]);
    answers(&dns, "127.0.0.1").await;
    assert_eq!(dns.metric("reveille_dns_front_errors_total").await, 1);
    let error = config(Source::Given(Vec::new())).build().await.err().unwrap().to_string();
    assert!(error.contains("there must be 1"), "{error}");
}
