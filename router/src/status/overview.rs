//! What the control plane says of the whole fleet.
//!
//! It is asked only when somebody looks, once a second at the most however many do, and never for longer than a page may
//! take. When it does not answer, what it said last stays, with its age.

use std::{sync::Arc, time::Duration};

use reveille_api::proto::{OverviewReply, OverviewRequest, overview_client::OverviewClient};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};

use crate::router::Router;

/// An answer is shown to everybody who looks within this time.
const FRESH: Duration = Duration::from_millis(900);
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// Actors, and wakes, that are shown.
const ROWS: u32 = 50;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Overviews(Mutex<Last>);

#[derive(Clone, Debug, Default)]
struct Last {
    asked: Option<Instant>,
    told: Option<(Arc<OverviewReply>, Instant)>,
    failed: Option<String>,
}

/// What is known.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// Nothing if it never answered.
    pub(super) overview: Option<Arc<OverviewReply>>,
    pub(super) age: Duration,
    /// Why it did not answer just now.
    pub(super) failed: Option<String>,
}

impl Overviews {
    pub(super) async fn get(&self, router: &Router) -> Told {
        // Who comes while it is asked waits for that answer.
        let mut last = self.0.lock().await;
        if last.asked.is_none_or(|asked| asked.elapsed() > FRESH) {
            match ask(router).await {
                Ok(overview) => {
                    last.told = Some((Arc::new(overview), Instant::now()));
                    last.failed = None;
                }
                Err(why) => last.failed = Some(why),
            }
            last.asked = Some(Instant::now());
        }
        let Last { told, failed, .. } = last.clone();
        let age = told.as_ref().map(|(_, since)| since.elapsed()).unwrap_or_default();
        Told { overview: told.map(|(overview, _)| overview), age, failed }
    }
}

async fn ask(router: &Router) -> Result<OverviewReply, String> {
    let mut client = OverviewClient::new(router.control_plane.clone());
    let request = OverviewRequest { namespace: String::new(), rows: ROWS };
    match timeout(PATIENCE, client.get(request)).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(status.code().description().to_owned()),
        Err(_) => Err("it takes calls and says nothing".to_owned()),
    }
}
