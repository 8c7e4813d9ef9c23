//! Starting as a clone of the template's [golden snapshot](crate::golden), which the first one to need it makes.
//!
//! ```text
//!  there is one ─────────────────────────────────────────────▶ restored: a clone
//!  none ─▶ booted in the actor's own place, as nobody ─▶ ready ─▶ endpoint closed ─▶ saved ─▶ killed, place renewed ─┘
//!            └─────────────────┴─────── a failure, of a clone too ─▶ place renewed ─▶ cold start, and word of it
//! ```
//!
//! It is made within the deadline of the wake that needs it. One that took longer than that is not tried again: an actor
//! must be able to start.

use reveille_api::{ActorKey, Epoch};

use super::{Attempt, Launched, Root, Source, chain};
use crate::{
    core::{OpError, Origin},
    files,
    golden::{Golden, NAME},
    images::Pin,
    runtime::Identity,
    slots::Lease,
    snapshots::Image,
};

impl Attempt<'_> {
    pub(super) async fn clone_or_start(
        &self,
        lease: &mut Lease,
        root: Root,
    ) -> Result<Launched, OpError> {
        let why = match self.clone_golden(lease, &root).await {
            Ok(launched) => return Ok(launched),
            Err(why) => why,
        };
        tracing::warn!(actor = %self.actor, why, "no clone of a golden snapshot; a cold start");
        let mut launched = self.serve(lease, root, Source::Nothing).await?;
        launched.reply.origin = Origin::StartWithoutGolden { why };
        Ok(launched)
    }

    async fn clone_golden(&self, lease: &mut Lease, root: &Root) -> Result<Launched, String> {
        let golden = self.golden(root).await?;
        let maker = self.core.goldens.maker(&golden);
        let mut failed = maker.lock().await;
        if let Some(why) = &*failed {
            return Err(why.clone());
        }
        // True from here on if this is cut short.
        *failed = Some("it was not made within the deadline of a wake".into());
        let image = match self.present_image(&golden).await {
            Ok(Some(image)) => Ok(image),
            Ok(None) => self.make(&golden, lease, root).await,
            Err(why) => Err(why),
        };
        let image = match image {
            Ok(image) => image,
            Err(why) => {
                *failed = Some(why.clone());
                return Err(why);
            }
        };
        *failed = None;
        drop(failed);
        match self.serve(lease, root.clone(), Source::Golden(&image)).await {
            Ok(launched) => Ok(launched),
            Err(error) => {
                let why = format!("the golden snapshot could not be restored: {error}");
                *maker.lock().await = Some(why.clone());
                let (core, golden) = (self.core.clone(), golden.clone());
                let removed = files::blocking(move || core.goldens.remove(&golden)).await;
                removed.map_err(|error| format!("{why}; nor removed: {error}"))?;
                self.clear(lease).await?;
                Err(why)
            }
        }
    }

    async fn golden(&self, root: &Root) -> Result<Golden, String> {
        let template = ActorKey::new(self.actor.namespace(), &self.request.template_name);
        let template = template.map_err(|error| error.to_string())?;
        let (digest, runtime) = (self.request.digest.clone(), self.runtime.clone());
        let (pin, directory) = (pin(root), root.layers.last().cloned());
        let golden = files::blocking(move || {
            Golden::of(template, &digest, &*runtime, pin.as_ref(), directory)
        });
        golden.await.map_err(|error| format!("the root directory cannot be read: {error}"))
    }

    async fn present_image(&self, golden: &Golden) -> Result<Option<Image>, String> {
        let (core, golden, runtime) = (self.core.clone(), golden.clone(), self.runtime.clone());
        let image = files::blocking(move || Ok(core.goldens.image(&golden, &*runtime)));
        image.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
    }

    async fn make(&self, golden: &Golden, lease: &mut Lease, root: &Root) -> Result<Image, String> {
        let made = self.boot_and_save(golden, lease, root).await;
        self.clear(lease).await?;
        made.map_err(|why| format!("the golden snapshot was not made: {why}"))?;
        tracing::info!(?golden, "a golden snapshot was made");
        let image = self.present_image(golden).await?;
        image.ok_or_else(|| "the golden snapshot is gone".into())
    }

    async fn boot_and_save(
        &self,
        golden: &Golden,
        lease: &mut Lease,
        root: &Root,
    ) -> Result<(), String> {
        let actor = ActorKey::new(self.actor.namespace(), NAME);
        let actor = actor.map_err(|error| error.to_string())?;
        let nobody = Identity { actor, epoch: Epoch::default() };
        let told = |error: OpError| error.to_string();
        let sandbox = self.sandbox(lease, root, nobody).map_err(told)?;
        let endpoint = self.endpoint(lease).await.map_err(told)?;
        self.boot(lease, &sandbox, None, endpoint).await.map_err(told)?;
        lease.close().await.map_err(|e| format!("its endpoint was not closed: {e}"))?;
        lease.end_connections(endpoint).await.map_err(|e| e.to_string())?;
        self.runtime.pause(&sandbox.id).await.map_err(|error| chain(&error))?;
        let goldens = &self.core.goldens;
        let draft = goldens.begin(golden).map_err(|e| format!("no room for it: {e}"))?;
        let written = self.runtime.checkpoint(&sandbox.id, draft.dir()).await;
        written.map_err(|error| draft.why_not_written(&chain(&error)))?;
        let (core, golden, runtime) = (self.core.clone(), golden.clone(), self.runtime.clone());
        let (digest, pin) = (self.request.digest.clone(), pin(root));
        let committed =
            files::blocking(move || core.goldens.commit(&golden, draft, &digest, &*runtime, pin));
        committed.await.map_err(|e| format!("not written: {e}"))
    }

    /// Removes what there is in the actor's place.
    async fn clear(&self, lease: &mut Lease) -> Result<(), String> {
        let sandbox = self.present().clone();
        if let Some(sandbox) = sandbox {
            self.core.teardown(self.runtime, &sandbox, None, None).await;
            *self.present() = None;
        }
        lease.renew().await.map_err(|e| format!("its place could not be renewed: {e}"))
    }
}

/// The image it runs from, if it is one.
fn pin(root: &Root) -> Option<Pin> {
    root.image.as_ref().map(|image| image.pin.clone())
}
