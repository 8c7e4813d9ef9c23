use std::{fs, path::Path};

use clap::ArgMatches;

use super::*;

fn matches(file: &str, argv: &[&str]) -> Result<ArgMatches> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("reveille.toml");
    fs::write(&path, file).unwrap();
    let (command, _) = file::with_defaults(grammar(), &path)?;
    command.try_get_matches_from(argv).map_err(|error| error::of_command_line(&error).unwrap())
}

fn wrong(file: &str) -> String {
    match matches(file, &["reveille", "dns"]) {
        Err(Error::Usage(message)) => message,
        other => panic!("{other:?}"),
    }
}

fn domain(matches: &ArgMatches) -> String {
    let (_, part) = matches.subcommand().unwrap();
    part.get_one::<reveille_api::Zone>("domain").unwrap().to_string()
}

#[test]
fn every_argument_is_as_clap_wants_it() {
    with_variables(Cli::command()).debug_assert();
}

#[test]
fn the_file_comes_before_the_default_and_after_a_flag() {
    let file = "[dns]\ndomain = \"file.example\"\nlisten = [\"127.0.0.1:1\", \"127.0.0.1:2\"]\n";
    let from_file = matches(file, &["reveille", "dns"]).unwrap();
    assert_eq!(domain(&from_file), "file.example");
    let (_, dns) = from_file.subcommand().unwrap();
    let listen: Vec<_> = dns.get_many::<std::net::SocketAddr>("listen").unwrap().collect();
    assert_eq!(listen.len(), 2);
    let flag = matches(file, &["reveille", "dns", "--domain", "flag.example"]).unwrap();
    assert_eq!(domain(&flag), "flag.example");
    assert_eq!(domain(&matches("", &["reveille", "dns"]).unwrap()), "actors.internal");
}

#[test]
fn a_key_at_the_top_is_for_every_part_and_a_section_overrides_it() {
    let file = "domain = \"all.example\"\n[router]\ndomain = \"router.example\"\n";
    assert_eq!(domain(&matches(file, &["reveille", "dns"]).unwrap()), "all.example");
    assert_eq!(domain(&matches(file, &["reveille", "up"]).unwrap()), "all.example");
    assert_eq!(domain(&matches(file, &["reveille", "router"]).unwrap()), "router.example");
}

#[test]
fn unknown_keys_and_bad_values_are_named_with_their_line_whatever_part_they_are_for() {
    let cases = [
        ("[dns]\nttl = \"5s\"\nlisen = \"x\"\n", ":3: unknown key \"lisen\" in [dns]"),
        ("[up]\nworkers = 4\n\nhtpp = \"x\"\n", ":4: unknown key \"htpp\" in [up]"),
        ("# a comment\n[bogus]\n", ":2: unknown key \"bogus\""),
        ("colour = 1\n", ":1: unknown key \"colour\""),
        ("[dns]\nlisten = [\"127.0.0.1:53\", \"there\"]\n", ":2: invalid value 'there'"),
        ("[dns]\nttl = \"soon\"\n", ":2: invalid value 'soon'"),
        ("[up]\nworkers = 0\n", ":2: invalid value '0'"),
        ("[dns]\nttl = [\"1s\", \"2s\"]\n", ":2: \"ttl\" takes one value"),
        ("[dns]\nttl = { a = 1 }\n", ":2: \"ttl\" takes a text"),
        ("[dns]\nconfig = \"x\"\n", ":2: unknown key \"config\""),
        ("[dns]\nsupervisor = 1\n", ":2: unknown key \"supervisor\""),
        ("[dns\n", ":1: "),
        ("[dns]\nttl = \"5s\"\nttl = \"6s\"\n", ":3: "),
    ];
    for (file, expected) in cases {
        let message = wrong(file);
        assert!(message.contains(expected), "{expected}: {message}");
        assert!(!message.contains('\n'), "{message}");
    }
}

#[test]
fn variables_are_named_after_part_and_flag_and_shared_ones_after_the_flag() {
    let command = with_variables(Cli::command());
    let of = |part: &str, flag: &str| {
        let part = command.find_subcommand(part).unwrap();
        let arg = part.get_arguments().find(|arg| arg.get_long() == Some(flag)).unwrap();
        arg.get_env().unwrap().to_str().unwrap().to_owned()
    };
    assert_eq!(of("dns", "listen"), "REVEILLE_DNS_LISTEN");
    assert_eq!(of("router", "access-log"), "REVEILLE_ROUTER_ACCESS_LOG");
    assert_eq!(of("up", "http"), "REVEILLE_HTTP");
    assert_eq!(of("up", "envoy"), "REVEILLE_ENVOY");
    for part in SECTIONS {
        assert_eq!(of(part, "log"), "REVEILLE_LOG");
        assert_eq!(of(part, "config"), "REVEILLE_CONFIG");
    }
}

#[test]
fn the_page_of_flags_is_up_to_date() {
    let written = include_str!("../../deploy/FLAGS.md");
    let page = crate::cli::flags::page();
    let other = page.lines().zip(written.lines()).find(|(made, written)| made != written);
    assert!(page == written, "run: reveille flags > deploy/FLAGS.md ({other:?})");
}

#[test]
fn the_file_is_looked_for_only_by_parts() {
    let argv = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
    let found = |words: &[&str]| file_of(&argv(words));
    assert_eq!(found(&["reveille", "dns", "--config", "a"]).as_deref(), Some(Path::new("a")));
    assert_eq!(found(&["reveille", "up", "--config=b"]).as_deref(), Some(Path::new("b")));
    assert_eq!(found(&["reveille", "get", "--config", "a"]), None);
    assert_eq!(found(&["reveille"]), None);
}
