-- Reads the whole state, for the owner only.
-- KEYS: session, history, outbox, ids, values
-- ARGV: epoch, nonce
local epoch, nonce, tier = unpack(redis.call('HMGET', KEYS[1], 'epoch', 'nonce', 'tier'))
if not epoch then
  return {'gone', '', {}, {}}
end
if epoch ~= ARGV[1] or nonce ~= ARGV[2] then
  return {'stale', '', {}, {}}
end
return {'ok', tier, redis.call('LRANGE', KEYS[2], 0, -1), redis.call('HGETALL', KEYS[5])}
