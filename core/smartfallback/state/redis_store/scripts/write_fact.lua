-- Tells facts of one subject and says what holds afterwards. Replying costs no second look, and what
-- was told twice changes nothing.
--
-- KEYS[1]  hash: the subject's facts by name, each JSON {v, at, by, until}
-- ARGV     the most names that a subject may have; then for each fact six:
--          name, rule ("latest" or "longest"), value, at, by, until ("" for none)
-- Reply    for each fact: "1" if readers should look again, else "0"; value, at, by, until
--
-- Times are decimal text, in the rows too: a number that passes through cjson loses digits.
-- A row of the rule "longest" remembers two more things, so that rests and lifts come to the same end
-- in whatever order they arrive: `lift`, when the latest lift came about, and `under`, the rests that
-- end earlier than the one in force but came about later, and so outlive a lift that takes that one.

local facts = KEYS[1]
local most_names = tonumber(ARGV[1])
local most_under = 8
local clocks_differ = 5

local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000

local function moment(text)
  local number = type(text) == 'string' and tonumber(text)
  if number and number == number and math.abs(number) < 1e15 then
    return number
  end
  return nil
end

-- A server may compare text by its language's rules; ids are compared by their bytes everywhere.
local function above(one, other)
  for place = 1, math.min(#one, #other) do
    local mine, its = one:byte(place), other:byte(place)
    if mine ~= its then
      return mine > its
    end
  end
  return #one > #other
end

local function is_fact(row)
  return type(row) == 'table' and type(row.v) == 'string' and type(row.by) == 'string'
    and moment(row.at) ~= nil and (row['until'] == nil or moment(row['until']) ~= nil)
end

-- A time to come was told by a clock that is no longer right, that of another server for one. It must
-- not keep out what is told until then, so it counts as the oldest.
local function believed(text)
  return moment(text) > now + clocks_differ and '0' or text
end

local function decoded(text)
  local fine, row = pcall(cjson.decode, text)
  if not fine or not is_fact(row) then
    return nil
  end
  row.at = believed(row.at)
  row.lift = moment(row.lift) and believed(row.lift) or nil
  return row
end

local function bare(row)
  return {v = row.v, at = row.at, by = row.by, ['until'] = row['until']}
end

local function same(one, other)
  return one ~= nil and other ~= nil and one.v == other.v and one.by == other.by
    and moment(one.at) == moment(other.at) and moment(one['until']) == moment(other['until'])
end

local function came_later(one, other)
  local mine, its = moment(one.at), moment(other.at)
  if mine ~= its then
    return mine > its
  end
  return above(one.by, other.by)
end

local function latest(row, told)
  if row ~= nil and came_later(row, told) then
    return row
  end
  return told
end

local function ends_later(one, other)
  local mine, its = moment(one['until']), moment(other['until'])
  if mine ~= its then
    return mine > its
  end
  return came_later(one, other)
end

local function longest(row, told, now)
  local lift, lifted, rests = nil, nil, {}
  if row ~= nil then
    if row['until'] == nil then
      lift, lifted = bare(row), row.at
    else
      lifted = row.lift
      rests[1] = bare(row)
      for _, rest in ipairs(type(row.under) == 'table' and row.under or {}) do
        if is_fact(rest) and rest['until'] ~= nil then
          rest.at = believed(rest.at)
          rests[#rests + 1] = bare(rest)
        end
      end
    end
  end
  if told['until'] ~= nil then
    table.insert(rests, 1, told)
  elseif lift ~= nil then
    lift = latest(lift, told)
    lifted = lift.at
  elseif lifted == nil or moment(told.at) >= moment(lifted) then
    lift, lifted = told, told.at
  end

  -- Of two that end alike and came about alike the one told last stands first.
  for place, rest in ipairs(rests) do
    rest.place = place
  end
  table.sort(rests, function(one, other)
    if ends_later(one, other) then
      return true
    end
    if ends_later(other, one) then
      return false
    end
    return one.place < other.place
  end)
  local standing, newest = {}, lifted and moment(lifted)
  for _, rest in ipairs(rests) do
    rest.place = nil
    local at = moment(rest.at)
    local is_over = #standing > 0 and moment(rest['until']) <= now
    if (newest == nil or at > newest) and not is_over and #standing <= most_under then
      standing[#standing + 1] = rest
      newest = at
    end
  end
  if #standing == 0 then
    return lift or told
  end
  local held = standing[1]
  held.lift = lifted
  if #standing > 1 then
    held.under = {unpack(standing, 2)}
  end
  return held
end

-- Rows that nobody can read go first, then rests by their end, then what came about longest ago.
local function make_room(excess)
  local rows, all = redis.call('HGETALL', facts), {}
  for place = 1, #rows, 2 do
    local row = decoded(rows[place + 1])
    local class = (row == nil and 1) or (row['until'] ~= nil and 2) or 3
    all[#all + 1] = {rows[place], class, row and (moment(row['until']) or moment(row.at)) or 0}
  end
  table.sort(all, function(one, other)
    if one[2] ~= other[2] then
      return one[2] < other[2]
    end
    return one[3] < other[3]
  end)
  for place = 1, excess do
    redis.call('HDEL', facts, all[place][1])
  end
end

local kind = redis.call('TYPE', facts).ok
if kind ~= 'hash' and kind ~= 'none' then
  redis.call('DEL', facts)
end
local reply = {}
for place = 2, #ARGV, 6 do
  local name, rule = ARGV[place], ARGV[place + 1]
  local told = {v = ARGV[place + 2], at = ARGV[place + 3], by = ARGV[place + 4]}
  if moment(told.at) > now + clocks_differ then
    told.at = string.format('%.6f', now)
  end
  if ARGV[place + 5] ~= '' then
    told['until'] = ARGV[place + 5]
  end
  local before = redis.call('HGET', facts, name)
  local row = before and decoded(before) or nil
  local seen = row and bare(row)
  local holds = rule == 'longest' and longest(row, told, now) or latest(row, told)
  local after = cjson.encode(holds)
  if holds ~= row and after ~= before then
    local excess = before and 0 or redis.call('HLEN', facts) + 1 - most_names
    if excess > 0 then
      make_room(excess)
    end
    redis.call('HSET', facts, name, after)
  end
  -- What was told already is hinted at again: whoever tells it again may not know that it arrived.
  local look = (not same(seen, holds) or same(told, holds)) and '1' or '0'
  reply[#reply + 1] = {look, holds.v, holds.at, holds.by, holds['until'] or ''}
end
return reply
