-- Applies one message once, for the owner only.
-- KEYS: session, history, outbox, ids, values
-- ARGV: epoch, nonce, ttl (s), message id, ack, outbox entry, history entry or '', field or '', value,
--       bounds: history, outbox, ids, values
local epoch, nonce = unpack(redis.call('HMGET', KEYS[1], 'epoch', 'nonce'))
if not epoch then
  return {'gone'}
end
if epoch ~= ARGV[1] or nonce ~= ARGV[2] then
  return {'stale'}
end
local seq = redis.call('ZSCORE', KEYS[4], ARGV[4])
if seq then
  return {'repeat', tonumber(seq), redis.call('ZRANGEBYSCORE', KEYS[3], seq, seq)[1] or ''}
end
if ARGV[8] ~= '' then
  if redis.call('HEXISTS', KEYS[5], ARGV[8]) == 0 and redis.call('HLEN', KEYS[5]) >= tonumber(ARGV[13]) then
    return {'full'}
  end
  redis.call('HSET', KEYS[5], ARGV[8], ARGV[9])
end
seq = redis.call('HINCRBY', KEYS[1], 'seq', 1)
if ARGV[7] ~= '' then
  redis.call('RPUSH', KEYS[2], seq .. ' ' .. ARGV[7])
  redis.call('LTRIM', KEYS[2], -tonumber(ARGV[10]), -1)
end
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', ARGV[5])
redis.call('ZADD', KEYS[3], seq, seq .. ' ' .. ARGV[6])
redis.call('ZREMRANGEBYRANK', KEYS[3], 0, -tonumber(ARGV[11]) - 1)
redis.call('ZADD', KEYS[4], seq, ARGV[4])
redis.call('ZREMRANGEBYRANK', KEYS[4], 0, -tonumber(ARGV[12]) - 1)
for _, key in ipairs(KEYS) do
  redis.call('EXPIRE', key, ARGV[3])
end
return {'ok', seq, ''}
