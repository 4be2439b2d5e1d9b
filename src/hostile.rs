//! What nobody should send, for tests: JSON of every shape, and sound documents with something of it in any place.

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Map, Number, Value};

/// Values that have broken programs before.
fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(|n| Number::from_f64(n).map_or(Value::Null, Value::Number)),
        prop::sample::select(vec![
            Value::from(-1),
            Value::from(0),
            Value::from(i32::MAX),
            Value::from(u64::MAX),
            Value::from(i64::MIN),
            Value::from(1e308),
        ]),
        ".{0,12}".prop_map(Value::from),
        prop::sample::select(TEXTS.to_vec()).prop_map(Value::from),
        (1_usize..70_000).prop_map(|length| Value::from("x".repeat(length))),
    ]
}

const TEXTS: [&str; 16] = [
    "",
    "0",
    "-5s",
    "1s-5s",
    "99999999999999999999999999999h",
    "9999999h9999999h9999999h",
    "1e400s",
    "NaNs",
    "101%",
    "999999999999999999999%",
    "ws://",
    "ws://user:secret@chat/ws",
    "ws://[::1]:99999/",
    "http://169.254.169.254/latest/meta-data",
    "a\r\nx: y",
    "\u{0}\u{202e}\u{feff}",
];

/// JSON of every shape, small enough to try much of it.
pub(crate) fn any_json() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(4, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            prop::collection::vec(("[a-zA-Z]{0,8}", inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// A sound document with up to four places changed, taken away or repeated.
pub(crate) fn spoilt(sound: Value) -> impl Strategy<Value = Value> {
    let change = (any::<Index>(), prop::option::weighted(0.85, any_json()));
    prop::collection::vec(change, 1..5).prop_map(move |changes| {
        let mut document = sound.clone();
        for (place, value) in changes {
            let paths = paths(&document);
            if paths.is_empty() {
                break;
            }
            put(&mut document, &paths[place.index(paths.len())], value);
        }
        document
    })
}

/// JSON nested so deep that a reader without a limit runs out of stack.
pub(crate) fn deep(levels: usize) -> String {
    format!("{}1{}", "{\"a\":[".repeat(levels), "]}".repeat(levels))
}

/// JSON pointers of all values below the root.
fn paths(value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut add = |key: String, value: &Value| {
        let key = key.replace('~', "~0").replace('/', "~1");
        found.extend(paths(value).into_iter().map(|rest| format!("/{key}{rest}")));
        found.push(format!("/{key}"));
    };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| add(key.clone(), value)),
        Value::Array(items) => (0..)
            .zip(items)
            .for_each(|(n, value): (usize, _)| add(n.to_string(), value)),
        _ => {}
    }
    found
}

fn put(document: &mut Value, path: &str, value: Option<Value>) {
    let Some(value) = value else {
        let (parent, key) = path.rsplit_once('/').unwrap_or_default();
        if let Some(Value::Object(fields)) = document.pointer_mut(parent) {
            fields.remove(&key.replace("~1", "/").replace("~0", "~"));
        }
        return;
    };
    if let Some(place) = document.pointer_mut(path) {
        *place = value;
    }
}
