//! Messages with places in them: `${name}` is filled in when the message is sent.

use std::borrow::Cow;
use std::collections::BTreeSet;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value};

use super::ScriptSend;

/// Values by name: what a template is filled with.
pub trait Names {
    /// The value of this name, if there is one.
    fn value(&self, name: &str) -> Option<Cow<'_, Value>>;
}

/// The largest object that a step may send.
const MAX_JSON: usize = 8 * 1024;

/// Names that need not be saved.
pub const GIVEN: [&str; 5] = ["session", "nonce", "n", "place", "token"];

/// A message to be said, with its places.
#[derive(Debug, Clone, PartialEq)]
pub enum Payload {
    /// Text.
    Text(Template),
    /// Text that is JSON, behind a prefix.
    Json(Box<str>, Tree),
    /// Bytes.
    Binary(Vec<Piece>),
}

/// A message as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// A text message.
    Text(String),
    /// A binary message.
    Binary(Vec<u8>),
}

/// A text with places.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(Box<str>),
    Name(Box<str>),
}

/// JSON whose texts have places.
#[derive(Debug, Clone, PartialEq)]
pub enum Tree {
    /// Without a place in it.
    Value(Value),
    /// A text with places.
    Text(Template),
    /// A list.
    List(Vec<Tree>),
    /// An object.
    Object(Vec<(Box<str>, Tree)>),
}

/// A piece of a binary message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// As given.
    Bytes(Box<[u8]>),
    /// The text of a value.
    Name(Box<str>),
}

// === impl Payload ===

impl Payload {
    /// Reads a message. Every name that it has a place for goes to `names`.
    pub fn compile(send: &ScriptSend, names: &mut BTreeSet<String>) -> Result<Self, String> {
        if send.prefix.is_some() && send.json.is_none() {
            return Err("prefix stands before json, and there is none; write it into the text".to_owned());
        }
        match (&send.text, &send.json, &send.base64) {
            (Some(text), None, None) => Template::parse(text, names).map(Self::Text),
            (None, Some(json), None) => {
                let size = json.to_string().len();
                if size > MAX_JSON {
                    return Err(format!("its json has {size} bytes; use at most {MAX_JSON}"));
                }
                let prefix = send.prefix.as_deref().unwrap_or_default();
                Ok(Self::Json(prefix.into(), Tree::parse(json, names)?))
            }
            (None, None, Some(base64)) => pieces(base64, names).map(Self::Binary),
            _ => Err("it has not exactly one of text, json and base64; keep one of them".to_owned()),
        }
    }

    /// Fills the places in. A name without a value leaves its place empty.
    pub fn fill(&self, names: &dyn Names) -> Said {
        match self {
            Self::Text(template) => Said::Text(template.lines(names)),
            Self::Json(prefix, tree) => {
                let value = tree.fill(names).unwrap_or(Value::Null);
                Said::Text(format!("{prefix}{value}"))
            }
            Self::Binary(pieces) => {
                let mut bytes = Vec::new();
                for piece in pieces {
                    match piece {
                        Piece::Bytes(given) => bytes.extend_from_slice(given),
                        Piece::Name(name) => {
                            bytes.extend_from_slice(plain(names.value(name).as_deref()).as_bytes());
                        }
                    }
                }
                Said::Binary(bytes)
            }
        }
    }
}

// === impl Template ===

impl Template {
    fn parse(text: &str, names: &mut BTreeSet<String>) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('$') {
                // `$${` is how a text says `${`.
                literal.push_str(&rest[..at - 1]);
                literal.push_str("${");
                rest = &rest[at + 2..];
                continue;
            }
            literal.push_str(&rest[..at]);
            let (name, behind) = rest[at + 2..]
                .split_once('}')
                .ok_or_else(|| format!("{:?} is not closed with a brace", clip(&rest[at..])))?;
            if !is_name(name) {
                return Err(format!("${{{}}} is no name of a value", clip(name)));
            }
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal).into()));
            }
            parts.push(Part::Name(name.into()));
            names.insert(name.to_owned());
            rest = behind;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            parts.push(Part::Text(literal.into()));
        }
        Ok(Self(parts))
    }

    /// The text; of several lines, those that name a value which is not there are left out.
    fn lines(&self, names: &dyn Names) -> String {
        let (filled, whole) = self.fill(names);
        let text = |part: &Part| matches!(part, Part::Text(text) if text.contains('\n'));
        if whole || !self.0.iter().any(text) {
            return filled;
        }
        let (mut filled, mut begun, mut whole) = (String::new(), 0, true);
        for part in &self.0 {
            match part {
                Part::Name(name) => {
                    let value = names.value(name);
                    whole &= value.is_some();
                    filled.push_str(&plain(value.as_deref()));
                }
                Part::Text(text) => {
                    for piece in text.split_inclusive('\n') {
                        filled.push_str(piece);
                        if piece.ends_with('\n') {
                            if !whole {
                                filled.truncate(begun);
                            }
                            (begun, whole) = (filled.len(), true);
                        }
                    }
                }
            }
        }
        if !whole {
            filled.truncate(begun);
        }
        filled
    }

    /// The text, and whether every name had a value.
    fn fill(&self, names: &dyn Names) -> (String, bool) {
        let mut filled = String::new();
        let mut whole = true;
        for part in &self.0 {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Name(name) => {
                    let value = names.value(name);
                    whole &= value.is_some();
                    filled.push_str(&plain(value.as_deref()));
                }
            }
        }
        (filled, whole)
    }
}

// === impl Tree ===

impl Tree {
    fn parse(json: &Value, names: &mut BTreeSet<String>) -> Result<Self, String> {
        Ok(match json {
            Value::String(text) => match Template::parse(text, names)? {
                Template(parts) if !parts.iter().any(|p| matches!(p, Part::Name(_))) => {
                    let literal = parts.first().map(|part| match part {
                        Part::Text(text) | Part::Name(text) => text.to_string(),
                    });
                    Self::Value(Value::String(literal.unwrap_or_default()))
                }
                template => Self::Text(template),
            },
            Value::Array(list) => Self::List(
                list.iter()
                    .map(|e| Self::parse(e, names))
                    .collect::<Result<_, _>>()?,
            ),
            Value::Object(members) => Self::Object(
                members
                    .iter()
                    .map(|(name, value)| Ok((name.as_str().into(), Self::parse(value, names)?)))
                    .collect::<Result<_, String>>()?,
            ),
            plain => Self::Value(plain.clone()),
        })
    }

    /// `None` for a text that names a value which is not there.
    fn fill(&self, names: &dyn Names) -> Option<Value> {
        Some(match self {
            Self::Value(value) => value.clone(),
            Self::Text(template) => match &*template.0 {
                [Part::Name(name)] => names.value(name)?.into_owned(),
                _ => match template.fill(names) {
                    (text, true) => Value::String(text),
                    (_, false) => return None,
                },
            },
            Self::List(list) => Value::Array(
                list.iter()
                    .map(|tree| tree.fill(names).unwrap_or(Value::Null))
                    .collect(),
            ),
            Self::Object(members) => Value::Object(
                members
                    .iter()
                    .filter_map(|(name, tree)| Some((name.to_string(), tree.fill(names)?)))
                    .collect::<Map<_, _>>(),
            ),
        })
    }
}

/// Each piece between places is base64 of its own.
fn pieces(text: &str, names: &mut BTreeSet<String>) -> Result<Vec<Piece>, String> {
    let Template(parts) = Template::parse(text, names)?;
    parts
        .into_iter()
        .map(|part| match part {
            Part::Name(name) => Ok(Piece::Name(name)),
            Part::Text(text) => match BASE64_STANDARD.decode(text.trim()) {
                Ok(bytes) => Ok(Piece::Bytes(bytes.into())),
                Err(error) => Err(format!("{:?} is no base64: {error}", clip(&text))),
            },
        })
        .collect()
}

/// Whether this can name a saved value.
pub fn is_name(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.len() <= 32 && name.chars().all(word)
}

/// A text as it is, anything else as JSON.
fn plain(value: Option<&Value>) -> Cow<'_, str> {
    match value {
        None => "".into(),
        Some(Value::String(text)) => text.as_str().into(),
        Some(other) => other.to_string().into(),
    }
}

fn clip(text: &str) -> String {
    text.chars().take(32).collect()
}
