-- Reads the whole state, for the owner only.
-- KEYS: session, history, outbox, ids, values
-- ARGV: user, epoch, nonce
local user, epoch, nonce, tier, permissions =
  unpack(redis.call('HMGET', KEYS[1], 'user', 'epoch', 'nonce', 'tier', 'permissions'))
if not user then
  return {'gone'}
end
if user ~= ARGV[1] then
  return {'forbidden'}
end
if epoch ~= ARGV[2] or nonce ~= ARGV[3] then
  return {'stale'}
end
return {'ok', tier, permissions, redis.call('LRANGE', KEYS[2], 0, -1), redis.call('HVALS', KEYS[5])}
