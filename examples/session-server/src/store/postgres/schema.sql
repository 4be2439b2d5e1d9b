-- Version 1 of the store's schema. The server brings it up by itself: see schema.rs.
--
-- Functions do what the Lua scripts do in Redis: each is one statement, and so one transaction and one round trip. They
-- carry the version in their names, so that servers of two versions can run side by side during a rollout: a later
-- version adds its own functions, and changes tables only in ways that these here bear.
CREATE SCHEMA IF NOT EXISTS session_server;

CREATE TABLE session_server.version (version integer PRIMARY KEY);

-- Whose a session is, and who holds it. Everything below is found by owner *and* session, and goes with this row.
CREATE TABLE session_server.sessions (
  session text PRIMARY KEY,
  owner text NOT NULL,
  tier text NOT NULL,
  permissions text NOT NULL,
  epoch bigint NOT NULL,
  nonce text NOT NULL,
  instance text NOT NULL,
  seq bigint NOT NULL,
  expires timestamptz NOT NULL,
  UNIQUE (owner, session)
) WITH (fillfactor = 80);
CREATE INDEX sessions_expires ON session_server.sessions (expires);

-- Numbered replies for replay.
CREATE TABLE session_server.outbox (
  owner text NOT NULL,
  session text NOT NULL,
  seq bigint NOT NULL,
  entry bytea NOT NULL,
  PRIMARY KEY (owner, session, seq),
  FOREIGN KEY (owner, session) REFERENCES session_server.sessions (owner, session) ON DELETE CASCADE
);

-- What was said.
CREATE TABLE session_server.history (LIKE session_server.outbox INCLUDING ALL,
  FOREIGN KEY (owner, session) REFERENCES session_server.sessions (owner, session) ON DELETE CASCADE
);

-- Ids of messages that were applied, and the numbers of their replies.
CREATE TABLE session_server.ids (
  owner text NOT NULL,
  session text NOT NULL,
  id bytea NOT NULL,
  seq bigint NOT NULL,
  PRIMARY KEY (owner, session, id),
  FOREIGN KEY (owner, session) REFERENCES session_server.sessions (owner, session) ON DELETE CASCADE
);

-- Context, tools and preferences.
CREATE TABLE session_server.items (
  owner text NOT NULL,
  session text NOT NULL,
  name bytea NOT NULL,
  entry bytea NOT NULL,
  PRIMARY KEY (owner, session, name),
  FOREIGN KEY (owner, session) REFERENCES session_server.sessions (owner, session) ON DELETE CASCADE
);

-- The user of a session that has not expired.
CREATE FUNCTION session_server.owner_v1(p_session text) RETURNS text
LANGUAGE sql STABLE AS $$
  SELECT owner FROM session_server.sessions WHERE session = p_session AND expires > clock_timestamp()
$$;

-- When a session expires that is used now. Moved only when a tenth of its time is over: a row whose indexed columns stay
-- as they are is much cheaper to write.
CREATE FUNCTION session_server.extended_v1(p_expires timestamptz, p_ttl double precision) RETURNS timestamptz
LANGUAGE sql VOLATILE AS $$
  SELECT CASE WHEN p_expires < clock_timestamp() + make_interval(secs => p_ttl * 0.9)
    THEN clock_timestamp() + make_interval(secs => p_ttl) ELSE p_expires END
$$;

-- Takes a session over, making it if there is none.
CREATE FUNCTION session_server.claim_v1(
  p_session text, p_owner text, p_tier text, p_permissions text, p_nonce text, p_instance text,
  p_last bigint, p_ttl double precision, p_forget boolean,
  OUT status text, OUT epoch bigint, OUT existed boolean, OUT seq bigint, OUT seqs bigint[], OUT entries bytea[])
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  head session_server.sessions%ROWTYPE;
BEGIN
  LOOP
    INSERT INTO session_server.sessions VALUES (p_session, p_owner, p_tier, p_permissions, 0, '', '', 0,
      clock_timestamp() + make_interval(secs => p_ttl)) ON CONFLICT (session) DO NOTHING;
    existed := NOT FOUND;
    SELECT * INTO head FROM session_server.sessions WHERE session = p_session FOR UPDATE;
    -- Swept in between.
    CONTINUE WHEN NOT FOUND;
    EXIT WHEN NOT existed OR head.expires > clock_timestamp();
    DELETE FROM session_server.sessions WHERE session = p_session;
  END LOOP;
  IF head.owner <> p_owner THEN
    status := 'forbidden';
    RETURN;
  END IF;
  IF existed THEN
    PERFORM pg_notify('session_server_' || head.instance, p_session || ' ' || head.epoch + 1);
    IF p_forget THEN
      DELETE FROM session_server.outbox WHERE owner = p_owner AND session = p_session;
      DELETE FROM session_server.history WHERE owner = p_owner AND session = p_session;
      DELETE FROM session_server.ids WHERE owner = p_owner AND session = p_session;
      DELETE FROM session_server.items WHERE owner = p_owner AND session = p_session;
      head.seq := 0;
      existed := false;
    END IF;
  END IF;
  status := 'ok';
  epoch := head.epoch + 1;
  seq := head.seq;
  UPDATE session_server.sessions SET tier = p_tier, permissions = p_permissions, epoch = head.epoch + 1,
    nonce = p_nonce, instance = p_instance, seq = head.seq, expires = session_server.extended_v1(expires, p_ttl)
    WHERE session = p_session AND owner = p_owner;
  SELECT array_agg(o.seq ORDER BY o.seq), array_agg(o.entry ORDER BY o.seq) INTO seqs, entries
    FROM session_server.outbox o WHERE o.owner = p_owner AND o.session = p_session AND o.seq > p_last;
END
$$;

-- Locks a session and says whether this claim still holds it.
CREATE FUNCTION session_server.held_v1(p_session text, p_owner text, p_epoch bigint, p_nonce text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
  head session_server.sessions%ROWTYPE;
BEGIN
  SELECT * INTO head FROM session_server.sessions WHERE session = p_session FOR NO KEY UPDATE;
  RETURN CASE
    WHEN NOT FOUND OR head.expires <= clock_timestamp() THEN 'gone'
    WHEN head.owner <> p_owner THEN 'forbidden'
    WHEN head.epoch <> p_epoch OR head.nonce <> p_nonce THEN 'stale'
    ELSE 'ok' END;
END
$$;

-- Applies one message once. Of ids and names the first is written; the others are what keys of earlier days made of them.
CREATE FUNCTION session_server.write_v1(
  p_session text, p_owner text, p_epoch bigint, p_nonce text, p_ttl double precision,
  p_ids bytea[], p_ack bigint, p_reply bytea, p_history bytea, p_names bytea[], p_item bytea,
  p_max_history bigint, p_max_outbox bigint, p_max_ids bigint, p_max_items bigint,
  OUT status text, OUT seq bigint, OUT kept bytea)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
  next bigint;
BEGIN
  status := session_server.held_v1(p_session, p_owner, p_epoch, p_nonce);
  IF status <> 'ok' THEN
    RETURN;
  END IF;
  SELECT i.seq, o.entry INTO seq, kept
    FROM session_server.ids i LEFT JOIN session_server.outbox o USING (owner, session, seq)
    WHERE i.owner = p_owner AND i.session = p_session AND i.id = ANY (p_ids);
  IF FOUND THEN
    status := 'repeat';
    RETURN;
  END IF;
  IF p_item IS NOT NULL THEN
    DELETE FROM session_server.items WHERE owner = p_owner AND session = p_session AND name = ANY (p_names);
    IF NOT FOUND AND p_max_items <=
        (SELECT count(*) FROM session_server.items WHERE owner = p_owner AND session = p_session) THEN
      status := 'full';
      RETURN;
    END IF;
    INSERT INTO session_server.items VALUES (p_owner, p_session, p_names[1], p_item);
  END IF;
  UPDATE session_server.sessions SET seq = seq + 1, expires = session_server.extended_v1(expires, p_ttl)
    WHERE session = p_session AND owner = p_owner RETURNING sessions.seq INTO next;
  IF p_history IS NOT NULL THEN
    INSERT INTO session_server.history VALUES (p_owner, p_session, next, p_history);
    DELETE FROM session_server.history WHERE owner = p_owner AND session = p_session AND seq <=
      (SELECT h.seq FROM session_server.history h WHERE h.owner = p_owner AND h.session = p_session
        ORDER BY h.seq DESC OFFSET p_max_history LIMIT 1);
  END IF;
  -- Every message has a reply and an id: there the number alone tells which are too many.
  DELETE FROM session_server.outbox
    WHERE owner = p_owner AND session = p_session AND seq <= greatest(p_ack, next - p_max_outbox);
  INSERT INTO session_server.outbox VALUES (p_owner, p_session, next, p_reply);
  DELETE FROM session_server.ids WHERE owner = p_owner AND session = p_session AND seq <= next - p_max_ids;
  INSERT INTO session_server.ids VALUES (p_owner, p_session, p_ids[1], next);
  seq := next;
END
$$;

-- Reads the whole state.
CREATE FUNCTION session_server.read_v1(
  p_session text, p_owner text, p_epoch bigint, p_nonce text,
  OUT status text, OUT tier text, OUT permissions text, OUT seqs bigint[], OUT entries bytea[], OUT items bytea[])
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
  status := session_server.held_v1(p_session, p_owner, p_epoch, p_nonce);
  IF status <> 'ok' THEN
    RETURN;
  END IF;
  SELECT s.tier, s.permissions INTO tier, permissions
    FROM session_server.sessions s WHERE s.session = p_session AND s.owner = p_owner;
  SELECT array_agg(h.seq ORDER BY h.seq), array_agg(h.entry ORDER BY h.seq) INTO seqs, entries
    FROM session_server.history h WHERE h.owner = p_owner AND h.session = p_session;
  SELECT array_agg(i.entry) INTO items
    FROM session_server.items i WHERE i.owner = p_owner AND i.session = p_session;
END
$$;

-- Keeps a session from expiring.
CREATE FUNCTION session_server.touch_v1(
  p_session text, p_owner text, p_epoch bigint, p_nonce text, p_ttl double precision) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
  status text := session_server.held_v1(p_session, p_owner, p_epoch, p_nonce);
BEGIN
  IF status = 'ok' THEN
    UPDATE session_server.sessions SET expires = session_server.extended_v1(expires, p_ttl)
      WHERE session = p_session AND owner = p_owner;
  END IF;
  RETURN status;
END
$$;

-- Deletes some of what has expired, unless another server is at it.
CREATE FUNCTION session_server.sweep_v1(p_most bigint) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
  swept bigint;
BEGIN
  -- The two numbers are "sess" and 2; 1 is the schema's.
  IF NOT pg_try_advisory_xact_lock(1936028531, 2) THEN
    RETURN 0;
  END IF;
  DELETE FROM session_server.sessions WHERE session IN
    (SELECT session FROM session_server.sessions WHERE expires <= clock_timestamp()
      ORDER BY expires LIMIT p_most FOR UPDATE SKIP LOCKED);
  GET DIAGNOSTICS swept = ROW_COUNT;
  RETURN swept;
END
$$;

INSERT INTO session_server.version VALUES (1);
