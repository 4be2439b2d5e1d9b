//! A script on one socket: which step it is at, what it waits for, and what that means to the session.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use super::Missed;
use super::memory::Remembered;
use crate::api::script::{Act, Message as Seen, Said, Script};
use crate::session::ledger::Unsent;
use crate::session::wire::ServerFrame;

/// A drain notice is understood in every dialect: it is JSON of this type.
const NOTICE: &str = "\"wsroll.notice\"";

/// A script that is being followed.
#[derive(Debug)]
pub(in crate::session) struct Speech {
    script: Arc<Script>,
    memory: Remembered,
    revision: Option<String>,
    /// The last number given to an answer.
    seq: u64,
    /// Where it is; `None` between sections.
    at: Option<Place>,
    /// Requests that wait for their section.
    waiting: VecDeque<Asked>,
    welcomed: bool,
}

/// A request of the session, by its id on the wire.
#[derive(Debug)]
struct Asked {
    id: String,
    reads: bool,
}

#[derive(Debug)]
struct Place {
    section: Section,
    step: usize,
    /// When the step is overdue; set when it is reached.
    until: Option<Instant>,
}

#[derive(Debug)]
enum Section {
    Open,
    Resume,
    Exchange(Asked),
    State(Asked),
}

impl Speech {
    pub(super) fn new(memory: Remembered, revision: Option<String>, seq: u64) -> Self {
        let (script, resumes) = {
            let known = memory.lock();
            (known.script.clone(), known.may_resume())
        };
        let section = if resumes { Section::Resume } else { Section::Open };
        let mut speech = Self {
            script,
            memory,
            revision,
            seq,
            at: None,
            waiting: VecDeque::new(),
            welcomed: false,
        };
        speech.enter(section);
        speech
    }

    pub(super) fn ask(&mut self, request: &Unsent) {
        self.waiting.push_back(Asked {
            id: request.id.clone(),
            reads: request.reads,
        });
    }

    fn enter(&mut self, section: Section) {
        let mut memory = self.memory.lock();
        memory.new_nonce();
        if matches!(section, Section::Exchange(_)) {
            memory.said += 1;
        }
        drop(memory);
        self.at = Some(Place {
            section,
            step: 0,
            until: None,
        });
    }

    /// Goes on to the next step that waits, and says what is to be said until there.
    pub(super) fn advance(&mut self, now: Instant, out: &mut VecDeque<Message>) -> Option<ServerFrame> {
        loop {
            let Some(place) = &mut self.at else {
                let asked = self.waiting.pop_front()?;
                self.enter(if asked.reads && !self.script.state.is_empty() {
                    Section::State(asked)
                } else {
                    Section::Exchange(asked)
                });
                continue;
            };
            let steps = place.section.steps(&self.script);
            match steps.get(place.step) {
                Some(Act::Send(payload)) => {
                    out.push_back(message(payload.fill(&*self.memory.lock())));
                    place.step += 1;
                }
                Some(Act::Expect(wanted)) => {
                    place.until.get_or_insert(now + wanted.within);
                    return None;
                }
                Some(Act::Ping { within }) => {
                    if place.until.is_none() {
                        place.until = Some(now + *within);
                        let nonce = self.memory.lock().nonce().to_owned();
                        out.push_back(Message::Ping(nonce.into()));
                    }
                    return None;
                }
                None => {
                    let section = self.at.take()?.section;
                    return Some(self.done(section));
                }
            }
        }
    }

    /// What it means that a section is through.
    fn done(&mut self, section: Section) -> ServerFrame {
        let mut memory = self.memory.lock();
        match section {
            Section::Open | Section::Resume => {
                self.welcomed = true;
                let told = memory.text("revision");
                ServerFrame::Welcome {
                    resumed: memory.welcomed(matches!(section, Section::Resume)),
                    session: memory.session(),
                    epoch: 0,
                    revision: match self.revision.take() {
                        Some(revision) => revision,
                        None => told,
                    },
                    pod: memory.text("pod"),
                    seq: self.seq,
                }
            }
            Section::Exchange(Asked { id, reads: true }) | Section::State(Asked { id, .. }) => {
                ServerFrame::State {
                    id,
                    // Whoever asked is told no more than whether it is the same: content has no business outside.
                    state: memory.same_state().into(),
                }
            }
            Section::Exchange(Asked { id, .. }) => {
                self.seq += 1;
                ServerFrame::Message {
                    seq: self.seq,
                    id: Some(id),
                }
            }
        }
    }

    pub(super) fn hear_text(&mut self, text: &str, out: &mut VecDeque<Message>) -> Option<ServerFrame> {
        if text.contains(NOTICE)
            && let notice @ ServerFrame::Notice(_) = ServerFrame::parse(text)
        {
            return Some(notice);
        }
        self.hear(&mut Seen::text(text), out);
        None
    }

    pub(super) fn hear_binary(&mut self, bytes: &[u8], out: &mut VecDeque<Message>) -> Option<ServerFrame> {
        self.hear(&mut Seen::binary(bytes), out);
        None
    }

    fn hear(&mut self, seen: &mut Seen<'_>, out: &mut VecDeque<Message>) {
        let mut memory = self.memory.lock();
        let nonce = memory.nonce().to_owned();
        let mut rules = self.script.answers.iter();
        let answer = rules.find_map(|rule| Some((rule, rule.take(seen, &*memory, &nonce)?)));
        if let Some((rule, saved)) = answer {
            memory.save(saved);
            out.extend(rule.send.as_ref().map(|payload| message(payload.fill(&*memory))));
        }
        // An answer does not use a message up: an event may be both acknowledged and waited for.
        let Some(place) = &mut self.at else { return };
        let steps = place.section.steps(&self.script);
        if let Some(Act::Expect(wanted)) = steps.get(place.step)
            && let Some(saved) = wanted.take(seen, &*memory, &nonce)
        {
            memory.save(saved);
            place.step += 1;
            place.until = None;
        }
    }

    pub(super) fn hear_pong(&mut self, payload: &[u8]) {
        let Some(place) = &mut self.at else { return };
        let steps = place.section.steps(&self.script);
        let waits = matches!(steps.get(place.step), Some(Act::Ping { .. })) && place.until.is_some();
        if waits && payload == self.memory.lock().nonce().as_bytes() {
            place.step += 1;
            place.until = None;
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.at.as_ref()?.until
    }

    pub(super) fn overdue(&self, now: Instant) -> Option<Missed> {
        let place = self.at.as_ref()?;
        (place.until? <= now).then(|| Missed(place.name(&self.script)))
    }

    pub(super) fn ended_early(&mut self) {
        let resuming = matches!(
            &self.at,
            Some(Place {
                section: Section::Resume,
                ..
            })
        );
        if resuming && !self.welcomed {
            self.memory.lock().resume_refused();
        }
    }
}

impl Place {
    fn name(&self, script: &Script) -> String {
        let (section, step) = (self.section.name(), self.step);
        let kind = match self.section.steps(script).get(step) {
            Some(Act::Ping { .. }) => "ping",
            Some(Act::Send(_)) => "send",
            Some(Act::Expect(_)) | None => "expect",
        };
        format!("{section}[{step}].{kind}")
    }
}

impl Section {
    fn steps<'a>(&self, script: &'a Script) -> &'a [Act] {
        match self {
            Self::Open => &script.open,
            Self::Resume => &script.resume,
            Self::Exchange(_) => &script.exchange,
            Self::State(_) => &script.state,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Resume => "resume",
            Self::Exchange(_) => "exchange",
            Self::State(_) => "state",
        }
    }
}

fn message(said: Said) -> Message {
    match said {
        Said::Text(text) => Message::text(text),
        Said::Binary(bytes) => Message::binary(bytes),
    }
}
