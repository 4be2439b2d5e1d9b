-- Applies one message once, for the owner only.
-- KEYS: session, history, outbox, ids, values
-- ARGV: user, epoch, nonce, ttl (s), ack, outbox entry, history entry or '', value or '',
--       bounds: history, outbox, ids, values; number of ids, ids, names of the value.
-- Of ids and names the first is written; the others are what keys of earlier days made of them.
local user, epoch, nonce = unpack(redis.call('HMGET', KEYS[1], 'user', 'epoch', 'nonce'))
if not user then
  return {'gone'}
end
if user ~= ARGV[1] then
  return {'forbidden'}
end
if epoch ~= ARGV[2] or nonce ~= ARGV[3] then
  return {'stale'}
end
local names = 14 + tonumber(ARGV[13])
for i = 14, names - 1 do
  local seq = redis.call('ZSCORE', KEYS[4], ARGV[i])
  if seq then
    return {'repeat', tonumber(seq), redis.call('ZRANGEBYSCORE', KEYS[3], seq, seq)[1] or ''}
  end
end
if ARGV[8] ~= '' then
  local known = false
  for i = names, #ARGV do
    known = known or redis.call('HEXISTS', KEYS[5], ARGV[i]) == 1
  end
  if not known and redis.call('HLEN', KEYS[5]) >= tonumber(ARGV[12]) then
    return {'full'}
  end
  for i = names + 1, #ARGV do
    redis.call('HDEL', KEYS[5], ARGV[i])
  end
  redis.call('HSET', KEYS[5], ARGV[names], ARGV[8])
end
local seq = redis.call('HINCRBY', KEYS[1], 'seq', 1)
if ARGV[7] ~= '' then
  redis.call('RPUSH', KEYS[2], seq .. ' ' .. ARGV[7])
  redis.call('LTRIM', KEYS[2], -tonumber(ARGV[9]), -1)
end
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', ARGV[5])
redis.call('ZADD', KEYS[3], seq, seq .. ' ' .. ARGV[6])
redis.call('ZREMRANGEBYRANK', KEYS[3], 0, -tonumber(ARGV[10]) - 1)
redis.call('ZADD', KEYS[4], seq, ARGV[14])
redis.call('ZREMRANGEBYRANK', KEYS[4], 0, -tonumber(ARGV[11]) - 1)
for _, key in ipairs(KEYS) do
  redis.call('EXPIRE', key, ARGV[4])
end
return {'ok', seq, ''}
