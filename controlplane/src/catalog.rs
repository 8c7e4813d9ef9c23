//! Templates, pools, and the creation of actors: what users declare.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use reveille_api::{
    ActorKey, Ladder,
    manifest::{ActorTemplateSpec, Manifest, Spec, WorkerPoolSpec},
    proto, task,
};
use tokio::sync::oneshot;

use crate::{
    census::Census,
    clock::unix_ms,
    events::Events,
    record::{ActorRecord, PoolRecord, TemplateRecord},
    store::{
        self,
        records::{Commit, Records},
    },
};

type TemplateKey = (String, String);

/// What was declared. Read without waiting; templates and pools are written by one caller at a time, actors created by
/// many, but not while a template may be going.
pub struct Catalog {
    templates: RwLock<HashMap<TemplateKey, Arc<TemplateRecord>>>,
    pools: RwLock<BTreeMap<String, WorkerPoolSpec>>,
    writing: tokio::sync::RwLock<()>,
    census: Census,
    records: Records,
    events: Events,
    ladder: Ladder,
}

/// Why a declaration was refused. One sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value that does not fit this control plane.
    #[error("{0}")]
    Invalid(String),
    /// The actor's template is not there.
    #[error("template {name:?} does not exist in namespace {namespace:?}; apply it first")]
    NoTemplate {
        /// Where it was looked for.
        namespace: String,
        /// What was looked for.
        name: String,
    },
    /// It exists already.
    #[error("actor {:?} already exists", .0.to_string())]
    Exists(ActorKey),
    /// An actor keeps its template.
    #[error("actor {:?} has template {current:?}; delete it first to create it from another", key.to_string())]
    OtherTemplate {
        /// Which actor.
        key: ActorKey,
        /// The template it has.
        current: String,
    },
    /// Actors are made from it.
    #[error("template {name:?} still has actors ({actors}); delete them first")]
    InUse {
        /// Which template.
        name: String,
        /// How many.
        actors: usize,
    },
    /// It could not be written.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// What became of a declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is new.
    Created,
    /// It has changed.
    Configured,
    /// It was so already.
    Unchanged,
}

impl Catalog {
    /// Reads everything that was declared.
    pub fn open(records: Records, events: Events, ladder: Ladder) -> Result<Self, store::Error> {
        let templates = records.templates("")?.into_iter();
        let templates =
            templates.map(|t| ((t.namespace.clone(), t.name.clone()), Arc::new(t))).collect();
        let pools = records.pools()?.into_iter().map(|pool| (pool.name, pool.spec)).collect();
        Ok(Self {
            templates: RwLock::new(templates),
            pools: RwLock::new(pools),
            writing: Default::default(),
            census: Census::of(&records)?,
            records,
            events,
            ladder,
        })
    }

    /// How many actors are in which state.
    pub fn census(&self) -> &Census {
        &self.census
    }

    /// A template.
    pub fn template(&self, namespace: &str, name: &str) -> Option<Arc<TemplateRecord>> {
        let key = (namespace.to_owned(), name.to_owned());
        self.templates.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
    }

    /// The templates of a namespace, or all of them, by name.
    pub fn templates(&self, namespace: &str) -> Vec<Arc<TemplateRecord>> {
        let templates = self.templates.read().unwrap_or_else(PoisonError::into_inner);
        let here = |t: &&Arc<TemplateRecord>| namespace.is_empty() || t.namespace == namespace;
        let mut templates: Vec<_> = templates.values().filter(here).cloned().collect();
        templates.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        templates
    }

    /// The pools, by name.
    pub fn pools(&self) -> BTreeMap<String, WorkerPoolSpec> {
        self.pools.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether this object could be created or changed, as far as that depends on it alone.
    pub fn check(&self, manifest: &Manifest) -> Result<(), Error> {
        if let Spec::ActorTemplate(spec) = &manifest.spec {
            self.fits(spec)?;
        }
        Ok(())
    }

    /// Creates or changes one object. Also what is accepted and not acted on.
    pub async fn apply(&self, manifest: Manifest) -> Result<(Outcome, Vec<String>), Error> {
        self.check(&manifest)?;
        let namespace = manifest.namespace().unwrap_or_default().to_owned();
        let name = manifest.metadata.name;
        match manifest.spec {
            Spec::ActorTemplate(spec) => {
                Ok((self.put_template(namespace, name, *spec).await?, Vec::new()))
            }
            Spec::WorkerPool(spec) => Ok((self.put_pool(name, spec).await?, Vec::new())),
            Spec::Actor(spec) => {
                let key = ActorKey::new(&namespace, &name)
                    .map_err(|error| Error::Invalid(error.to_string()))?;
                match self.create(&key, &spec.template).await {
                    Ok(_) => Ok((Outcome::Created, Vec::new())),
                    Err(Error::Exists(_)) => {
                        let found = self.records.actor(&key)?;
                        match found.map(|stored| stored.value.template) {
                            Some(current) if current != spec.template => {
                                Err(Error::OtherTemplate { key, current })
                            }
                            _ => Ok((Outcome::Unchanged, Vec::new())),
                        }
                    }
                    Err(error) => Err(error),
                }
            }
        }
    }

    async fn put_template(
        &self,
        namespace: String,
        name: String,
        spec: ActorTemplateSpec,
    ) -> Result<Outcome, Error> {
        let _alone = self.writing.write().await;
        let current = self.template(&namespace, &name);
        let (outcome, generation, created_unix_ms) = match &current {
            Some(current) if current.spec == spec => return Ok(Outcome::Unchanged),
            Some(current) => (Outcome::Configured, current.generation + 1, current.created_unix_ms),
            None => (Outcome::Created, 1, unix_ms()),
        };
        let record = TemplateRecord { namespace, name, generation, created_unix_ms, spec };
        self.records.put_template(&record).await?;
        let key = (record.namespace.clone(), record.name.clone());
        let mut templates = self.templates.write().unwrap_or_else(PoisonError::into_inner);
        templates.insert(key, Arc::new(record));
        Ok(outcome)
    }

    async fn put_pool(&self, name: String, spec: WorkerPoolSpec) -> Result<Outcome, Error> {
        let _alone = self.writing.write().await;
        let outcome = match self.pools().get(&name) {
            Some(current) if *current == spec => return Ok(Outcome::Unchanged),
            Some(_) => Outcome::Configured,
            None => Outcome::Created,
        };
        let record = PoolRecord { name, spec };
        self.records.put_pool(&record).await?;
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        pools.insert(record.name, record.spec);
        Ok(outcome)
    }

    /// Creates an actor. It does not run until something wants it.
    pub async fn create(&self, key: &ActorKey, template: &str) -> Result<ActorRecord, Error> {
        // No template is deleted meanwhile.
        let _with_others = self.writing.read().await;
        if self.template(key.namespace(), template).is_none() {
            let (namespace, name) = (key.namespace().to_owned(), template.to_owned());
            return Err(Error::NoTemplate { namespace, name });
        }
        let record = ActorRecord::new(key.clone(), template.to_owned(), unix_ms());
        match self.counted(key, self.records.create_actor(record)?).await {
            Ok(()) => {}
            Err(store::Error::Conflict { .. }) => return Err(Error::Exists(key.clone())),
            Err(error) => return Err(error.into()),
        }
        let gone = || store::Error::Closed;
        let record = self.records.actor(key)?.ok_or_else(gone)?.value;
        self.events.created(key, record.life.epoch, template);
        Ok(record)
    }

    /// Sees to it that an actor is counted once it is there, also when nobody waits for that any more.
    async fn counted(&self, key: &ActorKey, created: Commit) -> Result<(), store::Error> {
        let (census, namespace) = (self.census.clone(), key.namespace().to_owned());
        let (tell, told) = oneshot::channel();
        task::detach("count", async move {
            let outcome = created.await;
            if outcome.is_ok() {
                census.begins(&namespace, proto::ActorState::Suspended);
            }
            let _ = tell.send(outcome);
        });
        told.await.unwrap_or(Err(store::Error::Closed))
    }

    /// Removes a template that no actor has. False when there is none.
    pub async fn delete_template(&self, namespace: &str, name: &str) -> Result<bool, Error> {
        let _alone = self.writing.write().await;
        if self.template(namespace, name).is_none() {
            return Ok(false);
        }
        let actors = self.records.actors(namespace)?;
        let actors = actors.iter().filter(|actor| actor.template == name).count();
        if actors > 0 {
            return Err(Error::InUse { name: name.to_owned(), actors });
        }
        self.records.remove_template(namespace, name).await?;
        let mut templates = self.templates.write().unwrap_or_else(PoisonError::into_inner);
        templates.remove(&(namespace.to_owned(), name.to_owned()));
        Ok(true)
    }

    /// Within the one ladder of timeouts that all parts were started with.
    fn fits(&self, spec: &ActorTemplateSpec) -> Result<(), Error> {
        let asked = self.ladder.admit(spec.wake.timeout, spec.wake.park);
        asked.map_err(|error| Error::Invalid(error.to_string()))
    }
}
