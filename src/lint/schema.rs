//! What the API server would refuse: fields that the resource does not have, values out of bounds, rules between fields.

use kube::CustomResourceExt as _;
use serde_json::Value;

use super::{Finding, Object};
use crate::api::WebSocketRollout;

/// Fields that do not exist (they would be dropped without a word), and values out of their bounds.
pub(super) fn unknown_and_out_of_bounds(object: &Object, found: &mut Vec<Finding>) {
    let definition = serde_json::to_value(WebSocketRollout::crd()).unwrap_or_default();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    walk(object, "spec", &object.value["spec"], schema, found);
}

/// The rules between fields, evaluated as the API server does it.
pub(super) fn rules(object: &Object, rollout: &WebSocketRollout, found: &mut Vec<Finding>) {
    if let Err(errors) = kube::core::cel::validate_cel(rollout) {
        let told = errors.into_vec().into_iter().map(|error| {
            let remedy = "write it as `kubectl explain wsr.spec` says";
            object.error("InvalidSpec", &error.field_path, error.message, remedy)
        });
        found.extend(told);
    }
}

fn walk(object: &Object, path: &str, value: &Value, schema: &Value, found: &mut Vec<Finding>) {
    if schema["x-kubernetes-preserve-unknown-fields"] == true {
        return;
    }
    match value {
        Value::Object(fields) => {
            let Some(known) = schema["properties"].as_object() else {
                return;
            };
            for (name, value) in fields {
                let path = format!("{path}.{name}");
                match known.get(name) {
                    Some(schema) => walk(object, &path, value, schema, found),
                    None => found.push(object.error(
                        "UnknownField",
                        &path,
                        format!("there is no field {name:?}"),
                        &format!("one of {}", names(known)),
                    )),
                }
            }
        }
        Value::Array(items) => {
            length(object, path, items.len(), schema, ["minItems", "maxItems"], found);
            for (index, item) in items.iter().enumerate() {
                walk(object, &format!("{path}[{index}]"), item, &schema["items"], found);
            }
        }
        Value::String(text) => {
            let characters = text.chars().count();
            length(
                object,
                path,
                characters,
                schema,
                ["minLength", "maxLength"],
                found,
            );
        }
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or_default();
            between(object, path, number, schema, ["minimum", "maximum"], found);
        }
        Value::Null | Value::Bool(_) => {}
    }
}

fn length(
    object: &Object,
    path: &str,
    length: usize,
    schema: &Value,
    bounds: [&str; 2],
    found: &mut Vec<Finding>,
) {
    between(object, path, length as f64, schema, bounds, found);
}

fn between(
    object: &Object,
    path: &str,
    value: f64,
    schema: &Value,
    [least, most]: [&str; 2],
    found: &mut Vec<Finding>,
) {
    let least = schema[least].as_f64().filter(|least| value < *least);
    let most = schema[most].as_f64().filter(|most| value > *most);
    let remedy = match (least, most) {
        (Some(least), _) => format!("at least {least}"),
        (_, Some(most)) => format!("at most {most}"),
        _ => return,
    };
    let problem = format!("{value} is out of bounds");
    found.push(object.error("OutOfBounds", path, problem, &remedy));
}

fn names(known: &serde_json::Map<String, Value>) -> String {
    known.keys().cloned().collect::<Vec<_>>().join(", ")
}
