//! A revision: one content of the user's pod template.

use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// Characters that make no words and are not mistaken for each other (Kubernetes' own choice, without 0, 1, 3).
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Length of a revision's hash, characters.
pub const HASH_LENGTH: usize = 10;

/// One content of the user's pod template.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// The template's hash: [`HASH_LENGTH`] characters that are fit for labels and names.
    pub hash: String,
    /// The images of all containers, init containers first, in the template's order.
    pub images: Vec<String>,
}

// === impl Revision ===

impl Revision {
    /// The revision of a user's template (`{metadata, spec}`).
    ///
    /// The hash covers the user's template only, so that neither a newer operator nor anything the operator adds
    /// to pods makes a new revision. Equal templates have equal hashes whatever the order of their fields.
    pub fn of(template: &Value) -> Self {
        Self {
            hash: hash(&canonical(template)),
            images: images(template),
        }
    }
}

/// A JSON text that is equal for equal templates: fields in order, no `null` fields (the same as absent ones in
/// Kubernetes), no white space.
pub fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write_canonical(value, &mut text);
    text
}

fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().filter(|(_, value)| !value.is_null()).collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            out.push('{');
            for (n, (name, value)) in fields.into_iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(name.as_str()).to_string());
                out.push(':');
                write_canonical(value, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                write_canonical(item, out);
            }
            out.push(']');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes())
        .chunks(2)
        .take(HASH_LENGTH)
        .map(|pair| {
            // Two bytes per character keep the bias of the remainder below 0.1 %.
            let number = pair
                .iter()
                .fold(0_usize, |sum, byte| sum * 256 + usize::from(*byte));
            char::from(ALPHABET[number % ALPHABET.len()])
        })
        .collect()
}

fn images(template: &Value) -> Vec<String> {
    ["initContainers", "containers"]
        .iter()
        .filter_map(|list| template["spec"][list].as_array())
        .flatten()
        .filter_map(|container| container["image"].as_str())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn template() -> Value {
        json!({
            "metadata": {"labels": {"app": "chat"}},
            "spec": {"initContainers": [{"name": "init", "image": "setup:1"}], "containers": [
                {"name": "chat", "image": "chat:1", "env": [{"name": "A", "value": "ä\"\n"}]},
                {"name": "log", "image": "log:2"},
            ]},
        })
    }

    #[test]
    fn a_hash_is_fit_for_labels_and_stays_what_it_is() {
        let revision = Revision::of(&template());
        assert_eq!(revision.hash.len(), HASH_LENGTH);
        assert!(revision.hash.bytes().all(|c| ALPHABET.contains(&c)));
        // A changed hash would ship every rollout of every user again.
        assert_eq!(
            Revision::of(&json!({"spec": {"containers": [{"image": "chat:1"}]}})).hash,
            "6f29n4j96k"
        );
    }

    #[test]
    fn order_and_nulls_make_no_revision() {
        let text =
            r#"{"spec":{"containers":[{"image":"chat:1","name":"chat"}],"nodeName":null},"metadata":null}"#;
        let other = r#"{"spec":{"containers":[{"name":"chat","image":"chat:1"}]}}"#;
        let [a, b] = [text, other].map(|text| Revision::of(&serde_json::from_str(text).unwrap()));
        assert_eq!(a, b);
    }

    #[test]
    fn any_change_makes_a_revision() {
        let before = Revision::of(&template());
        for change in [
            json!({"metadata": {"labels": {"app": "chat2"}}}),
            json!({"spec": {"terminationGracePeriodSeconds": 5}}),
            json!({"metadata": {"annotations": {"restarted": "now"}}}),
        ] {
            let mut changed = template();
            json_patch::merge(&mut changed, &change);
            assert_ne!(Revision::of(&changed).hash, before.hash);
        }
    }

    #[test]
    fn images_in_the_templates_order() {
        assert_eq!(Revision::of(&template()).images, ["setup:1", "chat:1", "log:2"]);
    }
}
