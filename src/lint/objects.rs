//! The objects of manifests, read as they are written.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::{Finding, Severity};
use crate::api::Span;

/// One object.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// The object as it is written.
    pub value: Value,
}

/// All objects of the files.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Objects(Vec<Object>);

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not YAML.
    #[error("failed to parse YAML")]
    Yaml(#[source] Box<serde_saphyr::Error>),
    /// A document that is no object of Kubernetes.
    #[error("document {0} has no apiVersion and kind")]
    NoObject(usize),
}

// === impl Objects ===

impl Objects {
    /// Reads the documents of one file, lists taken apart, and adds them.
    pub fn read(&mut self, text: &str) -> Result<(), Error> {
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(text).map_err(|error| Error::Yaml(Box::new(error)))?;
        for (index, document) in documents.into_iter().enumerate() {
            self.add(document, index + 1)?;
        }
        Ok(())
    }

    fn add(&mut self, document: Value, number: usize) -> Result<(), Error> {
        if document.is_null() {
            return Ok(());
        }
        let kind = document["kind"].as_str().unwrap_or_default();
        if kind.is_empty() || !document["apiVersion"].is_string() {
            return Err(Error::NoObject(number));
        }
        if let (true, Some(items)) = (kind.ends_with("List"), document["items"].as_array()) {
            return items.iter().try_for_each(|item| self.add(item.clone(), number));
        }
        self.0.push(Object { value: document });
        Ok(())
    }

    /// Objects of a kind.
    pub fn of(&self, kind: &'static str) -> impl Iterator<Item = &Object> {
        self.0.iter().filter(move |object| object.kind() == kind)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Object> {
        self.0.iter()
    }
}

// === impl Object ===

impl Object {
    /// Its kind.
    pub fn kind(&self) -> &str {
        self.value["kind"].as_str().unwrap_or_default()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.value["metadata"]["name"].as_str().unwrap_or_default()
    }

    /// Its namespace, where it names one.
    pub fn namespace(&self) -> Option<&str> {
        self.value["metadata"]["namespace"].as_str()
    }

    /// Whether both are in one namespace. Who names none is applied into whichever: into the other's, as far as can be told.
    pub fn is_beside(&self, other: &Self) -> bool {
        match (self.namespace(), other.namespace()) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        }
    }

    /// An annotation.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.value["metadata"]["annotations"][name].as_str()
    }

    /// The value at a path of names, `Null` where there is none.
    pub fn at(&self, path: &[&str]) -> &Value {
        path.iter().fold(&self.value, |value, name| &value[*name])
    }

    /// `Kind namespace/name`.
    pub fn display(&self) -> String {
        match self.namespace() {
            Some(namespace) => format!("{} {namespace}/{}", self.kind(), self.name()),
            None => format!("{} {}", self.kind(), self.name()),
        }
    }

    pub(super) fn error(&self, rule: &'static str, field: &str, problem: String, remedy: &str) -> Finding {
        self.finding(Severity::Error, rule, field, problem, remedy)
    }

    pub(super) fn warning(&self, rule: &'static str, field: &str, problem: String, remedy: &str) -> Finding {
        self.finding(Severity::Warning, rule, field, problem, remedy)
    }

    fn finding(
        &self,
        severity: Severity,
        rule: &'static str,
        field: &str,
        problem: String,
        remedy: &str,
    ) -> Finding {
        Finding {
            severity,
            object: self.display(),
            rule,
            field: field.to_owned(),
            problem,
            remedy: remedy.to_owned(),
        }
    }
}

/// Whether a label selector (`matchLabels`, `matchExpressions`) selects these labels. One that is absent selects nothing, an empty
/// one everything.
pub(super) fn selects(selector: &Value, labels: &BTreeMap<String, String>) -> bool {
    let Some(selector) = selector.as_object() else {
        return false;
    };
    let equal = |wanted: &Value| {
        let mut wanted = wanted.as_object().into_iter().flatten();
        wanted.all(|(name, value)| labels.get(name).map(String::as_str) == value.as_str())
    };
    let holds = |expression: &Value| {
        let value = expression["key"].as_str().and_then(|key| labels.get(key));
        let listed = || {
            let values = expression["values"].as_array().into_iter().flatten();
            values
                .filter_map(Value::as_str)
                .any(|v| Some(v) == value.map(String::as_str))
        };
        match expression["operator"].as_str() {
            Some("In") => listed(),
            Some("NotIn") => !listed(),
            Some("Exists") => value.is_some(),
            Some("DoesNotExist") => value.is_none(),
            _ => false,
        }
    };
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    selector.get("matchLabels").is_none_or(equal) && expressions.into_iter().flatten().all(holds)
}

/// A duration as Kubernetes' kinds write it (`30s`, `1h`). Numbers are seconds.
pub(super) fn duration(value: &Value) -> Option<Duration> {
    match value {
        Value::Number(seconds) => seconds.as_u64().map(Duration::from_secs),
        Value::String(_) => serde_json::from_value::<Span>(value.clone())
            .ok()
            .map(|span| span.0),
        _ => None,
    }
}

/// A duration as people write it, rounded to what is worth reading.
pub(super) fn short(time: Duration) -> String {
    let seconds = time.as_secs();
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (h, m, s) {
        (0, 0, 0) => format!("{}ms", time.subsec_millis()),
        (0, 0, _) => format!("{s}s"),
        (0, _, 0) => format!("{m}m"),
        (0, _, _) => format!("{m}m{s}s"),
        (_, 0, _) => format!("{h}h"),
        _ => format!("{h}h{m}m"),
    }
}
