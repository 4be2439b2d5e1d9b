-- Keeps a session from expiring, for the owner only.
-- KEYS: session, history, outbox, ids, values
-- ARGV: user, epoch, nonce, ttl (s)
local user, epoch, nonce = unpack(redis.call('HMGET', KEYS[1], 'user', 'epoch', 'nonce'))
if not user then
  return 'gone'
end
if user ~= ARGV[1] then
  return 'forbidden'
end
if epoch ~= ARGV[2] or nonce ~= ARGV[3] then
  return 'stale'
end
for _, key in ipairs(KEYS) do
  redis.call('EXPIRE', key, ARGV[4])
end
return 'ok'
