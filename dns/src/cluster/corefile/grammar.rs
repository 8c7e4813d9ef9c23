//! How CoreDNS reads a Corefile: words, lines, braces.
//!
//! ```text
//!  file      = { snippet | import | server }        server = zone { "," zone } "{" { directive } "}"
//!  directive = word { word } [ "{" { directive } "}" ]      until the line ends
//! ```
//!
//! A word may be in double quotes, with `\"` inside; `#` begins a comment where a word could begin.

use super::Error;

/// `zone:port zone … { … }`, or a snippet, whose only zone is `(name)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) keys: Vec<String>,
    pub(super) directives: Vec<Directive>,
    pub(super) line: usize,
}

/// A line of a block, without what is in braces after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Directive(Vec<String>);

impl Directive {
    pub(super) fn name(&self) -> &str {
        self.0.first().map_or("", String::as_str)
    }
}

impl Server {
    /// Zones and ports it is for.
    pub(super) fn zones(&self) -> impl Iterator<Item = (String, String)> {
        self.keys.iter().filter(|key| !key.starts_with('(')).map(|key| {
            let name = key.split_once("://").map_or(key.as_str(), |(_, rest)| rest);
            let port = |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
            let (name, port) = match name.rsplit_once(':') {
                Some((name, number)) if port(number) => (name, number),
                _ => (name, "53"),
            };
            let name = match name.trim_end_matches('.') {
                "" => ".".to_owned(),
                name => name.to_ascii_lowercase(),
            };
            (name, port.to_owned())
        })
    }

    /// Its `bind` line, as it stands.
    pub(super) fn bind(&self) -> Option<String> {
        self.directives.iter().find(|d| d.name() == "bind").map(|d| d.0.join(" "))
    }
}

struct Word {
    text: String,
    quoted: bool,
    line: usize,
}

impl Word {
    fn is(&self, text: &str) -> bool {
        !self.quoted && self.text == text
    }
}

/// Reads a Corefile.
pub(super) fn parse(text: &str) -> Result<Vec<Server>, Error> {
    let words = words(text)?;
    let mut rest = words.as_slice();
    let mut servers = Vec::new();
    while let [first, ..] = rest {
        let line = first.line;
        if first.is("import") {
            let end = rest.iter().position(|word| word.line != line).unwrap_or(rest.len());
            rest = &rest[end..];
            continue;
        }
        let keys = keys(&mut rest)?;
        let directives = block(&mut rest, line)?;
        servers.push(Server { keys, directives, line });
    }
    Ok(servers)
}

fn keys(rest: &mut &[Word]) -> Result<Vec<String>, Error> {
    let mut keys = Vec::new();
    let mut last: Option<(usize, bool)> = None;
    while let [word, tail @ ..] = *rest {
        if word.is("{") {
            *rest = tail;
            return match keys.is_empty() {
                true => Err(wrong(word.line, "a block without a zone")),
                false => Ok(keys),
            };
        }
        if word.is("}") || last.is_some_and(|(line, comma)| word.line != line && !comma) {
            let line = last.map_or(word.line, |(line, _)| line);
            return Err(wrong(line, "a zone without braces after it: write ZONE { … }"));
        }
        let more = word.text.ends_with(',');
        keys.extend(word.text.split(',').filter(|key| !key.is_empty()).map(str::to_owned));
        last = Some((word.line, more));
        *rest = tail;
    }
    let line = last.map_or(0, |(line, _)| line);
    Err(wrong(line, "a zone without braces after it: write ZONE { … }"))
}

/// What follows the opening brace, and the closing one.
fn block(rest: &mut &[Word], opened: usize) -> Result<Vec<Directive>, Error> {
    let mut directives: Vec<Directive> = Vec::new();
    let mut line = 0;
    while let [word, tail @ ..] = *rest {
        *rest = tail;
        if word.is("}") {
            return Ok(directives);
        }
        match directives.last_mut().filter(|_| word.line == line) {
            Some(_) if word.is("{") => {
                block(rest, word.line)?;
                line = 0;
            }
            Some(directive) => directive.0.push(word.text.clone()),
            None if word.is("{") => {
                return Err(wrong(word.line, "a brace that belongs to nothing"));
            }
            None => {
                directives.push(Directive(vec![word.text.clone()]));
                line = word.line;
            }
        }
    }
    Err(wrong(opened, "a block that is not closed"))
}

fn words(text: &str) -> Result<Vec<Word>, Error> {
    let mut words = Vec::new();
    let mut chars = text.chars().peekable();
    let mut line = 1;
    while let Some(c) = chars.next() {
        match c {
            '\n' => line += 1,
            c if c.is_whitespace() => {}
            '#' => while chars.next_if(|c| *c != '\n').is_some() {},
            '"' => {
                let (mut word, started) = (String::new(), line);
                loop {
                    match chars.next() {
                        None => return Err(wrong(started, "a quote that is not closed")),
                        Some('"') => break,
                        Some('\\') => match chars.next_if(|c| *c == '"') {
                            Some(quote) => word.push(quote),
                            None => word.push('\\'),
                        },
                        Some(c) => {
                            line += usize::from(c == '\n');
                            word.push(c);
                        }
                    }
                }
                words.push(Word { text: word, quoted: true, line: started });
            }
            c => {
                let mut word = String::from(c);
                while let Some(c) = chars.next_if(|c| !c.is_whitespace()) {
                    word.push(c);
                }
                words.push(Word { text: word, quoted: false, line });
            }
        }
    }
    Ok(words)
}

fn wrong(line: usize, what: &str) -> Error {
    Error::Syntax { line, what: what.to_owned() }
}
