//! Takeovers, heard by `LISTEN` on a connection of its own.

use std::{future::poll_fn, time::Duration};

use deadpool_postgres::tokio_postgres::{AsyncMessage, Client, Config, Connection, Error, Socket};
use tokio::{sync::mpsc, time};
use tokio_util::task::AbortOnDropHandle;

use super::{
    ANSWER_TIMEOUT, CONNECT_TIMEOUT,
    tls::{Stream, Tls},
};
use crate::store::Takeover;

/// How often a quiet connection is asked whether it still stands.
const CHECK_EVERY: Duration = Duration::from_secs(10);

/// Hears takeovers for as long as somebody listens, subscribing again after every loss.
pub(super) async fn listen(config: Config, tls: Tls, instance: String, sender: mpsc::Sender<Takeover>) {
    let mut failures = 0u32;
    while !sender.is_closed() {
        match time::timeout(
            CONNECT_TIMEOUT,
            subscribe(&config, tls.clone(), &instance, &sender),
        )
        .await
        {
            Ok(Ok((client, driver))) => {
                failures = 0;
                // Whatever was announced while nobody listened is lost: have every session looked at once.
                let _ = sender.try_send(Takeover::Unsure);
                stay(&client, driver).await;
                tracing::warn!("lost the subscription to takeovers");
            }
            Ok(Err(error)) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "failed to subscribe to takeovers"
                );
            }
            Err(_) => tracing::warn!("failed to subscribe to takeovers in time"),
        }
        failures = failures.saturating_add(1);
        let most = 100u64.saturating_mul(1 << failures.min(5));
        time::sleep(Duration::from_millis(rand::random_range(50..=most))).await;
    }
}

async fn subscribe(
    config: &Config,
    tls: Tls,
    instance: &str,
    sender: &mpsc::Sender<Takeover>,
) -> Result<(Client, AbortOnDropHandle<()>), Error> {
    let (client, connection) = config.connect(tls).await?;
    let driver = tokio::spawn(drive(connection, sender.clone()));
    let driver = AbortOnDropHandle::new(driver);
    // The name is hexadecimal: it needs no quotes.
    client
        .batch_execute(&format!("LISTEN session_server_{instance}"))
        .await?;
    Ok((client, driver))
}

/// Returns when the connection is lost, or no longer answers.
async fn stay(client: &Client, mut driver: AbortOnDropHandle<()>) {
    loop {
        tokio::select! {
            _ = &mut driver => return,
            () = time::sleep(CHECK_EVERY) => {
                let asked = time::timeout(ANSWER_TIMEOUT, client.batch_execute(""));
                if !matches!(asked.await, Ok(Ok(()))) {
                    return;
                }
            }
        }
    }
}

/// Keeps the connection going, and passes on what it hears. What does not fit is dropped: the loser finds out at its
/// next access.
async fn drive(mut connection: Connection<Socket, Stream>, sender: mpsc::Sender<Takeover>) {
    while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
        let AsyncMessage::Notification(notification) = message else {
            continue;
        };
        let Some((session, epoch)) = notification.payload().rsplit_once(' ') else {
            continue;
        };
        let Ok(epoch) = epoch.parse() else { continue };
        let _ = sender.try_send(Takeover::Taken {
            session: session.to_owned(),
            epoch,
        });
    }
}
