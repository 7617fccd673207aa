-- Takes one of the places for probes of one circuit. Each place has the end that it was taken with:
-- were it moved by those who ask in vain, a dead probe would keep its place for ever.
--
-- KEYS[1]  sorted set: probes by the end of their lease
-- KEYS[2]  sorted set: probes that were given back, by when that may be forgotten
-- ARGV     the probe's id, how many places there are, the lease in seconds
-- Reply    "1" if it has a place, else "0"; the end of its lease, else the first end of another's

local places, dropped = KEYS[1], KEYS[2]
local id, at_once, lease = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
for _, key in ipairs(KEYS) do
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'zset' and kind ~= 'none' then
    redis.call('DEL', key)
  end
  redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('%.6f', now))
end

local ends = redis.call('ZSCORE', places, id)
if ends then
  return {'1', ends}
end
-- Whoever asked has given up, and this call only now got through: it must not take a place.
if redis.call('ZSCORE', dropped, id) then
  return {'0', string.format('%.6f', now)}
end
if redis.call('ZCARD', places) >= at_once then
  return {'0', redis.call('ZRANGE', places, 0, 0, 'WITHSCORES')[2]}
end

ends = string.format('%.6f', now + lease)
redis.call('ZADD', places, ends, id)
local last = tonumber(redis.call('ZRANGE', places, -1, -1, 'WITHSCORES')[2])
redis.call('PEXPIRE', places, math.ceil((last - now) * 1000) + 1000)
return {'1', ends}
