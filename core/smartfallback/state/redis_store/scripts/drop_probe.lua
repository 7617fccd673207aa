-- Gives a probe's place back, also one whose request for it is still on its way.
--
-- KEYS[1]  sorted set: probes by the end of their lease
-- KEYS[2]  sorted set: probes that were given back, by when that may be forgotten
-- ARGV     the probe's id, for how many seconds it is remembered, how many are remembered
-- Reply    1 if it had a place, else 0

local places, dropped = KEYS[1], KEYS[2]
local id, kept, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

for _, key in ipairs(KEYS) do
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'zset' and kind ~= 'none' then
    redis.call('DEL', key)
  end
end
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
redis.call('ZADD', dropped, string.format('%.6f', now + kept), id)
redis.call('ZREMRANGEBYRANK', dropped, 0, -most - 1)
redis.call('PEXPIRE', dropped, math.ceil(kept * 1000))
return redis.call('ZREM', places, id)
