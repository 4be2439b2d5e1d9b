//! The schema, brought up by the server itself.

use deadpool_postgres::tokio_postgres::{Client, Error};

/// What stands in `schema.sql`.
const SCHEMA: &str = include_str!("schema.sql");
/// The version that it brings.
const VERSION: i32 = 1;

/// Sees to it that the schema is there. Any number of servers may do so at once: the first does it, under a lock that
/// goes with its transaction, and the others find it done. Where somebody else has brought it up, the server needs no
/// right to do so.
pub(super) async fn bring_up(client: &mut Client) -> Result<(), Error> {
    if is_there(client).await? {
        return Ok(());
    }
    let transaction = client.transaction().await?;
    // Whoever is before us may take a while on a busy database.
    transaction
        .batch_execute("SET LOCAL statement_timeout = '30s'; SELECT pg_advisory_xact_lock(1936028531, 1)")
        .await?;
    if !is_there(transaction.client()).await? {
        transaction.batch_execute(SCHEMA).await?;
        tracing::info!(version = VERSION, "brought up the schema session_server");
    }
    transaction.commit().await
}

async fn is_there(client: &Client) -> Result<bool, Error> {
    // The catalog is read as a table: names are looked up in a cache, which would not hear of what another server has
    // done while this one waited for the lock.
    let found = client
        .query_one(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_tables WHERE schemaname = 'session_server' AND tablename = 'version')",
            &[],
        )
        .await?;
    if !found.get::<_, bool>(0) {
        return Ok(false);
    }
    let newest = client
        .query_one("SELECT max(version) FROM session_server.version", &[])
        .await?;
    Ok(newest.get::<_, Option<i32>>(0) >= Some(VERSION))
}
