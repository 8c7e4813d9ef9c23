//! [`Process`]: how an image wants its program to run.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::PathBuf,
};

use reveille_api::manifest::template::{ActorTemplateSpec, EnvVar};
use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use super::{Error, document::Execution, tree::is_whiteout};
use crate::runtime::User;

/// Longest list of users or groups that is read.
const MAX_LINES: usize = 100_000;

/// See the module. Without an image nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Process {
    command: Vec<String>,
    env: Vec<EnvVar>,
    pub(crate) directory: Option<String>,
    pub(crate) user: User,
}

impl Process {
    /// `layers` are those of the image, the uppermost first.
    pub(super) fn of(execution: Option<Execution>, layers: &[PathBuf]) -> Result<Self, Error> {
        let Execution { user, env, entrypoint, cmd, working_dir } = execution.unwrap_or_default();
        let mut command = entrypoint.unwrap_or_default();
        command.extend(cmd.unwrap_or_default());
        let variable = |text: String| {
            let (name, value) = text.split_once('=')?;
            Some(EnvVar { name: name.into(), value: value.into() })
        };
        let env: Vec<_> = env.unwrap_or_default().into_iter().filter_map(variable).collect();
        let values = env.iter().map(|var| &var.value).chain(env.iter().map(|var| &var.name));
        let mut texts = values.chain(&command).chain(&working_dir);
        if texts.any(|text| text.contains('\0')) {
            return Err(Error::bad("its configuration has a NUL byte"));
        }
        let directory = working_dir.filter(|dir| dir.starts_with('/'));
        let user = user_of(user.as_deref().unwrap_or_default(), layers)?;
        Ok(Self { command, env, directory, user })
    }

    /// What is run: the template's own, if it says so.
    pub(crate) fn command(&self, spec: &ActorTemplateSpec) -> Vec<String> {
        if spec.command.is_empty() { self.command.clone() } else { spec.command.clone() }
    }

    /// The template's variables, and those of the image that it does not set.
    pub(crate) fn env(&self, spec: &ActorTemplateSpec) -> Vec<EnvVar> {
        let said = |var: &&EnvVar| spec.env.iter().any(|own| own.name == var.name);
        let mut env: Vec<_> = self.env.iter().filter(|var| !said(var)).cloned().collect();
        env.extend(spec.env.iter().cloned());
        env
    }
}

/// `user`, `user:group`, each by name or number.
fn user_of(text: &str, layers: &[PathBuf]) -> Result<User, Error> {
    if text.is_empty() {
        return Ok(User::default());
    }
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let number = user.parse::<u32>().ok();
    let known = find(layers, "etc/passwd", |fields| {
        let [name, _, uid, gid, ..] = fields else { return None };
        let (uid, gid) = (uid.parse::<u32>().ok()?, gid.parse::<u32>().ok()?);
        (*name == user || number == Some(uid)).then(|| (uid, gid, (*name).to_owned()))
    })?;
    let (uid, gid, name) = match (known, number) {
        (Some(known), _) => known,
        (None, Some(uid)) => (uid, 0, user.to_owned()),
        (None, None) => {
            return Err(Error::bad(format!(
                "it wants to run as the user {user:?}, whom its /etc/passwd does not have"
            )));
        }
    };
    let mut groups = Vec::new();
    let mut named = group.and_then(|group| group.parse().ok());
    each(layers, "etc/group", |fields| {
        let [title, _, gid, members, ..] = fields else { return };
        let Ok(gid) = gid.parse() else { return };
        if named.is_none() && group == Some(*title) {
            named = Some(gid);
        }
        if members.split(',').any(|member| member == name) {
            groups.push(gid);
        }
    })?;
    match (group, named) {
        // Of a group that is named the others do not follow.
        (Some(_), Some(gid)) => Ok(User { uid, gid, groups: Vec::new() }),
        (Some(group), None) => Err(Error::bad(format!(
            "it wants to run in the group {group:?}, which its /etc/group does not have"
        ))),
        (None, _) => Ok(User { uid, gid, groups }),
    }
}

/// The first line that says something.
fn find<T>(
    layers: &[PathBuf],
    path: &str,
    says: impl Fn(&[&str]) -> Option<T>,
) -> Result<Option<T>, Error> {
    let mut found = None;
    each(layers, path, |fields| {
        if found.is_none() {
            found = says(fields);
        }
    })?;
    Ok(found)
}

/// Each line of a file of the image, in its fields.
fn each(layers: &[PathBuf], path: &str, mut line: impl FnMut(&[&str])) -> Result<(), Error> {
    let Some(file) = open(layers, path)? else { return Ok(()) };
    for text in BufReader::new(file).lines().take(MAX_LINES) {
        line(&text?.split(':').collect::<Vec<_>>());
    }
    Ok(())
}

/// A file as the overlay would show it. What is not an ordinary file is not there.
fn open(layers: &[PathBuf], path: &str) -> Result<Option<File>, Error> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for layer in layers {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let layer = rustix::fs::open(layer, flags, Mode::empty())?;
        let status = rustix::fs::statat(&layer, path, AtFlags::SYMLINK_NOFOLLOW);
        match status {
            Ok(status) if is_whiteout(&status) => return Ok(None),
            Ok(status) => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let opened = rustix::fs::openat2(&layer, path, flags, Mode::empty(), resolve);
                let is_file = FileType::from_raw_mode(status.st_mode) == FileType::RegularFile;
                return Ok(opened.ok().filter(|_| is_file).map(File::from));
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn user(text: &str, layers: &[PathBuf]) -> Result<(u32, u32, Vec<u32>), String> {
        let found = user_of(text, layers).map_err(|error| error.to_string())?;
        Ok((found.uid, found.gid, found.groups))
    }

    #[test]
    fn a_user_is_looked_up_where_the_image_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let [upper, lower] = ["upper", "lower"].map(|name| dir.path().join(name));
        for (layer, passwd) in [(&upper, ""), (&lower, "root:x:0:0::/:/\napp:x:7:8::/:/\n")] {
            fs::create_dir_all(layer.join("etc")).unwrap();
            if !passwd.is_empty() {
                fs::write(layer.join("etc/passwd"), passwd).unwrap();
            }
        }
        fs::write(upper.join("etc/group"), "web:x:30:root,app\nlog:x:31:app\nx\n").unwrap();
        let layers = [upper.clone(), lower];
        assert_eq!(user("", &layers), Ok((0, 0, vec![])));
        assert_eq!(user("app", &layers), Ok((7, 8, vec![30, 31])));
        assert_eq!(user("7", &layers), Ok((7, 8, vec![30, 31])));
        assert_eq!(user("app:web", &layers), Ok((7, 30, vec![])));
        assert_eq!(user("9:10", &layers), Ok((9, 10, vec![])));
        assert_eq!(user("9", &layers), Ok((9, 0, vec![])));
        assert!(user("bob", &layers).unwrap_err().contains("the user \"bob\""));
        assert!(user("app:cats", &layers).unwrap_err().contains("the group \"cats\""));

        // The upper layer's own list hides the lower one's, also when it leads elsewhere.
        std::os::unix::fs::symlink("/etc/shadow", upper.join("etc/passwd")).unwrap();
        assert!(user("app", &layers).is_err());
    }

    #[test]
    fn the_template_wins_over_the_image() {
        let execution = Execution {
            entrypoint: Some(vec!["run".into()]),
            cmd: Some(vec!["--now".into()]),
            env: Some(vec!["A=1".into(), "B=2=3".into(), "no".into()]),
            working_dir: Some("/app".into()),
            user: None,
        };
        let process = Process::of(Some(execution), &[]).unwrap();
        let spec = |more: serde_json::Value| -> ActorTemplateSpec {
            let mut spec =
                serde_json::json!({ "runtime": "gvisor", "rootfs": { "ociLayout": "/x" } });
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            serde_json::from_value(spec).unwrap()
        };
        let own = spec(serde_json::json!({}));
        assert_eq!(process.command(&own), ["run", "--now"]);
        let env = |spec: &ActorTemplateSpec| {
            let env = process.env(spec).into_iter();
            env.map(|var| format!("{}={}", var.name, var.value)).collect::<Vec<_>>()
        };
        assert_eq!(env(&own), ["A=1", "B=2=3"]);
        let said = spec(serde_json::json!({
            "command": ["other"], "env": [{ "name": "A", "value": "9" }],
        }));
        assert_eq!(process.command(&said), ["other"]);
        assert_eq!(env(&said), ["B=2=3", "A=9"]);
        assert_eq!(process.directory.as_deref(), Some("/app"));
    }
}
