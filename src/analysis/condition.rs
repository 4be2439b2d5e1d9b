//! Whether a CEL condition holds of an answer.

use cel::{Context, Program, Value};

use super::source::{Answer, Error};

/// Longest text of an answer that is shown.
const SHOWN: usize = 64;

/// What came of a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held {
    pub holds: bool,
    /// The answer, shortly; nothing of a webhook's body is shown.
    pub shown: String,
}

/// Evaluates a condition. What it cannot be evaluated of is an error of the source, not a failure of the version.
pub(super) fn holds(condition: &str, answer: Answer) -> Result<Held, Error> {
    let program =
        Program::compile(condition).map_err(|error| Error::Condition(shortly(&error.to_string())))?;
    let mut context = Context::default();
    let shown = match answer {
        Answer::Number(number) => {
            context.add_variable_from_value("result", number);
            format!("result is {number}")
        }
        Answer::Body(body) => {
            let value =
                cel::to_value(body).map_err(|_| Error::Unreadable("its JSON cannot be used in CEL"))?;
            context.add_variable_from_value("body", value);
            "the webhook's answer".to_owned()
        }
    };
    match program.execute(&context) {
        Ok(Value::Bool(holds)) => Ok(Held { holds, shown }),
        Ok(_) => Err(Error::Condition("it is neither true nor false".to_owned())),
        Err(error) => Err(Error::Condition(kind(&error).to_owned())),
    }
}

/// What went wrong, without the values that it went wrong with: they are the answer's.
fn kind(error: &cel::ExecutionError) -> &'static str {
    match error {
        cel::ExecutionError::NoSuchKey(_) => "the answer lacks a field that it names",
        cel::ExecutionError::UndeclaredReference(_) => "it names something else than the answer",
        _ => "it does not fit the answer",
    }
}

fn shortly(text: &str) -> String {
    text.lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(SHOWN)
        .collect()
}
