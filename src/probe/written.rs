//! What a probe wrote into its session, to be found again after every move.

use std::collections::VecDeque;

use serde_json::{Value, json};

use crate::session::{Dialect, Section, Session, SessionState};

/// Services bound a history; comparing fewer entries than any of them keeps is safe.
const COMPARED: usize = 50;

const SECTIONS: [Section; 3] = [Section::Context, Section::Tools, Section::Preferences];

/// The state that a session must have.
#[derive(Debug, Default)]
pub(super) struct Written {
    texts: VecDeque<Box<str>>,
    said: u64,
    /// The service keeps no state that could be compared.
    stateless: bool,
    /// A script compares the state itself, and tells whether it is the same.
    scripted: bool,
    /// The value under [`KEY`] in every section.
    value: Option<Value>,
}

/// The key that probes write.
const KEY: &str = "wsroll";

impl Written {
    /// Nothing is written yet; in a dialect without state nothing ever is.
    pub(super) fn in_dialect(dialect: Dialect) -> Self {
        Self {
            stateless: dialect != Dialect::Session,
            scripted: dialect == Dialect::Script,
            ..Self::default()
        }
    }

    /// Says something that no other message of this session says.
    pub(super) fn say(&mut self, session: &mut Session) -> Option<u64> {
        let text = format!("probe {}", self.said + 1);
        let request = session.say(&text)?;
        self.said += 1;
        if self.stateless {
            return Some(request);
        }
        self.texts.push_back(text.into());
        if self.texts.len() > COMPARED {
            self.texts.pop_front();
        }
        Some(request)
    }

    /// Writes all parts of a state: three messages, and one value in each section.
    pub(super) fn write_all(&mut self, session: &mut Session, mark: u64) {
        for _ in 0..3 {
            self.say(session);
        }
        if self.stateless {
            return;
        }
        let value = json!({ "mark": mark });
        for section in SECTIONS {
            session.set(section, KEY, value.clone());
        }
        self.value = Some(value);
    }

    /// Whether anything was written that could be lost.
    pub(super) fn is_empty(&self) -> bool {
        self.texts.is_empty() && self.value.is_none() && !self.scripted
    }

    /// Starts over; later messages still differ from all before.
    pub(super) fn forget(&mut self) {
        self.texts.clear();
        self.value = None;
    }

    /// Compares with what the service has. The difference names parts and counts, never content.
    pub(super) fn compare(&self, found: &Value) -> Result<(), String> {
        if self.scripted && found == &Value::Bool(false) {
            return Err(
                "what the script reads differs from what it read first, or the session was not found"
                    .to_owned(),
            );
        }
        if self.stateless {
            return Ok(());
        }
        let state: SessionState = serde_json::from_value(found.clone())
            .map_err(|_| "the state is not of the expected form".to_owned())?;
        let found: Vec<&str> = state.texts().collect();
        let common = found
            .iter()
            .rev()
            .zip(self.texts.iter().rev())
            .take_while(|(a, b)| **a == &***b)
            .count();
        if common < self.texts.len() {
            return Err(format!(
                "of the last {} messages the history has {common} in place",
                self.texts.len()
            ));
        }
        let sections = [
            ("context", &state.context),
            ("tools", &state.tools),
            ("preferences", &state.preferences),
        ];
        for (name, section) in sections {
            if self.value.is_some() && section.get(KEY) != self.value.as_ref() {
                return Err(format!("the {name} section is not as written"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(texts: &[&str]) -> Written {
        Written {
            texts: texts.iter().map(|&text| text.into()).collect(),
            said: texts.len() as u64,
            stateless: false,
            scripted: false,
            value: Some(json!({"mark": 1})),
        }
    }

    fn state(texts: &[&str], mark: u64) -> Value {
        let section = json!({"wsroll": {"mark": mark}});
        let history: Vec<Value> = texts.iter().map(|text| json!({"seq": 1, "text": text})).collect();
        json!({"history": history, "context": section, "tools": section, "preferences": section, "tier": "gold"})
    }

    #[test]
    fn what_was_written_is_found_behind_older_entries() {
        let found = state(&["older", "a", "b"], 1);
        assert_eq!(written(&["a", "b"]).compare(&found), Ok(()));
    }

    #[test]
    fn a_missing_message_is_named_by_its_count() {
        let difference = written(&["a", "b"]).compare(&state(&["b"], 1)).unwrap_err();
        assert_eq!(difference, "of the last 2 messages the history has 1 in place");
        assert!(written(&["a", "b"]).compare(&state(&["b", "a"], 1)).is_err());
        assert!(written(&["a"]).compare(&json!({})).is_err());
    }

    #[test]
    fn a_section_that_differs_is_named() {
        let difference = written(&["a"]).compare(&state(&["a"], 2)).unwrap_err();
        assert_eq!(difference, "the context section is not as written");
    }
}
