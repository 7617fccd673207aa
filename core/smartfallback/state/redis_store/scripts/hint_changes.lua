-- Hints at subjects whose facts have changed. It is no part of writing them: in a cluster the stream
-- lies elsewhere.
--
-- KEYS[1]  stream: entries {s: subject, b: the instance that wrote, empty for several}
-- ARGV     about how many entries are kept; then subjects and instances in turn

local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'stream' and kind ~= 'none' then
  redis.call('DEL', KEYS[1])
end
for place = 2, #ARGV, 2 do
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 's', ARGV[place], 'b', ARGV[place + 1])
end
return (#ARGV - 1) / 2
