//! A script as sessions follow it: parsed once, shared by all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::expression::{Expression, Message};
use super::template::{GIVEN, Names, Payload, is_name};
use super::{ProbeScript, ScriptAnswer, ScriptStep};
use crate::api::quantity::Span;

/// Steps of a section at most; also what the schema says.
const MAX_STEPS: usize = 12;
/// Answers at most.
const MAX_ANSWERS: usize = 8;
/// How long a step may wait at most.
const MAX_WITHIN: Duration = Duration::from_secs(60);

/// What is wrong with a script, and in which step: `exchange[1].expect.that`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{step}: {problem}")]
pub struct ScriptError {
    /// Where in the script.
    pub step: String,
    /// What is wrong.
    pub problem: String,
}

/// A script that can be followed.
#[derive(Debug)]
pub struct Script {
    /// Until a new session may be used.
    pub open: Vec<Act>,
    /// Until an earlier session is back; empty: as `open`.
    pub resume: Vec<Act>,
    /// The health check.
    pub exchange: Vec<Act>,
    /// Reads `state`; empty: there is none.
    pub state: Vec<Act>,
    /// Answers to what may come at any time.
    pub answers: Vec<Rule>,
    /// Saved values that `resume` sends: without them there is nothing to be resumed.
    pub resume_needs: Vec<Box<str>>,
}

/// One step.
#[derive(Debug)]
pub enum Act {
    /// Says something.
    Send(Payload),
    /// Waits for something.
    Expect(Wanted),
    /// A ping, and its pong.
    Ping {
        /// How long it may take.
        within: Duration,
    },
}

/// What a step waits for.
#[derive(Debug)]
pub struct Wanted {
    /// Holds for the message.
    pub that: Expression,
    /// How long it may take.
    pub within: Duration,
    /// What is taken from it.
    pub save: Vec<(Box<str>, Expression)>,
}

/// An answer to what may come at any time.
#[derive(Debug)]
pub struct Rule {
    /// Holds for the message.
    pub when: Expression,
    /// What is said then.
    pub send: Option<Payload>,
    /// What is taken from it.
    pub save: Vec<(Box<str>, Expression)>,
}

/// What a message is to an expectation.
pub type Saved = Vec<(Box<str>, serde_json::Value)>;

/// What is collected while a script is read.
#[derive(Default)]
struct Reading {
    saved: BTreeSet<String>,
    used: Vec<(String, String)>,
}

// === impl Wanted ===

impl Wanted {
    /// What is taken from a message that fits; `None` for one that does not. A value that cannot be taken makes it one that
    /// does not fit: later steps would miss it.
    pub fn take(&self, message: &mut Message<'_>, vars: &dyn Names, nonce: &str) -> Option<Saved> {
        if !self.that.holds(message, vars, nonce) {
            return None;
        }
        take(&self.save, message, vars, nonce)
    }
}

impl Rule {
    /// What is taken from a message that fits; `None` for one that does not.
    pub fn take(&self, message: &mut Message<'_>, vars: &dyn Names, nonce: &str) -> Option<Saved> {
        if !self.when.holds(message, vars, nonce) {
            return None;
        }
        // What cannot be taken is left as it was: the answer is what matters here.
        let taken = self.save.iter();
        Some(
            taken
                .filter_map(|(name, value)| Some((name.clone(), value.value(message, vars, nonce)?)))
                .collect(),
        )
    }
}

fn take(
    save: &[(Box<str>, Expression)],
    message: &mut Message<'_>,
    vars: &dyn Names,
    nonce: &str,
) -> Option<Saved> {
    save.iter()
        .map(|(name, value)| Some((name.clone(), value.value(message, vars, nonce)?)))
        .collect()
}

// === impl Script ===

impl Script {
    /// Reads a script.
    ///
    /// # Errors
    /// All that is wrong with it, each with its step.
    pub fn compile(script: &ProbeScript) -> Result<Self, Vec<ScriptError>> {
        let mut errors = Vec::new();
        let mut reading = Reading::default();
        let mut section = |name: &str, steps: &[ScriptStep]| {
            if steps.len() > MAX_STEPS {
                errors.push(error(
                    name,
                    format!("it has more than {MAX_STEPS} steps; leave some out"),
                ));
            }
            let read = steps.iter().enumerate();
            read.filter_map(|(place, step)| {
                let at = format!("{name}[{place}]");
                reading.act(&at, step).map_err(|e| errors.push(e)).ok()
            })
            .collect()
        };
        let open: Vec<Act> = section("open", &script.open);
        let resume: Vec<Act> = section("resume", &script.resume);
        let exchange: Vec<Act> = section("exchange", &script.exchange);
        let state: Vec<Act> = section("state", &script.state);
        if script.answers.len() > MAX_ANSWERS {
            errors.push(error(
                "answers",
                format!("there are more than {MAX_ANSWERS}; leave some out"),
            ));
        }
        let answers = script.answers.iter().enumerate().filter_map(|(place, answer)| {
            let at = format!("answers[{place}]");
            reading.rule(&at, answer).map_err(|e| errors.push(e)).ok()
        });
        let answers = answers.collect();

        if !script
            .exchange
            .iter()
            .any(|s| s.expect.is_some() || s.ping.is_some())
        {
            errors.push(error(
                "exchange",
                "it waits for nothing, so that a dead service would pass; end it with expect or ping"
                    .to_owned(),
            ));
        }
        let saves_state = |steps: &[ScriptStep]| {
            let mut saved = steps.iter().filter_map(|s| s.expect.as_ref());
            saved.any(|expect| expect.save.contains_key("state"))
        };
        if !script.state.is_empty() && !saves_state(&script.state) {
            errors.push(error(
                "state",
                "it saves no value named state, so that there is nothing to compare; save one".to_owned(),
            ));
        }
        for (at, name) in &reading.used {
            if !reading.saved.contains(name) && !GIVEN.contains(&&**name) {
                errors.push(error(
                    at,
                    format!(
                        "nothing saves a value named {name:?}; there are {}",
                        GIVEN
                            .iter()
                            .copied()
                            .chain(reading.saved.iter().map(|s| &**s))
                            .collect::<Vec<_>>()
                            .join(", ")
                    ),
                ));
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let resume_needs = reading
            .used
            .iter()
            .filter(|(at, name)| at.starts_with("resume[") && !GIVEN.contains(&&**name))
            .map(|(_, name)| name.as_str().into())
            .collect();
        Ok(Self {
            open,
            resume,
            exchange,
            state,
            answers,
            resume_needs,
        })
    }
}

// === impl Reading ===

impl Reading {
    fn act(&mut self, at: &str, step: &ScriptStep) -> Result<Act, ScriptError> {
        match (&step.send, &step.expect, &step.ping) {
            (Some(send), None, None) => {
                let at = format!("{at}.send");
                self.payload(&at, send).map(Act::Send)
            }
            (None, Some(expect), None) => {
                let at = format!("{at}.expect");
                let that = self.expression(&format!("{at}.that"), &expect.that)?;
                Ok(Act::Expect(Wanted {
                    that,
                    within: within(&at, expect.within)?,
                    save: self.save(&at, &expect.save)?,
                }))
            }
            (None, None, Some(ping)) => Ok(Act::Ping {
                within: within(&format!("{at}.ping"), ping.within)?,
            }),
            _ => Err(error(
                at,
                "a step has exactly one of send, expect and ping; split it into steps".to_owned(),
            )),
        }
    }

    fn rule(&mut self, at: &str, answer: &ScriptAnswer) -> Result<Rule, ScriptError> {
        let when = self.expression(&format!("{at}.when"), &answer.when)?;
        let send = answer.send.as_ref();
        Ok(Rule {
            when,
            send: send
                .map(|send| self.payload(&format!("{at}.send"), send))
                .transpose()?,
            save: self.save(at, &answer.save)?,
        })
    }

    fn payload(&mut self, at: &str, send: &super::ScriptSend) -> Result<Payload, ScriptError> {
        let mut names = BTreeSet::new();
        let payload = Payload::compile(send, &mut names).map_err(|problem| error(at, problem))?;
        self.used
            .extend(names.into_iter().map(|name| (at.to_owned(), name)));
        Ok(payload)
    }

    fn expression(&mut self, at: &str, source: &str) -> Result<Expression, ScriptError> {
        let expression = Expression::compile(source).map_err(|problem| error(at, problem))?;
        self.used
            .extend(expression.saved().map(|name| (at.to_owned(), name.to_owned())));
        Ok(expression)
    }

    fn save(
        &mut self,
        at: &str,
        save: &BTreeMap<String, String>,
    ) -> Result<Vec<(Box<str>, Expression)>, ScriptError> {
        let mut read = Vec::new();
        for (name, source) in save {
            let at = format!("{at}.save.{name}");
            // `session` may be saved: then the service names it.
            let given = GIVEN.contains(&&**name) && name != "session";
            if !is_name(name) || given {
                let problem = "a value needs a name of its own, of letters, digits and _".to_owned();
                return Err(error(&at, problem));
            }
            read.push((name.as_str().into(), self.expression(&at, source)?));
            self.saved.insert(name.clone());
        }
        Ok(read)
    }
}

fn within(at: &str, within: Span) -> Result<Duration, ScriptError> {
    if within.0.is_zero() || within.0 > MAX_WITHIN {
        let problem = format!(
            "{:?} is out of bounds; use more than 0s, and 60s at most",
            within.0
        );
        return Err(error(&format!("{at}.within"), problem));
    }
    Ok(within.0)
}

fn error(step: &str, problem: String) -> ScriptError {
    ScriptError {
        step: step.to_owned(),
        problem,
    }
}
