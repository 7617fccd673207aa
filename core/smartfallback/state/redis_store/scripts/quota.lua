-- What the scripts about an account's quota build on; it stands in front of each of them.
--
-- KEYS   windows, leases, holds, amounts, ended (see QuotaKeys)
-- ARGV   the request as JSON (see quota_codec.py)
-- Reply  JSON
--
-- A window is stored as JSON {s, e, b {u, at, label, m}, c, l, x, t, h}:
--   s, e   when it began and when it ends, 0 for never
--   b      what its count rests on: used, read at, label, and by instance what u contains of c
--   c      by instance, all that it has settled
--   l      by instance with a running lease, the c up to which it may go
--   x, t   by instance whose lease ended, what it may have spent unseen; and when the last one ended
--   h      by instance, what its holds that were made in this window come to
-- A map that is empty is left out, for cjson can't tell it from an empty list; an entry that is
-- missing is 0. cjson writes 14 digits, which is why times have four decimals.
-- Beside the windows stand `version`, `epoch`, and for each instance `heard:ID`: the number of its
-- last report, and when that came.

local ENDED_FOR, MOST_ENDED = 600, 100000
local HEARD_FOR = 86400
local KEPT_FOR = 62 * 86400 -- the longest window, and as long again: a removed account leaves nothing
local SWEPT_EACH = 1024
local CLOCKS_DIFFER = 5
local MOST = 1e15
local ROUNDING = 1e-12 -- of sums of numbers with 14 digits

local WINDOWS, LEASES, HOLDS, AMOUNTS, ENDED = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local KINDS = {'hash', 'zset', 'zset', 'hash', 'zset'}
local SLOTS = 'slots'

local request = cjson.decode(ARGV[1])
local me = request.me
local time = redis.call('TIME')
local now = (tonumber(time[1]) * 10000 + math.floor(tonumber(time[2]) / 100)) / 10000

local version, epoch, heard, running, holds, changed
local stored, texts -- by key: the window as it is here, and as it stands in the store

-- -- documents: what is in the store may be damaged, or somebody else's

local function is_number(value)
  return type(value) == 'number' and value >= -MOST and value <= MOST
end

local function amounts_of(map)
  local kept = {}
  if type(map) == 'table' then
    for name, amount in pairs(map) do
      if type(name) == 'string' and is_number(amount) and amount > 0 then
        kept[name] = amount
      end
    end
  end
  return kept
end

local function base_of(base)
  if type(base) ~= 'table' or type(base.label) ~= 'string' or not is_number(base.u) or not is_number(base.at) then
    return nil
  end
  return {u = base.u, at = base.at, label = base.label, m = amounts_of(base.m)}
end

local function decoded(text)
  if text then
    local fine, document = pcall(cjson.decode, text)
    if fine and type(document) == 'table' then
      return document
    end
  end
  return nil
end

local function window_of(document)
  if not document or not is_number(document.s) or not is_number(document.e) then
    return nil
  end
  return {
    s = document.s,
    e = document.e,
    b = base_of(document.b),
    c = amounts_of(document.c),
    l = amounts_of(document.l),
    x = amounts_of(document.x),
    t = is_number(document.t) and document.t or 0,
    h = holds > 0 and amounts_of(document.h) or {},
  }
end

local function filled(map)
  if next(map) == nil then
    return nil
  end
  return map
end

local function text_of(window)
  local base, charged = window.b, filled(window.x)
  return cjson.encode({
    s = window.s,
    e = window.e,
    b = base and {u = base.u, at = base.at, label = base.label, m = filled(base.m)},
    c = filled(window.c),
    l = filled(window.l),
    x = charged,
    t = charged and window.t,
    h = filled(window.h),
  })
end

-- -- sums

local function sum(map)
  local total = 0
  for _, amount in pairs(map) do
    total = total + amount
  end
  return total
end

local function used(window)
  local base = window.b
  if not base then
    return sum(window.x) + sum(window.c)
  end
  local total = sum(window.x) + base.u
  for name, spent in pairs(window.c) do
    total = total + math.max(0, spent - (base.m[name] or 0))
  end
  return total
end

local function leased(window, except)
  local total = 0
  for name, ceiling in pairs(window.l) do
    if name ~= except then
      total = total + math.max(0, ceiling - (window.c[name] or 0))
    end
  end
  return total
end

local function held(key, window)
  if key == SLOTS then
    return math.max(holds, sum(window.h))
  end
  return sum(window.h)
end

-- -- reading and writing

local function load(keys)
  local found = redis.call('HMGET', WINDOWS, unpack(keys))
  for place, key in ipairs(keys) do
    if texts[key] == nil then
      texts[key] = found[place]
      stored[key] = window_of(decoded(found[place]))
    end
  end
end

local function load_all()
  local fields = redis.call('HKEYS', WINDOWS)
  local keys = {}
  for _, field in ipairs(fields) do
    if texts[field] == nil and field ~= 'version' and field ~= 'epoch' and field:sub(1, 6) ~= 'heard:' then
      keys[#keys + 1] = field
    end
  end
  if #keys > 0 then
    load(keys)
  end
end

local function heard_of(text)
  local number, at = string.match(text or '', '^(%d+) ([%d.]+)$')
  if not number then
    return nil
  end
  return {number = tonumber(number), at = tonumber(at) or 0}
end

local function open()
  version, epoch, changed = 0, nil, false
  stored, texts, running = {}, {}, {}
  holds = redis.call('ZCARD', HOLDS)

  local keys, seen = {'version', 'epoch', 'heard:' .. me, SLOTS}, {[SLOTS] = true}
  for _, told in ipairs(request.windows) do
    if not seen[told.k] then
      seen[told.k] = true
      keys[#keys + 1] = told.k
    end
  end
  for _, key in ipairs(request.also or {}) do
    if not seen[key] then
      seen[key] = true
      keys[#keys + 1] = key
    end
  end
  local found = redis.call('HMGET', WINDOWS, unpack(keys))
  version = tonumber(found[1] or '')
  version = is_number(version) and math.max(0, math.floor(version)) or 0
  epoch = found[2]
  heard = heard_of(found[3])
  for place = 4, #keys do
    texts[keys[place]] = found[place]
    stored[keys[place]] = window_of(decoded(found[place]))
  end

  local leases = redis.call('ZRANGE', LEASES, 0, -1, 'WITHSCORES')
  for place = 1, #leases, 2 do
    running[leases[place]] = tonumber(leases[place + 1])
  end
end

local function lost()
  return request.epoch ~= ''
    and (epoch ~= request.epoch or version < request.version
      or (request.told > 0 and (not heard or heard.number < request.told)))
end

-- Writes what differs, with a new version; afterwards `texts` is what is stored.
local function save(hears)
  version = version + 1
  local fields = {'version', string.format('%.0f', version)}
  if not epoch then
    epoch = request.nonce
    fields[3], fields[4] = 'epoch', epoch
  end
  if hears then
    fields[#fields + 1] = 'heard:' .. me
    fields[#fields + 1] = string.format('%.0f %.4f', request.turn, now)
  end
  for key, window in pairs(stored) do
    local text = text_of(window)
    if text ~= texts[key] then
      texts[key] = text
      fields[#fields + 1] = key
      fields[#fields + 1] = text
    end
  end
  redis.call('HSET', WINDOWS, unpack(fields))
  redis.call('EXPIRE', WINDOWS, KEPT_FOR)
  changed = false
end

-- JSON; `more` begins with a comma where there is any. Windows are told as they are stored.
local function answer(more)
  local parts = {}
  local function tell(key)
    local text = texts[key]
    if text and stored[key] then
      parts[#parts + 1] = cjson.encode(key) .. ':' .. text
    end
  end
  for _, told in ipairs(request.windows) do
    tell(told.k)
  end
  for _, key in ipairs(request.also or {}) do
    tell(key)
  end
  return string.format('{"at":%.4f,"version":%.0f,"epoch":%s', now, version, cjson.encode(epoch or ''))
    .. (more or '') .. ',"windows":{' .. table.concat(parts, ',') .. '}}'
end

-- -- what time has ended

local function lapse()
  local silent = {}
  for name, ends in pairs(running) do
    if ends <= now then
      silent[#silent + 1] = name
    end
  end
  if #silent == 0 then
    return
  end
  changed = true
  load_all()
  for _, name in ipairs(silent) do
    redis.call('ZREM', LEASES, name)
    running[name] = nil
    for _, window in pairs(stored) do
      local unseen = (window.l[name] or 0) - (window.c[name] or 0)
      window.l[name] = nil
      if unseen > 0 and window.e > 0 then
        window.x[name] = unseen
        window.t = now
      end
    end
  end
end

-- By instance, what the holds made in the window of `key` that began at `started` come to.
local function held_in(key, started)
  local found = {}
  local rows = redis.call('HGETALL', AMOUNTS)
  for place = 1, #rows, 2 do
    local hold = decoded(rows[place + 1])
    local part = hold and type(hold.w) == 'table' and hold.w[key]
    if not hold or not redis.call('ZSCORE', HOLDS, rows[place]) then
      redis.call('HDEL', AMOUNTS, rows[place])
    elseif type(part) == 'table' and part[1] == started and type(hold.i) == 'string' and is_number(part[2]) then
      found[hold.i] = (found[hold.i] or 0) + part[2]
    end
  end
  return found
end

local function recount()
  load_all()
  for key, window in pairs(stored) do
    window.h = holds > 0 and held_in(key, window.s) or {}
  end
end

-- Takes holds away; what they held is free again.
local function drop_holds(ids)
  local unreadable = false
  for _, id in ipairs(ids) do
    if redis.call('ZREM', HOLDS, id) == 1 then
      changed = true
      holds = holds - 1
      local hold = decoded(redis.call('HGET', AMOUNTS, id))
      redis.call('HDEL', AMOUNTS, id)
      if hold and type(hold.w) == 'table' and type(hold.i) == 'string' then
        for key, part in pairs(hold.w) do
          if texts[key] == nil then
            load({key})
          end
          local window = stored[key]
          if window and type(part) == 'table' and part[1] == window.s and is_number(part[2]) then
            local left = (window.h[hold.i] or 0) - part[2]
            window.h[hold.i] = left > part[2] * 1e-9 and left or nil
          end
        end
      else
        unreadable = true
      end
    end
  end
  if unreadable then
    recount()
  elseif holds <= 0 then
    for _, window in pairs(stored) do
      window.h = {}
    end
  end
end

local function forget_later(ids)
  if #ids > 0 then
    local pairs_of = {}
    for place, id in ipairs(ids) do
      pairs_of[#pairs_of + 1] = now + ENDED_FOR
      pairs_of[#pairs_of + 1] = id
      if #pairs_of >= 1000 or place == #ids then
        redis.call('ZADD', ENDED, unpack(pairs_of))
        pairs_of = {}
      end
    end
    redis.call('ZREMRANGEBYRANK', ENDED, 0, -MOST_ENDED - 1)
    redis.call('EXPIRE', ENDED, ENDED_FOR)
  end
end

local function purge()
  if holds > 0 then
    local overdue = redis.call('ZRANGEBYSCORE', HOLDS, '-inf', now)
    if #overdue > 0 then
      drop_holds(overdue)
      forget_later(overdue)
    end
  end
end

-- -- a window as an instance tells of it: {k, s, e, p cap, c spent, h held, w want, n need, l keeps, b}

local function edge(told)
  return math.max(0, math.min(1, (told.e - told.s) / 100))
end

local function begin(key, told)
  local window = {s = told.s, e = told.e, c = {}, l = {}, x = {}, t = 0, h = {}}
  if holds > 0 then
    window.h = held_in(key, window.s)
  end
  stored[key] = window
  return window
end

-- The stored window that `told` is about, and whether it is the same one: "same", "ahead" of it for a
-- clock that is, else "rolled".
local function place(told)
  local key = told.k
  local window = stored[key]
  local past = told.e > 0 and now >= told.e
  local over = window and window.e > 0 and now >= window.e
  if not window or over or (window.e == 0 and told.e > 0) then
    if not past then
      return begin(key, told), 'same'
    elseif not window or window.e == 0 then
      return nil, 'rolled'
    end
  end
  if told.e > 0 and told.e <= window.s + edge(told) then
    return window, 'rolled'
  elseif window.e > 0 and told.s >= window.e - edge(told) then
    return window, over and 'rolled' or 'ahead'
  end
  return window, over and 'rolled' or 'same', over
end

local function rest_on(window, base)
  if base.at > now + CLOCKS_DIFFER then
    base.at = now -- else no other reading would count until then
  end
  if window.b and window.b.at >= base.at then
    return false
  end
  window.b = base
  if window.t <= base.at then
    window.x = {} -- the reading counts what they spent unseen
  end
  return true
end

-- Takes in what is told. `alive`: it was sent just now, so that nothing is unseen any longer.
local function take_in(window, told, alive)
  local before = window.c[me] or 0
  if told.c > before then
    window.c[me] = told.c
  end
  local charged = window.x[me]
  if charged then
    local left = charged - math.max(0, told.c - before)
    window.x[me] = not alive and left > 0 and left or nil
  end
  local base = base_of(told.b)
  if base and rest_on(window, base) and window.e > 0 and told.e > now then
    if math.abs(told.e - window.e) > edge(told) then
      window.e = told.e -- a source that tells the count may tell the end
    end
  end
end

-- Runs `step`; whatever has taken a key's place there is removed, for nothing would work with it.
local function guarded(step)
  local fine, reply = pcall(step)
  if not fine then
    local removed = false
    for place, key in ipairs(KEYS) do
      local kind = redis.call('TYPE', key).ok
      if kind ~= 'none' and kind ~= KINDS[place] then
        redis.call('DEL', key)
        removed = true
      end
    end
    if removed then
      fine, reply = pcall(step)
    end
  end
  if not fine and type(reply) ~= 'table' then
    reply = redis.error_reply(tostring(reply))
  end
  return reply
end

