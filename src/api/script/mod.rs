//! `spec.probes.script`: what probes say and hear, step by step. Here are the words of it; [`compile`](Script::compile) makes
//! of them what a session can follow, or says which step is wrong. Pure: the ready-made dialects are scripts like any other.

mod compiled;
mod expression;
mod ready;
mod template;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::quantity::Span;

pub use compiled::{Act, Rule, Saved, Script, ScriptError, Wanted};
pub use expression::{Expression, Message};
pub use ready::{Ready, ready};
pub use template::{Names, Payload, Said};

/// What probes say and hear. A section is a list of steps, taken one after the other.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProbeScript {
    /// Said on a new session's socket, until it may be used. Empty: the upgrade is enough.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 12))]
    pub open: Vec<ScriptStep>,
    /// Said instead of `open` on every later socket, to get the session back. It is passed over while a value that it sends was not saved. The saved value `resumed` says whether the session was found. Refused twice in a row, the session is opened anew and counts as lost. Empty: as `open`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 12))]
    pub resume: Vec<ScriptStep>,
    /// The health check, said each second: the answer is the first message that must come back after a reconnect.
    #[schemars(length(min = 1, max = 12))]
    pub exchange: Vec<ScriptStep>,
    /// Reads what must survive a reconnect into the saved value `state`; it is compared byte for byte with what was read first. Absent: nothing is compared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 12))]
    pub state: Vec<ScriptStep>,
    /// Messages that are answered whenever they come: the service's own pings.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub answers: Vec<ScriptAnswer>,
}

/// One step: exactly one of `send`, `expect` and `ping`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("(has(self.send) ? 1 : 0) + (has(self.expect) ? 1 : 0) + (has(self.ping) ? 1 : 0) == 1").message("a step has exactly one of send, expect and ping; split it into steps"))]
pub struct ScriptStep {
    /// A message to send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send: Option<ScriptSend>,
    /// A message to wait for. Others that come before it are passed over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<ScriptExpect>,
    /// A ping of WebSocket itself, and its pong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ping: Option<ScriptPing>,
}

/// A message: exactly one of `text`, `json` and `base64`. `${name}` stands for `session`, `nonce`, `n`, `place`, `token` and every saved value; `$${` for itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(validation = Rule::new("(has(self.text) ? 1 : 0) + (has(self.json) ? 1 : 0) + (has(self.base64) ? 1 : 0) == 1").message("send has exactly one of text, json and base64; keep one of them"))]
pub struct ScriptSend {
    /// A text message. Of a text with several lines, a line that names a value which is not there is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub text: Option<String>,
    /// A text message, written as an object. A member that names a value which is not there is left out; a text that is nothing but one `${name}` becomes the saved value with its type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_object")]
    pub json: Option<Value>,
    /// Put before the text of `json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub prefix: Option<String>,
    /// A binary message, in base64; `${name}` between two pieces puts the text of a value there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8192))]
    pub base64: Option<String>,
}

/// A message to wait for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScriptExpect {
    /// A CEL expression that holds for the message, over `text`, `json`, `binary`, `vars` (what was saved) and `nonce`.
    #[schemars(length(min = 1, max = 1024))]
    pub that: String,
    /// How long it may take.
    #[serde(default = "default_within")]
    pub within: Span,
    /// Values to take from it: a name, and a CEL expression. Some names mean something: `session`, `resumed`, `state`, `revision`, `pod`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 1024)))]
    pub save: BTreeMap<String, String>,
}

/// A ping of WebSocket itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScriptPing {
    /// How long the pong may take.
    #[serde(default = "default_within")]
    pub within: Span,
}

/// A message that is answered whenever it comes; one of several that fit is the first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ScriptAnswer {
    /// A CEL expression that holds for the message, as in `expect.that`.
    #[schemars(length(min = 1, max = 1024))]
    pub when: String,
    /// What is sent back; absent: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub send: Option<ScriptSend>,
    /// Values to take from it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 1024)))]
    pub save: BTreeMap<String, String>,
}

fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "object", "x-kubernetes-preserve-unknown-fields": true})
}

const fn default_within() -> Span {
    Span::secs(5)
}
