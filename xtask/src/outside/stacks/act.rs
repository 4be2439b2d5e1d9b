//! One server with its clients: everything works, a drain moves every session once and at pace, a crash of the
//! application is told and survived.

use std::{collections::BTreeMap, net::SocketAddr, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::{
    Client, Scene, Sees,
    front::Front,
    pace,
    told::{self, Life, Told},
};
use crate::{
    outside::{
        child::{Running, Scratch, free_address},
        order,
        proxy::Proxy,
    },
    wait::{self, Stopwatch},
};

/// Sessions of each client.
const SESSIONS: usize = 10;
/// Closes per second. Well off a whole number, so that a timer that is somewhat late puts no more into one second
/// than the rate rounded up.
const RATE: f64 = 4.2;
/// Releases in one second that fail the test. Twice the rate, for here runs a real clock on a busy machine; that
/// the pace is exact is tested where time is virtual.
const BURST: usize = 10;
/// For everything that happens by itself.
const LIMIT: Duration = Duration::from_secs(60);
/// What a drain and the death of an application look like to a client.
const SERVICE_RESTART: u16 = 1012;
/// What a drain looks like to the application.
const GOING_AWAY: u16 = 1001;

/// The parts on stage.
struct Stage<'a> {
    scene: &'a Scene<'a>,
    front: Front,
    old: Pod,
    new: Pod,
    clients: Vec<(&'a Client<'a>, Running)>,
    scratch: Scratch,
}

/// An application and its sidecar.
struct Pod {
    at: SocketAddr,
    application: Running,
    sidecar: Proxy,
}

/// Plays a scene; gives a line about it.
pub fn play(scene: &Scene<'_>, wsroll: &std::path::Path) -> Result<String> {
    let scratch = Scratch::new(scene.name)?;
    let old = Pod::start("old", scene, wsroll, &scratch)?;
    let new = Pod::start("new", scene, wsroll, &scratch)?;
    let front = Front::start(old.sidecar.address)?;
    let mut clients = Vec::new();
    for client in &scene.clients {
        let mut program = (client.program)(front.address, SESSIONS);
        let running = Running::start(&format!("client-{}", client.name), &mut program, &scratch)?;
        clients.push((client, running));
    }
    let mut stage = Stage {
        scene,
        front,
        old,
        new,
        clients,
        scratch,
    };
    let done = stage.acts();
    done.with_context(|| stage.state())
}

impl Stage<'_> {
    fn acts(&mut self) -> Result<String> {
        self.everything_works().context("before the drain")?;
        let most = self.a_drain_moves_everyone().context("the drain")?;
        self.a_crash_is_told().context("the crash")?;
        Ok(format!(
            "{} sessions of {} clients, drained at {RATE}/s (most in a second: {most}), application killed: \
             {SERVICE_RESTART} to all, all back",
            self.sessions(),
            self.clients.len()
        ))
    }

    fn everything_works(&self) -> Result<()> {
        self.until_opened(1)?;
        wait::until("all checks", LIMIT, || {
            for (client, running) in &self.clients {
                let checked = told::read(&running.output())?;
                ensure!(
                    checked.iter().any(|told| matches!(told, Told::Checked)),
                    "{} is not through",
                    client.name
                );
            }
            Ok(())
        })?;
        let open = open(&order::sessions(self.old.sidecar.drain)?);
        ensure!(
            open == Some(self.sessions()),
            "the sidecar counts {open:?} sessions"
        );
        Ok(())
    }

    fn a_drain_moves_everyone(&self) -> Result<usize> {
        self.front.switch(self.new.sidecar.address);
        let since = Stopwatch::start();
        order::drain(self.old.sidecar.drain, RATE)?;
        wait::until("every session's close", LIMIT, || {
            let lives = self.lives()?;
            let closes: usize = lives.values().map(|life| life.codes.len()).sum();
            if let Err(ahead) = pace::never_ahead(closes, since.elapsed(), RATE) {
                return Ok(Err(ahead));
            }
            ensure!(closes >= self.sessions(), "{closes} closes");
            Ok(Ok(()))
        })??;
        self.until_opened(2)?;
        self.check_codes(1)?;
        wait::until("the old sidecar empty", LIMIT, || {
            let said = order::sessions(self.old.sidecar.drain)?;
            ensure!(
                open(&said) == Some(0) && said["drain"]["state"] == "done",
                "{said}"
            );
            Ok(())
        })?;
        self.the_application_was_told()?;
        let events = order::events(self.old.sidecar.drain)?;
        let released = pace::released(&events).count();
        let named = SESSIONS * self.clients.iter().filter(|(client, _)| client.named).count();
        ensure!(
            released == named,
            "{released} releases in the events, of {named} sessions with an identity"
        );
        let most = pace::most_in_a_second(&events);
        ensure!(most <= BURST, "{most} releases in one second at {RATE}/s");
        Ok(most)
    }

    fn a_crash_is_told(&mut self) -> Result<()> {
        self.new.application.kill()?;
        wait::until("every session's second close", LIMIT, || {
            let lives = self.lives()?;
            ensure!(lives.values().all(|life| life.codes.len() == 2), "{lives:?}");
            Ok(())
        })?;
        self.check_codes(2)?;
        let refused = order::request(
            self.new.sidecar.address,
            "GET",
            "/",
            &[
                ("Connection", "Upgrade"),
                ("Upgrade", "websocket"),
                ("Sec-WebSocket-Version", "13"),
                ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ],
            "",
        )?;
        let head = refused.head.to_ascii_lowercase();
        ensure!(
            refused.status == 503 && head.contains("\r\nretry-after:"),
            "an upgrade without an application: {}",
            refused.head
        );
        self.new.application = application("new-again", self.scene, self.new.at, &self.scratch)?;
        self.until_opened(3)
    }

    /// Waits until every session has been opened so often.
    fn until_opened(&self, times: usize) -> Result<()> {
        wait::until(&format!("every session open, turn {times}"), LIMIT, || {
            let lives = self.lives()?;
            let behind: Vec<_> = lives.iter().filter(|(_, life)| life.opened != times).collect();
            ensure!(
                lives.len() == self.sessions() && behind.is_empty(),
                "{} of {} sessions known, not there: {behind:?}",
                lives.len(),
                self.sessions()
            );
            Ok(())
        })
    }

    /// Every session was closed so often, each time as it has to be.
    fn check_codes(&self, times: usize) -> Result<()> {
        for (client, running) in &self.clients {
            let (code, transport) = match client.sees {
                Sees::Code => (Some(SERVICE_RESTART), None),
                Sees::SocketIo("polling") => (None, Some("polling")),
                Sees::SocketIo(transport) => (Some(SERVICE_RESTART), Some(transport)),
            };
            for (session, life) in told::lives(&told::read(&running.output())?) {
                let told = life.codes == vec![code; times];
                let carried = transport.is_none_or(|wanted| life.transports.iter().all(|was| was == wanted));
                ensure!(
                    told && carried && !life.stale,
                    "session {session} of {}: {life:?}",
                    client.name
                );
            }
        }
        Ok(())
    }

    /// The old application saw every session end; where it sees close codes, with the one of a drain.
    fn the_application_was_told(&self) -> Result<()> {
        let codes: bool = self.clients.iter().all(|(client, _)| client.sees == Sees::Code);
        wait::until("the application's closes", LIMIT, || {
            let mut ended = 0;
            for event in told::read(&self.old.application.output())? {
                if let Told::Ended { code } = event {
                    ended += 1;
                    if codes && code != Some(GOING_AWAY) {
                        return Ok(Err(format!("the application was told {code:?}")));
                    }
                }
            }
            ensure!(ended == self.sessions(), "{ended} ended");
            Ok(Ok(()))
        })?
        .map_err(anyhow::Error::msg)
    }

    fn lives(&self) -> Result<BTreeMap<(usize, u32), Life>> {
        let mut all = BTreeMap::new();
        for (number, (client, running)) in self.clients.iter().enumerate() {
            let events = told::read(&running.output()).with_context(|| client.name)?;
            all.extend(
                told::lives(&events)
                    .into_iter()
                    .map(|(session, life)| ((number, session), life)),
            );
        }
        Ok(all)
    }

    fn sessions(&self) -> usize {
        SESSIONS * self.clients.len()
    }

    /// What the parts said last, for the message of a failure.
    fn state(&self) -> String {
        let parts = [
            ("old sidecar", self.old.sidecar.said()),
            ("new sidecar", self.new.sidecar.said()),
            ("new application", self.new.application.said()),
        ];
        let said: Vec<String> = parts
            .into_iter()
            .filter(|(_, said)| !said.is_empty())
            .map(|(name, said)| format!("{name} said:\n{said}\n"))
            .collect();
        said.concat()
    }
}

impl Pod {
    fn start(name: &str, scene: &Scene<'_>, wsroll: &std::path::Path, scratch: &Scratch) -> Result<Self> {
        let at = free_address()?;
        let application = application(name, scene, at, scratch)?;
        let settings = json!({ "session": scene.session });
        let sidecar = Proxy::sidecar(Command::new(wsroll), at, &settings, scratch)?;
        Ok(Self {
            at,
            application,
            sidecar,
        })
    }
}

fn application(name: &str, scene: &Scene<'_>, at: SocketAddr, scratch: &Scratch) -> Result<Running> {
    let mut server = Running::start(
        &format!("application-{name}"),
        &mut (scene.server)(at.port()),
        scratch,
    )?;
    wait::until(&format!("{} ready", scene.name), LIMIT, || {
        if told::read(&server.output())?
            .iter()
            .any(|told| matches!(told, Told::Ready))
        {
            return Ok(());
        }
        bail!("it said: {}", server.said())
    })?;
    server.await_listening(at)?;
    Ok(server)
}

fn open(said: &Value) -> Option<usize> {
    said["open"].as_u64().map(|open| open as usize)
}
