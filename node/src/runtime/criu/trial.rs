//! What `reveille doctor` tries: the whole way of a container.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use reveille_api::{ActorKey, Epoch, manifest::template::Resources};

use super::Criu;
use crate::{
    files,
    runtime::{Error, Identity, Runtime, Sandbox, User},
    slots::Netns,
};

impl Criu {
    /// Starts a container without a network, saves it and brings it back. The caller sweeps.
    pub(crate) async fn try_out(&self) -> Result<(), Error> {
        let image = self.places.memory.join("trial");
        files::create_private_dir(&image).map_err(Error::file("create", &image))?;
        let null = Path::new("/dev/null");
        let output = File::options().write(true).open(null).map_err(Error::file("open", null))?;
        let output = Arc::new(output);
        let netns = async || {
            Netns::create().await.map_err(Error::file("make a network namespace for", &image))
        };
        let (first, second) = (netns().await?, netns().await?);
        let actor = ActorKey::new("reveille", "trial");
        let actor = actor.map_err(|error| Error::Unsupported(error.to_string()))?;
        let identity = Identity { actor, epoch: Epoch::default() };
        let sandbox = |netns: &Netns| Sandbox {
            id: format!("{}trial", self.places.prefix),
            identity: identity.clone(),
            image_of: None,
            command: vec!["sleep".into(), "60".into()],
            env: Vec::new(),
            directory: "/".into(),
            user: User::default(),
            layers: vec![PathBuf::from("/")],
            limits: Resources::default(),
            netns: netns.path(),
            output: Arc::clone(&output),
        };
        let before = sandbox(&first);
        self.start(&before).await?;
        self.pause(&before.id).await?;
        self.checkpoint(&before.id, &image).await?;
        self.kill(&before.id).await?;
        self.discard(&before.id).await?;
        self.restore(&sandbox(&second), &image).await.map(drop)
    }
}
