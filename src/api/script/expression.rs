//! CEL over one message: compiled once, evaluated without a clock, a loop of its own making or a word about what it saw.

use std::collections::{BTreeSet, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};

use cel::common::ast::{EntryExpr, Expr, IdedExpr};
use cel::extractors::This;
use cel::objects::{Key, Map};
use cel::{Context, ExecutionError, Program, Value as Cel};
use serde_json::Value;

use super::template::Names;

/// The longest expression that is compiled.
pub const MAX_EXPRESSION: usize = 1_024;
/// Loops (`all`, `map` …) within loops: the work grows with the message's size to this power.
const MAX_LOOPS: usize = 2;

/// What an expression may name.
const VARIABLES: [&str; 5] = ["text", "json", "binary", "vars", "nonce"];
/// What an expression may call, beside operators.
const FUNCTIONS: [&str; 16] = [
    "after",
    "before",
    "bytes",
    "contains",
    "double",
    "endsWith",
    "int",
    "last",
    "matches",
    "max",
    "min",
    "parse",
    "size",
    "startsWith",
    "string",
    "uint",
];

/// A compiled expression over a message. `Debug` shows its source.
pub struct Expression {
    program: Program,
    source: Box<str>,
    /// Which variables have to be made for it.
    names: BTreeSet<&'static str>,
    /// The saved values that it asks for.
    saved: BTreeSet<Box<str>>,
}

/// One message, as expressions see it. What is JSON is parsed once, and only when somebody asks.
pub struct Message<'a> {
    text: Option<&'a str>,
    binary: Option<&'a [u8]>,
    json: Option<Cel>,
}

/// Functions are the same for everybody.
static ROOT: LazyLock<Context<'static>> = LazyLock::new(|| {
    let mut context = Context::default();
    context.add_function("after", after);
    context.add_function("before", before);
    context.add_function("parse", parse);
    context.add_function("last", last);
    context
});

// === impl Expression ===

impl Expression {
    /// Compiles and checks an expression; an error says what is wrong with it.
    pub fn compile(source: &str) -> Result<Self, String> {
        if source.len() > MAX_EXPRESSION {
            return Err(format!(
                "it has {} characters, more than {MAX_EXPRESSION}",
                source.len()
            ));
        }
        // The parser is young: what trips it is a bad expression and not the end of the process.
        let program = catch_unwind(|| Program::compile(source))
            .map_err(|_| "it is no CEL expression".to_owned())?
            .map_err(|errors| format!("it is no CEL expression: {}", first_line(&errors.to_string())))?;
        let mut look = Look::default();
        look.at(program.expression(), 0)?;
        Ok(Self {
            names: look.names,
            saved: look.saved,
            source: source.into(),
            program,
        })
    }

    /// Its value for a message. `None` where it has none: a member that is not there, a comparison of unlike things.
    /// Why is not told, since the reason would quote the message.
    pub fn value(&self, message: &mut Message<'_>, vars: &dyn Names, nonce: &str) -> Option<Value> {
        to_json(&self.evaluate(message, vars, nonce)?)
    }

    /// Whether it is `true` for a message.
    pub fn holds(&self, message: &mut Message<'_>, vars: &dyn Names, nonce: &str) -> bool {
        matches!(self.evaluate(message, vars, nonce), Some(Cel::Bool(true)))
    }

    /// The saved values that it asks for.
    pub fn saved(&self) -> impl Iterator<Item = &str> {
        self.saved.iter().map(|name| &**name)
    }

    fn evaluate(&self, message: &mut Message<'_>, vars: &dyn Names, nonce: &str) -> Option<Cel> {
        let mut context = ROOT.new_inner_scope();
        for name in &self.names {
            let value = match *name {
                "text" => Cel::from(message.text.unwrap_or_default()),
                "binary" => Cel::Bytes(Arc::new(message.binary.unwrap_or_default().to_vec())),
                "json" => message.json(),
                "nonce" => Cel::from(nonce),
                _ => self.vars(vars),
            };
            context.add_variable_from_value(*name, value);
        }
        // As above: a message that trips the interpreter is one that the expression does not hold for.
        catch_unwind(AssertUnwindSafe(|| self.program.execute(&context).ok())).ok()?
    }

    fn vars(&self, vars: &dyn Names) -> Cel {
        let map: HashMap<Key, Cel> = self
            .saved
            .iter()
            .filter_map(|name| Some((Key::from(&**name), from_json(&*vars.value(name)?))))
            .collect();
        Cel::Map(Map { map: Arc::new(map) })
    }
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.source)
    }
}

// === impl Message ===

impl<'a> Message<'a> {
    /// A text message.
    pub fn text(text: &'a str) -> Self {
        Self {
            text: Some(text),
            binary: None,
            json: None,
        }
    }

    /// A binary message.
    pub fn binary(binary: &'a [u8]) -> Self {
        Self {
            text: None,
            binary: Some(binary),
            json: None,
        }
    }

    /// The message as JSON; null where it is none.
    fn json(&mut self) -> Cel {
        let text = self.text;
        self.json
            .get_or_insert_with(|| text.map_or(Cel::Null, parse_json))
            .clone()
    }
}

// === the check ===

/// What an expression names; found by walking its tree.
#[derive(Default)]
struct Look {
    names: BTreeSet<&'static str>,
    saved: BTreeSet<Box<str>>,
    /// Names that loops give to their elements.
    scope: Vec<String>,
}

impl Look {
    fn at(&mut self, expr: &IdedExpr, loops: usize) -> Result<(), String> {
        match &expr.expr {
            Expr::Literal(_) => {}
            Expr::Ident(name) => self.ident(name)?,
            Expr::Select(select) => {
                if is_vars(&select.operand) {
                    self.names.insert("vars");
                    self.saved.insert(select.field.as_str().into());
                    return Ok(());
                }
                self.at(&select.operand, loops)?;
            }
            Expr::Call(call) => {
                let operator = call.func_name.starts_with(['_', '!', '-', '@']);
                if !operator && !FUNCTIONS.contains(&&*call.func_name) {
                    return Err(format!(
                        "there is no function {:?}; there are {}",
                        call.func_name,
                        FUNCTIONS.join(", ")
                    ));
                }
                for part in call.target.as_deref().into_iter().chain(&call.args) {
                    self.at(part, loops)?;
                }
            }
            Expr::List(list) => {
                for element in &list.elements {
                    self.at(element, loops)?;
                }
            }
            Expr::Map(map) => {
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else {
                        return Err("it makes a message type, which is not supported".to_owned());
                    };
                    self.at(&entry.key, loops)?;
                    self.at(&entry.value, loops)?;
                }
            }
            Expr::Comprehension(each) => {
                if loops >= MAX_LOOPS {
                    return Err(format!("it has more than {MAX_LOOPS} loops within each other"));
                }
                self.at(&each.iter_range, loops)?;
                let outer = self.scope.len();
                self.scope.push(each.iter_var.clone());
                self.scope.extend(each.iter_var2.clone());
                self.scope.push(each.accu_var.clone());
                for part in [&each.accu_init, &each.loop_cond, &each.loop_step, &each.result] {
                    self.at(part, loops + 1)?;
                }
                self.scope.truncate(outer);
            }
            Expr::Struct(_) | Expr::Unspecified => {
                return Err("it makes a message type, which is not supported".to_owned());
            }
        }
        Ok(())
    }

    fn ident(&mut self, name: &str) -> Result<(), String> {
        if self.scope.iter().any(|known| known == name) {
            return Ok(());
        }
        match VARIABLES.iter().find(|known| **known == name) {
            Some(&"vars") => Err("a saved value is named as vars.NAME".to_owned()),
            Some(known) => {
                self.names.insert(known);
                Ok(())
            }
            None => Err(format!(
                "there is no variable {name:?}; there are {}",
                VARIABLES.join(", ")
            )),
        }
    }
}

fn is_vars(expr: &IdedExpr) -> bool {
    matches!(&expr.expr, Expr::Ident(name) if name == "vars")
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

// === functions ===

/// What follows the first `mark` in a text; empty where there is none.
fn after(This(text): This<Arc<String>>, mark: Arc<String>) -> String {
    text.split_once(mark.as_str())
        .map_or_else(String::new, |(_, rest)| rest.to_owned())
}

/// What precedes the first `mark` in a text; all of it where there is none.
fn before(This(text): This<Arc<String>>, mark: Arc<String>) -> String {
    text.split_once(mark.as_str())
        .map_or_else(|| text.to_string(), |(head, _)| head.to_owned())
}

/// A text read as JSON; null where it is none.
#[expect(
    clippy::unnecessary_wraps,
    reason = "the form that the interpreter takes for values of any type"
)]
fn parse(This(text): This<Arc<String>>) -> Result<Cel, ExecutionError> {
    Ok(parse_json(&text))
}

/// The last element of a list; null where there is none.
#[expect(
    clippy::unnecessary_wraps,
    reason = "the form that the interpreter takes for values of any type"
)]
fn last(This(list): This<Arc<Vec<Cel>>>) -> Result<Cel, ExecutionError> {
    Ok(list.last().cloned().unwrap_or(Cel::Null))
}

// === values ===

fn parse_json(text: &str) -> Cel {
    serde_json::from_str(text).map_or(Cel::Null, |value: Value| from_json(&value))
}

fn from_json(value: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(value) => Cel::Bool(*value),
        Value::Number(number) => number
            .as_i64()
            .map(Cel::Int)
            .or_else(|| number.as_u64().map(Cel::UInt))
            .unwrap_or_else(|| Cel::Float(number.as_f64().unwrap_or_default())),
        Value::String(text) => Cel::from(text.as_str()),
        Value::Array(list) => Cel::List(Arc::new(list.iter().map(from_json).collect())),
        Value::Object(members) => {
            let members = members
                .iter()
                .map(|(name, value)| (Key::from(name.as_str()), from_json(value)));
            Cel::Map(Map {
                map: Arc::new(members.collect()),
            })
        }
    }
}

/// `None` for what JSON has no word for.
fn to_json(value: &Cel) -> Option<Value> {
    Some(match value {
        Cel::Null => Value::Null,
        Cel::Bool(value) => (*value).into(),
        Cel::Int(value) => (*value).into(),
        Cel::UInt(value) => (*value).into(),
        Cel::Float(value) => serde_json::Number::from_f64(*value)?.into(),
        Cel::String(text) => text.as_str().into(),
        // Compared, and sent, as it came; base64 would serve nobody.
        Cel::Bytes(bytes) => hex::encode(bytes.as_slice()).into(),
        Cel::List(list) => Value::Array(list.iter().map(to_json).collect::<Option<_>>()?),
        Cel::Map(map) => {
            let members = map.map.iter();
            let members = members.map(|(name, value)| Some((name.to_string(), to_json(value)?)));
            Value::Object(members.collect::<Option<_>>()?)
        }
        _ => return None,
    })
}
