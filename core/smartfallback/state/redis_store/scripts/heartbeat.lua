-- Notes that an instance runs and says who else was seen lately.
--
-- KEYS[1]  hash: instances by id, each when it was last seen, a blank, and its particulars as JSON
-- ARGV     the instance's id, its particulars, for how many seconds one that is silent is listed,
--          after how many it is forgotten, the most that are remembered
-- Reply    the time, "1" if the instance was known, then id, last seen and particulars in turn

local instances = KEYS[1]
local id, particulars = ARGV[1], ARGV[2]
local listed, forgotten, most = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

local kind = redis.call('TYPE', instances).ok
if kind ~= 'hash' and kind ~= 'none' then
  redis.call('DEL', instances)
end
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local stamp = string.format('%.6f', now)

local known = '0'
local others = {}
local rows = redis.call('HGETALL', instances)
for place = 1, #rows, 2 do
  local its_id = rows[place]
  local seen, its_particulars = string.match(rows[place + 1], '^(%d+%.?%d*) (.*)$')
  local silent = seen and now - tonumber(seen)
  -- A time to come was told by a server whose clock was ahead: a dead one would seem to live till then.
  if not silent or silent > forgotten or silent < -listed then
    redis.call('HDEL', instances, its_id)
  elseif its_id == id then
    known = '1'
  else
    others[#others + 1] = {its_id, seen, its_particulars, silent}
  end
end
table.sort(others, function(one, other)
  return one[4] < other[4]
end)
local reply = {stamp, known, id, stamp, particulars}
for place, other in ipairs(others) do
  if place >= most then
    redis.call('HDEL', instances, other[1])
  elseif other[4] <= listed then
    for part = 1, 3 do
      reply[#reply + 1] = other[part]
    end
  end
end
redis.call('HSET', instances, id, stamp .. ' ' .. particulars)
return reply
