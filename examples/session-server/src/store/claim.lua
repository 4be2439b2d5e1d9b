-- Takes a session over, making it if there is none.
-- KEYS: session, history, outbox, ids, values
-- ARGV: user, tier, nonce, instance, last, ttl (s), forget (0|1), takeover channel prefix, session id, permissions
local user, epoch, loser, seq = unpack(redis.call('HMGET', KEYS[1], 'user', 'epoch', 'instance', 'seq'))
if user and user ~= ARGV[1] then
  return {'forbidden'}
end
local found = user and 1 or 0
if found == 1 and ARGV[7] == '1' then
  redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[5])
  found, seq = 0, 0
end
epoch = (tonumber(epoch) or 0) + 1
seq = tonumber(seq) or 0
redis.call('HSET', KEYS[1], 'user', ARGV[1], 'tier', ARGV[2], 'epoch', epoch, 'nonce', ARGV[3],
  'instance', ARGV[4], 'seq', seq, 'permissions', ARGV[10])
for _, key in ipairs(KEYS) do
  redis.call('EXPIRE', key, ARGV[6])
end
if loser then
  redis.call('PUBLISH', ARGV[8] .. loser, ARGV[9] .. ' ' .. epoch)
end
return {'ok', epoch, found, seq, redis.call('ZRANGEBYSCORE', KEYS[3], '(' .. ARGV[5], '+inf')}
