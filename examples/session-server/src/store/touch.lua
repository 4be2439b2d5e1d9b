-- Keeps a session from expiring, for the owner only.
-- KEYS: session, history, outbox, ids, values
-- ARGV: epoch, nonce, ttl (s)
local epoch, nonce = unpack(redis.call('HMGET', KEYS[1], 'epoch', 'nonce'))
if not epoch then
  return 'gone'
end
if epoch ~= ARGV[1] or nonce ~= ARGV[2] then
  return 'stale'
end
for _, key in ipairs(KEYS) do
  redis.call('EXPIRE', key, ARGV[3])
end
return 'ok'
