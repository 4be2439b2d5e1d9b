//! `wsroll crd`: the CustomResourceDefinition.

use kube::CustomResourceExt as _;
use serde_json::Value;

use super::output::Format;
use crate::api::WebSocketRollout;

/// The definition as the API server takes it.
pub fn definition() -> anyhow::Result<Value> {
    let mut definition = serde_json::to_value(WebSocketRollout::crd())?;
    strip_unsigned_formats(&mut definition);
    Ok(definition)
}

/// The definition as YAML.
pub fn yaml() -> anyhow::Result<String> {
    Format::Yaml.render(&definition()?)
}

/// Removes `format: uint*`: schemars writes them, OpenAPI does not know them, and the API server warns about each.
fn strip_unsigned_formats(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let unsigned = |format: &Value| format.as_str().is_some_and(|format| format.starts_with("uint"));
            if fields.get("format").is_some_and(unsigned) {
                fields.remove("format");
            }
            fields.values_mut().for_each(strip_unsigned_formats);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_unsigned_formats),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The most that `kubectl apply` can keep in its annotation.
    const LAST_APPLIED_LIMIT: usize = 262_144;

    #[test]
    fn no_unsigned_format_is_left() {
        assert!(!yaml().unwrap().contains("uint"));
    }

    #[test]
    fn a_plain_apply_takes_it() {
        let size = serde_json::to_string(&definition().unwrap()).unwrap().len();
        assert!(size < LAST_APPLIED_LIMIT, "{size} bytes");
    }

    #[test]
    fn the_yaml_says_what_the_definition_says() {
        let read: Value = serde_saphyr::from_str(&yaml().unwrap()).unwrap();
        assert_eq!(read, definition().unwrap());
        assert_eq!(read["metadata"]["name"], "websocketrollouts.wsroll.dev");
    }
}
