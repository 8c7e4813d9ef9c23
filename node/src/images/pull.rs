//! [`Pulls`]: images on their way to this node.
//!
//! ```text
//!  name or index.json ─▶ manifest for this platform ─▶ configuration ─▶ each layer that is not here: unpacked, kept ─▶ image
//! ```
//!
//! One for each, whoever waits for it: a pull that takes longer than a wake may is not begun anew by the next wake.

use std::{
    collections::HashMap,
    io::{self, Read},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use reveille_api::{manifest::template::Rootfs, task};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Error, Image, Images, Layer, Pin, Process, Record, Registries,
    archive::{self, Budget},
    document::{self, Config, Descriptor, Digest, Document, Manifest},
    layout::Layout,
    registry::Registry,
    tree::Tree,
};
use crate::files;

/// Files, directories and so on of an image.
const MAX_ENTRIES: u64 = 1_000_000;
/// Indexes within one another.
const MAX_INDEXES: usize = 4;
/// How long a pull may take, however much comes.
const LIMIT: Duration = Duration::from_secs(3600);

type Outcome = Result<Image, Arc<Error>>;

/// See the module. Dropped, it ends them all.
#[derive(Debug)]
pub(crate) struct Pulls {
    registries: Registries,
    under_way: Mutex<UnderWay>,
}

#[derive(Debug, Default)]
struct UnderWay {
    pulls: HashMap<String, Shared<BoxFuture<'static, Outcome>>>,
    tasks: JoinSet<()>,
}

impl Pulls {
    pub(crate) fn new(registries: Registries) -> Self {
        Self { registries, under_way: Mutex::default() }
    }

    /// Brings an image here, or waits for the pull that is under way: the one of this digest, or what the source now says.
    /// `template` is the hash of the template for which it is resolved, if that is to last.
    pub(crate) async fn pull(
        &self,
        images: &Arc<Images>,
        source: &Rootfs,
        digest: Option<&Digest>,
        template: Option<&str>,
    ) -> Outcome {
        let name = format!("{source:?} {digest:?}");
        let pull = {
            let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            while under_way.tasks.try_join_next().is_some() {}
            match under_way.pulls.get(&name) {
                Some(pull) => pull.clone(),
                None => {
                    let pull = Pull {
                        images: images.clone(),
                        registries: self.registries.clone(),
                        source: source.clone(),
                        digest: digest.cloned(),
                    };
                    let pull = pull.run().map(|pulled| pulled.map_err(Arc::new)).boxed().shared();
                    let drive = pull.clone().map(drop);
                    task::spawn(&mut under_way.tasks, "pull", drive);
                    under_way.pulls.insert(name.clone(), pull.clone());
                    pull
                }
            }
        };
        let outcome = pull.await;
        {
            let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            // Whoever comes next wants another one: this one failed, or what it brought may be gone again.
            under_way.pulls.retain(|_, pull| pull.peek().is_none());
        }
        let image = outcome?;
        if let Some(template) = template.map(str::to_owned) {
            let (images, digest) = (images.clone(), image.pin.digest.clone());
            let resolved = files::blocking(move || images.resolve(&digest, &template)).await;
            resolved.map_err(|error| Arc::new(error.into()))?;
        }
        Ok(image)
    }
}

struct Pull {
    images: Arc<Images>,
    registries: Registries,
    source: Rootfs,
    digest: Option<Digest>,
}

/// What a pull reads from.
enum Source {
    Layout(Layout),
    Registry(Box<Registry>),
}

impl Pull {
    async fn run(self) -> Result<Image, Error> {
        let _counted = Counted::new(&self.images);
        match tokio::time::timeout(LIMIT, self.bring()).await {
            Ok(image) => image,
            Err(_) => Err(Error::Away(format!("it did not come within {LIMIT:?}"))),
        }
    }

    async fn bring(&self) -> Result<Image, Error> {
        let begin = Instant::now();
        let source = match &self.source {
            Rootfs::Image(name) => {
                let registry = self.registries.find(name, self.digest.as_ref()).await?;
                Source::Registry(Box::new(registry))
            }
            Rootfs::OciLayout(dir) | Rootfs::Directory(dir) => Source::Layout(Layout::new(dir)),
        };
        let (digest, manifest) = source.resolve(self.digest.as_ref()).await?;
        if let Some(image) = self.images.get(&digest) {
            return Ok(image);
        }
        let pin = Pin { digest, source: self.source.clone() };
        let bytes = manifest.layers.iter().map(|layer| layer.size).sum::<u64>();
        tracing::info!(image = %pin, layers = manifest.layers.len(), bytes, "an image is pulled");
        let config = Config::parse(&source.config(&manifest.config).await?, &manifest)?;
        let mut budget = Budget { bytes: self.images.limit, entries: MAX_ENTRIES };
        let mut layers = Vec::new();
        for (descriptor, diff_id) in manifest.layers.iter().zip(config.rootfs.diff_ids) {
            let bytes = match self.images.has(&diff_id) {
                Some(bytes) => {
                    budget.bytes = budget.bytes.saturating_sub(bytes);
                    bytes
                }
                None => self.layer(&source, descriptor, &diff_id, &mut budget).await?,
            };
            tracing::info!(image = %pin, layer = %diff_id, bytes, "a layer is here");
            layers.insert(0, Layer { diff_id, bytes });
        }
        let images = self.images.clone();
        let image = blocking(move || {
            let process = Process::of(config.config, &images.paths(&layers))?;
            let templates = Default::default();
            Ok(images.add(Record { pin, layers, process, templates })?)
        });
        let image = image.await?;
        tracing::info!(image = %image.pin, took = ?begin.elapsed(), "an image is here");
        Ok(image)
    }

    /// Unpacks a layer. Returns its bytes.
    async fn layer(
        &self,
        source: &Source,
        descriptor: &Descriptor,
        diff_id: &Digest,
        budget: &mut Budget,
    ) -> Result<u64, Error> {
        let stop = CancellationToken::new();
        // Whoever is not waited for any more is to stop too.
        let _stops = stop.clone().drop_guard();
        let blob = Stoppable { blob: source.layer(descriptor, stop.clone()).await?, stop };
        let (images, descriptor, diff_id) =
            (self.images.clone(), descriptor.clone(), diff_id.clone());
        let mut left = *budget;
        let unpacked = blocking(move || {
            let draft = images.draft(&diff_id)?;
            let mut tree = Tree::new(&draft.root(), &draft.trash())?;
            let bytes =
                archive::read(blob, &descriptor, &diff_id, &mut left, |budget, entry, data| {
                    tree.put(budget, &entry, data)
                })?;
            let devices = tree.finish()?;
            if devices > 0 {
                tracing::info!(layer = %diff_id, devices, "device nodes of a layer were left out");
            }
            images.keep(draft, &diff_id, bytes)?;
            Ok((bytes, left))
        });
        let (bytes, left) = unpacked.await?;
        *budget = left;
        Ok(bytes)
    }
}

impl Source {
    /// The manifest that the source, or this digest, stands for on this platform.
    async fn resolve(&self, digest: Option<&Digest>) -> Result<(Digest, Manifest), Error> {
        let mut bytes = self.document(digest).await?;
        let mut wanted = digest.cloned();
        for _ in 0..MAX_INDEXES {
            let found = Digest::of(&bytes);
            if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
                return Err(Error::bad(format!("{wanted} has other contents: they are {found}")));
            }
            match Document::parse(&bytes)? {
                Document::Manifest(manifest) => return Ok((found, manifest)),
                Document::Index(manifests) => {
                    let chosen = document::choose(&manifests)?.digest.clone();
                    bytes = self.document(Some(&chosen)).await?;
                    wanted = Some(chosen);
                }
            }
        }
        Err(Error::bad("its indexes do not come to an end"))
    }

    /// A manifest or an index.
    async fn document(&self, digest: Option<&Digest>) -> Result<Vec<u8>, Error> {
        match self {
            Self::Registry(registry) => registry.manifest(digest).await,
            Self::Layout(layout) => {
                let (layout, digest) = (layout.clone(), digest.cloned());
                blocking(move || match digest {
                    Some(digest) => layout.blob(&digest),
                    None => layout.index(),
                })
                .await
            }
        }
    }

    async fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        let bytes = match self {
            Self::Registry(registry) => registry.document(descriptor).await?,
            Self::Layout(_) => self.document(Some(&descriptor.digest)).await?,
        };
        let (wanted, found) = (&descriptor.digest, Digest::of(&bytes));
        if *wanted != found {
            return Err(Error::bad(format!("{wanted} has other contents: they are {found}")));
        }
        Ok(bytes)
    }

    async fn layer(
        &self,
        descriptor: &Descriptor,
        stop: CancellationToken,
    ) -> Result<Box<dyn Read + Send>, Error> {
        match self {
            Self::Registry(registry) => registry.layer(descriptor, stop).await,
            Self::Layout(layout) => {
                let (layout, digest) = (layout.clone(), descriptor.digest.clone());
                blocking(move || Ok(Box::new(layout.open(&digest)?) as Box<dyn Read + Send>)).await
            }
        }
    }
}

/// Counts a pull that is under way.
struct Counted(Arc<Images>);

impl Counted {
    fn new(images: &Arc<Images>) -> Self {
        images.lock().pulling += 1;
        Self(images.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.lock().pulling -= 1;
    }
}

/// Ends when nobody waits for it any more.
struct Stoppable<R> {
    blob: R,
    stop: CancellationToken,
}

impl<R: Read> Read for Stoppable<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_cancelled() {
            return Err(io::Error::other("nobody waits for it any more"));
        }
        self.blob.read(buffer)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    files::blocking(move || Ok(work())).await?
}
