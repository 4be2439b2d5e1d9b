//! Random accesses, done to a real store and to the one in memory: both answer alike.

use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use rstest::rstest;
use serde_json::json;
use session_server::store::{ClaimRequest, Lease, Store, StoreError};

use super::{
    claim_as, say, seqs, set,
    support::{Backend, Kind},
    user,
};

/// Sequences of accesses that are tried; each has up to [`STEPS`].
const CASES: u32 = 24;
const STEPS: usize = 40;
/// Sockets that take the session from each other; the last is another user's.
const SOCKETS: usize = 3;

/// An access by one of the sockets.
#[derive(Clone, Debug)]
enum Access {
    Claim {
        socket: usize,
        last: u64,
        forget: bool,
    },
    Say {
        socket: usize,
        id: u8,
        ack: u64,
    },
    Set {
        socket: usize,
        id: u8,
        key: u8,
        value: i32,
    },
    Read {
        socket: usize,
    },
    Touch {
        socket: usize,
    },
}

fn access() -> impl Strategy<Value = Access> {
    let socket = 0..SOCKETS;
    prop_oneof![
        3 => (socket.clone(), 0..8u64, proptest::bool::weighted(0.1))
            .prop_map(|(socket, last, forget)| Access::Claim { socket, last, forget }),
        6 => (socket.clone(), 0..8u8, 0..8u64).prop_map(|(socket, id, ack)| Access::Say { socket, id, ack }),
        4 => (socket.clone(), 0..8u8, 0..3u8, any::<i32>())
            .prop_map(|(socket, id, key, value)| Access::Set { socket, id, key, value }),
        2 => socket.clone().prop_map(|socket| Access::Read { socket }),
        1 => socket.prop_map(|socket| Access::Touch { socket }),
    ]
}

/// A store with the claims that its sockets had last.
struct Played<'a> {
    store: &'a Store,
    session: String,
    held: [Option<Lease>; SOCKETS],
}

impl Played<'_> {
    /// Does it, and says all that matters of the answer.
    async fn play(&mut self, access: &Access) -> String {
        let socket = match access {
            Access::Claim { socket, .. }
            | Access::Say { socket, .. }
            | Access::Set { socket, .. }
            | Access::Read { socket }
            | Access::Touch { socket } => *socket,
        };
        let identity = user(if socket + 1 == SOCKETS { "bob" } else { "ann" });
        if let Access::Claim { last, forget, .. } = access {
            let request = ClaimRequest {
                session: &self.session,
                identity: &identity,
                instance: "a0",
                last: *last,
                forget: *forget,
            };
            return match self.store.claim(&request).await {
                Ok(claim) => {
                    let told = (claim.found, claim.seq, claim.lease.epoch, claim.replay);
                    self.held[socket] = Some(claim.lease);
                    format!("{told:?}")
                }
                Err(error) => known(&error),
            };
        }
        let Some(held) = &self.held[socket] else {
            return "nothing held".to_owned();
        };
        match access {
            Access::Claim { .. } => unreachable!(),
            Access::Say { id, ack, .. } => told(say(self.store, held, &format!("c-{id}"), *ack).await),
            Access::Set { id, key, value, .. } => {
                let value = json!(value);
                told(set(self.store, held, &format!("c-{id}"), &format!("k{key}"), &value).await)
            }
            Access::Read { .. } => told(self.store.read(held).await),
            Access::Touch { .. } => told(self.store.touch(held).await),
        }
    }
}

fn told<T: std::fmt::Debug>(outcome: Result<T, StoreError>) -> String {
    match outcome {
        Ok(value) => format!("{value:?}"),
        Err(error) => known(&error),
    }
}

/// An answer of the store; that there is none is no answer.
fn known(error: &StoreError) -> String {
    assert!(!matches!(error, StoreError::Unavailable(_)), "{error:?}");
    format!("{error:?}")
}

#[rstest]
#[case::redis(Kind::Redis)]
#[case::postgres(Kind::Postgres)]
fn every_store_answers_as_memory_does(#[case] kind: Kind) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let Some(backend) = runtime.block_on(Backend::of(kind)) else {
        return;
    };
    let model = Backend::memory();
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let ran = runner.run(&proptest::collection::vec(access(), 1..STEPS), |accesses| {
        // A session of its own for every sequence, shrunk ones included.
        let session = format!("s-{:016x}", rand::random::<u64>());
        let played = |store| Played {
            store,
            session: session.clone(),
            held: [None, None, None],
        };
        let (mut real, mut expected) = (played(&backend.store), played(&model.store));
        runtime.block_on(async {
            for (step, access) in accesses.iter().enumerate() {
                let (got, wanted) = (real.play(access).await, expected.play(access).await);
                prop_assert_eq!(got, wanted, "step {}: {:?}", step, access);
            }
            let ends = [
                claim_as(&backend.store, &session, &user("ann"), 0).await,
                claim_as(&model.store, &session, &user("ann"), 0).await,
            ];
            let [got, wanted] = ends.map(|end| told(end.map(|end| seqs(&end.replay))));
            prop_assert_eq!(got, wanted);
            Ok(())
        })
    });
    if let Err(failure) = ran {
        panic!("{failure}");
    }
}
