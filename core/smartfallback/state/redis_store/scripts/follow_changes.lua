-- Says from where on to follow the stream of changes: after an entry that is there. As long as it is,
-- the stream has lost nothing that came after it; so an empty stream gets one that hints at nothing.
--
-- KEYS[1]  the stream
-- Reply    the id of its last entry

local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'stream' and kind ~= 'none' then
  redis.call('DEL', KEYS[1])
end
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', '1')[1]
return last and last[1] or redis.call('XADD', KEYS[1], '*', 'm', '1')
