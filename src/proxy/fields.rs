//! Reads JSON objects field by field, so that what is wrong is said with the field's name.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// What is wrong with which field.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct FieldError {
    field: String,
    problem: String,
}

/// An object that is being read. Fields nobody asks for are ignored, so that either side may be newer.
#[derive(Debug)]
pub(super) struct Fields {
    path: &'static str,
    map: Map<String, Value>,
}

// === impl FieldError ===

impl FieldError {
    pub(super) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            problem: problem.into(),
        }
    }
}

// === impl Fields ===

impl Fields {
    /// Reads an object; `name` is what it is called where it is none.
    pub(super) fn parse(text: &[u8], name: &str) -> Result<Self, FieldError> {
        let value = serde_json::from_slice(text)
            .map_err(|error| FieldError::new(name, format!("must be a JSON object: {error}")))?;
        Self::of(value, "", name)
    }

    fn of(value: Value, path: &'static str, name: &str) -> Result<Self, FieldError> {
        match value {
            Value::Object(map) => Ok(Self { path, map }),
            _ => Err(FieldError::new(name, "must be a JSON object")),
        }
    }

    /// An object within this one; an empty one where it is absent or null.
    pub(super) fn object(&mut self, name: &'static str) -> Result<Self, FieldError> {
        match self.map.remove(name) {
            None | Some(Value::Null) => Ok(Self {
                path: name,
                map: Map::new(),
            }),
            Some(value) => Self::of(value, name, name),
        }
    }

    /// A field; none where it is absent or null.
    pub(super) fn get<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, FieldError> {
        match self.map.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value)
                .map(Some)
                .map_err(|error| self.error(name, format!("cannot be read: {error}"))),
        }
    }

    /// A field that has to be there.
    pub(super) fn need<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, FieldError> {
        self.get(name)?.ok_or_else(|| self.error(name, "is missing"))
    }

    /// A field, or else its default, which has to be within bounds.
    pub(super) fn number<T: DeserializeOwned + PartialOrd + std::fmt::Display>(
        &mut self,
        name: &str,
        default: T,
        bounds: std::ops::RangeInclusive<T>,
    ) -> Result<T, FieldError> {
        let value = self.get(name)?.unwrap_or(default);
        if bounds.contains(&value) {
            return Ok(value);
        }
        let problem = format!("must be {} to {}", bounds.start(), bounds.end());
        Err(self.error(name, problem))
    }

    /// An error about one of the fields.
    pub(super) fn error(&self, name: &str, problem: impl Into<String>) -> FieldError {
        let field = if self.path.is_empty() {
            name.to_owned()
        } else {
            format!("{}.{name}", self.path)
        };
        FieldError::new(field, problem)
    }
}
